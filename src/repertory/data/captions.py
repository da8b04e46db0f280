"""Clips with captions and questions, in the layouts in which video-language data sets are distributed.

    MSR-VTT     MSRVTT_data.json {"videos": [{"video_id", "split"}], "sentences": [{"caption", "video_id"}]};
                MSRVTT_JSFUSION_test.csv and MSRVTT_train.9k.csv (or .7k) choose other parts, if they are there
    lists       *train*.json, *val*.json or *test*.json: [{"image" or "video": "path.mp4", "caption": text or list}];
                with "question" and "answer" (text or list) for questions; the same as .jsonl, with "clip_name"
    SSv2        *train*.json, *validation*.json: [{"id", "label"}], videos ID.webm
    WebVid      *train*.csv, *val*.csv: videoid, page_dir, name (the caption); videos page_dir/videoid.mp4

Videos are files or folders of frames below videos/all/, videos/, frames/ or beside the lists. category.txt (name, TAB,
number) names the categories of MSR-VTT.
"""

from __future__ import annotations

import csv
import json
import warnings
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from repertory.core.problem import Problem, reason
from repertory.data.arrays import find_file, read_lines, read_text
from repertory.data.videos import GIF, SUFFIXES, Video, open_video

LAYOUT = """\
MSRVTT_data.json and videos/all/video0.mp4, …
or train.json and test.json: [{"image": "clip.mp4", "caption": "…"}], with "question" and "answer" for questions
or lists of Something-Something V2 (.json), WebVid (.csv) or mPLUG (.jsonl)"""
ROOTS = ("videos/all", "videos", "frames", "")
PARTS = {"train": ("train",), "test": ("test", "val", "validation", "validate")}
"""Words in the names of lists, and splits of MSR-VTT; of several held-out parts the first is taken."""
ENDINGS = (".mp4", ".webm", GIF, ".avi", ".mkv")
"""Of video files, where a list leaves them out; in this order."""
NAMED = 5
"""Missing videos that a message names."""
HELD_OUT = 5
"""Without a split, one video in so many is held out."""
KEYS = ("image", "video", "clip_name", "video_id", "id", "videoid")
"""Of a row, that may name its video."""
CAPTIONS = ("caption", "label", "name", "sentence")
CACHE_BYTES = 512 << 20
"""Clips are kept decoded up to this size."""
SMALL = 64
"""Frames of a clip that is kept as a whole."""


@dataclass(frozen=True)
class Question:
    """A question about a clip, and answers; the most frequent one counts."""

    text: str
    answers: tuple[str, ...]

    @property
    def answer(self) -> str:
        """The most frequent answer, of ties the first."""
        return max(dict.fromkeys(self.answers), key=self.answers.count)


@dataclass(frozen=True)
class Clip:
    """A video, with what people wrote about it."""

    name: str
    video: Video
    captions: tuple[str, ...] = ()
    questions: tuple[Question, ...] = ()
    category: str = ""


@dataclass(frozen=True)
class CaptionedSet:
    """Captioned clips."""

    clips: tuple[Clip, ...]
    where: Path = field(default=Path(), compare=False)

    def __len__(self) -> int:
        return len(self.clips)

    @property
    def captions(self) -> list[str]:
        """All captions, each once, in order."""
        return list(dict.fromkeys(caption for clip in self.clips for caption in clip.captions))

    @property
    def categories(self) -> list[str]:
        """Sorted; none where no clip has one."""
        return sorted({clip.category for clip in self.clips} - {""})

    def drawn(self, count: int, rng: np.random.Generator) -> CaptionedSet:
        """`count` clips drawn by `rng`, or all where there are fewer."""
        chosen = np.sort(rng.permutation(len(self))[:count])
        return replace(self, clips=tuple(self.clips[i] for i in chosen))

    def of(self, category: str) -> CaptionedSet:
        """The clips of one category."""
        return replace(self, clips=tuple(clip for clip in self.clips if clip.category == category))


def read_captioned(folder: Path) -> tuple[CaptionedSet, CaptionedSet]:
    """Training and held-out clips of a folder in one of the layouts.

    Raises:
        Problem: no lists, one that is not understood (names file and row), videos that are missing, a video that is in
            both parts, or no captions and questions at all.
    """
    notes: dict[str, _Notes] = {"train": {}, "test": {}}
    whole = _find_msrvtt(folder)
    if whole:
        _read_msrvtt(folder, whole, notes)
    lists = _find_lists(folder, apart_from=whole)
    for part, paths in lists.items():
        for path in paths:
            for number, row in _rows(path):
                _add(notes, part, row, f"{path}:{number}")
    if not notes["train"] and not notes["test"]:
        expected = "; ".join(line.strip() for line in LAYOUT.splitlines())
        raise Problem("no captions or questions here", folder, f"expected: {expected}")
    if not notes["train"] or not notes["test"]:
        _hold_out(notes, folder)
    both = sorted(set(notes["train"]) & set(notes["test"]))
    if both:
        raise Problem(f"{len(both)} videos are in both parts (first: {both[0]})", folder, "give each to one part only")
    return _found(folder, notes["train"]), _found(folder, notes["test"])


