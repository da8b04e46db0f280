"""CoNLL-U: the reader beside that of the package conllu, bad input, splits that are missing, writing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from repertory.core.problem import Problem
from repertory.data import conllu
from repertory.data.conllu import RELATIONS, UPOS, read_conllu, read_treebanks, tree_fault, write_conllu

GOOD = """\
# newpar
# sent_id = x1
# text = don't go
1-2\tdon't\t_\t_\t_\t_\t_\t_\t_\t_
1\tdo\tdo\tAUX\tVBP\tMood=Imp\t3\taux\t_\t_
2\tn't\tnot\tPART\tRB\t_\t3\tadvmod:neg\t_\t_
# inside
3\tgo\tgo\tVERB\tVB\t_\t0\troot\t_\t_
3.1\tnull\t_\t_\t_\t_\t_\t_\t3:dep\t_

1\tYes\tyes\tINTJ\t_\t_\t0\troot\t_\t_
"""


def word(number: int, head: str, relation: str = "dep", upos: str = "X") -> str:
    return f"{number}\tw\tw\t{upos}\t_\t_\t{head}\t{relation}\t_\t_\n"


def written(folder: Path, text: str, name: str = "a.conllu") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def test_reads_what_the_package_reads(tmp_path: Path) -> None:
    package = pytest.importorskip("conllu")
    theirs = package.parse(GOOD.replace("# inside\n", ""))
    ours = read_conllu(written(tmp_path, GOOD))
    assert len(ours) == len(theirs) == 2
    for sentence, tokens in zip(ours, theirs, strict=True):
        words = [token for token in tokens if isinstance(token["id"], int)]
        assert sentence.forms == tuple(token["form"] for token in words)
        assert sentence.heads == tuple(token["head"] for token in words)
        assert [UPOS[k] for k in sentence.upos] == [token["upos"] for token in words]
        assert [RELATIONS[k] for k in sentence.relations] == [token["deprel"].partition(":")[0] for token in words]
    assert (ours[0].name, ours[1].name) == ("x1", "line 11")


def test_windows_line_ends_and_a_byte_order_mark_are_taken(tmp_path: Path) -> None:
    path = tmp_path / "a.conllu"
    path.write_bytes(b"\xef\xbb\xbf" + GOOD.replace("\n", "\r\n").encode())
    assert [len(s) for s in read_conllu(path)] == [3, 1]


def test_what_was_read_is_written(tmp_path: Path) -> None:
    path = written(tmp_path, GOOD)
    write_conllu(tmp_path / "new" / "b.conllu", read_conllu(path))
    assert (tmp_path / "new" / "b.conllu").read_text(encoding="utf-8") == GOOD + "\n"
    sentence = read_conllu(path)[0]
    other = conllu.annotated(sentence, [2, 0, 2], [6, 35, 29], [16, 16, 16])
    assert other.upos == sentence.upos
    assert "3\tgo\tgo\tVERB\tVB\t_\t2\tobj\t_\t_" in other.lines
    assert other.lines[3] == sentence.lines[3]


@pytest.mark.parametrize(
    ("text", "what", "place"),
    [
        ("1\tw\tw\n", "3 columns", ":1"),
        (word(1, "0", "root") + word(3, "1"), "word 2 is expected", ":2"),
        ("x" + word(1, "0"), "'x1' is no word number", ":1"),
        (word(1, "0", "root") + word(2, "7"), "the head of word 2 is 7", ":1"),
        (word(1, "0", "root") + word(2, "0", "root"), r"2 roots \(1, 2\)", ":1"),
        (word(1, "2") + word(2, "1"), "no root", ":1"),
        (word(1, "0", "root") + word(2, "3") + word(3, "2"), "word 2 depends on itself", ":1"),
        (word(1, "0", "root") + word(2, "_"), "word 2 has no head", ":1"),
        (word(1, "-1"), "the head is '-1'", ":1"),
        (word(1, "0", "root") + word(2, "1", "subject") + word(3, "1", "dep", "N"), "subject .line 2., N .line 3.", ""),
        ("# a comment alone\n", "no sentences", ""),
        ("1-2" + "\t_" * 9 + "\n", "a sentence without words", ":1"),
    ],
)
def test_every_fault_is_named_with_its_place(tmp_path: Path, text: str, what: str, place: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(Problem, match=what) as caught:
        read_conllu(path)
    assert caught.value.where == f"{path}{place}"


def test_sentences_without_heads_are_for_prediction(tmp_path: Path) -> None:
    path = written(tmp_path, word(1, "_", "_") + word(2, "_", "_"), "UD_A-B/aa_b-ud-train.conllu")
    assert not read_conllu(path)[0].annotated
    with pytest.raises(Problem, match="sentence line 1 has no heads"):
        read_treebanks(tmp_path)
    assert tree_fault([-1, -1]) == ""


def test_missing_parts_are_cut_from_the_others_and_told(tmp_path: Path) -> None:
    sentences = [word(1, "0", "root").replace("w", f"w{k}") for k in range(30)]
    written(tmp_path, "\n".join(sentences), "UD_Old_Norse-PUD/non_pud-ud-test.conllu")
    with pytest.warns(UserWarning, match="lacks dev .* train .*cut from test"):
        (treebank,) = read_treebanks(tmp_path)
    assert (treebank.code, treebank.language) == ("non", "Old Norse")
    parts = [treebank.train, treebank.dev, treebank.test]
    assert sum(map(len, parts)) == 30
    assert len({s.forms for part in parts for s in part}) == 30


def test_one_sentence_cannot_be_cut_into_parts(tmp_path: Path) -> None:
    written(tmp_path, word(1, "0", "root"), "UD_C-D/cc_d-ud-test.conllu")
    with pytest.raises(Problem, match="too few"):
        read_treebanks(tmp_path)


def test_two_treebanks_of_a_language_keep_their_names(tmp_path: Path) -> None:
    for stem in ("en_ewt", "en_gum", "de_gsd"):
        for part in ("train", "dev", "test"):
            written(tmp_path, GOOD, f"UD_{stem}/{stem}-ud-{part}.conllu")
    assert sorted(t.code for t in read_treebanks(tmp_path)) == ["de", "en_ewt", "en_gum"]


@pytest.mark.realdata
def test_real_treebanks(real_data: Callable[[str], Path]) -> None:
    treebanks = read_treebanks(real_data("ud_pud_sample"))
    assert sorted(t.code for t in treebanks) == ["de", "en", "fr", "hi", "tr"]
    assert {(len(t.train), len(t.dev), len(t.test)) for t in treebanks} == {(200, 50, 50)}


def test_long_numbers_and_empty_columns_are_named(tmp_path: Path) -> None:
    path = written(tmp_path, word(1, "9" * 5000, "root"))
    with pytest.raises(Problem, match="the head is '999"):
        read_conllu(path)
    with pytest.raises(Problem, match="column 2 is empty") as caught:
        read_conllu(written(tmp_path, word(1, "0", "root") + word(2, "1").replace("\tw\tw", "\t\tw")))
    assert caught.value.where == f"{path}:2"


def test_a_part_may_have_several_files(tmp_path: Path) -> None:
    for name in ("train-c", "train-l", "dev", "test"):
        written(tmp_path, GOOD, f"UD_Czech-PDT/cs_pdt-ud-{name}.conllu")
    (treebank,) = read_treebanks(tmp_path)
    assert len(treebank.train) == 2 * len(treebank.test)


def test_hidden_files_are_no_treebanks_and_a_broken_link_is_told(tmp_path: Path) -> None:
    for part in ("train", "dev", "test"):
        written(tmp_path, GOOD, f"UD_A-B/aa_b-ud-{part}.conllu")
        written(tmp_path, "\x00", f"UD_A-B/._aa_b-ud-{part}.conllu")
        written(tmp_path, "\x00", f".git/UD_A-B/bb_b-ud-{part}.conllu")
    assert [t.code for t in read_treebanks(tmp_path)] == ["aa"]
    (tmp_path / "UD_A-B" / "aa_b-ud-dev.conllu").unlink()
    (tmp_path / "UD_A-B" / "aa_b-ud-dev.conllu").symlink_to("nowhere")
    with pytest.raises(Problem, match="is a link to a file that is not there"):
        read_treebanks(tmp_path)


def test_words_without_relations_are_for_prediction(tmp_path: Path) -> None:
    written(tmp_path, word(1, "0", "root") + word(2, "1", "_"), "UD_A-B/aa_b-ud-train.conllu")
    with pytest.raises(Problem, match="has no relation of some word"):
        read_treebanks(tmp_path)
