r"""TCP: temporal-attentive covariance pooling, and TCPNet, a network that ends in it.

    frames (B, T, 3, H, W)
      -> backbone             (B T, C, h, w)
      -> reduction            (B T, d, h, w)     two 1 x 1 convolutions
      -> temporal attention   (B T, d, h, w)     where to look (TSA), at what (TCA), and when (convolution over time)
      -> covariance           (B, d, d)          over all T h w places of a video
      -> square root          (B, d, d)          three Newton-Schulz steps
      -> upper triangle       (B, d(d+1)/2)
      -> classifier           (B, K)

Source: "Temporal-attentive Covariance Pooling Networks for Video Recognition" (Gao et al., NeurIPS 2021) and the
authors' code.
"""

from __future__ import annotations

import re
from typing import Any, Literal, get_args

import torch
from huggingface_hub import PyTorchModelHubMixin
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor, nn
from torch.nn import functional as F

from repertory.core.arguments import check_choice, check_rates, check_whole
from repertory.core.problem import Problem
from repertory.nn.backbone import check_images
from repertory.nn.second_order import UpperTriangle, covariance, newton_schulz_sqrt
from repertory.papers.tcp.hosts import Temporal, make_host

Affinity = Literal["softmax", "dot_product"]
Pool = Literal["gap", "tcp"]
Level = Literal["video", "frame"]


# -- temporal attention -------------------------------------------------------------------------


def _check_maps(x: Tensor, dim: int, frames: int, layer: str) -> None:
    """Require maps (B frames, dim, h, w) of whole videos."""
    check_images(x, dim, layer)
    if x.shape[0] % frames:
        remedy = "give all frames of each video, one video after the other"
        raise Problem(f"{x.shape[0]} maps are no multiple of the {frames} frames of a video", layer, remedy)


