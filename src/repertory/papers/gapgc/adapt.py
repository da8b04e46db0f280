"""Test-time adaptation along a stream of unlabelled batches: for each an adversarial step, then the prediction.

Nothing here reads labels.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from huggingface_hub import PyTorchModelHubMixin
from torch import Tensor, nn

from repertory.core.arguments import check_choice
from repertory.core.loops import finite, fuses
from repertory.papers.gapgc.graphs import GraphBatch, repeat
from repertory.papers.gapgc.losses import (
    binary_entropy,
    centroid_labels,
    group_contrast,
    info_nce,
    information_maximisation,
    own_contrast,
)
from repertory.papers.gapgc.model import (
    Augmenter,
    GraphClassifier,
    Knowledge,
    Pool,
    Projector,
    Scorer,
    batch_statistics,
    dropped_share,
    norms_of,
    untouched_statistics,
)
from repertory.papers.gapgc.settings import ARMS, GAPGCConfig


class AdaptiveClassifier(nn.Module, PyTorchModelHubMixin, library_name="repertory"):
    """A trained source classifier, not adapted yet, and what its arm needs to adapt it.

    Args:
        arm: name in `ARMS`.
        tasks: names of the T binary tasks.
        layers, dim, dropout, jk, pool: of the classifier.
        scorer, keep_bias, augmenter_tau, hard: of the augmenter, where the arm has one.

    Raises:
        Problem: an unknown arm, or no tasks; see also `GIN` and `Augmenter`.
    """

    threshold: Tensor
    """(T,) least logit with pseudo-label 1."""

    def __init__(
        self,
        arm: str,
        tasks: list[str],
        layers: int = 5,
        dim: int = 300,
        dropout: float = 0.5,
        jk: Knowledge = "last",
        pool: Pool = "mean",
        scorer: Scorer = "mlp",
        keep_bias: float = 0.0,
        augmenter_tau: float = 1.0,
        hard: bool = False,
    ) -> None:
        super().__init__()
        check_choice("AdaptiveClassifier", ARMS, arm=arm)
        self.arm, self.tasks, self.layers, self.dim = arm, list(tasks), layers, dim
        self.classifier = GraphClassifier(len(tasks), layers, dim, dropout, jk, pool)
        encoder = self.classifier.encoder
        self.projector = Projector(encoder.width) if ARMS[arm].kind == "contrast" else None
        self.augmenter = None
        if ARMS[arm].views == "learned":
            self.augmenter = Augmenter(copy.deepcopy(encoder), scorer, keep_bias, augmenter_tau, hard)
        self.register_buffer("threshold", torch.zeros(len(tasks)))
        self.streams: list[Stream] = []  # of an adapted model; no weights, so they are not saved

    def forward(self, graphs: GraphBatch) -> Tensor:
        """Logits (G, T) of the source classifier."""
        return self.classifier(graphs)

    def start_from(self, source: AdaptiveClassifier) -> None:
        """Copy a source classifier; the augmenter's encoder starts as a copy of the classifier's."""
        self.classifier.load_state_dict(source.classifier.state_dict())
        self.threshold.copy_(source.threshold)
        if self.augmenter is not None:
            self.augmenter.encoder.load_state_dict(source.classifier.encoder.state_dict())


@dataclass
class Stream:
    """Results of adapting along a stream of n graphs; row i belongs to graph i of the data, whatever the order."""

    before: Tensor
    """Logits (n, T) of the source model."""
    after: Tensor
    """Logits (n, T) after adapting to the batch that holds the graph."""
    features_before: Tensor
    """(n, width)."""
    features_after: Tensor
    keep: dict[int, np.ndarray] = field(default_factory=dict)
    """Graph -> σ(ω) of its bonds, in arms with a learned augmenter."""
    records: list[dict[str, float]] = field(default_factory=list)
    """One for each batch: loss, R (dropped), mean entropy before and after, skipped updates."""
    refused: int = 0
    """Number of graphs in batches of one, which the source model predicts."""
    rows: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))
    """Indices of the graphs, in the order of the stream."""

    def outcome(self) -> Stream:
        """The stream without the fields that only pictures need."""
        none = self.features_before[:0]
        return replace(self, features_before=none, features_after=none, keep={})

    def state(self) -> dict[str, Any]:
        """Plain values, for a resume point; see `Stream.of`."""
        return {**vars(self), "keep": {row: torch.from_numpy(keep) for row, keep in self.keep.items()}}

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> Stream:
        """The stream of a `state`."""
        return cls(**{**state, "keep": {row: keep.numpy() for row, keep in state["keep"].items()}})


class Adaptation:
    """A classifier that changes along a stream.

    Args:
        source: the initial model, not changed.
        config: how it adapts.
        generator: of the CPU, for views.
    """

    def __init__(self, source: AdaptiveClassifier, config: GAPGCConfig, generator: torch.Generator) -> None:
        self.source, self.config, self.generator = source, config, generator
        self.arm = ARMS[source.arm]
        self.reset()

    def reset(self) -> None:
        """Back to the source model, optimisers included."""
        config = self.config
        self.model = model = copy.deepcopy(self.source).eval()
        self.psi = [] if model.augmenter is None else list(model.augmenter.parameters())
        encoder = model.classifier.encoder
        # The head h is in no optimiser: the meaning of the features stays fixed.
        match self.arm.kind:
            case "tent":
                self.theta, lr = [p for norm in norms_of(encoder) for p in norm.parameters()], config.tent_lr
            case "shot":
                self.theta, lr = list(encoder.parameters()), config.adapt_lr
            case "contrast":
                assert model.projector is not None
                self.theta, lr = [*encoder.parameters(), *model.projector.parameters()], config.adapt_lr
            case _:
                self.theta, lr = [], 0.0
        self.descent = torch.optim.Adam(self.theta, lr=lr, fused=fuses(self.theta[0].device)) if self.theta else None
        self.ascent = (
            torch.optim.Adam(self.psi, lr=config.augmenter_lr, fused=fuses(self.psi[0].device)) if self.psi else None
        )

    def adapt(self, graphs: GraphBatch) -> dict[str, float]:
        """Let the model adapt to a batch of two graphs or more, with gradients enabled; returns what to record.

        Raises:
            Diverged: the loss is not finite.
        """
        if self.descent is None:
            return {}
        batch_statistics(self.model)
        objective = {"tent": self._tent, "shot": self._shot, "contrast": self._contrast}[self.arm.kind]
        losses, record, skipped = [], {}, 0
        for _ in range(self.config.steps):
            loss, record = objective(graphs)
            if loss is None:
                skipped += 1
                continue
            losses.append(loss.item())
            self._update(self.descent, self.theta, loss)
        return {**record, "loss": float(np.mean(losses)) if losses else math.nan, "skipped": skipped}

    @torch.no_grad()
    def predict(self, graphs: GraphBatch) -> tuple[Tensor, Tensor]:
        """Pooled vectors (G, width) and logits (G, T) of the un-augmented graphs."""
        classifier = self.model.classifier.eval()
        if self.arm.kind in ("statistics", "tent"):
            batch_statistics(classifier)
        with untouched_statistics(classifier):
            pooled = classifier.encoder.embed(graphs)
        return pooled, classifier.head(pooled)

    # -- the losses of the arms -----------------------------------------------------------------

    def _tent(self, graphs: GraphBatch) -> tuple[Tensor | None, dict[str, float]]:
        with untouched_statistics(self.model):  # predictions use the batch's statistics
            return binary_entropy(self.model(graphs)).mean(), {}

    def _shot(self, graphs: GraphBatch) -> tuple[Tensor | None, dict[str, float]]:
        pooled = self.model.classifier.encoder.embed(graphs)
        logits = self.model.classifier.head(pooled)
        labels = centroid_labels(pooled.detach(), logits.detach())
        loss = information_maximisation(logits)
        return loss + self.config.shot_weight * F.binary_cross_entropy_with_logits(logits, labels), {}

    def _contrast(self, graphs: GraphBatch) -> tuple[Tensor | None, dict[str, float]]:
        """Ascent step of the augmenter, then the loss for the descent of encoder and projector."""
        model, bonds = self.model, graphs.edge_index.shape[1] // 2
        assert model.projector is not None
        # The clean pass alone updates running statistics. f does not change between the two steps.
        pooled = model.classifier.encoder.embed(graphs)
        anchors = model.projector(pooled)

        if model.augmenter is not None and self.ascent is not None and bonds:
            keep = self.keep_weights(graphs)
            loss = self.contrast(graphs, pooled, anchors.detach(), keep)
            if loss is not None:
                gain = loss - self.config.lam * dropped_share(keep, graphs)
                self._update(self.ascent, self.psi, -gain)

        with torch.no_grad():
            keep = self.keep_weights(graphs)
            record = {"dropped": dropped_share(keep, graphs).item()}
        return self.contrast(graphs, pooled, anchors, keep), record

    def keep_weights(self, graphs: GraphBatch) -> Tensor:
        """p (V, bonds): weight of each bond's messages in the views."""
        shape = self.config.views, graphs.edge_index.shape[1] // 2
        noise = torch.rand(shape, generator=self.generator).to(graphs.x.device)
        if self.model.augmenter is None:
            return (noise >= self.config.drop).float()
        with untouched_statistics(self.model.augmenter):
            return self.model.augmenter.keep(self.model.augmenter.logits(graphs), noise)

    def contrast(self, graphs: GraphBatch, pooled: Tensor, anchors: Tensor, keep: Tensor) -> Tensor | None:
        """The arm's contrast of anchors with views; None if all pseudo-labels agree and it has no signal.

        Args:
            graphs: the batch.
            pooled: vectors of the clean graphs (G, width), for their pseudo-labels.
            anchors: projected vectors (G, width).
            keep: p (V, bonds).
        """
        config, model = self.config, self.model
        assert model.projector is not None
        copies = repeat(graphs, config.views)
        weights = keep.repeat_interleave(2, dim=1).flatten()  # both directions of a bond
        if self.arm.spoilt:
            of_views = model.classifier.encoder.embed(copies, weights)
        else:
            with untouched_statistics(model.classifier):
                of_views = model.classifier.encoder.embed(copies, weights)
        views = model.projector(of_views)  # (V G, width)

        if self.arm.groups:
            with torch.no_grad():
                of_anchors, logits = model.classifier.head(pooled), model.classifier.head(of_views)
                labels, view_labels = of_anchors >= model.threshold, logits >= model.threshold
                every = torch.cat([labels, view_labels])
                divided = every.any(0) & ~every.all(0)
                sure = (logits.sigmoid() - 0.5).abs() + 0.5 > config.confidence if config.confidence else None
            if not divided.any():
                return None
            counted = None if sure is None else sure[:, divided]
            return group_contrast(anchors, views, labels[:, divided], view_labels[:, divided], config.tau, counted)
        if self.arm.views == "learned":
            return own_contrast(anchors, views, config.tau)
        return torch.stack([info_nce(anchors, view, config.tau) for view in views.chunk(config.views)]).mean()

    def _update(self, optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter], loss: Tensor) -> None:
        """One optimiser step of these parameters."""
        finite(loss, f"while {self.model.arm} adapts")
        grads = torch.autograd.grad(loss, parameters, allow_unused=True)
        for parameter, grad in zip(parameters, grads, strict=True):
            parameter.grad = grad
        torch.nn.utils.clip_grad_norm_(parameters, self.config.adapt_clip)
        optimizer.step()


