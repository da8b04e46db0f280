"""The command line: parse, call, print."""

from __future__ import annotations

import itertools
import json
import math
import shutil
import subprocess
import sys
import traceback
import warnings
from collections.abc import Iterable
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from repertory import __version__, catalog
from repertory.core import checkpoint
from repertory.core.allocator import keep_memory
from repertory.core.files import (
    cache_dir,
    check_output,
    json_text,
    replace_folder,
    scratch_folder,
    write_bytes,
    write_text,
)
from repertory.core.printing import console, print_json, print_problem, print_warning, set_streams, visible
from repertory.core.problem import Problem, is_system_fault, system_problem
from repertory.core.settings import OWN, changed, check_arms, own_config, real_data, saved_config, study_config
from repertory.interrupts import interruptible

if TYPE_CHECKING:
    from repertory.core.study import Prediction
    from repertory.execution.hardware import Hardware
    from repertory.reports.html import Report
    from repertory.reports.site.build import Built
    from repertory.verdicts.results import Result


def examples(*commands: str) -> str:
    """The end of a command's --help."""
    return "\n\n".join(["Examples:", *(f"repertory {command}" for command in commands)])


app = typer.Typer(
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="Published deep-learning methods, runnable; their claims, executable.",
    epilog=examples("list", "show emo", "run emo", "train emo --data my_images/ --out my_model/"),
)
out = console()
err = console(stderr=True)
_debug = False


def main() -> None:
    """Entry point of the `repertory` command: a Problem becomes three lines and exit status 2."""
    set_streams()
    warnings.showwarning = print_warning
    sys.excepthook = _print_traceback
    try:
        keep_memory()
        app(args=_with_ray_address(sys.argv[1:]) or ["--help"])
    except (Problem, OSError) as error:
        if _debug or (isinstance(error, OSError) and not is_system_fault(error)):
            raise
        print_problem(err, system_problem(error) if isinstance(error, OSError) else error)
        sys.exit(2)


def _print_traceback(*error: Any) -> None:
    print(visible("".join(traceback.format_exception(*error))), file=sys.stderr, end="")


def _with_ray_address(words: list[str]) -> list[str]:
    """`--ray` may stand without an address, which an option of click cannot: "local" is put in then."""
    spelt = []
    for word, following in zip_longest(words, words[1:], fillvalue=""):
        spelt.append(word)
        if word == "--ray" and not (":" in following or following in ("auto", "local")):
            spelt.append("local")
    return spelt


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"repertory {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", help="print the version", callback=_print_version, is_eager=True)
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="show the traceback of a problem")] = False,
) -> None:
    global _debug
    _debug = debug


# -- arguments that several commands share ------------------------------------------------------


def _complete_paper(incomplete: str) -> list[str]:
    return [paper for paper in catalog.packages() if paper.startswith(incomplete)]


Paper = Annotated[str, typer.Argument(help="identifier, as `repertory list` shows it", autocompletion=_complete_paper)]
Scale = Annotated[str, typer.Option(help="smoke (seconds) | laptop (minutes) | desk (an hour, real data) | paper")]
Data = Annotated[Path | None, typer.Option(help="your data; default: the sample")]
Settings = Annotated[list[str] | None, typer.Option("--set", metavar="FIELD=VALUE", help="change a setting")]
Lang = Annotated[str, typer.Option(help="en | zh")]
Json = Annotated[bool, typer.Option("--json", help="machine-readable output")]
MaxSeeds = Annotated[int | None, typer.Option(metavar="N", help="last look of --until-decided: 5 | 8 | 12 | 18 | 30")]
Budget = Annotated[str, typer.Option(metavar="TIME", help="computing time of --until-decided: 90s, 20m, 1h30m")]
Accelerator = Annotated[str, typer.Option(help="auto | cpu | cuda | mps")]
Devices = Annotated[int, typer.Option(min=1, help="processes per node")]
Nodes = Annotated[int, typer.Option("--num-nodes", min=1)]
Strategy = Annotated[str, typer.Option(help="auto | ddp | fsdp | ... (Lightning Fabric)")]
Precision = Annotated[str, typer.Option(help="32-true | bf16-mixed | 16-mixed")]


