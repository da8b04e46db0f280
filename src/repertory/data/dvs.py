"""What an event camera sees of moving pictures: a simulator, paths, courses of brightness, and a sample of digits.

A pixel fires when the logarithm of its intensity has moved by a threshold since its last event. The simulator knows
nothing of the methods that are tested on what it makes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
from scipy.ndimage import zoom

from repertory.core.problem import Problem
from repertory.data.events import NMNIST, make_events, pick, write_atis

BATCH = 100
"""Recordings that are simulated together."""


def simulate(
    frames: Iterable[np.ndarray],
    times: np.ndarray,
    rng: np.random.Generator,
    *,
    gain: np.ndarray | float = 1.0,
    threshold: float = 0.2,
    spread: float = 0.03,
    refractory: float = 1_000,
    noise: float = 0.1,
    most: int = 0,
) -> list[np.ndarray]:
    """The events of B recordings.

    L = log(gain (0.1 + 0.9 I) + 0.001) of each pixel is linear between two frames; whenever it is a threshold away from
    a reference, the pixel fires and the reference moves by a threshold.

    Args:
        frames: F arrays (B, H, W), intensities I from 0 to 1; may be a generator.
        times: (F,) in microseconds, increasing.
        rng: thresholds, noise, and which events are kept under `most`.
        gain: brightness of the light, broadcast to (F, B).
        threshold: mean over pixels, in units of log intensity.
        spread: standard deviation of the threshold, relative.
        refractory: microseconds after an event in which its pixel is silent; the reference moves none the less.
        noise: events without a cause, per second and pixel.
        most: events of a recording, as a bus has limits: the others are lost at random. 0: all are kept.

    Returns:
        B streams, sorted by t, which counts from the first frame.

    Raises:
        Problem: fewer than two frames, or a number of frames other than that of times.

    Example:
        >>> brighter = np.linspace(0, 1, 5)[:, None, None, None] * np.ones((1, 2, 3))
        >>> [events] = simulate(brighter, np.arange(5) * 10_000.0, np.random.default_rng(0), noise=0)
        >>> set(events["p"].tolist()), len(events) > 6 * 5
        ({1}, True)
    """
    since = np.asarray(times, np.float64) - times[0]
    gains: np.ndarray | None = None
    level = reference = limit = fired = np.empty(0, np.float32)
    shape: tuple[int, ...] = ()
    found: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    step = -1
    for step, frame in enumerate(frames):
        if step == len(since):
            break
        if gains is None:
            shape = frame.shape
            gains = np.broadcast_to(np.asarray(gain, np.float32), (len(since), shape[0]))
            limit = (threshold * (1 + spread * rng.standard_normal(shape))).clip(threshold / 10).astype(np.float32)
            fired = np.full(limit.size, -np.inf)
            limit = limit.ravel()
        now = np.log(gains[step][:, None, None] * (0.1 + 0.9 * frame.astype(np.float32)) + 1e-3).ravel()
        if step == 0:
            level, reference = now, now.copy()
            continue
        active = np.flatnonzero(np.abs(now - reference) >= limit)
        start, duration = since[step - 1], since[step] - since[step - 1]
        rising = now[active] > reference[active]
        signed = np.where(rising, limit[active], -limit[active])
        while len(active):
            reference[active] += signed
            slope = now[active] - level[active]
            # A crossing that the refractory period did not hide lies between the two frames.
            share = ((reference[active] - level[active]) / np.where(slope == 0, 1, slope)).clip(0, 1)
            at = start + duration * share
            free = at - fired[active] >= refractory
            fired[active[free]] = at[free]
            found.append((active[free], at[free], rising[free]))
            more = np.abs(now[active] - reference[active]) >= np.abs(signed)
            active, rising, signed = active[more], rising[more], signed[more]
        level = now
    if step + 1 != len(since) or step < 1:
        raise Problem(f"{step + 1} frames for {len(since)} times", "simulate", "give two or more, as many of each")
    return _streams(found, shape, since[-1], rng, noise, most)


def _streams(
    found: list[tuple[np.ndarray, np.ndarray, np.ndarray]],
    shape: tuple[int, ...],
    duration: float,
    rng: np.random.Generator,
    noise: float,
    most: int,
) -> list[np.ndarray]:
    """Sort pixels (of all recordings), times and polarities into streams; add the noise."""
    count = rng.poisson(noise * duration / 1e6 * np.prod(shape))
    found.append((rng.integers(np.prod(shape), size=count), rng.uniform(0, duration, count), rng.random(count) < 0.5))
    cell, t, p = (np.concatenate(parts) for parts in zip(*found, strict=True))
    recording, y, x = np.unravel_index(cell, shape)
    events = make_events(x, y, t, p)
    order = np.lexsort((events["t"], recording))
    streams = np.split(pick(events, order), np.searchsorted(recording[order], np.arange(1, shape[0])))
    if not most:
        return streams
    kept = (np.sort(rng.permutation(len(stream))[:most]) for stream in streams)
    return [stream[rows] for stream, rows in zip(streams, kept, strict=True)]


# -- what moves, and how ------------------------------------------------------------------------


def saccades(times: np.ndarray, reach: float, each: float = 100_000) -> np.ndarray:
    """Three straight moves that end where they began: the corners of a triangle, as for N-MNIST.

    Args:
        times: (F,) in microseconds.
        reach: height and width of the triangle, in pixels.
        each: duration of a move, in microseconds.

    Returns:
        (F, 2): dy, dx in pixels, 0 to `reach`.
    """
    corners = reach * np.array([[0, 0], [1, 0.5], [0, 1], [0, 0]])
    leg = np.asarray(times) / each
    return np.stack([np.interp(leg, np.arange(4), corners[:, axis]) for axis in (0, 1)], axis=1)


def sinusoid(times: np.ndarray, reach: float, period: float = 1_000_000) -> np.ndarray:
    """A slow closed curve, as for MNIST-DVS: (F, 2) of dy, dx in pixels, 0 to `reach`.

    Args:
        times: (F,) in microseconds.
        reach: largest extent, in pixels.
        period: duration of the vertical swing, in microseconds; the horizontal one lasts half as long.
    """
    phase = 2 * np.pi * np.asarray(times) / period
    return reach * (1 + np.stack([np.sin(phase), np.sin(2 * phase)], axis=1)) / 2


def moving(pictures: np.ndarray, path: np.ndarray) -> Iterator[np.ndarray]:
    """Pictures that move together along a path, between pixels too (bilinear).

    Args:
        pictures: (B, H, W); what leaves the frame is lost, what enters it is black.
        path: (F, 2), dy and dx in pixels, not negative.

    Yields:
        F frames (B, H, W), float32.
    """
    pictures = pictures.astype(np.float32)
    height, width = pictures.shape[1:]
    margin = int(np.ceil(path.max())) + 1
    padded = np.pad(pictures, ((0, 0), (margin, 0), (margin, 0)))
    for dy, dx in path:
        (top, down), (left, right) = (_cut(margin, shift) for shift in (dy, dx))
        rows = (1 - down) * padded[:, top : top + height] + down * padded[:, top - 1 : top - 1 + height]
        yield (1 - right) * rows[:, :, left : left + width] + right * rows[:, :, left - 1 : left - 1 + width]


def _cut(margin: int, shift: float) -> tuple[int, np.float32]:
    whole = int(shift)
    return margin - whole, np.float32(shift - whole)


# -- brightness ---------------------------------------------------------------------------------


def _ramp(a: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return np.exp(rng.choice([-1.2, 1.2]) * a)


def _flicker(a: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return 1 + 0.2 * np.sin(2 * np.pi * 3 * a)


def _dim(a: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return np.where(a < rng.uniform(), 1.0, 0.4)


PROFILES: dict[str, Callable[[np.ndarray, np.random.Generator], np.ndarray]] = {
    "constant": lambda a, rng: np.ones_like(a),
    "ramp": _ramp,
    "flicker": _flicker,
    "dim": _dim,
}
"""Courses of the light: (shares of the recording's duration, 0 to 1; random numbers) -> gain."""


# -- the sample ---------------------------------------------------------------------------------


def write_saccade_digits(folder: Path, train: int = 40, test: int = 30, strength: float = 1.0) -> None:
    """scikit-learn's digits before an event camera that makes three saccades, in N-MNIST's layout and format.

    Written are `Train/<digit>/` and `Test/<digit>/` in constant light, and the test digits in light that changes as
    `Test-ramp/`, `Test-flicker/` and `Test-dim/`.

    Args:
        folder: an empty one.
        train: recordings of each digit for training, at most 120.
        test: recordings of each digit and kind for testing, at most 50: of the last scans, which other people wrote.
        strength: exponent of the changing light's gain; 0 leaves it constant.
    """
    from sklearn.datasets import load_digits  # slow to import

    scans, labels = load_digits(return_X_y=True)
    scans = np.asarray(zoom(scans.reshape(-1, 8, 8) / 16, (1, 2.2, 2.2), order=1))
    of_digits = [np.flatnonzero(labels == digit) for digit in range(10)]
    drawn = {
        "Train": np.concatenate([rows[:train] for rows in of_digits]),
        "Test": np.concatenate([rows[-test:] for rows in of_digits]),
    }
    drawn |= {f"Test-{profile}": drawn["Test"] for profile in PROFILES if profile != "constant"}
    for part, rows in drawn.items():
        profile = part.partition("-")[2] or "constant"
        for digit in range(10):
            (folder / part / str(digit)).mkdir(parents=True)
        for first in range(0, len(rows), BATCH):
            batch = rows[first : first + BATCH]
            streams = _recordings(scans[batch], profile, strength, np.random.default_rng([first, *part.encode()]))
            for row, events in zip(batch, streams, strict=True):
                write_atis(folder / part / str(labels[row]) / f"{row:05d}.bin", events)


def _recordings(scans: np.ndarray, profile: str, strength: float, rng: np.random.Generator) -> list[np.ndarray]:
    height, width = NMNIST
    times = np.arange(0, 300_000, 2_000.0)  # not quite back: there, all pixels that returned would fire at once
    reach = 2.5  # pixels: some 3,000 events in constant light
    pictures = np.zeros((len(scans), height, width), np.float32)
    free = [side - size - int(reach) for side, size in zip(NMNIST, scans.shape[1:], strict=True)]
    for picture, scan in zip(pictures, scans, strict=True):
        top, left = (rng.integers(room + 1) for room in free)
        picture[top : top + scan.shape[0], left : left + scan.shape[1]] = scan
    gain = np.stack([PROFILES[profile](times / times[-1], rng) ** strength for _ in scans], axis=1)
    return simulate(moving(pictures, saccades(times, reach)), times, rng, gain=gain, most=8_000)
