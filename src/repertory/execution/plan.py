"""What a training is about to do, in one line."""

from __future__ import annotations

from collections.abc import Sized
from typing import Any

from repertory.core.study import Study

PARTS = ("train", "valid", "val", "test")


def plan(study: Study, arm: str, data: Any, minutes: float = 0.0) -> str:
    """Arm, network, items of each part of the data, classes, epochs, time: as far as data and settings tell them.

    Args:
        study: with the configuration of the training.
        arm: the arm that is trained.
        data: what `study.data()` gave.
        minutes: expected, on two cores; 0: unknown.

    Example: "emo, arm both (mini) on digits: train 50, test 20; 10 classes; 40 epochs".
    """
    network = getattr(study.config, "arch", "")
    facts = [", ".join(items)] if (items := _items(data)) else []
    classes = next((c for holder in (data, getattr(data, "train", None)) if (c := _classes(holder))), 0)
    facts += [f"{classes} classes"] if classes else []
    epochs = getattr(study.config, "epochs", None)
    facts += [f"{epochs} epochs"] if epochs else []
    facts += study.preview(arm, data)
    facts += [f"about {minutes:.2g} min on two cores"] if minutes else []
    subject = f"{study.paper}, arm {arm}{f' ({network})' if network else ''} on {study.data_name()}"
    return f"{subject}: {'; '.join(facts)}" if facts else subject


def _items(data: Any) -> list[str]:
    if type(data) is tuple:
        parts: dict[str, Any] = dict(zip(("train", "test"), data, strict=False))
    else:
        parts = {name: getattr(data, name, None) for name in PARTS} | dict(getattr(data, "split", None) or {})
    sizes = [f"{name} {len(parts[name])}" for name in PARTS if isinstance(parts.get(name), Sized)]
    size = getattr(data, "size", None)
    return sizes or ([f"{size} items"] if isinstance(size, int) else [])


def _classes(holder: Any) -> int:
    found = getattr(holder, "classes", None) or getattr(holder, "names", None) or ()
    return found if isinstance(found, int) else len(found)
