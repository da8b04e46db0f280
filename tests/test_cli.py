"""The command line: what it prints, what it refuses, and how it ends."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
import urllib.request
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import typer
from huggingface_hub import ModelCard
from PIL import Image

from repertory import __version__, catalog, cli
from repertory.core.printing import print_warning
from repertory.core.study import Prediction
from repertory.execution import provenance
from repertory.execution.experiment import Experiment
from repertory.verdicts import history
from tests.toy import CARD, importable, install


class Spoken:
    """What a command said, and its exit status."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Run a command in this process, in an empty working directory."""
    monkeypatch.chdir(tmp_path)

    def run(*words: object) -> Spoken:
        monkeypatch.setattr(sys, "argv", ["repertory", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        said = capsys.readouterr()
        code = ended.value.code
        return Spoken(code if isinstance(code, int) else 0 if code is None else 1, said.out, said.err)

    return run


def test_list_show_and_search(say) -> None:
    listed = say("list")
    assert all(paper in listed.out for paper in catalog.packages())
    assert {row["id"] for row in json.loads(say("list", "--json").out)} == set(catalog.packages())
    for lang, heading in (("en", "Claims"), ("zh", "论文主张")):
        shown = say("show", "emo", "--lang", lang)
        assert heading in shown.out
        assert "78.4" in shown.out
    assert "ccgc" in say("search", "图聚类").out.splitlines()[0]
    assert "proton_dose" in say("search", "radiotherapy", "range").out.splitlines()[0]
    shown = say("show", "emo").out
    for words in ("repertory run emo --scale desk", "both (the method)", "], n = 5"):
        assert words in shown, words
    said = json.loads(say("show", "emo", "--json").out)
    assert said["id"] == "emo"
    stored = catalog.recorded("emo")["emo"]
    assert [result["verdicts"] for result in said["recorded"]] == [result["verdicts"] for result in stored]
    found = json.loads(say("search", "图聚类", "--json").out)
    assert (found[0]["id"], found[0]["score"]) == ("ccgc", 1.0)
    assert json.loads(say("search", "zzqxv", "--json").out) == []


def test_site_writes_the_gallery_and_refuses_folders_of_others(say, tmp_path: Path) -> None:
    said = say("site", "public", "--url", "https://example.org")
    assert said.code == 0
    assert "public/index.html" in said.out
    text = (tmp_path / "public" / "zh" / "index.html").read_text(encoding="utf-8")
    assert 'href="https://example.org/en/index.html"' in text
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("x", encoding="utf-8")
    for words, complaint in ((("site", "mine"), "not empty"), (("site", "new", "--runs", "nowhere"), "no such folder")):
        refused = say(*words)
        assert refused.code == 2
        assert complaint in refused.err


def test_serve_builds_and_listens_until_it_is_stopped(say, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("REPERTORY_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(catalog, "cards", lambda built_in=False: [catalog.card("ceco")])

    def stop(server: ThreadingHTTPServer) -> None:
        with urllib.request.urlopen(f"http://127.0.0.1:{server.server_port}/en/papers/ceco.html") as answer:
            assert b"<h1" in answer.read()
        raise KeyboardInterrupt

    opened = []
    monkeypatch.setattr("webbrowser.open", opened.append)

    def serve_then_stop(server: ThreadingHTTPServer) -> None:
        thread = threading.Thread(target=server_forever, args=(server,))
        thread.start()
        try:
            stop(server)
        finally:
            server.shutdown()
            thread.join()

    server_forever = ThreadingHTTPServer.serve_forever
    monkeypatch.setattr(ThreadingHTTPServer, "serve_forever", serve_then_stop)
    said = say("serve")
    assert said.code == 130
    assert "stopped" in said.err
    assert opened == [said.out.partition(" (Ctrl-C")[0].splitlines()[-1]]


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("run", "emoo"), "did you mean emo"),
        (("run",), "name one paper"),
        (("run", "ccgc", "--set", "lr=-1"), "bad setting lr"),
        (("run", "ccgc", "--set", "lr"), "not a setting"),
        (("run", "ccgc", "--arms", "nobody"), "no arm 'nobody'"),
        (("run", "emo", "--data", "/nowhere"), "no such file or folder"),
        (("run", "emo", "--scale", "huge"), "no scale 'huge'"),
        (("run", "emo", "--scale", "lptop"), "did you mean laptop"),
        (("run", "emo", "--set", "epoch=3"), "did you mean epochs"),
        (("run", "emo", "--set", "optimizer=admw"), "did you mean adamw"),
        (("run", "apb", "--set", "sensor=big"), "bad setting sensor"),
        (("train", "emo", "--arm", "bth", "--out", "m"), "did you mean both"),
        (("settings", "emo", "--scale", "desc"), "did you mean desk"),
        (("sample", "emo", "s", "--scale", "desc"), "did you mean desk"),
        (("evaluate", "nowhere"), "not a model directory"),
        (("predict", "nowhere", "."), "not a model directory"),
        (("show", "emo", "--lang", "fr"), "no language 'fr'"),
        (("search", "zzqxv"), "nothing in the repertory"),
        (("convert", "ccgc", "absent.pth", "out"), "absent.pth"),
        (("new", "Bad Name"), "not an identifier"),
        (("train", "emoo", "--out", "m"), "did you mean emo"),
        (("run", "ccgc", "--until-decided", "--seeds", "5"), "one of them; --max-seeds limits"),
        (("run", "ccgc", "--until-decided", "--max-seeds", "10"), "choose from 5, 8, 12, 18, 30"),
        (("run", "ccgc", "--until-decided", "--budget", "soon"), "not a time: 'soon'"),
        (("run", "ccgc", "--until-decided", "--budget", "20"), "write 90s, 20m or 1h30m"),
        (("run", "ccgc", "--until-decided", "--budget", "0m"), "not a time: '0m'"),
        (("run", "ccgc", "--until-decided", "--dry-run"), "decide nothing"),
        (("run", "ccgc", "--budget", "20m"), "give --until-decided too"),
        (("record", "ccgc", "--max-seeds", "7"), "no look at 7 seeds"),
        (("record", "ccgc", "--scale", "desc"), "did you mean desk"),
        (("record", "--scale", "desc"), "did you mean desk"),
        (("run", "ccgc", "--vary", "spilt"), "bad setting vary"),
    ],
)
def test_a_problem_is_three_lines_and_exit_status_2(say, tmp_path: Path, words: tuple, complaint: str) -> None:
    said = say(*words)
    assert said.code == 2
    what, where, remedy = said.err.strip().splitlines()
    assert complaint in said.err
    assert where.startswith("where: ")
    assert remedy.startswith("remedy: ")
    assert "Traceback" not in said.err
    assert not list(tmp_path.iterdir()), "nothing half-written"
    assert what


REFUSED = """
import sys
from repertory import catalog, cli
from repertory.core.problem import Problem

refused = [
    ["run", "emo", "--scale", "huge"], ["run", "emo", "--set", "lr=-1"], ["run", "emo", "--arms", "nobody"],
    ["run", "emo", "--data", "nowhere"], ["train", "emo", "--arm", "nobody", "--out", "m"],
    ["predict", "nowhere", "."], ["predict", "nowhere", "nothing"], ["evaluate", "nowhere"],
    ["sample", "emo", "s", "--scale", "huge"], ["convert", "emo", "absent.pth", "m"],
]
for words in refused:
    sys.argv = ["repertory", *words]
    try:
        cli.main()
    except SystemExit as ended:
        assert ended.code == 2, words
for paper in catalog.packages():
    assert catalog.design(paper).paper == paper
    sys.argv = ["repertory", "settings", paper]
    try:
        cli.main()
    except SystemExit as ended:
        assert not ended.code, paper
heavy = {"torch", "timm", "lightning_fabric", "matplotlib", "pandas", "sklearn", "scipy", "numpy"} & set(sys.modules)
assert not heavy, heavy
"""


def test_what_can_be_refused_early_is_refused_without_torch(tmp_path: Path) -> None:
    """In a process of its own: here torch is imported already."""
    done = subprocess.run([sys.executable, "-c", REFUSED], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not list(tmp_path.iterdir())


def test_without_words_it_helps_and_every_command_shows_an_example(say) -> None:
    helped = say()
    assert helped.code == 0
    assert "Usage" in helped.out
    assert say("--version").out.strip() == f"repertory {__version__}"
    commands = typer.main.get_command(cli.app).commands  # pyright: ignore[reportAttributeAccessIssue]
    for name, command in commands.items():
        assert f"repertory {name}" in (command.epilog or ""), f"no example in the help of {name}"
        assert f"repertory {name}" in say(name, "--help").out


def test_settings_are_listed_by_group(say) -> None:
    listed = say("settings", "emo").out
    groups = ["model", "training", "evaluation", "prediction", "data", "sample", "run"]
    assert [line for line in listed.splitlines() if line in groups] == groups
    machine = json.loads(say("settings", "emo", "--json").out)
    (epochs,) = [row for row in machine["settings"] if row["name"] == "epochs"]
    assert epochs["values"] == {"smoke": 1, "laptop": 40, "desk": 12, "paper": 300}
    assert epochs["group"] == "training"


def test_debug_shows_the_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["repertory", "--debug", "show", "emoo"])
    with pytest.raises(cli.Problem):
        cli.main()


def test_run_prints_the_report_and_writes_it(say, toy_net: str, tmp_path: Path) -> None:
    said = say("run", toy_net, "--scale", "smoke", "--seeds", "2")
    assert said.code == 0
    assert "toy_net: digits, smoke, 2 seeds" in said.out
    assert said.out.splitlines()[-1] == "● 0 holds · ◐ 1 undecided · ○ 0 fails · – 0 not tested"
    assert "toy_net seed 1" in said.out, "progress is told where no bar can be drawn"
    assert (tmp_path / "runs" / toy_net / "smoke" / "report.html").exists()
    report = tmp_path / "runs" / toy_net / "smoke" / "report.html"
    assert 'lang="en"' in report.read_text(encoding="utf-8")
    told = say("run", toy_net, "--scale", "smoke", "--seeds", "2", "--verbose", "--lang", "zh").out
    assert "各随机种子的均值 ± 标准差" in told
    assert told.splitlines()[-1] == "● 0 成立 · ◐ 1 未定 · ○ 0 不成立 · – 0 未检验"
    assert 'lang="zh-Hans"' in report.read_text(encoding="utf-8")
    machine = json.loads(say("run", toy_net, "--scale", "smoke", "--seeds", "2", "--json").out)
    assert machine["paper"] == toy_net
    assert len(machine["trials"]) == 4
    refused = say("run", toy_net, "--scale", "smoke", "--set", "epochs=3")
    assert refused.code == 2
    assert "epochs: 1 -> 3" in refused.err


def test_mixed_commits_are_told(say, toy_net: str, monkeypatch: pytest.MonkeyPatch) -> None:
    command = ("run", toy_net, "--scale", "smoke", "--arms", "baseline", "--seeds")
    monkeypatch.setattr(provenance, "commit", lambda: "aaa")
    assert "computed by" not in say(*command, 1).out
    monkeypatch.setattr(provenance, "commit", lambda: "bbb")
    assert "computed by aaa (1 trial), bbb (1 trial); this is bbb; --fresh" in say(*command, 2).out
    now = provenance.versions()
    monkeypatch.setattr(provenance, "versions", lambda: {**now, "torch": "9.9"})
    assert f"computed by aaa with torch {now['torch']} (1 trial), bbb" in say(*command, 2).out


def test_a_run_until_decided_ends_with_what_is_open_and_why(say, toy: Path, tmp_path: Path) -> None:
    command = ("run", "toy", "--scale", "smoke", "--until-decided", "--max-seeds", 5, "--budget", "1h30m")
    said = say(*command)
    assert said.code == 0
    assert "look 1: plain, wide to 5 seeds" in said.out
    (head,) = [line for line in said.out.splitlines() if "testable claims are decided, after" in line]
    after = said.out[said.out.index(head) :].splitlines()
    assert "  size: holds" in after
    assert "  same-classes: open; 5 seeds of wide, plain, the last look, do not decide it" in after
    assert after[-2].startswith("report: ")
    machine = json.loads(say(*command, "--json").out)
    assert (machine["looks"], machine["scheduled"]) == ([5], True)


def test_a_recording_is_written_after_every_look_and_goes_on_after_an_interruption(
    say, toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli, "_checkout", lambda: tmp_path)
    monkeypatch.setattr(cli, "table", lambda: None)
    monkeypatch.setattr(provenance, "commit", lambda: "aaa")
    monkeypatch.setattr("repertory.execution.experiment.commit", lambda: "bbb")
    study = catalog.load("toy")
    command = ("record", "toy", "--scale", "smoke", "--max-seeds", 8)
    target, trials = tmp_path / "results/toy.smoke.json", tmp_path / "runs/recorded/toy.smoke/trials"
    train = study.train

    def cut(self, arm, data):
        if (arm, self.session.seed) == ("wide", 6):
            raise KeyboardInterrupt
        return train(self, arm, data)

    def written() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in trials.glob("*/result.json")}

    with monkeypatch.context() as patch:
        patch.setattr(study, "train", cut)
        said = say(*command)
    assert said.code == 130
    assert "the same command goes on" in said.err
    first, kept = json.loads(target.read_text()), written()
    assert first["looks"] == [5]
    assert len(first["trials"]) == 10

    assert say(*command).code == 0
    second = json.loads(target.read_text())
    assert second["looks"] == [5, 8]
    assert len(second["trials"]) == 16
    assert {path: written()[path] for path in kept} == kept, "finished trials are not repeated"
    assert second["curves"].keys() == {"plain", "wide"}
    (noted,) = history.read(tmp_path / "results")
    assert (noted.paper, noted.scale, noted.seeds, noted.date) == ("toy", "smoke", 8, second["date"])
    assert noted.verdicts == {verdict["claim"]: verdict["verdict"] for verdict in second["verdicts"]}

    experiment = Experiment("toy", "smoke", out=trials.parent)
    assert not experiment.reusable(), "it has ended, and the code has changed: it starts over"
    monkeypatch.setattr("repertory.execution.experiment.commit", lambda: "aaa")
    assert experiment.reusable(), "this very code has computed the trials"
    assert not Experiment("toy", "smoke", out=trials.parent, settings={"lr": 0.1}).reusable()


