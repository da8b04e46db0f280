"""APB: fidelity, the association by brute force, STCF, the sample, the study, use, and bad input."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from repertory import catalog
from repertory.core import checkpoint
from repertory.core.problem import Problem
from repertory.core.study import Session
from repertory.data import events, images
from repertory.data.events import EventSet, make_events
from repertory.data.images import ImageSet
from repertory.nn.spiking import LIF, ThresholdBatchNorm2d, Window, lif
from repertory.papers.apb import (
    STCF,
    APBConv2d,
    APBLinear,
    APBNet,
    Mode,
    frames_of,
    spatial_crop,
    temporal_crop,
    temporal_flip,
    with_drops,
    with_noise,
)
from repertory.papers.apb.pictures import association
from repertory.papers.apb.sample import write_moving_digits
from repertory.papers.apb.study import ARMS, APBConfig, APBStudy, DisturbedSet, activity
from repertory.tasks.events import Streams
from tests.fidelity.cases import assert_agrees, cases
from tests.fidelity.fill import fill_, probe

MODES: tuple[Mode, ...] = ("shared", "pair")
TINY: dict[str, Any] = {
    "seeds": 1, "epochs": 1, "batch_size": 10, "plan": "4C3-AP2-4C3-AP2", "image_size": 16, "steps": 3, "hflip": False,
    "sample_train": 2, "sample_test": 2,
}  # fmt: skip

# -- fidelity -----------------------------------------------------------------------------------


def expression(text: str) -> Tensor:
    """What a case says of its input, such as "0.3*abs(probe(2,4,6,6,8)), time last"."""
    value = eval(text.partition(", time")[0], {"__builtins__": {}}, {"probe": probe, "abs": torch.abs, "torch": torch})
    return value.to(torch.get_default_dtype())


def layer_of(config: dict[str, Any]) -> APBConv2d | APBLinear:
    """The layer of a case: "3->2 3x3 stride 2 pad 1 groups 1 dilation 1 no bias fill_"."""
    association = {"mode": config["mode"], "beta": config.get("beta", 0.5), "cache": config.get("cache")}
    text = config.get("conv") or config["linear"]
    bias = "no bias" not in text
    inside, outside = map(int, re.findall(r"(\d+)->(\d+)", text)[0])
    if "linear" in config:
        return APBLinear(inside, outside, bias, **association)
    height, width = map(int, re.findall(r"(\d+)x(\d+)", text)[0])
    options: dict[str, Any] = {"bias": bias}
    for option in ("stride", "padding", "dilation", "groups"):
        found = re.search(rf"\b{option[0]}[a-z]*[ =]*(\d+)", text)
        options[option] = config.get(option, int(found[1]) if found else {"padding": 0}.get(option, 1))
    return APBConv2d(inside, outside, (height, width), **options, **association)


@pytest.mark.parametrize("case", cases("apb"))
def test_agrees_with_the_baseline_code_and_the_definition(case: dict[str, Any]) -> None:
    config, kind = case["config"], case["name"]
    x = expression(config["x"])
    neurons = config.get("tau", 0.25), config.get("v_th", 0.2), Window(config.get("a", 0.5))
    if "mode" in config:
        layer = fill_(layer_of(config)).eval()
        with torch.no_grad():
            assert_agrees(layer(x), case, layer)
    elif kind.startswith("tdbn"):
        norm = ThresholdBatchNorm2d(x.shape[1], config["v_th"], config.get("alpha", 1.0), config.get("eps", 1e-5))
        fill_(norm).train("train" in kind)
        with torch.no_grad():
            assert_agrees(norm(x.movedim(-1, 0)).movedim(0, -1), case, norm)
    else:
        x.requires_grad_()
        spikes = lif(x.movedim(-1, 0), *neurons)[0].movedim(0, -1)
        if "loss" in config:
            factor = re.search(r"probe\([\d, ]+\)", config["loss"])
            assert factor
            (grad,) = torch.autograd.grad((spikes * expression(factor[0])).sum(), x)
            assert_agrees(grad, case)
        else:
            assert_agrees(spikes, case)


# -- the association ----------------------------------------------------------------------------


def by_definition(c: Tensor, active: Tensor, mode: str, beta: float) -> Tensor:
    """I' of one neuron from contributions (n,) and what is active (n,), word by word."""
    own = [float(value) for value, is_active in zip(c, active, strict=True) if is_active]
    current, n = sum(own), len(own)
    if n < 2:
        return torch.tensor(current)
    if mode == "shared":
        return torch.tensor(current * min(max(1 + beta * current / n, 0.0), 2.0))
    products = sum(a * b for i, a in enumerate(own) for j, b in enumerate(own) if i != j)
    return torch.tensor(current + beta / (n - 1) * products)


