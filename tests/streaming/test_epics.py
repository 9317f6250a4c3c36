# SPDX-License-Identifier: BSD-3-Clause
"""Frames and positions by PV Access, on the loopback interface: the sender, areaDetector's arrays, and every fault."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from collecting import TIMEOUT, collect, frames_of

from ptychopinn.errors import InputError
from ptychopinn.streaming.frames import End, Fault, Frame, Item, Series
from ptychopinn.streaming.senders.epics import FREE_PORTS, EpicsSender
from ptychopinn.streaming.sources import epics
from ptychopinn.streaming.sources.epics import EpicsPositions, EpicsSource

p4p = pytest.importorskip("p4p")

from p4p.nt import NTNDArray, NTScalar, NTTable  # noqa: E402
from p4p.server import Server  # noqa: E402
from p4p.server.raw import SharedPV  # noqa: E402

N = 12
COUNTS = np.random.default_rng(8).poisson(4, (N, 8, 10)).astype(np.uint16)
CHANNEL = "test:Pva1:Image"


@pytest.fixture
def sender() -> Iterator[EpicsSender]:
    made = EpicsSender(CHANNEL, FREE_PORTS)
    yield made
    made.close()
    made.close()


@pytest.fixture
def opened() -> Iterator[Callable[..., EpicsSource]]:
    sources: list[EpicsSource] = []

    def make(conf: dict[str, str], **stated: Any) -> EpicsSource:
        sources.append(EpicsSource(CHANNEL, conf=conf, **stated))
        return sources[-1]

    yield make
    for source in sources:
        source.close()
        source.close()
        assert source.read(5.0) == []


def n_items(n: int) -> Callable[[list[Item]], bool]:
    return lambda items: len(items) >= n


def ended(items: list[Item]) -> bool:
    return any(isinstance(item, End) for item in items)


def check(items: list[Item], indexes: Any) -> None:
    frames = frames_of(items)
    assert [frame.index for frame in frames] == list(indexes)
    for frame in frames:
        assert frame.counts.dtype == np.uint16
        np.testing.assert_array_equal(frame.counts, COUNTS[frame.index])


# -- the sender ------------------------------------------------------------------------------------------------------


def test_frames_come_as_they_are_sent(sender: EpicsSender, opened: Any) -> None:
    source = opened(sender.conf)
    stated = {"energy": 9000.0, "distance": 2.0, "detector_pixel_size": 75e-6, "position_unit": "px", "frames": N}
    sender.begin(Series(name="one", **stated), (8, 10), np.dtype(np.uint16))
    (series,) = collect(source, n_items(1))
    assert isinstance(series, Series) and {name: getattr(series, name) for name in stated} == stated
    assert series.name == "one" and source.address == sender.address == f"pva://{CHANNEL}"
    for k in range(N):
        if k == 5:
            sender.send_damaged(k)
        elif k != 7:
            sender.send(k, COUNTS[k], None if k == 2 else (k * 1e-6, -k * 2e-6))
    sender.end()
    items = collect(source, ended)
    check(items, [0, 1, 2, 3, 4, 6, 8, 9, 10, 11])
    assert [frame.position for frame in frames_of(items)[:4]] == [(0.0, 0.0), (1e-6, -2e-6), None, (3e-6, -6e-6)]
    (fault,) = [item for item in items if isinstance(item, Fault)]
    assert (
        fault.kind == "damaged" and "frame 5: expected a stream of the codec bslz4, found a damaged" in fault.sentence
    )
    assert items[-1] == End() and source.read(0.1) == []


def test_late_receiver_knows_the_series(sender: EpicsSender, opened: Any) -> None:
    sender.begin(Series(name="one", energy=9000.0), (8, 10), np.dtype(np.uint16))
    for k in range(5):
        sender.send(k, COUNTS[k], None)
    source = opened(sender.conf)
    items = collect(source, n_items(2))
    assert isinstance(items[0], Series) and (items[0].name, items[0].energy) == ("one", 9000.0)
    check(items, [4])
    sender.begin(Series(name="two"), (8, 10), np.dtype(np.uint16))
    sender.send(0, COUNTS[0], None)
    items = collect(source, n_items(2))
    assert isinstance(items[0], Series) and items[0].name == "two"
    check(items, [0])


def test_interruption_is_reported_once(opened: Any) -> None:
    first = EpicsSender(CHANNEL, FREE_PORTS)
    conf = first.conf
    source = opened(conf)
    first.begin(Series(name="one"), (8, 10), np.dtype(np.uint16))
    first.send(0, COUNTS[0], None)
    collect(source, lambda items: bool(frames_of(items)))
    first.close()
    (fault,) = collect(source, n_items(1))
    assert isinstance(fault, Fault) and fault.kind == "interrupted" and "found Disconnected" in fault.sentence
    assert source.read(0.3) == []
    second = EpicsSender(CHANNEL, conf)
    second.begin(Series(name="two"), (8, 10), np.dtype(np.uint16))
    items = collect(source, n_items(1))
    assert isinstance(items[0], Series) and items[0].name == "two"
    second.close()


def test_channel_that_is_missing_is_reported_once(
    sender: EpicsSender, opened: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A channel is there when its first series begins."""
    monkeypatch.setattr(epics, "_GRACE", 0.2)
    source = opened(sender.conf)
    (fault,) = collect(source, n_items(1))
    assert isinstance(fault, Fault) and fault.kind == "interrupted" and "no channel of this name" in fault.sentence
    assert source.read(0.4) == []


