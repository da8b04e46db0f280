"""Argoverse 2: scenarios and maps, real and generated, round trips, submissions, bad input."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from repertory.core.problem import Problem
from repertory.data.argoverse import (
    OBJECT_TYPES,
    STATES,
    StreetMap,
    check_probabilities,
    find_scenarios,
    map_of,
    read_map,
    read_map_of,
    read_scenario,
    read_submission,
    read_tracks,
    resample,
    scenario_of_frame,
    write_scenario,
    write_submission,
)
from repertory.papers.tenet.sample import write_sample

pytest.importorskip("pyarrow", reason="pip install 'repertory[driving]'")
pd = pytest.importorskip("pandas")

REAL = "0a1e6f0a-1817-4a98-b02e-db8c9327d151"


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("towns")
    write_sample(folder, {"train": 2, "test": 1}, seed=3)
    return folder


@pytest.fixture(params=["sample", pytest.param("real", marks=pytest.mark.realdata)])
def scenario_file(request: pytest.FixtureRequest, town: Path) -> Path:
    """A generated scenario, and the real one."""
    if request.param == "sample":
        return find_scenarios(town / "train")[0]
    return find_scenarios(request.getfixturevalue("real_data")("av2_motion_sample"))[0]


# -- reading ------------------------------------------------------------------------------------------


@pytest.mark.realdata
def test_the_real_scenario(real_data: Callable[[str], Path]) -> None:
    (path,) = find_scenarios(real_data("av2_motion_sample"))
    scenario = read_scenario(path)
    assert (scenario.name, scenario.city) == (REAL, "austin")
    assert scenario.tracks[scenario.focal] == "138951"
    assert scenario.valid.shape == (58, 110)
    assert scenario.valid.sum() == 2434
    assert scenario.valid[:, :50].sum() == 1130
    assert np.bincount(scenario.categories).tolist() == [51, 5, 1, 1]
    rows = {kind: int(scenario.valid[scenario.types == k].sum()) for k, kind in enumerate(OBJECT_TYPES)}
    assert {kind: count for kind, count in rows.items() if count} == {
        "vehicle": 1774, "pedestrian": 329, "static": 167, "riderless_bicycle": 142, "background": 22,
    }  # fmt: skip
    assert scenario.to_predict[0] == scenario.focal
    assert len(scenario.to_predict) == 2

    streets = read_map_of(path)
    assert (len(streets.lanes), len(streets.crossings), len(streets.areas or {})) == (71, 6, 2)
    kinds = [lane.lane_type for lane in streets.lanes]
    assert (kinds.count("BIKE"), kinds.count("VEHICLE")) == (37, 34)
    assert {lane.left_mark for lane in streets.lanes} <= {
        "NONE", "DASHED_WHITE", "SOLID_WHITE", "DASHED_YELLOW", "SOLID_YELLOW", "DOUBLE_SOLID_YELLOW",
    }  # fmt: skip


def test_row_by_row(scenario_file: Path) -> None:
    scenario, frame = read_scenario(scenario_file), pd.read_parquet(scenario_file)
    assert scenario.valid.sum() == len(frame)
    for row in frame.iloc[::37].to_dict("records"):
        track = scenario.tracks.index(row["track_id"])
        assert scenario.states[track, row["timestep"]].tolist() == [row[name] for name in STATES]
        assert OBJECT_TYPES[scenario.types[track]] == row["object_type"]
        assert scenario.categories[track] == row["object_category"]
    assert not scenario.states[~scenario.valid].any()


def test_map_field_by_field(scenario_file: Path) -> None:
    streets, raw = read_map(map_of(scenario_file)), json.loads(map_of(scenario_file).read_text())
    assert len(streets.lanes) == len(raw["lane_segments"])
    for lane in streets.lanes:
        fields = raw["lane_segments"][str(lane.id)]
        for line, key in ((lane.centerline, "centerline"), (lane.right, "right_lane_boundary")):
            assert line.tolist() == [[p["x"], p["y"], p["z"]] for p in fields[key]]
        assert lane.is_intersection == fields["is_intersection"]
        assert list(lane.successors) == fields["successors"]
        assert lane.left_neighbor == fields["left_neighbor_id"]
        assert lane.right_mark == fields["right_lane_mark_type"]
    for crossing in streets.crossings:
        edge = raw["pedestrian_crossings"][str(crossing.id)]["edge2"]
        assert crossing.edge2.tolist() == [[p["x"], p["y"], p["z"]] for p in edge]


def test_round_trip(scenario_file: Path, tmp_path: Path) -> None:
    scenario, streets = read_scenario(scenario_file), read_map_of(scenario_file)
    written = write_scenario(tmp_path, scenario, streets)
    again = read_scenario(written)
    for name in ("states", "valid", "types", "categories"):
        assert np.array_equal(getattr(again, name), getattr(scenario, name))
    assert (again.tracks, again.focal, again.start) == (scenario.tracks, scenario.focal, scenario.start)
    for lane, before in zip(read_map_of(written).lanes, streets.lanes, strict=True):
        assert np.allclose(lane.centerline, before.centerline, atol=0.006)
        assert (lane.successors, lane.lane_type) == (before.successors, before.lane_type)
    columns = set(pd.read_parquet(scenario_file).columns) - {"map_id", "slice_id"}
    assert set(pd.read_parquet(written).columns) == columns


def test_test_split_has_no_future(scenario_file: Path, tmp_path: Path) -> None:
    scenario = read_scenario(scenario_file)
    seen = read_scenario(write_scenario(tmp_path, scenario, observed=True))
    assert not seen.valid[:, 50:].any()
    assert seen.valid.sum() == scenario.valid[:, :50].sum()
    assert not map_of(tmp_path / scenario.name / f"scenario_{scenario.name}.parquet").exists()


def test_without_a_map(scenario_file: Path, tmp_path: Path) -> None:
    shutil.copy(scenario_file, tmp_path)
    with pytest.warns(UserWarning, match="log_map_archive.* is missing"):
        assert read_map_of(tmp_path / scenario_file.name) == StreetMap()


def test_lane_without_centreline(scenario_file: Path, tmp_path: Path) -> None:
    content = json.loads(map_of(scenario_file).read_text())
    for lane in content["lane_segments"].values():
        del lane["centerline"]
    (tmp_path / "map.json").write_text(json.dumps(content))
    for lane, before in zip(read_map(tmp_path / "map.json").lanes, read_map_of(scenario_file).lanes, strict=True):
        middle = (before.left[0, :2] + before.right[0, :2]) / 2
        assert np.allclose(lane.centerline[0, :2], middle)
        assert len(lane.centerline) == 10


def test_resampling() -> None:
    rng = np.random.default_rng(0)
    lines = [np.cumsum(rng.normal(size=(n, 3)), axis=0) for n in (2, 7, 30)] + [np.ones((3, 3)), np.zeros((1, 3))]
    lines.append(np.array([[0.0, 0, 0], [0, 0, 0], [2, 0, 0]]))  # a point twice
    found = resample(lines, 9)
    for points, line in zip(found, lines, strict=True):
        along = np.concatenate([[0], np.hypot(*np.diff(line[:, :2], axis=0).T).cumsum()])
        wanted = np.linspace(0, along[-1], 9)
        if along[-1] == 0:
            assert np.allclose(points, line[0])
        else:
            assert np.allclose(points, np.stack([np.interp(wanted, along, c) for c in line.T], -1))
    assert resample([], 9).shape == (0, 9, 2)


def test_hidden_folders_are_skipped(scenario_file: Path, tmp_path: Path) -> None:
    for name in (".trash", "seen"):
        (tmp_path / name).mkdir()
        shutil.copy(scenario_file, tmp_path / name)
    assert [path.parent.name for path in find_scenarios(tmp_path)] == ["seen"]


# -- tables of tracks -----------------------------------------------------------------------------------


def test_csv_of_tracks(scenario_file: Path, tmp_path: Path) -> None:
    frame = pd.read_parquet(scenario_file).query("timestep < 50")
    columns = ["track_id", "timestep", "position_x", "position_y", "heading", "velocity_x", "velocity_y", "object_type"]
    short = dict(zip(columns, ["track_id", "timestep", "x", "y", "heading", "vx", "vy", "object_type"], strict=True))
    frame[columns].rename(columns=short).to_csv(tmp_path / "mine.csv", index=False)
    wanted = read_scenario(scenario_file)
    focal = wanted.tracks[wanted.focal]
    found = read_tracks(tmp_path / "mine.csv", focal=focal)
    assert found.name == "mine"
    assert found.tracks[found.focal] == focal
    row = wanted.states[wanted.focal, :50]
    assert np.allclose(found.states[found.focal, :50], row)
    with pytest.raises(Problem, match="names no focal track") as problem:
        read_tracks(tmp_path / "mine.csv")
    assert found.tracks[0] in problem.value.remedy


# -- bad input --------------------------------------------------------------------------------------------


def _set(column: str, value: Any, rows: str = "timestep >= 0") -> Callable[[Any], Any]:
    def change(frame: Any) -> Any:
        if isinstance(value, str) or value is None:
            frame[column] = frame[column].astype(object)
        chosen = frame.query(rows).index
        frame.loc[chosen, column] = value
        return frame

    return change


BAD: dict[str, tuple[Callable[[Any], Any], str]] = {
    "no column": (lambda f: f.drop(columns="heading"), "no column heading"),
    "no rows": (lambda f: f.iloc[:0], "no rows"),
    "focal absent": (_set("focal_track_id", "nobody"), "its focal track nobody has no rows"),
    "focal not at the present": (
        lambda f: f[(f.track_id != f.focal_track_id) | (f.timestep != 49)],
        "no row at timestep 49",
    ),
    "one observed row": (
        lambda f: f[(f.track_id != f.focal_track_id) | (f.timestep >= 49)],
        "a single observed row",
    ),
    "row twice": (lambda f: pd.concat([f, f.iloc[[5]]]), "has 2 rows at timestep"),
    "not finite": (lambda f: f.assign(heading=f.heading.where(f.timestep != 3)), "heading of track .* is nan"),
    "too fast": (lambda f: f.assign(velocity_x=f.velocity_x + 100), "m/s on average"),
    "in centimetres": (lambda f: f.assign(position_x=f.position_x * 1000, position_y=f.position_y * 1000), "m/s on"),
    "more steps": (lambda f: f.assign(num_timestamps=200), "200 steps, and the settings expect 50 observed and 60"),
    "other observed": (lambda f: f.assign(observed=f.timestep < 20), "20 observed steps, and the settings expect 50"),
    "20 Hz": (lambda f: f.assign(end_timestamp=(f.start_timestamp + f.end_timestamp) / 2), "20 steps a second, not 10"),
    "unknown type": (_set("object_type", "vehicel"), "'vehicel': did you mean vehicle"),
    "unknown category": (_set("object_category", 7), "object_category 7"),
    "negative step": (_set("timestep", -1, "timestep == 3"), "timestep -1"),
    "words for numbers": (_set("position_x", "far"), "position_x is no column of numbers"),
    "track without name": (_set("track_id", None, "timestep == 3"), "track_id is empty"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_scenario(scenario_file: Path, tmp_path: Path, name: str) -> None:
    change, words = BAD[name]
    frame = change(pd.read_parquet(scenario_file))
    path = tmp_path / scenario_file.name
    frame.to_parquet(path, index=False)
    with pytest.raises(Problem, match=words) as problem:
        read_scenario(path)
    assert scenario_file.name in problem.value.where
    with pytest.raises(Problem, match=words):
        scenario_of_frame(frame)


def test_other_lengths_are_read_when_asked_for(scenario_file: Path) -> None:
    frame = pd.read_parquet(scenario_file).query("timestep >= 20 and timestep < 90").copy()
    frame["timestep"] -= 20
    frame = frame.drop(columns=["num_timestamps", "observed"])
    scenario = scenario_of_frame(frame, history=30, future=40)
    assert scenario.valid.shape[1] == 70


def test_damaged_files(scenario_file: Path, tmp_path: Path) -> None:
    (tmp_path / "scenario_x.parquet").write_bytes(scenario_file.read_bytes()[:5000])
    with pytest.raises(Problem, match="damaged"):
        read_scenario(tmp_path / "scenario_x.parquet")
    with pytest.raises(Problem, match="cannot read the scenario"):
        read_scenario(tmp_path / "absent.parquet")
    (tmp_path / "x.csv").write_text("")
    with pytest.raises(Problem, match="cannot read the tracks"):
        read_tracks(tmp_path / "x.csv")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m: [], "no lane_segments"),
        (lambda m: next(iter(m["lane_segments"].values())).pop("left_lane_boundary"), "left_lane_boundary of"),
        (lambda m: next(iter(m["lane_segments"].values())).update(centerline=[{"x": 1}]), "centerline of .* 'y'"),
        (lambda m: next(iter(m["lane_segments"].values())).update(lane_type="TRAM"), "lane_type 'TRAM' of lane"),
        (lambda m: next(iter(m["lane_segments"].values())).pop("is_intersection"), "has no 'is_intersection'"),
        (lambda m: next(iter(m["lane_segments"].values())).update(centerline=[{"x": "a", "y": 1}]), "no number"),
        (lambda m: next(iter(m["pedestrian_crossings"].values())).update(edge1=[]), "edge1 of .* empty"),
    ],
)
def test_bad_map(scenario_file: Path, tmp_path: Path, change: Callable[[Any], Any], words: str) -> None:
    content = json.loads(map_of(scenario_file).read_text())
    changed = change(content)
    (tmp_path / "map.json").write_text(json.dumps(content if changed != [] else changed))
    with pytest.raises(Problem, match=words):
        read_map(tmp_path / "map.json")


def test_map_that_is_no_json(tmp_path: Path) -> None:
    (tmp_path / "map.json").write_text("{")
    with pytest.raises(Problem, match="no JSON"):
        read_map(tmp_path / "map.json")


# -- submissions --------------------------------------------------------------------------------------------


def test_submission(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    trajectories, p = rng.normal(size=(3, 6, 60, 2)), rng.dirichlet(np.ones(6), 3)
    path = write_submission(tmp_path / "submission.parquet", ["a", "b", "c"], ["1", "2", "1"], trajectories, p)
    found = read_submission(path)
    assert found.scenarios == ("a", "b", "c")
    assert found.tracks == ("1", "2", "1")
    assert np.array_equal(found.trajectories, trajectories)
    assert np.array_equal(found.probabilities, p)
    frame = pd.read_parquet(path)
    assert list(frame.columns) == [
        "scenario_id", "track_id", "probability", "predicted_trajectory_x", "predicted_trajectory_y",
    ]  # fmt: skip
    assert frame.groupby(["scenario_id", "track_id"]).size().tolist() == [6, 6, 6]
    assert frame.predicted_trajectory_y[7].tolist() == trajectories[1, 1, :, 1].tolist()


def test_bad_submission(tmp_path: Path) -> None:
    trajectories, p = np.zeros((2, 6, 60, 2)), np.full((2, 6), 1 / 6)
    wrong = p.copy()
    wrong[1, 0] += 0.01
    with pytest.raises(Problem, match=r"scenario b: the probabilities sum to 1\.01"):
        write_submission(tmp_path / "s.parquet", ["a", "b"], ["1", "1"], trajectories, wrong)
    with pytest.raises(Problem, match="not finite"):
        write_submission(tmp_path / "s.parquet", ["a", "b"], ["1", "1"], trajectories + np.nan, p)
    assert not list(tmp_path.iterdir())
    path = write_submission(tmp_path / "s.parquet", ["a", "b"], ["1", "1"], trajectories, p)
    with pytest.raises(Problem, match=r"scenario a, track 1: 6 trajectories of \[60\] steps"):
        read_submission(path, future=30)
    frame = pd.read_parquet(path)
    frame.iloc[:-1].to_parquet(path)
    with pytest.raises(Problem, match="scenario b, track 1: 5 trajectories"):
        read_submission(path)
    frame.assign(probability=0.5).to_parquet(path)
    with pytest.raises(Problem, match="scenario a: the probabilities sum to 3"):
        read_submission(path)
    frame.drop(columns="probability").to_parquet(path)
    with pytest.raises(Problem, match="no column probability"):
        read_submission(path)
    (tmp_path / "x.parquet").write_text("no")
    with pytest.raises(Problem, match="cannot read the submission"):
        read_submission(tmp_path / "x.parquet")
    with pytest.raises(Problem, match="the least is -1"):
        check_probabilities(["a"], np.array([[2.0, -1.0]]), "here")
