"""Neighbour sampling on graphs larger than memory: incoming edges by target, and a sampler for PyG's `NodeLoader`.

PyG's own `NeighborSampler` needs pyg-lib or torch-sparse; this one needs NumPy alone, and can keep the edges on disk.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch_geometric.sampler import BaseSampler, NodeSamplerInput, SamplerOutput

from repertory.core.problem import system_problem

Blocks = Callable[[], Iterable[tuple[int, Tensor]]]
"""Gives the edges, each time anew: number of a relation, and some of its edges (2, k)."""


class InEdges:
    """The incoming edges of every node (CSC): sources and relations, 6 bytes an edge.

    Args:
        blocks: gives the edges in parts; called twice.
        size: number of nodes n, below 2³¹.
        folder: where sources and relations lie in temporary files, mapped into memory; None: in memory.

    Raises:
        Problem: the folder is full, or not writable.

    Example:
        >>> edges = InEdges(lambda: [(0, torch.tensor([[0, 1], [2, 2]])), (1, torch.tensor([[2], [0]]))], 3)
        >>> edges.starts.tolist(), edges.source.tolist(), edges.kind.tolist()
        ([0, 1, 1, 3], [2, 0, 1], [1, 0, 0])
    """

    def __init__(self, blocks: Blocks, size: int, folder: Path | None = None) -> None:
        degree = np.zeros(size, np.int64)
        for _, edges in blocks():
            degree += np.bincount(edges[1].numpy(), minlength=size)
        self.size = size
        self.starts = np.concatenate([[0], degree.cumsum()])
        """(n + 1,): the edges of node i are those from starts[i] to starts[i + 1]."""
        total = int(self.starts[-1])
        self.source = _array(folder, np.int32, total)
        """(E,)."""
        self.kind = _array(folder, np.int16, total)
        """(E,) number of the relation."""
        free = self.starts[:-1].copy()
        for relation, edges in blocks():
            source, target = edges.numpy()
            order = np.argsort(target, kind="stable")
            sorted_targets = target[order]
            found, first, count = np.unique(sorted_targets, return_index=True, return_counts=True)
            place = free[sorted_targets] + np.arange(len(order)) - np.repeat(first, count)
            self.source[place], self.kind[place] = source[order], relation
            free[found] += count


def _array(folder: Path | None, dtype: type, length: int) -> np.ndarray:
    """An array in memory, or mapped from a nameless file in `folder`, which goes with it."""
    if folder is None or not length:
        return np.empty(length, dtype)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            return np.memmap(file, dtype, "w+", shape=(length,))
    except OSError as error:
        raise system_problem(error, folder) from error


class InEdgeSampler(BaseSampler):
    """Sample incoming edges hop by hop, without replacement, as PyG's `NeighborSampler` does for one node type.

    A node is expanded once, in the hop after the one that found it; of its incoming edges at most as many are drawn as
    the hop allows. Numbers come from NumPy's generator, seeded by torch's: seed torch to repeat a sample.

    Args:
        edges: incoming edges.
        fanouts: most edges of a node in each hop; −1: all.

    Example:
        >>> ring = InEdges(lambda: [(0, torch.tensor([[0, 1, 2, 3], [1, 2, 3, 0]]))], 4)
        >>> InEdgeSampler(ring, [2, 2]).sample_from_nodes(NodeSamplerInput(None, torch.tensor([0]))).node
        tensor([0, 3, 2])
    """

    def __init__(self, edges: InEdges, fanouts: Sequence[int]) -> None:
        self.edges, self.fanouts = edges, list(fanouts)
        self._local = np.full(edges.size, -1, np.int64)

    def sample_from_nodes(self, index: NodeSamplerInput, **_: object) -> SamplerOutput:
        """The sampled subgraph of some nodes.

        Returns:
            `node`: global ids, the given nodes first; `row`, `col`: sources and targets as positions in `node`;
            `edge`: positions of the edges in `InEdges`.
        """
        rng = np.random.default_rng(int(torch.randint(1 << 62, (1,))))
        seeds = index.node.numpy()
        nodes, picked = [seeds], []
        frontier = seeds
        self._local[seeds] = np.arange(len(seeds))
        count, per_hop, edges_per_hop = len(seeds), [len(seeds)], []
        for fanout in self.fanouts:
            edge, target = draw(self.edges.starts, frontier, fanout, rng)
            source = self.edges.source[edge].astype(np.int64)
            fresh = np.unique(source[self._local[source] < 0])
            self._local[fresh] = np.arange(count, count + len(fresh))
            picked.append((self._local[source], self._local[target], edge))
            nodes.append(fresh)
            per_hop.append(len(fresh))
            edges_per_hop.append(len(edge))
            count, frontier = count + len(fresh), fresh
        node = np.concatenate(nodes)
        self._local[node] = -1
        row, col, edge = (torch.from_numpy(np.concatenate(part)) for part in zip(*picked, strict=True))
        return SamplerOutput(
            node=torch.from_numpy(node),
            row=row,
            col=col,
            edge=edge,
            num_sampled_nodes=per_hop,
            num_sampled_edges=edges_per_hop,
            metadata=(index.input_id, index.time),
        )

    def sample_from_edges(self, index: Any, neg_sampling: Any = None) -> Any:
        """Seeds are nodes here: PyG's link loaders need its own sampler."""
        raise NotImplementedError("InEdgeSampler samples around nodes; for links use PyG's NeighborSampler")

    @property
    def edge_permutation(self) -> None:
        """Edges are numbered as in `InEdges`."""
        return


def draw(starts: np.ndarray, nodes: np.ndarray, fanout: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw at most `fanout` incoming edges of each node, without replacement.

    Nodes with more edges than that are sampled by Floyd's algorithm, in steps over all of them at once: the cost grows
    with what is drawn, not with the degree.

    Args:
        starts: (n + 1,) first edge of each node.
        nodes: (k,) ids.
        fanout: most edges a node; −1: all.
        rng: draws.

    Returns:
        Edges and the nodes that they lead to, (m,) each.
    """
    first, degree = starts[nodes], starts[nodes + 1] - starts[nodes]
    whole = degree <= fanout if fanout >= 0 else np.ones(len(nodes), bool)
    offsets = np.arange(degree[whole].sum()) - np.repeat(degree[whole].cumsum() - degree[whole], degree[whole])
    edges, targets = [np.repeat(first[whole], degree[whole]) + offsets], [np.repeat(nodes[whole], degree[whole])]
    many, room = nodes[~whole], degree[~whole]
    if len(many) and fanout > 0:
        chosen = np.empty((len(many), fanout), np.int64)
        for step in range(fanout):
            last = room - fanout + step
            number = rng.integers(0, last + 1)
            taken = (chosen[:, :step] == number[:, None]).any(1)
            chosen[:, step] = np.where(taken, last, number)
        edges.append((first[~whole][:, None] + chosen).ravel())
        targets.append(np.repeat(many, fanout))
    return np.concatenate(edges), np.concatenate(targets)
