"""SPAIC's study: data formats, networks from files, saving, prediction, and bad input."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from repertory.core import checkpoint
from repertory.core.problem import Problem
from repertory.core.study import Session
from repertory.data import idx, shd
from repertory.papers.spaic import Full, Group, Input, Net, Source, SpikingClassifier, compile_net, sources
from repertory.papers.spaic.model import Classifier, Perceptron
from repertory.papers.spaic.study import SpaicConfig, SpaicStudy

SMALL: dict[str, Any] = {"epochs": 2, "lr": 0.01, "net": "mlp:16", "steps": 8, "neurons": 12, "images": 120, "seeds": 1}

BUILD = """
from repertory.papers.spaic import AvgPool, Conv, Full, Group, Input, Uniform, from_text

def build(net):
    x = Input(net.sample_shape, "current")
    c = Group((4, 14, 14), "lif")
    p = Group(20, from_text("dv/dt = (I - v) / tau", "v > 0.3", "v = 0", tau=4.0, trained=("tau",)))
    o = Group(2 * net.classes, "clif")
    x >> Conv(3) >> c >> AvgPool() >> Full(init="kaiming") >> p >> Full(init=0.1, delay=Uniform(1, 3)) >> o
    o.read("spike_counts", pop_size=2)
    net.record(o, "spike", "v")
"""


def study_in(folder: Path, **settings: Any) -> SpaicStudy:
    return SpaicStudy(SpaicConfig(**{**SMALL, **settings}), Session(0, folder / "session"))


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("digits")
    idx.write_sample(folder)
    return folder


def saved(model: Classifier, folder: Path) -> Classifier:
    checkpoint.save(model, folder)
    return checkpoint.load(folder)


@pytest.mark.parametrize("arm", ["stca", "stdp", "mlp"])
def test_an_arm_of_each_kind_trains_saves_and_predicts_alike(arm: str, tmp_path: Path, digits: Path) -> None:
    study = study_in(tmp_path)
    data = study.read(digits)
    model = study.train(arm, data)
    assert isinstance(model, Perceptron if arm == "mlp" else SpikingClassifier)
    again = saved(model, tmp_path / "model")
    metrics = study.evaluate(model, data)
    assert study.evaluate(again, data) == metrics
    assert metrics["accuracy"] > 10 or arm != "mlp"
    assert study.predict(again, digits).table == study.predict(model, digits).table
    if arm == "stdp":
        assert model.votes.abs().sum() > 0  # pyright: ignore[reportOptionalMemberAccess, reportAttributeAccessIssue, reportCallIssue]


def test_a_network_from_a_file_survives_a_new_process(tmp_path: Path, digits: Path) -> None:
    (tmp_path / "mine.py").write_text(BUILD)
    study = study_in(tmp_path, net=str(tmp_path / "mine.py"))
    data = study.read(digits)
    model = study.train("atan", data)
    checkpoint.save(model, tmp_path / "model")
    (tmp_path / "mine.py").unlink()
    x = torch.stack([data.test[n][0] for n in range(5)])
    torch.save(x, tmp_path / "x.pt")
    code = f"""
import torch
from pathlib import Path
from repertory.core import checkpoint
model = checkpoint.load(Path({str(tmp_path / "model")!r}))
torch.save(model(torch.load({str(tmp_path / "x.pt")!r})), {str(tmp_path / "y.pt")!r})
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    found = torch.load(tmp_path / "y.pt")
    assert torch.equal(found, model(x))
    assert found.shape == (5, 10)
    prediction = study.predict(model, digits)
    assert {"network", "raster", "potentials", "weights"} <= set(prediction.figures)


