"""ScanNet v2 with the classes of ScanNet200: coloured points of rooms and a class for each.

    scans/<scene>/<scene>_vh_clean_2.ply                          points and colours
    scans/<scene>/<scene>_vh_clean_2.0.010000.segs.json           segment of each point
    scans/<scene>/<scene>_vh_clean.aggregation.json               category of groups of segments
    scannetv2-labels.combined.tsv                                 number of each category
    scannet200_ids.txt                                            the benchmark's numbers, one a line, in its order
    scannetv2_train.txt, scannetv2_val.txt                        names of scenes

In samples the classes count from 0, and points without one are `IGNORE`.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from repertory.core.problem import Problem, reason
from repertory.data.arrays import read_bytes, read_lines, read_text

IGNORE = -1
LABELS = "scannetv2-labels.combined.tsv"
IDS = "scannet200_ids.txt"
PLY, SEGMENTS, GROUPS = "_vh_clean_2.ply", "_vh_clean_2.0.010000.segs.json", "_vh_clean.aggregation.json"
LAYOUT = f"""\
scans/<scene>/<scene>{PLY}, <scene>{SEGMENTS}, <scene>{GROUPS}
{LABELS}, {IDS}, scannetv2_train.txt, scannetv2_val.txt"""

TYPES = {
    "char": "i1", "int8": "i1", "uchar": "u1", "uint8": "u1", "short": "<i2", "int16": "<i2", "ushort": "<u2",
    "uint16": "<u2", "int": "<i4", "int32": "<i4", "uint": "<u4", "uint32": "<u4", "float": "<f4", "float32": "<f4",
    "double": "<f8", "float64": "<f8",
}  # fmt: skip
"""Types of PLY's properties."""


# -- PLY ----------------------------------------------------------------------------------------


def read_ply(path: Path) -> NDArray[Any]:
    """The vertices of a binary little-endian PLY file: a structured array with its properties as fields.

    Raises:
        Problem: not such a file, a property of an unknown kind, or fewer bytes than it claims.
    """
    content = read_bytes(path)
    head, end, body = content.partition(b"end_header\n")
    lines = head.decode("ascii", "replace").split("\n")
    if not end or lines[0].strip() != "ply":
        raise Problem("not a PLY file", path, "give the mesh of the scan as its owners distribute it")
    if not any(line.split()[:2] == ["format", "binary_little_endian"] for line in lines):
        raise Problem("the PLY file is not binary little-endian", path, "convert it to that format")
    fields: list[tuple[str, str]] = []
    count, within = -1, ""
    for words in (line.split() for line in lines):
        if words[:1] == ["element"] and len(words) == 3:
            if count >= 0:
                break  # faces follow the vertices, and are not needed
            within, count = words[1], int(words[2]) if words[2].isdecimal() else -1
        elif words[:1] == ["property"] and within == "vertex":
            if len(words) != 3 or words[1] not in TYPES or words[2] in dict(fields):
                raise Problem(f"a property of an unknown kind: {' '.join(words)}", path, "give plain numbers")
            fields.append((words[2], TYPES[words[1]]))
    if within != "vertex" or count < 0 or not fields:
        raise Problem("the PLY file does not begin with vertices", path, "give the mesh of the scan")
    kind = np.dtype(fields)
    if len(body) < count * kind.itemsize:
        what = f"{len(body)} bytes for {count} vertices of {kind.itemsize}"
        raise Problem(f"the PLY file is cut short: {what}", path, "replace the file")
    return np.frombuffer(body, kind, count)


