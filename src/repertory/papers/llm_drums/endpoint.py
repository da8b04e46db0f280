"""Fine-tuning and sampling by a server that speaks OpenAI's protocol, as the paper did with GPT-3."""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import torch
from huggingface_hub import PyTorchModelHubMixin
from torch import nn

from repertory.core.files import write_text
from repertory.core.problem import Problem
from repertory.data.drums import MEASURES
from repertory.papers.llm_drums.model import END, Example

KEY = "REPERTORY_ENDPOINT_KEY"
"""Environment variable with the key of the server, if it wants one. It is never written to disk."""
LONGEST_WAIT = 120.0
"""Seconds for which the server may be silent."""


def write_jsonl(folder: Path, name: str, examples: Sequence[Example]) -> list[Path]:
    """Write the examples as files to upload: NAME.jsonl of prompts and completions, NAME-chat.jsonl of messages."""
    pairs = [{"prompt": e.prompt, "completion": e.completion, "name": e.name} for e in examples]
    chats = [
        {"messages": [{"role": "user", "content": e.prompt}, {"role": "assistant", "content": e.completion}]}
        for e in examples
    ]
    written = {folder / f"{name}.jsonl": pairs, folder / f"{name}-chat.jsonl": chats}
    for path, lines in written.items():
        write_text(path, "".join(json.dumps(line) + "\n" for line in lines))
    return list(written)


class HTTPDrummer(nn.Module, PyTorchModelHubMixin, library_name="repertory"):
    """A language model behind POST BASE_URL/v1/completions.

    Args:
        base_url: of the server: "http://127.0.0.1:8000".
        model: its name there.
        given, measures: as in `Drummer`.

    Raises:
        Problem: no address of the web.

    Example:
        >>> HTTPDrummer("http://127.0.0.1:8000", "drums").url
        'http://127.0.0.1:8000/v1/completions'
    """

    def __init__(self, base_url: str, model: str, given: int = 2, measures: int = MEASURES) -> None:
        super().__init__()
        parts = urlsplit(base_url)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise Problem(f"no address of a server: {base_url!r}", "base_url", "give one like http://127.0.0.1:8000")
        self.url = base_url.rstrip("/").removesuffix("/v1") + "/v1/completions"
        self.model, self.given, self.measures = model, given, measures
        self.register_buffer("nothing", torch.zeros(1))  # safetensors keeps no empty file

    def complete(
        self, prompts: Sequence[str], temperature: float = 0.9, max_new_tokens: int = 1000, constrained: bool = False
    ) -> list[str]:
        """A completion of each prompt, see `Drummer.complete`; they are asked for one by one.

        Raises:
            Problem: no server, an error of the server, or an answer without text; or `constrained`.
        """
        if constrained:
            raise Problem("a server's choices cannot be constrained", "constrained", "set constrained=false")
        return [self._post(prompt, temperature, max_new_tokens) for prompt in prompts]

    def _post(self, prompt: str, temperature: float, max_new_tokens: int) -> str:
        asked = {
            "model": self.model, "prompt": prompt, "temperature": temperature, "max_tokens": max_new_tokens,
            "stop": [END],
        }  # fmt: skip
        key = os.environ.get(KEY, "")
        headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {key}"} if key else {})}
        request = urllib.request.Request(self.url, json.dumps(asked).encode(), headers)
        try:
            with urllib.request.urlopen(request, timeout=LONGEST_WAIT) as answer:
                content: Any = json.loads(answer.read())
            return str(content["choices"][0]["text"]).partition(END)[0]
        except urllib.error.HTTPError as error:
            reason = error.read(300).decode(errors="replace")
            remedy = f"check the name of the model, and the key in {KEY}"
            raise Problem(f"the server refuses ({error.code}): {reason}", self.url, remedy) from error
        except OSError as error:
            raise Problem(f"no answer: {error}", self.url, "start the server, or check base_url") from error
        except (ValueError, KeyError, IndexError, TypeError) as error:
            what = f"an answer without choices[0].text: {type(error).__name__}"
            raise Problem(what, self.url, "give a server that speaks OpenAI's completions") from error
