"""Tests of RevCol's claims.

    repertory run revcol                                               # six arms on a few digits, minutes
    REPERTORY_DATA=… repertory run revcol --scale desk --jobs 2        # CIFAR-10, 10,000 images
    repertory run revcol --scale paper --data imagenet/ --arms reversible \\
        --devices 8 --precision 16-mixed                               # RevCol-T; published top-1 82.2 %
    repertory run revcol --scale finetune_base --data imagenet/ --arms reversible \\
        --set pretrained=revcol_base_22k.pth --devices 8 --precision 16-mixed      # published 85.6 %
    repertory train revcol --data my_images/ --set arch=revcol_tiny --set supervision=false --out my_model/
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional as F

from repertory.core import checkpoint
from repertory.core.problem import Problem
from repertory.core.study import Measured, Metric
from repertory.core.timing import medians, race
from repertory.core.training import loader
from repertory.nn.imagenet import IMAGENET, label_names
from repertory.papers.revcol import pictures
from repertory.papers.revcol.cost import authors_macs, peak_bytes, saved_bytes
from repertory.papers.revcol.model import VARIANTS, WARPED, RevCol
from repertory.papers.revcol.settings import RevColConfig, RevColDesign
from repertory.papers.revcol.supervision import Supervised, compound_loss
from repertory.papers.revcol.weights import read_released, without_supervision
from repertory.tasks.images import (
    IMAGE_METRICS,
    ImageData,
    ImageStudy,
    as_picture,
    matching_variant,
    preprocessing,
    size_metrics,
)

MINI: dict[str, Any] = {
    "channels": (16, 32, 48, 64), "layers": (1, 1, 2, 1), "columns": 4, "drop_path_rate": 0.0, "layer_scale": 0.1,
}  # fmt: skip
"""RevCol for small images. With the published gamma of 1e-6, blocks would have little effect in so few steps."""

ARCHS: dict[str, dict[str, Any]] = {"mini": MINI, **VARIANTS}

CONSTANT = ("reversible", "deeper")
"""Arms that train in constant memory."""
COUNTED = ("revcol_tiny", "revcol_small", "revcol_base")
"""Sizes with exact reference values of the multiply-accumulates at 224 pixels."""
COLUMNS = (2, 4, 8, 16)
"""Numbers of columns for the memory measurement."""
MEMORY_BATCH, MEMORY_SIZE = 16, 64
RACED = ("plain", "reversible")
SPEED_BATCH = 8
CKA_IMAGES = 512
MAX_RECONSTRUCTIONS = 4
"""Images in the figure of reconstructions."""


class RevColStudy(RevColDesign, ImageStudy[RevColConfig, RevCol]):
    """Classify images with one and several columns, supervised or not; measure cost, memory and speed."""

    metrics: ClassVar[Mapping[str, Metric]] = {
        **IMAGE_METRICS,
        **size_metrics(VARIANTS),
        **{
            f"{name}_supervised_parameters": Metric(
                f"parameters with supervision, {name}", f"{name} 含监督分支的参数量", better="lower", decimals=0
            )
            for name in VARIANTS
        },
        "cka_labels_{x}": Metric(
            "CKA with the labels, column {x}", "第 {x} 列与标签的 CKA", better="higher", decimals=3
        ),
        "cka_image_{x}": Metric("CKA with the image, column {x}", "第 {x} 列与图像的 CKA", decimals=3),
        "loss_of_zeros": Metric("loss of a model that knows nothing", "一无所知的模型的损失", unit="nats", decimals=4),
        **{
            f"{kind}_{name}_{{x}}": Metric(
                f"{en}, {name}, {{x}} columns", f"{zh}（{name}，{{x}} 列）", unit="× plain, 2 columns", better="lower"
            )
            for kind, en, zh in (
                ("kept", "memory that autograd keeps", "自动求导保留的内存"),
                ("peak", "peak memory", "内存峰值"),
            )
            for name in RACED
        },
        "gradient_difference_{x}": Metric(
            "relative difference of the gradients, {x} columns", "{x} 列时梯度的相对差异", better="lower"
        ),
        "reversible_speed": Metric(
            "speed, reversible over plain", "可逆训练的相对速度", unit="×", better="higher", decimals=2
        ),
    }
    head: ClassVar[tuple[str, ...]] = ("cls.", "cls_blocks.", "decoder_blocks.")

    # -- the experiment -------------------------------------------------------------------------

    def build(self, arm: str, classes: tuple[str, ...]) -> RevCol:
        config, small = self.config, self.config.arch == "mini"
        size = config.image_size or (32 if small else 224)
        arguments: dict[str, Any] = {
            **ARCHS[config.arch],
            **changes(ARCHS[config.arch], arm),
            "num_classes": len(classes),
            "head_init_scale": config.head_init_scale,
            "pretrained_cfg": {
                "input_size": [3, size, size],
                "label_names": list(classes),
                **({"crop_pct": 1.0} if small else WARPED if size > 224 else {}),
            },
        }
        if config.drop_path is not None:
            arguments["drop_path_rate"] = config.drop_path
        for name in ("reversible", "supervision"):
            if getattr(config, name) is not None:
                arguments[name] = getattr(config, name)
        self._supervised = arguments["supervision"]
        return RevCol(**arguments)

    def weights(self, source: Path) -> dict[str, Tensor]:
        """Weights from our file or the authors', without classifiers and decoders that the network does not have."""
        state = read_released(source)
        if self._supervised:
            return {name: tensor for name, tensor in state.items() if not name.startswith("cls.")}
        return without_supervision(state)

    def fitting(self, state: Mapping[str, Tensor]) -> str:
        return fitting_variant(state)

    def loss(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor | Mapping[str, Tensor]:
        """Cross-entropy; with supervision the compound loss, whose target image is the input after mixup."""
        outputs = model(x)
        if not isinstance(outputs, Supervised):
            return self.cross_entropy(outputs, y)
        weights = self.config.reconstruction_weight, self.config.label_weight
        terms = compound_loss(outputs, denormalised(x), y, *weights, cross_entropy=self.cross_entropy)
        return {"loss": torch.stack(terms).sum(), "label_loss": terms[-1]}

    def evaluate(self, model: RevCol, data: ImageData) -> dict[str, float]:
        """Metrics of `ImageStudy`, and linear CKA of each column's c(3, i) with labels and image."""
        metrics = super().evaluate(model, data)
        similarities = self._similarities(model, data)
        self.session.figure("cka-per-column", pictures.cka_picture(similarities))
        named = {f"cka_{name}_{i}": v for name, values in similarities.items() for i, v in enumerate(values, start=1)}
        return {**metrics, **named}

    @torch.inference_mode()
    def _similarities(self, model: RevCol, data: ImageData) -> dict[str, list[float]]:
        """Linear CKA on up to `CKA_IMAGES` evenly spaced held-out images."""
        stride = -(-len(data.test) // CKA_IMAGES)
        some = data.test.subset(range(0, len(data.test), stride)).with_transform(preprocessing(model))
        columns: list[list[Tensor]] = [[] for _ in model.columns]
        images: list[Tensor] = []
        labels: list[Tensor] = []
        for x, y in loader(self.session, some, self.config.batch_size, workers=self.config.workers, label="compare"):
            for maps, features in zip(columns, model.each_column(x), strict=True):
                maps.append(features[-1].flatten(1).float().cpu())
            images.append(x.flatten(1).cpu())
            labels.append(y.cpu())
        one_hot = F.one_hot(torch.cat(labels)).float()
        targets = {"labels": centred_gram(one_hot), "image": centred_gram(torch.cat(images))}
        grams = [centred_gram(torch.cat(maps)) for maps in columns]
        return {
            name: [float(F.cosine_similarity(k.flatten(), g.flatten(), dim=0)) for k in grams]
            for name, g in targets.items()
        }

    # -- figures that need no training ----------------------------------------------------------

    def measure(self) -> dict[str, Measured]:
        """Size and cost of the published networks; the loss of zero outputs; memory, gradients and speed."""
        figures: dict[str, float] = {}
        with torch.device("meta"):
            for name, arguments in VARIANTS.items():
                model = RevCol(**arguments, supervision=True).eval()
                plain, whole = without_supervision(model.state_dict()), model.state_dict()
                figures[f"{name}_parameters"] = float(sum(p.numel() for p in plain.values()))
                figures[f"{name}_supervised_parameters"] = float(sum(p.numel() for p in whole.values()))
                if name in COUNTED:
                    figures[f"{name}_macs"] = float(authors_macs(model, torch.zeros(1, 3, 224, 224)))
        zeros = Supervised([torch.zeros(2, 10)] * 4, [torch.zeros(2, 3, 32, 32)] * 3)
        terms = compound_loss(zeros, torch.rand(2, 3, 32, 32), torch.tensor([0, 1]))
        figures["loss_of_zeros"] = float(torch.stack(terms).sum())
        figures |= self._memory()
        figures |= {f"gradient_difference_{columns}": self._gradient_difference(columns) for columns in (4, 16)}
        return {**figures, **(self._speed() if self.config.speed_rounds else {})}

    def _memory(self) -> dict[str, float]:
        """Memory of a training step of the mini network against columns: saved by autograd, and peak.

        Relative to plain training with two columns; the figure shows bytes.
        """
        x = torch.randn(MEMORY_BATCH, 3, MEMORY_SIZE, MEMORY_SIZE, generator=self.session.generator("memory"))
        kept: dict[str, dict[int, float]] = {name: {} for name in RACED}
        peak: dict[str, dict[int, float]] = {name: {} for name in RACED}
        for columns in self.session.progress(COLUMNS, "memory"):
            for name, model in self._pair(columns).items():
                kept[name][columns] = saved_bytes(lambda model=model: model(x), model)
                peak[name][columns] = peak_bytes(lambda model=model: model(x).square().sum().backward(), model)
        self.session.figure("memory-vs-columns", pictures.memory_picture(peak))
        return {
            f"{kind}_{name}_{columns}": size / found["plain"][COLUMNS[0]]
            for kind, found in (("kept", kept), ("peak", peak))
            for name, curve in found.items()
            for columns, size in curve.items()
        }

    def _gradient_difference(self, columns: int) -> float:
        """Relative difference of reversible and plain gradients of all weights, with DropPath."""
        x = torch.randn(8, 3, 64, 64, generator=self.session.generator("gradients"))
        found: list[Tensor] = []
        for model in self._pair(columns, drop_path_rate=0.2).values():
            self.session.reseed("drop path")
            loss = model(x).square().mean()
            own = [p for p in model.parameters() if p.requires_grad]
            found.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, own)]))
        return float((found[1] - found[0]).norm() / found[0].norm())

    def _speed(self) -> dict[str, Measured]:
        """Speed of a training step of RevCol-T on small images, reversible relative to plain."""
        x = torch.randn(SPEED_BATCH, 3, 64, 64, generator=self.session.generator("speed"))
        models = {name: RevCol(**VARIANTS["revcol_tiny"], reversible=name == "reversible") for name in RACED}
        steps = {name: lambda model=model: model(x).square().sum().backward() for name, model in models.items()}
        rounds = self.session.progress(range(1 + self.config.speed_rounds), "race")
        return {"reversible_speed": medians(race(steps, rounds), "reversible", "plain")}

    def _pair(self, columns: int, **arguments: Any) -> dict[str, RevCol]:
        """The mini network in training mode, plain and reversible, with equal weights."""
        models = {}
        for name in RACED:
            self.session.reseed("pair")
            own = {**MINI, "columns": columns, "num_classes": 10, **arguments}
            models[name] = RevCol(**own, reversible=name == "reversible").train()
        return models

    # -- use ------------------------------------------------------------------------------------

    def pictures(self, model: RevCol, x: Tensor, table: list[dict[str, Any]]) -> dict[str, Figure]:
        """Reconstructions of the first images by the supervised columns."""
        x = x[:MAX_RECONSTRUCTIONS]
        if not model.supervise_at:
            return {}
        rebuilt = [torch.sigmoid(r.float()).cpu() for r in model.forward_supervised(x).reconstructions]
        versions = [[r[k].permute(1, 2, 0).numpy() for r in rebuilt] for k in range(len(x))]
        originals = [as_picture(model, image) for image in x]
        return {"reconstructions": pictures.reconstruction_picture(originals, versions)}

    def convert(self, source: Path, variant: str = "") -> RevCol:
        """Build a model for inference from the authors' weights, such as `revcol_tiny_1k.pth`.

        Args:
            source: the file; only its tensors are read.
            variant: name of a size; empty: the one whose shapes fit.

        Raises:
            Problem: unknown variant, or weights of another one; names the one that fits.
        """
        if variant and variant not in VARIANTS:
            raise Problem(f"no variant {variant!r}", "--variant", f"choose from {', '.join(VARIANTS)}")
        state = without_supervision(read_released(source))
        fits = fitting_variant(state)
        if not fits or variant not in ("", fits):
            remedy = f"--variant {fits}: their shapes fit" if fits else "they fit none of the published sizes"
            raise Problem(f"these are not the weights of {variant or 'any published size'}", source, remedy)
        head = state.get("cls.classifier.1.weight", torch.empty(1000, 0))
        model = RevCol(**VARIANTS[fits], num_classes=len(head), pretrained_cfg=label_names(len(head)))
        left = checkpoint.fit_weights(model, state, source, spare=() if head.numel() else self.head)
        if left:
            warnings.warn(f"{source}: no classifier in the file; it is newly initialised", stacklevel=2)
        return model.eval()


