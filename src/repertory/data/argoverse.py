"""Motion forecasting scenarios of Argoverse 2: tracks in Parquet, maps in JSON, submissions; readers and writers.

    ROOT/{train,val,test}/<id>/scenario_<id>.parquet         rows of tracks: 110 steps at 10 Hz, the first 50 observed
                               log_map_archive_<id>.json     lane segments, pedestrian crossings, drivable areas

Columns become arrays as they are, without an object for each row; a map is one array of points, cut into polylines.
Coordinates are those of the city: metres, in float64. Tables of tracks without a map (CSV, data frames) are read by
`scenario_of_frame`.
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from repertory.core.files import write_bytes, write_text
from repertory.core.problem import Problem, reason, require, suggest

if TYPE_CHECKING:
    import pandas as pd

Floats = NDArray[np.float64]

LAYOUT = """\
{train,val,test}/<id>/scenario_<id>.parquet
{train,val,test}/<id>/log_map_archive_<id>.json"""
OBJECT_TYPES = (
    "vehicle", "pedestrian", "motorcyclist", "cyclist", "bus", "static", "background", "construction",
    "riderless_bicycle", "unknown",
)  # fmt: skip
LANE_TYPES = ("VEHICLE", "BIKE", "BUS")
FRAGMENT, UNSCORED, SCORED, FOCAL = range(4)
"""Categories of tracks."""
HISTORY, FUTURE = 50, 60
"""Steps of the data set: observed, to be predicted."""
STEP = 0.1
"""Seconds between two steps."""
TOO_FAST = 60.0
"""m/s: a mean speed above it means other units."""
STATES = ("position_x", "position_y", "heading", "velocity_x", "velocity_y")
"""The last axis of `Scenario.states`."""
SHORT = {"x": "position_x", "y": "position_y", "vx": "velocity_x", "vy": "velocity_y"}
"""Names that tables of tracks may have for the columns of the data set."""
MODES = 6
"""Trajectories of a submission for each track."""
SUBMISSION = ("scenario_id", "track_id", "probability", "predicted_trajectory_x", "predicted_trajectory_y")
_FACTS = ("scenario_id", "focal_track_id", "city", "start_timestamp", "end_timestamp", "num_timestamps")
_NEEDED = ("track_id", "object_type", "timestep", *STATES)
_COLUMNS = frozenset((*_NEEDED, *_FACTS, "object_category", "observed"))
_RATE_TOLERANCE = 0.05
_SUM_TOLERANCE = 1e-5


@dataclass(frozen=True)
class Scenario:
    """The tracks of one scenario, N of them, over H + F steps.

    Attributes:
        name: its identifier.
        city: where it was recorded; empty: unknown.
        tracks: identifiers, in the order of the file.
        types: (N,) numbers in `OBJECT_TYPES`.
        categories: (N,) 0 fragment, 1 unscored, 2 scored, 3 focal.
        states: (N, H + F, 5) position (m), heading (rad), velocity (m/s) in the city's frame; 0 where not valid.
        valid: (N, H + F) whether a track has a row at a step.
        focal: index of the track to predict.
        history: H, number of observed steps.
        start: time of step 0 in ns.
    """

    name: str
    city: str
    tracks: tuple[str, ...]
    types: NDArray[np.int64]
    categories: NDArray[np.int64]
    states: Floats
    valid: NDArray[np.bool_]
    focal: int
    history: int = HISTORY
    start: float = 0.0

    @property
    def to_predict(self) -> list[int]:
        """The focal track, then the scored ones that have a row at the last observed step and one before it."""
        seen = self.valid[:, self.history - 1] & (self.valid[:, : self.history].sum(1) >= 2)
        scored = np.flatnonzero((self.categories == SCORED) & seen)
        return [self.focal, *(int(k) for k in scored if k != self.focal)]


@dataclass(frozen=True, slots=True)
class Lane:
    """A lane segment; lines are (n, 3) arrays of x, y, z in metres."""

    id: int
    centerline: Floats
    left: Floats
    right: Floats
    is_intersection: bool = False
    lane_type: str = "VEHICLE"
    left_mark: str = "NONE"
    right_mark: str = "NONE"
    predecessors: tuple[int, ...] = ()
    successors: tuple[int, ...] = ()
    left_neighbor: int | None = None
    right_neighbor: int | None = None


@dataclass(frozen=True, slots=True)
class Crossing:
    """A pedestrian crossing: two edges along the way people walk, (2, 3) each."""

    id: int
    edge1: Floats
    edge2: Floats


@dataclass(frozen=True)
class StreetMap:
    """The map around one scenario."""

    lanes: tuple[Lane, ...] = ()
    crossings: tuple[Crossing, ...] = ()
    areas: Mapping[int, Floats] | None = None
    """Drivable areas by identifier: boundaries, (n, 3)."""


# -- folders ------------------------------------------------------------------------------------


def find_scenarios(root: Path) -> list[Path]:
    """The files of scenarios below a folder, sorted; hidden ones are skipped."""
    found = root.rglob("scenario_*.parquet")
    return sorted(p for p in found if not any(part.startswith(".") for part in p.relative_to(root).parts))


def map_of(scenario: Path) -> Path:
    """Where the map of a scenario's file is."""
    return scenario.with_name(f"log_map_archive_{scenario.stem.removeprefix('scenario_')}.json")


