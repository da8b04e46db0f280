"""How the claims of GHSC are tested.

```
repertory run ghsc                                     # generated objects in two views (EDVW), minutes
REPERTORY_DATA=… repertory run ghsc --scale desk       # co-citation Cora, 10 splits, settings of the workshop release
repertory run ghsc --scale paper --data cocitation/    # any data set of `hypergraphs.FORMATS`, the journal's settings
repertory train ghsc --data my_objects/ --set knn=6 --set gamma=0.5 --out my_model
```
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, cast

import numpy as np
import pandas as pd
import torch
from huggingface_hub import PyTorchModelHubMixin
from scipy import sparse
from scipy.sparse.linalg import eigsh
from torch import Tensor, nn

from repertory.core import checkpoint
from repertory.core.problem import Problem
from repertory.core.study import Metric, Prediction, Study
from repertory.data import hypergraphs
from repertory.data.hypergraphs import CSR, Hypergraph
from repertory.papers.ghsc import pictures
from repertory.papers.ghsc.hypergraph import (
    Operator,
    Sparse,
    UnifiedHypergraph,
    clique_operator,
    knn_incidence,
    with_lone_vertices,
)
from repertory.papers.ghsc.loop import PROTOCOLS, roles, train_network
from repertory.papers.ghsc.model import Network, build_network
from repertory.papers.ghsc.settings import ARMS, DEPTHS, GHSCConfig, GHSCDesign, setting
from repertory.tasks.graphs import accuracy, demand_features, having, keep_nodes, node_names, write_nodes

KNN = 6


class VertexClassifier(nn.Module, PyTorchModelHubMixin):
    """Trained H-GNNs with what `predict` needs, on the training vertices or on others.

    Args:
        networks: variant -> arguments of `build_network` but the sizes of input and output; most arms have one, "main".
        in_features: f.
        classes: names of the C classes.
        vertices: n of the training data.
        operator: how incidence and T are made; see `GHSCStudy.inputs`.
        protocol: whose weights `forward` uses.
    """

    def __init__(
        self,
        networks: dict[str, dict[str, Any]],
        in_features: int,
        classes: list[str],
        vertices: int,
        operator: dict[str, Any],
        protocol: str = "validation",
    ) -> None:
        super().__init__()
        self.in_features, self.classes, self.operator, self.protocol = in_features, classes, operator, protocol
        sizes = {"in_features": in_features, "classes": len(classes)}
        self.networks = nn.ModuleDict(
            {
                variant: nn.ModuleDict({pick: build_network(**sizes, **spec) for pick in PROTOCOLS})
                for variant, spec in networks.items()
            }
        )
        self.role = nn.Buffer(torch.zeros(vertices, dtype=torch.int8))

    def network(self, variant: str = "", protocol: str = "") -> Network:
        """One of the trained networks; default: the only variant, or the first by name, under the model's protocol."""
        picks = cast(nn.ModuleDict, self.networks[variant or min(self.networks)])
        return cast(Network, picks[protocol or self.protocol])

    def forward(self, x: Tensor | Sparse, T: Any) -> Tensor:
        """Features (n, f) and T -> logits (n, C)."""
        return self.network()(x, T)


class Inputs(NamedTuple):
    """A data set in the form that networks take."""

    x: Tensor | Sparse
    T: Operator | Tensor
    hypergraph: UnifiedHypergraph
    """From which T is built, except in arms with another kind of operator."""


ACCURACY = Metric("accuracy", "准确率", unit="%", better="higher", decimals=1)


