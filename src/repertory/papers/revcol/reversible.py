"""Training in constant memory: the backward pass inverts the columns one by one.

The inverse of a column divides by a and so amplifies rounding errors 2 to 4 times per column; in single precision the
first of 16 columns is lost. Sums between columns are therefore computed in double precision. F runs in single (under
autocast half) precision: rounding its inputs removes the small error of the inverse, F returns exactly the same values
as in the forward pass, and subtracting them adds no error.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.func import functional_call
from torch.utils.checkpoint import get_device_states, set_device_states

from repertory.papers.revcol.blocks import Column

LEVELS = 4
INEXACT = 1e-3
"""Relative error of the recovered first column above which a warning is given."""


@torch.compiler.disable(reason="reversible columns run eagerly: compile their levels, or take reversible=False")
def reversible_columns(columns: Sequence[Column], taps: Sequence[int], x: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """Run all columns; store only x and the last column's maps for the backward pass.

    Values and gradients equal those of the sequential columns up to rounding. Random generators are restored before a
    level is recomputed, so DropPath drops the same samples.

    Args:
        columns: complete columns, the first with `first`.
        taps: indices of columns whose level 3 is returned too, ascending, without the last column.
        x: output of the stem, (N, C_0, H, W).

    Returns:
        The four maps of the last column, and the tapped maps.
    """
    parameters = [p for column in columns for p in _trainable(column).values()]
    outputs = _Reversible.apply(columns, taps, x, *parameters)
    return list(outputs[:LEVELS]), list(outputs[LEVELS:])


class _Reversible(torch.autograd.Function):
    """All columns as one autograd node with the parameters as inputs.

    Hooks, gradient accumulation, `torch.autograd.grad` and DistributedDataParallel therefore work as usual.
    """

    @staticmethod
    def forward(ctx: Any, columns: Sequence[Column], taps: Sequence[int], x: Tensor, *parameters: Tensor) -> Any:
        device = x.device.type
        ctx.columns = columns
        ctx.taps = taps
        ctx.random = any(column.training for column in columns)
        ctx.autocast = {
            "device_type": device,
            "enabled": torch.is_autocast_enabled(device),
            "dtype": torch.get_autocast_dtype(device),
            # Casts made here have no graph; the backward pass must not reuse them.
            "cache_enabled": False,
        }
        c: list[Tensor] = []  # c(t, i) …
        exact: list[Tensor] = []  # … and in double precision
        tapped: list[Tensor] = []
        generators: list[Tensor] = []
        with torch.autocast(**ctx.autocast):
            for i, column in enumerate(columns):
                previous, c = c, []
                for t in range(LEVELS):
                    if ctx.random:
                        generators.append(_generator_state(x))
                    y = column.function(t, c[-1] if t else x, previous)
                    if column.first:
                        exact.append(y.to(_exact_dtype(x)))
                    else:
                        exact[t] = exact[t].mul(column.alpha(t)).add_(y)
                    c.append(exact[t].to(x.dtype))
                if i in taps:
                    tapped.append(c[-1])
        # Save the parameters too: autograd then detects in-place changes before the backward pass.
        ctx.save_for_backward(x, *exact, *generators, *parameters)
        ctx.sizes = (1, LEVELS, len(generators), len(parameters))
        return *c, *tapped

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        columns: Sequence[Column] = ctx.columns
        saved = iter(ctx.saved_tensors)
        (x,), c, generators, parameters = ([next(saved) for _ in range(size)] for size in ctx.sizes)
        ours = iter(parameters)
        weights = [{name: next(ours) for name in _trainable(column)} for column in columns]
        g_weights: list[dict[str, Tensor]] = [{} for _ in columns]
        g, g_tapped = list(gradients[:LEVELS]), list(gradients[LEVELS:])  # g[t]: of c(t, i)
        g_x = torch.zeros_like(x)
        rounded = [feature.to(x.dtype) for feature in c]

        devices = [] if x.device.type == "cpu" else [x.get_device()]
        with torch.random.fork_rng(devices, device_type=x.device.type), torch.autocast(**ctx.autocast):
            for i, column in reversed(list(enumerate(columns))):
                if i in ctx.taps:
                    g[-1] = g[-1] + g_tapped.pop()
                # c(t, i-1) and its gradient, from the top level down; x is a placeholder.
                previous, rounded_previous, g_previous = ([x] * LEVELS for _ in range(3))
                for t in reversed(range(LEVELS)):
                    if ctx.random:
                        _set_generator_state(x, generators.pop())
                    inputs = [rounded[t - 1] if t else x, *(rounded_previous[link] for link in column.links[t])]
                    y, (g_below, *g_above), g_level = _recompute(column, t, inputs, weights[i], g[t])
                    g_weights[i].update(g_level)
                    if not column.first:
                        a = column.alpha(t)
                        previous[t] = c[t].sub(y).div_(a)  # the inverse
                        rounded_previous[t] = previous[t].to(x.dtype)
                        g_previous[t] = a * g[t]
                        for link, gradient in zip(column.links[t], g_above, strict=True):
                            g_previous[link].add_(gradient)
                        if f"alpha{t}" in weights[i]:
                            g_weights[i][f"alpha{t}"] = (g[t] * rounded_previous[t]).sum((0, 2, 3), keepdim=True)
                    elif t == 0:
                        _check_inverse(y, c[t])
                    if t:
                        g[t - 1] = g[t - 1] + g_below
                    else:
                        g_x.add_(g_below)
                c, rounded, g = previous, rounded_previous, g_previous
        return None, None, g_x, *(g_weights[i][name] for i, own in enumerate(weights) for name in own)


def _recompute(
    column: Column, t: int, inputs: Sequence[Tensor], weights: Mapping[str, Tensor], g: Tensor
) -> tuple[Tensor, Sequence[Tensor], dict[str, Tensor]]:
    """Recompute F(t, i) with a graph: its value, and the gradients of its inputs and weights.

    The weights are detached: otherwise hooks on them would run here and again on the returned gradients.
    """
    prefix = f"level{t}."
    own = {name: p.detach().requires_grad_() for name, p in weights.items() if name.startswith(prefix)}
    inputs = [feature.detach().requires_grad_() for feature in inputs]
    with torch.enable_grad():
        named = {name.removeprefix(prefix): p for name, p in own.items()}
        y = functional_call(column.level(t), named, tuple(inputs)).to(g.dtype)
    gradients = torch.autograd.grad(y, [*inputs, *own.values()], g)
    g_own = zip(own.items(), gradients[len(inputs) :], strict=True)
    return y.detach(), gradients[: len(inputs)], {name: _match_strides(p, gradient) for (name, p), gradient in g_own}


def _match_strides(p: Tensor, gradient: Tensor) -> Tensor:
    """The gradient with the strides of the parameter: autograd would copy it later, all gradients at once."""
    return gradient if gradient.stride() == p.stride() else torch.empty_like(p).copy_(gradient)


def _exact_dtype(x: Tensor) -> torch.dtype:
    return torch.float32 if x.device.type == "mps" else torch.float64  # Apple's GPUs have no double precision


def _check_inverse(y: Tensor, recovered: Tensor) -> None:
    """Compare the first column as recomputed and as recovered by inversion."""
    error = float((recovered - y).norm() / y.norm())
    if not error <= INEXACT:
        message = (
            f"the first column was recovered with a relative error of {error:.1e}, so gradients are not exact: "
            "some a are small, or F is not deterministic; reversible=False is exact"
        )
        warnings.warn(message, stacklevel=2)


def _trainable(column: nn.Module) -> dict[str, Tensor]:
    return {name: p for name, p in column.named_parameters() if p.requires_grad}


def _generator_state(x: Tensor) -> Tensor:
    """State of the CPU generator and of the one on the device of `x`, as bytes."""
    return torch.cat([torch.get_rng_state(), *get_device_states(x)[1]])


def _set_generator_state(x: Tensor, state: Tensor) -> None:
    cpu, *devices = state.split([torch.get_rng_state().numel(), *(s.numel() for s in get_device_states(x)[1])])
    torch.set_rng_state(cpu)
    if devices:
        set_device_states([x.get_device()], devices, device_type=x.device.type)
