"""The structure of a groove: how much each measure differs from its neighbours, and how far fills stand out.

As in the authors' code (source/analysis.py). Distances of all grooves are found in one call of rapidfuzz.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import KMeans

from repertory.core.problem import require
from repertory.data.drums import EXTRA, MEASURES, REST, ROWS

Stabilities = NDArray[np.float64]


@dataclass(frozen=True)
class Structure:
    """Summary over grooves.

    Attributes:
        stability: mean s_i, pooled over grooves; low: measures repeat a neighbour.
        centre_gap: mean over grooves of the distance of the two cluster centres: how far fills stand out.
        within_cluster: mean over grooves of |s_i - its centre|: how uniform pattern and fills are.
        repeats: share of s_i that are 0, per cent.
    """

    stability: float
    centre_gap: float
    within_cluster: float
    repeats: float

    def away_from(self, other: Structure) -> float:
        """Euclidean distance of (stability, centre gap)."""
        return float(np.hypot(self.stability - other.stability, self.centre_gap - other.centre_gap))


def measures_of(text: str, compat: bool = True, most: int = MEASURES) -> list[str]:
    """Measures of a groove: blocks of 16 lines, the first 16 of them, as strings to compare.

    Args:
        text: rows, without SEP lines; rows may be malformed.
        compat: two newlines between rows, as in the authors' code: they enter the distances.
        most: number of measures.

    Example:
        >>> len(measures_of("o--o--\\n" * 40)), measures_of("o--o--\\n" * 2)
        (3, ['o--o--\\n\\no--o--\\n'])
    """
    lines = text.split("\n")
    lines = lines[:-1] if lines[-1] == "" else lines
    blocks = (lines[start : start + ROWS] for start in range(0, min(len(lines), most * ROWS), ROWS))
    return [("\n\n" if compat else "\n").join(block) + "\n" for block in blocks]


def stabilities(grooves: Sequence[Sequence[str]], first: int = 1, last: bool = False) -> list[Stabilities]:
    """s_i = min(d(i, i-1), d(i, i+1)) with d the Levenshtein distance of two measures, for each groove.

    Args:
        grooves: measures of each, see `measures_of`.
        first: number of the first measure that gets a value, from 0.
        last: the last measure gets a value too, from the one neighbour that it has. False: as in the authors' code.

    Returns:
        An array a groove, empty where it has too few measures.

    Example:
        >>> [s.tolist() for s in stabilities([["ab", "ab", "xy", "ab"], ["ab"]])]
        [[0.0, 2.0], []]
    """
    pairs = [pair for measures in grooves for pair in itertools.pairwise(measures)]
    process, distance = require("rapidfuzz.process", EXTRA), require("rapidfuzz.distance", EXTRA)
    found = process.cpdist(
        [one for one, _ in pairs], [other for _, other in pairs], scorer=distance.Levenshtein.distance, dtype=np.int64
    )
    starts = np.cumsum([0, *(max(0, len(measures) - 1) for measures in grooves)])
    return [_nearest(found[a:b].astype(float), first, last) for a, b in itertools.pairwise(starts)]


def _nearest(steps: Stabilities, first: int, last: bool) -> Stabilities:
    """From the n - 1 distances of neighbours to the s_i of n measures."""
    before, after = np.append(np.inf, steps), np.append(steps, np.inf)
    nearest = np.minimum(before, after)[first : None if last else -1]
    return nearest[np.isfinite(nearest)]


def clusters(values: Stabilities) -> tuple[float, float]:
    """Distance of the centres of two clusters, and mean distance to the own centre; both 0 if all values are equal.

    Example:
        >>> clusters(np.array([1.0, 1.0, 9.0, 11.0]))
        (9.0, 0.5)
    """
    if len(values) < 2 or np.ptp(values) == 0:
        return 0.0, 0.0
    found = KMeans(n_clusters=2, random_state=0).fit(values[:, None])
    centres = found.cluster_centers_[:, 0]
    return float(abs(centres[0] - centres[1])), float(np.abs(values - centres[found.labels_]).mean())


def structure(values: Sequence[Stabilities]) -> Structure | None:
    """Summary of the stabilities of several grooves; None if none of them has any."""
    values = [s for s in values if len(s)]
    if not values:
        return None
    pooled = np.concatenate(values)
    gap, within = np.mean([clusters(s) for s in values], axis=0).tolist()
    return Structure(float(pooled.mean()), gap, within, 100 * float((pooled == 0).mean()))


def seen_share(measures: Sequence[str], training: Collection[str]) -> float | None:
    """Per cent of the measures with a hit that occur in training; None if there are none."""
    played = [measure for measure in measures if measure.strip(REST + "\n")]
    return 100 * sum(measure in training for measure in played) / len(played) if played else None
