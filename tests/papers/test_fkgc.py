"""FKGC: fidelity of the four matchers, fast paths against plain ones, the protocol, use, and bad input."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from repertory.core.problem import Problem
from repertory.core.study import Session
from repertory.data.knowledge_graphs import KnowledgeGraph, read_nell, rule_graph
from repertory.papers.fkgc.completion import Completer, stacked
from repertory.papers.fkgc.embeddings import EMBEDDINGS
from repertory.papers.fkgc.episodes import (
    TaskTable,
    background_tasks,
    chance_mrr,
    draw_episode,
    filtered_ranks,
    first_false,
    make_task,
    ranking_of,
    tasks_of,
    training_tasks,
)
from repertory.papers.fkgc.metar import MetaR
from repertory.papers.fkgc.metric import FAAN, FSRL, GMatching, Hood, MatchingProcessor, Pairs, sinusoids
from repertory.papers.fkgc.queries import read_questions
from repertory.papers.fkgc.settings import RECIPES, FKGCConfig
from repertory.papers.fkgc.study import GRAPH, PHRASES, FKGCStudy, Graphs
from repertory.papers.fkgc.text import TextMatch, sentence_vectors
from repertory.papers.fkgc.training import rate, seen_triples
from tests.fidelity.cases import assert_agrees, cases
from tests.fidelity.fill import fill_, probe

# -- fidelity ---------------------------------------------------------------------------------------


def pairs_of(rows: int, shift: int, meta: int, c: dict[str, Any]) -> Pairs:
    """The pairs and neighbourhoods of the reference cases."""
    b = torch.arange(rows)
    head, tail = c["R"] + (7 * b + shift) % c["E"], c["R"] + (5 * b + 2 * shift + 1) % c["E"]
    return Pairs(hood_of(head, meta, c), hood_of(tail, meta + 1, c))


def hood_of(entity: Tensor, o: int, c: dict[str, Any]) -> Hood:
    b, j = torch.arange(len(entity))[:, None], torch.arange(c["M"])[None]
    degree = 1 + (3 * b + o) % c["M"]
    slots = torch.stack([(5 * b + 2 * j + o) % c["R"], c["R"] + (7 * b + 3 * j + 2 * o) % c["E"]], dim=-1)
    slots[(j >= degree).expand(slots.shape[:2])] = c["num_symbols"]
    return Hood(entity, slots, degree[:, 0])


def metar_pairs(batch: int, count: int, o: int) -> Tensor:
    b, j = torch.arange(batch)[:, None], torch.arange(count)[None]
    return torch.stack([(7 * b + 3 * j + o) % 23, (5 * b + 2 * j + 2 * o + 1) % 23], dim=-1)


def unused(method: str, dim: int) -> int:
    """Parameters that the release defines and never reads; those of FSRL at D = 100."""
    return {"gmatching": dim, "fsrl": 402_200, "faan": 2 * dim * dim + 2 * dim + 4 * dim, "metar": 0}[method]


@pytest.mark.parametrize("case", cases("fkgc"))
def test_agrees_with_the_released_code(case: dict[str, Any]) -> None:
    c, (name, _, what) = case["config"], case["name"].partition("/")
    method = name.partition("_")[0]
    model: Any
    with torch.no_grad():
        if method == "metar":
            model = fill_(MetaR(c["num_ent"], c["embed_dim"], c["few"], beta=c["beta"], margin=c["margin"])).eval()
            few, queries = c["few"], c["num_query"]
            batch = [metar_pairs(c["batch"], count, o) for count, o in ((few, 1), (few, 2), (queries, 3), (queries, 4))]
            positive, wrong, _ = model(*batch)
            outputs = {"p_score": positive, "n_score": wrong, "loss": model.query_loss(positive, wrong)[None]}
        else:
            query, support = pairs_of(c["B"], 3, 2, c), pairs_of(c["few"], 1, 4, c)
            if method == "faan":
                model = FAAN(c["num_symbols"], c["embed_dim"], layers=c["layers"], heads=c["heads"])
            else:
                kind = GMatching if method == "gmatching" else FSRL
                model = kind(c["num_symbols"], c["embed_dim"], steps=c["process_steps"])
            fill_(model).eval()
            if method == "faan":
                model.relation.positions.copy_(sinusoids(3, c["embed_dim"]))
            outputs = {"": model(query, support), "scores": model(query, support)}
            if method == "fsrl":
                g, loss = model.aggregate(model.pairs(support))
                outputs |= {"support": g, "ae_loss": loss[None]}
    if method == "faan":  # the scores differ by less than float32 resolves of their spread
        expected = case["output"]["values"]
        assert outputs[what].tolist() == pytest.approx(expected, abs=1e-4)
    else:
        assert_agrees(outputs[what], case)
    assert sum(p.numel() for p in model.parameters()) + unused(method, c["embed_dim"]) == case["params"]


# -- fast paths against plain ones ------------------------------------------------------------------

SMALL: dict[str, Any] = {"R": 11, "E": 23, "M": 8, "num_symbols": 34}


@pytest.mark.parametrize("kind", [GMatching, FSRL, FAAN])
def test_ranking_all_pairs_agrees_with_scoring_them_one_by_one(kind: Any) -> None:
    torch.manual_seed(0)
    model = kind(34, 12).eval()
    heads, tails = hood_of(torch.tensor([11, 15, 20]), 2, SMALL), hood_of(torch.arange(12, 17), 3, SMALL)
    support = pairs_of(3, 1, 4, SMALL)
    with torch.no_grad():
        scores = model.score(support, heads, tails, block=2)
        for q in range(3):
            head = heads.at(torch.full((5,), q))
            torch.testing.assert_close(scores[q], model(Pairs(head, tails), support), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shots", [1, 4])
@pytest.mark.parametrize("steps", [2, 3])
def test_dead_units_of_the_matching_processor_can_be_left_out(shots: int, steps: int) -> None:
    torch.manual_seed(0)
    matching = MatchingProcessor(6, steps)
    q, g = torch.randn(5, 6), torch.randn(shots, 6)
    torch.testing.assert_close(matching.live(q, g), matching(q, g))
    plain, live = (torch.autograd.grad(f(q, g).sum(), list(matching.parameters())) for f in (matching, matching.live))
    for one, other in zip(plain, live, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", [GMatching, FSRL, FAAN])
def test_the_ranking_loss_is_the_margin_between_true_and_false(kind: Any) -> None:
    torch.manual_seed(0)
    model = kind(34, 8).eval()
    support, query = pairs_of(3, 1, 4, SMALL), pairs_of(4, 3, 2, SMALL)
    false = hood_of(torch.tensor([12, 13, 14, 15]), 5, SMALL)
    expected = F.relu(5 - (model(query, support) - model(Pairs(query.head, false), support))).mean()
    if kind is FSRL:
        expected = expected + 1e-5 * model.aggregate(model.pairs(support))[1]
    torch.testing.assert_close(model.rank_loss(support, query, false, 5.0), expected)


def test_summed_slots_are_those_of_training() -> None:
    torch.manual_seed(0)
    model = GMatching(34, 8, dropout=0.0)
    hood = hood_of(torch.arange(11, 17), 2, SMALL)
    torch.testing.assert_close(model.train().entities(hood), model.eval().entities(hood))


@pytest.mark.parametrize("kind", [GMatching, FSRL, FAAN])
def test_entities_without_neighbours_have_finite_scores_and_gradients(kind: Any) -> None:
    model = kind(34, 8)
    lonely = Hood(torch.tensor([12, 13]), torch.full((2, 4, 2), 34), torch.zeros(2, dtype=torch.long))
    pairs = Pairs(lonely, lonely)
    loss = model.rank_loss(pairs, pairs, lonely, 5.0)
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    if kind is GMatching:
        assert not model.symbol_emb.weight.grad[34].any()


@pytest.mark.parametrize("kind", [GMatching, FSRL, FAAN])
def test_it_compiles_without_a_break_and_takes_an_empty_batch(kind: Any) -> None:
    torch.manual_seed(0)
    model = kind(34, 8).eval()
    query, support = pairs_of(4, 3, 2, SMALL), pairs_of(3, 1, 4, SMALL)
    with torch.no_grad():
        if kind is not FSRL:  # torch does not compile nn.LSTM
            compiled = torch.compile(model, backend="eager", fullgraph=True)
            torch.testing.assert_close(compiled(query, support), model(query, support))
        assert model(pairs_of(0, 3, 2, SMALL), support).shape == (0,)
        assert model.score(support, query.head.at(torch.arange(0)), query.tail).shape == (0, 4)


def test_order_matters_to_the_shots_of_fsrl_alone() -> None:
    torch.manual_seed(0)
    query, support = pairs_of(4, 3, 2, SMALL), pairs_of(3, 1, 4, SMALL)
    turned = Pairs(*(hood.at(torch.tensor([2, 0, 1])) for hood in support))
    for kind, same in ((GMatching, True), (FAAN, True), (FSRL, False)):
        model = kind(34, 8).eval()
        assert torch.allclose(model(query, support), model(query, turned), atol=1e-5, rtol=0) == same


def test_the_decoder_of_fsrl_trains_only_when_asked_and_attention_averages() -> None:
    for asked in (False, True):
        torch.manual_seed(0)
        model = FSRL(34, 8, train_decoder=asked)
        model.aggregate(model.pairs(pairs_of(3, 1, 4, SMALL)))[1].backward()
        assert (model.set_rnn_decoder.weight_ih_l0.grad is not None) == asked
    shots = torch.ones(3, 16)
    model = FSRL(34, 8, attend=True)
    summed = FSRL(34, 8)
    summed.load_state_dict(model.state_dict())
    assert model.aggregate(shots)[0].abs().sum() < summed.aggregate(shots)[0].abs().sum()


@pytest.mark.parametrize("text", [False, True])
def test_the_update_of_metar_is_the_gradient_of_its_support_loss(text: bool) -> None:
    torch.manual_seed(0)
    model = MetaR(23, 6, 3, text=text, beta=2.0).eval()
    if model.embedding.text is not None:
        model.embedding.text.normal_()
    support, negative = metar_pairs(4, 3, 1), metar_pairs(4, 3, 2)
    relation = model.relation_learner(model.embedding(support).flatten(2)).detach().requires_grad_()
    good, bad = (
        torch.linalg.vector_norm(pairs[:, :, 0] + relation[:, None] - pairs[:, :, 1], dim=-1)
        for pairs in (model.embedding(support), model.embedding(negative))
    )
    loss = F.relu(1 + good - bad).mean()
    (gradient,) = torch.autograd.grad(loss, relation)
    found, support_loss = model.adapt(support, negative)
    torch.testing.assert_close(found, relation - 2 * gradient)
    torch.testing.assert_close(support_loss, loss)


def test_metar_without_a_step_keeps_its_relation_and_text_moves_the_gate() -> None:
    model = MetaR(23, 6, 2, text=True, beta=0.0).eval()
    support, negative = metar_pairs(1, 2, 1), metar_pairs(1, 2, 2)
    relation = model.relation_learner(model.embedding(support).flatten(2))
    torch.testing.assert_close(model.adapt(support, negative)[0], relation)
    model.rank_loss(support, negative, metar_pairs(1, 3, 3), metar_pairs(1, 3, 4)).backward()
    assert model.embedding.gate is not None
    assert model.embedding.gate.grad is not None
    with torch.no_grad():
        model.embedding.gate.fill_(-30.0)
    torch.testing.assert_close(model.embedding(torch.arange(3)), torch.zeros(3, 6))  # the text, zero here


@pytest.mark.parametrize("name", EMBEDDINGS)
def test_embeddings_rank_as_they_score(name: str) -> None:
    torch.manual_seed(0)
    model = EMBEDDINGS[name](9, 3, 8)
    pairs = torch.cartesian_prod(torch.arange(2), torch.arange(9))
    triples = torch.stack([pairs[:, 0], torch.ones(18, dtype=torch.long), pairs[:, 1]], 1)
    drawn, heads = torch.randint(9, (18, 2)), torch.arange(18) % 2 == 0
    positive, wrong = model(triples, drawn, heads)
    torch.testing.assert_close(model.score(1, torch.arange(2), torch.arange(9)).flatten(), positive)
    replaced = triples.clone()
    replaced[heads, 0], replaced[~heads, 2] = drawn[heads, 0], drawn[~heads, 0]
    torch.testing.assert_close(model(replaced, drawn, heads)[0], wrong[:, 0])


def test_complex_is_the_real_part_of_the_trilinear_product() -> None:
    model = EMBEDDINGS["complex"](4, 2, 6)
    h, r, t = (
        torch.complex(*x[0].chunk(2)) for x in (model.entity.weight, model.relation.weight, model.entity.weight[1:])
    )
    expected = (h * r * t.conj()).sum().real
    torch.testing.assert_close(model.score(0, torch.tensor([0]), torch.tensor([1]))[0, 0], expected)


# -- the protocol -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def graph() -> KnowledgeGraph:
    return rule_graph(np.random.default_rng(0), 12)


def test_ranks_are_filtered_and_ties_are_shared() -> None:
    scores = torch.tensor([[1.0, 3.0, 3.0, 5.0, 3.0], [4.0, 0.0, 1.0, 2.0, 3.0]])
    allowed = torch.tensor([[True, True, True, False, True], [True] * 5])
    true = torch.tensor([2, 1])
    assert filtered_ranks(scores, true, allowed).tolist() == [2.0, 5.0]
    assert filtered_ranks(scores, true, allowed, "pessimistic").tolist() == [3.0, 5.0]


def test_the_ranking_follows_the_published_protocol() -> None:
    pairs = np.array([[0, 10], [1, 11], [0, 12], [2, 13], [0, 10]])
    known = np.concatenate([pairs, [[0, 14]]])
    task = make_task("r", pairs, np.array([10, 11, 12, 14]), known, 20)
    found = ranking_of(task, 2)
    assert found.support.tolist() == [[0, 10], [1, 11]]
    assert found.heads.tolist() == [0, 2]
    assert found.tails.tolist() == [10, 11, 12, 13, 14]
    assert (found.row.tolist(), found.column.tolist(), found.added) == ([0, 1, 0], [2, 3, 0], 1)
    # For head 0 all but 11 are true, or no candidate; for head 2 all candidates compete.
    assert found.allowed.tolist() == [
        [False, True, False, False, False],
        [True, True, True, False, True],
        [False, True, False, False, False],
    ]
    assert len(ranking_of(task, 1, first_query=3).row) == 2
    assert chance_mrr(found) == pytest.approx(100 * (1 + 1 + (1 + 1 / 2 + 1 / 3 + 1 / 4) / 4) / 3)


def test_negatives_are_never_true_and_hopeless_heads_are_left_out() -> None:
    candidates = np.arange(10, 40)
    nearly = np.array([[0, k] for k in range(10, 39)])
    task = make_task("r", np.concatenate([nearly, [[1, 10]]]), candidates, np.concatenate([nearly, [[1, 10]]]), 50)
    drawn = task.negatives(np.zeros(60, np.int64), np.random.default_rng(0))
    assert set(drawn.tolist()) == {39}
    full = np.array([[0, k] for k in range(10, 40)] + [[1, k] for k in range(10, 30)])
    with pytest.warns(UserWarning, match="30 triples whose candidates are all true"):
        (kept,) = training_tasks([make_task("r", full, candidates, full, 50)], 20, 5, "here")
    assert set(kept.pairs[:, 0].tolist()) == {1}
    with pytest.raises(Problem, match="no training relation has more than 99 candidates"):
        training_tasks([kept], 99, 5, "here")
    assert first_false(task, np.array([[0, 10], [1, 10]])).tolist() == [[0, 39], [1, 11]]


def test_an_episode_has_no_query_among_its_shots(graph: KnowledgeGraph) -> None:
    task = tasks_of(graph, "train", 5)[0]
    for seed in range(20):
        episode = draw_episode(task, 5, 8, np.random.default_rng(seed))
        shots = {tuple(pair) for pair in episode.support.tolist()}
        assert len(shots) == 5
        assert not shots & {tuple(pair) for pair in episode.query.tolist()}
        assert (episode.query[:, 0] == episode.negative[:, 0]).all()
        assert not task.is_known(*episode.negative.numpy().T).any()
    many = draw_episode(task, 5, 500, np.random.default_rng(0))
    assert len(many.query) == 500


def test_many_tasks_are_drawn_at_once_each_from_its_own(graph: KnowledgeGraph) -> None:
    full = np.array([[0, k] for k in range(240, 257)])
    nearly = make_task("nearly", full[:-1], full[:, 1], full[:-1], len(graph.entities))
    tasks = [*tasks_of(graph, "train", 5), nearly]
    chosen = np.array([len(tasks) - 1, 0, 1, 0])
    drawn = TaskTable(tasks).draw(chosen, 5, 30, np.random.default_rng(0))
    assert [part.shape[:2] for part in drawn] == [(4, 5), (4, 5), (4, 30), (4, 30)]
    for row, number in enumerate(chosen):
        task = tasks[number]
        for true, false in ((drawn.support, drawn.support_negative), (drawn.query, drawn.negative)):
            assert task.is_known(*true[row].numpy().T).all()
            assert not task.is_known(*false[row].numpy().T).any()
            assert set(false[row, :, 1].tolist()) <= set(task.candidates.tolist())
            assert (true[row, :, 0] == false[row, :, 0]).all()


def test_background_relations_are_tasks_with_typed_candidates(graph: KnowledgeGraph) -> None:
    tasks = {task.relation: task for task in background_tasks(graph)}
    linked = tasks["concept:linked0"]
    assert len(linked.candidates) == 30
    untyped = replace(graph, entities=tuple(f"Q{k}" for k in range(len(graph.entities))))
    own = {task.relation: task for task in background_tasks(untyped)}["concept:linked0"]
    assert set(own.candidates.tolist()) == set(own.pairs[:, 1].tolist())


def test_embeddings_see_the_support_of_held_out_tasks_and_no_query(graph: KnowledgeGraph) -> None:
    seen = seen_triples(graph, 2)
    for part in ("dev", "test"):
        for relation, pairs in graph.tasks[part].items():
            rows = seen.triples[seen.triples[:, 1] == seen.relations.index(relation)]
            assert rows[:, ::2].tolist() == pairs[:2].tolist()


def test_published_learning_rates() -> None:
    assert [rate(step, RECIPES["gmatching"]) for step in (199_999, 200_000)] == [1.0, 0.5]
    assert [rate(step, RECIPES["fsrl"]) for step in (9_999, 10_000)] == [1.0, 0.25]
    assert [rate(step, RECIPES["faan"]) for step in (5_000, 10_000, 155_000, 300_000)] == [0.5, 1.0, 0.5, 0.0]


# -- text -------------------------------------------------------------------------------------------


def test_phrases_that_share_words_are_near_each_other() -> None:
    texts = ["open the door", "opens a door", "bake bread", "bake some bread", "door", "play guitar"]
    vectors = F.normalize(sentence_vectors(texts, "tfidf", 5))
    similar = vectors @ vectors.T
    assert similar[2, 3] > similar[2, 0]
    assert similar[0, 1] > similar[0, 5]
    assert sentence_vectors(texts, "tfidf", 9).shape == (6, 9)


def test_any_encoder_gives_mean_pooled_vectors(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "red", "blue", "car"]
    tokenizer = tokenizers.BertWordPieceTokenizer({word: k for k, word in enumerate(words)})
    config = transformers.BertConfig(
        vocab_size=8, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    transformers.BertModel(config).save_pretrained(tmp_path)
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer._tokenizer, pad_token="[PAD]").save_pretrained(
        tmp_path
    )
    found = sentence_vectors(["red car", "blue car", "car", "red red car"], str(tmp_path), 3)
    assert found.shape == (4, 3)
    alone = sentence_vectors(["red car", "blue car", "car", "red car"], str(tmp_path), 3)
    torch.testing.assert_close(alone[0], alone[3])  # padding to the longest changes nothing
    with pytest.raises(Problem, match="no encoder of Hugging Face"):
        sentence_vectors(["a", "b", "c"], str(tmp_path / "none"), 2)


def test_text_match_ranks_as_it_scores() -> None:
    model = TextMatch(9, 6).eval()
    support = torch.tensor([[0, 1], [2, 3]])
    scores = model.score(support, torch.tensor([4, 5]), torch.arange(9), block=4)
    single = model.score(support, torch.tensor([5]), torch.tensor([7]))
    torch.testing.assert_close(scores[1, 7], single[0, 0])
    torch.testing.assert_close(
        model.rank_loss(support, torch.tensor([[4, 1]]), torch.tensor([7]), 5.0),
        F.relu(5 - (scores[0, 1] - scores[0, 7])),
    )


# -- the study --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> FKGCStudy:
    config = FKGCConfig.model_validate({**FKGCStudy.scales["smoke"].model_dump(), "episodes": 4, "eval_every": 2})
    return FKGCStudy(config, Session(0, tmp_path_factory.mktemp("session"), keep_seconds=1e9))


@pytest.fixture(scope="module")
def sample(study: FKGCStudy, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sample")
    study.write_sample(folder)
    return folder


@pytest.fixture(scope="module")
def data(study: FKGCStudy, sample: Path) -> Graphs:
    return study.read(sample)


@pytest.fixture(scope="module")
def faan(study: FKGCStudy, data: Graphs) -> Completer:
    return study.train("faan", data)


def test_seeds_draw_other_parts_and_other_supports(study: FKGCStudy, sample: Path, tmp_path: Path) -> None:
    def parts(seed: int) -> list[dict[str, list[list[int]]]]:
        graph = FKGCStudy(study.config, Session(seed, tmp_path / str(seed))).read(sample).structure
        return [{name: pairs.tolist() for name, pairs in tasks.items()} for tasks in graph.tasks.values()]

    assert parts(1) == parts(1) != parts(2)
    plain = FKGCStudy(study.config.model_copy(update={"resplit": False}), Session(1, tmp_path / "p")).read(sample)
    stored = read_nell(sample / GRAPH)
    assert list(plain.structure.tasks["test"]) == list(stored.tasks["test"])


def test_vectors_of_the_folder_are_the_start(study: FKGCStudy, data: Graphs) -> None:
    graph = data.structure
    symbols = stacked(graph.vectors, "TransE")
    entity, relation = graph.vectors["TransE"]
    assert symbols[0].tolist() == relation[0].tolist()
    assert symbols[len(graph.relations)].tolist() == entity[0].tolist()
    model = Completer.of(graph, "gmatching", most=3, dim=8).start_from(symbols)
    torch.testing.assert_close(model.core.symbol_emb.weight[:-1], symbols)
    assert not model.core.symbol_emb.weight[-1].any()
    complex_ones = stacked({"ComplEx": graph.vectors["TransE"]}, "ComplEx")
    assert float(complex_ones.mean(1).abs().max()) < 1e-6
    other = FKGCStudy(study.config.model_copy(update={"vectors": "ComplEx"}), study.session)
    with pytest.raises(Problem, match=r"no entity2vec\.ComplEx"):
        other.train("faan", data)


def test_metar_starts_from_vectors_of_entities_alone_and_matchers_do_not(data: Graphs) -> None:
    graph = data.structure
    entity = torch.from_numpy(graph.vectors["TransE"][0])
    model = Completer.of(graph, "metar", dim=8).start_from(entity)
    torch.testing.assert_close(model.core.embedding.embedding.weight, entity)
    with pytest.raises(Problem, match="vectors for 26 relations"):
        Completer.of(graph, "faan", most=3, dim=8).start_from(entity)


def test_a_question_is_answered_from_json_and_tsv(
    study: FKGCStudy, data: Graphs, faan: Completer, tmp_path: Path
) -> None:
    graph = data.structure
    relation, pairs = next(iter(graph.tasks["test"].items()))
    named = [[graph.entities[h], graph.entities[t]] for h, t in pairs[:4].tolist()]
    question = {"relation": relation, "support": named[:3], "queries": [named[3][0]]}
    (tmp_path / "a.json").write_text(json.dumps([question]))
    lines = [f"{h}\t{relation}\t{t}" for h, t in named[:3]] + [f"{named[3][0]}\t{relation}\t?"]
    (tmp_path / "b.tsv").write_text("\n".join(lines))
    one, two = (study.predict(faan, tmp_path / name) for name in ("a.json", "b.tsv"))
    assert one.table == two.table
    assert len(one.table) == study.config.top_k
    kind = named[0][1].split(":")[1]
    assert {row["tail"].split(":")[1] for row in one.table} <= {t.split(":")[1] for _, t in named[:3]} | {kind}
    assert [row["score"] for row in one.table] == sorted((row["score"] for row in one.table), reverse=True)
    assert set(one.figures) == {"answers", "attention"}
    (tmp_path / "c.json").write_text("{")
    (tmp_path / "d.json").write_text(json.dumps({**question, "queries": ["concept:t9:nobody"]}))
    both = study.predict(faan, tmp_path)
    assert [row["relation"] for row in both.table if "problem" in row] == ["c.json", relation]
    assert len(both.table) == 2 * study.config.top_k + 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"queries": [None]}, "null is no name"),
        ({"support": [["a", {"b": 1}]]}, "is no name"),
        ({"relation": 3}, "3 is no name"),
        ({"query": ["e"]}, "no field is called 'query'"),
        ({"support": [["a", "s", "b"]]}, "the relation is 'r', in its support 's'"),
    ],
)
def test_names_of_a_question_are_checked(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    question = {"relation": "r", "support": [["a", "b"]], "queries": ["e"]}
    (tmp_path / "q.JSON").write_text(json.dumps([question | change]), encoding="utf-8-sig")
    with pytest.raises(Problem, match=message):
        read_questions(tmp_path / "q.JSON")


def test_no_question_is_lost_in_silence(tmp_path: Path) -> None:
    (tmp_path / "q.json").write_text("[]")
    with pytest.raises(Problem, match="no query"):
        read_questions(tmp_path / "q.json")
    (tmp_path / "q.tsv").write_text("a\tr\tb\nc\ts\td\ne\tr\t?\n")
    with pytest.warns(UserWarning, match="nothing is asked about s: left out"):
        (question,) = read_questions(tmp_path / "q.tsv")
    assert (question.support, question.queries) == ([("a", "b")], ["e"])


@pytest.mark.parametrize(
    ("content", "message"),
    [("{}", "no relation, support and queries"), ('[{"support": [[1]], "queries": ["a"]}]', "question 1")],
)
def test_bad_questions_are_named(study: FKGCStudy, faan: Completer, tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "q.json").write_text(content)
    with pytest.raises(Problem, match=message):
        study.predict(faan, tmp_path / "q.json")
    (tmp_path / "empty").mkdir()
    with pytest.raises(Problem, match="no questions here"):
        study.predict(faan, tmp_path / "empty")


def test_embeddings_answer_for_relations_of_their_training_alone(
    study: FKGCStudy, data: Graphs, tmp_path: Path
) -> None:
    model = study.train("transe", data)
    graph = data.structure
    relation, pairs = next(iter(graph.tasks["test"].items()))
    names = [graph.entities[k] for k in pairs[0].tolist()]
    question = {"relation": relation, "support": [names], "queries": [names[0]]}
    (tmp_path / "q.json").write_text(json.dumps([question, {**question, "relation": "unheard"}]))
    table = study.predict(model, tmp_path / "q.json").table
    assert "problem" not in table[0]
    assert "no vector for the relation 'unheard'" in table[-1]["problem"]


def test_metar_wants_the_shots_that_it_was_trained_with(study: FKGCStudy, data: Graphs, tmp_path: Path) -> None:
    model = study.train("metar", data)
    names = [data.structure.entities[k] for k in (0, 1)]
    (tmp_path / "q.json").write_text(json.dumps({"relation": "r", "support": [names], "queries": names}))
    (row,) = study.predict(model, tmp_path / "q.json").table
    assert "1 support triples, 2 are needed" in row["problem"]


def test_a_relation_without_queries_and_an_added_tail_are_told(study: FKGCStudy, data: Graphs, faan: Completer) -> None:
    graph = data.structure
    name, pairs = next(iter(graph.tasks["test"].items()))
    short = replace(graph, tasks={**graph.tasks, "test": {name: pairs[:2]}})
    with pytest.raises(Problem, match=f"'{name}' has 2 triples; 2 shots need 3"):
        study.train("faan", Graphs(short, data.phrases))
    fewer = replace(graph, candidates={**graph.candidates, name: graph.candidates[name][:3]})
    with pytest.warns(UserWarning, match=r"\d+ true tails are no candidates"):
        study.evaluate(faan, Graphs(fewer, data.phrases))
    renamed = replace(graph, entities=(*graph.entities[:-1], "other"))
    with pytest.raises(Problem, match="evaluate it on the graph that it was trained on"):
        study.evaluate(faan, Graphs(renamed, data.phrases))


def test_the_text_arms_run_on_phrases_and_on_one_graph_alone(study: FKGCStudy, data: Graphs, sample: Path) -> None:
    model = study.train("text_match", data)
    assert "commonsense_mrr" in study.evaluate(model, data)
    assert model.core.entity.weight.requires_grad is False
    alone = study.read(sample / PHRASES)
    assert alone.structure is alone.phrases
    found = study.evaluate(model, Graphs(data.phrases, data.phrases))
    assert found["mrr"] == found["commonsense_mrr"]


def test_a_model_is_saved_and_loaded_whole(faan: Completer, data: Graphs, tmp_path: Path) -> None:
    faan.save_pretrained(tmp_path)
    loaded = Completer.from_pretrained(tmp_path).eval()
    assert loaded.symbol_names()[1] == list(data.structure.entities)
    support, heads, tails = torch.tensor([[0, 40], [1, 41]]), torch.tensor([2, 3]), torch.arange(40, 60)
    with torch.no_grad():
        one, two = (model.score("r", support, support, heads, tails) for model in (faan, loaded))
    assert torch.equal(one, two)


# -- released weights -------------------------------------------------------------------------------


def released(method: str, model: Any) -> dict[str, Tensor]:
    """A state dict with the names of the release, dead tensors included."""
    state = dict(model.state_dict())
    dim = next(iter(state.values())).shape[1]
    if method == "gmatching":
        return {k.removeprefix("neighbours."): v for k, v in state.items()} | {"gcn_b": torch.zeros(dim)}
    if method == "fsrl":
        return {k.removeprefix("neighbours."): v for k, v in state.items()} | {"gnn_w.weight": torch.zeros(dim)}
    if method == "metar":
        return state
    encoder, relation = "EntityEncoder.", "RelationRepresentation.RelationEncoder."
    named = {}
    for name, tensor in state.items():
        key = name.replace("symbol_emb", f"{encoder}symbol_emb").replace("neighbours", f"{encoder}NeighborAggregator")
        key = key.replace("relation.layers", f"{relation}encoder_layers").replace("relation.", relation, 1)
        key = key.replace(relation + relation, relation)
        named[key] = tensor[..., None] if key.endswith(("w1.weight", "w2.weight")) else tensor
    return named | {f"{relation}pos_embedding.position_encoding": torch.zeros(4, dim)}


@pytest.mark.parametrize("method", ["gmatching", "fsrl", "faan", "metar"])
def test_released_weights_are_converted(method: str, study: FKGCStudy, sample: Path, tmp_path: Path) -> None:
    graph = read_nell(sample / GRAPH)
    options = {"layers": 2, "heads": 2} if method == "faan" else {}
    ours = Completer.of(graph, method, most=study.config.slots or 4, dim=8, shots=2, options=options)
    fill_(ours.core)
    torch.save(released(method, ours.core), tmp_path / "weights.ckpt")
    found = study.convert(tmp_path / "weights.ckpt", str(sample / GRAPH))
    assert found.method == method
    support = torch.tensor([[0, 40], [1, 41]])
    with torch.no_grad():
        one, two = (
            model.eval().score("r", support, support.flip(0), support[:, 0], torch.arange(40, 50))
            for model in (ours, found)
        )
    if method == "faan":
        ours.core.relation.positions.copy_(sinusoids(3, 8))
        with torch.no_grad():
            one = ours.score("r", support, support.flip(0), support[:, 0], torch.arange(40, 50))
    torch.testing.assert_close(one, two)


def test_weights_that_do_not_fit_are_refused(study: FKGCStudy, sample: Path, tmp_path: Path) -> None:
    file = tmp_path / "weights.ckpt"
    torch.save(released("gmatching", GMatching(34, 8)), file)
    with pytest.raises(Problem, match="neither the names of entities"):
        study.convert(file)
    with pytest.raises(Problem, match="the weights have 35 symbols"):
        study.convert(file, str(sample / GRAPH))
    torch.save({"conv.weight": probe(2, 2)}, file)
    with pytest.raises(Problem, match="no state dict of GMatching"):
        study.convert(file, str(sample / GRAPH))


@pytest.mark.realdata
def test_umls_has_tasks_and_text(tmp_path: Path) -> None:
    short = {"episodes": 4, "embedding_epochs": 1, "text_encoder": "tfidf"}
    config = FKGCConfig.model_validate({**FKGCStudy.scales["desk"].model_dump(), **short})
    study = FKGCStudy(config, Session(0, tmp_path))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data = study.data()
        metrics = study.evaluate(study.train("text_match", data), data)
    assert metrics["mrr"] > metrics["chance"] / 2
    assert "acquired abnormality" in data.structure.texts()
