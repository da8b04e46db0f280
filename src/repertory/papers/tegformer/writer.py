"""Essays in and out: a network with its tokenizer and its topics, which writes texts."""

from __future__ import annotations

import re
import warnings
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from huggingface_hub import PyTorchModelHubMixin
from torch import Tensor, nn
from torch.utils.data import Dataset

from repertory.core.problem import Problem, suggest
from repertory.data.essays import MOST_TOPICS, Essays
from repertory.papers.tegformer.model import TegFormer, smoothed_loss
from repertory.tasks.language import Decoding, LanguageModel, decode, special_ids, tokenizer_from

FRAME = ("[PAD]", "[CLS]", "[SEP]")
SMOOTHING = 0.1
BETWEEN_CHINESE = re.compile(
    r"(?<=[\u3000-\u303f\u4e00-\u9fff\uff00-\uffef])\s+(?=[\u3000-\u303f\u4e00-\u9fff\uff00-\uffef])"
)
BEFORE_SIGNS = re.compile(r"\s+(?=[.,;:!?])")


class Batch(NamedTuple):
    """Essays side by side.

    Attributes:
        topics, mask: (B, S), numbers of topics, and where there is one.
        ids, gold: (B, L), tokens to read and those to predict; padded.
        states: (B, L, G), GPT-2's states of `ids` if they are known, else None.
    """

    topics: Tensor
    mask: Tensor
    ids: Tensor
    gold: Tensor
    states: Tensor | None


class Row(NamedTuple):
    """One essay: its topics and tokens, [CLS] and [SEP] included; GPT-2's states of all tokens but the last."""

    topics: tuple[int, ...]
    ids: tuple[int, ...]
    states: np.ndarray | None


class EssayRows(Dataset[Row]):
    """Essays as numbers.

    Args:
        topics: of each essay.
        ids: tokens of each essay.
        states: (tokens of all essays, G), see `Row`; None: unknown.
    """

    draws = False

    def __init__(
        self, topics: Sequence[tuple[int, ...]], ids: Sequence[tuple[int, ...]], states: np.ndarray | None = None
    ) -> None:
        self.topics, self.ids, self.states = topics, ids, states
        self.starts = np.cumsum([0, *(len(row) - 1 for row in ids)])

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> Row:
        states = None if self.states is None else self.states[self.starts[index] : self.starts[index + 1]]
        return Row(self.topics[index], self.ids[index], states)


