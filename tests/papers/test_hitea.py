"""HiTeA: fidelity to the authors' code, attention, objectives, weights, retrieval, use, and bad input."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor
from torch.nn import functional as F

from repertory.core import checkpoint
from repertory.core.problem import Problem
from repertory.core.study import Session
from repertory.data import shapes
from repertory.data.captions import read_captioned
from repertory.papers.hitea import FusionEncoder, HiTeA, MViT, PooledAttention, TextDecoder, TextEncoder, TextSizes
from repertory.papers.hitea.clips import as_pictures, preprocessed, sampled_frames
from repertory.papers.hitea.model import SPECIAL
from repertory.papers.hitea.objectives import (
    FineTuning,
    Momentum,
    PreTraining,
    RelationHead,
    Texts,
    answer_loss,
    caption_loss,
    contrast,
    cut_texts,
    hard_negatives,
    hide_words,
    moment_text,
    real_words,
    short_views,
)
from repertory.papers.hitea.race import plain_attention
from repertory.papers.hitea.retrieval import ranks, recalls, reliance, shuffled, truth
from repertory.papers.hitea.settings import ARMS, HiTeAConfig
from repertory.papers.hitea.study import HiTeAStudy
from repertory.papers.hitea.video import relative_table, stages
from repertory.papers.hitea.weights import load_bert, load_pretrained, released_network, vocabulary, with_our_names
from repertory.tasks.language import tokenizer_from, word_tokenizer
from tests.fidelity.cases import assert_agrees, cases
from tests.fidelity.fill import fill_, probe

VIDEO, TEXT = (param.values[0] for param in cases("hitea"))
WORDS = "a red green blue white square disc moves left right up down then in the top bottom corner which colour is it"
TINY_VIDEO: dict[str, Any] = {"img_size": 16, "frames": 4, "embed_dim": 8, "depth": 2, "widen_at": (1,), "kv_stride": 2}
TINY_TEXT: dict[str, Any] = {
    "heads": 2, "intermediate": 32, "encoder_layers": 1, "built_layers": 2, "fusion_layers": 2, "stride_layer": 1,
    "decoder_layers": 1, "positions": 16,
}  # fmt: skip
TEXTS = ["a red square moves left then down", "a blue disc in the top left corner", "a red square"]


def tiny(**changes: Any) -> HiTeA:
    torch.manual_seed(0)
    options: dict[str, Any] = {"video": TINY_VIDEO, "text": TINY_TEXT, "embed_dim": 8, "max_length": 12, **changes}
    return HiTeA(word_tokenizer([WORDS], special=SPECIAL), **options).eval()


def texts(model: HiTeA, rows: list[str] | None = None) -> Texts:
    return Texts(*model.tokens(rows or TEXTS))


def study(tmp_path: Path, data: Path | None = None, scale: str = "smoke", **settings: Any) -> HiTeAStudy:
    config = HiTeAConfig.model_validate({**HiTeAStudy.scales[scale].model_dump(), **settings})
    return HiTeAStudy(config, Session(0, tmp_path / "session", data))


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shapes")
    shapes.write_shapes(folder, (6, 3), (4, 2), size=16)
    return folder


# -- fidelity -----------------------------------------------------------------------------------


def test_the_video_encoder_agrees_with_the_released_code() -> None:
    c = VIDEO["config"]
    model = fill_(MViT(c["img_size"], c["num_frames"])).eval()
    with torch.no_grad():
        found = model(probe(*VIDEO["input"][0]))
    assert_agrees(found, VIDEO, model)
    assert len(model.state_dict()) == 587


def test_text_fusion_and_decoder_agree_with_the_released_code() -> None:
    c = TEXT["config"]
    sizes = TextSizes(
        c["vocab"], c["hidden"], c["heads"], c["intermediate"], 512, c["text_encoder_layers"], c["num_hidden_layers"],
        c["fusion_layers"], c["stride_layer"], c["text_decode_layers"],
    )  # fmt: skip
    encoder, fusion, decoder = (fill_(kind(sizes)).eval() for kind in (TextEncoder, FusionEncoder, TextDecoder))
    ids = (torch.arange(2 * c["L"]).reshape(2, c["L"]) * 37 + 5) % c["vocab"]
    mask = torch.ones(2, c["L"], dtype=torch.bool)
    mask[1, -2:] = False
    with torch.no_grad():
        text = encoder(ids, mask)
        video, read = fusion(text, mask, probe(2, c["nv"], c["hidden"]))
        logits = decoder(ids, mask, torch.cat([video, read], 1))
    outputs = {
        "output": text,
        "output_fusion_video": video,
        "output_fusion_text": read,
        "output_decoder_logits": logits,
    }
    for name, found in outputs.items():
        assert_agrees(found, {"output": TEXT[name]})
    sizes_found = [sum(p.numel() for p in part.parameters()) for part in (encoder, fusion, decoder)]
    assert sizes_found == list(TEXT["params"].values())


def test_published_sizes() -> None:
    with torch.device("meta"):
        video = MViT()
        parts = [part(TextSizes()) for part in (TextEncoder, FusionEncoder, TextDecoder)]
        assert video(torch.empty(1, 16, 3, 224, 224)).shape == (1, 393, 768)
    found = [sum(p.numel() for p in part.parameters()) for part in (video, *parts)]
    assert found == [50_891_040, 66_364_416, 113_421_312, 161_322_042]
    table = stages(24, 96, 1, (2, 5, 21), 4)
    assert [(table[i].heads, table[i].q_stride, table[i].kv_stride) for i in (0, 2, 4, 5, 21)] == [
        (1, 1, 4), (2, 2, 2), (2, 1, 2), (4, 2, 1), (8, 2, 1),
    ]  # fmt: skip


# -- pooled attention ---------------------------------------------------------------------------


@pytest.mark.parametrize(("widens", "kv_stride"), [(False, 4), (True, 4), (False, 1)])
def test_the_fast_attention_is_the_plain_one(widens: bool, kv_stride: int) -> None:
    torch.manual_seed(0)
    stage = stages(1, 12, 2, (0,) if widens else (), kv_stride)[0]
    attention, grid = PooledAttention(stage, (2, 8, 8)).eval(), (2, 8, 8)
    torch.nn.init.normal_(attention.rel_pos_t)
    x = torch.randn(2, 129, 12, requires_grad=True)
    expected = plain_attention(attention, x, grid)
    found, _ = attention(x, grid)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    ours, theirs = (torch.autograd.grad(out.square().sum(), x)[0] for out in (found, expected))
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)


def test_relative_positions_by_hand() -> None:
    table = torch.arange(7.0)[:, None]
    assert relative_table(table, 4, 2)[..., 0].tolist() == [[2 * 1 + i - 2 * j for j in range(2)] for i in range(4)]
    assert relative_table(table, 2, 2).shape == (2, 2, 1)  # interpolated to 3 rows


def test_clips_of_another_length_and_bad_sizes() -> None:
    model = MViT(**TINY_VIDEO).eval()
    assert model(torch.rand(2, 6, 3, 24, 24)).shape == (2, 1 + 3 * 9, 16)
    assert model(torch.rand(0, 4, 3, 16, 16)).shape == (0, 9, 16)
    for shape in ((1, 3, 3, 16, 16), (1, 4, 3, 16, 20)):
        with pytest.raises(Problem, match="an even number of frames"):
            model(torch.rand(*shape))
    with pytest.raises(Problem, match="frames"):
        MViT(16, 3, depth=1, widen_at=())


def test_recomputing_blocks_gives_the_same_gradients() -> None:
    model, x = MViT(**TINY_VIDEO).train(), torch.rand(1, 4, 3, 16, 16)
    found: list[Tensor] = []
    for enable in (False, True):
        model.set_grad_checkpointing(enable)
        model.zero_grad()
        model(x).square().mean().backward()
        assert model.patch_embed.proj.weight.grad is not None
        found.append(model.patch_embed.proj.weight.grad.clone())
    torch.testing.assert_close(*found)


def test_the_control_is_blind_to_order_and_the_encoder_is_not() -> None:
    x = torch.rand(1, 4, 3, 16, 16)
    blind, seeing = tiny(order_blind=True), tiny()
    torch.testing.assert_close(blind.encode_video(x), blind.encode_video(x.flip(1)))
    fill_(seeing)
    assert (seeing.encode_video(x) - seeing.encode_video(x.flip(1))).abs().max() > 1e-3


def test_it_exports_with_any_batch() -> None:
    model = tiny()
    ids, mask = model.tokens(TEXTS)
    batch = torch.export.Dim("batch", min=1, max=64)
    inputs = (torch.rand(3, 4, 3, 16, 16), ids, mask)
    program = torch.export.export(model, inputs, dynamic_shapes=tuple({0: batch} for _ in inputs))
    frames = torch.rand(2, 4, 3, 16, 16)
    for a, b in zip(program.module()(frames, ids[:2], mask[:2]), model(frames, ids[:2], mask[:2]), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


# -- text ---------------------------------------------------------------------------------------


def test_fusion_reads_video_and_leaves_its_input_alone() -> None:
    model = tiny()
    ids, mask = model.tokens(TEXTS)
    text, video = model.encode_text(ids, mask), torch.randn(3, 5, 16)
    before = video.clone()
    fused, read = model.fuse(text, mask, video)
    torch.testing.assert_close(video, before)
    assert (fused.shape, read.shape) == (video.shape, text.shape)
    assert not torch.allclose(read, model.fuse(text, mask, video.flip(0))[1])


def test_padding_changes_nothing() -> None:
    model = tiny()
    alone, among = (model.encode_text(*model.tokens(rows))[0, :5] for rows in (TEXTS[2:], [TEXTS[2], TEXTS[0]]))
    torch.testing.assert_close(alone, among, rtol=1e-4, atol=1e-6)


def test_the_decoder_is_causal_and_writes() -> None:
    model = tiny()
    ids, mask = model.tokens(TEXTS[:1])
    states = torch.randn(1, 4, 16)
    logits = model.text_decoder(ids, mask, states)
    changed = ids.clone()
    changed[0, 4] = 7
    torch.testing.assert_close(model.text_decoder(changed, mask, states)[:, :4], logits[:, :4])
    assert len(model.answer(torch.rand(2, 4, 3, 16, 16), TEXTS[:2], most=3)) == 2
    assert model.words([model.start, 5, 6, model.stop]) == " ".join(
        str(model.tokenizer.id_to_token(number)) for number in (5, 6)
    )


def test_long_texts_are_cut_with_a_warning() -> None:
    with pytest.warns(UserWarning, match="1 of 2 texts have more than 3 tokens"):
        ids, _ = tiny(max_length=5).tokens([TEXTS[0], "a red"])
    assert ids.shape == (2, 5)


def test_constructors_refuse() -> None:
    with pytest.raises(Problem, match="no \\[MASK\\]"):
        HiTeA(word_tokenizer([WORDS]), TINY_VIDEO, TINY_TEXT)
    with pytest.raises(Problem, match="multiple of heads"):
        tiny(text={**TINY_TEXT, "heads": 3})
    with pytest.raises(Problem, match="no more fusion layers"):
        tiny(text={**TINY_TEXT, "fusion_layers": 3})
    with pytest.raises(Problem, match="the model's vocabulary 5"):
        tiny(text={**TINY_TEXT, "vocab": 5})


# -- objectives ---------------------------------------------------------------------------------


def test_contrast_by_hand() -> None:
    x, y = F.normalize(torch.randn(3, 4), dim=1), F.normalize(torch.randn(3, 4), dim=1)
    positives = torch.tensor([[True, False, True], [False, True, False], [True, False, True]])
    expected = 0.0
    for logits in (x @ y.T / 0.5, y @ x.T / 0.5):
        p = logits.log_softmax(1)
        rows = [-(p[0, 0] + p[0, 2]) / 2, -p[1, 1], -(p[2, 0] + p[2, 2]) / 2]
        expected += float(torch.stack(rows).mean()) / 2
    assert float(contrast(x, y, torch.tensor(0.5), positives)) == pytest.approx(expected, rel=1e-5)


def test_hard_negatives_are_never_the_same_caption() -> None:
    same = torch.tensor([[True, True, False], [True, True, False], [False, False, True]])
    rows, columns = hard_negatives(torch.randn(3, 3), same)
    assert rows.tolist() == [0, 1, 2]
    assert columns.tolist()[:2] == [2, 2]
    assert columns[2] in (0, 1)
    assert hard_negatives(torch.randn(2, 2), torch.ones(2, 2, dtype=torch.bool))[0].numel() == 0


def test_words_are_hidden_and_no_special_token_is() -> None:
    model = tiny()
    torch.manual_seed(0)
    told = texts(model, TEXTS * 200)
    ids, hidden = hide_words(told, model)
    words = real_words(told, model)
    assert not (hidden & ~words).any()
    assert hidden.any(1).all()  # at least one a text
    assert (ids == told.ids)[~hidden].all()
    assert 0.7 < float((ids[hidden] == model.mask).float().mean()) < 0.9
    assert 0.05 < float((ids[hidden] == told.ids[hidden]).float().mean()) < 0.2


def test_cut_texts_join_to_the_whole() -> None:
    model = tiny()
    told = texts(model)
    lengths: set[int] = set()
    for _ in range(20):
        prefix, rest = cut_texts(told, model)
        for row, whole in enumerate(TEXTS):
            first, second = (model.words(part.ids[row][part.mask[row]].tolist()) for part in (prefix, rest))
            assert f"{first} {second}".split() == whole.split()
            assert second
            lengths.add(len(first.split()))
        for part in (prefix, rest):
            assert (part.ids[:, 0] == model.start).all()
            assert (part.ids.gather(1, part.mask.sum(1, keepdim=True) - 1) == model.stop).all()
    assert {0, 1, 2} <= lengths


def test_losses_of_tokens() -> None:
    model = tiny()
    told = texts(model)
    logits = torch.randn(*told.ids.shape, model.sizes.vocab)
    each = [
        F.cross_entropy(logits[row, : n - 1], told.ids[row, 1:n], reduction="sum")
        for row, n in enumerate(told.mask.sum(1).tolist())
    ]
    tokens = int(told.mask.sum()) - len(each)
    assert float(caption_loss(logits, told)) == pytest.approx(float(sum(each)) / tokens, rel=1e-5)
    assert float(answer_loss(logits, told)) == pytest.approx(float(sum(each)) / len(each), rel=1e-5)


def test_short_views_are_contiguous_parts() -> None:
    torch.manual_seed(0)
    clips = torch.arange(16.0)[None, :, None].expand(50, 16, 1)
    views = short_views(clips, 4)[..., 0]
    steps = views.diff(dim=1)
    assert views.shape == (50, 4)
    assert ((steps >= 0) & (steps <= 2)).all()
    assert (views[:, -1] - views[:, 0]).max() < 8  # at most half the clip
    assert views[:, 0].unique().numel() > 4


def test_the_moment_text_is_of_the_likest_half() -> None:
    words = F.normalize(torch.randn(1, 5, 3), dim=-1)
    real = torch.tensor([[False, True, True, True, False]])
    moment = words[:, 2].clone().requires_grad_()
    scores = (words[0] @ moment[0]).detach()
    chosen = sorted(range(1, 4), key=lambda k: -scores[k])[:2]
    expected = F.normalize(words[0, chosen].mean(0), dim=0)
    torch.testing.assert_close(moment_text(moment, words, real)[0], expected)
    assert not moment_text(moment, words, real).requires_grad  # no gradient through the choice


def test_the_relation_loss_is_lowest_for_equal_views_and_stops_gradients() -> None:
    head = RelationHead(6, 4)
    head.pred = torch.nn.Sequential(torch.nn.Identity())
    x = torch.randn(5, 6)
    assert head(x, x).item() == pytest.approx(-1)
    assert -1 <= float(head(x, torch.randn(5, 6))) <= 1


def test_momentum_follows_and_its_queue_turns() -> None:
    model = tiny()
    slow = Momentum(model, queue=4, decay=0.5)
    with torch.no_grad():
        model.text_proj.weight.add_(1)
    before = slow.copies["text_proj"].get_parameter("weight").clone()
    slow.update(model)
    torch.testing.assert_close(slow.copies["text_proj"].get_parameter("weight"), before + 0.5)
    rows = torch.eye(8)
    for k in (0, 3):
        slow.keep(rows[k : k + 3], rows[k : k + 3])
    assert [int(row.argmax()) for row in slow.videos] == [4, 5, 2, 3]
    v = F.normalize(torch.randn(2, 8), dim=1)
    loss = slow.loss(v, v, (v, v), torch.eye(2, dtype=torch.bool), torch.tensor(1.0))
    logits = v @ torch.cat([v, slow.texts]).T
    assert float(loss) == pytest.approx(float(F.cross_entropy(logits, torch.arange(2))), rel=1e-5)


@pytest.mark.parametrize("arm", [*ARMS])
def test_pre_training_gives_the_losses_of_the_arm(arm: str) -> None:
    chosen = ARMS[arm]
    model = tiny(order_blind=chosen.order_blind)
    training = PreTraining(model, chosen.cme, chosen.mtre, short_frames=2, queue=0 if arm == "base" else 8)
    losses = training(torch.rand(3, 4, 3, 16, 16), texts(model))
    added = {name for name, on in (("cme", chosen.cme), ("mtre", chosen.mtre)) if on}
    assert set(losses) == {"loss", "vtc", "vtm", "mlm", "prefix"} | added
    torch.testing.assert_close(losses["loss"], torch.stack([v for k, v in losses.items() if k != "loss"]).sum())
    losses["loss"].backward()
    assert all(p.grad is not None for p in model.visual_encoder.parameters())


def test_fine_tuning_takes_what_there_is() -> None:
    model = tiny()
    training, frames = FineTuning(model), torch.rand(3, 4, 3, 16, 16)
    rows = torch.tensor([0, 2])
    some = texts(model, TEXTS[:2])
    assert set(training(frames, (rows, some), None)) == {"loss", "vtc", "vtm", "caption"}
    assert set(training(frames, None, (rows, some, texts(model, ["left", "red"])))) == {"loss", "answer"}


# -- clips and retrieval ------------------------------------------------------------------------


def test_frames_are_sampled_as_released() -> None:
    assert sampled_frames(16, 16) == list(range(16))
    assert sampled_frames(7, 3) == [0, 2, 5]
    assert sampled_frames(2, 4) == [0, 1, 1, 1]
    for _ in range(20):
        assert all(
            a <= k < b for k, a, b in zip(sampled_frames(20, 4, True), (0, 5, 10, 15), (5, 10, 15, 20), strict=True)
        )


def test_preprocessing_can_be_undone() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)
    np.testing.assert_allclose(as_pictures(preprocessed(frames, 16)), frames / 255, atol=1e-5)
    assert preprocessed(frames, 8).shape == (2, 3, 8, 8)


def test_retrieval_counts_equal_captions_as_right() -> None:
    right = truth([["a", "b"], ["b"]], ["a", "b", "c"])
    assert right.tolist() == [[True, True, False], [False, True, False]]
    found = ranks(torch.tensor([[0.1, 0.5, 0.4], [0.9, 0.2, 0.3]]), right)
    assert found.tolist() == [0, 2]
    assert recalls(found, "x") == {"x_r1": 50.0, "x_r5": 100.0, "x_r10": 100.0}
    assert ranks(torch.zeros(1, 3), torch.tensor([[False, True, False]])).tolist() == [2]  # ties are no success


def test_shuffling_keeps_the_frames_of_each_clip() -> None:
    clips = torch.arange(12.0).reshape(2, 6, 1)
    mixed = shuffled(clips, np.random.default_rng(0))
    torch.testing.assert_close(mixed.sort(1).values, clips)
    assert not torch.equal(mixed, clips)
    assert reliance(0.0, 0.0)["reliance_relative"] == 0.0


# -- weights ------------------------------------------------------------------------------------


def as_released(model: HiTeA) -> dict[str, Tensor]:
    """The state dict under the authors' names, with what else such a file holds."""
    state: dict[str, Tensor] = {}
    for name, tensor in model.state_dict().items():
        if name.startswith("text_decoder.head."):
            name = name.replace("text_decoder.head.", "text_decoder.cls.predictions.")
        elif name.startswith("text_decoder."):
            name = name.replace("text_decoder.", "text_decoder.bert.", 1)
        if name.startswith(("visual_encoder", "text_encoder", "fusion_encoder", "text_decoder")):
            state[name.replace("blocks.1.", "blocks.1._checkpoint_wrapped_module.")] = tensor
    state["text_decoder.cls.predictions.bias"] = state["text_decoder.cls.predictions.decoder.bias"]
    state["text_encoder.embeddings.position_ids"] = torch.arange(4)
    state["text_encoder_m.embeddings.LayerNorm.bias"] = torch.zeros(3)
    return state


