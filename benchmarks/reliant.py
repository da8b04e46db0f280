"""Speed, memory and growth of a training step of CPF + RELIANT.

    python benchmarks/reliant.py

- step: student and proxy, forward and backward. Peers: attention, dropout and MLP anew in every step of propagation,
  messages gathered and summed edge by edge; and the released loop, which also rebuilds the groups from Python sets and
  has autograd's anomaly detection on. Ours draws the dropout masks of all steps at once and keeps them as masks.
- growth: the step over edges, 20 a node.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F
from torch_geometric.utils import coalesce, scatter, softmax, to_undirected

from repertory.core.bench import Growth, Race, bench
from repertory.papers.reliant import PLP, Graph, counted, smooth_difference

DEGREE, WORDS = 20, 60


def propagate_by_edges(student: PLP, x: Tensor, graph: Graph, known: Tensor, labels: Tensor) -> Tensor:
    """What `PLP.forward` computes, one step after the other, message by message."""
    h = x.new_full((len(x), 2), 0.5).index_copy(0, known, labels)
    start = h
    for _ in range(student.steps):
        scores = (student.feat_drop(x) @ student.attention.T).squeeze(1)
        weights = F.dropout(softmax(scores[graph.target], graph.source), student.attn_drop, student.training)
        near = scatter(weights[:, None] * h[graph.target], graph.source, dim_size=len(x))
        h = F.relu(student.balance.sigmoid() * near + (-student.balance).sigmoid() * student.mlp(x))
        h = h.index_copy(0, known, start[known])
    return h


def random_graph(nodes: int, edges: int) -> Graph:
    """Both directions of half as many pairs, and self loops."""
    pairs = torch.randint(nodes, (2, edges // 2), generator=torch.Generator().manual_seed(0))
    loops = torch.arange(nodes).expand(2, nodes)
    return Graph(coalesce(torch.cat([to_undirected(pairs), loops], 1)).numpy(), nodes)


class People:
    """Inputs of a step."""

    def __init__(self, nodes: int) -> None:
        draw = torch.Generator().manual_seed(0)
        self.graph = random_graph(nodes, DEGREE * nodes)
        self.x = torch.poisson(torch.full((nodes, WORDS), 0.4), generator=draw)
        self.known, self.rest = torch.arange(nodes // 2), torch.arange(nodes) >= nodes // 2
        self.labels = F.one_hot(torch.randint(2, (nodes // 2,), generator=draw), 2).float()
        self.sensitive = torch.randint(2, (nodes,), generator=draw)
        self.groups = counted(self.sensitive, self.rest)
        self.proxy = torch.rand(nodes, 2, generator=draw).requires_grad_()
        self.student = PLP(nodes, WORDS + 2)

    def inputs(self, proxy: Tensor) -> tuple[Tensor, Graph, Tensor, Tensor]:
        return torch.cat([self.x, proxy], 1), self.graph, self.known, self.labels

    def step(self, forward: Callable[..., Tensor]) -> None:
        """Backward through the student with the proxy's mean, and with the proxy."""
        for proxy in (self.proxy.detach().mean(0).expand_as(self.proxy), self.proxy):
            p = forward(self.student, *self.inputs(proxy)).softmax(1)
            (p[self.rest].square().sum().sqrt() + 1000 * smooth_difference(p, self.groups)).backward()

    def released_step(self) -> None:
        rest = set(self.rest.nonzero().flatten().tolist())
        zero, one = (set((self.sensitive == k).nonzero().flatten().tolist()) & rest for k in (0, 1))
        self.groups = torch.tensor(sorted(zero)), torch.tensor(sorted(one))
        with torch.autograd.set_detect_anomaly(True):
            self.step(propagate_by_edges)


def step(nodes: int) -> Race:
    people = People(nodes)
    inputs = people.inputs(people.proxy)
    people.student.eval()
    torch.testing.assert_close(people.student(*inputs), propagate_by_edges(people.student, *inputs))
    people.student.train()
    peers = {"edge by edge": partial(people.step, propagate_by_edges), "released loop": people.released_step}
    return Race(
        partial(people.step, PLP.__call__), peers, goal=3, facts={"nodes": nodes, "edges": len(people.graph.source)}
    )


def growth() -> Growth:
    def work(edges: int) -> Callable[[], None]:
        people = People(edges // DEGREE)
        return partial(people.step, PLP.__call__)

    return Growth(work, [10**3, 10**4, 10**5, 10**6], "edges")


if __name__ == "__main__":
    bench(
        __doc__,
        {**{f"step, {nodes} nodes": partial(step, nodes) for nodes in (500, 4000)}, "step, growth": growth},
    )
