"""How the claims of EventReversal and EventDrift are tested.

repertory run event_aug                                         # digits before a simulated camera, minutes
repertory run event_aug --set representation=est --set kernel=triangle   # the same on event spike tensors
repertory run event_aug --scale paper --data N-Caltech101/      # ResNet-34 on EST; no figure was published to us
repertory run event_aug --scale snn --data CIFAR10-DVS/ --arms none,reversal+drift,fragments
                                                                # published 83.50 (both), 83.9 % (fragments)
repertory train event_aug --data mine/ --set sensor=346x260 --set mirror=true --out model/
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import timm
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from pydantic import Field, field_validator
from torch import Tensor, nn
from torch.utils.data import Dataset
from torchmetrics.classification import MulticlassAccuracy

from repertory.core import checkpoint
from repertory.core.problem import Problem
from repertory.core.study import Prediction, Study, StudyConfig
from repertory.core.training import Recipe, fit, loader
from repertory.data import dvs, events
from repertory.data.events import EventSet, Size
from repertory.nn.spiking import tet_loss
from repertory.papers.event_aug import pictures
from repertory.papers.event_aug.model import EventClassifier
from repertory.papers.event_aug.representations import Kernel, Representation, collate_streams, represent
from repertory.papers.event_aug.transforms import (
    PRESETS,
    Compose,
    EventDrift,
    EventDrop,
    EventReversal,
    ShiftFlip,
    Transform,
)


class EventAugConfig(Recipe):
    """Recipe, network, augmentations, and how own data are to be read."""

    representation: Representation = Field(
        default="count_frames",
        description="what the network sees: count_frames, count (0 or 1 per polarity), frame, voxel or est",
    )
    bins: int = Field(default=4, ge=1, le=200, description="of time; count and frame have none")
    kernel: Kernel = Field(default="learned", description="of est; trilinear is the released code's triangle")
    network: str = Field(default="cnn", description="cnn, snn, or a network of timm, as resnet34")
    plan: str = Field(default="vggsnn", description="of snn: vggsnn, lightweight, or layers as in 16C3-AP2-32C3-AP2")
    side: int = Field(default=0, ge=0, le=1024, description="height and width that the network sees; 0: the sensor's")
    pretrained: str = Field(default="", description="weights of the timm network to start from: a file")
    mirror: bool = Field(default=False, description="classes stay the same in a mirror: true of objects, not of digits")
    ratio: float = Field(default=0.5, gt=0, le=1, description="share of a stream's events in a fragment")
    distance: float = Field(default=0.15, gt=0, le=1, description="largest drift, as a share of the sensor or duration")
    shift: int = Field(default=20, ge=0, description="largest move of the geometric augmentation, in pixels")
    area: Literal["cross", "rectangle"] = Field(default="cross", description="what EventDrop deletes by area")
    sensor: str = Field(default="", description="size of the sensor, WIDTHxHEIGHT; empty: by layout or header")
    time_unit: Literal["", "us", "ms", "s"] = Field(
        default="", description="of t in .npy, .npz and .h5 files; empty: us, and doubtful values are asked about"
    )
    upright: bool = Field(default=False, description="turn .aedat recordings upright, as is usual with CIFAR10-DVS")
    dvs_scale: Literal[4, 8, 16] = Field(default=16, description="which recordings of MNIST-DVS")
    sample_train: int = Field(default=40, ge=1, le=120, description="recordings of each digit for training")
    sample_test: int = Field(default=30, ge=1, le=50, description="recordings of each digit and kind for testing")
    sample_strength: float = Field(default=0.5, ge=0, le=2, description="how much the light of the sample changes")

    @field_validator("network")
    @classmethod
    def _known(cls, name: str) -> str:  # pyright: ignore[reportIncompatibleMethodOverride]
        if name not in ("cnn", "snn") and not timm.is_model(name):
            raise ValueError("neither cnn, snn nor a network that timm knows")
        return name

    @field_validator("sensor")
    @classmethod
    def _size(cls, text: str) -> str:
        if text:
            events.parse_size(text)
        return text


@dataclass(frozen=True)
class EventData:
    """Streams for training and testing, and those of changed brightness by their name, where there are any."""

    train: EventSet
    test: EventSet
    changed: dict[str, EventSet]


class Streams(Dataset[tuple[Tensor, int]]):
    """Streams as tensors, augmented on the way."""

    def __init__(self, data: EventSet, model: EventClassifier, augment: Transform | None = None) -> None:
        self.data, self.model, self.augment = data, model, augment

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        stream, model = self.data.events(index), self.model
        if self.augment is not None:
            stream = self.augment(stream)
        return represent(stream, model.representation, model.size, model.bins), self.data.labels[index]


class EventAugStudy(Study[EventAugConfig, EventData, EventClassifier]):
    """Train a classifier under each augmentation; test it in constant and in changing light."""

    paper = "event_aug"
    arms: ClassVar[Mapping[str, str]] = {
        "none": "no augmentation",
        "geometric": "streams moved, and mirrored where classes allow it",
        "eventdrop": "events deleted by time, by area or at random",
        "reversal": "EventReversal alone",
        "drift": "EventDrift alone",
        "reversal+drift": "EventReversal, then EventDrift",
        "fragments": "both on fragments of the stream only (ESTF, the paper's third version)",
    }
    method = "reversal+drift"
    Config = EventAugConfig
    scales: ClassVar[Mapping[str, StudyConfig]] = {
        "smoke": EventAugConfig(
            seeds=1, epochs=1, batch_size=8, optimizer="adam", shift=3, sample_train=4, sample_test=2
        ),
        # A shift of 3 pixels is to 34 what the usual 20 are to 240.
        "laptop": EventAugConfig(seeds=3, epochs=30, batch_size=32, optimizer="adam", shift=3),
        # The recipe of EST: https://arxiv.org/abs/1904.08245.
        "paper": EventAugConfig(
            seeds=3, representation="est", bins=9, network="resnet34", side=224, mirror=True, epochs=30, batch_size=4,
            optimizer="adam", lr=1e-4, schedule="step", decay_epochs=10, decay_rate=0.5, workers=8,
        ),
        # The recipe of TET: https://arxiv.org/abs/2202.11946.
        "snn": EventAugConfig(
            seeds=1, bins=10, network="snn", side=48, mirror=True, upright=True, epochs=300, batch_size=32,
            optimizer="adam", workers=8,
        ),
    }  # fmt: skip
    sample_name = "simulated digits"
    sample_fields = ("sample_train", "sample_test", "sample_strength")
    seeded_data = False
    layout = events.LAYOUT + "\nTest-<kind>/<class>/* beside Test/, for further tests"

    # -- data -----------------------------------------------------------------------------------

    def write_sample(self, folder: Path) -> None:
        """Digits before an event camera, in N-MNIST's layout and format."""
        c = self.config
        dvs.write_saccade_digits(folder, c.sample_train, c.sample_test, c.sample_strength)

    def read(self, folder: Path) -> EventData:
        """Read a folder in one of the layouts; warn of streams that are both in training and in test.

        Raises:
            Problem: no streams, an unknown sensor, one class only.
        """
        if not folder.is_dir() or not any(path.is_dir() for path in folder.iterdir()):
            raise self.missing(folder)
        c = self.config
        options: dict[str, Any] = {
            "size": events.parse_size(c.sensor) if c.sensor else None, "unit": c.time_unit, "upright": c.upright,
            "scale": c.dvs_scale,
        }  # fmt: skip
        train, test = events.read_splits(folder, **options)
        if len(train.names) < 2:
            raise Problem(f"one class only: {', '.join(train.names)}", folder, "give streams of two classes or more")
        twice = events.shared_streams(train, test)
        if twice:
            first = " and ".join(str(path) for path in twice[0])
            warnings.warn(f"{len(twice)} test streams are training streams too, {first} for one", stacklevel=2)
        beside = sorted(path for path in folder.iterdir() if path.is_dir() and path.name.lower().startswith("test-"))
        changed = {path.name[5:]: events.read_class_folders(path, **options).named(train.names) for path in beside}
        return EventData(train, test, changed)

    # -- the experiment -------------------------------------------------------------------------

    def augmentation(self, arm: str, size: Size) -> Transform | None:
        """What an arm does to training streams."""
        c = self.config
        reversals, drifts = PRESETS["fragments" if arm == "fragments" else "objects" if c.mirror else "digits"]
        reversal = EventReversal(size, reversals, ratio=c.ratio)
        drift = EventDrift(size, drifts, ratio=c.ratio, distance=c.distance)
        return {
            "none": None,
            "geometric": ShiftFlip(size, c.shift, c.mirror),
            "eventdrop": EventDrop(size, c.area),
            "reversal": reversal,
            "drift": drift,
        }.get(arm, Compose([reversal, drift]))

    def train(self, arm: str, data: EventData) -> EventClassifier:
        """Train one arm."""
        c, train = self.config, data.train
        self.session.reseed("weights")
        names, size = list(train.names), list(train.size)
        model = EventClassifier(names, size, c.representation, c.bins, c.network, c.side, c.plan, c.kernel, arm)
        if c.pretrained:
            self._start_from(model.network, Path(c.pretrained))

        def loss(module: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
            x, y = batch
            return tet_loss(module(x), y) if model.spiking else F.cross_entropy(module(x), y)

        streams = Streams(train, model, self.augmentation(arm, train.size))
        return fit(self.session, model, streams, c, loss, collate=collate(model))

    def _start_from(self, network: nn.Module, path: Path) -> None:
        """Weights of a network of timm, but for the first convolution and the classifier where these differ."""
        cfg: dict[str, Any] = getattr(network, "pretrained_cfg", {})
        if not cfg:
            raise Problem("pretrained weights are for networks of timm", path, "set network=resnet34, for example")
        fresh = tuple(f"{cfg[part]}." for part in ("first_conv", "classifier"))
        checkpoint.fit_weights(network, checkpoint.read_weights(path), path, spare=fresh)

    def evaluate(self, model: EventClassifier, data: EventData) -> dict[str, float]:
        """Accuracy, per cent, on the test streams; where there are streams in changed light, on each kind of them.

        Returns:
            accuracy; accuracy_<kind>; changed, the mean over kinds; drop, accuracy - changed.
        """
        found = {name: self.accuracy(model, test) for name, test in {"constant": data.test, **data.changed}.items()}
        metrics = {"accuracy": found["constant"]}
        if data.changed:
            metrics |= {f"accuracy_{name}": found[name] for name in data.changed}
            metrics["changed"] = float(np.mean([found[name] for name in data.changed]))
            metrics["drop"] = metrics["accuracy"] - metrics["changed"]
            self.session.figure("accuracy-by-brightness", pictures.brightness_picture(found, model.arm))
        self.session.figure("augmentation", self._cloud(model, data.test.events(0)))
        return metrics

    def accuracy(self, model: EventClassifier, test: EventSet) -> float:
        """Top-1 accuracy, in per cent."""
        c = self.config
        metric = MulticlassAccuracy(len(model.names), average="micro").to(self.session.fabric.device)
        streams = Streams(test.named(model.names), model)
        with torch.inference_mode():
            for x, y in loader(
                self.session, streams, c.batch_size, collate=collate(model), workers=c.workers, shard=True
            ):
                metric.update(model.scores(x), y)
        return 100 * float(metric.compute())

    def _cloud(self, model: EventClassifier, stream: np.ndarray) -> Figure:
        """A stream as it is, and two ways that training would change it (the method's, where the arm has none)."""
        augment = self.augmentation(model.arm, model.size) or self.augmentation(self.method, model.size)
        assert augment is not None
        draws = (augment(stream, self.session.rng("picture", k)) for k in range(20))
        changed = islice((draw for draw in draws if draw is not stream), 2)
        named = {f"augmented, draw {k}": draw for k, draw in enumerate(changed, start=1)}
        return pictures.cloud_picture({"as recorded": stream, **named}, model.size)

    # -- use ------------------------------------------------------------------------------------

    @torch.inference_mode()
    def predict(self, model: EventClassifier, source: Path) -> Prediction:
        """Classify a stream, or all streams below a folder.

        Raises:
            Problem: no streams there, or one that cannot be read or does not fit the sensor.
        """
        paths, c = events.event_files(source), self.config
        if not paths:
            raise Problem("no streams here", source, f"give a file, or a folder with {', '.join(events.READERS)} files")
        data = EventSet(tuple(paths), (0,) * len(paths), tuple(model.names), model.size, c.time_unit, c.upright)
        batches = loader(
            self.session, Streams(data, model), c.batch_size, collate=collate(model), workers=c.workers, label="predict"
        )
        probabilities = torch.cat([model.scores(x).softmax(1).cpu() for x, _ in batches])
        best = probabilities.max(1)
        table = [
            {
                "file": path.name if source.is_file() else str(path.relative_to(source)),
                "class": model.names[k],
                "probability": value,
            }
            for path, value, k in zip(paths, best.values.tolist(), best.indices.tolist(), strict=False)
        ]
        first, row = data.events(0), table[0]
        title = f"{row['file']}: {row['class']}, {100 * row['probability']:.0f} %"
        figures = {
            "augmentation": self._cloud(model, first),
            "counts": pictures.frames_picture(first, model.size, model.bins, title),
        }
        return Prediction(table=table, figures=figures, arrays={"probabilities": probabilities.numpy()})


def collate(model: EventClassifier) -> Any:
    """How samples of the model's representation become a batch; None: torch's way."""
    return collate_streams if model.representation == "est" else None
