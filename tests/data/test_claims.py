"""What files claim and do not hold, and fields of another kind than expected: said when the file is read."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from repertory.core.problem import Problem
from repertory.data import coco, dose, events, fair_graphs, graphs, hypergraphs, images, shd
from repertory.papers.spaic import sources

# -- graphs -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("part", "content", "message"),
    [
        ("test.index", b"1" + b"0" * 24, "no list of node numbers"),
        ("test.index", b"1" + b"0" * 15, "most nodes before it are in no part"),
        ("tx", pickle.dumps(3), "is not a matrix of real numbers"),
        ("tx", pickle.dumps(np.ones((1, 30))), "do not fit together"),
        ("ally", pickle.dumps(np.array([["a"]])), "is not a matrix of real numbers"),
    ],
)
def test_planetoid(part: str, content: bytes, message: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    graphs.write_planetoid(tmp_path, graphs.block_graph(rng, nodes=60, words=30), rng)
    (tmp_path / f"ind.blocks.{part}").write_bytes(content)
    with pytest.raises(Problem, match=message):
        graphs.read_graph(tmp_path)


def test_an_adjacency_of_words(tmp_path: Path) -> None:
    np.save(tmp_path / "g_adj.npy", np.array([["a", "b"], ["c", "d"]]))
    np.save(tmp_path / "g_feat.npy", np.eye(2))
    with pytest.raises(Problem, match="does not hold real numbers"):
        graphs.read_graph(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("edgelist.txt", "1\n2\n", "the edges have 1 column"),
        ("labels.txt", "0\n1\n", "not two finite numbers a line"),
        ("labels.txt", "0 1\n1 nan\n", "not two finite numbers a line"),
        ("sens.txt", "0.5 1\n1 2\n", "does not name each of the 40 nodes once"),
    ],
)
def test_text_of_people(name: str, content: str, message: str, tmp_path: Path) -> None:
    graph = fair_graphs.biased_graph(np.random.default_rng(0), 40)
    fair_graphs.write_npz(tmp_path, graph, {})
    (tmp_path / name).write_text(content)
    with pytest.raises(Problem, match=message):
        fair_graphs.read_fair_graph(tmp_path)


@pytest.mark.parametrize(
    "changes",
    [
        {"shape": np.array([200_000, 400_000])},
        {"shape": np.array([40])},
        {"row": np.array([10**9] * 3)},
        {"row": np.array([0.5] * 3)},
        {"data": np.array(["a"] * 3)},
        {"data": np.array([np.nan] * 3)},
        {"data": np.zeros((3, 1))},
    ],
    ids=str,
)
def test_features_of_people(changes: dict[str, np.ndarray], tmp_path: Path) -> None:
    parts = {"data": np.ones(3), "row": np.arange(3), "col": np.arange(3), "shape": np.array([40, 5])}
    np.savez(tmp_path / "X.npz", **{**parts, **changes})
    with pytest.raises(Problem, match=r"X\.npz is no sparse matrix|GB when dense"):
        fair_graphs.read_fair_graph(tmp_path)


def test_edges_that_are_a_copy_of_the_content(tmp_path: Path) -> None:
    for name in ("content", "edges"):
        (tmp_path / f"zoo.{name}").write_text("0 1 2 a\n1 3 4 b\n")
    with pytest.raises(Problem, match=r"zoo\.edges 4"):
        hypergraphs.read_hypergraph(tmp_path)


# -- HDF5 -------------------------------------------------------------------------------------------


def test_a_heap_of_zeros_does_not_hang(tmp_path: Path) -> None:
    """In a process of its own: HDF5 would not come back."""
    pytest.importorskip("h5py", reason="the extra spiking is not installed")
    rng, path = np.random.default_rng(0), tmp_path / "shd_train.h5"
    trains = [rng.random(40) for _ in range(20)]
    shd.write(path, shd.Recordings(trains, [np.arange(40)] * 20, np.arange(20) % 2, ("a", "b")))
    content = path.read_bytes()
    third = len(content) // 3
    path.write_bytes(content[:third] + bytes(third) + content[2 * third :])
    code = f"from pathlib import Path; from repertory.data import shd; shd.read(Path({str(path)!r}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert "Problem" in done.stderr


def test_data_sets_that_claim_more_than_there_is(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py", reason="the extra spiking is not installed")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for name in "xytp":
            file.create_dataset(name, shape=(10**11,), dtype="i8", chunks=(1024,))
    with pytest.raises(Problem, match=r"claims to hold 800.0 GB"):
        events.read_events(tmp_path / "a.h5")


@pytest.mark.parametrize("name", ["spikes/times", "spikes/units", "labels"])
@pytest.mark.parametrize("kind", ["scalar", "group", "words", "matrix of matrices"])
def test_fields_of_another_kind(name: str, kind: str, tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py", reason="the extra spiking is not installed")
    path = tmp_path / "shd_train.h5"
    shd.write(path, shd.Recordings([np.ones(2)] * 3, [np.arange(2)] * 3, np.arange(3), ()))
    with h5py.File(path, "a") as file:
        del file[name]
        values = {"scalar": 3, "words": np.array([b"a", b"b", b"c"]), "matrix of matrices": np.ones((3, 2, 2))}
        if kind == "group":
            file.create_group(name)
        else:
            file[name] = values[kind]
    with pytest.raises(Problem):
        shd.read(path)


# -- volumes and images -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["/dev/zero", "../ct.raw", "gone.raw", "folder"])
def test_data_beside_the_header_only(name: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    head = "ObjectType = Image\nNDims = 3\nDimSize = 2 2 2\nElementType = MET_SHORT\nElementSpacing = 1 1 1\n"
    (tmp_path / "ct.mhd").write_text(f"{head}ElementDataFile = {name}\n")
    with pytest.raises(Problem, match=r"the grid's data are in|is missing|is not a regular file"):
        dose.read_volume(tmp_path / "ct.mhd")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"LOCAL\n", b"LOCAL\n\0\0"),
        (b"NDims = 3", b"NDims = 99999999999999999999"),
        (b"DimSize = 3 4 5", b"DimSize = 3 4 99999999999"),
        (b"Offset = 0 0 0", b"Offset = 0 nan 0"),
        (b"Offset = 0 0 0", b"Offset = 0 0 0\nOffset = 1 1 1"),
    ],
)
def test_headers_that_do_not_fit(old: bytes, new: bytes, tmp_path: Path) -> None:
    path = tmp_path / "ct.mha"
    dose.write_metaimage(path, np.zeros((5, 4, 3), np.int16))
    content = path.read_bytes()
    assert old in content
    path.write_bytes(content.replace(old, new))
    with pytest.raises(Problem, match="cannot read the grid"):
        dose.read_volume(path)


def test_no_case_is_dropped(tmp_path: Path) -> None:
    line = np.ones(9)
    for name in ("a", "b"):
        dose.write_case(tmp_path / name, 80, line, line, {"C11": line})
    (tmp_path / "notes").mkdir()
    assert [path.name for path in dose.find_cases(tmp_path)] == ["a", "b"]
    (tmp_path / "b" / "beam.json").unlink()
    with pytest.raises(Problem, match=r"b has no beam\.json"):
        dose.find_cases(tmp_path)
    (tmp_path / "b" / "beam.json").symlink_to("gone")
    with pytest.raises(Problem, match="is a link to a file that is not there"):
        dose.read_beam(dose.find_cases(tmp_path)[1] / "beam.json")
    (tmp_path / "c").symlink_to("gone")
    with pytest.raises(Problem, match="c is a link to nothing"):
        dose.find_cases(tmp_path)


def test_postscript_is_not_an_image(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n")
    with pytest.raises(Problem, match="not an image") as caught:
        images.read_image(tmp_path / "a.png")
    assert "PNG" in caught.value.remedy


# -- COCO -------------------------------------------------------------------------------------------


@pytest.fixture
def annotated(tmp_path: Path) -> Path:
    coco.write_sample(tmp_path, train=2, val=4)
    return tmp_path


def read_changed(folder: Path, **fields: Any) -> coco.CocoSet:
    """The validation part with fields of its first annotation changed."""
    path = folder / "annotations" / "instances_val2017.json"
    content = json.loads(path.read_text())
    content["annotations"][0] |= fields
    path.write_text(json.dumps(content))
    return coco.read(path, folder / "val2017", masks=True)


SQUARE = [1.0, 1.0, 9.0, 1.0, 9.0, 9.0]


@pytest.mark.parametrize(
    "fields",
    [
        *({"segmentation": [[wrong, *SQUARE[1:]]]} for wrong in (float("nan"), None, 1e9, -1e9)),
        *({"segmentation": [[wrong, *SQUARE[1:]]]} for wrong in (float("inf"), "1", True)),
        {"segmentation": [[*SQUARE[:1], float("nan"), *SQUARE[2:]]]},
        {"segmentation": [[*SQUARE, 3.0]]},
        {"segmentation": SQUARE},
        {"segmentation": [[[1, 1], [9, 1], [9, 9], [1, 9], [1, 5], [1, 3]]]},
        {"segmentation": {"size": [128, 128], "counts": [5]}},
        {"segmentation": {"size": [128, 128], "counts": [-5, 128 * 128 + 5]}},
        {"segmentation": {"size": [9, 9], "counts": [81]}},
        {"segmentation": {"size": [128, 128], "counts": "~~~~"}},
        {"segmentation": {"size": [128, 128], "counts": "0"}},
        {"segmentation": {"size": [128, 128]}},
        {"segmentation": "polygon"},
        *({"bbox": wrong} for wrong in (None, "abcd", [1, 2, 3], [1, 2, "3", 4])),
        *({"bbox": wrong} for wrong in ([1, 2, -3, 4], [1, 2, float("nan"), 4])),
        *({"area": wrong} for wrong in ("1", -1, float("nan"), [1])),
        *({"iscrowd": wrong} for wrong in ("0", 2, 0.5, [0])),
        *({"image_id": wrong} for wrong in (99, None, [1], True)),
        *({"category_id": wrong} for wrong in (99, None, {}, "disc")),
    ],
    ids=str,
)  # fmt: skip
def test_annotations_are_named_when_the_file_is_read(fields: dict[str, Any], annotated: Path) -> None:
    with pytest.raises(Problem, match="annotation 1 "):
        read_changed(annotated, **fields)


def test_packed_run_lengths_are_read_as_pycocotools_reads_them(annotated: Path) -> None:
    coder = pytest.importorskip("pycocotools.mask", reason="the extra detection is not installed")
    rng = np.random.default_rng(0)
    mask = np.asfortranarray(rng.random((128, 128)) < 0.02, dtype=np.uint8)
    packed = coder.encode(mask)
    data = read_changed(annotated, segmentation={"size": [128, 128], "counts": packed["counts"].decode()}, iscrowd=0)
    masks = np.concatenate([data[k][1]["masks"].numpy() for k in range(len(data))])
    assert any((found == mask).all() for found in masks)


def test_images_and_categories_listed_twice(annotated: Path) -> None:
    path = annotated / "annotations" / "instances_val2017.json"
    content = json.loads(path.read_text())
    whole = coco.read(path, annotated / "val2017")
    for name in ("images", "categories"):
        twice = content | {name: [*content[name], content[name][-1]]}
        path.write_text(json.dumps(twice))
        assert coco.read(path, annotated / "val2017").category_ids == whole.category_ids
        twice[name][-1] = content[name][-1] | {"name": "other", "file_name": "other.jpg"}
        path.write_text(json.dumps(twice))
        with pytest.raises(Problem, match=r"two of (image|category) "):
            coco.read(path, annotated / "val2017")
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(content).encode())
    assert len(coco.read(path, annotated / "val2017")) == len(whole)


# -- own tables -------------------------------------------------------------------------------------

X, Y = np.random.default_rng(0).random((8, 3)), np.arange(8) % 2


@pytest.mark.parametrize(
    "fields",
    [
        {"x": X, "y": Y + 0j},
        {"x": X[:0], "y": Y[:0]},
        {"x": X, "y": Y[:5]},
        {"x": X, "y": np.stack([Y, Y])},
        {"x": X, "y": np.where(Y, np.nan, 1.0)},
        {"x": X + 0j, "y": Y},
        {"x": X.astype(str), "y": Y},
        {"x": X[:, 0], "y": Y},
        {"x_train": X, "y_train": Y},
        {"x_train": X, "y_train": Y, "x_test": X[:, :2], "y_test": Y},
    ],
)
def test_arrays_of_samples(fields: dict[str, Any], tmp_path: Path) -> None:
    np.savez(tmp_path / "own.npz", **fields)
    with pytest.raises(Problem):
        sources.read(tmp_path, 10, 1.0)
