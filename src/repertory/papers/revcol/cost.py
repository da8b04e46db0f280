"""What a network costs: multiply-accumulates, and the memory of a training step."""

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
"""What the authors' counter takes for an element of an affine LayerNorm."""


def authors_macs(model: nn.Module, x: Tensor) -> int:
    """Multiply-accumulates of one forward pass as published; on the meta device it takes neither memory nor time.

    Convolutions, linear layers, LayerNorms, upsampling and the pooling count. The norms of the stem and of the
    downsampling do not: the authors write them out in operations that their counter does not see.
    """
    seen: list[int] = []

    def count(module: nn.Module, inputs: tuple[Tensor, ...], y: Tensor) -> None:
        match module:
            case nn.Conv2d() | nn.Linear():
                seen.append(y.numel() * module.weight[0].numel())
            case nn.LayerNorm() if not isinstance(module, LayerNorm2d):
                seen.append(y.numel() * NORM_MACS)
            case Up():
                seen.append(y.numel())  # the upsampling
            case Classifier():
                seen.append(inputs[0].numel())  # the pooling

    hooks = [module.register_forward_hook(count) for module in model.modules()]
    try:
        with torch.no_grad():
            model(x)
    finally:
        for hook in hooks:
            hook.remove()
    return sum(seen)


def saved_bytes(run: Callable[[], Any], model: nn.Module) -> int:
    """Bytes that `run` makes autograd keep for the backward pass, each memory block once, without parameters."""
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, Tensor] = {}  # holds them, or their memory would be used again

    def pack(tensor: Tensor) -> Tensor:
        place = tensor.untyped_storage().data_ptr()
        if place not in own:
            kept.setdefault(place, tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        run()
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def peak_bytes(step: Callable[[], Any], model: nn.Module) -> int:
    """The most bytes of tensors alive at once in a training step on the CPU, beyond the weights and their gradients.

    Args:
        step: forward and backward pass; what it makes is counted, what was there before is not.
        model: its gradients are cleared first, and those left afterwards do not count.
    """
    model.zero_grad(set_to_none=True)
    with _Births() as births:
        step()
    gradients = {births.numbers.get(p.grad.untyped_storage()._cdata) for p in model.parameters() if p.grad is not None}
    alive = peak = 0
    for number, size in births.events:
        if number not in gradients:
            alive += size
            peak = max(peak, alive)
    return peak


class _Births(TorchDispatchMode):
    """Records when the memory of a tensor is taken and given back."""

    def __init__(self) -> None:
        super().__init__()
        self.events: list[tuple[int, int]] = []
        """(number of the block, bytes; negative when given back)"""
        self.numbers: dict[int, int] = {}
        """address of a living block -> its number"""
        self._count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        known = {leaf.untyped_storage()._cdata for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                block = leaf.untyped_storage()
                if block._cdata not in known and block._cdata not in self.numbers:
                    self._born(block)
        return result

    def _born(self, block: torch.UntypedStorage) -> None:
        number, size, address = self._count, block.nbytes(), block._cdata
        self._count += 1
        self.numbers[address] = number
        self.events.append((number, size))

        def dead() -> None:
            self.numbers.pop(address, None)
            self.events.append((number, -size))

        weakref.finalize(block, dead)
