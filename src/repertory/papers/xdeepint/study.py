"""How the claims of xDeepInt are tested.

repertory run xdeepint                                         # generated clicks in the format of Criteo, minutes
REPERTORY_DATA=... repertory run xdeepint --scale desk         # 200 real rows of Criteo: every part, no comparison
repertory run xdeepint --scale paper --data dac/               # Criteo's train.txt; no figure was available to us
repertory train xdeepint --data mine.csv --out model/          # then: repertory predict model/ others.csv
"""

from __future__ import annotations

import csv
import warnings
from collections.abc import Collection, Iterator, Mapping
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from sklearn.metrics import log_loss
from torch import nn

from repertory.core.problem import Problem
from repertory.core.study import Metric, Prediction, Study
from repertory.core.timing import seconds_a_sample
from repertory.data import clicks
from repertory.data.clicks import Clicks, Preparation, Schema
from repertory.papers.xdeepint import pictures
from repertory.papers.xdeepint.baselines import DCN, DNN, FM, DeepFM, LogisticRegression, XDeepFM
from repertory.papers.xdeepint.model import PIN, ClickModel, Output, Tables, XDeepInt
from repertory.papers.xdeepint.sample import write_sample
from repertory.papers.xdeepint.settings import ARMS, PUBLISHED_BATCH, XDeepIntConfig, XDeepIntDesign
from repertory.papers.xdeepint.training import auc, fit_clicks, predictions, probabilities
from repertory.papers.xdeepint.weights import from_tensorflow

FEW_ROWS, MORE_EPOCHS = 1_000_000, 10
"""Below so many training rows, `train --data` makes up to so many passes where the paper makes one."""
LEAST_STEPS = 100
"""Of an epoch, where the data allow it: `train --data` takes smaller batches than published."""
SHOWN = 1000
"""Rows of a prediction's table; all are in its folder."""
BOTH = "both classes in the test rows"


