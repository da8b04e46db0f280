"""Images as items of the network, and episodes: images with a support set each."""

from __future__ import annotations

import functools
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from timm.data.constants import IMAGENET_DEFAULT_MEAN
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset
from torchvision.transforms.v2 import functional as TF

from repertory.core.problem import Problem
from repertory.data.coco import CocoSet
from repertory.data.images import CACHE_BYTES
from repertory.papers.reft.model import PICTURE


class SupportSet(NamedTuple):
    """Supports before they are encoded."""

    images: Tensor
    """(S, 3, h, w)"""
    masks: Tensor
    """(S, 1, h, w)"""
    labels: Tensor
    """(S,)"""

    def pictures(self) -> Tensor:
        """(S, 4, P, P) of 8 bits: image and mask, to be kept with a network."""
        both = torch.cat([self.images, self.masks], 1)
        return (255 * F.interpolate(both, (PICTURE, PICTURE), mode="area")).round().byte()


class Batch(NamedTuple):
    """Images, their objects, and the support set that all of them refer to."""

    images: Tensor
    """(B, 3, H, W) from 0 to 1"""
    masks: list[Tensor]
    """(n, H, W) float each"""
    labels: list[Tensor]
    """(n,) each"""
    supports: SupportSet | None


class Raw(NamedTuple):
    """An image as it is stored."""

    image: Tensor
    """(3, H, W) of 8 bits"""
    masks: Tensor
    """(n, H, W) of 8 bits"""
    labels: Tensor
    """(n,)"""


class Placed(NamedTuple):
    """An image on the square input of a network."""

    image: Tensor
    """(3, S, S) from 0 to 1"""
    masks: Tensor
    """(n, S, S) float"""
    shown: tuple[int, int]
    """height and width that the image fills, from the upper left"""


def placed(
    image: Tensor,
    masks: Tensor,
    size: int,
    factor: float = 1.0,
    corner: tuple[float, float] = (0.0, 0.0),
    flip: bool = False,
) -> Placed:
    """Resize an image so that its longer side fills a square, times `factor`; crop what exceeds it, fill the rest.

    The rest has the mean colour, which the network sees as 0.

    Args:
        image: (3, H, W) of 8 bits.
        masks: (n, H, W).
        size: S, side of the square.
        factor: of the size; above 1 the image is cropped.
        corner: where the crop begins, as shares of what is cut.
        flip: mirror it.
    """
    if flip:
        image, masks = image.flip(-1), masks.flip(-1)
    height, width = image.shape[-2:]
    scale = factor * size / max(height, width)
    wide = [max(1, round(height * scale)), max(1, round(width * scale))]
    if wide != [height, width]:
        image = TF.resize(image, wide, antialias=True)
        masks = F.interpolate(masks[None].float(), wide, mode="nearest")[0] if len(masks) else masks.new_zeros(0, *wide)
    top, left = (round(share * max(0, side - size)) for share, side in zip(corner, wide, strict=True))
    image, masks = (x[..., top : top + size, left : left + size] for x in (image, masks))
    rows, columns = image.shape[-2:]
    canvas = torch.tensor(IMAGENET_DEFAULT_MEAN).view(3, 1, 1).repeat(1, size, size)
    canvas[:, :rows, :columns] = image.float() / 255
    filled = F.pad(masks.float(), (0, size - columns, 0, size - rows))
    return Placed(canvas, filled, (rows, columns))


def on_square(image: Tensor, size: int) -> Placed:
    """An image (3, H, W) of 8 bits on a square, without objects."""
    return placed(image, image.new_zeros(0, *image.shape[1:]), size)


def with_a_cell(small: Tensor, mask: Tensor) -> Tensor:
    """A mask (h, w) that has become empty by resizing, with the cell at the centre of the whole one, (H, W), set."""
    if small.any() or not mask.any():
        return small
    y, x = (axis.float().mean() for axis in mask.nonzero(as_tuple=True))
    side = small.shape[-1] / max(mask.shape)
    small = small.clone()
    small[min(int(y * side), small.shape[0] - 1), min(int(x * side), small.shape[1] - 1)] = 1
    return small


