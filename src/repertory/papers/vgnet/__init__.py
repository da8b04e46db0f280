"""VGNet: tiny CNNs of half-identity blocks with fixed kernels (Zhang et al., ICME 2022); registers them in timm."""

from repertory.papers.vgnet.kernels import KERNELS, SETS, FixedDepthwise, SharedDepthwise, fixed_kernels
from repertory.papers.vgnet.model import VARIANTS, Downsampling, HalfIdentity, VGNet

__all__ = [
    "KERNELS",
    "SETS",
    "VARIANTS",
    "Downsampling",
    "FixedDepthwise",
    "HalfIdentity",
    "SharedDepthwise",
    "VGNet",
    "fixed_kernels",
]
