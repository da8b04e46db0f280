"""Image classification, as the papers on backbones share it: recipe, training, accuracy, prediction.

A paper derives its configuration from `ImageRecipe` and its study from `ImageStudy`, says how the network of an arm is
built, and adds the measurements that its claims need.
"""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar, cast

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image
from pydantic import Field
from timm.data import Mixup, create_transform, resolve_data_config
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics.classification import MulticlassAccuracy

from repertory.core import checkpoint
from repertory.core.printing import figure_text
from repertory.core.problem import Problem
from repertory.core.study import Prediction, Study
from repertory.core.training import Recipe, fit, loader
from repertory.data import images
from repertory.data.images import ImageSet
from repertory.nn.macs import count_macs

PREDICT_BATCH = 32
SHOWN = 12
"""Images in the picture of predictions."""


class ImageRecipe(Recipe):
    """How an image classifier is trained."""

    image_size: int | None = Field(
        default=None, ge=8, le=1024, description="height and width of the input; empty: as the architecture wants it"
    )
    train_size: int | None = Field(
        default=None, ge=8, le=1024, description="height and width in training, with random crops; empty: image_size"
    )
    drop_path: float | None = Field(
        default=None, ge=0, lt=1, description="drop-path rate; empty: as published for the size"
    )
    pretrained: str = Field(default="", description="weights to start from: the authors' file, or a model directory")
    keep_best: bool = Field(
        default=False,
        description="return the weights that did best on the held-out images, as many published figures do",
    )
    label_smoothing: float = Field(default=0.0, ge=0, lt=1, description="share of the target spread over all classes")
    crop_scale: float = Field(
        default=1.0, gt=0, le=1, description="least area of a random crop; 1: images whole and unchanged"
    )
    flip: float = Field(
        default=0.5, ge=0, le=1, description="probability of mirroring, where images are cropped at random"
    )
    crop_interpolation: Literal["random", "bilinear", "bicubic"] = Field(
        default="random", description="how random crops are resized"
    )
    color_jitter: float = Field(default=0.0, ge=0, le=1, description="strength, with random crops only")
    auto_augment: str = Field(
        default="", description="timm's name of an automatic augmentation, with random crops only"
    )
    random_erasing: float = Field(
        default=0.0, ge=0, le=1, description="probability that a box becomes noise, with random crops only"
    )
    mixup: float = Field(default=0.0, ge=0, description="alpha of mixup; 0: none")
    cutmix: float = Field(default=0.0, ge=0, description="alpha of CutMix; 0: none. With both, either every other time")
    sample: Literal["digits", "photo-crops"] = Field(default="photo-crops", description="which sample is written")
    sample_labels: int = Field(
        default=0,
        ge=0,
        description="training images per class drawn from the sample for each seed; 0: all. Own data are whole",
    )


R = TypeVar("R", bound=ImageRecipe)
M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True)
class ImageData:
    """Training and held-out images."""

    train: ImageSet
    test: ImageSet


