"""The line that `train` prints before it starts."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from repertory.core.study import Session
from repertory.execution.plan import plan
from tests.toy import ToyConfig, ToyStudy


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (([1, 2, 3], [4]), "train 3, test 1; 8 epochs"),
        (SimpleNamespace(train=[1, 2], test=[3], classes=("a", "b")), "train 2, test 1; 2 classes; 8 epochs"),
        (SimpleNamespace(split={"train": [1], "valid": [2], "test": [3, 4]}), "train 1, valid 1, test 2; 8 epochs"),
        (SimpleNamespace(size=30, names=["a", "b", "c"]), "30 items; 3 classes; 8 epochs"),
        (SimpleNamespace(), "8 epochs"),
    ],
)
def test_items_classes_and_epochs(tmp_path: Path, data: object, said: str) -> None:
    study = ToyStudy(ToyConfig(epochs=8), Session(0, tmp_path))
    assert plan(study, "wide", data) == f"toy, arm wide on rings: {said}"
    assert plan(study, "wide", data, minutes=1.5).endswith("; about 1.5 min on two cores")
