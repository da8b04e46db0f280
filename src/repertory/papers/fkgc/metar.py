"""Optimisation: MetaR (Chen et al., EMNLP 2019), which learns a relation's vector and corrects it by one gradient step.

Shapes: B tasks, N shots, Q queries, D channels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from repertory.nn.dropout import Dropout


class MetaBlock(nn.Module):
    """Linear, BatchNorm over the shots as channels; LeakyReLU and dropout except in the last block."""

    def __init__(self, shots: int, inputs: int, outputs: int, dropout: float, last: bool = False) -> None:
        super().__init__()
        self.fc, self.bn = nn.Linear(inputs, outputs), nn.BatchNorm1d(shots)
        self.rest = nn.Identity() if last else nn.Sequential(nn.LeakyReLU(), Dropout(dropout))
        nn.init.xavier_normal_(self.fc.weight)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, inputs) -> (B, N, outputs)."""
        return self.rest(self.bn(self.fc(x)))


class RelationLearner(nn.Module):
    """Support pairs -> relation-meta R: three blocks of 5 D, 2 D and D channels, mean over the shots."""

    def __init__(self, shots: int, dim: int, dropout: float = 0.5) -> None:
        super().__init__()
        self.rel_fc1 = MetaBlock(shots, 2 * dim, 5 * dim, dropout)
        self.rel_fc2 = MetaBlock(shots, 5 * dim, 2 * dim, dropout)
        self.rel_fc3 = MetaBlock(shots, 2 * dim, dim, dropout, last=True)

    def forward(self, pairs: Tensor) -> Tensor:
        """(B, N, 2D) -> (B, D)."""
        return self.rel_fc3(self.rel_fc2(self.rel_fc1(pairs))).mean(1)


def distance_score(head: Tensor, relation: Tensor, tail: Tensor) -> Tensor:
    """−‖h + R − t‖₂ over the last axis."""
    return -torch.linalg.vector_norm(head + relation - tail, dim=-1)


class EntityTable(nn.Module):
    """Vectors of E entities; with text vectors, σ(a) structure + (1 − σ(a)) text with a learned scalar a.

    Args:
        entities: E.
        dim: D.
        text: whether there are text vectors: a buffer (E, D), to be filled.
    """

    text: Tensor | None

    def __init__(self, entities: int, dim: int, text: bool = False) -> None:
        super().__init__()
        self.embedding = nn.Embedding(entities, dim)
        nn.init.xavier_uniform_(self.embedding.weight)
        self.register_buffer("text", torch.zeros(entities, dim) if text else None)
        self.gate = nn.Parameter(torch.zeros(())) if text else None

    def forward(self, ids: Tensor) -> Tensor:
        """(...) -> (..., D)."""
        vectors = self.embedding(ids)
        if self.text is None or self.gate is None:
            return vectors
        share = self.gate.sigmoid()
        return share * vectors + (1 - share) * self.text[ids]


class MetaR(nn.Module):
    """MetaR, "Meta Relational Learning for Few-Shot Link Prediction in Knowledge Graphs".

    The gradient step is taken on the mean over tasks and shots, so with many tasks a batch it is smaller than for one
    task at test (authors' code).

    Args:
        entities: E.
        dim: D.
        shots: N; BatchNorm has one channel a shot, so a model fits one N.
        text: see `EntityTable`.
        beta: step length β; 0: no update (ablation).
        margin: γ of both losses.
        dropout: in the relation learner.

    Example:
        >>> model = MetaR(entities=9, dim=8, shots=1).eval()
        >>> one = torch.tensor([[[0, 1]]])
        >>> model.score(one[0], one[0], torch.tensor([2]), torch.arange(9)).shape
        torch.Size([1, 9])
    """

    def __init__(
        self,
        entities: int,
        dim: int = 100,
        shots: int = 1,
        *,
        text: bool = False,
        beta: float = 5.0,
        margin: float = 1.0,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        self.beta, self.margin = beta, margin
        self.embedding = EntityTable(entities, dim, text)
        self.relation_learner = RelationLearner(shots, dim, dropout)

    def adapt(self, support: Tensor, negative: Tensor) -> tuple[Tensor, Tensor]:
        """R' (B, D) and the support loss L_s, a scalar.

        R' = R − β ∂L_s/∂R, the gradient taken as a constant (first order). It is written out: the mean over tasks and
        shots of unit(h + R − t⁺) − unit(h⁻ + R − t⁻), where the margin is violated.

        Args:
            support, negative: entities (B, N, 2).
        """
        good, bad = self.embedding(support), self.embedding(negative)  # (B, N, 2, D)
        relation = self.relation_learner(good.flatten(2))
        towards = [pair[:, :, 0] + relation[:, None] - pair[:, :, 1] for pair in (good, bad)]  # (B, N, D)
        lengths = [torch.linalg.vector_norm(vector, dim=-1, keepdim=True) for vector in towards]
        hinge = F.relu(self.margin + lengths[0] - lengths[1])
        with torch.no_grad():
            units = [vector / length.clamp(min=1e-12) for vector, length in zip(towards, lengths, strict=True)]
            gradient = ((hinge > 0) * (units[0] - units[1])).sum(1) / hinge.numel()
        return relation - self.beta * gradient, hinge.mean()

    def forward(
        self, support: Tensor, support_negative: Tensor, query: Tensor, negative: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Scores (B, Q) of true and false queries, and the support loss.

        Args:
            support, support_negative: entities (B, N, 2).
            query, negative: entities (B, Q, 2).
        """
        relation, support_loss = self.adapt(support, support_negative)
        good, bad = (self.embedding(pairs) for pairs in (query, negative))
        positive, wrong = (distance_score(pairs[:, :, 0], relation[:, None], pairs[:, :, 1]) for pairs in (good, bad))
        return positive, wrong, support_loss

    def rank_loss(self, support: Tensor, support_negative: Tensor, query: Tensor, negative: Tensor) -> Tensor:
        """L_s + L_q: the authors' code keeps the gradients of both."""
        positive, wrong, support_loss = self(support, support_negative, query, negative)
        return support_loss + self.query_loss(positive, wrong)

    def query_loss(self, positive: Tensor, wrong: Tensor) -> Tensor:
        """Mean max(0, γ − s⁺ + s⁻)."""
        return F.relu(self.margin - positive + wrong).mean()

    def score(self, support: Tensor, negative: Tensor, heads: Tensor, tails: Tensor) -> Tensor:
        """Scores (Q, C) of all pairs of heads (Q,) and tails (C,); R' is computed once, from one task (N, 2)."""
        relation, _ = self.adapt(support[None], negative[None])
        plain = "donot_use_mm_for_euclid_dist"  # the other way loses digits, and ties with them
        return -torch.cdist(self.embedding(heads) + relation, self.embedding(tails), compute_mode=plain)
