"""EventReversal and EventDrift: augmentation of event-camera streams that imitates changes of brightness."""

from repertory.papers.event_aug.model import EventClassifier
from repertory.papers.event_aug.representations import EST, collate_streams, represent
from repertory.papers.event_aug.transforms import (
    METHODS,
    PRESETS,
    Compose,
    EventDrift,
    EventDrop,
    EventReversal,
    ShiftFlip,
    drift,
    reverse,
)

__all__ = [
    "EST",
    "METHODS",
    "PRESETS",
    "Compose",
    "EventClassifier",
    "EventDrift",
    "EventDrop",
    "EventReversal",
    "ShiftFlip",
    "collate_streams",
    "drift",
    "represent",
    "reverse",
]
