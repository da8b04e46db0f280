"""Pencil-beam cases of proton therapy: CT, dose and positron activity on 3-d grids, read along the beam.

A case is a folder:

    beam.json               {"energy_MeV": 120, "axis": "z", "entry_mm": [0, 0, 0], "direction": 1}
    ct.*                    CT numbers in HU
    dose.*                  Gy (not needed to predict)
    activity_C11.*, ...     positron emitters per voxel at the end of the beam, one grid for each isotope,
    activity.*              or one PET image in Bq/ml

where `.*` is MetaImage (`.mhd` with its `.raw`, or `.mha`), a TOPAS scorer (`.csv`), a DICOM file (`.dcm`), or a
folder of that name with a DICOM series. `entry_mm` is where the beam enters the patient, `direction` +1 or -1
along the axis. An optional "patient" in beam.json names the patient whom several cases belong to.

Plain MetaImage files need no further package; compressed ones need SimpleITK, DICOM needs pydicom (the extra
`medicine`).
"""

from __future__ import annotations

import json
import math
import os
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates

from repertory.core.problem import Problem, reason, require
from repertory.data.arrays import CHUNK, LARGEST, file_size, find_file, read_lines

AXES = "xyz"
PET = "PET"
"""Key of a measured activity image, beside those of isotopes."""

Triple = tuple[float, float, float]


@dataclass(frozen=True)
class Volume:
    """A scalar field on a regular grid that is aligned with the axes."""

    values: NDArray
    """[z, y, x]"""
    spacing: Triple
    """x, y, z in mm"""
    origin: Triple | None
    """Centre of the first voxel: x, y, z in mm. None: the format does not tell (TOPAS)."""
    unit: str = ""
    """As the format tells it; empty if it does not."""


def read_volume(path: Path) -> Volume:
    """Read one grid: `.mhd`, `.mha`, `.csv` (TOPAS), `.dcm`, or a folder with a DICOM series.

    Raises:
        Problem: unreadable, damaged, not aligned with the axes, or in a unit that is not meant.
    """
    if path.is_dir() or path.suffix.lower() == ".dcm":
        return read_dicom(path)
    return read_topas(path) if path.suffix.lower() == ".csv" else read_metaimage(path)


# -- MetaImage ----------------------------------------------------------------------------------

_ELEMENTS = {"MET_SHORT": "<i2", "MET_USHORT": "<u2", "MET_INT": "<i4", "MET_FLOAT": "<f4", "MET_DOUBLE": "<f8"}
_PLAIN = {
    "ObjectType": ("Image",), "ObjectSubType": None, "NDims": ("3",), "DimSize": None, "ElementType": tuple(_ELEMENTS),
    "BinaryData": ("True",), "BinaryDataByteOrderMSB": ("False",), "ElementByteOrderMSB": ("False",),
    "CompressedData": ("False",), "ElementNumberOfChannels": ("1",), "TransformMatrix": None, "Offset": None,
    "ElementSpacing": None, "CenterOfRotation": None, "AnatomicalOrientation": None, "ElementDataFile": None,
    **dict.fromkeys(("Comment", "Name", "ID", "ParentID", "Color", "Modality", "ElementMin", "ElementMax")),
}  # fmt: skip
"""Fields that the fast reader knows, and the values that it takes (None: any). MetaIO has synonyms for many."""
_NUMBERS = {
    "NDims": 1, "DimSize": 3, "ElementSpacing": 3, "ElementSize": 3, "Offset": 3, "Position": 3, "Origin": 3,
    "CenterOfRotation": 3, "TransformMatrix": 9, "Rotation": 9, "Orientation": 9, "ElementNumberOfChannels": 1,
    "HeaderSize": 1, "CompressedDataSize": 1, "ElementMin": 1, "ElementMax": 1,
}  # fmt: skip
"""Fields of numbers, and how many there are."""


