"""Molecules: tables of SMILES with binary labels, as graphs of atoms and bonds; the scaffold split.

Formats, as their owners distribute them:

- MoleculeNet: a csv with a column of SMILES (`smiles`, `mol` or `SMILES`) and one column a task, 0, 1 or blank
- OGB (ogbg-molhiv and its like): `mapping/mol.csv.gz`, and `split/scaffold/{train,valid,test}.csv.gz` of row numbers

Features and split follow pretrain-gnns (Hu et al., ICLR 2020), which the molecule benchmarks have in common.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from repertory.core.problem import Problem, require
from repertory.data.arrays import file_size
from repertory.data.splits import check_disjoint, part_ids
from repertory.data.tables import read_table, to_numbers

FORMATS = """\
<name>.csv (a column smiles, mol or SMILES; columns of 0, 1 or blank are tasks)
or mapping/mol.csv.gz and split/scaffold/{train,valid,test}.csv.gz (OGB)"""
SMILES_COLUMNS = ("smiles", "mol", "SMILES")
MISSING = ("nan", "na", "n/a", "<na>", "#n/a", "none", "null")
"""Words that pandas, R and DeepChem write where a label is missing, in lower case."""
PARTS = ("train", "valid", "test")

UNKNOWN_ATOM = 118
"""Index of `*`, atomic number 0; element Z has index Z - 1."""
CHIRALITIES = ("CHI_UNSPECIFIED", "CHI_TETRAHEDRAL_CW", "CHI_TETRAHEDRAL_CCW")
"""Others, which RDKit knows too, count as unspecified."""
BOND_TYPES = ("SINGLE", "DOUBLE", "TRIPLE", "AROMATIC")
DIRECTIONS = ("NONE", "ENDUPRIGHT", "ENDDOWNRIGHT")


@dataclass(frozen=True)
class Molecules:
    """n molecules, their graphs end to end.

    Example:
        >>> ethanol = featurise(["CCO"])
        >>> ethanol.atoms[:, 0].tolist(), ethanol.bonds.T.tolist()
        ([5, 5, 7], [[0, 1], [1, 0], [1, 2], [2, 1]])
    """

    smiles: list[str]
    atoms: np.ndarray
    """(N, 2) int64: index of the element, of the chirality."""
    bonds: np.ndarray
    """(2, E) int64: atoms of each molecule counted from 0; each bond in both directions, one after the other."""
    bond_features: np.ndarray
    """(E, 2) int64: index of the bond type, of the direction."""
    atom_starts: np.ndarray
    """(n + 1,) where each molecule's atoms begin."""
    bond_starts: np.ndarray
    """(n + 1,) where each molecule's directed bonds begin."""
    labels: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), np.float32))
    """(n, T) float32: 0, 1 or NaN."""
    tasks: list[str] = field(default_factory=list)
    name: str = "molecules"
    skipped: list[tuple[int, str]] = field(default_factory=list)
    """Rows of the file that are no molecules: number and text."""
    split: dict[str, np.ndarray] = field(default_factory=dict)
    """Part -> molecules, where the files say."""

    @property
    def size(self) -> int:
        return len(self.smiles)

    def of_tasks(self, tasks: Sequence[str]) -> Molecules:
        """The same molecules with these tasks alone, in this order; raises `Problem` if one is absent."""
        absent = [task for task in tasks if task not in self.tasks]
        if absent:
            raise Problem(
                f"the data have no task {absent[0]!r}", self.name, f"tasks here: {', '.join(self.tasks) or 'none'}"
            )
        columns = [self.tasks.index(task) for task in tasks]
        return replace(self, labels=self.labels[:, columns], tasks=list(tasks))


# -- graphs -----------------------------------------------------------------------------------------


