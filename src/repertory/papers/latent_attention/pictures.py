"""Pictures of the laboratory: curves beside their predicted exponents, weights, posteriors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from repertory.core.printing import figure_text
from repertory.papers.latent_attention.generators import Array
from repertory.papers.latent_attention.laboratory import fitted_slope, local_slopes

Curve = Mapping[float, float]
MEASURED, PREDICTED, OTHER = "#00798c", "#d1495b", "#8d96a3"


def _mark(axes: Axes, x: Sequence[float] | Array) -> None:
    """Label a logarithmic axis at these places alone."""
    axes.set_xticks(list(x), [f"{value:g}" for value in x])
    axes.minorticks_off()


def error_figure(arm: str, curve: Curve, predicted: float | None, origin: str) -> Figure:
    """RMSE against L with the fitted and the predicted exponent, and the local slopes below.

    Args:
        arm: name of the read-out.
        curve: L -> RMSE.
        predicted: exponent; None: nothing is predicted.
        origin: where the prediction comes from: "derived", ...
    """
    figure = Figure(figsize=(6.5, 6), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    lengths, errors = np.array(list(curve)), np.array(list(curve.values()))
    slope = fitted_slope(curve)
    offset = np.mean(np.log(errors) - slope * np.log(lengths))
    above.loglog(lengths, errors, "o", color=MEASURED, label="measured")
    above.loglog(lengths, np.exp(offset) * lengths**slope, color=MEASURED, label=f"fitted exponent {slope:.2f}")
    if predicted is not None:
        start = errors[0] / lengths[0] ** predicted
        above.loglog(
            lengths, start * lengths**predicted, "--", color=PREDICTED,
            label=f"predicted exponent {predicted:g} ({origin})",
        )  # fmt: skip
        below.axhline(predicted, linestyle="--", color=PREDICTED)
    above.set(title=figure_text(arm), ylabel="RMSE to the conditional mean")
    figure.legend(*above.get_legend_handles_labels(), loc="outside lower center")
    local = local_slopes(curve)
    below.semilogx(list(local), list(local.values()), "o-", color=MEASURED)
    below.set(xlabel="sequence length L", ylabel="local slope")
    _mark(below, lengths)
    return figure


def gap_figure(over_n: Mapping[str, Curve], over_length: Mapping[str, Curve]) -> Figure:
    """Generalisation gap against n and against L, for each constraint, with the predicted behaviour."""
    figure = Figure(figsize=(9, 4.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    for colour, (name, curve) in zip((MEASURED, OTHER), over_n.items(), strict=True):
        left.loglog(list(curve), list(curve.values()), "o-", color=colour, label=name)
    first = next(iter(over_n.values()))
    n = np.array(list(first))
    left.loglog(
        n, first[n[0]] * (n / n[0]) ** -0.5, "--", color=PREDICTED,
        label="exponent −0.5 of norm-based bounds (derived, upper)",
    )  # fmt: skip
    left.set(xlabel="training sequences n", ylabel="test risk − training risk")
    left.legend(loc="lower center", bbox_to_anchor=(0.5, 1), frameon=False)
    _mark(left, n)
    for colour, (name, curve) in zip((MEASURED, OTHER), over_length.items(), strict=True):
        right.semilogx(list(curve), list(curve.values()), "o-", color=colour, label=name)
    start = next(iter(next(iter(over_length.values())).values()))
    right.axhline(start, linestyle="--", color=PREDICTED, label="slope 0: no growth (claimed)")
    right.set(xlabel="sequence length L", ylim=(0, None))
    right.legend(loc="lower center", bbox_to_anchor=(0.5, 1), frameon=False)
    _mark(right, list(next(iter(over_length.values()))))
    return figure


def transfer_figure(ratios: Curve) -> Figure:
    """Worst downstream over pre-training excess risk against κ_c, under its bound."""
    figure = Figure(figsize=(5.5, 4))
    axes = figure.subplots()
    kappa = list(ratios)
    axes.loglog(kappa, list(ratios.values()), "o-", color=MEASURED, label="measured")
    axes.loglog(kappa, kappa, "--", color=PREDICTED, label="bound: ratio = κ_c (derived)")
    axes.set(xlabel="condition number κ_c", ylabel="worst downstream / pre-training excess")
    axes.legend()
    return figure


def posterior_figure(posterior: Array, title: str) -> Figure:
    """P(z | first l tokens) as tokens arrive: posterior (L, C)."""
    figure = Figure(figsize=(6.5, 3.6))
    axes = figure.subplots()
    steps = np.arange(1, len(posterior) + 1)
    axes.stackplot(steps, posterior.T, labels=[f"z = {z}" for z in range(posterior.shape[1])])
    axes.set(title=figure_text(title), xlabel="tokens seen", ylabel="posterior of z", ylim=(0, 1))
    axes.set(xscale="log", xlim=(1, len(steps)))
    _mark(axes, [2**k for k in range(len(steps).bit_length())])
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def weights_figure(weights: Mapping[str, Array], nearness: Array, title: str) -> Figure:
    """Weights of the tokens of one sequence, sorted by qᵀk; those of CME attention may be negative.

    Args:
        weights: name -> (L,).
        nearness: qᵀk (L,).
        title: of the sequence.
    """
    figure = Figure(figsize=(7, 1.2 + 1.7 * len(weights)))
    rows = figure.subplots(len(weights), 1, sharex=True, squeeze=False)[:, 0]
    order = np.argsort(nearness)
    for axes, (name, values) in zip(rows, weights.items(), strict=True):
        colours = np.where(values[order] < 0, PREDICTED, MEASURED)
        axes.bar(np.arange(len(order)), values[order], color=colours, width=1.0)
        axes.axhline(0, color="black", linewidth=0.6)
        axes.set(ylabel=figure_text(name))
    rows[0].set_title(figure_text(title))
    rows[-1].set_xlabel("tokens, sorted by qᵀk; red: a negative weight")
    figure.supylabel("attention weight")
    return figure
