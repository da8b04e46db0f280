"""The mutation corpus: a sample and a reader of each format, and what the readers answer to damaged files.

    python -m tests.data.corpus [NAME ...] [--first 0] [--count 100] [--quick]

prints, for each reader, how many inputs were answered by a `Problem`, were read as the clean sample is, were read with
other values, and were answered in any other way: another exception, text conventions read wrongly, links dropped
without a warning, more than `MOST` bytes of memory, a crash, a hang.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import faulthandler
import gzip
import importlib
import json
import multiprocessing
import pickle
import resource
import shutil
import signal
import sys
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from PIL import Image
from scipy.io import savemat

from repertory.core import checkpoint
from repertory.core.problem import Problem
from repertory.data import (
    accounts,
    ade20k,
    cifar,
    clicks,
    coco,
    conllu,
    dose,
    events,
    fair_graphs,
    glue,
    graphs,
    hypergraphs,
    idx,
    images,
    knowledge_graphs,
    molecules,
    quality,
    scannet,
    shd,
    videos,
    wals,
)
from repertory.papers.doorping import audit, reading
from repertory.papers.fkgc import queries
from repertory.papers.reliant import knowledge
from repertory.papers.spaic import sources
from repertory.papers.spaic.model import Perceptron
from tests.data.mutations import (
    PLACES,
    ROOT,
    SPELLINGS,
    USUAL,
    alter,
    bomb,
    content_of,
    damage,
    is_plain_text,
)

ADDRESSES = 12_000_000_000
"""Limit of the address space, so that a huge allocation fails."""
MOST = 2_000_000_000
"""Bytes of memory that the process may take, libraries included."""
LONGEST = 60
"""CPU seconds after which a reader hangs: its process is ended."""
WAITING = 600
"""Seconds after which a reader waits for something that never comes, such as a pipe."""
FORK = multiprocessing.get_context("fork")
NEW_LINE = "\n"

Write = Callable[[Path], Any]
Read = Callable[[Path], Any]


def _rng() -> np.random.Generator:
    return np.random.default_rng(0)


# -- graphs -------------------------------------------------------------------------------------


def _write_tables(folder: Path) -> None:
    (folder / "features.csv").write_text("node,a,b\n" + "".join(f"n{k},{k},{k * k}\n" for k in range(1, 20)))
    (folder / "edges.csv").write_text("src,dst\n" + "".join(f"n{k},n{k + 1}\n" for k in range(1, 19)))
    (folder / "labels.csv").write_text("node,label\n" + "".join(f"n{k},c{k % 3}\n" for k in range(1, 20)))


def _write_hypertables(folder: Path) -> None:
    (folder / "features.csv").write_text("vertex,a\n" + "".join(f"v{k},{k}\n" for k in range(12)))
    rows = "".join(f"v{k},e{k % 4},1\n" for k in range(12))
    (folder / "incidence.csv").write_text("vertex,hyperedge,weight\n" + rows)
    (folder / "labels.csv").write_text("vertex,label\n" + "".join(f"v{k},{k % 2}\n" for k in range(12)))
    (folder / "weights.csv").write_text("hyperedge,weight\n" + "".join(f"e{k},{k + 1}\n" for k in range(4)))


def _write_le(folder: Path) -> None:
    (folder / "zoo.content").write_text("".join(f"{k} {k % 3} {k % 2} c{k % 2}\n" for k in range(12)))
    (folder / "zoo.edges").write_text("".join(f"{k} {k % 4}\n" for k in range(12)))


def _write_hypergcn(folder: Path) -> None:
    hypergraphs.write_hypergcn(folder, hypergraphs.citation_hypergraph(_rng(), 40, hyperedges=20, words=20, splits=1))


def _write_pyg(folder: Path) -> None:
    from torch_geometric.data import Data

    half = torch.arange(8) < 4
    index = torch.stack([torch.arange(8), torch.arange(8) % 3])
    data = Data(x=torch.eye(8), hyperedge_index=index, y=torch.arange(8) % 2, train_mask=half, test_mask=~half)
    torch.save(data, folder / "a.pt")


def _write_people(folder: Path) -> None:
    rows = "".join(f"{20 + k},{k % 2},{k // 2 % 2}\n" for k in range(24))
    (folder / "people.csv").write_text("age,sex,y\n" + rows)
    (folder / "edges.csv").write_text("src,dst\n" + "".join(f"{k},{k + 1}\n" for k in range(23)))


def _write_dblp(folder: Path) -> None:
    graph = fair_graphs.biased_graph(_rng(), 60)
    assert graph.labels is not None
    fair_graphs.write_npz(folder, graph, fair_graphs.draw_split(graph.labels, 0))


def _write_knowledge(folder: Path) -> None:
    known = knowledge.Knowledge(torch.log_softmax(torch.eye(12, 3), 1), torch.eye(12, 4))
    knowledge.write_knowledge(folder / "output.txt", known)
    knowledge.write_knowledge(folder / "teacher.pth.tar", known)


def _write_ogb(folder: Path) -> None:
    (folder / "mapping").mkdir()
    (folder / "split" / "scaffold").mkdir(parents=True)
    rows = "".join(f"{k % 2},{'C' * (k + 1)}O\n" for k in range(12))
    (folder / "mapping" / "mol.csv.gz").write_bytes(gzip.compress(b"active,smiles\n" + rows.encode(), mtime=0))
    for part, lines in (("train", "0\n1\n2\n3\n4\n5\n"), ("valid", "6\n7\n8\n"), ("test", "9\n10\n11\n")):
        (folder / "split" / "scaffold" / f"{part}.csv.gz").write_bytes(gzip.compress(lines.encode(), mtime=0))


# -- events -------------------------------------------------------------------------------------


def _stream() -> np.ndarray:
    t = np.arange(60)
    return events.make_events(t % 34, t % 30, t * 1000, t % 2)


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


def _write_event_folders(folder: Path) -> None:
    for part, count in (("Train", 3), ("Test", 2)):
        for name in "01":
            (folder / part / name).mkdir(parents=True)
            for k in range(count):
                events.write_atis(folder / part / name / f"{k:05d}.bin", _stream()[: 20 + 5 * k + count])


def _read_event_folders(folder: Path) -> Any:
    parts = events.read_splits(folder)
    return [(part.names, part.labels, [events.read_events(path) for path in part.paths]) for part in parts]


def _write_shd(folder: Path) -> None:
    rng = _rng()
    for part, count in (("train", 12), ("test", 6)):
        times = [np.sort(rng.random(30)) for _ in range(count)]
        units = [rng.integers(0, 700, 30) for _ in range(count)]
        shd.write(folder / f"shd_{part}.h5", shd.Recordings(times, units, np.arange(count) % 3, ("a", "b", "c")))


# -- doses --------------------------------------------------------------------------------------


def _write_case(folder: Path) -> None:
    depth = np.arange(60.0)
    line = np.exp(-((depth - 30) ** 2) / 20) + 0.2 * (depth < 30)
    dose.write_case(folder / "case", 80.0, np.zeros(60), line, {"C11": line * 1e4})


def _write_grid(folder: Path) -> None:
    header = "ObjectType = Image\nNDims = 3\nDimSize = 4 3 2\nElementType = MET_FLOAT\n"
    (folder / "a.mhd").write_text(f"{header}ElementSpacing = 1 1 2\nElementDataFile = a.raw\n")
    (folder / "a.raw").write_bytes(np.arange(24, dtype="<f4").tobytes())


def _write_topas(folder: Path) -> None:
    head = "# X in 2 bins of 1 cm\n# Y in 2 bins of 1 cm\n# Z in 3 bins of 1 cm\n# DoseToMedium ( Gy ) : Sum\n"
    rows = "".join(f"{x}, {y}, {z}, {x + y + z}\n" for x in range(2) for y in range(2) for z in range(3))
    (folder / "dose.csv").write_text(head + rows)


def _write_dicom(folder: Path) -> None:
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

    (folder / "ct").mkdir()
    series, frame = generate_uid(), generate_uid()
    for k in range(3):
        meta = FileMetaDataset()
        meta.TransferSyntaxUID, meta.MediaStorageSOPClassUID = ExplicitVRLittleEndian, CTImageStorage
        meta.MediaStorageSOPInstanceUID = generate_uid()
        data = Dataset()
        data.file_meta = meta
        data.SOPClassUID, data.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
        data.Modality, data.SeriesInstanceUID, data.FrameOfReferenceUID = "CT", series, frame
        data.Rows, data.Columns, data.BitsAllocated, data.BitsStored, data.HighBit = 3, 4, 16, 16, 15
        data.PixelRepresentation, data.SamplesPerPixel, data.PhotometricInterpretation = 1, 1, "MONOCHROME2"
        data.PixelSpacing, data.ImagePositionPatient = [2, 2], [0, 0, 3 * k]
        data.ImageOrientationPatient, data.RescaleSlope, data.RescaleIntercept = [1, 0, 0, 0, 1, 0], 1, -1000
        data.InstanceNumber, data.SliceThickness = k + 1, 3
        data.PixelData = (np.arange(12, dtype="<i2") + 100 * k).tobytes()
        data.save_as(folder / "ct" / f"{k}.dcm", enforce_file_format=True)


def _read_cases(folder: Path) -> Any:
    return [dose.read_case(case, 60, isotopes=("C11",)) for case in dose.find_cases(folder)]


# -- images, scenes, videos ---------------------------------------------------------------------


def _pictures(count: int, size: int, channels: int = 3) -> np.ndarray:
    return _rng().integers(0, 256, (count, size, size, channels), dtype=np.uint8)


def _write_cifar100(folder: Path) -> None:
    target = folder / "cifar-100-python"
    target.mkdir()
    for part, count in (("train", 6), ("test", 2)):
        rows = _pictures(count, 32).transpose(0, 3, 1, 2).reshape(count, -1)
        content = {"data": rows, "fine_labels": [k % 2 for k in range(count)]}
        (target / part).write_bytes(pickle.dumps(content, protocol=2))
    (target / "meta").write_bytes(pickle.dumps({"fine_label_names": ["cat", "dog"]}, protocol=2))


def _write_svhn(folder: Path) -> None:
    for part, count in (("train", 20), ("test", 4)):
        x = _pictures(count, 32).transpose(1, 2, 3, 0)
        y = (np.arange(count) % 10 + 1)[:, None].astype(np.uint8)
        savemat(folder / f"{part}_32x32.mat", {"X": x, "y": y}, do_compression=True)


def _write_stl10(folder: Path) -> None:
    for part, count in (("train", 10), ("test", 2)):
        (folder / f"{part}_X.bin").write_bytes(_pictures(count, 96).transpose(0, 3, 2, 1).tobytes())
        (folder / f"{part}_y.bin").write_bytes(bytes(k % 10 + 1 for k in range(count)))


def _read_published(folder: Path) -> Any:
    found = reading.read(folder, 8, "dc")
    if found is None:
        raise Problem("in none of the layouts", folder, "what the study says")
    return found


def _write_results(folder: Path) -> None:
    entries = [[torch.eye(8).expand(4, 3, 8, 8).contiguous(), torch.arange(4)]]
    torch.save({"data": entries, "accs_all_exps": {"ConvNet": [0.5]}}, folder / "res_DC.pt")


def _each_image(parts: Sequence[Any]) -> Any:
    return [(part.classes, part.labels, [part.image(k) for k in range(len(part))]) for part in parts]


def _items(data: Any) -> list[Any]:
    return [data.classes, *(data[k] for k in range(len(data)))]


def _read_coco(folder: Path) -> Any:
    data = coco.read_split(folder, "train", masks=True)
    data.evaluate([], "segm")
    return _items(data)


def _write_video_list(folder: Path) -> None:
    pixels = iter(_pictures(27, 8))
    for part, names in (("train", ("run/a", "run/b", "sit/a", "sit/b")), ("val", ("run/c", "sit/c"))):
        for name in names:
            (folder / "frames" / name).mkdir(parents=True)
            for k in range(1, 5):
                Image.fromarray(next(pixels)).save(folder / "frames" / name / f"img_{k:05d}.jpg")
        rows = ((name, 4, int(name.startswith("sit"))) for name in names)
        videos.write_list(folder / f"{part}.txt", rows)
    (folder / "category.txt").write_text("run\nsit\n")


def _write_something(folder: Path, version: int) -> None:
    templates = ("Holding [something]", "Opening [something]")
    plain = [template.replace("[", "").replace("]", "") for template in templates]
    parts = {"train": (1, 2, 3, 4), "validation": (5, 6)}
    for part, numbers in parts.items():
        for number in numbers:
            (folder / str(number)).mkdir()
            for k in range(1, 4):
                Image.fromarray(_pictures(1, 8)[0]).save(folder / str(number) / f"{k:05d}.jpg")
        if version == 1:
            rows = "".join(f"{number};{plain[number % 2]}\n" for number in numbers)
            (folder / f"something-something-v1-{part}.csv").write_text(rows)
        else:
            listed = [{"id": str(number), "template": templates[number % 2]} for number in numbers]
            (folder / f"something-something-v2-{part}.json").write_text(json.dumps(listed))
    if version == 1:
        (folder / "something-something-v1-labels.csv").write_text("".join(f"{name}\n" for name in plain))
    else:
        numbered = {name: str(k) for k, name in enumerate(plain)}
        (folder / "something-something-v2-labels.json").write_text(json.dumps(numbered))


def _write_video_files(folder: Path) -> None:
    import av

    for part, names in (("train", "abc"), ("val", "d")):
        for label in ("run", "sit"):
            (folder / part / label).mkdir(parents=True)
            for name in names:
                with av.open(str(folder / part / label / f"{name}.mp4"), "w") as container:
                    stream = container.add_stream("mpeg4", rate=10)
                    stream.width = stream.height = 16
                    stream.pix_fmt = "yuv420p"
                    for picture in _pictures(4, 16):
                        container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
                    container.mux(stream.encode())


def _read_videos(folder: Path) -> Any:
    parts = videos.read_splits(folder)
    return [(part.classes, part.labels, [v.frames(range(v.count)) for v in part.videos]) for part in parts]


# -- quality ------------------------------------------------------------------------------------


def _write_pictures(folder: Path, names: Sequence[str]) -> None:
    for k, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4), (k, k, k)).save(folder / name)


def _write_csiq(folder: Path) -> None:
    names = [f"{a}.{kind}.{k}.png" for a in ("x", "y") for kind in ("BLUR", "JPEG") for k in (1, 2)]
    _write_pictures(folder / "dst_imgs", names)
    (folder / "csiq_label.txt").write_text("".join(f"{name} {k / 10}\n" for k, name in enumerate(names)))


def _write_tid2013(folder: Path) -> None:
    names = [f"i0{a}_0{kind}_{k}.bmp" for a in (1, 2) for kind in (1, 2) for k in (1, 2)]
    _write_pictures(folder / "distorted_images", names)
    (folder / "mos_with_names.txt").write_text("".join(f"{k + 0.5} {name}\n" for k, name in enumerate(names)))


def _write_live(folder: Path) -> None:
    count = sum(quality.LIVE_COUNTS.values())
    _write_pictures(folder, ["jp2k/img1.bmp", "jpeg/img1.bmp", "wn/img2.bmp"])
    scores = np.linspace(0, 90, count)[None]
    savemat(folder / "dmos_realigned.mat", {"dmos_new": scores, "orgs": np.zeros((1, count))}, do_compression=True)
    cells = np.empty((1, count), object)
    cells[:] = "bikes.bmp"
    savemat(folder / "refnames_all.mat", {"refnames_all": cells})


def _write_livec(folder: Path) -> None:
    names = [f"{k}.bmp" for k in range(12)]
    _write_pictures(folder / "Images", names)
    (folder / "Data").mkdir()
    savemat(folder / "Data" / "AllMOS_release.mat", {"AllMOS_release": np.linspace(10, 90, 12)[None]})
    cells = np.empty((12, 1), object)
    cells[:, 0] = names
    savemat(folder / "Data" / "AllImages_release.mat", {"AllImages_release": cells})


def _write_koniq(folder: Path) -> None:
    names = [f"{k}.jpg" for k in range(6)]
    _write_pictures(folder / "1024x768", names)
    rows = "".join(f"{name},{10 * k + 5}\n" for k, name in enumerate(names))
    (folder / "koniq10k_scores_and_distributions.csv").write_text("image_name,MOS_zscore\n" + rows)


def _write_bid(folder: Path) -> None:
    import pandas as pd

    _write_pictures(folder / "ImageDatabase", [f"DatabaseImage{k:04d}.JPG" for k in range(1, 7)])
    pd.DataFrame({"image": range(1, 7), "mean": np.linspace(0.5, 4.5, 6)}).to_excel(
        folder / "DatabaseGrades.xlsx", index=False
    )


def _write_scores(folder: Path) -> None:
    _write_pictures(folder, [f"{k}.png" for k in range(6)])
    rows = "".join(f"{k}.png,{k},r{k % 2}\n" for k in range(6))
    (folder / "scores.csv").write_text("image,score,reference\n" + rows)


# -- accounts, knowledge graphs, clicks, treebanks ----------------------------------------------


def _accounts() -> accounts.AccountGraph:
    """12 accounts with 5 features, two relations and two tasks; the last three are unlabelled."""
    rng, known = _rng(), torch.arange(12) < 9
    x = torch.from_numpy(rng.random((12, 5)).astype(np.float32))
    x[:, 0] = (x[:, 0] > 0.5).float()
    edges = {name: torch.from_numpy(rng.integers(12, size=(2, count))) for name, count in (("a", 8), ("b", 5))}
    labels = {task: torch.where(known, torch.arange(12) % count, -1) for task, count in (("bot", 2), ("stance", 3))}
    return accounts.AccountGraph("a", x, edges, labels)


def _write_mgtab(folder: Path) -> None:
    accounts.write_mgtab(folder, _accounts())
    (folder / "edge_weight.pt").unlink()  # it is not read


def _write_cresci(folder: Path) -> None:
    graph = _accounts()
    torch.save(graph.features[:, :1].clone(), folder / "cat_properties_tensor.pt")
    torch.save(graph.features[:, 1:].clone(), folder / "num_properties_tensor.pt")
    for name in ("des_tensor", "tweets_tensor"):
        torch.save(torch.eye(12, 4), folder / f"{name}.pt")
    torch.save(torch.cat(list(graph.edges.values()), dim=1), folder / "edge_index.pt")
    torch.save(torch.tensor([0] * 8 + [1] * 5), folder / "edge_type.pt")
    torch.save(graph.labels["bot"][:9].clone(), folder / "label.pt")
    for part, first in (("train", 0), ("val", 3), ("test", 6)):
        torch.save(torch.arange(first, first + 3), folder / f"{part}_idx.pt")


def _write_account_tables(folder: Path) -> None:
    rows = (f"u{k},{k * k},{k % 2},{('human', 'bot')[k % 2] if k < 9 else ''}\n" for k in range(12))
    (folder / "accounts.csv").write_text("id,posts,verified,label\n" + "".join(rows))
    rows = (f"u{k},u{(k * 5 + 1) % 12},{('friends', 'reply')[k % 2]}\n" for k in range(12))
    (folder / "edges.csv").write_text("source,target,relation\n" + "".join(rows))


def _write_nell(folder: Path) -> None:
    graph = knowledge_graphs.rule_graph(_rng(), 3)
    few = {relation: pairs[:4] for relation, pairs in graph.few.items()}
    parts = {part: {relation: few[relation]} for part, relation in zip(knowledge_graphs.PARTS, few, strict=False)}
    vectors = {"TransE": (_rng().random((len(graph.entities), 2)), _rng().random((len(graph.relations), 2)))}
    small = replace(graph, background=graph.background[:30], tasks=parts, known=few, vectors=vectors)
    knowledge_graphs.write_nell(folder, small)
    np.save(folder / "ent2vec.npy", vectors["TransE"][0].astype(np.float32))


def _triples() -> list[knowledge_graphs.Triple]:
    return [knowledge_graphs.Triple(f"e{k % 7}", f"r{k % 6}", f"e{k % 5}") for k in range(30)]


def _write_conceptnet(folder: Path) -> None:
    knowledge_graphs.write_conceptnet(folder, _triples()[:26])
    rows = (f"{t.relation}\t{t.head}\t{t.tail}\t{k % 2}\n" for k, t in enumerate(_triples()[22:]))
    (folder / "test.txt").write_text("".join(rows))


def _write_atomic(folder: Path) -> None:
    names = knowledge_graphs.ATOMIC
    for part, first in (("trn", 0), ("dev", 5)):
        with (folder / f"v4_atomic_{part}.csv").open("w", newline="") as file:
            table = csv.writer(file, lineterminator="\n")
            table.writerow(["event", *names, "split"])
            for k in range(first, first + 5):
                cells = [json.dumps([f"to do {k}", "none"] if k % 2 else [f"to go {j}"]) for j in range(len(names))]
                table.writerow([f"PersonX, who is {k}, waits", *cells, part])


def _write_triples(folder: Path) -> None:
    (folder / "triples.tsv").write_text("".join("\t".join(triple) + "\n" for triple in _triples()))
    (folder / "types.tsv").write_text("".join(f"e{k}\tt{k % 3}\n" for k in range(7)))


def _write_split_triples(folder: Path) -> None:
    for part, rows in (("train", slice(0, 20)), ("valid", slice(20, 25)), ("test", slice(25, 30))):
        (folder / f"{part}.txt").write_text("".join("\t".join(triple) + "\n" for triple in _triples()[rows]))


def _read_triples(folder: Path) -> Any:
    return knowledge_graphs.read_knowledge_graph(folder, _rng(), least=2)


def _write_questions(folder: Path) -> None:
    question = {"relation": "r", "support": [["a", "b"], ["c", "d"]], "queries": ["e"], "candidates": ["b", "d"]}
    (folder / "a.json").write_text(json.dumps([question, question | {"relation": "s"}]))
    (folder / "b.tsv").write_text("a\tr\tb\nc\tr\td\ne\tr\t?\n")


def _read_questions(path: Path) -> Any:
    return [replace(question, where="") for question in queries.read_questions(path)]


def _criteo_rows(separator: str) -> str:
    rows = (
        [str(k % 2), *(str(k * j) if (k + j) % 4 else "" for j in range(13)), *(f"{k % 3:08x}" for _ in range(26))]
        for k in range(30)
    )
    return "".join(separator.join(row) + "\n" for row in rows)


def _write_criteo_commas(folder: Path) -> None:
    head = ",".join(["label", *clicks.CRITEO_NUMBERS, *clicks.CRITEO_CATEGORIES])
    (folder / "criteo.csv").write_text(f"{head}\n{_criteo_rows(',')}")


def _write_avazu(folder: Path) -> None:
    head = "id,click,hour,C1,banner_pos,site_id,device_ip,C14\n"
    rows = (f"{k},{k % 2},1410{21 + k % 7}{k % 24:02d},1005,{k % 2},s{k % 3},d{k % 4},{k % 5}\n" for k in range(30))
    (folder / "train.gz").write_bytes(gzip.compress((head + "".join(rows)).encode(), mtime=0))


def _write_ipinyou(folder: Path) -> None:
    head = "click weekday hour bidid timestamp logtype ipinyouid useragent slotprice payprice usertag"
    for part, count in (("train", 20), ("test", 10)):
        cells = (f"{k % 2} {k % 7} {k % 24} b{k} 2013 1 u{k % 3} linux {k} {k} {k % 4}" for k in range(count))
        lines = "".join(line.replace(" ", "\t") + "\n" for line in (head, *cells))
        (folder / f"{part}.log.txt").write_text(lines)


def _write_clicks(folder: Path) -> None:
    for part, count in (("train", 80), ("test", 10)):
        rows = (f'"shop, {k % 3}",{k},{k % 5},{k % 2}\n' for k in range(count))
        (folder / f"{part}.csv").write_text("place,price,kind,clicked\n" + "".join(rows))


def _read_clicks(folder: Path) -> Any:
    files = clicks.find_logs(folder)
    if files is None:
        raise Problem("no log of clicks", folder, "what the study says")
    return clicks.read_clicks(files, clicks.Preparation(min_count=0), lambda _: _rng())


def _write_treebanks(folder: Path) -> None:
    for language, code in (("English", "en"), ("German", "de")):
        place = folder / f"UD_{language}-Tiny"
        place.mkdir()
        for part, count in (("train", 4), ("dev", 2), ("test", 2)):
            sentences = (
                f"# sent_id = {code}-{part}-{k}\n1\tA{k}\ta\tDET\tDT\t_\t2\tdet\t_\t_\n"
                f"2-3\tdogs\t_\t_\t_\t_\t_\t_\t_\t_\n2\tdog\tdog\tNOUN\tNN\tNumber=Sing\t3\tnsubj:pass\t_\t_\n"
                "3\tbarks\tbark\tVERB\tVB\t_\t0\troot\t_\t_\n3.1\tx\t_\t_\t_\t_\t_\t_\t_\t_\n\n"
                for k in range(count)
            )
            (place / f"{code}_tiny-ud-{part}.conllu").write_text("".join(sentences))


def _write_wals(folder: Path) -> None:
    features = {
        "81A Order of Subject, Object and Verb": ("SOV", "SVO", "VSO"),
        "81B Two Orders": ("SOV or SVO", "VSO or SVO"),
        "83A Order of Object and Verb": ("OV", "VO"),
        "37A Definite Articles": ("word", "none"),
    }
    languages = {
        language: {feature: names[(k + j) % 2] for j, (feature, names) in enumerate(features.items())}
        for k, language in enumerate(("eng", "ger", "fin"))
    }
    plain = {name.replace(",", ""): names for name, names in features.items()}
    chosen = {code: {name.replace(",", ""): value for name, value in of.items()} for code, of in languages.items()}
    wals.write_wals(folder, chosen, plain)


def _read_wals(folder: Path) -> Any:
    place = wals.find_wals(folder)
    if place is None:
        raise Problem("no WALS", folder, "what the study says")
    return wals.read_wals(place, ["en", "de", "fi"])


# -- sentences, samples with labels, weights ----------------------------------------------------


def _write_rte(folder: Path) -> None:
    head = "index\tsentence1\tsentence2\tlabel\n"
    for part, count in (("train", 8), ("dev", 4)):
        rows = (f"{k}\tthe {part} dog {k} barks\tit barks\t{'not_' * (k % 2)}entailment\n" for k in range(count))
        (folder / f"{part}.tsv").write_text(head + "".join(rows))


def _write_encoder(folder: Path) -> None:
    transformers: Any = importlib.import_module("transformers")
    words = [*glue.SPECIAL, "dog", "the", "barks"]
    (folder / "vocab.txt").write_text("".join(f"{word}\n" for word in words))
    config = transformers.BertConfig(
        vocab_size=len(words), hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8,
        max_position_embeddings=16,
    )  # fmt: skip
    torch.manual_seed(0)
    transformers.BertModel(config).save_pretrained(folder)
    transformers.BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)


def _read_encoder(folder: Path) -> Any:
    from repertory.papers.sot import text

    torch.manual_seed(0)
    return text.TextClassifier.from_folder(folder, ("a", "b"))


def _write_npz(folder: Path) -> None:
    np.savez(folder / "own.npz", x=_rng().random((20, 3)), y=np.arange(20) % 2)


def _write_csv(folder: Path) -> None:
    (folder / "own.csv").write_text("a,b,label\n" + "".join(f"{k},{k % 5},{k % 2}\n" for k in range(20)))


def _state() -> dict[str, torch.Tensor]:
    kernels = torch.arange(24.0).reshape(2, 3, 2, 2)
    return {"conv.weight": kernels, "head.weight": torch.eye(4), "steps": torch.tensor([3, 5])}


def _write_checkpoints(folder: Path) -> None:
    from safetensors.torch import save_file

    torch.save({"state_dict": _state(), "epoch": 3, "args": {"lr": 0.1}}, folder / "new.pth")
    torch.save({"model": _state()}, folder / "old.pt", _use_new_zipfile_serialization=False)
    save_file(_state(), folder / "a.safetensors")


def _write_model(folder: Path) -> None:
    torch.manual_seed(0)
    checkpoint.save(Perceptron([4], [3], ["a", "b"]), folder / "model", paper="spaic")


def _each(read: Read) -> Read:
    """A reader of each file of a folder; the last Problem is raised after all were read."""

    def read_all(folder: Path) -> list[Any]:
        problems, found = [], []
        for path in sorted(p for p in folder.rglob("*") if p.suffix):
            try:
                found.append(read(path))
            except Problem as problem:
                problems.append(problem)
        if problems:
            raise problems[-1]
        return found

    return read_all


@dataclass(frozen=True)
class Sample:
    """A format: how a sample is written and read."""

    write: Write
    read: Read
    needs: str = ""
    """A package that may not be installed."""
    quick: bool = True
    """Cheap enough for the tests that always run."""
    marks: bool = True
    """Whether its text may begin with a byte-order mark; where libraries read it, and refuse the mark, it may not."""


SAMPLES: dict[str, Sample] = {
    "triplet": Sample(lambda f: graphs.write_triplet(f, graphs.block_graph(_rng(), 30, words=20)), graphs.read_graph),
    "planetoid": Sample(
        lambda f: graphs.write_planetoid(f, graphs.block_graph(_rng(), 30, words=20), _rng()), graphs.read_graph
    ),
    "graph tables": Sample(_write_tables, graphs.read_graph),
    "hypergcn": Sample(_write_hypergcn, hypergraphs.read_hypergraph),
    "mat": Sample(
        lambda f: hypergraphs.write_mat(f / "a.mat", hypergraphs.visual_objects(_rng(), 30)),
        hypergraphs.read_hypergraph,
    ),
    "le": Sample(_write_le, hypergraphs.read_hypergraph),
    "hypergraph tables": Sample(_write_hypertables, hypergraphs.read_hypergraph),
    "pyg": Sample(_write_pyg, hypergraphs.read_hypergraph, "torch_geometric"),
    "people": Sample(_write_people, lambda f: fair_graphs.read_fair_graph(f, "y", "sex")),
    "dblp": Sample(_write_dblp, fair_graphs.read_fair_graph),
    "knowledge": Sample(_write_knowledge, _each(lambda p: knowledge.read_knowledge(p, 12))),
    "ogb": Sample(_write_ogb, lambda f: molecules.read_molecules(f / "mapping" / "mol.csv.gz"), "rdkit"),
    "molecules": Sample(
        lambda f: molecules.write_sample(f / "a.csv", _rng(), 12),
        lambda f: molecules.read_molecules(f / "a.csv"),
        "rdkit",
    ),
    "idx": Sample(lambda f: idx.write_sample(f, 4), lambda f: idx.read_parts(f)),
    "event arrays": Sample(_write_arrays, _each(events.read_events)),
    "event h5": Sample(_write_h5, _each(events.read_events), "h5py"),
    "event streams": Sample(_write_streams, _each(events.read_events)),
    "event folders": Sample(_write_event_folders, _read_event_folders),
    "shd": Sample(_write_shd, lambda f: [shd.read(f / f"shd_{part}.h5") for part in ("train", "test")], "h5py"),
    "case": Sample(_write_case, _read_cases),
    "grid": Sample(_write_grid, lambda f: dose.read_volume(f / "a.mhd"), marks=False),
    "topas": Sample(_write_topas, lambda f: dose.read_volume(f / "dose.csv")),
    "dicom": Sample(_write_dicom, lambda f: dose.read_volume(f / "ct"), "pydicom"),
    "images": Sample(
        lambda f: images.write_digits(f, size=8, train=1, val=1), lambda f: _each_image(images.read_splits(f))
    ),
    "cifar10": Sample(
        lambda f: cifar.write_cifar10(
            f, (_pictures(10, 32), [k % 2 for k in range(10)]), (_pictures(2, 32), [0, 1]), ["cat", "dog"]
        ),
        lambda f: _each_image(cifar.read_cifar(f)),
    ),
    "cifar100": Sample(_write_cifar100, lambda f: _each_image(cifar.read_cifar(f))),
    "svhn": Sample(_write_svhn, _read_published),
    "stl10": Sample(_write_stl10, _read_published),
    "distilled": Sample(_write_results, lambda f: audit.read_results(f / "res_DC.pt")),
    "ade20k": Sample(lambda f: ade20k.write_sample(f, 2, 1, 32), lambda f: _items(ade20k.read_split(f, "train"))),
    "scannet": Sample(lambda f: scannet.write_sample(f, 2, 1, 150), lambda f: _items(scannet.read_split(f, "train"))),
    "coco": Sample(lambda f: coco.write_sample(f, 5, 1, 32), _read_coco, "pycocotools"),
    "video lists": Sample(_write_video_list, _read_videos),
    "something v1": Sample(lambda f: _write_something(f, 1), _read_videos),
    "something v2": Sample(lambda f: _write_something(f, 2), _read_videos),
    "video files": Sample(_write_video_files, _read_videos, "av"),
    "csiq": Sample(_write_csiq, quality.read_quality),
    "tid2013": Sample(_write_tid2013, quality.read_quality),
    "live": Sample(_write_live, quality.read_quality),
    "livec": Sample(_write_livec, quality.read_quality),
    "koniq": Sample(_write_koniq, quality.read_quality),
    "bid": Sample(_write_bid, quality.read_quality, "openpyxl"),
    "own scores": Sample(_write_scores, quality.read_quality),
    "cola": Sample(lambda f: glue.write_acceptability(f, 12, 6), glue.read_task),
    "rte": Sample(_write_rte, glue.read_task),
    "encoder": Sample(_write_encoder, _read_encoder, "transformers", quick=False, marks=False),
    "mgtab": Sample(_write_mgtab, accounts.read_accounts),
    "mgtab large": Sample(lambda f: accounts.write_large(f, _accounts()), accounts.read_accounts),
    "cresci": Sample(_write_cresci, accounts.read_accounts),
    "account tables": Sample(_write_account_tables, accounts.read_accounts),
    "nell": Sample(_write_nell, _read_triples),
    "conceptnet": Sample(_write_conceptnet, _read_triples),
    "atomic": Sample(_write_atomic, _read_triples),
    "triples": Sample(_write_triples, _read_triples),
    "split triples": Sample(_write_split_triples, _read_triples),
    "questions": Sample(_write_questions, _each(_read_questions)),
    "criteo": Sample(lambda f: (f / "train.txt").write_text(_criteo_rows("\t")), _read_clicks, "polars"),
    "criteo commas": Sample(_write_criteo_commas, _read_clicks, "polars"),
    "avazu": Sample(_write_avazu, _read_clicks, "polars"),
    "ipinyou": Sample(_write_ipinyou, _read_clicks, "polars"),
    "own clicks": Sample(_write_clicks, _read_clicks, "polars"),
    "treebanks": Sample(_write_treebanks, conllu.read_treebanks),
    "wals": Sample(_write_wals, _read_wals),
    "own npz": Sample(_write_npz, lambda f: sources.read(f, 10, 1.0)),
    "own csv": Sample(_write_csv, lambda f: sources.read(f, 10, 1.0)),
    "checkpoints": Sample(_write_checkpoints, _each(checkpoint.read_weights)),
    "model": Sample(_write_model, lambda f: checkpoint.load(f / "model"), marks=False),
}


# -- running ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """One mutated input: which mutation, of which file, and what may be answered."""

    kind: str
    file: Path
    seed: int
    allowed: tuple[str, ...] = ("problem", "same", "other")

    def __str__(self) -> str:
        return f"{self.kind}, {self.file}, seed {self.seed}"


def random_cases(files: Sequence[Path], seeds: range) -> Iterator[Case]:
    """One file with changed bytes, and one with an altered array, for each seed."""
    for seed in seeds:
        yield Case("bytes", files[int(np.random.default_rng(seed).integers(len(files)))], seed)
        yield Case("array", files[int(np.random.default_rng([seed, 1]).integers(len(files)))], seed)


def fixed_cases(whole: Path, files: Sequence[Path], marks: bool) -> Iterator[Case]:
    """Each spelling, place and bomb on one file of each suffix and folder."""
    distinct = {(path.parent.parent, path.suffix, "" if path.suffix in MANY else path.name): path for path in files}
    for path in distinct.values():
        if is_plain_text(whole / path):
            for name in SPELLINGS:
                usual = name in USUAL and (marks or "mark" not in name)
                yield Case(name, path, 0, ("same",) if usual else ("same", "problem"))
        for name in PLACES:
            match name:
                case "link to the file":
                    allowed: tuple[str, ...] = ("same",)
                case "missing" | "copy of a sibling":
                    allowed = ("problem", "same", "other")
                case _:
                    allowed = ("problem", "same", "warned")
            yield Case(name, path, 0, allowed)
    for path in {path.suffix: path for path in files}.values():
        yield Case("bomb", path, 0, ("problem",))


MANY = (".png", ".jpg", ".bmp", ".JPG", ".dcm", ".bin", ".mp4")
"""Suffixes of which a sample has many files alike."""


def _mutate(case: Case, root: Path) -> bool:
    path, rng = root / case.file, np.random.default_rng(case.seed)
    if case.kind in SPELLINGS:
        before = path.read_bytes()
        path.write_bytes(SPELLINGS[case.kind](before))
        return path.read_bytes() != before
    return {"bytes": damage, "array": alter, "bomb": bomb, **PLACES}[case.kind](path, rng)


def _answer(read: Read, root: Path, clean: str) -> tuple[str, str]:
    """One of problem, same, other, warned (other, with a warning), wrong; and what was said."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        faulthandler.dump_traceback_later(WAITING, exit=True)
        signal.setitimer(signal.ITIMER_PROF, LONGEST)
        try:
            found = content_of(read(root))
        except Problem as problem:
            return ("problem" if len(str(problem).splitlines()) == 3 else "wrong"), str(problem)
        except Exception:
            return "wrong", traceback.format_exc(limit=-4)
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
            faulthandler.cancel_dump_traceback_later()
    if found == clean:
        return "same", ""
    ours = [str(w.message) for w in said if issubclass(w.category, UserWarning)]
    return ("warned", ours[0]) if ours else ("other", "")


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def run(name: str, seeds: range, quick: bool, verbose: bool = False) -> tuple[Counter[str], list[str]]:
    """Damage a sample in many ways and read it: how often each answer came, and every answer that is wrong.

    Args:
        name: of the sample.
        seeds: of the random mutations.
        quick: those alone, in this process; else all mutations, in a process of their own, which is begun anew where
            one of them ended it.
        verbose: print each answer.
    """
    sample, counts, wrong = SAMPLES[name], Counter[str](), list[str]()
    with TemporaryDirectory() as folder:
        whole = Path(folder) / "sample" / ROOT
        whole.mkdir(parents=True)
        sample.write(whole)
        files = sorted(path.relative_to(whole) for path in whole.rglob("*") if path.is_file())
        cases = [*random_cases(files, seeds), *(() if quick else fixed_cases(whole, files, sample.marks))]
        found = _answers(sample, whole, cases) if quick else _answers_apart(sample, whole, cases)
        for case, (answer, text) in zip(cases, found, strict=True):
            if verbose and answer:
                print(f"{name}: {case}: {answer} {text.partition(NEW_LINE)[0]}", flush=True)
            if answer:
                counts[answer] += 1
            if answer == "wrong":
                wrong.append(f"{name}: {case}: {text}")
    return counts, wrong


