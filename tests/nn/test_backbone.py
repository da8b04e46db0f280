"""timm's conventions, the same for every registered family, at small sizes."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from timm.models._manipulate import group_parameters
from timm.optim import create_optimizer_v2
from torch import Tensor, nn

from repertory import papers
from repertory.core.problem import Problem
from repertory.papers.emo import EMO
from repertory.papers.revcol import RevCol
from repertory.papers.vgnet import VGNet

EMO_SMALL: dict[str, Any] = {
    "depths": (1, 1, 2, 1), "dims": (8, 8, 16, 16), "dim_heads": (8, 8, 8, 8), "stem_dim": 8, "window_size": 2,
}  # fmt: skip
VIT: dict[str, Any] = {"embed_dim": 16, "depth": 2, "num_heads": 2}
FAMILIES: dict[str, dict[str, Any]] = {
    "emo_1m": EMO_SMALL,
    "eca_resnet18": {"block": "basic", "depths": (1, 1, 1, 1), "widths": (8, 8, 16, 16), "kernel_sizes": 3},
    "eca_mobilenet_v2": {},
    "vgnetg_1_0mp": {"channels": (8, 8, 16, 16, 24), "layers": (2, 2, 2, 2)},
    "revcol_tiny": {"channels": (4, 8, 8, 16), "layers": (1, 1, 1, 1), "columns": 2, "layer_scale": 0.5},
    "tinymim_vit_tiny_patch16": {**VIT, "img_size": 64, "last_heads": 2, "num_classes": 5},
    "sot_tiny": {**VIT, "img_size": 64, "embedding": "patch", "head": {"heads": 2, "w_dim": 4}},
}
"""Name in timm's registry -> arguments that make it small."""
ELSEWHERE = {"pmt_iqa"}
"""Its networks give a score and quality levels in place of logits: the conventions are held in its own tests."""
REGISTERING = [
    path.parent.name
    for path in Path(papers.__file__).parent.glob("*/model.py")
    if "@register_model" in path.read_text()
]
MODULES = {paper: import_module(f"repertory.papers.{paper}.model") for paper in REGISTERING}
CONVOLUTIONAL = [name for name in FAMILIES if name not in ("tinymim_vit_tiny_patch16", "sot_tiny")]
STRIDED = ["emo_1m", "eca_resnet18", "eca_mobilenet_v2"]
families = pytest.mark.parametrize("name", FAMILIES)
convolutional = pytest.mark.parametrize("name", CONVOLUTIONAL)


def build(name: str, **options: Any) -> Any:
    torch.manual_seed(0)
    return timm.create_model(name, **{"num_classes": 5, **FAMILIES[name], **options}).eval()


def images(channels: int = 3) -> Tensor:
    return torch.randn(2, channels, 64, 64, generator=torch.Generator().manual_seed(1))


def gradients(model: nn.Module, seed: int = 3) -> dict[str, Tensor]:
    model.zero_grad()
    torch.manual_seed(seed)
    model(images()).square().sum().backward()
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def test_every_registering_room_is_here() -> None:
    builders = {type(build(name)).__module__.split(".")[2] for name in FAMILIES}
    assert builders == set(REGISTERING) - ELSEWHERE


@families
@torch.no_grad()
def test_heads_are_replaced_and_removed(name: str) -> None:
    model, x = build(name), images()
    assert model(x).shape == (2, 5)
    features = model.forward_features(x)
    pooled = model.forward_head(features, pre_logits=True)
    model.reset_classifier(7)
    assert model(x).shape == (2, 7)
    assert model.num_classes == 7
    model.reset_classifier(0)
    torch.testing.assert_close(model(x), pooled)
    assert build(name, num_classes=0)(x).shape == pooled.shape
    assert build(name, in_chans=1)(images(1)).shape == (2, 5)


@families
@torch.no_grad()
def test_pooling_acts(name: str) -> None:
    model, x = build(name), images()
    model.reset_classifier(0, "")
    features = model(x)
    assert features.shape == model.forward_features(x).shape
    assert features.shape == build(name, num_classes=0, global_pool="")(x).shape
    assert features.ndim == (4 if name in CONVOLUTIONAL else 3)
    if name in CONVOLUTIONAL:
        with pytest.raises(Problem, match="3 classes without pooling"):
            model.reset_classifier(3)
        with pytest.raises(Problem, match="unknown pooling 'most'"):
            model.reset_classifier(0, "most")
        for pool, factor in (("max", 1), ("avgmax", 1), ("catavgmax", 2)):
            model.reset_classifier(3, pool)
            last = model.forward_features(x)
            width = model.num_features * factor
            assert model(x).shape == (2, 3)
            assert model.forward_head(last, pre_logits=True).shape == (2, width)
        if name != "revcol_tiny":  # which normalises the pooled features
            model.reset_classifier(0, "max")
            torch.testing.assert_close(model(x), last.amax((2, 3)))


