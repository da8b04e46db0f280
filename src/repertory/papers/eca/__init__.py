"""ECA: efficient channel attention (Wang et al., CVPR 2020); registers its networks in timm."""

from repertory.papers.eca.detection import detector
from repertory.papers.eca.layers import ECA, adaptive_kernel, channel_attention
from repertory.papers.eca.model import VARIANTS, ECAMobileNetV2, ECAResNet, add_channel_attention, network

__all__ = [
    "ECA",
    "VARIANTS",
    "ECAMobileNetV2",
    "ECAResNet",
    "adaptive_kernel",
    "add_channel_attention",
    "channel_attention",
    "detector",
    "network",
]
