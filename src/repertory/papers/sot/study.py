"""Tests of SoT's claims, on images and on sentences.

repertory run sot                                          # ten heads on two image sets, two of them on sentences too
REPERTORY_DATA=… repertory run sot --scale desk --arms cls,sot --jobs 2       # MiniLM on CoLA, about an hour
REPERTORY_DATA=… repertory run sot --scale desk-rte --arms cls,sot --jobs 2   # MiniLM on RTE, about three hours
repertory run sot --scale paper --data imagenet/ --arms cls,sot --devices 8 --precision 16-mixed
                                                           # SoT-Tiny; published top-1 80.3 %
repertory run sot --scale glue --data GLUE/CoLA/ --arms cls,sot --set encoder=bert-base-cased/
                                                           # published Matthews correlation 54.8 and 58.0
repertory train sot --data my_images/ --set arch=sot_tiny --out my_model/
repertory train sot --data my_images/ --arm words --set backbone=swin_tiny_patch4_window7_224 --out my_model/
repertory train sot --scale desk --data my_sentences/ --out my_model/         # MiniLM on your own sentences
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import torch
from huggingface_hub import PyTorchModelHubMixin
from matplotlib.figure import Figure
from torch import Tensor, nn

from repertory.core import checkpoint
from repertory.core.problem import Problem
from repertory.core.study import Measured, Metric, Prediction, Study
from repertory.core.timing import medians, race
from repertory.data import glue, images
from repertory.data.glue import GlueTask
from repertory.data.images import ImageSet
from repertory.nn.macs import count_macs
from repertory.nn.second_order import singular_power
from repertory.papers.sot import pictures
from repertory.papers.sot.layers import fast_singular_power
from repertory.papers.sot.model import OFFICIAL, VARIANTS, SoT, TimmClassifier
from repertory.papers.sot.sentences import TextHalf
from repertory.papers.sot.settings import ARMS, SoTConfig, SoTDesign, head_arguments
from repertory.papers.sot.text import TextClassifier
from repertory.tasks.images import (
    IMAGE_METRICS,
    ImageData,
    ImageStudy,
    as_picture,
    label_texts,
    matching_variant,
    size_metrics,
)

ImageNetwork = SoT | TimmClassifier
Data = Mapping[str, ImageData | GlueTask]
"""The data sets of a folder, by the names of its folders; "" where the folder is one data set itself."""

MINI_IMAGES: dict[str, Any] = {
    "img_size": 32, "patch_size": 4, "embedding": "patch", "embed_dim": 48, "depth": 2, "num_heads": 4,
    "mlp_ratio": 2.0, "head": {"heads": 4, "w_dim": 8},
}  # fmt: skip
"""A vision transformer for small images: 64 tokens of 48 channels."""
ARCHS: dict[str, dict[str, Any]] = {"mini": MINI_IMAGES, **VARIANTS}

RACE_SIZES = (24, 38)
RACE_BATCH = 48
SENTENCES = "sentences with labels"
OF_THE_NAME = "a data set of that name"
"""Matrices: 8 samples of 6 heads."""


class Networks(nn.Module, PyTorchModelHubMixin, library_name="repertory"):
    """The networks that one arm trained on several data sets.

    Args:
        specs: name of the data set -> class and constructor arguments of its network.
    """

    def __init__(self, specs: dict[str, dict[str, Any]]) -> None:
        super().__init__()
        kinds: dict[str, type[nn.Module]] = {k.__name__: k for k in (SoT, TimmClassifier, TextClassifier)}
        self.networks = nn.ModuleDict({name: kinds[spec["class"]](**spec["arguments"]) for name, spec in specs.items()})

    @classmethod
    def of(cls, networks: Mapping[str, nn.Module]) -> Networks:
        """Networks that were built with JSON arguments."""
        specs = {
            name: {"class": type(network).__name__, "arguments": dict(network._hub_mixin_config or {})}  # pyright: ignore
            for name, network in networks.items()
        }
        joined = cls(specs)
        joined.networks.update(networks)
        return joined.eval()


def networks_of(model: nn.Module) -> dict[str, nn.Module]:
    """Name of the data set -> network; "" for a network of its own."""
    return dict(model.networks.items()) if isinstance(model, Networks) else {"": model}


class SoTStudy(SoTDesign, Study[SoTConfig, Data, nn.Module]):
    """Train each head on every data set of a folder: images in class folders, sentences in GLUE's files."""

    metrics: ClassVar[Mapping[str, Metric]] = {
        **IMAGE_METRICS,
        "accuracy": Metric("accuracy", "准确率", unit="%", better="higher", decimals=1, needs=SENTENCES),
        "accuracy_mismatched": Metric(
            "accuracy, mismatched genres", "准确率（不匹配体裁）", unit="%", better="higher", decimals=1, needs="MNLI"
        ),
        "matthews": Metric(
            "Matthews correlation", "马修斯相关系数", unit="%", better="higher", decimals=1, needs=SENTENCES
        ),
        "matthews_mismatched": Metric(
            "Matthews correlation, mismatched genres",
            "马修斯相关系数（不匹配体裁）",
            unit="%",
            better="higher",
            decimals=1,
            needs="MNLI",
        ),
        **{
            f"{{x}}_{name}": replace(metric, en=f"{metric.en}, {{x}}", zh=f"{metric.zh}，{{x}}", needs=OF_THE_NAME)
            for name, metric in IMAGE_METRICS.items()
        },
        "{x}_accuracy": Metric(
            "accuracy, {x}", "准确率，{x}", unit="%", better="higher", decimals=1, needs=OF_THE_NAME
        ),
        "{x}_matthews": Metric(
            "Matthews correlation, {x}",
            "马修斯相关系数，{x}",
            unit="%",
            better="higher",
            decimals=1,
            needs=OF_THE_NAME,
        ),
        **size_metrics(VARIANTS),
        "svpn_speed_{x}": Metric(
            "speed, svPN over torch's SVD, forward and backward, {x} x {x}",
            "速度比，svPN 与 torch 的 SVD，前向加反向，{x} x {x}",
            unit="×",
            better="higher",
            decimals=1,
        ),
        "svpn_speed_over_ours_{x}": Metric(
            "speed, svPN over our exact power, forward and backward, {x} x {x}",
            "速度比，svPN 与本库精确幂，前向加反向，{x} x {x}",
            unit="×",
            better="higher",
            decimals=1,
        ),
    }
    sample_name = "textures, digits, sentences"
    sample_fields = ("sample", "sample_crops", "sample_digits", "sample_sentences", "sample_held_out")
    seeded_data = False
    layout = f"{images.LAYOUT}\nor {glue.LAYOUT}\nor folders of these"

    # -- data -----------------------------------------------------------------------------------

    def write_sample(self, folder: Path) -> None:
        """Write crops of photographs, handwritten digits, and a synthetic CoLA, each in a folder of its own."""
        c = self.config
        writers = {
            "textures": lambda path: images.write_texture_crops(
                path, train=c.sample_crops, val=max(2, c.sample_held_out // 16)
            ),
            "digits": lambda path: images.write_digits(path, train=c.sample_digits, val=min(84, c.sample_held_out)),
            "acceptability": lambda path: glue.write_acceptability(path, c.sample_sentences, c.sample_held_out),
        }
        for name, write in writers.items():
            if c.sample in ("all", name):
                write(folder / name)

    def data_name(self) -> str:
        sampled = self.session.data_dir is None and not self.config.real and self.config.sample != "all"
        return self.config.sample if sampled else super().data_name()

    def read(self, folder: Path) -> Data:
        """One data set, or those in the folders of `folder`."""
        found = _read_one(folder)
        if found is not None:
            return {"": found}
        parts = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
        sets = {re.sub(r"[^\w+-]", "-", path.name): read for path in parts if (read := _read_one(path)) is not None}
        if not sets and images.is_labelled(folder):
            return {"": ImageData(*images.read_splits(folder))}
        if not sets:
            raise self.missing(folder)
        return sets if len(sets) > 1 else {"": next(iter(sets.values()))}

    # -- the experiment -------------------------------------------------------------------------

    def train(self, arm: str, data: Data) -> nn.Module:
        """Train an arm's head on each data set: the network, or `Networks` where there are several data sets."""
        others = any(isinstance(part, ImageData) for part in data.values())
        with_sentences = arm in (self.config.sentence_arms or self.arms) or not others
        trained = {
            name: self._half(part).train(arm, self._drawn(part), part=name)
            for name, part in data.items()
            if with_sentences or isinstance(part, ImageData)
        }
        return trained[""] if list(trained) == [""] else Networks.of(trained)

    def _half(self, part: ImageData | GlueTask | nn.Module) -> Any:
        half = TextHalf if isinstance(part, GlueTask | TextClassifier) else ImageHalf
        return half(self.config, self.session)

    def _drawn(self, part: ImageData | GlueTask) -> Any:
        """A share of the sample's training set, drawn by the seed; all of the user's data."""
        share = self.config.sample_share
        if share == 1 or self.session.data_dir is not None or self.config.real:
            return part
        kept = np.sort(self.session.rng("share").permutation(len(part.train))[: round(share * len(part.train))])
        return replace(part, train=part.train.subset(kept.tolist()))

    def scaled(self, data: Data, given: Collection[str]) -> SoTConfig:
        """The published recipe for images; that of the laptop for sentences, which need a pre-trained encoder else."""
        sets = [part for part in data.values() if isinstance(part, ImageData)]
        if not sets:
            kept = {name: getattr(self.config, name) for name in given}
            return cast(SoTConfig, self.scales["laptop"]).model_copy(update=kept)
        return self._half(sets[0]).scaled(sets[0], given)

    def preview(self, arm: str, data: Data) -> list[str]:
        """What `train` tells of each data set of images."""
        sets = {name: part for name, part in data.items() if isinstance(part, ImageData)}
        lines = []
        for name, part in sets.items():
            items = f"train {len(part.train)}, test {len(part.test)}, {len(part.train.classes)} classes"
            facts = ", ".join([items, *self._half(part).preview(arm, part)])
            lines.append(f"{name}: {facts}" if name else facts)
        return lines

    def evaluate(self, model: nn.Module, data: Data) -> dict[str, float]:
        """Metrics of each network on its data set; with the name of the data set where several give the same metric.

        Raises:
            Problem: the model was trained on other data sets.
        """
        networks = networks_of(model)
        if not networks.keys() <= data.keys():
            trained, given = (", ".join(filter(None, names)) or "one data set" for names in (networks, data))
            raise Problem(
                f"the model was trained on {trained}, and is given {given}",
                "data",
                "give data of the same kind, in folders of the same names",
            )
        measured = {name: self._half(data[name]).evaluate(network, data[name]) for name, network in networks.items()}
        given = Counter(key for own in measured.values() for key in own)
        return {
            key if given[key] == 1 else f"{name}_{key}": value
            for name, own in measured.items()
            for key, value in own.items()
        }

    # -- figures that need no training ----------------------------------------------------------

    def measure(self) -> dict[str, Measured]:
        """Size and cost of the published networks; speed of svPN compared with exact decompositions."""
        figures: dict[str, Measured] = {}
        x = torch.zeros(1, 3, 224, 224)
        for name, arguments in VARIANTS.items():
            with torch.device("meta"):
                model = SoT(**arguments).to_empty(device="cpu")  # initial values would take most of the time
            figures[f"{name}_parameters"] = float(sum(p.numel() for p in model.parameters() if p.requires_grad))
            figures[f"{name}_macs"] = float(count_macs(model, x))
        for size in RACE_SIZES if self.config.speed_rounds else ():
            rounds = self.session.progress(range(1 + self.config.speed_rounds), f"race, {size} x {size}")
            times = race(decompositions(size), rounds)
            if not self.session.dry_run:
                figures[f"svpn_speed_{size}"] = medians(times, "svPN", "torch SVD")
                figures[f"svpn_speed_over_ours_{size}"] = medians(times, "svPN", "exact power")
        return figures

    # -- use ------------------------------------------------------------------------------------

    def predict(self, model: nn.Module, source: Path) -> Prediction:
        """Classify images or sentences: a file, or those of a folder.

        Raises:
            Problem: nothing to classify; for a model of several data sets, no folder of one of their names.
        """
        if not isinstance(model, Networks):
            return self._half(model).predict(model, source)
        networks = networks_of(model)
        found = {name: source / name for name in networks if (source / name).is_dir()}
        if not found:
            raise Problem(
                f"the model holds networks for {', '.join(networks)}",
                source,
                "give a folder with a folder of such a name in it, or train on one data set alone: --set sample=…",
            )
        merged = Prediction()
        for name, path in found.items():
            own = self._half(networks[name]).predict(networks[name], path)
            merged.table += [{"data": name, **row} for row in own.table]
            merged.figures |= {f"{name}-{key}": figure for key, figure in own.figures.items()}
            merged.arrays |= {f"{name}-{key}": array for key, array in own.arrays.items()}
        return merged


def _read_one(folder: Path) -> ImageData | GlueTask | None:
    """The data set that a folder is; None if it is none."""
    if glue.is_task(folder):
        return glue.read_task(folder)
    return ImageData(*images.read_splits(folder)) if images.has_splits(folder) else None


def decompositions(size: int, batch: int = RACE_BATCH) -> dict[str, Any]:
    """Forward and backward of svPN, of torch's SVD and of our exact power, on the same matrices (batch, size, size)."""
    generator = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(batch, size, size, generator=generator) for _ in range(2))
    start = torch.randn(size, generator=generator).requires_grad_()

    def by_torch(matrices: Tensor) -> Tensor:
        u, s, vh = torch.linalg.svd(matrices)
        return (u * s.sqrt().unsqueeze(-2)) @ vh

    def run(function: Any) -> None:
        matrices = x.clone().requires_grad_()
        (function(matrices) * weight).sum().backward()

    return {
        "svPN": lambda: run(lambda matrices: fast_singular_power(matrices, start)),
        "torch SVD": lambda: run(by_torch),
        "exact power": lambda: run(singular_power),
    }


