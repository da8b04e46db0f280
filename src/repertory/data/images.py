"""Images in class folders (ImageNet's layout), and two small samples of real images in it.

    train/<class>/*.png|jpg|…    val/<class>/*.png|jpg|…      (or test/ in place of val/)
    <class>/*.png|jpg|…                                         (a fifth of each class is held out)

Classes are numbered in the order of their names, as everyone does for ImageNet's wnids. Links to folders are followed,
each folder once; hidden files and folders are left out; what is left out is counted in a warning.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from hashlib import sha256
from importlib.resources import as_file, files
from itertools import chain
from pathlib import Path
from typing import Any, cast

import numpy as np
from PIL import ExifTags, Image, ImageFile, ImageOps, UnidentifiedImageError, features
from timm.data import auto_augment, create_transform
from torch.utils.data import Dataset
from torchvision import transforms
from torchvision.datasets import CIFAR10, CIFAR100
from torchvision.datasets.folder import IMG_EXTENSIONS

from repertory.core.problem import Problem, reason, system_problem
from repertory.data.arrays import file_size
from repertory.data.splits import check_distinct_files

LAYOUT = """\
train/<class>/*.png or *.jpg, grey or RGB
val/<class>/*.png or *.jpg (or test/)
or <class>/*.png or *.jpg alone: a fifth of each class is held out"""
TRAIN, HELD_OUT = ("train", "training"), ("val", "valid", "validation", "test", "testing")
"""What the folders of the two parts are called; the first that is there is taken."""

_AVIF = "avif" in features.get_supported()
FORMATS = ("BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP", *(["AVIF"] if _AVIF else []))
"""What files may hold, whatever their names say. Pillow would hand PostScript to an interpreter."""
SUFFIXES = (
    *IMG_EXTENSIONS, ".gif", ".jfif", ".jp2", ".jpe", ".pbm", ".pnm", *([".avif"] if _AVIF else []),
)  # fmt: skip
"""What names of images end with, in small letters."""
LITTER_FOLDERS, LITTER_FILES = frozenset({"__MACOSX", "@eaDir"}), frozenset({"Thumbs.db", "desktop.ini"})
"""What unpacking and file managers leave behind: treated as hidden."""
CACHE_BYTES = 256 << 20
"""Decoded images are kept up to this size, so that a small set is decoded once."""

PHOTOGRAPHS = {
    "skimage": (
        "astronaut.png", "brick.png", "camera.png", "cell.png", "chelsea.png", "coffee.png", "coins.png", "grass.png",
        "gravel.png", "hubble_deep_field.jpg", "ihc.png", "moon.png", "page.png", "retina.jpg", "rocket.jpg",
        "motorcycle_left.png",
    ),
    "sklearn": ("china.jpg", "flower.jpg"),
}  # fmt: skip
"""What scikit-image (skimage/data) and scikit-learn (sklearn/datasets/images) ship."""
TEXTURES = ("astronaut", "brick", "camera", "chelsea", "coffee", "coins", "grass", "gravel", "moon", "rocket")
"""Photographs of `write_texture_crops`."""


# -- reading ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ImageSet(Dataset[tuple[Any, int]]):
    """Labelled images; `self[i]` is (transform(image), label), the image a PIL image in RGB."""

    paths: tuple[Path, ...]
    labels: tuple[int, ...]
    classes: tuple[str, ...]
    transform: Callable[[Image.Image], Any] | None = None
    _decoded: dict[Path, Image.Image] = field(default_factory=dict, repr=False, compare=False)
    _transformed: dict[Path, Any] | None = field(default=None, repr=False, compare=False)
    """Where the transform is fixed: its results."""

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def draws(self) -> bool:
        """Whether samples are random."""
        return self.transform is not None and self._transformed is None

    def __getitem__(self, index: int) -> tuple[Any, int]:
        path, label = self.paths[index], self.labels[index]
        if self._transformed is not None and path in self._transformed:
            return self._transformed[path], label
        image = self.image(index)
        value: Any = image if self.transform is None else self.transform(image)
        # Supposing that the others are as large as this one.
        if self._transformed is not None and (len(self._transformed) + 1) * value.nbytes <= CACHE_BYTES:
            self._transformed[path] = value
        return value, label

    def image(self, index: int) -> Image.Image:
        """One image, decoded or remembered. Do not change it."""
        path = self.paths[index]
        if path not in self._decoded:
            image = read_image(path)
            # Supposing that the others are as large as this one.
            if len(self._decoded) * 3 * image.width * image.height > CACHE_BYTES:
                return image
            self._decoded[path] = image
        return self._decoded[path]

    def with_transform(self, transform: Callable[[Image.Image], Any], fixed: bool = False) -> ImageSet:
        """The same images, transformed.

        Args:
            transform: image -> anything.
            fixed: it draws no random numbers and gives tensors or arrays: each image is transformed once, and the
                results are kept up to `CACHE_BYTES`.
        """
        return replace(self, transform=transform, _transformed={} if fixed else None)

    def subset(self, indices: Sequence[int]) -> ImageSet:
        """Some of the images."""
        return replace(self, paths=tuple(self.paths[i] for i in indices), labels=tuple(self.labels[i] for i in indices))

    def named(self, classes: Sequence[str]) -> ImageSet:
        """The same images, with their classes numbered as in `classes`, which may hold more of them.

        Raises:
            Problem: an image is of none of `classes`.
        """
        unknown = [name for name in self.classes if name not in classes]
        if unknown:
            raise Problem(
                f"images of the class {unknown[0]!r}, which is none of the {len(classes)} known ({classes[0]!r}, …)",
                self.paths[self.labels.index(self.classes.index(unknown[0]))].parent,
                "give images of the known classes, in folders of their names",
            )
        numbers = [list(classes).index(name) for name in self.classes]
        return replace(self, labels=tuple(numbers[label] for label in self.labels), classes=tuple(classes))

    def drawn(self, per_class: int, rng: np.random.Generator) -> ImageSet:
        """`per_class` images of each class, or all where there are fewer, drawn by `rng`."""
        labels = np.array(self.labels)
        of_classes = [rng.permutation(np.flatnonzero(labels == k))[:per_class] for k in range(len(self.classes))]
        return self.subset(np.sort(np.concatenate(of_classes)).tolist())


def has_splits(folder: Path) -> bool:
    """Whether a folder has parts: one to test on, or one to train on with class folders."""
    if any((folder / name).is_dir() for name in HELD_OUT):
        return True
    return any(path.is_dir() and _folders(path) for path in (folder / name for name in TRAIN))


def is_labelled(folder: Path) -> bool:
    """Whether `read_splits` finds anything: parts, or class folders with images."""
    return has_splits(folder) or (folder.is_dir() and any(_find(path)[0] for path in _folders(folder)))


def read_splits(folder: Path, seed: int = 0) -> tuple[ImageSet, ImageSet]:
    """The training and the held-out images of a folder; the training set is empty if there is only val/ or test/.

    Where no part is held out (class folders alone, or train/ alone), a fifth of each class is, at least one image, and
    a warning says so. The choice depends on the seed and on the names of the files; new files hardly change it.

    Args:
        folder: with train/ and one of `HELD_OUT`, or with class folders.
        seed: of that choice.

    Raises:
        Problem: no such folders, a class without images (or with one only, where a fifth is held out), held-out classes
            that are not in the training set, or a file that is in both sets, perhaps by a link.
    """
    if not is_labelled(folder):
        raise Problem("no images in class folders here", folder, f"expected: {'; '.join(LAYOUT.splitlines())}")
    trained = next((folder / name for name in TRAIN if (folder / name).is_dir()), None)
    held_out = next((folder / name for name in HELD_OUT if (folder / name).is_dir()), None)
    if held_out is None:
        whole = trained if trained and has_splits(folder) else folder
        train, test = _fifth_held_out(read_class_folders(whole), whole, seed)
        warnings.warn(
            f"{folder} has no part to test on: a fifth of each class is held out, {len(train)} images to train on and "
            f"{len(test)} to test on (seed {seed})",
            stacklevel=2,
        )
        check_distinct_files({"the part to train on": train.paths, "the part to test on": test.paths}, folder)
        return train, test
    test = read_class_folders(held_out)
    if trained is None:
        return ImageSet((), (), test.classes), test
    train = read_class_folders(trained)
    check_distinct_files({trained.name: train.paths, held_out.name: test.paths}, folder)
    return train, test.named(train.classes)


def _fifth_held_out(data: ImageSet, folder: Path, seed: int) -> tuple[ImageSet, ImageSet]:
    def place(index: int) -> bytes:
        return sha256(f"{seed}/".encode() + os.fsencode(data.paths[index].relative_to(folder).as_posix())).digest()

    labels, test = np.array(data.labels), list[int]()
    for k, name in enumerate(data.classes):
        own = np.flatnonzero(labels == k).tolist()
        if len(own) < 2:
            raise Problem(
                f"the class {name!r} has one image and cannot be split",
                data.paths[own[0]],
                "add images of this class, or create train/ and val/",
            )
        test += sorted(own, key=place)[: max(1, round(len(own) / 5))]
    return data.subset(sorted(set(range(len(data))) - set(test))), data.subset(sorted(test))


def read_class_folders(folder: Path) -> ImageSet:
    """The images below `folder`/<class>/, at any depth; classes are numbered in the order of their names.

    Files that are left out, see `image_files`, are counted in a warning, those beside the class folders too.

    Raises:
        Problem: no class folders, or one without images.
    """
    found = _folders(folder)
    if not found:
        raise Problem("no class folders here", folder, "put the images of each class into a folder of its name")
    paths: list[Path] = []
    labels: list[int] = []
    beside = sorted(path for path in folder.iterdir() if not path.is_dir())
    left_out = [path for path in beside if _is_meant(path.name, _hidden(path.name))]
    for number, path in enumerate(found):
        images, others = _find(path)
        if not images:
            raise Problem(f"the class {path.name!r} has no images", path, f"add images ({', '.join(SUFFIXES)})")
        paths += images
        labels += [number] * len(images)
        left_out += others
    _say_left_out(left_out, folder)
    return ImageSet(tuple(paths), tuple(labels), tuple(path.name for path in found))


def read_cifar10(folder: Path, train: bool) -> ImageSet:
    """CIFAR-10 as its owners distribute it: cifar-10-batches-py/{data_batch_1..5,test_batch,batches.meta}.

    Raises:
        Problem: files are missing or damaged.
    """
    return _read_cifar(CIFAR10, "CIFAR-10", folder, train)


def read_cifar100(folder: Path, train: bool) -> ImageSet:
    """CIFAR-100 as its owners distribute it: cifar-100-python/{train,test,meta}.

    Raises:
        Problem: files are missing or damaged.
    """
    return _read_cifar(CIFAR100, "CIFAR-100", folder, train)


def _read_cifar(reader: type[CIFAR10], name: str, folder: Path, train: bool) -> ImageSet:
    archive = folder / reader.base_folder
    try:
        data = reader(str(folder), train=train)  # checks what it unpickles
    except (RuntimeError, OSError) as error:
        raise Problem(f"{name} cannot be read: {error}", archive, f"unpack {reader.filename} again") from error
    paths = tuple(archive / f"{'train' if train else 'test'}-{i:05d}" for i in range(len(data)))
    decoded = {path: Image.fromarray(pixels) for path, pixels in zip(paths, data.data, strict=True)}
    return ImageSet(paths, tuple(data.targets), tuple(data.classes), _decoded=decoded)


def image_files(source: Path) -> list[Path]:
    """The image itself, or all images below a folder, sorted.

    Links to folders are followed, each folder once. Hidden files and folders, and files whose names end with none of
    `SUFFIXES`, are left out; a warning counts them and names the first.

    Raises:
        Problem: a folder that may not be read.
    """
    if source.is_file():
        return [source]
    images, left_out = _find(source)
    _say_left_out(left_out, source)
    return images


def _find(folder: Path) -> tuple[list[Path], list[Path]]:
    """Images below a folder, and files that are left out, both sorted."""
    images: list[str] = []
    left_out: list[str] = []
    seen = {_identity(path) for path in folder.resolve().parents}  # a link upwards would take in the other classes

    def look(place: str, hidden: bool) -> None:
        if (identity := _identity(place)) in seen:
            return
        seen.add(identity)
        folders = []
        for entry in _entries(place):
            name, kind, unseen = entry.name, _kind(entry), hidden or _hidden(entry.name)
            if kind == "folder":
                folders.append((unseen, entry.is_symlink(), name, entry.path))
            elif not unseen and name.lower().endswith(SUFFIXES) and kind == "file":
                images.append(entry.path)
            elif _is_meant(name, unseen):
                left_out.append(entry.path)
        for unseen, _, _, path in sorted(folders):
            look(path, unseen)

    look(str(folder), False)
    return _in_order(images), _in_order(left_out)


def _entries(folder: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError as error:
        raise system_problem(error) from error


def _kind(entry: os.DirEntry[str]) -> str:
    try:
        return "folder" if entry.is_dir() else "file" if entry.is_file() else ""
    except OSError:  # a link in a circle
        return ""


def _in_order(paths: list[str]) -> list[Path]:
    """As `sorted` of the paths, part by part, at a fraction of its time."""
    return [Path(path) for path in sorted(paths, key=lambda path: path.replace(os.sep, "\0"))]


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not _hidden(path.name))


def _hidden(name: str) -> bool:
    return name.startswith(".") or name in LITTER_FOLDERS or name in LITTER_FILES


def _is_meant(name: str, hidden: bool) -> bool:
    """Whether somebody may have meant this file: it is worth a word if it is left out."""
    return not hidden or (name.lower().endswith(SUFFIXES) and not name.startswith("._"))


def _identity(folder: Path | str) -> tuple[int, int]:
    status = os.stat(folder)  # noqa: PTH116  most are strings
    return status.st_dev, status.st_ino


def _say_left_out(paths: Sequence[Path], folder: Path) -> None:
    if paths:
        files = "1 file is" if len(paths) == 1 else f"{len(paths)} files are"
        warnings.warn(
            f"{folder}: {files} left out, hidden or not images by name (first: {paths[0].relative_to(folder)})",
            stacklevel=3,
        )


def read_image(path: Path, *, upright: bool = True) -> Image.Image:
    """One image in RGB, 8 bits a channel.

    - Grey is repeated. Grey of 9 to 16 bits is scaled by the range that its format states (0 to 2^bits - 1); floating
      point from 0 (black) to 1 (white). Other numbers have no fixed range and are refused.
    - Transparent pixels are composed over white.
    - Of several frames or pages the first is read.

    Args:
        path: the file.
        upright: turn it as its EXIF orientation says, as viewers do. False where boxes or masks are given for the
            pixels as they are stored, as COCO's are.

    Raises:
        Problem: the file is not an image in one of `FORMATS`, is truncated, or has grey values without a fixed range;
            names it.
    """
    with opened_image(path) as opened:
        image = _upright(opened) if upright else opened
        if image.mode.startswith(("I", "F")):
            image = _eight_bits(image, opened, path)
        if image.has_transparency_data:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        return image.convert("RGB")


@contextmanager
def opened_image(path: Path) -> Iterator[ImageFile.ImageFile]:
    """A file in one of `FORMATS`, opened; what Pillow raises while it is open becomes a Problem.

    Raises:
        Problem: missing, not an image, or damaged; names the file.
    """
    file_size(path)
    try:
        with Image.open(path, formats=FORMATS) as image:
            yield image
    except Problem:
        raise
    except UnidentifiedImageError as error:
        raise Problem("the file is not an image", path, f"give one of {', '.join(FORMATS)}") from error
    except Exception as error:  # Pillow's decoders raise many kinds on a damaged file
        raise Problem(f"the image cannot be read: {reason(error)}", path, "replace or remove the file") from error


def _upright(image: Image.Image) -> Image.Image:
    try:
        turned = image.getexif().get(ExifTags.Base.Orientation, 1) != 1
    except Exception:  # damaged EXIF data raise many kinds; viewers show such a photograph as it is stored
        return image
    return ImageOps.exif_transpose(image) if turned else image


def _eight_bits(image: Image.Image, opened: ImageFile.ImageFile, path: Path) -> Image.Image:
    """Grey of more than 8 bits -> mode L; `opened` tells the format of the file."""
    values = np.asarray(image)
    if image.mode.startswith("I;16") or (image.mode == "I" and opened.format == "PPM"):  # Pillow scales PGM to 16 bits
        bits = getattr(opened, "tag_v2", {}).get(ExifTags.Base.BitsPerSample, (16,))[0]
        return Image.fromarray((values * (255 / (2**bits - 1))).round().astype(np.uint8))
    if image.mode == "F" and values.min() >= 0 and values.max() <= 1:
        return Image.fromarray((values * 255).round().astype(np.uint8))
    low, high = f"{values.min():g}", f"{values.max():g}"
    raise Problem(
        f"32-bit grey values from {low} to {high} have no fixed range",
        path,
        "save it with 8 or 16 bits, or as floating point from 0 to 1",
    )


# -- augmentation -------------------------------------------------------------------------------


def augmentation(**options: Any) -> Callable[[Image.Image], Any]:
    """timm's training transform: `timm.data.create_transform(is_training=True, **options)`.

    Where the strongest posterisation would leave no bit of a colour, one is left: newer versions of Pillow refuse
    what older ones answered with a black image.
    """
    transform = cast(transforms.Compose, create_transform(is_training=True, **options))
    for step in transform.transforms:
        for operation in [*getattr(step, "ops", ()), *chain(*getattr(step, "policy", ()))]:
            if operation.aug_fn is auto_augment.posterize:
                operation.aug_fn = _posterize
    return transform


def _posterize(image: Image.Image, bits: int, **_: Any) -> Image.Image:
    return auto_augment.posterize(image, max(1, bits))


# -- samples ------------------------------------------------------------------------------------


def write_digits(folder: Path, size: int = 32, train: int = 50, val: int = 80) -> None:
    """scikit-learn's 8 x 8 scans of handwritten digits as an image folder.

    Args:
        folder: train/<digit>/ and val/<digit>/ are made in it.
        size: height and width in pixels, enlarged bilinearly.
        train: images of each digit for training, at most 90.
        val: images of each digit held out, at most 84: the last ones, which other writers wrote.
    """
    from sklearn.datasets import load_digits  # slow to import

    pixels, labels = load_digits(return_X_y=True)
    for digit in range(10):
        scans = (pixels[labels == digit].reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
        for part, chosen in (("train", scans[:train]), ("val", scans[-val:])):
            _write(folder / part / str(digit), (Image.fromarray(scan).resize((size, size)) for scan in chosen))


def write_photo_crops(folder: Path, size: int = 32, train: int = 240, val: int = 100, seed: int = 0) -> None:
    """Random grey crops of 18 photographs as an image folder; the class is the photograph.

    Training crops come from the upper 60 % of a photograph, held-out ones from the rest, so no pixel is in both.

    Args:
        folder: train/<photograph>/ and val/<photograph>/ are made in it.
        size: height and width in pixels.
        train: training crops of each photograph.
        val: held-out crops of each photograph.
        seed: other seeds cut other crops.
    """
    rng = np.random.default_rng(seed)
    for name, photograph in _photographs():
        width, height = photograph.size
        cut = round(0.6 * height)
        for part, count, top, bottom in (("train", train, 0, cut), ("val", val, cut, height)):
            crops = (_crop(photograph, (0, top, width, bottom), size, rng) for _ in range(count))
            _write(folder / part / name, crops)


def write_texture_crops(folder: Path, size: int = 32, train: int = 150, val: int = 60) -> None:
    """Grey crops of 10 photographs at their own resolution as an image folder; the class is the photograph.

    Training crops come from the left 60 % of a photograph, held-out ones from the right 30 %.

    Args:
        folder: train/<photograph>/ and val/<photograph>/ are made in it.
        size: height and width in pixels.
        train: training crops of each photograph.
        val: held-out crops of each photograph.
    """
    rng = np.random.default_rng(0)
    for name, photograph in _photographs():
        if name not in TEXTURES:
            continue
        width, height = photograph.size
        for part, count, left, right in (
            ("train", train, 0, round(0.6 * width)),
            ("val", val, round(0.7 * width), width),
        ):
            places = zip(
                rng.integers(left, right - size + 1, count), rng.integers(0, height - size + 1, count), strict=True
            )
            _write(folder / part / name, (photograph.crop((x, y, x + size, y + size)) for x, y in places))


def _photographs() -> Iterator[tuple[str, Image.Image]]:
    roots = {"skimage": files("skimage") / "data", "sklearn": files("sklearn") / "datasets" / "images"}
    for package, names in PHOTOGRAPHS.items():
        for name in names:
            with as_file(roots[package] / name) as path, Image.open(path) as image:
                yield path.stem, image.convert("L")


def _crop(
    photograph: Image.Image, region: tuple[int, int, int, int], size: int, rng: np.random.Generator
) -> Image.Image:
    """A square of 35 to 90 % of the region's shorter side, its contrast and brightness changed, perhaps mirrored."""
    left, top, right, bottom = region
    side = int(rng.uniform(0.35, 0.9) * min(right - left, bottom - top))
    x, y = int(rng.integers(left, right - side + 1)), int(rng.integers(top, bottom - side + 1))
    crop = photograph.resize((size, size), Image.Resampling.BILINEAR, box=(x, y, x + side, y + side))
    grey = np.asarray(crop, dtype=np.float64)
    grey = ((grey - grey.mean()) * rng.uniform(0.6, 1.2) + grey.mean()) * rng.uniform(0.7, 1.25)
    grey = grey[:, ::-1] if rng.random() < 0.5 else grey
    return Image.fromarray(grey.clip(0, 255).astype(np.uint8))


def _write(folder: Path, images: Iterator[Image.Image]) -> None:
    folder.mkdir(parents=True)
    for number, image in enumerate(images):
        image.save(folder / f"{number:04d}.png")
