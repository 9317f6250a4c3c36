# SPDX-License-Identifier: BSD-3-Clause
"""DECTRIS Stream V2 both ways: the codec, the items of messages, and a sender and a source over loopback."""

from __future__ import annotations

import random
import re
import struct
import sys
import threading
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from ptychopinn.errors import InputError
from ptychopinn.streaming import dectris_stream
from ptychopinn.streaming.dectris_stream import MessageError, StreamArray, compressed, decode, encode
from ptychopinn.streaming.frames import End, Fault, Frame, Item, Series
from ptychopinn.streaming.senders.dectris import DectrisSender
from ptychopinn.streaming.sources.dectris import DectrisSource, MessageReader

zmq = pytest.importorskip("zmq")
cbor2 = pytest.importorskip("cbor2")
pytest.importorskip("dectris.compression")
pytest.importorskip("hdf5plugin")

ANY_PORT = "zmq://127.0.0.1:0"
SHAPE = (37, 64)
UNSIGNED = ("u1", "u2", "u4", "u8")
COMPRESSIONS = (None, "bslz4", "lz4")
MASK = np.zeros(SHAPE, bool)
MASK[3, 5] = True
SERIES = Series("siemens star", 3, 8000.0, 1.5, 75e-6, (18.25, -2.0), MASK, "px")


def tag(number: int, value: Any) -> Any:
    return cbor2.CBORTag(number, value)


def frames(count: int, dtype: str, shape: tuple[int, int] = SHAPE) -> np.ndarray:
    counts = np.random.default_rng(0).poisson(3, (count, *shape)).astype(dtype)
    if counts.dtype.kind == "u":
        counts[:, 0, 0] = np.iinfo(dtype).max  # the marker of a pixel without data
    return counts


def start(key: str = "a", **fields: Any) -> bytes:
    return encode({"type": "start", "series_id": 1, "series_unique_id": key, "channels": ["threshold_1"], **fields})


def image(index: int = 0, key: str = "a", data: Any = None, **fields: Any) -> bytes:
    data = {"threshold_1": frames(1, "u2")[0]} if data is None else data
    message = {"type": "image", "series_id": 1, "series_unique_id": key, "image_id": index, "data": data}
    return encode(message | fields)


def end(key: str = "a") -> bytes:
    return encode({"type": "end", "series_id": 1, "series_unique_id": key})


def items_of(*messages: bytes, channel: str | None = None) -> list[Item]:
    reader = MessageReader("zmq://detector:31001", channel)
    return [item for message in messages for item in reader.items(message)]


def read(source: DectrisSource, count: int) -> list[Item]:
    """The next items, at least this many."""
    items: list[Item] = []
    deadline = time.monotonic() + 20
    while len(items) < count and time.monotonic() < deadline:
        items += source.read(1)
    assert len(items) >= count, items
    return items


def kinds(items: list[Item]) -> str:
    return " ".join(item.kind if isinstance(item, Fault) else type(item).__name__ for item in items)


@pytest.fixture
def opened() -> Iterator[ExitStack]:
    """Senders and sources are closed at the end, the latter first: nothing waits for what was not received."""
    with ExitStack() as stack:
        yield stack


def sender_and_source(opened: ExitStack, *, queue: int = 64, **options: Any) -> Any:
    sender = DectrisSender(ANY_PORT, queue=queue, **options)
    opened.callback(sender.close)
    source = DectrisSource(sender.address, queue=queue)
    opened.callback(source.close)
    return sender, source


@pytest.fixture
def push(opened: ExitStack) -> tuple[Any, DectrisSource]:
    """A socket that sends any bytes, and a source that receives them."""
    context = zmq.Context()
    opened.callback(context.term)
    socket = context.socket(zmq.PUSH)
    opened.callback(socket.close, linger=0)
    socket.setsockopt(zmq.SNDTIMEO, 10000)
    port = socket.bind_to_random_port("tcp://127.0.0.1")
    source = DectrisSource(f"tcp://127.0.0.1:{port}")
    opened.callback(source.close)
    return socket, source


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("dtype", [*UNSIGNED, ">u2", ">u4", ">u8", "i1", "<i4", ">i8", "f2", "<f4", ">f8"])
@pytest.mark.parametrize("shape", [SHAPE, (1, 1), (100, 130)])
def test_arrays_survive(dtype: str, compression: str | None, shape: tuple[int, int]) -> None:
    array = frames(1, dtype, shape)[0]
    sent = array if compression is None else compressed(array, compression)
    found = decode(encode({"type": "image", "data": {"x": sent}}))["data"]["x"]
    assert isinstance(found, StreamArray) and found.shape == shape and found.compression == compression
    assert found.decoded().dtype == np.dtype(dtype).newbyteorder("=")
    np.testing.assert_array_equal(found.decoded(), array)


