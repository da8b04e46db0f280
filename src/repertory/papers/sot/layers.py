r"""What SoT adds to a transformer: pooling of the word tokens by second-order statistics, and heads that use it.

    word tokens Z  ->  MGCrP: heads of X = 1/N q^T r, each normalised by svPN  ->  visual_fc  \
                                                                                               + -> logits
    class token    ->  cls_fc                                                                 /
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from timm.layers import trunc_normal_
from torch import Tensor, nn
from torch.nn import functional as F

from repertory.core.problem import Problem
from repertory.nn.second_order import (
    Center,
    UpperTriangle,
    covariance,
    cross_covariance,
    full_precision,
    newton_schulz_sqrt,
    singular_power,
)

Fusion = Literal["sum_fc", "concat", "aggre_all", "sum_loss", "words", "cls", "fc"]
Pooling = Literal["mgcrp", "gap", "gcp"]
Normalization = Literal["svpn", "exact", "epn", "sqrt_d", "sqrt_t", "ln", "none"]

FUSIONS: dict[Fusion, str] = {
    "sum_fc": "cls_fc(class token) + visual_fc(pooled words)",
    "concat": "visual_fc([class token; pooled words])",
    "aggre_all": "visual_fc(pooled tokens, the class token among them)",
    "sum_loss": "two logits, whose losses are added in training; their sum in evaluation",
    "words": "visual_fc(pooled words)",
    "cls": "cls_fc(class token)",
    "fc": "cls_fc(Linear(class token)), as wide as MobileNetV3's last layer",
}
"""How class token and word tokens become logits."""

SINGULAR_EPS = 1e-5
"""Added to the singular value that the residual is divided by."""
LEAST_SINGULAR = 1e-12
FC_WIDTH = 1280
MOST_FEATURES = 1 << 22
"""Pooling into more features than this is refused: a classifier of 1000 classes would have 4 billion weights."""


# -- normalisation ------------------------------------------------------------------------------


@full_precision
def fast_singular_power(
    x: Tensor, start: Tensor, alpha: float = 0.5, iterations: int = 1, vectors: int | None = 1
) -> Tensor:
    r"""Power of singular values, where only the largest ones are computed, by power iterations (svPN).

    .. math:: Y = \sum_{i \le k} s_i^\alpha u_i v_i^\top
                  + \frac{X - \sum_{i \le k} s_i u_i v_i^\top}{s_k^{1 - \alpha} + \epsilon}

    Args:
        x: (..., m, n).
        start: (n,), first vector of every power iteration.
        alpha: exponent.
        iterations: T, power iterations for each singular vector; at least 1.
        vectors: k; None: all of them, and no residual.

    Returns:
        (..., m, n).
    """
    rest, components = x, []
    for _ in range(min(x.shape[-2:]) if vectors is None else vectors):
        if components:
            s, u, v = components[-1]
            rest = rest - s * u @ v.mT
        components.append(_leading(rest, start, iterations))
    # The residual is never formed: its components are subtracted from those of the sum.
    last, *_ = components[-1]
    scale = 0.0 if vectors is None else 1 / (last ** (1 - alpha) + SINGULAR_EPS)
    y = scale * x
    for s, u, v in components:
        y = y + ((s**alpha - scale * s) * u) @ v.mT
    return y


def _leading(x: Tensor, start: Tensor, iterations: int) -> tuple[Tensor, Tensor, Tensor]:
    """Largest singular value (..., 1, 1) with its vectors u (..., m, 1) and v (..., n, 1), by power iterations."""
    u = F.normalize(x @ start.to(x.dtype).unsqueeze(-1), dim=-2)
    xu = x.mT @ u
    for _ in range(iterations - 1):
        u = F.normalize(x @ F.normalize(xu, dim=-2), dim=-2)
        xu = x.mT @ u
    # s = u^T X v = |X^T u|, since v has the direction of X^T u.
    s = torch.linalg.vector_norm(xu, dim=-2, keepdim=True)
    return s.clamp_min(LEAST_SINGULAR), u, F.normalize(xu, dim=-2)


class SVPN(nn.Module):
    """Singular-value power normalisation: `fast_singular_power` with one start vector for all samples and heads.

    Args:
        size: n, columns of the matrices.
        alpha: exponent.
        iterations: power iterations for each singular vector.
        vectors: singular vectors computed; None: all.
        learned: the start vector is a parameter; False: the vector of ones.

    Shape:
        (..., m, n) -> (..., m, n).
    """

    def __init__(
        self, size: int, alpha: float = 0.5, iterations: int = 1, vectors: int | None = 1, learned: bool = True
    ) -> None:
        super().__init__()
        self.alpha, self.iterations, self.vectors = alpha, iterations, vectors
        if iterations < 1 or (vectors is not None and vectors < 1):
            raise Problem(f"{iterations} iterations for {vectors} singular vectors", "svPN", "give at least 1 of each")
        if learned:
            self.weight = nn.Parameter(torch.randn(size))
        else:
            self.register_buffer("weight", torch.ones(size), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return fast_singular_power(x, self.weight, self.alpha, self.iterations, self.vectors)

    def extra_repr(self) -> str:
        return f"{len(self.weight)}, alpha={self.alpha}, iterations={self.iterations}, vectors={self.vectors}"


class ExactSVPN(nn.Module):
    """`singular_power`: U S^alpha V^T by a singular value decomposition."""

    def __init__(self, alpha: float = 0.5) -> None:
        super().__init__()
        self.alpha = alpha

    def forward(self, x: Tensor) -> Tensor:
        """(..., m, n) -> (..., m, n)."""
        return singular_power(x, self.alpha)


class ElementwisePower(nn.Module):
    """Signed square root of each entry, then unit length of each column."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., m, n) -> (..., m, n)."""
        return F.normalize(x.sign() * (x.abs() + 1e-8).sqrt(), dim=-2)