# -- tracks -------------------------------------------------------------------------------------


def read_scenario(path: Path, history: int = HISTORY, future: int = FUTURE) -> Scenario:
    """The tracks of one Parquet file.

    Args:
        path: scenario_<id>.parquet.
        history: observed steps.
        future: steps to predict; a file may lack them, as in the test split.

    Raises:
        Problem: unreadable, a column is missing, another number of steps or rate, a track with two rows at a step,
            values that are not finite, no focal track; names file, track and step.
    """
    parquet = require("pyarrow.parquet", "driving")
    try:
        file = parquet.ParquetFile(path)
        columns = [name for name in file.schema_arrow.names if name in _COLUMNS]
        table = file.read(columns, use_threads=False)
    except OSError as error:
        raise Problem(f"cannot read the scenario: {error.strerror or error}", path, "check the file") from error
    except Exception as error:  # pyarrow has a family of its own
        raise Problem(f"the scenario is damaged: {reason(error)}", path, "fetch the file again") from error
    return _scenario(table, path, history, future, "")


def scenario_of_frame(
    frame: pd.DataFrame, where: object = "data frame", history: int = HISTORY, future: int = FUTURE, focal: str = ""
) -> Scenario:
    """The tracks of a table: track_id, timestep, x, y, heading, vx, vy, object_type; others as in the data set.

    Args:
        frame: a row for each track and step; timestep `history` - 1 is the present.
        where: for messages.
        history: observed steps.
        future: steps to predict; they may be absent.
        focal: the track to predict; empty: the column focal_track_id.

    Raises:
        Problem: as `read_scenario`.
    """
    pyarrow = require("pyarrow", "driving")
    frame = frame.rename(columns=SHORT)
    try:
        table = pyarrow.Table.from_pandas(frame, preserve_index=False)
    except Exception as error:  # columns of mixed types
        raise Problem(f"the table cannot be read: {error}", where, "give each column one type") from error
    return _scenario(table, where, history, future, focal)


def read_tracks(path: Path, history: int = HISTORY, future: int = FUTURE, focal: str = "") -> Scenario:
    """A CSV file of tracks, see `scenario_of_frame`; the scenario is called as the file."""
    import pandas as pd  # costs 0.3 s, and scenarios of the data set do not need it

    try:
        frame = pd.read_csv(path, dtype=dict.fromkeys(("track_id", "focal_track_id", "object_type"), str))
    except (OSError, ValueError) as error:
        raise Problem(f"cannot read the tracks: {error}", path, "give a CSV file with a header") from error
    return scenario_of_frame(frame, path, history, future, focal)


