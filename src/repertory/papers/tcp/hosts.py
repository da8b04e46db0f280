"""Backbones that TCP is a head of: frames (B, T, C, H, W) -> maps (B t, C', h, w).

    FrameHost    any backbone of timm, frame by frame (TSN); with temporal="shift" TSM, with temporal="tea" TEA
    VolumeHost   3-D networks of torchvision, which shorten the time axis: t < T

In all of them the last stage has stride 1, as in the authors' code: maps have 14 x 14 places for images of 224 pixels
(of 112 for the 3-D networks, which are made for that size).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, ClassVar, Literal

import timm
import torch
from timm.models.res2net import Bottle2neck
from timm.models.resnet import BasicBlock, ResNet
from torch import Tensor, nn
from torchvision.models import video as volumes

from repertory.core.problem import Problem, suggest

Temporal = Literal["none", "shift", "tea"]

VOLUMES: dict[str, Callable[..., nn.Module]] = {
    "r3d_18": volumes.r3d_18,
    "mc3_18": volumes.mc3_18,
    "r2plus1d_18": volumes.r2plus1d_18,
}
"""3-D residual networks of torchvision."""


def make_host(
    name: str, frames: int, temporal: Temporal = "none", last_stride: int = 1, in_chans: int = 3, **options: Any
) -> FrameHost | VolumeHost:
    """The backbone of a name.

    Args:
        name: "mini", a name in timm, or one of `VOLUMES`.
        frames: T.
        temporal: what is added to the blocks of a 2-D backbone.
        last_stride: stride of the last stage, 1 or 2.
        in_chans: C.
        options: of `timm.create_model`.

    Raises:
        Problem: unknown name; the backbone does not support an option.
    """
    if name not in VOLUMES:
        return FrameHost(name, frames, temporal, last_stride, in_chans, **options)
    if temporal != "none" or in_chans != 3:
        raise Problem(
            f"{name} is a 3-D network of RGB clips", f"temporal={temporal}, in_chans={in_chans}", "leave both out"
        )
    return VolumeHost(name, frames, last_stride)


class FrameHost(nn.Module):
    """A backbone of timm applied to every frame.

    Shape:
        (B, T, C, H, W) -> (B T, num_features, h, w), the features before pooling.
    """

    def __init__(
        self,
        name: str,
        frames: int,
        temporal: Temporal = "none",
        last_stride: int = 1,
        in_chans: int = 3,
        **options: Any,
    ) -> None:
        super().__init__()
        build = _builder(name, in_chans=in_chans, **options)
        self.body: Any = _undilated(build, name) if last_stride == 1 else build()
        if not hasattr(self.body, "forward_intermediates"):
            raise Problem(f"{name} gives no feature maps", "backbone", "choose a backbone with forward_intermediates")
        self.body.prune_intermediate_layers(1)  # drop what comes after the last stage; a norm of features stays
        if hasattr(self.body, "head"):
            self.body.head = nn.Identity()  # of some backbones it holds a norm
        self.num_features: int = self.body.feature_info[-1]["num_chs"]
        self.segments = frames
        _ADD[temporal](self.body, frames)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(0, 1)  # (B T, C, H, W)
        return self.body.forward_intermediates(x, indices=1, norm=True, intermediates_only=True)[-1]


class VolumeHost(nn.Module):
    """A 3-D ResNet of torchvision; stages 2 and 3 halve the time axis, the last one keeps it (with last_stride=1).

    Shape:
        (B, T, 3, H, W) -> (B segments, num_features, h, w).
    """

    num_features: ClassVar[int] = 512

    def __init__(self, name: str, frames: int, last_stride: int = 1) -> None:
        super().__init__()
        network: Any = VOLUMES[name](weights=None)
        self.body = nn.Sequential()
        for part in ("stem", "layer1", "layer2", "layer3", "layer4"):
            self.body.add_module(part, network.get_submodule(part))
        if last_stride == 1:
            for conv in self.body.get_submodule("layer4").modules():
                if isinstance(conv, nn.Conv3d):
                    conv.stride = (1, 1, 1)
        halvings = {"mc3_18": 0}.get(name, 2 if last_stride == 1 else 3)
        self.segments = -(-frames // 2**halvings)

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(x.transpose(1, 2))  # (B, 512, t, h, w)
        return x.transpose(1, 2).flatten(0, 1)


def mini(in_chans: int = 3, output_stride: int = 32) -> ResNet:
    """A ResNet for clips of 64 pixels: its stem is one convolution of stride 4."""
    block: Any = BasicBlock
    body = ResNet(
        block, (1, 1, 1, 1), 0, in_chans, output_stride, "", stem_type="deep", stem_width=8,
        channels=(16, 32, 64, 64), zero_init_last=False,
    )  # fmt: skip
    body.conv1 = nn.Conv2d(in_chans, 16, 7, stride=4, padding=3, bias=False)
    body.maxpool = nn.Identity()
    return body


# -- stride of the last stage -------------------------------------------------------------------


def _builder(name: str, **options: Any) -> Callable[..., nn.Module]:
    if name == "mini":
        return partial(mini, **options)
    if not timm.is_model(name):
        known = [*VOLUMES, *timm.list_models()]
        remedy = "give mini, a model name of timm, or " + ", ".join(VOLUMES)
        raise Problem(f"no backbone {name!r}{suggest(name, known)}", "backbone", remedy)
    return partial(timm.create_model, name, num_classes=0, **options)


def _undilated(build: Callable[..., nn.Module], name: str) -> nn.Module:
    """A backbone whose last stage has stride 1 instead of 2.

    timm's `output_stride=16` also dilates the last stage; the authors' does not. The geometry of the convolutions is
    that of the plain network, apart from their stride.
    """
    try:
        body = build(output_stride=16)
        with torch.device("meta"):
            plain = dict(build().named_modules())
    except (AssertionError, NotImplementedError, TypeError, ValueError) as error:
        remedy = "set last_stride=2, or choose a backbone with output_stride, such as a ResNet"
        raise Problem(f"the last stage of {name} cannot have stride 1", "last_stride=1", remedy) from error
    for key, conv in body.named_modules():
        reference = plain.get(key)
        if isinstance(conv, nn.Conv2d) and isinstance(reference, nn.Conv2d):
            conv.dilation, conv.padding = reference.dilation, reference.padding
    return body


# -- TSM ----------------------------------------------------------------------------------------


class TemporalShift(nn.Module):
    """Shift channels in time: the first 1/div come from the next frame, the second 1/div from the previous one.

    Zeros enter at the ends of a clip. Source: "TSM: Temporal Shift Module for Efficient Video Understanding" (Lin et
    al., ICCV 2019), section 3.

    Shape:
        (B T, C, h, w) -> same.

    Example:
        >>> x = torch.arange(1.0, 4.0).view(3, 1, 1, 1).expand(3, 4, 1, 1)  # three frames, four channels
        >>> TemporalShift(frames=3, div=4)(x)[..., 0, 0].T.int()
        tensor([[2, 3, 0],
                [0, 1, 2],
                [1, 2, 3],
                [1, 2, 3]], dtype=torch.int32)
    """

    def __init__(self, frames: int, div: int = 8) -> None:
        super().__init__()
        self.frames, self.div = frames, div

    def forward(self, x: Tensor) -> Tensor:
        clips = x.unflatten(0, (-1, self.frames))  # (B, T, C, h, w)
        fold = x.shape[1] // self.div
        nothing = torch.zeros_like(clips[:, :1])
        later = torch.cat((clips[:, 1:, :fold], nothing[:, :, :fold]), 1)
        earlier = torch.cat((nothing[:, :, fold : 2 * fold], clips[:, :-1, fold : 2 * fold]), 1)
        return torch.cat((later, earlier, clips[:, :, 2 * fold :]), 2).flatten(0, 1)

    def extra_repr(self) -> str:
        return f"frames={self.frames}, div={self.div}"


def _residual_blocks(body: nn.Module, kind: type[nn.Module] = nn.Module) -> Iterator[Any]:
    blocks = [m for m in body.modules() if isinstance(m, kind) and hasattr(m, "conv1") and hasattr(m, "conv3")]
    blocks = blocks or [m for m in body.modules() if hasattr(m, "conv1") and hasattr(m, "conv2")]
    if not blocks:
        raise Problem(f"{type(body).__name__} has no residual blocks with conv1", "temporal", "choose a ResNet")
    yield from blocks


def _add_shift(body: nn.Module, frames: int) -> None:
    """Shift in front of `conv1` of every residual block ("blockres")."""
    for block in _residual_blocks(body):
        block.conv1 = nn.Sequential(TemporalShift(frames), block.conv1)


# -- TEA ----------------------------------------------------------------------------------------


class MotionExcitation(nn.Module):
    r"""Weights of channels from differences between adjacent frames.

    .. math:: M_t = K * X^r_{t+1} - X^r_t, \quad M_T = 0; \quad Y = X + X \, (\sigma(W \,\mathrm{GAP}(M)) - \tfrac12)

    Source: "TEA: Temporal Excitation and Aggregation for Action Recognition" (Li et al., CVPR 2020), section 3.1.

    Shape:
        (B T, C, h, w) -> same.
    """

    def __init__(self, dim: int, frames: int, reduction: int = 16) -> None:
        super().__init__()
        inner = max(1, dim // reduction)
        self.frames = frames
        self.squeeze = nn.Sequential(nn.Conv2d(dim, inner, 1, bias=False), nn.BatchNorm2d(inner))
        self.transform = nn.Conv2d(inner, inner, 3, padding=1, groups=inner, bias=False)
        self.expand = nn.Sequential(nn.Conv2d(inner, dim, 1, bias=False), nn.BatchNorm2d(dim))

    def forward(self, x: Tensor) -> Tensor:
        reduced = self.squeeze(x)
        now = reduced.unflatten(0, (-1, self.frames))  # (B, T, C / r, h, w)
        following = self.transform(reduced).unflatten(0, (-1, self.frames))
        motion = torch.cat((following[:, 1:] - now[:, :-1], torch.zeros_like(now[:, :1])), 1)
        weights = self.expand(motion.flatten(0, 1).mean((2, 3), keepdim=True)).sigmoid()  # (B T, C, 1, 1)
        return x * (0.5 + weights)


class TemporalConv(nn.Module):
    """Depth-wise convolution over time, kernel 3; at first a temporal shift of a quarter of the channels.

    Source: TEA, section 3.2 (multiple temporal aggregation).

    Shape:
        (B T, C, h, w) -> same.
    """

    def __init__(self, dim: int, frames: int, div: int = 8) -> None:
        super().__init__()
        self.frames = frames
        self.conv = nn.Conv3d(dim, dim, (3, 1, 1), padding=(1, 0, 0), groups=dim, bias=False)
        fold = max(1, dim // div)
        nn.init.zeros_(self.conv.weight)
        with torch.no_grad():
            self.conv.weight[:fold, :, 2] = 1
            self.conv.weight[fold : 2 * fold, :, 0] = 1
            self.conv.weight[2 * fold :, :, 1] = 1

    def forward(self, x: Tensor) -> Tensor:
        clips = x.unflatten(0, (-1, self.frames)).transpose(1, 2)  # (B, C, T, h, w)
        return self.conv(clips).transpose(1, 2).flatten(0, 1)


def _add_tea(body: nn.Module, frames: int) -> None:
    """Motion excitation after the first convolution of a Res2Net block, temporal convolutions in its branches."""
    if not any(isinstance(module, Bottle2neck) for module in body.modules()):
        raise Problem("TEA is built on Res2Net", f"temporal=tea, {type(body).__name__}", "choose res2net50_26w_4s")
    for block in _residual_blocks(body, Bottle2neck):
        dim = block.conv1.out_channels
        # The block's own ReLU follows and changes nothing: excitation keeps the sign.
        block.bn1 = nn.Sequential(block.bn1, nn.ReLU(inplace=True), MotionExcitation(dim, frames))
        for i, conv in enumerate(block.convs):
            block.convs[i] = nn.Sequential(TemporalConv(block.width, frames), conv)


_ADD: dict[Temporal, Callable[[nn.Module, int], None]] = {
    "none": lambda _body, _frames: None,
    "shift": _add_shift,
    "tea": _add_tea,
}
