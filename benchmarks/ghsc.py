"""GHSC's operator and networks beside dense code in the style of the releases, PyTorch Geometric and DHG.

    python benchmarks/ghsc.py [--threads 1] [--rounds 9] [--largest 1000000] [--output FOLDER]

A ratio is measured in one run: ours and the other take turns, and the median of the paired ratios counts (above 1:
ours is faster). An epoch is a training step and an evaluation of all vertices. Peak memory is that of a process of its
own, above what it held before. DHG takes part if it can be imported (pip install --no-deps dhg). With --output, a table
(JSON) and the picture of cost against the number of incidences are written.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from scipy import sparse
from torch import Tensor, nn

from repertory.core.files import write_json
from repertory.core.problem import require
from repertory.core.timing import high_water, race, ratio
from repertory.papers.ghsc import HGCN, HGCNII, Sparse, UnifiedHypergraph, knn_incidence

CORA = {"n": 2708, "m": 1579, "size": 3, "f": 1433, "words": 18, "classes": 7}
"""Like co-citation Cora: vertices, hyperedges and their size, features and how many of them are 1, classes."""

HIDDEN, DEEP, LAYERS = 128, 64, 32
Step = Callable[[], object]


# -- data ---------------------------------------------------------------------------------------------


def random_incidence(n: int, m: int, size: int) -> sparse.csr_array:
    """(n, m), 0/1: every hyperedge draws `size` vertices."""
    rng = np.random.default_rng(0)
    Q = sparse.csr_array((np.ones(m * size), (rng.integers(n, size=m * size), np.repeat(np.arange(m), size))), (n, m))
    Q.data[:] = 1.0
    return Q


def random_words(n: int, f: int, words: int) -> sparse.csr_array:
    """(n, f) bags of words."""
    return random_incidence(n, f, max(1, words * n // f))


# -- what the others do ---------------------------------------------------------------------------------


def dense_operator(Q: sparse.csr_array) -> Tensor:
    """As the releases build T: over dense matrices; at the end a sparse tensor."""
    H = Q.toarray()
    degree = H.sum(axis=0)
    K = H @ np.diag(1 / np.maximum(degree, 1)) @ H.T + np.eye(len(H))
    root = np.diag(K.sum(axis=0) ** -0.5)
    return torch.from_numpy(root @ K @ root).float().to_sparse().coalesce()


def looped_knn(features: np.ndarray, k: int = 6, gamma: float = 0.5) -> np.ndarray:
    """As the releases build the incidence of objects: all distances, then a loop over the objects."""
    squares = (features**2).sum(axis=1)
    dist = np.sqrt(np.maximum(squares[:, None] + squares[None] - 2 * features @ features.T, 0))
    Q = np.zeros_like(dist)
    for c in range(len(dist)):
        near = np.argsort(dist[c])[:k]
        mean = dist[c].mean()
        for v in near:
            Q[v, c] = np.exp(-(dist[c, v] ** 2) / (gamma * mean**2))
    return Q


class PlainGCN(nn.Module):
    """Two layers over dense features, COO products and PyTorch's dropout."""

    def __init__(self, f: int, hidden: int, classes: int) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(f, hidden), nn.Linear(hidden, classes)

    def forward(self, x: Tensor, T: Tensor) -> Tensor:
        h = F.dropout(F.relu(torch.sparse.mm(T, self.first(x))), 0.5, self.training)
        return torch.sparse.mm(T, self.second(h))


class PygNet(nn.Module):
    """Two layers of HypergraphConv over dense features."""

    def __init__(self, f: int, hidden: int, classes: int) -> None:
        super().__init__()
        conv: Any = require("torch_geometric.nn", "graphs").HypergraphConv
        self.first, self.second = conv(f, hidden), conv(hidden, classes)

    def forward(self, x: Tensor, index: Tensor) -> Tensor:
        return self.second(F.dropout(F.relu(self.first(x, index)), 0.5, self.training), index)


class PygGCNII(nn.Module):
    """GCN2Conv over the same T, given as edges."""

    def __init__(self, f: int, hidden: int, classes: int, layers: int) -> None:
        super().__init__()
        conv: Any = require("torch_geometric.nn", "graphs").GCN2Conv
        self.first, self.last = nn.Linear(f, hidden), nn.Linear(hidden, classes)
        self.convs = nn.ModuleList(
            conv(hidden, alpha=0.1, theta=0.5, layer=k + 1, normalize=False, add_self_loops=False)
            for k in range(layers)
        )

    def forward(self, x: Tensor, edges: tuple[Tensor, Tensor]) -> Tensor:
        h = h0 = F.relu(self.first(F.dropout(x, 0.5, self.training)))
        for conv in self.convs:
            h = F.relu(conv(F.dropout(h, 0.5, self.training), h0, *edges))
        return self.last(F.dropout(h, 0.5, self.training))


