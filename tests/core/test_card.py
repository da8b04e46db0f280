"""Cards: what is accepted, and how what is not is named."""

from __future__ import annotations

import math
import re
import tomllib
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

import repertory
from repertory import catalog
from repertory.core.card import TOPICS, Card, Compare, Trend, Untested, Value, read_card
from repertory.core.problem import Problem
from tests.toy import CARD


def card_with(tmp_path: Path, old: str, new: str) -> Path:
    assert old in CARD
    path = tmp_path / "card.toml"
    path.write_text(CARD.replace(old, new, 1), encoding="utf-8")
    return path


def complaint(tmp_path: Path, old: str, new: str) -> Problem:
    """What is said of the toy's card with one passage changed."""
    with pytest.raises(Problem) as caught:
        read_card(card_with(tmp_path, old, new))
    assert caught.value.where.endswith("card.toml")
    assert caught.value.remedy
    assert len(str(caught.value).splitlines()) == 3
    return caught.value


def test_a_card_holds_all_that_its_file_says(tmp_path: Path) -> None:
    card = read_card(card_with(tmp_path, "toy", "toy"))
    assert (card.id, card.year, card.topic, card.fidelity) == ("toy", 2024, "theory", "reconstruction")
    assert card.authors == ("Ada Toy", "Bo Example")
    assert card.summary["zh"].startswith("隐藏层")
    assert card.summary["en"] == card.summary.en
    assert [claim.id for claim in card.claim][-1] == "at-scale"
    assert [type(test) for claim in card.claim for test in claim.test] == [
        Compare, Compare, Compare, Value, Trend, Untested,
    ]  # fmt: skip
    (figure,) = card.claim[0].published
    assert (figure.value, figure.std, figure.source) == (97.25, 0.5, "abstract")
    assert card.claim[0].text.zh == "带隐藏层的网络比线性模型更准确。"
    assert card.note[0].kind == "decision"


def test_every_built_in_card_is_valid_and_of_a_known_topic() -> None:
    assert all(card.topic in TOPICS for card in catalog.cards())


def test_every_built_in_card_says_how_it_is_found_in_both_languages() -> None:
    for card in catalog.cards(built_in=True):
        chinese = [word for word in card.keywords if any("\u4e00" <= sign <= "\u9fff" for sign in word)]
        assert 0 < len(chinese) < len(card.keywords), card.id
        assert len(set(card.keywords)) == len(card.keywords), card.id


def test_minutes_are_those_of_the_recorded_result() -> None:
    """Seconds of the scale's number of trials, on two cores; a recording beside other work takes up to four times."""
    for card in catalog.cards(built_in=True):
        for result in catalog.recorded(card.id).get(card.id, [])[:1]:
            seconds: dict[str, list[float]] = {}
            for trial in result["trials"]:
                seconds.setdefault(trial["arm"], []).append(trial["seconds"])
            recorded = sum(np.median(of) for of in seconds.values()) * result["config"]["seeds"] / 2 / 60
            assert recorded / 4 - 1 <= card.minutes <= 2 * recorded + 1, (card.id, recorded)


def test_extras_are_those_of_the_package_and_all_names_those_that_code_uses() -> None:
    root = Path(repertory.__file__).parents[2]
    extras = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    cards = {card.extra for card in catalog.cards(built_in=True)} - {""}
    sources = "".join(path.read_text(encoding="utf-8") for path in (root / "src").rglob("*.py"))
    # The contract asks for pytest.
    used = cards | set(re.findall(r"""require\([^)]*?"(\w+)"\)""", sources)) - {"test"}
    assert used <= set(extras)
    (everything,) = extras["all"]
    assert set(re.findall(r"\[(.*)\]", everything)[0].split(",")) == used
    assert set(extras) - used == {"all", "peers", "test"}


