"""Grooves as prompts and completions, and those who continue them: a language model, or a rule.

In the paper's order: the text, the model, generation.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from huggingface_hub import PyTorchModelHubMixin, snapshot_download
from torch import Tensor, nn
from torch.nn import functional as F

from repertory.core.arguments import check_whole
from repertory.core.files import write_json
from repertory.core.problem import Damaged, Problem, require
from repertory.data.drums import COLUMNS, HIT, MEASURES, REST, ROWS, Drums, Grid, grid_text
from repertory.nn.encoders import EXTRA, build_encoder, config_of, load_encoder
from repertory.papers.llm_drums.language import save_causal_lm, with_lora
from repertory.tasks.language import tokenizer_from

SEPARATOR, END = "SEP\n", "END"
EMPTY = REST * len(COLUMNS)
SHORTEST = 128
"""Rows that a groove must exceed to be learned from."""
SETTINGS = "drummer.json"
Rule = Literal["human", "random", "repeat"]


# -- text ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Example:
    """A groove in two parts.

    Attributes:
        name: of the groove: number of the drummer, and the stem of its file.
        prompt: the first measures, a line SEP after each.
        completion: the other ones; without SEP at its end, but with END.
        drums: what the file holds.
    """

    name: str
    prompt: str
    completion: str
    drums: Drums

    @property
    def text(self) -> str:
        """The whole groove as rows."""
        return rows_of(self.prompt, self.completion)


def sounding(text: str) -> list[str]:
    """The rows of a groove without the measures at its beginning whose first 4 rows are empty."""
    rows = text.splitlines()
    while rows and all(row == EMPTY for row in rows[:4]):
        rows = rows[ROWS:]
    return rows


def make_example(
    name: str, drums: Drums, given: int = 2, measures: int = MEASURES, trim_silence: bool = False
) -> Example | None:
    """Prompt and completion of a groove; None if 128 rows or fewer are left without the silence at its beginning.

    Args:
        name: of the groove.
        drums: what its file holds.
        given: measures of the prompt.
        measures: of both parts; 16: all that there are.
        trim_silence: cut empty measures at the end.
    """
    rows = sounding(grid_text(drums.grid))
    if len(rows) <= SHORTEST:
        return None
    rows = rows if measures == MEASURES else rows[: measures * ROWS]
    while trim_silence and len(rows) > (given + 1) * ROWS and all(row == EMPTY for row in rows[-ROWS:]):
        rows = rows[:-ROWS]
    completion = separated(rows[given * ROWS :]).rstrip(SEPARATOR)  # a set of characters, as in the authors' code
    return Example(name, separated(rows[: given * ROWS]), f"{completion}\n{END}", drums)


def make_prompt(rows: Sequence[str], given: int, where: object) -> str:
    """The prompt of a groove that is to be continued.

    Args:
        rows: see `sounding`.
        given: measures of the prompt.
        where: the file, for the message.

    Raises:
        Problem: the last hit is in an earlier measure.
    """
    last = max((k for k, row in enumerate(rows) if HIT in row), default=-1)
    if last < (given - 1) * ROWS:
        played = last // ROWS + 1
        raise Problem(
            f"{played} measure(s) with notes, and {given} are continued",
            where,
            f"give {given} measures of {ROWS} sixteenth notes or more",
        )
    return separated([*rows[: given * ROWS], *[EMPTY] * max(0, given * ROWS - len(rows))])


def separated(rows: Sequence[str]) -> str:
    """Rows as lines, with a line SEP after every 16."""
    measures = (rows[start : start + ROWS] for start in range(0, len(rows), ROWS))
    return "".join(
        "".join(f"{row}\n" for row in measure) + (SEPARATOR if len(measure) == ROWS else "") for measure in measures
    )


def rows_of(prompt: str, completion: str) -> str:
    """A groove as rows: both parts up to END, without lines SEP.

    Example:
        >>> rows_of("o-----\\nSEP\\n", "-o----\\nEND").split()
        ['o-----', '-o----']
    """
    return (prompt + completion.partition(END)[0]).replace(SEPARATOR, "")


# -- the model ----------------------------------------------------------------------------------


class Batch(NamedTuple):
    """Examples side by side, padded on the right.

    Attributes:
        ids: (B, T).
        weights: (B, T), of each token in the loss; 0 for padding.
        completion: (B, T) bool.
    """

    ids: Tensor
    weights: Tensor
    completion: Tensor


class Drummer(nn.Module, PyTorchModelHubMixin, library_name="repertory"):
    """A causal language model that continues grooves.

    `save_pretrained` writes a folder that transformers' Auto classes read (with LoRA and a `base`: the adapter alone,
    as peft writes it), and drummer.json with the other arguments.

    Args:
        network: configuration of transformers, with `model_type`.
        tokenizer: JSON of the library tokenizers.
        given: measures of a prompt.
        measures: of a groove.
        lora: settings of peft's `LoraConfig`; None: all weights learn.
        base: folder of the model that an adapter belongs to; empty: the folder has all weights.

    Raises:
        Problem: transformers or peft are not installed, or know no such model; measures that do not go together.
    """

    def __init__(
        self,
        network: dict[str, Any],
        tokenizer: str,
        given: int = 2,
        measures: int = MEASURES,
        lora: dict[str, Any] | None = None,
        base: str = "",
    ) -> None:
        super().__init__()
        check_whole("Drummer", given=given, measures=measures)
        if given >= measures:
            raise Problem(f"given={given} of measures={measures}", "Drummer", "leave a measure to be continued")
        self.given, self.measures, self.base = given, measures, base
        self.lora: dict[str, Any] | None = None
        self.json = tokenizer
        self.tokenizer: Any = tokenizer_from(tokenizer)
        self.lm: Any = build_encoder(network, "AutoModelForCausalLM")
        self.network = config_of(self.lm)
        self.start: list[int] = self.tokenizer.encode("").ids
        """What the tokenizer puts before a text."""
        self.context: int = getattr(self.lm.config, "max_position_embeddings", 1 << 30)
        self.grammar = Grammar(self.tokenizer, measures - given)
        if lora is not None:
            self.add_lora(lora)

    @classmethod
    def from_folder(cls, folder: str | Path, **options: Any) -> Drummer:
        """A trained language model, see `load_encoder`, that knows nothing of drums yet."""
        trained = load_encoder(folder, "AutoModelForCausalLM")
        with torch.device("meta"):  # no weights that are thrown away at once
            model = cls(trained.config, trained.tokenizer, **options)
        model.lm = trained.module
        return model

    def add_lora(self, lora: Mapping[str, Any]) -> Drummer:
        """Freeze the weights and learn low-rank differences."""
        self.lm, self.lora = with_lora(self.lm, lora), dict(lora)
        return self

    def merge_lora(self) -> Drummer:
        """Add the differences to the weights for good."""
        if self.lora is not None:
            self.lm, self.lora = self.lm.merge_and_unload(), None
        return self

    def _save_pretrained(self, save_directory: Path) -> None:
        if self.lora is not None and not self.base:
            raise Problem("an adapter without a base", save_directory, "name the folder `base`, or merge_lora() first")
        save_causal_lm(self.lm, self.json, save_directory)
        if self.lora is not None:
            write_json(save_directory / "config.json", self.network)
        settings = {"given": self.given, "measures": self.measures, "lora": self.lora, "base": self.base}
        text = {"rows": ROWS, "columns": list(COLUMNS), "hit": HIT, "rest": REST, "separator": SEPARATOR, "end": END}
        write_json(save_directory / SETTINGS, {"arguments": settings, "text": text})

    @classmethod
    def _from_pretrained(
        cls, *, model_id: str, revision: str | None, cache_dir: str | Path | None, force_download: bool,
        local_files_only: bool, token: str | bool | None, map_location: str = "cpu", strict: bool = False, **_: Any,
    ) -> Drummer:  # fmt: skip
        """Load what `_save_pretrained` wrote; from the hub all files are fetched first."""
        folder = Path(model_id)
        if not folder.is_dir():
            fetched = snapshot_download(
                model_id, revision=revision, cache_dir=cache_dir, force_download=force_download, token=token,
                local_files_only=local_files_only,
            )  # fmt: skip
            folder = Path(fetched)
        arguments = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))["arguments"]
        lora, base = arguments.pop("lora"), arguments["base"]
        peft = require("peft", EXTRA)
        if lora is None:
            try:
                return cls.from_folder(folder, **arguments).to(map_location)
            except Problem as problem:
                raise Damaged(problem.what, folder, "it may be damaged, or of another version") from problem
        model = cls.from_folder(base, **arguments)
        model.lm = peft.PeftModel.from_pretrained(model.lm, str(folder))
        model.lora = lora
        return model.to(map_location)

    def forward(self, ids: Tensor, positions: Tensor | None = None) -> Tensor:
        """Logits of the next token, (B, T) -> (B, T, V)."""
        where = {} if positions is None else {"position_ids": positions}
        return self.lm(input_ids=ids, use_cache=False, **where).logits

    # -- learning -------------------------------------------------------------------------------

    def encode(self, text: str) -> list[int]:
        """Tokens of a text, without any that the tokenizer puts around it."""
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def tokens(self, example: Example) -> tuple[list[int], list[int]]:
        """Tokens of the prompt and of the completion, which is cut where the model's context ends."""
        prompt = [*self.start, *self.encode(example.prompt)]
        return prompt, self.encode(example.completion)[: max(0, self.context - len(prompt))]

    def is_cut(self, example: Example) -> bool:
        """Whether the context is too short for an example."""
        return sum(map(len, self.tokens(example))) < len([*self.start, *self.encode(example.prompt)]) + len(
            self.encode(example.completion)
        )

    def collate(self, examples: Sequence[Example], prompt_weight: float = 0.0) -> Batch:
        """A batch of examples; tokens of the prompt have the given weight in the loss."""
        pairs = [self.tokens(example) for example in examples]
        ids = [torch.tensor([*prompt, *completion]) for prompt, completion in pairs]
        inside = [torch.tensor([0] * len(prompt) + [1] * len(completion)) for prompt, completion in pairs]
        weights = [torch.where(part.bool(), 1.0, prompt_weight) for part in inside]
        ids, inside, weights = (nn.utils.rnn.pad_sequence(rows, batch_first=True) for rows in (ids, inside, weights))
        return Batch(ids, weights, inside.bool())

    def nats(self, batch: Batch) -> Tensor:
        """Negative log-likelihood of each completion, (B,), in nats."""
        return (surprise(self(batch.ids), batch.ids) * batch.completion[:, 1:]).sum(1)

    # -- generation -----------------------------------------------------------------------------

    @torch.no_grad()
    def complete(
        self,
        prompts: Sequence[str],
        temperature: float = 0.9,
        max_new_tokens: int = 1000,
        constrained: bool = False,
        use_cache: bool = True,
    ) -> list[str]:
        """Sample a completion of each prompt, up to END, from torch's global generator; no top-k, no top-p.

        Args:
            prompts: as in `Example.prompt`.
            temperature: 0: the most likely token.
            max_new_tokens: of a completion; at most as many as the context leaves.
            constrained: only continuations that are whole measures of well-formed rows can be drawn.
            use_cache: keep keys and values; False gives the same, slowly.

        Returns:
            Raw texts; END is not among them.

        Raises:
            Problem: the context leaves no room; `constrained`, and the tokenizer cannot write rows.
        """
        if not prompts:
            return []
        rows = [[*self.start, *self.encode(prompt)] for prompt in prompts]
        longest = max(map(len, rows))
        room = min(max_new_tokens, self.context - longest)
        if room < 1:
            raise Problem(f"prompts of {longest} tokens fill the context of {self.context}", "Drummer", "give less")
        device = next(self.parameters()).device
        ids = torch.tensor([[0] * (longest - len(row)) + row for row in rows], device=device)
        mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows], device=device)
        writer = Writer(self.grammar, len(rows), constrained)
        sampling = (
            {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}
            if temperature
            else {"do_sample": False}
        )
        generated = self.lm.generate(
            input_ids=ids, attention_mask=mask, max_new_tokens=room, pad_token_id=0,
            use_cache=use_cache, logits_processor=[writer.mask], stopping_criteria=[writer.stop], **sampling,
        )  # fmt: skip
        texts = self.tokenizer.decode_batch(generated[:, longest:].tolist(), skip_special_tokens=True)
        return [text.partition(END)[0] for text in texts]


