"""TegFormer: essays from a few topics, by a Transformer with Topic-Extension and Embedding-Fusion."""

from repertory.papers.tegformer.mining import Knowledge, Rules, mine, text_rank
from repertory.papers.tegformer.model import EmbeddingFusion, TegFormer, TopicExtension, smoothed_loss
from repertory.papers.tegformer.settings import TegFormerConfig
from repertory.papers.tegformer.weights import official_state
from repertory.papers.tegformer.writer import PromptedWriter, TopicWriter

__all__ = [
    "EmbeddingFusion",
    "Knowledge",
    "PromptedWriter",
    "Rules",
    "TegFormer",
    "TegFormerConfig",
    "TopicExtension",
    "TopicWriter",
    "mine",
    "official_state",
    "smoothed_loss",
    "text_rank",
]
