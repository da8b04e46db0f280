"""Unlearnable Clusters: label-agnostic noise against unauthorised training (Zhang et al., CVPR 2023)."""

from repertory.papers.unlearnable_clusters.model import (
    Generator,
    Protection,
    add_noise,
    bounded,
    centre_loss,
    cluster,
    nearest,
    perturbation,
    targets,
)
from repertory.papers.unlearnable_clusters.networks import SmallCNN, Surrogate, clip_resnet, load_surrogate

__all__ = [
    "Generator",
    "Protection",
    "SmallCNN",
    "Surrogate",
    "add_noise",
    "bounded",
    "centre_loss",
    "clip_resnet",
    "cluster",
    "load_surrogate",
    "nearest",
    "perturbation",
    "targets",
]