class GHSCStudy(GHSCDesign, Study[GHSCConfig, Hypergraph, VertexClassifier]):
    """Classify the vertices of a hypergraph, transductively, under two protocols; see `loop.PROTOCOLS`."""

    metrics: ClassVar[Mapping[str, Metric]] = {
        "accuracy": ACCURACY,
        "accuracy_released": replace(ACCURACY, en="accuracy, protocol of the release", zh="准确率（按发布代码的协议）"),
        "accuracy_edvw": replace(ACCURACY, needs="weights of vertices that differ inside hyperedges"),
        **{
            f"accuracy{protocol}_{network}_{{x}}": replace(
                ACCURACY, en=f"accuracy of {network}, {{x}} layers{en}", zh=f"{{x}} 层 {network} 的准确率{zh}"
            )
            for network in ("h-gcn", "h-gcnii")
            for protocol, en, zh in (("", "", ""), ("_released", ", protocol of the release", "（按发布代码的协议）"))
        },
        "walk_gap_edvw": Metric("largest gap of the two walks, EDVW", "两种游走的最大差异（EDVW）", better="lower"),
        "walk_gap_eivw": Metric("largest gap of the two walks, EIVW", "两种游走的最大差异（EIVW）", better="lower"),
        "irreversibility_otherwise": Metric("irreversibility of the walk otherwise", "其他情形下游走的不可逆程度"),
        "smallest_eigenvalue": Metric("smallest eigenvalue", "最小特征值"),
        "largest_eigenvalue": Metric("largest eigenvalue", "最大特征值"),
    }
    sample_name = "generated hypergraph"
    sample_fields = ("sample", "sample_vertices")
    seeded_data = False
    layout = hypergraphs.FORMATS

    # -- data -----------------------------------------------------------------------------------

    def write_sample(self, folder: Path) -> None:
        """Papers in the HyperGCN format, or objects in the mat format."""
        rng, n = np.random.default_rng(0), self.config.sample_vertices
        if self.config.sample == "citation":
            papers = hypergraphs.citation_hypergraph(rng, vertices=n, hyperedges=3 * n // 4)
            hypergraphs.write_hypergcn(folder / "cocitation" / "sample", papers)
        else:
            objects = hypergraphs.visual_objects(rng, objects=n)
            hypergraphs.write_mat(folder / "objects_mvcnn_gvcnn.mat", objects)

    def read(self, folder: Path) -> Hypergraph:
        if not hypergraphs.hypergraph_files(folder):
            raise self.missing(folder)
        return hypergraphs.read_hypergraph(folder)

    def inputs(self, data: Hypergraph, spec: Mapping[str, Any]) -> Inputs:
        """Features and operator of a data set.

        Args:
            data: hyperedges are built from its features if it has none, or if the specification asks for it.
            spec: kind (unified, clique, hgnn, pyg), views, knn, gamma, edvw, sigma, renormalise, self_hyperedges.
        """
        if spec["views"] != "both" and spec["views"] in data.views:
            data = Hypergraph(**{**vars(data), "views": {spec["views"]: data.views[spec["views"]]}})
        Q, w = self._incidence(data, spec)
        if spec["kind"] in ("hgnn", "pyg"):
            lone = with_lone_vertices(Q)
            w = None if w is None else np.r_[w, np.ones(lone.shape[1] - Q.shape[1])]
            hypergraph = UnifiedHypergraph(lone, w, renormalise=False)
        else:
            hypergraph = UnifiedHypergraph(Q, w, spec["sigma"], spec["renormalise"], spec["self_hyperedges"])
        device = self.session.fabric.device
        if spec["kind"] == "pyg":
            T: Operator | Tensor = torch.from_numpy(np.stack(hypergraph.Q2.tocoo().coords).astype(np.int64)).to(device)
        else:
            T = (clique_operator(Q) if spec["kind"] == "clique" else hypergraph.operator()).to(device)
        features = data.features
        x = Sparse(features) if sparse.issparse(features) else torch.from_numpy(np.asarray(features))
        return Inputs(x.to(device), T, hypergraph)

    def _incidence(self, data: Hypergraph, spec: Mapping[str, Any]) -> tuple[CSR, np.ndarray | None]:
        """Q (n, m), with the nearest-neighbour hyperedges of all views side by side, and the hyperedges' weights."""
        parts = [] if data.incidence is None else [data.incidence]
        w = data.weights
        if data.incidence is None or spec["knn"] is not None:
            k = spec["knn"] or min(KNN, data.size)
            for view, features in data.views.items():
                parts.append(
                    knn_incidence(
                        features,
                        k,
                        spec["gamma"],
                        progress=lambda blocks, view=view: self.session.progress(blocks, f"neighbours, {view}"),
                    )
                )
            w = None if w is None else np.r_[w, np.ones(data.size * len(data.views))]
        Q = sparse.csr_array(sparse.hstack(parts))
        if not spec["edvw"]:
            Q.data[:] = 1.0
        return Q, w

    # -- the experiment -------------------------------------------------------------------------

    def train(self, arm: str, data: Hypergraph) -> VertexClassifier:
        """Train an arm; write predictions.csv and operator.npz into the session's folder, and pictures of the method.

        Raises:
            Problem: too few labelled vertices.
            Diverged: the loss is not finite.
        """
        what = ARMS[arm]
        changes = {name: value for name, value in what.changes.items() if name != "edvw"}
        config = self.config.model_copy(update=changes)
        spec = {
            "kind": what.operator,
            "edvw": what.changes.get("edvw", True),
            "self_hyperedges": config.release == "pami" if config.self_hyperedges is None else config.self_hyperedges,
            **{name: getattr(config, name) for name in ("views", "knn", "gamma", "sigma", "renormalise")},
        }
        x, T, hypergraph = self.inputs(data, spec)
        bags = not isinstance(x, Tensor) or bool((x >= 0).all())
        if what.network == "both":
            networks = {
                f"{name}_{depth}": self._network(name, config, data, layers=depth)
                for name in ("h-gcn", "h-gcnii")
                for depth in DEPTHS
            }
        else:
            networks = {"main": self._network(what.network, config, data, row_normalise=bags)}
        model = VertexClassifier(networks, x.shape[1], list(data.classes), data.size, spec, config.protocol)
        model.role.copy_(roles(data, config, self.session))
        self.session.fabric.to_device(model)

        labels = self.session.fabric.to_device(torch.from_numpy(data.labels))
        picks = None
        for variant, described in networks.items():
            part = "" if variant == "main" else variant
            self.session.reseed("network", part)
            network = build_network(in_features=x.shape[1], classes=len(data.classes), **described)
            self.session.fabric.to_device(network)
            given = setting(config, described["name"], data.name, data.incidence is None)
            picks = train_network(self.session, network, x, T, labels, model.role, given, part)
            for protocol in PROTOCOLS:
                model.network(variant, protocol).load_state_dict(picks.state(protocol))
        model.eval()

        write_nodes(self.session, "predictions.csv", prediction_table(data, *classify(model, x, T)[1:], model.classes))
        if self.session.fabric.is_global_zero:
            if isinstance(T, Operator):
                T.save(self.session.out_dir / "operator.npz")
            if arm == self.method and picks is not None:
                self.session.figure("training", pictures.training_picture(picks.history, picks.steps))
                for name, figure in self._pictures(data, model, x, T, hypergraph).items():
                    self.session.figure(name, figure)
        return model

    def _network(self, name: str, config: GHSCConfig, data: Hypergraph, **changes: Any) -> dict[str, Any]:
        """Arguments of `build_network`."""
        given = setting(config, name, data.name, data.incidence is None)
        options: dict[str, Any] = {
            "hidden": given.hidden,
            "layers": given.layers,
            "dropout": given.dropout,
            "alpha": given.alpha,
            "lamda": given.lamda,
            "variant": config.variant,
            "init": "glorot" if config.release == "pami" else "uniform",
        }
        taken = {
            "mlp": ("hidden", "dropout", "row_normalise"),
            "h-gcn": ("hidden", "layers", "dropout"),
            "h-gcnii": tuple(options),
            "h-revgnn": ("hidden", "layers", "dropout"),
            "h-sgc": (),
            "h-ssgc": (),
        }.get(name, ("hidden", "dropout"))
        if name == "h-gcn":
            options["layers"] = config.gcn_layers
        return {"name": name, **{key: value for key, value in (options | changes).items() if key in taken}}

    @torch.no_grad()
    def evaluate(self, model: VertexClassifier, data: Hypergraph) -> dict[str, float]:
        """Accuracy in percent under both protocols; on other vertices than in training, on all labelled ones.

        `accuracy_edvw` repeats the accuracy where the data have edge-dependent vertex weights; claims about such
        weights compare it.

        Raises:
            Problem: another number of features than in training.
        """
        known = self._renumbered(data, model)
        x, T, _ = self._demand_features(data, model, data.name)
        weighted = data.incidence is None or bool((data.incidence.data != 1).any())
        if data.size == len(model.role):
            tested = {name: having(model.role, wanted) for name, (_, wanted) in PROTOCOLS.items()}
        else:
            tested = dict.fromkeys(PROTOCOLS, (known >= 0).nonzero().flatten())
        metrics: dict[str, float] = {}
        depths: dict[str, dict[int, float]] = {}
        for variant in model.networks:
            scores = {}
            for protocol, ids in tested.items():
                logits = model.network(variant, protocol).eval()(x, T)
                scores[protocol] = accuracy(logits, known, ids)
                keep_nodes(self.session, logits, known, ids, f"{variant}_{protocol}")
            suffix = "" if variant == "main" else f"_{variant}"
            metrics[f"accuracy{suffix}"] = scores["validation"]
            metrics[f"accuracy_released{suffix}"] = scores["released"]
            if suffix:
                network, _, depth = variant.rpartition("_")
                depths.setdefault(network, {})[int(depth)] = scores["validation"]
            elif weighted:
                metrics["accuracy_edvw"] = scores["validation"]
        if depths and self.session.fabric.is_global_zero:
            self.session.figure("accuracy-against-depth", pictures.depth_picture(depths))
        return metrics

    def measure_data(self, data: Hypergraph) -> dict[str, float]:
        """Distance of this hypergraph's walk from the walk on an undirected graph, and the ends of L's spectrum.

        A gap is the largest difference of two transition probabilities, or of two flows relative to the largest.
        """
        spec = {"views": "both", "knn": self.config.knn, "gamma": self.config.gamma, "edvw": True}
        Q, w = self._incidence(data, spec)
        rng = self.session.rng("walk")
        given = {"w": w, "sigma": self.config.sigma, "renormalise": False}

        a, b = rng.uniform(0.5, 2, size=(2, data.size))
        h = sparse.csr_array((np.ones(Q.nnz), Q.indices, Q.indptr), shape=Q.shape)
        other = sparse.csr_array((rng.uniform(0.5, 2, Q.nnz), Q.indices, Q.indptr), shape=Q.shape)
        dependent = UnifiedHypergraph(Q, **given)
        independent = UnifiedHypergraph(sparse.diags_array(b) @ h, Q1=sparse.diags_array(a) @ h, **given)
        neither = UnifiedHypergraph(Q, Q1=other, **given)

        T = dependent.matrix()
        low, high = (float(eigsh(T, k=1, which=end, return_eigenvectors=False, v0=a)[0]) for end in ("SA", "LA"))
        return {
            "walk_gap_edvw": walk_gap(dependent),
            "walk_gap_eivw": walk_gap(independent),
            "irreversibility_otherwise": irreversibility(neither.transition()),
            "smallest_eigenvalue": 1 - high,
            "largest_eigenvalue": 1 - low,
        }

    # -- use --------------------------------------------------------------------------------------

    def predict(self, model: VertexClassifier, source: Path) -> Prediction:
        """Classify the vertices of a hypergraph, the same or another; builds its operator.

        Args:
            model: trained or converted.
            source: folder of a hypergraph, or the file that stands for it.

        Raises:
            Problem: no readable hypergraph, or another number of features.
        """
        data = hypergraphs.read_hypergraph(source)
        x, T, hypergraph = self._demand_features(data, model, source)
        hidden, logits = classify(model, x, T)
        table = prediction_table(data, logits, model.classes)
        share = pd.Series([row["class"] for row in table]).value_counts()
        text = f"{data.size} vertices: " + ", ".join(f"{count} {name}" for name, count in share.items())
        known = self._renumbered(data, model)
        labelled = (known >= 0).nonzero().flatten()
        if len(labelled):
            text += f"\n{accuracy(logits, known, labelled):.1f} % of the {len(labelled)} labelled ones as labelled"
            text += " (those of training included)" if data.size == len(model.role) else ""
        return Prediction(
            text=text,
            table=table,
            figures=self._pictures(data, model, x, T, hypergraph),
            arrays={"hidden": hidden.cpu().numpy()},
        )

    def convert(self, source: Path, variant: str = "") -> VertexClassifier:
        """Build a model from a state dict of the authors' H-GCN or H-GCNII, of either release.

        Args:
            source: the file.
            variant: names of the classes, separated by commas; empty: 0, 1, …

        Raises:
            Problem: not such a state dict, or another number of names.
        """
        state = checkpoint.read_weights(source)
        state = checkpoint.rename(
            state,
            {r"^midlayer\.0\.": "", r"^hiddenlayers\.": "convs.", r"^(convs\.\d+)\.weight1$": r"\1.weight"},
        )
        weights = [state[f"convs.{k}.weight"] for k in range(len(state)) if f"convs.{k}.weight" in state]
        if not weights or any(weight.ndim != 2 for weight in weights):
            raise Problem(
                "no matrices of H-GCN or H-GCNII among the weights", source, f"found: {', '.join(state)[:80]}"
            )
        if "fcs.0.weight" in state and "fcs.1.weight" in state:
            hidden, in_features = state["fcs.0.weight"].shape
            classes = len(state["fcs.1.weight"])
            deep = {"variant": weights[0].shape[0] != hidden, "alpha": self.config.alpha, "lamda": self.config.lamda}
            described = {"name": "h-gcnii", "hidden": hidden, "layers": len(weights)}
            described |= {key: value for key, value in deep.items() if value is not None}
        else:
            in_features, hidden, classes = weights[0].shape[0], weights[0].shape[1], weights[-1].shape[1]
            described = {"name": "h-gcn", "hidden": hidden, "layers": len(weights)}
        names = variant.split(",") if variant else [str(number) for number in range(classes)]
        if len(names) != classes:
            raise Problem(f"{len(names)} names for {classes} classes", "--variant", "separate the names by commas")
        spec = {
            "kind": "unified",
            "edvw": True,
            "self_hyperedges": bool(self.config.self_hyperedges),
            **{name: getattr(self.config, name) for name in ("views", "knn", "gamma", "sigma", "renormalise")},
        }
        model = VertexClassifier({"main": described}, in_features, names, 0, spec)
        for protocol in PROTOCOLS:
            checkpoint.fit_weights(model.network("main", protocol), state, source)
        return model.eval()

    # -- parts --------------------------------------------------------------------------------------

    def _demand_features(self, data: Hypergraph, model: VertexClassifier, source: object) -> Inputs:
        inputs = self.inputs(data, model.operator)
        demand_features(model.in_features, inputs.x.shape[1], source, "vertex")
        return inputs

    def _renumbered(self, data: Hypergraph, model: VertexClassifier) -> Tensor:
        """Labels (n,) as indices of the model's classes; −1: unlabelled, or unknown to the model."""
        number = {name: k for k, name in enumerate(model.classes)}
        table = torch.tensor([*(number.get(name, -1) for name in data.classes), -1])  # the last for unlabelled ones
        return self.session.fabric.to_device(table[torch.from_numpy(data.labels)])

    def _pictures(
        self, data: Hypergraph, model: VertexClassifier, x: Tensor | Sparse, T: Any, hypergraph: UnifiedHypergraph
    ) -> dict[str, Any]:
        hidden, logits = classify(model, x, T)
        groups = logits.argmax(dim=1).cpu().numpy()
        drawn = {
            "hidden-layer": lambda: pictures.embedding_picture(hidden, groups, model.classes),
            "spectrum": lambda: pictures.spectrum_picture(hypergraph.laplacian()),
            "incidence": lambda: pictures.incidence_picture(hypergraph.Q2, groups, model.classes),
        }
        return {name: draw() for name, draw in self.session.progress(drawn.items(), "pictures")}


@torch.no_grad()
def classify(model: VertexClassifier, x: Tensor | Sparse, T: Any) -> tuple[Tensor, Tensor]:
    """Last hidden layer (n, h) and logits (n, C)."""
    network = model.network().eval()
    hidden = network.embed(x, T)
    return hidden, network.head(hidden, T)


def prediction_table(data: Hypergraph, logits: Tensor, classes: list[str]) -> list[dict[str, Any]]:
    """One row per vertex: name or number, class, probability of every class."""
    probabilities = logits.softmax(dim=1).cpu()
    names = node_names(data.vertices, data.size)
    return [
        {"vertex": name, "class": classes[best], **{f"p_{c}": p for c, p in zip(classes, row, strict=True)}}
        for name, best, row in zip(names, probabilities.argmax(dim=1).tolist(), probabilities.tolist(), strict=True)
    ]


# -- the equivalence, in figures ------------------------------------------------------------------------


def walk_gap(hypergraph: UnifiedHypergraph) -> float:
    """Largest difference between a step of the unified walk and one of the walk on the undirected graph."""
    K = hypergraph.graph()
    degree = K.sum(axis=1)
    on_graph = sparse.diags_array(np.divide(1, degree, out=np.zeros_like(degree), where=degree > 0)) @ K
    return float(abs(hypergraph.transition() - on_graph).max())


def irreversibility(P: CSR, steps: int = 2000) -> float:
    """Largest |π(u) P(u, v) − π(v) P(v, u)| of a walk P (n, n), as a share of its largest flow; 0: it is reversible."""
    pi = np.full(P.shape[0], 1 / P.shape[0])
    for _ in range(steps):
        pi = (pi + pi @ P) / 2  # the lazy walk: converges for periodic walks too
    flow = sparse.csr_array(sparse.diags_array(pi) @ P)
    return float(abs(flow - flow.T).max() / flow.max())
