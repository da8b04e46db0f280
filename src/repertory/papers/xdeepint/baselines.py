"""The models that xDeepInt is compared with, on the same tables: LR, FM, DNN, DeepFM, DCN, xDeepFM."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise as neighbours
from typing import Any

import torch
from torch import Tensor, nn

from repertory.papers.xdeepint.model import ClickModel, Tables

HIDDEN = (128, 64)


class LinearTerm(nn.Module):
    """Σ_f w_f[x_f] + b: ids (B, F) -> (B,)."""

    def __init__(self, sizes: Sequence[int]) -> None:
        super().__init__()
        self.tables = Tables(sizes, 1)
        self.bias = nn.Parameter(torch.zeros(()))
        nn.init.zeros_(self.tables.weight)

    def forward(self, ids: Tensor) -> Tensor:
        return self.tables(ids).sum(dim=(1, 2)) + self.bias


def pairwise(x: Tensor) -> Tensor:
    """Σ_{i<j} ⟨e_i, e_j⟩ = (‖Σ e_i‖² - Σ ‖e_i‖²) / 2: (B, F, K) -> (B,)."""
    return (x.sum(dim=1).square() - x.square().sum(dim=1)).sum(dim=1) / 2


def mlp(width: int, hidden: Sequence[int], out: int = 1) -> nn.Sequential:
    """Linear layers with ReLU between them; `out` 0: without the last linear layer."""
    sizes = [width, *hidden]
    layers = [layer for a, b in neighbours(sizes) for layer in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*layers, *([nn.Linear(sizes[-1], out)] if out else []))


class LogisticRegression(ClickModel):
    """Σ_f w_f[x_f] + b."""

    def __init__(self, sizes: Sequence[int], schema: dict[str, Any] | None = None) -> None:
        super().__init__(sizes, 1, schema)
        nn.init.zeros_(self.tables.weight)
        self.bias = nn.Parameter(torch.zeros(()))

    def logit(self, x: Tensor, ids: Tensor) -> Tensor:
        return x.sum(dim=(1, 2)) + self.bias


class FM(ClickModel):
    """Factorisation machine: LR + Σ_{i<j} ⟨e_i, e_j⟩. Source: Rendle, ICDM 2010."""

    def __init__(self, sizes: Sequence[int], dim: int = 16, schema: dict[str, Any] | None = None) -> None:
        super().__init__(sizes, dim, schema)
        self.linear = LinearTerm(sizes)
        with torch.no_grad():
            self.tables.weight.mul_(0.1)  # products of embeddings of norm 1 would drown the linear term at first

    def logit(self, x: Tensor, ids: Tensor) -> Tensor:
        return self.linear(ids) + pairwise(x)


class DNN(ClickModel):
    """A perceptron on the concatenated embeddings."""

    def __init__(
        self, sizes: Sequence[int], dim: int = 16, hidden: Sequence[int] = HIDDEN, schema: dict[str, Any] | None = None
    ) -> None:
        super().__init__(sizes, dim, schema)
        self.mlp = mlp(len(sizes) * dim, hidden)

    def logit(self, x: Tensor, ids: Tensor) -> Tensor:
        return self.mlp(x.flatten(1)).squeeze(1)


class DeepFM(ClickModel):
    """FM + DNN on the same embeddings. Source: Guo et al., IJCAI 2017."""

    def __init__(
        self, sizes: Sequence[int], dim: int = 16, hidden: Sequence[int] = HIDDEN, schema: dict[str, Any] | None = None
    ) -> None:
        super().__init__(sizes, dim, schema)
        self.linear = LinearTerm(sizes)
        self.mlp = mlp(len(sizes) * dim, hidden)
        with torch.no_grad():
            self.tables.weight.mul_(0.1)  # as in FM

    def logit(self, x: Tensor, ids: Tensor) -> Tensor:
        return self.linear(ids) + pairwise(x) + self.mlp(x.flatten(1)).squeeze(1)


class DCN(ClickModel):
    """Deep & cross network, first version: x_{l+1} = x_0 (x_lᵀ w_l) + b_l + x_l, beside a DNN.

    Source: Wang et al., ADKDD 2017.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        dim: int = 16,
        layers: int = 3,
        hidden: Sequence[int] = HIDDEN,
        schema: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(sizes, dim, schema)
        width = len(sizes) * dim
        self.cross = nn.ModuleList(nn.Linear(width, 1, bias=False) for _ in range(layers))
        self.biases = nn.ParameterList(torch.zeros(width) for _ in range(layers))
        self.deep = mlp(width, hidden, out=0)
        self.head = nn.Linear(width + hidden[-1], 1)

    def logit(self, x: Tensor, ids: Tensor) -> Tensor:
        x0 = x.flatten(1)
        x = x0
        for weight, bias in zip(self.cross, self.biases, strict=True):
            x = x0 * weight(x) + bias + x
        return self.head(torch.cat([x, self.deep(x0)], dim=1)).squeeze(1)


class CIN(nn.Module):
    """Compressed interaction network: X^k_h = Σ_ij W^{k,h}_ij (X^{k-1}_i ∘ X^0_j), each map summed over K.

    Shapes: (B, F, K) -> (B, Σ maps). Source: Lian et al., KDD 2018.
    """

    def __init__(self, fields: int, maps: Sequence[int]) -> None:
        super().__init__()
        before = [fields, *maps[:-1]]
        self.weights = nn.ParameterList(
            nn.init.xavier_uniform_(torch.empty(after, count * fields))
            for after, count in zip(maps, before, strict=True)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x0 = x.mT.contiguous()  # (B, K, F): one matrix product a layer
        sums = []
        for weight in self.weights:
            pairs = (x[..., None] * x0[:, :, None]).flatten(2)  # (B, K, maps · F)
            x = pairs @ weight.T
            sums.append(x.sum(dim=1))
        return torch.cat(sums, dim=1)


class XDeepFM(ClickModel):
    """LR + CIN + DNN. Source: Lian et al., KDD 2018."""

    def __init__(
        self,
        sizes: Sequence[int],
        dim: int = 16,
        maps: Sequence[int] = (32, 32, 32),
        hidden: Sequence[int] = HIDDEN,
        schema: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(sizes, dim, schema)
        self.linear = LinearTerm(sizes)
        self.cin = CIN(len(sizes), maps)
        self.head = nn.Linear(sum(maps), 1)
        self.mlp = mlp(len(sizes) * dim, hidden)

    def logit(self, x: Tensor, ids: Tensor) -> Tensor:
        return self.linear(ids) + (self.head(self.cin(x)) + self.mlp(x.flatten(1))).squeeze(1)