def test_frames_beyond_the_queue_are_gaps(sender: EpicsSender, opened: Any) -> None:
    source = opened(sender.conf, queue=4)
    sender.begin(Series(), (8, 10), np.dtype(np.uint16))
    collect(source, n_items(1))
    for k in range(200):
        sender.send(k, COUNTS[k % N], None)
    items = collect(source, lambda items: any(frame.index == 199 for frame in frames_of(items)))
    indexes = [frame.index for frame in frames_of(items)]
    assert indexes == sorted(indexes) and len(indexes) < 200
    assert all((frame.counts == COUNTS[frame.index % N]).all() for frame in frames_of(items))


# -- arrays of areaDetector ------------------------------------------------------------------------------------------


def value(number: int, counts: Any = None, codec: str = "", parameters: Any = None, **attributes: Any) -> Any:
    counts = COUNTS[number % N] if counts is None else counts
    made = NTNDArray().wrap(counts, attrib={"ColorMode": 0, **attributes})
    made.uniqueId, made.codec.name = number, codec
    if parameters is not None:
        made.codec.parameters = parameters
    return made


@contextmanager
def served(initial: Any) -> Iterator[tuple[SharedPV, dict[str, str]]]:
    channel = SharedPV(initial=initial)
    server = Server(providers=[{CHANNEL: channel}], conf=FREE_PORTS, useenv=False)
    try:
        yield channel, server.conf()
    finally:
        server.stop()


def connected(source: EpicsSource) -> None:
    deadline = time.monotonic() + TIMEOUT
    while not source._connected:
        assert time.monotonic() < deadline
        assert source.read(0.1) == []


def test_ids_count_from_the_first_of_a_series(opened: Any) -> None:
    """The value before belongs to an earlier acquisition; a frame that was overtaken is none of a new one."""
    with served(value(999)) as (channel, conf):
        source = opened(conf, quiet=0.5)
        connected(source)
        for number in (24, 25, 27, 26, 26):
            channel.post(value(number))
        items = collect(source, ended)
        assert [type(item) for item in items] == [Series, *[Frame] * 4, End]
        check(items, [0, 1, 3, 2])
        assert isinstance(items[0], Series) and items[0].name == CHANNEL and items[0].position_unit == "m"
        channel.post(value(24))
        channel.post(value(25))
        items = collect(source, n_items(3))
        assert isinstance(items[0], Series)
        check(items, [0, 1])


@pytest.mark.parametrize("number", [0, 3])
def test_empty_channel_and_stated_first_id(opened: Any, number: int) -> None:
    with served(value(0, np.zeros((0, 0), np.uint8))) as (channel, conf):
        source = opened(conf, first=number)
        connected(source)
        channel.post(value(5, COUNTS[5 - number]))
        check(collect(source, n_items(2)), [5 - number])


