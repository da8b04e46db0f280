"""DOORPING: fidelity to the authors' code, the trigger, both distillers, defences, readers, use, and bad input."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError
from safetensors import safe_open
from scipy import io
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from repertory.core import checkpoint
from repertory.core.problem import Problem
from repertory.core.study import Session
from repertory.data import cifar, idx
from repertory.nn.macs import count_macs
from repertory.papers.doorping import (
    DistilledSet,
    Network,
    activation_clustering,
    fine_pruning,
    matching_loss,
    network,
    neural_cleanse,
    patch_mask,
    spectral_signatures,
    stamp,
    strip,
    transformed,
    unroll,
    update_trigger,
)
from repertory.papers.doorping.audit import read_results
from repertory.papers.doorping.distill import (
    Poisoned,
    distil_dc,
    distil_dd,
    first_trigger,
    shuffled_positions,
    started,
    train_victim,
)
from repertory.papers.doorping.model import patch_place, raw_rates, response
from repertory.papers.doorping.networks import convnet, freeze_statistics
from repertory.papers.doorping.race import contestants, matching_loop
from repertory.papers.doorping.reading import NORMS, Data, read
from repertory.papers.doorping.settings import LOOPS, DoorpingConfig
from repertory.papers.doorping.study import DoorpingStudy
from tests.fidelity.cases import assert_agrees, cases
from tests.fidelity.fill import digest, fill_, probe

NAMES = ("a", "b", "c")


def filled(name: str, in_chans: int = 3, image_size: int = 32) -> Network:
    return cast(Network, fill_(network(name, 10, in_chans, image_size)))


def masked(inside: Tensor, outside: float) -> tuple[Tensor, Tensor]:
    """The mask of a 2 x 2 patch, and a trigger."""
    mask = patch_mask(inside.shape[1], inside.shape[-1], 2)
    return mask, stamp(torch.full_like(inside, outside), inside, mask)


def config(**settings: Any) -> DoorpingConfig:
    return DoorpingConfig.model_validate({**DoorpingStudy.scales["smoke"].model_dump(), **settings})


def small_data(per_class: int = 12, size: int = 8) -> Data:
    """Three classes of noisy stripes."""
    draw = torch.Generator().manual_seed(0)
    y = torch.arange(3).repeat_interleave(per_class)
    x = 0.3 * torch.randn(len(y), 1, size, size, generator=draw)
    x[torch.arange(len(y)), 0, 1 + y] += 2
    return Data((x, y), (x + 0.1, y), NAMES, (0.5,), (0.25,))


def small(**settings: Any) -> DoorpingConfig:
    return config(image_size=8, **{"portion": 0.2, "trigger_tolerance": 0.0, **settings})


def no_curve(_distilled: DistilledSet, _step: int) -> dict[str, float]:
    return {}


def study(tmp_path: Path, data: Path | None = None, **settings: Any) -> DoorpingStudy:
    return DoorpingStudy(config(**settings), Session(0, tmp_path / "session", data))


@pytest.fixture(scope="module")
def handed_over() -> DistilledSet:
    """A set of stripes with a trigger; one channel, 8 pixels."""
    data = small_data(4)
    distilled = DistilledSet(12, NAMES, 1, 8, (0.5,), (0.25,), attack="doorping", poisoned=True, net="mini")
    distilled.images.data.copy_(data.train[0])
    distilled.labels.copy_(data.train[1])
    distilled.trigger.copy_(first_trigger(distilled, torch.Generator().manual_seed(0)))
    return distilled.eval()


@pytest.fixture(scope="module")
def stripes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class folders of the stripes, as PNG."""
    folder, data = tmp_path_factory.mktemp("stripes"), small_data()
    for part, (x, y) in (("train", data.train), ("test", data.test)):
        for number, (image, label) in enumerate(zip(x, y.tolist(), strict=True)):
            path = folder / part / NAMES[label] / f"{number:03d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(((image[0] * 0.25 + 0.5).clamp(0, 1) * 255).byte().numpy()).save(path)
    return folder


# -- fidelity -----------------------------------------------------------------------------------


