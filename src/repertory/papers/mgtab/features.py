"""From accounts and their tweets to the 788 features of MGTAB: 20 properties and the mean embedding of the tweets.

The properties are those with the largest information gain of all that an account has. Counts and the ratio become
log2(1 + x), the date of creation years since 1970; then all numbers are scaled by the bounds of the benchmark. Both
were derived from the released bounds: 2^25.57 is about 5e7 followers, 36.55 to 51.71 years are 2006 to 2021.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from repertory.core.problem import Problem

PROPERTY_NAMES = (
    "profile_use_background_image", "default_profile", "verified", "followers_count", "default_profile_image",
    "listed_count", "statuses_count", "friends_count", "geo_enabled", "favourites_count", "created_at",
    "screen_name_length", "name_length", "description_length", "followers_friends_ratios",
    "default_profile_background_color", "default_profile_sidebar_fill_color", "default_profile_sidebar_border_color",
    "has_URL", "profile_background_image_URL",
)  # fmt: skip
"""In the order of the columns."""
LOGARITHMIC = (
    "followers_count", "friends_count", "listed_count", "favourites_count", "statuses_count",
    "followers_friends_ratios",
)  # fmt: skip
_LABELLED = {
    "followers_count": (0, 25.572674), "friends_count": (0, 21.029877), "listed_count": (0, 17.675406),
    "created_at": (36.553529, 51.711108), "favourites_count": (0, 19.711042), "statuses_count": (0, 20.386231),
    "screen_name_length": (3, 15), "name_length": (1, 50), "description_length": (0, 204),
    "followers_friends_ratios": (0, 11.169299),
}  # fmt: skip
_UNLABELLED = {
    "followers_count": (0, 26.953860), "friends_count": (0, 22.000537), "listed_count": (0, 17.765021),
    "created_at": (0, 51.381446), "favourites_count": (0, 20.440885), "statuses_count": (0, 21.477959),
    "screen_name_length": (2, 15), "name_length": (0, 50), "description_length": (0, 253),
    "followers_friends_ratios": (0, 11.987264),
}  # fmt: skip
BOUNDS: Mapping[str, Mapping[str, tuple[float, float]]] = {"labelled": _LABELLED, "unlabelled": _UNLABELLED}
"""Least and greatest value of each number after its transform, in the labelled and the unlabelled part of MGTAB."""
YEAR = 365.25 * 24 * 3600


def information_gain(labels: np.ndarray, values: np.ndarray, bins: int = 10) -> float:
    """IG = H(Y) − H(Y|X) in bits.

    Args:
        labels: Y, (n,).
        values: X, (n,): numbers are cut into quantiles; words, booleans and numbers of few values stay as they are.
        bins: most quantiles.

    Example:
        >>> y = np.array([0, 0, 1, 1])
        >>> information_gain(y, np.array([True, True, False, False])), information_gain(y, np.array([1, 2, 1, 2]))
        (1.0, 0.0)
    """
    cells = pd.Series(values)
    if pd.api.types.is_numeric_dtype(cells) and cells.nunique() > bins:
        cells = pd.qcut(cells, bins, labels=False, duplicates="drop")
    counts = pd.crosstab(np.asarray(cells), np.asarray(labels)).to_numpy()  # (values, classes)
    given = sum(float(row.sum() / counts.sum()) * _entropy(row) for row in counts)
    return _entropy(counts.sum(0)) - given


def _entropy(counts: np.ndarray) -> float:
    shares = counts[counts > 0] / counts.sum()
    return float((shares * np.log2(1 / shares)).sum())


def ranked_properties(table: pd.DataFrame, labels: np.ndarray, bins: int = 10) -> pd.Series:
    """Information gain of every column about the labels, largest first: MGTAB keeps the first 20.

    Example:
        >>> table = pd.DataFrame({"noise": [1, 2, 1, 2], "verified": [0, 0, 1, 1]})
        >>> ranked_properties(table, np.array([0, 0, 1, 1])).index.tolist()
        ['verified', 'noise']
    """
    gains = {name: information_gain(labels, np.asarray(table[name]), bins) for name in table.columns}
    return pd.Series(gains).sort_values(ascending=False, kind="stable")


def property_features(table: pd.DataFrame, bounds: Literal["labelled", "unlabelled"] = "labelled") -> Tensor:
    """The 20 properties as features (n, 20), all in [0, 1].

    Args:
        table: a row an account, with the columns `PROPERTY_NAMES` as the platform gives them: counts, lengths,
            booleans, and `created_at` as a date. The ratio may be absent: it is then followers / max(1, friends).
        bounds: by which part of MGTAB numbers are scaled; values beyond them are clipped.

    Raises:
        Problem: a column is missing, or holds something that is no number, boolean or date.

    Example:
        >>> row = {name: 0 for name in PROPERTY_NAMES} | {"followers_count": 1023, "created_at": "2009-01-01"}
        >>> x = property_features(pd.DataFrame([row]))
        >>> x.shape, round(x[0, 3].item(), 3), round(x[0, 10].item(), 3)
        (torch.Size([1, 20]), 0.391, 0.161)
    """
    table = table.copy()
    if "followers_friends_ratios" not in table and {"followers_count", "friends_count"} <= set(table.columns):
        table["followers_friends_ratios"] = table["followers_count"] / table["friends_count"].clip(lower=1)
    columns = []
    for name in PROPERTY_NAMES:
        if name not in table:
            raise Problem(f"no column {name!r}", "properties", f"the properties are {', '.join(PROPERTY_NAMES)}")
        values = _numbers(pd.Series(table[name]), name)
        if name in LOGARITHMIC:
            values = np.log2(1 + np.maximum(values, 0))
        if name in BOUNDS[bounds]:
            low, high = BOUNDS[bounds][name]
            values = (values - low) / (high - low)
        columns.append(np.clip(values, 0, 1))
    return torch.from_numpy(np.stack(columns, axis=1).astype(np.float32))


def _numbers(column: pd.Series, name: str) -> np.ndarray:
    """float64; dates as years since 1970."""
    try:
        if name == "created_at" and not pd.api.types.is_numeric_dtype(column):
            dates = pd.to_datetime(column, utc=True, format="mixed")
            values = (dates - pd.Timestamp(0, tz="UTC")).dt.total_seconds().to_numpy() / YEAR
        else:
            values = column.to_numpy(dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise Problem(f"{name} holds something that is no number: {error}", "properties", "mend the column") from error
    if not np.isfinite(values).all():
        raise Problem(f"{name} has no number in row {int((~np.isfinite(values)).argmax())}", "properties", "fill it")
    return values


def tweet_features(tweets: Sequence[Sequence[str]], encode: Callable[[list[str]], Tensor], width: int = 768) -> Tensor:
    """The mean embedding of the tweets of each account, (n, width); zeros for an account without tweets.

    Args:
        tweets: of each account.
        encode: texts -> (k, width): for MGTAB's own features LaBSE, `SentenceTransformer("LaBSE").encode` as a tensor.
        width: of the embedding.

    Raises:
        Problem: the encoder gives another shape.

    Example:
        >>> tweet_features([["hello", "hi"], []], lambda texts: torch.tensor([[len(t)] for t in texts]), width=1)
        tensor([[3.5000],
                [0.]])
    """
    means = torch.zeros(len(tweets), width)
    for row, texts in enumerate(tweets):
        if not texts:
            continue
        vectors = torch.as_tensor(encode(list(texts)))
        if vectors.shape != (len(texts), width):
            raise Problem(
                f"the encoder gives {tuple(vectors.shape)} for {len(texts)} texts", "tweets", f"({len(texts)}, {width})"
            )
        means[row] = vectors.float().mean(0)
    return means
