"""Sessions (randomness, progress, records, resume points, shared modules) and what a study does with its data."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from pydantic import ValidationError
from rich.progress import Progress
from tensorboardX.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]  generated
from torch import Tensor, nn

from repertory.core.problem import Problem, SetAside
from repertory.core.study import (
    Metric,
    Prediction,
    Session,
    StudyConfig,
    Vary,
    _interleaved,
    cache_dir,
    find_metric,
    real_data,
    undeclared,
)
from tests.toy import ToyConfig, ToyNet, ToyStudy


def session(folder: Path, seed: int = 0, **options: Any) -> Session:
    return Session(seed, folder, package="tests", **options)


def study(folder: Path, scale: str = "smoke", data: Path | None = None, **changes: Any) -> ToyStudy:
    config = ToyConfig.model_validate({**ToyStudy.scales[scale].model_dump(), **changes})
    return ToyStudy(config, session(folder, data_dir=data))


def draws() -> tuple[float, float, float]:
    """One number of each global generator."""
    return float(torch.rand(())), float(np.random.rand()), random.random()  # noqa: NPY002


def records(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


# -- randomness ---------------------------------------------------------------------------------


def test_reseeding_depends_on_seed_and_key_alone(tmp_path: Path) -> None:
    def drawn(seed: int, *key: int | str) -> tuple[float, float, float]:
        session(tmp_path, seed).reseed(*key)
        return draws()

    keys = [(), (0,), (1,), ("a",), ("b",), ("a", 0), (0, "a"), ("a", 1), (0, 0)]
    table = {(seed, key): drawn(seed, *key) for seed in (0, 1) for key in keys}
    assert {k: drawn(k[0], *k[1]) for k in table} == table
    for position in range(3):  # torch, numpy, random
        assert len({numbers[position] for numbers in table.values()}) == len(table)


def test_own_generators_depend_on_seed_and_key_alone_and_leave_the_global_ones(tmp_path: Path) -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    here, elsewhere = session(tmp_path, 3), session(tmp_path, 3)
    assert torch.equal(
        torch.rand(4, generator=here.generator("k", 1)), torch.rand(4, generator=elsewhere.generator("k", 1))
    )
    assert np.array_equal(here.rng("k", 1).random(4), elsewhere.rng("k", 1).random(4))
    firsts = {
        float(torch.rand((), generator=session(tmp_path, s).generator(*k)))
        for s in (0, 1)
        for k in [("k",), ("l",), ()]
    }
    assert len(firsts) == 6
    assert len({float(session(tmp_path, s).rng(*k).random()) for s in (0, 1) for k in [("k",), ("l",), ()]}) == 6
    assert torch.equal(torch.get_rng_state(), before)


def test_the_numbers_of_a_seed_do_not_change_between_versions(tmp_path: Path) -> None:
    """Recorded results rest on them."""
    assert session(tmp_path, 0).generator().initial_seed() == 2968811710
    assert session(tmp_path, 5).generator("order", 1).initial_seed() == 1705738649


def scalars(folder: Path) -> list[tuple[str, int, float]]:
    """(tag, step, value) of a folder of TensorBoard events: records of length, checksum, message, checksum."""
    found = []
    for path in sorted(folder.glob("*tfevents*")):
        content = path.read_bytes()
        while content:
            size = int.from_bytes(content[:8], "little")
            event = Event.FromString(content[12 : 12 + size])
            found += [(value.tag, event.step, value.simple_value) for value in event.summary.value]
            content = content[12 + size + 4 :]
    return found


# -- progress and records -----------------------------------------------------------------------


def test_progress_passes_items_through(tmp_path: Path) -> None:
    assert list(session(tmp_path).progress("abc", "letters")) == ["a", "b", "c"]
    assert list(session(tmp_path).progress(iter("abc"), "letters")) == ["a", "b", "c"]
    assert list(session(tmp_path).progress([], "nothing")) == []


def test_progress_draws_a_bar_and_takes_it_away(tmp_path: Path) -> None:
    display = Progress(disable=True)
    items = session(tmp_path, display=display).progress("abc", "letters")
    assert next(items) == "a"
    (task,) = display.tasks
    assert (task.description, task.total, task.completed) == ("letters", 3, 0)
    assert next(items) == "b"
    assert task.completed == 1
    assert list(items) == ["c"]
    assert not display.tasks
    stopped = session(tmp_path, display=display).progress(iter("abc"), "letters", total=7)
    next(stopped)
    assert display.tasks[0].total == 7
    del stopped  # an interrupted loop
    assert not display.tasks


def test_a_dry_run_ends_after_two_items(tmp_path: Path) -> None:
    asked = []

    def items() -> Iterator[int]:
        for number in range(100):
            asked.append(number)
            yield number

    assert list(session(tmp_path, dry_run=True).progress(items(), "numbers")) == [0, 1]
    assert asked == [0, 1]
    assert list(session(tmp_path, dry_run=True).progress([7], "number")) == [7]


def test_records_go_to_metrics_and_to_tensorboard(tmp_path: Path) -> None:
    trial = session(tmp_path)
    trial.log(0, loss=0.5, lr=1)
    trial.log(1, part="teacher", loss=float(torch.tensor(0.25)))
    trial.finish()
    assert records(tmp_path) == [
        {"step": 0, "loss": 0.5, "lr": 1.0},
        {"step": 1, "part": "teacher", "loss": 0.25},
    ]
    assert scalars(tmp_path / "tensorboard") == [("loss", 0, 0.5), ("lr", 0, 1.0), ("teacher/loss", 1, 0.25)]


def test_records_of_what_is_not_finite_are_valid_json(tmp_path: Path) -> None:
    session(tmp_path).log(0, loss=float("nan"), other=float("inf"), third=1.0)

    def no_constants(word: str) -> float:
        raise AssertionError(f"{word} is not JSON")

    (line,) = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert json.loads(line, parse_constant=no_constants) == {"step": 0, "loss": None, "other": None, "third": 1.0}


def test_figures_are_saved_below_the_trial(tmp_path: Path) -> None:
    figure = Figure()
    figure.subplots().plot([1, 2])
    path = session(tmp_path).figure("curve", figure)
    assert path == tmp_path / "figures" / "curve.png"
    assert path.read_bytes().startswith(b"\x89PNG")


# -- resume points ------------------------------------------------------------------------------


def loop(folder: Path, steps: int, until: int | None = None, every: float = 0.0) -> tuple[Tensor, float]:
    """A loop of its own kind, as studies write it: keeps after each step, may be stopped after `until` steps."""
    trial = session(folder, keep_seconds=every)
    trial.reseed("init")
    model = nn.Linear(3, 1)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    saved = trial.resume(model=model, optimizer=optimizer)
    best = saved.get("best", float("inf"))
    for step in range(saved.get("step", 0), steps):
        if step == until:
            raise KeyboardInterrupt
        trial.reseed("step", step)
        loss = (model(torch.randn(8, 3)) - 1).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        best = min(best, loss.item())
        trial.log(step, loss=loss.item())
        trial.keep(step + 1, model=model, optimizer=optimizer, best=best)
    trial.finish()
    return model.weight.detach(), best


def test_an_interrupted_loop_ends_like_an_undisturbed_one(tmp_path: Path) -> None:
    weight, best = loop(tmp_path / "whole", 6)
    for stops in ([0], [1], [5], [2, 3, 5]):
        folder = tmp_path / "-".join(map(str, stops))
        for stop in stops:
            with pytest.raises(KeyboardInterrupt):
                loop(folder, 6, until=stop)
        again, best_again = loop(folder, 6)
        assert torch.equal(again, weight)
        assert best_again == best
        assert records(folder) == records(tmp_path / "whole")
        assert not (folder / "resume").exists()


def test_a_loop_that_kept_nothing_starts_over_and_records_each_step_once(tmp_path: Path) -> None:
    weight, _ = loop(tmp_path / "whole", 4)
    with pytest.raises(KeyboardInterrupt):
        loop(tmp_path / "cut", 4, until=3, every=3600)
    assert len(records(tmp_path / "cut")) == 3
    with (tmp_path / "cut" / "metrics.jsonl").open("a") as lines:
        lines.write('{"step": 3, "lo')  # killed while writing
    again, _ = loop(tmp_path / "cut", 4, every=3600)
    assert torch.equal(again, weight)
    assert records(tmp_path / "cut") == records(tmp_path / "whole")


def test_records_after_the_resume_point_and_half_written_ones_are_dropped(tmp_path: Path) -> None:
    trial = session(tmp_path, keep_seconds=0)
    trial.log(0, part="teacher", loss=9.0)
    trial.log(7, part="teacher", loss=8.0)
    for step in range(3):
        trial.log(step, loss=float(step))
    trial.keep(2)
    with (tmp_path / "metrics.jsonl").open("a", encoding="utf-8") as lines:
        lines.write('{"step": 3, "loss": 3.0}\n{"step": 4, "loss"')
    assert session(tmp_path).resume() == {"step": 2}
    # Of this loop, steps 0 and 1 are done; the other loop's records are not its business.
    assert [(r.get("part"), r["step"]) for r in records(tmp_path)] == [
        ("teacher", 0), ("teacher", 7), (None, 0), (None, 1),
    ]  # fmt: skip
    session(tmp_path).log(2, loss=2.0)
    assert records(tmp_path)[-1] == {"step": 2, "loss": 2.0}


def test_nothing_to_resume_is_an_empty_dict(tmp_path: Path) -> None:
    assert session(tmp_path).resume(model=nn.Linear(1, 1)) == {}


def test_parts_have_resume_points_of_their_own(tmp_path: Path) -> None:
    trial = session(tmp_path, keep_seconds=0)
    trial.keep(3, part="teacher", value=torch.tensor([1.0]))
    trial.keep(5, part="student", value=torch.tensor([2.0]), names=["a"], nested={"k": (1, 2.5)})
    again = session(tmp_path)
    assert again.resume(part="teacher")["value"] == 1
    saved = again.resume(part="student")
    assert (saved["step"], saved["names"], saved["nested"]["k"]) == (5, ["a"], (1, 2.5))
    assert again.resume() == {}


def test_resume_points_are_kept_apart_in_time_unless_wanted_now(tmp_path: Path) -> None:
    trial = session(tmp_path, keep_seconds=3600)
    trial.keep(1)
    assert session(tmp_path).resume() == {}
    trial.keep(2, now=True)
    assert session(tmp_path).resume() == {"step": 2}
    quick = session(tmp_path, keep_seconds=0.2)
    quick.keep(3)
    assert session(tmp_path).resume() == {"step": 2}
    time.sleep(0.25)
    quick.keep(4)
    quick.keep(5)
    assert session(tmp_path).resume() == {"step": 4}


def test_a_resume_point_that_is_cut_short_leaves_the_one_before(tmp_path: Path) -> None:
    trial = session(tmp_path, keep_seconds=0)
    trial.keep(1, value=1.0)
    with pytest.raises(Exception, match="pickle"):
        trial.keep(2, value=lambda: None)
    assert session(tmp_path).resume() == {"step": 1, "value": 1.0}


def test_a_damaged_resume_point_is_set_aside(tmp_path: Path) -> None:
    session(tmp_path, keep_seconds=0).keep(3, model=nn.Linear(2, 2))
    with pytest.warns(UserWarning, match="kept as loop.damaged1"), pytest.raises(SetAside, match="resume point"):
        session(tmp_path).resume(model=nn.Linear(5, 5))  # of another shape
    assert (tmp_path / "resume" / "loop.damaged1").exists()
    assert session(tmp_path).resume(model=nn.Linear(5, 5)) == {}


def test_records_that_are_no_records_are_dropped(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_bytes(b'{"step": 0}\n[1]\n{"loss": 1}\n\xff{}\n{"step": "x"}\n{"step": 9}\n')
    trial = session(tmp_path, keep_seconds=0)
    trial.keep(5)
    assert trial.resume() == {"step": 5}
    assert records(tmp_path) == [{"step": 0}]


@pytest.mark.parametrize("word", ["abc", "", "nan", "-1", "5s"])
def test_the_time_between_resume_points_must_be_a_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, word: str
) -> None:
    monkeypatch.setenv("REPERTORY_KEEP_SECONDS", word)
    with pytest.raises(Problem, match="not a number of seconds"):
        session(tmp_path)


# -- shared modules -----------------------------------------------------------------------------


def teacher() -> nn.Module:
    return ToyNet(5)


def test_a_shared_module_is_built_once_per_seed_and_equal_for_all(tmp_path: Path) -> None:
    built = []

    def build() -> nn.Module:
        built.append(1)
        return teacher()

    def ask(trial: str, seed: int = 0, name: str = "teacher") -> nn.Module:
        return session(tmp_path / trial, seed, shared_dir=tmp_path / "shared").shared(name, build)

    first, second = ask("a"), ask("b")
    assert len(built) == 1
    assert first is not second
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert not first.training
    other = ask("a", seed=1)
    assert len(built) == 2
    assert not torch.equal(next(other.parameters()), next(first.parameters()))
    ask("a", name="assistant")
    assert len(built) == 3


def test_whoever_builds_a_shared_module_goes_on_like_those_who_find_it(tmp_path: Path) -> None:
    """Else an arm's result would depend on which arm came first."""

    def after(trial: str, build: Any) -> tuple[float, float, float]:
        one = session(tmp_path / trial, shared_dir=tmp_path / "shared")
        one.reseed("train")
        one.shared("teacher", build)
        return draws()

    def build() -> nn.Module:
        draws()
        return teacher()

    assert after("a", build) == after("b", build)


