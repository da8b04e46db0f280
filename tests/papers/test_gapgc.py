"""GAPGC: fidelity of its parts, the losses, the game, the protocols of the stream, use, and bad input."""

from __future__ import annotations

import copy
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from repertory.core import checkpoint, problem
from repertory.core.loops import Diverged
from repertory.core.problem import Problem
from repertory.core.study import Session
from repertory.data import molecules
from repertory.data.molecules import Molecules, featurise
from repertory.execution.experiment import Experiment
from repertory.execution.plan import plan
from repertory.papers.gapgc.adapt import Adaptation, AdaptiveClassifier, adapt_along
from repertory.papers.gapgc.graphs import Graphs, Wiring, collate, repeat
from repertory.papers.gapgc.losses import (
    binary_entropy,
    centroid_labels,
    group_contrast,
    info_nce,
    information_maximisation,
    own_contrast,
)
from repertory.papers.gapgc.model import (
    GIN,
    Augmenter,
    GraphClassifier,
    batch_statistics,
    dropped_share,
    norms_of,
    untouched_statistics,
)
from repertory.papers.gapgc.settings import ARMS, GAPGCConfig
from repertory.papers.gapgc.study import GAPGCStudy, load_encoder, masked_bce, mean_auc
from tests.fidelity.cases import assert_agrees, cases
from tests.fidelity.fill import fill_, probe

SMALL: dict[str, Any] = {
    "layers": 2, "dim": 8, "dropout": 0.0, "epochs": 2, "orders": 2, "adapt_batch": 8, "views": 2,
    "sample_molecules": 100, "seeds": 1,
}  # fmt: skip


def rings(sizes: list[int]) -> Graphs:
    """The molecules of the fidelity cases."""
    x, edges, attributes, batch = [], [], [], []
    first = 0
    for g, n in enumerate(sizes):
        x += [((5 + i + g) % 17, (i + g) % 3) for i in range(n)]
        bonds = [(i, i + 1, (i + g) % 4, (i * g) % 3) for i in range(n - 1)] + [(0, n - 1, 3, 0)]
        for u, v, kind, direction in bonds:
            edges += [(first + u, first + v), (first + v, first + u)]
            attributes += [(kind, direction)] * 2
        batch += [g] * n
        first += n
    return Graphs(torch.tensor(x), torch.tensor(edges).T, torch.tensor(attributes), torch.tensor(batch), len(sizes))


# -- fidelity ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", cases("gapgc"))
def test_agrees_with_the_code_it_is_built_on(case: dict[str, Any]) -> None:
    config = case["config"]
    model = None
    with torch.no_grad():
        if case["name"].startswith("gin_backbone"):
            shape = config["tasks"], config["layers"], config["emb"], 0.5, config["JK"], config["pool"]
            model = cast(GraphClassifier, fill_(GraphClassifier(*shape))).eval()
            graphs = rings(config["graph_sizes"])
            output = torch.cat([model.encoder(graphs).flatten(), model(graphs).flatten()])
        else:
            anchors = probe(config["n"], config["d"])
            views = anchors.flip(0) + 0.1 * anchors
            output = torch.stack([info_nce(anchors, views, 0.2), info_nce(anchors, views, 0.5, symmetric=False)])
    assert_agrees(output, case, model)


# -- messages ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def batch() -> Graphs:
    return rings([5, 7, 4])


def test_messages_are_the_sum_edge_by_edge_and_so_are_their_gradients(batch: Graphs) -> None:
    kinds = batch.edge_attr[:, 0] * 3 + batch.edge_attr[:, 1]
    wiring = Wiring(batch.edge_index, kinds, 18, len(batch.x))
    u, v = batch.edge_index
    inputs = [probe(len(batch.x), 4), probe(18, 4), probe(len(u)).abs()]
    inputs = [value.double().requires_grad_() for value in inputs]

    def plainly(h: Tensor, table: Tensor, weights: Tensor) -> Tensor:
        return torch.zeros_like(h).index_add(0, v, weights[:, None] * (h[u] + table[kinds]))

    assert torch.allclose(wiring.messages(*inputs), plainly(*inputs))
    assert torch.autograd.gradcheck(wiring.messages, inputs)
    seed = probe(len(batch.x), 4).double()
    for found, wanted in zip(
        *(torch.autograd.grad(f(*inputs), inputs, seed) for f in (wiring.messages, plainly)), strict=True
    ):
        assert torch.allclose(found, wanted)


