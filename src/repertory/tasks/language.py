"""Language models: Hugging Face folders, tokenizers, training on texts, decoding.

`LanguageModel` is a causal model of transformers with its tokenizer, and generates by transformers' own `generate`.
`decode` is for networks which that cannot serve, such as a decoder with several caches: see `Stepper`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from huggingface_hub import PyTorchModelHubMixin
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset

from repertory.core.arguments import check_choice, check_positive, check_whole
from repertory.core.files import replace_folder
from repertory.core.problem import Problem, reason, require
from repertory.core.settings import Recipe
from repertory.core.study import Session
from repertory.core.training import fit
from repertory.nn.encoders import EXTRA, build_encoder, load_encoder

NO_TARGET = -100
"""Label of a position that is not predicted."""
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")


# -- tokenizers ---------------------------------------------------------------------------------


def load_tokenizer(folder: str | Path) -> str:
    """JSON of the library tokenizers of a fast tokenizer in a folder.

    Raises:
        Problem: no such folder, or no fast tokenizer in it.
    """
    path = Path(folder)
    if not path.is_dir():
        raise Problem("no tokenizer of Hugging Face here", path, "give a folder that save_pretrained wrote")
    try:
        loaded = require("transformers", EXTRA).AutoTokenizer.from_pretrained(str(path), local_files_only=True)
        return loaded.backend_tokenizer.to_str()
    except Problem:
        raise
    except Exception as error:  # transformers and tokenizers raise many kinds on a damaged file
        what = f"the tokenizer cannot be loaded: {reason(error)}"
        raise Problem(what, path, "save it with save_pretrained") from error


def tokenizer_from(text: str) -> Any:
    """A tokenizer of the library tokenizers from its JSON, without truncation and padding.

    Raises:
        Problem: no such JSON.
    """
    tokenizers = require("tokenizers", EXTRA)
    try:
        tokenizer = tokenizers.Tokenizer.from_str(text)
    except Exception as error:  # the library raises Exception itself
        raise Problem(f"not a tokenizer: {error}", "tokenizer", "give the JSON that tokenizers writes") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def special_ids(tokenizer: Any, names: Sequence[str], where: object = "tokenizer") -> list[int]:
    """Numbers of special tokens.

    Raises:
        Problem: the vocabulary lacks some; names them.

    Example:
        >>> special_ids(tokenizer_from(word_tokenizer(["a b"])), ["[PAD]", "[SEP]"])
        [0, 3]
    """
    ids = [tokenizer.token_to_id(name) for name in names]
    missing = [name for name, number in zip(names, ids, strict=True) if number is None]
    if missing:
        raise Problem(f"the tokenizer has no {', '.join(missing)}", where, "give one that has them, as BERT's do")
    return ids


def word_tokenizer(texts: Iterable[str], most: int = 30_000, special: Sequence[str] = SPECIAL) -> str:
    """JSON of a lower-casing tokenizer of whole words, punctuation signs, and single Chinese characters.

    Args:
        texts: whose most frequent words become the vocabulary; ties by alphabet.
        most: tokens, special ones included.
        special: tokens in front of the others; one must be [UNK].
    """
    tokenizers = require("tokenizers", EXTRA)
    split = tokenizers.pre_tokenizers.BertPreTokenizer()
    normal = tokenizers.normalizers.BertNormalizer(lowercase=True, strip_accents=False)
    counts: dict[str, int] = {}
    for text in texts:
        for word, _ in split.pre_tokenize_str(normal.normalize_str(text)):
            counts[word] = counts.get(word, 0) + 1
    words = sorted(counts, key=lambda word: (-counts[word], word))[: max(0, most - len(special))]
    vocabulary = {word: number for number, word in enumerate(dict.fromkeys([*special, *words]))}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normal, split
    tokenizer.add_special_tokens([*special])
    return tokenizer.to_str()


# -- models -------------------------------------------------------------------------------------


class LanguageModel(nn.Module, PyTorchModelHubMixin, library_name="repertory"):
    """A causal language model of transformers with its tokenizer.

    Args:
        config: configuration of transformers, with `model_type`.
        tokenizer: JSON of the library tokenizers.

    Shape:
        ids (B, L), mask (B, L) or None -> logits (B, L, V).

    Raises:
        Problem: transformers is not installed, knows no such model, or the tokenizer has more tokens than the model.
    """

    def __init__(self, config: dict[str, Any], tokenizer: str) -> None:
        super().__init__()
        self.settings = {"config": config, "tokenizer": tokenizer}
        self.tokenizer = tokenizer_from(tokenizer)
        self.network = build_encoder(config, "AutoModelForCausalLM")
        check_vocabulary(self.tokenizer, self.network.config.vocab_size)

    @classmethod
    def from_folder(cls, folder: str | Path, tokenizer: str = "") -> LanguageModel:
        """A trained model, as `save_pretrained` of transformers writes it.

        Args:
            folder: with config.json, weights, and a fast tokenizer.
            tokenizer: folder of another tokenizer; empty: the model's own.
        """
        trained = load_encoder(folder, "AutoModelForCausalLM")
        model = cls(trained.config, load_tokenizer(tokenizer) if tokenizer else trained.tokenizer)
        model.network.load_state_dict(trained.module.state_dict())
        return model

    @property
    def positions(self) -> int | None:
        """The most tokens that it reads; None: without limit."""
        return getattr(self.network.config, "max_position_embeddings", None)

    def forward(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        return self.network(input_ids=ids, attention_mask=None if mask is None else mask.long()).logits

    @torch.no_grad()
    def continuations(self, prompts: Sequence[Sequence[int]], stop: int, most: int, **options: Any) -> list[list[int]]:
        """What the model writes after each prompt, by transformers' `generate` with its cache.

        Args:
            prompts: token numbers, at least one each.
            stop: the token that ends a text; it is left out of the answer.
            most: new tokens at most.
            options: of `generate`: do_sample, top_k, top_p, num_beams, ...
        """
        longest = max(map(len, prompts))
        device = next(self.parameters()).device
        ids = torch.tensor([[stop] * (longest - len(row)) + list(row) for row in prompts], device=device)  # to the left
        mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in prompts], device=device)
        written = self.network.generate(
            ids, attention_mask=mask, pad_token_id=stop, eos_token_id=stop, max_new_tokens=most, **options
        )
        return until(written[:, longest:], stop)

    def save_folder(self, folder: Path) -> None:
        """Write a folder that transformers and `from_folder` read."""
        transformers = require("transformers", EXTRA)
        with replace_folder(Path(folder)) as fresh:
            self.network.save_pretrained(fresh)
            special = {f"{name[1:-1].lower()}_token": name for name in SPECIAL if self.tokenizer.token_to_id(name)}
            transformers.PreTrainedTokenizerFast(tokenizer_object=self.tokenizer, **special).save_pretrained(fresh)


def check_vocabulary(tokenizer: Any, size: int, where: object = "tokenizer") -> None:
    """Raise `Problem` where a tokenizer has more tokens than the model whose vocabulary has this size."""
    if tokenizer.get_vocab_size() > size:
        raise Problem(
            f"the tokenizer has {tokenizer.get_vocab_size()} tokens, the model's vocabulary {size}",
            where,
            "give the tokenizer that the model was trained with",
        )


def small_gpt2(
    vocabulary: int, width: int = 64, layers: int = 2, heads: int = 4, positions: int = 80
) -> dict[str, Any]:
    """Configuration of a GPT-2 that trains in a minute."""
    check_whole("small_gpt2", vocabulary=vocabulary, width=width, layers=layers, heads=heads, positions=positions)
    return {
        "model_type": "gpt2",
        "vocab_size": vocabulary,
        "n_embd": width,
        "n_layer": layers,
        "n_head": heads,
        "n_positions": positions,
        "bos_token_id": None,
        "eos_token_id": None,
    }


# -- training -----------------------------------------------------------------------------------


class TokenRows(Dataset[list[int]]):
    """Texts as token numbers, a row each."""

    draws = False

    def __init__(self, rows: Sequence[Sequence[int]]) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> list[int]:
        return list(self.rows[index])


def collate_rows(rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Rows of any lengths -> ids (B, L), padded with 0, and their mask (B, L)."""
    ids = nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True)
    lengths = torch.tensor([len(row) for row in rows])
    return ids, torch.arange(ids.shape[1]) < lengths[:, None]


