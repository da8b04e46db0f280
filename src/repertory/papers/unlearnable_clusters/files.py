"""The owner's files: read, protected, written in their own format, and measured as they are on disk.

Noise is added to the stored pixels, which is what data loaders read. Lossless formats hold it exactly. JPEG does not:
such files are written again at a high quality, without chroma subsampling, and what is left of the noise is measured.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageFile
from PIL.PngImagePlugin import PngInfo
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from repertory.core.files import write_bytes
from repertory.core.problem import Problem
from repertory.data.images import opened_image
from repertory.papers.unlearnable_clusters.model import add_noise

MOST = 2048
"""SSIM is measured on the central square of so many pixels: it takes ten floats a pixel."""
LOSSLESS_TIFF = ("raw", "packbits", "tiff_lzw", "tiff_deflate", "tiff_adobe_deflate")
WINDOW = 7
"""Side of SSIM's window."""


@dataclass
class Picture:
    """An image file, decoded.

    Attributes:
        pixels: (H, W, 3), or (H, W) of a grey image.
        alpha: (H, W); None: opaque.
        format: Pillow's name of it.
        saving: arguments of `Image.save` that keep what else the file holds.
        notes: what is not kept as it was.
    """

    pixels: NDArray[np.uint8]
    alpha: NDArray[np.uint8] | None
    format: str
    saving: dict[str, Any]
    notes: list[str] = field(default_factory=list)

    @property
    def rgb(self) -> Image.Image:
        """Without alpha, as data loaders read it."""
        return Image.fromarray(self.pixels).convert("RGB")


# -- reading ------------------------------------------------------------------------------------


def read_picture(path: Path) -> Picture:
    """Decode one file.

    Raises:
        Problem: not an image, damaged, animated, or with more than 16 bits a channel.
    """
    with opened_image(path) as image:
        return _decoded(image, path)


def _decoded(image: ImageFile.ImageFile, path: Path) -> Picture:
    notes: list[str] = []
    kind = image.format or ""
    frames = getattr(image, "n_frames", 1)
    if kind == "MPO":  # photographs of phones, with a preview or a depth map behind
        kind = "JPEG"
        notes.append(f"{frames - 1} further pictures of the file dropped")
    elif frames > 1:
        raise Problem(f"{frames} frames: animations and stacks are not protected", path, "save the frames as images")
    saving = _saving(image, kind, notes)  # before conversion, which forgets it
    depth = str(image.tile[0][3]) if image.tile else ""
    if image.mode.startswith("I;16"):
        image_8 = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
        notes.append("16 bits reduced to 8")
    elif image.mode in ("I", "F"):
        raise Problem("32 bits a pixel: there is no range to bound the noise by", path, "save it with 8 or 16 bits")
    else:
        image_8 = image
        if ";16" in depth:
            notes.append("16 bits a channel reduced to 8")
    if image_8.mode == "1":
        notes.append("black and white became grey")
    elif image_8.mode in ("P", "PA"):
        notes.append("palette became RGB: it has no room for noise")
    elif image_8.mode not in ("L", "LA", "La", "RGB", "RGBA", "RGBa"):
        notes.append(f"{image_8.mode} became RGB")
        saving.pop("icc_profile", None)  # it describes the other colours
    transparent = "transparency" in image.info or image_8.mode in ("LA", "La", "PA", "RGBA", "RGBa")
    grey = image_8.mode in ("1", "L", "LA", "La")
    bands = np.asarray(
        image_8.convert("LA" if grey and transparent else "L" if grey else "RGBA" if transparent else "RGB")
    )
    if not transparent:
        return Picture(bands, None, kind, saving, notes)
    return Picture(bands[..., 0] if grey else bands[..., :3], bands[..., -1], kind, saving, notes)


def _saving(image: ImageFile.ImageFile, kind: str, notes: list[str]) -> dict[str, Any]:
    """What `Image.save` needs to keep metadata; says what cannot be kept."""
    info = image.info
    saving = {key: info[key] for key in ("icc_profile", "dpi") if info.get(key)}
    if kind == "PNG" and (text := getattr(image, "text", {})):
        chunks = PngInfo()
        for key, value in text.items():
            chunks.add_itxt(key, value) if not value.isascii() else chunks.add_text(key, value)
        saving["pnginfo"] = chunks
    exif = image.getexif()
    if kind in ("JPEG", "PNG", "WEBP", "TIFF") and len(exif):
        if exif.get_ifd(ExifTags.IFD.IFD1):
            notes.append("thumbnail dropped: it shows the image unprotected")
        if exif.get(ExifTags.Base.Orientation, 1) != 1:
            notes.append("turned by EXIF: noise is laid on the stored pixels, as data loaders read them")
        if kind != "TIFF":  # its tags describe how pixels are stored
            saving["exif"] = exif.tobytes()
    if kind == "JPEG" and hasattr(image, "quantization"):
        saving["tables"] = image.quantization  # pyright: ignore[reportAttributeAccessIssue]
    if kind == "TIFF":
        own = info.get("compression", "raw")
        saving["compression"] = own if own in LOSSLESS_TIFF else "tiff_adobe_deflate"
        if saving["compression"] != own:
            notes.append(f"{own} compression became deflate, which loses nothing")
    return saving


# -- writing ------------------------------------------------------------------------------------


