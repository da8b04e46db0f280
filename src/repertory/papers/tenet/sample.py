"""A small town's traffic in the format of Argoverse 2: junction, crossing, curve and straight road, simulated vehicles.

Vehicles follow lanes with the Intelligent Driver Model, slow down in curves, choose a branch at random at junctions and
stop at red lights; some change lanes. Pedestrians walk along or across, cyclists ride in bicycle lanes. Positions and
headings are noisy, and some tracks start late or end early. Nothing here knows of the method.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from repertory.data.argoverse import (
    FOCAL,
    FRAGMENT,
    FUTURE,
    HISTORY,
    OBJECT_TYPES,
    SCORED,
    STEP,
    UNSCORED,
    Crossing,
    Lane,
    Scenario,
    StreetMap,
    resample,
    write_scenario,
)

Floats = NDArray[np.float64]

LANE_WIDTH, BIKE_WIDTH = 3.5, 1.5
ARM = (14.0, 65.0, 140.0)
"""Distances from the centre, in m, at which the lanes of an arm start, are cut in two, and end."""
SPACING = 0.5
"""Metres between two points of a route."""
SPEED = (6.0, 14.0)
"""Desired speeds, v0 in m/s."""
HEADWAY, ACCELERATION, BRAKING, GAP, LENGTH = 1.2, 1.5, 2.0, 2.0, 4.5
"""Of the Intelligent Driver Model: T (s), a and b (m/s²), s0 and length of a vehicle (m)."""
SIDEWAYS = 2.0
"""m/s², largest lateral acceleration in curves."""
LOOK_AHEAD = 10.0
NOISE, HEADING_NOISE, SPEED_NOISE = 0.05, 0.01, 0.1
LEAST_PATH = 10.0
"""Metres that the focal vehicle moves."""
START = 315_966_000_000_000_000.0
_STEPS = HISTORY + FUTURE
_BEZIER = np.linspace(0, 1, 9)[:, None]


@dataclass
class Town:
    """Lanes around one centre, in its own coordinates."""

    lanes: dict[int, Lane] = field(default_factory=dict)
    crossings: list[Crossing] = field(default_factory=list)
    entries: list[int] = field(default_factory=list)
    """Lanes for vehicles that start at the rim."""
    bike_entries: list[int] = field(default_factory=list)
    stops: set[int] = field(default_factory=set)
    """Lanes that end at a light; those of even arms are red together, then those of odd ones."""
    phase: dict[int, int] = field(default_factory=dict)
    """0 or 1 for each of these."""


def write_sample(root: Path, counts: Mapping[str, int], seed: int = 0) -> None:
    """Write scenarios with their maps.

    Args:
        root: ROOT of the layout.
        counts: split -> number of scenarios; "test" without future.
        seed: the only source of randomness.
    """
    rng = np.random.default_rng(seed)
    for split in (split for split, count in counts.items() for _ in range(count)):
        scenario, streets = make_scenario(rng)
        write_scenario(root / split, scenario, streets, observed=split == "test")


def make_scenario(rng: np.random.Generator) -> tuple[Scenario, StreetMap]:
    """One scenario and its map, in city coordinates."""
    town = make_town(rng)
    while (traffic := _drive(town, rng)) is None:  # nobody to predict
        pass
    angle, shift = rng.uniform(-np.pi, np.pi), rng.uniform(-900, 900, 2)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    states, valid, types, categories = traffic

    def placed(line: Floats) -> Floats:
        return np.column_stack([line[:, :2] @ turn + shift, np.zeros(len(line))])

    states = np.concatenate([states[..., :2] @ turn + shift, states[..., 2:3] + angle, states[..., 3:] @ turn], -1)
    states[..., 2] = (states[..., 2] + np.pi) % (2 * np.pi) - np.pi
    states *= valid[..., None]
    streets = StreetMap(
        lanes=tuple(
            Lane(
                lane.id, placed(lane.centerline), placed(lane.left), placed(lane.right), lane.is_intersection,
                lane.lane_type, lane.left_mark, lane.right_mark, lane.predecessors, lane.successors,
                lane.left_neighbor, lane.right_neighbor,
            )
            for lane in town.lanes.values()
        ),
        crossings=tuple(Crossing(c.id, placed(c.edge1), placed(c.edge2)) for c in town.crossings),
        areas={1: placed(_disc(ARM[-1]))},
    )  # fmt: skip
    scenario = Scenario(
        name=str(uuid.UUID(bytes=rng.bytes(16), version=4)),
        city="sampletown",
        tracks=tuple(str(1000 + k) for k in range(len(types))),
        types=types,
        categories=categories,
        states=states,
        valid=valid,
        focal=int(np.flatnonzero(categories == FOCAL)[0]),
        start=START,
    )
    return scenario, streets


def _disc(radius: float) -> Floats:
    angle = np.linspace(0, 2 * np.pi, 25)
    return radius * np.stack((np.cos(angle), np.sin(angle)), -1)


# -- streets ------------------------------------------------------------------------------------


def make_town(rng: np.random.Generator) -> Town:
    """One of four templates with jittered angles: straight road of 2 + 2 lanes, crossing, T junction, curve."""
    template = rng.integers(4)
    angles, count = ((0, 180), 2) if template == 0 else ((0, 90, 180, 270), 1)
    if template == 2:
        angles = (0, 90, 180)
    elif template == 3:
        angles = (0, float(rng.uniform(70, 130)))
    arms = np.radians(np.array(angles) + rng.uniform(-8, 8, len(angles)))
    town, inward, outward = Town(), {}, {}
    for arm, angle in enumerate(arms):
        out = np.array([np.cos(angle), np.sin(angle)])
        left_of_out = np.array([-out[1], out[0]])
        lights = len(arms) > 2
        for towards in (True, False):
            # Traffic keeps right: towards the centre on the side that is left of `out`.
            side = left_of_out if towards else -left_of_out
            offsets = [(n + 0.5) * LANE_WIDTH for n in range(count)]
            lanes = [_arm(town, out, side * offset, towards, "VEHICLE", LANE_WIDTH) for offset in offsets]
            bike = _arm(town, out, side * (count * LANE_WIDTH + BIKE_WIDTH / 2), towards, "BIKE", BIKE_WIDTH)
            for level in (0, 1):
                _neighbours(town, [lane[level] for lane in lanes])
            if towards:
                town.entries += [lane[0] for lane in lanes]
                town.bike_entries.append(bike[0])
                inward[arm] = [lane[1] for lane in lanes], bike[1]
                for lane in [lane[1] for lane in lanes] if lights else []:
                    town.stops.add(lane)
                    town.phase[lane] = arm % 2
            else:
                outward[arm] = [lane[0] for lane in lanes], bike[0]
        half = count * LANE_WIDTH + BIKE_WIDTH
        edges = [out * (ARM[0] - shift) + np.array([[1], [-1]]) * left_of_out * half for shift in (1.0, 4.0)]
        town.crossings.append(Crossing(100 + arm, *(np.column_stack([edge, np.zeros(2)]) for edge in edges)))
    for a, (lanes, bike) in inward.items():
        for b, (targets, bike_target) in outward.items():
            if a == b:
                continue
            for lane, target in zip(lanes, targets, strict=True):
                _connect(town, lane, target, "VEHICLE", LANE_WIDTH)
            _connect(town, bike, bike_target, "BIKE", BIKE_WIDTH)
    return town


def _arm(town: Town, out: Floats, offset: Floats, towards: bool, kind: str, width: float) -> list[int]:
    """The two lanes of an arm, one behind the other, in the direction of travel."""
    ends = [ARM[2], ARM[1], ARM[0]] if towards else list(ARM)
    first, second = (
        _lane(town, resample([np.array([a, b])[:, None] * out + offset], 6)[0], kind, width) for a, b in pairwise(ends)
    )
    _link(town, first, second)
    return [first, second]


def _lane(town: Town, line: Floats, kind: str, width: float, *, inside: bool = False) -> int:
    along = np.gradient(line, axis=0)
    normal = np.stack((-along[:, 1], along[:, 0]), -1) / np.linalg.norm(along, axis=1, keepdims=True)
    number = len(town.lanes) + 1
    marks = ("NONE", "NONE") if inside else ("DOUBLE_SOLID_YELLOW", "SOLID_WHITE")
    left, right = line + normal * width / 2, line - normal * width / 2
    town.lanes[number] = Lane(number, line, left, right, inside, kind, *marks)
    return number


def _change(town: Town, number: int, **fields: object) -> None:
    old = town.lanes[number]
    town.lanes[number] = Lane(**{**{name: getattr(old, name) for name in Lane.__slots__}, **fields})


def _link(town: Town, first: int, second: int) -> None:
    _change(town, first, successors=(*town.lanes[first].successors, second))
    _change(town, second, predecessors=(*town.lanes[second].predecessors, first))


def _neighbours(town: Town, lanes: list[int]) -> None:
    """Lanes of one direction from the inner to the outer one."""
    for inner, outer in pairwise(lanes):
        _change(town, inner, right_neighbor=outer, right_mark="DASHED_WHITE")
        _change(town, outer, left_neighbor=inner, left_mark="DASHED_WHITE")


def _connect(town: Town, start: int, end: int, kind: str, width: float) -> None:
    """A cubic Bézier curve through the junction."""
    a, b = town.lanes[start].centerline, town.lanes[end].centerline
    p, q = a[-1], b[0]
    reach = 0.55 * np.linalg.norm(q - p)
    u, v = a[-1] - a[-2], b[1] - b[0]
    p1, q1 = p + reach * u / np.linalg.norm(u), q - reach * v / np.linalg.norm(v)
    t = _BEZIER
    line = (1 - t) ** 3 * p + 3 * t * (1 - t) ** 2 * p1 + 3 * t**2 * (1 - t) * q1 + t**3 * q
    inside = _lane(town, line, kind, width, inside=True)
    _link(town, start, inside)
    _link(town, inside, end)


# -- traffic ------------------------------------------------------------------------------------


@dataclass
class Routes:
    """Where the vehicles go: points every `SPACING` metres, padded to one length by their last.

    Attributes:
        points: (V, P, 2).
        headings: (V, P).
        limits: (V, P) speeds that the curve ahead allows.
        ends: (V,) metres along.
        lights: (V,) metres along to the stop line; infinite: none.
        phases: (V,)
    """

    points: Floats
    headings: Floats
    limits: Floats
    ends: Floats
    lights: Floats
    phases: NDArray[np.int64]


def _routes(town: Town, entries: list[int], rng: np.random.Generator) -> Routes:
    lines, lights, phases = [], [], []
    for entry in entries:
        lanes = [entry]
        while following := town.lanes[lanes[-1]].successors:
            lanes.append(int(rng.choice(following)))
        joined = np.concatenate([town.lanes[lane].centerline[bool(k) :] for k, lane in enumerate(lanes)])
        stop = next((k for k, lane in enumerate(lanes) if lane in town.stops), None)
        before = [town.lanes[lane].centerline for lane in lanes[: 0 if stop is None else stop + 1]]
        lights.append(np.inf if stop is None else sum(_length(line) for line in before))
        phases.append(0 if stop is None else town.phase[lanes[stop]])
        lines.append(resample([joined], max(2, int(_length(joined) / SPACING) + 1))[0])
    most = max(map(len, lines))
    points = np.stack([np.concatenate([line, np.repeat(line[-1:], most - len(line), 0)]) for line in lines])
    along = np.diff(points, axis=1, append=2 * points[:, -1:] - points[:, -2:-1])
    headings = np.unwrap(np.arctan2(along[..., 1], along[..., 0]), axis=1)
    for row, line in zip(headings, lines, strict=True):
        row[len(line) - 1 :] = row[len(line) - 2]
    curvature = np.abs(np.gradient(headings, axis=1)) / SPACING
    limit = np.sqrt(SIDEWAYS / np.maximum(curvature, 1e-4))
    ahead = int(LOOK_AHEAD / SPACING)
    padded = np.pad(limit, ((0, 0), (0, ahead)), mode="edge")
    limits = np.lib.stride_tricks.sliding_window_view(padded, ahead + 1, axis=1).min(-1)
    ends = np.array([SPACING * (len(line) - 1) for line in lines])
    return Routes(points, headings, limits, ends, np.array(lights), np.array(phases))


def _length(line: Floats) -> float:
    return float(np.hypot(*np.diff(line, axis=0).T).sum())


def _drive(
    town: Town, rng: np.random.Generator
) -> tuple[Floats, NDArray[np.bool_], NDArray[np.int64], NDArray[np.int64]] | None:
    """States (N, steps, 5), valid (N, steps), types (N,), categories (N,); None: no vehicle is fit to be focal."""
    vehicles, cyclists, walkers = int(rng.integers(4, 9)), int(rng.integers(0, 3)), int(rng.integers(1, 4))
    entries = [int(lane) for lane in rng.choice(town.entries, vehicles)]
    entries += [int(lane) for lane in rng.choice(town.bike_entries, cyclists)]
    routes = _routes(town, entries, rng)
    rides = np.arange(len(entries)) >= vehicles
    states, on_road = _simulate(town, routes, rides, rng)
    on_foot = np.stack([_walk(rng) for _ in range(walkers)])
    states = np.concatenate([states, on_foot])
    valid = np.concatenate([on_road, np.ones(on_foot.shape[:2], bool)])
    kinds = ["bus" if rng.random() < 0.08 else "vehicle" for _ in range(vehicles)]
    kinds += ["cyclist"] * cyclists + ["pedestrian"] * walkers
    types = np.array([OBJECT_TYPES.index(kind) for kind in kinds])

    moved = np.hypot(*np.diff(states[..., :2], axis=1).transpose(2, 0, 1)).sum(1)
    fit = np.flatnonzero(valid.all(1) & (moved >= LEAST_PATH) & (types == OBJECT_TYPES.index("vehicle")))
    fit = fit[np.hypot(*states[fit, HISTORY - 1, :2].T) < ARM[1]]  # near the junction now
    if not len(fit):
        return None
    focal, *others = rng.permutation(fit)
    categories = np.full(len(types), UNSCORED)
    categories[others[:2]] = SCORED
    categories[focal] = FOCAL
    for k in range(len(types)):  # tracks that start late or end early
        if categories[k] == UNSCORED and rng.random() < 0.4:
            start, end = rng.integers(0, 60), rng.integers(50, _STEPS)
            valid[k, :start] = False
            valid[k, end:] = False
            categories[k] = FRAGMENT
    kept = valid.any(1)
    states[..., :2] += rng.normal(0, NOISE, states[..., :2].shape)
    states[..., 2] += rng.normal(0, HEADING_NOISE, states.shape[:2])
    states[..., 3:] += rng.normal(0, SPEED_NOISE, states[..., 3:].shape)
    return states[kept], valid[kept], types[kept], categories[kept]


def _simulate(
    town: Town, routes: Routes, rides: NDArray[np.bool_], rng: np.random.Generator
) -> tuple[Floats, NDArray[np.bool_]]:
    """Vehicles and cyclists along their routes: states (V, steps, 5), and whether they are on the road (V, steps)."""
    count = len(rides)
    wanted = np.where(rides, rng.uniform(3.5, 6, count), rng.uniform(*SPEED, count))
    s = rng.uniform(0, 110, count)
    v = wanted * rng.uniform(0.6, 1.0, count)
    # Lights: even arms have red for one half of the period, odd arms for the other.
    period, offset = rng.uniform(14, 24), rng.uniform(0, 24)
    # A lane change on roads with several lanes: a smooth shift by one width, begun at some time.
    change = np.where(~rides & (rng.random(count) < 0.3), rng.uniform(0, 9, count), np.inf)
    sideways = _sides(town, routes)
    change[sideways == 0] = np.inf
    rows, states = np.arange(count), np.empty((count, _STEPS, 5))
    on_road = np.empty((count, _STEPS), bool)
    for step in range(_STEPS):
        place = np.clip(s / SPACING, 0, routes.points.shape[1] - 1.001)
        low, share = place.astype(int), place % 1
        heading = (1 - share) * routes.headings[rows, low] + share * routes.headings[rows, low + 1]
        xy = (1 - share)[:, None] * routes.points[rows, low] + share[:, None] * routes.points[rows, low + 1]
        cos, sin = np.cos(heading), np.sin(heading)
        t = step * STEP
        u = np.clip((t - change) / 3.5, 0, 1)
        shift = sideways * LANE_WIDTH * (3 * u**2 - 2 * u**3)
        drift = sideways * LANE_WIDTH * (6 * u - 6 * u**2) / 3.5 * (v > 1)
        xy = xy + shift[:, None] * np.stack((-sin, cos), -1)
        velocity = np.stack((v * cos - drift * sin, v * sin + drift * cos), -1)
        yaw = heading + np.arctan2(drift, np.maximum(v, 1.0))
        states[:, step] = np.column_stack([xy, yaw, velocity])
        on_road[:, step] = s < routes.ends

        # The leader: the nearest road user ahead in one's own lane. Ahead by dx, aside by dy.
        gap = xy[None] - xy[:, None]
        dx = gap[..., 0] * cos[:, None] + gap[..., 1] * sin[:, None]
        dy = -gap[..., 0] * sin[:, None] + gap[..., 1] * cos[:, None]
        aligned = np.cos(heading[None] - heading[:, None]) > 0.5
        leads = (dx > 0.1) & (np.abs(dy) < 1.2 + 0.02 * dx) & aligned & on_road[:, step][None]
        clear = np.where(leads, dx - LENGTH, np.inf)
        leader = clear.argmin(1)
        clear, speed = clear[rows, leader], v[leader]
        red = ((t + offset) % period < period / 2) == (routes.phases == 0)
        line = routes.lights - s
        stops = red & (line > 0) & (line > v**2 / (2 * 4.0)) & (line - 1.0 < clear)
        clear, speed = np.where(stops, line - 1.0, clear), np.where(stops, 0.0, speed)
        desired = np.minimum(wanted, routes.limits[rows, low])
        s_star = GAP + np.maximum(0, v * HEADWAY + v * (v - speed) / (2 * np.sqrt(ACCELERATION * BRAKING)))
        a = ACCELERATION * (1 - (v / desired) ** 4 - (s_star / np.maximum(clear, 0.3)) ** 2)
        v = np.maximum(0, v + STEP * np.clip(a, -6, ACCELERATION))
        s = s + STEP * v
    return states, on_road


def _sides(town: Town, routes: Routes) -> Floats:
    """+1 or -1: the side (left, right) of the lane beside each route's first one; 0: there is none."""
    sides = np.zeros(len(routes.points))
    for k, start in enumerate(routes.points[:, 0]):
        lane = min(town.lanes.values(), key=lambda lane: float(np.hypot(*(lane.centerline[0] - start))))
        sides[k] = 1.0 if lane.left_neighbor is not None else -1.0 if lane.right_neighbor is not None else 0.0
    return sides


def _walk(rng: np.random.Generator) -> Floats:
    """A pedestrian beside the road or across it: states (steps, 5)."""
    angle = rng.uniform(-np.pi, np.pi)
    start = rng.uniform(12, 40) * np.array([np.cos(angle), np.sin(angle)])
    heading = rng.choice([angle, angle + np.pi, angle + np.pi / 2]) + np.cumsum(rng.normal(0, 0.02, _STEPS))
    speed = np.maximum(0, rng.uniform(0.8, 1.6) + np.cumsum(rng.normal(0, 0.01, _STEPS)))
    velocity = speed[:, None] * np.stack((np.cos(heading), np.sin(heading)), -1)
    return np.column_stack([start + STEP * np.cumsum(velocity, axis=0), heading, velocity])
