"""Networks as JSON values, without weights: what a model directory stores of a network."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from types import ModuleType
from typing import Any, cast

import torch
from torch import Tensor

from repertory.core.problem import Problem
from repertory.papers.spaic.describe import connections, encoders, rules, synapses
from repertory.papers.spaic.describe.connections import Connection
from repertory.papers.spaic.describe.decoders import Readout
from repertory.papers.spaic.describe.equations import from_text
from repertory.papers.spaic.describe.network import Group, Input, Net, Node, Projection, Source, positions
from repertory.papers.spaic.describe.neurons import MODELS, neuron


def to_json(net: Net) -> dict[str, Any]:
    """Everything but the weights, as values that `json.dumps` takes; `from_json` makes the network again.

    Raises:
        Problem: a neuron model that is a Python function, which text cannot hold.

    Example:
        >>> with Net(0.5) as net:
        ...     x = Input(3)
        >>> from_json(to_json(net)).nodes
        [Input(x, (3,))]
    """
    return {
        "dt": net.dt,
        "nodes": [_from_node(node) for node in net.nodes],
        "projections": [
            {"source": p.source.name, "ops": [_from_dataclass(op) for op in p.ops], "target": p.target.name}
            for p in net.projections
        ],
        "readouts": [{"group": group.name, **dataclasses.asdict(readout)} for group, readout in net.readouts],
        "records": [
            {"node": what.name, "variables": list(names)} for what, names in net.records if isinstance(what, Node)
        ],
        "reward": None if net.rewarded is None else [net.rewarded[0].name, net.rewarded[1]],
    }


def from_json(description: Mapping[str, Any]) -> Net:
    """The network that `to_json` described.

    Raises:
        Problem: not such a description.
    """
    try:
        with Net(description["dt"]) as net:
            nodes = {words["name"]: _to_node(words) for words in description["nodes"]}
            for words in description["projections"]:
                ops = tuple(_to_dataclass(_LINKS, op) for op in words["ops"])
                net.projections.append(Projection(nodes[words["source"]], ops, cast(Group, nodes[words["target"]])))
            for words in description["readouts"]:
                options = {name: value for name, value in words.items() if name != "group"}
                net.readouts.append((cast(Group, nodes[words["group"]]), Readout(**options)))
            for words in description["records"]:
                net.record(nodes[words["node"]], *words["variables"])
            if description.get("reward"):
                name, kind = description["reward"]
                net.reward(cast(Group, nodes[name]), kind)
    except (KeyError, TypeError, AttributeError) as error:
        raise Problem(
            f"not the description of a network: {error!r}", "description", "give what to_json made"
        ) from error
    return net


# -- dataclasses: connections, synapses, rules, encoders, generators ----------------------------


def _dataclasses(*modules: ModuleType) -> dict[str, type[Any]]:
    return {
        name: kind
        for module in modules
        for name, kind in vars(module).items()
        if isinstance(kind, type) and dataclasses.is_dataclass(kind) and kind.__module__ == module.__name__
    }


_LINKS = _dataclasses(synapses, connections, rules)
_ENCODERS = _dataclasses(encoders)
"""Classes that a description may name; two tables, since both have a `Null`."""


def _from_dataclass(thing: Any) -> dict[str, Any]:
    """The class's name and its fields, without given weights and biases: those are in the state dict."""
    fields = {f.name: getattr(thing, f.name) for f in dataclasses.fields(thing) if f.name != "weight"}
    words = {"type": type(thing).__name__, **{name: _from_value(value) for name, value in fields.items()}}
    return {**words, "bias": thing.bias is not False} if isinstance(thing, Connection) else words


def _to_dataclass(kinds: Mapping[str, type[Any]], words: Mapping[str, Any]) -> Any:
    fields = {name: _to_value(value) for name, value in words.items() if name != "type"}
    return kinds[words["type"]](**fields)


def _from_value(value: Any) -> Any:
    if isinstance(value, Tensor):
        return {"tensor": value.tolist()}
    if dataclasses.is_dataclass(value):
        return _from_dataclass(value)
    return list(value) if isinstance(value, tuple) else value


def _to_value(value: Any) -> Any:
    if isinstance(value, dict) and "tensor" in value:
        return torch.tensor(value["tensor"])
    if isinstance(value, dict):
        return _to_dataclass(_LINKS, value)
    return tuple(value) if isinstance(value, list) else value


# -- nodes --------------------------------------------------------------------------------------


def _from_node(node: Node) -> dict[str, Any]:
    words: dict[str, Any] = {"kind": type(node).__name__, "name": node.name, "shape": list(node.shape)}
    if isinstance(node, Input):
        return {**words, "encoder": _from_dataclass(node.encoder)}
    if isinstance(node, Source):
        return {**words, "generator": _from_dataclass(node.generator)}
    group = cast(Group, node)
    model = group.model
    if model.name not in MODELS and model.text is None:
        raise Problem(
            f"the model of {node.name} is a Python function, which a description cannot hold",
            node.name, "write it as equations: from_text(...)",
        )  # fmt: skip
    return {
        **words,
        "labels": sorted(group.labels),
        "positions": None if group.given_positions is None else positions(group).tolist(),
        "model": {
            "name": model.name,
            "text": None if model.text is None else dict(model.text),
            "params": {name: _from_value(value) for name, value in model.params.items()},
            "start": dict(model.start),
            "trained": list(model.trained),
        },
    }


def _to_node(words: Mapping[str, Any]) -> Node:
    name, shape = words["name"], words["shape"]
    if words["kind"] == "Input":
        return Input(shape, _to_dataclass(_ENCODERS, words["encoder"]), name)
    if words["kind"] == "Source":
        return Source(shape, _to_dataclass(_ENCODERS, words["generator"]), name)
    given = words["model"]
    model = dataclasses.replace(
        neuron(given["name"]) if given["text"] is None else from_text(**given["text"]),
        params={name: _to_value(value) for name, value in given["params"].items()},
        start=given["start"],
        trained=tuple(given["trained"]),
    )
    places = None if words["positions"] is None else torch.tensor(words["positions"])
    return Group(shape, model, labels=words["labels"], positions=places, name=name)