def featurise(smiles: Iterable[str]) -> Molecules:
    """Graphs of SMILES; those that RDKit cannot read are left out and listed in `skipped`.

    Raises:
        Problem: RDKit is not installed.
    """
    chem = require("rdkit.Chem", extra="chem")
    require("rdkit.RDLogger", extra="chem").DisableLog("rdApp.*")  # what cannot be read is reported by us, once
    chirality = {getattr(chem.ChiralType, name): k for k, name in enumerate(CHIRALITIES)}
    bond_type = {getattr(chem.BondType, name): k for k, name in enumerate(BOND_TYPES)}
    direction = {getattr(chem.BondDir, name): k for k, name in enumerate(DIRECTIONS)}

    kept, skipped = [], []
    atoms, bonds, features = [], [], []
    atom_starts, bond_starts = [0], [0]
    for row, text in enumerate(smiles):
        molecule = chem.MolFromSmiles(text) if isinstance(text, str) and text.strip() else None
        if molecule is None or not molecule.GetNumAtoms():
            skipped.append((row, str(text)))
            continue
        kept.append(text)
        for atom in molecule.GetAtoms():
            number = atom.GetAtomicNum()
            atoms.append((number - 1 if number else UNKNOWN_ATOM, chirality.get(atom.GetChiralTag(), 0)))
        for bond in molecule.GetBonds():
            i, j = bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()
            bonds += [(i, j), (j, i)]
            # Dative and other rare bonds count as single ones.
            features += [(bond_type.get(bond.GetBondType(), 0), direction.get(bond.GetBondDir(), 0))] * 2
        atom_starts.append(len(atoms))
        bond_starts.append(len(bonds))
    return Molecules(
        smiles=kept,
        atoms=np.array(atoms, np.int64).reshape(-1, 2),
        bonds=np.ascontiguousarray(np.array(bonds, np.int64).reshape(-1, 2).T),
        bond_features=np.array(features, np.int64).reshape(-1, 2),
        atom_starts=np.array(atom_starts),
        bond_starts=np.array(bond_starts),
        skipped=skipped,
    )


# -- files ------------------------------------------------------------------------------------------


def find_table(source: Path) -> Path | None:
    """The table that a path stands for: a file itself, or the one csv (or `mapping/mol.csv.gz`) of a folder.

    Raises:
        Problem: a folder with several tables.
    """
    if source.is_file():
        return source
    if (source / "mapping" / "mol.csv.gz").exists():
        return source / "mapping" / "mol.csv.gz"
    tables = sorted([*source.glob("*.csv"), *source.glob("*.csv.gz")])
    named = [path for path in tables if path.name.split(".")[0] == source.name]
    if len(tables) > 1 and len(named) != 1:
        raise Problem(f"{len(tables)} tables: {', '.join(p.name for p in tables)}", source, "give one of them")
    return next(iter(named or tables), None)


def read_molecules(table: Path, tasks: Sequence[str] | None = ()) -> Molecules:
    """Read a table of molecules; rows whose SMILES cannot be parsed are skipped, with a warning that counts them.

    Args:
        table: the file.
        tasks: columns of labels; empty: all columns of 0, 1 and blanks; None: labels are not read at all. NaN, NA, N/A,
            None and null are blanks.

    Raises:
        Problem: not a table, no column of SMILES, no such task, labels other than 0, 1 and blank, no molecule left.
    """
    size = file_size(table)
    chosen = None if tasks is None else tuple(tasks)
    return _read(table.absolute(), table.stat().st_mtime_ns, size, chosen)


@functools.lru_cache(maxsize=4)  # the trials of a run read the same table one after the other
def _read(table: Path, changed: int, size: int, tasks: tuple[str, ...] | None) -> Molecules:
    frame = read_table(table, dtype=str, na_values=[], skipinitialspace=False)
    frame.columns = [str(column).strip() for column in frame.columns]
    column = next((name for name in SMILES_COLUMNS if name in frame), None)
    if column is None:
        raise Problem(
            f"no column of SMILES; the columns are {', '.join(frame.columns)}",
            table,
            f"name it {' or '.join(SMILES_COLUMNS)}",
        )
    found = [] if tasks is None else list(tasks) or _tasks(frame.drop(columns=column), table)
    labels = np.full((len(frame), len(found)), np.nan, np.float32)
    for k, name in enumerate(found):
        if name not in frame:
            raise Problem(f"no column {name!r}", table, f"the columns are {', '.join(frame.columns)}")
        words = _labels(frame[name])
        numbers = _numbers(words)
        wrong = ~(np.isin(numbers, (0, 1)) | (words == "").to_numpy())
        if wrong.any():
            row = int(wrong.argmax())
            raise Problem(
                f"column {name!r} holds {frame[name].iloc[row]!r} in row {row}", table, "labels are 0, 1 or blank"
            )
        labels[:, k] = numbers
    graphs = featurise(frame[column])
    name = table.parent.parent.name if table.parent.name == "mapping" else table.name.split(".")[0]
    if not graphs.size:
        raise Problem(f"none of the {len(frame)} rows is a molecule", table, f"give SMILES in the column {column!r}")
    if graphs.skipped:
        row, text = graphs.skipped[0]
        lost = f"{len(graphs.skipped)} of {len(frame)} rows skipped, no molecules"
        warnings.warn(f"{table.name}: {lost} (first: row {row}, {text!r})", stacklevel=3)
    rows = np.setdiff1d(np.arange(len(frame)), [row for row, _ in graphs.skipped])
    return replace(graphs, labels=labels[rows], tasks=found, name=name, split=_read_split(table, rows, len(frame)))


