"""Ranking and training of the few-shot methods beside the loops that their papers' code runs; reading of graphs.

    python benchmarks/fkgc.py

- rank: 1,000 candidates of one relation, 4 queries, 3 shots. Peers: all candidates of a query in a batch, encoded anew
  for each query; and every candidate by a forward pass of its own, which is timed on 50 candidates of one query: the
  race "alone" gives ours as many.
- train: a step on an episode at published widths (D = 100, M = 50, batch 128; MetaR: 256 tasks). Peer: the authors'
  loop as it is described: triples and negatives drawn one by one in Python, positive and negative queries encoded apart
  and the support with each, every slot of a neighbourhood mapped by itself, MetaR's step taken by autograd.
- growth: the readers of triples and of NELL-One, neighbourhoods, and ranking by candidates.

Scores of ours and of the peers are compared before.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from repertory.core.bench import Growth, Race, Run, bench, scratch
from repertory.core.files import write_text
from repertory.data.knowledge_graphs import (
    INVERSE,
    KnowledgeGraph,
    neighbours,
    read_knowledge_graph,
    read_triples,
    rule_graph,
    write_nell,
)
from repertory.papers.fkgc import FAAN, FSRL, GMatching, Hood, MetaR, Pairs
from repertory.papers.fkgc.episodes import Task, TaskTable, draw_episode, tasks_of

SHOTS, BATCH, DIM, SLOTS = 5, 128, 100, 50
META_BATCH, META_QUERIES = 256, 3
CANDIDATES, ALONE = 1_000, 50
KINDS: dict[str, Any] = {"GMatching": GMatching, "FSRL": FSRL, "FAAN": FAAN}


class World:
    """A generated graph, its neighbourhoods, and a model's parameters: what ours and the peers share."""

    def __init__(self, entities: int = 0) -> None:
        self.graph: KnowledgeGraph = rule_graph(np.random.default_rng(0), 60)
        table, degree = neighbours(self.graph, SLOTS)
        if entities:  # more candidates than the graph has entities: neighbourhoods at random
            rng = np.random.default_rng(1)
            rows = rng.integers(len(table), size=entities)
            table, degree = table[rows], degree[rows]
        self.slots, self.degree = torch.from_numpy(table).long(), torch.from_numpy(degree).long()
        self.relations, self.entities = len(self.graph.relations), len(self.graph.entities)
        self.symbols = self.relations + self.entities

    def hood(self, ids: Tensor) -> Hood:
        return Hood(self.relations + ids % self.entities, self.slots[ids], self.degree[ids])

    def pairs(self, pairs: Tensor) -> Pairs:
        return Pairs(self.hood(pairs[:, 0]), self.hood(pairs[:, 1]))


# -- the peers --------------------------------------------------------------------------------------


def peer_entities(model: Any, hood: Hood) -> Tensor:
    """GMatching's and FSRL's encoder of entities, slot by slot."""
    encoder: Any = model.neighbours
    slots = F.dropout(model.symbol_emb(hood.slots), encoder.drop.p, model.training)
    both = torch.cat([slots[:, :, 0], slots[:, :, 1]], dim=-1)
    if isinstance(model, GMatching):
        return torch.tanh(encoder.gcn_w(both).sum(1) / hood.degree.clamp(min=1)[:, None])
    weights = torch.softmax(encoder.neigh_att_u(torch.tanh(encoder.neigh_att_W(both))), dim=1)
    return torch.tanh((slots[:, :, 1].transpose(1, 2) @ weights).squeeze(2))


def peer_side(model: FAAN, v: Tensor, hood: Hood, entity: Tensor) -> Tensor:
    """FAAN's encoder of one side: the bilinear form slot by slot."""
    encoder: Any = model.neighbours
    drop = encoder.drop.p
    slots = F.dropout(model.symbol_emb(hood.slots), drop, model.training)
    count = slots.shape[1]
    scores = encoder.Bilinear(
        v[:, None].expand(-1, count, -1).reshape(-1, v.shape[1]), slots[:, :, 0].reshape(-1, v.shape[1])
    ).view(-1, count)
    free = torch.arange(count) >= hood.degree[:, None]
    weights = scores.masked_fill(free, -torch.inf).softmax(1)
    return encoder.combine((weights[:, None] @ slots[:, :, 1])[:, 0], entity)


def peer_pairs(model: Any, pairs: Pairs) -> Tensor:
    if isinstance(model, FAAN):
        e_h, e_t = model.symbol_emb(pairs.head.entity), model.symbol_emb(pairs.tail.entity)
        v = e_t - e_h
        return model.relation(peer_side(model, v, pairs.head, e_h), peer_side(model, v, pairs.tail, e_t))
    both = torch.cat([peer_entities(model, pairs.head), peer_entities(model, pairs.tail)], dim=-1)
    return model.support_encoder(both)


