"""Speed of TegFormer's decoding with cached keys and values beside decoding without, and of its parts.

    python benchmarks/tegformer.py [--rounds 5] [--threads 1]

Prints one JSON line a race: medians in seconds, the ratio peer / ours with its spread over the rounds, and the peak
memory of the process.

- decoding, greedy and by 4 beams: 4 texts of 150 tokens by a network of half the published width and layers. Peer: the
  same network that reads the whole text anew for every token, as the authors' inference does.
- training step: 32 essays of 60 tokens. Ours: GPT-2's states computed once and stored. Peer: GPT-2 in every step.

Ours and the peer write the same texts, which is checked first.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable

import torch

from repertory.core.timing import race_line
from repertory.papers.tegformer.model import smoothed_loss
from repertory.papers.tegformer.race import Recomputing, race_inputs
from repertory.tasks.language import Decoding, decode

TEXTS, TOKENS = 4, 150
ESSAYS, LENGTH = 32, 60


def run(name: str, ours: Callable[[], object], peer: Callable[[], object], rounds: int) -> None:
    """Race the two and print the outcome."""
    print(json.dumps(race_line(name, ours, peer, rounds)), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)

    model, topics, mask = race_inputs(TEXTS)
    first, never = torch.ones(TEXTS, dtype=torch.long), model.padding  # it is never written, so no text ends

    def cached(decoding: Decoding, tokens: int) -> list[list[int]]:
        with torch.no_grad():
            return decode(model.begin(topics, mask, decoding.rows), first, never, tokens, decoding)

    def recomputed(decoding: Decoding, tokens: int) -> list[list[int]]:
        with torch.no_grad():
            rows = (part.repeat_interleave(decoding.rows, 0) for part in (topics, mask))
            return decode(Recomputing(model, *rows), first, never, tokens, decoding)

    for name, decoding in {"greedy": Decoding("greedy"), "4 beams": Decoding("beam", beams=4)}.items():
        assert cached(decoding, 12) == recomputed(decoding, 12)
        run(f"{name}, {TEXTS} texts of {TOKENS} tokens", lambda d=decoding: cached(d, TOKENS),
            lambda d=decoding: recomputed(d, TOKENS), given.rounds)  # fmt: skip

    ids = torch.randint(1, model.vocab, (ESSAYS, LENGTH))
    chosen, seen = torch.randint(50, (ESSAYS, 4)), torch.ones(ESSAYS, 4, dtype=torch.bool)
    states = model.states(ids)
    torch.testing.assert_close(model(chosen, seen, ids, states), model(chosen, seen, ids))

    def step(known: torch.Tensor | None) -> None:
        smoothed_loss(model(chosen, seen, ids, known), ids).backward()

    run("training step with stored states", lambda: step(states), lambda: step(None), given.rounds)


if __name__ == "__main__":
    main()
