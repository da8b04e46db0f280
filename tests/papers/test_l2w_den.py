"""L2W-DEN: fidelity to the authors' code, the meta gradient, protocols, early exits, export, use, and bad input."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError
from torch import Tensor, nn

from repertory.core import checkpoint
from repertory.core.problem import Problem
from repertory.core.study import Session
from repertory.data.images import ImageSet
from repertory.papers.l2w_den import (
    Curve,
    EarlyExit,
    ExitClassifier,
    ExportedEarlyExit,
    MetaObjective,
    MSDNet,
    MultiExit,
    MultiExitNetwork,
    PseudoStep,
    RANet,
    WeightPredictionNetwork,
    all_thresholds,
    allocate,
    budgeted_curve,
    build,
    constrain,
    exit_costs,
    export_early,
    fit_thresholds,
    leaving,
    meta_gradient,
    target_shares,
)
from repertory.papers.l2w_den.loop import batch_size
from repertory.papers.l2w_den.protocols import ALWAYS, NEVER, nominal_budgets
from repertory.papers.l2w_den.sample import write_cluttered_digits
from repertory.papers.l2w_den.study import L2WConfig, L2WStudy, long_tailed
from repertory.papers.l2w_den.weighting import (
    confidence,
    exit_means,
    meta_gradient_by_double_backward,
    rank_weights,
    sample_losses,
)
from repertory.papers.l2w_den.weights import read_released, released_wpn
from tests.fidelity.cases import assert_agrees, cases
from tests.fidelity.fill import digest, fill_, probe

CASES = {case.values[0]["name"]: case.values[0] for case in cases("l2w_den")}
TINY: dict[str, Any] = {"n_exits": 3, "base": 1, "step": 1, "channels": 4, "growth": 2, "num_classes": 10}


def tiny(**changes: Any) -> MSDNet:
    network = MSDNet(**{**TINY, **changes})
    fill_(network)
    return network.eval()


def study(tmp_path: Path, data: Path | None = None, **settings: Any) -> L2WStudy:
    config = L2WConfig.model_validate({**L2WStudy.scales["smoke"].model_dump(), **settings})
    return L2WStudy(config, Session(0, tmp_path / "session", data))


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sample")
    write_cluttered_digits(folder, batch=20, test=20)
    return folder


# -- fidelity -----------------------------------------------------------------------------------


def network_of(config: dict[str, Any]) -> MultiExitNetwork:
    """The network of a case, from its `config`."""
    data = config.get("dataset", config.get("data", ""))
    classes, stem = {"cifar10": 10, "cifar100": 100, "imagenet": 1000}[data.lower()], data.rstrip("0123456789").lower()
    given = {key: value for key, value in config.items() if key not in ("dataset", "data", "output")}
    return (RANet if "scale_list" in given else MSDNet)(**given, stem=stem, num_classes=classes)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if "gr_factor" in case["config"]])
def test_networks_agree_with_the_authors_code(name: str) -> None:
    case = CASES[name]
    network = network_of(case["config"]).eval()
    fill_(network)
    with torch.no_grad():
        assert_agrees(torch.stack(network(probe(*case["input"][0]))), case, network)
    if case["macs"] is not None:
        assert exit_costs(network, size=case["input"][0][-1]) == case["macs"]


def test_weights_agree_with_the_authors_code() -> None:
    case = CASES["wpn_weights"]
    config = case["config"]
    wpn = fill_(WeightPredictionNetwork(config["n_exits"], hidden=config["hidden"], layers=config["layers"]))
    g = wpn(3 * probe(8, 5).abs())
    weights = torch.stack([constrain(g, config["epsilon"], axis) for axis in ("row", "col", "mat")])
    assert_agrees(weights.detach(), case, wpn)


def meta_case(dtype: torch.dtype = torch.float32) -> tuple[Any, ...]:
    network = fill_(MSDNet(n_exits=3, num_classes=10)).train().to(dtype)
    wpn = fill_(WeightPredictionNetwork(3)).to(dtype)
    x, y = probe(24, 3, 32, 32).to(dtype), torch.arange(24) % 10
    buffers = {
        name: (0.01 * torch.sin(torch.arange(p.numel(), dtype=torch.float64))).reshape(p.shape).to(dtype)
        for name, p in network.named_parameters()
    }
    objective = MetaObjective(target_shares(15, 3), epsilon=0.8, axis="col")
    return network, wpn, (x[:12], y[:12]), (x[12:], y[12:]), objective, PseudoStep(0.1, 0.9, 1e-4), buffers


def test_the_meta_gradient_agrees_with_the_authors_code() -> None:
    case = CASES["meta_step_wpn_gradient"]
    arguments = meta_case()
    gradient, weighted, meta_loss = meta_gradient(*arguments)
    assert float(weighted) == pytest.approx(case["config"]["weighted_loss"], rel=1e-5)
    assert float(meta_loss) == pytest.approx(case["config"]["meta_loss"], rel=1e-5)
    flat = torch.cat([g.flatten() for g in gradient])
    found, expected = digest(flat), case["output"]
    assert found["shape"] == expected["shape"]
    scale = max(abs(value) for value in expected["values"])
    assert found["values"] == pytest.approx(expected["values"], rel=1e-2, abs=2e-3 * scale)
    assert found["std"] == pytest.approx(expected["std"], rel=5e-3)

    network = arguments[0]
    with torch.no_grad():
        chosen = allocate(confidence(network(arguments[3][0])), target_shares(15, 3))
    assert sorted(chosen.bincount().tolist()) == sorted(case["config"]["meta_sizes"])


@pytest.mark.parametrize(
    ("axis", "inputs", "first_step"),
    [("col", "loss", False), ("row", "conf", True), ("mat", "both", False)],
)
def test_one_forward_mode_product_equals_double_backward(axis: Any, inputs: Any, first_step: bool) -> None:
    torch.manual_seed(0)
    network = MSDNet(**TINY).train().double()
    wpn = WeightPredictionNetwork(3, inputs, hidden=20, layers=2).double()
    x, y = torch.randn(16, 3, 20, 20, dtype=torch.float64), torch.arange(16) % 10
    buffers = {name: None if first_step else torch.randn_like(p) for name, p in network.named_parameters()}
    objective = MetaObjective(target_shares(20, 3), 0.3, axis, label_smoothing=0.1)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    found = [
        find(network, wpn, (x[:8], y[:8]), (x[8:], y[8:]), objective, PseudoStep(0.5, 0.9, 1e-2), buffers)
        for find in (meta_gradient, meta_gradient_by_double_backward)
    ]
    for ours, reference in zip(found[0][0], found[1][0], strict=True):
        torch.testing.assert_close(ours, reference, rtol=1e-8, atol=1e-12)
    assert max(float(g.abs().max()) for g in found[0][0]) > 1e-6
    assert found[0][1:] == pytest.approx(found[1][1:])
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert all(p.grad is None for p in network.parameters())


def test_the_pseudo_step_is_that_of_sgd() -> None:
    p = nn.Parameter(torch.randn(5))
    sgd = torch.optim.SGD([p], lr=0.3, momentum=0.9, weight_decay=0.1)
    step = PseudoStep(0.3, 0.9, 0.1)
    for _ in range(3):
        p.grad = torch.randn(5)
        expected = step(p.detach().clone(), p.grad.clone(), sgd.state.get(p, {}).get("momentum_buffer"))
        sgd.step()
        torch.testing.assert_close(p.detach(), expected)


# -- structure ----------------------------------------------------------------------------------

PUBLISHED = {
    "msdnet_imagenet_4": (23_958_440, [339.9, 685.5, 1008.2, 1254.5, 1360.5]),
    "msdnet_imagenet_6": (56_529_304, [514.7, 1171.2, 1844.5, 2501.4, 2742.1]),
    "msdnet_imagenet_7": (62_314_472, [615.7, 1436.4, 2283.2, 2967.4, 3253.8]),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_sizes(name: str) -> None:
    with torch.device("meta"):
        network = build(name, 1000)
    assert sum(p.numel() for p in network.parameters()) == PUBLISHED[name][0]
    assert [round(cost / 1e6, 1) for cost in exit_costs(network, size=224)] == PUBLISHED[name][1]


@pytest.mark.parametrize("name", ["msdnet_mini", "msdnet_cifar_anytime", "ranet_mini"])
def test_networks_have_logits_at_each_exit_and_growing_costs(name: str) -> None:
    network, x = build(name, 7).eval(), torch.zeros(2, 3, 32, 32)
    costs = exit_costs(network, size=32)
    assert costs == sorted(costs)
    with torch.no_grad():
        assert [tuple(one.shape) for one in network(x)] == [(2, 7)] * len(costs)
        assert [len(maps) for maps in network.forward_features(x)] == [2] * len(costs)


@pytest.mark.parametrize(
    ("name", "exits", "parameters"),
    [
        ("ranet_imagenet", 8, 131_123_991),
        ("ranet_imagenet_shell", 8, 95_072_324),
        ("ranet_imagenet_wide", 8, 149_144_186),
        ("ranet_cifar", 6, 2_451_158),
        ("msdnet_cifar_anytime", 7, 2_986_690),
    ],
)
def test_every_published_network_is_built(name: str, exits: int, parameters: int) -> None:
    with torch.device("meta"):
        network = build(name, 1000 if "imagenet" in name else 10)
    assert (len(network.exits), sum(p.numel() for p in network.parameters())) == (exits, parameters)


@pytest.mark.parametrize(
    "network",
    [tiny(prune="min"), tiny(reduction=0), tiny(step_mode="even"), tiny(in_chans=1), RANet(1, 1, 1, "lg", channels=4)],
)
def test_options_of_the_networks(network: MultiExitNetwork) -> None:
    channels = 1 if isinstance(network, MSDNet) and network.steps[0][0].layers[0][0].in_channels == 1 else 3  # pyright: ignore
    assert len(network.eval()(torch.zeros(1, channels, 32, 32))) == 3


def test_a_transition_halves_the_channels_where_a_scale_is_dropped() -> None:
    kinds = [[type(layer).__name__ for layer in block] for block in build("msdnet_mini", 10).steps]  # pyright: ignore
    assert [names.count("Transition") for names in kinds] == [0, 0, 1, 1]
    assert [names.count("MSDLayer") for names in kinds] == [1, 2, 3, 4]


def test_classifiers_are_replaced() -> None:
    network = tiny()
    network.reset_classifier(3)
    assert [one.shape[1] for one in network(torch.zeros(1, 3, 32, 32))] == [3, 3, 3]
    assert [layer.out_features for layer in network.get_classifier()] == [3, 3, 3]


def test_an_empty_batch_and_odd_sizes() -> None:
    network = tiny()
    assert [tuple(one.shape) for one in network(torch.zeros(0, 3, 32, 32))] == [(0, 10)] * 3
    assert network(torch.zeros(1, 3, network.min_size, 40))[0].shape == (1, 10)
    with pytest.raises(Problem, match="images of 16 x 16 pixels are too small") as caught:
        network(torch.zeros(1, 3, 16, 16))
    assert "17 x 17" in caught.value.remedy


@pytest.mark.parametrize("name", ["resnet10t", "regnety_002"])
def test_timm_backbones_get_an_exit_per_stage(name: str) -> None:
    network = MultiExit(name, num_classes=4).eval()
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        logits = network(x)
        first = next(network.walk(x))
    assert [tuple(one.shape) for one in logits] == [(2, 4)] * 5
    assert torch.equal(first, logits[0])
    costs = exit_costs(network, size=64)
    assert costs == sorted(costs)


def test_what_cannot_be_built_is_said() -> None:
    with pytest.raises(Problem, match="no network 'msdnet_cifer'"):
        build("msdnet_cifer", 10)
    with pytest.raises(Problem, match="cannot"):
        build("timm:nothing_of_the_sort", 10)
    with pytest.raises(Problem, match="cut into stages"):
        build("timm:vit_tiny_patch16_224", 10)
    with pytest.raises(ValidationError, match="did you mean msdnet_cifar"):
        L2WConfig(arch="msdnet_cifer")


# -- weights ------------------------------------------------------------------------------------


def test_weights_average_one_and_stay_in_their_range() -> None:
    g = torch.tanh(torch.randn(6, 4))
    cases: list[tuple[Any, Any]] = [("row", 0), ("col", 1), ("mat", (0, 1))]
    for axis, dims in cases:
        w = constrain(g, 0.3, axis)
        torch.testing.assert_close(w.mean(dims), torch.ones_like(w.mean(dims)))
        assert ((w > 0.4) & (w < 1.6)).all()


def test_rank_weights_favour_easy_samples_early_and_hard_ones_late() -> None:
    w = rank_weights(torch.tensor([[3.0, 3, 3], [1.0, 1, 1], [2.0, 2, 2]]), 0.8)
    assert w[:, 0].argsort().tolist() == [0, 2, 1]
    assert w[:, 2].argsort().tolist() == [1, 2, 0]
    torch.testing.assert_close(w[:, 1], torch.ones(3))
    torch.testing.assert_close(w.mean(0), torch.ones(3))


def test_allocation_by_the_definition() -> None:
    torch.manual_seed(0)
    confidences, shares = torch.rand(23, 4), target_shares(15, 4)
    left, expected = set(range(23)), torch.full((23,), 3)
    for k in range(3):
        ranked = sorted(left, key=lambda i: -confidences[i, k].item())[: int(23 * shares[k])]
        expected[ranked] = k
        left -= set(ranked)
    assert torch.equal(allocate(confidences, shares), expected)
    assert allocate(torch.rand(1, 4), shares).tolist() == [3], "too few for the earlier exits"


def test_exits_without_samples_count_nothing() -> None:
    losses = torch.tensor([[1.0, 5.0, 9.0], [3.0, 5.0, 9.0]])
    assert float(exit_means(losses, torch.tensor([0, 0]))) == 2.0
    assert float(exit_means(losses, torch.tensor([0, 2]))) == 10.0


@pytest.mark.parametrize("index", [0, 40])
def test_target_indices_are_bounded(index: int) -> None:
    with pytest.raises(Problem, match=f"target index {index}"):
        target_shares(index, 5)


def test_a_network_with_one_output_is_refused() -> None:
    class One(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x)

    half = torch.zeros(4, 3), torch.zeros(4, dtype=torch.long)
    objective = MetaObjective(target_shares(15, 2))
    with pytest.raises(Problem, match="returned Tensor, but a list of logits is needed"):
        meta_gradient(One(), WeightPredictionNetwork(2), half, half, objective, PseudoStep(0.1), {})


def test_losses_are_those_of_each_sample_and_exit() -> None:
    logits, y = [torch.randn(5, 3) for _ in range(2)], torch.tensor([0, 1, 2, 0, 1])
    losses = sample_losses(logits, y, label_smoothing=0.1)
    for i in range(5):
        for k in range(2):
            alone = nn.functional.cross_entropy(logits[k][i : i + 1], y[i : i + 1], label_smoothing=0.1)
            torch.testing.assert_close(losses[i, k], alone)


# -- protocols ----------------------------------------------------------------------------------


def test_thresholds_by_the_definition() -> None:
    torch.manual_seed(1)
    for index in (1, 15, 39):
        confidences, shares = (torch.rand(50, 4) * 10).round() / 10, target_shares(index, 4)  # with ties
        gone, expected = [False] * 50, [NEVER] * 3 + [ALWAYS]
        for k in range(3):
            count = 0
            for i in confidences[:, k].argsort(descending=True).tolist():
                count += not gone[i]
                if not gone[i] and count == int(50 * shares[k]):
                    expected[k] = confidences[i, k].item()
                    break
            gone = [was or confidences[i, k].item() >= expected[k] for i, was in enumerate(gone)]
        torch.testing.assert_close(fit_thresholds(confidences, shares), torch.tensor(expected))


def test_each_sample_leaves_at_the_first_exit_it_satisfies() -> None:
    torch.manual_seed(0)
    confidences, thresholds = torch.rand(30, 4), torch.tensor([0.9, 0.5, 0.7, ALWAYS])
    expected = [next(k for k in range(4) if confidences[i, k] >= thresholds[k]) for i in range(30)]
    assert leaving(confidences, thresholds).tolist() == expected


def test_a_curve_of_39_points() -> None:
    torch.manual_seed(0)
    confidences = torch.rand(400, 3)
    correct = torch.rand(400, 3) < torch.tensor([0.5, 0.7, 0.9])
    costs = torch.tensor([1.0, 2.0, 4.0])
    thresholds = all_thresholds(confidences)
    curve = budgeted_curve(confidences, correct, thresholds, costs)
    assert len(curve.budgets) == len(curve.accuracies) == 39
    exits = leaving(confidences, thresholds[14])
    assert (exits.bincount(minlength=3) / 400).tolist() == pytest.approx(target_shares(15, 3).tolist(), abs=0.01)
    assert curve.budgets[14] == pytest.approx(costs[exits].mean().item())
    assert curve.accuracies[14] == pytest.approx(100 * np.mean([correct[i, k] for i, k in enumerate(exits)]))
    assert curve.anytime == pytest.approx(100 * correct.double().mean(0).numpy())
    assert curve.budgets[0] < curve.budgets[-1]
    low, high = nominal_budgets(costs)
    assert (low, high) == pytest.approx((curve.budgets[0], curve.budgets[-1]), abs=0.03)
    assert curve.anytime.min() <= curve.area(low, high) <= 100


def test_the_area_is_that_under_the_envelope() -> None:
    ends = np.array([50.0, 70.0]), np.array([0.0, 10.0])
    curve = Curve(np.array([5.0, 6.0]), np.array([80.0, 60.0]), *ends)
    assert curve.area(0, 5) == pytest.approx(65)
    assert curve.area(5, 10) == pytest.approx(80), "a larger budget is never worse"


# -- early exits --------------------------------------------------------------------------------


def splitting(network: MultiExitNetwork, x: Tensor) -> Tensor:
    """Thresholds at which about half of the images leave at every exit, none of them at a threshold."""
    with torch.no_grad():
        ranked = confidence(network(x)).sort(0).values
    thresholds = ranked[len(x) // 2 - 1 : len(x) // 2 + 1].mean(0)
    thresholds[-1] = ALWAYS
    return thresholds


def small_ranet() -> RANet:
    """Two exits: it is exported, which takes seconds for each."""
    return RANet(1, 1, 1, "even", (1, 2), (2, 1), (2, 1), channels=4, growth=4, num_classes=10).eval()


@pytest.mark.parametrize("network", [tiny(), small_ranet()])
def test_a_shrinking_batch_gives_what_all_exits_give(network: MultiExitNetwork, tmp_path: Path) -> None:
    torch.manual_seed(0)
    x = torch.randn(12, 3, 32, 32)
    thresholds = splitting(network, x)
    early = EarlyExit(network, thresholds).eval()
    with torch.no_grad():
        logits, exits = early(x)
        everything = torch.stack(network(x))
        assert torch.equal(exits, leaving(confidence(list(everything)), thresholds))
        assert len(exits.unique()) > 1
        torch.testing.assert_close(logits, everything[exits, torch.arange(12)])
        assert early(x[:0])[0].shape == (0, 10)
    if isinstance(network, RANet):
        exported = ExportedEarlyExit(export_early(early, tmp_path / "exported", 32))
        for chosen in (x, x[:1]):
            found = exported(chosen)
            torch.testing.assert_close(found[0], logits[: len(chosen)])
            assert torch.equal(found[1], exits[: len(chosen)])


def test_stages_after_the_exit_do_not_run() -> None:
    network = tiny()
    ran: list[int] = []
    for k, step in enumerate(network.steps):
        step.register_forward_hook(lambda *_, k=k: ran.append(k))
    early = EarlyExit(network, torch.tensor([NEVER, 0.0, ALWAYS]))
    with torch.no_grad():
        assert early(torch.zeros(2, 3, 32, 32))[1].tolist() == [1, 1]
    assert ran == [0, 1]


def trained_looking(tmp_path: Path) -> ExitClassifier:
    """A classifier with thresholds, as after training."""
    model = ExitClassifier("ranet_mini", 10, {"label_names": [str(i) for i in range(10)]}).eval()
    torch.manual_seed(0)
    confidences = torch.rand(200, 3)
    model.thresholds.copy_(all_thresholds(confidences))
    curve = budgeted_curve(confidences, torch.rand(200, 3) < 0.5, model.thresholds, model.costs)
    model.budgets.copy_(torch.from_numpy(curve.budgets))
    model.accuracies.copy_(torch.from_numpy(curve.accuracies))
    return model


def test_budgets_choose_thresholds(tmp_path: Path) -> None:
    model = trained_looking(tmp_path)
    cheapest, dearest = float(model.costs[0]), float(model.costs[-1])
    assert model.thresholds_for(0).tolist() == [NEVER, NEVER, ALWAYS]
    assert model.thresholds_for(cheapest).tolist() == [ALWAYS] * 3
    for budget in (1.3 * cheapest, dearest):
        row = int((model.thresholds == model.thresholds_for(budget)).all(1).nonzero()[0])
        within = model.budgets <= budget
        assert within[row]
        assert model.accuracies[row] == model.accuracies[within].max()
    with pytest.raises(Problem, match="less than the first exit costs") as caught:
        model.thresholds_for(1000)
    assert f"{cheapest:,.0f} or more" in caught.value.remedy
    with pytest.raises(Problem, match="no thresholds"):
        ExitClassifier("ranet_mini", 10).thresholds_for(dearest)
    checkpoint.save(model, tmp_path / "model")
    again = checkpoint.load(tmp_path / "model")
    assert torch.equal(again.thresholds, model.thresholds)


def test_it_compiles_without_a_graph_break() -> None:
    network = tiny(n_exits=2)
    x = torch.randn(2, 3, 32, 32)
    compiled: Any = torch.compile(network, backend="eager", fullgraph=True)
    with torch.no_grad():
        for ours, expected in zip(compiled(x), network(x), strict=True):
            torch.testing.assert_close(ours, expected)


# -- use ----------------------------------------------------------------------------------------


def test_the_sample_is_deterministic_and_its_halves_share_no_scan(sample: Path, tmp_path: Path) -> None:
    write_cluttered_digits(tmp_path, batch=20, test=20)
    for path in (sample / "cifar-10-batches-py").iterdir():
        assert path.read_bytes() == (tmp_path / "cifar-10-batches-py" / path.name).read_bytes()
    data = study(tmp_path).read(sample)
    assert (len(data.train), len(data.test)) == (100, 20)
    assert np.bincount(data.train.labels).tolist() == [10] * 10


def test_seeds_draw_and_split_the_training_images(sample: Path, tmp_path: Path) -> None:
    first, second = (L2WStudy(study(tmp_path).config, Session(seed, tmp_path / str(seed))) for seed in (0, 1))
    pool = first.read(sample).train
    train, val = first.split(pool)
    assert len(train) + len(val) == 100
    assert not {*train.paths} & {*val.paths}
    assert {*val.paths} != {*second.split(pool)[1].paths}
    few = study(tmp_path, train_images=40).split(pool)
    assert len(few[0]) + len(few[1]) == 40
    with pytest.raises(Problem, match="0 of them for validation"):
        study(tmp_path, train_images=2, valid_share=0.1).split(pool)


def test_a_long_tail() -> None:
    labels = tuple(int(i) for i in np.repeat(np.arange(3), 100))
    data = ImageSet(tuple(Path(str(i)) for i in range(300)), labels, ("a", "b", "c"))
    assert np.bincount(long_tailed(data, 100).labels).tolist() == [100, 10, 1]


@pytest.mark.parametrize("augment", ["cifar", "imagenet"])
def test_augmentation_has_the_size_of_the_network(sample: Path, tmp_path: Path, augment: str) -> None:
    room = study(tmp_path, augment=augment)
    image = room.read(sample).train.image(0)
    x = room._augmentation(ExitClassifier("ranet_mini", 10))(image)
    assert x.shape == (3, 32, 32)
    assert x.dtype == torch.float32


@pytest.fixture(scope="module")
def model(sample: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model directory, trained for two steps."""
    folder = tmp_path_factory.mktemp("trained")
    config = L2WConfig.model_validate(
        {**L2WStudy.scales["smoke"].model_dump(), "arch": "ranet_mini", "batch_size": 16, "image_size": 20}
    )
    room = L2WStudy(config, Session(0, folder / "session", sample, dry_run=True))
    checkpoint.save(room.train("l2w", room.data()), folder / "model", paper="l2w_den")
    return folder / "model"


