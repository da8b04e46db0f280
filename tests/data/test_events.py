"""Event streams: byte formats, layouts of data sets, tensors that count, bad input."""

from __future__ import annotations

import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from repertory.core.problem import Problem
from repertory.data.events import (
    EVENT,
    check_size,
    count_frames,
    event_count,
    event_frame,
    make_events,
    nine_to_one,
    parse_size,
    read_class_folders,
    read_events,
    read_splits,
    sensor_size,
    shared_streams,
    voxel_grid,
    write_aedat,
    write_atis,
    write_dat,
)


def stream(count: int = 200, width: int = 34, height: int = 34, seed: int = 0, last: int = 300_000) -> np.ndarray:
    rng = np.random.default_rng(seed)
    t = np.sort(rng.integers(last, size=count))
    return make_events(
        rng.integers(width, size=count), rng.integers(height, size=count), t, rng.integers(2, size=count)
    )


# -- formats ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("suffix", "write", "width", "height", "last"),
    [
        (".bin", write_atis, 256, 240, 1 << 23),
        (".dat", write_dat, 1 << 14, 1 << 14, 1 << 32),
        (".aedat", write_aedat, 128, 128, 1 << 32),
    ],
)
def test_byte_formats_go_there_and_back_over_their_whole_range(
    tmp_path: Path, suffix: str, write: Callable[..., None], width: int, height: int, last: int
) -> None:
    events = stream(500, width, height, last=last)
    events[-1] = (width - 1, height - 1, last - 1, 1)
    write(tmp_path / f"a{suffix}", events)
    found = read_events(tmp_path / f"a{suffix}")
    assert found.dtype == EVENT
    assert found.tolist() == events.tolist()
    for name, limit in (("x", width), ("y", height), ("t", last)):
        wrong = events.copy()
        wrong[name][7] = limit
        with pytest.raises(Problem, match=f"{name} = {limit} has no code"):
            write(tmp_path / f"b{suffix}", wrong)


def test_bytes_are_those_of_the_formats(tmp_path: Path) -> None:
    one = make_events([5], [9], [0x123456], [1])
    write_atis(tmp_path / "a.bin", one)
    assert (tmp_path / "a.bin").read_bytes() == bytes([5, 9, 0x80 | 0x12, 0x34, 0x56])
    write_dat(tmp_path / "a.dat", one, (100, 120))
    written = (tmp_path / "a.dat").read_bytes()
    assert written.endswith(
        bytes([0, 8]) + 0x123456.to_bytes(4, "little") + (5 | 9 << 14 | 1 << 28).to_bytes(4, "little")
    )
    assert sensor_size(tmp_path / "a.dat") == (100, 120)
    write_aedat(tmp_path / "a.aedat", one)
    written = (tmp_path / "a.aedat").read_bytes()
    assert written.startswith(b"#!AER-DAT2.0\r\n")
    assert written.endswith((1 | 5 << 1 | 9 << 8).to_bytes(4, "big") + 0x123456.to_bytes(4, "big"))
    assert sensor_size(tmp_path / "a.aedat") == (128, 128)


def test_marks_of_overflow_lengthen_the_clock(tmp_path: Path) -> None:
    events = make_events([1, 0, 2, 0, 3], [1, 240, 2, 240, 3], [10, 0, 20, 0, 30], 1)
    words = b"".join(bytes([x, y, p << 7, 0, t]) for x, y, t, p in events.tolist())
    (tmp_path / "a.bin").write_bytes(words)
    found = read_events(tmp_path / "a.bin")
    assert found["x"].tolist() == [1, 2, 3]
    assert found["t"].tolist() == [10, 20 + 8192, 30 + 2 * 8192]


