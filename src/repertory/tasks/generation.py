"""Generation of images: distances between sets of images in the features of a network, sheets and strips of samples."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from repertory.core import checkpoint
from repertory.core.printing import figure_text
from repertory.core.problem import Problem

INCEPTION_SIDE = 299


def frechet_distance(one: Tensor, other: Tensor) -> float:
    """|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^1/2) of the features' means and covariances (Heusel et al., 2017, eq. 6).

    It is biased upwards for few images: report it beside its floor, the distance between two sets of real images.

    Args:
        one, other: features (N, F), (M, F), at least two each; computed in float64.

    Raises:
        Problem: fewer features, or features that are not finite.

    Example:
        >>> x = torch.randn(200, 3, generator=torch.Generator().manual_seed(0))
        >>> round(frechet_distance(x, x), 6), round(frechet_distance(x, x + 2), 6)
        (0.0, 12.0)
    """
    a, b = (_features(x, least=2) for x in (one, other))
    # With A = a_centred / sqrt(N - 1), the eigenvalues of (C1 C2)^1/2 are the singular values of A B^T. In a basis of
    # C1 and C2, F numbers suffice.
    roots = [_root(x) for x in (a, b)]
    overlap = np.linalg.svd(roots[0] @ roots[1], compute_uv=False).sum()
    spread = sum(float((root**2).sum()) for root in roots)  # tr C1 + tr C2
    return max(0.0, float(((a.mean(0) - b.mean(0)) ** 2).sum() + spread - 2 * overlap))


def _root(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """The symmetric square root of the covariance."""
    values, vectors = np.linalg.eigh(np.atleast_2d(np.cov(x, rowvar=False)))
    return (vectors * np.sqrt(values.clip(0))) @ vectors.T


def kernel_distance(one: Tensor, other: Tensor) -> float:
    """Squared maximum mean discrepancy with the kernel (x y / F + 1)^3, unbiased (Binkowski et al., 2018, section 4).

    Being unbiased, it may be below 0 where both sets are alike.

    Args:
        one, other: features (N, F), (M, F), at least two each; computed in float64.

    Raises:
        Problem: fewer features, or features that are not finite.
    """
    a, b = (_features(x, least=2) for x in (one, other))

    def kernel(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
        return (x @ y.T / x.shape[1] + 1) ** 3

    def within(x: NDArray[np.float64]) -> float:
        k = kernel(x, x)
        return float((k.sum() - np.trace(k)) / (len(x) * (len(x) - 1)))

    return within(a) + within(b) - 2 * float(kernel(a, b).mean())


def _features(x: Tensor, least: int) -> NDArray[np.float64]:
    if len(x) < least or not torch.isfinite(x).all():
        why = f"{len(x)} images" if len(x) < least else "features that are not finite"
        raise Problem(f"{why} for a distance between sets of images", "features", f"give at least {least} images")
    return x.flatten(1).double().cpu().numpy()


class Inception(nn.Module):
    """Pooled features (B, 2048) of torchvision's Inception v3, for images (B, C, H, W) in -1 to 1.

    FID by these features differs by some tenths from that of the TensorFlow network, which published figures rest on.

    Args:
        path: torchvision's weights, inception_v3_google-*.pth.

    Raises:
        Problem: not these weights.
    """

    def __init__(self, path: Path) -> None:
        from torchvision.models import inception_v3  # scipy makes it slow to build: only where it is asked for

        super().__init__()
        with torch.device("meta"):
            network = inception_v3(weights=None, aux_logits=True, transform_input=False, init_weights=False)
        network = network.to_empty(device="cpu")
        checkpoint.fit_weights(network, checkpoint.read_weights(path), path)
        network.register_module("fc", nn.Identity())
        self.network = network.eval()

    def forward(self, x: Tensor) -> Tensor:
        x = x.clamp(-1, 1).expand(-1, 3, -1, -1)
        size = (INCEPTION_SIDE, INCEPTION_SIDE)
        return cast(Tensor, self.network(F.interpolate(x, size, mode="bilinear", antialias=True)))


# -- pictures -----------------------------------------------------------------------------------


def pixels(x: Tensor) -> NDArray[np.uint8]:
    """Images (B, C, H, W) in -1 to 1 -> (B, H, W) for one channel, else (B, H, W, 3); values outside are cut."""
    shown = ((x.detach().float().cpu().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return shown[:, 0].numpy() if shown.shape[1] == 1 else shown.permute(0, 2, 3, 1).numpy()


def sheet_picture(x: Tensor, title: str, columns: int = 10) -> Figure:
    """Images (B, C, H, W) in -1 to 1 as a sheet, row by row."""
    shown = pixels(x)
    rows = [shown[k : k + columns] for k in range(0, len(shown), columns)]
    figure = Figure(figsize=(0.75 * columns, 0.75 * len(rows) + 0.5), layout="constrained")
    axes = figure.subplots()
    axes.imshow(_tiled(rows, columns), cmap="gray", vmin=0, vmax=255)
    axes.set_axis_off()
    axes.set_title(title, fontsize=9)
    return figure


def strip_picture(states: Sequence[Tensor], labels: Sequence[str], title: str) -> Figure:
    """States of several images, a row an image and a column a state.

    Args:
        states: (B, C, H, W) in -1 to 1, one a column.
        labels: of the columns.
        title: of the figure.
    """
    columns, width = len(states), states[0].shape[-1] + 1
    rows = list(np.stack([pixels(state) for state in states], axis=1))
    figure = Figure(figsize=(0.85 * columns, 0.85 * len(rows) + 0.8), layout="constrained")
    axes = figure.subplots()
    axes.imshow(_tiled(rows, columns), cmap="gray", vmin=0, vmax=255)
    axes.xaxis.tick_top()
    axes.set_xticks([k * width + (width - 2) / 2 for k in range(columns)], [figure_text(label) for label in labels])
    axes.set_yticks([])
    axes.tick_params(length=0, labelsize=7)
    axes.spines[:].set_visible(False)
    axes.set_title(title, fontsize=9)
    return figure


def _tiled(rows: Sequence[NDArray[np.uint8]], columns: int) -> NDArray[np.uint8]:
    """Rows of images (n, H, W) or (n, H, W, 3), n up to `columns`, as one image; white between them."""
    height, width = rows[0].shape[1] + 1, rows[0].shape[2] + 1
    sheet = np.full((len(rows) * height - 1, columns * width - 1, *rows[0].shape[3:]), 255, dtype=np.uint8)
    for i, row in enumerate(rows):
        for k, image in enumerate(row):
            top, left = i * height, k * width
            sheet[top : top + height - 1, left : left + width - 1] = image
    return sheet
