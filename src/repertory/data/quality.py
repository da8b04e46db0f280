"""Image quality databases behind one table: image, score, reference image, distortion, strength.

    CSIQ         csiq_label.txt; dst_imgs_all/ or dst_imgs/<type>/
    TID2013      mos_with_names.txt; distorted_images/
    LIVE         dmos_realigned.mat, refnames_all.mat; jp2k/, jpeg/, wn/, gblur/, fastfading/
    LIVE-C       Data/AllMOS_release.mat, Data/AllImages_release.mat; Images/
    KonIQ-10k    koniq10k_scores_and_distributions.csv; 1024x768/
    BID          Grades/grade.xlsx (or DatabaseGrades.xlsx, or a CSV export); ImageDatabase/
    your own     one CSV with the columns image, score and perhaps reference

`read_quality` tells them apart by their files of labels. Folders of images may have any name, and names any case.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from repertory.core.problem import Problem, reason, require
from repertory.data.arrays import load_mat, read_lines
from repertory.data.images import image_files, opened_image
from repertory.data.tables import read_table, to_numbers

Better = Literal["higher", "lower"]

LAYOUT = """\
csiq_label.txt (lines: FILE SCORE), dst_imgs_all/NAME.TYPE.LEVEL.png; or LIVE, LIVE-C, KonIQ-10k, BID, TID2013
or one .csv with the columns image, score and perhaps reference"""

GRADES = ("bad", "poor", "fair", "good", "excellent")
"""Fifths of a scale, worst to best, in the words of ITU-R BT.500."""
FIRST = 5
"""Names that a warning lists."""
NO_SCORE = -1.0
"""Besides an empty cell, what stands for a missing score."""


# -- scores and their levels --------------------------------------------------------------------


@dataclass(frozen=True)
class ScoreScale:
    """Range and direction of the scores of a database, and the quality levels that they are binned into.

    Example:
        >>> SCALES["csiq"].levels([0.0, 0.25, 0.35, 1.0])  # half to even
        array([ 0,  2,  4, 10])
        >>> SCALES["csiq"].grade(0.1), SCALES["koniq"].grade(10.0)
        ('excellent', 'bad')
    """

    name: str
    """MOS, DMOS, or what the scores are called."""
    low: float
    high: float
    better: Better
    """Of two scores, which is that of the better image."""
    steps: int
    """Widths of a level between `low` and `high`."""
    rounding: Literal["round", "floor"]
    capped: bool = False
    """Scores from `high` on are of the last full level; otherwise they are out of range."""

    @property
    def classes(self) -> int:
        """Number of levels."""
        return self.steps if self.capped else self.steps + 1

    def levels(self, scores: Sequence[float] | NDArray[np.float64]) -> NDArray[np.int64]:
        """Scores (n,) -> levels (n,), from 0; `round` is half to even."""
        places = (np.asarray(scores, np.float64) - self.low) * self.steps / (self.high - self.low)
        found = np.rint(places) if self.rounding == "round" else np.floor(places)
        return found.clip(0, self.classes - 1).astype(np.int64)

    def span(self, level: int) -> tuple[float, float]:
        """Lowest and highest score of a level."""
        width = (self.high - self.low) / self.steps
        start = self.low + width * (level - 0.5 * (self.rounding == "round"))
        return max(start, self.low), min(start + width, self.high)

    def contains(self, score: float) -> bool:
        """Whether a score is in range."""
        return self.low <= score and (self.capped or score <= self.high)

    def grade(self, score: float) -> str:
        """Quality in a word."""
        share = min(1.0, max(0.0, (score - self.low) / (self.high - self.low)))
        return GRADES[min(4, int(5 * (share if self.better == "higher" else 1 - share)))]

    def best_first(self, scores: Sequence[float] | NDArray[np.float64]) -> NDArray[np.int64]:
        """Order of scores (n,) from best to worst; equal ones keep their order."""
        values = np.asarray(scores, np.float64)
        return np.argsort(-values if self.better == "higher" else values, kind="stable")

    def as_dict(self) -> dict[str, Any]:
        """For JSON; `ScoreScale(**d)` is the inverse."""
        return asdict(self)


SCALES: Mapping[str, ScoreScale] = {
    "csiq": ScoreScale("DMOS", 0.0, 1.0, "lower", 10, "round"),
    "tid2013": ScoreScale("MOS", 0.0, 9.0, "higher", 9, "floor"),
    "live": ScoreScale("DMOS", 0.0, 100.0, "lower", 10, "floor", capped=True),
    "livec": ScoreScale("MOS", 0.0, 100.0, "higher", 10, "round"),
    "koniq": ScoreScale("MOS", 0.0, 100.0, "higher", 10, "round"),
    "bid": ScoreScale("MOS", 0.0, 5.0, "higher", 10, "floor"),
}
"""Of the databases."""
RESIZED: Mapping[str, tuple[int, int]] = {"bid": (512, 512), "koniq": (512, 384)}
"""Height and width that PMT-IQA's code gives images before it crops them (its transposed KonIQ size included)."""


