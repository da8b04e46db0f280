"""Head-dependent vectors, probes of grammatical relations, and how well they transfer (sections 2 and 3)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn import config_context
from sklearn.linear_model import SGDClassifier
from torch import Tensor

from repertory.core.problem import Problem
from repertory.data.conllu import Sentence
from repertory.papers.mbert_syntax.encoder import Encoded, Encoder

RARE = 5
"""Training cases that a relation needs for a probe."""
BATCH = 64


@dataclass(frozen=True)
class Arcs:
    """Vectors h_head - h_dependent in random order.

    Attributes:
        vectors: (layers + 1, N, H); 0: the embeddings.
        relations: (N,), numbers of relations.
    """

    vectors: Tensor
    relations: Tensor

    def __len__(self) -> int:
        return len(self.relations)


def encode_all(encoder: Encoder, sentences: Iterable[Sentence]) -> tuple[list[Encoded], int]:
    """Sentences as subwords, and the number of those that are left out because a head was cut off."""
    encoded = [encoder.encode(sentence) for sentence in sentences]
    usable = [e for e in encoded if e.usable]
    return usable, len(encoded) - len(usable)


@torch.no_grad()
def arcs_of(
    encoder: Encoder,
    encoded: Sequence[Encoded],
    most: int,
    rng: np.random.Generator,
    to_device: Callable[[Any], Any] = lambda x: x,
) -> Arcs:
    """Vectors of at most so many arcs, drawn at random; arcs from the root are excluded.

    Raises:
        Problem: no arcs.
    """
    # (sentence, dependent, head, relation) of every arc.
    tables = [
        np.stack([np.full(size, k), np.arange(1, size + 1), e.sentence.heads, e.sentence.relations], axis=1)
        for k, e in enumerate(encoded)
        if (size := len(e.sentence))
    ]
    table = np.concatenate(tables or [np.zeros((0, 4), np.int64)])
    table = table[table[:, 2] > 0]
    if not len(table):
        raise Problem("no words with a head", "treebank", "give annotated sentences, shorter than max_length subwords")
    table = table[rng.permutation(len(table))[:most]]
    needed = sorted(set(table[:, 0].tolist()), key=lambda k: len(encoded[k].ids))  # of similar length together
    vectors = torch.empty(encoder.depth + 1, len(table), encoder.width)
    for start in range(0, len(needed), BATCH):
        part = needed[start : start + BATCH]
        states = encoder.states(to_device(encoder.collate([encoded[k] for k in part])))
        rows = np.flatnonzero(np.isin(table[:, 0], part))
        place = {k: row for row, k in enumerate(part)}
        sentence = torch.tensor([place[k] for k in table[rows, 0].tolist()])
        dependent, head = torch.from_numpy(table[rows, 1]), torch.from_numpy(table[rows, 2])
        for layer, state in enumerate(states):
            state = state.float().cpu()
            vectors[layer, torch.from_numpy(rows)] = state[sentence, head] - state[sentence, dependent]
    return Arcs(vectors, torch.from_numpy(table[:, 3].copy()))


# -- probes -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Probe:
    """A classifier of relations and the relations that it knows: those with 5 training cases or more."""

    classifier: SGDClassifier
    known: NDArray[np.int64]

    def accuracy(self, vectors: Tensor, relations: Tensor) -> float:
        """Per cent of the cases whose relation it knows; NaN if there are none."""
        counted = np.isin(relations.numpy(), self.known)
        if not counted.any():
            return float("nan")
        found = self.classifier.predict(vectors.numpy()[counted])
        return 100 * float(np.mean(found == relations.numpy()[counted]))


def fit_probe(vectors: Tensor, relations: Tensor, alpha: float) -> Probe:
    """Logistic regression by SGD with early stopping.

    Args:
        vectors: (N, H).
        relations: (N,).
        alpha: of the L2 penalty.

    Raises:
        Problem: fewer than two relations have 5 cases.
    """
    x, y = vectors.numpy(), relations.numpy()
    names, counts = np.unique(y, return_counts=True)
    known = names[counts >= RARE]
    if len(known) < 2:
        raise Problem(f"{len(known)} relation(s) with {RARE} cases or more", "treebank", "give more sentences")
    kept = np.isin(y, known)
    held_out = max(0.1, min(0.5, len(known) / kept.sum()))  # early stopping needs a case of every relation
    classifier = SGDClassifier(
        loss="log_loss",
        alpha=alpha,
        max_iter=10_000,
        early_stopping=True,
        validation_fraction=held_out,
        random_state=25,
    )
    with config_context(skip_parameter_validation=True, assume_finite=True):  # else half of the time goes there
        return Probe(classifier.fit(x[kept], y[kept]), known)


def best_probe(train: Arcs, dev: Arcs, layer: int, alphas: Sequence[float]) -> tuple[Probe, float]:
    """The probe of a layer with the best accuracy on dev, and that accuracy."""
    probes = [fit_probe(train.vectors[layer], train.relations, alpha) for alpha in alphas]
    scores = [np.nan_to_num(probe.accuracy(dev.vectors[layer], dev.relations)) for probe in probes]
    best = int(np.argmax(scores))
    return probes[best], float(scores[best])