def write_ply(path: Path, xyz: NDArray[Any], rgb: NDArray[Any]) -> None:
    """Write points as ScanNet does: x, y, z in metres as float, red, green, blue, alpha as uchar; no faces.

    Args:
        path: of the file.
        xyz: (N, 3).
        rgb: (N, 3), 8 bits.
    """
    fields = [(name, "<f4") for name in "xyz"] + [(name, "u1") for name in ("red", "green", "blue", "alpha")]
    vertices = np.zeros(len(xyz), fields)
    for axis, name in enumerate("xyz"):
        vertices[name] = xyz[:, axis]
    for channel, name in enumerate(("red", "green", "blue")):
        vertices[name] = rgb[:, channel]
    vertices["alpha"] = 255
    kinds = {"<f4": "float", "u1": "uchar"}
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {len(xyz)}"]
    header += [f"property {kinds[kind]} {name}" for name, kind in fields]
    header += ["element face 0", "property list uchar int vertex_indices", "end_header", ""]
    path.write_bytes("\n".join(header).encode("ascii") + vertices.tobytes())


# -- rooms --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RoomSet(Dataset[tuple[Tensor, Tensor, Tensor]]):
    """Scans of rooms; `self[i]` is places (N, 3) in metres, colours (N, 3) from 0 to 1, and classes (N,) int64."""

    scenes: tuple[Path, ...]
    classes: tuple[str, ...]
    numbers: dict[str, int]
    """Category of a group -> class; absent: none."""
    transform: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]] | None = None

    def __len__(self) -> int:
        return len(self.scenes)

    @property
    def draws(self) -> bool:
        """Whether samples are random."""
        return self.transform is not None

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, Tensor]:
        folder = self.scenes[index]
        places, colours = read_points(folder / f"{folder.name}{PLY}")
        item = places, colours, self.labels(folder, len(places))
        return item if self.transform is None else self.transform(*item)

    def with_transform(self, transform: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]) -> RoomSet:
        """The same rooms, transformed."""
        return replace(self, transform=transform)

    def labels(self, folder: Path, count: int) -> Tensor:
        """Classes (N,) of the points of a scene.

        Raises:
            Problem: files are missing or damaged, or hold another number of points; names the file.
        """
        file = folder / f"{folder.name}{SEGMENTS}"
        segments = _json(file).get("segIndices")
        if not isinstance(segments, list) or not all(isinstance(s, int) for s in segments):
            raise Problem("no list segIndices of whole numbers", file, "replace the file")
        if len(segments) != count:
            raise Problem(f"{len(segments)} segments for {count} points", file, "take both files from one release")
        file = folder / f"{folder.name}{GROUPS}"
        classes: dict[int, int] = {}
        for group in _json(file).get("segGroups") or []:
            if not isinstance(group, dict) or not isinstance(group.get("segments"), list):
                raise Problem("a group without segments", file, "replace the file")
            classes |= dict.fromkeys(group["segments"], self.numbers.get(str(group.get("label")), IGNORE))
        found, inverse = np.unique(np.array(segments, np.int64), return_inverse=True)
        of_segments = np.array([classes.get(s, IGNORE) for s in found.tolist()], np.int64)
        return torch.from_numpy(of_segments[inverse.reshape(-1)])


def class_frequency(
    data: RoomSet, progress: Callable[[Iterable[Any], str], Iterable[Any]] | None = None
) -> dict[str, list[int]]:
    """How many rooms and how many points hold each class.

    Args:
        data: the rooms to train on.
        progress: (items, label) -> items, to show progress.

    Returns:
        "image" (rooms) and "pixel" (points): (K,) counts.
    """
    rooms, points = (np.zeros(len(data.classes), np.int64) for _ in range(2))
    for folder in progress(data.scenes, "count classes") if progress else data.scenes:
        labels = data.labels(folder, len(read_ply(folder / f"{folder.name}{PLY}"))).numpy()
        counts = np.bincount(labels[labels >= 0], minlength=len(data.classes))
        rooms += counts > 0
        points += counts
    return {"image": rooms.tolist(), "pixel": points.tolist()}