def test_what_the_method_says_about_its_sample_is_kept(
    say, toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli, "_checkout", lambda: tmp_path)
    (tmp_path / "results").mkdir()
    assert say("showcase", "toy").code == 0
    kept = json.loads((tmp_path / "results/pictures/toy.json").read_text())
    assert (kept["data"], kept["rows"], len(kept["table"])) == ("rings", 64, 5)
    assert kept["table"][0].keys() == {"x", "y", "ring"}
    (name,) = kept["pictures"]
    assert Image.open(tmp_path / "results/pictures" / name).format == "WEBP"


def test_a_paper_is_exported_as_a_card_of_the_hub(say, tmp_path: Path) -> None:
    assert say("export", "emo", "--hf", "--out", "emo_card").code == 0
    told: Any = ModelCard.load(tmp_path / "emo_card" / "README.md")
    assert told.data.model_name == "repertory-emo"
    assert "arxiv:2301.01146" in told.data.tags
    (laptop,) = (result for result in catalog.recorded("emo")["emo"] if result["scale"] == "laptop")
    top1 = [trial["metrics"]["top1"] for trial in laptop["trials"] if trial["arm"] == catalog.design("emo").method]
    places = {(one.metric_type, one.dataset_name): one.metric_value for one in told.data.eval_results}
    assert places["top1", "digits, laptop"] == pytest.approx(sum(top1) / len(top1), abs=1e-4)
    assert all(claim.en in told.text for claim in catalog.card("emo").claim)
    assert json.loads((tmp_path / "emo_card" / "laptop.json").read_text()) == laptop
    assert say("export", "emo", "--hf", "--out", "emo_card").code == 2
    assert "did you mean emo" in say("export", "emmo", "--hf").err