def test_spike_trains_train_and_predict(tmp_path: Path) -> None:
    shd.write_sample(tmp_path, np.random.default_rng(0))
    study = study_in(tmp_path, steps=16, dt=5.0, modality="events")
    data = study.read(tmp_path)
    assert data.events
    assert data.train[0][0].shape == (16, 700)
    for arm in ("atan", "stdp", "mlp"):
        model = saved(study.train(arm, data), tmp_path / arm)
        assert study.evaluate(model, data)["accuracy"] >= 0
    table = study.predict(model, tmp_path / "shd_test.h5").table
    assert len(table) == 450
    idx.write_sample(tmp_path)
    with pytest.raises(Problem, match="the model takes spike trains"):
        study.predict(model, tmp_path / "t10k-images-idx3-ubyte.gz")


def test_data_formats(tmp_path: Path, digits: Path) -> None:
    study = study_in(tmp_path, images=0)
    train, test = (idx.read_part(digits, part) for part in idx.PARTS)
    for part, data in (("train", train), ("test", test)):
        for n in range(40):
            folder = tmp_path / "folders" / part / f"d{data.labels[n]}"
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(data.images[n]).save(folder / f"{n}.png")
    flat = train.images.reshape(len(train.images), -1)
    np.savez(tmp_path / "whole.npz", x_train=flat, y_train=train.labels, x_test=flat[:9], y_test=train.labels[:9])
    np.savez(tmp_path / "one.npz", x=flat, y=np.array([f"d{k}" for k in train.labels]))
    rows = "\n".join(
        f"{label}," + ",".join(map(str, pixels)) for label, pixels in zip(train.labels[:60], flat, strict=False)
    )
    (tmp_path / "t.csv").write_text(
        "label," + ",".join(f"p{k}" for k in range(256)) + "\n" + rows.replace("\\\n", "\n")
    )
    for name, shape, counts in (
        ("folders", (1, 16, 16), (40, 40)), ("whole.npz", (256,), (1347, 9)), ("one.npz", (256,), (1010, 337)),
    ):  # fmt: skip
        data = study.read(tmp_path / name)
        assert data.train.shape == shape
        assert (len(data.train), len(data.test)) == counts
        assert len(data.classes) == 10
    model = study_in(tmp_path / "a", images=80).train("mlp", study.read(tmp_path / "folders"))
    image = next((tmp_path / "folders" / "test" / "d0").glob("*.png"))
    for source in (image, tmp_path / "folders", digits / "t10k-images-idx3-ubyte.gz"):
        assert study.predict(model, source).table[0]["class"].startswith("d")


def test_bad_data(tmp_path: Path) -> None:
    study = study_in(tmp_path)
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(Problem, match="no data for spaic"):
        study.read(empty)
    (tmp_path / "a.csv").write_text("p,q\n1,2\n".replace("\\\n", "\n"))
    with pytest.raises(Problem, match="no labels"):
        study.read(tmp_path / "a.csv")
    np.savez(tmp_path / "b.npz", z=np.ones(3))
    with pytest.raises(Problem, match="it holds z"):
        study.read(tmp_path / "b.npz")
    np.savez(tmp_path / "c.npz", x=np.array([[1.0], [np.nan]]), y=np.array([0, 1]))
    with pytest.raises(Problem, match="not finite"):
        study.read(tmp_path / "c.npz")
    np.savez(tmp_path / "d.npz", x=np.ones((2, 3)), y=np.array([0, 1]))
    with pytest.raises(Problem, match="cannot be split"):
        study.read(tmp_path / "d.npz")
    with pytest.raises(Problem, match="nothing to predict here"):
        sources.read_inputs(empty, (1, 2, 2), False, 3, 1.0)


@pytest.mark.parametrize(
    ("net", "complaint"),
    [
        ("mlp:12,x", "not a list of widths: '12,x'"),
        ("cnn:3", "unknown network 'cnn:3'"),
        ("nothing.py", r"unknown network 'nothing\.py'"),
        ("def other(net): pass", "does not define build"),
        ("def build(net): pass", "0 inputs and 0 read-outs"),
    ],
)
def test_bad_networks(net: str, complaint: str, tmp_path: Path, digits: Path) -> None:
    if net.startswith("def"):
        (tmp_path / "n.py").write_text(net)
        net = str(tmp_path / "n.py")
    study = study_in(tmp_path, net=net)
    with pytest.raises(Problem, match=complaint):
        study.train("stca", study.read(digits))


