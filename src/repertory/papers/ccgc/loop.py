"""Training: one full-batch step per epoch, clusters refreshed by K-means every few epochs (the authors' train.py)."""

from __future__ import annotations

import math
import warnings

import numpy as np
import torch
from torch import Tensor

from repertory.core.loops import Loop, Picks, fuses
from repertory.core.study import Session
from repertory.papers.ccgc.clustering import Clusters, high_confidence, kmeans
from repertory.papers.ccgc.model import (
    CCGC,
    PAIRED,
    GraphClustering,
    cluster_centres,
    kept_of,
    negative_loss,
    positive_loss,
    positive_pairs,
    warmup_loss,
)
from repertory.papers.ccgc.settings import CCGCConfig
from repertory.tasks.graphs import clustering_accuracy, relative_inertia

PROTOCOLS = {
    "oracle": "the clustering with the best ACC, chosen with the true labels: what the paper reports",
    "last": "the last clustering",
    "stop": "the clustering with the least inertia relative to the variance of Z: our rule, which needs no labels",
}


def offer(
    picks: Picks,
    epoch: int,
    z: Tensor,
    found: Clusters,
    threshold: float,
    labels: np.ndarray | None,
    encoder: CCGC | None = None,
    *,
    trained: bool = True,
) -> dict[str, float]:
    """Score one clustering and offer it to the protocols.

    Args:
        picks: of this run.
        epoch: number of the clustering; -1 before training.
        z: what was clustered (n, h).
        found: the clustering.
        threshold: τ, the share of nodes that count as confident.
        labels: true labels (n,); None: there is no oracle.
        encoder: that embeds; None: the smoothed features themselves are clustered.
        trained: False: the features of an arm that clusters Z later; their inertia says nothing about Z's.

    Returns:
        Inertia and, with labels, acc.
    """
    scores = {"last": float(epoch)}
    noted = {"inertia": relative_inertia(z, found.distances)}
    if labels is not None:
        scores["oracle"] = noted["acc"] = clustering_accuracy(labels, found.labels.cpu().numpy())
    scores["stop"] = -noted["inertia"] if trained else -math.inf

    def moment() -> dict[str, Tensor]:
        weights = encoder.state_dict() if encoder else {}
        return {
            **kept_of(z, found, threshold),
            "epoch": torch.tensor(epoch),
            **{f"encoder.{name}": tensor for name, tensor in weights.items()},
        }

    picks.offer(epoch, scores, moment, **noted)
    return noted


def clustering_of(picks: Picks, in_features: int, clusters: int, smoothing_steps: int) -> GraphClustering:
    """Build the module with the state that each protocol picked."""
    moments = {name: picks.state(name) for name in PROTOCOLS if name in picks.picked}
    hidden = {name: len(state.get("encoder.layers1.bias", ())) for name, state in moments.items()}
    model = GraphClustering(in_features, clusters, smoothing_steps, hidden)
    for name, state in moments.items():
        model.moment(name).load_state_dict(state)
    return model.eval()


def cluster_restarts(
    session: Session, x: Tensor, clusters: int, threshold: float, restarts: int, labels: np.ndarray | None
) -> Picks:
    """K-means on smoothed features `x` (n, d), `restarts` times: as often as the trained arms are scored."""
    picks = Picks(ties="last")  # as the authors: of equal accuracies the later
    for restart in session.progress(range(restarts), "K-means"):
        found = kmeans(x, clusters, session.generator("kmeans", restart))
        offer(picks, restart - 1, x, found, threshold, labels)
    return picks


