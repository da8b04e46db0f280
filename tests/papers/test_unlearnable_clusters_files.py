"""Unlearnable Clusters: files of all formats, protected folders, hackers and baselines, bad input."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image, ImageFilter
from pydantic import ValidationError
from torch import nn

from repertory.core import checkpoint
from repertory.core.problem import Problem
from repertory.core.study import Session
from repertory.papers.unlearnable_clusters import Generator, Protection, Surrogate, clip_resnet
from repertory.papers.unlearnable_clusters.baselines import minimise_error, random_signs, synthetic
from repertory.papers.unlearnable_clusters.files import Protected, protect_file, psnr, read_picture, ssim
from repertory.papers.unlearnable_clusters.hackers import contrastive_loss
from repertory.papers.unlearnable_clusters.networks import build, load_surrogate
from repertory.papers.unlearnable_clusters.settings import UnlearnableClustersConfig
from repertory.papers.unlearnable_clusters.study import UnlearnableClustersStudy
from repertory.papers.unlearnable_clusters.views import protected, relabelled
from tests.fidelity.fill import fill_

EPS = 16
RNG = np.random.default_rng(0)
PHOTO = Image.fromarray(RNG.integers(0, 256, (45, 60, 3), dtype=np.uint8)).filter(ImageFilter.GaussianBlur(2))
NOISE = (EPS * RNG.choice([-1, 1], (16, 16, 3))).astype(np.int16)


def study(tmp_path: Path, data: Path | None = None, **settings: Any) -> UnlearnableClustersStudy:
    smoke = UnlearnableClustersStudy.scales["smoke"].model_dump()
    config = UnlearnableClustersConfig.model_validate({**smoke, **settings})
    return UnlearnableClustersStudy(config, Session(0, tmp_path / "session", data))


def protect(image: Image.Image, name: str, tmp_path: Path, **options: Any) -> Protected:
    """Save an image under a name, and protect it."""
    saving = {key: options.pop(key) for key in ("exif", "quality_before", "icc_profile", "pnginfo") if key in options}
    if "quality_before" in saving:
        saving["quality"] = saving.pop("quality_before")
    image.save(tmp_path / name, **saving)
    return protect_file(tmp_path / name, tmp_path / "out" / name, lambda _: (3, NOISE), EPS, **options)


# -- formats ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.ppm", "a.tiff", "a.webp", "a.jp2", "A.PNG"])
def test_lossless_files_hold_the_noise_exactly(name: str, tmp_path: Path) -> None:
    options: dict[str, Any] = {"lossless": True} if name.endswith("webp") else {}
    PHOTO.save(tmp_path / name, **options)
    done = protect_file(tmp_path / name, tmp_path / "out" / name, lambda _: (3, NOISE), EPS)
    before, after = (Image.open(path) for path in (tmp_path / name, tmp_path / "out" / name))
    assert (after.format, after.size, after.mode) == (before.format, before.size, "RGB")
    change = np.asarray(after).astype(int) - np.asarray(before)
    assert np.abs(change).max() == done.difference.largest == EPS
    assert done.difference.kept == 1
    assert done.difference.psnr == pytest.approx(psnr(np.asarray(before), np.asarray(after)))
    assert done.difference.psnr == pytest.approx(20 * np.log10(255 / EPS), abs=0.5)


def test_jpeg_is_measured_as_it_is_on_disk(tmp_path: Path) -> None:
    done = protect(PHOTO, "a.jpg", tmp_path, quality_before=70)
    before, after = (np.asarray(Image.open(path)).astype(int) for path in (tmp_path / "a.jpg", done.path))
    assert Image.open(done.path).format == "JPEG"
    assert done.difference.largest == np.abs(after - before).max()
    assert 0.8 < done.difference.kept < 1.1
    assert any("differ by more than eps" in note for note in done.notes) == (done.difference.largest > EPS)
    weak = protect(PHOTO, "b.jpg", tmp_path, quality_before=70, quality=30)
    assert weak.difference.kept < done.difference.kept
    fine = protect(PHOTO, "c.jpg", tmp_path, quality_before=100)
    tables = [Image.open(path).quantization for path in (tmp_path / "c.jpg", fine.path)]  # pyright: ignore[reportAttributeAccessIssue]
    assert tables[0] == tables[1], "a better quality than asked for is kept"


def test_png_for_all_loses_nothing_and_overwrites_nothing(tmp_path: Path) -> None:
    first = protect(PHOTO, "a.jpg", tmp_path, format="png")
    assert first.path.name == "a.png"
    assert first.difference.largest == EPS
    assert first.notes == ["JPEG became PNG"]
    second = protect(PHOTO, "a.bmp", tmp_path, format="png")
    assert second.path.name == "a.bmp.png"
    Image.new("RGB", (9, 9)).save(tmp_path / "b.png")
    assert protect(PHOTO, "b.jpg", tmp_path, format="png").path.name == "b.jpg.png"
    gif = protect(PHOTO, "c.gif", tmp_path, format="png")
    assert (gif.path.name, gif.difference.largest) == ("c.png", EPS)


def test_alpha_is_kept_aside(tmp_path: Path) -> None:
    alpha = Image.fromarray(RNG.integers(0, 256, (45, 60), dtype=np.uint8))
    image = PHOTO.copy()
    image.putalpha(alpha)
    done = protect(image, "a.png", tmp_path)
    after = Image.open(done.path)
    assert after.mode == "RGBA"
    assert np.array_equal(np.asarray(after)[..., 3], np.asarray(alpha))
    assert done.difference.largest == EPS
    grey = Image.merge("LA", (PHOTO.convert("L"), alpha))
    done = protect(grey, "b.png", tmp_path)
    after = Image.open(done.path)
    assert after.mode == "LA"
    assert np.array_equal(np.asarray(after)[..., 1], np.asarray(alpha))
    assert done.notes == ["grey: the noise is its luminance"]
    assert 0 < done.difference.largest <= EPS


@pytest.mark.parametrize(
    ("convert", "name", "mode", "note"),
    [
        (lambda: PHOTO.quantize(64), "a.png", "RGB", "palette became RGB"),
        (lambda: PHOTO.convert("CMYK"), "a.jpg", "RGB", "CMYK became RGB"),
        (lambda: PHOTO.convert("1"), "a.png", "L", "black and white became grey"),
        (lambda: PHOTO.convert("L"), "a.jpg", "L", "grey: the noise is its luminance"),
        (
            lambda: Image.fromarray(np.asarray(PHOTO.convert("L")).astype(np.uint16) * 257),
            "a.png", "L", "16 bits reduced to 8",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_kept_is_said(
    convert: Callable[[], Image.Image], name: str, mode: str, note: str, tmp_path: Path
) -> None:
    done = protect(convert(), name, tmp_path)
    assert Image.open(done.path).mode == mode
    assert any(said.startswith(note) for said in done.notes), done.notes


def test_exif_and_profile_stay_and_the_thumbnail_goes(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    exif[ExifTags.Base.Make] = "Camera"
    done = protect(PHOTO, "a.jpg", tmp_path, exif=exif, icc_profile=b"profile")
    after = Image.open(done.path)
    assert after.size == PHOTO.size, "stored pixels are not turned"
    assert after.getexif()[ExifTags.Base.Orientation] == 6
    assert after.getexif()[ExifTags.Base.Make] == "Camera"
    assert after.info["icc_profile"] == b"profile"
    assert any(note.startswith("turned by EXIF") for note in done.notes)


def test_what_is_no_still_image_is_refused(tmp_path: Path) -> None:
    frames = [PHOTO, PHOTO.rotate(90)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    with pytest.raises(Problem, match="2 frames"):
        read_picture(tmp_path / "a.gif")
    Image.fromarray(RNG.random((9, 9), dtype=np.float32)).save(tmp_path / "f.tiff")
    with pytest.raises(Problem, match="32 bits a pixel"):
        read_picture(tmp_path / "f.tiff")
    PHOTO.save(tmp_path / "one.gif")
    with pytest.raises(Problem, match="GIF holds 256 colours") as caught:
        protect_file(tmp_path / "one.gif", tmp_path / "out" / "one.gif", lambda _: (0, NOISE), EPS)
    assert "format=png" in caught.value.remedy
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(Problem, match="not an image"):
        read_picture(tmp_path / "text.png")
    PHOTO.save(tmp_path / "cut.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:900])
    with pytest.raises(Problem, match="cannot be read"):
        read_picture(tmp_path / "cut.png")
    with pytest.raises(Problem, match="would overwrite the original"):
        protect_file(tmp_path / "one.gif", tmp_path / "one.gif", lambda _: (0, NOISE), EPS)


def test_ssim_of_tiny_images() -> None:
    tiny = np.zeros((2, 9, 3), np.uint8)
    assert np.isnan(ssim(tiny, tiny))
    assert ssim(np.asarray(PHOTO), np.asarray(PHOTO)) == pytest.approx(1)


# -- folders ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model() -> Protection:
    model = Protection("clusters", 2, 32, surrogate="small", features=64, resize=32).eval()
    assert model.surrogate is not None
    fill_(model.surrogate)
    model.deltas.copy_(random_signs(2, 32, EPS / 255, torch.Generator().manual_seed(0)))
    light, dark = (torch.full((1, 3, 32, 32), value) for value in (0.9, 0.1))
    model.centres.copy_(model.surrogate(torch.cat([light, dark])))
    return model


def test_a_folder_comes_out_with_the_same_names(tmp_path: Path, model: Protection) -> None:
    """Broken files have a row with the reason; the others are protected."""
    owner = tmp_path / "owner"
    (owner / "deep" / "er").mkdir(parents=True)
    Image.new("RGB", (40, 30), (230, 230, 230)).save(owner / "light.png")
    Image.new("RGB", (30, 50), (25, 25, 25)).save(owner / "deep" / "er" / "dark.JPG")
    (owner / "broken.png").write_bytes(b"no image")
    (owner / "notes.txt").write_text("mine")
    before = {path: path.read_bytes() for path in owner.rglob("*") if path.is_file()}
    prediction = study(tmp_path).predict(model, owner)
    out = prediction.files["protected"]
    assert {str(p.relative_to(out)) for p in out.rglob("*") if p.is_file()} == {"light.png", "deep/er/dark.JPG"}
    rows = {row["file"]: row for row in prediction.table}
    assert (rows["light.png"]["noise"], rows["deep/er/dark.JPG"]["noise"]) == (0, 1)
    assert "not an image" in rows["broken.png"]["problem"]
    assert rows["light.png"]["largest"] == EPS
    assert Image.open(out / "deep" / "er" / "dark.JPG").size == (30, 50)
    assert "2 of 3 images protected" in prediction.text
    assert "1 other files are not copied (first: notes.txt)" in prediction.text
    assert set(prediction.figures) == {"sheet", "perturbations"}
    assert {path: path.read_bytes() for path in owner.rglob("*") if path.is_file()} == before
    one = study(tmp_path / "one").predict(model, owner / "light.png")
    assert [row["file"] for row in one.table] == ["light.png"]
    small = study(tmp_path / "small", keep_size=False, format="png").predict(model, owner)
    assert Image.open(small.files["protected"] / "deep" / "er" / "dark.png").size == (32, 32)


def test_an_output_in_the_input_is_not_protected_again(tmp_path: Path, model: Protection) -> None:
    owner = tmp_path / "owner"
    (owner / "protected").mkdir(parents=True)
    for place in (owner, owner / "protected"):
        PHOTO.save(place / "a.png")
    prediction = study(tmp_path).predict(model, owner)
    assert [row["problem"].partition(",")[0] for row in prediction.table] == ["", "lies in protected"]
    with pytest.raises(Problem, match="the folder is called protected"):
        study(tmp_path).predict(model, owner / "protected")


def test_folders_without_images_are_named(tmp_path: Path, model: Protection) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(Problem, match="no images here"):
        study(tmp_path).predict(model, tmp_path / "empty")
    (tmp_path / "empty" / "a.png").write_bytes(b"no image")
    with pytest.raises(Problem, match="none of 1 images can be protected") as caught:
        study(tmp_path).predict(model, tmp_path / "empty")
    assert "not an image" in caught.value.remedy
    with pytest.raises(Problem, match="adds no noise"):
        study(tmp_path).predict(Protection("nothing", 0, 32), tmp_path / "empty")


def test_an_unlabelled_folder_is_enough(tmp_path: Path) -> None:
    owner = tmp_path / "owner"
    (owner / "a").mkdir(parents=True)
    for k in range(6):
        Image.fromarray(RNG.integers(0, 256, (33 + k, 40, 3), dtype=np.uint8)).save(owner / "a" / f"{k}.png")
    this = study(tmp_path, owner, generator_batch_size=3)
    data = this.data()
    assert (len(data.train), len(data.test)) == (6, 0)
    model = this.train("uc", data)
    assert model.deltas.abs().max() <= torch.tensor(EPS / 255)
    metrics = this.evaluate(model, data)
    assert set(metrics) == {"psnr", "ssim", "mean_delta", "largest_delta"}
    assert metrics["largest_delta"] <= EPS
    checkpoint.save(model, tmp_path / "model")
    loaded = checkpoint.load(tmp_path / "model")
    assert torch.equal(loaded.deltas, model.deltas)
    assert this.predict(loaded, owner).table == this.predict(model, owner).table
    other = study(tmp_path / "l2", owner, generator_batch_size=3, norm="l2", eps=500, own_cluster=True)
    norms = other.train("uc", data).deltas.flatten(1).norm(dim=1)
    torch.testing.assert_close(norms, torch.full((2,), 500 / 255))
    with pytest.raises(Problem, match="needs the owner's labels"):
        this.train("em", data)
    with pytest.raises(Problem, match="6 images for 50 clusters"):
        study(tmp_path / "many", owner, clusters=50).train("uc", data)
    (tmp_path / "none").mkdir()
    with pytest.raises(Problem, match="no data for unlearnable_clusters"):
        study(tmp_path, tmp_path / "none").data()


# -- the experiment -----------------------------------------------------------------------------


def test_a_generator_moves_the_images_to_its_target(tmp_path: Path) -> None:
    """UC's images lie closer to the other centre than those of uc_own, by the loss that generators lower."""
    this = study(tmp_path, generator_epochs=15, generator_lr=1e-3, surrogate_epochs=20)
    data = this.data()
    losses: dict[str, float] = {}
    for arm in ("uc", "uc_own"):
        model = this.train(arm, data)
        assert model.surrogate is not None
        numbers = this._numbers(model, data)
        load = protected(data.train, model, numbers, keep_size=True)
        x = torch.stack([torch.tensor(np.asarray(load(k))).permute(2, 0, 1) / 255 for k in range(len(data.train))])
        q = model.centres.roll(-1, 0)[numbers].softmax(1)
        with torch.no_grad():
            losses[arm] = float((q * (q.log() - model.surrogate(x).log_softmax(1))).sum(1).mean())
    assert losses["uc"] < 0.9 * losses["uc_own"]