@pytest.fixture
def released(tmp_path: Path) -> tuple[HiTeA, Path]:
    model = tiny(video={**TINY_VIDEO, "kv_stride": 4})  # the published one: the weights do not tell
    fill_(model)
    folder = tmp_path / "released"
    folder.mkdir()
    torch.save({"module": {f"model.{k}": v for k, v in as_released(model).items()}}, folder / "pytorch_model.bin")
    config = {"num_attention_heads": 2, "fusion_layers": 2, "stride_layer": 1}
    (folder / "config_bert.json").write_text(json.dumps(config))
    words = sorted(model.tokenizer.get_vocab().items(), key=lambda pair: pair[1])
    (folder / "vocab.txt").write_text("".join(f"{word}\n" for word, _ in words))
    return model, folder


def test_released_weights_convert(released: tuple[HiTeA, Path], tmp_path: Path) -> None:
    model, folder = released
    with pytest.warns(UserWarning, match="compare nothing yet"):
        found = study(tmp_path).convert(folder)
    frames = torch.rand(2, 4, 3, 16, 16)
    ids, mask = model.tokens(TEXTS[:2])
    torch.testing.assert_close(found.tokens(TEXTS[:2])[0], ids)
    torch.testing.assert_close(found.question_states(frames, ids, mask), model.question_states(frames, ids, mask))
    assert found.answer(frames, TEXTS[:2]) == model.answer(frames, TEXTS[:2])
    other = tiny(video={**TINY_VIDEO, "kv_stride": 4})
    load_pretrained(other, folder)
    torch.testing.assert_close(other.encode_video(frames), model.encode_video(frames))


