"""Knowledge graphs with few-shot tasks: NELL-One and Wiki-One, ConceptNet-100K, ATOMIC, and plain triples.

Few-shot tasks are relations with few triples, split into train, dev and test; the frequent relations are the background
graph. Where the files bring no tasks, they are built by frequency.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from repertory.core.files import write_text
from repertory.core.problem import Problem, reason
from repertory.data.arrays import file_size, find_file, load_npy, read_lines, read_text

PARTS = ("train", "dev", "test")
INVERSE = "_inv"
SKIPPED = ("", "OOV")
"""Names in the id files of NELL-One and Wiki-One that stand for no symbol."""
FORMATS = """
path_graph, {train,dev,test}_tasks.json, rel2candidates.json, e1rel_e2.json, ent2ids, relation2ids (NELL-One, Wiki-One)
or train100k.txt, dev1.txt, dev2.txt, test.txt: relation, head phrase, tail phrase, score, by tabs (ConceptNet-100K)
or v4_atomic_{trn,dev,tst}.csv (ATOMIC)
or triples.tsv, or train.txt, valid.txt, test.txt: head, relation, tail, by tabs; types.tsv (optional): entity, type
"""
SPLITS = ("train100k.txt", "train.txt", "dev1.txt", "dev2.txt", "valid.txt", "test.txt")
TRIPLES = "triples.tsv"
ATOMIC = ("oEffect", "oReact", "oWant", "xAttr", "xEffect", "xIntent", "xNeed", "xReact", "xWant")
MOST_IDS = 1 << 31
FIRST = 3
"""Cases that a message names."""


class Triple(NamedTuple):
    head: str
    relation: str
    tail: str


@dataclass(frozen=True, eq=False)
class KnowledgeGraph:
    """A background graph and few-shot tasks over the same entities. Entities are numbered from 0, and so are relations.

    Attributes:
        entities: names (E).
        relations: names (R) of the background relations, inverses included.
        background: (n, 3) head, relation, tail, in the order of the file, without inverses.
        tasks: train, dev, test -> relation -> (k, 2) heads and tails, in the order of the file.
        candidates: relation -> (C,) tails to rank.
        known: relation -> (k, 2) pairs that are true in any task.
        vectors: model -> (E, D) of the entities, (R, D) of the relations.
        where: file or folder that messages name.
    """

    entities: tuple[str, ...]
    relations: tuple[str, ...]
    background: np.ndarray
    tasks: Mapping[str, Mapping[str, np.ndarray]]
    candidates: Mapping[str, np.ndarray]
    known: Mapping[str, np.ndarray]
    vectors: Mapping[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)
    where: Path = Path()

    @property
    def few(self) -> dict[str, np.ndarray]:
        """Relation -> triples of the tasks of all parts."""
        return {relation: pairs for part in PARTS for relation, pairs in self.tasks[part].items()}

    def texts(self) -> list[str]:
        """The entities' names as phrases."""
        return [phrase(name) for name in self.entities]


def phrase(name: str) -> str:
    """A name in words: "concept:city:new_york" -> "new york".

    Example:
        >>> phrase("concept:city:new_york"), phrase("person x opens door")
        ('new york', 'person x opens door')
    """
    return re.sub(r"[_\s]+", " ", name.rsplit(":", 1)[-1] if name.startswith("concept:") else name).strip()


def entity_type(name: str) -> str:
    """The middle part of NELL's "concept:type:name"; "num" where there are two parts; "" for other names.

    Example:
        >>> entity_type("concept:city:paris"), entity_type("concept:1987"), entity_type("Q90")
        ('city', 'num', '')
    """
    parts = name.split(":")
    if parts[0] != "concept" or len(parts) == 1:
        return ""
    return parts[1] if len(parts) > 2 else "num"


