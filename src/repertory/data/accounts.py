"""Graphs of social-media accounts: features, edges of several relations, and one or more kinds of labels.

Layouts, as their owners distribute them. Every .pt file holds one tensor, as `torch.save` writes it:

- MGTAB: `features.pt` (n, d), `edge_index.pt` (2, E), `edge_type.pt` (E,), `labels_<task>.pt` (n,). `edge_weight.pt` is
  not read: no method of the benchmark uses it.
- MGTAB-large: `large_features.pt` (n, d), `large_edge_index<r>.pt` (2, E_r) of each relation r, `labels_<task>.pt` of
  the first accounts; the others are unlabelled. Files are mapped into memory, not read.
- Cresci-15, TwiBot-20: `{cat_properties,num_properties,des,tweets}_tensor.pt` (n, d_k), `edge_index.pt`,
  `edge_type.pt`, `label.pt`, `{train,val,test}_idx.pt`.
- tables: `accounts.csv` (columns id, features, and label or label_<task>) and `edges.csv` (source, target, and
  relation where there are several); `write_mgtab` turns them into tensors.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from repertory.core.checkpoint import read_tensor
from repertory.core.problem import Problem
from repertory.data.arrays import find_file
from repertory.data.splits import check_disjoint, part_ids
from repertory.data.tables import read_table, to_numbers, without_index

FORMATS = """\
features.pt, edge_index.pt, edge_type.pt, labels_<task>.pt (MGTAB; one tensor a file)
or large_features.pt, large_edge_index0.pt, …, labels_<task>.pt (MGTAB-large)
or {cat_properties,num_properties,des,tweets}_tensor.pt, edge_index.pt, edge_type.pt, label.pt (Cresci-15, TwiBot-20)
or accounts.csv (id, features, label) and edges.csv (source, target, relation)"""

RELATIONS = ("followers", "friends", "mention", "reply", "quoted", "url", "hashtag")
"""The relations of MGTAB, by number."""
TASKS: Mapping[str, tuple[str, ...]] = {"bot": ("human", "bot"), "stance": ("neutral", "against", "support")}
"""The tasks of MGTAB and their classes."""
SPLIT = ("train", "val", "test")
NUMERIC, BOOLEAN = (3, 5, 6, 7, 9, 10, 11, 12, 13, 14), (0, 1, 2, 4, 8, 15, 16, 17, 18, 19)
"""Columns of MGTAB's 20 properties, numbered from 0; the 768 columns after them are the embedding of the tweets."""
PROPERTIES, WIDTH = 20, 788
PARTS: Mapping[str, str] = {
    "cat_properties_tensor": "boolean", "num_properties_tensor": "numeric", "des_tensor": "tweets",
    "tweets_tensor": "tweets",
}  # fmt: skip
"""Files of the Cresci-15 layout, in the order of the columns, and the group that they belong to."""
MOST_KINDS = 1000
"""Most relations, and most classes: a larger number is a damaged file."""
BLOCK = 1 << 22
"""Entries of a mapped file that are looked at together."""