def adapt_along(
    source: AdaptiveClassifier,
    batches: Iterable[tuple[np.ndarray, GraphBatch]],
    size: int,
    config: GAPGCConfig,
    generator: torch.Generator,
) -> tuple[Stream, AdaptiveClassifier]:
    """Adapt to each batch of a stream, then predict it.

    Args:
        source: the source model with its arm, not changed.
        batches: (numbers of the graphs, their batch).
        size: n, number of graphs; rows of those in no batch stay NaN.
        config: how.
        generator: of the CPU.

    Returns:
        The results, and the model at the end of the stream.
    """
    adaptation, still = Adaptation(source, config, generator), copy.deepcopy(source).eval()
    device, width = source.threshold.device, source.classifier.encoder.width
    columns = (len(source.tasks),) * 2 + (width,) * 2
    before, after, features_before, features_after = (torch.full((size, k), torch.nan, device=device) for k in columns)
    stream = Stream(before, after, features_before, features_after)
    for rows, graphs in batches:
        index = torch.as_tensor(rows, device=device)
        with torch.no_grad():
            stream.features_before[index] = pooled = still.classifier.encoder.embed(graphs)
            stream.before[index] = logits = still.classifier.head(pooled)
        if config.reset == "episodic":
            adaptation.reset()
        if graphs.num_graphs > 1:
            record = adaptation.adapt(graphs)
            stream.features_after[index], stream.after[index] = adaptation.predict(graphs)
        else:  # neither statistics nor negatives
            record = {}
            stream.refused += 1
            stream.features_after[index], stream.after[index] = pooled, logits
        entropies = {
            "entropy_before": binary_entropy(logits).mean().item(),
            "entropy": binary_entropy(stream.after[index]).mean().item(),
        }
        stream.rows = torch.cat([stream.rows, torch.as_tensor(rows)])
        stream.records.append({"graphs": graphs.num_graphs, **entropies, **record})
        if adaptation.model.augmenter is not None:
            stream.keep.update(zip(rows.tolist(), _keep_of(adaptation.model.augmenter, graphs), strict=True))
    return stream, adaptation.model.eval()


@torch.no_grad()
def _keep_of(augmenter: Augmenter, graphs: GraphBatch) -> list[np.ndarray]:
    """σ(ω) of each graph's bonds."""
    keep = augmenter.eval().logits(graphs).sigmoid().cpu().numpy()
    of_bond = graphs.batch[graphs.edge_index[0, ::2]]
    counts = torch.bincount(of_bond, minlength=graphs.num_graphs).cpu().numpy()
    return np.split(keep, np.cumsum(counts)[:-1])
