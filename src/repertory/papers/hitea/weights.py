"""Weights that others released: the authors' fine-tuned models, and a BERT to start from."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from repertory.core import checkpoint
from repertory.core.files import read_json
from repertory.core.problem import Problem, require
from repertory.data.arrays import read_lines
from repertory.nn.encoders import EXTRA, load_encoder
from repertory.papers.hitea.model import SPECIAL, HiTeA
from repertory.papers.hitea.text import TextSizes

RENAME = {
    r"_checkpoint_wrapped_module\.": "",
    r"^text_decoder\.bert\.": "text_decoder.",
    r"^text_decoder\.cls\.predictions\.": "text_decoder.head.",
    r"^text_decoder\.head\.bias$": "text_decoder.head.decoder.bias",
}
"""Patterns of the authors' names, applied in order. Tensor shapes are equal."""
PARTS = ("visual_encoder.", "text_encoder.", "fusion_encoder.", "text_decoder.")
NEW = ("vision_proj.", "text_proj.", "temperature", "match_head.")
"""Of the pre-training, which released models lack."""


def with_our_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A released state dict with our names, without momentum copies and buffers.

    Example:
        >>> list(with_our_names({"text_decoder.bert.embeddings.LayerNorm.bias": None, "text_encoder_m.x": None}))
        ['text_decoder.embeddings.LayerNorm.bias']
    """
    kept = {k: v for k, v in state.items() if not k.split(".")[0].endswith("_m") and not k.endswith("position_ids")}
    tied = "text_decoder.cls.predictions."
    if f"{tied}bias" in kept:  # two names of one tensor
        kept.pop(f"{tied}decoder.bias", None)
    renamed = checkpoint.rename(kept, RENAME)
    return {name: tensor for name, tensor in renamed.items() if name.startswith((*PARTS, *NEW))}


def released_network(source: Path, img_size: int = 0) -> HiTeA:
    """A model of a folder that the authors released: pytorch_model.bin, config_bert.json, vocab.txt.

    Layers are counted in the weights; which fusion layers run is read from config_bert.json.

    Args:
        source: the folder, or the file of weights in it.
        img_size: height and width of the input; 0: as the tables of relative positions say.

    Raises:
        Problem: files are missing, or the weights are of something else. Missing weights are named.
    """
    folder = source if source.is_dir() else source.parent
    file = source if source.is_file() else folder / "pytorch_model.bin"
    state = with_our_names(checkpoint.read_weights(file))
    absent = [part for part in PARTS if not any(name.startswith(part) for name in state)]
    if absent:
        what = f"no weights of {', '.join(part.rstrip('.') for part in absent)}"
        raise Problem(what, file, "give a HiTeA for question answering or captioning")
    config = read_json(folder / "config_bert.json", "give the folder as it was released")
    model = HiTeA(vocabulary(folder / "vocab.txt"), video_sizes(state, img_size), text_sizes(state, config))
    left = checkpoint.fit_weights(model, state, file, NEW)
    if left:
        warnings.warn(
            f"{file.name} has no {', '.join(left)}: they answer and caption, and compare nothing yet",
            stacklevel=2,
        )
    return model.eval()


def video_sizes(state: Mapping[str, Tensor], img_size: int = 0) -> dict[str, Any]:
    """Arguments of `MViT` that fit the weights."""
    blocks = sorted({int(found[1]) for name in state if (found := re.match(r"visual_encoder\.blocks\.(\d+)\.", name))})
    widen_at = tuple(i for i in blocks if f"visual_encoder.blocks.{i}.proj.weight" in state)
    table_t = state["visual_encoder.blocks.0.attn.rel_pos_t"]
    table_h = state["visual_encoder.blocks.0.attn.rel_pos_h"]
    dim = state["visual_encoder.cls_token"].shape[-1]
    return {
        "img_size": img_size or 4 * (len(table_h) + 1) // 2,
        "frames": len(table_t) + 1,
        "embed_dim": dim,
        "depth": len(blocks),
        "heads": dim // table_h.shape[1],
        "widen_at": widen_at,
    }


def text_sizes(state: Mapping[str, Tensor], config: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of `TextSizes` that fit the weights and config_bert.json."""

    def layers(part: str) -> int:
        return len({name.split(".")[3] for name in state if name.startswith(f"{part}.encoder.layer.")})

    built = layers("fusion_encoder")
    defaults = asdict(TextSizes())
    vocab, _ = state["text_encoder.embeddings.word_embeddings.weight"].shape
    return {
        "vocab": vocab,
        "heads": int(config.get("num_attention_heads", defaults["heads"])),
        "intermediate": len(state["text_encoder.encoder.layer.0.intermediate.dense.weight"]),
        "positions": len(state["text_encoder.embeddings.position_embeddings.weight"]),
        "encoder_layers": layers("text_encoder"),
        "built_layers": built,
        "fusion_layers": int(config.get("fusion_layers", min(built, defaults["fusion_layers"]))),
        "stride_layer": int(config.get("stride_layer", defaults["stride_layer"])),
        "decoder_layers": layers("text_decoder"),
    }


