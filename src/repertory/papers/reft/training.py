"""Training: batches by step, AdamW, one schedule; pre-training of the image network; distillation."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from repertory.core.loops import Loop, cyclic
from repertory.core.study import Session
from repertory.papers.reft.episodes import Batch
from repertory.papers.reft.model import Output, RefT, together

M = TypeVar("M", bound=nn.Module)

RISE = 0.3
"""Share of the steps of a one-cycle schedule in which the rate rises, from a 25th."""
DECAYS = (0.9, 0.95)
"""Shares of the steps after which the step schedule divides the rate by ten, as Mask2Former's."""


def rate(step: int, total: int, schedule: Literal["onecycle", "step", "constant"]) -> float:
    """Learning rate of a step relative to its peak.

    Example:
        >>> [round(rate(step, 10, "onecycle"), 2) for step in (0, 3, 6, 9)]
        [0.04, 1.0, 0.61, 0.05]
    """
    if schedule == "constant":
        return 1.0
    if schedule == "step":
        return 0.1 ** sum(step >= share * total for share in DECAYS)
    return cyclic(step, total, 0.04, 1.0, 0.0, RISE)


@dataclass(frozen=True)
class Plan:
    """How a loop is run."""

    lr: float
    backbone_rate: float = 1.0
    """learning rate of the image network relative to the others'"""
    weight_decay: float = 0.05
    clip_norm: float = 0.0
    schedule: Literal["onecycle", "step", "constant"] = "onecycle"
    workers: int = 0


