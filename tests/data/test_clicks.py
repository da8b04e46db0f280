"""Click logs: every spelling of the formats, streaming, vocabularies, splits, and what is said of bad rows."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import pytest

from repertory.core.problem import Problem
from repertory.data import clicks
from repertory.data.clicks import Preparation, Schema, find_logs, open_log, read_clicks, read_rows

pytest.importorskip("polars", reason="pip install 'repertory[recommendation]'")

NAMES = [*(f"I{k}" for k in range(1, 14)), *(f"C{k}" for k in range(1, 27))]
PLAIN: Any = {"split": "ordered", "test_fraction": 0.25, "valid_fraction": 0.0, "min_count": 0}


def rng(word: str) -> np.random.Generator:
    return np.random.default_rng(crc32(word.encode()))


def criteo_rows(count: int) -> list[list[str]]:
    """Cells of rows: label, I1 ... I13, C1 ... C26."""
    return [
        [
            str(k % 2),
            *("" if (k + j) % 5 == 0 else str((k * (j + 1)) % 40 - (j == 1)) for j in range(13)),
            *("" if (k + j) % 7 == 0 else f"{(k // 2 + j) % 4:08x}" for j in range(26)),
        ]
        for k in range(count)
    ]


def write_lines(path: Path, lines: list[str]) -> Path:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def table(path: Path, text: str, **preparation: Any) -> clicks.Clicks:
    path.write_text(text, encoding="utf-8")
    return read_clicks({"train": path}, Preparation(**{**PLAIN, **preparation}), rng)


# -- Criteo -----------------------------------------------------------------------------------------


def test_all_spellings_of_criteo_are_the_same_rows(tmp_path: Path) -> None:
    rows = criteo_rows(24)
    tabs = write_lines(tmp_path / "train.txt", ["\t".join(cells) for cells in rows])
    header = f"{{}},{','.join(NAMES)}"
    floats = [[cell if j == 0 or j > 13 or not cell else f"{cell}.0" for j, cell in enumerate(row)] for row in rows]
    spellings = [
        write_lines(tmp_path / "a.csv", [header.format("Label"), *(",".join(cells) for cells in rows)]),
        write_lines(tmp_path / "b.csv", [header.format("label"), *(",".join(cells) for cells in floats)]),
        write_lines(tmp_path / "c.csv", [header.format("label"), *(",".join(cells) + "\r" for cells in rows)]),
        tmp_path / "train.txt.gz",
        tmp_path / "bom.txt",
        tmp_path / "unfinished.txt",
    ]
    spellings[3].write_bytes(gzip.compress(tabs.read_bytes()))
    spellings[4].write_bytes(b"\xef\xbb\xbf" + tabs.read_bytes())
    spellings[5].write_bytes(tabs.read_bytes().rstrip(b"\n"))
    expected = read_clicks({"train": tabs}, Preparation(**PLAIN), rng)
    assert expected.schema.format == "criteo"
    assert expected.schema.fields == tuple(NAMES)
    assert expected.labels.tolist() == [k % 2 for k in range(24)]
    for path in spellings:
        found = read_clicks({"train": path}, Preparation(**PLAIN), rng)
        np.testing.assert_array_equal(found.ids, expected.ids, err_msg=path.name)
        np.testing.assert_array_equal(found.labels, expected.labels)


def test_ids_by_hand(tmp_path: Path) -> None:
    data = table(
        tmp_path / "a.csv",
        "label,n,c\n1,-1,x\n0,,y\n1,10,x\n0,3,\n0,0,z\n1,1,y\n",
        numeric=("n",),
        categorical=("c",),
        test_fraction=0.34,
    )
    # ln(2) = 0.69, ln(101) = 4.6, ln(10) = 2.3; an empty number is in the bucket of 0; z is in the test rows alone.
    assert data.ids[:, 0].tolist() == [1, 1, 5, 3, 1, 1]
    assert data.ids[:, 1].tolist() == [1, 2, 1, 0, 0, 2]
    assert data.schema.sizes == [64, 2]
    assert data.schema.vocabularies["c"] == ["x", "y"]


@pytest.mark.parametrize("size", [37, 300, 5000])
def test_the_size_of_blocks_does_not_matter(tmp_path: Path, size: int) -> None:
    lines = ["label,c,n", *(f'{k % 2},"a, ""{k % 3}""\nx",{k}' if k % 4 else f"{k % 2},b,{k}" for k in range(50))]
    path = write_lines(tmp_path / "a.csv", lines)
    log = open_log(path, "label", ["n"], ["c"])
    (whole,), parts = list(read_rows(log)), list(read_rows(log, size=size))
    assert len(parts) > 1 or size == 5000
    assert [word for part in parts for word in part.levels["c"]] == whole.levels["c"].to_list()
    assert whole.levels["c"][1] == 'a, "1"\nx'
    np.testing.assert_array_equal(np.concatenate([part.lines for part in parts]), whole.lines)
    assert whole.lines[:4].tolist() == [2, 3, 5, 7]
    np.testing.assert_array_equal(np.concatenate([part.buckets["n"] for part in parts]), whole.buckets["n"])


def test_only_an_empty_cell_is_missing(tmp_path: Path) -> None:
    data = table(
        tmp_path / "a.csv", 'y,c\n1,NA\n0,null\n1,nan\n0,\n1,""\n0, NA\n0,None\n1,NA\n', categorical=("c",), label="y"
    )
    assert data.schema.vocabularies["c"] == ["NA", "null", "nan"]
    assert data.ids[:, 0].tolist() == [1, 2, 3, 0, 0, 1, 0, 1]


def test_test_txt_has_no_labels(tmp_path: Path) -> None:
    rows = criteo_rows(4)
    path = write_lines(tmp_path / "test.txt", ["\t".join(cells[1:]) for cells in rows])
    log = open_log(path, labelled=False)
    assert (log.format, log.label, len(log.names)) == ("criteo", "", 39)
    assert next(read_rows(log)).labels is None
    with pytest.raises(Problem, match=r"no column of labels; 39 columns are Criteo's test\.txt"):
        open_log(path)
    write_lines(tmp_path / "train.txt", ["\t".join(cells) for cells in rows * 3])
    with pytest.warns(UserWarning, match="no labels; it is left out"):
        data = read_clicks(find_logs(tmp_path) or {}, Preparation(**PLAIN), rng)
    assert data.notes == ("test.txt has no labels and is left out",)
    assert len(data.labels) == 12


def test_real_rows_of_criteo(real_data: Callable[[str], Path]) -> None:
    data = read_clicks(find_logs(real_data("criteo_sample")) or {}, Preparation(**{**PLAIN, "min_count": 1}), rng)
    assert data.ids.shape == (200, 39)
    assert data.ids[0, :4].tolist() == [1, 3, 12, 1]  # empty, 3, 260.0, empty
    assert data.schema.vocabularies["C1"][:2] == ["05db9164", "68fd1e64"]


# -- Avazu and iPinYou ------------------------------------------------------------------------------

AVAZU = (
    "id,click,hour,C1,banner_pos,site_id,site_domain,site_category,app_id,app_domain,app_category,device_id,device_ip,"
    "device_model,device_type,device_conn_type,C14,C15,C16,C17,C18,C19,C20,C21"
)
IPINYOU = (  # as in the header
    "click weekday hour bidid timestamp logtype ipinyouid useragent IP region city adexchange domain url urlid slotid "
    "slotwidth slotheight slotvisibility slotformat slotprice creative bidprice payprice keypage advertiser usertag"
)


def test_avazu(tmp_path: Path) -> None:
    rest = ",".join(["1005", "0", *["1fbe01fe"] * 9, "1", "0", "15706", "320", "50", "1722", "0", "35", "-1", "79"])
    path = write_lines(tmp_path / "train.csv", [AVAZU, *(f"{k},{k % 2},1410{21 + k}0{k},{rest}" for k in range(8))])
    data = read_clicks({"train": path}, Preparation(**PLAIN), rng)
    assert data.schema.fields == ("weekday", "hour_of_day", *AVAZU.split(",")[3:])
    assert data.schema.vocabularies["weekday"] == ["2", "3", "4", "5", "6", "7"]  # 21 October 2014 was a Tuesday
    assert data.schema.vocabularies["hour_of_day"][:2] == ["00", "01"]
    path.write_text(path.read_text().replace("14102303", "14132303").replace("14102202", "1410220"))
    broken = path.read_text().replace("141023", "149923")
    with pytest.raises(Problem, match=r"line 4: hour is '14992302', not YYMMDDHH"):
        read_clicks({"train": write_lines(tmp_path / "b.csv", broken.splitlines())}, Preparation(**PLAIN), rng)


def test_ipinyou(tmp_path: Path) -> None:
    def line(k: int) -> str:
        cells = {name: f"{name}{k % 3}" for name in IPINYOU.split()}
        cells |= {
            "click": str(k % 2),
            "slotprice": str(k),
            "usertag": "10006,10024" if k % 2 else "",
            "useragent": 'a "b',
        }
        return "\t".join(cells.values())

    folder = tmp_path / "1458"
    folder.mkdir()
    write_lines(folder / "train.log.txt", [IPINYOU.replace(" ", "\t"), *map(line, range(9))])
    write_lines(folder / "test.log.txt", [IPINYOU.replace(" ", "\t"), *map(line, range(4))])
    data = read_clicks(find_logs(folder) or {}, Preparation(**PLAIN), rng)
    assert data.split["train"].tolist() == list(range(9))
    assert data.split["test"].tolist() == [9, 10, 11, 12]
    assert data.schema.numeric == {"slotprice"}
    assert not {"bidid", "timestamp", "logtype", "bidprice", "payprice", "click"} & set(data.schema.fields)
    assert data.schema.vocabularies["usertag"] == ["10006,10024"]
    assert data.schema.vocabularies["useragent"] == ['a "b']
    with pytest.raises(Problem, match="folders of 1 advertisers: 1458"):
        find_logs(tmp_path)


# -- one's own tables ---------------------------------------------------------------------------------


def test_kinds_are_inferred(tmp_path: Path) -> None:
    lines = ["Click,price,colour,code", *(f"{k % 2},{k / 2},{'rgb'[k % 3]},{k % 9}" for k in range(200))]
    log = open_log(write_lines(tmp_path / "a.csv", lines))
    assert (log.label, log.numeric, log.categorical) == ("Click", ("price",), ("colour", "code"))


def test_files_for_parts(tmp_path: Path) -> None:
    for name, rows in (("train.csv", "1,a\n0,b\n1,c\n"), ("val.csv", "0,a\n"), ("test.csv", "1,b\n0,z\n")):
        (tmp_path / name).write_text(f"label,c\n{rows}")
    (tmp_path / ".hidden.csv").write_text("x")
    (tmp_path / "README.txt").write_text("x")
    data = read_clicks(find_logs(tmp_path) or {}, Preparation(**PLAIN), rng)
    assert {part: rows.tolist() for part, rows in data.split.items()} == {
        "train": [0, 1, 2],
        "valid": [3],
        "test": [4, 5],
    }
    assert data.ids[:, 0].tolist() == [1, 2, 3, 1, 2, 0]
    (tmp_path / "test.csv").write_text("label,d\n1,b\n")
    with pytest.raises(Problem, match=r"test\.csv has no column 'c'"):
        read_clicks(find_logs(tmp_path) or {}, Preparation(**PLAIN), rng)
    (tmp_path / "test.txt").write_text("x")
    with pytest.raises(Problem, match=r"which of these is it: test\.csv, test\.txt"):
        find_logs(tmp_path)


# -- vocabularies, hashing, splits --------------------------------------------------------------------


def test_the_frequency_cut_counts_training_rows_alone(tmp_path: Path) -> None:
    text = "label,c\n" + "".join(f"{k % 2},{'abcd'[min(3, k // 4)]}\n" for k in range(16)) + "1,d\n" * 4
    data = table(tmp_path / "a.csv", text, min_count=3, test_fraction=0.3)  # 14 training rows: a 4, b 4, c 4, d 2
    assert data.schema.vocabularies["c"] == ["a", "b", "c"]
    with pytest.raises(Problem, match=r"no category comes more than 4 times in 14 training rows[\s\S]*min_count=0"):
        table(tmp_path / "a.csv", text, min_count=4, test_fraction=0.3)


def test_counts_are_merged_across_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    pl: Any = pytest.importorskip("polars")
    words = np.random.default_rng(0).integers(300, size=4000).astype(str)
    counts = clicks.LevelCounts()
    for first in range(0, 4000, 100):
        counts.add(pl.Series(words[first : first + 100]), first)
        if first % 700 == 0:
            counts._merge()
    first_of = {word: int(np.argmax(words == word)) for word in np.unique(words)}
    wanted = [w for w in sorted(first_of, key=first_of.__getitem__) if (words == w).sum() > 12]
    assert counts.vocabulary(12) == wanted
    assert len(counts) == len(first_of)


def test_hashing_needs_no_vocabulary(tmp_path: Path) -> None:
    data = table(tmp_path / "a.csv", "label,c\n" + "1,x\n0,y\n0,\n" * 4, hash_buckets=5)
    wanted = [1 + crc32(b"x") % 5, 1 + crc32(b"y") % 5, 0]
    assert data.ids[:, 0].tolist() == wanted * 4
    assert (data.schema.sizes, data.schema.vocabularies) == ([5], {})


def test_splits(tmp_path: Path) -> None:
    text = "label,c\n" + "1,a\n0,b\n" * 1000
    released = table(tmp_path / "a.csv", text, split="released")
    assert len(released.split["test"]) == 2 * 199
    assert released.split["test"][:2].tolist() == [801, 802]
    drawn = table(tmp_path / "a.csv", text, split="random", test_fraction=0.3, valid_fraction=0.2)
    assert len(drawn.split["test"]) == pytest.approx(600, abs=60)
    assert len(drawn.split["valid"]) == pytest.approx(0.2 * 1400, abs=45)
    assert sum(map(len, drawn.split.values())) == 2000
    other = read_clicks(
        {"train": tmp_path / "a.csv"},
        Preparation(**{**PLAIN, "split": "random", "test_fraction": 0.3}),
        lambda word: np.random.default_rng([7, crc32(word.encode())]),
    )
    assert other.split["test"].tolist() != drawn.split["test"].tolist()


def test_many_rows_lie_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REPERTORY_CACHE", str(tmp_path / "cache"))
    text = "label,c,n\n" + "1,a,3\n0,b,\n0,a,1\n" * 40
    expected = table(tmp_path / "a.csv", text, numeric=("n",), categorical=("c",))
    monkeypatch.setattr(clicks, "IN_MEMORY", 0)
    for _ in range(2):  # written, then found
        preparation = Preparation(**PLAIN, numeric=("n",), categorical=("c",))
        found = read_clicks({"train": tmp_path / "a.csv"}, preparation, rng)
        assert isinstance(found.ids, np.memmap)
        np.testing.assert_array_equal(found.ids, expected.ids)
        assert found.schema == expected.schema
    assert len(list((tmp_path / "cache" / "clicks").glob("*/ids.npy"))) == 1


def test_a_schema_survives_json(tmp_path: Path) -> None:
    data = table(tmp_path / "a.csv", "label,c,n\n1,a,3\n0,b,\n0,a,1\n1,a,1\n", numeric=("n",), categorical=("c",))
    assert Schema.from_json(data.schema.to_json()) == data.schema
    (tmp_path / "b.csv").write_text("n,c\n1,b\n")
    (rows,) = read_rows(data.schema.open(tmp_path / "b.csv"))
    assert data.schema.encode(rows).tolist() == [[1, 2]]
    (tmp_path / "b.csv").write_text("n,d\n1,b\n")
    with pytest.raises(Problem, match="no column is called 'c'"):
        data.schema.open(tmp_path / "b.csv")


# -- bad input ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('label,c\n1,a\n0,b"c\n1,"d\n0,e"\n', "a.csv.* cannot be parsed|columns, not 2"),
        ("label,c\r1,a\r0,b\r", "line 1 is no line of a table"),
        ("label," + "c" * 200_000 + "\n1,a\n", "line 1 is no line of a table: field larger"),
        ("label,c\n1,a\n2,b\nyes,c\n,d\n", r"line 3: the label 'label' must be 0 or 1; found '2', 'yes', \(empty\)"),
        ("label,n\n1,3\n0,abc\n", "line 3: n is 'abc', not a number"),
        ("label,n\n1,3\n0,inf\n", "line 3: n is 'inf', not a number"),
        ("label,n\n1,3\n0,4,5\n", "line 3: has 3 columns, not 2"),
        ("label,n\n1,3\n\n0,4\n", "line 3: is empty"),
        ("label,n\n", "has no rows"),
        ("", "is empty"),
        ("label,label,n\n1,1,2\n", "two columns are called 'label'"),
        ("label,,n\n1,1,2\n", "a column has no name"),
        ("a,n\n1,2\n", "no column of labels; it has: a, n"),
        ("label\n1\n", "no column but the label"),
        ("label,n\n1,3\n1,2\n1,2\n1,5\n", "all labels of the training rows are 1"),
    ],
)
def test_bad_tables_are_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(Problem, match=message):
        table(tmp_path / "a.csv", text, **({"numeric": ("n",)} if "\nlabel,n" in f"\n{text}" else {}))


def test_bad_lines_of_criteo_are_numbered(tmp_path: Path) -> None:
    rows = ["\t".join(cells) for cells in criteo_rows(4)]
    rows[2] = rows[2].rpartition("\t")[0]
    with pytest.raises(Problem, match="line 3: has 39 columns, not 40"):
        read_clicks({"train": write_lines(tmp_path / "train.txt", rows)}, Preparation(**PLAIN), rng)
    with pytest.raises(Problem, match=r"train\.txt has 40 columns and no such line"):
        open_log(write_lines(tmp_path / "train.txt", ["1\t2\t2", "0\t3\t4"]))


def test_unknown_columns_are_named(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.csv", ["label,price,colour", "1,2,3"])
    with pytest.raises(Problem, match=r"no column is called .prise.: did you mean price"):
        open_log(path, "label", ["prise"])
    with pytest.raises(Problem, match="both numeric and categorical"):
        open_log(path, "label", ["price"], ["price"])
    with pytest.raises(Problem, match="a model must not read the label"):
        open_log(path, "label", ["label"])
    with pytest.raises(Problem, match="no field is called 'I13'"):
        read_clicks({"train": path}, Preparation(**PLAIN, left_out=("I13",)), rng)


def test_columns_that_say_nothing_are_told(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="tells the model nothing") as caught:
        data = table(
            tmp_path / "a.csv", "label,c,d,n\n" + "1,,x,0.5\n0,,y,0.2\n" * 4, numeric=("n",), categorical=("c", "d")
        )
    assert data.notes == ("column c is empty", "all numbers of n fall in one bucket")
    assert len(caught) == 2


def test_damaged_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "train.csv.gz"
    path.write_bytes(gzip.compress(b"label,c\n" + b"1,a\n0,b\n" * 5000)[:-30])
    with pytest.raises(Problem, match="cannot be read"):
        read_clicks({"train": path}, Preparation(**PLAIN), rng)
    (tmp_path / "a.csv").write_bytes(b"label,c\n1,\xff\xfe\n0,b\n")
    with pytest.raises(Problem, match="is not in UTF-8"):
        read_clicks({"train": tmp_path / "a.csv"}, Preparation(**PLAIN), rng)
    with pytest.raises(Problem, match="is missing"):
        open_log(tmp_path / "none.csv")


def test_a_quote_that_is_never_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clicks, "LONGEST", 1000)
    path = write_lines(tmp_path / "a.csv", ["label,c", '1,"a', *["0,b"] * 1000])
    with pytest.raises(Problem, match=r"line 2: no line ends in .* is a quote never closed"):
        list(read_rows(open_log(path, "label", [], ["c"]), size=100))


def test_faults_are_told_where_rows_are_wanted_all_the_same(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.csv", ["label,n,c", "1,2,a", "0,x,b", "0,1", "1,5,c"])
    (rows,) = read_rows(open_log(path, "label", ["n"], ["c"]), strict=False)
    assert rows.lines.tolist() == [2, 5]
    assert sorted(rows.faults) == [(3, "n is 'x', not a number"), (4, "has 2 columns, not 3")]
    assert rows.levels["c"].to_list() == ["a", "c"]


def test_empty_lines_at_the_end_are_no_rows(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("label,c\n1,a\n0,b\r\n\r\n\n")
    for size in (1, 3, 16, 1 << 10):
        assert sum(len(rows) for rows in read_rows(open_log(path), size=size)) == 2
    path.write_text("label,c\n1,a\n\n\n0,b\n")
    for size in (1, 3, 16):
        with pytest.raises(Problem, match="line 3: is empty"):
            list(read_rows(open_log(path), size=size))


def test_a_cell_of_spaces_is_empty(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.csv", [" c,n,label", "  ,1,1", "x, ,0", " x,2,1"])
    (rows,) = read_rows(open_log(path, "label", ["n"], ["c"]))
    assert rows.levels["c"].to_list() == [None, "x", "x"]
    assert rows.buckets["n"].tolist() == [0, 0, 1]


def test_rows_in_quotes_over_several_lines_count_once(tmp_path: Path) -> None:
    rows = "".join(f'{k % 2},"a\n\n\nb{k % 3}"\n' for k in range(20))
    data = table(tmp_path / "a.csv", "label,c\n" + rows)
    assert data.split["test"].tolist() == list(range(15, 20))


@pytest.mark.parametrize("hour", ["14102124", "141021ab", "14102"])
def test_hours_that_do_not_exist_are_named(tmp_path: Path, hour: str) -> None:
    path = write_lines(
        tmp_path / "train.csv",
        ["id,click,hour,banner_pos,site_id,device_ip", "1,0,14102123,0,a,b", f"2,1,{hour},0,a,b"],
    )
    with pytest.raises(Problem, match=f"line 3: hour is '{hour}', not YYMMDDHH"):
        list(read_rows(open_log(path)))


def test_suffixes_in_capitals_and_files_that_are_not_read(tmp_path: Path) -> None:
    (tmp_path / "train.GZ").write_bytes(gzip.compress(b"label,c\n1,a\n0,b\n"))
    for name in ("test.CSV", "day_1.csv", "._train.csv"):
        (tmp_path / name).write_text("label,c\n1,a\n")
    with pytest.warns(UserWarning, match=r"not read beside train: day_1\.csv$"):
        files = find_logs(tmp_path)
    assert files is not None
    assert files == {"train": tmp_path / "train.GZ", "test": tmp_path / "test.CSV"}
    assert open_log(files["train"]).names == ("label", "c")
