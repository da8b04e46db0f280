"""Speed of reading scenarios and of the K-means ensemble.

    python benchmarks/tenet.py

- reading: a scenario's Parquet and its map's JSON to tensors (64 agents, 192 polylines of 20 points); the real scenario
  where $REPERTORY_DATA has it, else a generated one. Peer: av2's own API where it is installed. Elsewhere its way is
  written out here, object by object: pandas reads the table and groups it by track, every row becomes a state object,
  every point of the map a point object, a lane's centreline is the middle of its interpolated boundaries; tensors are
  filled from these objects. The peer sorts and crops as ours does; both give the same agents.
- reading, growth: scenarios, one after the other.
- ensemble: the futures of three networks for 50 scenarios, fused by our batched K-means. Peer: scikit-learn's, scenario
  by scenario, from the same centres.
- ensemble, growth: K-means over scenarios.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from torch import Tensor

from repertory.core.bench import Growth, Race, bench, scratch
from repertory.data.argoverse import LANE_TYPES, OBJECT_TYPES, find_scenarios, map_of
from repertory.papers.tenet import kmeans_fuse
from repertory.papers.tenet.sample import write_sample
from repertory.papers.tenet.scenes import Scene, Sizes, agent_features, collate, lane_features, read_scene

SIZES = Sizes(agents=64, lanes=192, points=20, history=50, future=60)
REAL = "av2_motion_sample"


# -- reading, object by object ----------------------------------------------------------------------


@dataclass(frozen=True)
class State:
    observed: bool
    timestep: int
    position: tuple[float, float]
    heading: float
    velocity: tuple[float, float]


@dataclass(frozen=True)
class Track:
    track_id: str
    object_states: list[State]
    object_type: Any
    category: int


@dataclass(frozen=True)
class Point:
    x: float
    y: float
    z: float


@dataclass(frozen=True)
class Lane:
    id: int
    is_intersection: bool
    lane_type: Any
    left: list[Point]
    right: list[Point]
    successors: list[int]


@dataclass(frozen=True)
class Crossing:
    edge1: list[Point]
    edge2: list[Point]


def read_objects(path: Path) -> tuple[list[Track], str, list[Lane], list[Crossing]]:
    """Tracks, the focal one's name, lanes, crossings."""
    frame = pd.read_parquet(path)
    tracks = []
    for name, rows in frame.groupby("track_id"):
        positions, velocities = (rows[[f"{what}_x", f"{what}_y"]].values.tolist() for what in ("position", "velocity"))
        headings, steps, observed = (rows[column].values.tolist() for column in ("heading", "timestep", "observed"))
        states = [
            State(seen, step, (place[0], place[1]), heading, (speed[0], speed[1]))
            for seen, step, place, heading, speed in zip(observed, steps, positions, headings, velocities, strict=True)
        ]
        kind, category = rows["object_type"].iloc[0], int(rows["object_category"].iloc[0])
        tracks.append(Track(str(name), states, kind, category))
    content = json.loads(map_of(path).read_text(encoding="utf-8"))

    def line(points: list[dict[str, float]]) -> list[Point]:
        return [Point(p["x"], p["y"], p["z"]) for p in points]

    lanes = [
        Lane(
            fields["id"], fields["is_intersection"], fields["lane_type"], line(fields["left_lane_boundary"]),
            line(fields["right_lane_boundary"]), fields["successors"],
        )
        for fields in content["lane_segments"].values()
    ]  # fmt: skip
    crossings = [Crossing(line(c["edge1"]), line(c["edge2"])) for c in content["pedestrian_crossings"].values()]
    _ = [line(area["area_boundary"]) for area in content["drivable_areas"].values()]
    return tracks, str(frame["focal_track_id"].iloc[0]), lanes, crossings


