"""Files are whole or absent."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from repertory.core.files import replace_folder, write_json, write_text


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_text_is_written_in_utf8_into_new_folders_and_over_old_files(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "text.txt"
    write_text(path, "圆环")
    assert path.read_bytes() == "圆环".encode()
    write_text(path, "short")
    assert path.read_text() == "short"
    assert names(path.parent) == ["text.txt"]


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    write_text(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_text(path, "new" * 10_000 + "\ud800")  # a lone surrogate cannot be encoded
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert path.read_text() == "old"
    assert names(tmp_path) == ["text.txt"]


def test_json_has_null_for_what_is_not_finite(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    write_json(path, {"a": [1.5, math.nan, (math.inf, -math.inf)], "b": {"c": np.float64("nan")}, "d": "NaN 圆"})
    text = path.read_text(encoding="utf-8")
    assert json.loads(text) == {"a": [1.5, None, [None, None]], "b": {"c": None}, "d": "NaN 圆"}
    assert "圆" in text
    assert text.endswith("}\n")


def test_a_folder_takes_the_place_of_the_old_one(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "folder"
    for content in ("first", "second"):
        with replace_folder(folder) as fresh:
            (fresh / f"{content}.txt").write_text(content)
            assert fresh.parent == folder.parent
            assert not (folder / f"{content}.txt").exists()
    assert names(folder) == ["second.txt"]
    assert names(folder.parent) == ["folder"]


def fill_half(folder: Path, error: type[BaseException]) -> None:
    with replace_folder(folder) as fresh:
        (fresh / "half.txt").write_text("half")
        raise error


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
def test_a_folder_that_fails_leaves_the_old_one_and_nothing_else(tmp_path: Path, error: type[BaseException]) -> None:
    folder = tmp_path / "folder"
    with pytest.raises(error):
        fill_half(folder, error)
    assert names(tmp_path) == []
    with replace_folder(folder) as fresh:
        (fresh / "whole.txt").write_text("whole")
    with pytest.raises(error):
        fill_half(folder, error)
    assert names(folder) == ["whole.txt"]
    assert names(tmp_path) == ["folder"]


def test_a_folder_has_the_rights_that_the_user_gives_by_default(tmp_path: Path) -> None:
    """Not those of a temporary folder, which only its owner may read."""
    with replace_folder(tmp_path / "folder"):
        pass
    (tmp_path / "plain").mkdir()
    assert (tmp_path / "folder").stat().st_mode == (tmp_path / "plain").stat().st_mode
