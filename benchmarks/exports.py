"""Which networks torch.compile, torch.export and jit.trace take: `python benchmarks/exports.py` prints a table.

Every cell compares outputs with the network's own; a failure is printed with its first line. "batch": its size is
dynamic; "size": height and width too. Where onnx, onnxscript and onnxruntime are installed, as the extra `test` does,
there are ONNX columns. Shallow variants, on the CPU, in minutes.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import timm
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor, nn

import repertory.papers.eca.model
import repertory.papers.emo.model
import repertory.papers.revcol.model
import repertory.papers.vgnet.model  # noqa: F401  the imports register the networks
from repertory.papers.spaic import CLIF, GLIF, LIF, Full, Group, Input, Net, compile_net

SMALL: dict[str, dict[str, Any]] = {
    "emo_1m": {"depths": (1, 1, 2, 1)},
    "eca_resnet18": {"depths": (1, 1, 1, 1), "kernel_sizes": (3, 5, 7, 7)},
    "eca_mobilenet_v2": {},
    "vgnetg_1_0mp": {"layers": (2, 2, 2, 2)},
    "revcol_tiny": {"layers": (1, 1, 1, 1), "columns": 2},
}
"""Registered name -> arguments that make it shallow; each kind of layer stays."""
BATCH = torch.export.Dim("batch")
SIDE = 32
"""Unit of dynamic sizes: RevCol takes multiples of 32."""
EXAMPLE, OTHER = (288, 288), (320, 448)
"""Sizes of the example and of the comparison; 448 pixels are whole attention windows of EMO, 320 are not. Its last maps
hold several windows a side from 256 pixels on; torch.export makes a graph of its own for one window a side, since it
treats axes of length 1 apart."""


def image_networks() -> dict[str, tuple[nn.Module, Tensor]]:
    """Name -> (network in evaluation mode, images (2, 3, 64, 64))."""
    x = torch.randn(2, 3, 64, 64)
    return {name: (timm.create_model(name, num_classes=5, **small).eval(), x) for name, small in SMALL.items()}


def spiking_networks() -> dict[str, tuple[nn.Module, Tensor]]:
    """Name -> (network, spikes (T, B, 6))."""
    networks = {}
    for model in (LIF(), CLIF(), GLIF()):
        with Net(0.5) as net:
            x = Input(6)
            a, b = Group(8, model), Group(4, model)
            _ = x >> Full(init=("normal", 0.3, 0.3)) >> a >> Full(init=("normal", 0.3, 0.3)) >> b
            b.read("spike_counts")
        spikes = (torch.rand(10, 2, 6) < 0.5).float()
        networks[f"spaic {model.name}"] = compile_net(net).eval(), spikes
    return networks


COLUMNS = "compile", "export", "export, batch", "export, size", "trace", "empty batch", "ONNX, batch", "ONNX, size"
ONNX = ("onnx", "onnxscript", "onnxruntime")


def compiled(network: nn.Module, x: Tensor) -> Tensor:
    """One graph, without breaks."""
    torch.compiler.reset()
    return torch.compile(network, backend="eager", fullgraph=True)(x)


def exported(network: nn.Module, x: Tensor, shapes: Any = None, check: Tensor | None = None) -> Tensor:
    """torch.export from `x`, run on `check`."""
    program = torch.export.export(network, (x,), dynamic_shapes=shapes)
    return program.module()(x if check is None else check)


def traced(network: nn.Module, x: Tensor, check: Tensor) -> Tensor:
    """torch.jit.trace from `x`, run on `check`."""
    return torch.jit.trace(network, x, check_trace=False)(check)  # pyright: ignore[reportCallIssue]


def onnx(network: nn.Module, x: Tensor, shapes: Any, check: Tensor) -> Tensor:
    """ONNX with dynamic shapes, through torch.export, run on `check` by onnxruntime."""
    program = torch.onnx.export(network, (x,), dynamo=True, dynamic_shapes=shapes, verbose=False)
    assert program is not None
    return program(check)[0]


def ways(x: Tensor) -> dict[str, tuple[Callable[[nn.Module], Any], Tensor | None]]:
    """Column -> (what is done, input of the comparison; None: nothing is compared)."""
    images = x.ndim == 4
    axis = 0 if images else 1
    more = torch.cat([x, x.flip(axis), x], axis)
    found: dict[str, tuple[Callable[[nn.Module], Any], Tensor | None]] = {
        "compile": (lambda net: compiled(net, x), x),
        "export": (lambda net: exported(net, x), x),
        "export, batch": (lambda net: exported(net, x, ({axis: BATCH},), more), more),
        "trace": (lambda net: traced(net, x, more), more),
        "empty batch": (lambda net: net(more.narrow(axis, 0, 0)), more.narrow(axis, 0, 0)),
    }
    with_onnx = all(map(find_spec, ONNX))
    if with_onnx:
        found["ONNX, batch"] = (lambda net: onnx(net, x, ({axis: BATCH},), more), more)
    if images:
        example, larger = torch.randn(2, 3, *EXAMPLE), torch.randn(3, 3, *OTHER)
        sides = {2: SIDE * torch.export.Dim("rows", max=32), 3: SIDE * torch.export.Dim("columns", max=32)}
        found["export, size"] = (lambda net: exported(net, example, ({0: BATCH, **sides},), larger), larger)
        if with_onnx:
            found["ONNX, size"] = (lambda net: onnx(net, example, ({0: BATCH, **sides},), larger), larger)
    return found


def outcome(network: nn.Module, run: Callable[[nn.Module], Any], x: Tensor | None) -> str:
    """ "yes", or the reason why not."""
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = run(network)
            if x is not None:
                torch.testing.assert_close(found, network(x), rtol=1e-3, atol=1e-4)
    except Exception as error:  # whatever the exporters raise is the answer
        return f"{type(error).__name__}: {str(error).strip().splitlines()[0][:60]}"
    return "yes"


def main() -> None:
    """Print the matrix."""
    torch.manual_seed(0)
    table = Table("network", *COLUMNS)
    for name, (network, x) in track({**image_networks(), **spiking_networks()}.items(), console=Console(stderr=True)):
        cells = {column: outcome(network, run, compared) for column, (run, compared) in ways(x).items()}
        table.add_row(name, *(cells.get(column, "-") for column in COLUMNS))
    console = Console(width=170)
    console.print(table)
    if not all(map(find_spec, ONNX)):
        console.print(f"ONNX: not tried, {', '.join(ONNX)} are not installed")


if __name__ == "__main__":
    main()
