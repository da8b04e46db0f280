"""CCGC: contrastive graph clustering guided by its own high-confidence clusters (Yang et al., AAAI 2023)."""

from repertory.papers.ccgc.clustering import Clusters, high_confidence, kmeans
from repertory.papers.ccgc.model import CCGC, GraphClustering, negative_loss, positive_loss, smooth, warmup_loss

__all__ = [
    "CCGC",
    "Clusters",
    "GraphClustering",
    "high_confidence",
    "kmeans",
    "negative_loss",
    "positive_loss",
    "smooth",
    "warmup_loss",
]
