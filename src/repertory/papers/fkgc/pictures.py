"""Pictures: MRR by relation, answers to queries, attention over shots and neighbours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from repertory.core.printing import figure_text
from repertory.papers.fkgc.metric import FAAN, Hood, Pairs, taken_slots

OURS, OTHER = "#0969da", "#57606a"
MOST = 40
"""Bars of a picture."""


def relations_picture(scores: Mapping[str, float], candidates: Mapping[str, int]) -> Figure:
    """MRR of each relation, the worst first, with its number of candidates; of many, the ends."""
    names = sorted(scores, key=lambda name: scores[name])
    shown = names if len(names) <= MOST else [*names[: MOST // 2], *names[-MOST // 2 :]]
    figure = Figure(figsize=(7, 1.2 + 0.22 * len(shown)), layout="constrained")
    axes = figure.subplots()
    bars = axes.barh(range(len(shown)), [scores[name] for name in shown], color=OURS)
    axes.bar_label(
        bars, [f"{scores[name]:.1f}  ({candidates[name]} candidates)" for name in shown], padding=3, fontsize=7
    )
    axes.set_yticks(range(len(shown)), [figure_text(name) for name in shown], fontsize=7)
    axes.set(xlabel="MRR (%)", xlim=(0, 130), title="MRR by relation" + ("" if shown is names else ", worst and best"))
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def shots_picture(curve: Mapping[float, Mapping[str, float]]) -> Figure:
    """MRR against the number of shots."""
    figure = Figure(figsize=(4.5, 3.2), layout="constrained")
    axes = figure.subplots()
    axes.plot(list(curve), [metrics["mrr"] for metrics in curve.values()], "o-", color=OURS)
    axes.set(xlabel="support triples (shots)", ylabel="MRR (%)", title="FAAN, one seed", xticks=list(curve))
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def answers_picture(answers: Sequence[tuple[str, Sequence[tuple[str, float]]]], most: int = 6) -> Figure:
    """The best tails of some queries: (title, [(tail, score)])."""
    shown = answers[:most]
    columns = min(3, len(shown))
    rows = -(-len(shown) // columns)
    longest = max(len(found) for _, found in shown)
    figure = Figure(figsize=(4.2 * columns, rows * (0.8 + 0.22 * longest)), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).flat
    for axes in panels:
        axes.axis("off")
    for axes, (title, found) in zip(figure.axes, shown, strict=False):
        axes.axis("on")
        values = [score for _, score in found]
        axes.barh(range(len(found)), np.array(values) - min(values, default=0), color=OURS)
        axes.set_yticks(range(len(found)), [figure_text(shortened(name)) for name, _ in found], fontsize=7)
        axes.invert_yaxis()
        axes.set_title(figure_text(shortened(title, 60)), fontsize=8)
        axes.set_xlabel("score above the last one shown", fontsize=7)
        axes.tick_params(axis="x", labelsize=7)
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def shortened(name: str, most: int = 34) -> str:
    """A long name with its middle left out."""
    return name if len(name) <= most else f"{name[: most // 2 - 1]}…{name[-most // 2 :]}"


def attention_of(core: FAAN, query: Pairs, support: Pairs) -> dict[str, np.ndarray]:
    """FAAN's weights for one query pair: over the shots (N,), and over the neighbours of both sides (M,), if any."""
    q, shots = core.pairs(query), core.pairs(support)
    weights = {"shots": (q @ shots.T / q.shape[-1] ** 0.5).softmax(-1)[0]}
    if core.neighbours is not None:
        e_h, e_t = core.symbol_emb(query.head.entity), core.symbol_emb(query.tail.entity)
        for side, hood in (("head", query.head), ("tail", query.tail)):
            relations = core.symbol_emb(hood.slots[..., 0])
            weights[side] = core.neighbours.attention(e_t - e_h, relations, taken_slots(hood))[0]
    return {name: values.cpu().numpy() for name, values in weights.items()}


def attention_picture(weights: Mapping[str, np.ndarray], labels: Mapping[str, Sequence[str]], title: str) -> Figure:
    """Bars of attention: over the shots, over the neighbours of head and tail.

    Args:
        weights: panel -> weights, see `attention_of`.
        labels: panel -> a label a weight; further weights are free slots.
        title: the query and its answer.
    """
    panels: dict[str, Any] = {
        "shots": "support triples",
        "head": "neighbours of the head",
        "tail": "neighbours of the tail",
    }
    shown = [name for name in panels if name in weights and len(labels[name])]
    longest = max(len(labels[name]) for name in shown)
    figure = Figure(figsize=(4.6 * len(shown), 1.2 + 0.2 * longest), layout="constrained")
    for axes, name in zip(figure.subplots(1, len(shown), squeeze=False).flat, shown, strict=True):
        count = len(labels[name])
        axes.barh(range(count), weights[name][:count], color=OURS if name == "shots" else OTHER)
        axes.set_yticks(range(count), [figure_text(shortened(label, 44)) for label in labels[name]], fontsize=7)
        axes.invert_yaxis()
        axes.set(xlabel="attention", xlim=(0, None))
        axes.set_title(panels[name], fontsize=9)
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(figure_text(shortened(title, 90)), fontsize=9)
    return figure


def slot_labels(hood: Hood, symbols: Sequence[str]) -> list[str]:
    """ "relation, neighbour" of the taken slots of one entity."""
    taken = hood.slots[0, : int(torch.as_tensor(hood.degree[0]))].tolist()
    return [f"{symbols[relation]}: {symbols[entity]}" for relation, entity in taken]
