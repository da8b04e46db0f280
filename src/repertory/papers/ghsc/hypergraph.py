"""The unified random walk on a hypergraph, the undirected graph that it equals, and the operator T made of it.

All matrices are sparse: SciPy builds them once per hypergraph (float64), PyTorch multiplies every step (float32).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from scipy import sparse
from sklearn.metrics import pairwise_distances_chunked
from torch import Tensor

from repertory.core.arguments import check_whole
from repertory.core.problem import Problem
from repertory.data.hypergraphs import CSR, check_weights
from repertory.nn.dropout import dropout
from repertory.nn.graphs import check_features
from repertory.nn.sparse import csr

DENSEST = 8
"""T is multiplied out if that grows the number of entries at most by this factor; else it stays two factors."""

BLOCK_MIB = 64
"""Distances between all objects are computed in blocks of rows of about this size."""

Rho = Callable[[np.ndarray], np.ndarray]


# -- sparse matrices for PyTorch --------------------------------------------------------------------


class Sparse:
    """A constant sparse matrix stored with its transpose, so that gradients are CSR products as well.

    Args:
        matrix: (a, b) SciPy.
        symmetric: the matrix is its own transpose and is stored once.

    Example:
        >>> Sparse(sparse.csr_array([[0.0, 2.0], [1.0, 0.0]])) @ torch.tensor([[1.0], [3.0]])
        tensor([[6.],
                [1.]])
    """

    def __init__(self, matrix: Any, symmetric: bool = False) -> None:
        rows: CSR = sparse.csr_array(matrix)
        rows.sort_indices()
        self.forward = _csr(rows)
        if symmetric:
            self.backward, self.order = self.forward, None
            return
        # Position in `backward` of each entry of `forward`: dropout masks the same entries in both.
        numbered = sparse.csr_array((np.arange(rows.nnz), rows.indices, rows.indptr), shape=rows.shape)
        columns: CSR = sparse.csr_array(numbered.T)
        self.order = torch.from_numpy(columns.data)
        columns = sparse.csr_array((rows.data[columns.data], columns.indices, columns.indptr), shape=columns.shape)
        self.backward = _csr(columns)

    @property
    def shape(self) -> torch.Size:
        return self.forward.shape

    def __matmul__(self, x: Tensor) -> Tensor:
        """(a, b) @ (b, h) -> (a, h), in float32 even under autocast: CSR products support it on all devices.

        Raises:
            Problem: another number of rows or dimensions.
        """
        if x.ndim != 2 or x.shape[0] != self.shape[1]:
            what = f"values of shape {tuple(x.shape)}"
            raise Problem(what, f"product with a matrix {tuple(self.shape)}", f"give ({self.shape[1]}, h)")
        with torch.autocast(x.device.type, enabled=False):
            return cast(Tensor, _Product.apply(self.forward, self.backward, x.to(self.forward.dtype)))

    def to(self, device: torch.device) -> Sparse:
        """The same on another device."""
        return self._with(self.forward.to(device), self.backward.to(device))

    def dropout(self, p: float) -> Sparse:
        """The same with a random share `p` of its entries 0 and the others divided by 1 − p."""
        kept = dropout(torch.ones_like(self.forward.values()), p, training=True)
        order = slice(None) if self.order is None else self.order.to(kept.device)
        hidden = [_revalued(m, m.values() * k) for m, k in ((self.forward, kept), (self.backward, kept[order]))]
        return self._with(*hidden)

    def dense(self) -> Tensor:
        """(a, b) dense; for features, never for operators."""
        return self.forward.to_dense()

    def _with(self, forward: Tensor, backward: Tensor) -> Sparse:
        other = object.__new__(Sparse)
        other.forward, other.backward, other.order = forward, backward, self.order
        return other


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, matrix: Tensor, transposed: Tensor, x: Tensor) -> Tensor:
        ctx.transposed = transposed
        return matrix @ x

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, None, Tensor]:
        return None, None, ctx.transposed @ gradients[0]


def _csr(matrix: CSR) -> Tensor:
    """float32 with int32 indices, which MKL takes without conversion."""
    starts, columns = (torch.from_numpy(np.asarray(a, dtype=np.int32)) for a in (matrix.indptr, matrix.indices))
    return csr(starts, columns, torch.from_numpy(matrix.data.astype(np.float32)), matrix.shape)


def _revalued(matrix: Tensor, values: Tensor) -> Tensor:
    return csr(matrix.crow_indices(), matrix.col_indices(), values, matrix.shape)


class Operator:
    """T as one matrix, or as two factors and a diagonal: T = B Bᵀ + diag(loop).

    Products with the factors take time linear in the incidences, whatever the sizes of the hyperedges.

    Args:
        factors: (T,) or (B, Bᵀ).
        loop: (n, 1), or None.
    """

    def __init__(self, factors: tuple[Sparse, ...], loop: Tensor | None = None) -> None:
        self.factors, self.loop = factors, loop

    def __matmul__(self, x: Tensor) -> Tensor:
        """T x, (n, h) -> (n, h)."""
        out = x
        for factor in reversed(self.factors):
            out = factor @ out
        return out if self.loop is None else torch.addcmul(out, self.loop, x)

    def to(self, device: torch.device) -> Operator:
        """The same on another device."""
        factors = tuple(factor.to(device) for factor in self.factors)
        return Operator(factors, None if self.loop is None else self.loop.to(device))

    def save(self, path: Path) -> None:
        """Write an .npz: T in SciPy's sparse format, or its factor B in that format with `loop` (n,).

        Read T or B by `scipy.sparse.load_npz`, the diagonal by `numpy.load(path)["loop"]`.
        """
        first = self.factors[0].forward.cpu()
        parts = {"indptr": first.crow_indices(), "indices": first.col_indices(), "data": first.values()}
        content: dict[str, Any] = {name: part.numpy() for name, part in parts.items()}
        content |= {"format": b"csr", "shape": first.shape, "_is_array": True}
        if self.loop is not None:
            content["loop"] = self.loop.flatten().cpu().numpy()
        np.savez_compressed(path, **content)


# -- the unified random walk --------------------------------------------------------------------------


class UnifiedHypergraph:
    """A hypergraph with weights of vertices inside hyperedges (EDVW) and its unified random walk.

    From u the walk picks a hyperedge e with probability ∝ w(e) ρ(δ(e)) δ(e) Q1[u, e], then a vertex v in e with
    probability Q2[v, e] / δ(e), where δ(e) = Σ_v Q2[v, e]. If Q1 = diag(c) Q2, it is the walk on an undirected graph
    with the weights K = Q2 W ρ(D_e) Q2ᵀ. Two cases of that are the paper's conditions: Q1 = k Q2, and weights that do
    not depend on the hyperedge, Q1[v, e] = a(v) h(v, e) and Q2[v, e] = b(v) h(v, e).

    Args:
        Q: Q2, (n, m), sparse or dense, entries ≥ 0: the weight of vertex v inside hyperedge e; all ones inside (EIVW)
            if there are none.
        w: (m,) weights of the hyperedges, > 0; None: all 1.
        sigma: ρ(x) = x^σ; or any function ρ of the hyperedge degrees that is positive. −1 gives HGNN's operator, 0 the
            clique expansion.
        renormalise: add the identity to K, as the authors' code does.
        self_hyperedges: first give every vertex that is alone in no hyperedge one for itself, of weight 1 (the second
            of the authors' releases).
        Q1: (n, m) weights that the first half of a step goes by; None: Q.

    Raises:
        Problem: negative or non-finite weights, shapes that do not go together, or ρ that is not positive.

    Example:
        >>> pair = UnifiedHypergraph(np.array([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0]]), renormalise=False)
        >>> pair.transition().toarray()
        array([[0.5 , 0.5 , 0.  ],
               [0.25, 0.5 , 0.25],
               [0.  , 0.5 , 0.5 ]])
    """

    def __init__(
        self,
        Q: Any,
        w: Any = None,
        sigma: float | Rho = -1.0,
        renormalise: bool = True,
        self_hyperedges: bool = False,
        Q1: Any = None,
    ) -> None:
        self.Q2: CSR = _matrix(Q)
        self.Q1: CSR = self.Q2 if Q1 is None else _matrix(Q1)
        n, m = self.Q2.shape
        if self.Q1.shape != (n, m):
            raise Problem(f"Q1 is {self.Q1.shape}, Q2 is {(n, m)}", "Q1", "both need a row a vertex, a column an edge")
        w = np.ones(m) if w is None else np.asarray(w, dtype=np.float64)
        if w.shape != (m,) or not np.isfinite(w).all() or (w <= 0).any():
            raise Problem("hyperedge weights must be finite and > 0, one per hyperedge", "w", f"give {m} such weights")
        if self_hyperedges:
            loops = _missing_self_hyperedges(self.Q2)
            self.Q2 = sparse.csr_array(sparse.hstack([self.Q2, loops]))
            self.Q1 = self.Q2 if Q1 is None else sparse.csr_array(sparse.hstack([self.Q1, loops]))
            w = np.r_[w, np.ones(loops.shape[1])]
        self.renormalise = renormalise

        self.delta = self.Q2.sum(axis=0)  # (m,)
        with np.errstate(divide="ignore", invalid="ignore"):
            rho = np.asarray(sigma(self.delta) if callable(sigma) else self.delta**sigma, dtype=np.float64)
        rho = np.where(self.delta > 0, rho, 0.0)  # an empty hyperedge leads nowhere
        if not np.isfinite(rho).all() or (rho[self.delta > 0] <= 0).any():
            raise Problem("ρ must be positive and finite at the hyperedge degrees", "sigma", "for example x ** -0.5")
        self.w_rho = w * rho  # (m,)

    @classmethod
    def from_pyg(
        cls,
        hyperedge_index: Tensor,
        hyperedge_weight: Tensor | None = None,
        incidence_weight: Tensor | None = None,
        num_nodes: int | None = None,
        num_edges: int | None = None,
        **settings: Any,
    ) -> UnifiedHypergraph:
        """From PyTorch Geometric's incidence.

        Args:
            hyperedge_index: (2, nnz): vertex, hyperedge.
            hyperedge_weight: (m,) or None.
            incidence_weight: (nnz,) weight of the vertex inside the hyperedge, or None: 1.
            num_nodes: n; None: the largest vertex that is named, plus 1.
            num_edges: m; None: the number of weights, or the largest hyperedge that is named, plus 1.
            settings: sigma, renormalise, self_hyperedges.

        Raises:
            Problem: tensors of another shape or type, an index out of range, or see the class.
        """
        check_incidence(hyperedge_index)
        nnz = hyperedge_index.shape[1]
        if incidence_weight is not None and incidence_weight.numel() != nnz:
            raise Problem(f"{incidence_weight.numel()} weights", "incidence_weight", f"give {nnz}, one an incidence")
        vertex, edge = hyperedge_index.cpu().numpy()
        largest = hyperedge_weight.numel() if hyperedge_weight is not None else int(edge.max(initial=-1)) + 1
        n, m = num_nodes or int(vertex.max(initial=-1)) + 1, num_edges or largest
        check_whole("UnifiedHypergraph.from_pyg", 0, num_nodes=n, num_edges=m)
        if len(vertex) and (min(vertex.min(), edge.min()) < 0 or vertex.max() >= n or edge.max() >= m):
            raise Problem(
                f"hyperedge_index names vertex {vertex.max()} or hyperedge {edge.max()} of {n} and {m}",
                "hyperedge_index",
                "row 0 holds vertices, row 1 hyperedges",
            )
        q = np.ones(len(vertex)) if incidence_weight is None else incidence_weight.detach().flatten().cpu().numpy()
        w = None if hyperedge_weight is None else hyperedge_weight.detach().flatten().cpu().numpy()
        return cls(sparse.csr_array((q.astype(np.float64), (vertex, edge)), shape=(n, m)), w, **settings)

    def transition(self) -> CSR:
        """P = D_v⁻¹ Q1 W ρ(D_e) Q2ᵀ, (n, n). The row of a vertex in no hyperedge is 0: the walk cannot start there."""
        d = self.Q1 @ (self.w_rho * self.delta)
        return _diagonal(_inverse(d)) @ self.Q1 @ _diagonal(self.w_rho) @ self.Q2.T

    # -- the graph that it equals ---------------------------------------------------------------------

    def graph(self) -> CSR:
        """K = Q2 W ρ(D_e) Q2ᵀ, (n, n): the undirected graph, self loops included, whose random walk is `transition`.

        Raises:
            Problem: there may be none for these Q1 and Q2.
        """
        self._demand_equivalence()
        return sparse.csr_array(self.Q2 @ _diagonal(self.w_rho) @ self.Q2.T)

    def stationary(self) -> np.ndarray:
        """π, (n,), sums to 1: the degrees of `graph`. The walk is reversible: π(u) P(u, v) = π(v) P(v, u).

        Raises:
            Problem: see `graph`.
        """
        self._demand_equivalence()
        degree = self.Q2 @ (self.w_rho * self.delta)
        return degree / degree.sum()

    def _demand_equivalence(self) -> None:
        if self.Q1 is self.Q2:
            return
        same_support = np.array_equal(self.Q1.indptr, self.Q2.indptr) and np.array_equal(
            self.Q1.indices, self.Q2.indices
        )
        if same_support:
            ratio = self.Q1.data / self.Q2.data
            row = np.repeat(np.arange(self.Q2.shape[0]), np.diff(self.Q2.indptr))
            c = np.zeros(self.Q2.shape[0])
            c[row] = ratio
            if np.allclose(ratio, c[row], rtol=1e-9, atol=0):
                return
        raise Problem(
            "the random walk with these Q1 and Q2 need not be that of an undirected graph",
            "Q1, Q2",
            "the equivalence holds if Q1 = k Q2 (weights may then depend on the hyperedge), or if neither depends on "
            "it: Q1[v, e] = a(v) h(v, e) and Q2[v, e] = b(v) h(v, e); give one incidence matrix, or mend them",
        )

    # -- Laplacian and operator -------------------------------------------------------------------------

    def matrix(self) -> CSR:
        """T = D^(−1/2) K D^(−1/2) with K = `graph` (+ I if renormalised) and D its column sums, (n, n)."""
        factor, loop = self._factors()
        return sparse.csr_array(factor @ factor.T + _diagonal(loop))

    def laplacian(self) -> CSR:
        """L = I − T: symmetric, positive semi-definite, eigenvalues in [0, 1]; the paper's L if not renormalised."""
        return sparse.csr_array(sparse.eye_array(self.Q2.shape[0]) - self.matrix())

    def operator(self, factored: bool | None = None) -> Operator:
        """T for PyTorch, on the CPU.

        Args:
            factored: keep T as two factors; None: decide by `DENSEST`.

        Raises:
            Problem: see `graph`.
        """
        if factored is None:
            sizes = np.diff(sparse.csc_array(self.Q2).indptr).astype(np.float64)
            factored = bool((sizes**2).sum() > DENSEST * max(sizes.sum(), 1))
        if not factored:
            return Operator((Sparse(self.matrix(), symmetric=True),))
        factor, loop = self._factors()
        loops = torch.from_numpy(loop.astype(np.float32))[:, None] if self.renormalise else None
        return Operator((Sparse(factor), Sparse(factor.T)), loops)

    def edges(self) -> tuple[Tensor, Tensor]:
        """T for PyTorch Geometric: edge_index (2, nnz) and edge_weight (nnz,).

        It is normalised and has its self loops: give the layer `normalize=False` and `add_self_loops=False`.
        """
        entries = self.matrix().tocoo()
        index = torch.from_numpy(np.stack(entries.coords).astype(np.int64))
        return index, torch.from_numpy(entries.data.astype(np.float32))

    def _factors(self) -> tuple[CSR, np.ndarray]:
        """B (n, m) and the diagonal (n,) of T = B Bᵀ + diag: B = D^(−1/2) Q (W ρ)^(1/2), in time linear in nnz(Q)."""
        self._demand_equivalence()
        degree = self.Q2 @ (self.w_rho * self.delta) + float(self.renormalise)
        root = np.sqrt(_inverse(degree))
        factor = _diagonal(root) @ self.Q2 @ _diagonal(np.sqrt(self.w_rho))
        return sparse.csr_array(factor), root**2 * float(self.renormalise)