def write_metaimage(path: Path, values: NDArray, spacing: Triple = (1, 1, 1), origin: Triple = (0, 0, 0)) -> None:
    """Write a grid [z, y, x] as one `.mha` file; its dtype must be one that MetaImage knows.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     write_metaimage(Path(folder) / "ct.mha", np.zeros((5, 4, 3), np.int16), spacing=(1, 1, 2))
        ...     ct = read_volume(Path(folder) / "ct.mha")
        >>> ct.values.shape, ct.spacing
        ((5, 4, 3), (1.0, 1.0, 2.0))
    """
    element = next(name for name, code in _ELEMENTS.items() if np.dtype(code) == values.dtype)
    header = {
        "ObjectType": "Image", "NDims": 3, "BinaryData": True, "BinaryDataByteOrderMSB": False,
        "CompressedData": False, "TransformMatrix": "1 0 0 0 1 0 0 0 1",
        "Offset": " ".join(f"{o:g}" for o in origin), "ElementSpacing": " ".join(f"{s:g}" for s in spacing),
        "DimSize": " ".join(str(n) for n in values.shape[::-1]), "ElementType": element, "ElementDataFile": "LOCAL",
    }  # fmt: skip
    lines = "".join(f"{key} = {value}\n" for key, value in header.items())
    path.write_bytes(lines.encode() + values.astype(_ELEMENTS[element]).tobytes())


def read_metaimage(path: Path) -> Volume:
    """Read `.mhd` (with the data file that it names) or `.mha`.

    Plain files (3-d, uncompressed, little-endian: what GATE and FRED write) are read right here, which is much
    faster for small grids; all others by SimpleITK.

    Raises:
        Problem: missing, damaged, not 3-d, or rotated; or not plain, and SimpleITK is not installed.
    """
    header, start = _metaimage_header(path)
    _check_header(header, path)
    names = _data_files(path, header["ElementDataFile"], start)
    plain = (
        {"NDims", "DimSize", "ElementType", "ElementSpacing"} <= header.keys()
        and all(name in _PLAIN and (_PLAIN[name] is None or value in _PLAIN[name]) for name, value in header.items())
        and names in ([], [header["ElementDataFile"]])  # neither a pattern nor a list of files
    )
    return _read_plain(path, header, start) if plain else _read_by_itk(path)


def _check_header(header: Mapping[str, str], path: Path) -> None:
    """Refuse numbers that ITK would take as they are, for a size or a place in memory."""
    if header.get("NDims") != "3" or header.get("ElementNumberOfChannels", "1") != "1":
        dimensions, channels = (header.get(name, "1") for name in ("NDims", "ElementNumberOfChannels"))
        raise _unreadable(path, f"{dimensions} dimensions, {channels} channels")
    for name, count in _NUMBERS.items():
        try:
            values = [float(value) for value in header.get(name, "0 " * count).split()]
        except ValueError as error:
            raise _unreadable(path, f"{name}: {error}") from error
        if len(values) != count or not (np.abs(values) < 1 << 31).all():
            raise _unreadable(path, f"{name} = {header[name]}, expected {count} numbers")
    sides = header.get("DimSize", "0").split()
    if not all(side.isdecimal() and int(side) > 0 for side in sides) or math.prod(map(int, sides)) * 8 > LARGEST:
        raise _unreadable(path, f"DimSize {header.get('DimSize')}")


def _data_files(path: Path, named: str, start: int) -> list[str]:
    """Names of the files that hold the data; none where the header's own file does.

    Raises:
        Problem: a file elsewhere than in the header's folder or below it, or one that is not there.
    """
    if named.upper() == "LOCAL":
        return []
    names = [named]
    if named.upper().startswith("LIST"):
        with path.open("rb") as file:
            file.seek(start)
            names = [line.strip() for line in file.read(CHUNK).decode("latin-1").split("\n") if line.strip()]
    elif "%" in named:
        names = [named.split()[0]]
    for name in names:
        if PurePath(name).is_absolute() or ".." in PurePath(name).parts:
            raise Problem(f"the grid's data are in {name}", path, "put the data file beside its header")
        if "%" not in name:
            file_size(path.parent / name)
    return names


