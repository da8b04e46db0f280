"""Tests of ECA's claims.

    repertory run eca                                                   # all layers on crops of photographs, minutes
    REPERTORY_DATA=… repertory run eca --scale desk --jobs 2            # CIFAR-10, 10,000 images, about an hour
    repertory run eca --scale paper --data imagenet/ --arms none,se,eca # ResNet-50; published 75.20, 76.71, 77.48 %
    repertory run eca --scale paper --data imagenet/ --arms none,eca --set arch=eca_mobilenet_v2 --set epochs=400 \\
        --set batch_size=96 --set lr=0.045 --set weight_decay=4e-5 --set decay_epochs=1 --set decay_rate=0.98  # 72.56 %
    repertory train eca --data my_images/ --arm se --set arch=eca_resnet18 --set image_size=224 --out my_model/
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import timm
import torch
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from repertory.core.study import Measured, Metric, Prediction
from repertory.core.timing import medians, race
from repertory.core.training import loader
from repertory.data.images import ImageSet
from repertory.nn.macs import count_macs
from repertory.papers.eca import pictures
from repertory.papers.eca.detection import detector
from repertory.papers.eca.layers import WITH_KERNEL, channel_attention
from repertory.papers.eca.model import (
    MOBILENET_HEAD,
    RESNET_HEAD,
    VARIANTS,
    ECAMobileNetV2,
    ECAResNet,
    fitting,
    load_network,
    network,
)
from repertory.papers.eca.settings import ECAConfig, ECADesign
from repertory.papers.eca.weights import check_kernels, kernels_of, read_weights
from repertory.tasks.images import IMAGE_METRICS, ImageStudy, accuracy_picture, preprocessing, size_metrics

ARMS: dict[str, dict[str, Any]] = {
    "none": {"attention": "none"},
    "se": {"attention": "se"},
    "se_var1": {"attention": "se_var1"},
    "se_var2": {"attention": "se_var2"},
    "se_var3": {"attention": "se_var3"},
    "se_gc1": {"attention": "se_gc1"},
    "se_gc2": {"attention": "se_gc2"},
    "se_gc3": {"attention": "se_gc3"},
    "cbam": {"attention": "cbam"},
    "eca_ns": {"attention": "eca_ns"},
    "eca": {"attention": "eca"},
    "eca_k9": {"attention": "eca", "kernel_sizes": 9},
}
"""Changes of each arm to the architecture."""

PUBLISHED_TOP1 = {
    "none": 75.20, "se": 76.71, "se_var1": 76.00, "se_var2": 77.07, "se_var3": 77.42, "se_gc1": 76.95, "se_gc2": 76.98,
    "se_gc3": 76.96, "cbam": 77.34, "eca_ns": 77.35, "eca": 77.48,
}  # fmt: skip
"""ResNet-50 on ImageNet: table 2, and table 3 for cbam and eca."""

MAX_CLASSES, MAX_IMAGES = 6, 8
"""Rows of the figure of channel weights, and images averaged per row."""
LAYER_SHAPE = (8, 1024, 14, 14)
"""Input of the layers in the speed comparison: output of a block of ResNet-50's third stage."""


