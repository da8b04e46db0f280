"""tegformer: fidelity, network, decoding, weights, mining, metrics, study, use, and bad input."""

from __future__ import annotations

import math
import random
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from repertory.core.problem import Problem
from repertory.core.study import Session
from repertory.data import essays
from repertory.data.essays import write_essays
from repertory.papers.tegformer.metrics import Novelty, TopicJudge, Trigrams, bleu2, coverage, units
from repertory.papers.tegformer.mining import Rules, mine, text_rank
from repertory.papers.tegformer.model import TegFormer, TopicExtension, smoothed_loss
from repertory.papers.tegformer.pictures import attention_weights, extension_weights
from repertory.papers.tegformer.race import Recomputing
from repertory.papers.tegformer.settings import TegFormerConfig, TegFormerDesign
from repertory.papers.tegformer.study import TegFormerStudy, marked
from repertory.papers.tegformer.weights import official_state, to_ours
from repertory.papers.tegformer.writer import Author, PromptedWriter, TopicWriter, cached_states
from repertory.tasks.language import Decoding, decode, small_gpt2, word_tokenizer
from tests.fidelity.cases import assert_agrees, cases
from tests.fidelity.fill import digest, fill_


def reference(case: dict[str, Any]) -> TegFormer:
    """The network of a reference case, filled."""
    c = case["config"]
    model = TegFormer(
        c["V"], c["T"], c["K"], small_gpt2(c["V"], c["G"], c["gl"], c["gh"], c["npos"]), d=c["D"], ff=c["FF"],
        heads=c["H"], encoder_layers=c["EN"], decoder_layers=c["DN"], domain=c["E"],
    )  # fmt: skip
    for topic in range(c["T"]):
        count = min(8, (7 * topic + c["seed_rel"]) % 9)
        words = [(5 * topic + 3 * j + c["seed_rel"]) % c["K"] for j in range(count)]
        model.neighbours[topic, :count] = torch.tensor(words, dtype=torch.long)
    fill_(model)
    return model.eval()


@pytest.mark.parametrize("case", cases("tegformer"))
def test_agrees_with_the_authors_code(case: dict[str, Any]) -> None:
    model = reference(case)
    topics, mask, ids, gold = (torch.tensor(case["input"][name]) for name in ("src", "src_mask", "trg", "trg_y"))
    memory = model.encode(topics, mask.bool())
    assert digest(memory)["values"] == pytest.approx(case["encoder_memory"]["values"], rel=1e-4, abs=1e-5)
    log_probabilities = model(topics, mask.bool(), ids)
    assert_agrees(log_probabilities, case, model)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert trained == case["trainable_params"]
    assert int((gold != 0).sum()) == case["n_tokens"]
    assert smoothed_loss(log_probabilities, gold).item() == pytest.approx(case["loss_sum"], rel=1e-5)


# -- the network ------------------------------------------------------------------------------------


def small(**options: Any) -> TegFormer:
    """A network on 30 tokens, 6 topics and 5 words with random weights."""
    torch.manual_seed(0)
    settings: dict[str, Any] = {
        "gpt2": small_gpt2(30, 16, 2, 2, 24), "d": 16, "ff": 24, "heads": 2, "encoder_layers": 2, "decoder_layers": 2,
        "domain": 4, **options,
    }  # fmt: skip
    model = TegFormer(30, 6, 5, **settings)
    model.neighbours[1, :3] = torch.tensor([0, 2, 4])
    return model.eval()


TOPICS, MASK = torch.tensor([[1, 2, 3], [4, 1, 0]]), torch.tensor([[True, True, True], [True, True, False]])
VARIANTS = [
    {},
    {"extension": False},
    {"fusion": "domain"},
    {"fusion": "domain", "positions": True, "extension": False},
    {"fusion": "domain", "gpt2": None},
    {"fusion": "gpt2"},
    {"fusion": "sigmoid", "positions": True},
]


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_cached_decoding_is_the_plain_one(options: dict[str, Any]) -> None:
    model = small(**options)
    ids = torch.randint(1, 30, (2, 9), generator=torch.Generator().manual_seed(1))
    plain = model(TOPICS, MASK, ids)
    stepper = model.begin(TOPICS, MASK)
    torch.testing.assert_close(torch.stack([stepper.step(ids[:, k]) for k in range(9)], 1), plain)


