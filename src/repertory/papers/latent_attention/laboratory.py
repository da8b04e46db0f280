"""The experiments on generators with a known latent, and the slopes fitted to them.

Predictions marked derived are exact statements that instantiate a claim of the paper; they are no theorems of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from repertory.core.loops import finite
from repertory.core.problem import Problem
from repertory.papers.latent_attention.generators import (
    Array,
    Sequences,
    TokenWorld,
    draw_tokens,
    linear_gaussian,
    log_posterior,
    masked_covariance,
)
from repertory.papers.latent_attention.model import BayesRegression, CMEAttention, resultant_length
from repertory.papers.latent_attention.settings import LEAST_LENGTHS

GRAM_ENTRIES = 2**23
"""Entries of the Gram matrices that are in memory at a time: 64 MiB in float64."""
Progress = Callable[..., Iterable[Any]]
"""`Session.progress`."""


# -- slopes -----------------------------------------------------------------------------------------


def fitted_slope(curve: Mapping[float, float]) -> float:
    """Exponent b of log y = a + b log x by least squares.

    Raises:
        Problem: fewer than 4 points, or one that is not positive.
    """
    if len(curve) < LEAST_LENGTHS:
        raise Problem(f"a slope over {len(curve)} lengths", "fitted_slope", f"give {LEAST_LENGTHS} lengths or more")
    if wrong := [f"{y:.3g} at {x:g}" for x, y in curve.items() if not (x > 0 and y > 0)]:
        raise Problem(f"no logarithm of {wrong[0]}", "fitted_slope", "give positive points")
    return float(np.polyfit(np.log(list(curve)), np.log(list(curve.values())), 1)[0])


def local_slopes(curve: Mapping[float, float]) -> dict[float, float]:
    """Exponent between each length and the one before: it shows where a curve is not yet asymptotic."""
    x, y = np.log(list(curve)), np.log(list(curve.values()))
    return dict(zip(list(curve)[1:], (np.diff(y) / np.diff(x)).tolist(), strict=True))


# -- T1, T2: identities -----------------------------------------------------------------------------


def tensors(*arrays: Array) -> tuple[Tensor, ...]:
    return tuple(torch.from_numpy(np.ascontiguousarray(array, dtype=np.float64)) for array in arrays)


@torch.no_grad()
def read_out(attention: nn.Module, data: Sequences) -> Array:
    """Read-outs (n, m) of the queries, in float64 on the CPU."""
    query, keys, values = tensors(data.query, data.keys, data.values)
    return attention(query[:, None], keys, values)[:, 0].numpy()


def permutation_difference(attention: nn.Module, data: Sequences, order: NDArray[np.intp]) -> float:
    """T1 (derived): largest change of a read-out when keys and values are permuted together."""
    permuted = Sequences(data.keys[:, order], data.values[:, order], data.query, data.target)
    return float(np.abs(read_out(attention, permuted) - read_out(attention, data)).max())


def position_difference(attention: nn.Module, data: Sequences, order: NDArray[np.intp]) -> float:
    """T1, the other half: the same where positions are added to the keys after the permutation.

    Positions are sines (L, d), the same for every sequence; keys are normalised after the addition.
    """
    length, d = data.keys.shape[1:]
    angle = np.arange(length)[:, None] / (1 + np.arange(d))
    place = np.sin(angle + np.arange(d))

    def placed(keys: Array, values: Array) -> Sequences:
        moved = keys + place
        return Sequences(moved / np.linalg.norm(moved, axis=-1, keepdims=True), values, data.query, data.target)

    before, after = placed(data.keys, data.values), placed(data.keys[:, order], data.values[:, order])
    return float(np.abs(read_out(attention, after) - read_out(attention, before)).max())


def bayes_difference(rng: np.random.Generator, lengths: Iterable[int], sigma: float, tau: float) -> float:
    """T2 (derived): largest difference between CME attention with λ = σ²/τ² and the posterior predictive mean."""
    worst = 0.0
    for length in lengths:
        data = linear_gaussian(rng, 8, length, sigma=sigma, tau=tau)
        d, m = data.keys.shape[2], data.values.shape[2]
        cme = CMEAttention(d, m, kernel="linear", ridge=(sigma / tau) ** 2)
        bayes = BayesRegression(d, m, sigma, tau)
        for part in (data, data.prefix(3)):  # the p×p form, and the L×L form
            worst = max(worst, float(np.abs(read_out(cme, part) - read_out(bayes, part)).max()))
    return worst


# -- T3, T4, T5: error against length ---------------------------------------------------------------


def error_curve(
    attention: nn.Module,
    draw: Callable[[np.random.Generator, int, int], Sequences],
    rng: Callable[[int], np.random.Generator],
    lengths: Iterable[int],
    count: Callable[[int], int],
) -> dict[float, float]:
    """RMSE to the conditional mean at each L; the sequences of different L are independent.

    Args:
        attention: the read-out.
        draw: (generator, n, L) -> sequences with `mean`.
        rng: L -> generator.
        lengths: L, in order.
        count: L -> n.
    """
    curve = {}
    for length in lengths:
        data = draw(rng(length), count(length), length)
        size = max(1, GRAM_ENTRIES // length**2)
        batches = [data.subset(slice(i, i + size)) for i in range(0, len(data), size)]
        squared = [np.square(read_out(attention, batch) - _known(batch)).sum(-1) for batch in batches]
        curve[float(length)] = float(np.sqrt(np.concatenate(squared).mean()))
    return curve


def _known(data: Sequences) -> Array:
    assert data.mean is not None  # the generators give it
    return data.mean


# -- T6: sufficiency of the posterior ----------------------------------------------------------------


def _cross_entropy(p: Array, q: Array) -> float:
    """−Σ p log q, mean over rows."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(-np.where(p > 0, p * np.log(q), 0).sum(-1).mean())


