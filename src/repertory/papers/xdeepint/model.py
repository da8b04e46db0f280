"""xDeepInt: one table for all fields, sub-space crossing, the polynomial interaction network, and its output.

B rows of F fields, one embedding of size K per field, h sub-spaces, L layers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from huggingface_hub import PyTorchModelHubMixin
from torch import Tensor, nn

from repertory.core.problem import Problem
from repertory.papers.xdeepint.ftrl import lazy_zeros

ACTIVATIONS: Mapping[str, type[nn.Module]] = {
    "linear": nn.Identity,
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
}


# -- embeddings -----------------------------------------------------------------------------------


class Tables(nn.Module):
    """Embedding tables of all fields, stacked in one; row 0 is the zero vector of values without an id.

    Args:
        sizes: values of each field.
        dim: K.

    Shapes: ids (B, F), 1 … size, where 0, or any number beyond, is a value without an id -> (B, F, K).

    Example:
        >>> tables = Tables([3, 2], dim=4)
        >>> tables(torch.tensor([[3, 0]])).shape, tables.weight.shape
        (torch.Size([1, 2, 4]), torch.Size([6, 4]))
    """

    def __init__(self, sizes: Sequence[int], dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.sparse = False
        """Gradients as sparse tensors; for optimisers that take them."""
        self.sizes: Tensor
        self.offsets: Tensor
        self.register_buffer("sizes", torch.tensor(sizes), persistent=False)
        self.register_buffer("offsets", self.sizes.cumsum(0) - self.sizes, persistent=False)
        self.weight = nn.Parameter(torch.empty(1 + sum(sizes), dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Truncated normal of standard deviation 1 / √K, cut at two of them: TensorFlow's default of its columns."""
        std = 1 / math.sqrt(self.dim)
        nn.init.trunc_normal_(self.weight, std=std, a=-2 * std, b=2 * std)
        with torch.no_grad():
            self.weight[0] = 0

    @torch.no_grad()
    def start(self, ids: Tensor) -> None:
        """Keep the initial values of these ids (B, F) and zero all others.

        Under `GroupFTRL` the initial values of other rows than the first batch's never act; see its `zero_start`.
        """
        rows = self.rows(ids).unique()
        kept = self.weight[rows]
        self.weight.data = lazy_zeros(self.weight)
        self.weight[rows] = kept

    def rows(self, ids: Tensor) -> Tensor:
        """Rows of the table, same shape."""
        return torch.where((ids > 0) & (ids <= self.sizes), ids + self.offsets, 0)

    def forward(self, ids: Tensor) -> Tensor:
        return F.embedding(self.rows(ids), self.weight, padding_idx=0, sparse=self.sparse)

    def extra_repr(self) -> str:
        return f"fields={len(self.sizes)}, rows={len(self.weight)}, dim={self.dim}"


# -- the polynomial interaction network -------------------------------------------------------------


