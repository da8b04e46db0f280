"""Speed of edit distances and of generation of llm_drums beside their peers.

    python benchmarks/llm_drums.py [--rounds 5] [--threads 1]

Prints one JSON line a race: medians in seconds, and the ratio peer / ours with its spread over the rounds.

- distances: the structure of whole grooves of 16 measures. Peer: Levenshtein in plain Python, both neighbours of each
  measure, as the authors' code goes about it.
- generation: 48 bytes after prompts of 8 measures, by the GPT-2 of the laptop scale. Peer: without the cache of keys
  and values.

Ours and the peer compute the same, which is checked first.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable

import torch

from repertory.core.timing import race_line
from repertory.papers.llm_drums.race import race_drummer, race_grooves, race_prompts, stabilities_in_python
from repertory.papers.llm_drums.structure import stabilities


def run(name: str, ours: Callable[[], object], peer: Callable[[], object], rounds: int) -> None:
    """Race the two and print the outcome."""
    print(json.dumps(race_line(name, ours, peer, rounds)), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)

    many = race_grooves()
    for ours, plain in zip(stabilities(many), stabilities_in_python(many), strict=True):
        assert (ours == plain).all()
    run("structure of 2 grooves", lambda: stabilities(many), lambda: stabilities_in_python(many), given.rounds)

    drummer, prompts = race_drummer(), race_prompts()

    def write(use_cache: bool, temperature: float = 0.9) -> list[str]:
        return drummer.complete(prompts, temperature, max_new_tokens=48, use_cache=use_cache)

    assert write(True, 0.0) == write(False, 0.0)
    run("48 bytes of 4 grooves", lambda: write(True), lambda: write(False), given.rounds)


if __name__ == "__main__":
    main()
