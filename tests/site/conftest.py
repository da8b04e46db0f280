"""The site of all papers, made once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest

from repertory import catalog
from repertory.reports.site import build
from repertory.reports.site.records import recorded_results
from repertory.verdicts.results import Result


@pytest.fixture(scope="session")
def results() -> Mapping[str, Sequence[Result]]:
    return recorded_results()


@pytest.fixture(scope="session")
def made(results: Mapping[str, Sequence[Result]]) -> dict[str, str]:
    """Path -> content of every file."""
    return build.pages(catalog.cards(built_in=True), results)
