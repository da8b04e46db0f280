"""RevCol: reversible columns (Cai et al., ICLR 2023); registers six sizes in timm."""

from repertory.papers.revcol.blocks import Block, Column
from repertory.papers.revcol.model import (
    VARIANTS,
    RevCol,
    revcol_base,
    revcol_huge,
    revcol_large,
    revcol_small,
    revcol_tiny,
    revcol_xlarge,
)
from repertory.papers.revcol.reversible import reversible_columns
from repertory.papers.revcol.supervision import Supervised, compound_loss

__all__ = [
    "VARIANTS",
    "Block",
    "Column",
    "RevCol",
    "Supervised",
    "compound_loss",
    "revcol_base",
    "revcol_huge",
    "revcol_large",
    "revcol_small",
    "revcol_tiny",
    "revcol_xlarge",
    "reversible_columns",
]
