r"""Second-order pooling: covariances, their matrix powers, and symmetric matrices stored as triangles.

    x  (B, N, d)   ->  covariance            P = 1/N (x - mean)^T (x - mean)          (B, d, d)
    q, r           ->  cross_covariance      X = 1/N (q - mean)^T (r - mean)          (B, m, n)
    P              ->  newton_schulz_sqrt    P^1/2 by matrix products alone           (B, d, d)
    P              ->  symmetric_power       U L^a U^T, exact                         (B, d, d)
    X              ->  singular_power        U S^a V^T, exact                         (B, m, n)
    P              ->  UpperTriangle         d(d+1)/2 values of each matrix

Under autocast all of them compute in float32: squares of activations leave the range of half precision.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn

Center = Literal["channel", "matrix"]
F = TypeVar("F", bound=Callable[..., Tensor])

LEAST_TRACE = 1e-12
"""Traces are clamped here before their square root is taken: at 0 its gradient is infinite."""


def full_precision(function: F) -> F:
    """Run a function of tensors outside autocast, with half-precision arguments widened to float32."""

    @functools.wraps(function)
    def widened(*tensors: Any, **options: Any) -> Tensor:
        half = torch.float16, torch.bfloat16
        wide = [x.float() if isinstance(x, Tensor) and x.dtype in half else x for x in tensors]
        with torch.autocast(wide[0].device.type, enabled=False):
            return function(*wide, **options)

    return widened  # pyright: ignore[reportReturnType]


# -- covariances --------------------------------------------------------------------------------


@full_precision
def cross_covariance(q: Tensor, r: Tensor, mask: Tensor | None = None, *, center: Center = "channel") -> Tensor:
    r"""Biased cross-covariance over observations, without a centring matrix: O(N m n).

    .. math:: X = \frac{1}{N} (q - \bar q)^\top (r - \bar r)

    Args:
        q: (..., N, m), N observations of m variables.
        r: (..., N, n).
        mask: (..., N), true for the observations that count; default: all.
        center: what is subtracted: "channel": the mean of each variable; "matrix": one number, the mean over
            observations and variables.

    Returns:
        (..., m, n).

    Example:
        >>> x = torch.tensor([[1.0, 0.0], [3.0, 4.0]])
        >>> cross_covariance(x, x)
        tensor([[1., 2.],
                [2., 4.]])
    """
    q, count = _centred(q, mask, center)
    r, _ = _centred(r, mask, center)
    return q.mT @ r / count


@full_precision
def covariance(x: Tensor, mask: Tensor | None = None) -> Tensor:
    """Biased covariance over observations: (..., N, d) -> (..., d, d), symmetric. See `cross_covariance`.

    Without a mask the backward pass is one matrix product: the gradient of centred observations is centred.
    """
    if mask is None:
        return _Covariance.apply(x)
    x, count = _centred(x, mask, "channel")
    return x.mT @ x / count


class _Covariance(torch.autograd.Function):
    """dX = 1/N (X - mean) (G + G^T)."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        x = x - x.mean(-2, keepdim=True)
        return x.mT @ x / x.shape[-2]

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (x,), (g,) = ctx.saved_tensors, gradients
        return (x - x.mean(-2, keepdim=True)) @ ((g + g.mT) / x.shape[-2])


def _centred(x: Tensor, mask: Tensor | None, center: Center) -> tuple[Tensor, Tensor | int]:
    """Observations (..., N, d) minus their mean, 0 where masked, and how many they are: (..., 1, 1) or a number."""
    axes = (-2,) if center == "channel" else (-2, -1)
    if mask is None:
        return x - x.mean(axes, keepdim=True), x.shape[-2]
    weight = mask.to(x.dtype).unsqueeze(-1)  # (..., N, 1)
    count = weight.sum(-2, keepdim=True).clamp_min(1)  # (..., 1, 1)
    summed = 1 if center == "channel" else x.shape[-1]
    return (x - (x * weight).sum(axes, keepdim=True) / (count * summed)) * weight, count


