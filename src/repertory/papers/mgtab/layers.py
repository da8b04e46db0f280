"""Relational layers: R-GCN by one sparse product, Simple-HGN, and the relational graph transformer (RGT)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_geometric.nn import RGCNConv, TransformerConv
from torch_geometric.utils import softmax

from repertory.papers.mgtab.relations import Relations


class RelationalConv(RGCNConv):
    r"""PyG's `RGCNConv` (Schlichtkrull et al., ESWC 2018), with the means of all relations as one sparse product.

    .. math:: x'_i = \Theta_{root} x_i + b + \sum_r \frac{1}{|N_r(i)|} \sum_{j \in N_r(i)} \Theta_r x_j

    Parameters and results are those of PyG; edges given as tensors take PyG's own path.

    Example:
        >>> layer, x = RelationalConv(4, 6, 2), torch.rand(3, 4)
        >>> edges, kinds = torch.tensor([[0, 1, 2], [2, 2, 0]]), torch.tensor([1, 1, 0])
        >>> torch.allclose(layer(x, edges, kinds), layer(x, Relations(edges, kinds, 2, 3)), atol=1e-6)
        True
    """

    def forward(self, x: Tensor, edge_index: Any, edge_type: Tensor | None = None) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """(n, in) -> (n, out); edges as `Relations`, or as PyG's layer takes them."""
        if not isinstance(edge_index, Relations):
            return super().forward(x, edge_index, edge_type)
        means = edge_index.mean(x)  # (R, n, in)
        return (means @ self.weight.to(means.dtype)).sum(0) + x @ self.root + self.bias


class SimpleHGNLayer(nn.Module):
    r"""One layer of Simple-HGN (Lv et al., KDD 2021): attention that knows the relation of an edge.

    .. math:: \alpha_{ij} = \mathrm{softmax}_j\, \mathrm{LeakyReLU}_{0.2}
              \big(a^\top [W x_i ; W x_j ; W_r e_{r(ij)}]\big), \qquad
              h_i = \mathrm{ELU}\Big(\sum_j \alpha_{ij} W x_j + W_{res} x_i\Big)

    Args:
        in_channels, out_channels: widths.
        num_relations: R.
        rel_dim: width of the relation embeddings e_r.
        beta: weight of the previous layer's attention, α' = (1 − β) α + β α_prev.
        final: L2-normalise the rows of the output.
        edge_residual: messages are weighted by α', as published; False: by α, as in the benchmark's released code,
            where α' is computed and not used.

    Example:
        >>> layer = SimpleHGNLayer(4, 6, 2)
        >>> graph = Relations(torch.tensor([[0, 1, 2], [2, 2, 0]]), torch.tensor([1, 1, 0]), 2, 3)
        >>> h, attention = layer(torch.rand(3, 4), graph)
        >>> h.shape, attention.shape
        (torch.Size([3, 6]), torch.Size([3]))
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        num_relations: int,
        rel_dim: int = 200,
        beta: float = 0.05,
        final: bool = False,
        edge_residual: bool = False,
    ) -> None:
        super().__init__()
        self.in_channels, self.out_channels, self.num_relations = in_channels, out_channels, num_relations
        self.beta, self.final, self.edge_residual = beta, final, edge_residual
        self.W = nn.Linear(in_channels, out_channels, bias=False)
        self.W_r = nn.Linear(rel_dim, out_channels, bias=False)
        self.a = nn.Linear(3 * out_channels, 1, bias=False)
        self.W_res = nn.Linear(in_channels, out_channels, bias=False)
        self.rel_emb = nn.Embedding(num_relations, rel_dim)

    def reset_parameters(self) -> None:
        """Draw all parameters anew."""
        for layer in (self.W, self.W_r, self.a, self.W_res, self.rel_emb):
            layer.reset_parameters()

    def forward(self, x: Tensor, graph: Relations, previous: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Vectors of the nodes and attention of the edges.

        Args:
            x: (n, in).
            graph: R relations over the n nodes.
            previous: attention of the layer before, (E,).

        Returns:
            (n, out) and α', (E,), detached, in the order of `graph.edge_index`.
        """
        source, target = graph.edge_index
        h = self.W(x)  # (n, out)
        to_target, to_source, to_relation = self.a.weight.view(3, -1)
        relation = self.W_r(self.rel_emb.weight) @ to_relation  # (R,)
        score = (h @ to_target)[target] + (h @ to_source)[source] + relation[graph.edge_type]
        alpha = softmax(F.leaky_relu(score, 0.2), target, num_nodes=graph.size)  # (E,)
        carried = alpha if previous is None else (1 - self.beta) * alpha + self.beta * previous
        weights = carried if self.edge_residual else alpha
        messages = weights[:, None] * h[source]
        out = F.elu(torch.zeros_like(h).index_add(0, target, messages.to(h.dtype)) + self.W_res(x))
        return F.normalize(out, dim=1) if self.final else out, carried.detach()

    def __repr__(self) -> str:
        return f"SimpleHGNLayer({self.in_channels}, {self.out_channels}, num_relations={self.num_relations})"


