"""The sample of distorted photographs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features

from repertory.data import distortions
from repertory.data.distortions import AMOUNTS, DISTORTIONS, ssim, write_quality_database
from repertory.data.quality import read_quality


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("database")
    write_quality_database(folder, photographs=1, versions=30, size=48)
    return folder


def test_the_reader_of_csiq_reads_it(database: Path) -> None:
    data = read_quality(database)
    kinds = 6 if features.check("jpg_2000") else 5
    assert len(data) == 9 * kinds * 5
    assert len(set(data.references)) == 9
    assert {path.stem for path in (database / "src_imgs").iterdir()} == set(data.references)
    assert {Image.open(path).size for path in data.paths} == {(48, 48)}
    assert min(data.scores) == 0
    assert max(data.scores) == pytest.approx(1, abs=0.1)


def test_stronger_distortions_have_worse_scores(database: Path) -> None:
    data = read_quality(database)
    for kind in set(data.distortions):
        means = [
            np.mean([s for s, d, k in zip(data.scores, data.distortions, data.strengths, strict=True)
                     if (d, k) == (kind, strength)])
            for strength in range(1, 6)
        ]  # fmt: skip
        assert min(np.diff(means)) > -0.02, kind  # so small, JPEG 2000 cannot be compressed much further
        assert means[-1] > means[0] + 0.1, kind


def test_the_score_is_dissimilarity_and_noise(database: Path) -> None:
    data = read_quality(database)
    values = [
        1 - ssim(Image.open(database / "src_imgs" / f"{reference}.png"), Image.open(path))
        for reference, path in zip(data.references, data.paths, strict=True)
    ]
    scaled = (np.array(values) - min(values)) / (max(values) - min(values))
    residual = np.array(data.scores) - scaled
    assert residual.std() == pytest.approx(0.02, rel=0.3)


def test_other_seeds_and_fewer_versions(tmp_path: Path, database: Path) -> None:
    folders = [tmp_path / name for name in "abc"]
    for folder, seed in zip(folders, (0, 0, 1), strict=True):
        folder.mkdir()
        write_quality_database(folder, photographs=1, versions=3, size=32, seed=seed)
    labels = [(folder / "csiq_label.txt").read_text() for folder in folders]
    assert labels[0] == labels[1] != labels[2]
    assert len(labels[0].splitlines()) == 27


def test_amounts_are_met() -> None:
    rng = np.random.default_rng(0)
    pixels = np.full((64, 64, 3), 128.0, np.float64)
    for kind in ("AWGN", "fnoise"):
        assert (DISTORTIONS[kind](pixels, 10.0, rng) - pixels).std() == pytest.approx(10, rel=0.05)
    step = np.tile(np.repeat([0.0, 200.0], 32)[None, :, None], (64, 1, 3))
    assert np.ptp(DISTORTIONS["contrast"](step, 0.25, rng)) == pytest.approx(150)
    assert DISTORTIONS["BLUR"](step, 2.0, rng).std() < step.std()
    assert set(AMOUNTS) == set(DISTORTIONS)


def test_without_openjpeg_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distortions.features, "check", lambda name: False)
    with pytest.warns(UserWarning, match="without jpeg2000"):
        write_quality_database(tmp_path, photographs=1, versions=30, size=32)
    assert "jpeg2000" not in (tmp_path / "csiq_label.txt").read_text()
