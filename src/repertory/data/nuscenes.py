"""nuScenes (Caesar et al., CVPR 2020): its tables, point clouds and results files, read without its devkit.

The tables are lists of records in JSON, in a folder v1.0-*; records refer to each other by tokens. A frame is a key
frame with the last LiDAR sweeps, in the coordinates of the LiDAR (x right, y forward, z up) at the key frame's time.
"""

from __future__ import annotations

import functools
import json
import math
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repertory.core.files import write_json
from repertory.core.problem import Problem, suggest
from repertory.data.arrays import file_size, read_text
from repertory.data.boxes3d import inverse, pose, quaternion, rotation, yaw_of

Array = NDArray[np.float64]

CAMERAS = ("CAM_FRONT", "CAM_FRONT_RIGHT", "CAM_FRONT_LEFT", "CAM_BACK", "CAM_BACK_LEFT", "CAM_BACK_RIGHT")
LIDAR = "LIDAR_TOP"
CLASSES = (
    "car", "truck", "construction_vehicle", "bus", "trailer", "barrier", "motorcycle", "bicycle", "pedestrian",
    "traffic_cone",
)  # fmt: skip
"""Of the detection task, in the order of the published networks."""
CATEGORIES: Mapping[str, str] = {
    "movable_object.barrier": "barrier",
    "movable_object.trafficcone": "traffic_cone",
    "vehicle.bicycle": "bicycle",
    "vehicle.bus.bendy": "bus",
    "vehicle.bus.rigid": "bus",
    "vehicle.car": "car",
    "vehicle.construction": "construction_vehicle",
    "vehicle.motorcycle": "motorcycle",
    "vehicle.trailer": "trailer",
    "vehicle.truck": "truck",
    **{
        f"human.pedestrian.{kind}": "pedestrian" for kind in ("adult", "child", "construction_worker", "police_officer")
    },
}
"""Category -> class of the detection task; all others are ignored."""
BIKE_RACK = "static_object.bicycle_rack"
DEFAULT_ATTRIBUTE: Mapping[str, str] = {
    **dict.fromkeys(("car", "truck", "trailer", "construction_vehicle"), "vehicle.parked"),
    "bus": "vehicle.moving",
    "pedestrian": "pedestrian.moving",
    **dict.fromkeys(("motorcycle", "bicycle"), "cycle.without_rider"),
}
MOVING_ATTRIBUTE: Mapping[str, str] = {
    **dict.fromkeys(("car", "truck", "trailer", "construction_vehicle", "bus"), "vehicle.moving"),
    **dict.fromkeys(("motorcycle", "bicycle"), "cycle.with_rider"),
}
STANDING_ATTRIBUTE: Mapping[str, str] = {"pedestrian": "pedestrian.standing", "bus": "vehicle.stopped"}
MOVING_SPEED = 0.2
"""Metres a second above which an object counts as moving."""
MINI = {
    "train": ("0061", "0553", "0655", "0757", "0796", "1077", "1094", "1100"),
    "val": ("0103", "0916"),
}
"""Scenes of the mini version."""
HELD_OUT = 0.15
"""Share of the scenes, the last ones, that is held out where no split is known."""
LONGEST = 1.5
"""Seconds between two annotations of an object beyond which its velocity is unknown; twice as much over two steps."""
COLUMNS = 5
TABLES = (
    "sensor", "calibrated_sensor", "ego_pose", "scene", "sample", "sample_data", "category", "attribute", "instance",
    "sample_annotation",
)  # fmt: skip
LAYOUT = """
v1.0-*/{sample,sample_data,sample_annotation,...}.json, tables of nuScenes
samples/CAM_FRONT/*.jpg, ..., samples/LIDAR_TOP/*.pcd.bin, sweeps/LIDAR_TOP/*.pcd.bin
splits.json, optional: {"train": ["scene-0061", ...], "val": [...]}
"""


