"""EventReversal and EventDrift: the authors' figures, the operations, chance, representations, the study."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from repertory.core import checkpoint
from repertory.core.problem import Problem
from repertory.core.study import Session
from repertory.data.events import count_frames, event_count, event_frame, make_events, voxel_grid, write_atis
from repertory.papers.event_aug import (
    EST,
    METHODS,
    PRESETS,
    Compose,
    EventClassifier,
    EventDrift,
    EventDrop,
    EventReversal,
    ShiftFlip,
    collate_streams,
    drift,
    represent,
    reverse,
)
from repertory.papers.event_aug.representations import triangle
from repertory.papers.event_aug.study import EventAugConfig, EventAugStudy
from tests.fidelity.cases import assert_agrees, cases
from tests.fidelity.fill import probe

SIZE = (10, 12)


# -- fidelity ---------------------------------------------------------------------------------------


def stream_of(recipe: str) -> tuple[np.ndarray, tuple[int, int]]:
    """The stream that "evs(N, H, W, T)" names, and the size of its sensor."""
    found = re.search(r"evs\((\d+), *(\d+), *(\d+), *(\d+)\)", recipe)
    assert found is not None
    count, height, width, last = map(int, found.groups())
    x, y, t, p = (probe(4, count).double().numpy() + 1) / 2
    x, y = np.minimum(np.floor(x * width), width - 1), np.minimum(np.floor(y * height), height - 1)
    return make_events(x, y, np.sort(np.floor(t * last)), p > 0.5), (height, width)


def table(events: np.ndarray) -> Tensor:
    return torch.from_numpy(np.stack([events[name] for name in "xytp"], axis=1))


def selected(op: str) -> slice:
    """events[a:b] or events[a:b:c]; without one, all."""
    found = re.search(r"\[(\d*):(\d*):?(\d*)\]", op)
    return slice(*(int(part) if part else None for part in found.groups())) if found else slice(None)


def operated(op: str, events: np.ndarray, size: tuple[int, int]) -> Tensor:
    """The outcome of an operation as the reference file words it."""
    command, rows = op.partition(";")[0], selected(op)
    if command.startswith("reverse"):
        domain = "".join(re.findall(r"\b[xytp]+\b", command.partition(" on ")[0]))
        return table(reverse(events, domain, rows, size))
    moves = re.findall(r"\b([xytp]) by ([+-]?\d+)", command)
    domain, offsets = "".join(name for name, _ in moves), [int(step) for _, step in moves]
    recurrent = re.search(r"modul|\bmod\b|wrap|recurrent(?! ?= ?False)", op) is not None
    return table(drift(events, domain, offsets, rows, size, recurrent))


def built(name: str, config: dict[str, Any]) -> Tensor:
    """The output that a case asks for."""
    events, size = stream_of(config["events"])
    op, layout = config.get("op", ""), config.get("layout", "")
    if op.startswith(("reverse", "drift")):
        return operated(op, events, size)
    if op.startswith("bin = floor"):
        bins = config.get("bins") or int(re.search(r"T(\d+)$", name)[1])  # pyright: ignore[reportOptionalSubscript]
        return torch.from_numpy(count_frames(events, size, bins))
    if "polarity axis" in layout:
        return EST(config["bins"], size, "trilinear")(collate_streams([(represent(events, "est", size, 0), 0)])[0])
    if "unsigned counts" in layout:
        return torch.from_numpy(voxel_grid(events, size, config["bins"]))[None]
    if layout.startswith("(1,2,H,W)"):
        return torch.from_numpy(event_count(events, size))[None]
    return torch.from_numpy(event_frame(events, size))[None]


@pytest.mark.parametrize("case", cases("event_aug"))
def test_agrees_with_the_authors_code(case: dict[str, Any]) -> None:
    assert_agrees(built(case["name"], case["config"]), case)


@pytest.mark.parametrize(
    ("op", "expected"),
    [
        ("reverse y on events[1:3], columns x,y,t,p", [(1, 1, 10, 1), (2, 7, 20, 0), (3, 6, 30, 1), (4, 4, 40, 0)]),
        ("reverse x then p on all events", [(10, 1, 10, 0), (9, 2, 20, 1), (8, 3, 30, 0), (7, 4, 40, 1)]),
        ("drift t by -15 on events[0:2], out-of-range removed", [(2, 2, 5, 0), (3, 3, 30, 1), (4, 4, 40, 0)]),
        ("drift x by +10 on all events, recurrent", [(11, 1, 10, 1), (0, 2, 20, 0), (1, 3, 30, 1), (2, 4, 40, 0)]),
        ("drift x by -2 then y by +8 on events[0:1]; note: row 0", [(3, 3, 30, 1), (4, 4, 40, 0)]),
    ],
)
def test_operations_as_the_reference_words_them(op: str, expected: list[tuple[int, ...]]) -> None:
    events = make_events([1, 2, 3, 4], [1, 2, 3, 4], [10, 20, 30, 40], [1, 0, 1, 0])
    assert [tuple(row) for row in operated(op, events, SIZE).tolist()] == expected


# -- the operations ---------------------------------------------------------------------------------


def test_signed_polarities_change_sign() -> None:
    signed = make_events([1, 2, 3], 0, [10, 20, 30], [1, -1, 1])
    assert reverse(signed, "p", slice(0, 2), SIZE)["p"].tolist() == [-1, 1, 1]


def test_an_empty_stream_adds_nothing_to_a_batch() -> None:
    streams = [represent(events, "est", SIZE, 0) for events in (stream(50), stream(0), stream(0))]
    batch, _ = collate_streams([(events, 0) for events in streams])
    tensor = EST(4, SIZE, "triangle")(batch)
    assert tensor.shape == (3, 2, 4, *SIZE)
    assert tensor[0].any()
    assert not tensor[1:].any()
    assert EST(4, SIZE, "triangle")(batch[:0]).shape == (0, 2, 4, *SIZE)


def stream(count: int = 400, seed: int = 0, size: tuple[int, int] = SIZE, last: int = 100_000) -> np.ndarray:
    rng = np.random.default_rng(seed)
    x, y, t, p = (rng.integers(limit, size=count) for limit in (size[1], size[0], last, 2))
    return make_events(x, y, np.sort(t), p)


@pytest.mark.parametrize("domain", ["x", "y", "p", "t", "xy", "xyp"])
def test_reversing_twice_gives_the_stream_again(domain: str) -> None:
    events = stream()
    rows = slice(100, 300)
    once = reverse(events, domain, rows, SIZE)
    assert (once[:100] == events[:100]).all()
    assert (once[300:] == events[300:]).all()
    assert (once != events).any()
    if domain != "t" or once["t"].max() == events["t"].max():
        assert (reverse(once, domain, rows, SIZE) == events).all()


def test_drifting_there_and_back_round_the_edge() -> None:
    events = stream()
    for domain, offset in (("x", 7), ("y", -4), ("xy", (3, 5)), ("p", 1)):
        back = [-step for step in (offset if isinstance(offset, tuple) else (offset,))]
        there = drift(events, domain, offset, slice(10, 200), SIZE, recurrent=True)
        assert (drift(there, domain, back, slice(10, 200), SIZE, recurrent=True) == events).all()


def test_inputs_are_left_alone_and_indices_past_the_end_are_ignored() -> None:
    events = stream()
    before = events.copy()
    rows = np.array([399, 2, 390, 5])
    found = drift(events, "xy", (11, 3), rows, SIZE)
    assert len(found) < len(events)
    reverse(found, "x", rows, SIZE)
    assert (events == before).all()


def test_other_streams_than_ours_are_taken(tmp_path: Path) -> None:
    """Small, unsigned and boolean fields, as tonic's streams have them."""
    small = np.dtype([("x", np.uint8), ("y", np.uint16), ("t", np.int64), ("p", bool)])
    ours = stream()
    theirs = np.empty(len(ours), small)
    for name in "xytp":
        theirs[name] = ours[name]
    for found, expected in (
        (reverse(theirs, "xytp", slice(50, 90), SIZE), reverse(ours, "xytp", slice(50, 90), SIZE)),
        (
            drift(theirs, "xyt", (-5, 4, -999), slice(50, 90), SIZE),
            drift(ours, "xyt", (-5, 4, -999), slice(50, 90), SIZE),
        ),
    ):
        assert found.dtype == small
        assert table(found).tolist() == table(expected).tolist()


