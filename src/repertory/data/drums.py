"""Drum grooves: Standard MIDI Files to grids of sixteenth notes, to lines of text, and back.

    info.csv                                                        # as in the Groove MIDI Dataset and in E-GMD
    drummer<n>/<session>/<n>_<style>_<bpm>_<beat|fill>_<num>-<den>.mid

Any other folder of .mid files is read too. A grid is (rows, 6) bool: a row is a sixteenth note, a column an instrument.
In text a row is six characters, "o" for a hit and "-" for none, and a newline. Velocity and microtiming are not kept.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from repertory.core.files import write_bytes
from repertory.core.problem import Problem, require, suggest
from repertory.data.arrays import read_bytes, read_lines, read_text

EXTRA = "music"
LAYOUT = """\
info.csv of the Groove MIDI Dataset, and the files it names: drummer1/session1/1_rock_120_beat_4-4.mid
or: any folder of drum files, *.mid"""
COLUMNS = ("crash", "ride", "snare", "kick", "hi-hat", "toms")
NOTES: Mapping[int, str] = {
    note: column
    for column, notes in zip(
        COLUMNS,
        ((49, 55, 57, 52), (51, 53, 59), (38, 40, 37), (36,), (42, 46, 22, 26), (50, 48, 47, 45, 43, 58)),
        strict=True,
    )
    for note in notes
}
"""Note number of the Roland TD-11 -> column. Others are ignored, the hi-hat's pedal (44) among them."""
WRITTEN = (49, 51, 38, 36, 42, 50)
"""Note number that each column is written as."""
HIT, REST = "o", "-"
ROWS = 16
"""Rows of a measure, whatever the time signature."""
MEASURES = 16
"""Measures that are read of a file."""
DRUM_CHANNEL = 9
"""Channel 10, counted from 0."""
DEFAULT_TEMPO = 500_000
"""Microseconds a beat: 120 beats a minute."""
NEEDED = ("midi_filename", "split", "beat_type", "time_signature")
SESSIONS = ("session1", "session2", "session3")
"""Sessions that grooves are taken from: eval_session repeats the same grooves for listening tests."""
PARTS = ("train", "validation", "test")
Signatures = Literal["4-4", "x-4"]
Grid = NDArray[np.bool_]


@dataclass(frozen=True)
class Drums:
    """What a MIDI file holds.

    Attributes:
        grid: (rows, 6) bool; 16 measures of numerator * 4 rows, padded or cut.
        numerator, denominator: the last time signature of the file; 4/4 if it has none.
        tempo: microseconds a beat, the first of the file; 500 000 if it has none.
        ignored: note number -> how often it was played and has no column.
        cut: whether the file goes on after the grid.
    """

    grid: Grid
    numerator: int = 4
    denominator: int = 4
    tempo: int = DEFAULT_TEMPO
    ignored: Mapping[int, int] = field(default_factory=dict)
    cut: bool = False

    @property
    def bpm(self) -> float:
        """Beats a minute."""
        return 60e6 / self.tempo


@dataclass(frozen=True)
class Groove:
    """One file of a data set."""

    name: str
    path: Path
    style: str
    drums: Drums


@dataclass(frozen=True)
class Grooves:
    """A data set.

    Attributes:
        parts: train, validation, test.
        left_out: which files were not taken and why, in one line; empty: all were.
    """

    parts: Mapping[str, Sequence[Groove]]
    left_out: str


# -- MIDI ---------------------------------------------------------------------------------------


