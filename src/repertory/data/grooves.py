"""Drum grooves that nobody played, in the layout of the Groove MIDI Dataset.

Each groove has a pattern of its style, small variations of kick and ghost notes, a fill every 4 or 8 measures with a
crash after it, microtiming and velocities. The generator knows nothing of the models that will read it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from repertory.core.files import write_text
from repertory.core.problem import require
from repertory.data.drums import DRUM_CHANNEL, EXTRA, MEASURES, PARTS, ROWS, write_track

TICKS = 480
ROW = TICKS // 4
SHORT = 0.08
"""Share of grooves of less than 16 measures."""
KICK, SNARE, RIM, HAT, OPEN, PEDAL, RIDE, CRASH = 36, 38, 37, 42, 46, 44, 51, 49
TOMS = (48, 45, 43)
LOUD, QUIET = 100, 38


@dataclass(frozen=True)
class Style:
    """A pattern of one measure: note -> its sixteenth notes, of which there may be several versions."""

    cymbal: tuple[tuple[int, str], ...]
    snare: tuple[tuple[int, str], ...]
    kicks: tuple[str, ...]
    ghosts: float
    """Chance of a quiet snare on each free off-beat sixteenth note."""


STYLES = {
    "rock": Style(
        ((HAT, "x-x-x-x-x-x-x-x-"), (RIDE, "x-x-x-x-x-x-x-x-"), (HAT, "x---x---x---x---")),
        ((SNARE, "----x-------x---"),),
        ("x-------x-------", "x-----x-x-------", "x--x----x-x-----", "x-------x-x---x-"),
        0.03,
    ),
    "funk": Style(
        ((HAT, "xxxxxxxxxxxxxxxx"), (HAT, "x-xxx-xxx-xxx-xx")),
        ((SNARE, "----x-------x---"), (SNARE, "----x--x-x--x---")),
        ("x-x----x--x-----", "x--x--x---x--x--", "x-----x-x-x-----"),
        0.22,
    ),
    "jazz": Style(
        ((RIDE, "x---x--xx---x--x"), (RIDE, "x---x-x-x---x-x-")),
        ((SNARE, "----------------"), (RIM, "------------x---")),
        ("x---x---x---x---", "----------------", "x---------x-----"),
        0.16,
    ),
    "latin": Style(
        ((RIDE, "x-xx-xx-x-xx-xx-"), (HAT, "x-x-x-x-x-x-x-x-")),
        ((RIM, "x--x--x---x-x---"), (RIM, "--x-x---x--x--x-")),
        ("x--xx--xx--xx--x", "---x--x----x--x-"),
        0.06,
    ),
}


@dataclass
class Player:
    """How one drummer plays."""

    swing: float
    """Delay of every second sixteenth note, in ticks."""
    push: float
    """How early the hi-hat comes, in ticks."""
    rng: np.random.Generator


def write_grooves(folder: Path, grooves: int = 90, seed: int = 0) -> None:
    """Write a data set: two thirds of the grooves for training, the rest halved for validation and test.

    Beside them lie an eighth as many fills, a groove in 6/8 and one of an evaluation session, which readers leave out.

    Args:
        folder: an empty folder.
        grooves: in 4/4, of 16 measures or, some, fewer.
        seed: of all that is drawn.
    """
    rng = np.random.default_rng(seed)
    players = [Player(rng.uniform(0, 16), rng.uniform(0, 6), rng) for _ in range(2)]
    held = max(1, grooves // 6)
    parts = [*["train"] * (grooves - 2 * held), *["validation"] * held, *["test"] * held]
    rng.shuffle(parts)
    lines = [
        "drummer,session,id,style,bpm,beat_type,time_signature,midi_filename,audio_filename,duration,split",
        *(_write(folder, players, k, "beat", "4-4", part) for k, part in enumerate(parts)),
        *(_write(folder, players, grooves + k, "fill", "4-4", PARTS[k % 3]) for k in range(1 + grooves // 8)),
        _write(folder, players, 2 * grooves, "beat", "6-8", "train"),
        _write(folder, players, 2 * grooves + 1, "beat", "4-4", "test", "eval_session"),
    ]
    write_text(folder / "info.csv", "\n".join(lines) + "\n")


def _write(
    folder: Path, players: list[Player], number: int, kind: str, signature: str, part: str, session: str = ""
) -> str:
    """Write one file; gives its row of info.csv."""
    who = number % len(players)
    player = players[who]
    rng = player.rng
    name = list(STYLES)[rng.integers(len(STYLES))]
    bpm = int(rng.integers(80, 161))
    if kind == "fill":
        measures = [_fill(rng)]
    else:
        measures = groove(STYLES[name], MEASURES if rng.random() > SHORT else int(rng.integers(9, MEASURES)), rng)
    session = f"drummer{who + 1}/{session or f'session{1 + number // 2 % 2}'}"
    path = f"{session}/{number + 1}_{name}_{bpm}_{kind}_{signature}"
    write_track(folder / f"{path}.mid", _track(measures, player, bpm, signature))
    seconds = len(measures) * 4 * 60 / bpm
    fields = (session, f"{session}/{number + 1}", name, bpm, kind, signature, f"{path}.mid", "", f"{seconds:.6f}")
    return ",".join(map(str, (f"drummer{who + 1}", *fields, part)))


Measure = dict[tuple[int, int], int]
"""(sixteenth note, note number) -> velocity."""


def groove(style: Style, measures: int, rng: np.random.Generator) -> list[Measure]:
    """The measures of a groove: a pattern, its variations, fills, crashes."""
    cymbal, hats = style.cymbal[rng.integers(len(style.cymbal))]
    drum, snares = style.snare[rng.integers(len(style.snare))]
    kicks = style.kicks[rng.integers(len(style.kicks))]
    pedal = rng.random() < 0.3
    ghosts = [k for k in range(1, ROWS, 2) if rng.random() < style.ghosts]
    period, family = int(rng.choice([4, 8])), int(rng.integers(len(FILLS)))
    played: list[Measure] = []
    for number in range(measures):
        measure: Measure = {}
        for note, pattern in ((cymbal, hats), (drum, snares), (KICK, kicks)):
            measure |= {(k, note): LOUD for k, sign in enumerate(pattern) if sign == "x"}
        for k in ghosts:
            measure.setdefault((k, SNARE), QUIET)
        _vary(measure, rng)
        if pedal:
            measure |= {(k, PEDAL): LOUD for k in (4, 12)}
        if number and number % period == 0:
            measure[0, CRASH] = LOUD
            measure.pop((0, cymbal), None)
        if number % period == period - 1:
            _play_fill(measure, family if rng.random() < 0.7 else int(rng.integers(len(FILLS))), rng)
        played.append(measure)
    return played


def _vary(measure: Measure, rng: np.random.Generator) -> None:
    """Small departures from the pattern: a kick more or less, a ghost note, an open hi-hat, half a measure of them."""
    chance = rng.random()
    if chance < 0.25:
        place = int(rng.integers(1, ROWS)), KICK
        if measure.pop(place, None) is None:
            measure[place] = LOUD
    elif chance < 0.35:
        measure.setdefault((int(rng.integers(ROWS)), SNARE), QUIET)
    elif chance < 0.42:
        measure.pop((14, HAT), None)
        measure[14, OPEN] = LOUD
    elif chance < 0.47:
        for k in range(9, ROWS, 2):
            if rng.random() < 0.5:
                measure[k, KICK] = LOUD


FILLS = ("toms down", "snare roll", "triplets", "kick and snare", "break")


def _play_fill(measure: Measure, family: int, rng: np.random.Generator) -> None:
    """Replace the end of a measure by a fill, of half a measure or a quarter."""
    start = int(rng.choice([8, 12], p=[0.6, 0.4]))
    for place in [place for place in measure if place[0] >= start]:
        del measure[place]
    steps = range(start, ROWS)
    match FILLS[family]:
        case "toms down":
            measure |= {(k, (SNARE, *TOMS)[(k - start) * 4 // len(steps)]): LOUD for k in steps}
        case "snare roll":
            measure |= {(k, SNARE): LOUD if k % 4 == 0 else QUIET for k in steps}
        case "triplets":
            measure |= {(k, (SNARE, TOMS[1], KICK)[(k - start) % 3]): LOUD for k in steps}
        case "kick and snare":
            measure |= {(k, KICK if k % 2 else SNARE): LOUD for k in steps if rng.random() < 0.85}
        case _:
            measure |= {(start, SNARE): LOUD, (start, KICK): LOUD}


def _fill(rng: np.random.Generator) -> Measure:
    measure: Measure = {}
    _play_fill(measure, int(rng.integers(len(FILLS))), rng)
    return measure


def _track(measures: list[Measure], player: Player, bpm: int, signature: str) -> Any:
    """A track of mido as the drummer plays it: microtiming of 10 ms, swing, push, velocities."""
    mido = require("mido", EXTRA)
    rng, a_ms = player.rng, TICKS * bpm / 60_000
    events: list[tuple[int, int, int]] = []
    for number, measure in enumerate(measures):
        for (k, note), velocity in sorted(measure.items()):
            late = rng.normal(0, 10) * a_ms + (player.swing if k % 2 else 0) - (player.push if note == HAT else 0)
            tick = max(0, round((number * ROWS + k) * ROW + float(np.clip(late, -ROW // 3, ROW // 3))))
            events += [(tick, note, _velocity(velocity, k, rng)), (tick + ROW // 3, note, 0)]
    numerator, denominator = map(int, signature.split("-"))
    track = mido.MidiTrack()
    track.append(mido.MetaMessage("set_tempo", tempo=mido.bpm2tempo(bpm)))
    track.append(mido.MetaMessage("time_signature", numerator=numerator, denominator=denominator))
    now = 0
    for tick, note, velocity in sorted(events, key=lambda event: (event[0], event[2])):
        track.append(mido.Message("note_on", channel=DRUM_CHANNEL, note=note, velocity=velocity, time=tick - now))
        now = tick
    track.append(mido.MetaMessage("end_of_track", time=max(0, len(measures) * ROWS * ROW - now)))
    return track


def _velocity(velocity: int, k: int, rng: np.random.Generator) -> int:
    accent = 12 if k % 4 == 0 else 0
    return int(np.clip(velocity + accent + rng.normal(0, 8), 5, 127))
