"""RELIANT: fidelity to the authors' code, the losses, the loops, use, and bad input."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from repertory.core import checkpoint
from repertory.core.problem import Problem
from repertory.core.study import Session
from repertory.data.fair_graphs import FairGraph, biased_graph, draw_split, write_npz
from repertory.execution.experiment import Experiment
from repertory.papers.reliant.fairness import (
    EXPANSIONS,
    counted,
    opportunity_difference,
    parity_difference,
    smooth_difference,
    smooth_step,
)
from repertory.papers.reliant.graph import Graph
from repertory.papers.reliant.knowledge import Knowledge, read_knowledge, write_knowledge
from repertory.papers.reliant.loop import Task, akd_loss, cpf_loss, discriminator_loss, distil
from repertory.papers.reliant.model import GCN, PLP, SGC, Discriminators, Distilled, GraphSAGE, summary_of
from repertory.papers.reliant.settings import ARMS, ReliantConfig
from repertory.papers.reliant.study import ReliantStudy
from tests.fidelity.cases import assert_agrees, cases
from tests.fidelity.fill import fill_, probe


def ring(n: int) -> Graph:
    """Edges both ways between i and i + 1, i and i + 3, and a self loop at every node."""
    pairs = {(i, j) for i in range(n) for k in (0, 1, 3) for j in ((i + k) % n, (i - k) % n)}
    return Graph(np.array(sorted(pairs)).T, n)


# -- fidelity -----------------------------------------------------------------------------------


def plp_case(config: dict[str, Any], x: Tensor) -> tuple[nn.Module | None, Tensor]:
    model = fill_(PLP(*(config[k] for k in ("n", "in_features", "emb", "classes", "num_layers", "mlp_layers")))).eval()
    count, modulus = map(int, re.findall(r"first (\d+), label i mod (\d+)", config["labelled"])[0])
    known = torch.arange(count)
    labels = nn.functional.one_hot(known % modulus, config["classes"]).float()
    return model, model(x, ring(config["n"]), known, labels)


def network_case(kind: type[GCN] | type[SGC] | type[GraphSAGE], config: dict[str, Any], x: Tensor) -> Any:
    model = fill_(kind(config["in_features"], config["hidden"], config["classes"])).eval()
    return model, torch.cat(model(x, ring(config["n"])), dim=1)


def fairness_case(config: dict[str, Any], z: Tensor) -> tuple[None, Tensor]:
    n, p = config["n"], (3 * z).softmax(1)
    i = torch.arange(n)
    sensitive, labels, counts = (i % 3 == 0).long(), i % 2, i >= n // 5
    decisions = p.argmax(1).clamp(max=1)
    figures = [
        *smooth_step(torch.linspace(0, 1, 9)).tolist(),
        smooth_difference(p, counted(sensitive, counts)),
        smooth_difference(p, counted(sensitive, counts, labels)),
        parity_difference(decisions, sensitive),
        opportunity_difference(decisions, sensitive, labels),
    ]
    return None, torch.tensor(figures)


def discriminators_case(config: dict[str, Any], z: Tensor, e: Tensor) -> tuple[nn.Module, Tensor]:
    model: Any = fill_(Discriminators(config["classes"], config["hidden"]))
    graph = ring(config["n"])
    scores = model.local_scores(e, graph), model.global_scores(e, summary_of(e))
    return model, torch.cat([model.logits(z).flatten(), *scores])


@pytest.mark.parametrize("case", cases("reliant"))
def test_agrees_with_the_authors_code(case: dict[str, Any]) -> None:
    config, inputs = case["config"], [probe(*shape) for shape in case["input"]]
    kind = case["name"].rpartition("_n")[0]
    model: Any
    with torch.no_grad():
        match kind:
            case "plp":
                model, output = plp_case(config, *inputs)
            case "teacher_gcn":
                model, output = network_case(GCN, config, *inputs)
            case "teacher_sage":
                model, output = network_case(GraphSAGE, config, *inputs)
            case "student_sgc":
                model, output = network_case(SGC, config, *inputs)
            case "fairness":
                model, output = fairness_case(config, *inputs)
            case _:
                model, output = discriminators_case(config, *inputs)
    assert_agrees(output, case, model)


# -- the graph ----------------------------------------------------------------------------------


def dense(graph: Graph) -> Tensor:
    matrix = torch.zeros(graph.size, graph.size, dtype=torch.float64)
    matrix[graph.source, graph.target] = 1
    return matrix


def test_products_are_those_of_dense_matrices() -> None:
    graph, x = ring(9), probe(9, 4).double()
    a = dense(graph)
    scale = a.sum(1).rsqrt()
    torch.testing.assert_close(
        graph.convolve(x).double(), scale[:, None] * a @ (scale[:, None] * x), rtol=1e-5, atol=1e-6
    )
    torch.testing.assert_close(graph.average_with_self(x).double(), (a @ x + x) / (a.sum(1) + 1)[:, None])
    scores = probe(9, 2)
    attention = (scores[None].double() + a[..., None].log()).softmax(1)  # (node, neighbour, k)
    torch.testing.assert_close(
        graph.neighbour_softmax(scores).double(), attention[graph.source, graph.target], rtol=1e-5, atol=1e-6
    )


def test_gradients_of_products() -> None:
    graph = ring(7)
    weights, x, y = torch.rand(len(graph.source)), torch.rand(7, 3), torch.rand(7, 3)
    for inputs, ours, plain in (
        (
            (weights, x),
            graph.product,
            lambda w, x: torch.zeros(7, 3).index_add(0, graph.source, w[:, None] * x[graph.target]),
        ),
        ((x, y), graph.similarity, lambda a, b: (a[graph.source] * b[graph.target]).sum(1)),
    ):
        inputs = [value.requires_grad_() for value in inputs]
        outputs = ours(*inputs), plain(*inputs)
        torch.testing.assert_close(*outputs)
        seed = torch.rand_like(outputs[0])
        for found, expected in zip(*(torch.autograd.grad(o, inputs, seed) for o in outputs), strict=True):
            torch.testing.assert_close(found, expected)


# -- fairness -----------------------------------------------------------------------------------


def test_the_exact_step_is_the_best_polynomial_of_degree_nine() -> None:
    p = torch.linspace(0, 1, 20_001, dtype=torch.float64)
    step = (p > 0.5).double()
    fitted = np.polynomial.Legendre.fit((2 * p - 1).numpy(), step.numpy(), 9, domain=[-1, 1]).coef
    assert fitted == pytest.approx(EXPANSIONS["exact"], abs=1e-3)
    errors = {name: (smooth_step(p, cast(Any, name)) - step).square().mean() for name in EXPANSIONS}
    assert errors["exact"] < errors["released"]


def test_differences_by_hand() -> None:
    p = torch.tensor([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8], [0.3, 0.7]])
    s, y = torch.tensor([0, 1, 1, 0]), torch.tensor([1, 1, 1, 0])
    everybody = torch.ones(4, dtype=torch.bool)
    phi = smooth_step(p)
    expected = sum(((phi[0, c] + phi[3, c]) / 2 - (phi[1, c] + phi[2, c]) / 2) ** 2 for c in (0, 1))
    assert smooth_difference(p, counted(s, everybody)).item() == pytest.approx(float(expected))
    expected = sum((phi[0, c] - (phi[1, c] + phi[2, c]) / 2) ** 2 for c in (0, 1))
    assert smooth_difference(p, counted(s, everybody, y)).item() == pytest.approx(float(expected))
    decisions = p.argmax(1)
    assert parity_difference(decisions, s) == 0.0
    assert opportunity_difference(decisions, s, y) == 0.5
    with pytest.raises(Problem, match="group 0 has no node with label 1"):
        counted(s, everybody, torch.tensor([0, 1, 1, 0]))


# -- students -----------------------------------------------------------------------------------


def test_label_propagation_node_by_node() -> None:
    graph, x = ring(8), probe(8, 3)
    student: Any = fill_(PLP(8, 3, 4, 2, num_layers=3)).eval()
    known, labels = torch.tensor([1, 5]), torch.eye(2)
    a, score, beside = dense(graph), (x @ student.attention[0]).exp(), student.mlp(x)
    h = torch.full((8, 2), 0.5)
    h[known] = labels
    for _ in range(2):
        new = torch.zeros(8, 2)
        for v in range(8):
            near = a[v].nonzero().flatten()
            share = score[near] / score[near].sum()
            balance = student.balance[v].sigmoid()
            new[v] = (balance * (share @ h[near]) + (1 - balance) * beside[v]).relu()
        new[known] = labels
        h = new
    torch.testing.assert_close(student(x, graph, known, labels), h)
    student.balance.data.zero_()
    torch.testing.assert_close(student(x, graph, known, labels), student(x, graph, known, labels, strangers=True))


def test_dropout_is_fresh_in_every_step_of_training() -> None:
    graph, x = ring(30), probe(30, 5)
    student = PLP(30, 5, num_layers=2, feat_drop=0.5).train()
    none = torch.zeros(0, dtype=torch.int64), torch.zeros(0, 2)
    outputs = [student(x, graph, *none) for _ in range(2)]
    assert not torch.equal(*outputs)
    with pytest.raises(Problem, match="num_layers 1"):
        PLP(3, 5, num_layers=1)


def test_sage_counts_a_node_twice() -> None:
    graph, x = ring(7), probe(7, 3)
    model = cast(GraphSAGE, fill_(GraphSAGE(3, 4, 2))).eval()
    a = dense(graph).float() + torch.eye(7)
    outputs, h = [], x
    for layer in model.layers:
        outputs.append(layer(a @ h / a.sum(1, keepdim=True)))
        h = outputs[-1].relu()
    logits, embedding = model(x, graph)
    torch.testing.assert_close(logits, outputs[-1])
    torch.testing.assert_close(embedding, outputs[0])


# -- losses -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def people() -> FairGraph:
    graph = biased_graph(np.random.default_rng(0), 90, words=20, group_words=4, label_words=4)
    assert graph.labels is not None
    return FairGraph(**{**graph.__dict__, "split": draw_split(graph.labels, 0)})


def test_cpf_compares_probabilities_over_the_other_nodes(people: FairGraph) -> None:
    task = Task.of(people, torch.device("cpu"))
    logits, taught = probe(90, 2), probe(90, 2).flip(0).log_softmax(1)
    teacher = Knowledge(taught, torch.zeros(90, 0))
    rest = [i for i in range(90) if i not in set(task.train.tolist())]
    squares = (logits.softmax(1) - taught.exp())[rest].square().sum()
    assert cpf_loss(logits, teacher, ~task.trained).item() == pytest.approx(math.sqrt(squares), rel=1e-5)
    assert cpf_loss(taught, teacher, ~task.trained, rounded=True).item() < 1e-3


def test_the_losses_of_graphakd_term_by_term(people: FairGraph) -> None:
    task, judges = Task.of(people, torch.device("cpu")), Discriminators(2, 6)
    teacher = Knowledge(probe(90, 2).log_softmax(1), probe(90, 6))
    logits, embedding = teacher.logits.flip(0), teacher.embedding.flip(0)
    for parameter in judges.parameters():  # judges that know nothing: every judgement costs log 2
        nn.init.zeros_(parameter)
    right = nn.functional.cross_entropy(logits[task.train], task.labels[task.train])
    apart = (logits - teacher.logits).abs().sum() / 90
    expected = float(right + apart) + 5 * math.log(2)
    assert akd_loss(judges, task, teacher, logits, embedding).item() == pytest.approx(expected)
    assert discriminator_loss(judges, task, teacher, logits, embedding).item() == pytest.approx(8 * math.log(2))


# -- the game -----------------------------------------------------------------------------------


def distilled(tmp_path: Path, people: FairGraph, arm: str, **settings: Any) -> tuple[Distilled, Session]:
    config = ReliantConfig.model_validate(
        {"cpf_epochs": 30, "akd_epochs": 30, "teacher_epochs": 30, "num_layers": 4, "curve": (), **settings}
    )
    session = Session(0, tmp_path / arm, keep_seconds=0.0)
    return ReliantStudy(config, session).train(arm, people), session


@pytest.mark.parametrize("arm", ARMS)
def test_every_arm_trains_saves_and_repeats(tmp_path: Path, people: FairGraph, arm: str) -> None:
    model, session = distilled(tmp_path, people, arm)
    again, _ = distilled(tmp_path / "again", people, arm)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name
    study = ReliantStudy(ReliantConfig(), session)
    metrics = study.evaluate(model, people)
    assert 0 <= metrics["dsp"] <= 100
    checkpoint.save(model, tmp_path / "model")
    assert study.evaluate(checkpoint.load(tmp_path / "model"), people) == metrics
    assert bool(model.proxy_mean.any()) == (ARMS[arm].framework not in ("teacher",))


def test_the_proxy_learns_the_groups_and_the_student_is_told_only_its_mean(
    tmp_path: Path, people: FairGraph, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Tensor | None] = []
    forward = Distilled.forward

    def watched(self: Distilled, x: Tensor, graph: Graph, beside: Tensor | None = None, **options: Any) -> Any:
        if self.training or (self.student is not None and self.student.training):
            seen.append(None if beside is None else beside.detach().clone())
        return forward(self, x, graph, beside, **options)

    monkeypatch.setattr(Distilled, "forward", watched)
    _, session = distilled(tmp_path, people, "cpf+reliant", cpf_epochs=120, feat_drop=0.0, attn_drop=0.0)
    assert [rows is None for rows in seen] == [True, False] * 120
    records = [json.loads(line) for line in (session.out_dir / "metrics.jsonl").read_text().splitlines()]
    last = [record for record in records if record.get("part", "") == ""][-30:]
    assert np.mean([r["proxy"] for r in last]) > np.mean([r["unfair"] for r in last]), "B does not tell the groups"


def test_the_fairness_term_is_what_makes_the_difference(tmp_path: Path, people: FairGraph) -> None:
    """With α = 0 the proxy is noise; with a large one the smooth difference falls."""
    found = {}
    for alpha in (0.0, 1000.0):
        model, _ = distilled(tmp_path / str(alpha), people, "cpf+reliant", alpha=alpha, cpf_epochs=60)
        task = Task.of(people, torch.device("cpu"))
        with torch.no_grad():
            p = model(task.x, task.graph)[0].softmax(1)
        found[alpha] = smooth_difference(p, counted(task.sensitive, ~task.trained)).item()
    assert found[1000.0] < 0.5 * found[0.0]


def test_the_released_code_replaces_features_and_keeps_the_last_proxy(tmp_path: Path, people: FairGraph) -> None:
    released, _ = distilled(tmp_path / "a", people, "cpf+reliant", released=True)
    ours, _ = distilled(tmp_path / "b", people, "cpf+reliant")
    widths = [cast(PLP, model.student).attention.shape[1] for model in (released, ours)]
    assert widths == [20, 22]


def test_patience_ends_a_loop(tmp_path: Path, people: FairGraph) -> None:
    _, session = distilled(tmp_path, people, "akd", patience=3, akd_lr=1e-9, akd_epochs=60)
    lines = (session.out_dir / "metrics.jsonl").read_text().splitlines()
    assert len([line for line in lines if '"part": "teacher"' not in line]) < 60


def test_a_loss_that_is_not_finite_is_said(tmp_path: Path, people: FairGraph) -> None:
    task = Task.of(people, torch.device("cpu"))
    bad = Knowledge(torch.full((90, 2), math.nan), torch.zeros(90, 64))
    model = Distilled(20, 90, 0)
    config = ReliantConfig(cpf_lr=0.01)
    with pytest.raises(Problem, match="the loss is nan at epoch 0"):
        distil(Session(0, tmp_path), config, model, task, bad, ARMS["cpf"])


# -- a teacher's files --------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "tolerance"), [("output.txt", 1e-4), ("small_GCN.pth.tar", 0.0)])
def test_knowledge_round_trip(tmp_path: Path, name: str, tolerance: float) -> None:
    knowledge = Knowledge(probe(9, 2).log_softmax(1), probe(9, 4))
    write_knowledge(tmp_path / name, knowledge, parity=0.1)
    found = read_knowledge(tmp_path / name, 9)
    torch.testing.assert_close(found.logits.exp(), knowledge.logits.exp(), rtol=0, atol=max(tolerance, 1e-7))
    assert found.embedding.shape == ((9, 4) if tolerance == 0 else (9, 0))
    with pytest.raises(Problem, match="the teacher's file has 9 nodes, the graph has 10"):
        read_knowledge(tmp_path / name, 10)
    (tmp_path / name).write_text("not\tnumbers")
    with pytest.raises(Problem, match="no teacher's knowledge"):
        read_knowledge(tmp_path / name, 9)


def test_a_student_may_learn_from_a_file(tmp_path: Path, people: FairGraph) -> None:
    write_knowledge(tmp_path / "output.txt", Knowledge(probe(90, 2).log_softmax(1), torch.zeros(90, 0)))
    model, session = distilled(tmp_path, people, "cpf", knowledge=str(tmp_path / "output.txt"))
    assert not (session.out_dir / "shared").exists()
    assert model.student is not None
    with pytest.raises(Problem, match="has no embeddings"):
        distilled(tmp_path, people, "akd", knowledge=str(tmp_path / "output.txt"))


# -- use ----------------------------------------------------------------------------------------


def table(folder: Path, people: FairGraph, *, groups: bool = True, size: int = 90) -> Path:
    """The same people as an own table."""
    folder.mkdir()
    columns = [f"w{k}" for k in range(people.features.shape[1])]
    rows = np.c_[people.features, people.labels, people.sensitive][:size]
    names = [*columns, "y", "s"]
    kept = range(len(names) if groups else len(columns))
    lines = [",".join(names[k] for k in kept), *(",".join(str(row[k]) for k in kept) for row in rows)]
    (folder / "people.csv").write_text("\n".join(lines))
    (folder / "people_edges.txt").write_text("".join(f"{u} {v}\n" for u, v in people.edges.T if max(u, v) < size))
    return folder


def test_predictions_need_neither_groups_nor_labels(tmp_path: Path, people: FairGraph) -> None:
    config = ReliantConfig(cpf_epochs=20, akd_epochs=20, teacher_epochs=20, num_layers=4, label="y", sensitive="s")
    session = Session(0, tmp_path / "session", table(tmp_path / "full", people), keep_seconds=math.inf)
    study = ReliantStudy(config, session)  # several arms in one session: no arm may resume another's loop
    data = study.data()
    for arm in ("cpf+reliant", "akd+reliant", "teacher"):
        model = study.train(arm, data)
        with_groups = study.predict(model, tmp_path / "full").table
        bare = table(tmp_path / f"bare-{arm}", people, groups=False)
        prediction = study.predict(model, bare)
        assert prediction.table == with_groups
        assert "(the people of training)" in prediction.text
        assert len(prediction.table) == 90
        some = study.predict(model, table(tmp_path / f"some-{arm}", people, groups=False, size=40))
        assert "40 people (strangers)" in some.text
    model = study.train("cpf+group", data)
    with pytest.raises(Problem, match="needs everybody's group"):
        study.predict(model, tmp_path / "full")


def test_a_constant_decision_counts_as_collapsed(tmp_path: Path, people: FairGraph) -> None:
    model = Distilled(20, 90, student="", teacher="gcn")
    nn.init.constant_(cast(Any, model.teacher.layers[2]).bias, 0.0)
    cast(Any, model.teacher.layers[2]).bias.data[1] = 100.0
    metrics = ReliantStudy(ReliantConfig(), Session(0, tmp_path)).evaluate(model.eval(), people)
    assert (metrics["dsp"], metrics["deo"], metrics["collapsed"], metrics["balanced_accuracy"]) == (0, 0, 1, 50)


def test_the_curve_over_alpha_is_made_of_trials(tmp_path: Path, people: FairGraph) -> None:
    assert people.labels is not None
    write_npz(tmp_path / "people", people, draw_split(people.labels, 0))
    short = {"cpf_epochs": 5, "teacher_epochs": 5, "curve": (0.0, 10.0)}
    experiment = Experiment("reliant", "smoke", data=tmp_path / "people", out=tmp_path / "run", settings=short)
    result = experiment.run(arms=["cpf+reliant"])
    assert set(result.figures) == {f"{name}_{x}" for name in ("accuracy", "balanced_accuracy", "dsp") for x in (0, 10)}
    assert list(result.metrics) == ["cpf+reliant"], "a point is no arm"
    trials = tmp_path / "run" / "trials"
    assert {path.parent.name for path in trials.glob("alpha-*/result.json")} == {"alpha-0-0", "alpha-10-0"}
    assert (trials / "measure" / "figures" / "accuracy-against-dsp.png").stat().st_size > 5000
    assert checkpoint.about(trials / "alpha-10-0" / "checkpoint")["config"]["alpha"] == 10


@pytest.mark.realdata
def test_german_credit_trains(tmp_path: Path, real_data: Callable[[str], Path]) -> None:
    real_data("german-credit")
    config = ReliantConfig(cpf_epochs=5, teacher_epochs=40, real="german-credit", num_layers=3)
    study = ReliantStudy(config, Session(0, tmp_path))
    data = study.data()
    assert study.evaluate(study.train("cpf+reliant", data), data)["accuracy"] > 50
