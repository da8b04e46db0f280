"""Images in class folders: reading, bad input, and the two samples."""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from repertory.core.problem import Problem
from repertory.data import images


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("digits")
    images.write_digits(folder, train=4, val=3)
    return folder


def test_the_digits_are_read_back(digits: Path) -> None:
    train, val = images.read_splits(digits)
    assert (len(train), len(val)) == (40, 30)
    assert train.classes == val.classes == tuple("0123456789")
    assert train.labels == tuple(k for k in range(10) for _ in range(4))
    image, label = train[0]
    assert (image.mode, image.size, label) == ("RGB", (32, 32), 0)
    assert len({train.image(i).tobytes() for i in range(40)} | {val.image(i).tobytes() for i in range(30)}) == 70


def test_samples_do_not_change_from_one_writing_to_the_next(digits: Path, tmp_path: Path) -> None:
    images.write_digits(tmp_path / "again", train=4, val=3)
    images.write_photo_crops(tmp_path / "one", train=2, val=1)
    images.write_photo_crops(tmp_path / "two", train=2, val=1)
    for a, b in ((digits, tmp_path / "again"), (tmp_path / "one", tmp_path / "two")):
        files = [path.relative_to(a) for path in images.image_files(a)]
        assert files == [path.relative_to(b) for path in images.image_files(b)]
        assert all((a / path).read_bytes() == (b / path).read_bytes() for path in files)


def test_another_seed_cuts_other_crops(tmp_path: Path) -> None:
    for seed in (0, 1):
        images.write_photo_crops(tmp_path / str(seed), train=2, val=1, seed=seed)
    first, second = (
        {path.relative_to(root): path.read_bytes() for path in images.image_files(root)}
        for root in (tmp_path / "0", tmp_path / "1")
    )
    assert first.keys() == second.keys()
    assert all(first[name] != second[name] for name in first)


def test_photo_crops_are_grey_and_of_18_photographs(tmp_path: Path) -> None:
    images.write_photo_crops(tmp_path, size=48, train=3, val=2)
    train, val = images.read_splits(tmp_path)
    assert len(train.classes) == 18
    assert (len(train), len(val)) == (54, 36)
    pixels = np.stack([np.asarray(train.image(i)) for i in range(54)])
    assert pixels.shape == (54, 48, 48, 3)
    assert (pixels[..., 0] == pixels[..., 2]).all()
    assert pixels.std(axis=(1, 2, 3)).min() > 0


def test_texture_crops_are_grey_and_no_pixel_is_in_both_parts(tmp_path: Path) -> None:
    images.write_texture_crops(tmp_path, size=16, train=3, val=2)
    train, test = images.read_splits(tmp_path)
    assert train.classes == test.classes == images.TEXTURES
    assert (len(train), len(test), train.image(0).size) == (30, 20, (16, 16))
    red, green, blue = train.image(0).split()
    assert red.tobytes() == green.tobytes() == blue.tobytes()
    photographs = {name: np.asarray(photograph) for name, photograph in images._photographs()}
    for part, low, high in ((train, 0.0, 0.6), (test, 0.7, 1.0)):
        for index, label in enumerate(part.labels):
            photograph, crop = photographs[part.classes[label]], np.asarray(part.image(index))[..., 0]
            columns = np.flatnonzero(
                (np.lib.stride_tricks.sliding_window_view(photograph, (16, 16))[..., 0, :] == crop[0]).all(-1).any(0)
            )
            width = photograph.shape[1]
            assert any(round(low * width) <= x and x + 16 <= round(high * width) for x in columns)


def test_a_fixed_transform_is_applied_once(digits: Path) -> None:
    calls: list[int] = []

    def transform(image: Image.Image) -> np.ndarray:
        calls.append(1)
        return np.asarray(image)

    data = images.read_splits(digits)[0]
    fixed = data.with_transform(transform, fixed=True)
    first = [fixed[k] for k in range(3)]
    assert all(fixed[k][0] is first[k][0] for k in range(3))
    assert len(calls) == 3
    for k in range(3):
        np.testing.assert_array_equal(first[k][0], np.asarray(data.image(k)))
        assert first[k][1] == data.labels[k]
    assert fixed.subset([2])[0][0] is first[2][0]
    data.with_transform(transform)[0]
    fixed.with_transform(transform, fixed=True)[0]
    assert len(calls) == 5


