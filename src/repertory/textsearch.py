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
LEAST = 0.15
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
            fields = [" ".join(tokens(text)) for text in _fields(card).values()]
            self._base.execute(f"INSERT INTO cards VALUES ({', '.join('?' * len(WEIGHTS))})", fields)
            self._words.update(word for text in fields for word in text.split())
            self._papers.append(card.id)

    def search(self, query: str) -> list[tuple[str, float]]:
        """Identifiers that match, best first, with scores in (0, 1] relative to the best one."""
        found = self._ranked([phrase for part in _parts(query) for phrase in self._phrases(part)])
        return [(paper, score / found[0][1]) for paper, score in found if score >= LEAST * found[0][1]]

    def related(self, card: Card) -> list[tuple[str, float]]:
        """Other papers with the same keywords, topic or words of the title, with scores relative to the card's own."""
        words = dict.fromkeys(" ".join(tokens(text)) for text in (*card.keywords, card.topic, *card.title.split()))
        found = self._ranked([word for word in words if word])
        own = dict(found).get(card.id, 0.0)
        return [(paper, min(1.0, score / own)) for paper, score in found if paper != card.id and score >= RELATED * own]

    def _phrases(self, part: list[str]) -> Iterator[str]:
        """A run of tokens as a phrase, and each token by itself; what occurs nowhere is corrected."""
        known = [token for word in part if (token := self._known(word))]
        if len(known) > 1:
            yield " ".join(known)
        yield from known

    def _known(self, word: str) -> str:
        """The word, if it or a longer one occurs; else the closest word that does; "" if none is close."""
        if self._ranked([word]):
            return word
        close = difflib.get_close_matches(word, self._words, n=1, cutoff=CLOSE) if word.isascii() else []
        return close[0] if close else ""

    def _ranked(self, phrases: list[str]) -> list[tuple[str, float]]:
        if not phrases:
            return []
        # A star: the last word may go on ("hyper" finds hypergraphs), from three letters on.
        terms = [f'"{p}"' + (" *" if not p.isascii() or len(p) > 2 else "") for p in phrases]
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
    return [token for part in _parts(text, whole=True) for token in part]


def _parts(text: str, whole: bool = False) -> list[list[str]]:
    """Tokens of each run of one script: neighbours in a run belong together. `whole`: for the index, see `tokens`."""
    plain = unicodedata.normalize("NFKC", text).lower()
    parts = []
    for run in re.findall(r"[\u3400-\u9fff]+|[^\u3400-\u9fff]+", plain):
        if "\u3400" <= run[0] <= "\u9fff":
            pairs = [run[i : i + 2] for i in range(len(run) - 1)]
            parts.append([*pairs, run[-1]] if whole or not pairs else pairs)
        else:
            parts.append([word for word in re.findall(r"[^\W_]+", run) if word not in STOP_WORDS])
    return parts


def _fields(card: Card) -> dict[str, str]:
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
