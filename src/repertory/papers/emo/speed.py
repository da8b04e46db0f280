"""Racing models against one another on the machine at hand."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping

import numpy as np
import torch
from torch import Tensor, nn


def race(models: Mapping[str, nn.Module], x: Tensor, rounds: Iterable[int]) -> dict[str, np.ndarray]:
    """Seconds of a forward pass of each model in each round; the models take turns.

    A machine's pace changes with what else it does: only times of the same round go together, see `ratio`.
    The first round warms up and is not counted.
    """
    models = {name: model.eval() for name, model in models.items()}
    times = []
    with torch.inference_mode():
        for _ in rounds:
            times.append([_seconds(lambda model=model: model(x)) for model in models.values()])
    return dict(zip(models, np.array(times)[1:].T, strict=True))


def ratio(times: Mapping[str, np.ndarray], model: str, peer: str) -> float:
    """How many times faster `model` is than `peer`: the median over rounds."""
    return float(np.median(times[peer] / times[model]))


def _seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start
