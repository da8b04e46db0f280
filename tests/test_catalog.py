"""Finding papers: built-in ones, other packages', by name and by words; lightly."""

from __future__ import annotations

import json
import re
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import pytest

import repertory
from repertory import catalog
from repertory.core.card import Card
from repertory.core.problem import Problem
from repertory.core.study import Study
from tests import toy as toy_paper
from tests.toy import CARD, importable, install


def found(query: str) -> list[str]:
    return [card.id for card, _ in catalog.search(query)]


# -- by name ------------------------------------------------------------------------------------


def test_built_in_papers_are_those_with_a_card() -> None:
    root = Path(repertory.__file__).parent / "papers"
    assert {path.parent.name for path in root.glob("*/card.toml")} <= set(repertory.list_papers())
    assert repertory.list_papers() == list(catalog.packages())
    for paper in repertory.list_papers():
        assert repertory.card(paper).id == paper
        assert (catalog.folder(paper) / "card.toml").exists()


def test_cards_come_by_topic_and_name() -> None:
    keys = [(card.topic, card.id) for card in catalog.cards()]
    assert keys == sorted(keys)
    assert {card.id for card in catalog.cards()} == set(catalog.packages())


def test_an_unknown_paper_is_refused_with_the_closest_names(toy: Path) -> None:
    for ask in (catalog.folder, catalog.card, catalog.load, repertory.card):
        with pytest.raises(Problem, match="no paper is called 'toi'") as caught:
            ask("toi")
        assert caught.value.remedy == "did you mean toy?"
    with pytest.raises(Problem) as caught:
        catalog.card("zzzzzzzz")
    assert caught.value.remedy == "`repertory list` names them all"


def test_every_paper_has_its_study() -> None:
    for paper in catalog.packages():
        study = catalog.load(paper)
        assert issubclass(study, Study)
        assert study.paper == paper


# -- other packages -----------------------------------------------------------------------------


def test_another_package_brings_a_paper(toy: Path) -> None:
    assert repertory.list_papers()[-1] == "toy"
    assert catalog.packages()["toy"] == "toy_room"
    assert catalog.folder("toy") == toy
    assert repertory.card("toy").title == "Rings Need a Hidden Layer"
    assert "toy" in {card.id for card in catalog.cards()}
    study = catalog.load("toy")
    assert (study.__module__, study.__name__) == ("toy_room.study", "ToyStudy")


def test_its_code_is_not_imported_before_it_is_run(toy: Path) -> None:
    catalog.cards()
    catalog.search("rings")
    assert "toy_room" not in sys.modules
    catalog.load("toy")
    assert "toy_room.study" in sys.modules


def test_a_package_that_is_gone_is_forgotten(tmp_path: Path) -> None:
    install(tmp_path)
    with importable(tmp_path):
        assert "toy" in catalog.packages()
    assert "toy" not in catalog.packages()


def test_a_package_below_another_one_may_hold_the_paper(tmp_path: Path) -> None:
    room = install(tmp_path)
    (tmp_path / "company" / "papers").mkdir(parents=True)
    room.rename(tmp_path / "company" / "papers" / "rings")
    (tmp_path / "toy_room-1.0.dist-info" / "entry_points.txt").write_text(
        "[repertory.papers]\ntoy = company.papers.rings\n"
    )
    with importable(tmp_path):
        assert catalog.card("toy").id == "toy"
        assert catalog.load("toy").__module__ == "company.papers.rings.study"


@pytest.mark.parametrize("target", ["gone", "gone.papers.toy", "json.toy"])
def test_a_registered_package_that_is_not_there_is_a_problem(tmp_path: Path, target: str) -> None:
    install(tmp_path)
    (tmp_path / "toy_room-1.0.dist-info" / "entry_points.txt").write_text(f"[repertory.papers]\ntoy = {target}\n")
    with importable(tmp_path), pytest.raises(Problem, match="package of toy is not importable") as caught:
        catalog.card("toy")
    assert caught.value.where == target


def others() -> list[str]:
    """Papers that can be listed, but for the toy."""
    return [card.id for card in catalog.cards() if card.id != "toy"]


def told() -> list[tuple[str, str]]:
    """(distribution, what is wrong) of broken packages."""
    return [(distribution, problem.what) for distribution, problem in catalog.broken()]


BUILT_IN = sorted(path.parent.name for path in (Path(repertory.__file__).parent / "papers").glob("*/card.toml"))


