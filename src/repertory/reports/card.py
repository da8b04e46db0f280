"""A card in the terminal. Imports nothing heavy: `repertory show` answers at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.syntax import Syntax
from rich.text import Text as Line

from repertory import catalog
from repertory.core.card import Card

WORDS = {
    "en": {
        "claims": "Claims", "published": "published", "recorded": "recorded here", "never": "not recorded yet",
        "usage": "Use", "notes": "Notes", "related": "Related", "code": "authors' code", "none": "none released",
        "decision": "decision", "finding": "finding", "fidelity": "fidelity",
        "minutes": "laptop scale: {:g} min on two cores", "extra": "needs the extra",
        "run": "Run", "arms": "Arms", "method": "the method", "seeds": "seeds",
    },
    "zh": {
        "claims": "论文主张", "published": "发表数值", "recorded": "本库实测", "never": "尚无记录",
        "usage": "用法", "notes": "说明", "related": "相关论文", "code": "作者代码", "none": "未公开",
        "decision": "取舍", "finding": "发现", "fidelity": "忠实度",
        "minutes": "laptop 规模：双核约 {:g} 分钟", "extra": "需要可选依赖",
        "run": "运行", "arms": "实验组", "method": "论文方法", "holds": "成立", "fails": "不成立",
        "undecided": "未定", "not tested": "未检验", "seeds": "个种子",
    },
}  # fmt: skip
COLOURS = {"holds": "green", "fails": "red", "undecided": "yellow", "not tested": "bright_black"}


def _run(card: Card, word: Mapping[str, str]) -> Line:
    """The command of each scale, and the arms that it compares; one command where reading them would import torch."""
    if not (catalog.folder(card.id) / "settings.py").exists():
        return Line(f"repertory run {card.id}")
    design, lines = catalog.design(card.id), []
    for scale, config in design.scales.items():
        data = " --data DIR" if scale == "paper" and not config.real else ""
        command = f"repertory run {card.id}{f' --scale {scale}' if scale != 'laptop' else ''}{data}"
        said = [f"{scale}: {config.seeds} {word['seeds']}"]
        said += [f"{card.minutes:g} min"] if scale == "laptop" else []
        said += [f"$REPERTORY_DATA/{config.real}"] if config.real else []
        lines.append(Line.assemble(f"{command:<44}", (f"  # {', '.join(said)}", "dim")))
    arms = (f"{arm} ({word['method']})" if arm == design.method else arm for arm in design.arms)
    return Line("\n").join([*lines, Line(f"{word['arms']}: {', '.join(arms)}")])


def _test(test: Mapping[str, Any]) -> str:
    """Estimate, interval and n of a recorded test; an open end of the interval is infinite."""
    low, high = ("∞" if end is None else f"{end:.4g}" for end in (test["low"], test["high"]))
    interval = "" if test["low"] == test["high"] else f" [{'-' * (test['low'] is None)}{low}, {high}]"
    count = f", n = {test['n']}" if test["n"] > 1 else ""
    return f"{test['label']} = {test['estimate']:.4g}{interval}{count}"


def show_card(card: Card, lang: str = "en") -> RenderableType:
    """Summary, claims with published figures and recorded verdicts, usage, notes, related papers."""
    word = WORDS[lang]
    results = catalog.recorded(card.id).get(card.id, [])
    place = f"{card.venue} {card.year}" + (f", arXiv {card.arxiv}" if card.arxiv else "")
    head = Line.assemble(
        (card.title, "bold"), "\n", (f"{', '.join(card.authors)}\n{place} · {card.topic}", "dim"), "\n",
        (f"{word['code']}: {card.code or word['none']} · {word['fidelity']}: {card.fidelity}\n", "dim"),
        (word["minutes"].format(card.minutes) + (f" · {word['extra']} {card.extra}" if card.extra else ""), "dim"),
    )  # fmt: skip
    parts: list[RenderableType] = [head, "", card.summary[lang], "", Line(word["claims"], style="bold underline")]
    for claim in card.claim:
        line = Line.assemble(("● ", "bold"), claim.text[lang])
        for p in claim.published:
            line.append(f"\n  {word['published']}: {p.arm} {p.metric} {p.value:g} ({p.data}; {p.source})", style="dim")
        verdicts = [(result, v) for result in results for v in result["verdicts"] if v["claim"] == claim.id]
        for result, verdict in verdicts:
            chinese = f"{word.get(verdict['verdict'], '')}（{result['data']}，{result['scale']}）"
            said = chinese if lang == "zh" else verdict["sentence"]
            line.append(f"\n  {word['recorded']}: {said}", style=COLOURS[verdict["verdict"]])
            for test in verdict["tests"]:
                if test["estimate"] is not None:
                    line.append(f"\n    {_test(test)}", style="dim")
        if not verdicts:
            line.append(f"\n  {word['recorded']}: {word['never']}", style="dim")
        parts.append(Padding(line, (0, 0, 0, 2)))
    parts += ["", Line(word["run"], style="bold underline"), Padding(_run(card, word), (0, 0, 0, 2))]
    parts += ["", Line(word["usage"], style="bold underline")]
    parts.append(
        Padding(Syntax(card.usage.strip(), "python", background_color="default", word_wrap=True), (0, 0, 0, 2))
    )
    if card.note or card.fidelity_note:
        parts += ["", Line(word["notes"], style="bold underline")]
    if card.fidelity_note:
        parts.append(Padding(f"{word['fidelity']}: {card.fidelity_note}", (0, 0, 0, 2)))
    for note in card.note:
        parts.append(Padding(f"{word[note.kind]}: {note.zh if lang == 'zh' else note.en}", (0, 0, 0, 2)))
    near = catalog.related(card.id)
    if near:
        parts += ["", Line(word["related"], style="bold underline")]
        parts += [Padding(f"{other.id}: {other.title}", (0, 0, 0, 2)) for other, _ in near]
    return Group(*parts)