# -- the table ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class QualitySet:
    """Rated images, one entry each in `paths`, `scores`, `references`, `distortions` and `strengths`."""

    name: str
    """Key of `SCALES`, or "own"."""
    root: Path
    paths: tuple[Path, ...]
    scores: tuple[float, ...]
    references: tuple[str, ...]
    """Name of the undistorted image; empty: it has none."""
    distortions: tuple[str, ...]
    """Kind of distortion; empty: not known."""
    strengths: tuple[int, ...]
    """Of the distortion, from 1; 0: not known."""
    scale: ScoreScale

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def classes(self) -> int:
        """Number of quality levels."""
        return self.scale.classes

    @property
    def levels(self) -> NDArray[np.int64]:
        """Quality level of each image, (n,)."""
        return self.scale.levels(self.scores)

    def subset(self, indices: Iterable[int]) -> QualitySet:
        """Some of the images, in this order."""
        chosen = list(indices)
        columns = ("paths", "scores", "references", "distortions", "strengths")
        return replace(self, **{name: tuple(getattr(self, name)[i] for i in chosen) for name in columns})


class _Row(NamedTuple):
    """A line of a file of labels."""

    number: int
    """As an editor or a spreadsheet counts it."""
    file: str
    """Path below the root, or a name alone."""
    score: float
    reference: str = ""
    distortion: str = ""
    strength: int = 0


def read_quality(
    folder: Path, low: float | None = None, high: float | None = None, better: Better | None = None
) -> QualitySet:
    """Read a database, or a CSV of your own.

    Images without a score, and scores without an image, are left out with a warning.

    Args:
        folder: of the database, or a CSV file.
        low, high, better: range and direction of the scores of your own CSV; default: the smallest and the largest
            score, with a warning; higher. For a database they must be left out.

    Raises:
        Problem: no labels here, a damaged file of labels, a score out of range or an image listed twice (with the row),
            no image at all.
    """
    found = _labels(folder)
    if found is None:
        expected = "; ".join(LAYOUT.splitlines())
        raise Problem("no image quality database here", folder, f"expected: {expected}")
    name, path = found
    root = folder if folder.is_dir() else folder.parent
    if name == "own":
        rows = _own_rows(path)
        return _joined(name, root, path, rows, _own_scale([row.score for row in rows], path, low, high, better))
    if low is not None or high is not None or better is not None:
        scale = SCALES[name]
        what = f"{name} has a scale of its own: {scale.name} from {scale.low:g} to {scale.high:g}"
        raise Problem(what, "score_low, score_high, better", "leave them out")
    return _joined(name, root, path, READERS[name](path), SCALES[name])


def _labels(folder: Path) -> tuple[str, Path] | None:
    """Name of the format and its file of labels."""
    if folder.is_file():
        return ("own", folder) if folder.suffix.lower() == ".csv" else None
    if not folder.is_dir():
        return None
    for name, places in LABELS.items():
        for place in places:
            if (folder / place).is_file():
                return name, folder / place
    tables = sorted(path for path in folder.glob("*.csv") if not path.name.startswith("."))
    if len(tables) > 1:
        names = ", ".join(path.name for path in tables[:FIRST])
        raise Problem(f"{len(tables)} tables: {names}", folder, "give the path of the one that has the scores")
    return ("own", tables[0]) if tables else None


