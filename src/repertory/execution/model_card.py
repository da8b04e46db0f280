"""README.md as the Hugging Face hub shows it: of a model directory, and of a paper with its recorded results."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from importlib.metadata import metadata

from huggingface_hub import EvalResult, ModelCardData

from repertory.core.card import Card
from repertory.core.study import Study, find_metric
from repertory.verdicts.results import Result

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
    results = [_evaluated(card, study, data, name, value) for name, value in metrics.items() if math.isfinite(value)]
    head = ModelCardData(
        model_name=f"{card.id}-{arm}",
        eval_results=results or None,
        license=None if source else _license(),
        library_name="repertory",
        tags=_tags(card),
    )
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
            *_about(card),
            f"{origin}\n",
            *table,
            f"Faithful to the paper: {fidelity}\n",
            "Load it with `repertory.core.checkpoint.load(folder)`, or apply it: `repertory predict FOLDER INPUT`.",
            "",
        ]
    )


def paper_card(card: Card, study: type[Study], results: Sequence[Result]) -> str:
    """The text of README.md for a paper: its claims with the recorded verdicts, the method's means as model-index.

    Args:
        card: of the paper.
        study: declares arms and metrics.
        results: recorded ones, laptop scale first.
    """
    evaluated = [
        _evaluated(card, study, f"{result.data}, {result.scale}", name, statistics.fmean(values))
        for result in results
        for name, values in _of_method(study, result).items()
    ]
    head = ModelCardData(
        model_name=f"repertory-{card.id}",
        eval_results=evaluated or None,
        license=_license(),
        library_name="repertory",
        language=["en", "zh"],
        tags=_tags(card),
    )
    places = [f"{result.data}, {result.scale}" for result in results]
    rows = [
        f"| {claim.en} | {' | '.join(result.verdicts[k].word for result in results)} |"
        for k, claim in enumerate(card.claim)
    ]
    extra = f"[{card.extra}]" if card.extra else ""
    return "\n".join(
        [
            f"---\n{head.to_yaml()}\n---\n",
            *_about(card),
            "## Claims, tested\n",
            f"| claim | {' | '.join(places)} |",
            f"| --- |{' --- |' * len(places)}",
            *rows,
            "",
            "The model-index holds means of the method over seeds. A verdict speaks for its data and scale alone.\n",
            f"## Use\n\n```bash\npip install 'repertory{extra}'\nrepertory run {card.id}\n```\n",
            f"```python\n{card.usage.strip()}\n```",
            "",
        ]
    )


def _of_method(study: type[Study], result: Result) -> dict[str, list[float]]:
    """Metric -> finite values of the method's trials."""
    trials = result.seen.get(study.method, {}).values()
    names = dict.fromkeys(name for trial in trials for name in trial)
    found = {name: [trial[name] for trial in trials if math.isfinite(trial.get(name, math.nan))] for name in names}
    return {name: values for name, values in found.items() if values}


def _evaluated(card: Card, study: type[Study], data: str, name: str, value: float) -> EvalResult:
    """One entry of the model-index; the hub takes finite numbers only."""
    metric = find_metric(study.metrics, name)
    unit = f", {metric.unit}" if metric and metric.unit else ""
    return EvalResult(
        task_type=TASKS.get(card.topic, "other"), dataset_type=data, dataset_name=data, metric_type=name,
        metric_value=round(value, 4), metric_name=f"{metric.en}{unit}" if metric else name,
    )  # fmt: skip


def _about(card: Card) -> list[str]:
    """Title, authors, links and both summaries."""
    links = [f"[arXiv:{card.arxiv}](https://arxiv.org/abs/{card.arxiv})"] if card.arxiv else []
    links += [f"[the authors' code](https://github.com/{card.code})"] if card.code else []
    return [
        f"# {card.id}: {card.title}\n",
        f"{', '.join(card.authors)}; {card.venue} {card.year}. {' · '.join(links)}\n",
        f"{card.summary['en']}\n",
        f"{card.summary['zh']}\n",
    ]


def _tags(card: Card) -> list[str]:
    return [card.id, card.topic, *(["arxiv:" + card.arxiv] if card.arxiv else [])]


def _license() -> str:
    return metadata("repertory")["License-Expression"].lower()
