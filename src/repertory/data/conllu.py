r"""Treebanks of Universal Dependencies in CoNLL-U: a reader that names file and line, and a writer.

    UD_<Language>-<Treebank>/<code>_<treebank>-ud-train.conllu, -ud-dev.conllu, -ud-test.conllu

Ten columns separated by tabs (ID FORM LEMMA UPOS XPOS FEATS HEAD DEPREL DEPS MISC), `_` for empty, comments `# …`, a
blank line after each sentence. Multiword ranges (3-4) and empty nodes (5.1) are no words; they are written back as they
were read. The reader is our own, since that of the package conllu names no line in its complaints and is 5 times
slower; the tests hold one against the other.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from repertory.core.files import write_text
from repertory.core.problem import Problem
from repertory.data.arrays import read_text

LAYOUT = """\
UD_<Language>-<Treebank>/<code>_<treebank>-ud-{train,dev,test}.conllu, a folder for each language
optional: values.csv, codes.csv, parameters.csv of WALS"""
RELATIONS = tuple(
    """
    _ acl advcl advmod amod appos aux case cc ccomp clf compound conj cop csubj dep det discourse dislocated expl fixed
    flat goeswith iobj list mark nmod nsubj nummod obj obl orphan parataxis punct reparandum root vocative xcomp
    """.split()  # noqa: SIM905  as in the documentation of UD
)
UPOS = tuple(
    "_ ADJ ADP ADV AUX CCONJ DET INTJ NOUN NUM PART PRON PROPN PUNCT SCONJ SYM VERB X".split()  # noqa: SIM905
)
UNKNOWN = -1
"""Stands for a head that is not annotated."""
COLUMNS = 10
FORM, UPOS_COLUMN, HEAD, DEPREL = 1, 3, 6, 7
PARTS = ("train", "dev", "test")
_WORD, _OTHER = re.compile(r"[0-9]{1,6}"), re.compile(r"[0-9]+-[0-9]+|[0-9]+\.[0-9]+")
_FILE = re.compile(r"(?P<stem>[^.].*)-ud-(?P<part>train|dev|test)(-[\w-]+)?\.conllu", re.IGNORECASE)
"""Large treebanks have several files of a part: cs_pdt-ud-train-c.conllu, cs_pdt-ud-train-l.conllu."""
_RELATIONS = {name: number for number, name in enumerate(RELATIONS)}
_UPOS = {name: number for number, name in enumerate(UPOS)}


@dataclass(frozen=True, slots=True)
class Sentence:
    """One sentence; tuples have an entry for each word.

    Attributes:
        forms: the words.
        upos: numbers in `UPOS`.
        heads: 1 for the first word, 0 for the root, -1 where not annotated.
        relations: numbers in `RELATIONS`, subtypes (after a colon) cut off.
        lines: all of its lines, comments included, as they were read.
        name: its sent_id, or line N.
    """

    forms: tuple[str, ...]
    upos: tuple[int, ...]
    heads: tuple[int, ...]
    relations: tuple[int, ...]
    lines: tuple[str, ...]
    name: str

    def __len__(self) -> int:
        return len(self.forms)

    @property
    def annotated(self) -> bool:
        """Whether every word has a head."""
        return UNKNOWN not in self.heads


@dataclass(frozen=True)
class Treebank:
    """The sentences of one language.

    Attributes:
        code: of the language, from the names of the files; with the treebank's where a language has several.
        language: its name, from that of the folder.
        path: the folder.
    """

    code: str
    language: str
    path: Path
    train: tuple[Sentence, ...]
    dev: tuple[Sentence, ...]
    test: tuple[Sentence, ...]


# -- reading ------------------------------------------------------------------------------------


def read_conllu(path: Path) -> tuple[Sentence, ...]:
    """The sentences of a file.

    Raises:
        Problem: a line without ten columns, word numbers out of order, a head outside its sentence, two roots or none,
            a cycle, an unknown relation or part of speech; names file, line and sentence.
    """
    sentences: list[Sentence] = []
    strange: dict[str, int] = {}
    lines: list[str] = []
    first = 1
    for number, line in enumerate([*read_text(path).split("\n"), ""], start=1):
        line = line.removesuffix("\r")
        if line.strip():
            first = first if lines else number
            lines.append(line)
        elif lines:
            if any(not text.startswith("#") for text in lines):
                sentences.append(_sentence(lines, first, path, strange))
            lines = []
    if strange:
        listed = ", ".join(f"{word} (line {number})" for word, number in strange.items())
        raise Problem(f"unknown to Universal Dependencies: {listed}", path, "use relations and UPOS of version 2")
    if not sentences:
        raise Problem("no sentences", path, "give CoNLL-U: ten columns separated by tabs")
    return tuple(sentences)


def _sentence(lines: Sequence[str], first: int, path: Path, strange: dict[str, int]) -> Sentence:
    forms, upos, heads, relations = [], [], [], []
    name = f"line {first}"
    for number, line in enumerate(lines, start=first):
        if line.startswith("#"):
            key, _, value = line[1:].partition("=")
            name = value.strip() if key.strip() == "sent_id" else name
            continue
        cells = line.split("\t")
        if len(cells) != COLUMNS:
            raise Problem(
                f"{len(cells)} columns, expected {COLUMNS}", f"{path}:{number}", "separate columns by one tab"
            )
        if not _WORD.fullmatch(cells[0]):
            if not _OTHER.fullmatch(cells[0]):
                raise Problem(f"{cells[0]!r} is no word number", f"{path}:{number}", "number the words 1, 2, 3, …")
            continue
        if not all(cells):
            raise Problem(f"column {cells.index('') + 1} is empty", f"{path}:{number}", "write _ for what is not known")
        if int(cells[0]) != len(forms) + 1:
            expected = f"word {len(forms) + 1} is expected here"
            raise Problem(f"word {cells[0]}: {expected}", f"{path}:{number}", "end each sentence by a blank line")
        relation = cells[DEPREL].partition(":")[0]
        for word, known in ((relation, _RELATIONS), (cells[UPOS_COLUMN], _UPOS)):
            if word not in known:
                strange.setdefault(word, number)
        if cells[HEAD] != "_" and not _WORD.fullmatch(cells[HEAD]):
            raise Problem(
                f"the head is {cells[HEAD]!r}", f"{path}:{number}", "give a word number, 0 for the root, or _"
            )
        forms.append(cells[FORM])
        upos.append(_UPOS.get(cells[UPOS_COLUMN], 0))
        heads.append(UNKNOWN if cells[HEAD] == "_" else int(cells[HEAD]))
        relations.append(_RELATIONS.get(relation, 0))
    sentence = Sentence(tuple(forms), tuple(upos), tuple(heads), tuple(relations), tuple(lines), name)
    if not forms:
        raise Problem("a sentence without words", f"{path}:{first}", "give each word a line of its own")
    if fault := tree_fault(sentence.heads):
        raise Problem(f"sentence {name}: {fault}", f"{path}:{first}", "correct column 7, HEAD")
    return sentence


def tree_fault(heads: Sequence[int]) -> str:
    """What keeps heads from being a tree with one root; "" if nothing does, or none is annotated.

    Example:
        >>> tree_fault([2, 0, 2]), tree_fault([2, 0, 4])
        ('', 'the head of word 3 is 4, there are 3 words')
    """
    if all(head == UNKNOWN for head in heads):
        return ""
    for word, head in enumerate(heads, start=1):
        if head == UNKNOWN:
            return f"word {word} has no head, others have"
        if head > len(heads):
            return f"the head of word {word} is {head}, there are {len(heads)} words"
    roots = [word for word, head in enumerate(heads, start=1) if head == 0]
    if len(roots) != 1:
        return f"{len(roots)} roots ({', '.join(map(str, roots))})" if roots else "no root"
    seen = {0}
    for word in range(1, len(heads) + 1):
        path: list[int] = []
        while word not in seen:
            if word in path:
                return f"word {word} depends on itself"
            path.append(word)
            word = heads[word - 1]
        seen.update(path)
    return ""


def find_treebanks(folder: Path) -> list[Path]:
    """Folders with *-ud-*.conllu in or below a folder, in alphabetical order."""
    files = [path for path in folder.rglob("*") if _FILE.fullmatch(path.name)]
    hidden = {path for path in files if any(part.startswith(".") for part in path.relative_to(folder).parts)}
    return sorted({path.parent for path in files if path not in hidden})


def read_treebanks(folder: Path) -> list[Treebank]:
    """All treebanks in or below a folder. Missing parts are cut from the others, with a warning.

    Raises:
        Problem: none there, a damaged file, or sentences without annotation.
    """
    treebanks: list[Treebank] = []
    for place in find_treebanks(folder):
        files: dict[str, dict[str, list[Path]]] = {}  # stem -> part -> files
        for path in sorted(place.iterdir()):
            if match := _FILE.fullmatch(path.name):
                files.setdefault(match["stem"], {}).setdefault(match["part"].lower(), []).append(path)
        treebanks += [_treebank(place, stem, parts) for stem, parts in sorted(files.items())]
    codes = [treebank.code.partition("_")[0] for treebank in treebanks]
    return [
        replace(treebank, code=code) if codes.count(code) == 1 else treebank
        for treebank, code in zip(treebanks, codes, strict=True)
    ]


def _treebank(place: Path, stem: str, files: Mapping[str, Sequence[Path]]) -> Treebank:
    found: dict[str, tuple[Sentence, ...]] = {}
    for part, paths in files.items():
        for path in paths:
            sentences = read_conllu(path)
            for sentence in sentences:
                bare = "heads" if not sentence.annotated else "relation of some word" if 0 in sentence.relations else ""
                if bare:
                    what = f"sentence {sentence.name} has no {bare}"
                    raise Problem(what, path, "give annotated sentences; to parse: predict")
            found[part] = (*found.get(part, ()), *sentences)
    whole = next(part for part in ("train", "test", "dev") if part in found)
    shares = {part: share for part, share in (("dev", 0.1), ("test", 0.2)) if part not in found}
    shares |= {"train": 0.7} if "train" not in found else {}
    if shares:
        sentences, cut = found[whole], {}
        for part, share in shares.items():
            size = max(1, int(share * len(sentences)))
            cut[part], sentences = sentences[-size:], sentences[:-size]
            if not sentences:
                raise Problem(
                    f"{len(found[whole])} sentence(s) are too few for {', '.join(shares)}", place, "give more"
                )
            found[whole] = sentences
        found |= cut
        said = ", ".join(f"{part} ({len(found[part])} sentences)" for part in shares)
        warnings.warn(f"{place.name} lacks {said}: cut from {whole}, {len(sentences)} left", stacklevel=3)
    language = place.name.removeprefix("UD_").partition("-")[0].replace("_", " ")
    return Treebank(stem, language, place, found["train"], found["dev"], found["test"])


# -- writing ------------------------------------------------------------------------------------


def plain_sentence(forms: Iterable[str], name: str = "") -> Sentence:
    """A sentence without annotation.

    Example:
        >>> len(plain_sentence(["Dogs", "bark"]).lines)
        2
    """
    forms = tuple(forms)
    lines = [f"# sent_id = {name}"] if name else []
    lines += ["\t".join([str(k), form, *"_" * 8]) for k, form in enumerate(forms, start=1)]
    zeros = (0,) * len(forms)
    return Sentence(forms, zeros, (UNKNOWN,) * len(forms), zeros, tuple(lines), name)


def annotated(sentence: Sentence, heads: Sequence[int], relations: Sequence[int], upos: Sequence[int] = ()) -> Sentence:
    """A sentence with other heads and relations; parts of speech are filled in where the sentence has none.

    All other columns, comments, multiword ranges and empty nodes stay as they were read.
    """
    lines, word = [], 0
    for line in sentence.lines:
        cells = line.split("\t")
        if line.startswith("#") or not _WORD.fullmatch(cells[0]):
            lines.append(line)
            continue
        cells[HEAD], cells[DEPREL] = str(heads[word]), RELATIONS[relations[word]]
        if upos and cells[UPOS_COLUMN] == "_":
            cells[UPOS_COLUMN] = UPOS[upos[word]]
        lines.append("\t".join(cells))
        word += 1
    filled = tuple(old or new for old, new in zip(sentence.upos, upos or sentence.upos, strict=True))
    return replace(sentence, heads=tuple(heads), relations=tuple(relations), upos=filled, lines=tuple(lines))


def conllu_text(sentences: Iterable[Sentence]) -> str:
    """CoNLL-U of sentences."""
    return "".join("\n".join(sentence.lines) + "\n\n" for sentence in sentences)


def write_conllu(path: Path, sentences: Iterable[Sentence]) -> None:
    """Write a file of CoNLL-U; its folder is made if absent."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, conllu_text(sentences))
