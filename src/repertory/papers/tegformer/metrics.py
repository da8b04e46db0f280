"""What is measured of written essays: BLEU-2, diversity, novelty, topics, and a trigram model for coherence."""

from __future__ import annotations

import functools
import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier
from sklearn.preprocessing import MultiLabelBinarizer

from repertory.core.problem import require

UNITS = re.compile(r"[\u4e00-\u9fff]|[^\W_\u4e00-\u9fff]+(?:['’-][^\W_\u4e00-\u9fff]+)*|[^\w\s]")
TOP = 5


def units(text: str) -> list[str]:
    """Words in lower case, Chinese characters and punctuation signs: what n-grams are made of.

    Example:
        >>> units("The cat's 你好!")
        ['the', "cat's", '你', '好', '!']
    """
    return UNITS.findall(text.lower())


def bleu2(written: Sequence[str], reference: Sequence[str]) -> float:
    """Sentence BLEU with weights (0, 1, 0, 0): bigram precision times brevity penalty, from 0 to 1.

    No bigram in common counts as 0.1 of one; no unigram in common gives 0. As the evaluation of CTEG has it.

    Example:
        >>> round(bleu2("a b c d".split(), "a b x d".split()), 4)
        0.3333
    """
    if len(written) < 2 or not set(written) & set(reference):
        return 0.0
    found = _bleu().sentence_score(" ".join(written), [" ".join(reference)])
    return found.precisions[1] / 100 * found.bp


@functools.cache
def _bleu() -> Any:
    return require("sacrebleu", "language").metrics.BLEU(
        max_ngram_order=2, tokenize="none", smooth_method="floor", smooth_value=0.1, effective_order=True, force=True
    )


def distinct(texts: Iterable[Sequence[str]], n: int) -> float:
    """Different n-grams by all n-grams of all texts, from 0 to 1; 0 where there are none.

    Example:
        >>> distinct([["a", "b"], ["a", "c"]], 1)
        0.75
    """
    grams = [tuple(text[k : k + n]) for text in texts for k in range(len(text) - n + 1)]
    return len(set(grams)) / max(1, len(grams))


def covered(text: Sequence[str], topic: Sequence[str]) -> bool:
    """Whether the units of a topic occur in a text, one after the other."""
    size = len(topic)
    return any(list(text[k : k + size]) == list(topic) for k in range(len(text) - size + 1))


def coverage(texts: Sequence[Sequence[str]], topics: Sequence[Sequence[str]]) -> list[float]:
    """Share of the given topics that occur literally, for each text.

    Example:
        >>> coverage([["i", "like", "bread"]], [["bread", "soup"]])
        [0.5]
    """
    return [
        sum(covered(text, units(topic)) for topic in given) / len(given)
        for text, given in zip(texts, topics, strict=True)
    ]


class Novelty:
    """1 - the largest Jaccard index with a training essay that shares a topic.

    Example:
        >>> Novelty([["a", "b"], ["c"]], [["x"], ["y"]])(["a", "c"], ["x"])
        0.66...
    """

    def __init__(self, texts: Sequence[Sequence[str]], topics: Sequence[Sequence[str]]) -> None:
        self.sets = [frozenset(text) for text in texts]
        self.rows: defaultdict[str, list[int]] = defaultdict(list)
        for row, given in enumerate(topics):
            for topic in given:
                self.rows[topic].append(row)

    def __call__(self, text: Sequence[str], topics: Sequence[str]) -> float:
        own = frozenset(text)
        others = (self.sets[row] for row in {row for topic in topics for row in self.rows[topic]})
        return 1 - max((len(own & other) / max(1, len(own | other)) for other in others), default=0.0)


def _as_they_are(text: Any) -> Any:
    """The analyzer of texts that are lists already."""
    return text


