"""What machines read: index.json, a ClaimReview of schema.org for each claim, badges, BibTeX."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

from markupsafe import escape

from repertory import __version__
from repertory.core.card import Card, Claim, Published
from repertory.reports.views import SIGNS, counts_of
from repertory.verdicts.decisions import Finding, Word
from repertory.verdicts.judge import Verdict
from repertory.verdicts.results import Result

RATING: dict[Word, int] = {"holds": 5, "undecided": 3, "fails": 1}
"""What a verdict is on the scale of ClaimReview, from 1 (false) to 5 (true)."""
COLOURS: dict[Word, str] = {"holds": "#17735a", "undecided": "#8a6100", "fails": "#bb3524", "not tested": "#66707b"}


def article(card: Card) -> dict[str, Any]:
    """A paper as ScholarlyArticle."""
    found: dict[str, Any] = {
        "@context": "https://schema.org",
        "@type": "ScholarlyArticle",
        "name": card.title,
        "author": [{"@type": "Person", "name": name} for name in card.authors],
        "datePublished": str(card.year),
        "isPartOf": {"@type": "PublicationVolume", "name": card.venue},
        "keywords": list(card.keywords),
        "abstract": card.summary.en,
    }
    if card.arxiv:
        found["sameAs"] = f"https://arxiv.org/abs/{card.arxiv}"
    return found


def claim_review(card: Card, claim: Claim, verdicts: Sequence[tuple[Result, Verdict]], url: str) -> dict[str, Any]:
    """A claim with all its verdicts as ClaimReview; `reviewRating` is that of the first tested result.

    Args:
        card: of the paper.
        claim: one of its claims.
        verdicts: results, laptop scale first, with the verdict on this claim.
        url: where the site will stand, with a slash at its end; "" for relative addresses.
    """
    rated = next(((result, verdict) for result, verdict in verdicts if verdict.word in RATING), None)
    review: dict[str, Any] = {
        "@context": "https://schema.org",
        "@type": "ClaimReview",
        "url": f"{url or '../../'}en/papers/{card.id}.html#{claim.id}",
        "claimReviewed": claim.en,
        "inLanguage": "en",
        "author": {"@type": "Organization", "name": "repertory", "softwareVersion": __version__},
        "itemReviewed": {"@type": "Claim", "name": claim.en, "appearance": article(card)},
    }
    if rated:
        result, verdict = rated
        review["datePublished"] = result.date[:10]
        review["reviewRating"] = {
            "@type": "Rating",
            "ratingValue": RATING[verdict.word],
            "bestRating": 5,
            "worstRating": 1,
            "alternateName": verdict.sentence,
        }
    return {**review, "repertory": claim_entry(card, claim, verdicts, url)}


def claim_entry(card: Card, claim: Claim, verdicts: Sequence[tuple[Result, Verdict]], url: str = "") -> dict[str, Any]:
    """A claim with published figures and all verdicts, estimates and intervals."""
    return {
        "paper": card.id,
        "claim": claim.id,
        "text": {"en": claim.en, "zh": claim.zh},
        "published": [_figure(figure) for figure in claim.published],
        "verdicts": [verdict_entry(verdict, result) for result, verdict in verdicts],
        "json": f"{url}claims/{card.id}/{claim.id}.json",
        "badge": f"{url}badges/{card.id}/{claim.id}.svg",
    }


def _figure(figure: Published) -> dict[str, Any]:
    return figure.model_dump(include={"data", "metric", "arm", "value", "std", "source"}, exclude_none=True)


def verdict_entry(verdict: Verdict, result: Result) -> dict[str, Any]:
    """One verdict with its tests."""
    return {
        "verdict": verdict.word,
        "sentence": verdict.sentence,
        "scale": result.scale,
        "data": result.data,
        "date": result.date[:10],
        "commit": result.commit,
        "tests": [_test(finding) for finding in verdict.findings],
    }


def _test(finding: Finding) -> dict[str, Any]:
    """Infinite ends and absent figures are null."""
    numbers = {"estimate": finding.estimate, "low": finding.low, "high": finding.high, "p": finding.p}
    return {
        "label": finding.label,
        "verdict": finding.word,
        **{name: value if math.isfinite(value) else None for name, value in numbers.items()},
        "n": finding.n,
        "accepted": [end if math.isfinite(end) else None for end in finding.accepted],
        "least": finding.least,
        "method": finding.method,
        "reason": finding.reason,
    }


def index_json(papers: Sequence[tuple[Card, Sequence[Result]]], url: str) -> dict[str, Any]:
    """All papers with results and claims."""
    return {
        "generator": f"repertory {__version__}",
        "papers": [
            {
                **card.model_dump(mode="json", include={"id", "title", "authors", "year", "venue", "arxiv", "topic"}),
                "fidelity": card.fidelity,
                "minutes": card.minutes,
                "page": {lang: f"{url}{lang}/papers/{card.id}.html" for lang in ("en", "zh")},
                "results": [
                    {
                        "scale": result.scale,
                        "data": result.data,
                        "date": result.date[:10],
                        "verdicts": counts_of(result.verdicts),
                    }
                    for result in results
                ],
                "claims": [
                    claim_entry(card, claim, [(result, result.verdicts[k]) for result in results], url)
                    for k, claim in enumerate(card.claim)
                ],
            }
            for card, results in papers
        ],
    }


def badge(verdict: Verdict) -> str:
    """The verdict on a claim as a picture for the README of its authors; its shape says it without colour."""
    left, right = "repertory", f"{SIGNS[verdict.word]} {verdict.sentence}"
    first, second = 12 + 6.3 * len(left), 12 + 6.3 * len(right)
    colour, said = COLOURS[verdict.word], escape(f"{left}: {verdict.sentence}")
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{first + second:.0f}" height="20" role="img" '
        f'aria-label="{said}"><title>{said}</title>'
        f'<rect width="{first + second:.0f}" height="20" rx="3" fill="#30363d"/>'
        f'<path d="M{first:.0f} 0h{second - 3:.0f}a3 3 0 0 1 3 3v14a3 3 0 0 1-3 3h-{second - 3:.0f}z" fill="{colour}"/>'
        '<g fill="#fff" font-family="Verdana,DejaVu Sans,sans-serif" font-size="11">'
        f'<text x="6" y="14" textLength="{first - 12:.0f}">{left}</text>'
        f'<text x="{first + 6:.0f}" y="14" textLength="{second - 12:.0f}">{escape(right)}</text></g></svg>\n'
    )


def bibtex(card: Card) -> str:
    """The paper as BibTeX."""
    last = re.sub(r"\W", "", card.authors[0].split()[-1].lower())
    lines = [
        f"author = {{{' and '.join(card.authors)}}}",
        f"title = {{{{{card.title}}}}}",
        f"booktitle = {{{card.venue}}}",
        f"year = {{{card.year}}}",
    ]
    if card.arxiv:
        lines += [f"eprint = {{{card.arxiv}}}", "archiveprefix = {arXiv}"]
    kind = "misc" if card.venue.startswith("arXiv") else "inproceedings"
    if kind == "misc":
        lines.remove(f"booktitle = {{{card.venue}}}")
    return f"@{kind}{{{last}{card.year}{card.id.replace('_', '')},\n  " + ",\n  ".join(lines) + "\n}"
