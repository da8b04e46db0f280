"""A paper's method on its sample, kept to look at: what `sample`, `train` and `predict` give."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image
from rich.console import Console

from repertory.core.files import json_text, scratch_folder, write_bytes, write_text
from repertory.execution import models
from repertory.execution.experiment import Experiment
from repertory.execution.provenance import commit, now

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FOLDER = "pictures"
"""In the folder of recorded results."""
ROWS, CELL, LINES, FIGURES = 5, 60, 12, 2
"""Rows of the table, characters of a cell, lines of the text, and pictures that are kept."""
HELD_OUT = ("test", "val")
"""Folders of a sample that the method has not seen; where there is neither, the whole sample is predicted."""
WIDTH = 1100
"""Pixels of a picture, at most."""


def show_off(paper: str, folder: Path, console: Console | None = None) -> list[Path]:
    """Train the method on its sample at laptop scale, predict what is held out, keep table, text and pictures.

    Args:
        paper: identifier.
        folder: of the recorded results.
        console: for progress.

    Returns:
        What was written, PAPER.json first.
    """
    with scratch_folder() as scratch:
        experiment = Experiment(paper, "laptop", out=scratch / "model")
        seed = experiment.config.first_seed
        experiment.train(seed=seed, console=console)
        (scratch / "sample").mkdir()
        experiment.study_in(scratch).write_sample(scratch / "sample")
        part = next((name for name in HELD_OUT if (scratch / "sample" / name).is_dir()), "")
        prediction = models.predict(scratch / "model", scratch / "sample" / part, scratch / "answers", console)
        written = []
        for name, figure in list(prediction.figures.items())[:FIGURES]:
            written.append(folder / FOLDER / f"{paper}.{name}.webp")
            write_bytes(written[-1], _webp(figure))
    content = {
        "paper": paper, "date": now(), "commit": commit(), "seed": seed, "scale": "laptop",
        "data": experiment.study.sample_name, "part": part,
        "text": "\n".join(prediction.text.splitlines()[:LINES]),
        "rows": len(prediction.table),
        "table": [{name: _plain(value) for name, value in row.items()} for row in prediction.table[:ROWS]],
        "pictures": [path.name for path in written],
    }  # fmt: skip
    about = folder / FOLDER / f"{paper}.json"
    write_text(about, json_text(content) + "\n")
    return [about, *written]


def _plain(value: Any) -> str:
    """A cell of the table as people read it."""
    if isinstance(value, float):
        return f"{value:.4g}" if math.isfinite(value) else ""
    text = str(value)
    return text if len(text) <= CELL else f"{text[: CELL - 1]}…"


def _webp(figure: Figure) -> bytes:
    stream = io.BytesIO()
    figure.savefig(stream, dpi=110, bbox_inches="tight")
    picture = Image.open(stream).convert("RGB")
    picture.thumbnail((WIDTH, 4 * WIDTH))
    packed = io.BytesIO()
    picture.save(packed, "WEBP", quality=82, method=6)
    return packed.getvalue()
