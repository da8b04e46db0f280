"""Videos: folders of frames in the list format of TSN and TSM, and video files.

A list names one video a line: folder, number of frames, class id from 0.

    train.txt   playing_paintball/NVeQN7sDOUQ 360 0
    val.txt
    category.txt                                        one class a line, in the order of the ids (optional)
    frames/playing_paintball/NVeQN7sDOUQ/img_00001.jpg  or without frames/; or 00001.jpg, 000001.jpg, …

`train_videofolder.txt` (Something-Something) and `hmdb51_rgb_train_split_1.txt` are lists too. Read as well: the
annotations of Something-Something V1 (csv) and V2 (json) as their owners distribute them, and videos in class folders,
`train/<class>/*.mp4` or `<class>/*.mp4`. Files are decoded by PyAV, GIFs by Pillow.
"""

from __future__ import annotations

import csv
import json
import os
import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from repertory.core.problem import Problem, reason, require
from repertory.data.arrays import file_size, find_file, read_lines, read_text
from repertory.data.images import opened_image, read_image

LAYOUT = """\
train.txt, val.txt: lists of <folder> <number of frames> <class id>; category.txt: names of the classes (optional)
frames/<folder>/img_00001.jpg, …, or <folder>/img_00001.jpg
or train/<class>/*.mp4 and val/<class>/*.mp4, or <class>/*.mp4 (a fifth of each class is held out)"""
SUFFIXES = frozenset({".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".ogv", ".wmv", ".flv", ".3gp"})
"""Of video files; other files are left out, with a warning."""
GIF = ".gif"
FRAME = re.compile(r"(.*?)(\d+)(\.(?:jpg|jpeg|png))", re.IGNORECASE)
"""Name of a frame: prefix, number, suffix."""
SHORTEST = 3
"""Frames that a training video needs; shorter ones are left out, as in the authors' code."""
CACHE_BYTES = 256 << 20
"""Frames of folders are kept decoded up to this size."""
HELD_OUT = 5
"""Of class folders without a split, one video in so many is held out."""


# -- one video ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class FrameFolder:
    """A video as a folder of images.

    Args:
        path: the folder.
        count: number of frames.
        pattern: name of a frame, a format string: "img_{:05d}.jpg".
        first: number of the first frame.
    """

    path: Path
    count: int
    pattern: str
    first: int = 1

    def name(self, index: int) -> str:
        """File name of a frame, counted from 0."""
        return self.pattern.format(index + self.first)

    def frames(self, indices: Sequence[int]) -> np.ndarray:
        """The frames of these numbers, counted from 0, in this order: (n, H, W, 3) uint8.

        Raises:
            Problem: missing, damaged, or of several sizes.
        """
        return _stacked([self._frame(self.path / self.name(index)) for index in indices], self.path)

    def _frame(self, path: Path) -> np.ndarray:
        frame = _DECODED.get(path)
        if frame is None:
            if not path.exists():
                raise self.incomplete()
            frame = np.asarray(read_image(path))
            if (len(_DECODED) + 1) * frame.nbytes <= CACHE_BYTES:
                _DECODED[path] = frame
        return frame

    def incomplete(self) -> Problem:
        """The Problem that says which frames are there."""
        found = sorted(path.name for path in self.path.iterdir() if FRAME.fullmatch(path.name))
        names = f"{found[0]} … {found[-1]}" if found else "none"
        expected = f"{self.name(0)} … {self.name(self.count - 1)}"
        return Problem(
            f"{self.count} frames are listed ({expected}), {len(found)} found ({names})",
            self.path,
            "correct the list, extract the frames again, or set image_pattern to the pattern of their names",
        )


_DECODED: dict[Path, np.ndarray] = {}


@dataclass(frozen=True)
class VideoFile:
    """A video file, decoded by PyAV from its beginning."""

    path: Path

    @cached_property
    def count(self) -> int:
        """Number of frames: packets are counted, not decoded."""
        with _opened(self.path) as container:
            count = sum(1 for packet in container.demux(video=0) if packet.size)
        if not count:
            raise Problem("the video has no frames", self.path, "replace or remove the file")
        return count

    def frames(self, indices: Sequence[int]) -> np.ndarray:
        """As `FrameFolder.frames`; the file is decoded up to the last of them."""
        wanted, found, number = set(indices), dict[int, np.ndarray](), 0
        with _opened(self.path) as container:
            container.streams.video[0].thread_type = "AUTO"
            for number, frame in enumerate(container.decode(video=0), start=1):
                if number - 1 in wanted:
                    # The display matrix of a phone held upright.
                    found[number - 1] = np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90)
                if len(found) == len(wanted):
                    break
        if len(found) < len(wanted):
            raise Problem(f"the video ends after {number} of {self.count} frames", self.path, "replace the file")
        return _stacked([found[index] for index in indices], self.path)


@dataclass(frozen=True)
class GifFile:
    """An animated GIF, decoded by Pillow: it needs no video library."""

    path: Path

    @cached_property
    def count(self) -> int:
        """Number of frames."""
        with opened_image(self.path) as image:
            return getattr(image, "n_frames", 1)

    def frames(self, indices: Sequence[int]) -> np.ndarray:
        """As `FrameFolder.frames`."""
        found = dict[int, np.ndarray]()
        with opened_image(self.path) as image:
            for index in sorted(set(indices)):
                image.seek(index)
                found[index] = np.asarray(image.convert("RGB"))
        return _stacked([found[index] for index in indices], self.path)


Video = FrameFolder | VideoFile | GifFile


class _opened:
    """A container with a video stream; errors of FFmpeg become Problems."""

    def __init__(self, path: Path) -> None:
        self.path, self.av = path, require("av", extra="video")

    def __enter__(self) -> Any:
        file_size(self.path)
        try:
            self.container = self.av.open(str(self.path))
        except self.av.error.FFmpegError as error:
            raise self._problem(error) from error
        if not self.container.streams.video:
            self.container.close()
            raise Problem("the file has no pictures, only sound or text", self.path, "give a video")
        return self.container

    def __exit__(self, _kind: Any, error: BaseException | None, _trace: Any) -> None:
        self.container.close()
        if error is not None and isinstance(error, self.av.error.FFmpegError):
            raise self._problem(error) from error

    def _problem(self, error: BaseException) -> Problem:
        return Problem(f"the video cannot be read: {reason(error)}", self.path, "replace or remove the file")


def _stacked(frames: list[np.ndarray], path: Path) -> np.ndarray:
    if len({frame.shape for frame in frames}) > 1:
        sizes = sorted({f"{frame.shape[1]}x{frame.shape[0]}" for frame in frames})
        raise Problem(f"frames of several sizes: {', '.join(sizes)}", path, "extract them again, all in one size")
    return np.stack(frames)


def open_video(path: Path, pattern: str = "") -> Video | None:
    """The video in a file or a folder of frames; None: neither.

    Args:
        path: file or folder.
        pattern: of the names of frames; empty: found from the names.
    """
    if not path.is_dir():
        suffix = path.suffix.lower()
        return GifFile(path) if suffix == GIF else VideoFile(path) if suffix in SUFFIXES else None
    named = _found_pattern(path)
    if named is None:
        return None
    found, first, count = named
    return FrameFolder(path, count, pattern or found, first)


def _found_pattern(folder: Path) -> tuple[str, int, int] | None:
    """Pattern of the names of frames in a folder, number of the first, how many; None: no frames."""
    matches = [m for path in folder.iterdir() if (m := FRAME.fullmatch(path.name)) and not path.name.startswith(".")]
    if not matches:
        return None
    lowest = min(matches, key=lambda m: (m[1], int(m[2])))
    prefix, digits, suffix = lowest.groups()
    suffixes = {m[3] for m in matches if m[1] == prefix and m[3].lower() == suffix.lower()}
    if len(suffixes) > 1:
        raise Problem(f"frames with the suffixes {' and '.join(sorted(suffixes))}", folder, "rename them: give all one")
    same = sum(1 for m in matches if m[1] == prefix and m[3] == suffix)
    return f"{_literal(prefix)}{{:0{len(digits)}d}}{_literal(suffix)}", int(digits), same


def _literal(text: str) -> str:
    return text.replace("{", "{{").replace("}", "}}")


def find_videos(source: Path) -> list[Path]:
    """Video files and folders of frames at or below a path, in order; hidden ones are skipped."""
    if not source.is_dir():
        return [source]
    found: list[Path] = []
    for path in sorted(source.iterdir()):
        if path.name.startswith("."):
            continue
        if path.is_dir():
            found += find_videos(path)
        elif path.suffix.lower() in SUFFIXES | {GIF}:
            found.append(path)
    if not found and _found_pattern(source):
        found.append(source)
    return found


# -- many ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class VideoSet:
    """Labelled videos."""

    videos: tuple[Video, ...]
    labels: tuple[int, ...]
    classes: tuple[str, ...]
    where: Path = field(default=Path(), compare=False)
    """The list or folder that names them."""

    def __len__(self) -> int:
        return len(self.videos)

    def subset(self, indices: Sequence[int]) -> VideoSet:
        """Some of the videos."""
        return replace(
            self, videos=tuple(self.videos[i] for i in indices), labels=tuple(self.labels[i] for i in indices)
        )

    def named(self, classes: Sequence[str]) -> VideoSet:
        """The same videos, with their classes numbered as in `classes`.

        Raises:
            Problem: a video is of none of `classes`.
        """
        numbers = {name: number for number, name in enumerate(classes)}
        labels: list[int] = []
        for video, label in zip(self.videos, self.labels, strict=True):
            if self.classes[label] not in numbers:
                raise Problem(
                    f"a video of the class {self.classes[label]!r}, which is none of the {len(classes)} known",
                    video.path,
                    "give videos of the known classes",
                )
            labels.append(numbers[self.classes[label]])
        return replace(self, labels=tuple(labels), classes=tuple(classes))

    def drawn(self, per_class: int, rng: np.random.Generator) -> VideoSet:
        """`per_class` videos of each class, or all where there are fewer, drawn by `rng`."""
        labels = np.array(self.labels)
        of_classes = [rng.permutation(np.flatnonzero(labels == k))[:per_class] for k in range(len(self.classes))]
        return self.subset(np.sort(np.concatenate(of_classes)).tolist())

    def long_enough(self) -> VideoSet:
        """Without folders of fewer than `SHORTEST` frames; warns of what is left out."""
        kept = [i for i, v in enumerate(self.videos) if not isinstance(v, FrameFolder) or v.count >= SHORTEST]
        if len(kept) < len(self):
            left = len(self) - len(kept)
            warnings.warn(f"{self.where}: {left} videos of fewer than {SHORTEST} frames are left out", stacklevel=2)
        return self.subset(kept)


def read_splits(folder: Path, pattern: str = "") -> tuple[VideoSet, VideoSet]:
    """Training and held-out videos of a folder in one of the layouts; the training set may be empty.

    Args:
        folder: the data set.
        pattern: of the names of frames, such as "img_{:05d}.jpg"; empty: found from the names.

    Raises:
        Problem: no videos, a line that is not understood (names file and line), folders or frames that are missing,
            a class id out of range, a video that is in both parts.
    """
    lists = {part: _find_list(folder, names) for part, names in {"train": ("train",), "val": ("val", "test")}.items()}
    if lists["train"] and not lists["val"]:
        remedy = f"add val{lists['train'].name.removeprefix('train')} beside it"
        raise Problem("a list of training videos, and none of held-out ones", lists["train"], remedy)
    if lists["val"]:
        return _read_lists(folder, lists["train"], lists["val"], pattern)
    if something := _something(folder):
        return _read_something(folder, something, pattern)
    return _read_class_folders(folder, pattern)


def _find_list(folder: Path, parts: Sequence[str]) -> Path | None:
    for part in parts:
        exact = find_file(folder, f"{part}.txt") or find_file(folder, f"{part}_videofolder.txt")
        found = [exact] if exact else sorted(folder.glob(f"*_{part}_split_1.txt"))
        if found:
            return found[0]
    return None


# -- lists --------------------------------------------------------------------------------------


def _read_lists(folder: Path, train: Path | None, val: Path, pattern: str) -> tuple[VideoSet, VideoSet]:
    root = folder / "frames" if (folder / "frames").is_dir() else folder
    parts = {path: _read_list(path) for path in (train, val) if path}
    names = _category_names(folder)
    known = len(names) or 1 + max((label for *_, label in parts[train or val]), default=-1)
    for path, entries in parts.items():
        for line, _, _, label in entries:
            if not 0 <= label < known:
                remedy = "correct the id, or add the class to category.txt" if names else "classes count from 0"
                raise Problem(f"class {label}; there are {known}, 0 to {known - 1}", f"{path}:{line}", remedy)
    if not names:
        names = _names_from_folders([e for entries in parts.values() for e in entries], known)
    sets = {path: _frame_folders(path, root, entries, tuple(names), pattern) for path, entries in parts.items()}
    empty = VideoSet((), (), tuple(names), folder)
    first, second = sets.get(train, empty) if train else empty, sets[val]
    _check_apart(first, second, folder)
    return first, second


def _read_list(path: Path) -> list[tuple[int, str, int, int]]:
    """(line, folder, frames, class) of each line that is not blank."""
    entries: list[tuple[int, str, int, int]] = []
    for number, line in enumerate(read_lines(path), start=1):
        fields = line.split()
        if not fields:
            continue
        remedy = "write <folder> <number of frames> <class id>; a folder's name has no spaces"
        if len(fields) != 3:
            raise Problem(f"{len(fields)} fields, not 3: {line.strip()[:80]!r}", f"{path}:{number}", remedy)
        try:
            frames, label = int(fields[1]), int(fields[2])
        except ValueError as error:
            raise Problem(f"not whole numbers: {' '.join(fields[1:])!r}", f"{path}:{number}", remedy) from error
        if frames < 1:
            raise Problem(f"{frames} frames", f"{path}:{number}", "remove the line, or extract the frames again")
        entries.append((number, fields[0], frames, label))
    if not entries:
        raise Problem("the list is empty", path, "write one video a line")
    return entries


def _category_names(folder: Path) -> list[str]:
    path = find_file(folder, "category.txt")
    if path is None:
        return []
    names = [line.strip() for line in read_lines(path) if line.strip()]
    twice = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
    if twice:
        raise Problem(f"two classes are called {twice[0]!r}", path, "give each class a name of its own")
    return names


def _names_from_folders(entries: list[tuple[int, str, int, int]], known: int) -> list[str]:
    """Names of the class folders where each class has one of its own, else the ids."""
    folders: list[set[str]] = [set() for _ in range(known)]
    for _, name, _, label in entries:
        folders[label].add(name.rpartition("/")[0])
    names = ["".join(found) for found in folders]
    distinct = len(set(names)) == known and all(len(found) == 1 and "" not in found for found in folders)
    return names if distinct else [str(label) for label in range(known)]


def _frame_folders(
    path: Path, root: Path, entries: list[tuple[int, str, int, int]], names: tuple[str, ...], pattern: str
) -> VideoSet:
    missing = [(line, name) for line, name, *_ in entries if not (root / name).is_dir()]
    if missing:
        listed = ", ".join(f"{name} (line {line})" for line, name in missing[:5])
        more = f", and {len(missing) - 5} more" if len(missing) > 5 else ""
        remedy = f"paths are relative to {root}; extract the frames there, or correct the list"
        raise Problem(f"{len(missing)} of {len(entries)} folders are missing: {listed}{more}", path, remedy)
    found = _found_pattern(root / entries[0][1])
    if found is None:
        raise Problem("no frames in the first folder of the list", root / entries[0][1], "extract the frames there")
    videos: list[FrameFolder] = []
    for _, name, count, _ in entries:
        # One look at the disk for each video: a list may have a quarter of a million.
        video = FrameFolder(root / name, count, pattern or found[0], found[1])
        if not (video.path / video.name(count - 1)).exists():
            raise video.incomplete()
        videos.append(video)
    return VideoSet(tuple(videos), tuple(label for *_, label in entries), names, path)


def _check_apart(train: VideoSet, val: VideoSet, where: Path) -> None:
    # realpath: Path.resolve raises on a loop of links, which is reported when the video is read.
    both = set.intersection(*({os.path.realpath(v.path) for v in part.videos} for part in (train, val)))
    if both:
        raise Problem(
            f"{len(both)} videos are in both parts (first: {min(both)})", where, "give each video to one part only"
        )


# -- Something-Something ------------------------------------------------------------------------


def _something(folder: Path) -> dict[str, Path]:
    """The annotations of Something-Something V1 or V2 in a folder: labels, train, validation."""
    for suffix in (".json", ".csv"):
        found = {part: sorted(folder.glob(f"*{part}{suffix}")) for part in ("labels", "train", "validation")}
        if all(found.values()):
            return {part: paths[0] for part, paths in found.items()}
    return {}


def _read_something(folder: Path, files: dict[str, Path], pattern: str) -> tuple[VideoSet, VideoSet]:
    """V1: lines `id;template` and a label a line; V2: objects with `id` and `template`, labels {template: index}."""
    ids: dict[str, list[tuple[str, str]]] = {}
    try:
        if files["labels"].suffix == ".json":
            labels = json.loads(read_text(files["labels"]))
            names = sorted(labels, key=lambda template: int(labels[template]))
            for part in ("train", "validation"):
                rows = json.loads(read_text(files[part]))
                ids[part] = [(str(row["id"]), re.sub(r"[\[\]]", "", row["template"])) for row in rows]
        else:
            names = sorted(line.strip() for line in read_lines(files["labels"]) if line.strip())
            for part in ("train", "validation"):
                rows = csv.reader(read_lines(files[part]), delimiter=";")
                ids[part] = [(row[0], row[1]) for row in rows if row]
    except Problem:
        raise
    except (csv.Error, RecursionError, ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        remedy = "give the files as they are distributed"
        raise Problem(f"not the annotations of Something-Something: {error!r}", folder, remedy) from error
    numbers = {name: number for number, name in enumerate(names)}
    sets: list[VideoSet] = []
    for part, rows in ids.items():
        videos: list[Video] = []
        missing: list[str] = []
        for name, template in rows:
            if template not in numbers:
                raise Problem(
                    f"video {name}: unknown template {template!r}", files[part], f"see {files['labels'].name}"
                )
            video = _video_of_id(folder, name, pattern)
            (missing.append(name) if video is None else videos.append(video))
        if missing:
            listed = ", ".join(missing[:5]) + (", …" if len(missing) > 5 else "")
            remedy = "put <id>/00001.jpg, … or <id>.webm there, or into frames/"
            raise Problem(f"{len(missing)} of {len(rows)} videos are missing: {listed}", folder, remedy)
        sets.append(VideoSet(tuple(videos), tuple(numbers[t] for _, t in rows), tuple(names), files[part]))
    train, val = sets
    _check_apart(train, val, folder)
    return train, val


def _video_of_id(folder: Path, name: str, pattern: str) -> Video | None:
    for root in (folder / "frames", folder):
        for path in (root / name, root / f"{name}.webm", root / f"{name}.mp4"):
            if path.exists() and (video := open_video(path, pattern)):
                return video
    return None


# -- class folders ------------------------------------------------------------------------------


def _read_class_folders(folder: Path, pattern: str) -> tuple[VideoSet, VideoSet]:
    held_out = next((folder / name for name in ("val", "test") if (folder / name).is_dir()), None)
    if held_out is None:
        everything = _class_folders(folder, pattern)
        first, second = _parted(everything)
        warnings.warn(
            f"{folder}: no split, so {len(second)} of {len(everything)} videos are held out, by their names; "
            "make train/ and val/ to choose them yourself",
            stacklevel=3,
        )
        return first, second
    val = _class_folders(held_out, pattern)
    if not (folder / "train").is_dir():
        return VideoSet((), (), val.classes, folder), val
    train = _class_folders(folder / "train", pattern)
    _check_apart(train, val, folder)
    return train, val.named(train.classes)


def _class_folders(folder: Path, pattern: str) -> VideoSet:
    names = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not names:
        raise Problem("no videos here", folder, f"expected: {'; '.join(LAYOUT.splitlines())}")
    videos: list[Video] = []
    labels: list[int] = []
    left: list[Path] = []
    for label, name in enumerate(names):
        for path in sorted((folder / name).iterdir()):
            if path.name.startswith("."):
                continue
            video = open_video(path, pattern)
            if video is None:
                left.append(path)
            else:
                videos.append(video)
                labels.append(label)
        if label not in labels:
            remedy = f"put video files ({', '.join(sorted(SUFFIXES))}) or folders of frames there, or remove it"
            raise Problem("a class folder without videos", folder / name, remedy)
    if left:
        warnings.warn(f"{folder}: {len(left)} files are no videos and left out, {left[0]} for one", stacklevel=4)
    return VideoSet(tuple(videos), tuple(labels), tuple(names), folder)


def _parted(data: VideoSet) -> tuple[VideoSet, VideoSet]:
    """A fifth of each class, at least one video, is held out: those whose names have the smallest hashes."""
    held: set[int] = set()
    for label, name in enumerate(data.classes):
        of_class = [i for i, other in enumerate(data.labels) if other == label]
        if len(of_class) < 2:
            raise Problem(f"one video of the class {name!r}: none is left to hold out", data.where, "add videos")
        ordered = sorted(of_class, key=lambda i: sha256(data.videos[i].path.name.encode()).hexdigest())
        held |= set(ordered[: max(1, len(ordered) // HELD_OUT)])
    indices = range(len(data))
    return data.subset([i for i in indices if i not in held]), data.subset([i for i in indices if i in held])


def write_list(path: Path, entries: Iterator[tuple[str, int, int]]) -> None:
    """Write a list of (folder, number of frames, class id)."""
    path.write_text("".join(f"{name} {frames} {label}\n" for name, frames, label in entries), encoding="utf-8")
