"""RefT: few-shot instance segmentation on Mask2Former by two references to a support set, a reconstruction."""

from repertory.papers.reft.base import VARIANTS
from repertory.papers.reft.model import (
    CosineClassifier,
    Detections,
    LinearClassifier,
    MaskWeighting,
    QueryLinking,
    RefT,
    Supports,
    detections,
)

__all__ = [
    "VARIANTS",
    "CosineClassifier",
    "Detections",
    "LinearClassifier",
    "MaskWeighting",
    "QueryLinking",
    "RefT",
    "Supports",
    "detections",
]
