"""TinyMIM: fidelity to the authors' code, targets and losses, MAE, timm's interface, weights, use, and bad input."""

from __future__ import annotations

import argparse
import functools
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from pydantic import ValidationError
from timm.layers import DropPath
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from repertory.core import checkpoint
from repertory.core.problem import Problem
from repertory.core.study import Session
from repertory.data.images import ImageSet, read_class_folders
from repertory.papers.tinymim import TARGETS, VARIANTS, Distillation, MaskedAutoencoder, Teacher, TinyMIM, relations
from repertory.papers.tinymim.model import (
    TEACHERS,
    Decoder,
    check_tokens,
    default_block,
    embed,
    last_block,
    patchify,
    random_patches,
    relation_kl,
    set_heads,
    sincos_position,
)
from repertory.papers.tinymim.pictures import patch_relations
from repertory.papers.tinymim.pretraining import TwoViews
from repertory.papers.tinymim.settings import TinyMIMConfig
from repertory.papers.tinymim.study import TinyMIMStudy
from repertory.papers.tinymim.weights import load_encoder, read_state
from tests.fidelity.cases import assert_agrees, cases
from tests.fidelity.fill import fill_, probe

V = TypeVar("V", bound=nn.Module)

IMAGES = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def filled(model: V) -> V:
    fill_(model)
    return model


def vit(dim: int = 24, depth: int = 3, heads: int = 2, **options: Any) -> TinyMIM:
    """For images of 32 pixels: 16 patches and the class token."""
    return TinyMIM(**{"img_size": 32, "patch_size": 8, "embed_dim": dim, "depth": depth, "num_heads": heads, **options})


def heads_of(model: Any) -> list[int]:
    """Of each block."""
    return [block.attn.num_heads for block in model.blocks]


def teacher_for(target: Any = "qk_vv", block: int = 3, **options: Any) -> Teacher:
    return Teacher(filled(vit(32, 4, 4)), block, target, **options)


def study(tmp_path: Path, data: Path | None = None, scale: str = "smoke", **settings: Any) -> TinyMIMStudy:
    config = TinyMIMConfig.model_validate({**TinyMIMStudy.scales[scale].model_dump(), **settings})
    return TinyMIMStudy(config, Session(0, tmp_path / "session", data))


def small(tmp_path: Path, data: Path, name: str = "a", **settings: Any) -> TinyMIMStudy:
    """On the fixture's few images."""
    return study(tmp_path / name, data, **{"pretrain_batch_size": 15, "batch_size": 10, **settings})


# -- fidelity -----------------------------------------------------------------------------------


@functools.cache
def reference(name: str) -> TinyMIM:
    """The student or the teacher of the reference cases, filled; do not change it."""
    config = next(case.values[0]["config"] for case in cases("tinymim") if case.values[0]["name"].startswith(name))
    known = ("img_size", "patch_size", "embed_dim", "depth", "num_heads", "last_heads")
    return filled(TinyMIM(**{key: config[key] for key in known if key in config}))


@pytest.mark.parametrize("case", cases("tinymim"))
def test_agrees_with_the_authors_code(case: dict[str, Any]) -> None:
    name, _, pair = case["name"].partition(":")
    if pair:
        model = reference(name)
        assert model.pos_embed is not None
        assert sum(p.numel() for p in model.parameters()) - model.pos_embed.numel() == case["params"]
        with torch.no_grad():
            (found,) = relations(model, probe(*case["input"][0]), 12, [pair.removesuffix("_relation")])
        assert_agrees(found, case)
    elif name == "relation_kl_loss_on_probe":
        student, teacher = 3 * probe(2, 4, 9, 9), 5 * probe(2, 4, 9, 9).roll(1, dims=-1)
        assert_agrees(relation_kl(student, teacher.log_softmax(-1))[None], case)
    elif name.startswith("relation_kl_loss"):
        x, teacher = probe(*case["input"][0]), Teacher(reference("teacher_base_64px_block12"), 12)
        losses = Distillation(reference("student_tiny_64px"), teacher, drop_path=0)(x, teacher(x))
        assert_agrees(torch.stack([losses["qk"], losses["vv"]]), case)
        torch.testing.assert_close(losses["loss"], losses["qk"] + losses["vv"])
    else:
        assert_agrees(sincos_position(192, (14, 14))[0], case)


def test_sizes_of_the_published_networks(tmp_path: Path) -> None:
    figures = study(tmp_path).measure()
    assert {name: int(figures[f"{name}_trained_parameters"]) for name in VARIANTS} == {
        "tiny": 5_486_592,
        "small": 21_590_016,
        "base": 85_647_360,
    }
    assert figures["teacher_large_trained_parameters"] == 303_099_904
    assert figures["teacher_base_trained_parameters"] == 85_647_360
    assert figures["tiny_macs"] / 1e9 == pytest.approx(1.26, abs=0.05)  # published: 1.3 GFLOPs
    assert sum(p.numel() for p in TinyMIM(**VARIANTS["tiny"]).parameters()) == 5_524_416


