"""Drum files: MIDI to grid to text and back, folders in two layouts, the sample, and bad input."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from repertory.core.problem import Problem
from repertory.data import drums, grooves
from repertory.data.drums import COLUMNS, grid_text, parse_note_map, read_grid, read_grooves, read_midi, text_grid

mido: Any = pytest.importorskip("mido", reason="the extra music is not installed")
Message, MetaMessage = mido.Message, mido.MetaMessage


def write(path: Path, *tracks: list[Any], kind: int = 0, ticks: int = 480) -> Path:
    midi = mido.MidiFile(type=kind, ticks_per_beat=ticks)
    midi.tracks.extend(mido.MidiTrack(track) for track in tracks)
    path.parent.mkdir(parents=True, exist_ok=True)
    midi.save(path)
    return path


def hit(note: int, time: int = 0, velocity: int = 90, channel: int = 9) -> Any:
    return Message("note_on", note=note, time=time, velocity=velocity, channel=channel)


# -- one file ---------------------------------------------------------------------------------------


def test_hits_go_to_the_nearest_sixteenth_note_and_half_way_to_the_later_one(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mid", [hit(36, 59), hit(38, 1), hit(42, 119), hit(49, 1)])  # ticks 59, 60, 179, 180
    grid = read_midi(path).grid
    assert grid.shape == (256, 6)
    assert [(row, COLUMNS[column]) for row, column in np.argwhere(grid)] == [
        (0, "kick"), (1, "snare"), (1, "hi-hat"), (2, "crash"),
    ]  # fmt: skip


@pytest.mark.parametrize("ticks", [1, 3, 25, 96, 480, 960])
def test_every_resolution_gives_the_same_rows(tmp_path: Path, ticks: int) -> None:
    path = write(tmp_path / "a.mid", [hit(36), *(hit(36, ticks) for _ in range(9))], ticks=ticks)
    assert np.flatnonzero(read_midi(path).grid[:, 3]).tolist() == list(range(0, 40, 4))


def test_note_offs_pedal_and_what_comes_after_16_measures_are_no_hits(tmp_path: Path) -> None:
    track = [hit(36), hit(36, 10, velocity=0), hit(44, 10), hit(44, 10), hit(38, 480 * 64), hit(36, 1)]
    found = read_midi(write(tmp_path / "a.mid", track))
    assert found.grid.sum() == 1
    assert dict(found.ignored) == {44: 2}
    assert found.cut


def test_the_last_time_signature_and_the_first_tempo_count(tmp_path: Path) -> None:
    signatures = [MetaMessage("time_signature", numerator=n, denominator=4) for n in (4, 3)]
    track = [
        MetaMessage("set_tempo", tempo=400_000),
        signatures[0],
        hit(36),
        MetaMessage("set_tempo", tempo=1),
        signatures[1],
    ]
    path = write(tmp_path / "a.mid", track)
    found = read_midi(path, "x-4")
    assert (found.grid.shape, found.numerator, found.tempo, found.bpm) == ((192, 6), 3, 400_000, 150)
    with pytest.raises(Problem, match="time signature is 3/4") as caught:
        read_midi(path)
    assert "time_signatures=x-4" in caught.value.remedy


def test_without_notes_in_track_0_channel_10_of_all_tracks_is_read(tmp_path: Path) -> None:
    head = [MetaMessage("set_tempo", tempo=600_000)]
    piano, kit = [hit(36, channel=0), hit(36, 480, channel=0)], [hit(38, 240), hit(36, 240)]
    found = read_midi(write(tmp_path / "a.mid", head, piano, kit, kind=1))
    assert np.argwhere(found.grid).tolist() == [[2, 2], [4, 3]]
    assert found.tempo == 600_000
    with pytest.raises(Problem, match="no notes on channel 10, but on 1"):
        read_midi(write(tmp_path / "b.mid", head, piano, kind=1))


def test_what_is_written_is_read_again_and_every_note_ends(tmp_path: Path) -> None:
    grid = np.random.default_rng(0).random((256, 6)) < 0.2
    grid[:20] = grid[-5:] = False  # silence at both ends stays
    grid[20:23, 3] = True  # notes that touch
    path = tmp_path / "a.mid"
    drums.write_midi(path, grid, 461_538)
    found = read_midi(path)
    assert (found.grid == grid).all()
    assert found.tempo == 461_538
    midi = mido.MidiFile(path)
    assert (midi.type, midi.ticks_per_beat) == (1, 480)
    sounding: set[int] = set()
    tick = 0
    for message in midi.tracks[0]:
        tick += message.time
        if message.type == "note_on":
            assert (message.channel, message.velocity) == (9, 100)
            assert message.note not in sounding
            sounding.add(message.note)
        elif message.type == "note_off":
            sounding.remove(message.note)
    assert not sounding
    assert tick == 256 * 120


def test_note_maps_add_replace_and_remove(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mid", [hit(44), hit(36, 120)])
    assert np.argwhere(read_midi(path, notes=parse_note_map("44 = hi-hat, 36=toms")).grid).tolist() == [[0, 4], [1, 5]]
    for text, message in (("44", "not a note"), ("200=kick", "not a note"), ("44=kik", "did you mean kick")):
        with pytest.raises(Problem, match=message):
            parse_note_map(text)


@pytest.mark.parametrize(
    ("track", "message"),
    [
        ([hit(44), hit(39)], "no drum notes: notes 39, 44 have no column"),
        ([], "nothing is played"),
        ([MetaMessage("time_signature", numerator=6, denominator=8), hit(36)], "time signature is 6/8"),
    ],
)
def test_files_without_a_groove_are_refused(tmp_path: Path, track: list[Any], message: str) -> None:
    with pytest.raises(Problem, match=message) as caught:
        read_midi(write(tmp_path / "a.mid", track))
    if "column" in message:
        assert "--set note_map" in caught.value.remedy


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    good = write(tmp_path / "a.mid", [hit(36, 5), hit(38, 5)]).read_bytes()
    for k, content in enumerate((b"", b"RIFF" + good, good[:10], good[:-6], good[:12] + b"\xe7\x28" + good[14:])):
        path = tmp_path / f"{k}.mid"
        path.write_bytes(content)
        with pytest.raises(Problem, match=r"not a MIDI file, or damaged|SMPTE|no drum notes"):
            read_midi(path)
    with pytest.raises(Problem, match="missing"):
        read_midi(tmp_path / "none.mid")
    with pytest.raises(Problem, match="SMPTE"):
        read_midi(tmp_path / "4.mid")


def test_no_change_of_a_file_gives_anything_but_a_groove_or_a_problem(tmp_path: Path) -> None:
    content = bytearray(write(tmp_path / "a.mid", [MetaMessage("set_tempo", tempo=1), *[hit(36, 5)] * 6]).read_bytes())
    rng = np.random.default_rng(0)
    path, refused = tmp_path / "b.mid", 0
    for _ in range(150):
        changed = content.copy()
        for place in rng.integers(len(changed), size=2):
            changed[place] = rng.integers(256)
        path.write_bytes(changed[: rng.integers(len(changed) // 2, len(changed) + 1)])
        try:
            assert read_midi(path, "x-4").grid.any()
        except Problem:
            refused += 1
    assert 0 < refused < 150


# -- text -------------------------------------------------------------------------------------------


def test_text_is_read_back() -> None:
    grid = np.random.default_rng(1).random((32, 6)) < 0.5
    assert (text_grid(grid_text(grid)) == grid).all()
    assert text_grid("").shape == (0, 6)


def test_grooves_in_text_name_the_line_that_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "groove.txt"
    path.write_text("o--o--\r\n------\nSEP\n\n--o---\nEND", encoding="utf-8")
    assert grid_text(read_grid(path)) == "o--o--\n------\n--o---\n"
    for line in ("o--o-", "o--o--o", "x--o--"):
        path.write_text(f"o--o--\n{line}\n", encoding="utf-8")
        with pytest.raises(Problem, match="no row of 6") as caught:
            read_grid(path)
        assert caught.value.where.endswith("groove.txt:2")
    path.write_text("SEP\n", encoding="utf-8")
    with pytest.raises(Problem, match="no rows"):
        read_grid(path)


# -- folders ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sample")
    grooves.write_grooves(folder, 24)
    return folder


def test_the_sample_has_beats_and_what_readers_leave_out(sample: Path) -> None:
    found = read_grooves(sample)
    assert {part: len(listed) for part, listed in found.parts.items()} == {"train": 16, "validation": 4, "test": 4}
    for reason in ("4 (fills", "1 (evaluation sessions", "1 (time signature 6-8"):
        assert reason in found.left_out
    rows = list(csv.DictReader(io.StringIO((sample / "info.csv").read_text(encoding="utf-8"))))
    assert len(rows) == 30
    files = [sample / row["midi_filename"] for row in rows]
    assert sum(path.stat().st_size for path in files) < 1e6
    assert {mido.MidiFile(path).type for path in files[:5]} == {0}
    bpm = {row["midi_filename"]: int(row["bpm"]) for row in rows}
    for groove in found.parts["test"]:
        assert groove.drums.bpm == pytest.approx(bpm[groove.path.relative_to(sample).as_posix()], abs=0.01)
        assert groove.name.split("_")[0] in ("1", "2")
        crashes = np.flatnonzero(groove.drums.grid[:, 0])
        assert len(crashes)
        assert not (crashes % 64).any()  # on the first beat of a fifth measure, despite microtiming


def test_the_sample_is_deterministic_and_varies_with_its_seed(tmp_path: Path, sample: Path) -> None:
    for name, seed in (("again", 0), ("other", 1)):
        grooves.write_grooves(tmp_path / name, 24, seed)
    listing = sorted(path.relative_to(sample) for path in sample.rglob("*") if path.is_file())
    assert all((sample / name).read_bytes() == (tmp_path / "again" / name).read_bytes() for name in listing)
    assert (tmp_path / "other/info.csv").read_bytes() != (sample / "info.csv").read_bytes()


def test_any_folder_of_files_is_split_by_its_names(tmp_path: Path) -> None:
    for k in range(20):
        write(tmp_path / f"set{k % 2}" / f"{k}.MID", [hit(36)])
    write(tmp_path / ".hidden" / "x.mid", [hit(36)])
    (tmp_path / "set0" / "broken.mid").write_bytes(b"no")
    found = read_grooves(tmp_path)
    sizes = [len(found.parts[part]) for part in drums.PARTS]
    assert sum(sizes) == 20
    assert min(sizes) >= 1
    assert "1 (not a MIDI file, or damaged" in found.left_out
    assert "set0/broken.mid" in found.left_out
    again = read_grooves(tmp_path)
    assert [g.name for g in again.parts["test"]] == [g.name for g in found.parts["test"]]
    names = {groove.name for listed in found.parts.values() for groove in listed}
    assert {"set0_0", "set1_1"} <= names


def test_two_files_are_too_few(tmp_path: Path) -> None:
    for k in range(2):
        write(tmp_path / f"{k}.mid", [hit(36)])
    with pytest.raises(Problem, match=r"2 MIDI file\(s\)"):
        read_grooves(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace("split", "part", 1), "no column split"),
        (lambda text: text.replace("drummer1/session1/1_", "drummer1/session1/0_"), "does not exist"),
        (lambda text: text.replace(",train", ",tra\u00efn", 1), "no split 'tra\u00efn'"),
        (lambda text: text.replace(",beat,", ",,", 1), "beat_type is empty"),
        (lambda text: text.replace("drummer1/session1/1_", "../1_"), "outside the folder"),
        (lambda text: text.replace(",beat,", ",fill,"), "no file can be used"),
        (lambda text: text + '"open', "info.csv is damaged"),
    ],
)
def test_a_wrong_info_csv_is_refused(tmp_path: Path, change: Callable[[str], str], message: str) -> None:
    grooves.write_grooves(tmp_path, 12)
    table = tmp_path / "info.csv"
    table.write_text(change(table.read_text(encoding="utf-8")), encoding="utf-8")
    with pytest.raises(Problem, match=message) as caught:
        read_grooves(tmp_path)
    assert "info.csv" in caught.value.where or "no file" in message


def test_a_table_with_more_columns_is_read(tmp_path: Path) -> None:
    grooves.write_grooves(tmp_path, 12)
    table = tmp_path / "info.csv"
    lines = table.read_text(encoding="utf-8").splitlines()
    wider = [lines[0] + ",kit_name", *(f"{line},Acoustic Kit" for line in lines[1:])]
    table.write_text("\n".join(wider), encoding="utf-8-sig")
    assert sum(map(len, read_grooves(tmp_path).parts.values())) == 12


@pytest.mark.realdata
def test_groove_midi_is_read(real_data: Callable[[str], Path]) -> None:
    found = read_grooves(real_data("groove_midi") / "groove")
    assert {part: len(listed) for part, listed in found.parts.items()} == {"train": 124, "validation": 20, "test": 20}
    assert "20 (fills" in found.left_out
    assert "4 (time signature 3-4" in found.left_out
    assert (
        "1 (no drum notes: notes 44 have no column; first: drummer7/session2/22_rock_118_beat_4-4.mid" in found.left_out
    )
    assert sum(map(len, read_grooves(real_data("groove_midi") / "groove", "x-4").parts.values())) == 168