def _metaimage_header(path: Path) -> tuple[dict[str, str], int]:
    """The header's fields, and where the data of an `.mha` begin."""
    header: dict[str, str] = {}
    try:
        file_size(path)
        with path.open("rb") as file:
            while "ElementDataFile" not in header:
                key, equals, value = file.readline(10_000).decode("ascii").partition("=")
                if not equals:
                    raise _unreadable(path, "the header ends before ElementDataFile")
                if key.strip() in header:
                    raise _unreadable(path, f"the header has {key.strip()} twice")
                header[key.strip()] = value.strip()
            return header, file.tell()
    except (OSError, UnicodeDecodeError) as error:
        raise _unreadable(path, error) from error


def _read_plain(path: Path, header: dict[str, str], start: int) -> Volume:
    def numbers(key: str, default: str, count: int) -> list[float]:
        values = [float(v) for v in header.get(key, default).split()]
        if len(values) != count or not np.isfinite(values).all():
            raise ValueError(f"{key} = {header.get(key, default)}, expected {count} numbers")
        return values

    local = header["ElementDataFile"].upper() == "LOCAL"
    try:
        data = path.read_bytes()[start:] if local else (path.parent / header["ElementDataFile"]).read_bytes()
        shape = [int(n) for n in header["DimSize"].split()][::-1]
        dtype = np.dtype(_ELEMENTS[header["ElementType"]])
        size = math.prod(shape) * dtype.itemsize
        if len(shape) != 3 or len(data) != size:
            raise ValueError(f"DimSize {header['DimSize']} takes {size} bytes, there are {len(data)}")
        values = np.frombuffer(data, dtype).reshape(shape)
        spacing = numbers("ElementSpacing", "1 1 1", 3)
        origin = numbers("Offset", "0 0 0", 3)
        matrix = numbers("TransformMatrix", "1 0 0 0 1 0 0 0 1", 9)
    except (OSError, KeyError, ValueError) as error:
        raise _unreadable(path, error) from error
    return _aligned(values, spacing, origin, matrix, path)


def _read_by_itk(path: Path) -> Volume:
    sitk = require("SimpleITK", extra="medicine")
    try:
        image = sitk.ReadImage(str(path), imageIO="MetaImageIO")
    except (RuntimeError, MemoryError) as error:
        raise _unreadable(path, (str(error).splitlines() or ["too large"])[-1].strip()) from error
    if image.GetDimension() != 3 or image.GetNumberOfComponentsPerPixel() != 1:
        raise _unreadable(path, f"{image.GetDimension()} dimensions, {image.GetNumberOfComponentsPerPixel()} channels")
    values = sitk.GetArrayFromImage(image)
    return _aligned(values, image.GetSpacing(), image.GetOrigin(), image.GetDirection(), path)


def _aligned(
    values: NDArray,
    spacing: Sequence[float],
    origin: Sequence[float],
    matrix: Sequence[float],
    path: Path,
    unit: str = "",
) -> Volume:
    """A Volume whose indices rise with the coordinates; `matrix` holds the directions of the axes."""
    direction = np.reshape(matrix, (3, 3))
    signs = np.sign(np.diag(direction))
    if values.dtype.kind not in "iuf":
        raise _unreadable(path, f"its values are {values.dtype}")
    if not np.allclose(direction, np.diag(signs), atol=1e-3):
        raise Problem("the grid is rotated against the axes", path, "resample it to a grid along the axes")
    if not np.isfinite([*spacing, *origin]).all() or min(spacing) <= 0:
        raise _unreadable(path, f"spacing {tuple(spacing)}, origin {tuple(origin)}")
    size = values.shape[::-1]
    first = [o - s * (n - 1) if d < 0 else o for o, s, n, d in zip(origin, spacing, size, signs, strict=True)]
    values = np.flip(values, tuple(2 - a for a in range(3) if signs[a] < 0))
    x, y, z = (float(s) for s in spacing)
    return Volume(values, (x, y, z), (float(first[0]), float(first[1]), float(first[2])), unit)


def _unreadable(path: Path, reason: object) -> Problem:
    return Problem(f"cannot read the grid: {reason}", path, "write it again; see `repertory sample` for an example")


# -- TOPAS --------------------------------------------------------------------------------------