class SemanticAttention(nn.Module):
    r"""Weighs relations by what their vectors say on average (Wang et al., HAN, WWW 2019), mean over D heads.

    .. math:: w_r = \frac{1}{n} \sum_i q^\top \tanh(W z_{r,i} + b), \qquad
              \beta = \mathrm{softmax}_r(w), \qquad out_i = \sum_r \beta_r z_{r,i}

    Args:
        channels: width of z.
        heads: D.
        hidden: rows of W.
    """

    def __init__(self, channels: int, heads: int, hidden: int = 128) -> None:
        super().__init__()
        self.att_layers = nn.ModuleList(
            nn.Sequential(nn.Linear(channels, hidden), nn.Tanh(), nn.Linear(hidden, 1, bias=False))
            for _ in range(heads)
        )

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """(n, R, d) -> (n, d) and the weights of the relations β, (R,)."""
        # The heads share z, so the mean of their outputs is z weighted by the mean of their β.
        beta = torch.stack([layer(z).mean(0).squeeze(-1).softmax(0) for layer in self.att_layers]).mean(0)
        return torch.einsum("nrd,r->nd", z, beta.to(z.dtype)), beta


class RGTLayer(nn.Module):
    r"""One layer of the relational graph transformer (Feng et al., AAAI 2022).

    .. math:: u_r = \mathrm{Transformer}_r(x), \qquad a_r = \sigma(W_g [u_r ; x] + b_g), \qquad
              z_r = a_r \circ \tanh(u_r) + (1 - a_r) \circ x

    then `SemanticAttention` over the relations. The gate is shared by the relations.

    Args:
        channels: width d of x and of the output.
        num_relations: R, at least 1.
        trans_heads: heads of each transformer, averaged.
        semantic_heads: heads of the semantic attention.
        dropout: of the transformers' attention.
        semantic_hidden: hidden width of the semantic attention.
    """

    def __init__(
        self,
        channels: int,
        num_relations: int,
        trans_heads: int = 4,
        semantic_heads: int = 4,
        dropout: float = 0.5,
        semantic_hidden: int = 128,
    ) -> None:
        super().__init__()
        self.channels, self.num_relations = channels, num_relations
        self.transformer_list = nn.ModuleList(
            TransformerConv(channels, channels, heads=trans_heads, concat=False, dropout=dropout)
            for _ in range(num_relations)
        )
        self.gate = nn.Sequential(nn.Linear(2 * channels, channels), nn.Sigmoid())
        self.semantic_attention = SemanticAttention(channels, semantic_heads, semantic_hidden)

    def forward(self, x: Tensor, graph: Relations) -> tuple[Tensor, Tensor]:
        """(n, d) -> (n, d) and the weights of the relations, (R,)."""
        u = torch.stack([layer(x, graph.edges(r)) for r, layer in enumerate(self.transformer_list)], dim=1)
        own = x[:, None].expand_as(u)  # (n, R, d)
        gate = self.gate(torch.cat([u, own], dim=-1))
        return self.semantic_attention(gate * u.tanh() + (1 - gate) * own)

    def __repr__(self) -> str:
        return f"RGTLayer({self.channels}, num_relations={self.num_relations})"
