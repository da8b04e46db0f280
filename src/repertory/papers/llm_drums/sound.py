"""A drum synthesiser of sines and filtered noise: enough to hear a groove, and no more. No samples are needed."""

from __future__ import annotations

import io
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.io import wavfile
from scipy.signal import butter, sosfilt

from repertory.core.files import write_bytes
from repertory.data.drums import COLUMNS, DEFAULT_TEMPO, Grid

RATE = 22_050
"""Samples a second."""
Sound = NDArray[np.float32]


@lru_cache(maxsize=1)
def kit() -> tuple[Sound, ...]:
    """The sound of each column, at full level."""
    sounds = {
        "crash": 0.5 * _noise(1.6, 0.45, 3000),
        "ride": 0.25 * _noise(0.7, 0.2, 6000) + 0.15 * _tone(0.7, 0.25, 5200, 5200),
        "snare": 0.6 * _noise(0.25, 0.06, 1200) + 0.5 * _tone(0.25, 0.05, 220, 180),
        "kick": _tone(0.4, 0.1, 150, 48),
        "hi-hat": 0.3 * _noise(0.12, 0.025, 7000),
        "toms": 0.8 * _tone(0.5, 0.15, 190, 105),
    }
    return tuple(sounds[column].astype(np.float32) for column in COLUMNS)


def _tone(seconds: float, decay: float, first: float, last: float) -> NDArray[np.float64]:
    """A sine that glides between two frequencies, in Hz, and fades."""
    time = np.arange(int(seconds * RATE)) / RATE
    frequency = last + (first - last) * np.exp(-time / 0.04)
    return np.sin(2 * np.pi * np.cumsum(frequency) / RATE) * np.exp(-time / decay)


def _noise(seconds: float, decay: float, above: float) -> NDArray[np.float64]:
    """Noise above a frequency, in Hz, that fades."""
    time = np.arange(int(seconds * RATE)) / RATE
    noise = np.random.default_rng(0).standard_normal(len(time))
    high = np.asarray(sosfilt(butter(4, above, "highpass", fs=RATE, output="sos"), noise))
    return high / np.abs(high).max() * np.exp(-time / decay)


def render(grid: Grid, tempo: int = DEFAULT_TEMPO) -> Sound:
    """The sound of a grid.

    Args:
        grid: (rows, 6) bool.
        tempo: microseconds a beat of four rows.

    Returns:
        (samples,), mono, within -1 and 1.
    """
    sounds = kit()
    step = tempo / 4e6 * RATE
    whole = np.zeros(int(len(grid) * step) + max(map(len, sounds)) + 1, dtype=np.float32)
    for row, column in np.argwhere(grid).tolist():
        start = round(row * step)
        whole[start : start + len(sounds[column])] += sounds[column]
    return np.tanh(whole)


def write_wav(path: Path, grid: Grid, tempo: int = DEFAULT_TEMPO) -> None:
    """Write a grid as a WAV file: mono, 16 bits, 22 050 samples a second."""
    buffer = io.BytesIO()
    wavfile.write(buffer, RATE, (render(grid, tempo) * 32_000).astype(np.int16))
    write_bytes(path, buffer.getvalue())
