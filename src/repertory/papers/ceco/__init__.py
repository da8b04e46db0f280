"""CeCo: centres of classes pulled to a simplex ETF, for long-tailed segmentation (Zhong et al., CVPR 2023)."""

from repertory.papers.ceco.collapse import Features, collapse_metrics, frame_metrics
from repertory.papers.ceco.model import VARIANTS, CeCoLoss, pixel_loss, simplex_etf
from repertory.papers.ceco.network import CeCoNet, WithCentres

__all__ = [
    "VARIANTS",
    "CeCoLoss",
    "CeCoNet",
    "Features",
    "WithCentres",
    "collapse_metrics",
    "frame_metrics",
    "pixel_loss",
    "simplex_etf",
]
