"""What studies of image classifiers share."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import pytest
import torch
from huggingface_hub import PyTorchModelHubMixin
from PIL import Image
from torch import Tensor, nn

from repertory import catalog
from repertory.core import checkpoint
from repertory.core.problem import Problem
from repertory.core.settings import own_config
from repertory.core.study import Session, StudyConfig
from repertory.data import images
from repertory.execution.onnx import Runtime, export
from repertory.nn.imagenet import IMAGENET, label_names
from repertory.tasks.images import ImageRecipe, ImageStudy, as_picture, label_texts, preprocessing
from repertory.tasks.settings import fitted
from tests.core.test_study import records


class Pixels(nn.Module, PyTorchModelHubMixin):
    """A linear classifier of 8 x 8 averages."""

    def __init__(self, num_classes: int, pretrained_cfg: dict[str, Any]) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.pretrained_cfg = {**IMAGENET, **pretrained_cfg}
        self.body = nn.Sequential(nn.AdaptiveAvgPool2d(8), nn.Flatten(), nn.BatchNorm1d(192))
        self.head = nn.Linear(192, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))


class PixelStudy(ImageStudy[ImageRecipe, nn.Module]):
    paper = "pixels"
    arms: ClassVar[Mapping[str, str]] = {"linear": "a linear classifier"}
    method = "linear"
    Config = ImageRecipe
    scales: ClassVar[Mapping[str, StudyConfig]] = {"smoke": ImageRecipe(epochs=1, lr=1e-2)}
    own: ClassVar[StudyConfig | None] = ImageRecipe(
        epochs=100, batch_size=64, lr=0.8, optimizer="momentum", warmup_epochs=10, ema_decay=0.9999, eval_every=10,
        schedule="step", milestones=(50, 75), workers=8,
    )  # fmt: skip
    own_batch: ClassVar[int] = 256

    def build(self, arm: str, classes: tuple[str, ...]) -> Pixels:
        size = self.config.image_size or 32
        return Pixels(len(classes), {"input_size": [3, size, size], "crop_pct": 1.0, "label_names": list(classes)})


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("digits")
    images.write_digits(folder, train=8, val=4)
    return folder


def study(tmp_path: Path, data: Path | None, seed: int = 0, **settings: Any) -> PixelStudy:
    config = ImageRecipe.model_validate({"epochs": 6, "lr": 1e-2, "batch_size": 16, **settings})
    return PixelStudy(config, Session(seed, tmp_path / "session", data))


def trained(tmp_path: Path, data: Path, **settings: Any) -> Pixels:
    this = study(tmp_path, data, **settings)
    return cast(Pixels, this.train("linear", this.data()))


def test_train_evaluate_save_load_predict(tmp_path: Path, digits: Path) -> None:
    this = study(tmp_path, digits)
    model = this.train("linear", this.data())
    metrics = this.evaluate(model, this.data())
    assert metrics["top1"] > 60
    assert metrics["top1"] <= metrics["top5"] <= 100
    assert metrics["parameters"] == 2 * 192 + 193 * 10
    with np.load(this.session.out_dir / "outputs.npz", allow_pickle=False) as outputs:
        assert outputs["label"].tolist() == list(this.data().test.labels)
        assert outputs["probability"].shape == (40, 10)
        right = outputs["prediction"] == outputs["label"]
    assert 100 * right.mean() == pytest.approx(metrics["top1"])
    checkpoint.save(model, tmp_path / "model")
    loaded = Pixels.from_pretrained(tmp_path / "model").eval()
    assert this.evaluate(loaded, this.data()) == metrics
    prediction = this.predict(loaded, digits / "val")
    right = [row["class"] == Path(row["file"]).parts[0] for row in prediction.table]
    assert 100 * np.mean(right) == pytest.approx(metrics["top1"])
    assert prediction.arrays["probabilities"].sum(1) == pytest.approx(np.ones(40), rel=1e-5)
    assert set(prediction.figures) == {"predictions"}


def test_predicts_the_same_through_onnx(tmp_path: Path, digits: Path) -> None:
    pytest.importorskip("onnxscript", reason="onnxscript is not installed")
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    this, model = study(tmp_path, digits), Pixels(10, {"input_size": [3, 32, 32], "crop_pct": 1.0}).eval()
    expected = this.predict(model, digits / "val" / "3").arrays["probabilities"]
    this.runtime = Runtime(export(model, this.example(model), tmp_path / "model.onnx").path)
    for weight in model.parameters():
        weight.data.zero_()  # what is predicted now comes from the file
    found = this.predict(model, digits / "val" / "3").arrays["probabilities"]
    assert found == pytest.approx(expected, abs=1e-5)
    assert np.ptp(found, axis=1).min() > 0


@pytest.mark.parametrize(
    "changes",
    [
        {"mixup": 0.8},
        {"cutmix": 1.0, "label_smoothing": 0.1},
        {"crop_scale": 0.5, "color_jitter": 0.4, "random_erasing": 0.5, "auto_augment": "rand-m9-mstd0.5-inc1"},
        {"crop_scale": 0.5, "train_size": 24, "crop_interpolation": "bicubic"},
    ],
)
def test_augmented_training_is_deterministic_and_another_one(
    tmp_path: Path, digits: Path, changes: dict[str, Any]
) -> None:
    first, again = (trained(tmp_path / name, digits, epochs=1, **changes).head.weight for name in ("a", "b"))
    plain = trained(tmp_path / "c", digits, epochs=1).head.weight
    assert torch.equal(first, again)
    assert not torch.allclose(first, plain)


def test_mixed_targets_are_soft_and_smoothed(tmp_path: Path, digits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Tensor] = []
    monkeypatch.setattr(PixelStudy, "loss", lambda self, m, x, y: seen.append(y) or self.cross_entropy(m(x), y))
    trained(tmp_path, digits, epochs=1, mixup=1.0, label_smoothing=0.1)
    y = torch.cat(seen)
    assert y.shape == (80, 10)
    torch.testing.assert_close(y.sum(1), torch.ones(80))
    torch.testing.assert_close(y.min(), torch.tensor(0.01))


def test_mixing_needs_pairs(tmp_path: Path, digits: Path) -> None:
    with pytest.raises(Problem, match="mixup needs an even batch size, got 5"):
        trained(tmp_path, digits, batch_size=5, cutmix=1.0)


@pytest.mark.parametrize("count", [7, 6, 3])
def test_few_images_are_mixed_in_batches_of_an_even_number(
    count: int, tmp_path: Path, digits: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    this = study(tmp_path, digits, epochs=2, mixup=0.2, batch_size=32)
    data = this.data()
    seen: list[Tensor] = []
    monkeypatch.setattr(PixelStudy, "loss", lambda self, m, x, y: seen.append(y) or self.cross_entropy(m(x), y))
    this.fit_network(Pixels(10, {}), data.train.subset(range(0, 10 * count, 10)), data.test)
    assert {len(y) for y in seen} == {count - count % 2}
    with pytest.raises(Problem, match="mixup needs two images per process, got 1 images"):
        this.fit_network(Pixels(10, {}), data.train.subset([3]), data.test, part="one")


def test_a_batch_of_one_is_too_small_for_batch_norm(tmp_path: Path, digits: Path) -> None:
    with pytest.raises(Problem, match="batches of 1 are too small for batch normalisation"):
        trained(tmp_path, digits, epochs=1, batch_size=1)


def test_the_best_weights_are_kept_if_asked(tmp_path: Path, digits: Path) -> None:
    settings: dict[str, Any] = {"schedule": "constant", "lr": 1.0, "optimizer": "sgd", "epochs": 8}
    this = study(tmp_path, digits, keep_best=True, **settings)
    best = this.accuracy(this.train("linear", this.data()), this.data().test)["top1"]
    history = [record["top1"] for record in records(tmp_path / "session") if "top1" in record]
    assert len(history) == 8
    assert best == max(history)


def test_a_moving_average_is_watched(tmp_path: Path, digits: Path) -> None:
    trained(tmp_path, digits, ema_decay=0.9, ema_returned=False)
    assert any("ema_top1" in record for record in records(tmp_path / "session"))


def test_labels_of_the_sample_are_drawn_for_each_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[Path, ...]] = []
    monkeypatch.setattr("repertory.tasks.images.fit", lambda _s, m, data, *_a, **_k: seen.append(data.paths) or m)
    monkeypatch.setenv("REPERTORY_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(PixelStudy, "write_sample", lambda _self, folder: images.write_digits(folder, train=4, val=1))
    for seed in (0, 0, 1):
        this = study(tmp_path, None, seed, sample="digits", sample_labels=2)
        this.train("linear", this.data())
    assert seen[0] == seen[1] != seen[2]
    assert len(seen[0]) == 20


def test_crops_are_cut_anew_for_each_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REPERTORY_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(images, "write_photo_crops", partial(images.write_photo_crops, train=1, val=1))

    def pixels(seed: int, run: str) -> tuple[bytes, ...]:
        data = study(tmp_path / run, None, seed, sample="photo-crops").data()
        return tuple(part.image(i).tobytes() for part in (data.train, data.test) for i in range(len(part)))

    first = pixels(0, "one")
    assert len(set(first)) == 36
    assert pixels(0, "two") == first
    assert not set(pixels(1, "one")) & set(first)
    assert PixelStudy.seeded_data


def test_training_starts_from_given_weights_and_says_what_it_could_not_take(tmp_path: Path, digits: Path) -> None:
    source = Pixels(3, {})
    nn.init.constant_(cast(nn.BatchNorm1d, source.body[2]).weight, 7.0)
    checkpoint.save(source, tmp_path / "source")
    with pytest.warns(UserWarning, match="the head has other classes and is newly initialised"):
        model = trained(tmp_path, digits, pretrained=str(tmp_path / "source"), lr=1e-12)
    torch.testing.assert_close(cast(nn.BatchNorm1d, model.body[2]).weight, torch.full((192,), 7.0))
    torch.save({"other": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(Problem, match="the weights do not fit"):
        trained(tmp_path, digits, pretrained=str(tmp_path / "other.pth"))


def test_images_come_back_from_the_network_as_they_were(digits: Path) -> None:
    model = Pixels(10, {"input_size": [3, 32, 32], "crop_pct": 1.0})
    one = images.read_image(digits / "val" / "3" / "0000.png")
    assert as_picture(model, preprocessing(model)(one)) == pytest.approx(np.asarray(one) / 255, abs=1e-6)


def test_classes_are_called_by_their_descriptions_names_or_numbers() -> None:
    assert label_texts(Pixels(2, {})) == ["0", "1"]
    assert label_texts(Pixels(2, {"label_names": ["cat", "dog"]})) == ["cat", "dog"]
    assert label_texts(Pixels(1000, label_names(1000)))[0] == "tench"
    assert len(set(label_texts(Pixels(1000, label_names(1000))))) == 1000
    assert label_texts(Pixels(2, {"label_names": ["Paris, France", "Paris, Texas"]})) == [
        "Paris, France", "Paris, Texas",
    ]  # fmt: skip
    described = {"n1": "crane, bird", "n2": "crane, machine", "n3": "tench, Tinca", "n4": "tench"}
    model = Pixels(5, {"label_names": [*described, "tench"], "label_descriptions": described})
    assert label_texts(model) == ["crane, bird", "crane, machine", "tench, Tinca", "tench (n4)", "tench (tench)"]


def test_names_of_users_are_shown_whole(tmp_path: Path) -> None:
    classes = ["$5_a", "$10^$20", "$$", "dog [husky]", "_x"]
    for part in ("train", "val"):
        for number, name in enumerate(classes):
            (tmp_path / part / name).mkdir(parents=True)
            picture = np.full((8, 8, 3), 40 * number, dtype=np.uint8)
            Image.fromarray(picture).save(tmp_path / part / name / "a.png")
    this = study(tmp_path, tmp_path, epochs=1)
    model = this.train("linear", this.data())
    prediction = this.predict(model, tmp_path / "val")
    assert {row["class"] for row in prediction.table} <= set(classes)
    prediction.figures["predictions"].savefig(tmp_path / "x.png", dpi=20)


def test_one_bad_image_among_good_ones_has_a_row_with_the_reason(tmp_path: Path, digits: Path) -> None:
    shutil.copytree(digits / "val" / "3", tmp_path / "in")
    (tmp_path / "in" / "0001.png").write_bytes((digits / "val" / "3" / "0001.png").read_bytes()[:60])
    (tmp_path / "in" / "note.png").write_text("no image")
    this, model = study(tmp_path, None), Pixels(10, {"input_size": [3, 32, 32], "crop_pct": 1.0})
    prediction = this.predict(model.eval(), tmp_path / "in")
    assert [row["file"] for row in prediction.table] == ["0000.png", "0001.png", "0002.png", "0003.png", "note.png"]
    assert [bool(row["problem"]) for row in prediction.table] == [False, True, False, False, True]
    assert prediction.table[1]["problem"].startswith("the image cannot be read")
    assert (prediction.table[4]["class"], prediction.table[4]["probability"]) == ("", None)
    assert np.isnan(prediction.arrays["probabilities"]).all(1).tolist() == [False, True, False, False, True]
    alone = this.predict(model, digits / "val" / "3" / "0002.png").table[0]
    assert alone["probability"] == pytest.approx(prediction.table[2]["probability"])
    with pytest.raises(Problem, match="the image cannot be read"):
        this.predict(model, tmp_path / "in" / "0001.png")
    for name in ("0000.png", "0002.png", "0003.png"):
        (tmp_path / "in" / name).unlink()
    with pytest.raises(Problem, match=r"none of 2 images can be read \(0001.png: the image cannot be read"):
        this.predict(model, tmp_path / "in")


def test_a_bad_image_in_training_is_named(tmp_path: Path, digits: Path) -> None:
    shutil.copytree(digits, tmp_path / "data")
    (tmp_path / "data" / "train" / "3" / "0001.png").write_bytes(b"no image")
    with pytest.raises(Problem, match="not an image") as caught:
        trained(tmp_path, tmp_path / "data", epochs=1)
    assert caught.value.where.endswith("0001.png")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, {"batch_size": 16, "lr": 0.05, "warmup_epochs": 10, "milestones": (50, 75), "eval_every": 10}),
        ({"epochs": 10}, {"warmup_epochs": 1, "milestones": (5, 7.5), "eval_every": 1}),
        ({"batch_size": 40}, {"batch_size": 40, "lr": 0.125}),
        ({"lr": 3.0, "warmup_epochs": 7.0}, {"lr": 3.0, "warmup_epochs": 7.0}),
        ({"optimizer": "adamw"}, {"lr": 0.2}),
        ({}, {"ema_decay": 1 - 10 / 500, "threads": 0}),
    ],
)
def test_a_published_recipe_is_scaled_to_the_data(
    changes: dict[str, Any], expected: dict[str, Any], tmp_path: Path, digits: Path
) -> None:
    config = cast(ImageRecipe, own_config(PixelStudy, changes))
    this = PixelStudy(config, Session(0, tmp_path, digits))
    fit = this.scaled(this.data(), frozenset(changes))
    assert {name: getattr(fit, name) for name in expected} == pytest.approx(expected)
    assert fit.workers <= 8


@pytest.mark.parametrize(("samples", "batch"), [(3, 2), (12, 8), (20, 16), (130, 16), (400, 32), (10**6, 64)])
def test_batches_leave_steps_in_an_epoch(samples: int, batch: int) -> None:
    own = cast(ImageRecipe, PixelStudy.own)
    assert fitted(own, own, samples, 1, 256, ()).batch_size == batch
    assert fitted(own, own, 2 * samples, 2, 256, ()).batch_size == batch


@pytest.mark.parametrize("paper", ["emo", "eca", "vgnet", "revcol", "sot", "tinymim", "l2w_den", "apb"])
def test_own_images_start_from_a_published_network(paper: str) -> None:
    design = catalog.design(paper)
    own: Any = own_config(design, {"epochs": 7})
    network = getattr(own, "arch", "") or own.plan
    assert "mini" not in network
    assert own.epochs == 7
    assert (own.image_size or 224) >= 48
    assert own.model_dump() != design.scales["laptop"].model_dump()


def test_what_a_training_will_do_is_told_before(tmp_path: Path, digits: Path) -> None:
    this = study(tmp_path, digits, mixup=0.8)
    parameters, pixels, minutes = this.preview("linear", this.data())
    assert (parameters, pixels) == ("0.00231 M parameters", "32 x 32 pixels")
    assert re.fullmatch(r"about [\d.e-]+ (min|h) on this machine", minutes)


def test_bad_folders(tmp_path: Path, digits: Path) -> None:
    this = study(tmp_path, digits)
    with pytest.raises(Problem, match="no data for pixels here"):
        this.read(tmp_path)
    with pytest.raises(Problem, match="no images here"):
        this.predict(Pixels(2, {}), tmp_path)
    for part in ("train", "val"):
        shutil.copytree(digits / part / "5", tmp_path / "one" / part / "5")
    with pytest.raises(Problem, match="one class only: 5"):
        this.train("linear", this.read(tmp_path / "one"))
