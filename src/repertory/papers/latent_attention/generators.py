"""Exchangeable sequences with a known latent: tokens are independent given z, which is drawn anew for each sequence.

Keys are uniform on the unit sphere unless said. None of these knows which attention will read it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
KeyLaw = Literal["sphere", "normal"]


@dataclass(frozen=True)
class Sequences:
    """n sequences of L tokens, each with one query."""

    keys: Array
    """(n, L, d)"""
    values: Array
    """(n, L, m)"""
    query: Array
    """(n, d)"""
    target: Array
    """(n, m), with noise."""
    mean: Array | None = None
    """(n, m): the conditional mean E[target | query, z], where z is known."""
    latent: Array | None = None
    """(n, ...): z, for checks alone."""

    def __len__(self) -> int:
        return len(self.keys)

    def subset(self, rows: NDArray[np.intp] | slice) -> Sequences:
        """Some of the sequences."""
        return self._each(lambda array: array[rows])

    def prefix(self, length: int) -> Sequences:
        """The first tokens of every sequence."""
        return Sequences(
            self.keys[:, :length], self.values[:, :length], self.query, self.target, self.mean, self.latent
        )

    def _each(self, change: Callable[[Array], Array]) -> Sequences:
        return Sequences(*(None if array is None else change(array) for array in vars(self).values()))  # pyright: ignore[reportArgumentType]


def draw_keys(rng: np.random.Generator, shape: tuple[int, ...], law: KeyLaw = "sphere") -> Array:
    """Keys of `shape` (..., d): uniform on the unit sphere, or standard normal."""
    keys = rng.standard_normal(shape)
    return keys / np.linalg.norm(keys, axis=-1, keepdims=True) if law == "sphere" else keys


def linear_gaussian(
    rng: np.random.Generator, n: int, length: int, d: int = 4, m: int = 3, sigma: float = 0.5, tau: float = 1.0,
    law: KeyLaw = "sphere",
) -> Sequences:  # fmt: skip
    """G1: v = Z k + ε with entries of Z (m, d) ~ N(0, τ²) and ε ~ N(0, σ² I)."""
    latent = tau * rng.standard_normal((n, m, d))
    keys, query = draw_keys(rng, (n, length, d), law), draw_keys(rng, (n, d), law)
    values = keys @ latent.swapaxes(1, 2) + sigma * rng.standard_normal((n, length, m))
    mean = np.einsum("nmd,nd->nm", latent, query)
    return Sequences(keys, values, query, mean + sigma * rng.standard_normal((n, m)), mean, latent)


def smooth(
    rng: np.random.Generator, n: int, length: int, d: int = 4, m: int = 3, sigma: float = 0.5, tau: float = 1.0,
    law: KeyLaw = "sphere",
) -> Sequences:  # fmt: skip
    """G2: v_i = sin(2 u_iᵀ k + ψ_i) + ε with u_i ~ N(0, τ² I) and ψ_i uniform; z = (u, ψ)."""
    u, phase = tau * rng.standard_normal((n, m, d)), rng.uniform(0, 2 * np.pi, (n, m))
    keys, query = draw_keys(rng, (n, length, d), law), draw_keys(rng, (n, d), law)
    values = np.sin(2 * keys @ u.swapaxes(1, 2) + phase[:, None]) + sigma * rng.standard_normal((n, length, m))
    mean = np.sin(2 * np.einsum("nmd,nd->nm", u, query) + phase)
    latent = np.concatenate([u, phase[..., None]], axis=-1)
    return Sequences(keys, values, query, mean + sigma * rng.standard_normal((n, m)), mean, latent)


def masked_covariance(d: int, skew: float) -> Array:
    """Eigenvalues (d,) of Σ_c: geometric from 1 to 1 / skew, scaled to the sum 1."""
    eigenvalues = np.geomspace(1, 1 / skew, d)
    return eigenvalues / eigenvalues.sum()


def masked_token(
    rng: np.random.Generator, n: int, length: int, d: int = 4, m: int = 3, sigma: float = 0.5, tau: float = 1.0,
    law: KeyLaw = "sphere", skew: float = 4.0,
) -> Sequences:  # fmt: skip
    """G4: as G1, and a masked position with key c ~ N(0, Σ_c) as the query and r = Z c + ε as the target."""
    made = linear_gaussian(rng, n, length, d, m, sigma, tau, law)
    assert made.latent is not None
    query = rng.standard_normal((n, d)) * np.sqrt(masked_covariance(d, skew))
    mean = np.einsum("nmd,nd->nm", made.latent, query)
    return Sequences(made.keys, made.values, query, mean + sigma * rng.standard_normal((n, m)), mean, made.latent)


WORLDS: Mapping[str, Callable[..., Sequences]] = {"g1": linear_gaussian, "g2": smooth, "g4": masked_token}
"""Name of the sample file -> its generator."""


# -- discrete tokens --------------------------------------------------------------------------------


@dataclass(frozen=True)
class TokenWorld:
    """G3: z uniform on C classes, tokens i.i.d. from P(x|z), a label from P(y|z)."""

    emission: Array
    """(C, W), rows P(·|z)."""
    labels: Array
    """(C, Y), rows P(y|z)."""


def token_world(rng: np.random.Generator, classes: int = 6, words: int = 30, labels: int = 4) -> TokenWorld:
    """Rows of P(x|z) from Dirichlet(0.3), of P(y|z) from Dirichlet(1)."""
    return TokenWorld(rng.dirichlet(np.full(words, 0.3), classes), rng.dirichlet(np.ones(labels), classes))


@dataclass(frozen=True)
class TokenSequences:
    """n sequences of tokens from one world."""

    tokens: NDArray[np.int64]
    """(n, L), 0 to W - 1."""
    label: NDArray[np.int64]
    """(n,), 0 to Y - 1."""
    world: TokenWorld
    latent: NDArray[np.int64] | None = None
    """(n,): z."""


def draw_tokens(rng: np.random.Generator, world: TokenWorld, n: int, length: int) -> TokenSequences:
    """G3: n sequences of L tokens."""
    z = rng.integers(len(world.emission), size=n)
    return TokenSequences(_draw(rng, world.emission[z], length), _draw(rng, world.labels[z], 1)[:, 0], world, z)


def _draw(rng: np.random.Generator, rows: Array, count: int) -> NDArray[np.int64]:
    """`count` draws from every row of probabilities (n, W) -> (n, count)."""
    edges = rows.cumsum(1)
    edges[:, -1] = 1.0  # rounding
    return (rng.random((len(rows), count))[..., None] >= edges[:, None]).sum(-1)


def log_posterior(tokens: NDArray[np.int64], world: TokenWorld) -> Array:
    """log P(z | first l tokens) for l = 1..L: tokens (n, L) -> (n, L, C)."""
    with np.errstate(divide="ignore"):
        seen = np.log(world.emission).T[tokens].cumsum(1)  # (n, L, C)
    return seen - np.logaddexp.reduce(seen, axis=-1, keepdims=True)