@pytest.mark.parametrize("method", ["greedy", "beam"])
def test_decoding_with_and_without_cache_writes_the_same(method: Any) -> None:
    model = small(positions=True)
    decoding = Decoding(method, beams=3)
    first = torch.tensor([1, 2])
    rows = decoding.rows
    repeated = Recomputing(model, TOPICS.repeat_interleave(rows, 0), MASK.repeat_interleave(rows, 0))
    written = decode(model.begin(TOPICS, MASK, rows), first, 7, 12, decoding)
    assert written == decode(repeated, first, 7, 12, decoding)
    assert any(written)


def test_topics_are_a_set_and_masked_ones_do_not_matter() -> None:
    model, ids = small(), torch.tensor([[3, 4, 5]])
    mask = torch.ones(1, 3, dtype=torch.bool)
    one = model(torch.tensor([[1, 2, 3]]), mask, ids)
    torch.testing.assert_close(model(torch.tensor([[3, 1, 2]]), mask, ids), one)
    padded = torch.tensor([[1, 2, 3, 0, 5]]), torch.tensor([[True, True, True, False, False]])
    torch.testing.assert_close(model(*padded, ids), one)


def test_extension_words_matter_to_their_topic_alone() -> None:
    model = small(encoder_layers=1)
    numbers = torch.tensor([[1], [2]])
    before = model.encode(numbers, torch.ones(2, 1, dtype=torch.bool))
    with torch.no_grad():
        model.word_table.weight[2] *= -1  # a constant would vanish in the norm
    after = model.encode(numbers, torch.ones(2, 1, dtype=torch.bool))
    assert not torch.allclose(before[0], after[0])
    torch.testing.assert_close(before[1], after[1])


def test_a_topic_without_words_receives_the_padding_word() -> None:
    layer = TopicExtension(8)
    words = torch.randn(1, 1, 1, 8).expand(1, 1, 5, 8)
    none = layer(torch.randn(1, 1, 8), words, torch.zeros(1, 1, 5, dtype=torch.bool))
    torch.testing.assert_close(none[0, 0], layer.value(words[0, 0, 0]))


def test_the_loss_is_the_divergence_of_the_smoothed_target() -> None:
    logits = torch.randn(2, 4, 9, generator=torch.Generator().manual_seed(0)).log_softmax(-1)
    gold = torch.tensor([[3, 1, 8, 0], [2, 2, 0, 0]])
    target = torch.full((2, 4, 9), 0.1 / 7).scatter(-1, gold[..., None], 0.9)
    target[..., 0] = 0
    target[gold == 0] = 0
    expected = torch.nn.functional.kl_div(logits, target, reduction="sum")
    torch.testing.assert_close(smoothed_loss(logits, gold), expected)


def test_gpt2_is_frozen_and_its_states_can_be_given() -> None:
    model, ids = small().train(), torch.tensor([[3, 4, 5]])
    assert not model.gpt2.training
    assert not any(p.requires_grad for p in model.gpt2.parameters())
    assert small(gpt2_dropout=True).train().gpt2.training
    model.eval()
    torch.testing.assert_close(model(TOPICS[:1], MASK[:1], ids, model.states(ids)), model(TOPICS[:1], MASK[:1], ids))


@pytest.mark.parametrize(("topics", "words", "count", "trained"), [
    (7393, 2430, 167_908_489, 65_839_753), (7995, 2870, 168_441_993, 66_373_257),
])  # fmt: skip
def test_published_sizes(topics: int, words: int, count: int, trained: int) -> None:
    with torch.device("meta"):
        model = TegFormer(21128, topics, words, small_gpt2(21128, 768, 12, 12, 1024))
    assert sum(p.numel() for p in model.parameters()) == count
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == trained