def test_label_sets() -> None:
    from repertory.data.images import ImageSet

    digits = ImageSet((Path("x"),) * 10, tuple(range(10)), tuple("0123456789"))
    assert relabelled(digits, "classes") == (list(range(10)), 10)
    assert relabelled(digits, "parity") == ([0, 1] * 5, 2)
    assert relabelled(digits, "halves") == ([0] * 5 + [1] * 5, 2)
    assert relabelled(digits, "merged") == ([0, 1, 2, 3, 4] * 2, 5)


def test_baseline_noise_has_the_full_bound() -> None:
    for make in (random_signs, synthetic):
        noise = make(3, 32, 0.0625, torch.Generator().manual_seed(0))
        assert noise.shape == (3, 3, 32, 32)
        assert torch.equal(noise.abs(), torch.full_like(noise, 0.0625))
    assert torch.equal(noise[..., :4, :4], noise[..., :1, :1].expand(-1, -1, 4, 4)), "patches"


@pytest.mark.parametrize("steps", [1, 3])
def test_error_minimising_noise_lowers_the_loss(steps: int, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    x, labels = torch.rand(40, 3, 8, 8, generator=generator), [k % 2 for k in range(40)]
    images = [(image, 0) for image in x]
    network = nn.Sequential(nn.Flatten(), nn.Linear(192, 2))
    groups = labels if steps == 1 else list(range(40))
    recipe = UnlearnableClustersConfig(hacker_batch_size=20).hacker_recipe(lr=0.01)
    noise = minimise_error(
        Session(0, tmp_path), network, images, labels, groups, 8, 0.0625, recipe,  # pyright: ignore[reportArgumentType]
        steps=steps, threshold=0.0, rounds=3, batches=4,
    )  # fmt: skip
    assert noise.shape == (max(groups) + 1, 3, 8, 8)
    assert noise.abs().max() <= 0.0625
    y = torch.tensor(labels)
    with torch.no_grad():
        plain, eased = (
            nn.functional.cross_entropy(network(images), y) for images in (x, (x + noise[groups]).clamp(0, 1))
        )
    assert eased < 0.9 * plain


def test_the_contrastive_loss_is_its_definition() -> None:
    one, other = (nn.functional.normalize(torch.randn(3, 5)) for _ in range(2))
    views = torch.cat([one, other])
    terms = []
    for i in range(6):
        j = (i + 3) % 6
        others = torch.stack([torch.exp(views[i] @ views[k] / 0.5) for k in range(6) if k != i])
        terms.append(-torch.log(torch.exp(views[i] @ views[j] / 0.5) / others.sum()))
    torch.testing.assert_close(contrastive_loss(one, other), torch.stack(terms).mean())


def test_class_wise_noise_needs_known_classes(tmp_path: Path) -> None:
    this = study(tmp_path, owner_labels="classes")
    data = this.data()
    model = this.train("synthetic", data)
    assert model.names == data.train.classes
    (tmp_path / "more" / "7").mkdir(parents=True)
    PHOTO.save(tmp_path / "more" / "7" / "a.png")
    assert [row["noise"] for row in this.predict(model, tmp_path / "more").table] == [7]
    (tmp_path / "other").mkdir()
    PHOTO.save(tmp_path / "other" / "a.png")
    with pytest.raises(Problem, match="none of 1 images can be protected") as caught:
        this.predict(model, tmp_path / "other")
    assert "no noise for the class" in caught.value.remedy
    each = this.train("em", data)
    assert len(each.names) == len(data.train)
    chosen = data.train.paths[3]
    (tmp_path / "few" / chosen.parent.name).mkdir(parents=True)
    shutil.copy(chosen, tmp_path / "few" / chosen.parent.name)
    assert [row["noise"] for row in this.predict(each, tmp_path / "few").table] == [3]


# -- surrogates and weights ---------------------------------------------------------------------


def test_surrogates_come_from_files(tmp_path: Path) -> None:
    from torchvision.models import resnet18

    theirs: Any = fill_(resnet18()).eval()
    torch.save(theirs.state_dict(), tmp_path / "resnet18.pth")
    surrogate = load_surrogate("torchvision:resnet18", str(tmp_path / "resnet18.pth"))
    x = torch.rand(2, 3, 64, 64)
    normal = (x - surrogate.mean) / surrogate.std
    with torch.no_grad():
        torch.testing.assert_close(theirs.fc(surrogate(x)), theirs(normal))
    with pytest.raises(Problem, match="weights do not fit") as caught:
        load_surrogate("small", str(tmp_path / "resnet18.pth"))
    assert "state dict of small" in caught.value.remedy


def test_clips_archive_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenAI's names, half precision, the text tower beside it, in a TorchScript archive."""
    ours = fill_(clip_resnet((1, 1, 1, 1), 16, 32, 16))
    names = {
        "stem.conv1.conv": "conv1", "stem.conv1.bn": "bn1", "stem.conv2.conv": "conv2", "stem.conv2.bn": "bn2",
        "stem.conv3.conv": "conv3", "stem.conv3.bn": "bn3", "conv1_1x1.conv": "conv1", "conv1_1x1.bn": "bn1",
        "conv2_kxk.conv": "conv2", "conv2_kxk.bn": "bn2", "conv3_1x1.conv": "conv3", "conv3_1x1.bn": "bn3",
        "shortcut.conv.conv": "downsample.0", "shortcut.conv.bn": "downsample.1", "head.q.": "attnpool.q_proj.",
        "head.k.": "attnpool.k_proj.", "head.v.": "attnpool.v_proj.", "head.proj.": "attnpool.c_proj.",
        "head.pos_embed": "attnpool.positional_embedding",
    }  # fmt: skip
    archive = nn.Module()
    for key, value in ours.state_dict().items():
        for k in range(4):
            key = key.replace(f"stages.{k}.", f"layer{k + 1}.")
        for one, other in names.items():
            key = key.replace(one, other)
        *path, leaf = f"visual.{key}".split(".")
        parent = archive
        for step in path:
            if not hasattr(parent, step):
                parent.add_module(step, nn.Module())
            parent = getattr(parent, step)
        parent.register_buffer(leaf, value.half() if value.is_floating_point() else value)
    archive.add_module("transformer", nn.Linear(2, 2))
    torch.jit.script(archive).save(tmp_path / "RN50.pt")  # pyright: ignore[reportAttributeAccessIssue]
    monkeypatch.setattr(
        "repertory.papers.unlearnable_clusters.networks.timm.create_model",
        lambda *_, **__: clip_resnet((1, 1, 1, 1), 16, 32, 16),
    )
    surrogate = load_surrogate("clip_rn50", str(tmp_path / "RN50.pt"))
    x = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        expected = ours.eval()((x - surrogate.mean) / surrogate.std)
        torch.testing.assert_close(surrogate(x), expected, rtol=0.02, atol=0.02)  # of half precision
    assert float(surrogate.mean[0]) == pytest.approx(0.48145466)


def test_missing_weights_name_the_file_and_its_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: Any, **__: Any) -> None:
        raise OSError("Network is unreachable")

    monkeypatch.setattr("repertory.papers.unlearnable_clusters.networks.torchvision.models.get_model", offline)
    with pytest.raises(Problem, match="cannot be downloaded: Network is unreachable") as caught:
        build("rn50", pretrained=True)
    assert "resnet50-0676ba61.pth (keys conv1.weight" in caught.value.remedy