def cluster_contrastively(
    session: Session, x: Tensor, clusters: int, config: CCGCConfig, lr: float, labels: np.ndarray | None
) -> Picks:
    """Train CCGC, or one of its ablations, on smoothed features `x` (n, d).

    Raises:
        Diverged: the loss is not finite.
    """
    session.reseed("encoder")
    encoder = CCGC(x.shape[1], config.hidden)
    if config.views == "masking":
        encoder.layers2 = encoder.layers1
    optimizer = torch.optim.Adam(encoder.parameters(), lr=lr, fused=fuses(x.device))
    network, optimizer = session.fabric.setup(encoder, optimizer)

    picks = Picks(ties="last")  # as the authors: of equal accuracies the later
    # No step after the last refresh can change a clustering, so none is taken.
    loop = Loop(session, last_refresh(config) + 1, model=network, optimizer=optimizer, picks=picks)
    if loop.extra:
        found = Clusters(*(session.fabric.to_device(part) for part in loop.extra["found"]))
        for parameter, gradient in zip(encoder.parameters(), loop.extra["gradients"], strict=False):
            parameter.grad = session.fabric.to_device(gradient)
    else:
        found = kmeans(x, clusters, session.generator("kmeans", 0))
        offer(picks, -1, x, found, config.threshold, labels, trained=False)
        loop.extra |= {"found": list(found), "gradients": [], "skipped": 0}
    members = confident_members(found, config)

    for epoch in loop:
        generator = session.generator("draws", epoch)
        z1, z2 = network(*views(x, config, generator))
        if epoch < config.warmup_epochs:
            loss = warmup_loss(z1, z2)
        else:
            loss = guided_loss(z1, z2, *members, clusters, config, generator) if members else None
        if loss is None:
            loop.extra["skipped"] += 1
            continue
        loop.check(loss)
        if not config.accumulate_grad:
            optimizer.zero_grad()
        session.fabric.backward(loss)
        optimizer.step()
        if config.accumulate_grad:
            loop.extra["gradients"] = [parameter.grad for parameter in encoder.parameters()]

        if epoch % config.refresh_every == 0:
            with torch.no_grad():
                z = encoder.embed(x)
            found = kmeans(z, clusters, session.generator("kmeans", epoch + 1))
            members = confident_members(found, config)
            loop.extra["found"] = list(found)
            loop.log(loss=loss.item(), **offer(picks, epoch, z, found, config.threshold, labels, encoder))
    if loop.extra["skipped"]:
        warnings.warn(
            f"{loop.extra['skipped']} epochs were skipped: the confident nodes were all in one cluster, or too few to "
            "pair; a larger threshold, or fewer clusters, would use them",
            stacklevel=2,
        )
    return picks


def last_refresh(config: CCGCConfig) -> int:
    """The last epoch after which clusters are refreshed (epochs count from 0)."""
    return (config.epochs - 1) // config.refresh_every * config.refresh_every


def views(x: Tensor, config: CCGCConfig, generator: torch.Generator) -> tuple[Tensor, ...]:
    """Inputs of the encoders: the features once; for the shared encoder two copies with different columns masked.

    Masking columns of S^t X equals masking those of X.
    """
    if config.views == "encoders":
        return (x,)
    kept = torch.rand(2, 1, x.shape[1], generator=generator) >= config.mask_rate
    return tuple(x * kept.to(x))


def confident_members(found: Clusters, config: CCGCConfig) -> tuple[Tensor, Tensor] | None:
    """Nodes that guide the contrast and their clusters, each (m,); None if they belong to fewer than 2 clusters."""
    nodes = high_confidence(found.distances, config.threshold)[0].nonzero().flatten()
    labels = found.labels[nodes]
    if not len(nodes) or labels.min() == labels.max():
        return None
    if config.skip_first_cluster:
        nodes, labels = nodes[labels > labels.min()], labels[labels > labels.min()]
    return nodes, labels


def guided_loss(
    z1: Tensor,
    z2: Tensor,
    nodes: Tensor,
    labels: Tensor,
    clusters: int,
    config: CCGCConfig,
    generator: torch.Generator,
) -> Tensor | None:
    """L = L_P + α L_N over the confident nodes; None if L_P = 0."""
    a, b = positive_pairs(labels, PAIRED, generator)
    positive = positive_loss(z1[nodes[a]], z2[nodes[b]], clusters)
    if not positive:
        return None
    if config.negatives == "centres":
        c1, c2 = cluster_centres(z1[nodes], labels), cluster_centres(z2[nodes], labels)
    else:
        others = torch.randperm(len(z1), generator=generator)[: len(labels.unique())].to(z1.device)
        c1, c2 = z1[others], z2[others]
    return positive + config.alpha * negative_loss(c1, c2)