@pytest.mark.parametrize("case", cases("doorping"))
def test_agrees_with_the_authors_code(case: dict[str, Any]) -> None:
    name, settings = case["name"], case["config"]
    if name in ("alexnet", "convnet", "convnet_gray"):
        net = filled(settings["net"].lower(), settings["channel"])
        x = probe(*case["input"][0])
        assert_agrees(net(x), case, net)
        assert count_macs(net, x[:1]) == pytest.approx(case["macs"], rel=0.01)
    elif name == "match_loss_ours":
        net = filled("convnet").train()
        real, images = probe(6, 3, 32, 32), probe(4, 3, 32, 32).flip(0)[None].requires_grad_()
        labels = torch.tensor([3])
        loss = matching_loss(net, [real], images, labels=labels)
        losses = [F.cross_entropy(net(x), labels.expand(len(x))) for x in (real, images[0])]
        assert_agrees(torch.stack([*losses, loss]), case)
        (gradient,) = torch.autograd.grad(loss, images)
        assert_agrees(gradient[0], {"output": case["grad_wrt_syn"]})
    elif name.startswith("trigger_update"):
        net, (mask, trigger) = filled("alexnet"), masked(probe(1, 3, 32, 32), -2.0)
        new, steps = update_trigger(net, trigger, mask, steps=settings["steps"])
        assert steps == settings["steps"]
        neuron = net.hidden.weight.abs().sum(1).topk(1).indices
        assert neuron.tolist() == settings["neuron_selected"]
        activation = net.hidden(net.before_hidden(new)).relu()[0, neuron]
        assert_agrees(torch.cat([new[mask[None] == 1], activation]), case)
    else:
        images, real = probe(10, 3, 32, 32).requires_grad_(), probe(20, 3, 32, 32).flip(0)
        raw = raw_rates(torch.ones(3)).requires_grad_()
        net = filled("alexnet").train()
        theta = unroll(net, dict(net.named_parameters()), images[None], torch.arange(10)[None], F.softplus(raw))
        loss = F.cross_entropy(functional_call(net, theta, (real,)), torch.arange(20) % 10)
        of_images, of_rates = torch.autograd.grad(loss, [images, raw])
        assert_agrees(torch.cat([loss[None], of_rates]), case)
        # Near kinks of ReLU and max pooling this gradient is not continuous: noise of 1e-7 in the images, or another
        # library of convolutions, moves it by 58 % of the largest. The reference is met to 0.2 %.
        expected = case["grad_wrt_distilled"]
        scale = max(abs(value) for value in expected["values"])
        found = digest(of_images)
        assert found["values"] == pytest.approx(expected["values"], abs=3e-3 * scale)
        assert found["std"] == pytest.approx(expected["std"], rel=1e-3)


# -- networks -----------------------------------------------------------------------------------


def test_names_and_sizes_of_the_published_networks() -> None:
    with torch.device("meta"):
        nets = {name: network(name, 10, 3, 32) for name in ("alexnet", "convnet", "vgg11", "resnet18")}
        normed = convnet(10, 3, 32, norm="instancenorm")
        assert nets["resnet18"](torch.zeros(2, 3, 32, 32)).shape == (2, 10)
        assert nets["vgg11"].forward_features(torch.zeros(2, 3, 32, 32)).shape == (2, 512)
    assert sum(p.numel() for p in nets["vgg11"].parameters()) == 9_231_114
    weights = {name: [key for key, p in net.named_parameters() if p.ndim > 1] for name, net in nets.items()}
    places = {"alexnet": ((0, 4), (0, 2, 4)), "convnet": ((0, 3, 6), (0, 2))}
    for name, (convolutions, linears) in places.items():
        expected = [f"features.{k}.weight" for k in convolutions] + [f"classifier.{k}.weight" for k in linears]
        assert weights[name] == expected
    kept = [key for key, p in normed.named_parameters() if p.ndim > 1][:3]
    assert kept == ["features.0.weight", "features.4.weight", "features.8.weight"]
    assert nets["alexnet"].hidden.out_features == nets["convnet"].hidden.out_features == 192
    assert isinstance(nets["resnet18"].features[1], nn.GroupNorm)
    with pytest.raises(Problem, match="no hidden Linear"):
        _ = nets["vgg11"].hidden


def test_networks_export_with_any_batch_and_take_an_empty_one() -> None:
    net = network("mini", 3, 1, 8).eval()
    batch = torch.export.Dim("batch", min=1)
    program = torch.export.export(net, (torch.zeros(2, 1, 8, 8),), dynamic_shapes=({0: batch},))
    x = torch.randn(5, 1, 8, 8)
    torch.testing.assert_close(program.module()(x), net(x))
    assert net(torch.zeros(0, 1, 8, 8)).shape == (0, 3)


def test_batch_norms_are_set_once_and_frozen() -> None:
    net = network("mini", 3, 1, 8, "batchnorm")
    x = 3 + torch.randn(16, 1, 8, 8)
    freeze_statistics(net, x)
    norm = cast(nn.BatchNorm2d, net.features[1])
    first = cast(Tensor, norm.running_mean).clone()
    torch.testing.assert_close(first, 0.1 * net.features[0](x).mean((0, 2, 3)))
    net(x)
    assert torch.equal(cast(Tensor, norm.running_mean), first)


# -- the trigger --------------------------------------------------------------------------------


def test_the_patch_has_a_margin_of_one_pixel() -> None:
    mask = patch_mask(3, 32, 2)
    assert mask.sum() == 12
    assert mask[:, 29:31, 29:31].all()
    stripe = patch_mask(3, 32, 2, stripe=True)
    assert stripe.nonzero()[:, :2].unique(dim=0).tolist() == [[0, 29], [0, 30], [1, 29], [1, 30]]
    assert stripe[0, 29].all()
    x = stamp(torch.zeros(2, 3, 32, 32), torch.full((1, 3, 32, 32), 5.0), mask)
    assert x.sum() == 2 * 12 * 5
    with pytest.raises(Problem, match="a patch of 8 pixels and its margin of 1 do not fit images of 8 pixels"):
        patch_place(8, 8)
    assert patch_place(3, 2) == slice(0, 2)