def test_unknown_networks_are_named() -> None:
    with pytest.raises(Problem, match=r"no network 'rn5'.*did you mean rn50"):
        build("rn5")
    with pytest.raises(Problem, match="timm gives no model 'resnet81'"):
        build("timm:resnet81")
    with pytest.raises(Problem, match="torchvision gives no model 'resnet81'"):
        build("torchvision:resnet81")


def test_the_authors_files_are_converted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "released"
    folder.mkdir()
    raw = torch.tanh(torch.randn(2, 1, 3, 28, 28))
    for i in range(2):
        content = {"state_dict": Generator(2, n_blocks=1).state_dict(), "perturbation": raw[i]}
        torch.save({**content, "init_noise": torch.rand(1, 3, 28, 28)}, folder / f"perturbation_{i}.pth")
    clusters = {"pred_idx": np.array([0, 1]), "pred_idx_test": np.array([1]), "centers": np.random.rand(2, 64)}  # noqa: NPY002
    torch.save(clusters, folder / "clusters.pth")
    this = study(tmp_path)
    with pytest.raises(Problem, match="centres of 64 features"):
        this.convert(folder)
    monkeypatch.setattr("repertory.papers.unlearnable_clusters.study.load_surrogate", lambda name, _: Surrogate(name))
    model = this.convert(folder, "small")
    torch.testing.assert_close(model.deltas, raw[:, 0].clamp(-EPS / 255, EPS / 255))
    torch.testing.assert_close(model.centres, torch.tensor(clusters["centers"]).float())
    PHOTO.save(tmp_path / "a.png")
    assert this.predict(model, tmp_path / "a.png").table[0]["largest"] == EPS
    (folder / "perturbation_0.pth").unlink()
    with pytest.raises(Problem, match=r"perturbation_0\.pth is missing"):
        this.convert(folder, "small")


