# SPDX-License-Identifier: BSD-3-Clause
"""Frames of DECTRIS detectors, by SIMPLON Stream V2: CBOR messages over ZeroMQ.

The detector waits for its receiver (PUSH and PULL), so that nothing is lost while this side is slower, up to the
detector's own memory. A receiver that is started after the detector, or misses the start of a series, takes the rest.
The format is that of :mod:`ptychopinn.streaming.dectris_stream`.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, TypeGuard

import numpy as np
from numpy.typing import NDArray

from ptychopinn.errors import InputError
from ptychopinn.io.geometry import is_square
from ptychopinn.streaming.dectris_stream import LARGEST_MESSAGE, NEEDED, MessageError, StreamArray, decode, endpoint
from ptychopinn.streaming.frames import POSITION_UNITS, End, Fault, Frame, Item, Series
from ptychopinn.streaming.libraries import library
from ptychopinn.streaming.sources.counts import as_counts

#: Messages that wait in this process, at most: compressed, as they came.
QUEUE = 256
#: Items and bytes of frames after which one call takes no further message.
_MOST_ITEMS, _MOST_BYTES = 256, 1 << 26
#: Series that are remembered, to recognise their late messages.
_FORMER = 64
_LONGEST_NAME = 200


class DectrisSource:
    """A source that connects to a detector.

    Args:
        address: zmq://HOST:PORT of the detector control unit, which sends from port 31001.
        channel: of the frames, such as "threshold_1"; None: the first one.
        queue: messages that wait in this process, at most.

    Raises:
        InputError: the address is none, or a library is missing.
    """

    def __init__(self, address: str, channel: str | None = None, *, queue: int = QUEUE) -> None:
        target = endpoint(address)
        zmq = library("zmq", "pyzmq", *NEEDED)
        library("cbor2", "cbor2", *NEEDED), library("dectris.compression", "dectris-compression", *NEEDED)
        self.address = address
        self._messages = MessageReader(address, channel)
        self._more = zmq.RCVMORE
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.PULL)
        self._socket.setsockopt(zmq.RCVHWM, queue)
        self._socket.setsockopt(zmq.MAXMSGSIZE, LARGEST_MESSAGE)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.IPV6, "[" in target)
        # A detector that loses its power does not close the connection.
        self._socket.setsockopt(zmq.TCP_KEEPALIVE, 1)
        self._socket.setsockopt(zmq.TCP_KEEPALIVE_IDLE, 30)
        try:
            self._socket.connect(target)
        except zmq.ZMQError as error:
            self.close()
            raise InputError(f"{address}: expected the address of a detector, found {error}; correct it") from error

    def read(self, timeout: float) -> list[Item]:
        """What has come, in its order; waits for the first item, and not longer than this many seconds.

        Raises:
            InputError: the detector has no such channel.
        """
        items: list[Item] = []
        size = 0
        deadline = time.monotonic() + timeout
        while not self._socket.closed and len(items) < _MOST_ITEMS and size < _MOST_BYTES:
            wait = 0.0 if items else max(0.0, deadline - time.monotonic())
            if not self._socket.poll(math.ceil(1000 * wait)):
                break
            data, parts = self._socket.recv(), 1
            while self._socket.getsockopt(self._more):
                self._socket.recv()
                parts += 1
            found = self._messages.items(data, parts)
            size += sum(item.counts.nbytes for item in found if isinstance(item, Frame))
            items += found
            if not items and time.monotonic() >= deadline:
                break
        return items

    def close(self) -> None:
        """Close the connection; a second call has no effect."""
        self._socket.close()
        self._context.term()


@dataclass
class _OpenSeries:
    """What the images of a series must agree with; None where the first one decides."""

    key: tuple[Any, ...]
    channel: str | None
    shape: tuple[int, int] | None = None
    bad_pixels: NDArray[np.bool_] | None = None
    with_positions: bool = True


class MessageReader:
    """The items that messages are, which depend on the messages before.

    Args:
        address: for sentences.
        channel: of the frames; None: the first one.
    """

    def __init__(self, address: str, channel: str | None = None) -> None:
        self._address, self._wanted = address, channel
        self._open: _OpenSeries | None = None
        self._former: deque[tuple[Any, ...]] = deque(maxlen=_FORMER)
        self._legacy = False

    def items(self, data: bytes, parts: int = 1) -> list[Item]:
        """Items of one message.

        Args:
            data: the first part.
            parts: of the message; Stream V2 has one.

        Raises:
            InputError: the detector has no such channel.
        """
        if parts > 1 or data.startswith(b"{"):
            return self._of_legacy()
        self._legacy = False
        try:
            message = decode(data)
            key = _key(message)
            if message["type"] == "start":
                return self._of_start(message, key)
            if message["type"] == "image":
                return self._of_image(message, key)
            if message["type"] == "end":
                return self._of_end(key)
            raise MessageError(f"expected a start, image or end message, found the type {message['type'][:20]!r}")
        except MessageError as error:
            return [Fault("damaged", f"{self._address}: {error}; the message is lost")]

    def _of_legacy(self) -> list[Item]:
        """One fault, however many messages of the legacy stream come in a row."""
        if self._legacy:
            return []
        self._legacy = True
        return [
            self._unexpected(
                "expected Stream V2 (CBOR), found a message of several parts or with a JSON header, which is "
                "Stream V1; set the stream's format to cbor in the detector's configuration"
            )
        ]

    def _unexpected(self, sentence: str) -> Fault:
        return Fault("unexpected", f"{self._address}: {sentence}")

    def _of_start(self, message: dict[str, Any], key: tuple[Any, ...]) -> list[Item]:
        if self._open is not None and key == self._open.key:
            return [self._unexpected(f"expected images of series {_shown(key)}, found its start again; it is ignored")]
        listed = message.get("channels")
        channels = [name for name in listed if isinstance(name, str)] if isinstance(listed, list) else []
        if self._wanted is not None and channels and self._wanted not in channels:
            raise InputError(
                f"{self._address}: expected the channel {self._wanted!r}, found {_list(channels)}; state one of these"
            )
        height, width = message.get("image_size_y"), message.get("image_size_x")
        opened = _OpenSeries(key, self._wanted or (channels[0] if channels else None))
        if _is_count(height) and _is_count(width):
            opened.shape = (height, width)
        unit, faults = self._unit(message, opened)
        try:
            opened.bad_pixels = _bad_pixels(message, opened)
        except MessageError as error:
            faults.append(Fault("damaged", f"{self._address}: pixel mask: {error}; it is ignored"))
        frames = message.get("number_of_images")
        width_m, height_m = (_positive(message, f"pixel_size_{axis}") for axis in "xy")
        if not is_square(width_m, height_m):
            faults.append(
                self._unexpected(
                    f"expected square pixels, found {width_m:g} m wide and {height_m:g} m high; the width is used, and "
                    "the image is distorted: record the series in a file and read it with --square-pixels file"
                )
            )
        series = Series(
            name=_name(message, key),
            frames=frames if _is_count(frames) else None,
            energy=_positive(message, "incident_energy"),
            distance=_distance(message),
            detector_pixel_size=width_m if width_m is not None else height_m,
            beam_centre=_beam_centre(message),
            bad_pixels=opened.bad_pixels,
            position_unit=unit,
        )
        self._replace(opened)
        return [series, *faults]

    def _replace(self, opened: _OpenSeries | None) -> None:
        """Open a series, or none, after the one that was open."""
        if self._open is not None:
            self._former.append(self._open.key)
        self._open = opened

    def _unit(self, message: Mapping[str, Any], opened: _OpenSeries) -> tuple[str, list[Item]]:
        """Unit of the positions of a series; positions in an unknown one are ignored."""
        unit = _user_data(message).get("position_unit", "m")
        if unit in POSITION_UNITS:
            return str(unit), []
        opened.with_positions = False
        expected = f"expected the position_unit {' or '.join(POSITION_UNITS)} in user_data"
        return "m", [self._unexpected(f"{expected}, found {_shown(unit)}; positions of this series are ignored")]

    def _of_image(self, message: dict[str, Any], key: tuple[Any, ...]) -> list[Item]:
        if self._open is not None and key == self._open.key:
            return self._frame(message, self._open)
        if key in self._former:
            sentence = f"expected images of an open series, found one of series {_shown(key)}, which is over"
            return [self._unexpected(f"{sentence}; it is ignored")]
        # The start was sent before this receiver was there, or was damaged.
        opened = _OpenSeries(key, self._wanted)
        unit, faults = self._unit(message, opened)
        frame = self._frame(message, opened)
        self._replace(opened)
        missed = self._unexpected(
            f"expected the start of series {_shown(key)}, found its images; start the receiver before the detector, "
            "which sends energy and distance in the start"
        )
        return [Series(name=_name(message, key), position_unit=unit), missed, *faults, *frame]

    def _frame(self, message: Mapping[str, Any], opened: _OpenSeries) -> list[Item]:
        index, channels = message.get("image_id"), message.get("data")
        if type(index) is not int or index < 0:
            raise MessageError("expected an image_id from 0, found another value")
        if not isinstance(channels, dict) or not channels:
            raise MessageError(f"image {index}: expected data of channels, found none")
        channel = opened.channel or next(iter(channels))
        if channel not in channels:
            raise MessageError(f"image {index}: expected the channel {channel!r}, found {_list(channels)}")
        try:
            counts = as_counts(_image(channels[channel], opened), opened.bad_pixels)
        except InputError as error:
            raise MessageError(f"image {index}: {error}") from error
        opened.channel, opened.shape = channel, counts.shape
        stated = _user_data(message).get("position")
        if stated is None or not opened.with_positions:
            return [Frame(index, counts)]
        match stated:
            case [y, x] if _is_finite(y) and _is_finite(x):
                return [Frame(index, counts, (float(y), float(x)))]
        expected = f"image {index}: expected the position [y, x] in user_data, two finite numbers"
        return [Frame(index, counts), self._unexpected(f"{expected}, found {_shown(stated)}; it is ignored")]

    def _of_end(self, key: tuple[Any, ...]) -> list[Item]:
        if self._open is None or key != self._open.key:
            sentence = f"expected the end of an open series, found that of series {_shown(key)}; it is ignored"
            return [self._unexpected(sentence)]
        self._replace(None)
        return [End()]


def _key(message: Mapping[str, Any]) -> tuple[Any, ...]:
    """What identifies the series of a message."""
    key = message.get("series_unique_id"), message.get("series_id")
    if not isinstance(key[0], str | None) or type(key[1]) not in (int, type(None)) or key == (None, None):
        raise MessageError("expected series_id and series_unique_id, found a message without them")
    return key


def _image(array: Any, opened: _OpenSeries) -> NDArray[Any]:
    """Decode an array (h, w) of the detector's pixels."""
    if not isinstance(array, StreamArray) or len(array.shape) != 2:
        raise MessageError("expected an array of two dimensions, found another value")
    if opened.shape is not None and array.shape != opened.shape:
        raise MessageError(f"expected an array of {opened.shape} pixels, found {array.shape}")
    return array.decoded()