def _settings(pairs: list[str] | None) -> dict[str, Any]:
    changes: dict[str, Any] = {}
    for pair in pairs or []:
        name, equals, value = pair.partition("=")
        if not equals:
            raise Problem(f"not a setting: {pair!r}", "--set", "write --set field=value")
        try:
            changes[name] = json.loads(value)
        except json.JSONDecodeError:
            changes[name] = value
    return changes


def _until(wanted: bool, seeds: int | None, max_seeds: int | None, budget: str, dry_run: bool) -> dict[str, Any]:
    """Keyword arguments of `Experiment.run` for these options.

    Raises:
        Problem: options that do not go together, no look at this number of seeds, or not a time.
    """
    limits = {"--max-seeds": max_seeds is not None, "--budget": bool(budget)}
    if not wanted:
        if given := next((flag for flag, there in limits.items() if there), ""):
            raise Problem("this limits a run until decided", given, "give --until-decided too")
        return {}
    from repertory.execution.options import check_options, seconds_of
    from repertory.verdicts.sequential import LOOKS

    last, seconds = LOOKS[-1] if max_seeds is None else max_seeds, seconds_of(budget) if budget else math.inf
    check_options(seeds, last, seconds, dry_run)
    return {"until_decided": True, "max_seeds": last, "budget": seconds}


def _lang(lang: str) -> str:
    if lang not in ("en", "zh"):
        raise Problem(f"no language {lang!r}", "--lang", "choose en or zh")
    return lang


def _hardware(accelerator: str, devices: int, num_nodes: int, strategy: str, precision: str) -> Hardware:
    from repertory.execution.hardware import Hardware

    return Hardware(accelerator, devices, num_nodes, strategy, precision)


GOES_ON = "interrupted; nothing is lost: the same command goes on from here"


def _check(
    paper: str, scale: str, settings: dict[str, Any], data: Path | None = None, arms: Iterable[str] = (), flag: str = ""
) -> None:
    """Refuse a bad scale, setting, arm or path before torch is imported, which takes seconds; then say so.

    Raises:
        Problem: what is wrong; names the closest known names.
    """
    design = catalog.design(paper)
    config = own_config(design, settings) if scale == OWN else study_config(design, scale, settings)
    check_arms(design, arms, flag)
    if data is None and config.real:
        real_data(config.real)
    if data is not None and not data.exists():
        remedy = f"`repertory sample {paper} some_dir/` writes an example of the layout that {paper} expects"
        raise Problem("no such file or folder", data, remedy)
    _say_loading(paper)


def _check_model(model: Path, settings: dict[str, Any] | None = None) -> None:
    """Refuse what is not a model directory, or a bad setting of its paper, before torch is imported; then say so."""
    origin = checkpoint.about(model)
    paper = str(origin.get("paper", ""))
    design = catalog.design(paper)
    changed(design, saved_config(design, origin.get("config", {}), model), settings)
    _say_loading(paper)


def _say_loading(paper: str) -> None:
    err.print(f"loading {paper} ...", style="dim", highlight=False)


# -- looking ------------------------------------------------------------------------------------


@app.command("list", epilog=examples("list", "list --lang zh", "list --json"))
def list_(lang: Lang = "en", as_json: Json = False) -> None:
    """All papers, by topic."""
    _lang(lang)
    cards = catalog.cards()
    _warn_of_broken_packages()
    if as_json:
        print_json([{"id": c.id, "topic": c.topic, "year": c.year, "title": c.title} for c in cards])
        return
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0))
    heads = {"en": ("paper", "topic", "year", "claims", "what it is"), "zh": ("论文", "领域", "年份", "主张", "简介")}
    for position, column in enumerate(heads[lang]):
        table.add_column(column, overflow="fold", style="" if position else "bold")
    for card in cards:
        table.add_row(card.id, card.topic, str(card.year), str(len(card.claim)), card.clause[lang])
    out.print(table)


def _warn_of_broken_packages() -> None:
    """One line for each package of somebody else that brings a paper which cannot be shown."""
    for distribution, problem in catalog.broken():
        what = " ".join(problem.what.split())
        line = f"{distribution}: {what} ({problem.where}); {problem.remedy}"
        err.print(line, style="yellow", markup=False, highlight=False, soft_wrap=True)


