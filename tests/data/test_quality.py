"""Image quality databases: real labels, the six formats, CSV files, levels, splits, and bad input."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from repertory.core.problem import Problem
from repertory.data.quality import (
    LIVE_COUNTS,
    SCALES,
    QualitySet,
    ScoreScale,
    image_header,
    read_quality,
    split_quality,
)


def picture(path: Path, value: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4), (value % 256,) * 3).save(path)


def read_quietly(folder: Path, **options: Any) -> QualitySet:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return read_quality(folder, **options)


def csiq(folder: Path, lines: str, place: str = "dst_imgs_all") -> Path:
    for line in filter(None, lines.splitlines()):
        picture(folder / place / line.split()[0])
    (folder / "csiq_label.txt").write_text(lines)
    return folder


# -- levels -------------------------------------------------------------------------------------


def test_levels_are_those_of_the_authors_code() -> None:
    y = np.linspace(0, 1, 101)
    assert SCALES["csiq"].levels(y).tolist() == [round(10 * float(v)) for v in y]
    y = np.linspace(0, 100, 1001)
    for name in ("livec", "koniq"):
        assert SCALES[name].levels(y).tolist() == [round(float(v) / 10) for v in y]
    y = np.append(y, 111.77)
    assert SCALES["live"].levels(y).tolist() == [9 if v >= 100 else int(abs(v) / 10) for v in y]
    y = np.linspace(0, 5, 101)
    assert SCALES["bid"].levels(y).tolist() == [int(v / 0.5 + 1e-9) for v in y]
    assert SCALES["tid2013"].levels([0, 0.99, 5.5, 8.99, 9]).tolist() == [0, 0, 5, 8, 9]
    classes = {name: scale.classes for name, scale in SCALES.items()}
    assert classes == {"csiq": 11, "tid2013": 10, "live": 10, "livec": 11, "koniq": 11, "bid": 11}


@pytest.mark.parametrize("name", SCALES)
def test_every_score_lies_in_the_span_of_its_level(name: str) -> None:
    scale = SCALES[name]
    for score in np.random.default_rng(0).uniform(scale.low, scale.high, 200):
        low, high = scale.span(int(scale.levels([score])[0]))
        assert low <= score <= high
    assert scale.span(0)[0] == scale.low
    assert scale.span(scale.classes - 1)[1] == scale.high


def test_grades_and_order_follow_the_direction() -> None:
    dmos, mos = SCALES["csiq"], SCALES["koniq"]
    assert [dmos.grade(v) for v in (-0.1, 0.3, 0.5, 1.2)] == ["excellent", "good", "fair", "bad"]
    assert [mos.grade(v) for v in (0, 30, 50, 100)] == ["bad", "poor", "fair", "excellent"]
    assert dmos.best_first([0.5, 0.1, 0.5]).tolist() == [1, 0, 2]
    assert mos.best_first([5, 1, 9]).tolist() == [2, 0, 1]
    assert ScoreScale(**dmos.as_dict()) == dmos


# -- real labels --------------------------------------------------------------------------------


@pytest.mark.realdata
def test_the_real_labels_of_csiq(tmp_path: Path, real_data: Callable[[str], Path]) -> None:
    lines = (real_data("csiq_labels") / "csiq_label.txt").read_text()
    (tmp_path / "dst_imgs").mkdir()
    for line in lines.splitlines():
        (tmp_path / "dst_imgs" / line.split()[0]).touch()  # the pictures are not to be had: empty files stand for them
    (tmp_path / "csiq_label.txt").write_text(lines)
    data = read_quality(tmp_path)
    assert (len(data), len(set(data.references)), data.classes) == (866, 30, 11)
    assert Counter(data.distortions) == {
        "AWGN": 150, "BLUR": 150, "JPEG": 150, "jpeg2000": 150, "fnoise": 150, "contrast": 116,
    }  # fmt: skip
    assert (min(data.scores), max(data.scores)) == (0, 1)
    assert data.levels.min() == 0
    assert data.levels.max() == 10
    assert data.levels.tolist() == [round(10 * score) for score in data.scores]
    first = data.paths[0].name, data.references[0], data.strengths[0], data.scores[0]
    assert first == ("1600.AWGN.1.png", "1600", 1, 0.061989)
    tested = []
    for seed in range(10):
        train, test = split_quality(data, 0.2, np.random.default_rng(seed))
        assert not set(train.references) & set(test.references)
        assert (len(set(train.references)), len(set(test.references))) == (24, 6)
        assert len(train) + len(test) == 866
        tested.append(frozenset(test.references))
    assert len(set(tested)) > 5
    again = split_quality(data, 0.2, np.random.default_rng(3))[1]
    assert frozenset(again.references) == tested[3]


# -- formats ------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["dst_imgs_all", "dst_imgs/awgn", "DST_IMGS"])
def test_csiq_folders(tmp_path: Path, place: str) -> None:
    data = read_quality(csiq(tmp_path, "a.b.AWGN.1.png 0.1\nc.AWGN.2.png 0.9\n", place))
    assert (data.name, data.references, data.strengths, data.scores) == ("csiq", ("a.b", "c"), (1, 2), (0.1, 0.9))


def test_tid2013(tmp_path: Path) -> None:
    for name in ("I01_01_1.bmp", "i01_24_5.BMP", "i25_01_1.bmp"):
        picture(tmp_path / "distorted_images" / name)
    picture(tmp_path / "reference_images" / "I01.BMP")
    (tmp_path / "mos_with_names.txt").write_text("5.51 I01_01_1.bmp\n5.5 i01_24_5.bmp\n0.2 i25_01_1.bmp\n")
    data = read_quality(tmp_path)
    assert (data.references, data.distortions, data.strengths) == (("i01", "i01", "i25"), ("01", "24", "01"), (1, 5, 1))
    assert data.levels.tolist() == [5, 5, 0]


def live(folder: Path, scores: np.ndarray, copies: np.ndarray) -> None:
    count = sum(LIVE_COUNTS.values())
    names = np.empty((1, count), object)
    names[0] = [f"ref{k % 29}.bmp" for k in range(count)]
    savemat(folder / "dmos_realigned.mat", {"dmos_new": scores[None], "orgs": copies[None].astype(np.uint8)})
    savemat(folder / "refnames_all.mat", {"refnames_all": names})


def test_live(tmp_path: Path) -> None:
    scores, copies = np.linspace(0, 112, 982), np.zeros(982)
    scores[2], copies[3] = -1.5, 1
    for name in ("jp2k/img1.bmp", "jp2k/img3.bmp", "jp2k/img4.bmp", "fastfading/img174.bmp"):
        picture(tmp_path / name)
    picture(tmp_path / "refimgs" / "ref0.bmp")
    live(tmp_path, scores, copies)
    with pytest.warns(UserWarning, match="left out") as told:
        data = read_quality(tmp_path)
    texts = " ".join(str(warning.message) for warning in told)
    assert "1 negative scores left out: jp2k/img3.bmp" in texts
    assert "978 scores without an image left out: jp2k/img2.bmp" in texts
    assert "2 unrated images left out: jp2k/img3.bmp, jp2k/img4.bmp" in texts
    assert [path.parent.name for path in data.paths] == ["jp2k", "fastfading"]
    assert (data.distortions, data.references, data.levels.tolist()) == (
        ("jp2k", "fastfading"),
        ("ref0", "ref24"),
        [0, 9],
    )


def test_livec_without_its_seven_training_images(tmp_path: Path) -> None:
    names = np.empty((10, 1), object)
    names[:, 0] = [f"t{k}.bmp" for k in range(1, 8)] + ["3.bmp", "4.bmp", "5.JPG"]
    (tmp_path / "Data").mkdir()
    savemat(tmp_path / "Data" / "AllImages_release.mat", {"AllImages_release": names})
    savemat(tmp_path / "Data" / "AllMOS_release.mat", {"AllMOS_release": np.arange(10.0)[None] * 10})
    for name in ("trainingImages/t1.bmp", "3.bmp", "4.bmp"):
        picture(tmp_path / "Images" / name)
    Image.new("RGB", (4, 4)).save(tmp_path / "Images" / "5.jpg")
    data = read_quality(tmp_path)
    assert (data.scores, set(data.references)) == ((70.0, 80.0, 90.0), {""})


def test_koniq(tmp_path: Path) -> None:
    for name in ("1.jpg", "2.jpg"):
        picture(tmp_path / "1024x768" / name)
    (tmp_path / "koniq10k_scores_and_distributions.csv").write_text(
        '"image_name","c1","MOS","MOS_zscore"\n"1.jpg",3,3.9,79.1\n"2.jpg",3,2.9,55\n'
    )
    data = read_quality(tmp_path)
    assert (data.scores, data.levels.tolist()) == ((79.1, 55.0), [8, 6])  # 5.5 -> 6, half to even


def test_bid_as_csv_and_as_a_workbook(tmp_path: Path) -> None:
    for k in (1, 12):
        picture(tmp_path / "ImageDatabase" / f"DatabaseImage{k:04d}.JPG")
    (tmp_path / "Grades").mkdir()
    table = tmp_path / "Grades" / "DatabaseGrades.csv"
    table.write_text("Image Number,Average Subjective Grade\n1,2.5\n12,5\n")
    data = read_quality(tmp_path)
    assert (data.name, data.scores, data.levels.tolist()) == ("bid", (2.5, 5.0), [5, 10])
    table.unlink()
    (tmp_path / "Grades" / "grade.xlsx").write_bytes(b"no workbook")
    with pytest.raises(Problem, match=r"package openpyxl|cannot read grade\.xlsx"):
        read_quality(tmp_path)


def test_your_own_table(tmp_path: Path) -> None:
    for name in ("in/a.png", "in/b.png", "c.png", "d.png", "e.png"):
        picture(tmp_path / name)
    table = tmp_path / "mine.csv"
    table.write_text("image,score,reference\nin/a.png,1,x\nb.png,4,x\nc.png,,y\nd.png,-1,y\n")
    with pytest.warns(UserWarning, match="left out") as told:
        data = read_quality(table, 1, 5)
    texts = " ".join(str(warning.message) for warning in told)
    assert "2 images without a score left out: c.png, d.png" in texts
    assert "1 unrated images left out: e.png" in texts
    assert (data.name, data.scores, data.references) == ("own", (1.0, 4.0), ("x", "x"))
    assert (data.scale.better, data.levels.tolist()) == ("higher", [0, 8])  # 7.5 -> 8
    with pytest.warns(UserWarning, match="taken to range from 1 to 4|left out"):
        assert read_quality(tmp_path, better="lower").scale.better == "lower"


def test_minus_one_is_a_score_where_the_range_has_it(tmp_path: Path) -> None:
    for name in "abc":
        picture(tmp_path / f"{name}.png")
    (tmp_path / "s.csv").write_text("image,score\na.png,-1\nb.png,-2\nc.png,3\n")
    assert len(read_quality(tmp_path, -3, 3)) == 3
    with pytest.warns(UserWarning, match="range from -2 to 3"):
        assert len(read_quality(tmp_path)) == 3


# -- bad input ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lines", "what"),
    [
        ("a.AWGN.1.png 0.1\nb.AWGN.1.png 1.2\n", "row 2: the score 1.2 of 'b.AWGN.1.png' is not from 0 to 1"),
        ("a.AWGN.1.png 0.1\na.AWGN.1.png 0.2\n", "'a.AWGN.1.png' has a score in row 1 and in row 2"),
        ("a.AWGN.1.png 0.1\n\nb.AWGN.1.png nought\n", "row 3: 'nought' is not a score"),
        ("a.AWGN.1.png\n", "row 1 has 1 words"),
        ("a.png 0.3\n", "row 1: 'a.png' is not called NAME.TYPE.LEVEL.png"),
    ],
)
def test_bad_rows_are_named(tmp_path: Path, lines: str, what: str) -> None:
    csiq(tmp_path, lines)
    with pytest.raises(Problem, match=what):
        read_quality(tmp_path)


def test_labels_without_images_and_images_without_labels(tmp_path: Path) -> None:
    csiq(tmp_path, "".join(f"a.AWGN.{k}.png 0.{k}\n" for k in range(1, 10)))
    for k in range(1, 8):
        (tmp_path / "dst_imgs_all" / f"a.AWGN.{k}.png").unlink()
    picture(tmp_path / "dst_imgs_all" / "a.BLUR.1.png")
    with pytest.warns(UserWarning, match="left out") as told:
        assert len(read_quality(tmp_path)) == 2
    texts = [str(warning.message) for warning in told]
    assert any(
        "7 scores without an image left out: a.AWGN.1.png," in t and t.endswith("a.AWGN.5.png, …") for t in texts
    )
    assert any("1 unrated images left out: dst_imgs_all/a.blur.1.png" in t for t in texts)
    for path in (tmp_path / "dst_imgs_all").iterdir():
        path.unlink()
    with pytest.raises(Problem, match=r"none of 9 rated images is here \(first: a.AWGN.1.png\)"):
        read_quality(tmp_path)


def test_damaged_and_incomplete_label_files(tmp_path: Path) -> None:
    (tmp_path / "csiq_label.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(Problem, match="not in UTF-8"):
        read_quality(tmp_path)
    live_folder = tmp_path / "live"
    live_folder.mkdir()
    (live_folder / "dmos_realigned.mat").write_bytes(b"no matrix")
    with pytest.raises(Problem, match="cannot be read"):
        read_quality(live_folder)
    live(live_folder, np.zeros(5), np.zeros(5))
    with pytest.raises(Problem, match="5 scores, 5 flags, 982 references for 982 images"):
        read_quality(live_folder)
    savemat(live_folder / "dmos_realigned.mat", {"dmos": np.zeros(5)})
    with pytest.raises(Problem, match="has no dmos_new"):
        read_quality(live_folder)


def test_tables_that_make_no_sense(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    table = tmp_path / "s.csv"
    for text, what in (
        ("image,mos\na.png,3\n", "no column 'score'"),
        ("image,score\na.png,good\n", "not a number"),
        ("image,score\n,3\n", "row 2 names no image"),
        ("image,score\na.png,\n", "no image has a score"),
        ("image,score\na.png,3\n", "no range"),
    ):
        table.write_text(text)
        with pytest.raises(Problem, match=what):
            read_quietly(tmp_path)
    (tmp_path / "t.csv").write_text("")
    with pytest.raises(Problem, match=r"2 tables: s\.csv, t\.csv"):
        read_quality(tmp_path)
    with pytest.raises(Problem, match="no image quality database"):
        read_quality(tmp_path / "absent")


def test_a_database_has_its_own_range(tmp_path: Path) -> None:
    with pytest.raises(Problem, match="scale of its own: DMOS from 0 to 1"):
        read_quality(csiq(tmp_path, "a.AWGN.1.png 0.1\n"), high=5)


# -- splits -------------------------------------------------------------------------------------


def test_splits_that_leak_or_cannot_be(tmp_path: Path) -> None:
    data = read_quality(csiq(tmp_path, "".join(f"{r}.AWGN.{k}.png 0.{k}\n" for r in "abc" for k in range(1, 5))))
    rng = np.random.default_rng(0)
    train, test = split_quality(data, 0.01, rng)
    assert (len(train), len(test)) == (8, 4)
    with pytest.raises(Problem, match="test pictures would be known"):
        split_quality(data, 0.5, rng, by="image")
    train, test = split_quality(data, 0.5, rng, by="image", allow_leak=True)
    assert (len(train), len(test)) == (6, 6)
    assert not set(train.paths) & set(test.paths)
    with pytest.raises(Problem, match="1 reference or image: nothing to split"):
        split_quality(data.subset(range(4)), 0.5, rng)


def test_splits_of_images_without_references(tmp_path: Path) -> None:
    for k in range(10):
        picture(tmp_path / f"{k}.png")
    rows = "".join(f"{k}.png,{k}\n" for k in range(10))
    (tmp_path / "s.csv").write_text("image,score\n" + rows)
    data, rng = read_quality(tmp_path, 0, 10), np.random.default_rng(0)
    train, test = split_quality(data, 0.3, rng)
    assert (len(train), len(test)) == (7, 3)
    with pytest.raises(Problem, match="10 of 10 images have no reference"):
        split_quality(data, 0.3, rng, by="reference")
    (tmp_path / "s.csv").write_text("image,score,reference\n0.png,1,a\n1.png,2,\n")
    some = read_quietly(tmp_path, low=0, high=10)
    with pytest.raises(Problem, match=r"1 have none \(first: 1.png\)"):
        split_quality(some, 0.3, rng)


# -- images -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "changes"),
    [
        ("RGB", ""), ("L", "grey to RGB"), ("1", "grey to RGB"), ("P", ""),
        ("LA", "grey to RGB, transparency over white"),
        ("RGBA", "transparency over white"), ("I;16", "16 bits to 8, grey to RGB"),
    ],
)  # fmt: skip
def test_what_reading_changes(tmp_path: Path, mode: str, changes: str) -> None:
    Image.new(mode, (5, 7)).save(tmp_path / "a.png")
    assert image_header(tmp_path / "a.png") == ((5, 7), changes)


def test_no_image(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"nothing")
    with pytest.raises(Problem, match="not an image"):
        image_header(tmp_path / "a.png")
