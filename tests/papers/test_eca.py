"""ECA: fidelity to the authors' code, the layers' formulas, insertion, timm's interface, weights, use, bad input."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import timm
import torch
import torchvision
from pydantic import ValidationError
from timm.data import resolve_data_config
from timm.layers import DropPath, EcaModule, SEModule
from torch import Tensor, nn

from repertory.core import checkpoint
from repertory.core.problem import Problem
from repertory.core.study import Session
from repertory.nn.macs import count_macs
from repertory.papers.eca import (
    ECA,
    VARIANTS,
    ECAResNet,
    adaptive_kernel,
    add_channel_attention,
    channel_attention,
    network,
)
from repertory.papers.eca.layers import ECANS, KINDS, SE, Gate
from repertory.papers.eca.model import fitting, kernels_of_stages, load_network, stages_of
from repertory.papers.eca.pictures import mean_channel_weights
from repertory.papers.eca.study import ARMS, ECAConfig, ECAStudy
from repertory.papers.eca.weights import kernels_of
from tests.fidelity.cases import assert_agrees, cases
from tests.fidelity.fill import fill_, probe

COUNTS = {  # parameters, those of the attention
    "eca_resnet18": (11_689_556, 44),
    "eca_resnet34": (21_797_744, 72),
    "eca_resnet50": (25_557_112, 80),
    "eca_resnet101": (44_549_317, 157),
    "eca_resnet152": (60_193_042, 234),
    "eca_mobilenet_v2": (3_504_903, 31),
}


def study(tmp_path: Path, data: Path | None = None, scale: str = "smoke", **settings: Any) -> ECAStudy:
    config = ECAConfig.model_validate({**ECAStudy.scales[scale].model_dump(), **settings})
    return ECAStudy(config, Session(0, tmp_path / "session", data))


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


# -- fidelity -----------------------------------------------------------------------------------


@pytest.mark.parametrize("case", cases("eca"))
def test_agrees_with_the_authors_code(case: dict[str, Any]) -> None:
    config = dict(case["config"])
    if "variant" in config:
        if "k_size" in config:
            config["kernel_sizes"] = config.pop("k_size")
        model = timm.create_model(config.pop("variant"), **config)
    else:
        model = channel_attention(config.pop("layer", "ECA"), **config)
    fill_(model).eval()
    x = probe(*case["input"][0])
    with torch.no_grad():
        assert_agrees(model(x), case, model)
    if case["macs"] is not None:
        assert count_macs(model, x) == case["macs"]


@pytest.mark.parametrize("variant", VARIANTS)
def test_exact_sizes(variant: str) -> None:
    with torch.device("meta"):
        model, plain = network(variant), network(variant, attention="none")
    assert (parameters(model), parameters(model) - parameters(plain)) == COUNTS[variant]
    assert kernels_of(model.state_dict()) == VARIANTS[variant]["kernel_sizes"]


def test_the_adaptive_rule_gives_what_timm_has_but_not_the_published_kernels() -> None:
    with torch.device("meta"):
        plain = parameters(timm.create_model("resnet50"))
        theirs = timm.create_model("resnet50", block_args={"attn_layer": "eca"})
        ours = network("eca_resnet50", kernel_sizes="adaptive")
    assert parameters(theirs) - plain == parameters(ours) - plain == 86
    assert kernels_of(ours.state_dict()) == (5, 5, 5, 7)


def test_macs_of_resnet50() -> None:
    model = network("eca_resnet50")
    assert count_macs(model, torch.zeros(1, 3, 224, 224)) == 4_117_118_208


@pytest.mark.parametrize("width", [18, 34, 50, 101, 152])
def test_without_attention_it_is_torchvisions_resnet(width: int) -> None:
    with torch.device("meta"):
        theirs = getattr(torchvision.models, f"resnet{width}")()
        ours = network(f"eca_resnet{width}", attention="none")
        with_eca = network(f"eca_resnet{width}")
    expected = {name: tensor.shape for name, tensor in theirs.state_dict().items()}
    assert {name: tensor.shape for name, tensor in ours.state_dict().items()} == expected
    more = set(with_eca.state_dict()) - set(expected)
    blocks = sum(VARIANTS[f"eca_resnet{width}"]["depths"])
    assert len(more) == blocks
    assert all(name.endswith(".eca.conv.weight") for name in more)


def test_names_of_mobilenet_are_the_authors() -> None:
    with torch.device("meta"):
        state, theirs = network("eca_mobilenet_v2").state_dict(), torchvision.models.mobilenet_v2().state_dict()
    more = {name: tuple(tensor.shape) for name, tensor in state.items() if name not in theirs}
    assert more == {
        f"features.{i}.conv.{3 if i == 1 else 4}.conv.weight": (1, 1, 1 if i <= 10 else 3) for i in range(1, 18)
    }


@pytest.mark.parametrize(("variant", "theirs"), [("eca_resnet18", "resnet18"), ("eca_mobilenet_v2", "mobilenet_v2")])
def test_plain_networks_give_what_torchvisions_give(variant: str, theirs: str) -> None:
    ours = network(variant, attention="none").eval()
    peer = fill_(getattr(torchvision.models, theirs)()).eval()
    ours.load_state_dict(peer.state_dict())
    x = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(ours(x), peer(x))


# -- layers -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("channels", "kernel"),
    [(1, 3), (16, 3), (31, 3), (32, 3), (64, 3), (127, 3), (128, 5), (256, 5), (511, 5), (512, 5), (1024, 5),
     (2047, 5), (2048, 7), (8191, 7), (8192, 7), (2**29, 15)],
)  # fmt: skip
def test_the_adaptive_kernel(channels: int, kernel: int) -> None:
    assert adaptive_kernel(channels) == kernel
    assert ECA(min(channels, 4096)).conv.kernel_size == (adaptive_kernel(min(channels, 4096)),)


def test_the_adaptive_kernel_has_two_parameters() -> None:
    assert adaptive_kernel(1024, gamma=1) == 11
    assert adaptive_kernel(1024, b=4) == 7
    assert EcaModule(1024).conv.kernel_size == (adaptive_kernel(1024),)
    with pytest.raises(Problem, match="channels=0"):
        adaptive_kernel(0)


def by_hand(kind: str, layer: Any, y: Tensor) -> Tensor:
    """z as a matrix, or two, from the table of the paper, channel by channel."""
    channels = y.shape[1]
    if kind == "none":
        return torch.full_like(y, math.inf)
    if kind == "se_var1":
        return y
    if kind == "se":
        w1, w2 = (conv.weight[:, :, 0, 0] for conv in (layer.fc1, layer.fc2))
        return (y @ w1.T + layer.fc1.bias).relu() @ w2.T + layer.fc2.bias
    matrix = torch.zeros(channels, channels)
    if kind in ("eca", "eca_ns"):
        weight = layer.conv.weight[:, 0]
        k = weight.shape[-1]
        for i in range(channels):
            for j in range(k):
                if 0 <= i + j - k // 2 < channels:
                    matrix[i, i + j - k // 2] = weight[i if kind == "eca_ns" else 0, j]
        return y @ matrix.T
    groups = {"se_var2": channels, "se_var3": 1, "se_gc1": 16, "se_gc2": channels // 16, "se_gc3": channels // 8}[kind]
    width = channels // groups
    for g in range(groups):
        own = slice(g * width, (g + 1) * width)
        matrix[own, own] = layer.weight[own]
    return y @ matrix.T


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "cbam"])
def test_layers_are_what_the_table_says(kind: str) -> None:
    layer = channel_attention(kind, 48)
    x = torch.randn(3, 48, 5, 6)
    with torch.no_grad():
        expected = x * by_hand(kind, layer, x.mean((2, 3))).sigmoid()[..., None, None]
        torch.testing.assert_close(layer(x), expected)


@pytest.mark.parametrize(
    ("kind", "count"),
    [("none", 0), ("se", 2 * 64**2 // 16 + 64 + 4), ("se_var1", 0), ("se_var2", 64), ("se_var3", 64**2),
     ("se_gc1", 64**2 // 16), ("se_gc2", 16 * 64), ("se_gc3", 8 * 64), ("eca_ns", 3 * 64), ("eca", 3)],
)  # fmt: skip
def test_parameters_of_the_layers(kind: str, count: int) -> None:
    assert parameters(channel_attention(kind, 64)) == count


def test_timms_layers_are_reused() -> None:
    assert isinstance(ECA(64), EcaModule)
    assert isinstance(SE(64), SEModule)
    x = torch.randn(2, 64, 7, 7)
    for ours, theirs in ((ECA(64), EcaModule(64)), (SE(64), SEModule(64, rd_channels=4))):
        theirs.load_state_dict(ours.state_dict())
        torch.testing.assert_close(ours(x), theirs(x))


def test_names_of_the_paper_and_options() -> None:
    assert isinstance(channel_attention("ECA-NS", 32, kernel_size=5), ECANS)
    assert parameters(channel_attention("SE", 64, reduction=8, bias=False)) == 2 * 64**2 // 8
    se: Any = channel_attention("se", 16)
    assert se.fc1.out_channels == 2, "at least two hidden channels"
    cbam: Any = channel_attention("cbam", 64)
    assert cbam.channel.fc1.out_channels == 4


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "none"])
def test_gradients_reach_every_parameter_and_the_input_is_left_alone(kind: str) -> None:
    torch.manual_seed(0)
    layer = channel_attention(kind, 32)
    x = torch.randn(4, 32, 5, 7, requires_grad=True)
    before = x.detach().clone()
    out = layer(x)
    assert out.shape == x.shape
    out.square().sum().backward()
    assert torch.equal(x, before)
    assert x.grad is not None
    assert [name for name, p in layer.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize("kind", ["eca", "eca_ns", "se", "se_var3", "se_gc2"])
def test_gradients_are_right(kind: str) -> None:
    torch.manual_seed(0)
    layer = channel_attention(kind, 16).double()
    assert torch.autograd.gradcheck(layer, (torch.randn(2, 16, 2, 3, dtype=torch.double, requires_grad=True),))


def test_the_order_of_channels_matters_to_eca_but_not_to_the_full_matrix() -> None:
    x, order = torch.randn(2, 32, 4, 4), torch.randperm(32)
    layer = channel_attention("eca", 32)
    assert not torch.allclose(layer(x[:, order]), layer(x)[:, order], atol=1e-4)
    full: Any = channel_attention("se_var3", 32)
    expected = full(x)[:, order]
    with torch.no_grad():
        full.weight.copy_(full.weight[order][:, order])
    torch.testing.assert_close(full(x[:, order]), expected)


def test_shifting_inside_changes_nothing_and_ends_are_padded_with_zeros() -> None:
    layer = ECA(32, 5)
    x = torch.randn(1, 32, 4, 4)
    weights = layer.weights(x)
    shifted = layer.weights(x.roll(3, dims=1))
    torch.testing.assert_close(shifted[:, 5:-2], weights[:, 2:-5])
    assert not torch.allclose(shifted[:, :3], weights[:, -3:], atol=1e-4), "the ends do not touch"
    torch.testing.assert_close(layer.weights(x.flip(2, 3)), weights)


def test_half_precision_pools_without_overflow() -> None:
    """Sums of 6400 pixels go beyond what 16 bits hold."""
    x = torch.full((1, 8, 80, 80), 60.0)
    layer = ECA(8)
    for dtype in (torch.float16, torch.bfloat16):
        weights = layer.to(dtype).weights(x.to(dtype))
        assert weights.isfinite().all()
        torch.testing.assert_close(weights.float(), layer.float().weights(x), atol=0.02, rtol=0.02)


def test_multiply_accumulates_of_the_layers() -> None:
    x = torch.zeros(1, 64, 2, 2)
    pooled = count_macs(channel_attention("se_var1", 64), x)
    own = {"se_var2": 64, "se_var3": 64**2, "se_gc1": 64 * 4, "eca": 64 * 3, "eca_ns": 64 * 3, "se": 2 * 64 * 4}
    assert {kind: count_macs(channel_attention(kind, 64), x) - pooled for kind in own} == own


@pytest.mark.parametrize("kind", KINDS)
def test_layers_can_be_traced_and_exported(kind: str) -> None:
    layer, x = channel_attention(kind, 32).eval(), torch.randn(2, 32, 4, 4)
    torch.testing.assert_close(torch.fx.symbolic_trace(layer)(x), layer(x))


# -- insertion ----------------------------------------------------------------------------------

MODELS: dict[str, Callable[[], nn.Module]] = {
    "torchvision resnet": torchvision.models.resnet18,
    "torchvision bottleneck": torchvision.models.resnet50,
    "torchvision mobilenet": torchvision.models.mobilenet_v2,
    "timm resnet": lambda: timm.create_model("resnet18"),
    "timm resnet of another stem": lambda: timm.create_model("resnet26d"),
    "ours": lambda: network("mini", attention="none"),
}


@pytest.mark.parametrize("name", MODELS)
def test_attention_can_be_added_to_trained_networks(name: str) -> None:
    torch.manual_seed(0)
    model = fill_(MODELS[name]()).eval()
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    x = torch.randn(2, 3, 64, 64)
    plain = model(x)
    assert add_channel_attention(model, "eca", 5) is model
    assert not any(module.training for module in model.modules())
    after = model.state_dict()
    assert all(torch.equal(after[key], tensor) for key, tensor in before.items())
    blocks = [block for stage in stages_of(model) for block in stage]
    assert [tuple(after[key].shape) for key in after if key not in before] == [(1, 1, 5)] * len(blocks)
    assert not torch.allclose(model(x), plain)
    # Gates that are all but open leave what was there.
    gates = [module for module in model.modules() if isinstance(module, Gate)]
    for gate in gates:
        gate.gate = Open()
    torch.testing.assert_close(model(x), plain, rtol=1e-4, atol=1e-4)
    add_channel_attention(model, "none")
    torch.testing.assert_close(model(x), plain, rtol=1e-4, atol=1e-4)
    add_channel_attention(model, "se")
    assert sum(isinstance(module, Gate) for module in model.modules()) == len(blocks)


class Open(nn.Module):
    def forward(self, z: Tensor) -> Tensor:
        return torch.ones_like(z)


@pytest.mark.parametrize("kind", ["eca", "cbam", "none"])
@pytest.mark.parametrize("name", ["torchvision resnet", "torchvision bottleneck", "torchvision mobilenet"])
def test_attention_comes_last_in_the_branch(name: str, kind: str) -> None:
    """Every block against the plain formula: shortcut + attention(branch)."""
    torch.manual_seed(0)
    model = add_channel_attention(MODELS[name](), kind).eval()
    for stage in stages_of(model):
        block: Any = stage[-1]
        dim = next(m.in_channels for m in block.modules() if isinstance(m, nn.Conv2d))
        x = torch.randn(2, dim, 6, 6)
        if hasattr(block, "bn1"):
            out = block.relu(block.bn1(block.conv1(x)))
            out = block.bn2(block.conv2(out))
            if hasattr(block, "conv3"):
                out = block.bn3(block.conv3(block.relu(out)))
            expected = torch.relu(block.eca(out) + (block.downsample(x) if block.downsample else x))
        else:
            expected = block.conv(x) + (x if block.use_res_connect else 0)
            assert isinstance(block.conv[-1], type(channel_attention(kind, 8)))
        torch.testing.assert_close(block(x), expected, rtol=1e-4, atol=1e-4)


def test_drop_path_drops_the_branch_of_whole_samples() -> None:
    model = network("mini", drop_path_rate=0.5)
    rates = [m.drop_prob for m in model.modules() if isinstance(m, DropPath)]
    assert rates == [0.25, 0.5]
    block: Any = stages_of(model)[1][0]
    block.train()
    block.drop_path = DropPath(0.5)
    torch.manual_seed(0)
    x = torch.randn(64, 16, 8, 8)
    with torch.no_grad():
        out, shortcut = block(x), block.downsample(x).relu()
    dropped = (out - shortcut).abs().amax((1, 2, 3)) < 1e-5
    assert 10 < dropped.sum() < 54


def test_a_network_with_attention_survives_a_features_extractor() -> None:
    from torchvision.models.feature_extraction import create_feature_extractor

    model = add_channel_attention(torchvision.models.resnet18(), "eca").eval()
    maps = create_feature_extractor(model, {"layer2": "a"})(torch.randn(1, 3, 64, 64))
    assert maps["a"].shape == (1, 128, 8, 8)


@pytest.mark.parametrize("variant", ["eca_resnet50", "eca_mobilenet_v2", "mini"])
def test_fusing_changes_nothing(variant: str) -> None:
    model: Any = fill_(network(variant, num_classes=10)).eval()
    x = probe(2, 3, 64, 64)
    expected = model(x)
    torch.testing.assert_close(model.fuse()(x), expected, rtol=1e-4, atol=1e-4)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in model.modules())


# -- initialisation -----------------------------------------------------------------------------


def test_initialisation_is_the_papers() -> None:
    torch.manual_seed(0)
    model = network("eca_resnet50")
    layer: Any = model.get_submodule("layer3.2")
    assert layer.conv2.weight.std().item() == pytest.approx(math.sqrt(2 / (9 * 256)), rel=0.02)
    assert layer.bn3.weight.min() == 1, "the last norm is not set to zero"
    kernels = torch.cat([ECA(64, 7).conv.weight.flatten() for _ in range(200)])
    assert kernels.abs().max() <= 1 / math.sqrt(7)
    assert kernels.std().item() == pytest.approx(1 / math.sqrt(21), rel=0.1)
    mobile = network("eca_mobilenet_v2")
    head: Any = mobile.get_classifier()
    assert head.weight.std().item() == pytest.approx(0.01, rel=0.05)
    assert not head.bias.any()
    assert mobile.drop_rate == 0.25


# -- timm ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variant", "indices", "dims"),
    [("eca_resnet18", (0, 1, 2, 3, 4), (64, 64, 128, 256, 512)), ("eca_resnet50", (2, 4), (512, 2048)),
     ("eca_mobilenet_v2", (0, 1, 2, 3, 4), (16, 24, 32, 96, 320)), ("eca_mobilenet_v2", (1, 3), (24, 96))],
)  # fmt: skip
def test_feature_pyramids(variant: str, indices: tuple[int, ...], dims: tuple[int, ...]) -> None:
    model: Any = timm.create_model(variant, features_only=True, out_indices=indices)
    assert model.feature_info.channels() == list(dims)
    assert model.feature_info.reduction() == [2 << i for i in indices]
    maps = model(torch.randn(1, 3, 64, 96))
    assert [tuple(x.shape) for x in maps] == [(1, d, 32 >> i, 48 >> i) for d, i in zip(dims, indices, strict=True)]
    torch.stack([x.sum() for x in maps]).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize("variant", ["eca_resnet18", "eca_mobilenet_v2"])
def test_create_model_takes_timms_options(variant: str) -> None:
    model: Any = timm.create_model(
        variant, num_classes=7, in_chans=1, drop_path_rate=0.3, kernel_sizes="adaptive", attention="eca_ns"
    ).eval()
    assert model(torch.zeros(2, 1, 64, 64)).shape == (2, 7)
    last: Any = stages_of(model)[-1][-1]
    assert last.drop_path.drop_prob == pytest.approx(0.3)
    assert sum(isinstance(module, ECANS) for module in model.modules()) == sum(map(len, stages_of(model)))
    assert timm.create_model(variant, num_classes=0).eval()(torch.zeros(1, 3, 64, 64)).shape == (
        1,
        model.num_features,
    )
    model.reset_classifier(4)
    assert model.get_classifier().out_features == 4
    features = model.forward_features(torch.zeros(2, 1, 64, 64))
    assert model.forward_head(features, pre_logits=True).shape == (2, model.num_features)
    assert resolve_data_config(model=timm.create_model(variant))["interpolation"] == "bilinear"
    groups = timm.models.group_parameters(model, model.group_matcher())
    assert len(groups) > sum(map(len, stages_of(model)))


# -- weights ------------------------------------------------------------------------------------


def released(model: nn.Module, path: Path, wrap: str = "module.", **more: Any) -> Path:
    """Written as the authors write it."""
    state = {f"{wrap}{name}": tensor for name, tensor in model.state_dict().items()}
    torch.save({"epoch": 99, "arch": "eca", "state_dict": {**state, **more}, "best_prec1": 77.4, "optimizer": {}}, path)
    return path


def last_map(model: Any, x: Tensor) -> Tensor:
    """Behind the last residual block."""
    return model.features[:18](x) if hasattr(model, "features") else model.forward_features(x)


@pytest.mark.parametrize(
    "variant", ["eca_resnet18", pytest.param("eca_resnet50", marks=pytest.mark.slow), "eca_mobilenet_v2"]
)
def test_convert_and_checkpoint_path_read_the_authors_file(variant: str, tmp_path: Path) -> None:
    model = fill_(network(variant)).eval()
    x = probe(1, 3, 64, 64)
    path = released(model, tmp_path / "net.pth.tar")
    for given in ("", variant):
        converted = study(tmp_path).convert(path, given)
        assert torch.equal(converted(x), model(x))
    loaded = timm.create_model(variant, checkpoint_path=str(path)).eval()
    assert torch.equal(loaded(x), model(x))
    overlay = {"file": str(path)}
    features = timm.create_model(variant, features_only=True, pretrained=True, pretrained_cfg_overlay=overlay).eval()
    torch.testing.assert_close(features(x)[-1], last_map(model, x))
    checkpoint.save(converted, tmp_path / "model")
    assert torch.equal(checkpoint.load(tmp_path / "model")(x), model(x))


def test_kernels_are_read_from_the_tensors_not_from_the_name(tmp_path: Path) -> None:
    model = network("eca_resnet18", kernel_sizes=(9, 5, 3, 1))
    path = released(model, tmp_path / "eca_resnet18_k3577.pth.tar")
    assert kernels_of(load_network(path).state_dict()) == (9, 5, 3, 1)
    mobile = network("eca_mobilenet_v2", kernel_sizes=(3, 1, 3, 1, 5, 1, 3))
    assert kernels_of(load_network(released(mobile, tmp_path / "m.pth.tar")).state_dict()) == (3, 1, 3, 1, 5, 1, 3)


def test_other_kernels_are_named(tmp_path: Path) -> None:
    path = released(network("eca_resnet50", kernel_sizes=5), tmp_path / "eca_resnet50_k5.pth.tar")
    with pytest.raises(Problem, match=r"layer1\.0\.eca: file has kernel 5, model 3") as caught:
        timm.create_model("eca_resnet50", checkpoint_path=str(path))
    assert caught.value.remedy == "pass kernel_sizes=(5,5,5,5)"
    timm.create_model("eca_resnet50", checkpoint_path=str(path), kernel_sizes=(5, 5, 5, 5))


def test_of_a_detector_the_backbone_is_taken(tmp_path: Path) -> None:
    model = network("eca_resnet50", kernel_sizes=(3, 3, 7, 7), num_classes=0)
    more = {"neck.fpn_convs.0.conv.bias": torch.zeros(256), "bbox_head.fc_cls.weight": torch.zeros(81, 1024)}
    path = released(fill_(model), tmp_path / "mask_rcnn.pth", "backbone.", **more)
    with pytest.warns(UserWarning, match="no classifier"):
        converted = study(tmp_path).convert(path)
    assert kernels_of(converted.state_dict()) == (3, 3, 7, 7)
    own = converted.state_dict()
    assert all(torch.equal(own[name], tensor) for name, tensor in model.state_dict().items())


def test_a_plain_network_converts_to_a_plain_one(tmp_path: Path) -> None:
    theirs = fill_(torchvision.models.resnet18(num_classes=5)).eval()
    torch.save(theirs.state_dict(), tmp_path / "r18.pth")
    converted = study(tmp_path).convert(tmp_path / "r18.pth")
    x = probe(1, 3, 64, 64)
    torch.testing.assert_close(converted(x), theirs(x))


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_fitting_variant_is_found(variant: str) -> None:
    with torch.device("meta"):
        assert fitting(network(variant, num_classes=5).state_dict()) == variant


def test_what_cannot_be_converted_is_said(tmp_path: Path) -> None:
    path = released(network("eca_resnet18"), tmp_path / "net.pth.tar")
    with pytest.raises(Problem, match="not the weights of eca_resnet50") as caught:
        study(tmp_path).convert(path, "eca_resnet50")
    assert "eca_resnet18" in caught.value.remedy
    with pytest.raises(Problem, match="no variant 'eca_resnet20'"):
        study(tmp_path).convert(path, "eca_resnet20")
    torch.save({"weight": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(Problem, match="not weights of a ResNet"):
        study(tmp_path).convert(tmp_path / "other.pth")
    torch.save(ECAResNet("basic", (1, 1, 1, 1)).state_dict(), tmp_path / "short.pth")
    with pytest.raises(Problem, match="not the weights of a published network"):
        study(tmp_path).convert(tmp_path / "short.pth")
    state = network("eca_resnet18").state_dict()
    state["layer1.1.eca.conv.weight"] = torch.zeros(1, 1, 9)
    torch.save(state, tmp_path / "mixed.pth")
    with pytest.raises(Problem, match=r"layer1\.1\.eca\.conv\.weight: kernel 9, but 3 before"):
        study(tmp_path).convert(tmp_path / "mixed.pth")


# -- the study ----------------------------------------------------------------------------------


@pytest.mark.parametrize("arm", ["eca", "none", "cbam"])
def test_own_data_train_save_load_predict(arm: str, tmp_path: Path, digits: Path) -> None:
    this = study(tmp_path, digits, epochs=2)
    model = this.train(arm, this.data())
    metrics = this.evaluate(model, this.data())
    checkpoint.save(model, tmp_path / "model")
    loaded = checkpoint.load(tmp_path / "model")
    assert this.evaluate(loaded, this.data()) == metrics
    prediction = this.predict(loaded, digits / "val")
    assert len(prediction.table) == 20
    assert list(prediction.table[0])[:3] == ["file", "class", "probability"]
    assert set(prediction.figures) == {"predictions"} | ({"channel-weights"} if arm == "eca" else set())
    assert len(this.predict(loaded, digits / "val" / "0" / "0001.png").table) == 1


def test_mean_weights_are_those_of_the_last_blocks() -> None:
    model: Any = network("mini", num_classes=3).eval()
    x, rows = torch.randn(6, 3, 32, 32), torch.tensor([0, 0, 1, 2, 1, 1])
    batches = [(x[:4], rows[:4]), (x[4:], rows[4:])]
    means = mean_channel_weights(model, batches)
    assert [m.shape for m in means] == [(3, 16), (3, 32), (3, 64)]
    assert all(((m > 0) & (m < 1)).all() for m in means)
    block: Any = stages_of(model)[0][0]
    with torch.no_grad():
        u = model.relu(model.bn1(model.conv1(x)))
        out = block.bn2(block.conv2(block.relu(block.bn1(block.conv1(u)))))
        expected = block.eca.weights(out)[:, :, 0, 0]
    torch.testing.assert_close(torch.from_numpy(means[0][1]), expected[rows == 1].mean(0))
    assert mean_channel_weights(network("mini", attention="none").eval(), batches) == []


def test_every_architecture_trains(tmp_path: Path, digits: Path) -> None:
    for arch in ("eca_resnet18", "eca_mobilenet_v2"):
        this = study(tmp_path / arch, digits, arch=arch, image_size=32, batch_size=15, drop_path=0.1)
        model = this.train("eca", this.data())
        assert set(this.evaluate(model, this.data())) == {"top1", "top5", "parameters", "macs"}
        assert kernels_of(model.state_dict()) == VARIANTS[arch]["kernel_sizes"]


def test_arms_differ_as_they_should(tmp_path: Path, digits: Path) -> None:
    this = study(tmp_path, digits)
    classes = tuple(str(k) for k in range(10))
    models = {arm: this.build(arm, classes) for arm in ARMS}
    counts = {arm: parameters(model) for arm, model in models.items()}
    plain = counts["none"]
    assert {arm: count - plain for arm, count in counts.items()} == {
        "none": 0, "se_var1": 0, "se_var2": 112, "se_var3": 5376, "se_gc1": 336, "se_gc2": 1792, "se_gc3": 896,
        "se": 824, "cbam": 1004, "eca_ns": 336, "eca": 9, "eca_k9": 27,
    }  # fmt: skip
    assert kernels_of(models["eca"].state_dict()) == (3, 3, 3)
    assert kernels_of(models["eca_k9"].state_dict()) == (9, 9, 9)


def test_pretrained_weights_bring_their_kernels(tmp_path: Path, digits: Path) -> None:
    source = network("eca_resnet18", kernel_sizes=(5, 5, 5, 5), num_classes=3)
    path = released(source, tmp_path / "r18.pth.tar")
    options: dict[str, Any] = {"arch": "eca_resnet18", "image_size": 32, "pretrained": str(path), "lr": 1e-12}
    this = study(tmp_path, digits, **options)
    with pytest.warns(UserWarning, match="other classes and is newly initialised"):
        model = this.train("eca", this.data())
    assert kernels_of(model.state_dict()) == (5, 5, 5, 5)
    name = "layer2.0.conv1.weight"
    torch.testing.assert_close(model.state_dict()[name], source.state_dict()[name])
    with pytest.raises(Problem, match=r"layer1\.0\.eca: file has kernel 5, model 3"):
        study(tmp_path, digits, **options, kernel_sizes="3577").train("eca", this.data())
    with pytest.raises(Problem, match="not the weights of eca_resnet34") as caught:
        study(tmp_path, digits, **{**options, "arch": "eca_resnet34"}).train("eca", this.data())
    assert "eca_resnet18" in caught.value.remedy
    mobile = released(network("eca_mobilenet_v2"), tmp_path / "mobile.pth.tar")
    with pytest.raises(Problem, match="not the weights of eca_resnet18") as caught:
        study(tmp_path, digits, **{**options, "pretrained": str(mobile)}).train("eca", this.data())
    assert "eca_mobilenet_v2" in caught.value.remedy


def test_the_recipe_is_the_published_one() -> None:
    paper = ECAStudy.scales["paper"]
    assert isinstance(paper, ECAConfig)
    recipe = (paper.arch, paper.optimizer, paper.lr, paper.momentum, paper.weight_decay, paper.decay_all)
    assert recipe == ("eca_resnet50", "momentum", 0.1, 0.9, 1e-4, True)
    assert (paper.epochs, paper.batch_size, paper.schedule, paper.decay_epochs, paper.decay_rate) == (
        100, 256, "step", 30, 0.1,
    )  # fmt: skip
    assert (paper.ema_decay, paper.label_smoothing, paper.mixup, paper.keep_best) == (0, 0, 0, True)


@pytest.mark.slow  # 30 GMACs are traced; parameters are counted above all the time
def test_measured_counts(tmp_path: Path) -> None:
    figures = study(tmp_path).measure()
    for variant, (count, added) in COUNTS.items():
        assert (figures[f"{variant}_parameters"], figures[f"{variant}_added_parameters"]) == (count, added)
    assert figures["eca_resnet50_gflops_of_convolutions"] == pytest.approx(86_272 / 1e9)
    assert figures["eca_resnet50_gflops_with_pooling"] == pytest.approx((86_272 + 5_519_360) / 1e9)
    assert cast(float, figures["faster_rcnn_parameters"]) / 1e6 == pytest.approx(41.53, abs=0.005)
    assert (tmp_path / "session" / "figures" / "accuracy-vs-parameters.png").exists()


def test_layers_race(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("repertory.papers.eca.study.LAYER_SHAPE", (1, 32, 2, 2))
    figures = study(tmp_path, speed_rounds=5)._speed()
    medians = figures["layer_speed_eca_over_se"]
    assert isinstance(medians, list)
    assert len(medians) == 5
    assert min(medians) > 0


@pytest.mark.realdata
def test_real_digits_are_read(tmp_path: Path, real_data: Callable[[str], Path]) -> None:
    this = study(tmp_path, real_data("mnist-png"))
    data = this.data()
    model = this.build("eca", data.train.classes)
    few = data.test.subset(range(0, len(data.test), max(1, len(data.test) // 50)))
    assert 0 <= this.accuracy(model, few)["top1"] <= 100


# -- bad input ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["eca", "eca_ns"])
def test_bad_kernels(kind: str) -> None:
    for kernel in (4, 0, -3):
        with pytest.raises(Problem, match=f"kernel_size must be odd, got {kernel}"):
            channel_attention(kind, 64, kernel_size=kernel)
    with pytest.warns(UserWarning, match="a kernel of 9 is longer than 4 channels need"):
        channel_attention(kind, 4, kernel_size=9)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        channel_attention(kind, 4, kernel_size=7)


def test_groups_that_do_not_divide() -> None:
    for kind, groups in (("se_gc1", "16"), ("SE-GC2", "1.5"), ("se_gc3", "2.5")):
        channels = 24 if kind != "se_gc3" else 20
        with pytest.raises(Problem, match=f"{groups} groups do not divide {channels} channels"):
            channel_attention(kind, channels)


def test_unknown_layers_and_options() -> None:
    with pytest.raises(Problem, match="no channel attention 'senet'"):
        channel_attention("senet", 64)
    with pytest.raises(Problem, match="se has no option 'kernel_size'"):
        channel_attention("se", 64, kernel_size=3)


@pytest.mark.parametrize("given", ["3,5,5,7", "3557", 3557, [3, 5, 5, 7], (3, 5, 5, 7), "(3, 5, 5, 7)", "3 5 5 7"])
def test_kernels_as_text_or_list(given: Any) -> None:
    assert kernels_of_stages(given, 4) == [3, 5, 5, 7]


@pytest.mark.parametrize("given", ["3,5,7", "35577", "a,b,c,d", [3, 5], "", (3, 5, 5, -7), "3.5"])
def test_kernels_that_do_not_fit(given: Any) -> None:
    with pytest.raises(Problem, match="for 4 stages"):
        kernels_of_stages(given, 4)


def test_one_kernel_for_all() -> None:
    assert kernels_of_stages(9, 4) == kernels_of_stages("9", 4) == kernels_of_stages([9], 4) == [9] * 4
    assert kernels_of_stages(None, 2) == [None, None]


@pytest.mark.parametrize(
    ("field", "value"),
    [("kernel_sizes", "4"), ("kernel_sizes", "3557"), ("kernel_sizes", "x"), ("arch", "eca_resnet20"), ("lr", -1)],
)
def test_bad_settings_are_refused(field: str, value: Any) -> None:
    with pytest.raises(ValidationError, match=field):
        ECAConfig.model_validate({field: value})
    assert ECAConfig(arch="eca_resnet50", kernel_sizes=3557).kernel_sizes == 3557


def test_images_of_another_shape() -> None:
    model = network("mini")
    with pytest.raises(Problem, match=r"shape \(2, 1, 32, 32\)") as caught:
        model(torch.zeros(2, 1, 32, 32))
    assert "expand(-1, 3, -1, -1)" in caught.value.remedy
    with pytest.raises(Problem, match=r"shape \(2, 3, 0, 32\)"):
        model(torch.zeros(2, 3, 0, 32))
    with pytest.raises(Problem, match=r"shape \(3, 32, 32\)"):
        model(torch.zeros(3, 32, 32))
    for shape in ((2, 16, 0, 4), (2, 16, 4, 0), (2, 16)):
        with pytest.raises(Problem, match="channel attention on a map of shape"):
            ECA(16)(torch.zeros(shape))


def test_other_networks_are_refused() -> None:
    with pytest.raises(Problem, match="cannot add channel attention to a VGG"):
        add_channel_attention(torchvision.models.vgg11(), "eca")
    with pytest.raises(Problem, match="cannot add channel attention to a RegNet"):
        add_channel_attention(torchvision.models.regnet_y_400mf(), "eca")
    with pytest.raises(Problem, match="no block 'wide'"):
        ECAResNet("wide")


def test_bad_data(tmp_path: Path, digits: Path) -> None:
    with pytest.raises(Problem, match="no data for eca here"):
        study(tmp_path, tmp_path).data()
    (tmp_path / "empty").mkdir()
    this = study(tmp_path, digits)
    with pytest.raises(Problem, match="no images here"):
        this.predict(this.build("eca", ("a", "b")), tmp_path / "empty")