def read_midi(
    path: Path, signatures: Signatures = "4-4", notes: Mapping[int, str] = NOTES, measures: int = MEASURES
) -> Drums:
    """Read a drum file.

    Track 0 is read; where it has no notes, the notes of all tracks on channel 10. A hit belongs to the nearest
    sixteenth note; half-way it belongs to the later one.

    Args:
        path: a Standard MIDI File.
        signatures: "4-4", or "x-4" for every signature in quarter notes.
        notes: note number -> column.
        measures: that the grid holds.

    Raises:
        Problem: not a MIDI file, damaged, timed in SMPTE frames, another time signature, or no note with a column.
    """
    midi = _open(path)
    events = list(_timed(midi.tracks[0] if midi.tracks else ()))
    if not any(_is_hit(message) for _, message in events):
        events = list(_timed(require("mido", EXTRA).merge_tracks(midi.tracks)))
        channels = sorted({message.channel + 1 for _, message in events if _is_hit(message)})
        if channels and DRUM_CHANNEL + 1 not in channels:
            raise Problem(
                f"no notes on channel 10, but on {', '.join(map(str, channels))}",
                path,
                "drums are read from the first track or from channel 10: export them there",
            )
        events = [event for event in events if getattr(event[1], "channel", DRUM_CHANNEL) == DRUM_CHANNEL]

    numerator, denominator = 4, 4
    tempos: list[int] = []
    hits: list[tuple[int, int]] = []
    for tick, message in events:
        if message.type == "time_signature":
            numerator, denominator = message.numerator, message.denominator
        elif message.type == "set_tempo":
            tempos.append(message.tempo)
        elif _is_hit(message):
            hits.append((tick, message.note))
    if denominator != 4 or (signatures == "4-4" and numerator != 4):
        remedy = "only 4/4 is read" if denominator != 4 else "time_signatures=x-4 reads it, in measures of 16 rows"
        raise Problem(f"the time signature is {numerator}/{denominator}", path, remedy)

    grid = np.zeros((measures * numerator * 4, len(COLUMNS)), dtype=np.bool_)
    ignored: Counter[int] = Counter()
    cut = False
    for tick, note in hits:
        row = (8 * tick + midi.ticks_per_beat) // (2 * midi.ticks_per_beat)
        if row >= len(grid):
            cut = True
            break
        if note in notes:
            grid[row, COLUMNS.index(notes[note])] = True
        else:
            ignored[note] += 1
    if not grid.any():
        seen = ", ".join(map(str, sorted(ignored)))
        raise Problem(
            f"no drum notes: {f'notes {seen} have no column' if seen else 'nothing is played'}",
            path,
            f'assign them to {", ".join(COLUMNS)}: --set note_map="{min(ignored, default=36)}=kick, …"'
            if seen
            else "give a file with drum notes",
        )
    return Drums(grid, numerator, denominator, tempos[0] if tempos else DEFAULT_TEMPO, dict(ignored), cut)


def _open(path: Path) -> Any:
    mido = require("mido", EXTRA)
    content = read_bytes(path)
    try:
        midi = mido.MidiFile(file=io.BytesIO(content), clip=True)
    except Exception as error:  # mido raises many kinds on a damaged file
        raise Problem(
            f"not a MIDI file, or damaged: {error or type(error).__name__}", path, "give a Standard MIDI File"
        ) from error
    if midi.ticks_per_beat <= 0:
        raise Problem("time is counted in SMPTE frames, not in beats", path, "export it with ticks per quarter note")
    return midi


def _is_hit(message: Any) -> bool:
    return message.type == "note_on" and message.velocity > 0


def _timed(track: Iterable[Any]) -> Iterator[tuple[int, Any]]:
    """Ticks since the beginning, and the message."""
    tick = 0
    for message in track:
        tick += message.time
        yield tick, message


def write_midi(path: Path, grid: Grid, tempo: int = DEFAULT_TEMPO, numerator: int = 4) -> None:
    """Write a grid as a MIDI file of type 1: channel 10, velocity 100, 480 ticks a beat, a row long each note.

    Silence before the first hit and after the last one stays.

    Args:
        path: the file.
        grid: (rows, 6) bool.
        tempo: microseconds a beat.
        numerator: of the time signature, in quarter notes.
    """
    mido = require("mido", EXTRA)
    row = 120
    events = [
        (tick, kind, WRITTEN[column])
        for place, column in np.argwhere(grid).tolist()
        for tick, kind in ((place * row, "note_on"), ((place + 1) * row, "note_off"))
    ]
    track = mido.MidiTrack()
    track.append(mido.MetaMessage("set_tempo", tempo=tempo))
    track.append(mido.MetaMessage("time_signature", numerator=numerator, denominator=4))
    now = 0
    for tick, kind, note in sorted(events):  # "note_off" comes before "note_on" of the same tick
        velocity = 100 if kind == "note_on" else 0
        track.append(mido.Message(kind, channel=DRUM_CHANNEL, note=note, velocity=velocity, time=tick - now))
        now = tick
    track.append(mido.MetaMessage("end_of_track", time=len(grid) * row - now))
    write_track(path, track, kind=1)


