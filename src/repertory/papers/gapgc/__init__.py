"""GAPGC: test-time adaptation of graph classifiers by adversarial augmentation and group contrast."""

from repertory.papers.gapgc.adapt import Adaptation, AdaptiveClassifier, adapt_along
from repertory.papers.gapgc.graphs import Graphs, collate
from repertory.papers.gapgc.losses import group_contrast, info_nce, own_contrast
from repertory.papers.gapgc.model import GIN, Augmenter, GraphClassifier, Projector
from repertory.papers.gapgc.settings import GAPGCConfig

__all__ = [
    "GIN",
    "Adaptation",
    "AdaptiveClassifier",
    "Augmenter",
    "GAPGCConfig",
    "GraphClassifier",
    "Graphs",
    "Projector",
    "adapt_along",
    "collate",
    "group_contrast",
    "info_nce",
    "own_contrast",
]