@dataclass(frozen=True)
class Boxes:
    """Boxes in global coordinates, true or detected, as the metric and the results file take them; n rows each."""

    sample: NDArray[np.str_]
    name: NDArray[np.str_]
    """Class."""
    centre: Array
    """(n, 3), metres."""
    size: Array
    """(n, 3): width, length, height in metres."""
    rotation: Array
    """(n, 4): quaternion w, x, y, z."""
    velocity: Array
    """(n, 2), metres a second; NaN: unknown."""
    attribute: NDArray[np.str_]
    """Empty: none."""
    score: Array
    """-1 for true boxes."""
    points: NDArray[np.int64]
    """LiDAR and radar points on the object; -1 for detections."""

    def __len__(self) -> int:
        return len(self.sample)

    def __getitem__(self, rows: NDArray[np.bool_] | NDArray[np.int64]) -> Boxes:
        return Boxes(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})

    @classmethod
    def of(cls, rows: Iterable[Mapping[str, Any]]) -> Boxes:
        """From records with the keys of a results file; `num_pts` of true boxes."""
        rows = list(rows)

        def column(key: str, default: Any = None) -> list[Any]:
            return [row.get(key, default) for row in rows]

        return cls(
            np.array(column("sample_token"), str),
            np.array(column("detection_name"), str),
            np.array(column("translation"), float).reshape(-1, 3),
            np.array(column("size"), float).reshape(-1, 3),
            np.array(column("rotation"), float).reshape(-1, 4),
            np.array(column("velocity"), float).reshape(-1, 2),
            np.array(column("attribute_name", ""), str),
            np.array(column("detection_score", -1.0), float),
            np.array(column("num_pts", -1), int),
        )

    @classmethod
    def joined(cls, parts: Sequence[Boxes]) -> Boxes:
        """The rows of all parts."""
        if not parts:
            return cls.of([])
        return cls(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(cls)))

    def records(self) -> list[dict[str, Any]]:
        """Rows of a results file."""
        return [
            {
                "sample_token": str(self.sample[i]),
                "translation": self.centre[i].tolist(),
                "size": self.size[i].tolist(),
                "rotation": self.rotation[i].tolist(),
                "velocity": np.nan_to_num(self.velocity[i]).tolist(),
                "detection_name": str(self.name[i]),
                "detection_score": float(self.score[i]),
                "attribute_name": str(self.attribute[i]),
            }
            for i in range(len(self))
        ]


@dataclass(frozen=True)
class Camera:
    """An image of a frame."""

    channel: str
    path: Path
    intrinsic: Array
    """(3, 3), of the image as it is stored."""
    from_lidar: Array
    """(4, 4), LiDAR at the key frame -> camera when it took the image."""


@dataclass(frozen=True)
class Sweep:
    """A point cloud of a frame."""

    path: Path
    to_key: Array
    """(4, 4), LiDAR at that time -> LiDAR at the key frame."""
    age: float
    """Seconds before the key frame."""


@dataclass(frozen=True)
class Frame:
    """A key frame."""

    token: str
    scene: str
    cameras: tuple[Camera, ...]
    sweeps: tuple[Sweep, ...]
    """The key frame's own first, then back in time."""
    to_global: Array
    """(4, 4), LiDAR -> global."""
    ego: Array
    """(3,), position of the vehicle."""
    truth: Boxes
    """Of the detection task's classes."""
    lidar_points: NDArray[np.int64]
    """LiDAR points on each true box, as annotated."""
    racks: Array
    """(m, 7): bicycle racks, global."""

    @functools.cached_property
    def boxes(self) -> Array:
        """True boxes in LiDAR coordinates, (n, 9): x, y, z of the centre, dx, dy, dz, yaw, vx, vy (NaN: unknown)."""
        back = inverse(self.to_global)
        centre = self.truth.centre @ back[:3, :3].T + back[:3, 3]
        yaw = [yaw_of(back[:3, :3] @ rotation(q, self.token)) for q in self.truth.rotation]
        velocity = self.truth.velocity @ back[:2, :2].T
        return np.column_stack([centre, self.truth.size[:, (1, 0, 2)], np.array(yaw), velocity]).reshape(-1, 9)

    def points(self, sweeps: int) -> NDArray[np.float32]:
        """Points of the last sweeps in LiDAR coordinates, (N, 5): x, y, z in metres, intensity, age in seconds."""
        parts = []
        for sweep in self.sweeps[:sweeps]:
            cloud = read_points(sweep.path)
            cloud[:, :3] = cloud[:, :3] @ sweep.to_key[:3, :3].T + sweep.to_key[:3, 3]
            cloud[:, 4] = sweep.age
            parts.append(cloud)
        return np.concatenate(parts) if parts else np.zeros((0, COLUMNS), np.float32)

    def globally(self, boxes: Array, scores: Array, names: Sequence[str]) -> Boxes:
        """Detections (n, 9) in LiDAR coordinates as rows of a results file; attributes by class and speed."""
        turn = self.to_global[:3, :3]
        velocity = boxes[:, 7:9] @ turn[:2, :2].T
        speed = np.hypot(*velocity.T) if len(boxes) else np.zeros(0)
        yaw = boxes[:, 6]
        turns = np.zeros((len(boxes), 3, 3))
        turns[:, 0, 0] = turns[:, 1, 1] = np.cos(yaw)
        turns[:, 1, 0], turns[:, 0, 1], turns[:, 2, 2] = np.sin(yaw), -np.sin(yaw), 1
        return Boxes(
            np.full(len(boxes), self.token),
            np.array(names, str),
            boxes[:, :3] @ turn.T + self.to_global[:3, 3],
            boxes[:, (4, 3, 5)],
            np.array([quaternion(turn @ one) for one in turns]).reshape(-1, 4),
            velocity,
            np.array([attribute(name, v) for name, v in zip(names, speed, strict=True)], str),
            np.array(scores, float),
            np.full(len(boxes), -1),
        )