def _bad_pixels(message: Mapping[str, Any], opened: _OpenSeries) -> NDArray[np.bool_] | None:
    masks = message.get("pixel_mask")
    if not isinstance(masks, dict) or not masks:
        return None
    channel = opened.channel or next(iter(masks))
    return None if channel not in masks else np.asarray(_image(masks[channel], opened) != 0)


def _user_data(message: Mapping[str, Any]) -> Mapping[str, Any]:
    value = message.get("user_data")
    return value if isinstance(value, dict) else {}


def _name(message: Mapping[str, Any], key: tuple[Any, ...]) -> str:
    """Name of a series, on one line."""
    name = _user_data(message).get("name")
    if not isinstance(name, str) or not name.strip():
        name = key[0] or f"series {key[1]}"
    return " ".join("".join(letter if letter.isprintable() else " " for letter in name[:_LONGEST_NAME]).split())


def _distance(message: Mapping[str, Any]) -> float | None:
    """Distance to the sample, metres: the third component of the detector's translation, if not stated by itself."""
    stated = _positive(message, "detector_distance")
    match message.get("detector_translation"):
        case [_, _, z] if stated is None and _is_finite(z) and z != 0:
            return abs(float(z))
    return stated


def _beam_centre(message: Mapping[str, Any]) -> tuple[float, float] | None:
    """Detector pixel (y, x); (0, 0) is what a detector sends that has not been told."""
    y, x = message.get("beam_center_y"), message.get("beam_center_x")
    return (float(y), float(x)) if _is_finite(y) and _is_finite(x) and (y, x) != (0, 0) else None


def _positive(message: Mapping[str, Any], field: str) -> float | None:
    value = message.get(field)
    return float(value) if _is_finite(value) and value > 0 else None


def _is_finite(value: Any) -> TypeGuard[float]:
    """Whether a value is a finite number; integers of CBOR have 64 bits, so that each of them is a float, too."""
    return type(value) in (int, float) and math.isfinite(value)


def _is_count(value: Any) -> TypeGuard[int]:
    return type(value) is int and value > 0


def _shown(value: Any) -> str:
    """A value of a message, or the key of a series, in a sentence; containers may have any length."""
    if isinstance(value, tuple):
        value = value[0] if value[0] is not None else value[1]
    if isinstance(value, str):
        return repr(value[:40])
    return repr(value) if isinstance(value, int | float | None) else f"a {type(value).__name__}"


def _list(names: Collection[Any]) -> str:
    return ", ".join(_shown(name) for name in list(names)[:4])