def test_it_compiles_and_exports() -> None:
    model = small()
    ids = torch.randint(1, 30, (2, 6))
    inputs = (TOPICS, MASK, ids, model.states(ids))
    expected = model(*inputs)
    explained = torch._dynamo.explain(model)(*inputs)
    assert explained.graph_break_count == 0
    batch = torch.export.Dim("batch", min=2)
    shapes = ({0: batch}, {0: batch}, {0: batch}, {0: batch})
    program = torch.export.export(model, inputs, dynamic_shapes=shapes)
    torch.testing.assert_close(program.module()(*inputs), expected)


def test_an_empty_batch_has_an_empty_answer() -> None:
    model, ids = small(), torch.zeros(0, 6, dtype=torch.long)
    assert model(TOPICS[:0], MASK[:0], ids, torch.zeros(0, 6, 16)).shape == (0, 6, 30)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"d": 18}, "d=18 cannot be divided"),
        ({"d": 1}, "d=1"),
        ({"drop": 1.0}, "drop=1.0"),
        ({"fusion": "gates"}, "did you mean gate"),
        ({"gpt2": None}, "needs a GPT-2"),
        ({"gpt2": small_gpt2(31, 16, 1, 2, 24)}, "GPT-2's vocabulary has 31 tokens, the tokenizer's 30"),
    ],
)
def test_bad_arguments(options: dict[str, Any], message: str) -> None:
    with pytest.raises(Problem, match=message):
        small(**options)


# -- the authors' weights ---------------------------------------------------------------------------


def test_names_go_both_ways() -> None:
    model = small()
    theirs = official_state(model)
    assert {to_ours(name): tensor.shape for name, tensor in theirs.items()} == {
        name: tensor.shape for name, tensor in model.state_dict().items() if name != "neighbours"
    }
    for name in (
        "plugin_transformer.model.encoder.layers.1.gat_sublayer.val_layer.bias",
        "plugin_transformer.model.decoder.layers.0.src_attn.linears.3.weight",
        "plugin_transformer.model.encoder.layers.0.self_attn.linears.2.weight",
        "plugin_transformer.model.decoder.layers.1.feed_forward.w_2.weight",
        "plugin_transformer.model.decoder.layers.1.sublayer.2.norm.b_2",
        "plugin_transformer.model.encoder.norm.a_2",
        "plugin_transformer.model.generator.proj.bias",
        "gpt2_model.transformer.h.0.ln_1.weight",
        "tgt_looking_table.weight",
        "trans_dim_net.bias",
    ):
        assert name in theirs


def official_folder(folder: Path) -> tuple[Path, TegFormer]:
    """What the authors' training leaves, with heads of 64 channels."""
    model = small(gpt2=small_gpt2(30, 64, 1, 1, 24), d=64, heads=1, encoder_layers=1, decoder_layers=1)
    torch.save(official_state(model), folder / "pretrain.pkl")
    (folder / "topic_dict.txt").write_text("".join(f"topic{k}\n" for k in range(6)))
    (folder / "GNN").mkdir()
    (folder / "GNN" / "relations.json").write_text('{"1": [0, 2, 4], "2": []}')
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *map(chr, range(97, 123))]))
    return folder / "pretrain.pkl", model


def test_the_authors_weights_are_converted(tmp_path: Path) -> None:
    source, model = official_folder(tmp_path)
    study = study_in(tmp_path / "out", max_length=20)
    converted = study.convert(source)
    ids = torch.randint(1, 30, (2, 6))
    torch.testing.assert_close(converted.network(TOPICS, MASK, ids), model(TOPICS, MASK, ids))
    assert converted.extension_of("topic1") == ["word 0", "word 2", "word 4"]
    (tmp_path / "GNN" / "relations.json").write_text('{"1": [5]}')
    with pytest.raises(Problem, match="extension word 5, and the table has 5 rows"):
        study.convert(source)
    (tmp_path / "vocab.txt").unlink()
    with pytest.raises(Problem, match=r"vocab.txt is missing beside the weights"):
        study.convert(source)
    torch.save({"gpt2_model.transformer.wte.weight": torch.zeros(2, 2)}, source)
    with pytest.raises(Problem, match=r"lacks topic_looking_table.weight"):
        study.convert(source)