# -- the backbone -------------------------------------------------------------------------------


def test_positions_encode_columns_first_and_leave_the_class_token_alone() -> None:
    position = sincos_position(16, (3, 5))[0]
    assert position.shape == (16, 16)
    assert not position[0].any()
    grid = position[1:].view(3, 5, 16)
    assert torch.equal(grid[0, :, :8], grid[2, :, :8]), "the first half depends on the column alone"
    assert torch.equal(grid[:, 1, 8:], grid[:, 4, 8:]), "the second half depends on the row alone"
    assert grid[1, 2, 5].item() == pytest.approx(np.cos(2 * 10_000 ** (-1 / 4)))


def test_the_initialisation() -> None:
    model = TinyMIM(**VARIANTS["tiny"], num_classes=10, global_pool="avg")
    assert model.cls_token is not None
    assert model.cls_token.std().item() == pytest.approx(0.02, rel=0.2)
    weight = last_block(model).attn.qkv.weight
    assert weight.abs().max().item() == pytest.approx((6 / (192 + 3 * 192)) ** 0.5, rel=0.01)
    patches = model.patch_embed.proj.weight
    assert patches.abs().max().item() == pytest.approx((6 / (192 + 768)) ** 0.5, rel=0.01)
    head: Any = model.head
    assert head.weight.std().item() == pytest.approx(2e-5, rel=0.1)
    assert isinstance(model.norm, nn.Identity)
    assert isinstance(model.fc_norm, nn.LayerNorm)


def test_the_adaptive_block_needs_no_parameters() -> None:
    plain, adaptive = vit(24, 2, 2), vit(24, 2, 2, last_heads=6)
    adaptive.load_state_dict(plain.state_dict())
    assert [r.shape[1] for r in relations(adaptive, IMAGES, 2)] == [6, 6]
    assert [r.shape[1] for r in relations(adaptive, IMAGES, 1)] == [2, 2]
    assert not torch.allclose(plain(IMAGES), adaptive(IMAGES))
    set_heads(adaptive.blocks[-1], 2)
    torch.testing.assert_close(plain(IMAGES), adaptive(IMAGES))


def test_relations_are_those_of_the_equation() -> None:
    model = filled(vit(24, 2, 3))
    x = embed(model, IMAGES)
    block: Any = model.blocks[0]
    q, k, v = block.attn.qkv(block.norm1(x)).view(3, 17, 3, 3, 8).permute(2, 0, 3, 1, 4)  # (3, B, M, T, D / M)
    for pair, found in zip(("qk", "kk", "vv"), relations(model, IMAGES, 1, ("qk", "kk", "vv")), strict=True):
        one, other = ({"q": q, "k": k, "v": v}[letter] for letter in pair)
        expected = torch.einsum("bmid,bmjd->bmij", one, other) / 8**0.5
        torch.testing.assert_close(found, expected.softmax(-1), rtol=1e-4, atol=1e-6)


def test_timms_interface() -> None:
    model: Any = timm.create_model("tinymim_vit_tiny_patch16", num_classes=7, global_pool="avg", img_size=64).eval()
    assert last_block(model).attn.num_heads == 12
    x = torch.zeros(2, 3, 64, 64)
    assert model(x).shape == (2, 7)
    assert model(x[:0]).shape == (0, 7)
    unpooled: Any = timm.create_model("tinymim_vit_tiny_patch16", num_classes=0, global_pool="").eval()
    assert unpooled(torch.zeros(1, 3, 224, 224)).shape == (1, 197, 192)
    model.reset_classifier(3)
    assert model(x).shape == (2, 3)
    assert model.head.weight.std() < 1e-4
    maps: Any = timm.create_model("tinymim_vit_tiny_patch16", features_only=True, out_indices=(3, 11), img_size=64)
    assert [tuple(m.shape) for m in maps.eval()(x)] == [(2, 192, 4, 4)] * 2
    assert "pos_embed" in model.no_weight_decay()
    model.set_grad_checkpointing()
    model.train()(x).sum().backward()


def test_it_compiles_and_exports() -> None:
    student, teacher = vit(), teacher_for()
    distillation = Distillation(student, teacher, drop_path=0)
    expected = distillation(IMAGES, teacher(IMAGES))["loss"]
    compiled = torch.compile(distillation, backend="eager", fullgraph=True)
    signals = torch.compile(teacher, backend="eager", fullgraph=True)(IMAGES)
    torch.testing.assert_close(compiled(IMAGES, signals)["loss"], expected)
    model = vit(num_classes=5, global_pool="avg").eval()
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(model, (IMAGES,), dynamic_shapes=({0: batch},))
    one = torch.randn(7, 3, 32, 32)
    torch.testing.assert_close(program.module()(one), model(one))