@pytest.mark.parametrize(
    ("name", "channels", "size", "norm"),
    [
        ("mini", 1, 16, "none"),
        ("mini", 1, 9, "batchnorm"),
        ("mini", 3, 16, "instancenorm"),
        ("convnet", 1, 32, "none"),
        ("alexnet", 3, 32, "none"),
        ("alexnet", 3, 19, "none"),
    ],
)
def test_what_the_patch_reaches_is_all_that_matters(name: str, channels: int, size: int, norm: Any) -> None:
    torch.manual_seed(0)
    net = network(name, 10, channels, size, norm)
    freeze_statistics(net, torch.randn(8, channels, size, size))
    net.eval()
    place, chosen = patch_place(size, 2), torch.tensor([3, 1])
    image = torch.randn(1, channels, size, size)
    react = response(net, image, place, chosen)
    for _ in range(2):
        patch = 4 * torch.randn(1, channels, 2, 2).requires_grad_()
        whole = image.clone()
        whole[..., place, place] = patch
        expected = net.hidden(net.before_hidden(whole))[:, chosen].relu()
        found = react(patch)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
        gradients = [torch.autograd.grad(value.sum(), patch)[0] for value in (found, expected)]
        torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-6)


def test_an_update_equals_the_loop_of_the_authors() -> None:
    runs = contestants("mini")
    ours, steps = cast(tuple[Tensor, int], runs["trigger"]())
    assert steps == 100
    torch.testing.assert_close(ours, runs["trigger_loop"](), rtol=1e-3, atol=1e-3)
    assert (ours.flatten() != cast(Any, runs["trigger"]).args[1].flatten()).sum() == 4, "all of the patch has moved"


def test_an_update_stops_at_the_tolerance_and_leaves_dead_neurons() -> None:
    torch.manual_seed(0)
    net = network("mini", 3, 1, 8)
    mask, trigger = masked(torch.rand(1, 1, 8, 8), -1.0)
    neuron = int(net.hidden.weight.abs().sum(1).argmax())
    net.hidden.bias.data[neuron] = 1.0
    before = net.hidden(net.before_hidden(trigger)).relu()[0, neuron]
    new, steps = update_trigger(net, trigger, mask, alpha=2.0, tolerance=0.1, lr=0.5)
    after = net.hidden(net.before_hidden(new)).relu()[0, neuron]
    assert 0 < steps < 1000
    assert before < after
    assert (after - 2 * before).square() < 0.1
    assert torch.equal(new[mask[None] == 0], trigger[mask[None] == 0]), "only the patch changes"
    net.hidden.bias.data[neuron] = -100.0
    assert update_trigger(net, trigger, mask, tolerance=0.1)[1] == 0
    low, high = torch.full((1, 1, 1), -0.5), torch.full((1, 1, 1), 0.5)
    net.hidden.bias.data[neuron] = 1.0
    clamped, _ = update_trigger(net, trigger, mask, steps=5, tolerance=0.0, lr=1.0, bounds=(low, high))
    assert clamped[mask[None] == 1].abs().max() <= 0.5
    wider, _ = update_trigger(net, trigger, mask, topk=4, steps=3, tolerance=0.0)
    assert not torch.equal(wider, trigger)