# -- settings -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"eps": 0.06}, "give 15.3, not 0.06"),
        ({"eps": 300}, "a pixel has 255 steps"),
        ({"clusters": 1}, "greater than or equal to 2"),
        ({"image_size": 64, "resize": 32}, "nothing is left to crop"),
    ],
)
def test_bad_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        UnlearnableClustersConfig(**settings)


def test_own_images_get_the_published_sizes() -> None:
    laptop = UnlearnableClustersStudy.scales["laptop"]
    assert isinstance(laptop, UnlearnableClustersConfig)
    own, sample = laptop.filled(own=True), laptop.filled(own=False)
    assert (own.surrogate, own.image_size, own.resize, own.clusters, own.ngf, own.blocks) == (
        "rn50",
        224,
        256,
        10,
        64,
        6,
    )
    assert (own.generator_epochs, own.generator_batch_size, own.generator_lr) == (50, 256, 1e-4)
    assert (own.hacker, own.hacker_epochs, own.hacker_batch_size) == ("torchvision:resnet18", 90, 512)
    assert (sample.surrogate, sample.image_size) == ("small", 32)
    recipe = own.hacker_recipe()
    assert (recipe.optimizer, recipe.lr, recipe.momentum, recipe.weight_decay) == ("sgd", 0.1, 0.9, 5e-4)