class Scale(nn.Module):
    """Multiplication by one number, fixed or learned."""

    def __init__(self, value: float, learned: bool) -> None:
        super().__init__()
        self.factor: Tensor
        if learned:
            self.factor = nn.Parameter(torch.tensor(value))
        else:
            self.register_buffer("factor", torch.tensor(value), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Any shape -> same shape."""
        return x * self.factor


def normalization_layer(kind: Normalization, size: int, **svpn: Any) -> nn.Module:
    """The normalisation of cross-covariance matrices (..., m, n).

    Args:
        kind: "svpn" (the paper's), "exact" (the same by SVD), "epn" (elementwise), "sqrt_d" (n^-1/2), "sqrt_t" (the
            same factor, learned), "ln" (LayerNorm over n), "none".
        size: n.
        svpn: arguments of `SVPN`.

    Raises:
        Problem: unknown kind.
    """
    match kind:
        case "svpn":
            return SVPN(size, **svpn)
        case "exact":
            return ExactSVPN(svpn.get("alpha", 0.5))
        case "epn":
            return ElementwisePower()
        case "sqrt_d" | "sqrt_t":
            return Scale(size**-0.5, learned=kind == "sqrt_t")
        case "ln":
            return nn.LayerNorm(size)
        case "none":
            return nn.Identity()
        case _:
            raise Problem(
                f"unknown normalisation {kind!r}", "MGCrP", "choose from svpn, exact, epn, sqrt_d, sqrt_t, ln, none"
            )


# -- poolings -----------------------------------------------------------------------------------


class MGCrP(nn.Module):
    r"""Multi-headed global cross-covariance pooling.

    .. math:: [Q_1, \dots, Q_h, R_1, \dots, R_h] = Z W, \quad
              X_i = \tfrac1N (Q_i - \bar q_i)^\top (R_i - \bar r_i), \quad
              y = [\mathrm{norm}(X_1), \dots, \mathrm{norm}(X_h)]

    Args:
        dim: C, channels of a token.
        heads: h.
        w_dim: rows of a head's matrix.
        r_dim: columns of it; None: as many as rows.
        bias: of the projection.
        norm: see `normalization_layer`.
        center: "matrix": subtract one number from the projections of a head, the mean over tokens and channels, as
            the authors' code does; "channel": the mean of each channel, as in a covariance.
        svpn: arguments of `SVPN`.

    Shape:
        tokens (B, N, C), mask (B, N) -> (B, h w_dim r_dim).

    Raises:
        Problem: more features than fit, see `MOST_FEATURES`; in `forward`, fewer than 2 tokens.

    Example:
        >>> MGCrP(240, heads=6, w_dim=14)(torch.zeros(2, 49, 240)).shape
        torch.Size([2, 1176])
    """

    def __init__(
        self,
        dim: int,
        heads: int = 6,
        w_dim: int = 14,
        r_dim: int | None = None,
        bias: bool = False,
        norm: Normalization = "svpn",
        center: Center = "matrix",
        **svpn: Any,
    ) -> None:
        super().__init__()
        r_dim = w_dim if r_dim is None else r_dim
        self.heads, self.sizes = heads, (heads * w_dim, heads * r_dim)
        self.center: Center = center
        self.features = heads * w_dim * r_dim
        if self.features > MOST_FEATURES:
            raise Problem(
                f"{heads} heads of {w_dim} x {r_dim} pool into {self.features:,} features",
                "MGCrP",
                f"reduce heads, w_dim or r_dim: at most {MOST_FEATURES:,}",
            )
        self.wr = nn.Linear(dim, sum(self.sizes), bias=bias)
        self.norm = normalization_layer(norm, r_dim, **svpn)

    def covariances(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """The matrices before normalisation: (B, N, C) -> (B, h, w_dim, r_dim)."""
        if tokens.shape[1] < 2:
            raise Problem(f"{tokens.shape[1]} word tokens have no covariance", "MGCrP", "give 2 or more")
        q, r = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self.wr(tokens).split(self.sizes, -1))
        return cross_covariance(q, r, None if mask is None else mask.unsqueeze(1), center=self.center)

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        return self.norm(self.covariances(tokens, mask)).flatten(1)


class GAP(nn.Module):
    """Mean of the tokens: (B, N, C) -> (B, C)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.features = dim

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        if mask is None:
            return tokens.mean(1)
        weight = mask.to(tokens.dtype).unsqueeze(-1)
        return (tokens * weight).sum(1) / weight.sum(1).clamp_min(1)


class GCP(nn.Module):
    """Global covariance pooling: covariance of projected tokens, its Newton-Schulz root, the upper triangle.

    Args:
        dim: C, channels of a token.
        width: channels of the projection.
        iterations: of Newton and Schulz.

    Shape:
        tokens (B, N, C), mask (B, N) -> (B, width (width + 1) / 2).
    """

    def __init__(self, dim: int, width: int, iterations: int = 3) -> None:
        super().__init__()
        self.iterations = iterations
        self.proj = nn.Linear(dim, width)
        self.triangle = UpperTriangle(width)
        self.features = self.triangle.length

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        return self.triangle(newton_schulz_sqrt(covariance(self.proj(tokens), mask), self.iterations))


# -- heads --------------------------------------------------------------------------------------


class TokenHead(nn.Module):
    """Class token and word tokens -> logits.

    Args:
        dim: C, channels of a token.
        num_classes: K.
        fusion: see `FUSIONS`.
        pooling: of the word tokens: "mgcrp" (the paper's), "gap" (mean), "gcp" (covariance of about as many features).
        drop: dropout of the pooled words. Published: none for SoT-Tiny, 0.5 for Small, 0.7 for Base.
        prefix_tokens: tokens before the words: the first one is the class token, others (registers, DeiT's
            distillation token) are not used. 0: the backbone has none.
        heads, w_dim, r_dim: of `MGCrP`; "gcp" takes its size from them.
        mgcrp: further arguments of `MGCrP`.

    Shape:
        tokens (B, prefix_tokens + N, C) -> (B, K). With fusion "sum_loss", in training: two of these.

    Raises:
        Problem: unknown fusion or pooling, or a fusion with the class token where there is none.

    Example:
        >>> TokenHead(240, 10, heads=6, w_dim=14)(torch.zeros(2, 50, 240)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self,
        dim: int,
        num_classes: int,
        fusion: Fusion = "sum_fc",
        pooling: Pooling = "mgcrp",
        drop: float = 0.0,
        prefix_tokens: int = 1,
        heads: int = 6,
        w_dim: int = 14,
        r_dim: int | None = None,
        **mgcrp: Any,
    ) -> None:
        super().__init__()
        _check_head(fusion, pooling, prefix_tokens)
        self.fusion, self.prefix_tokens = fusion, prefix_tokens
        if fusion not in ("cls", "fc"):
            features = heads * w_dim * (r_dim or w_dim)
            match pooling:
                case "mgcrp":
                    self.representation = MGCrP(dim, heads, w_dim, r_dim, **mgcrp)
                case "gap":
                    self.representation = GAP(dim)
                case "gcp":
                    self.representation = GCP(dim, math.isqrt(2 * features))
            self.drop = nn.Dropout(drop)
            joined = dim if fusion == "concat" else 0
            self.visual_fc = nn.Linear(joined + self.representation.features, num_classes)
        if fusion == "fc":
            self.fc = nn.Linear(dim, FC_WIDTH)
        if fusion != "words":  # as in the authors' code, also where the fusion does not use it
            self.cls_fc = nn.Linear(FC_WIDTH if fusion == "fc" else dim, num_classes)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Truncated normal weights and zero biases; the start vector of svPN is standard normal."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, SVPN) and isinstance(module.weight, nn.Parameter):
                nn.init.normal_(module.weight)

    def branches(
        self, tokens: Tensor, mask: Tensor | None = None, cls: Tensor | None = None
    ) -> tuple[Tensor | None, Tensor | None]:
        """Logits of the class token and of the words, whose sum is the output; None where a branch is absent.

        Args:
            tokens: (B, prefix_tokens + N, C).
            mask: (B, prefix_tokens + N), false at padding.
            cls: (B, C), what stands for the class token (BERT's pooler); default: the first token.
        """
        if tokens.ndim != 3:
            raise Problem(
                f"tokens of shape {tuple(tokens.shape)}",
                "TokenHead",
                "give (B, N, C): flatten maps, tokens.flatten(1, 2)",
            )
        first = tokens[:, 0] if cls is None else cls
        if self.fusion in ("cls", "fc"):
            return self.cls_fc(self.fc(first) if self.fusion == "fc" else first), None
        skipped = 0 if self.fusion == "aggre_all" else self.prefix_tokens
        words = self.representation(tokens[:, skipped:], None if mask is None else mask[:, skipped:])
        if self.fusion == "concat":
            return None, self.visual_fc(torch.cat([first, self.drop(words)], 1))
        by_words = self.visual_fc(self.drop(words))
        return (self.cls_fc(first) if self.fusion in ("sum_fc", "sum_loss") else None), by_words

    def forward(
        self, tokens: Tensor, mask: Tensor | None = None, cls: Tensor | None = None
    ) -> Tensor | tuple[Tensor, Tensor]:
        by_class, by_words = self.branches(tokens, mask, cls)
        if by_class is None or by_words is None:
            logits = by_words if by_class is None else by_class
            assert logits is not None
            return logits
        return (by_class, by_words) if self.fusion == "sum_loss" and self.training else by_class + by_words


def _check_head(fusion: str, pooling: str, prefix_tokens: int) -> None:
    if fusion not in FUSIONS:
        raise Problem(f"unknown fusion {fusion!r}", "TokenHead", f"choose from {', '.join(FUSIONS)}")
    if pooling not in ("mgcrp", "gap", "gcp"):
        raise Problem(f"unknown pooling {pooling!r}", "TokenHead", "choose from mgcrp, gap, gcp")
    if not prefix_tokens and fusion not in ("words", "aggre_all"):
        raise Problem(
            f"fusion {fusion!r} needs a class token, which this backbone has not",
            "fusion",
            'use fusion="words" (the arms words and gap)',
        )