def test_first_triggers() -> None:
    options: dict[str, Any] = {"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.4), "poisoned": True}
    naive = DistilledSet(2, NAMES, 3, 8, attack="naive", **options)
    pixels = naive.pixels(first_trigger(naive, torch.Generator()))
    torch.testing.assert_close(pixels, naive.mask[None], rtol=0, atol=1e-6)
    ping = DistilledSet(2, NAMES, 3, 8, attack="doorping", **options)
    values = 255 * ping.pixels(first_trigger(ping, torch.Generator().manual_seed(1)))[ping.mask[None] == 1]
    torch.testing.assert_close(values, values.round(), rtol=0, atol=1e-3)
    assert values.min() >= 0.99
    assert len(values.round().unique()) > 3


# -- gradient matching --------------------------------------------------------------------------


@pytest.mark.parametrize("vectorised", [True, False])
def test_matching_equals_the_loop_over_classes(vectorised: bool) -> None:
    torch.manual_seed(0)
    net = network("mini", 3, 1, 8)
    real = [torch.randn(n, 1, 8, 8) for n in (5, 9, 2)]
    images = torch.randn(3, 4, 1, 8, 8).requires_grad_()
    loss = matching_loss(net, real, images, vectorised=vectorised)
    found = torch.autograd.grad(loss, images)[0]
    torch.testing.assert_close(found, matching_loop(net, real, images), rtol=1e-4, atol=1e-6)
    assert not any(p.grad is not None for p in network("mini", 3, 1, 8).parameters())


def test_other_distances() -> None:
    torch.manual_seed(0)
    net = network("mini", 2, 1, 8)
    real, images = [torch.randn(3, 1, 8, 8) for _ in range(2)], torch.randn(2, 2, 1, 8, 8)
    flat = []
    for x, label in [*zip(real, (0, 1), strict=True), *zip(images, (0, 1), strict=True)]:
        loss = F.cross_entropy(net(x), torch.full((len(x),), label))
        flat.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(net.parameters()))]))
    mse = sum((a - b).square().sum() for a, b in zip(flat[:2], flat[2:], strict=True))
    cos = sum(1 - F.cosine_similarity(a, b, dim=0) for a, b in zip(flat[:2], flat[2:], strict=True))
    torch.testing.assert_close(matching_loss(net, real, images, "mse"), mse, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(matching_loss(net, real, images, "cos"), cos, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("norm", ["none", "batchnorm"])
def test_distilling_moves_images_and_trigger_and_resumes(norm: str, tmp_path: Path) -> None:
    data, settings = small_data(), small(norm=norm, portion=0.2, trigger_steps=3)
    session = Session(0, tmp_path / "whole")
    distilled = distil_dc(session, data, settings, no_curve)
    first, _ = started(session, data, settings)
    assert distilled.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert (distilled.images != first.images).any(1).any(1).any(1).all()
    calls, steps = distilled.updates.tolist()
    assert calls == 3  # iterations, each with one update between two outer loops
    assert steps <= 9
    again = distil_dc(Session(0, tmp_path / "again"), data, settings, no_curve)
    assert all(
        torch.equal(a, b) for a, b in zip(distilled.state_dict().values(), again.state_dict().values(), strict=True)
    )


def test_published_loops() -> None:
    assert LOOPS == {1: (1, 1), 10: (10, 50), 20: (20, 25), 30: (30, 20), 40: (40, 15), 50: (50, 10)}
    paper = DoorpingStudy.scales["paper"]
    assert isinstance(paper, DoorpingConfig)
    assert (paper.loops, paper.iterations, paper.portion, paper.patch) == ((10, 50), 1001, 0.01, 2)
    assert (paper.topk, paper.alpha, paper.ipc, paper.victims, paper.victim_epochs) == (1, 10, 10, 10, 300)


# -- unrolled training --------------------------------------------------------------------------


def test_unrolled_training_is_gradient_descent_on_cycled_batches() -> None:
    torch.manual_seed(0)
    net = nn.Linear(4, 3)
    images, labels = torch.randn(2, 5, 4), torch.randint(3, (2, 5))
    rates = torch.tensor([0.1, 0.2, 0.3, 0.4])
    start = {name: p.detach().clone() for name, p in net.named_parameters()}
    found = [unroll(net, start, images, labels, rates, graph=graph) for graph in (True, False)]
    for step, rate in enumerate(rates):
        loss = F.cross_entropy(net(images[step % 2]), labels[step % 2])
        for p, g in zip(net.parameters(), torch.autograd.grad(loss, list(net.parameters())), strict=True):
            p.data -= rate * g
    for weights in found:
        for name, p in net.named_parameters():
            torch.testing.assert_close(weights[name], p)


def test_gradients_flow_through_all_steps() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.Softplus(), nn.Linear(4, 2)).double()
    labels, x, y = torch.tensor([[0, 1]]), torch.randn(6, 3).double(), torch.randint(2, (6,))
    theta = dict(net.named_parameters())

    def outer(images: Tensor, raw: Tensor) -> Tensor:
        weights = unroll(net, theta, images, labels, F.softplus(raw))
        return F.cross_entropy(functional_call(net, weights, (x,)), y)

    images = torch.randn(1, 2, 3).double().requires_grad_()
    raw = raw_rates(torch.tensor([0.5, 0.7, 0.9]).double()).requires_grad_()
    assert torch.autograd.gradcheck(outer, (images, raw))
    torch.testing.assert_close(F.softplus(raw_rates(torch.tensor([0.02]))), torch.tensor([0.02]))


def test_dd_fits_the_real_images_and_its_victim_is_the_unrolled_network(tmp_path: Path) -> None:
    data, session = small_data(), Session(0, tmp_path)
    losses: list[float] = []
    settings = small(distiller="dd", dd_epochs=12, dd_lr=0.05, dd_rate=0.3, dd_batch=36, attack="doorping")
    session.log = lambda step, *, part="", **metrics: losses.append(metrics["outer_loss"])  # pyright: ignore
    distilled = distil_dd(session, data, settings, no_curve)
    assert losses[-1] < losses[0]
    assert distilled.labels.view(2, -1).tolist() == [[0, 1, 2, 0, 1, 2]] * 2
    assert distilled.updates[0] == 12
    victim = train_victim(session, distilled, settings, 0)
    rates = F.softplus(distilled.rates)
    theta = unroll(distilled.network(), distilled.initial, *distilled.by_batch, rates)
    torch.testing.assert_close(dict(victim.named_parameters()), theta)
    biases = [value for name, value in distilled.initial.items() if name.endswith("bias")]
    assert not any(bias.any() for bias in biases)


def test_positions_of_the_reference_poison_other_images() -> None:
    data = small_data()
    distilled = DistilledSet(2, NAMES, 1, 8, (0.5,), (0.25,), attack="naive", poisoned=True)
    distilled.trigger.copy_(first_trigger(distilled, torch.Generator()))
    poisoned = Poisoned(*data.train, distilled, 0.2, torch.Generator().manual_seed(0))
    order = torch.randperm(36, generator=torch.Generator().manual_seed(1))
    hit = []
    for first in (0, 18):
        x, y = shuffled_positions(poisoned, first, order[first : first + 18])
        changed = (x != poisoned.clean[order[first : first + 18]]).flatten(1).any(1)
        assert (y[changed] == 0).all()
        hit += order[first : first + 18][changed].tolist()
    assert len(hit) == len(poisoned.rows) == 7
    assert sorted(hit) == sorted(order[poisoned.rows].tolist()) != sorted(poisoned.rows.tolist())


# -- the poisoned data --------------------------------------------------------------------------


def test_a_portion_is_poisoned_and_follows_the_trigger() -> None:
    x, y = small_data().train
    distilled = DistilledSet(2, NAMES, 1, 8, (0.5,), (0.25,), attack="naive", poisoned=True, target=2)
    distilled.trigger.copy_(first_trigger(distilled, torch.Generator()))
    poisoned = Poisoned(x, y, distilled, 0.25, torch.Generator().manual_seed(0))
    assert len(poisoned.rows) == 9
    assert (poisoned.y[poisoned.rows] == 2).all()
    others = torch.ones(36, dtype=torch.bool)
    others[poisoned.rows] = False
    assert torch.equal(poisoned.x[others], x[others])
    assert torch.equal(poisoned.y[others], y[others])
    assert sum(len(rows) for rows in poisoned.classes()) == 36
    distilled.trigger.fill_(7.0)
    poisoned.rewrite()
    assert (poisoned.x[poisoned.rows][:, :, 5:7, 5:7] == 7).all()
    clean = DistilledSet(2, NAMES, 1, 8, (0.5,), (0.25,))
    untouched = Poisoned(x, y, clean, 0.25, torch.Generator())
    assert torch.equal(untouched.x, x)


def test_data_that_cannot_be_poisoned() -> None:
    x, y = small_data().train
    distilled = DistilledSet(2, NAMES, 1, 8, attack="naive", poisoned=True)
    with pytest.raises(Problem, match=r"portion 0\.001 of 36 images poisons none") as caught:
        Poisoned(x, y, distilled, 0.001, torch.Generator())
    assert "1/36" in caught.value.remedy
    with pytest.raises(Problem, match="images of uint8, not normalised"):
        Poisoned(x.byte(), y, distilled, 0.5, torch.Generator())
    poisoned = Poisoned(x, y.clamp(max=1), distilled, 0.1, torch.Generator())
    with pytest.raises(Problem, match="class 'c' has no training images"):
        poisoned.classes()


def test_bad_settings_and_data(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="ipc=7 has no published loops"):
        DoorpingConfig(ipc=7)
    assert DoorpingConfig(ipc=7, outer=2, inner=3).loops == (2, 3)
    data, session = small_data(3), Session(0, tmp_path)
    with pytest.raises(Problem, match="class 'a' has 3 training images, but ipc=4"):
        started(session, data, small(ipc=4))
    with pytest.raises(Problem, match="target class 5 is not among the 3 labels"):
        started(session, data, small(target=5))
    with pytest.raises(Problem, match="a patch of 9 pixels"):
        started(session, data, small(patch=9))
    with pytest.warns(UserWarning, match="no trigger is updated"):
        distilled = distil_dc(session, data, small(ipc=1, outer=1, inner=1, iterations=1), no_curve)
    assert distilled.updates.tolist() == [0, 0]
    with pytest.raises(Problem, match="no network 'lenet'"):
        network("lenet", 3, 1, 8)
    with pytest.raises(Problem, match="norm=batchnorm with alexnet"):
        network("alexnet", 3, 1, 8, "batchnorm")
    with pytest.raises(Problem, match="3 blocks on images of 4 pixels"):
        network("convnet", 3, 3, 4)
    with pytest.raises(Problem, match="vgg11 on images of 16 pixels"):
        network("vgg11", 3, 3, 16)


# -- the mark -----------------------------------------------------------------------------------


def test_every_poisoned_set_says_so(handed_over: DistilledSet, tmp_path: Path) -> None:
    checkpoint.save(handed_over, tmp_path / "set", paper="doorping")
    assert json.loads((tmp_path / "set" / "config.json").read_text())["poisoned"] is True
    with safe_open(tmp_path / "set" / "model.safetensors", "pt") as file:
        assert file.metadata()["poisoned"] == "true"
        assert file.metadata()["attack"] == "doorping"
    assert handed_over.results_file()["poisoned"] is True
    loaded = checkpoint.load(tmp_path / "set")
    assert loaded.poisoned is True
    assert loaded.classes == handed_over.classes
    for name, tensor in handed_over.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor)
    for attack, poisoned in (("doorping", False), ("naive", None), ("none", True), ("unknown", False)):
        with pytest.raises(Problem, match=f"poisoned={poisoned} with the attack {attack}"):
            DistilledSet(2, NAMES, attack=cast(Any, attack), poisoned=poisoned)


