"""RELIANT: a student distilled from a biased teacher, with a learned proxy of the bias (Dong et al., SDM 2023).

    student:  min over the student of  L_KD + α F,   input [X | mean of B]   (every node the same)
    proxy:    max over B of            F,            input [X | B]           (every node its own)
    use:      input [X | mean of B]

B learns to say what group a node belongs to, so that the student need not read it from X; the mean says nothing of
anybody. The teachers are a GCN and a GraphSAGE; the students those of CPF (label propagation with an MLP beside it)
and of GraphAKD (a simple graph convolution, taught by three discriminators).
"""

from __future__ import annotations

import math
from hashlib import sha256
from itertools import pairwise
from typing import Any, Literal, get_args

import torch
from huggingface_hub import PyTorchModelHubMixin
from torch import Tensor, nn
from torch.nn import functional as F

from repertory.core.arguments import check_choice, check_rates, check_whole
from repertory.core.problem import Problem
from repertory.nn.dropout import Dropout, dropped_linear
from repertory.nn.graphs import check_features, check_indices
from repertory.papers.reliant.graph import Graph
from repertory.papers.reliant.settings import ProxyKind

TeacherKind = Literal["gcn", "sage"]
StudentKind = Literal["plp", "sgc"]

PROXIES = 2
"""Columns of B."""


# -- teachers -----------------------------------------------------------------------------------


class GraphConvolution(nn.Module):
    """S x W + b, with S the symmetrically normalised adjacency; W (in, out) Xavier-uniform, b 0."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(in_features, out_features))
        self.bias = nn.Parameter(torch.zeros(out_features))
        nn.init.xavier_uniform_(self.weight)

    def forward(self, x: Tensor, graph: Graph) -> Tensor:
        """(n, in) -> (n, out); multiplies in the cheaper order."""
        narrow = self.weight.shape[1] <= self.weight.shape[0]
        y = graph.convolve(x @ self.weight) if narrow else graph.convolve(x) @ self.weight
        return y + self.bias


def linear(in_features: int, out_features: int, gain: float = 1.0) -> nn.Linear:
    """A linear layer with Xavier-uniform weights and bias 0."""
    layer = nn.Linear(in_features, out_features)
    nn.init.xavier_uniform_(layer.weight, gain)
    nn.init.zeros_(layer.bias)
    return layer


class GCN(nn.Module):
    """Three graph convolutions; dropout before the second and the third.

    Raises:
        Problem: a width below 1, or a dropout outside [0, 1); in `forward`, features of another shape.
    """

    def __init__(self, in_features: int, hidden: int, classes: int, dropout: float = 0.8) -> None:
        super().__init__()
        check_whole("GCN", in_features=in_features, hidden=hidden, classes=classes)
        check_rates("GCN", dropout=dropout)
        self.in_features = in_features
        widths = (in_features, hidden, hidden, classes)
        self.layers = nn.ModuleList(GraphConvolution(i, o) for i, o in pairwise(widths))
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, graph: Graph) -> tuple[Tensor, Tensor]:
        """(n, d) -> logits (n, C) and the first layer's embedding (n, h)."""
        check_features(x.shape, self.in_features, "GCN", graph.size)
        first, second, last = self.layers
        embedding = F.relu(first(x, graph))
        h = F.relu(second(self.dropout(embedding), graph))
        return last(self.dropout(h), graph), embedding


class GraphSAGE(nn.Module):
    """Four linear layers, each on the mean of a node and its neighbours (aggregator "gcn").

    The graph has self loops, so a node counts twice in its own mean.

    Raises:
        Problem: see `GCN`.
    """

    def __init__(self, in_features: int, hidden: int, classes: int, dropout: float = 0.5) -> None:
        super().__init__()
        check_whole("GraphSAGE", in_features=in_features, hidden=hidden, classes=classes)
        check_rates("GraphSAGE", dropout=dropout)
        self.in_features = in_features
        widths = (in_features, hidden, hidden, hidden, classes)
        self.layers = nn.ModuleList(linear(i, o, nn.init.calculate_gain("relu")) for i, o in pairwise(widths))
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, graph: Graph) -> tuple[Tensor, Tensor]:
        """(n, d) -> logits (n, C) and the first layer's embedding (n, h), before its activation."""
        check_features(x.shape, self.in_features, "GraphSAGE", graph.size)
        first, *others = self.layers
        z = embedding = first(graph.average_with_self(self.dropout(x)))
        for layer in others:
            z = layer(graph.average_with_self(self.dropout(F.relu(z))))
        return z, embedding


