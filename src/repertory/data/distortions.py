"""Distort photographs in six ways and five strengths: a small image quality database in the layout of CSIQ.

Each score is an objective one, 1 - SSIM against the undistorted image plus observer noise; a method without a
reference does not see it.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterator, Mapping
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, features
from scipy.ndimage import gaussian_filter
from skimage.metrics import structural_similarity

from repertory.core.files import write_text

Pixels = NDArray[np.float64]
"""(H, W, 3), 0 to 255."""

PHOTOGRAPHS: Mapping[str, tuple[str, ...]] = {
    "skimage.data": (
        "astronaut.png", "brick.png", "camera.png", "chelsea.png", "coffee.png", "coins.png", "grass.png", "gravel.png",
        "hubble_deep_field.jpg", "ihc.png", "moon.png", "motorcycle_left.png", "retina.jpg", "rocket.jpg",
    ),
    "sklearn.datasets.images": ("china.jpg", "flower.jpg"),
}  # fmt: skip
"""What scikit-image and scikit-learn ship: grey and coloured, textures and scenes."""
GRID = 3
"""Rows and columns that a photograph is divided into."""
STRENGTHS = 5
OBSERVER_NOISE = 0.02
"""Standard deviation of the noise on scores from 0 to 1."""


def _ladder(first: float, last: float) -> list[float]:
    return [float(x) for x in np.geomspace(first, last, STRENGTHS)]


NOISE = _ladder(4.0, 40.0)
AMOUNTS: Mapping[str, list[float]] = {
    "AWGN": NOISE,  # standard deviation
    "BLUR": _ladder(0.5, 4.0),  # standard deviation of the Gaussian, pixels
    "JPEG": _ladder(60.0, 5.0),  # quality
    "jpeg2000": _ladder(8.0, 100.0),  # compression ratio
    "fnoise": NOISE,  # root mean square
    "contrast": [0.1, 0.25, 0.4, 0.55, 0.7],  # lost part
}
"""Distortion -> its amount at each strength."""


def write_quality_database(
    folder: Path, photographs: int = 16, versions: int = 4, size: int = 96, seed: int = 0
) -> None:
    """Write src_imgs/, dst_imgs_all/ and csiq_label.txt.

    The references are the nine parts of each photograph's central square, 3 x 3: they share no pixel.

    Args:
        folder: empty.
        photographs: how many are used, at most 16.
        versions: distorted images of each reference, drawn from six kinds in five strengths, at most 30.
        size: height and width in pixels.
        seed: of the choice, of noise and amounts; an amount varies by a fifth up or down.
    """
    rng = np.random.default_rng(seed)
    kinds = [kind for kind in DISTORTIONS if kind != "jpeg2000" or features.check("jpg_2000")]
    if len(kinds) < len(DISTORTIONS):
        warnings.warn("Pillow has no OpenJPEG here: the sample is without jpeg2000", stacklevel=2)
    candidates = [(kind, strength) for kind in kinds for strength in range(1, STRENGTHS + 1)]
    for name in ("src_imgs", "dst_imgs_all"):
        (folder / name).mkdir()
    dissimilarity: dict[str, float] = {}
    for name, reference in _references(photographs, size):
        reference.save(folder / "src_imgs" / f"{name}.png")
        original = np.asarray(reference, np.float64)
        for chosen in sorted(rng.permutation(len(candidates))[:versions].tolist()):
            kind, strength = candidates[chosen]
            amount = AMOUNTS[kind][strength - 1] * rng.uniform(0.8, 1.2)
            pixels = DISTORTIONS[kind](original, amount, rng)
            image = Image.fromarray(pixels.clip(0, 255).round().astype(np.uint8))
            file = f"{name}.{kind}.{strength}.png"
            image.save(folder / "dst_imgs_all" / file)
            dissimilarity[file] = 1 - ssim(reference, image)
    values = np.array(list(dissimilarity.values()))
    scores = (values - values.min()) / (values.max() - values.min())
    scores = (scores + rng.normal(0, OBSERVER_NOISE, len(scores))).clip(0, 1)
    rows = [f"{file} {score:.6f}\n" for file, score in zip(dissimilarity, scores, strict=True)]
    write_text(folder / "csiq_label.txt", "".join(rows))


def ssim(one: Image.Image, other: Image.Image) -> float:
    """Structural similarity of two images' luminance, with Gaussian weights."""
    one, other = one.convert("L"), other.convert("L")
    options: dict[str, Any] = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    found: Any = structural_similarity(np.asarray(one, float), np.asarray(other, float), data_range=255.0, **options)
    return float(found)


def _references(photographs: int, size: int) -> Iterator[tuple[str, Image.Image]]:
    """The parts of the photographs, in RGB, evenly chosen from the list."""
    paths = [
        files(package.partition(".")[0]).joinpath(*package.split(".")[1:], name)
        for package, names in PHOTOGRAPHS.items()
        for name in names
    ]
    for k in np.linspace(0, len(paths) - 1, photographs).round().astype(int):
        with as_file(paths[k]) as path, Image.open(path) as opened:
            photograph = opened.convert("RGB")
        side = min(photograph.size) // GRID
        left, top = ((length - GRID * side) // 2 for length in photograph.size)
        for number in range(GRID**2):
            x, y = left + number % GRID * side, top + number // GRID * side
            part = photograph.resize((size, size), Image.Resampling.LANCZOS, box=(x, y, x + side, y + side))
            yield f"{Path(paths[k].name).stem}_{number + 1}", part


# -- distortions: (pixels, amount, rng) -> pixels -----------------------------------------------


def _white_noise(pixels: Pixels, amount: float, rng: np.random.Generator) -> Pixels:
    return pixels + rng.normal(0, amount, pixels.shape)


def _pink_noise(pixels: Pixels, amount: float, rng: np.random.Generator) -> Pixels:
    """Noise of which the amplitude falls with the frequency, 1/f."""
    rows, columns = (np.fft.fftfreq(n)[:, None] for n in pixels.shape[:2])
    frequency = np.hypot(rows, columns.T)
    frequency[0, 0] = np.inf
    spectrum = np.fft.fft2(rng.normal(size=pixels.shape), axes=(0, 1)) / frequency[..., None]
    noise = np.fft.ifft2(spectrum, axes=(0, 1)).real
    return pixels + amount * noise / noise.std()


def _blur(pixels: Pixels, amount: float, rng: np.random.Generator) -> Pixels:
    return gaussian_filter(pixels, (amount, amount, 0), mode="reflect")


def _lower_contrast(pixels: Pixels, amount: float, rng: np.random.Generator) -> Pixels:
    return pixels.mean() + (1 - amount) * (pixels - pixels.mean())


def _jpeg(pixels: Pixels, amount: float, rng: np.random.Generator) -> Pixels:
    return _saved(pixels, "JPEG", quality=max(2, round(amount)))


def _jpeg2000(pixels: Pixels, amount: float, rng: np.random.Generator) -> Pixels:
    return _saved(pixels, "JPEG2000", quality_mode="rates", quality_layers=[amount])


def _saved(pixels: Pixels, format: str, **options: object) -> Pixels:
    buffer = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(buffer, format, **options)
    with Image.open(buffer) as image:
        return np.asarray(image.convert("RGB"), np.float64)


DISTORTIONS: Mapping[str, Callable[[Pixels, float, np.random.Generator], Pixels]] = {
    "AWGN": _white_noise,
    "BLUR": _blur,
    "JPEG": _jpeg,
    "jpeg2000": _jpeg2000,
    "fnoise": _pink_noise,
    "contrast": _lower_contrast,
}
"""Under CSIQ's names."""
