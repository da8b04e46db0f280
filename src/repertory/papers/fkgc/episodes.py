"""The protocol that all methods share: episodes of N-shot tasks, negatives, filtered ranking of candidates."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from repertory.core.problem import Problem
from repertory.data.knowledge_graphs import KnowledgeGraph, entity_type

Ties = Literal["mean", "pessimistic"]
TRIES = 8
"""Rounds of drawing a negative before the admissible candidates are listed."""
HITS = (1, 5, 10)


class Task(NamedTuple):
    """A relation with few triples."""

    relation: str
    pairs: np.ndarray
    """(k, 2) heads and tails."""
    candidates: np.ndarray
    """(C,) tails."""
    known: np.ndarray
    """(k,) sorted keys head * E + tail of what is true in any task."""
    entities: int
    """E."""

    def is_known(self, heads: np.ndarray, tails: np.ndarray) -> np.ndarray:
        """Whether triples are known to be true; heads and tails of any common shape."""
        keys = heads * self.entities + tails
        places = np.searchsorted(self.known, keys).clip(max=len(self.known) - 1)
        return self.known[places] == keys

    def admissible(self, head: int) -> np.ndarray:
        """Candidates that are no known tail of a head, in order."""
        return self.candidates[~self.is_known(np.full_like(self.candidates, head), self.candidates)]

    def negatives(self, heads: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """One random candidate for each head, none of them a known tail.

        Every head needs an admissible candidate: `training_tasks` sees to it.
        """
        tails = rng.choice(self.candidates, len(heads))
        for _ in range(TRIES):
            wrong = np.flatnonzero(self.is_known(heads, tails))
            if not len(wrong):
                return tails
            tails[wrong] = rng.choice(self.candidates, len(wrong))
        for k in np.flatnonzero(self.is_known(heads, tails)):
            tails[k] = rng.choice(self.admissible(int(heads[k])))
        return tails


class Episode(NamedTuple):
    """One task to learn from: N support pairs, B query pairs, negative tails of both."""

    support: Tensor
    """(N, 2)."""
    support_negative: Tensor
    """(N, 2): heads of the support with false tails."""
    query: Tensor
    """(B, 2)."""
    negative: Tensor
    """(B, 2): heads of the queries with false tails."""


def make_task(relation: str, pairs: np.ndarray, candidates: np.ndarray, known: np.ndarray, entities: int) -> Task:
    """A task from known pairs (k, 2)."""
    return Task(relation, pairs, candidates, np.unique(known[:, 0] * entities + known[:, 1]), entities)


def tasks_of(graph: KnowledgeGraph, part: str, shots: int) -> list[Task]:
    """The tasks of a part.

    Raises:
        Problem: a relation has no query beside its support.
    """
    for relation, pairs in graph.tasks[part].items():
        if len(pairs) <= shots:
            raise Problem(
                f"the {part} relation {relation!r} has {len(pairs)} triples; {shots} shots need {shots + 1}",
                graph.where,
                "remove the relation, add triples, or lower shots",
            )
    size = len(graph.entities)
    return [make_task(r, pairs, graph.candidates[r], graph.known[r], size) for r, pairs in graph.tasks[part].items()]


def background_tasks(graph: KnowledgeGraph) -> list[Task]:
    """The background relations as tasks (In-Train of MetaR).

    Candidates are the entities of the tails' types, where names tell types (NELL), else the relation's own tails.
    """
    types = np.array([entity_type(name) for name in graph.entities])
    tasks = []
    for k in np.unique(graph.background[:, 1]).tolist():
        pairs = graph.background[graph.background[:, 1] == k][:, ::2]
        tails = np.unique(pairs[:, 1])
        seen = types[tails]
        candidates = tails if (seen == "").any() else np.flatnonzero(np.isin(types, seen))
        tasks.append(make_task(graph.relations[k], pairs, candidates, pairs, len(types)))
    return tasks


def training_tasks(tasks: Sequence[Task], least_candidates: int, least_triples: int, where: object) -> list[Task]:
    """The tasks to train on: enough candidates and triples, and a false candidate for every head.

    Warns of the relations and triples that are left out.

    Raises:
        Problem: none is left.
    """
    chosen, skipped, dropped = [], 0, 0
    for task in tasks:
        heads = np.unique(task.pairs[:, 0])
        hopeless = [head for head in heads.tolist() if not len(task.admissible(head))]
        pairs = task.pairs[~np.isin(task.pairs[:, 0], hopeless)]
        if len(task.candidates) <= least_candidates or len(pairs) <= least_triples:
            skipped += 1
        else:
            chosen.append(task._replace(pairs=pairs))
            dropped += len(task.pairs) - len(pairs)
    if not chosen:
        what = f"no training relation has more than {least_candidates} candidates and {least_triples} triples"
        raise Problem(what, where, "lower least_candidates, or give more triples")
    if skipped or dropped:
        warnings.warn(
            f"{where}: not trained on: {skipped} relations of at most {least_candidates} candidates or {least_triples} "
            f"triples, and {dropped} triples whose candidates are all true",
            stacklevel=2,
        )
    return chosen


def draw_episode(task: Task, shots: int, queries: int, rng: np.random.Generator) -> Episode:
    """Shuffle the triples; the first are the support, others the queries, with replacement if they are too few.

    Args:
        task: with more triples than shots.
        shots: N.
        queries: B.
        rng: draws all.
    """
    order = rng.permutation(len(task.pairs))
    support, rest = task.pairs[order[:shots]], task.pairs[order[shots:]]
    query = rest[:queries] if len(rest) >= queries else rest[rng.integers(len(rest), size=queries)]
    heads = np.concatenate([support[:, 0], query[:, 0]])
    false = torch.from_numpy(np.stack([heads, task.negatives(heads, rng)], 1))
    return Episode(torch.from_numpy(support), false[:shots], torch.from_numpy(query), false[shots:])


class TaskTable:
    """Tasks one after the other in arrays, to draw from many at once (MetaR).

    Args:
        tasks: over the same entities.
    """

    def __init__(self, tasks: Sequence[Task]) -> None:
        self.tasks, self.entities = tasks, tasks[0].entities
        pairs, candidates = [task.pairs for task in tasks], [task.candidates for task in tasks]
        self.pairs, self.candidates = np.concatenate(pairs), np.concatenate(candidates)
        self.counts, self.widths = np.array([*map(len, pairs)]), np.array([*map(len, candidates)])
        self.first_pair = np.cumsum(self.counts) - self.counts
        self.first_candidate = np.cumsum(self.widths) - self.widths
        self.known = np.concatenate([k * self.entities**2 + task.known for k, task in enumerate(tasks)])  # sorted

    def draw(self, chosen: np.ndarray, shots: int, queries: int, rng: np.random.Generator) -> Episode:
        """N + Q triples of each task, with replacement, as one batch: every tensor of `Episode` gets a first axis.

        Args:
            chosen: (T,) numbers of tasks.
            shots, queries: N, Q.
            rng: draws all.
        """
        column, size = chosen[:, None], (len(chosen), shots + queries)
        pairs = self.pairs[self.first_pair[column] + rng.integers(self.counts[column], size=size)]  # (T, N + Q, 2)
        heads = pairs[..., 0]
        tails = self._candidates(np.broadcast_to(column, size), rng)
        for _ in range(TRIES):
            wrong = self._is_known(column, heads, tails)
            if not wrong.any():
                break
            tails[wrong] = self._candidates(np.broadcast_to(column, size)[wrong], rng)
        for t, k in np.argwhere(self._is_known(column, heads, tails)).tolist():
            tails[t, k] = rng.choice(self.tasks[int(chosen[t])].admissible(int(heads[t, k])))
        true, false = torch.from_numpy(pairs), torch.from_numpy(np.stack([heads, tails], -1))
        return Episode(true[:, :shots], false[:, :shots], true[:, shots:], false[:, shots:])

    def _candidates(self, numbers: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """A random candidate of each task, same shape."""
        return self.candidates[self.first_candidate[numbers] + rng.integers(self.widths[numbers])]

    def _is_known(self, numbers: np.ndarray, heads: np.ndarray, tails: np.ndarray) -> np.ndarray:
        keys = (numbers * self.entities + heads) * self.entities + tails
        return self.known[np.searchsorted(self.known, keys).clip(max=len(self.known) - 1)] == keys


# -- ranking ------------------------------------------------------------------------------------


class Ranking(NamedTuple):
    """What is ranked for one relation: the tails of some heads, known tails left out."""

    task: Task
    support: Tensor
    """(N, 2)."""
    support_negative: Tensor
    """(N, 2): false pairs, the first admissible candidates."""
    heads: Tensor
    """(H,) different heads."""
    tails: Tensor
    """(C,) candidates and true tails."""
    row: Tensor
    """(Q,) place of each query's head in `heads`."""
    column: Tensor
    """(Q,) place of its true tail in `tails`."""
    allowed: Tensor
    """(Q, C) the tails that compete with the true one."""
    added: int
    """Queries whose true tail was no candidate, and was added."""

    def ranks(self, scores: Tensor, ties: Ties = "mean") -> Tensor:
        """Ranks (Q,) from the scores (H, C) of heads and tails."""
        return filtered_ranks(scores[self.row], self.column, self.allowed, ties)