def changes(architecture: Mapping[str, Any], arm: str) -> dict[str, Any]:
    """Changes of an arm to an architecture."""
    columns, channels = architecture["columns"], architecture["channels"]
    match arm:
        case "one_column":
            own = {"columns": 1}
        case "wide_column":  # multiply-accumulates grow with the square of the width
            own = {"columns": 1, "channels": tuple(8 * round(c * math.sqrt(columns) / 8) for c in channels)}
        case "deeper":
            own = {"columns": 2 * columns}
        case _:
            own = {}
    return {**own, "supervision": arm in ("supervised", *CONSTANT), "reversible": arm in CONSTANT}


def fitting_variant(state: Mapping[str, Tensor]) -> str:
    """The published size with these tensors, for any number of classes, supervised or not; "" if there is none."""
    return matching_variant(without_supervision(state), VARIANTS, RevCol, "cls.")


def centred_gram(features: Tensor) -> Tensor:
    """Gram matrix of centred features: (N, d) -> (N, N). The cosine similarity of two such matrices is linear CKA."""
    features = features - features.mean(0)
    return features @ features.T


def denormalised(x: Tensor) -> Tensor:
    """Undo the normalisation of images (N, 3, H, W)."""
    mean, std = (x.new_tensor(IMAGENET[name]).view(3, 1, 1) for name in ("mean", "std"))
    return x * std + mean