# -- mining and metrics -----------------------------------------------------------------------------


def test_text_rank_prefers_words_with_many_neighbours() -> None:
    words = ["salt", "soup", "salt", "bread", "salt", "and", "tea"]
    assert text_rank(words, {"and"}, 2)[0] == "salt"
    assert text_rank([], (), 3) == []
    assert text_rank(["one"], (), 3) == ["one"]


def test_mining_follows_the_rules() -> None:
    """Counts, shares, frequency, spread over topics, and order by count."""
    topics = [f"t{k}" for k in range(6)]
    found = {"a": ["wide", "narrow", "t0", "stop"], "b": ["wide"], "c": ["rare", "wide", "often"]}
    essays = [("a", topics[:1])] * 3 + [("b", [topic]) for topic in topics] + [("c", topics[:5])]
    frequency = Counter(wide=30, narrow=30, rare=8, often=200, t0=50, stop=50)
    mined = mine(essays, topics, {"stop"}, frequency, Rules(), lambda text: found[text])
    assert mined.words == ("wide",)  # narrow: one topic; rare: 8 times; often: a share of 0.5 %
    assert mined.relations == ((0,),) * 6
    loose = mine(essays, topics, {"stop"}, frequency, Rules(topics=0, most=2), lambda text: found[text])
    assert loose.words == ("narrow", "wide")
    assert loose.relations[0] == (1, 0)  # wide counts 5, narrow 3
    assert loose.relations[5] == (1,)


def test_bleu_is_that_of_the_definition() -> None:
    assert bleu2(["a", "b", "c"], ["a", "b", "c"]) == pytest.approx(1.0)
    assert bleu2(["a", "b"], ["a", "b", "c", "d"]) == pytest.approx(math.exp(1 - 4 / 2))
    assert bleu2(["b", "a"], ["a", "b"]) == pytest.approx(0.1)  # no bigram in common
    assert bleu2(["a", "b", "a", "b"], ["a", "b", "c"]) == pytest.approx(1 / 3)  # clipped
    assert bleu2(["x", "y"], ["a", "b"]) == 0
    assert bleu2([], ["a"]) == 0


def test_trigrams_are_probabilities_and_prefer_what_they_saw() -> None:
    rng = random.Random(0)
    texts = [[rng.choice("abcd") for _ in range(rng.randint(1, 9))] for _ in range(40)]
    model = Trigrams(texts)
    for context in (("<s>", "<s>"), ("a", "b"), ("z", "a"), ("z", "z")):
        assert sum(model.probability(context, word) for word in model.vocabulary) == pytest.approx(1)
    seen = Trigrams([list("abcabcabc")] * 3)
    assert seen.perplexity([list("abcabc")]) < 2 < seen.perplexity([list("cba")])
    assert seen.perplexity([["new"]]) > 5


def test_topics_in_texts() -> None:
    assert coverage([units("我喜欢面包")], [["面包", "喜欢", "汤"]]) == [pytest.approx(2 / 3)]
    assert coverage([units("breads and soup")], [["bread", "soup"]]) == [0.5]  # not literally
    judge = TopicJudge([["a", "x"], ["b", "x"]] * 20, [("A",), ("B",)] * 20)
    assert judge.consistency([["a"]], [("A", "other")]) == [0.5]
    novelty = Novelty([["a", "b"], ["a"]], [["one"], ["two"]])
    assert novelty(["a", "b"], ["one"]) == 0
    assert novelty(["a", "b"], ["two"]) == 0.5
    assert novelty(["a"], ["three"]) == 1


# -- the study --------------------------------------------------------------------------------------


def study_in(folder: Path, data: Path | None = None, **settings: Any) -> TegFormerStudy:
    """The study at the smoke scale."""
    config = TegFormerConfig.model_validate({**TegFormerDesign.scales["smoke"].model_dump(), **settings})
    return TegFormerStudy(config, Session(0, folder, data))