@pytest.mark.parametrize("network", [EMO, VGNet, RevCol])
def test_a_changed_head_is_saved(network: type[Any], tmp_path: Any) -> None:
    name = {EMO: "emo_1m", VGNet: "vgnetg_1_0mp", RevCol: "revcol_tiny"}[network]
    arguments = {"exp_ratios": (2.0, 2.0, 2.0, 2.0)} if network is EMO else {}
    model: Any = network(**{**FAMILIES[name], **arguments}, num_classes=5).eval()
    model.reset_classifier(3, "max")
    model.save_pretrained(tmp_path)
    torch.testing.assert_close(network.from_pretrained(tmp_path).eval()(images()), model(images()))


@families
def test_gradient_checkpointing_changes_no_gradient(name: str) -> None:
    plain, checkpointed = build(name).train(), build(name).train()
    checkpointed.set_grad_checkpointing()
    if name == "revcol_tiny":
        checkpointed.reversible = False
    expected, found = gradients(plain), gradients(checkpointed)
    assert found.keys() == expected.keys()
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
    for key, value in plain.state_dict().items():  # running statistics are updated once
        torch.testing.assert_close(checkpointed.state_dict()[key], value)
    checkpointed.set_grad_checkpointing(False)


@pytest.mark.parametrize("name", [name for name in CONVOLUTIONAL if name != "revcol_tiny"])
def test_gradient_checkpointing_stores_less(name: str) -> None:
    def stored(checkpointing: bool) -> int:
        model = build(name).train()
        model.set_grad_checkpointing(checkpointing)
        kept: dict[int, int] = {}

        def pack(x: Tensor) -> Tensor:
            kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
            return x

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            held = model(images())  # noqa: F841
        return sum(kept.values())

    assert stored(True) < stored(False)


@families
def test_parameters_are_grouped_by_depth_and_decay(name: str) -> None:
    model = build(name)
    own = {n for n, _ in model.named_parameters()}
    if name in CONVOLUTIONAL:
        assert model.no_weight_decay() <= own  # timm's ViTs also name tokens that they may not have
    for coarse in (False, True):
        groups = group_parameters(model, model.group_matcher(coarse=coarse))
        assert sorted(n for names in groups.values() for n in names) == sorted(own)
        assert len(groups) >= 3
        classifier = [n for n in own if n.startswith(("head", "fc.", "classifier", "cls."))]
        assert classifier
        assert set(classifier) <= set(groups[max(groups)])
    optimizer = create_optimizer_v2(model, "adamw", lr=1e-3, weight_decay=0.05, layer_decay=0.5)
    assert len({group["lr_scale"] for group in optimizer.param_groups}) >= 3


