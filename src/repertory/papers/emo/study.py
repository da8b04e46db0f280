"""How the claims of EMO are tested.

    repertory run emo                                                  # five arms on a few digits, minutes
    repertory run emo --set sample=photo-crops --set sample_labels=0 --set epochs=24
    REPERTORY_DATA=… repertory run emo --scale desk --jobs 2           # CIFAR-10, 10,000 images, about an hour
    repertory run emo --scale paper --data imagenet/ --arms both \\
        --devices 8 --precision 16-mixed                               # EMO-1M; published top-1 71.5 %
    repertory train emo --data my_images/ --set arch=emo_1m --set pretrained=net.pth --out my_model/
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal, cast

import numpy as np
import timm
import torch
from pydantic import Field
from timm.data import ImageNetInfo, create_transform, resolve_data_config
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics.classification import MulticlassAccuracy

from repertory import checkpoint
from repertory.data import images
from repertory.data.images import ImageSet
from repertory.nn.macs import count_macs
from repertory.papers.emo import pictures
from repertory.papers.emo.model import EMO, MIN_SIZE, VARIANTS, group, iRMB
from repertory.papers.emo.weights import with_our_names
from repertory.problem import Problem
from repertory.study import Prediction, Study, StudyConfig
from repertory.timing import race, ratio
from repertory.training import Recipe, fit, loader

PREDICT_BATCH = 32
SPEED_BATCH = 8

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
"""What each differs in from the architecture."""

PUBLISHED_TOP1 = {"emo_1m": 71.498, "emo_2m": 75.134, "emo_5m": 78.422, "emo_6m": 78.988}
BASELINES = {
    "MobileNetV3-L-0.50": (69, 68.8),
    "EdgeNeXt-XXS (256 px)": (261, 71.2),
    "MobileViTv2-0.5 (256 px)": (466, 70.2),
    "DeiT-Ti": (1258, 72.2),
}
"""Millions of multiply-accumulates and top-1 on ImageNet-1K, as published."""


class EMOConfig(Recipe):
    """Recipe and architecture."""

    arch: Literal["mini", "emo_1m", "emo_2m", "emo_5m", "emo_6m"] = Field(
        default="mini", description="size of the network"
    )
    image_size: int | None = Field(
        default=None, ge=MIN_SIZE, le=1024, description="height and width of the input; empty: 64 for mini, else 224"
    )
    window: int | None = Field(
        default=None,
        ge=0,
        le=64,
        description="side of an attention window, 0: the whole map; empty: 4 for mini, else 7",
    )
    mask_padding: bool = Field(
        default=False, description="nothing attends to padded pixels (the authors' code lets them)"
    )
    drop_path: float | None = Field(
        default=None, ge=0, lt=1, description="drop-path rate; empty: as published for the size"
    )
    pretrained: str = Field(default="", description="weights to start from: the authors' file, or a model directory")
    label_smoothing: float = Field(default=0.1, ge=0, lt=1, description="share of the target spread over all classes")
    crop_scale: float = Field(
        default=1.0, gt=0, le=1, description="least area of a random crop; 1: images whole and unchanged"
    )
    flip: float = Field(
        default=0.5, ge=0, le=1, description="probability of mirroring, where images are cropped at random"
    )
    auto_augment: str = Field(
        default="", description="timm's name of an automatic augmentation, with random crops only"
    )
    sample: Literal["digits", "photo-crops"] = Field(default="digits", description="which sample is written")
    sample_labels: int = Field(
        default=0,
        ge=0,
        description="training images per class drawn from the sample for each seed; 0: all. Own data are whole",
    )
    speed_rounds: int = Field(default=9, ge=0, description="rounds of the race against EdgeNeXt; 0: no race")
    pixel_row: float = Field(default=0.5, ge=0, le=1, description="pixel whose attention is drawn: 0 top, 1 bottom")
    pixel_column: float = Field(default=0.5, ge=0, le=1, description="pixel whose attention is drawn: 0 left, 1 right")


@dataclass(frozen=True)
class EMOData:
    """Training and held-out images."""

    train: ImageSet
    test: ImageSet


class EMOStudy(Study[EMOConfig, EMOData]):
    """Classify images with and without the two halves of the block; count, race."""

    paper = "emo"
    arms: ClassVar[Mapping[str, str]] = {
        "neither": "no attention, and no depth-wise convolution where the stride is 1",
        "attn_only": "attention alone where the stride is 1",
        "dw_only": "depth-wise convolution alone: an inverted residual block",
        "both": "the paper's block",
        "contiguous": "the paper's block with windows as tiles in place of dilated grids",
    }
    method = "both"
    Config = EMOConfig
    scales: ClassVar[Mapping[str, StudyConfig]] = {
        "smoke": EMOConfig(
            seeds=1, image_size=32, window=2, epochs=1, batch_size=25, lr=3e-3, sample_labels=10, speed_rounds=0
        ),
        "laptop": EMOConfig(
            seeds=5, epochs=40, batch_size=25, lr=3e-3, schedule="onecycle", weight_decay=0.05,
            sample_labels=5,
        ),
        "desk": EMOConfig(
            seeds=3, real="cifar10-subset", epochs=12, batch_size=50, lr=3e-3, schedule="onecycle",
            weight_decay=0.05, crop_scale=0.5,
        ),
        # 8 processes of 256 images: batch 2048, lr 1.5e-3 per 512. Run with --devices 8 --precision 16-mixed.
        "paper": EMOConfig(
            seeds=1, arch="emo_1m", epochs=300, batch_size=256, lr=6e-3, weight_decay=0.05,
            schedule="cosine", warmup_epochs=20, warmup_lr=1e-6, min_lr=1e-6, clip_norm=5.0, ema_decay=0.9998,
            crop_scale=0.08, auto_augment="rand-m9-mstd0.5-inc1", eval_every=10, workers=8,
        ),
    }  # fmt: skip
    sample_name = "digits"
    sample_fields = ("sample",)
    layout = images.LAYOUT

    # -- data -----------------------------------------------------------------------------------

    def write_sample(self, folder: Path) -> None:
        """scikit-learn's digits, or crops of scikit-image's photographs, 32 x 32, in class folders."""
        write = images.write_digits if self.config.sample == "digits" else images.write_photo_crops
        write(folder)

    def data_name(self) -> str:
        sampled = self.session.data_dir is None and not self.config.real
        return self.config.sample if sampled else super().data_name()

    def read(self, folder: Path) -> EMOData:
        if not folder.is_dir() or not any((folder / part).is_dir() for part in ("val", "test")):
            raise self.missing(folder)
        return EMOData(*images.read_splits(folder))

    # -- the experiment -------------------------------------------------------------------------

    def train(self, arm: str, data: EMOData) -> EMO:
        """Train one arm; with EMA, the better of the last weights and their average is returned.

        Raises:
            Problem: `pretrained` does not fit the architecture; names the size that fits.
        """
        config, train = self.config, data.train
        if len(train.classes) < 2:
            found = ", ".join(train.classes)
            raise Problem(f"one class only: {found}", "training data", "give images of two classes or more")
        if config.sample_labels and self.session.data_dir is None and not config.real:
            train = train.drawn(config.sample_labels, self.session.rng("labels"))
        self.session.reseed("weights")
        model = self._model(ARMS[arm], train.classes)
        if config.pretrained:
            self._start_from(model, Path(config.pretrained))

        def loss(module: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
            x, y = batch
            return F.cross_entropy(module(x), y, label_smoothing=config.label_smoothing)

        chosen = bool(config.ema_decay)  # the published figure is the best test of network and average
        return cast(
            EMO,
            fit(
                self.session,
                model,
                train.seen_through(self._augmentation(model)),
                config,
                loss,
                evaluate=(lambda module: self._accuracy(cast(EMO, module), data.test)) if chosen else None,
                monitor="top1" if chosen else "",
            ),
        )

    def evaluate(self, model: nn.Module, data: EMOData) -> dict[str, float]:
        """Top-1 and top-5 accuracy on the held-out images, in per cent; parameters; MACs of an image.

        Raises:
            Problem: images of a class that the model does not know.
        """
        model = cast(EMO, model)
        names = model.pretrained_cfg.get("label_names")
        test = data.test.named(names) if names else data.test
        x = torch.zeros(1, *model.pretrained_cfg["input_size"], device=self.session.fabric.device)
        return {
            **self._accuracy(model, test),
            "parameters": float(sum(p.numel() for p in model.parameters())),
            "macs": float(count_macs(model, x)),
        }

    def _model(self, changes: Mapping[str, Any], classes: tuple[str, ...]) -> EMO:
        config, small = self.config, self.config.arch == "mini"
        size = config.image_size or (64 if small else 224)
        window = config.window if config.window is not None else (4 if small else 7)
        arguments: dict[str, Any] = {
            **ARCHS[config.arch],
            **changes,
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

    def _start_from(self, model: EMO, source: Path) -> None:
        """Load weights; a head for other classes stays as it was initialised, with a warning."""
        state = read_weights(source / "model.safetensors" if source.is_dir() else source)
        try:
            left = checkpoint.fit_weights(model, state, source, spare=("head.",))
        except Problem as problem:
            raise _misfit(self.config.arch, state, source, "--set arch=") from problem
        if left:
            warnings.warn(f"{source}: the head is for other classes and starts anew", stacklevel=2)

    def _augmentation(self, model: EMO) -> Any:
        config = self.config
        if config.crop_scale == 1:
            return _preprocessing(model)
        preprocessing = resolve_data_config(pretrained_cfg=model.pretrained_cfg)
        return images.augmentation(
            **{name: preprocessing[name] for name in ("input_size", "mean", "std")},
            scale=(config.crop_scale, 1.0),
            hflip=config.flip,
            color_jitter=0.0,
            auto_augment=config.auto_augment or None,
            interpolation="random",
        )

    def _accuracy(self, model: EMO, test: ImageSet) -> dict[str, float]:
        classes, device = model.num_classes, self.session.fabric.device
        top1, top5 = (MulticlassAccuracy(classes, top_k=min(k, classes), average="micro").to(device) for k in (1, 5))
        recipe, seen = self.config, test.seen_through(_preprocessing(model))
        with torch.inference_mode():
            for x, y in loader(self.session, seen, recipe.batch_size, workers=recipe.workers, shard=True):
                logits = model(x)
                top1.update(logits, y)
                top5.update(logits, y)
        return {"top1": 100 * float(top1.compute()), "top5": 100 * float(top5.compute())}

    # -- figures that need no training ----------------------------------------------------------

    def measure(self) -> dict[str, float]:
        """Sizes and costs of the published networks, two properties of the block, and speed on this machine."""
        figures: dict[str, float] = {}
        x = torch.zeros(1, 3, 224, 224)
        for name, arguments in VARIANTS.items():
            model = EMO(**arguments)
            figures[f"{name}_parameters"] = float(sum(p.numel() for p in model.parameters()))
            figures[f"{name}_macs"] = float(count_macs(model, x))
        figures |= self._order_of_attention() | self._reach()
        if self.config.speed_rounds:
            figures |= self._speed()
        points = [(name, figures[f"{name}_macs"] / 1e6, top1, True) for name, top1 in PUBLISHED_TOP1.items()]
        points += [(name, macs, top1, False) for name, (macs, top1) in BASELINES.items()]
        self.session.figure("accuracy-vs-macs", pictures.accuracy_picture(points))
        return figures

    def _order_of_attention(self) -> dict[str, float]:
        """A block of EMO-1M's stage 3 that attends before it expands, against one that attends after."""
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
        """On which pixels of a 14 x 14 map one output pixel of attention alone depends, by its gradient."""
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

    def _speed(self) -> dict[str, float]:
        """Images a second on the CPU at 224 pixels, beside timm's EdgeNeXt-XXS."""
        models = {
            "emo_1m": EMO(**VARIANTS["emo_1m"]),
            "emo_1m_fused": EMO(**VARIANTS["emo_1m"]).eval().fuse(),
            "edgenext_xx_small": timm.create_model("edgenext_xx_small"),
        }
        x = torch.randn(SPEED_BATCH, 3, 224, 224, generator=self.session.generator("speed"))
        contestants = {name: partial(model.eval(), x) for name, model in models.items()}
        with torch.inference_mode():
            times = race(contestants, self.session.progress(range(1 + self.config.speed_rounds), "race"))
        return {
            **{f"{name}_images_per_second": SPEED_BATCH / float(np.median(times[name])) for name in models},
            "speed_over_edgenext": ratio(times, "emo_1m", "edgenext_xx_small"),
            "speed_over_edgenext_fused": ratio(times, "emo_1m_fused", "edgenext_xx_small"),
        }

    # -- use ------------------------------------------------------------------------------------

    @torch.inference_mode()
    def predict(self, model: nn.Module, source: Path) -> Prediction:
        """Classify an image, or all images below a folder; draw where a pixel of the first one looks.

        Raises:
            Problem: no images there, or one that cannot be read.
        """
        model = cast(EMO, model)
        paths = images.image_files(source)
        if not paths:
            raise Problem("no images here", source, "give an image, or a folder that holds some")
        names, transform = _labels(model), _preprocessing(model)
        seen = ImageSet(tuple(paths), (0,) * len(paths), tuple(names)).seen_through(transform)
        probabilities = torch.cat(
            [model(x).softmax(1).cpu() for x, _ in loader(self.session, seen, PREDICT_BATCH, label="predict")]
        )
        top = probabilities.topk(min(5, len(names)), dim=1)
        table = []
        for path, values, indices in zip(paths, top.values.tolist(), top.indices.tolist(), strict=True):
            best = [f"{names[k]} {100 * p:.1f} %" for k, p in zip(indices, values, strict=True)]
            file = path.name if source.is_file() else str(path.relative_to(source))
            row = {"file": file, "class": names[indices[0]], "probability": values[0], "top5": ", ".join(best)}
            table.append(row)

        shown = [_picture(model, seen[i][0]) for i in range(min(12, len(seen)))]
        titles = [f"{row['class']}\n{100 * row['probability']:.0f} %" for row in table]
        figures = {"predictions": pictures.predictions_picture(shown, titles)}
        first = seen[0][0].to(self.session.fabric.device)
        attention = pictures.pixel_attention(model, first, self.config.pixel_row, self.config.pixel_column)
        if attention:
            figures["attention"] = pictures.attention_picture(shown[0], attention)
        return Prediction(table=table, figures=figures, arrays={"probabilities": probabilities.numpy()})

    def convert(self, source: Path, variant: str = "") -> EMO:
        """Build a model from the authors' weights (resources/EMO_*/net.pth).

        Args:
            source: the file: a state dict, or a dict with `net` and perhaps `net_E`.
            variant: emo_1m, emo_2m, emo_5m or emo_6m; empty: the one whose shapes fit. With "-ema" behind it (or
                "ema" alone), the moving average `net_E` is taken.

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
        model = EMO(**VARIANTS[name], num_classes=len(head), pretrained_cfg=_imagenet_labels(len(head)))
        try:
            left = checkpoint.fit_weights(model, state, source, spare=() if "head.weight" in state else ("head.",))
        except Problem as problem:
            raise _misfit(name, state, source, "--variant ") from problem
        if left:
            warnings.warn(f"{source}: no head in the file; ours starts anew", stacklevel=2)
        return model.eval()


# -- weights ------------------------------------------------------------------------------------


def read_weights(source: Path, key: str = "net") -> dict[str, Tensor]:
    """Weights of EMO under our names, from a file of ours or of the authors.

    Raises:
        Problem: not such a file.
    """
    state = with_our_names(checkpoint.read_weights(source, prefer=(key, "state_dict", "model")))
    if "stem.0.weight" not in state:
        raise Problem(f"not weights of EMO (first tensor: {next(iter(state))})", source, "give the authors' net.pth")
    return state


def fitting_variant(state: Mapping[str, Tensor]) -> str:
    """The published size that has these tensors (under our names), whatever its number of classes; "" if none has."""
    found = {name: tensor.shape for name, tensor in state.items() if not name.startswith("head.")}
    for variant, arguments in VARIANTS.items():
        with torch.device("meta"):
            own = EMO(**arguments, num_classes=0).state_dict()
        if {name: tensor.shape for name, tensor in own.items()} == found:
            return variant
    return ""


def _misfit(wanted: str, state: Mapping[str, Tensor], source: Path, option: str) -> Problem:
    fits = fitting_variant(state)
    remedy = f"{option}{fits}: their shapes fit" if fits else "they fit none of the published sizes: another network?"
    return Problem(f"these are not the weights of {wanted}", source, remedy)


def _imagenet_labels(classes: int) -> dict[str, Any]:
    if classes != 1000:
        return {}
    info = ImageNetInfo()
    return {"label_names": info.label_names(), "label_descriptions": info.label_descriptions(as_dict=True)}


# -- images in and out of the network -----------------------------------------------------------


def _preprocessing(model: EMO) -> Any:
    return create_transform(**resolve_data_config(pretrained_cfg=model.pretrained_cfg))


def _picture(model: EMO, x: Tensor) -> np.ndarray:
    """Undo the normalisation: (3, H, W) -> (H, W, 3), 0 to 1."""
    mean, std = (torch.tensor(model.pretrained_cfg[name]).view(3, 1, 1) for name in ("mean", "std"))
    return (x * std + mean).clamp(0, 1).permute(1, 2, 0).numpy()


def _labels(model: EMO) -> list[str]:
    """What the classes are called: by the first word of their descriptions, their names, or their numbers."""
    names = model.pretrained_cfg.get("label_names") or [str(k) for k in range(model.num_classes)]
    described = model.pretrained_cfg.get("label_descriptions") or {}
    return [described.get(name, name).partition(",")[0] for name in names]
