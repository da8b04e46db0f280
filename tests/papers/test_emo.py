"""EMO: fidelity to the authors' code, the block's properties, timm's interface, weights, use, and bad input."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import timm
import torch
from PIL import Image
from pydantic import ValidationError
from timm.data import create_transform, resolve_data_config
from timm.layers import DropPath
from timm.models import reparameterize_model
from torch import Tensor, nn

from repertory.core import checkpoint
from repertory.core.problem import Problem
from repertory.core.study import Session
from repertory.nn.macs import count_macs
from repertory.papers.emo import EMO, VARIANTS, group, inference, iRMB, race, ungroup
from repertory.papers.emo.pictures import attention_picture, pixel_attention
from repertory.papers.emo.study import ARMS, MINI, EMOConfig, EMOStudy, fitting_variant
from repertory.papers.emo.weights import with_our_names
from tests.fidelity.cases import assert_agrees, cases
from tests.fidelity.fill import fill_, probe

COUNTS = {
    "emo_1m": (1_361_168, 260_843_664),
    "emo_2m": (2_377_472, 439_363_064),
    "emo_5m": (5_108_848, 902_583_776),
    "emo_6m": (6_168_496, 960_752_512),
}


def study(tmp_path: Path, data: Path | None = None, scale: str = "smoke", **settings: Any) -> EMOStudy:
    config = EMOConfig.model_validate({**EMOStudy.scales[scale].model_dump(), **settings})
    return EMOStudy(config, Session(0, tmp_path / "session", data))


def mini(**changes: Any) -> EMO:
    return EMO(**{**MINI, "num_classes": 10, **changes})


# -- fidelity -----------------------------------------------------------------------------------


@pytest.mark.parametrize("case", cases("emo"))
def test_agrees_with_the_authors_code(case: dict[str, Any]) -> None:
    config = dict(case["config"])
    variant = config.pop("variant", "").lower()
    model = EMO(**VARIANTS[variant], **config) if variant else iRMB(**config)
    fill_(model).eval()
    x = probe(*case["input"][0])
    with torch.no_grad():
        assert_agrees(model(x), case, model)
    if case["macs"] is not None:
        assert count_macs(model, x) == case["macs"]


@pytest.mark.parametrize("variant", VARIANTS)
def test_exact_sizes_and_costs(variant: str) -> None:
    model = timm.create_model(variant)
    assert (sum(p.numel() for p in model.parameters()), count_macs(model, torch.zeros(1, 3, 224, 224))) == COUNTS[
        variant
    ]


# -- windows ------------------------------------------------------------------------------------


def test_strided_groups_are_those_of_the_definition() -> None:
    n1, n2, window = 2, 3, 7
    places = torch.arange(14 * 21).view(1, 1, 14, 21)
    groups = group(places, (n1, n2)).view(n1, n2, window, window)
    for r in range(14):
        for c in range(21):
            assert groups[r % n1, c % n2, r // n1, c // n2] == places[0, 0, r, c]


def test_contiguous_groups_are_tiles() -> None:
    places = torch.arange(6 * 9).view(1, 1, 6, 9)
    groups = group(places, (2, 3), "contiguous").view(2, 3, 3, 3)
    assert (groups[1, 2] == places[0, 0, 3:6, 6:9]).all()


@pytest.mark.parametrize("mode", ["strided", "contiguous"])
@pytest.mark.parametrize("grid", [(1, 1), (2, 3), (6, 1)])
def test_ungroup_undoes_group(grid: tuple[int, int], mode: Any) -> None:
    x = torch.randn(2, 5, 6, 9)
    assert torch.equal(ungroup(group(x, grid, mode), grid, (6, 9), mode), x)


def test_with_one_window_both_modes_and_the_whole_map_are_the_same() -> None:
    x = torch.randn(2, 40, 7, 7)
    variations: list[dict[str, Any]] = [{}, {"window_mode": "contiguous"}, {"window_size": 0}]
    blocks = [fill_(iRMB(40, 40, dim_head=20, **options)).eval() for options in variations]
    first, *others = (block(x) for block in blocks)
    for other in others:
        torch.testing.assert_close(first, other)


def test_the_whole_map_may_have_any_shape() -> None:
    assert iRMB(40, 40, dim_head=20, window_size=0)(torch.zeros(1, 40, 5, 11)).shape == (1, 40, 5, 11)


def test_padding_takes_part_unless_masked() -> None:
    """By the formula, pixel by pixel, on a map that windows of 4 do not divide."""
    blocks = [
        iRMB(8, 8, dim_head=4, window_size=4, act_layer="identity", norm_in=False, mask_padding=mask).eval()
        for mask in (False, True)
    ]
    u = torch.randn(1, 8, 3, 6)
    for block in blocks:
        fill_(block)
        with torch.no_grad():
            torch.testing.assert_close(block.attend(u), attended_by_hand(block, u), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(blocks[0].attend(u), blocks[1].attend(u), atol=1e-3)


def attended_by_hand(block: iRMB, u: Tensor) -> Tensor:
    _, channels, height, width = u.shape
    n1, n2 = -(-height // block.window_size), -(-width // block.window_size)
    padded = torch.zeros(channels, n1 * block.window_size, n2 * block.window_size)
    padded[:, :height, :width] = u[0]
    weight, bias = block.qk.weight[:, :, 0, 0], block.qk.bias
    assert bias is not None
    y = torch.zeros(channels, height, width)
    d = channels // block.heads
    for r in range(height):
        for c in range(width):
            keys = [
                (i, j)
                for i in range(padded.shape[1])
                for j in range(padded.shape[2])
                if i % n1 == r % n1 and j % n2 == c % n2
            ]
            if block.mask_padding:
                keys = [(i, j) for i, j in keys if i < height and j < width]
            for h in range(block.heads):
                own = slice(h * d, (h + 1) * d)
                q = (weight @ padded[:, r, c] + bias)[:channels][own]
                scores = torch.stack([q @ (weight @ padded[:, i, j] + bias)[channels:][own] for i, j in keys])
                a = (scores * d**-0.5).softmax(0)
                y[own, r, c] = sum(w * padded[own, i, j] for w, (i, j) in zip(a, keys, strict=True))
    return block.v(y[None])


def test_every_output_depends_on_its_whole_window_and_on_nothing_else() -> None:
    u = torch.randn(1, 40, 14, 14, requires_grad=True)
    iRMB(40, 40, dim_head=20).attend(u)[0, :, 5, 8].sum().backward()
    assert u.grad is not None
    rows, columns = torch.meshgrid(torch.arange(14), torch.arange(14), indexing="ij")
    assert torch.equal(u.grad[0].abs().sum(0) > 0, (rows % 2 == 1) & (columns % 2 == 0))


def test_attention_can_be_looked_at() -> None:
    block = iRMB(40, 40, dim_head=20, mask_padding=True).eval()
    weights, places = block.attention(torch.randn(2, 40, 10, 13))
    assert weights.shape == (2 * 4, 2, 49, 49)
    assert places.shape == (4, 49, 2)
    torch.testing.assert_close(weights.sum(-1), torch.ones(8, 2, 49))
    padding = ((places[..., 0] >= 10) | (places[..., 1] >= 13)).repeat(2, 1)
    assert weights.transpose(1, 2).transpose(1, 3)[padding].abs().max() == 0


# -- the block ----------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(14, 14), (10, 13)])
def test_attention_first_or_last_is_the_same_under_a_grouped_linear_expansion(size: tuple[int, int]) -> None:
    x = torch.randn(2, 80, *size)
    options: dict[str, Any] = {"exp_ratio": 3.0, "dim_head": 20, "norm_layer": "ln_2d", "v_group": True}
    for act, same in (("identity", True), ("gelu", False)):
        first, last = (fill_(iRMB(80, 80, **options, act_layer=act, attn_pre=pre)).eval() for pre in (True, False))
        difference = (first(x) - last(x)).abs().max()
        assert (difference < 1e-5) == same
    product = 14 * 14 * 49 * 80
    assert count_macs(last, torch.zeros(1, 80, 14, 14)) - count_macs(first, torch.zeros(1, 80, 14, 14)) == 2 * product


@pytest.mark.parametrize(
    "options",
    [
        {"exp_ratio": 2.0},
        {"exp_ratio": 2.0, "mask_padding": True, "window_mode": "contiguous"},
        {"exp_ratio": 2.0, "attn_pre": False, "v_group": True},
        {"exp_ratio": 2.0, "attn_s": False, "se_ratio": 0.25, "norm_layer": "ln_2d", "act_layer": "relu"},
        {"exp_ratio": 2.0, "dw_ks": 0},
        {"exp_ratio": 2.0, "dw_ks": 5, "dilation": 2},
        {"attn_s": False, "v_proj": False, "norm_in": False},
        {"drop": 0.1, "drop_path": 0.1, "attn_drop": 0.1},
        {"stride": 2, "dw_ks": 5},
    ],
    ids=str,
)
def test_gradients_reach_every_parameter(options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    block = iRMB(16, 16, dim_head=8, window_size=4, **options)
    x = torch.randn(4, 16, 9, 10, requires_grad=True)
    out = block(x)
    assert out.shape == ((4, 16, 5, 5) if "stride" in options else (4, 16, 9, 10))
    out.square().sum().backward()
    assert x.grad is not None
    without = [name for name, p in block.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert without == []


def test_many_images_at_once_give_what_one_by_one_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU, blocks split a batch to stay in the cache."""
    model, x = mini().eval(), torch.randn(5, 3, 64, 64)
    whole = model(x)
    monkeypatch.setattr("repertory.papers.emo.model.CACHE_BYTES", 1)
    torch.testing.assert_close(model(x), whole)
    torch.testing.assert_close(torch.cat([model(one) for one in x.split(1)]), whole)
    assert model(x[:0]).shape == (0, 10)