def test_the_student_loads_into_timms_vit() -> None:
    student = filled(TinyMIM(**{**VARIANTS["tiny"], "depth": 12}))
    theirs = timm.create_model("vit_tiny_patch16_224", num_classes=0)
    theirs.load_state_dict(student.state_dict())
    x = probe(1, 3, 224, 224)
    for block in student.blocks:
        set_heads(block, 3)  # timm's, and those of fine-tuning
    torch.testing.assert_close(theirs.eval()(x), student.eval()(x))


# -- targets and losses -------------------------------------------------------------------------


@pytest.mark.parametrize("target", TARGETS)
def test_every_target_trains_what_it_reaches_and_nothing_else(target: Any) -> None:
    torch.manual_seed(0)
    student, teacher = vit(), teacher_for(target)
    distillation = Distillation(student, teacher, drop_path=0)
    losses = distillation(IMAGES, teacher(IMAGES))
    parts = [losses[name] for name in TARGETS[target].parts]
    total = torch.stack(parts).sum() if TARGETS[target].kind == "relation" else torch.stack(parts).mean()
    torch.testing.assert_close(losses["loss"], total)
    assert 0 < losses["loss"].item() < 100
    losses["loss"].backward()
    for name, parameter in distillation.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name
    frozen = {name for name, parameter in student.named_parameters() if not parameter.requires_grad}
    assert {"pos_embed", "norm.weight"} <= frozen
    later = {name for name in frozen if name.startswith("blocks.2.")}
    assert bool(later) == bool(TARGETS[target].unused)
    assert not any(p.requires_grad for p in teacher.parameters())
    finished = distillation.finished()
    assert all(parameter.requires_grad for parameter in finished.parameters())
    heads = last_block(finished).attn.num_heads
    assert heads == (4 if TARGETS[target].kind == "relation" else 2)


def features_by_hand(model: VisionTransformer, block: int) -> dict[str, Tensor]:
    """Of a block from 1: input of the residual sums, and the sums."""
    x = embed(model, IMAGES)
    for earlier in model.blocks[: block - 1]:
        x = earlier(x)
    b: Any = model.blocks[block - 1]
    attn = b.attn(b.norm1(x))
    ffn = b.mlp(b.norm2(x + attn))
    return {"attn": attn, "attn_res": x + attn, "ffn": ffn, "ffn_res": x + attn + ffn, "output": b(x)}


@pytest.mark.parametrize("target", ["attn", "attn_res", "ffn", "ffn_res", "output"])
def test_feature_losses_by_hand(target: Any) -> None:
    torch.manual_seed(1)
    student, teacher = vit(), teacher_for(target)
    distillation = Distillation(student, teacher, drop_path=0)
    own = features_by_hand(student, 3)[target]
    theirs = features_by_hand(teacher.network, 3)[target]
    theirs = (theirs - theirs.mean(-1, keepdim=True)) / (theirs.var(-1, correction=0, keepdim=True) + 1e-5).sqrt()
    (name,) = TARGETS[target].parts
    d = (distillation.project[name](own) - theirs).abs()
    expected = torch.where(d <= 2, d.square() / 4, d - 1).mean()
    found = distillation(IMAGES, teacher(IMAGES))["loss"]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_class_and_qkv_losses_by_hand() -> None:
    torch.manual_seed(2)
    student, teacher = vit(), teacher_for("cls")
    distillation = Distillation(student, teacher, drop_path=0)
    p = distillation.project["ffn_res"](features_by_hand(student, 3)["output"][:, 0]).softmax(-1)
    t = features_by_hand(teacher.network, 3)["output"][:, 0].softmax(-1)
    expected = (t * (t / p).log()).sum(-1).mean()
    torch.testing.assert_close(distillation(IMAGES, teacher(IMAGES))["loss"], expected, rtol=1e-4, atol=1e-6)

    teacher = teacher_for("qkv")
    distillation = Distillation(vit(), teacher, drop_path=0)
    x = embed(teacher.network, IMAGES)
    for block in teacher.network.blocks[:-1]:
        x = block(x)
    last = last_block(teacher.network)
    q, _, v = last.attn.qkv(last.norm1(x)).chunk(3, -1)
    signals = teacher(IMAGES)
    torch.testing.assert_close(signals["q"], F.layer_norm(q, q.shape[-1:]))
    torch.testing.assert_close(signals["v"], F.layer_norm(v, v.shape[-1:]))


