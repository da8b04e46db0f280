"""Positron activity -> dose: a bidirectional recurrent network along depth.

Yu et al., arXiv 2212.11352; input scenarios of Hu et al., Phys. Med. Biol. 2020. The baseline does not learn: it fits
the beam energy to the activity.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from huggingface_hub import PyTorchModelHubMixin
from torch import Tensor, nn

from repertory.core.arguments import check_choice, check_range, check_whole
from repertory.core.problem import Problem
from repertory.papers.proton_dose import simulator
from repertory.papers.proton_dose.settings import Cell
from repertory.papers.proton_dose.washout import decay_factor

CHANNELS = ("activity", "hu", "sp")
CELLS = {"rnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}  # nn.RNN: tanh


class DoseRNN(nn.Module, PyTorchModelHubMixin):
    """Dose along a proton beam, from the positron activity and the CT.

    x (B, L, C) -> RNN with `layers` layers, both directions -> (B, L, 2h) -> Linear -> dose (B, L). The network is
    bidirectional because the dose at a depth depends on deeper tissue, mainly on the distal edge of the activity.

    Args:
        inputs: channels, from "activity", "hu" (CT numbers) and "sp" (stopping power relative to water).
        cell: "rnn" (tanh), "lstm" or "gru".
        layers: depth of the network.
        hidden: width h of each direction.
        bidirectional: False: read from the entrance only.

    Example:
        >>> net = DoseRNN(inputs=("activity", "hu"), cell="rnn", layers=3, hidden=10)
        >>> net(activity=torch.rand(4, 220), hu=torch.zeros(4, 220)).shape
        torch.Size([4, 220])
    """

    def __init__(
        self,
        inputs: tuple[str, ...] = ("activity", "hu", "sp"),
        cell: Cell = "lstm",
        layers: int = 2,
        hidden: int = 16,
        bidirectional: bool = True,
    ) -> None:
        super().__init__()
        check_whole("DoseRNN", layers=layers, hidden=hidden)
        check_choice("DoseRNN", CELLS, cell=cell)
        check_choice("DoseRNN", CHANNELS, **{f"inputs[{i}]": name for i, name in enumerate(inputs)})
        if not inputs or len(set(inputs)) < len(inputs):
            raise Problem(f"inputs={tuple(inputs)}", "DoseRNN", f"give each channel once, from {', '.join(CHANNELS)}")
        self.inputs = tuple(inputs)
        self.rnn = CELLS[cell](len(inputs), hidden, layers, batch_first=True, bidirectional=bidirectional)
        self.head = nn.Linear(hidden * (2 if bidirectional else 1), 1)

    def forward(self, activity: Tensor, hu: Tensor | None = None, sp: Tensor | None = None) -> Tensor:
        """Dose (B, L) relative to its maximum, on the grid of 1 mm.

        Args:
            activity: (B, L), relative to its maximum.
            hu: (B, L) CT numbers in HU; the channel is HU / 1000.
            sp: (B, L) stopping power relative to water.
        """
        given = {"activity": activity, "hu": hu, "sp": sp}
        _check_depths({name: given[name] for name in self.inputs}, "DoseRNN")
        channels = {"activity": activity, "hu": None if hu is None else hu / 1000, "sp": sp}
        x = torch.stack([channels[name] for name in self.inputs], dim=-1)  # (B, L, C)
        states, _ = self.rnn(x)  # (B, L, 2h)
        return self.head(states).squeeze(-1)  # (B, L)


def _check_depths(given: Mapping[str, Tensor | None], network: str) -> None:
    """Raise `Problem` for channels that are absent, or not all (B, L) of one shape with L > 0."""
    absent = [name for name, values in given.items() if values is None]
    if absent:
        raise Problem(f"no {absent[0]}", network, f"it was built for the inputs {', '.join(given)}: give all of them")
    shapes = {name: tuple(values.shape) for name, values in given.items() if values is not None}
    if len(set(shapes.values())) > 1 or any(len(shape) != 2 or not shape[1] for shape in shapes.values()):
        listed = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise Problem(f"inputs of the shapes {listed}", network, "give (B, L), one row a beam: x[None] for one beam")


class EnergyFit(nn.Module, PyTorchModelHubMixin):
    """Baseline without learning: the simulator's dose in the CT, at the energy whose activity fits best.

    Like the networks, it does not model washout. Production rates are tabulated for each energy over water-equivalent
    depth, to which the CT maps depth. Least squares with a free scale selects the energy; a parabola through the best
    and its neighbours refines it. The baseline uses the physics that generated the sample and lacks only the noiseless
    CT: without disturbance it is an upper bound.

    Args:
        lowest, highest, step: candidate energies in MeV.
        fwhm_mm: resolution of the scanner, full width at half maximum; 0: no blur.

    Raises:
        Problem: fewer than three energies, or a resolution below 0 or from 1 m on; in `forward`, no CT, or shapes that
            differ.
    """

    rates: Tensor
    energies: Tensor

    def __init__(self, lowest: float = 50.0, highest: float = 230.0, step: float = 2.0, fwhm_mm: float = 4.0) -> None:
        super().__init__()
        check_range("EnergyFit", 0, 1000, fwhm_mm=fwhm_mm)
        if not (step > 0 and lowest > 0 and lowest + 2 * step <= highest < math.inf):
            what = f"energies from {lowest} to {highest} MeV in steps of {step}"
            raise Problem(what, "EnergyFit", "give three energies or more, above 0")
        energies = np.arange(lowest, highest + step / 2, step)
        depth = np.arange(0, 1.1 * float(simulator.proton_range(highest)), simulator.DZ)
        rates = simulator.production(depth[:, None], energies)  # (R reactions, W depths, E energies)
        # A nucleus contributes its decay constant to the signal.
        signal = rates * np.array([decay_factor(r.product)[0] for r in simulator.REACTIONS])[:, None, None]
        self.register_buffer("rates", torch.from_numpy(signal / signal.max()).permute(1, 0, 2).float().contiguous())
        self.register_buffer("energies", torch.from_numpy(energies).float())
        self.fwhm_mm = fwhm_mm

    def forward(self, activity: Tensor, hu: Tensor | None = None, sp: Tensor | None = None) -> Tensor:
        """Dose (B, L) relative to its maximum; arguments as for `DoseRNN`, and `hu` is needed."""
        _check_depths({"activity": activity, "hu": hu}, "EnergyFit")
        assert hu is not None
        ct = hu.double().cpu().numpy()
        dose = simulator.dose(ct, self.energy(activity, hu).double().cpu().numpy())
        return torch.from_numpy(dose / dose.max(axis=-1, keepdims=True)).to(activity)

    def energy(self, activity: Tensor, hu: Tensor) -> Tensor:
        """The beam energies (B,) in MeV that fit `activity` (B, L) in the CT `hu` (B, L) best."""
        _check_depths({"activity": activity, "hu": hu}, "EnergyFit")
        candidates = self._activities(hu)  # (B, L, E)
        # Mask depths before the scanner's window, where the activity is 0 because it was not measured.
        measured = (activity > 0).cummax(dim=-1).values  # (B, L)
        candidates = candidates * measured[..., None]
        overlap = torch.einsum("ble,bl->be", candidates, activity)
        # The squared error at the best scale is |activity|^2 - score.
        score = overlap**2 / candidates.square().sum(1).clamp_min(1e-12)

        best = score.argmax(dim=1).clamp(1, score.shape[1] - 2)
        before, at, after = (score.gather(1, (best + k)[:, None])[:, 0] for k in (-1, 0, 1))
        curvature = (2 * at - before - after).clamp_min(1e-12)
        step = self.energies[1] - self.energies[0]
        return self.energies[best] + step * ((after - before) / (2 * curvature)).clamp(-1, 1)

    def _activities(self, hu: Tensor) -> Tensor:
        """Blurred activity at the end of the beam for each energy, in arbitrary units: (B, L) -> (B, L, E)."""
        matter = simulator.tissue(hu.double().cpu().numpy())
        atoms = np.stack([matter.atoms[r.target] for r in simulator.REACTIONS], axis=-1) / simulator.AVOGADRO
        row = simulator.water_depth(matter.stopping_power) / simulator.DZ  # (B, L), row of the rate table
        position = torch.from_numpy(row).to(self.rates).clamp_max(len(self.rates) - 1.001)
        low = position.long()
        part = (position - low)[..., None, None]
        rates = torch.lerp(self.rates[low], self.rates[low + 1], part)  # (B, L, R, E)
        signal = torch.einsum("blre,blr->ble", rates, torch.from_numpy(atoms).to(rates))
        blur = simulator.blurred(np.eye(hu.shape[-1]), self.fwhm_mm)  # as a matrix (L, L)
        return torch.from_numpy(blur).to(signal) @ signal