def sparse(*shape: int) -> Tensor:
    """Numbers, two thirds of which are 0."""
    x = probe(*shape).double()
    return torch.where(x > 0.3, x, 0)


@pytest.fixture
def double() -> Any:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "conv",
    [
        {"padding": 1},
        {"padding": 1, "stride": 2, "bias": False},
        {"padding": 2, "dilation": 2, "groups": 2},
        {"groups": 4, "padding": (0, 1)},
    ],
    ids=str,
)
def test_convolutions_are_the_definition(mode: Mode, conv: dict[str, Any]) -> None:
    layer = cast(APBConv2d, fill_(APBConv2d(4, 4, 3, mode=mode, beta=1.7, **conv)))
    x = sparse(2, 4, 5, 6)
    found = layer(x)
    shape = {name: conv.get(name, default) for name, default in (("padding", 0), ("stride", 1), ("dilation", 1))}
    patches = F.unfold(x, 3, **shape)  # (2, 4 * 9, places)
    inside = 4 // layer.groups
    for sample, channel, place in np.ndindex(2, 4, patches.shape[2]):
        group = channel // (4 // layer.groups)
        inputs = patches[sample, group * inside * 9 : (group + 1) * inside * 9, place]
        wanted = by_definition(inputs * layer.weight[channel].detach().flatten(), inputs != 0, mode, 1.7)
        wanted = wanted if layer.bias is None else wanted + layer.bias[channel]
        torch.testing.assert_close(found[sample, channel].flatten()[place], wanted)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("mode", MODES)
def test_linear_layers_are_the_definition(mode: Mode) -> None:
    layer = cast(APBLinear, fill_(APBLinear(7, 3, mode=mode, beta=0.9)))
    x = sparse(2, 5, 7)
    found = layer(x)
    for i, j, k in np.ndindex(2, 5, 3):
        wanted = by_definition(x[i, j] * layer.weight[k].detach(), x[i, j] != 0, mode, 0.9) + layer.bias[k]
        torch.testing.assert_close(found[i, j, k], wanted)
    convolution = APBConv2d(7, 3, 1, mode=mode, beta=0.9)
    convolution.load_state_dict({"weight": layer.weight[..., None, None], "bias": layer.bias})
    torch.testing.assert_close(convolution(x[0].T[None, :, :, None])[0, :, :, 0].T, found[0])


@pytest.mark.parametrize("mode", MODES)
def test_no_strength_is_the_plain_convolution(mode: Mode) -> None:
    x, plain = sparse(2, 4, 6, 6).float(), nn.Conv2d(4, 6, 3, padding=1)
    layer = APBConv2d(4, 6, 3, padding=1, mode=mode, beta=0)
    layer.load_state_dict(plain.state_dict())  # same names, no parameter more
    torch.testing.assert_close(layer(x), plain(x), rtol=1e-6, atol=1e-6)
    stronger = APBConv2d(4, 6, 3, padding=1, mode=mode, beta=0.5)
    stronger.load_state_dict(plain.state_dict())
    assert (stronger(x) - plain(x)).abs().max() > 1e-3


@pytest.mark.parametrize("mode", MODES)
def test_one_synapse_alone_associates_with_none(mode: Mode) -> None:
    x = torch.zeros(1, 3, 9, 9)
    x[0, 0, 1, 1] = x[0, 2, 7, 7] = 1.0  # too far apart for a common neuron
    layer = APBConv2d(3, 5, 3, mode=mode, beta=3.0)
    assert torch.equal(layer(x), F.conv2d(x, layer.weight, layer.bias))
    assert torch.equal(layer(torch.zeros(1, 3, 4, 4))[0, :, 0, 0], cast(Tensor, layer.bias))
    assert layer.active_synapses(x).max() == 1


