r"""Sentence classification in GLUE's files, and a small sample in the format of CoLA.

    train.tsv, dev.tsv (MNLI: dev_matched.tsv, dev_mismatched.tsv), test.tsv; tab-separated, quotes are literal

    CoLA       no header; source, label (1 acceptable), the author's mark ("" or "*"), sentence
    RTE        index, sentence1, sentence2, label
    QNLI       index, question, sentence, label
    MNLI       index, …, sentence1 (column 9), sentence2 (column 10), …, gold_label (last column)
    SST-2      sentence, label

The header tells which it is. Files for prediction have no label: a test.tsv, or a .txt of one sentence a line.
"""

from __future__ import annotations

import random
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from repertory.core.files import write_text
from repertory.core.problem import Problem
from repertory.data.arrays import read_text

LAYOUT = """\
train.tsv and dev.tsv, tab-separated: source, label, mark, sentence without header (CoLA),
or with a header: sentence1, sentence2, label (RTE); question, sentence, label (QNLI); sentence, label"""
DEV = ("dev.tsv", "dev_matched.tsv", "dev_mismatched.tsv")
UNLABELLED = -1
NO_LABEL = ("", "-", "-1")
"""What stands for a label where there is none."""

COLA_CLASSES = ("unacceptable", "acceptable")
COLA_COLUMNS: tuple[str, ...] = ("source", "label", "mark", "sentence")
TEXT_COLUMNS: tuple[tuple[str, ...], ...] = (("sentence1", "sentence2"), ("question", "sentence"), ("sentence",))
LABEL_COLUMNS = ("gold_label", "label")


@dataclass(frozen=True)
class Sentences:
    """Labelled sentences, or pairs of sentences."""

    path: Path
    texts: tuple[tuple[str, ...], ...]
    """One or two sentences each."""
    labels: tuple[int, ...]
    """Numbers of classes; -1: unlabelled."""
    classes: tuple[str, ...]
    lines: tuple[int, ...]
    """Line in the file, from 1."""

    def __len__(self) -> int:
        return len(self.texts)

    def subset(self, indices: Sequence[int]) -> Sentences:
        """Some of the sentences."""
        chosen = {name: tuple(getattr(self, name)[i] for i in indices) for name in ("texts", "labels", "lines")}
        return replace(self, **chosen)

    def labelled(self) -> Sentences:
        """Those with a label; warns of the others."""
        kept = [i for i, label in enumerate(self.labels) if label != UNLABELLED]
        if len(kept) < len(self):
            warnings.warn(f"{self.path}: {len(self) - len(kept)} rows without label are left out", stacklevel=2)
        return self.subset(kept)


@dataclass(frozen=True)
class GlueTask:
    """Sentences for training and development. MNLI has two development sets, "matched" and "mismatched"."""

    train: Sentences
    dev: Mapping[str, Sentences]


def is_task(folder: Path) -> bool:
    """Whether a folder holds a task's files."""
    return any((folder / name).is_file() for name in ("train.tsv", *DEV))


def read_task(folder: Path) -> GlueTask:
    """The labelled sentences of a task.

    Raises:
        Problem: no such files, a row of the wrong form (names file and line), a label that only dev has.
    """
    found = [folder / name for name in DEV if (folder / name).is_file()]
    if not (folder / "train.tsv").is_file() or not found:
        missing = "train.tsv" if found else "dev.tsv"
        raise Problem(f"{missing} is missing", folder, f"expected: {' '.join(LAYOUT.split())}")
    train = read_sentences(folder / "train.tsv").labelled()
    dev = {path.stem.partition("_")[2]: read_sentences(path, train.classes).labelled() for path in found}
    for part in (train, *dev.values()):
        if not len(part):
            raise Problem("no labelled rows", part.path, "give at least one")
        if len(part.texts[0]) != len(train.texts[0]):
            raise Problem(
                f"{len(part.texts[0])} sentence(s) a row, train.tsv has {len(train.texts[0])}",
                part.path,
                "give files of one task",
            )
    _warn_of_shared(train, dev)
    return GlueTask(train, dev)


