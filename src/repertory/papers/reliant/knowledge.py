"""A teacher's outputs: logits and embeddings, in memory and in the files of CPF and GraphAKD."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from repertory.core.files import write_text
from repertory.core.problem import Problem, reason
from repertory.data.arrays import file_size, read_lines


@dataclass(frozen=True)
class Knowledge:
    """A teacher's outputs for every node."""

    logits: Tensor
    """Log-probabilities (n, C)."""
    embedding: Tensor
    """(n, h); no columns where the file has none (CPF's)."""


def write_knowledge(path: Path, knowledge: Knowledge, parity: float = 0.0, equality: float = 0.0) -> None:
    """Write probabilities with 4 decimals as text (`.txt`, CPF), or a torch file (any other suffix, GraphAKD).

    Args:
        path: file to write.
        knowledge: a teacher's outputs.
        parity, equality: the teacher's ΔSP and ΔEO, fields of GraphAKD's file.
    """
    logits, embedding = knowledge.logits.detach().cpu(), knowledge.embedding.detach().cpu()
    if path.suffix == ".txt":
        rows = ("\t".join(f"{p:.4f}" for p in row) for row in logits.softmax(1).tolist())
        write_text(path, "".join(f"{row}\n" for row in rows))
    else:
        torch.save({"logits": logits, "embedding": embedding, "parity": parity, "equality": equality}, path)


def read_knowledge(path: Path, nodes: int) -> Knowledge:
    """Read the file of CPF or of GraphAKD.

    Raises:
        Problem: unreadable, values that are not finite or no probabilities, or of another number of nodes.
    """
    file_size(path)
    try:
        if path.suffix == ".txt":
            probabilities = torch.tensor(np.loadtxt(read_lines(path), ndmin=2), dtype=torch.float32)
            if not ((probabilities >= 0) & (probabilities <= 1)).all():
                raise ValueError("values that are no probabilities")
            knowledge = Knowledge(probabilities.clamp(min=1e-6).log(), probabilities.new_zeros(len(probabilities), 0))
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
            knowledge = Knowledge(content["logits"].float(), content["embedding"].float())
    except Problem:
        raise
    except Exception as error:  # torch.load raises many kinds; all mean the same to the user
        raise Problem(
            f"no teacher's knowledge: {reason(error)}", path, "give CPF's output.txt or GraphAKD's .pth.tar"
        ) from error
    parts = {"logits": knowledge.logits, "embedding": knowledge.embedding}
    for name, part in parts.items():
        if part.ndim != 2 or len(part) != len(knowledge.logits) or not part.isfinite().all():
            what = f"{name} of the shape {tuple(part.shape)}, or not finite"
            raise Problem(what, path, "give one row of finite numbers a node, logits and embedding")
    if len(knowledge.logits) != nodes:
        found = len(knowledge.logits)
        raise Problem(
            f"the teacher's file has {found} nodes, the graph has {nodes}", path, "take the file of this graph"
        )
    return knowledge