def _answers_apart(sample: Sample, whole: Path, cases: Sequence[Case]) -> Iterator[tuple[str, str]]:
    done = 0
    while done < len(cases):
        ours, theirs = FORK.Pipe(duplex=False)
        process = FORK.Process(target=_send, args=(sample, whole, cases[done:], theirs))
        process.start()
        theirs.close()
        with contextlib.suppress(EOFError):
            while True:
                yield ours.recv()
                done += 1
        process.join()
        if process.exitcode:
            yield "wrong", f"the process ended with {process.exitcode} ({-signal.SIGPROF} or 1: a hang, or the sample)"
            done += 1


def _send(sample: Sample, whole: Path, cases: Sequence[Case], pipe: Any) -> None:
    for answer in _answers(sample, whole, cases):
        pipe.send(answer)


def _answers(sample: Sample, whole: Path, cases: Sequence[Case]) -> Iterator[tuple[str, str]]:
    """The answer to each case; "" where the mutation does not apply."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        clean = content_of(sample.read(whole))
        assert clean == content_of(sample.read(whole)), "the sample is read differently every time"
    for case in cases:
        with TemporaryDirectory() as folder:
            root = Path(folder) / "sample" / ROOT
            shutil.copytree(whole, root)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                applied = _mutate(case, root)
            before = _peak()
            answer, text = _answer(sample.read, root, clean) if applied else ("", "")
        if answer not in ("", "wrong", *case.allowed, *(("warned",) if "other" in case.allowed else ())):
            answer, text = "wrong", f"{answer}, expected {' or '.join(case.allowed)}; {text}"
        elif applied and _peak() > max(MOST, before):
            answer, text = "wrong", f"{_peak() / 1e9:.1f} GB of memory; {text}"
        yield "other" if answer == "warned" else answer, text


COLUMNS = ("problem", "same", "other", "wrong")


def table(counts: dict[str, Counter[str]]) -> str:
    """Answers per reader and in all."""
    rows = {**counts, "all": sum(counts.values(), Counter())}
    head = f"{'reader':20}{'inputs':>8}" + "".join(f"{column:>9}" for column in COLUMNS)
    lines = (f"{n:20}{sum(c.values()):>8}" + "".join(f"{c[column]:>9}" for column in COLUMNS) for n, c in rows.items())
    return "\n".join([head, *lines])


def main() -> int:
    """Run what the command line says; 1 if an answer was wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--first", type=int, default=0, help="first seed")
    parser.add_argument("--count", type=int, default=100, help="seeds of random mutations, two inputs each")
    parser.add_argument("--quick", action="store_true", help="random mutations alone, of samples that are read fast")
    parser.add_argument("--verbose", action="store_true", help="print what was said")
    options = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESSES, ADDRESSES))
    faulthandler.register(signal.SIGPROF, chain=True)  # says where a reader hangs; then the signal ends the process
    counts: dict[str, Counter[str]] = {}
    wrong: list[str] = []
    for name in options.names or [name for name, sample in SAMPLES.items() if sample.quick or not options.quick]:
        seeds = range(options.first, options.first + options.count)
        counts[name], found = run(name, seeds, options.quick, options.verbose)
        wrong += found
    peak = max(_peak(), resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024)
    print(f"{table(counts)}\nlargest process: {peak / 1e9:.2f} GB")
    if wrong:
        print("\n".join(wrong), file=sys.stderr)
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