def _labels(cells: Any) -> Any:
    """The words of a column without blanks around them; "" where a label is missing."""
    words = cells.str.strip()
    return words.where(~words.str.lower().isin(MISSING), "")


def _numbers(words: Any) -> np.ndarray:
    return np.asarray(pd.to_numeric(words, errors="coerce"), np.float32)


def _tasks(frame: pd.DataFrame, table: Path) -> list[str]:
    """Columns of 0, 1 and blanks; one that is mostly so is left out with a warning."""
    found = []
    for name in frame:
        words = _labels(frame[name])
        words = words[words != ""]
        fits = np.isin(_numbers(words), (0, 1))
        if len(words) and fits.all():
            found.append(name)
        elif len(words) and fits.mean() > 0.5:
            word, row = words[~fits].iloc[0], words.index[~fits][0]
            left_out = f"the column {name!r} is left out: row {row} holds {word!r}, which is no label (0, 1 or blank)"
            warnings.warn(f"{table.name}: {left_out}", stacklevel=4)
    return found


def _read_split(table: Path, rows: np.ndarray, size: int) -> dict[str, np.ndarray]:
    """OGB's split beside the table, if there is one: row numbers of the file -> numbers of molecules."""
    folder = table.parent.parent / "split" / "scaffold"
    if table.parent.name != "mapping" or not folder.is_dir():
        return {}
    number = {row: k for k, row in enumerate(rows.tolist())}
    listed = {}
    for part in PARTS:
        path = folder / f"{part}.csv.gz"
        listed[part] = part_ids(to_numbers(read_table(path, header=None).iloc[:, 0], path), size, part, path)
    check_disjoint(listed, folder)
    return {
        part: np.array([number[row] for row in ids.tolist() if row in number], np.int64) for part, ids in listed.items()
    }


# -- the scaffold split -----------------------------------------------------------------------------


def scaffold(smiles: str) -> str:
    """SMILES of the Bemis-Murcko scaffold, with chirality; empty for a molecule without rings.

    Example:
        >>> scaffold("OCc1ccccc1")
        'c1ccccc1'
    """
    murcko = require("rdkit.Chem.Scaffolds.MurckoScaffold", extra="chem")
    return murcko.MurckoScaffoldSmiles(smiles=smiles, includeChirality=True)