def neighbours(graph: KnowledgeGraph, most: int) -> tuple[np.ndarray, np.ndarray]:
    """The first neighbours of every entity in the background, in the order of the file.

    A line (e1, r, e2) gives e1 the slot (r, e2) and e2 the slot (r_inv, e1).

    Args:
        graph: with R relations, inverses included, and E entities.
        most: M.

    Returns:
        (E, M, 2) int32 symbols (relation, R + entity), the PAD symbol R + E in free slots; (E,) int32 taken slots.

    Raises:
        Problem: a relation of the background has no inverse; names it.
    """
    count, size = len(graph.relations), len(graph.entities)
    numbers = {name: k for k, name in enumerate(graph.relations)}
    used = np.unique(graph.background[:, 1])
    inverse = np.zeros(count, np.int64)
    for k in used.tolist():
        name = graph.relations[k]
        if name + INVERSE not in numbers:
            raise Problem(
                f"relation2ids has no {name + INVERSE!r}",
                graph.where,
                "every background relation needs an inverse, its name with _inv: tails see heads through it",
            )
        inverse[k] = numbers[name + INVERSE]
    head, relation, tail = graph.background.T
    # Each line gives two slots, in turn; a stable sort by entity keeps their order.
    entity = np.stack([head, tail], 1).ravel()
    slots = np.stack([np.stack([relation, inverse[relation]], 1).ravel(), np.stack([tail, head], 1).ravel() + count], 1)
    order = np.argsort(entity, kind="stable")
    entity, slots = entity[order], slots[order]
    place = np.arange(len(entity)) - np.searchsorted(entity, entity)
    kept = place < most
    table = np.full((size, most, 2), count + size, np.int32)
    table[entity[kept], place[kept]] = slots[kept]
    return table, np.bincount(entity[kept], minlength=size).astype(np.int32)


# -- what a folder holds ------------------------------------------------------------------------


def is_graph(source: Path) -> bool:
    """Whether the folder, or file, is in one of the formats."""
    if source.is_file():
        return source.suffix.lower() in (".tsv", ".txt")
    names = ("path_graph", TRIPLES, *SPLITS[:2])
    return source.is_dir() and (any(find_file(source, name) for name in names) or bool(_atomic_files(source)))


def read_knowledge_graph(source: Path, rng: np.random.Generator, **building: Any) -> KnowledgeGraph:
    """Read a graph in any of the formats; tasks are built where the files bring none, see `by_frequency`.

    Raises:
        Problem: none of the formats, or damaged; names file and line.
    """
    if source.is_dir() and find_file(source, "path_graph"):
        return read_nell(source)
    return by_frequency(read_triples(source), rng, where=source, types=_read_types(source), **building)


def read_triples(source: Path) -> list[Triple]:
    """The true triples of ConceptNet-100K, ATOMIC or plain files, without repetitions, in the order of the files."""
    if source.is_file():
        found = _tabbed(source)
    elif _atomic_files(source):
        found = [triple for path in _atomic_files(source) for triple in _atomic(path)]
    else:
        names = (TRIPLES,) if find_file(source, TRIPLES) else SPLITS
        paths = [path for name in names if (path := find_file(source, name))]
        if not paths:
            raise Problem("no knowledge graph here", source, f"expected: {'; '.join(FORMATS.strip().splitlines())}")
        found = [triple for path in paths for triple in _tabbed(path)]
    distinct = list(dict.fromkeys(found))
    if len(distinct) < len(found):
        warnings.warn(f"{source}: {len(found) - len(distinct)} triples are repeated and count once", stacklevel=2)
    if not distinct:
        raise Problem("no triples", source, "give one triple a line: head, relation, tail, by tabs")
    return distinct


def _rows(path: Path) -> list[tuple[int, list[str]]]:
    """(line number, cells) of the lines that are not empty."""
    lines = enumerate(read_lines(path), start=1)
    return [(number, [cell.strip() for cell in line.split("\t")]) for number, line in lines if line.strip()]


def _tabbed(path: Path) -> list[Triple]:
    """Lines of ConceptNet (relation, head, tail, score) if they have four cells, else of triples."""
    rows = _rows(path)
    return _conceptnet(path, rows) if rows and len(rows[0][1]) == 4 else _plain(path, rows)


def _plain(path: Path, rows: Sequence[tuple[int, list[str]]]) -> list[Triple]:
    """Triples; a first line that names the columns is no triple, and tells their order."""
    triples = []
    first = [cell.lower() for cell in rows[0][1]] if rows else []
    order = [first.index(name) for name in Triple._fields] if set(first) == set(Triple._fields) else None
    for number, cells in rows if order is None else rows[1:]:
        if len(cells) != 3 or not all(cells):
            raise Problem(
                f"{len(cells)} cells, or an empty one: {' | '.join(cells)[:80]!r}",
                f"{path}:{number}",
                "write head, relation, tail, by tabs",
            )
        triples.append(Triple(*(cells if order is None else (cells[k] for k in order))))
    return triples


