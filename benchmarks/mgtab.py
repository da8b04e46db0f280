"""Speed and growth of R-GCN on graphs of accounts.

    python benchmarks/mgtab.py

- epoch: full batch, two layers, ReLU between them, as in PyG's example; forward, backward, step of Adam, evaluation.
  At MGTAB's size the graph has 10,199 accounts and the 720,695 edges of followers and friends. Peer: PyG's RGCNConv.
- sampled: an epoch with the published fan-outs 15 and 25 and batches of 512, in the layout of MGTAB-large: features are
  mapped from their file, sorted edges lie on disk. Peer: the full batch of the same files. No goal: the figure tells
  what sampling costs; its memory includes pages of mapped files, which the system takes back when memory is short.
- growth: the epoch over edges, 20 an account, width 32.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch

from repertory.core.bench import Growth, Race, bench, scratch
from repertory.core.study import Session
from repertory.data.accounts import AccountGraph, read_accounts, write_large
from repertory.papers.mgtab.race import contestants
from repertory.papers.mgtab.settings import MGTABConfig
from repertory.papers.mgtab.study import MGTABStudy

SIZES = {"small": (2_000, 60_000, 2), "MGTAB": (10_199, 720_695, 7)}
"""Accounts, edges, relations."""
LABELLED, FEATURES, DEGREE = 1_000, 788, 20


def epoch(nodes: int, edges: int, relations: int) -> Race:
    runs = contestants(nodes, edges, relations, features=128, hidden=128)
    torch.testing.assert_close(runs["ours"](), runs["pyg"](), rtol=1e-4, atol=1e-4)  # the losses before the first step
    facts = {"nodes": nodes, "edges": edges, "relations": relations}
    return Race(runs["ours"], {"PyG RGCNConv": runs["pyg"]}, facts=facts)


def random_accounts(accounts: int) -> AccountGraph:
    """Two relations; the first accounts are labelled."""
    draw = torch.Generator().manual_seed(0)
    labels = torch.full((accounts,), -1)
    labels[:LABELLED] = torch.randint(2, (LABELLED,), generator=draw)
    x = torch.rand(accounts, FEATURES, generator=draw)
    x[:LABELLED, 0] += labels[:LABELLED]
    edges = {
        name: torch.randint(accounts, (2, accounts * DEGREE // 2), generator=draw) for name in ("followers", "friends")
    }
    return AccountGraph("random", x, edges, {"bot": labels})


def sampled(accounts: int = 5_000) -> Race:
    folder = scratch()
    write_large(folder, random_accounts(accounts))
    data = read_accounts(folder)
    large = MGTABStudy.scales["large"]

    def train(fanouts: tuple[int, ...]) -> Callable[[], object]:
        changes = {"epochs": 1, "fanouts": fanouts, "batch_size": 512, "edges_on_disk": True}
        config = MGTABConfig.model_validate({**large.model_dump(), **changes})
        return lambda: MGTABStudy(config, Session(0, scratch(), folder)).train("rgcn", data)

    return Race(train((15, 25)), {"full batch": train(())}, goal=None, facts={"accounts": accounts})


def growth() -> Growth:
    return Growth(
        lambda edges: contestants(edges // DEGREE, edges, features=32, hidden=32)["ours"],
        [10**4, 10**5, 10**6, 10**7],
        "edges",
    )


if __name__ == "__main__":
    bench(
        __doc__,
        {
            **{f"epoch, {name}": partial(epoch, *size) for name, size in SIZES.items()},
            "epoch, growth": growth,
            "sampled": sampled,
        },
    )
