"""Training loops: episodes of few-shot tasks, and embeddings on all triples that may be seen."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from repertory.core.loops import Loop, Picks
from repertory.core.study import Session
from repertory.data.knowledge_graphs import INVERSE, PARTS, KnowledgeGraph
from repertory.papers.fkgc.completion import Completer
from repertory.papers.fkgc.episodes import Episode, Task, TaskTable, draw_episode
from repertory.papers.fkgc.metar import MetaR
from repertory.papers.fkgc.settings import Recipe

META_QUERIES = 3
"""Queries of a task in a step of MetaR."""


class Plan(NamedTuple):
    """How long and how fast a loop trains."""

    recipe: Recipe
    constant: bool
    """Keep the learning rate."""
    eval_every: int
    patience: int


def rate(step: int, recipe: Recipe) -> float:
    """Factor of the learning rate after so many steps, as published."""
    if recipe.warmup:
        left = (recipe.episodes - step) / max(1, recipe.episodes - recipe.warmup)
        return min(step / recipe.warmup, max(0.0, left))
    return recipe.drop_to if recipe.drop_at and step >= recipe.drop_at else 1.0


def fit(
    session: Session,
    model: Completer,
    plan: Plan,
    steps: int,
    step_loss: Callable[[int], Tensor],
    validate: Callable[[], float],
    part: str = "",
) -> Completer:
    """Minimise a loss by Adam, evaluate now and then, and keep the state with the best dev MRR.

    Args:
        session: of the trial.
        model: trained in place.
        plan: recipe and evaluations.
        steps: at most so many.
        step_loss: number of the step -> loss.
        validate: MRR of the model on the dev tasks.
        part: name of the loop.

    Returns:
        The model in its best state, in evaluation mode.
    """
    recipe, picks = plan.recipe, Picks()
    weights = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(weights, recipe.lr, weight_decay=recipe.weight_decay)

    def stale() -> bool:
        return bool(plan.patience) and picks.stale("dev") >= plan.patience * plan.eval_every

    loop = Loop(
        session, steps, part=part, unit="step", log_every=max(1, plan.eval_every // 10), until=stale,
        model=model, optimizer=optimizer, picks=picks,
    )  # fmt: skip
    for step in loop:
        model.train()
        if not plan.constant:
            optimizer.param_groups[0]["lr"] = recipe.lr * rate(step + 1, recipe)
        loss = step_loss(step)
        value = loop.check(loss)
        optimizer.zero_grad()
        loss.backward()
        if recipe.clip:
            nn.utils.clip_grad_norm_(weights, recipe.clip)
        optimizer.step()
        loop.log(loss=value)
        if (step + 1) % plan.eval_every == 0 or step + 1 == steps:
            score = validate()
            picks.offer(step, {"dev": score}, model.state_dict, mrr=score)
            session.log(step, part=part, dev_mrr=score)
    if "dev" in picks.picked:
        model.load_state_dict(picks.state("dev"))
    return model.eval()


class EpisodeSource:
    """Episodes of training tasks: the next relation of a pool that is shuffled at every pass.

    Args:
        session: draws them, anew for every step.
        tasks: to train on.
        shots: N.
        model: that they are for: MetaR takes a batch of tasks a step, with triples drawn with replacement.
        batch: queries an episode; tasks a step for MetaR.
    """

    def __init__(self, session: Session, tasks: Sequence[Task], shots: int, model: Completer, batch: int) -> None:
        self.session, self.tasks, self.shots, self.batch = session, tasks, shots, batch
        self.table = TaskTable(tasks) if isinstance(model.core, MetaR) else None
        self.device = next(model.buffers()).device
        self._order = functools.lru_cache(maxsize=2)(lambda turn: session.rng("pool", turn).permutation(len(tasks)))

    def _number(self, place: int) -> int:
        """The number of a task, by its place in the sequence of all passes."""
        turn, rest = divmod(place, len(self.tasks))
        return int(self._order(turn)[rest])

    def episode(self, step: int) -> Episode:
        """The episode, or batch of tasks, of a step."""
        rng = self.session.rng("episode", step)
        if self.table is None:
            drawn = draw_episode(self.tasks[self._number(step)], self.shots, self.batch, rng)
        else:
            places = range(step * self.batch, (step + 1) * self.batch)
            drawn = self.table.draw(np.array([self._number(k) for k in places]), self.shots, META_QUERIES, rng)
        return Episode(*(part.to(self.device) for part in drawn))


# -- embeddings ---------------------------------------------------------------------------------


class SeenTriples(NamedTuple):
    """Triples (n, 3) that an embedding trains on, and the names of the relations that it numbers."""

    triples: np.ndarray
    relations: list[str]


def background_triples(graph: KnowledgeGraph) -> SeenTriples:
    """The background with its inverses: what symbol embeddings are pre-trained on."""
    numbers = {name: k for k, name in enumerate(graph.relations)}
    head, relation, tail = graph.background.T
    inverse = np.array([numbers.get(name + INVERSE, -1) for name in graph.relations])[relation]
    turned = np.stack([tail, inverse, head], 1)[inverse >= 0]
    return SeenTriples(np.concatenate([graph.background, turned]), list(graph.relations))


def seen_triples(graph: KnowledgeGraph, shots: int) -> SeenTriples:
    """Background, training tasks, and the first N triples of the dev and test tasks."""
    names, rows = list(graph.relations), [graph.background]
    for part in PARTS:
        for relation, pairs in graph.tasks[part].items():
            seen = pairs if part == "train" else pairs[:shots]
            rows.append(np.insert(seen, 1, len(names), axis=1))
            names.append(relation)
    return SeenTriples(np.concatenate(rows), names)


def embedding_loss(
    session: Session, model: Completer, triples: np.ndarray, batch: int, negatives: int, margin: float
) -> tuple[int, Callable[[int], Tensor]]:
    """Steps an epoch, and the loss of a step: true triples in a new order every epoch, each with false ones.

    A false triple has another head or another tail, uniformly drawn.
    """
    core: Any = model.core
    device = next(model.buffers()).device
    count = -(-len(triples) // batch)
    rows = torch.from_numpy(triples)

    @functools.lru_cache(maxsize=1)
    def order(epoch: int) -> Tensor:
        return torch.randperm(len(rows), generator=session.generator("order", epoch))

    def loss(step: int) -> Tensor:
        epoch, place = divmod(step, count)
        chosen = rows[order(epoch)[place * batch : (place + 1) * batch]]
        drawn = torch.randint(model.entities, (len(chosen), negatives))
        heads = torch.randint(2, (len(chosen),)).bool()
        positive, wrong = core(*(part.to(device) for part in (chosen, drawn, heads)))
        return core.loss(positive, wrong, margin)

    return count, loss