def _grouped(p: Array, code: NDArray[Any]) -> Array:
    """P(y | code): the mean of P(y | X) over the sequences with the same code."""
    _, group = np.unique(code, return_inverse=True)
    sums = np.zeros((group.max() + 1, p.shape[1]))
    np.add.at(sums, group, p)
    return (sums / np.bincount(group)[:, None])[group]


def code_excess(rng: np.random.Generator, draws: int, length: int, world: TokenWorld) -> dict[str, float]:
    """T6 (derived): Bayes log-loss of the label given a code of X, minus that given X, in nats.

    P(y | X) comes from token counts and the joint law of (z, y); that from the posterior is Σ_z P(y|z) P(z|X).

    Returns:
        posterior (the largest difference of P(y | X), which bounds the loss), argmax, merged (classes 0 and 1), token
        (the most frequent one).
    """
    drawn = draw_tokens(rng, world, draws, length)
    posterior = np.exp(log_posterior(drawn.tokens, world)[:, -1])  # (n, C)
    counts = token_counts(drawn.tokens, world.emission.shape[1])
    full = label_from_counts(counts, world)
    sufficient = posterior @ world.labels
    merged = posterior[:, :2].sum(1, keepdims=True)
    share = posterior[:, :2].sum(0) / posterior[:, :2].sum()
    codes = {
        "argmax": _grouped(full, posterior.argmax(1)),
        "merged": merged * (share @ world.labels[:2]) + posterior[:, 2:] @ world.labels[2:],
        "token": _grouped(full, counts.argmax(1)),
    }
    base = _cross_entropy(full, full)
    excess = {name: _cross_entropy(full, q) - base for name, q in codes.items()}
    return {"posterior": abs(_cross_entropy(full, sufficient) - base), **excess}


def token_counts(tokens: NDArray[np.int64], words: int) -> Array:
    """How often each word comes in each sequence: (n, L) -> (n, W)."""
    places = tokens + words * np.arange(len(tokens))[:, None]
    return np.bincount(places.ravel(), minlength=words * len(tokens)).reshape(-1, words).astype(np.float64)


def label_from_counts(counts: Array, world: TokenWorld) -> Array:
    """P(y | X) from token counts (n, W), by the joint law of (z, y) in logarithms: (n, Y)."""
    with np.errstate(divide="ignore"):
        logs = np.log(world.emission)
        joint = (counts[:, None] * np.where(counts[:, None] > 0, logs, 0)).sum(-1)[:, :, None] + np.log(world.labels)
    joint = joint - joint.max((1, 2), keepdims=True)
    p = np.exp(joint).sum(1)  # (n, Y)
    return p / p.sum(1, keepdims=True)


def minimality_difference(rng: np.random.Generator, draws: int, length: int, world: TokenWorld) -> float:
    """T6 (derived): largest difference of P(y | X) between count vectors that have the same posterior.

    Every word gets a twin whose probabilities are a multiple of its own for all z; exchanging twins changes the counts
    and leaves the posterior.
    """
    shares = rng.uniform(0.2, 0.8, world.emission.shape[1])
    twins = TokenWorld(np.concatenate([world.emission * shares, world.emission * (1 - shares)], 1), world.labels)
    words = world.emission.shape[1]
    tokens = draw_tokens(rng, twins, draws, length).tokens
    other = np.where(rng.random(tokens.shape) < 0.5, tokens, (tokens + words) % (2 * words))
    labels = []
    for sequence in (tokens, other):
        labels.append(label_from_counts(token_counts(sequence, 2 * words), twins))
    return float(np.abs(labels[0] - labels[1]).max())