def write_picture(picture: Picture, pixels: NDArray[np.uint8], path: Path, quality: int) -> None:
    """Write other pixels with all else that a file holds.

    Args:
        picture: what was read; notes say what else becomes different.
        pixels: (H, W, 3) or (H, W).
        path: of the new file.
        quality: least quality of a JPEG.

    Raises:
        Problem: GIF, whose palette has no room for the noise.
    """
    if picture.format == "GIF":
        raise Problem("GIF holds 256 colours, too few for the noise", path, "set format=png")
    bands = pixels if picture.alpha is None else np.dstack([pixels, picture.alpha])
    options = dict(picture.saving)
    tables = options.pop("tables", None)
    if picture.format == "JPEG":
        finest = _tables(quality)
        kept = tables is not None and all(sum(tables[k]) <= sum(finest[min(k, 1)]) for k in tables)
        options |= {"qtables": tables} if kept else {"quality": quality}
        options["subsampling"] = 0
    elif picture.format == "WEBP":
        options |= {"lossless": True, "exact": True}
        picture.notes.append("written as lossless WebP")
    content = io.BytesIO()
    Image.fromarray(bands).save(content, picture.format, **options)
    write_bytes(path, content.getvalue())


@cache
def _tables(quality: int) -> dict[int, list[int]]:
    """Quantisation tables of a quality of JPEG."""
    content = io.BytesIO()
    Image.new("RGB", (8, 8)).save(content, "JPEG", quality=quality)
    with Image.open(content) as image:
        return cast(dict[int, list[int]], image.quantization)  # pyright: ignore[reportAttributeAccessIssue]


# -- measuring ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Difference:
    """How far a protected image is from its original.

    Attributes:
        psnr: dB; infinite where nothing differs.
        ssim: at most 1.
        largest: difference of a channel, of 0 to 255.
        mean: of the absolute differences.
        beyond: share of values that differ by more than eps.
        kept: share of the noise that is there: its projection on the intended noise, 1 where nothing is lost.
    """

    psnr: float
    ssim: float
    largest: int
    mean: float
    beyond: float
    kept: float


def difference(
    original: NDArray[np.uint8], protected: NDArray[np.uint8], intended: NDArray[np.uint8], eps: float
) -> Difference:
    """Measure a protected image against its original.

    Args:
        original: (H, W, 3) or (H, W).
        protected: as it was written and read again.
        intended: as it was before it was written.
        eps: bound, of 0 to 255.
    """
    found = protected.astype(np.int16) - original
    wanted = intended.astype(np.float64) - original
    energy = float((wanted**2).sum())
    return Difference(
        psnr=psnr(original, protected),
        ssim=ssim(original, protected),
        largest=int(np.abs(found).max()),
        mean=float(np.abs(found).mean()),
        beyond=float((np.abs(found) > eps).mean()),
        kept=float((found * wanted).sum()) / energy if energy else 1.0,
    )


def psnr(original: NDArray[np.uint8], other: NDArray[np.uint8]) -> float:
    """Peak signal-to-noise ratio, dB."""
    return math.inf if np.array_equal(original, other) else float(peak_signal_noise_ratio(original, other))


def ssim(original: NDArray[np.uint8], other: NDArray[np.uint8]) -> float:
    """Structural similarity, of larger images on the central 2048 x 2048; NaN below 3 pixels."""
    height, width = original.shape[:2]
    window = min(WINDOW, height - 1 + height % 2, width - 1 + width % 2)
    if window < 3:
        return math.nan
    top, left = max(0, height - MOST) // 2, max(0, width - MOST) // 2
    parts = (image[top : top + MOST, left : left + MOST] for image in (original, other))
    axis = -1 if original.ndim == 3 else None
    return float(cast(Any, structural_similarity)(*parts, win_size=window, channel_axis=axis))


# -- one file -----------------------------------------------------------------------------------


@dataclass
class Protected:
    """A protected file: where it is, what it shows before and after, and how it differs."""

    path: Path
    original: NDArray[np.uint8]
    pixels: NDArray[np.uint8]
    number: int
    difference: Difference
    notes: list[str]


def protect_file(
    source: Path,
    target: Path,
    choose: Callable[[Image.Image], tuple[int, NDArray[np.int16]]],
    eps: float,
    *,
    format: Literal["same", "png"] = "same",
    quality: int = 95,
    prepare: Callable[[Image.Image], Image.Image] | None = None,
) -> Protected:
    """Protect one file.

    Args:
        source: the original.
        target: the file to write; with format="png" its suffix becomes .png.
        choose: image -> number of the perturbation, and its noise (S, S, 3).
        eps: bound, of 0 to 255, for the report.
        format: "same" as the original, or "png" for all.
        quality: least quality of a JPEG.
        prepare: crops the image before; None: all of it stays.

    Raises:
        Problem: the original cannot be read or protected, or would be overwritten.
    """
    if target.resolve() == source.resolve():
        raise Problem("the protected file would overwrite the original", source, "name another folder")
    picture = read_picture(source)
    if format == "png" and picture.format != "PNG":
        picture.notes.append(f"{picture.format} became PNG")
        picture.saving = {k: v for k, v in picture.saving.items() if k in ("icc_profile", "dpi", "exif")}
        picture.format = "PNG"
        target = target.with_suffix(".png")
        if target.exists() or source.with_suffix(".png").exists():  # another image of this name
            target = target.with_name(f"{source.name}.png")
    number, noise = choose(picture.rgb)
    if prepare:
        picture.alpha = None if picture.alpha is None else np.asarray(prepare(Image.fromarray(picture.alpha)))
        picture.pixels = np.asarray(prepare(Image.fromarray(picture.pixels)))
    if picture.pixels.ndim == 2:
        picture.notes.append("grey: the noise is its luminance")
    intended = add_noise(picture.pixels, noise)
    write_picture(picture, intended, target, quality)
    written = read_picture(target).pixels
    found = difference(picture.pixels, written, intended, eps)
    if found.beyond:
        picture.notes.append(f"{picture.format}: {100 * found.beyond:.2g} % of the values differ by more than eps")
    return Protected(target, picture.pixels, written, number, found, picture.notes)
