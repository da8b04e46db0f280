"""Speed of training, of the sparse optimizer step, and of reading clicks.

    python benchmarks/xdeepint.py

- training: forward, backward, Adam with dense gradients; 1,024 rows of 39 fields, K = 16, three layers. Peers: the
  cross networks with a full matrix, whose layers cost (F K)² multiply-accumulates a row, as PIN's with h = K do: DCN of
  DeepCTR-Torch with the matrix parameterisation and a perceptron of a single unit, which it asks for, and DCNv2 of
  torch-rechub without; and xDeepFM of DeepCTR-Torch (CIN alone) beside PIN with h = 1. "combined": ours by group-lasso
  FTRL on sparse gradients, and FTRL. DeepCTR-Torch is in the extra `peers`.
- step, growth: group-lasso FTRL over the rows of the table, of which 5,000 have a gradient, and over the rows with a
  gradient in a table of a million. The first promises no growth at all.
- reading: 10,000 rows in Criteo's format, counted and encoded in two passes. Peer: Polars parses once. No goal.
- reading, growth: rows of such files.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from repertory.core.bench import Growth, Race, bench, scratch
from repertory.core.problem import require
from repertory.data.clicks import Preparation, read_clicks
from repertory.papers.xdeepint import FTRL, GroupFTRL, XDeepInt
from repertory.papers.xdeepint.sample import write_sample

FIELDS, DIM, LAYERS, BATCH, LEVELS = 39, 16, 3, 1024, 1000
TABLE_DIM, TOUCHED = 8, 5000

Step = Callable[[], None]


# -- training -----------------------------------------------------------------------------------------


def deepctr(kind: str, ids: Tensor) -> tuple[nn.Module, Any]:
    """A network of DeepCTR-Torch, which gives probabilities, and its inputs."""
    inputs: Any = require("deepctr_torch.inputs", "peers")
    models: Any = require("deepctr_torch.models", "peers")
    columns = [inputs.SparseFeat(f"f{k}", LEVELS, embedding_dim=DIM) for k in range(FIELDS)]
    if kind == "dcn":
        options: dict[str, Any] = {"cross_num": LAYERS, "cross_parameterization": "matrix", "dnn_hidden_units": (1,)}
        return models.DCN([], columns, **options), ids.float()
    options = {"dnn_hidden_units": (), "cin_layer_size": (FIELDS,) * LAYERS, "cin_split_half": False}
    return models.xDeepFM([], columns, **options), ids.float()


def rechub(ids: Tensor) -> tuple[nn.Module, Any]:
    """DCNv2 of torch-rechub, full matrices, no perceptron; it gives probabilities."""
    basic: Any = require("torch_rechub.basic.features", "peers")
    ranking: Any = require("torch_rechub.models.ranking", "peers")
    features = [basic.SparseFeature(f"f{k}", LEVELS, embed_dim=DIM) for k in range(FIELDS)]
    model = ranking.DCNv2(features, LAYERS, {"dims": [1]}, "crossnet_only", use_low_rank_mixture=False)
    return model, {f"f{k}": ids[:, k] for k in range(FIELDS)}


PEERS: dict[str, Callable[[Tensor], tuple[nn.Module, Any]]] = {
    "DCN-matrix of DeepCTR-Torch": partial(deepctr, "dcn"),
    "DCNv2 of torch-rechub": rechub,
    "xDeepFM of DeepCTR-Torch": partial(deepctr, "xdeepfm"),
}


def stepping(
    model: nn.Module, inputs: Any, loss: Callable[[Tensor], Tensor], optimizers: list[torch.optim.Optimizer]
) -> Step:
    def step() -> None:
        loss(model(inputs).reshape(-1)).backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()

    return step


def training(subspaces: int, name: str, *, combined: bool = False) -> Race:
    ids = torch.randint(LEVELS, (BATCH, FIELDS), generator=torch.Generator().manual_seed(0))
    labels = (ids[:, 0] % 2).float()
    theirs, inputs = PEERS[name](ids)
    peer = stepping(
        theirs.train(), inputs, lambda p: F.binary_cross_entropy(p, labels), [torch.optim.Adam(theirs.parameters())]
    )
    model = XDeepInt([LEVELS] * FIELDS, DIM, subspaces, LAYERS)
    optimizers: list[torch.optim.Optimizer] = [torch.optim.Adam(model.parameters())]
    if combined:
        model.tables.sparse = True
        others = [p for key, p in model.named_parameters() if not key.startswith("tables")]
        optimizers = [GroupFTRL([model.tables.weight]), FTRL(others)]
    reduction = "sum" if combined else "mean"
    ours = stepping(
        model,
        ids + 1,
        lambda logits: F.binary_cross_entropy_with_logits(logits, labels, reduction=reduction),
        optimizers,
    )
    return Race(ours, {name: peer}, facts={"rows": BATCH, "fields": FIELDS, "levels": LEVELS, "subspaces": subspaces})


# -- the optimizer step -------------------------------------------------------------------------------


def sparse_step(rows: int, touched: int) -> Step:
    """Rows with a gradient are drawn once."""
    draw = torch.Generator().manual_seed(0)
    weight = nn.Parameter(torch.zeros(rows, TABLE_DIM))
    optimizer = GroupFTRL([weight], l1=0.01, zero_start=True)
    places, values = torch.randint(rows, (1, touched), generator=draw), torch.randn(touched, TABLE_DIM, generator=draw)
    weight.grad = torch.sparse_coo_tensor(places, values, weight.shape, check_invariants=False).coalesce()

    def steps() -> None:
        for _ in range(10):
            optimizer.step()

    return steps


def over_table() -> Growth:
    return Growth(lambda rows: sparse_step(rows, TOUCHED), [10**4, 10**5, 10**6, 10**7], "rows of the table", slope=0)


def over_touched() -> Growth:
    return Growth(partial(sparse_step, 10**6), [100, 1000, 10_000, 100_000], "rows with a gradient")


# -- reading ------------------------------------------------------------------------------------------


def log_of(rows: int) -> Path:
    """A file in Criteo's format; blocks of 50,000 rows repeat."""
    path, block = scratch() / "train.txt", min(rows, 50_000)
    write_sample(path, np.random.default_rng(0), block)
    path.write_bytes(path.read_bytes() * (rows // block))
    return path


def reader(path: Path) -> Callable[[], object]:
    """Encoded rows of these files stay in memory: the cache would spare the second run the work."""
    return lambda: read_clicks({"train": path}, Preparation(min_count=2), lambda _: np.random.default_rng(0))


def reading(rows: int = 10_000) -> Race:
    path, polars = log_of(rows), require("polars", "recommendation")
    peers = {"Polars, parsed once": lambda: polars.read_csv(path, has_header=False, separator="\t", infer_schema=False)}
    return Race(reader(path), peers, goal=None, facts={"rows": rows})


def reading_growth() -> Growth:
    return Growth(lambda rows: reader(log_of(rows)), [50, 500, 5000, 50_000], "rows")


if __name__ == "__main__":
    dcn, dcnv2, xdeepfm = PEERS
    bench(
        __doc__,
        {
            "training, h = 16, DCN": partial(training, DIM, dcn),
            "training, h = 16, DCNv2": partial(training, DIM, dcnv2),
            "training, h = 1, xDeepFM": partial(training, 1, xdeepfm),
            "training, combined": partial(training, DIM, dcn, combined=True),
            "step, growth over the table": over_table,
            "step, growth over the gradient": over_touched,
            "reading": reading,
            "reading, growth": reading_growth,
        },
    )