class TSA(nn.Module):
    r"""Temporal spatial attention: places of the frame before, related to those of the frame before that one.

    .. math:: A_t = \mathrm{softmax}\big(\phi_1(X_{t-1})^\top \phi_2(X_{t-2}) / \sqrt d\big), \quad
              Y_t = X_t + \mathrm{BN}\big(\phi_0(X_t) A_t^\top\big)

    The first frame stands in for those before it. It starts as the identity: BN's weight is 0.

    Args:
        dim: d.
        frames: T.
        affinity: "dot_product" divides the products by the number of places, in place of scale and softmax.

    Shape:
        (B T, d, h, w) -> same.
    """

    def __init__(self, dim: int, frames: int, affinity: Affinity = "softmax") -> None:
        super().__init__()
        check_whole("TSA", dim=dim, frames=frames)
        check_choice("TSA", get_args(Affinity), affinity=affinity)
        self.dim, self.frames, self.affinity_kind = dim, frames, affinity
        self.phi1 = nn.Conv2d(dim, dim, 1)
        self.phi2 = nn.Conv2d(dim, dim, 1)
        self.phi0 = nn.Conv2d(dim, dim, 1)
        self.norm = nn.BatchNorm2d(dim)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Kaiming's initialisation of the convolutions (fan out), BN's weight 0."""
        for conv in (self.phi1, self.phi2, self.phi0):
            nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(conv.bias)  # pyright: ignore[reportArgumentType]
        nn.init.zeros_(self.norm.weight)

    def forward(self, x: Tensor) -> Tensor:
        _check_maps(x, self.dim, self.frames, "TSA")
        q, k, v = self._embedded(x)
        softmax = self.affinity_kind == "softmax"
        o = F.scaled_dot_product_attention(q, k, v) if softmax else q @ (k.mT @ v) / k.shape[-2]
        o = o.squeeze(1).mT.unflatten(2, x.shape[2:])  # (B T, d, h, w)
        return x + self.norm(o)

    def affinity(self, x: Tensor) -> Tensor:
        """A: (B T, d, h, w) -> (B T, h w, h w); the row of a place holds its weights of all places."""
        q, k, _ = self._embedded(x)
        products = (q @ k.mT).squeeze(1)
        if self.affinity_kind == "softmax":
            return (products * q.shape[-1] ** -0.5).softmax(-1)
        return products / k.shape[-2]

    def _embedded(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        clips = x.unflatten(0, (-1, self.frames))  # (B, T, d, h, w)
        before = _delayed(clips)
        earlier = _delayed(before)
        embedded = (self.phi1(before.flatten(0, 1)), self.phi2(earlier.flatten(0, 1)), self.phi0(x))
        q, k, v = (e.flatten(2).mT.unsqueeze(1) for e in embedded)  # (B T, one head, h w, d)
        return q, k, v

    def extra_repr(self) -> str:
        return f"frames={self.frames}, affinity={self.affinity_kind}"


def _delayed(clips: Tensor) -> Tensor:
    """f0, f0, f1, …, f(T-2)."""
    return torch.cat((clips[:, :1], clips[:, :-1]), 1)


class TCA(nn.Module):
    r"""Temporal channel attention: weights of channels from how their means change over one and two frames.

    .. math:: p_t = \mathrm{GAP}(X_t), \quad
              w_t = \tfrac12 \big(g(p_t - p_{t-1}) + g(\tfrac12 (p_t - p_{t-2}))\big), \quad Y_t = w_t X'_t

    Frames are counted modulo T; g is a sigmoid on two 1 x 1 convolutions with 4 d hidden channels.

    Args:
        dim: d.
        frames: T.

    Shape:
        x (B T, d, h, w), which the weights are computed from, and x' of the same shape -> same.
    """

    def __init__(self, dim: int, frames: int) -> None:
        super().__init__()
        check_whole("TCA", dim=dim, frames=frames)
        self.dim, self.frames = dim, frames
        self.fc1 = nn.Conv2d(dim, 4 * dim, 1)
        self.fc2 = nn.Conv2d(4 * dim, dim, 1)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Weights N(0, 0.01), biases 0."""
        for conv in (self.fc1, self.fc2):
            nn.init.normal_(conv.weight, std=0.01)
            nn.init.zeros_(conv.bias)  # pyright: ignore[reportArgumentType]

    def forward(self, x: Tensor, attended: Tensor) -> Tensor:
        _check_maps(x, self.dim, self.frames, "TCA")
        return attended * self.weights(x)

    def weights(self, x: Tensor) -> Tensor:
        """(B T, d, h, w) -> (B T, d, 1, 1), from 0 to 1."""
        p = x.mean((2, 3), keepdim=True).unflatten(0, (-1, self.frames))  # (B, T, d, 1, 1)
        d1 = p - p.roll(1, 1)
        d2 = 0.5 * (p - p.roll(2, 1))
        return 0.5 * (self._g(d1.flatten(0, 1)) + self._g(d2.flatten(0, 1)))

    def _g(self, z: Tensor) -> Tensor:
        return self.fc2(self.fc1(z).relu()).sigmoid()

    def extra_repr(self) -> str:
        return f"frames={self.frames}"


