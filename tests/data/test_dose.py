"""Case folders of proton therapy: the formats, the way along the beam, and what is refused."""

from __future__ import annotations

import json
import math
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

from repertory.core.problem import Problem
from repertory.data.dose import (
    PET,
    Beam,
    Volume,
    along_beam,
    find_cases,
    read_beam,
    read_case,
    read_metaimage,
    read_topas,
    read_volume,
    write_case,
    write_metaimage,
)

ISOTOPES = ("C11", "O15", "N13", "C10")
RNG = np.random.default_rng(0)
GRID = RNG.normal(size=(6, 5, 4)).astype(np.float32)  # z, y, x

# -- MetaImage ----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["<i2", "<u2", "<i4", "<f4", "<f8"])
def test_metaimage_comes_back(dtype: str, tmp_path: Path) -> None:
    values = (100 * np.abs(GRID)).astype(dtype)
    write_metaimage(tmp_path / "a.mha", values, spacing=(1.5, 2, 3), origin=(-7, 8.25, 0.5))
    back = read_volume(tmp_path / "a.mha")
    assert np.array_equal(back.values, values)
    assert back.values.dtype == np.dtype(dtype)
    assert (back.spacing, back.origin) == ((1.5, 2, 3), (-7, 8.25, 0.5))


def test_simpleitk_reads_what_is_written_and_agrees(tmp_path: Path) -> None:
    sitk = pytest.importorskip("SimpleITK", reason="the extra medicine is not installed")
    write_metaimage(tmp_path / "a.mha", GRID, spacing=(1.5, 2, 3), origin=(-7, 8, 0.5))
    image = sitk.ReadImage(str(tmp_path / "a.mha"))
    assert np.array_equal(sitk.GetArrayFromImage(image), GRID)
    assert (image.GetSpacing(), image.GetOrigin()) == ((1.5, 2, 3), (-7, 8, 0.5))
    # And the other way round: as header and raw file, and compressed, which only SimpleITK reads.
    image.SetDirection((-1, 0, 0, 0, 1, 0, 0, 0, 1))
    for name, compressed in (("b.mhd", False), ("c.mha", True), ("d.mhd", True)):
        sitk.WriteImage(image, str(tmp_path / name), useCompression=compressed)
        back = read_volume(tmp_path / name)
        assert np.array_equal(back.values, GRID[..., ::-1])  # indices rise with the coordinates
        assert (back.spacing, back.origin) == ((1.5, 2, 3), (-7 - 3 * 1.5, 8, 0.5))
    image.SetDirection((0, 1, 0, -1, 0, 0, 0, 0, 1))
    sitk.WriteImage(image, str(tmp_path / "turned.mha"))
    with pytest.raises(Problem, match="rotated"):
        read_volume(tmp_path / "turned.mha")
    flat = sitk.GetImageFromArray(GRID[0])
    sitk.WriteImage(flat, str(tmp_path / "flat.mha"))
    with pytest.raises(Problem, match="2 dimensions"):
        read_volume(tmp_path / "flat.mha")


def test_plain_files_need_no_extra_and_compressed_ones_name_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_metaimage(tmp_path / "a.mha", GRID)
    header, _, data = (tmp_path / "a.mha").read_bytes().partition(b"LOCAL\n")
    (tmp_path / "b.mhd").write_bytes(header + b"b.raw\n")
    (tmp_path / "b.raw").write_bytes(data)
    (tmp_path / "c.mha").write_bytes(header.replace(b"CompressedData = False", b"CompressedData = True") + b"LOCAL\n")
    monkeypatch.setitem(sys.modules, "SimpleITK", None)
    for name in ("a.mha", "b.mhd"):
        assert np.array_equal(read_metaimage(tmp_path / name).values, GRID)
    with pytest.raises(Problem, match="SimpleITK") as caught:
        read_metaimage(tmp_path / "c.mha")
    assert "repertory[medicine]" in caught.value.remedy


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"DimSize = 4 5 6", b"DimSize = 4 5 7"),
        (b"DimSize = 4 5 6", b"DimSize = 4 5"),
        (b"DimSize = 4 5 6", b"DimSize = four"),
        (b"ElementSpacing = 1 1 1", b"ElementSpacing = 1 0 1"),
        (b"TransformMatrix = 1 0 0 0 1 0 0 0 1", b"TransformMatrix = 1 0"),
        (b"ElementDataFile = LOCAL", b"ElementDataFile = gone.raw"),
        (b"ElementDataFile = LOCAL", b"nothing"),
        (b"ObjectType", b"\xff\xfe"),
    ],
)
def test_damaged_metaimage_is_a_problem(old: bytes, new: bytes, tmp_path: Path) -> None:
    write_metaimage(tmp_path / "a.mha", GRID)
    whole = (tmp_path / "a.mha").read_bytes()
    assert old in whole
    (tmp_path / "a.mha").write_bytes(whole.replace(old, new))
    with pytest.raises(Problem, match=r"cannot read the grid|gone\.raw is missing"):
        read_volume(tmp_path / "a.mha")


