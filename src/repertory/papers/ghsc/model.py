"""H-GNNs: graph convolutions whose normalised adjacency matrix is the operator T of a hypergraph.

First the layers, which take T or PyTorch Geometric's incidence, then the networks made of them. Products are taken in
the cheaper order, T (X W) rather than (T X) W: bags of words stay sparse, and T multiplies the narrower matrix.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from repertory.core.arguments import check_choice, check_positive, check_range, check_rates, check_shares, check_whole
from repertory.core.problem import Problem, require
from repertory.nn.dropout import dropout
from repertory.nn.graphs import check_features
from repertory.papers.ghsc.hypergraph import Operator, Sparse, UnifiedHypergraph, check_incidence

Features = Tensor | Sparse
"""(n, f)."""


def operator_of(
    incidence: Operator | Tensor,
    vertices: int,
    hyperedge_weight: Tensor | None = None,
    incidence_weight: Tensor | None = None,
    device: torch.device | None = None,
) -> Operator:
    """Return a given T, or build it from PyTorch Geometric's `hyperedge_index` (σ = −1, renormalised).

    Building T takes longer than multiplying by it: build it once per hypergraph.
    """
    if isinstance(incidence, Operator):
        return incidence
    hypergraph = UnifiedHypergraph.from_pyg(incidence, hyperedge_weight, incidence_weight, vertices)
    return hypergraph.operator().to(device or incidence.device)


# -- layers -------------------------------------------------------------------------------------------


class HypergraphLayer(nn.Module):
    """Base of the layers: calls take an `Operator`, or the arguments of PyTorch Geometric's HypergraphConv.

    ```
    layer(x, operator)                                                   # x: (n, in)
    layer(x, hyperedge_index, hyperedge_weight, incidence_weight)        # (2, nnz), (m,), (nnz,)
    ```

    Raises:
        Problem: a number out of its range; in calls, features, T or an incidence of another shape.
    """

    in_features: int | None = None
    """Columns of x; None: any number."""

    def forward(
        self,
        x: Features,
        incidence: Operator | Tensor,
        hyperedge_weight: Tensor | None = None,
        incidence_weight: Tensor | None = None,
        **others: Any,
    ) -> Tensor:
        """(n, in) -> (n, out)."""
        check_features(x.shape, self.in_features, type(self).__name__)
        device = x.device if isinstance(x, Tensor) else None
        return self.convolve(
            x, operator_of(incidence, x.shape[0], hyperedge_weight, incidence_weight, device), **others
        )

    @abstractmethod
    def convolve(self, x: Any, T: Operator, **others: Any) -> Tensor:
        """The layer's formula."""


class HGCNConv(HypergraphLayer):
    """H-GCN: T (X W + b). The bias is added before T.

    Example:
        >>> hyperedge_index = torch.tensor([[0, 1, 2, 2, 3], [0, 0, 0, 1, 1]])
        >>> HGCNConv(8, 4)(torch.randn(4, 8), hyperedge_index).shape
        torch.Size([4, 4])
    """

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        check_whole("HGCNConv", in_features=in_features, out_features=out_features)
        self.in_features = in_features
        self.weight = nn.Parameter(torch.empty(in_features, out_features))
        self.bias = nn.Parameter(torch.empty(out_features))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """W, b ~ U(−s, s), s = 1/√out."""
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -(self.bias.numel() ** -0.5), self.bias.numel() ** -0.5)

    def convolve(self, x: Features, T: Operator, **others: Any) -> Tensor:
        return T @ (x @ self.weight + self.bias)


