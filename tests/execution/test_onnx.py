"""ONNX: what is written equals the network, runs on batches of any size, and what cannot be written is said."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from repertory.core.problem import Problem
from repertory.execution.onnx import Runtime, export

pytest.importorskip("onnxscript", reason="onnxscript is not installed")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")


class Weighed(nn.Module):
    """Two inputs of different shapes."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)

    def forward(self, x: Tensor, weight: Tensor) -> Tensor:
        return self.linear(x).softmax(-1) * weight


class Unsteady(nn.Module):
    """The graph depends on the values."""

    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


def test_a_network_of_two_inputs_takes_any_batch(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = Weighed().eval()
    written = export(net, {"x": torch.randn(2, 3), "weight": torch.rand(2, 1)}, tmp_path / "net.onnx")
    assert written.inputs == {"x": (3,), "weight": (1,)}
    assert written.opset >= 18
    assert [path.name for path in tmp_path.iterdir()] == ["net.onnx"]
    run = Runtime(written.path)
    for batch in (1, 7):
        inputs = torch.randn(batch, 3), torch.rand(batch, 1)
        torch.testing.assert_close(run(*inputs), net(*inputs).detach(), rtol=1e-4, atol=1e-6)


def test_what_cannot_be_exported_is_said(tmp_path: Path) -> None:
    with pytest.raises(Problem, match="the network cannot be exported"):
        export(Unsteady(), {"x": torch.ones(2, 3)}, tmp_path / "net.onnx")
    assert not list(tmp_path.iterdir())


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(Problem, match="no such file"):
        Runtime(tmp_path / "model.onnx")
    (tmp_path / "model.onnx").write_bytes(b"nothing")
    with pytest.raises(Problem, match="not an ONNX model"):
        Runtime(tmp_path / "model.onnx")
