"""Images as the surrogate and the hackers see them, clean and protected, and the label sets of the hackers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import transforms
from torchvision.transforms import functional as TF

from repertory.data.images import CACHE_BYTES, ImageSet
from repertory.papers.unlearnable_clusters.model import Protection, add_noise

LABELS: Mapping[str, Callable[[NDArray[np.int64], int], NDArray[np.int64]]] = {
    "classes": lambda k, _: k,
    "parity": lambda k, _: k % 2,
    "halves": lambda k, count: k * 2 // count,
    "merged": lambda k, count: k % max(2, count // 2),
}
"""Label sets from the numbers k of the `count` classes; of ten digits: themselves, odd or not, above 4, modulo 5."""


def relabelled(images: ImageSet, labels: str) -> tuple[list[int], int]:
    """Labels of the images under a label set, and how many there are."""
    count = len(images.classes)
    mapped = LABELS[labels](np.array(images.labels, np.int64), count)
    return mapped.tolist(), int(LABELS[labels](np.arange(count), count).max()) + 1


class Views(Dataset[tuple[Any, int]]):
    """Images, resized once, then transformed: `self[i]` is (transform(image), label).

    Args:
        load: number -> image in RGB.
        labels: of the images.
        resize: short side; the resized images are kept up to `CACHE_BYTES`.
        transform: image -> anything.
    """

    def __init__(
        self,
        load: Callable[[int], Image.Image],
        labels: Sequence[int],
        resize: int,
        transform: Callable[[Image.Image], Any],
    ) -> None:
        self.load, self.labels, self.resize, self.transform = load, labels, resize, transform
        self._kept: dict[int, Image.Image] = {}
        self._bytes = 0

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return self.transform(self._resized(index)), self.labels[index]

    def _resized(self, index: int) -> Image.Image:
        if index in self._kept:
            return self._kept[index]
        image = cast(Image.Image, TF.resize(cast(Any, self.load(index)), [self.resize]))
        size = 3 * image.width * image.height
        if self._bytes + size <= CACHE_BYTES:
            self._kept[index] = image
            self._bytes += size
        return image


def centred(size: int) -> Callable[[Image.Image], Tensor]:
    """The central crop, in [0, 1]."""
    return transforms.Compose([transforms.CenterCrop(size), transforms.ToTensor()])


def augmented(size: int, flip: float) -> Callable[[Image.Image], Tensor]:
    """A random crop, mirrored with probability `flip`, in [0, 1]."""
    return transforms.Compose(
        [transforms.RandomCrop(size), transforms.RandomHorizontalFlip(flip), transforms.ToTensor()]
    )


def two_views(size: int, flip: float) -> Callable[[Image.Image], tuple[Tensor, Tensor]]:
    """Two random views of an image, as SimCLR makes them, in [0, 1]."""
    blur = [transforms.RandomApply([transforms.GaussianBlur(size // 20 * 2 + 1, (0.1, 2.0))], 0.5)] if size > 64 else []
    view = transforms.Compose(
        [
            transforms.RandomResizedCrop(size, (0.2, 1.0)),
            transforms.RandomHorizontalFlip(flip),
            transforms.RandomApply([transforms.ColorJitter(0.8, 0.8, 0.8, 0.2)], 0.8),
            transforms.RandomGrayscale(0.2),
            *blur,
            transforms.ToTensor(),
        ]
    )
    return lambda image: cast("tuple[Tensor, Tensor]", (view(image), view(image)))


def protected(images: ImageSet, protection: Protection, numbers: Sequence[int], keep_size: bool) -> Callable[
    [int], Image.Image
]:  # fmt: skip
    """Loads the protected image of a number, with 8 bits a channel, as a lossless file holds it.

    Args:
        images: of the owner.
        protection: the perturbations.
        numbers: which of them each image gets.
        keep_size: stretch the noise to the image; False: crop the image to the noise.
    """
    noises = {number: protection.noise(number) for number in set(numbers)} if protection.by != "images" else {}

    def load(index: int) -> Image.Image:
        image = images.image(index)
        if not keep_size:
            image = cropped(image, protection.resize, protection.size)
        noise = noises[numbers[index]] if noises else protection.noise(numbers[index])
        return Image.fromarray(add_noise(np.asarray(image), noise))

    return load


def cropped(image: Image.Image, resize: int, size: int) -> Image.Image:
    """The centre of an image after its short side is resized."""
    return cast(Image.Image, TF.center_crop(TF.resize(cast(Any, image), [resize]), [size]))
