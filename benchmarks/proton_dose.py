"""Speed of the beam simulator and of the recurrent cells.

    python benchmarks/proton_dose.py

Simulator: all beams at once, compared with the same functions called for each beam. Cells: one training step
(32 x 220 x 3, two layers, width 16, both directions, one thread). Contestants alternate; ratios are medians over the
rounds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from repertory.core.timing import race, ratio
from repertory.papers.proton_dose.model import Cell, DoseRNN
from repertory.papers.proton_dose.simulator import ENERGIES, dose, emitters, phantoms


def show(times: Mapping[str, NDArray[np.float64]], against: str, per_call: float, unit: str) -> None:
    for name, taken in times.items():
        slower = ratio(times, against, name)
        print(f"  {name:12s} {per_call / np.median(taken):10.1f} {unit}   {slower:6.2f} x the time of {against}")


def simulator(count: int = 200, length: int = 220, rounds: int = 7) -> None:
    rng = np.random.default_rng(0)
    hu, energy = phantoms(rng, count, length), rng.uniform(*ENERGIES, size=count)

    def one_by_one() -> None:
        for line, e in zip(hu, energy, strict=True):
            dose(line, e)
            emitters(line, e)

    contestants = {"vectorised": lambda: (dose(hu, energy), emitters(hu, energy)), "beam by beam": one_by_one}
    print(f"simulator, {count} beams of {length} mm")
    show(race(contestants, range(1 + rounds)), "vectorised", count, "beams/s")


def cells(rounds: int = 15) -> None:
    torch.set_num_threads(1)
    profiles = torch.rand(4, 32, 220, generator=torch.Generator().manual_seed(0))

    def step(net: DoseRNN, optimizer: torch.optim.Optimizer) -> Callable[[], None]:
        def call() -> None:
            F.mse_loss(net(*profiles[:3]), profiles[3]).backward()
            optimizer.step()
            optimizer.zero_grad()

        return call

    nets = {cell: DoseRNN(cell=cell) for cell in get_args(Cell)}
    print("training step, 32 beams")
    steps = {cell: step(net, torch.optim.Adam(net.parameters())) for cell, net in nets.items()}
    show(race(steps, range(1 + rounds)), "lstm", 1, "steps/s")


if __name__ == "__main__":
    simulator()
    cells()