def test_lines_of_a_vocabulary_are_counted_as_an_editor_does(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_bytes(b"[PAD]\n[UNK]\na\xc2\x85b\n\xe2\x80\xa8\r\nword\n")
    tokenizer = tokenizer_from(vocabulary(tmp_path / "vocab.txt"))
    assert (tokenizer.token_to_id("a\x85b"), tokenizer.token_to_id("word"), tokenizer.get_vocab_size()) == (2, 4, 5)


def test_weights_of_something_else(released: tuple[HiTeA, Path], tmp_path: Path) -> None:
    _, folder = released
    with pytest.raises(Problem, match="no variant"):
        study(tmp_path).convert(folder, "base")
    (folder / "vocab.txt").unlink()
    with pytest.raises(Problem, match=r"vocab\.txt is missing"):
        released_network(folder)
    torch.save({"visual_encoder.cls_token": torch.zeros(1, 1, 8)}, folder / "pytorch_model.bin")
    with pytest.raises(Problem, match="no weights of text_encoder"):
        released_network(folder)
    assert with_our_names({"image_queue": torch.zeros(1)}) == {}


def test_a_bert_fills_the_text_networks(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    model = tiny()
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=model.tokenizer, unk_token="[UNK]")
    sizes = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32, "max_position_embeddings": 16}
    vocab = model.sizes.vocab
    bert = transformers.BertModel(transformers.BertConfig(vocab_size=vocab, num_hidden_layers=3, **sizes)).eval()
    bert.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    load_bert(model, tmp_path)
    own, theirs = model.state_dict(), bert.state_dict()
    last = "encoder.layer.{}.output.dense.weight"
    torch.testing.assert_close(own[f"text_encoder.{last.format(0)}"], theirs[last.format(0)])
    torch.testing.assert_close(own[f"fusion_encoder.{last.format(1)}"], theirs[last.format(2)])
    ids, mask = model.tokens(TEXTS)
    bert.encoder.layer = bert.encoder.layer[:1]
    expected = bert(input_ids=ids, attention_mask=mask.long()).last_hidden_state
    torch.testing.assert_close(model.encode_text(ids, mask)[mask], expected[mask], rtol=1e-4, atol=1e-5)
    with pytest.raises(Problem, match="the BERT has other sizes"):
        load_bert(tiny(text={**TINY_TEXT, "intermediate": 16}), tmp_path)