class TokenClassifier(nn.Module):
    """One attention layer over tokens, pooled, with a head for the label.

    Tokens -> Linear(W, h) of one-hot -> softmax attention with one learned query and κ -> mean, with the sum and log L
    -> MLP(h), the representation -> logits. Equal tokens have equal weights, so that token counts are all it needs.
    """

    def __init__(self, words: int, labels: int, width: int = 32) -> None:
        super().__init__()
        self.values = nn.Linear(words, width)
        self.query = nn.Parameter(torch.randn(width) / width**0.5)
        self.log_kappa = nn.Parameter(torch.zeros(()))
        self.mlp = nn.Sequential(nn.Linear(2 * width + 1, width), nn.ReLU())
        self.head = nn.Linear(width, labels)

    def represent(self, counts: Tensor) -> Tensor:
        """Token counts (n, W) -> (n, h)."""
        v = self.values.weight.mT + self.values.bias  # (W, h), the value of each word
        scores = self.log_kappa.exp() * v @ self.query
        weights = counts * (scores - scores.max()).exp()  # (n, W): softmax over tokens, equal ones together
        mean = weights @ v / weights.sum(1, keepdim=True)
        return self.mlp(torch.cat([mean, counts @ v, counts.sum(1, keepdim=True).log()], 1))

    def forward(self, counts: Tensor) -> Tensor:
        return self.head(self.represent(counts))


