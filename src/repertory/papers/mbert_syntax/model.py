"""The biaffine dependency parser on a multilingual encoder (section 6 of our notes: models/parsing.py of the authors).

Positions are those that matter: 0 is [CLS] and stands for ROOT, then come the first subwords of the words. Rows of the
scores are dependents, columns are heads.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from repertory.data.conllu import RELATIONS, UPOS
from repertory.papers.mbert_syntax.trees import single_root_tree, spanning_tree

NOTHING = -1
"""Stands for a head, relation or part of speech where a position is no first subword."""
MASKED = -1e8
ROOT = RELATIONS.index("root")


class VariationalDropout(nn.Dropout1d):
    """Dropout (B, N, C) with one mask a sentence and channel."""

    def forward(self, input: Tensor) -> Tensor:
        return F.dropout1d(input.mT, self.p, self.training).mT


class BiaffineAttention(nn.Module):
    """Scores [a; 1] W [b; 1]ᵀ + bias of all pairs: (B, N, d), (B, N, d) -> (B, N, N)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(1, dim + 1, dim + 1))
        self.bias = nn.Parameter(torch.empty(1))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.xavier_uniform_(self.weight)
        nn.init.zeros_(self.bias)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        a, b = (F.pad(x, (0, 1), value=1.0) for x in (a, b))
        return a @ self.weight @ b.mT + self.bias


class Scores(NamedTuple):
    """What the parser's head says of a batch.

    Attributes:
        arcs: (B, N, N), of dependent i and head j at [i, j].
        heads: (B, N, d), of each position as a head, for the relations.
        children: (B, N, d), as a dependent.
        pos: (B, N, 18), logits of the parts of speech; of no use without `pos_dim`.
    """

    arcs: Tensor
    heads: Tensor
    children: Tensor
    pos: Tensor | None