def test_a_run_with_failed_trials_ends_with_status_1(say, toy_net: str) -> None:
    said = say("run", toy_net, "--scale", "smoke", "--set", "lr=1e30", "--set", "optimizer=sgd")
    assert said.code == 1
    assert "failed: toy_net seed 0" in said.out


def test_train_evaluate_predict_sample(say, toy_net: str, tmp_path: Path) -> None:
    assert say("sample", toy_net, "data").code == 0
    assert (tmp_path / "data" / "train.csv").exists()
    assert say("sample", toy_net, "data").code == 2
    trained = say("train", toy_net, "--data", "data", "--scale", "smoke", "--out", "model")
    assert trained.code == 0
    assert "accuracy" in trained.out
    assert trained.out.startswith(f"{toy_net}, arm {toy_net} on data: train ")
    assert trained.err.splitlines()[0] == f"loading {toy_net} ..."
    metrics = json.loads(say("evaluate", "model", "--data", "data", "--json").out)
    assert metrics == json.loads((tmp_path / "model" / "metrics.json").read_text())
    before = {path.name for path in tmp_path.iterdir()}
    assert "probability" in say("predict", "model", "data").out
    assert {path.name for path in tmp_path.iterdir()} == before, "nothing is written without --out"
    absent = say("predict", "model", "photo.jpg")
    assert (absent.code, absent.err.splitlines()[:2]) == (2, ["no such file or folder", "where: photo.jpg"])
    said = say("predict", "model", "data", "--out", "answers")
    assert "probability" in said.out
    assert (tmp_path / "answers" / "table.csv").read_text().startswith("label,probability")
    again = say("predict", "model", "data", "--out", "answers")
    assert (again.code, "no earlier answer is replaced" in again.err) == (2, True)
    told: Any = ModelCard.load(tmp_path / "model" / "README.md")
    card = catalog.card(toy_net)
    assert card.title in told.text
    assert f"arm `{toy_net}`" in told.text
    (result,) = [r for r in told.data.eval_results or [] if r.metric_type == "accuracy"]
    assert result.metric_value == pytest.approx(metrics["accuracy"], abs=1e-4)
    assert (result.dataset_name, told.data.license) == ("data", "apache-2.0")