class ImageStudy(Study[R, ImageData, M]):
    """A study whose arms are image classifiers.

    A paper implements `build`. The network has `num_classes` and `pretrained_cfg` (timm's keys and `label_names`),
    which carries the preprocessing and the names of the classes with the weights.
    """

    sample_name = "photo-crops"
    sample_fields = ("sample",)
    layout = images.LAYOUT
    head: ClassVar[tuple[str, ...]] = ("head.",)
    """Prefixes of the classifier's weights, which start anew where the classes are others."""

    @abstractmethod
    def build(self, arm: str, classes: tuple[str, ...]) -> M:
        """The untrained network of an arm."""

    def loss(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor | Mapping[str, Tensor]:
        """The loss of a batch.

        Args:
            model: in training mode.
            x: images (N, C, H, W).
            y: classes (N,), or (N, classes) under mixup or CutMix, which smooth the labels themselves.
        """
        return self.cross_entropy(model(x), y)

    def cross_entropy(self, logits: Tensor, y: Tensor) -> Tensor:
        """Cross entropy with the label smoothing of the recipe; `y` as in `loss`."""
        return F.cross_entropy(logits, y, label_smoothing=self.config.label_smoothing if y.ndim == 1 else 0.0)

    def weights(self, source: Path) -> dict[str, Tensor]:
        """A state dict under our names, from a file of ours or of the authors."""
        return checkpoint.read_weights(source)

    def fitting(self, state: Mapping[str, Tensor]) -> str:
        """Which `arch` has tensors of these shapes, whatever its number of classes; "" if none, or not known."""
        return ""

    def pictures(self, model: M, x: Tensor, table: list[dict[str, Any]]) -> dict[str, Figure]:
        """What else `predict` draws, beside the predictions.

        Args:
            model: in evaluation mode.
            x: the first images, preprocessed, (n, C, H, W).
            table: the rows of the prediction, in the order of the images.
        """
        return {}

    # -- data -----------------------------------------------------------------------------------

    def write_sample(self, folder: Path) -> None:
        """scikit-learn's digits, or crops of scikit-image's photographs, 32 x 32, in class folders."""
        write = images.write_digits if self.config.sample == "digits" else images.write_photo_crops
        write(folder)

    def data_name(self) -> str:
        sampled = self.session.data_dir is None and not self.config.real
        return self.config.sample if sampled else super().data_name()

    def read(self, folder: Path) -> ImageData:
        if not folder.is_dir() or not any((folder / part).is_dir() for part in ("val", "test")):
            raise self.missing(folder)
        return ImageData(*images.read_splits(folder))

    # -- the experiment -------------------------------------------------------------------------

    def train(self, arm: str, data: ImageData) -> M:
        """Train one arm.

        Raises:
            Problem: images of one class only; `pretrained` does not fit the architecture (names the size that fits).
        """
        config, train = self.config, data.train
        if len(train.classes) < 2:
            found = ", ".join(train.classes)
            raise Problem(f"one class only: {found}", "training data", "give images of two classes or more")
        if config.sample_labels and self.session.data_dir is None and not config.real:
            train = train.drawn(config.sample_labels, self.session.rng("labels"))
        self.session.reseed("weights")
        model = self.build(arm, train.classes)
        if config.pretrained:
            self._start_from(model, Path(config.pretrained))
        mix = self._mixing(len(train.classes))

        def loss(module: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor | Mapping[str, Tensor]:
            x, y = mix(*batch) if mix else batch
            return self.loss(module, x, y)

        watched = config.keep_best or config.patience > 0 or bool(config.ema_decay)
        return fit(
            self.session,
            model,
            train.seen_through(self._augmentation(model)),
            config,
            loss,
            evaluate=(lambda module: self.accuracy(module, data.test)) if watched else None,
            monitor="top1" if config.keep_best or config.patience else "",
        )

    def evaluate(self, model: M, data: ImageData) -> dict[str, float]:
        """Top-1 and top-5 accuracy on the held-out images, in per cent; parameters; MACs of an image.

        Raises:
            Problem: images of a class that the model does not know.
        """
        names = _cfg(model).get("label_names")
        test = data.test.named(names) if names else data.test
        x = torch.zeros(1, *_cfg(model)["input_size"], device=self.session.fabric.device)
        return {
            **self.accuracy(model, test),
            "parameters": float(sum(p.numel() for p in model.parameters())),
            "macs": float(count_macs(model, x)),
        }

    def accuracy(self, model: nn.Module, test: ImageSet) -> dict[str, float]:
        """Top-1 and top-5 accuracy, in per cent."""
        classes, device = cast(int, model.num_classes), self.session.fabric.device
        top1, top5 = (MulticlassAccuracy(classes, top_k=min(k, classes), average="micro").to(device) for k in (1, 5))
        recipe, seen = self.config, test.seen_through(preprocessing(model))
        with torch.inference_mode():
            for x, y in loader(self.session, seen, recipe.batch_size, workers=recipe.workers, shard=True):
                logits = model(x)
                top1.update(logits, y)
                top5.update(logits, y)
        return {"top1": 100 * float(top1.compute()), "top5": 100 * float(top5.compute())}

    def _start_from(self, model: nn.Module, source: Path) -> None:
        """Load weights; a head for other classes stays as it was initialised, with a warning."""
        state = self.weights(source / "model.safetensors" if source.is_dir() else source)
        try:
            left = checkpoint.fit_weights(model, state, source, spare=self.head)
        except Problem as problem:
            fits, arch = self.fitting(state), getattr(self.config, "arch", "this network")
            if not fits or fits == arch:
                raise
            remedy = f"--set arch={fits}: their shapes fit"
            raise Problem(f"these are not the weights of {arch}", source, remedy) from problem
        if left:
            warnings.warn(f"{source}: the head is for other classes and starts anew", stacklevel=2)

    def _mixing(self, classes: int) -> Mixup | None:
        config = self.config
        if not config.mixup and not config.cutmix:
            return None
        if config.batch_size % 2:
            raise Problem(f"a batch of {config.batch_size} cannot be mixed in pairs", "batch_size", "give an even one")
        return Mixup(config.mixup, config.cutmix, label_smoothing=config.label_smoothing, num_classes=classes)

    def _augmentation(self, model: nn.Module) -> Callable[[Image.Image], Any]:
        config = self.config
        if config.crop_scale == 1:
            return preprocessing(model)
        tested = resolve_data_config(pretrained_cfg=_cfg(model))
        size = config.train_size
        return images.augmentation(
            input_size=(tested["input_size"][0], size, size) if size else tested["input_size"],
            mean=tested["mean"],
            std=tested["std"],
            scale=(config.crop_scale, 1.0),
            hflip=config.flip,
            color_jitter=config.color_jitter,
            auto_augment=config.auto_augment or None,
            interpolation=config.crop_interpolation,
            re_prob=config.random_erasing,
            re_mode="pixel",
        )

    # -- use ------------------------------------------------------------------------------------

    @torch.inference_mode()
    def predict(self, model: M, source: Path) -> Prediction:
        """Classify an image, or all images below a folder.

        Raises:
            Problem: no images there, or one that cannot be read.
        """
        paths = images.image_files(source)
        if not paths:
            raise Problem("no images here", source, "give an image, or a folder that holds some")
        names = label_texts(model)
        seen = ImageSet(tuple(paths), (0,) * len(paths), tuple(names)).seen_through(preprocessing(model))
        probabilities = torch.cat(
            [model(x).softmax(1).cpu() for x, _ in loader(self.session, seen, PREDICT_BATCH, label="predict")]
        )
        top = probabilities.topk(min(5, len(names)), dim=1)
        table: list[dict[str, Any]] = []
        for path, values, indices in zip(paths, top.values.tolist(), top.indices.tolist(), strict=True):
            best = [f"{names[k]} {100 * p:.1f} %" for k, p in zip(indices, values, strict=True)]
            file = path.name if source.is_file() else str(path.relative_to(source))
            row = {"file": file, "class": names[indices[0]], "probability": values[0], "top5": "; ".join(best)}
            table.append(row)

        x = torch.stack([seen[i][0] for i in range(min(SHOWN, len(seen)))])
        titles = [f"{figure_text(row['class'])}\n{100 * row['probability']:.0f} %" for row in table]
        figures = {"predictions": predictions_picture([as_picture(model, image) for image in x], titles)}
        figures |= self.pictures(model, self.session.fabric.to_device(x), table)
        return Prediction(table=table, figures=figures, arrays={"probabilities": probabilities.numpy()})


# -- images in and out of a network -------------------------------------------------------------


def preprocessing(model: nn.Module) -> Callable[[Image.Image], Any]:
    """The test transform that a model's `pretrained_cfg` asks for."""
    return cast(Callable[[Image.Image], Any], create_transform(**resolve_data_config(pretrained_cfg=_cfg(model))))


def as_picture(model: nn.Module, x: Tensor) -> np.ndarray:
    """Undo the normalisation: (3, H, W) -> (H, W, 3), 0 to 1."""
    mean, std = (torch.tensor(_cfg(model)[name]).view(3, 1, 1) for name in ("mean", "std"))
    return (x.cpu() * std + mean).clamp(0, 1).permute(1, 2, 0).numpy()


def label_texts(model: nn.Module) -> list[str]:
    """What the classes are called: distinct descriptions, else their names, else their numbers.

    Descriptions of ImageNet are lists of synonyms: the first stands for all where no other class has the same.
    """
    names = _cfg(model).get("label_names") or [str(k) for k in range(cast(int, model.num_classes))]
    described = _cfg(model).get("label_descriptions") or {}
    texts = [described.get(name, name) for name in names]
    first = Counter(text.partition(",")[0] for text in texts)
    short = [
        text.partition(",")[0] if name in described and first[text.partition(",")[0]] == 1 else text
        for name, text in zip(names, texts, strict=True)
    ]
    taken = Counter(short)
    return [text if taken[text] == 1 else f"{text} ({name})" for name, text in zip(names, short, strict=True)]


def predictions_picture(pictures: list[np.ndarray], titles: list[str]) -> Figure:
    """Images (H, W, 3) with what was recognised in them, as matplotlib reads it: see `figure_text`."""
    columns = min(6, len(pictures))
    rows = -(-len(pictures) // columns)
    figure = Figure(figsize=(1.9 * columns, 2.1 * rows), layout="constrained")
    for axes, picture, title in zip(figure.subplots(rows, columns, squeeze=False).flat, pictures, titles, strict=False):
        axes.imshow(picture)
        axes.set_title(title, fontsize=8)
    for axes in figure.axes:
        axes.set_axis_off()
    return figure


Point = tuple[str, float, float]
"""Name, cost, top-1 accuracy in per cent."""


def accuracy_picture(
    series: Mapping[str, Sequence[Point]], others: Sequence[Point], cost: str, *, scale: str = "linear"
) -> Figure:
    """Published top-1 accuracy on ImageNet-1K against what a network costs.

    Args:
        series: the paper's own networks, each series joined by a line.
        others: those that it is compared with.
        cost: what is on the horizontal axis, with its unit.
        scale: of that axis, as matplotlib calls it.
    """
    figure = Figure(figsize=(7, 4.6), layout="constrained")
    axes = figure.subplots()
    for colour, (label, points) in zip(("#0969da", "#1a7f37"), series.items(), strict=False):
        ordered = sorted(points, key=lambda point: point[1])
        axes.plot([x for _, x, _ in ordered], [y for *_, y in ordered], "o-", color=colour, linewidth=1, label=label)
        for name, x, y in points:
            axes.annotate(name, (x, y), xytext=(-7, 3), ha="right", textcoords="offset points", fontsize=8)
    for name, x, y in others:
        axes.plot(x, y, "o", color="#8c959f")
        axes.annotate(name, (x, y), xytext=(7, -3), ha="left", textcoords="offset points", fontsize=8)
    axes.set_xscale(scale)
    axes.margins(x=0.2)
    axes.legend(frameon=False)
    axes.set_xlabel(cost)
    axes.set_ylabel("ImageNet-1K top-1, %, as published")
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def _cfg(model: nn.Module) -> dict[str, Any]:
    return cast(dict[str, Any], model.pretrained_cfg)