def attribute(name: str, speed: float) -> str:
    """The attribute of a detection, by class and speed in m/s; mmdetection3d's rule, from memory.

    Example:
        >>> attribute("car", 3.0), attribute("pedestrian", 0.0), attribute("barrier", 0.0)
        ('vehicle.moving', 'pedestrian.standing', '')
    """
    rule = MOVING_ATTRIBUTE if speed > MOVING_SPEED else STANDING_ATTRIBUTE
    return rule.get(name, DEFAULT_ATTRIBUTE.get(name, ""))


def read_points(path: Path) -> NDArray[np.float32]:
    """A point cloud `*.pcd.bin`, (N, 5): x, y, z in metres, intensity, ring.

    Raises:
        Problem: missing, or of a size that is no multiple of five numbers.
    """
    if file_size(path) % (4 * COLUMNS):
        raise Problem(
            f"{path.name} has {file_size(path)} bytes, no multiple of {4 * COLUMNS}",
            path,
            "expected float32 rows of x, y, z, intensity, ring",
        )
    return np.fromfile(path, "<f4").reshape(-1, COLUMNS).astype(np.float32)


# -- tables -------------------------------------------------------------------------------------


class Tables:
    """The tables of one version, each read when it is first asked for.

    Args:
        folder: the data set.
        version: v1.0-mini, ...; empty: the first found of trainval, mini, test, others.

    Raises:
        Problem: there is no folder v1.0-*, or a table is missing, damaged or of another form.
    """

    def __init__(self, folder: Path, version: str = "") -> None:
        self.folder = folder
        found = sorted((path.name for path in folder.glob("v1.0-*") if path.is_dir()), key=_by_version)
        if not found or (version and version not in found):
            known = f"; there is {', '.join(found)}" if found else ""
            raise Problem(
                f"no tables {version or 'v1.0-*'} here{known}",
                folder,
                "give the folder that holds v1.0-trainval (or -mini, -test), samples and sweeps",
            )
        self.version = version or found[0]
        self._read: dict[str, dict[str, dict[str, Any]]] = {}

    def path(self, table: str) -> Path:
        """The file of a table."""
        return self.folder / self.version / f"{table}.json"

    def __getitem__(self, table: str) -> dict[str, dict[str, Any]]:
        """Token -> record, in the order of the file."""
        if table not in self._read:
            path = self.path(table)
            try:
                rows = json.loads(read_text(path))
            except json.JSONDecodeError as error:
                raise Problem(f"{path.name} is no JSON: {error}", path, "fetch it again") from error
            if not isinstance(rows, list) or not all(
                isinstance(r, dict) and isinstance(r.get("token"), str) for r in rows
            ):
                raise Problem(f"{path.name} is no list of records with tokens", path, "fetch it again")
            self._read[table] = {row["token"]: row for row in rows}
        return self._read[table]

    def get(self, table: str, token: str, asked: str = "") -> dict[str, Any]:
        """The record of a token.

        Raises:
            Problem: the table has none; names both, and who `asked`.
        """
        try:
            return self[table][token]
        except (KeyError, TypeError):
            by = f", which {asked} refers to" if asked else ""
            raise Problem(
                f"table {table} has no token {token!r}{by}",
                self.path(table),
                "the tables belong together: fetch them again",
            ) from None

    def value(self, table: str, record: Mapping[str, Any], key: str) -> Any:
        """A field of a record.

        Raises:
            Problem: it has none; names table, token and field.
        """
        try:
            return record[key]
        except KeyError:
            raise Problem(
                f"table {table}, token {record.get('token')}: no field {key!r}", self.path(table), "fetch it again"
            ) from None

    def transform(self, table: str, token: str, asked: str = "") -> Array:
        """The pose (4, 4) that a record of `calibrated_sensor` or `ego_pose` holds."""
        record = self.get(table, token, asked)
        turn = rotation(self.value(table, record, "rotation"), f"{self.path(table)}, token {token}")
        translation = np.array(self.value(table, record, "translation"), float)
        if translation.shape != (3,) or not np.isfinite(translation).all():
            raise Problem(f"table {table}, token {token}: bad translation", self.path(table), "give x, y, z in metres")
        return pose(turn, translation)


