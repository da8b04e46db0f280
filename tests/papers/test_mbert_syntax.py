"""mbert_syntax: fidelity, transport, trees, parser, encoder, probes, typology, use, and bad input."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import networkx as nx
import numpy as np
import pytest
import torch
from torch import Tensor

from repertory.core import checkpoint
from repertory.core.problem import Problem
from repertory.core.study import Session
from repertory.data import conllu
from repertory.data.conllu import RELATIONS, UPOS, Sentence
from repertory.papers.mbert_syntax import transport
from repertory.papers.mbert_syntax.encoder import Encoder, MaskedLanguageModel, Parser, train_tokenizer
from repertory.papers.mbert_syntax.model import Parse, ParserHead, attachment_scores
from repertory.papers.mbert_syntax.probes import arcs_of, encode_all, fit_probe
from repertory.papers.mbert_syntax.race import distance_matrix_by_pairs, race_clouds, spanning_tree_by_networkx
from repertory.papers.mbert_syntax.settings import SyntaxConfig
from repertory.papers.mbert_syntax.study import SyntaxData, SyntaxStudy
from repertory.papers.mbert_syntax.transport import (
    Cloud,
    distance_matrix,
    label_distances,
    make_cloud,
    otdd,
    schedule_length,
    sinkhorn,
    squared_distances,
)
from repertory.papers.mbert_syntax.trees import single_root_tree, spanning_tree
from repertory.papers.mbert_syntax.typology import mantel, regress, word_order
from tests.fidelity.cases import assert_agrees, cases
from tests.fidelity.fill import digest, fill_, probe

TINY: dict[str, Any] = {
    "model_type": "bert", "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16,
    "max_position_embeddings": 32, "vocab_size": 120,
}  # fmt: skip
ENGLISH = """\
# sent_id = a
1-2\tDon't\t_\t_\t_\t_\t_\t_\t_\t_
1\tDo\tdo\tAUX\t_\t_\t3\taux\t_\t_
2\tn't\tnot\tPART\t_\t_\t3\tadvmod:neg\t_\t_
# a comment inside
3\tbark\tbark\tVERB\t_\t_\t0\troot\t_\tSpaceAfter=No
3.1\tghost\t_\t_\t_\t_\t_\t_\t_\t_
4\t!\t!\tPUNCT\t_\t_\t3\tpunct\t_\t_