class HGCNIIConv(HypergraphLayer):
    """H-GCNII: S = (1−α) T H + α H0, then (1−β) S + β S W; called with `x0`.

    The variant (GCNII*) has W of shape (2h, h): (1−β) S + β [T H ‖ H0] W.

    Args:
        channels: h.
        alpha: α, share of the first layer.
        beta: β_l = ln(λ / l + 1) of the layer number l, from 1.
        variant: GCNII*.
        init: of W: uniform in ±1/√h, or Glorot.
    """

    def __init__(
        self,
        channels: int,
        alpha: float,
        beta: float,
        variant: bool = False,
        init: Literal["uniform", "glorot"] = "uniform",
    ) -> None:
        super().__init__()
        check_whole("HGCNIIConv", channels=channels)
        check_shares("HGCNIIConv", alpha=alpha)
        check_range("HGCNIIConv", 0, math.inf, beta=beta)
        check_choice("HGCNIIConv", ("uniform", "glorot"), init=init)
        self.in_features = channels
        self.alpha, self.beta, self.variant, self.init = alpha, beta, variant, init
        self.weight = nn.Parameter(torch.empty(2 * channels if variant else channels, channels))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise W by `init`."""
        if self.init == "glorot":
            nn.init.xavier_uniform_(self.weight)
        else:
            bound = self.weight.shape[1] ** -0.5
            nn.init.uniform_(self.weight, -bound, bound)

    def convolve(self, x: Tensor, T: Operator, *, x0: Tensor, **others: Any) -> Tensor:
        check_features(x0.shape, x.shape[1], "HGCNIIConv, x0", len(x))
        alpha, beta = self.alpha, self.beta
        spread = T @ x
        support = torch.lerp(spread, x0, alpha)  # S
        if self.variant:
            return (1 - beta) * support + beta * (torch.cat([spread, x0], dim=1) @ self.weight)
        identity = torch.eye(len(self.weight), dtype=x.dtype, device=x.device)
        return support @ torch.lerp(identity, self.weight, beta)  # S ((1−β) I + β W): one pass over S


class HSGConv(HypergraphLayer):
    """H-SGC: T^K X Θ + b. `spread` has no parameters: compute it once, then train `linear` alone."""

    def __init__(self, in_features: int, out_features: int, hops: int = 2) -> None:
        super().__init__()
        check_whole(type(self).__name__, hops=hops)
        self.hops, self.in_features = hops, in_features
        self.linear = Linear(in_features, out_features)

    def spread(self, x: Tensor, T: Operator) -> Tensor:
        """T^K X, (n, in)."""
        for _ in range(self.hops):
            x = T @ x
        return x

    def convolve(self, x: Features, T: Operator, **others: Any) -> Tensor:
        return self.linear(self.spread(dense(x), T))


class HSSGConv(HSGConv):
    """H-SSGC: Linear((1/K) Σ_{k=1..K} ((1−α) T^k X + α X))."""

    def __init__(self, in_features: int, out_features: int, hops: int = 16, alpha: float = 0.05) -> None:
        super().__init__(in_features, out_features, hops)
        check_shares("HSSGConv", alpha=alpha)
        self.alpha = alpha

    def spread(self, x: Tensor, T: Operator) -> Tensor:
        """(1/K) Σ_k ((1−α) T^k X + α X), (n, in)."""
        power, total = x, torch.zeros_like(x)
        for _ in range(self.hops):
            power = T @ power
            total += power
        return torch.lerp(total / self.hops, x, self.alpha)


class HAPPNPConv(HypergraphLayer):
    """H-APPNP: Z ← (1−α) T Z + α X, K times from Z = X. No parameters."""

    def __init__(self, hops: int = 10, alpha: float = 0.1) -> None:
        super().__init__()
        check_whole("HAPPNPConv", hops=hops)
        check_shares("HAPPNPConv", alpha=alpha)
        self.hops, self.alpha = hops, alpha

    def convolve(self, x: Tensor, T: Operator, **others: Any) -> Tensor:
        z = x
        for _ in range(self.hops):
            z = torch.lerp(T @ z, x, self.alpha)
        return z


class HChebConv(HypergraphLayer):
    """H-ChebNet: Σ_{k<K} C_k(L̂) X W_k + b with Chebyshev polynomials C_k of L̂ = (2/λ_max) L − I, λ_max = 2: L̂ = −T.

    Evaluated by Clenshaw's recurrence on the K products X W_k, each as wide as the output.
    """

    def __init__(self, in_features: int, out_features: int, terms: int = 3) -> None:
        super().__init__()
        check_whole("HChebConv", in_features=in_features, out_features=out_features, terms=terms)
        self.in_features = in_features
        self.weight = nn.Parameter(torch.empty(in_features, terms, out_features))
        self.bias = nn.Parameter(torch.empty(out_features))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Each W_k Glorot, b = 0."""
        for k in range(self.weight.shape[1]):
            nn.init.xavier_uniform_(self.weight[:, k])
        nn.init.zeros_(self.bias)

    def convolve(self, x: Features, T: Operator, **others: Any) -> Tensor:
        _, terms, out = self.weight.shape
        products = (x @ self.weight.flatten(1)).unflatten(1, (terms, out)).unbind(1)  # X W_k, each (n, out)
        first, second = torch.zeros_like(products[0]), torch.zeros_like(products[0])  # b_{k+1}, b_{k+2}
        for product in products[:0:-1]:
            first, second = product - 2 * (T @ first) - second, first
        return products[0] - T @ first - second + self.bias