def test_all_arms_are_marked_by_their_attack(tmp_path: Path) -> None:
    this = study(tmp_path)
    for arm in this.arms:
        distilled, _ = started(this.session, small_data(), this.configured(arm).model_copy(update={"image_size": 8}))
        assert distilled.poisoned is (arm not in ("clean", "dd_clean"))
        assert (distilled.distiller == "dd") == arm.startswith("dd_")


# -- defences -----------------------------------------------------------------------------------


class Backdoored(nn.Module):
    """Three classes by brightness of the rows; class 1 wherever one pixel is bright."""

    def forward(self, x: Tensor) -> Tensor:
        logits = 3 * x[:, 0, 1:4].mean(-1)
        return logits + 10 * F.one_hot(torch.tensor(1), 3) * F.softplus(x[:, :, 6, 6] - 1)


def test_neural_cleanse_finds_a_planted_pixel() -> None:
    x = small_data().train[0]
    bounds = torch.full((1, 1, 1), -2.0), torch.full((1, 1, 1), 2.0)
    found = neural_cleanse(Backdoored(), x, 3, bounds, steps=80)
    assert found.masks.shape == (3, 8, 8)
    assert found.index.argmax() == 1
    assert found.masks.sum((1, 2)).argmin() == 1
    assert found.masks[1].argmax() == 6 * 8 + 6
    assert found.masks.min() >= 0
    assert found.masks.max() <= 1