class PIN(nn.Module):
    """Polynomial interaction network: X_l = X_{l-1} ∘ (1 + act(W_l X_0)), so that X_L has terms of degree 1 … L + 1.

    Sub-space crossing cuts every embedding in h pieces and treats each as a field of its own: with h = 1 fields
    interact as vectors, with h = K bit by bit.

    Args:
        fields: F.
        dim: K.
        subspaces: h, a divisor of K.
        layers: L.
        activation: linear (published), relu, tanh or sigmoid.
        dropout: on the input of every W_l.
        residual: published; False: X_l = X_{l-1} ∘ act(W_l X_0), and all of X_0 … X_L are stacked. With h > 1 the
            pieces that are then put together again mix layers and sub-spaces, as in the released code.

    Shapes: (B, F, K) -> (B, rows, K), where rows is F, or (L + 1) F without residuals.

    Example:
        >>> PIN(fields=5, dim=8, subspaces=2, layers=3)(torch.randn(4, 5, 8)).shape
        torch.Size([4, 5, 8])
    """

    def __init__(
        self,
        fields: int,
        dim: int,
        subspaces: int = 1,
        layers: int = 3,
        activation: str = "linear",
        dropout: float = 0.0,
        residual: bool = True,
    ) -> None:
        super().__init__()
        self.dim, self.subspaces, self.residual = dim, subspaces, residual
        self.rows = fields if residual else (layers + 1) * fields
        width = subspaces * fields
        self.weights = nn.ModuleList(nn.Linear(width, width, bias=False) for _ in range(layers))
        self.act = _activation(activation)
        self.dropout = nn.Dropout(dropout)
        if fields < 1 or layers < 1 or subspaces < 1 or dim % subspaces:
            divisors = ", ".join(str(h) for h in range(1, dim + 1) if dim % h == 0)
            raise Problem(
                f"{fields} fields, {layers} layers, and {subspaces} sub-spaces of an embedding of size {dim}",
                "PIN",
                f"fields and layers: 1 or more; sub-spaces: a divisor of {dim} ({divisors})",
            )
        self.reset_parameters()

    @property
    def matrices(self) -> list[Tensor]:
        """W_1 … W_L, (hF, hF) each: what a row gets, by what a row gives."""
        return [layer.weight for layer in self.weights]  # pyright: ignore[reportReturnType]

    @property
    def macs(self) -> int:
        """Multiply-accumulates of a row: L h F² K."""
        return sum(weight.numel() * self.dim // self.subspaces for weight in self.matrices)

    def reset_parameters(self) -> None:
        """Glorot uniform."""
        for weight in self.matrices:
            nn.init.xavier_uniform_(weight)

    def forward(self, x: Tensor) -> Tensor:
        x0 = split(x, self.subspaces)  # (B, K/h, hF): rows stand last, so that each W_l is one matrix product
        kept = [x := x0]
        for weight in self.weights:
            g = self.act(weight(self.dropout(x0)))
            kept.append(x := x * (1 + g if self.residual else g))
        return merge(x if self.residual else torch.cat(kept, dim=2), self.subspaces)

    def extra_repr(self) -> str:
        return f"subspaces={self.subspaces}, residual={self.residual}"


def split(x: Tensor, subspaces: int) -> Tensor:
    """Cut embeddings in h pieces and stack these as rows, sub-space by sub-space: (B, F, K) -> (B, K/h, hF)."""
    return x.unflatten(2, (subspaces, -1)).permute(0, 3, 2, 1).flatten(2)


def merge(x: Tensor, subspaces: int) -> Tensor:
    """Undo `split`: (B, K/h, hF) -> (B, F, K)."""
    return x.unflatten(2, (subspaces, -1)).permute(0, 3, 2, 1).flatten(2)


def _activation(name: str) -> nn.Module:
    if name not in ACTIVATIONS:
        raise Problem(f"no activation is called {name!r}", "PIN", f"choose from {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]()


class Head(NamedTuple):
    """One head of `MultiHeadPIN`."""

    layers: int = 3
    subspaces: int = 1
    activation: str = "linear"


class MultiHeadPIN(nn.Module):
    """Independent PINs on parts of projected embeddings; in the released code, and unused by its experiment.

    Args:
        fields: F.
        dim: K.
        hidden: size that embeddings are projected to, without a bias; a multiple of the number of heads.
        heads: layers, sub-spaces and activation of each.
        dropout, residual: as of `PIN`.

    Shapes: (B, F, K) -> (B, heads · rows, hidden / heads).

    Example:
        >>> block = MultiHeadPIN(fields=5, dim=8, hidden=12, heads=[Head(2, 1), Head(3, 2, "relu"), Head()])
        >>> block(torch.randn(4, 5, 8)).shape
        torch.Size([4, 15, 4])
    """

    def __init__(
        self,
        fields: int,
        dim: int,
        hidden: int,
        heads: Sequence[Head],
        dropout: float = 0.0,
        residual: bool = True,
    ) -> None:
        super().__init__()
        if not heads or hidden % len(heads):
            raise Problem(f"{len(heads)} heads for a width of {hidden}", "MultiHeadPIN", "give heads that divide it")
        self.project = nn.Linear(dim, hidden, bias=False)
        width = hidden // len(heads)
        self.heads = nn.ModuleList(
            PIN(fields, width, head.subspaces, head.layers, head.activation, dropout, residual) for head in heads
        )
        self.rows = sum(head.rows for head in self.heads)  # pyright: ignore[reportArgumentType, reportCallIssue]
        nn.init.xavier_uniform_(self.project.weight)

    def forward(self, x: Tensor) -> Tensor:
        parts = self.project(x).chunk(len(self.heads), dim=2)
        return torch.cat([head(part) for head, part in zip(self.heads, parts, strict=True)], dim=1)


class Output(nn.Module):
    """One linear map over fields, the same for all K positions of the embedding, summed over these.

    logit = Σ_k (Σ_f w_f X[f, k] + b): the bias enters K times. Shapes: (B, F, K) -> (B, 1).
    """

    def __init__(self, rows: int) -> None:
        super().__init__()
        self.linear = nn.Linear(rows, 1)
        nn.init.xavier_uniform_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x.mT).sum(dim=1)


# -- models of clicks -------------------------------------------------------------------------------


class ClickModel(nn.Module, PyTorchModelHubMixin):
    """What xDeepInt and its baselines share: tables, and what a row of a user's file becomes.

    A subclass implements `logit`, embeddings (B, F, K) and ids (B, F) -> (B,).

    Args:
        sizes: values of each field.
        dim: K.
        schema: `repertory.data.clicks.Schema.to_json()` of the training data; with it `predict` reads files.
    """

    def __init__(self, sizes: Sequence[int], dim: int, schema: dict[str, Any] | None = None) -> None:
        super().__init__()
        if not sizes or min(sizes) < 0 or dim < 1:
            raise Problem(f"sizes {list(sizes)[:5]}, dim {dim}", type(self).__name__, "give each field its size")
        self.schema = schema
        self.tables = Tables(sizes, dim)

    @property
    def fields(self) -> int:
        """F."""
        return len(self.tables.sizes)

    def forward(self, ids: Tensor) -> Tensor:
        """Logits (B,) of ids (B, F)."""
        return self.logit(self.tables(ids), ids)

    def logit(self, x: Tensor, ids: Tensor) -> Tensor:
        """Logits (B,) of embeddings (B, F, K)."""
        raise NotImplementedError

    def all_tables(self) -> list[Tables]:
        """Every table of the model."""
        return [module for module in self.modules() if isinstance(module, Tables)]


class XDeepInt(ClickModel):
    """xDeepInt: tables, polynomial interaction network, linear output.

    Args:
        sizes: values of each field.
        dim: K.
        subspaces: h; K (published): bit by bit, 1: vector by vector.
        layers: L.
        activation, dropout, residual: of `PIN`.
        hidden: width of the multi-head block; 0 (published): a single PIN.
        heads: (layers, subspaces, activation) of each head of that block.
        schema: of `ClickModel`.

    Source: Yan and Li, "xDeepInt", DLP-KDD 2020 (arXiv 2301.01089), and its released code.

    Example:
        >>> model = XDeepInt(sizes=[100, 50, 64], dim=16, subspaces=16, layers=4)
        >>> model(torch.tensor([[1, 50, 3], [7, 0, 64]])).shape
        torch.Size([2])
    """

    def __init__(
        self,
        sizes: Sequence[int],
        dim: int = 16,
        subspaces: int = 16,
        layers: int = 4,
        activation: str = "linear",
        dropout: float = 0.0,
        residual: bool = True,
        hidden: int = 0,
        heads: Sequence[Sequence[Any]] = (),
        schema: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(sizes, dim, schema)
        fields = len(sizes)
        self.interaction = (
            MultiHeadPIN(fields, dim, hidden, [Head(*head) for head in heads], dropout, residual)
            if hidden
            else PIN(fields, dim, subspaces, layers, activation, dropout, residual)
        )
        self.output = Output(self.interaction.rows)

    def logit(self, x: Tensor, ids: Tensor) -> Tensor:
        return self.output(self.interaction(x)).squeeze(1)

    def pins(self) -> list[PIN]:
        """The single PIN, or one of each head."""
        return [module for module in self.modules() if isinstance(module, PIN)]

    def macs(self) -> int:
        """Multiply-accumulates of a row, without look-ups: of a single PIN L h F² K + F K."""
        pins = self.pins()
        project = sum(self.tables.dim * pin.dim for pin in pins) * self.fields if len(pins) > 1 else 0
        return project + sum(pin.macs + pin.rows * pin.dim for pin in pins)

    @torch.no_grad()
    def interactions(self) -> Tensor:
        """Strength with which the fields interact, (F, F): |W_l|, mean over sub-spaces and layers.

        Entry (i, j): field j's share in the factor of field i.
        """
        maps = [
            weight.abs().unflatten(0, (pin.subspaces, -1)).unflatten(2, (pin.subspaces, -1)).mean(dim=(0, 2))
            for pin in self.pins()
            for weight in pin.matrices
        ]
        return torch.stack(maps).mean(dim=0)