def test_predict_tells_the_exit_and_goes_on_after_a_broken_file(model: Path, sample: Path, tmp_path: Path) -> None:
    network = checkpoint.load(model)
    photos = tmp_path / "photos"
    photos.mkdir()
    Image.new("RGB", (50, 40), "red").save(photos / "red.png")
    Image.new("L", (20, 20)).save(photos / "grey.png")
    (photos / "broken.png").write_bytes(b"not an image")
    with torch.no_grad():
        found = study(tmp_path, budget=float(network.costs[0]), export=False).predict(network, photos)
        rows = {Path(row["file"]).name: row for row in found.table}
        assert [rows[name]["exit"] for name in ("red.png", "grey.png", "broken.png")] == [1, 1, None]
        assert "not an image" in rows["broken.png"]["problem"]
        assert rows["red.png"]["operations"] == int(network.costs[0])
        assert "2 images left at exits 1 to 3: 100 %, 0 %, 0 %" in found.text
        assert set(found.figures) == {"exits"}
        everything = study(tmp_path).predict(network, sample)
        assert len(everything.table) == 20
        assert {row["exit"] for row in everything.table} == {3}
        shutil.rmtree(photos)
        photos.mkdir()
        (photos / "broken.png").write_bytes(b"not an image")
        with pytest.raises(Problem, match="none of 1 images can be read"):
            study(tmp_path).predict(network, photos)
        with pytest.raises(Problem, match="less than the first exit costs"):
            study(tmp_path, budget=5).predict(network, sample)


