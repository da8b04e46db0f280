"""Samples with labels from a user's files: IDX, SHD's HDF5, class folders of images, npz, csv."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from PIL import Image
from sklearn.model_selection import train_test_split
from torch import Tensor
from torch.utils.data import Dataset

from repertory.core.problem import Problem
from repertory.data import idx, images, shd
from repertory.data.arrays import load_npz
from repertory.data.shd import Recordings
from repertory.data.splits import check_distinct_files, check_distinct_samples
from repertory.data.tables import read_table, to_numbers, without_index
from repertory.tasks.classification import readable, relative_name

LAYOUT = (
    "train-images-idx3-ubyte[.gz], train-labels-idx1-ubyte[.gz], t10k-… likewise (MNIST's)\n"
    "or shd_train.h5, shd_test.h5 (spikes/times, spikes/units, labels)\n"
    "or train/<class>/*.png, test/<class>/*.png; or <class>/*.png, a fifth of which is held out\n"
    "or one .npz: x_train, y_train, x_test, y_test (or x, y)\n"
    "or one .csv: numbers and a column `label`"
)

TABLES = (".npz", ".csv")


@dataclass(frozen=True)
class Samples(Dataset[tuple[Tensor, int]]):
    """Values (n, *shape), or spike trains; with labels (n,), -1 where unknown."""

    draws: ClassVar[bool] = False

    values: Tensor | None
    trains: Recordings | None
    labels: NDArray[np.int64]
    names: tuple[str, ...]
    """Names of the samples; empty: they are numbered."""
    steps: int = 0
    dt: float = 1.0

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        label = int(self.labels[index])
        if self.values is not None:
            return self.values[index], label
        assert self.trains is not None
        return torch.from_numpy(self.trains.counts(index, self.steps, self.dt)), label

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one sample, without time."""
        return tuple(self.values.shape[1:]) if self.values is not None else (shd.CHANNELS,)

    def first(self, count: int) -> Samples:
        """The first `count` samples."""
        values = None if self.values is None else self.values[:count]
        trains = self.trains and Recordings(
            self.trains.times[:count], self.trains.units[:count], self.trains.labels[:count], self.trains.names
        )
        return replace(self, values=values, trains=trains, labels=self.labels[:count], names=self.names[:count])

    def name(self, index: int) -> str:
        """Name of a sample, or its number."""
        return self.names[index] if self.names else str(index)


@dataclass(frozen=True)
class SpikeData:
    """Training and test samples, and the names of the classes."""

    train: Samples
    test: Samples
    classes: tuple[str, ...]

    @property
    def events(self) -> bool:
        """Whether samples are spike trains."""
        return self.train.values is None


@dataclass(frozen=True)
class Seeded(Dataset[tuple[Tensor, int, int]]):
    """Samples with a seed each, from torch's global generator: in `fit` a function of run, epoch and sample."""

    samples: Samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Tensor, int, int]:
        return *self.samples[index], int(torch.randint(2**62, ()))


def collate_seeded(batch: list[tuple[Tensor, int, int]], events: bool) -> tuple[Tensor, Tensor, Tensor]:
    """`collate`, and the seeds (B,)."""
    return *collate([(x, label) for x, label, _ in batch], events), torch.tensor([seed for *_, seed in batch])


def collate(batch: list[tuple[Tensor, int]], events: bool) -> tuple[Tensor, Tensor]:
    """Samples with labels -> values (B, *shape), or spikes (T, B, N) if `events`; and labels (B,)."""
    x = torch.stack([x for x, _ in batch], 1 if events else 0)
    return x, torch.tensor([label for _, label in batch])


def read(folder: Path, steps: int, dt: float, seed: int = 0) -> SpikeData | None:
    """The data of a folder, or of one npz, csv file; None if there is nothing of any known kind.

    Class folders of images without parts are split 80/20 by the seed, with a warning.

    Raises:
        Problem: damaged, or without labels.
    """
    data = _read_parts(folder, steps, dt, seed)
    if data is None and images.is_labelled(folder):
        return _of_splits(*images.read_splits(folder, seed))
    return data


