"""Metric learning: GMatching (Xiong et al., 2018), FSRL (Zhang et al., 2020), FAAN (Sheng et al., 2020).

Each encodes the two entities of a triple from their neighbours in the background graph, pools the N support pairs into
one vector, and scores a query pair against it. `forward` takes pairs one by one, as the papers write it. `score` ranks
all pairs of some heads and some tails: what depends on one side alone is computed once a side.

Symbols are the background relations (inverses included), then the entities, then PAD.

Shapes: B pairs, N shots, M neighbours, D channels, Q heads, C tails, P symbols.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from repertory.nn.dropout import Dropout

EPS = 1e-3
"""Added to the standard deviation in `UnbiasedLayerNorm`, and to that of standardised embeddings."""


class Hood(NamedTuple):
    """Neighbourhoods of some entities."""

    entity: Tensor
    """(B,) symbols of the entities themselves; FAAN alone reads them."""
    slots: Tensor
    """(B, M, 2) symbols: relation, neighbour; PAD in slots that are free."""
    degree: Tensor
    """(B,) slots that are taken."""

    def at(self, rows: Tensor) -> Hood:
        """The neighbourhoods of some rows."""
        return Hood(self.entity[rows], self.slots[rows], self.degree[rows])


def all_pairs(heads: Hood, tails: Hood) -> Tensor:
    """Rows (Q C, 2) of all pairs of Q heads and C tails."""
    return torch.cartesian_prod(*(torch.arange(len(hood.entity), device=hood.entity.device) for hood in (heads, tails)))


class Pairs(NamedTuple):
    """Heads and tails of B triples."""

    head: Hood
    tail: Hood


def symbol_table(symbols: int, dim: int, trainable: bool = True) -> nn.Embedding:
    """An embedding of all symbols and of PAD: the last row, zero, without gradient.

    Args:
        symbols: P.
        dim: D.
        trainable: whether the vectors are fine-tuned.
    """
    table = nn.Embedding(symbols + 1, dim, padding_idx=symbols)
    nn.init.xavier_uniform_(table.weight)
    with torch.no_grad():
        table.weight[symbols] = 0
    table.weight.requires_grad_(trainable)
    return table


# -- GMatching and FSRL -------------------------------------------------------------------------


class MeanNeighbours(nn.Module):
    """GMatching's encoder of an entity: tanh(Σ_j W [rel_j; ent_j] + b over the M slots, divided by the degree).

    Free slots count too: their PAD vector is zero, their bias is not (authors' code). The linear map is applied once,
    to the sum of the slots.
    """

    def __init__(self, dim: int, dropout: float = 0.5) -> None:
        super().__init__()
        self.gcn_w = nn.Linear(2 * dim, dim)
        self.drop = Dropout(dropout)

    def forward(self, hood: Hood, symbols: nn.Embedding) -> Tensor:
        """B neighbourhoods -> (B, D)."""
        if self.training:
            total = self.drop(symbols(hood.slots)).sum(1).flatten(1)  # (B, 2D)
        else:
            total = torch.cat([F.embedding_bag(hood.slots[..., k], symbols.weight, mode="sum") for k in (0, 1)], -1)
        slots = hood.slots.shape[1]
        out = F.linear(total, self.gcn_w.weight) + slots * self.gcn_w.bias
        return torch.tanh(out / hood.degree.clamp(min=1).to(out.dtype)[:, None])


class AttentiveNeighbours(nn.Module):
    """FSRL's encoder of an entity: a_j = uᵀ tanh(W [rel_j; ent_j]), softmax over the M slots, tanh(Σ_j a_j ent_j).

    PAD slots take part in the softmax (authors' code).
    """

    def __init__(self, dim: int, dropout: float = 0.5) -> None:
        super().__init__()
        self.neigh_att_W = nn.Linear(2 * dim, dim)
        self.neigh_att_u = nn.Linear(dim, 1)
        self.drop = Dropout(dropout)

    def forward(self, hood: Hood, symbols: nn.Embedding) -> Tensor:
        """B neighbourhoods -> (B, D)."""
        slots = self.drop(symbols(hood.slots))  # (B, M, 2, D)
        weights = self.neigh_att_u(torch.tanh(self.neigh_att_W(slots.flatten(2)))).softmax(1)  # (B, M, 1)
        return torch.tanh((weights * slots[:, :, 1]).sum(1))


class UnbiasedLayerNorm(nn.Module):
    """a ∘ (z − μ) / (σ + 1e-3) + b, with the unbiased σ (authors' code)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.a_2 = nn.Parameter(torch.ones(width))
        self.b_2 = nn.Parameter(torch.zeros(width))

    def forward(self, z: Tensor) -> Tensor:
        sigma, mean = torch.std_mean(z, dim=-1, keepdim=True)
        return self.a_2 * (z - mean) / (sigma + EPS) + self.b_2


class SupportEncoder(nn.Module):
    """LN'(x + drop(W2 ReLU(W1 x))) of pair vectors of width d = 2D."""

    def __init__(self, width: int, dropout: float = 0.2) -> None:
        super().__init__()
        self.proj1 = nn.Linear(width, 2 * width)
        self.proj2 = nn.Linear(2 * width, width)
        self.layer_norm = UnbiasedLayerNorm(width)
        self.drop = Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer_norm(x + self.drop(self.proj2(F.relu(self.proj1(x)))))


class MatchingProcessor(nn.Module):
    """T steps of an LSTM with attention over the support: q (B, d), g (S, d) -> scores (B,).

    (h', c) = LSTM(q, (h_r, c));  h = q + h'[:d];  r = softmax(h gᵀ) g;  h_r = [h; r];  the score is h · g.
    """

    def __init__(self, width: int, steps: int = 2) -> None:
        super().__init__()
        self.steps = steps
        self.process = nn.LSTMCell(width, 2 * width)

    def forward(self, q: Tensor, g: Tensor) -> Tensor:
        """As the paper writes it."""
        width = q.shape[-1]
        h_r = c = q.new_zeros(len(q), 2 * width)
        h = q
        for _ in range(self.steps):
            hidden, c = self.process(q, (h_r, c))
            h = q + hidden[:, :width]  # (B, d)
            h_r = torch.cat([h, (h @ g.T).softmax(-1) @ g], dim=-1)
        return h @ g.mean(0)

    def live(self, q: Tensor, g: Tensor) -> Tensor:
        """The same without the LSTM's last d units, whose output nothing reads.

        q's share of the gates is computed once. The first step starts from zeros, so it has no other share.
        """
        width = q.shape[-1]
        weight_ih, weight_hh, bias_ih, bias_hh = (
            parameter.unflatten(0, (4, 2 * width))[:, :width].flatten(0, 1) for parameter in self.process.parameters()
        )
        of_q = F.linear(q, weight_ih, bias_ih + bias_hh)  # (B, 4d): gates i, f, g, o
        gates, h, c = of_q, q, None
        for step in range(self.steps):
            if step:
                r = (h @ g.T).softmax(-1) @ g if len(g) > 1 else g
                gates = of_q + h @ weight_hh[:, :width].T + r @ weight_hh[:, width:].T
            i, f, new, o = gates.chunk(4, dim=-1)
            fresh = i.sigmoid() * new.tanh()
            c = fresh if c is None else f.sigmoid() * c + fresh
            h = q + o.sigmoid() * c.tanh()
        return h @ g.mean(0)


class PairMatcher(nn.Module):
    """What GMatching and FSRL share: entity encoder, support encoder, matching processor.

    Args:
        symbols: P.
        dim: D.
        steps: T of the matching processor.
        fine_tune: whether symbol embeddings are trained.
        support_dropout: in the support encoder.
    """

    neighbours: nn.Module

    def __init__(
        self,
        symbols: int,
        dim: int,
        *,
        steps: int = 2,
        fine_tune: bool = True,
        support_dropout: float = 0.2,
    ) -> None:
        super().__init__()
        self.symbol_emb = symbol_table(symbols, dim, fine_tune)
        self.support_encoder = SupportEncoder(2 * dim, support_dropout)
        self.query_encoder = MatchingProcessor(2 * dim, steps)

    def entities(self, hood: Hood) -> Tensor:
        """B neighbourhoods -> (B, D)."""
        return self.neighbours(hood, self.symbol_emb)

    def pairs(self, pairs: Pairs) -> Tensor:
        """B pairs -> (B, 2D), encoded."""
        return self.support_encoder(torch.cat([self.entities(pairs.head), self.entities(pairs.tail)], dim=-1))

    def pool(self, shots: Tensor) -> tuple[Tensor, Tensor]:
        """Shots (N, 2D) -> support vector (1, 2D), and a loss to add to the ranking loss, a scalar."""
        raise NotImplementedError

    def forward(self, query: Pairs, support: Pairs) -> Tensor:
        """B query pairs, N support pairs -> scores (B,)."""
        return self.query_encoder(self.pairs(query), self.pool(self.pairs(support))[0])

    def rank_loss(self, support: Pairs, query: Pairs, negative: Hood, margin: float) -> Tensor:
        """Mean ReLU(γ − (s⁺ − s⁻)) of B queries, each with one negative tail, and the loss of the pooling.

        Positive and negative share the encoded head and the support vector.
        """
        g, extra = self.pool(self.pairs(support))
        head = self.entities(query.head)
        tails = torch.stack([self.entities(query.tail), self.entities(negative)])  # (2, B, D)
        q = self.support_encoder(torch.cat([head.expand_as(tails), tails], dim=-1))
        positive, wrong = self.query_encoder.live(q.flatten(0, 1), g).chunk(2)
        return F.relu(margin - (positive - wrong)).mean() + extra

    def score(self, support: Pairs, heads: Hood, tails: Hood, block: int = 8192) -> Tensor:
        """Scores (Q, C) of all pairs; every entity is encoded once."""
        g = self.pool(self.pairs(support))[0]
        head, tail = self.entities(heads), self.entities(tails)
        first = self.support_encoder.proj1
        dim = head.shape[-1]
        of_head = F.linear(head, first.weight[:, :dim])
        of_tail = F.linear(tail, first.weight[:, dim:], first.bias)
        scores = []
        for part in all_pairs(heads, tails).split(block):
            h, t = part.unbind(1)
            x = torch.cat([head[h], tail[t]], dim=-1)
            hidden = self.support_encoder.proj2(F.relu(of_head[h] + of_tail[t]))
            scores.append(self.query_encoder.live(self.support_encoder.layer_norm(x + hidden), g))
        return torch.cat(scores).view(len(head), len(tail))


class GMatching(PairMatcher):
    """GMatching, "One-Shot Relational Learning for Knowledge Graphs", generalised to N shots by their mean.

    Example:
        >>> model = GMatching(symbols=20, dim=8)
        >>> hood = Hood(torch.tensor([5, 6]), torch.full((2, 3, 2), 4), torch.tensor([3, 3]))
        >>> model(Pairs(hood, hood), Pairs(hood, hood)).shape
        torch.Size([2])
    """

    def __init__(
        self,
        symbols: int,
        dim: int = 100,
        *,
        steps: int = 2,
        fine_tune: bool = True,
        dropout: float = 0.5,
        support_dropout: float = 0.2,
    ) -> None:
        super().__init__(symbols, dim, steps=steps, fine_tune=fine_tune, support_dropout=support_dropout)
        self.neighbours = MeanNeighbours(dim, dropout)

    def pool(self, shots: Tensor) -> tuple[Tensor, Tensor]:
        return shots.mean(0, keepdim=True), shots.new_zeros(())


class FSRL(PairMatcher):
    """FSRL, "Few-Shot Knowledge Graph Completion": attentive neighbours, shots pooled by an LSTM autoencoder.

    Args:
        attend: weigh the shots by attention, as the paper writes it; the softmax of the authors' code runs over an axis
            of one entry, so that every weight is 1 and the shots are summed.
        train_decoder: let the reconstruction loss train the decoder; the authors' code detaches its output, so that
            the loss pulls on the shots alone.
        reconstruction: weight of that loss.
    """

    def __init__(
        self,
        symbols: int,
        dim: int = 100,
        *,
        steps: int = 2,
        fine_tune: bool = False,
        dropout: float = 0.5,
        support_dropout: float = 0.5,
        attend: bool = False,
        train_decoder: bool = False,
        reconstruction: float = 1e-5,
    ) -> None:
        super().__init__(symbols, dim, steps=steps, fine_tune=fine_tune, support_dropout=support_dropout)
        width = 2 * dim
        self.attend, self.train_decoder, self.reconstruction = attend, train_decoder, reconstruction
        self.neighbours = AttentiveNeighbours(dim, dropout)
        self.set_rnn_encoder = nn.LSTM(width, width, 1)
        self.set_rnn_decoder = nn.LSTM(width, width, 1)
        self.set_att_W = nn.Linear(width, width)
        self.set_att_u = nn.Linear(width, 1)

    def aggregate(self, shots: Tensor) -> tuple[Tensor, Tensor]:
        """Shots (N, 2D) in order -> support vector (1, 2D), reconstruction loss, a scalar."""
        encoded, state = self.set_rnn_encoder(shots[:, None])  # (N, 1, 2D)
        output, decoded = encoded[-1:], []
        for _ in shots:
            output, state = self.set_rnn_decoder(output, state)
            decoded.append(output[0, 0])
        target = torch.stack(decoded)
        reconstruction = F.mse_loss(shots, target if self.train_decoder else target.detach())
        shots = shots + encoded[:, 0]
        scores = self.set_att_u(torch.tanh(self.set_att_W(shots)))  # (N, 1)
        weights = scores.softmax(0 if self.attend else 1)
        return (weights * shots).sum(0, keepdim=True), reconstruction

    def pool(self, shots: Tensor) -> tuple[Tensor, Tensor]:
        g, reconstruction = self.aggregate(shots)
        return g, self.reconstruction * reconstruction


# -- FAAN ---------------------------------------------------------------------------------------


class AdaptiveNeighbours(nn.Module):
    """FAAN's encoder of one side of a pair, given the task vector v = e_t − e_h.

    α = softmax_j(vᵀ B rel_j) over the taken slots, c = Σ_j α_j ent_j, LayerNorm(e + drop(ReLU(W_t c + W_h e))).
    An entity without neighbours has the context c = 0: the authors' softmax gives NaN there.
    """

    def __init__(self, dim: int, dropout: float = 0.3) -> None:
        super().__init__()
        self.Bilinear = nn.Bilinear(dim, dim, 1, bias=False)
        self.Linear_tail = nn.Linear(dim, dim, bias=False)
        self.Linear_head = nn.Linear(dim, dim, bias=False)
        self.layer_norm = nn.LayerNorm(dim)
        self.drop = Dropout(dropout)

    def attention(self, v: Tensor, relations: Tensor, taken: Tensor) -> Tensor:
        """Task vectors (B, D), relations (B, M, D), taken (B, M) -> weights (B, M); 0 in free slots."""
        scores = ((v @ self.Bilinear.weight[0])[:, None] @ relations.mT)[:, 0]
        return masked_softmax(scores, taken)

    def combine(self, context: Tensor, entity: Tensor) -> Tensor:
        """Contexts and entities (..., D) -> (..., D)."""
        return self.layer_norm(entity + F.relu(self.Linear_tail(context) + self.Linear_head(entity)))

    def forward(self, v: Tensor, hood: Hood, symbols: nn.Embedding, entity: Tensor) -> Tensor:
        """Task vectors (B, D), B neighbourhoods, entities (B, D) -> (B, D)."""
        slots = self.drop(symbols(hood.slots))  # (B, M, 2, D)
        weights = self.attention(v, slots[:, :, 0], taken_slots(hood))
        return self.combine((weights[:, None] @ slots[:, :, 1])[:, 0], entity)


def taken_slots(hood: Hood) -> Tensor:
    """(B, M) bool: the first `degree` slots."""
    return torch.arange(hood.slots.shape[1], device=hood.degree.device) < hood.degree[:, None]


def masked_softmax(scores: Tensor, mask: Tensor) -> Tensor:
    """Softmax over the last axis where the mask is True; 0 elsewhere, and where all is masked."""
    # The lowest finite number instead of -inf: a row without entries gives no NaN, and no NaN gradient.
    return scores.masked_fill(~mask, torch.finfo(scores.dtype).min).softmax(-1) * mask


class TiledAttention(nn.Module):
    """Self-attention of FAAN's release over 3 positions of width H D.

    q, k and v (B, 3, H D) are viewed as (B H, 3, D) without a transpose, so a head holds three consecutive chunks of
    the row-major order (position, chunk). Scale: (D // H)^(-1/2).
    """

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        width = dim * heads
        self.dim, self.heads = dim, heads
        self.linear_q, self.linear_k, self.linear_v, self.linear_final = (nn.Linear(width, width) for _ in range(4))
        self.layer_norm = nn.LayerNorm(width)
        self.drop = Dropout(dropout)

    def mix(self, x: Tensor) -> Tensor:
        """Positions (B, 3, H D) -> what they attend to, same shape."""
        q, k, v = (linear(x).view(-1, 3, self.dim) for linear in (self.linear_q, self.linear_k, self.linear_v))
        weights = self.drop((q @ k.mT * (self.dim // self.heads) ** -0.5).softmax(-1))  # (B H, 3, 3)
        return (weights @ v).view_as(x)

    def add(self, x: Tensor, mixed: Tensor) -> Tensor:
        """Residual connection and norm of positions (..., H D)."""
        return self.layer_norm(x + self.drop(self.linear_final(mixed)))

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H D) -> same shape."""
        return self.add(x, self.mix(x))


class FeedForward(nn.Module):
    """LayerNorm(x + drop(W2 GELU(W1 x))), GELU by tanh."""

    def __init__(self, width: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.w1, self.w2 = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.layer_norm = nn.LayerNorm(width)
        self.drop = Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer_norm(x + self.drop(self.w2(F.gelu(self.w1(x), approximate="tanh"))))


class RelationEncoder(nn.Module):
    """FAAN's Transformer over [h', m, t'], m learned; the output at m.

    Args:
        dim: D.
        layers, heads: of the Transformer; its width is H D, the D channels repeated H times.
        dropout: in its sub-layers.
    """

    positions: Tensor

    def __init__(self, dim: int, layers: int = 3, heads: int = 4, dropout: float = 0.2) -> None:
        super().__init__()
        self.heads = heads
        self.rel_embed = nn.Parameter(torch.rand(1, dim))
        self.register_buffer("positions", sinusoids(3, dim), persistent=False)
        width = dim * heads
        self.layers: Any = nn.ModuleList(
            nn.ModuleDict(
                {
                    "attention": TiledAttention(dim, heads, dropout),
                    "feed_forward": FeedForward(width, 2 * width, dropout),
                }
            )
            for _ in range(layers)
        )

    def forward(self, head: Tensor, tail: Tensor) -> Tensor:
        """Sides (B, D) -> (B, H D)."""
        x = torch.stack([head, self.rel_embed.expand_as(head), tail], dim=1) + self.positions  # (B, 3, D)
        x = x.repeat(1, 1, self.heads)
        *layers, (attention, feed_forward) = [(layer["attention"], layer["feed_forward"]) for layer in self.layers]
        for attend, feed in layers:
            x = feed(attend(x))
        # Of the last layer, position 1 alone is read.
        return feed_forward(attention.add(x[:, 1], attention.mix(x)[:, 1]))


def sinusoids(length: int, dim: int) -> Tensor:
    """(length, D): pos / 10000^(2⌊j/2⌋/D), its sine on even j, its cosine on odd j."""
    pair = torch.arange(dim, dtype=torch.float64) // 2
    angles = torch.arange(length, dtype=torch.float64)[:, None] / 10_000 ** (2 * pair / dim)
    return torch.where(torch.arange(dim) % 2 == 0, angles.sin(), angles.cos()).float()


class FAAN(nn.Module):
    """FAAN, "Adaptive Attentional Network for Few-Shot Knowledge Graph Completion".

    Args:
        symbols: P.
        dim: D.
        layers, heads: of the relation encoder; NELL-One: 3 and 4, Wiki-One: 4 and 8.
        fine_tune: whether symbol embeddings are trained.
        dropout: of neighbours.
        encoder_dropout: in the relation encoder.
        use_neighbours: False: a side is the entity's embedding itself (ablation).

    Shape:
        B query pairs, N support pairs -> scores (B,).
    """

    def __init__(
        self,
        symbols: int,
        dim: int = 100,
        *,
        layers: int = 3,
        heads: int = 4,
        fine_tune: bool = False,
        dropout: float = 0.3,
        encoder_dropout: float = 0.2,
        use_neighbours: bool = True,
    ) -> None:
        super().__init__()
        self.symbol_emb = symbol_table(symbols, dim, fine_tune)
        self.neighbours = AdaptiveNeighbours(dim, dropout) if use_neighbours else None
        self.relation = RelationEncoder(dim, layers, heads, encoder_dropout)

    def sides(self, pairs: Pairs) -> tuple[Tensor, Tensor]:
        """Heads and tails (B, D) of B pairs, each in the light of the other."""
        e_h, e_t = self.symbol_emb(pairs.head.entity), self.symbol_emb(pairs.tail.entity)
        if self.neighbours is None:
            return e_h, e_t
        v = e_t - e_h
        return (
            self.neighbours(v, pairs.head, self.symbol_emb, e_h),
            self.neighbours(v, pairs.tail, self.symbol_emb, e_t),
        )

    def pairs(self, pairs: Pairs) -> Tensor:
        """B pairs -> (B, H D)."""
        return self.relation(*self.sides(pairs))

    def forward(self, query: Pairs, support: Pairs) -> Tensor:
        return prototype_scores(self.pairs(query), self.pairs(support))

    def rank_loss(self, support: Pairs, query: Pairs, negative: Hood, margin: float) -> Tensor:
        """Mean ReLU(γ − (s⁺ − s⁻)) of B queries, each with one negative tail; all pairs are encoded at once."""
        shots = self.pairs(support)
        heads = Hood(*(torch.cat([part, part]) for part in query.head))
        tails = Hood(*(torch.cat(parts) for parts in zip(query.tail, negative, strict=True)))
        positive, wrong = prototype_scores(self.pairs(Pairs(heads, tails)), shots).chunk(2)
        return F.relu(margin - (positive - wrong)).mean()

    def score(self, support: Pairs, heads: Hood, tails: Hood, block: int = 1024) -> Tensor:
        """Scores (Q, C) of all pairs, in blocks. A side depends on its partner, so every pair is encoded."""
        shots = self.pairs(support)
        scores = [
            prototype_scores(self.pairs(Pairs(heads.at(part[:, 0]), tails.at(part[:, 1]))), shots)
            for part in all_pairs(heads, tails).split(block)
        ]
        return torch.cat(scores).view(len(heads.entity), len(tails.entity))


def prototype_scores(query: Tensor, shots: Tensor) -> Tensor:
    """Queries (B, K), shots (N, K) -> scores (B,): q · Σ_n softmax_n(q · s_n / √K) s_n."""
    products = query @ shots.T  # (B, N)
    return ((products / math.sqrt(query.shape[-1])).softmax(-1) * products).sum(-1)
