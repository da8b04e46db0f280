"""The classifier h∘f of molecules, the augmenter A_ψ that drops bonds, and the projector g.

The backbone is GIN with bond embeddings as in pretrain-gnns (Hu et al., ICLR 2020).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from repertory.core.arguments import check_choice, check_positive, check_range, check_rates, check_whole
from repertory.core.problem import Problem
from repertory.nn.dropout import Dropout
from repertory.nn.graphs import check_edges, check_features, check_indices
from repertory.papers.gapgc.graphs import GraphBatch, Wiring, mean_by_graph
from repertory.papers.gapgc.settings import Knowledge, Pool, Scorer

ELEMENTS, CHIRALITIES = 120, 3
BOND_TYPES, DIRECTIONS = 6, 3
SELF_LOOP = 4
"""Bond type of the self loops; their direction is 0."""


def check_graphs(graphs: GraphBatch, weights: Tensor | None = None) -> None:
    """Require a batch that the embeddings cover.

    Raises:
        Problem: tensors of another shape, or numbers of nodes, graphs, elements or bonds that do not exist.
    """
    check_indices(graphs.x, (ELEMENTS, CHIRALITIES), "x", "GIN")
    check_edges(graphs.edge_index, len(graphs.x), "GIN")
    check_indices(graphs.edge_attr, (BOND_TYPES, DIRECTIONS), "edge_attr", "GIN")
    check_indices(graphs.batch[:, None], (graphs.num_graphs,), "batch", "GIN")
    nodes, edges = len(graphs.x), graphs.edge_index.shape[1]
    if len(graphs.batch) != nodes:
        raise Problem(f"batch of {len(graphs.batch)} for {nodes} nodes", "GIN", "give the graph of each node")
    if len(graphs.edge_attr) != edges or (weights is not None and weights.shape != (edges,)):
        found = f"{len(graphs.edge_attr)} rows of edge_attr"
        found += "" if weights is None else f" and weights of shape {tuple(weights.shape)}"
        raise Problem(f"{found} for {edges} edges", "GIN", "give one of each an edge")


class GINLayer(nn.Module):
    """MLP of the weighted sum of the neighbours' vectors and the bonds' embeddings; the self loop always counts 1."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(dim, 2 * dim), nn.ReLU(), nn.Linear(2 * dim, dim))
        self.bond = nn.Embedding(BOND_TYPES, dim)
        self.direction = nn.Embedding(DIRECTIONS, dim)
        for table in (self.bond, self.direction):
            nn.init.xavier_uniform_(table.weight)

    def forward(self, h: Tensor, wiring: Wiring, weights: Tensor) -> Tensor:
        """(N, d), weights (E,) -> (N, d)."""
        table = (self.bond.weight[:, None] + self.direction.weight).flatten(0, 1)  # (6 * 3, d)
        loop = h + table[SELF_LOOP * DIRECTIONS]
        return self.mlp(wiring.messages(h, table, weights) + loop)


