"""The graph networks of MGTAB (Shi et al., arXiv 2301.01123), as its released code builds them.

Every network maps features (n, d) and the edges of R relations to class logits (n, C). Edges are a `Relations`, which
is sorted once, or PyG's `edge_index` (2, E) and `edge_type` (E,). Only the convolution differs between the first four:

    Linear(d, H), LeakyReLU → convolution → dropout → convolution → Linear(H, C)

with no activation between the convolutions. The released modules hold a further block that is never used; it is
left out here (`RELEASED_UNUSED` counts it).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch_geometric.nn import GATConv, GCNConv, HGTConv, SAGEConv

from repertory.core.problem import Problem
from repertory.nn.dropout import Dropout
from repertory.papers.mgtab.layers import RelationalConv, RGTLayer, SimpleHGNLayer
from repertory.papers.mgtab.relations import Relations

USER = "user"
"""The only node type, for HGT."""
Branch = tuple[Sequence[int], int]
"""Columns of the features that a branch reads, and its width."""


class GraphNetwork(nn.Module):
    """What the networks share: sizes, the two forms of edges, initialisation.

    Args:
        features: d.
        classes: C.
        num_relations: R.
        hidden: H.
    """

    zero_bias: ClassVar[bool] = False
    """Biases of plain linear layers begin at 0, as in the scripts of HGT, S-HGN and RGT."""

    def __init__(self, features: int, classes: int, num_relations: int, hidden: int) -> None:
        super().__init__()
        self.features, self.classes, self.num_relations, self.hidden = features, classes, num_relations, hidden

    def reset_parameters(self) -> None:
        """Draw all parameters: Kaiming-uniform in plain linear layers, PyG's defaults in its own."""
        _reset(self, self.zero_bias)

    def forward(self, x: Tensor, edge_index: Tensor | Relations, edge_type: Tensor | None = None) -> Tensor:
        """Class logits.

        Args:
            x: (n, d).
            edge_index: sorted edges, or (2, E).
            edge_type: (E,) of the latter; None: all 0.

        Returns:
            (n, C).
        """
        return self.logits(x, Relations.of(edge_index, edge_type, self.num_relations, len(x)))

    def logits(self, x: Tensor, graph: Relations) -> Tensor:
        """(n, d) -> (n, C)."""
        raise NotImplementedError

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.features}, {self.classes}, num_relations={self.num_relations})"


def _reset(module: nn.Module, zero_bias: bool) -> None:
    for child in module.children():
        if isinstance(child, nn.Linear):
            child.reset_parameters()
            nn.init.kaiming_uniform_(child.weight)
            if zero_bias and child.bias is not None:
                nn.init.zeros_(child.bias)
        elif callable(reset := getattr(child, "reset_parameters", None)) and not isinstance(child, SimpleHGNLayer):
            reset()
        else:
            if isinstance(child, SimpleHGNLayer):
                child.reset_parameters()
            _reset(child, zero_bias)


def leaky(in_features: int, out_features: int) -> nn.Sequential:
    """Linear layer and LeakyReLU (slope 0.01)."""
    return nn.Sequential(nn.Linear(in_features, out_features), nn.LeakyReLU())


# -- two convolutions ---------------------------------------------------------------------------