def packed(texts: Iterable[Sequence[int]], length: int, start: int, stop: int) -> list[list[int]]:
    """Consecutive texts joined into rows of at most `length` tokens with `start` and `stop`; longer texts are cut.

    Example:
        >>> packed([[5, 6], [7], [8, 9]], 5, start=2, stop=3)
        [[2, 5, 6, 7, 3], [2, 8, 9, 3]]
    """
    rows: list[list[int]] = []
    row: list[int] = []
    for text in texts:
        if row and len(row) + len(text) > length - 2:
            rows.append([start, *row, stop])
            row = []
        row += text[: length - 2]
    return [*rows, [start, *row, stop]] if row else rows


def next_token_loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Mean cross entropy of all tokens but the first of each row, in nats."""
    ids, mask = batch
    labels = ids.masked_fill(~mask, NO_TARGET)[:, 1:]
    return F.cross_entropy(model(ids, mask)[:, :-1].flatten(0, 1), labels.flatten(), ignore_index=NO_TARGET)


def train_language_model(
    session: Session, model: LanguageModel, rows: Sequence[Sequence[int]], recipe: Recipe, part: str = "language model"
) -> LanguageModel:
    """Train on texts by next-token prediction, with progress and resume points; see `fit`.

    Args:
        session: of the trial.
        model: trained in place.
        rows: token numbers of the texts; see `packed` for short ones.
        recipe: epochs, optimizer, schedule.
        part: name of the loop.

    Raises:
        Problem: no rows, or one that is longer than the model reads.
    """
    longest = max(map(len, rows), default=0)
    if model.positions is not None and longest > model.positions:
        raise Problem(
            f"a text has {longest} tokens, the language model reads {model.positions}", "training data", "cut the texts"
        )
    return fit(session, model, TokenRows(rows), recipe, next_token_loss, collate=collate_rows, part=part)


@torch.no_grad()
def token_losses(
    logits: Callable[[Tensor, Tensor], Tensor], batches: Iterable[tuple[Tensor, Tensor]]
) -> Iterator[tuple[float, int]]:
    """Negative log-likelihood of each row, in nats, and how many tokens it is of: all but the first.

    Args:
        logits: ids and mask (B, L) -> (B, L, V), a `LanguageModel` in evaluation mode.
        batches: as `collate_rows` gives them.
    """
    for ids, mask in batches:
        labels = ids.masked_fill(~mask, NO_TARGET)[:, 1:]
        found = logits(ids, mask)[:, :-1].transpose(1, 2)
        losses = F.cross_entropy(found, labels, ignore_index=NO_TARGET, reduction="none").sum(1)
        yield from zip(losses.tolist(), (labels != NO_TARGET).sum(1).tolist(), strict=True)


# -- decoding of other networks -----------------------------------------------------------------


class Stepper(Protocol):
    """A network that writes one token after the other and keeps what it has read."""

    def step(self, ids: Tensor) -> Tensor:
        """The next tokens (B,) -> logits (B, V) of those after them."""
        ...

    def reorder(self, rows: Tensor) -> None:
        """Go on with these rows (B,) of what has been read."""
        ...


Method = Literal["top_k", "nucleus", "greedy", "beam"]


@dataclass(frozen=True)
class Decoding:
    """How tokens are chosen.

    Args:
        method: sample from the `top_k` likeliest tokens, or from the likeliest of total probability `top_p`; take the
            likeliest; or search with beams.
        top_k, top_p, temperature: of sampling.
        beams: of the search.
        length_penalty: beams are compared by log-probability / length ** length_penalty.
        length_offset: with n, by log-probability / ((n + length) / (n + 1)) ** length_penalty; 5: as in Google's NMT.

    Raises:
        Problem: an unknown method, or a number out of range.
    """

    method: Method = "top_k"
    top_k: int = 10
    top_p: float = 0.9
    temperature: float = 1.0
    beams: int = 4
    length_penalty: float = 1.0
    length_offset: int = 0

    def __post_init__(self) -> None:
        check_choice("Decoding", ("top_k", "nucleus", "greedy", "beam"), method=self.method)
        check_whole("Decoding", top_k=self.top_k, beams=self.beams)
        check_whole("Decoding", 0, length_offset=self.length_offset)
        check_positive("Decoding", top_p=self.top_p, temperature=self.temperature)

    @property
    def rows(self) -> int:
        """Rows that the network steps for each text."""
        return self.beams if self.method == "beam" else 1

    def options(self) -> dict[str, Any]:
        """The same as options of transformers' `generate`."""
        warm = {"do_sample": True, "temperature": self.temperature}
        return {
            "top_k": {**warm, "top_k": self.top_k},
            "nucleus": {**warm, "top_k": 0, "top_p": min(1.0, self.top_p)},
            "greedy": {"do_sample": False},
            "beam": {"do_sample": False, "num_beams": self.beams, "length_penalty": self.length_penalty},
        }[self.method]

    def warpers(self) -> Any:
        """Those of transformers that sampling needs."""
        processes = require("transformers", EXTRA)
        if self.method == "top_k":
            limit = processes.TopKLogitsWarper(self.top_k)
        else:
            limit = processes.TopPLogitsWarper(min(1.0, self.top_p))
        return processes.LogitsProcessorList([processes.TemperatureLogitsWarper(self.temperature), limit])


