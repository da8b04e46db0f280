"""From scenarios to tensors: the frame of the focal agent, nearest agents and map polylines, features, augmentation.

A scene is what the files say, in metres in the focal agent's frame (origin: its position at the last observed step, x:
its heading there). The origin is subtracted in float64, since city coordinates are thousands of metres. Features are
computed from scenes batch by batch, so that augmentation acts on positions, headings and velocities.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from repertory.core.files import cache_dir, write_bytes
from repertory.data.argoverse import (
    LANE_TYPES,
    OBJECT_TYPES,
    Scenario,
    StreetMap,
    read_map_of,
    read_scenario,
    resample,
)

AGENT_VALID, AGENT_FEATURES = 8, 9 + len(OBJECT_TYPES)
"""x, y, cos h, sin h, vx, vy, Δx, Δy, valid, type one-hot."""
LANE_VALID, LANE_FEATURES = 4, 10
"""x, y, Δx, Δy, valid, is_intersection, lane type one-hot, pedestrian crossing."""
LEAST_SEEN = 10
"""Observed steps that an agent needs if it is absent at the last one."""
IN_MEMORY = 5000
"""Scenes of a set that are kept in memory once read."""
_VERSION = 1
"""Of the cache's files."""


@dataclass(frozen=True)
class Scene:
    """One scenario around one agent. A agents, T observed and F future steps, M polylines of L points.

    Attributes:
        history: (A, T, 5) x, y, heading, vx, vy; the focal agent first, the others by distance; 0 where not seen.
        seen: (A, T).
        types: (A,) numbers in `OBJECT_TYPES`.
        lanes: (M, L, 2), nearest first.
        kinds: (M, 5) is_intersection, VEHICLE, BIKE, BUS, pedestrian crossing.
        future: (F, 2) of the focal agent; 0 where not known.
        known: (F,)
        origin: (2,) of the frame, in the city's, float64.
        heading: of the frame's x axis.
    """

    history: NDArray[np.float32]
    seen: NDArray[np.bool_]
    types: NDArray[np.int64]
    lanes: NDArray[np.float32]
    kinds: NDArray[np.float32]
    future: NDArray[np.float32]
    known: NDArray[np.bool_]
    origin: NDArray[np.float64]
    heading: float

    def to_city(self, points: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        """Points (..., 2) of the frame in the city's coordinates."""
        return np.asarray(points, dtype=np.float64) @ _rotation(self.heading).T + self.origin


def make_scene(
    scenario: Scenario,
    streets: StreetMap,
    agents: int,
    lanes: int,
    points: int = 20,
    focal: int | None = None,
) -> Scene:
    """The scene around one track.

    Args:
        scenario: tracks.
        streets: the map.
        agents: most agents, the focal one included.
        lanes: most polylines.
        points: L of a polyline.
        focal: index of the track; None: the scenario's.
    """
    focal = scenario.focal if focal is None else focal
    now = scenario.history - 1
    origin, heading = scenario.states[focal, now, :2].copy(), float(scenario.states[focal, now, 2])
    turn = _rotation(heading)

    seen = scenario.valid[:, : now + 1]
    last = now - seen[:, ::-1].argmax(1)  # last observed step of each track
    distance = np.hypot(*(scenario.states[np.arange(len(last)), last, :2] - origin).T)
    distance[~(seen[:, now] | (seen.sum(1) >= LEAST_SEEN))] = np.inf
    distance[focal] = -1.0
    order = np.argsort(distance, kind="stable")[:agents]
    order = order[np.isfinite(distance[order])]
    states, seen = scenario.states[order, : now + 1], seen[order]
    history = np.empty(states.shape)
    history[..., :2] = (states[..., :2] - origin) @ turn
    history[..., 2] = states[..., 2] - heading
    history[..., 3:] = states[..., 3:] @ turn
    history *= seen[..., None]

    known = scenario.valid[focal, now + 1 :]
    future = (scenario.states[focal, now + 1 :, :2] - origin) @ turn * known[:, None]
    line, kinds = _polylines(streets, origin, turn, lanes, points)
    return Scene(
        history=history.astype(np.float32),
        seen=seen,
        types=scenario.types[order],
        lanes=line,
        kinds=kinds,
        future=future.astype(np.float32),
        known=known,
        origin=origin,
        heading=heading,
    )


def _rotation(heading: float) -> NDArray[np.float64]:
    """R with rows p of the city's frame: p @ R is in the agent's frame."""
    cos, sin = np.cos(heading), np.sin(heading)
    return np.array([[cos, -sin], [sin, cos]])


def _polylines(
    streets: StreetMap, origin: NDArray[np.float64], turn: NDArray[np.float64], most: int, points: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The nearest centrelines, and crossings as the line between their edges: (M, L, 2) and (M, 5)."""
    lines = [lane.centerline for lane in streets.lanes]
    lines += [(crossing.edge1 + crossing.edge2) / 2 for crossing in streets.crossings]
    if not lines:
        return np.zeros((0, points, 2), np.float32), np.zeros((0, 5), np.float32)
    kinds = np.zeros((len(lines), 5), np.float32)
    kinds[: len(streets.lanes), 0] = [lane.is_intersection for lane in streets.lanes]
    kinds[np.arange(len(streets.lanes)), [1 + LANE_TYPES.index(lane.lane_type) for lane in streets.lanes]] = 1
    kinds[len(streets.lanes) :, 4] = 1
    placed = (resample(lines, points)[..., :2] - origin) @ turn
    nearest = np.argsort((placed**2).sum(-1).min(-1), kind="stable")[:most]
    return placed[nearest].astype(np.float32), kinds[nearest]


# -- augmentation -------------------------------------------------------------------------------


def mirrored(scene: Scene) -> Scene:
    """Left and right exchanged: y -> -y."""
    return replace(
        scene,
        history=scene.history * np.array([1, -1, -1, 1, -1], np.float32),
        lanes=scene.lanes * np.array([1, -1], np.float32),
        future=scene.future * np.array([1, -1], np.float32),
    )


def shortened(scene: Scene, steps: int) -> Scene:
    """The first `steps` steps of the history unseen."""
    seen = scene.seen.copy()
    seen[:, :steps] = False
    return replace(scene, seen=seen, history=scene.history * seen[..., None])


def cropped(scene: Scene, agents: int, lanes: int) -> Scene:
    """The nearest agents and polylines alone."""
    return replace(
        scene,
        history=scene.history[:agents],
        seen=scene.seen[:agents],
        types=scene.types[:agents],
        lanes=scene.lanes[:lanes],
        kinds=scene.kinds[:lanes],
    )


# -- batches ------------------------------------------------------------------------------------


def collate(scenes: Sequence[Scene]) -> dict[str, Tensor]:
    """Tensors of several scenes, padded by agents and polylines that are not valid.

    Returns:
        history (B, A, T, 5), seen (B, A, T), types (B, A), lanes (B, M, L, 2), kinds (B, M, 5), mapped (B, M),
        future (B, F, 2), known (B, F); A and M are those of the largest scene.
    """
    batch = {
        name: _padded([getattr(scene, name) for scene in scenes])
        for name in ("history", "seen", "types", "lanes", "kinds", "future", "known")
    }
    return {**batch, "mapped": batch["kinds"].any(-1)}


def _padded(arrays: Sequence[NDArray[Any]]) -> Tensor:
    out = np.zeros((len(arrays), max(map(len, arrays)), *arrays[0].shape[1:]), arrays[0].dtype)
    for row, array in zip(out, arrays, strict=True):
        row[: len(array)] = array
    return torch.from_numpy(out)


def agent_features(batch: Mapping[str, Tensor]) -> Tensor:
    """history, seen, types of a batch -> (B, A, T, 19); zeros where not seen."""
    history, seen = batch["history"], batch["seen"]
    place, heading, speed = history[..., :2], history[..., 2:3], history[..., 3:]
    moved = torch.zeros_like(place)
    both = seen[..., 1:] & seen[..., :-1]
    moved[..., 1:, :] = place.diff(dim=-2) * both[..., None]
    kind = torch.nn.functional.one_hot(batch["types"], len(OBJECT_TYPES)).to(history.dtype)
    kind = kind[..., None, :].expand(*seen.shape, -1)
    ones = torch.ones_like(heading)
    features = torch.cat((place, heading.cos(), heading.sin(), speed, moved, ones, kind), -1)
    return features * seen[..., None]


def lane_features(batch: Mapping[str, Tensor]) -> Tensor:
    """lanes, kinds, mapped of a batch -> (B, M, L, 10); zeros where not valid."""
    lanes = batch["lanes"]
    moved = torch.zeros_like(lanes)
    moved[..., 1:, :] = lanes.diff(dim=-2)
    kinds = batch["kinds"][..., None, :].expand(*lanes.shape[:-1], -1)
    features = torch.cat((lanes, moved, torch.ones_like(lanes[..., :1]), kinds), -1)
    return features * batch["mapped"][..., None, None]


# -- data sets ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sizes:
    """What is read of a scenario."""

    agents: int
    lanes: int
    points: int
    history: int
    future: int


def read_scene(path: Path, sizes: Sizes, track: int | None = None, *, cached: bool = False) -> Scene:
    """The scene of a scenario's file and the map beside it.

    Args:
        path: the Parquet file.
        sizes: what is read.
        track: index of the agent in the middle; None: the focal one.
        cached: take it from the cache folder, and keep it there; it is read anew when one of the files changes.
    """
    if not cached:
        return _read(path, sizes, track)
    stamp = path.stat()
    key = sha256(
        f"{_VERSION} {path.resolve()} {stamp.st_mtime_ns} {stamp.st_size} {sizes} {track}".encode()
    ).hexdigest()
    kept = cache_dir() / "scenes" / key[:2] / f"{key[2:32]}.npz"
    try:
        with np.load(kept, allow_pickle=False) as arrays:
            fields = dict(arrays)
        return Scene(**{**fields, "heading": float(fields["heading"])})
    except (OSError, ValueError, KeyError, TypeError, EOFError, BadZipFile):  # absent, or cut short
        scene = _read(path, sizes, track)
        buffer = io.BytesIO()
        np.savez(buffer, allow_pickle=False, **{name: np.asarray(value) for name, value in vars(scene).items()})
        write_bytes(kept, buffer.getvalue())
        return scene


def _read(path: Path, sizes: Sizes, track: int | None) -> Scene:
    scenario = read_scenario(path, sizes.history, sizes.future)
    return make_scene(scenario, read_map_of(path), sizes.agents, sizes.lanes, sizes.points, track)


class SceneSet(Dataset[Scene]):
    """Scenes by number, read when they are asked for; up to `IN_MEMORY` of them stay in memory.

    Args:
        items: (file, track in the middle or None).
        sizes: what is read.
        cached: see `read_scene`.
    """

    draws = False

    def __init__(self, items: Sequence[tuple[Path, int | None]], sizes: Sizes, *, cached: bool = False) -> None:
        self.items, self.sizes, self.cached = tuple(items), sizes, cached
        self._kept: dict[int, Scene] = {}

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Scene:
        if index in self._kept:
            return self._kept[index]
        path, track = self.items[index]
        scene = read_scene(path, self.sizes, track, cached=self.cached)
        if len(self) <= IN_MEMORY:
            self._kept[index] = scene
        return scene


class Cropped(Dataset[Scene]):
    """The scenes of a set with fewer agents and polylines, and with augmentation.

    Args:
        scenes: the set.
        agents: most agents.
        lanes: most polylines.
        mirror: probability of exchanging left and right.
        history_dropout: probability of dropping first steps, up to all but two.
    """

    def __init__(
        self, scenes: SceneSet, agents: int, lanes: int, mirror: float = 0.0, history_dropout: float = 0.0
    ) -> None:
        self.scenes, self.agents, self.lanes = scenes, agents, lanes
        self.mirror, self.history_dropout = mirror, history_dropout

    def __len__(self) -> int:
        return len(self.scenes)

    @property
    def draws(self) -> bool:
        """Whether samples are random."""
        return self.mirror > 0 or self.history_dropout > 0

    def __getitem__(self, index: int) -> Scene:
        scene = cropped(self.scenes[index], self.agents, self.lanes)
        if self.mirror and torch.rand(()) < self.mirror:
            scene = mirrored(scene)
        if self.history_dropout and torch.rand(()) < self.history_dropout:
            scene = shortened(scene, int(torch.randint(1, max(2, scene.seen.shape[1] - 1), ())))
        return scene
