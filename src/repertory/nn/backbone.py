"""timm's interface for networks of this package: pooling, heads, checkpointing, dilation, and registration."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any, ClassVar

import torch
from timm.layers import SelectAdaptivePool2d
from timm.models import build_model_with_cfg
from timm.models._builder import resolve_pretrained_cfg
from timm.models._features import feature_take_indices
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from repertory.core.problem import Problem

POOLS = ("avg", "max", "avgmax", "catavgmax", "fastavg", "fastmax", "fastavgmax", "fastcatavgmax", "")
"""timm's pooling: of adaptive layers, the same by reductions ("fast"), or none: the output is the map."""
OUTPUT_STRIDES = (8, 16, 32)


class PooledNetwork(nn.Module):
    """Pooling, classifier and gradient checkpointing of networks whose last map is (N, num_features, h, w)."""

    head_name: ClassVar[str] = "head"
    num_classes: int
    num_features: int
    global_pool: SelectAdaptivePool2d
    grad_checkpointing: bool = False

    def get_classifier(self) -> nn.Module:
        """The classification layer."""
        return self.get_submodule(self.head_name)

    def reset_classifier(self, num_classes: int, global_pool: str | None = None, reset_other: bool = False) -> None:
        """Replace the classification layer by a new one.

        Args:
            num_classes: outputs; 0: no layer, the output is the pooled features.
            global_pool: one of `POOLS`; None: as before.
            reset_other: no effect; timm passes it.

        Raises:
            Problem: unknown pooling, or none in front of a classifier.
        """
        if global_pool is not None:
            self.global_pool = pooling(global_pool)
        check_pooling(self, num_classes)
        self.remember(num_classes)
        self.set_submodule(self.head_name, self.new_head(self.num_features * self.global_pool.feat_mult(), num_classes))

    def remember(self, num_classes: int) -> None:
        """Keep classes and pooling, also in what `save_pretrained` writes."""
        self.num_classes = num_classes
        getattr(self, "_hub_mixin_config", {}).update(num_classes=num_classes, global_pool=self.global_pool.pool_type)

    def new_head(self, width: int, num_classes: int) -> nn.Module:
        """Linear layer of `width` features, or none with 0 classes, on the device and in the dtype of the network."""
        if not num_classes:
            return nn.Identity()
        weight = next(self.parameters())
        return self.initialise_head(nn.Linear(width, num_classes)).to(weight.device, weight.dtype)

    def initialise_head(self, head: nn.Linear) -> nn.Linear:
        """Initialise a new classification layer in place; default: as torch does."""
        return head

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute blocks in the backward pass instead of storing their activations; equal gradients."""
        self.grad_checkpointing = enable

    def no_weight_decay(self) -> set[str]:
        """Parameters without weight decay, besides biases and other vectors, which timm's optimizers exclude."""
        return set()

    def through(self, stage: nn.Module, x: Tensor) -> Tensor:
        """Output of a stage; with gradient checkpointing, block by block."""
        if not (self.grad_checkpointing and torch.is_grad_enabled()):
            return stage(x)
        for block in stage if isinstance(stage, nn.Sequential) else (stage,):
            x = recomputed(block, x)
        return x


def pooling(global_pool: str) -> SelectAdaptivePool2d:
    """timm's pooling layer: (N, C, h, w) -> (N, C); with "" the map itself.

    Raises:
        Problem: none of `POOLS`.
    """
    if global_pool not in POOLS:
        known = ", ".join(repr(name) for name in POOLS)
        raise Problem(f"unknown pooling {global_pool!r}", "global_pool", f"choose from {known}")
    return SelectAdaptivePool2d(pool_type=global_pool, flatten=bool(global_pool))


def check_pooling(network: PooledNetwork, num_classes: int) -> None:
    """Raise `Problem` for a classifier without pooling."""
    if num_classes and network.global_pool.is_identity():
        remedy = 'give num_classes=0 for the map, or a global_pool such as "avg"'
        raise Problem(f"{num_classes} classes without pooling", type(network).__name__, remedy)


def recomputed(module: nn.Module, *inputs: Any) -> Any:
    """Output of a module that the backward pass computes again; batch norms update their statistics once."""
    if torch.compiler.is_compiling():
        return checkpoint(module, *inputs, use_reentrant=False)
    contexts = lambda: (nullcontext(), _statistics_kept(module))  # noqa: E731
    return checkpoint(module, *inputs, use_reentrant=False, context_fn=contexts)


