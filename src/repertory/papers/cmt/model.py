"""Cross Modal Transformer (Yan et al., ICCV 2023): tokens of cameras and LiDAR, coordinates encoding, one decoder."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from huggingface_hub import PyTorchModelHubMixin
from torch import Tensor, nn

from repertory.core.arguments import check_choice, check_rates, check_whole
from repertory.core.problem import Problem
from repertory.data.nuscenes import CAMERAS, CLASSES
from repertory.papers.cmt.encoding import Bounds
from repertory.papers.cmt.heads import CMTHead, Predictions, decode, inverted
from repertory.papers.cmt.trunks import POINT_VALUES, ImageTrunk, Pillars, lidar_trunk

SENSORS = ("fusion", "camera", "lidar")
MARGIN = 7.2
"""Metres beyond the scene that a decoded centre may lie, in x and y; 5 m in z. As published: 61.2 - 54."""

Detections = tuple[Tensor, Tensor, Tensor]
"""Boxes (M, 9), scores (M,) and labels (M,) of a sample, by score."""

VARIANTS: dict[str, dict[str, Any]] = {
    "cmt_r50": {"image_arch": "resnet50", "image_size": (320, 800), "grid": 544},
    "cmt_vov": {"image_arch": "ese_vovnet99b", "image_size": (640, 1600), "grid": 720},
    "cmt_c": {"sensors": "camera", "image_arch": "ese_vovnet99b", "image_size": (640, 1600)},
    "cmt_l": {"sensors": "lidar", "grid": 720},
    "tiny": {
        "image_arch": "tiny", "image_size": (32, 64), "bounds": (-12.8, -12.8, -3.0, 12.8, 12.8, 3.0), "grid": 64,
        "pillar_width": 16, "stages": (32, 32), "stage_layers": 1, "dim": 64, "heads": 4, "layers": 2, "ffn": 128,
        "depths": 16, "queries": 40, "head_channels": 32,
    },
}  # fmt: skip
"""Published sizes, with our pillars in place of voxels, and the sample's."""


