"""Training of a network on one task, full batch or with sampled neighbours, and its logits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_geometric.data import Data
from torch_geometric.loader import NodeLoader

from repertory.core.loops import Loop, Picks
from repertory.core.study import Session
from repertory.data.accounts import AccountGraph, edge_blocks
from repertory.data.neighbours import InEdges, InEdgeSampler
from repertory.papers.mgtab.accounts import no_edges
from repertory.papers.mgtab.model import GraphNetwork
from repertory.papers.mgtab.relations import Relations
from repertory.papers.mgtab.settings import MGTABConfig
from repertory.tasks.graphs import accuracy

Batch = tuple[Tensor, Tensor, Tensor, Relations]
"""Ids of the accounts that count, their positions in the batch, features (m, d) of the batch, and its edges."""


class FullBatch:
    """The whole graph on the session's device: every batch is all of it.

    Args:
        session: for the device.
        data: the graph.
        relations: which of its relations, in the order of their numbers; none: no edges.
    """

    def __init__(self, session: Session, data: AccountGraph, relations: Sequence[str]) -> None:
        device = session.fabric.device
        parts = [data.edges[name].long() for name in relations] or [no_edges()]
        kinds = torch.repeat_interleave(torch.tensor([part.shape[1] for part in parts]))
        edges = torch.cat(parts, dim=1)
        self.x = data.features.float().to(device)
        self.graph = Relations(edges.to(device), kinds.to(device), len(parts), data.size)

    def batches(self, ids: Tensor) -> Iterator[Batch]:
        """One batch, in which the accounts `ids` (k,) count."""
        yield ids, ids, self.x, self.graph

    def logits(self, network: nn.Module, ids: Tensor) -> Tensor:
        """(k, C) of the accounts `ids`."""
        return network(self.x, self.graph)[ids]


class Sampled:
    """Batches of accounts with sampled neighbours; features and edges stay where they are, on disk or in memory.

    Args:
        session: for the device.
        data: the graph; its features may be mapped from a file.
        relations: which of its relations, in the order of their numbers; none: no edges.
        fanouts: most neighbours in each hop, −1: all.
        batch_size: accounts a batch.
        folder: where the sorted edges lie in temporary files; None: in memory.
    """

    def __init__(
        self,
        session: Session,
        data: AccountGraph,
        relations: Sequence[str],
        fanouts: Sequence[int],
        batch_size: int,
        folder: Path | None = None,
    ) -> None:
        self.session, self.batch_size, self.count = session, batch_size, max(1, len(relations))
        self.edges = InEdges(lambda: edge_blocks(data, relations), data.size, folder)
        self.sampler = InEdgeSampler(self.edges, fanouts)
        self.data = Data(x=data.features, edge_index=no_edges(), num_nodes=data.size)

    def batches(self, ids: Tensor) -> Iterator[Batch]:
        """Batches of the accounts `ids` (k,), in their order."""
        for part in NodeLoader(self.data, self.sampler, input_nodes=ids.cpu(), batch_size=self.batch_size):
            kinds = torch.from_numpy(np.asarray(self.edges.kind[part.e_id.numpy()], np.int64))
            x, edges, kinds = self.session.fabric.to_device((part.x.float(), part.edge_index, kinds))
            graph = Relations(edges, kinds, self.count, len(x))
            own = torch.arange(part.batch_size, device=x.device)
            yield part.n_id[: part.batch_size].to(x.device), own, x, graph

    def logits(self, network: nn.Module, ids: Tensor) -> Tensor:
        """(k, C) of the accounts `ids`, each with its own sample of neighbours."""
        return torch.cat([network(x, graph)[own] for _, own, x, graph in self.batches(ids)])


Batches = FullBatch | Sampled


@dataclass(frozen=True)
class Roles:
    """Labels of one task (n,), and the ids of the accounts for training, validation and test."""

    labels: Tensor
    train: Tensor
    valid: Tensor
    test: Tensor


def train_network(
    session: Session,
    config: MGTABConfig,
    network: GraphNetwork,
    batches: Batches,
    roles: Roles,
    task: str,
    decay: float,
) -> None:
    """Cross entropy on the training accounts; the weights with the best validation accuracy are kept, in place.

    Raises:
        Diverged: a loss or a weight is not finite.
    """
    optimizer = torch.optim.AdamW(network.parameters(), lr=config.lr, weight_decay=decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.schedule_epochs)
    wrapped, optimizer = session.fabric.setup(network, optimizer)
    picks = Picks(ties="first")
    parts = {"module": network, "optimizer": optimizer, "schedule": schedule, "picks": picks}
    loop = Loop(session, config.epochs, part=task, **parts)
    for epoch in loop:
        lr = optimizer.param_groups[0]["lr"]
        order = roles.train[torch.randperm(len(roles.train)).to(roles.train.device)]
        losses, score = [], 0.0
        network.train()
        for ids, own, x, graph in batches.batches(order):
            logits = wrapped(x, graph)
            loss = F.cross_entropy(logits[own], roles.labels[ids])
            losses.append(loop.check(loss))
            if config.validation == "train":  # as released; full batch alone
                score = accuracy(logits, roles.labels, roles.valid)
            optimizer.zero_grad()
            session.fabric.backward(loss)
            optimizer.step()
        if config.schedule == "cosine":
            schedule.step()

        if config.validation == "eval":
            network.eval()
            with torch.no_grad():
                predicted = batches.logits(wrapped, roles.valid).argmax(1)
            score = 100 * (predicted == roles.labels[roles.valid]).float().mean().item()
        picks.offer(epoch, {"best": score}, network.state_dict)
        loop.log(loss=float(np.mean(losses)), valid_accuracy=score, lr=lr)
    network.load_state_dict(picks.state("best"))
    network.eval()
