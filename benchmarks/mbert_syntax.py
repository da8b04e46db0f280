"""Speed of the transport distances and of the spanning trees of mbert_syntax beside their peers.

    python benchmarks/mbert_syntax.py [--rounds 5] [--threads 1]

Prints one JSON line a race: medians in seconds, and the ratio peer / ours with its spread over the rounds.

- distances: OTDD of 8 languages, 400 vectors of 96 dimensions each, 13 relations. Peer: the authors' way, one pair of
  languages and one pair of classes after the other, those inside a language anew each time, with the same Sinkhorn.
- trees: Chu-Liu/Edmonds on dense scores of 10, 30 and 60 words. Peer: networkx.
- reading: CoNLL-U of 2000 sentences. Peer: the package conllu.

Ours and the peer compute the same, which is checked first.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import conllu
import numpy as np
import torch

from repertory.core.timing import race_line
from repertory.data import grammars
from repertory.data.conllu import read_conllu
from repertory.papers.mbert_syntax.race import distance_matrix_by_pairs, race_clouds, spanning_tree_by_networkx
from repertory.papers.mbert_syntax.transport import distance_matrix, make_cloud
from repertory.papers.mbert_syntax.trees import spanning_tree


def run(name: str, ours: Callable[[], object], peer: Callable[[], object], rounds: int) -> None:
    """Race the two and print the outcome."""
    print(json.dumps(race_line(name, ours, peer, rounds)), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)

    clouds = [make_cloud(*language) for language in race_clouds()]
    torch.testing.assert_close(distance_matrix(clouds), distance_matrix_by_pairs(clouds), rtol=1e-3, atol=1e-5)
    run(
        "distances of 8 languages",
        lambda: distance_matrix(clouds),
        lambda: distance_matrix_by_pairs(clouds),
        given.rounds,
    )

    for words in (10, 30, 60):
        scores = np.random.default_rng(0).random((10, words + 1, words + 1))
        assert all((spanning_tree(s) == spanning_tree_by_networkx(s)).all() for s in scores)
        run(
            f"10 trees of {words} words",
            lambda scores=scores: [spanning_tree(s) for s in scores],
            lambda scores=scores: [spanning_tree_by_networkx(s) for s in scores],
            given.rounds,
        )

    with tempfile.TemporaryDirectory() as folder:
        grammars.write_languages(Path(folder), languages=1, train=2000, dev=10, test=10)
        path = next(Path(folder).rglob("*train.conllu"))
        assert len(read_conllu(path)) == len(conllu.parse(path.read_text(encoding="utf-8")))
        run(
            "reading 2000 sentences",
            lambda: read_conllu(path),
            lambda: conllu.parse(path.read_text(encoding="utf-8")),
            given.rounds,
        )


if __name__ == "__main__":
    main()