def _by_version(name: str) -> tuple[int, str]:
    order = ("v1.0-trainval", "v1.0-mini", "v1.0-test")
    return (order.index(name) if name in order else len(order), name)


# -- frames -------------------------------------------------------------------------------------


def scene_split(tables: Tables, split_file: Path | None = None) -> dict[str, list[str]]:
    """Names of the scenes of "train" and "val".

    From `split_file` (JSON: name -> list of scenes), else from splits.json in the folder, else the lists of the mini
    version where its scenes are there, else the last 15 % of the scenes are held out.

    Raises:
        Problem: a file of another form, or scenes that are not there.
    """
    scenes = [str(tables.value("scene", record, "name")) for record in tables["scene"].values()]
    path = split_file or tables.folder / "splits.json"
    if split_file or path.exists():
        try:
            given = json.loads(read_text(path))
            named = {part: [str(name) for name in given[part]] for part in ("train", "val")}
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise Problem(
                f"no splits: {error}", path, 'give JSON: {"train": ["scene-0061", ...], "val": [...]}'
            ) from error
        for part, names in named.items():
            if absent := [name for name in names if name not in scenes]:
                close = suggest(absent[0], scenes)
                raise Problem(
                    f"{part}: {len(absent)} scenes are not there (first: {absent[0]}){close}", path, "correct it"
                )
        return named
    mini = {part: [f"scene-{number}" for number in numbers] for part, numbers in MINI.items()}
    if set(scenes) == {name for names in mini.values() for name in names}:
        return mini
    held_out = max(1, round(HELD_OUT * len(scenes)))
    if len(scenes) < 2:
        return {"train": scenes, "val": scenes}
    return {"train": scenes[:-held_out], "val": scenes[-held_out:]}


def read_frames(
    tables: Tables, scenes: Sequence[str], sweeps: int = 10, cameras: Sequence[str] = CAMERAS
) -> list[Frame]:
    """The key frames of scenes, in their order.

    Args:
        tables: of the data set.
        scenes: names.
        sweeps: point clouds of each frame, at most; the key frame's own counts.
        cameras: those to read, in this order; one that a frame lacks is left out there.

    Raises:
        Problem: names table and token of a record that does not fit.
    """
    data = _key_data(tables)
    annotations: dict[str, list[dict[str, Any]]] = {}
    for record in tables["sample_annotation"].values():
        annotations.setdefault(record["sample_token"], []).append(record)
    wanted, frames = set(scenes), []
    for scene in tables["scene"].values():
        if scene["name"] not in wanted:
            continue
        token = tables.value("scene", scene, "first_sample_token")
        while token:
            sample = tables.get("sample", token, f"scene {scene['name']}")
            frames.append(_frame(tables, scene["name"], token, data, annotations.get(token, []), sweeps, cameras))
            token = tables.value("sample", sample, "next")
    return frames