@dataclass(frozen=True)
class AccountGraph:
    """Accounts, who is related to whom, and what is known of them."""

    name: str
    features: Tensor
    """(n, d) float32, finite; mapped from a file in the large layout."""
    edges: Mapping[str, Tensor]
    """Relation -> (2, E_r), row 0 the sources, row 1 the targets; int64, or as the mapped file holds them."""
    labels: Mapping[str, Tensor] = field(default_factory=dict)
    """Task -> (n,) int64, −1 where it is unknown."""
    class_names: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Task -> names of its classes."""
    groups: Mapping[str, Sequence[int]] = field(default_factory=dict)
    """Columns that are boolean, numeric, tweets."""
    split: Mapping[str, np.ndarray] = field(default_factory=dict)
    """train, val, test: ids of accounts; empty where the folder has none."""
    ids: Sequence[str] | None = None
    """Names of the accounts, where the files give them."""
    large: bool = False
    """Whether the files are mapped into memory."""

    @property
    def size(self) -> int:
        """Number of accounts n."""
        return len(self.features)

    def labelled(self, task: str) -> np.ndarray:
        """Ids of the accounts with a known label, ascending."""
        return (self.labels[task] >= 0).nonzero().flatten().numpy()

    def homophily(self, relation: str, task: str) -> float:
        """Share of the edges of a relation that join two accounts of the same class; NaN if no edge has both labels."""
        same = known = 0
        for block in self.edges[relation].split(BLOCK, dim=1):
            ends = self.labels[task][block.long()]
            both = (ends >= 0).all(0)
            known += int(both.sum())
            same += int((ends[0] == ends[1])[both].sum())
        return same / known if known else float("nan")


# -- reading ------------------------------------------------------------------------------------


def read_accounts(folder: Path) -> AccountGraph:
    """Read the graph in a folder, whichever layout it has.

    Raises:
        Problem: no layout is recognised; a file is missing or damaged; shapes, indices, labels or features are wrong
            (names file, row and value).
    """
    folder = Path(folder)
    readers = {
        "large_features.pt": _read_large,
        "features.pt": _read_mgtab,
        "num_properties_tensor.pt": _read_cresci,
        "accounts.csv": _read_csv,
    }
    for name, reader in readers.items():
        if folder.is_dir() and find_file(folder, name):
            return reader(folder)
    raise Problem("no graph of accounts here", folder, f"expected: {'; '.join(FORMATS.splitlines())}")


def _read_mgtab(folder: Path) -> AccountGraph:
    path = folder / "features.pt"
    features = _features(read_tensor(path), path)
    edges = _typed_edges(folder, len(features))
    labels, classes = _task_labels(folder, len(features), whole=True)
    return AccountGraph(folder.name, features, edges, labels, classes, _groups(features), _read_split(folder, features))


def _read_large(folder: Path) -> AccountGraph:
    path = folder / "large_features.pt"
    features = _features(read_tensor(path, mapped=True), path, mapped=True)
    edges, number = {}, 0
    while find_file(folder, f"large_edge_index{number}.pt"):
        path = folder / f"large_edge_index{number}.pt"
        edges[_relation(number)] = _edge_index(read_tensor(path, mapped=True), len(features), path)
        number += 1
    if not edges:
        raise Problem("large_edge_index0.pt is missing", folder, "one file of edges a relation, numbered from 0")
    read = {f"large_edge_index{known}.pt" for known in range(number)}
    if stray := sorted({path.name for path in folder.glob("large_edge_index*.pt")} - read):
        raise Problem(f"{stray[0]} does not follow number {number - 1}", folder, "number the relations from 0")
    labels, classes = _task_labels(folder, len(features), whole=False)
    split = _read_split(folder, features)
    return AccountGraph(folder.name, features, edges, labels, classes, _groups(features), split, large=True)


def _read_cresci(folder: Path) -> AccountGraph:
    blocks: list[Tensor] = []
    groups: dict[str, list[int]] = {}
    for part, group in PARTS.items():
        path = folder / f"{part}.pt"
        block = _features(read_tensor(path), path)
        if blocks and len(block) != len(blocks[0]):
            what = f"{path.name} has {len(block)} rows, cat_properties_tensor.pt {len(blocks[0])}"
            raise Problem(what, path, "give one row an account")
        first = sum(b.shape[1] for b in blocks)
        groups.setdefault(group, []).extend(range(first, first + block.shape[1]))
        blocks.append(block)
    features = torch.cat(blocks, dim=1)
    path = folder / "label.pt"
    labels = (
        {"bot": _labels(read_tensor(path), len(features), path, whole=False)} if find_file(folder, path.name) else {}
    )
    classes = {task: _class_names(task, known, path) for task, known in labels.items()}
    edges = _typed_edges(folder, len(features))
    return AccountGraph(folder.name, features, edges, labels, classes, groups, _read_split(folder, features))


def _features(x: Tensor, path: Path, mapped: bool = False) -> Tensor:
    if x.ndim != 2 or not x.shape[0] or not x.shape[1]:
        raise Problem(
            f"{path.name} has the shape {tuple(x.shape)}", path, "(n, d): a row an account, a column a feature"
        )
    if x.is_complex():
        raise Problem(f"{path.name} holds complex numbers", path, "save the features as float32")
    rows = max(1, BLOCK // x.shape[1])
    for first in range(0, len(x), rows):
        finite = x[first : first + rows].float().isfinite().all(1)  # as float32: 1e300 is beyond it
        if not finite.all():
            row = first + int((~finite).nonzero()[0])
            raise Problem(f"{path.name}: row {row} holds NaN or infinity", path, "fill it, or drop the account")
    return x if mapped and x.dtype in (torch.float32, torch.float16) else x.float()


def _typed_edges(folder: Path, size: int) -> dict[str, Tensor]:
    path, kinds = folder / "edge_index.pt", folder / "edge_type.pt"
    edge_index = _edge_index(read_tensor(path), size, path).long()
    edge_type = _not_boolean(read_tensor(kinds), kinds)
    if edge_type.numel() != edge_index.shape[1] or max(edge_type.shape, default=1) != edge_type.numel():
        what = f"edge_type.pt has the shape {tuple(edge_type.shape)}, {edge_type.numel()} entries for"
        raise Problem(f"{what} {edge_index.shape[1]} edges", kinds, "one type an edge")
    edge_type = _whole(edge_type.flatten(), kinds)
    if len(edge_type) and not 0 <= int(edge_type.min()) <= int(edge_type.max()) < MOST_KINDS:
        wrong = int(edge_type.min()) if int(edge_type.min()) < 0 else int(edge_type.max())
        raise Problem(f"edge_type.pt holds {wrong}", kinds, "number the relations from 0")
    count = int(edge_type.max()) + 1 if len(edge_type) else 1
    return {_relation(r): edge_index[:, edge_type == r] for r in range(count)}


def _edge_index(edges: Tensor, size: int, path: Path) -> Tensor:
    if edges.ndim != 2 or edges.shape[0] != 2:
        hint = "; transpose it" if edges.ndim == 2 and edges.shape[1] == 2 else ""
        raise Problem(f"{path.name} has the shape {tuple(edges.shape)}", path, f"(2, E): sources, targets{hint}")
    _not_boolean(edges, path)
    for number, block in enumerate(edges.split(BLOCK, dim=1)):
        whole = _whole(block, path)
        outside = ((whole < 0) | (whole >= size)).any(0)
        if outside.any():
            column = int(outside.nonzero()[0])
            raise Problem(
                f"{path.name}: edge {number * BLOCK + column} joins {whole[:, column].tolist()}",
                path,
                f"accounts are numbered from 0 to {size - 1}",
            )
    return edges.long() if edges.is_floating_point() else edges


def _not_boolean(values: Tensor, path: Path) -> Tensor:
    """Raise `Problem` for a mask where numbers are expected: read as 0 and 1 it would be other numbers."""
    if values.dtype == torch.bool:
        raise Problem(f"{path.name} holds booleans, not numbers", path, "save the numbers as int64")
    return values


def _whole(values: Tensor, path: Path) -> Tensor:
    """Whole numbers as int64. A dtype of floats holds each of them up to 2 / eps only."""
    if values.is_complex():
        raise Problem(f"{path.name} does not hold whole numbers", path, "save it as int64")
    if not values.is_floating_point():
        return values.long()
    most, wide = 2 / torch.finfo(values.dtype).eps, values.double()
    if bool((wide != wide.floor()).any()):
        raise Problem(f"{path.name} does not hold whole numbers", path, "save it as int64")
    if bool((wide.abs() > most).any()):
        what = f"{path.name} holds {wide.flatten()[wide.abs().argmax()]:g}, and {values.dtype} is exact to {most:.0f}"
        raise Problem(what, path, "save it as int64")
    return wide.long()


def _task_labels(folder: Path, size: int, whole: bool) -> tuple[dict[str, Tensor], dict[str, Sequence[str]]]:
    labels, classes = {}, {}
    for path in sorted(path for path in folder.iterdir() if re.fullmatch(r"(?i)labels_.*\.pt", path.name)):
        task = path.stem[len("labels_") :]
        if not re.fullmatch(r"\w+", task):
            raise Problem(f"{path.name} names no task", path, "call it labels_<task>.pt, in letters and digits")
        labels[task] = _labels(read_tensor(path), size, path, whole)
        classes[task] = _class_names(task, labels[task], path)
    return labels, classes


def _labels(known: Tensor, size: int, path: Path, whole: bool) -> Tensor:
    """Labels (n,) int64; NaN and negative numbers are −1; accounts after the last label are unlabelled."""
    known = known.squeeze()
    if known.ndim != 1 or (len(known) != size if whole else len(known) > size):
        raise Problem(
            f"{path.name} has the shape {tuple(known.shape)} for {size} accounts", path, "one label an account"
        )
    known = _whole(known.double().nan_to_num(-1, torch.inf, -1) if known.is_floating_point() else known, path)
    labels = torch.full((size,), -1)
    labels[: len(known)] = known.clamp(min=-1)
    return labels


def _class_names(task: str, labels: Tensor, where: Path) -> Sequence[str]:
    count = int(labels.max()) + 1
    if not 0 <= count <= MOST_KINDS:
        raise Problem(f"{where.name} holds {count - 1}", where, "number the classes from 0")
    names = TASKS.get(task, ())
    return names if count <= len(names) else [str(k) for k in range(count)]


def _relation(number: int) -> str:
    return RELATIONS[number] if number < len(RELATIONS) else f"relation{number}"


def _groups(features: Tensor) -> dict[str, Sequence[int]]:
    """The columns of MGTAB by number; of other features, those that are 0 or 1 alone are boolean."""
    if features.shape[1] == WIDTH:
        return {"tweets": range(PROPERTIES, WIDTH), "numeric": NUMERIC, "boolean": BOOLEAN}
    binary = ((features == 0) | (features == 1)).all(0)
    found = {"numeric": (~binary).nonzero().flatten().tolist(), "boolean": binary.nonzero().flatten().tolist()}
    return {group: columns for group, columns in found.items() if columns}


def _read_split(folder: Path, features: Tensor) -> dict[str, np.ndarray]:
    paths = {part: folder / f"{part}_idx.pt" for part in SPLIT}
    there = [part for part, path in paths.items() if find_file(folder, path.name)]
    if not there:
        return {}
    if missing := [path.name for part, path in paths.items() if part not in there]:
        raise Problem(f"{missing[0]} is missing beside {there[0]}_idx.pt", folder, "give train, val and test, or none")
    split = {}
    for part, path in paths.items():
        ids = read_tensor(path)
        whole = _whole(ids, path) if ids.is_floating_point() else ids
        split[part] = part_ids(whole.numpy(), len(features), part, path)
    check_disjoint(split, folder)
    return split


# -- tables -------------------------------------------------------------------------------------


def _read_csv(folder: Path) -> AccountGraph:
    path = folder / "accounts.csv"
    table = without_index(read_table(path, ["id"], dtype={"id": str}), path)
    ids = pd.Index(table["id"])
    wrong = ids.isna() | ids.duplicated()
    if wrong.any():
        row = int(wrong.argmax())
        raise Problem(f"accounts.csv: the id {ids[row]!r} in row {row + 2} is empty or repeated", path, "one row each")
    known = [name for name in table.columns if name == "label" or name.startswith("label_")]
    columns = [name for name in table.columns if name != "id" and name not in known]
    if not columns:
        raise Problem("accounts.csv has no features", path, "give at least one column of numbers beside id and label")
    labels, classes = {}, {}
    for name in known:
        task = name.removeprefix("label_")
        labels[task], classes[task] = _worded_labels(np.asarray(table[name], dtype=object), task, path)
    numbers = np.empty((len(table), len(columns)), np.float32)
    for k, name in enumerate(columns):
        with np.errstate(over="ignore"):
            values = to_numbers(table[[name]], path)[:, 0].astype(np.float32)
        if not np.isfinite(values).all():
            row = int((~np.isfinite(values)).argmax())
            raise Problem(f"accounts.csv: {name} has no number in row {row + 2}", path, "fill it, or drop the account")
        numbers[:, k] = values
    features = torch.from_numpy(numbers)
    edges = _csv_edges(folder / "edges.csv", ids)
    return AccountGraph(folder.name, features, edges, labels, classes, _groups(features), ids=ids.tolist())


def _worded_labels(cells: np.ndarray, task: str, path: Path) -> tuple[Tensor, Sequence[str]]:
    """Words or whole numbers as classes; an empty cell or a negative number is unlabelled.

    Raises:
        Problem: numbers beside words, numbers that are not whole, or more than `MOST_KINDS` classes.
    """
    numbers = np.asarray(pd.to_numeric(pd.Series(cells), errors="coerce"), np.float64)
    known = ~(pd.isna(cells) | (numbers < 0))
    whole = numbers[known]
    numeric = np.isfinite(whole)
    wrong = numeric & (whole % 1 != 0) | (numeric != (numeric.sum() * 2 > len(numeric)))
    if numeric.any() and (wrong.any() or whole[numeric].max() >= MOST_KINDS):
        row = int(np.flatnonzero(known)[wrong.argmax() if wrong.any() else np.where(numeric, whole, 0).argmax()])
        what = f"accounts.csv: row {row + 2} has the label {cells[row]!r}"
        raise Problem(what, path, f"give words alone, or whole numbers from 0 to {MOST_KINDS - 1} alone")
    if len(whole) and numeric.all():
        values, names = whole.astype(np.int64), TASKS.get(task, ())
        count = int(values.max()) + 1
        names = names if count <= len(names) else [str(k) for k in range(count)]
    else:
        names, values = np.unique([str(cell).strip() for cell in cells[known]], return_inverse=True)
        if len(names) > MOST_KINDS:
            raise Problem(f"accounts.csv: {len(names)} classes of {task}", path, f"give at most {MOST_KINDS}")
    labels = torch.full((len(cells),), -1)
    labels[torch.from_numpy(known)] = torch.as_tensor(values)
    return labels, list(map(str, names))


def _csv_edges(path: Path, ids: pd.Index) -> dict[str, Tensor]:
    table = read_table(path, ["source", "target"], dtype=str)
    ends = []
    for name in ("source", "target"):
        rows = ids.get_indexer(pd.Index(table[name]))
        if (rows < 0).any():
            row = int((rows < 0).argmax())
            raise Problem(
                f"edges.csv: row {row + 2} names {table[name][row]!r}", path, "every end is an id of accounts.csv"
            )
        ends.append(rows)
    pairs = torch.from_numpy(np.stack(ends)).long()
    relation = table["relation"].str.strip() if "relation" in table else pd.Series(["edge"] * len(table))
    if relation.isna().any():
        raise Problem(f"edges.csv: row {int(relation.isna().to_numpy().argmax()) + 2} has no relation", path, "name it")
    names = sorted(
        set(relation), key=lambda name: (RELATIONS.index(name) if name in RELATIONS else len(RELATIONS), name)
    )
    return {name: pairs[:, torch.from_numpy(np.array(relation == name))] for name in names} or {"edge": pairs}


# -- writing ------------------------------------------------------------------------------------


def write_mgtab(folder: Path, graph: AccountGraph) -> None:
    """Write the six files of MGTAB. Relations get the numbers of their order, and edges the weight 1."""
    folder.mkdir(parents=True, exist_ok=True)
    count = [edges.shape[1] for edges in graph.edges.values()]
    torch.save(graph.features.clone(), folder / "features.pt")
    torch.save(torch.cat([edges.long() for edges in graph.edges.values()], dim=1), folder / "edge_index.pt")
    torch.save(torch.repeat_interleave(torch.tensor(count)), folder / "edge_type.pt")
    torch.save(torch.ones(sum(count)), folder / "edge_weight.pt")
    for task, labels in graph.labels.items():
        torch.save(labels, folder / f"labels_{task}.pt")


def write_large(folder: Path, graph: AccountGraph) -> None:
    """Write the files of MGTAB-large: the labelled accounts must come first."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(graph.features.clone(), folder / "large_features.pt")
    for number, edges in enumerate(graph.edges.values()):
        torch.save(edges.clone(), folder / f"large_edge_index{number}.pt")
    for task, labels in graph.labels.items():
        torch.save(labels[labels >= 0], folder / f"labels_{task}.pt")