@pytest.mark.parametrize("jk", ["last", "concat", "max", "sum"])
@pytest.mark.parametrize("pool", ["mean", "sum", "max"])
def test_a_graph_does_not_feel_its_neighbours_in_the_batch(jk: Any, pool: Any) -> None:
    model = GraphClassifier(2, 3, 6, jk=jk, pool=pool).eval()
    data = featurise(["CCO", "C", "c1ccccc1O", "F/C=C/F"])
    together = model(collate(data, np.arange(4)))
    apart = torch.cat([model(collate(data, np.array([k]))) for k in (3, 0, 1, 2)])
    assert torch.allclose(together[[3, 0, 1, 2]], apart, atol=1e-5)


def test_the_order_of_atoms_and_bonds_does_not_matter() -> None:
    model = GraphClassifier(1, 3, 8).eval()
    a, b = (collate(featurise([text]), np.arange(1)) for text in ("OCC(=O)Nc1ccccc1", "c1ccc(cc1)NC(=O)CO"))
    assert torch.allclose(model(a), model(b), atol=1e-5)


def test_a_batch_of_pytorch_geometric_goes_in_as_it_is() -> None:
    geometric = pytest.importorskip("torch_geometric.data")
    data = featurise(["CCO", "C", "c1ccccc1O"])
    ours = collate(data, np.arange(3))
    single = [collate(data, np.array([k])) for k in range(3)]
    theirs = geometric.Batch.from_data_list(
        [geometric.Data(x=g.x, edge_index=g.edge_index, edge_attr=g.edge_attr) for g in single]
    )
    model = GraphClassifier(1, 2, 6).eval()
    assert torch.equal(model(ours), model(theirs))
    assert torch.equal(ours.edge_index, theirs.edge_index)


def test_weight_zero_is_a_bond_that_is_not_there() -> None:
    model = GIN(3, 8).eval()
    data = featurise(["CCO", "CC", "O"])
    whole, parts = collate(data, np.array([0])), collate(data, np.array([1, 2]))
    cut = model(whole, torch.tensor([1.0, 1.0, 0.0, 0.0]))
    assert torch.allclose(cut, model(parts), atol=1e-6)
    assert not torch.allclose(cut, model(whole))


def test_copies_follow_one_another(batch: Graphs) -> None:
    copies, model = repeat(batch, 3), GraphClassifier(2, 2, 8).eval()
    assert copies.num_graphs == 9
    assert torch.allclose(model(copies), model(batch).repeat(3, 1), atol=1e-5)


def test_molecules_without_bonds_pass() -> None:
    graphs = collate(featurise(["C", "O"]), np.arange(2))
    assert GraphClassifier(1, 2, 4)(graphs).isfinite().all()
    assert Augmenter(GIN(2, 4)).logits(graphs).shape == (0,)


# -- the augmenter ----------------------------------------------------------------------------------


def test_the_augmenter_scores_a_bond_by_both_ends(batch: Graphs) -> None:
    augmenter = Augmenter(GIN(2, 8, dropout=0.0)).eval()
    nodes, (u, v) = augmenter.encoder(batch), batch.edge_index
    assert augmenter.mlp is not None
    directed = augmenter.mlp(torch.cat([nodes[u], nodes[v]], dim=1)).squeeze(1)
    assert torch.allclose(augmenter.logits(batch), (directed[::2] + directed[1::2]) / 2, atol=1e-5)
    cosine = Augmenter(augmenter.encoder, scorer="cosine")
    assert torch.allclose(cosine.logits(batch), F.cosine_similarity(nodes[u[::2]], nodes[v[::2]]))
    assert {name.split(".")[0] for name, _ in cosine.named_parameters()} == {"encoder"}
    assert Augmenter(GIN(1, 4), keep_bias=2.0).eval().logits(batch).mean() > 0.5
    with pytest.raises(Problem, match="two directions"):
        augmenter.logits(batch._replace(edge_index=batch.edge_index[:, 1:], edge_attr=batch.edge_attr[1:]))


def test_keep_weights_by_hand() -> None:
    augmenter = Augmenter(GIN(1, 4), tau=0.5)
    logits, noise = torch.tensor([0.0, 1.0, -2.0]), torch.tensor([[0.5, 0.2, 0.0]])
    wanted = [((np.log(d) - np.log(1 - d) + w) / 0.5) for d, w in ((0.5, 0), (0.2, 1), (1e-4, -2))]
    assert augmenter.keep(logits, noise)[0].tolist() == pytest.approx(1 / (1 + np.exp(-np.array(wanted))), rel=1e-4)
    hard = Augmenter(GIN(1, 4), hard=True).keep(torch.tensor([2.0, -2.0]), torch.full((1, 2), 0.5))
    assert hard[0].tolist() == pytest.approx([1 / (1 + np.exp(-2)), 0.0])


