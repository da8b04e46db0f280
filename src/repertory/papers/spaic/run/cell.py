"""A population at run time: the parameters of its neuron model, and the model's loop over time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from repertory.core.problem import Problem
from repertory.nn.spiking import Surrogate, lif, spike
from repertory.papers.spaic.describe.network import Group
from repertory.papers.spaic.describe.neurons import MODELS, State, decay


class Values:
    """Entries as attributes; `types.SimpleNamespace` would break the graph of torch.compile."""

    def __init__(self, entries: Mapping[str, Any]) -> None:
        for name, value in entries.items():
            setattr(self, name, value)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"the neuron model has no parameter {name}")


class Cell(nn.Module):
    """One population: trained parameters are `nn.Parameter`s, other tensors buffers, numbers stay numbers.

    Args:
        group: the description.
        surrogate: derivative of a spike.
        dt: length of a step, ms.
        compat: whether izh and hh give the official code's numbers.

    Raises:
        Problem: a parameter that is neither a number nor of the group's shape.
    """

    def __init__(self, group: Group, surrogate: Surrogate, dt: float, compat: bool) -> None:
        super().__init__()
        self.group, self.model, self.surrogate, self.dt, self.compat = group, group.model, surrogate, dt, compat
        self.constants: dict[str, float] = {}
        self.names: list[str] = []
        for given_name, value in self.model.params.items():
            name, transform = self.model.stored.get(given_name, (given_name, None))
            self.names.append(name)
            tensor = torch.as_tensor(value, dtype=torch.get_default_dtype())
            if tensor.ndim and tensor.numel() not in (1, group.size):
                raise Problem(
                    f"{given_name} of shape {tuple(tensor.shape)}", group.name, f"give a number, or {group.shape}"
                )
            tensor = tensor.reshape(group.shape) if tensor.numel() == group.size and tensor.ndim else tensor
            tensor = tensor if transform is None else transform(tensor)
            if given_name in self.model.trained:
                self.register_parameter(name, nn.Parameter(tensor.clone()))
            elif tensor.ndim or transform is not None:
                self.register_buffer(name, tensor.clone())
            else:
                self.constants[name] = float(value)
        for name in self.model.kept:
            self.register_buffer(f"kept_{name}", torch.full(group.shape, self._start(name)))

    def _start(self, variable: str) -> float:
        value = self.model.start[variable]
        return float(self.model.params[value] if isinstance(value, str) else value)

    def fire(self, x: Tensor) -> Tensor:
        """1 where x > 0, else 0, with the surrogate's gradient; same shape."""
        if torch.is_grad_enabled():
            return spike(x, self.surrogate)
        return (x >= 0 if self.surrogate.inclusive else x > 0).to(x.dtype)

    def values(self) -> Values:
        """Parameters by name, with `fire` and `compat`: the argument `p` of the model's step."""
        own = {name: getattr(self, name) for name in self.names if name not in self.constants}
        return Values({**self.constants, **own, "fire": self.fire, "compat": self.compat})

    def begin(self, like: Tensor) -> State:
        """State before the first step; every variable has the shape of `like`, (B, *shape)."""
        return {
            name: getattr(self, f"kept_{name}").to(like.dtype).expand_as(like)
            if name in self.model.kept
            else torch.full_like(like, self._start(name), memory_format=torch.contiguous_format)
            for name in self.model.start
        }

    def step(self, state: State, current: Tensor, p: Any) -> tuple[State, Tensor]:
        """One step: state and current (B, *shape) -> state and output (B, *shape); `p` of `values()`."""
        return self.model.step(state, current, p, self.dt)

    def scan(
        self, current: Tensor, state: State | None, wanted: Iterable[str]
    ) -> tuple[Tensor, dict[str, Tensor], State]:
        """All steps.

        Args:
            current: (T, B, *shape).
            state: before the first step; None: the model's own.
            wanted: state variables to return.

        Returns:
            output (T, B, *shape); wanted variable -> (T, B, *shape); the last state.
        """
        fast = self._linear_reset()
        if fast is not None:
            retained, shift, threshold, v_reset = fast
            v0 = None if state is None else state["v"]
            if v0 is None and self._start("v"):
                v0 = current.new_full((), self._start("v"))
            spikes, v = lif(
                current - shift if shift else current, retained, threshold, self.surrogate, v_reset=v_reset, v0=v0
            )
            return spikes, {"v": v}, {"v": v[-1]}
        state, p, names = state or self.begin(current[0]), self.values(), list(wanted)
        outputs, values = [], {name: [] for name in names}
        for now in current.unbind():
            state, output = self.step(state, now, p)
            outputs.append(output)
            for name in names:
                values[name].append(state[name])
        return torch.stack(outputs), {name: torch.stack(steps) for name, steps in values.items()}, state

    def _linear_reset(self) -> tuple[Tensor | float, float, float, float] | None:
        """(decay, shift, threshold, v_reset) for `lif`; None: a model that it does not compute."""
        own = self.model.step
        if own not in (MODELS["lif"].step, MODELS["if"].step) or not {"v_th", "v_reset"} <= set(self.constants):
            return None
        threshold, v_reset = self.constants["v_th"], self.constants["v_reset"]
        if own is MODELS["lif"].step:
            return decay(self.dt, self.values().tau_m), 0.0, threshold, v_reset
        shift = self.constants.get("d")
        return None if shift is None else (1.0, shift, threshold, v_reset)

    @torch.no_grad()
    def keep(self, state: State) -> None:
        """Store the variables that outlive a run, averaged over the batch."""
        for name in self.model.kept:
            getattr(self, f"kept_{name}").copy_(state[name].mean(0))

    def extra_repr(self) -> str:
        """Name, shape and model."""
        return f"{self.group.name}, {self.group.shape}, {self.model.name}"