# -- the sample ---------------------------------------------------------------------------------

SHARES = {"bot": (0.73, 0.27), "stance": (0.37, 0.357, 0.273)}
"""Classes of the accounts, as in MGTAB."""
COMMUNITIES = 12
HOMOPHILY: Mapping[str, tuple[float, float, float, float]] = {
    "followers": (0.10, 0.20, 0.4, 3),
    "friends": (0.12, 0.20, 0.4, 4),
    "mention": (0.15, 0.08, 0.3, 1.5),
    "reply": (0.10, 0.05, 0.3, 2),
    "quoted": (0.30, 0.08, 0.3, 1),
    "url": (0.08, 0.30, 0.1, 2.5),
    "hashtag": (0.30, 0.08, 0.2, 3),
}
"""Relation -> how often the choice of a target looks at stance, bot and community, and the mean degree."""
CANDIDATES = 12
UNDIRECTED = ("url", "hashtag")


def generated_accounts(
    rng: np.random.Generator, accounts: int, unlabelled: int = 0, tweet_noise: float = 7.0
) -> AccountGraph:
    """A generated graph in the form of MGTAB: 788 features, 7 relations, bots and stances.

    Interests, activity and popularity are drawn first. Properties shift a little for bots; the mean embedding of the
    tweets holds weak directions of stance and style in noise that falls with the number of tweets. An edge starts at an
    active account; its end is the best of 12 popular candidates, judged by those of stance, bot and community that
    happen to matter for it.

    Args:
        rng: draws everything.
        accounts: labelled accounts, which come first.
        unlabelled: further accounts.
        tweet_noise: length of the noise in the embedding of a single tweet.
    """
    size = accounts + unlabelled
    hidden = {task: rng.choice(len(shares), size, p=shares) for task, shares in SHARES.items()}
    hidden["community"] = rng.integers(COMMUNITIES, size=size)
    features = np.concatenate([_properties(rng, hidden["bot"]), _tweets(rng, hidden, tweet_noise)], axis=1)
    activity, popularity = rng.lognormal(0, 1, size), rng.lognormal(0, 1, size)
    edges = {}
    for relation, (*chances, degree) in HOMOPHILY.items():
        count = round(size * degree)
        sources = rng.choice(size, count, p=activity / activity.sum())
        found = rng.choice(size, (count, CANDIDATES), p=popularity / popularity.sum())  # (E, 12)
        score = rng.random((count, CANDIDATES)) / 2 - 10 * (found == sources[:, None])
        for chance, name in zip(chances, ("stance", "bot", "community"), strict=True):
            matters = rng.random((count, 1)) < chance
            score += matters * (hidden[name][found] == hidden[name][sources][:, None])
        targets = found[np.arange(count), score.argmax(1)]
        pairs = np.stack([sources, targets])
        if relation in UNDIRECTED:
            pairs = np.concatenate([pairs, pairs[::-1]], axis=1)
        edges[relation] = torch.from_numpy(np.ascontiguousarray(pairs))
    known = np.arange(size) < accounts
    labels = {task: torch.from_numpy(np.where(known, hidden[task], -1)) for task in TASKS}
    x = torch.from_numpy(features.astype(np.float32))
    return AccountGraph("generated", x, edges, labels, TASKS, _groups(x))


