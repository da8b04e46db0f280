"""The head: tokens of the sensors -> boxes, by coordinates encoding and a decoder.

`CMTHead` is the fusion head; with `lidar=False` it is the camera head, with `cameras=False` the LiDAR head.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from repertory.core.arguments import check_whole
from repertory.core.problem import Problem
from repertory.papers.cmt.decoder import Decoder
from repertory.papers.cmt.denoising import Noised, noised_queries
from repertory.papers.cmt.encoding import (
    Bounds,
    RayEmbedding,
    bev_grid,
    image_rays,
    inverse_sigmoid,
    limits,
    pos2embed,
    query_rays,
)
from repertory.papers.cmt.losses import code_of, denoising_losses, from_code, layer_losses

OUTPUTS = {"center": 2, "height": 1, "dim": 3, "rot": 2, "vel": 2}
"""What is predicted of a box -> how many numbers."""
CLASS_BIAS = -2.19
"""First bias of the class logits: a probability of 0.1."""
BEYOND = (-61.2, -61.2, -10.0, 61.2, 61.2, 10.0)
"""Bounds in metres that decoded centres must be within, for the range of nuScenes."""

Predictions = dict[str, Tensor]
"""center (L, B, Q, 2), height (1), dim (3), rot (2), vel (2) and cls_logits (K); the first five, concatenated in this
order, are the code of a box, see `box_code`."""


class GroupLayerNorm(nn.Module):
    """Normalise the channels of each group at every position, (B, L C, Q), same shape.

    Args:
        channels: C, of a group.
        groups: L.
    """

    def __init__(self, channels: int, groups: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.groups, self.eps = groups, eps
        self.weight = nn.Parameter(torch.ones(groups * channels))
        self.bias = nn.Parameter(torch.zeros(groups * channels))

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        grouped = x.unflatten(1, (self.groups, -1))
        centred = grouped - grouped.mean(2, keepdim=True)
        variance = centred.square().mean(2, keepdim=True)
        normed = (centred * (variance + self.eps).rsqrt()).flatten(1, 2)
        return normed * self.weight[:, None] + self.bias[:, None]


class LayerwiseHead(nn.Sequential):
    """Two convolutions over the queries whose weights differ by decoder layer, (B, L C, Q) -> (B, L out, Q)."""

    def __init__(self, dim: int, hidden: int, out: int, layers: int, kernel: int) -> None:
        padding = kernel // 2
        super().__init__(
            nn.Conv1d(layers * dim, layers * hidden, kernel, padding=padding, groups=layers, bias=False),
            GroupLayerNorm(hidden, layers),
            nn.ReLU(),
            nn.Conv1d(layers * hidden, layers * out, kernel, padding=padding, groups=layers),
        )
        for layer in self:
            if isinstance(layer, nn.Conv1d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)


class CMTHead(nn.Module):
    """Cross Modal Transformer on the tokens of cameras, LiDAR or both.

    Args:
        in_channels: of the BEV map.
        classes: K.
        bounds: x0, y0, z0, x1, y1, z1 of the scene in metres.
        dim: C.
        heads: of the attention.
        layers: L, of the decoder.
        ffn: width of the feed-forward networks.
        depths: D, samples along a ray.
        queries: Q.
        head_channels: hidden channels of the prediction heads.
        kernel: of the prediction heads over the queries; the LiDAR head has 3, and mixes neighbours.
        dropout: of the decoder.
        cameras: there are image tokens.
        lidar: there are BEV tokens.

    Raises:
        Problem: an argument out of its range, or no sensor.

    Example:
        >>> head = CMTHead(8, 3, (-20, -20, -3, 20, 20, 3), dim=16, layers=2, queries=5, cameras=False)
        >>> head(torch.rand(1, 8, 4, 4))["center"].shape
        torch.Size([2, 1, 5, 2])
    """

    def __init__(
        self,
        in_channels: int = 512,
        classes: int = 10,
        bounds: Bounds = (-54.0, -54.0, -5.0, 54.0, 54.0, 3.0),
        dim: int = 256,
        heads: int = 8,
        layers: int = 6,
        ffn: int = 1024,
        depths: int = 64,
        queries: int = 900,
        head_channels: int = 64,
        kernel: int = 1,
        dropout: float = 0.1,
        *,
        cameras: bool = True,
        lidar: bool = True,
    ) -> None:
        super().__init__()
        self.classes, self.queries, self.cameras, self.lidar = classes, queries, cameras, lidar
        self.dim, self.bounds = dim, bounds
        if lidar:
            self.shared_conv = nn.Sequential()
            self.shared_conv.add_module("conv", nn.Conv2d(in_channels, dim, 3, padding=1, bias=False))
            self.shared_conv.add_module("bn", nn.BatchNorm2d(dim))
        if cameras:
            self.rv_embedding = RayEmbedding(dim, depths, bounds)
        self.bev_embedding = nn.Sequential(nn.Linear(2 * dim, dim), nn.ReLU(), nn.Linear(dim, dim))
        self.reference_points = nn.Embedding(queries, 3)
        self.transformer = Decoder(dim, heads, layers, ffn, dropout)
        outputs = {**OUTPUTS, "cls_logits": classes}
        self.task_heads = nn.ModuleDict(
            {name: LayerwiseHead(dim, head_channels, out, layers, kernel) for name, out in outputs.items()}
        )
        nn.init.uniform_(self.reference_points.weight)
        nn.init.constant_(self.task_heads["cls_logits"][3].bias, CLASS_BIAS)  # pyright: ignore[reportIndexIssue,reportArgumentType]
        check_whole(
            "CMTHead", in_channels=in_channels, classes=classes, dim=dim, depths=depths, queries=queries,
            head_channels=head_channels, kernel=kernel,
        )  # fmt: skip
        if not (cameras or lidar):
            raise Problem("a head without sensors", "CMTHead", "set cameras or lidar")
        if len(bounds) != 6 or not all(low < high for low, high in zip(bounds[:3], bounds[3:], strict=True)):
            raise Problem(f"bounds={bounds}", "CMTHead", "give x0, y0, z0, x1, y1, z1 with x0 < x1, ...")

    # -- tokens and queries ---------------------------------------------------------------------

    def bev_tokens(self, bev: Tensor) -> Tensor:
        """BEV map (B, in_channels, ny, nx) -> tokens (B, ny nx, C), rows along y."""
        return F.relu(self.shared_conv(bev)).flatten(2).transpose(1, 2)

    def bev_encoding(self, height: int, width: int) -> Tensor:
        """Positions of BEV tokens, (height * width, C)."""
        weight = self.reference_points.weight
        return self.bev_embedding(pos2embed(bev_grid(height, width, weight.device).to(weight.dtype), self.dim))

    def image_encoding(self, img2lidar: Tensor, size: tuple[int, int], image: tuple[int, int]) -> Tensor:
        """Positions of image tokens, (B, V, h, w, C); they depend on the calibration alone, and can be kept.

        Args:
            img2lidar: (B, V, 4, 4), see `inverted`.
            size: h, w of the feature map.
            image: height, width of the padded image.
        """
        return self.rv_embedding.embed(*image_rays(img2lidar, size, image))

    def query_encoding(
        self, points: Tensor, lidar2img: Tensor | None, img2lidar: Tensor | None, image: tuple[int, int]
    ) -> Tensor:
        """Positions of queries (B, Q, C), of normalised points (B, Q, 3): as BEV cell, plus as ray of each camera."""
        points = inverse_sigmoid(points).sigmoid()
        position = self.bev_embedding(pos2embed(points, self.dim))
        if self.cameras:
            assert lidar2img is not None
            assert img2lidar is not None
            position = position + self.camera_encoding(points, lidar2img, img2lidar, image)
        return position

    def camera_encoding(self, points: Tensor, lidar2img: Tensor, img2lidar: Tensor, image: tuple[int, int]) -> Tensor:
        """Sum of the ray embeddings over the cameras that see each normalised point, (B, Q, 3) -> (B, Q, C)."""
        low, extent = limits(self.bounds, points)
        metres = points * extent + low
        direction, origin, seen = query_rays(metres, lidar2img, img2lidar, image)
        return self.rv_embedding.embed_sum(direction, origin, seen)

    # -- forward --------------------------------------------------------------------------------

    def forward(
        self,
        bev: Tensor | None = None,
        features: Tensor | None = None,
        lidar2img: Tensor | None = None,
        image: tuple[int, int] = (0, 0),
        *,
        encoding: Tensor | None = None,
        noised: Noised | None = None,
    ) -> Predictions:
        """Predictions of all layers; queries are those of `noised`, if any, then the Q learned ones.

        Args:
            bev: (B, in_channels, ny, nx).
            features: (B, V, C, h, w), of the cameras.
            lidar2img: (B, V, 4, 4), LiDAR metres -> pixels of the padded image, times depth.
            image: height, width of the padded image.
            encoding: what `image_encoding` gave, to save its computation.
            noised: denoising queries.
        """
        tokens, positions = [], []
        img2lidar = inverted(lidar2img) if self.cameras and lidar2img is not None else None
        if self.lidar:
            assert bev is not None
            tokens.append(self.bev_tokens(bev))
            positions.append(self.bev_encoding(*bev.shape[-2:]).expand_as(tokens[-1]))
        if self.cameras:
            assert features is not None
            assert img2lidar is not None
            size = features.shape[-2], features.shape[-1]
            if encoding is None:
                encoding = self.image_encoding(img2lidar, size, image)
            tokens.append(features.movedim(2, -1).flatten(1, 3))  # (B, V h w, C)
            positions.append(encoding.flatten(1, 3).expand_as(tokens[-1]))
        points = self.reference_points.weight.expand(tokens[0].shape[0], -1, -1)  # (B, Q, 3)
        if noised is not None:
            points = torch.cat([noised.points, points], 1)
        queries = self.query_encoding(points, lidar2img, img2lidar, image)
        allowed = None if noised is None else noised.allowed
        return self.predict(self.transformer(torch.cat(tokens, 1), torch.cat(positions, 1), queries, allowed), points)

    def predict(self, outputs: Tensor, points: Tensor) -> Predictions:
        """Decoder outputs (L, B, Q, C) and normalised reference points (B, Q, 3) -> predictions."""
        layers = len(outputs)
        flat = outputs.permute(1, 0, 3, 2).flatten(1, 2)  # (B, L C, Q)
        found = {
            name: head(flat).unflatten(1, (layers, -1)).permute(1, 0, 3, 2) for name, head in self.task_heads.items()
        }
        start, (low, extent) = inverse_sigmoid(points), limits(self.bounds, points)
        found["center"] = (found["center"] + start[..., :2]).sigmoid() * extent[:2] + low[:2]
        found["height"] = (found["height"] + start[..., 2:]).sigmoid() * extent[2:] + low[2:]
        return found

    # -- training -------------------------------------------------------------------------------

    def noised(self, boxes: Sequence[Tensor], labels: Sequence[Tensor], uniform: Tensor | None = None) -> Noised | None:
        """Denoising queries of a batch, see `noised_queries`."""
        return noised_queries(boxes, labels, self.bounds, self.queries, self.classes, uniform=uniform)

    def losses(
        self,
        predictions: Predictions,
        boxes: Sequence[Tensor],
        labels: Sequence[Tensor],
        noised: Noised | None = None,
    ) -> dict[str, Tensor]:
        """Losses of every layer: loss_cls and loss_bbox of the last, d0.loss_cls, ... of those before; dn_: denoising.

        Args:
            predictions: of `forward`.
            boxes: of each sample, (n, 9).
            labels: of each sample, (n,).
            noised: the denoising queries that `forward` was given.
        """
        codes, logits = code_of(predictions), predictions["cls_logits"]
        extra = 0 if noised is None else noised.length
        found: dict[str, Tensor] = {}
        for layer, (code, scores) in enumerate(zip(codes, logits, strict=True)):
            prefix = "" if layer == len(codes) - 1 else f"d{layer}."
            main = layer_losses(scores[:, extra:], code[:, extra:], boxes, labels)
            found |= {f"{prefix}loss_cls": main[0], f"{prefix}loss_bbox": main[1]}
            if noised is not None:
                shifted = denoising_losses(scores[:, :extra], code[:, :extra], noised)
                found |= {f"{prefix}dn_loss_cls": shifted[0], f"{prefix}dn_loss_bbox": shifted[1]}
        return found


def inverted(lidar2img: Tensor) -> Tensor:
    """The inverse of projections (..., 4, 4), in float64: pixels times depth -> LiDAR metres."""
    return torch.linalg.inv(lidar2img.double()).to(lidar2img.dtype)


def decode(
    predictions: Predictions, most: int = 300, beyond: Sequence[float] = BEYOND
) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Boxes (M, 9), scores (M,) and labels (M,) of each sample, by score; the last layer's, without NMS.

    A query can give several boxes, of different classes. Centres outside `beyond` are dropped. The z of a box is that
    of its centre.

    Args:
        predictions: of `CMTHead.forward`.
        most: M, at most.
        beyond: x0, y0, z0, x1, y1, z1 in metres.
    """
    logits, codes = predictions["cls_logits"][-1], code_of({name: predictions[name][-1] for name in OUTPUTS})
    classes = logits.shape[-1]
    best, index = logits.flatten(1).topk(min(most, logits[0].numel()))  # (B, M)
    code = codes.gather(1, (index // classes)[..., None].expand(-1, -1, codes.shape[-1]))
    boxes, scores, labels = from_code(code), best.sigmoid(), index % classes
    low, high = boxes.new_tensor(beyond).view(2, 3)
    inside = (boxes[..., :3].clamp(low, high) == boxes[..., :3]).all(-1)
    rows = [keep.nonzero()[:, 0] for keep in inside]
    return [(boxes[b, kept], scores[b, kept], labels[b, kept]) for b, kept in enumerate(rows)]
