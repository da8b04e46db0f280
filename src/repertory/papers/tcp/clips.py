"""Clips of T frames: which frames of a video, which part of them, as tensors.

Frames are numbered from 0. The samplers and the crops are those of TSN's toolbox, which the authors' code builds on.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms.v2 import functional as T

from repertory.data.videos import VideoSet

SCALES = (1.0, 0.875, 0.75, 0.66)
"""Sides of a training crop, as shares of the shorter side of a frame."""
SNAP = 3
"""A side this close to the network's input is cut to it, in pixels."""
WINDOW = 64
"""Frames that a dense clip spans."""
VIEWS = 10
"""Clips of a video in the test with many views."""

Sampler = Callable[[int], list[list[int]]]
"""Number of frames of a video -> the frames of each clip."""
Transform = Callable[[Tensor], Tensor]
"""Frames (T, 3, H, W) uint8 -> (V, T, 3, S, S) float, V crops of them."""


# -- which frames -------------------------------------------------------------------------------


def training_frames(count: int, frames: int) -> list[list[int]]:
    """One random frame of each of T segments; all are frame 0 where the video has fewer than T.

    Draws from Python's global generator.
    """
    segment = count // frames
    if not segment:
        return [[0] * frames]
    return [[i * segment + random.randrange(segment) for i in range(frames)]]


def central_frames(count: int, frames: int) -> list[list[int]]:
    """The middle frame of each of T segments; all are frame 0 where the video has no more than T.

    Example:
        >>> central_frames(20, 4)
        [[2, 7, 12, 17]]
    """
    if count <= frames:
        return [[0] * frames]
    tick = count / frames
    return [[int(tick / 2 + tick * i) for i in range(frames)]]


def ten_clips(count: int, frames: int) -> list[list[int]]:
    """Ten clips, each a tenth of a segment later than the one before.

    Example:
        >>> ten_clips(20, 4)[0], ten_clips(20, 4)[5]
        ([0, 5, 10, 15], [2, 7, 12, 17])
    """
    tick = count / frames
    return [[int(tick * j / VIEWS + tick * i) for i in range(frames)] for j in range(VIEWS)]


