"""How the claims of CCGC are tested.

```
repertory run ccgc                                    # generated graph, minutes
REPERTORY_DATA=… repertory run ccgc --scale desk      # BAT; published ACC 75.04 ± 1.78 under the oracle
repertory run ccgc --scale paper --data cora/         # any of the six graphs, settings from settings.SETTINGS
```
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from repertory.core import checkpoint
from repertory.core.loops import Picks
from repertory.core.problem import Problem
from repertory.core.study import Metric, Prediction, Study
from repertory.data import graphs
from repertory.data.graphs import Graph
from repertory.papers.ccgc import pictures
from repertory.papers.ccgc.clustering import kmeans, require_clusters, require_distinct
from repertory.papers.ccgc.loop import cluster_contrastively, cluster_restarts, clustering_of, last_refresh
from repertory.papers.ccgc.model import CCGC, GraphClustering, Moment, kept_of, smooth
from repertory.papers.ccgc.settings import RELEASED, SETTINGS, UNKNOWN, CCGCConfig, CCGCDesign
from repertory.tasks.graphs import (
    demand_features,
    keep_clusters,
    label_free_scores,
    node_names,
    supervised_scores,
    write_nodes,
)

NEVER = 1 << 30

KMEANS_ARMS = {
    "kmeans-raw": {"smoothed": False, "restarted": True},
    "kmeans-smoothed": {"smoothed": True, "restarted": False},
    "kmeans-smoothed-restarts": {"smoothed": True, "restarted": True},
}
"""What is clustered, and whether it is restarted as often as trained arms are scored (a control for the oracle)."""

CONTRASTIVE_ARMS: dict[str, dict[str, Any]] = {
    "warmup-only": {"warmup_epochs": NEVER},
    "ccgc": {},
    "ccgc-released": RELEASED,
    "no-negatives": {"alpha": 0.0},
    "random-negatives": {"negatives": "nodes"},
    "shared-encoder": {"views": "masking"},
}
"""Fields of the configuration that each arm changes."""


class CCGCStudy(CCGCDesign, Study[CCGCConfig, Graph, GraphClustering]):
    """Cluster one attributed graph, and score it under three protocols; see `loop.PROTOCOLS`."""

    metrics: ClassVar[Mapping[str, Metric]] = {
        f"{name}_{protocol}": replace(metric, en=f"{metric.en}, {en}", zh=f"{metric.zh}（{zh}）")
        for name, metric in {
            "acc": Metric("ACC", "准确率", unit="%", better="higher", decimals=1, needs="true labels"),
            "nmi": Metric("NMI", "标准化互信息", unit="%", better="higher", decimals=1, needs="true labels"),
            "ari": Metric("ARI", "调整兰德指数", unit="%", better="higher", decimals=1, needs="true labels"),
            "f1": Metric("macro F1", "宏平均 F1", unit="%", better="higher", decimals=1, needs="true labels"),
            "inertia": Metric("relative inertia", "相对簇内平方和", better="lower"),
            "silhouette": Metric("silhouette", "轮廓系数", better="higher", needs="two clusters with members"),
            "epoch": Metric("epoch chosen", "所选轮次", decimals=0),
        }.items()
        for protocol, en, zh in (
            ("last", "last clustering", "最后一次聚类"),
            ("oracle", "best by true labels", "按真实标签取最优"),
            ("stop", "least inertia", "簇内平方和最小"),
        )
    }
    sample_name = "block graph"
    sample_fields = ("sample_nodes",)
    seeded_data = False
    layout = graphs.FORMATS

    # -- data -----------------------------------------------------------------------------------

    def write_sample(self, folder: Path) -> None:
        """The generated graph as an npy triplet and, in the folder `planetoid`, in that format too."""
        rng = np.random.default_rng(0)
        graph = graphs.block_graph(rng, nodes=self.config.sample_nodes)
        graphs.write_triplet(folder, graph)
        graphs.write_planetoid(folder / "planetoid", graph, rng)

    def read(self, folder: Path) -> Graph:
        if not graphs.graph_files(folder):
            raise self.missing(folder)
        return graphs.read_graph(folder)

    # -- the experiment -------------------------------------------------------------------------

    def train(self, arm: str, data: Graph) -> GraphClustering:
        """Cluster the graph; write clusters.csv and the picture of the epochs into the session's folder.

        Raises:
            Problem: the number of clusters is unknown or impossible; see also `loop.cluster_contrastively`.
        """
        clusters = self._clusters(data)
        known = SETTINGS.get(data.name.lower(), UNKNOWN)
        steps = known.smoothing_steps if self.config.smoothing_steps is None else self.config.smoothing_steps
        plain = KMEANS_ARMS.get(arm)
        steps = 0 if plain and not plain["smoothed"] else steps
        x = self._smoothed(data, steps)
        require_distinct(x, clusters)

        if plain:
            looks = 2 + last_refresh(self.config) // self.config.refresh_every
            restarts = looks if plain["restarted"] else 1
            picks = cluster_restarts(self.session, x, clusters, self.config.threshold, restarts, data.labels)
        else:
            config = self.config.model_copy(update=CONTRASTIVE_ARMS[arm])
            lr = config.lr or known.lr
            picks = cluster_contrastively(self.session, x, clusters, config, lr, data.labels)
            self._show(picks, config)
        model = clustering_of(picks, x.shape[1], clusters, steps)
        self.session.fabric.to_device(model)
        write_nodes(self.session, "clusters.csv", cluster_table(data, *assign(model.moment(), x)[1:]))
        return model

    def evaluate(self, model: GraphClustering, data: Graph) -> dict[str, float]:
        """Scores of every protocol's clustering; those against true labels only if the graph has labels.

        Raises:
            Problem: another number of features than in training.
        """
        demand_features(model.in_features, data.features.shape[1], data.name)
        x = self._smoothed(data, model.smoothing_steps)
        metrics: dict[str, float] = {}
        for protocol in model.moments:
            moment = self._with_centres(model.moment(protocol), x)
            z, distances, _ = assign(moment, x)
            scores = {"epoch": float(moment.epoch), **label_free_scores(z, distances)}
            if data.labels is not None:
                clusters = distances.argmin(dim=1).cpu().numpy()
                scores |= supervised_scores(data.labels, clusters)
                keep_clusters(self.session, data.labels, clusters, protocol)
            metrics |= {f"{name}_{protocol}": score for name, score in scores.items()}
        return metrics

    # -- use --------------------------------------------------------------------------------------

    def predict(self, model: GraphClustering, source: Path) -> Prediction:
        """Assign the nodes of a graph, the same or another, to the clusters of the last epoch.

        A model without centres (converted weights) first gets them by K-means on this graph.

        Args:
            model: trained or converted.
            source: folder of a graph, or the file that stands for it.

        Raises:
            Problem: no readable graph, or another number of features.
        """
        graph = graphs.read_graph(source)
        demand_features(model.in_features, graph.features.shape[1], source)
        x = self._smoothed(graph, model.smoothing_steps)
        moment = self._with_centres(model.moment(), x)
        z, distances, sure = assign(moment, x)
        clusters, flat = distances.argmin(dim=1).cpu().numpy(), z.cpu().numpy()
        sizes = ", ".join(f"{k}: {size}" for k, size in enumerate(np.bincount(clusters, minlength=model.clusters)))
        text = f"{graph.size} nodes in {model.clusters} clusters ({sizes}); {int(sure.sum())} of them confident"
        if moment is not model.moment():
            text += "\nthe weights came without centres; these are from K-means on this graph"
        drawn = {"embedding": pictures.embedding_picture, "cosine": pictures.cosine_picture}
        return Prediction(
            text=text,
            table=cluster_table(graph, distances, sure),
            figures={name: draw(flat, clusters) for name, draw in self.session.progress(drawn.items(), "pictures")},
            arrays={"embedding": flat, "distances": distances.cpu().numpy()},
        )

    def convert(self, source: Path, variant: str = "") -> GraphClustering:
        """Build a model from a state dict of the authors' module (layers1.*, layers2.*), which holds no centres.

        Args:
            source: the file.
            variant: what the state dict lacks: the data set (a key of `SETTINGS`, with K and t), or K;
                empty: the data set with this number of features.

        Raises:
            Problem: not such a state dict, or a variant that does not tell K.
        """
        state = checkpoint.read_weights(source)
        if state.get("layers1.weight", torch.empty(0)).ndim != 2:
            found = ", ".join(sorted(state)[:4])
            raise Problem(f"no matrix layers1.weight among the weights: {found}", source, "give a state dict of CCGC")
        hidden, in_features = state["layers1.weight"].shape
        encoder = CCGC(in_features, hidden)
        checkpoint.fit_weights(encoder, state, source)

        if variant.isdecimal():
            known = UNKNOWN._replace(clusters=int(variant))
        elif variant:
            known = SETTINGS.get(variant.lower())
        else:
            known = next((setting for setting in SETTINGS.values() if setting.features == in_features), None)
        if known is None or known.clusters < 2:
            raise Problem(
                f"the weights do not say the number of clusters, nor do {variant or f'{in_features} features'}",
                source,
                f"give as variant the number of clusters (2 or more), or a data set: {', '.join(SETTINGS)}",
            )
        steps = known.smoothing_steps if self.config.smoothing_steps is None else self.config.smoothing_steps
        clusters = self.config.clusters or known.clusters
        model = GraphClustering(in_features, clusters, steps, {"last": hidden})
        model.moment().encoder = encoder
        return model.eval()

    # -- parts --------------------------------------------------------------------------------------

    def _clusters(self, graph: Graph) -> int:
        clusters = self.config.clusters
        if clusters is None:
            if graph.labels is None:
                raise Problem(
                    f"{graph.name} has no labels, so the number of clusters must be given",
                    "clusters",
                    "--set clusters=K, with K between 2 and the number of nodes",
                )
            clusters = len(np.unique(graph.labels))
        require_clusters(clusters, graph.size)
        return clusters

    def _smoothed(self, graph: Graph, steps: int) -> Tensor:
        return self.session.fabric.to_device(smooth(graph.adjacency, graph.features, steps))

    def _with_centres(self, moment: Moment, x: Tensor) -> Moment:
        """The moment itself or, if it has no centres, a copy with those that K-means finds on `x` (n, d)."""
        if not moment.centres.isnan().any():
            return moment
        with torch.no_grad():
            z = moment.embed(x)
        require_distinct(z, len(moment.centres))
        found = kmeans(z, len(moment.centres), self.session.generator("kmeans", 0))
        fitted = Moment(x.shape[1], len(moment.centres), z.shape[1])
        fitted.load_state_dict({**moment.state_dict(), **kept_of(z, found, self.config.threshold)})
        self.session.fabric.to_device(fitted)
        return fitted

    def _show(self, picks: Picks, config: CCGCConfig) -> None:
        if self.session.fabric.is_global_zero:
            figure = pictures.epochs_picture(picks.history, config.warmup_epochs, picks.steps)
            self.session.figure("acc-over-epochs" if "oracle" in picks.picked else "inertia-over-epochs", figure)


@torch.no_grad()
def assign(moment: Moment, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Smoothed features (n, d) -> Z (n, h), squared distances to the centres (n, K), mask of confident nodes (n,)."""
    z, distances = moment(x)
    return z, distances, distances.min(dim=1).values < moment.cut


def cluster_table(graph: Graph, distances: Tensor, sure: Tensor) -> list[dict[str, Any]]:
    """One row per node: name or number, cluster, squared distance to its centre, whether it is confident."""
    nearest = distances.min(dim=1)
    columns = (node_names(graph.nodes, graph.size), nearest.indices.tolist(), nearest.values.tolist(), sure.tolist())
    return [
        {"node": node, "cluster": cluster, "distance": distance, "high_confidence": confident}
        for node, cluster, distance, confident in zip(*columns, strict=True)
    ]