def learned_posterior(
    rng: np.random.Generator, world: TokenWorld, length: int, sequences: int, epochs: int, progress: Progress
) -> float:
    """R² on fresh sequences of the centred log posterior, linearly regressed on what `TokenClassifier` has learned.

    Trained on labels alone, by Adam at 1e-3 in batches of 100.
    """
    train, test = (draw_tokens(rng, world, sequences, length) for _ in range(2))
    torch.manual_seed(int(rng.integers(2**31)))
    words = world.emission.shape[1]
    network = TokenClassifier(words, world.labels.shape[1])
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    counts, labels = torch.from_numpy(token_counts(train.tokens, words)).float(), torch.from_numpy(train.label)
    for epoch in progress(range(epochs), f"posterior, L = {length}"):
        for rows in torch.randperm(sequences).split(100):
            loss = F.cross_entropy(network(counts[rows]), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        finite(loss, f"in epoch {epoch}")  # pyright: ignore[reportPossiblyUnboundVariable]
    x, y = [], []
    with torch.no_grad():
        for part in (train, test):
            hidden = network.represent(torch.from_numpy(token_counts(part.tokens, words)).float()).double().numpy()
            x.append(np.concatenate([hidden, np.ones((sequences, 1))], 1))
            logs = log_posterior(part.tokens, world)[:, -1]
            y.append(logs - logs.mean(1, keepdims=True))
    fit = np.linalg.lstsq(x[0], y[0], rcond=None)[0]
    return 1 - float(np.square(y[1] - x[1] @ fit).sum() / np.square(y[1] - y[1].mean(0)).sum())


# -- T7: generalisation -----------------------------------------------------------------------------


def _attend(A: Tensor, W: Tensor, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(qᵀ A kᵀ) V W for R models: q (R, n, d), k (R, n, d, L), v (R, n, m, L) -> (R, n, m)."""
    scores = torch.einsum("rnd,rndl->rnl", q @ A, k)
    return torch.einsum("rnl,rnml->rnm", scores.softmax(-1), v) @ W


def _risk(out: Tensor, y: Tensor) -> Tensor:
    """Squared loss, mean over sequences: (R,)."""
    return (out - y).square().sum(-1).mean(-1)


def generalisation_gap(
    rng: np.random.Generator, n: int, length: int, *, repeats: int, steps: int, test: int, bounds: Sequence[float],
    d: int, m: int, sigma: float, tau: float, progress: Progress,
) -> list[float]:  # fmt: skip
    """T7: test risk minus training risk after empirical risk minimisation on n sequences of L tokens.

    A (d, d) and W (m, m) start at 2 I and are trained by full-batch Adam at 0.05. The gap is the mean over training
    sets. The gap of a fixed predictor, A = 2 I and W = I / C, on the same sequences is subtracted: its expectation is
    0, and it takes most of the sampling noise with it.

    Args:
        rng: of all sequences.
        n, length: of a training set.
        repeats: R training sets.
        steps: of Adam.
        test: fresh sequences for each.
        bounds: largest Frobenius norms of A and W; inf: none. One gap for each.
        d, m, sigma, tau: of the generator G1.
        progress: `Session.progress`.
    """

    def draw(count: int) -> tuple[Tensor, ...]:
        made = linear_gaussian(rng, count, length, d, m, sigma, tau)
        tokens_last = made.keys.swapaxes(1, 2), made.values.swapaxes(1, 2)
        return tuple(torch.from_numpy(x).float().contiguous() for x in (made.query, *tokens_last, made.target))

    q, k, v, y = (torch.stack(parts) for parts in zip(*(draw(n) for _ in range(repeats)), strict=True))
    eyes = [torch.eye(size).expand(repeats, size, size) for size in (d, m)]
    fixed = 2 * eyes[0], eyes[1] / resultant_length(d, 2.0)
    models = []
    for bound in bounds:
        A, W = (nn.Parameter(2 * eye.clone()) for eye in eyes)
        optimizer = torch.optim.Adam([A, W], lr=0.05)
        for step in progress(range(steps), f"n = {n}, L = {length}"):
            loss = _risk(_attend(A, W, q, k, v), y).sum()  # models are independent: the sum trains each
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            with torch.no_grad():
                for weight in (A, W):
                    norm = weight.norm(dim=(1, 2), keepdim=True)
                    weight *= (bound / norm).clamp_max(1)
            finite(loss, f"at step {step}")
        models.append((A.detach(), W.detach()))
    with torch.no_grad():
        known = _risk(_attend(*fixed, q, k, v), y)
        gaps = [known - _risk(_attend(A, W, q, k, v), y) for A, W in models]  # minus the training risks
        for r in range(repeats):
            q, k, v, y = (x[None] for x in draw(test))
            reference = _risk(_attend(fixed[0][:1], fixed[1][:1], q, k, v), y)[0]
            for gap, (A, W) in zip(gaps, models, strict=True):
                gap[r] += _risk(_attend(A[r : r + 1], W[r : r + 1], q, k, v), y)[0] - reference
    return [float(gap.mean()) for gap in gaps]


# -- T8: condition number ---------------------------------------------------------------------------


def condition_number(d: int, skew: float) -> float:
    """κ_c = 1 / λ_min(Σ_c): our analogue of the paper's condition number, whose definition could not be read."""
    return float(1 / masked_covariance(d, skew).min())


def transfer(
    rng: np.random.Generator, skews: Iterable[float], sequences: int, test: int, sigma: float, d: int = 6,
    length: int = 64, directions: int = 200,
) -> dict[float, float]:  # fmt: skip
    """T8 (derived): worst downstream excess risk over the pre-training excess risk, for each skew of Σ_c.

    s = (1/L) Σ_l k^l v^l with normal keys and scalar values; ẑ = B s is learned by ridge regression of masked targets
    r = zᵀc + ε; errors are those to the best linear map B* = I / (1 + (d + 1 + σ²) / L).
    """

    def draw(count: int) -> tuple[Array, Array]:
        z, total = rng.standard_normal((count, d)), np.zeros((count, d))
        for _ in range(length):  # one token at a time: L times less memory
            key = rng.standard_normal((count, d))
            total += key * ((key * z).sum(1, keepdims=True) + sigma * rng.standard_normal((count, 1)))
        return z, total / length

    best = np.eye(d) / (1 + (d + 1 + sigma**2) / length)
    fresh = draw(test)[1]
    w = rng.standard_normal((directions, d))
    w /= np.linalg.norm(w, axis=1, keepdims=True)
    ratios = {}
    for skew in skews:
        z, s = draw(sequences)
        eigenvalues = masked_covariance(d, skew)
        c = rng.standard_normal((sequences, d)) * np.sqrt(eigenvalues)
        r = (z * c).sum(1) + sigma * rng.standard_normal(sequences)
        features = (c[:, :, None] * s[:, None, :]).reshape(sequences, d * d)
        learned = np.linalg.solve(features.T @ features + 1e-3 * np.eye(d * d), features.T @ r).reshape(d, d)
        errors = fresh @ (learned - best).T  # (n, d)
        pretraining = (errors**2 * eigenvalues).sum(1).mean()
        ratios[skew] = float(((errors @ w.T) ** 2).mean(0).max() / pretraining)
    return ratios
