"""Pictures of a hypergraph, its Laplacian, training and embeddings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from scipy import sparse
from sklearn.decomposition import PCA

from repertory.core.printing import figure_text
from repertory.data.hypergraphs import CSR

MOST_POINTS = 3000
"""The projection shows an even sample of larger hypergraphs."""
MOST_EXACT = 1500
"""Vertices up to which all eigenvalues are computed; beyond, their density is estimated."""
BINS = 50


def training_picture(history: Sequence[Mapping[str, float]], picked: Mapping[str, int]) -> Figure:
    """Loss, and the accuracy by which each protocol chooses, over epochs; the chosen epochs are marked.

    Args:
        history: loss and one accuracy per protocol, one entry per epoch.
        picked: protocol -> epoch.
    """
    figure = Figure(figsize=(7, 4.6), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    above.plot([entry["loss"] for entry in history], color="black", linewidth=0.8)
    above.set_ylabel("training loss")
    for (protocol, epoch), color in zip(picked.items(), ("tab:blue", "tab:orange"), strict=True):
        curve = [entry[protocol] for entry in history]
        below.plot(curve, color=color, linewidth=0.8, label=protocol)
        below.plot(epoch, curve[epoch], "o", color=color)
    below.set(xlabel="epoch", ylabel="accuracy (%)")
    below.legend(title="epoch chosen on", fontsize="small")
    return figure


def spectrum_picture(laplacian: CSR) -> Figure:
    """Histogram of the eigenvalues of L (n, n), which lie in [0, 1]."""
    edges = np.linspace(0, 1, BINS + 1)
    if laplacian.shape[0] <= MOST_EXACT:
        # Rounding may put an eigenvalue of 0 or 1 just outside.
        shares = np.histogram(np.clip(np.linalg.eigvalsh(laplacian.toarray()), 0, 1), edges)[0] / laplacian.shape[0]
        how = "all eigenvalues"
    else:
        shares, how = spectral_density(laplacian, edges), "estimated"
    figure = Figure(figsize=(6, 3.6), layout="constrained")
    ax = figure.add_subplot(title=f"spectrum of L ({how})", xlabel="eigenvalue", ylabel="share of the eigenvalues")
    ax.bar(edges[:-1], shares, width=1 / BINS, align="edge", color="tab:blue")
    return figure


def spectral_density(laplacian: CSR, edges: np.ndarray, terms: int = 120, probes: int = 16) -> np.ndarray:
    """Share of the eigenvalues of L in each bin of [0, 1], by the kernel polynomial method; L is never made dense.

    Args:
        laplacian: (n, n), symmetric, eigenvalues in [0, 1].
        edges: of the bins, ascending from 0 to 1.
        terms: Chebyshev moments, damped by Jackson's kernel: lines are about π / terms / 2 wide.
        probes: random vectors for the traces.

    Returns:
        One share per bin; they sum to 1.
    """
    n = laplacian.shape[0]
    mapped = 2 * laplacian - sparse.eye_array(n)  # to [−1, 1]
    z = np.random.default_rng(0).choice([-1.0, 1.0], size=(n, probes))
    before, now = z, mapped @ z
    moments = [1.0, (z * now).sum() / (n * probes)]
    for _ in range(terms - 2):
        before, now = now, 2 * (mapped @ now) - before
        moments.append((z * now).sum() / (n * probes))
    k, q = np.arange(terms), np.pi / (terms + 1)
    jackson = ((terms - k + 1) * np.cos(q * k) + np.sin(q * k) / np.tan(q)) / (terms + 1)
    # The density is (μ_0 + 2 Σ μ_k C_k(y)) / (π √(1 − y²)); its integral over θ = arccos y is a sum of sines.
    theta = np.arccos(2 * edges - 1)
    weights = 2 * jackson[1:] * np.array(moments[1:]) / k[1:]
    below = 1 - (theta + np.sin(np.outer(theta, k[1:])) @ weights) / np.pi
    return np.diff(below)


def depth_picture(accuracies: Mapping[str, Mapping[int, float]]) -> Figure:
    """Accuracy against the number of layers, one line per network.

    Args:
        accuracies: network -> layers -> accuracy in percent.
    """
    figure = Figure(figsize=(5.5, 3.8), layout="constrained")
    ax = figure.add_subplot(xlabel="layers", ylabel="test accuracy (%)", xscale="log")
    for network, curve in accuracies.items():
        ax.plot(*zip(*sorted(curve.items()), strict=True), marker="o", label=network)
    depths = sorted({depth for curve in accuracies.values() for depth in curve})
    ax.set_xticks(depths, map(str, depths), minor=False)
    ax.minorticks_off()
    ax.legend()
    return figure


def embedding_picture(h: torch.Tensor, groups: np.ndarray, names: Sequence[str]) -> Figure:
    """The last hidden layer (n, h) in the plane of its two principal components, coloured by group (n,)."""
    shown = np.unique(np.linspace(0, len(h) - 1, min(len(h), MOST_POINTS)).astype(int))
    points, groups = h.cpu().numpy()[shown], groups[shown]
    if min(points.shape) < 2:
        points = np.c_[points[:, :1], np.zeros(len(points))]
    plane = PCA(2, random_state=0).fit_transform(points)
    figure = Figure(figsize=(5.5, 4.6), layout="constrained")
    ax = figure.add_subplot(xticks=[], yticks=[], title="last hidden layer, two principal components")
    for group in np.unique(groups):
        ax.scatter(*plane[groups == group].T, s=8, color=_color(group), label=_name(group, names))
    ax.legend(fontsize="small", markerscale=2)
    return figure


def incidence_picture(Q: CSR, groups: np.ndarray, names: Sequence[str]) -> Figure:
    """Vertices × hyperedges, both sorted by class; a hyperedge gets the class with the largest weight in it.

    Args:
        Q: (n, m).
        groups: class of each vertex, (n,); −1: unknown.
        names: of the classes.
    """
    n, m = Q.shape
    onehot = sparse.csr_array((np.ones(n), (np.arange(n), groups - groups.min())), shape=(n, groups.max() + 2))
    of_edge = (onehot.T @ Q).toarray().argmax(axis=0) + groups.min()
    rank_of_vertex, rank_of_edge = np.empty(n, int), np.empty(m, int)
    rank_of_vertex[np.argsort(groups, kind="stable")] = np.arange(n)
    rank_of_edge[np.argsort(of_edge, kind="stable")] = np.arange(m)
    entries = Q.tocoo()
    row, column = entries.coords
    figure = Figure(figsize=(6, 6), layout="constrained")
    ax = figure.add_subplot(
        title="incidence, sorted by class", xlabel="hyperedge", ylabel="vertex", xlim=(-1, m), ylim=(n, -1)
    )
    for group in np.unique(groups[row]):  # vertices in no hyperedge have no entry
        mine = groups[row] == group
        strength: Any = np.clip(entries.data[mine] / entries.data.max(), 0.1, 1)
        ax.scatter(
            rank_of_edge[column[mine]],
            rank_of_vertex[row[mine]],
            s=max(1.0, 900 / max(n, m)),
            color=_color(group),
            alpha=strength,
            linewidths=0,
            label=_name(group, names),
        )
    figure.legend(loc="outside right upper", fontsize="small", markerscale=3)
    return figure


def _color(group: int) -> str:
    return "lightgrey" if group < 0 else f"C{group % 10}"


def _name(group: int, names: Sequence[str]) -> str:
    return "unlabelled" if group < 0 else figure_text(names[group])
