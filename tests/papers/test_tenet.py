"""TENET: fidelity of the metrics, properties of network, header and ensemble, losses, the study, use, bad input."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.cluster import KMeans
from torch import Tensor

from repertory.core import checkpoint
from repertory.core.problem import Problem
from repertory.core.settings import changed
from repertory.core.study import Session
from repertory.data.argoverse import (
    Crossing,
    Scenario,
    StreetMap,
    find_scenarios,
    map_of,
    read_map_of,
    read_scenario,
    read_submission,
)
from repertory.execution import models
from repertory.execution.experiment import Experiment
from repertory.papers.tenet.baselines import Velocities, usual_velocities
from repertory.papers.tenet.ensemble import Ensemble, kmeans_fuse, top_fuse
from repertory.papers.tenet.metrics import scores
from repertory.papers.tenet.model import TENET, Attention, TemporalFlowHeader
from repertory.papers.tenet.sample import write_sample
from repertory.papers.tenet.scenes import (
    AGENT_VALID,
    Cropped,
    SceneSet,
    Sizes,
    agent_features,
    collate,
    cropped,
    lane_features,
    make_scene,
    mirrored,
    read_scene,
    shortened,
)
from repertory.papers.tenet.settings import TenetConfig
from repertory.papers.tenet.study import TenetStudy
from repertory.papers.tenet.training import Learner, masked_smooth_l1, winners
from tests.fidelity.cases import cases
from tests.fidelity.fill import fill_, probe

pytest.importorskip("pyarrow", reason="pip install 'repertory[driving]'")

SMALL: dict[str, Any] = {"dim": 16, "heads": 2, "encoder_layers": 2, "decoder_layers": 1, "dropout": 0.0}


def network(**changes: Any) -> TENET:
    torch.manual_seed(0)
    return TENET(**{**SMALL, **changes}).eval()


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("town")
    write_sample(folder, {"train": 6, "val": 2, "test": 1}, seed=1)
    return folder


@pytest.fixture(params=["sample", pytest.param("real", marks=pytest.mark.realdata)])
def scenario_file(request: pytest.FixtureRequest, town: Path) -> Path:
    """A generated scenario, and the real one."""
    if request.param == "sample":
        return find_scenarios(town / "train")[0]
    return find_scenarios(request.getfixturevalue("real_data")("av2_motion_sample"))[0]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model directory of the smoke scale."""
    out = tmp_path_factory.mktemp("trained")
    return Experiment("tenet", "smoke", out=out / "model").train()[0]