TEACHERS: dict[str, type[GCN] | type[GraphSAGE]] = {"gcn": GCN, "sage": GraphSAGE}
TEACHER_WIDTHS = {"gcn": 64, "sage": 128}


# -- students -----------------------------------------------------------------------------------


class PLP(nn.Module):
    r"""Parameterised label propagation with an MLP beside it, the student of CPF.

    .. math:: h_v \leftarrow \mathrm{ReLU}\Big( \sigma(\lambda_v) \sum_{u \to v} a_{uv} h_u
              + \sigma(-\lambda_v)\, \mathrm{MLP}(x_v) \Big), \qquad
              a_{uv} = \mathrm{softmax}_{u \to v}(w^\top x_u)

    One layer, applied `num_layers` - 1 times from the known labels (one-hot) and 1/C elsewhere; known labels are put
    back each time.

    Args:
        nodes: number of nodes n; each has a λ of its own, 0 at first.
        in_features: columns of x.
        emb: hidden width of the MLP.
        classes: C.
        num_layers: L, as the authors count.
        mlp_layers: 1 (linear) or 2.
        feat_drop: dropout of x, for w and before each layer of the MLP.
        attn_drop: dropout of a.

    Raises:
        Problem: mlp_layers is neither 1 nor 2, num_layers less than 2, a width below 1, or a dropout outside [0, 1); in
            `forward`, features or known labels of another shape, or ids of nodes that do not exist.
    """

    def __init__(
        self,
        nodes: int,
        in_features: int,
        emb: int = 64,
        classes: int = 2,
        num_layers: int = 10,
        mlp_layers: int = 2,
        feat_drop: float = 0.8,
        attn_drop: float = 0.2,
    ) -> None:
        super().__init__()
        if mlp_layers not in (1, 2) or num_layers < 2:
            raise Problem(f"num_layers {num_layers}, mlp_layers {mlp_layers}", "PLP", "at least 2; 1 or 2")
        check_whole("PLP", num_layers=num_layers, in_features=in_features, emb=emb, classes=classes)
        check_whole("PLP", 0, nodes=nodes)
        check_rates("PLP", feat_drop=feat_drop, attn_drop=attn_drop)
        self.in_features, self.classes = in_features, classes
        self.steps, self.attn_drop = num_layers - 1, attn_drop
        self.alpha = nn.Parameter(torch.zeros(nodes, 1), requires_grad=False)  # unused; the authors' files have it
        self.balance = nn.Parameter(torch.zeros(nodes, 1))
        self.attention = nn.Parameter(torch.empty(1, in_features))
        nn.init.xavier_normal_(self.attention, gain=math.sqrt(2))
        widths = (in_features, emb, classes) if mlp_layers == 2 else (in_features, classes)
        self.feat_drop = Dropout(feat_drop)
        layers: list[nn.Module] = []
        for i, o in pairwise(widths):
            layers += [Dropout(feat_drop), nn.Linear(i, o), nn.ReLU()]
        self.mlp = nn.Sequential(*layers[:-1])

    def forward(self, x: Tensor, graph: Graph, known: Tensor, labels: Tensor, strangers: bool = False) -> Tensor:
        """Propagate labels.

        Args:
            x: (n, d).
            graph: with self loops.
            known: ids of the nodes whose labels are known, (m,).
            labels: of these nodes, one-hot (m, C).
            strangers: nodes of another graph than the training graph; λ = 0.

        Returns:
            What the authors call logits, (n, C): values that are nearly probabilities.
        """
        check_features(x.shape, self.in_features, "PLP", graph.size if strangers else len(self.balance))
        check_features(labels.shape, self.classes, "PLP, known labels", len(known))
        check_indices(known[:, None], (len(x),), "known", "PLP")
        own = self.balance.new_zeros(len(x), 1) if strangers else self.balance
        spread, keep = own.sigmoid(), (-own).sigmoid()
        # In training each step draws its own dropout masks; in evaluation all steps are the same.
        draws = self.steps if self.training else 1
        scores = torch.cat([self._dropped(x, self.attention) for _ in range(draws)], 1)  # (n, draws)
        weights = graph.neighbour_softmax(scores, self.attn_drop if self.training else 0.0)
        weights = weights.T.contiguous().unbind()  # draws x (E,)
        beside = [keep * self._mlp(x) for _ in range(draws)]  # draws x (n, C)
        start = h = x.new_full(beside[0].shape, 1 / self.classes).index_copy(0, known, labels)
        for step in range(self.steps):
            draw = step % draws
            h = F.relu(spread * graph.product(weights[draw], h) + beside[draw])
            h = h.index_copy(0, known, start[known])
        return h

    def _mlp(self, x: Tensor) -> Tensor:
        """`mlp`, without keeping what comes out of dropout: (n, d) -> (n, C)."""
        first, *others = (layer for layer in self.mlp if isinstance(layer, nn.Linear))
        y = self._dropped(x, first.weight, first.bias)
        for layer in others:
            y = self._dropped(F.relu(y), layer.weight, layer.bias)
        return y

    def _dropped(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return dropped_linear(x, weight, bias, self.feat_drop.p, self.training)


class SGC(nn.Module):
    """Three linear layers, each after one step of propagation: the student of GraphAKD.

    Weights Xavier-uniform, biases 0.

    Raises:
        Problem: see `GCN`.
    """

    def __init__(self, in_features: int, hidden: int, classes: int, dropout: float = 0.5) -> None:
        super().__init__()
        check_whole("SGC", in_features=in_features, hidden=hidden, classes=classes)
        check_rates("SGC", dropout=dropout)
        self.in_features = in_features
        widths = (in_features, hidden, hidden, classes)
        self.layers = nn.ModuleList(linear(i, o) for i, o in pairwise(widths))
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, graph: Graph) -> tuple[Tensor, Tensor]:
        """(n, d) -> logits (n, C) and the second layer's embedding (n, h)."""
        check_features(x.shape, self.in_features, "SGC", graph.size)
        first, second, last = self.layers
        h = self.dropout(F.relu(first(graph.convolve(x))))
        embedding = F.relu(second(graph.convolve(h)))
        return last(graph.convolve(self.dropout(embedding))), embedding