class ParserHead(nn.Module):
    """Parts of speech, arcs and relations from hidden states.

    Args:
        hidden: width of the encoder.
        arc_dim, tag_dim: of the branches.
        pos_dim: of the embedding of the predicted parts of speech; 0: without.
        num_labels, num_pos: relations and parts of speech, `_` included.
        root_fix: [CLS] can be a head. False: as in the authors' code, which masks it, so that arcs to the root are
            never learned and the root word is found by elimination.

    Shape:
        hidden (B, N, H), words (B, N) bool, True at first subwords -> `Scores`.
    """

    def __init__(
        self,
        hidden: int,
        arc_dim: int = 512,
        tag_dim: int = 128,
        pos_dim: int = 100,
        num_labels: int = len(RELATIONS),
        num_pos: int = len(UPOS),
        root_fix: bool = True,
    ) -> None:
        super().__init__()
        self.root_fix = root_fix
        self.drop = VariationalDropout(0.2)
        if pos_dim:
            self.pos_embed = nn.Embedding(num_pos, pos_dim)
            self.pos_tagger = nn.Linear(hidden, num_pos)
        self.pos_dim = pos_dim

        def branch(dim: int) -> nn.Sequential:
            return nn.Sequential(nn.Linear(hidden + pos_dim, dim), nn.ELU(), VariationalDropout(0.33))

        self.head_arc_ff, self.child_arc_ff = branch(arc_dim), branch(arc_dim)
        self.arc_attention = BiaffineAttention(arc_dim)
        self.head_tag_ff, self.child_tag_ff = branch(tag_dim), branch(tag_dim)
        self.tag_bilinear = nn.Bilinear(tag_dim, tag_dim, num_labels)

    def forward(self, hidden: Tensor, words: Tensor) -> Scores:
        x, pos = self.drop(hidden), None
        if self.pos_dim:
            pos = self.pos_tagger(x)  # (B, N, 18)
            x = torch.cat([x, pos.softmax(-1).detach() @ self.pos_embed.weight], dim=-1)
        arcs = self.arc_attention(self.head_arc_ff(x), self.child_arc_ff(x))  # (B, N, N)
        arcs = arcs.masked_fill(~words[:, :, None] | ~self.possible_heads(words)[:, None, :], MASKED)
        return Scores(arcs, self.head_tag_ff(x), self.child_tag_ff(x), pos)

    def possible_heads(self, words: Tensor) -> Tensor:
        """(B, N) bool: the words and, with `root_fix`, [CLS]."""
        return F.pad(words[:, 1:], (1, 0), value=True) if self.root_fix else words

    def losses(self, hidden: Tensor, heads: Tensor, relations: Tensor, pos: Tensor) -> dict[str, Tensor]:
        """Negative log-likelihoods of arcs, relations and parts of speech, and their sum, `loss`.

        Args:
            hidden: (B, N, H).
            heads: (B, N), positions; -1 where a position is no first subword.
            relations: (B, N), numbers in `RELATIONS`, -1 likewise.
            pos: (B, N), numbers in `UPOS`, -1 likewise.
        """
        words = heads != NOTHING
        scores = self(hidden, words)
        count = (words.sum() - len(words)).clamp(min=1)
        gold = heads.clamp(min=0)

        arc = -scores.arcs.log_softmax(-1).gather(2, gold[:, :, None]).squeeze(2)
        learned = words & self.possible_heads(words).gather(1, gold)  # no arcs to the root, unless `root_fix`
        at_head = scores.heads.gather(1, gold[:, :, None].expand_as(scores.heads))
        tag = self.tag_bilinear(at_head, scores.children).log_softmax(-1)  # (B, N, 38)
        tag = -tag.gather(2, relations.clamp(min=0)[:, :, None]).squeeze(2)
        parts = {
            "arc": (arc * learned)[:, 1:].sum() / count,
            "tag": (tag * words)[:, 1:].sum() / count,
        }
        if scores.pos is not None:
            parts["pos"] = F.cross_entropy(scores.pos.flatten(0, 1), pos.flatten(), ignore_index=NOTHING)
        return {"loss": torch.stack(list(parts.values())).sum(), **parts}

    @torch.no_grad()
    def parse(self, hidden: Tensor, words: Tensor) -> list[Parse]:
        """Trees of the sentences of a batch.

        The energy of an arc is its probability times that of its likeliest relation; energies are summed, as in the
        authors' code. With `root_fix` exactly one word hangs from the root, by the relation `root`, which no other has.
        """
        scores = self(hidden, words)
        arcs = scores.arcs.softmax(-1)
        tags = self._all_relations(scores)  # (B, dependent, head, 38)
        if self.root_fix:
            # `root` goes with head 0 and with no other.
            tags[:, :, 1:, ROOT] = 0
            tags[:, :, 0, :ROOT] = tags[:, :, 0, ROOT + 1 :] = 0
        likeliest, relations = tags.max(-1)
        energies = (arcs * likeliest).double().cpu().numpy()
        relations = relations.cpu().numpy()
        pos = None if scores.pos is None else scores.pos.argmax(-1).cpu().numpy()
        return [
            self._tree(energy, relation, None if pos is None else pos[b], np.flatnonzero(inside))
            for b, (energy, relation, inside) in enumerate(zip(energies, relations, words.cpu().numpy(), strict=True))
        ]

    def _all_relations(self, scores: Scores) -> Tensor:
        """Probabilities (B, N, N, 38) of the relations of dependent i to head j."""
        left = torch.einsum("bjd,kde->bjke", scores.heads, self.tag_bilinear.weight)
        return (torch.einsum("bjke,bie->bijk", left, scores.children) + self.tag_bilinear.bias).softmax(-1)

    def _tree(self, energy: np.ndarray, relation: np.ndarray, pos: np.ndarray | None, inside: np.ndarray) -> Parse:
        nodes = np.concatenate([[0], inside])
        scores = energy[np.ix_(nodes, nodes)].T  # [head, dependent]
        if self.root_fix:
            heads = single_root_tree(scores)
        else:
            scores[0] = 0
            heads = spanning_tree(scores)
        found = relation[inside, nodes[heads[1:]]]
        return Parse(heads[1:].tolist(), found.tolist(), [] if pos is None else pos[inside].tolist())


class Parse(NamedTuple):
    """Tree of one sentence: heads (0: root), relations, parts of speech of its words; none without a POS head."""

    heads: list[int]
    relations: list[int]
    pos: list[int]


def attachment_scores(found: list[Parse], gold: list[Any]) -> dict[str, float]:
    """UAS and LAS in per cent over words that are neither PUNCT nor SYM.

    Args:
        found: trees.
        gold: the sentences, with `heads`, `relations` and `upos`.
    """
    skipped = [UPOS.index("PUNCT"), UPOS.index("SYM")]
    heads, relations, gold_heads, gold_relations, upos = (
        np.concatenate([np.asarray(values, dtype=np.int64) for values in columns])
        for columns in (
            [f.heads for f in found], [f.relations for f in found], [g.heads for g in gold],
            [g.relations for g in gold], [g.upos for g in gold],
        )
    )  # fmt: skip
    counted = ~np.isin(upos, skipped)
    attached = (heads == gold_heads)[counted]
    labelled = attached & (relations == gold_relations)[counted]
    return {"uas": 100 * float(attached.mean()), "las": 100 * float(labelled.mean())}