def test_a_missing_file_is_a_problem(tmp_path: Path) -> None:
    with pytest.raises(Problem, match=r"gone\.mhd is missing"):
        read_volume(tmp_path / "gone.mhd")


# -- TOPAS --------------------------------------------------------------------------------------


def _topas(path: Path, values: np.ndarray, head: str = "DoseToMedium ( Gy ) : Sum", width: str = "0.2 cm") -> Path:
    nz, ny, nx = values.shape
    lines = [
        "# TOPAS Version: 3.9", "# Parameter File: beam.txt", "# Results for scorer Dose", "# Scored in component: Box",
        f"# X in {nx} bins of 0.1 cm", f"# Y in {ny} bins of 0.1 cm", f"# Z in {nz} bins of {width}", f"# {head}",
        *(f"{x}, {y}, {z}, {values[z, y, x]:.9g}" for x in range(nx) for y in range(ny) for z in range(nz)),
    ]  # fmt: skip
    path.write_text("\n".join(lines))
    return path


def test_topas_bins_become_millimetres(tmp_path: Path) -> None:
    dose = read_topas(_topas(tmp_path / "dose.csv", GRID))
    assert np.allclose(dose.values, GRID)
    assert (dose.spacing, dose.origin, dose.unit) == ((1, 1, 2), None, "Gy")
    assert read_topas(_topas(tmp_path / "dose.csv", GRID, width="3 mm")).spacing == (1, 1, 3)


def test_topas_pads_a_single_bin(tmp_path: Path) -> None:
    path = _topas(tmp_path / "dose.csv", GRID[:, :1, :1])
    path.write_text(path.read_text().replace("in 1 bins of 0.1 cm", "in 1 bin  of 20 cm"))
    dose = read_topas(path)
    assert (dose.values.shape, dose.spacing) == ((len(GRID), 1, 1), (200, 200, 2))


def test_topas_takes_the_sum_of_several_columns(tmp_path: Path) -> None:
    path = _topas(tmp_path / "dose.csv", GRID, head="DoseToMedium ( Gy ) : Mean   Sum")
    lines = [
        line if line.startswith("#") else line.replace(line.split(",")[3], f" 9,{line.split(',')[3]}")
        for line in path.read_text().splitlines()
    ]
    path.write_text("\n".join(lines))
    assert np.allclose(read_topas(path).values, GRID)


@pytest.mark.parametrize("cut", [("# Z in", "# W in"), ("5, 0.", "five, 0."), ("DoseToMedium", "")])
def test_damaged_topas_is_a_problem(cut: tuple[str, str], tmp_path: Path) -> None:
    path = _topas(tmp_path / "dose.csv", np.abs(GRID) % 1)
    path.write_text(path.read_text().replace(*cut))
    with pytest.raises(Problem, match="cannot read the grid"):
        read_volume(path)


def test_topas_with_missing_bins_is_a_problem(tmp_path: Path) -> None:
    path = _topas(tmp_path / "dose.csv", GRID)
    path.write_text("\n".join(path.read_text().splitlines()[:-1]))
    with pytest.raises(Problem, match="119 rows for 120 bins"):
        read_volume(path)


# -- DICOM --------------------------------------------------------------------------------------