def find_frame(tables: Tables, token: str, sweeps: int = 10, cameras: Sequence[str] = CAMERAS) -> Frame:
    """The key frame of a token.

    Raises:
        Problem: there is none; names the closest tokens.
    """
    if token not in tables["sample"]:
        close = suggest(token, tables["sample"])
        raise Problem(f"no key frame {token!r}{close}", tables.path("sample"), "give the token of a sample")
    sample = tables["sample"][token]
    scene = tables.get("scene", sample["scene_token"], f"sample {token}")
    own = [record for record in tables["sample_annotation"].values() if record["sample_token"] == token]
    return _frame(tables, scene["name"], token, _key_data(tables), own, sweeps, cameras)


def _key_data(tables: Tables) -> dict[str, dict[str, dict[str, Any]]]:
    """Key frame -> channel -> its record of sample_data."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    channels: dict[str, str] = {}
    for token, record in tables["calibrated_sensor"].items():
        sensor = tables.get(
            "sensor", tables.value("calibrated_sensor", record, "sensor_token"), f"calibrated_sensor {token}"
        )
        channels[token] = tables.value("sensor", sensor, "channel")
    for record in tables["sample_data"].values():
        if tables.value("sample_data", record, "is_key_frame"):
            calibration = record["calibrated_sensor_token"]
            if calibration not in channels:
                tables.get("calibrated_sensor", calibration, f"sample_data {record['token']}")
            found.setdefault(record["sample_token"], {})[channels[calibration]] = record
    return found


def _frame(
    tables: Tables,
    scene: str,
    token: str,
    data: Mapping[str, Mapping[str, dict[str, Any]]],
    annotations: Sequence[dict[str, Any]],
    sweeps: int,
    cameras: Sequence[str],
) -> Frame:
    own = data.get(token, {})
    if LIDAR not in own:
        raise Problem(
            f"key frame {token} has no {LIDAR}", tables.path("sample_data"), "its pose is needed even without points"
        )
    key = own[LIDAR]
    asked = f"sample_data {key['token']}"
    lidar = tables.transform("calibrated_sensor", key["calibrated_sensor_token"], asked)
    ego = tables.transform("ego_pose", key["ego_pose_token"], asked)
    to_global = ego @ lidar
    truth, lidar_points, racks = _truth(tables, token, annotations)
    return Frame(
        token,
        scene,
        tuple(_camera(tables, channel, own[channel], to_global) for channel in cameras if channel in own),
        tuple(_sweeps(tables, key, inverse(to_global), sweeps)),
        to_global,
        ego[:3, 3],
        truth,
        lidar_points,
        racks,
    )


def _camera(tables: Tables, channel: str, record: Mapping[str, Any], lidar_to_global: Array) -> Camera:
    asked = f"sample_data {record['token']}"
    mounted = tables.transform("calibrated_sensor", record["calibrated_sensor_token"], asked)
    then = tables.transform("ego_pose", record["ego_pose_token"], asked)
    calibration = tables.get("calibrated_sensor", record["calibrated_sensor_token"])
    intrinsic = np.array(tables.value("calibrated_sensor", calibration, "camera_intrinsic"), float)
    if intrinsic.shape != (3, 3) or abs(np.linalg.det(intrinsic)) < 1e-9:
        raise Problem(
            f"table calibrated_sensor, token {calibration['token']}: no camera_intrinsic ({channel})",
            tables.path("calibrated_sensor"),
            "give an invertible matrix of 3 x 3",
        )
    return Camera(channel, tables.folder / record["filename"], intrinsic, inverse(then @ mounted) @ lidar_to_global)


def _sweeps(tables: Tables, key: Mapping[str, Any], from_global: Array, most: int) -> Iterable[Sweep]:
    record = key
    for _ in range(most):
        asked = f"sample_data {record['token']}"
        mounted = tables.transform("calibrated_sensor", record["calibrated_sensor_token"], asked)
        then = tables.transform("ego_pose", record["ego_pose_token"], asked)
        age = (key["timestamp"] - record["timestamp"]) / 1e6
        yield Sweep(tables.folder / record["filename"], from_global @ then @ mounted, age)
        if not record["prev"]:
            return
        record = tables.get("sample_data", record["prev"], asked)


def _truth(
    tables: Tables, token: str, annotations: Sequence[Mapping[str, Any]]
) -> tuple[Boxes, NDArray[np.int64], Array]:
    rows, racks, lidar_points = [], [], []
    for record in annotations:
        asked = f"sample_annotation {record['token']}"
        instance = tables.get("instance", record["instance_token"], asked)
        category = tables.get("category", instance["category_token"], f"instance {instance['token']}")["name"]
        where = f"{tables.path('sample_annotation')}, token {record['token']}"
        if category == BIKE_RACK:
            width, length, height = record["size"]
            racks.append([*record["translation"], length, width, height, yaw_of(rotation(record["rotation"], where))])
        if category not in CATEGORIES:
            continue
        named = [tables.get("attribute", one, asked)["name"] for one in record["attribute_tokens"]]
        if min(record["size"]) <= 0:
            raise Problem(f"sizes {record['size']}", where, "give width, length and height above 0 metres")
        lidar_points.append(record["num_lidar_pts"])
        rows.append(
            {
                "sample_token": token,
                "detection_name": CATEGORIES[category],
                "translation": record["translation"],
                "size": record["size"],
                "rotation": record["rotation"],
                "velocity": velocity(tables, record)[:2],
                "attribute_name": named[0] if named else "",
                "num_pts": record["num_lidar_pts"] + record["num_radar_pts"],
            }
        )
    return Boxes.of(rows), np.array(lidar_points, int), np.array(racks, float).reshape(-1, 7)


def velocity(tables: Tables, record: Mapping[str, Any]) -> Array:
    """Velocity (3,) of an annotation in m/s: the difference between its neighbours in time; NaN: unknown."""
    asked = f"sample_annotation {record['token']}"
    ends = [
        tables.get("sample_annotation", record[side], asked) if record[side] else record for side in ("prev", "next")
    ]
    if ends[0] is ends[1]:
        return np.full(3, math.nan)
    times = [tables.get("sample", end["sample_token"], asked)["timestamp"] / 1e6 for end in ends]
    elapsed = times[1] - times[0]
    longest = LONGEST * (2 if record["prev"] and record["next"] else 1)
    if not 0 < elapsed <= longest:
        return np.full(3, math.nan)
    return (np.array(ends[1]["translation"], float) - np.array(ends[0]["translation"], float)) / elapsed


def check_files(
    frames: Sequence[Frame], tables: Tables, progress: Callable[[Sequence[Frame], str], Iterable[Frame]]
) -> None:
    """Require the files of all frames, and warn where frames have fewer cameras than others.

    Raises:
        Problem: no frames, or a file is missing.
    """
    if not frames:
        raise Problem("no key frames", tables.path("sample"), "give scenes with samples, or another split")
    for frame in progress(frames, "check files"):
        for path in [camera.path for camera in frame.cameras] + [sweep.path for sweep in frame.sweeps]:
            file_size(path)
    most = max(len(frame.cameras) for frame in frames)
    if short := sum(len(frame.cameras) < most for frame in frames):
        warnings.warn(f"{short} of {len(frames)} key frames have fewer than {most} cameras: black images", stacklevel=2)


# -- results ------------------------------------------------------------------------------------


def write_results(path: Path, boxes: Boxes, samples: Iterable[str], *, camera: bool, lidar: bool) -> None:
    """Write a results file in the format of the official server.

    Args:
        path: of the file.
        boxes: detections.
        samples: tokens of all key frames; one without detections has an empty list.
        camera: cameras were used.
        lidar: LiDAR was used.
    """
    results: dict[str, list[dict[str, Any]]] = {token: [] for token in samples}
    for row in boxes.records():
        results.setdefault(row["sample_token"], []).append(row)
    used = {"use_camera": camera, "use_lidar": lidar, "use_radar": False, "use_map": False, "use_external": False}
    write_json(path, {"meta": used, "results": results})