class HGINConv(HypergraphLayer):
    """H-GIN: MLP((1+ε) X + T X) with two layers; ε is learned, starting at 0."""

    def __init__(self, in_features: int, hidden: int, out_features: int) -> None:
        super().__init__()
        check_whole("HGINConv", in_features=in_features, hidden=hidden, out_features=out_features)
        self.in_features = in_features
        self.eps = nn.Parameter(torch.zeros(()))
        self.linear1 = Linear(in_features, hidden)
        self.linear2 = nn.Linear(hidden, out_features)

    def convolve(self, x: Features, T: Operator, **others: Any) -> Tensor:
        y = x @ self.linear1.weight.T
        return self.linear2(F.relu((1 + self.eps) * y + T @ y + self.linear1.bias))


class Linear(nn.Linear):
    """`nn.Linear` for dense or sparse features."""

    def __init__(self, in_features: int, out_features: int) -> None:
        check_whole("Linear", in_features=in_features, out_features=out_features)
        super().__init__(in_features, out_features)

    def forward(self, input: Features) -> Tensor:
        check_features(input.shape, self.in_features, "Linear")
        return (
            F.linear(input, self.weight, self.bias) if isinstance(input, Tensor) else input @ self.weight.T + self.bias
        )


def dense(x: Features) -> Tensor:
    """Features as a dense tensor."""
    return x if isinstance(x, Tensor) else x.dense()


# -- networks -----------------------------------------------------------------------------------------


