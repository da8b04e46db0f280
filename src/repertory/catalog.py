"""What is in the repertory: built-in papers, and those that other packages register.

Listing, showing and searching read cards only; a paper's code is imported when it is run.
Another package registers a paper under the entry-point group "repertory.papers": name = identifier,
value = import path of the paper's package, which holds card.toml and study.py.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib
import importlib.metadata
import importlib.util
import json
import math
import re
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, cast

from pydantic import ValidationError

import repertory.papers as builtin
from repertory.core.card import Card, read_card
from repertory.core.files import cache_dir, write_text
from repertory.core.problem import Problem, suggest

if TYPE_CHECKING:
    from repertory.core.settings import Design
    from repertory.core.study import Study

ENTRY_POINTS = "repertory.papers"


@functools.cache
def packages() -> dict[str, str]:
    """Identifier -> import path of every paper, built-in ones first.

    Raises:
        Problem: two packages register the same identifier.
    """
    (root,) = builtin.__path__
    found = {
        card.parent.name: f"{builtin.__name__}.{card.parent.name}" for card in sorted(Path(root).glob("*/card.toml"))
    }
    for entry in importlib.metadata.entry_points(group=ENTRY_POINTS):
        if found.get(entry.name, entry.value) != entry.value:
            raise Problem(
                f"two packages register the paper {entry.name!r}",
                f"{found[entry.name]} and {entry.value}",
                "uninstall one of them",
            )
        found[entry.name] = entry.value
    return found


def folder(paper: str) -> Path:
    """The folder of a paper's package.

    Raises:
        Problem: no such paper (names the closest ones), or its package is broken.
    """
    known = packages()
    if paper not in known:
        remedy = suggest(paper, known, "") or "`repertory list` names them all"
        raise Problem(f"no paper is called {paper!r}", "the repertory", remedy)
    if known[paper].startswith(f"{builtin.__name__}."):
        return Path(builtin.__path__[0]) / paper
    try:
        spec = importlib.util.find_spec(known[paper])
    except ModuleNotFoundError:  # of the package around it
        spec = None
    if spec is None or not spec.origin:
        raise Problem(f"the package of {paper} is not importable", known[paper], "reinstall the package that brings it")
    return Path(spec.origin).parent


@functools.cache
def card(paper: str) -> Card:
    """The card of a paper. Raises `Problem` for an unknown paper or a card that is not valid."""
    path = folder(paper) / "card.toml"
    if not path.exists():
        return read_card(path)  # says what is wrong
    # Parsing TOML takes most of the time of `repertory list`, so the parsed form is kept. Its name changes with
    # the card and with card.py: an old form is never read.
    sources = (path, Path(__file__).parent / "core" / "card.py")
    stamps = [(str(p), p.stat().st_mtime_ns, p.stat().st_size) for p in sources]
    key = hashlib.sha256(repr(stamps).encode()).hexdigest()[:16]
    kept = cache_dir() / "cards" / f"{paper}-{key}.json"
    with contextlib.suppress(OSError, ValidationError):
        return Card.model_validate_json(kept.read_bytes())
    found = read_card(path)
    if found.id != paper:
        raise Problem(f"the card's id is {found.id!r}", path, f"set id = {paper!r}")
    with contextlib.suppress(OSError):
        write_text(kept, found.model_dump_json())
    return found


def cards(built_in: bool = False) -> list[Card]:
    """All cards, or those of this package alone, by topic and identifier."""
    papers = [p for p, where in packages().items() if not built_in or where.startswith(f"{builtin.__name__}.")]
    return sorted((card(paper) for paper in papers), key=lambda c: (c.topic, c.id))


@functools.cache
def design(paper: str) -> type[Design[Any]]:
    """The arms, settings and scales of a paper: its `settings.py` alone, which imports no torch.

    A paper without one is loaded whole.

    Raises:
        Problem: unknown paper, or no Design for it.
    """
    where = folder(paper)
    if not (where / "settings.py").exists():
        return load(paper)
    found = _declared(_import_alone(packages()[paper], "settings"), paper)
    if found is None:
        raise Problem(f"no Design with paper = {paper!r}", where / "settings.py", "define it; see CONTRIBUTING")
    return found


def _import_alone(package: str, module: str) -> ModuleType:
    """A module of a package without what the package's own __init__ imports: the method, and torch with it.

    An empty package stands in for it meanwhile. Nothing imported is kept: the package will import its own.
    """
    if package in sys.modules:
        return importlib.import_module(f"{package}.{module}")
    spec = importlib.util.find_spec(package)
    assert spec is not None, "`folder` has found it"
    sys.modules[package] = importlib.util.module_from_spec(spec)
    try:
        return importlib.import_module(f"{package}.{module}")
    finally:
        for name in [n for n in sys.modules if n == package or n.startswith(f"{package}.")]:
            del sys.modules[name]


def _declared(module: ModuleType, paper: str) -> type | None:
    """The class that a module defines for a paper."""
    for found in vars(module).values():
        if isinstance(found, type) and found.__module__ == module.__name__ and getattr(found, "paper", "") == paper:
            return found
    return None


def load(paper: str) -> type[Study]:
    """The study class of a paper; imports its code.

    Raises:
        Problem: unknown paper, or a study.py without a Study for it.
    """
    where = folder(paper)
    if (where / "study.py").exists():
        module = importlib.import_module(f"{packages()[paper]}.study")
        if found := _declared(module, paper):
            return cast("type[Study]", found)
    raise Problem(f"no Study with paper = {paper!r}", where / "study.py", "define it; see CONTRIBUTING")


def recorded(paper: str = "") -> dict[str, list[dict[str, Any]]]:
    """Recorded results by paper, laptop scale first: what `repertory record` wrote; of one paper, or of all.

    They lie in results/ of the source checkout, and travel inside the installed package.
    """
    here = Path(__file__).parent
    root = next((d for d in (here / "results", here.parents[1] / "results") if d.is_dir()), here)
    found: dict[str, list[dict[str, Any]]] = {}
    for path in sorted(root.glob("*.json"), key=lambda p: p.name.count(".")):
        if paper and path.name.partition(".")[0] != paper:
            continue
        content = json.loads(path.read_text(encoding="utf-8"))
        found.setdefault(content["paper"], []).append(content)
    return found


# -- search -------------------------------------------------------------------------------------


def search(query: str, limit: int = 10) -> list[tuple[Card, float]]:
    """Papers by English or Chinese words, best first, with scores in (0, 1].

    Cosine similarity of TF-IDF vectors of words and character n-grams over title, authors, topic, claims and
    both summaries: misspelt and inflected words still match, and Chinese needs no word segmentation.
    (scikit-learn has all of it, but takes longer to import than this takes to run.)
    """
    vectors = _vectors()
    asked = _weigh(_grams(query), _rarity())
    scored = [(card(paper), _cosine(asked, vector)) for paper, vector in vectors.items()]
    return sorted((s for s in scored if s[1] > 0.02), key=lambda s: -s[1])[:limit]


def related(paper: str, limit: int = 3) -> list[tuple[Card, float]]:
    """The papers whose cards are most like that of `paper`."""
    vectors = _vectors()
    scored = [(card(other), _cosine(vectors[paper], vector)) for other, vector in vectors.items() if other != paper]
    return sorted(scored, key=lambda s: -s[1])[:limit]


def _grams(text: str) -> Counter[str]:
    """Words and their 4-grams for alphabets; single characters and pairs for Chinese."""
    text = text.lower()
    grams: Counter[str] = Counter()
    for word in re.findall(r"[a-z0-9]+", text):
        if len(word) > 1:
            grams[word] += 2
            padded = f" {word} "
            grams.update(padded[i : i + 4] for i in range(len(padded) - 3))
    for run in re.findall(r"[\u3400-\u9fff]+", text):
        grams.update(run[i : i + 2] for i in range(len(run) - 1))
        grams.update(run)
    return grams


@functools.cache
def _counts() -> dict[str, Counter[str]]:
    def words(c: Card) -> str:
        claims = " ".join(f"{claim.en} {claim.zh}" for claim in c.claim)
        return (
            f"{c.id} {c.id} {c.title} {c.title} {' '.join(c.authors)} {c.topic} {c.summary.en} {c.summary.zh} {claims}"
        )

    return {c.id: _grams(words(c)) for c in cards()}


@functools.cache
def _rarity() -> dict[str, float]:
    """Inverse document frequency of each gram, smoothed."""
    counts = _counts()
    documents = Counter(gram for grams in counts.values() for gram in grams)
    return {gram: math.log((1 + len(counts)) / (1 + n)) + 1 for gram, n in documents.items()}


@functools.cache
def _vectors() -> dict[str, dict[str, float]]:
    return {paper: _weigh(grams, _rarity()) for paper, grams in _counts().items()}


def _weigh(grams: Counter[str], rarity: dict[str, float]) -> dict[str, float]:
    weights = {gram: (1 + math.log(n)) * rarity[gram] for gram, n in grams.items() if gram in rarity}
    norm = math.sqrt(sum(w * w for w in weights.values())) or 1.0
    return {gram: weight / norm for gram, weight in weights.items()}


def _cosine(a: dict[str, float], b: dict[str, float]) -> float:
    if len(a) > len(b):
        a, b = b, a
    return sum(weight * b.get(gram, 0.0) for gram, weight in a.items())
