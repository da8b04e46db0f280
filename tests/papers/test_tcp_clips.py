"""Clips: samplers by their formulas, crops, views."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from repertory.data.videos import FrameFolder, VideoSet
from repertory.papers.tcp.clips import (
    Clips,
    EvaluationViews,
    TrainingViews,
    central_frames,
    dense_frames,
    multi_scale_crop,
    offsets,
    sampler,
    ten_clips,
    training_frames,
)


@pytest.mark.parametrize("count", [1, 7, 8, 9, 20, 300])
def test_training_frames_lie_in_their_segments(count: int) -> None:
    random.seed(0)
    for _ in range(20):
        (clip,) = training_frames(count, 8)
        segment = count // 8
        assert clip == [0] * 8 if not segment else all(i * segment <= n < (i + 1) * segment for i, n in enumerate(clip))
        assert max(clip) < count


def test_central_frames_and_ten_clips() -> None:
    assert central_frames(300, 8) == [[18, 56, 93, 131, 168, 206, 243, 281]]
    assert central_frames(8, 8) == [[0] * 8]
    clips = ten_clips(300, 8)
    assert len(clips) == 10
    assert clips[0] == [0, 37, 75, 112, 150, 187, 225, 262]
    assert clips[3] == [int(37.5 * 3 / 10 + 37.5 * i) for i in range(8)]
    assert max(max(clip) for clip in ten_clips(5, 8)) < 5


def test_dense_clips() -> None:
    choose = sampler(8, dense=True, clips=10)
    clips = choose(100)
    assert [clip[0] for clip in clips] == np.linspace(0, 36, 10, dtype=int).tolist()
    assert all(np.diff(clip).tolist() == [8] * 7 for clip in clips)
    assert sampler(8, dense=True)(100) == dense_frames(100, 8, [18])
    assert sampler(8, dense=True)(10) == [[0, 8, 6, 4, 2, 0, 8, 6]]
    random.seed(1)
    starts = {sampler(8, dense=True, training=True)(66)[0][0] for _ in range(40)}
    assert starts == {0, 1, 2}


def test_crops_are_the_same_for_all_frames_and_of_the_published_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: set[tuple[int, int]] = set()

    def spy(frames: torch.Tensor, top: int, left: int, h: int, w: int, *_: object, **__: object) -> torch.Tensor:
        assert (top, left) in offsets(256, 340, h, w)
        sizes.add((h, w))
        return frames

    monkeypatch.setattr("repertory.papers.tcp.clips.T.resized_crop", spy)
    random.seed(0)
    for _ in range(300):
        multi_scale_crop(torch.zeros(2, 3, 256, 340, dtype=torch.uint8), 224)
    steps = [256, 224, 192, 168]
    assert sizes == {(a, b) for i, a in enumerate(steps) for j, b in enumerate(steps) if abs(i - j) <= 1}
    monkeypatch.undo()
    frame = torch.randint(0, 255, (1, 3, 80, 100), dtype=torch.uint8)
    out = multi_scale_crop(frame.repeat(3, 1, 1, 1), 64)
    assert out.shape == (3, 3, 64, 64)
    assert torch.equal(out[0], out[2])


def test_a_clip_is_mirrored_as_a_whole() -> None:
    frames = torch.arange(3 * 3 * 8 * 8).reshape(3, 3, 8, 8).to(torch.uint8)
    plain, mirrored = (TrainingViews(8, False, flip, [0.0] * 3, [1.0] * 3)(frames) for flip in (0.0, 1.0))
    assert torch.equal(plain[0], frames / 255)
    assert torch.equal(mirrored, plain.flip(-1))


def test_views(tmp_path: Path) -> None:
    for number in range(1, 25):
        Image.new("RGB", (60, 40), (10 * number, 0, 0)).save(tmp_path / f"{number:03d}.png")
    video = FrameFolder(tmp_path, 24, "{:03d}.png")
    data = VideoSet((video,), (3,), tuple("abcd"))
    transform = EvaluationViews(28, 32, 3, [0.0] * 3, [1 / 255] * 3)
    clips, label = Clips(data, sampler(4, clips=10), transform, views=True)[0]
    assert (tuple(clips.shape), label) == ((30, 4, 3, 32, 32), 3)
    assert clips[15, :, 0, 0, 0].round().tolist() == [10 * (n + 1) for n in ten_clips(24, 4)[5]]
    one = Clips(data, sampler(4), EvaluationViews(28, 32, 1, [0.0] * 3, [1 / 255] * 3))[0][0]
    assert one.shape == (4, 3, 28, 28)


def test_the_three_crops_are_left_centre_and_right() -> None:
    frames = torch.arange(48).repeat(1, 3, 32, 1).to(torch.uint8)
    left, centre, right = EvaluationViews(28, 32, 3, [0.0] * 3, [1.0] * 3).cut(frames)
    assert [int(crop[0, 0, 0, 0]) for crop in (left, centre, right)] == [0, 8, 16]
