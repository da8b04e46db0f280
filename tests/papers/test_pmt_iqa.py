"""PMT-IQA: fidelity to the authors' code, timm's interface, loss and schedule, training, protocols, use, bad input."""

from __future__ import annotations

import shutil
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from pydantic import ValidationError
from torch import nn
from torchvision.models import resnet18, resnet50

from repertory.core import checkpoint
from repertory.core.problem import Problem
from repertory.core.study import Session
from repertory.data.distortions import write_quality_database
from repertory.data.quality import ScoreScale
from repertory.nn.macs import count_macs
from repertory.papers.pmt_iqa import PMTIQA, MultiScaleResNet, multi_task_loss, task_weights
from repertory.papers.pmt_iqa.model import Quality
from repertory.papers.pmt_iqa.patches import Patches, corners_of, cut, prepared
from repertory.papers.pmt_iqa.settings import ARMS, PMTConfig
from repertory.papers.pmt_iqa.study import PMTStudy, QualityData
from repertory.papers.pmt_iqa.training import learning_rate
from repertory.papers.pmt_iqa.weights import load_backbone
from tests.fidelity.cases import assert_agrees, cases
from tests.fidelity.fill import digest, fill_, probe

CASES: list[dict[str, Any]] = [param.values[0] for param in cases("pmt_iqa")]
NETWORKS = [case for case in CASES if "backbone" in case["config"]]
LOSSES = [case for case in CASES if "epochs" in case["config"]]


def study(tmp_path: Path, data: Path | None = None, scale: str = "smoke", seed: int = 0, **settings: Any) -> PMTStudy:
    config = PMTConfig.model_validate({**PMTStudy.scales[scale].model_dump(), **settings})
    return PMTStudy(config, Session(seed, tmp_path / "session", data))


def own(tmp_path: Path, data: Path, **settings: Any) -> PMTStudy:
    """The smoke scale on a folder: small as for the sample."""
    small = {"arch": "mini", "batch_size": 16, "lr": 1e-3, "restart_moments": False, "score_unit": 0.1}
    return study(tmp_path, data, **{**small, **settings})


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("quality")
    write_quality_database(folder, photographs=1, versions=3, size=40)
    return folder


# -- fidelity -----------------------------------------------------------------------------------


@pytest.mark.parametrize("case", NETWORKS, ids=lambda case: case["name"])
def test_agrees_with_the_authors_code(case: dict[str, Any]) -> None:
    config = dict(case["config"])
    size = config.pop("patch")
    model: PMTIQA = fill_(PMTIQA(**config)).eval()  # pyright: ignore[reportAssignmentType]
    x = probe(*case["input"][0])
    with torch.no_grad():
        if case["name"].startswith("shared trunk"):
            assert_agrees(model.fcs(x), case, model.fcs)
        elif "vector" in case["name"]:
            assert_agrees(model.res(x), case, model.res)
        elif "logits" in case["name"]:
            assert_agrees(model(x).cls, case, model)
        else:  # two scores that differ in the seventh digit: their spread is rounding
            found = digest(model(x).mos)
            assert found["values"] == pytest.approx(case["output"]["values"], rel=1e-5)
            assert sum(p.numel() for p in model.parameters()) == case["params"]
            # Theirs counts the branch of the score alone, and no adaptive pooling.
            pooled = sum(c * (size // (2 << k)) ** 2 for k, c in enumerate((16, 32, 64, 2048), 1))
            classifier = sum(p.numel() for p in model.fc_cls.parameters() if p.ndim > 1)
            assert count_macs(model, x[:1]) - pooled - classifier == case["macs"]


@pytest.mark.parametrize("case", LOSSES, ids=lambda case: case["name"])
def test_the_progressive_loss_agrees_with_the_authors_code(case: dict[str, Any]) -> None:
    quality = Quality(10 * probe(6, 1), probe(6, 10))
    labels = torch.linspace(5, 95, 6)
    epochs = case["config"]["epochs"]
    losses = [
        multi_task_loss(quality, labels, (labels / 10).long(), task_weights(t, epochs))["loss"] for t in range(epochs)
    ]
    assert_agrees(torch.stack(losses), case)


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_the_body_is_torchvisions(name: str) -> None:
    theirs: Any = fill_({"resnet18": resnet18, "resnet50": resnet50}[name]()).eval()
    ours: Any = fill_(MultiScaleResNet(name)).eval()
    x = probe(1, 3, 64, 64)
    y = theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(x))))
    with torch.no_grad():
        torch.testing.assert_close(
            ours.forward_features(x), theirs.layer4(theirs.layer3(theirs.layer2(theirs.layer1(y))))
        )
    assert set(theirs.state_dict()) - set(ours.state_dict()) == {"fc.weight", "fc.bias"}