def test_a_card_cannot_be_changed() -> None:
    card = catalog.cards()[0]
    with pytest.raises(ValidationError):
        card.year = 1999  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ('title = "Rings Need a Hidden Layer"\n', "", "title: Field required"),
        ("year = 2024", "year = 1900", "year: Input should be greater than or equal to 1950, got 1900"),
        ('topic = "theory"', 'topic = "alchemy"', "alchemy"),
        ('arxiv = "2401.00001"', 'arxiv = "arXiv:2401.1"', "arxiv"),
        ('id = "toy"', 'id = "Toy-1"', "'Toy-1'"),
        ("authors = [", "authors = []\nwriters = [", "authors"),
        ('fidelity = "reconstruction"', 'fidelity = "roughly"', "roughly"),
        ('fidelity_note = "There is no paper."', "", "fidelity_note: say what is not exact"),
        ('summary.zh = "隐藏层能够', 'summary.fr = "', "summary.zh: Field required"),
        ('usage = "import', 'colour = "red"\nusage = "import', "colour: Extra inputs are not permitted"),
        ('id = "plain-is-better"', 'id = "wide-is-better"', "two claims have the same id"),
        ('source = "abstract"', 'source = "hearsay"', "claim.0.published.0.source"),
        ("std = 0.5", "std = -0.5", "claim.0.published.0.std"),
        ("value = 97.25", "value = nan", "claim.0.published.0.value"),
        ('kind = "compare"', 'kind = "contrast"', "contrast"),
        ('over = "plain"', "over = []", "claim.0.test.0.compare.over"),
        (", equals = 42", "", "state either `equals`"),
        ("equals = 42", "equals = 42, at_least = 3", "state either `equals`"),
        ("equals = 42", "at_least = 3, at_most = 2", "`at_least` is above `at_most`"),
        ("equals = 42", "at_least = 3, tolerance = 1", "`tolerance` goes with `equals`"),
        ("tolerance = 1e-6", "tolerance = -1e-6", "tolerance"),
        ("x = [1, 4, 8]", "x = [1, 4]", "claim.3.test.1.trend.x"),
        ("x = [1, 4, 8]", "x = [4, 4, 8]", "three different values are needed"),
        ("x = [1, 4, 8]", "x = [0, 4, 8], log = true", "positive ones with `log`, got [0.0, 4.0, 8.0]"),
        ('"parameters_{x}"', '"parameters"', "claim.3.test.1.trend.metric"),
        (', zh = "需要十亿个圆环"', "", "claim.4.test.0.untested.reason.zh: Field required"),
        ('keywords = ["rings", "binary classification", "MLP", "圆环", "二分类"]\n', "", "keywords: Field required"),
        ('["rings", "binary classification", "MLP", "圆环", "二分类"]', "[]", "keywords"),
        ("minutes = 0.1\n", "", "minutes: Field required"),
        ("minutes = 0.1", "minutes = 0", "minutes: Input should be greater than 0"),
        ('clause.zh = "用隐藏层分开直线分不开的点"\n', "", "clause.zh: Field required"),
        ('clause.en = "', 'clause.en = "' + 72 * "x", "clause.en: String should have at most 72 characters"),
    ],
)  # fmt: skip
def test_a_wrong_field_is_named_with_its_value(tmp_path: Path, old: str, new: str, named: str) -> None:
    assert named in complaint(tmp_path, old, new).what


def test_a_card_without_claims_is_refused(tmp_path: Path) -> None:
    start, end = CARD.index("[[claim]]"), CARD.index("[[note]]")
    assert "claim: Field required" in complaint(tmp_path, CARD[start:end], "").what


def test_several_faults_are_counted(tmp_path: Path) -> None:
    said = complaint(tmp_path, 'year = 2024\nvenue = "Journal of Toys"', "year = 0").what
    assert "(and 1 more)" in said


def test_broken_toml_is_refused_with_its_line(tmp_path: Path) -> None:
    problem = complaint(tmp_path, 'title = "', "title = ")
    assert "not valid TOML" in problem.what
    assert "line 3" in problem.what


def test_a_missing_card_and_one_in_another_encoding_are_problems(tmp_path: Path) -> None:
    with pytest.raises(Problem, match="no readable card"):
        read_card(tmp_path / "card.toml")
    (tmp_path / "card.toml").write_bytes(CARD.encode("gb18030"))
    with pytest.raises(Problem, match="card") as caught:
        read_card(tmp_path / "card.toml")
    assert "UTF-8" in str(caught.value)


def test_one_test_may_stand_without_a_list() -> None:
    fields = catalog.cards()[0].model_dump()
    single = {"kind": "value", "metric": "m", "at_least": 1}
    fields["claim"] = [{"id": "c", "en": "A claim.", "zh": "主张。", "test": single}]
    assert Card.model_validate(fields).claim[0].test == (Value(kind="value", metric="m", at_least=1),)


def test_regions_of_values() -> None:
    assert Value(kind="value", metric="m", equals=5, tolerance=0.5).region == (4.5, 5.5)
    assert Value(kind="value", metric="m", equals=0).region == (0, 0)
    assert Value(kind="value", metric="m", at_least=1).region == (1, math.inf)
    assert Value(kind="value", metric="m", at_most=1).region == (-math.inf, 1)
    assert Value(kind="value", metric="m", at_least=1, at_most=2).region == (1, 2)


def test_the_metrics_of_a_trend_and_the_controls_of_a_comparison() -> None:
    trend = Trend(kind="trend", metric="memory_{x}_mb", x=(1, 2.5, 40), at_most=1)
    assert trend.metrics() == ["memory_1_mb", "memory_2.5_mb", "memory_40_mb"]
    assert Compare(kind="compare", metric="m", arm="a", over="b").controls == ("b",)
    assert Compare(kind="compare", metric="m", arm="a", over=("b", "c")).controls == ("b", "c")


def test_what_tests_look_at() -> None:
    compare = Compare(kind="compare", metric="after", arm="a", over=("b", "c"), over_metric="before")
    assert compare.measurements() == [("a", "after"), ("b", "before"), ("c", "before")]
    assert Compare(kind="compare", metric="m", arm="a", over="b").measurements() == [("a", "m"), ("b", "m")]
    assert Value(kind="value", metric="m", at_least=1).measurements() == [("", "m")]
    trend = Trend(kind="trend", metric="m_{x}", x=(1, 2, 3), arm="a", at_most=1)
    assert trend.measurements() == [("a", "m_1"), ("a", "m_2"), ("a", "m_3")]
