"""Molecules: features, tables in the formats of their owners, the scaffold split, the sample."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from repertory.core.problem import Problem
from repertory.data.molecules import (
    SCAFFOLDS,
    SUBSTITUENTS,
    UNKNOWN_ATOM,
    featurise,
    find_table,
    random_scaffold_split,
    read_molecules,
    scaffold,
    scaffold_split,
    write_sample,
)

# -- features ---------------------------------------------------------------------------------------


def test_features_of_atoms_and_bonds() -> None:
    data = featurise(["C[C@H](N)O", "C[C@@H](N)O", "F/C=C/F", "c1ccccc1C#N", "*C"])
    starts = data.atom_starts
    assert data.atoms[starts[0] : starts[1]].tolist() == [[5, 0], [5, 2], [6, 0], [7, 0]]
    assert data.atoms[starts[1] + 1].tolist() == [5, 1]
    bonds = data.bond_features[data.bond_starts[2] : data.bond_starts[3]]
    assert bonds.tolist() == [[0, 1], [0, 1], [1, 0], [1, 0], [0, 1], [0, 1]]
    kinds = data.bond_features[data.bond_starts[3] : data.bond_starts[4], 0]
    assert np.bincount(kinds).tolist() == [2, 0, 2, 12]
    assert data.atoms[starts[4], 0] == UNKNOWN_ATOM
    assert (data.bonds[:, ::2] == data.bonds[::-1, 1::2]).all(), "both directions, one after the other"
    assert (data.bond_features[::2] == data.bond_features[1::2]).all()


def test_rare_chirality_stays_within_the_table() -> None:
    data = featurise(["F[P@SP1](Cl)(Br)I", "[NH3][Pt@SP1](Cl)([NH3])Cl"])
    assert data.size
    assert data.atoms[:, 1].max() <= 2


def test_a_molecule_without_bonds_and_what_is_none() -> None:
    data = featurise(["[Na+]", "not a molecule", "", "CC"])
    assert data.smiles == ["[Na+]", "CC"]
    assert data.bond_starts.tolist() == [0, 0, 2]
    assert data.skipped == [(1, "not a molecule"), (2, "")]
    empty = featurise(["[Na+]"])
    assert (empty.bonds.shape, empty.bond_features.shape) == ((2, 0), (0, 2))


# -- tables -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "row", "tasks"),
    [
        ("smiles,Class", "CCO,{0}", ["Class"]),
        ("mol,CID,Class,Model,pIC50", "CCO,BACE_{0},{0},Train,9.1", ["Class"]),
        ("num,name,p_np,smiles", "1{0},water,{0},O", ["p_np"]),
        ("smiles,FDA_APPROVED,CT_TOX", "CCO,1,{0}", ["FDA_APPROVED", "CT_TOX"]),
        ("NR-AR,SR-p53,mol_id,smiles", "{0},,TOX{0},CCO", ["NR-AR"]),
        ("smiles,activity,HIV_active", "CCO,CI,{0}", ["HIV_active"]),
        ("SMILES,y", "CCO,{0}.0", ["y"]),
    ],
)
def test_the_tables_of_moleculenet(tmp_path: Path, header: str, row: str, tasks: list[str]) -> None:
    path = tmp_path / "table.csv"
    path.write_text("\n".join([header, *(row.format(k) for k in (0, 1, 1))]))
    data = read_molecules(path)
    assert data.tasks == tasks
    assert data.labels[:, -1].tolist() == [0, 1, 1]
    assert read_molecules(path, None).tasks == []


def test_blanks_are_missing_labels(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("smiles,a,b\nCC,1,\nCO,,0\nC,0, \n")
    labels = read_molecules(path).labels
    assert np.array_equal(labels, np.array([[1, np.nan], [np.nan, 0], [0, np.nan]], np.float32), equal_nan=True)
    assert read_molecules(path, ["b"]).tasks == ["b"]
    assert read_molecules(path).of_tasks(["b", "a"]).labels[0, 1] == 1


@pytest.mark.parametrize("missing", ["NaN", "nan", "NA", "N/A", " None ", "null"])
def test_words_for_missing_are_blanks(tmp_path: Path, missing: str) -> None:
    table = tmp_path / "t.csv"
    table.write_text(f"smiles,t1,t2,t3\nCCO,1,1,\nCCN,0,{missing},{missing}\nCCC,1,0,0\n")
    read = read_molecules(table)
    assert read.tasks == ["t1", "t2", "t3"]
    np.testing.assert_array_equal(read.labels[:, 1:], [[1, np.nan], [np.nan, np.nan], [0, 0]])


def test_a_column_that_is_nearly_a_task_is_left_out_with_a_warning(tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    table.write_text("smiles,t1,t2,mass\nCCO,1,1,46.1\nCCN,0,0,45.1\nCCC,1,inconclusive,44.1\n")
    with pytest.warns(UserWarning, match="the column 't2' is left out: row 2 holds 'inconclusive'"):
        assert read_molecules(table).tasks == ["t1"]


def test_rows_that_are_no_molecules_are_counted_and_labels_stay_with_theirs(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("smiles,y\nCC,0\nnonsense,1\nCO,1\n")
    with pytest.warns(UserWarning, match="1 of 3 rows skipped"):
        data = read_molecules(path)
    assert (data.smiles, data.labels[:, 0].tolist(), data.skipped) == (["CC", "CO"], [0, 1], [(1, "nonsense")])


def test_a_changed_file_is_read_anew(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("smiles,y\nCC,0\n")
    assert read_molecules(path).size == 1
    path.write_text("smiles,y\nCC,0\nCO,1\n")
    assert read_molecules(path).size == 2


def test_which_table_a_folder_stands_for(tmp_path: Path) -> None:
    assert find_table(tmp_path) is None
    (tmp_path / "a.csv").write_text("smiles\nC\n")
    assert find_table(tmp_path) == tmp_path / "a.csv" == find_table(tmp_path / "a.csv")
    (tmp_path / "b.csv").write_text("smiles\nC\n")
    with pytest.raises(Problem, match=r"2 tables: a.csv, b.csv"):
        find_table(tmp_path)
    (tmp_path / f"{tmp_path.name}.csv").write_text("smiles\nC\n")
    assert find_table(tmp_path) == tmp_path / f"{tmp_path.name}.csv"


@pytest.mark.parametrize(
    ("text", "tasks", "words"),
    [
        ("name,Class\nx,1\n", (), "no column of SMILES; the columns are name, Class"),
        ("smiles,y\nCC,2\n", ("y",), "column 'y' holds '2' in row 0"),
        ("smiles,y\nCC,1\n", ("z",), "no column 'z'"),
        ("smiles,y\nnonsense,1\n", (), "none of the 1 rows is a molecule"),
        ("", (), "cannot read table.csv"),
        ("smiles\n\xff\xfe", (), "cannot read table.csv"),
    ],
)
def test_bad_tables(tmp_path: Path, text: str, tasks: tuple[str, ...], words: str) -> None:
    path = tmp_path / "table.csv"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(Problem, match=words):
        read_molecules(path, tasks)


def ogb(folder: Path) -> Path:
    (folder / "mapping").mkdir(parents=True)
    (folder / "split" / "scaffold").mkdir(parents=True)
    with gzip.open(folder / "mapping" / "mol.csv.gz", "wt") as file:
        file.write("HIV_active,smiles,mol_id\n0,CC,h0\n1,nonsense,h1\n1,CO,h2\n0,CN,h3\n")
    for part, rows in (("train", [0, 1]), ("valid", [3]), ("test", [2])):
        with gzip.open(folder / "split" / "scaffold" / f"{part}.csv.gz", "wt") as file:
            file.write("".join(f"{row}\n" for row in rows))
    return folder


@pytest.mark.filterwarnings("ignore:.*rows skipped")
def test_the_layout_of_ogb(tmp_path: Path) -> None:
    folder = ogb(tmp_path / "hiv")
    table = find_table(folder)
    assert table is not None
    data = read_molecules(table)
    assert (data.name, data.tasks, data.labels[:, 0].tolist()) == ("hiv", ["HIV_active"], [0, 1, 0])
    assert {part: rows.tolist() for part, rows in data.split.items()} == {"train": [0], "valid": [2], "test": [1]}
    (folder / "split" / "scaffold" / "test.csv.gz").unlink()
    table.touch()
    with pytest.raises(Problem, match=r"test\.csv\.gz is missing"):
        read_molecules(table)


# -- the scaffold split -----------------------------------------------------------------------------


def test_a_random_scaffold_split_keeps_scaffolds_whole(tmp_path: Path) -> None:
    write_sample(tmp_path / "m.csv", np.random.default_rng(0), 400)
    smiles = read_molecules(tmp_path / "m.csv").smiles
    draws = [random_scaffold_split(smiles, np.random.default_rng(seed)) for seed in (0, 0, 1)]
    for split in draws:
        assert sorted(np.concatenate(list(split.values())).tolist()) == list(range(400))
        assert 0 < len(split["test"]) <= 40
        assert 0 < len(split["valid"]) <= 40
        scaffolds = [{scaffold(smiles[row]) for row in rows} for rows in split.values()]
        assert len(set.union(*scaffolds)) == sum(map(len, scaffolds))  # no scaffold in two parts
    tests = [set(split["test"].tolist()) for split in draws]
    assert tests[0] == tests[1] != tests[2]


def test_scaffolds_stay_together_and_rare_ones_go_to_the_test() -> None:
    smiles = ["Cc1ccccc1", "C1CCCCC1O", "Oc1ccccc1", "CCO", "Nc1ccccc1", "C1CCNCC1", "Fc1ccccc1", "CCN", "Clc1ccccc1"]
    split = scaffold_split([*smiles, "C1CCOC1"])
    assert split["train"].tolist() == [0, 2, 4, 6, 8, 3, 7, 9]  # benzene, none, then the last of the single ones
    assert split["valid"].tolist() == [5]
    assert split["test"].tolist() == [1]
    assert scaffold("CCO") == ""
    assert scaffold("C[C@H]1CC[C@@H](O)CC1") == "C1CCCCC1"


# -- the sample -------------------------------------------------------------------------------------


def test_the_sample(tmp_path: Path) -> None:
    for name in ("a.csv", "b.csv"):
        write_sample(tmp_path / name, np.random.default_rng(3), 420)
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()
    data = read_molecules(tmp_path / "a.csv")
    assert (data.size, data.tasks, data.skipped) == (420, ["active"], [])
    assert 0.25 < data.labels.mean() < 0.75
    assert len(set(data.smiles)) == 420
    split = scaffold_split(data.smiles)
    for rows in split.values():
        assert {0.0, 1.0} == set(data.labels[rows, 0].tolist())


def test_every_ring_and_group_of_the_sample_parses() -> None:
    written = [ring.format(a=a, b=b) for ring in SCAFFOLDS for a in list(SUBSTITUENTS)[1:] for b in SUBSTITUENTS]
    assert (len(SCAFFOLDS), len(SUBSTITUENTS)) == (24, 13)
    assert not featurise(written).skipped


@pytest.mark.realdata
def test_bace(real_data: Callable[[str], Path]) -> None:
    table = find_table(real_data("bace"))
    assert table is not None
    data = read_molecules(table)
    assert (data.size, data.tasks, data.skipped) == (1513, ["Class"], [])
    assert len(data.atoms) / data.size == pytest.approx(34.1, abs=0.05)
    split = scaffold_split(data.smiles)
    assert {part: len(rows) for part, rows in split.items()} == {"train": 1210, "valid": 151, "test": 152}
    assert split["test"][:5].tolist() == [240, 239, 237, 236, 235]
    shares = [100 * data.labels[split[part]].mean() for part in ("train", "test")]
    assert shares == pytest.approx([39.7, 53.3], abs=0.05)
