"""A small town in nuScenes' tables: objects on a flat ground, six cameras and a LiDAR on a vehicle that drives by.

Images are drawn by projecting the visible faces of boxes, point clouds by intersecting rays with boxes and ground.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from repertory.core.files import write_json
from repertory.data.boxes3d import about_z, corners, inverse, moved, pose, quaternion
from repertory.data.nuscenes import CAMERAS, LIDAR, TABLES

Array = NDArray[np.float64]

VERSION = "v1.0-tiny"
KEY_SECONDS, SWEEP_SECONDS = 0.5, 0.1
"""Between two key frames, and from the sweep before a key frame to it."""
YAWS: Mapping[str, float] = dict(zip(CAMERAS, (0.0, -55.0, 55.0, 180.0, 110.0, -110.0), strict=True))
"""Degrees from the vehicle's heading, to the left."""
FIELD_OF_VIEW, REAR_FIELD_OF_VIEW = 70.0, 110.0
"""Degrees, horizontal."""
CAMERA_HEIGHT = 1.5
LIDAR_PLACE = (0.9, 0.0, 1.84)
LIDAR_YAW = -math.pi / 2
"""The LiDAR's y axis looks ahead."""
ELEVATIONS = (-22.0, 2.0)
"""Degrees, of the lowest and the highest beam."""
FARTHEST = 45.0
NOISE, DROPOUT = 0.015, 0.05
"""Metres of range noise; share of rays without a return."""
NEAR = 0.3
"""Metres in front of a camera within which a face is not drawn."""
GAP = 0.6
"""Metres between two objects, at least."""
TRIES = 40
ROAD = 3.2
"""Metres beside the vehicle's path that stay free."""
SKIN, LAMP, TAIL, GLASS, ORANGE = (224, 172, 140), (255, 244, 190), (190, 20, 20), (30, 35, 45), (240, 110, 20)

Colour = tuple[int, int, int]


@dataclass(frozen=True)
class Kind:
    """A class of objects."""

    category: str
    size: tuple[float, float, float]
    """Length, width, height in metres."""
    fastest: float
    """m/s"""
    reflects: float
    """Intensity of its returns."""
    moving: str
    """Attribute of one that moves; empty: it never does."""
    standing: str


KINDS: Mapping[str, Kind] = {
    "car": Kind("vehicle.car", (4.6, 1.9, 1.7), 6.0, 60.0, "vehicle.moving", "vehicle.parked"),
    "pedestrian": Kind(
        "human.pedestrian.adult", (0.7, 0.7, 1.75), 1.5, 25.0, "pedestrian.moving", "pedestrian.standing"
    ),
    "traffic_cone": Kind("movable_object.trafficcone", (0.4, 0.4, 1.0), 0.0, 110.0, "", ""),
}


@dataclass(frozen=True)
class Town:
    """What a sample is made of.

    Args:
        train: scenes to train with.
        val: held-out scenes.
        frames: key frames of a scene.
        kinds: names in `KINDS`.
        fewest: objects of a scene, at least.
        most: at most.
        reach: metres along x and y within which objects are placed around the vehicle's path.
        image: height and width of an image in pixels.
        beams: of the LiDAR.
        azimuths: directions of a beam.
        spread: relative half range of sizes.
    """

    train: int
    val: int
    frames: int
    kinds: tuple[str, ...] = ("car", "pedestrian", "traffic_cone")
    fewest: int = 3
    most: int = 10
    reach: float = 18.0
    image: tuple[int, int] = (72, 128)
    beams: int = 16
    azimuths: int = 180
    spread: float = 0.1


@dataclass(frozen=True)
class _Object:
    kind: Kind
    size: Array
    start: Array
    yaw: float
    speed: float
    turn: float
    """Change of direction, rad/s."""
    colour: Colour

    def box(self, time: float) -> Array:
        """(7,), global, at a time in seconds."""
        yaw = self.yaw + self.turn * time
        mean = self.yaw + self.turn * time / 2
        place = self.start + self.speed * time * np.array([math.cos(mean), math.sin(mean)])
        return np.array([*place, self.size[2] / 2, *self.size, yaw])


