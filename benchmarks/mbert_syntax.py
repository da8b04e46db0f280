"""Speed of transport distances, spanning trees and the reader of treebanks.

    python benchmarks/mbert_syntax.py

- distances: OTDD of 5 languages, 400 vectors of 96 dimensions each, 13 relations. Peer: the authors' way, one pair of
  languages and one pair of classes after the other, those inside a language anew each time, with the same Sinkhorn.
- trees: Chu-Liu/Edmonds on ten dense matrices of scores. Peer: networkx.
- reading: CoNLL-U of 2,000 sentences. Peer: the package conllu.
- reading, growth: CoNLL-U of 50 to 50,000 sentences.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import torch

from repertory.core.bench import Growth, Race, bench, scratch
from repertory.core.problem import require
from repertory.data import grammars
from repertory.data.conllu import read_conllu
from repertory.papers.mbert_syntax.race import distance_matrix_by_pairs, race_clouds, spanning_tree_by_networkx
from repertory.papers.mbert_syntax.transport import distance_matrix, make_cloud
from repertory.papers.mbert_syntax.trees import spanning_tree

LANGUAGES = 5
"""The more there are, the more the peer repeats."""


def distances() -> Race:
    clouds = [make_cloud(*language) for language in race_clouds(LANGUAGES)]
    torch.testing.assert_close(distance_matrix(clouds), distance_matrix_by_pairs(clouds), rtol=1e-3, atol=1e-5)
    return Race(lambda: distance_matrix(clouds), {"pair by pair": lambda: distance_matrix_by_pairs(clouds)}, goal=5)


def trees(words: int) -> Race:
    scores = np.random.default_rng(0).random((10, words + 1, words + 1))
    assert all((spanning_tree(s) == spanning_tree_by_networkx(s)).all() for s in scores)
    return Race(
        lambda: [spanning_tree(s) for s in scores],
        {"networkx": lambda: [spanning_tree_by_networkx(s) for s in scores]},
        goal=10,
        memory=False,
    )


def treebank(sentences: int) -> Path:
    folder = scratch()
    grammars.write_languages(folder, languages=1, train=sentences, dev=10, test=10)
    return next(folder.rglob("*train.conllu"))


def reading() -> Race:
    conllu = require("conllu", "language")
    path = treebank(2000)
    assert len(read_conllu(path)) == len(conllu.parse(path.read_text(encoding="utf-8")))
    return Race(partial(read_conllu, path), {"conllu": lambda: conllu.parse(path.read_text(encoding="utf-8"))})


def growth() -> Growth:
    return Growth(lambda count: partial(read_conllu, treebank(count)), [50, 500, 5000, 50_000], "sentences")


if __name__ == "__main__":
    bench(
        __doc__,
        {
            f"distances of {LANGUAGES} languages": distances,
            **{f"trees of {words} words": partial(trees, words) for words in (10, 30)},
            "reading": reading,
            "reading, growth": growth,
        },
    )
