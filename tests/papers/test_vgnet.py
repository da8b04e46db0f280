"""VGNet: fidelity to the authors' code, fixed kernels, blocks, timm's interface, weights, use, and bad input."""

from __future__ import annotations

import copy
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from pydantic import ValidationError
from timm.data import resolve_data_config
from timm.layers import DropPath
from timm.models import reparameterize_model
from timm.optim import create_optimizer_v2
from torch import Tensor, nn
from torch.nn import functional as F

from repertory.core import checkpoint
from repertory.core.problem import Problem
from repertory.core.study import Session
from repertory.nn.macs import count_macs
from repertory.papers.vgnet import KERNELS, SETS, VARIANTS, FixedDepthwise, SharedDepthwise, VGNet, fixed_kernels
from repertory.papers.vgnet.baseline import MobileNetV2
from repertory.papers.vgnet.model import SIZES, STYLES, Downsampling, HalfIdentity
from repertory.papers.vgnet.pictures import compare_kernels, kernels_picture, summary
from repertory.papers.vgnet.study import ARMS, MINI, VGNetConfig, VGNetStudy, variant_of
from repertory.papers.vgnet.weights import architecture, style_of
from tests.fidelity.cases import assert_agrees, cases
from tests.fidelity.fill import fill_, probe

COUNTS = {
    "1_0mp": (997_358, 1_143_190, 1_000_256, 1_146_088, 143_980_728, 145_085_544),
    "1_5mp": (1_502_024, 1_701_680, 1_506_056, 1_705_712, 190_754_304, 191_979_008),
    "2_0mp": (2_006_380, 2_344_696, 2_010_412, 2_348_728, 304_043_480, 305_641_048),
    "2_5mp": (2_492_756, 2_922_284, 2_497_040, 2_926_568, 402_861_440, 404_806_336),
    "5_0mp": (4_990_239, 5_887_455, 4_996_980, 5_894_196, 607_078_512, 609_943_020),
}
"""Parameters in paper style, with SE, in release style, with SE; MACs at 224 pixels, with SE."""


def study(tmp_path: Path, data: Path | None = None, scale: str = "smoke", **settings: Any) -> VGNetStudy:
    config = VGNetConfig.model_validate({**VGNetStudy.scales[scale].model_dump(), **settings})
    return VGNetStudy(config, Session(0, tmp_path / "session", data))


def mini(**changes: Any) -> VGNet:
    return VGNet(**{**MINI, "num_classes": 10, **changes})


def filled(model: VGNet) -> VGNet:
    fill_(model).eval()
    model.reset_fixed_kernels()
    return model


def lively(model: VGNet) -> VGNet:
    """As after some training: norms that normalise, with scales of both signs, so that outputs depend on the image.

    After `fill_` they hardly do: two images give the same logits but for the fifth digit.
    """
    torch.manual_seed(0)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
        nn.init.uniform_(norm.weight, -1.5, 1.5)
        nn.init.uniform_(norm.bias, -1, 1)
    with torch.no_grad():
        model.train()(torch.randn(16, 3, 64, 64))
        model.eval()
        x = torch.randn(2, 3, 64, 64)
        assert not torch.allclose(model(x[:1]), model(x[1:]), rtol=0.05)
    return model


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


# -- fidelity -----------------------------------------------------------------------------------


@pytest.mark.parametrize("case", cases("vgnet"))
def test_agrees_with_the_authors_code(case: dict[str, Any]) -> None:
    config = dict(case["config"])
    model = filled(VGNet(**{**VARIANTS[config.pop("variant").lower()], **config}))
    x = probe(*case["input"][0])
    with torch.no_grad():
        assert_agrees(model(x), case, model)
    if case["macs"] is not None:
        assert count_macs(model, x) == case["macs"]


@pytest.mark.parametrize("size", SIZES)
def test_exact_sizes(size: str) -> None:
    found = [
        parameters(VGNet(**SIZES[size], style=cast(Any, style), se_ratio=se))
        for style in ("paper", "release")
        for se in (None, 0.25)
    ]
    assert tuple(found) == COUNTS[size][:4]


@pytest.mark.parametrize("size", ["1_0mp", "2_0mp"])
def test_exact_costs(size: str) -> None:
    x = torch.zeros(1, 3, 224, 224)
    found = tuple(count_macs(timm.create_model(f"vgnetg_{size}{suffix}"), x) for suffix in ("", "_se"))
    assert found == COUNTS[size][4:]


def test_exact_sizes_of_the_other_networks() -> None:
    assert parameters(timm.create_model("vgnetc_1_5mp")) == 1_506_344
    assert parameters(timm.create_model("vgnetc_1_0mp", style="release")) == 1_004_036
    for name in ("vgnete_1_5mp", "vgnetf_1_5mp"):
        model = timm.create_model(name)
        assert (parameters(model), count_macs(model, torch.zeros(1, 3, 224, 224))) == (1_485_896, 192_485_376)


# -- the equations, written down once more ------------------------------------------------------