@dataclass(frozen=True)
class _Ride:
    """The vehicle's motion: constant speed and rate of turn."""

    start: Array
    yaw: float
    speed: float
    turn: float

    def pose(self, time: float) -> Array:
        """(4, 4), vehicle -> global."""
        yaw = self.yaw + self.turn * time
        if abs(self.turn) < 1e-6:
            step = self.speed * time * np.array([math.cos(yaw), math.sin(yaw)])
        else:
            radius = self.speed / self.turn
            step = radius * np.array([math.sin(yaw) - math.sin(self.yaw), math.cos(self.yaw) - math.cos(yaw)])
        return pose(about_z(yaw), np.array([*(self.start + step), 0.0]))


def write_town(folder: Path, town: Town, seed: int, progress: Callable[[range, str], Iterator[int]] = iter) -> None:  # pyright: ignore[reportArgumentType]
    """Write a town into an empty folder; the same arguments always give the same files.

    Args:
        folder: of the data set.
        town: what it is made of.
        seed: of all that is random.
        progress: shows the scenes as they are made.
    """
    tables: dict[str, list[dict[str, Any]]] = {name: [] for name in (*TABLES, "visibility", "log", "map")}
    for channel in (*CAMERAS, LIDAR):
        modality = "lidar" if channel == LIDAR else "camera"
        tables["sensor"].append({"token": _token("sensor", channel), "channel": channel, "modality": modality})
        tables["calibrated_sensor"].append(_calibration(channel, town.image))
        (folder / "samples" / channel).mkdir(parents=True)
    (folder / "sweeps" / LIDAR).mkdir(parents=True)
    for kind in (KINDS[name] for name in town.kinds):
        tables["category"].append(
            {"token": _token("category", kind.category), "name": kind.category, "description": ""}
        )
        for name in filter(None, (kind.moving, kind.standing)):
            tables["attribute"].append({"token": _token("attribute", name), "name": name, "description": ""})
    for level, share in enumerate(("v0-40", "v40-60", "v60-80", "v80-100"), start=1):
        tables["visibility"].append({"token": str(level), "level": share, "description": ""})
    log = {"logfile": "town", "vehicle": "town", "date_captured": "2026-11-27", "location": "town"}
    tables["log"].append({"token": _token("log"), **log})
    tables["map"].append({"token": _token("map"), "log_tokens": [_token("log")], "category": "", "filename": ""})
    names = [f"scene-{number:04d}" for number in range(town.train + town.val)]
    for number in progress(range(len(names)), "write scenes"):
        _write_scene(folder, names[number], town, np.random.default_rng([seed, number]), number, tables)
    for name, rows in tables.items():
        write_json(folder / VERSION / f"{name}.json", rows)
    write_json(folder / "splits.json", {"train": names[: town.train], "val": names[town.train :]})


def _token(*words: object) -> str:
    return hashlib.md5("/".join(map(str, words)).encode(), usedforsecurity=False).hexdigest()


def _mounting(channel: str) -> Array:
    """(4, 4), sensor -> vehicle."""
    if channel == LIDAR:
        return pose(about_z(LIDAR_YAW), LIDAR_PLACE)
    yaw = math.radians(YAWS[channel])
    c, s = math.cos(yaw), math.sin(yaw)
    axes = np.array([[s, 0.0, c], [-c, 0.0, s], [0.0, -1.0, 0.0]])  # columns: right, down, ahead
    return pose(axes, (0.9 + 0.5 * c, 0.5 * s, CAMERA_HEIGHT))


def _intrinsic(channel: str, image: tuple[int, int]) -> Array:
    height, width = image
    view = REAR_FIELD_OF_VIEW if channel == "CAM_BACK" else FIELD_OF_VIEW
    focal = width / 2 / math.tan(math.radians(view) / 2)
    return np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])


def _calibration(channel: str, image: tuple[int, int]) -> dict[str, Any]:
    mounting = _mounting(channel)
    return {
        "token": _token("calibration", channel),
        "sensor_token": _token("sensor", channel),
        "translation": mounting[:3, 3].tolist(),
        "rotation": quaternion(mounting[:3, :3]),
        "camera_intrinsic": [] if channel == LIDAR else _intrinsic(channel, image).tolist(),
    }


# -- scenes -------------------------------------------------------------------------------------


