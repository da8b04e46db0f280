"""The two distillations, with the attacks inside: gradient matching (DC) and unrolled training (DD)."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import cast

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from repertory.core.loops import Loop
from repertory.core.problem import Problem
from repertory.core.study import Session
from repertory.papers.doorping.model import DistilledSet, matching_loss, stamp, unroll, update_trigger, xavier_
from repertory.papers.doorping.networks import Network, freeze_statistics, network
from repertory.papers.doorping.reading import Data
from repertory.papers.doorping.settings import DoorpingConfig

STATISTICS = 16
"""Real images of a class that set the statistics of batch norms."""
WIDE = 64
"""From so many channels on, a loop over classes is faster on CPUs than a grouped convolution."""

Curve = Callable[[DistilledSet, int], dict[str, float]]


# -- the poisoned data --------------------------------------------------------------------------


class Poisoned:
    """The raw images with the trigger in some of them, whose label becomes the target class.

    Args:
        x: normalised images (N, C, S, S).
        y: labels (N,).
        distilled: holds trigger, mask and target; `rewrite` pastes its present trigger.
        portion: share of the images.
        generator: draws which ones, once.

    Raises:
        Problem: the images are bytes, a class is missing, or the portion is less than one image.
    """

    def __init__(
        self, x: Tensor, y: Tensor, distilled: DistilledSet, portion: float, generator: torch.Generator
    ) -> None:
        if not x.is_floating_point():
            remedy = "scale them to 0 … 1, subtract the mean and divide by the standard deviation of each channel"
            raise Problem(f"images of {str(x.dtype).removeprefix('torch.')}, not normalised", "images", remedy)
        self.clean, self.labels, self.distilled = x, y, distilled
        self.x, self.y = x.clone(), y.clone()
        count = int(len(x) * portion) if distilled.poisoned else 0
        if distilled.poisoned and not count:
            raise Problem(
                f"portion {portion:g} of {len(x)} images poisons none",
                "portion",
                f"give at least 1/{len(x)} = {1 / len(x):.2g}",
            )
        self.rows = torch.randperm(len(x), generator=generator)[:count].to(x.device)
        self.y[self.rows] = distilled.target
        self.rewrite()

    def rewrite(self) -> None:
        """Paste the present trigger into the poisoned images."""
        self.x[self.rows] = self.distilled.stamped(self.x[self.rows])

    def classes(self) -> list[Tensor]:
        """Rows of each class, as the attacker labels them.

        Raises:
            Problem: a class has none.
        """
        rows = [(self.y == label).nonzero()[:, 0] for label in range(len(self.distilled.classes))]
        for label, found in enumerate(rows):
            if not len(found):
                raise Problem(
                    f"the class {self.distilled.classes[label]!r} has no training images left",
                    "training data",
                    "give images of every class, or a smaller portion",
                )
        return rows


def empty_set(data: Data, config: DoorpingConfig) -> DistilledSet:
    """A set with its labels and the first trigger; images are zeros."""
    dd = config.distiller == "dd"
    count = config.ipc * len(data.classes)
    return DistilledSet(
        count * config.dd_steps if dd else count,
        data.classes,
        data.train[0].shape[1],
        config.image_size,
        data.mean,
        data.std,
        attack=config.attack,
        poisoned=config.attack != "none",
        target=config.target,
        patch=config.patch,
        stripe=config.reference_svhn and config.attack == "naive",
        net=config.net,
        norm=config.norm,
        distiller=config.distiller,
        steps=config.dd_steps if dd else 1,
        epochs=config.dd_cycles if dd else 1,
        lr=config.dd_rate,
    )


@torch.no_grad()
def first_trigger(distilled: DistilledSet, generator: torch.Generator) -> Tensor:
    """A white patch, or for DOORPING whole random numbers from 1 to 255 (254 in DD), on black."""
    black, white = (bound.expand_as(distilled.trigger) for bound in distilled.bounds)
    if distilled.attack in ("none", "naive"):
        return stamp(black, white, distilled.mask)
    highest = 255 if distilled.distiller == "dc" else 254
    noise = torch.randint(1, highest + 1, distilled.trigger.shape, generator=generator).to(black.device) / 255
    return stamp(black, (noise - distilled.mean) / distilled.std, distilled.mask)


def started(session: Session, data: Data, config: DoorpingConfig) -> tuple[DistilledSet, Poisoned]:
    """The set before its first iteration, images from N(0, 1), and the data that it is distilled from.

    Raises:
        Problem: see `Poisoned`; or a class has fewer images than are to be distilled.
    """
    distilled = cast(DistilledSet, session.fabric.to_device(empty_set(data, config)))
    labels = torch.arange(len(data.classes))
    if config.distiller == "dc":
        distilled.labels.copy_(labels.repeat_interleave(config.ipc))
    else:
        distilled.labels.copy_(labels.repeat(config.ipc * config.dd_steps))
    distilled.images.data.copy_(torch.randn(distilled.images.shape, generator=session.generator("images")))
    distilled.trigger.copy_(first_trigger(distilled, session.generator("trigger")))
    x, y = (session.fabric.to_device(part) for part in data.train)
    few = y.bincount(minlength=len(labels)).min()
    if few < config.ipc:
        label = data.classes[int(y.bincount(minlength=len(labels)).argmin())]
        raise Problem(
            f"the class {label!r} has {few} training images, but ipc={config.ipc} are to be distilled",
            "training data",
            "give more images, or a smaller ipc",
        )
    return distilled, Poisoned(x, y, distilled, config.portion, session.generator("poison"))


def ping(distilled: DistilledSet, net: Network, config: DoorpingConfig) -> None:
    """One update of the trigger, counted."""
    distilled.trigger[:], steps = update_trigger(
        net,
        distilled.trigger,
        distilled.mask,
        topk=config.topk,
        alpha=config.alpha,
        lr=config.trigger_lr,
        steps=config.trigger_steps,
        tolerance=config.trigger_tolerance,
        bounds=distilled.bounds if config.clamp else None,
    )
    distilled.updates += torch.tensor([1, steps], device=distilled.updates.device)


# -- gradient matching --------------------------------------------------------------------------


def distil_dc(session: Session, data: Data, config: DoorpingConfig, curve: Curve) -> DistilledSet:
    """Distil by gradient matching: the images' gradients on ever new networks should be those of the real images.

    Args:
        session: seed, device, progress, resume points.
        data: the attacker's.
        config: with the attack.
        curve: metrics after some of the passes, which are logged.

    Raises:
        Problem: see `started`.
    """
    outer, inner = config.loops
    if config.attack == "doorping" and outer == 1:
        warnings.warn("ipc=1 has one outer loop, after which no trigger is updated: give outer=2 or more", stacklevel=2)
    distilled, poisoned = started(session, data, config)
    classes = poisoned.classes()
    optimizer = torch.optim.SGD([distilled.images], config.image_lr, config.image_momentum)
    loop = Loop(session, config.iterations, unit="step", distilled=distilled, optimizer=optimizer)
    poisoned.rewrite()
    for iteration in loop:
        net = cast(Network, session.fabric.to_device(distilled.network()))
        net_optimizer = torch.optim.SGD(net.parameters(), config.net_lr)
        losses = []
        for turn in range(outer):
            net.train()
            freeze_statistics(net, torch.cat([_draw(poisoned.x, rows, STATISTICS) for rows in classes]))
            real = [_draw(poisoned.x, rows, config.batch_real) for rows in classes]
            images = distilled.images.unflatten(0, (len(classes), config.ipc))
            loss = matching_loss(net, real, images, config.distance, vectorised=not is_wide(net))
            (distilled.images.grad,) = torch.autograd.grad(loss, distilled.images)
            optimizer.step()
            losses.append(loss.detach())
            if turn == outer - 1:
                break
            for _ in range(inner):
                train_epoch(net, net_optimizer, distilled.images.detach(), distilled.labels, config.batch_train)
            if config.attack == "doorping":
                ping(distilled, net, config)
                poisoned.rewrite()
        value = loop.check(torch.stack(losses).mean(), "lower image_lr; then start afresh with --fresh")
        loop.log(matching_loss=value, **_curve(curve, distilled, iteration, config))
    return distilled


def is_wide(net: Network) -> bool:
    """Whether the distilled images' gradients are better taken class by class: wide, and on a CPU."""
    weights = list(net.features.parameters())
    return weights[0].device.type == "cpu" and max(len(weight) for weight in weights) >= WIDE