@families
@torch.no_grad()
def test_intermediate_maps(name: str) -> None:
    model, x = build(name), images()
    last, maps = model.forward_intermediates(x)
    torch.testing.assert_close(last, model.forward_features(x))
    assert [m.shape[1] for m in maps] == [info["num_chs"] for info in model.feature_info]
    assert [64 // m.shape[2] for m in maps] == [info["reduction"] for info in model.feature_info]
    (only,) = model.forward_intermediates(x, indices=[1], intermediates_only=True)
    torch.testing.assert_close(only, maps[1])
    model.prune_intermediate_layers([1])
    (pruned,) = model.forward_intermediates(x, indices=[1], intermediates_only=True)
    torch.testing.assert_close(pruned, only)


@families
def test_pyramids_and_what_they_do_not_have(name: str) -> None:
    model, indices = build(name), (0, 1)
    maps = model.forward_intermediates(images(), indices=list(indices), intermediates_only=True)
    pyramid = build(name, features_only=True, out_indices=indices)
    torch.testing.assert_close(pyramid(images()), maps)
    for wrong in ((9,), (0, 9), 9, 0, ()):
        with pytest.raises(Problem, match=r"(?s)has no maps out_indices=.*choose from 0 to"):
            build(name, features_only=True, out_indices=wrong)


@pytest.mark.parametrize("name", STRIDED)
@torch.no_grad()
def test_output_stride_dilates(name: str) -> None:
    """At every pixel that both keep, a dilated network computes the strided one's values, away from the border."""
    x = torch.randn(1, 3, 256, 256, generator=torch.Generator().manual_seed(1))
    options = {"attn_s": (False,) * 4} if name == "emo_1m" else {"attention": "none"}  # global parts differ
    coarse, fine = build(name, **options), build(name, output_stride=8, **options)
    fine.load_state_dict(coarse.state_dict())
    a, b = coarse.forward_features(x), fine.forward_features(x)
    assert (a.shape[-1], b.shape[-1]) == (8, 32)
    torch.testing.assert_close(b[..., ::4, ::4][..., 3:5, 3:5], a[..., 3:5, 3:5], rtol=1e-3, atol=1e-4)
    assert max(info["reduction"] for info in fine.feature_info) == 8
    pyramid = build(name, features_only=True, output_stride=16)
    sizes = [m.shape[-1] for m in pyramid(images())]
    assert min(sizes) == 4
    assert [64 // size for size in sizes] == pyramid.feature_info.reduction()
    with pytest.raises(Problem, match=r"(?s)output_stride is 4.*choose from 8, 16, 32"):
        build(name, output_stride=4)


@pytest.mark.parametrize("name", [name for name in FAMILIES if name not in STRIDED])
def test_fixed_strides_are_said(name: str) -> None:
    with pytest.raises(Problem, match=r"(?s)strides of .* are fixed"):
        build(name, output_stride=16)


@families
def test_pretrained_says_where_weights_come_from(name: str) -> None:
    with pytest.raises(Problem, match=rf"(?s)no weights of {name} can be downloaded.*checkpoint_path=FILE"):
        build(name, pretrained=True)


@families
def test_pretrained_takes_a_file_of_ones_own(name: str, tmp_path: Any) -> None:
    state = {k: v + 1 if v.is_floating_point() else v for k, v in build(name).state_dict().items()}
    torch.save(state, tmp_path / "weights.pth")
    overlay = {"file": str(tmp_path / "weights.pth"), "num_classes": 5}
    loaded = build(name, pretrained=True, pretrained_cfg_overlay=overlay).state_dict()
    torch.testing.assert_close(loaded, state)


@families
def test_dropout_acts_in_training(name: str) -> None:
    model = build(name, drop_rate=0.9)
    x = images()
    torch.testing.assert_close(model(x), build(name)(x))
    model.train()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()
    torch.manual_seed(0)
    first = model(x)
    assert not torch.equal(model(x), first)


@families
def test_an_empty_batch(name: str) -> None:
    assert build(name)(images()[:0]).shape == (0, 5)


@families
def test_images_of_another_shape(name: str) -> None:
    model = build(name)
    for wrong, remedy in (((2, 1, 64, 64), "grey images"), ((3, 64, 64), r"x\[None\]"), ((2, 4, 64, 64), "this shape")):
        with pytest.raises(Problem, match=rf"(?s)takes \(N, 3, H, W\).*{remedy}"):
            model(torch.zeros(wrong))
    with pytest.raises(Problem, match="takes"):
        model(torch.zeros(2, 3, 0, 64))
    if name not in CONVOLUTIONAL:
        with pytest.raises(Problem, match=r"(?s)32 x 64 pixels.*img_size"):
            model(torch.zeros(1, 3, 32, 64))


@pytest.mark.filterwarnings("ignore")
def test_onnx_takes_other_batches() -> None:
    pytest.importorskip("onnxscript", reason="onnxscript is not installed")
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    model, x = build("eca_resnet18"), images()
    shapes = ({0: torch.export.Dim("batch")},)
    program: Any = torch.onnx.export(model, (x,), dynamo=True, dynamic_shapes=shapes, verbose=False)
    more = torch.cat([x, x.flip(0), x])
    torch.testing.assert_close(program(more)[0], model(more).detach(), rtol=1e-4, atol=1e-4)


@pytest.mark.filterwarnings("ignore")
@convolutional
def test_exports_and_traces_take_other_batches(name: str) -> None:
    """`benchmarks/exports.py` prints the whole matrix."""
    model, x = build(name), images()
    more = torch.cat([x, x.flip(0), x])
    program = torch.export.export(model, (x,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    run: Any = program.module()
    traced: Any = torch.jit.trace(model, x, check_trace=False)
    with torch.no_grad():
        torch.testing.assert_close(run(more), model(more), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(traced(more), model(more), rtol=1e-4, atol=1e-4)
