"""MGTAB: fidelity to the authors' code, layers by hand, the protocol, sampled training, use, and bad input."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.utils import shuffle
from torch import Tensor, nn
from torch_geometric.nn import RGCNConv

from repertory.core import checkpoint
from repertory.core.problem import Problem
from repertory.core.study import Session
from repertory.data.accounts import AccountGraph, generated_accounts, write_large, write_mgtab
from repertory.papers.mgtab import (
    GAT,
    NETWORKS,
    SHGN,
    AccountClassifier,
    BotRGCN,
    FittedClassifier,
    RelationalConv,
    Relations,
    RGTLayer,
    SemanticAttention,
    SimpleHGNLayer,
    mgtab_branches,
)
from repertory.papers.mgtab.classifiers import CLASSIFIERS
from repertory.papers.mgtab.features import (
    BOUNDS,
    LOGARITHMIC,
    PROPERTY_NAMES,
    information_gain,
    property_features,
    ranked_properties,
)
from repertory.papers.mgtab.loop import FullBatch, Sampled
from repertory.papers.mgtab.race import contestants
from repertory.papers.mgtab.settings import ARMS, MGTABConfig
from repertory.papers.mgtab.study import MGTABStudy, branches
from tests.fidelity.cases import assert_agrees, cases
from tests.fidelity.fill import fill_, probe

UNUSED = {"GCN": 65_792, "SAGE": 65_792, "BotRGCN": 65_792}
"""Parameters of the released modules that no forward pass uses."""


def study(tmp_path: Path, data: Path | None = None, seed: int = 0, **settings: Any) -> MGTABStudy:
    config = MGTABConfig.model_validate({**MGTABStudy.scales["smoke"].model_dump(), **settings})
    return MGTABStudy(config, Session(seed, tmp_path / "session", data))


@pytest.fixture(scope="module")
def graph() -> AccountGraph:
    return generated_accounts(np.random.default_rng(1), 100)


@pytest.fixture(scope="module")
def folder(graph: AccountGraph, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("mgtab")
    write_mgtab(made, graph)
    return made


# -- fidelity -----------------------------------------------------------------------------------


def reference_graph(n: int, edges: int, relations: int) -> tuple[Tensor, Tensor]:
    """The graph that the reference outputs were made on."""
    i = torch.arange(edges)
    source, target = (7 * i + 3 * (i // n)) % n, (5 * i + 2 * (i // n) + 1) % n
    return torch.stack([source, target]), (3 * i + i // 5) % relations


def built(config: dict[str, Any]) -> nn.Module:
    if config.get("layer") == "SimpleHGNLayer":
        names = ("in_channels", "out_channels", "num_edge_type", "rel_dim", "beta", "final_layer")
        return SimpleHGNLayer(*(config[name] for name in names))
    kind: Any = {network.__name__: network for network in NETWORKS.values()}
    name = config["model"]
    features = config.get("embedding_dimension", config.get("features_num"))
    relations = config.get("num_edge_type", config["R"])
    extra: dict[str, Any] = {}
    if name == "BotRGCN":
        extra["branches"] = mgtab_branches(config["hidden_dimension"], released=True)
    if name in ("HGT", "SHGN"):
        extra |= {"linear": config["linear_channels"], "out": config["out_channel"]}
    if name == "SHGN":
        extra |= {"rel_dim": config["rel_dim"], "beta": config["beta"]}
    if name == "RGT":
        extra |= {"out": config["out_channel"]}
        extra |= {"trans_heads": config["trans_head"], "semantic_heads": config["semantic_head"]}
    sizes = (features, config["out_dim"], relations, config["hidden_dimension"], config["dropout"])
    return kind[name](*sizes, **extra)


@pytest.mark.parametrize("case", cases("mgtab"))
def test_agrees_with_the_authors_code(case: dict[str, Any]) -> None:
    config = case["config"]
    model: Any = fill_(built(config)).eval()
    edges = reference_graph(config["N"], config["E"], config["R"])
    x = probe(*case["input"][0])
    with torch.no_grad():
        if isinstance(model, SimpleHGNLayer):
            output, _ = model(x, Relations(*edges, config["R"], config["N"]))
        else:
            output = model(x, *edges)
    assert_agrees(output, case)
    assert sum(p.numel() for p in model.parameters()) + UNUSED.get(config.get("model", ""), 0) == case["params"]


# -- layers -------------------------------------------------------------------------------------


def some_edges(n: int, edges: int, relations: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return torch.randint(n, (2, edges), generator=draw), torch.randint(relations, (edges,), generator=draw)


def test_means_are_those_of_a_loop_and_so_are_their_gradients() -> None:
    edges, kinds = some_edges(7, 30, 3)
    graph = Relations(edges, kinds, 3, 7)
    x = torch.rand(7, 4, dtype=torch.float64, requires_grad=True)
    expected = torch.zeros(3, 7, 4, dtype=torch.float64)
    for r in range(3):
        for i in range(7):
            near = edges[0, (kinds == r) & (edges[1] == i)]
            if len(near):
                expected[r, i] = x[near].mean(0)
    torch.testing.assert_close(graph.mean(x), expected)
    assert torch.autograd.gradcheck(graph.mean, (x,))
    assert graph.degrees().sum() == 30


@pytest.mark.parametrize("relations", [1, 2, 5])
def test_the_sparse_product_is_pygs_layer(relations: int) -> None:
    edges, kinds = some_edges(20, 90, relations)
    x, layer = torch.rand(20, 6, requires_grad=True), RelationalConv(6, 5, relations)
    plain = RGCNConv(6, 5, relations)
    plain.load_state_dict(layer.state_dict())
    fast, slow = layer(x, Relations(edges, kinds, relations, 20)), plain(x, edges, kinds)
    torch.testing.assert_close(fast, slow, rtol=1e-4, atol=1e-5)
    seed = torch.rand_like(fast)
    for found, expected in zip(
        torch.autograd.grad(fast, [x, *layer.parameters()], seed),
        torch.autograd.grad(slow, [x, *plain.parameters()], seed),
        strict=True,
    ):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_the_two_racers_compute_the_same() -> None:
    epochs = contestants(nodes=40, edges=200, features=8, hidden=8)
    losses = {name: [float(epoch()) for _ in range(3)] for name, epoch in epochs.items()}
    assert losses["ours"] == pytest.approx(losses["pyg"], rel=1e-4)


def test_simple_hgn_edge_by_edge() -> None:
    edges, kinds = some_edges(6, 20, 2)
    graph = Relations(edges, kinds, 2, 6)
    layer: Any = fill_(SimpleHGNLayer(4, 3, 2, rel_dim=5, edge_residual=True))
    x, previous = probe(6, 4), torch.rand(20)
    found, carried = layer(x, graph, previous)
    h, relation = layer.W(x), layer.W_r(layer.rel_emb.weight)
    score = torch.stack([
        nn.functional.leaky_relu(layer.a(torch.cat([h[i], h[j], relation[r]])), 0.2)[0]
        for (j, i), r in zip(graph.edge_index.T.tolist(), graph.edge_type.tolist(), strict=True)
    ])  # fmt: skip
    expected = torch.empty(6, 3)
    for i in range(6):
        into = graph.edge_index[1] == i
        alpha = 0.95 * score[into].softmax(0) + 0.05 * previous[into]
        torch.testing.assert_close(carried[into], alpha)
        expected[i] = nn.functional.elu(alpha @ h[graph.edge_index[0, into]] + layer.W_res(x)[i])
    torch.testing.assert_close(found, expected)
    assert not carried.requires_grad


def test_the_edge_residual_changes_the_output_only_where_it_is_asked_for() -> None:
    edges, kinds = some_edges(6, 20, 2)
    x, outputs = probe(6, 9), {}
    for residual in (False, True):
        for beta in (0.05, 0.5):
            model: Any = fill_(SHGN(9, 2, 2, hidden=8, linear=4, beta=beta, edge_residual=residual)).eval()
            outputs[residual, beta] = model(x, edges, kinds)
    torch.testing.assert_close(outputs[False, 0.05], outputs[False, 0.5], rtol=0, atol=0)
    assert not torch.allclose(outputs[True, 0.05], outputs[True, 0.5])


def test_semantic_attention_is_the_mean_of_its_heads() -> None:
    z = probe(5, 3, 4)
    attention: Any = fill_(SemanticAttention(4, heads=2, hidden=6))
    found, beta = attention(z)
    heads = []
    for layer in attention.att_layers:
        w = torch.stack([layer(z[:, r]).mean() for r in range(3)]).softmax(0)
        heads.append((z * w[None, :, None]).sum(1))
    torch.testing.assert_close(found, torch.stack(heads).mean(0))
    assert float(beta.detach().sum()) == pytest.approx(1)


@pytest.mark.parametrize("relations", [1, 3])
def test_rgt_uses_every_relation(relations: int) -> None:
    edges, kinds = some_edges(8, 40, relations)
    layer, x = RGTLayer(8, relations, 2, 2).eval(), torch.rand(8, 8)
    graph = Relations(edges, kinds, relations, 8)
    whole, weights = layer(x, graph)
    assert weights.shape == (relations,)
    for r in range(relations):
        assert not torch.allclose(whole, layer(x, graph.without(r))[0])


def test_branches_of_the_published_columns() -> None:
    numeric, boolean = mgtab_branches(256)[1][0], mgtab_branches(256)[2][0]
    assert sorted([*numeric, *boolean]) == list(range(20))
    released = mgtab_branches(256, released=True)
    assert list(released[1][0]) == [4, 6, 7, 8, 10, 11, 12, 13, 14, 15]
    assert list(released[2][0]) == [1, 2, 3, 5, 9, 16, 17, 18, 19, 20]
    with pytest.raises(Problem, match="do not fit"):
        BotRGCN(10, 2, hidden=16, branches=[((0, 1), 8), ((12,), 8)])


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_initialise_anew_and_tell_their_sizes(name: str) -> None:
    network = NETWORKS[name](788, 3, 2, 16)
    edges, kinds = some_edges(5, 9, 2)
    before = network.eval()(torch.ones(5, 788), edges, kinds)
    network.reset_parameters()
    assert not torch.allclose(before, network(torch.ones(5, 788), edges, kinds))
    assert "788, 3, num_relations=2" in repr(network)
    assert network(torch.ones(5, 788), torch.zeros(2, 0, dtype=torch.int64)).shape == (5, 3)
    linear: Any = next(m for m in network.children() if isinstance(m, nn.Sequential))[0]
    assert bool((linear.bias == 0).all()) == network.zero_bias


def test_gat_needs_a_width_that_its_heads_divide() -> None:
    with pytest.raises(Problem, match="8 heads"):
        GAT(10, 2, hidden=20)


# -- classifiers --------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [m for m in CLASSIFIERS if m != "xgboost"])
def test_a_classifier_is_the_same_after_saving(method: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    y = torch.from_numpy(rng.integers(0, 2, 60) * 2)  # class 1 of three has no account
    x = torch.from_numpy(rng.normal(size=(60, 4))).float() + y[:, None]
    model = AccountClassifier(method, 4, {"stance": ["a", "b", "c"]}, rows={"stance": 60}, seed=3)
    fitted: Any = model.of("stance")
    fitted.fit(x, y)
    logits = fitted(x)
    assert torch.equal(logits.argmax(1), torch.from_numpy(fitted.present.numpy()[fitted.fitted().predict(x.numpy())]))
    assert (logits.argmax(1) != 1).all()
    checkpoint.save(model, tmp_path / "model")
    again = checkpoint.load(tmp_path / "model")
    assert torch.equal(again.of("stance")(x), logits)


def test_one_class_is_refused() -> None:
    with pytest.raises(Problem, match="one class"):
        FittedClassifier("svm", 1, 2, 3).fit(torch.ones(3, 1), torch.zeros(3, dtype=torch.int64))


def test_xgboost_asks_for_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "xgboost", None)
    with pytest.raises(Problem, match="xgboost") as caught:
        FittedClassifier("xgboost", 1, 2, 4).fit(torch.rand(4, 1), torch.tensor([0, 1, 0, 1]))
    assert "repertory[boosting]" in caught.value.remedy


# -- the protocol -------------------------------------------------------------------------------


def test_the_split_is_that_of_scikit_learns_shuffle(tmp_path: Path, folder: Path) -> None:
    one = study(tmp_path, folder, seed=4)
    _, train, valid, test = one._roles(one.data(), "stance")
    order = np.asarray(shuffle(np.arange(100), random_state=4))
    assert train.tolist() == order[:70].tolist()
    assert valid.tolist() == order[70:90].tolist()
    assert test.tolist() == order[90:].tolist()


def test_the_large_layout_is_split_in_its_order(tmp_path: Path) -> None:
    graph = generated_accounts(np.random.default_rng(0), 100, unlabelled=20)
    write_large(tmp_path / "large", graph)
    one = study(tmp_path, tmp_path / "large")
    _, train, valid, test = one._roles(one.data(), "bot")
    assert torch.cat([train, valid, test]).tolist() == list(range(100))
    assert one.scaled(one.data(), ()).fanouts == (15, 25)


@pytest.mark.parametrize("arm", ["rgcn_all", "shgn"])
def test_training_learns(tmp_path: Path, folder: Path, arm: str) -> None:
    one = study(tmp_path, folder, epochs=40, lr=1e-2, tasks=("bot",))
    data = one.data()
    model = one.train(arm, data)
    labels, train, *_ = one._roles(data, "bot")
    with torch.no_grad():
        logits = one._logits(model, data, "bot", train)
    assert (logits.argmax(1) == labels[train]).float().mean() > 0.78  # 73 % are human


def test_released_validation_is_of_the_training_pass(tmp_path: Path, folder: Path) -> None:
    one = study(tmp_path, folder, validation="train", tasks=("bot",))
    metrics = one.evaluate(one.train("gcn", one.data()), one.data())
    assert 0 <= metrics["accuracy_bot"] <= 100
    with pytest.raises(ValueError, match="full batch"):
        MGTABConfig(validation="train", fanouts=(5,))


def test_semantic_weights_and_pictures_are_written(tmp_path: Path, folder: Path) -> None:
    one = study(tmp_path, folder)
    metrics = one.evaluate(one.train("rgt_all", one.data()), one.data())
    assert {"accuracy_bot", "f1_stance"} <= set(metrics)
    names = {path.stem for path in (one.session.out_dir / "figures").iterdir()}
    assert {"relations", "relation-weights", "confusion"} <= names


# -- sampled training ---------------------------------------------------------------------------


@pytest.mark.parametrize("arm", ["gcn", "rgcn_all", "rgt_none"])
def test_all_neighbours_sampled_are_the_full_batch(tmp_path: Path, graph: AccountGraph, arm: str) -> None:
    one = study(tmp_path)
    model = one._build(arm, graph).eval()
    network, ids = model.of("bot"), torch.tensor([3, 50, 7])
    full = FullBatch(one.session, graph, model.relations).logits(network, ids)
    # GCN normalises by the degree of both ends: one more hop, so that the last neighbours have theirs.
    sampled = Sampled(one.session, graph, model.relations, [-1, -1, -1], 2).logits(network, ids)
    torch.testing.assert_close(sampled, full, rtol=1e-4, atol=1e-5)


def test_sampled_training_runs_and_is_deterministic(tmp_path: Path) -> None:
    write_large(tmp_path / "large", generated_accounts(np.random.default_rng(0), 120, unlabelled=100))
    found = []
    for run in ("a", "b"):
        settings = {"fanouts": (4, 3), "batch_size": 40, "tapered": True, "edges_on_disk": True, "schedule": "cosine"}
        one = study(tmp_path / run, tmp_path / "large", **settings)
        found.append(one.evaluate(one.train("sage", one.data()), one.data()))
    assert found[0] == found[1]


# -- features -----------------------------------------------------------------------------------


def test_properties_are_scaled_as_in_the_benchmark() -> None:
    lowest = {"created_at": 36.553529, "screen_name_length": 3, "name_length": 1}
    highest = dict.fromkeys(PROPERTY_NAMES, 1) | {
        name: 2**bound - 1 if name in LOGARITHMIC else bound for name, (_, bound) in BOUNDS["labelled"].items()
    }
    x = property_features(pd.DataFrame([{name: lowest.get(name, 0) for name in PROPERTY_NAMES}, highest]))
    torch.testing.assert_close(x, torch.tensor([[0.0], [1.0]]).expand(2, 20))
    assert [PROPERTY_NAMES.index(name) for name in BOUNDS["labelled"]] == [3, 7, 5, 10, 9, 6, 11, 12, 13, 14]


def test_a_missing_ratio_is_computed_and_other_gaps_are_refused() -> None:
    row: dict[str, Any] = dict.fromkeys(PROPERTY_NAMES[:14] + PROPERTY_NAMES[15:], 0)
    row |= {"followers_count": 300, "friends_count": 100, "created_at": "Mon Sep 24 03:35:21 +0000 2012"}
    x = property_features(pd.DataFrame([row]))
    assert float(x[0, 14]) == pytest.approx(2 / 11.169299)
    assert float(x[0, 10]) == pytest.approx((42.7315 - 36.553529) / (51.711108 - 36.553529), abs=1e-4)
    with pytest.raises(Problem, match="no number"):
        property_features(pd.DataFrame([row | {"name_length": "long"}]))
    with pytest.raises(Problem, match="no column 'verified'"):
        property_features(pd.DataFrame([row]).drop(columns="verified"))


def test_the_most_telling_property_comes_first() -> None:
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 500)
    table = pd.DataFrame({"noise": rng.normal(size=500), "some": y + rng.normal(size=500), "all": y * 3.5})
    ranked = ranked_properties(table, y)
    assert ranked.index.tolist() == ["all", "some", "noise"]
    assert float(ranked.iloc[0]) == pytest.approx(information_gain(y, y))


# -- use ----------------------------------------------------------------------------------------


def test_predict_names_accounts_and_what_weighed(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = [f"u{i},{rng.random():.3f},{i % 2},{'bot' if i % 3 else 'human'}" for i in range(40)]
    (tmp_path / "accounts.csv").write_text("\n".join(["id,age,verified,label", *rows]))
    pairs = [f"u{i},u{(i + 1) % 40},{'knows' if i % 2 else 'likes'}" for i in range(40)]
    (tmp_path / "edges.csv").write_text("\n".join(["source,target,relation", *pairs]))
    one = study(tmp_path, tmp_path, relations=())
    model = one.train("botrgcn", one.data())
    prediction = one.predict(model, tmp_path)
    assert [row["account"] for row in prediction.table] == [f"u{i}" for i in range(40)]
    first = prediction.table[0]
    assert first["label"] in ("bot", "human")
    assert 0.5 <= first["label_probability"] <= 1
    assert {"label_knows", "label_likes"} <= set(first)
    assert any(abs(row["label_knows"]) > 0 for row in prediction.table)
    assert set(prediction.figures) == {"classes", "relations"}
    alone = one.predict(one.train("naive_bayes", one.data()), tmp_path)
    assert set(alone.table[0]) == {"account", "label", "label_probability"}


def test_predict_needs_no_labels(tmp_path: Path, folder: Path, graph: AccountGraph) -> None:
    one = study(tmp_path, folder)
    model = one.train("sage", one.data())
    write_mgtab(tmp_path / "bare", AccountGraph("bare", graph.features, graph.edges))
    assert len(one.predict(model, tmp_path / "bare").table) == 100
    narrow = AccountGraph("narrow", graph.features[:, :9], graph.edges)
    write_mgtab(tmp_path / "narrow", narrow)
    with pytest.raises(Problem, match="788 features a user, the graph has 9"):
        one.predict(model, tmp_path / "narrow")


def test_the_plan_is_told(tmp_path: Path, folder: Path) -> None:
    one = study(tmp_path, folder)
    lines = "\n".join(one.preview("rgt_all", one.data()))
    assert "train 70, val 20, test 10" in lines
    assert "hashtag" in lines
    assert "parameters" in lines


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"tasks": ("stanec",)}, "did you mean stance"),
        ({"relations": ("folowers",)}, "did you mean followers"),
        ({"relations": ("url", "url")}, "named twice"),
        ({"split": "files"}, "no train_idx.pt"),
    ],
)
def test_wrong_words_are_refused(tmp_path: Path, folder: Path, settings: dict[str, Any], match: str) -> None:
    one = study(tmp_path, folder, **settings)
    with pytest.raises(Problem, match=match):
        one.train("gcn", one.data())


def test_released_columns_need_the_features_of_mgtab(graph: AccountGraph) -> None:
    narrow = AccountGraph(
        "narrow", graph.features[:, :9], graph.edges, groups={"numeric": range(5), "boolean": range(5, 9)}
    )
    assert branches(narrow, 15) == [([0, 1, 2, 3, 4], 7), ([5, 6, 7, 8], 8)]
    with pytest.raises(Problem, match="those of MGTAB"):
        branches(narrow, 16, released=True)


def test_every_arm_is_declared() -> None:
    assert list(MGTABStudy.arms) == list(ARMS)