@pytest.mark.realdata
def test_mnist_trains(tmp_path: Path, real_data: Callable[[str], Path]) -> None:
    real_data("mnist-png")
    study = study_in(tmp_path, real="mnist-png", images=0, net="mlp:64", epochs=3, steps=10)
    data = study.data()
    assert data.train.shape == (1, 28, 28)
    assert study.evaluate(study.train("atan", data), data)["accuracy"] > 60


def test_the_race_gives_medians_for_an_interval(tmp_path: Path) -> None:
    figures = study_in(tmp_path, speed_steps=4).measure()
    speeds = figures["speed_over_loop"]
    assert isinstance(speeds, list)
    assert len(speeds) == 5
    assert all(speed > 0 for speed in speeds)
    study = SpaicStudy(SpaicConfig(**SMALL, speed_steps=4), Session(0, tmp_path / "dry", dry_run=True))
    assert "speed_over_loop" not in study.measure()
    with pytest.raises(ValueError, match="greater than or equal to 5"):
        study_in(tmp_path, speed_repeats=4)


def test_with_seeds_a_sample_draws_the_same_in_any_batch() -> None:
    with Net() as net:
        x, noise = Input(6, "poisson"), Source(6, "poisson")
        o = Group(6, "lif")
        for node in (x, noise):
            _ = node >> Full(init=("uniform", 0.0, 0.6)) >> o
            net.record(node, "spike")
        o.read("spike_counts")
        o.act("softmax")
    module, values, seeds = compile_net(net), torch.full((4, 6), 0.1), torch.arange(4)
    counts, actions = module(values, 40, generator=seeds)
    whole = dict(module.trace)
    parts = [module(values[rows], 40, generator=seeds[rows]) for rows in (slice(0, 1), slice(1, 4))]
    assert torch.equal(torch.cat([part[0] for part in parts]), counts)
    assert torch.equal(torch.cat([part[1] for part in parts]), actions)
    first, second = whole.values()
    assert 0.05 < first.mean() < 0.15
    assert not torch.equal(first, second)  # two nodes draw numbers of their own
    assert not torch.equal(first[:, 0], first[:, 1])


def test_class_folders_without_parts_are_split_and_predicted_whole(tmp_path: Path, digits: Path) -> None:
    study, data = study_in(tmp_path, images=0), idx.read_part(digits, "train")
    for n in range(60):
        folder = tmp_path / "flat" / f"d{data.labels[n]}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(data.images[n]).save(folder / f"{n}.png")
    with pytest.warns(UserWarning, match="a fifth of each class is held out"):
        split = study.read(tmp_path / "flat")
    assert len(split.train) + len(split.test) == 60
    assert 10 <= len(split.test) <= 15
    model = study.train("mlp", split)
    whole = study.predict(model, tmp_path / "flat")
    assert len({row["file"] for row in whole.table}) == 60
    assert "problem" not in whole.table[0]
    (tmp_path / "flat" / "d0" / "bad.png").write_bytes(b"no image")
    mixed = study.predict(model, tmp_path / "flat")
    (bad,) = [row for row in mixed.table if row["problem"]]
    assert (bad["file"], bad["class"], bad["score"]) == ("d0/bad.png", "", None)
    assert [row | {"problem": ""} for row in whole.table] == [row for row in mixed.table if row is not bad]
    assert np.isnan(mixed.arrays["scores"]).all(1).sum() == 1
    with pytest.raises(Problem):
        study.predict(model, tmp_path / "flat" / "d0" / "bad.png")


def test_a_copy_of_the_training_spikes_is_no_test_part(tmp_path: Path) -> None:
    shd.write_sample(tmp_path, np.random.default_rng(0))
    (tmp_path / "shd_test.h5").write_bytes((tmp_path / "shd_train.h5").read_bytes())
    with pytest.raises(Problem) as told:
        study_in(tmp_path, modality="events").read(tmp_path)
    assert str(tmp_path) in told.value.where