def test_excitation_is_strengthened_and_inhibition_weakened() -> None:
    layer, x = APBLinear(4, 2, bias=False, beta=0.5), torch.ones(1, 4)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[0.5] * 4, [-0.5] * 4]))
    torch.testing.assert_close(layer(x), torch.tensor([[2 * 1.25, -2 * 0.75]]))
    with torch.no_grad():
        layer.weight.mul_(100)
    torch.testing.assert_close(layer(x), torch.tensor([[400.0, 0.0]]))  # the factor stays within 0 and 2


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("cache", [None, 0.9])
def test_gradients_are_those_of_the_formula(mode: Mode, cache: float | None) -> None:
    layer = cast(APBConv2d, fill_(APBConv2d(2, 4, 3, padding=1, stride=2, groups=2, mode=mode, cache=cache))).eval()
    x = sparse(1, 2, 5, 5)
    x = torch.where(x == 0, 0.8, x)  # a step from 0 would change the count, through which nothing flows
    names, weights = zip(*layer.named_parameters(), strict=True)

    def output(inputs: Tensor, *tensors: Tensor) -> Tensor:
        return torch.func.functional_call(layer, dict(zip(names, tensors, strict=True)), inputs)

    assert torch.autograd.gradcheck(output, (x.requires_grad_(), *weights))
    assert not layer.active_synapses(x).requires_grad


@pytest.mark.usefixtures("double")
def test_where_the_factor_is_clamped_its_gradient_is_too() -> None:
    layer, x = cast(APBLinear, fill_(APBLinear(6, 40, bias=False, beta=9.0))), (sparse(8, 6) != 0).double()
    current = F.linear(x, layer.weight)
    n = x.sum(1, keepdim=True)
    factor = torch.where(n >= 2, (1 + 9 * current / n).clamp(0, 2), 1)
    assert (factor == 0).any()
    assert (factor == 2).any()
    assert ((factor != 0) & (factor != 2) & (n >= 2)).any()
    (wanted,), (found,) = (
        torch.autograd.grad((out * probe(8, 40)).sum(), layer.weight) for out in (factor * current, layer(x))
    )
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("mode", MODES)
def test_the_cache_averages_over_training_steps_and_then_stays(mode: Mode) -> None:
    layer = cast(APBConv2d, APBConv2d(3, 2, 3, padding=1, bias=False, mode=mode, beta=0.5, cache=0.75))
    with torch.no_grad():
        layer.weight.copy_(0.2 + 0.1 * probe(2, 3, 3, 3))
    x = sparse(2, 3, 4, 4).float()
    x[..., :3] = 0
    current = F.conv2d(x, layer.weight, padding=1)
    n = F.conv2d((x != 0).float(), torch.ones(1, 3, 3, 3), padding=1)
    several = (n >= 2).expand_as(current)
    pairs = (current.square() - F.conv2d(x.square(), layer.weight.square(), padding=1)) / (n - 1)
    values = current / n if mode == "shared" else pairs
    assert not several.all()
    mean = torch.stack([values[:, k][several[:, k]].mean() for k in range(2)])
    found = layer(x)
    torch.testing.assert_close(layer.cached, 0.25 * mean)
    blend = torch.where(several, (values + 0.25 * mean[:, None, None]) / 2, 0)
    wanted = current * (1 + 0.5 * blend).clamp(0, 2) if mode == "shared" else current + 0.5 * blend
    torch.testing.assert_close(found, wanted)
    layer(x)
    torch.testing.assert_close(layer.cached, (0.25 + 0.75 * 0.25) * mean)
    kept = cast(Tensor, layer.cached).clone()
    layer.eval()(2 * x)
    layer.train()(torch.zeros_like(x))  # nothing associates: nothing is learned of it
    assert torch.equal(cast(Tensor, layer.cached), kept)
    assert "cached" in layer.state_dict()
    assert "cached" not in APBConv2d(3, 2, 3).state_dict()


def test_wrapped_padding_is_active_and_a_single_image_will_do() -> None:
    x = torch.zeros(2, 4, 4)
    x[:, 0, 0] = 1
    layer = APBConv2d(2, 3, 3, padding=1, padding_mode="circular")
    counts = layer.active_synapses(x)
    assert (counts.shape, counts[0, 3, 3].item(), counts[0, 2, 2].item()) == ((1, 4, 4), 2, 0)
    torch.testing.assert_close(layer(x), layer(x[None])[0])
    same = APBConv2d(2, 3, 3, padding="same")
    assert same(x).shape == (3, 4, 4)


@pytest.mark.parametrize("mode", MODES)
def test_half_precision_stays_close(mode: Mode) -> None:
    layer, x = APBConv2d(8, 8, 3, padding=1, mode=mode), (probe(4, 8, 8, 8) > 0).float()
    with torch.autocast("cpu", torch.bfloat16):
        rough = layer(x)
    assert (rough.float() - layer(x)).abs().max() < 0.05


