"""Pictures: distances with clustering, scatters, layers, importances, relations in the plane, trees."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from scipy.cluster.hierarchy import dendrogram, leaves_list, linkage
from scipy.spatial.distance import squareform
from sklearn.decomposition import PCA

from repertory.core.printing import figure_text
from repertory.data.conllu import RELATIONS, Sentence
from repertory.papers.mbert_syntax.transport import Cloud
from repertory.papers.mbert_syntax.typology import Agreement, Regression

BLUE, GREY = "#0969da", "#57606a"
MARKERS = "os^vD<>pPX*hH8d1234+x"


def distances_picture(distances: NDArray[np.float64], languages: Sequence[str]) -> Figure:
    """Heat map of OTDD, languages ordered by average linkage, with the tree above."""
    size = max(4.0, 0.34 * len(languages) + 2)
    figure = Figure(figsize=(size + 0.8, size + 1), layout="constrained")
    above, below = figure.subplots(2, 1, height_ratios=(1, 4))
    tree = linkage(squareform(distances, checks=False), "average")
    dendrogram(tree, ax=above, no_labels=True, color_threshold=0, above_threshold_color=GREY)
    order: list[int] = [int(k) for k in leaves_list(tree)]
    above.axis("off")
    shown = distances[np.ix_(order, order)]
    image = below.imshow(np.where(np.eye(len(shown), dtype=bool), np.nan, shown), cmap="viridis", aspect="auto")
    names = [figure_text(languages[k]) for k in order]
    below.set_xticks(range(len(names)), names, rotation=90)
    below.set_yticks(range(len(names)), names)
    figure.colorbar(image, ax=below, label="OTDD", shrink=0.8)
    return figure


def scatter_picture(
    distances: NDArray[np.float64],
    others: Mapping[str, tuple[NDArray[np.float64], Agreement | None]],
    languages: Sequence[str],
    labelled: int = 12,
) -> Figure:
    """OTDD against other matrices, one panel each, with ρ and Mantel's p. The furthest from the trend have names."""
    figure = Figure(figsize=(4.2 * len(others), 3.8), layout="constrained")
    i, j = np.triu_indices(len(languages), 1)
    for axes, (name, (matrix, agreement)) in zip(
        figure.subplots(1, len(others), squeeze=False).flat, others.items(), strict=True
    ):
        x, y = matrix[i, j], distances[i, j]
        axes.scatter(x, y, s=14, color=BLUE, alpha=0.7)
        good = np.flatnonzero(np.isfinite(x) & np.isfinite(y))
        if len(good) > 2 and np.ptp(x[good]):
            away = np.abs(y[good] - np.polyval(np.polyfit(x[good], y[good], 1), x[good]))
            for k in good[np.argsort(-away)[:labelled]].tolist():
                text = figure_text(f"{languages[int(i[k])]}-{languages[int(j[k])]}")
                axes.annotate(text, (x[k], y[k]), fontsize=7, color=GREY, xytext=(3, 3), textcoords="offset points")
        title = f"ρ = {agreement.rho:.2f}, p = {agreement.p:.3f} (Mantel)" if agreement else "too few languages"
        axes.set(xlabel=figure_text(name), ylabel="OTDD", title=title)
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def layers_picture(accuracy: NDArray[np.float64], languages: Sequence[str], best: int) -> Figure:
    """Probe accuracy (L, layers) by layer: a line a language, the mean in blue, the chosen layer marked."""
    figure = Figure(figsize=(5, 3.6), layout="constrained")
    axes = figure.subplots()
    layers = np.arange(1, accuracy.shape[1] + 1)
    for row in accuracy:
        axes.plot(layers, row, color=GREY, alpha=0.35, linewidth=0.8)
    for row, name in zip(accuracy, languages, strict=True):
        axes.annotate(
            figure_text(name), (layers[-1], row[-1]), fontsize=6, color=GREY, xytext=(3, 0), textcoords="offset points"
        )
    axes.plot(layers, accuracy.mean(0), "o-", color=BLUE, label=f"mean of {len(languages)} languages")
    axes.axvline(best, color=BLUE, linestyle=":", label=f"layer {best}: best on dev")
    axes.set(xlabel="layer", ylabel="accuracy of the probe on dev, %")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(frameon=False, fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def importance_picture(regression: Regression, most: int = 15) -> Figure:
    """Permutation importance of typological features, the largest first."""
    means = regression.importance.mean(1)
    order = np.argsort(-means)[:most][::-1]
    figure = Figure(figsize=(6, 0.3 * len(order) + 1.2), layout="constrained")
    axes = figure.subplots()
    axes.barh(
        [figure_text(regression.names[k]) for k in order],
        means[order],
        xerr=regression.importance.std(1)[order],
        color=BLUE,
    )
    axes.set(
        xlabel="loss of R² when permuted", title=f"differences that predict OTDD, R² = {regression.r2:.2f} (5-fold)"
    )
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def relations_picture(clouds: Sequence[Cloud], languages: Sequence[str]) -> Figure:
    """Mean vector of each relation in the plane of two principal components: colour by relation, shape by language."""
    names = sorted({name for cloud in clouds for name in cloud.classes})
    means = [
        (k, name, cloud.points[cloud.labels == place].mean(0).numpy())
        for k, cloud in enumerate(clouds)
        for place, name in enumerate(cloud.classes)
    ]
    plane = PCA(2, random_state=0).fit_transform(np.stack([mean for _, _, mean in means]))
    figure = Figure(figsize=(8.5, 5.5), layout="constrained")
    axes = figure.subplots()
    colours = {name: colormaps["gist_rainbow"](k / max(1, len(names) - 1)) for k, name in enumerate(names)}
    for (k, name, _), (x, y) in zip(means, plane, strict=True):
        axes.scatter(x, y, s=22, color=colours[name], marker=MARKERS[k % len(MARKERS)], linewidths=0.6)
    for name in names:
        axes.scatter([], [], color=colours[name], label=figure_text(RELATIONS[name]))
    for k, language in enumerate(languages):
        axes.scatter([], [], color=GREY, marker=MARKERS[k % len(MARKERS)], label=figure_text(language))
    axes.legend(frameon=False, fontsize=7, ncols=2, loc="center left", bbox_to_anchor=(1, 0.5))
    axes.set(xticks=[], yticks=[], title="mean vectors of relations, two principal components")
    return figure


def trees_picture(sentences: Sequence[Sentence], most: int = 4) -> Figure:
    """Dependency trees as arcs from heads to dependents."""
    shown = sentences[:most]
    longest = max((len(sentence) for sentence in shown), default=1)
    figure = Figure(figsize=(max(5.0, 0.75 * longest), 2.4 * max(1, len(shown))), layout="constrained")
    for axes, sentence in zip(figure.subplots(max(1, len(shown)), 1, squeeze=False).flat, shown, strict=False):
        top = 1.0
        for k, head in enumerate(sentence.heads, start=1):
            name = figure_text(RELATIONS[sentence.relations[k - 1]])
            if head < 1:
                axes.annotate(
                    name, (k, 0.1), (k, 0.8), fontsize=7, ha="center", arrowprops={"arrowstyle": "->", "color": BLUE}
                )
                continue
            angle = np.linspace(0, np.pi, 40)
            height = 0.45 * abs(head - k) ** 0.8
            x, y = (head + k) / 2 + abs(head - k) / 2 * np.cos(angle), height * np.sin(angle)
            axes.plot(x, y, color=GREY, linewidth=0.9)
            axes.plot([k], [0.03], "v", color=GREY, markersize=4)
            axes.text((head + k) / 2, height, name, fontsize=7, ha="center", va="bottom", color=BLUE)
            top = max(top, height)
        for k, form in enumerate(sentence.forms, start=1):
            axes.text(k, -0.12, figure_text(form), ha="center", va="top", fontsize=8)
        axes.set(xlim=(0.3, longest + 0.7), ylim=(-0.5, 1.2 * top + 0.2))
        axes.set_title(figure_text(sentence.name), fontsize=8, loc="left", color=GREY)
        axes.axis("off")
    return figure