def read_topas(path: Path) -> Volume:
    """Read the csv of a TOPAS scorer on a box: the sum in each bin.

    Raises:
        Problem: the header lacks the bins or the quantity, or bins are missing or not numbers.
    """
    lines = read_lines(path)
    try:
        header = "\n".join(line for line in lines if line.startswith("#"))
        bins = dict(re.findall(r"#\s*([XYZ])\s+in\s+(\d+)\s+bins?\s+of\s", header))
        widths = re.findall(r"#\s*[XYZ]\s+in\s+\d+\s+bins?\s+of\s+([\d.eE+-]+)\s*(mm|cm|m)\b", header)
        quantity = re.search(r"#\s*\w+\s*\(\s*(\S*)\s*\)\s*:\s*(.+)", header)
        if set(bins) != {"X", "Y", "Z"} or len(widths) != 3 or quantity is None:
            raise ValueError("the header names no bins in X, Y and Z, or no quantity with its unit")
        x, y, z = (float(width) * {"mm": 1, "cm": 10, "m": 1000}[unit] for width, unit in widths)
        if not (np.isfinite([x, y, z]).all() and min(x, y, z) > 0):
            raise ValueError(f"bins of {x:g}, {y:g}, {z:g} mm")
        rows = np.loadtxt([line for line in lines if line and not line.startswith("#")], delimiter=",", ndmin=2)
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error
    columns = quantity[2].split()
    shape = tuple(int(bins[axis]) for axis in "ZYX")
    if len(rows) != math.prod(shape):
        raise _unreadable(path, f"{len(rows)} rows for {math.prod(shape)} bins")
    place = 3 + (columns.index("Sum") if "Sum" in columns else 0)
    wanted = np.indices(shape)[::-1].reshape(3, -1).T  # x, y, z of every bin
    if rows.shape[1] <= place or not np.array_equal(rows[np.lexsort(rows[:, :3].T), :3], wanted):
        raise _unreadable(path, "the rows are not one of each bin: its x, y and z, and the values")
    values = np.zeros(shape)
    ix, iy, iz = rows[:, :3].astype(int).T
    values[iz, iy, ix] = rows[:, place]
    return Volume(values, (x, y, z), None, quantity[1])


# -- DICOM --------------------------------------------------------------------------------------


def read_dicom(path: Path) -> Volume:
    """Read a CT or PET series (a folder of slices) or an RT dose (one file, or a folder with it alone).

    Raises:
        Problem: not DICOM; slices missing or of several series; oblique; a dose not in Gy, a PET not in Bq/ml.
    """
    pydicom = require("pydicom", extra="medicine")
    files = [path]
    if path.is_dir():
        inside = (p for p in path.iterdir() if p.suffix.lower() == ".dcm" or not p.is_dir())
        files = sorted(p for p in inside if p.name != "DICOMDIR" and p.name[0] != ".")
    slices, foreign = [], []
    for file in files:
        file_size(file)
        try:
            slices.append(pydicom.dcmread(file))
        except pydicom.errors.InvalidDicomError:
            foreign.append(file)
        except Exception as error:  # pydicom raises many kinds on a damaged file
            raise _unreadable(file, reason(error)) from error
    if not slices:
        named = foreign[0] if foreign else path
        raise Problem("there is no DICOM file here", named, "give a DICOM series, or a .dcm file")
    if foreign:
        warnings.warn(f"{path}: {len(foreign)} files are no DICOM and are left out ({foreign[0].name})", stacklevel=2)
    if len({s.get("SeriesInstanceUID") for s in slices}) != 1:
        raise _unreadable(path, f"a folder holds one DICOM series; {len(slices)} files of several, or none, are here")
    try:
        slices.sort(key=lambda s: float(s.ImagePositionPatient[2]))
        first = slices[0]
        x, y, z = (float(v) for v in first.ImagePositionPatient)
        rows = [float(v) for v in first.ImageOrientationPatient]
        if len(rows) != 6:
            raise ValueError(f"ImageOrientationPatient has {len(rows)} numbers")
        if first.Modality == "RTDOSE":
            unit, wanted = first.DoseUnits, "GY"
            values = first.pixel_array * float(first.DoseGridScaling)
            offsets = np.array([float(v) for v in first.GridFrameOffsetVector])
            # Relative to the first frame, along the normal of the image; or patient coordinates.
            heights = z + offsets * (rows[0] * rows[4] - rows[1] * rows[3]) if offsets[0] == 0 else offsets
        else:
            unit, wanted = (first.Units, "BQML") if first.Modality == "PT" else ("HU", "HU")
            values = np.stack([s.pixel_array * float(s.RescaleSlope) + float(s.RescaleIntercept) for s in slices])
            heights = np.array([float(s.ImagePositionPatient[2]) for s in slices])
        dy, dx = (float(v) for v in first.PixelSpacing)
        for file_slice in slices[1:]:
            _check_slice(file_slice, first)
    except Exception as error:  # pydicom raises many kinds on a damaged file
        raise _unreadable(path, reason(error)) from error
    if unit != wanted:
        raise Problem(f"{first.Modality} in the unit {unit}", path, f"export it in {wanted}")
    steps = np.diff(heights)
    if len(steps) == 0 or values.ndim != 3 or len(values) != len(heights):
        raise _unreadable(path, "a single slice is no volume")
    if not np.allclose(steps, steps[0], atol=0.01) or steps[0] == 0:
        raise Problem("the slices are not evenly spaced", path, "complete the series: slices are missing or doubled")
    matrix = [rows[0], rows[3], 0, rows[1], rows[4], 0, rows[2], rows[5], np.sign(steps[0])]
    return _aligned(
        values, (dx, dy, abs(steps[0])), (x, y, heights[0]), matrix, path, unit="Gy" if wanted == "GY" else ""
    )


