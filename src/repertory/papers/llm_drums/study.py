"""How the claims are tested.

repertory run llm_drums                                     # generated grooves, a GPT-2 of 149 248 weights on bytes
REPERTORY_DATA=… repertory run llm_drums --scale desk       # 164 real grooves of Groove MIDI, whole
repertory run llm_drums --scale paper --data groove/ --set model=gpt2/ --arms human,random,repeat,scratch,pretrained
repertory train llm_drums --data my_grooves/ --out drummer/
repertory predict drummer/ groove.mid                       # MIDI, text, WAV, picture
"""

from __future__ import annotations

import csv
import io
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch.utils.data import Dataset

from repertory.core.files import write_text
from repertory.core.problem import Problem
from repertory.core.settings import real_data
from repertory.core.study import Measured, Metric, Prediction, Study
from repertory.core.timing import medians, race
from repertory.core.training import fit, loader
from repertory.data import drums, grooves
from repertory.data.drums import DEFAULT_TEMPO, MEASURES, PARTS, ROWS, Groove, Grooves
from repertory.nn.encoders import load_encoder
from repertory.papers.llm_drums import pictures
from repertory.papers.llm_drums.endpoint import HTTPDrummer, write_jsonl
from repertory.papers.llm_drums.language import (
    Windows,
    byte_tokenizer,
    docstrings,
    next_token_loss,
    small_gpt2,
)
from repertory.papers.llm_drums.model import (
    EMPTY,
    Drummer,
    Example,
    Rule,
    RuleDrummer,
    completion_loss,
    is_well_formed,
    make_example,
    make_prompt,
    rows_of,
    sounding,
)
from repertory.papers.llm_drums.race import (
    race_drummer,
    race_grooves,
    race_prompts,
    stabilities_in_python,
)
from repertory.papers.llm_drums.settings import ARMS, DrumsConfig, DrumsDesign
from repertory.papers.llm_drums.sound import write_wav
from repertory.papers.llm_drums.structure import Stabilities, measures_of, seen_share, stabilities, structure
from repertory.tasks.classification import readable, relative_name, with_problems

AT_ONCE = 32
"""Grooves that are continued side by side."""
DRAWN = 4
"""Grooves of a prediction that are drawn."""
SHEET = ("groove", "pattern", "fill", "musical", "short")
"""Columns of the paper's annotation by hand: repetitive, consistent, chaotic or none; yes or no; measures played."""
RULES: tuple[Rule, ...] = ("human", "repeat", "random")
AnyDrummer = Drummer | HTTPDrummer | RuleDrummer


@dataclass(frozen=True)
class DrumsData:
    """Examples of each part, and which files were not taken."""

    train: list[Example]
    validation: list[Example]
    test: list[Example]
    left_out: str


@dataclass(frozen=True)
class Given:
    """A groove to be continued.

    Attributes:
        prompt: its first measures.
        rows: all of its rows, without the silence at its beginning.
        start: number of the first measure that is left, from 1.
        tempo: microseconds a beat.
        numerator: of the time signature.
    """

    prompt: str
    rows: list[str]
    start: int
    tempo: int
    numerator: int


