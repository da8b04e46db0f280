"""What the drummer needs beyond `tasks.language`: LoRA, bytes as tokens, saved folders, and a text to learn.

Nothing here knows of drums.
"""

from __future__ import annotations

import ast
import json
import sys
import sysconfig
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from repertory.core.files import cache_dir, write_text
from repertory.core.problem import Problem, require
from repertory.nn.encoders import EXTRA
from repertory.tasks import language

SKIPPED = frozenset({"test", "tests", "site-packages", "dist-packages", "idle_test", "__pycache__"})
"""Folders of the standard library without text of its own."""
LORA = {"r": 16, "lora_alpha": 32, "lora_dropout": 0.05}


def save_causal_lm(module: Any, tokenizer: str, folder: Path) -> None:
    """Write a model (or the adapter of a `PeftModel`) and its tokenizer as transformers' Auto classes read them."""
    transformers = require("transformers", EXTRA)
    transformers.logging.disable_progress_bar()
    module.save_pretrained(folder, max_shard_size="1TB")
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=language.tokenizer_from(tokenizer))
    fast.save_pretrained(folder)


def with_lora(module: Any, lora: Mapping[str, Any]) -> Any:
    """Freeze a model and put LoRA on all linear maps of attention and MLP (`LoraConfig` takes the settings)."""
    peft = require("peft", EXTRA)
    conv1d = any(type(part).__name__ == "Conv1D" for part in module.modules())  # GPT-2 keeps weights transposed
    settings = {"target_modules": "all-linear", "fan_in_fan_out": conv1d, **lora}
    return peft.get_peft_model(module, peft.LoraConfig(task_type="CAUSAL_LM", **settings))


def byte_tokenizer() -> str:
    """JSON of a tokenizer whose tokens are the 256 bytes."""
    tokenizers = require("tokenizers", EXTRA)
    bytes_only = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    vocabulary = {letter: k for k, letter in enumerate(sorted(bytes_only.alphabet()))}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = bytes_only
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    return tokenizer.to_str()


def small_gpt2(width: int, layers: int, heads: int, context: int, vocabulary: int = 256) -> dict[str, Any]:
    """Configuration of a small GPT-2 without dropout."""
    fast = {"activation_function": "gelu_pytorch_tanh", "attn_pdrop": 0.0, "resid_pdrop": 0.0, "embd_pdrop": 0.0}
    return language.small_gpt2(vocabulary, width, layers, heads, context) | fast


# -- a text that is at hand ---------------------------------------------------------------------


def docstrings(size: int) -> str:
    """The first `size` characters of the docstrings of Python's standard library, modules in the order of their names.

    They are collected once and kept in the cache. The text depends on the version of Python.

    Raises:
        Problem: this Python comes without the source of its library.
    """
    kept = cache_dir() / f"docstrings-{sys.version_info.major}.{sys.version_info.minor}.{sys.version_info.micro}.json"
    try:
        found: dict[str, Any] = json.loads(kept.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        found = {"whole": False, "text": ""}
    if len(found["text"]) < size and not found["whole"]:
        found = _collect(size)
        write_text(kept, json.dumps(found))
    return found["text"][:size]


def _collect(size: int) -> dict[str, Any]:
    library = Path(sysconfig.get_paths()["stdlib"])
    text = ""
    for path in sorted(library.rglob("*.py")):
        if SKIPPED & set(path.relative_to(library).parts):
            continue
        try:
            with warnings.catch_warnings(action="ignore"):  # the library's own, of escapes
                tree = ast.parse(path.read_bytes())
        except (OSError, SyntaxError, ValueError):  # templates that are no Python
            continue
        documented = (n for n in ast.walk(tree) if isinstance(n, ast.Module | ast.ClassDef | ast.FunctionDef))
        text += "".join(f"{words}\n\n" for node in documented if (words := ast.get_docstring(node)))
        if len(text) >= size:
            return {"whole": False, "text": text[:size]}
    if not text:
        raise Problem("no source of Python's standard library", library, "use a Python that has it, or set model")
    return {"whole": True, "text": text}


class Windows(Dataset[tuple[Tensor, Tensor]]):
    """Random windows of a text, and positions for them: all that the model has are met.

    Args:
        ids: tokens of the text, (T,).
        length: of a window; the text must be longer.
        count: windows of an epoch.
        context: positions that the model has.
    """

    def __init__(self, ids: Tensor, length: int, count: int, context: int) -> None:
        self.ids, self.length, self.count, self.context = ids, min(length, context, len(ids)), count, context

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        start = int(torch.randint(len(self.ids) - self.length + 1, ()))
        first = int(torch.randint(self.context - self.length + 1, ()))
        return self.ids[start : start + self.length], torch.arange(first, first + self.length)


def next_token_loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Cross entropy of each next token; of ids and positions (B, T)."""
    ids, positions = batch
    logits = model(ids, positions)
    return nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