# -- the network --------------------------------------------------------------------------------


def test_the_vector_by_hand() -> None:
    """Windows of 7 x 7 at 224 pixels, in the order of the stages; the last branch has what the others leave."""
    net: Any = fill_(MultiScaleResNet("resnet18", vector=20, scale_dim=5)).eval()
    x = probe(1, 3, 224, 224)
    with torch.no_grad():
        maps = net.forward_intermediates(x, intermediates_only=True)[1:]
        parts = []
        for stage, y in enumerate(maps, 1):
            if stage < 4:
                y = nn.functional.conv2d(y, net.get_parameter(f"lda{stage}_pool.0.weight"))
            parts.append(net.get_submodule(f"lda{stage}_fc")(nn.functional.avg_pool2d(y, 7).flatten(1)))
        torch.testing.assert_close(net(x), torch.cat(parts, 1))
    assert [part.shape[1] for part in parts] == [5, 5, 5, 5]


def test_one_stage_is_a_plain_resnet() -> None:
    net: Any = MultiScaleResNet("mini", stages=(4,)).eval()
    x = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(net(x), net.lda4_fc(net.forward_features(x).mean((2, 3))))
    assert net.lda4_fc.weight.shape == (112, 128)
    assert not hasattr(net, "lda1_fc")


def test_mini_has_a_quarter_of_the_width_and_the_published_grids() -> None:
    net: Any = MultiScaleResNet("mini").eval()
    maps = net.forward_intermediates(torch.zeros(1, 3, 64, 64), intermediates_only=True)
    shapes = [tuple(y.shape[1:]) for y in maps]
    assert shapes == [(16, 32, 32), (16, 16, 16), (32, 8, 8), (64, 4, 4), (128, 2, 2)]


def test_branches_start_as_kaiming_normal_with_plain_biases() -> None:
    torch.manual_seed(0)
    net: Any = MultiScaleResNet("resnet50")
    assert net.lda1_fc.weight.std().item() == pytest.approx((2 / 1024) ** 0.5, rel=0.05)
    assert net.lda1_pool[0].weight.std().item() == pytest.approx((2 / 256) ** 0.5, rel=0.05)
    assert net.lda1_fc.bias.abs().max() <= 1 / 32


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        ({"backbone": "resnet5O"}, "no backbone 'resnet5O': did you mean resnet50"),
        ({"stages": (4, 1)}, "stages"),
        ({"stages": ()}, "stages"),
        ({"stages": (5,)}, "stages"),
        ({"vector": 84}, "leave none of 84"),
    ],
)
def test_networks_that_cannot_be(arguments: dict[str, Any], what: str) -> None:
    with pytest.raises(Problem, match=what):
        PMTIQA(**{"backbone": "mini", **arguments})


