"""Word order counted from treebanks, correlations of matrices, and the regression (sections 5 and 7)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata
from sklearn.ensemble import GradientBoostingRegressor
from sklearn.inspection import permutation_importance
from sklearn.metrics import r2_score
from sklearn.model_selection import KFold

from repertory.core.problem import Problem
from repertory.data.conllu import RELATIONS, Treebank
from repertory.data.wals import Differences

ORDERED = (
    "nsubj", "obj", "iobj", "obl", "nmod", "amod", "det", "nummod", "case", "acl", "advcl", "advmod", "aux", "cop",
    "mark", "cc", "xcomp", "ccomp", "compound", "clf",
)  # fmt: skip
"""Relations whose order is a feature. Punctuation, flat names and the like have none that typology speaks of."""
ENOUGH = 20
"""Cases of a relation that its order is counted from, in every language."""
FOLDS = 5
SEED = 25
TWINS = 0.99
"""|correlation| above which one of two features is left out of the regression."""


def word_order(treebanks: Sequence[Treebank]) -> Differences:
    """Differences in word order: for each relation, the share of dependents that stand before their head.

    These are counts from the annotated sentences, not entries of WALS. A feature is kept if every language has 20
    cases.

    Raises:
        Problem: no relation has.
    """
    shares = np.full((len(treebanks), len(ORDERED)), np.nan)
    for k, treebank in enumerate(treebanks):
        before, count = np.zeros(len(RELATIONS)), np.zeros(len(RELATIONS))
        for sentence in treebank.train:
            heads, relations = np.array(sentence.heads), np.array(sentence.relations)
            np.add.at(count, relations[heads > 0], 1)
            np.add.at(before, relations[heads > 0], (np.arange(1, len(heads) + 1) < heads)[heads > 0])
        for column, name in enumerate(ORDERED):
            number = RELATIONS.index(name)
            if count[number] >= ENOUGH:
                shares[k, column] = before[number] / count[number]
    kept = np.isfinite(shares).all(axis=0)
    if not kept.any():
        raise Problem(f"no relation has {ENOUGH} cases in every language", "treebanks", "give more sentences")
    shares = shares[:, kept]
    names = tuple(f"order of {name}" for name, good in zip(ORDERED, np.atleast_1d(kept), strict=True) if good)
    source = f"word order counted from the treebanks, {len(names)} relations"
    return Differences(names, np.abs(shares[:, None] - shares[None]), source)


# -- correlations -------------------------------------------------------------------------------


def spearman(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """Rank correlation.

    Example:
        >>> round(spearman(np.array([1.0, 2.0, 3.0]), np.array([1.0, 8.0, 9.0])), 6)
        1.0
    """
    return float(np.corrcoef(rankdata(x), rankdata(y))[0, 1])


class Agreement(NamedTuple):
    """How two symmetric matrices agree above the diagonal.

    Attributes:
        rho: Spearman's.
        r: Pearson's.
        p: of Mantel's test with rho, two-sided: the share of permutations of the languages with a |rho| as large.
        pairs: pairs of languages with both values.
    """

    rho: float
    r: float
    p: float
    pairs: int


def mantel(
    a: NDArray[np.float64], b: NDArray[np.float64], permutations: int, rng: np.random.Generator
) -> Agreement | None:
    """Correlate two matrices (L, L); languages without values in either are left out. None: fewer than 3 are left.

    Source: Mantel 1967.
    """
    inside = np.isfinite(a).sum(1).astype(bool) & np.isfinite(b).sum(1).astype(bool)
    a, b = a[np.ix_(inside, inside)], b[np.ix_(inside, inside)]
    upper = np.triu_indices(len(a), 1)
    if len(a) < 3 or np.ptp(a[upper]) == 0 or np.ptp(b[upper]) == 0:
        return None
    rho = spearman(a[upper], b[upper])
    ranks = np.zeros_like(a)
    ranks[upper] = rankdata(a[upper])
    ranks += ranks.T
    other = rankdata(b[upper])
    # Ranks are permuted with the languages, so that Pearson's of them is Spearman's of the permuted matrices.
    reached = 1
    for _ in range(permutations):
        order = rng.permutation(len(a))
        permuted = ranks[np.ix_(order, order)][upper]
        reached += abs(np.corrcoef(permuted, other)[0, 1]) >= abs(rho) - 1e-12
    return Agreement(rho, float(np.corrcoef(a[upper], b[upper])[0, 1]), float(reached / (permutations + 1)), len(other))


# -- regression ---------------------------------------------------------------------------------


class Regression(NamedTuple):
    """How well differences between languages predict their distance.

    Attributes:
        r2: mean over repeats of the R² of all out-of-fold predictions together.
        names: features, those that equal another one left out.
        importance: (F, 10), loss of R² when a feature is permuted, on the rows that the model was fitted to.
    """

    r2: float
    names: tuple[str, ...]
    importance: NDArray[np.float64]


def regress(differences: Differences, distance: NDArray[np.float64], repeats: int) -> Regression | None:
    """Gradient boosting from per-feature differences to a distance, one row for each pair of languages.

    None where there are fewer than 10 pairs, or no feature differs.
    """
    i, j = np.triu_indices(len(distance), 1)
    x, y = differences.values[i, j], distance[i, j]
    kept = np.isfinite(x).all(1) & np.isfinite(y)
    x, y = x[kept], y[kept]
    columns = distinct_columns(x)
    if len(y) < 2 * FOLDS or not columns:
        return None
    x = x[:, columns]
    scores = []
    for repeat in range(repeats):
        found = np.empty_like(y)
        for train, test in KFold(FOLDS, shuffle=True, random_state=SEED + repeat).split(x):
            found[test] = _model().fit(x[train], y[train]).predict(x[test])
        scores.append(r2_score(y, found))
    importance = permutation_importance(_model().fit(x, y), x, y, n_repeats=10, random_state=SEED)
    names = tuple(differences.names[column] for column in columns)
    return Regression(float(np.mean(scores)), names, np.asarray(importance["importances"]))


def _model() -> GradientBoostingRegressor:
    return GradientBoostingRegressor(n_estimators=100, max_depth=3, learning_rate=0.1, random_state=SEED)


def distinct_columns(x: NDArray[np.float64]) -> list[int]:
    """Columns that vary and do not correlate with an earlier one beyond 0.99.

    Example:
        >>> distinct_columns(np.array([[0.0, 0.0, 1.0, 5.0], [1.0, 2.0, 1.0, 1.0], [2.0, 4.0, 1.0, 7.0]]))
        [0, 3]
    """
    kept: list[int] = []
    for column in range(x.shape[1]):
        values = x[:, column]
        if np.ptp(values) and all(abs(np.corrcoef(values, x[:, other])[0, 1]) <= TWINS for other in kept):
            kept.append(column)
    return kept