class Network(nn.Module):
    """Features (n, f) and T -> logits (n, C), in two steps: `embed` gives the last hidden layer, `head` the logits.

    Raises:
        Problem: a number out of its range; in `forward`, features or T of another shape.
    """

    fixed_embedding: ClassVar[bool] = False
    """`embed` has no parameters and `head` acts per vertex, so training embeds once."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        check_rates(type(self).__name__, dropout=dropout)
        self.p = dropout

    def forward(self, x: Features, T: Any) -> Tensor:
        """(n, f) -> (n, C)."""
        return self.head(self.embed(x, T), T)

    @abstractmethod
    def embed(self, x: Features, T: Any) -> Tensor:
        """(n, f) -> (n, h)."""

    @abstractmethod
    def head(self, h: Tensor, T: Any) -> Tensor:
        """(n, h) -> (n, C)."""

    def drop(self, x: Any) -> Any:
        """Dropout for dense or sparse features."""
        if isinstance(x, Sparse):
            return x.dropout(self.p) if self.training and self.p else x
        return dropout(x, self.p, self.training)

    def deep_parameters(self) -> list[nn.Parameter]:
        """Parameters with a separate weight decay; none by default."""
        return []


class HGCN(Network):
    """H-GCN: ReLU(T (X W + b)) with dropout after every layer but the last, which has neither.

    Args:
        in_features: f.
        classes: C.
        hidden: width of all inner layers.
        layers: number of layers, from 2.
        dropout: p.

    Raises:
        Problem: fewer than two layers.

    Example:
        >>> papers = UnifiedHypergraph(torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0]]))
        >>> HGCN(in_features=5, classes=3, hidden=16)(torch.randn(3, 5), papers.operator()).shape
        torch.Size([3, 3])
    """

    def __init__(
        self, in_features: int, classes: int, hidden: int = 128, layers: int = 2, dropout: float = 0.5
    ) -> None:
        super().__init__(dropout)
        if layers < 2:
            raise Problem(f"H-GCN with {layers} layer(s)", "gcn_layers", "at least 2: the last one gives the classes")
        check_whole("HGCN", layers=layers)
        widths = [in_features, *[hidden] * (layers - 1), classes]
        self.convs = nn.ModuleList(HGCNConv(a, b) for a, b in pairwise(widths))

    def embed(self, x: Features, T: Operator) -> Tensor:
        h: Any = x
        for conv in self.convs[:-1]:
            h = self.drop(F.relu(conv(h, T)))  # (n, hidden)
        return h

    def head(self, h: Tensor, T: Operator) -> Tensor:
        return self.convs[-1](h, T)


class HGCNII(Network):
    """H-GCNII: stays trainable when deep, since each layer adds a share α of the first and nearly keeps its input.

    Args:
        in_features: f.
        classes: C.
        hidden: h.
        layers: L.
        dropout: p.
        alpha: α.
        lamda: λ of β_l = ln(λ / l + 1).
        variant: GCNII*.
        init: see `HGCNIIConv`.
    """

    def __init__(
        self,
        in_features: int,
        classes: int,
        hidden: int = 64,
        layers: int = 32,
        dropout: float = 0.5,
        alpha: float = 0.1,
        lamda: float = 0.5,
        variant: bool = False,
        init: Literal["uniform", "glorot"] = "uniform",
    ) -> None:
        super().__init__(dropout)
        check_whole("HGCNII", layers=layers)
        check_positive("HGCNII", lamda=lamda)
        self.fcs = nn.ModuleList([Linear(in_features, hidden), Linear(hidden, classes)])
        self.convs = nn.ModuleList(
            HGCNIIConv(hidden, alpha, math.log(lamda / number + 1), variant, init) for number in range(1, layers + 1)
        )

    def embed(self, x: Features, T: Operator) -> Tensor:
        h = h0 = F.relu(self.fcs[0](self.drop(x)))  # (n, h)
        for conv in self.convs:
            h = F.relu(conv(self.drop(h), T, x0=h0))
        return h

    def head(self, h: Tensor, T: Operator) -> Tensor:
        return self.fcs[1](self.drop(h))

    def deep_parameters(self) -> list[nn.Parameter]:
        return list(self.convs.parameters())


class HSGC(Network):
    """H-SGC: Linear(T^K X)."""

    fixed_embedding = True

    def __init__(self, in_features: int, classes: int, hops: int = 2) -> None:
        super().__init__()
        self.conv = HSGConv(in_features, classes, hops)

    def embed(self, x: Features, T: Operator) -> Tensor:
        return self.conv.spread(dense(x), T)

    def head(self, h: Tensor, T: Operator) -> Tensor:
        return self.conv.linear(h)


class HSSGC(HSGC):
    """H-SSGC: Linear of the mean over K hops."""

    def __init__(self, in_features: int, classes: int, hops: int = 16, alpha: float = 0.05) -> None:
        super().__init__(in_features, classes, hops)
        self.conv = HSSGConv(in_features, classes, hops, alpha)


class HAPPNP(Network):
    """H-APPNP: a perceptron of two layers, then K steps of personalised propagation of its logits."""

    def __init__(
        self,
        in_features: int,
        classes: int,
        hidden: int = 64,
        dropout: float = 0.5,
        hops: int = 10,
        alpha: float = 0.1,
    ) -> None:
        super().__init__(dropout)
        self.fcs = nn.ModuleList([Linear(in_features, hidden), Linear(hidden, classes)])
        self.propagate = HAPPNPConv(hops, alpha)

    def embed(self, x: Features, T: Operator) -> Tensor:
        return F.relu(self.fcs[0](self.drop(x)))

    def head(self, h: Tensor, T: Operator) -> Tensor:
        return self.propagate(self.fcs[1](self.drop(h)), T)


class HChebNet(Network):
    """H-ChebNet: two layers of Chebyshev polynomials of −T."""

    def __init__(self, in_features: int, classes: int, hidden: int = 128, dropout: float = 0.5, terms: int = 3) -> None:
        super().__init__(dropout)
        self.convs = nn.ModuleList([HChebConv(in_features, hidden, terms), HChebConv(hidden, classes, terms)])

    def embed(self, x: Features, T: Operator) -> Tensor:
        return self.drop(F.relu(self.convs[0](x, T)))

    def head(self, h: Tensor, T: Operator) -> Tensor:
        return self.convs[1](h, T)


class HGIN(Network):
    """H-GIN: two layers, each an MLP of the vertex and its neighbours."""

    def __init__(self, in_features: int, classes: int, hidden: int = 128, dropout: float = 0.5) -> None:
        super().__init__(dropout)
        self.convs = nn.ModuleList([HGINConv(in_features, hidden, hidden), HGINConv(hidden, hidden, classes)])

    def embed(self, x: Features, T: Operator) -> Tensor:
        return self.drop(F.relu(self.convs[0](x, T)))

    def head(self, h: Tensor, T: Operator) -> Tensor:
        return self.convs[1](h, T)


class _ReversibleBlock(nn.Module):
    """LayerNorm, ReLU, the mask that all blocks share, H-GCN's convolution: (n, h/2) -> (n, h/2)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.conv = HGCNConv(channels, channels)

    def forward(self, x: Tensor, T: Operator, mask: Tensor) -> Tensor:
        return self.conv(F.relu(self.norm(x)) * mask, T)

    def reset_parameters(self) -> None:
        self.norm.reset_parameters()
        self.conv.reset_parameters()