# -- GraphAKD's discriminators ------------------------------------------------------------------


class LogitDiscriminator(nn.Module):
    """Logits (n, C) -> class logits and a teacher score, (n, C + 1)."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        check_whole("LogitDiscriminator", classes=classes)
        self.residual = nn.Linear(classes, classes)
        self.out = nn.Linear(classes, classes + 1, bias=False)

    def forward(self, z: Tensor) -> Tensor:
        check_features(z.shape, self.residual.in_features, "LogitDiscriminator")
        return self.out(F.relu(z + self.residual(z)))


class Diagonal(nn.Module):
    """k d x, with d ones and k 1/2 at first: the matrix of the bilinear scores a . (k d b)."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        check_whole("Diagonal", hidden=hidden)
        self.diagonal = nn.Parameter(torch.ones(hidden))
        self.scale = nn.Parameter(torch.tensor(0.5))

    def forward(self, x: Tensor) -> Tensor:
        """(..., h) -> (..., h)."""
        if x.shape[-1:] != self.diagonal.shape:
            raise Problem(f"an embedding of shape {tuple(x.shape)}", "Diagonal", f"give (..., {len(self.diagonal)})")
        return self.scale * self.diagonal * x


class Discriminators(nn.Module):
    """GraphAKD's discriminators of teacher (1) and student (0): on logits, neighbours and the whole graph."""

    def __init__(self, classes: int, hidden: int) -> None:
        super().__init__()
        self.logits = LogitDiscriminator(classes)
        self.neighbours, self.whole = Diagonal(hidden), Diagonal(hidden)

    def local_scores(self, embedding: Tensor, graph: Graph) -> Tensor:
        """(n, h) -> a score for each edge, (E,)."""
        check_features(embedding.shape, len(self.neighbours.diagonal), "Discriminators", graph.size)
        e = F.normalize(embedding, dim=1)
        return graph.similarity(e, self.neighbours(e))

    def global_scores(self, embedding: Tensor, summary: Tensor) -> Tensor:
        """(n, h) and a graph's summary (h,) -> a score for each node, (n,)."""
        check_features(embedding.shape, len(self.whole.diagonal), "Discriminators")
        return F.normalize(embedding, dim=1) @ self.whole(summary)


def summary_of(embedding: Tensor) -> Tensor:
    """(n, h) -> (h,)."""
    return embedding.mean(0).sigmoid()


# -- what is trained, saved and used ------------------------------------------------------------