def test_bytes_of_the_specifications() -> None:
    """Written by hand from RFC 8949, RFC 8746 and the descriptions of the two compressions: not by this encoder."""
    lz4 = struct.pack(">QII", 8, 16, 9) + b"\x80" + bytes(range(8))  # one block of literals
    planes = bytes([0x0F, 0x80, 0, 0, 0, 0, 0, 0])  # bit 0 of the eight elements, then bit 1, ...
    bslz4 = struct.pack(">QII", 8, 8, 9) + b"\x80" + planes
    data = b"\xd8\x28\x82\x82\x02\x04\xd8\x40\xd9\xdc\xb4\x83"  # tag 40, [[2, 4], tag 64, tag 56500, [...]]
    head = b"\xa3\x64type\x65image\x68image_id\x07\x64data\xa2"
    channels = (b"\x61a", data, b"\x63lz4\x00\x58\x19", lz4, b"\x61b", data, b"\x65bslz4\x01\x58\x19", bslz4)
    found = decode(head + b"".join(channels))
    assert (found["type"], found["image_id"]) == ("image", 7)
    np.testing.assert_array_equal(found["data"]["a"].decoded(), np.arange(8).reshape(2, 4))
    np.testing.assert_array_equal(found["data"]["b"].decoded(), [[1, 1, 1, 1], [0, 0, 0, 2]])
    raw = encode({"type": "x", "a": np.array([[1, 2]], "<u2")})
    assert raw == b"\xa2\x64type\x61x\x61a\xd8\x28\x82\x82\x01\x02\xd8\x45\x44\x01\x00\x02\x00"


def test_other_tags_are_their_content() -> None:
    """Dates, regular expressions, references and large integers are not made into objects."""
    content = {"date": tag(0, "2024"), "regex": tag(35, "a+"), "shared": tag(28, [1]), "integer": tag(2, b"\xff" * 9)}
    found = decode(cbor2.dumps(tag(55799, {"type": "start", "user_data": content, "unknown": tag(999, 1.5)})))
    assert found["user_data"] == {"date": "2024", "regex": "a+", "shared": [1], "integer": b"\xff" * 9}
    assert found["unknown"] == 1.5