def test_an_unknown_coordinate_is_named() -> None:
    with pytest.raises(Problem, match="no coordinate of an event is called 'z'"):
        drift(stream(), "z", 1, slice(None), SIZE)


# -- chance -----------------------------------------------------------------------------------------

ALL = [
    *(EventReversal(SIZE, [name]) for name in METHODS),
    *(EventDrift(SIZE, [name], distance=0.5) for name in METHODS),
    EventReversal(SIZE),
    EventReversal(SIZE, list(METHODS), number=3, uniform=True),
    EventDrift(SIZE, ("x_range", "y_all"), recurrent=True, probabilities=(0.25, 0.75)),
    EventDrop(SIZE),
    EventDrop(SIZE, "rectangle"),
    ShiftFlip(SIZE, 4),
]


@pytest.mark.parametrize("transform", ALL, ids=repr)
def test_every_transform_keeps_streams_sound(transform: Callable[..., np.ndarray]) -> None:
    for seed in range(30):
        events = stream(seed=seed, count=1 + 40 * (seed % 3))
        before = events.copy()
        found = transform(events, np.random.default_rng(seed))
        assert (events == before).all()
        assert found.dtype == events.dtype
        assert 0 < len(found) <= len(events)
        assert (np.diff(found["t"]) >= 0).all()
        for name, limit in (("x", SIZE[1]), ("y", SIZE[0]), ("p", 2)):
            assert found[name].min() >= 0
            assert found[name].max() < limit
        assert (transform(events, np.random.default_rng(seed)) == found).all()
        np.random.seed(seed)  # noqa: NPY002  what a training loop sets
        implicit = transform(events)
        np.random.seed(seed)  # noqa: NPY002
        assert (transform(events) == implicit).all()
    assert len(transform(stream()[:0], np.random.default_rng(0))) == 0


