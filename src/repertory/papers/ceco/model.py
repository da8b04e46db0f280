"""CeCo: a second, balanced classification of class centres by a fixed simplex ETF (Zhong et al., CVPR 2023).

    branch = CeCoLoss(num_classes=150, feat_dim=512, prior=image_counts)
    loss = pixel_loss + branch(features, labels)          # features: input of the network's classifier

The branch exists in training only: the network and its inference stay as they are. It takes maps and points alike.

B images, N points, C channels, h x w places of a map, H x W pixels of the labels, K classes, d channels of a centre.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from repertory.core.problem import Problem

REDUCED, WIDTH = 128, 512
"""Channels of a centre, and of its features in front of the classifier."""
EPS = 1e-12
MOMENTUM = 0.1
"""Of the running statistics, torch's default."""

Classifier = Literal["etf", "random", "learned"]
Project = Literal["frozen", "learned", "none"]

VARIANTS: Mapping[str, dict[str, Any]] = {
    "ceco": {"classifier": "etf", "weight": 0.8, "scale": 5.0, "smooth": 1.0},
    "ceco_base": {"classifier": "etf", "weight": 0.2, "scale": 5.0, "smooth": 1.0},
    "rr": {"classifier": "random", "weight": 1.0, "scale": 1.0, "smooth": 0.5},
}
"""The released configurations: CeCo with Swin-T and Swin-B, and region rebalance, its linear predecessor."""


def simplex_etf(classes: int, dim: int, generator: torch.Generator | None = None) -> Tensor:
    """A random simplex equiangular tight frame: rows of length 1 whose pairwise cosines are -1 / (K - 1).

    M = sqrt(K / (K - 1)) P (I - 1 1ᵀ / K), where P are K columns of a random orthogonal matrix.

    Args:
        classes: K, at least 2.
        dim: d, at least K.
        generator: source of the random matrix; default: torch's own.

    Returns:
        (K, d), float32, computed in float64.

    Raises:
        Problem: fewer than 2 classes, or more than `dim`; gives the least width.

    Example:
        >>> frame = simplex_etf(5, 8)
        >>> torch.allclose(frame @ frame.T, 1.25 * torch.eye(5) - 0.25, atol=1e-6)
        True
    """
    if classes < 2:
        raise Problem(f"{classes} class(es): a simplex needs 2", "simplex ETF", "give 2 classes or more")
    if classes > dim:
        remedy = f"give features of at least {classes} channels, or another classifier than etf"
        raise Problem(f"{classes} classes do not fit into {dim} channels", "simplex ETF", remedy)
    # Q of a Gaussian matrix, with the signs of R's diagonal, is uniform (Haar).
    q, r = torch.linalg.qr(torch.randn(dim, dim, generator=generator, dtype=torch.float64, device="cpu"))
    p = (q * r.diagonal().sign())[:, :classes]  # (d, K)
    m = math.sqrt(classes / (classes - 1)) * (p - p.mean(1, keepdim=True))
    return F.normalize(m.T, dim=1).float()


def labelled(labels: Tensor, classes: int, ignore: int) -> Tensor:
    """Labels with all that is no class, `ignore` among it, set to K."""
    return labels.where((labels >= 0) & (labels < classes) & (labels != ignore), classes)


def pooling_weights(labels: Tensor, size: tuple[int, int], classes: int, dtype: torch.dtype) -> Tensor:
    """Weight of each place of a map in the sum over a class's pixels, the map upsampled bilinearly to the labels.

    The map itself is not upsampled (align_corners): a pixel adds its four bilinear weights to the row of its class. At
    512 x 512 pixels and stride 4 this takes a small part of the memory and time.

    Args:
        labels: (B, H, W), 0 to K; K: left out.
        size: h, w of the map.
        classes: K.
        dtype: of the result.

    Returns:
        (K, B h w).
    """
    (height, width), (rows, columns) = size, labels.shape[-2:]
    places = len(labels) * height * width
    top, bottom, below = _corners(rows, height, labels.device, dtype)
    left, right, beside = _corners(columns, width, labels.device, dtype)
    image = torch.arange(len(labels), device=labels.device)[:, None, None] * (height * width)
    start = labels * places + image  # (B, H, W): where the image's places begin in the row of the pixel's class
    weights = torch.zeros((classes + 1) * places, device=labels.device, dtype=dtype)
    for row, vertical in ((top, 1 - below), (bottom, below)):
        for column, horizontal in ((left, 1 - beside), (right, beside)):
            cells = start + (row * width)[:, None] + column
            share = (vertical[:, None] * horizontal).expand_as(cells)
            weights.index_add_(0, cells.flatten(), share.flatten())
    return weights.view(classes + 1, places)[:classes]