def surprise(logits: Tensor, ids: Tensor) -> Tensor:
    """Cross entropy of each next token: logits (B, T, V), ids (B, T) -> (B, T - 1)."""
    return F.cross_entropy(logits[:, :-1].transpose(1, 2).float(), ids[:, 1:], reduction="none")


def completion_loss(model: nn.Module, batch: Batch) -> Tensor:
    """Mean cross entropy of the next token, weighted."""
    weights = batch.weights[:, 1:]
    return (surprise(model(batch.ids), batch.ids) * weights).sum() / weights.sum()


class Grammar:
    """Which tokens may follow, so that a completion is 1 to `most` measures of 16 rows, with SEP between and END after.

    A state is (measures done, position in the measure): 112 characters of rows, 4 of SEP, then those of END.

    Args:
        tokenizer: of the library tokenizers.
        most: measures of a completion.
    """

    LINE = len(COLUMNS) + 1
    BODY = ROWS * LINE
    DONE = BODY + len(SEPARATOR) + len(END) - 1
    START = (0, 0)

    def __init__(self, tokenizer: Any, most: int) -> None:
        self.most = most
        self.pieces = [_piece(tokenizer.id_to_token(k)) for k in range(tokenizer.get_vocab_size())]
        """What each token writes, newlines included."""
        letters = set(SEPARATOR + END + HIT + REST)
        self.usable = [(k, piece) for k, piece in enumerate(self.pieces) if piece and not set(piece) - letters]
        self._allowed: dict[tuple[int, bool], Tensor] = {}

    def step(self, state: tuple[int, int], letter: str) -> tuple[int, int] | None:
        """The state after a character; None: it is not allowed."""
        done, place = state
        if place < self.BODY:
            wanted = "\n" if place % self.LINE == self.LINE - 1 else HIT + REST
            return (done, place + 1) if letter in wanted else None
        ending = self.BODY + len(SEPARATOR)
        if place == self.BODY and letter == END[0]:
            return done, ending
        if place < ending:
            if letter != SEPARATOR[place - self.BODY] or done + 1 == self.most:
                return None
            return (done + 1, 0) if place + 1 == ending else (done, place + 1)
        return (done, place + 1) if place < self.DONE and letter == END[place - ending + 1] else None

    def walk(self, state: tuple[int, int], text: str) -> tuple[int, int] | None:
        """The state after a text; None: it is not allowed."""
        found: tuple[int, int] | None = state
        for letter in text:
            if found is None:
                break
            found = self.step(found, letter)
        return found

    def allowed(self, state: tuple[int, int]) -> Tensor:
        """Tokens that may follow a state, (V,) bool; all of them after END.

        Raises:
            Problem: none may.
        """
        done, place = state
        key = place, done + 1 == self.most
        if key not in self._allowed:
            allowed = torch.zeros(len(self.pieces), dtype=torch.bool)
            # So short a piece passes one SEP at most: the key tells whether it may.
            fitting = [k for k, piece in self.usable if len(piece) <= self.BODY and self.walk(state, piece)]
            allowed[fitting] = True
            if place == self.DONE:
                allowed[:] = True
            if not allowed.any():
                raise Problem("no token of this tokenizer continues a row", "constrained", "sample without constraint")
            self._allowed[key] = allowed
        return self._allowed[key]