def _scenario(table: Any, where: object, history: int, future: int, focal: str) -> Scenario:
    if missing := [name for name in _NEEDED if name not in table.column_names]:
        remedy = f"columns needed: {', '.join(_NEEDED)}"
        raise Problem(f"no column {', '.join(missing)}{suggest(missing[0], table.column_names, '; ')}", where, remedy)
    if not table.num_rows:
        raise Problem("the scenario has no rows", where, "fetch the file again")
    tracks, track = _coded(table, "track_id", where)
    kinds, kind = _coded(table, "object_type", where)
    facts = {name: table.column(name)[0].as_py() for name in _FACTS if name in table.column_names}
    name = str(facts.get("scenario_id") or Path(str(where)).stem.removeprefix("scenario_"))
    rows = _numbers(table, "timestep", where)
    step = rows.astype(np.int64)
    values = np.stack([_numbers(table, column, where) for column in STATES], axis=1)
    _check_rows(tracks, track, rows, values, where)
    total = history + future
    _check_steps(table, facts, step, history, future, where)

    count = len(tracks)
    twice = np.bincount(track * total + step, minlength=count * total)
    if twice.max() > 1:
        who, when = divmod(int(twice.argmax()), total)
        raise Problem(f"track {tracks[who]} has {twice.max()} rows at timestep {when}", where, "keep one of them")
    states = np.zeros((count, total, len(STATES)))
    states[track, step] = values
    first = np.unique(track, return_index=True)[1]
    return _checked(
        Scenario(
            name=name,
            city=str(facts.get("city") or ""),
            tracks=tuple(tracks),
            types=_types(kinds, where)[kind[first]],
            categories=_categories(table, where)[first],
            states=states,
            valid=twice.reshape(count, total) > 0,
            focal=_focal(tracks, focal or str(facts.get("focal_track_id") or ""), name, where),
            history=history,
            start=float(facts.get("start_timestamp") or 0.0),
        ),
        where,
    )


def _coded(table: Any, name: str, where: object) -> tuple[list[str], NDArray[np.int64]]:
    """Distinct words of a column in the order in which they come, and the number of each row's."""
    pyarrow = require("pyarrow", "driving")
    column = table.column(name)
    if column.null_count:
        raise Problem(f"{name} is empty in {column.null_count} rows", where, "fill them in")
    coded = column.cast(pyarrow.string()).combine_chunks().dictionary_encode()
    if isinstance(coded, pyarrow.ChunkedArray):
        coded = coded.combine_chunks()
    return coded.dictionary.to_pylist(), coded.indices.to_numpy().astype(np.int64)


def _numbers(table: Any, name: str, where: object) -> Floats:
    """A column of numbers; empty cells are NaN."""
    try:
        return table.column(name).to_numpy().astype(np.float64)
    except (TypeError, ValueError) as error:
        raise Problem(f"{name} is no column of numbers", where, "write numbers there") from error


def _check_rows(tracks: list[str], track: NDArray[np.int64], step: Floats, values: Floats, where: object) -> None:
    """Refuse values that are not finite, and timesteps that are no whole numbers from 0 on."""
    if not np.isfinite(values).all():
        row, column = (int(k) for k in np.argwhere(~np.isfinite(values))[0])
        what = f"{STATES[column]} of track {tracks[track[row]]} is {values[row, column]} at timestep {step[row]:g}"
        raise Problem(what, where, "drop the row: a track has rows only where it is seen")
    wrong = np.flatnonzero(~((step >= 0) & (step == np.floor(step))))
    if len(wrong):
        what = f"timestep {step[wrong[0]]} of track {tracks[track[wrong[0]]]}"
        raise Problem(what, where, "number the steps 0, 1, 2, …")


def _check_steps(
    table: Any, facts: Mapping[str, Any], step: NDArray[np.int64], history: int, future: int, where: object
) -> None:
    """Refuse another number of steps, or another rate."""
    found, expected = int(step.max()) + 1, f"{history} observed and {future} future steps"
    remedy = "set history and future to those of the data, and train on such data"
    told = facts.get("num_timestamps")
    if found > history + future or (told is not None and int(told) not in (history, history + future)):
        raise Problem(f"{max(found, int(told or 0))} steps, and the settings expect {expected}", where, remedy)
    if "observed" in table.column_names:
        observed = table.column("observed").to_numpy().astype(bool)
        if (observed != (step < history)).any():
            seen = int(step[observed].max()) + 1 if observed.any() else 0
            raise Problem(f"{seen} observed steps, and the settings expect {expected}", where, remedy)
    start, end = facts.get("start_timestamp"), facts.get("end_timestamp")
    if start is not None and end is not None and told is not None and int(told) > 1:
        interval = (float(end) - float(start)) * 1e-9 / (int(told) - 1)
        if not abs(interval / STEP - 1) < _RATE_TOLERANCE:
            rate = 1 / interval if interval else math.inf
            raise Problem(
                f"{rate:.3g} steps a second, not {1 / STEP:g}", where, f"resample the tracks to {1 / STEP:g} Hz"
            )