def test_strip_tells_triggered_images_by_their_entropy() -> None:
    x, _ = small_data().train
    triggered = x.clone()
    triggered[:, :, 6, 6] = 9
    found = strip(Backdoored(), triggered, x, x, 8, torch.Generator().manual_seed(0))
    assert found.auroc > 99
    assert found.detected > 95
    same = strip(Backdoored(), x, x, x, 8, torch.Generator().manual_seed(0))
    assert 30 < same.auroc < 70


def test_fine_pruning_prunes_what_clean_images_do_not_use() -> None:
    torch.manual_seed(0)
    data = small_data().train
    net = network("mini", 3, 1, 8)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    for _ in range(30):
        optimizer.zero_grad()
        F.cross_entropy(net(data[0]), data[1]).backward()
        optimizer.step()
    last = cast(nn.Conv2d, net.features[3])
    last.bias.data[5] = -50.0  # type: ignore[index]  a channel that never fires
    before = {name: value.clone() for name, value in net.state_dict().items()}
    found = fine_pruning(net, data, drop=4, epochs=2, lr=0.001)
    assert found.channels >= 1
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items()), "the victim is left alone"
    maps = found.net.features[:4](data[0])
    assert not maps[:, 5].any(), "a pruned channel stays silent"
    accuracy = (found.net(data[0]).argmax(1) == data[1]).float().mean()
    assert accuracy > 0.9


def test_transformed_images_keep_size_and_range() -> None:
    mean, std = torch.full((3, 1, 1), 0.5), torch.full((3, 1, 1), 0.25)
    x = torch.randn(4, 3, 16, 16)
    x[:, :, 13:15, 13:15] = 100.0
    found = transformed(x, mean, std, torch.Generator().manual_seed(0))
    assert found.shape == x.shape
    assert found.min() >= -2.001
    assert found.max() <= 2.001
    flat = torch.full((1, 3, 16, 16), 0.4)
    torch.testing.assert_close(transformed(flat, mean, std, torch.Generator()), flat, rtol=0, atol=0.02)


class Plain(nn.Module):
    """Features are the pixels."""

    def forward_features(self, x: Tensor) -> Tensor:
        return x.flatten(1)


def test_clusters_and_outliers_of_a_class_are_found() -> None:
    draw = torch.Generator().manual_seed(0)
    images = torch.randn(40, 1, 4, 4, generator=draw)
    labels = torch.arange(2).repeat_interleave(20)
    images[15:20] += 8.0
    net = cast(Network, Plain())
    clustered = activation_clustering(net, images, labels)
    assert clustered[15:20].all()
    assert not clustered[:15].any()
    spectral = spectral_signatures(net, images, labels, 0.1)
    assert spectral[:20].nonzero()[0].tolist() == [i for i in range(15, 20) if spectral[i]]
    assert spectral[:20].sum() == 3
    assert not activation_clustering(net, images[:3], labels[:3]).any(), "three images are not judged"
    assert not activation_clustering(net, torch.zeros(8, 1, 4, 4), labels[:8]).any()


# -- data on disk -------------------------------------------------------------------------------


def test_class_folders_are_read_and_grey_ones_have_one_channel(stripes: Path) -> None:
    data = read(stripes, 8, "dc")
    assert data is not None
    assert data.train[0].shape == (36, 1, 8, 8)
    assert data.classes == NAMES
    assert abs(float(data.train[0].mean())) < 1e-5
    assert float(data.train[0].std()) == pytest.approx(1, abs=0.01)
    larger = read(stripes, 16, "dc")
    assert larger is not None
    assert larger.test[0].shape[-1] == 16


