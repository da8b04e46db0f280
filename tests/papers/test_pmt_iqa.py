"""PMT-IQA: fidelity to the authors' code, timm's interface, loss and schedule, training, protocols, use, bad input."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import timm
import torch
from PIL import Image
from pydantic import ValidationError
from torch import Tensor, nn
from torchvision.models import resnet18, resnet50

from repertory.core import checkpoint
from repertory.core.problem import Problem
from repertory.core.study import Session
from repertory.data.distortions import write_quality_database
from repertory.nn.macs import count_macs
from repertory.papers.pmt_iqa import PMTIQA, MultiScaleResNet, multi_task_loss, task_weights
from repertory.papers.pmt_iqa.model import Quality
from repertory.papers.pmt_iqa.patches import Patches, corners_of, cut, prepared
from repertory.papers.pmt_iqa.settings import ARMS, PMTConfig
from repertory.papers.pmt_iqa.study import PMTStudy
from repertory.papers.pmt_iqa.training import learning_rate
from repertory.papers.pmt_iqa.weights import load_backbone
from tests.fidelity.cases import assert_agrees, cases
from tests.fidelity.fill import digest, fill_, probe

CASES: list[dict[str, Any]] = [param.values[0] for param in cases("pmt_iqa")]
NETWORKS = [case for case in CASES if "backbone" in case["config"]]
LOSSES = [case for case in CASES if "epochs" in case["config"]]


def study(tmp_path: Path, data: Path | None = None, scale: str = "smoke", seed: int = 0, **settings: Any) -> PMTStudy:
    config = PMTConfig.model_validate({**PMTStudy.scales[scale].model_dump(), **settings})
    return PMTStudy(config, Session(seed, tmp_path / "session", data))


def own(tmp_path: Path, data: Path, **settings: Any) -> PMTStudy:
    """The smoke scale on a folder: small as for the sample."""
    small = {"arch": "mini", "batch_size": 16, "lr": 1e-3, "restart_moments": False, "score_unit": 0.1}
    return study(tmp_path, data, **{**small, **settings})


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("quality")
    write_quality_database(folder, photographs=2, versions=3, size=40)
    return folder


# -- fidelity -----------------------------------------------------------------------------------


@pytest.mark.parametrize("case", NETWORKS, ids=lambda case: case["name"])
def test_agrees_with_the_authors_code(case: dict[str, Any]) -> None:
    config = dict(case["config"])
    size = config.pop("patch")
    model: PMTIQA = fill_(PMTIQA(**config)).eval()  # pyright: ignore[reportAssignmentType]
    x = probe(*case["input"][0])
    with torch.no_grad():
        if case["name"].startswith("shared trunk"):
            assert_agrees(model.fcs(x), case, model.fcs)
        elif "vector" in case["name"]:
            assert_agrees(model.res(x), case, model.res)
        elif "logits" in case["name"]:
            assert_agrees(model(x).cls, case, model)
        else:  # two scores that differ in the seventh digit: their spread is rounding
            found = digest(model(x).mos)
            assert found["values"] == pytest.approx(case["output"]["values"], rel=1e-5)
            assert sum(p.numel() for p in model.parameters()) == case["params"]
            # Theirs counts the branch of the score alone, and no adaptive pooling.
            pooled = sum(c * (size // (2 << k)) ** 2 for k, c in enumerate((16, 32, 64, 2048), 1))
            classifier = sum(p.numel() for p in model.fc_cls.parameters() if p.ndim > 1)
            assert count_macs(model, x[:1]) - pooled - classifier == case["macs"]


@pytest.mark.parametrize("case", LOSSES, ids=lambda case: case["name"])
def test_the_progressive_loss_agrees_with_the_authors_code(case: dict[str, Any]) -> None:
    quality = Quality(10 * probe(6, 1), probe(6, 10))
    labels = torch.linspace(5, 95, 6)
    epochs = case["config"]["epochs"]
    losses = [
        multi_task_loss(quality, labels, (labels / 10).long(), task_weights(t, epochs))["loss"] for t in range(epochs)
    ]
    assert_agrees(torch.stack(losses), case)


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_the_body_is_torchvisions(name: str) -> None:
    theirs: Any = fill_({"resnet18": resnet18, "resnet50": resnet50}[name]()).eval()
    ours: Any = fill_(MultiScaleResNet(name)).eval()
    x = probe(1, 3, 64, 64)
    y = theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(x))))
    with torch.no_grad():
        torch.testing.assert_close(
            ours.forward_features(x), theirs.layer4(theirs.layer3(theirs.layer2(theirs.layer1(y))))
        )
    assert set(theirs.state_dict()) - set(ours.state_dict()) == {"fc.weight", "fc.bias"}
