"""3D detection: average precision and the detection score of nuScenes (configuration detection_cvpr_2019).

By hand against the definition: Caesar et al., nuScenes, CVPR 2020, section 3.1, and the code of its devkit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repertory.core.study import Metric
from repertory.data.boxes3d import inside, rotation, yaw_of
from repertory.data.nuscenes import CLASSES, Boxes

Array = NDArray[np.float64]

RANGES: Mapping[str, float] = {
    **dict.fromkeys(("car", "truck", "bus", "trailer", "construction_vehicle"), 50.0),
    **dict.fromkeys(("pedestrian", "motorcycle", "bicycle"), 40.0),
    **dict.fromkeys(("traffic_cone", "barrier"), 30.0),
}
"""Metres from the vehicle, in the ground plane, within which boxes count."""
THRESHOLDS = (0.5, 1.0, 2.0, 4.0)
"""Metres between centres, in the ground plane, below which a detection may match."""
ERROR_THRESHOLD = 2.0
"""That of the errors of matched boxes."""
ERRORS = ("trans_err", "scale_err", "orient_err", "vel_err", "attr_err")
IGNORED: Mapping[str, tuple[str, ...]] = {
    "traffic_cone": ("orient_err", "vel_err", "attr_err"),
    "barrier": ("vel_err", "attr_err"),
}
HALF_TURN = ("barrier",)
"""Classes whose front and rear are the same."""
IN_RACKS = ("bicycle", "motorcycle")
RECALLS = np.linspace(0, 1, 101)
FIRST = 11
"""Of the recalls that count: those above 0.1."""
LEAST_PRECISION = 0.1
MEAN_AP_WEIGHT = 5
MOST_BOXES = 500
"""Of a sample."""

PER_CENT: dict[str, Any] = {"unit": "%", "better": "higher", "decimals": 1}
DETECTION_METRICS: Mapping[str, Metric] = {
    "mAP": Metric("mean average precision", "平均精度均值", **PER_CENT),
    "NDS": Metric("nuScenes detection score", "nuScenes 检测分数", **PER_CENT),
    "AP_{x}m": Metric("mean average precision within {x} m", "{x} 米内的平均精度均值", **PER_CENT),
    "AP_class_{x}": Metric("average precision, {x}", "{x} 的平均精度", **PER_CENT),
    "trans_err": Metric("translation error", "平移误差", unit="m", better="lower", decimals=3),
    "scale_err": Metric("scale error, 1 - IoU", "尺度误差（1 - IoU）", better="lower", decimals=3),
    "orient_err": Metric("orientation error", "朝向误差", unit="rad", better="lower", decimals=3),
    "vel_err": Metric("velocity error", "速度误差", unit="m/s", better="lower", decimals=3),
    "attr_err": Metric("attribute error, 1 - accuracy", "属性误差（1 - 准确率）", better="lower", decimals=3),
}
"""What `Scores.metrics` gives."""


@dataclass(frozen=True)
class Scores:
    """Scores by class and threshold; fractions, not per cent."""

    classes: tuple[str, ...]
    ap: Array
    """(classes, thresholds)."""
    errors: Array
    """(classes, 5), in the order of `ERRORS`; NaN: ignored."""

    @property
    def mean_ap(self) -> float:
        return float(self.ap.mean())

    @property
    def mean_errors(self) -> dict[str, float]:
        """Means over the classes that have the error; 1 if none has."""
        known = {name: column[np.isfinite(column)] for name, column in zip(ERRORS, self.errors.T, strict=True)}
        return {name: float(column.mean()) if len(column) else 1.0 for name, column in known.items()}

    @property
    def nds(self) -> float:
        """(5 mAP + sum of max(0, 1 - error)) / 10."""
        good = sum(max(0.0, 1 - error) for error in self.mean_errors.values())
        return (MEAN_AP_WEIGHT * self.mean_ap + good) / (MEAN_AP_WEIGHT + len(ERRORS))

    def metrics(self) -> dict[str, float]:
        """See `DETECTION_METRICS`; per cent."""
        by_distance = zip(THRESHOLDS, self.ap.mean(0).tolist(), strict=True)
        by_class = zip(self.classes, self.ap.mean(1).tolist(), strict=True)
        return {
            "mAP": 100 * self.mean_ap,
            "NDS": 100 * self.nds,
            **{f"AP_{threshold:g}m": 100 * value for threshold, value in by_distance},
            **{f"AP_class_{name}": 100 * value for name, value in by_class},
            **self.mean_errors,
        }


def counted(boxes: Boxes, ego: Mapping[str, Array], racks: Mapping[str, Array] | None = None) -> Boxes:
    """The boxes that count: near the vehicle, with points on them if true, and no bicycle or motorcycle in a rack.

    Args:
        boxes: true or detected.
        ego: sample -> position of the vehicle, x and y first.
        racks: sample -> boxes of bicycle racks, (m, 7), global.
    """
    if not len(boxes):
        return boxes
    place = np.array([ego[sample][:2] for sample in boxes.sample.tolist()])
    farthest = np.array([RANGES[name] for name in boxes.name.tolist()])
    kept = (np.hypot(*(boxes.centre[:, :2] - place).T) < farthest) & (boxes.points != 0)
    for sample, own in (racks or {}).items():
        if len(own):
            parked = (boxes.sample == sample) & np.isin(boxes.name, IN_RACKS)
            kept[parked] &= ~inside(boxes.centre[parked], own).any(0)
    return boxes[kept]


def nuscenes_scores(
    truth: Boxes,
    found: Boxes,
    ego: Mapping[str, Array],
    classes: Sequence[str] = CLASSES,
    racks: Mapping[str, Array] | None = None,
) -> Scores:
    """Score detections; a class without true boxes has AP 0 and errors of 1, as officially.

    Args:
        truth: true boxes of all samples.
        found: detections; those of equal score count from the last to the first.
        ego: sample -> position of the vehicle, for all samples.
        classes: those that the means are taken over.
        racks: sample -> boxes of bicycle racks, (m, 7).
    """
    order = {sample: number for number, sample in enumerate(ego)}
    truth, found = counted(truth, ego, racks), counted(found, ego, racks)
    found = found[np.argsort([order[sample] for sample in found.sample.tolist()], kind="stable")]
    ap = np.zeros((len(classes), len(THRESHOLDS)))
    errors = np.full((len(classes), len(ERRORS)), math.nan)
    for row, name in enumerate(classes):
        own, detected = truth[truth.name == name], found[found.name == name]
        detected = detected[np.argsort(detected.score, kind="stable")[::-1]]
        distances = _distances(own, detected)
        for column, threshold in enumerate(THRESHOLDS):
            matched = _match(distances, len(own), threshold)
            precision, confidence = _curves(matched, detected.score, len(own))
            ap[row, column] = (precision[FIRST:] - LEAST_PRECISION).clip(min=0).mean() / (1 - LEAST_PRECISION)
            if threshold == ERROR_THRESHOLD:
                ignored = IGNORED.get(name, ())
                table = _errors(own, detected, matched, name)
                errors[row] = [
                    math.nan
                    if error in ignored
                    else _mean_error(table[error], detected.score[matched >= 0], confidence)
                    for error in ERRORS
                ]
    return Scores(tuple(classes), ap, errors)


def class_agnostic(boxes: Boxes, name: str) -> Boxes:
    """The boxes as if all were of one class."""
    return Boxes(**{**vars(boxes), "name": np.full(len(boxes), name)})


def _distances(own: Boxes, detected: Boxes) -> list[tuple[NDArray[np.int64], Array]]:
    """For each detection the true boxes of its sample, nearest first, and their distances in the ground plane."""
    of_sample = {sample: np.flatnonzero(own.sample == sample) for sample in np.unique(own.sample).tolist()}
    listed = []
    for sample, centre in zip(detected.sample.tolist(), detected.centre, strict=True):
        rows = of_sample.get(sample, np.zeros(0, int))
        distance = np.hypot(*(own.centre[rows, :2] - centre[:2]).T) if len(rows) else np.zeros(0)
        order = np.argsort(distance, kind="stable")
        listed.append((rows[order], distance[order]))
    return listed


def _match(distances: list[tuple[NDArray[np.int64], Array]], count: int, threshold: float) -> NDArray[np.int64]:
    """For each detection, by falling score, the true box that it takes: the nearest that is free; -1: none."""
    free = np.ones(count, bool)
    matched = np.full(len(distances), -1)
    for number, (rows, distance) in enumerate(distances):
        for row, gap in zip(rows.tolist(), distance.tolist(), strict=True):
            if gap >= threshold:
                break
            if free[row]:
                matched[number], free[row] = row, False
                break
    return matched


def _curves(matched: NDArray[np.int64], score: Array, count: int) -> tuple[Array, Array]:
    """Precision and confidence at `RECALLS`; zeros if nothing matches."""
    if count == 0 or not (matched >= 0).any():
        return np.zeros_like(RECALLS), np.zeros_like(RECALLS)
    hits = np.cumsum(matched >= 0)
    recall, precision = hits / count, hits / np.arange(1, len(hits) + 1)
    return np.interp(RECALLS, recall, precision, right=0), np.interp(RECALLS, recall, score, right=0)


def _errors(own: Boxes, detected: Boxes, matched: NDArray[np.int64], name: str) -> dict[str, Array]:
    """Errors of the detections that match, by falling score."""
    a, b = own[matched[matched >= 0]], detected[matched >= 0]
    common = np.minimum(a.size, b.size).prod(1)
    yaws = [np.array([yaw_of(rotation(q)) for q in boxes.rotation]) for boxes in (a, b)]
    period = math.pi if name in HALF_TURN else 2 * math.pi
    turn = (yaws[0] - yaws[1] + period / 2) % period - period / 2
    return {
        "trans_err": np.hypot(*(a.centre - b.centre)[:, :2].T),
        "scale_err": 1 - common / (a.size.prod(1) + b.size.prod(1) - common),
        "orient_err": np.abs(turn),
        "vel_err": np.hypot(*(a.velocity - b.velocity).T),
        "attr_err": np.where(a.attribute == "", math.nan, (a.attribute != b.attribute).astype(float)),
    }


def _mean_error(values: Array, score: Array, confidence: Array) -> float:
    """Mean of the running mean of an error over the recalls from 0.11 to the highest reached; 1: none reached."""
    reached = np.flatnonzero(confidence)
    if not len(reached) or reached[-1] < FIRST:
        return 1.0
    known = ~np.isnan(values)
    if not known.any():
        return 1.0
    count = np.cumsum(known)
    running = np.divide(np.nancumsum(values), count, out=np.zeros(len(values)), where=count > 0)
    at_recalls = np.interp(confidence[::-1], score[::-1], running[::-1])[::-1]
    return float(at_recalls[FIRST : reached[-1] + 1].mean())