class TemporalAttention(nn.Module):
    r"""TSA, TCA and a convolution over time, whose kernel reaches T // 2 + 1 frames, circularly.

    .. math:: Y = \mathrm{ReLU}\big(\mathrm{conv}(\mathrm{TCA}(X, \mathrm{TSA}(X))) + X\big)

    It starts as ReLU(X): the weights of the convolution are 0. Without the convolution the output is that of TCA.

    Args:
        dim: d.
        frames: T.
        spatial: with TSA.
        channel: with TCA.
        conv: with the convolution.
        affinity: of TSA.

    Shape:
        (B T, d, h, w) -> same.
    """

    def __init__(
        self,
        dim: int,
        frames: int,
        spatial: bool = True,
        channel: bool = True,
        conv: bool = True,
        affinity: Affinity = "softmax",
    ) -> None:
        super().__init__()
        check_whole("TemporalAttention", dim=dim, frames=frames)
        self.dim, self.frames = dim, frames
        self.spatial = TSA(dim, frames, affinity) if spatial else None
        self.channel = TCA(dim, frames) if channel else None
        kernel = kernel_size(frames)
        padding = ((kernel - 1) // 2, 0, 0)
        self.conv = nn.Conv3d(dim, dim, (kernel, 1, 1), padding=padding, padding_mode="circular") if conv else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """The convolution gives 0; see `TSA` and `TCA` for their own."""
        if self.conv is not None:
            nn.init.zeros_(self.conv.weight)
            nn.init.zeros_(self.conv.bias)  # pyright: ignore[reportArgumentType]

    def forward(self, x: Tensor) -> Tensor:
        _check_maps(x, self.dim, self.frames, "TemporalAttention")
        y = x if self.spatial is None else self.spatial(x)
        y = y if self.channel is None else self.channel(x, y)
        if self.conv is None:
            return y
        clips = y.unflatten(0, (-1, self.frames)).transpose(1, 2)  # (B, d, T, h, w)
        return (self.conv(clips).transpose(1, 2).flatten(0, 1) + x).relu()


def kernel_size(frames: int) -> int:
    """T // 2 + 1, plus 1 where that is even: an even kernel would change the number of frames.

    Example:
        >>> [kernel_size(frames) for frames in (8, 16, 6, 1)]
        [5, 9, 5, 1]
    """
    return (frames // 2 + 1) | 1


# -- pooling ------------------------------------------------------------------------------------


class TCP(nn.Module):
    """Temporal-attentive covariance pooling: maps of frames -> one vector of a video.

    Args:
        dim_in: C, channels of the backbone.
        dim_out: d.
        frames: T.
        dim_inner: channels between the two convolutions of the reduction.
        spatial: with TSA.
        channel: with TCA.
        conv: with the convolution over time. Without all three: plain covariance pooling, blind to the order of frames.
        iterations: of the square root; 0: none, the covariance itself.
        level: "frame": a covariance of each frame.
        affinity: of TSA.

    Shape:
        (B T, C, h, w) -> (B, d(d+1)/2), or (B T, d(d+1)/2) at the level of frames.

    Raises:
        Problem: a batch that is no multiple of T; it is a ValueError.

    Example:
        >>> TCP(512, 64, frames=4)(torch.rand(2 * 4, 512, 7, 7)).shape
        torch.Size([2, 2080])
    """

    def __init__(
        self,
        dim_in: int,
        dim_out: int = 128,
        frames: int = 8,
        dim_inner: int = 256,
        spatial: bool = True,
        channel: bool = True,
        conv: bool = True,
        iterations: int = 3,
        level: Level = "video",
        affinity: Affinity = "softmax",
    ) -> None:
        super().__init__()
        check_whole("TCP", dim_in=dim_in, dim_out=dim_out, frames=frames, dim_inner=dim_inner)
        check_whole("TCP", 0, iterations=iterations)
        check_choice("TCP", get_args(Level), level=level)
        self.dim_in, self.frames, self.iterations, self.level = dim_in, frames, iterations, level
        self.reduce = nn.Sequential(
            nn.Conv2d(dim_in, dim_inner, 1, bias=False), nn.BatchNorm2d(dim_inner), nn.ReLU(inplace=True),
            nn.Conv2d(dim_inner, dim_out, 1, bias=False), nn.BatchNorm2d(dim_out), nn.ReLU(inplace=True),
        )  # fmt: skip
        self.attention = TemporalAttention(dim_out, frames, spatial, channel, conv, affinity)
        self.triangle = UpperTriangle(dim_out)
        self.num_features = self.triangle.length
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Kaiming's initialisation of the reduction (fan out)."""
        for conv in (self.reduce[0], self.reduce[3]):
            nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")  # pyright: ignore[reportArgumentType]

    def forward(self, x: Tensor) -> Tensor:
        _check_maps(x, self.dim_in, self.frames, "TCP")
        x = self.attention(self.reduce(x))  # (B T, d, h, w)
        return self.triangle(self.root(self.covariance(x)))

    def covariance(self, x: Tensor) -> Tensor:
        """Attended maps (B T, d, h, w) -> covariances (B, d, d), or (B T, d, d) at the level of frames."""
        if self.level == "frame":
            return covariance(x.flatten(2).mT)
        clips = x.unflatten(0, (-1, self.frames))  # (B, T, d, h, w)
        return covariance(clips.transpose(1, 2).flatten(2).mT)  # of (B, T h w, d)

    def root(self, p: Tensor) -> Tensor:
        """Power normalisation of covariances: their approximate square root."""
        return newton_schulz_sqrt(p, self.iterations) if self.iterations else p

    def extra_repr(self) -> str:
        return f"frames={self.frames}, iterations={self.iterations}, level={self.level}"


class GAP(nn.Module):
    """Global average pooling of each frame, the pooling of TSN: (B T, C, h, w) -> (B T, C)."""

    level: Level = "frame"

    def __init__(self, dim_in: int) -> None:
        super().__init__()
        self.num_features = dim_in

    def forward(self, x: Tensor) -> Tensor:
        return check_images(x, self.num_features, "GAP").mean((2, 3))


# -- network ------------------------------------------------------------------------------------


class TCPNet(nn.Module, PyTorchModelHubMixin):
    """A classifier of videos: backbone, pooling, linear classifier.

    Args:
        backbone: "mini" (for 64 pixels), a name in timm, or r3d_18, mc3_18, r2plus1d_18.
        num_classes: K; 0: no classifier, the output is the pooled vector.
        frames: T, frames of a clip.
        pool: "tcp", or "gap": the mean over places, logits averaged over frames.
        temporal: "shift": TSM; "tea": TEA, with backbone="res2net50_26w_4s"; "none": frame by frame (TSN).
        dim: d of TCP.
        dim_inner: channels between the two convolutions of the reduction.
        spatial: TCP with TSA.
        channel: TCP with TCA.
        conv: TCP with the convolution over time.
        iterations: of the square root; 0: none.
        level: "frame": a covariance of each frame, logits averaged over frames.
        last_stride: stride of the last stage.
        drop_rate: dropout before the classifier.
        partial_bn: in training keep the statistics of all batch norms of the backbone but the first.
        input_bn: batch norm on the pixels, 0 to 255, in place of a fixed normalisation.
        in_chans: C of the frames.
        pretrained_cfg: input_size, mean, std, crop_pct, label_names.

    Shape:
        (B, T, C, H, W) or (B, T C, H, W) -> logits (B, K).

    Raises:
        Problem: an unknown backbone, one that lacks an option, or frames of another number.

    Example:
        >>> TCPNet("mini", num_classes=5, frames=4, dim=16, dim_inner=32).eval()(torch.rand(2, 4, 3, 64, 64)).shape
        torch.Size([2, 5])
    """

    def __init__(
        self,
        backbone: str = "resnet50",
        num_classes: int = 400,
        frames: int = 8,
        pool: Pool = "tcp",
        temporal: Temporal = "none",
        dim: int = 128,
        dim_inner: int = 256,
        spatial: bool = True,
        channel: bool = True,
        conv: bool = True,
        iterations: int = 3,
        level: Level = "video",
        last_stride: int = 1,
        drop_rate: float = 0.5,
        partial_bn: bool = False,
        input_bn: bool = False,
        in_chans: int = 3,
        pretrained_cfg: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        check_whole("TCPNet", frames=frames, in_chans=in_chans)
        check_whole("TCPNet", 0, num_classes=num_classes)
        check_choice("TCPNet", get_args(Pool), pool=pool)
        check_choice("TCPNet", get_args(Temporal), temporal=temporal)
        check_choice("TCPNet", ("1", "2"), last_stride=str(last_stride))
        check_rates("TCPNet", drop_rate=drop_rate)
        self.frames, self.partial_bn, self.in_chans = frames, partial_bn, in_chans
        self.input_norm = nn.BatchNorm2d(in_chans) if input_bn else nn.Identity()
        self.backbone = make_host(backbone, frames, temporal, last_stride, in_chans)
        options = (spatial, channel, conv, iterations, level)
        channels, segments = self.backbone.num_features, self.backbone.segments
        self.pool: TCP | GAP = TCP(channels, dim, segments, dim_inner, *options) if pool == "tcp" else GAP(channels)
        self.segments = segments
        self.num_features = self.pool.num_features
        self.drop = nn.Dropout(drop_rate)
        self.reset_classifier(num_classes)
        self.pretrained_cfg: dict[str, Any] = {
            "input_size": [in_chans, 224, 224],
            "mean": list(IMAGENET_DEFAULT_MEAN),
            "std": list(IMAGENET_DEFAULT_STD),
            "crop_pct": 0.875,
            **({"mean": [0.0] * in_chans, "std": [1 / 255] * in_chans} if input_bn else {}),
            **(pretrained_cfg or {}),
        }

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))

    def forward_features(self, x: Tensor) -> Tensor:
        """Frames (B, T, C, H, W) or (B, T C, H, W) -> maps (B segments, num_features of the backbone, h, w)."""
        if x.ndim not in (4, 5) or (x.shape[1] % self.in_chans if x.ndim == 4 else x.shape[2] != self.in_chans):
            given = f"(B, {self.frames}, {self.in_chans}, H, W) or (B, {self.frames * self.in_chans}, H, W)"
            raise Problem(f"frames of shape {tuple(x.shape)}", "TCPNet", f"give {given}")
        x = x.unflatten(1, (-1, self.in_chans)) if x.ndim == 4 else x
        check_images(x[:, 0], self.in_chans, "TCPNet")
        if x.shape[1] != self.frames:
            raise Problem(f"{x.shape[1]} frames, not {self.frames}", f"input {tuple(x.shape)}", "sample as many frames")
        return self.backbone(self.input_norm(x.flatten(0, 1)).unflatten(0, (-1, self.frames)))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Maps -> logits (B, K); with `pre_logits` the pooled vectors, (B, F), or (B segments, F) of frames."""
        x = self.pool(x)
        if pre_logits:
            return x
        x = self.fc(self.drop(x))
        return x if self.pool.level == "video" else x.unflatten(0, (-1, self.segments)).mean(1)

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the classifier by a new one, N(0, 0.001); 0: none. The pooling stays: it is the method."""
        if global_pool not in (None, "tcp", "gap"):
            raise Problem(f"no pooling {global_pool!r} here", "global_pool", "build another network with pool=")
        self.num_classes = num_classes
        self.fc = nn.Linear(self.num_features, num_classes) if num_classes else nn.Identity()
        if isinstance(self.fc, nn.Linear):
            nn.init.normal_(self.fc.weight, std=0.001)
            nn.init.zeros_(self.fc.bias)

    def get_classifier(self) -> nn.Module:
        """The classifier."""
        return self.fc

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute the blocks of a 2-D backbone in the backward pass.

        Raises:
            Problem: the backbone cannot.
        """
        if not hasattr(self.backbone.body, "set_grad_checkpointing"):
            raise Problem("a 3-D backbone keeps its activations", "set_grad_checkpointing", "choose one of timm")
        self.backbone.body.set_grad_checkpointing(enable)  # pyright: ignore[reportCallIssue]

    def no_weight_decay(self) -> set[str]:
        """Parameters of the backbone that are not decayed."""
        own = getattr(self.backbone.body, "no_weight_decay", set)
        return {f"backbone.body.{name}" for name in own()}

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Patterns of layers for layer-wise learning rates: those of the backbone; pooling and classifier are last.

        Raises:
            Problem: the backbone has none.
        """
        if not hasattr(self.backbone.body, "group_matcher"):
            raise Problem("the backbone has no groups of layers", "layer_decay", "set layer_decay=0")
        return _below("backbone.body", self.backbone.body.group_matcher(coarse))  # pyright: ignore[reportCallIssue]

    def train(self, mode: bool = True) -> TCPNet:
        super().train(mode)
        if mode and self.partial_bn:
            norms = [m for m in self.backbone.modules() if isinstance(m, nn.BatchNorm2d | nn.BatchNorm3d)]
            for norm in norms[1:]:
                norm.eval()
        return self


def _below(prefix: str, pattern: Any) -> Any:
    """Regular expressions of names, for the same names below a prefix."""
    if isinstance(pattern, dict):
        return {key: _below(prefix, value) for key, value in pattern.items()}
    if isinstance(pattern, list):
        return [_below(prefix, value) for value in pattern]
    if isinstance(pattern, tuple):
        return (_below(prefix, pattern[0]), *pattern[1:])
    return re.sub(r"\^", "^" + re.escape(prefix) + r"\\.", pattern) if isinstance(pattern, str) else pattern