def test_the_dropped_share_is_a_mean_of_graphs_not_of_bonds() -> None:
    graphs = collate(featurise(["CCO", "CC", "C"]), np.arange(3))  # 2 bonds, 1 bond, none
    assert dropped_share(torch.tensor([[0.5, 1.0, 0.2]]), graphs).item() == pytest.approx((0.25 + 0.8) / 2)


# -- losses -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("filtered", [False, True])
def test_the_group_contrast_by_loops(filtered: bool) -> None:
    z, views = probe(4, 5), probe(8, 5).flip(1)
    y, of_views = probe(4, 2) > 0, probe(8, 2).flip(0) > -0.2
    counted = probe(8, 2).abs() > 0.5 if filtered else None
    s = torch.tensor([[F.cosine_similarity(a, b, dim=0) / 0.3 for b in views] for a in z])
    tasks = []
    for t in range(2):
        anchors = []
        for i in range(4):
            same = [j for j in range(8) if of_views[j, t] == y[i, t] and (counted is None or counted[j, t])]
            if same:
                anchors.append(-sum(s[i, j] - s[i].logsumexp(0) for j in same) / len(same))
        tasks.append(sum(anchors) / len(anchors))
    found = group_contrast(z, views, y, of_views, tau=0.3, counted=counted)
    assert found.item() == pytest.approx(float(sum(tasks)) / 2, rel=1e-5)


def test_own_views_by_loops() -> None:
    z, views = probe(3, 5), probe(6, 5).flip(1)
    s = torch.tensor([[F.cosine_similarity(a, b, dim=0) / 0.2 for b in views] for a in z])
    wanted = -np.mean([(s[i, i + 3 * k] - s[i].logsumexp(0)).item() for i in range(3) for k in range(2)])
    assert own_contrast(z, views, 0.2).item() == pytest.approx(wanted, rel=1e-5)


def test_the_least_value_with_groups_is_the_log_of_their_size() -> None:
    z = torch.eye(2).repeat_interleave(3, 0)
    y = torch.tensor([[True]] * 3 + [[False]] * 3)
    assert group_contrast(z, z, y, y, tau=0.01).item() == pytest.approx(np.log(3), abs=1e-4)
    same = torch.ones(6, 2)
    assert group_contrast(same, same, y, y).item() == pytest.approx(np.log(6), abs=1e-5)


def test_the_losses_of_the_baselines_by_hand() -> None:
    logits = torch.tensor([[2.0], [-2.0]])
    p = 1 / (1 + np.exp(-2))
    entropy = -p * np.log(p) - (1 - p) * np.log(1 - p)
    assert binary_entropy(logits).tolist() == [[pytest.approx(entropy)]] * 2
    assert information_maximisation(logits).item() == pytest.approx(entropy - np.log(2), abs=1e-5)
    features = torch.tensor([[1.0, 0.1], [0.9, 0.0], [0.0, 1.0], [0.1, 0.8]])
    # The last one's logit is wrong; it lies with the zeros.
    labels = centroid_labels(features, torch.tensor([[3.0], [2.0], [-3.0], [0.2]]))
    assert labels.flatten().tolist() == [1, 1, 0, 0]
    labels = torch.tensor([[1.0, float("nan")], [float("nan"), 0.0]])
    loss = masked_bce(lambda _: torch.tensor([[2.0, 9.0], [9.0, -2.0]]), (None, labels))
    assert loss.item() == pytest.approx(np.log(1 + np.exp(-2)))


def test_mean_auc_leaves_out_what_is_undefined() -> None:
    nan = float("nan")
    labels = np.array([[0, 1, nan], [1, 1, nan], [1, 1, 1]])
    scores = np.array([[0.1] * 3, [0.9] * 3, [0.4] * 3])
    assert mean_auc(labels, scores) == (1.0, 2)
    assert np.isnan(mean_auc(labels[:, 1:], scores[:, 1:])[0])


# -- the game ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Molecules:
    folder = tmp_path_factory.mktemp("molecules")
    study = GAPGCStudy(GAPGCConfig(**SMALL), Session(0, folder / "session"))
    study.write_sample(folder)
    return study.read(folder)


def source(arm: str, tasks: int = 1, **settings: Any) -> AdaptiveClassifier:
    torch.manual_seed(0)
    model = AdaptiveClassifier(arm, [f"t{k}" for k in range(tasks)], 2, 8, 0.3, **settings)
    # Running statistics as after training, and pseudo-labels of both kinds.
    graphs = collate(featurise(["CCO", "c1ccccc1O", "C1CCNCC1", "Clc1ccncc1", "CC(C)(C)O", "NC=O"]), np.arange(6))
    model.train()
    for _ in range(30):
        model(graphs)
    with torch.no_grad():
        model.classifier.head.bias -= model.eval()(graphs).median(0).values
    model.start_from(model)
    return model.eval()