def test_transformed_images_are_kept_up_to_a_size(digits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = images.read_splits(digits)[0].with_transform(np.array, fixed=True)
    monkeypatch.setattr(images, "CACHE_BYTES", 2 * data[0][0].nbytes)
    assert [data[k][0] is data[k][0] for k in range(4)] == [True, True, False, False]


def test_cifar10_as_its_owners_distribute_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = tmp_path / "cifar-10-batches-py"
    archive.mkdir()
    pixels = np.zeros((2, 3, 32, 32), np.uint8)
    pixels[:, 0] = 200  # the red plane comes first
    for number, name in enumerate([*(f"data_batch_{k}" for k in range(1, 6)), "test_batch"]):
        batch = {"data": pixels.reshape(2, 3072), "labels": [number % 3, 1]}
        (archive / name).write_bytes(pickle.dumps(batch))
    (archive / "batches.meta").write_bytes(pickle.dumps({"label_names": ["airplane", "automobile", "bird"]}))
    with pytest.raises(Problem, match="CIFAR-10 cannot be read"):  # not the files that their owners published
        images.read_cifar10(tmp_path, train=True)
    monkeypatch.setattr("torchvision.datasets.CIFAR10._check_integrity", lambda _self: True)
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *_: True)
    train, test = (images.read_cifar10(tmp_path, part) for part in (True, False))
    assert (len(train), len(test), train.classes) == (10, 2, ("airplane", "automobile", "bird"))
    assert train.labels[::2] == (0, 1, 2, 0, 1)
    assert np.asarray(train.image(0))[0, 0].tolist() == [200, 0, 0]


def test_a_small_set_is_decoded_once_and_a_large_one_is_not_kept(digits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[Path] = []
    original = images.read_image
    monkeypatch.setattr(images, "read_image", lambda path: decoded.append(path) or original(path))
    train, _ = images.read_splits(digits)
    for view in (train, train.with_transform(np.asarray), train.subset(range(40))):
        for i in range(40):
            view[i]
    assert len(decoded) == 40
    monkeypatch.setattr(images, "CACHE_BYTES", 10 * 32 * 32 * 3)
    large, _ = images.read_splits(digits)
    for _ in range(2):
        for i in range(40):
            large[i]
    assert len(large._decoded) <= 11


def test_drawn_takes_as_many_of_each_class_and_depends_on_the_generator_alone(digits: Path) -> None:
    train, _ = images.read_splits(digits)
    a, b, c = (train.drawn(2, np.random.default_rng(seed)) for seed in (0, 0, 1))
    assert a.paths == b.paths != c.paths
    assert np.bincount(a.labels).tolist() == [2] * 10
    assert train.drawn(99, np.random.default_rng(0)).paths == train.paths


@pytest.mark.parametrize("part", ["val", "test"])
def test_held_out_images_alone_can_be_read(digits: Path, tmp_path: Path, part: str) -> None:
    shutil.copytree(digits / "val", tmp_path / part)
    train, test = images.read_splits(tmp_path)
    assert (len(train), len(test)) == (0, 30)


def test_held_out_classes_keep_the_numbers_of_the_training_classes(digits: Path, tmp_path: Path) -> None:
    shutil.copytree(digits / "train", tmp_path / "train")
    shutil.copytree(digits / "val" / "7", tmp_path / "val" / "7")
    assert set(images.read_splits(tmp_path)[1].labels) == {7}


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (Image.fromarray(np.full((4, 4), 200, np.uint8)), 200),
        (Image.fromarray(np.full((4, 4), 200 * 257, np.uint16)), 200),
        (Image.new("RGBA", (4, 4), (0, 0, 0, 51)), 204),
        (Image.new("LA", (4, 4), (0, 0)), 255),
        (Image.new("P", (4, 4), 0), 0),
        (Image.new("1", (4, 4), 1), 255),
    ],
    ids=["grey", "16 bits", "transparent", "grey and transparent", "palette", "black and white"],
)
def test_every_kind_of_image_becomes_rgb(image: Any, expected: int, tmp_path: Path) -> None:
    image.save(tmp_path / "x.png")
    read = images.read_image(tmp_path / "x.png")
    assert read.mode == "RGB"
    assert (np.asarray(read) == expected).all()


