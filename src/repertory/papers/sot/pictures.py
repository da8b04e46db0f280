"""Figures: what the class branch and the word branch look at, in images and in sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.figure import Figure
from torch import Tensor, nn

from repertory.core.printing import figure_text
from repertory.data.glue import Sentences
from repertory.papers.sot.text import Collate, TextClassifier, encode

MOST = 6
"""Images in a figure."""
MOST_SENTENCES = 8
MOST_TOKENS = 24


@dataclass(frozen=True)
class Activation:
    """Grad-CAM of one branch."""

    maps: np.ndarray
    """(images, H, W), 0 to 1."""
    chosen: np.ndarray
    """(images,), the class with the branch's highest logit."""


def by_branch(branches: tuple[Tensor | None, Tensor | None]) -> dict[str, Tensor]:
    """Logits by the name of the branch, with their sum where there are both."""
    by_class, by_words = branches
    named = {"class token": by_class, "words": by_words}
    found = {name: logits for name, logits in named.items() if logits is not None}
    return found if by_class is None or by_words is None else {**found, "sum": by_class + by_words}


def class_activation(model: Any, x: Tensor) -> dict[str, Activation]:
    """Grad-CAM on the word tokens that enter the last block, for each branch of the head.

    The map is the part above 0 of sum_c w_c a_c, with a_c the activations of channel c and w_c the mean gradient of
    the branch's highest logit.

    Args:
        model: `SoT`, or `TimmClassifier` on a ViT; in evaluation mode.
        x: images (n, C, H, W), preprocessed.

    Returns:
        Activations by branch; empty if the network has no blocks of tokens on a square grid.
    """
    blocks, prefix = getattr(getattr(model, "backbone", model), "blocks", None), model.head.prefix_tokens
    if not isinstance(blocks, nn.Sequential):
        return {}
    entering: list[Tensor] = []

    def catch(_module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        entering.append(inputs[0].detach().requires_grad_())
        return entering[0], *inputs[1:]

    handle = blocks[-1].register_forward_pre_hook(catch)
    with torch.inference_mode(False), torch.enable_grad():
        logits = by_branch(model.head.branches(model.forward_features(x.clone())))
        chosen = {name: values.argmax(1) for name, values in logits.items()}
        gradients = {
            name: torch.autograd.grad(values.amax(1).sum(), entering[0], retain_graph=True)[0][:, prefix:]
            for name, values in logits.items()
        }
    handle.remove()
    tokens = entering[0].detach()[:, prefix:]  # (n, N, C)
    side = round(tokens.shape[1] ** 0.5)
    if side**2 != tokens.shape[1]:
        return {}
    activations = {}
    for name, gradient in gradients.items():
        cam = (gradient.mean(1, keepdim=True) * tokens).sum(-1).relu()  # (n, N)
        cam = cam / cam.amax(1, keepdim=True).clamp_min(1e-12)
        maps = cam.unflatten(1, (side, side)).cpu().numpy()
        activations[name] = Activation(maps, chosen[name].cpu().numpy())
    return activations


def branches_picture(
    shown: Sequence[np.ndarray], activations: Mapping[str, Activation], classes: Sequence[str]
) -> Figure:
    """A row per image: the image, and the activation of each branch over it with the class that the branch chooses.

    Args:
        shown: images (H, W, 3), 0 to 1.
        activations: by branch.
        classes: names of all classes.
    """
    figure = Figure(figsize=(2.1 * (1 + len(activations)), 2.2 * len(shown) + 0.5), layout="constrained")
    grid = figure.subplots(len(shown), 1 + len(activations), squeeze=False)
    for row, picture in enumerate(shown):
        grid[row, 0].imshow(picture)
        height, width = picture.shape[:2]
        for column, (name, activation) in enumerate(activations.items(), start=1):
            axes = grid[row, column]
            axes.imshow(picture, alpha=0.5)
            extent = (-0.5, width - 0.5, height - 0.5, -0.5)
            axes.imshow(activation.maps[row], extent=extent, cmap="viridis", alpha=0.6, vmin=0, vmax=1)
            axes.set_title(f"{name}: {figure_text(classes[int(activation.chosen[row])])}", fontsize=8)
    for axes in grid.flat:
        axes.set_axis_off()
    title = "Grad-CAM of each branch's class (yellow: raises its logit most)"
    if "sum" in activations:
        same = activations["class token"].chosen == activations["words"].chosen
        title += f"\nclass token and words choose the same class in {same.sum()} of {len(same)} images"
    figure.suptitle(title, fontsize=9)
    return figure


# -- sentences ----------------------------------------------------------------------------------


def word_weights(model: TextClassifier, sentences: Sentences) -> list[tuple[list[str], dict[str, np.ndarray]]]:
    """Length of the gradient of each branch's highest logit with respect to the embedding of each token.

    Args:
        model: in evaluation mode.
        sentences: a few.

    Returns:
        For each sentence its tokens, and by branch (tokens,), the largest 1.
    """
    encoded = encode(model, sentences)
    device = next(model.parameters()).device
    ids, mask, types, _ = (
        part.to(device) for part in Collate(model.padding)([encoded[i] for i in range(len(encoded))])
    )
    with torch.inference_mode(False), torch.enable_grad():
        embeddings = model.encoder.get_input_embeddings()(ids.clone()).detach().requires_grad_()
        logits = by_branch(model.branches(ids.clone(), mask.clone(), types.clone(), embeddings))
        gradients = {
            name: torch.autograd.grad(values.amax(1).sum(), embeddings, retain_graph=True)[0].norm(dim=-1).cpu().numpy()
            for name, values in logits.items()
        }
    shown = []
    for row, numbers in enumerate(encoded.ids):
        tokens = [model.tokenizer.id_to_token(number) for number in numbers]
        weights = {name: values[row, : len(numbers)] for name, values in gradients.items()}
        shown.append((tokens, {name: values / max(values.max(), 1e-12) for name, values in weights.items()}))
    return shown


def sentences_picture(model: TextClassifier, sentences: Sentences) -> Figure:
    """The first sentences, their tokens coloured by `word_weights`, a line for each branch."""
    first = word_weights(model, sentences.subset(range(min(MOST_SENTENCES, len(sentences)))))
    lines = [(name, tokens, weights) for tokens, by_name in first for name, weights in by_name.items()]
    longest = min(MOST_TOKENS, max(len(tokens) for _, tokens, _ in lines))
    figure = Figure(figsize=(1.5 + 0.62 * longest, 0.6 + 0.3 * len(lines)), layout="constrained")
    axes = figure.subplots()
    colours = colormaps["Blues"]
    for row, (name, tokens, weights) in enumerate(lines):
        axes.text(-0.1, row, name, ha="right", va="center", fontsize=8)
        for column, (token, weight) in enumerate(zip(tokens[:longest], weights, strict=False)):
            box = {"facecolor": colours(0.8 * float(weight)), "edgecolor": "none", "pad": 1.5}
            text = figure_text(token if len(token) <= 9 else f"{token[:8]}…")
            ink = "white" if weight > 0.6 else "black"
            axes.text(column + 0.5, row, text, ha="center", va="center", fontsize=7, bbox=box, color=ink)
    axes.set_xlim(-1.5, longest)
    axes.set_ylim(len(lines) - 0.5, -0.5)
    axes.set_axis_off()
    axes.set_title("tokens by the gradient of the chosen class (dark: large)", fontsize=9)
    return figure
