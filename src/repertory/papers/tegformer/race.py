"""The peer in races: decoding without cache, which reads the whole text anew for every token."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from repertory.papers.tegformer.model import TegFormer
from repertory.tasks.language import small_gpt2

RACE: dict[str, Any] = {
    "vocab": 2000, "topics": 50, "words": 40, "gpt2": small_gpt2(2000, 256, 4, 8, 160), "d": 256, "ff": 1024,
    "heads": 8, "encoder_layers": 3, "decoder_layers": 3,
}  # fmt: skip
"""Half the published width and layers: seconds a text without cache."""


class Recomputing:
    """A `Stepper` without cache.

    Args:
        model: in evaluation mode.
        topics, mask: (B, S).
    """

    def __init__(self, model: TegFormer, topics: Tensor, mask: Tensor) -> None:
        self.model, self.memory, self.mask = model, model.encode(topics, mask), mask
        self.ids = torch.empty(len(topics), 0, dtype=torch.long, device=topics.device)

    def step(self, ids: Tensor) -> Tensor:
        """The next tokens (B,) -> log-probabilities (B, V)."""
        self.ids = torch.cat([self.ids, ids[:, None]], 1)
        return self.model.decode(self.memory, self.mask, self.ids)[:, -1]

    def reorder(self, rows: Tensor) -> None:
        """Go on with these rows."""
        self.ids, self.memory, self.mask = self.ids[rows], self.memory[rows], self.mask[rows]


def race_inputs(texts: int, seed: int = 0) -> tuple[TegFormer, Tensor, Tensor]:
    """A network with random weights, and topics of some texts."""
    torch.manual_seed(seed)
    model = TegFormer(**RACE).eval()
    with torch.no_grad():
        model.generator.bias[model.padding] = -1e4  # the padding token is no word: only training masks it
    return model, torch.randint(RACE["topics"], (texts, 5)), torch.ones(texts, 5, dtype=torch.bool)
