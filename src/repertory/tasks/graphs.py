"""What papers that learn on one graph share: roles of nodes, protocols, scores of classes and clusters, node tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from sklearn.metrics import adjusted_rand_score, f1_score, normalized_mutual_info_score, silhouette_score
from sklearn.metrics.cluster import contingency_matrix
from torch import Tensor

from repertory.core.files import write_text
from repertory.core.problem import Problem
from repertory.core.study import Session
from repertory.tasks.classification import class_outputs

# -- roles of nodes ---------------------------------------------------------------------------------

UNUSED, TRAIN, VALID, TEST = range(4)
"""Role of a node in a transductive task."""


class Protocol(NamedTuple):
    """Roles of the nodes whose accuracy chooses the epoch, and of those that are tested."""

    choose: tuple[int, ...]
    test: tuple[int, ...]


def having(role: Tensor, wanted: tuple[int, ...]) -> Tensor:
    """Ids of the nodes with one of the wanted roles, ascending.

    Example:
        >>> having(torch.tensor([TRAIN, TEST, UNUSED, VALID]), (VALID, TEST))
        tensor([1, 3])
    """
    return torch.isin(role, role.new_tensor(wanted)).nonzero().flatten()


def published_roles(
    labels: np.ndarray, train: np.ndarray, test: np.ndarray, rng: np.random.Generator, validation_ids: int, data: str
) -> Tensor:
    """Roles under a published split of train and test: random test ids become the validation set.

    Args:
        labels: class of each node (n,), negative where it is unknown; unlabelled nodes get no role.
        train: ids for training, all used.
        test: ids of the published test list.
        rng: draws the validation ids.
        validation_ids: how many, at most half of the test list.
        data: name of the data, for messages.

    Returns:
        (n,) int8.

    Raises:
        Problem: too few labelled nodes.
    """
    train, test = (np.intersect1d(ids, np.flatnonzero(labels >= 0)) for ids in (train, test))
    test = rng.permutation(test)
    return _roles(labels, train, test, min(validation_ids, len(test) // 2), data)


def drawn_roles(
    labels: np.ndarray, rng: np.random.Generator, train_share: float, valid_share: float, data: str
) -> Tensor:
    """Roles of the labelled nodes, drawn at random in the given shares; the rest is for test.

    Args, returns and raises: see `published_roles`.
    """
    order = rng.permutation(np.flatnonzero(labels >= 0))
    cut = round(train_share * len(order))
    train, rest = order[:cut], order[cut:]
    return _roles(labels, train, rest, min(round(valid_share * len(order)), len(rest) - 1), data)


def _roles(labels: np.ndarray, train: np.ndarray, rest: np.ndarray, held: int, data: str) -> Tensor:
    if held < 1 or len(np.unique(labels[train])) < 2:
        raise Problem(
            f"{len(train)} training and {len(rest)} other labelled nodes are too few",
            data,
            "label more: two classes for training, and two nodes to choose the epoch and to test",
        )
    role = np.full(len(labels), UNUSED, dtype=np.int8)
    role[train], role[rest[:held]], role[rest[held:]] = TRAIN, VALID, TEST
    return torch.from_numpy(role)


# -- classes ----------------------------------------------------------------------------------------


def accuracy(logits: Tensor, labels: Tensor, ids: Tensor) -> float:
    """Accuracy in percent of logits (n, C) against labels (n,), over the nodes `ids`.

    Example:
        >>> accuracy(torch.eye(3), torch.tensor([0, 1, 0]), torch.tensor([1, 2]))
        50.0
    """
    return 100 * (logits.argmax(dim=1) == labels)[ids].float().mean().item()


def keep_nodes(session: Session, logits: Tensor, labels: Tensor, ids: Tensor, name: str = "") -> None:
    """Keep number, label, prediction and probabilities of each tested node in outputs.npz of the trial.

    Args:
        session: of the trial.
        logits: (n, C) of all nodes.
        labels: (n,).
        ids: of the tested nodes.
        name: of the protocol, where there are several: arrays are called label_NAME, ...
    """
    session.keep_outputs({"node": ids, **class_outputs(logits[ids], labels[ids])}, name)


# -- clusters ---------------------------------------------------------------------------------------

MOST_PAIRED = 10_000
"""The silhouette compares all pairs of nodes; of larger graphs it takes a sample of this size."""


def clustering_accuracy(labels: np.ndarray, clusters: np.ndarray) -> float:
    """ACC in percent: the share of nodes (n,) that agree after the best one-to-one relabelling of the clusters.

    Example:
        >>> clustering_accuracy(np.array([0, 0, 1, 1]), np.array([1, 1, 0, 1]))
        75.0
    """
    table = contingency_matrix(labels, clusters)
    return float(100 * table[linear_sum_assignment(table, maximize=True)].sum() / len(labels))


def relabel(labels: np.ndarray, clusters: np.ndarray) -> np.ndarray:
    """Clusters (n,) as classes, after the best one-to-one relabelling; a cluster left over gets a class of its own.

    Example:
        >>> relabel(np.array([5, 5, 7, 7]), np.array([1, 1, 0, 2]))
        array([5, 5, 7, 4])
    """
    classes, (ids, position) = np.unique(labels), np.unique(clusters, return_inverse=True)
    to_class = np.full(len(ids), classes[0] - 1)
    row, column = linear_sum_assignment(contingency_matrix(labels, clusters), maximize=True)
    to_class[column] = classes[row]
    return to_class[position]


def supervised_scores(labels: np.ndarray, clusters: np.ndarray) -> dict[str, float]:
    """ACC, NMI (arithmetic), ARI and macro F1 (after the relabelling of ACC), all in percent."""
    return {
        "acc": clustering_accuracy(labels, clusters),
        "nmi": 100 * float(normalized_mutual_info_score(labels, clusters)),
        "ari": 100 * float(adjusted_rand_score(labels, clusters)),
        "f1": 100 * float(f1_score(labels, relabel(labels, clusters), labels=np.unique(labels), average="macro")),
    }


def keep_clusters(session: Session, labels: np.ndarray, clusters: np.ndarray, name: str = "") -> None:
    """Keep label, cluster and prediction (the cluster as a class, `relabel`) of each node in outputs.npz of the trial.

    Args:
        session: of the trial.
        labels: (n,).
        clusters: (n,).
        name: of the protocol, where there are several: arrays are called label_NAME, ...
    """
    session.keep_outputs({"label": labels, "cluster": clusters, "prediction": relabel(labels, clusters)}, name)


def label_free_scores(z: Tensor, distances: Tensor) -> dict[str, float]:
    """Relative inertia (lower is better) and silhouette (−1 to 1; higher is better).

    The silhouette is defined, and given, where 2 to n − 1 clusters have members.

    Args:
        z: embedding (n, h).
        distances: squared distances to the centres (n, K).
    """
    scores = {"inertia": relative_inertia(z, distances)}
    clusters = distances.argmin(dim=1).cpu().numpy()
    if 2 <= len(np.unique(clusters)) < len(clusters):
        size = MOST_PAIRED if len(clusters) > MOST_PAIRED else None
        scores["silhouette"] = float(silhouette_score(z.cpu().numpy(), clusters, sample_size=size, random_state=0))
    return scores


def relative_inertia(z: Tensor, distances: Tensor) -> float:
    """Inertia of a clustering over the total variance of what was clustered: 0 for points, 1 for one shapeless cloud.

    Args:
        z: embedding (n, h).
        distances: squared distances to the centres (n, K).
    """
    spread = (z - z.mean(dim=0)).square().sum()
    return float(distances.min(dim=1).values.sum() / spread)


# -- in use -----------------------------------------------------------------------------------------


def demand_features(wanted: int, found: int, source: object, node: str = "node") -> None:
    """Raise a Problem unless a graph has the features that a model was trained on.

    Args:
        wanted: features of a node that the model takes.
        found: features of a node in the graph.
        source: where the graph comes from.
        node: what a node is called.
    """
    if wanted != found:
        raise Problem(
            f"the model takes {wanted} features a {node}, the graph has {found}",
            source,
            f"describe each {node} by the features that the model was trained on",
        )


def node_names(names: np.ndarray | None, size: int) -> Sequence[Any]:
    """The names of the nodes or, where the data have none, their numbers."""
    return range(size) if names is None else names.tolist()


def write_nodes(session: Session, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write a table with one row per node into the session's folder."""
    import pandas as pd

    if session.fabric.is_global_zero:
        write_text(session.out_dir / name, pd.DataFrame(rows).to_csv(index=False))
