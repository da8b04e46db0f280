"""Point clouds: a dense U-Net on a grid of voxels, with the same branch on the features of the points.

The authors' network (a sparse MinkUNet) and recipe for ScanNet200 were never released: these are ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from huggingface_hub import PyTorchModelHubMixin
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor, nn
from torchvision.ops import Conv3dNormActivation

from repertory.core.printing import figure_text
from repertory.core.problem import Problem
from repertory.data.scannet import IGNORE
from repertory.papers.ceco.model import CeCoLoss, pixel_loss
from repertory.tasks.segmentation import class_legend, palette

WIDTHS = (16, 32, 64)


class Points(NamedTuple):
    """Points of one or several rooms."""

    places: Tensor
    """(N, 3) in metres."""
    colours: Tensor
    """(N, 3) from 0 to 1."""
    room: Tensor
    """(N,) number of the room, from 0."""
    rooms: int = 1
    """How many there are."""


def collate(rooms: list[tuple[Tensor, Tensor, Tensor]]) -> tuple[Points, Tensor]:
    """Rooms as one cloud, and the labels (N,) of its points."""
    places, colours, labels = (torch.cat(parts) for parts in zip(*rooms, strict=True))
    room = torch.repeat_interleave(torch.tensor([len(x) for x, _, _ in rooms]))
    return Points(places, colours, room, len(rooms)), labels


def mirrored(places: Tensor, colours: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Augmentation of a room: mirrored along x, along y, and x exchanged with y, with probability 1/2 each."""
    flips = torch.randint(2, (2,)) * 2 - 1
    x, y = places[:, 0] * flips[0], places[:, 1] * flips[1]
    if torch.rand(()) < 0.5:
        x, y = y, x
    return torch.stack([x, y, places[:, 2]], 1), colours, labels