@functools.lru_cache(maxsize=4)
def _scaffolds(smiles: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(scaffold(text) for text in smiles)


def scaffold_split(smiles: Sequence[str], train: float = 0.8, valid: float = 0.1) -> dict[str, np.ndarray]:
    """Whole scaffolds to train, valid or test: the large ones first, and rare ones into the test.

    A scaffold goes to train while that stays within its share, else to valid while both stay within theirs, else
    to test. Order: by size, then by the first molecule's number, both descending (pretrain-gnns, `scaffold_split`).

    Returns:
        Part -> numbers of molecules.
    """
    most = {"train": train * len(smiles), "valid": (train + valid) * len(smiles)}
    parts: dict[str, list[int]] = {part: [] for part in PARTS}
    for group in sorted(_by_scaffold(smiles), key=lambda rows: (len(rows), rows[0]), reverse=True):
        if len(parts["train"]) + len(group) <= most["train"]:
            parts["train"] += group
        elif len(parts["train"]) + len(parts["valid"]) + len(group) <= most["valid"]:
            parts["valid"] += group
        else:
            parts["test"] += group
    return {part: np.array(rows, np.int64) for part, rows in parts.items()}


def random_scaffold_split(
    smiles: Sequence[str], rng: np.random.Generator, valid: float = 0.1, test: float = 0.1
) -> dict[str, np.ndarray]:
    """Whole scaffolds to train, valid or test, in random order: every draw is a split of its own.

    A scaffold goes to test while that stays within its share, else to valid likewise, else to train.

    Returns:
        Part -> numbers of molecules.
    """
    groups = _by_scaffold(smiles)
    most = {"test": test * len(smiles), "valid": valid * len(smiles)}
    parts: dict[str, list[int]] = {part: [] for part in PARTS}
    for k in rng.permutation(len(groups)):
        room = (part for part, share in most.items() if len(parts[part]) + len(groups[k]) <= share)
        parts[next(room, "train")] += groups[k]
    return {part: np.array(rows, np.int64) for part, rows in parts.items()}


def _by_scaffold(smiles: Sequence[str]) -> list[list[int]]:
    """Numbers of the molecules of each scaffold, in order of appearance."""
    groups: dict[str, list[int]] = {}
    for row, text in enumerate(_scaffolds(tuple(smiles))):
        groups.setdefault(text, []).append(row)
    return list(groups.values())


# -- the sample -------------------------------------------------------------------------------------

SCAFFOLDS = (
    "c1ccc({a})cc1{b}", "c1cc({a})ncc1{b}", "c1nc({a})ncc1{b}", "c1cc({a})oc1{b}", "c1cc({a})sc1{b}",
    "c1cc({a})[nH]c1{b}", "c1ccc2c(c1)c({a})c[nH]2", "c1cc({a})c2ccccc2c1{b}", "c1cc({a})c2ncccc2c1{b}",
    "c1cc({a})c2[nH]cnc2c1{b}", "c1cc({a})c2occc2c1{b}", "c1cc({a})c2sccc2c1{b}", "C1CC({a})CCC1{b}",
    "C1CN({a})CCC1{b}", "C1CN({a})CCN1{b}", "C1COC({a})CN1{b}", "C1CC({a})CC1{b}", "C1CC({a})OC1{b}",
    "C1CCN({a})C1{b}", "C1CC({a})C1{b}", "c1ccc(cc1{b})-c1ccc({a})cc1", "c1ccc(cc1{b})Oc1ccc({a})cc1",
    "c1cc({a})c2c(c1{b})CCCC2", "O=C1NC({a})CCC1{b}",
)  # fmt: skip
"""Templates of rings with two slots (one for the indole)."""
SUBSTITUENTS = {
    "": 0.0, "O": 0.9, "OC": -0.3, "F": -0.5, "Cl": -0.8, "C(F)(F)F": -1.2, "N": 1.1, "N(=O)=O": -0.9,
    "C(=O)O": 0.7, "C(=O)N": 0.8, "C#N": -0.4, "C(C)(C)C": -0.7, "c9ccccc9": 0.4,
}  # fmt: skip
"""Group -> what it adds to the score of a molecule. A ring of its own has a number that no template uses."""
SCORE_NOISE, OFFSET, LABEL_NOISE = 0.5, 0.6, 0.08


def write_sample(path: Path, rng: np.random.Generator, count: int = 1500) -> None:
    """Write a table of generated molecules as MoleculeNet's csv files are: `smiles,active`.

    Rings carry one or two groups. The label is 1 iff a linear score of the groups plus noise plus an offset of the
    ring is positive; a share of the labels is turned over. So the rings of the test have offsets of their own.
    """
    offsets = dict(zip(SCAFFOLDS, rng.normal(0, OFFSET, len(SCAFFOLDS)), strict=True))
    groups = list(SUBSTITUENTS)
    # Some rings are frequent and some are rare, as in chemists' collections.
    share = rng.permutation(1.0 / np.arange(2, len(SCAFFOLDS) + 2))
    rows: dict[str, int] = {}
    for _ in range(50 * count):
        if len(rows) == count:
            break
        ring = SCAFFOLDS[rng.choice(len(SCAFFOLDS), p=share / share.sum())]
        first, second = rng.integers(1, len(groups)), rng.integers(len(groups))
        a, b = groups[first], groups[second] if "{b}" in ring else ""
        smiles = ring.format(a=a, b=b)
        score = SUBSTITUENTS[a] + SUBSTITUENTS[b] + offsets[ring] + rng.normal(0, SCORE_NOISE)
        rows.setdefault(smiles, int((score > 0) != (rng.random() < LABEL_NOISE)))
    table = pd.DataFrame({"smiles": list(rows), "active": list(rows.values())})
    path.write_text(table.to_csv(index=False), encoding="utf-8")