def forward_by_hand(model: Any, x: Tensor) -> Tensor:
    """From the description, channel by channel where that is shorter than clever."""

    def pointwise(pw: Any, y: Tensor) -> Tensor:
        y = pw.norm(pw.act(F.conv2d(y, pw.conv.weight)))
        if isinstance(pw.se, nn.Identity):
            return y
        gate = pw.se.fc2(pw.se.activation(pw.se.fc1(y.mean((2, 3), keepdim=True))))
        return y * torch.sigmoid(gate)

    x = model.stem.norm(model.stem.act(model.stem.conv(x)))
    for stage in model.stages:
        layers: list[Any] = [m for m in stage.children() if isinstance(m, Downsampling | HalfIdentity)]
        down, *halves = layers
        i, o = x.shape[1], down.pw.conv.weight.shape[0] + down.kept
        s = min(o // 2, i) if i <= o else 0
        y = down.filter(x)
        x = torch.cat([y[:, i - s :], pointwise(down.pw, y)], 1)
        assert x.shape[1] == o
        for half in halves:
            a, b = x[:, : o // 2], x[:, o // 2 :]
            x = torch.cat([b, pointwise(half.pw, torch.cat([a, half.kernel(b)], 1))], 1)
    return model.head(pointwise(model.tail.pw, model.tail.kernel(x)).mean((2, 3)))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"style": "release", "downsample": "dwconv", "se_ratio": 0.25, "thumbnail": False},
        {"kernels": "edge_gaussian"},
        {"downsample": "maxpool", "kernels": "learned_bn"},
        {"kernels": "identity", "drop_rate": 0.0},
        {"channels": (16, 40, 24, 64, 128)},  # more than twice as wide; narrower
    ],
    ids=str,
)
def test_the_network_is_that_of_the_description(changes: dict[str, Any]) -> None:
    model = lively(mini(**changes))
    x = torch.randn(2, 3, 64, 80)
    with torch.no_grad():
        torch.testing.assert_close(model(x), forward_by_hand(model, x), rtol=1e-4, atol=1e-5)


def test_half_of_the_channels_pass_unchanged_and_become_the_first() -> None:
    layer = HalfIdentity(16, "learned", STYLES["paper"], None, 0.0)
    a, b = torch.randn(2, 8, 5, 7), torch.randn(2, 8, 5, 7)
    first, new = layer((a, b))
    assert first is b
    assert new.shape == b.shape
    assert not torch.allclose(layer((b, a))[1], new)