def _warn_of_shared(train: Sentences, dev: Mapping[str, Sentences]) -> None:
    known = set(train.texts)
    for part in dev.values():
        shared = sum(text in known for text in part.texts)
        if shared:
            warnings.warn(f"{part.path}: {shared} of {len(part)} rows are in train.tsv too", stacklevel=3)


def read_sentences(path: Path, classes: Sequence[str] = ()) -> Sentences:
    """The sentences of one file: .tsv of any of the forms above, or .txt.

    Args:
        path: the file.
        classes: known names; default: those in the file, sorted.

    Raises:
        Problem: not UTF-8, no known columns, a row with other columns than the first, an unknown label, no sentence.
    """
    rows = [(k, line.removesuffix("\r")) for k, line in enumerate(read_text(path).split("\n"), 1)]
    rows = [(k, line) for k, line in rows if line.strip()]
    if not rows:
        raise Problem(f"{path.name} is empty", path, "give one row per sentence")
    if path.suffix == ".txt":
        return Sentences(
            path,
            tuple((line,) for _, line in rows),
            (UNLABELLED,) * len(rows),
            tuple(classes),
            tuple(k for k, _ in rows),
        )

    header = rows[0][1].split("\t")
    texts = next((names for names in TEXT_COLUMNS if set(names) <= set(header)), None)
    cola = texts is None and len(header) == len(COLA_COLUMNS) and header[1] in ("0", "1", *NO_LABEL)
    if cola:
        header, texts = list(COLA_COLUMNS), ("sentence",)
    else:
        rows = rows[1:]
    if texts is None:
        raise Problem(
            f"no known columns in line 1: {', '.join(header)[:80]}", path, f"expected: {' '.join(LAYOUT.split())}"
        )
    places = [header.index(name) for name in texts]
    label_place = next((header.index(name) for name in LABEL_COLUMNS if name in header), None)

    cells = [_row(line, k, len(header), places, path) for k, line in rows]
    words = [UNLABELLED if label_place is None else row[label_place].strip() for row in cells]
    if cola:
        words = [COLA_CLASSES[int(word)] if word in ("0", "1") else word for word in words]
    known = list(classes) or (list(COLA_CLASSES) if cola else sorted({str(w) for w in words} - {*NO_LABEL}))
    labels = []
    for (k, _), word in zip(rows, words, strict=True):
        if word in (UNLABELLED, *NO_LABEL):
            labels.append(UNLABELLED)
        elif word in known:
            labels.append(known.index(str(word)))
        else:
            raise Problem(f"unknown label {word!r}", f"{path}:{k}", f"known: {', '.join(known)}")
    return Sentences(
        path,
        tuple(tuple(row[place].strip() for place in places) for row in cells),
        tuple(labels),
        tuple(known),
        tuple(k for k, _ in rows),
    )


def _row(line: str, number: int, columns: int, texts: Sequence[int], path: Path) -> list[str]:
    cells = line.split("\t")
    if len(cells) != columns:
        raise Problem(f"{len(cells)} columns, expected {columns}", f"{path}:{number}", "separate columns by one tab")
    if any(not cells[place].strip() for place in texts):
        raise Problem("an empty sentence", f"{path}:{number}", "fill it in, or remove the row")
    return cells


# -- sample -------------------------------------------------------------------------------------

