"""Training on encoded rows: Adam, or the combined optimiser with sparse gradients of the tables."""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.metrics import roc_auc_score
from torch import Tensor
from torch.optim import Optimizer

from repertory.core.loops import Loop, Picks, finite
from repertory.core.problem import Problem
from repertory.core.study import Session
from repertory.data.clicks import Clicks
from repertory.papers.xdeepint.ftrl import FTRL, GroupFTRL
from repertory.papers.xdeepint.model import ClickModel
from repertory.papers.xdeepint.settings import PUBLISHED_BATCH, XDeepIntConfig

M = TypeVar("M", bound=ClickModel)

SEGMENT = 20
"""Steps between two records and resume points."""
EVALUATED = 8192
"""Rows that are evaluated at a time."""
REMEDY = "lower lr or table_alpha; then start afresh with --fresh"


def optimizers(model: ClickModel, config: XDeepIntConfig, combined: bool) -> list[Optimizer]:
    """Adam for all weights; or group-lasso FTRL for the tables and FTRL for the others.

    Published penalties are meant for a loss summed over 4096 rows: they go with the batch size.
    """
    if not combined:
        return [torch.optim.Adam(model.parameters(), lr=config.lr)]
    share = config.batch_size / PUBLISHED_BATCH
    tables = [table.weight for table in model.all_tables()]
    others = [weight for weight in model.parameters() if not any(weight is table for table in tables)]
    return [
        GroupFTRL(
            tables,
            config.table_alpha,
            config.table_beta,
            share * config.table_l1,
            share * config.table_l2,
            zero_start=True,
        ),
        FTRL(others, config.weight_alpha, share * config.weight_l1, share * config.weight_l2),
    ]


def fit_clicks(session: Session, model: M, data: Clicks, config: XDeepIntConfig, combined: bool) -> M:
    """Train in place, resumably; the epoch with the best validation AUC, or the last where nothing is held out.

    Raises:
        Problem: several processes.
        Diverged: the loss is not finite.
    """
    fabric = session.fabric
    if fabric.world_size > 1:
        raise Problem(f"{fabric.world_size} processes", "--devices", "train on one device, as published")
    rows = data.split["train"]
    steps = -(-len(rows) // config.batch_size)
    segments = -(-steps // SEGMENT)
    for table in model.all_tables():
        table.sparse = combined
    wrapped, *stepping = fabric.setup(model, *optimizers(model, config, combined))  # pyright: ignore[reportGeneralTypeIssues]
    picks = Picks()

    def stale() -> bool:
        return bool(config.patience) and picks.stale("best") >= config.patience

    named = {f"optimizer{k}": optimizer for k, optimizer in enumerate(stepping)}
    loop = Loop(session, config.epochs * segments, unit="step", until=stale, model=wrapped, picks=picks, **named)
    order = np.empty(0, np.uint32)
    wrapped.train()
    for segment in loop:
        epoch, part = divmod(segment, segments)
        if part == 0 or not len(order):
            order = _order(session, rows, epoch, config.shuffle)
        losses = []
        for step in range(part * SEGMENT, min(steps, (part + 1) * SEGMENT)):
            ids, labels = _batch(session, data, order[step * config.batch_size : (step + 1) * config.batch_size])
            if combined and segment == step == 0:
                for table in model.all_tables():
                    table.start(ids)
            loss = F.binary_cross_entropy_with_logits(wrapped(ids), labels, reduction="sum" if combined else "mean")
            fabric.backward(loss)
            for optimizer in stepping:
                optimizer.step()
                optimizer.zero_grad()
            losses.append(loss.detach() / (len(labels) if combined else 1))
        loop.log(loss=finite(torch.stack(losses).mean(), f"in epoch {epoch + 1}", REMEDY), epoch=epoch)
        if part + 1 == segments and len(data.split["valid"]):
            score = auc(data.labels[data.split["valid"]], predictions(session, model, data, data.split["valid"]))
            picks.offer(epoch, {"best": score}, model.state_dict, val_auc=score)
            session.log(segment, val_auc=score)
            wrapped.train()
    if picks.steps:
        model.load_state_dict(picks.state("best"))
    for table in model.all_tables():
        table.sparse = False
    return model.eval()


def _order(session: Session, rows: np.ndarray, epoch: int, shuffle: bool) -> np.ndarray:
    return session.rng("order", epoch).permutation(rows) if shuffle else rows


def _batch(session: Session, data: Clicks, rows: np.ndarray) -> Any:
    """Ids (B, F) and labels (B,) of some rows, on the device."""
    ids, labels = torch.from_numpy(data.ids[rows]).long(), torch.from_numpy(data.labels[rows]).float()
    return session.fabric.to_device((ids, labels))


@torch.no_grad()
def predictions(session: Session, model: ClickModel, data: Clicks, rows: np.ndarray) -> np.ndarray:
    """Click probabilities of some rows, float64; fewer in a dry run."""
    model.eval()
    parts = [rows[first : first + EVALUATED] for first in range(0, len(rows), EVALUATED)]
    found = [probabilities(model, _batch(session, data, part)[0]) for part in session.progress(parts, "evaluate")]
    return np.concatenate(found) if found else np.empty(0)


@torch.no_grad()
def probabilities(model: ClickModel, ids: Tensor) -> np.ndarray:
    """Click probabilities (B,) of ids (B, F), float64."""
    return model(ids).double().sigmoid().cpu().numpy()


def auc(labels: np.ndarray, scores: np.ndarray) -> float:
    """ROC-AUC; NaN if only one class is present. Labels beyond the scores are left out.

    Example:
        >>> auc(np.array([0, 1, 1]), np.array([0.2, 0.4, 0.3]))
        1.0
    """
    labels = labels[: len(scores)]
    return float(roc_auc_score(labels, scores)) if len(set(labels.tolist())) == 2 else float("nan")
