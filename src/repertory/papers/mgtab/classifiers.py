"""The feature-based methods of the benchmark, as modules: scikit-learn and XGBoost on the features alone."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from sklearn.ensemble import AdaBoostClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.svm import SVC
from sklearn.tree import DecisionTreeClassifier
from torch import Tensor, nn

from repertory.core.problem import Problem, require

LEAST = 1e-12
"""A probability of 0 counts as this where it becomes a logit."""


def _xgboost(seed: int) -> Any:
    return require("xgboost", extra="boosting").XGBClassifier(
        learning_rate=0.1, n_estimators=200, max_depth=5, colsample_bytree=0.8, random_state=seed, n_jobs=1
    )


CLASSIFIERS: Mapping[str, Callable[[int], Any]] = {
    "adaboost": lambda seed: AdaBoostClassifier(n_estimators=50, learning_rate=1.0, random_state=seed),
    "random_forest": lambda seed: RandomForestClassifier(n_estimators=100, random_state=seed),
    "decision_tree": lambda seed: DecisionTreeClassifier(random_state=seed),
    "xgboost": _xgboost,
    "svm": lambda seed: SVC(C=10, kernel="rbf", break_ties=True, random_state=seed),
    "logistic_regression": lambda seed: LogisticRegression(C=0.1, max_iter=500, random_state=seed),
    "naive_bayes": lambda seed: GaussianNB(),
    "knn": lambda seed: KNeighborsClassifier(n_neighbors=7),
}
"""Name -> the classifier with the settings of the released script, from a seed."""


class FittedClassifier(nn.Module):
    """A classifier of scikit-learn or XGBoost that is fitted again where it is loaded.

    What is stored are its training data. No library's object is unpickled, and the same version of the library gives
    the same classifier, bit by bit.

    Args:
        method: one of `CLASSIFIERS`.
        features: d.
        classes: C.
        rows: training accounts m.
        seed: of the classifier.

    Example:
        >>> model = FittedClassifier("logistic_regression", features=1, classes=2, rows=4)
        >>> model.fit(torch.tensor([[0.0], [1.0], [5.0], [6.0]]), torch.tensor([0, 0, 1, 1]))
        >>> model(torch.tensor([[0.5], [5.5]])).argmax(1).tolist()
        [0, 1]
    """

    def __init__(self, method: str, features: int, classes: int, rows: int, seed: int = 0) -> None:
        super().__init__()
        self.method, self.features, self.classes, self.seed = method, features, classes, seed
        self.x = nn.Buffer(torch.zeros(rows, features))
        self.y = nn.Buffer(torch.zeros(rows, dtype=torch.int64))
        self._fitted: Any = None

    def fit(self, x: Tensor, y: Tensor) -> None:
        """Fit to features (m, d) and labels (m,).

        Raises:
            Problem: one class only; or XGBoost is asked for and not installed.
        """
        if len(y.unique()) < 2:
            raise Problem(
                "all training accounts are of one class", self.method, "label accounts of two classes or more"
            )
        self.x.copy_(x)
        self.y.copy_(y)
        self._fitted = None
        self.fitted()

    def fitted(self) -> Any:
        """The classifier of the library; its classes are numbered as in `present`."""
        if self._fitted is None:
            y = torch.searchsorted(self.present, self.y)
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", category=FutureWarning)
                self._fitted = CLASSIFIERS[self.method](self.seed).fit(_array(self.x), _array(y))
        return self._fitted

    @property
    def present(self) -> Tensor:
        """The classes that training accounts have, ascending."""
        return self.y.unique()

    def forward(self, x: Tensor, *_: Any) -> Tensor:
        """Log-probabilities, or the SVM's decision values: (n, d) -> (n, C). Edges are not looked at."""
        classifier = self.fitted()
        if isinstance(classifier, SVC):
            scores = classifier.decision_function(_array(x))
            scores = np.stack([-scores, scores], axis=1) / 2 if scores.ndim == 1 else scores
        else:
            scores = np.log(np.maximum(classifier.predict_proba(_array(x)), LEAST))
        logits = x.new_full((len(x), self.classes), float(min(scores.min(initial=0.0), np.log(LEAST))))
        logits[:, self.present] = torch.as_tensor(scores, dtype=x.dtype, device=x.device)
        return logits

    def __repr__(self) -> str:
        return f"FittedClassifier({self.method!r}, {self.features}, {self.classes}, rows={len(self.y)})"


def _array(x: Tensor) -> np.ndarray:
    return x.detach().cpu().numpy()
