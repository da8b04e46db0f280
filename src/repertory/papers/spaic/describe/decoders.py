"""Read-outs: from a population's record (T, B, N) to scores (B, C), or to an action (B,).

`pop_size` neighbouring neurons are averaged to one score.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from repertory.core.problem import Problem
from repertory.papers.spaic.describe.draws import Draws, by_sample


class Kind(NamedTuple):
    """The variable that a read-out uses, and its function."""

    variable: str
    """"spike" or "v"."""
    decode: Callable[[Tensor], Tensor]
    """(T, B, N) -> (B, N), or (T, B, N) if `timed`."""
    timed: bool = False
    """Whether the result keeps the time axis."""


def first_times(spikes: Tensor) -> Tensor:
    """Step of each neuron's first spike, T if there is none: (T, B, N) -> (B, N)."""
    never = (spikes > 0).any(0).logical_not()
    return (spikes > 0).to(torch.uint8).argmax(0).masked_fill(never, len(spikes))


def _weighted(spikes: Tensor) -> Tensor:
    t = torch.arange(len(spikes), device=spikes.device, dtype=spikes.dtype)
    return torch.einsum("t,t...->...", 0.1 * torch.exp(-t / (0.5 * len(spikes))), spikes)


DECODERS: dict[str, Kind] = {
    "spike_counts": Kind("spike", lambda s: s.sum(0)),
    "spike_rate": Kind("spike", lambda s: s.mean(0)),
    "first_spike": Kind("spike", lambda s: 1 - first_times(s) / len(s)),
    "time_spike_counts": Kind("spike", _weighted),
    "time_softmax": Kind("v", lambda v: v.softmax(-1).sum(0)),
    "final_step_voltage": Kind("v", lambda v: v[-1]),
    "voltage_sum": Kind("v", lambda v: v.sum(0)),
    "null": Kind("spike", lambda s: s, timed=True),
    "v_t": Kind("v", lambda v: v, timed=True),
}
"""Names for `group.read(...)`. first_spike is 1 for a spike at step 0, 0 for none."""


def _sampled(scores: Tensor, generator: torch.Generator | None) -> Tensor:
    return torch.multinomial(scores.softmax(-1), 1, generator=generator).squeeze(-1)


def _random(scores: Tensor, generator: torch.Generator | None) -> Tensor:
    return torch.randint(scores.shape[-1], scores.shape[:-1], generator=generator, device=scores.device)


def _highest(scores: Tensor, generator: torch.Generator | None) -> Tensor:
    return scores.argmax(-1)


Choice = Callable[[Tensor, "torch.Generator | None"], Tensor]
"""Scores (B, C) -> action (B,)."""

ACTIONS: dict[str, tuple[str, Choice]] = {
    "pop_rate": ("spike_rate", _highest),
    "softmax": ("spike_counts", _sampled),
    "highest_spikes": ("spike_counts", _highest),
    "highest_voltage": ("final_step_voltage", _highest),
    "first_spike": ("first_spike", _highest),
    "random": ("spike_counts", _random),
}
"""Names for `group.act(...)` -> (decoder of the scores, choice of an action)."""


@dataclass(frozen=True)
class Readout:
    """One output of a network: scores (mean over pop_size neighbours + bias) scale, or the action chosen by them.

    Args:
        kind: a name in `DECODERS`, or in `ACTIONS` if `action`.
        pop_size: number of neighbouring neurons that are averaged.
        bias, scale: added to, then multiplied with the scores.
        action: choose an action instead of returning scores.

    Raises:
        Problem: unknown kind; gives the list and the nearest.
    """

    kind: str
    pop_size: int = 1
    bias: float = 0.0
    scale: float = 1.0
    action: bool = False

    def __post_init__(self) -> None:
        known = ACTIONS if self.action else DECODERS
        if self.kind not in known:
            near = difflib.get_close_matches(self.kind, known, 1, 0)[0]
            raise Problem(
                f"unknown read-out {self.kind!r}", "read, act", f"did you mean {near!r}? Known: {', '.join(known)}"
            )

    @property
    def decoder(self) -> Kind:
        """The decoder that computes the scores."""
        return DECODERS[ACTIONS[self.kind][0] if self.action else self.kind]

    def __call__(self, record: Tensor, generator: Draws = None) -> Tensor:
        """(T, B, *shape) -> (B, C), (T, B, C) or (B,)."""
        scores = self.decoder.decode(record.flatten(2))
        if self.pop_size > 1:
            scores = scores.unflatten(-1, (-1, self.pop_size)).mean(-1)
        scores = (scores + self.bias) * self.scale
        return by_sample(ACTIONS[self.kind][1], scores, generator) if self.action else scores