def check_incidence(hyperedge_index: Tensor, vertices: int | None = None) -> None:
    """Require whole numbers (2, nnz); where `vertices` is given, those of row 0 below it, and none below 0.

    Raises:
        Problem: another shape or type, or a vertex that does not exist.
    """
    if hyperedge_index.ndim != 2 or hyperedge_index.shape[0] != 2 or hyperedge_index.is_floating_point():
        what = f"hyperedge_index of shape {tuple(hyperedge_index.shape)}, {hyperedge_index.dtype}"
        raise Problem(what, "hyperedge_index", "give whole numbers (2, nnz): vertex, hyperedge")
    if vertices is not None and ((hyperedge_index < 0).any() or (hyperedge_index[0] >= vertices).any()):
        what = f"hyperedge_index with numbers below 0, or vertices from {vertices} on"
        raise Problem(what, "hyperedge_index", "row 0 holds vertices, row 1 hyperedges")


def _matrix(Q: Any) -> CSR:
    if isinstance(Q, Tensor):
        Q = Q.detach().cpu()
        Q = Q.to_dense().numpy() if Q.layout == torch.strided else _from_torch(Q)
    if np.ndim(Q) != 2:
        raise Problem(f"an incidence matrix of {np.ndim(Q)} dimensions", "Q", "give (n, m): vertices, hyperedges")
    matrix = sparse.csr_array(Q, dtype=np.float64, copy=True)
    check_weights(matrix.data, "the incidence matrix")
    matrix.sum_duplicates()
    matrix.eliminate_zeros()
    return matrix


