"""Generated treebanks: the switches show in the trees, and lexical overlap says nothing."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from repertory.data.conllu import RELATIONS, Treebank, read_treebanks
from repertory.data.grammars import GRAMMARS, NUMERALS, write_languages
from repertory.data.wals import read_wals


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("generated")
    write_languages(place, train=150, dev=10, test=10)
    return place


@pytest.fixture(scope="module")
def treebanks(folder: Path) -> list[Treebank]:
    return read_treebanks(folder)


def share_before(treebank: Treebank, relation: str) -> float:
    """Share of the dependents that stand before their head."""
    number = RELATIONS.index(relation)
    order = [
        place < head
        for sentence in treebank.train
        for place, (head, kind) in enumerate(zip(sentence.heads, sentence.relations, strict=True), start=1)
        if kind == number
    ]
    return float(np.mean(order))


def test_sentences_are_trees_of_3_to_14_words(treebanks: list[Treebank]) -> None:
    assert [t.code for t in treebanks] == list(GRAMMARS)
    lengths = {len(s) for t in treebanks for s in (*t.train, *t.dev, *t.test)}
    assert min(lengths) >= 3
    assert max(lengths) <= 14


@pytest.mark.parametrize(
    ("switch", "relation", "before"),
    [
        ("SV", "nsubj", 1.0), ("OV", "obj", 1.0), ("prep", "case", 1.0), ("GN", "nmod", 1.0), ("AN", "amod", 1.0),
        ("NR", "acl", 0.0),
    ],
)  # fmt: skip
def test_switches_are_what_the_trees_show(treebanks: list[Treebank], switch: str, relation: str, before: float) -> None:
    for treebank in treebanks:
        on = switch in GRAMMARS[treebank.code].split()
        assert share_before(treebank, relation) == (before if on else 1 - before)


def test_articles_exist_where_they_should(treebanks: list[Treebank]) -> None:
    number = RELATIONS.index("det")
    for treebank in treebanks:
        found = any(number in sentence.relations for sentence in treebank.train)
        assert found == ("article" in GRAMMARS[treebank.code].split())


def test_switches_are_features_of_wals_and_spread(folder: Path, treebanks: list[Treebank]) -> None:
    found = read_wals(folder, [t.code for t in treebanks])
    assert len(found.names) == 9
    distance = (9 * found.distance).round()
    assert (distance[0, 1], distance[2, 3], distance[0, 7]) == (2, 1, 8)


def test_stems_are_shared_by_all_languages_or_by_none(treebanks: list[Treebank]) -> None:
    # Endings make other words of shared stems: only bare forms are compared.
    words = [{form for s in t.train for form in s.forms} - set(NUMERALS) - set(".!?") for t in treebanks]
    overlaps = [len(a & b) / min(len(a), len(b)) for a, b in combinations(words, 2)]
    assert max(overlaps) < 0.12
    assert np.ptp(overlaps) < 0.06


def test_a_generator_writes_the_same_again(folder: Path, tmp_path: Path) -> None:
    write_languages(tmp_path, languages=2, train=150, dev=10, test=10)
    for path in tmp_path.rglob("*.conllu"):
        assert path.read_bytes() == (folder / path.relative_to(tmp_path)).read_bytes()