def _types(kinds: list[str], where: object) -> NDArray[np.int64]:
    words = [kind.strip().lower() for kind in kinds]
    if unknown := [word for word in words if word not in OBJECT_TYPES]:
        raise Problem(
            f"unknown object_type {unknown[0]!r}{suggest(unknown[0], OBJECT_TYPES)}",
            where,
            f"choose from {', '.join(OBJECT_TYPES)}",
        )
    return np.array([OBJECT_TYPES.index(word) for word in words])


def _categories(table: Any, where: object) -> NDArray[np.int64]:
    if "object_category" not in table.column_names:
        return np.full(table.num_rows, UNSCORED)
    values = _numbers(table, "object_category", where)
    wrong = values[~np.isin(values, (FRAGMENT, UNSCORED, SCORED, FOCAL))]
    if len(wrong):
        raise Problem(f"object_category {wrong[0]:g}", where, "0 fragment, 1 unscored, 2 scored, 3 focal")
    return values.astype(np.int64)


def _focal(tracks: list[str], focal: str, name: str, where: object) -> int:
    if focal in tracks:
        return tracks.index(focal)
    listed = f"tracks: {', '.join(tracks[:8])}{', …' if len(tracks) > 8 else ''}"
    what = f"its focal track {focal} has no rows" if focal else "it names no focal track"
    raise Problem(f"scenario {name}: {what}", where, f"name one in the column focal_track_id, or as focal; {listed}")


def _checked(scenario: Scenario, where: object) -> Scenario:
    """Refuse a focal track that cannot be predicted, and speeds that no road user has."""
    history, who = scenario.history, scenario.tracks[scenario.focal]
    seen = scenario.valid[scenario.focal, :history]
    if not seen[-1]:
        what = f"scenario {scenario.name}: the focal track {who} has no row at timestep {history - 1}, the present"
        raise Problem(what, where, f"the last observed step is {history - 1}; number the steps so that it ends there")
    if seen.sum() < 2:
        what = f"scenario {scenario.name}: the focal track {who} has a single observed row"
        raise Problem(what, where, "at least 2 steps are needed")
    speeds = np.hypot(scenario.states[..., 3], scenario.states[..., 4]).sum(1) / scenario.valid.sum(1)
    path = scenario.states[scenario.focal, scenario.valid[scenario.focal], :2]
    steps = np.flatnonzero(scenario.valid[scenario.focal])
    speeds[scenario.focal] = max(
        speeds[scenario.focal], np.hypot(*np.diff(path, axis=0).T).sum() / (STEP * (steps[-1] - steps[0]))
    )
    if speeds.max() > TOO_FAST:
        fastest = int(speeds.argmax())
        what = f"track {scenario.tracks[fastest]} moves at {speeds[fastest]:.0f} m/s on average"
        raise Problem(what, where, "are positions in metres, velocities in m/s, and steps 0.1 s apart?")
    return scenario