@app.command(epilog=examples("show emo", "show emo --lang zh"))
def show(paper: Paper, lang: Lang = "en", as_json: Json = False) -> None:
    """What a paper says and claims, what was measured here, and how to use it."""
    card = catalog.card(paper)
    _lang(lang)
    _warn_of_broken_packages()
    if as_json:
        kept = ("scale", "data", "date", "commit", "verdicts")
        recorded = [{name: result[name] for name in kept} for result in catalog.recorded(paper).get(paper, [])]
        print_json({**card.model_dump(mode="json"), "recorded": recorded})
        return
    from repertory.reports.card import show_card

    out.print(show_card(card, lang))


@app.command(epilog=examples("search graph clustering", "search 图神经网络", "search SNN --json"))
def search(words: list[str], lang: Lang = "en", as_json: Json = False) -> None:
    """Find papers by English or Chinese words."""
    _lang(lang)
    found = catalog.search(" ".join(words))
    _warn_of_broken_packages()
    if as_json:
        names = ("id", "topic", "year", "title")
        print_json([{**card.model_dump(include=set(names)), "score": round(score, 4)} for card, score in found])
        return
    if not found:
        raise Problem(f"nothing in the repertory matches {' '.join(words)!r}", "repertory search", "try other words")
    for card, score in found:
        out.print(card.id, style="bold", end="")
        out.print(f"  {score:.2f}  {card.title}\n    {card.summary[lang]}\n")


@app.command(epilog=examples("settings emo", "settings revcol --scale paper", "settings emo --json"))
def settings(paper: Paper, scale: Scale = "laptop", as_json: Json = False) -> None:
    """The settings of a paper by group: meaning, bounds, and values at the scales. `--set NAME=VALUE` changes one."""
    design = catalog.design(paper)
    study_config(design, scale)
    from repertory.reports.settings import settings_rows, settings_table

    if as_json:
        print_json({"paper": paper, "scales": list(design.scales), "settings": settings_rows(design)})
    else:
        out.print(settings_table(design, scale))


# -- running ------------------------------------------------------------------------------------


@app.command(
    epilog=examples(
        "run emo",
        "run emo --arms both,dw_only --seeds 5 --jobs 2",
        "run emo --set epochs=3 --out runs/short",
        "run ccgc --until-decided --budget 20m",
        "run emo --scale paper --data imagenet/ --devices 8 --precision 16-mixed",
    )
)
def run(
    paper: Annotated[str | None, typer.Argument(help="identifier", autocompletion=_complete_paper)] = None,
    all_papers: Annotated[bool, typer.Option("--all", help="every paper")] = False,
    scale: Scale = "laptop",
    seeds: Annotated[int | None, typer.Option(min=1, help="repetitions; default: the scale's")] = None,
    until_decided: Annotated[
        bool, typer.Option("--until-decided", help="add seeds to the arms of undecided claims, look by look")
    ] = False,
    max_seeds: MaxSeeds = None,
    budget: Budget = "",
    arms: Annotated[str, typer.Option(help="comma-separated; default: all")] = "",
    vary: Annotated[
        str,
        typer.Option(metavar="SOURCE", help="what the seed drives: split (of the data) | init (and training) | all"),
    ] = "",
    settings: Settings = None,
    data: Data = None,
    out_dir: Annotated[Path | None, typer.Option("--out", help="run directory; default: runs/PAPER/SCALE")] = None,
    jobs: Annotated[int, typer.Option(min=1, help="trials at once, in processes of this machine")] = 1,
    ray: Annotated[
        str | None, typer.Option(metavar="[ADDRESS]", help="spread the trials over Ray; default: a Ray of our own")
    ] = None,
    accelerator: Accelerator = "auto",
    devices: Devices = 1,
    num_nodes: Nodes = 1,
    strategy: Strategy = "auto",
    precision: Precision = "32-true",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="two steps per loop: does the recipe build?")] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="forget earlier trials of this run directory")] = False,
    as_json: Json = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="each test with its figures, and all arms")] = False,
    lang: Lang = "en",
) -> None:
    """Test a paper's claims: every arm, every seed, verdicts, report.

    Run it again to go on after an interruption; finished trials are kept.
    """
    _lang(lang)
    if (paper is None) != all_papers:
        raise Problem("name one paper, or give --all", "repertory run", "`repertory list` names them")
    failed, changes, wanted = False, _settings(settings), arms.split(",") if arms else []
    changes |= {"vary": vary} if vary else {}
    until = _until(until_decided, seeds, max_seeds, budget, dry_run)
    for name in catalog.packages() if all_papers else [paper or ""]:
        folder = out_dir / name if out_dir and all_papers else out_dir
        _check(name, scale, changes, data, wanted, "--arms")
        from repertory.execution.experiment import Experiment

        experiment = Experiment(
            name,
            scale,
            data=data,
            out=folder,
            settings=changes,
            hardware=_hardware(accelerator, devices, num_nodes, strategy, precision),
            dry_run=dry_run,
        )
        with interruptible(GOES_ON):
            result = experiment.run(
                seeds,
                wanted or None,
                jobs=jobs,
                ray=ray,
                fresh=fresh,
                console=err if as_json else out,
                **until,
            )
        if experiment.lead:
            _print_result(result, lang, as_json, verbose)
        failed |= bool(result.failures)
    if failed:
        raise typer.Exit(1)


