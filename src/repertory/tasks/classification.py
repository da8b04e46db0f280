"""Classification of any input: check of classes, accuracy, table of predictions."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from repertory.core.problem import Problem
from repertory.core.study import Session


def check_classes(names: Collection[str], where: object, what: str) -> None:
    """Require two classes or more.

    Args:
        names: of the classes in the training data.
        where: the data, for the message.
        what: samples, for the message: images, streams.

    Raises:
        Problem: fewer.
    """
    if len(names) < 2:
        raise Problem(f"one class only: {', '.join(names)}", where, f"give {what} of two classes or more")


def top_k_accuracy(
    scored: Iterable[tuple[Tensor, Tensor]], classes: int, device: torch.device, top: Sequence[int] = (1,)
) -> list[float]:
    """Top-k accuracy in per cent for each k of `top`, over all processes.

    Args:
        scored: batches of logits (B, K) and labels (B,) on `device`; consumed in inference mode.
        classes: K; a larger k counts as K.
        device: of the batches.
        top: values of k.

    Example:
        >>> logits, labels = torch.eye(3), torch.tensor([0, 1, 0])
        >>> [round(value, 1) for value in top_k_accuracy([(logits, labels)], 3, torch.device("cpu"), top=(1, 3))]
        [66.7, 100.0]
    """
    from torchmetrics.classification import MulticlassAccuracy  # slow to import, and training needs it late

    metrics = [MulticlassAccuracy(classes, top_k=min(k, classes), average="micro").to(device) for k in top]
    with torch.inference_mode():
        for logits, labels in scored:
            for metric in metrics:
                metric.update(logits, labels)
    return [100 * float(metric.compute()) for metric in metrics]


def kept(
    session: Session, scored: Iterable[tuple[Tensor, Tensor]], name: str = "", *, sharded: bool = False
) -> Iterator[tuple[Tensor, Tensor]]:
    """Pass on batches of logits (B, K) and labels (B,), and keep what came out for each example at the end.

    outputs.npz of the trial gets `label` (N,), `prediction` (N,) and `probability` (N, K); see `class_outputs`.

    Args:
        session: of the trial.
        scored: batches of the test part, in its order.
        name: of the test part, where there are several: arrays are called label_NAME, ...
        sharded: as in `Session.keep_outputs`.
    """
    parts = []
    for logits, labels in scored:
        parts.append((logits.detach().cpu(), labels.cpu()))
        yield logits, labels
    if parts:
        logits, labels = (torch.cat(part) for part in zip(*parts, strict=True))
        session.keep_outputs(class_outputs(logits, labels), name, sharded=sharded)


def class_outputs(logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """What `Session.keep_outputs` stores of a classification: label, prediction and probabilities of each example.

    Args:
        logits: (N, K).
        labels: (N,).

    Example:
        >>> class_outputs(torch.tensor([[0.0, 9.0]]), torch.tensor([1]))["prediction"]
        tensor([1])
    """
    return {"label": labels, "prediction": logits.argmax(1), "probability": logits.softmax(1)}


def prediction_table(
    paths: Sequence[Path], source: Path, names: Sequence[str], probabilities: Tensor
) -> list[dict[str, Any]]:
    """One row per file: file, class, probability.

    Args:
        paths: of the samples.
        source: file or folder that the user gave; files are named relative to the folder.
        names: of the K classes.
        probabilities: (N, K) of the first N samples; a dry run stops before the last.
    """
    best = probabilities.max(1)
    return [
        {
            "file": path.name if source.is_file() else str(path.relative_to(source)),
            "class": names[label],
            "probability": probability,
        }
        for path, label, probability in zip(paths, best.indices.tolist(), best.values.tolist(), strict=False)
    ]