def test_products_without_softmax_are_compared_as_they_are() -> None:
    student, teacher = vit(), teacher_for("qk_vv_raw")
    distillation = Distillation(student, teacher, drop_path=0)
    signals = teacher(IMAGES)
    for logits, relation in zip(signals.values(), relations(teacher.network, IMAGES, 3), strict=True):
        torch.testing.assert_close(logits.softmax(-1), relation)
    own = {k: v.softmax(-1) for k, v in zip(("qk", "vv"), relations(student, IMAGES, 3), strict=True)}
    assert own["qk"].shape == signals["qk"].shape
    assert distillation(IMAGES, signals)["qk"] > 0


def test_the_divergence_is_finite_where_a_probability_underflows() -> None:
    """The authors take the logarithm of a softmax, which is then minus infinity."""
    student, teacher = torch.tensor([[[[0.0, 400.0]]]]), torch.tensor([[[[0.0, 0.0]]]])
    assert student.softmax(-1).log().isinf().any()
    assert relation_kl(student, teacher.log_softmax(-1)).item() == pytest.approx(200 - np.log(2), rel=1e-5)
    assert relation_kl(teacher, teacher.log_softmax(-1)).item() == 0


def test_the_same_network_has_no_loss() -> None:
    network = filled(vit(24, 3, 2))
    teacher = Teacher(filled(vit(24, 3, 2)))
    for value in Distillation(network, teacher, drop_path=0)(IMAGES, teacher(IMAGES)).values():
        assert value.item() == pytest.approx(0, abs=1e-5)


def test_distillation_learns() -> None:
    torch.manual_seed(0)
    student, teacher = vit(), Teacher(vit(32, 4, 4), 3)
    distillation = Distillation(student, teacher)
    optimizer = torch.optim.AdamW([p for p in distillation.parameters() if p.requires_grad], lr=3e-3)
    signals, losses = teacher(IMAGES), []
    for _ in range(40):
        losses.append(distillation(IMAGES, signals)["loss"])
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < 0.5 * losses[0]


def test_the_teacher_stops_at_its_block_and_stays_as_it_is() -> None:
    whole = filled(vit(32, 4, 4))
    expected = [r.log() for r in relations(whole, IMAGES, 3)]
    teacher = teacher_for()
    before = {k: v.clone() for k, v in teacher.state_dict().items()}
    for found, one in zip(teacher(IMAGES).values(), expected, strict=True):
        torch.testing.assert_close(found, one, rtol=1e-4, atol=1e-5)
        assert not found.requires_grad
    assert len(teacher.network.blocks) == 3
    assert not teacher.network.training
    assert all(torch.equal(v, before[k]) for k, v in teacher.state_dict().items())
    assert teacher_for(heads=8)(IMAGES)["qk"].shape[1] == 8


def test_drop_path_is_constant_and_spares_the_last_block() -> None:
    student, teacher = vit(depth=4), teacher_for(drop_path=0.1)
    Distillation(student, teacher, drop_path=0.3)
    rates = [m.drop_prob for m in student.modules() if isinstance(m, DropPath)]
    assert rates == [0.3] * 6
    assert not any(isinstance(m, DropPath) for m in student.blocks[-1].modules())
    torch.manual_seed(0)
    one, two = teacher(IMAGES)["qk"], teacher(IMAGES)["qk"]
    assert not torch.equal(one, two), "the teacher's blocks are dropped too, if asked"


@pytest.mark.parametrize(
    ("depths", "target", "block"),
    [
        ((24, 12), "qk_vv", 18),
        ((12, 12), "qk_vv", 12),
        ((24, 12), "output", 24),
        ((8, 4), "cls", 6),
        ((1, 2), "qkv", 1),
    ],
)
def test_the_default_target_block(depths: tuple[int, int], target: Any, block: int) -> None:
    assert default_block(*depths, target) == block


# -- masks and MAE ------------------------------------------------------------------------------


def test_masked_input_keeps_the_same_patches_for_both() -> None:
    student, teacher = vit(), teacher_for()
    keep = random_patches(3, 16, 0.75, torch.device("cpu"))
    assert keep.shape == (3, 4)
    signals = teacher(IMAGES, keep)
    assert signals["qk"].shape == (3, 4, 5, 5)
    assert Distillation(student, teacher)(IMAGES, signals, keep)["loss"] > 0
    changed = IMAGES.clone()
    hidden = next(place for place in range(16) if place not in keep[0].tolist())
    row, column = divmod(hidden, 4)
    changed[0, :, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8] += 5
    torch.testing.assert_close(teacher(changed, keep)["qk"], signals["qk"])
    everything = torch.arange(16).expand(3, -1)
    torch.testing.assert_close(teacher(IMAGES, everything)["qk"], teacher(IMAGES)["qk"])


