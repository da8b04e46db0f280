"""A paper small enough for tests of the core: two arms on a synthetic task, and a card with every verdict.

`ToyStudy` can be used as it is (`Session`, `fit`). `install(folder)` writes it as another package would bring
it: an importable `toy_room` with card.toml and study.py (a copy of this file), and a distribution that
registers it, so that `repertory` finds it in this process and in those that it starts.
"""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from huggingface_hub import PyTorchModelHubMixin
from matplotlib.figure import Figure
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import Dataset

from repertory import catalog
from repertory.core.problem import Problem
from repertory.core.study import Metric, Prediction, Study
from repertory.core.training import Recipe, fit, loader

PACKAGE = "toy_room"

CARD = """
id = "toy"
title = "Rings Need a Hidden Layer"
authors = ["Ada Toy", "Bo Example"]
year = 2024
venue = "Journal of Toys"
arxiv = "2401.00001"
code = ""
fidelity = "reconstruction"
fidelity_note = "There is no paper."
topic = "theory"
keywords = ["rings", "binary classification", "MLP", "圆环", "二分类"]
minutes = 0.1
clause.en = "a hidden layer for what no line separates"
clause.zh = "用隐藏层分开直线分不开的点"
usage = "import torch\\nprint(torch.zeros(2).shape)"
summary.en = "A hidden layer separates a ring from the disc inside it, which no straight line can."
summary.zh = "隐藏层能够把圆环与其内部的圆盘分开，而任何直线都做不到。"

[[claim]]
id = "wide-is-better"
en = "The network with a hidden layer is more accurate than the linear model."
zh = "带隐藏层的网络比线性模型更准确。"
published = [{ data = "rings", metric = "accuracy", arm = "wide", value = 97.25, std = 0.5, source = "abstract" }]
test = { kind = "compare", metric = "accuracy", arm = "wide", over = "plain", margin = 5.0, least = 2.0 }

[[claim]]
id = "plain-is-better"
en = "The linear model is more accurate."
zh = "线性模型更准确。"
test = { kind = "compare", metric = "accuracy", arm = "plain", over = "wide", least = 1.0 }

[[claim]]
id = "same-classes"
en = "The network distinguishes more classes."
zh = "该网络能区分更多类别。"
test = { kind = "compare", metric = "classes", arm = "wide", over = "plain" }

[[claim]]
id = "size"
en = "A network of 8 hidden units has 42 parameters, and each unit adds 5."
zh = "含 8 个隐藏单元的网络有 42 个参数，每个单元增加 5 个。"
test = [
    { kind = "value", metric = "parameters_8", equals = 42 },
    { kind = "trend", metric = "parameters_{x}", x = [1, 4, 8], equals = 5, tolerance = 1e-6 },
]

[[claim]]
id = "at-scale"
en = "It wins on a billion rings."
zh = "在十亿个圆环上同样胜出。"
test = { kind = "untested", reason = { en = "needs a billion rings", zh = "需要十亿个圆环" } }

[[note]]
kind = "decision"
en = "The radius is ours."
zh = "半径由我们选定。"
"""