@torch.no_grad()
def decode(stepper: Stepper, first: Tensor, stop: int, most: int, decoding: Decoding) -> list[list[int]]:
    """Write B texts.

    Args:
        stepper: has read nothing yet; steps `decoding.rows` rows for each text, those of one text side by side.
        first: (B,), the token that each text starts with.
        stop: the token that ends a text. It and the first one are left out.
        most: tokens at most.
        decoding: how tokens are chosen; sampling draws from the global generator.

    Example:
        >>> class Counter:
        ...     def step(self, ids):
        ...         return F.one_hot((ids + 1) % 5, 5).float()
        >>> decode(Counter(), torch.tensor([0, 2]), stop=4, most=9, decoding=Decoding("greedy"))
        [[1, 2, 3], [3]]
    """
    if decoding.method == "beam":
        return _beam(stepper, first, stop, most, decoding)
    warpers = None if decoding.method == "greedy" else decoding.warpers()
    ids, done, written = first, torch.zeros_like(first, dtype=torch.bool), []
    for _ in range(most):
        logits = stepper.step(ids)
        ids = logits.argmax(-1) if warpers is None else _drawn(warpers(None, logits.float()))
        ids = ids.masked_fill(done, stop)
        written.append(ids)
        done = done | (ids == stop)
        if done.all():
            break
    return until(torch.stack(written, 1), stop)