def test_dat_without_a_header_and_marks_of_synchronisation(tmp_path: Path) -> None:
    write_dat(tmp_path / "a.dat", stream())
    content = (tmp_path / "a.dat").read_bytes()
    (tmp_path / "b.dat").write_bytes(content[content.index(bytes([0, 8])) + 2 :])
    assert read_events(tmp_path / "b.dat").tolist() == stream().tolist()
    write_aedat(tmp_path / "a.aedat", stream())
    with (tmp_path / "a.aedat").open("ab") as file:
        file.write((0x8000).to_bytes(4, "big") + (400_000).to_bytes(4, "big"))
    assert read_events(tmp_path / "a.aedat").tolist() == stream().tolist()


def test_a_dvs128_can_be_turned_upright(tmp_path: Path) -> None:
    write_aedat(tmp_path / "a.aedat", make_events([1, 2], [10, 20], [0, 90_000], [1, 0]))
    found = read_events(tmp_path / "a.aedat", upright=True)
    assert found[["x", "y", "p"]].tolist() == [(117, 126, 0), (107, 125, 1)]


def test_arrays_of_users(tmp_path: Path) -> None:
    import h5py

    events = stream()
    table = np.stack([events[name] for name in "xytp"], axis=1)
    np.save(tmp_path / "a.npy", table)
    np.save(tmp_path / "b.npy", events)
    np.savez(tmp_path / "c.npz", x=events["x"], y=events["y"], ts=events["t"], polarity=events["p"].astype(bool))
    np.savez(tmp_path / "d.npz", events=table.astype(np.float32))
    with h5py.File(tmp_path / "e.h5", "w") as file:
        for name in "xytp":
            file[f"events/{name}"] = events[name]
    with h5py.File(tmp_path / "f.hdf5", "w") as file:
        file["events"] = table
    signed = table.copy()
    signed[:, 3] = 2 * signed[:, 3] - 1
    np.save(tmp_path / "g.npy", signed)
    for path in sorted(tmp_path.iterdir()):
        assert read_events(path).tolist() == events.tolist(), path.name
    np.save(tmp_path / "s.npy", table * [1, 1, 1e-6, 1])
    assert read_events(tmp_path / "s.npy", unit="s").tolist() == events.tolist()


@pytest.mark.parametrize("suffix", [".dat", ".aedat"])
def test_a_clock_that_overflows_goes_on(tmp_path: Path, suffix: str) -> None:
    n, path = 1000, tmp_path / f"wrap{suffix}"
    t = np.arange(n, dtype=np.int64) * 100 + 2**32 - 50_000
    t[[498, 501]] = t[[501, 498]]  # written late, on either side of the overflow
    x = np.arange(n) % 34
    words = np.empty((n, 2), ">u4" if suffix == ".aedat" else "<u4")
    if suffix == ".aedat":
        words[:, 0], words[:, 1] = 1 | x << 1, t & 0xFFFFFFFF
        path.write_bytes(b"#!AER-DAT2.0\r\n" + words.tobytes())
    else:
        words[:, 0], words[:, 1] = t & 0xFFFFFFFF, x | 1 << 28
        path.write_bytes(b"% Height 34\n% Width 34\n" + bytes([0, 8]) + words.tobytes())
    with pytest.warns(UserWarning, match="not in the order of t"):
        events = read_events(path)
    assert (np.diff(events["t"]) == 100).all()
    assert events["x"][[0, -1]].tolist() == [0, (n - 1) % 34]


