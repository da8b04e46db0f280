"""How the claims of MGTAB are tested.

repertory run mgtab                                     # generated accounts, minutes
repertory run mgtab --scale paper --data MGTAB/         # README: RGT stance 87.78, bot 92.12; SVM 81.23, 88.68
repertory run mgtab --scale large --data MGTAB-large/ --arms sage,rgcn --precision 16-mixed
repertory train mgtab --data accounts/ --out model/     # tensors, or accounts.csv and edges.csv
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import torch
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, precision_score, recall_score
from sklearn.utils import shuffle
from torch import Tensor

from repertory.core.problem import Problem, suggest
from repertory.core.study import Measured, Metric, Prediction, Study
from repertory.core.timing import seconds_a_sample
from repertory.data import accounts
from repertory.data.accounts import AccountGraph
from repertory.papers.mgtab import pictures
from repertory.papers.mgtab.accounts import AccountClassifier
from repertory.papers.mgtab.classifiers import FittedClassifier
from repertory.papers.mgtab.loop import Batches, FullBatch, Roles, Sampled, train_network
from repertory.papers.mgtab.model import GAT, GCN, HGT, RGCN, RGT, SAGE, SHGN, BotRGCN, Branch, mgtab_branches
from repertory.papers.mgtab.race import epoch_speeds
from repertory.papers.mgtab.settings import ARMS, FEATURE_METHODS, MGTABConfig, MGTABDesign
from repertory.tasks.graphs import demand_features, keep_nodes, node_names

MOST_NAMED = 8
"""Classes that the preview names."""
DECAY = {"rgt": 5e-3}
"""Weight decay of the released scripts; of the others 5e-4."""
PUBLISHED = {
    "gcn": (GCN, 3), "gat": (GAT, 3), "sage": (SAGE, 3), "rgcn": (RGCN, 3), "botrgcn": (BotRGCN, 3), "hgt": (HGT, 2),
    "shgn": (SHGN, 2), "rgt": (RGT, 2),
}  # fmt: skip
"""Networks and numbers of classes whose parameters are counted, with 788 features and 2 relations."""


class MGTABStudy(MGTABDesign, Study[MGTABConfig, AccountGraph, AccountClassifier]):
    """Classify the accounts of one graph, for every task that it has labels for."""

    metrics: ClassVar[Mapping[str, Metric]] = {
        "accuracy_{x}": Metric("accuracy, {x}", "准确率（{x}）", unit="%", better="higher", decimals=1),
        "f1_{x}": Metric("macro F1, {x}", "宏平均 F1（{x}）", unit="%", better="higher", decimals=1),
        "precision_{x}": Metric("macro precision, {x}", "宏平均精确率（{x}）", unit="%", better="higher", decimals=1),
        "recall_{x}": Metric("macro recall, {x}", "宏平均召回率（{x}）", unit="%", better="higher", decimals=1),
        "parameters_{x}": Metric("parameters, {x}", "参数量（{x}）", decimals=0),
        "degree_{x}": Metric("edges an account, {x}", "平均度（{x}）", decimals=2),
        "homophily_{x}": Metric("edges within a class, {x}", "同类边占比（{x}）", unit="%", decimals=1),
        "epoch_speed": Metric("speed of an R-GCN epoch over PyG's", "R-GCN 每轮速度与 PyG 之比", better="higher"),
    }
    sample_name = "generated accounts"
    sample_fields = ("sample_accounts", "sample_unlabelled", "sample_tweet_noise")
    layout = accounts.FORMATS

    # -- data -----------------------------------------------------------------------------------

    def write_sample(self, folder: Path) -> None:
        """Generated accounts in the layout of MGTAB or, with unlabelled ones, of MGTAB-large."""
        c = self.config
        rng = np.random.default_rng(0)
        graph = accounts.generated_accounts(rng, c.sample_accounts, c.sample_unlabelled, c.sample_tweet_noise)
        (accounts.write_large if c.sample_unlabelled else accounts.write_mgtab)(folder, graph)

    def read(self, folder: Path) -> AccountGraph:
        return accounts.read_accounts(folder)

    def scaled(self, data: AccountGraph, given: Collection[str]) -> MGTABConfig:
        """Sample neighbours where the data are in the large layout."""
        if data.large and "fanouts" not in given:
            return self.config.model_copy(update={"fanouts": (15, 25), "edges_on_disk": True})
        return self.config

    def preview(self, arm: str, data: AccountGraph) -> list[str]:
        """Features, relations, the split and the classes of each task; of a network its size and the minutes."""
        tasks, method = self._tasks(data), ARMS[arm].method
        seen = ", ".join(self._relations(arm, data)) or "none"
        lines = [f"{data.features.shape[1]} features a user", f"relations: {seen}"]
        for task in tasks:
            roles = self._roles(data, task)
            parts = ", ".join(f"{name} {len(ids)}" for name, ids in zip(accounts.SPLIT, roles[1:], strict=True))
            names = data.class_names[task]
            lines.append(f"{task}: {parts}, {len(names)} classes ({', '.join(names[:MOST_NAMED])})")
        if method in FEATURE_METHODS:
            return lines
        model = self._build(arm, data)
        self.session.fabric.to_device(model)
        batches, network, device = self._batches(data, model), model.of(tasks[0]), self.session.fabric.device
        train, valid = (ids.to(device) for ids in self._roles(data, tasks[0])[1:3])
        _, _, x, graph = next(iter(batches.batches(train)))
        steps = math.ceil(len(train) / self.config.batch_size) if self.config.fanouts else 1
        seconds = steps * seconds_a_sample(lambda: network(x, graph).sum(), 1, device)
        minutes = seconds * (1 + len(valid) / len(train)) * self.config.epochs * len(tasks) / 60
        count = sum(p.numel() for p in network.parameters())
        how = f"neighbours {list(self.config.fanouts)}" if self.config.fanouts else "full batch"
        return [*lines, f"{method}: {count:,} parameters", how, f"about {minutes:.2g} min on this machine"]

    # -- the experiment -------------------------------------------------------------------------

    def train(self, arm: str, data: AccountGraph) -> AccountClassifier:
        """Train the arm's method for every task.

        Raises:
            Problem: no labels, a task or relation that the data lack, too few labelled accounts; the arm xgboost
                without XGBoost.
            Diverged: the loss is not finite.
        """
        self.session.reseed("weights")
        model = self._build(arm, data)
        self.session.fabric.to_device(model)
        batches = None if model.by_features else self._batches(data, model)
        for task in self.session.progress(list(model.classes), "tasks") if model.by_features else model.classes:
            labels, *ids = self._roles(data, task)
            network = model.of(task)
            if isinstance(network, FittedClassifier):
                network.fit(data.features[ids[0]].float(), labels[ids[0]])
            elif batches is not None:
                decay = DECAY.get(model.method, 5e-4) if self.config.weight_decay is None else self.config.weight_decay
                roles = Roles(*(self.session.fabric.to_device(part) for part in (labels, *ids)))
                train_network(self.session, self.config, network, batches, roles, task, decay)
        return model.eval()

    def evaluate(self, model: AccountClassifier, data: AccountGraph) -> dict[str, float]:
        """Accuracy, macro precision, recall and F1 of each task on the test accounts, in per cent.

        Raises:
            Problem: other features, tasks or relations than in training.
        """
        demand_features(model.features, data.features.shape[1], data.name, "user")
        self.session.reseed("evaluate")
        metrics: dict[str, float] = {}
        counts: dict[str, np.ndarray] = {}
        weights: dict[str, Sequence[float]] = {}
        for task, names in model.classes.items():
            if task not in data.labels:
                raise Problem(f"the data have no labels of {task!r}", data.name, f"they have {', '.join(data.labels)}")
            labels, _, _, test = self._roles(data, task)
            logits = self._logits(model, data, task, test).cpu()
            whole = torch.zeros(data.size, logits.shape[1]).index_copy(0, test, logits.float())
            keep_nodes(self.session, whole, labels, test, task)
            found, known = logits.argmax(1).numpy(), labels[test].numpy()
            mean = {"average": "macro", "zero_division": cast(Any, 0)}
            scores = {
                "accuracy": accuracy_score(known, found),
                "precision": precision_score(known, found, **mean),
                "recall": recall_score(known, found, **mean),
                "f1": f1_score(known, found, **mean),
            }
            metrics |= {f"{name}_{task}": 100 * float(score) for name, score in scores.items()}
            counts[task] = confusion_matrix(known, found, labels=range(len(names)))
            if (beta := self._semantic_weights(model, data, task)) is not None:
                weights[task] = beta.mean(0).tolist()
        self.session.figure("confusion", pictures.confusion_picture(counts, model.classes))
        if not model.by_features:
            self._show_relations(data)
        if weights:
            figure = pictures.weights_picture(weights, model.relations, "weight in the semantic attention")
            self.session.figure("relation-weights", figure)
        return metrics

    def measure(self) -> Mapping[str, Measured]:
        """Parameters of the networks in the published sizes, and the race of an epoch against PyG's R-GCN."""
        figures: dict[str, Measured] = {
            f"parameters_{name}": float(sum(p.numel() for p in network(788, classes, 2).parameters()))
            for name, (network, classes) in PUBLISHED.items()
        }
        if self.config.speed_rounds:
            figures["epoch_speed"] = epoch_speeds(self.config.speed_rounds)
        return figures

    def measure_data(self, data: AccountGraph) -> Mapping[str, Measured]:
        """Mean degree and homophily of each relation."""
        figures: dict[str, Measured] = {}
        for relation, edges in data.edges.items():
            figures[f"degree_{relation}"] = edges.shape[1] / data.size
            for task in data.labels:
                figures[f"homophily_{relation}_{task}"] = 100 * data.homophily(relation, task)
        return figures

    # -- use ------------------------------------------------------------------------------------

    def predict(self, model: AccountClassifier, source: Path) -> Prediction:
        """Classify all accounts of a graph, and tell for each which relations weighed.

        A relation weighs by how much the probability of the predicted class falls where its edges are left out.

        Raises:
            Problem: no readable graph, or other features than in training.
        """
        graph = accounts.read_accounts(source)
        demand_features(model.features, graph.features.shape[1], source, "user")
        everybody = torch.arange(graph.size)
        names = node_names(None if graph.ids is None else np.array(graph.ids), graph.size)
        table: list[dict[str, Any]] = [{"account": name} for name in names]
        text: list[str] = []
        counts: dict[str, dict[str, int]] = {}
        weighed: dict[str, Sequence[float]] = {}
        for task, classes in model.classes.items():
            self.session.reseed("predict")
            p = self._logits(model, graph, task, everybody).float().softmax(1)
            sure, found = p.max(1)
            falls = []
            for left_out in self.session.progress(model.relations, f"{task}: relations"):
                self.session.reseed("predict")
                q = self._logits(model, graph, task, everybody, left_out).float().softmax(1)
                falls.append((sure - q.gather(1, found[:, None])[:, 0]).cpu())
            rows = zip(table, found.tolist(), sure.tolist(), *(fall.tolist() for fall in falls), strict=True)
            for row, label, probability, *fall in rows:
                row |= {task: classes[label], f"{task}_probability": probability}
                row |= {f"{task}_{name}": value for name, value in zip(model.relations, fall, strict=False)}
            counts[task] = dict(zip(classes, torch.bincount(found.cpu(), minlength=len(classes)).tolist(), strict=True))
            text.append(f"{task}: " + ", ".join(f"{name} {count}" for name, count in counts[task].items()))
            if falls:
                weighed[task] = [float(fall.mean()) for fall in falls]
                order = np.argsort(weighed[task])[::-1]
                text.append("  mean fall of the probability without a relation: " + ", ".join(
                    f"{model.relations[r]} {weighed[task][r]:+.3f}" for r in order))  # fmt: skip
        figures = {"classes": pictures.classes_picture(counts)}
        if weighed:
            label = "mean fall of the probability without it"
            figures["relations"] = pictures.weights_picture(weighed, model.relations, label)
        return Prediction(text="\n".join([f"{graph.size} accounts", *text]), table=table, figures=figures)

    # -- parts ----------------------------------------------------------------------------------

    def _tasks(self, data: AccountGraph) -> Sequence[str]:
        for task in self.config.tasks:
            if task not in data.labels:
                raise Problem(
                    f"the data have no labels of {task!r}{suggest(task, data.labels)}",
                    data.name,
                    f"--set tasks='[...]' of {', '.join(data.labels) or 'those that you add'}",
                )
        if not data.labels:
            raise Problem("the data have no labels", data.name, f"expected: {'; '.join(accounts.FORMATS.splitlines())}")
        return self.config.tasks or list(data.labels)

    def _relations(self, arm: str, data: AccountGraph) -> Sequence[str]:
        wanted = {"given": self.config.relations or tuple(data.edges), "all": tuple(data.edges), "none": ()}
        chosen = wanted[ARMS[arm].relations]
        for name in chosen:
            if name not in data.edges:
                raise Problem(
                    f"the data have no relation {name!r}{suggest(name, data.edges)}",
                    data.name,
                    f"--set relations='[...]' of {', '.join(data.edges)}; [] takes all",
                )
        if len(set(chosen)) < len(chosen):
            raise Problem(f"a relation is named twice: {', '.join(chosen)}", "relations", "name each once")
        return chosen

    def _roles(self, data: AccountGraph, task: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Labels (n,), and ids for training, validation and test, as the setting `split` says."""
        split = self.config.split or ("files" if data.split else "ordered" if data.large else "random")
        known = data.labelled(task)
        if split == "files":
            if not data.split:
                raise Problem("the data have no train_idx.pt, val_idx.pt, test_idx.pt", data.name, "--set split=random")
            parts = [np.intersect1d(data.split[part], known) for part in accounts.SPLIT]
        else:
            order = known if split == "ordered" else np.asarray(shuffle(known, random_state=self.session.split_seed))
            first = int(self.config.train_share * len(order))
            second = first + int(self.config.valid_share * len(order))
            parts = [order[:first], order[first:second], order[second:]]
        train, valid, test = map(torch.as_tensor, parts)
        labels, enough = data.labels[task], "label more accounts, of two classes or more"
        if not (len(train) and len(valid) and len(test)):
            sizes = f"{len(train)}, {len(valid)} and {len(test)} labelled accounts for training, validation and test"
            raise Problem(f"{task}: {sizes}", data.name, enough)
        if len(labels[train].unique()) < 2:
            raise Problem(f"{task}: all training accounts are of one class", data.name, enough)
        return labels, train, valid, test

    def _build(self, arm: str, data: AccountGraph) -> AccountClassifier:
        method, tasks = ARMS[arm].method, self._tasks(data)
        return AccountClassifier(
            method,
            data.features.shape[1],
            {task: data.class_names[task] for task in tasks},
            self._relations(arm, data),
            {} if method in FEATURE_METHODS else self._network(method, data),
            {task: len(self._roles(data, task)[1]) for task in tasks} if method in FEATURE_METHODS else {},
            self.session.seed,
        )

    def _network(self, method: str, data: AccountGraph) -> dict[str, Any]:
        """Arguments of a network that are not the published ones."""
        c = self.config
        given: dict[str, Any] = {"hidden": c.hidden, "dropout": c.dropout}
        chosen = {name: value for name, value in given.items() if value is not None}
        match method:
            case "gcn" | "gat" | "sage" | "rgcn":
                return chosen | {"tapered": c.tapered}
            case "botrgcn":
                return chosen | {"branches": branches(data, c.hidden or 256, c.columns == "released")}
            case "shgn":
                return chosen | {"rel_dim": c.rel_dim, "beta": c.beta, "edge_residual": c.edge_residual}
            case "rgt":
                return chosen | {"trans_heads": c.trans_heads, "semantic_heads": c.semantic_heads}
            case _:
                return chosen

    def _batches(self, data: AccountGraph, model: AccountClassifier, left_out: str = "") -> Batches:
        relations = model.relations
        if absent := [name for name in relations if name not in data.edges]:
            warnings.warn(f"{data.name} has no edges of: {', '.join(absent)}", stacklevel=3)
        none = {name: torch.zeros(2, 0, dtype=torch.int64) for name in [*absent, *([left_out] if left_out else [])]}
        seen = replace(data, edges={**data.edges, **none})
        if not self.config.fanouts:
            return FullBatch(self.session, seen, relations)
        folder = self.session.out_dir if self.config.edges_on_disk else None
        return Sampled(self.session, seen, relations, self.config.fanouts, self.config.batch_size, folder)

    @torch.no_grad()
    def _logits(
        self, model: AccountClassifier, data: AccountGraph, task: str, ids: Tensor, left_out: str = ""
    ) -> Tensor:
        """(k, C) of the accounts `ids`."""
        network = model.of(task)
        if isinstance(network, FittedClassifier):
            return network(data.features[ids].float())
        self.session.fabric.to_device(network)
        return self._batches(data, model, left_out).logits(network, self.session.fabric.to_device(ids))

    @torch.no_grad()
    def _semantic_weights(self, model: AccountClassifier, data: AccountGraph, task: str) -> Tensor | None:
        """(2, R) of RGT on the whole graph; None of other methods, without relations, with sampled neighbours."""
        network = model.of(task)
        if not isinstance(network, RGT) or not model.relations or self.config.fanouts:
            return None
        batches = FullBatch(self.session, data, model.relations)
        return network.weighed(batches.x, batches.graph)[1].cpu()

    def _show_relations(self, data: AccountGraph) -> None:
        if self.session.fabric.is_global_zero:
            degrees = {name: edges.shape[1] / data.size for name, edges in data.edges.items()}
            shares = {task: {name: data.homophily(name, task) for name in data.edges} for task in data.labels}
            self.session.figure("relations", pictures.relations_picture(degrees, shares))


def branches(data: AccountGraph, hidden: int, released: bool = False) -> Sequence[Branch]:
    """Columns and widths of BotRGCN's branches for these data.

    With tweets, numbers and booleans the widths are the published ones, else equal shares of `hidden`.

    Raises:
        Problem: the released columns are asked for, and the features are not those of MGTAB.
    """
    if data.features.shape[1] == accounts.WIDTH and set(data.groups) == {"tweets", "numeric", "boolean"}:
        return mgtab_branches(hidden, released)
    if released:
        raise Problem("the released columns are those of MGTAB", data.name, "--set columns=correct")
    groups = [list(columns) for columns in data.groups.values()]
    if set(data.groups) == {"tweets", "numeric", "boolean"}:
        widths = {"tweets": hidden - 2 * (hidden // 8), "numeric": hidden // 8, "boolean": hidden // 8}
        return [(columns, widths[name]) for name, columns in zip(data.groups, groups, strict=True)]
    share = hidden // len(groups)
    return [(columns, share) for columns in groups[:-1]] + [(groups[-1], hidden - share * (len(groups) - 1))]