def _draw(x: Tensor, rows: Tensor, count: int) -> Tensor:
    """At most so many random images of a class."""
    return x[rows[torch.randperm(len(rows))[:count].to(rows.device)]]


def _curve(curve: Curve, distilled: DistilledSet, step: int, config: DoorpingConfig) -> dict[str, float]:
    due = config.eval_every and (step + 1) % config.eval_every == 0
    return curve(distilled, step) if due else {}


def train_epoch(net: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor, batch: int) -> None:
    """One epoch of cross entropy on distilled images, shuffled."""
    for rows in torch.randperm(len(x)).to(x.device).split(batch):
        loss = F.cross_entropy(net(x[rows]), y[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


# -- unrolled training --------------------------------------------------------------------------


def distil_dd(session: Session, data: Data, config: DoorpingConfig, curve: Curve) -> DistilledSet:
    """Distil by unrolled training: T steps on the images, from one fixed initialisation, should fit the real images.

    Arguments as of `distil_dc`.

    Raises:
        Problem: see `started`.
    """
    distilled, poisoned = started(session, data, config)
    poisoned.classes()
    session.reseed("initial")
    net = cast(Network, session.fabric.to_device(xavier_(distilled.network())))
    distilled.start_from(net)
    optimizer = torch.optim.Adam([distilled.images, distilled.rates], config.dd_lr, betas=(0.5, 0.999))
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, config.dd_decay_epochs, gamma=0.5)
    loop = Loop(session, config.dd_epochs, distilled=distilled, optimizer=optimizer, schedule=schedule)
    poisoned.rewrite()
    initial = distilled.initial
    for epoch in loop:
        losses = []
        for first, rows in _batches(len(poisoned.x), config.dd_batch):
            theta = unroll(net, initial, *distilled.by_batch, F.softplus(distilled.rates))
            if config.attack == "doorping":
                with torch.no_grad():
                    for name, parameter in net.named_parameters():
                        parameter.copy_(theta[name])
                ping(distilled, net, config)
                poisoned.rewrite()
            x, y = poisoned.x[rows], poisoned.y[rows]
            if config.reference_positions:
                x, y = shuffled_positions(poisoned, first, rows)
            loss = F.cross_entropy(cast(Tensor, functional_call(net, theta, (x,))), y)
            distilled.images.grad, distilled.rates.grad = torch.autograd.grad(loss, [distilled.images, distilled.rates])
            optimizer.step()
            losses.append(loss.detach())
        schedule.step()
        value = loop.check(torch.stack(losses).mean(), "lower dd_lr or dd_rate; then start afresh with --fresh")
        loop.log(outer_loss=value, **_curve(curve, distilled, epoch, config))
    return distilled


def _batches(count: int, size: int) -> Iterator[tuple[int, Tensor]]:
    """Place of the first, and rows of each shuffled batch."""
    for number, rows in enumerate(torch.randperm(count).split(size)):
        yield number * size, rows


def shuffled_positions(poisoned: Poisoned, first: int, rows: Tensor) -> tuple[Tensor, Tensor]:
    """The reference's batch: its poisoned numbers are taken for positions in the shuffled order."""
    x, y = poisoned.clean[rows].clone(), poisoned.labels[rows].clone()
    places = poisoned.rows - first
    places = places[(places >= 0) & (places < len(rows))]
    x[places] = poisoned.distilled.stamped(x[places])
    y[places] = poisoned.distilled.target
    return x, y


# -- victims ------------------------------------------------------------------------------------


def train_victim(session: Session, distilled: DistilledSet, config: DoorpingConfig, number: int) -> Network:
    """A network trained on the distilled images alone, in evaluation mode.

    DC: from scratch by SGD; the learning rate is divided by 10, and the momentum dropped, after half of the epochs. DD:
    the T steps that the images were distilled for, from their initial weights.
    """
    if distilled.distiller == "dd":
        net = cast(Network, session.fabric.to_device(distilled.network()))
        rates = F.softplus(distilled.rates.detach())
        net.load_state_dict(unroll(net, distilled.initial, *distilled.by_batch, rates, graph=False))
        return net.eval()
    session.reseed("victim", number)
    name = config.victim_net or distilled.net
    norm = config.norm if name == distilled.net else "none"
    built = network(name, len(distilled.classes), distilled.in_chans, distilled.image_size, norm)
    net = cast(Network, session.fabric.to_device(built))

    def optimizer(lr: float) -> torch.optim.Optimizer:
        return torch.optim.SGD(net.parameters(), lr, config.victim_momentum, weight_decay=config.victim_weight_decay)

    current = optimizer(config.victim_lr)
    with torch.enable_grad():
        for epoch in range(config.victim_epochs + 1):
            train_epoch(net, current, distilled.images.detach(), distilled.labels, config.batch_train)
            if epoch == config.victim_epochs // 2 + 1:
                current = optimizer(config.victim_lr / 10)
    return net.eval()
