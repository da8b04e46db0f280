"""nuScenes' tables: the small town, frames, velocities, splits, results, and broken tables."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from repertory.core.problem import Problem
from repertory.data.boxes3d import inside, overlapping, quaternion, rotation
from repertory.data.nuscenes import (
    CAMERAS,
    Tables,
    check_files,
    find_frame,
    read_frames,
    read_points,
    scene_split,
    write_results,
)
from repertory.data.towns import Town, write_town


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("town")
    write_town(folder, Town(2, 1, 3, fewest=4, most=6, azimuths=180, reach=10), 0, lambda scenes, _: iter(scenes))
    return folder


def test_points_and_projections_are_on_the_boxes(town: Path) -> None:
    tables = Tables(town)
    frames = read_frames(tables, scene_split(tables)["train"], 2)
    assert len(frames) == 6
    for frame in frames:
        assert [camera.channel for camera in frame.cameras] == list(CAMERAS)
        assert [sweep.age for sweep in frame.sweeps][:1] == [0.0]
        grown = frame.boxes.copy()
        grown[:, 3:6] += 0.2  # range noise
        counts = inside(frame.points(1)[:, :3].astype(float), grown).sum(1)
        assert (counts >= 0.9 * frame.lidar_points).all()
        assert frame.truth.points.tolist() == frame.lidar_points.tolist()
    assert sum(frame.lidar_points.sum() for frame in frames) > 50


def test_velocity_is_that_of_the_boxes(town: Path) -> None:
    tables = Tables(town)
    frames = read_frames(tables, scene_split(tables)["train"][:1], 1)
    first, second = frames[0].truth, frames[1].truth
    np.testing.assert_allclose((second.centre - first.centre)[:, :2] / 0.5, first.velocity, atol=1e-3)


def test_detections_return_to_where_they_were(town: Path, tmp_path: Path) -> None:
    tables = Tables(town)
    frame = read_frames(tables, scene_split(tables)["val"], 1)[0]
    back = frame.globally(np.nan_to_num(frame.boxes), np.ones(len(frame.truth)), frame.truth.name.tolist())
    np.testing.assert_allclose(back.centre, frame.truth.centre, atol=1e-6)
    np.testing.assert_allclose(back.size, frame.truth.size)
    for ours, true in zip(back.rotation, frame.truth.rotation, strict=True):
        np.testing.assert_allclose(rotation(ours.tolist()), rotation(true.tolist()), atol=1e-6)
    write_results(tmp_path / "results.json", back, [frame.token, "other"], camera=True, lidar=False)
    read = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert len(read["results"][frame.token]) == len(back)
    assert read["results"]["other"] == []
    assert read["meta"]["use_camera"]
    assert find_frame(tables, frame.token).scene == frame.scene


def test_broken_tables_are_named(town: Path, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    shutil.copytree(town, folder)
    path = folder / "v1.0-tiny" / "ego_pose.json"
    rows = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(rows[:-1]), encoding="utf-8")
    tables = Tables(folder)
    with pytest.raises(Problem, match=f"table ego_pose has no token '{rows[-1]['token']}', which sample_data"):
        read_frames(tables, [name for names in scene_split(tables).values() for name in names])
    path.write_text("{", encoding="utf-8")
    with pytest.raises(Problem, match="is no JSON"):
        Tables(folder)["ego_pose"]
    with pytest.raises(Problem, match=r"no tables v1.0-\*"):
        Tables(tmp_path)
    with pytest.raises(Problem, match=r"no tables v1\.0-mini here; there is v1\.0-tiny"):
        Tables(folder, "v1.0-mini")
    with pytest.raises(Problem, match="no key frame"):
        find_frame(Tables(town), "nothing")


def test_missing_files_and_clouds_of_another_form(town: Path, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    shutil.copytree(town, folder)
    tables = Tables(folder)
    frames = read_frames(tables, scene_split(tables)["val"], 1)
    check_files(frames, tables, lambda items, _: items)
    frames[0].cameras[0].path.unlink()
    with pytest.raises(Problem, match="is missing"):
        check_files(frames, tables, lambda items, _: items)
    (tmp_path / "cloud.bin").write_bytes(b"123")
    with pytest.raises(Problem, match="no multiple of 20"):
        read_points(tmp_path / "cloud.bin")


def test_splits(town: Path, tmp_path: Path) -> None:
    tables = Tables(town)
    (tmp_path / "split.json").write_text('{"train": ["scene-0002"], "val": ["scene-0000"]}', encoding="utf-8")
    assert scene_split(tables, tmp_path / "split.json")["val"] == ["scene-0000"]
    (tmp_path / "split.json").write_text('{"train": ["scene-9"], "val": []}', encoding="utf-8")
    with pytest.raises(Problem, match="1 scenes are not there"):
        scene_split(tables, tmp_path / "split.json")
    (tmp_path / "split.json").write_text("[]", encoding="utf-8")
    with pytest.raises(Problem, match="no splits"):
        scene_split(tables, tmp_path / "split.json")


def test_geometry() -> None:
    with pytest.warns(UserWarning, match="is normalised"):
        np.testing.assert_allclose(rotation([2, 0, 0, 0]), np.eye(3))
    with pytest.raises(Problem, match="no quaternion"):
        rotation([0, 0, 0, 0])
    np.testing.assert_allclose(quaternion(rotation([0.5, -0.5, 0.5, 0.5])), [0.5, -0.5, 0.5, 0.5])
    boxes = np.array(
        [[0, 0, 0, 4, 2, 1, 0.0], [3.5, 0, 0, 4, 2, 1, 0.0], [0, 2.5, 0, 4, 2, 1, 0.0], [2.8, 1.9, 0, 4, 2, 1, 0.8]]
    )
    expected = [True, True, False, True]
    assert overlapping(boxes[:1], boxes)[0].tolist() == expected
    assert overlapping(boxes, boxes[:1])[:, 0].tolist() == expected