def write_track(path: Path, track: Any, kind: int = 0, ticks: int = 480) -> None:
    """Write one track of mido as a MIDI file, atomically."""
    midi = require("mido", EXTRA).MidiFile(type=kind, ticks_per_beat=ticks)
    midi.tracks.append(track)
    buffer = io.BytesIO()
    midi.save(file=buffer)
    write_bytes(path, buffer.getvalue())


def parse_note_map(text: str) -> dict[int, str]:
    """The usual columns of notes, with those in `text` added or replaced.

    Args:
        text: "44=hi-hat, 39=snare"; "44=" ignores a note.

    Raises:
        Problem: not of this form, no such column, or no note number.

    Example:
        >>> parse_note_map("44=hi-hat, 36=")[44], 36 in parse_note_map("44=hi-hat, 36=")
        ('hi-hat', False)
    """
    notes = dict(NOTES)
    for part in filter(None, (word.strip() for word in text.split(","))):
        number, sign, column = (word.strip() for word in part.partition("="))
        if not sign or not number.isascii() or not number.isdigit() or int(number) > 127:
            raise Problem(f"not a note and a column: {part!r}", "note_map", "write it as 44=hi-hat, 39=snare")
        if column and column not in COLUMNS:
            raise Problem(
                f"no column {column!r}{suggest(column, COLUMNS)}", "note_map", f"there are: {', '.join(COLUMNS)}"
            )
        notes[int(number)] = column
    return {note: column for note, column in notes.items() if column}


# -- text ---------------------------------------------------------------------------------------


def grid_text(grid: Grid) -> str:
    """Rows as lines of text.

    Example:
        >>> print(grid_text(np.eye(2, 6, dtype=bool)), end="")
        o-----
        -o----
    """
    characters = np.full((len(grid), len(COLUMNS) + 1), ord("\n"), dtype=np.uint8)
    characters[:, :-1] = np.where(grid, ord(HIT), ord(REST))
    return characters.tobytes().decode("ascii")


def text_grid(text: str) -> Grid:
    """The grid of a text, whatever its lines: each is cut or padded to six columns, and all but "o" is no hit.

    Example:
        >>> text_grid("o-\\n--x--oo\\n").astype(int).tolist()
        [[1, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 1]]
    """
    width = len(COLUMNS)
    rows = [[character == HIT for character in line[:width].ljust(width)] for line in text.splitlines()]
    return np.array(rows, dtype=np.bool_).reshape(-1, width)


def read_grid(path: Path) -> Grid:
    """Read a groove in text; lines SEP and END, which prompts and completions have, are passed over.

    Raises:
        Problem: no such file, no text, a row that is not of six "o" and "-" (names the line), or no rows.
    """
    rows = []
    for number, line in enumerate(read_lines(path), start=1):
        line = line.rstrip()
        if line in ("", "SEP", "END"):
            continue
        if len(line) != len(COLUMNS) or set(line) - {HIT, REST}:
            what = f"{line!r} is no row of {len(COLUMNS)} characters o and -"
            raise Problem(what, f"{path}:{number}", f"a row has a character for each of {', '.join(COLUMNS)}")
        rows.append(line)
    if not rows:
        raise Problem("no rows", path, f"give lines such as {HIT}--{HIT}--")
    return text_grid("\n".join(rows))


# -- folders ------------------------------------------------------------------------------------