def peer_forward(model: Any, query: Pairs, support: Pairs) -> Tensor:
    """Scores of queries: support and queries are encoded together in each call."""
    shots, q = peer_pairs(model, support), peer_pairs(model, query)
    if isinstance(model, FAAN):
        weights = ((q @ shots.T) / q.shape[-1] ** 0.5).softmax(-1)
        return (q * (weights @ shots)).sum(-1)
    return model.query_encoder(q, model.pool(shots)[0])


class PeerSampler:
    """Triples and negatives drawn one by one from dictionaries, as the authors' generators do."""

    def __init__(self, tasks: list[Task]) -> None:
        self.tasks = [(t.pairs.tolist(), t.candidates.tolist()) for t in tasks]
        self.known = [{head: {tail for h, tail in pairs if h == head} for head, _ in pairs} for pairs, _ in self.tasks]
        self.rng, self.turn = random.Random(0), 0

    def false(self, number: int, pairs: list[list[int]]) -> list[list[int]]:
        drawn = []
        for head, tail in pairs:
            while True:
                noise = self.rng.choice(self.tasks[number][1])
                if noise not in self.known[number][head] and noise != tail:
                    break
            drawn.append([head, noise])
        return drawn

    def episode(self, queries: int) -> list[list[list[int]]]:
        number = self.turn % len(self.tasks)
        self.turn += 1
        pairs = self.tasks[number][0]
        self.rng.shuffle(pairs)
        support, rest = pairs[:SHOTS], pairs[SHOTS:]
        query = rest[:queries] if len(rest) >= queries else [self.rng.choice(rest) for _ in range(queries)]
        return [support, self.false(number, support), query, self.false(number, query)]


def peer_hood(world: World, ids: list[int]) -> Hood:
    """Neighbourhoods stacked entity by entity, as the authors' `get_meta` does."""
    slots = torch.stack([world.slots[k] for k in ids])
    return Hood(world.relations + torch.tensor(ids), slots, torch.tensor([int(world.degree[k]) for k in ids]))


def peer_lookup(world: World, pairs: list[list[int]]) -> Pairs:
    return Pairs(peer_hood(world, [head for head, _ in pairs]), peer_hood(world, [tail for _, tail in pairs]))


# -- races ------------------------------------------------------------------------------------------


def ranked(name: str, candidates: int, queries: int) -> tuple[Run, Run, Run]:
    """Rankings: ours, by the peer's encoder in a batch for each query, and candidate by candidate."""
    torch.manual_seed(0)
    world = World(candidates)
    model = KINDS[name](world.symbols, DIM).eval()
    support = world.pairs(torch.tensor([[0, 40], [1, 41], [2, 42]]))
    heads, tails = 3 + torch.arange(queries), torch.arange(candidates)

    @torch.inference_mode()
    def ours() -> Tensor:
        return model.score(support, world.hood(heads), world.hood(tails))

    @torch.inference_mode()
    def by_query() -> Tensor:
        each = (Pairs(world.hood(head.expand(candidates)), world.hood(tails)) for head in heads)
        return torch.stack([peer_forward(model, pairs, support) for pairs in each])

    @torch.inference_mode()
    def alone() -> Tensor:
        each = [[Pairs(world.hood(h[None]), world.hood(t[None])) for t in tails] for h in heads]
        return torch.stack([torch.cat([peer_forward(model, pairs, support) for pairs in row]) for row in each])

    return ours, by_query, alone


def rank(name: str) -> Race:
    ours, by_query, _ = ranked(name, CANDIDATES, 4)
    torch.testing.assert_close(ours(), by_query(), rtol=1e-3, atol=1e-3)
    facts = {"candidates": CANDIDATES, "queries": 4}
    return Race(ours, {"query by query": by_query}, memory=name == "GMatching", facts=facts)


def rank_alone(name: str) -> Race:
    ours, _, alone = ranked(name, ALONE, 1)
    torch.testing.assert_close(ours(), alone(), rtol=1e-3, atol=1e-3)
    return Race(ours, {"candidate by candidate": alone}, memory=False, facts={"candidates": ALONE, "queries": 1})


def train(name: str) -> Race:
    ours, peer = meta_episodes() if name == "MetaR" else episodes(name)
    return Race(ours, {"authors' loop": peer}, memory=False)


def episodes(name: str) -> tuple[Run, Run]:
    """Training steps on episodes: ours and the authors' loop, each with a model and an optimiser of its own."""
    world = World()
    tasks = tasks_of(world.graph, "train", SHOTS)
    rng, sampler, turn = np.random.default_rng(0), PeerSampler(tasks), [0]
    models = []
    for _ in range(2):
        torch.manual_seed(0)
        model = KINDS[name](world.symbols, DIM).train()
        weights = [p for p in model.parameters() if p.requires_grad]
        models.append((model, torch.optim.Adam(weights, lr=1e-4)))

    def ours() -> float:
        model, optimizer = models[0]
        turn[0] += 1
        episode = draw_episode(tasks[turn[0] % len(tasks)], SHOTS, BATCH, rng)
        loss = model.rank_loss(
            world.pairs(episode.support), world.pairs(episode.query), world.hood(episode.negative[:, 1]), 5.0
        )
        return _step(loss, optimizer)

    def peer() -> float:
        model, optimizer = models[1]
        support, _, query, negative = (peer_lookup(world, pairs) for pairs in sampler.episode(BATCH))
        positive, wrong = (peer_forward(model, pairs, support) for pairs in (query, negative))
        return _step(F.relu(5.0 - (positive - wrong)).mean(), optimizer)

    return ours, peer