# -- images -------------------------------------------------------------------------------------


class Restricted(nn.Module):
    """A classifier that chooses among some of its classes: the logits of the others are -inf.

    Args:
        model: with `num_classes` and `pretrained_cfg`.
        classes: numbers of the classes.
    """

    def __init__(self, model: Any, classes: Sequence[int]) -> None:
        super().__init__()
        self.model, self.num_classes, self.pretrained_cfg = model, model.num_classes, model.pretrained_cfg
        self.absent = [k for k in range(model.num_classes) if k not in set(classes)]

    def forward(self, x: Tensor) -> Tensor:
        """Images -> logits (B, num_classes)."""
        logits = self.model(x)
        return logits.index_fill(1, torch.tensor(self.absent, device=logits.device, dtype=torch.long), -torch.inf)


class ImageHalf(SoTDesign, ImageStudy[SoTConfig, ImageNetwork]):
    """Classify images."""

    def build(self, arm: str, classes: tuple[str, ...]) -> ImageNetwork:
        c = self.config
        common: dict[str, Any] = {"num_classes": len(classes), "pretrained_cfg": {"label_names": list(classes)}}
        if c.backbone:
            sizes = {"heads": c.heads or 6, "w_dim": c.w_dim or 24, "r_dim": c.r_dim, "drop": c.head_drop or 0.0}
            options = {"drop_path_rate": c.drop_path, "img_size": c.image_size}
            if c.image_size:
                common["pretrained_cfg"]["input_size"] = [3, c.image_size, c.image_size]
            return TimmClassifier(
                c.backbone,
                head={**head_arguments(c, ARMS[arm]), **sizes},
                token_embedding=c.token_embedding,
                options={name: value for name, value in options.items() if value is not None},
                **common,
            )
        arguments = {**ARCHS[c.arch], **common}
        sizes = {"heads": c.heads, "w_dim": c.w_dim, "r_dim": c.r_dim}
        given = {name: value for name, value in sizes.items() if value is not None}
        arguments["head"] = {**arguments["head"], **head_arguments(c, ARMS[arm]), **given}
        overrides = {"drop_rate": c.head_drop, "drop_path_rate": c.drop_path, "img_size": c.image_size}
        arguments |= {name: value for name, value in overrides.items() if value is not None}
        if c.arch == "mini":
            arguments["pretrained_cfg"]["crop_pct"] = 1.0
        return SoT(**arguments)

    def accuracy(self, model: nn.Module, test: ImageSet, *, keep: bool = False) -> dict[str, float]:
        """Top-1 and top-5 accuracy, in per cent; with `restrict_classes` among the classes of the images."""
        present = set(test.labels) if self.config.restrict_classes else set()
        return super().accuracy(Restricted(model, sorted(present)) if present else model, test, keep=keep)

    def weights(self, source: Path) -> dict[str, Tensor]:
        return checkpoint.rename(
            checkpoint.read_weights(source), {f"^{re.escape(theirs)}": ours for theirs, ours in OFFICIAL.items()}
        )

    def fitting(self, state: Mapping[str, Tensor]) -> str:
        return matching_variant(state, VARIANTS, SoT)

    def pictures(self, model: ImageNetwork, x: Tensor, table: list[dict[str, Any]]) -> dict[str, Figure]:
        """Grad-CAM of the class branch, of the words and of their sum, for the first images."""
        x = x[: pictures.MOST]
        maps = pictures.class_activation(model, x)
        if not maps:
            return {}
        shown = [as_picture(model, image) for image in x]
        return {"branches": pictures.branches_picture(shown, maps, label_texts(model))}
