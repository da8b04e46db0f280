"""nuScenes' metric on cases worked out by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from repertory.data.nuscenes import Boxes
from repertory.tasks.detection3d import counted, nuscenes_scores

EGO = {"a": np.zeros(3), "b": np.zeros(3)}


def row(sample: str = "a", x: float = 5.0, name: str = "car", **changes: Any) -> dict[str, Any]:
    return {
        "sample_token": sample, "detection_name": name, "translation": [x, 0, 0], "size": [2, 4, 1.5],
        "rotation": [1, 0, 0, 0], "velocity": [0, 0], "attribute_name": "vehicle.parked", "num_pts": 3, **changes,
    }  # fmt: skip


def found(score: float, **changes: Any) -> dict[str, Any]:
    return row(**changes) | {"detection_score": score, "num_pts": -1}


def test_perfect_detections_score_one() -> None:
    scores = nuscenes_scores(
        Boxes.of([row(), row("b", 9)]), Boxes.of([found(0.9), found(0.8, sample="b", x=9)]), EGO, ["car"]
    )
    assert scores.mean_ap == pytest.approx(1)
    assert scores.nds == pytest.approx(1)


def test_thresholds_and_errors() -> None:
    scores = nuscenes_scores(Boxes.of([row()]), Boxes.of([found(0.9, x=6.5, velocity=[0, 2])]), EGO, ["car"])
    assert scores.ap[0].tolist() == pytest.approx([0, 0, 1, 1])
    assert scores.mean_errors["trans_err"] == pytest.approx(1.5)
    assert scores.mean_errors["vel_err"] == pytest.approx(2)
    assert scores.metrics()["NDS"] == pytest.approx(100 * (5 * 0.5 + 3) / 10)


def test_a_true_box_is_taken_once_and_by_the_higher_score() -> None:
    scores = nuscenes_scores(Boxes.of([row()]), Boxes.of([found(0.3), found(0.9, x=5.4)]), EGO, ["car"])
    assert scores.mean_errors["trans_err"] == pytest.approx(0.4)
    # Precision is 1 up to recall 0.99; at 1 interpolation takes that of the last detection, 1/2.
    assert scores.ap[0, 0] == pytest.approx((89 * 0.9 + 0.4) / 90 / 0.9)


def test_barriers_have_no_front() -> None:
    turned = found(0.9, name="barrier", rotation=[0, 0, 0, 1])
    scores = nuscenes_scores(Boxes.of([row(name="barrier")]), Boxes.of([turned]), EGO, ["barrier"])
    assert scores.mean_errors["orient_err"] == pytest.approx(0, abs=1e-9)


def test_absent_classes_count_zero_and_filters_apply() -> None:
    truth = Boxes.of([row(), row(x=51), row(num_pts=0), row(name="bicycle")])
    racks = {"a": np.array([[5.0, 0, 0, 2, 2, 2, 0]])}
    assert len(counted(truth, EGO, racks)) == 1
    scores = nuscenes_scores(truth, Boxes.of([]), EGO)
    assert scores.mean_ap == 0
    assert set(scores.mean_errors.values()) == {1.0}
