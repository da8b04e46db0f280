"""The simulator of an event camera: its physics, paths, brightness, and the sample of digits."""

from __future__ import annotations

import filecmp
from pathlib import Path

import numpy as np
import pytest

from repertory.core.problem import Problem
from repertory.data.dvs import PROFILES, moving, saccades, simulate, sinusoid, write_saccade_digits
from repertory.data.events import read_class_folders, read_splits


def ramp(frames: int = 11) -> tuple[np.ndarray, np.ndarray]:
    """Intensities (F, 1, 3, 4) that rise from 0 to 1 in 100 ms."""
    return np.broadcast_to(np.linspace(0, 1, frames)[:, None, None, None], (frames, 1, 3, 4)), np.linspace(
        0, 1e5, frames
    )


def logs(intensity: float) -> float:
    return float(np.log(0.1 + 0.9 * intensity + 1e-3))


def test_a_brightening_pixel_fires_once_per_threshold() -> None:
    frames, times = ramp()
    [events] = simulate(frames, times, np.random.default_rng(0), spread=0, noise=0, refractory=0)
    expected = int((logs(1) - logs(0)) / 0.2)
    assert len(events) == 12 * expected
    assert (events["p"] == 1).all()
    [back] = simulate(frames[::-1], times, np.random.default_rng(0), spread=0, noise=0, refractory=0)
    assert len(back) == 12 * expected
    assert (back["p"] == 0).all()


def test_times_are_interpolated_within_a_frame() -> None:
    frames, times = ramp(2)
    [events] = simulate(frames, times, np.random.default_rng(0), spread=0, noise=0, refractory=0)
    first = events[(events["x"] == 0) & (events["y"] == 0)]["t"]
    expected = 1e5 * 0.2 * np.arange(1, len(first) + 1) / (logs(1) - logs(0))
    np.testing.assert_allclose(first, expected, atol=1)


def test_a_pixel_is_silent_for_the_refractory_period() -> None:
    frames, times = ramp(2)
    [events] = simulate(frames, times / 100, np.random.default_rng(0), noise=0, refractory=300)
    assert len(events) < 12 * 11
    for pixel in range(12):
        own = events[events["y"] * 4 + events["x"] == pixel]
        assert (np.diff(own["t"]) >= 299).all()


def test_still_pictures_give_noise_only() -> None:
    frames, times = np.full((11, 2, 20, 20), 0.5), np.linspace(0, 1e6, 11)
    assert [len(events) for events in simulate(frames, times, np.random.default_rng(0), noise=0)] == [0, 0]
    noisy = simulate(frames, times, np.random.default_rng(0), noise=5)
    assert [len(events) for events in noisy] == pytest.approx([2000, 2000], rel=0.1)
    assert all((np.diff(events["t"]) >= 0).all() for events in noisy)
    few = simulate(frames, times, np.random.default_rng(0), noise=5, most=100)
    assert [len(events) for events in few] == [100, 100]
    assert (np.diff(few[0]["t"]) >= 0).all()


def test_recordings_of_a_batch_do_not_mix() -> None:
    frames, times = ramp()
    both = np.concatenate([frames, np.zeros_like(frames)], axis=1)
    one, none = simulate(both, times, np.random.default_rng(0), noise=0)
    assert len(one) > 100
    assert len(none) == 0


def test_light_that_dims_makes_darker_events_everywhere() -> None:
    frames, times = np.full((11, 1, 4, 4), 0.5), np.linspace(0, 1e5, 11)
    gain = np.where(np.arange(11) < 5, 1.0, 0.4)[:, None]
    [events] = simulate(frames, times, np.random.default_rng(0), gain=gain, spread=0, noise=0, refractory=0)
    assert len(events) == 16 * int(-np.log(0.4) / 0.2)
    assert (events["p"] == 0).all()
    assert events["t"].min() >= times[4]


def test_frames_and_times_must_go_together() -> None:
    frames, times = ramp()
    for wrong in (frames[:-1], frames[:1], [*frames, frames[0]]):
        with pytest.raises(Problem, match="frames for 11 times"):
            simulate(iter(wrong), times, np.random.default_rng(0))


def test_paths_are_closed_and_within_reach() -> None:
    times = np.linspace(0, 300_000, 301)
    path = saccades(times, 6)
    assert path[0].tolist() == path[-1].tolist() == [0, 0]
    assert path[100].tolist() == [6, 3]
    assert path[200].tolist() == [0, 6]
    curve = sinusoid(np.linspace(0, 1e6, 1001), 6)
    np.testing.assert_allclose(curve[0], curve[-1], atol=1e-9)
    assert (curve >= 0).all()
    assert (curve <= 6).all()


def test_pictures_move_by_whole_and_half_pixels() -> None:
    picture = np.zeros((1, 5, 5))
    picture[0, 1, 1] = 1
    still, down, half = moving(picture, np.array([[0, 0], [2, 1], [0, 0.5]]))
    np.testing.assert_array_equal(still, picture)
    assert down[0, 3, 2] == 1
    assert half[0, 1, 1] == half[0, 1, 2] == 0.5


def test_courses_of_brightness() -> None:
    a, rng = np.linspace(0, 1, 101), np.random.default_rng(0)
    gains = {name: profile(a, rng) for name, profile in PROFILES.items()}
    assert (gains["constant"] == 1).all()
    assert gains["ramp"][-1] in (pytest.approx(np.exp(1.2)), pytest.approx(np.exp(-1.2)))
    assert gains["flicker"].max() == pytest.approx(1.2, abs=1e-3)
    assert set(gains["dim"].tolist()) == {1.0, 0.4}


def test_the_sample_is_n_mnist_and_always_the_same(tmp_path: Path) -> None:
    for name in "ab":
        write_saccade_digits(tmp_path / name, train=3, test=2)
    train, test = read_splits(tmp_path / "a")
    assert (len(train), len(test), train.size) == (30, 20, (34, 34))
    parts = ["Train", "Test", "Test-dim", "Test-flicker", "Test-ramp"]
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == sorted(parts)
    for part in parts:
        data = read_class_folders(tmp_path / "a" / part)
        assert data.labels == (train if part == "Train" else test).labels
        counts = [len(data.events(index)) for index in range(len(data))]
        assert 1_000 < np.mean(counts) <= 8_000
        for path in data.paths:
            assert filecmp.cmp(path, tmp_path / "b" / path.relative_to(tmp_path / "a"), shallow=False)