def _check_slice(other: Any, first: Any) -> None:
    """Whether a slice lies as the first one does.

    Raises:
        ValueError: it is turned, scaled or shifted against it; names the field and the slice.
    """
    for name, numbers in (("ImageOrientationPatient", 6), ("PixelSpacing", 2), ("ImagePositionPatient", 2)):
        here, there = (np.array([float(v) for v in s[name].value[:numbers]]) for s in (other, first))
        if not np.allclose(here, there, atol=0.01):
            where = f"the slice at z = {float(other.ImagePositionPatient[2]):g}"
            raise ValueError(f"{name} of {where} is {here.tolist()}, of others {there.tolist()}")


# -- profiles along the beam --------------------------------------------------------------------


@dataclass(frozen=True)
class Beam:
    """beam.json: where a pencil beam goes."""

    energy: float
    """MeV"""
    axis: int
    """0, 1, 2: x, y, z"""
    entry: Triple
    """Where it enters the patient: x, y, z in mm."""
    direction: int
    """+1 or -1 along the axis."""
    patient: str = ""
    """Whose case it is; empty if the file does not tell."""


def read_beam(path: Path) -> Beam:
    """Read beam.json.

    Raises:
        Problem: missing, no JSON, or a value is absent or out of range.
    """
    file_size(path)
    try:
        fields = json.loads(path.read_bytes())
        x, y, z = (float(v) for v in fields["entry_mm"])
        beam = Beam(
            float(fields["energy_MeV"]), AXES.index(fields["axis"]), (x, y, z),
            int(fields.get("direction", 1)), str(fields.get("patient", "")),
        )  # fmt: skip
        if beam.direction not in (1, -1) or not 1 <= beam.energy <= 500 or not np.isfinite(beam.entry).all():
            raise ValueError(f"direction {beam.direction}, energy {beam.energy} MeV, entry {beam.entry}")
    except (OSError, AttributeError, OverflowError, RecursionError, ValueError, KeyError, TypeError) as error:
        raise Problem(
            f"no usable description of the beam: {type(error).__name__}: {error}",
            path,
            'give energy_MeV (1-500), axis ("x", "y" or "z"), entry_mm (three numbers), direction (1 or -1)',
        ) from error
    return beam