def _conceptnet(path: Path, rows: Sequence[tuple[int, list[str]]]) -> list[Triple]:
    """Triples with a score above 0; the false ones of the evaluation files, scored 0 or less, are left out."""
    triples, false = [], 0
    for number, cells in rows:
        try:
            relation, head, tail, score = cells
            if not (relation and head and tail and math.isfinite(float(score))):
                raise ValueError
            true = float(score) > 0
        except ValueError as error:
            raise Problem(
                f"not relation, head, tail, score: {' | '.join(cells)[:80]!r}", f"{path}:{number}", "separate by tabs"
            ) from error
        if true:
            triples.append(Triple(head, relation, tail))
        false += not true
    if false:
        warnings.warn(f"{path}: {false} of {len(rows)} lines are marked false and left out", stacklevel=4)
    return triples


def _atomic_files(folder: Path) -> list[Path]:
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    spelled = (
        re.compile(rf"[^.].*atomic.*{part}.*\.csv|atomic.*{part}.*\.csv", re.I) for part in ("trn", "dev", "tst")
    )
    return [folder / name for pattern in spelled for name in names if pattern.fullmatch(name)]


def _atomic(path: Path) -> list[Triple]:
    """(event, column, inference) of ATOMIC; "none" and blanks are left out."""
    triples, none = [], 0
    table = csv.DictReader(io.StringIO(read_text(path), newline=""), strict=True)
    try:
        rows = [(table.line_num, row) for row in table]
    except csv.Error as error:
        raise Problem(f"no table of ATOMIC: {error}", f"{path}:{table.line_num}", "fetch it again") from error
    missing = [name for name in ("event", *ATOMIC) if rows and name not in rows[0][1]]
    if missing or not rows:
        raise Problem(
            f"no column {missing[0] if missing else 'event'!r}", path, f"expected: event, {', '.join(ATOMIC)}"
        )
    for number, row in rows:
        # DictReader gives cells too many the name None, and those too few the value None.
        if None in row or None in row.values():
            what = "the row has not as many cells as the first line"
            raise Problem(what, f"{path}:{number}", "fetch it again")
        if not row["event"].strip():
            raise Problem("the event is empty", f"{path}:{number}", "fetch it again")
        for relation in ATOMIC:
            try:
                tails = json.loads(row[relation] or "[]")
                if not isinstance(tails, list) or not all(isinstance(tail, str) for tail in tails):
                    raise ValueError
                words = [tail.strip() for tail in tails]
            except (ValueError, RecursionError) as error:
                what = f"{relation} is no JSON list of texts: {row[relation][:60]!r}"
                raise Problem(what, f"{path}:{number}", "fetch it again") from error
            true = [word for word in words if word and word.lower() != "none"]
            none += len(words) - len(true)
            triples += [Triple(row["event"].strip(), relation, word) for word in true]
    if none:
        warnings.warn(f"{path}: {none} inferences are none and left out", stacklevel=3)
    return triples


def _read_types(source: Path) -> dict[str, str]:
    """Entity -> type of types.tsv; empty: there is none."""
    path = find_file(source if source.is_dir() else source.parent, "types.tsv")
    types: dict[str, str] = {}
    for number, cells in _rows(path) if path else []:
        if len(cells) != 2 or not all(cells):
            what = f"{len(cells)} cells, or an empty one: {' | '.join(cells)[:80]!r}"
            raise Problem(what, f"{path}:{number}", "write entity, type, by a tab")
        if types.setdefault(*cells) != cells[1]:
            what = f"{cells[0]!r} is {types[cells[0]]!r} and {cells[1]!r}"
            raise Problem(what, f"{path}:{number}", "give each entity one type")
    return types


# -- tasks by frequency -------------------------------------------------------------------------


