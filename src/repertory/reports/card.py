"""A card in the terminal. Imports nothing heavy: `repertory show` answers at once."""

from __future__ import annotations

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
    },
    "zh": {
        "claims": "论文主张", "published": "发表数值", "recorded": "本库实测", "never": "尚无记录",
        "usage": "用法", "notes": "说明", "related": "相关论文", "code": "作者代码", "none": "未公开",
        "decision": "取舍", "finding": "发现", "fidelity": "忠实度",
        "minutes": "laptop 规模：双核约 {:g} 分钟", "extra": "需要可选依赖",
    },
}  # fmt: skip
COLOURS = {"holds": "green", "fails": "red", "undecided": "yellow", "not tested": "bright_black"}


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
        verdicts = [v for r in results for v in r["verdicts"] if v["claim"] == claim.id]
        for verdict in verdicts:
            line.append(f"\n  {word['recorded']}: {verdict['sentence']}", style=COLOURS[verdict["verdict"]])
        if not verdicts:
            line.append(f"\n  {word['recorded']}: {word['never']}", style="dim")
        parts.append(Padding(line, (0, 0, 0, 2)))
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
