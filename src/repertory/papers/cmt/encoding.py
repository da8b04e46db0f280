"""Coordinates encoding: where image tokens, BEV tokens and queries are in the scene (paper, section 3.1).

Image tokens are rays, BEV tokens are cells of a grid, queries are 3D points that are encoded as both. All coordinates
are metres in the LiDAR frame, normalised by the range of the scene.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Bounds = tuple[float, float, float, float, float, float]
"""x0, y0, z0, x1, y1, z1 of a scene in metres, in the LiDAR frame."""
EPS = 1e-5
"""Distance from 0 and 1 below which `inverse_sigmoid` clips."""


def inverse_sigmoid(x: Tensor) -> Tensor:
    """Logit of values that are clipped to [1e-5, 1 - 1e-5], same shape."""
    x = x.clamp(0, 1)
    return torch.log(x.clamp(min=EPS) / (1 - x).clamp(min=EPS))


def pos2embed(points: Tensor, features: int) -> Tensor:
    r"""Sines and cosines of normalised points: :math:`\sin, \cos (2 \pi p / t_n)`, :math:`t_n = 2\lfloor n/2\rfloor / F + 1`.

    The divisor is linear in n, as in the authors' code: all periods are between 1 and 3 times the range.

    Args:
        points: (..., 2 or 3), x and y count, normalised to [0, 1].
        features: F, values of each coordinate.

    Returns:
        (..., 2 F): the values of y, then those of x; sines at even places, cosines at odd ones.

    Example:
        >>> pos2embed(torch.zeros(1, 2), 4)
        tensor([[0., 1., 0., 1., 0., 1., 0., 1.]])
    """  # noqa: E501
    n = torch.arange(features, device=points.device)
    divisor = 2 * (n // 2) / features + 1
    angle = points[..., (1, 0), None] * 2 * math.pi / divisor  # (..., 2, F)
    return torch.where(n % 2 == 0, angle.sin(), angle.cos()).flatten(-2)


def limits(bounds: Bounds, like: Tensor) -> tuple[Tensor, Tensor]:
    """Lower corner (3,) and extent (3,) of the scene, like a tensor of float32 or float64."""
    corners = like.new_tensor(bounds)
    return corners[:3], corners[3:] - corners[:3]


def depth_bins(count: int, far: float, device: torch.device | None = None) -> Tensor:
    """Depths in metres at which rays are sampled, from 1 to below `far`, (count,)."""
    return 1 + torch.arange(count, device=device) * ((far - 1) / count)


def bev_grid(height: int, width: int, device: torch.device | None = None) -> Tensor:
    """Normalised centres (x, y) of a grid's cells, row by row, (height * width, 2)."""
    y = (torch.arange(height, device=device) + 0.5) / height
    x = (torch.arange(width, device=device) + 0.5) / width
    return torch.stack([x.repeat(height), y.repeat_interleave(width)], -1)


def pixel_grid(size: tuple[int, int], image: tuple[int, int], device: torch.device | None = None) -> Tensor:
    """Pixels (u, v, 1) of the upper left corners of a feature map's cells, (h, w, 3).

    Args:
        size: h, w of the map.
        image: height, width of the padded image.
        device: of the result.
    """
    v = torch.arange(size[0], device=device) * (image[0] / size[0])
    u = torch.arange(size[1], device=device) * (image[1] / size[1])
    return torch.stack([u.expand(*size), v[:, None].expand(*size), torch.ones(size, device=device)], -1)


