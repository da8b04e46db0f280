"""The search index of the site: the tokens of `repertory search`, each with the papers that it finds and their scores.

The browser only adds scores up, so the file also works from `file://`, where pages may not fetch anything.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter, defaultdict
from collections.abc import Sequence

from repertory.core.card import Card
from repertory.textsearch import LEAST, STOP_WORDS, WEIGHTS, fields, tokens

K, B = 1.2, 0.75
"""Constants of BM25, as in SQLite's FTS5."""
ENDINGS = re.compile(r"(ations?|ings?|ions?|ies|ied|ed|es|s|e|y)$")
"""Endings of English words that search.js cuts off too."""


def stem(word: str) -> str:
    """An English word without its ending.

    Example:
        >>> stem("clustering"), stem("clusters"), stem("图神"), stem("resnet50")
        ('cluster', 'cluster', '图神', 'resnet50')
    """
    if len(word) < 5 or not re.fullmatch("[a-z]+", word):
        return word
    cut = ENDINGS.sub("", word)
    return cut if len(cut) >= 3 else word


def index(cards: Sequence[Card]) -> dict[str, object]:
    """{"papers": identifiers, "words": token -> [paper, score, paper, score, ...], "least": share of the best score}.

    Scores are BM25 with the weights of the fields, as integers.
    """
    weighted, lengths = [], []
    for card in cards:
        counts: defaultdict[str, float] = defaultdict(float)
        length = 0
        for field, text in fields(card).items():
            words = [stem(token) for token in tokens(text)]
            length += len(words)
            for word, count in Counter(words).items():
                counts[word] += count * WEIGHTS[field]
        weighted.append(counts)
        lengths.append(length)
    mean = sum(lengths) / len(lengths)
    held = Counter(word for counts in weighted for word in counts)
    found: dict[str, list[int]] = {}
    for paper, (counts, length) in enumerate(zip(weighted, lengths, strict=True)):
        for word, weight in counts.items():
            rare = math.log(1 + (len(cards) - held[word] + 0.5) / (held[word] + 0.5))
            score = rare * weight * (K + 1) / (weight + K * (1 - B + B * length / mean))
            found.setdefault(word, []).extend((paper, max(1, round(100 * score))))
    return {"papers": [card.id for card in cards], "words": dict(sorted(found.items())), "least": LEAST}


def index_script(cards: Sequence[Card]) -> str:
    """The index as a script that sets `repertoryIndex`."""
    return f"window.repertoryIndex = {json.dumps(index(cards), ensure_ascii=False, separators=(',', ':'))};\n"


def search_script(source: str) -> str:
    """search.js with the function words that it leaves out."""
    return source.replace("STOP_WORDS", " ".join(sorted(STOP_WORDS)))