def stream_of(arm: str, data: Molecules, rows: np.ndarray | None = None, **settings: Any) -> tuple[Any, Any, Any]:
    model = source(arm)
    config = GAPGCConfig(**{**SMALL, **settings})
    rows = np.arange(24) if rows is None else rows
    parts = [rows[k : k + config.adapt_batch] for k in range(0, len(rows), config.adapt_batch)]
    batches = [(part, collate(data, part)) for part in parts]
    return (*adapt_along(model, batches, data.size, config, torch.Generator().manual_seed(1)), model)


def changed(a: nn.Module, b: nn.Module) -> set[str]:
    return {name for name, tensor in a.state_dict().items() if not torch.equal(tensor, b.state_dict()[name])}


@pytest.mark.parametrize("arm", ARMS)
def test_what_an_arm_changes(arm: str, data: Molecules) -> None:
    before = source(arm)
    stream, after, model = stream_of(arm, data)
    assert not changed(before, model), "the source model is left as it is"
    names = {name for name in changed(model, after) if not name.endswith("num_batches_tracked")}
    assert not any(name.startswith("classifier.head") for name in names)
    encoder = {n for n in names if n.startswith("classifier.encoder")}
    statistics = {n for n in encoder if "running" in n}
    assert bool(statistics) == (ARMS[arm].kind in ("shot", "contrast"))
    assert bool(encoder - statistics) == (ARMS[arm].kind not in ("none", "statistics"))
    if arm == "tent":
        assert all("norms" in name for name in names)
    assert any(n.startswith("projector") for n in names) == (ARMS[arm].kind == "contrast")
    assert any(n.startswith("augmenter") for n in names) == (ARMS[arm].views == "learned")
    assert not any(n.startswith("augmenter") and "running" in n for n in names)
    seen = stream.after[:24]
    assert seen.isfinite().all()
    assert torch.equal(seen, stream.before[:24]) == (arm == "source")
    assert stream.after[24:].isnan().all()


def test_running_statistics_follow_the_clean_pass_alone(data: Molecules) -> None:
    """With learning rates of nothing, what remains is one update by the clean batch."""
    tiny = {"adapt_lr": 1e-30, "augmenter_lr": 1e-30}
    _, clean, model = stream_of("gapgc", data, np.arange(8), **tiny)
    wanted = copy.deepcopy(model.classifier)
    batch_statistics(wanted)
    wanted(collate(data, np.arange(8)))
    for found, norm in zip(norms_of(clean.classifier), norms_of(wanted), strict=True):
        torch.testing.assert_close(found.running_mean, norm.running_mean)
        torch.testing.assert_close(found.running_var, norm.running_var)
    _, spoilt, _ = stream_of("gapgc+view-statistics", data, np.arange(8), **tiny)
    first = [norms_of(m.classifier)[0].running_mean for m in (clean, spoilt)]
    assert not torch.allclose(cast(Tensor, first[0]), cast(Tensor, first[1]))


def test_momentum_comes_back_after_an_error() -> None:
    norm = nn.BatchNorm1d(3)
    with pytest.raises(ValueError, match="more than 1 value"), untouched_statistics(norm):
        norm(torch.randn(4, 3) + norm(torch.randn(1, 3)))
    with untouched_statistics(norm):
        norm(torch.randn(4, 3))
    assert norm.momentum == 0.1
    assert cast(Tensor, norm.running_mean).tolist() == [0, 0, 0]


def test_the_adversary_ascends_and_the_encoder_descends(data: Molecules) -> None:
    """On one batch, with the noise held still, each player moves the contrast its way."""
    graphs, config = collate(data, np.arange(24)), GAPGCConfig(**{**SMALL, "lam": 0.0, "views": 4})
    for arm in ("ala", "gapgc"):
        game = Adaptation(source(arm), config, torch.Generator())
        assert game.model.augmenter is not None
        assert game.model.projector is not None
        assert game.ascent is not None
        assert game.descent is not None

        def value(game: Adaptation = game) -> tuple[Tensor, Tensor]:
            batch_statistics(game.model)
            assert game.model.projector is not None
            game.generator.manual_seed(3)
            with untouched_statistics(game.model):
                pooled = game.model.classifier.encoder.embed(graphs)
                keep = game.keep_weights(graphs)
                loss = game.contrast(graphs, pooled, game.model.projector(pooled), keep)
            assert loss is not None
            return loss, keep

        for _ in range(10):
            loss, _ = value()
            game._update(game.ascent, game.psi, -loss)
        risen = value()[0]
        assert risen > 1.001 * value_of_start(arm, config, graphs)
        for _ in range(10):
            game._update(game.descent, game.theta, value()[0])
        assert value()[0] < risen


