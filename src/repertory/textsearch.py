"""Full-text search over cards, in English and Chinese: an index in memory, built with SQLite's FTS5.

FTS5 gives the tokens, the stems of English words (Porter) and the ranking (BM25 with a weight for each field).
Chinese is indexed as pairs of characters, since it has no spaces and FTS5's trigrams miss words of two characters.
A word that occurs nowhere is replaced by the closest one that does.
"""

from __future__ import annotations

import difflib
import re
import sqlite3
import unicodedata
from collections.abc import Iterable, Iterator

from repertory.core.card import Card
from repertory.core.problem import Problem

WEIGHTS = {
    "id": 10.0, "keywords": 8.0, "arxiv": 8.0, "title": 6.0, "venue": 6.0, "code": 6.0, "authors": 5.0, "topic": 5.0,
    "clause": 4.0, "summary": 2.0, "claims": 1.0,
}  # fmt: skip
"""What a match in each field counts."""
LEAST = 0.25
"""Weaker matches are cut off; a share of the best match's score."""
RELATED = 0.05
"""The same for related papers: a share of the score that a paper has with itself."""
CLOSE = 0.8
"""Least similarity (difflib's ratio) of a word and its correction."""
STOP_WORDS = frozenset([
    "a", "an", "and", "any", "are", "as", "at", "be", "by", "do", "for", "from", "has", "have", "how", "in", "into",
    "is", "it", "its", "no", "not", "of", "on", "or", "such", "than", "that", "the", "their", "them", "then", "they",
    "this", "to", "what", "when", "which", "who", "with",
])  # fmt: skip


class Index:
    """Cards by their words.

    Raises:
        Problem: SQLite was built without FTS5.
    """

    def __init__(self, cards: Iterable[Card]) -> None:
        self._base = sqlite3.connect(":memory:", check_same_thread=False)
        columns = ", ".join(f'"{field}"' for field in WEIGHTS)
        try:
            self._base.execute(f"CREATE VIRTUAL TABLE cards USING fts5({columns}, tokenize = 'porter unicode61')")
        except sqlite3.OperationalError as error:
            raise Problem(
                f"this Python cannot search: {error}",
                f"SQLite {sqlite3.sqlite_version}",
                "use a Python whose sqlite3 has FTS5, as those of python.org, conda and Debian have; `repertory list` "
                "needs none",
            ) from error
        self._words: set[str] = set()
        self._papers: list[str] = []
        for card in cards:
            texts = [" ".join(tokens(text)) for text in fields(card).values()]
            self._base.execute(f"INSERT INTO cards VALUES ({', '.join('?' * len(WEIGHTS))})", texts)
            self._words.update(word for text in texts for word in text.split())
            self._papers.append(card.id)

    def search(self, query: str) -> list[tuple[str, float]]:
        """Identifiers that match, best first, with scores in (0, 1] relative to the best one."""
        found = self._ranked([term for run in _runs(query) for term in self._terms(run)])
        return [(paper, score / found[0][1]) for paper, score in found if score >= LEAST * found[0][1]]

    def related(self, card: Card) -> list[tuple[str, float]]:
        """Other papers with the same keywords, topic or words of the title, with scores relative to the card's own."""
        words = dict.fromkeys(" ".join(tokens(text)) for text in (*card.keywords, card.topic, *card.title.split()))
        found = self._ranked([f'"{word}"' for word in words if word])
        own = dict(found).get(card.id, 0.0)
        return [(paper, min(1.0, score / own)) for paper, score in found if paper != card.id and score >= RELATED * own]

    def _terms(self, run: list[str]) -> Iterator[str]:
        """A run of tokens as a phrase of FTS5, and each token by itself."""
        if len(run) > 1:
            yield f'"{" ".join(run)}"'
        yield from filter(None, map(self._term, run))

    def _term(self, word: str) -> str:
        """A word as it is, or as the beginning of others, or the closest one that occurs; "" if none does."""
        exact, begins = f'"{word}"', f'"{word}" *'
        chinese = not word.isascii()
        if self._ranked([exact]) and not (chinese and len(word) == 1):
            return exact
        if (chinese or len(word) > 2) and self._ranked([begins]):
            return begins
        close = [] if chinese else difflib.get_close_matches(word, self._words, n=1, cutoff=CLOSE)
        return f'"{close[0]}"' if close else ""

    def _ranked(self, terms: list[str]) -> list[tuple[str, float]]:
        """Papers that match any of the terms, best first, with BM25 scores above 0."""
        if not terms:
            return []
        rank = f"bm25(cards, {', '.join(map(str, WEIGHTS.values()))})"  # the lower, the better
        rows = self._base.execute(
            f"SELECT rowid, {rank} AS rank FROM cards WHERE cards MATCH ? ORDER BY rank, rowid", (" OR ".join(terms),)
        )
        return [(self._papers[row - 1], -rank) for row, rank in rows]


def tokens(text: str) -> list[str]:
    """Words and numbers in lower case, without function words; of Chinese, the pairs of characters.

    The last character of a Chinese run stands by itself, so that a single character is found wherever it is.

    Example:
        >>> tokens("The GNN 图神经网络")
        ['gnn', '图神', '神经', '经网', '网络', '络']
    """
    return [token for run in _runs(text, ends=True) for token in run]


def _runs(text: str, ends: bool = False) -> list[list[str]]:
    """Tokens of each run of one script; `ends`: with the last character of a Chinese run."""
    plain = unicodedata.normalize("NFKC", text).lower()
    runs = []
    for run in re.findall(r"[\u3400-\u9fff]+|[^\u3400-\u9fff]+", plain):
        if "\u3400" <= run[0] <= "\u9fff":
            pairs = [run[i : i + 2] for i in range(len(run) - 1)]
            runs.append([*pairs, run[-1]] if ends or not pairs else pairs)
        else:
            runs.append([word for word in re.findall(r"[^\W_]+", run) if word not in STOP_WORDS])
    return runs


def fields(card: Card) -> dict[str, str]:
    """The words of each field; keywords and names stand as they are, both languages side by side."""
    return {
        "id": card.id,
        "keywords": " ".join(card.keywords),
        "arxiv": card.arxiv,
        "title": card.title,
        "venue": f"{card.venue} {card.year}",
        "code": card.code,
        "authors": " ".join(card.authors),
        "topic": card.topic,
        "clause": f"{card.clause.en} {card.clause.zh}",
        "summary": f"{card.summary.en} {card.summary.zh}",
        "claims": " ".join(f"{claim.en} {claim.zh}" for claim in card.claim),
    }