class GIN(nn.Module):
    """The encoder f, up to pooling.

    Args:
        layers: L.
        dim: d.
        dropout: after every layer.
        jk: how a node's vector combines the layers: the last, concatenation, maximum or sum.
        pool: how a graph's vector combines its nodes'.

    Raises:
        Problem: an unknown name, a number below 1, or a dropout outside [0, 1); in `forward`, tensors of another shape,
            or numbers of nodes, elements or bonds that do not exist.

    Example:
        >>> sum(p.numel() for p in GIN(5, 300).parameters())
        1857900
    """

    def __init__(
        self, layers: int = 5, dim: int = 300, dropout: float = 0.5, jk: Knowledge = "last", pool: Pool = "mean"
    ) -> None:
        super().__init__()
        check_whole("GIN", layers=layers, dim=dim)
        check_rates("GIN", dropout=dropout)
        check_choice("GIN", get_args(Knowledge), jk=jk)
        check_choice("GIN", get_args(Pool), pool=pool)
        self.jk, self.pool_kind = jk, pool
        self.width = dim * (layers + 1 if jk == "concat" else 1)
        self.element = nn.Embedding(ELEMENTS, dim)
        self.chirality = nn.Embedding(CHIRALITIES, dim)
        for table in (self.element, self.chirality):
            nn.init.xavier_uniform_(table.weight)
        self.layers = nn.ModuleList(GINLayer(dim) for _ in range(layers))
        self.norms = nn.ModuleList(nn.BatchNorm1d(dim) for _ in range(layers))
        self.dropout = Dropout(dropout)

    def forward(self, graphs: GraphBatch, weights: Tensor | None = None) -> Tensor:
        """Vectors of the nodes (N, width).

        Args:
            graphs: the batch.
            weights: p (E,), how much of each directed edge's message is kept; None: all.
        """
        check_graphs(graphs, weights)
        kinds = graphs.edge_attr[:, 0] * DIRECTIONS + graphs.edge_attr[:, 1]
        wiring = Wiring(graphs.edge_index, kinds, BOND_TYPES * DIRECTIONS, len(graphs.x))
        h = self.element(graphs.x[:, 0]) + self.chirality(graphs.x[:, 1])  # (N, d)
        if weights is None:
            weights = h.new_ones(graphs.edge_index.shape[1])
        hidden = [h]
        for number, (layer, norm) in enumerate(zip(self.layers, self.norms, strict=True), start=1):
            h = norm(layer(h, wiring, weights))
            h = self.dropout(h if number == len(self.layers) else h.relu())
            hidden.append(h)
        if self.jk == "concat":
            return torch.cat(hidden, dim=1)
        if self.jk == "last":
            return h
        stacked = torch.stack(hidden)
        return stacked.amax(0) if self.jk == "max" else stacked.sum(0)

    def pool(self, nodes: Tensor, graphs: GraphBatch) -> Tensor:
        """(N, width) -> (G, width)."""
        if self.pool_kind == "mean":
            return mean_by_graph(nodes, graphs.batch, graphs.num_graphs)[0]
        if self.pool_kind == "sum":
            return nodes.new_zeros(graphs.num_graphs, nodes.shape[1]).index_add(0, graphs.batch, nodes)
        index = graphs.batch[:, None].expand_as(nodes)
        return nodes.new_zeros(graphs.num_graphs, nodes.shape[1]).scatter_reduce(
            0, index, nodes, "amax", include_self=False
        )

    def embed(self, graphs: GraphBatch, weights: Tensor | None = None) -> Tensor:
        """f: pooled vectors of the graphs (G, width)."""
        return self.pool(self(graphs, weights), graphs)


class GraphClassifier(nn.Module):
    """h∘f: an encoder and a linear head with one logit a task.

    Example:
        >>> from repertory.data.molecules import featurise
        >>> from repertory.papers.gapgc.graphs import collate
        >>> import numpy as np
        >>> graphs = collate(featurise(["CCO", "c1ccccc1"]), np.arange(2))
        >>> GraphClassifier(tasks=3, layers=2, dim=8).eval()(graphs).shape
        torch.Size([2, 3])
    """

    def __init__(
        self,
        tasks: int = 1,
        layers: int = 5,
        dim: int = 300,
        dropout: float = 0.5,
        jk: Knowledge = "last",
        pool: Pool = "mean",
    ) -> None:
        super().__init__()
        check_whole("GraphClassifier", tasks=tasks)
        self.encoder = GIN(layers, dim, dropout, jk, pool)
        self.head = nn.Linear(self.encoder.width, tasks)

    def forward(self, graphs: GraphBatch) -> Tensor:
        """Logits (G, T)."""
        return self.head(self.encoder.embed(graphs))


class Projector(nn.Sequential):
    """g: pooled vectors -> the space of the contrast."""

    def __init__(self, width: int) -> None:
        check_whole("Projector", width=width)
        super().__init__(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))
        self.width = width

    def forward(self, input: Tensor) -> Tensor:
        """(G, width) -> (G, width)."""
        check_features(input.shape, self.width, "Projector")
        return super().forward(input)