def test_the_interface_of_timm() -> None:
    model: Any = timm.create_model("pmt_iqa_resnet18", num_classes=7).eval()
    x = torch.randn(2, 3, 64, 64)
    vector = model.forward_features(x)
    quality = model(x)
    assert (vector.shape, quality.mos.shape, quality.cls.shape) == ((2, 112), (2, 1), (2, 7))
    torch.testing.assert_close(model.forward_head(vector), quality)
    assert model.forward_trunk(vector).shape == (2, 14)
    assert model.get_classifier()[-1].out_features == 7
    model.reset_classifier(0)
    assert model(x).cls.shape == (2, 0)
    torch.testing.assert_close(model(x).mos, quality.mos)
    model.reset_classifier(3)
    assert model(torch.zeros(0, 3, 64, 64)).cls.shape == (0, 3)
    with pytest.raises(Problem, match="no pooling"):
        model.reset_classifier(3, "avg")
    assert model.no_weight_decay() == set()
    groups = timm.models.group_parameters(model, model.group_matcher(), reverse=True)
    assert groups["res.conv1.weight"] < groups["res.layer1.0.conv1.weight"] < groups["res.lda1_fc.weight"]
    assert groups["fc_mos.weight"] == groups["res.lda4_fc.weight"] == max(groups.values())
    maps = timm.create_model("pmt_iqa_resnet18", features_only=True, out_indices=(1, 3))(x)
    assert [tuple(y.shape[1:]) for y in maps] == [(64, 16, 16), (256, 4, 4)]
    grey = PMTIQA("mini", in_chans=1, drop_rate=0.5).eval()
    assert grey(torch.zeros(1, 1, 64, 64)).mos.shape == (1, 1)


def test_grad_checkpointing_gives_the_same_gradients() -> None:
    torch.manual_seed(0)
    x, found = torch.randn(2, 3, 64, 64), []
    model = PMTIQA("mini").eval()
    for enable in (False, True):
        model.set_grad_checkpointing(enable)
        model.zero_grad()
        model(x).mos.sum().backward()
        found.append(torch.cat([p.grad.flatten() for p in model.res.parameters() if p.grad is not None]))
    torch.testing.assert_close(*found)


def test_compiles_and_exports() -> None:
    model, x = PMTIQA("mini").eval(), torch.randn(3, 3, 64, 64)
    batch = torch.export.Dim("batch", min=1, max=64)
    exported = torch.export.export(model, (x,), dynamic_shapes=({0: batch},), strict=False).module()
    for images in (x, x[:1]):
        torch.testing.assert_close(tuple(exported(images)), tuple(model(images)))
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    torch.testing.assert_close(tuple(compiled(x)), tuple(model(x)))


def test_the_unit_scales_the_score_and_the_loss() -> None:
    torch.manual_seed(0)
    model = PMTIQA("mini").eval()
    tenth = PMTIQA("mini", score_unit=0.1).eval()
    tenth.load_state_dict(model.state_dict())
    x, y = torch.randn(2, 3, 64, 64), torch.tensor([0.2, 0.7])
    torch.testing.assert_close(tenth(x).mos, 0.1 * model(x).mos)
    levels = torch.tensor([2, 7])
    one = multi_task_loss(tenth(x), y, levels, (1, 0.5), 0.1)
    other = multi_task_loss(model(x), 10 * y, levels, (1, 0.5))
    torch.testing.assert_close(one, other)


def test_pretrained_bodies(tmp_path: Path) -> None:
    torch.manual_seed(0)
    theirs = resnet18()
    torch.save(theirs.state_dict(), tmp_path / "resnet18.pth")
    model = PMTIQA("resnet18")
    branch = model.res.state_dict()["lda1_fc.weight"].clone()
    load_backbone(model, str(tmp_path / "resnet18.pth"))
    assert torch.equal(model.state_dict()["res.layer3.1.conv2.weight"], theirs.state_dict()["layer3.1.conv2.weight"])
    assert torch.equal(model.state_dict()["res.lda1_fc.weight"], branch)
    checkpoint.save(model, tmp_path / "model")
    other = PMTIQA("resnet18", num_classes=3)
    load_backbone(other, str(tmp_path / "model"))
    assert torch.equal(other.state_dict()["res.conv1.weight"], model.state_dict()["res.conv1.weight"])
    with pytest.raises(Problem, match="do not fit"):
        load_backbone(PMTIQA("mini"), str(tmp_path / "resnet18.pth"))
    with pytest.raises(Problem, match="timm gives no weights 'resnet5O'"):
        load_backbone(other, "timm:resnet5O")