def _joined(name: str, root: Path, where: Path, rows: Sequence[_Row], scale: ScoreScale) -> QualitySet:
    """Labels and the image files below `root`."""
    files = image_files(root)
    places = {path.relative_to(root).as_posix().lower(): path for path in files}
    by_name: dict[str, Path] = {path.name.lower(): path for path in reversed(files)}
    kept: list[tuple[_Row, Path]] = []
    lost: list[str] = []
    unrated: list[str] = []
    seen: dict[Path, int] = {}
    rated: set[Path] = set()
    for row in rows:
        key = row.file.replace("\\", "/").lower()
        path = places.get(key) or (by_name.get(key) if "/" not in key else None)
        if path is not None:
            rated.add(path)
            if path in seen:
                what = f"{row.file!r} has a score in row {seen[path]} and in row {row.number}"
                raise Problem(what, where, "keep one of the two rows")
            seen[path] = row.number
        if math.isnan(row.score) or (row.score == NO_SCORE and not scale.contains(NO_SCORE)):
            unrated.append(row.file)
            continue
        if not scale.contains(row.score):
            what = (
                f"row {row.number}: the score {row.score:g} of {row.file!r} is not from {scale.low:g} to {scale.high:g}"
            )
            raise Problem(what, where, "correct the score, or the range of your scores (score_low, score_high)")
        if path is None:
            lost.append(row.file)
        else:
            kept.append((row, path))
    sources = {name.lower() for row in rows for name in (row.reference, Path(row.reference).stem)}
    loose = [
        place
        for place, path in places.items()
        if path not in rated and path.stem.lower() not in sources and not _is_reference_folder(path.parent)
    ]
    if not kept:
        what = f"none of {len(rows)} rated images is here" + (f" (first: {lost[0]})" if lost else "")
        raise Problem(what, root, f"put the images below this folder, beside {where.name}")
    for left, what in (
        (lost, "scores without an image"),
        (unrated, "images without a score"),
        (loose, "unrated images"),
    ):
        if left:
            warnings.warn(f"{where}: {len(left)} {what} left out: {shortened(left)}", stacklevel=3)
    columns = zip(*((p, r.score, r.reference, r.distortion, r.strength) for r, p in kept), strict=True)
    paths, scores, references, distortions, strengths = (tuple(column) for column in columns)
    return QualitySet(name, root, paths, scores, references, distortions, strengths, scale)


def _is_reference_folder(folder: Path) -> bool:
    return folder.name.lower() in {"src_imgs", "reference_images", "refimgs", "trainingimages"}


def shortened(names: Sequence[str]) -> str:
    """The first names of a list, for a warning."""
    return ", ".join(names[:FIRST]) + (", …" if len(names) > FIRST else "")


# -- formats ------------------------------------------------------------------------------------


def _lines(path: Path) -> list[tuple[int, list[str]]]:
    """Numbered lines of two words."""
    lines = [(number, line.split()) for number, line in enumerate(read_lines(path), 1) if line.strip()]
    for number, words in lines:
        if len(words) != 2:
            what = f"row {number} has {len(words)} words, not a file and a score: {' '.join(words)[:60]!r}"
            raise Problem(what, path, "correct the row")
    return lines


def _number(word: str, number: int, path: Path) -> float:
    try:
        return float(word)
    except ValueError as error:
        raise Problem(f"row {number}: {word!r} is not a score", path, "correct the row") from error


def _csiq_rows(path: Path) -> list[_Row]:
    rows = []
    for number, (file, score) in _lines(path):
        match = re.fullmatch(r"(.+)\.([^.]+)\.(\d+)\.\w+", file)
        if not match:
            raise Problem(f"row {number}: {file!r} is not called NAME.TYPE.LEVEL.png", path, "correct the row")
        reference, distortion, strength = match.groups()
        rows.append(_Row(number, file, _number(score, number, path), reference, distortion, int(strength)))
    return rows


def _tid2013_rows(path: Path) -> list[_Row]:
    rows = []
    for number, (score, file) in _lines(path):
        match = re.fullmatch(r"(i\d+)_(\d+)_(\d+)\.\w+", file, re.IGNORECASE)
        if not match:
            raise Problem(f"row {number}: {file!r} is not called iRR_TT_L.bmp", path, "correct the row")
        reference, distortion, strength = match.groups()
        rows.append(_Row(number, file, _number(score, number, path), reference.lower(), distortion, int(strength)))
    return rows


