"""Training by the progressive multi-task loss; the test part is watched for the published protocol."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch

from repertory.core.loops import Loop, Picks
from repertory.core.settings import Recipe
from repertory.core.study import Session
from repertory.core.training import Batches
from repertory.papers.pmt_iqa.model import PMTIQA, TaskWeights, multi_task_loss, task_weights
from repertory.papers.pmt_iqa.patches import Patches
from repertory.papers.pmt_iqa.settings import PMTConfig

LOG_EVERY = 20
"""Steps between two records."""
OFFICIAL = "official"
"""The published protocol: the epoch with the best SRCC on the test part."""


def learning_rate(config: PMTConfig, epoch: int) -> float:
    """lr of an epoch, from 0: after epoch t it is lr_0 r^floor(t / n), so the first decay comes an epoch late.

    Example:
        >>> [f"{learning_rate(PMTConfig(lr=1e-4, decay_every=6), t):.0e}" for t in (0, 6, 7, 12, 13)]
        ['1e-04', '1e-04', '1e-05', '1e-05', '1e-06']
    """
    decays = max(0, epoch - 1) // config.decay_every if config.decay_every else 0
    return (config.lr or 0.0) * config.decay_rate**decays


def fit_quality(
    session: Session,
    config: PMTConfig,
    model: PMTIQA,
    train: Patches,
    kind: TaskWeights,
    test: Callable[[], Mapping[str, float]],
) -> Picks:
    """Train a network in place.

    Args:
        session: of the trial.
        config: completed.
        model: the untrained network.
        train: images of the training part.
        kind: how the tasks are weighted.
        test: called after each epoch, with the network in evaluation mode: metrics of the test part, with "srcc".

    Returns:
        For every epoch the mean losses, the weights of the tasks and the metrics of `test`; the state of the epoch that
        the protocol "official" picks.

    Raises:
        Diverged: a loss or a weight is not finite.
    """
    assert config.lr is not None
    assert config.batch_size is not None
    fabric = session.fabric
    batches = Batches(session, train, Recipe(batch_size=config.batch_size, workers=config.workers))
    per_epoch = len(batches)
    adam = torch.optim.Adam(model.parameters(), config.lr, weight_decay=config.weight_decay)
    network, optimizer = fabric.setup(model, adam)
    picks = Picks()
    loop = Loop(
        session,
        config.epochs * per_epoch,
        unit="step",
        log_every=LOG_EVERY,
        network=network,
        optimizer=optimizer,
        picks=picks,
    )
    stream: Iterator[Any] = iter(())
    first = loop.step
    network.train()
    for step in loop:
        epoch, position = divmod(step, per_epoch)
        if step == first or position == 0:
            stream = batches.epoch(epoch, position)
        lr = adam.param_groups[0]["lr"] = learning_rate(config, epoch)
        if position == 0 and config.restart_moments:
            adam.state.clear()
        weights = task_weights(epoch, config.epochs, kind, config.static_weights)

        x, scores, levels = (fabric.to_device(part) for part in next(stream))  # (B, K, 3, S, S), (B,), (B,)
        count = x.shape[1]
        quality = network(x.flatten(0, 1))
        losses = multi_task_loss(
            quality,
            scores.float().repeat_interleave(count),
            levels.repeat_interleave(count),
            weights,
            model.score_unit,
        )
        value = loop.check(losses["loss"])
        fabric.backward(losses["loss"])
        optimizer.step()
        optimizer.zero_grad()

        parts = {name: losses[name].item() for name in ("l1", "ce")}
        sums = loop.extra if position else {}
        loop.extra = {name: sums.get(name, 0.0) + part / per_epoch for name, part in parts.items()}
        loop.log(loss=value, **parts, regression=weights[0], classification=weights[1], lr=lr)
        if position + 1 == per_epoch:
            model.eval()
            session.reseed("watch", epoch)
            found = test()
            network.train()
            noted = {**found, **loop.extra, "regression": weights[0], "classification": weights[1]}
            picks.offer(epoch, {OFFICIAL: found["srcc"]}, model.state_dict, **noted)
    model.eval()
    return picks