@contextmanager
def _statistics_kept(module: nn.Module) -> Iterator[None]:
    """Let batch norms update copies of their statistics."""
    norms = [m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    kept = [dict(norm._buffers) for norm in norms]
    for norm in norms:
        norm._buffers.update({name: None if b is None else b.clone() for name, b in norm._buffers.items()})
    try:
        yield
    finally:
        for norm, buffers in zip(norms, kept, strict=True):
            norm._buffers.update(buffers)


class StagedBackbone(PooledNetwork):
    """Base class of staged backbones: subclasses define `stem`, `stages`, `head` and `post_stage`.

    With `build(..., feature_cfg={"feature_cls": "getter"})` it supports timm's `features_only=True`.
    """

    post_stage: ClassVar[str]
    """Name of the module between the last stage and pooling; if it is "norm", `forward_intermediates` can apply it."""
    stem: nn.Sequential
    stages: nn.ModuleList
    head: nn.Module

    def checked(self, x: Tensor) -> Tensor:
        """Images in the memory format of the stem.

        Raises:
            Problem: the images are too small.
        """
        raise NotImplementedError

    def forward_features(self, x: Tensor) -> Tensor:
        """Images (N, in_chans, H, W) -> last feature map (N, num_features, H / 32, W / 32)."""
        x = self.stem(self.checked(x))
        for stage in self.stages:
            x = self.through(stage, x)
        return self.get_submodule(self.post_stage)(x)

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Feature maps of the stages, for detection and segmentation.

        Args:
            x: images (N, in_chans, H, W).
            indices: stages, from 0; an int n: the last n; None: all.
            norm: normalise the map of the last stage, if the network normalises before pooling.
            stop_early: skip the stages after the last of `indices`.
            output_fmt: "NCHW".
            intermediates_only: return only the list of maps.

        Returns:
            (output of `forward_features`, maps), or the maps.

        Raises:
            Problem: another `output_fmt`.
        """
        check_format(output_fmt)
        wanted, last = feature_take_indices(len(self.stages), indices)
        post_stage = self.get_submodule(self.post_stage)
        normalised = len(self.stages) - 1 if norm and self.post_stage == "norm" else None
        x, maps = self.stem(self.checked(x)), []
        for i, stage in enumerate(self.stages[: last + 1] if stop_early or intermediates_only else self.stages):
            x = self.through(stage, x)
            if i in wanted:
                maps.append(post_stage(x) if i == normalised else x)
        return maps if intermediates_only else (post_stage(x), maps)

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Remove the modules that the maps of stages `indices` do not need; returns the absolute indices."""
        wanted, last = feature_take_indices(len(self.stages), indices)
        if prune_norm or last + 1 < len(self.stages):
            self.set_submodule(self.post_stage, nn.Identity())
        self.stages = self.stages[: last + 1]
        if prune_head:
            self.reset_classifier(0)
        return wanted


def dilate(
    stages: Iterable[Iterable[nn.Module]], infos: list[dict[str, Any]], output_stride: int, network: str
) -> None:
    """Replace strides by dilation such that no map is smaller than the image divided by `output_stride`, in place.

    As in timm and torchvision, a convolution that loses its stride keeps the dilation of the stage before; the
    following ones double it. The weights stay the same.

    Args:
        stages: modules of each stage, in the order of `infos`.
        infos: `feature_info`; reductions are updated.
        output_stride: one of `OUTPUT_STRIDES`.
        network: for errors.

    Raises:
        Problem: another output stride.
    """
    if output_stride not in OUTPUT_STRIDES:
        known = ", ".join(map(str, OUTPUT_STRIDES))
        raise Problem(f"output_stride is {output_stride}", network, f"choose from {known}")
    dilation = 1
    for modules, info in zip(stages, infos, strict=True):
        before, dilation = dilation, max(1, info["reduction"] // output_stride)
        info["reduction"] = min(info["reduction"], output_stride)
        for module in modules:
            for conv in module.modules():
                if isinstance(conv, nn.Conv2d) and dilation > 1:
                    strided = conv.stride != (1, 1)
                    conv.stride = (1, 1)
                    if conv.kernel_size != (1, 1):
                        step = before if strided else dilation
                        conv.dilation = (step, step)
                        conv.padding = tuple(step * (kernel // 2) for kernel in conv.kernel_size)


def build(
    network: Callable[..., Any],
    paper: str,
    variant: str,
    pretrained: bool,
    arguments: Mapping[str, Any],
    levels: int,
    dilated: bool = False,
    **options: Any,
) -> Any:
    """`timm.models.build_model_with_cfg`, with this package's answers to what it does not have.

    Args:
        network: class, or function of the arguments.
        paper: id, for errors.
        variant: name in timm's registry.
        pretrained: see `timm.create_model`.
        arguments: of the network and of `timm.create_model`.
        levels: number of maps that `features_only=True` offers.
        dilated: the network takes `output_stride`.
        **options: of `build_model_with_cfg`.

    Raises:
        Problem: pretrained weights that nobody hosts, maps that do not exist, or an output stride.
    """
    arguments = dict(arguments)
    config = {name: arguments.get(name) for name in ("pretrained_cfg", "pretrained_cfg_overlay")}
    if pretrained and not resolve_pretrained_cfg(variant, **config).has_weights:
        raise Problem(
            f"no weights of {variant} can be downloaded",
            "pretrained=True",
            f"give checkpoint_path=FILE with the authors' file (`repertory show {paper}` names their repository); "
            "from_pretrained(DIR) reads what `repertory train` and `convert` write",
        )
    if arguments.get("features_only") and arguments.get("out_indices") is not None:
        indices = arguments["out_indices"]
        wanted = range(-indices, 0) if isinstance(indices, int) else indices
        if not wanted or not all(-levels <= i < levels for i in wanted):
            remedy = f"choose from 0 to {levels - 1}, or from -{levels} to -1, counted from the end"
            raise Problem(f"{variant} has no maps out_indices={indices}", "features_only", remedy)
    if "output_stride" in arguments and not dilated:
        remedy = "leave output_stride out; features_only=True gives the maps at finer strides"
        raise Problem(f"the strides of {variant} are fixed", "output_stride", remedy)
    return build_model_with_cfg(network, variant, pretrained, **options, **arguments)


def channels_last(x: Tensor) -> Tensor:
    """Maps in channels-last memory; under `torch.func`, which cannot change the memory format, unchanged."""
    return x if torch._C._are_functorch_transforms_active() else x.contiguous(memory_format=torch.channels_last)


def eager_on_cpu(x: Tensor) -> bool:
    """Whether operators run one by one on a CPU: no compiler, export, trace or `torch.func` transform follows them."""
    return x.is_cpu and not (
        torch.compiler.is_compiling() or torch.jit.is_tracing() or torch._C._are_functorch_transforms_active()
    )


def check_images(x: Tensor, channels: int, network: str, least: int = 1, size: tuple[int, int] | None = None) -> Tensor:
    """The images (N, channels, H, W), unchanged; N may be 0.

    Args:
        x: the images.
        channels: that the network takes.
        network: for errors.
        least: smallest height and width.
        size: the only height and width that the network takes; None: any.

    Raises:
        Problem: images of another shape, or smaller ones.

    Example:
        >>> check_images(torch.zeros(2, 3, 8, 8), 3, "Net").shape
        torch.Size([2, 3, 8, 8])
    """
    if x.ndim != 4 or x.shape[1] != channels or 0 in x.shape[2:]:
        remedies = {1: f"grey images: x.expand(-1, {channels}, -1, -1), or in_chans=1"} if channels != 1 else {}
        single = "one image: x[None]" if x.ndim == 3 and x.shape[0] == channels else "give images of this shape"
        raise Problem(
            f"images of shape {tuple(x.shape)} for a network that takes (N, {channels}, H, W)",
            network,
            remedies.get(x.shape[1], single) if x.ndim == 4 else single,
        )
    height, width = x.shape[-2:]
    if height < least or width < least:
        remedy = f"give at least {least} x {least}"
        raise Problem(f"an image of {height} x {width} pixels is too small", network, remedy)
    if size is not None and (height, width) != tuple(size):
        remedy = f"resize to {size[0]} x {size[1]}, or build the network with img_size"
        raise Problem(f"an image of {height} x {width} pixels", network, remedy)
    return x


def check_format(output_fmt: str) -> None:
    """Require the layout (N, C, H, W).

    Raises:
        Problem: another layout is requested.
    """
    if output_fmt != "NCHW":
        raise Problem(f"maps are NCHW, not {output_fmt}", "forward_intermediates", 'set output_fmt="NCHW"')