def write_scenario(
    folder: Path, scenario: Scenario, streets: StreetMap | None = None, *, observed: bool = False
) -> Path:
    """Write a scenario, and its map, in the format of the data set.

    Args:
        folder: of the split; the scenario has a folder of its own below it.
        scenario: its tracks.
        streets: its map; None: no file.
        observed: leave out the future, as in the test split.

    Returns:
        The Parquet file.
    """
    pyarrow, parquet = require("pyarrow", "driving"), require("pyarrow.parquet", "driving")
    valid = scenario.valid.copy()
    valid[:, scenario.history :] &= not observed
    track, step = np.nonzero(valid)  # by track, then by time
    rows, total = len(track), scenario.valid.shape[1]
    states = scenario.states[track, step]
    columns: dict[str, Any] = {
        "observed": step < scenario.history,
        "track_id": [scenario.tracks[k] for k in track],
        "object_type": [OBJECT_TYPES[k] for k in scenario.types[track]],
        "object_category": scenario.categories[track],
        "timestep": step.astype(np.int64),
        **{name: states[:, k] for k, name in enumerate(STATES)},
        "scenario_id": [scenario.name] * rows,
        "start_timestamp": np.full(rows, scenario.start),
        "end_timestamp": np.full(rows, scenario.start + (total - 1) * STEP * 1e9),
        "num_timestamps": np.full(rows, total),
        "focal_track_id": [scenario.tracks[scenario.focal]] * rows,
        "city": [scenario.city] * rows,
    }
    path = folder / scenario.name / f"scenario_{scenario.name}.parquet"
    sink = pyarrow.BufferOutputStream()
    parquet.write_table(pyarrow.table(columns), sink, compression="snappy")
    write_bytes(path, sink.getvalue().to_pybytes())
    if streets is not None:
        write_text(map_of(path), json.dumps(_map_json(streets)))
    return path


# -- maps ---------------------------------------------------------------------------------------


def read_map(path: Path) -> StreetMap:
    """The map of a scenario.

    A lane without a centreline, as in maps of the sensor data set, gets the one between its boundaries.

    Raises:
        Problem: unreadable, or a lane or crossing that lacks a field; names it.
    """
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise Problem(f"cannot read the map: {error.strerror}", path, "check the file") from error
    except (ValueError, RecursionError) as error:
        raise Problem(f"the map is no JSON: {error}", path, "fetch the file again") from error
    if not isinstance(content, dict) or not isinstance(content.get("lane_segments"), dict):
        raise Problem("the map has no lane_segments", path, "give log_map_archive_<id>.json of the data set")
    lines = _Lines(path)
    lanes, crossings = content["lane_segments"].values(), content.get("pedestrian_crossings", {}).values()
    areas = content.get("drivable_areas", {}).values()
    for lane in lanes:
        for key in ("centerline", "left_lane_boundary", "right_lane_boundary"):
            lines.add(lane, key, optional=key == "centerline")
    for crossing in crossings:
        lines.add(crossing, "edge1")
        lines.add(crossing, "edge2")
    for area in areas:
        lines.add(area, "area_boundary")
    cut = iter(lines.cut())
    return StreetMap(
        lanes=tuple(_lane(lane, next(cut), next(cut), next(cut), path) for lane in lanes),
        crossings=tuple(Crossing(int(crossing["id"]), next(cut), next(cut)) for crossing in crossings),
        areas={int(area["id"]): next(cut) for area in areas},
    )


def read_map_of(scenario: Path) -> StreetMap:
    """The map beside a scenario's file; without one an empty map, with a warning."""
    path = map_of(scenario)
    if path.exists():
        return read_map(path)
    warnings.warn(f"{path.name} is missing: the scenario is read without a map", stacklevel=2)
    return StreetMap()