def along_beam(volume: Volume, beam: Beam, radius_mm: float, where: object = "") -> tuple[NDArray, float]:
    """Profile of a grid from the entry of a beam on, at the depths 0.5, 1.5, ... mm, as far as the grid goes.

    Linear between the voxels' centres. A grid that is not 1 mm fine along the beam is resampled, with a warning.

    Args:
        volume: has an origin.
        radius_mm: voxels whose centres lie within this distance of the axis (at least the nearest) are summed up;
            0: the value on the axis (trilinear); infinite: the whole plane.
        where: named in Problems.

    Returns:
        The profile, and the highest value that lies in front of the entry (-inf if the grid begins there).

    Raises:
        Problem: the beam does not pass through the grid.
    """
    assert volume.origin is not None
    lateral = [a for a in (2, 1, 0) if a != beam.axis]  # in the order of the array's dimensions
    planes = np.moveaxis(volume.values, 2 - beam.axis, 0)
    spacing = volume.spacing[beam.axis]
    depth = beam.direction * (volume.origin[beam.axis] + spacing * np.arange(len(planes)) - beam.entry[beam.axis])
    if beam.direction < 0:
        planes, depth = planes[::-1], depth[::-1]
    index = [(beam.entry[a] - volume.origin[a]) / volume.spacing[a] for a in lateral]
    beside = any(not -0.5 <= i <= n - 0.5 for i, n in zip(index, planes.shape[1:], strict=True))
    end = depth[-1] + spacing / 2
    if beside or depth[0] - spacing / 2 > 1 or end < 1:
        raise Problem(
            "the beam does not enter this grid where beam.json says, or leaves it at once",
            where,
            "check entry_mm, axis and direction: does the beam enter from the other end?",
        )
    if abs(spacing - 1) > 1e-3:
        warnings.warn(f"a grid of {spacing:g} mm along the beam is resampled to 1 mm", stacklevel=2)

    if radius_mm == 0:
        at = np.stack([np.arange(len(planes)), *(np.full(len(planes), i) for i in index)])
        line = map_coordinates(planes.astype(float), at, order=1, mode="nearest")
    else:
        away = [
            volume.spacing[a] * (np.arange(n) - i) for a, n, i in zip(lateral, planes.shape[1:], index, strict=True)
        ]
        distance = np.hypot(away[0][:, None], away[1])
        line = planes[:, distance <= max(radius_mm, distance.min())].sum(axis=1, dtype=float)
    grid = np.arange(math.floor(end + 1e-3)) + 0.5
    return np.interp(grid, depth, line), max(line[depth < -spacing / 2], default=-math.inf)


# -- cases --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """One beam in one patient, along its axis; every profile has the same length L, sample i at (i + 0.5) mm."""

    name: str
    beam: Beam
    hu: NDArray
    """CT numbers on the axis; air behind the grid."""
    activity: Mapping[str, NDArray]
    """Isotope -> emitters within 10 mm of the axis; or "PET" -> measured activity there."""
    dose: NDArray | None
    """Any scale; None: no dose is there."""


def write_case(folder: Path, energy: float, ct: NDArray, dose: NDArray, activity: Mapping[str, NDArray]) -> None:
    """Write a new case folder: a column of 1 x 1 x L voxels of 1 mm along z, entered at z = 0.

    Args:
        energy: MeV.
        ct: (L,) HU.
        dose: (L,) Gy.
        activity: isotope -> (L,) emitters per voxel at the end of the beam; or "PET" -> (L,) Bq/ml.
    """
    folder.mkdir(parents=True)
    beam = {"energy_MeV": round(float(energy), 3), "axis": "z", "entry_mm": [0.0, 0.0, 0.0], "direction": 1}
    (folder / "beam.json").write_text(json.dumps(beam), encoding="utf-8")
    named = {"activity" if name == PET else f"activity_{name}": line for name, line in activity.items()}
    for name, line in {"ct": ct.astype("<i2"), "dose": dose, **named}.items():
        column = line if name == "ct" else line.astype("<f4")
        write_metaimage(folder / f"{name}.mha", column[:, None, None], origin=(0.0, 0.0, 0.5))


