"""Few-shot knowledge graph completion: GMatching, FSRL, FAAN, MetaR, embeddings, text (survey of Ma and Wang, 2023)."""

from repertory.papers.fkgc.completion import Completer
from repertory.papers.fkgc.embeddings import ComplEx, DistMult, TransE
from repertory.papers.fkgc.episodes import filtered_ranks, rank_metrics
from repertory.papers.fkgc.metar import MetaR
from repertory.papers.fkgc.metric import FAAN, FSRL, GMatching, Hood, Pairs
from repertory.papers.fkgc.text import TextMatch

__all__ = [
    "FAAN",
    "FSRL",
    "ComplEx",
    "Completer",
    "DistMult",
    "GMatching",
    "Hood",
    "MetaR",
    "Pairs",
    "TextMatch",
    "TransE",
    "filtered_ranks",
    "rank_metrics",
]
