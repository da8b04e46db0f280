"""Tests of what the survey says of few-shot knowledge graph completion.

repertory run fkgc                                           # a generated graph and one of phrases
REPERTORY_DATA=… repertory run fkgc --scale desk             # UMLS; desk-kinships, desk-nations
repertory run fkgc --scale paper --data NELL-One/ --arms metar --set eval_every=1000 --set patience=30
                                                             # published 5-shot MRR 0.313
repertory train fkgc --data triples.tsv --out model/         # then: repertory predict model/ question.json
repertory train fkgc --data ATOMIC/ --arm text_match --set text_encoder=minilm --out model/
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from repertory.core import checkpoint
from repertory.core.problem import Problem, suggest
from repertory.core.study import Metric, Prediction, Session, Study, Sweep
from repertory.data import knowledge_graphs
from repertory.data.knowledge_graphs import KnowledgeGraph, entity_type, is_graph, read_knowledge_graph
from repertory.papers.fkgc import pictures
from repertory.papers.fkgc.completion import Completer, Popularity, stacked
from repertory.papers.fkgc.embeddings import EMBEDDINGS
from repertory.papers.fkgc.episodes import (
    Ranking,
    background_tasks,
    by_relation,
    chance_mrr,
    first_false,
    make_task,
    rank_metrics,
    ranking_of,
    tasks_of,
    training_tasks,
)
from repertory.papers.fkgc.metar import MetaR
from repertory.papers.fkgc.metric import FAAN
from repertory.papers.fkgc.queries import LAYOUT, Question, read_questions
from repertory.papers.fkgc.settings import ARMS, Arm, FKGCConfig, FKGCDesign, Recipe, recipe_of
from repertory.papers.fkgc.text import sentence_vectors
from repertory.papers.fkgc.training import (
    EpisodeSource,
    Plan,
    SeenTriples,
    background_triples,
    embedding_loss,
    fit,
    seen_triples,
)
from repertory.papers.fkgc.weights import read_released, sizes_of

GRAPH, PHRASES = "graph", "commonsense"
"""Folders of data that hold a graph of identifiers and one of phrases."""
META_LEAST = 10
"""Candidates and triples that a training relation of MetaR must exceed (authors' code)."""
SHOWN_QUERIES = 3
"""Queries that `predict` answers for each test relation of a data folder."""


@dataclass(frozen=True)
class Graphs:
    """The graph of the structural arms and that of the text-aware ones: one and the same where the data hold one."""

    structure: KnowledgeGraph
    phrases: KnowledgeGraph

    def of(self, arm: Arm) -> KnowledgeGraph:
        """The graph that an arm runs on."""
        return self.phrases if arm.phrases else self.structure


def _metrics(prefix: str, en: str, zh: str, needs: str) -> dict[str, Metric]:
    options: dict[str, Any] = {"unit": "%", "better": "higher", "decimals": 1, "needs": needs}
    return {
        f"{prefix}mrr": Metric(f"MRR{en}", f"MRR{zh}", **options),
        f"{prefix}hits_{{x}}": Metric(f"Hits@{{x}}{en}", f"Hits@{{x}}{zh}", **options),
    }


class FKGCStudy(FKGCDesign, Study[FKGCConfig, Graphs, Completer]):
    """Train each method on few-shot tasks over one graph, and rank the tails of relations that it never saw."""

    metrics: ClassVar[Mapping[str, Metric]] = {
        **_metrics("", "", "", "an arm of the graph's structure, or one graph alone"),
        **_metrics("commonsense_", ", commonsense graph", "（常识图谱）", "an arm of the commonsense graph"),
        "mrr_{x}": Metric("MRR of FAAN, {x} shots", "FAAN 的 MRR（{x} 样本）", unit="%", better="higher", decimals=1),
        "queries": Metric("queries ranked", "排序的查询数", decimals=0),
        "chance": Metric("MRR of random scores", "随机打分的 MRR", unit="%", decimals=1),
    }
    sweeps: ClassVar[tuple[Sweep, ...]] = (
        Sweep("faan", "shots", "shot_curve", ("mrr",), {"shots": pictures.shots_picture}),
    )
    sample_name = "generated graphs"
    sample_fields = (
        "sample_relations", "sample_phrase_relations", "dim", "lr", "embedding_epochs", "embedding_negatives",
    )  # fmt: skip
    layout = f"{GRAPH}/ and {PHRASES}/, or one folder or file, each as {knowledge_graphs.FORMATS.strip()}"

    # -- data -----------------------------------------------------------------------------------

    def write_sample(self, folder: Path) -> None:
        """A rule-generated graph as a NELL-One folder with TransE vectors, and a commonsense graph as ConceptNet's."""
        c, rng = self.config, np.random.default_rng(0)
        graph = knowledge_graphs.rule_graph(rng, c.sample_relations)
        session = Session(0, self.session.out_dir / "sample", fabric=self.session.fabric, keep_seconds=math.inf)
        symbols = FKGCStudy(c, session)._pretrained(graph).core
        vectors = symbols.entity.weight, symbols.relation.weight
        stored = {"TransE": tuple(weight.detach().cpu().numpy() for weight in vectors)}
        session.finish()
        for name in (GRAPH, PHRASES):
            (folder / name).mkdir()
        knowledge_graphs.write_nell(folder / GRAPH, replace(graph, vectors=stored))
        knowledge_graphs.write_conceptnet(
            folder / PHRASES, knowledge_graphs.phrase_graph(rng, c.sample_phrase_relations)
        )

    def read(self, folder: Path) -> Graphs:
        """Read one graph, or the two of a folder with graph/ and commonsense/.

        Raises:
            Problem: none there, or damaged; see `read_knowledge_graph`.
        """
        pair = folder / GRAPH, folder / PHRASES
        if all(part.is_dir() for part in pair):
            return Graphs(*(self._read_one(part) for part in pair))
        if not is_graph(folder):
            raise self.missing(folder)
        graph = self._read_one(folder)
        return Graphs(graph, graph)

    def _read_one(self, folder: Path) -> KnowledgeGraph:
        c = self.config
        building = {"background_from": c.background_from, "least": c.least_triples, "most": c.most_triples}
        graph = read_knowledge_graph(folder, self.session.rng("split", "tasks"), **building)
        if not c.resplit:
            return graph
        rng = self.session.rng("split", "parts")
        mixed = {relation: rng.permutation(pairs) for relation, pairs in sorted(graph.few.items())}
        total = len(mixed)
        shares = len(graph.tasks["dev"]) / total, len(graph.tasks["test"]) / total
        return replace(graph, tasks=knowledge_graphs.drawn_parts(mixed, rng, shares))

    # -- training -------------------------------------------------------------------------------

    def train(self, arm: str, data: Graphs) -> Completer:
        """Train one arm; the state with the best MRR on the dev tasks is kept."""
        given = ARMS[arm]
        graph = data.of(given)
        shots = given.shots or self.config.shots
        for part in knowledge_graphs.PARTS:
            tasks_of(graph, part, shots)  # names relations that are too small, before anything is trained
        if given.method == "popularity":
            return self._popularity(graph, shots)
        if given.method in EMBEDDINGS:
            return self._embedding(given.method, graph, seen_triples(graph, shots), shots, "")
        return self._few_shot(given, graph, shots)

    def _model(self, given: Arm, graph: KnowledgeGraph, shots: int, recipe: Recipe, **arguments: Any) -> Completer:
        """An arm's network; pre-trained vectors of the folder decide its channels."""
        c = self.config
        options: dict[str, Any] = {
            "gmatching": {"steps": c.steps},
            "fsrl": {"steps": c.steps, "dropout": c.fsrl_dropout, "support_dropout": c.fsrl_dropout},
            "faan": {"layers": c.layers, "heads": c.heads},
            "metar": {"beta": c.beta},
        }.get(given.method, {})
        vectors = graph.vectors.get(c.vectors) if given.start == "symbols" else None
        dim = c.dim if vectors is None else vectors[0].shape[1]
        sizes = {"most": c.slots or recipe.slots, "dim": dim, "shots": shots}
        model = Completer.of(graph, given.method, **sizes, options={**options, **given.options}, **arguments)
        self.session.fabric.to_device(model)
        return model

    def _plan(self, method: str) -> Plan:
        c = self.config
        published = recipe_of(method)
        recipe = published._replace(
            lr=c.lr or published.lr,
            weight_decay=published.weight_decay if c.weight_decay is None else c.weight_decay,
            episodes=c.episodes or published.episodes,
            batch=(c.task_batch if method == "metar" else c.batch_size) or published.batch,
        )
        return Plan(recipe, c.schedule == "constant", c.eval_every, c.patience)

    def _few_shot(self, given: Arm, graph: KnowledgeGraph, shots: int) -> Completer:
        c, meta = self.config, given.method == "metar"
        plan = self._plan(given.method)
        tasks = tasks_of(graph, "train", shots) + (background_tasks(graph) if given.in_train else [])
        least = (META_LEAST, max(META_LEAST, shots)) if meta else (c.least_candidates, shots)
        tasks = training_tasks(tasks, *least, graph.where)
        symbols = self._symbols(graph, given.phrases) if given.start == "symbols" else None
        text = sentence_vectors(graph.texts(), c.text_encoder, c.dim) if given.start == "text" else None
        self.session.reseed("model")
        model = self._model(given, graph, shots, plan.recipe).start_from(symbols, text)
        source = EpisodeSource(self.session, tasks, shots, model, plan.recipe.batch)
        dev = self._rankings(graph, "dev", shots)
        return fit(
            self.session,
            model,
            plan,
            plan.recipe.episodes,
            lambda step: model.loss(source.episode(step), plan.recipe.margin),
            lambda: rank_metrics(torch.cat(list(self._ranks(model, dev).values())))["mrr"],
        )

    def _symbols(self, graph: KnowledgeGraph, phrases: bool) -> Tensor:
        """Pre-trained vectors (R + E, D): those of the folder, else TransE trained on the background."""
        c = self.config
        if c.vectors in graph.vectors:
            return stacked(graph.vectors, c.vectors)
        if graph.vectors:
            raise Problem(
                f"no entity2vec.{c.vectors} here{suggest(c.vectors, graph.vectors)}",
                graph.where,
                f"--set vectors=…: {', '.join(graph.vectors)}",
            )
        name = f"symbols-{PHRASES if phrases else GRAPH}"
        core = self.session.shared(name, lambda: self._pretrained(graph, name)).core
        return torch.cat([core.relation.weight, core.entity.weight]).detach()

    def _pretrained(self, graph: KnowledgeGraph, part: str = "symbols") -> Completer:
        """TransE on the background and its inverses."""
        return self._embedding("transe", graph, background_triples(graph), 1, part)

    def _embedding(self, method: str, graph: KnowledgeGraph, seen: SeenTriples, shots: int, part: str) -> Completer:
        """Train an embedding; with a name, `part`, on the background alone, to the end."""
        c, recipe = self.config, recipe_of(method)
        recipe = recipe._replace(lr=c.lr or recipe.lr)
        self.session.reseed("model", part)
        model = self._model(
            Arm(method, start="random"), graph, shots, recipe, relations=len(seen.relations), scored=seen.relations
        )
        count, loss = embedding_loss(
            self.session, model, seen.triples, recipe.batch, c.embedding_negatives, recipe.margin
        )
        steps = c.embedding_epochs * count
        dev = self._rankings(graph, "dev", shots)
        # As many evaluations as the few-shot methods have.
        every = steps if part else max(1, steps * c.eval_every // (c.episodes or recipe_of("faan").episodes))
        return fit(
            self.session,
            model,
            Plan(recipe, constant=True, eval_every=every, patience=c.patience),
            steps,
            loss,
            lambda: 0.0 if part else rank_metrics(torch.cat(list(self._ranks(model, dev).values())))["mrr"],
            part,
        )

    def _popularity(self, graph: KnowledgeGraph, shots: int) -> Completer:
        model = self._model(ARMS["popularity"], graph, shots, recipe_of("faan"))
        tails = seen_triples(graph, shots).triples[:, 2]
        core: Popularity = model.core
        core.counts += torch.from_numpy(np.bincount(tails, minlength=len(graph.entities))).to(core.counts)
        for _ in self.session.progress(range(1), "count tails"):
            self.session.log(0, counted=float(len(tails)))
        return model.eval()

    # -- evaluation -----------------------------------------------------------------------------

    def _rankings(self, graph: KnowledgeGraph, part: str, shots: int) -> list[Ranking]:
        return [ranking_of(task, shots, self.config.first_query) for task in tasks_of(graph, part, shots)]

    def _ranks(self, model: Completer, rankings: list[Ranking], label: str = "") -> dict[str, Tensor]:
        """Relation -> ranks (Q,) of its queries."""
        model.eval()
        found = {}
        device = model.degree.device
        with torch.no_grad():
            for ranking in self.session.progress(rankings, label) if label else rankings:
                inputs = (ranking.support, ranking.support_negative, ranking.heads, ranking.tails)
                scores = model.score(ranking.task.relation, *(part.to(device) for part in inputs)).cpu()
                found[ranking.task.relation] = ranking.ranks(scores, self.config.ties)
        return found

    def evaluate(self, model: Completer, data: Graphs) -> dict[str, float]:
        """MRR and Hits@k, in per cent, over all queries of the test relations.

        Returns:
            mrr, hits_1, hits_5, hits_10; with the prefix commonsense_ for an arm of the commonsense graph, and under
            both names where the data hold one graph; queries; chance, the MRR of random scores.

        Raises:
            Problem: the model was trained on another graph.
        """
        phrases = self._on_phrases(model, data)
        graph = data.phrases if phrases else data.structure
        model.check_graph(graph)
        rankings = self._rankings(graph, "test", model.shots)
        if added := sum(ranking.added for ranking in rankings):
            warnings.warn(f"{graph.where}: {added} true tails are no candidates of their relation; added", stacklevel=2)
        ranks = self._ranks(model, rankings, "rank")
        rankings = [ranking for ranking in rankings if ranking.task.relation in ranks]  # a dry run stops early
        every = torch.cat(list(ranks.values()))
        found = rank_metrics(every)
        counts = [len(ranking.row) for ranking in rankings]
        relation = np.repeat(np.arange(len(counts)), counts)
        self.session.keep_outputs({"rank": every.float(), "relation": relation})
        sizes = {ranking.task.relation: len(ranking.task.candidates) for ranking in rankings}
        self.session.figure("relations", pictures.relations_picture(by_relation(ranks), sizes))
        plain = {} if phrases and data.phrases is not data.structure else found
        prefixed = {f"commonsense_{name}": value for name, value in found.items()} if phrases else {}
        chance = float(np.average([chance_mrr(ranking) for ranking in rankings], weights=counts))
        return {**plain, **prefixed, "queries": float(len(every)), "chance": chance}

    def _on_phrases(self, model: Completer, data: Graphs) -> bool:
        """Whether a model belongs to an arm of the commonsense graph."""
        if data.phrases is data.structure:
            return model.method == "text_match" or (
                isinstance(model.core, MetaR) and model.core.embedding.text is not None
            )
        return model.entities == len(data.phrases.entities)

    def preview(self, arm: str, data: Graphs) -> list[str]:
        graph, shots = data.of(ARMS[arm]), ARMS[arm].shots or self.config.shots
        recipe = self._plan(ARMS[arm].method).recipe
        model = self._model(ARMS[arm], graph, shots, recipe)
        tasks = ", ".join(f"{len(graph.tasks[part])} {part}" for part in knowledge_graphs.PARTS)
        return [
            f"network: {ARMS[arm].method}, {sum(p.numel() for p in model.parameters()):,} parameters",
            f"graph: {len(graph.entities):,} entities, {len(graph.background):,} background triples, "
            f"few-shot relations: {tasks}",
            f"training: {recipe.episodes:,} episodes at most, {shots} shots, {recipe.batch} queries or tasks each",
        ]

    # -- use ------------------------------------------------------------------------------------

    def predict(self, model: Completer, source: Path) -> Prediction:
        """The best tails of queries about a relation that a few support triples show.

        Args:
            model: a trained completer.
            source: a JSON or TSV file, a folder of them, or a data folder, whose test relations are asked about.

        Raises:
            Problem: no questions there.
        """
        names = model.symbol_names()[1]
        numbers = {name: k for k, name in enumerate(names)}
        types = np.array([entity_type(name) for name in names])
        questions, table = self._questions(model, source)
        answers, figures = [], {}
        for question in self.session.progress(questions, "answer"):
            try:
                rows, figure = self._answer(model, question, names, numbers, types)
            except Problem as problem:
                table.append({"relation": question.relation, "problem": f"{problem.what} ({problem.where})"})
                continue
            table += rows
            for head in question.queries:
                best = [(row["tail"], row["score"]) for row in rows if row["head"] == head]
                answers.append((f"{head}, {question.relation}", best))
            if figure is not None and "attention" not in figures:
                figures["attention"] = figure
        if answers:
            figures["answers"] = pictures.answers_picture(answers)
        text = f"{len(answers)} queries answered by {model.method}, {model.shots} shots"
        return Prediction(text=text, table=table, figures=figures)

    def _questions(self, model: Completer, source: Path) -> tuple[list[Question], list[dict[str, Any]]]:
        """Questions of a source, and a row for each file that cannot be read."""
        if (source / GRAPH).is_dir() or (source.is_dir() and is_graph(source)):
            data = self.read(source)
            graph = data.phrases if self._on_phrases(model, data) else data.structure
            model.check_graph(graph)
            return [
                Question(
                    task.relation,
                    [(graph.entities[h], graph.entities[t]) for h, t in task.pairs[: model.shots].tolist()],
                    [graph.entities[h] for h in dict.fromkeys(task.pairs[model.shots :, 0].tolist())][:SHOWN_QUERIES],
                    [graph.entities[k] for k in task.candidates.tolist()],
                    str(source),
                )
                for task in tasks_of(graph, "test", model.shots)
            ], []
        if source.is_file():
            return read_questions(source), []
        paths = [path for path in sorted(source.glob("*")) if path.suffix.lower() in (".json", ".tsv", ".txt")]
        paths = [path for path in paths if not path.name.startswith(".")]
        if not paths:
            raise Problem("no questions here", source, LAYOUT)
        questions: list[Question] = []
        table: list[dict[str, Any]] = []
        for path in paths:
            try:
                questions += read_questions(path)
            except Problem as problem:
                table.append({"relation": path.name, "problem": f"{problem.what} ({problem.where})"})
        return questions, table

    def _answer(
        self, model: Completer, question: Question, names: list[str], numbers: Mapping[str, int], types: np.ndarray
    ) -> tuple[list[dict[str, Any]], Any]:
        """Rows of the best tails, and the attention of the first query where the method has any."""

        def number(name: str) -> int:
            if name not in numbers:
                raise Problem(
                    f"unknown entity {name!r}{suggest(name, numbers)}",
                    question.where,
                    "ask about entities of the graph that the model was trained on",
                )
            return numbers[name]

        few = len(question.support)
        exact = isinstance(model.core, MetaR)
        if few < 1 or (exact and few != model.shots):
            wanted = str(model.shots) if exact else "at least 1"
            raise Problem(
                f"{few} support triples, {wanted} are needed", question.where, "give as many as it was trained on"
            )
        support = np.array([[number(head), number(tail)] for head, tail in question.support])
        if question.candidates:
            candidates = np.unique([number(name) for name in question.candidates])
        else:
            seen = types[support[:, 1]]
            typed = bool((seen != "").all())
            candidates = np.flatnonzero(np.isin(types, seen)) if typed else np.arange(len(names))
        task = make_task(question.relation, support, candidates, support, len(names))
        heads = np.array([number(head) for head in question.queries])
        pairs = (support, first_false(task, support), heads, candidates)
        given = [torch.from_numpy(array).to(model.degree.device) for array in pairs]
        with torch.no_grad():
            scores = model.score(question.relation, *given).cpu().numpy()
        rows = []
        for head, row in zip(heads.tolist(), scores, strict=True):
            open_ones = ~task.is_known(np.full_like(candidates, head), candidates)
            order = [k for k in np.argsort(-row, kind="stable") if open_ones[k]][: self.config.top_k]
            rows += [
                {
                    "relation": question.relation,
                    "head": names[head],
                    "rank": rank,
                    "tail": names[candidates[k]],
                    "score": float(row[k]),
                }
                for rank, k in enumerate(order, start=1)
            ]
        figure = None
        if isinstance(model.core, FAAN) and rows:
            figure = self._attention(model, given[0], heads[0], number(rows[0]["tail"]), names, question)
        return rows, figure

    def _attention(
        self, model: Completer, support: Tensor, head: int, tail: int, names: list[str], question: Question
    ) -> Any:
        """FAAN's attention for one query and its best tail."""
        query = model.pairs(torch.tensor([[head, tail]], device=support.device))
        with torch.no_grad():
            weights = pictures.attention_of(model.core, query, model.pairs(support))
        symbols = [*model.symbol_names()[0], *names]
        labels = {
            "shots": [f"{h}, {t}" for h, t in question.support],
            "head": pictures.slot_labels(query.head, symbols),
            "tail": pictures.slot_labels(query.tail, symbols),
        }
        title = f"{names[head]}, {question.relation}: {names[tail]}"
        return pictures.attention_picture(weights, labels, title)

    def convert(self, source: Path, variant: str = "") -> Completer:
        """Build a completer from a state dict of GMatching, FSRL, FAAN or MetaR.

        Args:
            source: the file.
            variant: the NELL-One or Wiki-One folder that it was trained on: the file has neither names nor neighbours.

        Raises:
            Problem: no folder given, not such a state dict, or another number of symbols than the folder's ids.
        """
        if not variant:
            what = "the weights hold neither the names of entities nor their neighbours"
            raise Problem(what, "--variant", "give the folder that they were trained on: --variant NELL-One/")
        method, state = read_released(source)
        sizes = sizes_of(method, state, source)
        graph = self._read_one(Path(variant))
        symbols = len(graph.entities) + (0 if method == "metar" else len(graph.relations) + 1)
        if sizes["rows"] != symbols:
            what = f"the weights have {sizes['rows']} symbols, the folder {symbols}"
            raise Problem(what, source, f"give the folder that they were trained on, not {variant}")
        most = self.config.slots or recipe_of(method).slots
        given = {name: sizes[name] for name in ("dim", "shots", "options")}
        model = Completer.of(graph, method, most=most, **given)
        checkpoint.fit_weights(model.core, state, source)
        return model.eval()
