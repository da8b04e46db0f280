"""Tests of EMO's claims.

    repertory run emo                                                  # five arms on a few digits, minutes
    repertory run emo --set sample=photo-crops --set sample_labels=0 --set epochs=6
    REPERTORY_DATA=… repertory run emo --scale desk --jobs 2           # CIFAR-10, 10,000 images, about an hour
    repertory run emo --scale paper --data imagenet/ --arms both \\
        --devices 8 --precision 16-mixed                               # EMO-1M; published top-1 71.5 %
    repertory train emo --data my_images/ --set arch=emo_1m --set pretrained=net.pth --out my_model/
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from repertory.core import checkpoint
from repertory.core.problem import Problem
from repertory.core.study import Measured, Metric
from repertory.core.timing import medians
from repertory.nn.imagenet import label_names
from repertory.nn.macs import count_macs
from repertory.papers.emo import pictures
from repertory.papers.emo.model import EMO, VARIANTS, group, iRMB
from repertory.papers.emo.race import BATCHES, IMAGES, SIZES, race_apart
from repertory.papers.emo.settings import EMOConfig, EMODesign
from repertory.papers.emo.weights import with_our_names
from repertory.tasks.images import (
    IMAGE_METRICS,
    ImageStudy,
    accuracy_picture,
    as_picture,
    matching_variant,
    size_metrics,
    speed_metrics,
)

OURS, PEERS = ("emo_1m", "emo_1m_fused"), ("edgenext_xx_small", "edgenext_xx_small_256")
"""Contestants of the race."""

MINI: dict[str, Any] = {
    "depths": (1, 3, 2, 1),
    "dims": (16, 24, 32, 48),
    "exp_ratios": (2.0, 2.5, 3.0, 3.0),
    "dim_heads": (8, 8, 8, 12),
    "stem_dim": 12,
    "norm_layers": ("bn_2d", "ln_2d", "ln_2d", "ln_2d"),
    "act_layers": ("silu", "gelu", "gelu", "gelu"),
    "dw_kernels": (3, 3, 3, 3),
    "attn_s": (False, True, True, True),
}
"""EMO for small images: 54 thousand parameters with 10 classes."""

ARCHS: dict[str, dict[str, Any]] = {"mini": MINI, **VARIANTS}

ARMS: dict[str, dict[str, Any]] = {
    "neither": {"attn_s": (False,) * 4, "skip_dw": False},
    "attn_only": {"skip_dw": False},
    "dw_only": {"attn_s": (False,) * 4},
    "both": {},
    "contiguous": {"window_mode": "contiguous"},
}
"""Changes of each arm to the architecture."""

PUBLISHED_TOP1 = {"emo_1m": 71.498, "emo_2m": 75.134, "emo_5m": 78.422, "emo_6m": 78.988}
BASELINES = {
    "MobileNetV3-L-0.50": (69, 68.8),
    "EdgeNeXt-XXS (256 px)": (261, 71.2),
    "MobileViTv2-0.5 (256 px)": (466, 70.2),
    "DeiT-Ti": (1258, 72.2),
}
"""Millions of multiply-accumulates and top-1 on ImageNet-1K, as published."""


class EMOStudy(EMODesign, ImageStudy[EMOConfig, EMO]):
    """Classify images with and without attention and depth-wise convolution; count operations; measure speed."""

    metrics: ClassVar[Mapping[str, Metric]] = {
        **IMAGE_METRICS,
        **size_metrics(VARIANTS),
        **speed_metrics(
            (f"{name}_batch_{n}" for n in BATCHES for name in SIZES),
            {
                f"{ours}_speed_over_{peer}_batch_{n}": (
                    f"{ours} at {SIZES[ours]} px over EdgeNeXt-XXS at {SIZES[peer]} px, batch {n}"
                )
                for n in BATCHES
                for ours in OURS
                for peer in PEERS
            },
        ),
        "attn_order_difference": Metric(
            "largest difference, attention before and after expansion", "先注意力与先扩展之间的最大差异", better="lower"
        ),
        "attn_first_macs": Metric(
            "multiply-accumulates, attention first", "先注意力的乘加次数", better="lower", decimals=0
        ),
        "attn_last_macs": Metric(
            "multiply-accumulates, attention last", "后注意力的乘加次数", better="lower", decimals=0
        ),
        "attn_product_factor": Metric(
            "cost of the weighted sums, attention last over first",
            "加权求和代价之比（后注意力 / 先注意力）",
            unit="×",
            better="higher",
        ),
        "reach_of_window": Metric(
            "share of its window that a pixel depends on", "像素所依赖的窗口占比", better="higher"
        ),
        "reach_outside_window": Metric(
            "pixels outside its window that a pixel depends on", "像素所依赖的窗口外像素数", unit="px", decimals=0
        ),
        "reach_rows": Metric(
            "rows of the map that a window spans", "窗口跨越的行数", unit="rows", better="higher", decimals=0
        ),
    }
    sample_name = "digits"

    # -- the experiment -------------------------------------------------------------------------

    def build(self, arm: str, classes: tuple[str, ...]) -> EMO:
        config, small = self.config, self.config.arch == "mini"
        size = config.image_size or (64 if small else 224)
        window = config.window if config.window is not None else (4 if small else 7)
        arguments: dict[str, Any] = {
            **ARCHS[config.arch],
            **ARMS[arm],
            "window_size": window,
            "mask_padding": config.mask_padding,
            "num_classes": len(classes),
            "pretrained_cfg": {
                "input_size": [3, size, size],
                "crop_pct": 1.0 if small else 0.875,
                "label_names": list(classes),
            },
        }
        if config.drop_path is not None:
            arguments["drop_path_rate"] = config.drop_path
        return EMO(**arguments)

    def weights(self, source: Path) -> dict[str, Tensor]:
        return read_weights(source)

    def fitting(self, state: Mapping[str, Tensor]) -> str:
        return fitting_variant(state)

    # -- figures that need no training ----------------------------------------------------------

    def measure(self) -> dict[str, Measured]:
        """Size and cost of the published networks, two properties of the block, and speed on this machine."""
        figures: dict[str, float] = {}
        x = torch.zeros(1, 3, 224, 224)
        for name, arguments in VARIANTS.items():
            model = EMO(**arguments)
            figures[f"{name}_parameters"] = float(sum(p.numel() for p in model.parameters()))
            figures[f"{name}_macs"] = float(count_macs(model, x))
        own = [(name, figures[f"{name}_macs"] / 1e6, top1) for name, top1 in PUBLISHED_TOP1.items()]
        others = [(name, macs, top1) for name, (macs, top1) in BASELINES.items()]
        cost = "multiply-accumulates of an image, millions (of EMO: counted here)"
        self.session.figure("accuracy-vs-macs", accuracy_picture({"EMO": own}, others, cost, scale="log"))
        speed = self._speed() if self.config.speed_rounds else {}
        return {**figures, **self._order_of_attention(), **self._reach(), **speed}

    def _order_of_attention(self) -> dict[str, float]:
        """A block of EMO-1M's stage 3 with attention before the expansion, compared with attention after it."""
        x = torch.randn(1, 80, 14, 14, generator=self.session.generator("order of attention"))
        common: dict[str, Any] = {"exp_ratio": 3.0, "dim_head": 20, "norm_layer": "ln_2d", "act_layer": "identity"}
        before, after = (iRMB(80, 80, **common, v_group=True, attn_pre=pre).eval() for pre in (True, False))
        after.load_state_dict(before.state_dict())
        with torch.no_grad():
            difference = (before(x) - after(x)).abs().max()
        macs_before, macs_after = count_macs(before, x), count_macs(after, x)
        product = x.shape[-1] ** 2 * 49 * 80  # A u: every pixel sums over 49 pixels of 80 channels
        return {
            "attn_order_difference": float(difference),
            "attn_first_macs": float(macs_before),
            "attn_last_macs": float(macs_after),
            "attn_product_factor": 1 + (macs_after - macs_before) / product,
        }

    def _reach(self) -> dict[str, float]:
        """Receptive field of one output pixel of the attention on a 14 x 14 map, from its gradient."""
        u = torch.randn(1, 40, 14, 14, generator=self.session.generator("reach"), requires_grad=True)
        block = iRMB(40, 40, dim_head=20, norm_layer="ln_2d", act_layer="gelu")
        block.attend(u)[0, :, 3, 4].sum().backward()
        assert u.grad is not None
        reached = u.grad[0].abs().sum(0) > 0  # (14, 14)
        members = group(torch.arange(14.0 * 14).view(1, 1, 14, 14), (2, 2))[..., 0]  # (4 windows, 49)
        window = members[(members == 3 * 14 + 4).any(1)].flatten().long()
        rows = reached.any(1).nonzero()
        return {
            "reach_of_window": float(reached.flatten()[window].float().mean()),
            "reach_outside_window": float(reached.sum() - reached.flatten()[window].sum()),
            "reach_rows": float(rows.max() - rows.min() + 1),
        }

    def _speed(self) -> dict[str, Measured]:
        """Images per second on the CPU, compared with timm's EdgeNeXt-XXS at as many pixels and at 256."""
        times = race_apart(self.session, self.config.speed_rounds)
        ratios = {
            f"{ours}_speed_over_{peer}_batch_{n}": medians(times, f"{ours}_batch_{n}", f"{peer}_batch_{n}")
            for n in BATCHES
            for ours in OURS
            for peer in PEERS
        }
        speeds = {f"{name}_images_per_second": IMAGES / float(np.median(seconds)) for name, seconds in times.items()}
        return {**speeds, **ratios}

    # -- use ------------------------------------------------------------------------------------

    def pictures(self, model: EMO, x: Tensor, table: list[dict[str, Any]]) -> dict[str, Figure]:
        """Attention of one pixel of the first image."""
        attention = pictures.pixel_attention(model, x[0], self.config.pixel_row, self.config.pixel_column)
        return {"attention": pictures.attention_picture(as_picture(model, x[0]), attention)} if attention else {}

    def convert(self, source: Path, variant: str = "") -> EMO:
        """Build a model from the authors' weights (resources/EMO_*/net.pth).

        Args:
            source: the file: a state dict, or a dict with `net` and perhaps `net_E`.
            variant: emo_1m, emo_2m, emo_5m or emo_6m; empty: the one whose shapes fit. With the suffix "-ema" (or
                "ema" alone): the moving average `net_E`.

        Raises:
            Problem: unknown variant, or weights of another one; names the one that fits.
        """
        name = variant.removesuffix("ema").removesuffix("-")
        if name and name not in VARIANTS:
            raise Problem(f"no variant {variant!r}", "--variant", f"choose from {', '.join(VARIANTS)}; -ema for net_E")
        state = read_weights(source, "net_E" if variant.endswith("ema") else "net")
        name = name or fitting_variant(state)
        if not name:
            raise _misfit("any published size", state, source, "--variant ")
        head = state.get("head.weight", torch.empty(1000, 0))
        model = EMO(**VARIANTS[name], num_classes=len(head), pretrained_cfg=label_names(len(head)))
        try:
            left = checkpoint.fit_weights(model, state, source, spare=() if "head.weight" in state else ("head.",))
        except Problem as problem:
            raise _misfit(name, state, source, "--variant ") from problem
        if left:
            warnings.warn(f"{source}: no head in the file; it is newly initialised", stacklevel=2)
        return model.eval()


# -- weights ------------------------------------------------------------------------------------


def read_weights(source: Path, key: str = "net") -> dict[str, Tensor]:
    """Weights of EMO with our names, from our file or the authors'.

    Raises:
        Problem: the file has no weights of EMO.
    """
    state = with_our_names(checkpoint.read_weights(source, prefer=(key, "state_dict", "model")))
    if "stem.0.weight" not in state:
        raise Problem(f"not weights of EMO (first tensor: {next(iter(state))})", source, "give the authors' net.pth")
    return state


def fitting_variant(state: Mapping[str, Tensor]) -> str:
    """The published size with these tensors (our names), for any number of classes; "" if there is none."""
    return matching_variant(state, VARIANTS, EMO)


def _misfit(wanted: str, state: Mapping[str, Tensor], source: Path, option: str) -> Problem:
    fits = fitting_variant(state)
    remedy = f"{option}{fits}: their shapes fit" if fits else "they fit none of the published sizes: another network?"
    return Problem(f"these are not the weights of {wanted}", source, remedy)
