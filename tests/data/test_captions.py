"""Captioned clips: every layout, what is left out, and what is refused; the sample of moving shapes; GIF files."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from repertory.core.problem import Problem
from repertory.data import shapes
from repertory.data.captions import DecodedFrames, Question, read_captioned
from repertory.data.videos import GifFile, find_videos, open_video


def clip(path: Path, frames: int = 2) -> None:
    """A folder of frames."""
    path.mkdir(parents=True)
    for k in range(frames):
        Image.new("RGB", (8, 8), (60 * k, 0, 0)).save(path / f"{k:03d}.png")


def write(path: Path, rows: Any) -> None:
    path.write_text(json.dumps(rows), encoding="utf-8")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a", "b", "c", "d"):
        clip(tmp_path / "videos" / name)
    return tmp_path


# -- lists --------------------------------------------------------------------------------------


def test_lists_of_captions_and_questions(folder: Path) -> None:
    write(folder / "ret_train.json", [{"image": "a.mp4", "caption": "one"}, {"video": "b", "caption": ["two", "II"]}])
    write(folder / "ret_val.json", [{"image": ["c", "d.webm"], "caption": "both"}])
    write(folder / "qa_val.json", [{"image": "c", "question": "what ?", "answer": ["x", "y", "y"], "question_id": 0}])
    train, test = read_captioned(folder)
    assert [(c.name, c.captions) for c in train.clips] == [("a", ("one",)), ("b", ("two", "II"))]
    assert [(c.name, c.captions) for c in test.clips] == [("c", ("both",)), ("d", ("both",))]
    assert test.clips[0].questions == (Question("what ?", ("x", "y", "y")),)
    assert test.clips[0].questions[0].answer == "y"
    assert train.captions == ["one", "two", "II"]


def test_something_webvid_and_mplug(folder: Path) -> None:
    write(folder / "train.json", [{"id": "a", "label": "moving it left", "template": "moving [it] left"}])
    write(folder / "validation.json", [{"id": "b", "label": "moving it right"}])
    train, test = read_captioned(folder)
    assert (train.clips[0].captions, test.clips[0].captions) == (("moving it left",), ("moving it right",))
    for path in folder.glob("*.json"):
        path.unlink()
    clip(folder / "videos" / "page" / "7")
    (folder / "results_train.csv").write_text("videoid,contentUrl,duration,page_dir,name\n7,u,PT1S,page,a caption\n")
    (folder / "val.jsonl").write_text('{"clip_name": "c", "caption": "hello  there"}\n\n')
    train, test = read_captioned(folder)
    assert (train.clips[0].name, train.clips[0].captions) == ("page/7", ("a caption",))
    assert test.clips[0].captions == ("hello there",)


def test_without_a_split_a_fifth_is_held_out(folder: Path) -> None:
    write(folder / "captions.json", [{"image": name, "caption": name} for name in "abcd"])
    with pytest.warns(UserWarning, match="1 of 4 videos are held out"):
        train, test = read_captioned(folder)
    assert (len(train), len(test)) == (3, 1)


def test_nothing_is_dropped_in_silence(folder: Path) -> None:
    write(folder / "train.json", [{"image": "a", "caption": "one"}, {"image": "b", "caption": "  "}])
    write(folder / "test.json", [{"image": "c", "caption": "three"}])
    with pytest.warns(UserWarning, match="1 empty captions"):
        train, _ = read_captioned(folder)
    assert len(train) == 1


@pytest.mark.parametrize(
    ("rows", "complaint"),
    [
        ([{"image": "a", "caption": "x"}, {"caption": "y"}], r"train\.json:2.*|names no video"),
        (["a"], "not an object"),
        (
            [{"image": f"no{k}", "caption": "x"} for k in range(7)],
            "7 of 7 videos are missing: no0, no1, no2, no3, no4, …",
        ),
        ([{"image": "c", "caption": "x"}], "1 videos are in both parts"),
        ([{"image": "a", "caption": ""}], "no video has a caption"),
    ],
)
def test_bad_lists(folder: Path, rows: Any, complaint: str) -> None:
    write(folder / "train.json", rows)
    write(folder / "test.json", [{"image": "c", "caption": "three"}])
    with pytest.raises(Problem, match=complaint):
        read_captioned(folder)


def test_files_that_are_no_lists(folder: Path) -> None:
    with pytest.raises(Problem, match="no captions or questions here"):
        read_captioned(folder)
    (folder / "train.json").write_text("[{]")
    with pytest.raises(Problem, match="not JSON"):
        read_captioned(folder)
    (folder / "train.json").unlink()
    (folder / "train.jsonl").write_text('{"clip_name": "a", "caption": "x"}\n{"clip_name"\n')
    with pytest.raises(Problem, match=r"not understood") as caught:
        read_captioned(folder)
    assert str(caught.value.where).endswith("train.jsonl:2")


# -- MSR-VTT ------------------------------------------------------------------------------------


def msrvtt(folder: Path, **changes: Any) -> None:
    splits = {"a": "train", "b": "train", "c": "validate", "d": "test"}
    videos = [{"video_id": name, "category": 3, "split": split} for name, split in splits.items()]
    said = [{"caption": f"{name} {k}", "video_id": name, "sen_id": k} for name in splits for k in range(2)]
    write(folder / "MSRVTT_data.json", {"videos": videos, "sentences": said, **changes})


def test_msrvtt_and_its_retrieval_split(folder: Path) -> None:
    msrvtt(folder)
    (folder / "category.txt").write_text("music\t0\nsports\t3\n")
    train, test = read_captioned(folder)
    assert ([c.name for c in train.clips], [c.name for c in test.clips]) == (["a", "b"], ["d"])
    assert test.clips[0].captions == ("d 0", "d 1")
    assert test.categories == ["sports"]
    assert len(test.of("sports")) == 1
    (folder / "MSRVTT_JSFUSION_test.csv").write_text("key,vid_key,video_id,sentence\nr0,m,c,c 1\n")
    (folder / "MSRVTT_train.9k.csv").write_text("video_id\na\nd\n")
    train, test = read_captioned(folder)
    assert [c.name for c in train.clips] == ["a", "d"]
    assert [(c.name, c.captions) for c in test.clips] == [("c", ("c 1",))]


def test_questions_of_msrvtt_number_videos(folder: Path) -> None:
    clip(folder / "videos" / "all" / "video5")
    write(folder / "train_qa.json", [{"id": 0, "video_id": 5, "question": "who ?", "answer": "he", "category_id": 1}])
    msrvtt(folder)
    train, _ = read_captioned(folder)
    assert train.clips[-1].name == "video5"
    assert train.clips[-1].questions[0].answer == "he"


def test_damaged_annotations(folder: Path) -> None:
    msrvtt(folder, sentences=[{"caption": "x"}])
    with pytest.raises(Problem, match="not the annotations of MSR-VTT"):
        read_captioned(folder)


# -- the sample, GIF, memory --------------------------------------------------------------------


def test_the_sample(tmp_path: Path) -> None:
    shapes.write_shapes(tmp_path, (8, 4), (4, 2), size=16)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train, test = read_captioned(tmp_path)
    assert (len(train), len(test)) == (12, 6)
    assert test.categories == ["ordered", "static"]
    assert len(shapes.PAIRS) == 8
    assert {len(c.questions) for c in train.of("ordered").clips} == {2}
    moving = train.of("ordered").clips[0]
    assert moving.captions[0].split()[-3:][0] == moving.questions[0].answer
    frames = moving.video.frames(range(moving.video.count)).astype(int)
    assert 8 <= len(frames) <= 16
    assert frames.shape[1:] == (16, 16, 3)
    assert np.abs(frames[0] - frames[-1]).max() > 60  # something moves
    assert len(train.drawn(5, np.random.default_rng(0))) == 5


def test_gif_files_need_no_video_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(module: str, extra: str) -> None:
        raise Problem("av is not installed", module, extra)

    monkeypatch.setattr(shapes, "require", absent)
    frames = np.zeros((3, 8, 8, 3), np.uint8)
    frames[1], frames[2, :, :, 0] = 255, 255
    assert shapes.write_film(tmp_path / "film", frames) == "film.gif"
    video = open_video(tmp_path / "film.gif")
    assert isinstance(video, GifFile)
    assert video.count == 3
    np.testing.assert_array_equal(video.frames([2, 0]), frames[[2, 0]])
    assert find_videos(tmp_path) == [tmp_path / "film.gif"]
    (tmp_path / "bad.gif").write_bytes(b"GIF89a")
    with pytest.raises(Problem, match=r"cannot be read|not an image"):
        GifFile(tmp_path / "bad.gif").frames([0])


def test_small_clips_stay_decoded(folder: Path) -> None:
    video = open_video(folder / "videos" / "a")
    assert video is not None
    memory = DecodedFrames()
    np.testing.assert_array_equal(memory.frames(video, [1, 0]), video.frames([1, 0]))
    assert memory.bytes == 2 * 8 * 8 * 3