@pytest.mark.parametrize("layer", [lambda **o: APBConv2d(2, 2, 3, **o), lambda **o: APBLinear(2, 2, **o)])
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"mode": "triple"}, "no mode 'triple'"),
        ({"beta": -0.1}, "beta = -0.1 is negative"),
        ({"cache": 1.0}, "cache = 1.0"),
    ],
)
def test_wrong_settings_are_said(layer: Callable[..., nn.Module], wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(Problem, match=message):
        layer(**wrong)


# -- the network --------------------------------------------------------------------------------


def net(**changes: Any) -> APBNet:
    return APBNet(**{"names": ["a", "b", "c"], "plan": "4C3-AP2-6C3-AP2", "size": (8, 8), "steps": 3, **changes})


def associating(model: nn.Module) -> list[bool]:
    return [isinstance(module, APBConv2d) for module in model.modules() if isinstance(module, nn.Conv2d)]


def test_where_and_what_the_network_associates() -> None:
    assert associating(net()) == [False, False]
    assert associating(net(mode="pair")) == [True, True]
    assert associating(net(mode="shared", where="hidden")) == [False, True]
    sizes = {sum(p.numel() for p in net(mode=mode).parameters()) for mode in (None, *MODES)}
    assert len(sizes) == 1
    lightweight = sum(p.numel() for p in APBNet([str(k) for k in range(10)]).parameters())
    assert lightweight == pytest.approx(1.2e6, rel=0.1)


def test_no_strength_is_the_baseline_network() -> None:
    torch.manual_seed(0)
    plain, associated = net(), net(mode="pair", beta=0)
    associated.load_state_dict(plain.state_dict())
    x = torch.poisson(torch.full((2, 2, 8, 8, 3), 0.5))
    torch.testing.assert_close(plain(x), associated(x))


def test_images_are_repeated_and_bins_come_in_their_order() -> None:
    static, x = net(static=True), torch.rand(2, 3, 8, 8)
    assert torch.equal(static.time_first(x)[0], static.time_first(x)[2])
    assert static(x).shape == (3, 2, 3)
    frames = torch.rand(2, 2, 8, 8, 3)
    assert torch.equal(net().time_first(frames)[1], frames[..., 1])
    with pytest.raises(Problem, match=r"\(2, 8, 8, 3\)") as caught:
        net()(frames[0])
    assert "(B, 2, H, W, T)" in caught.value.remedy
    with pytest.raises(Problem, match="shape"):
        static(frames)
    with pytest.raises(Problem, match="pools 8 x 8 pixels to nothing"):
        net(plan="4C3-AP2-4C3-AP8")
    with pytest.raises(Problem, match="no mode"):
        net(mode="triple")


def test_activity_is_what_the_layers_fire() -> None:
    model, x = net(mode="shared").eval(), torch.poisson(torch.full((2, 2, 8, 8, 3), 1.0))
    fired: list[Tensor] = []
    for layer in model.modules():
        if isinstance(layer, LIF):
            layer.register_forward_hook(lambda *call: fired.append(call[2]))
    logits, spikes = activity(model, x)
    model(x)
    assert len(spikes) == 2
    assert all(torch.equal(a, b) for a, b in zip(fired[:2], spikes, strict=True))
    assert set(torch.cat([layer.flatten() for layer in spikes]).unique().tolist()) <= {0.0, 1.0}
    torch.testing.assert_close(logits, model(x))


@pytest.mark.parametrize("mode", MODES)
def test_the_map_of_association_is_what_the_layer_did(mode: Mode) -> None:
    layer, x = APBConv2d(2, 1, 3, padding=1, bias=False, mode=mode), (probe(3, 2, 6, 6) > 0).float()
    values, what = association(layer, x)
    plain = F.conv2d(x, layer.weight, padding=1)
    wanted = plain[:, 0].numpy(force=True) * values if "factor" in what else plain[:, 0].numpy(force=True) + values
    np.testing.assert_allclose(wanted, layer(x)[:, 0].numpy(force=True), atol=1e-5)


# -- STCF and disturbances ----------------------------------------------------------------------


def stream(count: int = 500, size: tuple[int, int] = (32, 48), seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    t = np.sort(rng.integers(0, 100_000, count))
    t -= t[0]
    return make_events(
        rng.integers(size[1], size=count), rng.integers(size[0], size=count), t, rng.integers(2, size=count)
    )


def test_frames_sum_blocks_of_pixels() -> None:
    recording = stream()
    whole, small = (frames_of(recording, (32, 48), size, 5) for size in ((32, 48), (8, 12)))
    assert whole.shape == (2, 32, 48, 5)
    assert torch.equal(small, whole.unflatten(2, (12, 4)).sum(3).unflatten(1, (8, 4)).sum(2))
    assert whole.sum() == 500


def test_a_temporal_crop_is_a_window_that_starts_at_0() -> None:
    recording = stream()
    duration = recording["t"][-1]
    kept = temporal_crop(recording, 0.6, 0.5)
    start = round(0.2 * duration)
    inside = recording[(recording["t"] >= start) & (recording["t"] <= start + 0.6 * duration)]
    assert np.array_equal(kept["x"], inside["x"])
    assert np.array_equal(kept["t"], inside["t"] - start)
    assert np.array_equal(temporal_crop(recording, 1.0, 0.3), recording)
    two = make_events(0, 0, [0, 10_000], 1)
    assert len(temporal_crop(two, 0.1, 0.5)) == 2  # an empty window is no recording


def test_crops_and_flips_of_frames() -> None:
    frames = probe(2, 6, 6, 4)
    assert torch.equal(spatial_crop(frames, 2, 2, 2), frames)
    moved = spatial_crop(frames, 2, 0, 1)
    assert torch.equal(moved[:, 2:, 1:], frames[:, :-2, :-1])
    assert not moved[:, :2].any()
    assert torch.equal(temporal_flip(frames)[..., 0], frames[..., 3])
    assert torch.equal(temporal_flip(frames, swap_polarity=True)[0, ..., 0], frames[1, ..., 3])


def test_each_operation_of_stcf_happens_half_of_the_time_and_only_if_asked_for() -> None:
    recording = stream(size=(16, 16))
    plain = frames_of(recording, (16, 16), (16, 16), 4)
    off: dict[str, Any] = {"least": 1.0, "pad": 0, "hflip": False, "transpose": False, "tflip": False}
    results = {
        "hflip": plain.flip(2),
        "transpose": plain.transpose(1, 2),
        "tflip": plain.flip(3),
    }
    assert torch.equal(STCF(**off)(recording, (16, 16), (16, 16), 4), plain)
    for name, changed in results.items():
        torch.manual_seed(0)
        seen = [STCF(**{**off, name: True})(recording, (16, 16), (16, 16), 4) for _ in range(60)]
        hits = sum(torch.equal(frames, changed) for frames in seen)
        assert hits + sum(torch.equal(frames, plain) for frames in seen) == 60
        assert 15 <= hits <= 45
    torch.manual_seed(0)
    cropped = [STCF(**{**off, "pad": None})(recording, (16, 16), (16, 16), 4) for _ in range(40)]
    assert len({frames.numpy().tobytes() for frames in cropped}) > 5  # 3 x 3 places
    windows = [STCF(**{**off, "least": 0.7})(recording, (16, 16), (16, 16), 4).sum().item() for _ in range(40)]
    assert 0.6 * 500 < min(windows) < max(windows) <= 500
    with pytest.raises(Problem, match="16 x 32"):
        STCF(transpose=True)(recording, (16, 32), (16, 32), 4)


def test_disturbances_add_and_take_the_share_asked_for() -> None:
    recording = stream()
    noisy = with_noise(recording, 0.3, (32, 48), np.random.default_rng(0))
    assert len(noisy) == 650
    assert (np.diff(noisy["t"]) >= 0).all()
    events.check_size(noisy, (32, 48))
    assert noisy["t"].max() <= recording["t"].max()
    dropped = with_drops(recording, 0.5, np.random.default_rng(0))
    assert len(dropped) == 250
    assert np.isin(dropped["t"], recording["t"]).all()
    assert len(with_drops(recording[:1], 0.5, np.random.default_rng(0))) == 1


def test_an_empty_recording_is_augmented_to_empty_frames() -> None:
    none = make_events([], [], [], [])
    assert not STCF(hflip=False)(none, (16, 16), (16, 16), 4).any()
    rng = np.random.default_rng(0)
    assert len(with_noise(none, 0.5, (16, 16), rng)) == len(with_drops(none, 0.5, rng)) == 0


# -- the sample and the data --------------------------------------------------------------------


def study_in(folder: Path, data: Path | None = None, seed: int = 0, dry_run: bool = False, **changes: Any) -> APBStudy:
    return APBStudy(APBConfig(**{**TINY, **changes}), Session(seed, folder, data, dry_run=dry_run))


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("digits")
    write_moving_digits(folder, train=3, test=2)
    return folder


def test_the_sample_is_mnist_dvs(digits: Path, tmp_path: Path) -> None:
    train, test = events.read_splits(digits)
    assert (len(train), len(test), train.size) == (30, 20, (128, 128))
    assert train.names == tuple("0123456789")
    assert train.paths[0].relative_to(digits).as_posix() == "train/grabbed_data0/scale16/mnist_0_scale16_0001.aedat"
    assert train.paths[0].read_bytes().startswith(b"#!AER-DAT2.0")
    recordings = [train.events(k) for k in range(len(train))]
    assert 3_000 < np.mean([len(recording) for recording in recordings]) < 5_000
    assert all(0.9e6 < recording["t"][-1] <= 1e6 for recording in recordings)
    # 500 of them, as the laptop's sample has, are 16 MB at most.
    assert 500 / 50 * sum(path.stat().st_size for path in (*train.paths, *test.paths)) < 17e6
    write_moving_digits(tmp_path, train=3, test=2)
    again = events.read_splits(tmp_path)[0]
    assert all(a.read_bytes() == b.read_bytes() for a, b in zip(train.paths, again.paths, strict=True))


def test_mnist_dvs_as_its_owners_distribute_it_is_split_nine_to_one(digits: Path, tmp_path: Path) -> None:
    for room in (digits / "train").iterdir():
        shutil.copytree(room, tmp_path / "data" / room.name)
    data = study_in(tmp_path / "session", tmp_path / "data").data()
    assert (len(data.train), len(data.test)) == (20, 10)
    assert sorted(data.test.labels) == list(range(10))


def test_recordings_become_frames_and_disturbed_ones_are_always_the_same(digits: Path) -> None:
    test, model = events.read_splits(digits)[1], net(size=(16, 16), steps=4)
    represent = partial(frames_of, sensor=test.size, size=model.size, steps=model.steps)
    frames, label = Streams(test, represent)[3]
    assert (frames.shape, label) == ((2, 16, 16, 4), test.labels[3])
    count = len(test.events(3))
    assert frames.sum() == count
    noisy, lossy = (Streams(DisturbedSet(**vars(test), kind=kind, share=0.3), represent) for kind in ("noise", "drop"))
    assert noisy[3][0].sum() == count + round(0.3 * count)
    assert lossy[3][0].sum() == round(0.7 * count)
    assert torch.equal(noisy[3][0], noisy[3][0])
    assert not torch.equal(lossy[3][0], lossy[2][0])


def test_folders_of_other_formats_and_sensors(tmp_path: Path) -> None:
    for name in ("left", "right"):
        (tmp_path / "mine" / name).mkdir(parents=True)
        for k in range(3):
            recording = stream(400, (12, 14), seed=2 * k + (name == "left"))
            columns = np.stack([recording[field] for field in "xytp"], axis=1)
            np.save(tmp_path / "mine" / name / f"{k}.npy", columns)
    with pytest.raises(Problem, match="how large the sensor is"):
        study_in(tmp_path / "a", tmp_path / "mine").data()
    study = study_in(tmp_path / "a", tmp_path / "mine", sensor="14x12")
    data = study.data()
    model = study.train("apb-pair", data)
    assert (model.size, model.sensor) == ((12, 14), (12, 14))  # a small sensor is not enlarged
    metrics = study.evaluate(model, data)
    assert {"top1", "noise30", "drop50", "spikes", "rate_2"} <= set(metrics)
    assert study.predict(model, tmp_path / "mine" / "left" / "0.npy").table[0]["file"] == "0.npy"


def write_images(folder: Path, names: tuple[str, ...] = ("dark", "light"), count: int = 12) -> Path:
    rng = np.random.default_rng(0)
    for k, name in enumerate(names):
        (folder / name).mkdir(parents=True)
        for number in range(count):
            pixels = rng.integers(100 * k, 100 * k + 100, (20, 20, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
    return folder


@pytest.mark.parametrize("arm", ["lif+stcf", "apb-shared+stcf"])
def test_images_stand_still(arm: str, tmp_path: Path) -> None:
    folder = write_images(tmp_path / "images")
    study = study_in(tmp_path / "session", folder, epochs=8, lr=0.01, batch_size=7)
    data = study.data()
    assert isinstance(data.train, ImageSet)
    assert (len(data.train), len(data.test)) == (20, 4)
    model = study.train(arm, data)
    assert associating(model) == [False, arm.startswith("apb")]  # an analogue input has no active synapses
    metrics = study.evaluate(model, data)
    assert metrics["top1"] == 100
    assert "noise10" not in metrics
    assert {row["class"] for row in study.predict(model, folder).table} == {"dark", "light"}
    (tmp_path / "empty").mkdir()
    with pytest.raises(Problem, match="no images here"):
        study.predict(model, tmp_path / "empty")


def test_cifar10_and_split_folders_of_images_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_images(tmp_path / "split" / "train")
    write_images(tmp_path / "split" / "val", count=4)
    data = study_in(tmp_path / "session", tmp_path / "split").data()
    assert (len(data.train), len(data.test)) == (24, 8)
    (tmp_path / "cifar" / "cifar-10-batches-py").mkdir(parents=True)
    monkeypatch.setattr(images, "read_cifar10", lambda folder, train: ("cifar-10", folder, train))
    data = study_in(tmp_path / "session", tmp_path / "cifar").data()
    assert cast(Any, data.test) == ("cifar-10", tmp_path / "cifar", False)
    sample = study_in(tmp_path / "session", sample="digits")
    sample.write_sample(tmp_path / "digits")
    assert len(images.read_splits(tmp_path / "digits")[0]) == 20


# -- the study ----------------------------------------------------------------------------------


def test_arms_differ_in_what_they_say_they_differ_in(tmp_path: Path, digits: Path) -> None:
    study = study_in(tmp_path, digits)
    data = study.data()
    assert set(ARMS) == set(APBStudy.arms)
    betas: dict[str, Any] = {}
    for arm in ARMS:
        model = study.build(arm, data.train)
        assert (model.mode or "lif") in arm
        betas[arm] = {module.beta for module in model.modules() if isinstance(module, APBConv2d)}
    assert betas == {"lif": set(), "lif+stcf": set(), "apb-shared": {0.5}, "apb-pair": {0.5}, "apb-shared+stcf": {0.5},
                     "apb-shared-beta0.25": {0.25}, "apb-shared-beta1": {1.0},
                     "apb-pair-hidden": {0.5}}  # fmt: skip
    assert associating(study.build("apb-pair-hidden", data.train)) == [False, True]
    model = study.build("lif", data.train)
    plain, augmented = (study._dataset(model, data.train, augment) for augment in (False, True))
    torch.manual_seed(1)
    assert torch.equal(cast(Any, plain)[0][0], cast(Any, plain)[0][0])
    assert not torch.equal(cast(Any, augmented)[0][0], cast(Any, plain)[0][0])


def test_all_arms_of_a_seed_start_from_the_same_weights(tmp_path: Path, digits: Path) -> None:
    study = study_in(tmp_path, digits, lr=1e-12)
    data = study.data()
    first, *others = [
        [p.detach() for p in study.train(arm, data).parameters()] for arm in ("lif", "apb-pair", "lif+stcf")
    ]
    for other in others:
        torch.testing.assert_close(first, other, rtol=0, atol=1e-6)


def test_patience_stops_and_the_best_weights_are_kept(tmp_path: Path, digits: Path) -> None:
    study = study_in(tmp_path, digits, epochs=30, lr=1e-9, patience=2)
    data = study.data()
    model = study.train("lif", data)
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    accuracies = [record["top1"] for record in records if "top1" in record]
    assert len(accuracies) < 30
    assert study.evaluate(model, data)["top1"] == max(accuracies)


@pytest.mark.parametrize("changes", [{}, {"tet": True, "cache": 0.9}], ids=["", "tet, cache"])
def test_training_learns_and_the_model_survives_saving(changes: dict[str, Any], tmp_path: Path, digits: Path) -> None:
    study = study_in(tmp_path / "session", digits, epochs=10, lr=0.01, batch_size=5, **changes)
    data = study.data()
    model = study.train("apb-shared", data)
    lines = (tmp_path / "session" / "metrics.jsonl").read_text().splitlines()
    losses = [json.loads(line)["loss"] for line in lines]
    assert losses[-1] < 0.95 * losses[0]
    metrics = study.evaluate(model, data)
    assert metrics["disturbed"] == pytest.approx(
        np.mean([metrics[k] for k in ("noise10", "noise30", "drop30", "drop50")])
    )
    assert 0 < metrics["rate"] < 1
    neurons = 3 * (4 * 16 * 16 + 4 * 8 * 8)
    assert metrics["spikes"] == pytest.approx(metrics["rate"] * neurons)
    checkpoint.save(model, tmp_path / "net")
    loaded = cast(APBNet, checkpoint.load(tmp_path / "net"))
    assert study_in(tmp_path / "other", digits, seed=7).evaluate(loaded, data) == metrics  # the disturbances too
    figures = {path.stem for path in (tmp_path / "session" / "figures").iterdir()}
    assert figures == {"disturbances", "last-layer", "association"}
    prediction = study.predict(loaded, digits / "test")
    assert len(prediction.table) == 20
    assert set(prediction.table[0]) == {"file", "class", "probability", "spikes", "rate_1", "rate_2"}
    assert "reconstructed" in prediction.text
    assert set(prediction.figures) == {"last-layer", "association"}


def test_everything_says_that_the_equation_is_reconstructed() -> None:
    card = catalog.card("apb")
    assert card.fidelity == "reconstruction"
    assert "reconstruct" in card.fidelity_note
    for text in (
        card.summary,
        *(claim for claim in card.claim if claim.id not in ("no-parameters", "state-of-the-art")),
    ):
        assert "reconstruct" in text.en
        assert "重建" in text.zh
    assert "reconstruct" in (APBConv2d.__doc__ or "")


def test_association_adds_no_parameter(tmp_path: Path) -> None:
    figures = study_in(tmp_path).measure()
    assert figures == {"parameters": 1_131_786, "parameters_added_shared": 0, "parameters_added_pair": 0}


@pytest.mark.realdata
def test_the_desk_scale_reads_cifar10(tmp_path: Path, real_data: Callable[[str], Path]) -> None:
    real_data("cifar10-subset")
    study = APBStudy(cast(APBConfig, APBStudy.scales["desk"]), Session(0, tmp_path, dry_run=True))
    data = study.data()
    assert (len(data.train), len(data.test)) == (10_000, 2_000)
    model = study.train("apb-shared+stcf", data)
    assert model.static
    assert 0 <= study.evaluate(model, data)["top1"] <= 100


# -- bad input ----------------------------------------------------------------------------------


def test_what_cannot_be_read_or_learned_is_said(tmp_path: Path, digits: Path) -> None:
    with pytest.raises(Problem, match="no data for apb"):
        study_in(tmp_path / "a", tmp_path).data()
    with pytest.raises(Problem, match="no streams here"):
        study_in(tmp_path / "a").predict(net(), tmp_path)
    write_images(tmp_path / "few", count=1)
    with pytest.raises(Problem, match="cannot be split"):
        study_in(tmp_path / "a", tmp_path / "few").data()
    study = study_in(tmp_path / "a", digits)
    data = study.data()
    one = cast(EventSet, data.train).subset([0, 1])
    with pytest.raises(Problem, match="one class only"):
        study.train("lif", type(data)(one, one))
    with pytest.raises(Problem, match="none of the 3 known"):
        study.evaluate(net(), data)
    (tmp_path / "short" / "x").mkdir(parents=True)
    (tmp_path / "short" / "x" / "1.aedat").write_bytes(b"#!AER-DAT2.0\r\n1234567")
    with pytest.raises(Problem, match="not a multiple of 8"):
        study.predict(net(), tmp_path / "short")


def test_more_steps_than_filled_bins_is_warned_of(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / "data" / name).mkdir(parents=True)
        for k in range(2):
            t, x = np.repeat([0, 90_000, 99_999], 30), np.arange(90) + 2 * k + (name == "b")
            columns = np.stack([x % 20, np.arange(90) % 18, t, np.arange(90) % 2], axis=1)
            np.save(tmp_path / "data" / name / f"{k}.npy", columns)
    study = study_in(tmp_path / "session", tmp_path / "data", sensor="20x20", steps=5)
    with pytest.warns(UserWarning, match="2 of 5 time bins have events"):
        study.train("lif", study.data())


@pytest.mark.parametrize("plan", ["", "16X3", "AP0", "16C3-", "16C3--AP2"])
def test_a_plan_that_is_none_is_refused(plan: str) -> None:
    with pytest.raises(ValueError, match="plan"):
        APBConfig(plan=plan)


@pytest.mark.parametrize("mode", [None, "shared", "pair"])
def test_an_empty_batch(mode: Any) -> None:
    net = APBNet(["a", "b"], plan="4C3-AP2", size=(8, 8), steps=3, mode=mode).eval()
    assert net(torch.zeros(0, 2, 8, 8, 3)).shape == (3, 0, 2)