def test_two_packages_with_one_paper_cost_that_paper_alone(tmp_path: Path) -> None:
    for package in ("toy_room", "other_room"):
        install(tmp_path, package=package)
    with importable(tmp_path):
        assert sorted(others()) == BUILT_IN
        assert catalog.search("SNN")
        assert "toy" not in catalog.packages()
        assert [name for name, _ in told()] == ["other-room and toy-room"]
        for ask in (catalog.card, catalog.load, catalog.folder):
            with pytest.raises(Problem, match="two packages register the paper 'toy'") as caught:
                ask("toy")
            assert "toy_room of toy-room" in caught.value.where
            assert "other_room of other-room" in caught.value.where


def test_a_package_cannot_take_the_name_of_a_built_in_paper(tmp_path: Path) -> None:
    taken = repertory.list_papers()[0]
    install(tmp_path, paper=taken)
    with importable(tmp_path):
        assert catalog.packages()[taken] == f"repertory.papers.{taken}"
        assert catalog.card(taken).id == taken
        assert told() == [("toy-room", f"two packages register the paper '{taken}'")]


@pytest.mark.parametrize("content", ["[repertory.papers]\ntoy\n", b"[repertory.papers]\ntoy = \xff\xfe\n"])
def test_entry_points_that_cannot_be_parsed_cost_their_package_alone(tmp_path: Path, content: str | bytes) -> None:
    install(tmp_path / "good")
    install(tmp_path / "bad", package="bad_room", paper="bad")
    points = tmp_path / "bad" / "bad_room-1.0.dist-info" / "entry_points.txt"
    points.write_bytes(content.encode() if isinstance(content, str) else content)
    with importable(tmp_path / "good"), importable(tmp_path / "bad"):
        assert sorted(others()) == BUILT_IN
        assert catalog.card("toy").id == "toy"
        ((name, what),) = told()
        assert name == "bad-room"
        assert "entry points cannot be read" in what


def test_a_package_that_breaks_on_import_costs_itself_alone(tmp_path: Path) -> None:
    install(tmp_path)
    (tmp_path / "firm").mkdir()
    (tmp_path / "firm" / "__init__.py").write_text("raise RuntimeError('no licence')\n")
    (tmp_path / "toy_room-1.0.dist-info" / "entry_points.txt").write_text("[repertory.papers]\ntoy = firm.toy\n")
    with importable(tmp_path):
        assert sorted(others()) == BUILT_IN
        with pytest.raises(Problem, match="not importable: no licence"):
            catalog.card("toy")


def test_a_broken_card_costs_its_paper_alone_and_names_file_and_field(tmp_path: Path) -> None:
    room = install(tmp_path, card=CARD.replace("year = 2024", 'year = "soon"'))
    with importable(tmp_path):
        assert sorted(card.id for card in catalog.cards()) == BUILT_IN
        ((name, what),) = told()
        assert name == "toy-room"
        assert "year" in what
        with pytest.raises(Problem, match="year") as caught:
            catalog.card("toy")
        assert caught.value.where == str(room / "card.toml")
        assert len(str(caught.value).splitlines()) == 3


def test_a_vanished_folder_costs_its_paper_alone(tmp_path: Path) -> None:
    room = install(tmp_path)
    with importable(tmp_path):
        shutil.rmtree(room)
        assert sorted(card.id for card in catalog.cards()) == BUILT_IN
        assert [name for name, _ in told()] == ["toy-room"]
        with pytest.raises(Problem, match="not importable"):
            catalog.card("toy")


def test_whole_packages_are_not_told(toy: Path) -> None:
    assert told() == []


def test_a_card_of_another_name_is_a_problem(tmp_path: Path) -> None:
    install(tmp_path, paper="game")
    with importable(tmp_path), pytest.raises(Problem, match="the card's id is 'toy'") as caught:
        catalog.card("game")
    assert caught.value.remedy == "set id = 'game'"


def test_a_paper_without_study_is_a_problem(tmp_path: Path) -> None:
    room = install(tmp_path)
    for content in ("", "class ToyStudy:\n    paper = 'other'\n", None):
        if content is None:
            (room / "study.py").unlink()
        else:
            (room / "study.py").write_text(content)
        with importable(tmp_path), pytest.raises(Problem, match="no Study with paper = 'toy'") as caught:
            catalog.load("toy")
        assert caught.value.where == str(room / "study.py")


def test_a_fault_in_a_study_is_not_taken_for_its_absence(tmp_path: Path) -> None:
    room = install(tmp_path)
    (room / "study.py").write_text("import a_package_that_nobody_has\n")
    with importable(tmp_path), pytest.raises(ModuleNotFoundError, match="a_package_that_nobody_has"):
        catalog.load("toy")


