"""Growth of the time that readers of formats take, over what they read.

    python benchmarks/readers.py

Those of treebanks, clicks and scenarios are in the scripts of mbert_syntax, xdeepint and tenet. Files are written
before; the system has them in memory. "images, listing" is a race as well, beside torchvision's ImageFolder.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image
from torchvision.datasets import ImageFolder

from repertory.core.bench import Growth, Race, bench, scratch
from repertory.core.files import write_json
from repertory.core.problem import require
from repertory.data import cifar, drums, essays, glue, idx, images, molecules, nuscenes, scannet, shd
from repertory.data.accounts import read_accounts
from repertory.data.captions import read_captioned
from repertory.data.dose import read_volume, write_metaimage
from repertory.data.quality import read_quality
from repertory.data.videos import read_splits

THOUSANDS = [20, 200, 2000, 20_000]
MILLIONS = [10**4, 10**5, 10**6, 10**7]
SIDE = 28


def class_folders(files: int, classes: int = 10) -> Path:
    """Empty files: a listing opens none."""
    folder = scratch()
    for k in range(classes):
        (folder / f"class {k}").mkdir()
        for n in range(files // classes):
            (folder / f"class {k}" / f"{n:06d}.png").touch()
    return folder


def image_folder(files: int = 20_000) -> Race:
    folder = class_folders(files)
    ours, theirs = images.read_class_folders(folder), ImageFolder(str(folder))
    assert [(str(path), label) for path, label in zip(ours.paths, ours.labels, strict=True)] == theirs.samples
    peers = {"torchvision ImageFolder": lambda: ImageFolder(str(folder))}
    return Race(partial(images.read_class_folders, folder), peers, facts={"files": files})


def of_images(files: int) -> Callable[[], object]:
    return partial(images.read_class_folders, class_folders(files))


def of_idx(count: int) -> Callable[[], object]:
    folder, rng = scratch(), np.random.default_rng(0)
    for part, size in (("train", count), ("test", 10)):
        data = idx.Labelled(rng.integers(256, size=(size, SIDE, SIDE), dtype=np.uint8), rng.integers(10, size=size))
        idx.write_part(folder, part, data)
    return partial(idx.read_parts, folder)


def of_cifar(count: int) -> Callable[[], object]:
    folder, rng = scratch(), np.random.default_rng(0)
    pixels = rng.integers(256, size=(count, 32, 32, 3), dtype=np.uint8)
    labels = rng.integers(10, size=count).tolist()
    cifar.write_cifar10(folder, (pixels, labels), (pixels[:10], labels[:10]), [f"class {k}" for k in range(10)])
    return partial(cifar.read_cifar, folder)


def of_sentences(count: int) -> Callable[[], object]:
    folder = scratch()
    glue.write_acceptability(folder, count, 10)
    return partial(glue.read_sentences, folder / "train.tsv")


def of_essays(count: int) -> Callable[[], object]:
    folder = scratch()
    essays.write_essays(folder, train=min(count, 2000), dev=1, test=1, general=1)
    path = folder / "train.txt"
    path.write_text(path.read_text(encoding="utf-8") * max(1, count // 2000), encoding="utf-8")
    return partial(essays.read_essays, path)


def of_captions(count: int) -> Callable[[], object]:
    folder = scratch()
    (folder / "videos").mkdir()
    rows = [{"video": f"{n:06d}.mp4", "caption": f"A thing moves {n} times."} for n in range(count)]
    for row in rows:
        (folder / "videos" / row["video"]).touch()
    write_json(folder / "train.json", rows[:-5])
    write_json(folder / "test.json", rows[-5:])
    return partial(read_captioned, folder)


def of_videos(count: int) -> Callable[[], object]:
    folder = scratch()
    for n in range(count):
        (folder / "frames" / str(n)).mkdir(parents=True)
        for frame in range(1, 9):
            (folder / "frames" / str(n) / f"img_{frame:05d}.jpg").touch()
    lines = [f"{n} 8 {n % 10}\n" for n in range(count)]
    (folder / "train.txt").write_text("".join(lines[:-10]), encoding="utf-8")
    (folder / "val.txt").write_text("".join(lines[-10:]), encoding="utf-8")
    return partial(read_splits, folder)


def of_scores(count: int) -> Callable[[], object]:
    folder = scratch()
    Image.new("RGB", (8, 8)).save(folder / "0.png")
    picture = (folder / "0.png").read_bytes()
    for n in range(count):
        (folder / f"{n}.png").write_bytes(picture)
    table = pd.DataFrame({"image": [f"{n}.png" for n in range(count)], "score": np.arange(count) % 100})
    table.to_csv(folder / "scores.csv", index=False)
    return partial(read_quality, folder / "scores.csv", 0.0, 99.0, "higher")


def of_grooves(files: int) -> Callable[[], object]:
    folder, rng = scratch(), np.random.default_rng(0)
    for n in range(files):
        drums.write_midi(folder / f"{n:06d}.mid", rng.random((16 * drums.ROWS, 6)) < 0.2)
    return partial(drums.read_grooves, folder)


def of_accounts(edges: int) -> Callable[[], object]:
    folder, rng, accounts = scratch(), np.random.default_rng(0), edges // 20
    table = pd.DataFrame(rng.random((accounts, 5)), columns=[f"x{k}" for k in range(5)])
    table.insert(0, "id", [f"user {n}" for n in range(accounts)])
    table.assign(label=rng.integers(2, size=accounts)).to_csv(folder / "accounts.csv", index=False)
    ends = {name: table["id"].to_numpy()[rng.integers(accounts, size=edges)] for name in ("source", "target")}
    pd.DataFrame(ends).to_csv(folder / "edges.csv", index=False)
    return partial(read_accounts, folder)


def of_molecules(count: int) -> Callable[[], object]:
    """Chains of alternating atoms: every one is another."""
    path = scratch() / "molecules.csv"
    rows = [f"{''.join('CN'[int(bit)] for bit in f'{n:020b}')},{n % 2}\n" for n in range(count)]
    path.write_text("smiles,active\n" + "".join(rows), encoding="utf-8")

    def read() -> object:
        path.touch()  # a table that has not changed is remembered
        return molecules.read_molecules(path)

    return read


def of_sweep(points: int) -> Callable[[], object]:
    path = scratch() / "sweep.pcd.bin"
    np.random.default_rng(0).random((points, 5), np.float32).tofile(path)
    return partial(nuscenes.read_points, path)


def of_scan(points: int) -> Callable[[], object]:
    path, rng = scratch() / "scan.ply", np.random.default_rng(0)
    scannet.write_ply(path, rng.random((points, 3)), rng.integers(256, size=(points, 3)))
    return partial(scannet.read_ply, path)


def of_spikes(recordings: int) -> Callable[[], object]:
    path, rng = scratch() / "train.h5", np.random.default_rng(0)
    times = [np.sort(rng.random(1000)) for _ in range(recordings)]
    units = [rng.integers(700, size=1000) for _ in range(recordings)]
    shd.write(path, shd.Recordings(times, units, rng.integers(10, size=recordings), tuple("abcdefghij")))
    return partial(shd.read, path)


def of_metaimage(voxels: int) -> Callable[[], object]:
    path, side = scratch() / "ct.mha", round(voxels ** (1 / 3))
    write_metaimage(path, np.random.default_rng(0).integers(-1000, 2000, (side, side, side)).astype(np.int16))
    return partial(read_volume, path)


def of_dicom(slices: int, side: int = 128) -> Callable[[], object]:
    pydicom: Any = require("pydicom", "medicine")
    folder, rng = scratch() / "ct", np.random.default_rng(0)
    folder.mkdir()
    for n in range(slices):
        meta, data = pydicom.dataset.FileMetaDataset(), pydicom.dataset.Dataset()
        meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
        meta.MediaStorageSOPClassUID = data.SOPClassUID = pydicom.uid.CTImageStorage
        meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = f"1.2.3.{n}"
        data.file_meta, data.SeriesInstanceUID, data.Modality = meta, "1.2.3", "CT"
        data.ImagePositionPatient, data.ImageOrientationPatient = [0, 0, n], [1, 0, 0, 0, 1, 0]
        data.PixelSpacing, data.Rows, data.Columns = [1, 1], side, side
        data.SamplesPerPixel, data.PhotometricInterpretation, data.PixelRepresentation = 1, "MONOCHROME2", 1
        data.BitsAllocated, data.BitsStored, data.HighBit = 16, 16, 15
        data.RescaleSlope, data.RescaleIntercept = 1, 0
        data.PixelData = rng.integers(-1000, 2000, (side, side)).astype(np.int16).tobytes()
        data.save_as(folder / f"{n:05d}.dcm", enforce_file_format=True)
    return partial(read_volume, folder)


READERS: dict[str, Growth] = {
    "images, growth": Growth(of_images, THOUSANDS, "files"),
    "idx": Growth(of_idx, [100, 1000, 10_000, 100_000], "images"),
    "CIFAR": Growth(of_cifar, [50, 500, 5000, 50_000], "images"),
    "GLUE": Growth(of_sentences, THOUSANDS, "sentences"),
    "essays": Growth(of_essays, [100, 2000, 10_000, 100_000], "essays"),
    "captions": Growth(of_captions, THOUSANDS, "clips"),
    "videos": Growth(of_videos, [20, 200, 2000], "folders of frames"),
    "quality": Growth(of_scores, THOUSANDS, "images"),
    "grooves": Growth(of_grooves, [10, 100, 1000], "MIDI files"),
    "accounts": Growth(of_accounts, [10**3, 10**4, 10**5, 10**6], "edges"),
    "molecules": Growth(of_molecules, [10, 100, 1000, 10_000], "molecules"),
    "nuScenes sweep": Growth(of_sweep, MILLIONS, "points"),
    "ScanNet scan": Growth(of_scan, MILLIONS, "points"),
    "SHD": Growth(of_spikes, [10, 100, 1000, 10_000], "recordings"),
    "MetaImage": Growth(of_metaimage, MILLIONS, "voxels"),
    "DICOM series": Growth(of_dicom, [10, 100, 1000], "slices"),
}

if __name__ == "__main__":
    bench(__doc__, {"images, listing": image_folder, **{name: lambda g=g: g for name, g in READERS.items()}})
