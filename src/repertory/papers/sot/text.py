"""SoT's head on encoders of Hugging Face: a classifier of sentences that carries its tokenizer with it."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from huggingface_hub import PyTorchModelHubMixin
from torch import Tensor, nn
from torch.utils.data import Dataset

from repertory.core.problem import Problem, require
from repertory.data.glue import SPECIAL, Sentences
from repertory.nn.encoders import EXTRA, build_encoder, load_encoder
from repertory.papers.sot.layers import TokenHead

MINI: dict[str, Any] = {
    "model_type": "bert",
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 256,
    "max_position_embeddings": 128,
    "initializer_range": 0.1,
}
"""A BERT that trains in seconds. BERT's initial weights of 0.02 would be too small for 64 channels."""


class TextClassifier(nn.Module, PyTorchModelHubMixin, library_name="repertory"):
    """A `TokenHead` on an encoder: [CLS] through BERT's pooler, and the words, padding excluded.

    Args:
        encoder: configuration of transformers, with `model_type`.
        tokenizer: JSON of the library tokenizers.
        classes: names of the classes.
        head: arguments of `TokenHead`.
        drop: dropout of the class branch.
        max_length: tokens of a sentence, or a pair; further ones are cut off.

    Shape:
        ids (B, L), mask (B, L), types (B, L) -> logits (B, classes).

    Raises:
        Problem: transformers is not installed, or knows no such encoder.
    """

    def __init__(
        self,
        encoder: dict[str, Any],
        tokenizer: str,
        classes: list[str],
        head: dict[str, Any] | None = None,
        drop: float = 0.1,
        max_length: int = 128,
    ) -> None:
        super().__init__()
        tokenizers = require("tokenizers", EXTRA)
        self.encoder = build_encoder(encoder)
        config = self.encoder.config
        self.classes = list(classes)
        self.num_classes = len(classes)
        self.max_length = min(max_length, getattr(config, "max_position_embeddings", max_length))
        self.tokenizer: Any = tokenizers.Tokenizer.from_str(tokenizer)
        self.tokenizer.enable_truncation(self.max_length)
        self.tokenizer.no_padding()
        self.typed = getattr(config, "type_vocab_size", 0) > 1
        self.padding: int = getattr(config, "pad_token_id", 0) or 0
        self.drop = nn.Dropout(drop)
        self.head = TokenHead(config.hidden_size, len(classes), **(head or {}))

    @classmethod
    def from_folder(cls, folder: str | Path, classes: Sequence[str], **arguments: Any) -> TextClassifier:
        """A pre-trained encoder with a new head.

        Args:
            folder: see `load_encoder`.
            classes: names of the classes.
            arguments: of the constructor.
        """
        trained = load_encoder(folder)
        model = cls(trained.config, trained.tokenizer, list(classes), **arguments)
        model.encoder.load_state_dict(trained.module.state_dict())
        return model

    def tokens(self, ids: Tensor, mask: Tensor, types: Tensor, embeddings: Tensor | None = None) -> tuple[Tensor, Any]:
        """Last hidden states (B, L, C) and the pooler's output (B, C), None if the encoder has no pooler.

        Args:
            ids, mask, types: see the class.
            embeddings: (B, L, C), in place of those of `ids`.
        """
        inputs = {"input_ids": ids} if embeddings is None else {"inputs_embeds": embeddings}
        if self.typed:
            inputs["token_type_ids"] = types
        out = self.encoder(**inputs, attention_mask=mask.long())
        return out.last_hidden_state, getattr(out, "pooler_output", None)

    def branches(
        self, ids: Tensor, mask: Tensor, types: Tensor, embeddings: Tensor | None = None
    ) -> tuple[Tensor | None, Tensor | None]:
        """Logits of the class token and of the words, see `TokenHead.branches`."""
        hidden, pooled = self.tokens(ids, mask, types, embeddings)
        return self.head.branches(hidden, mask, self.drop(hidden[:, 0] if pooled is None else pooled))

    def forward(self, ids: Tensor, mask: Tensor, types: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        hidden, pooled = self.tokens(ids, mask, types)
        return self.head(hidden, mask, self.drop(hidden[:, 0] if pooled is None else pooled))


# -- sentences as tokens ------------------------------------------------------------------------


@dataclass(frozen=True)
class EncodedSentences(Dataset[tuple[list[int], list[int], int]]):
    """Token numbers, segment numbers and labels."""

    draws: ClassVar[bool] = False

    ids: tuple[list[int], ...]
    types: tuple[list[int], ...]
    labels: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> tuple[list[int], list[int], int]:
        return self.ids[index], self.types[index], self.labels[index]


def encode(model: TextClassifier, sentences: Sentences) -> EncodedSentences:
    """Tokenise; warns of sentences that are cut off at `max_length`.

    Raises:
        Problem: a sentence of fewer than two words (subwords and the closing token count); names its line.
    """
    encoded = model.tokenizer.encode_batch([text if len(text) == 2 else text[0] for text in sentences.texts])
    for line, encoding in zip(sentences.lines, encoded, strict=True):
        if len(encoding.ids) < 3:
            raise Problem("fewer than two words", f"{sentences.path}:{line}", "give a longer sentence, or remove it")
    cut = sum(bool(encoding.overflowing) for encoding in encoded)
    if cut:
        warnings.warn(
            f"{sentences.path}: {cut} of {len(sentences)} rows are longer than {model.max_length} tokens and cut off",
            stacklevel=2,
        )
    return EncodedSentences(
        tuple(encoding.ids for encoding in encoded),
        tuple(encoding.type_ids for encoding in encoded),
        sentences.labels,
    )


class Collate:
    """Samples of `EncodedSentences` -> ids, mask, types (B, L), labels (B,); L is that of the longest."""

    def __init__(self, padding: int) -> None:
        self.padding = padding

    def __call__(self, samples: list[tuple[list[int], list[int], int]]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        longest = max(len(ids) for ids, *_ in samples)
        ids = torch.full((len(samples), longest), self.padding)
        types, mask = torch.zeros_like(ids), torch.zeros_like(ids, dtype=torch.bool)
        for row, (numbers, segments, _) in enumerate(samples):
            ids[row, : len(numbers)] = torch.tensor(numbers)
            types[row, : len(numbers)] = torch.tensor(segments)
            mask[row, : len(numbers)] = True
        return ids, mask, types, torch.tensor([label for *_, label in samples])


# -- vocabularies -------------------------------------------------------------------------------


def word_tokenizer(words: Iterable[str]) -> str:
    """JSON of a lower-casing tokenizer in BERT's format.

    Args:
        words: vocabulary in the order of its numbers, the special tokens of BERT among them.
    """
    tokenizers = require("tokenizers", EXTRA)
    vocabulary = {word: number for number, word in enumerate(words)}
    missing = [token for token in SPECIAL if token not in vocabulary]
    if missing:
        raise Problem(f"the vocabulary has no {missing[0]}", "vocab.txt", "write one token a line, as BERT's files do")
    return tokenizers.BertWordPieceTokenizer(vocabulary, lowercase=True).to_str()


def vocabulary(sentences: Sentences, most: int = 30_000) -> list[str]:
    """The special tokens of BERT and the most frequent words of some sentences."""
    tokenizers = require("tokenizers", EXTRA)
    bert = tokenizers.BertWordPieceTokenizer(lowercase=True)
    counts: dict[str, int] = {}
    for text in (part for pair in sentences.texts for part in pair):
        for word, _ in bert.pre_tokenizer.pre_tokenize_str(bert.normalizer.normalize_str(text)):
            counts[word] = counts.get(word, 0) + 1
    return [*SPECIAL, *sorted(counts, key=lambda word: (-counts[word], word))[: most - len(SPECIAL)]]
