"""VGNet: light convolutional networks designed by looking at trained kernels (Zhang et al., ICME 2022).

Trained 3x3 kernels of mobile networks resemble edge detectors, blurs and identities. Therefore downsampling follows a
Gaussian low-pass filter (VGNetG), each layer passes half of its channels unchanged and applies one depth-wise
convolution to the other half, and the kernels can be fixed edge detectors (VGNetF).

    model = timm.create_model("vgnetg_1_0mp")     # after `import repertory.papers.vgnet`

The state between two layers is a pair [a, b] of maps with equal numbers of channels. Images are (N, C, H, W),
internally in channels-last memory: a 1x1 convolution of several maps is then a sum of matrix products, without
concatenation.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from huggingface_hub import PyTorchModelHubMixin
from timm.layers import DropPath, make_divisible
from timm.models import generate_default_cfgs, register_model
from torch import Tensor, nn
from torchvision.ops import SqueezeExcitation

from repertory.core.arguments import check_lengths, check_rates, check_whole
from repertory.core.problem import Problem
from repertory.nn.backbone import StagedBackbone, build, channels_last, check_images, eager_on_cpu
from repertory.nn.imagenet import IMAGENET
from repertory.papers.vgnet.fusion import Offset, fuse_stage, plain_kernel
from repertory.papers.vgnet.kernels import FixedDepthwise, SharedDepthwise, depthwise
from repertory.papers.vgnet.weights import accept_released_weights

Downsample = Literal["blur", "dwconv", "maxpool"]
Kernels = Literal["learned", "learned_bn", "edge", "edge_gaussian", "identity"]
StyleName = Literal["paper", "release"]


@dataclass(frozen=True)
class Style:
    """Differences between the paper (December 2021) and the released weights (November 2022)."""

    act: type[nn.Module]
    """Not in place: the maps are views, and in-place operations would change the memory layout of gradients."""
    blur: str
    """Key of `kernels.SETS`."""
    shared_tail: bool
    """The last depth-wise convolution applies each kernel to 8 channels."""
    drop_rate: float
    crop_pct: float


STYLES: dict[str, Style] = {
    "paper": Style(nn.ReLU, "blur_paper", shared_tail=True, drop_rate=0.0, crop_pct=224 / 256),
    "release": Style(nn.SiLU, "blur_release", shared_tail=False, drop_rate=0.2, crop_pct=224 / 232),
}

SIZES: dict[str, dict[str, Any]] = {
    "1_0mp": {"channels": (28, 56, 112, 224, 368), "layers": (4, 7, 13, 2)},
    "1_5mp": {"channels": (32, 64, 128, 256, 512), "layers": (3, 7, 14, 2)},
    "2_0mp": {"channels": (32, 72, 168, 376, 512), "layers": (3, 6, 13, 2)},
    "2_5mp": {"channels": (32, 80, 192, 400, 544), "layers": (3, 6, 16, 2)},
    "5_0mp": {"channels": (32, 88, 216, 456, 856), "layers": (4, 7, 15, 5)},
}
"""Channels of the stem and of the four stages, and layers of the stages."""

VARIANTS: dict[str, dict[str, Any]] = {
    **{f"vgnetg_{size}": {**shape, "style": "release"} for size, shape in SIZES.items()},
    **{f"vgnetg_{size}_se": {**shape, "style": "release", "se_ratio": 0.25} for size, shape in SIZES.items()},
    **{f"vgnetc_{size}": {**shape, "style": "paper", "downsample": "dwconv"} for size, shape in SIZES.items()},
    "vgnete_1_5mp": {**SIZES["1_5mp"], "style": "paper", "kernels": "edge"},
    "vgnetf_1_5mp": {**SIZES["1_5mp"], "style": "paper", "kernels": "edge_gaussian"},
}
"""The published networks, in the style of their released weights. `vgnete`, named after its file, is VGNetF with edge
detectors only."""


class Pointwise(nn.Module):
    """1x1 convolution, activation, batch norm, in this order; optionally squeeze-and-excitation.

    Args:
        dim_in: total channels of all inputs.
        dim_out: output channels.
        act: activation.
        se_ratio: hidden channels of squeeze-and-excitation relative to `dim_out`; None: no squeeze-and-excitation.
    """

    def __init__(self, dim_in: int, dim_out: int, act: type[nn.Module], se_ratio: float | None = None) -> None:
        super().__init__()
        self.conv = nn.Conv2d(dim_in, dim_out, 1, bias=False)
        self.offset: Offset | None = None  # set by `fuse`
        self.act = act()
        self.norm: nn.Module = nn.BatchNorm2d(dim_out)
        hidden = make_divisible(int(se_ratio * dim_out), 8) if se_ratio else 0
        self.se: nn.Module = SqueezeExcitation(dim_out, hidden, activation=act) if hidden else nn.Identity()

    def forward(self, *parts: Tensor) -> Tensor:
        """Maps (N, C_k, H, W), in the order of their channels, C_1 + C_2 + ... = dim_in -> (N, dim_out, H, W)."""
        return self.se(self.norm(self.act(self.product(*parts))))

    def product(self, *parts: Tensor) -> Tensor:
        """The convolution W x = W_1 x_1 + W_2 x_2 + ..., without concatenating the parts."""
        n, _, height, width = parts[0].shape
        weights = self.conv.weight.flatten(1).t().split([part.shape[1] for part in parts])
        first, *others = (part.permute(0, 2, 3, 1).flatten(0, 2) for part in parts)  # (N H W, C_k)
        if self.offset is None:
            z = first @ weights[0]
        else:
            z = accumulated(self.offset(height, width).repeat(n, 1), first, weights[0])
        for part, weight in zip(others, weights[1:], strict=True):
            z = accumulated(z, part, weight)
        return z.view(n, height, width, self.conv.out_channels).permute(0, 3, 1, 2)


def accumulated(z: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """z + x @ weight; in eager inference into z, which nobody else holds, unless autocast converts the operands."""
    in_place = z.dtype == x.dtype == weight.dtype and not torch.is_grad_enabled() and eager_on_cpu(z)
    return torch.addmm(z, x, weight, out=z if in_place else None)


def spatial(channels: int, kernels: Kernels, shared: bool = False) -> nn.Module:
    """K: depth-wise 3x3 convolution with learned kernels, or with fixed kernels and a batch norm.

    Args:
        channels: input and output channels.
        kernels: "learned"; "edge" or "edge_gaussian" (VGNetF); or an ablation: "learned_bn" adds the batch norm of
            the fixed kernels, "identity" removes the convolution.
        shared: apply each learned kernel to 8 channels.
    """
    if kernels == "identity":
        return nn.Identity()
    if kernels in ("learned", "learned_bn"):
        conv = SharedDepthwise(channels) if shared else depthwise(channels)
        return conv if kernels == "learned" else nn.Sequential(conv, nn.BatchNorm2d(channels))
    return nn.Sequential(FixedDepthwise(channels, kernels), nn.BatchNorm2d(channels))


class Downsampling(nn.Module):
    """First layer of a stage: apply the filter D, keep the last channels, and compute the others by PW.

    Args:
        dim_in: input channels.
        dim_out: output channels, even.
        method: D: "blur", a fixed Gaussian; "dwconv", a learned depth-wise convolution; "maxpool", 3x3 without padding.
        stride: 2; or 1, where D is always learned.
        style: see `STYLES`.
        se_ratio: see `Pointwise`.

    Shape:
        (N, dim_in, H, W) -> twice (N, dim_out / 2, H / stride, W / stride).

    Raises:
        Problem: `dim_out` is odd, or `dim_in` is not a multiple of the number of blur kernels.
    """

    def __init__(
        self,
        dim_in: int,
        dim_out: int,
        method: Downsample,
        stride: int,
        style: Style,
        se_ratio: float | None,
    ) -> None:
        super().__init__()
        if dim_out % 2:
            raise Problem(f"a stage of {dim_out} channels cannot be halved", "VGNet, channels", "choose even widths")
        self.filter: nn.Module
        if method == "dwconv" or stride == 1:
            self.filter = depthwise(dim_in, stride)
        elif method == "maxpool":
            self.filter = nn.MaxPool2d(3, stride)
        else:
            self.filter = FixedDepthwise(dim_in, style.blur, stride)
        self.kept = min(dim_out // 2, dim_in) if dim_in <= dim_out else 0
        self.pw = Pointwise(dim_in, dim_out - self.kept, style.act, se_ratio)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(N, dim_in, H, W) -> pair (a, b)."""
        y = self.filter(x)
        b = self.pw(y)  # (N, dim_out - kept, H', W')
        a = y[:, y.shape[1] - self.kept :]
        if a.shape[1] == b.shape[1]:
            return a, b
        a, b = torch.cat([a, b], 1).chunk(2, 1)
        return a, b


