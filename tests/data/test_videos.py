"""Videos: lists of frame folders, Something-Something, class folders, video files, and what is wrong with them."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from repertory.core.problem import Problem
from repertory.data import motions, videos
from repertory.data.videos import FrameFolder, VideoFile, VideoSet, find_videos, open_video, read_splits

COUNTS = {"nasa_13013.mp4": (325, 180, 320), "h265_video.mp4": (10, 128, 128), "av1_video.mkv": (125, 360, 640)}


def frames(folder: Path, count: int = 4, pattern: str = "img_{:05d}.jpg", first: int = 1, size: int = 8) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        Image.new("RGB", (size, size), (40 * number, 0, 0)).save(folder / pattern.format(number + first), quality=95)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two classes, two training videos and one held-out video of each, as lists."""
    for part, names in {"train": "ab", "val": "c"}.items():
        lines: list[str] = []
        for label, kind in enumerate(("run", "walk")):
            for name in names:
                frames(tmp_path / kind / name)
                lines.append(f"{kind}/{name} 4 {label}")
        (tmp_path / f"{part}.txt").write_text("\n".join(lines) + "\n\n", encoding="utf-8")
    return tmp_path


# -- lists --------------------------------------------------------------------------------------


def test_lists(root: Path) -> None:
    train, val = read_splits(root)
    assert (train.classes, train.labels, len(val)) == (("run", "walk"), (0, 0, 1, 1), 2)
    video = train.videos[1]
    assert video.path == root / "run" / "b"
    assert video.count == 4
    found = video.frames([3, 0, 3])
    assert found.shape == (3, 8, 8, 3)
    assert found.dtype == np.uint8
    assert np.abs(found[:, 0, 0, 0].astype(int) - [120, 0, 120]).max() < 8


def test_names_come_from_category_txt_or_are_the_ids(root: Path) -> None:
    (root / "category.txt").write_text("jog\nstroll\nstand\n", encoding="utf-8")
    assert read_splits(root)[0].classes == ("jog", "stroll", "stand")
    (root / "category.txt").unlink()
    (root / "train.txt").write_text("run/a 4 0\nrun/b 4 1\n", encoding="utf-8")
    assert read_splits(root)[0].classes == ("0", "1")


@pytest.mark.parametrize("name", ["{}_videofolder.txt", "hmdb51_rgb_{}_split_1.txt"])
def test_names_of_lists(root: Path, name: str) -> None:
    for part in ("train", "val"):
        (root / f"{part}.txt").rename(root / name.format(part))
    assert [len(part) for part in read_splits(root)] == [4, 2]


def test_frames_may_lie_below_frames(root: Path) -> None:
    for kind in ("run", "walk"):
        shutil.move(root / kind, root / "frames" / kind)
    assert read_splits(root)[0].videos[0].path == root / "frames" / "run" / "a"


@pytest.mark.parametrize(("pattern", "first"), [("{:05d}.jpg", 1), ("{:06d}.jpg", 1), ("frame-{:d}.png", 0)])
def test_patterns_are_found(tmp_path: Path, pattern: str, first: int) -> None:
    frames(tmp_path / "v", 12, pattern, first)
    video = open_video(tmp_path / "v")
    assert isinstance(video, FrameFolder)
    assert (video.count, video.name(11)) == (12, pattern.format(11 + first))
    assert video.frames([11]).shape == (1, 8, 8, 3)


@pytest.mark.parametrize(
    ("line", "what", "place"),
    [
        ("run/a 4", "2 fields, not 3", "train.txt:3"),
        ("run/my video 4 0", "4 fields, not 3", "train.txt:3"),
        ("run/a four 0", "not whole numbers: 'four 0'", "train.txt:3"),
        ("run/a 0 0", "0 frames", "train.txt:3"),
        ("run/a 4 -1", "class -1", "train.txt:3"),
        ("run/x 4 0", "1 of 3 folders are missing: run/x (line 3)", "train.txt"),
        ("run/a 9 0", "9 frames are listed (img_00001.jpg … img_00009.jpg), 4 found (img_00001.jpg", "run/a"),
        ("run/c 4 0", "1 videos are in both parts", ""),
    ],
)
def test_bad_lines(root: Path, line: str, what: str, place: str) -> None:
    (root / "train.txt").write_text(f"run/a 4 0\nwalk/a 4 1\n{line}\n", encoding="utf-8")
    with pytest.raises(Problem) as caught:
        read_splits(root)
    assert what in caught.value.what
    assert caught.value.where.endswith(place)


def test_a_class_that_is_not_there(root: Path) -> None:
    (root / "val.txt").write_text("run/c 4 2\n", encoding="utf-8")
    with pytest.raises(Problem, match=r"class 2; there are 2, 0 to 1"):
        read_splits(root)


