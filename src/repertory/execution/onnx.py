"""ONNX: write a model with a dynamic batch, held against the network itself, and run it by ONNX Runtime."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from repertory.core.files import temporary_folder
from repertory.core.problem import Problem, reason, require

NAME = "model.onnx"
"""Of the file in a model directory."""
TOLERANCE = 1e-3
"""Largest difference of an output to the network's, relative to the largest output."""


@dataclass(frozen=True)
class Exported:
    """What was written."""

    path: Path
    opset: int
    inputs: dict[str, tuple[int, ...]]
    """Name -> shape, without the batch."""
    error: float
    """Largest difference of an output to the network's, relative to the largest output."""


def export(model: nn.Module, inputs: dict[str, Tensor], path: Path) -> Exported:
    """Write a network in evaluation mode as ONNX; the first axis of inputs and outputs is of any length.

    The file is run on more samples than it was written from, and compared, before it takes its place.

    Args:
        model: forward takes the inputs by position and returns a tensor.
        inputs: name -> example, of two samples or more.
        path: of the file.

    Raises:
        Problem: a package is missing, the network cannot be exported, or the outputs differ.
    """
    for module in ("onnx", "onnxscript", "onnxruntime"):
        require(module, "onnx")
    batch = torch.export.Dim("batch")
    examples = tuple(inputs.values())
    more = {name: torch.cat([x, x.flip(0), x[:1]]) for name, x in inputs.items()}
    try:
        program: Any = torch.onnx.export(
            model.eval(),
            examples,
            input_names=list(inputs),
            dynamic_shapes=tuple({0: batch} for _ in examples),
            verbose=False,
        )
    except Exception as error:  # the exporter raises many kinds
        remedy = "use the model through PyTorch; benchmarks/exports.py tells what can be exported"
        raise Problem(f"the network cannot be exported: {reason(error)}", type(model).__name__, remedy) from error
    with temporary_folder(path.parent, path.name) as folder:
        fresh = folder / path.name
        program.save(fresh)
        with torch.no_grad():
            expected, found = model(*more.values()), Runtime(fresh)(*more.values())
        scale = float(expected.abs().max()) or 1.0
        difference = float((found - expected).abs().max()) / scale
        if not difference <= TOLERANCE:
            raise Problem(
                f"the exported network differs by {difference:.1g} of its largest output", path, "report it as a bug"
            )
        fresh.replace(path)
    shapes = {name: tuple(x.shape[1:]) for name, x in inputs.items()}
    return Exported(path, int(program.model.opset_imports[""]), shapes, difference)


class Runtime:
    """The forward pass of an exported network, by ONNX Runtime on the CPU with as many threads as torch.

    Raises:
        Problem: ONNX Runtime is not installed, there is no such file, or none that it reads.
    """

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise Problem("no such file", path, f"repertory export {path.parent}")
        runtime = require("onnxruntime", "onnx")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        try:
            self.session = runtime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime has a class for each kind of failure
            raise Problem(
                f"not an ONNX model: {reason(error)}", path, f"write it again: repertory export {path.parent}"
            ) from error
        self.names = [known.name for known in self.session.get_inputs()]

    def __call__(self, *inputs: Tensor) -> Tensor:
        """Tensors in the order of the export -> the first output, on the device of the first input."""
        given = {name: x.detach().cpu().numpy() for name, x in zip(self.names, inputs, strict=True)}
        return torch.from_numpy(self.session.run(None, given)[0]).to(inputs[0].device)
