"""Image classification: recipe, training, accuracy, prediction.

A paper derives its configuration from `ImageRecipe` and its study from `ImageStudy`, implements `build`, and adds the
measurements that its claims need.
"""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, TypeVar, cast

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image
from timm.data import Mixup, create_transform, resolve_data_config
from torch import Tensor, nn
from torch.nn import functional as F

from repertory.core import checkpoint
from repertory.core.printing import figure_text
from repertory.core.problem import Problem
from repertory.core.study import Metric, Prediction, Study
from repertory.core.timing import seconds_a_sample
from repertory.core.training import fit, loader
from repertory.data import images
from repertory.data.images import ImageSet
from repertory.nn.macs import count_macs
from repertory.tasks.classification import (
    check_classes,
    kept,
    prediction_table,
    readable,
    spread,
    top_k_accuracy,
    with_problems,
)
from repertory.tasks.settings import ImageRecipe, fitted

PREDICT_BATCH = 32
MAX_PICTURES = 12
"""Images in the figure of predictions."""


R = TypeVar("R", bound=ImageRecipe)
M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True)
class ImageData:
    """Training and held-out images."""

    train: ImageSet
    test: ImageSet


IMAGE_METRICS: Mapping[str, Metric] = {
    "top1": Metric("top-1 accuracy", "top-1 准确率", unit="%", better="higher", decimals=1),
    "top5": Metric("top-5 accuracy", "top-5 准确率", unit="%", better="higher", decimals=1),
    "parameters": Metric("parameters", "参数量", better="lower", decimals=0),
    "macs": Metric("multiply-accumulates of an image", "单图乘加次数", better="lower", decimals=0),
}
"""What `ImageStudy.evaluate` gives."""


def size_metrics(networks: Iterable[str]) -> dict[str, Metric]:
    """Declarations of `<network>_parameters` and `<network>_macs`."""
    return {
        f"{name}_{kind}": replace(metric, en=f"{metric.en}, {name}", zh=f"{name} 的{metric.zh}")
        for name in networks
        for kind, metric in IMAGE_METRICS.items()
        if kind in ("parameters", "macs")
    }


def speed_metrics(networks: Iterable[str], ratios: Mapping[str, str]) -> dict[str, Metric]:
    """Declarations of `<network>_images_per_second`, and of ratios by name: "a over b"."""
    speeds = {
        f"{name}_images_per_second": Metric(
            f"speed, {name}", f"{name} 的速度", unit="images/s", better="higher", decimals=1
        )
        for name in networks
    }
    return speeds | {
        name: Metric(f"speed, {words}", f"速度比，{words}", unit="×", better="higher", decimals=2)
        for name, words in ratios.items()
    }