def _place(town: Town, ride: _Ride, rng: np.random.Generator) -> list[_Object]:
    """Objects that touch neither each other nor the vehicle at any time of the scene."""
    times = np.arange(0, town.frames * KEY_SECONDS, KEY_SECONDS / 2)
    path = [ride.pose(time)[:2, 3] for time in times]
    circles: list[tuple[list[Array], float]] = [(path, ROAD)]
    found: list[_Object] = []
    for _ in range(int(rng.integers(town.fewest, town.most + 1))):
        for _ in range(TRIES):
            one = _object(KINDS[str(rng.choice(town.kinds))], town, ride, path, rng)
            track = [one.box(time)[:2] for time in times]
            radius = math.hypot(one.size[0], one.size[1]) / 2
            gaps = (
                min(math.dist(a, b) for a, b in zip(track, other, strict=True)) - radius - around
                for other, around in circles
            )
            if min(gaps) > GAP:
                circles.append((track, radius))
                found.append(one)
                break
    return found


def _object(kind: Kind, town: Town, ride: _Ride, path: list[Array], rng: np.random.Generator) -> _Object:
    moves = kind.fastest > 0 and rng.random() < 0.5
    lane = ride.yaw + (math.pi if rng.random() < 0.5 else 0.0) + math.radians(rng.uniform(-5, 5))
    is_car = kind.category == "vehicle.car"
    return _Object(
        kind,
        np.array(kind.size) * rng.uniform(1 - town.spread, 1 + town.spread, 3),
        path[rng.integers(len(path))] + rng.uniform(-town.reach, town.reach, 2),
        lane if is_car else rng.uniform(-math.pi, math.pi),
        rng.uniform(0.3, 1.0) * kind.fastest if moves else 0.0,
        0.0 if is_car or not moves else rng.uniform(-0.5, 0.5),
        tuple(rng.integers(20, 236, 3).tolist()),
    )


def _write_scene(
    folder: Path, name: str, town: Town, rng: np.random.Generator, number: int, tables: dict[str, list[dict[str, Any]]]
) -> None:
    ride = _Ride(
        rng.uniform(200, 800, 2), rng.uniform(-math.pi, math.pi), rng.uniform(0, 8), rng.choice([0.0, 0.2, -0.2])
    )
    objects = _place(town, ride, rng)
    light = rng.uniform(0.7, 1.2)
    begin = 1_600_000_000_000_000 + number * 60_000_000
    samples = [_token(name, "sample", index) for index in range(town.frames)]
    clouds: list[dict[str, Any]] = []
    seen: list[NDArray[np.int64]] = []
    for index, sample in enumerate(samples):
        time = index * KEY_SECONDS
        stamp = begin + round(time * 1e6)
        tables["sample"].append(
            {
                "token": sample, "timestamp": stamp, "scene_token": _token(name),
                "prev": samples[index - 1] if index else "",
                "next": samples[index + 1] if index + 1 < town.frames else "",
            }
        )  # fmt: skip
        for key, then in ((False, time - SWEEP_SECONDS), (True, time)):
            boxes = np.array([one.box(then) for one in objects]).reshape(-1, 7)
            points, hits = _scan(boxes, objects, ride.pose(then), town, rng)
            file = f"{'samples' if key else 'sweeps'}/{LIDAR}/{name}-{index:03d}.pcd.bin"
            points.astype("<f4").tofile(folder / file)
            clouds.append(_sensed(tables, name, LIDAR, sample, begin + round(then * 1e6), file, key, ride.pose(then)))
            if key:
                seen.append(hits)
        boxes = np.array([one.box(time) for one in objects]).reshape(-1, 7)
        for channel in CAMERAS:
            image = _draw(boxes, objects, ride.pose(time), channel, town.image, light, rng)
            file = f"samples/{channel}/{name}-{index:03d}.jpg"
            buffer = io.BytesIO()
            image.save(buffer, "JPEG", quality=90)
            (folder / file).write_bytes(buffer.getvalue())
            record = _sensed(tables, name, channel, sample, stamp, file, True, ride.pose(time))
            record |= {"height": town.image[0], "width": town.image[1]}
    for before, after in itertools.pairwise(clouds):
        before["next"], after["prev"] = after["token"], before["token"]
    tables["scene"].append(
        {
            "token": _token(name), "name": name, "description": "", "log_token": _token("log"),
            "nbr_samples": town.frames, "first_sample_token": samples[0], "last_sample_token": samples[-1],
        }
    )  # fmt: skip
    for place, one in enumerate(objects):
        _annotate(tables, name, place, one, samples, [int(hits[place]) for hits in seen])


