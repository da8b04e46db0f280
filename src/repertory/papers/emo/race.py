"""EMO-1M against timm's EdgeNeXt-XXS on the CPU, in a process of its own.

    python -m repertory.papers.emo.race times.json ROUNDS THREADS

Both networks free maps of several MB in every layer. Whether glibc's malloc hands them back to the system, to take them
again page by page in the next layer, depends on what the process did before; that alone moves the ratio of the two from
0.67 to 1.2. In a process of its own, `race` makes malloc keep what is freed from the start.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import timm
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from repertory.core.files import read_json, write_json
from repertory.core.study import Session
from repertory.core.timing import race
from repertory.papers.emo.model import EMO, VARIANTS

IMAGES = 8
"""Of a round: one by one, or as one batch."""
BATCHES = (1, IMAGES)
SIZES = {"emo_1m": 224, "emo_1m_fused": 224, "edgenext_xx_small": 224, "edgenext_xx_small_256": 256}
"""Contestants and their pixels. The published figures have EdgeNeXt at 256."""


def race_apart(session: Session, rounds: int) -> dict[str, NDArray[np.float64]]:
    """Run the race in a new process, on as many threads as this one has.

    Returns:
        "NETWORK_batch_N" -> seconds for `IMAGES` images in each round.

    Raises:
        CalledProcessError: the process failed; its messages are on stderr.
    """
    if session.dry_run:
        rounds = 1
    output = session.out_dir / "race.json"
    command = [sys.executable, "-P", "-m", __name__, str(output), str(rounds), str(torch.get_num_threads())]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            for _ in session.progress(process.stdout, "race", total=1 + rounds):
                pass
        except BaseException:
            process.kill()
            raise
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return {name: np.array(seconds) for name, seconds in read_json(output, "measure again").items()}


def contestants() -> dict[str, Callable[[], object]]:
    """Every network at every batch size."""
    torch.manual_seed(0)
    models = {
        "emo_1m": EMO(**VARIANTS["emo_1m"]),
        "emo_1m_fused": EMO(**VARIANTS["emo_1m"]).eval().fuse(),
        "edgenext_xx_small": timm.create_model("edgenext_xx_small"),
        "edgenext_xx_small_256": timm.create_model("edgenext_xx_small"),
    }
    images = {name: torch.randn(IMAGES, 3, size, size) for name, size in SIZES.items()}
    return {
        f"{name}_batch_{batch}": partial(_classify, model.eval(), images[name].split(batch))
        for batch in BATCHES
        for name, model in models.items()
    }


def _classify(model: nn.Module, batches: tuple[Tensor, ...]) -> None:
    for x in batches:
        model(x)


def _told(rounds: int) -> Iterator[int]:
    for number in range(rounds):
        print(number, flush=True)
        yield number


def main() -> None:
    output, rounds, threads = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    torch.set_num_threads(threads)
    with torch.inference_mode():
        times = race(contestants(), _told(1 + rounds))
    write_json(output, {name: seconds.tolist() for name, seconds in times.items()})


if __name__ == "__main__":
    main()