def _read_parts(folder: Path, steps: int, dt: float, seed: int = 0) -> SpikeData | None:
    """`read`, but for class folders of images without parts."""
    if folder.is_dir() and idx.find(folder, "train", "images"):
        parts = [_of_idx(part) for part in idx.read_parts(folder)]
        return _data(parts, tuple(str(k) for k in range(1 + max(int(p.labels.max()) for p in parts))))
    if folder.is_dir() and shd.find(folder, "train"):
        found = [shd.find(folder, part) for part in ("train", "test")]
        if found[1] is None:
            raise Problem("no test file of spike trains", folder, "; ".join(shd.LAYOUT.splitlines()))
        paths = [path for path in found if path is not None]
        check_distinct_files({path.name: [path] for path in paths}, folder)
        recordings = [shd.read(path) for path in paths]
        check_distinct_samples(*(np.concatenate(r.times) for r in recordings), where=folder)
        parts = [Samples(None, r, r.labels, (), steps, dt) for r in recordings]
        return _data(parts, max((r.names for r in recordings), key=len))
    if images.has_splits(folder):
        return _of_splits(*images.read_splits(folder, seed))
    table = _table(folder)
    return None if table is None else _of_table(table)


def _data(parts: Sequence[Samples], classes: tuple[str, ...]) -> SpikeData:
    return SpikeData(parts[0], parts[1], classes)


def _of_idx(data: idx.Labelled) -> Samples:
    return Samples(torch.from_numpy(data.images[:, None].astype(np.float32)), None, data.labels, ())


def grey(path: Path) -> Image.Image:
    """One image without colour."""
    return images.read_image(path).convert("L")


def _of_splits(train: images.ImageSet, test: images.ImageSet) -> SpikeData:
    """Grey images of the size of the first one."""
    size = grey((train.paths or test.paths)[0]).size
    return _data([_of_images(part.paths, part.labels, size) for part in (train, test)], train.classes or test.classes)


def _of_images(
    paths: Sequence[Path], labels: Sequence[int], size: tuple[int, int], names: tuple[str, ...] = ()
) -> Samples:
    pixels = np.array([np.asarray(grey(path).resize(size), np.float32) for path in paths], np.float32)
    pixels = pixels.reshape(len(paths), size[1], size[0])  # also of none
    names = names or tuple(path.name for path in paths)
    return Samples(torch.from_numpy(pixels[:, None]), None, np.array(labels, np.int64), names)


def _table(source: Path) -> Path | None:
    if source.is_file():
        return source if source.suffix.lower() in TABLES else None
    inside = source.iterdir() if source.is_dir() else ()
    found = sorted(path for path in inside if path.suffix.lower() in TABLES)
    if len(found) > 1:
        raise Problem(f"{len(found)} tables: {', '.join(p.name for p in found)}", source, "give one of them")
    return next(iter(found), None)


def _of_table(path: Path) -> SpikeData:
    fields = _fields(path)
    if "x_train" in fields:
        absent = [name for name in ("y_train", "x_test", "y_test") if name not in fields]
        if absent:
            raise Problem(f"no {absent[0]}", path, "give x_train, y_train, x_test, y_test")
        if fields["x_train"].shape[1:] != fields["x_test"].shape[1:]:
            shapes = f"{fields['x_train'].shape}, {fields['x_test'].shape}"
            raise Problem(f"x_train and x_test have the shapes {shapes}", path, "give samples of one shape")
        if np.array_equal(fields["x_train"], fields["x_test"]):
            raise Problem("x_test is x_train", path, "give samples that are not trained on")
        halves = [(fields[f"x_{part}"], fields[f"y_{part}"]) for part in ("train", "test")]
    else:
        if "y" not in fields:
            raise Problem("no labels", path, "give y in an npz, a column `label` in a csv")
        x, y = fields["x"], fields["y"]
        names, counts = np.unique(y, return_counts=True)
        if len(y) < 4 or counts.min() < 2:
            raise Problem(f"{len(y)} samples of {len(names)} classes cannot be split", path, "give more of each")
        rows = train_test_split(np.arange(len(y)), test_size=0.25, stratify=y, random_state=0)
        halves = [(x[part], y[part]) for part in rows]
    classes = np.unique(np.concatenate([y for _, y in halves]))
    parts = [
        Samples(torch.from_numpy(np.asarray(x, np.float32)), None, np.searchsorted(classes, y).astype(np.int64), ())
        for x, y in halves
    ]
    return _data(parts, tuple(str(k) for k in classes))


