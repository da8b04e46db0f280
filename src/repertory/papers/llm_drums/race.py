"""The peers that the speed is measured against: Levenshtein in plain Python, and generation without a cache."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from repertory.data.drums import COLUMNS, ROWS, grid_text
from repertory.papers.llm_drums.language import byte_tokenizer, small_gpt2
from repertory.papers.llm_drums.model import Drummer, separated
from repertory.papers.llm_drums.structure import Stabilities, measures_of

LETTERS = ROWS * (len(COLUMNS) + 1)


def levenshtein(one: str, other: str) -> int:
    """Edit distance with unit costs, by the definition.

    Example:
        >>> levenshtein("kitten", "sitting")
        3
    """
    row = list(range(len(other) + 1))
    for i, a in enumerate(one, start=1):
        before, row[0] = row[0], i
        for j, b in enumerate(other, start=1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (a != b))
    return row[-1]


def stabilities_in_python(grooves: Sequence[Sequence[str]]) -> list[Stabilities]:
    """`stabilities` as the authors' code goes about it: both neighbours of each measure, one after the other."""
    return [
        np.array(
            [
                min(levenshtein(measures[i], measures[i - 1]), levenshtein(measures[i], measures[i + 1]))
                for i in range(1, len(measures) - 1)
            ],
            dtype=float,
        )
        for measures in grooves
    ]


def race_grooves(count: int = 2) -> list[list[str]]:
    """Measures of random grooves; of two measures next to each other most cells are the same."""
    rng = np.random.default_rng(0)
    pattern = rng.random((count, 1, ROWS, len(COLUMNS))) < 0.3
    flips = rng.random((count, 16, ROWS, len(COLUMNS))) < 0.04
    return [measures_of(grid_text(grid.reshape(-1, len(COLUMNS)))) for grid in pattern ^ flips]


def race_drummer() -> Drummer:
    """An untrained model of the size of the laptop scale, for whole grooves."""
    torch.manual_seed(0)
    return Drummer(small_gpt2(64, 2, 4, 2048), byte_tokenizer(), given=8).eval()


def race_prompts(count: int = 4) -> list[str]:
    """Prompts of 8 measures."""
    rng = np.random.default_rng(0)
    return [separated(grid_text(rng.random((8 * ROWS, len(COLUMNS))) < 0.3).splitlines()) for _ in range(count)]
