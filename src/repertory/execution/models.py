"""Model directories in use: evaluate, predict."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import nn

from repertory import catalog
from repertory.core import checkpoint
from repertory.core.problem import Damaged, Problem
from repertory.core.settings import changed, saved_config
from repertory.core.study import Prediction, Session, Study
from repertory.execution.executors import progress_display
from repertory.execution.hardware import Hardware
from repertory.execution.onnx import NAME, Exported, Runtime, export
from repertory.execution.trials import adapt_and_evaluate, threads


@contextlib.contextmanager
def open_model(
    model_dir: Path,
    data: Path | None,
    out: Path,
    console: Console | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Iterator[tuple[Study, nn.Module]]:
    """The study and the model of a model directory, ready for `evaluate` or `predict`.

    Raises:
        Problem: not a model directory, or one of an unknown paper.
    """
    origin = checkpoint.about(model_dir)
    paper = str(origin.get("paper", ""))
    study = catalog.load(paper)
    package = catalog.packages()[paper]
    seed = origin.get("seed", 0)
    if not isinstance(seed, int) or seed < 0:
        raise Damaged(f"{checkpoint.ABOUT} is damaged: seed is {seed!r}", model_dir, "restore it, or train it anew")
    config = changed(study, saved_config(study, origin.get("config", {}), model_dir), settings)
    fabric = Hardware().fabric()
    with progress_display(console) as display, torch.no_grad(), threads(config.threads):
        session = Session(
            seed,
            out,
            data,
            fabric=fabric,
            package=package,
            vary=config.vary,
            first_seed=config.first_seed,
            display=display,
            keep_seconds=math.inf,  # `out` belongs to no trial: another model must not resume from here
        )
        session.reseed("evaluate")
        yield study(config, session), fabric.to_device(checkpoint.load(model_dir, package))


def evaluate(model_dir: Path, data: Path | None, out: Path, console: Console | None = None) -> dict[str, float]:
    """Metrics of a saved model on the held-out part of `data`."""
    with open_model(model_dir, data, out, console) as (study, model):
        try:
            return adapt_and_evaluate(study, model, study.data())
        finally:
            study.session.finish()


def predict(
    model_dir: Path,
    source: Path,
    out: Path,
    console: Console | None = None,
    settings: Mapping[str, Any] | None = None,
    *,
    through_onnx: bool = False,
) -> Prediction:
    """What a saved model says about the user's own input; `settings` change fields of its configuration.

    Args:
        model_dir: the model.
        source: file or folder; words where the paper takes them.
        out: for files of the prediction.
        console: for progress.
        settings: fields of its configuration to change.
        through_onnx: its forward pass is that of model.onnx, by ONNX Runtime.

    Raises:
        Problem: not a model directory, no such input, or no model.onnx.
    """
    with open_model(model_dir, None, out, console, settings) as (study, model):
        if through_onnx:
            study.runtime = Runtime(model_dir / NAME)
        if not source.exists() and not study.takes_text:
            raise Problem("no such file or folder", source, "give the path of the input to predict")
        return study.predict(model, source)


def export_onnx(model_dir: Path, out: Path | None, scratch: Path) -> Exported:
    """Write a saved model as ONNX, by default into its directory.

    Raises:
        Problem: not a model directory, the paper has no export, or see `repertory.execution.onnx.export`.
    """
    with open_model(model_dir, None, scratch) as (study, model):
        return export(model.cpu(), study.example(model), out or model_dir / NAME)