class TwoConvolutions(GraphNetwork):
    """Linear, LeakyReLU → convolution → dropout → convolution → linear.

    Args:
        features, classes, num_relations, hidden: see `GraphNetwork`.
        dropout: between the convolutions.
        tapered: widths H, H/2, H/4 in place of H throughout, as for MGTAB-large.
    """

    def __init__(
        self, features: int, classes: int, num_relations: int = 2, hidden: int = 256, dropout: float = 0.3,
        tapered: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(features, classes, num_relations, hidden)
        middle, last = (hidden // 2, hidden // 4) if tapered else (hidden, hidden)
        self.input = leaky(features, hidden)
        self.conv1, self.conv2 = self.convolutions(hidden, middle, last)
        self.dropout = Dropout(dropout)
        self.output = nn.Linear(last, classes)
        self.reset_parameters()

    def convolutions(self, hidden: int, middle: int, last: int) -> tuple[nn.Module, nn.Module]:
        """The two layers; the same layer twice where they share their weights."""
        raise NotImplementedError

    def convolve(self, layer: nn.Module, x: Tensor, graph: Relations) -> Tensor:
        """One convolution; the plain ones do not distinguish the relations."""
        return layer(x, graph.edge_index)

    def logits(self, x: Tensor, graph: Relations) -> Tensor:
        x = self.input(x)  # (n, H)
        x = self.dropout(self.convolve(self.conv1, x, graph))
        return self.output(self.convolve(self.conv2, x, graph))


class GCN(TwoConvolutions):
    """Graph convolutions (Kipf and Welling, ICLR 2017): self loops, symmetric normalisation.

    Example:
        >>> GCN(788, 3)(torch.rand(4, 788), torch.tensor([[0, 1, 2], [1, 2, 3]])).shape
        torch.Size([4, 3])
    """

    def convolutions(self, hidden: int, middle: int, last: int) -> tuple[nn.Module, nn.Module]:
        return GCNConv(hidden, middle), GCNConv(middle, last)


class GAT(TwoConvolutions):
    """Graph attention (Veličković et al., ICLR 2018): 8 heads side by side, then one.

    Raises:
        Problem: hidden is no multiple of 8.
    """

    def convolutions(self, hidden: int, middle: int, last: int) -> tuple[nn.Module, nn.Module]:
        if middle % 8:
            raise Problem(f"the 8 heads of GAT do not divide {middle}", "hidden", "choose a multiple of 8")
        return GATConv(hidden, middle // 8, heads=8, concat=True), GATConv(middle, last, heads=1, concat=False)


class SAGE(TwoConvolutions):
    """GraphSAGE (Hamilton et al., NeurIPS 2017): the mean of the neighbours beside the node itself."""

    def convolutions(self, hidden: int, middle: int, last: int) -> tuple[nn.Module, nn.Module]:
        return SAGEConv(hidden, middle), SAGEConv(middle, last)


class RGCN(TwoConvolutions):
    """Relational graph convolutions; the same layer is applied twice, as released."""

    def convolutions(self, hidden: int, middle: int, last: int) -> tuple[nn.Module, nn.Module]:
        first = RelationalConv(hidden, middle, self.num_relations)
        return first, first if hidden == middle == last else RelationalConv(middle, last, self.num_relations)

    def convolve(self, layer: nn.Module, x: Tensor, graph: Relations) -> Tensor:
        return layer(x, graph)


class BotRGCN(GraphNetwork):
    """BotRGCN (Feng et al., ASONAM 2021): a branch each for tweets, numbers and booleans, then R-GCN twice.

    Args:
        features, classes, num_relations, hidden: see `GraphNetwork`.
        dropout: between the convolutions.
        branches: columns and width of each branch; the widths sum to H. None: those of MGTAB, see `mgtab_branches`.

    Raises:
        Problem: widths that do not sum to H, or columns that the features lack.
    """

    def __init__(
        self, features: int = 788, classes: int = 2, num_relations: int = 2, hidden: int = 256, dropout: float = 0.3,
        branches: Sequence[Branch] | None = None,
    ) -> None:  # fmt: skip
        super().__init__(features, classes, num_relations, hidden)
        branches = mgtab_branches(hidden) if branches is None else branches
        self.columns = [list(columns) for columns, _ in branches]
        if sum(width for _, width in branches) != hidden or max(max(c) for c in self.columns) >= features:
            raise Problem(
                f"branches of {[(len(c), width) for c, width in branches]} columns and widths do not fit",
                "branches",
                f"widths sum to hidden ({hidden}), columns lie below {features}",
            )
        self.branches = nn.ModuleList(leaky(len(columns), width) for columns, width in branches)
        self.input = leaky(hidden, hidden)
        self.conv = RelationalConv(hidden, hidden, num_relations)
        self.dropout = Dropout(dropout)
        self.output = nn.Linear(hidden, classes)
        self.reset_parameters()

    def logits(self, x: Tensor, graph: Relations) -> Tensor:
        parts = [branch(x[:, columns]) for branch, columns in zip(self.branches, self.columns, strict=True)]
        x = self.input(torch.cat(parts, dim=1))  # (n, H)
        x = self.dropout(self.conv(x, graph))
        return self.output(self.conv(x, graph))


NUMERIC, BOOLEAN = (3, 5, 6, 7, 9, 10, 11, 12, 13, 14), (0, 1, 2, 4, 8, 15, 16, 17, 18, 19)
"""Columns of the 20 properties of MGTAB, numbered from 0."""
TWEETS = tuple(range(20, 788))
"""Columns of the mean embedding of the tweets."""


def mgtab_branches(hidden: int, released: bool = False) -> list[Branch]:
    """Columns and widths of BotRGCN's branches: tweets 3H/4, numbers H/8, booleans H/8.

    Args:
        hidden: H, a multiple of 8.
        released: as the released code, which counts from 1: every property is one column too far right.

    Example:
        >>> [(len(columns), width) for columns, width in mgtab_branches(256)]
        [(768, 192), (10, 32), (10, 32)]
    """
    shift = 1 if released else 0
    numeric, boolean = ([column + shift for column in columns] for columns in (NUMERIC, BOOLEAN))
    return [(TWEETS, hidden - 2 * (hidden // 8)), (numeric, hidden // 8), (boolean, hidden // 8)]


# -- heterogeneous networks ---------------------------------------------------------------------


class HGT(GraphNetwork):
    """Heterogeneous graph transformer (Hu et al., WWW 2020), PyG's layer: one node type, one edge type a relation.

    Args:
        features, classes, num_relations, hidden: see `GraphNetwork`.
        dropout: after the first layer.
        linear: width of the second convolution.
        out: width of the last hidden layer.
        heads: of the attention.
    """

    zero_bias = True

    def __init__(
        self, features: int, classes: int, num_relations: int = 2, hidden: int = 256, dropout: float = 0.3,
        linear: int = 128, out: int = 32, heads: int = 1,
    ) -> None:  # fmt: skip
        super().__init__(features, classes, num_relations, hidden)
        self.kinds = [(USER, f"relation{r}", USER) for r in range(num_relations)]
        self.input = nn.Sequential(*leaky(features, hidden), Dropout(dropout))
        self.conv1 = HGTConv(hidden, hidden, ([USER], self.kinds), heads)
        self.conv2 = HGTConv(hidden, linear, ([USER], self.kinds), heads)
        self.head = nn.Sequential(*leaky(linear, out), nn.Linear(out, classes))
        self.reset_parameters()

    def logits(self, x: Tensor, graph: Relations) -> Tensor:
        edges = {kind: graph.edges(r) for r, kind in enumerate(self.kinds)}
        x = self.input(x)  # (n, H)
        x = self.conv1({USER: x}, edges)[USER]
        x = self.conv2({USER: x}, edges)[USER]  # (n, linear)
        return self.head(x)


class SHGN(GraphNetwork):
    """Simple-HGN (Lv et al., KDD 2021).

    Args:
        features, classes, num_relations, hidden: see `GraphNetwork`.
        dropout: after the first layer and before the last.
        linear: width of the second layer.
        out: width of the last hidden layer.
        rel_dim, beta, edge_residual: see `SimpleHGNLayer`.
    """

    zero_bias = True

    def __init__(
        self, features: int, classes: int, num_relations: int = 2, hidden: int = 256, dropout: float = 0.5,
        linear: int = 128, out: int = 32, rel_dim: int = 200, beta: float = 0.05, edge_residual: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(features, classes, num_relations, hidden)
        self.input = nn.Sequential(*leaky(features, hidden), Dropout(dropout))
        self.HGN_layer1 = SimpleHGNLayer(hidden, hidden, num_relations, rel_dim, beta, edge_residual=edge_residual)
        self.HGN_layer2 = SimpleHGNLayer(hidden, linear, num_relations, rel_dim, beta, True, edge_residual)
        self.head = nn.Sequential(*leaky(linear, out), Dropout(dropout), nn.Linear(out, classes))
        self.reset_parameters()

    def logits(self, x: Tensor, graph: Relations) -> Tensor:
        x = self.input(x)  # (n, H)
        x, attention = self.HGN_layer1(x, graph)
        x, _ = self.HGN_layer2(x, graph, attention)  # (n, linear)
        return self.head(x)


class RGT(GraphNetwork):
    """Relational graph transformer (Feng et al., AAAI 2022): the same `RGTLayer` twice.

    Args:
        features, classes, num_relations: see `GraphNetwork`.
        hidden: 128 in the paper.
        dropout: after the first layer, of the attention, before the last layer.
        out: width of the last hidden layer.
        trans_heads, semantic_heads: see `RGTLayer`.

    Example:
        >>> model = RGT(788, 2, num_relations=7)
        >>> edges, kinds = torch.tensor([[0, 1, 2], [1, 2, 3]]), torch.tensor([0, 3, 6])
        >>> model(torch.rand(4, 788), edges, kinds).shape
        torch.Size([4, 2])
    """

    zero_bias = True

    def __init__(
        self, features: int, classes: int, num_relations: int = 2, hidden: int = 128, dropout: float = 0.5,
        out: int = 64, trans_heads: int = 4, semantic_heads: int = 4,
    ) -> None:  # fmt: skip
        super().__init__(features, classes, num_relations, hidden)
        self.input = nn.Sequential(*leaky(features, hidden), Dropout(dropout))
        self.RGT_layer1 = RGTLayer(hidden, num_relations, trans_heads, semantic_heads, dropout)
        self.activation = nn.LeakyReLU()
        self.head = nn.Sequential(*leaky(hidden, out), Dropout(dropout), nn.Linear(out, classes))
        self.reset_parameters()

    def logits(self, x: Tensor, graph: Relations) -> Tensor:
        return self.weighed(x, graph)[0]

    def weighed(self, x: Tensor, graph: Relations) -> tuple[Tensor, Tensor]:
        """Logits (n, C), and the weights of the relations in the two applications of the layer, (2, R)."""
        x = self.input(x)  # (n, H)
        x, first = self.RGT_layer1(x, graph)
        x, second = self.RGT_layer1(self.activation(x), graph)
        return self.head(self.activation(x)), torch.stack([first, second])


NETWORKS: Mapping[str, type[GraphNetwork]] = {
    "gcn": GCN, "gat": GAT, "sage": SAGE, "rgcn": RGCN, "botrgcn": BotRGCN, "hgt": HGT, "shgn": SHGN, "rgt": RGT,
}  # fmt: skip