@pytest.mark.parametrize(
    ("dim_in", "dim_out", "kept"), [(28, 56, 28), (32, 72, 32), (168, 376, 168), (376, 512, 256), (64, 40, 0)]
)
def test_which_channels_downsampling_keeps(dim_in: int, dim_out: int, kept: int) -> None:
    layer = Downsampling(dim_in, dim_out, "blur", 2, STYLES["release"], None)
    x = torch.randn(1, dim_in, 6, 10)
    a, b = layer(x)
    assert layer.kept == kept
    assert a.shape == b.shape == (1, dim_out // 2, 3, 5)
    y = layer.filter(x)
    if kept:
        torch.testing.assert_close(torch.cat([a, b], 1)[:, :kept], y[:, dim_in - kept :])


def test_map_sizes() -> None:
    sizes = {
        method: [m.shape[-1] for m in maps_of(mini(downsample=method, thumbnail=False), 224)]
        for method in ("blur", "dwconv", "maxpool")
    }
    assert sizes == {"blur": [56, 28, 14, 7], "dwconv": [56, 28, 14, 7], "maxpool": [55, 27, 13, 6]}
    assert [m.shape[-1] for m in maps_of(mini(), 32)] == [32, 16, 8, 4]


def maps_of(model: VGNet, size: int) -> list[Tensor]:
    maps = model.eval().forward_intermediates(torch.zeros(1, 3, size, size), intermediates_only=True)
    assert isinstance(maps, list)
    return maps


@pytest.mark.parametrize("size", [32, 61])
def test_the_least_size(size: int) -> None:
    model = mini(downsample="maxpool" if size == 61 else "blur", thumbnail=False).eval()
    assert model(torch.zeros(1, 3, size, size)).shape == (1, 10)
    with pytest.raises(Problem, match=rf"{size - 1} x {size} pixels is too small"):
        model(torch.zeros(1, 3, size - 1, size))
    small = mini(downsample=cast(Any, "maxpool" if size == 61 else "blur")).eval()
    assert small(torch.zeros(1, 3, small.least_size, small.least_size)).shape == (1, 10)


@pytest.mark.parametrize("arm", ARMS)
def test_gradients_reach_every_parameter(arm: str) -> None:
    torch.manual_seed(0)
    model = mini(**ARMS[arm], se_ratio=0.25)
    x = torch.randn(4, 3, 32, 32, requires_grad=True)
    model(x).square().sum().backward()
    assert x.grad is not None
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


def test_arms_differ_as_they_should() -> None:
    sizes = {arm: parameters(mini(**changes)) for arm, changes in ARMS.items()}
    assert sizes["f_edge"] == sizes["f_edge_gaussian"] < sizes["g"] < sizes["c"]
    norms = sizes["learned_bn"] - sizes["g"]
    assert norms == 2 * (16 + 2 * 32 + 3 * 48 + 64 + 128) == sizes["f_edge"] - sizes["identity"]
    ours, peer = mini(num_classes=18), MobileNetV2("mini", 18)
    assert parameters(peer) == pytest.approx(parameters(ours), rel=0.05)
    assert count_macs(peer, torch.zeros(1, 3, 32, 32)) == pytest.approx(
        count_macs(ours, torch.zeros(1, 3, 32, 32)), rel=0.05
    )


def test_without_kernels_only_downsampling_mixes_pixels() -> None:
    pixels = torch.randn(1, 8, 9, 9, requires_grad=True)
    for kernels, reach in (("identity", 1), ("learned", 9), ("edge_gaussian", 9)):
        layer = HalfIdentity(16, cast(Any, kernels), STYLES["paper"], None, 0.0).eval()
        (gradient,) = torch.autograd.grad(layer((pixels, pixels))[1][0, :, 4, 4].abs().sum(), pixels)
        assert int((gradient.abs().sum((0, 1)) > 0).sum()) == reach


# -- fixed kernels ------------------------------------------------------------------------------


def test_the_constants() -> None:
    edge = fixed_kernels("edge_gaussian")
    assert edge.shape == (8, 3, 3)
    torch.testing.assert_close(edge[0], edge[1].T)
    for name in SETS["edge_gaussian"][:6]:
        assert sum(map(sum, KERNELS[name])) == pytest.approx(0, abs=1e-12), name
    blur = fixed_kernels("blur_release")[0]
    assert [round(float(blur[i, j]), 6) for i, j in ((0, 0), (0, 1), (1, 1))] == [0.075114, 0.123841, 0.204180]
    rows, columns = np.mgrid[-1:2, -1:2]
    wide = np.exp(-(rows**2 + columns**2) / (2 * 1.1**2))
    np.testing.assert_allclose(fixed_kernels("blur_paper")[0], wide / wide.sum(), atol=1e-4)
    torch.testing.assert_close(fixed_kernels("blur_paper")[1], -fixed_kernels("blur_paper")[0])


def test_channels_take_turns() -> None:
    layer = FixedDepthwise(16, "edge_gaussian")
    x = torch.randn(2, 16, 6, 7)
    y = layer(x)
    for c in (0, 5, 8, 15):
        expected = F.conv2d(x[:, c : c + 1], fixed_kernels("edge_gaussian")[c % 8][None, None], padding=1)
        torch.testing.assert_close(y[:, c : c + 1], expected)
    shared = SharedDepthwise(16, times=8)
    y = shared(x)
    for c in range(16):
        expected = F.conv2d(x[:, c : c + 1], shared.weight[c % 2][None], padding=1)
        torch.testing.assert_close(y[:, c : c + 1], expected)


def test_fixed_kernels_are_no_parameters_are_not_stored_and_can_be_restored() -> None:
    model = mini(kernels="edge")
    fixed = {name for name, module in model.named_modules() if isinstance(module, FixedDepthwise)}
    assert len(fixed) == 3 + (1 + 2 + 3 + 1) + 1  # blurs (the first stage keeps the size), K, tail
    assert not {f"{name}.weight" for name in fixed} & (
        model.state_dict().keys() | dict(model.named_parameters()).keys()
    )
    x = torch.randn(1, 3, 32, 32)
    expected = lively(model)(x)
    for module in model.modules():
        if isinstance(module, FixedDepthwise):
            module.weight.zero_()
    assert not torch.allclose(model(x), expected)
    model.reset_fixed_kernels()
    torch.testing.assert_close(model(x), expected)


def test_training_does_not_move_them(tmp_path: Path, digits: Path) -> None:
    this = study(tmp_path, digits, weight_decay=0.1, ema_decay=0.9)
    model = this.train("f_edge_gaussian", this.data())
    assert this.evaluate(model, this.data())["fixed_kernel_drift"] == 0
    kernel = cast(Any, model).tail.kernel[0]
    kernel.weight.mul_(1.5)
    assert this.evaluate(model, this.data())["fixed_kernel_drift"] == pytest.approx(0.5)


# -- inference ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"style": "release", "thumbnail": False, "downsample": "dwconv"},
        {"kernels": "edge_gaussian"},
        {"kernels": "learned_bn", "se_ratio": 0.25},
        {"kernels": "identity", "style": "release"},
        {"channels": (16, 40, 24, 64, 128)},
    ],
    ids=str,
)
def test_fusing_changes_nothing(changes: dict[str, Any]) -> None:
    model = lively(mini(**changes))
    x = torch.randn(2, 3, 48, 33)
    with torch.no_grad():
        expected, maps = model.forward_intermediates(x)
        again = reparameterize_model(model)
        fused = model.fuse().fuse()
        for network in (again, fused, copy.deepcopy(fused)):
            for image in (x, x[:1], x):  # an offset that is remembered stays what it is
                last, found = cast(VGNet, network).forward_intermediates(image)
                torch.testing.assert_close(last, expected[: len(image)], rtol=1e-3, atol=1e-4)
                for one, other in zip(found, maps, strict=True):
                    torch.testing.assert_close(one, other[: len(image)], rtol=1e-3, atol=1e-4)
    norms = sum(isinstance(m, nn.BatchNorm2d) for m in fused.modules())
    assert norms == (2 if "se_ratio" not in changes else 2 + sum(MINI["layers"]))