class DrumsStudy(DrumsDesign, Study[DrumsConfig, DrumsData, Any]):
    """Fine-tune a language model on grooves, let it continue others, and measure the structure of what it plays."""

    metrics: ClassVar[Mapping[str, Metric]] = {
        "nll": Metric(
            "negative log-likelihood of the completion", "续写的负对数似然", unit="nats/row", better="lower", decimals=3
        ),
        "stability": Metric(
            "mean edit distance to the nearer measure", "与较近小节的平均编辑距离", decimals=2
        ),
        "centre_gap": Metric("gap between pattern and fills", "基本型与加花的中心差", decimals=2),
        "within_cluster": Metric("spread within pattern and within fills", "基本型与加花各自的离散度", decimals=2),
        "repeats": Metric("measures that repeat a neighbour", "重复相邻小节的比例", unit="%", decimals=1),
        "human_gap": Metric(
            "distance of (mean, gap) to the human's", "（均值、中心差）与人类的距离", better="lower", decimals=2
        ),
        "seen": Metric("played measures that occur in training", "训练集中出现过的小节", unit="%", decimals=1),
        "malformed": Metric(
            "grooves with a malformed row or of another length", "行格式有误或长度不符的节奏", unit="%", better="lower",
            decimals=1,
        ),
        "edit_speed": Metric(
            "speed of edit distances over plain Python", "编辑距离相对纯 Python 的速度", unit="×", better="higher",
            decimals=1,
        ),
        "cache_speed": Metric(
            "speed of generation with cache over without", "有缓存与无缓存生成的速度比", unit="×", better="higher",
            decimals=1,
        ),
    }  # fmt: skip
    sample_name = "generated grooves"
    sample_fields = ("sample_grooves",)
    layout = drums.LAYOUT

    # -- data -----------------------------------------------------------------------------------

    def write_sample(self, folder: Path) -> None:
        """Grooves that nobody played, with fills and other files that readers leave out."""
        grooves.write_grooves(folder, self.config.sample_grooves)

    def read(self, folder: Path) -> DrumsData:
        """Read grooves, split them, and make prompts and completions.

        Raises:
            Problem: no grooves here, a damaged info.csv, or a part that is empty.
        """
        c = self.config
        notes = drums.parse_note_map(c.note_map)
        found = drums.read_grooves(folder, c.time_signatures, notes, self.session.progress) if folder.is_dir() else None
        if found is None or not any(found.parts.values()):
            raise self.missing(folder)
        parts = found.parts if c.split == "published" else self._drawn(found)
        make = partial(make_example, given=c.given, measures=c.measures, trim_silence=c.trim_silence)
        examples = {
            part: [example for groove in parts[part] if (example := make(groove.name, groove.drums))] for part in PARTS
        }
        silent = sum(map(len, parts.values())) - sum(map(len, examples.values()))
        left_out = "; ".join(
            filter(None, [found.left_out, f"{silent} (8 measures or fewer after silence)" if silent else ""])
        )
        if left_out and self.data_source():
            warnings.warn(f"{folder.name}: files left out: {left_out}", stacklevel=2)
        for part in ("train", "test"):
            if not examples[part]:
                raise Problem(f"no groove in the part {part}", folder, f"taken: none; left out: {left_out}")
        if c.train_grooves and c.train_grooves < len(examples["train"]):
            rows = self.session.rng("split", "train").permutation(len(examples["train"]))[: c.train_grooves]
            examples["train"] = [examples["train"][row] for row in rows]
        return DrumsData(**examples, left_out=left_out)

    def _drawn(self, found: Grooves) -> dict[str, list[Groove]]:
        """Another split of all grooves, with as many in each part."""
        pool = sorted((groove for part in PARTS for groove in found.parts[part]), key=lambda groove: groove.path)
        order = [pool[row] for row in self.session.rng("split").permutation(len(pool))]
        ends = np.cumsum([0, *(len(found.parts[part]) for part in PARTS)]).tolist()
        return {part: order[a:b] for part, a, b in zip(PARTS, ends, ends[1:], strict=False)}

    # -- training -------------------------------------------------------------------------------

    def train(self, arm: str, data: DrumsData) -> AnyDrummer:
        """Get the arm's language model and fine-tune it on the grooves; a rule has nothing to learn."""
        c, chosen = self.config, ARMS[arm]
        if c.endpoint_files and self.session.fabric.is_global_zero:
            for part in PARTS:
                write_jsonl(self.session.out_dir / "endpoint", part, getattr(data, part))
        if chosen.rule:
            return RuleDrummer(chosen.rule, c.given, c.measures)
        model = self._language_model(chosen.text)
        cut = sum(model.is_cut(example) for example in data.train)
        if cut and not self.session.dry_run:
            warnings.warn(
                f"{cut} of {len(data.train)} grooves are longer than the context of {model.context} tokens: cut",
                stacklevel=2,
            )
        adapted = c.lora and bool(chosen.text)  # differences to fresh weights would be a handicap
        if adapted:
            model.add_lora({"r": c.lora_r, "lora_alpha": c.lora_alpha, "lora_dropout": c.lora_dropout})
        fit(
            self.session,
            model,
            Listed(data.train),
            c,
            completion_loss,
            evaluate=lambda drummer: self._likelihood(drummer, data.validation, "validation"),
            collate=lambda examples: model.collate(examples, c.prompt_loss_weight),
            part="grooves",
        )
        return model if adapted and model.base else model.merge_lora()

    def _language_model(self, text: str) -> Drummer:
        """A model that is given, with its weights or fresh ones; or a small GPT-2, which reads a text first."""
        c = self.config
        given = bool(c.model) and not self.session.dry_run
        options: dict[str, Any] = {"given": c.given, "measures": c.measures}
        if given and text == "docstrings":
            folder = self._folder()
            return Drummer.from_folder(folder, **options, base=str(folder.resolve()) if c.lora else "")
        network, tokenizer = small_gpt2(c.width, c.layers, c.heads, c.context), byte_tokenizer()
        if given:
            trained = load_encoder(self._folder(), "AutoModelForCausalLM")
            tokenizer = trained.tokenizer
            small = c.scratch == "small" and not text
            network = network | {"vocab_size": trained.config["vocab_size"]} if small else trained.config
        if text:
            return self.session.shared(f"language-{text}", lambda: self._pretrained(network, tokenizer, text, options))
        self.session.reseed("fresh weights")
        return Drummer(network, tokenizer, **options)

    def _pretrained(self, network: dict[str, Any], tokenizer: str, text: str, options: dict[str, Any]) -> Drummer:
        """A model that has read the docstrings, or their tokens in random order."""
        c = self.config
        model = Drummer(network, tokenizer, **options)
        ids = torch.tensor(model.encode(docstrings(c.text_size)))
        if text == "shuffled":
            ids = ids[torch.randperm(len(ids), generator=self.session.generator("shuffled"))]
        recipe = c.model_copy(
            update={
                "epochs": 1, "batch_size": c.pretrain_batch, "accumulate": 1, "lr": c.pretrain_lr, "warmup_epochs": 0.1,
            }
        )  # fmt: skip
        windows = Windows(ids, c.pretrain_length, c.pretrain_steps * c.pretrain_batch, model.context)
        return fit(self.session, model, windows, recipe, next_token_loss, part=f"text-{text}")

    def _folder(self) -> Path:
        """The model's folder: as it is named, or under $REPERTORY_DATA."""
        folder = Path(self.config.model)
        if folder.is_dir():
            return folder
        try:
            return real_data(self.config.model)
        except Problem as problem:
            raise Problem(
                f"no language model {self.config.model!r} here",
                folder,
                "--set model=FOLDER with config.json, weights and a fast tokenizer, as save_pretrained writes them; "
                "or --set model= trains a small one on docstrings",
            ) from problem

    def preview(self, arm: str, data: DrumsData) -> list[str]:
        """The model, what it reads, which grooves it learns, and which were left out."""
        c = self.config
        small = f"a GPT-2 on bytes, {c.layers} layers, {c.width} wide, {c.context} positions"
        read = f"after {c.pretrain_steps} steps of text" if ARMS[arm].text else "fresh weights"
        return [
            f"model: {c.model or small}, {read}; {'LoRA' if c.lora and ARMS[arm].text else 'all weights'} learn",
            f"grooves: {len(data.train)}, {len(data.validation)}, {len(data.test)} for training, validation, test; "
            f"{c.given} of {c.measures} measures are given",
            *([f"left out: {data.left_out}"] if data.left_out else []),
        ]

    # -- evaluation -----------------------------------------------------------------------------

    def evaluate(self, model: AnyDrummer, data: DrumsData) -> dict[str, float]:
        """Likelihood of the human's completions; structure of the model's, beside the human's.

        Grooves are written as grooves/*.txt of the trial, with a sheet for annotation by hand.
        """
        c, test = self.config, data.test
        played = self._play(model, test)  # (continuation, groove) in a row
        human = self._stabilities([example.text for example in test])
        values = self._stabilities(played)
        ours, theirs = structure(values), structure(human)
        metrics: dict[str, float] = {}
        if isinstance(model, Drummer):
            metrics |= self._likelihood(model, test, "test")
        if ours and theirs:
            metrics |= {name: getattr(ours, name) for name in ("stability", "centre_gap", "within_cluster", "repeats")}
            metrics["human_gap"] = ours.away_from(theirs)
        training = {measure for example in data.train for measure in measures_of(example.text, c.compat)}
        share = seen_share([m for text in played for m in measures_of(text, c.compat)[c.given :]], training)
        if share is not None:
            metrics["seen"] = share
        lengths = [len(example.text.splitlines()) for example in test] * c.continuations
        formed = [is_well_formed(text, rows) for text, rows in zip(played, lengths, strict=False)]
        metrics["malformed"] = 100 * (1 - float(np.mean(formed)))

        means = [float(s.mean()) if len(s) else np.nan for s in values[: len(test)]]
        self.session.keep_outputs({"stability": np.array(means)})
        if self.session.fabric.is_global_zero:
            self._write(test, played)
            curves = self._curves(played, [example.text for example in test])
            self.session.figure("stability", pictures.stability_picture(curves, self._first + 1))
            grids = {
                f"human: {test[0].name}": drums.text_grid(test[0].text),
                "continued": drums.text_grid(played[0]),
            }
            self.session.figure("roll", pictures.roll_picture(grids, c.given))
        return metrics

    @property
    def _first(self) -> int:
        """Number of the first measure with a value, from 0: the second, or the first that is not given."""
        return 1 if self.config.measures == MEASURES else self.config.given

    def _stabilities(self, texts: Sequence[str]) -> list[Stabilities]:
        """The s_i of grooves: of whole ones as published, of their beginnings for all measures not given."""
        whole = self.config.measures == MEASURES
        measures = [measures_of(text, self.config.compat) for text in texts]
        return stabilities(measures, self._first, last=not whole)

    def _curves(self, played: Sequence[str], human: Sequence[str]) -> dict[str, list[Stabilities]]:
        """Stabilities of what was played, and of those whom it is compared with."""
        rng = self.session.rng("rule")
        rules = {name: RuleDrummer(name, self.config.given, self.config.measures) for name in RULES}
        others = {name: [rule.groove(text, rng) for text in human] for name, rule in rules.items()}
        return {name: self._stabilities(texts) for name, texts in ({"continued": played} | others).items()}

    def _play(self, model: AnyDrummer, examples: Sequence[Example]) -> list[str]:
        """Whole grooves as rows: each example's, then each one's second continuation, …"""
        rng = self.session.rng("rule")
        if isinstance(model, RuleDrummer):
            return [model.groove(example.text, rng) for _ in range(self.config.continuations) for example in examples]
        prompts = [example.prompt for example in examples] * self.config.continuations
        return self._complete(model, prompts, "continue")

    def _complete(self, model: Drummer | HTTPDrummer, prompts: Sequence[str], label: str) -> list[str]:
        """Whole grooves as rows. A dry run continues a few by a few tokens."""
        c = self.config
        longest = 8 if self.session.dry_run else c.max_new_tokens
        found: list[str] = []
        for start in self.session.progress(range(0, len(prompts), AT_ONCE), label):
            batch = prompts[start : start + (2 if self.session.dry_run else AT_ONCE)]
            self.session.reseed("continue", start)
            completions = model.complete(batch, c.temperature, longest, c.constrained)
            found += [rows_of(prompt, text) for prompt, text in zip(batch, completions, strict=True)]
        return found

    def _likelihood(self, model: Drummer, examples: Sequence[Example], part: str) -> dict[str, float]:
        """Negative log-likelihood of the completions by the number of their rows; kept for each of the test part."""
        if not examples:
            return {}
        batches = loader(self.session, Listed(examples), self.config.batch_size, collate=model.collate, label=part)
        with torch.no_grad():
            nats = torch.cat([model.nats(batch).cpu() for batch in batches])
        rows = torch.tensor([rows_of("", e.completion).count("\n") for e in examples[: len(nats)]])
        if part == "test":
            self.session.keep_outputs({"nll": nats / rows})
        return {"nll": float(nats.sum() / rows.sum())}

    def _write(self, test: Sequence[Example], played: Sequence[str]) -> None:
        """The grooves of the first continuation, and an empty sheet with the columns of the paper's annotation."""
        sheet = io.StringIO()
        rows = csv.writer(sheet, lineterminator="\n")
        rows.writerow(SHEET)
        for k, (example, text) in enumerate(zip(test, played, strict=False)):
            name = f"{k:03d}-{example.name}.txt"
            write_text(self.session.out_dir / "grooves" / name, text)
            rows.writerow([name, "", "", "", ""])
        write_text(self.session.out_dir / "annotation.csv", sheet.getvalue())

    def measure(self) -> Mapping[str, Measured]:
        """Races of edit distances and of generation; one thread."""
        rounds = self.config.speed_rounds
        if not rounds:
            return {}
        many, drummer, prompts = race_grooves(), race_drummer(), race_prompts()
        distances = race(
            {"ours": lambda: stabilities(many), "peer": lambda: stabilities_in_python(many)},
            self.session.progress(range(1 + rounds), "race of edit distances"),
        )
        generation = race(
            {
                "ours": lambda: drummer.complete(prompts, max_new_tokens=48),
                "peer": lambda: drummer.complete(prompts, max_new_tokens=48, use_cache=False),
            },
            self.session.progress(range(1 + max(5, rounds // 2)), "race of generation"),
        )
        return {
            "edit_speed": medians(distances, "ours", "peer"),
            "cache_speed": medians(generation, "ours", "peer"),
        }

    # -- use ------------------------------------------------------------------------------------

    def predict(self, model: AnyDrummer, source: Path) -> Prediction:
        """Continue the first measures of a .mid, of a groove in text (.txt), or of all such files in a folder.

        Measures at the beginning whose first 4 sixteenth notes are silent are left out, as in training: `from_measure`.
        Every groove is written as NAME.mid with the source's tempo, NAME.txt (raw, as the model wrote it) and NAME.wav.

        Raises:
            Problem: no such file, or none that can be read.
        """
        c = self.config
        paths = [source] if source.is_file() else drums.midi_files(source) or sorted(source.rglob("[!.]*.txt"))
        if not paths:
            raise Problem("no grooves here", source, "give a .mid, a .txt of rows such as o--o--, or a folder of them")
        good, problems = readable(paths, lambda k: self._given(model, paths[k]), source, "files")
        named = {relative_name(paths[k], source): self._given(model, paths[k]) for k in good}
        played = self._continued(model, list(named.values()))
        table: list[dict[str, Any]] = []
        folder = self.session.out_dir / "continued"
        files: dict[str, Path] = {}
        figures = {}
        for (name, given), text in zip(named.items(), played, strict=False):
            stem = f"{name.replace('/', '_').rsplit('.', 1)[0]}-continued"
            grid = drums.text_grid(text)
            table.append(
                {
                    "file": name,
                    "from_measure": given.start,
                    "measures": len(grid) / ROWS,
                    "hits": int(grid[model.given * ROWS :].sum()),
                    "bpm": round(60e6 / given.tempo, 1),
                    "well_formed": is_well_formed(text),
                }
            )
            for ending in ("mid", "txt", *(["wav"] if c.wav else [])):
                files[f"{stem}.{ending}"] = folder / f"{stem}.{ending}"
            drums.write_midi(files[f"{stem}.mid"], grid, given.tempo, given.numerator)
            write_text(files[f"{stem}.txt"], text)
            if c.wav:
                write_wav(files[f"{stem}.wav"], grid, given.tempo)
            if len(figures) < DRAWN:
                grids = {f"continued: {name}": grid, "source": drums.text_grid("\n".join(given.rows))}
                figures[stem] = pictures.roll_picture(grids, model.given)
        length = self.config.measures * ROWS
        sources = ["".join(f"{row}\n" for row in one.rows[:length]) for one in named.values()]
        figures["stability"] = pictures.stability_picture(self._curves(played, sources), self._first + 1)
        return Prediction(
            text=played[0] if len(named) == 1 else "",
            table=with_problems(table, paths, problems, source),
            figures=figures,
            files={"continued": folder},
        )

    def _given(self, model: AnyDrummer, path: Path) -> Given:
        """The beginning of a file, and the whole of it."""
        c = self.config
        if path.suffix.lower() == ".txt":
            grid, tempo, numerator = drums.read_grid(path), DEFAULT_TEMPO, 4
        else:
            found = drums.read_midi(path, c.time_signatures, drums.parse_note_map(c.note_map))
            grid, tempo, numerator = found.grid, found.tempo, found.numerator
        rows = sounding(drums.grid_text(grid))
        start = 1 + (len(grid) - len(rows)) // ROWS
        return Given(make_prompt(rows, model.given, path), rows, start, tempo, numerator)

    def _continued(self, model: AnyDrummer, given: Sequence[Given]) -> list[str]:
        if isinstance(model, RuleDrummer):
            rng = self.session.rng("rule")
            rows = (one.rows + [EMPTY] * (model.measures * ROWS - len(one.rows)) for one in given)
            return [model.groove("".join(f"{row}\n" for row in groove), rng) for groove in rows]
        return self._complete(model, [one.prompt for one in given], "continue")


class Listed(Dataset[Example]):
    """A list as a data set."""

    draws = False

    def __init__(self, items: Sequence[Example]) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Example:
        return self.items[index]