@pytest.mark.parametrize("fold", [1, 1 << 40], ids=["folded", "not folded"])
@pytest.mark.parametrize("fused", [False, True], ids=["plain", "fused"])
def test_the_fast_path_is_the_equations(monkeypatch: pytest.MonkeyPatch, fold: int, fused: bool) -> None:
    """In inference: to 1e-5 in single and 3e-2 in mixed precision, for maps with one and with several windows."""
    monkeypatch.setattr(inference, "FOLDED_FROM", fold)
    model: Any = mini(window_size=2)
    fill_(model).eval()
    model = model.fuse() if fused else model
    x = torch.randn(3, 3, 64, 96)
    taken: list[bool] = []
    applies = inference.applies
    for tolerance, autocast in ((1e-5, False), (3e-2, True)):
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            monkeypatch.setattr(inference, "applies", lambda *given: taken.append(applies(*given)) or taken[-1])
            maps = model.forward_intermediates(x, intermediates_only=True)
            monkeypatch.setattr(inference, "applies", lambda *_: False)
            expected = model.forward_intermediates(x, intermediates_only=True)
        for one, other in zip(maps, expected, strict=True):
            assert one.dtype == other.dtype
            assert one.is_contiguous(memory_format=torch.channels_last)
            assert (one - other).abs().max() <= tolerance * other.abs().max()
    assert all(taken)
    assert len(taken) == 2 * sum(isinstance(module, iRMB) for module in model.modules())