# -- powers -------------------------------------------------------------------------------------


@full_precision
def newton_schulz_sqrt(p: Tensor, iterations: int = 3, eps: float = 1e-5) -> Tensor:
    r"""Approximate square root of positive semi-definite matrices by coupled Newton-Schulz iterations.

    The matrix is divided by its trace, so that the iteration converges, and the root multiplied by its square root:

    .. math:: A = P / (\mathrm{tr} P + \epsilon), \; Y_0 = A, \; Z_0 = I; \quad
              Q_k = \tfrac12 (3 I - Z_k Y_k), \; Y_{k+1} = Y_k Q_k, \; Z_{k+1} = Q_k Z_k; \quad
              P^{1/2} \approx \sqrt{\mathrm{tr} P} \; Y_K

    Small eigenvalues converge last; after 3 to 5 iterations they are still flattened, which serves as shrinkage.
    Source: "Towards Faster Training of Global Covariance Pooling Networks by Iterative Matrix Square Root
    Normalization" (Li et al., CVPR 2018), section 3.

    Args:
        p: (..., d, d), symmetric. A matrix of zeros gives zeros, with finite gradients.
        iterations: K, at least 1.
        eps: added to the trace that the matrix is divided by.

    Returns:
        (..., d, d).

    Example:
        >>> newton_schulz_sqrt(torch.diag(torch.tensor([1.0, 4.0])), iterations=12, eps=0.0).diagonal()
        tensor([1.0000, 2.0000])
    """
    if iterations < 1:
        raise ValueError(f"iterations is {iterations}, at least 1 is needed")
    trace = p.diagonal(dim1=-2, dim2=-1).sum(-1)[..., None, None]
    identity = torch.eye(p.shape[-1], dtype=p.dtype, device=p.device)
    a = p / (trace + eps)
    z = 0.5 * (3 * identity - a)  # step 1, where Z = I
    y = a @ z
    for step in range(1, iterations):
        q = 0.5 * (3 * identity - z @ y)
        y = y @ q
        if step + 1 < iterations:
            z = q @ z
    return trace.clamp_min(LEAST_TRACE).sqrt() * y


@full_precision
def symmetric_power(p: Tensor, alpha: float = 0.5, eps: float = 1e-12) -> Tensor:
    r"""Exact power of symmetric positive semi-definite matrices: :math:`U \Lambda^\alpha U^\top`.

    The gradient uses divided differences of :math:`\lambda^\alpha` (Daletskii-Krein), which stay finite where
    eigenvalues coincide; that of `torch.linalg.eigh` does not.

    Args:
        p: (..., d, d), symmetric.
        alpha: exponent.
        eps: smaller eigenvalues count as `eps`: below 1, powers have an infinite slope at 0.
    """
    return _SymmetricPower.apply(p, alpha, eps)


@full_precision
def singular_power(x: Tensor, alpha: float = 0.5, eps: float = 1e-12) -> Tensor:
    r"""Exact power of the singular values of any matrices: :math:`U S^\alpha V^\top`.

    The gradient uses divided differences of :math:`s^\alpha`, as in `symmetric_power`: it stays finite where singular
    values coincide, unlike that of `torch.linalg.svd`.

    Args:
        x: (..., m, n).
        alpha: exponent.
        eps: smaller singular values count as `eps`.

    Example:
        >>> singular_power(torch.diag(torch.tensor([4.0, -9.0])))
        tensor([[ 2.,  0.],
                [ 0., -3.]])
    """
    return _SingularPower.apply(x, alpha, eps)


def _divided_differences(values: Tensor, alpha: float) -> Tensor:
    """(f(a) - f(b)) / (a - b) of f(a) = a^alpha for all pairs; the slope where a and b are nearly the same."""
    a, b = values.unsqueeze(-1), values.unsqueeze(-2)
    near = (a - b).abs() <= 1e-3 * torch.maximum(a, b)  # there the slope in the middle is exact to second order
    difference = torch.where(near, torch.ones_like(a - b), a - b)
    return torch.where(near, alpha * ((a + b) / 2) ** (alpha - 1), (a**alpha - b**alpha) / difference)