class DhgNet(nn.Module):
    """Two layers of DHG's HGNNConv."""

    def __init__(self, f: int, hidden: int, classes: int) -> None:
        super().__init__()
        conv: Any = importlib.import_module("dhg.nn").HGNNConv
        self.first, self.second = conv(f, hidden, drop_rate=0.5), conv(hidden, classes, is_last=True)

    def forward(self, x: Tensor, hypergraph: Any) -> Tensor:
        return self.second(self.first(x, hypergraph), hypergraph)


# -- the races ------------------------------------------------------------------------------------------


def epoch(network: nn.Module, x: Any, T: Any, n: int, classes: int) -> Step:
    """A training step on 5 % of the vertices, then an evaluation of all."""
    train, labels = torch.arange(0, n, 20), torch.arange(n) % classes
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01, fused=True)

    def work() -> None:
        optimizer.zero_grad()
        F.cross_entropy(network.train()(x, T)[train], labels[train]).backward()
        optimizer.step()
        with torch.no_grad():
            network.eval()(x, T)

    return work


def epochs(deep: bool) -> dict[str, Callable[[], Step]]:
    """How each contestant's epoch at Cora's size is set up, data included."""
    n, f, classes = (CORA[name] for name in ("n", "f", "classes"))
    Q, words = random_incidence(n, CORA["m"], CORA["size"]), random_words(n, f, CORA["words"])

    def dense_words() -> Tensor:
        return torch.from_numpy(words.toarray()).float()

    def index() -> Tensor:
        return torch.from_numpy(np.stack(Q.tocoo().coords).astype(np.int64))

    def ours(network: nn.Module) -> Step:
        return epoch(network, Sparse(words), UnifiedHypergraph(Q).operator(), n, classes)

    def dhg() -> Step:
        members = [ids.tolist() for ids in np.split(Q.tocsc().indices, Q.tocsc().indptr[1:-1])]
        hypergraph = importlib.import_module("dhg").Hypergraph(n, members)
        return epoch(DhgNet(f, HIDDEN, classes), dense_words(), hypergraph, n, classes)

    if deep:
        edges = UnifiedHypergraph(Q).edges()
        return {
            "ours": lambda: ours(HGCNII(f, classes, DEEP, LAYERS)),
            "PyG GCN2Conv": lambda: epoch(PygGCNII(f, DEEP, classes, LAYERS), dense_words(), edges, n, classes),
        }
    contestants = {
        "ours": lambda: ours(HGCN(f, classes, HIDDEN)),
        "release style": lambda: epoch(PlainGCN(f, HIDDEN, classes), dense_words(), dense_operator(Q), n, classes),
        "PyG HypergraphConv": lambda: epoch(PygNet(f, HIDDEN, classes), dense_words(), index(), n, classes),
    }
    try:
        importlib.import_module("dhg.nn")
    except ImportError:
        return contestants
    return {**contestants, "DHG HGNNConv": dhg}


def builders() -> dict[str, dict[str, Step]]:
    """What is done once a data set."""
    Q = random_incidence(CORA["n"], CORA["m"], CORA["size"])
    features = np.random.default_rng(0).normal(size=(2012, 512))  # as many objects as NTU2012
    return {
        "operator, Cora's size": {"ours": UnifiedHypergraph(Q).operator, "release style": lambda: dense_operator(Q)},
        "EDVW of neighbours, 2012 objects": {
            "ours": lambda: knn_incidence(features),
            "release style": lambda: looped_knn(features),
        },
    }


def compare(contestants: dict[str, Step], rounds: int) -> dict[str, dict[str, float]]:
    """Medians in milliseconds, and of the paired ratios to ours."""
    times = race(contestants, range(1 + rounds))
    return {
        name: {"ms": 1e3 * float(np.median(taken)), "ratio": ratio(times, "ours", name)}
        for name, taken in times.items()
    }


def peak_memory(race_name: str, contestant: str) -> float:
    """MiB that setting up and running two epochs takes, in a process of its own."""
    command = [sys.executable, __file__, "--one", race_name, contestant]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])


def one(race_name: str, contestant: str) -> None:
    """Measure one contestant's peak memory in this process; data and libraries do not count."""
    setup = epochs(race_name == "deep")[contestant]
    epoch(HGCN(4, 2, 4), torch.ones(8, 4), UnifiedHypergraph(np.eye(8)).operator(), 8, 2)()
    importlib.import_module("torch_geometric.nn")  # libraries are loaded by now
    before = high_water()
    step = setup()
    step()
    step()
    print(high_water() - before)