def test_a_fragment_is_half_of_the_stream_wherever() -> None:
    events = make_events(np.arange(100) % 12, 0, np.arange(100), 1)
    transform, starts = EventReversal(SIZE, ["p_range"]), set()
    for seed in range(300):
        rows = np.flatnonzero(transform(events, np.random.default_rng(seed))["p"] == 0)
        assert len(rows) == 50
        assert rows[-1] - rows[0] == 49
        starts.add(int(rows[0]))
    assert min(starts) == 0
    assert max(starts) == 50


def test_random_takes_three_tenths_and_up_to_three_domains() -> None:
    events, rng = stream(1000), np.random.default_rng(0)
    transform = EventReversal(SIZE, ["random"], ratio=0.9)
    counts = set()
    for _ in range(60):
        rows = transform._select(1000, "random", rng)
        assert isinstance(rows, np.ndarray)
        assert len(np.unique(rows)) == len(rows) == 300
        found = transform(events, rng)
        counts.add(sum((np.sort(found[name]) != np.sort(events[name])).any() for name in "xyp"))
    assert counts <= {0, 1, 2, 3}
    assert len(counts) > 2


def test_drawing_the_ratio_does_not_wear_it_out() -> None:
    """In the authors' code the drawn ratio replaces the given one, and shrinks from call to call."""
    transform, rng = EventReversal(SIZE, ["p_range"], uniform=True), np.random.default_rng(0)
    events = make_events(0, 0, np.arange(1000), 1)
    turned = [int((transform(events, rng)["p"] == 0).sum()) for _ in range(200)]
    assert np.mean(turned[:100]) == pytest.approx(250, rel=0.2)
    assert np.mean(turned[100:]) == pytest.approx(250, rel=0.2)