class ImageStudy(Study[R, ImageData, M]):
    """A study whose arms are image classifiers.

    A paper implements `build`. The network has the attributes `num_classes` and `pretrained_cfg` (timm's keys and
    `label_names`), which stores preprocessing and class names with the weights.
    """

    sample_name = "photo-crops"
    sample_fields = ("sample", "sample_digits")
    layout = images.LAYOUT
    head: ClassVar[tuple[str, ...]] = ("head.",)
    """Prefixes of the classifier's weights; they are reinitialised if `pretrained` has other classes."""

    @abstractmethod
    def build(self, arm: str, classes: tuple[str, ...]) -> M:
        """The untrained network of an arm."""

    def loss(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor | Mapping[str, Tensor]:
        """The loss of a batch.

        Args:
            model: in training mode.
            x: images (N, C, H, W).
            y: classes (N,), or (N, classes) under mixup or CutMix, which apply label smoothing themselves.
        """
        return self.cross_entropy(model(x), y)

    def cross_entropy(self, logits: Tensor, y: Tensor) -> Tensor:
        """Cross entropy with the label smoothing of the recipe; `y` as in `loss`."""
        return F.cross_entropy(logits, y, label_smoothing=self.config.label_smoothing if y.ndim == 1 else 0.0)

    def weights(self, source: Path) -> dict[str, Tensor]:
        """State dict with our names, from our file or the authors'."""
        return checkpoint.read_weights(source)

    def fitting(self, state: Mapping[str, Tensor]) -> str:
        """The `arch` with tensors of these shapes, for any number of classes; "" if there is none."""
        return ""

    def pictures(self, model: M, x: Tensor, table: list[dict[str, Any]]) -> dict[str, Figure]:
        """Further figures of `predict`.

        Args:
            model: in evaluation mode.
            x: the first images, preprocessed, (n, C, H, W).
            table: rows of the prediction, in the order of the images.
        """
        return {}

    # -- data -----------------------------------------------------------------------------------

    def write_sample(self, folder: Path) -> None:
        """Write scikit-learn's digits, or 32 x 32 crops of scikit-image's photographs, in class folders.

        Each seed cuts its own crops for training and test; the digits are the same for all.
        """
        if self.config.sample == "digits":
            train = self.config.sample_digits
            images.write_digits(folder, train=train, val=8 * train // 5)
        else:
            images.write_photo_crops(folder, seed=self.session.seed)

    def sample_key(self) -> str:
        key = super().sample_key()
        return key if self.config.sample == "digits" else f"{key}-seed{self.session.seed}"

    def data_name(self) -> str:
        sampled = self.session.data_dir is None and not self.config.real
        return self.config.sample if sampled else super().data_name()

    def read(self, folder: Path) -> ImageData:
        if not images.is_labelled(folder):
            raise self.missing(folder)
        return ImageData(*images.read_splits(folder, self.session.seed))

    # -- the experiment -------------------------------------------------------------------------

    def train(self, arm: str, data: ImageData, part: str = "") -> M:
        """Train one arm.

        Args:
            arm: name of the arm.
            data: training and held-out images.
            part: name of the training loop, where a trial has several.

        Raises:
            Problem: images of one class only; `pretrained` does not fit the architecture (names the one that fits).
        """
        train = self.labelled(data.train)
        self.session.reseed("weights")
        model = self.build(arm, train.classes)
        if self.config.pretrained:
            self._load_pretrained(model, Path(self.config.pretrained))
        return self.fit_network(model, train, data.test, part)

    def labelled(self, train: ImageSet) -> ImageSet:
        """The images to train on: of the sample, those that the seed draws.

        Raises:
            Problem: images of one class only.
        """
        check_classes(train.classes, "training data", "images")
        if self.config.sample_labels and self.session.data_dir is None and not self.config.real:
            return train.drawn(self.config.sample_labels, self.session.rng("labels"))
        return train

    def fit_network(self, model: M, train: ImageSet, test: ImageSet, part: str = "") -> M:
        """Train a network by the recipe; `test` is looked at only if the recipe asks for it, `part` as in `train`."""
        config = self.config
        mix = self._mixing(len(train.classes))
        if mix and (share := len(train) // self.session.fabric.world_size) < config.batch_size:
            if share < 2:
                raise Problem(
                    f"mixup needs two images per process, got {len(train)} images", "training data", "add images"
                )
            config = config.model_copy(update={"batch_size": share - share % 2})

        def loss(module: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor | Mapping[str, Tensor]:
            x, y = mix(*batch) if mix else batch
            return self.loss(module, x, y)

        evaluated = config.keep_best or config.patience > 0 or bool(config.ema_decay)
        return fit(
            self.session,
            model,
            train.with_transform(self._augmentation(model), fixed=config.crop_scale == 1),
            config,
            loss,
            evaluate=(lambda module: self.accuracy(module, test)) if evaluated else None,
            monitor="top1" if config.keep_best or config.patience else "",
            part=part,
        )

    def scaled(self, data: ImageData, given: Collection[str]) -> R:
        """The published recipe for these images: see `repertory.tasks.settings.fitted`."""
        world = self.session.fabric.world_size
        if self.own is None:
            return self.config
        return fitted(self.config, self.own, len(data.train), world, self.own_batch, given)

    def preview(self, arm: str, data: ImageData) -> list[str]:
        """Parameters, pixels, and the minutes of the training by the time that two images take."""
        if not len(data.train):
            return []
        device, classes = self.session.fabric.device, len(data.train.classes)
        model = self.build(arm, data.train.classes).to(device).train()
        channels, height, width = _cfg(model)["input_size"]
        x = torch.randn(2, channels, height, width, device=device)
        mixed = self.config.mixup or self.config.cutmix
        y = torch.full((2, classes), 1 / classes) if mixed else torch.zeros(2, dtype=torch.long)
        y = y.to(device)

        def loss() -> Tensor:
            parts = self.loss(model, x, y)
            return parts["loss"] if isinstance(parts, Mapping) else parts

        seconds = seconds_a_sample(loss, 2, device)
        images_seen = len(data.train) * self.passes() / self.session.fabric.world_size
        return network_facts(model, height, width, seconds * images_seen / 60)

    def passes(self) -> float:
        """Passes over the training images, in units of one forward and backward pass."""
        return float(self.config.epochs)

    def evaluate(self, model: M, data: ImageData) -> dict[str, float]:
        """Top-1 and top-5 accuracy on the held-out images in per cent; parameters; MACs per image.

        Raises:
            Problem: images of a class that the model does not know.
        """
        names = _cfg(model).get("label_names")
        test = data.test.named(names) if names else data.test
        x = torch.zeros(1, *_cfg(model)["input_size"], device=self.session.fabric.device)
        return {
            **self.accuracy(model, test, keep=True),
            "parameters": float(sum(p.numel() for p in model.parameters())),
            "macs": float(count_macs(model, x)),
        }

    def accuracy(self, model: nn.Module, test: ImageSet, *, keep: bool = False) -> dict[str, float]:
        """Top-1 and top-5 accuracy, in per cent; `keep` stores label, prediction and probabilities of each image."""
        recipe, data = self.config, test.with_transform(preprocessing(model))
        batches = loader(self.session, data, recipe.batch_size, workers=recipe.workers, shard=True)
        scored: Iterable[tuple[Tensor, Tensor]] = ((model(x), y) for x, y in batches)
        if keep:
            scored = kept(self.session, scored, sharded=True)
        top1, top5 = top_k_accuracy(scored, cast(int, model.num_classes), self.session.fabric.device, top=(1, 5))
        return {"top1": top1, "top5": top5}

    def _load_pretrained(self, model: nn.Module, source: Path) -> None:
        """Load weights; if the head has other classes, keep the initialised one and warn."""
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
            warnings.warn(f"{source}: the head has other classes and is newly initialised", stacklevel=2)

    def _mixing(self, classes: int) -> Mixup | None:
        config = self.config
        if not config.mixup and not config.cutmix:
            return None
        if config.batch_size % 2:
            raise Problem(f"mixup needs an even batch size, got {config.batch_size}", "batch_size", "give an even one")
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
        """Classify one image, or all images below a folder; an image that cannot be read has a row with the reason.

        Raises:
            Problem: no images, or none that can be read.
        """
        names = label_texts(model)
        found = unlabelled(source, names)
        good, problems = readable(found.paths, found.image, source)
        data = found.subset(good).with_transform(preprocessing(model))
        batches = loader(self.session, data, PREDICT_BATCH, label="predict")
        classify = self.runtime or model
        probabilities = torch.cat([classify(x).softmax(1).cpu() for x, _ in batches])
        table = prediction_table(data.paths, source, names, probabilities)
        ranked = probabilities.sort(dim=1, descending=True, stable=True)  # of equal ones the first, as in the table
        for row, values, labels in zip(
            table, ranked.values[:, :5].tolist(), ranked.indices[:, :5].tolist(), strict=True
        ):
            row["top5"] = "; ".join(f"{names[k]} {100 * p:.1f} %" for k, p in zip(labels, values, strict=True))

        x = torch.stack([data[i][0] for i in range(min(MAX_PICTURES, len(data)))])
        titles = [f"{figure_text(row['class'])}\n{100 * row['probability']:.0f} %" for row in table]
        figures = {"predictions": predictions_picture([as_picture(model, image) for image in x], titles)}
        figures |= self.pictures(model, self.session.fabric.to_device(x), table)
        return Prediction(
            table=with_problems(table, found.paths, problems, source),
            figures=figures,
            arrays={"probabilities": spread(probabilities, good, len(found)).numpy()},
        )

    def example(self, model: M) -> dict[str, Tensor]:
        """Two images of noise."""
        return {"images": torch.randn(2, *_cfg(model)["input_size"], generator=torch.Generator().manual_seed(0))}


# -- before training ----------------------------------------------------------------------------


def network_facts(model: nn.Module, height: int, width: int, minutes: float) -> list[str]:
    """Lines of `Study.preview`: parameters, pixels of the input, expected time."""
    count = sum(p.numel() for p in model.parameters())
    length = f"{minutes:.2g} min" if minutes < 120 else f"{minutes / 60:.2g} h"
    return [f"{count / 1e6:.3g} M parameters", f"{height} x {width} pixels", f"about {length} on this machine"]


# -- inputs and class names ---------------------------------------------------------------------


def unlabelled(source: Path, classes: Sequence[str]) -> ImageSet:
    """One image, or all images below a folder, to be classified; labels are 0.

    Args:
        source: file or folder.
        classes: names of the model's classes.

    Raises:
        Problem: no images.
    """
    paths = tuple(images.image_files(source))
    if not paths:
        raise Problem("no images here", source, "give an image, or a folder that holds some")
    return ImageSet(paths, (0,) * len(paths), tuple(classes))


def preprocessing(model: nn.Module) -> Callable[[Image.Image], Any]:
    """The test transform given by a model's `pretrained_cfg`."""
    return cast(Callable[[Image.Image], Any], create_transform(**resolve_data_config(pretrained_cfg=_cfg(model))))


def matching_variant(
    state: Mapping[str, Tensor],
    variants: Mapping[str, Mapping[str, Any]],
    build: Callable[..., nn.Module],
    head: str = "head.",
) -> str:
    """The variant whose tensors have the names and shapes of a state dict, apart from the head; "" if there is none.

    Args:
        state: with our names.
        variants: name -> arguments of `build`.
        build: called on the meta device with the arguments and num_classes=0.
        head: prefix of the head's names, which are ignored.
    """
    shapes = {name: tensor.shape for name, tensor in state.items() if not name.startswith(head)}
    for variant, arguments in variants.items():
        with torch.device("meta"):
            candidate = build(**arguments, num_classes=0).state_dict()
        if {name: tensor.shape for name, tensor in candidate.items() if not name.startswith(head)} == shapes:
            return variant
    return ""


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
    """Images (H, W, 3) with their predicted classes as titles, escaped for matplotlib: see `figure_text`."""
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
    """Published top-1 accuracy on ImageNet-1K against the cost of the network.

    Args:
        series: the paper's networks, each series joined by a line.
        others: networks to compare with.
        cost: label of the horizontal axis, with its unit.
        scale: of that axis, a name in matplotlib.
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
