"""DOORPING: backdoor attacks against dataset distillation, and an audit of distilled sets (Liu et al., NDSS 2023)."""

from repertory.papers.doorping.defences import (
    activation_clustering,
    fine_pruning,
    neural_cleanse,
    spectral_signatures,
    strip,
    transformed,
)
from repertory.papers.doorping.model import DistilledSet, matching_loss, patch_mask, stamp, unroll, update_trigger
from repertory.papers.doorping.networks import NETWORKS, Network, network

__all__ = [
    "NETWORKS",
    "DistilledSet",
    "Network",
    "activation_clustering",
    "fine_pruning",
    "matching_loss",
    "network",
    "neural_cleanse",
    "patch_mask",
    "spectral_signatures",
    "stamp",
    "strip",
    "transformed",
    "unroll",
    "update_trigger",
]
