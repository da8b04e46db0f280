"""Patches of rated images: decoded once, cut several times; and the scores of images from those of their patches."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from repertory.core.study import Session
from repertory.core.training import loader
from repertory.data.images import ImageSet
from repertory.data.quality import QualitySet
from repertory.papers.pmt_iqa.model import PMTIQA

Crops = Literal["random", "spread"]
Corner = tuple[int, int]
"""Row and column of the top left pixel of a patch."""


class Patches(Dataset[tuple[Tensor, float, int]]):
    """`self[i]` is (patches (K, 3, S, S), score, level) of image i; its draws come from torch's global generator.

    Args:
        data: rated images.
        size: S.
        count: K.
        mean, std: of the three channels, from 0 to 1.
        crops: where patches are cut.
        resize: height and width that an image gets before.
        flip: probability of mirroring a patch.
    """

    def __init__(
        self,
        data: QualitySet,
        size: int,
        count: int,
        mean: Sequence[float],
        std: Sequence[float],
        crops: Crops = "random",
        resize: Sequence[int] | None = None,
        flip: float = 0.0,
    ) -> None:
        self.size, self.count, self.mean, self.std, self.flip = size, count, mean, std, flip
        self.crops: Crops = crops
        self.scores, self.levels = data.scores, data.levels.tolist()
        files = ImageSet(data.paths, (0,) * len(data), ("image",))
        self.images = files.with_transform(partial(prepared, size=size, resize=resize), fixed=True)

    def __len__(self) -> int:
        return len(self.scores)

    def __getitem__(self, index: int) -> tuple[Tensor, float, int]:
        pixels: NDArray[np.uint8] = self.images[index][0]
        corners = corners_of(pixels, self.size, self.count, self.crops)
        patches = cut(pixels, corners, self.size, self.mean, self.std)
        if self.flip:
            mirrored = torch.rand(len(patches)) < self.flip
            patches = torch.where(mirrored[:, None, None, None], patches.flip(-1), patches)
        return patches, self.scores[index], self.levels[index]


def prepared(image: Image.Image, size: int, resize: Sequence[int] | None = None) -> NDArray[np.uint8]:
    """Pixels (H, W, 3) of an image, resized, and padded by reflection where it is smaller than a patch."""
    if resize:
        height, width = resize
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    pixels = np.asarray(image)
    missing = [max(0, size - length) for length in pixels.shape[:2]]
    if any(missing):
        pixels = np.pad(pixels, [*((m // 2, m - m // 2) for m in missing), (0, 0)], mode="reflect")
    return pixels


def corners_of(pixels: NDArray[np.uint8], size: int, count: int, crops: Crops) -> list[Corner]:
    """Corners of `count` patches: drawn from torch's global generator, or on an even grid over the image."""
    height, width = (length - size for length in pixels.shape[:2])
    if crops == "random":
        return [(int(torch.randint(height + 1, ())), int(torch.randint(width + 1, ()))) for _ in range(count)]
    rows = math.ceil(math.sqrt(count))
    columns = math.ceil(count / rows)
    grid = [(row, column) for row in _spread(height, rows) for column in _spread(width, columns)]
    return [grid[round(k)] for k in np.linspace(0, len(grid) - 1, count)]


def _spread(room: int, count: int) -> list[int]:
    """`count` places from 0 to `room`; one alone lies in the middle."""
    return [round(x) for x in np.linspace(0, room, count)] if count > 1 else [room // 2]


def cut(
    pixels: NDArray[np.uint8], corners: Sequence[Corner], size: int, mean: Sequence[float], std: Sequence[float]
) -> Tensor:
    """Patches (K, 3, S, S) at the corners, normalised."""
    views = np.stack([pixels[row : row + size, column : column + size] for row, column in corners])
    x = torch.from_numpy(views).permute(0, 3, 1, 2).float().div_(255)
    return x.sub_(torch.tensor(mean).view(3, 1, 1)).div_(torch.tensor(std).view(3, 1, 1))


class Rated(NamedTuple):
    """What a network says of n images."""

    scores: NDArray[np.float64]
    """Mean over the patches, (n,)."""
    spread: NDArray[np.float64]
    """Standard deviation over the patches, (n,)."""
    probabilities: NDArray[np.float64]
    """Of the levels, mean over the patches, (n, K); K = 0 without a classifier."""


@torch.no_grad()
def rate(model: PMTIQA, patches: Tensor) -> Rated:
    """Scores of n images from K patches of each.

    Args:
        model: in evaluation mode.
        patches: (n, K, 3, S, S), on the device of the model.
    """
    quality = model(patches.flatten(0, 1))
    scores = quality.mos.double().view(patches.shape[:2]).cpu()
    probabilities = quality.cls.double().softmax(1).unflatten(0, patches.shape[:2]).mean(1).cpu()
    return Rated(scores.mean(1).numpy(), scores.std(1, correction=0).numpy(), probabilities.numpy())


def rate_all(
    session: Session, model: PMTIQA, data: Patches, batch: int, workers: int, label: str = "evaluate"
) -> Rated:
    """Scores of all images of a data set, in its order; a dry run ends early."""
    parts = [rate(model, x) for x, *_ in loader(session, data, batch, workers=workers, label=label)]
    return Rated(*(np.concatenate(part) for part in zip(*parts, strict=True)))