class Augmenter(nn.Module):
    """A_ψ: an encoder and a scorer; the score of a bond is the logit of keeping it.

    Args:
        encoder: a copy of the trained source encoder.
        scorer: "mlp", or "cosine" of the two nodes' vectors, which has no parameters.
        keep_bias: last bias of the MLP; +2 keeps 88 % at first.
        tau: temperature τ_a of the relaxed draw.
        hard: messages of weight 0.5 and less are dropped altogether.

    Raises:
        Problem: an unknown scorer, or a temperature that is not positive.
    """

    def __init__(
        self, encoder: GIN, scorer: Scorer = "mlp", keep_bias: float = 0.0, tau: float = 1.0, hard: bool = False
    ) -> None:
        super().__init__()
        check_choice("Augmenter", get_args(Scorer), scorer=scorer)
        check_range("Augmenter", -math.inf, math.inf, keep_bias=keep_bias)
        check_positive("Augmenter", tau=tau)
        self.encoder, self.tau, self.hard = encoder, tau, hard
        self.mlp = None
        if scorer == "mlp":
            first, last = nn.Linear(2 * encoder.width, 64), nn.Linear(64, 1)
            for layer in (first, last):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)
            nn.init.constant_(last.bias, keep_bias)
            self.mlp = nn.Sequential(first, nn.ReLU(), last)

    def logits(self, graphs: GraphBatch) -> Tensor:
        """ω (E / 2,): one for each bond, the mean of its two directions.

        Raises:
            Problem: the edges are not in pairs; see also `GIN`.
        """
        check_graphs(graphs)
        u, v = graphs.edge_index
        if len(u) % 2 or not (u[::2] == v[1::2]).all() or not (v[::2] == u[1::2]).all():
            raise Problem("edges that are not in pairs", "edge_index", "let a bond's two directions follow one another")
        nodes = self.encoder(graphs)
        if self.mlp is None:
            return F.cosine_similarity(nodes[u[::2]], nodes[v[::2]], dim=1)
        # The first layer of [n_u ‖ n_v] is a sum of two products, which are taken over nodes, not edges.
        first, last = cast(nn.Linear, self.mlp[0]), self.mlp[2]
        left, right = (F.linear(nodes, half) for half in first.weight.chunk(2, dim=1))
        return last((left[u] + right[v] + first.bias).relu()).view(len(u) // 2, 2).mean(1)

    def keep(self, logits: Tensor, noise: Tensor) -> Tensor:
        r"""Relaxed draws of what is kept.

        .. math:: p = \sigma\big((\log δ - \log(1 - δ) + ω) / τ_a\big)

        Args:
            logits: ω (bonds,).
            noise: δ (V, bonds), uniform on [0, 1].

        Returns:
            p (V, bonds).
        """
        check_features(noise.shape, len(logits), "keep, noise")
        p = ((noise.clamp(1e-4, 1 - 1e-4).logit() + logits) / self.tau).sigmoid()
        return p * (p > 0.5) if self.hard else p


def dropped_share(keep: Tensor, graphs: GraphBatch) -> Tensor:
    """R: mean over graphs of the mean over their bonds of 1 - p; graphs without bonds are left out.

    Args:
        keep: p (V, bonds).
        graphs: the batch whose bonds they are.
    """
    of_bond = graphs.batch[graphs.edge_index[0, ::2]]
    means, count = mean_by_graph(1 - keep.mean(0), of_bond, graphs.num_graphs)
    return means.sum() / (count > 0).sum().clamp(min=1)


# -- BatchNorm and dropout while adapting -----------------------------------------------------------


def norms_of(module: nn.Module) -> list[nn.BatchNorm1d]:
    """The BatchNorm layers of a module."""
    return [m for m in module.modules() if isinstance(m, nn.BatchNorm1d)]


def batch_statistics(module: nn.Module) -> None:
    """Set evaluation mode, with BatchNorm on batch statistics (it updates the running ones)."""
    module.eval()
    for norm in norms_of(module):
        norm.train()


@contextmanager
def untouched_statistics(module: nn.Module) -> Iterator[None]:
    """Within this context forward passes leave running statistics unchanged (momentum 0)."""
    norms = norms_of(module)
    before = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum in zip(norms, before, strict=True):
            norm.momentum = momentum
