"""The sample: clicks of generated users on ads and sites, in the format of Criteo's train.txt. It knows no model."""

from __future__ import annotations

from pathlib import Path
from zlib import crc32

import numpy as np

ENTITIES = {"user": 1500, "ad": 300, "site": 200}
ZIPF = 1.3
"""Exponent of the popularity of ads and sites; users are equally frequent."""
NUMBERS, CATEGORIES = 13, 26
FEWEST, MOST = 3, 1500
"""Levels of a category, drawn evenly on a logarithmic scale."""
REPLACED, EMPTY, EMPTY_NUMBERS = 0.15, 0.2, 0.4
"""Largest share, of a column, of values that are replaced at random, and of cells that are empty."""


def write_sample(path: Path, rng: np.random.Generator, rows: int) -> None:
    """Write so many rows of a world of its own: labels, 13 counts, 26 categories; tabs, no header.

    Every user, ad and site has a bias (deviation 0.5) and a latent vector of 4 (deviation 0.9);
    logit = -1.3 + b_u + b_a + b_s + ⟨u, a⟩ + 0.7 ⟨u, s⟩ + 0.5 Σ u a s. A category describes one of the three through a
    random map; a count grows with a random combination of the biases.
    """
    bias = {name: 0.5 * rng.standard_normal(size) for name, size in ENTITIES.items()}
    latent = {name: 0.9 * rng.standard_normal((size, 4)) for name, size in ENTITIES.items()}
    who = {name: _drawn(rng, name, size, rows) for name, size in ENTITIES.items()}
    u, a, s = (latent[name][who[name]] for name in ENTITIES)
    biases = np.stack([bias[name][who[name]] for name in ENTITIES])
    logit = -1.3 + biases.sum(0) + (u * a).sum(1) + 0.7 * (u * s).sum(1) + 0.5 * (u * a * s).sum(1)
    columns = [(rng.random(rows) < 1 / (1 + np.exp(-logit))).astype(np.int64).astype(str)]
    for number in range(NUMBERS):
        weights = rng.standard_normal(3)
        counts = np.floor(np.exp(1.5 + weights @ biases + 0.7 * rng.standard_normal(rows))).astype(np.int64)
        cells = (counts - (number == 1)).astype(str)  # I2 may be -1
        columns.append(np.where(rng.random(rows) < EMPTY_NUMBERS * rng.random(), "", cells))
    for number in range(CATEGORIES):
        name = list(ENTITIES)[rng.integers(3)]
        levels = int(np.exp(rng.uniform(np.log(FEWEST), np.log(MOST))))
        words = np.array([f"{crc32(f'C{number + 1}:{level}'.encode()):08x}" for level in range(levels)])
        values = rng.integers(levels, size=ENTITIES[name])[who[name]]
        values = np.where(rng.random(rows) < REPLACED * rng.random(), rng.integers(levels, size=rows), values)
        columns.append(np.where(rng.random(rows) < EMPTY * rng.random(), "", words[values]))
    text = "\n".join("\t".join(cells) for cells in zip(*(column.tolist() for column in columns), strict=True))
    path.write_text(f"{text}\n", encoding="ascii")


def _drawn(rng: np.random.Generator, name: str, size: int, rows: int) -> np.ndarray:
    """Entities of the rows."""
    if name == "user":
        return rng.integers(size, size=rows)
    popularity = 1 / np.arange(1, size + 1) ** ZIPF
    return rng.choice(size, size=rows, p=popularity / popularity.sum())
