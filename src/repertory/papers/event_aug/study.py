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
from typing import Any, ClassVar

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import nn

from repertory.core import checkpoint
from repertory.core.problem import Problem
from repertory.core.study import Metric, Prediction, Study
from repertory.core.training import fit, loader
from repertory.data import dvs, events
from repertory.data.events import EventSet, Size
from repertory.papers.event_aug import pictures
from repertory.papers.event_aug.model import EventClassifier
from repertory.papers.event_aug.representations import collate_streams, represent
from repertory.papers.event_aug.settings import EventAugConfig, EventAugDesign
from repertory.papers.event_aug.transforms import (
    PRESETS,
    Compose,
    EventDrift,
    EventDrop,
    EventReversal,
    ShiftFlip,
    Transform,
)
from repertory.tasks.classification import (
    check_classes,
    kept,
    prediction_table,
    readable,
    spread,
    top_k_accuracy,
    with_problems,
)
from repertory.tasks.events import (
    Streams,
    classification_loss,
    read_options,
    read_splits,
    unlabelled,
)


@dataclass(frozen=True)
class EventData:
    """Streams for training and testing, and test streams with changed brightness by the name of the change."""

    train: EventSet
    test: EventSet
    changed: dict[str, EventSet]


CHANGED_LIGHT = "test streams in changed light, in folders test_<kind>"


class EventAugStudy(EventAugDesign, Study[EventAugConfig, EventData, EventClassifier]):
    """Train a classifier with each augmentation; test it under constant and changing brightness."""

    metrics: ClassVar[Mapping[str, Metric]] = {
        "accuracy": Metric("accuracy", "准确率", unit="%", better="higher", decimals=1),
        "accuracy_{x}": Metric(
            "accuracy, light: {x}", "光照 {x} 下的准确率", unit="%", better="higher", decimals=1, needs=CHANGED_LIGHT
        ),
        "changed": Metric(
            "accuracy, mean over changing light",
            "变化光照下的平均准确率",
            unit="%",
            better="higher",
            decimals=1,
            needs=CHANGED_LIGHT,
        ),
        "drop": Metric(
            "accuracy lost in changing light",
            "变化光照下损失的准确率",
            unit="%",
            better="lower",
            decimals=1,
            needs=CHANGED_LIGHT,
        ),
    }
    sample_name = "simulated digits"
    sample_fields = ("sample_train", "sample_test", "sample_strength")
    seeded_data = False
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
        by_name = {
            name: self.accuracy(model, test, name) for name, test in {"constant": data.test, **data.changed}.items()
        }
        metrics = {"accuracy": by_name["constant"]}
        if data.changed:
            metrics |= {f"accuracy_{name}": by_name[name] for name in data.changed}
            metrics["changed"] = float(np.mean([by_name[name] for name in data.changed]))
            metrics["drop"] = metrics["accuracy"] - metrics["changed"]
            self.session.figure("accuracy-by-brightness", pictures.brightness_picture(by_name, model.arm))
        self.session.figure("augmentation", self._cloud(model, data.test.events(0)))
        return metrics

    def accuracy(self, model: EventClassifier, test: EventSet, name: str) -> float:
        """Top-1 accuracy, in per cent; keeps the outputs under the name of the brightness."""
        batches = self._batches(model, test.named(model.names), "evaluate", shard=True)
        scored = ((model.scores(x), y) for x, y in batches)
        outputs = kept(self.session, scored, name, sharded=True)
        return top_k_accuracy(outputs, len(model.names), self.session.fabric.device)[0]

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
        """Classify one stream, or all streams below a folder; one that cannot be used has a row with the reason.

        Raises:
            Problem: no streams, or none that can be read and fits the sensor.
        """
        found = unlabelled(source, model.names, model.size, self.config)
        good, problems = readable(found.paths, found.events, source, "streams")
        data = found.subset(good)
        batches = self._batches(model, data, "predict")
        probabilities = torch.cat([model.scores(x).softmax(1).cpu() for x, _ in batches])
        table = prediction_table(data.paths, source, model.names, probabilities)
        first, row = data.events(0), table[0]
        title = f"{row['file']}: {row['class']}, {100 * row['probability']:.0f} %"
        figures = {
            "augmentation": self._cloud(model, first),
            "counts": pictures.frames_picture(first, model.size, model.bins, title),
        }
        return Prediction(
            table=with_problems(table, found.paths, problems, source),
            figures=figures,
            arrays={"probabilities": spread(probabilities, good, len(found)).numpy()},
        )


def collate_fn(model: EventClassifier) -> Callable[[list[Any]], Any] | None:
    """The collate function of a model's representation; None: torch's default."""
    return collate_streams if model.representation == "est" else None