class ECAStudy(ECADesign, ImageStudy[ECAConfig, nn.Module]):
    """Classify images with each of the layers; count parameters and operations; measure speed."""

    metrics: ClassVar[Mapping[str, Metric]] = {
        **IMAGE_METRICS,
        **size_metrics(VARIANTS),
        **{
            f"{name}_added_parameters": Metric(
                f"parameters added, {name}", f"{name} 增加的参数量", better="lower", decimals=0
            )
            for name in VARIANTS
        },
        "eca_resnet50_gflops_of_convolutions": Metric(
            "added by ECA's convolutions, ResNet-50", "ECA 卷积给 ResNet-50 增加的计算量", unit="GFLOPs", better="lower"
        ),
        "eca_resnet50_gflops_with_pooling": Metric(
            "added by ECA with its pooling, ResNet-50",
            "ECA（含池化）给 ResNet-50 增加的计算量",
            unit="GFLOPs",
            better="lower",
        ),
        "eca_resnet50_share_of_convolutions": Metric(
            "share of ECA's convolutions in ResNet-50's multiply-accumulates",
            "ECA 卷积占 ResNet-50 乘加次数的比例",
            unit="%",
            better="lower",
        ),
        **{
            f"{name}_parameters": replace(IMAGE_METRICS["parameters"], en=f"parameters, {name}", zh=f"{name} 的参数量")
            for name in (*(f"resnet50_{arm}" for arm in PUBLISHED_TOP1), "mobilenet_v2_se", "faster_rcnn")
        },
        "layer_speed_{x}_over_se": Metric(
            "speed of the layer, {x} over SE", "{x} 层相对 SE 层的速度", unit="×", better="higher", decimals=2
        ),
    }
    head = (f"{RESNET_HEAD}.", f"{MOBILENET_HEAD}.")

    def build(self, arm: str, classes: tuple[str, ...]) -> nn.Module:
        """The network of an arm.

        Raises:
            Problem: the kernels of `pretrained` differ from the setting `kernel_sizes`.
        """
        config, small = self.config, self.config.arch == "mini"
        changes = dict(ARMS[arm])
        state = self.weights(Path(config.pretrained)) if config.pretrained else {}
        if fitting(state) != config.arch:
            state = {}  # `train` raises the Problem
        if changes["attention"] in WITH_KERNEL and "kernel_sizes" not in changes:
            kernels = config.kernel_sizes or kernels_of(state)
            changes |= {"kernel_sizes": kernels} if kernels else {}
        if config.drop_path is not None:
            changes["drop_path_rate"] = config.drop_path
        size = config.image_size or (32 if small else 224)
        cfg = {
            "input_size": [3, size, size],
            "crop_pct": 1.0 if small else 0.875,
            "label_names": list(classes),
        }
        model = network(config.arch, **changes, num_classes=len(classes), pretrained_cfg=cfg)
        check_kernels(model, state, config.pretrained)
        return model

    def weights(self, source: Path) -> dict[str, Tensor]:
        """Weights with our names, from our file, the authors' file, or a detector."""
        return read_weights(source / "model.safetensors" if source.is_dir() else source)

    def fitting(self, state: Mapping[str, Tensor]) -> str:
        """See `model.fitting`."""
        return fitting(state)

    # -- figures that need no training ----------------------------------------------------------

    def measure(self) -> dict[str, Measured]:
        """Parameters and multiply-accumulates of the published networks, and the share of the attention."""
        figures: dict[str, float] = {}
        x = torch.zeros(1, 3, 224, 224)
        for name in VARIANTS:
            model = _uninitialised(name)
            figures[f"{name}_parameters"] = _parameters(model)
            figures[f"{name}_macs"] = float(count_macs(model, x))
            figures[f"{name}_added_parameters"] = _parameters(model) - _parameters(_uninitialised(name, "none"))
        plain = count_macs(_uninitialised("eca_resnet50", "none"), x)
        added = figures["eca_resnet50_macs"] - plain  # includes the sums of the pooling
        pooled = sum(width * (56 >> i) ** 2 * depth for i, (width, depth) in enumerate(_R50_STAGES))
        figures["eca_resnet50_gflops_of_convolutions"] = (added - pooled) / 1e9
        figures["eca_resnet50_gflops_with_pooling"] = added / 1e9
        figures["eca_resnet50_share_of_convolutions"] = 100 * (added - pooled) / plain

        sizes = {arm: _parameters(_uninitialised("eca_resnet50", arm)) for arm in PUBLISHED_TOP1}
        figures |= {f"resnet50_{arm}_parameters": count for arm, count in sizes.items()}
        figures["mobilenet_v2_se_parameters"] = _parameters(_uninitialised("eca_mobilenet_v2", "se"))
        with torch.device("meta"):
            figures["faster_rcnn_parameters"] = trained_parameters(detector("faster_rcnn", "eca_resnet50"))

        points = {arm: (arm, sizes[arm] - sizes["none"], top1) for arm, top1 in PUBLISHED_TOP1.items()}
        own = {"ECA": [points.pop(self.method)]}
        cost = "parameters added to ResNet-50"
        self.session.figure("accuracy-vs-parameters", accuracy_picture(own, [*points.values()], cost, scale="symlog"))
        return {**figures, **(self._speed() if self.config.speed_rounds else {})}

    def _speed(self) -> dict[str, Measured]:
        """Speed of each layer relative to SE on the CPU, forward and backward pass."""
        layers = {arm: channel_attention(arm, LAYER_SHAPE[1]) for arm in PUBLISHED_TOP1 if arm != "none"}
        layers["timm_eca"] = timm.layers.EcaModule(LAYER_SHAPE[1])
        x = torch.randn(LAYER_SHAPE, generator=self.session.generator("speed"), requires_grad=True)

        def step(layer: nn.Module) -> None:
            layer(x).sum().backward()

        contestants = {name: partial(step, layer) for name, layer in layers.items()}
        times = race(contestants, self.session.progress(range(1 + self.config.speed_rounds), "race"))
        return {f"layer_speed_{name}_over_se": medians(times, name, "se") for name in layers if name != "se"}

    # -- use ------------------------------------------------------------------------------------

    def predict(self, model: nn.Module, source: Path) -> Prediction:
        """Classify images; draw the mean channel weights of the most frequent predicted classes.

        Raises:
            Problem: no images, or none that can be read.
        """
        prediction = super().predict(model, source)
        of_class: dict[str, list[Path]] = {}
        for row in prediction.table:
            if row.get("problem"):
                continue
            of_class.setdefault(row["class"], []).append(source if source.is_file() else source / row["file"])
        most = sorted(of_class, key=lambda name: -len(of_class[name]))[:MAX_CLASSES]
        chosen = [(path, row) for row, name in enumerate(most) for path in of_class[name][:MAX_IMAGES]]
        paths, rows = zip(*chosen, strict=True)
        data = ImageSet(paths, rows, tuple(most)).with_transform(preprocessing(model))
        stages = pictures.mean_channel_weights(model, loader(self.session, data, MAX_IMAGES, label="weights"))
        if stages:
            prediction.figures["channel-weights"] = pictures.weights_picture(stages, most)
        return prediction

    def convert(self, source: Path, variant: str = "") -> nn.Module:
        """Build a model from the authors' weights (eca_resnet50_k3557.pth.tar), or from a detector's backbone.

        Args:
            source: the file.
            variant: one of `VARIANTS`; empty: the one whose blocks fit. Kernels are read from the tensors.

        Raises:
            Problem: unknown variant, or weights of another one; names the one that fits.
        """
        return load_network(source, variant)


_R50_STAGES = ((256, 3), (512, 4), (1024, 6), (2048, 3))
"""Output channels and number of blocks of ResNet-50's stages; the maps of the first have 56 x 56 pixels."""


def _uninitialised(name: str, arm: str = "eca") -> ECAResNet | ECAMobileNetV2:
    """A network with uninitialised weights, for counting: no time for initialisation."""
    with torch.device("meta"):
        model = network(name, **ARMS[arm])
    return model.to_empty(device="cpu")


def _parameters(model: nn.Module) -> float:
    return float(sum(p.numel() for p in model.parameters()))


def trained_parameters(model: nn.Module) -> float:
    """Trainable parameters including the norms of the trained stages, as MMDetection counts."""
    norms = sum(
        2 * len(module.get_buffer("weight"))
        for name, module in model.named_modules()
        if isinstance(module, FrozenBatchNorm2d) and any(stage in name for stage in ("layer2", "layer3", "layer4"))
    )
    return float(sum(p.numel() for p in model.parameters() if p.requires_grad) + norms)
