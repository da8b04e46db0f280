"""RELIANT: fair knowledge distillation for graph neural networks, with a learned proxy of the bias."""

from repertory.papers.reliant.fairness import (
    counted,
    opportunity_difference,
    parity_difference,
    smooth_difference,
    smooth_step,
)
from repertory.papers.reliant.graph import Graph
from repertory.papers.reliant.model import GCN, PLP, SGC, Discriminators, Distilled, GraphSAGE

__all__ = [
    "GCN",
    "PLP",
    "SGC",
    "Discriminators",
    "Distilled",
    "Graph",
    "GraphSAGE",
    "counted",
    "opportunity_difference",
    "parity_difference",
    "smooth_difference",
    "smooth_step",
]
