"""Every reader on damaged samples: a Problem, or read; never another exception, a crash or a hang.

Each sample is damaged in a few seeded ways: cut short, a bit flipped, a block of zeros, blocks swapped, tokens of text
replaced. All of them run in one process of their own with bounded memory, since a crash would end the tests.
"""

from __future__ import annotations

import argparse
import resource
import shutil
import subprocess
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest

from repertory.core.problem import Problem
from repertory.data import (
    ade20k,
    coco,
    dose,
    events,
    fair_graphs,
    graphs,
    hypergraphs,
    idx,
    images,
    molecules,
    scannet,
    shd,
)
from repertory.papers.spaic import sources

MEMORY = 12_000_000_000
WORDS = (b"nan", b"-1", b"0.5", b"1e24", b"x", b"", b"1 2 3", b"\n", b"null", b"[]", b'"', b"99999999999999999999")


def damaged(content: bytes, rng: np.random.Generator, text: bool) -> bytes:
    """The content with one mutation."""
    n = max(1, len(content))
    start, length = int(rng.integers(n)), int(rng.integers(1, 1 + n // 3))
    other = int(rng.integers(n))
    kinds = ["cut", "flip", "zeros", "swap", "double", "empty", *(["word"] * 6 if text else ["flip", "flip"])]
    match str(rng.choice(kinds)):
        case "cut":
            return content[:start]
        case "flip":
            changed = bytearray(content)
            changed[start] ^= 1 << int(rng.integers(8))
            return bytes(changed)
        case "zeros":
            return content[:start] + bytes(min(length, n - start)) + content[start + length :]
        case "swap":
            first, second = sorted((start, other))
            return content[:first] + content[second:] + content[first:second]
        case "double":
            return content[:start] + content[start : start + length] + content[start:]
        case "empty":
            return b""
        case _:
            tokens = content.replace(b",", b" , ").split(b" ")
            tokens[int(rng.integers(len(tokens)))] = WORDS[int(rng.integers(len(WORDS)))]
            return b" ".join(tokens).replace(b" , ", b",")


# -- samples: a writer and a reader each ----------------------------------------------------------------


def _rng() -> np.random.Generator:
    return np.random.default_rng(0)


def _stream() -> np.ndarray:
    t = np.arange(60)
    return events.make_events(t % 34, t % 30, t * 1000, t % 2)


def _write_tables(folder: Path) -> None:
    (folder / "features.csv").write_text("node,a,b\n" + "".join(f"n{k},{k},{k * k}\n" for k in range(1, 20)))
    (folder / "edges.csv").write_text("src,dst\n" + "".join(f"n{k},n{k + 1}\n" for k in range(1, 19)))
    (folder / "labels.csv").write_text("node,label\n" + "".join(f"n{k},c{k % 3}\n" for k in range(1, 20)))


def _write_hypertables(folder: Path) -> None:
    (folder / "features.csv").write_text("vertex,a\n" + "".join(f"v{k},{k}\n" for k in range(12)))
    (folder / "incidence.csv").write_text(
        "vertex,hyperedge,weight\n" + "".join(f"v{k},e{k % 4},1\n" for k in range(12))
    )
    (folder / "labels.csv").write_text("vertex,label\n" + "".join(f"v{k},{k % 2}\n" for k in range(12)))
    (folder / "weights.csv").write_text("hyperedge,weight\n" + "".join(f"e{k},{k + 1}\n" for k in range(4)))


def _write_le(folder: Path) -> None:
    (folder / "zoo.content").write_text("".join(f"{k} {k % 3} {k % 2} c{k % 2}\n" for k in range(12)))
    (folder / "zoo.edges").write_text("".join(f"{k} {k % 4}\n" for k in range(12)))


def _write_hypergcn(folder: Path) -> None:
    hypergraphs.write_hypergcn(folder, hypergraphs.citation_hypergraph(_rng(), 40, hyperedges=20, words=20, splits=1))


def _write_pyg(folder: Path) -> None:
    import torch
    from torch_geometric.data import Data

    half = torch.arange(8) < 4
    index = torch.stack([torch.arange(8), torch.arange(8) % 3])
    torch.save(
        Data(x=torch.eye(8), hyperedge_index=index, y=torch.arange(8) % 2, train_mask=half, test_mask=~half),
        folder / "a.pt",
    )


def _write_people(folder: Path) -> None:
    rows = "".join(f"{20 + k},{k % 2},{k // 2 % 2}\n" for k in range(24))
    (folder / "people.csv").write_text("age,sex,y\n" + rows)
    (folder / "edges.csv").write_text("src,dst\n" + "".join(f"{k},{k + 1}\n" for k in range(23)))


def _write_dblp(folder: Path) -> None:
    graph = fair_graphs.biased_graph(_rng(), 60)
    assert graph.labels is not None
    fair_graphs.write_npz(folder, graph, fair_graphs.draw_split(graph.labels, 0))


def _write_ogb(folder: Path) -> None:
    import gzip

    (folder / "mapping").mkdir()
    (folder / "split" / "scaffold").mkdir(parents=True)
    rows = "".join(f"{k % 2},{'C' * (k + 1)}O\n" for k in range(12))
    (folder / "mapping" / "mol.csv.gz").write_bytes(gzip.compress(b"active,smiles\n" + rows.encode(), mtime=0))
    for part, lines in (("train", "0\n1\n2\n3\n4\n5\n"), ("valid", "6\n7\n8\n"), ("test", "9\n10\n11\n")):
        (folder / "split" / "scaffold" / f"{part}.csv.gz").write_bytes(gzip.compress(lines.encode(), mtime=0))


def _write_arrays(folder: Path) -> None:
    e = _stream()
    np.savez(folder / "a.npz", x=e["x"], y=e["y"], t=e["t"], p=e["p"])
    np.savez_compressed(folder / "b.npz", x=e["x"], y=e["y"], t=e["t"], p=e["p"])
    np.save(folder / "c.npy", np.stack([e["x"], e["y"], e["t"], e["p"]], axis=1))


def _write_h5(folder: Path) -> None:
    import h5py

    with h5py.File(folder / "a.h5", "w") as file:
        for name in "xytp":
            file.create_dataset(name, data=_stream()[name], compression="gzip", chunks=True)


def _write_streams(folder: Path) -> None:
    events.write_atis(folder / "a.bin", _stream())
    events.write_dat(folder / "b.dat", _stream(), (34, 34))
    events.write_aedat(folder / "c.aedat", _stream())


def _write_shd(folder: Path) -> None:
    rng = _rng()
    times = [np.sort(rng.random(30)) for _ in range(12)]
    units = [rng.integers(0, 700, 30) for _ in range(12)]
    shd.write(folder / "shd_train.h5", shd.Recordings(times, units, np.arange(12) % 3, ("a", "b", "c")))


def _write_case(folder: Path) -> None:
    depth = np.arange(60.0)
    line = np.exp(-((depth - 30) ** 2) / 20) + 0.2 * (depth < 30)
    dose.write_case(folder / "case", 80.0, np.zeros(60), line, {"C11": line * 1e4})


def _write_topas(folder: Path) -> None:
    head = "# X in 2 bins of 1 cm\n# Y in 2 bins of 1 cm\n# Z in 3 bins of 1 cm\n# DoseToMedium ( Gy ) : Sum\n"
    rows = "".join(f"{x}, {y}, {z}, {x + y + z}\n" for x in range(2) for y in range(2) for z in range(3))
    (folder / "dose.csv").write_text(head + rows)


def _write_images(folder: Path) -> None:
    images.write_digits(folder, size=8, train=1, val=1)


def _write_npz(folder: Path) -> None:
    rng = _rng()
    np.savez(folder / "own.npz", x=rng.random((20, 3)), y=np.arange(20) % 2)


def _write_csv(folder: Path) -> None:
    (folder / "own.csv").write_text("a,b,label\n" + "".join(f"{k},{k % 5},{k % 2}\n" for k in range(20)))


def _each(read: Callable[[Path], Any]) -> Callable[[Path], Any]:
    """A reader of each file of a folder; the last Problem is raised after all were read."""

    def read_all(folder: Path) -> None:
        problems = []
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            try:
                read(path)
            except Problem as problem:
                problems.append(problem)
        if problems:
            raise problems[-1]

    return read_all


def _read_scenes(folder: Path) -> None:
    data = ade20k.read_split(folder, "train")
    for k in range(len(data)):
        data[k]


def _read_rooms(folder: Path) -> None:
    data = scannet.read_split(folder, "train")
    for k in range(len(data)):
        data[k]


def _read_coco(folder: Path) -> None:
    data = coco.read_split(folder, "train", masks=True)
    for k in range(len(data)):
        data[k]
    data.evaluate([], "segm")


def _read_images(folder: Path) -> None:
    for part in images.read_splits(folder):
        for k in range(len(part)):
            part.image(k)


def _read_case(folder: Path) -> None:
    for case in dose.find_cases(folder):
        dose.read_case(case, 60, isotopes=("C11",))


SAMPLES: dict[str, tuple[Callable[[Path], Any], Callable[[Path], Any]]] = {
    "triplet": (lambda f: graphs.write_triplet(f, graphs.block_graph(_rng(), 30, words=20)), graphs.read_graph),
    "planetoid": (
        lambda f: graphs.write_planetoid(f, graphs.block_graph(_rng(), 30, words=20), _rng()),
        graphs.read_graph,
    ),
    "graph tables": (_write_tables, graphs.read_graph),
    "hypergcn": (_write_hypergcn, hypergraphs.read_hypergraph),
    "mat": (
        lambda f: hypergraphs.write_mat(f / "a.mat", hypergraphs.visual_objects(_rng(), 30)),
        hypergraphs.read_hypergraph,
    ),
    "le": (_write_le, hypergraphs.read_hypergraph),
    "hypergraph tables": (_write_hypertables, hypergraphs.read_hypergraph),
    "pyg": (_write_pyg, hypergraphs.read_hypergraph),
    "people": (_write_people, lambda f: fair_graphs.read_fair_graph(f, "y", "sex")),
    "dblp": (_write_dblp, fair_graphs.read_fair_graph),
    "ogb": (_write_ogb, lambda f: molecules.read_molecules(f / "mapping" / "mol.csv.gz")),
    "molecules": (
        lambda f: molecules.write_sample(f / "a.csv", _rng(), 12),
        lambda f: molecules.read_molecules(f / "a.csv"),
    ),
    "idx": (lambda f: idx.write_sample(f, 4), lambda f: idx.read_parts(f)),
    "event arrays": (_write_arrays, _each(events.read_events)),
    "event h5": (_write_h5, _each(events.read_events)),
    "event streams": (_write_streams, _each(events.read_events)),
    "shd": (_write_shd, lambda f: shd.read(f / "shd_train.h5")),
    "case": (_write_case, _read_case),
    "topas": (_write_topas, lambda f: dose.read_volume(f / "dose.csv")),
    "images": (_write_images, _read_images),
    "ade20k": (lambda f: ade20k.write_sample(f, 2, 1, 32), _read_scenes),
    "scannet": (lambda f: scannet.write_sample(f, 2, 1, 150), _read_rooms),
    "coco": (lambda f: coco.write_sample(f, 5, 1, 32), _read_coco),
    "own npz": (_write_npz, lambda f: sources.read(f, 10, 1.0)),
    "own csv": (_write_csv, lambda f: sources.read(f, 10, 1.0)),
}
TEXT = (".csv", ".json", ".txt", ".index", ".content", ".edges", ".mha")


def run(name: str, seeds: range) -> list[str]:
    """Damage a sample once for each seed, and read it; what came that is neither a Problem nor a result."""
    write, read = SAMPLES[name]
    wrong = []
    with TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        whole = Path(folder) / "whole"
        whole.mkdir()
        write(whole)
        read(whole)
        files = sorted(path.relative_to(whole) for path in whole.rglob("*") if path.is_file())
        for seed in seeds:
            rng = np.random.default_rng(seed)
            broken = Path(folder) / str(seed)
            shutil.copytree(whole, broken)
            path = broken / files[int(rng.integers(len(files)))]
            path.write_bytes(damaged(path.read_bytes(), rng, path.suffix in TEXT))
            print(f"{name}: seed {seed}, {path.name}", flush=True)
            try:
                read(broken)
            except Problem as problem:
                if len(str(problem).splitlines()) != 3:
                    wrong.append(f"{name}, seed {seed}: {problem}")
            except Exception:
                wrong.append(f"{name}, seed {seed}, {path.name}: {traceback.format_exc(limit=-4)}")
            shutil.rmtree(broken)
    return wrong


@pytest.mark.parametrize("modules", [("torch_geometric", "rdkit", "h5py", "pycocotools")])
def test_damaged_files_give_a_problem_or_are_read(modules: tuple[str, ...]) -> None:
    for module in modules:
        pytest.importorskip(module, reason=f"{module} is not installed")
    done = subprocess.run(
        [sys.executable, "-m", __name__, "--count", "8"], capture_output=True, text=True, timeout=300, check=False
    )
    last = done.stdout.splitlines()[-1:]
    assert done.returncode == 0, f"exit {done.returncode} after {last}\n{done.stderr[-5000:]}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=list(SAMPLES))
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--count", type=int, default=100)
    options = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    found = [what for name in options.names for what in run(name, range(options.first, options.first + options.count))]
    sys.exit("\n".join(found) if found else 0)