def read_grooves(
    folder: Path,
    signatures: Signatures = "4-4",
    notes: Mapping[int, str] = NOTES,
    progress: Callable[[Sequence[Any], str], Iterable[Any]] = lambda items, _: items,
) -> Grooves:
    """The beats of a data set by part.

    With info.csv, in the folder or in one below it: its `split`; fills, sessions other than 1 to 3 and other time
    signatures are left out, as in the authors' code. Without: every .mid in or below the folder, split 80 : 10 : 10 in
    the order of a hash of its name.

    Args:
        folder: see `LAYOUT`.
        signatures, notes: as in `read_midi`.
        progress: wraps the list of files; the second argument is a label.

    Returns:
        Without any grooves if the folder has no .mid files.

    Raises:
        Problem: info.csv is damaged, lacks a column or names a file that does not exist; no file can be used.
    """
    listed = [path for path in (folder / "info.csv", *sorted(folder.glob("*/info.csv"))) if path.is_file()]
    left: dict[str, list[str]] = {}
    files = _listed(listed[0], signatures, left) if listed else _hashed(folder)
    parts: dict[str, list[Groove]] = {part: [] for part in PARTS}
    for part, name, path, style in progress(files, "read grooves"):
        try:
            parts[part].append(Groove(name, path, style, read_midi(path, signatures, notes)))
        except Problem as problem:
            left.setdefault(problem.what, []).append(path.relative_to(folder).as_posix())
    left_out = "; ".join(f"{len(names)} ({what}; first: {names[0]})" for what, names in sorted(left.items()))
    if left and not any(parts.values()):
        raise Problem(f"no file can be used: {left_out}", folder, "give grooves in 4/4, called beat in info.csv")
    return Grooves(parts, left_out)


def midi_files(folder: Path) -> list[Path]:
    """MIDI files in or below a folder, hidden ones apart."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in (".mid", ".midi")
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )


def _listed(listed: Path, signatures: Signatures, left: dict[str, list[str]]) -> list[tuple[str, str, Path, str]]:
    """(part, name, path, style) of the beats in info.csv."""
    folder = listed.parent
    table = csv.DictReader(io.StringIO(read_text(listed)), strict=True)
    try:
        rows = list(table)
    except csv.Error as error:
        raise Problem(f"info.csv is damaged: {error}", f"{listed}:{table.line_num}", "restore the file") from error
    missing = [name for name in NEEDED if name not in (table.fieldnames or ())]
    if missing:
        raise Problem(f"no column {', '.join(missing)}", listed, f"its first line must name {', '.join(NEEDED)}")
    found = []
    for number, row in enumerate(rows, start=2):
        place = f"{listed}:{number}"
        if empty := [name for name in NEEDED if not (row[name] or "").strip()]:
            raise Problem(f"{empty[0]} is empty", place, "fill it in, or remove the row")
        name, signature = row["midi_filename"].strip(), row["time_signature"].strip()
        path = folder / name
        if not path.resolve().is_relative_to(folder.resolve()):
            raise Problem(f"{name} is outside the folder", place, "paths are relative to info.csv")
        if not path.is_file():
            raise Problem(f"{name} does not exist", place, "restore the file, or remove its row")
        if row["split"] not in PARTS:
            raise Problem(f"no split {row['split']!r}", place, f"there are: {', '.join(PARTS)}")
        reason = (
            "fills"
            if row["beat_type"] != "beat"
            else "evaluation sessions"
            if "session" in path.parent.name and path.parent.name not in SESSIONS
            else f"time signature {signature}"
            if not signature.endswith("-4") or (signatures == "4-4" and signature != "4-4")
            else ""
        )
        if reason:
            left.setdefault(reason, []).append(name)
            continue
        drummer = Path(name).parts[0].removeprefix("drummer")
        found.append((row["split"], f"{drummer}_{path.stem}", path, (row.get("style") or "").strip()))
    return found


def _hashed(folder: Path) -> list[tuple[str, str, Path, str]]:
    """(part, name, path, style) of any MIDI files: a tenth each, at least one, for test and validation."""
    paths = midi_files(folder)
    if 0 < len(paths) < 3:
        raise Problem(f"{len(paths)} MIDI file(s)", folder, "three or more are needed: for training, validation, test")
    named = sorted(paths, key=lambda path: sha256(path.relative_to(folder).as_posix().encode()).digest())
    held = max(1, len(named) // 10)
    parts = ["test"] * held + ["validation"] * held + ["train"] * (len(named) - 2 * held)
    names = (path.relative_to(folder).with_suffix("").as_posix().replace("/", "_") for path in named)
    return [(part, name, path, "") for part, name, path in zip(parts, names, named, strict=False)]