def test_evaluate_times_the_early_exits_and_draws(model: Path, sample: Path, tmp_path: Path) -> None:
    room = study(tmp_path, sample, timed_images=3)
    with torch.no_grad():
        metrics = room.evaluate(checkpoint.load(model), room.data())
    assert metrics["early_exit_speedup"] > 0
    assert {f"anytime_{k}" for k in (1, 2, 3)} <= set(metrics)
    assert 0 <= metrics["low_budget"] <= metrics["plateau"] <= 100
    assert -1 <= metrics["correlation_1"] <= 1
    assert {path.stem for path in (tmp_path / "session" / "figures").iterdir()} == {
        "accuracy-vs-cost",
        "time-vs-accuracy",
    }
    stored = json.loads((tmp_path / "session" / "curve.json").read_text(encoding="utf-8"))
    assert len(stored["budgets"]) == 39


# -- weights of the authors -----------------------------------------------------------------------


def with_authors_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The names that the authors' code gives the tensors of our network."""
    renamed = {}
    for name, tensor in state.items():
        kind, *rest = name.split(".")
        if kind == "exits":
            k, layer, *leaf = rest
            tail = f"linear.{leaf[0]}" if layer == "4" else f"m.{layer}.net.{'.'.join(leaf)}"
            renamed[f"module.classifier.{k}.{tail}"] = tensor
        else:
            renamed[
                "module."
                + name.replace("steps.", "blocks.")
                .replace(".normal.", ".conv_normal.net.")
                .replace(".down.", ".conv_down.net.")
            ] = tensor
    return renamed