def test_a_warning_is_one_line_without_a_path_of_the_source(capsys: pytest.CaptureFixture[str]) -> None:
    print_warning(UserWarning("two\nlines"), UserWarning, "/src/some.py", 7)
    assert capsys.readouterr().err == "warning: two lines\n"


def test_own_images_train_the_smallest_published_network_after_a_summary(say, tmp_path: Path) -> None:
    from repertory.data.images import write_digits

    write_digits(tmp_path / "digits", train=3, val=1)
    shutil.copytree(tmp_path / "digits" / "train", tmp_path / "mine")
    trained = say(
        "train", "emo", "--data", "mine", "--set", "epochs=1", "--set", "image_size=32", "--set", "lr=0.004",
        "--accelerator", "cpu", "--out", "model",
    )  # fmt: skip
    assert trained.code == 0, trained.err
    assert trained.out.startswith(
        "emo, arm both (emo_1m) on mine: train 20, test 10; 10 classes; 1 epochs; 1.19 M parameters; 32 x 32 pixels; "
    )
    assert "a fifth of each class is held out, 20 images to train on and 10 to test on (seed 0)" in trained.err
    config = json.loads((tmp_path / "model" / "repertory.json").read_text())["config"]
    assert {name: config[name] for name in ("arch", "batch_size", "lr", "epochs", "crop_scale")} == {
        "arch": "emo_1m", "batch_size": 16, "lr": 0.004, "epochs": 1, "crop_scale": 0.08,
    }  # fmt: skip
    assert say("evaluate", "model", "--data", "mine").code == 0
    assert "this recipe is for training" in say("run", "emo", "--data", "mine", "--scale", "own").err