@pytest.mark.parametrize("policy", ["rand-m10-inc1", "v0"])
def test_the_strongest_posterisation_leaves_a_bit(policy: str) -> None:
    transform: Any = images.augmentation(input_size=32, auto_augment=policy)
    image = Image.new("RGB", (40, 40), (200, 100, 50))
    operations = []
    for step in transform.transforms:
        operations += [*getattr(step, "ops", ()), *(op for pair in getattr(step, "policy", ()) for op in pair)]
    posterize = [op for op in operations if op.name.startswith("Posterize")]
    assert posterize
    for operation in posterize:
        assert operation.aug_fn(image, 0).getpixel((0, 0)) == (128, 0, 0)
    assert transform(image).shape == (3, 32, 32)


def ramp(top: float) -> np.ndarray:
    return np.linspace(0, top, 64 * 64).reshape(64, 64)


def save_depth(path: Path, kind: str) -> None:
    match kind:
        case "16-bit PGM":
            path.write_bytes(b"P5\n64 64\n65535\n" + ramp(65535).astype(">u2").tobytes())
        case "10-bit PGM":
            path.write_bytes(b"P5\n64 64\n1023\n" + ramp(1023).astype(">u2").tobytes())
        case "16-bit TIFF":
            Image.fromarray(ramp(65535).astype(np.uint16)).save(path, "TIFF")
        case "12-bit TIFF":
            save_12_bits(path, ramp(4095).astype(int))
        case "unit float":
            Image.fromarray(ramp(1).astype(np.float32)).save(path, "TIFF")
        case "int32":
            Image.fromarray(ramp(65535).astype(np.int32)).save(path, "TIFF")
        case "float to 255":
            Image.fromarray(ramp(255).astype(np.float32)).save(path, "TIFF")
        case "float with NaN":
            Image.fromarray(np.full((4, 4), np.nan, np.float32)).save(path, "TIFF")


def save_12_bits(path: Path, values: np.ndarray) -> None:
    """Two values in three bytes, as some scanners write."""
    a, b = values.reshape(-1, 2).T
    packed = np.stack([a >> 4, (a & 15) << 4 | b >> 8, b & 255], 1).astype(np.uint8).tobytes()
    side = values.shape[0]
    tags = {256: side, 257: side, 258: 12, 259: 1, 262: 1, 273: 8, 277: 1, 278: side, 279: len(packed)}
    entries = b"".join(
        np.array([tag, 4], "<u2").tobytes() + np.array([1, v], "<u4").tobytes() for tag, v in tags.items()
    )
    header = b"II*\0" + np.array([8 + len(packed)], "<u4").tobytes()
    path.write_bytes(header + packed + np.array([len(tags)], "<u2").tobytes() + entries + bytes(4))


@pytest.mark.parametrize("kind", ["16-bit PGM", "10-bit PGM", "16-bit TIFF", "12-bit TIFF", "unit float"])
def test_deep_grey_is_scaled_by_the_range_of_its_format(kind: str, tmp_path: Path) -> None:
    save_depth(tmp_path / "deep.tif", kind)
    read = np.asarray(images.read_image(tmp_path / "deep.tif"))
    assert np.abs(read[..., 0] - ramp(255)).max() <= 1


@pytest.mark.parametrize("kind", ["int32", "float to 255", "float with NaN"])
def test_grey_without_a_fixed_range_is_refused(kind: str, tmp_path: Path) -> None:
    save_depth(tmp_path / "deep.tif", kind)
    with pytest.raises(Problem, match="have no fixed range") as caught:
        images.read_image(tmp_path / "deep.tif")
    assert caught.value.where == str(tmp_path / "deep.tif")


def test_a_transparent_colour_of_a_palette_is_white(tmp_path: Path) -> None:
    image = Image.new("P", (4, 4), 0)
    image.save(tmp_path / "x.gif", transparency=0)
    image.save(tmp_path / "x.png", transparency=0)
    assert all((np.asarray(images.read_image(tmp_path / name)) == 255).all() for name in ("x.gif", "x.png"))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