def find_cases(folder: Path) -> list[Path]:
    """The case folders in `folder`, sorted by name; `folder` itself if it is one.

    Raises:
        Problem: a folder with a CT but without beam.json, or a link to nothing.
    """
    if os.path.lexists(folder / "beam.json"):
        return [folder]
    inside = sorted(path for path in folder.iterdir() if not path.name.startswith(".")) if folder.is_dir() else []
    for path in inside:
        if path.is_symlink() and not path.exists():
            raise Problem(f"{path.name} is a link to nothing", path, "restore what it links to, or remove the link")
        if path.is_dir() and not os.path.lexists(path / "beam.json") and any(path.glob("ct*")):
            raise Problem(f"{path.name} has no beam.json", path, "add it, or move the folder elsewhere")
    return [path for path in inside if os.path.lexists(path / "beam.json")]


def read_case(
    folder: Path,
    length: int,
    *,
    isotopes: Sequence[str],
    dose: Literal["integrated", "axis"] = "integrated",
    radius_mm: float = 10.0,
) -> Case:
    """Read one case folder along its beam.

    Args:
        folder: see the top of this module.
        length: profiles are cut, or filled up with air, to so many mm.
        isotopes: those that may be there: C11, ...
        dose: laterally integrated, or on the axis.
        radius_mm: the activity within this distance of the axis is summed up.

    Raises:
        Problem: a file is missing or unreadable, or what it holds cannot be what it should be: grids that do
            not go together, an activity of zero or below, a density for CT numbers, cGy for Gy, a beam from
            the other end, a range outside the field of view.
    """
    beam = read_beam(folder / "beam.json")
    ct = _volume(folder, "ct")
    doses = _volume(folder, "dose")
    found = {isotope: _volume(folder, f"activity_{isotope}") for isotope in isotopes}
    found[PET] = _volume(folder, "activity")
    activities = {name: volume for name, volume in found.items() if volume is not None}
    foreign = [p.stem for p in sorted(folder.glob("activity_*")) if p.stem.removeprefix("activity_") not in isotopes]
    if ct is None or not activities or foreign or (PET in activities and len(activities) > 1):
        raise Problem(
            f"not a case: unknown {foreign[0]}" if foreign else "not a case: it needs ct, and activity of either kind",
            folder,
            f"give ct.mhd, and activity.mhd (PET) or activity_<isotope>.mhd, isotopes: {', '.join(isotopes)}",
        )
    _check_values(folder, ct, doses, activities)

    def profile(volume: Volume, radius: float, name: str) -> tuple[NDArray, float]:
        return along_beam(_placed(volume, ct, folder / name), beam, radius, folder / name)

    hu, _ = profile(ct, 0, "ct")
    lines = {name: profile(volume, radius_mm, "activity") for name, volume in activities.items()}
    whole = {"activity": np.sum([line for line, _ in lines.values()], axis=0)}
    if max(front for _, front in lines.values()) > whole["activity"].max():
        raise _other_end(folder, "the peak of the activity lies in front of the entry")
    if doses is not None:
        whole["dose"], front = profile(doses, 0 if dose == "axis" else math.inf, "dose")
        if front > whole["dose"].max():
            raise _other_end(folder, "the peak of the dose lies in front of the entry")
        _check_entrance(folder, hu, whole["dose"])
    common = min(len(hu), *(len(line) for line in whole.values()))
    for name, line in whole.items():
        _check_view(folder, name, line, common, length)

    def fitted(line: NDArray, behind: float = 0.0) -> NDArray:
        line = line[: min(common, length)]
        return np.pad(line, (0, length - len(line)), constant_values=behind)

    return Case(
        folder.name,
        beam,
        fitted(hu, -1000.0),
        {name: fitted(line.clip(0)) for name, (line, _) in lines.items()},
        fitted(whole["dose"].clip(0)) if "dose" in whole else None,
    )


def _volume(folder: Path, name: str) -> Volume | None:
    for suffix in (".mhd", ".mha", ".csv", ".dcm", ""):
        if path := find_file(folder, f"{name}{suffix}"):
            return read_volume(path)
    return None


