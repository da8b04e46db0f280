"""Pictures of a clustering and of its training."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

MOST_POINTS = 3000
"""t-SNE and the cosine matrix show an even sample of larger graphs."""


def epochs_picture(history: Sequence[dict[str, float]], warmup_epochs: int, picked: dict[str, int]) -> Figure:
    """ACC (with labels) and relative inertia over epochs; the guided stage shaded, the protocols' picks marked.

    Args:
        history: step (the epoch), inertia and, if there are labels, acc of every clustering.
        warmup_epochs: epochs before the guided stage.
        picked: protocol -> epoch.
    """
    curves = {"acc": "ACC (%)", "inertia": "inertia / variance"}
    shown = [name for name in curves if name in history[0]]
    epochs = [score["step"] for score in history]
    figure = Figure(figsize=(7, 2.6 * len(shown)), layout="constrained")
    axes = figure.subplots(len(shown), 1, sharex=True, squeeze=False)[:, 0]
    for ax, name in zip(axes, shown, strict=True):
        values = [score[name] for score in history]
        ax.plot(epochs, values, color="tab:blue", marker=".")
        if epochs[-1] >= warmup_epochs:
            ax.axvspan(warmup_epochs - 0.5, epochs[-1], color="tab:orange", alpha=0.12, label="guided stage")
        for (protocol, epoch), mark in zip(picked.items(), "ovs", strict=False):
            ax.plot(epoch, values[epochs.index(epoch)], mark, markersize=9, fillstyle="none", label=protocol)
        ax.set_ylabel(curves[name])
    axes[0].legend(loc="best", fontsize="small")
    axes[-1].set_xlabel("epoch (−1: K-means on the smoothed features, before training)")
    return figure


def embedding_picture(z: np.ndarray, clusters: np.ndarray) -> Figure:
    """Z (n, h) in the plane, coloured by cluster (n,): by PCA and, from 10 nodes on, by t-SNE."""
    shown = _even_sample(len(z))
    z, clusters = z[shown], clusters[shown]
    planes = {"PCA": PCA(2, random_state=0).fit_transform(z)} if min(z.shape) >= 2 else {}
    if len(z) >= 10:
        tsne = TSNE(perplexity=min(30, (len(z) - 1) / 3), init="random", random_state=0)
        planes["t-SNE"] = tsne.fit_transform(z)
    figure = Figure(figsize=(5 * max(1, len(planes)), 4.6), layout="constrained")
    for position, (name, plane) in enumerate(planes.items(), start=1):
        ax = figure.add_subplot(1, len(planes), position, xticks=[], yticks=[], title=f"Z by {name}")
        for cluster in np.unique(clusters):
            ax.scatter(*plane[clusters == cluster].T, s=12, label=str(cluster), color=f"C{cluster}")
        ax.legend(title="cluster", fontsize="small")
    return figure


def cosine_picture(z: np.ndarray, clusters: np.ndarray) -> Figure:
    """Cosine similarities of all pairs of nodes, sorted by cluster; lines between the clusters."""
    shown = _even_sample(len(z))
    shown = shown[np.argsort(clusters[shown], kind="stable")]
    unit = z[shown] / np.maximum(np.linalg.norm(z[shown], axis=1, keepdims=True), 1e-12)
    figure = Figure(figsize=(5.5, 4.6), layout="constrained")
    ax = figure.add_subplot(title="cosine of Z, nodes sorted by cluster", xlabel="node", ylabel="node")
    figure.colorbar(ax.imshow(unit @ unit.T, vmin=-1, vmax=1, cmap="RdBu_r", interpolation="nearest"))
    for boundary in np.flatnonzero(np.diff(clusters[shown])) + 0.5:
        ax.axhline(boundary, color="black", linewidth=0.6)
        ax.axvline(boundary, color="black", linewidth=0.6)
    return figure


def _even_sample(size: int) -> np.ndarray:
    return np.unique(np.linspace(0, size - 1, min(size, MOST_POINTS)).astype(int))
