"""Figures: the error over time, samples beside the nearest training images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from matplotlib.figure import Figure
from torch import Tensor

from repertory.tasks.generation import strip_picture


def error_picture(times: Sequence[float], errors: Mapping[str, Sequence[float]]) -> Figure:
    """Error of the predicted noise over time, a line a network."""
    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axes = figure.subplots()
    for name, values in errors.items():
        axes.plot(times, values, "o-", label=name)
    axes.set_xlabel("time t: 0 image, 1 noise")
    axes.set_ylabel("squared error of the noise")
    axes.set_yscale("log")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def nearest(samples: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
    """The nearest of the images `real` (N, C, H, W) to each sample (B, C, H, W): numbers (B,) and distances (B,).

    The distance is the root mean square over pixels.
    """
    distances = torch.cdist(samples.flatten(1).float(), real.flatten(1).float()) / samples[0].numel() ** 0.5
    best = distances.min(1)
    return best.indices, best.values


def nearest_picture(samples: Tensor, neighbours: Tensor, distances: Tensor) -> Figure:
    """Samples (B, C, H, W) above their nearest training images: copies would show memorisation."""
    states = [torch.stack(pair) for pair in zip(samples, neighbours, strict=True)]
    labels = [f"{distance:.2f}" for distance in distances.tolist()]
    return strip_picture(states, labels, "samples (top), nearest training images (bottom), RMS distance")