def test_offsets_stay_within_the_distance() -> None:
    events, transform = (
        make_events(np.full(50, 6), 5, np.arange(50) * 100, 1),
        EventDrift(SIZE, ["x_all"], distance=0.3),
    )
    moves = {int(transform(events, np.random.default_rng(seed))["x"][0]) - 6 for seed in range(100)}
    assert moves == set(range(-3, 4))
    still = EventDrift(SIZE, ["p_all"])
    assert (still(events, np.random.default_rng(0)) == events).all(), "a share of 0.15 moves no polarity"


def test_a_stream_that_would_vanish_stays() -> None:
    edge = make_events([11, 11], 0, [0, 5], 1)
    transform = EventDrift(SIZE, ["x_all"])
    assert all(len(transform(edge, np.random.default_rng(seed))) == 2 for seed in range(20))


def test_probabilities_choose_the_method() -> None:
    events = stream()
    transform = EventReversal(SIZE, ("identical", "p_all"), probabilities=(0.25, 0.75))
    kept = [transform(events, np.random.default_rng(seed)) is events for seed in range(400)]
    assert np.mean(kept) == pytest.approx(0.25, abs=0.06)


def test_event_drop_by_area_deletes_a_cross_as_released() -> None:
    y, x = np.mgrid[:100, :200].reshape(2, -1)
    events = make_events(x, y, np.arange(len(x)), 1)
    for area, covers in (("cross", lambda r: 2 * r - r * r), ("rectangle", lambda r: r * r)):
        drop = EventDrop((100, 200), area)  # pyright: ignore[reportArgumentType]
        shares = [drop._area(events, np.random.default_rng(seed)).mean() for seed in range(40)]
        assert max(shares) <= covers(0.27)
        assert max(shares) > covers(0.15)
        gone = drop._area(events, np.random.default_rng(1)).reshape(100, 200)
        assert gone.all(1).any() == (area == "cross")


def test_compositions_draw_from_one_source_and_sort_between_steps() -> None:
    events = stream(1000)
    both = Compose([EventReversal(SIZE, ["t_all"]), EventDrift(SIZE, ["xy_range"])])
    rng = np.random.default_rng(5)
    expected = both.transforms[1](both.transforms[0](events, rng), rng)
    assert (both(events, np.random.default_rng(5)) == expected).all()
    for reversals, drifts in PRESETS.values():
        Compose([EventReversal(SIZE, reversals), EventDrift(SIZE, drifts)])(events)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"methods": ["x_some"]}, "no method is called 'x_some'"),
        ({"methods": []}, "no methods"),
        ({"ratio": 0}, "a share of 0 of the events"),
        ({"number": 5}, "5 of 4 methods"),
        ({"probabilities": [1.0]}, r"probabilities \[1.0\] for 4 methods"),
        ({"probabilities": [0.5, 0.5, 0.5, -0.5]}, "for 4 methods"),
        ({"probabilities": [1, 0, 0, 0], "number": 2}, "2 of 1 methods"),
        ({"distance": 1.5}, "a distance of 1.5"),
    ],
)
def test_augmenters_that_make_no_sense(options: dict[str, Any], complaint: str) -> None:
    with pytest.raises(Problem, match=complaint):
        EventDrift(SIZE, **options)


# -- representations and networks -------------------------------------------------------------------


def test_event_spike_tensors_share_events_between_bins() -> None:
    events = stream(300)
    x, _ = collate_streams([(represent(events, "est", SIZE, 5), 0), (represent(events[:200], "est", SIZE, 5), 1)])
    assert x.shape == (500, 5)
    tensor = EST(5, SIZE, "triangle")(x)
    assert tensor.shape == (2, 2, 5, *SIZE)
    torch.testing.assert_close(tensor.sum(), x[:, 2].sum())
    alone = EST(5, SIZE, "triangle")(collate_streams([(represent(events[:200], "est", SIZE, 5), 0)])[0])
    torch.testing.assert_close(tensor[1:], alone)
    lost = tensor[0].sum() - EST(5, SIZE, "trilinear")(x)[0].sum()
    assert lost >= 1, "the last event"