def test_the_fast_path_leaves_the_unknown_to_the_equations() -> None:
    x = torch.randn(1, 16, 8, 8)
    options: dict[str, Any] = {"exp_ratio": 2.0, "norm_layer": "ln_2d", "dim_head": 8, "window_size": 4}

    class Other(nn.Conv2d):
        def forward(self, input: Tensor) -> Tensor:
            return super().forward(input) + 1

    def hooked(block: Any) -> None:
        block.v[0].register_forward_hook(lambda *_: calls.append("v"))

    def replaced(block: Any) -> None:
        block.local[0] = Other(32, 32, 5, padding=2, groups=32)

    def dropping(block: Any) -> None:
        block.drop.p = 0.5
        block.drop.train()

    def adapting(block: Any) -> None:
        block.local[1].train()

    calls: list[str] = []
    for change in (hooked, replaced, dropping, adapting):
        block = iRMB(16, 16, **options).eval()
        with torch.no_grad():
            assert inference.applies(block, x)
            assert not inference.applies(block, x[:, :, :7]), "windows do not divide it"
            change(block)
            assert not inference.applies(block, x), change.__name__
            block(x)
        assert not inference.applies(block, x), "with gradients"
    assert calls == ["v"]
    with torch.no_grad():
        changes: list[dict[str, Any]] = [{"v_group": True}, {"attn_pre": False}, {"dw_ks": 0}, {"qkv_bias": False}]
        changes += [{"window_mode": "contiguous"}, {"window_size": 0}, {"norm_layer": "bn_2d"}, {"norm_in": False}]
        for unusual in changes:
            assert not inference.applies(iRMB(16, 16, **{**options, **unusual}).eval(), x), unusual