def value_of_start(arm: str, config: GAPGCConfig, graphs: Graphs) -> float:
    game = Adaptation(source(arm), config, torch.Generator().manual_seed(3))
    assert game.model.projector is not None
    batch_statistics(game.model)
    with torch.no_grad(), untouched_statistics(game.model):
        pooled = game.model.classifier.encoder.embed(graphs)
        loss = game.contrast(graphs, pooled, game.model.projector(pooled), game.keep_weights(graphs))
    assert loss is not None
    return loss.item()


def test_dropping_costs_the_adversary(data: Molecules) -> None:
    """A large λ keeps bonds: R is the lower."""
    share = {}
    for lam in (0.0, 1000.0):
        stream, _, _ = stream_of("gapgc", data, np.tile(np.arange(8), 6), lam=lam, augmenter_lr=0.01)
        share[lam] = stream.records[-1]["dropped"]
    assert share[1000.0] < share[0.0] - 0.05


def test_random_views_drop_the_stated_share(data: Molecules) -> None:
    game = Adaptation(source("gpps"), GAPGCConfig(**{**SMALL, "drop": 0.3, "views": 50}), torch.Generator())
    keep = game.keep_weights(collate(data, np.arange(30)))
    assert set(keep.unique().tolist()) == {0.0, 1.0}
    assert keep.mean().item() == pytest.approx(0.7, abs=0.02)


def test_updates_without_a_signal_are_skipped_and_counted(data: Molecules) -> None:
    for arm, expected in (("gapgc", 2), ("ala", 0)):
        model = source(arm)
        with torch.no_grad():
            model.classifier.head.bias.fill_(100.0)
        rows = np.arange(8)
        config = GAPGCConfig(**{**SMALL, "steps": 2})
        batches = [(rows, collate(data, rows))]
        stream, after = adapt_along(model, batches, data.size, config, torch.Generator())
        assert stream.records[0]["skipped"] == expected
        moved = changed(model, after)
        assert any(name.startswith("projector") for name in moved) == (arm == "ala")


def test_several_tasks_and_the_confidence_filter(data: Molecules) -> None:
    rows = np.arange(16)
    for settings in ({}, {"confidence": 0.55}, {"confidence": 0.999}):
        config = GAPGCConfig(**{**SMALL, **settings})
        model = source("gapgc", tasks=3)
        stream, _ = adapt_along(model, [(rows, collate(data, rows))], data.size, config, torch.Generator())
        assert stream.after[:16].isfinite().all()
        assert np.isfinite(stream.records[0]["loss"])


def test_online_remembers_and_episodic_forgets(data: Molecules) -> None:
    """Episodic: the second time a batch comes it is predicted as it would be at first, but for the noise of views."""
    rows, other = np.arange(8), np.arange(8, 16)
    for arm in ("tent", "shot"):  # arms without noise
        first = stream_of(arm, data, rows)[0].after[:8]
        online = stream_of(arm, data, np.r_[other, rows], reset="online")[0].after[:8]
        episodic = stream_of(arm, data, np.r_[other, rows], reset="episodic")[0].after[:8]
        assert torch.equal(first, episodic)
        assert not torch.allclose(first, online)


def test_a_molecule_that_comes_alone_is_left_to_the_source(data: Molecules) -> None:
    for arm in ("bn", "gapgc"):
        stream, _, _ = stream_of(arm, data, np.arange(9))
        assert stream.refused == 1
        assert torch.equal(stream.after[8], stream.before[8])
        assert not torch.equal(stream.after[:8], stream.before[:8])


def test_the_loss_that_is_not_finite_is_said(data: Molecules) -> None:
    model = source("gapgc")
    with torch.no_grad():
        cast(nn.Linear, cast(nn.Sequential, model.projector)[2]).weight.fill_(float("nan"))
    rows = np.arange(8)
    with pytest.raises(Diverged, match="the loss is nan"):
        adapt_along(model, [(rows, collate(data, rows))], data.size, GAPGCConfig(**SMALL), torch.Generator())


# -- the study --------------------------------------------------------------------------------------


def study_in(folder: Path, **settings: Any) -> GAPGCStudy:
    return GAPGCStudy(GAPGCConfig(**{**SMALL, **settings}), Session(0, folder, keep_seconds=0.0))


def afresh(study: GAPGCStudy) -> GAPGCStudy:
    """The study without resume points."""
    study.session.finish()
    return study


