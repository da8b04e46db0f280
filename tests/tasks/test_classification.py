"""Classification: the check of classes, accuracy, the table of predictions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from repertory.core.problem import Problem
from repertory.core.study import Session
from repertory.tasks.classification import check_classes, kept, prediction_table, top_k_accuracy


def test_one_class_is_refused_by_name() -> None:
    check_classes(["cat", "dog"], "here", "images")
    with pytest.raises(Problem, match="one class only: cat") as caught:
        check_classes(["cat"], "here", "images")
    assert (caught.value.where, caught.value.remedy) == ("here", "give images of two classes or more")


def test_accuracy_counts_samples_of_all_batches_and_needs_no_gradient() -> None:
    weight = torch.ones(4, requires_grad=True)
    logits = torch.tensor([[9.0, 3, 2, 1], [9, 8, 2, 1], [1, 2, 3, 4], [4, 3, 2, 1], [4, 3, 2, 1]])
    labels = torch.tensor([0, 1, 3, 2, 3])
    scored = (((logits[rows] * weight), labels[rows]) for rows in (slice(0, 3), slice(3, 5)))
    top = top_k_accuracy(scored, 4, torch.device("cpu"), top=(1, 2, 3, 9))
    assert top == pytest.approx([40, 60, 80, 100])


def test_batches_are_passed_on_and_kept_at_the_end(tmp_path: Path) -> None:
    logits, labels = torch.tensor([[9.0, 0], [0, 9], [1, 0]]), torch.tensor([0, 1, 1])
    batches = [(logits[:2], labels[:2]), (logits[2:], labels[2:])]
    session = Session(0, tmp_path)
    assert top_k_accuracy(kept(session, batches, "clean"), 2, torch.device("cpu")) == pytest.approx([100 * 2 / 3])
    with np.load(tmp_path / "outputs.npz", allow_pickle=False) as outputs:
        assert set(outputs.files) == {"label_clean", "prediction_clean", "probability_clean"}
        assert outputs["prediction_clean"].tolist() == [0, 1, 0]
        np.testing.assert_allclose(outputs["probability_clean"], logits.softmax(1), atol=1e-3)
    assert list(kept(session, [], "none")) == []


def test_rows_name_files_below_the_source_and_end_with_the_probabilities(tmp_path: Path) -> None:
    paths = [tmp_path / "a" / "1.png", tmp_path / "2.png", tmp_path / "3.png"]
    probabilities = torch.tensor([[0.25, 0.75], [0.5, 0.5]])  # a dry run stops early; ties go to the first class
    table = prediction_table(paths, tmp_path, ["cat", "dog"], probabilities)
    assert table == [
        {"file": str(Path("a", "1.png")), "class": "dog", "probability": 0.75},
        {"file": "2.png", "class": "cat", "probability": 0.5},
    ]
    paths[1].touch()
    assert prediction_table([paths[1]], paths[1], ["cat", "dog"], probabilities)[0]["file"] == "2.png"
