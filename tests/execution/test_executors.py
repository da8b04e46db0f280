"""Processes and Ray: what they open, what they bring back, and what happens when a worker dies."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from repertory.core.study import Study
from repertory.execution import executors
from repertory.execution.experiment import Experiment
from repertory.execution.trials import Trial, finished, write_outcome

# Appended to the study of the toy paper: its linear model kills its process, or waits for ever.
UNRULY = """

class UnrulyStudy(ToyStudy):
    paper = "toy"

    def train(self, arm, data):
        import os, signal, time
        from pathlib import Path
        if arm == "plain" and "TOY_WAITS" in os.environ:
            Path(os.environ["TOY_WAITS"], str(os.getpid())).touch()
            time.sleep(600)
        if arm == "plain":
            os.kill(os.getpid(), signal.SIGKILL)
        return super().train(arm, data)
"""


@pytest.fixture
def unruly(toy: Path) -> str:
    """The toy paper with a study that ends its process."""
    study = toy / "study.py"
    text = study.read_text(encoding="utf-8").replace('    paper = "toy"\n', '    paper = "base"\n')
    study.write_text(text + UNRULY, encoding="utf-8")
    return "toy"


def test_a_worker_that_dies_costs_its_own_trial_alone(unruly: str, tmp_path: Path) -> None:
    result = Experiment(unruly, "smoke", out=tmp_path / "run").run(seeds=2, jobs=2)
    assert {(o.arm, o.seed) for o in result.failures} == {("plain", 0), ("plain", 1)}
    assert all("ended without a result (Killed)" in o.error for o in result.failures)
    assert set(result.metrics["wide"]) == {0, 1}
    assert all(result.metrics["wide"].values())
    assert result.figures["parameters_8"] == 42
    assert (tmp_path / "run" / "report.html").exists()
    assert not finished(Experiment(unruly, "smoke", out=tmp_path / "run").trials(1)[0]), "it is tried again"


READS = """

class CountingStudy(ToyStudy):
    paper = "toy"

    def read(self, folder):
        import os
        from pathlib import Path
        with Path(os.environ["TOY_READS"]).open("a") as lines:
            lines.write(f"{os.getpid()} {self.session.seed}\\n")
        return super().read(folder)
"""


def test_a_worker_stays_with_a_seed_whose_data_it_has_read(
    toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = toy / "study.py"
    text = study.read_text(encoding="utf-8").replace('    paper = "toy"\n', '    paper = "base"\n')
    study.write_text(text + READS, encoding="utf-8")
    monkeypatch.setenv("TOY_READS", str(tmp_path / "reads"))
    result = Experiment("toy", "smoke", out=tmp_path / "run").run(seeds=2, jobs=2)
    assert not result.failures
    reads = (tmp_path / "reads").read_text(encoding="utf-8").split("\n")[:-1]
    assert len(reads) == len(set(reads)), "a worker read the data of a seed twice"
    assert {read.split()[1] for read in reads} == {"0", "1"}


def test_workers_share_the_seeds_out() -> None:
    waiting = [Trial("toy", "{}", arm, seed, "run") for seed in (0, 1, 2) for arm in ("a", "b")]
    assert executors._choice(waiting, None, {0}) is waiting[2]
    assert executors._choice(waiting, 2, {0, 1}) is waiting[4]
    assert executors._choice(waiting, 7, {0, 1, 2}) is waiting[0]


def test_workers_end_when_their_parent_is_killed(unruly: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    busy = tmp_path / "busy"
    busy.mkdir()
    monkeypatch.setenv("TOY_WAITS", str(busy))
    command = [sys.executable, "-m", "repertory.cli", "run", unruly, "--scale", "smoke", "--jobs", "2", "--seeds", "2"]
    parent = subprocess.Popen([*command, "--arms", "plain", "--out", str(tmp_path / "run")], stdout=subprocess.DEVNULL)
    await_(lambda: len(list(busy.iterdir())) == 2)
    workers = [int(path.name) for path in busy.iterdir()]
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    await_(lambda: not any(alive(pid) for pid in workers))


def await_(condition: Any) -> None:
    deadline = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < deadline, "it never came about"
        time.sleep(0.05)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{pid}/stat")
    return not (status.exists() and ") Z " in status.read_text())


# -- Ray ----------------------------------------------------------------------------------------

SINGLE = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
JOIN = """
import sys, ray
ray.init(sys.argv[1], log_to_driver=False)
print("joined", ray.get(ray.remote(lambda: 1).remote()))
"""


def test_our_own_ray_is_private_and_gives_the_figures_of_an_inline_run(toy_net: str, tmp_path: Path) -> None:
    ray = pytest.importorskip("ray", reason="the extra `ray` is not installed")
    psutil = pytest.importorskip("psutil", reason="needs psutil to see who listens")
    inline = Experiment(toy_net, "smoke", out=tmp_path / "inline").run(seeds=1)
    before = dict(os.environ)
    with executors._ray("local"):
        assert all(os.environ.get(k) == before.get(k) for k in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", SINGLE))
        on_ray = Experiment(toy_net, "smoke", out=tmp_path / "ray").run(seeds=1, ray="local")
        address, port = ray.get_runtime_context().gcs_address.rsplit(":", 1)
        assert address == "127.0.0.1"
        own = {os.getpid(), *(process.pid for process in psutil.Process().children(recursive=True))}
        listening = [c.laddr for c in psutil.net_connections("inet") if c.status == "LISTEN" and c.pid in own]
        assert int(port) in {place.port for place in listening}
        assert {place.ip.removeprefix("::ffff:") for place in listening} == {"127.0.0.1"}
        for other in {
            a.address for found in psutil.net_if_addrs().values() for a in found if a.family == socket.AF_INET
        }:
            if not other.startswith("127."):
                with pytest.raises(OSError, match="refused"):
                    socket.create_connection((other, int(port)), timeout=5)
        assert "joined" in joined(f"127.0.0.1:{port}", {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": executors.TOKEN})
        assert "joined" not in joined(f"127.0.0.1:{port}", {"RAY_AUTH_MODE": "disabled"})
    assert not on_ray.failures
    assert on_ray.metrics == inline.metrics


def joined(address: str, credentials: dict[str, str]) -> str:
    """What a stranger's process prints, which gives up after a while: Ray itself asks again and again."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_AUTH")}
    environment |= {SINGLE: "0", **credentials}  # else Ray takes another address for 127.0.0.1
    command = [sys.executable, "-c", JOIN, address]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout
    said = []
    for line in process.stdout:
        said.append(line)
        if "joined" in line or "InvalidAuthToken" in line:
            break
    process.kill()
    process.wait()
    assert said, "it said nothing"
    return "".join(said)