def _slice(
    path: Path, modality: str, pixels: np.ndarray, position: tuple[float, float, float], **fields: object
) -> None:
    pydicom = pytest.importorskip("pydicom", reason="the extra medicine is not installed")
    meta = pydicom.dataset.FileMetaDataset()
    meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = pydicom.uid.CTImageStorage
    meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
    data = pydicom.dataset.Dataset()
    data.file_meta = meta
    data.SOPClassUID, data.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    data.SeriesInstanceUID, data.Modality = "1.2.3", modality
    data.ImagePositionPatient, data.ImageOrientationPatient = list(position), [1, 0, 0, 0, 1, 0]
    data.PixelSpacing = [2.0, 1.5]  # between rows (y), between columns (x)
    data.Rows, data.Columns = pixels.shape[-2:]
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated, data.BitsStored, data.HighBit = 16, 16, 15
    data.PixelRepresentation = int(pixels.dtype == np.int16)
    data.PixelData = pixels.tobytes()
    for name, value in fields.items():
        setattr(data, name, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    data.save_as(path, enforce_file_format=True)


def test_dicom_ct_series(tmp_path: Path) -> None:
    stored = np.arange(120, dtype=np.int16).reshape(6, 5, 4)
    for i in (3, 0, 5, 1, 4, 2):  # the order of the files is not that of the slices
        _slice(
            tmp_path / "ct" / f"{(7 * i) % 6}.dcm", "CT", stored[i], (-10, 20, 3.0 * i), RescaleSlope=2,
            RescaleIntercept=-1024,
        )  # fmt: skip
    ct = read_volume(tmp_path / "ct")
    assert np.array_equal(ct.values, stored * 2.0 - 1024)
    assert (ct.spacing, ct.origin) == ((1.5, 2, 3), (-10, 20, 0))
    (tmp_path / "ct" / f"{(7 * 2) % 6}.dcm").unlink()
    with pytest.raises(Problem, match="evenly spaced"):
        read_volume(tmp_path / "ct")


@pytest.mark.parametrize("offsets", [[0.0, 3, 6, 9, 12, 15], [40.0, 43, 46, 49, 52, 55], [0.0, -3, -6, -9, -12, -15]])
def test_dicom_dose(offsets: list[float], tmp_path: Path) -> None:
    stored = np.arange(120, dtype=np.uint16).reshape(6, 5, 4)
    fields = {
        "NumberOfFrames": 6, "DoseGridScaling": 0.01, "GridFrameOffsetVector": offsets, "DoseUnits": "GY",
    }  # fmt: skip
    _slice(tmp_path / "dose.dcm", "RTDOSE", stored, (-10, 20, 40), **fields)
    dose = read_volume(tmp_path / "dose.dcm")
    turned = offsets[-1] < 0
    assert np.allclose(dose.values, 0.01 * (stored[::-1] if turned else stored))
    assert dose.origin == pytest.approx((-10, 20, 25 if turned else 40))
    assert (dose.spacing, dose.unit) == ((1.5, 2, 3), "Gy")
    _slice(tmp_path / "dose.dcm", "RTDOSE", stored, (-10, 20, 40), **{**fields, "DoseUnits": "RELATIVE"})
    with pytest.raises(Problem, match="RELATIVE"):
        read_volume(tmp_path / "dose.dcm")


@pytest.mark.parametrize("orientation", [[-1, 0, 0, 0, 1, 0], [1, 0, 0, 0, -1, 0]], ids=["supine", "prone"])
def test_offsets_of_a_dose_count_along_the_normal(orientation: list[int], tmp_path: Path) -> None:
    stored = np.arange(120, dtype=np.uint16).reshape(6, 5, 4)
    fields: dict[str, object] = {
        "NumberOfFrames": 6, "DoseGridScaling": 1.0, "DoseUnits": "GY", "ImageOrientationPatient": orientation,
        "GridFrameOffsetVector": [0.0, 3, 6, 9, 12, 15],
    }  # fmt: skip
    _slice(tmp_path / "dose.dcm", "RTDOSE", stored, (0, 0, 50), **fields)
    dose = read_volume(tmp_path / "dose.dcm")
    assert dose.origin is not None
    assert dose.origin[2] == 35
    turned = stored[::-1]
    assert np.array_equal(dose.values, turned[:, :, ::-1] if orientation[0] < 0 else turned[:, ::-1])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"ImageOrientationPatient": [-1, 0, 0, 0, 1, 0]}, "ImageOrientationPatient of the slice at z = 6"),
        ({"PixelSpacing": [2.0, 1.6]}, "PixelSpacing of the slice"),
        ({"ImagePositionPatient": [-9.0, 20, 6.0]}, "ImagePositionPatient of the slice"),
    ],
)
def test_every_slice_lies_as_the_first_does(change: dict[str, object], words: str, tmp_path: Path) -> None:
    for i in range(4):
        other = change if i == 2 else {}
        pixels = np.zeros((5, 4), np.int16)
        _slice(tmp_path / f"{i}.dcm", "CT", pixels, (-10, 20, 3.0 * i), RescaleSlope=1, RescaleIntercept=0, **other)
    with pytest.raises(Problem, match=words):
        read_volume(tmp_path)


