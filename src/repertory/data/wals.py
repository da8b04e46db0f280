"""Typological features of languages: WALS in its CLDF files, and differences between languages.

values.csv      ID, Language_ID, Parameter_ID, Value, Code_ID, …
codes.csv       ID, Parameter_ID, Name, …
parameters.csv  ID, Name, …
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from repertory.core.files import write_text
from repertory.core.problem import Problem
from repertory.data.tables import read_table

FILES = ("values.csv", "codes.csv", "parameters.csv")
CHAPTERS = (*range(20, 129), 143, 144)
"""Morphology, nominal and verbal categories, word order, clauses."""
FEATURES = frozenset(f"{chapter}A" for chapter in CHAPTERS)
WITHOUT_VALUE = frozenset({"81A-7", "90A-7"})
"""Codes that stand for "other" and "mixed"."""
TWO_ORDERS = "81B"
"""Languages with two dominant orders: "SOV or SVO" sets both values of 81A."""
LANGUAGES = {
    "ar": "ams", "bg": "bul", "cs": "cze", "de": "ger", "el": "grk", "en": "eng", "es": "spa", "et": "est", "fa": "prs",
    "fi": "fin", "fr": "fre", "he": "heb", "hi": "hin", "id": "ind", "is": "ice", "it": "ita", "ja": "jpn", "ko": "kor",
    "lv": "lat", "nl": "dut", "pl": "pol", "pt": "por", "ro": "rom", "ru": "rus", "sv": "swe", "th": "tha", "tr": "tur",
    "vi": "vie", "zh": "mnd",
}  # fmt: skip
"""Language code of Universal Dependencies -> that of WALS. Others are looked up as they are."""


@dataclass(frozen=True)
class Differences:
    """How languages differ, feature by feature.

    Attributes:
        names: (F,) of the features.
        values: (L, L, F), from 0 (equal) to 1; NaN for languages without features.
        source: where the features come from, in words.
    """

    names: tuple[str, ...]
    values: NDArray[np.float64]
    source: str

    @property
    def distance(self) -> NDArray[np.float64]:
        """(L, L): the mean over features."""
        return self.values.mean(axis=2)


def find_wals(folder: Path) -> Path | None:
    """The first folder, in or below `folder`, with the three files."""
    found = (path.relative_to(folder).parent for path in folder.rglob(FILES[0]))
    places = sorted(folder / place for place in found if not any(part.startswith(".") for part in place.parts))
    return next((place for place in places if all(os.path.lexists(place / name) for name in FILES)), None)


def read_wals(folder: Path, languages: Sequence[str]) -> Differences:
    """Differences of languages by the features that all of them have a value of.

    Two languages with one value each differ by 0 or 1. With several values, k of them shared: by 0 if all are, by
    1 / (2k) if not; by 1 if none is.

    Args:
        folder: with the three files.
        languages: codes of Universal Dependencies; those that WALS does not have are left out, with a warning.

    Raises:
        Problem: a file or column is missing, a value has a code that codes.csv does not know or that belongs to
            another feature, or there is no feature that all languages have.
    """
    values = read_table(folder / FILES[0], ["Language_ID", "Parameter_ID", "Code_ID"], dtype=str)
    codes = read_table(folder / FILES[1], ["ID", "Parameter_ID", "Name"], dtype=str)
    parameters = read_table(folder / FILES[2], ["ID", "Name"], dtype=str)
    titles = dict(zip(parameters["ID"], parameters["Name"].fillna(""), strict=True))
    orders = {name: code for code, of, name in _columns(codes, "ID", "Parameter_ID", "Name") if of == "81A"}
    meanings = dict(zip(codes["ID"], codes["Name"], strict=True))
    features = dict(zip(codes["ID"], codes["Parameter_ID"], strict=True))

    wanted = [LANGUAGES.get(code, code) for code in languages]
    known: dict[str, dict[str, set[str]]] = {}  # language -> feature -> values
    counted, blank = FEATURES | {TWO_ORDERS}, 0
    for language, feature, code in _columns(values, "Language_ID", "Parameter_ID", "Code_ID"):
        if language not in wanted or code in WITHOUT_VALUE or feature not in counted:
            continue
        if not isinstance(code, str):  # an empty cell
            blank += 1
        elif features.get(code) != feature:
            what = f"{FILES[0]}: {code!r} of {language} is no code of the feature {feature}"
            raise Problem(what, folder / FILES[0], f"correct it, or add it to {FILES[1]}")
        elif feature == TWO_ORDERS:
            if both := [orders[name] for name in str(meanings[code]).split(" or ") if name in orders]:
                known.setdefault(language, {}).setdefault("81A", set()).update(both)
        else:
            known.setdefault(language, {}).setdefault(feature, set()).add(code)
    if blank:
        warnings.warn(f"{folder / FILES[0]}: {blank} rows have no Code_ID and are left out", stacklevel=2)
    if absent := [code for code, name in zip(languages, wanted, strict=True) if name not in known]:
        warnings.warn(f"WALS has no values of {', '.join(absent)}: no formal distance of theirs", stacklevel=2)
    shared = sorted(set.intersection(*(set(features) for features in known.values())) if known else [])
    if not shared:
        raise Problem("no feature has values of all languages", folder, "give languages that WALS describes better")
    found = np.full((len(wanted), len(wanted), len(shared)), np.nan)
    for i, one in enumerate(wanted):
        for j, other in enumerate(wanted):
            if one in known and other in known:
                found[i, j] = [difference(known[one][name], known[other][name]) for name in shared]
    names = tuple(f"{name} {titles.get(name, '')}".strip() for name in shared)
    return Differences(names, found, f"WALS, {len(shared)} features")


def _columns(table: object, *names: str) -> list[tuple[str, ...]]:
    return list(zip(*(table[name] for name in names), strict=True))  # pyright: ignore[reportIndexIssue]


def difference(one: set[str], other: set[str]) -> float:
    """How two sets of values of one feature differ, see `read_wals`.

    Example:
        >>> difference({"SOV"}, {"SVO"}), difference({"SOV", "SVO"}, {"SVO"}), difference({"SVO"}, {"SVO"})
        (1.0, 0.5, 0.0)
    """
    if not one & other:
        return 1.0
    return 0.0 if one == other else 1 / (2 * len(one & other))


def write_wals(
    folder: Path, languages: Mapping[str, Mapping[str, str]], features: Mapping[str, tuple[str, ...]]
) -> None:
    """Write the three files.

    Args:
        folder: exists.
        languages: code -> feature ("83A Order of Object and Verb") -> name of its value.
        features: feature -> names of its values, in the order of their numbers.
    """
    values, codes, parameters = ["ID,Language_ID,Parameter_ID,Value,Code_ID"], ["ID,Parameter_ID,Name"], ["ID,Name"]
    for feature, names in features.items():
        number, _, title = feature.partition(" ")
        parameters.append(f"{number},{title}")
        codes += [f"{number}-{k},{number},{name}" for k, name in enumerate(names, start=1)]
        for language, chosen in languages.items():
            k = names.index(chosen[feature]) + 1
            values.append(f"{number}-{language},{language},{number},{k},{number}-{k}")
    for name, lines in zip(FILES, (values, codes, parameters), strict=True):
        write_text(folder / name, "\n".join(lines) + "\n")