def _print_result(result: Report, lang: str, as_json: bool = False, verbose: bool = False) -> None:
    from repertory.reports import terminal

    if as_json:
        print_json(result.to_json())
        return
    out.print(terminal.report(result, lang) if verbose else terminal.summary(result, lang))
    if lang != "en" and result.folder:  # the run wrote it in English
        result.write_html(result.folder / "report.html", lang)
    if computed := _computed_by(result):
        out.print(computed, style="yellow", highlight=False)
    if result.closing:
        out.print(f"\n{result.closing}", markup=False, highlight=False, soft_wrap=True)
    out.print(f"\nreport: {result.folder}/report.html", soft_wrap=True, highlight=False)
    out.print(terminal.count(result.verdicts, lang), soft_wrap=True)


def _computed_by(result: Result) -> str:
    """By which commits and versions the trials were computed; "" if all by this code."""
    from repertory.execution.provenance import commit, versions

    origins = result.origins
    if all((origin.commit, origin.versions) == (commit(), versions()) for origin in origins):
        return ""
    now, differing = versions(), []
    for origin in origins:
        others = [f"{name} {found}" for name, found in origin.versions.items() if now.get(name) != found]
        told = " with ".join(filter(None, [origin.commit or "no commit", ", ".join(others)]))
        count = f" ({origin.trials} trial{'s' * (origin.trials != 1)})" if len(origins) > 1 else ""
        differing.append(told + count)
    return f"computed by {', '.join(differing)}; this is {commit() or 'no commit'}; --fresh computes anew"


# -- one's own data -----------------------------------------------------------------------------


@app.command(
    epilog=examples(
        "train emo --data my_images/ --out my_model/",
        "train emo --data my_images/ --set epochs=20 --set lr=1e-3 --out my_model/",
    )
)
def train(
    paper: Paper,
    out_dir: Annotated[Path, typer.Option("--out", help="model directory to write")],
    data: Data = None,
    arm: Annotated[str, typer.Option(help="default: the paper's method")] = "",
    scale: Annotated[
        str,
        typer.Option(
            help="default: laptop for the sample; for your data the smallest published network with its recipe"
        ),
    ] = "",
    seed: Annotated[int, typer.Option(min=0, help="repetition number; all randomness derives from it")] = 0,
    settings: Settings = None,
    accelerator: Accelerator = "auto",
    devices: Devices = 1,
    num_nodes: Nodes = 1,
    strategy: Strategy = "auto",
    precision: Precision = "32-true",
    fresh: Annotated[bool, typer.Option("--fresh", help="forget an earlier training that did not end")] = False,
) -> None:
    """Train a paper's method on your own data; gives a model directory."""
    changes = _settings(settings)
    scale = scale or ("laptop" if data is None else OWN)
    _check(paper, scale, changes, data, [arm] if arm else [], "--arm")
    from repertory.execution.experiment import Experiment

    hardware = _hardware(accelerator, devices, num_nodes, strategy, precision)
    experiment = Experiment(paper, scale, data=data, out=out_dir, settings=changes, hardware=hardware)
    with interruptible(GOES_ON):
        folder, metrics = experiment.train(arm or None, seed, console=out, fresh=fresh)
    if experiment.lead:
        _print_metrics(metrics)
        out.print(f"model: {folder}", soft_wrap=True, highlight=False)


