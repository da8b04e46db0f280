"""Six defences: two that look at the model, two at its inputs, two at the distilled images.

Neural Cleanse (Wang et al., S&P 2019) and fine-pruning (Liu et al., RAID 2018); STRIP (Gao et al., ACSAC 2019) and
input transformation; Activation Clustering (Chen et al., 2018) and Spectral Signatures (Tran et al., NeurIPS 2018).
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.metrics import roc_auc_score, silhouette_score
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.transforms import v2

from repertory.papers.doorping.networks import Network

Inputs = tuple[Tensor, Tensor]
"""Normalised images (N, C, S, S) and labels (N,)."""
BATCH = 512
MAD = 1.4826
"""Median absolute deviation -> standard deviation of normal data."""
SUCCESS = 0.99
ANOMALY = 2.0
FALSE_ALARMS = 0.01
SILHOUETTE = 0.15
SMALL_CLUSTER = 0.35
DIMENSIONS = 10
QUALITY = 75
"""Of JPEG."""


@torch.no_grad()
def logits_of(net: nn.Module, x: Tensor) -> Tensor:
    """(N, K), in batches."""
    return torch.cat([net(part) for part in x.split(BATCH)])


def accuracy(net: nn.Module, inputs: Inputs) -> float:
    """In per cent."""
    return 100 * float((logits_of(net, inputs[0]).argmax(1) == inputs[1]).float().mean())


# -- the model ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cleansed:
    """What Neural Cleanse finds for each class."""

    masks: Tensor
    """(K, S, S), 0 to 1."""
    index: Tensor
    """(K,): deviations of the mask's L1 norm from the median; positive: smaller than it."""

    @property
    def flagged(self) -> list[int]:
        """Classes that a suspiciously small mask leads to."""
        return (self.index > ANOMALY).nonzero()[:, 0].tolist()


def neural_cleanse(
    net: nn.Module, x: Tensor, classes: int, bounds: tuple[Tensor, Tensor], steps: int, cost: float = 1e-3
) -> Cleansed:
    """The smallest mask and pattern that turn images into each class; all classes at once.

    Adam(0.1, betas 0.5, 0.9) lowers CE(x (1 - m) + m p, y) + cost |m|_1. The cost grows by 1.5 where more than 99 % of
    the images become y, and falls by 1.5 where not. The smallest mask that reaches 99 % counts; else the last.

    Args:
        net: in evaluation mode.
        x: clean images (n, C, S, S), normalised.
        classes: K.
        bounds: black and white, normalised; the pattern lies between.
        steps: of Adam.
        cost: initial.
    """
    black, white = bounds
    n, _, side, _ = x.shape
    mask = torch.zeros(classes, 1, side, side, device=x.device).requires_grad_()
    pattern = torch.zeros(classes, *x.shape[1:], device=x.device).requires_grad_()
    optimizer = torch.optim.Adam([mask, pattern], lr=0.1, betas=(0.5, 0.9))
    costs = torch.full((classes,), cost, device=x.device)
    best = torch.full((classes,), torch.inf, device=x.device)
    masks = torch.zeros(classes, side, side, device=x.device)
    targets = torch.arange(classes, device=x.device).repeat_interleave(n)
    for _ in range(steps):
        with torch.enable_grad():
            m = mask.sigmoid()
            p = black + (white - black) * pattern.sigmoid()
            mixed = x * (1 - m[:, None]) + m[:, None] * p[:, None]  # (K, n, C, S, S)
            logits = net(mixed.flatten(0, 1))
            entropy = F.cross_entropy(logits, targets, reduction="none").view(classes, n).mean(1)
            size = m.sum((1, 2, 3))
            loss = (entropy + costs * size).sum()
            mask.grad, pattern.grad = torch.autograd.grad(loss, [mask, pattern])
        reached = (logits.argmax(1) == targets).view(classes, n).float().mean(1) > SUCCESS
        better = reached & (size < best)
        best[better], masks[better] = size.detach()[better], m.detach()[better, 0]
        costs = torch.where(reached, costs * 1.5, costs / 1.5)
        optimizer.step()
    never = best.isinf()
    final = mask.detach().sigmoid()[:, 0]
    masks[never] = final[never]
    sizes = masks.sum((1, 2))
    median = sizes.median()
    deviation = MAD * (sizes - median).abs().median()
    return Cleansed(masks, (median - sizes) / deviation.clamp(min=1e-12))


