"""MGTAB: a full-batch epoch of R-GCN beside PyG's own layer, and sampled training of a graph on disk.

    python benchmarks/mgtab.py                  # one JSON line a race
    python benchmarks/mgtab.py --accounts 100000

Epochs: two layers, ReLU between them, as in PyG's example; forward, backward, step of Adam, evaluation; one thread,
interleaved rounds. At MGTAB's size the graph has 10,199 accounts and the 720,695 edges of followers and friends.

Sampled training: the layout of MGTAB-large, features mapped from their file and sorted edges on disk; the published
fan-outs 15 and 25 with batches of 512, and a small setting. Memory is what a process of its own holds for itself
(`RssAnon`, greatest value during training); pages of mapped files do not count, since the system drops them when memory
is short. The full batch of the same files reads the features, and is measured in the same way.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import torch

from repertory.core.study import Session
from repertory.core.timing import race, ratio
from repertory.data.accounts import AccountGraph, read_accounts, write_large
from repertory.papers.mgtab.race import contestants
from repertory.papers.mgtab.settings import MGTABConfig
from repertory.papers.mgtab.study import MGTABStudy

ROUNDS = 9
HOW = {"published": ((15, 25), 512), "small": ((5, 5), 128), "full": ((), 512)}
"""Fan-outs, and accounts a batch; without fan-outs the full batch."""
SIZES = {"small": (2_000, 60_000), "MGTAB": (10_199, 720_695)}


def epochs() -> None:
    """The race of an epoch, by size and number of relations."""
    for name, (nodes, edges) in SIZES.items():
        for relations in (2, 7):
            times = race(contestants(nodes, edges, relations, features=256, hidden=256), range(1 + ROUNDS))
            speeds = times["pyg"] / times["ours"]
            print(json.dumps({
                "race": f"R-GCN epoch, {name}", "nodes": nodes, "edges": edges, "relations": relations,
                "ours_ms": round(1000 * float(np.median(times["ours"])), 1),
                "peer_ms": round(1000 * float(np.median(times["pyg"])), 1), "peer": "torch_geometric RGCNConv",
                "ratio": round(ratio(times, "ours", "pyg"), 2),
                "spread": [round(float(np.quantile(speeds, q)), 2) for q in (0.25, 0.75)],
                "threads": torch.get_num_threads(),
            }), flush=True)  # fmt: skip


def write_graph(folder: Path, accounts: int, degree: int = 20) -> None:
    """Random accounts in the layout of MGTAB-large: 788 features, two relations, 5,000 labelled."""
    draw = torch.Generator().manual_seed(0)
    labels = torch.full((accounts,), -1)
    labels[:5000] = torch.randint(2, (5000,), generator=draw)
    x = torch.rand(accounts, 788, generator=draw)
    x[:5000, 0] += labels[:5000]
    edges = {
        name: torch.randint(accounts, (2, accounts * degree // 2), generator=draw) for name in ("followers", "friends")
    }
    write_large(folder, AccountGraph("random", x, edges, {"bot": labels}))


def anonymous() -> float:
    """Memory of this process that no file backs, MiB."""
    found = re.search(r"RssAnon:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="ascii"))
    return int(found[1]) / 1024 if found else float("nan")


def train_here(folder: Path, how: str) -> dict[str, float]:
    """Two epochs of R-GCN in this process: seconds an epoch, and the greatest memory beyond that of the libraries."""
    fanouts, batch_size = HOW[how]
    changes = {"epochs": 2, "fanouts": fanouts, "batch_size": batch_size, "edges_on_disk": True}
    config = MGTABConfig.model_validate({**MGTABStudy.scales["large"].model_dump(), **changes})
    before, peak, done = anonymous(), 0.0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.02):
            peak = max(peak, anonymous() - before)

    watcher = threading.Thread(target=watch)
    watcher.start()
    with tempfile.TemporaryDirectory() as scratch:
        study = MGTABStudy(config, Session(0, Path(scratch), folder))
        data = read_accounts(folder)
        start = time.perf_counter()
        study.train("rgcn", data)
        seconds = (time.perf_counter() - start) / 2
    done.set()
    watcher.join()
    return {"epoch_s": round(seconds, 2), "memory_mib": round(peak)}


def sampled(accounts: list[int], ways: list[str]) -> None:
    """Memory and time of sampled and full-batch training, as the graph grows; each in a process of its own."""
    for count in accounts:
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch) / "large"
            write_graph(folder, count)
            size = sum(path.stat().st_size for path in folder.iterdir()) / 2**20
            for how in ways:
                words = [sys.executable, __file__, "--here", how, "--folder", str(folder)]
                run = subprocess.run(words, capture_output=True, text=True, check=True)
                print(json.dumps({
                    "race": "R-GCN on files", "accounts": count, "edges": 20 * count, "files_mib": round(size),
                    "how": how, "fanouts": HOW[how][0], **json.loads(run.stdout.splitlines()[-1]),
                    "threads": torch.get_num_threads(),
                }), flush=True)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--accounts", type=int, nargs="+", default=[20_000, 50_000, 100_000])
    parser.add_argument("--skip-epochs", action="store_true")
    parser.add_argument("--how", nargs="+", choices=list(HOW), default=list(HOW))
    parser.add_argument("--here", choices=list(HOW), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.here:
        print(json.dumps(train_here(options.folder, options.here)))
        return
    if not options.skip_epochs:
        epochs()
    sampled(options.accounts, options.how)


if __name__ == "__main__":
    main()