def outputs(net: TENET, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        return net.forecast(batch)


# -- metrics ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", cases("tenet"))
def test_metrics_agree_with_the_api(case: dict[str, Any]) -> None:
    count, modes, steps = (case["config"][key] for key in ("scenarios", "modes", "steps"))
    forecast = (10 * probe(count, modes, steps, 2).double()).cumsum(2) / 5
    truth = (10 * probe(count, 1, steps, 2).double()).cumsum(2)[:, 0] / 5 + 0.3
    p = (2 * probe(count, modes)).softmax(1)
    found = scores(forecast, p, truth)
    expected = case["metrics"]
    names = {
        "minADE": "min_ade", "minFDE": "min_fde", "MR": "miss", "brier_minFDE": "brier_min_fde",
        "minADE1": "min_ade_1", "minFDE1": "min_fde_1", "MR1": "miss_1",
    }  # fmt: skip
    for theirs, ours in names.items():
        assert found[ours].mean() == pytest.approx(expected[theirs], rel=1e-6)
    listed = case["per_scenario_minFDE"]
    assert found["min_fde"][: len(listed)] == pytest.approx(listed, rel=1e-6)


def test_the_mode_with_the_least_final_error_counts() -> None:
    truth = np.zeros((1, 2, 2))
    forecast = np.array([[[[9.0, 0], [1, 0]], [[0, 0], [3, 0]]]])  # best at the end; best on average
    found = scores(forecast, [[1.0, 3.0]], truth)
    assert found["min_fde"] == 1
    assert found["min_ade"] == 5
    assert found["brier_min_fde"] == 1 + 0.75**2
    assert (found["min_fde_1"], found["min_ade_1"], found["miss_1"], found["miss"]) == (3, 1.5, 1, 0)
    with pytest.raises(Problem, match="truth"):
        scores(forecast, [[1.0, 3.0]], truth[:, :1])


# -- scenes --------------------------------------------------------------------------------------------


def test_frame_of_the_focal_agent(scenario_file: Path) -> None:
    scenario, streets = read_scenario(scenario_file), read_map_of(scenario_file)
    scene = make_scene(scenario, streets, 64, 192)
    assert np.allclose(scene.history[0, -1, :3], 0, atol=1e-6)
    states = scenario.states[scenario.focal]
    assert np.allclose(scene.to_city(scene.future), states[50:, :2], atol=1e-4)
    assert np.allclose(scene.to_city(scene.history[0, :, :2])[scene.seen[0]], states[:50, :2][scene.seen[0]], atol=1e-4)
    speed = np.hypot(*states[49, 3:])
    assert np.hypot(*scene.history[0, -1, 3:]) == pytest.approx(speed, rel=1e-5)
    turn = np.arctan2(states[49, 4], states[49, 3]) - states[49, 2]
    assert np.arctan2(scene.history[0, -1, 4], scene.history[0, -1, 3]) == pytest.approx(turn, abs=1e-4)
    last = 49 - scene.seen[:, ::-1].argmax(1)
    distance = np.hypot(*scene.history[np.arange(len(last)), last, :2].T)
    assert (np.diff(distance) >= -1e-5).all()
    assert (scene.seen[:, -1] | (scene.seen.sum(1) >= 10)).all()
    absent = ~scenario.valid[:, 49]
    kept = (scenario.valid[:, 49] | (scenario.valid[:, :50].sum(1) >= 10)).sum()
    assert len(scene.history) == min(64, kept)
    assert absent.any() or scenario_file.parent.parent.name == "train"
    nearest = np.linalg.norm(scene.lanes, axis=-1).min(1)
    assert (np.diff(nearest) >= -1e-5).all()
    assert len(scene.lanes) == min(192, len(streets.lanes) + len(streets.crossings))
    assert scene.kinds[:, 4].sum() == len(streets.crossings)


def test_reduced_input_is_the_nearest_part_of_the_enlarged_one(scenario_file: Path) -> None:
    scenario, streets = read_scenario(scenario_file), read_map_of(scenario_file)
    large, small = make_scene(scenario, streets, 64, 192), make_scene(scenario, streets, 5, 9)
    for name, array in vars(cropped(large, 5, 9)).items():
        assert np.array_equal(array, getattr(small, name))


def test_features_by_hand() -> None:
    history = torch.zeros(1, 1, 3, 5)
    history[0, 0] = torch.tensor([[1.0, 2, 0, 3, 4], [0, 0, 0, 0, 0], [2, 2, torch.pi / 2, 5, 6]])
    seen = torch.tensor([[[True, False, True]]])
    found = agent_features({"history": history, "seen": seen, "types": torch.tensor([[3]])})
    kind = [0.0, 0, 0, 1, 0, 0, 0, 0, 0, 0]
    expected = [[1.0, 2, 1, 0, 3, 4, 0, 0, 1, *kind], [0.0] * 19, [2.0, 2, 0, 1, 5, 6, 0, 0, 1, *kind]]
    assert torch.allclose(found[0, 0], torch.tensor(expected), atol=1e-6)
    seen[:] = True
    again = agent_features({"history": history, "seen": seen, "types": torch.tensor([[3]])})
    assert again[0, 0, :, 6:8].tolist() == [[0, 0], [-1, -2], [2, 2]]

    lanes = {
        "lanes": torch.tensor([[[[1.0, 1], [3, 0]]]]),
        "kinds": torch.tensor([[[1.0, 0, 1, 0, 0]]]),
        "mapped": torch.tensor([[True]]),
    }
    assert lane_features(lanes)[0, 0].tolist() == [[1, 1, 0, 0, 1, 1, 0, 1, 0, 0], [3, 0, 2, -1, 1, 1, 0, 1, 0, 0]]


def test_augmentation(town: Path) -> None:
    scene = read_scene(find_scenarios(town / "train")[0], Sizes(8, 16, 20, 50, 60))
    twice = mirrored(mirrored(scene))
    assert all(np.array_equal(value, getattr(scene, name)) for name, value in vars(twice).items())
    f, g = (agent_features(collate([s])) for s in (scene, mirrored(scene)))
    signs = torch.ones(19)
    signs[[1, 3, 5, 7]] = -1
    assert torch.allclose(f * signs, g, atol=1e-5)
    short = shortened(scene, 30)
    assert not short.history[:, :30].any()
    assert not agent_features(collate([short]))[..., 30, 6:8].any()  # no step before it
    assert np.array_equal(short.history[:, 30:], scene.history[:, 30:])
    items = SceneSet([(find_scenarios(town / "train")[0], None)], Sizes(8, 16, 20, 50, 60))
    torch.manual_seed(0)
    drawn = [Cropped(items, 4, 6, mirror=0.5, history_dropout=0.5)[0] for _ in range(40)]
    flips = sum(not np.allclose(s.future, scene.future) for s in drawn)
    assert 10 < flips < 30
    dropped = [int((~s.seen[0]).sum()) for s in drawn]
    assert 10 < sum(d > 0 for d in dropped) < 30
    assert max(dropped) <= 48


def test_cache(town: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REPERTORY_CACHE", str(tmp_path))
    path, sizes = find_scenarios(town / "train")[0], Sizes(8, 16, 20, 50, 60)
    first = read_scene(path, sizes, cached=True)
    (kept,) = tmp_path.rglob("*.npz")
    again = read_scene(path, sizes, cached=True)
    assert all(np.array_equal(value, getattr(first, name)) for name, value in vars(again).items())
    kept.write_bytes(kept.read_bytes()[:100])
    assert np.array_equal(read_scene(path, sizes, cached=True).future, first.future)
    read_scene(path, replace(sizes, agents=4), cached=True)
    assert len(list(tmp_path.rglob("*.npz"))) == 2


# -- the network -----------------------------------------------------------------------------------------


def test_shapes_and_modes(scenario_file: Path) -> None:
    scene = make_scene(read_scenario(scenario_file), read_map_of(scenario_file), 12, 24)
    trajectories, p = outputs(network(), collate([scene, cropped(scene, 1, 0)]))
    assert trajectories.shape == (2, 6, 60, 2)
    assert torch.allclose(p.sum(1), torch.ones(2))
    assert (trajectories[:, 1:] - trajectories[:, :1]).abs().amax((2, 3)).min() > 1e-3


def turned(
    scenario: Scenario, streets: StreetMap, angle: float, shift: tuple[float, float]
) -> tuple[Scenario, StreetMap]:
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])

    def line(points: np.ndarray) -> np.ndarray:
        return np.column_stack([points[:, :2] @ turn + shift, points[:, 2]])

    states = scenario.states.copy()
    states[..., :2] = states[..., :2] @ turn + shift
    states[..., 2] += angle
    states[..., 3:] = states[..., 3:] @ turn
    lanes = tuple(
        replace(lane, centerline=line(lane.centerline), left=line(lane.left), right=line(lane.right))
        for lane in streets.lanes
    )
    crossings = tuple(Crossing(c.id, line(c.edge1), line(c.edge2)) for c in streets.crossings)
    return replace(scenario, states=states * scenario.valid[..., None]), StreetMap(lanes, crossings)