def _from_torch(Q: Tensor) -> sparse.coo_array:
    Q = Q.to_sparse_coo().coalesce()
    return sparse.coo_array((Q.values().numpy(), tuple(Q.indices().numpy())), shape=tuple(Q.shape))


def _missing_self_hyperedges(Q: CSR) -> CSR:
    """A column of weight 1 for each vertex that is in no hyperedge by itself, (n, m')."""
    columns: Any = sparse.csc_array(Q)
    single = columns[:, np.diff(columns.indptr) == 1].indices
    missing = np.setdiff1d(np.arange(Q.shape[0]), single)
    entries = (np.ones(len(missing)), (missing, np.arange(len(missing))))
    return sparse.csr_array(entries, shape=(Q.shape[0], len(missing)))


def _diagonal(values: np.ndarray) -> sparse.dia_array:
    return sparse.diags_array(values)


def _inverse(values: np.ndarray) -> np.ndarray:
    """1 / x, and 0 for 0."""
    return np.divide(1.0, values, out=np.zeros_like(values), where=values > 0)


def clique_operator(Q: Any) -> Operator:
    """GCN's operator on the clique graph: D^(−1/2) (A + I) D^(−1/2); A joins all vertices of a hyperedge by 1.

    Args:
        Q: (n, m) incidence; its weights are ignored.
    """
    members: CSR = sparse.csr_array(_matrix(Q) > 0, dtype=np.float64)
    clique = members @ members.T
    clique.data[:] = 1.0
    clique = clique - _diagonal(clique.diagonal()) + sparse.eye_array(members.shape[0])
    root = _diagonal(1 / np.sqrt(clique.sum(axis=1)))
    return Operator((Sparse(root @ clique @ root, symmetric=True),))