def read_points(path: Path) -> tuple[Tensor, Tensor]:
    """Places (N, 3) in metres and colours (N, 3) from 0 to 1 of a PLY file.

    Raises:
        Problem: no places or colours, no points, or places that are not finite; names the file.
    """
    vertices = read_ply(path)
    wanted = ("x", "y", "z", "red", "green", "blue")
    absent = [name for name in wanted if name not in (vertices.dtype.names or ())]
    if absent:
        raise Problem(f"the points have no {absent[0]}", path, f"give {', '.join(wanted)}")
    columns = np.stack([vertices[name].astype(np.float32) for name in wanted], 1)
    if not len(columns) or not np.isfinite(columns).all():
        raise Problem("no points, or places that are not finite", path, "replace the file")
    return torch.from_numpy(columns[:, :3].copy()), torch.from_numpy(columns[:, 3:] / np.float32(255))


def find_scans(source: Path) -> list[Path]:
    """The PLY file itself, or all of them below a folder, sorted; hidden files are left out.

    Raises:
        Problem: there are none.
    """
    if source.is_file():
        return [source]
    found = sorted(p for p in source.rglob("*.ply") if not p.name.startswith(".") and p.is_file())
    if not found:
        raise Problem("no scans here", source, "give a PLY file, or a folder that holds some")
    return found


def read_split(folder: Path, split: Literal["train", "val"], ids: Path | None = None) -> RoomSet:
    """One part of ScanNet, or of other data in its layout.

    Args:
        folder: holds scans/ and the lists.
        split: "train" or "val".
        ids: numbers of the classes; default: scannet200_ids.txt in the folder, else beside scans/.

    Raises:
        Problem: files are missing or damaged, a scene is listed twice or absent, or is in both parts.
    """
    names = {part: _names(folder / f"scannetv2_{part}.txt") for part in ("train", "val")}
    if both := sorted(set(names["train"]) & set(names["val"])):
        raise Problem(f"train and val share {len(both)} scenes (first: {both[0]})", folder, "list each scene once")
    scenes = [folder / "scans" / name for name in names[split]]
    absent = [path for path in scenes if not (path / f"{path.name}{PLY}").exists()]
    if absent:
        what = f"{len(absent)} of {len(scenes)} scenes of {split} are missing"
        raise Problem(what, absent[0], f"expected: {'; '.join(LAYOUT.splitlines())}")
    classes, numbers = _classes(folder / LABELS, ids or folder / IDS)
    return RoomSet(tuple(scenes), classes, numbers)


def _names(file: Path) -> list[str]:
    lines = [line.strip() for line in read_lines(file) if line.strip()]
    wrong = [line for line in lines if not re.fullmatch(r"[\w-]+", line)]
    if not lines or wrong or len(set(lines)) < len(lines):
        what = f"not the name of a scene: {wrong[0]!r}" if wrong else "no scenes, or one that is listed twice"
        raise Problem(what, file, "give one name a line, such as scene0000_00")
    return lines


def _classes(table: Path, ids: Path) -> tuple[tuple[str, ...], dict[str, int]]:
    """Names of the classes in the order of `ids`, and the class of each category."""
    wanted = [line.strip() for line in read_lines(ids) if line.strip()]
    if wrong := [line for line in wanted if not line.isdecimal()] or (["none"] if not wanted else []):
        raise Problem(f"not the number of a class: {wrong[0]!r}", ids, "give the benchmark's numbers, one a line")
    place = {int(number): k for k, number in enumerate(wanted)}
    if len(place) < len(wanted):
        raise Problem("a class is listed twice", ids, "give each number once")
    rows = csv.DictReader(read_lines(table), delimiter="\t")
    if not {"id", "raw_category"} <= set(rows.fieldnames or ()):
        raise Problem("no columns id and raw_category", table, "give the table of ScanNet v2")
    numbers: dict[str, int] = {}
    names = dict[int, str]()
    for row in rows:
        if (row["id"] or "").isdecimal() and int(row["id"]) in place:
            k = place[int(row["id"])]
            numbers[row["raw_category"] or ""] = k
            names.setdefault(k, row["raw_category"] or "")
    return tuple(names.get(k, wanted[k]) for k in range(len(wanted))), numbers


