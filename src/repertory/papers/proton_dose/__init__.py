"""Dose and range verification in proton therapy from positron activity, under biological washout."""

from repertory.papers.proton_dose.metrics import bragg_peak, compare, r80
from repertory.papers.proton_dose.model import DoseRNN, EnergyFit
from repertory.papers.proton_dose.settings import VARIANTS
from repertory.papers.proton_dose.simulator import Beams, pet, simulate, stopping_power
from repertory.papers.proton_dose.washout import activity, depth_window, select_depth

__all__ = [
    "VARIANTS",
    "Beams",
    "DoseRNN",
    "EnergyFit",
    "activity",
    "bragg_peak",
    "compare",
    "depth_window",
    "pet",
    "r80",
    "select_depth",
    "simulate",
    "stopping_power",
]
