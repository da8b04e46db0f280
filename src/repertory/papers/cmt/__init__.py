"""Cross Modal Transformer: 3D object detection from cameras and LiDAR (Yan et al., ICCV 2023)."""

from repertory.papers.cmt.heads import CMTHead, decode
from repertory.papers.cmt.model import CMT, VARIANTS

__all__ = ["CMT", "VARIANTS", "CMTHead", "decode"]
