"""Audit a distilled set: read what was received, train on it, and apply the six defences."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from repertory.core import checkpoint
from repertory.core.problem import Problem, reason
from repertory.core.study import Session
from repertory.data.arrays import file_size
from repertory.papers.doorping import defences
from repertory.papers.doorping.defences import Inputs, accuracy
from repertory.papers.doorping.model import DistilledSet
from repertory.papers.doorping.networks import Network
from repertory.papers.doorping.settings import DoorpingConfig

SUFFIXES = (".pt", ".pth")
WHOLE = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
OWN = 2000
"""Most clean images that defences tune with: fine-pruning looks at them once for each channel."""
Scalar: Any = np._core.multiarray.scalar  # pyright: ignore[reportAttributeAccessIssue]
HARMLESS = [Scalar, np.dtype, type(np.dtype("float64")), type(np.dtype("float32")), type(np.dtype("int64"))]
"""What the reference's `accs_all_exps` may hold beside tensors: numbers of NumPy."""


# -- received files -----------------------------------------------------------------------------


def is_received(source: Path) -> bool:
    """Whether it is a distilled set, and no image or folder of images."""
    return source.suffix.lower() in SUFFIXES or (source / checkpoint.ABOUT).is_file()


def _load(path: Path) -> Any:
    file_size(path)
    try:
        with torch.serialization.safe_globals(HARMLESS):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises many kinds; all mean the same to the user
        raise Problem(
            f"cannot read the file: {reason(error)}", path, "give a .pt of tensors: {'data': [[images, labels]]}"
        ) from error


def read_results(path: Path) -> Inputs:
    """Images (N, C, S, S) and labels (N,) of a results file `res_*.pt`: the last entry of `data`.

    Raises:
        Problem: unreadable, more than tensors and numbers, no such entry, images that are bytes, not finite or not
            square, labels that do not fit.
    """
    content = _load(path)
    entries = content.get("data") if isinstance(content, Mapping) else None
    last = entries[-1] if isinstance(entries, list | tuple) and entries else None
    if not isinstance(last, list | tuple) or len(last) != 2 or not all(isinstance(part, Tensor) for part in last):
        raise Problem("no entry 'data' with images and labels", path, "give what distillation wrote: res_*.pt")
    images, labels = cast(Inputs, tuple(last))
    if not images.is_floating_point():
        kind = str(images.dtype).removeprefix("torch.")
        remedy = "scale them to 0 … 1, subtract the mean and divide by the standard deviation of each channel"
        raise Problem(f"images of {kind}, not normalised", path, remedy)
    if images.ndim != 4 or images.shape[1] not in (1, 3) or images.shape[2] != images.shape[3] or not images.numel():
        raise Problem(f"images of the shape {tuple(images.shape)}", path, "give (N, 1 or 3, S, S)")
    if not images.isfinite().all():
        raise Problem("some pixels are not finite", path, "distil again, or leave these images out")
    if labels.shape != (len(images),) or labels.dtype not in WHOLE or labels.min() < 0:
        raise Problem(f"labels {labels.dtype} {tuple(labels.shape)} for {len(images)} images", path, "give (N,) from 0")
    return images.float(), labels.long()


def received(source: Path, like: DistilledSet, package: str) -> DistilledSet:
    """A distilled set from a model directory or a results file.

    A results file says nothing of class names, normalisation or network: those of `like` are taken.

    Raises:
        Problem: unreadable, or images and labels that do not go with `like`.
    """
    if source.is_dir():
        found = checkpoint.load(source, package)
        if not isinstance(found, DistilledSet):
            raise Problem(
                f"a {type(found).__name__}, not a distilled set", source, "give the folder of a distilled set"
            )
        return found
    images, labels = read_results(source)
    channels = images.shape[1]
    if channels != like.in_chans or int(labels.max()) >= len(like.classes):
        what = f"{channels} channels and labels up to {int(labels.max())}"
        raise Problem(
            f"the set has {what}, the model {like.in_chans} channels and {len(like.classes)} classes",
            source,
            "repertory convert doorping FILE DIR makes a model of the set itself; audit that",
        )
    return of_tensors(images, labels, like.classes, _values(like.mean), _values(like.std), like.net)


def of_tensors(
    images: Tensor, labels: Tensor, classes: tuple[str, ...], mean: tuple[float, ...], std: tuple[float, ...], net: str
) -> DistilledSet:
    """A received set: nobody knows whether it is poisoned."""
    count, channels, size, _ = images.shape
    distilled = DistilledSet(count, classes, channels, size, mean, std, attack="unknown", poisoned=None, net=net)
    distilled.images.data.copy_(images)
    distilled.labels.copy_(labels)
    return distilled.eval()


def _values(channels: Tensor) -> tuple[float, ...]:
    return tuple(channels.flatten().tolist())


