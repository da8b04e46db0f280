"""SoT: a classification head on class token and word tokens (Xie et al., 2021); registers its networks in timm."""

from repertory.papers.sot.layers import FUSIONS, GAP, GCP, SVPN, MGCrP, TokenHead, fast_singular_power
from repertory.papers.sot.model import VARIANTS, SoT, TimmClassifier, TokenEmbedding, sot_base, sot_small, sot_tiny
from repertory.papers.sot.text import TextClassifier

__all__ = [
    "FUSIONS",
    "GAP",
    "GCP",
    "SVPN",
    "VARIANTS",
    "MGCrP",
    "SoT",
    "TextClassifier",
    "TimmClassifier",
    "TokenEmbedding",
    "TokenHead",
    "fast_singular_power",
    "sot_base",
    "sot_small",
    "sot_tiny",
]