def _drawn(logits: Tensor) -> Tensor:
    return torch.multinomial(logits.softmax(-1), 1)[:, 0]


def _beam(stepper: Stepper, first: Tensor, stop: int, most: int, decoding: Decoding) -> list[list[int]]:
    """Beams that have ended stay among the others, and grow no longer."""
    count, beams, device = len(first), decoding.beams, first.device
    ids = first.repeat_interleave(beams)
    base = torch.arange(count, device=device)[:, None] * beams
    scores = torch.full((count, beams), -torch.inf, device=device)
    scores[:, 0] = 0  # the beams of a text are the same yet
    lengths = torch.zeros_like(scores)
    done = torch.zeros(count * beams, dtype=torch.bool, device=device)
    written = torch.empty((count * beams, 0), dtype=torch.long, device=device)
    for _ in range(most):
        gains = stepper.step(ids).float().log_softmax(-1)
        gains[done] = -torch.inf
        gains[done, stop] = 0
        size = gains.shape[-1]
        scores, best = (scores[:, :, None] + gains.view(count, beams, size)).flatten(1).topk(beams)
        rows = (base + best // size).flatten()
        ids = (best % size).flatten()
        stepper.reorder(rows)
        lengths = lengths.flatten()[rows].view(count, beams) + (~done[rows]).view(count, beams)
        written = torch.cat([written[rows], ids[:, None]], 1)
        done = done[rows] | (ids == stop)
        if done.all():
            break
    offset = decoding.length_offset
    chosen = (scores / ((offset + lengths) / (offset + 1)) ** decoding.length_penalty).argmax(1)
    return until(written.view(count, beams, -1)[torch.arange(count, device=device), chosen], stop)


def until(ids: Tensor, stop: int) -> list[list[int]]:
    """Rows (B, L) as lists that end before the first `stop`."""
    return [list(itertools.takewhile(lambda number: number != stop, row)) for row in ids.tolist()]
