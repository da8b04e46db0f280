"""Tests of the claims of EventReversal and EventDrift.

repertory run event_aug                                         # digits in front of a simulated camera, minutes
repertory run event_aug --set representation=est --set kernel=triangle   # the same on event spike tensors
repertory run event_aug --scale paper --data N-Caltech101/      # ResNet-34 on EST; no figure was published to us
repertory run event_aug --scale snn --data CIFAR10-DVS/ --arms none,reversal+drift,fragments
                                                                # published 83.50 (both), 83.9 % (fragments)
repertory train event_aug --data mine/ --set sensor=346x260 --set mirror=true --out model/
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import timm
import torch
from matplotlib.figure import Figure
from pydantic import Field, field_validator
from torch import nn

from repertory.core import checkpoint
from repertory.core.problem import Problem
from repertory.core.study import Prediction, Study, StudyConfig
from repertory.core.training import fit, loader
from repertory.data import dvs, events
from repertory.data.events import EventSet, Size
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
from repertory.tasks.classification import check_classes, prediction_table, top_k_accuracy
from repertory.tasks.events import (
    EventRecipe,
    Streams,
    classification_loss,
    read_options,
    read_splits,
    unlabelled,
)


class EventAugConfig(EventRecipe):
    """Recipe, reading, network and augmentations."""

    representation: Representation = Field(
        default="count_frames",
        description="input of the network: count_frames, count (0 or 1 per polarity), frame, voxel or est",
    )
    bins: int = Field(default=4, ge=1, le=200, description="number of time bins; count and frame have none")
    kernel: Kernel = Field(default="learned", description="kernel of est; trilinear: the released code's triangle")
    network: str = Field(default="cnn", description="cnn, snn, or a model name of timm, such as resnet34")
    plan: str = Field(
        default="vggsnn", description="layers of snn: vggsnn, lightweight, or for example 16C3-AP2-32C3-AP2"
    )
    side: int = Field(default=0, ge=0, le=1024, description="height and width of the network's input; 0: the sensor's")
    pretrained: str = Field(default="", description="file of weights to initialise the timm network with")
    mirror: bool = Field(default=False, description="mirroring keeps the class: true for objects, not for digits")
    ratio: float = Field(default=0.5, gt=0, le=1, description="share of a stream's events in a fragment")
    distance: float = Field(default=0.15, gt=0, le=1, description="largest drift, as a share of the sensor or duration")
    shift: int = Field(default=20, ge=0, description="largest shift of the geometric augmentation, in pixels")
    area: Literal["cross", "rectangle"] = Field(default="cross", description="shape of the area that EventDrop deletes")
    sample_train: int = Field(default=40, ge=1, le=120, description="training recordings per digit in the sample")
    sample_test: int = Field(
        default=30, ge=1, le=50, description="test recordings per digit and change of brightness in the sample"
    )
    sample_strength: float = Field(
        default=0.5, ge=0, le=2, description="strength of the brightness changes in the sample"
    )

    @field_validator("network")
    @classmethod
    def _network_exists(cls, name: str) -> str:
        if name not in ("cnn", "snn") and not timm.is_model(name):
            raise ValueError("neither cnn, snn nor a model name of timm")
        return name


@dataclass(frozen=True)
class EventData:
    """Streams for training and testing, and test streams with changed brightness by the name of the change."""

    train: EventSet
    test: EventSet
    changed: dict[str, EventSet]


class EventAugStudy(Study[EventAugConfig, EventData, EventClassifier]):
    """Train a classifier with each augmentation; test it under constant and changing brightness."""

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
        # 3 of 34 pixels are about the same share as the usual 20 of 240.
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
    layout = events.LAYOUT + "\nTest-<kind>/<class>/* beside Test/, for further tests"

    # -- data -----------------------------------------------------------------------------------

    def write_sample(self, folder: Path) -> None:
        """Write digits in front of a simulated event camera, in N-MNIST's layout and format."""
        c = self.config
        dvs.write_saccade_digits(folder, c.sample_train, c.sample_test, c.sample_strength)

    def read(self, folder: Path) -> EventData:
        """Read a folder in one of the layouts; warn of streams that are in both training and test.

        Raises:
            Problem: no streams, an unknown sensor, one class only.
        """
        if not folder.is_dir() or not any(path.is_dir() for path in folder.iterdir()):
            raise self.missing(folder)
        train, test = read_splits(folder, self.config)
        check_classes(train.names, folder, "streams")
        further = sorted(path for path in folder.iterdir() if path.is_dir() and path.name.lower().startswith("test-"))
        options = read_options(self.config)
        changed = {path.name[5:]: events.read_class_folders(path, **options).named(train.names) for path in further}
        return EventData(train, test, changed)

    # -- the experiment -------------------------------------------------------------------------

    def augmentation(self, arm: str, size: Size) -> Transform | None:
        """The transform that an arm applies to training streams; None: no augmentation."""
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
            self._load_pretrained(model.network, Path(c.pretrained))

        streams = self._dataset(model, train, self.augmentation(arm, train.size))
        loss = partial(classification_loss, tet=model.spiking)
        return fit(self.session, model, streams, c, loss, collate=collate_fn(model))

    def _load_pretrained(self, network: nn.Module, path: Path) -> None:
        """Load weights of a timm network; first convolution and classifier only if their shapes match."""
        cfg: dict[str, Any] = getattr(network, "pretrained_cfg", {})
        if not cfg:
            raise Problem("pretrained weights need a network of timm", path, "set network=resnet34, for example")
        optional = tuple(f"{cfg[part]}." for part in ("first_conv", "classifier"))
        checkpoint.fit_weights(network, checkpoint.read_weights(path), path, spare=optional)

    def evaluate(self, model: EventClassifier, data: EventData) -> dict[str, float]:
        """Accuracy in per cent on the test streams, and on those with changed brightness if there are any.

        Returns:
            accuracy; accuracy_<change>; changed, the mean over the changes; drop, accuracy - changed.
        """
        by_name = {name: self.accuracy(model, test) for name, test in {"constant": data.test, **data.changed}.items()}
        metrics = {"accuracy": by_name["constant"]}
        if data.changed:
            metrics |= {f"accuracy_{name}": by_name[name] for name in data.changed}
            metrics["changed"] = float(np.mean([by_name[name] for name in data.changed]))
            metrics["drop"] = metrics["accuracy"] - metrics["changed"]
            self.session.figure("accuracy-by-brightness", pictures.brightness_picture(by_name, model.arm))
        self.session.figure("augmentation", self._cloud(model, data.test.events(0)))
        return metrics

    def accuracy(self, model: EventClassifier, test: EventSet) -> float:
        """Top-1 accuracy, in per cent."""
        batches = self._batches(model, test.named(model.names), "evaluate", shard=True)
        scored = ((model.scores(x), y) for x, y in batches)
        return top_k_accuracy(scored, len(model.names), self.session.fabric.device)[0]

    def _batches(self, model: EventClassifier, data: EventSet, label: str, shard: bool = False) -> Iterator[Any]:
        c, streams = self.config, self._dataset(model, data)
        options: dict[str, Any] = {"collate": collate_fn(model), "workers": c.workers, "label": label, "shard": shard}
        return loader(self.session, streams, c.batch_size, **options)

    def _dataset(self, model: EventClassifier, data: EventSet, augment: Transform | None = None) -> Streams:
        settings = {"representation": model.representation, "size": model.size, "bins": model.bins}
        steps = () if augment is None else (augment,)
        return Streams(data, *steps, partial(represent, **settings))

    def _cloud(self, model: EventClassifier, stream: np.ndarray) -> Figure:
        """A stream, and two augmentations of it: those of the arm, or of the method if the arm has none."""
        augment = self.augmentation(model.arm, model.size) or self.augmentation(self.method, model.size)
        assert augment is not None
        draws = (augment(stream, self.session.rng("picture", k)) for k in range(20))
        changed = islice((draw for draw in draws if draw is not stream), 2)
        named = {f"augmented, draw {k}": draw for k, draw in enumerate(changed, start=1)}
        return pictures.cloud_picture({"as recorded": stream, **named}, model.size)

    # -- use ------------------------------------------------------------------------------------

    @torch.inference_mode()
    def predict(self, model: EventClassifier, source: Path) -> Prediction:
        """Classify one stream, or all streams below a folder.

        Raises:
            Problem: no streams, or one that is unreadable or does not fit the sensor.
        """
        data = unlabelled(source, model.names, model.size, self.config)
        batches = self._batches(model, data, "predict")
        probabilities = torch.cat([model.scores(x).softmax(1).cpu() for x, _ in batches])
        table = prediction_table(data.paths, source, model.names, probabilities)
        first, row = data.events(0), table[0]
        title = f"{row['file']}: {row['class']}, {100 * row['probability']:.0f} %"
        figures = {
            "augmentation": self._cloud(model, first),
            "counts": pictures.frames_picture(first, model.size, model.bins, title),
        }
        return Prediction(table=table, figures=figures, arrays={"probabilities": probabilities.numpy()})


def collate_fn(model: EventClassifier) -> Callable[[list[Any]], Any] | None:
    """The collate function of a model's representation; None: torch's default."""
    return collate_streams if model.representation == "est" else None
