"""STCF: spatio-temporal cropping and flipping of event streams, and disturbances for robustness tests.

The name comes from the abstract, the operations from the authors' public code for events; strengths and probabilities
are our decision. Random numbers come from torch's global generator.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from repertory.core.problem import Problem
from repertory.data.events import Size, count_frames, make_events


def frames_of(events: np.ndarray, sensor: Size, size: Size, steps: int) -> Tensor:
    """Event counts in T time bins of equal length; if the sensor is larger than `size`, blocks of pixels are summed.

    Args:
        events: (N,), t starts at 0.
        sensor: (height, width) of the sensor.
        size: (height, width) of the frames, at most those of the sensor.
        steps: T.

    Returns:
        (2, H, W, T).
    """
    if size != sensor:
        height, width = (min(pair) for pair in zip(sensor, size, strict=True))
        x, y = events["x"] * width // sensor[1], events["y"] * height // sensor[0]
        events = make_events(x, y, events["t"], events["p"])
    return torch.from_numpy(count_frames(events, size, steps))


# -- augmentation -------------------------------------------------------------------------------


@dataclass(frozen=True)
class STCF:
    """Events (N,) -> frames (2, H, W, T), randomly cropped and flipped in time and space. For training only.

    Args:
        least: smallest share of the recording that a temporal crop keeps; 1: no temporal crop.
        pad: zero padding before a spatial crop, in pixels of the frame; None: a twelfth of its height, rounded.
        hflip: mirror left and right with probability 1/2. Not for digits.
        transpose: exchange rows and columns with probability 1/2.
        tflip: reverse time with probability 1/2.
        swap_polarity: exchange polarities when time is reversed; the authors' code keeps them.

    Example:
        >>> events = make_events([10, 60, 100], [5, 6, 7], [0, 500, 900], [1, 0, 1])
        >>> STCF(hflip=False)(events, sensor=(128, 128), size=(48, 48), steps=4).shape
        torch.Size([2, 48, 48, 4])
    """

    least: float = 0.7
    pad: int | None = None
    hflip: bool = True
    transpose: bool = False
    tflip: bool = True
    swap_polarity: bool = False

    def __call__(self, events: np.ndarray, sensor: Size, size: Size, steps: int) -> Tensor:
        """Augment one recording; arguments as in `frames_of`.

        Raises:
            Problem: `transpose` of frames that are not square.
        """
        if self.transpose and size[0] != size[1]:
            raise Problem(f"frames of {size[0]} x {size[1]} cannot be transposed", "transpose", "turn it off")
        if self.least < 1:
            share, place = torch.rand(2).tolist()
            events = temporal_crop(events, self.least + (1 - self.least) * share, place)
        frames = frames_of(events, sensor, size, steps)
        pad = round(size[0] / 12) if self.pad is None else self.pad
        if pad:
            top, left = torch.randint(2 * pad + 1, (2,)).tolist()
            frames = spatial_crop(frames, pad, top, left)
        mirrored, transposed, reversed_ = (torch.rand(3) < 0.5).tolist()
        if self.hflip and mirrored:
            frames = frames.flip(2)
        if self.transpose and transposed:
            frames = frames.transpose(1, 2)
        if self.tflip and reversed_:
            frames = temporal_flip(frames, self.swap_polarity)
        return frames


def temporal_crop(events: np.ndarray, share: float, place: float) -> np.ndarray:
    """Events inside a time window, t relative to its start; all events if the window is empty.

    Args:
        events: (N,), t starts at 0.
        share: length of the window as a share of the duration, 0 to 1.
        place: position of the window, from 0 (start) to 1 (end).

    Example:
        >>> temporal_crop(make_events(0, 0, [0, 40, 80, 100], 1), share=0.5, place=1.0)["t"]
        array([30, 50])
    """
    duration = int(events["t"].max(initial=0))
    length = share * duration
    start = round(place * (duration - length))
    inside = events[(events["t"] >= start) & (events["t"] <= start + length)]
    if not len(inside):
        return events
    inside["t"] -= start
    return inside


def spatial_crop(frames: Tensor, pad: int, top: int, left: int) -> Tensor:
    """Zero-pad frames (C, H, W, T) by `pad`, then crop (H, W) at (top, left)."""
    height, width = frames.shape[1:3]
    return F.pad(frames, (0, 0, pad, pad, pad, pad))[:, top : top + height, left : left + width]


def temporal_flip(frames: Tensor, swap_polarity: bool = False) -> Tensor:
    """Frames (2, H, W, T) with the time bins in reverse order."""
    return frames.flip((0, 3) if swap_polarity else 3)


# -- disturbances -------------------------------------------------------------------------------


def with_noise(events: np.ndarray, share: float, sensor: Size, rng: np.random.Generator) -> np.ndarray:
    """Add share * N events, uniform over sensor, duration and polarity; none to an empty stream."""
    count = round(share * len(events))
    x, y = rng.integers(sensor[1], size=count), rng.integers(sensor[0], size=count)
    t = rng.integers(int(events["t"].max(initial=0)) + 1, size=count)
    noisy = np.concatenate([events, make_events(x, y, t, rng.integers(2, size=count))])
    return noisy[np.argsort(noisy["t"], kind="stable")]


def with_drops(events: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """Delete a random share of the events; at least one remains, if there is one."""
    kept = max(1, round((1 - share) * len(events)))
    return events[np.sort(rng.permutation(len(events))[:kept])]
