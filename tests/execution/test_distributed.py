"""Two processes with Fabric's DDP are one process with twice the batch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from lightning_fabric import Fabric

from repertory.core import training
from repertory.core.study import Session, Study
from repertory.papers.spaic.study import SpaicStudy
from repertory.papers.vgnet.study import VGNetStudy


def run(out: Path, *words: str) -> dict:
    """A run of proton dose through the command line; its recorded metrics."""
    command = [sys.executable, "-m", "repertory.cli", "run", "proton_dose", "--scale", "smoke", "--accelerator", "cpu"]
    command += ["--arms", "bi_hu_sp", "--out", str(out), "--json", *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads((out / "verdict.json").read_text())


def test_two_processes_equal_one_with_twice_the_batch(tmp_path: Path) -> None:
    two = run(tmp_path / "two", "--devices", "2", "--strategy", "ddp", "--set", "batch_size=5")
    one = run(tmp_path / "one", "--set", "batch_size=10")
    assert two["trials"][0]["error"] == one["trials"][0]["error"] == ""
    assert two["trials"][0]["metrics"] == pytest.approx(one["trials"][0]["metrics"], rel=1e-3, abs=1e-3)
    losses = [
        [json.loads(line)["loss"] for line in next((tmp_path / n / "trials").glob("*/metrics.jsonl")).open()]
        for n in ("two", "one")
    ]
    # Each process records the loss of its own half; the weights, and so all later steps, agree.
    assert len(losses[0]) == len(losses[1])


def losses(study: type[Study], arm: str, processes: int, batch: int, folder: Path) -> list[float]:
    """Training losses, one a step, of three smoke epochs in double precision: torch's own batch norm errs by 3e-6."""
    config = study.scales["smoke"].model_copy(update={"batch_size": batch, "epochs": 3})
    study(config, Session(0, folder)).data()  # written once, before the processes start
    strategy = "ddp_fork" if processes > 1 else "auto"
    fabric = Fabric(accelerator="cpu", devices=processes, strategy=strategy, precision="64-true")

    def train(fabric: Fabric) -> None:
        here = study(config, Session(0, folder, fabric=fabric))
        here.train(arm, here.data())
        here.session.finish()

    fabric.launch(train)
    return [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(("study", "arm"), [(VGNetStudy, "g"), (SpaicStudy, "stca")])
def test_batch_norms_and_spikes_do_not_depend_on_the_processes(
    study: type[Study], arm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "LOG_EVERY", 1)
    two, one = (losses(study, arm, n, 32 // n, tmp_path / str(n)) for n in (2, 1))
    assert len(one) >= 3
    assert len(set(one)) == len(one)
    assert two == pytest.approx(one, rel=1e-6)