def writers(folder: Path) -> tuple[TegFormerStudy, dict[str, Author]]:
    """A study of 40 essays, and its untrained networks."""
    study = study_in(folder / "out", folder / "data")
    write_essays(folder / "data", 30, 4, 6, 40)
    data = study.data()
    gpt2 = study._gpt2(data)
    return study, {arm: study.build(arm, data, gpt2).eval() for arm in ("tegformer", "plain", "prompted")}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[TegFormerStudy, dict[str, Author]]:
    return writers(tmp_path_factory.mktemp("writers"))


def test_the_sample_is_regular_and_deterministic(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_essays(tmp_path / name, 60, 3, 5, 50)
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()
    folder = essays.read_folder(tmp_path / "one", tmp_path / "one" / "train.txt")
    assert (len(folder.train), len(folder.topics), len(folder.general)) == (60, 40, 50)
    assert all(30 <= len(text.split()) <= 60 for text in folder.train.texts)
    assert all(2 <= len(topics) <= 4 for topics in folder.train.topics)
    shares = coverage([text.split() for text in folder.train.texts], folder.train.topics)
    assert 0.5 < sum(shares) / len(shares) < 0.95


def test_parts_are_drawn_by_seed(tmp_path: Path) -> None:
    write_essays(tmp_path / "data", 30, 4, 6, 20)
    one = study_in(tmp_path / "a", tmp_path / "data", resplit=True).data()
    same = study_in(tmp_path / "b", tmp_path / "data", resplit=True).data()
    assert one == same
    other = TegFormerStudy(study_in(tmp_path / "a", resplit=True).config, Session(1, tmp_path / "c", tmp_path / "data"))
    found = other.data()
    assert found.test.texts != one.test.texts
    assert (len(found.train), len(found.dev or ()), len(found.test)) == (30, 4, 6)
    assert len({*found.train.texts, *found.test.texts, *(found.dev.texts if found.dev else ())}) == 40
    (tmp_path / "data" / "test.txt").unlink()
    (tmp_path / "data" / "dev.txt").unlink()
    alone = study_in(tmp_path / "d", tmp_path / "data", keep_best=True, held_out=0.2).data()
    assert (len(alone.train), len(alone.dev or ()), len(alone.test)) == (19, 5, 6)


def test_stored_states_are_those_of_gpt2(trained: tuple[TegFormerStudy, dict[str, Author]]) -> None:
    study, models = trained
    model = models["tegformer"]
    assert isinstance(model, TopicWriter)
    rows = model.rows(study.data().train)
    array = np.zeros((int(rows.starts[-1]), 16), np.float16)
    cached = cached_states(model, rows, array, lambda starts: iter(starts))
    with_states, without = (model.collate([part[k] for k in (3, 7, 11)]) for part in (cached, rows))
    assert with_states.states is not None
    read = without.gold != model.padding  # padding has states of zero
    with torch.no_grad():
        torch.testing.assert_close(model(with_states)[read], model(without)[read], atol=2e-2, rtol=1e-2)


def test_topics_before_the_essay(trained: tuple[TegFormerStudy, dict[str, Author]]) -> None:
    """The prompted model reads exactly [CLS] topics [SEP] essay, however the batch is padded."""
    study, models = trained
    model = models["prompted"]
    assert isinstance(model, PromptedWriter)
    rows = model.rows(study.data().train)
    chosen = [rows[k] for k in range(4)]
    with torch.no_grad():
        together = model(model.collate(chosen))
        for k, row in enumerate(chosen):
            prompt = model.prompt([model.topics[number] for number in row.topics])
            ids = torch.tensor([[*prompt, *row.ids[1:-1]]])
            alone = model.model(ids)[0, len(prompt) - 1 :].log_softmax(-1)
            torch.testing.assert_close(together[k, : len(row.ids) - 1], alone, atol=1e-4, rtol=1e-4)


def test_predict_takes_words_files_and_folders(
    trained: tuple[TegFormerStudy, dict[str, Author]], tmp_path: Path
) -> None:
    study, models = trained
    model = models["tegformer"]
    with pytest.warns(UserWarning, match="'braed' is left out: did you mean bread"):
        answer = study.predict(model, Path("soup, braed sugar"))
    assert len(answer.table) == study.config.samples
    assert answer.text
    assert set(answer.figures) == {"attention", "extension", "gate"}
    path = tmp_path / "asked.txt"
    path.write_text("soup sugar\n\nnothing known\nan essay</d>snow fog\n")
    answer = study.predict(model, path)
    assert [row["line"] for row in answer.table] == ["asked.txt:1"] * 3 + ["asked.txt:3"] + ["asked.txt:4"] * 3
    assert "none of the topics is known" in answer.table[3]["problem"]
    assert answer.table[4]["topics"] == "snow fog"
    assert answer.table == study.predict(model, tmp_path).table
    with pytest.raises(Problem, match="none of the topics is known: xyz"):
        study.predict(model, Path("xyz"))
    path.write_text("\n")
    with pytest.raises(Problem, match="no topics here"):
        study.predict(model, path)


@pytest.mark.parametrize("decoding", ["greedy", "beam", "nucleus"])
def test_every_decoding_writes(trained: tuple[TegFormerStudy, dict[str, Author]], decoding: str) -> None:
    study, models = trained
    config = study.config.model_copy(update={"decoding": decoding, "beams": 2})
    for model in models.values():
        answer = TegFormerStudy(config, study.session).predict(model, Path("soup sugar"))
        assert len(answer.table) == (3 if decoding == "nucleus" else 1)


def test_topics_are_marked() -> None:
    assert marked("我喜欢面包。", ["面包"]) == "我喜欢[面包]。"
    assert marked("Soup (a+b) soups", ["soup", "a+b"]).startswith("[Soup]")


def test_weights_of_attention_are_distributions(trained: tuple[TegFormerStudy, dict[str, Author]]) -> None:
    _, models = trained
    model = models["tegformer"]
    assert isinstance(model, TopicWriter)
    weights, tokens = attention_weights(model, ["soup", "bread"], "the soup .")
    assert tokens == ["the", "soup", ".", "[SEP]"]
    np.testing.assert_allclose(weights.sum(0), 1, rtol=1e-5)
    for topic, words in zip(["soup", "bread"], extension_weights(model, ["soup", "bread"]), strict=True):
        assert list(words) == model.extension_of(topic)
        assert not words or sum(words.values()) == pytest.approx(1, rel=1e-4)


# -- bad input --------------------------------------------------------------------------------------


def write(folder: Path, **files: str) -> Path:
    """Files by name, with dots for two underscores."""
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        path = folder / name.replace("__", ".")
        path.write_text(content, encoding="utf-8")
    return folder


GOOD = "one two three</d>a b\n" * 12


@pytest.mark.parametrize(
    ("files", "message", "place"),
    [
        ({"train__txt": GOOD + "no mark here\n"}, "no </d> in this line: 'no mark here'", "train.txt:13"),
        ({"train__txt": GOOD + "</d>a\n"}, "without text or topics", "train.txt:13"),
        ({"train__txt": GOOD + "text</d> \n"}, "without text or topics", "train.txt:13"),
        ({"train__txt": "\n"}, "has no essays", "train.txt"),
        ({"train__txt": GOOD, "topic_dict__txt": "ab\nbb\n"}, "none of the topics is known: a, b", "train.txt:1"),
        ({"train__csv": "text,topic\nx,y\n"}, "no column 'topics'", "train.csv"),
        ({"train__csv": "text,topics\nx,\n"}, "without text or topics", "train.csv:2"),
        ({"train__txt": GOOD, "frequency__txt": "word many\n"}, "not a word and its count", "frequency.txt:1"),
        ({"essays__txt": GOOD}, "no data for tegformer here", ""),
    ],
)
def test_bad_folders(tmp_path: Path, files: dict[str, str], message: str, place: str) -> None:
    folder = write(tmp_path / "data", **files)
    with pytest.raises(Problem, match=re.escape(message)) as caught:
        study_in(tmp_path / "out", folder).data()
    assert place in caught.value.where


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[1]", "holds no JSON object"),
        ("{", "is damaged"),
        ('{"0": [-1]}', "not the words of a topic: '0'"),
        ('{"0": [true]}', "not the words of a topic: '0'"),
        ('{"x": [1]}', "not the words of a topic: 'x'"),
        ('{"2": [1]}', "topic 2, and the dictionary has 2"),
        ('{"0": [3]}', "extension word 3, and the table has 3 rows"),
    ],
)
def test_bad_relations(tmp_path: Path, content: str, message: str) -> None:
    folder = write(tmp_path / "data", train__txt=GOOD)
    write(folder / "GNN", relations__json=content)
    with pytest.raises(Problem, match=re.escape(message)):
        study_in(tmp_path / "out", folder, extension_words=3).data()


