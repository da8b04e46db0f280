"""Classification of event streams: recipe, reading, tensors, and the loss of spiking and other networks.

A paper derives its configuration from `EventRecipe`, reads with `read_splits` or `unlabelled`, and turns streams into
tensors with `Streams`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset

from repertory.core.problem import Problem
from repertory.data import events
from repertory.data.events import EventSet, Size
from repertory.nn.spiking import mean_over_time, tet_loss
from repertory.tasks.settings import EventRecipe


def read_options(recipe: EventRecipe) -> dict[str, Any]:
    """Keyword arguments of `repertory.data.events.read_splits` and `read_class_folders`."""
    size = events.parse_size(recipe.sensor) if recipe.sensor else None
    return {"size": size, "unit": recipe.time_unit, "upright": recipe.upright, "scale": recipe.dvs_scale}


def read_splits(folder: Path, recipe: EventRecipe) -> tuple[EventSet, EventSet]:
    """Training and test streams; warns of files that are in both.

    Raises:
        Problem: as `repertory.data.events.read_splits`.
    """
    train, test = events.read_splits(folder, **read_options(recipe))
    shared = events.shared_streams(train, test)
    if shared:
        example = " and ".join(str(path) for path in shared[0])
        warnings.warn(f"{len(shared)} test streams are training streams too, {example} for one", stacklevel=2)
    return train, test


def unlabelled(source: Path, names: Sequence[str], size: Size, recipe: EventRecipe) -> EventSet:
    """One stream, or all streams below a folder, to be classified; labels are 0.

    Args:
        source: file or folder.
        names: classes of the model.
        size: (H, W) of the model's sensor.
        recipe: how files are read.

    Raises:
        Problem: no streams.
    """
    paths = tuple(events.event_files(source))
    if not paths:
        raise Problem("no streams here", source, f"give a file, or a folder with {', '.join(events.READERS)} files")
    return EventSet(paths, (0,) * len(paths), tuple(names), size, recipe.time_unit, recipe.upright)


class Streams(Dataset[tuple[Tensor, int]]):
    """Streams as tensors.

    Args:
        data: the streams.
        steps: applied in order; the last returns a tensor. Random steps draw from NumPy's or torch's global
            generator, which `repertory.core.training.fit` and `loader` seed for each sample.
    """

    def __init__(self, data: EventSet, *steps: Callable[[Any], Any]) -> None:
        self.data, self.steps = data, steps

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        sample: Any = self.data.events(index)
        for step in self.steps:
            sample = step(sample)
        return sample, self.data.labels[index]


def classification_loss(model: nn.Module, batch: tuple[Tensor, Tensor], *, tet: bool = False) -> Tensor:
    """Cross-entropy for `repertory.core.training.fit`.

    Args:
        model: gives logits (B, K), or (T, B, K), which count by their mean over time.
        batch: inputs and labels (B,).
        tet: mean over the steps of the cross-entropy of each step (`repertory.nn.spiking.tet_loss`); needs (T, B, K).
    """
    x, y = batch
    logits = model(x)
    return tet_loss(logits, y) if tet else F.cross_entropy(mean_over_time(logits), y)