class _Lines:
    """Collects the points of many polylines, to make one array of them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.points: list[tuple[float, float, float]] = []
        self.ends: list[int] = []

    def add(self, item: Mapping[str, Any], key: str, *, optional: bool = False) -> None:
        try:
            line = item.get(key) or [] if optional else item[key]
            self.points += [(p["x"], p["y"], p.get("z", 0.0)) for p in line]
            if not (line or optional):
                raise ValueError("it is empty")
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            number = item.get("id", "without id") if isinstance(item, Mapping) else "no object"
            raise Problem(
                f"{key} of {number} cannot be read: {error}", self.path, "give points with x and y"
            ) from error
        self.ends.append(len(self.points))

    def cut(self) -> list[Floats]:
        """The polylines, in the order in which they were added."""
        try:
            points = np.array(self.points, dtype=np.float64).reshape(-1, 3)
        except (TypeError, ValueError) as error:
            raise Problem(f"a coordinate of the map is no number: {error}", self.path, "give metres") from error
        if not np.isfinite(points).all():
            raise Problem("a coordinate of the map is not finite", self.path, "give metres")
        return [points[start:end] for start, end in zip([0, *self.ends], self.ends, strict=False)]


def _lane(fields: Mapping[str, Any], centre: Floats, left: Floats, right: Floats, path: Path) -> Lane:
    try:
        kind = fields["lane_type"]
        if kind not in LANE_TYPES:
            what = f"lane_type {kind!r} of lane {fields['id']}"
            raise Problem(what, path, f"choose from {', '.join(LANE_TYPES)}")
        return Lane(
            id=int(fields["id"]),
            centerline=centre if len(centre) else _between(left, right),
            left=left,
            right=right,
            is_intersection=bool(fields["is_intersection"]),
            lane_type=kind,
            left_mark=fields.get("left_lane_mark_type", "NONE"),
            right_mark=fields.get("right_lane_mark_type", "NONE"),
            predecessors=tuple(fields.get("predecessors", ())),
            successors=tuple(fields.get("successors", ())),
            left_neighbor=fields.get("left_neighbor_id"),
            right_neighbor=fields.get("right_neighbor_id"),
        )
    except KeyError as error:
        raise Problem(f"lane {fields.get('id')} has no {error}", path, "fetch the file again") from error


def _between(left: Floats, right: Floats, points: int = 10) -> Floats:
    """The line between two boundaries, (points, 3)."""
    return resample([left, right], points).mean(0)


def resample(lines: Sequence[Floats], points: int) -> Floats:
    """Points at equal distances along polylines, from their first to their last point.

    All lines at once: line k is laid out from 2k to 2k + 1, in proportion to the length along it.

    Args:
        lines: (n, D) each, n >= 1.
        points: L of each, at least 2.

    Returns:
        (len(lines), L, D)

    Example:
        >>> resample([np.array([[0.0, 0.0], [1.0, 0.0], [4.0, 0.0]])], 3)[0, :, 0].tolist()
        [0.0, 2.0, 4.0]
    """
    if not lines:
        return np.zeros((0, points, 2))
    counts = np.array([len(line) for line in lines])
    joined, owner = np.concatenate(lines), np.repeat(np.arange(len(lines)), counts)
    starts = np.cumsum(counts) - counts
    lengths = np.hypot(*np.diff(joined[:, :2], axis=0, prepend=joined[:1, :2]).T)
    lengths[starts] = 0.0
    along = np.cumsum(lengths)
    along -= along[starts][owner]
    whole = along[starts + counts - 1]
    place = 2.0 * owner + np.where(whole > 0, 1 / np.maximum(whole, 1e-300), 0.0)[owner] * along
    wanted = (2.0 * np.arange(len(lines))[:, None] + np.linspace(0, 1, points)).ravel()
    # A line of length 0 ends where it starts: `last` keeps its points from running into the next line.
    last = place[starts + counts - 1]
    wanted = np.minimum(wanted, np.repeat(last, points))
    return np.stack([np.interp(wanted, place, column) for column in joined.T], -1).reshape(len(lines), points, -1)


def _map_json(streets: StreetMap) -> dict[str, Any]:
    def points(line: Floats) -> list[dict[str, float]]:
        return [{"x": x, "y": y, "z": z} for x, y, z in np.round(line, 2).tolist()]

    return {
        "drivable_areas": {
            str(key): {"area_boundary": points(line), "id": key} for key, line in (streets.areas or {}).items()
        },
        "lane_segments": {
            str(lane.id): {
                "centerline": points(lane.centerline),
                "id": lane.id,
                "is_intersection": lane.is_intersection,
                "lane_type": lane.lane_type,
                "left_lane_boundary": points(lane.left),
                "left_lane_mark_type": lane.left_mark,
                "left_neighbor_id": lane.left_neighbor,
                "predecessors": list(lane.predecessors),
                "right_lane_boundary": points(lane.right),
                "right_lane_mark_type": lane.right_mark,
                "right_neighbor_id": lane.right_neighbor,
                "successors": list(lane.successors),
            }
            for lane in streets.lanes
        },
        "pedestrian_crossings": {
            str(crossing.id): {"edge1": points(crossing.edge1), "edge2": points(crossing.edge2), "id": crossing.id}
            for crossing in streets.crossings
        },
    }


# -- submissions --------------------------------------------------------------------------------


def check_probabilities(names: Iterable[str], probabilities: Floats, where: object) -> None:
    """Refuse probabilities that are negative, or whose sum over the trajectories of a track is not 1.

    Args:
        names: of the scenarios.
        probabilities: (S, K).
        where: for the message.

    Raises:
        Problem: names the first scenario that is wrong.
    """
    for name, row in zip(names, np.asarray(probabilities, dtype=np.float64), strict=True):
        if not (np.isfinite(row).all() and (row >= 0).all() and abs(row.sum() - 1) < _SUM_TOLERANCE):
            what = f"scenario {name}: the probabilities sum to {row.sum():.6g}, the least is {row.min():.3g}"
            raise Problem(what, where, "give probabilities that sum to 1 over the trajectories of a track")


def write_submission(
    path: Path, scenarios: Sequence[str], tracks: Sequence[str], trajectories: Floats, probabilities: Floats
) -> Path:
    """The file that the leaderboard takes: a row for each trajectory.

    Args:
        path: of the Parquet file.
        scenarios: S identifiers.
        tracks: the predicted track of each.
        trajectories: (S, K, F, 2) in the city's frame, in metres.
        probabilities: (S, K), summing to 1 over K.

    Raises:
        Problem: probabilities that do not sum to 1, coordinates that are not finite.
    """
    pyarrow, parquet = require("pyarrow", "driving"), require("pyarrow.parquet", "driving")
    trajectories = np.asarray(trajectories, dtype=np.float64)
    probabilities = np.asarray(probabilities, dtype=np.float64)
    if not np.isfinite(trajectories).all():
        raise Problem("a trajectory is not finite", path, "train the model anew")
    check_probabilities(scenarios, probabilities, path)
    modes = probabilities.shape[1]
    rows: tuple[Any, ...] = (
        [name for name in scenarios for _ in range(modes)],
        [name for name in tracks for _ in range(modes)],
        probabilities.ravel(),
        list(trajectories[..., 0].reshape(-1, trajectories.shape[2])),
        list(trajectories[..., 1].reshape(-1, trajectories.shape[2])),
    )
    sink = pyarrow.BufferOutputStream()
    parquet.write_table(pyarrow.table(dict(zip(SUBMISSION, rows, strict=True))), sink)
    write_bytes(path, sink.getvalue().to_pybytes())
    return path


@dataclass(frozen=True)
class Submission:
    """A submission's rows; see `write_submission`."""

    scenarios: tuple[str, ...]
    tracks: tuple[str, ...]
    trajectories: Floats
    probabilities: Floats


