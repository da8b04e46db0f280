"""The training loop: AdamW with a cyclic learning rate and momentum, as published; and pre-training of the trunks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

import torch
from huggingface_hub import PyTorchModelHubMixin
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset

from repertory.core.batchnorm import over_processes
from repertory.core.loops import Loop, cyclic
from repertory.core.settings import Recipe
from repertory.core.study import Session
from repertory.core.training import Batches
from repertory.data.boxes3d import CORNERS
from repertory.papers.cmt.encoding import Bounds, bev_grid, limits, pixel_grid
from repertory.papers.cmt.items import Batch, collate
from repertory.papers.cmt.model import CMT
from repertory.papers.cmt.settings import CMTConfig

M = TypeVar("M", bound=nn.Module)

RISE = 0.4
"""Share of the steps in which the learning rate rises."""
FINAL = 1e-4
"""Last learning rate relative to the first."""
BETA, LOWEST_BETA = 0.9, 0.85 / 0.95
"""Of the first moment: at both ends, and relative to it at the peak."""
HIDDEN = -2.19
"""First bias of the heat-maps: a probability of 0.1."""


def train(
    session: Session,
    model: M,
    stages: Sequence[tuple[Dataset[Any], int]],
    config: CMTConfig,
    groups: list[dict[str, Any]],
    *,
    part: str = "",
) -> M:
    """Train on one data set after another under one cycle of the learning rate; returns the model in evaluation mode.

    Args:
        session: of the trial.
        model: its `forward` takes a `Batch` as arguments and returns losses, "loss" their sum.
        stages: data sets, each with its number of epochs.
        config: of the study.
        groups: of parameters, with `lr_scale` and `weight_decay`.
        part: name of the loop.

    Raises:
        Problem: a data set is empty.
        Diverged: a loss or a weight is not finite.
    """
    fabric = session.fabric
    recipe = Recipe(batch_size=config.batch_size, workers=config.workers)
    batches = [Batches(session, data, recipe, collate) for data, _ in stages]
    total = sum(len(one) * epochs for one, (_, epochs) in zip(batches, stages, strict=True))
    optimizer = torch.optim.AdamW(groups, lr=config.lr, betas=(BETA, 0.999))
    wrapped, optimizer = fabric.setup(model, optimizer)
    loop = Loop(session, total, part=part, unit="step", log_every=20, model=wrapped, optimizer=optimizer)
    stream = _stream(batches, [epochs for _, epochs in stages], loop.step)
    wrapped.train()
    for step in loop:
        lr = cyclic(step, total, config.lr, config.lr * config.peak_ratio, config.lr * FINAL, RISE)
        beta = cyclic(step, total, BETA, BETA * LOWEST_BETA, BETA, RISE)
        for group in optimizer.param_groups:
            group["lr"], group["betas"] = lr * group["lr_scale"], (beta, 0.999)
        with over_processes(model, fabric.world_size):
            losses = wrapped(*fabric.to_device(next(stream)))
            value = loop.check(losses["loss"])
            optimizer.zero_grad()
            fabric.backward(losses["loss"])
        fabric.clip_gradients(wrapped, optimizer, max_norm=config.clip_norm, error_if_nonfinite=False)
        optimizer.step()
        loop.log(lr=lr, **{**{name: float(loss.detach()) for name, loss in losses.items()}, "loss": value})
    return model.eval()


def _stream(batches: Sequence[Batches], epochs: Sequence[int], step: int) -> Iterator[Batch]:
    """The batches of all stages from a step on; epochs are numbered through."""
    before = 0
    for one, count in zip(batches, epochs, strict=True):
        for epoch in range(count):
            if step < len(one):
                yield from one.epoch(before + epoch, step)
            step = max(0, step - len(one))
        before += count


# -- pre-training of the trunks -----------------------------------------------------------------


class Trunks(nn.Module, PyTorchModelHubMixin):
    """Both trunks of a detector with a layer of heat-maps each: where, and of which class, objects are.

    It stands for the detection weights that the authors start from. Image cells learn which classes' projected boxes
    cover them, BEV cells how near the centre of an object of each class is.

    Args:
        options: arguments of `CMT`, with both sensors.
    """

    def __init__(self, options: dict[str, Any]) -> None:
        super().__init__()
        model = CMT(**options)
        self.bounds, classes = model.bounds, len(model.classes)
        self.image_trunk, self.lidar_trunk = model.image_trunk, model.lidar_trunk
        self.image_map = nn.Conv2d(model.head.dim, classes, 1)
        self.bev_map = nn.Conv2d(self.lidar_trunk.out_channels, classes, 1)
        for layer in (self.image_map, self.bev_map):
            nn.init.constant_(layer.bias, HIDDEN)  # pyright: ignore[reportArgumentType]

    def forward(
        self, images: Tensor, lidar2img: Tensor, points: list[Tensor], boxes: list[Tensor], labels: list[Tensor]
    ) -> dict[str, Tensor]:
        """Losses of a batch, see `Batch`."""
        features = self.image_map(self.image_trunk(images.flatten(0, 1))).unflatten(0, images.shape[:2])
        covered = occupancy(lidar2img, boxes, labels, features.shape[2:], (images.shape[-2], images.shape[-1]))
        of_images = F.binary_cross_entropy_with_logits(features, covered)
        bev = self.bev_map(self.lidar_trunk(points))
        of_bev = heat_loss(bev, heat_map(boxes, labels, bev.shape[1:], self.bounds))
        return {"loss": 10 * of_images + of_bev, "image_loss": of_images, "bev_loss": of_bev}


@torch.no_grad()
def occupancy(
    lidar2img: Tensor, boxes: Sequence[Tensor], labels: Sequence[Tensor], shape: Sequence[int], image: tuple[int, int]
) -> Tensor:
    """Which cells of image features the rectangles around projected boxes touch, by class, (B, V, K, h, w).

    Args:
        lidar2img: (B, V, 4, 4).
        boxes: of each sample, (n, 9).
        labels: of each sample, (n,).
        shape: K, h, w.
        image: height, width of the images.
    """
    target = lidar2img.new_zeros(*lidar2img.shape[:2], *shape)
    height, width = shape[1:]
    corner = pixel_grid((height, width), image, lidar2img.device)[..., :2]  # upper left
    cell = corner.new_tensor([image[1] / width, image[0] / height])
    for sample, (own, names) in enumerate(zip(boxes, labels, strict=True)):
        if not len(own):
            continue
        points = torch.einsum("vij,nkj->vnki", lidar2img[sample, :, :3, :3], corners_of(own))
        points = points + lidar2img[sample, :, None, None, :3, 3]
        ahead = (points[..., 2] > 0.1).all(-1)  # (V, n)
        pixels = points[..., :2] / points[..., 2:].clamp(min=0.1)
        low, high = pixels.amin(2)[:, :, None, None], pixels.amax(2)[:, :, None, None]  # (V, n, 1, 1, 2)
        touched = ((corner + cell > low) & (corner < high)).all(-1) & ahead[..., None, None]  # (V, n, h, w)
        target[sample].index_add_(1, names, touched.to(target.dtype))
    return target.clamp(max=1)


def corners_of(boxes: Tensor) -> Tensor:
    """Corners (n, 8, 3) of boxes (n, 7 or more)."""
    local = boxes.new_tensor(CORNERS) * boxes[:, None, 3:6]
    c, s = boxes[:, 6, None].cos(), boxes[:, 6, None].sin()
    turned = [c * local[..., 0] - s * local[..., 1], s * local[..., 0] + c * local[..., 1], local[..., 2]]
    return torch.stack(turned, -1) + boxes[:, None, :3]


@torch.no_grad()
def heat_map(boxes: Sequence[Tensor], labels: Sequence[Tensor], shape: Sequence[int], bounds: Bounds) -> Tensor:
    """Gaussians around the centres of boxes, one cell wide, (B, K, ny, nx); 1 in the cell of a centre."""
    classes, ny, nx = shape
    target = boxes[0].new_zeros(len(boxes), classes, ny, nx)
    low, extent = limits(bounds, target)
    size = target.new_tensor([nx, ny])
    cells = bev_grid(ny, nx, target.device).view(ny, nx, 2) * size
    for sample, (own, names) in enumerate(zip(boxes, labels, strict=True)):
        for box, label in zip(own, names.tolist(), strict=True):
            centre = ((box[:2] - low[:2]) / extent[:2] * size).floor() + 0.5
            heat = (-(cells - centre).square().sum(-1) / 2).exp()
            target[sample, label] = torch.maximum(target[sample, label], heat)
    return target


def heat_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Focal loss of heat-maps (Law and Deng, CornerNet, ECCV 2018), over the number of centres."""
    p = logits.sigmoid().clamp(1e-4, 1 - 1e-4)
    centre = target > 0.999
    positive = -((1 - p).square() * p.log())[centre].sum()
    negative = -((1 - target).pow(4) * p.square() * (1 - p).log())[~centre].sum()
    return (positive + negative) / centre.sum().clamp(min=1)