def read_trigger(path: Path, distilled: DistilledSet) -> Tensor:
    """A trigger file of the reference, (1, C, S, S), normalised.

    Raises:
        Problem: unreadable, or of another shape than the images.
    """
    trigger = _load(path)
    if not isinstance(trigger, Tensor) or trigger.shape != distilled.trigger.shape:
        shape = tuple(trigger.shape) if isinstance(trigger, Tensor) else type(trigger).__name__
        raise Problem(f"the trigger is {shape}", path, f"give a tensor {tuple(distilled.trigger.shape)}")
    return trigger.float().to(distilled.trigger)


# -- the six defences ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Findings:
    """What the defences find; shares and rates in per cent."""

    cleansed: defences.Cleansed
    pruned: defences.Pruned
    pruned_cta: float
    pruned_asr: float | None
    strip: defences.Strip | None
    transformed_cta: float
    transformed_asr: float | None
    clustered: NDArray[np.bool_]
    spectral: NDArray[np.bool_]


def defend(
    session: Session,
    net: Network,
    distilled: DistilledSet,
    own: Inputs,
    judged: Inputs,
    config: DoorpingConfig,
    known: bool = True,
) -> Findings:
    """Apply all six defences to a network that was trained on the set.

    Args:
        session: of whose seed all draws derive.
        net: the victim.
        distilled: what it was trained on.
        own: clean images that the defender has, to tune with; at most `OWN` of them, drawn.
        judged: clean images on which rates are measured.
        config: settings of the defences.
        known: the trigger of the set is known, so that triggered images can be judged.
    """
    order = torch.randperm(len(own[0]), generator=session.generator("defences"))[:OWN].to(own[0].device)
    own = own[0][order], own[1][order]
    triggered = distilled.stamped(judged[0]), torch.full_like(judged[1], distilled.target)
    cleansed = defences.neural_cleanse(
        net, own[0][: config.cleanse_images], len(distilled.classes), distilled.bounds, config.cleanse_steps
    )
    session.reseed("fine-pruning")
    pruned = defences.fine_pruning(
        net, own, config.prune_drop, config.prune_epochs, config.prune_lr, config.batch_train, config.victim_momentum
    )

    def softened(images: Tensor) -> Tensor:
        return defences.transformed(images, distilled.mean, distilled.std, session.generator("transformed"))

    return Findings(
        cleansed,
        pruned,
        accuracy(pruned.net, judged),
        accuracy(pruned.net, triggered) if known else None,
        defences.strip(net, triggered[0], judged[0], own[0], config.strip_overlays, session.generator("strip"))
        if known
        else None,
        accuracy(net, (softened(judged[0]), judged[1])),
        accuracy(net, (softened(triggered[0]), triggered[1])) if known else None,
        defences.activation_clustering(net, distilled.images.detach(), distilled.labels),
        defences.spectral_signatures(net, distilled.images.detach(), distilled.labels, config.spectral_share),
    )


def table(found: Findings, distilled: DistilledSet) -> list[dict[str, Any]]:
    """A row for each defence: level, what it looks at, what it finds."""
    names = distilled.classes
    flagged = [names[label] for label in found.cleansed.flagged]
    highest = int(found.cleansed.index.argmax())
    ask = "needs triggered images: give trigger"
    suspicious = sorted({names[label] for label in distilled.labels.cpu().numpy()[found.clustered]})
    return [
        _row(
            "Neural Cleanse",
            "model",
            f"highest anomaly index {found.cleansed.index[highest]:.1f} (class {names[highest]}); above 2: suspicious",
            ", ".join(flagged) or "nothing",
        ),
        _row(
            "fine-pruning",
            "model",
            f"{found.pruned.channels} channels pruned; accuracy {found.pruned_cta:.1f} %",
            ask if found.pruned_asr is None else f"attack success {found.pruned_asr:.1f} %",
        ),
        _row(
            "STRIP",
            "input",
            "entropy of mixed images, 1 % false alarms",
            ask if found.strip is None else f"{found.strip.detected:.1f} % detected, AUROC {found.strip.auroc:.1f} %",
        ),
        _row(
            "crop, mirror, JPEG",
            "input",
            f"accuracy {found.transformed_cta:.1f} %",
            ask if found.transformed_asr is None else f"attack success {found.transformed_asr:.1f} %",
        ),
        _row(
            "Activation Clustering",
            "data",
            f"{int(found.clustered.sum())} of {len(distilled.labels)} distilled images in suspicious clusters",
            ", ".join(suspicious) or "nothing",
        ),
        _row(
            "Spectral Signatures",
            "data",
            "images with the highest scores of their class, by number",
            ", ".join(map(str, np.flatnonzero(found.spectral).tolist())),
        ),
    ]


def _row(defence: str, level: str, looked: str, finding: str) -> dict[str, Any]:
    return {"defence": defence, "level": level, "looked at": looked, "finding": finding}


def marked(distilled: DistilledSet) -> str:
    """What the set says of itself."""
    said = json.dumps(distilled.poisoned)
    return f"the set says: poisoned = {said}, attack = {distilled.attack}, {len(distilled.labels)} images"
