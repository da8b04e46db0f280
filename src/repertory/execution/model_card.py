"""README.md of a model directory, as the Hugging Face hub shows it: filled from the paper's card and the metrics."""

from __future__ import annotations

import math
from collections.abc import Mapping
from importlib.metadata import metadata

from huggingface_hub import EvalResult, ModelCardData

from repertory.core.card import Card
from repertory.core.study import Study, find_metric

TASKS = {
    "vision": "image-classification", "video": "video-classification", "graphs": "graph-ml",
    "language": "text-classification",
}  # fmt: skip
"""Topic of a card -> task of the hub."""


def model_card(
    card: Card, study: type[Study], arm: str, data: str, metrics: Mapping[str, float], source: str = ""
) -> str:
    """The text of README.md.

    Args:
        card: of the paper.
        study: declares arms and metrics.
        arm: that was trained.
        data: what the model was trained and measured on.
        metrics: on its held-out part; {} for converted weights, which get no model-index.
        source: the authors' file that the weights come from; empty: trained here.
    """
    results = []
    for name, value in metrics.items():
        metric = find_metric(study.metrics, name)
        unit = f", {metric.unit}" if metric and metric.unit else ""
        label = f"{metric.en}{unit}" if metric else name
        if math.isfinite(value):  # the hub takes numbers only
            results.append(
                EvalResult(
                    task_type=TASKS.get(card.topic, "other"), dataset_type=data, dataset_name=data, metric_type=name,
                    metric_value=round(value, 4), metric_name=label,
                )
            )  # fmt: skip
    head = ModelCardData(
        model_name=f"{card.id}-{arm}",
        eval_results=results or None,
        license=None if source else metadata("repertory")["License-Expression"].lower(),
        library_name="repertory",
        tags=[card.id, card.topic, *(["arxiv:" + card.arxiv] if card.arxiv else [])],
    )
    links = [f"[arXiv:{card.arxiv}](https://arxiv.org/abs/{card.arxiv})"] if card.arxiv else []
    links += [f"[the authors' code](https://github.com/{card.code})"] if card.code else []
    origin = (
        f"Converted from the authors' file `{source}`, whose licence applies."
        if source
        else f"Trained on {data}; arm `{arm}`: {study.arms[arm]}."
    )
    rows = [f"| {result.metric_name} | {result.metric_value:g} |" for result in results]
    table = ["| on the held-out part | |", "| --- | ---: |", *rows, ""] if rows else []
    fidelity = card.fidelity + (f": {card.fidelity_note}" if card.fidelity_note else "")
    return "\n".join(
        [
            f"---\n{head.to_yaml()}\n---\n",
            f"# {card.id}: {card.title}\n",
            f"{', '.join(card.authors)}; {card.venue} {card.year}. {' · '.join(links)}\n",
            f"{card.summary['en']}\n",
            f"{card.summary['zh']}\n",
            f"{origin}\n",
            *table,
            f"Faithful to the paper: {fidelity}\n",
            "Load it with `repertory.core.checkpoint.load(folder)`, or apply it: `repertory predict FOLDER INPUT`.",
            "",
        ]
    )