"""


# -- fidelity ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", cases("mbert_syntax"))
def test_agrees_with_the_authors_code(case: dict[str, Any]) -> None:
    c = case["config"]
    if case["name"].startswith("otdd"):
        clouds = reference_clouds(c)
        assert label_distances(clouds).tolist() == [pytest.approx(row, abs=5e-6) for row in case["label_distances"]]
        assert otdd(clouds[0], clouds[1]) == pytest.approx(case["otdd"], abs=2e-6)
        return
    model = ParserHead(c["hidden"], c["arc_dim"], c["tag_dim"], c["pos_dim"], c["num_labels"], c["num_pos"], False)
    fill_(model).eval()
    hidden = probe(*case["input"]["hidden_states"])
    heads, relations, pos = (torch.tensor(case["input"][f"{n}_ids"]) for n in ("head", "arc_label", "pos_label"))
    scores = model(hidden, heads != -1)
    assert_agrees(scores.arcs.masked_fill(scores.arcs < -1e7, 0), case, model)
    assert scores.pos is not None
    found, expected = digest(scores.pos.log_softmax(-1)), case["pos_log_probs"]
    assert found["values"] == pytest.approx(expected["values"], rel=1e-4)
    assert model.losses(hidden, heads, relations, pos)["loss"].item() == pytest.approx(case["loss"], rel=1e-6)


def reference_clouds(c: dict[str, Any]) -> list[Cloud]:
    d = c["dim"]
    y1, y2 = torch.arange(c["n1"]) % c["classes1"], (2 * torch.arange(c["n2"]) + 1) % c["classes2"]
    x1 = probe(c["n1"], d) + 0.5 * y1.float().sin()[:, None]
    moved = c["shift"] * torch.linspace(-1, 1, d)
    x2 = c["scale"] * probe(c["n2"], d) + moved + 0.5 * y2.float().sin()[:, None]
    return [make_cloud(x1, y1), make_cloud(x2, y2)]


# -- transport --------------------------------------------------------------------------------------


def test_batches_of_class_pairs_give_what_single_problems_give() -> None:
    clouds = [make_cloud(*language) for language in race_clouds(3, vectors=70, dim=8, classes=6)]
    torch.testing.assert_close(distance_matrix(clouds), distance_matrix_by_pairs(clouds), rtol=1e-4, atol=1e-5)


def test_the_distance_is_symmetric_and_least_for_equal_sets_at_any_origin() -> None:
    x, y = race_clouds(1, vectors=60, dim=5, classes=4)[0]
    a, b = make_cloud(x, y), make_cloud(1.3 * x, y)
    assert 0 < otdd(a, a) < otdd(a, b) / 2
    assert otdd(a, b) == pytest.approx(otdd(b, a), rel=0.02)  # the number of the class enters the box
    far = [make_cloud(points + 100, y) for points in (x, 1.3 * x)]
    assert otdd(far[0], far[1]) == pytest.approx(otdd(a, b), rel=1e-3)


def test_the_schedule_comes_near_the_fixed_point_of_sinkhorn() -> None:
    x, y = probe(9, 3), probe(7, 3).flip(1) + 0.3
    cost = squared_distances(x, y).double()
    f, g = torch.zeros(9).double(), torch.zeros(7).double()
    for _ in range(3000):
        f = -0.1 * ((g / 0.1 - np.log(7)) - cost / 0.1).logsumexp(1)
        g = -0.1 * ((f / 0.1 - np.log(9))[:, None] - cost / 0.1).logsumexp(0)
    both = torch.cat([x, y]).double()
    diameter = (both.amax(0) - both.amin(0)).norm()[None]
    assert sinkhorn(cost[None], diameter).item() == pytest.approx((f.mean() + g.mean()).item(), rel=0.1)


def test_the_product_with_the_kernel_gives_what_logarithms_give(monkeypatch: pytest.MonkeyPatch) -> None:
    clouds = [make_cloud(*language) for language in race_clouds(2, vectors=60, dim=8, classes=5)]
    fast = label_distances(clouds), otdd(clouds[0], clouds[1])
    monkeypatch.setattr(transport, "SAFE", 0.0)
    torch.testing.assert_close(label_distances(clouds), fast[0], rtol=1e-5, atol=1e-5)
    assert otdd(clouds[0], clouds[1]) == pytest.approx(fast[1], rel=1e-4)


def test_the_schedule_by_the_rule_of_the_library() -> None:
    for diameter in (0.2, 0.33, 1.0, 7.3, 40.0):
        steps = len(np.arange(2 * np.log(diameter), np.log(0.1), 2 * np.log(0.5))) + 2
        assert schedule_length(torch.tensor([diameter])).item() == steps


def test_single_cases_of_a_class_are_left_out_and_one_class_is_refused() -> None:
    cloud = make_cloud(probe(7, 2), torch.tensor([4, 2, 2, 9, 4, 4, 2]))
    assert cloud.classes == (2, 4)
    assert cloud.counts.tolist() == [3, 3]
    assert cloud.labels.tolist() == [0, 0, 0, 1, 1, 1]
    with pytest.raises(Problem, match=r"1 relation\(s\) with two cases"):
        make_cloud(probe(3, 2), torch.tensor([1, 1, 5]))


# -- trees ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [2, 3, 5, 9, 20])
def test_spanning_trees_are_those_of_networkx(size: int) -> None:
    rng = np.random.default_rng(size)
    for _ in range(30):
        scores = rng.random((size, size))
        ours, theirs = spanning_tree(scores), spanning_tree_by_networkx(scores)
        assert ours.tolist() == theirs.tolist()
        assert nx.is_arborescence(nx.DiGraph([(int(h), d) for d, h in enumerate(ours) if h >= 0]))


def test_one_word_hangs_from_the_root() -> None:
    rng = np.random.default_rng(0)
    for size in (2, 3, 6, 12):
        scores = rng.random((size, size))
        scores[0] += 2  # the root attracts every word
        assert (spanning_tree(scores) == 0).sum() == size - 1
        best = max((total(scores, heads) for heads in every_tree(size)), default=0.0) if size < 6 else None
        heads = single_root_tree(scores)
        assert (heads == 0).sum() == 1
        if best is not None:
            assert total(scores, heads.tolist()) == pytest.approx(best)


def every_tree(size: int) -> list[list[int]]:
    from itertools import product

    trees = [[-1, *heads] for heads in product(range(size), repeat=size - 1)]
    return [t for t in trees if t.count(0) == 1 and not conllu.tree_fault(t[1:])]


def total(scores: np.ndarray, heads: Any) -> float:
    return float(sum(scores[head, word] for word, head in enumerate(heads) if word))


# -- the parser -------------------------------------------------------------------------------------


def gold(batch: int = 2, words: int = 5) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    hidden = probe(batch, words + 1, 12)
    heads = torch.tensor([[-1, 2, 0, 2, 3, 2]] * batch)[:, : words + 1]
    relations = torch.where(heads < 0, -1, torch.where(heads == 0, RELATIONS.index("root"), 25))
    return hidden, heads, relations, torch.where(heads < 0, -1, 8)


def filled(root_fix: bool = True) -> ParserHead:
    return cast(ParserHead, fill_(ParserHead(12, 8, 6, 4, root_fix=root_fix))).eval()


def test_arcs_to_the_root_are_learned_with_the_fix_alone() -> None:
    hidden, heads, relations, pos = gold()
    for fix in (True, False):
        head = filled(root_fix=fix)
        scores = head(hidden, heads >= 0)
        assert (scores.arcs[:, 1:, 0] > -1e7).all() == fix
        parts = head.losses(hidden, heads, relations, pos)
        log = scores.arcs.log_softmax(-1)
        taken = [(w, h) for w, h in enumerate(heads[0].tolist()) if h > 0 or (fix and h == 0)]
        wanted = -sum(log[b, w, h].item() for b in range(2) for w, h in taken) / 8  # 10 words - 2 sentences
        assert parts["arc"].item() == pytest.approx(wanted, rel=1e-5)
        assert parts["loss"].item() == pytest.approx(sum(parts[k].item() for k in ("arc", "tag", "pos")), rel=1e-6)


@pytest.mark.parametrize("pos_dim", [0, 4])
def test_a_parser_learns_a_tree_by_heart(pos_dim: int) -> None:
    torch.manual_seed(0)
    _, heads, relations, pos = gold()
    hidden = torch.randn(2, 6, 32)
    head = ParserHead(32, 32, 16, pos_dim)
    optimizer = torch.optim.Adam(head.parameters(), lr=0.01)
    for _ in range(120):
        optimizer.zero_grad()
        head.losses(hidden, heads, relations, pos)["loss"].backward()
        optimizer.step()
    head.eval()
    for tree in head.parse(hidden, heads >= 0):
        assert tree.heads == heads[0, 1:].tolist()
        assert tree.relations == relations[0, 1:].tolist()
        assert tree.pos == ([8] * 5 if pos_dim else [])


def test_every_parse_is_a_tree_and_only_its_root_is_called_root() -> None:
    head = filled()
    words = torch.tensor([[False] + [True] * 7, [False] + [True] * 3 + [False] * 4])
    for tree, size in zip(head.parse(probe(2, 8, 12), words), (7, 3), strict=True):
        assert len(tree.heads) == size
        assert conllu.tree_fault(tree.heads) == ""
        assert [r == RELATIONS.index("root") for r in tree.relations] == [h == 0 for h in tree.heads]
    official = filled(root_fix=False)
    for tree in official.parse(probe(2, 8, 12), words):
        assert 0 in tree.heads


def test_punctuation_is_not_scored() -> None:
    read = Sentence(("a", "b", "."), (8, 16, UPOS.index("PUNCT")), (2, 0, 2), (26, 35, 33), (), "")
    assert attachment_scores([Parse([2, 0, 1], [26, 35, 1], [])], [read]) == {"uas": 100.0, "las": 100.0}
    assert attachment_scores([Parse([2, 1, 2], [25, 35, 33], [])], [read]) == {"uas": 50.0, "las": 0.0}


# -- sentences through the encoder ------------------------------------------------------------------


@pytest.fixture(scope="module")
def sentences(tmp_path_factory: pytest.TempPathFactory) -> tuple[Sentence, ...]:
    path = tmp_path_factory.mktemp("conllu") / "a.conllu"
    path.write_text(ENGLISH, encoding="utf-8")
    return conllu.read_conllu(path)


@pytest.fixture(scope="module")
def tokenizer() -> str:
    return train_tokenizer(["Do", "n't", "bark", "barking", "dogs", "!", "Dog"] * 3, 120)


def test_words_are_found_at_their_first_subwords(tokenizer: str, sentences: tuple[Sentence, ...]) -> None:
    encoder = Encoder(TINY, tokenizer).eval()
    encoded = encoder.encode(sentences[0])
    words = [encoder.tokenizer.encode(form, add_special_tokens=False).ids for form in sentences[0].forms]
    assert list(encoded.ids) == [encoder.first, *(n for word in words for n in word), encoder.last]
    assert encoded.places == (0, *(1 + sum(map(len, words[:k])) for k in range(4)))
    batch = encoder.collate([encoded, encoder.encode(conllu.plain_sentence(["dogs"]))])
    assert batch.heads.tolist() == [[-1, 3, 3, 0, 3], [-1, -1, -1, -1, -1]]
    assert batch.words.tolist() == [[False] + [True] * 4, [False, True, False, False, False]]
    states = encoder.states(batch)
    assert len(states) == 3
    alone = encoder.states(encoder.collate([encoded]))[-1]
    torch.testing.assert_close(states[-1][:1], alone, rtol=1e-4, atol=1e-5)


def test_a_word_without_subwords_becomes_unknown_and_long_sentences_are_cut(tokenizer: str) -> None:
    encoder = Encoder(TINY, tokenizer, max_length=8)
    assert encoder.unknown in encoder.encode(conllu.plain_sentence(["\u00ad", "dogs"])).ids
    long = Sentence(("!",) * 9, (13,) * 9, (2, 0, *(2,) * 7), (33,) * 9, (), "")
    cut = encoder.encode(long)
    assert (len(cut.ids), len(cut.sentence), cut.whole, cut.usable) == (8, 6, False, True)
    assert (
        encode_all(encoder, [long, Sentence(long.forms, long.upos, (9, *long.heads[1:]), long.relations, (), "")])[1]
        == 1
    )


def test_the_shuffled_control_reads_the_same_words_in_another_order(tokenizer: str) -> None:
    forms = ["Do", "dogs", "bark", "!", "barking", "Dog"]
    plain = Encoder(TINY, tokenizer).encode(conllu.plain_sentence(forms))
    encoder = Encoder(TINY, tokenizer, shuffled=True)
    mixed = encoder.encode(conllu.plain_sentence(forms))
    assert sorted(mixed.ids) == sorted(plain.ids)
    assert mixed.ids != plain.ids
    assert [mixed.ids[k] for k in mixed.places] == [plain.ids[k] for k in plain.places]
    assert mixed == encoder.encode(conllu.plain_sentence(forms))


def test_vectors_are_heads_minus_dependents(tokenizer: str, sentences: tuple[Sentence, ...]) -> None:
    encoder = Encoder(TINY, tokenizer).eval()
    encoded = encode_all(encoder, sentences)[0]
    arcs = arcs_of(encoder, encoded, 10, np.random.default_rng(0))
    states = torch.stack(encoder.states(encoder.collate(encoded)))[:, 0]  # (layers + 1, N, H)
    wanted = {
        RELATIONS.index(name): states[:, 3] - states[:, word]
        for name, word in (("aux", 1), ("advmod", 2), ("punct", 4))
    }
    assert sorted(arcs.relations.tolist()) == sorted(wanted)
    for k, relation in enumerate(arcs.relations.tolist()):
        torch.testing.assert_close(arcs.vectors[:, k], wanted[relation])
    with pytest.raises(Problem, match="no words with a head"):
        arcs_of(encoder, [], 10, np.random.default_rng(0))


def test_masked_training_reaches_every_weight_that_counts(tokenizer: str) -> None:
    encoder = Encoder(TINY, tokenizer)
    model = MaskedLanguageModel(encoder)
    batch = encoder.collate([encoder.encode(conllu.plain_sentence(["dogs", "bark", "!"] * 3))] * 4)
    model(batch.ids, batch.mask).backward()
    still = [name for name, p in encoder.named_parameters() if p.grad is None]
    assert all("pooler" in name for name in still)


def test_a_frozen_encoder_stays_as_it_is(tokenizer: str, sentences: tuple[Sentence, ...]) -> None:
    settings = {"encoder": TINY, "tokenizer": tokenizer}
    for frozen in (True, False):
        parser = Parser(settings, {"arc_dim": 8, "tag_dim": 8, "pos_dim": 4}, frozen=frozen).train()
        parser(parser.encoder.collate([parser.encoder.encode(sentences[0])]))["loss"].backward()
        learns = any(p.grad is not None for p in parser.encoder.parameters())
        assert learns != frozen
        assert parser.encoder.training != frozen


def test_saved_and_loaded_a_parser_says_the_same(
    tmp_path: Path, tokenizer: str, sentences: tuple[Sentence, ...]
) -> None:
    settings = {"encoder": TINY, "tokenizer": tokenizer}
    parser = Parser(settings, {"arc_dim": 8, "tag_dim": 8}, "en", True, ["de"], ["de", "en"]).eval()
    parser.transfer.copy_(torch.tensor([[50.0, 20.0]]))
    checkpoint.save(parser, tmp_path / "model")
    loaded = checkpoint.load(tmp_path / "model")
    batch = parser.encoder.collate([parser.encoder.encode(sentences[0])])
    assert loaded.parse(batch) == parser.parse(batch)
    assert loaded.transfer.tolist() == [[50.0, 20.0]]


def test_encoders_of_other_kinds_are_read(tmp_path: Path, tokenizer: str, sentences: tuple[Sentence, ...]) -> None:
    from tokenizers import Tokenizer
    from transformers import AutoModel, DistilBertConfig, PreTrainedTokenizerFast

    config = DistilBertConfig(vocab_size=120, dim=16, n_layers=2, n_heads=2, hidden_dim=16, max_position_embeddings=32)
    AutoModel.from_config(config).half().save_pretrained(tmp_path)
    fast = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(tokenizer), unk_token="[UNK]", pad_token="[PAD]")
    fast.save_pretrained(tmp_path)
    encoder = Encoder.from_folder(tmp_path).eval()
    assert (encoder.width, encoder.depth) == (16, 2)
    assert {p.dtype for p in encoder.parameters()} == {torch.float32}
    Parser(encoder.settings, {"arc_dim": 8})(encoder.collate([encoder.encode(sentences[0])]))["loss"].backward()
    assert len(encoder.states(encoder.collate([encoder.encode(sentences[0])]))) == 3
    with pytest.raises(Problem, match="no encoder of Hugging Face"):
        Encoder.from_folder(tmp_path / "absent")


# -- probes and typology ----------------------------------------------------------------------------


def test_a_probe_knows_relations_with_five_cases() -> None:
    relations = torch.tensor([3] * 40 + [5] * 40 + [7] * 4)
    vectors = probe(84, 6) + relations[:, None]
    found = fit_probe(vectors, relations, 1e-3)
    assert found.known.tolist() == [3, 5]
    assert found.accuracy(vectors, relations) > 90
    assert np.isnan(found.accuracy(vectors[-4:], relations[-4:]))
    with pytest.raises(Problem, match="1 relation"):
        fit_probe(vectors[:42], relations[:42], 1e-3)


def test_mantel_by_all_permutations() -> None:
    rng = np.random.default_rng(0)
    a = rng.random((4, 4))
    a = a + a.T
    same = mantel(a, a, 2000, rng)
    assert same is not None
    assert same.rho == pytest.approx(1)
    assert same.p == pytest.approx(1 / 24, abs=0.02)  # the identity alone orders all pairs as they are
    assert mantel(a[:2, :2], a[:2, :2], 10, rng) is None
    missing = a.copy()
    missing[0] = missing[:, 0] = np.nan
    left = mantel(a, missing, 10, rng)
    assert left is not None
    assert left.pairs == 3


def test_differences_predict_a_distance_made_of_them(tmp_path: Path) -> None:
    data = tiny_study(tmp_path, sample_languages=8).data()
    distance = data.differences.values @ np.arange(1.0, 1 + len(data.differences.names))
    found = regress(data.differences, distance, 1)
    assert found is not None
    assert found.r2 > 0.4
    noise = np.random.default_rng(0).random(distance.shape)
    assert regress(data.differences, noise + noise.T, 1).r2 < 0.3  # pyright: ignore[reportOptionalMemberAccess]
    assert regress(data.differences, distance[:3, :3], 1) is None


def test_word_order_is_counted(tmp_path: Path) -> None:
    treebanks = tiny_study(tmp_path).data().treebanks
    found = word_order(treebanks)
    place = found.names.index("order of nsubj")
    assert found.values[0, 1, place] == 0  # both have the subject first
    assert found.values[0, 2, found.names.index("order of obj")] == 1  # VO and OV
    assert (found.distance == found.distance.T).all()


# -- the study --------------------------------------------------------------------------------------


def tiny_study(folder: Path, seed: int = 0, **settings: Any) -> SyntaxStudy:
    config = SyntaxStudy.scales["smoke"].model_copy(update=settings)
    assert isinstance(config, SyntaxConfig)
    return SyntaxStudy(config, Session(seed, folder))


@pytest.fixture(scope="module")
def parser(tmp_path_factory: pytest.TempPathFactory) -> tuple[Parser, SyntaxStudy, SyntaxData]:
    study = tiny_study(tmp_path_factory.mktemp("study"), sources=2)
    data = study.data()
    return study.train("finetuned", data), study, data


def test_parsers_of_several_sources_are_tested_on_all_languages(
    parser: tuple[Parser, SyntaxStudy, SyntaxData],
) -> None:
    model, study, data = parser
    assert (model.source, model.sources, model.targets) == ("syn1", ["syn2"], ["syn1", "syn2", "syn3"])
    assert model.transfer.isfinite().all()
    with torch.no_grad():
        metrics = study.evaluate(model, data)
    assert {"las", "las_zero_shot", "rho_formal", "rho_transfer", "rho_las", "probe_layer_2"} <= set(metrics)
    written = (study.session.out_dir / "matrices" / "otdd.csv").read_text().splitlines()
    assert written[0] == ",syn1,syn2,syn3"
    figures = {path.stem for path in (study.session.out_dir / "figures").iterdir()}
    assert {"distances", "scatter", "layers", "relations"} <= figures


def test_text_and_treebanks_are_parsed(tmp_path: Path, parser: tuple[Parser, SyntaxStudy, SyntaxData]) -> None:
    model, study, _ = parser
    (tmp_path / "a.txt").write_text("Dogs bark.\n\nthey don't\n", encoding="utf-8")
    found = study.predict(model, tmp_path / "a.txt")
    assert found.table[0]["sentences"] == found.table[0]["parsed"] == 2
    (path,) = found.files.values()
    parsed = conllu.read_conllu(path)
    assert [s.forms for s in parsed] == [("Dogs", "bark", "."), ("they", "don't")]
    assert all(s.annotated for s in parsed)
    assert path.read_text(encoding="utf-8") == found.text

    (tmp_path / "b.conllu").write_text(ENGLISH, encoding="utf-8")
    (tmp_path / "c.conllu").write_text("1\tx\n", encoding="utf-8")
    (tmp_path / "long.txt").write_text("a " * 200, encoding="utf-8")
    with pytest.warns(UserWarning, match="more than 64 subwords"):
        several = study.predict(model, tmp_path)
    rows = {row["file"]: row for row in several.table}
    assert "2 columns" in rows["c.conllu"]["problem"]
    assert rows["b.conllu"]["las"] != ""
    assert rows["long.txt"]["parsed"] == 0
    (kept,) = [p for p in several.files.values() if p.name.startswith("b-")]
    lines = kept.read_text(encoding="utf-8").splitlines()
    assert [line.split("\t")[0] for line in lines if line] == [
        line.split("\t")[0] for line in ENGLISH.splitlines() if line
    ]
    with pytest.raises(Problem, match="no text here"):
        study.predict(model, study.session.out_dir / "figures")


def test_seeds_draw_sentences_of_their_own(tmp_path: Path) -> None:
    drawn = [tiny_study(tmp_path, seed, sentences=20).data().treebanks[0].train for seed in (0, 0, 1)]
    assert len(drawn[0]) == 20
    assert drawn[0] == drawn[1] != drawn[2]


def test_what_the_user_can_put_right_is_said(tmp_path: Path) -> None:
    with pytest.raises(Problem, match="no treebank of 'syn9'"):
        tiny_study(tmp_path, languages="syn1,syn9").data()
    study = tiny_study(tmp_path)
    with pytest.raises(Problem, match="no data for mbert_syntax"):
        study.read(tmp_path)
    data = tiny_study(tmp_path).data()
    with pytest.raises(Problem, match="no encoder 'absent' here"):
        tiny_study(tmp_path / "s", encoder="absent").train("pretrained", data)
    with pytest.raises(Problem, match="no treebank of 'xx'"):
        tiny_study(tmp_path / "t", source="xx").train("random", data)
    pair = tiny_study(tmp_path / "p", languages="syn1,syn2")
    chosen = pair.data()
    model = pair.train("random", chosen)
    with torch.no_grad():
        metrics = pair.evaluate(model, chosen)
    assert "rho_formal" not in metrics
    assert np.isfinite(metrics["distance"])