@dataclass(frozen=True)
class Jitter:
    """Random changes in training."""

    scale: tuple[float, float] = (1.0, 1.0)
    """smallest and largest factor of the size: large-scale jitter"""
    flip: float = 0.0

    def draw(self, rng: np.random.Generator) -> dict[str, object]:
        """Arguments of `placed`."""
        u, v = rng.random(2).tolist()
        return {"factor": rng.uniform(*self.scale), "corner": (u, v), "flip": bool(rng.random() < self.flip)}


class Scenes:
    """Images of a data set, with the objects of some classes.

    Images of a small data set are kept in memory.

    Args:
        data: with masks.
        classes: names in the order of the network's labels; objects of others are left out.
        size: side of the network's input.
        support_size: side of supports.
        jitter: in training.
    """

    def __init__(
        self, data: CocoSet, classes: Sequence[str], size: int, support_size: int, jitter: Jitter | None = None
    ) -> None:
        self.data, self.classes, self.size, self.support_size = data, tuple(classes), size, support_size
        self.jitter = jitter or Jitter()
        numbers = {name: number for number, name in enumerate(classes)}
        self._label = np.array([-1, *(numbers.get(name, -1) for name in data.classes)])
        self.table: dict[int, list[tuple[int, int]]] = {}
        """Label -> (image, place among its objects) of every object."""
        for index in range(len(data)):
            labels = self._label[data.sample_labels(index)]
            for place, label in enumerate(labels[labels >= 0].tolist()):
                self.table.setdefault(label, []).append((index, place))
        self._kept: dict[int, Raw] = {}
        self._bytes = 0

    def __len__(self) -> int:
        return len(self.data)

    def of_labels(self, labels: Collection[int]) -> Scenes:
        """The images that have objects of some labels, with these objects alone."""
        kept = np.isin(self._label[self.data.objects.labels], list(labels))
        return Scenes(self.data.only(kept).with_objects(), self.classes, self.size, self.support_size, self.jitter)

    def raw(self, index: int) -> Raw:
        """An image and its objects as they are stored."""
        if index in self._kept:
            return self._kept[index]
        image, target = self.data[index]
        labels = torch.from_numpy(self._label)[target["labels"]]
        raw = Raw((255 * image).round().byte(), target["masks"][labels >= 0], labels[labels >= 0])
        self._bytes += raw.image.nbytes + raw.masks.nbytes
        if self._bytes <= CACHE_BYTES:
            self._kept[index] = raw
        return raw

    def item(self, index: int, rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Image, masks and labels, jittered; objects that are cropped away are left out."""
        raw = self.raw(index)
        image, masks, _ = placed(raw.image, raw.masks, self.size, **self.jitter.draw(rng))  # pyright: ignore[reportArgumentType]
        seen = masks.flatten(1).any(1)
        return image, masks[seen], raw.labels[seen]

    def support(self, index: int, place: int, flip: bool = False) -> tuple[Tensor, Tensor]:
        """An image (3, h, w) and the mask (1, h, w) of one of its objects.

        Raises:
            Problem: the mask is empty; names the file.
        """
        raw = self.raw(index)
        mask = raw.masks[place]
        if not mask.any():
            where = self.data.root / self.data.images[index].file_name
            raise Problem("the mask of a support is empty", where, "correct its segmentation")
        found = placed(raw.image, mask[None], self.support_size, flip=flip)
        whole = mask.flip(-1) if flip else mask
        return found.image, with_a_cell(found.masks[0], whole)[None]

    def supports(self, labels: Collection[int]) -> SupportSet:
        """All objects of some classes, as supports."""
        chosen = [(label, *spot) for label in labels for spot in self.table.get(label, [])]
        if not chosen:
            raise Problem("no object of these classes", self.data.root, "give shots of each class")
        return collated([(label, *self.support(index, place)) for label, index, place in chosen])


def collated(found: Sequence[tuple[int, Tensor, Tensor]]) -> SupportSet:
    """(label, image, mask) of each support -> a support set."""
    labels, images, masks = zip(*found, strict=True)
    return SupportSet(torch.stack(images), torch.stack(masks), torch.tensor(labels))


@dataclass(frozen=True)
class Ways:
    """Sizes of an episode's support set."""

    classes: int = 8
    """C_e: those of the images, and others up to this number"""
    shots: int = 3
    """supports of a class, from 1 to this number"""


class Episodes(Dataset[Batch]):
    """The batches of a training, by step; a step depends on the seed, the step and the process alone.

    Args:
        scenes: images, in a new order at every pass; supports are drawn from other images of them where there are any.
        batch: B.
        ways: of the support set; None: without supports.
        seed: of all that is drawn.
        steps: number of batches.
        rank: number of this process.
        world: number of processes.
    """

    def __init__(
        self, scenes: Scenes, batch: int, ways: Ways | None, seed: int, steps: int, rank: int = 0, world: int = 1
    ) -> None:
        if not scenes.table:
            raise Problem("no object to train on", scenes.data.root, "annotate the classes to be learnt")
        self.scenes, self.batch, self.ways, self.steps = scenes, batch, ways, steps
        self.seed, self.rank, self.world = seed, rank, world
        self._order = functools.lru_cache(maxsize=4)(
            lambda epoch: np.random.default_rng([seed, 0, epoch]).permutation(len(scenes))
        )

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> Batch:
        rng = np.random.default_rng([self.seed, 1, step, self.rank])
        first = (step * self.world + self.rank) * self.batch
        indices = [
            int(self._order(n // len(self.scenes))[n % len(self.scenes)]) for n in range(first, first + self.batch)
        ]
        images, masks, labels = zip(*(self.scenes.item(index, rng) for index in indices), strict=True)
        supports = self._supports({*torch.cat(labels).tolist()}, {*indices}, rng) if self.ways else None
        return Batch(torch.stack(images), list(masks), list(labels), supports)

    def _supports(self, present: set[int], used: set[int], rng: np.random.Generator) -> SupportSet:
        """Supports for the classes of the images, and for random others."""
        assert self.ways is not None
        known = sorted(self.scenes.table)
        others = [label for label in known if label not in present]
        added = rng.permutation(others)[: max(0, self.ways.classes - len(present))].tolist() if others else []
        found = []
        for label in [*sorted(present), *added]:
            spots = self.scenes.table[label]
            apart = [spot for spot in spots if spot[0] not in used] or spots
            count = min(len(apart), int(rng.integers(1, self.ways.shots + 1)))
            for place in rng.permutation(len(apart))[:count]:
                flip = bool(rng.random() < self.scenes.jitter.flip)
                found.append((label, *self.scenes.support(*apart[place], flip=flip)))
        return collated(found)


class Crops(Dataset[tuple[Tensor, Tensor]]):
    """Batches of single objects and their labels, by step, for pre-training the image network.

    Args:
        scenes: images with objects.
        batch: crops of a batch.
        size: their side.
        seed: of all that is drawn.
        steps: number of batches.
        rank: number of this process.
    """

    def __init__(self, scenes: Scenes, batch: int, size: int, seed: int, steps: int, rank: int = 0) -> None:
        self.scenes, self.batch, self.size, self.seed, self.steps, self.rank = scenes, batch, size, seed, steps, rank
        self.spots = [(label, *spot) for label, spots in sorted(scenes.table.items()) for spot in spots]

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> tuple[Tensor, Tensor]:
        """Images (n, 3, s, s) and labels (n,)."""
        rng = np.random.default_rng([self.seed, 2, step, self.rank])
        chosen = [self.spots[k] for k in rng.integers(len(self.spots), size=self.batch)]
        crops = [self._crop(index, place, rng) for _, index, place in chosen]
        return torch.stack(crops), torch.tensor([label for label, _, _ in chosen])

    def _crop(self, index: int, place: int, rng: np.random.Generator) -> Tensor:
        """A square around an object, with a margin of a tenth to a half of its side, (3, s, s)."""
        raw = self.scenes.raw(index)
        y, x = raw.masks[place].nonzero(as_tuple=True)
        if not len(y):
            return torch.zeros(3, self.size, self.size)
        centre = [(int(axis.min()) + int(axis.max()) + 1) / 2 for axis in (y, x)]
        side = max(int(axis.max() - axis.min()) + 1 for axis in (y, x)) * rng.uniform(1.1, 1.5)
        top, left = (round(c - side / 2) for c in centre)
        crop = TF.resized_crop(raw.image, top, left, max(1, round(side)), max(1, round(side)), [self.size, self.size])
        return (crop.flip(-1) if rng.random() < self.scenes.jitter.flip else crop).float() / 255