@app.command(epilog=examples("evaluate my_model/ --data my_images/"))
def evaluate(
    model: Annotated[Path, typer.Argument(help="model directory")], data: Data = None, as_json: Json = False
) -> None:
    """Metrics of a trained model on the held-out part of some data."""
    _check_model(model)
    if data is not None and not data.exists():
        raise Problem("no such file or folder", data, "give the path of the data to evaluate on")
    from repertory.execution import models

    with interruptible(), scratch_folder() as folder:
        metrics = models.evaluate(model, data, folder, console=err)
    if as_json:
        print_json(metrics)
    else:
        _print_metrics(metrics)


@app.command(epilog=examples("predict my_model/ photo.jpg", "predict my_model/ photos/ --out answers/"))
def predict(
    model: Annotated[Path, typer.Argument(help="model directory")],
    source: Annotated[Path, typer.Argument(help="your input: a file or a folder; for some papers, words in quotes")],
    out_dir: Annotated[Path | None, typer.Option("--out", help="folder for tables, pictures and arrays")] = None,
    settings: Settings = None,
    onnx: Annotated[bool, typer.Option("--onnx", help="through ONNX Runtime; `repertory export` comes first")] = False,
    as_json: Json = False,
) -> None:
    """Apply a trained model to your own input. Files are written with --out alone."""
    changes = _settings(settings)
    if not source.exists() and not catalog.design(str(checkpoint.about(model).get("paper", ""))).takes_text:
        raise Problem("no such file or folder", source, "give the path of the input to predict")
    if out_dir:
        check_output(
            out_dir, empty=True, remedy="name a new or an empty folder with --out: no earlier answer is replaced"
        )
    _check_model(model, changes)
    from repertory.execution import models

    with interruptible(), scratch_folder() as scratch:
        prediction = models.predict(model, source, scratch, err, changes, through_onnx=onnx)
        if as_json:
            print_json({"text": prediction.text, "table": prediction.table})
        else:
            _print_prediction(prediction)
        if out_dir:
            for path in _save_prediction(prediction, out_dir):
                err.print(f"wrote {path}", soft_wrap=True, highlight=False)
        elif more := [*prediction.figures, *prediction.arrays, *prediction.files]:
            err.print(f"--out DIR saves more: {', '.join(more)}", style="dim", soft_wrap=True, highlight=False)


def _print_metrics(metrics: dict[str, float]) -> None:
    from repertory.reports.words import number

    for name, value in metrics.items():
        out.print(f"{name:30s} {number(value)}", highlight=False)


def _print_prediction(prediction: Prediction, most: int = 20) -> None:
    from rich.table import Table

    if prediction.text:
        out.print(prediction.text)
    if prediction.table:
        table = Table(box=None, padding=(0, 2, 0, 0))
        for name in prediction.table[0]:
            table.add_column(visible(name, lines=False), overflow="fold")
        for row in prediction.table[:most]:
            cells = (f"{v:.4g}" if isinstance(v, float) else "" if v is None else str(v) for v in row.values())
            table.add_row(*(visible(cell, lines=False) for cell in cells))
        out.print(table)
        if len(prediction.table) > most:
            out.print(f"... and {len(prediction.table) - most} more rows; --out DIR saves them all")


def _save_prediction(prediction: Prediction, folder: Path) -> list[Path]:
    import numpy as np
    import pandas as pd

    folder.mkdir(parents=True, exist_ok=True)
    written = []
    if prediction.table:
        written.append(folder / "table.csv")
        pd.DataFrame(prediction.table, dtype=object).to_csv(written[-1], index=False)  # whole numbers stay whole
    for name, figure in prediction.figures.items():
        written.append(folder / f"{name}.png")
        figure.savefig(written[-1], dpi=130, bbox_inches="tight")
    for name, array in prediction.arrays.items():
        named = array.dtype.names is not None  # columns with names are for people: a table
        written.append(folder / f"{name}{'.csv' if named else '.npy'}")
        if named:
            pd.DataFrame(array).to_csv(written[-1], index=False)
        else:
            np.save(written[-1], array)
    for name, path in prediction.files.items():
        written.append(folder / name)
        if path.is_file():
            write_bytes(written[-1], path.read_bytes())
            continue
        with replace_folder(written[-1]) as fresh:
            shutil.copytree(path, fresh, dirs_exist_ok=True)
    return written