def test_relations_are_read(tmp_path: Path) -> None:
    folder = write(tmp_path / "data", train__txt=GOOD)
    write(folder / "GNN", relations__json='{"1": [4, 2]}')
    assert study_in(tmp_path / "out", folder).data().knowledge.relations == ((), (4, 2))


def test_own_data_are_told_about(tmp_path: Path) -> None:
    """More than five topics, unknown ones, a test file of topics alone, Chinese without spaces."""
    text = "面包和汤都很好吃</d>a b c d e f\n" * 12 + "x</d>a zz\n"
    folder = write(tmp_path / "data", zhihu__txt=text, topic_dict__txt="a\nb\nc\nd\ne\nz\n", test__txt="a b\n")
    with pytest.warns(UserWarning, match="holds topics alone") as caught:
        data = study_in(tmp_path / "out", folder, textrank="own").data()
    told = " ".join(str(warning.message) for warning in caught)
    assert "12 essays have more than 5 topics" in told
    assert "1 topics are not in the dictionary and are left out, such as 'zz': did you mean z" in told
    assert "install jieba" in told
    assert all(len(topics) <= 5 for topics in data.train.topics)


def test_tables_and_single_files_are_read(tmp_path: Path) -> None:
    rows = "".join(f'"one, two {k}",a b\n' for k in range(12))
    folder = write(tmp_path / "data", mine__csv="text,topics\n" + rows)
    for source in (folder, folder / "mine.csv"):
        data = study_in(tmp_path / "out", source).data()
        assert len(data.train) + len(data.test) == 12
        assert data.topics == ("a", "b")
        assert data.train.texts[0].startswith("one, two")


