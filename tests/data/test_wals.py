"""WALS: which features count, how languages differ, what is missing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from repertory.core.problem import Problem
from repertory.data.wals import difference, find_wals, read_wals, write_wals

FEATURES = {
    "81A Order of Subject, Object and Verb": ("SOV", "SVO", "VSO", "VOS", "OVS", "OSV", "No dominant order"),
    "81B Languages with two orders": ("SOV or SVO", "VSO or VOS"),
    "87A Order of Adjective and Noun": ("Adjective-Noun", "Noun-Adjective"),
    "1A Consonant Inventories": ("Small", "Large"),
    "130A Finger and Hand": ("Identical", "Different"),
}


def values(order: str, adjective: str, two: str = "VSO or VOS") -> dict[str, str]:
    first, second, third, *others = FEATURES
    return {first: order, second: two, third: adjective, **{name: FEATURES[name][0] for name in others}}


def without(folder: Path, *rows: str) -> None:
    """Remove rows of values.csv by their ID."""
    path = folder / "values.csv"
    lines = [line for line in path.read_text().splitlines() if line.split(",")[0] not in rows]
    path.write_text("\n".join(lines) + "\n")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    titles = {name.replace(",", ""): kinds for name, kinds in FEATURES.items()}
    spoken = {
        "ger": values("No dominant order", "Adjective-Noun", "SOV or SVO"),
        "tur": values("SOV", "Adjective-Noun"),
        "fre": values("SVO", "Noun-Adjective"),
    }
    write_wals(tmp_path, {k: {n.replace(",", ""): v for n, v in f.items()} for k, f in spoken.items()}, titles)
    without(tmp_path, "81B-tur", "81B-fre")
    return tmp_path


def test_two_orders_set_both_values_and_other_chapters_are_left_out(folder: Path) -> None:
    found = read_wals(folder, ["de", "tr", "fr"])
    assert [name.split()[0] for name in found.names] == ["81A", "87A"]
    assert found.values[0, 1].tolist() == [0.5, 0.0]  # SOV or SVO, and SOV
    assert found.values[1, 2].tolist() == [1.0, 1.0]
    assert found.distance[0, 2] == 0.75
    assert (found.distance.diagonal() == 0).all()
    assert found.source == "WALS, 2 features"


def test_a_feature_that_one_language_lacks_does_not_count(folder: Path) -> None:
    without(folder, "87A-tur")
    assert len(read_wals(folder, ["de", "tr"]).names) == 1
    assert len(read_wals(folder, ["de", "fr"]).names) == 2
    without(folder, "81A-tur", "1A-tur", "130A-tur")
    with pytest.warns(UserWarning, match="no values of tr"):
        found = read_wals(folder, ["de", "tr", "fr"])
    assert np.isfinite(found.distance[0, 2])
    assert np.isnan(found.distance[1]).all()
    without(folder, "87A-ger", "81A-ger", "81B-ger")
    with pytest.raises(Problem, match="no feature has values"), pytest.warns(UserWarning, match="of de"):
        read_wals(folder, ["de"])


def test_shared_values_of_several() -> None:
    assert difference({"a", "b"}, {"a", "b", "c"}) == 0.25
    assert difference({"a", "b"}, {"c"}) == 1.0


def test_files_are_found_and_damage_is_named(folder: Path, tmp_path: Path) -> None:
    assert find_wals(tmp_path) == folder
    (folder / "codes.csv").write_text("ID,Name\n1,x\n")
    with pytest.raises(Problem, match="no column 'Parameter_ID'"):
        read_wals(folder, ["de"])
    (folder / "codes.csv").unlink()
    assert find_wals(tmp_path) is None


def change(folder: Path, old: str, new: str) -> None:
    text = (folder / "values.csv").read_text()
    assert old in text
    (folder / "values.csv").write_text(text.replace(old, new))


def test_an_empty_value_is_none(folder: Path) -> None:
    change(folder, "87A-tur,tur,87A,1,87A-1", "87A-tur,tur,87A,1,")
    change(folder, "87A-ger,ger,87A,1,87A-1", "87A-ger,ger,87A,1,")
    with pytest.warns(UserWarning, match="2 rows have no Code_ID and are left out"):
        found = read_wals(folder, ["de", "tr"])
    assert [name.split()[0] for name in found.names] == ["81A"]


@pytest.mark.parametrize("code", ["81A-1", "87A-9"])
def test_a_code_of_another_feature_is_refused(folder: Path, code: str) -> None:
    change(folder, "87A,1,87A-1", f"87A,1,{code}")
    with pytest.raises(Problem, match=f"'{code}' of .* is no code of the feature 87A"):
        read_wals(folder, ["de", "tr"])


def test_strange_and_empty_features_and_titles_are_passed_over(folder: Path) -> None:
    with (folder / "values.csv").open("a") as file:
        file.write("x,ger,²A,1,²A-1\ny,ger,,1,\n")
    text = (folder / "parameters.csv").read_text()
    (folder / "parameters.csv").write_text(text.replace("Order of Adjective and Noun", ""))
    assert read_wals(folder, ["de", "tr"]).names[1] == "87A"


def test_hidden_folders_are_passed_over_and_a_broken_link_is_told(folder: Path, tmp_path: Path) -> None:
    hidden = tmp_path / ".trash"
    hidden.mkdir()
    for path in list(folder.glob("*.csv")):
        (hidden / path.name).write_text(path.read_text())
    assert find_wals(tmp_path) == folder
    (folder / "codes.csv").unlink()
    (folder / "codes.csv").symlink_to("nowhere")
    place = find_wals(tmp_path)
    assert place is not None
    assert place == folder
    with pytest.raises(Problem, match="is a link to a file that is not there"):
        read_wals(place, ["de"])