NOUNS = ("dog", "doctor", "farmer", "teacher", "letter", "river", "student", "king")
ADJECTIVES = ("old", "quiet", "happy", "small")
DETERMINERS = {"singular": ("the", "this", "every"), "plural": ("the", "these", "some")}
VERBS = ("praise", "help", "visit", "follow", "ignore", "remember")
GOVERNED = {"wait": "for", "depend": "on", "listen": "to", "believe": "in", "laugh": "at", "look": "after"}
"""Verb -> its preposition."""
PREPOSITIONS = ("near", "behind", "beside", "with")
ADVERBS = ("often", "never")
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def write_acceptability(folder: Path, train: int = 2000, dev: int = 500, seed: int = 0) -> None:
    """A synthetic CoLA: sentences of a small grammar, about 30 % with one violation, and vocab.txt beside them.

    Violations: the verb agrees with a noun in between, a determiner is missing or doubled, a preposition is wrong, two
    words are exchanged. All sentences differ.

    Args:
        folder: train.tsv, dev.tsv and vocab.txt (words of the grammar, in the format of BERT) are made in it.
        train: sentences for training.
        dev: sentences held out.
        seed: of the generator.
    """
    rows = list(_distinct_rows(train + dev, random.Random(seed)))
    for name, part in (("train.tsv", rows[:train]), ("dev.tsv", rows[train:])):
        write_text(folder / name, "".join(part))
    stems = (*NOUNS, *VERBS, *GOVERNED)
    determiners = (word for words in DETERMINERS.values() for word in words)
    others = (*determiners, *ADJECTIVES, *ADVERBS, *PREPOSITIONS, *GOVERNED.values(), ".")
    words = sorted({*stems, *(stem + "s" for stem in stems), *others})
    write_text(folder / "vocab.txt", "".join(f"{word}\n" for word in (*SPECIAL, *words)))


def _distinct_rows(count: int, rng: random.Random) -> Iterator[str]:
    seen: set[str] = set()
    while len(seen) < count:
        words, fine = _sentence(rng)
        sentence = " ".join(words).capitalize() + "."
        if sentence not in seen:
            seen.add(sentence)
            yield f"sy01\t{int(fine)}\t{'' if fine else '*'}\t{sentence}\n"


def _sentence(rng: random.Random) -> tuple[list[str], bool]:
    """A sentence, and whether it is acceptable."""
    violation = rng.choice(("agreement", "missing", "doubled", "preposition", "order")) if rng.random() < 0.3 else ""
    number, other = rng.choice((("singular", "plural"), ("plural", "singular")))
    subject = _noun_phrase(rng, number)
    if violation == "agreement" or rng.random() < 0.4:  # a phrase between subject and verb
        between = other if violation == "agreement" or rng.random() < 0.5 else number
        subject += [rng.choice(PREPOSITIONS), *_noun_phrase(rng, between)]
    inflected = number == "singular"
    if violation == "agreement":
        inflected = not inflected
    if violation == "preposition" or rng.random() < 0.5:
        verb, preposition = rng.choice(list(GOVERNED.items()))
        if violation == "preposition":
            preposition = rng.choice(sorted({*GOVERNED.values()} - {preposition}))
        predicate = [verb + "s" if inflected else verb, preposition]
    else:
        verb = rng.choice(VERBS)
        predicate = [verb + "s" if inflected else verb]
    item = _noun_phrase(rng, rng.choice(("singular", "plural")))
    if violation == "missing":
        item = [rng.choice(NOUNS)]
    if violation == "doubled":
        item = [item[0], rng.choice(DETERMINERS["singular"]), *item[1:]]
    words = [*subject, *([rng.choice(ADVERBS)] if rng.random() < 0.2 else []), *predicate, *item]
    if violation == "order":
        place = rng.choice((0, len(subject) - 1, len(words) - 2))
        words[place], words[place + 1] = words[place + 1], words[place]
    return words, not violation


def _noun_phrase(rng: random.Random, number: str) -> list[str]:
    noun = rng.choice(NOUNS)
    adjective = [rng.choice(ADJECTIVES)] if rng.random() < 0.2 else []
    return [rng.choice(DETERMINERS[number]), *adjective, noun if number == "singular" else noun + "s"]
