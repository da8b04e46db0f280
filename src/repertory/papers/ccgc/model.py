"""CCGC: two un-shared linear encoders over smoothed features, contrasted under the guidance of their own clusters.

Read in the paper's order: graph filter, two views, fused embedding, losses. K-means and confidence: `clustering.py`.
"""

from __future__ import annotations

from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from huggingface_hub import PyTorchModelHubMixin
from scipy import sparse
from torch import Tensor, nn

from repertory.core.arguments import check_choice, check_whole
from repertory.core.problem import Problem
from repertory.nn.graphs import check_features
from repertory.papers.ccgc.clustering import Clusters, high_confidence, squared_distances

PAIRED = 0.8
"""Share of each cluster's confident nodes that one step pairs."""


# -- graph filter -----------------------------------------------------------------------------------


def smooth(adjacency: sparse.csr_array, features: np.ndarray, steps: int) -> Tensor:
    """Low-pass filter of node features: X_s = S^t X with S = D̂^(-1/2) (A + I) D̂^(-1/2).

    Args:
        adjacency: (n, n), symmetric; self loops are taken out first.
        features: X, (n, d).
        steps: t; 0 leaves X as it is.

    Returns:
        (n, d) float32; the products are taken in float64.

    Raises:
        Problem: shapes that do not go together, or a negative t.

    Example:
        >>> pair = sparse.csr_array([[0.0, 1.0], [1.0, 0.0]])
        >>> smooth(pair, np.array([[1.0], [0.0]]), steps=1).flatten()
        tensor([0.5000, 0.5000])
    """
    check_whole("smooth", 0, steps=steps)
    if np.ndim(features) != 2 or adjacency.shape != (len(features),) * 2:
        what = f"adjacency of shape {adjacency.shape}, features of shape {np.shape(features)}"
        raise Problem(what, "smooth", "give (n, n) and (n, d)")
    plain = adjacency - sparse.diags_array(adjacency.diagonal())
    looped = sparse.csr_array(plain + sparse.eye_array(len(features)))
    root = sparse.diags_array(1 / np.sqrt(looped.sum(axis=1)))
    filtered, smoothed = root @ looped @ root, np.asarray(features, dtype=np.float64)
    for _ in range(steps):
        smoothed = filtered @ smoothed
    return torch.from_numpy(smoothed.astype(np.float32))


# -- two views --------------------------------------------------------------------------------------


