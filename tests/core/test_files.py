"""Files are whole or absent."""

from __future__ import annotations

import errno
import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from repertory.core import files
from repertory.core.files import (
    check_output,
    read_json,
    remove_leftovers,
    replace_folder,
    set_aside,
    write_json,
    write_text,
)
from repertory.core.problem import Damaged, Problem


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


KILLED = """
import sys
from pathlib import Path
from repertory.core.files import replace_folder
with replace_folder(Path(sys.argv[1])) as fresh:
    (fresh / "half").write_text("")
    print("here", flush=True)
    sys.stdin.read()
"""


def test_folders_of_killed_processes_are_collected_and_those_of_living_ones_are_not(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    writing = [
        subprocess.Popen([sys.executable, "-c", KILLED, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for _ in range(2)
    ]
    assert [process.stdout and process.stdout.readline() for process in writing] == [b"here\n", b"here\n"]
    assert len(names(tmp_path)) == 2
    writing[0].send_signal(signal.SIGKILL)
    writing[0].wait()
    with replace_folder(folder) as fresh:
        assert len(names(tmp_path)) == 2, "one of the living process, and ours"
        (fresh / "whole").write_text("")
    writing[1].communicate()
    assert names(tmp_path) == ["folder"]
    assert names(folder) == ["half"]


def test_a_replacement_killed_between_its_renamings_is_undone(tmp_path: Path) -> None:
    for name in (".a.12345678.old", ".b.12345678.old"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "old.txt").write_text("")
    (tmp_path / "b").mkdir()
    (tmp_path / ".c.json.77.new").write_text("half")
    remove_leftovers(tmp_path)
    assert names(tmp_path) == ["a", "b"]
    assert names(tmp_path / "a") == ["old.txt"]
    assert names(tmp_path / "b") == []


def test_a_folder_that_was_filled_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    with replace_folder(folder, empty=True) as fresh:
        (fresh / "first").write_text("")
    assert names(folder) == ["first"]
    with pytest.raises(Problem, match="no longer empty"), replace_folder(folder, empty=True):
        pass
    assert names(folder) == ["first"]
    assert names(tmp_path) == ["folder"]


def test_outputs_are_tried_and_nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    check_output(tmp_path / "new" / "deep")
    check_output(tmp_path / "new" / "deep", empty=True)
    check_output(tmp_path)
    bad = [tmp_path / "file", tmp_path / "file" / "x" / "y", Path("/proc/x"), tmp_path / ("x" * 256)]
    for folder in bad:
        for empty in (False, True):
            with pytest.raises(Problem) as caught:
                check_output(folder, empty=empty, remedy="choose another")
            assert (caught.value.where, caught.value.remedy) == (str(folder), "choose another")
    with pytest.raises(Problem, match="not empty"):
        check_output(tmp_path, empty=True)
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(Problem, match="a file is in the place"):
        check_output(tmp_path / "link")
    monkeypatch.setattr(files.tempfile, "mkdtemp", _refused)
    with pytest.raises(Problem, match="Read-only file system"):
        check_output(tmp_path / "other")
    assert names(tmp_path) == ["file", "link"]


def _refused(**_: object) -> str:
    raise OSError(errno.EROFS, os.strerror(errno.EROFS))


def test_json_of_ours_is_read_or_called_damaged(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    write_json(path, {"name": "caf\udce9"})  # an undecodable file name
    assert read_json(path, "mend it") == {"name": "caf\udce9"}
    for content in ("", "{", "[]", "3", "[" * 100_000):
        path.write_text(content)
        with pytest.raises(Damaged, match=r"x\.json is damaged") as caught:
            read_json(path, "mend it")
        assert caught.value.remedy == "mend it"
    with pytest.raises(FileNotFoundError):
        read_json(tmp_path / "absent", "")


def test_what_is_set_aside_replaces_nothing(tmp_path: Path) -> None:
    for number, name in enumerate(("x.damaged1", "x.damaged2")):
        (tmp_path / "x").write_text(str(number))
        assert set_aside(tmp_path / "x") == tmp_path / name
    assert names(tmp_path) == ["x.damaged1", "x.damaged2"]