def test_arms_share_the_source_model_and_the_order_of_the_stream(tmp_path: Path, data: Molecules) -> None:
    study = study_in(tmp_path)
    models = {arm: study.train(arm, data) for arm in ("source", "bn", "gapgc")}
    metrics = {arm: study.evaluate(afresh(study).adapt(model, data), data) for arm, model in models.items()}
    for model in models.values():
        assert not changed(models["source"].classifier, model.classifier)
    assert len({m["auc_source"] for m in metrics.values()}) == 1
    assert metrics["source"]["gain"] == 0
    assert {"dropped_first", "dropped_last"} <= set(metrics["gapgc"])
    assert {p.name for p in (tmp_path / "figures").iterdir()} == {
        "along-the-stream.png", "groups.png", "kept-bonds.png",
    }  # fmt: skip


def test_labels_of_the_stream_change_nothing_but_the_score(tmp_path: Path, data: Molecules) -> None:
    study = study_in(tmp_path)
    model = study.train("gapgc", data)
    turned = data.labels.copy()
    turned[data.split["test"]] = 1 - turned[data.split["test"]]
    lying = Molecules(**{**data.__dict__, "labels": turned})
    streams = [afresh(study).adapt(model, d).streams[0] for d in (data, lying)]
    assert torch.equal(streams[0].after.nan_to_num(), streams[1].after.nan_to_num())
    ours, theirs = (study.evaluate(afresh(study).adapt(model, d), d) for d in (data, lying))
    assert theirs["auc"] == pytest.approx(1 - ours["auc"])
    assert theirs["entropy"] == ours["entropy"]


def test_saved_and_loaded_it_evaluates_the_same(tmp_path: Path, data: Molecules) -> None:
    study = study_in(
        tmp_path / "session", pretrain_projector=1, threshold="source-median", scorer="cosine", jk="concat"
    )
    model = study.train("gapgc", data)
    assert model.threshold.abs().item() > 0
    checkpoint.save(model, tmp_path / "model")
    loaded = checkpoint.load(tmp_path / "model")
    ours, theirs = (study.evaluate(afresh(study).adapt(m, data), data) for m in (model, loaded))
    assert ours == theirs
    with pytest.raises(Problem, match="not adapted"):
        study.evaluate(loaded, data)


def test_an_interrupted_adaptation_goes_on_with_the_order_in_which_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REPERTORY_KEEP_SECONDS", "0")
    whole = Experiment("gapgc", "smoke", out=tmp_path / "whole", settings={"orders": 3}).run(arms=["gapgc"])
    along, orders, trained = GAPGCStudy._along, [], []

    def cut(self: GAPGCStudy, model: Any, data: Any, rows: Any, order: int) -> Any:
        orders.append(order)
        assert torch.is_grad_enabled()
        if orders == [0, 1]:
            raise KeyboardInterrupt
        return along(self, model, data, rows, order)

    train = GAPGCStudy.train
    monkeypatch.setattr(GAPGCStudy, "_along", cut)
    monkeypatch.setattr(GAPGCStudy, "train", lambda self, *args: trained.append(1) or train(self, *args))
    experiment = Experiment("gapgc", "smoke", out=tmp_path / "cut", settings={"orders": 3})
    with pytest.raises(KeyboardInterrupt):
        experiment.run(arms=["gapgc"])
    assert experiment.run(arms=["gapgc"]).metrics == whole.metrics
    assert orders == [0, 1, 1, 2]
    assert len(trained) == 1, "what was trained before the interruption is trained again"


def test_only_the_projector_learns_beforehand(tmp_path: Path, data: Molecules) -> None:
    plain = study_in(tmp_path / "a").train("gapgc", data)
    trained = study_in(tmp_path / "b", pretrain_projector=2).train("gapgc", data)
    names = {n for n in changed(plain, trained) if not n.endswith("num_batches_tracked")}
    assert names
    assert all(name.startswith("projector") for name in names)


# -- use --------------------------------------------------------------------------------------------


def test_predictions_for_an_own_table(tmp_path: Path, data: Molecules) -> None:
    study = study_in(tmp_path / "session")
    model = study.train("gapgc", data)
    bare, told = tmp_path / "bare.csv", tmp_path / "told.csv"
    bare.write_text("name,smiles\n" + "".join(f"m{k},{s}\n" for k, s in enumerate(data.smiles[:17])))
    lines = (f"{s},{int(y)}\n" for s, y in zip(data.smiles[:17], data.labels[:17, 0], strict=True))
    told.write_text("smiles,active\n" + "".join(lines))
    without, with_labels = study.predict(model, bare), study.predict(model, told)
    assert without.table == with_labels.table
    assert [row["smiles"] for row in without.table] == data.smiles[:17]
    assert set(without.table[0]) == {"smiles", "active_before", "active_after", "active_pseudo_label"}
    assert all(row["active_pseudo_label"] == (row["active_after"] >= 0.5) for row in without.table)
    assert {"along-the-stream", "groups", "kept-bonds"} == set(without.figures)
    assert "roc" in with_labels.figures
    assert "AUC by the table's labels" in with_labels.text
    assert "1 in batches of one" in without.text
    bonds = without.arrays["kept-bonds"]
    assert len(bonds) == data.bond_starts[17] // 2
    assert ((bonds["keep"] > 0) & (bonds["keep"] < 1)).all()

    one = tmp_path / "one.csv"
    one.write_text("smiles\nCCO\n")
    lonely = study.predict(model, one)
    assert lonely.table[0]["active_before"] == lonely.table[0]["active_after"]


