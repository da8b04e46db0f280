"""Figures: spikes, potentials, weights, and the graph of a network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import networkx as nx
import numpy as np
import torch
from torch import Tensor

from repertory.papers.spaic.describe.network import Group, Input, Net

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = ("#0969da", "#1a7f37", "#9a6700", "#cf222e", "#8250df", "#57606a")
SHOWN = 200
"""Neurons of a population that are drawn."""


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure  # slow to import, and only pictures need it

    return Figure(figsize=(width, height), layout="constrained")


def raster_picture(trains: Mapping[str, Tensor], dt: float = 1.0, sample: int = 0) -> Figure:
    """Raster plot, one panel per population.

    Args:
        trains: name -> spikes (T, B, *shape).
        dt: length of a step, ms.
        sample: index in the batch.
    """
    figure = _figure(7, 1 + 1.5 * len(trains))
    panels = figure.subplots(len(trains), 1, squeeze=False, sharex=True)[:, 0]
    for axes, (name, spikes), colour in zip(panels, trains.items(), COLOURS * len(trains), strict=False):
        of_one = spikes.detach().float().cpu()[:, sample].flatten(1)
        time, neuron = of_one[:, :SHOWN].nonzero(as_tuple=True)
        axes.scatter(time.numpy() * dt, neuron.numpy(), s=14, marker="|", color=colour, linewidths=0.9)
        shown = f", the first {SHOWN} of {of_one.shape[1]}" if of_one.shape[1] > SHOWN else ""
        axes.set_title(f"{name}: {of_one.sum():.0f} spikes{shown}", fontsize=9, loc="left")
        axes.set(ylabel="neuron", xlim=(-0.5 * dt, len(spikes) * dt), ylim=(-1, min(of_one.shape[1], SHOWN)))
        axes.spines[["top", "right"]].set_visible(False)
    panels[-1].set_xlabel("time, ms")
    return figure


def trace_picture(
    potentials: Tensor,
    dt: float = 1.0,
    *,
    sample: int = 0,
    most: int = 5,
    threshold: float | None = None,
    unit: str = "",
) -> Figure:
    """Potentials over time.

    Args:
        potentials: (T, B, *shape).
        dt: length of a step, ms.
        sample: index in the batch.
        most: number of neurons that are drawn.
        threshold: drawn as a line.
        unit: of the potentials.
    """
    of_one = potentials.detach().float().cpu()[:, sample].flatten(1)[:, :most]
    figure = _figure(7, 2.6)
    axes = figure.subplots()
    time = np.arange(len(of_one)) * dt
    for n, colour in zip(range(of_one.shape[1]), COLOURS, strict=False):
        axes.plot(time, of_one[:, n].numpy(), color=colour, linewidth=1, label=f"neuron {n}")
    if threshold is not None:
        axes.axhline(threshold, color="#57606a", linewidth=0.8, linestyle=":", label="threshold")
    axes.set(xlabel="time, ms", ylabel=f"potential{', ' + unit if unit else ''}")
    axes.legend(frameon=False, fontsize=8, ncols=3)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def weight_picture(weight: Tensor, shape: tuple[int, ...] = (), most: int = 40) -> Figure:
    """Weights as one matrix; or, for image inputs and kernels, as one image per neuron.

    Args:
        weight: (post, pre), or a kernel (out, in, k, k).
        shape: of the input, (C, H, W) or (H, W).
        most: number of images that are drawn.
    """
    found = weight.detach().float().cpu()
    limit = float(found.abs().max()) or 1.0
    style = {"cmap": "RdBu_r", "vmin": -limit, "vmax": limit}
    plane = tuple(shape[-2:])
    if found.ndim == 4 or (len(plane) == 2 and found.shape[1] % (plane[0] * plane[1]) == 0):
        maps = found[:most].mean(1) if found.ndim == 4 else found[:most].unflatten(1, (-1, *plane)).mean(1)
        columns = min(10, len(maps))
        rows = -(-len(maps) // columns)
        figure = _figure(0.8 * columns + 0.8, 0.8 * rows + 0.3)
        panels = figure.subplots(rows, columns, squeeze=False).ravel()
        drawn = [axes.imshow(image.numpy(), **style) for axes, image in zip(panels, maps, strict=False)]
        for axes in panels:
            axes.set_axis_off()
        figure.colorbar(drawn[0], ax=panels.tolist(), shrink=0.7, label="weight")
        return figure
    figure = _figure(6, 3.2)
    axes = figure.subplots()
    drawn = axes.imshow(found.flatten(1).numpy() if found.ndim > 1 else found[None].numpy(), aspect="auto", **style)
    axes.set(xlabel="pre", ylabel="post")
    figure.colorbar(drawn, ax=axes, label="weight")
    return figure


def graph_picture(net: Net) -> Figure:
    """The graph: nodes as discs, projections as arrows labelled with their operations."""
    graph: nx.MultiDiGraph = nx.MultiDiGraph()
    for node in net.nodes:
        graph.add_node(node.name)
    for p in net.projections:
        graph.add_edge(p.source.name, p.target.name, label="\n".join(type(op).__name__ for op in p.ops))
    depth = dict.fromkeys(graph, 0)
    condensed = nx.condensation(nx.DiGraph(graph))
    for component in nx.topological_sort(condensed):
        members = condensed.nodes[component]["members"]
        level = max((depth[a] + 1 for m in members for a in graph.predecessors(m) if a not in members), default=0)
        depth |= dict.fromkeys(members, level)
    for name, level in depth.items():
        graph.nodes[name]["depth"] = level
    where = nx.multipartite_layout(graph, subset_key="depth")
    figure = _figure(2.2 + 1.7 * (1 + max(depth.values(), default=0)), 3.2)
    axes = figure.subplots()
    colours = [
        COLOURS[0] if isinstance(n, Group) else COLOURS[2] if isinstance(n, Input) else COLOURS[5] for n in net.nodes
    ]
    nx.draw_networkx_nodes(graph, where, node_color=colours, node_size=900, alpha=0.85, ax=axes)
    nx.draw_networkx_labels(
        graph, where, {n.name: f"{n.name}\n{'x'.join(map(str, n.shape))}" for n in net.nodes},
        font_size=7, font_color="white", ax=axes,
    )  # fmt: skip
    straight = [(a, b) for a, b in nx.DiGraph(graph).edges if a != b]
    loops = [(a, b) for a, b in nx.DiGraph(graph).edges if a == b]
    plain = nx.DiGraph(graph)
    nx.draw_networkx_edges(
        plain, where, straight, node_size=900, ax=axes, edge_color="#57606a", connectionstyle="arc3,rad=0.1"
    )
    nx.draw_networkx_edges(plain, where, loops, node_size=900, ax=axes, edge_color="#57606a")
    labels = {(a, b): words["label"] for a, b, words in graph.edges(data=True) if a != b}
    nx.draw_networkx_edge_labels(plain, where, labels, font_size=6, ax=axes)
    for a, b, words in graph.edges(data=True):
        if a != b:
            continue
        axes.annotate(
            words["label"], (where[a][0], where[a][1]), (0, 24), textcoords="offset points", ha="center", fontsize=6
        )
    axes.margins(0.2)
    axes.set_axis_off()
    return figure


def current_curve_picture(currents: Tensor, rates: Tensor, expected: Tensor) -> Figure:
    """Firing rate over constant current, simulated and in closed form; all (N,)."""
    figure = _figure(5, 3)
    axes = figure.subplots()
    axes.plot(
        currents.numpy(),
        torch.as_tensor(expected).numpy(),
        color=COLOURS[5],
        linewidth=3,
        alpha=0.4,
        label="closed form",
    )
    axes.plot(currents.numpy(), rates.numpy(), color=COLOURS[0], linewidth=1, label="simulated")
    axes.set(xlabel="current", ylabel="spikes per step")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    return figure
