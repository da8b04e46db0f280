"""Knowledge graphs: formats read as they are distributed, tasks by frequency, and bad input named."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from repertory.core.problem import Problem
from repertory.data.knowledge_graphs import (
    ATOMIC,
    PARTS,
    KnowledgeGraph,
    Triple,
    by_frequency,
    entity_type,
    neighbours,
    phrase_graph,
    read_knowledge_graph,
    read_nell,
    read_triples,
    rule_graph,
    write_conceptnet,
    write_nell,
)


@pytest.fixture(scope="module")
def graph() -> KnowledgeGraph:
    return rule_graph(np.random.default_rng(0), 10)


@pytest.fixture
def nell(graph: KnowledgeGraph, tmp_path: Path) -> Path:
    write_nell(tmp_path, graph)
    return tmp_path


def change(folder: Path, name: str, **entries: Any) -> None:
    """Change entries of a JSON file; None removes one."""
    content = json.loads((folder / name).read_text()) | entries
    (folder / name).write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_a_nell_folder_is_read_as_it_was_written(graph: KnowledgeGraph, nell: Path) -> None:
    found = read_nell(nell)
    assert (found.entities, found.relations) == (graph.entities, graph.relations)
    assert (found.background == graph.background).all()
    for part in PARTS:
        assert list(found.tasks[part]) == list(graph.tasks[part])
        for relation, pairs in graph.tasks[part].items():
            assert (found.tasks[part][relation] == pairs).all()
            assert (found.candidates[relation] == graph.candidates[relation]).all()
            assert {*map(tuple, found.known[relation].tolist())} == {*map(tuple, pairs.tolist())}


def test_ids_may_have_gaps_and_embeddings_follow_them(graph: KnowledgeGraph, nell: Path) -> None:
    ids = {"": 0, "OOV": 1} | {name: k + 2 for k, name in enumerate(graph.entities)}
    (nell / "ent2ids").write_text(json.dumps(ids))
    for name, count in (("entity2vec", len(ids)), ("relation2vec", len(graph.relations))):
        np.savetxt(nell / f"{name}.TransE", np.arange(count)[:, None] * np.ones((1, 2)))
    found = read_nell(nell)
    assert found.entities == graph.entities
    assert found.vectors["TransE"][0][:2].tolist() == [[2, 2], [3, 3]]
    np.savetxt(nell / "entity2vec.TransE", np.ones((5, 2)))
    with pytest.raises(Problem, match=rf"5 rows for {len(graph.entities)} ids"):
        read_nell(nell)


def test_known_facts_of_all_tasks_are_read(graph: KnowledgeGraph, nell: Path) -> None:
    relation = next(iter(graph.tasks["test"]))
    change(nell, "e1rel_e2.json", **{graph.entities[0] + relation: [graph.entities[5], "gone"]})
    assert [0, 5] in read_nell(nell).known[relation].tolist()


def test_neighbours_are_the_first_of_both_directions_in_the_order_of_the_file() -> None:
    background = np.array([[0, 0, 1], [2, 1, 0], [0, 0, 2]])
    small = KnowledgeGraph(("a", "b", "c"), ("r", "s", "r_inv", "s_inv"), background, {}, {}, {})
    table, degree = neighbours(small, 2)
    assert degree.tolist() == [2, 1, 2]
    assert table.tolist() == [[[0, 5], [3, 6]], [[2, 4], [7, 7]], [[1, 4], [2, 4]]]


def test_a_missing_inverse_is_explained(graph: KnowledgeGraph, nell: Path) -> None:
    name = graph.relations[0]
    (nell / "relation2ids").write_text(json.dumps({r: k for k, r in enumerate(graph.relations) if r != f"{name}_inv"}))
    with pytest.raises(Problem, match=f"no '{name}_inv'"):
        neighbours(read_nell(nell), 3)


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("path_graph", "concept:t0:e000 unheard concept:t0:e001", "unknown relation 'unheard'"),
        ("path_graph", "nobody concept:linked0 concept:t0:e001", "unknown entity 'nobody'"),
        ("path_graph", "one two", "2 words"),
        ("test_tasks.json", '{"r": [["nobody", "r", "concept:t0:e001"]]}', "relation 'r': unknown entity 'nobody'"),
        ("test_tasks.json", '{"r": [["concept:t0:e001"]]}', "no triple"),
        ("test_tasks.json", "{", "no JSON"),
        ("dev_tasks.json", "{}", "holds no tasks"),
        ("rel2candidates.json", "{}", "no candidates for the relation"),
        ("ent2ids", '{"a": 0, "b": 0}', "two names have the same id"),
        ("relation2ids", '{"a": "x"}', "no whole number"),
        ("relation2ids", '{"a": true}', "no whole number"),
        ("ent2ids", '{"a": 99999999999999999999}', "no whole number"),
        ("ent2ids", '{"a": 0, "a": 1}', "'a' comes twice"),
        ("test_tasks.json", '{"r": []}', "'r' has no triples"),
        ("test_tasks.json", '{"r": 3}', "'r' has no triples"),
        ("test_tasks.json", '{"r": [["concept:t0:e000", "s", "concept:t0:e001"]]}', "no triple"),
        ("test_tasks.json", '{"r": [[["x"], "r", "concept:t0:e001"]]}', "unknown entity"),
        ("e1rel_e2.json", '{"a": 3}', "the tails of 'a' are no list of names"),
    ],
)
def test_bad_files_are_named(nell: Path, file: str, text: str, message: str) -> None:
    (nell / file).write_text(text)
    with pytest.raises(Problem, match=message) as caught:
        read_nell(nell)
    assert file in caught.value.where


def test_a_relation_belongs_to_one_part(graph: KnowledgeGraph, nell: Path) -> None:
    (nell / "test_tasks.json").write_text((nell / "train_tasks.json").read_text())
    with pytest.raises(Problem, match="training task and a held-out one"):
        read_nell(nell)


# -- triples ----------------------------------------------------------------------------------------


def many(count: int = 8) -> list[Triple]:
    """Relations r0, r1, … with 40, 36, … triples."""
    return [Triple(f"h{j}", f"r{k}", f"t{j % 5}") for k in range(count) for j in range(40 - 4 * k)]


def test_tasks_by_frequency() -> None:
    found = by_frequency(many(), rng())
    assert found.relations == ("r0", "r1", "r2", "r3", "r0_inv", "r1_inv", "r2_inv", "r3_inv")
    assert sorted(found.few) == ["r4", "r5", "r6", "r7"]
    assert {part: len(tasks) for part, tasks in found.tasks.items()} == {"train": 2, "dev": 1, "test": 1}
    assert len(found.background) == 40 + 36 + 32 + 28
    assert [found.entities[k] for k in found.candidates["r4"]] == [f"t{j}" for j in range(5)]
    with pytest.warns(UserWarning, match="1 relations with fewer than 16 triples are left out"):
        assert "r7" not in by_frequency(many(), rng(), least=16).few
    with pytest.warns(UserWarning, match="cut: r4"):
        assert len(by_frequency(many(), rng(), most=20).few["r4"]) == 20
    assert by_frequency(many(), rng(), background_from=36).relations[:2] == ("r0", "r1")
    with pytest.raises(Problem, match="2 with 10 triples or more for tasks"):
        by_frequency(many(4), rng())


def test_types_give_the_candidates(tmp_path: Path) -> None:
    (tmp_path / "triples.tsv").write_text("".join("\t".join(triple) + "\n" for triple in many()))
    (tmp_path / "types.tsv").write_text("".join(f"{kind}{j}\t{kind}\n" for kind in "ht" for j in range(40)))
    found = read_knowledge_graph(tmp_path, rng())
    assert {found.entities[k][0] for k in found.candidates["r5"]} == {"t"}
    single = read_knowledge_graph(tmp_path / "triples.tsv", rng())
    assert single.entities == found.entities


def test_conceptnet_leaves_false_tuples_out_and_says_so(tmp_path: Path) -> None:
    (tmp_path / "train100k.txt").write_text("AtLocation\tsmall dog\tdog house\t2.5\n")
    (tmp_path / "dev1.txt").write_text("IsA\tdog\tanimal\t1\nIsA\tdog\tcity\t0\n")
    with pytest.warns(UserWarning, match="1 of 2 lines are marked false"):
        found = read_triples(tmp_path)
    assert found == [Triple("small dog", "AtLocation", "dog house"), Triple("dog", "IsA", "animal")]
    (tmp_path / "dev1.txt").write_text("IsA\tdog\tanimal\tmaybe\n")
    with pytest.raises(Problem, match="not relation, head, tail, score"):
        read_triples(tmp_path)


def test_atomic_reads_its_lists_and_leaves_none_out(tmp_path: Path) -> None:
    with (tmp_path / "v4_atomic_trn.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["event", *ATOMIC, "prefix", "split"])
        table.writerow(["PersonX runs", '["falls"]', *["[]"] * 7, '["none", "to rest"]', "[]", "trn"])
    with pytest.warns(UserWarning, match="1 inferences are none"):
        found = read_triples(tmp_path)
    assert found == [Triple("PersonX runs", "oEffect", "falls"), Triple("PersonX runs", "xWant", "to rest")]
    (tmp_path / "v4_atomic_dev.csv").write_text("event,oEffect\nx,[]\n")
    with pytest.raises(Problem, match="no column 'oReact'"):
        read_triples(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [("a\tb\n", "2 cells"), ("a\t\tc\n", "empty"), ("\n", "no triples"), ("a\tr\tb\x0bc\nx\n", r"tsv:2")],
)
def test_bad_triples_are_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "triples.tsv").write_text(text)
    with pytest.raises(Problem, match=message):
        read_triples(tmp_path)


def test_samples_are_deterministic_and_hold_what_they_say(tmp_path: Path) -> None:
    one, two = (rule_graph(np.random.default_rng(3), 30) for _ in range(2))
    assert (one.background == two.background).all()
    assert list(one.candidates) == list(two.candidates)
    for relation, pairs in one.few.items():
        assert set(pairs[:, 1].tolist()) <= set(one.candidates[relation].tolist())
        assert len({entity_type(one.entities[k]) for k in one.candidates[relation]}) == 1
    triples = phrase_graph(np.random.default_rng(3))
    assert triples == phrase_graph(np.random.default_rng(3))
    write_conceptnet(tmp_path, triples)
    assert read_triples(tmp_path) == triples
    assert 250 < len({name for t in triples for name in (t.head, t.tail)}) < 350


@pytest.mark.parametrize("listed", [3, "concept:t0:e000", [], [["x"]]])
def test_candidates_are_a_list_of_names(nell: Path, listed: Any) -> None:
    tasks = json.loads((nell / "test_tasks.json").read_text())
    change(nell, "rel2candidates.json", **{next(iter(tasks)): listed})
    with pytest.raises(Problem, match=r"are no list|unknown entity"):
        read_nell(nell)


def test_a_relation_of_dev_and_test_is_refused(nell: Path) -> None:
    (nell / "test_tasks.json").write_text((nell / "dev_tasks.json").read_text())
    with pytest.raises(Problem, match="is a task of dev and of test"):
        read_nell(nell)


def test_vectors_are_read_as_float32_and_checked(graph: KnowledgeGraph, nell: Path) -> None:
    count = len(graph.entities)
    np.save(nell / "ent2vec.npy", np.ones((count, 3)))
    assert read_nell(nell).vectors["MetaR"][0].dtype == np.float32
    for wrong in (np.float64(3), np.ones((count, 3), complex), np.full((count, 3), "x"), np.full((count, 3), 1e300)):
        np.save(nell / "ent2vec.npy", wrong)
        with pytest.raises(Problem, match=r"ent2vec\.npy holds"):
            read_nell(nell)
    (nell / "ent2vec.npy").unlink()
    (nell / "ent2vec.npy").symlink_to("nowhere")
    with pytest.raises(Problem, match="is a link to a file that is not there"):
        read_nell(nell)


def test_text_of_vectors_may_begin_with_a_mark(graph: KnowledgeGraph, nell: Path) -> None:
    for name, size in (("entity2vec", len(graph.entities)), ("relation2vec", len(graph.relations))):
        (nell / f"{name}.A").write_text("\ufeff" + "1 2\n" * size, encoding="utf-8")
    assert read_nell(nell).vectors["A"][0].shape == (len(graph.entities), 2)


def test_a_first_line_of_names_is_no_triple(tmp_path: Path) -> None:
    (tmp_path / "triples.tsv").write_text("Relation\tHead\tTail\nr\ta\tb\n")
    assert read_triples(tmp_path) == [Triple("a", "r", "b")]


def test_links_and_capitals_are_not_passed_over(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text("a\tr\tb\n")
    (tmp_path / "valid.TXT").write_text("c\tr\td\n")
    assert len(read_triples(tmp_path)) == 2
    (tmp_path / "test.txt").symlink_to("nowhere")
    with pytest.raises(Problem, match="is a link to a file that is not there"):
        read_triples(tmp_path)


@pytest.mark.parametrize("line", ["IsA\tdog\tanimal\tnan\n", "IsA\t\tanimal\t1\n"])
def test_scores_are_numbers_and_phrases_are_not_empty(tmp_path: Path, line: str) -> None:
    (tmp_path / "train100k.txt").write_text(f"IsA\tdog\tpet\t1\n{line}")
    for source in (tmp_path, tmp_path / "train100k.txt"):
        with pytest.raises(Problem, match="not relation, head, tail, score"):
            read_triples(source)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (["x", '"to rest"', *["[]"] * 8], "is no JSON list of texts"),
        (["x", '{"to rest": 1}', *["[]"] * 8], "is no JSON list of texts"),
        (["x", "[3]", *["[]"] * 8], "is no JSON list of texts"),
        (["x", "[]"], "not as many cells"),
        (["x", *["[]"] * 11], "not as many cells"),
        ([" ", *["[]"] * 9], "the event is empty"),
    ],
)
def test_rows_of_atomic_are_checked(tmp_path: Path, row: list[str], message: str) -> None:
    with (tmp_path / "v4_atomic_trn.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerows([["event", *ATOMIC], ["two\nlines", *["[]"] * 9], row])
    with pytest.raises(Problem, match=message) as caught:
        read_triples(tmp_path)
    assert caught.value.where.endswith(".csv:4")


@pytest.mark.parametrize("line", ["a\t\n", "a\tB\n"])
def test_types_are_one_an_entity(tmp_path: Path, line: str) -> None:
    lines = [f"h{k}\tr{r}\t{'a' if k % 2 else 'b'}\n" for r in range(8) for k in range(12)]
    (tmp_path / "triples.tsv").write_text("".join(lines))
    (tmp_path / "types.tsv").write_text("a\tA\n")
    with pytest.warns(UserWarning, match="13 entities have no type"):
        read_knowledge_graph(tmp_path, rng())
    (tmp_path / "types.tsv").write_text(f"a\tA\n{line}")
    with pytest.raises(Problem, match=r"or an empty one|'a' is 'A' and 'B'"):
        read_knowledge_graph(tmp_path, rng())
