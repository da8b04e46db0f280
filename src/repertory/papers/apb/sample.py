"""A small MNIST-DVS: handwritten digits that move slowly in front of a simulated DVS128."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy.ndimage import zoom
from sklearn.datasets import load_digits

from repertory.data.dvs import moving, simulate, sinusoid
from repertory.data.events import DVS128, write_aedat
from repertory.papers.apb.stcf import with_noise

MAGNIFICATION = 4
AMPLITUDE, PERIOD = 3.0, 2_000_000.0
"""Of the path, in pixels and microseconds."""
MAX_OFFSET = 2
"""Largest distance of a digit from the centre, in pixels."""
TIMES = np.arange(0, 1_000_001, 10_000.0)
"""Of the frames, in microseconds."""


def write_moving_digits(folder: Path, train: int = 30, test: int = 20) -> None:
    """scikit-learn's digits in MNIST-DVS's layout and format: train|test/grabbed_data<d>/scale16/*.aedat.

    Args:
        folder: an empty folder.
        train: training recordings per digit.
        test: held-out recordings per digit, from the last scans: those have other writers.
    """
    scans, labels = map(np.asarray, load_digits(return_X_y=True))
    scans = np.asarray(zoom(scans.reshape(-1, 8, 8) / 16, (1, MAGNIFICATION, MAGNIFICATION), order=1))
    for digit in range(10):
        of_digit = scans[labels == digit]
        rng = np.random.default_rng([0, digit])
        for part, chosen in (("train", of_digit[:train]), ("test", of_digit[-test:])):
            target = folder / part / f"grabbed_data{digit}" / "scale16"
            target.mkdir(parents=True)
            for number, events in enumerate(_recordings(chosen, rng), start=1):
                write_aedat(target / f"mnist_{digit}_scale16_{number:04d}.aedat", events)


def _recordings(scans: np.ndarray, rng: np.random.Generator) -> list[np.ndarray]:
    """Streams (N,) of a DVS128. Only the window in which a digit moves is simulated; the rest gets noise only."""
    window = np.pad(scans, ((0, 0), *[(1, int(AMPLITUDE) + 1)] * 2))
    streams = simulate(moving(window, sinusoid(TIMES, AMPLITUDE, PERIOD)), TIMES, rng, noise=0)
    for events in streams:
        for axis, side, extent in (("x", DVS128[1], window.shape[2]), ("y", DVS128[0], window.shape[1])):
            events[axis] += (side - extent) // 2 + rng.integers(-MAX_OFFSET, MAX_OFFSET + 1)
    return [with_noise(events, 0.02, DVS128, rng) for events in streams]