LIVE_COUNTS: Mapping[str, int] = {"jp2k": 227, "jpeg": 233, "wn": 174, "gblur": 174, "fastfading": 174}
"""Folder -> images, in the order of the scores."""


def _live_rows(path: Path) -> list[_Row]:
    scores = _matrix(path, "dmos_new").astype(np.float64)
    copies = _matrix(path, "orgs").astype(np.float64)
    references = [str(np.asarray(cell).item()) for cell in _matrix(path.with_name("refnames_all.mat"), "refnames_all")]
    places = [(kind, k) for kind, count in LIVE_COUNTS.items() for k in range(1, count + 1)]
    if not len(scores) == len(copies) == len(references) == len(places):
        what = f"{len(scores)} scores, {len(copies)} flags, {len(references)} references for {len(places)} images"
        raise Problem(what, path, "give the files of release 2")
    rows = [
        _Row(number, f"{kind}/img{k}.bmp", float(score), Path(reference).stem, kind)
        for number, ((kind, k), score, copy, reference) in enumerate(
            zip(places, scores, copies, references, strict=True), 1
        )
        if copy == 0  # the others are undistorted
    ]
    negative = [row.file for row in rows if row.score < 0]
    if negative:
        warnings.warn(f"{path}: {len(negative)} negative scores left out: {shortened(negative)}", stacklevel=2)
    return [row for row in rows if row.score >= 0]


def _livec_rows(path: Path) -> list[_Row]:
    scores = _matrix(path, "AllMOS_release").astype(np.float64)
    cells = _matrix(path.with_name("AllImages_release.mat"), "AllImages_release")
    if len(scores) != len(cells):
        raise Problem(f"{len(scores)} scores for {len(cells)} images", path, "give both files of one release")
    files = [str(np.asarray(cell).item()) for cell in cells]
    rows = [_Row(number, file, float(score)) for number, (file, score) in enumerate(zip(files, scores, strict=True), 1)]
    return rows[7:]  # the first seven were shown to train the raters


def _matrix(path: Path, name: str) -> NDArray[Any]:
    """One variable of a MATLAB file, as a row."""
    return np.asarray(load_mat(path, (name,))[name]).reshape(-1)


def _koniq_rows(path: Path) -> list[_Row]:
    table = read_table(path, ("image_name", "MOS_zscore"), dtype={"image_name": str})
    scores = to_numbers(table["MOS_zscore"], path)
    return [
        _Row(number, file, score)
        for number, (file, score) in enumerate(zip(table["image_name"], scores, strict=True), 2)
    ]


def _bid_rows(path: Path) -> list[_Row]:
    if path.suffix == ".csv":
        table = read_table(path)
    else:
        require("openpyxl", extra="quality")
        try:
            table = pd.read_excel(path)
        except Exception as error:  # openpyxl raises many kinds
            raise Problem(f"cannot read {path.name}: {reason(error)}", path, "fetch it again") from error
    if table.shape[1] < 2:
        raise Problem(f"{path.name} has {table.shape[1]} columns", path, "give number and mean grade of each image")
    table = table[table.iloc[:, 0].notna()]
    numbers, scores = to_numbers(table.iloc[:, :2], path).T
    return [
        _Row(i, f"DatabaseImage{number:04.0f}.JPG", score)
        for i, (number, score) in enumerate(zip(numbers, scores, strict=True), 2)
    ]


def _own_rows(path: Path) -> list[_Row]:
    table = read_table(path, ("image", "score"), dtype={"image": str, "reference": str})
    if table["image"].isna().any():
        number = int(np.flatnonzero(table["image"].isna())[0]) + 2
        raise Problem(f"row {number} names no image", path, "write the path of an image into each row")
    references = table["reference"].fillna("") if "reference" in table else [""] * len(table)
    columns = zip(table["image"], to_numbers(table["score"], path), references, strict=True)
    return [_Row(number, *row) for number, row in enumerate(columns, 2)]


