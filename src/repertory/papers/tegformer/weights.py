"""The authors' state dict, both ways."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from repertory.core.problem import Problem
from repertory.papers.tegformer.model import EXTENSION_HEADS, TegFormer

PROJECTIONS = ("query", "key", "value", "out")
RENAMED: tuple[tuple[str, str], ...] = (
    ("gpt2_model.", "gpt2."),
    ("topic_looking_table.", "topic_table."),
    ("kw_looking_table.", "word_table."),
    ("tgt_looking_table.", "fusion.table."),
    ("up_proj.", "fusion.up."),
    ("trans_dim_net.", "fusion.out."),
    ("gate.", "fusion.gate."),
    ("plugin_transformer.model.generator.proj.", "generator."),
    ("plugin_transformer.model.encoder.norm.", "encoder_norm."),
    ("plugin_transformer.model.decoder.norm.", "decoder_norm."),
    ("plugin_transformer.model.encoder.layers.", "encoder."),
    ("plugin_transformer.model.decoder.layers.", "decoder."),
)
"""Beginning of a name in the authors' file -> ours."""
WITHIN: tuple[tuple[str, str], ...] = (
    *((f".self_attn.linears.{k}.", f".attention.{name}.") for k, name in enumerate(PROJECTIONS)),
    *((f".src_attn.linears.{k}.", f".cross.{name}.") for k, name in enumerate(PROJECTIONS)),
    (".gat_sublayer.query_layer.", ".extension.query."),
    (".gat_sublayer.key_layer.", ".extension.key."),
    (".gat_sublayer.val_layer.", ".extension.value."),
    (".feed_forward.w_1.", ".feed_forward.0."),
    (".feed_forward.w_2.", ".feed_forward.3."),
    (".sublayer.", ".sublayers."),
)  # fmt: skip
"""Part of a name inside a layer -> ours."""
NORMS = ((".a_2", ".weight"), (".b_2", ".bias"))
NEEDED = (
    "topic_table.weight", "word_table.weight", "generator.weight", "gpt2.transformer.wte.weight",
    "gpt2.transformer.wpe.weight", "fusion.table.weight", "fusion.gate.weight", "encoder.0.feed_forward.0.weight",
)  # fmt: skip
"""Tensors, under our names, that tell the sizes."""
UNUSED = re.compile(r"\.attn\.(masked_)?bias$")
"""Causal masks that older versions of transformers store with GPT-2."""


def to_ours(name: str) -> str:
    """Our name of a tensor of the authors.

    Example:
        >>> to_ours("plugin_transformer.model.decoder.layers.0.sublayer.1.norm.a_2")
        'decoder.0.sublayers.1.norm.weight'
    """
    return _renamed(name, RENAMED, (*WITHIN, *NORMS))


def to_theirs(name: str) -> str:
    """The authors' name of a tensor of ours: the inverse of `to_ours`."""
    within = [(ours, theirs) for theirs, ours in WITHIN]
    if re.search(r"norm\.(weight|bias)$", name):
        within += [(ours, theirs) for theirs, ours in NORMS]
    return _renamed(name, [(ours, theirs) for theirs, ours in RENAMED], within)


def _renamed(name: str, starts: Any, within: Any) -> str:
    start = next((pair for pair in starts if name.startswith(pair[0])), None)
    if start is None:
        return name
    name = start[1] + name.removeprefix(start[0])
    if name.startswith("gpt2"):
        return name
    for before, after in within:
        name = name.replace(before, after)
    return name


def official_state(model: TegFormer) -> dict[str, Tensor]:
    """The state dict under the authors' names, as `torch.save` of theirs wrote it."""
    return {to_theirs(name): tensor for name, tensor in model.state_dict().items() if name != "neighbours"}


def arguments_of(state: Mapping[str, Tensor], where: object) -> dict[str, Any]:
    """Arguments of `TegFormer` that fit a state dict under our names. A head has 64 channels, as published.

    Raises:
        Problem: tensors are missing.
    """
    missing = [to_theirs(name) for name in NEEDED if name not in state]
    if missing:
        raise Problem(
            f"the file lacks {missing[0]}", where, "give the state dict that the authors' training saves (pretrain.pkl)"
        )
    topics, d = state["topic_table.weight"].shape
    positions, width = state["gpt2.transformer.wpe.weight"].shape
    vocab = len(state["generator.weight"])

    def layers(part: str) -> int:
        return len({found[1] for name in state if (found := re.match(rf"{re.escape(part)}\.(\d+)\.", name))})

    return {
        "vocab": vocab,
        "topics": topics,
        "words": len(state["word_table.weight"]) - 1,
        "gpt2": {
            "model_type": "gpt2", "vocab_size": len(state["gpt2.transformer.wte.weight"]), "n_embd": width,
            "n_layer": layers("gpt2.transformer.h"), "n_head": max(1, width // 64), "n_positions": positions,
            "bos_token_id": None, "eos_token_id": None,
        },
        "d": d,
        "ff": len(state["encoder.0.feed_forward.0.weight"]),
        "heads": max(1, d // 64),
        "encoder_layers": layers("encoder"),
        "decoder_layers": layers("decoder"),
        "domain": state["fusion.table.weight"].shape[1],
        "extension": any(".extension." in name for name in state) and d % EXTENSION_HEADS == 0,
    }  # fmt: skip