class CeCoPoints(nn.Module, PyTorchModelHubMixin, library_name="repertory"):
    """A segmentation network of point clouds with the centre branch.

    A room starts at its lowest x, y and z. A voxel holds the mean colour of its points and whether there are any; a
    point has the features of its voxel.

    Args:
        num_classes: K.
        branch: options of `CeCoLoss`; None: the points' loss alone.
        voxel: side in metres.
        grid: voxels along x, y and z, multiples of 4; points outside are put into the outermost ones.
        avg_valid: see `pixel_loss`.
        label_names: of the classes.
        counts: training rooms of each class; for groups by frequency.

    Shape:
        points (N) -> logits (N, K); with labels (N,) -> losses "loss", "pixel" (of the points), "centre".

    Raises:
        Problem: a grid that is no multiple of 4.

    Example:
        >>> points = Points(torch.rand(50, 3), torch.rand(50, 3), torch.zeros(50, dtype=torch.long))
        >>> CeCoPoints(5, branch={}, grid=(8, 8, 8)).eval()(points).shape
        torch.Size([50, 5])
    """

    ignore = IGNORE

    def __init__(
        self,
        num_classes: int = 200,
        branch: dict[str, Any] | None = None,
        voxel: float = 0.1,
        grid: Sequence[int] = (48, 40, 28),
        avg_valid: bool = False,
        label_names: list[str] | None = None,
        counts: list[int] | None = None,
    ) -> None:
        super().__init__()
        if any(side % 4 for side in grid):
            raise Problem(f"a grid of {tuple(grid)} voxels", "grid", "give multiples of 4: the network halves it twice")
        small, middle, large = WIDTHS
        self.num_classes, self.voxel, self.grid, self.avg_valid = num_classes, voxel, tuple(grid), avg_valid
        self.label_names = label_names or [str(k) for k in range(num_classes)]
        self.counts = counts
        self.fine = Conv3dNormActivation(4, small)
        self.middle = nn.Sequential(Conv3dNormActivation(small, middle, stride=2), Conv3dNormActivation(middle, middle))
        self.coarse = nn.Sequential(Conv3dNormActivation(middle, large, stride=2), Conv3dNormActivation(large, large))
        self.up_middle = nn.ConvTranspose3d(large, middle, 2, stride=2)
        self.fuse_middle = Conv3dNormActivation(2 * middle, middle)
        self.up_fine = nn.ConvTranspose3d(middle, small, 2, stride=2)
        self.fuse_fine = Conv3dNormActivation(2 * small, 2 * small)
        self.classifier = nn.Linear(2 * small, num_classes)
        self.branch = None if branch is None else CeCoLoss(num_classes, 2 * small, **branch, ignore=IGNORE)

    def cells(self, points: Points) -> Tensor:
        """Number of each point's voxel in the grids of all rooms, (N,)."""
        corner = points.places.new_full((points.rooms, 3), torch.inf)
        corner = corner.scatter_reduce(0, points.room[:, None].expand(-1, 3), points.places, "amin")
        steps = ((points.places - corner[points.room]) / self.voxel).long()
        x, y, z = (steps[:, axis].clamp(0, side - 1) for axis, side in enumerate(self.grid))
        return ((points.room * self.grid[0] + x) * self.grid[1] + y) * self.grid[2] + z

    def forward_features(self, points: Points) -> Tensor:
        """Features of the points, (N, 32)."""
        cells = self.cells(points)
        size = points.rooms * self.grid[0] * self.grid[1] * self.grid[2]
        values = torch.cat([points.colours, torch.ones_like(points.colours[:, :1])], 1)
        sums = values.new_zeros(size, 4).index_add(0, cells, values)
        occupied = sums[:, 3:].clamp(max=1)
        voxels = torch.cat([sums[:, :3] / sums[:, 3:].clamp(min=1), occupied], 1)
        fine = self.fine(voxels.view(points.rooms, *self.grid, 4).movedim(-1, 1))  # (B, 16, X, Y, Z)
        middle = self.middle(fine)
        middle = self.fuse_middle(torch.cat([middle, self.up_middle(self.coarse(middle))], 1))
        fine = self.fuse_fine(torch.cat([fine, self.up_fine(middle)], 1))  # (B, 32, X, Y, Z)
        return fine.movedim(1, -1).reshape(size, -1)[cells]

    def forward(self, points: Points, labels: Tensor | None = None) -> Any:
        """See the class."""
        features = self.forward_features(points)
        logits = self.classifier(features)
        if labels is None:
            return logits
        losses = {"pixel": pixel_loss(logits, labels, IGNORE, self.avg_valid)}
        if self.branch is not None:
            losses["centre"] = self.branch(features, labels)
        return {"loss": torch.stack(list(losses.values())).sum(), **losses}

    def answer(self, points: Points) -> tuple[Tensor, Tensor]:
        """Classes (N,) and features (N, 32)."""
        features = self.forward_features(points)
        return self.classifier(features).argmax(1), features

    def classifier_rows(self) -> Tensor:
        """Weights of the classifier of the points, (K, 32)."""
        return self.classifier.weight.detach()


def picture(places: Tensor, ids: NDArray[Any], names: Sequence[str], title: str, most: int = 20) -> Figure:
    """A room from above and from a corner, its points in the colours of their classes, with a legend.

    Args:
        places: (N, 3) in metres.
        ids: classes (N,).
        names: of the classes.
        title: text from data; shown literally.
        most: classes in the legend; it says how many it leaves out.
    """
    colours = palette(len(names))[ids] / 255
    x, y, z = places.numpy().T
    figure = Figure(figsize=(11, 4), layout="constrained")
    above = figure.add_subplot(1, 2, 1)
    order = z.argsort()
    above.scatter(x[order], y[order], s=4, c=colours[order], linewidths=0)
    above.set_aspect("equal")
    above.set_title(figure_text(title), fontsize=9)
    corner: Any = figure.add_subplot(1, 2, 2, projection="3d")
    corner.scatter(x, y, z, s=4, c=colours, linewidths=0)
    corner.set_box_aspect((np.ptp(x), np.ptp(y), np.ptp(z)))
    for axes in (above, corner):
        axes.set_axis_off()
    class_legend(figure, ids, names, most)
    return figure