# -- growth ---------------------------------------------------------------------------------------------


def growth(largest: int) -> dict[str, dict[int, tuple[float, float]]]:
    """series -> incidences -> seconds to build the operator, seconds of an epoch of H-GCN (16 features, 16 hidden)."""
    sizes = [int(size) for size in 10 ** np.arange(3, np.log10(largest) + 0.1, 0.5)]
    series: dict[str, tuple[Callable[[int], int], Callable[[sparse.csr_array], Any], bool]] = {
        "ours, hyperedges of 5": (lambda incidences: 5, lambda Q: UnifiedHypergraph(Q).operator(), True),
        "ours, hyperedges of √incidences": (
            lambda incidences: int(incidences**0.5),
            lambda Q: UnifiedHypergraph(Q).operator(),
            True,
        ),
        "release style, hyperedges of 5": (lambda incidences: 5, dense_operator, False),
    }
    curves: dict[str, dict[int, tuple[float, float]]] = {}
    for name, (size_of, build, ours) in series.items():
        curves[name] = {}
        for incidences in sizes:
            n, size = incidences // 2, size_of(incidences)
            if not ours and n > 6000:
                break  # dense matrices of gigabytes
            Q, x = random_incidence(n, incidences // size, size), torch.randn(n, 16)
            gc.collect()
            building = np.median([_seconds(partial(build, Q)) for _ in range(3)])
            network: nn.Module = HGCN(16, 4, 16) if ours else PlainGCN(16, 16, 4)
            step = epoch(network, x, build(Q), n, 4)
            step()
            curves[name][incidences] = float(building), float(np.median([_seconds(step) for _ in range(5)]))
    return curves


def _seconds(work: Step) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def slope(curve: dict[int, tuple[float, float]], part: int, start: int = 10_000) -> float:
    """Exponent of the growth from `start` incidences on, below which overheads rule."""
    points = np.log([(incidences, seconds[part]) for incidences, seconds in curve.items() if incidences >= start])
    return float(np.polyfit(points[:, 0], points[:, 1], 1)[0])


def picture(curves: dict[str, dict[int, tuple[float, float]]]) -> Figure:
    """Cost against incidences, on logarithmic axes, beside a line of slope 1."""
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    for part, title in enumerate(("building the operator", "an epoch of H-GCN")):
        ax = figure.add_subplot(1, 2, part + 1, title=title, xlabel="incidences", ylabel="seconds")
        ax.set(xscale="log", yscale="log")
        for name, curve in curves.items():
            ax.plot(list(curve), [seconds[part] for seconds in curve.values()], marker="o", label=name)
        ours = next(iter(curves.values()))
        x = np.array([min(ours), max(ours)])
        ax.plot(x, ours[int(x[1])][part] * x / x[1], "k:", label="linear")
    figure.axes[0].legend(fontsize="small")
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description="speed and memory of GHSC")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--largest", type=int, default=1_000_000)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.one:
        one(*options.one)
        return

    results: dict[str, Any] = {}
    races = {"H-GCN (2 layers), an epoch": "shallow", f"H-GCNII ({LAYERS} layers), an epoch": "deep"}
    for title, key in races.items():
        result = compare({name: setup() for name, setup in epochs(key == "deep").items()}, options.rounds)
        for name in result:
            result[name]["peak_mib"] = peak_memory(key, name)
        results[title] = result
    for title, contestants in builders().items():
        results[title] = compare(contestants, max(3, options.rounds // 3))
    for title, result in results.items():
        print(title)
        for name, figures in result.items():
            memory = f"   peak {figures['peak_mib']:7.1f} MiB" if "peak_mib" in figures else ""
            print(f"    {name:22s} {figures['ms']:9.2f} ms   ratio {figures['ratio']:7.2f}{memory}")

    curves = growth(options.largest)
    for name, curve in curves.items():
        for incidences, (building, step) in curve.items():
            print(f"{name:34s} {incidences:9d} incidences: build {building:8.4f} s, epoch {step:8.4f} s")
        if len(curve) > 3:
            print(f"{name:34s} exponents: build {slope(curve, 0):.2f}, epoch {slope(curve, 1):.2f}")
    if options.output:
        options.output.mkdir(parents=True, exist_ok=True)
        picture(curves).savefig(options.output / "growth.png", dpi=130)
        versions = {"threads": options.threads, "torch": torch.__version__}
        write_json(options.output / "ghsc.json", {**versions, "results": results, "growth": curves})


if __name__ == "__main__":
    main()