def test_an_absent_dependency_is_told_with_the_extra_of_the_card(tmp_path: Path) -> None:
    room = install(tmp_path, card=CARD.replace("minutes = ", 'extra = "rings"\nminutes = '))
    (room / "study.py").write_text("import a_package_that_nobody_has.part\n")
    with (
        importable(tmp_path),
        pytest.raises(Problem, match="needs the package a_package_that_nobody_has") as caught,
    ):
        catalog.load("toy")
    assert caught.value.remedy == "pip install 'toy-room[rings]'"


# -- cards against studies ----------------------------------------------------------------------


UNDECLARED = "which the study of toy does not declare"


@pytest.mark.parametrize(
    ("old", "new", "complaint", "remedy"),
    [
        (
            'metric = "accuracy", arm = "wide", over',
            'metric = "acuracy", arm = "wide", over',
            f"claim 'wide-is-better' tests the metric 'acuracy', {UNDECLARED}",
            "did you mean accuracy",
        ),
        (
            'metric = "parameters_8"',
            'metric = "params_8"',
            f"claim 'size' tests the metric 'params_8', {UNDECLARED}",
            "did you mean parameters_{x}",
        ),
        (
            '"parameters_{x}"',
            '"sizes_{x}"',
            f"claim 'size' tests the metric 'sizes_1', {UNDECLARED}",
            "the study has accuracy, area, classes",
        ),
        (
            "margin = 5.0",
            'over_metric = "acc"',
            f"claim 'wide-is-better' tests the metric 'acc', {UNDECLARED}",
            "did you mean accuracy",
        ),
        (
            'arm = "wide", over = "plain", margin',
            'arm = "wied", over = "plain", margin',
            "claim 'wide-is-better' tests the arm 'wied', which the study of toy does not have",
            "did you mean wide?",
        ),
        (
            'over = "wide",',
            'over = ["wide", "plian"],',
            "claim 'plain-is-better' tests the arm 'plian', which the study of toy does not have",
            "did you mean plain?",
        ),
        (
            "margin = 5.0",
            'better = "lower"',
            "claim 'wide-is-better' says that 'lower' accuracy is better, the study of toy 'higher'",
            'set better = "higher", or exchange arm and over',
        ),
    ],
)
def test_a_claim_that_the_study_cannot_test_is_refused(
    tmp_path: Path, old: str, new: str, complaint: str, remedy: str
) -> None:
    assert old in CARD
    room = install(tmp_path, card=CARD.replace(old, new, 1))
    with importable(tmp_path):
        assert catalog.card("toy").id == "toy"  # it can be shown
        with pytest.raises(Problem, match=re.escape(complaint)) as caught:
            catalog.load("toy")
        assert caught.value.where == str(room / "card.toml")
        assert remedy in caught.value.remedy


# -- by words -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "first"),
    [
        ("图神经网络", {"ccgc", "gapgc", "ghsc", "reliant"}),
        ("SNN", {"apb", "event_aug", "spaic"}),
        ("2301.01146", {"emo"}),
        ("AAAI", {"ccgc", "llm_drums"}),
        ("ICCV 2023", {"cmt", "emo", "hitea"}),
        ("drug discovery", {"gapgc"}),
        ("药物", {"gapgc"}),
        ("轻量", {"emo", "vgnet"}),
        ("domain shift", {"gapgc"}),
        ("OOD", {"gapgc"}),
        ("spikng netwroks", {"apb", "event_aug", "spaic"}),  # misspelt
        ("clusterings", {"ccgc"}),  # inflected
        ("zhangzjn", {"emo"}),  # owner of the code
        ("Zhizhou Zhang EMO", {"emo"}),
        ("药", {"gapgc"}),  # one character
    ],
)
def test_the_right_papers_come_first(query: str, first: set[str]) -> None:
    papers = found(query)
    # A later room may match as well; those that are known here come before all that do not match by keyword.
    assert papers[0] in first
    assert first <= set(papers)


def test_weak_matches_are_cut_off() -> None:
    assert "proton_dose" not in found("图神经网络")
    assert set(found("ICCV 2023")) == {"cmt", "emo", "hitea"}
    scores = [score for _, score in catalog.search("graph clustering")]
    assert scores[0] == 1
    assert min(scores) >= 0.25