class Distilled(nn.Module, PyTorchModelHubMixin, library_name="repertory"):
    """A teacher, its student, and what the student needs in use: the mean of B and the known labels.

    Args:
        features: columns d of X.
        nodes: people n of the training graph.
        known: how many of them are for training.
        teacher: "gcn" or "sage".
        student: "plp" or "sgc"; "": the teacher itself decides.
        proxy: what stands beside X: "none"; "group", the true (s, 1 - s), in training and in use; "learned", B.
        replaces: the proxy takes the place of the last two columns of X (the authors' code, CPF), rather than a place
            beside them.
        classes: C.
        num_layers, emb, mlp_layers, feat_drop, attn_drop: see `PLP`.
        encoding: how columns become features, see `repertory.data.fair_graphs.Encoding`.

    Raises:
        Problem: an unknown name, a width below 1, or a dropout outside [0, 1); in `forward`, features or rows of the
            proxy of another shape, or another graph than that of training, without `strangers`.
    """

    def __init__(
        self,
        features: int,
        nodes: int = 0,
        known: int = 0,
        teacher: TeacherKind = "gcn",
        student: StudentKind | Literal[""] = "plp",
        proxy: ProxyKind = "learned",
        replaces: bool = False,
        classes: int = 2,
        num_layers: int = 10,
        emb: int = 64,
        mlp_layers: int = 2,
        feat_drop: float = 0.8,
        attn_drop: float = 0.2,
        encoding: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        check_choice("Distilled", TEACHERS, teacher=teacher)
        check_choice("Distilled", ("", *get_args(StudentKind)), student=student)
        check_choice("Distilled", get_args(ProxyKind), proxy=proxy)
        check_whole("Distilled", 1 + PROXIES if replaces and proxy != "none" else 1, features=features)
        check_whole("Distilled", 0, nodes=nodes, known=known)
        self.features, self.classes, self.proxy = features, classes, proxy
        self.encoding = encoding or {"columns": []}
        self.kept = features - PROXIES if replaces and proxy != "none" else features
        width = TEACHER_WIDTHS[teacher]
        self.teacher = TEACHERS[teacher](features, width, classes)
        in_features = self.kept + (0 if proxy == "none" else PROXIES)
        self.student: PLP | SGC | None = None
        if student == "plp":
            self.student = PLP(nodes, in_features, emb, classes, num_layers, mlp_layers, feat_drop, attn_drop)
        elif student == "sgc":
            self.student = SGC(in_features, width, classes)  # as wide as the teacher, for the discriminators
        self.proxy_mean = nn.Buffer(torch.zeros(PROXIES))
        self.known = nn.Buffer(torch.zeros(known, dtype=torch.int64))
        self.known_labels = nn.Buffer(torch.zeros(known, classes))
        self.digest = nn.Buffer(torch.zeros(32, dtype=torch.uint8))

    def forward(
        self, x: Tensor, graph: Graph, beside: Tensor | None = None, strangers: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """Logits of the student or, without one, of the teacher.

        Args:
            x: (n, d).
            graph: of the same n nodes.
            beside: rows of the proxy, (n, 2); None: the mean of B for everybody.
            strangers: people of another graph than the training graph; none of their labels is known.

        Returns:
            logits (n, C) and embedding (n, h), or None of PLP.
        """
        check_features(x.shape, self.features, "Distilled", graph.size)
        if self.student is None:
            return self.teacher(x, graph)
        if self.proxy != "none":
            beside = self.proxy_mean.expand(len(x), -1) if beside is None else beside
            check_features(beside.shape, PROXIES, "Distilled, proxy", len(x))
            x = torch.cat([x[:, : self.kept], beside], dim=1)
        if isinstance(self.student, SGC):
            return self.student(x, graph)
        known, labels = (self.known[:0], self.known_labels[:0]) if strangers else (self.known, self.known_labels)
        return self.student(x, graph, known, labels, strangers), None

    def remember(self, x: Tensor, known: Tensor, labels: Tensor) -> None:
        """Store the known labels, (m,) ids and (m,) classes, and a digest of the features that identifies the graph."""
        self.known.copy_(known)
        self.known_labels.copy_(F.one_hot(labels, self.classes))
        self.digest.copy_(digest_of(x))

    def knows(self, x: Tensor) -> bool:
        """Whether x belongs to the training graph, in the same order."""
        return torch.equal(self.digest.cpu(), digest_of(x))


def digest_of(x: Tensor) -> Tensor:
    """SHA-256 of the features, (32,) uint8."""
    return torch.tensor(list(sha256(x.cpu().numpy().tobytes()).digest()), dtype=torch.uint8)
