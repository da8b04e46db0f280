"""Tests of VGNet's claims.

    repertory run vgnet                                                # eight arms on crops of photographs, minutes
    REPERTORY_DATA=… repertory run vgnet --scale desk --jobs 2         # CIFAR-10, 10,000 images
    repertory run vgnet --scale paper --data imagenet/ --devices 8 --precision 16-mixed   # 1.5MP, published -3.2, -1.4
    repertory run vgnet --scale paper --data imagenet/ --arms g --set arch=vgnetg_1_0mp \\
        --devices 8 --precision 16-mixed                               # published top-1 67.7 %
    repertory train vgnet --data my_images/ --set arch=vgnetg_1_0mp --set pretrained=vgnetg_1_0mp.pth --out net/
    repertory train vgnet --data cifar/ --set arch=vgnetg_1_0mp --set kernels=edge --set thumbnail=true --out net/
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import timm
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import MeanMetric

from repertory.core import checkpoint
from repertory.core.problem import Problem
from repertory.core.study import Measured, Metric, Prediction
from repertory.core.timing import medians, race
from repertory.core.training import loader
from repertory.data import images
from repertory.data.images import ImageSet
from repertory.nn.imagenet import label_names
from repertory.nn.macs import count_macs
from repertory.papers.vgnet import pictures
from repertory.papers.vgnet.baseline import MobileNetV2
from repertory.papers.vgnet.kernels import FixedDepthwise
from repertory.papers.vgnet.model import SIZES, VARIANTS, VGNet
from repertory.papers.vgnet.settings import VGNetConfig, VGNetDesign
from repertory.papers.vgnet.weights import accept_released_weights, architecture, has_authors_names, with_our_names
from repertory.tasks.images import (
    IMAGE_METRICS,
    ImageData,
    ImageStudy,
    accuracy_picture,
    matching_variant,
    preprocessing,
    size_metrics,
    speed_metrics,
)

MINI: dict[str, Any] = {
    "channels": (16, 32, 64, 96, 128),
    "layers": (2, 3, 4, 2),
    "style": "paper",
    "thumbnail": True,
}
"""VGNetG for small images: 60 thousand parameters with 18 classes."""

ARCHS: dict[str, dict[str, Any]] = {"mini": MINI, **VARIANTS}

ARMS: dict[str, dict[str, Any]] = {
    "g": {},
    "c": {"downsample": "dwconv"},
    "maxpool": {"downsample": "maxpool"},
    "f_edge": {"kernels": "edge"},
    "f_edge_gaussian": {"kernels": "edge_gaussian"},
    "learned_bn": {"kernels": "learned_bn"},
    "identity": {"kernels": "identity"},
}
"""Changes of each arm to the architecture; the arm "mobilenetv2" is a different network."""

SHIFTS = [(dy, dx) for dy in range(3) for dx in range(3) if (dy, dx) != (1, 1)]
"""Shifts by one pixel in eight directions, as top-left corners of a window on an image padded by one pixel."""


PUBLISHED_TOP1 = {
    "vgnetg_1_0mp": 68.128,
    "vgnetg_1_0mp_se": 70.122,
    "vgnetg_1_5mp": 70.494,
    "vgnetg_1_5mp_se": 72.422,
    "vgnetg_2_0mp": 72.314,
    "vgnetg_2_0mp_se": 74.324,
    "vgnetg_2_5mp": 73.740,
    "vgnetg_2_5mp_se": 75.590,
}
BASELINES = {
    "MobileNetV1 x0.5": (1.332, 65.126),
    "MobileNetV1 x1.0": (4.232, 73.264),
    "MobileNetV2 x0.35": (1.677, 58.804),
    "MobileNetV2 x0.5": (1.969, 63.458),
    "MobileNetV2 x0.75": (2.636, 68.448),
    "MobileNetV2 x1.0": (3.505, 72.154),
}
"""Millions of parameters and top-1 on ImageNet-1K, as published with the released weights."""


class VGNetStudy(VGNetDesign, ImageStudy[VGNetConfig, nn.Module]):
    """Classify images with learned and fixed kernels; test shifts; count parameters and operations; measure speed."""

    metrics: ClassVar[Mapping[str, Metric]] = {
        **IMAGE_METRICS,
        "shift_agreement": Metric(
            "same answer after a shift by one pixel",
            "平移一个像素后答案不变的比例",
            unit="%",
            better="higher",
            decimals=1,
        ),
        "fixed_kernel_drift": Metric("largest change of a fixed kernel", "固定卷积核的最大变化", better="lower"),
        **size_metrics(VARIANTS),
        **{
            f"{name}_paper_parameters": Metric(
                f"parameters as in the paper, {name}", f"{name} 论文版的参数量", better="lower", decimals=0
            )
            for name in VARIANTS
        },
        "parameters_saved": Metric(
            "parameters saved, VGNetG-2.0MP beside MobileNetV2",
            "VGNetG-2.0MP 比 MobileNetV2 节省的参数",
            unit="%",
            better="higher",
            decimals=1,
        ),
        "fixed_kernels_with_gradient": Metric(
            "fixed kernels with a gradient", "有梯度的固定卷积核数", better="lower", decimals=0
        ),
        **speed_metrics(
            ("vgnetg_1_0mp", "mobilenetv2_035", "mobilenetv2_050"),
            {
                "speed_over_mobilenetv2_035": "VGNetG-1.0MP over MobileNetV2 x0.35",
                "speed_over_mobilenetv2_050": "VGNetG-1.0MP over MobileNetV2 x0.5",
            },
        ),
    }

    layout = images.LAYOUT + "\nor cifar-100-python/{train,test,meta}"

    # -- the experiment -------------------------------------------------------------------------

    def build(self, arm: str, classes: tuple[str, ...]) -> nn.Module:
        config, arguments = self.config, self.arguments(arm)
        small = config.arch == "mini"
        size = config.image_size or (32 if arguments.get("thumbnail") else 224)
        cfg: dict[str, Any] = {"input_size": [3, size, size], "label_names": list(classes)}
        if small:
            cfg["crop_pct"] = 1.0
        if arm == "mobilenetv2":
            arch = "mini" if small else nearest_mobilenetv2(arguments)
            return MobileNetV2(arch, len(classes), cfg)
        if config.drop_path is not None:
            arguments["drop_path_rate"] = config.drop_path
        return VGNet(**arguments, num_classes=len(classes), pretrained_cfg=cfg)

    def arguments(self, arm: str) -> dict[str, Any]:
        """Arguments of `VGNet`: the architecture, changed by the settings and then by the arm."""
        config = self.config
        changes = {"style": config.style or None, "kernels": config.kernels or None, "thumbnail": config.thumbnail}
        changes = {name: value for name, value in changes.items() if value is not None}
        return {**ARCHS[config.arch], **changes, **ARMS.get(arm, {})}

    def weights(self, source: Path) -> dict[str, Tensor]:
        state = checkpoint.read_weights(source)
        if has_authors_names(state):
            accept_released_weights(
                VGNet(**{**architecture(state), "style": self.arguments(self.method)["style"]}), state
            )
        return state

    def fitting(self, state: Mapping[str, Tensor]) -> str:
        return matching_variant(state, ARCHS, VGNet)

    def evaluate(self, model: nn.Module, data: ImageData) -> dict[str, float]:
        """Accuracy, parameters, MACs; agreement under shifts; largest deviation of fixed kernels from the constants."""
        drifts = [
            float((module.weight.cpu() - module.constants()).abs().max())
            for module in model.modules()
            if isinstance(module, FixedDepthwise)
        ]
        return {
            **super().evaluate(model, data),
            "shift_agreement": self.shift_agreement(model, data.test),
            "fixed_kernel_drift": max(drifts, default=0.0),
        }

    def shift_agreement(self, model: nn.Module, test: ImageSet) -> float:
        """Agreement in per cent of the classes predicted for images shifted by one pixel and for the original images.

        Mean over eight directions; the border is replicated.
        """
        agreement, recipe = MeanMetric().to(self.session.fabric.device), self.config
        chosen = np.linspace(0, len(test) - 1, min(recipe.shift_images or len(test), len(test))).astype(int)
        data = test.subset(chosen.tolist()).with_transform(preprocessing(model))
        with torch.inference_mode():
            for x, _ in loader(
                self.session, data, recipe.batch_size, workers=recipe.workers, label="shifts", shard=True
            ):
                height, width = x.shape[-2:]
                classes, padded = model(x).argmax(1), F.pad(x, (1, 1, 1, 1), mode="replicate")
                for dy, dx in SHIFTS:
                    shifted = model(padded[:, :, dy : dy + height, dx : dx + width]).argmax(1)
                    agreement.update((shifted == classes).float())
        return 100 * float(agreement.compute())

    # -- figures that need no training ----------------------------------------------------------

    def measure(self) -> dict[str, Measured]:
        """Size and cost of the published networks, gradients of fixed kernels, and latency on this machine."""
        x = torch.zeros(1, 3, 224, 224)
        figures: dict[str, float] = {}
        for size, shape in SIZES.items():
            for suffix, se_ratio in (("", None), ("_se", 0.25)):
                paper, release = (VGNet(**shape, style=style, se_ratio=se_ratio) for style in ("paper", "release"))
                name = f"vgnetg_{size}{suffix}"
                figures[f"{name}_paper_parameters"] = _parameters(paper)
                figures[f"{name}_parameters"] = _parameters(release)
                figures[f"{name}_macs"] = float(count_macs(release, x))
        figures["vgnetc_1_5mp_paper_parameters"] = _parameters(VGNet(**VARIANTS["vgnetc_1_5mp"]))
        figures["vgnetc_1_0mp_parameters"] = _parameters(VGNet(**{**VARIANTS["vgnetc_1_0mp"], "style": "release"}))
        for name in ("vgnete_1_5mp", "vgnetf_1_5mp"):
            model = VGNet(**VARIANTS[name])
            figures |= {f"{name}_parameters": _parameters(model), f"{name}_macs": float(count_macs(model, x))}
        peer = _parameters(timm.create_model("mobilenetv2_100"))
        figures["parameters_saved"] = 100 * (1 - figures["vgnetg_2_0mp_parameters"] / peer)
        figures["fixed_kernels_with_gradient"] = self._fixed_kernels_with_gradient()
        series = {
            label: [
                (name.removeprefix("vgnetg_"), figures[f"{name}_parameters"] / 1e6, top1)
                for name, top1 in PUBLISHED_TOP1.items()
                if name.endswith("_se") == with_se
            ]
            for label, with_se in (("VGNetG", False), ("VGNetG with SE", True))
        }
        others = [(name, millions, top1) for name, (millions, top1) in BASELINES.items()]
        self.session.figure("accuracy-vs-parameters", accuracy_picture(series, others, "parameters, millions"))
        return {**figures, **(self._latency() if self.config.speed_rounds else {})}

    def _fixed_kernels_with_gradient(self) -> float:
        """Number of fixed kernels of a mini VGNetF that have a gradient after a backward pass, or are parameters."""
        model = VGNet(**MINI, kernels="edge_gaussian", num_classes=10)
        model(torch.randn(2, 3, 32, 32, generator=self.session.generator("gradients"))).sum().backward()
        fixed = [module.weight for module in model.modules() if isinstance(module, FixedDepthwise)]
        parameters = {id(parameter) for parameter in model.parameters()}
        return float(sum(weight.grad is not None or id(weight) in parameters for weight in fixed))

    def _latency(self) -> dict[str, Measured]:
        """Images per second on the CPU at 224 pixels, batch size 1, compared with timm's MobileNetV2 x0.35 and x0.5."""
        models = {
            "vgnetg_1_0mp": VGNet(**VARIANTS["vgnetg_1_0mp"]),
            "mobilenetv2_035": timm.create_model("mobilenetv2_035"),
            "mobilenetv2_050": timm.create_model("mobilenetv2_050"),
        }
        x = torch.randn(1, 3, 224, 224, generator=self.session.generator("latency"))
        contestants = {name: partial(model.eval(), x) for name, model in models.items()}
        with torch.inference_mode():
            times = race(contestants, self.session.progress(range(1 + self.config.speed_rounds), "race"))
        return {
            **{f"{name}_images_per_second": 1 / float(np.median(times[name])) for name in models},
            "speed_over_mobilenetv2_035": medians(times, "vgnetg_1_0mp", "mobilenetv2_035"),
            "speed_over_mobilenetv2_050": medians(times, "vgnetg_1_0mp", "mobilenetv2_050"),
        }

    # -- use ------------------------------------------------------------------------------------

    def read(self, folder: Path) -> ImageData:
        if (folder / "cifar-100-python").is_dir():
            return ImageData(*(images.read_cifar100(folder, train) for train in (True, False)))
        return super().read(folder)

    def predict(self, model: nn.Module, source: Path) -> Prediction:
        """Classify images, and compare the 3x3 kernels of the network with the fixed ones."""
        prediction = super().predict(model, source)
        if isinstance(model, VGNet) and len(kernels := pictures.compare_kernels(model)):
            prediction.text = pictures.summary(kernels)
            prediction.arrays["kernels"] = kernels
        return prediction

    def pictures(self, model: nn.Module, x: Tensor, table: list[dict[str, Any]]) -> dict[str, Figure]:
        """The 3x3 kernels of each stage."""
        if not isinstance(model, VGNet) or not len(kernels := pictures.compare_kernels(model)):
            return {}
        return {"kernels": pictures.kernels_picture(kernels)}

    def convert(self, source: Path, variant: str = "") -> VGNet:
        """Build a model from the authors' weights, such as vgnetg_1_0mp-0f87bf6c.pth.

        Style, kernels, downsampling and size are detected from the file.

        Args:
            source: a state dict.
            variant: required variant, a name in `VARIANTS`; empty: any.

        Raises:
            Problem: not weights of VGNet, unknown variant, or weights of another one; names the one that fits.
        """
        if variant and variant not in VARIANTS:
            raise Problem(f"no variant {variant!r}", "--variant", f"choose from {', '.join(VARIANTS)}")
        state = checkpoint.read_weights(source)
        if not has_authors_names(state):
            raise Problem(
                f"not weights of VGNet with the authors' names (first tensor: {next(iter(state))})",
                source,
                "give a file released by the authors",
            )
        arguments = architecture(state)
        name = variant_of(arguments)
        if variant and variant != name:
            fits = f"--variant {name}: it fits" if name else "leave --variant out: the file has no published size"
            raise Problem(f"these are not the weights of {variant}", source, fits)
        classes = len(with_our_names(state).get("head.weight", torch.empty(1000, 0)))
        model = VGNet(**arguments, num_classes=classes, pretrained_cfg=label_names(classes))
        accept_released_weights(model, state)
        left = checkpoint.fit_weights(model, state, source, spare=() if "head.weight" in state else ("head.",))
        if left:
            warnings.warn(f"{source}: no head in the file; it is newly initialised", stacklevel=2)
        return model.eval()


def variant_of(arguments: Mapping[str, Any]) -> str:
    """The published name of a network, in any style; "" if it has none."""
    common = {"downsample": "blur", "kernels": "learned", "se_ratio": None, "thumbnail": False}
    wanted = {**arguments, "style": ""}
    return next((name for name, own in VARIANTS.items() if {**common, **own, "style": ""} == wanted), "")


def nearest_mobilenetv2(arguments: Mapping[str, Any]) -> str:
    """The MobileNetV2 of timm with the nearest number of parameters to a VGNet."""
    own = _parameters(VGNet(**arguments))
    names = ("mobilenetv2_035", "mobilenetv2_050", "mobilenetv2_075", "mobilenetv2_100", "mobilenetv2_110d")
    return min(names, key=lambda name: abs(_parameters(timm.create_model(name)) - own))


def _parameters(model: nn.Module) -> float:
    return float(sum(p.numel() for p in model.parameters()))