def _json(file: Path) -> dict[str, Any]:
    text = read_text(file)
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Problem(f"{file.name} is not JSON: {reason(error)}", file, "replace the file") from error
    if not isinstance(content, dict):
        raise Problem(f"{file.name} does not hold an object", file, "replace the file")
    return content


# -- sample -------------------------------------------------------------------------------------

Surface = tuple[int, float, Callable[[np.random.Generator, int], NDArray[np.float64]]]
"""Class, area in square metres, and what draws points on it, (n, 3)."""

THINGS: tuple[tuple[str, str, tuple[float, float, float]], ...] = (
    ("chair", "box", (0.45, 0.45, 0.85)), ("table", "box", (1.2, 0.7, 0.72)), ("cabinet", "box", (0.9, 0.4, 1.6)),
    ("sofa", "box", (1.6, 0.8, 0.75)), ("bed", "box", (1.9, 1.2, 0.5)), ("box", "box", (0.45, 0.35, 0.3)),
    ("bin", "cylinder", (0.3, 0.3, 0.45)), ("lamp", "cylinder", (0.25, 0.25, 1.5)), ("ball", "sphere", (0.4, 0.4, 0.4)),
    ("monitor", "box", (0.6, 0.12, 0.45)), ("plant", "sphere", (0.5, 0.5, 0.9)), ("stool", "cylinder", (0.4, 0.4, 0.5)),
    ("bucket", "cylinder", (0.32, 0.32, 0.32)), ("suitcase", "box", (0.5, 0.25, 0.65)),
    ("vase", "sphere", (0.25, 0.25, 0.5)), ("crate", "box", (0.5, 0.5, 0.5)),
    ("bottle", "cylinder", (0.16, 0.16, 0.35)), ("globe", "sphere", (0.3, 0.3, 0.3)),
)  # fmt: skip
"""Name, form and size in metres, most frequent first."""
SAMPLE_CLASSES = ("floor", "wall", *(name for name, _, _ in THINGS))
ROOM = (4.0, 3.0, 2.5)
NOISE = 0.005


def write_sample(folder: Path, train: int = 24, val: int = 8, points: int = 3000, seed: int = 0) -> None:
    """Rooms of 4 x 3 x 2.5 m in ScanNet's layout, 20 classes with a long tail.

    Args:
        folder: empty.
        train: rooms to train on.
        val: rooms held out.
        points: of a room, spread over its surfaces by area, with 5 mm of noise.
        seed: other seeds furnish other rooms.
    """
    rng = np.random.default_rng(seed)
    colours = np.random.default_rng(0).uniform(40, 220, (len(SAMPLE_CLASSES), 3))
    number = 0
    for split, count in (("train", train), ("val", val)):
        names = []
        for _ in range(count):
            names.append(f"scene{number:04d}_00")
            _write_room(folder / "scans" / names[-1], colours, points, rng)
            number += 1
        (folder / f"scannetv2_{split}.txt").write_text("\n".join(names) + "\n", encoding="utf-8")
    rows = ["id\traw_category", *(f"{k + 1}\t{name}" for k, name in enumerate(SAMPLE_CLASSES)), "99\tdust"]
    (folder / LABELS).write_text("\n".join(rows) + "\n", encoding="utf-8")
    ids = "".join(f"{k + 1}\n" for k in range(len(SAMPLE_CLASSES)))
    (folder / IDS).write_text(ids, encoding="utf-8")


