"""Settings: optimizers, groups, and what a mistyped name is answered with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import pytest
from pydantic import Field

from repertory.core.problem import Problem
from repertory.core.settings import OPTIMIZERS, Group, Recipe, StudyConfig, changed, check_arms, study_config
from tests.toy import ToyConfig, ToyStudy


def test_the_optimizers_are_those_of_timm() -> None:
    from timm.optim import list_optimizers

    assert set(list_optimizers()) <= OPTIMIZERS
    assert ToyConfig(optimizer="lookahead_sgd").optimizer == "lookahead_sgd"
    with pytest.raises(ValueError, match="did you mean adamw"):
        ToyConfig(optimizer="adamww")


def test_a_field_belongs_to_one_group() -> None:
    class Own(Recipe):
        groups: ClassVar[Mapping[Group, tuple[str, ...]]] = {"evaluation": ("rounds",), "data": ("workers",)}
        epochs: int = Field(default=7, ge=1, description="declared anew")
        rounds: int = Field(default=1, ge=0, description="of a race")
        width: int = Field(default=1, ge=1, description="of the network")

    found = {name: Own.group_of(name) for name in ("seeds", "real", "lr", "epochs", "workers", "rounds", "width")}
    assert found == {
        "seeds": "run", "real": "data", "lr": "training", "epochs": "training", "workers": "data",
        "rounds": "evaluation", "width": "model",
    }  # fmt: skip

    with pytest.raises(TypeError, match="no field is called wdith"):

        class Mistyped(StudyConfig):
            groups: ClassVar[Mapping[Group, tuple[str, ...]]] = {"model": ("wdith",)}


def test_mistyped_names_are_answered_with_the_closest_ones() -> None:
    with pytest.raises(Problem, match="no scale 'lptop': did you mean laptop"):
        study_config(ToyStudy, "lptop")
    with pytest.raises(Problem, match="no setting 'epoch': did you mean epochs"):
        study_config(ToyStudy, "smoke", {"epoch": 3})
    with pytest.raises(Problem, match="no arm 'wid': did you mean wide"):
        check_arms(ToyStudy, ["plain", "wid"])
    with pytest.raises(Problem, match="bad setting hidden") as refused:
        changed(ToyStudy, ToyConfig(), {"hidden": 1000})
    assert "hidden units" in refused.value.remedy
    assert study_config(ToyStudy, "smoke", {"epochs": 3}).model_dump()["epochs"] == 3