def dense_frames(count: int, frames: int, starts: Sequence[int]) -> list[list[int]]:
    """Clips of a window of 64 frames, 64 // T frames apart, from each start; a short video is repeated.

    Example:
        >>> dense_frames(100, 8, [10])
        [[10, 18, 26, 34, 42, 50, 58, 66]]
    """
    step = max(1, WINDOW // frames)
    return [[(start + i * step) % count for i in range(frames)] for start in starts]


def sampler(frames: int, *, dense: bool = False, training: bool = False, clips: int = 1) -> Sampler:
    """The frames of clips, by protocol.

    Args:
        frames: T.
        dense: windows of 64 frames, in place of segments of the whole video.
        training: one random clip.
        clips: of a video in a test, 1 or 10.
    """
    if not dense:
        choose = training_frames if training else central_frames if clips == 1 else ten_clips
        return lambda count: choose(count, frames)

    def windows(count: int) -> list[list[int]]:
        last = max(0, count - WINDOW)
        if training:
            starts = [random.randint(0, last)]
        else:
            starts = [last // 2] if clips == 1 else np.linspace(0, last, clips, dtype=int).tolist()
        return dense_frames(count, frames, starts)

    return windows


# -- which part of them -------------------------------------------------------------------------


def multi_scale_crop(frames: Tensor, size: int) -> Tensor:
    """A random crop at one of 13 places, its sides at one of four scales, the same for all frames: (T, 3, S, S).

    Scales of height and width differ by one step at most. Draws from Python's global generator.
    """
    height, width = frames.shape[-2:]
    base = min(height, width)
    sides = [size if abs(int(base * s) - size) < SNAP else int(base * s) for s in SCALES]
    pairs = [(h, w) for i, h in enumerate(sides) for j, w in enumerate(sides) if abs(i - j) <= 1]
    h, w = (min(side, most) for side, most in zip(random.choice(pairs), (height, width), strict=True))
    top, left = random.choice(offsets(height, width, h, w))
    return T.resized_crop(frames, top, left, h, w, [size, size], antialias=True)


def offsets(height: int, width: int, h: int, w: int) -> list[tuple[int, int]]:
    """The 13 places (top, left) of a crop of h x w: corners, centre, middles of the sides, and quarter points.

    Example:
        >>> len(set(offsets(100, 100, 60, 60)))
        13
    """
    y, x = (height - h) // 4, (width - w) // 4
    corners = [(0, 0), (0, 4), (4, 0), (4, 4), (2, 2)]
    further = [(2, 0), (2, 4), (4, 2), (0, 2), (1, 1), (1, 3), (3, 1), (3, 3)]
    return [(row * y, column * x) for row, column in corners + further]


class TrainingViews:
    """Random crop and mirroring, the same for all frames of a clip.

    Args:
        size: S.
        crop: at random (`multi_scale_crop`); else the central one.
        flip: probability of mirroring.
        mean: of each channel, for values from 0 to 1.
        std: likewise.
    """

    def __init__(self, size: int, crop: bool, flip: float, mean: Sequence[float], std: Sequence[float]) -> None:
        self.size, self.crop, self.flip, self.mean, self.std = size, crop, flip, list(mean), list(std)

    def __call__(self, frames: Tensor) -> Tensor:
        cut = multi_scale_crop(frames, self.size) if self.crop else central_crop(frames, self.size, self.size)
        cut = cut.flip(-1) if self.flip and random.random() < self.flip else cut
        return T.normalize(cut / 255, self.mean, self.std)[None]


class EvaluationViews:
    """The central crop, or three crops along the longer side.

    Args:
        size: S.
        short: length that the shorter side is resized to.
        crops: 1 or 3; three are as large as the shorter side.
        mean: of each channel, for values from 0 to 1.
        std: likewise.
    """

    def __init__(self, size: int, short: int, crops: int, mean: Sequence[float], std: Sequence[float]) -> None:
        self.size, self.short, self.crops, self.mean, self.std = size, short, crops, list(mean), list(std)

    def __call__(self, frames: Tensor) -> Tensor:
        return torch.stack([T.normalize(cut / 255, self.mean, self.std) for cut in self.cut(frames)])

    def cut(self, frames: Tensor) -> list[Tensor]:
        """The crops, (T, 3, S, S) uint8 each."""
        if self.crops == 1:
            return [central_crop(frames, self.size, self.short)]
        resized = T.resize(frames, [self.short], antialias=True)
        height, width = resized.shape[-2:]
        bottom, right = height - self.short, width - self.short
        places = [(0, 0), (bottom // 2, right // 2), (bottom, right)]
        return [T.crop(resized, top, left, self.short, self.short) for top, left in places]


def central_crop(frames: Tensor, size: int, short: int) -> Tensor:
    """Resize the shorter side to `short`, cut the central square of `size`."""
    resized = frames if min(frames.shape[-2:]) == short else T.resize(frames, [short], antialias=True)
    return T.center_crop(resized, [size, size])


class Clips(Dataset[tuple[Tensor, int]]):
    """Clips of labelled videos: `self[i]` is (clips, label).

    Args:
        data: the videos.
        choose: the frames of the clips of a video.
        transform: crops of them, as tensors.
        views: give all clips and crops, (V, T, 3, S, S); else the only one, (T, 3, S, S).
    """

    def __init__(self, data: VideoSet, choose: Sampler, transform: Transform, views: bool = False) -> None:
        self.data, self.choose, self.transform, self.views = data, choose, transform, views

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        clips = self.clips(index)
        return clips if self.views else clips[0], self.data.labels[index]

    def clips(self, index: int) -> Tensor:
        """All clips and crops of a video, (V, T, 3, S, S)."""
        chosen = self.choose(self.data.videos[index].count)
        every = sorted({number for clip in chosen for number in clip})
        frames = torch.from_numpy(np.ascontiguousarray(self.data.videos[index].frames(every))).permute(0, 3, 1, 2)
        place = {number: position for position, number in enumerate(every)}
        return torch.cat([self.transform(frames[[place[number] for number in clip]]) for clip in chosen])