def _fields(path: Path) -> dict[str, NDArray[np.generic]]:
    """x, y (or x_train, ...) of an npz or a csv."""
    if path.suffix.lower() == ".npz":
        fields: dict[str, NDArray[Any]] = load_npz(path)
    else:
        frame = without_index(read_table(path), path)
        column = next((c for c in frame if str(c).strip().lower() in ("label", "class", "target", "y")), None)
        labels = {} if column is None else {"y": frame.pop(column).to_numpy()}
        fields = {"x": to_numbers(frame, path).astype(np.float32), **labels}
    if not {"x", "x_train"} & set(fields):
        raise Problem(
            f"it holds {', '.join(fields)}", path, "name the arrays x and y, or x_train, y_train, x_test, y_test"
        )
    for name, values in fields.items():
        if name[:1] == "x" and (values.dtype.kind not in "biuf" or values.ndim < 2 or not values.size):
            raise Problem(f"{name} is {values.dtype} of shape {values.shape}", path, "give (n, …) real numbers, n > 0")
        if name[:1] == "x" and not np.isfinite(values.astype(np.float32)).all():
            raise Problem(f"{name} holds values that are not finite", path, "fill or drop them")
        if name[:1] == "y" and (values.ndim != 1 or values.dtype.kind == "c" or pd.isna(values).any()):
            raise Problem(f"{name} is {values.dtype} of shape {values.shape}", path, "give one label a sample, no gaps")
    for x, y in ((f"x{part}", f"y{part}") for part in ("", "_train", "_test")):
        if x in fields and y in fields and len(fields[x]) != len(fields[y]):
            raise Problem(f"{len(fields[x])} samples in {x}, {len(fields[y])} labels in {y}", path, "one a sample")
    return fields


@dataclass(frozen=True)
class Inputs:
    """What is to be predicted; of images also all files, and what is wrong with those that are not in `samples`."""

    samples: Samples
    paths: tuple[Path, ...] = ()
    good: tuple[int, ...] = ()
    """Positions in `paths` of the samples."""
    problems: Mapping[Path, str] = field(default_factory=dict)


def read_inputs(source: Path, shape: tuple[int, ...], events: bool, steps: int, dt: float) -> Inputs:
    """A data set's test part, one file, or images; labels are -1 where unknown.

    Raises:
        Problem: nothing there that can be read, or of another shape than the model's.
    """
    paths, good, problems = tuple[Path, ...](), list[int](), {}
    if source.is_file() and source.suffix.lower() in (".h5", ".hdf5"):
        recordings = shd.read(source)
        samples = Samples(None, recordings, recordings.labels, (), steps, dt)
    elif source.is_file() and "idx3" in source.name:
        pixels = idx.read_array(source)
        samples = Samples(torch.from_numpy(pixels[:, None].astype(np.float32)), None, np.full(len(pixels), -1), ())
    elif source.is_file() and source.suffix.lower() in TABLES:
        fields = _fields(source)
        x = np.asarray(fields.get("x", fields.get("x_test", fields.get("x_train"))), np.float32)
        samples = Samples(torch.from_numpy(x), None, np.full(len(x), -1), ())
    elif data := (_read_parts(source, steps, dt) if source.is_dir() else None):
        samples = data.test
    else:
        paths = tuple(images.image_files(source))
        if not paths:
            raise Problem(
                "nothing to predict here", source, "give images, an IDX, npz, csv or HDF5 file, or a data set"
            )
        if len(shape) != 3:
            raise Problem(f"images for a model of shape {shape}", source, "give data of that shape")
        good, problems = readable(paths, lambda i: grey(paths[i]), source)
        whole = [paths[i] for i in good]
        names = tuple(relative_name(path, source) for path in whole)
        samples = _of_images(whole, [-1] * len(whole), (shape[2], shape[1]), names)
    if samples.shape != shape or (samples.values is None) != events:
        kind = "spike trains" if events else "values"
        raise Problem(
            f"samples of shape {samples.shape}; the model takes {kind} of {shape}", source, "give such samples"
        )
    return Inputs(samples, paths, tuple(good), problems)