def test_a_shared_module_that_could_not_be_built_is_built_by_the_next(tmp_path: Path) -> None:
    def fail() -> nn.Module:
        raise ZeroDivisionError

    trial = session(tmp_path)
    with pytest.raises(ZeroDivisionError):
        trial.shared("teacher", fail)
    assert isinstance(trial.shared("teacher", teacher), ToyNet)


def test_a_damaged_shared_module_is_set_aside_and_built_anew(tmp_path: Path) -> None:
    trial = session(tmp_path)
    first = trial.shared("teacher", teacher)
    weights = trial.shared_dir / "teacher-0" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:30])
    with pytest.warns(UserWarning, match="kept as teacher-0.damaged1"):
        again = trial.shared("teacher", teacher)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))


# -- data ---------------------------------------------------------------------------------------


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("REPERTORY_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def samples(cache: Path) -> list[Path]:
    return sorted(path for path in (cache / "samples").iterdir() if path.is_dir())


def test_the_sample_is_written_once_and_read_by_the_reader_for_real_data(tmp_path: Path, cache: Path) -> None:
    train, test = study(tmp_path / "a").data()
    assert (len(train), len(test)) == (128, 64)
    (folder,) = samples(cache)
    written = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert sorted(written) == ["test.csv", "train.csv"]
    study(tmp_path / "b").data()
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == written


def test_the_sample_depends_on_its_fields_and_version_alone(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study(tmp_path).data()
    study(tmp_path, lr=0.5, hidden=3).data()
    assert len(samples(cache)) == 1
    train, test = study(tmp_path, samples=30).data()
    assert (len(train), len(test)) == (20, 10)
    assert len(samples(cache)) == 2
    monkeypatch.setattr(ToyStudy, "sample_version", 2)
    study(tmp_path).data()
    assert len(samples(cache)) == 3


class _Interrupted(ToyStudy):
    def write_sample(self, folder: Path) -> None:
        (folder / "train.csv").write_text("half")
        raise KeyboardInterrupt


def test_a_sample_that_is_cut_short_leaves_nothing_behind(tmp_path: Path, cache: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        _Interrupted(ToyConfig(), session(tmp_path)).data()
    assert samples(cache) == []
    assert len(study(tmp_path).data()[0]) == 128


AT_ONCE = """
import sys, time
from pathlib import Path
import torch
from repertory.core.study import Session
from toy_room.study import ToyNet, ToyStudy

torch.set_num_threads(1)
here, name = Path(sys.argv[1]), sys.argv[2]


def note(word):
    (here / f"{word}-by-{name}").touch()
    time.sleep(0.5)  # long enough for the other to come by


class Slow(ToyStudy):
    def write_sample(self, folder):
        super().write_sample(folder)
        note("written")


def build():
    note("built")
    return ToyNet(5)


(here / f"ready-{name}").touch()
while len(list(here.glob("ready-*"))) < 2:
    time.sleep(0.005)
session = Session(0, here / name, shared_dir=here / "shared", package="toy_room")
assert len(Slow(ToyStudy.scales["smoke"], session).data()[0]) == 128
torch.save(session.shared("teacher", build).state_dict(), here / f"{name}.pt")
"""


def test_two_processes_that_ask_at_once_share_one_sample_and_one_module(toy: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", AT_ONCE, str(tmp_path)]
    running = [subprocess.Popen([*command, name], stderr=subprocess.PIPE, text=True) for name in "ab"]
    errors = [process.communicate(timeout=120)[1] for process in running]
    assert [process.returncode for process in running] == [0, 0], errors
    assert len(list(tmp_path.glob("written-by-*"))) == 1
    assert len(list(tmp_path.glob("built-by-*"))) == 1
    a, b = (torch.load(tmp_path / f"{name}.pt", weights_only=True) for name in "ab")
    assert a.keys() == b.keys()
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_the_cache_is_the_users_own_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("REPERTORY_CACHE", str(tmp_path))
    assert cache_dir() == tmp_path
    monkeypatch.delenv("REPERTORY_CACHE")
    assert cache_dir().name == "repertory"


def test_ones_own_data_are_read_where_they_lie(tmp_path: Path, cache: Path) -> None:
    mine = tmp_path / "my rings"
    mine.mkdir()
    study(tmp_path, samples=9).write_sample(mine)
    one = study(tmp_path, data=mine)
    assert len(one.data()[0]) == 6
    assert one.data_name() == "my rings"
    assert not cache.exists()


def test_missing_data_are_said_with_the_layout_expected(tmp_path: Path) -> None:
    for folder in (tmp_path / "nowhere", tmp_path):  # absent, or without the files
        with pytest.raises(Problem) as caught:
            study(tmp_path / "out", data=folder).data()
        assert "train.csv, test.csv: one point a row" in caught.value.what
        assert caught.value.where == str(folder)
        assert "repertory sample toy" in caught.value.remedy
        assert len(str(caught.value).splitlines()) == 3


def test_real_data_are_found_by_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REPERTORY_DATA", raising=False)
    with pytest.raises(Problem, match=r"REPERTORY_DATA=\(unset\)"):
        real_data("rings")
    with pytest.raises(Problem, match="real data set rings"):
        study(tmp_path / "out", "desk").data()
    monkeypatch.setenv("REPERTORY_DATA", str(tmp_path))
    with pytest.raises(Problem) as caught:
        real_data("rings")
    assert caught.value.where == f"REPERTORY_DATA={tmp_path}"
    (tmp_path / "rings").mkdir()
    assert real_data("rings") == tmp_path / "rings"
    study(tmp_path, samples=9).write_sample(tmp_path / "rings")
    one = study(tmp_path / "out", "desk")
    assert len(one.data()[0]) == 6
    assert one.data_name() == "rings"


def test_the_name_of_the_data_goes_with_their_source(tmp_path: Path) -> None:
    assert study(tmp_path).data_name() == "rings"
    assert study(tmp_path, "desk").data_name() == "rings"
    assert study(tmp_path, "desk", data=tmp_path / "mine").data_name() == "mine"  # one's own data come first


def test_a_cache_that_cannot_be_written_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", Path("/proc/nowhere")):
        monkeypatch.setenv("REPERTORY_CACHE", str(place))
        with pytest.raises(Problem) as caught:
            study(tmp_path / "out").data()
        assert str(place) in caught.value.where
        assert "REPERTORY_CACHE" in caught.value.remedy


# -- the study ----------------------------------------------------------------------------------


def test_what_a_paper_does_not_offer_is_a_problem(tmp_path: Path) -> None:
    class Bare(ToyStudy):
        measure = ToyStudy.__base__.measure  # pyright: ignore[reportOptionalMemberAccess, reportAttributeAccessIssue]
        predict = ToyStudy.__base__.predict  # pyright: ignore[reportOptionalMemberAccess, reportAttributeAccessIssue]

    bare = Bare(ToyConfig(), session(tmp_path))
    assert bare.measure() == {}
    with pytest.raises(Problem, match="has no predict"):
        bare.predict(ToyNet(), tmp_path)
    with pytest.raises(Problem, match="released no weights"):
        bare.convert(tmp_path / "weights.pth")


def test_configurations_are_frozen_bounded_and_closed() -> None:
    with pytest.raises(ValidationError, match="seeds"):
        StudyConfig(seeds=0)
    with pytest.raises(ValidationError, match="extra"):
        ToyConfig.model_validate({"learning_rate": 1})
    with pytest.raises(ValidationError, match="frozen"):
        ToyConfig().lr = 3  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(ValidationError, match="lr"):
        ToyConfig(lr=-1)


# -- metrics ------------------------------------------------------------------------------------


def test_a_metric_is_found_by_its_name_else_by_the_longest_template() -> None:
    metrics = {
        "accuracy": Metric("accuracy", "准确率"),
        "accuracy_{x}": Metric("accuracy of {x}", "{x} 的准确率"),
        "accuracy_deep_{x}": Metric("accuracy, {x} layers", "{x} 层的准确率"),
        "accuracy_deep_8": Metric("accuracy, as published", "发表的准确率"),
        "kept_{x}_mb": Metric("memory, {x}", "内存，{x}", unit="MB"),
    }
    labels = {
        "accuracy": "accuracy",
        "accuracy_h-gcn": "accuracy of h-gcn",
        "accuracy_deep_16": "accuracy, 16 layers",
        "accuracy_deep_8": "accuracy, as published",
        "kept_2.5_mb": "memory, 2.5",
        "kept_1e-05_mb": "memory, 1e-05",
    }
    assert {name: getattr(find_metric(metrics, name), "en", None) for name in labels} == labels
    found = find_metric(metrics, "accuracy_夜")
    assert found is not None
    assert found["zh"] == "夜 的准确率"
    for name in ("acuracy", "accuracy_", "kept_2_gb", "kept__mb", "xaccuracy", "accuracy_a b", ""):
        assert find_metric(metrics, name) is None, name


def test_what_a_study_does_not_declare_is_listed() -> None:
    assert undeclared(ToyStudy, ["accuracy", "parameters_3", "acuracy", "parameters_"]) == ["acuracy", "parameters_"]


# -- outputs of examples ------------------------------------------------------------------------


def test_outputs_of_examples_are_stored_small_and_added_up(tmp_path: Path) -> None:
    session = Session(0, tmp_path)
    probability = torch.rand(50, 3, generator=torch.Generator().manual_seed(0))
    session.keep_outputs({"label": torch.arange(50), "probability": probability})
    session.keep_outputs({"loss": np.array([0.5, 1e6]), "right": np.array([True, False]), "shift": np.array([-1, 200])})
    with np.load(tmp_path / "outputs.npz", allow_pickle=False) as stored:
        outputs = {name: stored[name] for name in stored.files}
    types = {name: str(array.dtype) for name, array in outputs.items()}
    assert types == {
        "label": "uint8", "probability": "float16", "loss": "float32", "right": "bool", "shift": "int16",
    }  # fmt: skip
    assert outputs["label"].tolist() == list(range(50))
    assert outputs["shift"].tolist() == [-1, 200]
    np.testing.assert_allclose(outputs["probability"], probability, rtol=2**-11)
    assert not list(tmp_path.glob(".*")), "written whole"


def test_outputs_of_several_processes_are_put_into_the_order_of_the_data(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = [{"label": np.array([0, 2, 4])}, {"label": np.array([1, 3])}]
    monkeypatch.setattr(torch.distributed, "all_gather_object", lambda into, _: into.__setitem__(slice(None), parts))
    assert _interleaved(parts[0], 2)["label"].tolist() == [0, 1, 2, 3, 4]


# -- sources of randomness ----------------------------------------------------------------------


def test_the_seed_drives_all_or_one_source_of_randomness(tmp_path: Path) -> None:
    def draws(seed: int, vary: Vary) -> tuple[float, ...]:
        """One of reading, one of splitting in training, one of training."""
        this = Session(seed, tmp_path, vary=vary, first_seed=3)
        return tuple(float(r.random()) for r in (this.for_data().rng("beams"), this.rng("split", 1), this.rng("order")))

    assert draws(3, "all") == draws(3, "init") == draws(3, "split"), "the first seed is the same under each"
    first = draws(3, "all")
    assert [a == b for a, b in zip(draws(4, "all"), first, strict=True)] == [False, False, False]
    assert [a == b for a, b in zip(draws(4, "init"), first, strict=True)] == [True, True, False]
    assert [a == b for a, b in zip(draws(4, "split"), first, strict=True)] == [False, False, True]
    assert draws(4, "init")[2] == draws(4, "all")[2]
    assert draws(4, "split")[:2] == draws(4, "all")[:2]
    session = Session(4, tmp_path, vary="init", first_seed=3)
    assert (session.seed, session.split_seed, session.for_data().seed) == (4, 3, 3)


@pytest.mark.parametrize(("vary", "read_at"), [("all", 4), ("init", 2), ("split", 4)])
def test_data_are_read_under_the_seed_of_the_split(tmp_path: Path, vary: Vary, read_at: int) -> None:
    class Seeded(ToyStudy):
        def read(self, folder: Path) -> Any:
            return self.session.seed, float(self.session.rng("sample").random())

    config = ToyConfig(vary=vary, first_seed=2)
    this = Seeded(config, Session(4, tmp_path, tmp_path, vary=config.vary, first_seed=config.first_seed))
    assert this.data() == (read_at, float(Session(read_at, tmp_path).rng("sample").random()))


def test_a_prediction_shows_itself_in_a_notebook() -> None:
    figure = Figure(figsize=(1, 1))
    rows = [{"file": f"<{k}>.png", "p": 0.123456} for k in range(10)]
    shown = Prediction(text="a < b", table=rows, figures={"map": figure})._repr_html_()
    assert "<pre>a &lt; b</pre>" in shown
    assert "&lt;0&gt;.png" in shown
    assert "0.1235" in shown
    assert "and 2 more rows" in shown
    assert '<img alt="map" src="data:image/png;base64,' in shown
    assert Prediction()._repr_html_() == ""