def test_a_machine_that_does_not_share_the_run_directory_sends_its_files(
    toy_net: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = Experiment(toy_net, "smoke", out=tmp_path / "driver")
    evaluate = experiment.study.evaluate

    def keeping(self: Study, model: Any, data: Any) -> dict[str, float]:
        self.session.keep_outputs({"label": np.arange(3)})
        return evaluate(self, model, data)

    monkeypatch.setattr(experiment.study, "evaluate", keeping)
    (trial, *_) = experiment.trials(1, ["toy_net"])
    elsewhere = replace(trial, run_dir=str(tmp_path / "worker"))
    outcome = executors._attempt_elsewhere(elsewhere, b"config of the driver")
    assert {"metrics.jsonl", "outputs.npz", "checkpoint/model.safetensors", "checkpoint/repertory.json"} <= set(
        outcome.files
    )
    assert not [name for name in outcome.files if name.startswith(("tensorboard", "resume"))]
    shutil.rmtree(tmp_path / "worker")
    write_outcome(trial, outcome)
    assert finished(trial)
    assert (trial.folder / "checkpoint" / "model.safetensors").read_bytes() == outcome.files[
        "checkpoint/model.safetensors"
    ]
    assert np.load(trial.folder / "outputs.npz")["label"].tolist() == [0, 1, 2]
    again = executors._attempt_elsewhere(trial, executors._run_file(trial))
    assert again.files == {}, "a shared folder needs nothing sent"
    assert again.metrics == outcome.metrics


def test_a_worker_of_ray_that_dies_costs_its_own_trial_alone(
    toy_net: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class RayError(Exception): ...

    class RayTaskError(RayError):
        cause = None

    class Fake:
        exceptions = SimpleNamespace(RayError=RayError, RayTaskError=RayTaskError)

        def remote(self, **_: Any) -> Any:
            return lambda function: SimpleNamespace(remote=lambda trial, run_file: trial)

        def wait(self, waiting: list[Any], num_returns: int) -> tuple[list[Any], list[Any]]:
            return waiting[:num_returns], waiting[num_returns:]

        def get(self, trial: Any) -> Any:
            if trial.arm == "baseline":
                raise (RayError if trial.seed else RayTaskError)("the worker died\nsee the log")
            return executors.attempt(trial)

    @contextlib.contextmanager
    def fake(address: str) -> Iterator[Any]:
        yield Fake()

    monkeypatch.setattr(executors, "_ray", fake)
    result = Experiment(toy_net, "smoke", out=tmp_path).run(seeds=2, ray="somewhere:1")
    assert [(o.arm, o.seed) for o in result.failures] == [("baseline", 0), ("baseline", 1)]
    assert "the worker died" in result.failures[1].error
    assert set(result.metrics["toy_net"]) == {0, 1}