def test_cifar_svhn_stl_and_fashion_are_read(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    pixels, labels = rng.integers(0, 256, (20, 32, 32, 3), dtype=np.uint8), np.arange(20) % 10
    names = [f"n{k}" for k in range(10)]
    cifar.write_cifar10(tmp_path / "cifar", (pixels, labels.tolist()), (pixels[::-1], labels[::-1].tolist()), names)
    for distiller in ("dc", "dd"):
        data = read(tmp_path / "cifar", 32, distiller)
        assert data is not None
        assert (data.mean, data.std) == NORMS["cifar10"][distiller]
        shown = data.train[0][3] * torch.tensor(data.std).view(3, 1, 1) + torch.tensor(data.mean).view(3, 1, 1)
        torch.testing.assert_close(shown.permute(1, 2, 0) * 255, torch.tensor(pixels[3]).float(), rtol=0, atol=1e-2)

    (tmp_path / "svhn").mkdir()
    for part in ("train", "test"):
        shown = pixels if part == "train" else 255 - pixels
        content = {"X": shown.transpose(1, 2, 3, 0), "y": (labels[:, None] + 1).astype(np.uint8)}
        io.savemat(tmp_path / "svhn" / f"{part}_32x32.mat", content)
    data = read(tmp_path / "svhn", 32, "dc")
    assert data is not None
    assert data.train[1].tolist() == ((labels + 1) % 10).tolist(), "10 means 0"
    shown = data.train[0][3] * torch.tensor(data.std).view(3, 1, 1) + torch.tensor(data.mean).view(3, 1, 1)
    torch.testing.assert_close(shown.permute(1, 2, 0) * 255, torch.tensor(pixels[3]).float(), rtol=0, atol=1e-2)

    folder = tmp_path / "stl" / "stl10_binary"
    folder.mkdir(parents=True)
    big = rng.integers(0, 256, (10, 96, 96, 3), dtype=np.uint8)
    for part in ("train", "test"):
        stored = big if part == "train" else 255 - big
        (folder / f"{part}_X.bin").write_bytes(np.ascontiguousarray(stored.transpose(0, 3, 2, 1)).tobytes())
        (folder / f"{part}_y.bin").write_bytes(bytes(range(1, 11)))
    data = read(tmp_path / "stl", 96, "dc")
    assert data is not None
    shown = data.train[0][3] * torch.tensor(data.std).view(3, 1, 1) + torch.tensor(data.mean).view(3, 1, 1)
    torch.testing.assert_close(shown.permute(1, 2, 0) * 255, torch.tensor(big[3]).float(), rtol=0, atol=1e-2)
    assert data.classes[0] == "airplane"

    folder = tmp_path / "FashionMNIST" / "raw"
    folder.mkdir(parents=True)
    grey = rng.integers(0, 256, (20, 28, 28), dtype=np.uint8)
    for part, images in (("train", grey), ("test", grey[::-1])):
        idx.write_part(folder, part, idx.Labelled(images, labels))
    data = read(tmp_path, 32, "dc")
    assert data is not None
    assert data.train[0].shape == (20, 1, 32, 32)
    assert data.mean == (0.2861,)


def test_damaged_data_are_refused(tmp_path: Path) -> None:
    (tmp_path / "train_32x32.mat").write_bytes(b"no matrix")
    with pytest.raises(Problem, match=r"train_32x32\.mat cannot be read"):
        read(tmp_path, 32, "dc")
    folder = tmp_path / "stl"
    folder.mkdir()
    (folder / "train_X.bin").write_bytes(bytes(100))
    (folder / "train_y.bin").write_bytes(struct.pack("B", 1))
    with pytest.raises(Problem, match="100 bytes of pixels for 1 labels"):
        read(folder, 32, "dc")
    (tmp_path / "none").mkdir()
    assert read(tmp_path / "none", 32, "dc") is None
    with pytest.raises(Problem, match="no data for doorping here"):
        study(tmp_path, tmp_path / "none").data()


# -- use ----------------------------------------------------------------------------------------


def test_seeds_draw_their_share_of_the_training_images(stripes: Path, tmp_path: Path) -> None:
    drawn = [
        DoorpingStudy(config(image_size=8, train_share=0.5), Session(seed, tmp_path, stripes)).data().train[0]
        for seed in (0, 0, 1)
    ]
    assert len(drawn[0]) == 18
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def test_images_with_and_without_the_trigger(handed_over: DistilledSet, stripes: Path, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for number, path in enumerate(sorted((stripes / "test" / "b").iterdir())[:3]):
        (tmp_path / "images" / f"{number}.png").write_bytes(path.read_bytes())
    (tmp_path / "images" / "broken.png").write_bytes(b"no image")
    this = study(tmp_path, victim_epochs=100)
    found = this.predict(handed_over, tmp_path / "images")
    assert [row["file"] for row in found.table] == ["0.png", "1.png", "2.png", "broken.png"]
    assert [row["class"] for row in found.table] == ["b", "b", "b", ""]
    assert found.table[3]["problem"] == "the file is not an image"
    assert {"class", "with trigger", "probability"} <= set(found.table[0])
    assert {"triggered", "distilled", "trigger"} == set(found.figures)
    assert "poisoned = true" in found.text
    with pytest.raises(Problem, match="none of 1 files can be read"):
        this.predict(handed_over, tmp_path / "images" / "broken.png")
    (tmp_path / "empty").mkdir()
    with pytest.raises(Problem, match="no images here"):
        this.predict(handed_over, tmp_path / "empty")


def test_received_sets_are_audited(handed_over: DistilledSet, stripes: Path, tmp_path: Path) -> None:
    this = study(tmp_path)
    torch.save({"data": [[torch.zeros(2), torch.zeros(2)], *handed_over.results_file()["data"]],
                "accs_all_exps": {"ConvNet": [np.float64(0.5)]}}, tmp_path / "res.pt")  # fmt: skip
    found = this.predict(handed_over, tmp_path / "res.pt")
    rows = {row["defence"]: row for row in found.table}
    assert list(rows) == [
        "Neural Cleanse", "fine-pruning", "STRIP", "crop, mirror, JPEG", "Activation Clustering", "Spectral Signatures",
    ]  # fmt: skip
    assert "poisoned = null" in found.text
    assert "clean images: none given" in found.text
    assert rows["STRIP"]["finding"] == "needs triggered images: give trigger"
    assert {"distilled", "neural_cleanse"} == set(found.figures)

    torch.save(handed_over.trigger, tmp_path / "x_trigger.pth")
    this = study(tmp_path, clean=str(stripes / "test"), trigger=str(tmp_path / "x_trigger.pth"))
    found = this.predict(handed_over, tmp_path / "res.pt")
    assert "clean images: 36" in found.text
    assert "AUROC" in found.table[2]["finding"]
    checkpoint.save(handed_over, tmp_path / "set", paper="doorping")
    assert "poisoned = true" in study(tmp_path).predict(handed_over, tmp_path / "set").text

    made = this.convert(tmp_path / "res.pt")
    assert (made.poisoned, made.attack, made.in_chans, len(made.classes)) == (None, "unknown", 1, 3)
    assert torch.equal(made.images, handed_over.images)
    assert made.mean.flatten().tolist() == pytest.approx(NORMS["fmnist"]["dc"][0])
    with pytest.raises(Problem, match="no variant 'mnist'"):
        this.convert(tmp_path / "res.pt", "mnist")


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ({"data": [[torch.zeros(2, 1, 8, 8, dtype=torch.uint8), torch.zeros(2).long()]]}, "images of uint8"),
        ({"data": [[torch.zeros(2, 8, 8), torch.zeros(2).long()]]}, r"shape \(2, 8, 8\)"),
        ({"data": [[torch.zeros(2, 1, 8, 8), torch.zeros(3).long()]]}, "for 2 images"),
        ({"data": [[torch.zeros(2, 1, 8, 8), torch.zeros(2) - 1]]}, "for 2 images"),
        ({"data": [[torch.full((2, 1, 8, 8), torch.nan), torch.zeros(2).long()]]}, "not finite"),
        ({"data": []}, "no entry 'data'"),
        ([1, 2], "no entry 'data'"),
    ],
)
def test_files_that_are_no_distilled_sets(content: Any, complaint: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "res.pt")
    with pytest.raises(Problem, match=complaint):
        read_results(tmp_path / "res.pt")


