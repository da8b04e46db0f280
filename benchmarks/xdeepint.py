"""xDeepInt beside its peers: training, the sparse optimiser step over the size of the table, and reading in blocks.

    python benchmarks/xdeepint.py [--part training steps reading] [--rounds 9] [--threads 1] [--output FILE.json]

training: forward, backward and step on the same random ids, at equal embedding size and depth. The nearest networks of
the peers are the cross networks with a full matrix: DCN with the matrix parameterisation of DeepCTR-Torch, and DCNv2 of
torch-rechub, without a perceptron (DeepCTR-Torch asks for one, and has one of a single unit). Their layers cost (F K)²
multiply-accumulates a row, as PIN's with h = K do. xDeepFM of DeepCTR-Torch (CIN, no perceptron) stands beside PIN with
h = 1. All by Adam with dense gradients; ours once more by the combined optimiser. A ratio above 1: ours is faster.

steps: CPU seconds of a step of group-lasso FTRL, 5,000 rows with a gradient, tables of 1e4 to 1e7 rows; slope is the
exponent of time over rows of the table. Beside it the dense step and Adam's, and the sparse step over the rows touched.

reading: rows a second and peak memory, each in a process of its own, of growing files in Criteo's format; beside it
Polars reading the whole file. Encoded rows go to disk. One JSON line a race.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from repertory.core.files import write_json
from repertory.core.timing import high_water, race, ratio
from repertory.data import clicks
from repertory.data.clicks import Preparation, read_clicks
from repertory.papers.xdeepint import FTRL, GroupFTRL, XDeepInt
from repertory.papers.xdeepint.sample import write_sample

FIELDS, DIM, LAYERS, BATCH = 39, 16, 3, 1024
LEVELS = (1000, 20_000)
"""Of a field."""
TOUCHED, TABLE_DIM = 5000, 8
TABLES = (10_000, 100_000, 1_000_000, 10_000_000)
FILES = (50_000, 200_000, 800_000)


# -- training -----------------------------------------------------------------------------------------


def deepctr(kind: str, levels: int) -> nn.Module:
    """A network of DeepCTR-Torch: logits before its sigmoid cannot be had, so it gives probabilities."""
    inputs: Any = importlib.import_module("deepctr_torch.inputs")
    models: Any = importlib.import_module("deepctr_torch.models")
    columns = [inputs.SparseFeat(f"f{k}", levels, embedding_dim=DIM) for k in range(FIELDS)]
    if kind == "dcn":
        return models.DCN([], columns, cross_num=LAYERS, cross_parameterization="matrix", dnn_hidden_units=(1,))
    return models.xDeepFM([], columns, dnn_hidden_units=(), cin_layer_size=(FIELDS,) * LAYERS, cin_split_half=False)


def rechub(levels: int) -> Callable[[Tensor], Tensor]:
    """DCNv2 of torch-rechub, full matrices, no perceptron."""
    basic: Any = importlib.import_module("torch_rechub.basic.features")
    ranking: Any = importlib.import_module("torch_rechub.models.ranking")
    features = [basic.SparseFeature(f"f{k}", levels, embed_dim=DIM) for k in range(FIELDS)]
    return ranking.DCNv2(features, LAYERS, {"dims": [1]}, "crossnet_only", use_low_rank_mixture=False)


def training(rounds: int, levels: int) -> list[dict[str, Any]]:
    ids = torch.randint(0, levels, (BATCH, FIELDS), generator=torch.Generator().manual_seed(0))
    labels = (ids[:, 0] % 2).float()
    named = {f"f{k}": ids[:, k] for k in range(FIELDS)}

    def step(model: Any, inputs: Any, optimizers: list[Any], *, logits: bool = False) -> Callable[[], None]:
        def run() -> None:
            out = model(inputs).reshape(-1)
            if len(optimizers) == 2:
                loss = F.binary_cross_entropy_with_logits(out, labels, reduction="sum")
            elif logits:
                loss = F.binary_cross_entropy_with_logits(out, labels)
            else:
                loss = F.binary_cross_entropy(out, labels)
            loss.backward()
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad()

        return run

    def ours(subspaces: int, combined: bool = False) -> Callable[[], None]:
        model = XDeepInt([levels] * FIELDS, DIM, subspaces, LAYERS)
        if not combined:
            return step(model, ids + 1, [torch.optim.Adam(model.parameters())], logits=True)
        model.tables.sparse = True
        others = [p for name, p in model.named_parameters() if not name.startswith("tables")]
        return step(model, ids + 1, [GroupFTRL([model.tables.weight]), FTRL(others)])

    def peer(model: Any, inputs: Any) -> Callable[[], None]:
        return step(model.train(), inputs, [torch.optim.Adam(model.parameters())])

    runs = {
        "xDeepInt, h = 16": ours(16),
        "xDeepInt, h = 16, combined optimiser": ours(16, combined=True),
        "DCN-matrix, DeepCTR-Torch": peer(deepctr("dcn", levels), ids.float()),
        "DCNv2, torch-rechub": peer(rechub(levels), named),
        "xDeepInt, h = 1": ours(1),
        "xDeepFM, DeepCTR-Torch": peer(deepctr("xdeepfm", levels), ids.float()),
    }
    times = race(runs, range(1 + rounds))
    pairs = [
        ("xDeepInt, h = 16", "DCN-matrix, DeepCTR-Torch"),
        ("xDeepInt, h = 16", "DCNv2, torch-rechub"),
        ("xDeepInt, h = 16, combined optimiser", "DCN-matrix, DeepCTR-Torch"),
        ("xDeepInt, h = 16, combined optimiser", "DCNv2, torch-rechub"),
        ("xDeepInt, h = 1", "xDeepFM, DeepCTR-Torch"),
    ]
    return [
        {
            "race": f"training step, {BATCH} rows, {FIELDS} fields of {levels} levels, K = {DIM}, L = {LAYERS}",
            "ours": mine,
            "peer": other,
            "rows/s": {name: round(BATCH / float(np.median(times[name]))) for name in (mine, other)},
            "ratio": round(ratio(times, mine, other), 2),
            "quartiles": [round(float(q), 2) for q in np.quantile(times[other] / times[mine], [0.25, 0.75])],
            "rounds": rounds,
        }
        for mine, other in pairs
    ]


# -- the optimiser step -------------------------------------------------------------------------------


def seconds_of_steps(size: int, touched: int, kind: str, rounds: int) -> float:
    """Median CPU seconds of a step; the first, which makes the state, does not count. Rows are drawn anew for each."""
    generator = torch.Generator().manual_seed(0)
    weight = nn.Parameter(torch.zeros(size, TABLE_DIM))
    optimizer = torch.optim.Adam([weight]) if kind == "adam" else GroupFTRL([weight], l1=0.01, zero_start=True)
    seconds = []
    for _ in range(1 + rounds):
        rows = torch.randint(0, size, (1, touched), generator=generator)
        values = torch.randn(touched, TABLE_DIM, generator=generator)
        grad = torch.sparse_coo_tensor(rows, values, weight.shape, check_invariants=False).coalesce()
        weight.grad = grad if kind == "sparse" else grad.to_dense()
        start = time.process_time()  # on a busy machine, wall clock counts the turns of others
        optimizer.step()
        seconds.append(time.process_time() - start)
    return float(np.median(seconds[1:]))


def slope(x: Any, y: list[float]) -> float:
    """Exponent of y over x."""
    return round(float(np.polyfit(np.log(x), np.log(y), 1)[0]), 3)


def steps(rounds: int) -> list[dict[str, Any]]:
    found = []
    for kind, sizes in (("sparse", TABLES), ("dense", TABLES[:3]), ("adam", TABLES[:3])):
        seconds = [seconds_of_steps(size, TOUCHED, kind, rounds) for size in sizes]
        found.append(
            {
                "race": f"optimiser step over the rows of the table, {kind}",
                "touched": TOUCHED,
                "rows of the table": list(sizes),
                "ms": [round(1000 * s, 3) for s in seconds],
                "slope": slope(sizes, seconds),
                "slope from 1e5 rows": slope(sizes[1:], seconds[1:]),
                "rounds": rounds,
            }
        )
    touched = (1000, 10_000, 100_000)
    seconds = [seconds_of_steps(1_000_000, count, "sparse", rounds) for count in touched]
    found.append(
        {
            "race": "sparse step over the rows touched, table of 1e6 rows",
            "touched": list(touched),
            "ms": [round(1000 * s, 3) for s in seconds],
            "slope": slope(touched, seconds),
        }
    )
    return found


# -- reading ------------------------------------------------------------------------------------------


def read_in_a_process(path: Path, who: str) -> dict[str, float]:
    """Seconds, and MiB above what the process held before."""
    command = [sys.executable, __file__, "--one", who, str(path)]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1])


def read_one(who: str, path: Path) -> dict[str, float]:
    import polars as pl

    with tempfile.TemporaryDirectory() as cache:
        os.environ["REPERTORY_CACHE"] = cache
        clicks.IN_MEMORY = 0
        small = path.with_name("small.txt")  # libraries are loaded by now
        read_clicks({"train": small}, Preparation(min_count=2), lambda _: np.random.default_rng(0))
        pl.read_csv(small, has_header=False, separator="\t", infer_schema=False)
        before, start = high_water(), time.perf_counter()
        if who == "ours":
            read_clicks({"train": path}, Preparation(min_count=2), lambda _: np.random.default_rng(0))
        else:
            pl.read_csv(path, has_header=False, separator="\t", infer_schema=False)
        return {"seconds": time.perf_counter() - start, "MiB": high_water() - before}


def reading() -> list[dict[str, Any]]:
    found = []
    with tempfile.TemporaryDirectory() as folder:
        write_sample(Path(folder) / "small.txt", np.random.default_rng(0), 1000)
        for rows in FILES:
            path = Path(folder) / f"{rows}.txt"
            write_sample(path, np.random.default_rng(0), 50_000)
            path.write_bytes(path.read_bytes() * (rows // 50_000))
            ours, polars = (read_in_a_process(path, who) for who in ("ours", "polars"))
            found.append(
                {
                    "race": f"reading {rows} rows of 40 columns",
                    "file, MiB": round(path.stat().st_size / 2**20, 1),
                    "ours, two passes": {"rows/s": round(rows / ours["seconds"]), "peak MiB": round(ours["MiB"], 1)},
                    "Polars, whole file parsed once": {
                        "rows/s": round(rows / polars["seconds"]),
                        "peak MiB": round(polars["MiB"], 1),
                    },
                }
            )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", nargs="+", default=["training", "steps", "reading"])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    if given.one:
        print(json.dumps(read_one(given.one[0], Path(given.one[1]))))
        return
    torch.manual_seed(0)
    parts: dict[str, Callable[[], list[dict[str, Any]]]] = {
        "training": lambda: [line for levels in LEVELS for line in training(given.rounds, levels)],
        "steps": lambda: steps(given.rounds),
        "reading": reading,
    }
    found = []
    for part in given.part:
        for line in parts[part]():
            found.append({**line, "threads": given.threads})
            print(json.dumps(found[-1]), flush=True)
    if given.output:
        write_json(given.output, found)


if __name__ == "__main__":
    main()