def test_the_learned_kernel_starts_as_the_triangle_and_learns() -> None:
    est = EST(5, SIZE)
    dt = torch.linspace(-1, 1, 301)
    assert (est.weight(dt) - triangle(dt, 5)).abs().max() < 0.1
    assert {name for name, _ in est.named_parameters()} == {
        f"mlp.{k}.{w}" for k in range(3) for w in ("weight", "bias")
    }
    x, _ = collate_streams([(represent(stream(), "est", SIZE, 5), 0)])
    est(x).pow(2).sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in est.parameters())
    with pytest.raises(Problem, match="an event spike tensor with 1 bin"):
        EST(1, SIZE)


@pytest.mark.parametrize(
    ("representation", "network", "channels"),
    [
        ("count_frames", "cnn", 6),
        ("count", "cnn", 2),
        ("frame", "resnet34", 1),
        ("voxel", "mobilenetv2_100", 3),
        ("est", "resnet34", 6),
        ("count_frames", "snn", 2),
    ],
)
def test_networks_take_every_representation(tmp_path: Path, representation: Any, network: str, channels: int) -> None:
    model = EventClassifier(["a", "b", "c"], [10, 12], representation, 3, network, 32, "4C3-AP2-8C3-AP2").eval()
    collated = collate_streams if representation == "est" else torch.utils.data.default_collate
    x, _ = collated([(represent(stream(seed=k), representation, SIZE, 3), k) for k in range(2)])
    assert next(model.network.parameters()).shape[1] == channels
    scores = model.scores(x)
    assert scores.shape == (2, 3)
    if network != "resnet34":
        checkpoint.save(model, tmp_path / "model")
        assert torch.equal(checkpoint.load(tmp_path / "model").scores(x), scores)  # pyright: ignore[reportCallIssue]


def test_the_middle_square_is_seen() -> None:
    model = EventClassifier(["a", "b"], [4, 8], "frame", side=8)
    x = torch.arange(32.0).view(1, 1, 4, 8)
    expected = x[..., 2:6].repeat_interleave(2, 2).repeat_interleave(2, 3)
    assert torch.equal(model.crop_and_resize(x), expected)
    spiking = EventClassifier(["a", "b"], [4, 8], network="snn", side=2, plan="4C3")
    assert spiking.crop_and_resize(x).flatten().tolist() == [7.5 - 1, 7.5 + 1, 23.5 - 1, 23.5 + 1], (
        "means, nothing is lost"
    )


def test_networks_that_make_no_sense() -> None:
    with pytest.raises(Problem, match="a spiking network on voxel"):
        EventClassifier(["a"], [4, 4], "voxel", network="snn")
    with pytest.raises(Problem, match="no network is called 'resnet'"):
        EventClassifier(["a"], [4, 4], network="resnet")
    with pytest.raises(ValueError, match="neither cnn, snn nor a model name"):
        EventAugConfig(network="resnet")
    with pytest.raises(ValueError, match="not the size of a sensor: 'big'; give WIDTHxHEIGHT"):
        EventAugConfig(sensor="big")
    with pytest.raises(ValueError, match="optimizer"):
        EventAugConfig(optimizer="adamant")


# -- the study --------------------------------------------------------------------------------------


def study_in(folder: Path, **settings: Any) -> EventAugStudy:
    smoke = EventAugStudy.scales["smoke"]
    return EventAugStudy(EventAugConfig.model_validate({**smoke.model_dump(), **settings}), Session(0, folder))


@pytest.mark.parametrize(
    "settings",
    [
        {"representation": "est", "bins": 3},
        {"representation": "voxel"},
        {"network": "snn", "plan": "4C3-AP2-8C3-AP2"},
    ],
    ids=lambda settings: "-".join(map(str, settings.values())),
)
def test_other_representations_and_networks_train(tmp_path: Path, settings: dict[str, Any]) -> None:
    study = study_in(tmp_path, **settings)
    data = study.data()
    metrics = study.evaluate(study.train("reversal+drift", data), data)
    kinds = {"accuracy_dim", "accuracy_flicker", "accuracy_ramp"}
    assert set(metrics) == {"accuracy", "changed", "drop"} | kinds
    assert metrics["changed"] == pytest.approx(np.mean([metrics[kind] for kind in kinds]))
    assert {path.stem for path in (tmp_path / "figures").iterdir()} == {"accuracy-by-brightness", "augmentation"}


