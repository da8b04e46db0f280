"""How the claims of RELIANT are tested.

repertory run reliant                                         # generated graph, minutes
REPERTORY_DATA=… repertory run reliant --scale desk           # German Credit
repertory run reliant --scale paper --data bail/              # README: CPF + GCN .8928 / .0567, teacher .9225 / .0619
repertory train reliant --data people/ --set label=HIRED --set sensitive=SEX --out model/
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import pandas as pd
import torch
from sklearn.metrics import balanced_accuracy_score
from torch import Tensor, nn

from repertory.core.problem import Problem
from repertory.core.study import Metric, Prediction, Study, Sweep
from repertory.data import fair_graphs
from repertory.data.fair_graphs import Encoding, FairGraph
from repertory.papers.reliant import pictures
from repertory.papers.reliant.fairness import opportunity_difference, parity_difference
from repertory.papers.reliant.graph import Graph
from repertory.papers.reliant.knowledge import Knowledge, read_knowledge, write_knowledge
from repertory.papers.reliant.loop import Task, distil, train_teacher
from repertory.papers.reliant.model import Distilled
from repertory.papers.reliant.settings import ARMS, SETTINGS, STUDENTS, ReliantConfig, ReliantDesign
from repertory.tasks.graphs import demand_features

COLLAPSED = 0.99
"""Share of one decision above which a model counts as collapsed."""

FAIR_METRICS = {
    "accuracy": Metric("accuracy", "准确率", unit="%", better="higher", decimals=1),
    "balanced_accuracy": Metric("balanced accuracy", "平衡准确率", unit="%", better="higher", decimals=1),
    "dsp": Metric("ΔSP", "ΔSP", unit="%", better="lower", decimals=1),
    "deo": Metric("ΔEO", "ΔEO", unit="%", better="lower", decimals=1),
}


class ReliantStudy(ReliantDesign, Study[ReliantConfig, FairGraph, Distilled]):
    """Distil students on one graph of people; measure their accuracy and group fairness."""

    metrics: ClassVar[Mapping[str, Metric]] = {
        **FAIR_METRICS,
        "majority": Metric("largest share of one decision", "同一判定的最大占比", unit="%", decimals=1),
        "collapsed": Metric("nearly all decisions the same", "判定几乎全部相同", better="lower"),
        **{
            f"{name}_{{x}}": replace(metric, en=f"{metric.en}, α = {{x}}", zh=f"{metric.zh}，α = {{x}}")
            for name, metric in FAIR_METRICS.items()
            if name != "deo"
        },
    }
    sweeps: ClassVar[tuple[Sweep, ...]] = (
        Sweep(
            arm="cpf+reliant",
            setting="alpha",
            values="curve",
            metrics=("accuracy", "balanced_accuracy", "dsp"),
            pictures={"accuracy-against-dsp": pictures.curve_picture},
        ),
    )
    sample_name = "generated people"
    sample_fields = ("sample_nodes",)
    layout = fair_graphs.FORMATS

    # -- data -----------------------------------------------------------------------------------

    def write_sample(self, folder: Path) -> None:
        """A generated graph in the format of DBLP."""
        graph = fair_graphs.biased_graph(np.random.default_rng(0), self.config.sample_nodes)
        assert graph.labels is not None
        fair_graphs.write_npz(folder, graph, fair_graphs.draw_split(graph.labels, 0))

    def read(self, folder: Path) -> FairGraph:
        c = self.config
        return fair_graphs.read_fair_graph(folder, c.label, c.sensitive, self.session.seed, similar=c.join_similar)

    # -- the experiment -------------------------------------------------------------------------

    def train(self, arm: str, data: FairGraph) -> Distilled:
        """Train the teacher (once for all arms), then the student of this arm.

        Raises:
            Problem: a group is empty, or a teacher's file does not fit the graph.
        """
        known = SETTINGS.get(data.name, SETTINGS["bail"])
        config = self.config.model_copy(update={k: v for k, v in known.items() if getattr(self.config, k) is None})
        task = Task.of(data, self.session.fabric.device)
        model, framework = self._model(arm, data, config), ARMS[arm].framework
        model.remember(task.x, task.train, task.labels[task.train])
        if not config.knowledge:
            shared = self.session.shared("teacher", lambda: self._teacher(data, task))
            model.teacher.load_state_dict(shared.teacher.state_dict())
        if framework == "teacher":
            return model.eval()
        teacher = self._knowledge(model, task, config)
        self.session.reseed("student")
        # Initialised after the teacher, so that the weights do not depend on which arm trained it.
        fresh = self._model(arm, data, config)
        assert model.student is not None
        model.student.load_state_dict(cast(nn.Module, fresh.student).state_dict())
        distil(self.session, config, model, task, teacher, ARMS[arm])
        return model

    def _model(self, arm: str, data: FairGraph, config: ReliantConfig) -> Distilled:
        how = ARMS[arm]
        model = Distilled(
            features=data.features.shape[1],
            nodes=data.size,
            known=len(data.split["train"]),
            teacher=config.teacher,
            student=cast(Any, STUDENTS[how.framework]),
            proxy=how.proxy,
            replaces=config.released and how.framework == "cpf",
            num_layers=config.num_layers or 10,
            emb=config.emb,
            mlp_layers=config.mlp_layers,
            feat_drop=config.feat_drop,
            attn_drop=config.attn_drop,
            encoding=data.encoding.__dict__,
        )
        self.session.fabric.to_device(model)
        return model

    def _teacher(self, data: FairGraph, task: Task) -> Distilled:
        model = self._model("teacher", data, self.config)
        train_teacher(self.session, self.config, model, task)
        return model

    def _knowledge(self, model: Distilled, task: Task, config: ReliantConfig) -> Knowledge:
        if config.knowledge:
            known = read_knowledge(Path(config.knowledge), len(task.x))
            return Knowledge(*(self.session.fabric.to_device(part) for part in (known.logits, known.embedding)))
        with torch.no_grad():
            logits, embedding = model.teacher.eval()(task.x, task.graph)
        knowledge = Knowledge(logits.log_softmax(1), embedding)
        if self.session.fabric.is_global_zero:
            for name in ("output.txt", "teacher.pth.tar"):
                write_knowledge(self.session.out_dir / name, knowledge)
        return knowledge

    def evaluate(self, model: Distilled, data: FairGraph) -> dict[str, float]:
        """On the test nodes, in per cent: accuracy, balanced accuracy, ΔSP, ΔEO, the largest share of one decision.

        `collapsed` is 1 if nearly all decisions are the same: ΔSP and ΔEO near 0 then say nothing about fairness. Other
        people than those of training are encoded as they were.

        Raises:
            Problem: other columns or another number of features than in training.
        """
        data = data.encoded(Encoding(**model.encoding), "evaluate")
        demand_features(model.features, data.features.shape[1], data.name, "person")
        task = Task.of(data, self.session.fabric.device)
        p = self._scores(model, task.x, task.graph, task.sensitive)[task.test]
        labels, sensitive = (values[task.test].cpu() for values in (task.labels, task.sensitive))
        decisions = p.argmax(1).cpu()
        outputs = {"label": labels, "sensitive": sensitive, "prediction": decisions, "probability": p}
        self.session.keep_outputs(outputs)
        for s in {0, 1} - set(sensitive[labels == 1].tolist()):
            warnings.warn(f"ΔEO is not defined: no test person of group {s} has label 1", stacklevel=2)
        share = float(torch.bincount(decisions, minlength=2).max()) / len(decisions)
        with torch.inference_mode():
            taught = model.teacher(task.x, task.graph)[0].softmax(1)[task.test, 1].cpu().numpy()
        scores = {"student": p[:, 1].cpu().numpy()} if model.student is not None else {}
        figure = pictures.scores_picture({"teacher": taught, **scores}, sensitive.numpy())
        self.session.figure("scores-by-group", figure)
        return {
            "accuracy": 100 * float((decisions == labels).double().mean()),
            "balanced_accuracy": 100 * float(balanced_accuracy_score(labels, decisions)),
            "dsp": 100 * parity_difference(decisions, sensitive),
            "deo": 100 * opportunity_difference(decisions, sensitive, labels),
            "majority": 100 * share,
            "collapsed": float(share > COLLAPSED),
        }

    @torch.inference_mode()
    def _scores(self, model: Distilled, x: Tensor, graph: Graph, sensitive: Tensor | None) -> Tensor:
        """Probabilities (n, C)."""
        beside = None
        if model.proxy == "group":
            if sensitive is None:
                raise Problem("this model needs everybody's group", "predict", "train the arm cpf+reliant")
            beside = torch.stack([sensitive, 1 - sensitive], dim=1).to(x)
        return model(x, graph, beside, strangers=not model.knows(x))[0].softmax(1)

    # -- use ------------------------------------------------------------------------------------

    def predict(self, model: Distilled, source: Path) -> Prediction:
        """Predict for all people of the training graph or of another; groups need not be known.

        CPF uses the known labels and the λ of the training graph; on another graph it has neither.

        Raises:
            Problem: no readable graph, or other columns than in training.
        """
        graph = fair_graphs.read_fair_graph(source, encoding=Encoding(**model.encoding))
        demand_features(model.features, graph.features.shape[1], source, "person")
        x = torch.as_tensor(graph.features, device=self.session.fabric.device)
        edges = Graph(graph.edges, graph.size, x.device)
        p = self._scores(model, x, edges, None)[:, 1].cpu().numpy()
        with torch.inference_mode():
            taught = model.teacher(x, edges)[0].softmax(1)[:, 1].cpu().numpy()
        columns = {"node": range(graph.size), "decision": (p > 0.5).astype(int), "probability": p, "teacher": taught}
        table = pd.DataFrame(columns).to_dict("records")
        known = "the people of training" if model.knows(x) else "strangers"
        text = f"{graph.size} people ({known}): {int((p > 0.5).sum())} decided 1"
        figures = {"scores": pictures.scores_picture({"teacher": taught, "student": p})}
        return Prediction(text=text, table=cast(Any, table), figures=figures)