@app.command(epilog=examples("export my_model/", "export my_model/ --out net.onnx", "export emo --hf --out emo_card/"))
def export(
    model: Annotated[Path, typer.Argument(help="model directory; with --hf, a paper's identifier")],
    output: Annotated[
        Path | None, typer.Option("--out", help="file; default: model.onnx in the directory; with --hf, a new folder")
    ] = None,
    hf: Annotated[
        bool, typer.Option("--hf", help="a paper's card for the Hugging Face hub: claims, verdicts, model-index")
    ] = False,
) -> None:
    """Write a trained model as ONNX, for batches of any size, and hold it against PyTorch; or a paper's card."""
    if hf:
        _export_card(str(model), output or Path(f"{model}_card"))
        return
    if output:
        check_output(output.absolute().parent, remedy="choose another --out")
        if output.exists():
            raise Problem("the file exists", output.absolute(), "name a new file with --out")
    _check_model(model)
    from repertory.execution import models

    with interruptible(), scratch_folder() as scratch:
        written = models.export_onnx(model, output, scratch)
    inputs = ", ".join(f"{name} (batch, {', '.join(map(str, shape))})" for name, shape in written.inputs.items())
    out.print(f"wrote {written.path}", soft_wrap=True, highlight=False)
    out.print(f"ONNX opset {written.opset}; {inputs}; largest relative difference to PyTorch {written.error:.1g}")


def _export_card(paper: str, folder: Path) -> None:
    """README.md and the recorded results of a paper, ready for a repository of the hub."""
    card = catalog.card(paper)
    check_output(folder, empty=True, remedy="name a new or an empty folder with --out")
    from repertory.execution.model_card import paper_card
    from repertory.verdicts.results import Result

    recorded = catalog.recorded(paper).get(paper, [])
    results = [Result.from_json(content) for content in recorded]
    with replace_folder(folder, empty=True) as fresh:
        write_text(fresh / "README.md", paper_card(card, catalog.load(paper), results))
        for result, content in zip(results, recorded, strict=True):
            write_text(fresh / f"{result.scale}.json", json_text(content) + "\n")
    out.print(f"wrote {folder}: README.md, {len(results)} recorded results", soft_wrap=True, highlight=False)


@app.command(epilog=examples("sample emo some_dir/"))
def sample(
    paper: Paper,
    folder: Annotated[Path, typer.Argument(help="an empty or new folder")],
    scale: Scale = "laptop",
    settings: Settings = None,
) -> None:
    """Write the small sample data set of a paper, in the format of the real one."""
    check_output(folder, empty=True, remedy="give a new or an empty folder")
    changes = _settings(settings)
    study_config(catalog.design(paper), scale, changes)
    _say_loading(paper)
    from repertory.execution.experiment import Experiment

    experiment = Experiment(paper, scale, settings=changes)
    with interruptible(), replace_folder(folder, empty=True) as fresh, err.status("writing the sample"):
        experiment.study_in(fresh).write_sample(fresh)
    count = sum(1 for path in folder.rglob("*") if path.is_file())
    out.print(f"{count} files in {folder}; {paper} expects:\n{experiment.study.layout.strip()}", highlight=False)


@app.command(epilog=examples("convert emo EMO_1M.pth my_model/"))
def convert(
    paper: Paper,
    source: Annotated[Path, typer.Argument(help="the authors' weights (.pth, .safetensors)")],
    folder: Annotated[Path, typer.Argument(help="model directory to write")],
    variant: Annotated[str, typer.Option(help="which published size; default: found from the shapes")] = "",
    settings: Settings = None,
) -> None:
    """Turn weights that the authors released into a model directory."""
    changes = _settings(settings)
    study_config(catalog.design(paper), "paper", changes)
    if not source.exists():
        raise Problem("no such file", source, "give the file that the authors released")
    check_output(folder, empty=True, remedy="give a new folder")
    _say_loading(paper)
    from repertory.execution.experiment import Experiment

    experiment = Experiment(paper, "paper", settings=changes)
    with interruptible():
        experiment.convert(source, folder, variant)
    out.print(f"model: {folder}", soft_wrap=True, highlight=False)


# -- the gallery --------------------------------------------------------------------------------