def test_reconstruction_is_added_and_reaches_the_whole_student() -> None:
    student, teacher = vit(), teacher_for()
    decoder = Decoder(student, 16, 1, 2)
    distillation = Distillation(student, teacher, drop_path=0, decoder=decoder)
    keep = random_patches(3, 16, 0.75, torch.device("cpu"))
    losses = distillation(IMAGES, teacher(IMAGES, keep), keep)
    torch.testing.assert_close(losses["loss"], losses["qk"] + losses["vv"] + losses["reconstruction"])
    losses["loss"].backward()
    without = [name for name, p in distillation.named_parameters() if p.requires_grad and p.grad is None]
    assert without == []
    assert last_block(student).mlp.fc1.weight.grad.abs().sum() > 0


def test_patches_are_cut_row_by_row() -> None:
    x = torch.arange(2 * 3 * 4 * 6.0).view(2, 3, 4, 6)
    patches = patchify(x, 2)
    assert patches.shape == (2, 6, 12)
    assert torch.equal(patches[1, 4].view(2, 2, 3), x[1, :, 2:4, 2:4].permute(1, 2, 0))


def test_only_hidden_patches_count_for_mae() -> None:
    torch.manual_seed(0)
    encoder = vit()
    decoder = Decoder(encoder, 16, 1, 2)
    keep = random_patches(3, 16, 0.75, torch.device("cpu"))
    tokens = torch.randn(3, 5, 24)
    loss = decoder(tokens, keep, IMAGES)
    visible, hidden = int(keep[1, 2]), next(p for p in range(16) if p not in keep[1].tolist())
    for place, same in ((visible, True), (hidden, False)):
        row, column = divmod(place, 4)
        changed = IMAGES.clone()
        changed[1, :, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8] = torch.randn(3, 8, 8)
        assert (decoder(tokens, keep, changed) == loss) == same
    brighter = decoder(tokens, keep, 3 * IMAGES + 7)
    torch.testing.assert_close(brighter, loss, rtol=1e-3, atol=1e-4)  # patches are normalised


def test_mae_learns_and_trains_all_but_the_positions() -> None:
    torch.manual_seed(0)
    encoder = vit()
    model = MaskedAutoencoder(encoder, Decoder(encoder, 16, 1, 2), mask_ratio=0.5)
    smooth = torch.linspace(-1, 1, 32).expand(8, 3, 32, 32) * torch.linspace(0.5, 2, 8)[:, None, None, None]
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=3e-3)
    losses = []
    for _ in range(40):
        losses.append(model(smooth)["loss"])
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    without = [name for name, p in model.named_parameters() if p.grad is None]
    assert without == ["encoder.pos_embed", "decoder.position"]
    assert losses[-1] < 0.6 * losses[0]
    assert model.finished() is encoder
    assert encoder.pos_embed is not None
    assert encoder.pos_embed.requires_grad


# -- views --------------------------------------------------------------------------------------


def test_both_views_are_the_same_crop_and_only_the_students_is_jittered(tmp_path: Path) -> None:
    columns = np.tile(np.linspace(60, 200, 64, dtype=np.uint8)[:, None], (1, 64))
    Image.fromarray(np.stack([columns, columns.T, columns], -1)).save(tmp_path / "a.png")
    images, cfg = ImageSet((tmp_path / "a.png",), (0,), ("a",)), {"mean": [0.5] * 3, "std": [0.5] * 3}
    torch.manual_seed(0)
    teacher, student = TwoViews(images, 32, cfg)[0]
    assert teacher.shape == student.shape == (3, 32, 32)
    assert not torch.equal(teacher, student)

    def slopes(view: Tensor) -> Tensor:
        return torch.stack([view.diff(dim=1).mean(), view.diff(dim=2).mean()]).sign()

    assert torch.equal(slopes(teacher), slopes(student)), "mirrored alike"
    torch.manual_seed(0)
    plain, same = TwoViews(images, 32, cfg, color_jitter=0)[0]
    assert torch.equal(plain, same)
    views = TwoViews(images, 32, cfg, crop_scale=1, color_jitter=0)
    assert views[0] is views[0], "made once, where nothing is random"
    scaled, own = TwoViews(images, 32, cfg, {"mean": [0.0] * 3, "std": [1.0] * 3}, crop_scale=1, color_jitter=0)[0]
    torch.testing.assert_close(own, 2 * scaled - 1)  # each network has its own normalisation


# -- weights ------------------------------------------------------------------------------------