def _piece(token: str | None) -> str:
    """What a token writes: byte-level tokenizers write a newline as Ċ, those of SentencePiece as <0x0A>."""
    return (token or "").replace("Ċ", "\n").replace("<0x0A>", "\n")


class Writer:
    """Follows what is being generated: ends a text at END, and masks what the grammar does not allow.

    Args:
        grammar: of the completions.
        count: texts side by side.
        constrained: mask.
    """

    def __init__(self, grammar: Grammar, count: int, constrained: bool) -> None:
        self.grammar, self.constrained = grammar, constrained
        self.states: list[tuple[int, int]] = [grammar.START] * count
        self.tails = [""] * count

    def mask(self, ids: Tensor, scores: Tensor) -> Tensor:
        """A logits processor of transformers: scores (B, V)."""
        if not self.constrained:
            return scores
        allowed = torch.stack([self.grammar.allowed(state) for state in self.states]).to(scores.device)
        return scores.masked_fill(~F.pad(allowed, (0, scores.shape[1] - allowed.shape[1])), -torch.inf)

    def stop(self, ids: Tensor, scores: Any, **_: Any) -> Tensor:
        """A stopping criterion of transformers: (B,) bool."""
        for k, token in enumerate(ids[:, -1].tolist()):
            piece = self.grammar.pieces[token] if token < len(self.grammar.pieces) else ""
            if END not in self.tails[k]:
                self.tails[k] = (self.tails[k] + piece)[-len(piece) - len(END) :]
                self.states[k] = self.grammar.walk(self.states[k], piece) or self.states[k]
        return torch.tensor([END in tail for tail in self.tails], device=ids.device)


