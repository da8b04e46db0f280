"""Weights that the authors released: GMatching's, FSRL's, FAAN's and MetaR's state dicts."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from repertory.core import checkpoint
from repertory.core.problem import Problem

TELLTALE: Mapping[str, str] = {
    r"^set_rnn_encoder\.": "fsrl",
    r"^EntityEncoder\.": "faan",
    r"^relation_learner\.": "metar",
    r"^query_encoder\.": "gmatching",
}
"""Name of a tensor -> method; the first that is found counts."""
UNUSED = re.compile(
    r"^gcn_b$|^gnn_|^bn\.|^layer_norm\.|^support_g_W\.|FC_|"
    r"NeighborAggregator\.gcn_|pos_embedding\.|^EntityEncoder\.gcn_"
)
"""Tensors that the releases define and never read; FAAN's positions are sinusoids."""
RENAMED: Mapping[str, str] = {
    r"^(gcn_w|neigh_att_W|neigh_att_u)\.": r"neighbours.\1.",
    r"^EntityEncoder\.symbol_emb\.": "symbol_emb.",
    r"^EntityEncoder\.NeighborAggregator\.": "neighbours.",
    r"^RelationRepresentation\.RelationEncoder\.rel_embed(\.weight)?$": "relation.rel_embed",
    r"^RelationRepresentation\.RelationEncoder\.encoder_layers\.": "relation.layers.",
}


def read_released(source: Path) -> tuple[str, dict[str, Tensor]]:
    """The method of a released state dict, and its tensors under our names.

    Raises:
        Problem: unreadable, or of none of the methods.
    """
    found = checkpoint.read_weights(source)
    methods = [method for sign, method in TELLTALE.items() if any(re.search(sign, name) for name in found)]
    if not methods:
        first = next(iter(found), "nothing")
        raise Problem("no state dict of GMatching, FSRL, FAAN or MetaR", source, f"this one begins with {first!r}")
    kept = {name: tensor for name, tensor in found.items() if not UNUSED.search(name)}
    state = checkpoint.rename(kept, RENAMED)
    # FAAN's feed-forward layers are convolutions over one position.
    convolution = re.compile(r"feed_forward\.w[12]\.weight$")
    return methods[0], {k: v.squeeze(-1) if convolution.search(k) and v.ndim == 3 else v for k, v in state.items()}


def sizes_of(method: str, state: Mapping[str, Tensor], source: Path) -> dict[str, Any]:
    """What the tensors tell: dim, shots, symbols (with PAD) or entities, and options of FAAN.

    Raises:
        Problem: a tensor is missing; names it.
    """
    try:
        table = state["embedding.embedding.weight" if method == "metar" else "symbol_emb.weight"]
        sizes: dict[str, Any] = {"rows": len(table), "dim": table.shape[1], "shots": 1, "options": {}}
        if method == "metar":
            sizes["shots"] = len(state["relation_learner.rel_fc1.bn.weight"])
        if method == "faan":
            width = len(state["relation.layers.0.attention.linear_q.weight"])
            layers = 1 + max(int(found[1]) for name in state if (found := re.match(r"relation\.layers\.(\d+)\.", name)))
            sizes["options"] = {"heads": width // sizes["dim"], "layers": layers}
    except KeyError as error:
        raise Problem(f"the {method} weights have no {error.args[0]!r}", source, "give the whole state dict") from error
    return sizes