class XDeepIntStudy(XDeepIntDesign, Study[XDeepIntConfig, Clicks, ClickModel]):
    """Train on the first rows of a log, predict the clicks of the others."""

    metrics: ClassVar[Mapping[str, Metric]] = {
        "auc": Metric("ROC-AUC", "ROC-AUC", better="higher", decimals=4, needs=BOTH),
        "logloss": Metric("log loss", "对数损失", unit="nats", better="lower", decimals=4),
        "nce": Metric(
            "log loss relative to that of the click rate", "归一化交叉熵（相对于点击率）", better="lower", decimals=4,
            needs=BOTH,
        ),
        "zero_rows": Metric("embeddings that are zero", "为零的嵌入行比例", unit="%", decimals=1),
        "zero_entries": Metric("zero entries of embeddings", "嵌入中为零的元素比例", unit="%", decimals=1),
        "zero_weights": Metric(
            "zero entries of interaction weights", "交互权重中为零的元素比例", unit="%", decimals=1,
            needs="a polynomial interaction network",
        ),
        "table_rows": Metric("embeddings", "嵌入行数", decimals=0),
        "parameters": Metric("parameters without tables", "参数量（不含嵌入表）", better="lower", decimals=0),
        "parameters_released": Metric(
            "parameters without tables, released script (38 fields)", "参数量（不含嵌入表，公开脚本 38 个字段）",
            decimals=0,
        ),
        "parameters_criteo": Metric(
            "parameters without tables, Criteo (39 fields)", "参数量（不含嵌入表，Criteo，39 个字段）", decimals=0
        ),
        "macs_criteo": Metric("multiply-accumulates of a row of Criteo", "每行 Criteo 数据的乘加次数", decimals=0),
    }  # fmt: skip
    sample_name = "generated clicks"
    sample_fields = ("sample_train", "sample_test")
    layout = clicks.FORMATS

    # -- data -----------------------------------------------------------------------------------

    def write_sample(self, folder: Path) -> None:
        """Generated clicks in the format of Criteo's train.txt; a seed has a world of its own."""
        rows = self.config.sample_train + self.config.sample_test
        write_sample(folder / "train.txt", np.random.default_rng(self.session.seed), rows)

    def data(self) -> Clicks:
        """The user's rows, or a sample of this seed's own, the last rows of which are the test."""
        if self.data_source() is not None:
            return super().data()
        share = self.config.sample_test / (self.config.sample_train + self.config.sample_test)
        config = self.config.model_copy(update={"split": "ordered", "test_fraction": share})
        reader = type(self)(config, self.session.for_data())
        with TemporaryDirectory(prefix="clicks-") as folder:
            reader.write_sample(Path(folder))
            return reader.read(Path(folder))

    def read(self, folder: Path) -> Clicks:
        """Read and encode a log, see `repertory.data.clicks.read_clicks`."""
        return self._read(folder, None)

    def _read(self, folder: Path, schema: Schema | None) -> Clicks:
        """With the vocabularies of a model, or with those of the training rows."""
        files = clicks.find_logs(folder)
        if files is None:
            raise self.missing(folder)
        c, session = self.config, self.session
        preparation = Preparation(
            label=c.label,
            numeric=c.numeric,
            categorical=c.categorical,
            left_out=("I13",) if c.fields == "released" else (),
            split=c.split,
            test_fraction=c.test_fraction,
            valid_fraction=c.valid_fraction,
            min_count=c.min_count,
            hash_buckets=c.hash_buckets,
        )
        key = f"{session.split_seed}{', the first blocks' if session.dry_run else ''}"
        return clicks.read_clicks(
            files, preparation, lambda word: session.rng("split", word), session.progress, key, schema
        )

    # -- the experiment -------------------------------------------------------------------------

    def train(self, arm: str, data: Clicks) -> ClickModel:
        """Adam, or the combined optimiser; the epoch with the best validation AUC."""
        config = self.config.model_copy(update=dict(ARMS[arm].changes))
        self.session.reseed("model")
        model = build(arm, data.schema, config)
        return fit_clicks(self.session, model, data, config, ARMS[arm].combined)

    def evaluate(self, model: ClickModel, data: Clicks) -> dict[str, float]:
        """Scores on the test rows, and how sparse the model is."""
        schema = Schema.from_json(model.schema) if model.schema else data.schema
        if schema != data.schema:  # trained on other data
            data = self._read(self.data_folder(), schema)
        rows = data.split["test"]
        scores = predictions(self.session, model, data, rows)
        labels = data.labels[rows][: len(scores)]
        self.session.keep_outputs({"label": labels, "probability": scores})
        sparsity = sparsity_of(model)
        if sparsity["zero_rows"] == 100:
            warnings.warn(
                "every embedding is zero, and all rows get the same probability: lower table_l1", stacklevel=2
            )
        for name, figure in self._figures(model, labels, scores).items():
            self.session.figure(name, figure)
        loss = log_loss(labels, scores, labels=[0, 1])
        rate = labels.mean()
        base = -(rate * np.log(rate) + (1 - rate) * np.log(1 - rate)) if 0 < rate < 1 else np.nan
        return {
            "auc": auc(labels, scores),
            "logloss": float(loss),
            "nce": float(loss / base),
            **sparsity,
            "table_rows": float(sum(model.tables.sizes.tolist())),
            "parameters": float(network_parameters(model)),
        }

    def _figures(self, model: ClickModel, labels: np.ndarray, scores: np.ndarray) -> dict[str, Figure]:
        fields = model.schema["fields"] if model.schema else [str(k) for k in range(model.fields)]
        sizes = model.tables.sizes.tolist()
        figures = {"selected-features": pictures.selection_picture(zero_shares(model.tables), sizes, fields)}
        if isinstance(model, XDeepInt):
            figures["interactions"] = pictures.interactions_picture(model.interactions().cpu().numpy(), fields)
        if len(labels):
            figures["calibration"] = pictures.calibration_picture(labels.astype(float), scores)
        return figures

    def measure(self) -> dict[str, float]:
        """The published network on Criteo's 39 fields, and on the 38 of the released script."""
        published = XDeepIntConfig()
        counts = {}
        for name, fields in (("released", 38), ("criteo", 39)):
            pin = PIN(fields, published.dim, published.subspaces, published.layers)
            counts[f"parameters_{name}"] = float(count(pin) + count(Output(fields)))
        macs = XDeepInt([1] * 39, published.dim, published.subspaces, published.layers).macs()
        return {**counts, "macs_criteo": float(macs)}

    # -- use ------------------------------------------------------------------------------------

    def scaled(self, data: Clicks, given: Collection[str]) -> XDeepIntConfig:
        """Smaller batches and more passes where there are fewer rows than the published recipe is for."""
        rows = len(data.split["train"])
        batch = 2 ** int(np.log2(min(PUBLISHED_BATCH, max(16, rows // LEAST_STEPS))))
        fit = {"batch_size": batch, "epochs": MORE_EPOCHS if rows < FEW_ROWS else 1}
        return self.config.model_copy(update={name: value for name, value in fit.items() if name not in given})

    def preview(self, arm: str, data: Clicks) -> list[str]:
        """Fields, embeddings, weights, and the minutes of the training by the time of two batches."""
        schema, rows = data.schema, data.split["train"]
        config = self.config.model_copy(update=dict(ARMS[arm].changes))
        model = build(arm, schema, config).to(self.session.fabric.device)
        few = rows[: min(len(rows), config.batch_size)]
        ids, labels = (torch.from_numpy(array[few]) for array in (data.ids, data.labels))
        ids, labels = self.session.fabric.to_device((ids.long(), labels.float()))
        seconds = seconds_a_sample(
            lambda: F.binary_cross_entropy_with_logits(model(ids), labels), len(few), self.session.fabric.device
        )
        minutes = seconds * len(rows) * config.epochs / 60
        return [
            f"label {schema.label}",
            f"numeric: {_shown(tuple(name for name in schema.fields if name in schema.numeric))}",
            f"categorical: {_shown(schema.categorical)}",
            f"{sum(schema.sizes):,} embeddings of size {model.tables.dim} (levels that come more than {data.min_count} "
            "times)",
            f"{network_parameters(model):,} other weights",
            f"batches of {config.batch_size}",
            *data.notes,
            f"about {minutes:.2g} min on this machine",
        ]

    def predict(self, model: ClickModel, source: Path) -> Prediction:
        """Probabilities of the rows of a file, in its order; a row that cannot be read gets a note in their place.

        Raises:
            Problem: no file, or a column of the model is missing.
        """
        files = clicks.find_logs(source)
        if files is None:
            raise self.missing(source)
        if model.schema is None:
            raise Problem("the model has no vocabularies", source, "train it with `repertory train`")
        schema, path = Schema.from_json(model.schema), files.get("test", files["train"])
        folder = self.session.out_dir / "predictions"
        folder.mkdir(parents=True, exist_ok=True)
        shown: list[dict[str, Any]] = []
        labels, scores, bad = [], [], 0
        with (folder / "predictions.csv").open("w", newline="", encoding="utf-8") as file:
            writer: csv.DictWriter[str] = csv.DictWriter(file, ["line", "probability", "note"])
            writer.writeheader()
            for rows, found in self._predicted(model, schema, path):
                lines = _lines(rows, found)
                writer.writerows(lines)
                shown += islice(lines, SHOWN - len(shown))
                bad += len(rows.faults)
                scores.append(found.astype(np.float32))
                labels.append(np.full(len(found), 2, np.uint8) if rows.labels is None else rows.labels)
        score, label = np.concatenate(scores or [np.empty(0)]), np.concatenate(labels or [np.empty(0)])
        text = f"{len(score)} rows of {path.name}"
        text += f", mean probability {score.mean():.4f}" if len(score) else ""
        text += f"\n{bad} rows cannot be read; their notes say why" if bad else ""
        if len(score) + bad > len(shown):
            text += f"\nthe table shows the first {len(shown)} rows; predictions/predictions.csv has all"
        figures = {"probabilities": pictures.probabilities_picture(score)} if len(score) else {}
        known = len(label) and label.max() < 2
        if known and label.min() != label.max():
            text += f"\nby the labels of the file: AUC {auc(label, score):.4f}, log loss {log_loss(label, score):.4f}"
        figures |= self._figures(model, label if known else label[:0], score)
        return Prediction(text=text, table=shown, figures=figures, files={"predictions": folder})

    def _predicted(self, model: ClickModel, schema: Schema, path: Path) -> Iterator[tuple[clicks.Rows, np.ndarray]]:
        for rows in self.session.progress(clicks.read_rows(schema.open(path), strict=False), "predict"):
            ids = torch.from_numpy(schema.encode(rows)).long()
            parts = [
                probabilities(model.eval(), self.session.fabric.to_device(part))
                for part in ids.split(8192)
                if len(part)
            ]
            yield rows, np.concatenate(parts or [np.empty(0)])

    def convert(self, source: Path, variant: str = "") -> ClickModel:
        """Build a model from the TensorFlow variables of the authors' code, see `weights.from_tensorflow`.

        Args:
            source: a .npz file.
            variant: activation of the interaction layers; empty: linear.
        """
        return from_tensorflow(source, variant or "linear")


def build(arm: str, schema: Schema, config: XDeepIntConfig) -> ClickModel:
    """The untrained model of an arm."""
    c, sizes, stored = config, schema.sizes, schema.to_json()
    match ARMS[arm].network:
        case "lr":
            return LogisticRegression(sizes, schema=stored)
        case "fm":
            return FM(sizes, c.dim, schema=stored)
        case "dnn":
            return DNN(sizes, c.dim, c.hidden, schema=stored)
        case "deepfm":
            return DeepFM(sizes, c.dim, c.hidden, schema=stored)
        case "dcn":
            return DCN(sizes, c.dim, c.cross_layers, c.hidden, schema=stored)
        case "xdeepfm":
            return XDeepFM(sizes, c.dim, c.maps, c.hidden, schema=stored)
        case "pin":
            heads = [(c.layers, c.subspaces, c.activation)] * c.heads
            shape = c.subspaces, c.layers, c.activation, c.dropout, c.residual, c.heads * c.head_dim
            return XDeepInt(sizes, c.dim, *shape, heads=heads, schema=stored)


def count(module: nn.Module) -> int:
    """Parameters."""
    return sum(p.numel() for p in module.parameters())


def network_parameters(model: ClickModel) -> int:
    """Parameters without tables."""
    return count(model) - sum(table.weight.numel() for table in model.all_tables())


def sparsity_of(model: ClickModel) -> dict[str, float]:
    """Zero rows and entries of the table, zero entries of the interaction weights, in per cent."""
    table = model.tables.weight[1:]
    weights = [w for pin in model.modules() if isinstance(pin, PIN) for w in pin.matrices]
    found = {"zero_rows": (table == 0).all(dim=1), "zero_entries": table == 0}
    found |= {"zero_weights": torch.cat([w.flatten() for w in weights]) == 0} if weights else {}
    return {name: 100 * values.double().mean().item() for name, values in found.items()}


def zero_shares(tables: Tables) -> np.ndarray:
    """Share of the zero rows of each field, (F,); NaN for one without rows."""
    zero = (tables.weight[1:] == 0).all(dim=1).cpu().numpy()
    parts = np.split(zero, np.cumsum(tables.sizes.tolist())[:-1])
    return np.array([part.mean() if len(part) else np.nan for part in parts])


def _shown(names: tuple[str, ...], most: int = 8) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "") or "none"


def _lines(rows: clicks.Rows, scores: np.ndarray) -> list[dict[str, Any]]:
    """Lines of a prediction in the order of the file."""
    good = [{"line": int(n), "probability": float(p), "note": ""} for n, p in zip(rows.lines, scores, strict=True)]
    bad = [{"line": n, "probability": None, "note": note} for n, note in rows.faults]
    return sorted([*good, *bad], key=lambda line: line["line"])