_Notes = dict[str, "_Note"]


@dataclass
class _Note:
    """What lists say about one video."""

    captions: list[str] = field(default_factory=list)
    questions: list[Question] = field(default_factory=list)
    category: str = ""


# -- MSR-VTT ------------------------------------------------------------------------------------


def _find_msrvtt(folder: Path) -> list[Path]:
    return sorted(
        path
        for path in folder.glob("*.json")
        if not path.name.startswith(".") and read_text(path)[:4096].lstrip().startswith("{")
    )


def _read_msrvtt(folder: Path, paths: Sequence[Path], notes: dict[str, _Notes]) -> None:
    names = _category_names(folder)
    chosen = {part: _chosen(folder, part) for part in notes}
    of: dict[str, str] = {}
    for path in paths:
        content = _json(path)
        try:
            splits = {str(row["split"]) for row in content["videos"]}
            held = next((word for word in PARTS["test"] if word in splits), "")
            for row in content["videos"]:
                name, split = str(row["video_id"]), str(row["split"])
                split = "train" if split == "train" else "test" if split == held else ""
                listed = "" if chosen.get(split) else split  # a csv names all videos of its part
                split = next((part for part, ids in chosen.items() if name in ids), listed)
                if split:
                    of[name] = split
                    category = row.get("category")
                    note = notes[split].setdefault(name, _Note())
                    note.category = "" if category is None else names.get(str(category), str(category))
            for row in content["sentences"]:
                name, caption = str(row["video_id"]), str(row["caption"])
                if name in of and chosen[of[name]].get(name, "") in ("", caption):
                    notes[of[name]][name].captions.append(caption)
        except (KeyError, TypeError, AttributeError) as error:
            remedy = 'give {"videos": [{"video_id", "split"}], "sentences": [{"caption", "video_id"}]}'
            raise Problem(f"not the annotations of MSR-VTT: {error!r}", path, remedy) from error
    for part, rows in chosen.items():  # the sentence of the retrieval split, where it is none of the listed ones
        for name, caption in rows.items():
            if caption and name in notes[part] and not notes[part][name].captions:
                notes[part][name].captions.append(caption)


def _chosen(folder: Path, part: str) -> dict[str, str]:
    """Videos that a csv chooses for a part, each with its only caption, or "" for all; {}: there is none."""
    pattern = {"train": "MSRVTT_train*.csv", "test": "MSRVTT_JSFUSION_test.csv"}[part]
    found = sorted(folder.glob(pattern))
    return {row["video_id"]: row.get("sentence") or "" for _, row in _rows(found[-1])} if found else {}


def _category_names(folder: Path) -> dict[str, str]:
    path = find_file(folder, "category.txt")
    pairs = [line.split("\t") for line in read_lines(path)] if path else []
    return {pair[1].strip(): pair[0].strip() for pair in pairs if len(pair) == 2}


# -- lists --------------------------------------------------------------------------------------


def _find_lists(folder: Path, apart_from: Collection[Path]) -> dict[str, list[Path]]:
    found: dict[str, list[Path]] = {"train": [], "test": []}
    for path in sorted(folder.iterdir()):
        if path.name.startswith((".", "MSRVTT_")) or path.suffix not in (".json", ".jsonl", ".csv"):
            continue
        if path in apart_from:
            continue
        part = next((part for part, words in PARTS.items() if any(word in path.stem for word in words)), "train")
        found[part].append(path)
    return found


def _json(path: Path) -> Any:
    try:
        return json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise Problem(f"not JSON: {reason(error)}", path, "save it again as UTF-8 JSON") from error