@dataclass(frozen=True)
class Pruned:
    """A network after fine-pruning."""

    net: Network
    channels: int
    """How many were pruned."""


def fine_pruning(
    net: Network, data: Inputs, drop: float, epochs: int, lr: float, batch: int = 256, momentum: float = 0.9
) -> Pruned:
    """Prune the channels of the last convolution that clean images use least, then fine-tune.

    Channels are pruned in the order of their mean activation, until the clean accuracy is `drop` points lower.

    Args:
        net: left as it is.
        data: clean images with labels; the victim's own.
        drop: points of accuracy that pruning may cost.
        epochs: of fine-tuning; order by torch's global generator.
        lr: of fine-tuning.
        batch: images in a step.
        momentum: of fine-tuning.
    """
    pruned = copy.deepcopy(net).eval()
    last = [module for module in pruned.features.modules() if isinstance(module, nn.Conv2d)][-1]
    keep = torch.ones(last.out_channels, device=data[0].device)
    means: list[Tensor] = []
    seen = last.register_forward_hook(lambda _m, _i, output: means.append(output.relu().sum((0, 2, 3))))
    logits_of(pruned, data[0])
    seen.remove()
    order = torch.stack(means).sum(0).argsort()

    # A hook with the mask, so that fine-tuning cannot bring a channel back.
    def masked(_module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return output * keep[:, None, None]

    last.register_forward_hook(masked)
    floor, channels = accuracy(pruned, data) - drop, 0
    for channel in order[:-1]:
        keep[channel] = 0
        if accuracy(pruned, data) < floor:
            keep[channel] = 1
            break
        channels += 1
    optimizer = torch.optim.SGD(pruned.parameters(), lr, momentum)
    with torch.enable_grad():
        for _ in range(epochs):
            for rows in torch.randperm(len(data[0])).to(data[0].device).split(batch):
                loss = F.cross_entropy(pruned(data[0][rows]), data[1][rows])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
    return Pruned(pruned, channels)


# -- its inputs ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Strip:
    """What STRIP says of triggered images."""

    detected: float
    """Share of them that is detected, in per cent, where 1 % of clean images raise a false alarm."""
    auroc: float
    """Area under the ROC curve, in per cent; 50: chance."""


def strip(
    net: nn.Module, suspects: Tensor, clean: Tensor, overlays: Tensor, count: int, generator: torch.Generator
) -> Strip:
    """Mix every input half and half with clean images; predictions of triggered ones should keep a low entropy.

    Args:
        net: in evaluation mode.
        suspects: triggered images.
        clean: clean images, which set the threshold.
        overlays: images to mix with.
        count: how many for each input.
        generator: draws them.
    """
    low = [-_mixed_entropy(net, x, overlays, count, generator) for x in (suspects, clean)]
    threshold = np.quantile(low[1], 1 - FALSE_ALARMS)
    truth = np.repeat([1, 0], [len(suspects), len(clean)])
    return Strip(100 * float((low[0] > threshold).mean()), 100 * float(roc_auc_score(truth, np.concatenate(low))))


def _mixed_entropy(
    net: nn.Module, x: Tensor, overlays: Tensor, count: int, generator: torch.Generator
) -> NDArray[np.float64]:
    """Mean entropy of the predictions for each input, (N,)."""
    total = torch.zeros(len(x), device=x.device)
    for _ in range(count):
        chosen = torch.randint(len(overlays), (len(x),), generator=generator).to(x.device)
        logs = logits_of(net, (x + overlays[chosen]) / 2).log_softmax(1)
        total -= (logs.exp() * logs).sum(1)
    return (total / count).double().cpu().numpy()


def transformed(x: Tensor, mean: Tensor, std: Tensor, generator: torch.Generator) -> Tensor:
    """Random crop (an eighth of padding), random mirroring, JPEG: what a careful service does to its inputs.

    JPEG holds pixels from 0 to 255, so triggers are clipped to them.

    Args:
        x: normalised (N, C, S, S).
        mean: (C, 1, 1).
        std: (C, 1, 1).
        generator: draws places and mirrorings.
    """
    side = x.shape[-1]
    margin = max(1, side // 8)
    padded = F.pad(x, (margin,) * 4, mode="replicate")
    places = torch.randint(0, 2 * margin + 1, (len(x), 2), generator=generator).tolist()
    mirrored = (torch.rand(len(x), generator=generator) < 0.5).tolist()
    jpeg = v2.JPEG(QUALITY)
    result = []
    for image, (top, left), flip in zip(padded, places, mirrored, strict=True):
        crop = image[:, top : top + side, left : left + side]
        pixels = ((crop.flip(-1) if flip else crop) * std + mean).mul(255).round().clamp(0, 255).byte().cpu()
        result.append(jpeg(pixels))
    return (torch.stack(result).to(x) / 255 - mean) / std


# -- the distilled images -----------------------------------------------------------------------


@torch.no_grad()
def _features(net: Network, images: Tensor) -> NDArray[np.float64]:
    return torch.cat([net.forward_features(part) for part in images.split(BATCH)]).double().cpu().numpy()


def _by_class(
    net: Network, images: Tensor, labels: Tensor, judge: Callable[[NDArray[np.float64]], NDArray[np.bool_]]
) -> NDArray[np.bool_]:
    """Apply a judge to the features of each class, (n, F) -> (n,); gives (N,)."""
    features, classes = _features(net, images), labels.cpu().numpy()
    found = np.zeros(len(classes), bool)
    for label in np.unique(classes):
        found[classes == label] = judge(features[classes == label])
    return found


def activation_clustering(net: Network, images: Tensor, labels: Tensor) -> NDArray[np.bool_]:
    """Split the features of each class in two; (N,): the images in the smaller cluster of a suspicious class.

    A class is suspicious where the clusters are well separated (silhouette above 0.15) or one is small (below 35 %).
    Classes of fewer than 4 images are not judged.
    """

    def judge(features: NDArray[np.float64]) -> NDArray[np.bool_]:
        if len(features) < 4 or np.ptp(features, axis=0).max() == 0:
            return np.zeros(len(features), bool)
        low = PCA(min(DIMENSIONS, len(features) - 1, features.shape[1]), random_state=0).fit_transform(features)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of clusters that coincide
            cluster = KMeans(2, n_init=cast(Any, 10), random_state=0).fit_predict(low)
        small = cluster == (0 if (cluster == 0).sum() <= len(cluster) / 2 else 1)
        if len(set(cluster.tolist())) < 2:
            return np.zeros(len(features), bool)
        suspicious = silhouette_score(low, cluster) > SILHOUETTE or small.mean() < SMALL_CLUSTER
        return small & bool(suspicious)

    return _by_class(net, images, labels, judge)


def spectral_signatures(net: Network, images: Tensor, labels: Tensor, share: float) -> NDArray[np.bool_]:
    """Score images by their projection on the first singular vector of their class; (N,): the highest of each class.

    Args:
        net: trained on the images.
        images: distilled.
        labels: of them.
        share: assumed share of poison; 1.5 times as many of each class are flagged, at least 1.
    """

    def judge(features: NDArray[np.float64]) -> NDArray[np.bool_]:
        centred = features - features.mean(0)
        first = np.linalg.svd(centred, full_matrices=False)[2][0]
        score = (centred @ first) ** 2
        flagged = np.zeros(len(features), bool)
        flagged[np.argsort(-score, kind="stable")[: max(1, round(1.5 * share * len(features)))]] = True
        return flagged

    return _by_class(net, images, labels, judge)
