"""EventReversal and EventDrift, and the augmentations that the paper compares them with.

Streams are structured arrays (N,) with fields x, y, t, p, sorted by t: those of `repertory.data.events`, or tonic's.
A transform returns a new stream and does not modify its input. Random numbers come from the generator passed to it,
otherwise from NumPy's global state, which seeded data loaders (`repertory.core.training.fit`) set.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from repertory.core.problem import Problem
from repertory.data.events import Size, pick

Selection = slice | np.ndarray
"""Rows of a stream: a slice (fragment), or indices."""

METHODS: dict[str, tuple[str, str]] = {
    "identical": ("", "none"),  # 0 in the authors' code
    "random": ("", "random"),  # 1
    "x_range": ("x", "range"),  # 2
    "y_range": ("y", "range"),  # 3
    "xy_range": ("xy", "range"),  # 4
    "p_range": ("p", "range"),  # 5
    "x_all": ("x", "all"),  # 6
    "y_all": ("y", "all"),  # 7
    "p_all": ("p", "all"),  # 8
    "t_all": ("t", "all"),  # 9
    "t_range": ("t", "range"),  # 10, of reversals; 10 and 11 of drifts are the next two
    "xy_all": ("xy", "all"),
    "xyt_all": ("xyt", "all"),
}
"""Name -> (domains, selection of events); `random` draws its domains."""


RANDOM_RATIO, RANDOM_DISTANCE = 0.3, 0.2
"""Of the method `random`."""


# -- deterministic operations -------------------------------------------------------------------


def reverse(events: np.ndarray, domain: str, selection: Selection, size: Size) -> np.ndarray:
    """Reverse selected events in one or more coordinates.

    x' = W - 1 - x, y' = H - 1 - y, p' = 1 - p, t' = max t - t, with the maximum over the whole stream; polarities of
    -1 and 1 become p' = -p. Rows keep their order, so the stream is no longer sorted after a reversal in t.

    Args:
        events: (N,), p 0 or 1, or -1 or 1.
        domain: letters of x, y, t, p.
        selection: rows.
        size: (H, W).

    Example:
        >>> from repertory.data.events import make_events
        >>> reverse(make_events([0, 1, 2], 0, [5, 6, 9], 1), "xt", slice(0, 2), (4, 10))[["x", "t"]].tolist()
        [(9, 4), (8, 3), (2, 9)]
    """
    events = pick(events, slice(None))
    selection = _valid_rows(selection, len(events))
    for name in domain:
        column = events[name]
        signed = name == "p" and column.min(initial=0) < 0
        column[selection] = (0 if signed else _limit(events, name, size) - 1) - column[selection]
    return events


def drift(
    events: np.ndarray,
    domain: str,
    offset: int | Sequence[int],
    selection: Selection,
    size: Size,
    recurrent: bool = False,
) -> np.ndarray:
    """Shift selected events in one or more coordinates, one coordinate after the other.

    Args:
        events: (N,).
        domain: letters of x, y, t, p.
        offset: for each letter, in pixels, microseconds or steps of polarity.
        selection: rows. After a deletion they index the remaining stream, as in the authors' code.
        size: (H, W). The limits of t and p are max t + 1 and 2.
        recurrent: wrap coordinates outside [0, limit) around; otherwise, after each coordinate, delete the events
            outside.

    Example:
        >>> from repertory.data.events import make_events
        >>> stream = make_events([0, 5, 8], 0, [5, 6, 9], 1)
        >>> drift(stream, "x", 3, slice(1, 3), (4, 10))["x"].tolist()
        [0, 8]
        >>> drift(stream, "x", 3, slice(1, 3), (4, 10), recurrent=True)["x"].tolist()
        [0, 8, 1]
    """
    events = pick(events, slice(None))
    offsets = [offset] * len(domain) if isinstance(offset, int) else offset
    for name, step in zip(domain, offsets, strict=True):
        rows, limit = _valid_rows(selection, len(events)), _limit(events, name, size)
        column = events[name]
        moved = column[rows].astype(np.promote_types(column.dtype, np.int32)) + step
        if recurrent:
            column[rows] = moved % limit
            continue
        column[rows] = moved  # values outside may overflow a small or unsigned field, but are deleted next
        inside = (moved >= 0) & (moved < limit)
        if not inside.all():
            kept = np.ones(len(events), bool)
            kept[rows] = inside
            events = pick(events, kept)
    return events


def _valid_rows(selection: Selection, count: int) -> Selection:
    """Drop indices beyond the end of a stream that deletions have shortened."""
    return selection[selection < count] if isinstance(selection, np.ndarray) else selection


def _limit(events: np.ndarray, name: str, size: Size) -> int:
    """One more than the largest value of a coordinate."""
    match name:
        case "x":
            return size[1]
        case "y":
            return size[0]
        case "p":
            return 2
        case "t":
            return int(events["t"].max(initial=0)) + 1
    raise Problem(f"no coordinate of an event is called {name!r}", "domain", "give letters of x, y, t, p")


# -- random augmentations -----------------------------------------------------------------------


class Transform(Protocol):
    """Stream -> stream."""

    def __call__(self, events: np.ndarray, rng: np.random.Generator | None = None) -> np.ndarray: ...


def _generator(rng: np.random.Generator | None) -> np.random.Generator:
    return np.random.default_rng(np.random.randint(2**32, dtype=np.uint64)) if rng is None else rng  # noqa: NPY002


def _sorted_by_time(events: np.ndarray) -> np.ndarray:
    t = events["t"]
    if not (t[1:] < t[:-1]).any():
        return events
    if t[0] > t[-1]:
        events = events[::-1]  # a fully reversed stream is nearly sorted when read backwards
    return pick(events, np.argsort(events["t"], kind="stable"))


@dataclass(frozen=True)
class _Augmenter:
    """Base of reversal and drift: draws the methods and selects the events."""

    size: Size
    methods: Sequence[str]
    ratio: float = 0.5
    number: int = 1
    probabilities: Sequence[float] | None = None
    uniform: bool = False

    def __post_init__(self) -> None:
        unknown = [name for name in self.methods if name not in METHODS]
        if unknown or not self.methods:
            what = f"no method is called {unknown[0]!r}" if unknown else "no methods"
            raise Problem(what, "methods", f"give some of {', '.join(METHODS)}")
        if not 0 < self.ratio <= 1:
            raise Problem(f"a share of {self.ratio} of the events", "ratio", "give a share above 0, at most 1")
        chances = [1 / len(self.methods)] * len(self.methods) if self.probabilities is None else self.probabilities
        if len(chances) != len(self.methods) or min(chances) < 0 or abs(sum(chances) - 1) > 1e-6:
            what = f"probabilities {list(chances)} for {len(self.methods)} methods"
            raise Problem(what, "probabilities", "give one probability per method, with sum 1")
        drawable = np.count_nonzero(chances)
        if not 1 <= self.number <= drawable:
            raise Problem(f"{self.number} of {drawable} methods", "number", f"give 1 to {drawable}")

    def __call__(self, events: np.ndarray, rng: np.random.Generator | None = None) -> np.ndarray:
        """A changed copy, sorted by t; the input itself if `identical` is drawn or no event would remain."""
        rng = _generator(rng)
        drawn: list[int] = rng.choice(len(self.methods), self.number, replace=False, p=self.probabilities).tolist()
        names = [self.methods[k] for k in drawn]
        if "identical" in names:
            return events
        changed = events
        for name in names:
            domain, kind = METHODS[name]
            if kind == "random":
                domain = "".join("xytp"[k] for k in rng.permutation(4)[: rng.integers(4)])
            changed = self._apply(changed, domain, kind, self._select(len(changed), kind, rng), rng)
            if not len(changed):
                return events
        return _sorted_by_time(changed)

    def _select(self, count: int, kind: str, rng: np.random.Generator) -> Selection:
        if kind == "all":
            return slice(None)
        ratio = RANDOM_RATIO if kind == "random" else self.ratio
        if self.uniform:
            ratio = rng.uniform(0, ratio)
        if kind == "random":
            return rng.choice(count, int(count * ratio), replace=False, shuffle=False)
        start = int(rng.integers(int(count * (1 - ratio)) + 1))
        return slice(start, start + int(count * ratio))

    def _apply(
        self, events: np.ndarray, domain: str, kind: str, selection: Selection, rng: np.random.Generator
    ) -> np.ndarray:
        raise NotImplementedError


@dataclass(frozen=True)
class EventReversal(_Augmenter):
    """Reverse a part of the stream in space, polarity or time.

    A change of brightness inverts the trend of pixels, and thereby the polarities of their events. (EventReverse in
    the authors' code, EventInvert in the paper's second version.)

    Attributes:
        size: (H, W) of the sensor.
        methods: names in `METHODS`. `_range`: a fragment, a block of consecutive events at a random position; `_all`:
            the whole stream; `random`: random events in up to three random domains; `identical`: the stream unchanged.
        ratio: share of the events in a fragment; `random` uses 0.3.
        number: methods drawn per stream, without replacement; if `identical` is drawn, the stream is unchanged.
        probabilities: of the methods; default: uniform.
        uniform: draw the ratio for each stream uniformly from 0 to `ratio`.

    Raises:
        Problem: unknown methods, a ratio not in (0, 1], or probabilities or a number that do not match the methods.

    Example:
        >>> from repertory.data.events import make_events
        >>> stream = make_events([1, 2, 3, 4], 0, [10, 20, 30, 40], 1)
        >>> EventReversal((10, 10), ["p_range"])(stream, np.random.default_rng(0))["p"]
        array([1, 1, 0, 0], dtype=int32)
    """

    methods: Sequence[str] = ("identical", "p_range", "t_range", "x_all")

    def _apply(
        self, events: np.ndarray, domain: str, kind: str, selection: Selection, rng: np.random.Generator
    ) -> np.ndarray:
        return reverse(events, domain, selection, self.size)


@dataclass(frozen=True)
class EventDrift(_Augmenter):
    """Shift a part of the stream in space or time by one random offset.

    A change of brightness advances or delays events, until whole parts of the stream shift or vanish.

    Attributes:
        size, methods, ratio, number, probabilities, uniform: as for `EventReversal`.
        distance: largest offset as a share of W, H, max t + 1, or 2 (for p, where shares below 0.5 have no effect);
            `random` uses 0.2.
        recurrent: wrap events that leave the range around; otherwise delete them.

    Raises:
        Problem: as `EventReversal`; a distance not in (0, 1].

    Example:
        >>> from repertory.data.events import make_events
        >>> stream = make_events([1, 2, 3, 4], 0, [10, 20, 30, 40], 1)
        >>> EventDrift((10, 10), ["x_all"], distance=0.3)(stream, np.random.default_rng(0))["x"]
        array([3, 4, 5, 6], dtype=int32)
    """

    methods: Sequence[str] = ("identical", "xy_range", "t_all", "xy_all")
    distance: float = 0.15
    recurrent: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.distance <= 1:
            raise Problem(f"a distance of {self.distance}", "distance", "give a share above 0, at most 1")

    def _apply(
        self, events: np.ndarray, domain: str, kind: str, selection: Selection, rng: np.random.Generator
    ) -> np.ndarray:
        share = RANDOM_DISTANCE if kind == "random" else self.distance
        largest = [int(share * _limit(events, name, self.size)) for name in domain]
        offsets = [int(rng.integers(-limit, limit + 1)) for limit in largest]
        return drift(events, domain, offsets, selection, self.size, self.recurrent)


@dataclass(frozen=True)
class Compose:
    """Apply transforms in order with one generator. To combine with tonic's transforms, use `tonic.transforms.Compose`.

    Example:
        >>> Compose([EventReversal((34, 34)), EventDrift((34, 34))])(np.zeros(0, [(n, int) for n in "xytp"])).shape
        (0,)
    """

    transforms: Sequence[Transform]

    def __call__(self, events: np.ndarray, rng: np.random.Generator | None = None) -> np.ndarray:
        rng = _generator(rng)
        for transform in self.transforms:
            events = transform(events, rng)
        return events


PRESETS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "objects": (("identical", "p_range", "t_range", "x_all"), ("identical", "xy_range", "t_all", "xy_all")),
    "digits": (("identical", "p_range", "t_range"), ("identical", "xy_range", "t_all", "xy_all")),
    "fragments": (
        ("x_range", "y_range", "xy_range", "p_range", "t_range"),
        ("x_range", "y_range", "xy_range", "t_range"),
    ),
}
"""Methods of reversal and of drift: for objects; for digits, without mirroring; fragments only (ESTF)."""


# -- baselines ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class EventDrop:
    """Delete events by time, by area, at random, or not at all, with equal probability (Gu et al., IJCAI 2021).

    Attributes:
        size: (H, W) of the sensor.
        area: events deleted by area: "cross": those in the rows or the columns of a rectangle, as in the released
            code; "rectangle": those inside the rectangle.

    Example:
        >>> from repertory.data.events import make_events
        >>> stream = make_events(np.arange(10), 5, 10 * np.arange(10), 1)
        >>> len(EventDrop((10, 10))(stream, np.random.default_rng(0)))
        4
    """

    size: Size
    area: Literal["cross", "rectangle"] = "cross"

    def __call__(self, events: np.ndarray, rng: np.random.Generator | None = None) -> np.ndarray:
        """A part of the stream, or the input itself if no event would remain."""
        rng = _generator(rng)
        drops = (None, self._time, self._area, self._random)
        drop = drops[rng.integers(len(drops))]
        if drop is None or not len(events):
            return events
        left = pick(events, ~drop(events, rng))
        return left if len(left) else events

    def _time(self, events: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Mask of an interval of 10 to 90 % of the duration, which may extend beyond the end."""
        start, last = rng.uniform(), int(events["t"].max())
        return (events["t"] >= start * last) & (events["t"] <= (start + rng.integers(1, 10) / 10) * last)

    def _area(self, events: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Mask of 5 to 25 % of width and height, around a random centre."""
        ratio = rng.integers(1, 6) / 20
        bands = []
        for name, side in (("x", self.size[1]), ("y", self.size[0])):
            middle = rng.uniform(0, side)
            bands.append(np.abs(events[name] - middle) <= ratio * side / 2)
        return bands[0] | bands[1] if self.area == "cross" else bands[0] & bands[1]

    def _random(self, events: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Mask of 10 to 90 % of the events."""
        dropped = np.zeros(len(events), bool)
        count = int(len(events) * rng.integers(1, 10) / 10)
        dropped[rng.choice(len(events), count, replace=False, shuffle=False)] = True
        return dropped


@dataclass(frozen=True)
class ShiftFlip:
    """Shift and mirror whole streams, each with probability 1/2: the usual geometric augmentation of events.

    Attributes:
        size: (H, W) of the sensor.
        shift: largest shift along either axis, in pixels; events that leave the sensor are deleted.
        flip: mirror left and right; not for digits.
    """

    size: Size
    shift: int = 20
    flip: bool = True

    def __call__(self, events: np.ndarray, rng: np.random.Generator | None = None) -> np.ndarray:
        """A changed copy, or the input itself if no event would remain."""
        rng = _generator(rng)
        changed = events
        if rng.random() < 0.5:
            changed = drift(events, "xy", rng.integers(-self.shift, self.shift + 1, 2).tolist(), slice(None), self.size)
        if self.flip and rng.random() < 0.5:
            changed = reverse(changed, "x", slice(None), self.size)
        return changed if len(changed) else events