def test_the_adapted_model_is_written(tmp_path: Path, data: Molecules) -> None:
    study = study_in(tmp_path / "session")
    model = study.train("gapgc", data)
    table = tmp_path / "t.csv"
    table.write_text("smiles\n" + "\n".join(data.smiles[:16]))
    folder = study.predict(model, table).files["adapted"]
    adapted = cast(AdaptiveClassifier, checkpoint.load(folder))
    assert adapted.arm == "source"
    assert changed(model.classifier, adapted.classifier)
    assert study.predict(adapted, table).table


def released(layers: int, dim: int, tasks: int = 0) -> dict[str, Tensor]:
    """A state dict as pretrain-gnns writes it."""
    generator = torch.Generator().manual_seed(0)
    state = {"x_embedding1.weight": (120, dim), "x_embedding2.weight": (3, dim)}
    for k in range(layers):
        state |= {
            f"gnns.{k}.mlp.0.weight": (2 * dim, dim), f"gnns.{k}.mlp.0.bias": (2 * dim,),
            f"gnns.{k}.mlp.2.weight": (dim, 2 * dim), f"gnns.{k}.mlp.2.bias": (dim,),
            f"gnns.{k}.edge_embedding1.weight": (6, dim), f"gnns.{k}.edge_embedding2.weight": (3, dim),
            **{f"batch_norms.{k}.{n}": (dim,) for n in ("weight", "bias", "running_mean", "running_var")},
        }  # fmt: skip
    tensors = {name: torch.rand(shape, generator=generator) for name, shape in state.items()}
    tensors |= {f"batch_norms.{k}.num_batches_tracked": torch.tensor(3) for k in range(layers)}
    if tasks:
        tensors = {f"gnn.{name}": tensor for name, tensor in tensors.items()}
        tensors |= {"graph_pred_linear.weight": torch.rand(tasks, dim), "graph_pred_linear.bias": torch.rand(tasks)}
    return tensors


def test_released_encoders_load(tmp_path: Path, data: Molecules) -> None:
    torch.save(released(2, 8), tmp_path / "contextpred.pth")
    encoder = GIN(2, 8)
    load_encoder(encoder, tmp_path / "contextpred.pth")
    state = released(2, 8)
    assert torch.equal(encoder.element.weight, state["x_embedding1.weight"])
    assert torch.equal(cast(Any, encoder.layers[1]).mlp[2].weight, state["gnns.1.mlp.2.weight"])
    assert torch.equal(cast(Any, encoder.norms[0]).running_var, state["batch_norms.0.running_var"])
    with pytest.raises(Problem, match=r"L = 2, d = 8; the model has L = 3, d = 8"):
        load_encoder(GIN(3, 8), tmp_path / "contextpred.pth")
    study = study_in(tmp_path / "session", source_encoder=str(tmp_path / "contextpred.pth"), lr=1e-9)
    warm = study.train("source", data)
    torch.testing.assert_close(warm.classifier.encoder.element.weight, encoder.element.weight, rtol=1e-4, atol=1e-4)


def test_a_released_classifier_converts(tmp_path: Path, data: Molecules) -> None:
    torch.save(released(3, 8, tasks=2), tmp_path / "classifier.pth")
    study = study_in(tmp_path / "session")
    model = study.convert(tmp_path / "classifier.pth", "a,b")
    assert (model.arm, model.tasks, model.layers, model.dim) == ("gapgc", ["a", "b"], 3, 8)
    assert model.augmenter is not None
    assert not changed(model.augmenter.encoder, model.classifier.encoder)
    table = tmp_path / "t.csv"
    table.write_text("smiles\n" + "\n".join(data.smiles[:16]))
    assert set(study.predict(model, table).table[0]) >= {"a_before", "b_after"}
    with pytest.raises(Problem, match="3 names for 2 tasks"):
        study.convert(tmp_path / "classifier.pth", "a,b,c")
    torch.save(released(3, 8), tmp_path / "encoder.pth")
    with pytest.raises(Problem, match="no head graph_pred_linear"):
        study.convert(tmp_path / "encoder.pth")


# -- bad input --------------------------------------------------------------------------------------


