"""Attention as a conditional mean: CME attention, softmax attention, and the read-outs they are compared with.

Zhang et al., arXiv 2212.14852. A sequence has keys k (L, d), values v (L, m) and queries q (Q, d); every module maps
(q, k, v) to read-outs (Q, m). Leading dimensions are batches, the last of them the heads where there are several.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping

import torch
from huggingface_hub import PyTorchModelHubMixin
from scipy.special import ive
from torch import Tensor, nn
from torch.nn import functional as F

from repertory.core.arguments import check_choice, check_whole
from repertory.core.problem import Problem
from repertory.papers.latent_attention.settings import Kernel

SMALL_RIDGE = 1e-6
"""Below it, float32 does not resolve the ridge beside the Gram matrix."""
SPHERE = 1e-4
"""Largest deviation of a norm from 1 that counts as rounding."""


# -- kernels ----------------------------------------------------------------------------------------


def linear(x: Tensor, y: Tensor, kappa: Tensor | float) -> Tensor:
    """xᵀy; (..., Q, d), (..., L, d) -> (..., Q, L)."""
    return x @ y.mT


def exponential(x: Tensor, y: Tensor, kappa: Tensor | float) -> Tensor:
    """exp(κ (xᵀy − 1)); (..., Q, d), (..., L, d) -> (..., Q, L)."""
    return (kappa * (x @ y.mT - 1)).exp()


def rbf(x: Tensor, y: Tensor, kappa: Tensor | float) -> Tensor:
    """exp(−κ ‖x − y‖² / 2), which on the unit sphere is `exponential`; (..., Q, d), (..., L, d) -> (..., Q, L)."""
    squared = x.square().sum(-1)[..., :, None] + y.square().sum(-1)[..., None, :] - 2 * x @ y.mT
    return (-kappa / 2 * squared.clamp_min(0)).exp()


KERNELS: Mapping[str, Callable[[Tensor, Tensor, Tensor | float], Tensor]] = {
    "linear": linear,
    "exponential": exponential,
    "rbf": rbf,
}


def positive_features(x: Tensor, directions: Tensor, kappa: Tensor | float) -> Tensor:
    """Positive random features φ of the exponential kernel: E φ(x)ᵀφ(y) = exp(κ (xᵀy − 1)).

    φ_j(x) = exp(√κ w_jᵀx − κ (‖x‖² + 1) / 2) / √p with w_j ~ N(0, I).

    Args:
        x: (..., L, d).
        directions: w (p, d).
        kappa: κ.

    Returns:
        (..., L, p).
    """
    root = kappa**0.5
    exponent = root * (x @ directions.mT) - kappa / 2 * (x.square().sum(-1, keepdim=True) + 1)
    return exponent.exp() / math.sqrt(len(directions))


def resultant_length(d: int, kappa: float) -> float:
    """C = I_{d/2}(κ) / I_{d/2−1}(κ), the mean resultant length of a von Mises-Fisher law on S^{d−1}.

    For keys uniform on the sphere and E[v|k] = Zk, softmax attention tends to C Zq (derived). The Bessel functions are
    taken exponentially scaled, so that large κ do not overflow.

    Example:
        >>> round(resultant_length(4, 2.0), 4)
        0.4331
    """
    check_whole("resultant_length", 2, d=d)
    _positive("resultant_length", kappa=kappa)
    return float(ive(d / 2, kappa) / ive(d / 2 - 1, kappa))


def check_sphere(points: Tensor, what: str = "keys", where: object = "SoftmaxAttention") -> None:
    """Raise `Problem` unless all points (..., d) have norm 1; names the largest deviation."""
    deviation = (points.norm(dim=-1) - 1).abs()
    if points.numel() and not (largest := float(deviation.max())) <= SPHERE:
        raise Problem(
            f"the {what} are not on the unit sphere: a norm differs from 1 by {largest:.3g}",
            where,
            f"divide the {what} by their norms, or do not rescale: the constant C holds on the sphere alone",
        )


# -- attention --------------------------------------------------------------------------------------


class Attention(nn.Module):
    """What all read-outs share: (q, k, v) -> V-weighted sums, with optional learned maps for each head.

    With `learned` there are W_q and W_k (d×d), W_v (m×m), initially the identity, and log κ; else no parameters.

    Args:
        d: dimension of keys and queries.
        m: dimension of values.
        heads: H; with more than one, inputs are (B, H, L, ·), or (B, 1, L, ·) for keys that all heads share.
        kappa: κ = 1 / temperature.
        learned: whether maps and κ are parameters.
    """

    def __init__(self, d: int, m: int, heads: int = 1, kappa: float = 2.0, learned: bool = False) -> None:
        super().__init__()
        self.d, self.m, self.heads, self.learned = d, m, heads, learned
        check_whole(type(self).__name__, d=d, m=m, heads=heads)
        _positive(type(self).__name__, kappa=kappa)
        self._kappa = float(kappa)
        if learned:
            self.W_q, self.W_k = (nn.Parameter(torch.empty(heads, d, d)) for _ in range(2))
            self.W_v = nn.Parameter(torch.empty(heads, m, m))
            self.log_kappa = nn.Parameter(torch.empty(()))
            self.reset_parameters()

    def reset_parameters(self, norm: float = 1.0) -> None:
        """Maps that are the identity, W_q and W_k divided by `norm`, a typical norm of keys; κ as constructed."""
        if self.learned:
            for weight in (self.W_q, self.W_k, self.W_v):
                nn.init.eye_(weight[0])
                weight.data[:] = weight.data[0].clone()
            self.W_q.data /= norm
            self.W_k.data /= norm
            nn.init.constant_(self.log_kappa, math.log(self._kappa))

    @property
    def kappa(self) -> Tensor | float:
        return self.log_kappa.exp() if self.learned else self._kappa

    def project(self, q: Tensor, k: Tensor, v: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor | None]:
        """The mapped q (..., Q, d), k (..., L, d), v (..., L, m)."""
        self._check(q, k, v)
        if not self.learned:
            return q, k, v
        one = self.heads == 1
        maps = [W[0] if one else W for W in (self.W_q, self.W_k, self.W_v)]
        return q @ maps[0].mT, k @ maps[1].mT, None if v is None else v @ maps[2].mT

    def weights(self, q: Tensor, k: Tensor) -> Tensor:
        """What every value is weighted by: (..., Q, d), (..., L, d) -> (..., Q, L)."""
        raise NotImplementedError

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Read-outs (..., Q, m) of q (..., Q, d), k (..., L, d), v (..., L, m)."""
        value = self.project(q, k, v)[2]
        assert value is not None
        return self.weights(q, k) @ value

    def extra_repr(self) -> str:
        return f"d={self.d}, m={self.m}, heads={self.heads}, learned={self.learned}"

    def _check(self, q: Tensor, k: Tensor, v: Tensor | None) -> None:
        fits = q.ndim >= 2 and k.ndim >= 2 and q.shape[-1] == k.shape[-1] == self.d
        fits &= v is None or (v.ndim >= 2 and v.shape[-2:] == (k.shape[-2], self.m))
        fits &= self.heads == 1 or all(x is None or (x.ndim >= 3 and x.shape[-3] in (1, self.heads)) for x in (q, k, v))
        if not fits or not k.shape[-2]:
            shapes = ", ".join(str(tuple(x.shape)) for x in (q, k, v) if x is not None)
            heads = f"{self.heads}, " if self.heads > 1 else ""
            raise Problem(
                f"q, k and v have the shapes {shapes}",
                type(self).__name__,
                f"give (..., {heads}Q, {self.d}), (..., {heads}L, {self.d}), (..., {heads}L, {self.m}), L at least 1",
            )