@app.command(
    epilog=examples("site public/", "site public/ --url https://example.org/repertory/", "site out/ --runs runs/")
)
def site(
    folder: Annotated[Path, typer.Argument(help="a new or empty folder, or one that `repertory site` wrote")],
    runs: Annotated[Path | None, typer.Option(help="folder of local runs to show too; default: none")] = None,
    url: Annotated[str, typer.Option(help="where it will stand; default: addresses are relative")] = "",
    api: Annotated[bool, typer.Option("--api", help="with the API reference; needs the extra `site`")] = False,
) -> None:
    """Write the gallery of all papers, English and Chinese: plain files for any host, or to open from the disk."""
    built = _build_site(folder, runs, url, api)
    out.print(f"{built.files} files, {built.size / 1e6:.1f} MB; open {built.home}", soft_wrap=True, highlight=False)


@app.command(epilog=examples("serve", "serve --runs runs/ --port 8000", "serve --no-open"))
def serve(
    runs: Annotated[Path, typer.Option(help="folder of local runs to show beside the recorded results")] = Path("runs"),
    port: Annotated[int, typer.Option(min=0, max=65535, help="on 127.0.0.1; 0: a free one")] = 0,
    no_open: Annotated[bool, typer.Option("--no-open", help="only print the address")] = False,
) -> None:
    """Build the gallery with the runs of this machine, and open it in the browser; Ctrl-C ends it."""
    from repertory.reports.site.serve import address, served, show

    built = _build_site(cache_dir() / "site", runs if runs.is_dir() else None)
    with served(built.folder, port) as server, interruptible("stopped"):
        out.print(f"{address(server)} (Ctrl-C ends it)", soft_wrap=True, highlight=False)
        if not no_open:
            show(address(server))
        server.serve_forever()


def _build_site(folder: Path, runs: Path | None, url: str = "", api: bool = False) -> Built:
    if runs is not None and not runs.is_dir():
        raise Problem("no such folder of runs", runs, "give the folder that `repertory run` wrote to, such as runs/")
    err.print("reading papers and results ...", style="dim", highlight=False)
    from repertory.reports.site.build import build

    with interruptible(), err.status("writing the pages"):
        built = build(folder, runs, url, api)
    for problem in built.problems:
        err.print(f"left out: {problem.what} ({problem.where})", style="yellow", markup=False, soft_wrap=True)
    return built


# -- for those who keep the house ---------------------------------------------------------------


@app.command(epilog=examples("bench emo"))
def bench(
    paper: Paper,
    arguments: Annotated[list[str] | None, typer.Argument(help="passed on to the benchmark")] = None,
) -> None:
    """Speed and memory beside the peers (benchmarks/PAPER.py of the source checkout)."""
    catalog.folder(paper)
    script = _checkout() / "benchmarks" / f"{paper}.py"
    if not script.exists():
        raise Problem(f"{paper} has no benchmark", script, "write one; see CONTRIBUTING")
    for flag, value in itertools.pairwise(word for given in arguments or [] for word in given.split("=", 1)):
        if flag == "--output":
            target = Path(value).absolute()
            check_output(target.parent if target.suffix else target, remedy="choose another --output")
            if target.suffix and target.is_dir():
                raise Problem("a folder is in the place of the output file", target, "choose another --output")
    raise typer.Exit(subprocess.run([sys.executable, str(script), *(arguments or [])], check=False).returncode)


def _checkout() -> Path:
    root = Path(__file__).parents[2]
    if not (root / "pyproject.toml").exists():
        raise Problem("this needs the source checkout", root, "clone the repository and `pip install -e .`")
    return root


@app.command(epilog=examples("new my_paper"))
def new(
    paper: Annotated[str, typer.Argument(help="identifier of the new paper: letters, digits, _")],
    task: Annotated[str, typer.Option(help="plain | images | graphs: what it starts from")] = "plain",
    package: Annotated[str, typer.Option(help="a package of its own, which registers the paper; default: none")] = "",
    into: Annotated[
        Path | None, typer.Option(help="checkout, or folder for the package; default: this checkout, this folder")
    ] = None,
) -> None:
    """Write the skeleton of a paper: its folder, card and test. It runs, and passes every check, as it stands."""
    from repertory.skeleton import write_skeleton

    checkout = into or (Path() if package else _checkout())
    if checkout.exists():  # else the skeleton says what is missing
        check_output(checkout, remedy="name another checkout with --into")
    for path in write_skeleton(paper, checkout, task, package):
        out.print(f"wrote {path}", soft_wrap=True, highlight=False)


