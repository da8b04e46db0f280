"""Speed of edit distances and of generation.

    python benchmarks/llm_drums.py

- structure: edit distances between the measures of two grooves of 16 measures. Peer: Levenshtein in plain Python, both
  neighbours of each measure, as the authors' code goes about it.
- generation: 48 bytes after prompts of 8 measures, by the GPT-2 of the laptop scale. Peer: without the cache of keys
  and values.
- growth: the structure of 10 to 10,000 grooves.
"""

from __future__ import annotations

from functools import partial

from repertory.core.bench import Growth, Race, bench
from repertory.papers.llm_drums.race import race_drummer, race_grooves, race_prompts, stabilities_in_python
from repertory.papers.llm_drums.structure import stabilities


def structure() -> Race:
    grooves = race_grooves()
    for ours, plain in zip(stabilities(grooves), stabilities_in_python(grooves), strict=True):
        assert (ours == plain).all()
    return Race(lambda: stabilities(grooves), {"plain Python": lambda: stabilities_in_python(grooves)}, goal=50)


def generation() -> Race:
    drummer, prompts = race_drummer(), race_prompts()

    def write(use_cache: bool, temperature: float = 0.9) -> list[str]:
        return drummer.complete(prompts, temperature, max_new_tokens=48, use_cache=use_cache)

    assert write(True, 0.0) == write(False, 0.0)
    return Race(lambda: write(True), {"without cache": lambda: write(False)}, goal=5, facts={"prompts": len(prompts)})


def growth() -> Growth:
    return Growth(lambda count: partial(stabilities, race_grooves(count)), [10, 100, 1000, 10_000], "grooves")


if __name__ == "__main__":
    bench(__doc__, {"structure": structure, "generation": generation, "structure, growth": growth})