def test_a_fused_network_takes_other_sizes_and_types() -> None:
    model = lively(mini())
    x = torch.randn(1, 3, 40, 32)
    expected = {s: model(F.interpolate(x, scale_factor=s)).detach() for s in (1, 2)}
    model.fuse()
    with torch.inference_mode():
        model(x)
    for s in (2, 1):
        torch.testing.assert_close(model(F.interpolate(x, scale_factor=s)), expected[s], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(model.double()(x.double()).float(), expected[1], rtol=1e-3, atol=1e-4)


def test_images_one_by_one_and_in_either_layout() -> None:
    model, x = lively(mini()), torch.randn(3, 3, 32, 40)
    whole = model(x)
    torch.testing.assert_close(torch.cat([model(one) for one in x.split(1)]), whole, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model(x.contiguous(memory_format=torch.channels_last)), whole)
    assert model(x[:0]).shape == (0, 10)


def test_mixed_precision() -> None:
    model, x = mini(se_ratio=0.25), torch.randn(2, 3, 32, 32)
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(x)
    logits.float().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("changes", [{}, {"kernels": "edge_gaussian"}, {"se_ratio": 0.25}], ids=str)
def test_mixed_precision_of_a_fused_network(changes: dict[str, Any]) -> None:
    model, x = lively(mini(**changes)), torch.randn(2, 3, 48, 33)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        expected = model(x)
        found = model.fuse()(x)
    assert found.dtype == expected.dtype
    assert (found - expected).abs().max() < 0.1 * expected.abs().max()


# -- timm ---------------------------------------------------------------------------------------


def test_every_network_is_registered() -> None:
    assert set(timm.list_models("vgnet*")) == set(VARIANTS)
    assert len(VARIANTS) == 17


@pytest.mark.parametrize("indices", [(0, 1, 2, 3), (2, 3), (1,)])
@pytest.mark.parametrize("name", ["vgnetg_1_0mp_se", "vgnetf_1_5mp"])
def test_feature_pyramids(name: str, indices: tuple[int, ...]) -> None:
    model: Any = timm.create_model(name, features_only=True, out_indices=indices)
    dims = [VARIANTS[name]["channels"][i + 1] for i in indices]
    assert model.feature_info.channels() == dims
    assert model.feature_info.reduction() == [4 << i for i in indices]
    maps = model(torch.randn(2, 3, 64, 96))
    assert [tuple(x.shape) for x in maps] == [(2, d, 16 >> i, 24 >> i) for d, i in zip(dims, indices, strict=True)]
    torch.stack([x.sum() for x in maps]).sum().backward()
    assert all(p.grad is not None for p in model.parameters()), "parameters that no map needs were not removed"
    thumbnail: Any = timm.create_model(name, features_only=True, thumbnail=True)
    assert thumbnail.feature_info.reduction() == [1, 2, 4, 8]


def test_create_model_takes_timms_options() -> None:
    model: Any = timm.create_model("vgnetg_1_0mp", num_classes=7, in_chans=1, drop_path_rate=0.3, drop_rate=0.4)
    assert model.eval()(torch.zeros(2, 1, 32, 32)).shape == (2, 7)
    rates = [module.drop_prob for module in model.modules() if isinstance(module, DropPath)]
    assert rates == pytest.approx(torch.linspace(0, 0.3, 22).tolist())
    assert model.drop.p == 0.4
    assert timm.create_model("vgnetg_1_0mp", num_classes=0).eval()(torch.zeros(1, 3, 32, 32)).shape == (1, 368)
    model.reset_classifier(4)
    assert model.get_classifier().out_features == 4
    last, maps = model.forward_intermediates(torch.zeros(2, 1, 64, 64))
    torch.testing.assert_close(model.tail(maps[-1]), last)
    assert model.forward_head(last, pre_logits=True).shape == (2, 368)


def test_dropped_images_keep_their_identity_half() -> None:
    layer = HalfIdentity(8, "learned", STYLES["paper"], None, drop_path=0.5).train()
    a, b = torch.randn(64, 4, 3, 3), torch.randn(64, 4, 3, 3)
    torch.manual_seed(0)
    first, new = layer((a, b))
    assert first is b
    dropped = (new == 0).flatten(1).all(1)
    assert 16 < int(dropped.sum()) < 48


def test_models_carry_their_preprocessing() -> None:
    for name, style, crop in (
        ("vgnetg_1_0mp", {}, 224 / 232),
        ("vgnetg_1_0mp", {"style": "paper"}, 0.875),
        ("vgnetf_1_5mp", {}, 0.875),
    ):
        config = resolve_data_config(model=cast(Any, timm.create_model)(name, **style))
        assert (config["input_size"], config["interpolation"]) == ((3, 224, 224), "bilinear")
        assert config["crop_pct"] == pytest.approx(crop)
    assert (
        resolve_data_config(model=timm.create_model("vgnetg_1_0mp", pretrained_cfg_overlay={"crop_pct": 1.0}))[
            "crop_pct"
        ]
        == 1
    )


def test_the_learning_rate_can_decay_with_depth() -> None:
    model: Any = mini()
    optimizer = create_optimizer_v2(model, "sgd", lr=1.0, layer_decay=0.9)
    rates = {id(p): group["lr_scale"] for group in optimizer.param_groups for p in group["params"]}
    scales = [
        rates[id(p)]
        for p in (
            model.stem.conv.weight,
            model.stages[1][1].pw.conv.weight,
            model.tail.pw.conv.weight,
            model.head.weight,
        )
    ]
    assert scales == sorted(scales)
    assert scales[-1] == 1
    assert len(set(rates.values())) == 1 + sum(MINI["layers"]) + 2


def test_the_initialisation_is_pytorchs() -> None:
    torch.manual_seed(3)
    model: Any = mini()
    torch.manual_seed(3)
    conv = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
    assert torch.equal(model.stem.conv.weight, conv.weight)


# -- weights ------------------------------------------------------------------------------------


def in_authors_names(model: Any) -> dict[str, Tensor]:
    """Back to the names of the authors' files, written down from the description of these, not from our table."""
    state, style = model.state_dict(), model.style
    fixed_kernels_in_files = {
        f"{n}.weight": m.weight for n, m in model.named_modules() if isinstance(m, FixedDepthwise)
    }
    last = sum(isinstance(m, Downsampling | HalfIdentity) for m in model.stages[3])
    renamed: dict[str, Tensor] = {}
    for key, tensor in {**state, **fixed_kernels_in_files}.items():
        part, *rest = key.split(".")
        leaf = rest[-1]
        if part == "head":
            new = f"classifier.{leaf}" if style == "paper" else f"classifier.1.{leaf}"
        elif part == "stem":
            new = f"features.stem.{0 if rest[0] == 'conv' else 2}.{leaf}"
        elif part == "stages":
            place = f"features.stage{int(rest[0]) + 1}.{rest[1]}"
            if rest[2] == "filter":
                new = f"{place}.downsample.weight"
            elif rest[2] == "kernel":
                new = ".".join([place, "half3x3", *rest[3:]])
            elif rest[3] == "se":
                new = f"{place}.conv1x1.1.{ {'fc1': 'reduce', 'fc2': 'expand'}[rest[4]] }.{leaf}"
            else:
                inside = (
                    f"conv1x1.0.{0 if rest[3] == 'conv' else 2}"
                    if any(".se." in k for k in state)
                    else f"conv1x1.{0 if rest[3] == 'conv' else 2}"
                )
                new = f"{place}.{inside}.{leaf}"
        else:
            place, has_norm = f"features.stage4.{last + 1}", any(k.startswith("tail.kernel.1") for k in state)
            if rest[0] == "kernel":
                shared = style == "paper" and not has_norm
                new = f"{place}.1.{leaf}" if rest[1] == "1" else f"{place}.0.{'mux.' if shared else ''}weight"
            else:
                new = f"{place}.{2 if has_norm else 1}.{0 if rest[1] == 'conv' else 2}.{leaf}"
        renamed[new] = tensor
    return renamed


RELEASED: list[tuple[str, dict[str, Any]]] = [
    ("vgnetg_1_0mp", {}),
    ("vgnetg_1_0mp_se", {}),
    ("vgnetg_1_0mp", {"style": "paper"}),
    ("vgnetg_1_0mp_se", {"style": "paper"}),
    ("vgnetc_1_5mp", {}),
    ("vgnetf_1_5mp", {}),
    ("vgnete_1_5mp", {}),
]
"""Kinds of files that the authors released."""


def test_the_authors_names_are_translated() -> None:
    theirs = in_authors_names(VGNet(**VARIANTS["vgnetg_1_0mp_se"]))
    for key, shape in {
        "features.stem.0.weight": (28, 3, 3, 3),
        "features.stem.2.running_mean": (28,),
        "features.stage1.0.downsample.weight": (28, 1, 3, 3),
        "features.stage1.0.conv1x1.0.0.weight": (28, 28, 1, 1),
        "features.stage1.0.conv1x1.0.2.weight": (28,),
        "features.stage1.0.conv1x1.1.reduce.weight": (8, 28, 1, 1),
        "features.stage1.0.conv1x1.1.expand.bias": (28,),
        "features.stage3.12.half3x3.weight": (112, 1, 3, 3),
        "features.stage4.3.0.weight": (368, 1, 3, 3),
        "features.stage4.3.1.0.weight": (368, 368, 1, 1),
        "features.stage4.3.1.2.num_batches_tracked": (),
        "classifier.1.bias": (1000,),
    }.items():
        assert theirs[key].shape == shape, key
    fixed = in_authors_names(VGNet(**VARIANTS["vgnetf_1_5mp"]))
    for key in (
        "features.stage2.3.half3x3.0.weight",
        "features.stage2.3.half3x3.1.bias",
        "features.stage4.3.0.weight",
        "features.stage4.3.1.running_var",
        "features.stage4.3.2.0.weight",
        "classifier.weight",
    ):
        assert key in fixed
    assert "features.stage4.3.0.mux.weight" in in_authors_names(VGNet(**VARIANTS["vgnetc_1_5mp"]))


@pytest.mark.parametrize(("name", "changes"), RELEASED, ids=str)
def test_released_files_load_by_checkpoint_path_and_convert(tmp_path: Path, name: str, changes: dict[str, Any]) -> None:
    model = filled(VGNet(**{**VARIANTS[name], **changes}))
    theirs = in_authors_names(model)
    assert style_of(theirs) == model.style
    headless = {key: tensor for key, tensor in theirs.items() if not key.startswith("classifier")}
    assert style_of(headless) == model.style
    file = tmp_path / "released.pth"
    torch.save(theirs, file)
    x = probe(1, 3, 64, 64)
    loaded = timm.create_model(name, checkpoint_path=str(file), **changes).eval()
    assert torch.equal(loaded(x), model(x))
    for variant in ("", name):
        converted = study(tmp_path).convert(file, variant)
        assert torch.equal(converted(x), model(x))
        assert (converted.style, variant_of(architecture(theirs))) == (model.style, name)


def test_converted_networks_are_saved_and_know_their_classes(tmp_path: Path) -> None:
    model = filled(VGNet(**VARIANTS["vgnetf_1_5mp"]))
    torch.save(in_authors_names(model), tmp_path / "f.pth")
    converted = study(tmp_path).convert(tmp_path / "f.pth")
    checkpoint.save(converted, tmp_path / "model")
    loaded = checkpoint.load(tmp_path / "model")
    x = probe(1, 3, 64, 64)
    assert torch.equal(loaded(x), model(x))
    Image.new("RGB", (80, 60), "red").save(tmp_path / "photo.png")
    (row,) = study(tmp_path).predict(loaded, tmp_path / "photo.png").table
    assert not row["class"].startswith("n0"), "classes of ImageNet are called by their names"
    twelve = VGNet(**VARIANTS["vgnetg_1_0mp"], num_classes=12)
    torch.save(in_authors_names(twelve), tmp_path / "twelve.pth")
    assert study(tmp_path).convert(tmp_path / "twelve.pth").num_classes == 12
    torch.save({k: v for k, v in in_authors_names(twelve).items() if "classifier" not in k}, tmp_path / "none.pth")
    with pytest.warns(UserWarning, match="no head"):
        study(tmp_path).convert(tmp_path / "none.pth")


def test_thumbnails_and_maxpool_are_told_from_the_file() -> None:
    for changes in ({"thumbnail": True}, {"downsample": "maxpool"}):
        found = architecture(in_authors_names(VGNet(**{**VARIANTS["vgnetg_1_0mp"], **changes})))
        assert found.items() >= changes.items()
        assert variant_of(found) == ""


def test_files_of_another_style_or_network_are_refused(tmp_path: Path, digits: Path) -> None:
    theirs = in_authors_names(VGNet(**VARIANTS["vgnetg_1_0mp"]))
    file = tmp_path / "release.pth"
    torch.save(theirs, file)
    with pytest.raises(
        Problem, match=r"has the release style \(classifier.1.weight, features.stage4.3.0.weight\)"
    ) as caught:
        timm.create_model("vgnetg_1_0mp", style="paper", checkpoint_path=str(file))
    assert "classifier.weight" in caught.value.what
    assert "mux" in caught.value.what
    assert caught.value.remedy == "set style='release'"
    with pytest.raises(Problem, match="release style"):
        study(tmp_path, digits, arch="vgnetg_1_0mp", style="paper", pretrained=str(file), image_size=32).train(
            "g", study(tmp_path, digits).data()
        )
    with pytest.raises(Problem, match="not the weights of vgnetg_2_0mp") as caught:
        study(tmp_path).convert(file, "vgnetg_2_0mp")
    assert "vgnetg_1_0mp" in caught.value.remedy
    with pytest.raises(Problem, match="no variant 'vgnetg_9mp'"):
        study(tmp_path).convert(file, "vgnetg_9mp")

    learned = in_authors_names(VGNet(**{**VARIANTS["vgnetc_1_0mp"], "style": "release"}))
    torch.save(learned, tmp_path / "c.pth")
    with pytest.raises(Problem, match=r"stages.0.0.filter.weight does not contain the fixed kernels 'blur_release'"):
        timm.create_model("vgnetg_1_0mp", checkpoint_path=str(tmp_path / "c.pth"))
    edge = in_authors_names(VGNet(**VARIANTS["vgnete_1_5mp"]))
    torch.save(edge, tmp_path / "e.pth")
    with pytest.raises(Problem, match="does not contain the fixed kernels 'edge_gaussian'"):
        timm.create_model("vgnetf_1_5mp", checkpoint_path=str(tmp_path / "e.pth"))
    edge["features.stage1.1.half3x3.0.weight"] = torch.randn(32, 1, 3, 3)
    torch.save(edge, tmp_path / "strange.pth")
    with pytest.raises(Problem, match="not among the authors"):
        study(tmp_path).convert(tmp_path / "strange.pth")
    torch.save({"weight": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(Problem, match="not weights of VGNet"):
        study(tmp_path).convert(tmp_path / "other.pth")
    torch.save({"features.stem.0.weight": torch.zeros(1)}, tmp_path / "part.pth")
    with pytest.raises(Problem, match=r"not weights of VGNet: no 'stages.0.0.pw.conv.weight'"):
        study(tmp_path).convert(tmp_path / "part.pth")


def test_pretrained_weights_are_taken_up_all_but_the_head(tmp_path: Path, digits: Path) -> None:
    model = VGNet(**VARIANTS["vgnetg_1_0mp"])
    torch.save(in_authors_names(model), tmp_path / "theirs.pth")
    this = study(
        tmp_path, digits, arch="vgnetg_1_0mp", pretrained=str(tmp_path / "theirs.pth"), lr=1e-12, image_size=32
    )
    with pytest.warns(UserWarning, match="other classes and is newly initialised"):
        trained = cast(VGNet, this.train("g", this.data()))
    name = "stages.3.1.pw.conv.weight"
    torch.testing.assert_close(trained.state_dict()[name], model.state_dict()[name])
    assert trained.num_classes == 10
    checkpoint.save(mini(), tmp_path / "own")
    with pytest.raises(Problem, match="not the weights of vgnetg_1_5mp") as caught:
        study(tmp_path, digits, arch="vgnetg_1_5mp", pretrained=str(tmp_path / "own")).train("g", this.data())
    assert "arch=mini" in caught.value.remedy


# -- the study ----------------------------------------------------------------------------------


def test_own_data_train_save_load_predict(tmp_path: Path, digits: Path) -> None:
    this = study(tmp_path, digits, epochs=2, image_size=32)
    model = this.train("g", this.data())
    metrics = this.evaluate(model, this.data())
    assert metrics["parameters"] == parameters(mini())
    checkpoint.save(model, tmp_path / "model")
    loaded = checkpoint.load(tmp_path / "model")
    assert this.evaluate(loaded, this.data()) == metrics
    prediction = this.predict(loaded, digits / "val")
    assert len(prediction.table) == 20
    assert set(prediction.figures) == {"predictions", "kernels"}
    assert "stage 3" in prediction.text
    assert prediction.arrays["kernels"]["stage"].max() == 5


def test_arguments_come_from_architecture_settings_and_arm(tmp_path: Path) -> None:
    this = study(tmp_path, arch="vgnetg_2_5mp", style="paper", kernels="edge", thumbnail=True, drop_path=0.1)
    model = cast(VGNet, this.build("g", ("a", "b")))
    assert (model.style, model.num_classes, model.least_size) == ("paper", 2, 8)
    assert cast(Any, model.stages[0])[1].kernel[0].kernels == "edge"
    assert cast(Any, study(tmp_path).build("c", ("a", "b"))).stages[1][0].filter.weight.requires_grad
    peer = cast(MobileNetV2, this.build("mobilenetv2", ("a", "b")))
    assert parameters(peer.net) == parameters(timm.create_model("mobilenetv2_075", num_classes=2))


def test_agreement_under_shifts_by_hand(tmp_path: Path) -> None:
    """A classifier that looks at one pixel: how often its eight neighbours answer otherwise is counted by hand."""

    class Corner(nn.Module):
        num_classes = 2
        pretrained_cfg = {
            "input_size": (3, 16, 16),
            "mean": (0, 0, 0),
            "std": (1, 1, 1),
            "crop_pct": 1.0,
            "interpolation": "bilinear",
        }

        def forward(self, x: Tensor) -> Tensor:
            return torch.stack([x[:, 0, 0, 0], 1 - x[:, 0, 0, 0]], 1)

    picture = np.zeros((16, 16, 3), np.uint8)
    picture[0, 0] = 255
    for part in ("train", "val"):
        (tmp_path / "data" / part / "one").mkdir(parents=True)
        Image.fromarray(picture).save(tmp_path / "data" / part / "one" / "0.png")
    this = study(tmp_path, tmp_path / "data", shift_images=0)
    # Up and left, the repeated border still shows the bright pixel: of 8 moves, those to (-1, -1), (-1, 0), (0, -1).
    assert this.shift_agreement(Corner(), this.data().test) == pytest.approx(100 * 3 / 8)


def test_measured_figures(tmp_path: Path) -> None:
    figures = study(tmp_path, speed_rounds=5).measure()
    for size, counts in COUNTS.items():
        name = f"vgnetg_{size}"
        keys = ("paper_parameters", "se_paper_parameters", "parameters", "se_parameters", "macs", "se_macs")
        assert tuple(figures[f"{name}_{key}"] for key in keys) == counts
    assert figures["fixed_kernels_with_gradient"] == 0
    assert figures["parameters_saved"] == pytest.approx(42.6, abs=0.1)
    medians = figures["speed_over_mobilenetv2_035"]
    assert isinstance(medians, list)
    assert len(medians) == 5
    assert min(medians) > 0
    assert (tmp_path / "session" / "figures" / "accuracy-vs-parameters.png").stat().st_size > 5000


def test_kernels_are_named_by_what_they_are_like() -> None:
    model = mini(kernels="edge_gaussian")
    kernels = compare_kernels(model)
    learned = kernels[kernels["learned"]]
    assert set(learned["stage"]) == {1}  # the first stage keeps the size: its D is learned
    fixed = kernels[~kernels["learned"]]
    assert len(fixed) == 16 + 2 * 32 + 3 * 48 + 64 + 128
    np.testing.assert_allclose(fixed["cosine"], 1, atol=1e-6)
    assert list(fixed["nearest"][:8]) == list(SETS["edge_gaussian"])

    model = mini()
    first = cast(Any, model.stages[1])[1].kernel
    with torch.no_grad():
        first.weight[0, 0] = -3 * fixed_kernels("edge")[1]
        first.weight[1, 0] = torch.eye(9)[4].view(3, 3)
        first.weight[2] = 0
    own = compare_kernels(model)
    own = own[(own["stage"] == 2) & (own["layer"] == 2)]
    assert (own["nearest"][0], own["nearest"][1]) == ("horizontal gradient", "identity")
    assert own["cosine"][:3] == pytest.approx([-1, 1, 0], abs=1e-6)
    shown = kernels_picture(compare_kernels(model))
    assert [axes.get_yticklabels()[0].get_text() for axes in shown.axes] == [
        "fixed",
        "stage 1",
        "stage 2",
        "stage 3",
        "stage 4",
        "tail",
    ]
    assert summary(compare_kernels(model)).count("\n") == 4
    assert len(compare_kernels(mini(kernels="identity", thumbnail=False))) == 0


def test_published_recipes() -> None:
    paper, release = (cast(VGNetConfig, VGNetStudy.scales[name]) for name in ("paper", "release"))
    assert 8 * paper.batch_size == 512
    assert (paper.lr, paper.weight_decay, paper.epochs, paper.style) == (0.2, 1e-4, 100, "paper")
    assert (release.train_size, release.epochs, release.mixup, release.ema_decay) == (192, 300, 0.8, 0.9999)
    norms = [p for n, p in mini().named_parameters() if p.ndim == 1]
    optimizer = create_optimizer_v2(mini(), paper.optimizer, lr=1, weight_decay=1e-4, momentum=0.9)
    plain = next(group for group in optimizer.param_groups if group["weight_decay"] == 0)
    assert len(plain["params"]) == len(norms)
    assert not optimizer.defaults["nesterov"]


def test_cifar100_as_its_owners_distribute_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (6, 3072), dtype=np.uint8)
    for part in ("train", "test"):
        (folder / part).write_bytes(pickle.dumps({"data": pixels, "fine_labels": [0, 1, 2, 0, 1, 2]}))
    (folder / "meta").write_bytes(pickle.dumps({"fine_label_names": ["apple", "bear", "clock"]}))
    with pytest.raises(Problem, match="CIFAR-100 cannot be read"):
        study(tmp_path, tmp_path).data()  # their checksums differ
    monkeypatch.setattr("torchvision.datasets.CIFAR100._check_integrity", lambda _self: True)
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *_: True)
    this = study(tmp_path, tmp_path, image_size=32)
    data = this.data()
    image, label = data.train[4]
    assert (data.train.classes, label) == (("apple", "bear", "clock"), 1)
    np.testing.assert_array_equal(np.asarray(image)[3, 5], pixels[4].reshape(3, 32, 32)[:, 3, 5])
    assert 0 <= this.evaluate(this.train("g", data), data)["top1"] <= 100


@pytest.mark.realdata
def test_mnist_as_class_folders(tmp_path: Path, real_data: Callable[[str], Path]) -> None:
    root = real_data("mnist-png")
    this = study(tmp_path, root, image_size=16, schedule="onecycle", epochs=2)
    data = this.data()
    assert (len(data.train), len(data.test)) == (1500, 600)
    assert this.evaluate(this.train("g", data), data)["top1"] > 40


# -- bad input ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"channels": (16, 32, 63, 96, 128)}, "63 channels cannot be halved"),
        ({"channels": (15, 32, 64, 96, 128), "thumbnail": False}, "15 channels do not divide into the 2 kernels"),
        (
            {"channels": (16, 36, 64, 96, 128), "kernels": "edge"},
            "18 channels do not divide into the 4 kernels of 'edge'",
        ),
        (
            {"channels": (16, 24, 64, 96, 128), "kernels": "edge_gaussian"},
            "12 channels do not divide into the 8 kernels",
        ),
        ({"channels": (16, 32, 64, 96, 132)}, "132 channels are not a multiple of 8"),
        ({"se_ratio": 0}, "se_ratio is 0"),
        ({"se_ratio": -0.25}, "se_ratio is -0.25"),
        ({"style": "paris"}, "unknown style 'paris'"),
        ({"downsample": "avg"}, "unknown downsample 'avg'"),
        ({"kernels": "sobel"}, "unknown kernels 'sobel'"),
    ],
)
def test_bad_arguments_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(Problem, match=message) as caught:
        mini(**changes)
    assert caught.value.remedy


def test_bad_settings() -> None:
    for setting in ({"arch": "vgnetg_9mp"}, {"style": "paris"}, {"kernels": "sobel"}, {"image_size": 4}, {"lr": -1}):
        with pytest.raises(ValidationError):
            VGNetConfig.model_validate(setting)


def test_a_folder_without_images_and_one_class(tmp_path: Path, digits: Path) -> None:
    (tmp_path / "empty").mkdir()
    this = study(tmp_path)
    with pytest.raises(Problem, match="no data for vgnet"):
        this.read(tmp_path / "empty")
    with pytest.raises(Problem, match="no images here"):
        this.predict(mini(), tmp_path / "empty")
    shutil.copytree(digits / "train" / "5", tmp_path / "one" / "train" / "5")
    shutil.copytree(digits / "val" / "5", tmp_path / "one" / "val" / "5")
    with pytest.raises(Problem, match="one class only: 5"):
        this.train("g", this.read(tmp_path / "one"))