def _placed(volume: Volume, ct: Volume, where: Path) -> Volume:
    """The volume; without an origin of its own it must cover the CT's box, and lies there."""
    if volume.origin is not None:
        return volume
    if ct.origin is None:  # both from TOPAS, whose components are centred
        own = tuple(-s * (n - 1) / 2 for s, n in zip(volume.spacing, volume.values.shape[::-1], strict=True))
    else:
        box, mine = (np.multiply(v.spacing, v.values.shape[::-1]) for v in (ct, volume))
        if not np.allclose(box, mine, rtol=0.01):
            raise Problem(
                f"the grids differ: {mine} mm against {box} mm of the CT, and this format does not tell where it lies",
                where,
                "score on the CT's box, or give MetaImage or DICOM, which tell the origin",
            )
        own = tuple(o + (s - c) / 2 for o, s, c in zip(ct.origin, volume.spacing, ct.spacing, strict=True))
    return Volume(volume.values, volume.spacing, (own[0], own[1], own[2]), volume.unit)


def _check_values(folder: Path, ct: Volume, dose: Volume | None, activities: Mapping[str, Volume]) -> None:
    """Refuse contents that cannot be what the file's name says."""
    every = {"ct": ct, **({"dose": dose} if dose else {}), **activities}
    for name, volume in every.items():
        if not np.isfinite(volume.values).all():
            raise Problem("the grid holds values that are not finite", folder / name, "mend the file")
    if ct.values.min() >= 0 and 0.5 < ct.values.max() < 20:  # a phantom of water is 0 HU throughout
        raise Problem(
            f"CT values from {ct.values.min():g} to {ct.values.max():g} look like densities", folder, "give HU"
        )
    if len({(v.values.shape, v.spacing, v.origin) for v in activities.values()}) > 1:
        raise Problem(
            f"the grids of the isotopes differ ({', '.join(activities)})", folder, "score all isotopes on one grid"
        )
    total = np.sum([v.values.sum(dtype=float) for v in activities.values()])
    for name, volume in activities.items():
        if total <= 0 or volume.values.min() < -0.05 * volume.values.max():
            raise Problem(f"the activity ({name}) is zero or negative", folder, "give emitters per voxel, or Bq/ml")
    if dose is None:
        return
    if dose.unit not in ("", "Gy"):
        raise Problem(f"the dose is in {dose.unit}", folder / "dose", "give Gy")
    if dose.values.max() <= 0:
        raise Problem("the dose is zero everywhere", folder / "dose", "leave the file away if there is no dose")
    if dose.values.max() > 100:
        raise Problem(f"a dose of {dose.values.max():g} Gy; is it in cGy?", folder / "dose", "give Gy: divide by 100")


def _check_entrance(folder: Path, hu: NDArray, dose: NDArray) -> None:
    """Tissue at the entrance of a proton beam always takes dose; at the other end of the patient it takes none."""
    tissue = np.flatnonzero(hu > -500)[:10]
    tissue = tissue[tissue < len(dose)]
    if len(tissue) and dose[tissue].mean() < 0.02 * dose.max():
        raise _other_end(folder, "no dose in the tissue at the entry")


def _other_end(folder: Path, sign: str) -> Problem:
    return Problem(
        f"the beam seems to enter from the other end: {sign}", folder, "check direction and entry_mm in beam.json"
    )


def _check_view(folder: Path, name: str, line: NDArray, common: int, length: int) -> None:
    """The distal fall of dose and activity must lie on all grids, and within the length asked for."""
    fall = int(np.flatnonzero(line >= 0.5 * line.max())[-1])
    if fall + 1 >= common and common < len(line):
        raise Problem(
            f"the grids differ: the {name} reaches {len(line)} mm, another grid only {common} mm of the beam's path",
            folder,
            "give ct, dose and activity over the whole range of the beam",
        )
    if fall + 1 >= min(common, length):
        raise Problem(
            f"the range is outside the field of view: the {name} has not fallen at {min(common, length)} mm",
            folder,
            f"give grids that reach behind the range; profiles are cut at {length} mm (--set length=300)",
        )