def table_of(path: Path, data: Molecules, **columns: list[Any]) -> Path:
    rows = zip(data.smiles, *columns.values(), strict=True)
    path.write_text("\n".join([",".join(["smiles", *columns]), *(",".join(map(str, row)) for row in rows)]))
    return path


def test_seeds_draw_scaffold_splits_of_their_own(tmp_path: Path, data: Molecules) -> None:
    table = table_of(tmp_path / "t.csv", data, active=data.labels[:, 0].astype(int).tolist())

    def tested(seed: int, split: str) -> list[int]:
        config = GAPGCConfig.model_validate({**SMALL, "split": split})
        study = GAPGCStudy(config, Session(seed, tmp_path / "session"))
        return study.read(table).split["test"].tolist()

    assert tested(1, "random-scaffold") == tested(1, "random-scaffold") != tested(2, "random-scaffold")
    assert tested(1, "scaffold") == tested(2, "scaffold") == molecules.scaffold_split(data.smiles)["test"].tolist()


def test_a_task_of_one_class_is_dropped_with_a_warning(tmp_path: Path, data: Molecules) -> None:
    study = study_in(tmp_path / "session")
    y = data.labels[:, 0].astype(int).tolist()
    path = table_of(tmp_path / "t.csv", data, good=y, never=[0] * data.size)
    with pytest.warns(UserWarning, match="dropped, one class only in train: never"):
        found = study.read(path)
    assert found.tasks == ["good"]
    with pytest.raises(Problem, match="every task has one class only"):
        study.read(table_of(tmp_path / "u.csv", data, never=[0] * data.size))
    with pytest.raises(Problem, match="no column of labels"):
        study.read(table_of(tmp_path / "v.csv", data, name=["x"] * data.size))


def test_the_preview_names_the_tasks_that_are_left(tmp_path: Path, data: Molecules) -> None:
    study = study_in(tmp_path / "session")
    y = data.labels[:, 0].astype(int).tolist()
    path = table_of(tmp_path / "t.csv", data, good=y, never=[0] * data.size, opposite=[1 - label for label in y])
    with pytest.warns(UserWarning, match="dropped, one class only in train: never"):
        found = study.read(path)
    assert plan(study, "gapgc", found).endswith("2 tasks: good, opposite")
    assert study.preview("gapgc", found.of_tasks(["good"])) == ["1 task: good"]
    many = replace(found, tasks=[f"t{k}" for k in range(13)])
    assert study.preview("gapgc", many) == ["13 tasks: t0, t1, t2, t3, t4, t5, t6, t7, t8, t9, t10, t11, …"]


def test_an_undefined_auc_is_told(tmp_path: Path, data: Molecules) -> None:
    study = study_in(tmp_path / "session")
    rare = np.zeros(data.size, int)
    rare[data.split["train"][::3]] = 1
    y = data.labels[:, 0].astype(int).tolist()
    found = study.read(table_of(tmp_path / "t.csv", data, good=y, rare=rare.tolist()))
    metrics = study.evaluate(study.adapt(study.train("bn", found), found), found)
    assert metrics["undefined_tasks"] == 1
    assert np.isfinite(metrics["auc"])


def test_what_cannot_be_split_or_matched_is_said(tmp_path: Path, data: Molecules) -> None:
    study = study_in(tmp_path / "session")
    (tmp_path / "few.csv").write_text("smiles,y\nCCO,1\nCCN,0\n")
    with pytest.raises(Problem, match="nothing is left for"):
        study.read(tmp_path / "few.csv")
    with pytest.raises(Problem, match="no data for gapgc"):
        study.read(tmp_path / "session")
    with pytest.raises(Problem, match="the data have no task 'other'"):
        study.adapt(AdaptiveClassifier("bn", ["other"], 2, 8), data)


def test_listing_needs_neither_torch_nor_rdkit_and_an_absent_extra_is_a_problem(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    code = """
import sys
from repertory import catalog
catalog.card("gapgc")
print(sorted({"torch", "rdkit", "torch_geometric"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    monkeypatch.setitem(sys.modules, "rdkit.Chem", None)
    with pytest.raises(Problem, match="rdkit") as caught:
        featurise(["C"])
    assert "repertory[chem]" in caught.value.remedy
    assert problem.require("json", extra="none")


@pytest.mark.realdata
def test_bace_trains_and_adapts(tmp_path: Path, real_data: Callable[[str], Path]) -> None:
    real_data("bace")
    study = study_in(tmp_path, real="bace", layers=3, dim=32, epochs=6, orders=1, adapt_batch=64)
    data = study.data()
    assert molecules.find_table(study.data_folder()) is not None
    metrics = study.evaluate(study.adapt(study.train("gapgc", data), data), data)
    assert metrics["auc_source"] > 0.55
    assert metrics["refused"] == 0