def mae_file(path: Path, encoder: TinyMIM) -> Path:
    """As MAE's training writes it: encoder, decoder, command line."""
    state = {**encoder.state_dict(), "mask_token": torch.zeros(1, 1, 8), "decoder_embed.weight": torch.zeros(8, 24)}
    torch.save({"model": state, "args": argparse.Namespace(lr=1), "epoch": 3}, path)
    return path


def test_encoders_are_read_from_maes_files(tmp_path: Path) -> None:
    encoder = filled(vit())
    path = mae_file(tmp_path / "mae.pth", encoder)
    loaded = load_encoder(str(path), 32, heads=2)
    torch.testing.assert_close(loaded(IMAGES), encoder(IMAGES))
    larger = load_encoder(str(path), 64, heads=2, last_heads=4)
    assert larger.pos_embed is not None
    assert encoder.pos_embed is not None
    assert larger.pos_embed.shape == (1, 65, 24)
    torch.testing.assert_close(larger.pos_embed[:, 0], encoder.pos_embed[:, 0])
    assert last_block(larger).attn.num_heads == 4
    grid = encoder.pos_embed[:, 1:].view(1, 4, 4, 24).permute(0, 3, 1, 2)
    bicubic = F.interpolate(grid, size=(8, 8), mode="bicubic", align_corners=False).flatten(2).mT
    torch.testing.assert_close(larger.pos_embed[:, 1:], bicubic)


def test_files_that_do_not_fit_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = vit()
    path = mae_file(tmp_path / "mae.pth", encoder)
    with pytest.raises(Problem, match="does not tell the heads of its 24 channels"):
        load_encoder(str(path), 32)
    with pytest.raises(Problem, match="24 channels do not divide into 5 heads"):
        load_encoder(str(path), 32, heads=5)
    with pytest.raises(Problem, match="36 pixels do not divide into the file's patches of 8"):
        load_encoder(str(path), 36, heads=2)
    torch.save({"model": {"decoder_embed.weight": torch.zeros(2), "mask_token": torch.zeros(1)}}, tmp_path / "d.pth")
    with pytest.raises(Problem, match=r"missing: cls_token, pos_embed, patch_embed\.proj\.weight") as caught:
        read_state(tmp_path / "d.pth")
    assert "decoder_embed.weight" in caught.value.remedy
    broken = {k: v for k, v in encoder.state_dict().items() if k != "blocks.1.mlp.fc2.bias"}
    torch.save(broken, tmp_path / "broken.pth")
    with pytest.raises(Problem, match=r"1 tensors of a ViT are missing: blocks\.1\.mlp\.fc2\.bias"):
        read_state(tmp_path / "broken.pth")
    with pytest.raises(Problem, match="cannot read weights"):
        read_state(tmp_path / "absent.pth")
    oblong = {**encoder.state_dict(), "pos_embed": torch.zeros(1, 16, 24)}
    torch.save(oblong, tmp_path / "oblong.pth")
    with pytest.raises(Problem, match=r"positions \(1, 16, 24\)"):
        load_encoder(str(tmp_path / "oblong.pth"), 32, heads=2)

    real = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda name, pretrained, **options: real(name, **options))
    found = load_encoder("timm:vit_tiny_patch16_224", 64)
    assert (found.num_classes, found.patch_embed.num_patches) == (0, 16)
    with pytest.raises(Problem, match="timm gives no model 'vit_tinny'"):
        load_encoder("timm:vit_tinny", 64)
    with pytest.raises(Problem, match="timm gives no model 'resnet18'"):
        load_encoder("timm:resnet18", 64)


def test_a_model_directory_keeps_the_heads(tmp_path: Path) -> None:
    student = filled(vit(24, 2, 2, last_heads=6))
    checkpoint.save(student, tmp_path / "student")
    loaded = load_encoder(str(tmp_path / "student"), 32)
    assert heads_of(loaded) == [2, 6]
    torch.testing.assert_close(loaded(IMAGES), student(IMAGES))
    assert Teacher(loaded).heads == 6


def test_convert_reads_the_authors_files(tmp_path: Path) -> None:
    this = study(tmp_path)
    torch.save({"model": filled(TinyMIM(**VARIANTS["tiny"])).state_dict()}, tmp_path / "TinyMIM-PT-T.pth")
    encoder = this.convert(tmp_path / "TinyMIM-PT-T.pth")
    assert (encoder.num_classes, last_block(encoder).attn.num_heads) == (0, 12)
    classifier = TinyMIM(**{**VARIANTS["tiny"], "last_heads": None}, num_classes=1000, global_pool="avg")
    torch.save({"model": filled(classifier).state_dict()}, tmp_path / "TinyMIM-FT-T.pth")
    model = this.convert(tmp_path / "TinyMIM-FT-T.pth", "tiny")
    assert heads_of(model) == [3] * 12
    assert model.pretrained_cfg["label_names"][0] == "n01440764"
    torch.testing.assert_close(model.state_dict()["fc_norm.weight"], classifier.state_dict()["fc_norm.weight"])
    with pytest.raises(Problem, match="no variant 'large'"):
        this.convert(tmp_path / "TinyMIM-FT-T.pth", "large")
    with pytest.raises(Problem, match="not weights of base: 12 blocks of 192") as caught:
        this.convert(tmp_path / "TinyMIM-FT-T.pth", "base")
    assert "tiny" in caught.value.remedy


