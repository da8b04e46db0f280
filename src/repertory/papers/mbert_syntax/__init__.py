"""Cross-linguistic syntactic difference in multilingual BERT: probes, transport distances, a parser."""

from repertory.papers.mbert_syntax.encoder import Encoder, Parser
from repertory.papers.mbert_syntax.model import ParserHead
from repertory.papers.mbert_syntax.settings import SyntaxConfig
from repertory.papers.mbert_syntax.transport import Cloud, distance_matrix, label_distances, make_cloud, otdd
from repertory.papers.mbert_syntax.trees import spanning_tree

__all__ = [
    "Cloud",
    "Encoder",
    "Parser",
    "ParserHead",
    "SyntaxConfig",
    "distance_matrix",
    "label_distances",
    "make_cloud",
    "otdd",
    "spanning_tree",
]
