"""The API reference: a page for each paper, with its docstrings, and nothing from outside."""

from __future__ import annotations

import re
import sys

import pytest

from repertory import catalog
from repertory.core.problem import Problem
from repertory.reports.site import build
from repertory.reports.site.api import reference
from repertory.verdicts.results import Result


def test_without_pdoc_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pdoc", None)
    with pytest.raises(Problem, match=r"needs the package pdoc") as refused:
        reference()
    assert refused.value.remedy == "pip install 'repertory[site]'"


def test_the_reference_has_the_public_names(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pdoc", reason="pip install 'repertory[site]'")
    monkeypatch.setattr(catalog, "packages", lambda: {"emo": "repertory.papers.emo"})
    made = reference()
    assert {"repertory.html", "repertory/core/card.html", "repertory/papers/emo.html"} < made.keys()
    assert "repertory/papers/emo/model.html" not in made
    assert "expansion" in made["repertory/papers/emo.html"]
    for name, text in made.items():
        assert not re.search(r"""<(script|link|img)[^>]*(src|href)=["']?https?:""", text), name


def test_modules_are_listed_in_both_languages(results: dict[str, list[Result]]) -> None:
    made = build.pages([catalog.card("emo")], results, api=["repertory", "repertory.papers.emo"])
    for lang in ("en", "zh"):
        assert 'href="../api/repertory/papers/emo.html"' in made[f"{lang}/api.html"]
        assert 'href="../api.html"' in made[f"{lang}/papers/emo.html"]
