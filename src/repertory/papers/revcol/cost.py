"""Cost of a network: multiply-accumulates, and memory of a training step."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from timm.layers import LayerNorm2d
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from repertory.papers.revcol.blocks import Up
from repertory.papers.revcol.supervision import Classifier

NORM_MACS = 5
"""Multiply-accumulates per element of an affine LayerNorm in the authors' counter."""


def authors_macs(model: nn.Module, x: Tensor) -> int:
    """Multiply-accumulates of one forward pass, counted as published; works on the meta device.

    Included: convolutions, linear layers, LayerNorms, upsampling, pooling. Excluded: norms of the stem and of the
    downsampling, which the authors implement with operations that their counter ignores.
    """
    macs: list[int] = []

    def count(module: nn.Module, inputs: tuple[Tensor, ...], y: Tensor) -> None:
        match module:
            case nn.Conv2d() | nn.Linear():
                macs.append(y.numel() * module.weight[0].numel())
            case nn.LayerNorm() if not isinstance(module, LayerNorm2d):
                macs.append(y.numel() * NORM_MACS)
            case Up():
                macs.append(y.numel())  # the upsampling
            case Classifier():
                macs.append(inputs[0].numel())  # the pooling

    hooks = [module.register_forward_hook(count) for module in model.modules()]
    try:
        with torch.no_grad():
            model(x)
    finally:
        for hook in hooks:
            hook.remove()
    return sum(macs)


def saved_bytes(run: Callable[[], Any], model: nn.Module) -> int:
    """Bytes that autograd saves for the backward pass of `run`; each storage once, parameters excluded."""
    parameters = {p.untyped_storage().data_ptr() for p in model.parameters()}
    saved: dict[int, Tensor] = {}  # keeps the tensors alive, so that their addresses are not reused

    def pack(tensor: Tensor) -> Tensor:
        address = tensor.untyped_storage().data_ptr()
        if address not in parameters:
            saved.setdefault(address, tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        run()
    return sum(tensor.untyped_storage().nbytes() for tensor in saved.values())


def peak_bytes(step: Callable[[], Any], model: nn.Module) -> int:
    """Peak bytes of tensors in a training step on the CPU, without the weights and their gradients.

    Args:
        step: forward and backward pass; only tensors that it allocates are counted.
        model: its gradients are cleared first; those that remain afterwards are not counted.
    """
    model.zero_grad(set_to_none=True)
    with _Allocations() as log:
        step()
    gradients = {log.numbers.get(p.grad.untyped_storage()._cdata) for p in model.parameters() if p.grad is not None}
    alive = peak = 0
    for number, size in log.events:
        if number not in gradients:
            alive += size
            peak = max(peak, alive)
    return peak


class _Allocations(TorchDispatchMode):
    """Records when the storage of a tensor is allocated and freed."""

    def __init__(self) -> None:
        super().__init__()
        self.events: list[tuple[int, int]] = []
        """(number of the storage, bytes; negative when freed)"""
        self.numbers: dict[int, int] = {}
        """Address of a live storage -> its number."""
        self._count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        inputs = {leaf.untyped_storage()._cdata for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                storage = leaf.untyped_storage()
                if storage._cdata not in inputs and storage._cdata not in self.numbers:
                    self._record(storage)
        return result

    def _record(self, storage: torch.UntypedStorage) -> None:
        number, size, address = self._count, storage.nbytes(), storage._cdata
        self._count += 1
        self.numbers[address] = number
        self.events.append((number, size))

        def freed() -> None:
            self.numbers.pop(address, None)
            self.events.append((number, -size))

        weakref.finalize(storage, freed)
