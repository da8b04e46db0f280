"""The contract finds what a paper does not keep; the skeleton, spoilt in one place each, is the paper."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from lightning_fabric import Fabric

from repertory import catalog, cli, contract
from repertory.core.study import Session
from repertory.skeleton import write_skeleton
from tests import toy

CHECKS = {check.name: check for check in contract.checks(slow=True)}


@pytest.fixture
def spoilt(tmp_path: Path) -> Iterator[Callable[[str, str, str], str]]:
    """`spoilt(file, old, new)` is a paper of its own package, with `old` replaced in one of its files."""
    with ExitStack() as stack:

        def write(file: str, old: str, new: str) -> str:
            write_skeleton("spoilt_one", tmp_path, package="spoilt_package")
            site = tmp_path / "spoilt_package" / "src"
            path = site / "spoilt_package" / file
            text = path.read_text(encoding="utf-8")
            assert old in text
            path.write_text(text.replace(old, new), encoding="utf-8")
            toy.register(site, "spoilt_package", "spoilt_one")
            stack.enter_context(toy.importable(site))
            return "spoilt_one"

        yield write
        contract._room.cache_clear()


@pytest.mark.parametrize(
    ("file", "old", "new", "check", "complaint"),
    [
        ("card.toml", 'keywords = ["classification", ', "keywords = [", "the_card_is_complete", "keywords: 2"),
        ("card.toml", '"分类", ', '"sorting", ', "the_card_is_complete", "none is Chinese"),
        ("card.toml", 'extra = ""', 'extra = "audio"', "the_card_is_complete", "none that is called 'audio'"),
        ("card.toml", ", least = 1.0", "", "the_claims_can_be_decided", "`least` is missing"),
        ("card.toml", "least = 1.0", "margin = -1.0", "the_claims_can_be_decided", "needs `assay`"),
        ("settings.py", "seeds=5, epochs=3", "seeds=4, epochs=3", "the_claims_can_be_decided", "4 seeds; verdicts"),
        ("settings.py", '"paper": ', '"papers": ', "the_study_fits_the_card", "scales: paper missing"),
        ("settings.py", "ge=1, le=4096, ", "", "settings_are_documented_and_bounded", "setting hidden: no bounds"),
        ("card.toml", "features=64", "feature=64", "the_usage_snippet_runs", "unexpected keyword argument"),
        ("card.toml", "import torch\n", "import torch, nir\n", "the_usage_snippet_runs", "No module named 'nir'"),
        ("study.py", "if arm == self.method", "if arm != nothing", "the_smoke_run_succeeds", "NameError"),
        ("study.py", 'return {"accuracy"', 'return {"acuracy": 1.0, "accuracy"', "metrics_are_declared", "acuracy"),
        (
            "study.py",
            "        return fit(",
            "        torch.seed()\n        model.head.reset_parameters()\n        return fit(",
            "training_is_deterministic_and_resumes",
            "gives other accuracy",
        ),
        ("study.py", ', figures={"confidence": figure}', "", "the_model_works_elsewhere", "predict draws nothing"),
    ],
)
def test_what_is_spoilt_is_found(
    file: str, old: str, new: str, check: str, complaint: str, spoilt: Callable[[str, str, str], str]
) -> None:
    paper = spoilt(file, old, new)
    with pytest.raises(AssertionError, match=complaint):
        CHECKS[check](paper)


def test_a_card_that_is_not_valid_is_the_only_finding(
    spoilt: Callable[[str, str, str], str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    paper = spoilt("card.toml", 'topic = "theory"', 'topic = "astrology"')
    monkeypatch.setattr(sys, "argv", ["repertory", "check", paper])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 1
    said = capsys.readouterr().out
    assert said.startswith("failed  it_loads: the card is not valid: topic")
    assert len(said.splitlines()) == 1


def test_papers_without_their_extra_are_skipped_with_the_command(spoilt: Callable[[str, str, str], str]) -> None:
    paper = spoilt("card.toml", 'extra = ""', 'extra = "audio"')
    metadata = next(Path(sys.path[0]).glob("*.dist-info/METADATA"))
    with metadata.open("a") as file:
        file.write("Provides-Extra: audio\nRequires-Dist: no-such-distribution; extra == 'audio'\n")
    contract._requirements.cache_clear()
    command = "pip install 'spoilt-package[audio]'"
    assert contract.missing_extra(paper) == command
    (mark, *_) = contract.parametrize(paper).args[1][0].marks
    assert (mark.name, mark.kwargs["reason"]) == ("skip", command)
    (finding,) = contract.check_paper(paper)
    assert command in finding.error


def test_one_mark_for_each_paper_and_check() -> None:
    mark = contract.parametrize("emo", "ccgc")
    assert [param.id for param in mark.args[1]] == [f"{p}-{name}" for p in ("emo", "ccgc") for name in CHECKS]
    slow = [param.values[1].name for param in mark.args[1] if any(m.name == "slow" for m in param.marks)]
    assert slow == 2 * [name for name, check in CHECKS.items() if check.slow]
    assert {values.values[0] for values in contract.parametrize().args[1]} == set(catalog.packages())


@pytest.mark.parametrize("inner", [1, 3])
@pytest.mark.parametrize("steps", [1, 2, 4])
def test_an_interruption_counts_the_steps_of_inner_loops_once(inner: int, steps: int, tmp_path: Path) -> None:
    done = []

    class Nested(toy.ToyStudy):
        def train(self, arm: str, data: Any) -> Any:
            for epoch in self.session.progress(range(5), "epochs"):
                for step in self.session.progress(range(inner), "steps"):
                    done.append((epoch, step))

    session = Session(seed=0, fabric=Fabric(accelerator="cpu", devices=1), data_dir=None, out_dir=tmp_path)
    with contract._interrupted_after(Nested, steps), pytest.raises(KeyboardInterrupt):
        Nested(toy.ToyConfig(), session).train("wide", None)
    assert len(done) == steps