class _SymmetricPower(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, p: Tensor, alpha: float, eps: float) -> Tensor:
        values, u = torch.linalg.eigh(p)
        values = values.clamp_min(eps)
        ctx.save_for_backward(values, u)
        ctx.alpha = alpha
        return (u * (values**alpha).unsqueeze(-2)) @ u.mT

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        values, u = ctx.saved_tensors
        inner = _divided_differences(values, ctx.alpha) * (u.mT @ gradients[0] @ u)
        return u @ inner @ u.mT, None, None


class _SingularPower(torch.autograd.Function):
    r"""With P = U^T dX V: dF = U (G- * sym(P) + G+ * skew(P)) V^T + terms of dX outside the ranges of U and V.

    G- holds (f(a) - f(b)) / (a - b), G+ holds (f(a) + f(b)) / (a + b); the map dX -> dF is self-adjoint.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, alpha: float, eps: float) -> Tensor:
        u, s, vh = torch.linalg.svd(x, full_matrices=False)
        s = s.clamp_min(eps)
        ctx.save_for_backward(u, s, vh)
        ctx.alpha = alpha
        return (u * (s**alpha).unsqueeze(-2)) @ vh

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (u, s, vh), (g,), alpha = ctx.saved_tensors, gradients, ctx.alpha
        powers = s**alpha
        inside = u.mT @ g @ vh.mT  # (..., k, k), k = min(m, n)
        plus = (powers.unsqueeze(-1) + powers.unsqueeze(-2)) / (s.unsqueeze(-1) + s.unsqueeze(-2))
        minus = _divided_differences(s, alpha)
        inner = minus * (inside + inside.mT) / 2 + plus * (inside - inside.mT) / 2
        result = u @ inner @ vh
        slope = powers / s
        if u.shape[-2] > vh.shape[-1]:  # rows outside the range of U
            right = g @ vh.mT
            result = result + ((right - u @ inside) * slope.unsqueeze(-2)) @ vh
        elif u.shape[-2] < vh.shape[-1]:  # columns outside the range of V
            left = u.mT @ g
            result = result + (u * slope.unsqueeze(-2)) @ (left - inside @ vh)
        return result, None, None


# -- storage ------------------------------------------------------------------------------------


class UpperTriangle(nn.Module):
    """Symmetric matrices as vectors: the upper triangle with the diagonal, row by row.

    Args:
        size: d.

    Shape:
        (..., d, d) -> (..., d(d+1)/2).

    Example:
        >>> triangle = UpperTriangle(2)
        >>> triangle(torch.tensor([[1.0, 2.0], [2.0, 3.0]])), triangle.matrix(torch.tensor([1.0, 2.0, 3.0]))
        (tensor([1., 2., 3.]), tensor([[1., 2.],
                [2., 3.]]))
    """

    index: Tensor
    place: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size
        rows, columns = torch.triu_indices(size, size)
        place = torch.zeros(size, size, dtype=torch.long)
        place[rows, columns] = place[columns, rows] = torch.arange(len(rows))
        self.register_buffer("index", rows * size + columns, persistent=False)
        self.register_buffer("place", place.flatten(), persistent=False)

    @property
    def length(self) -> int:
        """d(d+1)/2."""
        return self.size * (self.size + 1) // 2

    def forward(self, x: Tensor) -> Tensor:
        """(..., d, d) -> (..., d(d+1)/2)."""
        return x.flatten(-2).index_select(-1, self.index)

    def matrix(self, values: Tensor) -> Tensor:
        """(..., d(d+1)/2) -> the symmetric matrices (..., d, d)."""
        return values.index_select(-1, self.place).unflatten(-1, (self.size, self.size))

    def extra_repr(self) -> str:
        return f"{self.size}"