def test_the_authors_weights_are_converted(tmp_path: Path) -> None:
    network = fill_(build("msdnet_cifar", 10))
    path = tmp_path / "msdnet.pth.tar"
    wpn = WeightPredictionNetwork(5, layers=2)
    meta = {
        name.replace("first.", "first_hidden_layer.fc.").replace("rest.", "rest_hidden_layers.").replace(
            "0.weight", "0.fc.weight"
        ).replace("0.bias", "0.fc.bias").replace("output.", "output_layer."): tensor
        for name, tensor in wpn.state_dict().items()
    }  # fmt: skip
    torch.save({"state_dict": with_authors_names(network.state_dict()), "meta_state_dict": meta, "epoch": 3}, path)
    assert set(read_released(path)) == set(network.state_dict())
    wpn.load_state_dict(released_wpn(path))
    with pytest.warns(UserWarning, match="no exit thresholds"):
        model = study(tmp_path).convert(path)
    assert model.arch == "msdnet_cifar"
    x = probe(1, 3, 32, 32)
    with torch.no_grad():
        for ours, expected in zip(model(x), network.eval()(x), strict=True):
            torch.testing.assert_close(ours, expected)
    with pytest.raises(Problem, match="not the weights of msdnet_imagenet_4") as caught:
        study(tmp_path).convert(path, "msdnet_imagenet_4")
    assert "--variant msdnet_cifar" in caught.value.remedy
    with pytest.raises(Problem, match="no variant 'big'"):
        study(tmp_path).convert(path, "big")


# -- bad input ----------------------------------------------------------------------------------


def test_batches_too_small_for_the_exits() -> None:
    config = L2WConfig(batch_size=8)
    with pytest.raises(Problem, match="needs at least 5 in each half"):
        batch_size(config, range(100), 5, 1)
    with pytest.raises(Problem, match="9 training images"):
        batch_size(L2WConfig(), range(9), 5, 1)
    assert batch_size(L2WConfig(), range(31), 5, 1) == 30
    with pytest.raises(ValidationError, match="multiple of 2"):
        L2WConfig(batch_size=33)


def test_images_too_small_for_the_network_and_missing_data(tmp_path: Path) -> None:
    with pytest.raises(Problem, match="too small for msdnet_imagenet_4") as caught:
        ExitClassifier("msdnet_imagenet_4", 2, {"input_size": [3, 64, 64]})
    assert "129 or more" in caught.value.remedy
    with pytest.raises(Problem, match="no data for l2w_den"):
        study(tmp_path).read(tmp_path)