def test_bench_wants_a_checkout_with_a_benchmark(say, toy_net: str) -> None:
    said = say("bench", toy_net)
    assert said.code == 2
    assert "no benchmark" in said.err


def test_new_writes_a_paper_that_is_refused_the_second_time(say, tmp_path: Path) -> None:
    (tmp_path / "src" / "repertory" / "papers").mkdir(parents=True)
    assert say("new", "my_paper", "--into", tmp_path).code == 0
    assert (tmp_path / "src/repertory/papers/my_paper/card.toml").exists()
    assert (tmp_path / "tests/papers/test_my_paper.py").exists()
    assert "is there already" in say("new", "my_paper", "--into", tmp_path).err


def test_readme_pages_and_picture_are_up_to_date(say) -> None:
    """Generated by `repertory table` from cards, studies and recorded results."""
    said = say("table", "--check")
    assert said.code == 0, said.err


def test_table_writes_what_is_stale_and_removes_pages_of_papers_that_are_gone(
    say, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    root = cli._checkout()
    shutil.copytree(root / "docs", tmp_path / "docs")
    shutil.copy(root / "README.md", tmp_path)
    (tmp_path / "docs/papers/gone.md").write_text((tmp_path / "docs/papers/emo.md").read_text())
    (tmp_path / "docs/papers/emo.md").write_text("changed by hand")
    (tmp_path / "docs/claim.svg").unlink()
    monkeypatch.setattr(cli, "_checkout", lambda: tmp_path)
    checked = say("table", "--check")
    assert checked.code == 2
    assert "out of date: docs/claim.svg, docs/papers/emo.md, docs/papers/gone.md" in checked.err
    said = say("table")
    did = ["removed docs/papers/gone.md", "wrote docs/claim.svg", "wrote docs/papers/emo.md"]
    assert sorted(said.out.splitlines()) == did
    assert (tmp_path / "docs/papers/emo.md").read_text() == (root / "docs/papers/emo.md").read_text()
    assert say("table", "--check").code == 0


def test_a_broken_package_costs_one_yellow_line(say, tmp_path: Path) -> None:
    install(tmp_path / "site", card=CARD.replace("year = 2024", 'year = "soon"'))
    with importable(tmp_path / "site"):
        for words in (("list",), ("search", "SNN"), ("show", "emo"), ("list", "--json")):
            said = say(*words)
            assert said.code == 0
            (line,) = said.err.splitlines()
            assert line.startswith("toy-room: the card is not valid: year")
            assert "emo" in said.out or "apb" in said.out
        assert say("show", "toy").code == 2
    assert say("list").err == ""


def test_a_mistyped_metric_on_a_card_is_refused_at_once(say, tmp_path: Path) -> None:
    typo = CARD.replace('"compare", metric = "accuracy"', '"compare", metric = "acuracy"', 1)
    install(tmp_path / "site", card=typo)
    with importable(tmp_path / "site"):
        for words in (("run", "toy", "--scale", "smoke"), ("train", "toy", "--out", "model")):
            said = say(*words)
            assert said.code == 2
            assert "claim 'wide-is-better' tests the metric 'acuracy'" in said.err
            assert "did you mean accuracy" in said.err


@pytest.mark.parametrize(("words", "spelt"), [
    ([], []),
    (["run", "emo", "--ray"], ["run", "emo", "--ray", "local"]),
    (["run", "--ray", "emo"], ["run", "--ray", "local", "emo"]),
    (["run", "emo", "--ray", "ray://head:10001"], ["run", "emo", "--ray", "ray://head:10001"]),
    (["run", "emo", "--ray", "auto"], ["run", "emo", "--ray", "auto"]),
])  # fmt: skip
def test_ray_may_stand_without_an_address(words: list[str], spelt: list[str]) -> None:
    assert cli._with_ray_address(words) == spelt


def test_a_prediction_saves_files_and_folders(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    for name in ("model/config.json", "results.json"):
        (tmp_path / name).write_text(name)
    found = Prediction(files={"adapted": tmp_path / "model", "boxes.json": tmp_path / "results.json"})
    for _ in range(2):  # a second answer replaces the first
        cli._save_prediction(found, tmp_path / "out")
    assert (tmp_path / "out" / "adapted" / "config.json").read_text() == "model/config.json"
    assert (tmp_path / "out" / "boxes.json").read_text() == "results.json"