def first_false(task: Task, support: np.ndarray) -> np.ndarray:
    """(N, 2): each head of the support with its first admissible candidate; if it has none, the first candidate."""
    firsts = [next(iter(task.admissible(int(head))), task.candidates[0]) for head in support[:, 0]]
    return np.stack([support[:, 0], np.array(firsts)], 1)


def ranking_of(task: Task, shots: int, first_query: int = 0) -> Ranking:
    """The published protocol: the first N triples are the support, all later ones are queries.

    Args:
        task: of dev or test.
        shots: N.
        first_query: place of the first query, if later than N: models of different N then share their queries.
    """
    support, query = task.pairs[:shots], task.pairs[min(max(shots, first_query), len(task.pairs) - 1) :]
    heads, row = np.unique(query[:, 0], return_inverse=True)
    tails = np.union1d(task.candidates, query[:, 1])
    column = np.searchsorted(tails, query[:, 1])
    candidate = np.isin(tails, task.candidates)
    allowed = (candidate & ~task.is_known(heads[:, None], tails[None]))[row]
    return Ranking(
        task,
        *(torch.from_numpy(pairs) for pairs in (support, first_false(task, support))),
        *(torch.from_numpy(array) for array in (heads, tails, row.reshape(-1), column, allowed)),
        added=int((~candidate[column]).sum()),
    )


