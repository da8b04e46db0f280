"""Few-shot instance segmentation in COCO's format: base classes with all annotations, novel ones with K each.

    annotations/instances_{train,val}*.json               or cocosplit/datasplit/{trainvalno5k,5k}.json
    images/*.jpg                                          or {train,val}{,2014,2017}/*.jpg
    novel_classes.txt                                     names, one a line; with COCO's 80 classes not needed
    cocosplit/seed{S}/full_box_{K}shot_{class}_trainval.json     K instances of a class; drawn where there are none

The split of COCO is the usual one: 60 base classes, and the 20 of PASCAL VOC are novel. Images of the base training set
keep the objects of novel classes, without annotation.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repertory.core.files import write_json
from repertory.core.problem import Problem, suggest
from repertory.data import coco
from repertory.data.arrays import read_lines
from repertory.data.coco import CocoSet

LAYOUT = """\
annotations/instances_{train,val}*.json, or cocosplit/datasplit/{trainvalno5k,5k}.json
images/*.jpg, or {train,val}{,2014,2017}/*.jpg
novel_classes.txt, unless the classes are COCO's
cocosplit/seed{S}/full_box_{K}shot_{class}_trainval.json, or none: shots are drawn"""
COCO_NOVEL = (
    "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "boat", "bird", "cat", "dog", "horse",
    "sheep", "cow", "bottle", "chair", "couch", "potted plant", "dining table", "tv",
)  # fmt: skip
IMAGE_FOLDERS = ("", "images", "train2014", "val2014", "train2017", "val2017", "train", "val")
NOVEL_FILE = "novel_classes.txt"
TRIES = 20
"""Orders of images in which shots are sought: an unlucky one has no images for exactly K."""
NAMED = 5
"""Missing images that an error names."""


@dataclass(frozen=True)
class FewShotData:
    """Base training images, held-out images, and the K shots."""

    train: CocoSet
    """Objects of base classes alone"""
    test: CocoSet
    """Objects of all classes"""
    shots: CocoSet
    """K objects of each class that has shots: all novel ones, and base ones"""
    base: tuple[str, ...]
    novel: tuple[str, ...]
    count: int
    """K"""


def shot_file(folder: Path, seed: int, count: int, name: str) -> Path:
    """Where the K shots of a class are kept; those of seed 0 may lie in cocosplit/ itself."""
    file = f"full_box_{count}shot_{name}_trainval.json"
    path, plain = folder / "cocosplit" / f"seed{seed}" / file, folder / "cocosplit" / file
    return plain if seed == 0 and not path.exists() and plain.exists() else path


def read_few_shot(
    folder: Path,
    count: int,
    seed: int,
    rng: np.random.Generator,
    *,
    novel: Sequence[str] = (),
    base_json: str = "",
    shots_json: str = "",
    boxes_as_masks: bool = False,
) -> FewShotData:
    """Read base images, held-out images and shots.

    Args:
        folder: see the layout above.
        count: K.
        seed: number of the files with shots, modulo those that are there.
        rng: draws shots of classes without a file.
        novel: names of the novel classes; empty: by the folder.
        base_json: annotations of the base classes, in place of those of the layout; a path in the folder, or any.
        shots_json: annotations of the shots, of all novel classes and perhaps of base ones, in place of files a class.
        boxes_as_masks: see `repertory.data.coco.read`.

    Raises:
        Problem: files are missing; a class has fewer than K instances; novel classes are unknown, or annotated in
            `base_json` too; images are missing, or both in training and held out.
    """
    train_file, test_file = splits(folder, base_json)
    train = read_file(folder, train_file, boxes_as_masks)
    test = read_file(folder, test_file, boxes_as_masks) if test_file else None
    given = read_file(folder, _path(folder, shots_json), boxes_as_masks) if shots_json else None
    names = _novel(folder, novel, train, given)
    available = _counts(train)
    if base_json and (both := [name for name in names if name in available]):
        raise Problem(f"class {both[0]!r} is novel and has annotations in the base file too", train_file, "remove one")
    if test is None:
        train, test = _held_out(train, rng)
        available = _counts(train)
    _check_apart(train, test, folder)
    base = tuple(name for name in train.classes if name not in names)
    if given is not None:
        shots = _checked(given, count, names, shots_json)
        with_shots = _counts(shots)
        drawn = [name for name in base if name not in with_shots]
    else:
        shots, drawn = _from_files(folder, count, seed, train.classes, boxes_as_masks)
        if missing := [name for name in names if name in drawn and name not in available]:
            path = shot_file(folder, seed, count, missing[0])
            raise Problem(f"no shots of the novel class {missing[0]!r}", path, "add the file, or annotate the class")
    chosen = np.zeros(len(train.objects.labels), bool)
    for name in drawn:
        if name in names or available[name] >= count:  # a rare base class has no shots
            chosen[draw_shots(train, name, (count,), rng)[count]] = True
    shots = _joined(shots, train.only(chosen).with_objects())
    kept = np.isin(train.objects.labels, [train.classes.index(name) + 1 for name in base])
    return FewShotData(train.only(kept), test, shots, base, names, count)


def splits(folder: Path, base_json: str = "") -> tuple[Path, Path | None]:
    """Annotations to train on, and held-out ones; None: a part of the former is held out.

    Raises:
        Problem: none there, or several; names the layout.
    """
    official = folder / "cocosplit" / "datasplit"
    if base_json:
        held_out = sorted((folder / "annotations").glob("instances_val*.json"))
        return _path(folder, base_json), held_out[0] if held_out else None
    if (official / "trainvalno5k.json").is_file():
        return official / "trainvalno5k.json", official / "5k.json"
    found = [sorted((folder / "annotations").glob(f"instances_{part}*.json")) for part in ("train", "val")]
    for part, files in zip(("train", "val"), found, strict=True):
        if len(files) != 1:
            what = f"{len(files)} files annotations/instances_{part}*.json"
            raise Problem(what, folder, f"expected: {'; '.join(LAYOUT.splitlines())}")
    return found[0][0], found[1][0]


def _path(folder: Path, name: str) -> Path:
    return folder / name if (folder / name).exists() else Path(name)


def read_file(folder: Path, file: Path, boxes_as_masks: bool = False) -> CocoSet:
    """One file of annotations, its images found in the folder's usual parts."""
    return _located(coco.read(file, folder, True, boxes_as_masks), folder, file)


def _located(data: CocoSet, folder: Path, file: Path) -> CocoSet:
    """The same images, their files found in the folder's usual parts.

    Raises:
        Problem: images are nowhere; names the first five.
    """
    parts = [part for part in IMAGE_FOLDERS if (folder / part).is_dir()]
    listed = {part: {path.name for path in (folder / part).iterdir()} for part in parts}
    infos, missing = [], []
    for info in data.images:
        plain = "/" not in info.file_name
        place = next((part for part in parts if info.file_name in listed[part]), None) if plain else None
        if place is None and not any((folder / part / info.file_name).is_file() for part in parts):
            missing.append(info.file_name)
        elif place is None:
            place = next(part for part in parts if (folder / part / info.file_name).is_file())
        infos.append(info._replace(file_name=f"{place}/{info.file_name}" if place else info.file_name))
    if missing:
        named = ", ".join(missing[:NAMED])
        raise Problem(f"{len(missing)} images are missing (first: {named})", file, f"put them into {folder / 'images'}")
    return replace(data, images=tuple(infos))


def _counts(data: CocoSet) -> Counter[str]:
    """Objects of each class, without crowds."""
    labels = data.objects.labels[~data.objects.crowd]
    return Counter(data.classes[label - 1] for label in labels.tolist())


def _novel(folder: Path, novel: Sequence[str], train: CocoSet, given: CocoSet | None) -> tuple[str, ...]:
    """Names of the novel classes."""
    path = folder / NOVEL_FILE
    if novel:
        names, where = list(novel), "novel"
    elif path.is_file():
        names, where = [line.strip() for line in read_lines(path) if line.strip()], str(path)
    elif set(COCO_NOVEL) <= set(train.classes):
        return COCO_NOVEL
    elif given is not None:
        names, where = [name for name in given.classes if _counts(given)[name]], "shots"
    else:
        raise Problem("which classes are novel?", folder, f"list them in {NOVEL_FILE}, or set novel")
    known = {*train.classes, *(given.classes if given is not None else ())}
    for name in names:
        if name not in known:
            what = f"the novel class {name!r} is no category{suggest(name, known)}"
            raise Problem(what, where, f"choose from {', '.join(sorted(known))}")
    if not names or not known - set(names):
        raise Problem("novel classes alone, or none", where, "leave one class or more on either side")
    return tuple(dict.fromkeys(names))


def _held_out(data: CocoSet, rng: np.random.Generator) -> tuple[CocoSet, CocoSet]:
    """A fifth of the images, at random, is held out."""
    if len(data) < 2:
        raise Problem(f"{len(data)} images cannot be split", data.root, "add images, or annotations/instances_val.json")
    order = rng.permutation(len(data)).tolist()
    cut = max(1, len(data) // 5)
    return data.subset(sorted(order[cut:])), data.subset(sorted(order[:cut]))


def _check_apart(train: CocoSet, test: CocoSet, folder: Path) -> None:
    both = {info.file_name for info in train.images} & {info.file_name for info in test.images}
    if both:
        what = f"{len(both)} images are both in training and held out (first: {min(both)})"
        raise Problem(what, folder, "give each image to one of them only")


# -- shots --------------------------------------------------------------------------------------


def _checked(data: CocoSet, count: int, names: Collection[str], where: object) -> CocoSet:
    """Exactly K objects of each class that must have shots.

    Raises:
        Problem: a class has fewer; names it and the numbers.
    """
    data = data.only(~data.objects.crowd)
    found = _counts(data)
    for name in names:
        if found[name] < count:
            what = f"class {name!r} has {found[name]} instances, fewer than the {count} shots"
            raise Problem(what, where, "add instances, or set shots")
    for label, name in enumerate(data.classes, 1):  # the first K, where there are more
        extra = np.flatnonzero(data.objects.labels == label)[count:] if found[name] > count else []
        if len(extra):
            kept = np.ones(len(data.objects.labels), bool)
            kept[extra] = False
            data = data.only(kept)
    return data.with_objects()


def _from_files(
    folder: Path, count: int, seed: int, classes: Sequence[str], boxes_as_masks: bool
) -> tuple[CocoSet | None, list[str]]:
    """Shots of the classes that have a file, and the names of those that have none."""
    seeds = sorted(
        int(path.name.removeprefix("seed"))
        for path in (folder / "cocosplit").glob("seed*")
        if path.name.removeprefix("seed").isdecimal()
    )
    number = seeds[seed % len(seeds)] if seeds else 0
    shots, absent = None, []
    for name in classes:
        path = shot_file(folder, number, count, name)
        if not path.is_file():
            absent.append(name)
            continue
        data = _checked(read_file(folder, path, boxes_as_masks), count, (name,), path)
        if others := sorted({*_counts(data)} - {name}):
            raise Problem(f"annotations of {others[0]!r} among the shots of {name!r}", path, "one class a file")
        shots = _joined(shots, data)
    return shots, absent


def draw_shots(
    data: CocoSet, name: str, counts: Sequence[int], rng: np.random.Generator
) -> dict[int, NDArray[np.int64]]:
    """Numbers of the objects that are the K shots of a class, for each K; larger K extend smaller ones.

    Images with the class are drawn until they hold exactly K of its objects, crowds aside; one that overshoots is
    skipped.

    Raises:
        Problem: the class has too few objects, or images that hold too many each.
    """
    label = data.classes.index(name) + 1
    wanted = (data.objects.labels == label) & ~data.objects.crowd
    groups = [np.flatnonzero(wanted[info.objects]) + info.objects.start for info in data.images]
    groups = [group for group in groups if len(group)]
    for _ in range(TRIES):
        found = _drawn([groups[k] for k in rng.permutation(len(groups))], sorted(counts))
        if found is not None:
            return found
    what = f"class {name!r} has {int(wanted.sum())} instances: no images hold exactly {max(counts)} of them"
    raise Problem(what, data.root, "add images, or set shots")


def _drawn(groups: Sequence[NDArray[np.int64]], counts: Sequence[int]) -> dict[int, NDArray[np.int64]] | None:
    """The first groups that add up to each of the ascending counts; None if this order of groups does not."""
    chosen: list[int] = []
    found = {}
    for count in counts:
        left = []
        for group in groups:
            if len(chosen) + len(group) <= count:
                chosen += group.tolist()
            else:
                left.append(group)
        groups = left
        if len(chosen) < count:
            return None
        found[count] = np.array(sorted(chosen), np.int64)
    return found


def _joined(one: CocoSet | None, other: CocoSet) -> CocoSet:
    """Images and objects of two sets; what both say of an image is put together.

    Raises:
        Problem: their categories differ.
    """
    if one is None:
        return other
    if set(one.classes) != set(other.classes):
        what = f"categories differ: {', '.join(sorted(set(one.classes) ^ set(other.classes))[:NAMED])}"
        raise Problem(what, other.root, "list all classes in each file")
    by_name: dict[str, list[dict[str, Any]]] = {}
    about: dict[str, dict[str, Any]] = {}
    for data in (one, other):
        o = data.objects
        for info in data.images:
            about.setdefault(info.file_name, {"height": info.height, "width": info.width})
            rows = by_name.setdefault(info.file_name, [])
            for k in range(info.objects.start, info.objects.stop):
                row = {
                    "category_id": one.category_ids[one.classes.index(data.classes[o.labels[k] - 1])],
                    "bbox": o.boxes[k].tolist(), "area": float(o.area[k]), "iscrowd": int(o.crowd[k]),
                    "segmentation": o.segmentations[k],
                }  # fmt: skip
                if row not in rows:
                    rows.append(row)
    numbers = {name: number for number, name in enumerate(by_name, 1)}
    content = {
        "images": [{"id": numbers[name], "file_name": name, **about[name]} for name in by_name],
        "annotations": [
            {**row, "id": 0, "image_id": numbers[name]} for name, rows in by_name.items() for row in rows
        ],
        "categories": [{"id": k, "name": name} for k, name in zip(one.category_ids, one.classes, strict=True)],
    }  # fmt: skip
    return coco.from_content(content, one.root, one.root, masks=True)


def write_shots(
    folder: Path, content: Mapping[str, Any], data: CocoSet, seeds: Sequence[int], counts: Sequence[int]
) -> None:
    """Draw shots of every class, and write them as files.

    Args:
        folder: gets cocosplit/.
        content: the annotations that `data` was read from, in the order of its objects.
        data: to draw from.
        seeds: numbers of the draws.
        counts: K.
    """
    for seed in seeds:
        for place, name in enumerate(data.classes):
            rng = np.random.default_rng([seed, place])
            for count, numbers in draw_shots(data, name, counts, rng).items():
                rows = [content["annotations"][k] for k in numbers]
                used = {row["image_id"] for row in rows}
                path = folder / "cocosplit" / f"seed{seed}" / f"full_box_{count}shot_{name}_trainval.json"
                path.parent.mkdir(parents=True, exist_ok=True)
                images = [image for image in content["images"] if image["id"] in used]
                write_json(path, {**content, "images": images, "annotations": rows})