# -- the study ----------------------------------------------------------------------------------


def test_own_data_pretrain_finetune_predict(tmp_path: Path, digits: Path) -> None:
    """Labels are not needed for the first stage: the images lie in one folder."""
    for number, path in enumerate(sorted((digits / "train").rglob("*.png"))):
        (tmp_path / "unlabelled" / "deep").mkdir(parents=True, exist_ok=True)
        (tmp_path / "unlabelled" / "deep" / f"{number}.png").write_bytes(path.read_bytes())
    first = small(tmp_path, tmp_path / "unlabelled", "a", stage="pretrain")
    data = first.data()
    assert (len(data.train), len(data.test)) == (30, 0)
    encoder = first.train("tinymim", data)
    assert set(first.evaluate(encoder, data)) == {"parameters", "macs"}
    figures = {path.stem for path in (tmp_path / "a" / "session" / "figures").iterdir()}
    assert figures == {"pretraining-losses", "relations-of-teacher-and-student"}
    checkpoint.save(encoder, tmp_path / "encoder")
    assert last_block(checkpoint.load(tmp_path / "encoder")).attn.num_heads == 4
    features = first.predict(encoder, digits / "val")
    assert features.arrays["features"].shape == (20, 32)
    assert "no classifier" in features.text

    second = small(tmp_path, digits, "b", stage="finetune", pretrained=str(tmp_path / "encoder"), lr=1e-12)
    model = second.train("tinymim", second.data())
    for name in ("blocks.3.attn.qkv.weight", "cls_token", "pos_embed"):
        torch.testing.assert_close(model.state_dict()[name], encoder.state_dict()[name])
    assert heads_of(model) == [2] * 4
    assert all(p.requires_grad for p in model.parameters())
    prediction = second.predict(model, digits / "val")
    assert len(prediction.table) == 20
    assert set(prediction.figures) == {"predictions", "relations"}
    assert sum(row["class"] == Path(row["file"]).parts[0] for row in prediction.table) / 20 == pytest.approx(
        second.evaluate(model, second.data())["top1"] / 100
    )


def test_all_arms_of_a_seed_share_the_teacher_and_the_students_start(tmp_path: Path, digits: Path) -> None:
    config = small(tmp_path, digits, pretrain_lr=1e-12).config
    weights = []
    for arm in ("scratch", "mae", "tinymim", "qkv"):
        session = Session(0, tmp_path / arm, digits, shared_dir=tmp_path / "shared")
        this = TinyMIMStudy(config, session)
        weights.append(this.pretrain(arm, this.data().train).state_dict()["blocks.0.attn.qkv.weight"])
    for weight in weights[1:]:
        torch.testing.assert_close(weight, weights[0])
    assert [path.name for path in (tmp_path / "shared").iterdir() if path.is_dir()] == ["teacher-0"]


def test_targets_blocks_and_chains_reach_the_method(
    tmp_path: Path, digits: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[Any, ...]] = []

    def noted(session: Session, student: TinyMIM, teacher: Teacher, *rest: Any, **options: Any) -> None:
        target = next(name for name, target in TARGETS.items() if target is teacher.target)
        network = teacher.network
        seen.append((network.embed_dim, len(network.blocks), student.embed_dim, target, options["mask_ratio"]))
        session.log(0, part="student", loss=1.0)

    monkeypatch.setattr("repertory.papers.tinymim.study.distil", noted)
    monkeypatch.setattr(TinyMIMStudy, "_draw_relations", lambda *_: None)
    this = small(tmp_path, digits)
    train = this.data().train
    for arm in ("last", "tinymim", "output", "masked", "sequential"):
        encoder = this.pretrain(arm, train)
    assert last_block(encoder).attn.num_heads == 4
    assert seen == [
        (64, 6, 32, "qk_vv", 0),
        (64, 4, 32, "qk_vv", 0),
        (64, 6, 32, "output", 0),
        (64, 4, 32, "qk_vv", 0.75),
        (64, 4, 48, "qk_vv", 0),
        (48, 4, 32, "qk_vv", 0),
    ]
    del seen[:]
    small(tmp_path, digits, "b", target="attn", target_block=2).pretrain("tinymim", train)
    assert seen == [(64, 2, 32, "attn", 0)]


