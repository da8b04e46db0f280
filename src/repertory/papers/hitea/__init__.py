"""HiTeA: hierarchical temporal-aware video-language pre-training (Ye et al., ICCV 2023)."""

from repertory.papers.hitea.model import HiTeA
from repertory.papers.hitea.objectives import PreTraining
from repertory.papers.hitea.text import FusionEncoder, TextDecoder, TextEncoder, TextSizes
from repertory.papers.hitea.video import MViT, PooledAttention

__all__ = [
    "FusionEncoder",
    "HiTeA",
    "MViT",
    "PooledAttention",
    "PreTraining",
    "TextDecoder",
    "TextEncoder",
    "TextSizes",
]