def with_lone_vertices(Q: CSR) -> CSR:
    """(n, m + m'): Q, and a hyperedge of weight 1 for each vertex that is in none, so that its features still count."""
    alone = np.flatnonzero(np.diff(Q.indptr) == 0)
    entries = (np.ones(len(alone)), (alone, np.arange(len(alone))))
    return sparse.csr_array(sparse.hstack([Q, sparse.csr_array(entries, shape=(Q.shape[0], len(alone)))]))


# -- hyperedges from features -----------------------------------------------------------------------


def knn_incidence(
    features: Any,
    k: int = 6,
    gamma: float = 0.5,
    probabilistic: bool = True,
    progress: Callable[[Iterable[Any]], Iterator[Any]] = iter,
) -> CSR:
    """Hyperedge c holds vertex c and its nearest vertices, k in all, by Euclidean distance.

    Q[v, c] = exp(−dist(v, c)² / (γ · mean_j(dist(j, c))²)), the mean taken over all n vertices, c included; or 1.
    Distances are computed in blocks of rows: memory grows with n, not with n².

    Args:
        features: (n, f), dense or sparse.
        k: vertices of a hyperedge, its own included.
        gamma: γ.
        probabilistic: False: all weights 1 (EIVW).
        progress: wraps the iteration over the blocks.

    Returns:
        Q, (n, n).

    Raises:
        Problem: k is not between 1 and n, or γ is not positive.

    Example:
        >>> knn_incidence(np.array([[0.0], [1.0], [3.0]]), k=2, probabilistic=False).toarray()
        array([[1., 1., 0.],
               [1., 1., 1.],
               [0., 0., 1.]])
    """
    features = cast(Any, sparse.csr_array(features) if sparse.issparse(features) else np.asarray(features))
    features = features.astype(np.float64)
    check_features(features.shape, None, "knn_incidence")
    n = features.shape[0]
    if not 1 <= k <= n:
        raise Problem(f"hyperedges of {k} nearest vertices, of {n}", "knn", f"choose 1 to {n}")
    if not gamma > 0:
        raise Problem(f"γ is {gamma}", "gamma", "choose a positive number, for example 0.5")

    def nearest(block: np.ndarray, start: int) -> tuple[np.ndarray, np.ndarray]:
        means = block.mean(axis=1)
        own = (np.arange(len(block)), np.arange(start, start + len(block)))
        block[own] = -1.0  # sorts before duplicates of the vertex
        near = torch.from_numpy(block).topk(k, largest=False, sorted=False).indices.numpy()  # 4x NumPy's argpartition
        distances = np.maximum(np.take_along_axis(block, near, axis=1), 0.0)
        scale = gamma * means[:, None] ** 2
        weights = np.exp(-np.divide(distances**2, scale, out=np.zeros_like(distances), where=scale > 0))
        return near, weights if probabilistic else np.ones_like(weights)

    blocks = list(progress(pairwise_distances_chunked(features, reduce_func=nearest, working_memory=BLOCK_MIB)))
    near, weights = (np.concatenate(parts) for parts in zip(*blocks, strict=True))
    centre = np.repeat(np.arange(len(near)), k)  # fewer than n if a dry run ended the iteration
    return sparse.csr_array((weights.ravel(), (near.ravel(), centre)), shape=(n, n))