def _sensed(
    tables: dict[str, list[dict[str, Any]]],
    scene: str,
    channel: str,
    sample: str,
    stamp: int,
    file: str,
    key: bool,
    vehicle: Array,
) -> dict[str, Any]:
    """Add the records of an image or a point cloud."""
    token = _token(scene, channel, stamp)
    turn, place = quaternion(vehicle[:3, :3]), vehicle[:3, 3].tolist()
    tables["ego_pose"].append({"token": token, "timestamp": stamp, "rotation": turn, "translation": place})
    record = {
        "token": token, "sample_token": sample, "ego_pose_token": token,
        "calibrated_sensor_token": _token("calibration", channel), "timestamp": stamp,
        "fileformat": "pcd" if channel == LIDAR else "jpg", "is_key_frame": key, "height": 0, "width": 0,
        "filename": file, "prev": "", "next": "",
    }  # fmt: skip
    tables["sample_data"].append(record)
    return record


def _annotate(
    tables: dict[str, list[dict[str, Any]]], scene: str, place: int, one: _Object, samples: list[str], hits: list[int]
) -> None:
    instance = _token(scene, "instance", place)
    tokens = [_token(scene, "annotation", place, index) for index in range(len(samples))]
    attribute = one.kind.moving if one.speed else one.kind.standing
    tables["instance"].append(
        {
            "token": instance, "category_token": _token("category", one.kind.category),
            "nbr_annotations": len(samples), "first_annotation_token": tokens[0], "last_annotation_token": tokens[-1],
        }
    )  # fmt: skip
    for index, sample in enumerate(samples):
        x, y, z, length, width, height, yaw = one.box(index * KEY_SECONDS).tolist()
        tables["sample_annotation"].append(
            {
                "token": tokens[index], "sample_token": sample, "instance_token": instance, "visibility_token": "4",
                "attribute_tokens": [_token("attribute", attribute)] if attribute else [],
                "translation": [x, y, z], "size": [width, length, height], "rotation": quaternion(about_z(yaw)),
                "prev": tokens[index - 1] if index else "",
                "next": tokens[index + 1] if index + 1 < len(samples) else "",
                "num_lidar_pts": hits[index], "num_radar_pts": 0,
            }
        )  # fmt: skip


# -- sensors ------------------------------------------------------------------------------------


def _scan(
    boxes: Array, objects: list[_Object], vehicle: Array, town: Town, rng: np.random.Generator
) -> tuple[Array, NDArray[np.int64]]:
    """Points (N, 5) in LiDAR coordinates: x, y, z, intensity, beam; and the number of points on each box."""
    lidar = vehicle @ _mounting(LIDAR)
    azimuth = 2 * math.pi * np.arange(town.azimuths) / town.azimuths
    elevation = np.radians(np.linspace(*ELEVATIONS, town.beams))[:, None]
    flat = np.cos(elevation)
    rays = np.stack([flat * np.cos(azimuth), flat * np.sin(azimuth), np.sin(elevation) + 0 * azimuth], -1).reshape(
        -1, 3
    )
    beam = np.repeat(np.arange(town.beams), town.azimuths)
    ray, start = rays @ lidar[:3, :3].T, lidar[:3, 3]
    with np.errstate(divide="ignore"):
        nearest = np.where(ray[:, 2] < 0, -start[2] / ray[:, 2], np.inf)  # the ground
    owner = np.full(len(ray), -1)
    for number, box in enumerate(boxes):
        turn = about_z(-box[6])
        origin, direction = turn @ (start - box[:3]), ray @ turn.T
        with np.errstate(divide="ignore", invalid="ignore"):
            near, far = (
                (-np.sign(direction) * box[3:6] / 2 - origin) / direction,
                (np.sign(direction) * box[3:6] / 2 - origin) / direction,
            )
        enter, leave = near.max(1), far.min(1)
        hit = (enter < leave) & (enter > 0) & (enter < nearest)
        nearest[hit], owner[hit] = enter[hit], number
    kept = (nearest < FARTHEST) & (rng.random(len(ray)) > DROPOUT)
    distance = nearest[kept] + rng.normal(0, NOISE, int(kept.sum()))
    owner = owner[kept]
    reflects = np.array([one.kind.reflects for one in objects] + [12.0])[owner]
    intensity = (reflects * rng.uniform(0.8, 1.2, len(owner))).clip(0, 255)
    points = np.column_stack([rays[kept] * distance[:, None], intensity, beam[kept]]).astype(float)
    return points, np.bincount(owner[owner >= 0], minlength=len(boxes))


