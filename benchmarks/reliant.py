"""Time and memory of a training step of CPF + RELIANT, and how they grow, beside an edge-by-edge version.

The peer does what the released loop does: attention, dropout and MLP anew in every step of propagation, messages
gathered and summed edge by edge, groups rebuilt from Python sets, autograd's anomaly detection on. Memory is what two
steps add to the peak of a process of their own, in which a small step has run. Ours is faster by drawing the dropout
masks of all steps at once, as numbers, and takes more memory for it.

    python benchmarks/reliant.py
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch_geometric.utils import scatter, softmax

from repertory.core.timing import high_water, race, ratio
from repertory.data.fair_graphs import biased_graph
from repertory.papers.reliant import PLP, Graph, counted, smooth_difference

ROUNDS = range(1 + 9)
NODES = (500, 1000, 2000, 4000)


def propagate_by_edges(student: PLP, x: Tensor, graph: Graph, known: Tensor, labels: Tensor) -> Tensor:
    """What `PLP.forward` computes, one step after the other, message by message."""
    h = x.new_full((len(x), 2), 0.5).index_copy(0, known, labels)
    start = h
    for _ in range(student.steps):
        scores = (student.feat_drop(x) @ student.attention.T).squeeze(1)
        weights = F.dropout(softmax(scores[graph.target], graph.source), student.attn_drop)
        near = scatter(weights[:, None] * h[graph.target], graph.source, dim_size=len(x))
        h = F.relu(student.balance.sigmoid() * near + (-student.balance).sigmoid() * student.mlp(x))
        h = h.index_copy(0, known, start[known])
    return h


def training_step(nodes: int, ours: bool) -> Callable[[], None]:
    people = biased_graph(np.random.default_rng(0), nodes, mean_degree=20)
    graph = Graph(people.edges, people.size)
    x, y, s = (torch.as_tensor(values) for values in (people.features, people.labels, people.sensitive))
    known = torch.arange(nodes // 2)
    student = PLP(nodes, x.shape[1] + 2).train()
    proxy = torch.rand(nodes, 2, requires_grad=True)
    rest = torch.arange(nodes) >= nodes // 2
    groups = counted(s, rest)

    def step() -> None:
        nonlocal groups
        for beside in (proxy.detach().mean(0).expand(nodes, 2), proxy):
            inputs = torch.cat([x, beside], dim=1), graph, known, F.one_hot(y[known]).float()
            if ours:
                p = student(*inputs).softmax(1)
            else:
                zero, one = (
                    set((s == k).nonzero().flatten().tolist()) & set(rest.nonzero().flatten().tolist()) for k in (0, 1)
                )
                groups = torch.tensor(sorted(zero)), torch.tensor(sorted(one))
                p = propagate_by_edges(student, *inputs).softmax(1)
            loss = p[rest].square().sum().sqrt() + 1000 * smooth_difference(p, groups)
            with torch.autograd.set_detect_anomaly(not ours, check_nan=not ours):
                loss.backward()

    return step


def memory_here(nodes: int, ours: bool) -> float:
    """MiB that two steps add to this process; data and libraries do not count."""
    training_step(100, ours)()
    step = training_step(nodes, ours)
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # making the graph took more: begin anew
    before = high_water()
    step()
    step()
    return high_water() - before


def memory(nodes: int, ours: bool) -> float:
    """`memory_here`, in a process of its own."""
    words = [sys.executable, __file__, str(nodes), "ours" if ours else "edges"]
    return float(subprocess.run(words, capture_output=True, text=True, check=True).stdout)


def main() -> None:
    torch.set_num_threads(1)
    if len(sys.argv) > 1:
        print(memory_here(int(sys.argv[1]), sys.argv[2] == "ours"))
        return
    print("one step of student and proxy, one thread, medians of 9 interleaved rounds")
    print(f"{'nodes':>8} {'ours ms':>9} {'edge by edge ms':>16} {'ratio':>6} {'ours MiB':>9} {'edge by edge MiB':>17}")
    for nodes in NODES:
        times = race({"ours": training_step(nodes, True), "edges": training_step(nodes, False)}, ROUNDS)
        ours, edges = (1000 * float(np.median(times[name])) for name in ("ours", "edges"))
        print(
            f"{nodes:>8} {ours:>9.1f} {edges:>16.1f} {ratio(times, 'ours', 'edges'):>6.2f}"
            f" {memory(nodes, True):>9.1f} {memory(nodes, False):>17.1f}"
        )


if __name__ == "__main__":
    main()
