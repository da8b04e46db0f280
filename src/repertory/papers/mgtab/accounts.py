"""What a trial trains and keeps: a network or classifier for each task, with the names of classes and relations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from huggingface_hub import PyTorchModelHubMixin
from torch import Tensor, nn

from repertory.core.problem import Problem
from repertory.papers.mgtab.classifiers import CLASSIFIERS, FittedClassifier
from repertory.papers.mgtab.model import NETWORKS, GraphNetwork
from repertory.papers.mgtab.relations import Relations


class AccountClassifier(nn.Module, PyTorchModelHubMixin, library_name="repertory"):
    """One method, trained for one or more tasks on the same accounts.

    Args:
        method: of `model.NETWORKS` or `classifiers.CLASSIFIERS`.
        features: d.
        classes: task -> names of its classes.
        relations: names of the relations, in the order that the networks number them; none: no edges.
        network: arguments of the network beside its sizes.
        rows: training accounts of each task, which feature-based methods keep.
        seed: of a feature-based method.

    Raises:
        Problem: no such method.
    """

    def __init__(
        self,
        method: str,
        features: int,
        classes: Mapping[str, Sequence[str]],
        relations: Sequence[str] = (),
        network: Mapping[str, Any] | None = None,
        rows: Mapping[str, int] | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if method not in NETWORKS and method not in CLASSIFIERS:
            raise Problem(f"no method is called {method!r}", "method", f"one of {', '.join([*NETWORKS, *CLASSIFIERS])}")
        self.method, self.features, self.relations = method, features, list(relations)
        self.classes = {task: list(names) for task, names in classes.items()}
        self.tasks = nn.ModuleDict()
        for task, names in self.classes.items():
            if method in NETWORKS:
                count = max(1, len(self.relations))  # without edges, of one empty relation
                made: nn.Module = NETWORKS[method](features, len(names), count, **(network or {}))
            else:
                made = FittedClassifier(method, features, len(names), (rows or {}).get(task, 0), seed)
            self.tasks[_key(task)] = made

    def of(self, task: str) -> GraphNetwork | FittedClassifier:
        """The network or classifier of a task."""
        return cast(Any, self.tasks[_key(task)])

    @property
    def by_features(self) -> bool:
        """Whether the method looks at the features alone."""
        return self.method in CLASSIFIERS

    def forward(self, x: Tensor, edge_index: Tensor | Relations, edge_type: Tensor | None = None) -> dict[str, Tensor]:
        """Logits (n, C) of each task, from features (n, d) and edges as in `GraphNetwork.forward`."""
        count = max(1, len(self.relations))
        graph = Relations.of(edge_index, edge_type, count, len(x))
        return {task: self.of(task)(x, graph) for task in self.classes}


def _key(task: str) -> str:
    """Name of a submodule: a module cannot be called `type` or `train`."""
    return f"task_{task}"


def no_edges(device: torch.device | str = "cpu") -> Tensor:
    """(2, 0)."""
    return torch.zeros(2, 0, dtype=torch.int64, device=device)
