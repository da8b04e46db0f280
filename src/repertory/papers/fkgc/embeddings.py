"""Embedding baselines: TransE, DistMult, ComplEx. They see the support triples in training, or could not score them.

Shapes: B triples, Q heads, C tails, E entities, R relations, D real channels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Factorisation(nn.Module):
    """Entity and relation vectors (E, D), (R, D), and a score of triples that is a function of h ∘ r and t."""

    def __init__(self, entities: int, relations: int, dim: int = 100) -> None:
        super().__init__()
        self.entity, self.relation = nn.Embedding(entities, dim), nn.Embedding(relations, dim)
        nn.init.xavier_uniform_(self.entity.weight)
        nn.init.xavier_uniform_(self.relation.weight)

    def translate(self, head: Tensor, relation: Tensor) -> Tensor:
        """The point that tails are compared with: (..., D), (..., D) -> (..., D)."""
        raise NotImplementedError

    def compare(self, point: Tensor, tail: Tensor) -> Tensor:
        """Scores of points and tails, of broadcastable shapes (..., D), -> (...)."""
        return (point * tail).sum(-1)

    def compare_all(self, points: Tensor, tails: Tensor) -> Tensor:
        """Scores (Q, C) of all pairs of points (Q, D) and tails (C, D)."""
        return points @ tails.T

    def loss(self, positive: Tensor, wrong: Tensor, margin: float) -> Tensor:
        """Logistic loss of true scores (B,) and false ones (B, K)."""
        return (F.softplus(-positive).mean() + F.softplus(wrong).mean()) / 2

    def forward(self, triples: Tensor, drawn: Tensor, heads: Tensor) -> tuple[Tensor, Tensor]:
        """Scores of true triples (B,), and of false ones (B, K).

        Args:
            triples: (B, 3) head, relation, tail.
            drawn: (B, K) entities.
            heads: (B,) bool: whether the entities replace the head, or else the tail.
        """
        head, tail = self.entity(triples[:, 0]), self.entity(triples[:, 2])
        relation = self.relation(triples[:, 1])
        positive = self.compare(self.translate(head, relation), tail)
        false, heads = self.entity(drawn), heads[:, None, None]  # (B, K, D)
        points = self.translate(torch.where(heads, false, head[:, None]), relation[:, None])
        return positive, self.compare(points, torch.where(heads, tail[:, None], false))

    def score(self, relation: int, heads: Tensor, tails: Tensor) -> Tensor:
        """Scores (Q, C) of all pairs of heads (Q,) and tails (C,)."""
        points = self.translate(self.entity(heads), self.relation.weight[relation])
        return self.compare_all(points, self.entity(tails))


class TransE(Factorisation):
    """−‖h + r − t‖₁, margin loss, entities of unit length (Bordes et al., NeurIPS 2013)."""

    def translate(self, head: Tensor, relation: Tensor) -> Tensor:
        return F.normalize(head, dim=-1) + relation

    def compare(self, point: Tensor, tail: Tensor) -> Tensor:
        return -(point - F.normalize(tail, dim=-1)).abs().sum(-1)

    def compare_all(self, points: Tensor, tails: Tensor) -> Tensor:
        return -torch.cdist(points, F.normalize(tails, dim=-1), p=1)

    def loss(self, positive: Tensor, wrong: Tensor, margin: float) -> Tensor:
        return F.relu(margin - positive[:, None] + wrong).mean()


class DistMult(Factorisation):
    """⟨h, r, t⟩ (Yang et al., ICLR 2015)."""

    def translate(self, head: Tensor, relation: Tensor) -> Tensor:
        return head * relation


class ComplEx(Factorisation):
    """Re⟨h, r, t̄⟩ (Trouillon et al., ICML 2016); real parts are the first D / 2 channels, imaginary ones the last."""

    def translate(self, head: Tensor, relation: Tensor) -> Tensor:
        (a, b), (c, d) = head.chunk(2, -1), relation.chunk(2, -1)
        return torch.cat([a * c - b * d, a * d + b * c], dim=-1)


EMBEDDINGS: dict[str, type[Factorisation]] = {"transe": TransE, "distmult": DistMult, "complex": ComplEx}