def test_a_pattern_that_does_not_fit_names_what_was_found(root: Path) -> None:
    with pytest.raises(Problem) as caught:
        read_splits(root, "{:05d}.jpg")
    assert "(00001.jpg … 00004.jpg), 4 found (img_00001.jpg … img_00004.jpg)" in caught.value.what


def test_a_list_alone(root: Path) -> None:
    (root / "val.txt").unlink()
    with pytest.raises(Problem, match="none of held-out ones") as caught:
        read_splits(root)
    assert caught.value.remedy == "add val.txt beside it"


def test_lists_that_say_nothing(root: Path) -> None:
    (root / "train.txt").write_text("\n", encoding="utf-8")
    with pytest.raises(Problem, match="the list is empty"):
        read_splits(root)
    (root / "train.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(Problem, match="not in UTF-8"):
        read_splits(root)


def test_frames_that_vanish_or_differ_in_size(root: Path) -> None:
    train, _ = read_splits(root)
    (root / "run" / "a" / "img_00002.jpg").unlink()
    with pytest.raises(Problem, match=r"4 frames are listed .* 3 found"):
        train.videos[0].frames([0, 1])
    frames(root / "run" / "b", 1, size=9)
    with pytest.raises(Problem, match="frames of several sizes: 8x8, 9x9"):
        train.videos[1].frames([0, 1])


def test_short_videos_are_left_out_of_training_with_a_warning(root: Path) -> None:
    (root / "train.txt").write_text("run/a 2 0\nrun/b 4 0\nwalk/a 3 1\n", encoding="utf-8")
    train, _ = read_splits(root)
    with pytest.warns(UserWarning, match="1 videos of fewer than 3 frames"):
        assert len(train.long_enough()) == 2


# -- Something-Something ------------------------------------------------------------------------


def test_something_something_v1(tmp_path: Path) -> None:
    for name in ("1", "2", "3"):
        frames(tmp_path / name, pattern="{:05d}.jpg")
    start = "something-something-v1-"
    (tmp_path / f"{start}labels.csv").write_text("Turning something\nPushing something\n", encoding="utf-8")
    (tmp_path / f"{start}train.csv").write_text("1;Turning something\n2;Pushing something\n", encoding="utf-8")
    (tmp_path / f"{start}validation.csv").write_text("3;Turning something\n", encoding="utf-8")
    train, val = read_splits(tmp_path)
    assert (train.classes, train.labels, val.labels) == (("Pushing something", "Turning something"), (1, 0), (1,))
    shutil.rmtree(tmp_path / "2")
    with pytest.raises(Problem, match="1 of 2 videos are missing: 2"):
        read_splits(tmp_path)


def test_something_something_v2(tmp_path: Path) -> None:
    for name in ("7", "8"):
        frames(tmp_path / "frames" / name, pattern="{:06d}.jpg")
    labels = {"Turning something": "1", "Pushing something with something": "0"}
    rows = {
        "train": [{"id": "7", "label": "pushing a cup with a pen", "template": "Pushing [something] with [something]"}],
        "validation": [{"id": "8", "label": "turning a cup", "template": "Turning [something]"}],
    }
    (tmp_path / "labels.json").write_text(json.dumps(labels), encoding="utf-8")
    for part, content in rows.items():
        (tmp_path / f"{part}.json").write_text(json.dumps(content), encoding="utf-8")
    train, val = read_splits(tmp_path)
    assert (train.classes[0], train.labels, val.labels) == ("Pushing something with something", (0,), (1,))
    (tmp_path / "train.json").write_text("[{}]", encoding="utf-8")
    with pytest.raises(Problem, match="not the annotations"):
        read_splits(tmp_path)


# -- class folders ------------------------------------------------------------------------------


def test_class_folders_without_a_split(tmp_path: Path) -> None:
    for kind in ("run", "walk"):
        for k in range(6):
            frames(tmp_path / kind / f"v{k}", 3)
    (tmp_path / "run" / "notes.txt").write_text("x", encoding="utf-8")
    with pytest.warns(UserWarning, match="2 of 12 videos are held out"):
        train, val = read_splits(tmp_path)
    assert (len(train), len(val), set(val.labels)) == (10, 2, {0, 1})
    with pytest.warns(UserWarning, match="1 files are no videos and left out"):
        assert read_splits(tmp_path)[1] == val


def test_class_folders_with_a_split(tmp_path: Path) -> None:
    for part, kinds in {"train": ("a", "b"), "test": ("b",)}.items():
        for kind in kinds:
            frames(tmp_path / part / kind / f"{part}-v", 3)
    train, val = read_splits(tmp_path)
    assert (train.classes, val.labels) == (("a", "b"), (1,))
    (tmp_path / "train" / "c").mkdir()
    with pytest.raises(Problem, match="a class folder without videos"):
        read_splits(tmp_path)


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(Problem, match="no videos here"):
        read_splits(tmp_path)
    (tmp_path / "one").mkdir()
    frames(tmp_path / "one" / "v", 3)
    with pytest.raises(Problem, match="none is left to hold out"):
        read_splits(tmp_path)


def test_classes_by_name_and_draws(root: Path) -> None:
    train, val = read_splits(root)
    assert val.named(("walk", "sit", "run")).labels == (2, 0)
    with pytest.raises(Problem, match="of the class 'walk'"):
        val.named(("run",))
    drawn = train.drawn(1, np.random.default_rng(0))
    assert drawn.labels == (0, 1)
    assert isinstance(drawn, VideoSet)


# -- files --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", COUNTS)
def test_real_files_are_decoded(name: str, real_data: Callable[[str], Path]) -> None:
    pytest.importorskip("av")
    video = VideoFile(real_data("video_clip") / name)
    count, height, width = COUNTS[name]
    assert video.count == count
    last = min(count - 1, 30)
    found = video.frames([last, 0, last])
    assert found.shape == (3, height, width, 3)
    assert np.array_equal(found[0], found[2])
    assert not np.array_equal(found[0], found[1])


def write_film(path: Path, audio: bool = False) -> None:
    av = pytest.importorskip("av")
    with av.open(str(path), "w") as container:
        if audio:
            stream = container.add_stream("pcm_s16le", rate=8000)
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), layout="mono")
            frame.rate = 8000
            container.mux(stream.encode(frame))
        else:
            stream = container.add_stream("mpeg4", rate=10)
            stream.width, stream.height, stream.pix_fmt = 32, 16, "yuv420p"
            for k in range(12):
                frame = av.VideoFrame.from_ndarray(np.full((16, 32, 3), 20 * k, np.uint8), format="rgb24")
                container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def test_bad_files(tmp_path: Path) -> None:
    write_film(tmp_path / "film.mp4")
    video = VideoFile(tmp_path / "film.mp4")
    assert video.count == 12
    assert np.abs(video.frames([10])[0].astype(int) - 200).max() < 12
    with pytest.raises(Problem, match="ends after 12 of 12 frames"):
        video.frames([12])
    (tmp_path / "noise.mp4").write_bytes(b"no video")
    with pytest.raises(Problem, match="the video cannot be read"):
        VideoFile(tmp_path / "noise.mp4").frames([0])
    with pytest.raises(Problem, match="is missing"):
        VideoFile(tmp_path / "gone.mp4").frames([0])
    write_film(tmp_path / "sound.mkv", audio=True)
    with pytest.raises(Problem, match="no pictures"):
        _ = VideoFile(tmp_path / "sound.mkv").count


