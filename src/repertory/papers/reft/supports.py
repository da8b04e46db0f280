"""Supports of further classes, as folders of images with masks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from repertory.core.problem import Problem
from repertory.data.images import image_files, opened_image, read_image
from repertory.papers.reft.episodes import SupportSet, collated, placed, with_a_cell

LAYOUT = "<class>/x.png (or .jpg) with masks <class>/x_mask.png: white, or not black, where the object is"
MASK = "_mask"


def read_supports(folder: Path, size: int, first: int) -> tuple[list[str], SupportSet]:
    """Classes of a folder, and a support for each image.

    Args:
        folder: a folder for each class.
        size: side of the supports.
        first: label of the first class.

    Raises:
        Problem: no classes; an image without a mask, a mask without an object or of another size; names the file.
    """
    names = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")) if (
        folder.is_dir()
    ) else []  # fmt: skip
    if not names:
        raise Problem("no supports here", folder, f"expected: {LAYOUT}")
    found = []
    for label, name in enumerate(names, first):
        files = [path for path in image_files(folder / name) if not path.stem.endswith(MASK)]
        if not files:
            raise Problem(f"no image of the class {name!r}", folder / name, f"expected: {LAYOUT}")
        for path in files:
            image, mask = read_pair(path)
            fitted = placed(image, mask[None], size)
            found.append((label, fitted.image, with_a_cell(fitted.masks[0], mask)[None]))
    return names, collated(found)


def read_pair(path: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """An image (3, H, W) of 8 bits, and its mask (H, W) of zeros and ones.

    Raises:
        Problem: no mask beside it, an empty one, or one of another size.
    """
    mask_path = path.with_name(f"{path.stem}{MASK}.png")
    if not mask_path.is_file():
        raise Problem("a support without a mask", path, f"draw the object white on black in {mask_path.name}")
    image = torch.from_numpy(np.array(read_image(path))).permute(2, 0, 1)
    with opened_image(mask_path) as opened:
        drawn = opened.getchannel("A") if opened.mode in ("RGBA", "LA") and _is_plain(opened) else opened.convert("L")
        mask = torch.from_numpy(np.array(drawn) > 0).byte()
    if mask.shape != image.shape[1:]:
        what = f"the mask has {tuple(mask.shape)} pixels, its image {tuple(image.shape[1:])}"
        raise Problem(what, mask_path, "draw it on the image")
    if not mask.any():
        raise Problem("the mask of a support is empty", mask_path, "draw the object white")
    return image, mask


def _is_plain(image: Image.Image) -> bool:
    """Whether an image with transparency has one colour alone: its mask is what is opaque."""
    low, high = image.convert("L").getextrema()
    return low == high