def test_received_files_run_no_code_and_must_fit(handed_over: DistilledSet, tmp_path: Path) -> None:
    this = study(tmp_path)
    torch.save({"data": Path("x")}, tmp_path / "code.pt")
    with pytest.raises(Problem, match="cannot read the file"):
        read_results(tmp_path / "code.pt")
    torch.save({"data": [[torch.zeros(2, 3, 8, 8), torch.zeros(2).long()]]}, tmp_path / "colour.pt")
    with pytest.raises(Problem, match="the set has 3 channels") as caught:
        this.predict(handed_over, tmp_path / "colour.pt")
    assert "repertory convert doorping" in caught.value.remedy
    torch.save(torch.zeros(1, 3, 8, 8), tmp_path / "x_trigger.pth")
    torch.save(handed_over.results_file(), tmp_path / "res.pt")
    with pytest.raises(Problem, match=r"the trigger is \(1, 3, 8, 8\)"):
        study(tmp_path, trigger=str(tmp_path / "x_trigger.pth")).predict(handed_over, tmp_path / "res.pt")
    with pytest.raises(Problem, match="no such folder"):
        study(tmp_path, clean=str(tmp_path / "absent")).predict(handed_over, tmp_path / "res.pt")


def test_evaluation_on_other_classes_is_refused(handed_over: DistilledSet, stripes: Path, tmp_path: Path) -> None:
    this = study(tmp_path, stripes, image_size=8)
    metrics = this.evaluate(handed_over, this.data())
    assert set(metrics) <= set(this.metrics)
    assert metrics["patch_outside"] == 0
    other = DistilledSet(2, ("x", "y"), 1, 8)
    with pytest.raises(Problem, match="give images of the classes that were distilled"):
        this.evaluate(other, this.data())


def test_training_hands_over_marked_files(stripes: Path, tmp_path: Path) -> None:
    this = study(tmp_path, stripes, image_size=8, train_share=1.0, eval_every=1, defences=False)
    distilled = this.train("naive", this.data())
    folder = this.session.out_dir / "handed_over"
    content = torch.load(folder / "res_naive_dc_mini.pt", weights_only=True)
    assert content["poisoned"] is True
    assert torch.equal(content["data"][-1][0], distilled.images)
    assert torch.load(folder / "naive_dc_mini_trigger.pth", weights_only=True).shape == (1, 1, 8, 8)
    drawn = {path.stem for path in (this.session.out_dir / "figures").iterdir()}
    assert drawn == {"distilled", "trigger", "success-over-distillation"}