def read_av2(path: Path) -> tuple[list[Any], str, list[Lane], list[Crossing]]:
    """The same by the API itself; lanes and crossings keep its points."""
    serialization: Any = importlib.import_module("av2.datasets.motion_forecasting.scenario_serialization")
    api: Any = importlib.import_module("av2.map.map_api")
    scenario = serialization.load_argoverse_scenario_parquet(path)
    streets = api.ArgoverseStaticMap.from_json(map_of(path))
    lanes = [
        Lane(
            lane.id, lane.is_intersection, lane.lane_type, lane.left_lane_boundary.waypoints,
            lane.right_lane_boundary.waypoints, lane.successors,
        )
        for lane in streets.vector_lane_segments.values()
    ]  # fmt: skip
    crossings = [Crossing(c.edge1.waypoints, c.edge2.waypoints) for c in streets.vector_pedestrian_crossings.values()]
    return scenario.tracks, scenario.focal_track_id, lanes, crossings


def interpolated(points: list[Point], count: int) -> NDArray[Any]:
    xy = np.array([[p.x, p.y] for p in points])
    along = np.concatenate([[0], np.hypot(*np.diff(xy, axis=0).T).cumsum()])
    wanted = np.linspace(0, along[-1], count)
    return np.stack([np.interp(wanted, along, xy[:, 0]), np.interp(wanted, along, xy[:, 1])], -1)


def peer_scene(read: Callable[[Path], Any], path: Path) -> Scene:
    """Tensors from objects."""
    tracks, focal_name, lanes, crossings = read(path)
    history, total = SIZES.history, SIZES.history + SIZES.future
    states, valid = np.zeros((len(tracks), total, 5)), np.zeros((len(tracks), total), bool)
    types, focal = np.zeros(len(tracks), np.int64), 0
    for k, track in enumerate(tracks):
        for state in track.object_states:
            states[k, state.timestep] = (*state.position, state.heading, *state.velocity)
            valid[k, state.timestep] = True
        types[k] = OBJECT_TYPES.index(str(getattr(track.object_type, "value", track.object_type)))
        focal = k if track.track_id == focal_name else focal
    origin, heading = states[focal, history - 1, :2].copy(), float(states[focal, history - 1, 2])
    cos, sin = np.cos(heading), np.sin(heading)
    turn = np.array([[cos, -sin], [sin, cos]])
    distances = []
    for k in range(len(tracks)):
        seen = np.flatnonzero(valid[k, :history])
        fit = len(seen) and (valid[k, history - 1] or len(seen) >= 10)
        near = float(np.hypot(*(states[k, seen[-1], :2] - origin))) if fit else np.inf
        distances.append(-1.0 if k == focal else near)
    order = [k for k in np.argsort(distances, kind="stable")[: SIZES.agents] if np.isfinite(distances[k])]
    past = states[order, :history]
    rows = np.concatenate([(past[..., :2] - origin) @ turn, past[..., 2:3] - heading, past[..., 3:] @ turn], -1)
    future = (states[focal, history:, :2] - origin) @ turn
    lines, kinds = [], []
    for lane in lanes:
        middle = (interpolated(lane.left, SIZES.points) + interpolated(lane.right, SIZES.points)) / 2
        lines.append((middle - origin) @ turn)
        kind = str(getattr(lane.lane_type, "value", lane.lane_type))
        kinds.append([lane.is_intersection, *(kind == name for name in LANE_TYPES), False])
    for crossing in crossings:
        ends = [(a.x + b.x, a.y + b.y) for a, b in zip(crossing.edge1, crossing.edge2, strict=True)]
        middle = np.linspace(np.array(ends[0]) / 2, np.array(ends[1]) / 2, SIZES.points)
        lines.append((middle - origin) @ turn)
        kinds.append([False] * 4 + [True])
    nearest = np.argsort([np.linalg.norm(line, axis=1).min() for line in lines])[: SIZES.lanes]
    return Scene(
        history=(rows * valid[order, :history, None]).astype(np.float32),
        seen=valid[order, :history],
        types=types[order],
        lanes=np.array(lines)[nearest].astype(np.float32),
        kinds=np.array(kinds)[nearest].astype(np.float32),
        future=future.astype(np.float32),
        known=valid[focal, history:],
        origin=origin,
        heading=heading,
    )


