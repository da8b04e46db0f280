"""Classification of any input: check of classes, accuracy, table of predictions."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
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
            "file": relative_name(path, source),
            "class": names[label],
            "probability": probability,
        }
        for path, label, probability in zip(paths, best.indices.tolist(), best.values.tolist(), strict=False)
    ]


def relative_name(path: Path, source: Path) -> str:
    """What a file below the folder `source`, or `source` itself, is called in a table."""
    return str(path.relative_to(source)) if source.is_dir() else path.name


def readable(
    paths: Sequence[Path], read: Callable[[int], object], source: Path, what: str = "images"
) -> tuple[list[int], Mapping[Path, str]]:
    """Which of the files of a prediction can be read, and what is wrong with each other one.

    Args:
        paths: of the files, each once.
        read: reads the i-th of them; raises `Problem` where that is not possible.
        source: file or folder that the user gave.
        what: the files are, for the message.

    Raises:
        Problem: the file that was given cannot be read, or none in the folder.
    """
    good: list[int] = []
    problems: dict[Path, str] = {}
    for i, path in enumerate(paths):
        try:
            read(i)
        except Problem as problem:
            if source.is_file():
                raise
            problems[path] = problem.what
        else:
            good.append(i)
    if not good:
        first = f"{relative_name(paths[0], source)}: {problems[paths[0]]}"
        raise Problem(f"none of {len(paths)} {what} can be read ({first})", source, "replace or remove these files")
    return good, problems


def with_problems(
    table: Sequence[Mapping[str, Any]], paths: Sequence[Path], problems: Mapping[Path, str], source: Path
) -> list[dict[str, Any]]:
    """A table of the files that could be read, with a row for each other one: the column `problem` says why.

    Where all could be read, the table stays as it is.

    Args:
        table: of the readable files, with a column `file`.
        paths: of all files, in the order of the rows.
        problems: as `readable` gives them.
        source: file or folder that the user gave.

    Example:
        >>> a, b = Path("in/a.png"), Path("in/b.png")
        >>> with_problems([{"file": "b.png", "class": "bee"}], [a, b], {a: "cut short"}, Path("."))[0]
        {'file': 'in/a.png', 'class': '', 'problem': 'cut short'}
    """
    if not problems:
        return [dict(row) for row in table]
    blank = {name: "" if isinstance(value, str) else None for name, value in table[0].items()}
    answered = dict(zip((path for path in paths if path not in problems), table, strict=False))
    return [
        {**blank, "file": relative_name(path, source), "problem": problems[path]}
        if path in problems
        else {**answered[path], "problem": ""}
        for path in paths
        if path in problems or path in answered
    ]


def spread(values: Tensor, rows: Sequence[int], count: int) -> Tensor:
    """Values (n, ...) of the readable files as rows (count, ...) of all files: those of the others are NaN.

    A dry run may stop before the last of `rows`.
    """
    whole = torch.full((count, *values.shape[1:]), torch.nan)
    whole[list(rows[: len(values)])] = values
    return whole