def test_equivariance(scenario_file: Path) -> None:
    scenario, streets = read_scenario(scenario_file), read_map_of(scenario_file)
    angle, shift = 2.2, (5432.1, -2345.6)
    one = make_scene(scenario, streets, 24, 48)
    other = make_scene(*turned(scenario, streets, angle, shift), 24, 48)
    net = network()
    here, there = (scene.to_city(outputs(net, collate([scene]))[0][0].numpy()) for scene in (one, other))
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    assert np.abs(here @ turn + shift - there).max() < 1e-3


def test_padding_changes_nothing(scenario_file: Path) -> None:
    scene = make_scene(read_scenario(scenario_file), read_map_of(scenario_file), 12, 24)
    alone = outputs(network(), collate([scene]))
    batch = collate([scene])
    wide = {name: F.pad(batch[name].float(), [0, 0] * (batch[name].ndim - 2) + [0, 5]).to(batch[name].dtype)
            for name in ("history", "seen", "types", "lanes", "kinds", "mapped")}  # fmt: skip
    assert torch.allclose(outputs(network(), {**batch, **wide})[0], alone[0], atol=1e-5)
    features = agent_features({**batch, **wide})
    features[:, 12:] += 1000 * (1 - features[:, 12:, :, AGENT_VALID, None])  # whatever stands there
    features[:, 12:, :, AGENT_VALID] = 0
    with torch.no_grad():
        noisy = network()(features, lane_features(batch)).trajectories
    assert torch.allclose(noisy, alone[0], atol=1e-4)


def test_no_map_and_no_neighbours(town: Path) -> None:
    scene = read_scene(find_scenarios(town / "val")[0], Sizes(8, 0, 20, 50, 60))
    batch = collate([cropped(scene, 1, 0)])
    assert batch["lanes"].shape[1] == 0
    trajectories, p = outputs(network(), batch)
    assert trajectories.isfinite().all()
    assert p.isfinite().all()