FACES: tuple[tuple[str, tuple[int, int, int, int]], ...] = (
    ("front", (1, 3, 2, 0)), ("rear", (7, 5, 4, 6)), ("left", (5, 1, 0, 4)), ("right", (3, 7, 6, 2)),
    ("top", (1, 5, 7, 3)),
)  # fmt: skip
"""Name -> corners: upper ones first, then the lower ones below them; counter-clockwise from outside."""


def _draw(
    boxes: Array,
    objects: list[_Object],
    vehicle: Array,
    channel: str,
    size: tuple[int, int],
    light: float,
    rng: np.random.Generator,
) -> Image.Image:
    """An image: sky, ground, and the visible faces of boxes from far to near."""
    height, width = size
    camera = inverse(vehicle @ _mounting(channel))
    intrinsic = _intrinsic(channel, size)
    row = (np.arange(height) - height / 2) / (height / 2)
    sky = np.array([150.0, 185.0, 220.0]) * (1 + 0.2 * row[:, None].clip(max=0))
    ground = np.array([105.0, 105.0, 100.0]) * (0.7 + 0.4 * row[:, None].clip(min=0))
    background = np.where(row[:, None] < 0, sky, ground)[:, None].repeat(width, 1)
    background = background + rng.normal(0, 5, (height, width, 1))
    image = Image.fromarray((background * light).clip(0, 255).astype(np.uint8))
    canvas = ImageDraw.Draw(image)
    places = moved(corners(boxes), camera)  # (n, 8, 3)
    centre = moved(boxes[:, :3], camera)
    for number in np.argsort(-np.linalg.norm(centre, axis=1)):
        for face, order in FACES:
            quad = places[number, list(order)]
            normal = np.cross(quad[1] - quad[0], quad[3] - quad[0])
            if quad[:, 2].min() < NEAR or normal @ quad.mean(0) >= 0:
                continue
            for part, colour in _texture(objects[number], face):
                shaded = (np.array(colour) * light * SHADE[face]).clip(0, 255).astype(int)
                pixels = _on_face(quad, part) @ intrinsic.T
                canvas.polygon([(u / d, v / d) for u, v, d in pixels.tolist()], fill=tuple(shaded.tolist()))
    return image


SHADE = {"front": 1.0, "rear": 0.9, "left": 0.85, "right": 0.75, "top": 1.1}
Part = tuple[float, float, float, float]
"""Of a face, from 0 to 1: left, right, top, bottom."""


def _texture(one: _Object, face: str) -> list[tuple[Part, Colour]]:
    """Parts of a face with their colours, what covers others last."""
    whole = (0.0, 1.0, 0.0, 1.0)
    match one.kind.category:
        case "vehicle.car":
            parts = [(whole, one.colour)]
            if face != "top":
                parts.append(((0.05, 0.95, 0.12, 0.42), GLASS))
            if face in ("front", "rear"):
                lamp = LAMP if face == "front" else TAIL
                parts += [((0.03, 0.25, 0.55, 0.72), lamp), ((0.75, 0.97, 0.55, 0.72), lamp)]
            return parts
        case "human.pedestrian.adult":
            return [(whole, SKIN)] if face == "top" else [(whole, one.colour), ((0.0, 1.0, 0.0, 0.18), SKIN)]
        case _:
            white = (240, 240, 240)
            stripes = [((0.0, 1.0, 0.2, 0.4), white), ((0.0, 1.0, 0.6, 0.8), white)]
            return [(whole, ORANGE), *([] if face == "top" else stripes)]


def _on_face(quad: Array, part: Part) -> Array:
    """Corners (4, 3) of a part of a face, whose corners are upper left, upper right, lower right, lower left."""
    left, right, top, bottom = part
    upper = [quad[0] + x * (quad[1] - quad[0]) for x in (left, right)]
    lower = [quad[3] + x * (quad[2] - quad[3]) for x in (left, right)]
    mixed = [upper[i] + y * (lower[i] - upper[i]) for i, y in ((0, top), (1, top), (1, bottom), (0, bottom))]
    return np.array(mixed)
