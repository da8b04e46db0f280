"""Neuron models from text: differential equations are turned into a step function.

    model = from_text("dv/dt = (v_rest - v + I) / tau : mV", threshold="v > v_th", reset="v = v_rest",
                      v_rest=-65.0, v_th=-50.0, tau=10.0)

An equation that is linear in its own variable takes the exponential Euler step, exact while all others are constant:
dv/dt = A v + B  ->  v e^(A dt) + B (e^(A dt) - 1) / A; the rest take Euler's step. The text is parsed into sympy by our
own code, which admits nothing but arithmetic, so that the description in a stored model is safe to read.
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from repertory.core.problem import Problem, require
from repertory.papers.spaic.describe.neurons import Neuron, Parameter, State

CURRENT = "I"
Method = Literal["auto", "euler", "exp_euler"]
_ODE = re.compile(r"^d(\w+)\s*/\s*dt$")
_UNIT = re.compile(r"\s*:[^:=]*$")
_COMPARISON = re.compile(r"^(.*?)>=?(.*)$", re.DOTALL)


def _either(of_tensor: Callable[[Tensor], Tensor], of_number: Callable[[float], float]) -> Callable[[Any], Any]:
    return lambda x: of_tensor(x) if isinstance(x, Tensor) else of_number(x)


def _growth(rate: Any, dt: float) -> Any:
    """(e^(A dt) - 1) / A, and its limit dt at A = 0."""
    if not isinstance(rate, Tensor):
        return math.expm1(rate * dt) / rate if rate else dt
    safe = torch.where(rate == 0, torch.ones_like(rate), rate)
    return torch.where(rate == 0, torch.full_like(rate, dt), torch.expm1(safe * dt) / safe)


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "exp": _either(torch.exp, math.exp),
    "log": _either(torch.log, math.log),
    "sqrt": _either(torch.sqrt, math.sqrt),
    "sin": _either(torch.sin, math.sin),
    "cos": _either(torch.cos, math.cos),
    "tanh": _either(torch.tanh, math.tanh),
    "Abs": _either(torch.abs, abs),
}
"""Functions that an equation may call (abs in lower case)."""


def parse(text: str, where: str = "equations") -> Any:
    """Arithmetic text -> sympy expression.

    Raises:
        Problem: anything but arithmetic of numbers, names and `FUNCTIONS`.
    """
    sympy = require("sympy", extra="spiking")
    operators = {
        ast.Add: lambda a, b: a + b, ast.Sub: lambda a, b: a - b, ast.Mult: lambda a, b: a * b,
        ast.Div: lambda a, b: a / b, ast.Pow: lambda a, b: a**b,
    }  # fmt: skip

    def build(node: ast.expr) -> Any:
        match node:
            case ast.Constant(value=int() | float() as number):
                return sympy.Float(number) if isinstance(number, float) else sympy.Integer(number)
            case ast.Name(id=name):
                return sympy.Symbol(name, real=True)
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return -build(operand)
            case ast.UnaryOp(op=ast.UAdd(), operand=operand):
                return build(operand)
            case ast.BinOp(left=left, op=operator, right=right) if type(operator) in operators:
                return operators[type(operator)](build(left), build(right))
            case ast.Call(func=ast.Name(id=name), args=[argument], keywords=[]) if (
                name.replace("abs", "Abs") in FUNCTIONS
            ):
                return getattr(sympy, name.replace("abs", "Abs"))(build(argument))
        raise Problem(
            f"cannot read {ast.unparse(node)!r}", f"{where}: {text.strip()}",
            f"use + - * / **, numbers, names and {', '.join(FUNCTIONS).replace('Abs', 'abs')}",
        )  # fmt: skip

    try:
        return build(ast.parse(text.strip(), mode="eval").body)
    except SyntaxError as error:
        raise Problem(f"not an expression: {error.msg}", f"{where}: {text.strip()}", "use Python's syntax") from error


def _lines(text: str) -> list[str]:
    return [line.strip() for part in text.splitlines() for line in part.split(";") if line.strip()]


def from_text(
    equations: str,
    threshold: str = "",
    reset: str = "",
    method: Method = "auto",
    *,
    name: str = "equations",
    start: Mapping[str, float] | None = None,
    trained: tuple[str, ...] = (),
    **params: Parameter,
) -> Neuron:
    """A neuron model from equations.

    Args:
        equations: one per line: `dv/dt = ... : mV` for a state variable (the unit is a comment; times are in ms),
            `x = ...` for an abbreviation in later lines. `I` is the input current.
        threshold: "v > v_th", the condition for a spike; empty: no spikes, the output is the first state variable.
        reset: "v = v_rest; w = w + b", applied in order to the values after a step with a spike.
        method: "auto" is the exponential Euler step for equations linear in their own variable, else Euler's.
        name: of the model, in summaries and messages.
        start: state variable -> initial value; default 0.
        trained: parameters that training changes.
        **params: values of all other names.

    Raises:
        Problem: text that is not arithmetic, a name without a value, or a method that an equation does not admit.
    """
    sympy = require("sympy", extra="spiking")
    rates: dict[str, Any] = {}
    helpers: dict[Any, Any] = {}
    for line in _lines(equations):
        left, sign, right = _UNIT.sub("", line).partition("=")
        if not sign:
            raise Problem(f"not an equation: {line!r}", "equations", "write dv/dt = ..., or x = ...")
        expression = parse(right).subs(helpers)
        if found := _ODE.match(left.strip()):
            rates[found[1]] = expression
        else:
            helpers[sympy.Symbol(left.strip(), real=True)] = expression
    if not rates:
        raise Problem("no differential equation", equations, "write at least one dv/dt = ...")
    changes = []
    for line in _lines(reset):
        left, sign, right = line.partition("=")
        if not sign or left.strip() not in rates:
            raise Problem(f"not a reset of a state variable: {line!r}", "reset", f"state variables: {', '.join(rates)}")
        changes.append((left.strip(), parse(right, "reset").subs(helpers)))
    above = None
    if threshold:
        sides = _COMPARISON.match(threshold)
        if sides is None:
            raise Problem(f"not a comparison: {threshold!r}", "threshold", "write v > v_th")
        above = (parse(sides[1], "threshold") - parse(sides[2], "threshold")).subs(helpers)

    used = [*rates.values(), *(value for _, value in changes), *([] if above is None else [above])]
    names = sorted({str(symbol) for expression in used for symbol in expression.free_symbols})
    unknown = [n for n in names if n not in rates and n != CURRENT and n not in params]
    unknown += [n for n in (*(start or {}), *trained) if n not in rates and n not in params]
    if unknown:
        raise Problem(f"{unknown[0]!r} has no value", "equations", f"from_text(..., {unknown[0]}=1.0)")

    arguments = [*rates, CURRENT, *params]

    def compiled(expression: Any) -> Callable[..., Any]:
        symbols = [sympy.Symbol(argument, real=True) for argument in arguments]
        return sympy.lambdify(symbols, expression, modules=[FUNCTIONS, "math"])

    def stepping(variable: str) -> Callable[..., Any]:
        """The function (values, dt) -> the variable after one step."""
        expression, symbol = sympy.expand(rates[variable]), sympy.Symbol(variable, real=True)
        slope = sympy.diff(expression, symbol)
        linear = not slope.has(symbol) and slope != 0
        if method == "exp_euler" and not linear:
            raise Problem(f"d{variable}/dt is not linear in {variable}", "method=exp_euler", "use auto or euler")
        if method == "euler" or not linear:
            f = compiled(rates[variable])
            return lambda values, dt: values[variable] + dt * f(*values.values())
        a, b = compiled(sympy.simplify(slope)), compiled(sympy.simplify(expression - slope * symbol))

        def exact(values: dict[str, Any], dt: float) -> Any:
            rate = a(*values.values())
            return values[variable] + _growth(rate, dt) * (rate * values[variable] + b(*values.values()))

        return exact

    steppers = {variable: stepping(variable) for variable in rates}
    fires = None if above is None else compiled(above)
    resets = [(variable, compiled(value)) for variable, value in changes]
    first = next(iter(rates))

    def step(s: State, current: Tensor, p: Any, dt: float) -> tuple[State, Tensor]:
        values = {**s, CURRENT: current, **{n: getattr(p, n) for n in params}}
        values = {**values, **{variable: advance(values, dt) for variable, advance in steppers.items()}}
        if fires is None:
            return {n: values[n] for n in rates}, values[first]
        spikes = p.fire(fires(*values.values()))
        for variable, value in resets:
            values[variable] = values[variable] + spikes * (value(*values.values()) - values[variable])
        return {n: values[n] for n in rates}, spikes

    values = {variable: float((start or {}).get(variable, 0.0)) for variable in rates}
    text = {"equations": equations, "threshold": threshold, "reset": reset, "method": method, "name": name}
    # The arguments, for descriptions to rebuild the model; the parameters' values are stored separately.
    text |= dict.fromkeys(params, 0.0)
    return Neuron(name, step, dict(params), values, trained=trained, text=text, spiking=fires is not None)
