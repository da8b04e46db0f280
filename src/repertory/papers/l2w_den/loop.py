"""Training: the halves of each batch take turns in learning the network and in judging the sample weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import torch
from scipy.stats import rankdata
from torch import Tensor
from torch.utils.data import Dataset

from repertory.core.loops import Loop
from repertory.core.problem import Problem
from repertory.core.settings import Recipe
from repertory.core.study import Session
from repertory.core.training import Batches, loader
from repertory.papers.l2w_den.model import MultiExitNetwork
from repertory.papers.l2w_den.settings import L2WConfig
from repertory.papers.l2w_den.weighting import (
    MetaObjective,
    PseudoStep,
    WeightPredictionNetwork,
    check_exits,
    confidence,
    meta_gradient,
    rank_weights,
    sample_losses,
    target_shares,
)

Weighting = Literal["none", "learned", "rank", "frozen"]
WEIGHTING: dict[str, Weighting] = {"uniform": "none", "l2w": "learned", "hand": "rank", "frozen": "frozen"}
LOG_EVERY = 20


class Trainer:
    """One training run: the network, the weight prediction network, and what they are trained with.

    Args:
        session: seed, device, progress, resume points.
        config: recipe and weighting.
        network: trained in place.
        weighting: where the weights of the samples come from.
    """

    def __init__(self, session: Session, config: L2WConfig, network: MultiExitNetwork, weighting: Weighting) -> None:
        self.session, self.config, self.network, self.weighting = session, config, network, weighting
        exits = len(network.exits)
        session.reseed("weight prediction network")
        self.wpn = WeightPredictionNetwork(
            exits, config.weighting_input, config.weighting_hidden, config.weighting_layers
        )
        session.fabric.to_device(self.wpn)
        self.objective = MetaObjective(
            target_shares(config.target_index, exits), config.epsilon, config.constraint, config.label_smoothing
        )
        self.sgd = torch.optim.SGD(network.parameters(), config.lr, config.momentum, weight_decay=config.weight_decay)
        self.adam = torch.optim.Adam(self.wpn.parameters(), config.meta_lr, weight_decay=config.meta_weight_decay)

    def fit(self, dataset: Dataset[Any]) -> None:
        """Train on a map-style data set of (image, label).

        Raises:
            Problem: too few images for the exits.
            Diverged: the loss is not finite.
        """
        config, fabric = self.config, self.session.fabric
        batch = batch_size(config, dataset, len(self.network.exits), fabric.world_size)
        batches = Batches(self.session, dataset, Recipe(batch_size=batch, workers=config.workers))
        per_epoch = len(batches)
        self.network.to(memory_format=torch.channels_last)  # a tenth faster, the meta gradient a fifth
        network, optimizer = fabric.setup(self.network, self.sgd)
        loop = Loop(
            self.session,
            config.epochs * per_epoch,
            unit="step",
            log_every=LOG_EVERY,
            network=network,
            optimizer=optimizer,
            wpn=self.wpn,
            wpn_optimizer=self.adam,
        )
        stream: Iterator[tuple[Tensor, Tensor]] = iter(())
        first = loop.step
        network.train()
        for step in loop:
            epoch, position = divmod(step, per_epoch)
            if step == first or position == 0:
                stream = batches.epoch(epoch, position)
            x, y = (fabric.to_device(part) for part in next(stream))
            x = x.to(memory_format=torch.channels_last)
            decay = 0.5 * (1 + math.cos(math.pi * step / loop.total))
            for optimiser, lr in ((self.sgd, config.lr), (self.adam, config.meta_lr)):
                for group in optimiser.param_groups:
                    group["lr"] = lr * decay

            logged = {}
            halves = list(zip(x.chunk(2), y.chunk(2), strict=True))
            for train, meta in (halves, halves[::-1]):
                if self.weighting == "learned" and step % config.meta_interval == 0:
                    logged["meta_loss"] = self.learn_weights(train, meta)
                logits = check_exits(network(train[0]))
                losses = sample_losses(logits, train[1], config.label_smoothing)  # (n, K)
                loss = (self.weights(logits, losses) * losses).mean(0).sum()
                logged["loss"] = loop.check(loss)
                fabric.backward(loss)
                optimizer.step()
                optimizer.zero_grad()
            loop.log(lr=config.lr * decay, **logged)
        self.network.eval().to(memory_format=torch.contiguous_format)

    def learn_weights(self, train: tuple[Tensor, Tensor], meta: tuple[Tensor, Tensor]) -> float:
        """A step of the weight prediction network; returns the meta loss."""
        group = self.sgd.param_groups[0]
        step = PseudoStep(group["lr"], group["momentum"], group["weight_decay"])
        buffers = {
            name: self.sgd.state.get(p, {}).get("momentum_buffer") for name, p in self.network.named_parameters()
        }
        with self.session.fabric.autocast():
            gradients, _, meta_loss = meta_gradient(self.network, self.wpn, train, meta, self.objective, step, buffers)
        for p, gradient in zip(self.wpn.parameters(), gradients, strict=True):
            p.grad = self.session.fabric.all_reduce(gradient)  # pyright: ignore[reportAttributeAccessIssue]
        self.adam.step()
        return float(meta_loss)

    @torch.no_grad()
    def weights(self, logits: Sequence[Tensor], losses: Tensor) -> Tensor:
        """The weights of this arm, (n, K)."""
        match self.weighting:
            case "none":
                return torch.ones_like(losses)
            case "rank":
                return rank_weights(losses, self.config.epsilon)
            case _:
                return self.objective.weights(self.wpn, logits, losses)

    @torch.no_grad()
    def correlation(self, dataset: Dataset[Any]) -> Tensor:
        """Spearman's correlation of weight and loss at each exit over a data set, (K,); NaN where weights are equal."""
        batches = loader(self.session, dataset, self.config.batch_size, workers=self.config.workers, label="weights")
        found = [self._weighed(*batch) for batch in batches]
        losses, weights = (torch.cat(parts) for parts in zip(*found, strict=True))
        ranked = [torch.from_numpy(rankdata(values.cpu().numpy(), axis=0)) for values in (losses, weights)]
        return torch.stack(
            [torch.corrcoef(torch.stack(pair))[0, 1] for pair in zip(*(r.T for r in ranked), strict=True)]
        )

    def _weighed(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.network(x)
        losses = sample_losses(logits, y, self.config.label_smoothing)
        return losses, self.weights(logits, losses)


def batch_size(config: L2WConfig, dataset: Any, exits: int, processes: int) -> int:
    """Images of a process's batch: as configured, or all there are, an even number.

    Raises:
        Problem: a half has fewer images than exits.
    """
    batch = min(config.batch_size, len(dataset) // processes // 2 * 2)
    if batch < 2 * exits:
        raise Problem(
            f"batches of {batch} images: the meta allocation needs at least {exits} in each half, one per exit",
            f"batch_size={config.batch_size}, {len(dataset)} training images",
            f"set batch_size={2 * exits} or more, and give as many images",
        )
    return batch


@torch.no_grad()
def judge(
    session: Session, network: Callable[[Tensor], list[Tensor]], dataset: Any, batch: int, workers: int, label: str
) -> tuple[Tensor, Tensor]:
    """Confidences (N, K) and whether each exit is right (N, K), in the order of the data set."""
    confidences, correct = [], []
    for x, y in loader(session, dataset, batch, workers=workers, label=label):
        logits = network(x)
        confidences.append(confidence(logits))
        correct.append(torch.stack([one.argmax(1) == y for one in logits], 1))
    return torch.cat(confidences), torch.cat(correct)
