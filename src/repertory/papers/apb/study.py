"""Tests of APB's claims. The association is a reconstruction: see model.py.

repertory run apb                                                      # digits in front of an event camera, minutes
repertory run apb --data MNIST-DVS/                                    # the laptop's recipe on the real recordings
REPERTORY_DATA=… repertory run apb --scale desk --jobs 2               # CIFAR-10, 10,000 images, four steps each
repertory run apb --scale paper --data CIFAR10-DVS/                    # a later version published 83.9 %
repertory run apb --scale paper --data MNIST-DVS/ --set hflip=false    # digits are not mirrored
repertory run apb --scale cifar10 --data DIR                           # DIR/cifar-10-batches-py
repertory train apb --data my_recordings/ --arm lif+stcf --out net/    # then: repertory predict net/ one.aedat
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import transforms

from repertory.core.study import Metric, Prediction, Study
from repertory.core.timing import seconds_a_sample
from repertory.core.training import fit, loader
from repertory.data import events, images
from repertory.data.events import EventSet
from repertory.data.images import ImageSet
from repertory.nn.spiking import LIF
from repertory.papers.apb import pictures
from repertory.papers.apb.model import APBNet, Mode, Where
from repertory.papers.apb.sample import write_moving_digits
from repertory.papers.apb.settings import APBConfig, APBDesign
from repertory.papers.apb.stcf import STCF, frames_of, with_drops, with_noise
from repertory.tasks.classification import (
    check_classes,
    kept,
    prediction_table,
    readable,
    top_k_accuracy,
    with_problems,
)
from repertory.tasks.events import Streams, classification_loss, read_splits, unlabelled
from repertory.tasks.images import network_facts
from repertory.tasks.images import unlabelled as unlabelled_images
from repertory.tasks.settings import fitted

CIFAR10_MEAN, CIFAR10_STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
Disturbance = Literal["noise", "drop"]
DISTURBANCES: tuple[tuple[Disturbance, float], ...] = (("noise", 0.1), ("noise", 0.3), ("drop", 0.3), ("drop", 0.5))
"""Events added and events lost, as shares of the events in a recording."""


class Arm(NamedTuple):
    """Differences of an arm from the baseline."""

    mode: Mode | None = None
    stcf: bool = False
    beta: float | None = None
    where: Where | None = None
    """None, as for beta: the value in the configuration."""


ARMS: dict[str, Arm] = {
    "lif": Arm(),
    "lif+stcf": Arm(stcf=True),
    "apb-shared": Arm("shared"),
    "apb-pair": Arm("pair"),
    "apb-shared+stcf": Arm("shared", stcf=True),
    "apb-shared-beta0.25": Arm("shared", beta=0.25),
    "apb-shared-beta1": Arm("shared", beta=1.0),
    "apb-pair-hidden": Arm("pair", where="hidden"),
}


@dataclass(frozen=True)
class SpikingData:
    """Training and held-out recordings, or images."""

    train: EventSet | ImageSet
    test: EventSet | ImageSet


TOP1 = Metric("top-1 accuracy", "top-1 准确率", unit="%", better="higher", decimals=1)


class APBStudy(APBDesign, Study[APBConfig, SpikingData, APBNet]):
    """Classify recordings or images with spiking networks, with and without association and STCF."""

    metrics: ClassVar[Mapping[str, Metric]] = {
        "top1": TOP1,
        "spikes": Metric("spikes of a sample", "每个样本的脉冲数", better="lower", decimals=0),
        "rate": Metric("firing rate", "发放率", unit="spikes per neuron and step", better="lower"),
        "rate_{x}": Metric("firing rate of layer {x}", "第 {x} 层的发放率", unit="spikes per neuron and step"),
        **{
            f"{kind}{percent}": replace(TOP1, en=en, zh=zh, needs="events, not images")
            for kind, percent, en, zh in (
                ("noise", 10, "top-1 accuracy, 10 % noise events added", "加入 10% 噪声事件后的 top-1 准确率"),
                ("noise", 30, "top-1 accuracy, 30 % noise events added", "加入 30% 噪声事件后的 top-1 准确率"),
                ("drop", 30, "top-1 accuracy, 30 % of the events lost", "丢失 30% 事件后的 top-1 准确率"),
                ("drop", 50, "top-1 accuracy, 50 % of the events lost", "丢失 50% 事件后的 top-1 准确率"),
                ("disturbed", "", "top-1 accuracy, mean over disturbances", "各种干扰下的平均 top-1 准确率"),
            )
        },
        "parameters": Metric("parameters", "参数量", better="lower", decimals=0),
        "parameters_added_{x}": Metric("parameters added ({x})", "增加的参数量（{x}）", better="lower", decimals=0),
    }
    sample_name = "mnist-dvs"
    sample_fields = ("sample", "sample_train", "sample_test")
    seeded_data = False
    layout = f"{events.LAYOUT}\nor {images.LAYOUT}\nor cifar-10-batches-py/{{data_batch_1..5,test_batch}}"

    # -- data -----------------------------------------------------------------------------------

    def write_sample(self, folder: Path) -> None:
        """Write scikit-learn's digits: moving in front of a simulated event camera, or as images."""
        train, test = self.config.sample_train, self.config.sample_test
        if self.config.sample == "digits":
            images.write_digits(folder, train=train, val=test)
        else:
            write_moving_digits(folder, train, test)

    def data_name(self) -> str:
        sampled = self.session.data_dir is None and not self.config.real
        return f"{self.config.sample} sample" if sampled else super().data_name()

    def read(self, folder: Path) -> SpikingData:
        """Recordings or images. Without a split, a fixed tenth of the recordings or fifth of the images is held out.

        Raises:
            Problem: no recordings or images; see also `repertory.data.events` and `repertory.data.images`.
        """
        if (folder / "cifar-10-batches-py").is_dir():
            return SpikingData(*(images.read_cifar10(folder, train) for train in (True, False)))
        if folder.is_dir() and events.event_files(folder):
            return SpikingData(*read_splits(folder, self.config))
        if not images.is_labelled(folder):
            raise self.missing(folder)
        return SpikingData(*images.read_splits(folder))

    def _dataset(self, model: APBNet, data: EventSet | ImageSet, augment: bool = False) -> Dataset[tuple[Tensor, int]]:
        """Inputs of a network: frames, or normalised images."""
        c = self.config
        if isinstance(data, ImageSet):
            return data.with_transform(_image_transform(model, augment, c.crop_pad, c.hflip))
        frames = (
            STCF(c.least_crop, c.crop_pad, c.hflip, c.transpose, c.tflip, c.swap_polarity) if augment else frames_of
        )
        return Streams(data, partial(frames, sensor=data.size, size=model.size, steps=model.steps))

    # -- the experiment -------------------------------------------------------------------------

    def scaled(self, data: SpikingData, given: Collection[str]) -> APBConfig:
        """The recipe for recordings, or that for images, for these data."""
        published = cast(APBConfig, self.scales["cifar10"] if isinstance(data.train, ImageSet) else self.own)
        config = published.model_copy(update={name: getattr(self.config, name) for name in given} | {"first_seed": 0})
        return fitted(config, published, len(data.train), self.session.fabric.world_size, published.batch_size, given)

    def preview(self, arm: str, data: SpikingData) -> list[str]:
        """Parameters, pixels, and minutes."""
        if not len(data.train):
            return []
        device = self.session.fabric.device
        model = self.build(arm, data.train).to(device).train()
        one = self._dataset(model, data.train)[0][0]
        x = torch.stack([one, one]).to(device)
        seconds = seconds_a_sample(lambda: model(x).sum(), 2, device)
        seen = len(data.train) * self.config.epochs / self.session.fabric.world_size
        return [f"plan {self.config.plan}", *network_facts(model, *model.size, seconds * seen / 60)]

    def train(self, arm: str, data: SpikingData) -> APBNet:
        """Train one arm.

        Raises:
            Problem: one class only; a plan that pools the input to nothing.
        """
        train = data.train
        classes = train.classes if isinstance(train, ImageSet) else train.names
        check_classes([classes[label] for label in sorted(set(train.labels))], "training data", "samples")
        self.session.reseed("weights")
        model = self.build(arm, train)
        if isinstance(train, EventSet):
            self._warn_of_empty_bins(train)
        fit(
            self.session,
            model,
            self._dataset(model, train, augment=ARMS[arm].stcf),
            self.config,
            partial(classification_loss, tet=self.config.tet),
            evaluate=(lambda module: self._activity_metrics(module, data.test)) if self.config.patience else None,
            monitor="top1" if self.config.patience else "",
        )
        return model

    def build(self, arm: str, data: EventSet | ImageSet) -> APBNet:
        """The untrained network of an arm; its input is at most as large as the sensor."""
        config, differs, static = self.config, ARMS[arm], isinstance(data, ImageSet)
        sensor = data.size if isinstance(data, EventSet) else (config.image_size, config.image_size)
        return APBNet(
            list(data.classes if isinstance(data, ImageSet) else data.names),
            config.plan,
            (min(config.image_size, sensor[0]), min(config.image_size, sensor[1])),
            config.steps,
            static,
            differs.mode,
            config.beta if differs.beta is None else differs.beta,
            config.cache,
            differs.where or config.where or ("hidden" if static else "all"),
            config.decay,
            config.threshold,
            config.window,
            sensor,
        )

    def _warn_of_empty_bins(self, train: EventSet) -> None:
        stream = train.events(0)
        filled = len(np.unique(self.config.steps * stream["t"] // (stream["t"].max() + 1)))
        if filled < self.config.steps:
            warnings.warn(
                f"{train.paths[0]}: {filled} of {self.config.steps} time bins have events; use fewer steps",
                stacklevel=2,
            )

    def evaluate(self, model: APBNet, data: SpikingData) -> dict[str, float]:
        """Accuracy and spikes on held-out data; for recordings also accuracy under disturbances.

        Returns:
            top1: accuracy in per cent.
            spikes: per sample, over all layers and steps.
            rate, rate_1, rate_2, …: spikes per neuron and step, of all layers and of each layer.
            noise10, noise30: top1 with 10 and 30 % noise events added.
            drop30, drop50: top1 with 30 and 50 % of the events lost.
            disturbed: mean of these four.

        Raises:
            Problem: data of a class that the model does not know.
        """
        test = data.test.named(model.names)
        metrics = self._activity_metrics(model, test)
        if isinstance(test, EventSet):
            curves = {"noise": [(0.0, metrics["top1"])], "drop": [(0.0, metrics["top1"])]}
            for kind, share in self.session.progress(DISTURBANCES, "disturbances"):
                disturbed = DisturbedSet(**vars(test), kind=kind, share=share)
                metrics[f"{kind}{100 * share:.0f}"] = top1 = self._top1(model, disturbed, f"{kind} {100 * share:.0f} %")
                curves[kind].append((share, top1))
            metrics["disturbed"] = float(np.mean([top1 for curve in curves.values() for _, top1 in curve[1:]]))
            self.session.figure("disturbances", pictures.disturbance_picture(curves))
        x = self.session.fabric.to_device(self._dataset(model, test)[0][0][None])
        for name, figure in pictures.pictures(model, x, model.names[test.labels[0]]).items():
            self.session.figure(name, figure)
        return metrics

    def _activity_metrics(self, model: APBNet, test: EventSet | ImageSet) -> dict[str, float]:
        """Accuracy and spikes, as in `evaluate`."""
        scored, fired, places = self._activity(model, test, "evaluate")
        (top1,) = top_k_accuracy(kept(self.session, scored), len(model.names), self.session.fabric.device)
        mean = fired.mean(0)
        return {
            "top1": top1,
            "spikes": float(mean.sum()),
            "rate": float(mean.sum() / places.sum()),
            **_layer_rates(mean / places),
        }

    @torch.inference_mode()
    def _activity(
        self, model: APBNet, data: EventSet | ImageSet, label: str
    ) -> tuple[list[tuple[Tensor, Tensor]], Tensor, Tensor]:
        """Logits (B, K) and labels (B,) per batch; spikes (N, layers); neurons times steps (layers,)."""
        scored, fired, places = [], [], torch.empty(0)
        for x, y in self._batches(model, data, label):
            logits, spikes = activity(model, x)
            counts, places = spike_counts(spikes)
            scored.append((logits.mean(0), y))
            fired.append(counts)
        return scored, torch.cat(fired), places

    def _top1(self, model: APBNet, test: EventSet, label: str) -> float:
        scored = ((model(x).mean(0), y) for x, y in self._batches(model, test, label))
        return top_k_accuracy(scored, len(model.names), self.session.fabric.device)[0]

    def _batches(self, model: APBNet, data: EventSet | ImageSet, label: str) -> Iterator[Any]:
        dataset = self._dataset(model, data)
        return loader(self.session, dataset, self.config.batch_size, workers=self.config.workers, label=label)

    def measure(self) -> dict[str, float]:
        """Parameters of the lightweight network with ten classes, without and with association."""
        counts = {
            mode: sum(p.numel() for p in APBNet([str(k) for k in range(10)], mode=cast(Any, mode)).parameters())
            for mode in (None, "shared", "pair")
        }
        return {
            "parameters": float(counts[None]),
            "parameters_added_shared": float(counts["shared"] - counts[None]),
            "parameters_added_pair": float(counts["pair"] - counts[None]),
        }

    # -- use ------------------------------------------------------------------------------------

    @torch.inference_mode()
    def predict(self, model: APBNet, source: Path) -> Prediction:
        """Classify one recording or image, or all below a folder; count the spikes of each layer.

        Raises:
            Problem: no recordings or images of the kind that the model was trained on, or none that can be read.
        """
        if model.static:
            found = unlabelled_images(source, model.names)
            good, problems = readable(found.paths, found.image, source)
        else:
            found = unlabelled(source, model.names, model.sensor, self.config)
            good, problems = readable(found.paths, found.events, source, "streams")
        data = found.subset(good)
        scored, fired, places = self._activity(model, data, "predict")
        probabilities = torch.cat([logits.softmax(1).cpu() for logits, _ in scored])
        table = prediction_table(data.paths, source, model.names, probabilities)
        for row, counts in zip(table, fired, strict=True):
            row |= {"spikes": int(counts.sum())} | _layer_rates(counts / places)
        first = self.session.fabric.to_device(self._dataset(model, data)[0][0][None])
        figures = pictures.pictures(model, first, f"{table[0]['file']}: {table[0]['class']}")
        text, table = _summary(model, table), with_problems(table, found.paths, problems, source)
        return Prediction(text=text, table=table, figures=figures)


@dataclass(frozen=True)
class DisturbedSet(EventSet):
    """Streams with events added or lost; the disturbance depends on the index only, so that arms are comparable."""

    kind: Disturbance = "noise"
    share: float = 0.0
    """Of the number of events in a stream."""

    def events(self, index: int) -> np.ndarray:
        """One disturbed stream."""
        stream = super().events(index)
        rng = np.random.default_rng([index, round(1000 * self.share), *self.kind.encode()])
        if self.kind == "noise":
            return with_noise(stream, self.share, self.size, rng)
        return with_drops(stream, self.share, rng)


def activity(model: APBNet, x: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Logits (T, B, classes), and the spikes of each LIF layer (T, B, C, H, W)."""
    spikes: list[Tensor] = []
    out = x
    for layer, _, out in model.walk(x):
        if isinstance(layer, LIF):
            spikes.append(out)
    return out, spikes


def spike_counts(spikes: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Spikes per sample and layer (B, layers), and neurons times steps per layer (layers,), on the CPU."""
    fired = torch.stack([layer.sum((0, 2, 3, 4), dtype=torch.float64) for layer in spikes], dim=1)
    return fired.cpu(), torch.tensor([layer[:, 0].numel() for layer in spikes], dtype=torch.float64)


def _layer_rates(rates: Tensor) -> dict[str, float]:
    """rate_1, rate_2, ..."""
    return {f"rate_{number}": rate for number, rate in enumerate(rates.tolist(), start=1)}


def _image_transform(model: APBNet, augment: bool, pad: int | None, hflip: bool) -> Callable[[Any], Tensor]:
    """PIL image -> normalised tensor of the model's size; augmentation: random crop and mirroring, as on CIFAR."""
    size = list(model.size)
    steps: list[Callable[[Any], Any]] = [transforms.Resize(size)]
    if augment:
        steps.append(transforms.RandomCrop(size, padding=round(size[0] / 8) if pad is None else pad))
        steps += [transforms.RandomHorizontalFlip()] if hflip else []
    return transforms.Compose([*steps, transforms.ToTensor(), transforms.Normalize(CIFAR10_MEAN, CIFAR10_STD)])


def _summary(model: APBNet, table: list[dict[str, Any]]) -> str:
    kind = {None: "no association", "shared": "a shared factor", "pair": "products of pairs"}[model.mode]
    note = "" if model.mode is None else " (reconstructed from abstracts)"
    spikes = np.mean([row["spikes"] for row in table])
    return f"{len(table)} samples, {model.steps} steps, {kind}{note}; {spikes:.0f} spikes on average"