class RayEmbedding(nn.Sequential):
    r"""Embed points along a ray: Linear(3 D, 4 C), ReLU, Linear(4 C, C) of the normalised positions at D depths.

    A position is affine in the depth, :math:`o + d_k r`, so the first layer is the sum of two small products,

    .. math:: W x = (\sum_k d_k W_k)\, r + (\sum_k W_k)\, o,

    and the (..., D, 3) positions are never formed.

    Args:
        dim: C.
        depths: D, see `depth_bins`.
        bounds: x0, y0, z0, x1, y1, z1 of the scene in metres.

    Example:
        >>> ray = RayEmbedding(8, 4, (-20, -20, -3, 20, 20, 3))
        >>> ray.embed(torch.rand(2, 5, 3), torch.rand(2, 1, 3)).shape
        torch.Size([2, 5, 8])
    """

    def __init__(self, dim: int, depths: int, bounds: Bounds) -> None:
        super().__init__(nn.Linear(3 * depths, 4 * dim), nn.ReLU(), nn.Linear(4 * dim, dim))
        self.depths, self.bounds = depths, bounds

    def embed(self, direction: Tensor, origin: Tensor) -> Tensor:
        """Embeddings of rays in metres, direction (..., 3) a metre of depth and origin (..., 3) -> (..., C)."""
        return self[2](self.hidden(direction, origin))

    def embed_sum(self, direction: Tensor, origin: Tensor, seen: Tensor) -> Tensor:
        """Sum of the embeddings over the views that see a point, (B, V, Q, 3) and (B, V, Q) -> (B, Q, C).

        The sum is taken in front of the last layer, which is linear: it runs once a point, not once a view.
        """
        last = self[2]
        assert isinstance(last, nn.Linear)
        total = torch.where(seen[..., None], self.hidden(direction, origin), 0.0).sum(1)
        return F.linear(total, last.weight) + seen.sum(1)[..., None] * last.bias

    def hidden(self, direction: Tensor, origin: Tensor) -> Tensor:
        """What is between the two layers, (..., 4C)."""
        first = self[0]
        assert isinstance(first, nn.Linear)
        low, extent = limits(self.bounds, direction)
        depth = depth_bins(self.depths, self.bounds[3], low.device).to(low)
        weight = first.weight.unflatten(1, (-1, 3)).to(low)  # (4C, D, 3)
        of_direction = torch.einsum("kdc,d->kc", weight, depth) / extent
        offset = F.linear(origin - low, weight.sum(1) / extent, first.bias.to(low))
        hidden = F.linear(direction, of_direction) + offset
        return F.relu(hidden).to(first.weight)

    def positions(self, direction: Tensor, origin: Tensor) -> Tensor:
        """The normalised positions as the authors' code forms them, (..., 3 D); `forward` of them equals `embed`."""
        low, extent = limits(self.bounds, direction)
        depth = depth_bins(self.depths, self.bounds[3], low.device)
        points = origin[..., None, :] + depth[:, None] * direction[..., None, :]
        return ((points - low) / extent).flatten(-2)


def image_rays(img2lidar: Tensor, size: tuple[int, int], image: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Directions (..., h, w, 3) and origins (..., 1, 1, 3) of the rays through a feature map's cells.

    Args:
        img2lidar: (..., 4, 4), inverse of `lidar2img`.
        size: h, w of the map.
        image: height, width of the padded image.
    """
    pixels = pixel_grid(size, image, img2lidar.device).to(img2lidar)
    direction = torch.einsum("...ij,hwj->...hwi", img2lidar[..., :3, :3], pixels)
    return direction, img2lidar[..., None, None, :3, 3]


def query_rays(
    points: Tensor, lidar2img: Tensor, img2lidar: Tensor, image: tuple[int, int]
) -> tuple[Tensor, Tensor, Tensor]:
    """Rays from the cameras through 3D points, and which cameras see them.

    Args:
        points: (B, Q, 3) in metres.
        lidar2img: (B, V, 4, 4).
        img2lidar: its inverse.
        image: height, width of the padded image.

    Returns:
        Directions (B, V, Q, 3), origins (B, V, 1, 3) and whether the point is in front of the camera and within its
        image, (B, V, Q).
    """
    projected = torch.einsum("bvij,bqj->bvqi", lidar2img[..., :3, :3], points) + lidar2img[..., None, :3, 3]
    depth = projected[..., 2:]
    ahead = depth > 0
    pixels = projected / (depth.detach() + torch.where(ahead, 1e-6, -1e-6))
    u, v, _ = pixels.unbind(-1)
    seen = ahead[..., 0] & (u >= 0) & (u < image[1]) & (v >= 0) & (v < image[0])
    direction = torch.einsum("bvij,bvqj->bvqi", img2lidar[..., :3, :3], pixels)
    return direction, img2lidar[..., None, :3, 3], seen