def _corners(pixels: int, places: int, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """For each pixel along one axis: the place before it, the place after it, and the weight of the latter."""
    step = (places - 1) / (pixels - 1) if pixels > 1 else 0.0
    position = torch.arange(pixels, device=device, dtype=dtype) * step
    before = position.long().clamp(max=places - 1)
    return before, (before + 1).clamp(max=places - 1), position - before


class CeCoLoss(nn.Module):
    """The centre branch: loss of the class centres of a batch, to be added to the loss of the pixels.

    1. `reduce`: 1 x 1 convolution C -> 128; `norm`: BatchNorm2d.
    2. The mean over all labelled pixels of the batch of each class that is there, at the size of the labels.
    3. `gain`: linear 128 -> 512, ReLU.
    4. L2 norm (ETF only), dropout, classifier, times `scale`.
    5. Cross entropy with logits + log(prior), each class counting once.

    As released, these layers are random and never trained: their gradient goes on to the features. All tensors
    are in the state dict, so that a resumed training has the same frame. With several processes each takes the centres
    of its own batch, as released.

    Args:
        num_classes: K.
        feat_dim: C, channels of the features.
        prior: (K,) how many training images (or pixels) hold each class; None: no adjustment.
        classifier: "etf": a fixed simplex ETF without bias; "random": linear, not trained (region rebalance);
            "learned": linear, trained.
        project: `reduce`, `norm`, `gain` are "frozen", "learned", or "none": centres of the features themselves, and a
            frame of width C.
        weight: w, factor of the loss.
        scale: factor of the logits.
        smooth: target of the true class; the other classes share the rest. 1: no smoothing.
        drop_rate: dropout in front of the classifier.
        ignore: label that is left out; so is any below 0, or of K and more.

    Shape:
        features (B, C, h, w) with labels (B, H, W), or (N, C) with (N,) -> scalar, float32; 0 without labelled pixels.

    Raises:
        Problem: K exceeds the width of the frame (gives the least width); a prior of another length, or negative;
            an unknown word.

    Example:
        >>> branch = CeCoLoss(num_classes=4, feat_dim=16, prior=[90, 40, 9, 1])
        >>> features = torch.randn(2, 16, 8, 8, requires_grad=True)
        >>> branch(features, torch.randint(4, (2, 32, 32))).backward()
        >>> features.grad.shape
        torch.Size([2, 16, 8, 8])
    """

    def __init__(
        self,
        num_classes: int,
        feat_dim: int,
        prior: Sequence[float] | Tensor | None = None,
        classifier: Classifier = "etf",
        project: Project = "frozen",
        weight: float = 0.8,
        scale: float = 5.0,
        smooth: float = 1.0,
        drop_rate: float = 0.1,
        ignore: int = 255,
    ) -> None:
        super().__init__()
        check_options(classifier, project)
        self.num_classes, self.ignore = num_classes, ignore
        self.weight, self.scale, self.smooth = weight, scale, smooth
        width = feat_dim if project == "none" else WIDTH
        projected = project != "none"
        self.reduce = nn.Conv2d(feat_dim, REDUCED, 1, bias=False) if projected else None
        self.norm = nn.BatchNorm2d(REDUCED) if projected else None
        self.gain = nn.Sequential(nn.Linear(REDUCED, width), nn.ReLU()) if projected else nn.Identity()
        self.normalise = classifier == "etf"
        self.dropout = nn.Dropout(drop_rate)
        self.classifier = nn.Linear(width, num_classes)
        if classifier == "etf":
            self.classifier.weight.data.copy_(simplex_etf(num_classes, width))
            nn.init.zeros_(self.classifier.bias)
        self.register_buffer("prior", prior_of(prior, num_classes))
        self.prior: Tensor

        frozen = [self.reduce, self.norm, self.gain] if project == "frozen" else []
        for module in [*frozen, *([self.classifier] if classifier != "learned" else [])]:
            if module is not None:
                module.requires_grad_(False)

    def centres(self, features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Reduced class centres.

        Args:
            features: (B, C, h, w), or (N, C).
            labels: (B, H, W), or (N,).

        Returns:
            (K, 128), zeros where a class is absent, and pixels of each class (K,).
        """
        labels = labelled(labels, self.num_classes, self.ignore)
        with torch.autocast(features.device.type, enabled=False):  # sums of many small numbers
            tokens = features.float() if features.ndim == 2 else features.movedim(1, -1).flatten(0, -2).float()
            ones = tokens.new_ones(labels.numel())
            count = tokens.new_zeros(self.num_classes + 1).index_add(0, labels.flatten(), ones)[: self.num_classes]
            if features.shape[2:] == labels.shape[1:]:
                sums = tokens.new_zeros(self.num_classes + 1, tokens.shape[1])
                sums = sums.index_add(0, labels.flatten(), tokens)[: self.num_classes]  # (K, C)
            else:
                size = features.shape[-2], features.shape[-1]
                sums = pooling_weights(labels, size, self.num_classes, tokens.dtype) @ tokens
            return self.reduced(sums / count.clamp(min=1)[:, None], tokens), count

    def reduced(self, means: Tensor, tokens: Tensor) -> Tensor:
        """`reduce` and `norm` of class means (K, C) -> (K, 128), with the statistics of all features (B h w, C).

        Convolution and batch norm are affine: they are applied to K means in place of B h w features. The variance of
        a reduced channel is w Cov wᵀ, with the covariance of the features and the channel's row w.
        """
        norm = self.norm
        if self.reduce is None or norm is None:
            return means
        w = self.reduce.weight.flatten(1)  # (128, C)
        mean, var = norm.running_mean, norm.running_var
        assert mean is not None
        assert var is not None
        if norm.training:
            centre = tokens.mean(0)
            deviations = tokens - centre
            mean = w @ centre
            scatter = deviations.detach().T @ deviations  # (C, C)
            scatter = 2 * scatter - scatter.detach()  # both factors have the same gradient: it is computed once
            var = ((w @ scatter) * w).sum(1) / len(tokens)
            self._track(mean.detach(), var.detach(), len(tokens))
        return (means @ w.T - mean) * (var + norm.eps).rsqrt() * norm.weight + norm.bias

    def _track(self, mean: Tensor, var: Tensor, count: int) -> None:
        """Move the running statistics of `norm`, as BatchNorm2d does."""
        running: dict[str, Tensor] = dict(self.norm.named_buffers()) if self.norm is not None else {}
        running["running_mean"].lerp_(mean, MOMENTUM)
        running["running_var"].lerp_(var * (count / max(count - 1, 1)), MOMENTUM)
        running["num_batches_tracked"].add_(1)

    def logits(self, centres: Tensor) -> Tensor:
        """Centres (K, 128) -> logits (K, K), before the prior."""
        f = self.gain(centres)  # (K, 512)
        if self.normalise:
            f = F.normalize(f, dim=1)
        return self.classifier(self.dropout(f)) * self.scale

    def loss(self, logits: Tensor, count: Tensor) -> Tensor:
        """Cross entropy of the centres whose class is there (`count` > 0), smoothed and adjusted by the prior."""
        log_prior = (self.prior / self.prior.sum() + EPS).log()
        log_p = (logits.float() + log_prior).log_softmax(1)  # (K, K)
        others = (1 - self.smooth) / (self.num_classes - 1)
        true = log_p.diagonal()
        each = self.smooth * true + others * (log_p.sum(1) - true)
        present = (count > 0).to(each.dtype)
        return -self.weight * (each * present).sum() / (present.sum() + EPS)

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        """See the class."""
        centres, count = self.centres(features, labels)
        return self.loss(self.logits(centres), count)


def prior_of(counts: Sequence[float] | Tensor | None, classes: int) -> Tensor:
    """Counts of the classes, (K,) float32; all 1 where there are none.

    Raises:
        Problem: another number of counts, a negative one, or none above 0.
    """
    if counts is None:
        return torch.ones(classes)
    prior = torch.as_tensor(counts, dtype=torch.float32).flatten()
    if len(prior) != classes:
        raise Problem(f"a prior of {len(prior)} counts for {classes} classes", "prior", "give one for each class")
    if not prior.isfinite().all() or prior.min() < 0 or prior.sum() <= 0:
        raise Problem("a prior with counts that are negative, not finite, or all 0", "prior", "give counts of images")
    return prior


def check_options(classifier: str, project: str) -> None:
    """Raises `Problem` for an unknown word; lists the known ones."""
    for name, value, known in (
        ("classifier", classifier, ("etf", "random", "learned")),
        ("project", project, ("frozen", "learned", "none")),
    ):
        if value not in known:
            raise Problem(f"no {name} {value!r}", "CeCoLoss", f"choose from {', '.join(known)}")


def pixel_loss(logits: Tensor, labels: Tensor, ignore: int = 255, avg_valid: bool = False) -> Tensor:
    """Cross entropy of the pixels or points.

    As released, the sum over labelled pixels is divided by the number of all of them, ignored ones included.

    Args:
        logits: (B, K, h, w), resized bilinearly to the labels; or (N, K).
        labels: (B, H, W), or (N,).
        ignore: label that is left out.
        avg_valid: divide by the number of labelled pixels; 0 where there are none.
    """
    if logits.shape[2:] != labels.shape[1:]:
        logits = F.interpolate(logits, labels.shape[1:], mode="bilinear", align_corners=False)
    total = F.cross_entropy(logits.float(), labels, ignore_index=ignore, reduction="sum")
    return total / ((labels != ignore).sum().clamp(min=1) if avg_valid else max(labels.numel(), 1))