class HalfIdentity(nn.Module):
    """[a, b] -> [b, PW(a, K(b))]: half of the channels pass unchanged; no additive shortcut.

    Args:
        dim: total channels of the pair.
        kernels: see `spatial`.
        style: see `STYLES`.
        se_ratio: see `Pointwise`.
        drop_path: rate at which the new half of an image is dropped in training.
    """

    def __init__(self, dim: int, kernels: Kernels, style: Style, se_ratio: float | None, drop_path: float) -> None:
        super().__init__()
        self.kernel = spatial(dim // 2, kernels)
        self.pw = Pointwise(dim, dim // 2, style.act, se_ratio)
        self.drop_path = DropPath(drop_path)

    def forward(self, pair: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Pair of (N, dim / 2, H, W) -> same shapes."""
        a, b = pair
        return b, self.drop_path(self.pw(a, self.kernel(b)))


class Join(nn.Module):
    """The end of a stage: concatenate a and b."""

    def forward(self, pair: tuple[Tensor, Tensor]) -> Tensor:
        """Pair of (N, C, H, W) -> (N, 2 C, H, W)."""
        return torch.cat(pair, 1)


class Stage(nn.Sequential):
    """Downsampling layer, half-identity layers and join: (N, C, H, W) -> (N, C', H / stride, W / stride)."""

    @torch.no_grad()
    def fuse(self) -> Stage:
        """Fold the batch norms into the layers that read their outputs, in place: same outputs, faster inference.

        `timm.models.reparameterize_model(model)` does this for a whole model.
        """
        fuse_stage(self)
        return self


class Tail(nn.Module):
    """K and PW on all channels of the last stage."""

    def __init__(self, dim: int, kernels: Kernels, style: Style) -> None:
        super().__init__()
        self.kernel = spatial(dim, kernels, shared=style.shared_tail)
        self.pw = Pointwise(dim, dim, style.act)

    def forward(self, x: Tensor) -> Tensor:
        """(N, dim, H, W) -> same shape."""
        return self.pw(self.kernel(x))

    @torch.no_grad()
    def fuse(self) -> Tail:
        """Fold the batch norm of K, in place."""
        self.kernel = plain_kernel(self.kernel)
        return self


class VGNet(StagedBackbone, PyTorchModelHubMixin, library_name="repertory"):
    """Backbone and classifier: stem, four stages at strides 4, 8, 16, 32, a tail, and a linear head.

    `VARIANTS` holds the arguments of the published networks.

    Args:
        channels: of the stem and of each stage; even for stages.
        layers: of each stage, including the downsampling layer.
        style: "paper" (ReLU, shared kernels in the tail, blur kernels of alternating sign) or "release" (SiLU, dropout
            before the head). Weights fit only the style they were trained in.
        downsample: "blur" (VGNetG, VGNetF), "dwconv" (VGNetC) or "maxpool".
        kernels: "learned"; fixed "edge" or "edge_gaussian" (VGNetF); ablations "learned_bn" and "identity".
        se_ratio: relative number of hidden channels of squeeze-and-excitation; None: without. Published: 0.25.
        thumbnail: for small images: stem and first stage have stride 1, so the stages have strides 1, 2, 4, 8.
        num_classes: number of classes; 0: no head, the output is the pooled features.
        in_chans: channels of the images.
        global_pool: one of `repertory.nn.backbone.POOLS`; "" with num_classes=0: the output is the last map.
        drop_rate: dropout before the head; None: that of the style.
        drop_path_rate: rate at which the last half-identity layer drops its new half; it grows linearly from 0.
            The authors use none.
        pretrained_cfg: preprocessing of the training data, with timm's keys: `input_size`, `mean`, `std`, `crop_pct`,
            `interpolation` (read by `timm.data.resolve_data_config`), and `label_names`.

    Shape:
        (N, in_chans, H, W), H and W at least 32 -> logits (N, num_classes).

    Raises:
        Problem: odd widths, widths that are not multiples of the number of fixed or shared kernels, a ratio out of
            range, an unknown style, downsample or kernels; in `forward`, an image that is too small.

    Example:
        >>> model = VGNet(**VARIANTS["vgnetg_1_0mp"])
        >>> sum(p.numel() for p in model.parameters())
        1000256
        >>> [tuple(x.shape) for x in model.forward_intermediates(torch.zeros(1, 3, 64, 64), intermediates_only=True)]
        [(1, 56, 16, 16), (1, 112, 8, 8), (1, 224, 4, 4), (1, 368, 2, 2)]
    """

    post_stage = "tail"

    def __init__(
        self,
        channels: Sequence[int],
        layers: Sequence[int],
        style: StyleName = "release",
        downsample: Downsample = "blur",
        kernels: Kernels = "learned",
        se_ratio: float | None = None,
        thumbnail: bool = False,
        num_classes: int = 1000,
        in_chans: int = 3,
        global_pool: str = "avg",
        drop_rate: float | None = None,
        drop_path_rate: float = 0.0,
        pretrained_cfg: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        check_whole("VGNet", channels=channels, layers=layers, in_chans=in_chans)
        check_whole("VGNet", 0, num_classes=num_classes)
        check_lengths("VGNet", layers=layers, stages=channels[1:])
        check_rates("VGNet", drop_rate=drop_rate or 0.0, drop_path_rate=drop_path_rate)
        for name, value, choices in (
            ("style", style, tuple(STYLES)),
            ("downsample", downsample, Downsample.__args__),
            ("kernels", kernels, Kernels.__args__),
        ):
            if value not in choices:
                raise Problem(f"unknown {name} {value!r}", "VGNet", f"choose from {', '.join(choices)}")
        if se_ratio is not None and not 0 < se_ratio <= 1:
            raise Problem(f"se_ratio is {se_ratio}", "VGNet", "give a ratio above 0 and up to 1, or None for no SE")
        self.style, parts = style, STYLES[style]
        self.num_classes, self.in_chans = num_classes, in_chans
        self.num_features = self.head_hidden_size = channels[-1]
        self.pretrained_cfg = {**CFGS[style], "num_classes": num_classes, **(pretrained_cfg or {})}
        strides = (1, 1, 2, 2, 2) if thumbnail else (2, 2, 2, 2, 2)
        self.least_size = 8 if thumbnail else 32
        if downsample == "maxpool":  # without padding: 2 n + 1 pixels -> n
            self.least_size = 15 if thumbnail else 61
        reduction = strides[0]

        conv = nn.Conv2d(in_chans, channels[0], 3, strides[0], 1, bias=False)
        self.stem = nn.Sequential(OrderedDict(conv=conv, act=parts.act(), norm=nn.BatchNorm2d(channels[0])))

        self.stages = nn.ModuleList()
        self.feature_info: list[dict[str, Any]] = []
        rates = iter(torch.linspace(0, drop_path_rate, sum(layers) - len(layers), device="cpu").tolist())
        for i, (dim_in, dim, depth, stride) in enumerate(
            zip(channels, channels[1:], layers, strides[1:], strict=False)
        ):
            down = Downsampling(dim_in, dim, downsample, stride, parts, se_ratio)
            blocks = [HalfIdentity(dim, kernels, parts, se_ratio, next(rates)) for _ in range(depth - 1)]
            self.stages.append(Stage(down, *blocks, Join()))
            reduction *= stride
            self.feature_info.append({"num_chs": dim, "reduction": reduction, "module": f"stages.{i}"})
        self.tail = Tail(channels[-1], kernels, parts)
        self.drop = nn.Dropout(parts.drop_rate if drop_rate is None else drop_rate)
        self.reset_classifier(num_classes, global_pool)
        self.register_load_state_dict_pre_hook(accept_released_weights)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Last feature map -> logits (N, num_classes), or pooled features (N, channels[4])."""
        x = self.drop(self.global_pool(x))
        return x if pre_logits else self.head(x)

    def forward(self, x: Tensor) -> Tensor:
        """Images (N, in_chans, H, W) -> logits (N, num_classes)."""
        return self.forward_head(self.forward_features(x))

    @torch.no_grad()
    def reset_fixed_kernels(self) -> None:
        """Restore the constants of the fixed kernels, for example after an initialiser changed them."""
        for module in self.modules():
            if isinstance(module, FixedDepthwise):
                module.reset()

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """timm's grouping of parameters into layers, for layer-wise learning-rate decay."""
        layers = r"^stages\.(\d+)" if coarse else r"^stages\.(\d+)\.(\d+)"
        return {"stem": r"^stem", "blocks": [(layers, None), (r"^tail", (len(self.stages),))]}

    @torch.no_grad()
    def fuse(self) -> VGNet:
        """Fold batch norms into the layers that read their outputs, in place: same outputs, faster inference.

        Norms of the stem and of the tail's PW remain; with squeeze-and-excitation, those of every PW.
        """
        for stage in self.stages:
            cast(Stage, stage).fuse()
        if isinstance(self.tail, Tail):
            self.tail.fuse()
        return self

    def checked(self, x: Tensor) -> Tensor:
        """Images in channels-last memory.

        Raises:
            Problem: images of another shape, or too small.
        """
        height, width = check_images(x, self.in_chans, "VGNet").shape[-2:]
        if min(height, width) < self.least_size:
            raise Problem(
                f"an image of {height} x {width} pixels is too small",
                "VGNet",
                f"give at least {self.least_size} x {self.least_size}, or a network with thumbnail=True",
            )
        return channels_last(x)


# -- the published networks, in timm's registry -------------------------------------------------

CFGS: dict[str, dict[str, Any]] = {
    name: {
        **IMAGENET,
        "crop_pct": style.crop_pct,
        "interpolation": "bilinear",
        "first_conv": "stem.conv",
        "classifier": "head",
    }
    for name, style in STYLES.items()
}
"""Test preprocessing: short side to 256 (paper) or 232 pixels (release), central 224 x 224."""

default_cfgs = generate_default_cfgs({name: CFGS[arguments["style"]] for name, arguments in VARIANTS.items()})


def _create(variant: str, pretrained: bool = False, **kwargs: Any) -> VGNet:
    arguments = {**VARIANTS[variant], **kwargs}
    preprocessing = {"crop_pct": STYLES[arguments["style"]].crop_pct} if arguments["style"] in STYLES else {}
    overlay = {**preprocessing, **(arguments.pop("pretrained_cfg_overlay", None) or {})}
    return build(
        VGNet,
        "vgnet",
        variant,
        pretrained,
        {**arguments, "pretrained_cfg_overlay": overlay},
        levels=4,
        feature_cfg={"out_indices": (0, 1, 2, 3), "feature_cls": "getter"},
        pretrained_filter_fn=_filter_weights,
    )


def _filter_weights(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    accept_released_weights(model, state)
    return state


@register_model
def vgnetg_1_0mp(pretrained: bool = False, **kwargs: Any) -> VGNet:
    """1.00 M parameters, 144 M multiply-accumulates; top-1 of the released weights 68.1."""
    return _create("vgnetg_1_0mp", pretrained, **kwargs)


@register_model
def vgnetg_1_5mp(pretrained: bool = False, **kwargs: Any) -> VGNet:
    """1.51 M parameters, 191 M multiply-accumulates; top-1 of the released weights 70.5."""
    return _create("vgnetg_1_5mp", pretrained, **kwargs)


@register_model
def vgnetg_2_0mp(pretrained: bool = False, **kwargs: Any) -> VGNet:
    """2.01 M parameters, 304 M multiply-accumulates; top-1 of the released weights 72.3."""
    return _create("vgnetg_2_0mp", pretrained, **kwargs)


@register_model
def vgnetg_2_5mp(pretrained: bool = False, **kwargs: Any) -> VGNet:
    """2.50 M parameters, 403 M multiply-accumulates; top-1 of the released weights 73.7."""
    return _create("vgnetg_2_5mp", pretrained, **kwargs)


@register_model
def vgnetg_5_0mp(pretrained: bool = False, **kwargs: Any) -> VGNet:
    """5.00 M parameters, 607 M multiply-accumulates."""
    return _create("vgnetg_5_0mp", pretrained, **kwargs)


@register_model
def vgnetg_1_0mp_se(pretrained: bool = False, **kwargs: Any) -> VGNet:
    """With squeeze-and-excitation: 1.15 M parameters, 145 M multiply-accumulates; top-1 70.1."""
    return _create("vgnetg_1_0mp_se", pretrained, **kwargs)


@register_model
def vgnetg_1_5mp_se(pretrained: bool = False, **kwargs: Any) -> VGNet:
    """With squeeze-and-excitation: 1.71 M parameters, 192 M multiply-accumulates; top-1 72.4."""
    return _create("vgnetg_1_5mp_se", pretrained, **kwargs)


@register_model
def vgnetg_2_0mp_se(pretrained: bool = False, **kwargs: Any) -> VGNet:
    """With squeeze-and-excitation: 2.35 M parameters, 306 M multiply-accumulates; top-1 74.3."""
    return _create("vgnetg_2_0mp_se", pretrained, **kwargs)


@register_model
def vgnetg_2_5mp_se(pretrained: bool = False, **kwargs: Any) -> VGNet:
    """With squeeze-and-excitation: 2.93 M parameters, 405 M multiply-accumulates; top-1 75.6."""
    return _create("vgnetg_2_5mp_se", pretrained, **kwargs)


@register_model
def vgnetg_5_0mp_se(pretrained: bool = False, **kwargs: Any) -> VGNet:
    """With squeeze-and-excitation: 5.89 M parameters, 610 M multiply-accumulates."""
    return _create("vgnetg_5_0mp_se", pretrained, **kwargs)


@register_model
def vgnetc_1_0mp(pretrained: bool = False, **kwargs: Any) -> VGNet:
    """Downsampling learned as a depth-wise convolution, paper style."""
    return _create("vgnetc_1_0mp", pretrained, **kwargs)


@register_model
def vgnetc_1_5mp(pretrained: bool = False, **kwargs: Any) -> VGNet:
    """Downsampling learned as a depth-wise convolution, paper style."""
    return _create("vgnetc_1_5mp", pretrained, **kwargs)


@register_model
def vgnetc_2_0mp(pretrained: bool = False, **kwargs: Any) -> VGNet:
    """Downsampling learned as a depth-wise convolution, paper style."""
    return _create("vgnetc_2_0mp", pretrained, **kwargs)


@register_model
def vgnetc_2_5mp(pretrained: bool = False, **kwargs: Any) -> VGNet:
    """Downsampling learned as a depth-wise convolution, paper style."""
    return _create("vgnetc_2_5mp", pretrained, **kwargs)


@register_model
def vgnetc_5_0mp(pretrained: bool = False, **kwargs: Any) -> VGNet:
    """Downsampling learned as a depth-wise convolution, paper style."""
    return _create("vgnetc_5_0mp", pretrained, **kwargs)


@register_model
def vgnete_1_5mp(pretrained: bool = False, **kwargs: Any) -> VGNet:
    """VGNetF with edge detectors only: 1.49 M learned parameters; published top-1 64.4."""
    return _create("vgnete_1_5mp", pretrained, **kwargs)


@register_model
def vgnetf_1_5mp(pretrained: bool = False, **kwargs: Any) -> VGNet:
    """VGNetF with edge detectors and Gaussians: 1.49 M learned parameters; published top-1 66.2."""
    return _create("vgnetf_1_5mp", pretrained, **kwargs)