def read_submission(path: Path, modes: int = MODES, future: int = FUTURE) -> Submission:
    """Read and check a submission.

    Raises:
        Problem: unreadable, columns missing, another number of trajectories or steps, probabilities that do not sum
            to 1; names the scenario.
    """
    parquet = require("pyarrow.parquet", "driving")
    try:
        table = parquet.read_table(path)
    except Exception as error:  # pyarrow has a family of its own
        raise Problem(f"cannot read the submission: {error}", path, "give a Parquet file") from error
    if missing := [name for name in SUBMISSION if name not in table.column_names]:
        raise Problem(f"no column {', '.join(missing)}", path, f"columns needed: {', '.join(SUBMISSION)}")
    found: dict[tuple[str, str], list[tuple[float, list[float], list[float]]]] = {}
    for scenario, track, *row in zip(*(table.column(name).to_pylist() for name in SUBMISSION), strict=True):
        found.setdefault((scenario, track), []).append((row[0], row[1], row[2]))
    for (scenario, track), rows in found.items():
        lengths = {len(line) for row in rows for line in row[1:]}
        if len(rows) != modes or lengths != {future}:
            what = f"scenario {scenario}, track {track}: {len(rows)} trajectories of {sorted(lengths)} steps"
            raise Problem(what, path, f"give {modes} trajectories of {future} steps")
    probabilities = np.array([[row[0] for row in rows] for rows in found.values()], dtype=np.float64)
    check_probabilities([scenario for scenario, _ in found], probabilities, path)
    lines = [[np.stack(row[1:], axis=1) for row in rows] for rows in found.values()]
    trajectories = np.array(lines, dtype=np.float64).reshape(len(found), modes, future, 2)
    return Submission(tuple(s for s, _ in found), tuple(t for _, t in found), trajectories, probabilities)