def test_without_pyav_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "film.mp4").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(Problem) as caught:
        VideoFile(tmp_path / "film.mp4").frames([0])
    assert caught.value.remedy == "pip install 'repertory[video]'"


def test_videos_below_a_folder(tmp_path: Path) -> None:
    frames(tmp_path / "a" / "deep", 3)
    frames(tmp_path / ".hidden", 3)
    (tmp_path / "film.MP4").write_bytes(b"")
    (tmp_path / "train.txt").write_text("x", encoding="utf-8")
    assert find_videos(tmp_path) == [tmp_path / "a" / "deep", tmp_path / "film.MP4"]
    assert find_videos(tmp_path / "a" / "deep") == [tmp_path / "a" / "deep"]
    assert open_video(tmp_path / "train.txt") is None


# -- the sample ---------------------------------------------------------------------------------


def test_the_sample(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        motions.write_motions(tmp_path / name, train=1, val=1, motions=8)
    train, val = read_splits(tmp_path / "one")
    assert train.classes == (*motions.MOTIONS, *motions.TEXTURES)
    assert (len(train), len(val)) == (12, 12)
    assert all(motions.FRAMES[0] <= video.count <= motions.FRAMES[1] for video in train.videos)
    again = read_splits(tmp_path / "two")[0]
    for video, other in zip(train.videos, again.videos, strict=True):
        assert np.array_equal(video.frames([0, 5]), other.frames([0, 5]))


def test_pairs_of_the_sample_differ_in_order_alone() -> None:
    pairs = list(motions.MOTIONS.values())
    for one, other in zip(pairs[::2], pairs[1::2], strict=True):
        for u in (-1.0, -0.3, 0.0, 0.8):
            assert one(u, 0.7) == pytest.approx(other(-u, 0.7))


def test_the_hashes_of_held_out_videos_do_not_depend_on_the_folder(tmp_path: Path) -> None:
    sets = []
    for place in ("x", "y"):
        for k in range(5):
            frames(tmp_path / place / "only" / f"v{k}", 3)
        found = videos._class_folders(tmp_path / place, "")
        sets.append([video.path.name for video in videos._parted(found)[1].videos])
    assert sets[0] == sets[1]
