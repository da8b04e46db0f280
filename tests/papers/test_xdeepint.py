"""xDeepInt: fidelity, the network by hand, what it compiles to, the study, use, and bad input."""

from __future__ import annotations

import csv
import json
import math
from itertools import product
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from repertory.core import checkpoint
from repertory.core.problem import Problem
from repertory.core.settings import changed
from repertory.core.study import Session
from repertory.execution import models
from repertory.execution.experiment import Experiment
from repertory.papers.xdeepint.baselines import CIN, DCN, FM, LogisticRegression, pairwise
from repertory.papers.xdeepint.ftrl import FTRL, GroupFTRL
from repertory.papers.xdeepint.model import PIN, Head, MultiHeadPIN, Output, Tables, XDeepInt, merge, split
from repertory.papers.xdeepint.settings import ARMS, XDeepIntConfig, XDeepIntDesign
from repertory.papers.xdeepint.study import XDeepIntStudy, build, network_parameters, sparsity_of, zero_shares
from repertory.papers.xdeepint.training import fit_clicks, optimizers
from repertory.papers.xdeepint.weights import from_tensorflow
from tests.fidelity.cases import assert_agrees, cases
from tests.fidelity.fill import fill_, probe

pytest.importorskip("polars", reason="pip install 'repertory[recommendation]'")

TINY: dict[str, Any] = {
    "seeds": 1, "dim": 4, "subspaces": 4, "layers": 2, "hidden": (8,), "maps": (4,), "batch_size": 32,
    "sample_train": 400, "sample_test": 200, "min_count": 2,
}  # fmt: skip


# -- fidelity ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", cases("xdeepint"))
def test_agrees_with_the_authors_code(case: dict[str, Any]) -> None:
    config, model = case["config"], None
    if "kind" in config:
        weight = nn.Parameter(probe(*config["shape"]))
        optimizer = (
            GroupFTRL([weight], config["alpha"], config["beta"], config["l1"], config["l2"])
            if config["kind"] == "gftrl"
            else FTRL([weight], config["alpha"], config["l1"], config["l2"], config["acc"])
        )
        steps = []
        for grad in config["scale"] * probe(config["steps"], *config["shape"]):
            weight.grad = grad
            optimizer.step()
            steps.append(weight.detach().clone())
        output = torch.stack(steps)
    else:
        pin = PIN(config["F"], config["K"], config["h"], config["L"], config["act"], residual=config["residual"])
        model = fill_(nn.Sequential(pin, Output(pin.rows)))
        x = probe(config["B"], config["F"], config["K"])
        output = pin(x) if case["name"].endswith("block") else model(x)
    assert_agrees(output, case, model)


# -- the network --------------------------------------------------------------------------------------


@pytest.mark.parametrize("subspaces", [1, 2, 4])
def test_pin_by_loops(subspaces: int) -> None:
    fields, dim, piece = 3, 4, 4 // subspaces
    pin = cast(PIN, fill_(PIN(fields, dim, subspaces, layers=2, activation="tanh")))
    x = probe(2, fields, dim)
    rows = [(s, f) for s in range(subspaces) for f in range(fields)]
    wanted = torch.empty_like(x)
    for b in range(2):
        x0 = torch.stack([x[b, f, s * piece : (s + 1) * piece] for s, f in rows])
        xl = x0
        for w in pin.matrices:
            xl = xl * (1 + (w @ x0).tanh())
        for row, (s, f) in enumerate(rows):
            wanted[b, f, s * piece : (s + 1) * piece] = xl[row]
    torch.testing.assert_close(pin(x), wanted)


def test_split_and_merge_undo_each_other() -> None:
    x = probe(2, 3, 8)
    assert torch.equal(merge(split(x, 4), 4), x)
    assert torch.equal(split(x, 4)[:, :, 2 * 3 + 1], x[:, 1, 4:6])  # sub-space 2, field 1


