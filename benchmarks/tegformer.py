"""Speed of decoding and of a training step.

    python benchmarks/tegformer.py

- decoding: greedy and by 4 beams, by a network of half the published width and layers. Peer: the same network, which
  reads the whole text anew for every token, as the authors' inference does. Greedy texts have the published 150 tokens.
- training step: 32 essays of 60 tokens, with GPT-2's states computed once and stored. Peer: GPT-2 in every step.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from repertory.core.bench import Race, bench
from repertory.papers.tegformer.model import smoothed_loss
from repertory.papers.tegformer.race import Recomputing, race_inputs
from repertory.tasks.language import Decoding, decode

TEXTS, ESSAYS, LENGTH = 2, 32, 60


def decoding(how: Decoding, tokens: int) -> Race:
    model, topics, mask = race_inputs(TEXTS)
    first, never = torch.ones(TEXTS, dtype=torch.long), model.padding  # it is never written, so no text ends

    @torch.inference_mode()
    def cached(tokens: int) -> list[list[int]]:
        return decode(model.begin(topics, mask, how.rows), first, never, tokens, how)

    @torch.inference_mode()
    def recomputed(tokens: int) -> list[list[int]]:
        rows = (part.repeat_interleave(how.rows, 0) for part in (topics, mask))
        return decode(Recomputing(model, *rows), first, never, tokens, how)

    assert cached(12) == recomputed(12)
    facts = {"texts": TEXTS, "tokens": tokens}
    return Race(
        partial(cached, tokens), {"without cache": partial(recomputed, tokens)}, goal=5, memory=False, facts=facts
    )


def training_step() -> Race:
    model, *_ = race_inputs(1)
    ids = torch.randint(1, model.vocab, (ESSAYS, LENGTH))
    chosen, seen = torch.randint(50, (ESSAYS, 4)), torch.ones(ESSAYS, 4, dtype=torch.bool)
    states = model.states(ids)
    torch.testing.assert_close(model(chosen, seen, ids, states), model(chosen, seen, ids))

    def step(known: Tensor | None) -> None:
        smoothed_loss(model(chosen, seen, ids, known), ids).backward()

    return Race(partial(step, states), {"GPT-2 in every step": partial(step, None)})


if __name__ == "__main__":
    bench(
        __doc__,
        {
            "greedy": partial(decoding, Decoding("greedy"), 150),
            "4 beams": partial(decoding, Decoding("beam", beams=4), 60),
            "training step": training_step,
        },
    )