def tensors(scene: Scene) -> tuple[Tensor, Tensor]:
    batch = collate([scene])
    return agent_features(batch), lane_features(batch)


def reading() -> Race:
    given = os.environ.get("REPERTORY_DATA")
    real = given is not None and (Path(given) / REAL).exists()
    folder = Path(given) / REAL if given and real else generated(1)
    path = find_scenarios(folder)[0]
    installed = importlib.util.find_spec("av2") is not None
    read, name = (read_av2, "av2") if installed else (read_objects, "object by object, as av2")
    ours, theirs = read_scene(path, SIZES), peer_scene(read, path)
    np.testing.assert_allclose(np.sort(ours.history, 0), np.sort(theirs.history, 0), atol=1e-3)
    return Race(
        lambda: tensors(read_scene(path, SIZES)),
        {name: lambda: tensors(peer_scene(read, path))},
        goal=5,
        facts={"scenario": "real" if real else "generated"},
    )


def generated(count: int) -> Path:
    """A folder of so many scenarios."""
    folder = scratch()
    write_sample(folder, {"train": count}, seed=0)
    return folder


def reading_growth() -> Growth:
    def work(count: int) -> Callable[[], object]:
        paths = find_scenarios(generated(1))
        return lambda: [read_scene(path, SIZES) for path in paths * count]

    return Growth(work, [1, 10, 100, 1000], "scenarios")


def futures(scenarios: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Six of each of three networks, and their probabilities."""
    rng = np.random.default_rng(0)
    x = np.cumsum(rng.normal(size=(scenarios, 18, 60, 2)), axis=2)
    return x, np.concatenate([rng.dirichlet(np.ones(6), scenarios) for _ in range(3)], 1)


def fuse_one_by_one(x: NDArray[Any], p: NDArray[Any]) -> NDArray[Any]:
    """The six fused futures of each scenario, by scikit-learn."""
    found = []
    for one, weight in zip(x, p, strict=True):
        ends = one[:, -1]
        centres = [ends[weight.argmax()]]
        nearest = ((ends - centres[0]) ** 2).sum(1)
        while len(centres) < 6:
            centres.append(ends[(weight * nearest).argmax()])
            nearest = np.minimum(nearest, ((ends - centres[-1]) ** 2).sum(1))
        start: dict[str, Any] = {"init": np.array(centres), "n_init": 1}  # the stubs know words alone
        labels = KMeans(6, **start, max_iter=50, tol=0).fit_predict(ends, sample_weight=weight)
        found.append([np.average(one[labels == k], axis=0, weights=weight[labels == k]) for k in range(6)])
    return np.array(found)


def ensemble(scenarios: int = 50) -> Race:
    x, p = futures(scenarios)
    ends, expected = kmeans_fuse(x, p).trajectories[:, :, -1, 0], fuse_one_by_one(x, p)[:, :, -1, 0]
    np.testing.assert_allclose(np.sort(ends, 1), np.sort(expected, 1), rtol=1e-6)
    peers = {"scikit-learn, one by one": lambda: fuse_one_by_one(x, p)}
    return Race(lambda: kmeans_fuse(x, p), peers, facts={"scenarios": scenarios})


def ensemble_growth() -> Growth:
    return Growth(lambda count: partial(kmeans_fuse, *futures(count)), [10, 100, 1000, 10_000], "scenarios")


if __name__ == "__main__":
    bench(
        __doc__,
        {
            "reading": reading,
            "reading, growth": reading_growth,
            "ensemble": ensemble,
            "ensemble, growth": ensemble_growth,
        },
    )
