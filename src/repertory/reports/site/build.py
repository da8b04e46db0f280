"""From cards and results to files."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from textwrap import dedent
from typing import Any

from markupsafe import Markup
from PIL import Image

from repertory import __version__, catalog
from repertory.core.card import TOPICS, Card
from repertory.core.files import check_output, json_text, read_json, write_bytes, write_text
from repertory.core.problem import Problem
from repertory.reports import speed
from repertory.reports.curves import columns
from repertory.reports.docs import PICTURE
from repertory.reports.html import template
from repertory.reports.site import exports, searching
from repertory.reports.site.api import reference
from repertory.reports.site.pictures import ICON, TOPIC_ICONS, idea
from repertory.reports.site.records import local_runs, recorded_results
from repertory.reports.site.words import LANGUAGES, WORDS, topic_of
from repertory.reports.views import Judged, changed_settings, claim_views, counts_of, place, place_of, slug
from repertory.reports.words import duration, multiplicity_of, seeds_of
from repertory.verdicts import history
from repertory.verdicts.results import Result

MANIFEST = "site.json"
"""Names the files of a build, so that the next one removes those that are no longer made, and nothing else."""
PICTURES = "pictures"
"""Folder of what `repertory showcase` kept, among the results and on the site."""
NAVIGATION = ("index", "open", "compare", "speed", "method", "contribute")
MINUTES = (2, 5, 15, 30)
Results = Mapping[str, Sequence[Result]]


@dataclass(frozen=True)
class Built:
    """What was written."""

    folder: Path
    files: int
    size: int
    """Bytes of all files."""
    problems: tuple[Problem, ...] = ()
    """Local runs that cannot be shown, and why."""

    @property
    def home(self) -> Path:
        return self.folder / "index.html"


def build(folder: Path, runs: Path | None = None, url: str = "", api: bool = False) -> Built:
    """Write the site, and remove what an earlier build wrote and this one does not.

    Args:
        folder: absent, empty, or of an earlier build.
        runs: local runs to show beside the recorded results; None: none.
        url: where the site will stand, for search engines; "" writes relative addresses.
        api: with the API reference, which pdoc makes.

    Raises:
        Problem: a folder with files of somebody else, or one that cannot be written to.
    """
    old = _earlier(folder)
    results, problems = recorded_results(), []
    if runs is not None:
        local, problems = local_runs(runs)
        results = {paper: [*results.get(paper, ()), *local.get(paper, ())] for paper in {**results, **local}}
    if url and not url.endswith("/"):
        url += "/"
    documented = reference() if api else {}
    modules = [name.removesuffix(".html").replace("/", ".") for name in documented if name.startswith("repertory")]
    made = pages(catalog.cards(), results, url, str(runs) if runs else "", modules)
    made |= {f"api/{name}": text for name, text in documented.items()}
    shown = pictures()
    for name, text in made.items():
        write_text(folder / name, text)
    for name, path in shown.items():
        write_bytes(folder / name, path.read_bytes())
    names = made.keys() | shown.keys()
    write_text(folder / MANIFEST, json_text({"generator": "repertory", "files": sorted(names)}) + "\n")
    for name in old - names:
        (folder / name).unlink(missing_ok=True)
    size = sum(len(text.encode()) for text in made.values()) + sum(path.stat().st_size for path in shown.values())
    return Built(folder, len(names), size, tuple(problems))


def pictures() -> dict[str, Path]:
    """Path on the site -> the picture that `repertory showcase` kept."""
    return {f"{PICTURES}/{path.name}": path for path in sorted((catalog.results_folder() / PICTURES).glob("*.webp"))}


def _earlier(folder: Path) -> set[str]:
    """The files of an earlier build; none in a new or empty folder."""
    remedy = "name a new or an empty folder, or one that `repertory site` wrote"
    try:
        content = read_json(folder / MANIFEST, remedy)
    except FileNotFoundError:
        check_output(folder, empty=True, remedy=remedy)
        return set()
    inside = {
        name for name in content.get("files", []) if ".." not in Path(name).parts and not Path(name).is_absolute()
    }
    check_output(folder, remedy=remedy)
    return inside


def pages(
    cards: Sequence[Card], results: Results, url: str = "", local: str = "", api: Sequence[str] = ()
) -> dict[str, str]:
    """Path -> content of every file of the site.

    Args:
        cards: all papers.
        results: of each paper, laptop scale first.
        url: where the site will stand; "" for relative addresses.
        local: folder of the local runs among the results, as it is told on the home page.
        api: modules that `api/` will hold the reference of.
    """
    cards = sorted(cards, key=lambda card: (TOPICS.index(card.topic), card.id))
    dates = sorted(result.date[:10] for found in results.values() for result in found)
    shared = {
        "version": __version__,
        "url": url,
        "updated": dates[-1] if dates else "",
        "nav": NAVIGATION,
        "api": bool(api),
    }
    made = dict(_assets(cards))
    for lang in LANGUAGES:
        for here, name, fields in _pages(cards, results, lang, local, api):
            depth = here.count("/")
            where = {"here": here, "root": "../" * depth, "up": "../" * (depth + 1), "lang": lang, "w": WORDS[lang]}
            made[f"{lang}/{here}"] = _tidy(template(f"site/{name}").render(**shared, **where, **fields))
    made |= _for_machines(cards, results, url)
    made["index.html"] = template("site/choose.html").render(words=WORDS)
    return made


def _tidy(text: str) -> str:
    """Without the blank lines and indents that templates leave, but for those of `pre`."""
    parts = re.split(r"(<pre\b.*?</pre>)", text, flags=re.S)
    return (
        "".join(part if part.startswith("<pre") else re.sub(r"\s*\n\s*", "\n", part) for part in parts).strip() + "\n"
    )


def _pages(
    cards: Sequence[Card], results: Results, lang: str, local: str, api: Sequence[str]
) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """(path, template, fields) of every page of a language."""
    races, past = speed.read(catalog.results_folder()), history.read(catalog.results_folder())
    yield "index.html", "home.html", _home(cards, results, lang, local)
    for card in cards:
        yield f"papers/{card.id}.html", "paper.html", _paper(card, results.get(card.id, ()), past, lang)
    yield "open.html", "open.html", _open(cards, results, lang)
    yield "compare.html", "compare.html", _compare(cards, results, lang)
    yield "speed.html", "speed.html", {"speed": races, "cards": {card.id: card for card in cards}}
    yield "method.html", f"method.{lang}.html", {"shown": _shown(results, lang)}
    yield "contribute.html", f"contribute.{lang}.html", {}
    if api:
        yield "api.html", "api.html", _api(cards, api, lang)


# -- home ---------------------------------------------------------------------------------------


def _home(cards: Sequence[Card], results: Results, lang: str, local: str) -> dict[str, Any]:
    words = WORDS[lang]
    found = [result for card in cards for result in results.get(card.id, ())]
    first = [
        verdict for result in found if result.scale == "laptop" and not result.folder for verdict in result.verdicts
    ]
    rest = [verdict for result in found if result.scale != "laptop" for verdict in result.verdicts]
    claims = sum(len(card.claim) for card in cards)
    topics = [
        (topic, topic_of(topic, lang), [_card(card, results, lang) for card in cards if card.topic == topic])
        for topic in dict.fromkeys(card.topic for card in cards)
    ]
    years = sorted({card.year for card in cards}, reverse=True)
    return {
        "lead": words["lead"].format(papers=len(cards), claims=claims),
        "totals": counts_of(first) if first else {},
        "more": sum(verdict.word in ("holds", "fails", "undecided") for verdict in rest),
        "shown": _shown(results, lang),
        "local": local,
        "topics": topics,
        "icons": {topic: TOPIC_ICONS[topic] for topic, _, _ in topics},
        "filters": [
            ("topic", [(topic, title) for topic, title, _ in topics]),
            ("verdict", [(slug(word), words[word]) for word in counts_of(())]),
            ("year", [(year, year) for year in years]),
            ("fidelity", [(kind, words[kind]) for kind in ("exact", "partial", "reconstruction")]),
            ("minutes", [(limit, words["at most"].format(limit)) for limit in MINUTES]),
            ("gpu", [("no", words["gpu no"]), ("yes", words["gpu yes"])]),
        ],
    }


def _shown(results: Results, lang: str) -> Judged | None:
    """The claim whose plot stands on the home page."""
    paper, scale, claim = PICTURE
    result = next((result for result in results.get(paper, ()) if result.scale == scale), None)
    if result is None:
        return None
    views = claim_views(catalog.card(paper), [result], lang)
    return next((view.findings[0] for view in views if view.claim.id == claim), None)


def _card(card: Card, results: Results, lang: str) -> dict[str, Any]:
    found = results.get(card.id, ())
    return {
        "card": card,
        "idea": Markup(idea(card.id)),
        "venue": _venue(card),
        "words": " ".join(dict.fromkeys(slug(verdict.word) for result in found for verdict in result.verdicts)),
        "gpu": "yes" if _needs_gpu(card) else "no",
        "records": [(counts_of(result.verdicts), place_of(result, lang), result.date[:10]) for result in found],
    }


def _venue(card: Card) -> str:
    return f"{card.venue.partition(';')[0]} {card.year}"


def _needs_gpu(card: Card) -> bool:
    """Whether a claim is not tested because it takes a GPU."""
    reasons = [test.reason.en for claim in card.claim for test in claim.test if test.kind == "untested"]
    return any("GPU" in reason for reason in reasons)


# -- a paper ------------------------------------------------------------------------------------


def _paper(card: Card, results: Sequence[Result], past: Sequence[history.Entry], lang: str) -> dict[str, Any]:
    views = claim_views(card, results, lang)
    records = [
        (result, counts_of(result.verdicts), [view.findings[position] for view in views])
        for position, result in enumerate(results)
    ]
    study = _study(card)
    return {
        "card": card,
        "idea": Markup(idea(card.id)),
        "topic": topic_of(card.topic, lang),
        "article": exports.article(card),
        "install": f"pip install 'repertory[{card.extra}]'\n" if card.extra else "",
        "claims": views,
        "records": records,
        "places": [place_of(result, lang) for result in results],
        "noted": [(kind, [note for note in card.note if note.kind == kind]) for kind in ("finding", "decision")],
        "history": [(place_of(result, lang), list(_history(result, lang))) for result in results],
        "training": [(place_of(r, lang), found, r.curves) for r in results if (found := columns(r))],
        "related": [other for other, _ in catalog.related(card.id)],
        "bibtex": exports.bibtex(card),
        "tried": _tried(card),
        "earlier": _earlier_records(card, results, past, lang),
        **study,
    }


def _tried(card: Card) -> dict[str, Any]:
    """What the method said about its sample, as `repertory showcase` kept it; empty where it did not."""
    kept = catalog.results_folder() / PICTURES / f"{card.id}.json"
    if not kept.exists():
        return {}
    content = read_json(kept, "repertory showcase makes it anew")
    sizes = [(name, *Image.open(kept.with_name(name)).size) for name in content["pictures"]]
    return {**content, "date": content["date"][:10], "sizes": sizes}


def _earlier_records(
    card: Card, results: Sequence[Result], past: Sequence[history.Entry], lang: str
) -> list[tuple[str, str, str, list[Any]]]:
    """(date, place, commit, verdicts in the order of the card) of recorded runs that newer ones replaced."""
    now = {(result.scale, result.date) for result in results}
    order = [claim.id for claim in card.claim]
    return [
        (one.date[:10], place(one.data, one.scale, str(one.seeds), lang), one.commit,
         [(claim, one.verdicts[claim]) for claim in order if claim in one.verdicts])
        for one in reversed(past)
        if one.paper == card.id and (one.scale, one.date) not in now
    ]  # fmt: skip


def _study(card: Card) -> dict[str, Any]:
    """Arms, data layout and sample of a paper; arms alone where an optional dependency of it is absent."""
    try:
        study = catalog.load(card.id)
    except Problem:
        design = catalog.design(card.id)
        return {"arms": design.arms, "method": design.method, "layout": "", "sample": ""}
    return {
        "arms": study.arms,
        "method": study.method,
        "layout": dedent(study.layout).strip(),
        "sample": study.sample_name,
    }


def _history(result: Result, lang: str) -> Iterator[tuple[str, str]]:
    """(word, value) of how a result came about."""
    words = WORDS[lang]
    yield "date", result.date[:10]
    yield "seeds", seeds_of(result)
    if result.looks:
        yield "looks", ", ".join(map(str, result.looks))
    yield "computing", duration(result.seconds)
    yield "machine", result.machine
    versions = ", ".join(f"{name} {version}" for name, version in result.versions.items())
    yield "versions", f"{result.commit}; {versions}" if result.commit else versions
    yield "changed", changed_settings(result) or words["none"]
    if told := multiplicity_of(result.verdicts, lang):
        yield "multiplicity", told


# -- across papers ------------------------------------------------------------------------------


def _open(cards: Sequence[Card], results: Results, lang: str) -> dict[str, Any]:
    views = {card.id: claim_views(card, results.get(card.id, ()), lang) for card in cards}
    alike = [ones for of in views.values() for view in of for ones in view.alike if ones[0].word == "fails"]
    waiting = [
        (card, [one for view in views[card.id] for one in view.findings if one.word == "undecided"]) for card in cards
    ]
    return {
        "failing": alike,
        "fails": sum(map(len, alike)),
        "waiting": sum(len(ones) for _, ones in waiting),
        "undecided": [(card, ones) for card, ones in waiting if ones],
    }


def _compare(cards: Sequence[Card], results: Results, lang: str) -> dict[str, Any]:
    def rows(card: Card) -> list[tuple[Any, ...]]:
        found = results.get(card.id, ())
        told = [
            (counts_of(r.verdicts), place_of(r, lang), r.date[:10], [verdict.word for verdict in r.verdicts])
            for r in found
        ]
        return told or [({}, "", "", [])]

    topics = dict.fromkeys(card.topic for card in cards)
    return {
        "topics": [
            (topic, topic_of(topic, lang), [{"card": c, "rows": rows(c)} for c in cards if c.topic == topic])
            for topic in topics
        ]
    }


def _api(cards: Sequence[Card], modules: Sequence[str], lang: str) -> dict[str, Any]:
    """Modules with their first line, shared ones and those of papers apart."""
    papers = {catalog.packages()[card.id]: card for card in cards}
    shared = [name for name in modules if name not in papers]
    return {
        "shared": [(name, _address(name), (sys.modules[name].__doc__ or "").partition("\n")[0]) for name in shared],
        "of_papers": [(name, _address(name), card.clause[lang]) for name, card in papers.items() if name in modules],
    }


def _address(module: str) -> str:
    return f"api/{module.replace('.', '/')}.html"


# -- other files --------------------------------------------------------------------------------


def _assets(cards: Sequence[Card]) -> Iterator[tuple[str, str]]:
    folder = files("repertory.reports") / "templates"
    read = {name: (folder / name).read_text(encoding="utf-8") for name in ("look.css", "site/site.css", "site/site.js")}
    yield "assets/site.css", read["look.css"] + read["site/site.css"]
    yield "assets/site.js", read["site/site.js"]
    yield "assets/search.js", searching.search_script((folder / "site/search.js").read_text(encoding="utf-8"))
    yield "assets/search-index.js", searching.index_script(cards)
    yield "assets/icon.svg", ICON


def _for_machines(cards: Sequence[Card], results: Results, url: str) -> dict[str, str]:
    made = {
        "index.json": json_text(exports.index_json([(card, results.get(card.id, ())) for card in cards], url)) + "\n"
    }
    for card in cards:
        for k, claim in enumerate(card.claim):
            verdicts = [(result, result.verdicts[k]) for result in results.get(card.id, ())]
            name = f"{card.id}/{claim.id}"
            made[f"claims/{name}.json"] = json_text(exports.claim_review(card, claim, verdicts, url)) + "\n"
            if verdicts:
                tested = [verdict for _, verdict in verdicts if verdict.word != "not tested"]
                made[f"badges/{name}.svg"] = exports.badge((tested or [verdicts[0][1]])[0])
    return made