def test_the_layouts_of_hdf5_recordings(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py", reason="the extra spiking is not installed")
    a = np.arange(2000)
    columns = {"x": a % 34, "y": a % 30, "t": a * 1000, "p": a % 2}
    wanted = make_events(*columns.values())
    with h5py.File(tmp_path / "prophesee.h5", "w") as file:
        events = np.zeros(2000, [("x", "u2"), ("y", "u2"), ("p", "i2"), ("t", "i8")])
        for name, column in columns.items():
            events[name] = column
        file["CD/events"] = events
        file["CD/indexes"] = np.zeros(3, [("id", "u8"), ("ts", "i8")])
        file["EXT_TRIGGER/events"] = np.zeros(3, [("p", "i2"), ("t", "i8"), ("id", "i2")])
    with h5py.File(tmp_path / "mvsec.h5", "w") as file:
        seconds = 1506118124.0 + a / 1000
        file["davis/left/events"] = np.stack([columns["x"], columns["y"], seconds, 2 * columns["p"] - 1], 1)
        file["davis/left/image_raw"] = np.zeros((2, 4))
    with h5py.File(tmp_path / "esim.h5", "w") as file:
        for name, column in columns.items():
            file[f"events/{name}s"] = column
    for name, unit in (("prophesee", ""), ("mvsec", "s"), ("esim", "")):
        events = read_events(tmp_path / f"{name}.h5", unit=unit)
        events["t"] -= events["t"][0]
        assert (events == wanted).all(), name


def test_an_hdf5_file_without_a_single_stream_lists_what_it_holds(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py", reason="the extra spiking is not installed")
    with h5py.File(tmp_path / "stereo.h5", "w") as file:
        file["davis/left/events"] = file["davis/right/events"] = np.zeros((9, 4))
        file["pose"] = np.zeros(3)
    with pytest.raises(Problem, match=r"2 streams .* davis/left/events \(9, 4\).*, pose \(3,\)"):
        read_events(tmp_path / "stereo.h5")
    with h5py.File(tmp_path / "empty.h5", "w") as file:
        file.create_group("events")
    with pytest.raises(Problem, match="no data sets at all"):
        read_events(tmp_path / "empty.h5")


def test_reading_needs_no_torch() -> None:
    code = "import sys, repertory.data.events, repertory.data.dvs; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


# -- bad input --------------------------------------------------------------------------------------


def test_an_unsorted_stream_is_sorted_with_a_warning(tmp_path: Path) -> None:
    events = stream()
    write_atis(tmp_path / "a.bin", events[::-1])
    with pytest.warns(UserWarning, match="not in the order of t"):
        found = read_events(tmp_path / "a.bin")
    assert (np.diff(found["t"]) >= 0).all()
    assert sorted(found.tolist()) == sorted(events.tolist())


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("a.bin", bytes(13), "13 bytes of events are not a multiple of 5"),
        ("a.dat", b"% Width 3\n" + bytes([0, 8]) + bytes(12), "12 bytes of events are not a multiple of 8"),
        ("a.dat", b"% Width 3\n" + bytes([0, 16]) + bytes(16), "events of 16 bytes"),
        ("a.dat", b"% Width 3", "events of nothing"),
        ("a.aedat", b"#!AER-DAT3.1\r\n" + bytes(8), "this is AEDAT 3.1"),
        ("a.aedat", b"#!AER-DAT2.0\r\n" + bytes(9), "9 bytes of events are not a multiple of 8"),
        ("a.aedat", b"#!AER-DAT2.0\r\n" + b"\x01" * 8, "address 0x1010101 is not one of a DVS128"),
        ("a.bin", b"", "the stream is empty"),
        ("a.npy", b"nothing", "not a readable .npy"),
        ("a.h5", b"nothing", "cannot be read"),
        ("a.txt", b"", "no event format has the suffix '.txt'"),
    ],
)
def test_damaged_files_are_named(tmp_path: Path, name: str, content: bytes, complaint: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(Problem, match=complaint) as caught:
        read_events(tmp_path / name)
    assert caught.value.where == str(tmp_path / name)
    with pytest.raises(Problem, match="is missing"):
        read_events(tmp_path / f"absent{Path(name).suffix.replace('.txt', '.bin')}")


@pytest.mark.parametrize(
    ("table", "complaint"),
    [
        (np.zeros((4, 3)), r"an array of shape \(4, 3\)"),
        ([[1, 1, 5, 1], [2, 2, 9, 0]], "the stream lasts 4: in microseconds that is very short"),
        ([[1, 1, 5, 1], [2, 2, 90_000, 7]], r"polarities are \[1.0, 7.0\]"),
        ([[-1, 1, 5, 1], [2, 2, 90_000, 0]], "x = -1.0 is no coordinate"),
        ([[5, 1, 1, 1], [90_000, 2, 2, 0]], "x = 90000.0 is no coordinate"),
        ([[1, 1, np.nan, 1], [2, 2, 90_000, 0]], "t holds what is not a finite number"),
    ],
)
def test_arrays_that_make_no_sense(tmp_path: Path, table: list[list[float]], complaint: str) -> None:
    np.save(tmp_path / "a.npy", np.array(table, float))
    with pytest.raises(Problem, match=complaint):
        read_events(tmp_path / "a.npy")


def test_arrays_that_lack_a_column(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=[1], y=[1], t=[1])
    with pytest.raises(Problem, match="no array called p; there are: x, y, t"):
        read_events(tmp_path / "a.npz")
    np.savez(tmp_path / "b.npz", x=[1], y=[1, 2], t=[1], p=[1])
    with pytest.raises(Problem, match="differ in length"):
        read_events(tmp_path / "b.npz")
    np.save(tmp_path / "c.npy", np.array(["a"], object), allow_pickle=True)
    with pytest.raises(Problem, match="holds pickled Python objects"):
        read_events(tmp_path / "c.npy")


def test_an_event_outside_the_sensor_is_named_and_a_swap_is_guessed() -> None:
    events = make_events([5, 200, 7], [5, 6, 7], [0, 1, 2], 1)
    with pytest.raises(Problem, match="event 1 at x = 200, y = 6") as caught:
        check_size(events, (240, 180), "a.bin")
    assert "180 high and 240 wide, perhaps" in caught.value.remedy
    with pytest.raises(Problem, match="event 0 at x = -1"):
        check_size(make_events([-1], 0, 0, 0), (10, 10))
    with pytest.raises(Problem, match="outside a sensor"):
        count_frames(events, (100, 100), 2)
    check_size(events, (180, 240))
    check_size(events[:0], (1, 1))


def test_sizes_are_parsed_or_refused() -> None:
    assert parse_size("346X260") == (260, 346)
    for wrong in ("346", "0x4", "axb", ""):
        with pytest.raises(Problem, match="not the size of a sensor"):
            parse_size(wrong)


# -- layouts ----------------------------------------------------------------------------------------


def fill(folder: Path, count: int, suffix: str, write: Callable[..., None], width: int = 34, height: int = 34) -> None:
    folder.mkdir(parents=True)
    for number in range(count):
        write(folder / f"{number:04d}{suffix}", stream(50, width, height, seed=number))


def test_n_mnist_and_n_cars_bring_their_own_splits(tmp_path: Path) -> None:
    for part, count in (("Train", 3), ("Test", 2)):
        for digit in "01":
            fill(tmp_path / "n-mnist" / part / digit, count, ".bin", write_atis)
    train, test = read_splits(tmp_path / "n-mnist")
    assert (len(train), len(test), train.size, train.names) == (6, 4, (34, 34), ("0", "1"))
    for part, count in (("n-cars_train", 3), ("n-cars_test", 2)):
        for name in ("cars", "background"):
            fill(tmp_path / "n-cars" / part / name, count, ".dat", write_dat, 120, 100)
    train, test = read_splits(tmp_path / "n-cars")
    assert (len(train), len(test), train.size, train.names) == (6, 4, (100, 120), ("background", "cars"))
    assert train.labels == (0, 0, 0, 1, 1, 1)


def test_others_are_split_nine_to_one(tmp_path: Path) -> None:
    for name in ("ant", "car_side"):
        fill(tmp_path / "n" / "Caltech101" / name, 20, ".bin", write_atis, 240, 180)
    train, test = read_splits(tmp_path / "n")
    assert (len(train), len(test), train.size) == (36, 4, (180, 240))
    assert not set(train.paths) & set(test.paths)
    assert np.bincount(test.labels).tolist() == [2, 2]
    assert read_splits(tmp_path / "n")[1].paths == test.paths, "always the same split"
    for digit in "37":
        for scale in (4, 16):
            fill(tmp_path / "m" / f"grabbed_data{digit}" / f"scale{scale}", scale, ".aedat", write_aedat)
    train, test = read_splits(tmp_path / "m")
    assert (train.names, train.size, len(train) + len(test)) == (("3", "7"), (128, 128), 32)
    assert len(read_splits(tmp_path / "m", scale=4)[0]) == 6


def test_plain_folders_need_a_sensor_that_is_told(tmp_path: Path) -> None:
    for part in ("train", "test"):
        fill(tmp_path / part / "a", 2, ".bin", write_atis)
    with pytest.raises(Problem, match="does not tell how large the sensor is") as caught:
        read_splits(tmp_path)
    assert "sensor=WIDTHxHEIGHT" in caught.value.remedy
    train, _ = read_splits(tmp_path, size=(34, 40))
    assert train.size == (34, 40)
    with pytest.raises(Problem, match="outside a sensor"):
        read_splits(tmp_path, size=(5, 5))[0].events(0)


def test_streams_are_read_when_asked_for_and_start_at_zero(tmp_path: Path) -> None:
    late = stream()
    late["t"] += 5_000_000
    (tmp_path / "a").mkdir()
    write_aedat(tmp_path / "a" / "0.aedat", late)
    events = read_class_folders(tmp_path).events(0)
    assert (events["t"] == late["t"] - late["t"][0]).all()


def test_folders_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(Problem, match="no class folders here"):
        read_splits(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(Problem, match="the class 'empty' has no streams"):
        read_splits(tmp_path)
    write_aedat(tmp_path / "empty" / "0.aedat", stream())
    with pytest.raises(Problem, match="'empty' has one stream only"):
        nine_to_one(read_class_folders(tmp_path))
    with pytest.raises(Problem, match="'empty', which is none of the 2 known"):
        read_class_folders(tmp_path).named(["full", "half"])


def test_files_in_both_parts_are_found_by_content(tmp_path: Path) -> None:
    for number, (part, seed) in enumerate([("train", 1), ("train", 2), ("test", 3), ("test", 2)]):
        (tmp_path / part / "a").mkdir(parents=True, exist_ok=True)
        write_aedat(tmp_path / part / "a" / f"{number}.aedat", stream(seed=seed))
    train, test = read_splits(tmp_path)
    assert [(one.name, other.name) for one, other in shared_streams(train, test)] == [("1.aedat", "3.aedat")]


# -- tensors that count -----------------------------------------------------------------------------


def test_counts_are_those_of_a_plain_loop() -> None:
    events = stream(2000, 7, 5)
    last = int(events["t"].max())
    frames, grid = np.zeros((2, 5, 7, 6)), np.zeros((9, 5, 7))
    for x, y, t, p in events.tolist():
        frames[p, y, x, 6 * t // (last + 1)] += 1
        for i in range(9):
            grid[i, y, x] += i * last < 9 * t <= (i + 1) * last
    np.testing.assert_array_equal(count_frames(events, (5, 7), 6), frames)
    np.testing.assert_array_equal(voxel_grid(events, (5, 7), 9), grid)
    np.testing.assert_array_equal(event_count(events, (5, 7)), frames.sum(3) > 0)
    np.testing.assert_array_equal(event_frame(events, (5, 7))[0], (frames.sum(3) > 0).sum(0))


def test_streams_of_no_or_one_event_count_too() -> None:
    none, one = stream()[:0], make_events([1], [2], [0], [1])
    for events, total in ((none, 0), (one, 1)):
        assert count_frames(events, (3, 3), 4).sum() == total
        assert event_frame(events, (3, 3)).sum() == total
        assert voxel_grid(events, (3, 3), 4).sum() == 0, "t = 0 is in no bin"


def test_counting_warns_of_nothing() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        count_frames(stream(), (34, 34), 10)
