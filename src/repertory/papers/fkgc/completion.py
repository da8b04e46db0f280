"""A trained completer: a method with the graph that it reads, savable by itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch
from huggingface_hub import PyTorchModelHubMixin
from torch import Tensor, nn

from repertory.core.problem import Problem, suggest
from repertory.data.knowledge_graphs import KnowledgeGraph, neighbours
from repertory.papers.fkgc.embeddings import EMBEDDINGS, Factorisation
from repertory.papers.fkgc.episodes import Episode
from repertory.papers.fkgc.metar import MetaR
from repertory.papers.fkgc.metric import EPS, FAAN, FSRL, GMatching, Hood, PairMatcher, Pairs
from repertory.papers.fkgc.text import TextMatch


class Popularity(nn.Module):
    """Score of a tail: how often it is one in the background, in training and among the support."""

    counts: Tensor

    def __init__(self, entities: int) -> None:
        super().__init__()
        self.register_buffer("counts", torch.zeros(entities))

    def score(self, heads: Tensor, tails: Tensor) -> Tensor:
        """Scores (Q, C)."""
        return self.counts[tails].expand(len(heads), -1)


MATCHERS: dict[str, Any] = {"gmatching": GMatching, "fsrl": FSRL, "faan": FAAN}
"""Methods that read the neighbours of entities."""


class Completer(nn.Module, PyTorchModelHubMixin, library_name="repertory"):
    """A method, and the graph that it reads: names of entities, and their neighbours where the method has use for them.

    Args:
        method: gmatching, fsrl, faan, metar, text_match, transe, distmult, complex, popularity.
        entities: E.
        relations: R of the background, inverses included; for embeddings all relations that are trained.
        dim: D.
        shots: N that it is trained for.
        slots: M; 0 for methods that read no neighbours.
        characters: bytes of all names, of background relations and entities.
        options: further arguments of the method.
        scored: names of the relations that an embedding can score.
    """

    slots: Tensor
    degree: Tensor
    names: Tensor

    def __init__(
        self,
        method: str,
        entities: int,
        relations: int,
        dim: int,
        shots: int = 1,
        slots: int = 0,
        characters: int = 0,
        options: dict[str, Any] | None = None,
        scored: list[str] | None = None,
    ) -> None:
        super().__init__()
        options = dict(options or {})
        self.method, self.entities, self.relations, self.shots = method, entities, relations, shots
        self.scored = scored or []
        self.register_buffer("slots", torch.zeros(entities, slots, 2, dtype=torch.int32))
        self.register_buffer("degree", torch.zeros(entities, dtype=torch.int32))
        self.register_buffer("names", torch.zeros(characters, dtype=torch.uint8))
        if method in MATCHERS:
            self.core: Any = MATCHERS[method](relations + entities, dim, **options)
        elif method in EMBEDDINGS:
            self.core = EMBEDDINGS[method](entities, relations, dim, **options)
        elif method == "metar":
            self.core = MetaR(entities, dim, shots, **options)
        elif method == "text_match":
            self.core = TextMatch(entities, dim, **options)
        else:
            self.core = Popularity(entities)

    @classmethod
    def of(cls, graph: KnowledgeGraph, method: str, *, most: int = 0, **arguments: Any) -> Completer:
        """A completer of a graph's size, with its names and neighbours.

        Args:
            graph: what is completed.
            method: see the class.
            most: M.
            arguments: of the constructor; relations default to those of the background.
        """
        names = np.frombuffer(_joined(graph), np.uint8)
        arguments = {"relations": len(graph.relations), **arguments}
        most = most if method in MATCHERS else 0
        model = cls(method, len(graph.entities), slots=most, characters=len(names), **arguments)
        model.names.copy_(torch.from_numpy(names.copy()))
        if most:
            table, degree = neighbours(graph, most)
            model.slots.copy_(torch.from_numpy(table))
            model.degree.copy_(torch.from_numpy(degree))
        return model

    @torch.no_grad()
    def start_from(self, symbols: Tensor | None = None, text: Tensor | None = None) -> Completer:
        """Set the vectors to start from.

        Args:
            symbols: (R + E, D) pre-trained symbol vectors; (E, D) does for methods that read no neighbours.
            text: (E, D) sentence vectors, for text_match and for MetaR with text, whose table starts from them too.

        Raises:
            Problem: a method that reads neighbours gets no vectors of relations.
        """
        core = self.core
        if self.method in MATCHERS and symbols is not None and len(symbols) != self.relations + self.entities:
            raise Problem(
                f"{len(symbols)} vectors for {self.relations} relations and {self.entities} entities",
                "pre-trained vectors",
                f"{self.method} needs those of relations too: entity2vec.<Model> with relation2vec.<Model>",
            )
        if isinstance(core, PairMatcher | FAAN) and symbols is not None:
            core.symbol_emb.weight[: len(symbols)] = symbols
        elif isinstance(core, TextMatch):
            vectors = text if text is not None else None if symbols is None else symbols[-self.entities :]
            if vectors is not None:
                core.entity.weight.copy_(vectors)
        elif isinstance(core, MetaR):
            table = core.embedding
            if text is not None and table.text is not None:
                table.text.copy_(text)
                table.embedding.weight.copy_(text)
            elif symbols is not None:
                table.embedding.weight.copy_(symbols[-self.entities :])
        return self

    # -- names ----------------------------------------------------------------------------------

    def symbol_names(self) -> tuple[list[str], list[str]]:
        """Names of the background relations (R) and of the entities (E)."""
        names = bytes(self.names.cpu().numpy()).decode().split("\n")
        return names[: -self.entities], names[-self.entities :]

    def check_graph(self, graph: KnowledgeGraph) -> None:
        """Raise `Problem` if a graph has other entities than the one this was trained on."""
        if bytes(self.names.cpu().numpy()) != _joined(graph):
            raise Problem(
                f"the model knows {self.entities} entities, the data have {len(graph.entities)} or others",
                graph.where,
                "evaluate it on the graph that it was trained on",
            )

    def relation_number(self, name: str) -> int:
        """Number of a relation that an embedding has a vector for.

        Raises:
            Problem: none.
        """
        if name not in self.scored:
            raise Problem(
                f"{self.method} has no vector for the relation {name!r}{suggest(name, self.scored)}",
                "relation",
                "an embedding scores relations of its training alone: use a few-shot method, such as faan",
            )
        return self.scored.index(name)

    # -- the method -----------------------------------------------------------------------------

    def hood(self, ids: Tensor) -> Hood:
        """Neighbourhoods of entities (B,)."""
        return Hood(self.relations + ids, self.slots[ids].long(), self.degree[ids])

    def pairs(self, pairs: Tensor) -> Pairs:
        """Pairs (B, 2) of entities with their neighbourhoods."""
        return Pairs(self.hood(pairs[:, 0]), self.hood(pairs[:, 1]))

    def loss(self, episode: Episode, margin: float) -> Tensor:
        """Ranking loss of one episode; of a batch of tasks for MetaR, whose margin is its own."""
        core = self.core
        if isinstance(core, MetaR):
            return core.rank_loss(*episode)
        if isinstance(core, TextMatch):
            return core.rank_loss(episode.support, episode.query, episode.negative[:, 1], margin)
        false = self.hood(episode.negative[:, 1])
        return core.rank_loss(self.pairs(episode.support), self.pairs(episode.query), false, margin)

    def score(self, relation: str, support: Tensor, negative: Tensor, heads: Tensor, tails: Tensor) -> Tensor:
        """Scores of all pairs of some heads and tails, in one go.

        Args:
            relation: its name; embeddings alone need it.
            support: (N, 2) entities.
            negative: (N, 2) false pairs of the same heads; MetaR alone reads them.
            heads, tails: (Q,), (C,) entities.

        Returns:
            (Q, C), higher is better.
        """
        core = self.core
        if isinstance(core, Factorisation):
            return core.score(self.relation_number(relation), heads, tails)
        if isinstance(core, Popularity):
            return core.score(heads, tails)
        if isinstance(core, MetaR):
            return core.score(support, negative, heads, tails)
        if isinstance(core, TextMatch):
            return core.score(support, heads, tails)
        return cast(PairMatcher | FAAN, core).score(self.pairs(support), self.hood(heads), self.hood(tails))

    def forward(self, support: Tensor, pairs: Tensor) -> Tensor:
        """Scores (B,) of pairs (B, 2), for a method that reads neighbours."""
        return self.core(self.pairs(pairs), self.pairs(support))


def _joined(graph: KnowledgeGraph) -> bytes:
    return "\n".join([*graph.relations, *graph.entities]).encode()


def standardised(vectors: np.ndarray) -> np.ndarray:
    """(x − mean) / (std + 1e-3) a row: what the matchers do to ComplEx vectors."""
    mean, std = vectors.mean(1, keepdims=True), vectors.std(1, keepdims=True)
    return (vectors - mean) / (std + EPS)


def stacked(vectors: Mapping[str, tuple[np.ndarray, np.ndarray]], model: str) -> Tensor:
    """(R + E, D) symbol vectors in the order of the symbols."""
    entity, relation = vectors[model]
    both: Sequence[np.ndarray] = (relation, entity)
    table = np.concatenate(both)
    return torch.from_numpy(standardised(table) if model == "ComplEx" else table)