def vocabulary(path: Path) -> str:
    """JSON of the lower-casing word-piece tokenizer of a vocab.txt.

    Raises:
        Problem: no such file.
    """
    if not path.is_file():
        raise Problem("vocab.txt is missing", path, "give the folder as it was released")
    tokenizers = require("tokenizers", EXTRA)
    words = {word: number for number, word in enumerate(read_lines(path)) if word}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordPiece(words, unk_token="[UNK]"))
    tokenizer.normalizer = tokenizers.normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    tokenizer.add_special_tokens([word for word in SPECIAL if word in words])
    return tokenizer.to_str()


def load_pretrained(model: HiTeA, source: Path) -> None:
    """Load weights to start from: our model directory, or a released folder. What is new stays as it is.

    Raises:
        Problem: the weights do not fit the network.
    """
    file = source / "model.safetensors" if (source / "model.safetensors").exists() else source
    file = file / "pytorch_model.bin" if file.is_dir() else file
    checkpoint.fit_weights(model, with_our_names(checkpoint.read_weights(file)), source, NEW)


def load_bert(model: HiTeA, folder: Path) -> None:
    """Start from a BERT: first layers in the text encoder, later ones in the fusion encoder, all in the decoder.

    Cross-attention, which BERT lacks, stays as it is.

    Raises:
        Problem: no BERT, or of other sizes.
    """
    state = load_encoder(folder).module.state_dict()
    depth = len({name.split(".")[2] for name in state if name.startswith("encoder.layer.")})
    if not any(name.startswith("embeddings.word_embeddings.") for name in state):
        raise Problem("not a BERT", folder, "give a folder of a BERT, as save_pretrained writes it")
    later = min(model.sizes.encoder_layers, max(0, depth - model.sizes.built_layers))
    offsets = {"text_encoder": 0, "fusion_encoder": later, "text_decoder": 0}
    for part, offset in offsets.items():
        module: nn.Module = model.get_submodule(part)
        own = module.state_dict()
        shifted = {_shifted(name, -offset): tensor for name, tensor in state.items()}
        fitting = {name: tensor for name, tensor in shifted.items() if name in own}
        wrong = [name for name, tensor in fitting.items() if tensor.shape != own[name].shape]
        if wrong:
            first = f"{wrong[0]} {tuple(fitting[wrong[0]].shape)} against {tuple(own[wrong[0]].shape)}"
            raise Problem(f"the BERT has other sizes: {first}", folder, "choose sizes that fit it")
        module.load_state_dict(fitting, strict=False)


def _shifted(name: str, by: int) -> str:
    """`encoder.layer.7.x` with another number."""
    return re.sub(r"^encoder\.layer\.(\d+)\.", lambda found: f"encoder.layer.{int(found[1]) + by}.", name)
