"""Image quality assessment: how well predicted scores rank and fit the true ones."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import kendalltau, pearsonr, spearmanr

from repertory.core.problem import Problem
from repertory.core.study import Metric

CORRELATIONS: Mapping[str, Metric] = {
    "srcc": Metric("rank correlation (SRCC)", "秩相关 SRCC", better="higher", decimals=3),
    "plcc": Metric("linear correlation (PLCC)", "线性相关 PLCC", better="higher", decimals=3),
    "krcc": Metric("Kendall's rank correlation (KRCC)", "Kendall 秩相关 KRCC", better="higher", decimals=3),
}
"""What `correlations` gives."""

_FUNCTIONS = {"srcc": spearmanr, "plcc": pearsonr, "krcc": kendalltau}


def correlations(
    predicted: Sequence[float] | NDArray[np.float64], scores: Sequence[float] | NDArray[np.float64]
) -> dict[str, float]:
    """SRCC (Spearman), PLCC (Pearson, without a logistic mapping) and KRCC (Kendall's tau-b).

    Args:
        predicted: (n,).
        scores: the true ones, (n,), in the same unit and direction.

    Returns:
        Values from -1 to 1; 0, with a warning, where all of `predicted` or all of `scores` are equal.

    Raises:
        Problem: fewer than three images.

    Example:
        >>> correlations([0.1, 0.2, 0.9], [1.0, 2.0, 3.0])
        {'srcc': 1.0, 'plcc': 0.917, 'krcc': 1.0}
    """
    x, y = np.asarray(predicted, np.float64), np.asarray(scores, np.float64)
    if len(x) < 3:
        what = f"a correlation of {len(x)} image{'' if len(x) == 1 else 's'} is not defined"
        raise Problem(what, "test images", "give three or more")
    for what, values in (("predictions", x), ("scores", y)):
        if np.ptp(values) == 0:
            warnings.warn(f"all {what} are equal: the correlations are reported as 0", stacklevel=2)
            return dict.fromkeys(_FUNCTIONS, 0.0)
    return {name: float(function(x, y).statistic) for name, function in _FUNCTIONS.items()}