def _write_room(folder: Path, colours: NDArray[Any], points: int, rng: np.random.Generator) -> None:
    surfaces = _surfaces(rng)
    areas = np.array([area for _, area, _ in surfaces])
    counts = rng.multinomial(points, areas / areas.sum())
    xyz = np.concatenate([draw(rng, n) for (_, _, draw), n in zip(surfaces, counts, strict=True)])
    xyz += rng.normal(0, NOISE, xyz.shape)
    classes = np.repeat([k for k, _, _ in surfaces], counts)
    segments = np.repeat(np.arange(len(surfaces)), counts)
    tints = rng.normal(0, 25, (len(surfaces), 3))[segments]
    rgb = (colours[classes] + tints + rng.normal(0, 12, xyz.shape)).clip(0, 255).astype(np.uint8)
    folder.mkdir(parents=True)
    write_ply(folder / f"{folder.name}{PLY}", xyz, rgb)
    groups = [
        {"id": i, "objectId": i, "segments": [i], "label": SAMPLE_CLASSES[k]} for i, (k, _, _) in enumerate(surfaces)
    ]
    for suffix, content in (
        (SEGMENTS, {"sceneId": folder.name, "segIndices": segments.tolist()}),
        (GROUPS, {"sceneId": folder.name, "segGroups": groups}),
    ):
        (folder / f"{folder.name}{suffix}").write_text(json.dumps(content), encoding="utf-8")


def _surfaces(rng: np.random.Generator) -> list[Surface]:
    """Floor, four walls and five to nine things on the floor, by frequency."""
    x, y, z = ROOM
    found: list[Surface] = [
        (0, x * y, _rectangle((0, 0, 0), (x, 0, 0), (0, y, 0))),
        (1, x * z, _rectangle((0, 0, 0), (x, 0, 0), (0, 0, z))),
        (1, x * z, _rectangle((0, y, 0), (x, 0, 0), (0, 0, z))),
        (1, y * z, _rectangle((0, 0, 0), (0, y, 0), (0, 0, z))),
        (1, y * z, _rectangle((x, 0, 0), (0, y, 0), (0, 0, z))),
    ]
    weights = 0.85 ** np.arange(len(THINGS))
    for k in rng.choice(len(THINGS), int(rng.integers(5, 10)), p=weights / weights.sum()):
        _, form, size = THINGS[k]
        a, b, c = np.array(size) * rng.uniform(0.85, 1.15, 3)
        if rng.uniform() < 0.5:
            a, b = b, a
        u, v = rng.uniform(0, (x - a, y - b))
        found.append((int(k) + 2, *_solid(form, (u, v, 0.0), (a, b, c))))
    return found


def _rectangle(corner: Sequence[float], one: Sequence[float], other: Sequence[float]) -> Any:
    def draw(rng: np.random.Generator, n: int) -> NDArray[np.float64]:
        s, t = rng.uniform(size=(2, n, 1))
        return np.array(corner) + s * np.array(one) + t * np.array(other)

    return draw


def _solid(form: str, corner: Sequence[float], size: Sequence[float]) -> tuple[float, Any]:
    """Area, and what draws points on the surface of a box, an upright cylinder or an ellipsoid, without its bottom."""
    a, b, c = size
    middle = np.array(corner) + np.array(size) / 2
    if form == "box":
        sides = np.array([a * c, a * c, b * c, b * c, a * b])

        def draw(rng: np.random.Generator, n: int) -> NDArray[np.float64]:
            p = rng.uniform(-0.5, 0.5, (n, 3))
            side = rng.choice(5, n, p=sides / sides.sum())
            p[side == 0, 1], p[side == 1, 1], p[side == 2, 0], p[side == 3, 0] = -0.5, 0.5, -0.5, 0.5
            p[side == 4, 2] = 0.5
            return middle + p * size

        return float(sides.sum()), draw
    around = np.pi * (a + b) / 2 * c if form == "cylinder" else np.pi * ((a + b) / 2) * c

    def draw_round(rng: np.random.Generator, n: int) -> NDArray[np.float64]:
        angle, height = rng.uniform(0, 2 * np.pi, n), rng.uniform(-0.5, 0.5, n)
        radius = 0.5 if form == "cylinder" else np.sqrt(0.25 - height**2)
        return middle + np.stack([radius * np.cos(angle), radius * np.sin(angle), height], 1) * size

    return float(around), draw_round