# -- use ----------------------------------------------------------------------------------------


def test_predict_captions_answers_searches_and_draws(sample: Path, tmp_path: Path) -> None:
    model = tiny(captions=TEXTS)
    checkpoint.save(model, tmp_path / "model")
    films = sample / "videos" / "all"
    one = study(tmp_path, question="which colour is it").predict(model, films / "video0.mp4")
    assert list(one.table[0]) == ["file", "answer", "caption", "best captions"]
    assert one.table[0]["best captions"].count(";") == 2
    assert set(one.figures) == {"strip", "order"}
    (films / "broken.mp4").write_bytes(b"no video")
    try:
        many = study(tmp_path, search="a red square", candidates="a disc; a square").predict(model, films)
    finally:
        (films / "broken.mp4").unlink()
    assert len(many.table) == 16
    assert many.table[-1]["file"] == "broken.mp4"
    assert "cannot be read" in many.table[-1]["problem"]
    scores = [row["similarity"] for row in many.table[:-1]]
    assert scores == sorted(scores, reverse=True)
    assert set(many.figures) == {"strip", "order", "clips"}
    assert torch.equal(checkpoint.load(tmp_path / "model").text_proj.weight, model.text_proj.weight)


def test_predict_without_videos(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(Problem, match="no videos here"):
        study(tmp_path).predict(tiny(), tmp_path / "empty")


def test_the_preview_tells_what_will_be_trained(sample: Path, tmp_path: Path) -> None:
    data = study(tmp_path, sample).data()
    lines = study(tmp_path, sample).preview("hitea", data)
    assert "9 clips for training, 6 for test" in lines[0]
    assert "15 questions" in lines[0]
    assert "minutes" in lines[-1]
    own = HiTeAStudy.own
    assert isinstance(own, HiTeAConfig)
    scaled = HiTeAStudy(own, Session(0, tmp_path / "own", sample)).scaled(data, {"pretrain_epochs"})
    assert (scaled.batch_size, scaled.pretrain_batch_size, scaled.pretrain_epochs) == (8, 8, own.pretrain_epochs)
    assert scaled.lr < own.lr
    with pytest.raises(ValidationError, match="img_size=20 is no multiple of 16"):
        HiTeAConfig.model_validate({**HiTeAStudy.scales["smoke"].model_dump(), "img_size": 20})


def test_evaluation_of_captions_without_questions(sample: Path, tmp_path: Path) -> None:
    train, test = read_captioned(sample)
    (sample / "qa_test.json").rename(sample / "qa_test.away")
    try:
        silent = study(tmp_path, sample).data()
    finally:
        (sample / "qa_test.away").rename(sample / "qa_test.json")
    assert any(clip.questions for clip in test.clips)
    assert len(train) == 9
    metrics = study(tmp_path, sample).evaluate(tiny(), silent)
    assert "answers" not in metrics
    assert {"v2t_r1", "t2v_r1", "reliance", "v2t_r1_in_static", "bleu4"} <= set(metrics)
