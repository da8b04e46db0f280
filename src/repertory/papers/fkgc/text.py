"""Text-aware matching for commonsense graphs, whose entities are phrases: sentence vectors, and a matcher on them.

The survey names the need; the design is ours. Shapes: B pairs, N shots, E entities, D channels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import HashingVectorizer, TfidfTransformer
from sklearn.pipeline import make_pipeline, make_union
from torch import Tensor, nn

from repertory.core.problem import require
from repertory.nn.dropout import Dropout
from repertory.nn.encoders import EXTRA, load_encoder
from repertory.papers.fkgc.metric import prototype_scores

TFIDF = "tfidf"
"""In place of the name of an encoder: hashed n-grams of words and characters, weighted by TF-IDF."""
BATCH = 64


class TextMatch(nn.Module):
    """Match pairs by [e_h; e_t; e_t − e_h; e_h ∘ e_t], a two-layer MLP, and attention over the shots.

    Args:
        entities: E.
        dim: D.
        trainable: whether the entities' vectors are: False for those of text, True for structural ones.
        dropout: of the vectors and in the MLP.

    Shape:
        support (N, 2), heads (Q,), tails (C,) entities -> scores (Q, C).
    """

    def __init__(self, entities: int, dim: int, trainable: bool = False, dropout: float = 0.3) -> None:
        super().__init__()
        self.entity = nn.Embedding(entities, dim)
        self.entity.weight.requires_grad_(trainable)
        self.adapter = nn.Linear(dim, dim)
        self.mlp = nn.Sequential(nn.Linear(4 * dim, 2 * dim), nn.ReLU(), Dropout(dropout), nn.Linear(2 * dim, dim))
        self.drop = Dropout(dropout)

    def pairs(self, heads: Tensor, tails: Tensor) -> Tensor:
        """Entities (B,), (B,) -> (B, D)."""
        e_h, e_t = (self.adapter(self.drop(self.entity(ids))) for ids in (heads, tails))
        return self.mlp(torch.cat([e_h, e_t, e_t - e_h, e_h * e_t], dim=-1))

    def rank_loss(self, support: Tensor, query: Tensor, negative: Tensor, margin: float) -> Tensor:
        """Mean ReLU(γ − (s⁺ − s⁻)); support (N, 2), query (B, 2), negative tails (B,)."""
        shots = self.pairs(support[:, 0], support[:, 1])
        heads, tails = torch.cat([query[:, 0]] * 2), torch.cat([query[:, 1], negative])
        positive, wrong = prototype_scores(self.pairs(heads, tails), shots).chunk(2)
        return F.relu(margin - (positive - wrong)).mean()

    def score(self, support: Tensor, heads: Tensor, tails: Tensor, block: int = 8192) -> Tensor:
        """Scores (Q, C) of all pairs, in blocks."""
        shots = self.pairs(support[:, 0], support[:, 1])
        scores = [
            prototype_scores(self.pairs(part[:, 0], part[:, 1]), shots)
            for part in torch.cartesian_prod(heads, tails).split(block)
        ]
        return torch.cat(scores).view(len(heads), len(tails))


# -- sentence vectors ---------------------------------------------------------------------------


def sentence_vectors(texts: Sequence[str], encoder: str, dim: int) -> Tensor:
    """(E, D) vectors of phrases, centred, of unit mean square a channel.

    Args:
        texts: E phrases.
        encoder: "tfidf", or an encoder of Hugging Face, see `load_encoder`, mean-pooled.
        dim: D; a truncated SVD reduces to it. Where the phrases have fewer dimensions, the rest is zero.

    Raises:
        Problem: see `load_encoder`.
    """
    vectors = _tfidf(texts) if encoder == TFIDF else _encoded(texts, encoder)
    rank = min(dim, min(vectors.shape) - 1)
    reduced = TruncatedSVD(rank, random_state=0).fit_transform(vectors)
    reduced = reduced - reduced.mean(0)
    reduced /= max(float(np.sqrt((reduced**2).mean())), 1e-12)
    return F.pad(torch.from_numpy(reduced).float(), (0, dim - rank))


def _tfidf(texts: Sequence[str]) -> Any:
    """Sparse (E, 2^17): hashed 1- and 2-grams of words, 3- to 5-grams of characters within words."""
    words = make_pipeline(HashingVectorizer(n_features=2**16, ngram_range=(1, 2)), TfidfTransformer())
    letters = make_pipeline(
        HashingVectorizer(n_features=2**16, analyzer="char_wb", ngram_range=(3, 5)), TfidfTransformer()
    )
    return make_union(words, letters).fit_transform(texts)


def _encoded(texts: Sequence[str], name: str) -> np.ndarray:
    """(E, width) mean of the encoder's last hidden states over the words of each phrase."""
    tokenizers = require("tokenizers", EXTRA)
    trained = load_encoder(name)
    tokenizer = tokenizers.Tokenizer.from_str(trained.tokenizer)
    most = getattr(trained.module.config, "max_position_embeddings", 512)
    tokenizer.enable_truncation(min(most, 128))
    tokenizer.enable_padding(pad_id=getattr(trained.module.config, "pad_token_id", 0) or 0)
    trained.module.eval()
    with torch.no_grad():
        return np.concatenate([_pooled(trained.module, tokenizer.encode_batch(part)) for part in _parts(texts)])


def _parts(texts: Sequence[str]) -> Iterator[list[str]]:
    for first in range(0, len(texts), BATCH):
        yield list(texts[first : first + BATCH])


def _pooled(encoder: Any, encoded: Sequence[Any]) -> np.ndarray:
    ids, mask = (torch.tensor([getattr(one, what) for one in encoded]) for what in ("ids", "attention_mask"))
    hidden = encoder(input_ids=ids, attention_mask=mask).last_hidden_state
    return ((hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)).numpy()