class CMEAttention(Attention, PyTorchModelHubMixin):
    """Conditional mean embedding: Vᵀ (𝔎(K, K) + λ I)⁻¹ 𝔎(K, q), kernel ridge regression of values on keys.

    The form agrees with summaries of the paper; the paper itself could not be read. A kernel with p < L features is
    solved in the p×p form Vᵀ φ(K) (φ(K)ᵀφ(K) + λ I)⁻¹ φ(q); one Cholesky factor serves all queries, and all heads where
    the keys have one head.

    Args:
        d, m, heads, kappa, learned: as for `Attention`; a learned ridge stays above 1e-6.
        kernel: "linear", "exponential", "rbf", or "features" (positive random features of the exponential kernel).
        ridge: λ, or c of the schedule.
        ridge_schedule: a of λ_L = c L^{1−a}; 1: λ does not depend on L. The normalised ridge λ_L / L is c L^{−a}.
        features: p of "features".

    Raises:
        Problem: ridge ≤ 0 (the Gram matrix of repeated keys is singular), or another argument out of range.

    Example:
        >>> attention = CMEAttention(d=4, m=3, kernel="linear", ridge=0.25)
        >>> attention(torch.rand(8, 1, 4), torch.rand(8, 20, 4), torch.rand(8, 20, 3)).shape
        torch.Size([8, 1, 3])
    """

    directions: Tensor

    def __init__(
        self,
        d: int,
        m: int,
        heads: int = 1,
        kernel: Kernel = "rbf",
        ridge: float = 0.25,
        ridge_schedule: float = 1.0,
        kappa: float = 2.0,
        learned: bool = False,
        features: int = 256,
    ) -> None:
        super().__init__(d, m, heads, kappa, learned)
        self.kernel, self._ridge, self.ridge_schedule = kernel, float(ridge), ridge_schedule
        check_choice("CMEAttention", (*KERNELS, "features"), kernel=kernel)
        _positive("CMEAttention", "the Gram matrix of repeated keys is singular without one", ridge=ridge)
        check_whole("CMEAttention", features=features)
        if learned:
            self.log_ridge = nn.Parameter(torch.tensor(math.log(ridge)))
        if kernel == "features":
            drawn = torch.randn(features, d, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
            self.register_buffer("directions", drawn.float())

    def reset_parameters(self, norm: float = 1.0) -> None:
        super().reset_parameters(norm)
        if self.learned and "log_ridge" in self._parameters:
            nn.init.constant_(self.log_ridge, math.log(self._ridge))

    def ridge(self, length: int) -> Tensor | float:
        """λ of a sequence of L tokens, in the unnormalised form 𝔎(K, K) + λ I."""
        base = self.log_ridge.exp().clamp_min(SMALL_RIDGE) if self.learned else self._ridge
        return base * length ** (1 - self.ridge_schedule)

    def feature_map(self, x: Tensor) -> Tensor | None:
        """φ(x) (..., L, p) of a kernel with finitely many features; None: it has infinitely many."""
        if self.kernel == "linear":
            return x
        return positive_features(x, self.directions.to(x), self.kappa) if self.kernel == "features" else None

    def gram(self, x: Tensor, y: Tensor) -> Tensor:
        """𝔎(x, y): (..., Q, d), (..., L, d) -> (..., Q, L)."""
        if self.kernel == "features":
            return (
                positive_features(x, self.directions.to(x), self.kappa)
                @ positive_features(y, self.directions.to(y), self.kappa).mT
            )
        return KERNELS[self.kernel](x, y, self.kappa)

    def weights(self, q: Tensor, k: Tensor) -> Tensor:
        """(𝔎(K, K) + λ I)⁻¹ 𝔎(K, q), which may be negative: (..., Q, d), (..., L, d) -> (..., Q, L)."""
        q, k, _ = self.project(q, k)
        q, k = self._precise(q, k)
        return torch.cholesky_solve(self.gram(k, q), self._factor(self.gram(k, k), k.shape[-2])).mT

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        dtype = v.dtype
        q, k, value = self.project(q, k, v)
        assert value is not None
        q, k, value = self._precise(q, k, value)
        length = k.shape[-2]
        features = self.feature_map(k)  # (..., L, p)
        if features is not None and features.shape[-1] < length:
            wanted = self.feature_map(q)  # (..., Q, p)
            assert wanted is not None
            factor = self._factor(features.mT @ features, length)  # (..., p, p)
            out = wanted @ torch.cholesky_solve(features.mT @ value, factor)  # (..., Q, m)
        else:
            factor = self._factor(self.gram(k, k), length)  # (..., L, L)
            out = self.gram(q, k) @ torch.cholesky_solve(value, factor)  # (..., Q, m)
        return out.to(dtype)

    def _factor(self, matrix: Tensor, length: int) -> Tensor:
        """Cholesky factor of the matrix + λ I."""
        eye = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
        return torch.linalg.cholesky(matrix + self.ridge(length) * eye)

    def _precise(self, q: Tensor, k: Tensor, *v: Tensor) -> tuple[Tensor, ...]:
        """The same in float64 where λ is too small for float32; warns."""
        if self.learned or k.dtype == torch.float64 or float(self.ridge(k.shape[-2])) >= SMALL_RIDGE:
            return q, k, *v
        warnings.warn(
            f"ridge {self.ridge(k.shape[-2]):.2g} is too small for {k.dtype}: solved in float64", stacklevel=3
        )
        return q.double(), k.double(), *(x.double() for x in v)

    def extra_repr(self) -> str:
        schedule = "" if self.ridge_schedule == 1 else f", ridge_schedule={self.ridge_schedule}"
        return f"{super().extra_repr()}, kernel={self.kernel!r}, ridge={self._ridge:g}{schedule}"


class SoftmaxAttention(Attention, PyTorchModelHubMixin):
    """Σ_l softmax_l(κ qᵀk^l) v^l; on the unit sphere the Nadaraya-Watson estimator with the Gaussian kernel.

    At fixed κ it tends to a smoothed conditional mean, not to the conditional mean (derived). For keys uniform on the
    sphere and E[v|k] = Zk the limit is C Zq with C = `resultant_length`; `rescaled` divides by C.

    Args:
        d, m, heads, kappa, learned: as for `Attention`.
        rescaled: divide by C. Keys must have norm 1, and nothing can be learned.

    Example:
        >>> attention = SoftmaxAttention(d=4, m=3, kappa=2.0)
        >>> attention(torch.rand(8, 1, 4), torch.rand(8, 20, 4), torch.rand(8, 20, 3)).shape
        torch.Size([8, 1, 3])
    """

    def __init__(
        self, d: int, m: int, heads: int = 1, kappa: float = 2.0, learned: bool = False, rescaled: bool = False
    ) -> None:
        super().__init__(d, m, heads, kappa, learned)
        self.rescaled = rescaled
        if rescaled and learned:
            raise Problem(
                "rescaled=True with learned=True", "SoftmaxAttention", "leave one out: C holds for unmapped keys alone"
            )
        self.scale = 1 / resultant_length(d, kappa) if rescaled else 1.0

    def weights(self, q: Tensor, k: Tensor) -> Tensor:
        q, k, _ = self.project(q, k)
        return self.scale * (self.kappa * q @ k.mT).softmax(-1)

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, value = self.project(q, k, v)
        assert value is not None
        if self.rescaled and not torch.compiler.is_compiling():
            for what, points in (("keys", k), ("queries", q)):
                check_sphere(points, what)
        return self.scale * F.scaled_dot_product_attention(self.kappa * q, k, value, scale=1.0)


class MeanPool(Attention, PyTorchModelHubMixin):
    """The mean of the values, whatever the query: no relation between key and value is used."""

    def __init__(self, d: int, m: int) -> None:
        super().__init__(d, m)

    def weights(self, q: Tensor, k: Tensor) -> Tensor:
        self._check(q, k, None)
        return (q @ k.mT).mul(0).add(1 / k.shape[-2])


class NearestKey(Attention, PyTorchModelHubMixin):
    """The value of the key with the largest qᵀk: hard attention, the limit κ → ∞ of softmax attention.

    Keys that are equally near, up to rounding, share the weight.
    """

    def __init__(self, d: int, m: int) -> None:
        super().__init__(d, m)

    def weights(self, q: Tensor, k: Tensor) -> Tensor:
        self._check(q, k, None)
        scores = q @ k.mT
        best = scores.amax(-1, keepdim=True)
        near = (scores >= best - 8 * torch.finfo(scores.dtype).eps * best.abs()).to(scores)
        return near / near.sum(-1, keepdim=True)


class BayesRegression(Attention, PyTorchModelHubMixin):
    """Posterior predictive mean q ↦ E[Z | K, V] q under v = Z k + ε, entries of Z ~ N(0, τ²), ε ~ N(0, σ² I).

    By the d×d formula (KᵀK / σ² + I / τ²)⁻¹ Kᵀ V / σ², independent of `CMEAttention`, which it checks.

    Args:
        d, m: as for `Attention`.
        sigma: σ.
        tau: τ.
    """

    def __init__(self, d: int, m: int, sigma: float = 0.5, tau: float = 1.0) -> None:
        super().__init__(d, m)
        self.sigma, self.tau = sigma, tau
        _positive("BayesRegression", sigma=sigma, tau=tau)

    def weights(self, q: Tensor, k: Tensor) -> Tensor:
        self._check(q, k, None)
        eye = torch.eye(self.d, dtype=k.dtype, device=k.device)
        precision = k.mT @ k / self.sigma**2 + eye / self.tau**2  # (..., d, d)
        return q @ torch.linalg.solve(precision, k.mT / self.sigma**2)


def _positive(where: str, why: str = "", /, **given: float) -> None:
    for name, value in given.items():
        if not 0 < value < math.inf:
            raise Problem(f"{name}={value!r}", where, f"give a number above 0{f': {why}' if why else ''}")