class CCGC(nn.Module, PyTorchModelHubMixin):
    """Two linear encoders that share no weight: z_v = l2norm(W_v x + b_v), v = 1, 2.

    Parameters have the names of the authors' module, so their state dicts load as they are.

    Args:
        in_features: d, features of a node.
        hidden: h, width of the embedding.

    Raises:
        Problem: widths below 1; in `forward`, features of another shape.

    Example:
        >>> encoder = CCGC(in_features=81, hidden=500)
        >>> z1, z2 = encoder(torch.randn(131, 81))
        >>> z1.shape, encoder.embed(torch.randn(131, 81)).shape
        (torch.Size([131, 500]), torch.Size([131, 500]))
    """

    def __init__(self, in_features: int, hidden: int = 500) -> None:
        super().__init__()
        check_whole("CCGC", in_features=in_features, hidden=hidden)
        self.layers1 = nn.Linear(in_features, hidden)
        self.layers2 = nn.Linear(in_features, hidden)

    def forward(self, x1: Tensor, x2: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Smoothed features (n, d) -> two views (n, h) with rows of length 1; `x2` if view 2 sees other features."""
        for x in (x1,) if x2 is None else (x1, x2):
            check_features(x.shape, self.layers1.in_features, "CCGC", nodes=len(x1))
        z1 = F.normalize(self.layers1(x1), dim=1, eps=1e-12)
        z2 = F.normalize(self.layers2(x1 if x2 is None else x2), dim=1, eps=1e-12)
        return z1, z2

    def embed(self, x: Tensor) -> Tensor:
        """Fused embedding Z = (z_1 + z_2) / 2, (n, h), not normalised again."""
        z1, z2 = self(x)
        return (z1 + z2) / 2


# -- losses -----------------------------------------------------------------------------------------


def warmup_loss(z1: Tensor, z2: Tensor) -> Tensor:
    """Mean of (z_1 z_2ᵀ − I)² over its n² entries: a node resembles itself in the other view and no other node.

    Avoids the n × n matrix where n > 4 h: ‖z_1 z_2ᵀ − I‖² = tr((z_1ᵀ z_1)(z_2ᵀ z_2)) − 2 Σ_i z_1i · z_2i + n. The
    sum is then at least n − h, so cancellation is harmless.

    Args:
        z1: first view (n, h).
        z2: second view (n, h).

    Raises:
        Problem: the views differ in shape.
    """
    _check_views(z1, z2)
    n, h = z1.shape
    if n > 4 * h:
        return ((z1.T @ z1 * (z2.T @ z2)).sum() - 2 * (z1 * z2).sum() + n) / n**2
    similarity = z1 @ z2.T
    similarity.diagonal().sub_(1)
    return similarity.square().mean()


def _check_views(z1: Tensor, z2: Tensor) -> None:
    """Views of other shapes would be broadcast in silence."""
    check_features(z1.shape, None, "view 1")
    check_features(z2.shape, z1.shape[1], "view 2", len(z1))


def positive_pairs(labels: Tensor, share: float, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
    """Pair up random nodes of one cluster: for each cluster, two independent draws of ⌊share · size⌋ of its nodes.

    Args:
        labels: cluster of each node (m,).
        share: of each cluster, drawn without replacement for either side of the pairs.
        generator: CPU generator of the draws.

    Returns:
        Positions a (for view 1) and b (for view 2) into `labels`, of equal length; labels[a] == labels[b].
    """
    size = torch.bincount(labels)
    # Sorting random numbers of [0, 1) plus the label shuffles within each cluster, all clusters at once.
    keys = torch.rand(2, len(labels), dtype=torch.float64, generator=generator).to(labels.device)
    a, b = (keys + labels).argsort(dim=1)
    cluster = labels[a]
    rank = torch.arange(len(labels), device=labels.device) - (size.cumsum(0) - size)[cluster]
    drawn = rank < (share * size).long()[cluster]
    return a[drawn], b[drawn]


def positive_loss(z1: Tensor, z2: Tensor, clusters: int) -> Tensor:
    """L_P = (1/K) Σ_j (2 − 2 z_1j · z_2j), a sum over all pairs j of all clusters.

    Args:
        z1: first view of the pairs (p, h).
        z2: second view of the pairs (p, h).
        clusters: K.

    Raises:
        Problem: the views differ in shape.
    """
    _check_views(z1, z2)
    return (2 - 2 * (z1 * z2).sum(dim=1)).sum() / clusters


def cluster_centres(z: Tensor, labels: Tensor) -> Tensor:
    """Mean of `z` (m, h) over the members of each cluster that is present, of length 1: (K', h)."""
    present, position = labels.unique(return_inverse=True)
    members = F.one_hot(position, len(present)).to(z)
    return F.normalize(members.T @ z / members.sum(dim=0)[:, None], dim=1)


def negative_loss(c1: Tensor, c2: Tensor) -> Tensor:
    """L_N = mean of M², M_kl = c_1k · c_2l with a zero diagonal: pushes different clusters apart.

    Args:
        c1: centres in view 1 (K, h).
        c2: centres in view 2 (K, h).

    Raises:
        Problem: the views differ in shape.
    """
    _check_views(c1, c2)
    similarity = c1 @ c2.T
    return (similarity - similarity.diag().diag()).square().mean()


# -- trained clusterings ------------------------------------------------------------------------------


class Moment(nn.Module):
    """The clustering at one epoch: encoder, centres, and the distance below which a node is confident.

    Args:
        in_features: d.
        clusters: K.
        hidden: h of the encoder; 0: no encoder, the smoothed features themselves are clustered.
    """

    def __init__(self, in_features: int, clusters: int, hidden: int) -> None:
        super().__init__()
        self.encoder = CCGC(in_features, hidden) if hidden else None
        # NaN until K-means has run: weights of the authors' code have no centres.
        self.centres = nn.Buffer(torch.full((clusters, hidden or in_features), torch.nan))
        self.cut = nn.Buffer(torch.tensor(torch.nan))
        self.epoch = nn.Buffer(torch.tensor(-1))

    def embed(self, smoothed: Tensor) -> Tensor:
        """Smoothed features (n, d) -> Z (n, h)."""
        return self.encoder.embed(smoothed) if self.encoder else smoothed

    def forward(self, smoothed: Tensor) -> tuple[Tensor, Tensor]:
        """Smoothed features (n, d) -> Z (n, h) and squared distances to the centres (n, K), in float64."""
        z = self.embed(smoothed)
        return z, squared_distances(z, self.centres)


def kept_of(z: Tensor, found: Clusters, threshold: float) -> dict[str, Tensor]:
    """Centres and cut of a clustering of `z` (n, h), as a `Moment` keeps them.

    In float32, which every device supports. The cut is computed from the rounded centres and rounded down, so that
    the moment selects the same confident nodes.
    """
    centres = found.centres.float()
    cut = high_confidence(squared_distances(z, centres), threshold)[1].float()
    return {"centres": centres, "cut": cut.nextafter(torch.zeros_like(cut))}


class GraphClustering(nn.Module, PyTorchModelHubMixin):
    """A trained clustering: the graph filter, and one `Moment` for each protocol that picks one.

    Args:
        in_features: d.
        clusters: K.
        smoothing_steps: t of the graph filter.
        hidden: protocol -> h of its encoder, or 0 (see `Moment`).

    Raises:
        Problem: a number below 1, a negative t or h; in `forward`, features of another shape, or an unknown protocol.
    """

    def __init__(self, in_features: int, clusters: int, smoothing_steps: int, hidden: dict[str, int]) -> None:
        super().__init__()
        check_whole("GraphClustering", in_features=in_features, clusters=clusters)
        check_whole("GraphClustering", 0, smoothing_steps=smoothing_steps, **hidden)
        self.in_features, self.clusters, self.smoothing_steps = in_features, clusters, smoothing_steps
        self.moments = nn.ModuleDict({name: Moment(in_features, clusters, width) for name, width in hidden.items()})

    def moment(self, protocol: str = "last") -> Moment:
        """The clustering at the epoch that a protocol picks."""
        check_choice("GraphClustering", self.moments, protocol=protocol)
        return cast(Moment, self.moments[protocol])

    def forward(self, smoothed: Tensor, protocol: str = "last") -> tuple[Tensor, Tensor]:
        """Smoothed features (n, d) -> Z (n, h) and squared distances (n, K), at the moment that the protocol picks."""
        check_features(smoothed.shape, self.in_features, "GraphClustering")
        return self.moment(protocol)(smoothed)