def test_photographs_are_turned_as_viewers_turn_them(orientation: int, suffix: str, tmp_path: Path) -> None:
    """The pixels are stored such that every orientation shows the same picture, without symmetry."""
    shown = Image.new("L", (32, 64))
    shown.paste(120, (0, 0, 16, 64))
    shown.paste(250, (0, 0, 16, 32))
    back = {
        2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE", 6: "ROTATE_90", 7: "TRANSVERSE",
        8: "ROTATE_270",
    }  # fmt: skip
    stored = shown.transpose(Image.Transpose[back[orientation]]) if orientation > 1 else shown
    exif = stored.getexif()
    exif[0x0112] = orientation
    path = tmp_path / f"phone.{suffix}"
    stored.convert("RGB").save(path, exif=exif)
    read = np.asarray(images.read_image(path))[..., 0].astype(int)
    assert np.abs(read - np.asarray(shown)).mean() < 6
    assert images.read_image(path, upright=False).size == stored.size


def test_damaged_exif_data_do_not_hide_a_photograph(tmp_path: Path) -> None:
    Image.new("RGB", (8, 4)).save(tmp_path / "x.jpg", exif=b"Exif\0\0nonsense" * 9)
    assert images.read_image(tmp_path / "x.jpg").size == (8, 4)


def class_folder(folder: Path, count: int = 1) -> None:
    folder.mkdir(parents=True)
    for i in range(count):
        Image.new("RGB", (4, 4), (i, 0, 0)).save(folder / f"{i:02d}.png")