def test_attention_by_hand() -> None:
    attention = cast(Attention, fill_(Attention(4, 2)).double())
    x, keys = probe(1, 2, 4).double(), probe(1, 3, 4).double()
    valid = torch.tensor([[True, False, True]])
    q = attention.query(x)[0].view(2, 2, 2)
    k, v = attention.key_value(keys)[0].view(3, 2, 2, 2).unbind(1)
    rows = []
    for head in range(2):
        weight = (q[:, head] @ k[:, head].T / 2**0.5)[:, [0, 2]].softmax(1)
        rows.append(weight @ v[[0, 2], head])
    assert torch.allclose(attention(x, keys, valid)[0], attention.out(torch.cat(rows, 1)))
    nothing = attention(x, keys, torch.zeros(1, 3, dtype=torch.bool))
    assert not nothing.any()


def test_patches_are_tokens_of_several_steps(town: Path) -> None:
    batch = collate([read_scene(find_scenarios(town / "val")[0], Sizes(8, 16, 20, 50, 60))])
    net = network(patch=5)
    assert net.time_embedding.shape == (10, 16)
    assert net.masks(agent_features(batch), lane_features(batch))[0].shape[2] == 10
    assert outputs(net, batch)[0].shape == (1, 6, 60, 2)


def test_empty_batch() -> None:
    out = network()(torch.zeros(0, 3, 50, 19), torch.zeros(0, 4, 20, 10))
    assert out.trajectories.shape == (0, 6, 60, 2)


def test_it_compiles_and_exports() -> None:
    net = network(encoder_layers=1, patch=10)
    inputs, other = ((probe(n, 4, 50, 19), probe(n, 5, 6, 10)) for n in (3, 2))
    with torch.no_grad():
        wanted, expected = net(*inputs).trajectories, net(*other).trajectories
        found = torch.compile(net, backend="eager", fullgraph=True)(*inputs).trajectories
    assert torch.allclose(found, wanted, atol=1e-5)
    assert torch.allclose(exported(net, inputs).module()(*other).trajectories, expected, atol=1e-5)


