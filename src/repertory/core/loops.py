"""Loops that papers write themselves: resumable epochs, the states that protocols pick, one wording of divergence."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from repertory.core.problem import Problem
from repertory.core.study import Session

REMEDY = "lower lr, set clip_norm, or use full precision; then start afresh with --fresh"


class Diverged(Problem):
    """A loss or a weight is not finite: the outcome of this one trial, not a fault of the input."""


def cyclic(step: int, total: int, start: float, peak: float, end: float, rise: float) -> float:
    """A value that goes from `start` to `peak` in a share `rise` of the steps, then to `end`, by half cosines.

    Example:
        >>> [round(cyclic(step, 10, 1.0, 6.0, 0.0, rise=0.4), 2) for step in (0, 2, 4, 7, 10)]
        [1.0, 3.5, 6.0, 3.0, 0.0]
    """
    top = rise * total
    first, last, share = (start, peak, step / top) if step < top else (peak, end, (step - top) / (total - top))
    return last + (first - last) * (1 + math.cos(math.pi * share)) / 2


def fuses(device: torch.device) -> bool:
    """Whether torch's optimizers have a form for this device that updates all weights in one pass (`fused`)."""
    return device.type in ("cpu", "cuda", "mps", "xpu")


def diverged(what: str, remedy: str = REMEDY) -> Diverged:
    """The exception to raise; resume points hold finite values only, so the last good one is still on disk."""
    return Diverged(what, "training; the last good state is kept", remedy)


def finite(loss: Tensor | float, when: str, remedy: str = REMEDY) -> float:
    """The value of a loss.

    Args:
        loss: a scalar.
        when: where in the loop: "at step 3".
        remedy: what the user can change.

    Raises:
        Diverged: it is not finite.

    Example:
        >>> finite(torch.tensor(0.5), "at step 3")
        0.5
    """
    value = loss.item() if isinstance(loss, Tensor) else float(loss)
    if not math.isfinite(value):
        raise diverged(f"the loss is {value} {when}", remedy)
    return value


def finite_weights(module: nn.Module) -> Tensor:
    """Whether all parameters are finite, a scalar on their device: a finite loss may have a gradient that is not."""
    weights = [weight.detach() for weight in module.parameters()]
    # A finite sum has finite terms, and is five times faster; finite terms may have a sum that is not.
    by_sums = torch.stack([weight.sum().isfinite() for weight in weights]).all()
    return by_sums if by_sums else torch.stack([weight.isfinite().all() for weight in weights]).all()


class Picks:
    """The states of one training run that protocols choose: the best on validation, the last, an oracle's, …

    All protocols watch the same run, and each keeps the state with its own highest score.

    Args:
        ties: which of several states with the same score is kept.

    Example:
        >>> picks = Picks()
        >>> for epoch, (valid, test) in enumerate([(60.0, 70.0), (80.0, 90.0), (80.0, 95.0)]):
        ...     picks.offer(epoch, {"validation": valid, "last": epoch}, lambda: {}, test=test)
        >>> picks.steps, picks.stale("validation")
        ({'validation': 1, 'last': 2}, 1)
    """

    def __init__(self, ties: Literal["first", "last"] = "first") -> None:
        self.ties = ties
        self.picked: dict[str, dict[str, Any]] = {}
        """Protocol -> step, score, state."""
        self.history: list[dict[str, float]] = []
        """For every offer its step, and what was noted with it."""

    def offer(
        self, step: int, scores: Mapping[str, float], state: Callable[[], Mapping[str, Tensor]], **noted: float
    ) -> None:
        """Offer the state after `step` to the protocols.

        Args:
            step: number of the epoch.
            scores: protocol -> score, higher is better; protocols that are left out pick nothing.
            state: gives the tensors to keep; called, and copied, only if a protocol picks them.
            **noted: values for the history.
        """
        self.history.append({"step": step, **noted})
        choosing = [name for name, score in scores.items() if self._better(name, score)]
        if choosing:
            kept = {key: tensor.detach().clone() for key, tensor in state().items()}
            self.picked |= {name: {"step": step, "score": float(scores[name]), "state": kept} for name in choosing}

    def _better(self, name: str, score: float) -> bool:
        best = self.picked[name]["score"] if name in self.picked else math.nan
        return math.isnan(best) or score > best or (self.ties == "last" and score == best)

    @property
    def steps(self) -> dict[str, int]:
        """Protocol -> the step that it picked."""
        return {name: pick["step"] for name, pick in self.picked.items()}

    def state(self, name: str) -> dict[str, Tensor]:
        """The tensors that a protocol picked."""
        return self.picked[name]["state"]

    def stale(self, name: str) -> int:
        """Steps since the one that a protocol picked; 0 before the first offer."""
        return int(self.history[-1]["step"]) - self.picked[name]["step"] if name in self.picked else 0

    def state_dict(self) -> dict[str, Any]:
        return {"picked": self.picked, "history": self.history}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.picked, self.history = state_dict["picked"], state_dict["history"]