@app.command(epilog=examples("check emo", "check emo --slow"))
def check(
    paper: Paper,
    slow: Annotated[bool, typer.Option("--slow", help="those that take minutes too")] = False,
) -> None:
    """Hold a paper, built in or of another package, to what every paper keeps: one line a check."""
    catalog.folder(paper)
    from repertory.contract import check_paper

    failed = False
    for finding in check_paper(paper, slow):
        failed |= bool(finding.error)
        style = "red" if finding.error else None
        out.print(finding.line, style=style, markup=False, highlight=False, soft_wrap=True)
    if failed:
        raise typer.Exit(1)


@app.command(epilog=examples("record emo", "record emo --scale desk --jobs 2 --budget 3h", "record --max-seeds 12"))
def record(
    papers: Annotated[list[str] | None, typer.Argument(help="default: all")] = None,
    scale: Scale = "laptop",
    max_seeds: MaxSeeds = None,
    budget: Budget = "30m",
    jobs: Annotated[int, typer.Option(min=1)] = 1,
    fresh: Annotated[bool, typer.Option("--fresh", help="forget the trials of an interrupted recording")] = False,
) -> None:
    """Run studies until decided and write results/PAPER.json after every look; then README's table.

    `--budget` is for each paper. A recording goes on where it was interrupted, and repeats no trial that this very code
    has computed; it starts over when the code has changed since it ended.
    """
    until = _until(True, None, max_seeds, budget, dry_run=False)
    for name in ("results", "runs"):
        check_output(_checkout() / name, remedy="record in a checkout that can be written to")
    has_scale = (card.id for card in catalog.cards(built_in=True) if scale in catalog.design(card.id).scales)
    wanted = papers or list(has_scale) or catalog.packages()  # the last: the first of them names the known scales
    for config in [study_config(catalog.design(paper), scale) for paper in wanted]:
        if config.real:
            real_data(config.real)
    from repertory.execution.experiment import Experiment
    from repertory.verdicts import history

    for paper in wanted:
        _say_loading(paper)
        name = paper if scale == "laptop" else f"{paper}.{scale}"
        experiment = Experiment(paper, scale, out=_checkout() / "runs" / "recorded" / name)
        target = _checkout() / "results" / f"{name}.json"
        with interruptible(GOES_ON):
            anew = fresh or not experiment.reusable()
            result = experiment.run(
                fresh=anew, jobs=jobs, console=out, on_look=lambda result, to=target: result.save(to), **until
            )
        _print_result(result, "en")
        history.note(_checkout() / "results", result)
    table()


@app.command(epilog=examples("showcase emo", "showcase"))
def showcase(papers: Annotated[list[str] | None, typer.Argument(help="default: all")] = None) -> None:
    """Train methods on their samples, predict, and keep what comes out in results/pictures/ for the site."""
    check_output(_checkout() / "results", remedy="work in a checkout that can be written to")
    for paper in papers or list(catalog.packages()):
        catalog.folder(paper)
        _say_loading(paper)
        from repertory.execution.showcase import show_off

        with interruptible():
            for path in show_off(paper, _checkout() / "results", out):
                out.print(f"wrote {path}", soft_wrap=True, highlight=False)


@app.command(epilog=examples("table", "table --check"))
def table(
    check: Annotated[bool, typer.Option("--check", help="only say whether they are up to date")] = False,
) -> None:
    """Judge the recorded results by the cards as they are; generate README's table, the pages and the picture."""
    from repertory.reports import docs, speed

    root = _checkout()
    there = docs.present(root)
    races = speed.read(catalog.results_folder())
    pages = docs.generated(there["README.md"], catalog.cards(built_in=True), docs.recorded_results(), races)
    files = {**pages, **docs.rejudged(root)}
    stale = [name for name in {**files, **there} if not docs.same(name, there.get(name, ""), files.get(name, ""))]
    if check and stale:
        raise Problem(f"out of date: {', '.join(sorted(stale))}", root, "run `repertory table`")
    for name in stale:
        if name in files:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            write_text(root / name, files[name])
            out.print(f"wrote {name}", highlight=False)
        else:  # of a paper that is gone
            (root / name).unlink()
            out.print(f"removed {name}", highlight=False)


if __name__ == "__main__":
    main()