def test_what_is_left_out_of_a_class_is_said_once(tmp_path: Path) -> None:
    for name in ("ant", "bee"):
        class_folder(tmp_path / name, 2)
        shutil.copytree(tmp_path / name, tmp_path / name / ".ipynb_checkpoints")
        (tmp_path / name / "notes.txt").touch()
        (tmp_path / name / "._00.png").touch()
        (tmp_path / name / ".DS_Store").touch()
    (tmp_path / "ant" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    with pytest.warns(UserWarning, match="left out") as said:
        data = images.read_class_folders(tmp_path)
    assert len(data) == 4
    assert [str(line.message).partition(": ")[2] for line in said] == [
        f"7 files are left out, hidden or not images by name (first: {Path('ant', '.ipynb_checkpoints', '00.png')})"
    ]


def test_images_are_known_by_all_their_suffixes(tmp_path: Path) -> None:
    for suffix in (".gif", ".jfif", ".JPG", ".webp", ".jp2", ".pbm"):
        Image.new("RGB" if suffix != ".pbm" else "1", (4, 4)).save(
            tmp_path / f"x{suffix}", {".jfif": "JPEG"}.get(suffix)
        )
    found = images.image_files(tmp_path)
    assert len(found) == 6
    assert all(images.read_image(path).size == (4, 4) for path in found)


def test_links_to_folders_are_followed_once(tmp_path: Path) -> None:
    class_folder(tmp_path / "elsewhere", 3)
    class_folder(tmp_path / "data" / "ant", 2)
    class_folder(tmp_path / "data" / "bee", 1)
    links = {"linked": tmp_path / "elsewhere", "again": tmp_path / "elsewhere", "loop": tmp_path / "data" / "ant"}
    for name, target in {**links, "up": tmp_path / "data"}.items():
        (tmp_path / "data" / "ant" / name).symlink_to(target)
    data = images.read_class_folders(tmp_path / "data")
    assert np.bincount(data.labels).tolist() == [5, 1]


def test_litter_of_archives_is_no_class(tmp_path: Path) -> None:
    class_folder(tmp_path / "val" / "ant")
    (tmp_path / "val" / "__MACOSX").mkdir()
    assert images.read_splits(tmp_path)[1].classes == ("ant",)


@pytest.mark.parametrize("layout", ["", "train", "training"])
def test_a_flat_folder_of_classes_is_split_by_a_seed(layout: str, tmp_path: Path) -> None:
    for name, count in {"ant": 10, "bee": 15, "cat": 2}.items():
        class_folder(tmp_path / layout / name, count)
    with pytest.warns(UserWarning, match="a fifth of each class is held out, 21 images to train on and 6 to test"):
        train, test = images.read_splits(tmp_path)
    assert np.bincount(train.labels).tolist() == [8, 12, 1]
    assert np.bincount(test.labels).tolist() == [2, 3, 1]
    assert not set(train.paths) & set(test.paths)
    with pytest.warns(UserWarning, match="seed 1"):
        other = images.read_splits(tmp_path, seed=1)[1]
    assert other.paths != test.paths
    Image.new("RGB", (4, 4)).save(tmp_path / layout / "bee" / "new.png")
    with pytest.warns(UserWarning, match="held out"):
        later = images.read_splits(tmp_path)[0]
    assert len(set(later.paths) & set(test.paths)) <= 1


def test_a_class_called_train_is_a_class(tmp_path: Path) -> None:
    for name in ("bus", "train"):
        class_folder(tmp_path / name, 5)
    with pytest.warns(UserWarning, match="held out"):
        assert images.read_splits(tmp_path)[0].classes == ("bus", "train")


@pytest.mark.parametrize("part", ["valid", "validation", "testing"])
def test_parts_are_known_by_their_usual_names(part: str, tmp_path: Path) -> None:
    class_folder(tmp_path / "train" / "ant", 3)
    class_folder(tmp_path / part / "ant", 2)
    shutil.copy(tmp_path / "train" / "ant" / "02.png", tmp_path / part / "ant" / "00.png")
    assert [len(part) for part in images.read_splits(tmp_path)] == [3, 2]


# -- bad input ----------------------------------------------------------------------------------


def test_a_class_of_one_image_cannot_be_split(tmp_path: Path) -> None:
    class_folder(tmp_path / "ant", 5)
    class_folder(tmp_path / "bee", 1)
    with pytest.raises(Problem, match="the class 'bee' has one image and cannot be split"):
        images.read_splits(tmp_path)


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_a_truncated_image_is_named(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"broken.{suffix}"
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(Problem, match="cannot be read") as caught:
        images.read_image(path)
    assert caught.value.where == str(path)


@pytest.mark.parametrize("content", [b"", b"not an image"])
def test_a_file_that_is_no_image_is_named(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "note.png"
    path.write_bytes(content)
    with pytest.raises(Problem, match="not an image") as caught:
        images.read_image(path)
    assert caught.value.where == str(path)


def test_an_empty_class_folder_is_named(digits: Path, tmp_path: Path) -> None:
    shutil.copytree(digits, tmp_path / "data")
    (tmp_path / "data" / "train" / "empty").mkdir()
    (tmp_path / "data" / "train" / ".cache").mkdir()
    with pytest.raises(Problem, match="'empty' has no images") as caught:
        images.read_splits(tmp_path / "data")
    assert caught.value.where.endswith("empty")


def test_no_class_folders(tmp_path: Path) -> None:
    with pytest.raises(Problem, match="no images in class folders"):
        images.read_splits(tmp_path)
    (tmp_path / "train").mkdir()
    (tmp_path / "val").mkdir()
    with pytest.raises(Problem, match="no class folders") as caught:
        images.read_splits(tmp_path)
    assert caught.value.where == str(tmp_path / "val")


def test_a_held_out_class_that_was_not_trained_is_named(digits: Path, tmp_path: Path) -> None:
    shutil.copytree(digits, tmp_path / "data")
    shutil.rmtree(tmp_path / "data" / "train" / "3")
    with pytest.raises(Problem, match="class '3', which is none of the 9"):
        images.read_splits(tmp_path / "data")


# -- real data ----------------------------------------------------------------------------------


@pytest.mark.realdata
@pytest.mark.parametrize(
    ("name", "train", "test", "classes"), [("mnist-png", 1500, 600, 10), ("cifar10-subset", 10_000, 2_000, 10)]
)
def test_real_image_folders(name: str, train: int, test: int, classes: int, real_data: Callable[[str], Path]) -> None:
    folder = real_data(name)
    parts = images.read_splits(folder)
    assert (len(parts[0]), len(parts[1]), len(parts[0].classes)) == (train, test, classes)
    assert parts[0].image(0).mode == "RGB"