def test_dicom_pet_in_its_unit(tmp_path: Path) -> None:
    stored = np.arange(120, dtype=np.int16).reshape(6, 5, 4)
    for i in range(6):
        _slice(
            tmp_path / "activity" / f"{i}.dcm", "PT", stored[i], (0, 0, 2.0 * i), RescaleSlope=float(i + 1),
            RescaleIntercept=0, Units="BQML",
        )  # fmt: skip
    pet = read_volume(tmp_path / "activity")
    assert np.array_equal(pet.values, stored * np.arange(1, 7)[:, None, None])
    _slice(tmp_path / "one" / "0.dcm", "PT", stored[0], (0, 0, 0), RescaleSlope=1, RescaleIntercept=0, Units="CNTS")
    with pytest.raises(Problem, match="CNTS"):
        read_volume(tmp_path / "one")


def test_what_is_no_dicom_series_is_a_problem(tmp_path: Path) -> None:
    pytest.importorskip("pydicom", reason="the extra medicine is not installed")
    (tmp_path / "ct").mkdir()
    with pytest.raises(Problem, match="no DICOM file here"):
        read_volume(tmp_path / "ct")
    (tmp_path / "ct" / "a.dcm").write_bytes(b"nothing of the kind")
    with pytest.raises(Problem, match="no DICOM file here"):
        read_volume(tmp_path / "ct")


# -- along the beam -----------------------------------------------------------------------------


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("direction", [1, -1])
def test_profiles_follow_axis_and_direction(axis: int, direction: int) -> None:
    x, y, z = (np.arange(n) for n in (30, 40, 50))
    grid = (z[:, None, None] * 10_000 + y[None, :, None] * 100 + x[None, None, :]).astype(float)  # linear
    volume = Volume(grid, (1, 1, 1), (0, 0, 0))
    entry = [3.25, 4.5, 5.75]
    entry[axis] = 9.5
    line, _ = along_beam(volume, Beam(100, axis, (entry[0], entry[1], entry[2]), direction), 0)
    step = (1, 100, 10_000)
    expected = sum(s * e for a, (s, e) in enumerate(zip(step, entry, strict=True)) if a != axis)
    along = np.arange(10, (30, 40, 50)[axis]) if direction == 1 else np.arange(9, -1, -1)
    assert line == pytest.approx(expected + step[axis] * along)


def test_lateral_sums() -> None:
    volume = Volume(np.ones((20, 41, 41)), (2, 2, 1), (-40, -40, 0.5))
    beam = Beam(100, 2, (0, 0, 0), 1)
    disc = sum(math.hypot(2 * i, 2 * j) <= 10 for i in range(-20, 21) for j in range(-20, 21))
    for radius, count in ((0, 1), (0.5, 1), (10, disc), (math.inf, 41 * 41)):
        assert along_beam(volume, beam, radius)[0] == pytest.approx(np.full(20, count))