def meta_episodes() -> tuple[Run, Run]:
    """Training steps of MetaR on batches of tasks."""
    world = World()
    tasks = tasks_of(world.graph, "train", SHOTS)
    rng, sampler, turn = np.random.default_rng(0), PeerSampler(tasks), [0]
    table = TaskTable(tasks)
    models = []
    for _ in range(2):
        torch.manual_seed(0)
        model = MetaR(world.entities, DIM, SHOTS).train()
        models.append((model, torch.optim.Adam(model.parameters(), lr=1e-3)))

    def ours() -> float:
        model, optimizer = models[0]
        turn[0] += META_BATCH
        chosen = (turn[0] + np.arange(META_BATCH)) % len(tasks)
        return _step(model.rank_loss(*table.draw(chosen, SHOTS, META_QUERIES, rng)), optimizer)

    def peer() -> float:
        model, optimizer = models[1]
        drawn = [sampler.episode(META_QUERIES) for _ in range(META_BATCH)]
        support, support_negative, query, negative = (torch.tensor([task[k] for task in drawn]) for k in range(4))
        vectors_of = model.embedding.embedding
        relation = model.relation_learner(vectors_of(support).flatten(2))
        relation.retain_grad()

        def score(pairs: Tensor, r: Tensor) -> Tensor:
            vectors = vectors_of(pairs)
            return -torch.norm(vectors[:, :, 0] + r[:, None] - vectors[:, :, 1], 2, -1)

        optimizer.zero_grad()
        loss = F.relu(1 - score(support, relation) + score(support_negative, relation)).mean()
        loss.backward(retain_graph=True)
        assert relation.grad is not None
        moved = relation - 5 * relation.grad.detach().clone()
        loss = F.relu(1 - score(query, moved) + score(negative, moved)).mean()
        loss.backward()
        optimizer.step()
        return loss.item()

    return ours, peer


def _step(loss: Tensor, optimizer: torch.optim.Optimizer) -> float:
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(optimizer.param_groups[0]["params"], 5.0)
    optimizer.step()
    return loss.item()


# -- growth -----------------------------------------------------------------------------------------


def background(count: int) -> KnowledgeGraph:
    """Random triples of 20 relations, between a tenth as many entities, and a few tasks."""
    rng, n = np.random.default_rng(0), max(50, count // 10)
    few = {
        part: {f"few_{part}_{k}": rng.integers(n, size=(20, 2)) for k in range(3)} for part in ("train", "dev", "test")
    }
    pairs = {name: found for tasks in few.values() for name, found in tasks.items()}
    names = [f"relation_{k}" for k in range(20)]
    triples = np.stack([rng.integers(n, size=count), rng.integers(20, size=count), rng.integers(n, size=count)], axis=1)
    return KnowledgeGraph(
        tuple(f"concept:thing:{k}" for k in range(n)),
        (*names, *(name + INVERSE for name in names)),
        triples,
        few,
        {name: np.arange(min(n, 1_000)) for name in pairs},
        pairs,
    )


def nell(count: int) -> Run:
    folder = scratch()
    write_nell(folder, background(count))
    return lambda: read_knowledge_graph(folder, np.random.default_rng(0))


def triples(count: int) -> Run:
    graph, path = background(count), scratch() / "triples.tsv"
    lines = {
        f"{graph.entities[h]}\t{graph.relations[r]}\t{graph.entities[t]}\n" for h, r, t in graph.background.tolist()
    }
    write_text(path, "".join(sorted(lines)))
    return partial(read_triples, path)


def neighbourhoods(count: int) -> Run:
    return partial(neighbours, background(count), SLOTS)


def ranking(candidates: int) -> Run:
    return ranked("GMatching", candidates, 4)[0]


TRIPLES = (1_000, 10_000, 100_000, 1_000_000)
BENCHMARKS: dict[str, Callable[[], Race | Growth]] = {
    **{f"rank, {name}": partial(rank, name) for name in KINDS},
    **{f"rank alone, {name}": partial(rank_alone, name) for name in KINDS},
    **{f"train, {name}": partial(train, name) for name in (*KINDS, "MetaR")},
    "growth, NELL-One reader": lambda: Growth(nell, TRIPLES, "triples"),
    "growth, triples reader": lambda: Growth(triples, TRIPLES, "triples"),
    "growth, neighbourhoods": lambda: Growth(neighbourhoods, TRIPLES, "triples"),
    "growth, ranking": lambda: Growth(ranking, (50, 500, 5_000, 50_000), "candidates"),
}

if __name__ == "__main__":
    bench(__doc__, BENCHMARKS)
