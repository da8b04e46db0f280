"""Extension words of topics: keywords of the essays that a topic goes with."""

from __future__ import annotations

import importlib.util
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from repertory.core.problem import require

WORDS = re.compile(r"\w+(?:['’-]\w+)*")
CHINESE = re.compile(r"[\u4e00-\u9fff]")
WINDOW, DAMPING, ITERATIONS = 5, 0.85, 10


@dataclass(frozen=True)
class Knowledge:
    """Extension words, and those of each topic by number, the most frequent first."""

    words: tuple[str, ...]
    relations: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Rules:
    """What makes a word an extension word of a topic; the defaults are the published ones.

    Attributes:
        keywords: of an essay.
        candidates: words of highest count of a topic.
        share_of_word: of the occurrences of the word, the least that falls to the topic as a keyword.
        share_of_topic: of the counts of all candidates, the least that falls to the word.
        frequency: the word occurs more often.
        topics: the word is kept for more topics.
        most: words a topic.
    """

    keywords: int = 8
    candidates: int = 20
    share_of_word: float = 0.01
    share_of_topic: float = 0.01
    frequency: int = 8
    topics: int = 4
    most: int = 8


def words_of(text: str) -> list[str]:
    """Words in lower case, without punctuation; Chinese must be segmented by spaces."""
    return WORDS.findall(text.lower())


def text_rank(words: Sequence[str], skip: Collection[str], most: int) -> list[str]:
    """The keywords of a text by TextRank (Mihalcea and Tarau, 2004), the best first; ties by alphabet.

    Words within a window of 5 are linked, by as much as they are neighbours; ranks are iterated 10 times with damping
    0.85.

    Args:
        words: of the text, in order.
        skip: words that are no keywords.
        most: keywords.

    Example:
        >>> text_rank("bread and soup and bread with salt".split(), {"and", "with"}, 2)
        ['bread', 'soup']
    """
    nodes = sorted({word for word in words if word not in skip})
    place = {word: k for k, word in enumerate(nodes)}
    links = np.zeros((len(nodes), len(nodes)))
    for i, one in enumerate(words):
        for other in words[i + 1 : i + WINDOW]:
            if one in place and other in place and one != other:
                links[place[one], place[other]] += 1
                links[place[other], place[one]] += 1
    flow = links / np.maximum(links.sum(0), 1)
    rank = np.full(len(nodes), 1 / max(1, len(nodes)))
    for _ in range(ITERATIONS):
        rank = 1 - DAMPING + DAMPING * flow @ rank
    return [nodes[k] for k in np.argsort(-rank, kind="stable")[:most]]


def has_jieba() -> bool:
    """Whether jieba is installed."""
    return importlib.util.find_spec("jieba") is not None


def jieba_keywords(most: int) -> Callable[[str], list[str]]:
    """TextRank of jieba with its default parts of speech, as in the authors' code.

    Raises:
        Problem: jieba is not installed.
    """
    analyse: Any = require("jieba.analyse", "chinese")
    return lambda text: analyse.textrank(text, topK=most)


def mine(
    essays: Iterable[tuple[str, Sequence[str]]],
    topics: Sequence[str],
    stopwords: Collection[str],
    frequency: Counter[str],
    rules: Rules = Rules(),
    keywords: Callable[[str], list[str]] | None = None,
) -> Knowledge:
    """Extension words of topics.

    1. Of each essay, keywords that are neither stop words nor its topics are counted for each of its topics.
    2. Of each topic, candidates with a share of the word's occurrences, a share of the topic's counts and a frequency
       above the bounds are kept.
    3. Words kept for more topics than the bound are extension words; each topic has the most frequent of its own.

    Args:
        essays: text and topics.
        topics: the dictionary.
        stopwords: no keywords.
        frequency: occurrences of words in all texts.
        rules: the bounds.
        keywords: of a text; default: `text_rank`.
    """
    counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for text, given in essays:
        found = keywords(text) if keywords else text_rank(words_of(text), stopwords, rules.keywords)
        for topic in given:
            counts[topic].update(word for word in found if word not in stopwords and word not in given)
    kept: dict[str, list[str]] = {}
    for topic, counter in counts.items():
        best = sorted(counter.items(), key=lambda pair: (-pair[1], pair[0]))[: rules.candidates]
        total = sum(count for _, count in best)
        kept[topic] = [
            word
            for word, count in best
            if count > rules.share_of_word * frequency[word]
            and count > rules.share_of_topic * total
            and frequency[word] > rules.frequency
        ]
    spread = Counter(word for words in kept.values() for word in words)
    words = sorted(word for word, number in spread.items() if number > rules.topics)
    place = {word: k for k, word in enumerate(words)}
    relations = [[place[word] for word in kept.get(topic, ()) if word in place] for topic in topics]
    return Knowledge(tuple(words), tuple(tuple(numbers[: rules.most]) for numbers in relations))
