"""Pictures: which topic each token looks at, extension words of the topics, GPT-2's share of the embedding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from repertory.core.printing import figure_text
from repertory.papers.tegformer.writer import Author, TopicWriter

BLUE, ORANGE, GREY = "#0969da", "#bc4c00", "#57606a"


@torch.no_grad()
def attention_weights(model: TopicWriter, topics: Sequence[str], text: str) -> tuple[np.ndarray, list[str]]:
    """Weights of the topics when each token was written, (S, L), mean over layers and heads; and the tokens."""
    found: list[Tensor] = []

    def keep(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        found.append(module.weights(*inputs)[0].mean(0))  # pyright: ignore[reportCallIssue]

    network = model.network
    hooks = [layer.cross.register_forward_pre_hook(keep) for layer in network.decoder]  # pyright: ignore[reportAttributeAccessIssue, reportCallIssue]
    try:
        numbers, mask = model.topic_batch([topics])
        ids = model.ids_of(text)
        model.network(numbers, mask, torch.tensor([ids[:-1]], device=numbers.device))
    finally:
        for hook in hooks:
            hook.remove()
    tokens = [model.tokenizer.id_to_token(number) for number in ids[1:]]
    return torch.stack(found).mean(0).T.cpu().numpy(), tokens


def attention_picture(model: TopicWriter, topics: Sequence[str], text: str) -> Figure:
    """Heat map: topics by written tokens; tokens that are topics stand out."""
    weights, tokens = attention_weights(model, topics, text)
    figure = Figure(figsize=(max(6.0, 0.2 * len(tokens)), 1.8 + 0.32 * len(topics)), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(weights, cmap="viridis", aspect="auto", vmin=0)
    axes.set_yticks(range(len(topics)), [figure_text(topic) for topic in topics])
    _token_ticks(axes, model, topics, tokens)
    axes.set_title(
        "which topic the decoder looks at while it writes each token (mean over layers and heads)", fontsize=9
    )
    figure.colorbar(image, ax=axes, label="attention", pad=0.01)
    return figure


def _token_ticks(axes: Any, model: Author, topics: Sequence[str], tokens: Sequence[str]) -> None:
    axes.set_xticks(range(len(tokens)), [figure_text(token) for token in tokens], rotation=90, fontsize=7)
    parts = {token for topic in topics for token in model.tokenizer.encode(topic, add_special_tokens=False).tokens}
    for label, token in zip(axes.get_xticklabels(), tokens, strict=True):
        if token in parts:
            label.set_color(ORANGE)
            label.set_fontweight("bold")


@torch.no_grad()
def extension_weights(model: TopicWriter, topics: Sequence[str]) -> list[dict[str, float]]:
    """Weight of each extension word of each topic, mean over layers and heads; none without extension words."""
    network = model.network
    numbers, mask = model.topic_batch([topics])
    words = network.neighbours[numbers]
    found: list[Tensor] = []

    def keep(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        found.append(module.weights(*inputs)[0].mean(-1))  # pyright: ignore[reportCallIssue]

    layers: list[Any] = [*network.encoder]
    hooks = [layer.extension.register_forward_pre_hook(keep) for layer in layers if layer.extension is not None]
    try:
        network.encode(numbers, mask)
    finally:
        for hook in hooks:
            hook.remove()
    if not found:
        return []
    mean = torch.stack(found).mean(0)
    return [
        {model.words[k]: float(weight) for k, weight in zip(row.tolist(), weights, strict=True) if k < len(model.words)}
        for row, weights in zip(words[0], mean, strict=True)
    ]


def extension_picture(topics: Sequence[str], weights: Sequence[dict[str, float]]) -> Figure:
    """Bars: extension words of each topic by weight, a panel a topic."""
    figure = Figure(figsize=(2.6 * len(topics), 2.6), layout="constrained")
    for axes, topic, words in zip(figure.subplots(1, len(topics), squeeze=False).flat, topics, weights, strict=True):
        names = sorted(words, key=lambda word: words[word])
        axes.barh([figure_text(name) for name in names], [words[name] for name in names], color=BLUE)
        axes.set_title(figure_text(topic), fontsize=9, color=ORANGE)
        axes.tick_params(labelsize=7)
        axes.spines[["top", "right"]].set_visible(False)
        if not names:
            axes.text(0.5, 0.5, "no extension words", ha="center", va="center", fontsize=8, color=GREY)
            axes.set(xticks=[], yticks=[])
    figure.supxlabel("weight of the extension word for its topic (mean over layers and heads)", fontsize=8)
    return figure


@torch.no_grad()
def gate_shares(model: TopicWriter, text: str) -> tuple[np.ndarray, list[str]]:
    """GPT-2's share a of the fused embedding of each token, (L,); and the tokens."""
    network, fusion = model.network, model.network.fusion
    ids = torch.tensor([model.ids_of(text)[:-1]], device=network.generator.weight.device)
    shares = fusion.share(network.states(ids), fusion.up(fusion.table(ids)))
    return shares[0, :, 0].cpu().numpy(), [model.tokenizer.id_to_token(number) for number in ids[0].tolist()]


def gate_picture(model: TopicWriter, topics: Sequence[str], text: str) -> Figure:
    """Bars: GPT-2's share of the embedding of each token that the decoder reads."""
    shares, tokens = gate_shares(model, text)
    figure = Figure(figsize=(max(6.0, 0.2 * len(tokens)), 2.8), layout="constrained")
    axes = figure.subplots()
    axes.bar(range(len(tokens)), shares, color=BLUE)
    _token_ticks(axes, model, topics, tokens)
    for level in (0, 1):
        axes.axhline(level, color=GREY, linewidth=0.6)
    axes.set(ylabel="share of GPT-2")
    axes.set_title("share of GPT-2 in the embedding of each token; the rest is the domain embedding's", fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def pictures(model: Author, topics: Sequence[str], text: str) -> dict[str, Figure]:
    """All that apply to the model and an essay that it wrote; an empty one has none."""
    if not isinstance(model, TopicWriter) or not text:
        return {}
    drawn = {"attention": attention_picture(model, topics, text)}
    if weights := extension_weights(model, topics):
        drawn["extension"] = extension_picture(topics, weights)
    if model.network.fusion.fusion in ("gate", "sigmoid"):
        drawn["gate"] = gate_picture(model, topics, text)
    return drawn