class Loop:
    """Epochs of a training loop with progress bar, seeding per step, records, resume points and a check of the losses.

    After an interruption a new loop of the same arguments resumes from the last resume point with the same result:
    all random numbers of a step derive from the seed, `key` and the step.

    Iterating raises `Diverged` if a weight is not finite after a step; that state is not stored.

    Args:
        session: of the trial.
        total: number of epochs.
        part: name of the loop, where a trial has several. A named loop stores its end as well, since another follows.
        unit: what is counted, for messages.
        key: with the number of the step, sets the global generators before each step; default: part and unit.
        log_every: `log` writes every so many steps.
        until: asked before each step; True ends the loop (early stopping).
        **stateful: what a resume point holds: modules, optimizers, `Picks`, anything with `state_dict` and
            `load_state_dict`.

    Example:
        >>> import tempfile
        >>> model = nn.Linear(1, 1)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> loop = Loop(Session(0, tempfile.mkdtemp()), 3, model=model, optimizer=optimizer)
        >>> for epoch in loop:
        ...     loss = (model(torch.ones(1, 1)) - 1).square().mean()
        ...     value = loop.check(loss)
        ...     optimizer.zero_grad()
        ...     loss.backward()
        ...     optimizer.step()
        ...     loop.log(loss=value)
        >>> loop.step
        3
    """

    def __init__(
        self,
        session: Session,
        total: int,
        *,
        part: str = "",
        unit: Literal["epoch", "step"] = "epoch",
        key: tuple[str | int, ...] | None = None,
        log_every: int = 1,
        until: Callable[[], bool] | None = None,
        **stateful: Any,
    ) -> None:
        self.session, self.total, self.part, self.unit = session, total, part, unit
        self.key = (part, unit) if key is None else key
        self.log_every, self.until, self.stateful = log_every, until, stateful
        self._modules = [value for value in stateful.values() if isinstance(value, nn.Module)]
        saved = session.resume(part=part, **stateful)
        self.step: int = saved.get("step", 0)
        """The step in progress; before and after the loop, how many are done."""
        self.extra: dict[str, Any] = saved.get("extra", {})
        """Plain values (numbers, strings, tensors, containers of them) that resume points hold as well."""

    def __iter__(self) -> Iterator[int]:
        for step in self.session.progress(range(self.step, self.total), self.part or "train"):
            if self.until is not None and self.until():
                break
            self.step = step
            self.session.reseed(*self.key, step)
            yield step
            for module in self._modules:
                if not finite_weights(module):
                    raise diverged(f"the weights are no longer finite at {self.unit} {step}")
            self.step = step + 1
            self._keep()
        if self.part:
            self._keep(now=True)

    def check(self, loss: Tensor | float, remedy: str = REMEDY) -> float:
        """The value of a loss of this step.

        Raises:
            Diverged: it is not finite.
        """
        return finite(loss, f"at {self.unit} {self.step}", remedy)

    def log(self, **metrics: float) -> None:
        """Record metrics of this step, see `Session.log`."""
        if self.step % self.log_every == 0:
            self.session.log(self.step, part=self.part, **metrics)

    def _keep(self, now: bool = False) -> None:
        self.session.keep(self.step, part=self.part, now=now, extra=self.extra, **self.stateful)