class HRevGNN(Network):
    """H-RevGNN: reversible blocks of two groups, whose activations are recomputed in the backward pass.

    Needs PyTorch Geometric for `GroupAddRev`.

    Args:
        in_features: f.
        classes: C.
        hidden: h, even.
        layers: blocks.
        dropout: p inside the blocks; before the last layer it is 0.2.

    Raises:
        Problem: PyTorch Geometric is not installed, or h is odd.
    """

    LAST_DROPOUT = 0.2

    def __init__(
        self, in_features: int, classes: int, hidden: int = 128, layers: int = 4, dropout: float = 0.5
    ) -> None:
        super().__init__(dropout)
        check_whole("HRevGNN", layers=layers, hidden=hidden, classes=classes)
        if hidden % 2:
            raise Problem(f"two groups of {hidden} channels", "hidden", "choose an even number")
        reversible: Any = require("torch_geometric.nn", "graphs").GroupAddRev
        self.first, self.last = Linear(in_features, hidden), nn.Linear(hidden, classes)
        self.blocks = nn.ModuleList(reversible(_ReversibleBlock(hidden // 2), num_groups=2) for _ in range(layers))
        self.norm = nn.LayerNorm(hidden)

    def embed(self, x: Features, T: Operator) -> Tensor:
        h = self.first(x)
        mask = self.drop(torch.ones_like(h))
        for block in self.blocks:
            h = block(h, T, mask)
        return F.relu(self.norm(h))

    def head(self, h: Tensor, T: Operator) -> Tensor:
        return self.last(dropout(h, self.LAST_DROPOUT, self.training))


class MLP(Network):
    """Baseline: two layers with batch normalisation; ignores hyperedges.

    Args:
        in_features: f.
        classes: C.
        hidden: h.
        dropout: p.
        row_normalise: divide each row of the features by its sum, as is usual for bags of words.
    """

    def __init__(
        self, in_features: int, classes: int, hidden: int = 128, dropout: float = 0.5, row_normalise: bool = False
    ) -> None:
        super().__init__(dropout)
        self.row_normalise = row_normalise
        self.fcs = nn.ModuleList([Linear(in_features, hidden), Linear(hidden, classes)])
        self.norm = nn.BatchNorm1d(hidden)

    def embed(self, x: Features, T: object) -> Tensor:
        h = self.fcs[0](x)
        if self.row_normalise:  # of the product, which is the same: (x / s) W + b = (x W) / s + b
            ones = torch.ones(x.shape[1], 1, dtype=h.dtype, device=h.device)
            total = x @ ones  # (n, 1)
            h = (h - self.fcs[0].bias) / total.masked_fill(total == 0, 1.0) + self.fcs[0].bias
        return self.drop(F.relu(self.norm(h)))

    def head(self, h: Tensor, T: object) -> Tensor:
        return self.fcs[1](h)


class HypergraphConvNet(Network):
    """Baseline: two layers of PyTorch Geometric's HypergraphConv; takes hyperedge_index (2, nnz) in place of T."""

    def __init__(self, in_features: int, classes: int, hidden: int = 128, dropout: float = 0.5) -> None:
        super().__init__(dropout)
        conv: Any = require("torch_geometric.nn", "graphs").HypergraphConv
        check_whole("HypergraphConvNet", in_features=in_features, hidden=hidden, classes=classes)
        self.in_features = in_features
        self.convs = nn.ModuleList([conv(in_features, hidden), conv(hidden, classes)])

    def embed(self, x: Features, T: Tensor) -> Tensor:
        check_features(x.shape, self.in_features, "HypergraphConvNet")
        check_incidence(T, x.shape[0])
        return self.drop(F.relu(self.convs[0](dense(x), T)))

    def head(self, h: Tensor, T: Tensor) -> Tensor:
        return self.convs[1](h, T)


NETWORKS: Mapping[str, Callable[..., Network]] = {
    "mlp": MLP,
    "hypergraph-conv": HypergraphConvNet,
    "h-gcn": HGCN,
    "h-gcnii": HGCNII,
    "h-sgc": HSGC,
    "h-ssgc": HSSGC,
    "h-appnp": HAPPNP,
    "h-chebnet": HChebNet,
    "h-gin": HGIN,
    "h-revgnn": HRevGNN,
}


def build_network(name: str, in_features: int, classes: int, **settings: Any) -> Network:
    """A network by its name in `NETWORKS`.

    Example:
        >>> build_network("h-gcnii", in_features=9, classes=4, hidden=6, layers=4).convs[0].weight.shape
        torch.Size([6, 6])
    """
    if name not in NETWORKS:
        raise Problem(f"no network {name!r}", "network", f"choose from {', '.join(NETWORKS)}")
    return NETWORKS[name](in_features, classes, **settings)