def test_fusing_changes_nothing() -> None:
    x = torch.randn(2, 3, 64, 64)
    for model in (mini(), EMO(**VARIANTS["emo_1m"])):
        expected = fill_(model).eval()(x)
        for fused in (reparameterize_model(model), model.fuse().fuse()):
            torch.testing.assert_close(fused(x), expected, rtol=1e-4, atol=1e-4)
        assert not any(isinstance(m, nn.BatchNorm2d) for m in model.modules())


def test_the_initialisation() -> None:
    model = EMO(**VARIANTS["emo_1m"])
    assert isinstance(model.head, nn.Linear)
    assert model.head.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert not model.head.bias.any()
    rates = [module.drop_prob for module in model.modules() if isinstance(module, DropPath)]
    assert rates[0] == 0  # the stem's
    rates = rates[1:]
    assert rates == pytest.approx(torch.linspace(0, 0.04036, 15).tolist())


# -- timm ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("indices", [(0, 1, 2, 3), (2, 3), (1,)])
def test_feature_pyramids(indices: tuple[int, ...]) -> None:
    model: Any = timm.create_model("emo_5m", features_only=True, out_indices=indices)
    dims = [VARIANTS["emo_5m"]["dims"][i] for i in indices]
    assert model.feature_info.channels() == dims
    assert model.feature_info.reduction() == [4 << i for i in indices]
    maps = model(torch.randn(1, 3, 64, 96))
    assert [tuple(x.shape) for x in maps] == [(1, d, 16 >> i, 24 >> i) for d, i in zip(dims, indices, strict=True)]
    assert all(p.requires_grad for p in model.parameters())
    torch.stack([x.sum() for x in maps]).sum().backward()
    assert all(p.grad is not None for p in model.parameters()), "parameters that no map needs were not removed"


def test_create_model_takes_timms_options() -> None:
    model: Any = timm.create_model("emo_1m", num_classes=7, in_chans=1, drop_path_rate=0.3).eval()
    assert model(torch.zeros(2, 1, 32, 32)).shape == (2, 7)
    assert model.stages[-1][-1].drop_path.drop_prob == pytest.approx(0.3)
    assert timm.create_model("emo_1m", num_classes=0).eval()(torch.zeros(1, 3, 32, 32)).shape == (1, 168)
    model.reset_classifier(4)
    assert model.get_classifier().out_features == 4
    last, maps = model.forward_intermediates(torch.zeros(2, 1, 64, 64), norm=True)
    torch.testing.assert_close(last, maps[-1])
    assert model.forward_head(last, pre_logits=True).shape == (2, 168)


def test_a_model_carries_its_preprocessing() -> None:
    config = resolve_data_config(model=timm.create_model("emo_1m"))
    assert (config["input_size"], config["crop_pct"], config["interpolation"]) == ((3, 224, 224), 0.875, "bicubic")
    transform: Any = create_transform(**config)
    assert transform(Image.new("RGB", (300, 500))).shape == (3, 224, 224)