@pytest.mark.parametrize("names", [("y", "x"), ("positionY", "positionX"), ("PositionY", "PositionX")])
def test_positions_in_attributes(opened: Any, names: tuple[str, str]) -> None:
    with served(value(0)) as (channel, conf):
        source = opened(conf)
        connected(source)
        channel.post(value(1, **{names[0]: 1.5, names[1]: -2}))
        channel.post(value(2, **{names[0]: 1.5}))
        channel.post(value(3, **{names[0]: 1.5, names[1]: float("nan")}))
        frames = frames_of(collect(source, n_items(4)))
        assert [frame.position for frame in frames] == [(1.5, -2.0), None, None]


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.uint32, np.float32, np.float64])
def test_types(opened: Any, dtype: Any) -> None:
    with served(value(0)) as (channel, conf):
        source = opened(conf)
        connected(source)
        channel.post(value(1, COUNTS[1].astype(dtype)))
        (frame,) = frames_of(collect(source, n_items(2)))
        np.testing.assert_array_equal(frame.counts, COUNTS[1])
        size = np.dtype(dtype).itemsize
        assert frame.counts.dtype == (np.float32 if np.dtype(dtype).kind == "f" else np.dtype(f"u{size}"))


def compressed(tmp_path: Any, codec: str, counts: Any) -> bytes:
    """The stream as HDF5's filter has it: with a header of 12 or 16 bytes."""
    hdf5plugin, h5py = pytest.importorskip("hdf5plugin"), pytest.importorskip("h5py")
    chosen = hdf5plugin.LZ4() if codec == "lz4" else hdf5plugin.Bitshuffle(cname="lz4")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        data = file.create_dataset("d", data=counts[None], chunks=(1, *counts.shape), **chosen)
        stream: bytes = data.id.read_direct_chunk((0, 0, 0))[1]
    return stream


@pytest.mark.parametrize("header", [True, False])
@pytest.mark.parametrize(("dtype", "parameters"), [(np.uint8, 5), (np.uint16, 6), (np.uint32, 7)])
@pytest.mark.parametrize("codec", ["lz4", "bslz4"])
def test_codecs(tmp_path: Any, opened: Any, codec: str, dtype: Any, parameters: int, header: bool) -> None:
    pytest.importorskip("dectris.compression")
    counts = np.tile(COUNTS[1], (11, 13)).astype(dtype)  # more than a block of bitshuffle
    stream = compressed(tmp_path, codec, counts)
    stream = stream if header else stream[16 if codec == "lz4" else 12 :]
    made = value(1, counts, codec, parameters)
    made.value = ("ubyteValue", np.frombuffer(stream + b"\0\0\0", np.uint8))
    made.compressedSize = len(stream)
    with served(value(0)) as (channel, conf):
        source = opened(conf)
        connected(source)
        channel.post(made)
        (frame,) = frames_of(collect(source, n_items(2)))
        assert frame.counts.dtype == dtype
        np.testing.assert_array_equal(frame.counts, counts)


def _dimensions(made: Any, *sides: int) -> Any:
    made.dimension = [{"size": side, "fullSize": side, "binning": 1} for side in sides]
    return made


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: value(1, COUNTS[1], "blosc", 6), "the codec lz4, bslz4 or none, found 'blosc'; set the plugin's"),
        (lambda: value(1, np.zeros((4, 5, 3), np.uint8), ColorMode=2), "expected grey values .* of a colour image"),
        (lambda: value(1, np.full((8, 10), -1, np.int16)), "expected counts, found 80 negative values of int16"),
        (lambda: value(1, np.zeros(7, np.uint8), "lz4", 6), r"expected grey values \(h, w\), found 1 dimensions \[7\]"),
        (lambda: _dimensions(value(1), 100, 100), r"expected 10000 values of a frame \(100, 100\), found 80"),
        (lambda: _dimensions(value(1), 1 << 20, 1 << 20), "of at most 256 MiB, found uint16 of shape"),
        (lambda: _dimensions(value(1, None, "lz4", 6), 1 << 20, 1 << 20), "of at most 256 MiB, found uint16 of shape"),
        (lambda: value(1, None, "lz4", 99), "expected frames .* of real numbers"),
    ],
)
def test_arrays_that_are_no_frames(opened: Any, make: Callable[[], Any], words: str) -> None:
    with served(value(0)) as (channel, conf):
        source = opened(conf)
        connected(source)
        channel.post(make())
        channel.post(value(2))
        items = collect(source, n_items(3))
        fault = items[1]
        assert isinstance(fault, Fault) and fault.kind == "damaged"
        assert re.search(words, fault.sentence)
        assert [frame.index for frame in frames_of(items)] == [1]


