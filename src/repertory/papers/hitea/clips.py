"""From clips and texts to tensors: which frames, their preprocessing, batches."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset
from torchvision.transforms.v2 import functional as transforms

from repertory.data.captions import DECODED, Clip
from repertory.data.videos import Video
from repertory.papers.hitea.model import MEAN, STD, HiTeA
from repertory.papers.hitea.objectives import Texts

T = TypeVar("T")


def sampled_frames(count: int, frames: int, training: bool = False) -> list[int]:
    """One frame of each of T intervals of a video: the middle one, or in training a random one.

    The last frame is repeated where the video has fewer than T. Draws from Python's global generator.

    Example:
        >>> sampled_frames(20, 4), sampled_frames(3, 4)
        ([2, 7, 12, 17], [0, 1, 2, 2])
    """
    n = min(frames, count)
    edges = np.linspace(0, count, n + 1).astype(int).tolist()
    pairs = itertools.pairwise(edges)
    chosen = [random.randrange(a, max(b, a + 1)) if training else (a + b - 1) // 2 for a, b in pairs]
    return chosen + chosen[-1:] * (frames - n)


def preprocessed(frames: np.ndarray, size: int) -> Tensor:
    """Frames (T, H, W, 3) uint8 -> (T, 3, size, size), resized bicubically without keeping the aspect, normalised."""
    x = torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2).float() / 255
    if x.shape[-2:] != (size, size):
        x = F.interpolate(x, (size, size), mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)
    return transforms.normalize(x, list(MEAN), list(STD))


def as_pictures(frames: Tensor) -> np.ndarray:
    """The inverse of `preprocessed`: (T, 3, S, S) -> (T, S, S, 3), 0 to 1."""
    mean, std = torch.tensor(MEAN)[:, None, None], torch.tensor(STD)[:, None, None]
    return (frames.cpu() * std + mean).clamp(0, 1).permute(0, 2, 3, 1).numpy()


def read_clip(video: Video, frames: int, size: int, training: bool = False) -> Tensor:
    """Frames of a video as the network takes them, (T, 3, size, size).

    Raises:
        Problem: the video cannot be read, or has no frames.
    """
    return preprocessed(DECODED.frames(video, sampled_frames(video.count, frames, training)), size)


@dataclass(frozen=True)
class Example:
    """A clip with a caption, and a question with its answer; empty where the clip has none."""

    frames: Tensor
    caption: str = ""
    question: str = ""
    answer: str = ""


class Examples(Dataset[Example]):
    """Clips with one of their captions and one of their questions.

    In training frames, caption, question and answer are drawn at random, answers as often as people gave them; else the
    first ones are taken.
    """

    def __init__(self, clips: Sequence[Clip], frames: int, size: int, training: bool = False) -> None:
        self.clips, self.frames, self.size, self.training = clips, frames, size, training

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> Example:
        clip = self.clips[index]
        frames = read_clip(clip.video, self.frames, self.size, self.training)
        caption = self._one(clip.captions) if clip.captions else ""
        if not clip.questions:
            return Example(frames, caption)
        question = self._one(clip.questions)
        return Example(frames, caption, question.text, self._one(question.answers))

    def _one(self, items: Sequence[T]) -> T:
        return random.choice(items) if self.training else items[0]


@dataclass(frozen=True)
class Batch:
    """Clips (B, T, 3, S, S), and the texts that some of them have."""

    frames: Tensor
    captions: list[str]
    questions: list[str]
    answers: list[str]

    def told(self, model: HiTeA) -> tuple[Tensor, Texts] | None:
        """Rows that have a caption, and the captions."""
        return self._texts(model, self.captions)

    def asked(self, model: HiTeA) -> tuple[Tensor, Texts, Texts] | None:
        """Rows that have a question, the questions and their answers."""
        found = self._texts(model, self.questions)
        return found and (*found, Texts(*model.tokens([answer for answer in self.answers if answer])))

    def _texts(self, model: HiTeA, texts: list[str]) -> tuple[Tensor, Texts] | None:
        rows = [row for row, text in enumerate(texts) if text]
        if not rows:
            return None
        return torch.tensor(rows, device=self.frames.device), Texts(*model.tokens([texts[row] for row in rows]))

    def to(self, device: torch.device) -> Batch:
        """On a device; Fabric calls it."""
        return Batch(self.frames.to(device), self.captions, self.questions, self.answers)


def collate(examples: Sequence[Example]) -> Batch:
    """Examples -> batch."""
    return Batch(
        torch.stack([example.frames for example in examples]),
        [example.caption for example in examples],
        [example.question for example in examples],
        [example.answer for example in examples],
    )
