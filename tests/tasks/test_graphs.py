"""What papers that learn on one graph share: roles, scores, tables, bad input."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch

from repertory.core.problem import Problem
from repertory.core.study import Session
from repertory.tasks.graphs import (
    TEST,
    TRAIN,
    UNUSED,
    VALID,
    accuracy,
    clustering_accuracy,
    demand_features,
    drawn_roles,
    having,
    keep_clusters,
    keep_nodes,
    label_free_scores,
    node_names,
    published_roles,
    relabel,
    relative_inertia,
    supervised_scores,
    write_nodes,
)


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


# -- roles --------------------------------------------------------------------------------------


def test_drawn_roles_divide_the_labelled_nodes_by_shares() -> None:
    labels = np.where(np.arange(100) < 20, -1, np.arange(100) % 3)
    role = drawn_roles(labels, rng(), 0.5, 0.25, "g").numpy()
    assert np.bincount(role).tolist() == [20, 40, 20, 20]
    assert not role[:20].any(), "an unlabelled node has a role"
    assert (drawn_roles(labels, np.random.default_rng(1), 0.5, 0.25, "g").numpy() != role).any()


def test_published_roles_keep_the_training_ids_and_skip_unlabelled_ones() -> None:
    labels = np.array([0, 1, 0, 1, 0, 1, -1, -1])
    role = published_roles(labels, np.array([0, 1, 6]), np.array([2, 3, 4, 5, 7]), rng(), 1, "g").numpy()
    assert np.flatnonzero(role == TRAIN).tolist() == [0, 1]
    assert (role == VALID).sum() == 1
    assert np.flatnonzero((role == VALID) | (role == TEST)).tolist() == [2, 3, 4, 5]
    assert (role[6:] == UNUSED).all()
    half = published_roles(labels, np.array([0, 1]), np.array([2, 3, 4, 5]), rng(), 500, "g").numpy()
    assert (half == VALID).sum() == 2, "at most half of the test list"


@pytest.mark.parametrize("labels", [[0, 1, -1, -1], [0, 0, 0, 0, 0, 0], []])
def test_too_few_labels_are_refused(labels: list[int]) -> None:
    with pytest.raises(Problem, match="too few"):
        drawn_roles(np.array(labels, dtype=int), rng(), 0.5, 0.25, "few")
    with pytest.raises(Problem, match="too few"):
        published_roles(np.array(labels, dtype=int), np.arange(len(labels))[:1], np.arange(0), rng(), 5, "few")


def test_having_gives_ids_in_order() -> None:
    role = torch.tensor([TEST, TRAIN, VALID, UNUSED, TEST], dtype=torch.int8)
    assert having(role, (VALID, TEST)).tolist() == [0, 2, 4]
    assert having(role, (TRAIN,)).tolist() == [1]
    assert having(role, ()).tolist() == []


# -- scores -------------------------------------------------------------------------------------


def test_accuracy_counts_the_given_nodes_only() -> None:
    logits, labels = torch.eye(4), torch.tensor([0, 1, 0, -1])
    assert accuracy(logits, labels, torch.tensor([0, 1])) == 100
    assert accuracy(logits, labels, torch.tensor([0, 1, 2, 3])) == 50


def test_scores_do_not_depend_on_the_names_of_clusters_or_classes() -> None:
    labels, clusters = rng().integers(4, size=80), np.random.default_rng(1).integers(4, size=80)
    scores = supervised_scores(labels, clusters)
    assert supervised_scores(labels * 7 - 3, (clusters + 2) % 4) == pytest.approx(scores)
    assert scores["acc"] == pytest.approx(100 * np.mean(relabel(labels, clusters) == labels))
    assert supervised_scores(labels, labels) == {"acc": 100, "nmi": 100, "ari": 100, "f1": 100}


def test_accuracy_with_fewer_or_more_clusters_than_classes() -> None:
    labels = np.repeat([0, 1, 2], 4)
    assert clustering_accuracy(labels, np.zeros(12, int)) == pytest.approx(100 / 3)
    assert clustering_accuracy(labels, np.arange(12)) == pytest.approx(25)


def test_relative_inertia_has_no_unit_and_silhouette_is_left_out_where_undefined() -> None:
    points = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    distances = torch.cdist(points, points[:4]).square()
    assert 0 < relative_inertia(points, distances) < 1
    assert relative_inertia(points * 10, distances * 100) == pytest.approx(relative_inertia(points, distances))
    assert set(label_free_scores(points, distances)) == {"inertia", "silhouette"}
    assert set(label_free_scores(points, torch.ones(50, 1))) == {"inertia"}


# -- in use -------------------------------------------------------------------------------------


def test_another_number_of_features_is_refused_with_both_numbers() -> None:
    demand_features(5, 5, "graph/")
    with pytest.raises(Problem, match="takes 40 features a vertex, the graph has 5") as caught:
        demand_features(40, 5, "graph/", "vertex")
    assert caught.value.where == "graph/"


def test_a_table_of_nodes_names_them_or_numbers_them(tmp_path: Path) -> None:
    names = node_names(np.array(["a", "b"]), 2)
    write_nodes(Session(0, tmp_path), "nodes.csv", [{"node": name, "cluster": k} for k, name in enumerate(names)])
    assert list(csv.DictReader((tmp_path / "nodes.csv").open())) == [
        {"node": "a", "cluster": "0"},
        {"node": "b", "cluster": "1"},
    ]
    assert list(node_names(None, 3)) == [0, 1, 2]


def test_outputs_of_tested_nodes_and_of_clusters_are_kept(tmp_path: Path) -> None:
    session = Session(0, tmp_path)
    logits, labels = torch.eye(4)[:, :3], torch.tensor([0, 1, 0, 2])
    keep_nodes(session, logits, labels, torch.tensor([1, 2]), "released")
    keep_clusters(session, labels.numpy(), np.array([7, 5, 7, 5]))
    with np.load(tmp_path / "outputs.npz", allow_pickle=False) as stored:
        outputs = {name: stored[name] for name in stored.files}
    assert {name: outputs[f"{name}_released"].tolist() for name in ("node", "label", "prediction")} == {
        "node": [1, 2],
        "label": [1, 0],
        "prediction": [1, 2],
    }
    np.testing.assert_allclose(outputs["probability_released"], logits[1:3].softmax(1), rtol=1e-3)
    assert outputs["cluster"].tolist() == [7, 5, 7, 5]
    assert outputs["prediction"].tolist() == [0, 1, 0, 1]