class CMT(nn.Module, PyTorchModelHubMixin):
    """3D object detection from cameras, LiDAR, or both.

    Args:
        classes: names.
        sensors: "fusion", "camera" or "lidar".
        image_arch: "tiny", or a network of timm.
        image_size: height and width of its input, multiples of 32 ("tiny": of 8).
        cameras: their names, in the order of the views.
        lidar_backbone: "pillar", or "voxel" where spconv is installed.
        bounds: x0, y0, z0, x1, y1, z1 of the scene in metres.
        grid: pillars or voxels along x and y.
        downsample: pillars along each side of a BEV token; voxels have 8.
        pillar_width: channels of a pillar.
        stages: channels of SECOND, with pillars.
        stage_layers: convolutions of a stage after its first, with pillars.
        dim: C of the decoder.
        heads: of the attention.
        layers: of the decoder.
        ffn: width of its feed-forward networks.
        depths: samples along a ray.
        queries: number of learned queries.
        head_channels: hidden channels of the prediction heads.
        kernel: of the prediction heads over the queries; None: 3 for LiDAR alone, else 1, as published.
        dropout: of the decoder.
        checkpointing: recompute the image network in the backward pass.
        sweeps: LiDAR sweeps that the data should give, the key frame included.

    Raises:
        Problem: an argument out of its range.

    Example:
        >>> from repertory.papers.cmt import CMT, VARIANTS
        >>> model = CMT(["car"], **{**VARIANTS["tiny"], "sensors": "lidar"}).eval()
        >>> boxes, scores, labels = model.detect(points=[torch.rand(50, 5)], most=7)[0]
        >>> boxes.shape[1], len(scores) <= 7
        (9, True)
    """

    def __init__(
        self,
        classes: Sequence[str] = CLASSES,
        sensors: str = "fusion",
        image_arch: str = "resnet50",
        image_size: Sequence[int] = (320, 800),
        cameras: Sequence[str] = CAMERAS,
        lidar_backbone: str = "pillar",
        bounds: Sequence[float] = (-54.0, -54.0, -5.0, 54.0, 54.0, 3.0),
        grid: int = 544,
        downsample: int = 4,
        pillar_width: int = 64,
        stages: Sequence[int] = (128, 256),
        stage_layers: int = 5,
        dim: int = 256,
        heads: int = 8,
        layers: int = 6,
        ffn: int = 1024,
        depths: int = 64,
        queries: int = 900,
        head_channels: int = 64,
        kernel: int | None = None,
        dropout: float = 0.1,
        checkpointing: bool = False,
        sweeps: int = 11,
    ) -> None:
        _check(classes, sensors, image_size, cameras, bounds, sweeps)
        check_rates("CMT", dropout=dropout)
        super().__init__()
        self.classes, self.cameras, self.sweeps = tuple(classes), tuple(cameras), sweeps
        self.image_size = image_size[0], image_size[1]
        x0, y0, z0, x1, y1, z1 = map(float, bounds)
        self.bounds: Bounds = (x0, y0, z0, x1, y1, z1)
        self.uses_cameras, self.uses_lidar = sensors != "lidar", sensors != "camera"
        kernel = (3 if sensors == "lidar" else 1) if kernel is None else kernel
        if self.uses_cameras:
            self.image_trunk = ImageTrunk(image_arch, dim, checkpointing=checkpointing)
        if self.uses_lidar:
            options: dict[str, Any] = {
                "downsample": downsample, "width": pillar_width, "stages": (stages[0], stages[1]),
                "layers": stage_layers,
            }  # fmt: skip
            self.lidar_trunk = lidar_trunk(lidar_backbone, self.bounds, grid, **options)
        self.head = CMTHead(
            self.lidar_trunk.out_channels if self.uses_lidar else dim,
            len(self.classes),
            self.bounds,
            dim,
            heads,
            layers,
            ffn,
            depths,
            queries,
            head_channels,
            kernel,
            dropout,
            cameras=self.uses_cameras,
            lidar=self.uses_lidar,
        )
        self.denoising = True
        """Whether training adds denoising queries."""
        self._kept: tuple[Tensor, int, Tensor] | None = None

    def forward(
        self,
        images: Tensor | None = None,
        lidar2img: Tensor | None = None,
        points: Sequence[Tensor] | Pillars | None = None,
        boxes: Sequence[Tensor] | None = None,
        labels: Sequence[Tensor] | None = None,
        *,
        encoding: Tensor | None = None,
    ) -> Predictions:
        """Predictions of all decoder layers; with true boxes, the losses of training and their sum ("loss").

        Args:
            images: (B, V, 3, H, W), normalised.
            lidar2img: (B, V, 4, 4), LiDAR metres -> pixels of the resized and padded images, times depth.
            points: of each sample, (N, 5): x, y, z in metres, intensity, time in seconds; or their pillars.
            boxes: of each sample, (n, 9): x, y, z of the centre, dx, dy, dz in metres, yaw, vx, vy in m/s.
            labels: of each sample, (n,).
            encoding: positions of the image tokens, see `CMTHead.image_encoding`.
        """
        features = bev = None
        size = (0, 0)
        if self.uses_cameras:
            assert images is not None
            size = images.shape[-2], images.shape[-1]
            features = self.image_trunk(images.flatten(0, 1)).unflatten(0, images.shape[:2])  # (B, V, C, h, w)
        if self.uses_lidar:
            assert points is not None
            bev = self.lidar_trunk(points)  # (B, C', ny, nx)
        if boxes is None or labels is None:
            return self.head(bev, features, lidar2img, size, encoding=encoding)
        noised = self.head.noised(boxes, labels) if self.denoising else None
        predictions = self.head(bev, features, lidar2img, size, noised=noised)
        losses = self.head.losses(predictions, boxes, labels, noised)
        return {"loss": torch.stack(list(losses.values())).sum(), **losses}

    @torch.inference_mode()
    def detect(
        self,
        images: Tensor | None = None,
        lidar2img: Tensor | None = None,
        points: Sequence[Tensor] | None = None,
        most: int = 300,
    ) -> list[Detections]:
        """Boxes of each sample, by score; inputs as in `forward`.

        Positions of the image tokens are kept until the calibration or the weights change. Missing sensors: `points`
        None or empty stands for a point cloud without points, `images` None for images of zeros.

        Raises:
            Problem: inputs of the wrong shape, or a projection that does not fit the images.
        """
        parameter = next(self.parameters())
        if self.uses_lidar:
            points = points or [torch.empty(0, POINT_VALUES)] * (1 if lidar2img is None else len(lidar2img))
            points = [checked_points(one).to(parameter.device) for one in points]
        encoding = None
        if self.uses_cameras:
            if lidar2img is None:
                raise Problem("no lidar2img", "detect", "give the projection of each view, (B, V, 4, 4)")
            if images is None:
                images = torch.zeros(*lidar2img.shape[:2], 3, *self.image_size)
            images, lidar2img = images.to(parameter), lidar2img.to(parameter.device, torch.float32)
            check_projections(lidar2img, (images.shape[-2], images.shape[-1]), self.cameras)
            encoding = self._encoding(images, lidar2img)
        predictions = self(images, lidar2img, points, encoding=encoding)
        return decode(predictions, most, self.beyond)

    def _encoding(self, images: Tensor, lidar2img: Tensor) -> Tensor:
        """Positions of the image tokens; kept for the next call with the same calibration, sizes and weights."""
        stride = self.image_trunk.stride
        size = -(-images.shape[-2] // stride), -(-images.shape[-1] // stride)
        version = sum(p._version for p in self.head.rv_embedding.parameters())
        if self._kept is not None:
            calibration, before, encoding = self._kept
            same = calibration.shape == lidar2img.shape and calibration.device == lidar2img.device
            if same and before == version and encoding.shape[2:4] == size and torch.equal(calibration, lidar2img):
                return encoding
        image = images.shape[-2], images.shape[-1]
        encoding = self.head.image_encoding(inverted(lidar2img), size, image)
        self._kept = lidar2img.clone(), version, encoding
        return encoding

    @property
    def beyond(self) -> tuple[float, ...]:
        """Bounds that decoded centres must be within."""
        x0, y0, z0, x1, y1, z1 = self.bounds
        return x0 - MARGIN, y0 - MARGIN, z0 - 5, x1 + MARGIN, y1 + MARGIN, z1 + 7

    def parameter_groups(self, decay: float) -> list[dict[str, Any]]:
        """Published factors: image network at 0.01 of the learning rate and 5 times the decay, its neck at 0.1.

        The sample's small image network, which starts from random weights, has the common ones.
        """
        slow: dict[str, Any] = {"params": [], "lr_scale": 0.01, "weight_decay": 5 * decay}
        neck: dict[str, Any] = {"params": [], "lr_scale": 0.1, "weight_decay": decay}
        rest: dict[str, Any] = {"params": [], "lr_scale": 1.0, "weight_decay": decay}
        published = self.uses_cameras and self.image_trunk.neck is not None
        for name, parameter in self.named_parameters():
            groups = {"image_trunk.backbone.": slow, "image_trunk.neck.": neck} if published else {}
            next((group for prefix, group in groups.items() if name.startswith(prefix)), rest)["params"].append(
                parameter
            )
        return [group for group in (slow, neck, rest) if group["params"]]


def _check(
    classes: Sequence[str],
    sensors: str,
    image_size: Sequence[int],
    cameras: Sequence[str],
    bounds: Sequence[float],
    sweeps: int,
) -> None:
    check_choice("CMT", SENSORS, sensors=sensors)
    check_whole("CMT", image_size=image_size, sweeps=sweeps)
    if not classes or len(set(classes)) < len(classes):
        raise Problem(f"classes={list(classes)}", "CMT", "name each class once")
    if not cameras and sensors != "lidar":
        raise Problem("cameras=()", "CMT", "name the cameras, or set sensors=lidar")
    if len(image_size) != 2:
        raise Problem(f"image_size={image_size}", "CMT", "give height and width")
    if len(bounds) != 6 or not all(low < high for low, high in zip(bounds[:3], bounds[3:], strict=True)):
        raise Problem(f"bounds={tuple(bounds)}", "CMT", "give x0, y0, z0, x1, y1, z1 with x0 < x1, ...")


def checked_points(points: Tensor, where: object = "points") -> Tensor:
    """Points (N, 5) without those that are not finite, whose number is told in a warning.

    Raises:
        Problem: another number of columns.
    """
    if points.ndim != 2 or points.shape[1] != POINT_VALUES:
        raise Problem(
            f"points of shape {tuple(points.shape)}",
            where,
            "expected 5 columns (x, y, z, intensity, time); pass time=0 if there is none",
        )
    finite = points.isfinite().all(1)
    if not finite.all():
        warnings.warn(f"{int((~finite).sum())} of {len(points)} points are not finite and are dropped", stacklevel=2)
        points = points[finite]
    return points


def check_projections(lidar2img: Tensor, image: tuple[int, int], cameras: Sequence[str] = CAMERAS) -> None:
    """Require projections (B, V, 4, 4) that can be inverted and whose principal points are within the images.

    Raises:
        Problem: names the view; a principal point outside means pixels of the image before it was resized.
    """
    if lidar2img.ndim != 4 or lidar2img.shape[-2:] != (4, 4):
        raise Problem(f"lidar2img of shape {tuple(lidar2img.shape)}", "lidar2img", "give (B, V, 4, 4)")
    for view in range(lidar2img.shape[1]):
        name = cameras[view] if view < len(cameras) else ""
        where = f"view {view}{f' ({name})' if name else ''}"
        matrices = lidar2img[:, view].double()
        if not matrices.isfinite().all() or (torch.linalg.det(matrices).abs() < 1e-9).any():
            raise Problem(
                "lidar2img is singular", where, "give intrinsics times extrinsics, with a last row 0, 0, 0, 1"
            )
        rows = matrices[:, :3, :3]
        centre = (rows[:, :2] @ rows[:, 2, :, None]).squeeze(-1) / rows[:, 2].square().sum(-1, keepdim=True)  # (B, 2)
        limits = centre.new_tensor([image[1], image[0]])
        if ((centre < 0) | (centre > limits)).any():
            u, v = centre[0].tolist()
            raise Problem(
                f"the principal point ({u:.0f}, {v:.0f}) is outside the image of {image[1]} x {image[0]} pixels",
                where,
                "the intrinsics must follow the resize and crop of the image",
            )