@pytest.mark.parametrize("layers", [1, 3])
def test_the_degree_is_bounded(layers: int) -> None:
    """x -> PIN(t x) is a polynomial of t of degree L + 1: differences of order L + 2 are 0, those before are not."""
    pin = cast(PIN, fill_(PIN(3, 4, 2, layers))).double()
    x = probe(1, 3, 4).double()
    values = torch.stack([pin(t * x) for t in range(layers + 4)])
    for _ in range(layers + 1):
        values = values.diff(dim=0)
    assert values.abs().max() > 1e-3
    assert values.diff(dim=0).abs().max() < 1e-9


def test_without_residuals_all_layers_are_stacked() -> None:
    pin = cast(PIN, fill_(PIN(2, 4, 2, layers=2, residual=False)))
    x = probe(1, 2, 4)
    x0 = split(x, 2).mT
    x1 = x0 * (pin.matrices[0] @ x0)
    x2 = x1 * (pin.matrices[1] @ x0)
    rows = torch.cat([x0, x1, x2], dim=1)  # (1, 12, 2), cut in two pieces of six rows
    torch.testing.assert_close(pin(x), torch.cat([rows[:, :6], rows[:, 6:]], dim=2))
    assert pin.rows == 6
    assert XDeepInt([3, 3], 4, 2, 2, residual=False)(torch.tensor([[1, 2]])).shape == (1,)


def test_heads_are_independent_pins() -> None:
    block = cast(MultiHeadPIN, fill_(MultiHeadPIN(3, 4, 8, [Head(2, 1), Head(1, 2, "relu")])))
    x = probe(2, 3, 4)
    projected = x @ block.project.weight.T
    wanted = [head(projected[..., 4 * k : 4 * k + 4]) for k, head in enumerate(block.heads)]
    torch.testing.assert_close(block(x), torch.cat(wanted, dim=1))
    model = XDeepInt([3] * 3, 4, hidden=8, heads=[(2, 1, "linear"), (1, 2, "relu")])
    assert model(torch.ones(5, 3, dtype=torch.long)).shape == (5,)
    # project 4 x 8 of 3 fields; (3 x 3 x 4) x 2; (6 x 6 x 2); outputs 2 x 3 x 4
    assert model.macs() == 96 + 72 + 72 + 24


def test_dropout_acts_on_the_input_of_the_products_alone() -> None:
    pin = cast(PIN, fill_(PIN(3, 4, 2, 1, dropout=0.999))).train()
    torch.manual_seed(0)
    x = probe(4, 3, 4)
    assert torch.allclose(pin(x), x)
    assert not torch.allclose(pin.eval()(x), x)


def test_sizes_of_the_published_network() -> None:
    figures = XDeepIntStudy(XDeepIntConfig(), cast(Any, None)).measure()
    assert figures["parameters_released"] == 1_478_695
    assert figures["parameters_criteo"] == 4 * 624**2 + 40
    assert figures["macs_criteo"] == 4 * 16 * 39**2 * 16 + 39 * 16


def test_a_value_without_an_id_is_the_zero_vector() -> None:
    tables = Tables([2, 3], 4)
    x = tables(torch.tensor([[0, 3], [3, 4], [-1, 99], [2, 1]]))
    assert (x[0, 0] == 0).all()
    assert (x[1] == 0).all()
    assert (x[2] == 0).all()
    assert torch.equal(x[0, 1], tables.weight[5])
    assert torch.equal(x[3], tables.weight[[2, 3]])
    x.sum().backward()
    assert tables.weight.grad is not None
    assert (tables.weight.grad[0] == 0).all()


def test_the_initialisation() -> None:
    torch.manual_seed(0)
    model = XDeepInt([4000] * 3, 16)
    weight = model.tables.weight[1:]
    assert weight.abs().max() <= 2 / 4 + 1e-6
    assert weight.std().item() == pytest.approx(0.25 * 0.8796, rel=0.02)  # of a normal cut at two deviations
    assert model.pins()[0].matrices[0].abs().max().item() == pytest.approx(math.sqrt(6 / 96), rel=0.02)
    assert model.output.linear.bias.item() == 0


def test_the_bias_enters_once_for_each_position() -> None:
    output = Output(3)
    nn.init.zeros_(output.linear.weight)
    nn.init.constant_(output.linear.bias, 0.5)
    assert output(probe(2, 3, 4)).tolist() == [[2.0], [2.0]]


