"""APB: associative plasticity between the synapses of one neuron, and STCF augmentation, for spiking networks.

The equations of the association are reconstructed from abstracts; the baseline's layers are exact.
"""

from repertory.papers.apb.model import APBConv2d, APBLinear, APBNet, Mode, Where
from repertory.papers.apb.stcf import (
    STCF,
    frames_of,
    spatial_crop,
    temporal_crop,
    temporal_flip,
    with_drops,
    with_noise,
)

__all__ = [
    "STCF",
    "APBConv2d",
    "APBLinear",
    "APBNet",
    "Mode",
    "Where",
    "frames_of",
    "spatial_crop",
    "temporal_crop",
    "temporal_flip",
    "with_drops",
    "with_noise",
]