# -- rules --------------------------------------------------------------------------------------


class RuleDrummer(nn.Module, PyTorchModelHubMixin, library_name="repertory"):
    """What grooves are compared with: the human's own, fair coins, or the second measure again and again.

    Args:
        rule: human, random or repeat.
        given: measures of a prompt.
        measures: of a groove.
    """

    def __init__(self, rule: Rule, given: int = 2, measures: int = MEASURES) -> None:
        super().__init__()
        self.rule, self.given, self.measures = rule, given, measures
        self.register_buffer("nothing", torch.zeros(1))  # safetensors keeps no empty file

    def groove(self, text: str, rng: np.random.Generator) -> str:
        """A whole groove of as many rows as `text` has; coins are thrown for the given measures too."""
        rows = text.splitlines()
        if self.rule == "random":
            coins: Grid = rng.random((len(rows), len(COLUMNS))) < 0.5
            return grid_text(coins)
        if self.rule == "repeat":
            end = self.given * ROWS
            rows = [row if k < end else rows[end - ROWS + k % ROWS] for k, row in enumerate(rows)]
        return "".join(f"{row}\n" for row in rows)


def is_well_formed(text: str, rows: int = 0) -> bool:
    """Whether all rows are six characters o and -, and there are as many as stated, or whole measures.

    Example:
        >>> is_well_formed("o--o--\\n" * 32, 32), is_well_formed("o--o\\n" * 16)
        (True, False)
    """
    lines = text.splitlines()
    whole = len(lines) == rows if rows else bool(lines) and len(lines) % ROWS == 0
    return whole and all(len(line) == len(COLUMNS) and not set(line) - {HIT, REST} for line in lines)
