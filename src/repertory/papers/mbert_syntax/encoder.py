"""Sentences through an encoder of Hugging Face: first subwords, hidden states, and the parser on top."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from huggingface_hub import PyTorchModelHubMixin
from torch import Tensor, nn
from torch.nn import functional as F

from repertory.core.problem import Problem, require
from repertory.data.conllu import Sentence
from repertory.nn.encoders import EXTRA, build_encoder, load_encoder
from repertory.papers.mbert_syntax.model import NOTHING, Parse, ParserHead

UNKNOWN_PIECES = ("[UNK]", "<unk>")
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
MASKED_SHARE = 0.15


@dataclass(frozen=True)
class Encoded:
    """Subwords of one sentence, [CLS] and [SEP] included.

    Attributes:
        ids: of the subwords.
        places: position of [CLS] and of the first subword of each word.
        sentence: where the words come from; cut where it is too long.
        whole: whether no word was cut off.
    """

    ids: tuple[int, ...]
    places: tuple[int, ...]
    sentence: Sentence
    whole: bool

    @property
    def usable(self) -> bool:
        """Whether all words that are left have their heads."""
        return max(self.sentence.heads, default=0) < len(self.places) and bool(self.sentence.heads)


class Batch(NamedTuple):
    """Sentences side by side: B of them, T subwords, N positions ([CLS] and the words) in the longest.

    Attributes:
        ids, mask: (B, T), bool mask of subwords.
        places: (B, N), positions in T.
        words: (B, N) bool, False at [CLS] and at padding.
        heads, relations, upos: (B, N), -1 at [CLS] and at padding.
    """

    ids: Tensor
    mask: Tensor
    places: Tensor
    words: Tensor
    heads: Tensor
    relations: Tensor
    upos: Tensor


class Encoder(nn.Module, PyTorchModelHubMixin, library_name="repertory"):
    """An encoder with its tokenizer.

    Args:
        encoder: configuration of transformers, with `model_type`.
        tokenizer: JSON of the library tokenizers.
        max_length: subwords of a sentence.
        shuffled: it reads the words of a sentence in a random order, always the same for one sentence: a control.

    Raises:
        Problem: transformers is not installed, knows no such encoder, or the tokenizer frames no sentence.
    """

    def __init__(self, encoder: dict[str, Any], tokenizer: str, max_length: int = 128, shuffled: bool = False) -> None:
        super().__init__()
        self.settings = {"encoder": encoder, "tokenizer": tokenizer, "max_length": max_length, "shuffled": shuffled}
        self.backbone = build_encoder(encoder)
        config = self.backbone.config
        self.width: int = config.hidden_size
        self.depth: int = config.num_hidden_layers
        self.max_length = min(max_length, getattr(config, "max_position_embeddings", max_length))
        self.shuffled = shuffled
        self.padding: int = getattr(config, "pad_token_id", 0) or 0
        self.tokenizer: Any = require("tokenizers", EXTRA).Tokenizer.from_str(tokenizer)
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()
        frame = self.tokenizer.encode("").ids
        unknown = [n for piece in UNKNOWN_PIECES if (n := self.tokenizer.token_to_id(piece)) is not None]
        if len(frame) != 2 or not unknown:
            raise Problem(
                "the tokenizer adds no [CLS] and [SEP], or has no [UNK]", "encoder", "give one of BERT's kind"
            )
        self.first, self.last = frame
        self.unknown = unknown[0]
        self._pieces: dict[str, list[int]] = {}

    @classmethod
    def from_folder(cls, folder: str | Path, **options: Any) -> Encoder:
        """A trained encoder, see `load_encoder`."""
        trained = load_encoder(folder)
        model = cls(trained.config, trained.tokenizer, **options)
        model.backbone.load_state_dict(trained.module.float().state_dict())
        return model

    def encode(self, sentence: Sentence) -> Encoded:
        """Subwords of a sentence, each word by itself; a word without any becomes [UNK]."""
        ids, places = [self.first], [0]
        for form in sentence.forms:
            if form not in self._pieces:
                self._pieces[form] = self.tokenizer.encode(form, add_special_tokens=False).ids or [self.unknown]
            if len(ids) + len(self._pieces[form]) + 1 > self.max_length:
                break
            places.append(len(ids))
            ids += self._pieces[form]
        kept = len(places) - 1
        whole = kept == len(sentence)
        if not whole:
            cut = {name: getattr(sentence, name)[:kept] for name in ("forms", "upos", "heads", "relations")}
            sentence = replace(sentence, **cut)
        encoded = Encoded((*ids, self.last), tuple(places), sentence, whole)
        return _shuffled(encoded) if self.shuffled and kept else encoded

    def forward(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, ...]:
        """Hidden states (B, T, H) of the embeddings and of every layer."""
        return self.backbone(input_ids=ids, attention_mask=mask.long(), output_hidden_states=True).hidden_states

    def states(self, batch: Batch) -> list[Tensor]:
        """Hidden states (B, N, H) of [CLS] and the first subwords, for the embeddings and every layer."""
        index = batch.places[:, :, None].expand(-1, -1, self.width)
        return [layer.gather(1, index) for layer in self(batch.ids, batch.mask)]

    def collate(self, encoded: Sequence[Encoded]) -> Batch:
        """Pad sentences to the longest."""

        def padded(rows: Iterable[Sequence[int]], fill: int) -> Tensor:
            return nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=fill)

        labels = [
            padded([(NOTHING, *getattr(e.sentence, name)) for e in encoded], NOTHING)
            for name in ("heads", "relations", "upos")
        ]
        words = padded([(0, *(1,) * len(e.sentence)) for e in encoded], 0).bool()
        mask = padded([(1,) * len(e.ids) for e in encoded], 0).bool()
        return Batch(
            padded([e.ids for e in encoded], self.padding), mask, padded([e.places for e in encoded], 0), words, *labels
        )


def _shuffled(encoded: Encoded) -> Encoded:
    """The same words in another order, drawn from the subwords themselves; `places` find them again."""
    ends = [*encoded.places[2:], len(encoded.ids) - 1]
    parts = [encoded.ids[a:b] for a, b in zip(encoded.places[1:], ends, strict=True)]
    seed = sum((k + 1) * number for k, number in enumerate(encoded.ids)) % 2**31
    order = torch.randperm(len(parts), generator=torch.Generator().manual_seed(seed)).tolist()
    ids, places = [encoded.ids[0]], [0] * len(encoded.places)
    for k in order:
        places[k + 1] = len(ids)
        ids += parts[k]
    return Encoded((*ids, encoded.ids[-1]), tuple(places), encoded.sentence, encoded.whole)


# -- the parser ---------------------------------------------------------------------------------


class Parser(nn.Module, PyTorchModelHubMixin, library_name="repertory"):
    """An encoder with a `ParserHead` on its last layer.

    Args:
        encoder: arguments of `Encoder`.
        head: arguments of `ParserHead` other than `hidden`.
        source: code of the language that it learns.
        frozen: only the head learns.
        sources: languages whose parsers were trained along with it, see `transfer`.
        targets: languages that they were tested on.
    """

    def __init__(
        self,
        encoder: dict[str, Any],
        head: dict[str, Any] | None = None,
        source: str = "",
        frozen: bool = False,
        sources: list[str] | None = None,
        targets: list[str] | None = None,
    ) -> None:
        super().__init__()
        self.encoder = Encoder(**encoder)
        self.head = ParserHead(self.encoder.width, **(head or {}))
        self.source, self.frozen = source, frozen
        self.sources, self.targets = list(sources or []), list(targets or [])
        self.transfer: Tensor
        """LAS (sources, targets) of parsers trained on each source, per cent; NaN where not measured."""
        self.register_buffer("transfer", torch.full((len(self.sources), len(self.targets)), torch.nan))
        self.encoder.requires_grad_(not frozen)

    def train(self, mode: bool = True) -> Parser:
        """As usual; a frozen encoder stays in evaluation mode."""
        super().train(mode)
        if self.frozen:
            self.encoder.eval()
        return self

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Losses of a batch, see `ParserHead.losses`."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            hidden = self.encoder.states(batch)[-1]
        return self.head.losses(hidden, batch.heads, batch.relations, batch.upos)

    def parse(self, batch: Batch) -> list[Parse]:
        """Trees of a batch of sentences."""
        with torch.no_grad():
            return self.head.parse(self.encoder.states(batch)[-1], batch.words)


# -- masked-language training -------------------------------------------------------------------


def train_tokenizer(forms: Iterable[str], size: int) -> str:
    """JSON of a word-piece tokenizer trained on words; the same words give the same pieces."""
    tokenizers = require("tokenizers", EXTRA)
    words = list(forms)
    # The library breaks ties by the numbers of pieces, and numbers the inner letters in an order of chance: fix it.
    inner = [f"##{letter}" for letter in sorted(set("".join(words)))]
    trained = tokenizers.BertWordPieceTokenizer(lowercase=False, strip_accents=False)
    trained.train_from_iterator(words, vocab_size=size, show_progress=False, special_tokens=[*SPECIAL, *inner])
    pieces = [*SPECIAL, *sorted(set(trained.get_vocab()) - set(SPECIAL))]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    return tokenizers.BertWordPieceTokenizer(vocabulary, lowercase=False, strip_accents=False).to_str()


class MaskedLanguageModel(nn.Module):
    """BERT's masked-language head on an `Encoder` of its kind.

    Shape:
        ids, mask (B, T) -> loss, a scalar. 15 % of the subwords are predicted: 80 % of them are masked, 10 % replaced.
    """

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        transformers = require("transformers", EXTRA)
        self.encoder = encoder
        config = encoder.backbone.config
        whole = transformers.BertForMaskedLM(config)
        self.cls = whole.cls
        self.cls.predictions.decoder.weight = encoder.backbone.embeddings.word_embeddings.weight
        self.blank: int = encoder.tokenizer.token_to_id("[MASK]")

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        inside = mask & (ids != self.encoder.first) & (ids != self.encoder.last)
        draw = torch.rand(ids.shape, device=ids.device)
        chosen = inside & (draw < MASKED_SHARE)
        if not chosen.any():
            chosen = inside
        read = torch.where(chosen & (draw < 0.8 * MASKED_SHARE), self.blank, ids)
        random = torch.randint_like(ids, len(SPECIAL), self.encoder.backbone.config.vocab_size)
        read = torch.where(chosen & (draw > 0.9 * MASKED_SHARE), random, read)
        hidden = self.encoder(read, mask)[-1][chosen]
        return F.cross_entropy(self.cls(hidden), ids[chosen])
