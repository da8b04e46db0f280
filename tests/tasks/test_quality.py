"""Correlations of predicted and true scores."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchmetrics.functional import kendall_rank_corrcoef, pearson_corrcoef, spearman_corrcoef

from repertory.core.problem import Problem
from repertory.tasks.quality import CORRELATIONS, correlations


def test_they_are_those_of_torchmetrics() -> None:
    rng = np.random.default_rng(0)
    y = rng.integers(0, 10, 50).astype(float)
    x = y + rng.normal(0, 3, 50)
    one, other = torch.from_numpy(x), torch.from_numpy(y)
    expected = {
        "srcc": spearman_corrcoef(one, other), "plcc": pearson_corrcoef(one, other),
        "krcc": kendall_rank_corrcoef(one, other, variant="b"),
    }  # fmt: skip
    found = correlations(x, y)
    assert found == pytest.approx({name: value.item() for name, value in expected.items()}, rel=1e-5)
    assert set(found) == set(CORRELATIONS)


def test_the_sign_is_kept_and_the_unit_does_not_matter() -> None:
    assert correlations([1, 2, 3], [30, 20, 10])["srcc"] == -1
    assert correlations([1, 4, 9], [2, 8, 18])["plcc"] == pytest.approx(1)


def test_equal_values_give_0_with_a_warning() -> None:
    with pytest.warns(UserWarning, match="all predictions are equal"):
        assert correlations([1, 1, 1], [1, 2, 3]) == {"srcc": 0, "plcc": 0, "krcc": 0}
    with pytest.warns(UserWarning, match="all scores are equal"):
        assert correlations([1, 2, 3], [5, 5, 5])["plcc"] == 0


@pytest.mark.parametrize("count", [0, 1, 2])
def test_fewer_than_three_images(count: int) -> None:
    with pytest.raises(Problem, match=f"a correlation of {count} image"):
        correlations(range(count), range(count))
