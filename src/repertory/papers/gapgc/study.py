"""How the claims of GAPGC are tested.

repertory run gapgc                                            # generated molecules, a minute or two
repertory run gapgc --data bace/                               # the laptop's recipe on real molecules
REPERTORY_DATA=… repertory run gapgc --scale desk              # BACE, L = 5, d = 300 (no figure was published to us)
repertory train gapgc --data mine.csv --out model/             # then: repertory predict model/ others.csv
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.utils.data import Subset

from repertory.core import checkpoint
from repertory.core.loops import Loop
from repertory.core.problem import Problem
from repertory.core.study import Metric, Prediction, Study
from repertory.core.training import DRY_RUN_BATCH, fit, loader
from repertory.data import molecules
from repertory.data.molecules import Molecules
from repertory.papers.gapgc import pictures
from repertory.papers.gapgc.adapt import Adaptation, AdaptiveClassifier, Stream, adapt_along
from repertory.papers.gapgc.graphs import Graphs, collate
from repertory.papers.gapgc.model import GIN, batch_statistics, untouched_statistics
from repertory.papers.gapgc.settings import GAPGCConfig, GAPGCDesign

RENAMED = {
    r"^gnn\.": "",
    r"^x_embedding1\.": "element.",
    r"^x_embedding2\.": "chirality.",
    r"^gnns\.(\d+)\.mlp\.": r"layers.\1.mlp.",
    r"^gnns\.(\d+)\.edge_embedding1\.": r"layers.\1.bond.",
    r"^gnns\.(\d+)\.edge_embedding2\.": r"layers.\1.direction.",
    r"^batch_norms\.": "norms.",
}
"""Names of pretrain-gnns -> ours."""

MOST_NAMED = 12
"""Tasks that are named before a training: those of Tox21; ToxCast has 617."""

BOTH_CLASSES = "a task with both classes in the test split"


class GAPGCStudy(GAPGCDesign, Study[GAPGCConfig, Molecules, AdaptiveClassifier]):
    """Train a classifier on some scaffolds; adapt it to a stream of molecules with others."""

    metrics: ClassVar[Mapping[str, Metric]] = {
        "auc": Metric("ROC-AUC, adapted", "自适应后的 ROC-AUC", better="higher", decimals=3, needs=BOTH_CLASSES),
        "auc_source": Metric(
            "ROC-AUC of the source model", "源模型的 ROC-AUC", better="higher", decimals=3, needs=BOTH_CLASSES
        ),
        "gain": Metric(
            "ROC-AUC gained by adapting", "自适应带来的 ROC-AUC 增益", better="higher", decimals=3, needs=BOTH_CLASSES
        ),
        "auc_spread": Metric(
            "spread of ROC-AUC over orders of the stream", "不同流顺序下 ROC-AUC 的标准差", better="lower"
        ),
        "agreement": Metric(
            "pseudo-labels that are right, adapted", "自适应后伪标签的正确率", unit="%", better="higher", decimals=1
        ),
        "agreement_source": Metric(
            "pseudo-labels that are right, source model", "源模型伪标签的正确率", unit="%", better="higher", decimals=1
        ),
        "entropy": Metric("entropy of the predictions", "预测熵", unit="nats"),
        "skipped": Metric("updates without a signal", "无信号的更新次数", better="lower", decimals=1),
        "refused": Metric("molecules that came alone", "单独到来的分子数", better="lower", decimals=1),
        "undefined_tasks": Metric(
            "tasks with one class only in the test", "测试集中只有一类的任务数", better="lower", decimals=1
        ),
        "dropped_first": Metric(
            "bonds dropped in the first batch", "第一批中丢弃的化学键比例", needs="an arm that drops bonds"
        ),
        "dropped_last": Metric(
            "bonds dropped in the last batch", "最后一批中丢弃的化学键比例", needs="an arm that drops bonds"
        ),
        "encoder_parameters": Metric("parameters of the encoder", "编码器的参数量", better="lower", decimals=0),
        "encoder_parameters_published": Metric(
            "parameters of the encoder, L = 5, d = 300", "编码器的参数量（L = 5，d = 300）", better="lower", decimals=0
        ),
    }
    sample_name = "generated molecules"
    sample_fields = ("sample_molecules",)
    layout = molecules.FORMATS

    # -- data -----------------------------------------------------------------------------------

    def write_sample(self, folder: Path) -> None:
        """Generated molecules (rings with substituents) in the table format of MoleculeNet."""
        molecules.write_sample(folder / "molecules.csv", np.random.default_rng(0), self.config.sample_molecules)

    def read(self, folder: Path) -> Molecules:
        """Read a table and split it by scaffold; tasks with one class in train are dropped, with a warning.

        Raises:
            Problem: no table, no labels, or too few molecules for a split.
        """
        table = molecules.find_table(folder)
        if table is None:
            raise self.missing(folder)
        data = molecules.read_molecules(table, [task.strip() for task in self.config.tasks.split(",") if task.strip()])
        if not data.tasks:
            raise Problem("no column of labels (0, 1 or blank)", table, "name the columns: --set tasks=a,b")
        split = data.split or self._drawn_split(data)
        empty = [part for part, rows in split.items() if not len(rows)]
        if empty:
            raise Problem(f"nothing is left for {empty[0]}: {data.size} molecules", table, "give more scaffolds")
        inside = data.labels[split["train"]]
        divided = [task for k, task in enumerate(data.tasks) if {0.0, 1.0} <= set(inside[:, k].tolist())]
        dropped = [task for task in data.tasks if task not in divided]
        if not divided:
            raise Problem("every task has one class only in train", table, "give labels of both classes")
        if dropped:
            warnings.warn(f"dropped, one class only in train: {', '.join(dropped)}", stacklevel=2)
        return replace(data.of_tasks(divided), split=split)

    def _drawn_split(self, data: Molecules) -> dict[str, np.ndarray]:
        if self.config.split == "scaffold":
            return molecules.scaffold_split(data.smiles)
        return molecules.random_scaffold_split(data.smiles, self.session.rng("split"))

    def _graphs(self, data: Molecules, rows: np.ndarray) -> Graphs:
        return self.session.fabric.to_device(collate(data, rows))

    def _batches(self, data: Molecules, rows: np.ndarray, label: str) -> Any:
        """(numbers, graphs) of a stream, in order, with progress."""
        size = DRY_RUN_BATCH if self.session.dry_run else self.config.adapt_batch
        parts = [rows[first : first + size] for first in range(0, len(rows), size)]
        for part in self.session.progress(parts, label):
            yield part, self._graphs(data, part)

    def preview(self, arm: str, data: Molecules) -> list[str]:
        count = len(data.tasks)
        names = [*data.tasks[:MOST_NAMED], *(["…"] if count > MOST_NAMED else [])]
        return [f"{count} task{'s' if count > 1 else ''}: {', '.join(names)}"]

    # -- the source model -----------------------------------------------------------------------

    def train(self, arm: str, data: Molecules) -> AdaptiveClassifier:
        """Train the source model (once for all arms) and set up what `adapt` needs."""
        source = self.session.shared("source", lambda: self._source(data))
        self.session.reseed("projector")
        model = self._model(arm, data.tasks)
        model.start_from(source)
        if model.projector is not None and self.config.pretrain_projector:
            self._train_projector(model, data)
        return model.eval()

    def _model(self, arm: str, tasks: list[str]) -> AdaptiveClassifier:
        c = self.config
        model = AdaptiveClassifier(
            arm, tasks, c.layers, c.dim, c.dropout, c.jk, c.pool, c.scorer, c.init_keep_bias, c.augmenter_tau, c.hard
        )
        self.session.fabric.to_device(model)
        return model

    def _source(self, data: Molecules) -> AdaptiveClassifier:
        """Minimise BCE over the known labels; keep the epoch with the best validation AUC."""
        model, labels = self._model("source", data.tasks), torch.from_numpy(data.labels)
        if self.config.source_encoder:
            load_encoder(model.classifier.encoder, Path(self.config.source_encoder))

        def collate_labelled(rows: list[int]) -> tuple[Graphs, Tensor]:
            return collate(data, np.array(rows)), labels[rows]

        fit(
            self.session,
            model,
            Subset(range(data.size), data.split["train"].tolist()),  # pyright: ignore[reportArgumentType]
            self.config,
            masked_bce,
            evaluate=partial(self._validate, data=data),
            monitor="score",
            collate=collate_labelled,
            part="source",
        )
        if self.config.threshold == "source-median":
            logits = self._logits(model, data, data.split["valid"], "median")
            model.threshold.copy_(logits.median(dim=0).values)
        return model

    def _logits(self, model: nn.Module, data: Molecules, rows: np.ndarray, label: str) -> Tensor:
        """Logits (n, T) of these molecules, without adaptation."""
        listed = Subset(range(data.size), rows.tolist())  # pyright: ignore[reportArgumentType]
        batches = loader(self.session, listed, 256, collate=lambda part: collate(data, np.array(part)), label=label)
        with torch.no_grad():
            return torch.cat([model(graphs) for graphs in batches])

    def _validate(self, model: nn.Module, data: Molecules) -> dict[str, float]:
        """AUC on the validation scaffolds; minus the loss where no AUC is defined."""
        rows = data.split["valid"]
        logits = self._logits(model, data, rows, "validate").cpu()
        labels = data.labels[rows][: len(logits)]  # a dry run stops early
        value = mean_auc(labels, logits.numpy())[0]
        loss = masked_bce(lambda _: logits, (None, torch.from_numpy(labels))).item()
        return {"val_auc": value, "val_loss": loss, "score": -loss if math.isnan(value) else value}

    def _train_projector(self, model: AdaptiveClassifier, data: Molecules) -> None:
        """Train the projector g alone with the arm's contrast on source molecules, before any test molecule."""
        c, rows = self.config, data.split["train"]
        assert model.projector is not None
        optimizer = torch.optim.Adam(model.projector.parameters(), lr=c.augmenter_lr)
        steps = max(1, len(rows) // c.adapt_batch)
        total = c.pretrain_projector * steps
        loop = Loop(self.session, total, part="projector", unit="step", model=model, optimizer=optimizer)
        for step in loop:
            epoch, position = divmod(step, steps)
            order = rows[self.session.rng("projector", epoch).permutation(len(rows))]
            graphs = self._graphs(data, order[position * c.adapt_batch : (position + 1) * c.adapt_batch])
            game = Adaptation(model, c, self.session.generator("projector", step))
            game.model = model  # itself, not a copy
            batch_statistics(model)
            with torch.no_grad(), untouched_statistics(model):
                pooled = model.classifier.encoder.embed(graphs)
                keep = game.keep_weights(graphs)
            loss = game.contrast(graphs, pooled, model.projector(pooled), keep)
            if loss is not None:
                loop.check(loss)
                grads = torch.autograd.grad(loss, list(model.projector.parameters()))
                for parameter, grad in zip(model.projector.parameters(), grads, strict=True):
                    parameter.grad = grad
                optimizer.step()
                loop.log(loss=loss.item())

    # -- the experiment -------------------------------------------------------------------------

    def adapt(self, model: AdaptiveClassifier, data: Molecules) -> AdaptiveClassifier:
        """Adapt along the stream of test molecules, once in each of several orders.

        After an interruption it resumes with the order that was interrupted.

        Returns:
            A copy of the model with the streams; its weights are still those of the source.
        """
        data = data if data.tasks == model.tasks else data.of_tasks(model.tasks)
        loop = Loop(self.session, self.config.orders, part="orders", unit="step")
        states = loop.extra.setdefault("streams", [])
        for order in loop:
            stream, _ = self._along(model, data, data.split["test"], order)
            states.append((stream.outcome() if order else stream).state())
        adapted = copy.deepcopy(model)
        adapted.streams = [Stream.of(state) for state in states]
        return adapted

    def evaluate(self, model: AdaptiveClassifier, data: Molecules) -> dict[str, float]:
        """Score an adapted model's predictions along the streams; means over the orders.

        Raises:
            Problem: the model was not adapted.

        Returns:
            auc (mean over tasks, adapted), auc_source, gain (auc - auc_source), auc_spread (standard deviation over
            orders), agreement and agreement_source (of pseudo-labels with labels, per cent), entropy, skipped
            (updates without a signal), refused (molecules that came alone), undefined_tasks (one class only in the
            test: left out of the mean), dropped_first and dropped_last (R), where bonds are dropped.
        """
        data = data if data.tasks == model.tasks else data.of_tasks(model.tasks)
        if not model.streams:
            raise Problem("the model was not adapted", "evaluate", "give it what `adapt(model, data)` returns")
        found: list[dict[str, float]] = []
        for order, stream in enumerate(model.streams):
            rows = stream.rows.numpy()
            labels = data.labels[rows]
            before, after = (values[rows].cpu().numpy() for values in (stream.before, stream.after))
            (auc, undefined), (auc_source, _) = mean_auc(labels, after), mean_auc(labels, before)
            outputs = {"row": rows, "label": labels, "before": before, "after": after}
            self.session.keep_outputs(outputs, str(order))
            records = stream.records
            sizes = [record["graphs"] for record in records]
            found.append(
                {
                    "auc": auc,
                    "auc_source": auc_source,
                    "gain": auc - auc_source,
                    "agreement": agreement(labels, after, model.threshold),
                    "agreement_source": agreement(labels, before, model.threshold),
                    "entropy": float(np.average([r["entropy"] for r in records], weights=sizes)),
                    "skipped": float(sum(r.get("skipped", 0) for r in records)),
                    "refused": float(stream.refused),
                    "undefined_tasks": float(undefined),
                }
            )
            dropped = [r["dropped"] for r in records if "dropped" in r]
            if dropped:
                found[-1] |= {"dropped_first": dropped[0], "dropped_last": dropped[-1]}
            if not order and self.session.fabric.is_global_zero:
                figure = pictures.stream_picture(records, labels[:, 0], {"before": before[:, 0], "after": after[:, 0]})
                self.session.figure("along-the-stream", figure)
                for name, figure in self._pictures(model, data, stream).items():
                    self.session.figure(name, figure)
        means = {name: float(np.mean([f[name] for f in found])) for name in found[0]}
        return {**means, "auc_spread": float(np.std([f["auc"] for f in found]))}

    def _along(
        self, model: AdaptiveClassifier, data: Molecules, rows: np.ndarray, order: int
    ) -> tuple[Stream, AdaptiveClassifier]:
        """Adapt along these molecules in a shuffled order; the stream, and the model at its end."""
        rows = rows[self.session.rng("stream", order).permutation(len(rows))]
        batches = self._batches(data, rows, f"stream {order + 1}")
        return adapt_along(model, batches, data.size, self.config, self.session.generator("views", order))

    def measure(self) -> dict[str, float]:
        """Parameters of the encoder with L = 5, d = 300, and of the one in use."""
        sizes = {"": (self.config.layers, self.config.dim), "_published": (5, 300)}
        return {
            f"encoder_parameters{name}": float(sum(p.numel() for p in GIN(*size).parameters()))
            for name, size in sizes.items()
        }

    def _pictures(self, model: AdaptiveClassifier, data: Molecules, stream: Stream) -> dict[str, Figure]:
        threshold = model.threshold[0].item()
        sides = {"before": (stream.features_before, stream.before), "after": (stream.features_after, stream.after)}
        figures, rows = {}, stream.rows
        if len(rows) > 1:
            figures["groups"] = pictures.projection_picture(
                {name: features[rows].cpu().numpy() for name, (features, _) in sides.items()},
                {name: (logits[rows, 0] >= threshold).cpu().numpy() for name, (_, logits) in sides.items()},
                model.tasks[0],
            )
        if stream.keep:
            figures["kept-bonds"] = pictures.bonds_picture(data, stream.keep)
        return figures

    # -- use ------------------------------------------------------------------------------------

    def predict(self, model: AdaptiveClassifier, source: Path) -> Prediction:
        """Adapt to the molecules of a table, in a shuffled order, and predict them; labels are not needed.

        Where the table has the model's tasks, AUC and ROC curves are reported; the adaptation does not read the labels.
        The model at the end of the stream is returned too, as a model directory of the arm `source`.

        Raises:
            Problem: no table, or no molecules in it.
        """
        table = molecules.find_table(source)
        if table is None:
            raise self.missing(source)
        data = molecules.read_molecules(table, tasks=None)
        with torch.enable_grad():
            stream, adapted = self._along(model, data, np.arange(data.size), 0)
        rows = np.sort(stream.rows.numpy())
        before, after = (values.sigmoid().cpu().numpy() for values in (stream.before, stream.after))
        pseudo = (stream.after >= model.threshold).long().cpu().numpy()
        lines = [
            {"smiles": data.smiles[row]}
            | {
                f"{task}{what}": values[row, k].item()
                for k, task in enumerate(model.tasks)
                for what, values in (("_before", before), ("_after", after), ("_pseudo_label", pseudo))
            }
            for row in rows.tolist()
        ]
        moved = float(np.abs(after - before)[rows].mean())
        text = f"{len(rows)} molecules in {len(stream.records)} batches, shuffled; arm {model.arm}"
        text += f"; probabilities moved by {moved:.3f} on average"
        if data.skipped:
            text += f"\n{len(data.skipped)} rows are not molecules, first: row {data.skipped[0][0]}"
        if stream.refused:
            text += f"\n{stream.refused} in batches of one: not adapted, predicted by the source model"
        if skipped := int(sum(r.get("skipped", 0) for r in stream.records)):
            text += f"\n{skipped} updates skipped: all pseudo-labels agreed"
        figures = {"along-the-stream": pictures.stream_picture(stream.records)}
        figures |= self._pictures(model, data, stream)

        labels = self._known_labels(table, model.tasks)
        (auc_before, undefined), (auc_after, _) = (mean_auc(labels[rows], p[rows]) for p in (before, after))
        if undefined < len(model.tasks):
            text += f"\nAUC by the table's labels: {auc_before:.3f} before, {auc_after:.3f} after"
            text += f"; {undefined} tasks with one class left out" if undefined else ""
            scores = {"before": before[rows], "after": after[rows]}
            figures["roc"] = pictures.roc_picture(labels[rows], scores, model.tasks)
        files = {"adapted": self._save_adapted(adapted, self.session.out_dir / "adapted")}
        return Prediction(text=text, table=lines, figures=figures, arrays=bond_arrays(data, stream), files=files)

    def _known_labels(self, table: Path, tasks: list[str]) -> np.ndarray:
        """Labels (n, T) from the table; NaN where it has none."""
        found = molecules.read_molecules(table)
        labels = np.full((found.size, len(tasks)), np.nan, np.float32)
        for k, task in enumerate(tasks):
            if task in found.tasks:
                labels[:, k] = found.labels[:, found.tasks.index(task)]
        return labels

    def _save_adapted(self, adapted: AdaptiveClassifier, folder: Path) -> Path:
        f = adapted.classifier.encoder
        shape: Any = adapted.layers, adapted.dim, f.dropout.p, f.jk, f.pool_kind
        plain = AdaptiveClassifier("source", adapted.tasks, *shape)
        plain.start_from(adapted)
        config = self.config.model_dump(mode="json")
        checkpoint.save(plain, folder, paper=self.paper, arm="source", seed=self.session.seed, config=config)
        return folder

    def convert(self, source: Path, variant: str = "") -> AdaptiveClassifier:
        """Build a model from a fine-tuned classifier of pretrain-gnns (`gnn.…` and `graph_pred_linear.…`).

        Args:
            source: the file.
            variant: names of the tasks, separated by commas; empty: 0, 1, …

        Raises:
            Problem: not such a state dict, or another number of names.
        """
        state = checkpoint.read_weights(source)
        if "graph_pred_linear.weight" not in state:
            raise Problem(
                "the file has no head graph_pred_linear: it is an encoder",
                source,
                f"train with it: repertory train gapgc --data … --set source_encoder={source}",
            )
        layers, dim = size_of(state, source)
        width, count = state["graph_pred_linear.weight"].shape[1], len(state["graph_pred_linear.weight"])
        tasks = variant.split(",") if variant else [str(number) for number in range(count)]
        if len(tasks) != count:
            raise Problem(f"{len(tasks)} names for {count} tasks", "--variant", "separate the names by commas")
        self.session.reseed("projector")
        c = self.config
        jk = "concat" if width == (layers + 1) * dim else c.jk
        changes = {"layers": layers, "dim": dim, "jk": jk}
        model = GAPGCStudy(c.model_copy(update=changes), self.session)._model(self.method, tasks)
        names = {r"^graph_pred_linear\.": "head.", **RENAMED}
        renamed = checkpoint.rename(state, names)
        renamed = {k if k.startswith("head.") else f"encoder.{k}": v for k, v in renamed.items()}
        checkpoint.fit_weights(model.classifier, renamed, source)
        model.start_from(model)
        return model.eval()


def masked_bce(model: Any, batch: tuple[Any, Tensor]) -> Tensor:
    """Binary cross entropy over the labels (G, T) that are not NaN."""
    graphs, labels = batch
    known = labels.isfinite()
    losses = F.binary_cross_entropy_with_logits(model(graphs), labels.nan_to_num(), reduction="none")
    return (losses * known).sum() / known.sum().clamp(min=1)


def mean_auc(labels: np.ndarray, scores: np.ndarray) -> tuple[float, int]:
    """Mean ROC-AUC over the tasks that have both classes, NaN if none has; and how many have not.

    Args:
        labels: (n, T), 0, 1 or NaN.
        scores: (n, T).
    """
    values = np.array([pictures.auc(labels[:, k], scores[:, k]) for k in range(labels.shape[1])])
    undefined = int(np.isnan(values).sum())
    return (float(np.nanmean(values)) if undefined < len(values) else math.nan), undefined


def agreement(labels: np.ndarray, logits: np.ndarray, threshold: Tensor) -> float:
    """Share of the known labels that pseudo-labels match, per cent."""
    known = np.isfinite(labels) & np.isfinite(logits)
    return 100 * float(((logits >= threshold.cpu().numpy()) == labels)[known].mean())


def bond_arrays(data: Molecules, stream: Stream) -> dict[str, np.ndarray]:
    """The learned keep weight per bond, as a table: molecule, two atoms, keep probability."""
    if not stream.keep:
        return {}
    kind = [("molecule", np.int64), ("atom_i", np.int64), ("atom_j", np.int64), ("keep", np.float32)]
    parts = []
    for row, keep in sorted(stream.keep.items()):
        part = np.zeros(len(keep), kind)
        part["molecule"], part["keep"] = row, keep
        part["atom_i"], part["atom_j"] = data.bonds[:, data.bond_starts[row] : data.bond_starts[row + 1] : 2]
        parts.append(part)
    return {"kept-bonds": np.concatenate(parts)}


def size_of(state: Mapping[str, Tensor], source: Path) -> tuple[int, int]:
    """(L, d) of an encoder of pretrain-gnns, with or without the prefix `gnn.`."""
    tables = [v for k, v in state.items() if k.removeprefix("gnn.") == "x_embedding1.weight"]
    layers = sum(k.removeprefix("gnn.").endswith(".mlp.0.weight") for k in state)
    if not tables or not layers:
        raise Problem("no GIN of pretrain-gnns", source, f"found: {', '.join(state)[:80]}")
    return layers, tables[0].shape[1]


def load_encoder(encoder: GIN, source: Path) -> None:
    """Load an encoder that pretrain-gnns released (`model_gin/*.pth`).

    Raises:
        Problem: unreadable, or another number of layers or width; names both.
    """
    state = checkpoint.read_weights(source)
    found, wanted = size_of(state, source), (len(encoder.layers), encoder.element.weight.shape[1])
    if found != wanted:
        raise Problem(
            f"the file's encoder has L = {found[0]}, d = {found[1]}; the model has L = {wanted[0]}, d = {wanted[1]}",
            source,
            f"--set layers={found[0]} --set dim={found[1]}",
        )
    state = {k: v for k, v in state.items() if not k.startswith("graph_pred_linear.")}
    checkpoint.fit_weights(encoder, checkpoint.rename(state, RENAMED), source)
