"""Single-neuron simulations with reference solutions: LIF, Izhikevich, Hodgkin-Huxley."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from repertory.papers.spaic.describe.connections import Full
from repertory.papers.spaic.describe.network import Group, Input, Net
from repertory.papers.spaic.describe.neurons import HH, LIF, Izhikevich, Neuron
from repertory.papers.spaic.run.compiled import compile_net


def simulate(model: Neuron, currents: Tensor, duration: float, dt: float) -> tuple[Tensor, Tensor]:
    """Spikes and potentials, both (T, N), of one neuron under each of N constant currents.

    Args:
        model: the neuron model.
        currents: (N,).
        duration, dt: ms; T = duration / dt.
    """
    with Net(dt) as net:
        x = Input(1, "current")
        n = Group(1, model, name="n")
        _ = x >> Full(weight=torch.ones(1, 1)) >> n
        net.record(n, "spike", "v")
    module = compile_net(net).eval()
    with torch.no_grad():
        module(currents[:, None], steps=round(duration / dt))
    return module.trace["n.spike"][..., 0], module.trace["n.v"][..., 0]


def lif_period(current: float, a: float, threshold: float) -> int:
    """Steps between spikes of a discrete LIF neuron with decay a and reset to 0; 0 if it never fires.

    The smallest m with I (1 - a^m) / (1 - a) > threshold.

    Example:
        >>> lif_period(0.3, 0.8, 1.0), lif_period(0.1, 0.8, 1.0)
        (5, 0)
    """
    reached = 1 - threshold * (1 - a) / current
    if reached <= 0:
        return 0
    return next(m for m in range(1, 10**6) if a**m < reached)


def lif_trains(
    tau: float = 8.0, dt: float = 1.0, count: int = 200, duration: float = 400.0
) -> tuple[Tensor, Tensor, Tensor]:
    """A LIF neuron under N = `count` constant currents from half to eight times the rheobase.

    Returns:
        currents (N,); simulated spikes (T, N); spikes (T, N) of the closed form, `lif_period`.
    """
    a = math.exp(-dt / tau)
    currents = torch.linspace(0.5, 8, count) * (1 - a)
    spikes, _ = simulate(LIF(tau_m=tau), currents, duration, dt)
    expected, steps = torch.zeros_like(spikes), torch.arange(1, len(spikes) + 1)
    for n, current in enumerate(currents.double().tolist()):
        if period := lif_period(current, a, 1.0):
            expected[:, n] = (steps % period == 0).float()
    return currents, spikes, expected


REST_U = 0.2 * -65.0
"""Izhikevich's recovery variable at rest, b v."""


def izhikevich_times(current: float, duration: float, dt: float) -> NDArray[np.float64]:
    """Spike times (ms) of a regular-spiking Izhikevich neuron, by a scalar loop in double precision."""
    v, u, times = -65.0, REST_U, []
    for step in range(round(duration / dt)):
        v, u = v + dt * ((0.04 * v + 5) * v + 140 - u + current), u + dt * 0.02 * (0.2 * v - u)
        if v > 30:
            times.append(step * dt)
            v, u = -65.0, u + 8
    return np.array(times)


def izhikevich(current: float = 10.0, duration: float = 500.0, dt: float = 0.25) -> dict[str, float]:
    """A regular-spiking neuron under constant current.

    Returns:
        `spikes`: their number; `late_ms`: largest difference of a spike time from double precision; `adaptation`:
        ratio of the last interval to the first, above 1 as the recovery variable builds up.
    """
    spikes, _ = simulate(Izhikevich(start={"u": REST_U}), torch.tensor([current]), duration, dt)
    times = dt * spikes[:, 0].nonzero()[:, 0].double().numpy()
    reference = izhikevich_times(current, duration, dt)
    late = float(np.abs(times - reference).max()) if len(times) == len(reference) else math.inf
    intervals = np.diff(times)
    return {"spikes": float(len(times)), "late_ms": late, "adaptation": float(intervals[-1] / intervals[0])}


def hodgkin_huxley(current: float = 10.0, duration: float = 30.0, dt: float = 0.02) -> dict[str, float]:
    """Hodgkin and Huxley's axon under constant current (uA/cm^2).

    Returns:
        After the first quarter of the run: `peak_mv` and `trough_mv`, the extreme potentials relative to rest, mV;
        `spikes`: number of upward crossings of 50 mV.
    """
    _, v = simulate(HH, torch.tensor([current]), duration, dt)
    v = v[len(v) // 4 :, 0]
    above = v > 50
    peaks = float((above[1:] & ~above[:-1]).sum())
    return {"peak_mv": float(v.max()), "spikes": peaks, "trough_mv": float(v.min())}
