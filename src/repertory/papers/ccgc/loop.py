"""Training: one full-batch step per epoch, clusters refreshed by K-means every few epochs (the authors' train.py)."""

from __future__ import annotations

import math
import warnings

import numpy as np
import torch
from torch import Tensor

from repertory.core.study import Session
from repertory.core.training import Diverged
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
from repertory.papers.ccgc.recipe import CCGCConfig
from repertory.papers.ccgc.scores import accuracy, relative_inertia

PROTOCOLS = {
    "oracle": "the clustering with the best ACC, chosen with the true labels: what the paper reports",
    "last": "the last clustering",
    "stop": "the clustering with the least inertia relative to the variance of Z: our rule, which needs no labels",
}


class Record:
    """Every clustering's score, and the state at those that a protocol picks.

    Args:
        labels: true labels (n,), for scoring; None: there is no oracle.
        threshold: τ, the share of nodes that count as confident.
        history: of an interrupted run.
        picks: of an interrupted run.
    """

    def __init__(
        self,
        labels: np.ndarray | None,
        threshold: float,
        history: list[dict[str, float]] | None = None,
        picks: dict[str, dict[str, Tensor]] | None = None,
    ) -> None:
        self.labels, self.threshold = labels, threshold
        self.history = history or []
        self.picks = picks or {}

    def add(self, epoch: int, z: Tensor, found: Clusters, encoder: CCGC | None = None) -> dict[str, float]:
        """Score one clustering of the embedding `z` (without an encoder: of the smoothed features)."""
        score = {"epoch": epoch, "inertia": relative_inertia(z, found.distances)}
        if self.labels is not None:
            score["acc"] = accuracy(self.labels, found.labels.cpu().numpy())
        moment = {**kept_of(z, found, self.threshold), "epoch": torch.tensor(epoch)}
        if encoder:
            moment |= {f"encoder.{name}": tensor for name, tensor in encoder.state_dict().items()}
        moment = {name: tensor.detach().to("cpu", copy=True) for name, tensor in moment.items()}

        self.picks["last"] = moment
        if score.get("acc", -math.inf) > max((s["acc"] for s in self.history if "acc" in s), default=-math.inf):
            self.picks["oracle"] = moment
        # Before training the smoothed features are clustered, not Z: their inertia says nothing about Z's.
        comparable = [s["inertia"] for s in self.history if s["epoch"] >= 0 or not encoder]
        if score["inertia"] < min(comparable, default=math.inf):
            self.picks["stop"] = moment
        self.history.append(score)
        return score

    def model(self, in_features: int, clusters: int, smoothing_steps: int) -> GraphClustering:
        """The module that holds all picks."""
        picks = {name: self.picks[name] for name in PROTOCOLS if name in self.picks}
        hidden = {name: len(m.get("encoder.layers1.bias", ())) for name, m in picks.items()}
        model = GraphClustering(in_features, clusters, smoothing_steps, hidden)
        for name, moment in picks.items():
            model.moment(name).load_state_dict(moment)
        return model.eval()


def cluster_restarts(
    session: Session, x: Tensor, clusters: int, threshold: float, restarts: int, labels: np.ndarray | None
) -> Record:
    """K-means on smoothed features `x` (n, d), `restarts` times: as often as the trained arms are looked at."""
    record = Record(labels, threshold)
    for restart in session.progress(range(restarts), "K-means"):
        found = kmeans(x, clusters, session.generator("kmeans", restart))
        record.add(restart - 1, x, found)
    return record


def cluster_contrastively(
    session: Session, x: Tensor, clusters: int, config: CCGCConfig, lr: float, labels: np.ndarray | None
) -> Record:
    """Train CCGC, or one of its ablations, on smoothed features `x` (n, d).

    Raises:
        Diverged: the loss is not finite.
    """
    session.reseed("encoder")
    encoder = CCGC(x.shape[1], config.hidden)
    if config.views == "masking":
        encoder.layers2 = encoder.layers1
    optimizer = torch.optim.Adam(encoder.parameters(), lr=lr, fused=x.device.type in ("cpu", "cuda"))
    network, optimizer = session.fabric.setup(encoder, optimizer)

    saved = session.resume(model=network, optimizer=optimizer)
    if saved:
        record = Record(labels, config.threshold, saved["history"], saved["picks"])
        found = Clusters(*(session.fabric.to_device(part) for part in saved["found"]))
        for parameter, gradient in zip(encoder.parameters(), saved["gradients"], strict=False):
            parameter.grad = session.fabric.to_device(gradient)
    else:
        record = Record(labels, config.threshold)
        found = kmeans(x, clusters, session.generator("kmeans", 0))
        record.add(-1, x, found)
    members = confident_members(found, config)

    skipped = 0
    # No step after the last refresh could change a clustering, so none is taken.
    epochs = range(saved.get("step", 0), last_refresh(config) + 1)
    for epoch in session.progress(epochs, "train"):
        generator = session.generator("draws", epoch)
        z1, z2 = network(*views(x, config, generator))
        if epoch < config.warmup_epochs:
            loss = warmup_loss(z1, z2)
        else:
            loss = guided_loss(z1, z2, *members, clusters, config, generator) if members else None
        if loss is None:
            skipped += 1
            continue
        if not math.isfinite(loss.item()):
            raise Diverged(
                f"the loss is {loss.item()} at epoch {epoch}", "training; the last good state is kept", "lower lr"
            )
        if not config.accumulate_grad:
            optimizer.zero_grad()
        session.fabric.backward(loss)
        optimizer.step()

        if epoch % config.refresh_every == 0:
            with torch.no_grad():
                z = encoder.embed(x)
            found = kmeans(z, clusters, session.generator("kmeans", epoch + 1))
            members = confident_members(found, config)
            score = record.add(epoch, z, found, encoder)
            session.log(epoch, part="", loss=loss.item(), **{name: v for name, v in score.items() if name != "epoch"})
            session.keep(
                epoch + 1,
                model=network,
                optimizer=optimizer,
                found=list(found),
                gradients=[p.grad for p in encoder.parameters()] if config.accumulate_grad else [],
                history=record.history,
                picks=record.picks,
            )
    if skipped:
        warnings.warn(
            f"{skipped} epochs were skipped: the confident nodes were all in one cluster, or too few to pair; "
            "a larger threshold, or fewer clusters, would use them",
            stacklevel=2,
        )
    return record


def last_refresh(config: CCGCConfig) -> int:
    """The last epoch after which clusters are refreshed (epochs count from 0)."""
    return (config.epochs - 1) // config.refresh_every * config.refresh_every


def views(x: Tensor, config: CCGCConfig, generator: torch.Generator) -> tuple[Tensor, ...]:
    """What the encoders see: the same features; or, for the shared encoder, two copies with other columns masked.

    Masking columns of S^t X is masking those of X.
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
    """L = L_P + α L_N over the confident nodes; None if there is nothing to pull together (L_P = 0)."""
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