def parameter_groups(model: nn.Module, plan: Plan) -> list[dict[str, Any]]:
    """The parameters that are trained: weights of layers decay, others (biases, norms, embeddings) do not."""
    embeddings = {id(p) for m in model.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            decays = parameter.ndim > 1 and id(parameter) not in embeddings
            groups.setdefault(("pixel_level_module.encoder." in name, decays), []).append(parameter)
    return [
        {
            "params": parameters,
            "weight_decay": plan.weight_decay * decays,
            "lr_scale": plan.backbone_rate if of_backbone else 1.0,
        }
        for (of_backbone, decays), parameters in groups.items()
    ]


def run(session: Session, objective: M, batches: Dataset[Any], steps: int, plan: Plan, part: str) -> M:
    """Train a module whose `forward` takes a batch and gives losses; returns it in evaluation mode.

    Args:
        session: of the trial.
        objective: the module.
        batches: `batches[step]` for each step.
        steps: number of steps.
        plan: of the optimizer.
        part: name of the loop.

    Raises:
        Diverged: a loss or a weight is not finite.
    """
    if not steps:
        return objective.eval()
    fabric = session.fabric
    optimizer = torch.optim.AdamW(parameter_groups(objective, plan), lr=plan.lr)
    wrapped, optimizer = fabric.setup(objective, optimizer)
    loop = Loop(session, steps, part=part, unit="step", log_every=20, model=wrapped, optimizer=optimizer)
    stream = _stream(batches, loop.step, 0 if session.dry_run else plan.workers)
    wrapped.train()
    for step in loop:
        factor = plan.lr * rate(step, steps, plan.schedule)
        for group in optimizer.param_groups:
            group["lr"] = factor * group["lr_scale"]
        losses = wrapped(fabric.to_device(next(stream)))
        value = loop.check(losses["loss"])
        optimizer.zero_grad()
        fabric.backward(losses["loss"])
        if plan.clip_norm:
            fabric.clip_gradients(wrapped, optimizer, max_norm=plan.clip_norm, error_if_nonfinite=False)
        optimizer.step()
        loop.log(lr=factor, **{**{name: float(loss.detach()) for name, loss in losses.items()}, "loss": value})
    return objective.eval()


def _stream(batches: Dataset[Any], start: int, workers: int) -> Iterator[Any]:
    order = range(start, len(batches))  # pyright: ignore[reportArgumentType]
    return iter(DataLoader(batches, batch_size=None, sampler=order, collate_fn=_same, num_workers=workers))


def _same(batch: Any) -> Any:
    return batch


@contextmanager
def trained_part(model: RefT, tuned: Literal["all", "references", "rows"], base: int) -> Iterator[None]:
    """Inside, only a part of a network has gradients.

    Args:
        model: the network.
        tuned: all; or novel rows of the classifier alone; or these with all input projections and both references.
        base: rows of the classifier that stay as they are, but for "all".
    """
    rows = model.net.class_predictor.weight
    for name, parameter in model.named_parameters():
        references = "input_projections" in name or name.startswith(("weighting.", "linking."))
        parameter.requires_grad_(tuned == "all" or parameter is rows or (tuned == "references" and references))
    novel = torch.zeros_like(rows)
    novel[base : len(model.classes)] = 1
    hook = rows.register_hook(lambda gradient: gradient if tuned == "all" else gradient * novel)
    try:
        yield
    finally:
        hook.remove()
        model.requires_grad_(True)


# -- what is trained ----------------------------------------------------------------------------


class Pretraining(nn.Module):
    """The image network with a linear layer on its mean features: classifies single objects.

    Args:
        encoder: of Mask2Former; trained in place, the layer is thrown away.
        classes: number of them.
        mean: of the colours, (3, 1, 1).
        std: of the colours, (3, 1, 1).
    """

    def __init__(self, encoder: Any, classes: int, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.encoder, self.head = encoder, nn.Linear(encoder.channels[-1], classes)
        self.register_buffer("mean", mean.clone())
        self.register_buffer("std", std.clone())

    mean: Tensor
    std: Tensor

    def forward(self, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        """Loss and share of right answers of crops (n, 3, s, s) with labels (n,)."""
        images, labels = batch
        features = self.encoder((images - self.mean) / self.std).feature_maps[-1]
        logits = self.head(features.mean((-2, -1)))
        right = (logits.argmax(1) == labels).float().mean()
        return {"loss": F.cross_entropy(logits, labels), "right": right}


class DensePretraining(nn.Module):
    """Image network and pixel decoder with a linear layer on the mask features: classifies the pixels at a quarter.

    Args:
        model: a plain network; its pixel level is trained in place, the layer is thrown away.
    """

    def __init__(self, model: RefT) -> None:
        super().__init__()
        self.pixels, self.classes = model.net.model.pixel_level_module, len(model.classes)
        self.head = nn.Conv2d(model.net.config.mask_feature_size, self.classes + 1, 1)
        self.register_buffer("mean", model.mean.clone())
        self.register_buffer("std", model.std.clone())

    mean: Tensor
    std: Tensor

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Loss of a batch; what belongs to no object is a class of its own."""
        logits = self.head(self.pixels((batch.images - self.mean) / self.std).decoder_last_hidden_state)
        target = logits.new_full((len(logits), *logits.shape[2:]), self.classes, dtype=torch.long)
        for own, masks, labels in zip(target, batch.masks, batch.labels, strict=True):
            small = F.interpolate(masks[None], logits.shape[2:], mode="area")[0] if len(masks) else masks
            for mask, label in zip(small, labels, strict=True):
                own[mask > 0.5] = label
        return {"loss": F.cross_entropy(logits, target)}


class Objective(nn.Module):
    """Losses of RefT on a batch, with distillation where there is a teacher.

    Supports of the batch are encoded with gradients; those that the network keeps are there too.

    Args:
        model: trained in place.
        teacher: a frozen network with the base classes; None: no distillation.
        weight: of the distillation.
    """

    def __init__(self, model: RefT, teacher: RefT | None = None, weight: float = 1.0) -> None:
        super().__init__()
        self.model, self.weight = model, weight
        self.teacher = teacher
        if teacher is not None:
            teacher.requires_grad_(False)

    def train(self, mode: bool = True) -> Objective:
        super().train(mode)
        if self.teacher is not None:
            self.teacher.eval()
        return self

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """ "loss" and its parts."""
        supports = self.model.kept()
        if batch.supports is not None:
            encoded = self.model.encode(*batch.supports)
            supports = encoded if supports is None else together(supports, encoded)
        output = self.model(batch.images, supports)
        losses = self.model.losses(output, batch.masks, batch.labels)
        if self.teacher is not None:
            with torch.no_grad():
                told = self.teacher(batch.images)
            kept = self.weight * distillation(output, told)
            losses = {**losses, "distillation": kept, "loss": losses["loss"] + kept}
        return losses


CONFIDENT = 0.3
"""Score from which on a teacher's query counts."""
TEMPERATURE = 2.0
MASK_WEIGHT = 0.5


def distillation(student: Output, teacher: Output) -> Tensor:
    """Class-enhanced base knowledge distillation, a scalar; only its name is published, the formula is ours.

        mean over queries with max_c p_c > 0.3 of (1 + max_c p_c) KL(p^T || q^T) + 0.5 |σ(m) - σ(n)|

    p, m: the teacher's probabilities of base classes and logits of the mask; q, n: the student's for the same query and
    the same classes, "no object" included; T = 2. Without such queries it is 0.
    """
    base = teacher.logits[-1].shape[-1] - 1
    p = teacher.logits[-1]
    q = torch.cat([student.logits[-1][..., :base], student.logits[-1][..., -1:]], -1)
    best = p.softmax(-1)[..., :-1].amax(-1)  # (B, Q)
    confident = best > CONFIDENT
    of_classes = F.kl_div(
        (q / TEMPERATURE).log_softmax(-1), (p / TEMPERATURE).log_softmax(-1), reduction="none", log_target=True
    ).sum(-1)
    of_masks = (student.masks[-1].sigmoid() - teacher.masks[-1].sigmoid()).abs().mean((-2, -1))
    each = (1 + best) * of_classes + MASK_WEIGHT * of_masks
    return (each * confident).sum() / confident.sum().clamp(min=1)