def _rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Number and content of each row of a list."""
    if path.suffix == ".csv":
        rows: Iterable[Any] = csv.DictReader(read_lines(path))
    elif path.suffix == ".jsonl":
        rows = (json.loads(line) for line in read_lines(path) if line.strip())
    else:
        rows = _json(path)
    number = 0
    try:
        for number, row in enumerate(rows, start=1):
            if not isinstance(row, Mapping):
                raise Problem("not an object", f"{path}:{number}", 'write {"image": "clip.mp4", "caption": "…"}')
            yield number, dict(row)
    except (csv.Error, json.JSONDecodeError) as error:
        raise Problem(f"not understood: {reason(error)}", f"{path}:{number + 1}", "correct the row") from error


def _add(notes: dict[str, _Notes], part: str, row: Mapping[str, Any], where: str) -> None:
    """Take up one row of a list; `image` may name several videos of one caption."""
    key = next((key for key in KEYS if row.get(key) not in (None, "")), "")
    if not key:
        raise Problem(f"names no video (keys: {', '.join(row)})", where, f"add one of {', '.join(KEYS)}")
    names = row[key] if isinstance(row[key], list) else [row[key]]
    if row.get("page_dir"):  # WebVid
        names = [f"{row['page_dir']}/{name}" for name in names]
    if key == "video_id" and isinstance(row[key], int):  # MSRVTT-QA
        names = [f"video{name}" for name in names]
    captions = next((row[key] for key in CAPTIONS if row.get(key)), [])
    captions = captions if isinstance(captions, list) else [captions]
    answers = row.get("answer", [])
    answers = answers if isinstance(answers, list) else [answers]
    for name in names:
        note = notes[part].setdefault(_bare(str(name)), _Note())
        note.category = str(row.get("category", note.category))
        if "question" in row:
            note.questions.append(Question(str(row["question"]), tuple(map(str, answers))))
        else:
            note.captions += [str(caption) for caption in captions]


def _bare(name: str) -> str:
    """A video's name without the suffix of a file."""
    stem, dot, suffix = name.rpartition(".")
    return stem if f"{dot}{suffix}".lower() in SUFFIXES | {GIF} else name


def _hold_out(notes: dict[str, _Notes], folder: Path) -> None:
    """Split what one part has: the names with the smallest hashes are held out."""
    whole = notes["train"] or notes["test"]
    ordered = sorted(whole, key=lambda name: sha256(name.encode()).hexdigest())
    held = set(ordered[: max(1, len(ordered) // HELD_OUT)])
    notes["train"] = {name: note for name, note in whole.items() if name not in held}
    notes["test"] = {name: whole[name] for name in held}
    warnings.warn(
        f"{folder}: one part only, so {len(held)} of {len(whole)} videos are held out, by their names; "
        "give a train and a test list to choose them yourself",
        stacklevel=3,
    )


# -- videos -------------------------------------------------------------------------------------


def _found(folder: Path, notes: _Notes) -> CaptionedSet:
    clips: list[Clip] = []
    missing: list[str] = []
    empty = 0
    for name, note in notes.items():
        captions = [" ".join(caption.split()) for caption in note.captions]
        questions = [q for q in note.questions if q.text.strip() and any(a.strip() for a in q.answers)]
        empty += captions.count("") + len(note.questions) - len(questions)
        captions = [caption for caption in captions if caption]
        if not captions and not questions:
            continue
        video = _video(folder, name)
        if video is None:
            missing.append(name)
        else:
            clips.append(Clip(name, video, tuple(captions), tuple(questions), note.category))
    if missing:
        listed = ", ".join(missing[:NAMED]) + (", …" if len(missing) > NAMED else "")
        remedy = "put the files or folders of frames into videos/all/, videos/ or frames/, or correct the lists"
        raise Problem(f"{len(missing)} of {len(notes)} videos are missing: {listed}", folder, remedy)
    if empty:
        warnings.warn(f"{folder}: {empty} empty captions or questions without answer are left out", stacklevel=3)
    if not clips:
        raise Problem("no video has a caption or a question", folder, "fill in the captions")
    return CaptionedSet(tuple(clips), folder)


def _video(folder: Path, name: str) -> Video | None:
    for root in ROOTS:
        place = folder / root / name
        for path in (place, *(place.with_name(f"{place.name}{suffix}") for suffix in ENDINGS)):
            if path.exists() and (video := open_video(path)):
                return video
    return None


class DecodedFrames:
    """Frames of clips; the whole of small ones stays decoded, up to `CACHE_BYTES`."""

    def __init__(self) -> None:
        self.kept: dict[Path, np.ndarray] = {}
        self.bytes = 0

    def frames(self, video: Video, indices: Sequence[int]) -> np.ndarray:
        """The frames of these numbers, (n, H, W, 3) uint8."""
        if video.path not in self.kept:
            if video.count > SMALL or self.bytes > CACHE_BYTES:
                return video.frames(indices)
            self.kept[video.path] = video.frames(range(video.count))
            self.bytes += self.kept[video.path].nbytes
        return self.kept[video.path][list(indices)]


DECODED = DecodedFrames()