def _properties(rng: np.random.Generator, bot: np.ndarray) -> np.ndarray:
    """(n, 20): booleans with other rates for bots, numbers with other means."""
    table = np.empty((len(bot), PROPERTIES))
    for column in range(PROPERTIES):
        sign = rng.choice((-1, 1))
        if column in BOOLEAN:
            rate, shift = rng.uniform(0.05, 0.6), sign * rng.uniform(0.1, 0.3)
            table[:, column] = rng.random(len(bot)) < np.clip(rate + shift * bot, 0.01, 0.99)
        else:
            table[:, column] = np.clip(rng.normal(0.5, 0.14, len(bot)) + sign * rng.uniform(0, 0.12) * bot, 0, 1)
    return table


def _tweets(rng: np.random.Generator, hidden: Mapping[str, np.ndarray], noise: float) -> np.ndarray:
    """(n, 768) of length 1: directions of stance, community, style; noise that falls with the number of tweets."""
    width, size = WIDTH - PROPERTIES, len(hidden["bot"])

    def directions(count: int) -> np.ndarray:
        drawn = rng.normal(size=(count, width))
        return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)

    mean = (
        0.16 * directions(len(TASKS["stance"]))[hidden["stance"]]
        + 0.5 * directions(COMMUNITIES)[hidden["community"]]
        + 0.12 * directions(1)[0] * hidden["bot"][:, None]
    )
    tweets = 1 + rng.lognormal(2.5, 1, size)
    mean += noise * rng.normal(size=(size, width)) / np.sqrt(width * tweets)[:, None]
    return mean / np.linalg.norm(mean, axis=1, keepdims=True)


def edge_blocks(graph: AccountGraph, relations: Sequence[str]) -> Iterator[tuple[int, Tensor]]:
    """Number of a relation in `relations` and up to `BLOCK` of its edges (2, k) int64, one block after the other."""
    for number, relation in enumerate(relations):
        for block in graph.edges[relation].split(BLOCK, dim=1):
            yield number, block.long()