def test_checkpoint_path_reads_our_names_and_the_authors(tmp_path: Path) -> None:
    model = fill_(timm.create_model("emo_1m")).eval()
    x = probe(1, 3, 64, 64)
    for name, state in (("ours", model.state_dict()), ("authors", in_authors_names(model.state_dict()))):
        torch.save(state, tmp_path / f"{name}.pth")
        loaded = timm.create_model("emo_1m", checkpoint_path=str(tmp_path / f"{name}.pth")).eval()
        assert torch.equal(loaded(x), model(x))


@pytest.mark.slow  # 9 CPU seconds each; `benchmarks/exports.py` has the other networks, and ONNX
@pytest.mark.parametrize("unit", ["multiples of 32", "any"])
def test_batch_height_and_width_export_as_dynamic_from_256_pixels_on(unit: str) -> None:
    torch.manual_seed(0)
    model = EMO(depths=(1, 1, 2, 2), dims=(8,) * 4, exp_ratios=(1.0,) * 4, dim_heads=(8,) * 4, num_classes=3).eval()
    dim = torch.export.Dim
    shapes: Any = {0: dim.AUTO, 2: dim.AUTO, 3: dim.AUTO}
    if unit == "multiples of 32":
        shapes = {0: dim("batch", max=64), 2: 32 * dim("rows", max=32), 3: 32 * dim("columns", max=32)}
    with torch.no_grad():
        program: Any = torch.export.export(model, (torch.randn(2, 3, 288, 288),), dynamic_shapes=(shapes,)).module()
        for size in ((3, 3, 320, 416), (1, 3, 256, 288), (2, 3, 448, 256), (1, 3, 448, 448)):  # 448: no padding
            x = torch.randn(size)
            torch.testing.assert_close(program(x), model(x), rtol=1e-3, atol=1e-4)
        with pytest.raises(AssertionError, match="Guard failed"):
            program(torch.randn(2, 3, 224, 224))


# -- weights ------------------------------------------------------------------------------------


def in_authors_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Back to the names of the authors' files, written down from the description of these, not from our table."""
    renamed = {}
    for key, tensor in state.items():
        parts = key.split(".")
        inner = {"qk": "qk.conv", "v": "v.conv", "proj": "proj.conv"}
        if key.startswith("head.") or key.startswith("norm."):
            new = key.replace("norm.", "norm.norm.")
        elif parts[0] == "stem" and parts[1] in "01":
            new = ".".join(["stage0.0.convs.0", *parts[1:]])
        else:
            place, rest = (
                ("stage0.1", parts[2:]) if parts[0] == "stem" else (f"stage{int(parts[1]) + 1}.{parts[2]}", parts[3:])
            )
            if rest[0] in inner:
                new = f"{place}.{inner[rest[0]]}.{rest[-1]}"
            elif rest[0] == "norm":
                layer_norm = place[5] in "34"
                new = f"{place}.norm.{'norm.' if layer_norm else ''}{rest[-1]}"
            elif rest[1] in "01":
                new = f"{place}.conv_local.{('conv', 'norm')[int(rest[1])]}.{rest[-1]}"
            else:
                new = f"{place}.se.{ {'fc1': 'conv_reduce', 'fc2': 'conv_expand'}[rest[2]] }.{rest[-1]}"
        renamed[new] = tensor
    return renamed


def test_the_authors_names_are_translated() -> None:
    state = EMO(**VARIANTS["emo_1m"]).state_dict()
    theirs = in_authors_names(state)
    for key, shape in {
        "stage0.0.convs.0.0.weight": (24, 3, 3, 3),
        "stage0.0.convs.0.1.running_mean": (24,),
        "stage0.1.conv_local.conv.weight": (24, 1, 3, 3),
        "stage0.1.se.conv_reduce.weight": (24, 24, 1, 1),
        "stage1.0.norm.running_var": (24,),
        "stage3.1.norm.norm.weight": (80,),
        "stage3.1.qk.conv.weight": (160, 80, 1, 1),
        "stage3.1.v.conv.bias": (240,),
        "stage4.2.conv_local.conv.weight": (588, 1, 5, 5),
        "stage4.2.proj.conv.weight": (168, 588, 1, 1),
        "norm.norm.weight": (168,),
        "head.bias": (1000,),
    }.items():
        assert theirs[key].shape == shape, key
    assert list(with_our_names(theirs)) == list(state)
    assert list(with_our_names(state)) == list(state)


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_fitting_variant_is_found(variant: str) -> None:
    with torch.device("meta"):
        state = EMO(**VARIANTS[variant], num_classes=5).state_dict()
    assert fitting_variant(state) == variant
    assert fitting_variant({**state, "more": torch.zeros(1)}) == ""


