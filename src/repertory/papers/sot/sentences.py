"""The half of the study that classifies sentences."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from sklearn.metrics import accuracy_score, matthews_corrcoef
from torch import Tensor, nn
from torch.nn import functional as F

from repertory.core.problem import Problem
from repertory.core.study import Prediction, Session
from repertory.core.training import fit, loader
from repertory.data import glue
from repertory.data.glue import GlueTask, Sentences
from repertory.papers.sot import pictures
from repertory.papers.sot.settings import ARMS, SoTConfig, SoTDesign, head_arguments
from repertory.papers.sot.text import (
    MINI,
    Collate,
    TextClassifier,
    encode,
    vocabulary,
    word_tokenizer,
)
from repertory.tasks.classification import check_classes


class TextHalf(SoTDesign):
    """Classify sentences, or pairs of them."""

    def __init__(self, config: SoTConfig, session: Session) -> None:
        own = {
            "epochs": config.text_epochs,
            "batch_size": config.text_batch_size,
            "lr": config.text_lr,
            "weight_decay": config.text_weight_decay,
        }
        self.config = config.model_copy(update={name: value for name, value in own.items() if value is not None})
        self.session = session

    def build(self, arm: str, train: Sentences) -> TextClassifier:
        c = self.config
        sizes = {"heads": c.text_heads, "w_dim": c.text_w_dim, "r_dim": c.text_r_dim, "drop": c.text_drop}
        options: dict[str, Any] = {"head": {**sizes, **head_arguments(c, ARMS[arm])}, "max_length": c.max_length}
        if c.encoder != "mini":
            return TextClassifier.from_folder(c.encoder, train.classes, **options)
        listed = train.path.with_name("vocab.txt")
        words = listed.read_text(encoding="utf-8").split() if listed.exists() else vocabulary(train)
        encoder = {**MINI, "vocab_size": len(words)}
        return TextClassifier(encoder, word_tokenizer(words), list(train.classes), **options)

    def train(self, arm: str, data: GlueTask, part: str = "") -> TextClassifier:
        """Fine-tune the encoder with an arm's head.

        Raises:
            Problem: sentences of one class only, or an encoder that cannot be loaded.
        """
        c = self.config
        check_classes(data.train.classes, data.train.path, "sentences")
        self.session.reseed("weights")
        model = self.build(arm, data.train)
        evaluated = c.keep_best or c.patience > 0 or bool(c.ema_decay)

        def loss(module: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
            *inputs, y = batch
            return F.cross_entropy(module(*inputs), y, label_smoothing=c.label_smoothing)

        return fit(
            self.session,
            model,
            encode(model, data.train),
            c,
            loss,
            evaluate=(lambda module: self.evaluate(module, data)) if evaluated else None,
            monitor="matthews" if c.keep_best or c.patience else "",
            collate=Collate(model.padding),
            part=part,
        )

    def evaluate(self, model: TextClassifier, data: GlueTask) -> dict[str, float]:
        """Accuracy and Matthews correlation on the development set, in per cent; those of MNLI's second set too."""
        metrics = {}
        for name, dev in data.dev.items():
            suffix = f"_{name}" if name == "mismatched" else ""
            found = self.probabilities(model, dev, "evaluate").argmax(1)
            labels = dev.labels[: len(found)]  # a dry run ends early
            metrics[f"accuracy{suffix}"] = 100 * float(accuracy_score(labels, found))
            metrics[f"matthews{suffix}"] = 100 * float(matthews_corrcoef(labels, found))
        return metrics

    @torch.inference_mode()
    def probabilities(self, model: TextClassifier, sentences: Sentences, label: str) -> np.ndarray:
        """(N, classes)."""
        batches = loader(
            self.session,
            encode(model, sentences),
            self.config.batch_size,
            collate=Collate(model.padding),
            workers=self.config.workers,
            label=label,
        )
        return torch.cat([model(*inputs).softmax(1).cpu() for *inputs, _ in batches]).numpy()

    def predict(self, model: TextClassifier, source: Path) -> Prediction:
        """Classify the sentences of a .tsv or a .txt, or of those in a folder; a file that cannot be read gives a row.

        Raises:
            Problem: no such file.
        """
        paths = [source] if source.is_file() else sentence_files(source)
        if not paths:
            raise Problem("no sentences here", source, "give a .txt of one sentence a line, or a .tsv")
        table: list[dict[str, Any]] = []
        figures: dict[str, Figure] = {}
        every: list[np.ndarray] = []
        for path in paths:
            file = path.name if source.is_file() else str(path.relative_to(source))
            try:
                sentences = glue.read_sentences(path)
                found = self.probabilities(model, sentences, "predict")
            except Problem as problem:
                if source.is_file():
                    raise
                table.append(
                    {"file": file, "line": "", "sentence": "", "class": "", "probability": "", "problem": problem.what}
                )
                continue
            every.append(found)
            for line, text, row in zip(sentences.lines, sentences.texts, found, strict=False):
                best = int(row.argmax())
                shown = " | ".join(text)
                table.append(
                    {"file": file, "line": line, "sentence": shown, "class": model.classes[best],
                     "probability": float(row[best]), "problem": ""}
                )  # fmt: skip
            if not figures:
                figures["words"] = pictures.sentences_picture(model, sentences)
        arrays = {"probabilities": np.concatenate(every)} if every else {}
        return Prediction(table=table, figures=figures, arrays=arrays)


def sentence_files(folder: Path) -> list[Path]:
    """Files of sentences below a folder; of a task in GLUE's layout, those that are not for training."""
    found = sorted(path for path in folder.rglob("*") if path.suffix in (".tsv", ".txt"))
    return [path for path in found if not path.name.startswith(".") and path.name not in ("train.tsv", "vocab.txt")]