class Author(nn.Module):
    """What writes essays on topics.

    Args:
        tokenizer: JSON of the library tokenizers, with [PAD], [CLS] and [SEP].
        topics: the dictionary.
        max_length: tokens of an essay, [CLS] and [SEP] included; longer ones are cut.

    Raises:
        Problem: the tokenizer lacks special tokens.
    """

    def __init__(self, tokenizer: str, topics: Sequence[str], max_length: int) -> None:
        super().__init__()
        self.tokenizer = tokenizer_from(tokenizer)
        self.padding, self.start, self.stop = special_ids(self.tokenizer, FRAME)
        self.topics, self.max_length = list(topics), max_length
        self.number = {topic: k for k, topic in enumerate(self.topics)}

    @property
    @abstractmethod
    def judge(self) -> Any:
        """The frozen GPT-2 of the run, a causal model of transformers; None: there is none."""

    @abstractmethod
    def forward(self, batch: Batch) -> Tensor:
        """Log-probabilities (B, L, V) of `batch.gold`."""

    @abstractmethod
    def write(self, topics: Sequence[Sequence[str]], decoding: Decoding, most: int) -> list[str]:
        """An essay for each list of topics.

        Args:
            topics: known ones, see `known`.
            decoding: how tokens are chosen.
            most: tokens of an essay at most.
        """

    def ids_of(self, text: str) -> tuple[int, ...]:
        """Tokens of an essay, framed by [CLS] and [SEP]; cut to `max_length`."""
        inner = self.tokenizer.encode(text, add_special_tokens=False).ids[: self.max_length - 2]
        return (self.start, *inner, self.stop)

    def rows(self, essays: Essays, states: np.ndarray | None = None) -> EssayRows:
        """Essays as numbers; warns of those that are cut."""
        encoded = self.tokenizer.encode_batch(list(essays.texts), add_special_tokens=False)
        limit = self.max_length - 2
        cut = sum(len(one.ids) > limit for one in encoded)
        if cut:
            warnings.warn(
                f"{essays.path}: {cut} of {len(essays)} essays are longer than {self.max_length} tokens and cut",
                stacklevel=2,
            )
        ids = [(self.start, *one.ids[:limit], self.stop) for one in encoded]
        return EssayRows([tuple(self.number[t] for t in given) for given in essays.topics], ids, states)

    def known(self, topics: Sequence[str], where: object = "topics") -> list[str]:
        """The topics that the dictionary has, five at most; warns of the others.

        Raises:
            Problem: none is known; names the closest ones.
        """
        known = [topic for topic in dict.fromkeys(topics) if topic in self.number]
        unknown = [topic for topic in topics if topic not in self.number]
        if not known:
            hints = "".join(suggest(topic, self.topics) for topic in unknown[:1])
            some = ", ".join(self.topics[:8])
            given = ", ".join(unknown) or "nothing was given"
            raise Problem(f"none of the topics is known: {given}{hints}", where, f"topics are: {some}, …")
        for topic in unknown:
            warnings.warn(f"unknown topic {topic!r} is left out{suggest(topic, self.topics)}", stacklevel=2)
        if len(known) > MOST_TOPICS:
            warnings.warn(f"{len(known)} topics; the first {MOST_TOPICS} are kept", stacklevel=2)
        return known[:MOST_TOPICS]

    def text(self, ids: Sequence[int]) -> str:
        """Tokens as text, without spaces between Chinese characters and before punctuation."""
        text = self.tokenizer.decode(list(ids), skip_special_tokens=True)
        return BEFORE_SIGNS.sub("", BETWEEN_CHINESE.sub("", text)).strip()

    def collate(self, rows: Sequence[Row]) -> Batch:
        """Pad to the longest essay and the most topics. A missing topic has the number 0, and is masked."""

        def padded(columns: Sequence[Sequence[int]], fill: int) -> Tensor:
            return nn.utils.rnn.pad_sequence([torch.tensor(c) for c in columns], batch_first=True, padding_value=fill)

        states = None
        if rows[0].states is not None:
            arrays = [torch.tensor(row.states, dtype=torch.float32) for row in rows]
            states = nn.utils.rnn.pad_sequence(arrays, batch_first=True)
        topics = padded([row.topics for row in rows], 0)
        mask = padded([[1] * len(row.topics) for row in rows], 0).bool()
        ids = padded([row.ids[:-1] for row in rows], self.padding)
        return Batch(topics, mask, ids, padded([row.ids[1:] for row in rows], self.padding), states)

    def topic_batch(self, topics: Sequence[Sequence[str]]) -> tuple[Tensor, Tensor]:
        """Numbers and mask (B, S) of known topics."""
        rows = [Row(tuple(self.number[topic] for topic in given), (self.start, self.stop), None) for given in topics]
        batch = self.collate(rows)
        device = next(self.parameters()).device
        return batch.topics.to(device), batch.mask.to(device)


class TopicWriter(Author, PyTorchModelHubMixin, library_name="repertory"):
    """TegFormer with its tokenizer, topics and extension words.

    Args:
        network: arguments of `TegFormer` other than the numbers of tokens, topics and words.
        tokenizer, topics, max_length: see `Author`.
        words: extension words.

    Raises:
        Problem: GPT-2 reads fewer tokens than an essay has, or has another vocabulary than the tokenizer.
    """

    def __init__(
        self, network: dict[str, Any], tokenizer: str, topics: list[str], words: list[str], max_length: int = 150
    ) -> None:
        super().__init__(tokenizer, topics, max_length)
        self.words = list(words)
        size = self.tokenizer.get_vocab_size()
        self.network = TegFormer(size, max(1, len(topics)), len(words), padding=self.padding, **network)
        positions = getattr(getattr(self.network.gpt2, "config", None), "max_position_embeddings", max_length)
        if positions < max_length:
            raise Problem(
                f"GPT-2 reads {positions} tokens, an essay has {max_length}", "max_length", "lower max_length"
            )

    @property
    def judge(self) -> Any:
        return self.network.gpt2

    def forward(self, batch: Batch) -> Tensor:
        return self.network(batch.topics, batch.mask, batch.ids, batch.states)

    @torch.no_grad()
    def write(self, topics: Sequence[Sequence[str]], decoding: Decoding, most: int) -> list[str]:
        numbers, mask = self.topic_batch(topics)
        stepper = self.network.begin(numbers, mask, decoding.rows)
        first = torch.full((len(topics),), self.start, device=numbers.device)
        most = min(most, self.max_length - 1)
        return [self.text(ids) for ids in decode(stepper, first, self.stop, most, decoding)]

    def extension_of(self, topic: str) -> list[str]:
        """The extension words of a topic."""
        numbers = self.network.neighbours[self.number[topic]].tolist()
        return [self.words[k] for k in numbers if k < len(self.words)]


