"""L2W-DEN: learned sample weights for networks with early exits (Han et al., ECCV 2022); MSDNet and RANet."""

from repertory.papers.l2w_den.classifier import EarlyExit, ExitClassifier, ExportedEarlyExit, export_early
from repertory.papers.l2w_den.model import MSDNet, MultiExit, MultiExitNetwork, RANet, build, exit_costs
from repertory.papers.l2w_den.protocols import Curve, all_thresholds, budgeted_curve, fit_thresholds, leaving
from repertory.papers.l2w_den.settings import VARIANTS
from repertory.papers.l2w_den.weighting import (
    MetaObjective,
    PseudoStep,
    WeightPredictionNetwork,
    allocate,
    constrain,
    meta_gradient,
    target_shares,
)

__all__ = [
    "VARIANTS",
    "Curve",
    "EarlyExit",
    "ExitClassifier",
    "ExportedEarlyExit",
    "MSDNet",
    "MetaObjective",
    "MultiExit",
    "MultiExitNetwork",
    "PseudoStep",
    "RANet",
    "WeightPredictionNetwork",
    "all_thresholds",
    "allocate",
    "budgeted_curve",
    "build",
    "constrain",
    "exit_costs",
    "export_early",
    "fit_thresholds",
    "leaving",
    "meta_gradient",
    "target_shares",
]