def test_every_arm_has_its_augmentation(tmp_path: Path) -> None:
    study = study_in(tmp_path)
    kinds = {arm: type(study.augmentation(arm, SIZE)).__name__ for arm in study.arms}
    assert kinds == {
        "none": "NoneType",
        "geometric": "ShiftFlip",
        "eventdrop": "EventDrop",
        "reversal": "EventReversal",
        "drift": "EventDrift",
        "reversal+drift": "Compose",
        "fragments": "Compose",
    }
    digits, objects = (study_in(tmp_path, mirror=mirror).augmentation("reversal", SIZE) for mirror in (False, True))
    assert isinstance(digits, EventReversal)
    assert isinstance(objects, EventReversal)
    assert set(objects.methods) - set(digits.methods) == {"x_all"}


def test_own_streams_train_and_predict(tmp_path: Path) -> None:
    for name in ("fast", "slow"):
        (tmp_path / "mine" / name).mkdir(parents=True)
        for number in range(6):
            last = 80_000 if name == "fast" else 900_000
            events = stream(100, seed=number, size=(20, 30), last=last)
            np.save(tmp_path / "mine" / name / f"{number}.npy", table(events).numpy())
    study = study_in(tmp_path / "out", sensor="30x20")
    data = study.read(tmp_path / "mine")
    assert (len(data.train), len(data.test), data.changed) == (10, 2, {})
    model = study.train("reversal", data)
    assert set(study.evaluate(model, data)) == {"accuracy"}
    prediction = study.predict(model, tmp_path / "mine" / "fast" / "0.npy")
    assert prediction.table[0]["class"] in ("fast", "slow")
    assert set(prediction.figures) == {"augmentation", "counts"}
    write_atis(tmp_path / "wide.bin", make_events([40], [3], [20_000], [1]))
    with pytest.raises(Problem, match="outside a sensor 30 wide"):
        study.predict(model, tmp_path / "wide.bin")
    (tmp_path / "nothing").mkdir()
    with pytest.raises(Problem, match="no streams here"):
        study.predict(model, tmp_path / "nothing")


def test_doubtful_folders_are_said(tmp_path: Path) -> None:
    study = study_in(tmp_path / "out")
    (tmp_path / "none").mkdir()
    with pytest.raises(Problem, match="no data for event_aug here"):
        study.read(tmp_path / "none")
    for part in ("Train", "Test"):
        for digit in "01":
            (tmp_path / "twice" / part / digit).mkdir(parents=True)
            write_atis(tmp_path / "twice" / part / digit / "0.bin", stream(seed=int(digit)))
    with pytest.warns(UserWarning, match="2 test streams are training streams too"):
        study.read(tmp_path / "twice")
    (tmp_path / "one" / "a").mkdir(parents=True)
    for number in range(3):
        write_atis(tmp_path / "one" / "a" / f"{number}.bin", stream(seed=number))
    with pytest.raises(Problem, match="one class only: a"):
        study_in(tmp_path / "out", sensor="12x10").read(tmp_path / "one")


def test_pretrained_weights_but_for_the_first_layer_and_the_last(tmp_path: Path) -> None:
    source = EventClassifier(["a"] * 5, [34, 34], "frame", network="resnet18")
    torch.save(source.network.state_dict(), tmp_path / "net.pth")
    study = study_in(tmp_path / "out", network="resnet18", pretrained=str(tmp_path / "net.pth"), lr=1e-9)
    model = study.train("none", study.data())
    ours, theirs = model.network.state_dict(), source.network.state_dict()
    torch.testing.assert_close(ours["layer3.0.conv1.weight"], theirs["layer3.0.conv1.weight"], atol=1e-6, rtol=0)
    assert ours["conv1.weight"].shape[1] == 8
    with pytest.raises(Problem, match="pretrained weights need a network of timm"):
        study_in(tmp_path / "b", pretrained=str(tmp_path / "net.pth")).train("none", study.data())
