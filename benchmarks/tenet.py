"""TENET beside its peers: from an Argoverse 2 scenario to tensors, and the K-means ensemble.

    python benchmarks/tenet.py [--part reading ensemble] [--rounds 15] [--threads 1] [--output FILE.json]

reading: the scenario's Parquet and its map's JSON to the tensors of a scene (64 agents, 192 polylines of 20 points).
The peer is av2's own API where it is installed. Elsewhere the same path is written out here, object by object as the
API works: pandas reads the table and groups it by track, every row becomes a state object, every point of the map a
point object, a lane's centreline is the middle of its interpolated boundaries; tensors are filled from these objects.
The peer sorts and crops as ours does; both give the same agents. The real scenario where $REPERTORY_DATA has it, else a
generated one.

ensemble: the futures of three networks for 200 scenarios, fused by our batched K-means, and by scikit-learn's, scenario
by scenario, from the same centres.

One JSON line a race; a ratio above 1: ours is faster.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from sklearn.cluster import KMeans

from repertory.core.files import write_json
from repertory.core.timing import high_water, race, ratio
from repertory.data.argoverse import LANE_TYPES, OBJECT_TYPES, find_scenarios, map_of
from repertory.papers.tenet import kmeans_fuse
from repertory.papers.tenet.sample import write_sample
from repertory.papers.tenet.scenes import Scene, Sizes, agent_features, collate, lane_features, read_scene

SIZES = Sizes(agents=64, lanes=192, points=20, history=50, future=60)
REAL = "av2_motion_sample"
SCENARIOS = 200


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


def interpolated(points: list[Point], count: int) -> np.ndarray:
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


def tensors(scene: Scene) -> tuple[torch.Tensor, torch.Tensor]:
    batch = collate([scene])
    return agent_features(batch), lane_features(batch)


def reading(rounds: int, folder: Path) -> list[dict[str, Any]]:
    real = Path(os.environ.get("REPERTORY_DATA", "")) / REAL
    if os.environ.get("REPERTORY_DATA") and real.exists():
        path, data = find_scenarios(real)[0], "a real scenario"
    else:
        write_sample(folder, {"train": 1}, seed=0)
        path, data = find_scenarios(folder)[0], "a generated scenario"
    installed = importlib.util.find_spec("av2") is not None
    read, peer = (read_av2, "av2") if installed else (read_objects, "objects, as av2 works")
    ours, theirs = read_scene(path, SIZES), peer_scene(read, path)
    if not np.allclose(np.sort(ours.history, 0), np.sort(theirs.history, 0), atol=1e-3):
        raise SystemExit("the agents' tensors differ")
    times = race(
        {
            "ours": lambda: tensors(read_scene(path, SIZES)),
            "peer": lambda: tensors(peer_scene(read, path)),
        },
        range(1 + rounds),
    )
    return [_line(f"{data} to tensors", times, peer, rounds, "ms a scenario", 1000)]


def ensemble(rounds: int) -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    x = np.cumsum(rng.normal(size=(SCENARIOS, 18, 60, 2)), axis=2)
    p = np.concatenate([rng.dirichlet(np.ones(6), SCENARIOS) for _ in range(3)], 1)

    def library() -> None:
        for one, weight in zip(x, p, strict=True):
            ends = one[:, -1]
            centres = [ends[weight.argmax()]]
            nearest = ((ends - centres[0]) ** 2).sum(1)
            while len(centres) < 6:
                centres.append(ends[(weight * nearest).argmax()])
                nearest = np.minimum(nearest, ((ends - centres[-1]) ** 2).sum(1))
            start: dict[str, Any] = {"init": np.array(centres), "n_init": 1}  # the stubs know words alone
            labels = KMeans(6, **start, max_iter=50, tol=0).fit_predict(ends, sample_weight=weight)
            for k in range(6):
                np.average(one[labels == k], axis=0, weights=weight[labels == k])

    times = race({"ours": lambda: kmeans_fuse(x, p), "peer": library}, range(1 + rounds))
    return [_line("K-means of 3 x 6 futures", times, "scikit-learn", rounds, "ms a scenario", 1000 / SCENARIOS)]


def _line(name: str, times: Any, peer: str, rounds: int, unit: str, factor: float) -> dict[str, Any]:
    return {
        "race": name,
        "peer": peer,
        unit: {who: round(factor * float(np.median(seconds)), 3) for who, seconds in times.items()},
        "ratio": round(ratio(times, "ours", "peer"), 2),
        "quartiles": [round(float(q), 2) for q in np.quantile(times["peer"] / times["ours"], [0.25, 0.75])],
        "rounds": rounds,
        "MiB": round(high_water()),
        "threads": torch.get_num_threads(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--part", nargs="+", choices=("reading", "ensemble"), default=("reading", "ensemble"))
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    lines: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for part in options.part:
            lines += reading(options.rounds, Path(folder)) if part == "reading" else ensemble(options.rounds)
            for line in lines[-1:]:
                print(json.dumps(line))
    if options.output:
        write_json(options.output, {"races": lines})


if __name__ == "__main__":
    main()
