"""A sample of captioned clips: coloured shapes that move, or stand in a corner, in the layout of MSR-VTT.

    MSRVTT_data.json        videos with category and split, sentences
    category.txt            ordered<TAB>0, static<TAB>1
    qa_train.json, qa_test.json
    videos/all/video0.mp4   GIF files where PyAV is not installed

In "ordered" clips a shape makes two moves at a right angle, and captions of a pair differ in their order alone:
"a red square moves left then down", "… moves down then left". In "static" clips it stands in a corner, and the order
of frames tells nothing.
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
from PIL import Image

from repertory.core.problem import Problem, require

COLOURS = {"red": (0.9, 0.1, 0.1), "green": (0.1, 0.8, 0.1), "blue": (0.2, 0.3, 1.0), "white": (0.95, 0.95, 0.95)}
SHAPES = ("square", "disc")
HALF_SIDE, RADIUS = 0.17, 0.12
"""Of squares and discs, in widths of the picture: small networks tell them by size."""
MOVES = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
"""x and y; y points down."""
CORNERS = {
    "top left": (0.2, 0.2), "top right": (0.8, 0.2), "bottom left": (0.2, 0.8), "bottom right": (0.8, 0.8),
}  # fmt: skip
PAIRS = [(a, b) for a, b in itertools.product(MOVES, MOVES) if MOVES[a][0] ** 2 != MOVES[b][0] ** 2]
"""Moves at a right angle: 8."""
FRAMES = (8, 16)
"""Least and largest number of frames."""
SPEED = 0.075
"""Of a shape, in widths of the picture a frame; 1.8 of 24 pixels."""
NOISE = 0.05
RATE = 8
"""Frames a second."""
BITS = 150_000
"""A second of film."""


def write_shapes(folder: Path, train: tuple[int, int], test: tuple[int, int], size: int = 32, seed: int = 0) -> None:
    """Write the sample; the same arguments always give the same clips.

    Args:
        folder: empty.
        train: ordered and static clips for training.
        test: likewise, held out.
        size: height and width, even.
        seed: of all random numbers.
    """
    videos: list[dict[str, object]] = []
    sentences: list[dict[str, object]] = []
    films = folder / "videos" / "all"
    films.mkdir(parents=True)
    for split, counts in (("train", train), ("test", test)):
        questions: list[dict[str, object]] = []
        for category, count in enumerate(counts):
            for k in range(count):
                rng = np.random.default_rng([seed, split == "test", category, k])
                name = f"video{len(videos)}"
                caption, asked, frames = _ordered(rng, size) if category == 0 else _static(rng, size)
                file = write_film(films / name, frames)
                videos.append({"video_id": name, "category": category, "split": split})
                sentences.append({"caption": caption, "video_id": name, "sen_id": len(sentences)})
                for question, answer in asked.items():
                    number = len(questions)
                    questions.append({"image": file, "question": question, "answer": answer, "question_id": number})
        (folder / f"qa_{split}.json").write_text(json.dumps(questions, indent=0), encoding="utf-8")
    whole = {"videos": videos, "sentences": sentences}
    (folder / "MSRVTT_data.json").write_text(json.dumps(whole, indent=0), encoding="utf-8")
    (folder / "category.txt").write_text("ordered\t0\nstatic\t1\n", encoding="utf-8")


def _ordered(rng: np.random.Generator, size: int) -> tuple[str, dict[str, str], np.ndarray]:
    colour, shape = _thing(rng)
    first, second = PAIRS[rng.integers(len(PAIRS))]
    count = int(rng.integers(FRAMES[0], FRAMES[1] + 1))
    turn = count // 2
    steps = np.array([MOVES[first]] * turn + [MOVES[second]] * (count - turn), dtype=float)
    path = np.cumsum(steps, 0) * SPEED
    start = rng.uniform(0.15 - path.min(0), 0.85 - path.max(0))
    caption = f"a {colour} {shape} moves {first} then {second}"
    asked = {"which direction does it move first ?": first, "which direction does it move last ?": second}
    return caption, asked, _drawn(rng, size, colour, shape, path + start)


def _static(rng: np.random.Generator, size: int) -> tuple[str, dict[str, str], np.ndarray]:
    colour, shape = _thing(rng)
    corner = list(CORNERS)[rng.integers(len(CORNERS))]
    count = int(rng.integers(FRAMES[0], FRAMES[1] + 1))
    path = np.tile(np.array(CORNERS[corner]) + rng.uniform(-0.06, 0.06, 2), (count, 1))
    caption = f"a {colour} {shape} in the {corner} corner"
    return caption, {"which colour is it ?": colour}, _drawn(rng, size, colour, shape, path)


def _thing(rng: np.random.Generator) -> tuple[str, str]:
    return list(COLOURS)[rng.integers(len(COLOURS))], SHAPES[rng.integers(len(SHAPES))]


def _drawn(rng: np.random.Generator, size: int, colour: str, shape: str, path: np.ndarray) -> np.ndarray:
    """Frames (T, size, size, 3) uint8 of a shape at these places."""
    places = (np.arange(size) + 0.5) / size
    dx = places[None, None] - path[:, 0, None, None]  # (T, 1, W)
    dy = places[None, :, None] - path[:, 1, None, None]  # (T, H, 1)
    inside = np.maximum(abs(dx), abs(dy)) < HALF_SIDE if shape == "square" else dx**2 + dy**2 < RADIUS**2
    frames = np.full((len(path), size, size, 3), rng.uniform(0, 0.15))
    frames[np.broadcast_to(inside, frames.shape[:3])] = COLOURS[colour]
    frames += rng.normal(0, NOISE, frames.shape)
    return (255 * frames.clip(0, 1)).round().astype(np.uint8)


def write_film(stem: Path, frames: np.ndarray) -> str:
    """Write frames (T, H, W, 3) uint8 as `stem`.mp4, or as `stem`.gif without PyAV; gives the file's name."""
    try:
        av = require("av", extra="video")
    except Problem:
        path = stem.with_suffix(".gif")
        first, *others = [Image.fromarray(frame) for frame in frames]
        first.save(path, save_all=True, append_images=others, duration=1000 // RATE, loop=0)
        return path.name
    path = stem.with_suffix(".mp4")
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=RATE, options={"threads": "1"})
        stream.bit_rate = BITS
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return path.name