class PromptedWriter(Author, PyTorchModelHubMixin, library_name="repertory"):
    """A GPT-2 that reads [CLS] topics [SEP], and writes the essay after it.

    Args:
        config: of a causal model of transformers; one copy of it is fine-tuned, one stays as it is.
        tokenizer, topics, max_length: see `Author`.
    """

    def __init__(self, config: dict[str, Any], tokenizer: str, topics: list[str], max_length: int = 150) -> None:
        super().__init__(tokenizer, topics, max_length)
        self.gpt2, self.model = LanguageModel(config, tokenizer), LanguageModel(config, tokenizer)
        self.gpt2.requires_grad_(False)

    def train(self, mode: bool = True) -> PromptedWriter:
        """As usual; the copy that judges stays in evaluation mode."""
        super().train(mode)
        self.gpt2.eval()
        return self

    @property
    def judge(self) -> Any:
        return self.gpt2.network

    def prompt(self, topics: Sequence[str]) -> list[int]:
        """[CLS] topics [SEP]."""
        words = self.tokenizer.encode(" ".join(topics), add_special_tokens=False).ids
        return [self.start, *words, self.stop]

    def forward(self, batch: Batch) -> Tensor:
        """Prompts of different lengths are padded on the left, so that essays stand side by side."""
        prompts = [
            self.prompt([self.topics[k] for k in row[seen].tolist()])
            for row, seen in zip(batch.topics, batch.mask, strict=True)
        ]
        longest = max(map(len, prompts))
        device = batch.ids.device
        left = [[self.padding] * (longest - len(prompt)) + prompt for prompt in prompts]
        ids = torch.cat([torch.tensor(left, device=device), batch.ids[:, 1:]], 1)  # [SEP] stands for the essay's [CLS]
        mask = ids != self.padding
        places = (mask.cumsum(1) - 1).clamp(min=0)
        self._check(int(places.max()) + 1)
        logits = self.model.network(input_ids=ids, attention_mask=mask.long(), position_ids=places).logits
        return logits[:, longest - 1 :].log_softmax(-1)

    def _check(self, length: int) -> None:
        positions = self.model.positions
        if positions is not None and length > positions:
            raise Problem(
                f"topics and essay have {length} tokens, GPT-2 reads {positions}", "max_length", "lower max_length"
            )

    @torch.no_grad()
    def write(self, topics: Sequence[Sequence[str]], decoding: Decoding, most: int) -> list[str]:
        prompts = [self.prompt(given) for given in topics]
        room = (self.model.positions or self.max_length) - max(map(len, prompts))
        most = min(most, self.max_length - 1, room)
        return [self.text(ids) for ids in self.model.continuations(prompts, self.stop, most, **decoding.options())]


def essay_loss(model: nn.Module, batch: Batch, padding: int = 0) -> Tensor:
    """Label-smoothed loss a token, see `smoothed_loss`."""
    return smoothed_loss(model(batch), batch.gold, SMOOTHING, padding) / (batch.gold != padding).sum()


@torch.no_grad()
def essay_losses(model: Author, batches: Iterator[Batch]) -> Iterator[tuple[float, int]]:
    """Negative log-likelihood of each essay in nats, [SEP] included, and how many tokens it is of."""
    for batch in batches:
        counted = batch.gold != model.padding
        losses = -model(batch).gather(-1, batch.gold[..., None])[..., 0] * counted
        yield from zip(losses.sum(1).tolist(), counted.sum(1).tolist(), strict=True)


def cached_states(
    model: TopicWriter, rows: EssayRows, array: np.ndarray, progress: Callable[[Sequence[int]], Iterator[int]]
) -> EssayRows:
    """The rows with GPT-2's states of their tokens: they never change, since it is frozen.

    Args:
        model: in evaluation mode.
        rows: essays without states.
        array: (tokens of all rows, G), to be filled.
        progress: over starts of batches.
    """
    device = next(model.parameters()).device
    for start in progress(range(0, len(rows), 64)):
        part = [rows[k] for k in range(start, min(start + 64, len(rows)))]
        batch = model.collate(part)
        states = model.network.states(batch.ids.to(device)).cpu().numpy()
        for k, row in enumerate(part, start=start):
            array[rows.starts[k] : rows.starts[k + 1]] = states[k - start, : len(row.ids) - 1]
    return EssayRows(rows.topics, rows.ids, array)