def test_papers_are_found_by_english_words(toy: Path) -> None:
    for query in ("rings", "ring", "hidden layer", "RINGS need a hidden layer!", "toy", "Ada Toy", "disc", "seperates"):
        assert found(query)[0] == "toy", query


def test_papers_are_found_by_chinese_words(toy: Path) -> None:
    for query in ("圆环", "隐藏层", "隐藏层的网络", "圆盘", "线性模型", "二分类"):
        assert found(query)[0] == "toy", query


def test_every_paper_is_found_by_its_title_its_name_its_arxiv_id_and_its_summaries() -> None:
    for card in catalog.cards():
        for query in (
            card.title,
            card.id,
            card.summary.en,
            card.summary.zh,
            card.clause.en,
            *([card.arxiv] * bool(card.arxiv)),
        ):
            assert found(query)[0] == card.id, query


def test_scores_fall_and_lie_between_nothing_and_one(toy: Path) -> None:
    scores = [score for _, score in catalog.search("a hidden layer of the network 网络")]
    assert scores == sorted(scores, reverse=True)
    assert all(0 < score <= 1 for score in scores)
    assert len(catalog.search("network 网络", limit=1)) == 1


def test_what_nobody_wrote_is_not_found(toy: Path) -> None:
    for query in ("", "  ", "?!", "qqqqzzzz", "鑫龘", "the", '"', "* OR"):
        assert found(query) == [], query
    assert found('NEAR(toy rings) title:"ring* -hidden')[0] == "toy", "signs of FTS5's language mean nothing"


def test_the_most_related_papers(tmp_path: Path) -> None:
    """A paper whose card says nearly the same comes first; the paper itself never."""
    twin = CARD.replace('id = "toy"', 'id = "twin"', 1)
    install(tmp_path)
    install(tmp_path, card=twin, package="twin_room", paper="twin")
    with importable(tmp_path):
        related = catalog.related("toy")
        assert related[0][0].id == "twin"
        assert related[0][1] > 0.9
        assert "toy" not in {card.id for card, _ in related}
    assert [card.id for card, _ in catalog.related("apb")][:2] == ["event_aug", "spaic"]


def test_without_fts5_search_says_so_and_show_is_whole(monkeypatch: pytest.MonkeyPatch, toy: Path) -> None:
    class Bare:
        def execute(self, *_: object) -> None:
            raise sqlite3.OperationalError("no such module: fts5")

    monkeypatch.setattr(sqlite3, "connect", lambda *_, **__: Bare())
    with pytest.raises(Problem, match="no such module: fts5"):
        catalog.search("rings")
    assert catalog.related("toy") == []


# -- lightly ------------------------------------------------------------------------------------

HEAVY = ("torch", "torchvision", "timm", "matplotlib", "scipy", "pandas", "sklearn", "numpy", "lightning_fabric")


@pytest.mark.parametrize(
    "act",
    [
        "pass",
        "assert 'toy' in repertory.list_papers()",
        "assert repertory.card('toy').year == 2024",
        "from repertory import catalog; catalog.cards(); catalog.search('ring'); catalog.related('toy')",
        "from repertory.reports.card import show_card; import rich; rich.print(show_card(repertory.card('toy'), 'zh'))",
        "import repertory.cli",
    ],
)
def test_looking_imports_nothing_heavy(toy: Path, act: str) -> None:
    script = f"import sys, repertory\n{act}\nprint()\nprint([m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"


def test_the_public_functions_stay_functions(toy: Path) -> None:
    import repertory.papers

    assert repertory.list_papers()[-1] == "toy"
    assert isinstance(repertory.card("toy"), Card)
    assert repertory.study("toy", scale="smoke").config.model_dump()["epochs"] == 2
    with pytest.raises(Problem, match="toy has no scale 'huge'"):
        repertory.study("toy", scale=cast(Any, "huge"))


# -- recorded results ---------------------------------------------------------------------------


def test_recorded_results_come_by_paper_laptop_first() -> None:
    root = Path(repertory.__file__).parents[2] / "results"
    if not root.is_dir():
        pytest.skip("not a source checkout")
    names = {json.loads(path.read_text())["paper"] for path in catalog.result_files(root)}
    recorded = catalog.recorded()
    assert set(recorded) == names
    for paper, results in recorded.items():
        assert all(result["paper"] == paper for result in results)
        assert "laptop" not in [result["scale"] for result in results][1:]


def test_the_toy_does_not_leak_into_other_tests() -> None:
    assert "toy" not in catalog.packages()
    assert toy_paper.PACKAGE not in sys.modules