def filtered_ranks(scores: Tensor, true: Tensor, allowed: Tensor, ties: Ties = "mean") -> Tensor:
    """Rank of the true tail of each query: 1 + those above + half of those level with it; float64.

    Args:
        scores: (Q, C).
        true: (Q,) column of the true tail.
        allowed: (Q, C) bool, the tails that compete; the true one never competes with itself.
        ties: "pessimistic": all that are level count as above (authors' code of GMatching and FAAN).

    Example:
        >>> scores = torch.tensor([[3.0, 2.0, 2.0, 9.0]])
        >>> filtered_ranks(scores, torch.tensor([1]), torch.tensor([[True, True, True, False]]))
        tensor([2.5000], dtype=torch.float64)
    """
    own = scores.gather(1, true[:, None])
    others = allowed.scatter(1, true[:, None], value=False)
    above = ((scores > own) & others).sum(1).double()
    level = ((scores == own) & others).sum(1).double()
    return 1 + above + (level if ties == "pessimistic" else level / 2)


def rank_metrics(ranks: Tensor) -> dict[str, float]:
    """MRR and Hits@1, 5, 10 in per cent, averaged over the queries.

    Example:
        >>> rank_metrics(torch.tensor([1.0, 4.0]))
        {'mrr': 62.5, 'hits_1': 50.0, 'hits_5': 100.0, 'hits_10': 100.0}
    """
    hits = {f"hits_{k}": 100 * float((ranks <= k).double().mean()) for k in HITS}
    return {"mrr": 100 * float((1 / ranks).mean()), **hits}


def chance_mrr(ranking: Ranking) -> float:
    """MRR of random scores, per cent: the mean of H_n / n over the queries, n tails each."""
    sizes = ranking.allowed.sum(1).clamp(min=1)
    harmonic = torch.cumsum(1 / torch.arange(1, int(sizes.max()) + 1, dtype=torch.float64), 0)
    return 100 * float((harmonic[sizes - 1] / sizes).mean())


def by_relation(ranks: Mapping[str, Tensor]) -> dict[str, float]:
    """Relation -> MRR in per cent."""
    return {relation: 100 * float((1 / found).mean()) for relation, found in ranks.items()}