def test_other_channels_are_an_error(opened: Any) -> None:
    with served(NTScalar("d").wrap(1.0)) as (_, conf):
        with pytest.raises(InputError, match=r"expected an NTNDArray, found epics:nt/NTScalar:1.0; name the channel"):
            collect(opened(conf), lambda items: False)
        positions = EpicsPositions(CHANNEL, conf=conf)
        with pytest.raises(InputError, match=r"NTTable with columns index, y, x, or an NTScalarArray .*NTScalar:1.0"):
            awaited(positions, 1)
        positions.close()


# -- positions -------------------------------------------------------------------------------------------------------


def awaited(positions: EpicsPositions, n: int) -> list[tuple[int, float, float]]:
    found: list[tuple[int, float, float]] = []
    deadline = time.monotonic() + TIMEOUT
    while len(found) < n:
        assert time.monotonic() < deadline, found
        positions._channel.changed.wait(0.1)
        positions._channel.changed.clear()
        found += positions.read()
    return found


def test_positions_of_a_table() -> None:
    table = NTTable([("index", "i"), ("y", "d"), ("x", "d"), ("current", "d")])

    def rows(*values: tuple[int, float, float]) -> Any:
        return table.wrap([{"index": k, "y": y, "x": x, "current": 0.0} for k, y, x in values])

    with served(rows((0, 1.0, 2.0))) as (channel, conf):
        positions = EpicsPositions(CHANNEL, "px", conf=conf)
        assert positions.unit == "px" and awaited(positions, 1) == [(0, 1.0, 2.0)]
        channel.post(rows((0, 1.0, 2.0), (2, 3.0, 4.0), (1, np.nan, 0.0)))
        assert awaited(positions, 1) == [(2, 3.0, 4.0)]
        channel.post(rows((0, 1.0, 5.0), (1, 6.0, 7.0)))
        assert awaited(positions, 2) == [(0, 1.0, 5.0), (1, 6.0, 7.0)]
        positions.close()
        positions.close()
        assert positions.read() == []


def test_positions_of_an_array() -> None:
    array = NTScalar("ad")
    with served(array.wrap([0, 1.0, 2.0])) as (channel, conf):
        positions = EpicsPositions(CHANNEL, conf=conf)
        assert awaited(positions, 1) == [(0, 1.0, 2.0)]
        channel.post(array.wrap([3, 1.0, 2.0, 4, 5.0, 6.0]))
        assert awaited(positions, 2) == [(3, 1.0, 2.0), (4, 5.0, 6.0)]
        channel.post(array.wrap([3, 1.0]))
        with pytest.raises(InputError, match=r"found epics:nt/NTScalarArray:1.0 without"):
            awaited(positions, 1)
        positions.close()


def test_unit_of_positions() -> None:
    with pytest.raises(InputError, match="one of m, px, found 'mm'"):
        EpicsPositions(CHANNEL, "mm")


# -- libraries -------------------------------------------------------------------------------------------------------


def test_missing_libraries(sender: EpicsSender, opened: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    source = opened(sender.conf)
    sender.begin(Series(), (8, 10), np.dtype(np.uint16))
    collect(source, n_items(1))
    monkeypatch.setitem(sys.modules, "dectris.compression", None)
    sender.send_damaged(0)
    (fault,) = collect(source, n_items(1))
    assert isinstance(fault, Fault) and "the codec bslz4: expected the library dectris-compression" in fault.sentence
    assert "pip install 'ptychopinn[dectris]'" in fault.sentence
    monkeypatch.setitem(sys.modules, "p4p.client.raw", None)
    with pytest.raises(InputError, match=r"expected the library p4p, found none; pip install 'ptychopinn\[epics\]'"):
        EpicsSource(CHANNEL)