HEADER = struct.pack(">QI", 4, 8192)
DAMAGED = {
    "no CBOR": (b"\x00hello" * 3, "without a type"),
    "truncated": (image()[:-100], "no CBOR"),
    "type": (cbor2.dumps({"type": 3}), "without a type"),
    "deep": (b"\x81" * 100 + b"\x00", "no CBOR .*depth"),
    "keys": (cbor2.dumps({"type": "image", 1: 2}), "no CBOR .*key"),
    "items": (b"\x9a\x00\x10\x00\x00" + b"\xa0" * (1 << 20), "a larger one"),
    "text": (cbor2.dumps({"type": "x" * (1 << 21)}), "a larger one"),
    "claimed bytes": (b"\x5b" + b"\x10" + bytes(7), "no CBOR"),
}
DAMAGED |= {
    name: (cbor2.dumps({"type": "image", "x": value}), sentence)
    for name, value, sentence in [
        ("sides", tag(40, [[-2, -2], tag(64, b"abcd")]), "not of positive integers"),
        ("empty side", tag(40, [[0, 4], tag(64, b"")]), "not of positive integers"),
        ("no integer", tag(40, [[2.0, 2], tag(64, b"abcd")]), "not of positive integers"),
        ("absurd side", tag(40, [[1 << 40, 1], tag(64, b"abcd")]), "not of positive integers"),
        ("absurd shape", tag(40, [[1 << 28, 1 << 28], tag(64, b"abcd")]), "with 4 elements"),
        ("size", tag(40, [[2, 3], tag(64, b"abcd")]), r"shape \(2, 3\) with 4 elements"),
        ("dimensions", tag(40, [[1] * 5, tag(64, b"a")]), "not .shape, typed array."),
        ("list of integers", tag(40, [[2, 2], [1, 2, 3, 4]]), "not .shape, typed array."),
        ("shaped twice", tag(40, [[2], tag(40, [[2, 2], tag(64, b"abcd")])]), "with 4 elements"),
        ("typed shaped", tag(69, tag(40, [[4, 2], tag(64, b"abcdefgh")])), "not of bytes"),
        ("typed twice", tag(64, tag(69, b"abcd")), "not of bytes"),
        ("odd size", tag(70, b"abcde"), "of 5 bytes"),
        ("compression", tag(56500, ["zip", 1, HEADER]), "set the detector's to bslz4 or lz4"),
        ("element", tag(56500, ["bslz4", 3, HEADER]), "element size"),
        ("fields", tag(56500, ["bslz4", 1]), "not .algorithm, element size, bytes."),
        ("no header", tag(56500, ["lz4", 0, b"abc"]), "less than their header"),
        ("claimed size", tag(56500, ["lz4", 0, struct.pack(">QI", 1 << 60, 8192)]), "more than"),
        ("claimed block", tag(56500, ["bslz4", 1, struct.pack(">QI", 4, 1 << 31)]), "more than"),
        ("claimed elements", tag(70, tag(56500, ["lz4", 0, HEADER[:7] + b"\x05" + HEADER[8:]])), "of 5 bytes"),
    ]
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_messages_are_refused_before_memory_is_allocated(name: str) -> None:
    data, sentence = DAMAGED[name]
    tracemalloc.start()
    try:
        with pytest.raises(MessageError, match=sentence):
            decode(data)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
    assert kinds(items_of(data)) == "damaged"


@pytest.mark.parametrize(("bound", "found"), [("LARGEST_MESSAGE", "a larger one"), ("LARGEST_ARRAY", "of 4736 bytes")])
def test_larger_messages_are_refused(bound: str, found: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dectris_stream, bound, 1000)
    with pytest.raises(MessageError, match=found):
        decode(image())


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_random_damage(compression: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the bytes: a message or the one error, items and no exception, and memory below the bound."""
    monkeypatch.setattr(dectris_stream, "LARGEST_ARRAY", 1 << 20)
    counts = frames(1, "u4", (16, 40))[0]
    sent = counts if compression is None else compressed(counts, compression)
    valid = [start(pixel_mask={"threshold_1": sent}, user_data={"name": "x"}), image(data={"threshold_1": sent})]
    valid.append(image(1, data={"threshold_1": sent, "threshold_2": sent}, user_data={"position": [1.5, 2]}))
    reader, rng, decoded, refused = MessageReader("zmq://detector:31001"), random.Random(1), 0, 0
    tracemalloc.start()
    for turn in range(3000):
        data = bytearray(valid[turn % 3])
        for _ in range(rng.choice((1, 1, 2, 8))):
            # Heads of items and of compressed data are where a flip changes most.
            data[rng.randrange(min(len(data), 250 if turn % 2 else len(data)))] ^= 1 << rng.randrange(8)
        data = data[: rng.randrange(len(data))] if turn % 10 == 0 else data
        try:
            fields = [field for field in decode(bytes(data)).values() if isinstance(field, dict)]
            for array in (value for field in fields for value in field.values() if isinstance(value, StreamArray)):
                array.decoded()
            decoded += 1
        except MessageError:
            refused += 1
        for item in reader.items(bytes(data)):
            assert not isinstance(item, Frame) or (item.counts.ndim == 2 and item.counts.dtype.kind in "uf")
    assert tracemalloc.get_traced_memory()[1] < 4 << 20
    tracemalloc.stop()
    assert decoded > 100 and refused > 100


def test_metadata_as_detectors_send_them() -> None:
    fields = {"number_of_images": 9, "image_size_x": 64, "image_size_y": 37, "pixel_size_x": 7.5e-5}
    fields |= {"incident_energy": 12398, "beam_center_x": 30.5, "beam_center_y": 20}
    mask = {"threshold_1": MASK.astype("u4") << 4}
    (series,) = items_of(start("01ABC", pixel_mask=mask, detector_translation=[0.0, 0.0, -0.15], **fields))
    (stated,) = items_of(start(detector_distance=2.0, detector_translation=[0.0, 0.0, -0.15]))
    assert isinstance(series, Series) and isinstance(stated, Series) and series.bad_pixels is not None
    assert (series.name, series.frames, series.energy, series.distance) == ("01ABC", 9, 12398.0, 0.15)
    assert (series.detector_pixel_size, series.beam_centre, stated.distance) == (7.5e-5, (20.0, 30.5), 2.0)
    assert series.bad_pixels.dtype == bool and series.position_unit == "m"
    np.testing.assert_array_equal(series.bad_pixels, MASK)


def test_metadata_that_are_not_known() -> None:
    """A detector that has not been told sends zeros."""
    fields = {"number_of_images": "many", "incident_energy": float("nan"), "detector_distance": -1.0}
    fields |= {"beam_center_x": 0.0, "beam_center_y": 0.0, "detector_translation": [0.0, 0.0, 0.0]}
    (series,) = items_of(start(pixel_size_x=True, user_data={"name": "a\n\x1b" + "b" * 999}, pixel_mask={}, **fields))
    assert isinstance(series, Series)
    assert (series.frames, series.energy, series.distance, series.detector_pixel_size) == (None,) * 4
    assert series.beam_centre is None and series.bad_pixels is None
    assert series.name.startswith("a bbb") and len(series.name) < 250


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_channels(compression: str | None) -> None:
    first, second = frames(2, "u2")
    packed = [a if compression is None else compressed(a, compression) for a in (first, second)]
    data = dict(zip(("threshold_2", "threshold_1"), packed, strict=True))
    masks = {"threshold_1": np.zeros(SHAPE, "u4"), "threshold_2": MASK.astype("u4")}
    begin = start(channels=["threshold_2", "threshold_1"], pixel_mask=masks)
    for channel, counts, bad in ((None, first, 1), ("threshold_2", first, 1), ("threshold_1", second, 0)):
        series, frame = items_of(begin, image(data=data), channel=channel)
        assert isinstance(series, Series) and series.bad_pixels is not None and series.bad_pixels.sum() == bad
        assert isinstance(frame, Frame) and np.array_equal(frame.counts, counts)
    with pytest.raises(InputError, match="channel 'threshold_3', found 'threshold_2', 'threshold_1'; state one"):
        items_of(begin, channel="threshold_3")


def test_a_channel_that_is_damaged_does_not_matter_to_the_others() -> None:
    good = compressed(frames(1, "u2")[0], "bslz4")
    data = {"threshold_1": good, "threshold_2": replace(good, data=good.data[:40])}
    assert kinds(items_of(start(), image(data=data))) == "Series Frame"
    assert kinds(items_of(start(channels=[*data]), image(data=data), channel="threshold_2")) == "Series damaged"


@pytest.mark.parametrize(("sent", "expected"), [("i4", "u4"), ("i1", "u1"), ("f8", "f4"), ("f2", "f4"), (">u2", "u2")])
def test_types_that_are_converted(sent: str, expected: str) -> None:
    counts = frames(1, sent)[0]
    _, frame = items_of(start(), image(data={"threshold_1": counts}))
    assert isinstance(frame, Frame) and frame.counts.dtype == expected and np.array_equal(frame.counts, counts)


def test_negative_markers_of_bad_pixels() -> None:
    counts = np.where(MASK, -1, frames(1, "i4")[0])
    _, frame = items_of(start(pixel_mask={"threshold_1": MASK.astype("u4")}), image(data={"threshold_1": counts}))
    assert isinstance(frame, Frame) and np.array_equal(frame.counts, np.where(MASK, 0, counts))


@pytest.mark.parametrize(
    ("message", "sentence"),
    [
        (image(data={"threshold_1": -frames(1, "i4")[0]}), "negative values of int32"),
        (image(data={"threshold_1": np.ones((3, 4), "u2")}), r"of \(37, 64\) pixels, found \(3, 4\)"),
        (image(data={"threshold_1": np.ones(9, "u2")}), "of two dimensions"),
        (image(data={"threshold_1": b"abc"}), "of two dimensions"),
        (image(data={"threshold_1": tag(83, bytes(32))}), "of two dimensions"),
        (image(data={"threshold_1": tag(1040, [[2, 2], tag(64, b"abcd")])}), "of two dimensions"),
        (image(data={"threshold_2": np.ones(SHAPE, "u2")}), "the channel 'threshold_1', found 'threshold_2'"),
        (image(data={}), "found none"),
        (image(data=[1]), "found none"),
        (image(-1), "an image_id"),
        (image(image_id="1"), "an image_id"),
        (image(series_unique_id=None, series_id=None), "series_id and series_unique_id"),
        (encode({"type": "pause", "series_id": 1}), "found the type 'pause'"),
    ],
)
def test_damaged_images(message: bytes, sentence: str) -> None:
    """Each is one fault, and the next image is received."""
    items = items_of(start(image_size_x=64, image_size_y=37), message, image(1), end())
    assert kinds(items) == "Series damaged Frame End"
    assert isinstance(items[1], Fault) and re.search(f"^zmq://detector:31001: .*{sentence}", items[1].sentence)


TRUNCATED = StreamArray(SHAPE, np.dtype("u4"), struct.pack(">QI", 37 * 64 * 4, 8192), "lz4")


@pytest.mark.parametrize("mask", [np.ones((2, 2), "u4"), TRUNCATED, 3])
def test_a_damaged_mask_is_ignored(mask: Any) -> None:
    items = items_of(start(pixel_mask={"threshold_1": mask}, image_size_x=64, image_size_y=37), image())
    assert kinds(items) == "Series damaged Frame"
    assert isinstance(items[0], Series) and items[0].bad_pixels is None


def test_positions() -> None:
    stated = [[1, 2.5], [1.0], [1.0, float("inf")], "ab", None]
    items = items_of(start(), *(image(user_data={"position": yx}) for yx in stated), image(user_data="text"))
    assert kinds(items) == "Series Frame" + 3 * " Frame unexpected" + " Frame Frame"
    assert [item.position for item in items if isinstance(item, Frame)] == [(1.0, 2.5), *[None] * 5]


def test_positions_in_an_unknown_unit_are_ignored() -> None:
    items = items_of(start(user_data={"position_unit": "um"}), image(user_data={"position": [1, 2]}))
    assert kinds(items) == "Series unexpected Frame"
    assert isinstance(items[2], Frame) and items[2].position is None


def test_series_that_end_and_begin() -> None:
    sent = [start(), image(), start(), end(), end(), image(1), start("b"), image(0, "b"), start("c"), image(1, "b")]
    sent += [end("b"), image(0, "c"), end("c"), start("a"), image()]
    expected = "Series Frame unexpected End unexpected unexpected Series Frame Series unexpected unexpected Frame End"
    assert kinds(items_of(*sent)) == f"{expected} Series Frame"


def test_a_receiver_that_is_late() -> None:
    stated = {"position_unit": "px", "position": [3, 4]}
    items = items_of(image(5, user_data=stated), image(6), end(), start("b"), image(0, "b"))
    assert kinds(items) == "Series unexpected Frame Frame End Series Frame"
    series, _, frame = items[:3]
    assert isinstance(series, Series) and (series.name, series.frames, series.position_unit) == ("a", None, "px")
    assert isinstance(frame, Frame) and (frame.index, frame.position) == (5, (3.0, 4.0))


def test_a_start_that_was_damaged() -> None:
    """Images of the series follow all the same; a damaged image does not open it."""
    items = items_of(start(), image(), start("b")[:-3], image(0, "b", data={}), image(1), image(1, "b"), image(2))
    assert kinds(items) == "Series Frame damaged damaged Frame Series unexpected Frame unexpected"


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("dtype", [*UNSIGNED, "f4"])
def test_round_trip(opened: ExitStack, dtype: str, compression: str | None) -> None:
    sender, source = sender_and_source(opened, compression=compression)
    counts = frames(3, dtype)
    sender.begin(SERIES, SHAPE, np.dtype(dtype))
    sender.send(0, counts[0], (0.5, -1.0))
    sender.send_damaged(1)
    sender.send(2, counts[2], None)
    sender.end()
    series, first, fault, last, over = read(source, 5)
    for name in ("name", "frames", "energy", "distance", "detector_pixel_size", "beam_centre", "position_unit"):
        assert getattr(series, name) == getattr(SERIES, name), name
    np.testing.assert_array_equal(series.bad_pixels, MASK)
    assert (first.index, first.position, last.index, last.position) == (0, (0.5, -1.0), 2, None)
    for frame, sent in ((first, counts[0]), (last, counts[2])):
        assert frame.counts.dtype == np.dtype(dtype) and np.array_equal(frame.counts, sent)
    assert fault.kind == "damaged" and "image 1: expected data compressed with" in fault.sentence
    assert isinstance(over, End) and source.read(0) == []


def test_the_detector_begins_again(opened: ExitStack) -> None:
    """In the middle of a series, then as another process at the same address."""
    sender, source = sender_and_source(opened)
    for _ in range(2):
        sender.begin(Series(), SHAPE, np.dtype("u2"))
        sender.send(0, frames(1, "u2")[0], None)
    assert kinds(read(source, 4)) == "Series Frame Series Frame"
    sender.close()
    again = DectrisSender(sender.address)
    opened.callback(again.close)
    again.begin(Series("again"), (2, 3), np.dtype("u1"))
    again.send(0, np.ones((2, 3), "u1"), None)
    assert [getattr(item, "name", None) for item in read(source, 2)] == ["again", None]


def test_a_slow_receiver_loses_nothing(opened: ExitStack) -> None:
    """The sender fills the queues, and can send no more, nor close, until the receiver takes some."""
    sender, source = sender_and_source(opened, compression=None, queue=4, timeout=0.3)
    counts = np.zeros((64, 64), "u4")
    sender.begin(Series(), counts.shape, counts.dtype)
    sent = [0]

    def fill() -> None:
        with suppress(InputError):
            while sent[-1] < 20000:
                counts[:] = sent[-1]
                sender.send(sent[-1], counts, None)
                sent[-1] += 1

    fill()
    sent.append(sent[0])
    items: list[Item] = []
    for work in (fill, sender.close):
        thread = threading.Thread(target=work)
        thread.start()
        items += read(source, 500 if work == fill else sent[1] + 1 - len(items))
        thread.join(20)
        assert not thread.is_alive()
    assert 0 < sent[0] < sent[1] < 20000 and len(items) == sent[1] + 1
    for index, frame in enumerate(items[1:]):
        assert isinstance(frame, Frame) and frame.index == index and (frame.counts == index).all()


def test_the_legacy_stream_is_one_fault(push: tuple[Any, DectrisSource]) -> None:
    socket, source = push
    for _ in range(3):
        socket.send_multipart([b'{"htype": "dimage-1.0"}', b"{}", b"data", b"{}"])
    socket.send(b'{"htype": "dseries_end-1.0"}')
    socket.send(start())
    socket.send_multipart([b"\x00", b"\x01"])
    items = read(source, 3)
    assert kinds(items) == "unexpected Series unexpected"
    assert isinstance(items[0], Fault) and "which is Stream V1; set the stream's format to cbor" in items[0].sentence


def test_read_waits_for_the_first_item_only(push: tuple[Any, DectrisSource]) -> None:
    socket, source = push
    begin = time.monotonic()
    assert source.read(0.05) == []
    assert time.monotonic() - begin > 0.04
    socket.send(start())
    assert kinds(source.read(30)) == "Series"
    socket.send(b"{")
    socket.send(b"{")  # of no item: read waits for the next
    assert kinds(source.read(30)) == "unexpected"
    assert source.read(0.05) == []
    source.close()
    assert source.read(30) == []


def test_one_call_hands_over_a_bounded_amount(push: tuple[Any, DectrisSource], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ptychopinn.streaming.sources.dectris._MOST_BYTES", 1)
    socket, source = push
    for index in range(3):
        socket.send(image(index))
    found = [source.read(10) for _ in range(3)]
    assert [kinds(items) for items in found] == ["Series unexpected Frame", "Frame", "Frame"]


@pytest.mark.parametrize("address", ["zmq://", "zmq://host", "http://host:1", "zmq://host:99999", "zmq://a;b:1", "x:1"])
def test_addresses(address: str) -> None:
    for make in (DectrisSource, DectrisSender):
        with pytest.raises(InputError, match="expected an address zmq://HOST:PORT with a port from"):
            make(address)
    with pytest.raises(InputError, match="a port from 1 to 65535"):
        DectrisSource(ANY_PORT)


def test_a_port_in_use_and_an_unknown_compression(opened: ExitStack) -> None:
    sender, _ = sender_and_source(opened)
    with pytest.raises(InputError, match=r"an address of this machine and a free port, found Address .* in use"):
        DectrisSender(sender.address)
    with pytest.raises(InputError, match="expected the compression bslz4 or lz4, found 'zip'"):
        DectrisSender(ANY_PORT, "zip")
    with pytest.raises(InputError, match="up to 64 bits, found complex128"):
        encode({"type": "image", "x": np.ones(2, complex)})


def test_a_sender_without_receiver(opened: ExitStack) -> None:
    sender = DectrisSender(ANY_PORT, timeout=0.05)
    opened.callback(sender.close)
    with pytest.raises(InputError, match=r"zmq://127.0.0.1:\d+: expected a receiver .* start one with this address"):
        sender.begin(SERIES, SHAPE, np.dtype("u2"))
    sender.close()


@pytest.mark.parametrize("module", ["zmq", "cbor2", "dectris.compression", "hdf5plugin"])
def test_a_missing_library(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    make = DectrisSender if module == "hdf5plugin" else DectrisSource
    with pytest.raises(InputError, match=r"expected the library .*, found none; pip install 'ptychopinn\[dectris\]'"):
        make("zmq://127.0.0.1:31001")
