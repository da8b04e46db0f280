"""The API reference, made from docstrings by pdoc: an optional dependency, since it imports every paper."""

from __future__ import annotations

import re
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

from repertory import catalog
from repertory.core.problem import Problem, require

MODULES = (
    "repertory", "repertory.core.card", "repertory.core.settings", "repertory.core.study", "repertory.core.training",
    "repertory.core.loops", "repertory.core.problem", "repertory.verdicts.judge", "repertory.verdicts.decisions",
    "repertory.verdicts.sequential", "repertory.verdicts.results", "repertory.contract",
)  # fmt: skip
"""What others write against, beside the public names of each paper."""


def reference() -> dict[str, str]:
    """Path below `api/` -> content of its files.

    Raises:
        Problem: pdoc is not installed.
    """
    pdoc = require("pdoc", "site")
    modules = [*MODULES, *_importable()]
    alone = [word for module in modules for word in (module, rf"!{re.escape(module)}\..+")]  # without what is below it
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pdoc.render.configure(docformat="google", show_source=False, footer_text="repertory")
        pdoc.pdoc(*alone, output_directory=Path(folder))
        return {
            path.relative_to(folder).as_posix(): path.read_text(encoding="utf-8")
            for path in sorted(Path(folder).rglob("*"))
            if path.is_file()
        }


def _importable() -> Iterator[str]:
    """The packages of the papers whose optional dependencies are installed."""
    for paper, package in catalog.packages().items():
        try:
            catalog.load(paper)
        except Problem:
            continue
        yield package