def test_interactions_are_the_mean_over_layers_and_subspaces() -> None:
    model = cast(XDeepInt, fill_(XDeepInt([2] * 3, 4, 2, 2)))
    wanted = torch.zeros(3, 3)
    for w, s, t in product(model.pins()[0].matrices, range(2), range(2)):
        wanted += w[3 * s : 3 * s + 3, 3 * t : 3 * t + 3].abs() / 8
    torch.testing.assert_close(model.interactions(), wanted)


def test_it_compiles_and_exports(tmp_path: Path) -> None:
    model = XDeepInt([5, 4, 3], 4, 2, 2).eval()
    ids = torch.tensor([[1, 2, 3], [0, 9, 1], [5, 4, 2]])
    explained = torch._dynamo.explain(model)(ids)
    assert explained.graph_break_count == 0
    program = torch.export.export(model, (ids,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    torch.testing.assert_close(program.module()(ids[:1]), model(ids[:1]))
    onnx = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    batch = {0: torch.export.Dim("batch")}
    torch.onnx.export(model, (ids,), tmp_path / "m.onnx", dynamic_shapes=(batch,), input_names=["ids"], verbose=False)
    found = onnx.InferenceSession(tmp_path / "m.onnx").run(None, {"ids": ids[:2].numpy()})[0]
    np.testing.assert_allclose(found, model(ids[:2]).detach().numpy(), rtol=1e-4, atol=1e-6)


def test_an_empty_batch_passes() -> None:
    ids = torch.empty(0, 3, dtype=torch.long)
    for network in (XDeepInt([5, 4, 3], 4, 2), FM([5, 4, 3], 4), DCN([5, 4, 3], 4)):
        assert network(ids).shape == (0,)


# -- baselines ----------------------------------------------------------------------------------------


def test_baselines_by_loops() -> None:
    x = probe(2, 4, 3)
    pairs = [sum((x[b, i] * x[b, j]).sum() for i in range(4) for j in range(i)) for b in range(2)]
    torch.testing.assert_close(pairwise(x), torch.stack(cast(list[Tensor], pairs)))
    ids = torch.tensor([[1, 2], [3, 0]])
    model = LogisticRegression([3, 2])
    nn.init.normal_(model.tables.weight[1:])
    nn.init.constant_(model.bias, 0.5)
    w = model.tables.weight[:, 0]
    torch.testing.assert_close(model(ids), torch.stack([w[1] + w[5] + 0.5, w[3] + 0.5]))
    cin = cast(CIN, fill_(CIN(4, [2, 3])))
    w1, w2 = (weight.detach() for weight in cin.weights)
    first = torch.stack([sum_of(w1[h].view(4, 4), x, x) for h in range(2)], dim=1)
    second = torch.stack([sum_of(w2[h].view(2, 4), first, x) for h in range(3)], dim=1)
    torch.testing.assert_close(cin(x), torch.cat([first.sum(2), second.sum(2)], dim=1))
    cross = cast(DCN, fill_(DCN([3, 2], 2, layers=2, hidden=[4])))
    x0 = xl = cross.tables(ids).flatten(1)
    for layer, bias in zip(cross.cross, cross.biases, strict=True):
        xl = torch.stack([x0[b] * (xl[b] @ cast(Tensor, layer.weight)[0]) + bias + xl[b] for b in range(2)])
    torch.testing.assert_close(cross(ids), cross.head(torch.cat([xl, cross.deep(x0)], 1)).squeeze(1))


def sum_of(weights: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """Σ_ij w_ij (left_i ∘ right_j): (B, K)."""
    pairs = [weights[i, j] * left[:, i] * right[:, j] for i, j in product(*map(range, weights.shape))]
    return torch.stack(pairs).sum(0)


# -- the study ----------------------------------------------------------------------------------------


def study_in(folder: Path, seed: int = 0, data: Path | None = None, **settings: Any) -> XDeepIntStudy:
    config = cast(XDeepIntConfig, changed(XDeepIntDesign, XDeepIntConfig(), {**TINY, **settings}))
    return XDeepIntStudy(config, Session(seed, folder, data))


def test_the_sample_is_criteos_and_each_seed_has_its_own(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    study_in(tmp_path / "s").write_sample(tmp_path / "a")
    lines = (tmp_path / "a" / "train.txt").read_text().splitlines()
    assert len(lines) == 600
    cells = [line.split("\t") for line in lines]
    assert {len(row) for row in cells} == {40}
    assert {row[0] for row in cells} == {"0", "1"}
    assert any(row[2] == "-1" for row in cells)
    assert all(len(word) in (0, 8) for row in cells for word in row[14:])
    data = study_in(tmp_path / "s").data()
    assert {part: len(rows) for part, rows in data.split.items()}["test"] == 200
    other = study_in(tmp_path / "t", seed=1).data()
    assert (other.labels != data.labels).any()
    assert (study_in(tmp_path / "u").data().ids == data.ids).all()


@pytest.mark.parametrize("arm", ["dnn", "xdeepint_gftrl"])
def test_training_learns(arm: str, tmp_path: Path) -> None:
    """Clicks that two fields decide together, and neither alone; a third field says nothing."""
    rng = np.random.default_rng(0)
    (a, b), c = rng.integers(2, size=(2, 1200)), rng.integers(60, size=1200)
    lines = [f"{x ^ y},{x},{y},{z}" for x, y, z in zip(a, b, c, strict=True)]
    (tmp_path / "xor.csv").write_text("label,a,b,c\n" + "\n".join(lines) + "\n")
    options = {"epochs": 8, "batch_size": 16, "lr": 0.01, "table_l1": 400, "table_l2": 1, "table_alpha": 0.5}
    study = study_in(tmp_path / "s", data=tmp_path / "xor.csv", **options)
    data = study.data()
    model = study.train(arm, data)
    metrics = study.evaluate(model, data)
    assert metrics["auc"] > 0.95
    if arm == "xdeepint_gftrl":
        assert zero_shares(model.tables).tolist() == [0, 0, 1]
    assert {path.stem for path in (tmp_path / "s" / "figures").iterdir()} >= {"calibration", "selected-features"}


def test_metrics_by_hand(tmp_path: Path) -> None:
    study = study_in(tmp_path)
    data = study.data()
    model = build("xdeepint", data.schema, study.config)
    with torch.no_grad():
        model.tables.weight[1:11] = 0
        cast(XDeepInt, model).pins()[0].matrices[0].zero_()
    metrics = study.evaluate(model, data)
    rows = data.split["test"]
    p = model(torch.from_numpy(data.ids[rows]).long()).double().sigmoid().detach().numpy()
    y = data.labels[rows].astype(float)
    loss = -np.mean(y * np.log(p) + (1 - y) * np.log(1 - p))
    rate = y.mean()
    assert metrics["logloss"] == pytest.approx(loss, rel=1e-5)
    assert metrics["nce"] == pytest.approx(loss / -(rate * np.log(rate) + (1 - rate) * np.log(1 - rate)), rel=1e-5)
    above = (p[y == 1][:, None] > p[y == 0]).mean() + 0.5 * (p[y == 1][:, None] == p[y == 0]).mean()
    assert metrics["auc"] == pytest.approx(above)
    assert metrics["zero_rows"] == pytest.approx(1000 / (len(model.tables.weight) - 1))
    assert metrics["zero_weights"] == pytest.approx(50)
    assert metrics["parameters"] == network_parameters(model) == 2 * (4 * 39) ** 2 + 40


def test_arms_differ_in_what_they_say(tmp_path: Path) -> None:
    study = study_in(tmp_path)
    data = study.data()
    shapes = {arm: build(arm, data.schema, study.config.model_copy(update=dict(ARMS[arm].changes))) for arm in ARMS}
    assert {arm: pin.pins()[0].subspaces for arm, pin in shapes.items() if isinstance(pin, XDeepInt)} == {
        "pin_h1": 1, "xdeepint_1layer": 4, "xdeepint": 4, "xdeepint_gftrl": 4,
    }  # fmt: skip
    assert len(cast(XDeepInt, shapes["xdeepint_1layer"]).pins()[0].matrices) == 1
    assert [arm for arm, how in ARMS.items() if how.combined] == ["xdeepint_gftrl"]
    heads = build("xdeepint", data.schema, study.config.model_copy(update={"heads": 2, "head_dim": 4}))
    assert len(cast(XDeepInt, heads).pins()) == 2
    tables, others = optimizers(shapes["xdeepint_gftrl"], study.config, combined=True)
    assert tables.param_groups[0]["l1"] == pytest.approx(10 * 32 / 4096)
    assert others.param_groups[0]["l1"] == pytest.approx(0.1 * 32 / 4096)
    held = [p for optimizer in (tables, others) for group in optimizer.param_groups for p in group["params"]]
    assert {id(p) for p in held} == {id(p) for p in shapes["xdeepint_gftrl"].parameters()}


def test_the_best_epoch_by_validation_is_kept(tmp_path: Path) -> None:
    study = study_in(tmp_path, epochs=4, patience=1, lr=0.05)
    data = study.data()
    study.train("dnn", data)
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    scores = [record["val_auc"] for record in records if "val_auc" in record]
    assert len(scores) < 4
    assert max(scores) == scores[-2]


def test_collapse_is_told(tmp_path: Path) -> None:
    study = study_in(tmp_path, table_l1=1e5)
    data = study.data()
    model = study.train("xdeepint_gftrl", data)
    with pytest.warns(UserWarning, match="every embedding is zero.*lower table_l1"):
        assert study.evaluate(model, data)["zero_rows"] == 100


def test_the_combined_optimiser_is_the_dense_one(tmp_path: Path) -> None:
    """The sparse path with a zero start gives the model that dense updates of whole tables give."""
    study = study_in(tmp_path / "a")
    data, config = study.data(), study.config
    study.session.reseed("model")
    dense = cast(XDeepInt, build("xdeepint_gftrl", data.schema, config))
    share = config.batch_size / 4096
    stepping = [GroupFTRL([dense.tables.weight], 0.02, 1, 10 * share, 10 * share)]
    others = [p for name, p in dense.named_parameters() if not name.startswith("tables")]
    rows = study.session.rng("order", 0).permutation(data.split["train"])
    both = [*stepping, FTRL(others, 0.02, 0.1 * share, 0.1 * share)]
    for first in range(0, len(rows), config.batch_size):
        part = rows[first : first + config.batch_size]
        ids, labels = torch.from_numpy(data.ids[part]).long(), torch.from_numpy(data.labels[part]).float()
        nn.functional.binary_cross_entropy_with_logits(dense(ids), labels, reduction="sum").backward()
        for optimizer in both:
            optimizer.step()
            optimizer.zero_grad()
    study.session.reseed("model")
    sparse = build("xdeepint_gftrl", data.schema, config)
    fit_clicks(Session(0, tmp_path / "a"), sparse, data, config, combined=True)
    for (name, wanted), found in zip(dense.named_parameters(), sparse.parameters(), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-6, msg=name)
    assert 0 < sparsity_of(sparse)["zero_rows"] < 100


# -- use ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A table of one's own and a model that `train --data` made of it."""
    folder = tmp_path_factory.mktemp("own")
    rng = np.random.default_rng(0)
    a, n = rng.integers(5, size=400), rng.integers(1000, size=400)
    clicked = rng.random(400) < 0.2 + 0.6 * (a % 2)
    lines = [f"{int(y)},{'abcde'[x]},{z}" for x, y, z in zip(a, clicked, n, strict=True)]
    (folder / "ads.csv").write_text("clicked,kind,price\n" + "\n".join(lines) + "\n")
    settings = {"epochs": 3, "dim": 4, "subspaces": 4, "layers": 2}
    Experiment("xdeepint", "own", data=folder / "ads.csv", out=folder / "model", settings=settings).train("dnn")
    return folder / "ads.csv", folder / "model"


def test_own_data_train_evaluate_predict(own: tuple[Path, Path], tmp_path: Path) -> None:
    data, model = own
    about = checkpoint.about(model)["config"]
    assert (about["batch_size"], about["epochs"], about["split"]) == (16, 3, "random")
    loaded = checkpoint.load(model)
    assert sorted(loaded.schema["vocabularies"]["kind"]) == list("abcde")
    assert models.evaluate(model, data, tmp_path / "e")["auc"] > 0.6
    (tmp_path / "new.tsv").write_text("price\tkind\n5\ta\n7\t?\nx\tb\n8\n9\tb\n")
    found = models.predict(model, tmp_path / "new.tsv", tmp_path / "p")
    assert [row["line"] for row in found.table] == [2, 3, 4, 5, 6]
    assert [row["note"] for row in found.table] == ["", "", "price is 'x', not a number", "has 1 columns, not 2", ""]
    assert found.table[4]["probability"] > found.table[0]["probability"]
    assert found.table[2]["probability"] is None
    assert "2 rows cannot be read" in found.text
    with (found.files["predictions"] / "predictions.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 5
    assert set(found.figures) == {"probabilities", "selected-features"}
    labelled = models.predict(model, data, tmp_path / "q")
    assert "by the labels of the file: AUC" in labelled.text
    assert "calibration" in labelled.figures


def test_a_model_is_evaluated_on_other_data_with_its_own_vocabulary(own: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "b.csv").write_text("clicked,kind,price\n" + "1,b,3\n0,a,4\n0,zz,5\n1,d,\n" * 20)
    metrics = models.evaluate(own[1], tmp_path / "b.csv", tmp_path / "e")
    assert metrics["auc"] > 0.7
    (tmp_path / "c.csv").write_text("clicked,price\n" + "1,5\n0,7\n" * 20)
    with pytest.raises(Problem, match="no column is called 'kind'"):
        models.evaluate(own[1], tmp_path / "c.csv", tmp_path / "f")


def test_train_tells_what_it_will_do(own: tuple[Path, Path], tmp_path: Path) -> None:
    study = study_in(tmp_path, data=own[0])
    lines = "; ".join(study.preview("xdeepint_gftrl", study.data()))
    for part in (
        "label clicked",
        "numeric: price",
        "categorical: kind",
        "69 embeddings of size 4",
        "batches of 32",
        "min",
    ):
        assert part in lines
    few = study.scaled(study.data(), {"epochs"})
    assert (few.batch_size, few.epochs) == (16, 1)


def test_convert_reads_tensorflows_variables(tmp_path: Path) -> None:
    """Kernels (in, out), fields in alphabetical order; logits as the graph computes them."""
    rng = np.random.default_rng(0)
    levels = {"C1": ["x", "y"], "C10": ["u", "v", "w"]}
    sizes = {"C1": 2, "C10": 3, "I1_bin": 64}
    variables: dict[str, Any] = {
        f"Embedding/input_layer/{name}_embedding/embedding_weights": rng.normal(size=(n, 4))
        for name, n in sizes.items()
    }
    kernels = [rng.normal(size=(6, 6)) * 0.3 for _ in range(3)]
    variables |= {f"PIN/dense{f'_{k}' if k else ''}/kernel": kernel for k, kernel in enumerate(kernels)}
    variables |= {"PIN/dense_3/kernel": rng.normal(size=(3, 1)), "PIN/dense_3/bias": rng.normal(size=1)}
    variables |= {"PIN/dense/kernel/Ftrl": kernels[0], "global_step": np.array(7)}
    variables |= {name: np.asarray(value, np.float32) for name, value in variables.items() if value.ndim}
    words: dict[str, Any] = {f"vocabulary/{name}": np.array(list_) for name, list_ in levels.items()}
    np.savez(tmp_path / "m.npz", **variables, **words)
    study = study_in(tmp_path / "s")
    model = cast(XDeepInt, study.convert(tmp_path / "m.npz"))
    assert model.schema is not None
    assert model.schema["fields"] == ["C1", "C10", "I1"]
    assert (model.pins()[0].subspaces, len(model.pins()[0].matrices)) == (2, 3)
    tables = [variables[f"Embedding/input_layer/{name}_embedding/embedding_weights"] for name in sizes]
    x0 = np.stack([tables[0][1], tables[1][2], tables[2][5]])  # y, w, bucket 5
    x0 = np.concatenate([x0[:, :2], x0[:, 2:]])
    x = x0
    for kernel in kernels:
        x = x * (1 + (x0.T @ kernel.astype(np.float32)).T)
    x = np.concatenate([x[:3], x[3:]], axis=1)
    wanted = (x.T @ variables["PIN/dense_3/kernel"] + variables["PIN/dense_3/bias"]).sum()
    assert model(torch.tensor([[2, 3, 6]])).item() == pytest.approx(wanted, rel=1e-4)
    np.savez(tmp_path / "n.npz", **dict[str, Any]({k: v for k, v in variables.items() if "dense_3" not in k}))
    with pytest.raises(Problem, match="3 square kernels, 0 kernels"):
        from_tensorflow(tmp_path / "n.npz")
    np.savez(tmp_path / "n.npz", **variables)
    with pytest.raises(Problem, match="C1 has 2 rows, and no vocabulary"):
        from_tensorflow(tmp_path / "n.npz")
    np.savez(tmp_path / "n.npz", a=np.zeros(3))
    with pytest.raises(Problem, match=r"no tables[\s\S]*load_checkpoint"):
        from_tensorflow(tmp_path / "n.npz")


def test_the_paper_recipe_is_the_published_one() -> None:
    paper = cast(XDeepIntConfig, XDeepIntDesign.scales["paper"])
    assert (paper.dim, paper.subspaces, paper.layers, paper.batch_size, paper.epochs) == (16, 16, 4, 4096, 1)
    assert (paper.shuffle, paper.split, paper.min_count, paper.valid_fraction) == (False, "released", 20, 0)
    assert (paper.table_alpha, paper.table_beta, paper.table_l1, paper.table_l2) == (0.02, 1, 10, 10)
    assert (paper.weight_alpha, paper.weight_l1, paper.weight_l2) == (0.02, 0.1, 0.1)
    assert (paper.residual, paper.activation, paper.dropout, paper.heads) == (True, "linear", 0, 0)


def test_released_fields_leave_out_i13(tmp_path: Path) -> None:
    data = study_in(tmp_path, fields="released").data()
    assert len(data.schema.fields) == 38
    assert "I13" not in data.schema.fields


# -- bad input ----------------------------------------------------------------------------------------


def test_bad_arguments_are_named(tmp_path: Path) -> None:
    with pytest.raises(Problem, match=r"3 sub-spaces of an embedding of size 8[\s\S]*1, 2, 4, 8"):
        PIN(5, 8, 3)
    with pytest.raises(Problem, match="no activation is called 'softmax'"):
        PIN(5, 8, activation="softmax")
    with pytest.raises(Problem, match="3 heads for a width of 8"):
        MultiHeadPIN(5, 8, 8, [Head()] * 3)
    with pytest.raises(Problem, match=r"subspaces: .*3 does not divide dim=8; divisors: 1, 2, 4, 8"):
        changed(XDeepIntDesign, XDeepIntConfig(), {"dim": 8, "subspaces": 3})
    with pytest.raises(Problem, match=r"16 does not divide head_dim=8"):
        changed(XDeepIntDesign, XDeepIntConfig(), {"heads": 2})
    assert cast(XDeepIntConfig, changed(XDeepIntDesign, XDeepIntConfig(), {"numeric": "a, b"})).numeric == ("a", "b")
    with pytest.raises(Problem, match="the model has no vocabularies"):
        study_in(tmp_path).predict(XDeepInt([3], 4, 1), Path(__file__))


def test_a_diverging_run_is_stopped(tmp_path: Path) -> None:
    study = study_in(tmp_path)
    data = study.data()
    model = build("dnn", data.schema, study.config)
    with torch.no_grad():
        model.tables.weight[1:] = float("nan")
    with pytest.raises(Problem, match="the loss is nan in epoch 1"):
        fit_clicks(study.session, model, data, study.config, combined=False)