# -- loss and schedule --------------------------------------------------------------------------


def test_weights_of_the_tasks() -> None:
    ends: dict[Any, Any] = {"progressive": [(0, 1), (1, 0)], "reversed": [(1, 0), (0, 1)], "regression": [(1, 0)] * 2}
    for kind, expected in ends.items():
        assert [task_weights(t, 20, kind) for t in (0, 19)] == expected
    for t in range(7):
        one, other = task_weights(t, 7), task_weights(t, 7, "reversed")
        assert one == other[::-1]
        assert sum(one) == pytest.approx(1)
    assert task_weights(5, 20, "static", (0.9, 1.1)) == (0.9, 1.1)
    assert task_weights(0, 1) == (1, 0)


def test_learning_rates_of_the_authors_loop() -> None:
    """They set lr_0 / 10^(t // 6) after epoch t."""
    config = PMTConfig(lr=1e-4, decay_every=6)
    expected, lr = [], 1e-4
    for t in range(20):
        expected.append(lr)
        lr = 1e-4 / 10 ** (t // 6)
    assert [learning_rate(config, t) for t in range(20)] == pytest.approx(expected)
    assert learning_rate(config.model_copy(update={"decay_every": 0}), 19) == 1e-4


def test_one_patch_and_no_classifier() -> None:
    quality = Quality(torch.tensor([[3.0]]), torch.zeros(1, 0))
    losses = multi_task_loss(quality, torch.tensor([1.0]), torch.tensor([0]), (1.0, 0.0))
    assert (losses["loss"].item(), losses["ce"].item()) == (2.0, 0.0)


# -- patches ------------------------------------------------------------------------------------


def test_spread_corners_cover_the_image_and_random_ones_lie_inside() -> None:
    pixels = np.zeros((100, 80, 3), np.uint8)
    assert corners_of(pixels, 64, 4, "spread") == [(0, 0), (0, 16), (36, 0), (36, 16)]
    assert corners_of(pixels, 64, 1, "spread") == [(18, 8)]
    assert len(corners_of(pixels, 64, 5, "spread")) == 5
    drawn = np.array(corners_of(pixels, 64, 200, "random"))
    assert (drawn.min(0) == 0).all()
    assert (drawn.max(0) == (36, 16)).all()


def test_small_images_are_padded_by_reflection_and_resized_as_height_and_width() -> None:
    image = Image.fromarray(np.arange(5 * 3 * 3, dtype=np.uint8).reshape(5, 3, 3))
    padded = prepared(image, 8)
    assert padded.shape == (8, 8, 3)
    assert np.array_equal(padded[1:6, 2:5], np.asarray(image))
    assert np.array_equal(padded[0], padded[2])
    assert prepared(image, 2, (12, 6)).shape == (12, 6, 3)


def test_patches_are_normalised_crops() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    patches = cut(pixels, [(3, 7), (0, 0)], 8, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
    assert patches.shape == (2, 3, 8, 8)
    assert patches[0, 1, 2, 4].item() == pytest.approx((pixels[5, 11, 1] / 255 - 0.4) / 0.3, rel=1e-5)


def test_every_patch_may_be_mirrored(tmp_path: Path, sample: Path) -> None:
    data = own(tmp_path, sample).read(sample).train
    options: dict[str, Any] = {"mean": (0, 0, 0), "std": (1, 1, 1), "crops": "spread"}
    plain, mirrored = (Patches(data, 32, 3, flip=flip, **options)[0][0] for flip in (0.0, 1.0))
    assert torch.equal(plain.flip(-1), mirrored)


# -- training and protocols ---------------------------------------------------------------------


def test_arms_differ_as_they_should(tmp_path: Path, sample: Path) -> None:
    assert set(ARMS) == set(PMTStudy.arms)
    data = own(tmp_path, sample).read(sample).train
    models = {arm: own(tmp_path, sample).build(arm, data) for arm in ARMS}
    assert {arm: (m.res.stages, m.num_classes) for arm, m in models.items()} == {
        "single": ((4,), 0),
        "multi": ((1, 2, 3, 4), 0),
        "single_pmt": ((4,), 11),
        "static": ((1, 2, 3, 4), 11),
        "reversed": ((1, 2, 3, 4), 11),
        "pmt_iqa": ((1, 2, 3, 4), 11),
    }


def test_the_classifier_and_the_regression_take_turns(tmp_path: Path, sample: Path) -> None:
    """One epoch of the progressive loss is regression alone; of the reversed one it is classification alone."""
    moved = {}
    for arm in ("pmt_iqa", "reversed"):
        room = own(tmp_path / arm, sample, epochs=1, weight_decay=0.0)
        data = room.read(sample)
        room.session.reseed("weights")
        start = room.build(arm, data.train).state_dict()
        after = room.train(arm, data).state_dict()
        moved[arm] = {k.split(".")[0] for k in start if k.startswith("fc_") and not torch.equal(start[k], after[k])}
    assert moved == {"pmt_iqa": {"fc_mos"}, "reversed": {"fc_cls"}}


def test_own_data_train_save_load_evaluate(tmp_path: Path, sample: Path) -> None:
    room = own(tmp_path, sample, epochs=3)
    data = room.read(sample)
    model = room.train("pmt_iqa", data)
    metrics = room.evaluate(model, data)
    checkpoint.save(model, tmp_path / "model", paper="pmt_iqa")
    assert room.evaluate(checkpoint.load(tmp_path / "model"), data) == metrics
    assert metrics["srcc_official"] >= metrics["srcc"]
    assert {"plcc", "krcc", "level_accuracy", "official_epoch", "plcc_official"} <= set(metrics)
    figures = {path.stem for path in (tmp_path / "session" / "figures").iterdir()}
    assert figures == {"course", "predicted-vs-true"}
    other = own(tmp_path / "other", sample, test_share=0.6)
    assert "srcc_official" not in other.evaluate(model, other.read(sample))  # its epoch was chosen on other images


def test_the_official_protocol_returns_the_epoch_that_the_test_part_picks(
    tmp_path: Path, sample: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def weights(protocol: str, *watched: float) -> tuple[torch.Tensor, dict[str, Any]]:
        course = iter(watched)
        monkeypatch.setattr(PMTStudy, "_correlations", lambda *_: dict.fromkeys(("srcc", "plcc", "krcc"), next(course)))
        room = own(tmp_path / f"{protocol}{watched}", sample, epochs=3, protocol=protocol)
        model = room.train("pmt_iqa", room.read(sample))
        return model.state_dict()["fcs.0.weight"], model.pretrained_cfg["official"]

    last, seen = weights("last", 0.1, 0.9, 0.2)
    assert (seen["epoch"], seen["srcc"]) == (1, 0.9)
    best, _ = weights("official", 0.1, 0.9, 0.2)
    assert not torch.equal(best, last)
    assert torch.equal(weights("official", 0.1, 0.2, 0.9)[0], last)


def test_restarting_the_moments_changes_the_second_epoch(tmp_path: Path, sample: Path) -> None:
    states = []
    for restart in (False, True):
        room = own(tmp_path / str(restart), sample, restart_moments=restart)
        states.append(room.train("multi", room.read(sample)).state_dict()["fc_mos.weight"])
    assert not torch.equal(*states)


def test_a_training_interrupted_between_epochs_goes_on_alike(
    tmp_path: Path, sample: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REPERTORY_KEEP_SECONDS", "0")
    room = own(tmp_path / "whole", sample, restart_moments=True)
    data = room.read(sample)
    whole = room.train("pmt_iqa", data).state_dict()
    calls = 0

    def failing(*arguments: Any) -> dict[str, float]:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise KeyboardInterrupt
        return PMTStudy._correlations(*arguments)

    stopped = own(tmp_path / "stopped", sample, restart_moments=True)
    monkeypatch.setattr(stopped, "_correlations", lambda *a: failing(stopped, *a))
    with pytest.raises(KeyboardInterrupt):
        stopped.train("pmt_iqa", data)
    again = own(tmp_path / "stopped", sample, restart_moments=True)
    for name, tensor in again.train("pmt_iqa", data).state_dict().items():
        assert torch.equal(tensor, whole[name]), name


def test_the_network_follows_the_data(tmp_path: Path, sample: Path) -> None:
    small, large = (study(tmp_path, data, "laptop").config for data in (None, sample))
    assert (small.arch, small.patch, small.pretrained, small.score_unit) == ("mini", 64, "none", 0.1)
    assert (large.arch, large.patch, large.pretrained, large.score_unit) == (
        "resnet50",
        224,
        "timm:resnet50.tv_in1k",
        1,
    )
    assert (large.batch_size, large.patches, large.lr, large.restart_moments) == (9, 4, 1e-4, True)
    assert (small.lr, small.decay_every, large.decay_every) == (3e-4, 10, 6)
    other = study(tmp_path, sample, "laptop", arch="resnet18", lr=0.01).config
    assert (other.pretrained, other.lr) == ("timm:resnet18.tv_in1k", 0.01)


def test_weights_that_cannot_be_had(tmp_path: Path, sample: Path) -> None:
    room = own(tmp_path, sample, arch="resnet18")
    model = room.build("multi", room.read(sample).train)
    before = model.state_dict()["res.conv1.weight"].clone()
    with pytest.warns(UserWarning, match="random weights, far worse"):
        room._load_backbone(model)
    assert torch.equal(before, model.state_dict()["res.conv1.weight"])
    asked = own(tmp_path, sample, arch="resnet18", pretrained="timm:resnet18.a1_in1k")
    with pytest.raises(Problem, match="timm gives no weights"):
        asked._load_backbone(model)


# -- use ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, sample: Path) -> tuple[PMTStudy, PMTIQA]:
    room = own(tmp_path_factory.mktemp("trained"), sample, epochs=1)
    return room, room.train("pmt_iqa", room.read(sample))


def test_one_photograph(tmp_path: Path, sample: Path, trained: tuple[PMTStudy, PMTIQA]) -> None:
    room, model = trained
    file = distorted(sample)[0]
    prediction = room.predict(model, file)
    (row,) = prediction.table
    assert (row["file"], row["rank"], row["problem"], row["note"]) == (file.name, 1, "", "")
    assert row["quality"] in ("bad", "poor", "fair", "good", "excellent")
    assert 0 < row["level_probability"] <= 1
    assert set(prediction.figures) == {"heat-map"}
    levels = prediction.arrays["level_probabilities"]
    assert levels.dtype.names == ("file", *(f"level_{k}" for k in range(11)))
    assert sum(list(levels[0])[1:]) == pytest.approx(1)


def distorted(sample: Path) -> list[Path]:
    return sorted((sample / "dst_imgs_all").iterdir())


def test_a_folder_is_ranked_and_broken_images_have_a_reason(
    tmp_path: Path, sample: Path, trained: tuple[PMTStudy, PMTIQA]
) -> None:
    room, model = trained
    folder = tmp_path / "mine"
    (folder / "inside").mkdir(parents=True)
    for k, path in enumerate(distorted(sample)[:6]):
        shutil.copy(path, folder / "inside" / f"{k}.png")
    Image.new("L", (50, 40)).save(folder / "grey.png")
    Image.new("RGBA", (20, 70)).save(folder / "small_and_clear.png")
    (folder / "broken.jpg").write_bytes(b"no image")
    prediction = room.predict(model, folder)
    good, bad = prediction.table[:-1], prediction.table[-1]
    scores = [row["score"] for row in good]
    assert scores == sorted(scores)  # DMOS: lower is better
    assert [row["rank"] for row in good] == list(range(1, 9))
    assert (bad["file"], bad["problem"]) == ("broken.jpg", "the file is not an image")
    assert np.isnan(bad["score"])
    notes = {row["file"]: row["note"] for row in good if row["note"]}
    assert notes == {
        "grey.png": "converted: grey to RGB",
        "small_and_clear.png": "converted: transparency over white; padded by reflection from 20 x 70",
    }
    assert set(prediction.figures) == {"contact-sheet", "heat-map-of-the-worst"}
    titles = [axes.get_title() for axes in prediction.figures["contact-sheet"].axes]
    assert [title.split(".")[0] for title in titles if title] == [str(k) for k in range(1, 9)]
    alone = room.predict(model, folder / "inside" / "3.png").table[0]
    same = next(row for row in good if row["file"] == "inside/3.png")
    assert alone["score"] == same["score"]  # it does not depend on the others


def test_a_long_contact_sheet_shows_both_ends(tmp_path: Path, sample: Path, trained: tuple[PMTStudy, PMTIQA]) -> None:
    _, model = trained
    few = own(tmp_path, sample, shown=4)
    prediction = few.predict(model, sample / "dst_imgs_all")
    count = len(prediction.table)
    titles = [axes.get_title() for axes in prediction.figures["contact-sheet"].axes]
    assert [title.split(".")[0] for title in titles] == ["1", "2", str(count - 1), str(count)]
    assert f"{count - 4} in the middle left out" in prediction.figures["contact-sheet"].get_suptitle()


def test_without_a_classifier_the_level_is_that_of_the_score(
    tmp_path: Path, sample: Path, trained: tuple[PMTStudy, PMTIQA]
) -> None:
    room, _ = trained
    torch.manual_seed(0)
    model = room.build("multi", room.read(sample).train).eval()
    prediction = room.predict(model, distorted(sample)[0])
    row = prediction.table[0]
    level = int(np.clip(np.rint(10 * row["score"]), 0, 10))
    assert row["level"].startswith(f"{level} (")
    assert np.isnan(row["level_probability"])
    assert not prediction.arrays


def test_the_heat_map_is_the_mean_of_the_patches_that_cover_a_pixel(trained: tuple[PMTStudy, PMTIQA]) -> None:
    room, model = trained
    pixels = np.random.default_rng(0).integers(0, 256, (48, 32, 3), dtype=np.uint8)
    heat = room._heat(model, pixels)
    cfg = model.pretrained_cfg
    with torch.no_grad():
        top, bottom = model(cut(pixels, [(0, 0), (16, 0)], 32, cfg["mean"], cfg["std"])).mos.flatten().tolist()
    assert heat.shape == (48, 32)
    assert heat[0, 0] == pytest.approx(top)
    assert heat[20, 5] == pytest.approx((top + bottom) / 2)
    assert heat[47, 31] == pytest.approx(bottom)


def test_nothing_to_predict(tmp_path: Path, trained: tuple[PMTStudy, PMTIQA]) -> None:
    room, model = trained
    with pytest.raises(Problem, match="no images here"):
        room.predict(model, tmp_path)
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(Problem, match="not an image"):
        room.predict(model, tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"")
    with pytest.raises(Problem, match="none of 2 images"):
        room.predict(model, tmp_path)


def test_random_crops_of_a_file_do_not_depend_on_its_place(
    tmp_path: Path, sample: Path, trained: tuple[PMTStudy, PMTIQA]
) -> None:
    _, model = trained
    room = own(tmp_path, sample, test_crops="random", test_patches=3)
    table = room.predict(model, sample / "dst_imgs_all").table
    again = room.predict(model, sample / "dst_imgs_all" / table[2]["file"]).table
    assert again[0]["score"] == table[2]["score"]


def test_data_of_the_other_direction(sample: Path, trained: tuple[PMTStudy, PMTIQA]) -> None:
    """A model of DMOS on data of MOS: the sign changes, and the levels are not compared."""
    room, model = trained
    data = room.read(sample)
    plain = room.evaluate(model, data)
    mos = ScoreScale("MOS", 1.0, 5.0, "higher", 10, "round")
    test = replace(data.test, scores=tuple(5 - 4 * score for score in data.test.scores), scale=mos)
    with pytest.warns(UserWarning, match="predictions change their sign"):
        found = room.evaluate(model, QualityData(data.train, test))
    assert found["srcc"] == pytest.approx(plain["srcc"])
    assert "level_accuracy" not in found


# -- bad input ----------------------------------------------------------------------------------


def test_a_level_beyond_the_classifier(tmp_path: Path, sample: Path) -> None:
    room = own(tmp_path, sample, num_classes=2)
    with pytest.raises(Problem, match=r"is of level \d+, and num_classes=2 ends at 1"):
        room.train("pmt_iqa", room.read(sample))
    room.train("multi", room.read(sample))  # which has no classifier


def test_too_few_test_images(tmp_path: Path, sample: Path) -> None:
    names = sorted(path.name for path in distorted(sample))[:4]
    rows = [f"{name},{k / 10}" for k, name in enumerate(names)]
    (sample / "dst_imgs_all" / "few.csv").write_text("image,score\n" + "\n".join(rows))
    try:
        room = own(tmp_path, sample / "dst_imgs_all" / "few.csv", score_low=0, score_high=1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            data = room.read(sample / "dst_imgs_all" / "few.csv")
        with pytest.raises(Problem, match="1 test image: a correlation needs three"):
            room.train("multi", data)
    finally:
        (sample / "dst_imgs_all" / "few.csv").unlink()


def test_images_that_are_converted_or_padded_are_told(tmp_path: Path, sample: Path) -> None:
    room = own(tmp_path, sample, patch=48)
    with pytest.warns(UserWarning, match=r"27 images smaller than a patch of 48, padded by reflection: .*, …"):
        room.read(sample)
    folder = tmp_path / "grey"
    folder.mkdir()
    for k in range(4):
        Image.new("I;16" if k == 2 else "L", (40, 40), k).save(folder / f"{k}.png")
    (folder / "r.csv").write_text("image,score\n0.png,1\n1.png,2\n2.png,3\n3.png,4\n")
    with pytest.warns(UserWarning, match="converted") as told:
        own(tmp_path, folder, score_low=0, score_high=5).read(folder)
    texts = " ".join(str(warning.message) for warning in told)
    assert "3 images converted (grey to RGB): 0.png, 1.png, 3.png" in texts
    assert "1 images converted (16 bits to 8, grey to RGB): 2.png" in texts


def test_no_database_here(tmp_path: Path) -> None:
    with pytest.raises(Problem, match="no image quality database here"):
        study(tmp_path, tmp_path).read(tmp_path)


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ({"vector": 84}, "vector must be above"),
        ({"static_weights": (0, 0)}, "one of the two"),
        ({"score_low": 5, "score_high": 1}, "score_low must be below"),
        ({"test_share": 1.0}, "less than 1"),
        ({"arch": "resnet5O"}, "resnet50"),
    ],
)
def test_settings_that_make_no_sense(settings: dict[str, Any], what: str) -> None:
    with pytest.raises(ValidationError, match=what):
        PMTConfig.model_validate(settings)
