"""GLUE's files: every form, what is left out, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from repertory.core.problem import Problem
from repertory.data.glue import (
    COLA_CLASSES,
    SPECIAL,
    Sentences,
    is_task,
    read_sentences,
    read_task,
    write_acceptability,
)

MNLI_HEADER = (
    "index", "promptID", "pairID", "genre", "sentence1_binary_parse", "sentence2_binary_parse", "sentence1_parse",
    "sentence2_parse", "sentence1", "sentence2", "label1", "gold_label",
)  # fmt: skip


def write(path: Path, *rows: tuple[str, ...]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join("\t".join(row) + "\n" for row in rows), encoding="utf-8")
    return path


def read(path: Path, *rows: tuple[str, ...]) -> Sentences:
    return read_sentences(write(path, *rows))


def test_cola_has_no_header_and_quotes_are_literal(tmp_path: Path) -> None:
    found = read(tmp_path / "dev.tsv", ("gj04", "1", "", 'He said "yes.'), ("bc01", "0", "*", "Them laughs."))
    assert found.texts == (('He said "yes.',), ("Them laughs.",))
    assert (found.labels, found.classes, found.lines) == ((1, 0), COLA_CLASSES, (1, 2))


def test_pairs_are_found_by_their_header(tmp_path: Path) -> None:
    rte = read(
        tmp_path / "a.tsv", ("index", "sentence1", "sentence2", "label"), ("0", "A b.", "C d.", "not_entailment")
    )
    assert (rte.texts, rte.classes, rte.labels, rte.lines) == ((("A b.", "C d."),), ("not_entailment",), (0,), (2,))
    qnli = read(tmp_path / "b.tsv", ("index", "question", "sentence", "label"), ("0", "Who?", "She.", "entailment"))
    assert qnli.texts == (("Who?", "She."),)
    sst = read(tmp_path / "c.tsv", ("sentence", "label"), ("fine .", "1"), ("bad .", "0"))
    assert (sst.texts[1], sst.classes, sst.labels) == (("bad .",), ("0", "1"), (1, 0))


def test_mnli_has_its_sentences_in_columns_8_and_9_and_two_development_sets(tmp_path: Path) -> None:
    row = tuple(f"p{k}" for k in range(8))
    for name, labels in {
        "train.tsv": ("neutral", "contradiction", "entailment"),
        "dev_matched.tsv": ("neutral",),
        "dev_mismatched.tsv": ("entailment",),
    }.items():
        rows = [(*row, f"one {label} {name}", "two", "x", label) for label in labels]
        write(tmp_path / name, MNLI_HEADER, *rows)
    task = read_task(tmp_path)
    assert task.train.classes == ("contradiction", "entailment", "neutral")
    assert task.train.texts[0] == ("one neutral train.tsv", "two")
    assert {name: dev.labels for name, dev in task.dev.items()} == {"matched": (2,), "mismatched": (1,)}


def test_files_for_prediction_have_no_label(tmp_path: Path) -> None:
    test = read(tmp_path / "test.tsv", ("index", "sentence"), ("0", "A b."), ("1", "C d."))
    assert (test.labels, test.texts[1]) == ((-1, -1), ("C d.",))
    (tmp_path / "some.txt").write_text("One here.\n\nTwo\there.\n", encoding="utf-8")
    text = read_sentences(tmp_path / "some.txt")
    assert (text.texts, text.lines) == ((("One here.",), ("Two\there.",)), (1, 3))


def test_windows_files_and_blank_labels(tmp_path: Path) -> None:
    path = tmp_path / "train.tsv"
    path.write_bytes("\ufeffsentence\tlabel\r\nA b.\tyes\r\nC d.\t\r\nE f.\t-1\r\nG h.\tno\r\n".encode())
    found = read_sentences(path)
    assert (found.labels, found.classes) == ((1, -1, -1, 0), ("no", "yes"))
    with pytest.warns(UserWarning, match="2 rows without label are left out"):
        assert found.labelled().texts == (("A b.",), ("G h.",))


def test_rows_of_dev_that_are_in_train_are_told(tmp_path: Path) -> None:
    write(tmp_path / "train.tsv", ("s", "1", "", "Same one."), ("s", "0", "*", "Other one."))
    write(tmp_path / "dev.tsv", ("s", "1", "", "Same one."))
    assert is_task(tmp_path)
    with pytest.warns(UserWarning, match="1 of 1 rows are in train.tsv too"):
        read_task(tmp_path)


@pytest.mark.parametrize(
    ("rows", "message", "where"),
    [
        ((("s", "1", "", "Fine one."), ("s", "1", "Short.")), "3 columns, expected 4", ":2"),
        ((("s", "1", "", "Fine one."), ("s", "2", "", "Odd.")), "unknown label '2'", ":2"),
        ((("sentence", "label"), ("", "1")), "an empty sentence", ":2"),
        ((("a", "b", "c"),), "no known columns in line 1: a, b, c", "x.tsv"),
        ((), "x.tsv is empty", "x.tsv"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(
    tmp_path: Path, rows: tuple[tuple[str, ...], ...], message: str, where: str
) -> None:
    with pytest.raises(Problem, match=message) as caught:
        read(tmp_path / "x.tsv", *rows)
    assert caught.value.where.endswith(where)


def test_bad_files(tmp_path: Path) -> None:
    (tmp_path / "latin.tsv").write_bytes(b"sentence\tlabel\ncaf\xe9\t1\n")
    with pytest.raises(Problem, match="not in UTF-8"):
        read_sentences(tmp_path / "latin.tsv")
    write(tmp_path / "train.tsv", ("s", "1", "", "One two."))
    with pytest.raises(Problem, match=r"dev\.tsv is missing"):
        read_task(tmp_path)
    write(tmp_path / "dev.tsv", ("index", "sentence1", "sentence2", "label"), ("0", "A", "B", "acceptable"))
    with pytest.raises(Problem, match=r"2 sentence\(s\) a row, train.tsv has 1"):
        read_task(tmp_path)
    write(tmp_path / "dev.tsv", ("sentence", "label"), ("A b.", "maybe"))
    with pytest.raises(Problem, match="unknown label 'maybe'"):
        read_task(tmp_path)


def test_the_sample_is_a_cola_of_distinct_sentences(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        write_acceptability(tmp_path / folder, 400, 100)
    for name in ("train.tsv", "dev.tsv", "vocab.txt"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    task = read_task(tmp_path / "one")  # warns of nothing
    assert (len(task.train), len(task.dev[""])) == (400, 100)
    assert 0.6 < sum(task.train.labels) / 400 < 0.8
    words = (tmp_path / "one" / "vocab.txt").read_text(encoding="utf-8").split()
    assert tuple(words[:5]) == SPECIAL
    used = {word for (text,) in task.train.texts for word in text.lower().rstrip(".").split()}
    assert used <= set(words)
    marks = {
        row.split("\t")[1:3][0] + row.split("\t")[2] for row in (tmp_path / "one" / "dev.tsv").read_text().splitlines()
    }
    assert marks == {"1", "0*"}
