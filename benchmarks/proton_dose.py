"""Speed of the beam simulator and of the recurrent cells.

    python benchmarks/proton_dose.py

- simulator: 200 beams of 220 mm at once. Peer: the same functions, called for each beam.
- cells: a training step (32 x 220 x 3, two layers, width 16, both directions) of every cell. Peer: the LSTM;
  no goal, the figure tells what a cell costs.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import get_args

import numpy as np
import torch
from torch.nn import functional as F

from repertory.core.bench import Race, bench
from repertory.papers.proton_dose.model import Cell, DoseRNN
from repertory.papers.proton_dose.simulator import ENERGIES, dose, emitters, phantoms


def simulator(count: int = 200, length: int = 220) -> Race:
    rng = np.random.default_rng(0)
    hu, energy = phantoms(rng, count, length), rng.uniform(*ENERGIES, size=count)

    def one_by_one() -> None:
        for line, e in zip(hu, energy, strict=True):
            dose(line, e)
            emitters(line, e)

    return Race(lambda: (dose(hu, energy), emitters(hu, energy)), {"beam by beam": one_by_one})


def step(cell: Cell) -> Callable[[], None]:
    """A training step of a network of these cells."""
    profiles = torch.rand(4, 32, 220)
    network = DoseRNN(cell=cell)
    optimizer = torch.optim.Adam(network.parameters())

    def call() -> None:
        F.mse_loss(network(*profiles[:3]), profiles[3]).backward()
        optimizer.step()
        optimizer.zero_grad()

    return call


def cells(cell: Cell) -> Race:
    return Race(step(cell), {"lstm": step("lstm")}, goal=None)


if __name__ == "__main__":
    bench(__doc__, {"simulator": simulator, **{c: partial(cells, c) for c in get_args(Cell) if c != "lstm"}})