def _own_scale(
    scores: Sequence[float], path: Path, low: float | None, high: float | None, better: Better | None
) -> ScoreScale:
    known = [score for score in scores if not math.isnan(score)]
    others = [score for score in known if score != NO_SCORE]
    if low is None and min(others, default=0.0) >= 0:
        known = others
    if not known:
        raise Problem("no image has a score", path, "write scores into the column score")
    if low is None or high is None:
        low, high = (min(known) if low is None else low), (max(known) if high is None else high)
        warnings.warn(
            f"{path}: scores are taken to range from {low:g} to {high:g}; set score_low and score_high", stacklevel=3
        )
    if not low < high:
        raise Problem(f"scores from {low:g} to {high:g} are no range", path, "set score_low below score_high")
    return ScoreScale("score", float(low), float(high), better or "higher", 10, "round")


READERS: Mapping[str, Callable[[Path], list[_Row]]] = {
    "csiq": _csiq_rows,
    "tid2013": _tid2013_rows,
    "live": _live_rows,
    "livec": _livec_rows,
    "koniq": _koniq_rows,
    "bid": _bid_rows,
}
LABELS: Mapping[str, tuple[str, ...]] = {
    "csiq": ("csiq_label.txt",),
    "tid2013": ("mos_with_names.txt",),
    "live": ("dmos_realigned.mat",),
    "livec": ("Data/AllMOS_release.mat",),
    "koniq": ("koniq10k_scores_and_distributions.csv",),
    "bid": tuple(
        f"{folder}{name}"
        for folder in ("Grades/", "")
        for name in ("grade.xlsx", "DatabaseGrades.xlsx", "grade.csv", "DatabaseGrades.csv")
    ),
}
"""Format -> where its scores are."""


# -- splits -------------------------------------------------------------------------------------


def split_quality(
    data: QualitySet,
    share: float,
    rng: np.random.Generator,
    by: Literal["auto", "reference", "image"] = "auto",
    allow_leak: bool = False,
) -> tuple[QualitySet, QualitySet]:
    """A training and a test part.

    Args:
        data: all images.
        share: of references, or images, that are tested; one at least.
        rng: draws them from their sorted list.
        by: reference: all images of one reference are in one part; auto: by reference where all images have one.
        allow_leak: split by image though there are references: distortions of one picture are in both parts.

    Raises:
        Problem: by image where there are references, by reference where there are none, too few to split.
    """
    named = [bool(reference) for reference in data.references]
    if by == "image" and any(named) and not allow_leak:
        what = f"{data.name} has references: split by image, test pictures would be known from training"
        raise Problem(what, "split_by=image", "split by reference, or force it with allow_leak=true")
    if by == "reference" and not all(named):
        what = f"{len(named) - sum(named)} of {len(named)} images have no reference"
        raise Problem(what, data.root, "name them in a column reference, or set split_by=image")
    if by == "auto" and any(named) and not all(named):
        missing = data.paths[named.index(False)].name
        what = f"some images have a reference, and {len(named) - sum(named)} have none (first: {missing})"
        raise Problem(what, data.root, "complete the column reference, or drop it")
    keys = list(data.references) if by != "image" and all(named) else [str(i) for i in range(len(data))]
    units = sorted(set(keys))
    if len(units) < 2:
        raise Problem(f"{len(units)} reference or image: nothing to split", data.root, "give two references or more")
    count = min(len(units) - 1, max(1, round(share * len(units))))
    tested = {units[i] for i in rng.permutation(len(units))[:count]}
    parts = [[i for i, key in enumerate(keys) if (key in tested) == test] for test in (False, True)]
    return data.subset(parts[0]), data.subset(parts[1])


# -- what images are like -----------------------------------------------------------------------


def image_header(path: Path) -> tuple[tuple[int, int], str]:
    """Width and height of an image, and what reading it in RGB changes, in words; from the head of the file.

    Raises:
        Problem: not an image.
    """
    with opened_image(path) as image:
        mode, size, transparent = image.mode, image.size, image.has_transparency_data
    changes = ["16 bits to 8"] if mode.startswith("I") else ["32 bits to 8"] if mode == "F" else []
    changes += ["grey to RGB"] if mode in ("1", "L", "LA", "La", "F") or mode.startswith("I") else []
    changes += [f"{mode} to RGB"] if mode in ("CMYK", "YCbCr", "LAB", "HSV") else []
    changes += ["transparency over white"] if transparent else []
    return size, ", ".join(changes)
