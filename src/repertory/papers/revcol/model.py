"""RevCol: a sequence of pyramid networks with invertible links (Cai et al., ICLR 2023).

Every column reads the image and adds to the four maps of the previous column. Early columns preserve the image, late
ones classify it. Each step is invertible, so training need not store the activations of the columns.

    model = timm.create_model("revcol_tiny")    # after `import repertory.papers.revcol`; 82.2 % top-1 as published
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import torch
from huggingface_hub import PyTorchModelHubMixin
from timm.layers import LayerNorm2d, trunc_normal_
from timm.models import generate_default_cfgs, register_model
from timm.models._features import feature_take_indices
from torch import Tensor, nn

from repertory.core.arguments import check_rates, check_whole
from repertory.core.problem import Problem
from repertory.nn.backbone import (
    PooledNetwork,
    build,
    channels_last,
    check_format,
    check_images,
    check_pooling,
    pooling,
    recomputed,
)
from repertory.nn.imagenet import IMAGENET
from repertory.papers.revcol.blocks import EPS, Column
from repertory.papers.revcol.reversible import LEVELS, reversible_columns
from repertory.papers.revcol.settings import STRIDE
from repertory.papers.revcol.supervision import (
    SIMPLE_ABOVE,
    Classifier,
    Decoder,
    SimpleDecoder,
    Supervised,
    default_taps,
)
from repertory.papers.revcol.weights import accept_released_weights

VARIANTS: dict[str, dict[str, Any]] = {
    "revcol_tiny": {
        "channels": (64, 128, 256, 512), "layers": (2, 2, 4, 2), "columns": 4, "drop_path_rate": 0.1,
    },
    "revcol_small": {
        "channels": (64, 128, 256, 512), "layers": (2, 2, 4, 2), "columns": 8, "drop_path_rate": 0.3,
    },
    "revcol_base": {
        "channels": (72, 144, 288, 576), "layers": (1, 1, 3, 2), "columns": 16, "drop_path_rate": 0.4,
    },
    "revcol_large": {
        "channels": (128, 256, 512, 1024), "layers": (1, 2, 6, 2), "columns": 8, "drop_path_rate": 0.3,
    },
    "revcol_xlarge": {
        "channels": (224, 448, 896, 1792), "layers": (1, 2, 6, 2), "columns": 8, "drop_path_rate": 0.4,
    },
    "revcol_huge": {
        "channels": (360, 720, 1440, 2880), "layers": (1, 2, 6, 2), "columns": 8, "drop_path_rate": 0.4,
        "top_link": True,
    },
}  # fmt: skip
"""Arguments of the six published sizes."""


class RevCol(PooledNetwork, PyTorchModelHubMixin, library_name="repertory"):
    """Stem, columns, classifier; with supervision also classifiers and decoders of intermediate columns.

    Args:
        channels: of levels 0 to 3, at strides 4, 8, 16, 32.
        layers: blocks of each level of a column.
        columns: number of columns n.
        num_classes: number of classes; 0: no classifier, the output is the pooled features.
        in_chans: channels of the images.
        global_pool: one of `repertory.nn.backbone.POOLS`; "" with num_classes=0: the output is c(3, n), normalised.
        drop_rate: dropout before the last layer of the classifiers.
        drop_path_rate: rate of the last block of each column; it grows linearly from 0.
        kernel_size: of the depth-wise convolutions, odd.
        top_link: level 0 also gets level 3 of the previous column (the huge model).
        supervision: in training, classify and reconstruct the image after several columns.
        supervise_at: supervised columns, ascending from 1, the last one n; default: n/4, n/2, 3n/4, n.
        reversible: in training, store only the last column's maps for the backward pass and invert the columns there.
            Only this pass writes to weights: it sets every |a| below 1e-3 to 1e-3, since the inverse divides by a.
            Transforms of `torch.func`, tracing and export store all maps: same values and gradients.
        layer_scale: initial gamma of the blocks.
        head_init_scale: factor of the classifiers' initial weights (published: 0.001 in fine-tuning).
        pretrained_cfg: preprocessing of the training data, with timm's keys, and `label_names`.

    Shape:
        (N, in_chans, H, W), H and W multiples of 32 -> logits (N, num_classes); in training with supervision:
        `Supervised`.

    Raises:
        Problem: supervision of columns that do not exist, an even kernel; in `forward`, a height or width that is not
            a multiple of 32, or reversible training under `nn.DataParallel`.

    Example:
        >>> model = RevCol((8, 16, 24, 32), (1, 1, 2, 1), columns=4, num_classes=10, supervision=True)
        >>> model.eval()(torch.zeros(2, 3, 64, 64)).shape
        torch.Size([2, 10])
        >>> logits, reconstructions = model.train()(torch.zeros(2, 3, 64, 64))
        >>> len(logits), [tuple(r.shape) for r in reconstructions]
        (4, [(2, 3, 64, 64), (2, 3, 64, 64), (2, 3, 64, 64)])
        >>> _, maps = model.forward_intermediates(torch.zeros(1, 3, 70, 50))
        >>> [tuple(c.shape[1:]) for c in maps]
        [(8, 17, 12), (16, 8, 6), (24, 4, 3), (32, 2, 1)]
    """

    def __init__(
        self,
        channels: Sequence[int],
        layers: Sequence[int],
        columns: int,
        num_classes: int = 1000,
        in_chans: int = 3,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        kernel_size: int = 3,
        top_link: bool = False,
        supervision: bool = False,
        supervise_at: Sequence[int] | None = None,
        reversible: bool = True,
        layer_scale: float = 1e-6,
        head_init_scale: float = 1.0,
        pretrained_cfg: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        check_whole(
            "RevCol", channels=channels, layers=layers, columns=columns, in_chans=in_chans, kernel_size=kernel_size
        )
        check_whole("RevCol", 0, num_classes=num_classes)
        check_rates("RevCol", drop_rate=drop_rate, drop_path_rate=drop_path_rate)
        if not len(channels) == len(layers) == LEVELS:
            raise Problem(f"{len(channels)} channels and {len(layers)} layers", "RevCol", f"give {LEVELS} of each")
        if kernel_size % 2 == 0:
            raise Problem(f"an even kernel_size: {kernel_size}", "RevCol", "choose an odd one, which keeps map sizes")
        self.num_classes, self.in_chans, self.drop_rate, self.reversible = num_classes, in_chans, drop_rate, reversible
        self.num_features = self.head_hidden_size = channels[-1]
        self.layers, self.top_link, self.head_init_scale = tuple(layers), top_link, head_init_scale
        self.pretrained_cfg = {**IMAGENET, "num_classes": num_classes, **(pretrained_cfg or {})}
        self.supervise_at = _taps(columns, supervise_at) if supervision else ()

        self.stem = nn.Sequential(nn.Conv2d(in_chans, channels[0], 4, 4), LayerNorm2d(channels[0], eps=EPS))
        self.subnets = [f"subnet{i}" for i in range(columns)]
        for name in self.subnets:
            first = name == "subnet0"
            column = Column(channels, layers, first, top_link, kernel_size, drop_path_rate, layer_scale)
            self.add_module(name, column)
        if supervision:
            simple = num_classes > SIMPLE_ABOVE
            if simple:
                message = f"{num_classes} classes: intermediate columns use SimpleDecoder, as published"
                warnings.warn(message, stacklevel=2)
            self.decoder_blocks = nn.ModuleList(
                SimpleDecoder(channels[-1], in_chans) if simple else Decoder(channels, layer_scale, in_chans)
                for _ in self.supervise_at[:-1]
            )
        self.apply(_initialise)
        self.reset_classifier(num_classes, global_pool)
        self.feature_info = [
            {"num_chs": dim, "reduction": 4 << t, "module": f"subnet{columns - 1}.level{t}"}
            for t, dim in enumerate(channels)
        ]
        self.register_load_state_dict_pre_hook(accept_released_weights)

    @property
    def columns(self) -> list[Column]:
        """The columns, first to last."""
        return [self.get_submodule(name) for name in self.subnets]  # pyright: ignore[reportReturnType]

    # -- columns --------------------------------------------------------------------------------

    def each_column(self, image: Tensor) -> Iterator[list[Tensor]]:
        """Yield the maps c(0, i) … c(3, i) of each column, computed without inversion.

        Args:
            image: (N, in_chans, H, W), at least 32 x 32.
        """
        x = self._stem(image)
        features: list[Tensor] = []
        checkpointed = self.grad_checkpointing and torch.is_grad_enabled()
        for column in self.columns:
            features = recomputed(column, x, features) if checkpointed else column(x, features)
            yield features

    def last_column(self, image: Tensor, supervised: bool = False) -> tuple[list[Tensor], list[Tensor]]:
        """The maps of the last column; if `supervised`, also c(3, i) of the other supervised columns.

        Only training inverts columns. Evaluation, also with gradients, runs the equations and writes no weight.
        """
        taps = [after - 1 for after in self.supervise_at[:-1]] if supervised else []
        if not (self.reversible and self.training and torch.is_grad_enabled()) or _transformed():
            tapped, features = [], []
            for i, features in enumerate(self.each_column(image)):
                if i in taps:
                    tapped.append(features[-1])
            return features, tapped
        self._check_reversible()
        for column in self.columns:
            column.bound_alphas()
        x = self._stem(image)
        whole = [column for column in self.columns if column.depth == LEVELS]
        features, tapped = reversible_columns(whole, taps, x)
        for column in self.columns[len(whole) :]:  # pruned columns at the end are not invertible
            features = column(x, features)
        return features, tapped

    def _stem(self, image: Tensor) -> Tensor:
        check_images(image, self.in_chans, "RevCol", STRIDE)
        x = self.stem(channels_last(image))
        return x.to(self.columns[0].alpha(0).dtype)  # under autocast, sums between columns keep full precision

    def _check_reversible(self) -> None:
        if getattr(self, "_is_replica", False):
            remedy = "use DistributedDataParallel (repertory: --devices), or reversible=False"
            raise Problem("reversible training does not work under nn.DataParallel", "RevCol", remedy)
        if self.columns[0].alpha(0).dtype in (torch.float16, torch.bfloat16):
            message = "16-bit weights: inverting a column divides by a and amplifies rounding; use autocast instead"
            warnings.warn(message, stacklevel=2)

    # -- classification -------------------------------------------------------------------------

    def forward(self, x: Tensor) -> Tensor | Supervised:
        """Images -> logits (N, num_classes); in training with supervision, `Supervised`."""
        if self.training and self.supervise_at:
            return self.forward_supervised(x)
        return self.forward_head(self.forward_features(x))

    def forward_features(self, x: Tensor) -> Tensor:
        """Images -> c(3, n), (N, C_3, H / 32, W / 32)."""
        return self.last_column(_check_stride(check_images(x, self.in_chans, "RevCol")))[0][-1]

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """c(3, n) -> logits (N, num_classes), or pooled and normalised features (N, C_3)."""
        head = self.get_classifier()
        return head.pooled(x) if pre_logits else head(x)

    def forward_supervised(self, x: Tensor) -> Supervised:
        """Images -> logits and reconstructions of all supervised columns.

        Raises:
            Problem: the model has no supervision.
        """
        if not self.supervise_at:
            raise Problem("this model has no supervised columns", "RevCol", "build it with supervision=True")
        features, tapped = self.last_column(_check_stride(check_images(x, self.in_chans, "RevCol")), supervised=True)
        logits = [head(c) for head, c in zip(self.cls_blocks, [*tapped, features[-1]], strict=True)]
        return Supervised(logits, [decode(c) for decode, c in zip(self.decoder_blocks, tapped, strict=True)])

    @torch.no_grad()
    def without_supervision(self) -> RevCol:
        """A copy for inference, with the last classifier only and without decoders."""
        arguments = {**self._hub_mixin_config, "supervision": False, "supervise_at": None}  # pyright: ignore
        plain = type(self)(**{**arguments, "num_classes": self.num_classes})
        plain.load_state_dict(self.state_dict())
        return plain.train(self.training)

    # -- the interface of timm's models ---------------------------------------------------------

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Feature maps of the last column, for detection and segmentation.

        Args:
            x: images (N, in_chans, H, W) of any size from 32 x 32; links upsample to the exact size of a map.
            indices: levels, from 0; an int n: the last n; None: all.
            norm: no effect: there is no norm after the columns.
            stop_early: no effect: the previous columns need every level.
            output_fmt: "NCHW".
            intermediates_only: return only the list of maps.
        """
        check_format(output_fmt)
        wanted, _ = feature_take_indices(LEVELS, indices)
        features, _ = self.last_column(x)
        maps = [features[t] for t in wanted]
        return maps if intermediates_only else (features[-1], maps)

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Remove the modules that the maps of levels `indices` do not need; returns the absolute indices."""
        wanted, last = feature_take_indices(LEVELS, indices)
        for back, column in enumerate(reversed(self.columns)):
            # A level needs the next higher one of the previous column.
            column.cut(LEVELS if back and self.top_link else min(LEVELS, last + 1 + back))
        if prune_head or last + 1 < LEVELS:
            self.num_classes, self.supervise_at = 0, ()
            self.cls_blocks = self.decoder_blocks = nn.ModuleList()
            self.cls = nn.Identity()
        return wanted

    def get_classifier(self) -> Classifier:
        """The classifier of the last column."""
        return cast(Classifier, self.cls_blocks[-1] if self.supervise_at else self.cls)

    def reset_classifier(self, num_classes: int, global_pool: str | None = None, reset_other: bool = False) -> None:
        """Replace the last layers of the classifiers; their norms stay where the pooled width stays.

        See `PooledNetwork.reset_classifier`.
        """
        if global_pool is not None:
            self.global_pool = pooling(global_pool)
        check_pooling(self, num_classes)
        self.remember(num_classes)
        width = self.num_features * self.global_pool.feat_mult()
        weight = next(self.parameters())
        norms = [head.classifier[0] for head in self._classifiers()] or [None] * max(1, len(self.supervise_at))
        heads = [Classifier(width, num_classes, self.drop_rate, self.global_pool) for _ in norms]
        for head, norm in zip(heads, norms, strict=True):
            head.apply(_initialise)
            head.scale_(self.head_init_scale)
            head.to(weight.device, weight.dtype)
            if norm is not None and norm.normalized_shape == (width,):
                head.classifier[0] = norm
        if self.supervise_at:
            self.cls_blocks = nn.ModuleList(heads)
        else:
            (self.cls,) = heads

    def _classifiers(self) -> list[Classifier]:
        heads = getattr(self, "cls_blocks", ()) if self.supervise_at else (getattr(self, "cls", None),)
        return [head for head in heads if isinstance(head, Classifier)]

    def group_matcher(self, coarse: bool = False) -> Callable[[str], int]:
        """Name of a parameter -> its depth, for layer-wise learning-rate decay.

        The stem has depth 0; block r of column j (both from 0) 1 + r + j, the length of the shortest path; a fusion
        the depth of its level's first block; the a of column j 1 + j; the heads the largest.

        Args:
            coarse: depth by column.
        """
        firsts = [sum(self.layers[:t]) for t in range(LEVELS)]
        columns, rows = len(self.subnets), sum(self.layers)

        def depth(name: str) -> int:
            parts = name.split(".")
            if parts[0] == "stem":
                return 0
            if parts[0] not in self.subnets:
                return (0 if coarse else rows - 1) + columns + 1
            j, part = self.subnets.index(parts[0]), parts[1]
            if coarse or part.startswith("alpha"):
                return 1 + j
            return 1 + j + firsts[int(part.removeprefix("level"))] + (int(parts[3]) if parts[2] == "blocks" else 0)

        return depth


def _transformed() -> bool:
    """Whether a transform follows the operations, which cannot see through a reversible autograd function."""
    return torch.compiler.is_exporting() or torch.jit.is_tracing() or torch._C._are_functorch_transforms_active()


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d | nn.Linear) and not module.weight.is_meta:
        trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def _taps(columns: int, supervise_at: Sequence[int] | None) -> tuple[int, ...]:
    if supervise_at is None:
        if columns % 4:
            remedy = f"choose {4 * math.ceil(columns / 4)} columns, or set supervise_at, for example (1, {columns})"
            raise Problem(f"{columns} columns cannot be supervised by quarters", "RevCol", remedy)
        return default_taps(columns)
    taps = tuple(supervise_at)
    if len(taps) < 2 or list(taps) != sorted(set(taps)) or taps[0] < 1 or taps[-1] != columns:
        remedy = f"give ascending columns from 1, two or more, the last one {columns}"
        raise Problem(f"columns {taps} of {columns} cannot be supervised", "supervise_at", remedy)
    return taps


def _check_stride(x: Tensor) -> Tensor:
    height, width = x.shape[-2:]
    if height % STRIDE or width % STRIDE:
        fits = [STRIDE * -(-side // STRIDE) for side in (height, width)]
        raise Problem(
            f"an image of {height} x {width} pixels: not multiples of {STRIDE}",
            "RevCol",
            f"resize or pad it to {fits[0]} x {fits[1]}; forward_intermediates accepts any size",
        )
    return x


# -- the published sizes, in timm's registry ----------------------------------------------------

WARPED: dict[str, Any] = {"crop_pct": 1.0, "crop_mode": "squash"}
"""Test preprocessing above 224 pixels: the whole image, resized to a square. At 224: `IMAGENET`."""

default_cfgs = generate_default_cfgs(
    {
        name: {
            **IMAGENET,
            **{
                "revcol_xlarge": {"input_size": (3, 384, 384), "pool_size": (12, 12), **WARPED},
                "revcol_huge": {"input_size": (3, 640, 640), "pool_size": (20, 20), **WARPED},
            }.get(name, {}),
            "first_conv": "stem.0",
            "classifier": "cls.classifier.1",
        }
        for name in VARIANTS
    }
)


def _create(variant: str, pretrained: bool = False, **kwargs: Any) -> RevCol:
    return build(
        RevCol,
        "revcol",
        variant,
        pretrained,
        {**VARIANTS[variant], **kwargs},
        levels=LEVELS,
        feature_cfg={"out_indices": (0, 1, 2, 3), "feature_cls": "getter"},
    )


@register_model
def revcol_tiny(pretrained: bool = False, **kwargs: Any) -> RevCol:
    """30.5 M parameters, 4.5 G multiply-accumulates; published top-1 82.2."""
    return _create("revcol_tiny", pretrained, **kwargs)


@register_model
def revcol_small(pretrained: bool = False, **kwargs: Any) -> RevCol:
    """60.6 M parameters, 9.1 G multiply-accumulates; published top-1 83.5."""
    return _create("revcol_small", pretrained, **kwargs)


@register_model
def revcol_base(pretrained: bool = False, **kwargs: Any) -> RevCol:
    """138.6 M parameters, 16.6 G multiply-accumulates; published top-1 84.1 (ImageNet-22K: 85.6, at 384 86.7)."""
    return _create("revcol_base", pretrained, **kwargs)


@register_model
def revcol_large(pretrained: bool = False, **kwargs: Any) -> RevCol:
    """273.1 M parameters; published top-1 from ImageNet-22K 86.6, at 384 pixels 87.6."""
    return _create("revcol_large", pretrained, **kwargs)


@register_model
def revcol_xlarge(pretrained: bool = False, **kwargs: Any) -> RevCol:
    """833.8 M parameters; published top-1 from ImageNet-22K, at 384 pixels, 88.2."""
    return _create("revcol_xlarge", pretrained, **kwargs)


@register_model
def revcol_huge(pretrained: bool = False, **kwargs: Any) -> RevCol:
    """2.16 G parameters; published top-1 at 640 pixels 90.0, after training on private images."""
    return _create("revcol_huge", pretrained, **kwargs)