def by_frequency(
    triples: Sequence[Triple],
    rng: np.random.Generator,
    *,
    background_from: int = 0,
    least: int = 10,
    most: int = 500,
    types: Mapping[str, str] | None = None,
    where: Path = Path(),
) -> KnowledgeGraph:
    """A background of the frequent relations, and tasks of the others, 70 % train, 10 % dev, 20 % test at random.

    Args:
        triples: in the order of the file.
        rng: draws the parts and shuffles the triples of each task.
        background_from: triples from which a relation is background; 0: the most frequent half of the relations.
        least, most: triples of a task; rarer relations are left out, more frequent ones cut, both with a warning.
        types: entity -> type: candidates are the entities of the tails' types. None: tails of the relation, and of the
            relations with which it shares a tail.
        where: file or folder for messages.

    Raises:
        Problem: fewer than three relations are left for tasks, or none for the background.
    """
    counts = Counter(triple.relation for triple in triples)
    ranked = sorted(counts, key=lambda relation: (-counts[relation], relation))
    frequent = [r for r in ranked if counts[r] >= background_from] if background_from else ranked[: len(ranked) // 2]
    others = [relation for relation in ranked if relation not in frequent]
    chosen = [relation for relation in others if counts[relation] >= least]
    if len(chosen) < 3 or not frequent:
        raise Problem(
            f"{len(frequent)} relations for the background and {len(chosen)} with {least} triples or more for tasks",
            where,
            "at least 1 and 3 are needed: change background_from or least_triples, or give more triples",
        )
    if rare := len(others) - len(chosen):
        warnings.warn(f"{where}: {rare} relations with fewer than {least} triples are left out", stacklevel=2)
    entities = tuple(dict.fromkeys(name for t in triples for name in (t.head, t.tail)))
    numbers = {name: k for k, name in enumerate(entities)}
    pairs: dict[str, list[tuple[int, int]]] = {relation: [] for relation in ranked}
    for head, relation, tail in triples:
        pairs[relation].append((numbers[head], numbers[tail]))
    arrays = {relation: np.array(found, np.int64) for relation, found in pairs.items()}
    if long := [relation for relation in chosen if counts[relation] > most]:
        warnings.warn(f"{where}: tasks of more than {most} triples are cut: {', '.join(long[:FIRST])}", stacklevel=2)
    tasks = {relation: rng.permutation(arrays[relation])[:most] for relation in chosen}
    names = [*frequent, *(name + INVERSE for name in frequent)]
    ids = {relation: k for k, relation in enumerate(frequent)}
    rows = [(numbers[t.head], ids[t.relation], numbers[t.tail]) for t in triples if t.relation in ids]
    return KnowledgeGraph(
        entities,
        tuple(names),
        np.array(rows, np.int64).reshape(-1, 3),
        drawn_parts(tasks, rng),
        _candidates(chosen, arrays, [types.get(name, "") for name in entities] if types else None),
        {relation: arrays[relation] for relation in chosen},
        where=where,
    )


def drawn_parts(
    tasks: Mapping[str, np.ndarray], rng: np.random.Generator, shares: tuple[float, float] = (0.1, 0.2)
) -> dict[str, dict[str, np.ndarray]]:
    """Tasks dealt to train, dev and test at random; `shares` are those of dev and test, at least one task each."""
    order = rng.permutation(sorted(tasks)).tolist()
    dev, test = (max(1, round(share * len(order))) for share in shares)
    parts = {"train": order[dev + test :], "dev": order[:dev], "test": order[dev : dev + test]}
    return {part: {relation: tasks[relation] for relation in relations} for part, relations in parts.items()}


def _candidates(
    chosen: Iterable[str], pairs: Mapping[str, np.ndarray], types: Sequence[str] | None
) -> dict[str, np.ndarray]:
    if types is not None:
        kinds = np.array(types)
        if untyped := types.count(""):
            warnings.warn(f"{untyped} entities have no type, and count as one type", stacklevel=3)
        return {r: np.flatnonzero(np.isin(kinds, kinds[np.unique(pairs[r][:, 1])])) for r in chosen}
    tails = {relation: set(found[:, 1].tolist()) for relation, found in pairs.items()}
    joined = {r: set[int]().union(*(others for others in tails.values() if tails[r] & others)) for r in chosen}
    return {relation: np.array(sorted(found), np.int64) for relation, found in joined.items()}


# -- NELL-One and Wiki-One ----------------------------------------------------------------------


def read_nell(folder: Path) -> KnowledgeGraph:
    """Read a folder of NELL-One or Wiki-One.

    True tails that are missing from a relation's candidates are left to the ranking, which adds them.

    Raises:
        Problem: a file is missing or damaged; an unknown entity or relation (names it, the file and the relation);
            embeddings of another number of rows than there are ids (names both).
    """
    entities, rows = _names(folder / "ent2ids")
    relations, relation_rows = _names(folder / "relation2ids")
    numbers = {name: k for k, name in enumerate(entities)}
    graph = _background(folder / "path_graph", numbers, {name: k for k, name in enumerate(relations)})
    tasks = {part: _read_tasks(folder / f"{part}_tasks.json", numbers) for part in PARTS}
    for one, other in combinations(PARTS, 2):
        if shared := [relation for relation in tasks[one] if relation in tasks[other]]:
            what = "a training task and a held-out one" if one == "train" else f"a task of {one} and of {other}"
            raise Problem(f"{shared[0]!r} is {what}", folder, "give each relation one part")
    few = {relation: pairs for part in PARTS for relation, pairs in tasks[part].items()}
    candidates = _read_candidates(folder / "rel2candidates.json", few, numbers)
    known = _read_known(folder / "e1rel_e2.json", few, numbers)
    vectors = _read_vectors(folder, rows, relation_rows)
    return KnowledgeGraph(entities, relations, graph, tasks, candidates, known, vectors, folder)


def _json(path: Path) -> dict[str, Any]:
    def distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(found := dict(pairs)) < len(pairs):
            repeated = next(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
            raise Problem(f"{repeated!r} comes twice", path, "give each name once")
        return found

    try:
        content = json.loads(read_text(path), object_pairs_hook=distinct)
    except (ValueError, RecursionError) as error:
        if isinstance(error, Problem):
            raise
        raise Problem(f"{path.name} is no JSON: {reason(error)}", path, "fetch it again") from error
    if not isinstance(content, dict):
        raise Problem(f"{path.name} holds no JSON object", path, "fetch it again")
    return content


def _names(path: Path) -> tuple[tuple[str, ...], np.ndarray]:
    """Names in the order of their ids, and the ids: the rows of the embeddings."""
    ids = {name: number for name, number in _json(path).items() if name not in SKIPPED}
    wrong = [name for name, number in ids.items() if type(number) is not int or not 0 <= number < MOST_IDS]
    if wrong or len(set(ids.values())) < len(ids):
        what = f"the id of {wrong[0]!r} is no whole number" if wrong else "two names have the same id"
        raise Problem(what, path, "give every name a number of its own, from 0")
    names = sorted(ids, key=lambda name: ids[name])
    return tuple(names), np.array([ids[name] for name in names], np.int64)


def _background(path: Path, entities: Mapping[str, int], relations: Mapping[str, int]) -> np.ndarray:
    rows = []
    for number, line in enumerate(read_lines(path), start=1):
        cells = line.split()
        if not cells:
            continue
        if len(cells) != 3:
            raise Problem(f"{len(cells)} words: {line[:80]!r}", f"{path}:{number}", "write head, relation, tail")
        head, relation, tail = cells
        for name, known, kind in ((head, entities, "entity"), (relation, relations, "relation"), (tail, entities, "")):
            if name not in known:
                file = "relation2ids" if kind == "relation" else "ent2ids"
                raise Problem(f"unknown {kind or 'entity'} {name!r}", f"{path}:{number}", f"add it to {file}")
        rows.append((entities[head], relations[relation], entities[tail]))
    return np.array(rows, np.int64).reshape(-1, 3)


def _read_tasks(path: Path, entities: Mapping[str, int]) -> dict[str, np.ndarray]:
    tasks = {}
    for relation, triples in _json(path).items():
        pairs = []
        if not isinstance(triples, list) or not triples:
            raise Problem(f"relation {relation!r} has no triples", path, "write [[head, relation, tail], ...]")
        for triple in triples:
            if not isinstance(triple, list) or len(triple) != 3 or triple[1] != relation:
                raise Problem(
                    f"relation {relation!r}: no triple: {str(triple)[:80]}", path, "write [head, relation, tail]"
                )
            pairs.append([_entity(triple[k], entities, relation, path) for k in (0, 2)])
        tasks[relation] = np.array(pairs, np.int64).reshape(-1, 2)
    if not tasks:
        raise Problem(f"{path.name} holds no tasks", path, "give at least one relation")
    return tasks


def _entity(name: Any, entities: Mapping[str, int], relation: str, path: Path) -> int:
    if not isinstance(name, str) or name not in entities:
        raise Problem(
            f"relation {relation!r}: unknown entity {name!r}", path, "add it to ent2ids, or remove the triple"
        )
    return entities[name]


def _read_candidates(path: Path, few: Mapping[str, np.ndarray], entities: Mapping[str, int]) -> dict[str, np.ndarray]:
    listed = _json(path)
    missing = [relation for relation in few if relation not in listed]
    if missing:
        raise Problem(f"no candidates for the relation {missing[0]!r}", path, "list its candidate tails")
    if wrong := [relation for relation in few if not isinstance(listed[relation], list) or not listed[relation]]:
        raise Problem(f"the candidates of {wrong[0]!r} are no list", path, "list its candidate tails")
    return {r: np.unique([_entity(name, entities, r, path) for name in listed[r]]).astype(np.int64) for r in few}


def _read_known(path: Path, few: Mapping[str, np.ndarray], entities: Mapping[str, int]) -> dict[str, np.ndarray]:
    """Pairs of the tasks, and of e1rel_e2.json, whose keys are a head followed at once by a relation.

    Entities of e1rel_e2.json that have no id cannot be candidates, and are passed over.
    """
    listed = _json(path)
    known = {relation: [tuple(pair) for pair in pairs.tolist()] for relation, pairs in few.items()}
    ends = sorted(few, key=len, reverse=True)
    for key, tails in listed.items():
        if not isinstance(tails, list) or not all(isinstance(tail, str) for tail in tails):
            raise Problem(f"the tails of {key!r} are no list of names", path, "fetch it again")
        for relation in ends:
            if key.endswith(relation) and key[: -len(relation)] in entities:
                head = entities[key[: -len(relation)]]
                known[relation] += [(head, entities[tail]) for tail in tails if tail in entities]
                break
    return {relation: np.array(sorted(set(found)), np.int64).reshape(-1, 2) for relation, found in known.items()}


def _read_vectors(
    folder: Path, rows: np.ndarray, relation_rows: np.ndarray
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Pre-trained embeddings: entity2vec.<Model> with relation2vec.<Model>; ent2vec.npy of MetaR as "MetaR"."""
    found = {}
    for path in sorted(folder.glob("entity2vec.*")):
        model = path.name.partition(".")[2]
        other = path.with_name(f"relation2vec.{model}")
        entity, relation = _matrix(path, rows), _matrix(other, relation_rows)
        if entity.shape[1] != relation.shape[1]:
            what = f"entities have {entity.shape[1]} channels, relations {relation.shape[1]}"
            raise Problem(what, other, "give two files of one training run")
        found[model] = entity, relation
    if path := find_file(folder, "ent2vec.npy"):
        vectors = _picked(load_npy(path), rows, path)
        found["MetaR"] = vectors, np.zeros((0, vectors.shape[1]), np.float32)
    return found


def _matrix(path: Path, rows: np.ndarray) -> np.ndarray:
    file_size(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of an empty file, which `_picked` refuses
            vectors = np.loadtxt(path, dtype=np.float32, ndmin=2, encoding="utf-8-sig", comments=None)
    except ValueError as error:
        raise Problem(f"{path.name} is no matrix: {reason(error)}", path, "fetch it again") from error
    return _picked(vectors, rows, path)


def _picked(vectors: np.ndarray, rows: np.ndarray, path: Path) -> np.ndarray:
    """The rows of the ids, as float32."""
    if vectors.ndim != 2 or not vectors.shape[1] or vectors.dtype.kind not in "iuf":
        what = f"{path.name} holds {vectors.dtype} of the shape {vectors.shape}"
        raise Problem(what, path, "row i holds the vector of id i, as numbers")
    if len(vectors) <= rows.max(initial=-1) or not len(rows) <= len(vectors) <= len(rows) + 2:
        what = f"{path.name} has {len(vectors)} rows for {len(rows)} ids (largest: {rows.max(initial=-1)})"
        raise Problem(what, path, "row i holds the vector of id i: give the embeddings of these very ids")
    with np.errstate(over="ignore"):
        vectors = vectors.astype(np.float32, copy=False)
    if not np.isfinite(vectors).all():
        raise Problem(f"{path.name} holds numbers that are not finite", path, "fetch it again")
    return vectors[rows]


# -- writing ------------------------------------------------------------------------------------


def write_nell(folder: Path, graph: KnowledgeGraph) -> None:
    """Write a folder in the format of NELL-One."""
    names, relations = graph.entities, graph.relations
    lines = (f"{names[h]}\t{relations[r]}\t{names[t]}\n" for h, r, t in graph.background.tolist())
    write_text(folder / "path_graph", "".join(lines))
    for part in PARTS:
        tasks = {
            relation: [[names[h], relation, names[t]] for h, t in pairs.tolist()]
            for relation, pairs in graph.tasks[part].items()
        }
        write_text(folder / f"{part}_tasks.json", json.dumps(tasks))
    listed = {relation: [names[k] for k in found.tolist()] for relation, found in graph.candidates.items()}
    write_text(folder / "rel2candidates.json", json.dumps(listed))
    known: dict[str, list[str]] = {}
    for relation, pairs in graph.known.items():
        for head, tail in pairs.tolist():
            known.setdefault(names[head] + relation, []).append(names[tail])
    write_text(folder / "e1rel_e2.json", json.dumps(known))
    write_text(folder / "ent2ids", json.dumps({name: k for k, name in enumerate(names)}))
    write_text(folder / "relation2ids", json.dumps({name: k for k, name in enumerate(relations)}))
    for model, (entity, relation) in graph.vectors.items():
        for name, vectors in (("entity2vec", entity), ("relation2vec", relation)):
            rows = (" ".join(f"{x:.6g}" for x in row) + "\n" for row in vectors.tolist())
            write_text(folder / f"{name}.{model}", "".join(rows))


def write_conceptnet(folder: Path, triples: Sequence[Triple]) -> None:
    """Write triples as train100k.txt of ConceptNet-100K, all with the score 1."""
    lines = (f"{relation}\t{head}\t{tail}\t1.0\n" for head, relation, tail in triples)
    write_text(folder / "train100k.txt", "".join(lines))


# -- samples ------------------------------------------------------------------------------------

TYPES, PER_TYPE, ATTRIBUTES, VALUES = 8, 30, 3, 6


def rule_graph(rng: np.random.Generator, tasks: int = 90, noise: float = 0.1) -> KnowledgeGraph:
    """Entities of 8 types with 3 hidden attributes of 6 values each, and relations that follow rules on them.

    Background: 3 attribute relations (entity to value, 95 % visible), and 10 relations between two types that hold
    where an attribute matches up to a hidden shift. Tasks: a random pair of types and a random rule: an attribute is
    shared (twice as likely), the tail's is the head's plus one, or the tail's has a fixed value. A share of the triples
    is noise. Candidates are the entities of the tail type. Types, names and rules say nothing about a method.

    Args:
        rng: draws everything.
        tasks: relations to draw for tasks; those with fewer than 12 triples are dropped.
        noise: share of triples at random.
    """
    kind = np.repeat(np.arange(TYPES), PER_TYPE)
    hidden = rng.integers(VALUES, size=(TYPES * PER_TYPE, ATTRIBUTES))
    names = [f"concept:t{kind[k]}:e{k:03d}" for k in range(len(kind))]
    values = [f"concept:value:a{a}_{v}" for a in range(ATTRIBUTES) for v in range(VALUES)]
    first_value = len(names)
    members = [np.flatnonzero(kind == k) for k in range(TYPES)]
    rows: list[tuple[int, int, int]] = []
    relations = [f"concept:hasattribute{a}" for a in range(ATTRIBUTES)]
    for a in range(ATTRIBUTES):
        seen = np.flatnonzero(rng.random(len(names)) < 0.95)
        rows += [(int(e), a, first_value + a * VALUES + int(hidden[e, a])) for e in seen]
    for k in range(10):
        a, shift = int(rng.integers(ATTRIBUTES)), int(rng.integers(VALUES))
        one, other = (members[i] for i in rng.choice(TYPES, 2, replace=False))
        relations.append(f"concept:linked{k}")
        drawn = _draw(
            rng, one, other, lambda h, t, a=a, s=shift: hidden[t, a] == (hidden[h, a] + s) % VALUES, 120, noise
        )
        rows += [(h, ATTRIBUTES + k, t) for h, t in drawn]
    few, candidates = {}, {}
    for k in range(tasks):
        a, value, rule = int(rng.integers(ATTRIBUTES)), int(rng.integers(VALUES)), int(rng.integers(4))
        one, other = (members[i] for i in rng.choice(TYPES, 2, replace=False))
        rules = (
            lambda h, t, a=a: hidden[t, a] == hidden[h, a],
            lambda h, t, a=a: hidden[t, a] == hidden[h, a],
            lambda h, t, a=a: hidden[t, a] == (hidden[h, a] + 1) % VALUES,
            lambda _, t, a=a, v=value: hidden[t, a] == v,
        )
        pairs = _draw(rng, one, other, rules[rule], int(rng.integers(25, 61)), noise)
        if len(pairs) >= 12:
            few[f"concept:few{k:03d}"] = np.array(pairs, np.int64)
            candidates[f"concept:few{k:03d}"] = other
    order = rng.permutation(len(rows))
    return KnowledgeGraph(
        tuple(names + values),
        (*relations, *(name + INVERSE for name in relations)),
        np.array(list(dict.fromkeys(rows[k] for k in order)), np.int64),
        drawn_parts(few, rng, (0.05, 0.2)),
        candidates,
        few,
    )


def _draw(
    rng: np.random.Generator, heads: np.ndarray, tails: np.ndarray, holds: Any, count: int, noise: float
) -> list[tuple[int, int]]:
    """Up to `count` different pairs: the head at random, the tail among those for which the rule holds."""
    pairs = []
    for _ in range(count):
        head = int(rng.choice(heads))
        fitting = tails[holds(head, tails)]
        pool = tails if rng.random() < noise or not len(fitting) else fitting
        pairs.append((head, int(rng.choice(pool))))
    return list(dict.fromkeys(pairs))


WORDS: Mapping[str, tuple[str, ...]] = {
    "kitchen": (
        "cook soup",
        "boil water",
        "bake bread",
        "cut onion",
        "wash plate",
        "fry egg",
        "peel potato",
        "stir tea",
    ),
    "garden": (
        "plant tree",
        "water flower",
        "cut grass",
        "pick apple",
        "dig hole",
        "rake leaf",
        "grow carrot",
        "trim hedge",
    ),
    "office": (
        "write letter",
        "print report",
        "call client",
        "sign paper",
        "send email",
        "file form",
        "plan meeting",
        "check account",
    ),
    "travel": (
        "book flight",
        "pack bag",
        "drive car",
        "ride train",
        "read map",
        "rent room",
        "catch bus",
        "cross bridge",
    ),
    "sport": ("throw ball", "run race", "swim lap", "climb rock", "lift weight", "kick goal", "row boat", "jump rope"),
    "music": (
        "play guitar",
        "sing song",
        "beat drum",
        "tune piano",
        "write melody",
        "join choir",
        "strum chord",
        "blow trumpet",
    ),
}
"""Domain -> activities of the commonsense sample."""
FORMS = ("person x {}", "to {}", "wants to {}", "{} well", "{} at home", "try to {} again")
"""Phrases of one activity: they share its words."""


def phrase_graph(rng: np.random.Generator, relations: int = 60, noise: float = 0.1) -> list[Triple]:
    """Triples between about 300 phrases of a small lexicon, for 60 relations.

    Half of the relations link phrases of one activity in two wordings, so that shared words help. The others link
    activities by a hidden pairing, so that words tell nothing. A share of the triples is noise.

    Args:
        rng: draws everything.
        relations: their number; their frequencies fall from about 300 to 30.
        noise: share of triples at random.
    """
    activities = [words for domain in WORDS.values() for words in domain]
    spelled = {(a, f): form.format(words) for a, words in enumerate(activities) for f, form in enumerate(FORMS)}
    domains = np.repeat(np.arange(len(WORDS)), len(activities) // len(WORDS))
    triples: list[Triple] = []
    for k in range(relations):
        first, second = rng.choice(len(FORMS), 2, replace=False).tolist()
        partner = rng.permutation(len(activities)) if k % 2 else np.arange(len(activities))
        for _ in range(round(300 * math.exp(-2.3 * k / relations))):
            a = int(rng.integers(len(activities)))
            near = np.flatnonzero(domains == domains[a])
            target = int(rng.integers(len(activities))) if rng.random() < noise else int(partner[a])
            target = int(rng.choice(near)) if k % 4 == 2 and rng.random() < 0.5 else target
            head = spelled[a, first if rng.random() < 0.7 else int(rng.integers(len(FORMS)))]
            triples.append(Triple(head, f"Relation{k:02d}", spelled[target, second]))
    return list(dict.fromkeys(triples))