def test_a_coarser_grid_is_resampled_and_said_to_be() -> None:
    volume = Volume(np.arange(10.0)[:, None, None], (1, 1, 2), (0, 0, 1))
    with pytest.warns(UserWarning, match="2 mm along the beam is resampled to 1 mm"):
        line, _ = along_beam(volume, Beam(100, 2, (0, 0, 0), 1), 0)
    assert len(line) == 20
    assert line[1:-1] == pytest.approx((np.arange(1, 19) + 0.5 - 1) / 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        along_beam(Volume(np.ones((10, 1, 1)), (1, 1, 1), (0, 0, 0.5)), Beam(100, 2, (0, 0, 0), 1), 0)


@pytest.mark.parametrize(
    ("entry", "direction"),
    [((0, 0, 60), 1), ((0, 0, 0), -1), ((0, 0, -20), 1), ((9, 0, 0), 1), ((0, -3, 0), 1)],
    ids=["behind", "backwards", "far in front", "beside in x", "beside in y"],
)
def test_a_beam_beside_the_grid_is_a_problem(entry: tuple[float, float, float], direction: int) -> None:
    volume = Volume(np.ones((50, 3, 3)), (1, 1, 1), (0, 0, 0.5))
    with pytest.raises(Problem, match="does not enter"):
        along_beam(volume, Beam(100, 2, entry, direction), 10)


# -- cases --------------------------------------------------------------------------------------

HU = np.full(150, 40)
DOSE = np.concatenate([np.linspace(1, 2, 90), np.linspace(4, 0, 10), np.zeros(50)])
ACTIVITY = np.concatenate([np.linspace(1, 2, 85), np.linspace(2, 0, 10), np.zeros(55)])


def _case(folder: Path, hu: np.ndarray = HU, dose: np.ndarray = DOSE, **activity: np.ndarray) -> Path:
    write_case(folder, 120, hu, dose, activity or {"C11": ACTIVITY, "O15": 2 * ACTIVITY})
    return folder


def _read(folder: Path, length: int = 150):
    return read_case(folder, length, isotopes=ISOTOPES)


def _change(folder: Path, **fields: object) -> None:
    path = folder / "beam.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def test_case_comes_back(tmp_path: Path) -> None:
    case = _read(_case(tmp_path / "a"))
    assert (case.name, case.beam) == ("a", Beam(120, 2, (0, 0, 0), 1))
    assert np.array_equal(case.hu, HU)
    assert case.dose == pytest.approx(DOSE, rel=1e-6)
    assert {name: line.max() for name, line in case.activity.items()} == pytest.approx({"C11": 2, "O15": 4}, rel=1e-6)
    assert find_cases(tmp_path) == [tmp_path / "a"] == find_cases(tmp_path / "a")
    assert find_cases(tmp_path / "gone") == []


def test_profiles_are_cut_and_filled_up_with_air(tmp_path: Path) -> None:
    _case(tmp_path / "a", **{PET: ACTIVITY})
    longer, shorter = (_read(tmp_path / "a", n) for n in (200, 120))
    assert set(longer.activity) == {PET}
    assert longer.dose is not None
    assert shorter.dose is not None
    assert (longer.hu[150:].tolist(), longer.dose[150:].any(), len(longer.dose)) == ([-1000] * 50, False, 200)
    assert np.array_equal(shorter.dose, longer.dose[:120])


def test_without_a_dose(tmp_path: Path) -> None:
    (_case(tmp_path / "a") / "dose.mha").unlink()
    assert _read(tmp_path / "a").dose is None


def test_case_of_other_formats_and_grids(tmp_path: Path) -> None:
    """CT wide and fine, dose of TOPAS on the same box but coarser, activity of PET on a grid of its own."""
    folder = tmp_path / "a"
    folder.mkdir()
    (folder / "beam.json").write_text('{"energy_MeV": 120, "axis": "y", "entry_mm": [5, 140, 5], "direction": -1}')
    backwards = DOSE[::-1][None, :, None]
    write_metaimage(folder / "ct.mha", np.full((10, 150, 10), 40, np.int16), origin=(0.5, -9.5, 0.5))
    _topas(folder / "dose.csv", np.ones((5, 150, 10)) * backwards)  # 10 x 150 x 10 mm, as the CT
    spot = np.zeros((30, 160, 30), np.float32)
    spot[14:16, 5:155, 14:16] = ACTIVITY[::-1][None, :, None]
    write_metaimage(folder / "activity.mhd", spot, origin=(-9.5, -14.5, -9.5))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # 1 mm along the beam in all three
        case = _read(folder)
    # The CT reaches from y = -10 to 140: entered at 140, backwards.
    assert np.array_equal(case.hu, HU)
    assert case.dose == pytest.approx(50 * DOSE, rel=1e-6)
    assert case.activity[PET] == pytest.approx(4 * ACTIVITY, rel=1e-6)
    on_axis = read_case(folder, 150, isotopes=ISOTOPES, dose="axis").dose
    assert on_axis == pytest.approx(DOSE, rel=1e-6)
    _topas(folder / "dose.csv", np.ones((5, 140, 10)) * backwards[:, :140])
    with pytest.raises(Problem, match="grids differ"):
        _read(folder)


def test_grids_that_end_within_the_range_differ(tmp_path: Path) -> None:
    folder = _case(tmp_path / "a")
    write_metaimage(folder / "dose.mha", DOSE[:80, None, None], origin=(0, 0, 0.5))
    with pytest.raises(Problem, match="grids differ: the activity reaches 150 mm, another grid only 80"):
        _read(folder)
    write_metaimage(folder / "dose.mha", DOSE[:110, None, None], origin=(0, 0, 0.5))  # nothing is lost
    assert _read(folder).hu[110:].max() == -1000


def test_isotopes_on_different_grids_are_refused(tmp_path: Path) -> None:
    folder = _case(tmp_path / "a")
    write_metaimage(folder / "activity_O15.mha", ACTIVITY[:140, None, None], origin=(0, 0, 0.5))
    with pytest.raises(Problem, match="grids of the isotopes differ"):
        _read(folder)


@pytest.mark.parametrize(
    ("contents", "words"),
    [
        ({"C11": 0 * ACTIVITY}, "zero or negative"),
        ({"C11": -ACTIVITY}, "zero or negative"),
        ({"C11": ACTIVITY, "O15": ACTIVITY - 0.5}, "zero or negative"),
        ({PET: ACTIVITY - 0.5}, "zero or negative"),
        ({"C11": np.where(HU == 40, np.nan, 0)}, "not finite"),
        ({"hu": np.full(150, 1)}, "densities"),
        ({"dose": 100 * DOSE}, "cGy"),
        ({"dose": 0 * DOSE}, "dose is zero"),
        ({"dose": DOSE[::-1]}, "other end"),
        ({"dose": np.linspace(1, 4, 150)}, "outside the field of view"),
        ({"C11": np.linspace(1, 4, 150)}, "outside the field of view"),
        ({"F18": ACTIVITY}, "unknown activity_F18"),
        ({"C11": ACTIVITY, PET: ACTIVITY}, "not a case"),
    ],
)
def test_impossible_contents_are_refused(contents: dict[str, np.ndarray], words: str, tmp_path: Path) -> None:
    folder = _case(tmp_path / "a", **contents)  # pyright: ignore[reportArgumentType]
    with pytest.raises(Problem, match=words):
        _read(folder)


def test_a_water_phantom_is_no_density(tmp_path: Path) -> None:
    assert not _read(_case(tmp_path / "a", hu=np.zeros(150))).hu.any()


def test_slight_undershoot_of_a_reconstruction_is_no_problem(tmp_path: Path) -> None:
    folder = _case(tmp_path / "a", **{PET: ACTIVITY - 0.01})
    assert _read(folder).activity[PET].min() == 0


def test_a_beam_from_the_other_end_is_refused(tmp_path: Path) -> None:
    folder = _case(tmp_path / "a")
    _change(folder, direction=-1)
    with pytest.raises(Problem, match="other end"):
        _read(folder)
    _change(folder, direction=-1, entry_mm=[0, 0, 150])
    with pytest.raises(Problem, match="other end"):
        _read(folder)
    _change(folder, direction=1, entry_mm=[0, 0, 120])
    with pytest.raises(Problem, match="in front of the entry"):
        _read(folder)


def test_a_range_behind_the_length_asked_for_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Problem, match="outside the field of view") as caught:
        _read(_case(tmp_path / "a"), 90)
    assert "length=" in caught.value.remedy


def test_dose_in_another_unit_is_refused(tmp_path: Path) -> None:
    folder = _case(tmp_path / "a")
    (folder / "dose.mha").unlink()
    _topas(folder / "dose.csv", DOSE[:, None, None], head="DoseToMedium ( cGy ) : Sum", width="1 mm")
    with pytest.raises(Problem, match="cGy"):
        _read(folder)


@pytest.mark.parametrize(
    "fields",
    [
        {"axis": "w"},
        {"energy_MeV": "much"},
        {"energy_MeV": 0},
        {"entry_mm": [0, 0]},
        {"direction": 2},
        {"entry_mm": None},
    ],
)
def test_bad_beam_descriptions_are_refused(fields: dict[str, object], tmp_path: Path) -> None:
    folder = _case(tmp_path / "a")
    _change(folder, **fields)
    with pytest.raises(Problem, match="description of the beam"):
        read_beam(folder / "beam.json")
    (folder / "beam.json").write_text("{")
    with pytest.raises(Problem, match="description of the beam"):
        _read(folder)


def test_an_incomplete_case_is_refused(tmp_path: Path) -> None:
    (_case(tmp_path / "a") / "ct.mha").unlink()
    with pytest.raises(Problem, match="not a case"):
        _read(tmp_path / "a")