def test_sequential_distillation_runs_from_small_to_tiny() -> None:
    """The authors' code cannot: its S teacher has 6 heads where the T student expects 12."""
    tiny = {"img_size": 32, "depth": 2}
    base = Teacher(TinyMIM(**{**TEACHERS["base"], **tiny}))
    middle = TinyMIM(**{**VARIANTS["small"], **tiny})
    Distillation(middle, base)
    assert last_block(middle).attn.num_heads == 12
    teacher = Teacher(middle)
    student = TinyMIM(**{**VARIANTS["tiny"], **tiny})
    assert Distillation(student, teacher)(IMAGES, teacher(IMAGES))["loss"] > 0
    assert last_block(student).attn.num_heads == 12


def test_the_paper_recipe_is_the_published_one() -> None:
    config = TinyMIMStudy.scales["paper"]
    assert isinstance(config, TinyMIMConfig)
    recipe = config.pretraining_recipe(config.pretrain_epochs)
    assert recipe.lr == pytest.approx(1.5e-4 * 8 * recipe.batch_size / 256)
    assert (recipe.epochs, recipe.warmup_epochs, recipe.weight_decay, recipe.betas) == (300, 15, 0.05, (0.9, 0.95))
    assert config.lr == pytest.approx(5e-4 * 8 * config.batch_size / 256)
    assert (config.epochs, config.layer_decay, config.drop_path, config.mixup) == (100, 0.65, 0.2, 0.8)
    assert (config.pretrain_crop_scale, config.pretrain_color_jitter, config.student_drop_path) == (0.2, 0.4, 0.1)


def test_the_picture_shows_the_rows_of_the_patch() -> None:
    model = filled(vit(24, 2, 3)).eval()
    maps = patch_relations(model, IMAGES[0], 2, 0.0, 0.99)
    assert maps.shape == (2, 3, 4, 4)
    expected = relations(model, IMAGES[:1], 2)[1][0, :, 1 + 3, 1:].view(3, 4, 4)  # row 0, column 3
    torch.testing.assert_close(torch.tensor(maps[1]), expected.detach())


# -- bad input ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"img_size": 36}, "36 pixels do not divide into patches of 8"),
        ({"num_heads": 5}, "24 channels do not divide into 5 heads"),
        ({"last_heads": 7}, "24 channels do not divide into 7 heads"),
        ({"embed_dim": 22}, "22 is not a multiple of 4"),
    ],
)
def test_bad_arguments_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(Problem, match=message):
        TinyMIM(**{"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 1, "num_heads": 2, **options})


def test_networks_that_do_not_go_together_are_named() -> None:
    with pytest.raises(Problem, match="no block 5") as caught:
        teacher_for(block=5)
    assert "1 to 4" in caught.value.remedy
    with pytest.raises(Problem, match="17 tokens, the teacher 65"):
        check_tokens(vit(), vit(img_size=64))
    with pytest.raises(Problem, match="17 tokens, the teacher 21; 1 and 5") as caught:
        check_tokens(vit(), VisionTransformer(32, 8, embed_dim=8, depth=1, num_heads=1, reg_tokens=4))
    with pytest.raises(Problem, match="24 channels do not divide into 16 heads"):
        Distillation(vit(), Teacher(vit(32, 4, 16)))
    with pytest.raises(Problem, match="the decoder"):
        Decoder(vit(), 16, 1, 3)


def test_bad_settings_and_data(tmp_path: Path, digits: Path) -> None:
    refused: tuple[tuple[dict[str, Any], str], ...] = (
        ({"reconstruction": True}, "reconstruction needs masked_input"),
        ({"stage": "finetune"}, "go together"),
        ({"pretrained": "a.pth"}, "go together"),
        ({"target": "logits"}, "target"),
    )
    for settings, message in refused:
        with pytest.raises(ValidationError, match=message):
            study(tmp_path, **settings)
    with pytest.raises(Problem, match="no student of the paper lies between base"):
        small(tmp_path, digits, arch="base").pretrain("sequential", read_class_folders(digits / "train"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(Problem, match="no images here"):
        study(tmp_path, stage="pretrain").read(tmp_path / "empty")
    with pytest.raises(Problem, match="no block 9"):
        small(tmp_path, digits, "c", target_block=9).pretrain("tinymim", read_class_folders(digits / "train"))
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.png").write_bytes(b"no image")
    broken = small(tmp_path, tmp_path / "bad", "d", stage="pretrain")
    with pytest.raises(Problem, match="not an image") as caught:
        broken.train("mae", broken.data())
    assert "a.png" in caught.value.where