def test_convert_reads_the_authors_file(tmp_path: Path) -> None:
    net, ema = (EMO(**VARIANTS["emo_1m"]).eval() for _ in range(2))
    theirs = {"net": in_authors_names(net.state_dict()), "net_E": in_authors_names(ema.state_dict())}
    torch.save(theirs, tmp_path / "net.pth")
    x = probe(1, 3, 64, 64)
    this = study(tmp_path)
    for variant, expected in (("", net), ("emo_1m", net), ("emo_1m-ema", ema), ("ema", ema)):
        assert torch.equal(this.convert(tmp_path / "net.pth", variant)(x), expected(x))
    model = this.convert(tmp_path / "net.pth")
    checkpoint.save(model, tmp_path / "model")
    loaded = checkpoint.load(tmp_path / "model")
    assert torch.equal(loaded(x), net(x))
    image = tmp_path / "photo.png"
    Image.new("RGB", (80, 60), "red").save(image)
    (row,) = this.predict(loaded, image).table
    assert not row["class"].startswith("n0"), "classes of ImageNet are called by their names"

    with pytest.raises(Problem, match="not the weights of emo_5m") as caught:
        this.convert(tmp_path / "net.pth", "emo_5m")
    assert "emo_1m" in caught.value.remedy
    with pytest.raises(Problem, match="no variant 'emo_3m'"):
        this.convert(tmp_path / "net.pth", "emo_3m")
    torch.save({"weight": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(Problem, match="not weights of EMO"):
        this.convert(tmp_path / "other.pth")


def test_convert_keeps_another_number_of_classes_and_says_when_there_is_no_head(tmp_path: Path) -> None:
    state = in_authors_names(EMO(**VARIANTS["emo_1m"], num_classes=12).state_dict())
    torch.save(state, tmp_path / "twelve.pth")
    assert study(tmp_path).convert(tmp_path / "twelve.pth").num_classes == 12
    torch.save({k: v for k, v in state.items() if not k.startswith("head.")}, tmp_path / "none.pth")
    with pytest.warns(UserWarning, match="no head"):
        study(tmp_path).convert(tmp_path / "none.pth")


def test_pretrained_weights_are_taken_up_all_but_the_head(tmp_path: Path, digits: Path) -> None:
    source = mini(num_classes=3)
    checkpoint.save(source, tmp_path / "source")
    this = study(tmp_path, digits, pretrained=str(tmp_path / "source"), lr=1e-12)
    with pytest.warns(UserWarning, match="other classes and is newly initialised"):
        model = this.train("both", this.data())
    name = "stages.3.0.proj.weight"
    torch.testing.assert_close(model.state_dict()[name], source.state_dict()[name])
    assert model.num_classes == 10

    torch.save(EMO(**VARIANTS["emo_2m"]).state_dict(), tmp_path / "two.pth")
    with pytest.raises(Problem, match="not the weights of mini") as caught:
        study(tmp_path, digits, pretrained=str(tmp_path / "two.pth")).train("both", this.data())
    assert "arch=emo_2m" in caught.value.remedy


# -- the study ----------------------------------------------------------------------------------


def test_own_data_train_save_load_predict(tmp_path: Path, digits: Path) -> None:
    this = study(tmp_path, digits, epochs=2)
    model = this.train("both", this.data())
    metrics = this.evaluate(model, this.data())
    assert metrics["parameters"] == 54_406
    checkpoint.save(model, tmp_path / "model")
    loaded = checkpoint.load(tmp_path / "model")
    assert this.evaluate(loaded, this.data()) == metrics
    prediction = this.predict(loaded, digits / "val")
    assert len(prediction.table) == 20
    assert set(prediction.table[0]) == {"file", "class", "probability", "top5"}
    assert prediction.table[0]["file"] == str(Path("0") / "0000.png")
    assert set(prediction.figures) == {"predictions", "attention"}
    right = [row["class"] == Path(row["file"]).parts[0] for row in prediction.table]
    assert 100 * sum(right) / 20 == pytest.approx(metrics["top1"])
    one = this.predict(loaded, digits / "val" / "0" / "0001.png")
    assert one.table[0]["probability"] == pytest.approx(prediction.table[1]["probability"], rel=1e-4)


def test_arms_differ_as_they_should() -> None:
    sizes = {arm: sum(p.numel() for p in mini(**changes).parameters()) for arm, changes in ARMS.items()}
    assert sizes["neither"] < min(sizes["attn_only"], sizes["dw_only"])
    assert max(sizes["attn_only"], sizes["dw_only"]) < sizes["both"] == sizes["contiguous"]
    x = torch.randn(1, 3, 64, 64)
    outputs = []
    for changes in ARMS.values():
        torch.manual_seed(0)
        outputs.append(mini(window_size=4, **changes).eval()(x))
    for i, a in enumerate(outputs):
        assert not any(torch.allclose(a, b, atol=1e-3) for b in outputs[:i])
    for changes in ARMS.values():
        blocks = [module for module in mini(**changes).modules() if isinstance(module, iRMB)]
        assert all(block.local is not None and not block.attn_s for block in blocks if not block.skip)


def test_the_paper_recipe_is_the_published_one() -> None:
    config = EMOStudy.scales["paper"]
    assert isinstance(config, EMOConfig)
    assert config.lr == pytest.approx(1.5e-3 * 8 * config.batch_size / 512)
    assert (config.epochs, config.warmup_epochs, config.ema_decay, config.clip_norm) == (300, 20, 0.9998, 5.0)


def test_measured_figures(tmp_path: Path) -> None:
    figures = study(tmp_path).measure()
    for variant, (parameters, macs) in COUNTS.items():
        assert (figures[f"{variant}_parameters"], figures[f"{variant}_macs"]) == (parameters, macs)
    assert cast(float, figures["attn_order_difference"]) < 1e-5
    assert figures["attn_product_factor"] == 3.0
    assert (figures["reach_of_window"], figures["reach_outside_window"], figures["reach_rows"]) == (1, 0, 13)
    assert (tmp_path / "session" / "figures" / "accuracy-vs-macs.png").stat().st_size > 5000


def test_the_race_runs_in_a_process_of_its_own(tmp_path: Path) -> None:
    figures = study(tmp_path, speed_rounds=1)._speed()
    assert set(figures) <= set(EMOStudy.metrics)
    times = json.loads((tmp_path / "session" / "race.json").read_text())
    assert {len(seconds) for seconds in times.values()} == {1}
    ours, theirs = times["emo_1m_batch_8"], times["edgenext_xx_small_256_batch_8"]
    assert figures["emo_1m_speed_over_edgenext_xx_small_256_batch_8"] == [
        b / a for a, b in zip(ours, theirs, strict=True)
    ]
    assert sum(isinstance(value, list) for value in figures.values()) == 8


def test_the_contestants_see_the_same_number_of_images() -> None:
    runs = race.contestants()
    assert set(runs) == {f"{name}_batch_{n}" for name in race.SIZES for n in (1, 8)}
    for name, run in runs.items():
        batches = cast(Any, run).args[1]
        assert sum(len(x) for x in batches) == 8
        assert {x.shape[-1] for x in batches} == {256 if "_256_" in name else 224}
        assert {len(x) for x in batches} == {int(name.rpartition("_")[2])}
        assert not cast(Any, run).args[0].training


def test_a_race_that_fails_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    with pytest.raises(subprocess.CalledProcessError):
        study(tmp_path, speed_rounds=5)._speed()


def test_the_picture_shows_the_strided_group() -> None:
    model, image = mini(window_size=4).eval(), torch.randn(3, 64, 64)
    seen = pixel_attention(model, image, row=0.4, column=1.0)
    assert seen is not None
    assert (seen.pixel, seen.stage, seen.block, seen.windows) == ((3, 7), 2, 3, 4)
    finite = ~torch.tensor(seen.weights).isnan()
    rows, columns = torch.meshgrid(torch.arange(8), torch.arange(8), indexing="ij")
    assert torch.equal(finite, (rows % 2 == 1) & (columns % 2 == 1))
    assert torch.tensor(seen.weights)[finite].sum() == pytest.approx(1, rel=1e-5)
    figure = attention_picture(torch.rand(64, 64, 3).numpy(), seen)
    assert len(figure.axes) == 3
    assert pixel_attention(mini(attn_s=(False,) * 4).eval(), image, 0, 0) is None


@pytest.mark.realdata
def test_mnist_as_class_folders(tmp_path: Path, real_data: Callable[[str], Path]) -> None:
    root = real_data("mnist-png")
    this = study(tmp_path, root, image_size=32)
    data = this.data()
    assert (len(data.train), len(data.test)) == (1500, 600)
    assert this.evaluate(this.train("both", data), data)["top1"] > 20


# -- bad input ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dim_head": 12}, "dim_in 40 is not divisible by dim_head 12"),
        ({"dim_head": 20, "window_size": 7.0}, "window_size is not an int: 7.0"),
        ({"dim_head": 20, "norm_layer": "batch"}, "unknown norm_layer 'batch'"),
        ({"dim_head": 20, "window_mode": "shifted"}, "unknown window_mode 'shifted'"),
        ({"dim_head": 8, "exp_ratio": 1.05, "attn_pre": False}, "42 channels do not divide into 5 heads"),
    ],
)
def test_bad_arguments_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(Problem, match=message):
        iRMB(40, 40, **options)


