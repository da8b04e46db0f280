"""Training on the whole hypergraph at once, and the two ways to choose the epoch."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from repertory.core.loops import Loop, Picks, fuses
from repertory.core.study import Session
from repertory.data.hypergraphs import Hypergraph, Split
from repertory.papers.ghsc.model import Features, Network
from repertory.papers.ghsc.settings import GHSCConfig, Setting
from repertory.tasks.graphs import TEST, TRAIN, VALID, Protocol, accuracy, drawn_roles, having, published_roles

PROTOCOLS = {
    "validation": Protocol(choose=(VALID,), test=(TEST,)),
    "released": Protocol(choose=(VALID, TEST), test=(VALID, TEST)),
}
"""How the epoch is chosen, and what is tested. The authors choose on what they test."""

LOG_EVERY = 10


def roles(data: Hypergraph, config: GHSCConfig, session: Session) -> Tensor:
    """The role of every vertex for this seed, (n,) int8.

    With published splits, seed s takes split s, and a seed beyond them draws a split of the same sizes anew. The
    training ids stay whole, and random ids of the test list become the validation set. Without, the labelled vertices
    are shuffled and divided.

    Raises:
        Problem: too few labelled vertices.
    """
    rng = session.rng("split")
    if not data.splits:
        return drawn_roles(data.labels, rng, config.train_share, config.valid_share, data.name)
    train, test = data.splits[session.split_seed % len(data.splits)]
    if session.split_seed >= len(data.splits):
        train, test = redrawn(data.labels, train, test, rng)
    return published_roles(data.labels, train, test, rng, config.validation_ids, data.name)


def redrawn(labels: np.ndarray, train: np.ndarray, test: np.ndarray, rng: np.random.Generator) -> Split:
    """A random split of the ids of another, with as many of each class on either side.

    Args:
        labels: class of each vertex (n,).
        train: ids for training.
        test: ids for test.
        rng: draws the ids.

    Example:
        >>> labels, rng = np.array([0, 0, 0, 1, 1, 1]), np.random.default_rng(0)
        >>> train, test = redrawn(labels, np.array([0, 3]), np.array([1, 2, 4, 5]), rng)
        >>> np.bincount(labels[train]), np.bincount(labels[test])
        (array([1, 1]), array([2, 2]))
    """
    ids = np.concatenate([train, test])
    parts: list[Split] = []
    for group in np.unique(labels[ids]):
        order, count = rng.permutation(ids[labels[ids] == group]), int((labels[train] == group).sum())
        parts.append((order[:count], order[count:]))
    drawn, rest = (np.sort(np.concatenate(side)) for side in zip(*parts, strict=True))
    return drawn, rest


def train_network(
    session: Session,
    network: Network,
    x: Features,
    T: Any,
    labels: Tensor,
    role: Tensor,
    setting: Setting,
    part: str = "",
) -> Picks:
    """Minimise the cross-entropy of the training vertices; full batch, one step an epoch.

    Both protocols watch the same run: each keeps its own best epoch and its own patience, so each has the outcome of
    a run of its own.

    Args:
        session: seed, device, progress, resume points.
        network: trained in place, on the session's device.
        x: features (n, f).
        T: what the network takes beside them.
        labels: (n,).
        role: (n,).
        setting: of the training.
        part: name of this loop, where a trial has several.

    Returns:
        The weights at the best epoch of each protocol; the history holds the loss and each protocol's accuracy.

    Raises:
        Diverged: the loss is not finite.
    """
    deep = network.deep_parameters()
    shallow = [p for p in network.parameters() if all(p is not q for q in deep)]
    groups = [
        {"params": shallow, "weight_decay": setting.weight_decay},
        {"params": deep, "weight_decay": setting.deep_weight_decay},
    ]
    groups = [group for group in groups if group["params"]]
    optimizer = torch.optim.Adam(groups, lr=setting.lr, fused=fuses(session.fabric.device))
    wrapped, optimizer = session.fabric.setup(network, optimizer)
    wrapped.mark_forward_method("head")
    # Without a plateau schedule the patience is never exhausted; resume points then have one form.
    schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer, factor=0.2, patience=setting.plateau or setting.epochs
    )

    train = having(role, (TRAIN,))
    targets, choosing = labels[train], {name: having(role, wanted) for name, (wanted, _) in PROTOCOLS.items()}
    fixed = network.embed(x, T).detach() if network.fixed_embedding else None
    fixed_train = None if fixed is None else fixed[train]
    picks = Picks()

    def still_open() -> list[str]:
        return [name for name in PROTOCOLS if not setting.patience or picks.stale(name) <= setting.patience]

    loop = Loop(
        session,
        setting.epochs,
        part=part,
        key=("epoch", part),
        log_every=LOG_EVERY,
        until=lambda: not still_open(),
        model=wrapped,
        optimizer=optimizer,
        schedule=schedule,
        picks=picks,
    )
    for epoch in loop:
        network.train()
        loss = F.cross_entropy(wrapped(x, T)[train] if fixed is None else wrapped.head(fixed_train, T), targets)
        loop.check(loss)
        session.fabric.backward(loss)
        if setting.clip_norm:
            session.fabric.clip_gradients(network, optimizer, max_norm=setting.clip_norm, error_if_nonfinite=False)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step(loss.item())

        network.eval()
        with torch.no_grad():
            now = wrapped(x, T) if fixed is None else wrapped.head(fixed, T)
        seen = {name: accuracy(now, labels, ids) for name, ids in choosing.items()}
        scores = {name: seen[name] for name in still_open()}
        picks.offer(epoch, scores, network.state_dict, loss=loss.item(), **seen)
        loop.log(loss=loss.item(), **{f"accuracy_{name}": value for name, value in seen.items()})
    return picks