class ToyNet(nn.Module, PyTorchModelHubMixin, library_name="repertory"):
    """2-d points -> logits of two classes; linear without hidden units."""

    def __init__(self, hidden: int = 0) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(2, hidden), nn.ReLU()) if hidden else nn.Identity()
        self.head = nn.Linear(hidden or 2, 2)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 2) -> (N, 2)."""
        return self.head(self.body(x))


class Rings(Dataset[tuple[Tensor, int]]):
    """Points with labels. Noise from each global generator stands for augmentation."""

    def __init__(self, points: np.ndarray, labels: np.ndarray, noise: float = 0.0) -> None:
        self.points, self.labels, self.noise = torch.tensor(points, dtype=torch.float32), labels.astype(int), noise

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        x = self.points[index]
        if self.noise:
            jitter = torch.randn(2) + random.gauss(0, 1) + float(np.random.normal())  # noqa: NPY002
            x = x + self.noise * jitter
        return x, int(self.labels[index])


class ToyConfig(Recipe):
    hidden: int = Field(default=8, ge=1, le=64, description="hidden units of the wide arm")
    samples: int = Field(default=192, ge=8, le=10_000, description="points in the sample, a third of them held out")
    noise: float = Field(default=0.02, ge=0, description="augmentation: standard deviation of the jitter")


class ToyStudy(Study[ToyConfig, tuple[Rings, Rings], nn.Module]):
    paper = "toy"
    arms: ClassVar[Mapping[str, str]] = {"plain": "a linear model", "wide": "one hidden layer"}
    method = "wide"
    metrics: ClassVar[Mapping[str, Metric]] = {
        "accuracy": Metric("accuracy", "准确率", unit="%", better="higher", decimals=1),
        "area": Metric("area of the disc", "圆盘面积", needs="a disc"),
        "classes": Metric("classes", "类别数", better="higher", decimals=0),
        "parameters_{x}": Metric(
            "parameters, {x} hidden units", "含 {x} 个隐藏单元的参数量", better="lower", decimals=0
        ),
    }
    Config = ToyConfig
    scales = {
        "smoke": ToyConfig(seeds=1, epochs=2, lr=0.05),
        "laptop": ToyConfig(seeds=3, epochs=8, lr=0.05),
        "paper": ToyConfig(seeds=3, epochs=100, lr=0.05, hidden=64),
        "desk": ToyConfig(seeds=1, epochs=2, lr=0.05, real="rings"),
    }
    sample_name = "rings"
    sample_fields = ("samples",)
    layout = """
        train.csv, test.csv: one point a row: x, y, label (0 or 1)
    """

    def write_sample(self, folder: Path) -> None:
        rng = np.random.default_rng(0)
        points = rng.uniform(-1, 1, (self.config.samples, 2))
        labels = np.square(points).sum(1) > 0.6
        rows = np.column_stack([points, labels])
        third = len(rows) // 3
        np.savetxt(folder / "train.csv", rows[third:], delimiter=",")
        np.savetxt(folder / "test.csv", rows[:third], delimiter=",")

    def read(self, folder: Path) -> tuple[Rings, Rings]:
        if not (folder / "train.csv").exists():
            raise self.missing(folder)
        train, test = (np.loadtxt(folder / f"{part}.csv", delimiter=",") for part in ("train", "test"))
        return Rings(train[:, :2], train[:, 2], self.config.noise), Rings(test[:, :2], test[:, 2])

    def train(self, arm: str, data: tuple[Rings, Rings]) -> nn.Module:
        model = ToyNet(self.config.hidden if arm == "wide" else 0)
        return fit(self.session, model, data[0], self.config, cross_entropy)

    def evaluate(self, model: nn.Module, data: tuple[Rings, Rings]) -> dict[str, float]:
        right = torch.cat([model(x).argmax(1) == y for x, y in loader(self.session, data[1], 64)])
        figure = Figure(figsize=(2, 2))
        figure.subplots().scatter(*data[1].points.T.numpy(), s=4)
        self.session.figure("rings", figure)
        return {"accuracy": 100 * right.double().mean().item(), "classes": 2.0}

    def measure(self) -> dict[str, float]:
        return {f"parameters_{n}": float(sum(p.numel() for p in ToyNet(n).parameters())) for n in (1, 4, 8)}

    def predict(self, model: nn.Module, source: Path) -> Prediction:
        """A CSV file of points, or a folder with test.csv."""
        path = source / "test.csv" if source.is_dir() else source
        try:
            points = np.loadtxt(path, delimiter=",", ndmin=2)[:, :2]
        except (OSError, ValueError, IndexError) as error:
            raise Problem(f"cannot read points: {error}", path, "one point a row: x, y") from error
        x = torch.tensor(points, dtype=torch.float32, device=self.session.fabric.device)
        probability = model(x).softmax(1)[:, 1].cpu()
        figure = Figure(figsize=(2, 2))
        figure.subplots().scatter(*points.T, c=probability, s=4)
        rows = zip(*points.T, probability, strict=True)
        table = [{"x": float(a), "y": float(b), "ring": float(p)} for a, b, p in rows]
        return Prediction(table=table, figures={"rings": figure}, arrays={"probability": probability.numpy()})


def cross_entropy(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    x, y = batch
    return functional.cross_entropy(model(x), y)


def install(folder: Path, card: str = CARD, package: str = PACKAGE, paper: str = "toy") -> Path:
    """Write the package and its distribution into `folder`, which is to be on sys.path; returns the package."""
    room = folder / package
    room.mkdir(parents=True)
    (room / "__init__.py").write_text('"""A paper from another package."""\n')
    (room / "card.toml").write_text(card, encoding="utf-8")
    (room / "study.py").write_text(Path(__file__).read_text(encoding="utf-8"), encoding="utf-8")
    register(folder, package, paper)
    return room


def register(folder: Path, package: str, paper: str) -> None:
    """Write what an installer writes beside a package that registers a paper."""
    about = folder / f"{package}-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package.replace('_', '-')}\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(f"[repertory.papers]\n{paper} = {package}\n")


@contextmanager
def importable(folder: Path) -> Iterator[None]:
    """Let this process, and those that it starts, find the distributions in `folder`; forget them afterwards."""
    before = set(sys.modules)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")])))
        _forget()
        try:
            yield
        finally:
            for name in set(sys.modules) - before:
                if (getattr(sys.modules[name], "__file__", None) or "").startswith(str(folder)):
                    del sys.modules[name]
            _forget()


def _forget() -> None:
    for function in vars(catalog).values():
        if hasattr(function, "cache_clear"):
            function.cache_clear()