def test_gpt2_and_tokenizer_are_checked(tmp_path: Path, trained: tuple[TegFormerStudy, dict[str, Author]]) -> None:
    study, _ = trained
    data, folder = study.data(), study.session.data_dir
    without = study_in(tmp_path / "a", folder, gpt2="none")
    with pytest.raises(Problem, match="the arm tegformer needs a GPT-2"):
        without.build("tegformer", data, None)
    assert without.build("plain", data, None).judge is None
    with pytest.raises(Problem, match="no folder 'absent' here"):
        study_in(tmp_path / "b", folder, gpt2="absent").train("plain", data)
    with pytest.raises(Problem, match=r"the tokenizer has no \[CLS\], \[SEP\]"):
        TopicWriter({"gpt2": None, "fusion": "domain"}, word_tokenizer(["a"], special=["[PAD]", "[UNK]"]), ["a"], [])
    gpt2 = study._gpt2(data)
    assert gpt2 is not None
    gpt2.save_folder(tmp_path / "lm")
    given = study_in(tmp_path / "c", folder, gpt2=str(tmp_path / "lm"))
    loaded = given._gpt2(data)
    assert loaded is not None
    assert loaded.settings["config"]["n_embd"] == 16
    with pytest.raises(Problem, match=r"GPT-2 reads 96 tokens, an essay has 97"):
        study_in(tmp_path / "d", folder, max_length=97).build("tegformer", data, gpt2)
    other = word_tokenizer(["a", "b"])
    with pytest.raises(Problem, match="GPT-2's vocabulary has"):
        TopicWriter({"gpt2": gpt2.settings["config"]}, other, ["a"], [], 40)
