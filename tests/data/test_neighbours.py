"""Incoming edges by target, in memory and on disk; sampling without replacement, as PyG's sampler has it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch_geometric.data import Data
from torch_geometric.loader import NodeLoader
from torch_geometric.sampler import NodeSamplerInput, SamplerOutput
from torch_geometric.utils import k_hop_subgraph

from repertory.data.neighbours import InEdges, InEdgeSampler, draw


def random_graph(n: int = 40, edges: int = 400, relations: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(n, (2, edges), generator=generator), torch.randint(relations, (edges,), generator=generator)


def in_edges(edges: Tensor, kinds: Tensor, size: int = 40, folder: Path | None = None) -> InEdges:
    """In parts of 33 edges, relation by relation."""
    parts = [(r, part) for r in range(int(kinds.max()) + 1) for part in edges[:, kinds == r].split(33, dim=1)]
    return InEdges(lambda: parts, size, folder)


def sample(sampler: InEdgeSampler, *nodes: int) -> SamplerOutput:
    return sampler.sample_from_nodes(NodeSamplerInput(None, torch.tensor(nodes)))


@pytest.mark.parametrize("on_disk", [False, True])
def test_every_edge_is_at_its_target_once(tmp_path: Path, on_disk: bool) -> None:
    edges, kinds = random_graph()
    found = in_edges(edges, kinds, folder=tmp_path / "edges" if on_disk else None)
    target = np.repeat(np.arange(40), np.diff(found.starts))
    ours = sorted(zip(found.source.tolist(), target.tolist(), found.kind.tolist(), strict=True))
    assert ours == sorted(zip(*edges.tolist(), kinds.tolist(), strict=True))
    assert isinstance(found.source, np.memmap) == on_disk
    assert not list(tmp_path.rglob("*.*"))  # the files have no name


def test_a_graph_without_edges() -> None:
    found = InEdges(lambda: [(0, torch.zeros(2, 0, dtype=torch.int64))], 3)
    output = sample(InEdgeSampler(found, [5, 5]), 2, 0)
    assert output.node.tolist() == [2, 0]
    assert output.row.numel() == 0


def test_all_neighbours_are_the_subgraph_of_k_hops() -> None:
    edges, kinds = random_graph(edges=80)
    sampler = InEdgeSampler(in_edges(edges, kinds), [-1, -1])
    output = sample(sampler, 3, 7)
    assert output.node[:2].tolist() == [3, 7]
    nodes, *_ = k_hop_subgraph([3, 7], 2, edges, num_nodes=40)
    assert sorted(output.node.tolist()) == nodes.tolist()
    assert output.num_sampled_nodes is not None
    expanded = set(output.node[: sum(output.num_sampled_nodes[:2])].tolist())  # the last hop is not expanded
    pairs = sorted(zip(output.node[output.row].tolist(), output.node[output.col].tolist(), strict=True))
    assert pairs == sorted((j, i) for j, i in edges.T.tolist() if i in expanded)


def test_no_more_edges_than_asked_for_and_none_twice() -> None:
    edges, kinds = random_graph(edges=2000)
    whole = in_edges(edges, kinds)
    output = sample(InEdgeSampler(whole, [4, 3]), *range(10))
    assert output.edge is not None
    assert len(output.edge.unique()) == len(output.edge)
    assert torch.bincount(output.col[:40], minlength=10).tolist() == [4] * 10
    target = torch.from_numpy(np.repeat(np.arange(40), np.diff(whole.starts)))
    assert torch.equal(output.node[output.row], torch.from_numpy(whole.source.astype(np.int64))[output.edge])
    assert torch.equal(output.node[output.col], target[output.edge])


def test_torchs_seed_repeats_a_sample() -> None:
    sampler = InEdgeSampler(in_edges(*random_graph(edges=2000)), [4, 3])
    found = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        found.append(sample(sampler, 1, 2, 3).edge)
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_every_edge_is_drawn_as_often() -> None:
    starts, rng = np.array([0, 6]), np.random.default_rng(0)
    counts = np.zeros(6)
    for _ in range(3000):
        edge, target = draw(starts, np.array([0]), 4, rng)
        assert len(set(edge.tolist())) == 4
        assert target.tolist() == [0] * 4
        counts[edge] += 1
    assert np.abs(counts / 3000 - 4 / 6).max() < 0.05  # 5 standard deviations


def test_pygs_loader_takes_it() -> None:
    edges, kinds = random_graph()
    data = Data(x=torch.arange(40.0)[:, None], edge_index=torch.zeros(2, 0, dtype=torch.int64), num_nodes=40)
    sampler = InEdgeSampler(in_edges(edges, kinds), [2, 2])
    batches = list(NodeLoader(data, sampler, input_nodes=torch.tensor([5, 1, 9]), batch_size=2))
    assert [batch.batch_size for batch in batches] == [2, 1]
    assert batches[0].n_id[:2].tolist() == [5, 1]
    assert torch.equal(batches[0].x[:, 0], batches[0].n_id.float())
    assert int(batches[0].edge_index.max()) < len(batches[0].n_id)
