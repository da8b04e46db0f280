"""Neuron models: one time step of a population's state.

A model is a function `step(s, current, p, dt) -> (s, output)`: `s` maps the names of state variables to tensors
(B, *shape), current and output are (B, *shape), `p` holds the parameters and `p.fire(x)` (1 where x > 0, else 0, with
the surrogate's gradient), `dt` is in ms. `MODELS` lists the models; `custom` makes one of a user's function.

`p.compat` asks for the official code's numbers where it omits a factor dt (izh, hh).
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from repertory.core.problem import Problem

State = dict[str, Tensor]
Step = Callable[[State, Tensor, Any, float], tuple[State, Tensor]]
Parameter = float | Tensor


@dataclass(frozen=True)
class Neuron:
    """A model with its parameters; calling it gives a copy with other values: `LIF(tau_m=20.0)`.

    Args:
        name: for `Group(model=...)`, if it is in `MODELS`.
        step: the function of one time step.
        params: name -> value, a number or a tensor of the group's shape. Times are in ms.
        start: state variable -> initial value (a string: the parameter of that name).
        kept: state variables that persist between runs (adaptation, homeostasis).
        trained: parameters that training changes.
        taus: time constants that Euler's step divides by, so that dt may not exceed them.
        text: arguments of `from_text`, for models made of equations; a saved description holds them.
        spiking: whether the output is spikes, 0 or 1, rather than a potential or a rate.
        stored: parameters that the module stores in another form: name -> (stored name, function of the value).

    Raises:
        Problem: unknown parameter, with the nearest name.
    """

    name: str
    step: Step = field(compare=False, repr=False)
    params: Mapping[str, Any]
    start: Mapping[str, float | str]
    kept: tuple[str, ...] = ()
    trained: tuple[str, ...] = ()
    taus: tuple[str, ...] = ()
    text: Mapping[str, Any] | None = None
    spiking: bool = True
    stored: Mapping[str, tuple[str, Callable[[Tensor], Tensor]]] = field(default_factory=dict, compare=False)

    def __call__(
        self, *, trained: tuple[str, ...] | None = None, start: Mapping[str, float] | None = None, **params: Parameter
    ) -> Neuron:
        """The same model with other values.

        Args:
            trained: parameters that training changes; None: unchanged.
            start: initial values of state variables.
            **params: parameters; case and underscores are ignored, `tau` is the membrane's.
        """
        named = {self.parameter(name): value for name, value in params.items()}
        for name in start or {}:
            if name not in self.start:
                raise Problem(f"{self.name} has no state variable {name!r}", "start", f"it has {', '.join(self.start)}")
        return replace(
            self,
            params={**self.params, **named},
            start={**self.start, **(start or {})},
            trained=self.trained if trained is None else tuple(self.parameter(name) for name in trained),
        )

    def parameter(self, name: str) -> str:
        """The parameter that `name` refers to: "Vth" and "v_th" are the same, "tau" is tau_m.

        Raises:
            Problem: unknown; gives the nearest.
        """
        own = {_plain(p): p for p in self.params}
        if "taum" in own:
            own.setdefault("tau", own["taum"])
        found = own.get(_plain(name))
        if found is None:
            near = difflib.get_close_matches(_plain(name), own, 1, 0)
            raise Problem(
                f"{self.name} has no parameter {name!r}",
                f"{self.name}({name}=...)",
                f"did you mean {own[near[0]]!r}? It has {', '.join(self.params)}" if near else "it has none",
            )
        return found

    def check(self, dt: float, where: str) -> None:
        """Check time constants: positive, and no smaller than dt where Euler's step divides by them.

        Raises:
            Problem: names dt and the time constant.
        """
        for name in (n for n in self.params if n.startswith("tau")):
            tau = float(torch.as_tensor(self.params[name]).min())
            if tau <= 0:
                raise Problem(f"{name} = {tau:g} ms is not positive", where, "give a time constant above 0")
            if name in self.taus and dt > tau:
                raise Problem(
                    f"unstable: dt={dt:g}, {name}={tau:g} ms", where, f"use dt <= {tau:g}, or a larger {name}"
                )
        if self.name == "plif" and float(torch.as_tensor(self.params["tau"]).min()) <= 1:
            raise Problem("plif needs tau above 1 step", where, "give tau > 1: what is trained is -ln(tau - 1)")


def _plain(name: str) -> str:
    return name.replace("_", "").lower()


def decay(dt: float, tau: Parameter) -> Any:
    """exp(-dt / tau), the decay of one step."""
    return torch.exp(-dt / tau) if isinstance(tau, Tensor) else math.exp(-dt / tau)


# -- integrate and fire ---------------------------------------------------------------------------


def _reset(u: Tensor, spikes: Tensor, v_reset: Parameter) -> Tensor:
    kept = torch.addcmul(u, u, spikes, value=-1)
    return kept if isinstance(v_reset, float) and v_reset == 0 else kept + v_reset * spikes


def _if(s: State, current: Tensor, p: Any, dt: float) -> tuple[State, Tensor]:
    u = s["v"] + current - p.d
    spikes = p.fire(u - p.v_th)
    return {"v": _reset(u, spikes, p.v_reset)}, spikes


def _ifsoftreset(s: State, current: Tensor, p: Any, dt: float) -> tuple[State, Tensor]:
    u = s["v"] + current - p.d
    spikes = p.fire(u - p.v_th)
    return {"v": u - u * spikes}, spikes  # a hard reset, despite its official name


def _ifb(s: State, current: Tensor, p: Any, dt: float) -> tuple[State, Tensor]:
    u = s["v"] + current + p.bias
    spikes = p.fire(u - p.v_th)
    return {"v": u * (1 - spikes)}, spikes


def _nonspikingifb(s: State, current: Tensor, p: Any, dt: float) -> tuple[State, Tensor]:
    v = s["v"] + current + p.bias
    return {"v": v}, v


def _lif(s: State, current: Tensor, p: Any, dt: float) -> tuple[State, Tensor]:
    u = decay(dt, p.tau_m) * s["v"] + current
    spikes = p.fire(u - p.v_th)
    return {"v": _reset(u, spikes, p.v_reset)}, spikes


def _plif(s: State, current: Tensor, p: Any, dt: float) -> tuple[State, Tensor]:
    share = torch.sigmoid(p.w)  # 1 / tau
    u = s["v"] + share * (current - s["v"])
    spikes = p.fire(u - p.v_th)
    return {"v": u * (1 - spikes)}, spikes


def _lifm(s: State, current: Tensor, p: Any, dt: float) -> tuple[State, Tensor]:
    i = decay(dt, p.tau_p) * s["i"] + current
    u = decay(dt, p.tau_m) * s["v"] + i
    spikes = p.fire(u - p.v_th)
    return {"i": i, "v": u * (1 - spikes)}, spikes


def _constantcurrentlif(s: State, current: Tensor, p: Any, dt: float) -> tuple[State, Tensor]:
    u = s["v"] + dt / p.tau_m * (current - s["v"])
    spikes = p.fire(u - p.v_th)
    return {"v": u - u * s["o"], "o": spikes}, spikes  # reset by the previous step's spike


# -- current-based, with double exponentials ------------------------------------------------------


def _peak(ratio: Parameter) -> Any:
    """V0 = b^(b / (b - 1)) / (b - 1), which normalises the peak of the kernel M - S to 1."""
    return ratio ** (ratio / (ratio - 1)) / (ratio - 1)


def _kernel(s: State, current: Tensor, dt: float, slow: Parameter, fast: Parameter) -> tuple[Tensor, Tensor]:
    """M and S after this step; the response M - S to one spike rises to 1 and decays."""
    scaled = _peak(slow / fast) * current
    return decay(dt, slow) * s["m"] + scaled, decay(dt, fast) * s["s"] + scaled


def _clif(s: State, current: Tensor, p: Any, dt: float) -> tuple[State, Tensor]:
    m, q = _kernel(s, current, dt, p.tau_p, p.tau_q)
    v = m - q - s["e"]
    spikes = p.fire(v - p.v_th)
    return {"m": m, "s": q, "e": decay(dt, p.tau_m) * s["e"] + p.v_th * spikes, "v": v}, spikes


def _clif2k(s: State, current: Tensor, p: Any, dt: float) -> tuple[State, Tensor]:
    m, q = _kernel(s, current, dt, p.tau_m, p.tau_s)
    v = m - q - s["e"]
    spikes = p.fire(v - p.v_th)
    return {"m": m, "s": q, "e": decay(dt, p.tau_m) * s["e"] + p.v_th * spikes, "v": v}, spikes


def _pclif(s: State, current: Tensor, p: Any, dt: float) -> tuple[State, Tensor]:
    m = p.k_m * (s["m"] + current)
    q = p.k_s * (s["s"] + current)
    e = p.k_m * s["e"] + p.v_th * s["o"]
    v = m - q - e
    spikes = p.fire(v - p.v_th)
    return {"m": m, "s": q, "e": e, "v": v, "o": spikes}, spikes


def _aclif(s: State, current: Tensor, p: Any, dt: float) -> tuple[State, Tensor]:
    a = decay(dt, p.tau_a) * s["a"] + s["o"]
    m, q = _kernel(s, current, dt, p.tau_p, p.tau_q)
    v = m - q - (p.beta * a + s["e"])
    spikes = p.fire(v - p.v_th)
    e = decay(dt, p.tau_m) * s["e"] + p.v_th * spikes
    return {"m": m, "s": q, "e": e, "a": a, "v": v, "o": spikes}, spikes


def _nonspikinglif(s: State, current: Tensor, p: Any, dt: float) -> tuple[State, Tensor]:
    m, q = _kernel(s, current, dt, p.tau_p, p.tau_q)
    v = s["v"] + dt / p.tau_m * (m - q - s["v"])
    return {"m": m, "s": q, "v": v}, v


def _li(s: State, current: Tensor, p: Any, dt: float) -> tuple[State, Tensor]:
    v = decay(dt, p.tau_m) * s["v"] + current
    return {"v": v}, v


def _cubalif(s: State, current: Tensor, p: Any, dt: float) -> tuple[State, Tensor]:
    i = decay(dt, p.tau_s) * s["i"] + current
    u = decay(dt, p.tau_m) * s["v"] + p.gain * i
    spikes = p.fire(u - p.v_th)
    return {"i": i, "v": _reset(u, spikes, p.v_reset)}, spikes


def _threshold(s: State, current: Tensor, p: Any, dt: float) -> tuple[State, Tensor]:
    return {"v": current}, p.fire(current - p.v_th)


# -- biophysical ----------------------------------------------------------------------------------


def _izh(s: State, current: Tensor, p: Any, dt: float) -> tuple[State, Tensor]:
    v, u = s["v"], s["u"]
    risen = v + dt * ((0.04 * v + 5) * v + 140 - u + current)
    recovery = u + (1.0 if p.compat else dt) * p.a * (p.b * v - u)
    spikes = p.fire(risen - p.v_th)
    return {"v": risen + spikes * (p.v_reset - risen), "u": recovery + p.d * spikes}, spikes


def _aeif(s: State, current: Tensor, p: Any, dt: float) -> tuple[State, Tensor]:
    above = s["v"] - p.e_l
    upswing = p.d_t * torch.exp((s["v"] - p.v_th) / p.d_t)
    u = s["v"] + dt / p.c * (p.g_l * (upswing - above) - s["w"] + current)
    w = s["w"] + dt / p.tau_w * (p.a * above - s["w"])
    spikes = p.fire(u - p.v_spk)
    # where, not (1 - O) u + O E_L: u may be too large for that in float32.
    v = torch.where(spikes > 0, torch.as_tensor(p.e_l, dtype=u.dtype, device=u.device), u)
    return {"v": v, "w": w + p.b * spikes}, spikes


def _glif(s: State, current: Tensor, p: Any, dt: float) -> tuple[State, Tensor]:
    """GLIF5 as published (Teeter et al., Nature Communications 2018); the official operations deviate."""
    i1, i2 = (1 - p.k1 * dt) * s["i1"], (1 - p.k2 * dt) * s["i2"]
    above = s["v"] - p.e_l
    v = s["v"] + dt / p.c * (current + i1 + i2 - above / p.r)
    th_s = (1 - p.b_s * dt) * s["th_s"]
    th_v = s["th_v"] + dt * (p.a_v * above - p.b_v * s["th_v"])
    spikes = p.fire(v - (p.theta_inf + th_s + th_v))
    after = p.e_l + p.f_v * (v - p.e_l) - p.delta_v
    state = {
        "v": v + spikes * (after - v),
        "th_s": th_s + spikes * p.delta_theta_s,
        "th_v": th_v,
        "i1": i1 + spikes * ((p.f_j - 1) * i1 + p.delta_i),
        "i2": i2 + spikes * ((p.f_j - 1) * i2 + p.delta_i),
    }
    return state, spikes


def _ratio_exp(x: Tensor) -> Tensor:
    """x / (e^x - 1), and its limit 1 at 0."""
    small = x.abs() < 1e-4
    safe = torch.where(small, torch.ones_like(x), x)
    return torch.where(small, 1 - x / 2, safe / torch.expm1(safe))


def _hh(s: State, current: Tensor, p: Any, dt: float) -> tuple[State, Tensor]:
    v, m, n, h = s["v"], s["m"], s["n"], s["h"]
    alpha_m, beta_m = _ratio_exp((25 - v) / 10), 4 * torch.exp(-v / 18)
    alpha_n, beta_n = 0.1 * _ratio_exp((10 - v) / 10), 0.125 * torch.exp(-v / 80)
    alpha_h, beta_h = 0.07 * torch.exp(-v / 20), 1 / (torch.exp((30 - v) / 10) + 1)
    m = m + dt * (alpha_m * (1 - m) - beta_m * m)
    n = n + dt * (alpha_n * (1 - n) - beta_n * n)
    h = h + dt * (alpha_h * (1 - h) - beta_h * h)
    ions = p.g_na * m**3 * h * (v - p.e_na) + p.g_k * n**4 * (v - p.e_k) + p.g_l * (v - p.e_l)
    v = v + (current if p.compat else dt * current) - dt * ions
    return {"v": v, "m": m, "n": n, "h": h}, p.fire(v - p.v_th)


# -- unsupervised learning, and fields ------------------------------------------------------------


def _lifstdp_ex(s: State, current: Tensor, p: Any, dt: float) -> tuple[State, Tensor]:
    u = p.v_rest + p.d * (s["v"] - p.v_rest) + current
    faded = s["theta"] * p.d_th
    above = u - (p.v_th + faded)
    spikes = p.fire(above)
    if p.winner:  # instantaneous inhibition: only the neuron furthest above its threshold fires
        spikes = spikes * (above == above.amax(tuple(range(1, above.ndim)), keepdim=True))
    return {"v": u + spikes * (p.v_reset - u), "theta": faded + p.theta_plus * spikes}, spikes


def _lifstdp_ih(s: State, current: Tensor, p: Any, dt: float) -> tuple[State, Tensor]:
    u = p.v_rest + p.d * (s["v"] - p.v_rest) + current
    spikes = p.fire(u - p.v_th)
    return {"v": u + spikes * (p.v_reset - u)}, spikes


def _cann_field(s: State, current: Tensor, p: Any, dt: float) -> tuple[State, Tensor]:
    u = s["u"] + dt / p.tau * (p.rho * current + p.i_ext - s["u"])
    power = torch.relu(u) ** 2
    rate = power / (1 + p.k * power.flatten(1).sum(1).view(-1, *(1,) * (u.ndim - 1)))
    return {"u": u}, rate


def _meanfield(s: State, current: Tensor, p: Any, dt: float) -> tuple[State, Tensor]:
    u = s["u"] + dt / p.tau * (p.rho * current + p.i_ext - s["u"])
    return {"u": u}, torch.relu(u)


# -- models -----------------------------------------------------------------------------------------

_ADEX: dict[str, float] = {
    "c": 281.0, "g_l": 30.0, "e_l": -70.6, "v_th": -50.4, "v_spk": 20.0, "d_t": 2.0, "tau_w": 144.0, "a": 4.0,
    "b": 0.0805,
}  # fmt: skip
_CLIF = {"m": 0.0, "s": 0.0, "e": 0.0, "v": 0.0}

MODELS: dict[str, Neuron] = {
    model.name: model
    for model in (
        Neuron("if", _if, {"d": 0.0, "v_th": 1.0, "v_reset": 0.0}, {"v": 0.0}),
        Neuron("ifsoftreset", _ifsoftreset, {"d": 0.0, "v_th": 1.0}, {"v": 0.0}),
        Neuron("ifb", _ifb, {"bias": 0.0, "v_th": 1.0}, {"v": 0.0}),
        Neuron("nonspikingifb", _nonspikingifb, {"bias": 0.0}, {"v": 0.0}, spiking=False),
        Neuron("lif", _lif, {"tau_m": 8.0, "v_th": 1.0, "v_reset": 0.0}, {"v": 0.0}),
        Neuron(
            "plif", _plif, {"tau": 2.0, "v_th": 1.0}, {"v": 0.0}, trained=("tau",),
            stored={"tau": ("w", lambda tau: -torch.log(tau - 1))},
        ),
        Neuron("lifm", _lifm, {"tau_m": 10.0, "tau_p": 1.0, "v_th": 1.0}, {"i": 0.0, "v": 0.0}),
        Neuron(
            "constantcurrentlif", _constantcurrentlif, {"tau_m": 20.0, "v_th": 1.0}, {"v": 0.0, "o": 0.0},
            taus=("tau_m",),
        ),
        Neuron(
            "clif", _clif, {"tau_p": 12.0, "tau_q": 8.0, "tau_m": 20.0, "v_th": 1.0}, _CLIF,
            trained=("tau_p", "tau_q"),
        ),
        Neuron("clif2k", _clif2k, {"tau_m": 20.0, "tau_s": 12.0, "v_th": 1.0}, _CLIF, trained=("tau_m", "tau_s")),
        Neuron("pclif", _pclif, {"k_m": 0.9, "k_s": 0.6, "v_th": 1.0}, {**_CLIF, "o": 0.0}, trained=("k_m", "k_s")),
        Neuron(
            "aclif", _aclif,
            {"tau_a": 2000.0, "beta": 0.1, "tau_p": 12.0, "tau_q": 8.0, "tau_m": 20.0, "v_th": 1.0},
            {**_CLIF, "a": 0.0, "o": 0.0}, kept=("a",), trained=("tau_p", "tau_q"),
        ),
        Neuron(
            "nonspikinglif", _nonspikinglif, {"tau_p": 4.0, "tau_q": 1.0, "tau_m": 1.0},
            {"m": 0.0, "s": 0.0, "v": 0.0}, taus=("tau_m",), spiking=False,
        ),
        Neuron("li", _li, {"tau_m": 8.0}, {"v": 0.0}, spiking=False),
        Neuron(
            "cubalif", _cubalif, {"tau_s": 2.0, "tau_m": 8.0, "gain": 1.0, "v_th": 1.0, "v_reset": 0.0},
            {"i": 0.0, "v": 0.0},
        ),
        Neuron("threshold", _threshold, {"v_th": 1.0}, {"v": 0.0}),
        Neuron(
            "izh", _izh, {"a": 0.02, "b": 0.2, "d": 8.0, "v_th": 30.0, "v_reset": -65.0}, {"v": -65.0, "u": 1.0}
        ),
        Neuron("aeif", _aeif, _ADEX, {"v": -70.6, "w": 0.0}, taus=("tau_w",)),
        Neuron("adex", _aeif, _ADEX, {"v": -70.6, "w": 0.0}, taus=("tau_w",)),
        Neuron(
            "glif", _glif,
            {"c": 60.0, "r": 2.0, "e_l": 0.0, "theta_inf": 1.0, "f_v": 0.1, "delta_v": 0.05, "b_s": 0.02, "k1": 0.8,
             "k2": 0.6, "a_v": 0.12, "b_v": 0.3, "delta_theta_s": 0.2, "f_j": 1.0, "delta_i": 0.1},
            {"v": 0.0, "i1": 0.08, "i2": 0.06, "th_s": 0.1, "th_v": 0.2},
        ),
        Neuron(
            "hh", _hh,
            {"g_na": 120.0, "g_k": 36.0, "g_l": 0.3, "e_na": 120.0, "e_k": -12.0, "e_l": 10.6, "v_th": 1.0},
            {"v": 0.0, "m": 0.5, "n": 0.5, "h": 0.06},
        ),
        Neuron(
            "lifstdp_ex", _lifstdp_ex,
            {"v_th": -52.0, "v_reset": -60.0, "v_rest": -65.0, "d": math.exp(-1 / 100), "d_th": math.exp(-1e-7),
             "theta_plus": 0.05, "winner": 0.0},
            {"v": -65.0, "theta": 0.0}, kept=("theta",),
        ),
        Neuron(
            "lifstdp_ih", _lifstdp_ih,
            {"v_th": -40.0, "v_reset": -45.0, "v_rest": -60.0, "d": math.exp(-1 / 10)}, {"v": -60.0},
        ),
        Neuron(
            "cann_field", _cann_field, {"rho": 0.02, "k": 0.01, "tau": 1.0, "i_ext": 0.0}, {"u": 0.0}, taus=("tau",),
            spiking=False,
        ),
        Neuron(
            "meanfield", _meanfield, {"rho": 0.1, "tau": 1.0, "i_ext": 0.0}, {"u": 0.0}, taus=("tau",), spiking=False
        ),
    )
}  # fmt: skip
"""Name -> model, as in the official code, except li, cubalif, threshold (NIR's), glif, and the resets of if and lif."""


def neuron(model: str | Neuron) -> Neuron:
    """The model of that name; a `Neuron` is returned as it is.

    Raises:
        Problem: unknown name; gives the list and the nearest.

    Example:
        >>> neuron("lif")(tau=20.0).params["tau_m"]
        20.0
    """
    if isinstance(model, Neuron):
        return model
    if model not in MODELS:
        near = difflib.get_close_matches(model, MODELS, 1, 0)
        raise Problem(
            f"unknown neuron model {model!r}",
            "Group(model=...)",
            f"did you mean {near[0]!r}? Known: {', '.join(MODELS)}",
        )
    return MODELS[model]


def custom(
    step: Step,
    start: Mapping[str, float | str],
    *,
    name: str = "custom",
    trained: tuple[str, ...] = (),
    kept: tuple[str, ...] = (),
    spiking: bool = False,
    **params: Parameter,
) -> Neuron:
    """A neuron model from a Python function.

    Args:
        step: (s, current, p, dt) -> (s, output); see the docstring of this module.
        start: state variable -> initial value.
        name: of the model, in summaries and messages.
        trained: parameters that training changes.
        kept: state variables that persist between runs.
        spiking: promise that the output is 0 or 1, which saves time in sparse loops.
        **params: parameters, attributes of `p`.

    Example:
        >>> def integrator(s, current, p, dt):
        ...     u = s["v"] + dt * p.gain * current
        ...     spikes = p.fire(u - 1)
        ...     return {"v": u - spikes}, spikes
        >>> custom(integrator, {"v": 0.0}, gain=0.5).params
        {'gain': 0.5}
    """
    return Neuron(name, step, dict(params), dict(start), kept, trained, spiking=spiking)


IF, LIF, PLIF, CLIF = (MODELS[name] for name in ("if", "lif", "plif", "clif"))
Izhikevich, AdEx, GLIF, HH = (MODELS[name] for name in ("izh", "aeif", "glif", "hh"))