@pytest.mark.slow
def test_onnx(tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    net = network(encoder_layers=1, patch=10)
    inputs, other = ((probe(n, 4, 50, 19), probe(n, 5, 6, 10)) for n in (3, 2))
    program = torch.onnx.export(exported(net, inputs), verbose=False)
    assert program is not None
    program.save(tmp_path / "net.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "net.onnx")
    names = [entry.name for entry in session.get_inputs()]
    result = session.run(None, dict(zip(names, (x.numpy() for x in other), strict=True)))[0]
    assert np.abs(result - net(*other).trajectories.detach().numpy()).max() < 1e-3


def exported(net: TENET, inputs: tuple[Tensor, ...]) -> torch.export.ExportedProgram:
    batch = torch.export.Dim("batch", min=2)
    return torch.export.export(net, inputs, dynamic_shapes=({0: batch}, {0: batch}))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"dim": 12, "heads": 4}, "multiple of groups of the pyramid's norms, 8"),
        ({"dim": 16, "heads": 3}, "multiple of heads, 3"),
        ({"future": 61}, "multiple of step_points, 5"),
        ({"patch": 7}, "multiple of patch, 7"),
        ({"modes": 0}, "at least 1"),
        ({"history": 1}, "at least 2"),
        ({"dropout": 1.0}, "below 1"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(Problem, match=words):
        TENET(**arguments)


# -- losses and the Temporal Flow Header ---------------------------------------------------------------------


def test_the_header_reads_a_pyramid_of_future_features() -> None:
    header = TemporalFlowHeader(16, 50)
    assert [down(torch.zeros(1, 16, 12)).shape[-1] for down in header.down] == [6, 6]
    features = torch.randn(2, 12, 16, requires_grad=True)
    out = header(features)
    assert out.shape == (2, 50, 2)
    out[0, 10].sum().backward()
    assert features.grad is not None
    assert features.grad[0].abs().sum(1).gt(0).all()  # through the coarse levels every step of the future counts
    assert not features.grad[1].any()


def test_winners() -> None:
    truth = torch.zeros(2, 3, 2)
    known = torch.tensor([[True, True, True], [True, True, False]])
    x = torch.zeros(2, 3, 3, 2)
    x[0, :, :, 0] = torch.tensor([[0.0, 0, 2], [5, 5, 1], [4, 4, 1]])  # the last two tie at the end
    x[1, :, :, 0] = torch.tensor([[0.0, 3, 0], [9, 2, 9], [0, 4, 0]])  # the last known step is the second
    best, fde = winners(x, truth, known)
    assert best.tolist() == [2, 1]
    assert fde.tolist() == [[2, 1, 1], [3, 2, 4]]


def test_masked_smooth_l1() -> None:
    found, truth = torch.tensor([[[3.0, 0.5], [9, 9]]]), torch.zeros(1, 2, 2)
    valid = torch.tensor([[True, False]])
    assert float(masked_smooth_l1(found, truth, valid)) == pytest.approx((2.5 + 0.125) / 2)
    assert float(masked_smooth_l1(found, truth, ~valid & valid)) == 0


@pytest.mark.parametrize("options", [{}, {"soft": True}, {"all_modes": True}])
def test_losses_by_hand(town: Path, options: dict[str, bool]) -> None:
    batch = collate([read_scene(path, Sizes(6, 12, 20, 50, 60)) for path in find_scenarios(town / "train")[:3]])
    net, header = network(), TemporalFlowHeader(16)
    losses = Learner(net, header, 2.0, 0.5, **options)(batch)
    out = net(agent_features(batch), lane_features(batch))
    error = (out.trajectories - batch["future"][:, None]).norm(dim=-1)
    best = error[..., -1].argmin(1)
    rows = torch.arange(3)
    regression = F.smooth_l1_loss(out.trajectories[rows, best], batch["future"])
    target = (-error[..., -1]).softmax(1) if options.get("soft") else F.one_hot(best, 6).float()
    score = -(target * out.logits.log_softmax(1)).sum(1).mean()
    modes = range(6) if options.get("all_modes") else [best]
    flows = [masked_smooth_l1(header(out.features[rows, k]), batch["history"][:, 0, :, :2], batch["seen"][:, 0])
             for k in modes]  # fmt: skip
    flow = torch.stack(flows).mean()
    for name, value in {"regression": regression, "score": score, "flow": flow}.items():
        assert torch.allclose(losses[name], value, rtol=1e-4), name
    assert torch.allclose(losses["loss"], regression + 2 * score + 0.5 * flow, rtol=1e-4)
    assert "flow" not in Learner(net)(batch)


def test_training_learns(town: Path) -> None:
    batch = collate([read_scene(path, Sizes(4, 8, 20, 50, 60)) for path in find_scenarios(town / "train")[:4]])
    torch.manual_seed(0)
    learner = Learner(TENET(**{**SMALL, "encoder_layers": 1, "patch": 10}), TemporalFlowHeader(16))
    optimizer = torch.optim.Adam(learner.parameters(), 3e-3)
    first = losses = learner(batch)
    for _ in range(60):
        losses["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()
        losses = learner(batch)
    for name in ("regression", "flow"):
        assert losses[name] < 0.5 * first[name], name


# -- the ensemble ---------------------------------------------------------------------------------------------


@pytest.fixture
def pooled() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    x = np.cumsum(rng.normal(size=(20, 18, 60, 2)), axis=2)
    p = np.concatenate([rng.dirichlet(np.ones(6), 20) for _ in range(3)], 1)
    return x, p


@pytest.mark.parametrize("features", ["endpoint", "trajectory"])
def test_identical_models_give_the_same_six(pooled: tuple[np.ndarray, np.ndarray], features: Any) -> None:
    x, p = pooled[0][:, :6], pooled[1][:, :6]
    order = (-p).argsort(1)
    fused = kmeans_fuse(np.concatenate([x] * 3, 1), np.concatenate([p] * 3, 1), 6, features)
    assert np.allclose(fused.trajectories, np.take_along_axis(x, order[..., None, None], 1))
    assert np.allclose(fused.probabilities, np.take_along_axis(p, order, 1))


def test_kmeans_by_another_library(pooled: tuple[np.ndarray, np.ndarray]) -> None:
    x, p = pooled
    fused = kmeans_fuse(x, p)
    for s in range(len(x)):
        ends = x[s, :, -1]
        centres = [ends[p[s].argmax()]]
        while len(centres) < 6:
            nearest = np.min([((ends - c) ** 2).sum(1) for c in centres], axis=0)
            centres.append(ends[(p[s] * nearest).argmax()])
        start: dict[str, Any] = {"init": np.array(centres), "n_init": 1}  # the stubs know words alone
        found = KMeans(6, **start, max_iter=50, tol=0).fit(ends, sample_weight=p[s])
        labels = found.predict(ends)
        mass = np.array([p[s][labels == k].sum() for k in range(6)])
        order = (-mass).argsort()
        assert np.allclose(fused.probabilities[s], mass[order] / 3)
        for rank, k in enumerate(order):
            mean = np.average(x[s][labels == k], axis=0, weights=p[s][labels == k])
            assert np.allclose(fused.trajectories[s, rank], mean)


def test_junk_modes_weigh_little() -> None:
    x = np.zeros((1, 3, 1, 2))
    x[0, :, 0, 0] = [0.0, 1.0, 100.0]
    fused = kmeans_fuse(x, np.array([[0.6, 0.399, 0.001]]), 2)
    assert fused.trajectories[0, :, 0, 0] == pytest.approx([0.399 / 0.999, 100])
    assert fused.probabilities[0] == pytest.approx([0.999, 0.001])


def test_fewer_distinct_futures_than_modes() -> None:
    x = np.zeros((1, 6, 5, 2))
    x[0, 3:] = 1
    fused = kmeans_fuse(x, np.full((1, 6), 1 / 6), 4)
    assert fused.probabilities[0].tolist() == [0.5, 0.5, 0, 0]
    assert np.isfinite(fused.trajectories).all()


def test_top_by_loops(pooled: tuple[np.ndarray, np.ndarray]) -> None:
    x, p = pooled
    radius = 6.0
    fused = top_fuse(x, p, 6, radius)
    for s in range(len(x)):
        kept: list[int] = []
        dropped: list[int] = []
        for n in (-p[s]).argsort(kind="stable"):
            near = any(np.linalg.norm(x[s, n, -1] - x[s, m, -1]) <= radius for m in kept)
            (dropped if near else kept).append(n)
        chosen = [*kept, *dropped][:6]
        assert np.array_equal(fused.trajectories[s], x[s, chosen])
        assert np.allclose(fused.probabilities[s], p[s, chosen] / p[s, chosen].sum())


def test_bad_candidates(pooled: tuple[np.ndarray, np.ndarray]) -> None:
    x, p = pooled
    with pytest.raises(Problem, match="N >= modes"):
        kmeans_fuse(x[:, :5], p[:, :5])
    with pytest.raises(Problem, match="negative, or all 0"):
        top_fuse(x, -p)
    with pytest.raises(Problem, match="no members"):
        Ensemble([])
    with pytest.raises(Problem, match="did you mean kmeans"):
        Ensemble([SMALL], fusion="kmean")


def test_ensemble_is_a_module(town: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Ensemble([SMALL, SMALL]).eval()
    batch = collate([read_scene(path, Sizes(6, 12, 20, 50, 60)) for path in find_scenarios(town / "val")])
    with torch.no_grad():
        x, p = model.forecast(batch)
        candidates = model.candidates(batch)
    assert candidates[0].shape[1] == 12
    assert x.shape == (2, 6, 60, 2)
    assert torch.allclose(p.sum(1), torch.ones(2))
    model.save_pretrained(tmp_path)
    with torch.no_grad():
        assert torch.equal(Ensemble.from_pretrained(tmp_path).eval().forecast(batch)[0], x)


# -- baselines ---------------------------------------------------------------------------------------------------


def test_constant_velocity() -> None:
    history = torch.zeros(1, 2, 50, 5)
    history[0, 0, -1, 3:] = torch.tensor([3.0, 1.0])
    x, p = Velocities(future=20).forecast({"history": history})
    assert torch.allclose(x[0, 0], torch.arange(1, 21)[:, None] * torch.tensor([0.3, 0.1]))
    assert p.tolist() == [[1.0]]


def test_usual_velocities(town: Path) -> None:
    scene = read_scene(find_scenarios(town / "train")[0], Sizes(4, 8, 20, 50, 60))
    history = scene.history.copy()
    history[0, -1, 3:] = [10, 0]
    seconds = 0.1 * np.arange(1, 61)[:, None]
    ways = [(10.0, 0.0), (5.0, 0.0), (6.0, 6.0), (5.0, 0.0)]
    scenes = [replace(scene, history=history, future=seconds * np.array(way)) for way in ways]
    found = usual_velocities(scenes, 3, 60, seed=0)
    order = found.ways[:, 0].argsort()
    assert torch.allclose(found.ways[order], torch.tensor([[0.5, 0], [0.6, 0.6], [1, 0]]), atol=1e-5)
    assert found.probabilities[order].tolist() == [0.5, 0.25, 0.25]
    x, _ = found.forecast(collate(scenes[:1]))
    assert torch.allclose(x[0][order[1], -1], torch.tensor([36.0, 36.0]), atol=1e-3)


# -- the study -----------------------------------------------------------------------------------------------------


def study(tmp_path: Path, data: Path | None = None, seed: int = 0, **changes: Any) -> TenetStudy:
    config = changed(TenetStudy, TenetStudy.scales["smoke"], changes)
    assert isinstance(config, TenetConfig)
    return TenetStudy(config, Session(seed, tmp_path / f"trial-{seed}", data))


def test_each_seed_draws_its_own_scenarios(town: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        TenetStudy, "write_sample", lambda self, folder: shutil.copytree(town, folder, dirs_exist_ok=True)
    )
    monkeypatch.setenv("REPERTORY_CACHE", str(tmp_path / "cache"))
    drawn = [study(tmp_path, seed=seed, sample_share=0.5).data() for seed in (0, 0, 1)]
    assert drawn[0].train.items == drawn[1].train.items != drawn[2].train.items
    assert [len(data.train) for data in drawn] == [3, 3, 3]
    assert len(study(tmp_path, town, sample_share=0.5).data().train) == 6  # one's own data are all read


def test_scored_tracks_are_more_focal_ones(town: Path, tmp_path: Path) -> None:
    data = study(tmp_path, town, all_scored=True).data()
    assert len(data.train) > 6
    assert len(data.val) == 2
    other = next(
        k for k, (_, track) in enumerate(data.train.items) if data.train.items[k - 1][0] == data.train.items[k][0]
    )
    path, track = data.train.items[other]
    scenario = read_scenario(path)
    assert track != scenario.focal
    assert np.allclose(data.train[other].origin, scenario.states[track, 49, :2])


def test_missing_layout(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    with pytest.raises(Problem, match=r"scenario_<id>\.parquet"):
        study(tmp_path, tmp_path).data()


def test_scenarios_without_future_do_not_count(town: Path, tmp_path: Path) -> None:
    root = tmp_path / "data"
    shutil.copytree(town / "train", root / "train")
    shutil.copytree(town / "test", root / "val")
    one = study(tmp_path, root)
    with (
        pytest.warns(UserWarning, match="1 scenarios without a whole future"),
        pytest.raises(Problem, match="no scenario"),
    ):
        one.evaluate(Velocities(), one.data())


def test_the_header_is_gone_after_training(trained: Path) -> None:
    model = checkpoint.load(trained)
    assert isinstance(model, TENET)
    plain = TENET(**cast("dict[str, Any]", model._hub_mixin_config))
    assert {k: v.shape for k, v in plain.state_dict().items()} == {k: v.shape for k, v in model.state_dict().items()}
    assert not any("flow" in name for name in model.state_dict())


def test_arms_differ_in_the_header_alone(town: Path, tmp_path: Path) -> None:
    with_flow, without = study(tmp_path / "a", town, epochs=1), study(tmp_path / "b", town, epochs=1, flow_weight=0)
    trained = [one.train(arm, one.data()) for one, arm in ((without, "tenet"), (with_flow, "tenet_no_tfh"))]
    for a, b in zip(*(model.state_dict().values() for model in trained), strict=True):
        assert torch.allclose(a, b, atol=1e-6)
    other = study(tmp_path / "c", town, epochs=1).train("tenet", with_flow.data())
    assert not torch.allclose(other.state_dict()["mode_embedding"], trained[0].state_dict()["mode_embedding"])


def test_ensemble_of_the_study(town: Path, tmp_path: Path) -> None:
    one = study(tmp_path, town, epochs=1)
    data = one.data()
    model = one.train("tenet_kmeans", data)
    assert isinstance(model, Ensemble)
    first, second = (member.state_dict()["mode_embedding"] for member in model.members)
    assert not torch.equal(first, second)
    single = one.train("tenet", data)
    assert torch.equal(single.state_dict()["mode_embedding"], first)
    metrics = one.evaluate(model, data)
    alone = [one.evaluate(member, data)["brier_min_fde"] for member in model.members]  # pyright: ignore
    assert metrics["members_brier_min_fde"] == pytest.approx(np.mean(alone))


def test_preview_and_own_recipe(town: Path, tmp_path: Path) -> None:
    own = TenetStudy(TenetStudy.own, Session(0, tmp_path, town))  # type: ignore[arg-type]
    data = own.data()
    fit = own.scaled(data, given=("epochs",))
    assert fit.batch_size <= 16
    assert fit.lr < 5e-4
    small = study(tmp_path, town)
    lines = small.preview("tenet_kmeans", data)
    assert "6 scenarios in train/" in lines
    assert any(line.startswith("2 x TENET") and "ours" in line for line in lines)
    assert any("4 agents, 8 map polylines" in line for line in lines)


def test_measured_sizes(tmp_path: Path) -> None:
    figures = study(tmp_path, speed_rounds=0).measure()
    assert figures["parameters_published_size"] == sum(p.numel() for p in TENET().parameters())
    assert "training_speed" not in figures
    speeds = study(tmp_path, speed_rounds=5).measure()["training_speed"]
    assert isinstance(speeds, list)
    assert len(speeds) == 5


# -- use ---------------------------------------------------------------------------------------------------------------


def test_predict_one_scenario(trained: Path, scenario_file: Path, tmp_path: Path) -> None:
    found = models.predict(trained, scenario_file.parent, tmp_path)
    (row,) = found.table
    scenario = read_scenario(scenario_file)
    assert (row["scenario"], row["track"]) == (scenario.name, scenario.tracks[scenario.focal])
    sent = read_submission(found.files["submission.parquet"])
    assert sent.scenarios == (scenario.name,)
    assert (np.diff(sent.probabilities[0]) <= 0).all()
    assert sent.trajectories[0, 0, -1] == pytest.approx([row["end_x"], row["end_y"]], abs=0.01)
    truth = scenario.states[scenario.focal, None, 50:, :2]
    error = scores(sent.trajectories, sent.probabilities, truth)["min_fde"][0]
    assert row["min_fde"] == pytest.approx(error, abs=1e-3)
    lines = found.figures["scenario-1"].axes[0].lines
    assert sum(np.size(line.get_xdata()) == 61 for line in lines) >= 6  # the futures, from the present on


def test_predict_tracks_without_map(trained: Path, scenario_file: Path, tmp_path: Path) -> None:
    pd = pytest.importorskip("pandas")
    frame = pd.read_parquet(scenario_file).query("timestep < 50")
    frame.to_csv(tmp_path / "mine.csv", index=False)
    found = models.predict(trained, tmp_path / "mine.csv", tmp_path / "out")
    assert found.table[0]["min_fde"] is None
    assert np.isfinite(found.table[0]["end_x"])
    shutil.copy(map_of(scenario_file), tmp_path / "log_map_archive_mine.json")
    mapped = models.predict(trained, tmp_path / "mine.csv", tmp_path / "out2")
    whole = models.predict(trained, scenario_file, tmp_path / "out3")
    assert mapped.table[0]["end_x"] == pytest.approx(whole.table[0]["end_x"], abs=0.02)


def test_a_broken_scenario_among_good_ones(trained: Path, town: Path, tmp_path: Path) -> None:
    root = tmp_path / "val"
    shutil.copytree(town / "val", root)
    first = find_scenarios(root)[0]
    first.write_bytes(first.read_bytes()[:2000])
    found = models.predict(trained, root, tmp_path / "out")
    assert [bool(row["problem"]) for row in found.table] == [True, False]
    assert "damaged" in found.table[0]["problem"]
    assert len(read_submission(found.files["submission.parquet"]).scenarios) == 1
    with pytest.raises(Problem, match="damaged"):
        models.predict(trained, first, tmp_path / "out2")
    with pytest.raises(Problem, match="no data for tenet"):
        models.predict(trained, tmp_path / "out", tmp_path / "out3")


def test_predict_with_other_models(trained: Path, town: Path, tmp_path: Path) -> None:
    path = find_scenarios(town / "val")[0]
    alone = models.predict(trained, path, tmp_path / "a")
    same = models.predict(trained, path, tmp_path / "b", settings={"ensemble": f"{trained},{trained}"})
    assert same.table[0]["end_x"] == pytest.approx(alone.table[0]["end_x"], abs=0.02)
    assert same.table[0]["probability"] == pytest.approx(alone.table[0]["probability"], abs=1e-3)
    with pytest.raises(Problem, match="not a model directory"):
        models.predict(trained, path, tmp_path / "c", settings={"ensemble": str(town)})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"dim": 20}, "no multiple of heads"),
        ({"future": 61}, "no multiple of step_points"),
        ({"history": 51}, "of patch"),
        ({"flow_modes": "worst"}, "flow_modes"),
    ],
)
def test_bad_settings(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(Problem, match=words):
        changed(TenetStudy, TenetStudy.scales["smoke"], changes)