class TopicJudge:
    """A logistic regression per topic on tf-idf of training essays: are the given topics among its best five?

    Args:
        texts: units of the training essays.
        topics: of each.
    """

    def __init__(self, texts: Sequence[Sequence[str]], topics: Sequence[Sequence[str]]) -> None:
        labels = MultiLabelBinarizer()
        given = labels.fit_transform(topics)
        self.names: list[str] = list(labels.classes_)
        self.tfidf = TfidfVectorizer(analyzer=_as_they_are)  # pyright: ignore[reportArgumentType]
        scores = self.tfidf.fit_transform(texts)
        self.model = OneVsRestClassifier(LogisticRegression(solver="liblinear")).fit(scores, given)

    def consistency(self, texts: Sequence[Sequence[str]], topics: Sequence[Sequence[str]]) -> list[float]:
        """Share of the given topics among the five likeliest, for each text."""
        scores = np.asarray(self.model.decision_function(self.tfidf.transform(texts)))
        scores = scores.reshape(len(texts), -1)
        best = np.argsort(-scores, 1, kind="stable")[:, :TOP]
        return [
            len({self.names[k] for k in row} & set(given)) / len(given) for row, given in zip(best, topics, strict=True)
        ]


class Trigrams:
    """A trigram model with interpolated Kneser-Ney smoothing (Kneser and Ney, 1995; Chen and Goodman, 1999).

    p(w | uv) = max(c(uvw) - D, 0) / c(uv·) + D n(uv·) / c(uv·) p(w | v), with the number of different words before in
    place of counts below the highest order, and 1 / V below the unigrams. D = n1 / (n1 + 2 n2) for each order, from
    the n-grams seen once and twice.

    Args:
        texts: units of the training texts.

    Example:
        >>> model = Trigrams([["a", "b"], ["a", "c"]])
        >>> round(sum(model.probability(("<s>", "a"), word) for word in ["a", "b", "c", "</s>", "<unk>"]), 6)
        1.0
    """

    START, STOP, UNKNOWN = "<s>", "</s>", "<unk>"

    def __init__(self, texts: Iterable[Sequence[str]]) -> None:
        texts = [list(text) for text in texts]
        self.vocabulary = {word for text in texts for word in text} | {self.STOP, self.UNKNOWN}
        grams = Counter(gram for text in texts for gram in self._trigrams(text))
        pairs = Counter(gram[1:] for gram in grams)
        self.counts: list[dict[tuple[str, ...], int]] = [Counter(pair[1:] for pair in pairs), pairs, grams]
        self.totals: list[Counter[tuple[str, ...]]] = []
        self.followers: list[Counter[tuple[str, ...]]] = []
        self.discounts: list[float] = []
        for counts in self.counts:
            totals, followers, of = Counter(), Counter(), Counter(counts.values())
            for gram, count in counts.items():
                totals[gram[:-1]] += count
                followers[gram[:-1]] += 1
            self.totals.append(totals)
            self.followers.append(followers)
            self.discounts.append(of[1] / (of[1] + 2 * of[2]) if of[1] else 0.5)

    def _trigrams(self, text: Sequence[str]) -> Iterable[tuple[str, ...]]:
        line = [self.START, self.START, *text, self.STOP]
        return zip(line, line[1:], line[2:], strict=False)

    def probability(self, context: tuple[str, ...], word: str) -> float:
        """p(word | the two words before)."""
        found = 1 / len(self.vocabulary)
        for order, discount in enumerate(self.discounts):
            before = context[len(context) - order :]
            total = self.totals[order][before]
            if not total:
                break  # the longer contexts have not been seen either
            count = self.counts[order].get((*before, word), 0)
            found = (max(count - discount, 0) + discount * self.followers[order][before] * found) / total
        return found

    def perplexity(self, texts: Iterable[Sequence[str]]) -> float:
        """exp of the mean negative log-probability of all words and ends of texts; unknown words are one word."""
        known = [[word if word in self.vocabulary else self.UNKNOWN for word in text] for text in texts]
        losses = [-math.log(self.probability((u, v), w)) for text in known for u, v, w in self._trigrams(text)]
        return math.exp(sum(losses) / len(losses))