def test_images_that_are_too_small() -> None:
    with pytest.raises(Problem, match="31 x 64 pixels is too small") as caught:
        mini()(torch.zeros(1, 3, 31, 64))
    assert "32 x 32" in caught.value.remedy


def test_bad_settings() -> None:
    for setting in ({"window": 2.5}, {"image_size": 16}, {"arch": "emo_9m"}, {"lr": -1}):
        with pytest.raises(ValidationError):
            EMOConfig.model_validate(setting)


def test_a_folder_without_images_and_other_classes(tmp_path: Path, digits: Path) -> None:
    (tmp_path / "empty").mkdir()
    this = study(tmp_path)
    with pytest.raises(Problem, match="no data for emo"):
        this.read(tmp_path / "empty")
    with pytest.raises(Problem, match="no images here"):
        this.predict(mini(), tmp_path / "empty")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = mini(num_classes=2, pretrained_cfg={"label_names": ["cat", "dog"], "input_size": [3, 32, 32]})
    with pytest.raises(Problem, match=r"class '0', which is none of the 2 known \('cat'"):
        this.evaluate(model, this.read(digits))
    shutil.copytree(digits / "train" / "5", tmp_path / "one" / "train" / "5")
    shutil.copytree(digits / "val" / "5", tmp_path / "one" / "val" / "5")
    with pytest.raises(Problem, match="one class only: 5"):
        this.train("both", this.read(tmp_path / "one"))


def test_a_model_of_many_classes_is_evaluated_on_some(tmp_path: Path, digits: Path) -> None:
    """As one has it with a part of ImageNet's validation set: the numbers are those of the model."""
    shutil.copytree(digits / "val" / "7", tmp_path / "val" / "7")
    this = study(tmp_path)
    model = mini(pretrained_cfg={"label_names": list("0123456789"), "input_size": [3, 32, 32]}).eval()
    with torch.no_grad():
        model.state_dict()["head.bias"][7] = 100
    assert this.evaluate(model, this.read(tmp_path))["top1"] == 100
