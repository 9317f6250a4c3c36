# SPDX-License-Identifier: BSD-3-Clause
"""Frames and positions of EPICS channels by PV Access: NTNDArray of areaDetector, NTTable or NTScalarArray.

PV Access has no memory: what comes faster than it is read is dropped where the queue of the channel is full, and a
frame that is dropped is a gap in the numbers of frames.
"""

from __future__ import annotations

import math
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptychopinn.errors import InputError
from ptychopinn.streaming.frames import POSITION_UNITS, End, Fault, Frame, Item, Series
from ptychopinn.streaming.libraries import library
from ptychopinn.streaming.sources.counts import as_counts, frame_bytes

#: Types of areaDetector's compressed values, by the number that `codec.parameters` has (ScalarType of pvData).
TYPES = {1: "i1", 2: "i2", 3: "i4", 4: "i8", 5: "u1", 6: "u2", 7: "u4", 8: "u8", 9: "f4", 10: "f8"}
#: Names of attributes of a position, y and x.
_POSITION_NAMES = (("y", "x"), ("positiony", "positionx"))
#: Attributes of a series: energy, distance and pixel size of the detector.
ENERGY, DISTANCE, PIXEL_SIZE = "energy_eV", "distance_m", "detector_pixel_size_m"
#: Bytes of a block of bitshuffle, of any type of values.
_BLOCK = 8192
#: Updates that one call hands over, and seconds for which a channel is missing before that is reported.
_MOST, _GRACE = 64, 2.0
#: Frames that may be overtaken by others.
_REORDERED = 128


class Channel:
    """A subscription to a channel, whose updates wait in the queue of PV Access until they are taken.

    Args:
        name: of the channel.
        queue: updates that may wait.
        conf: of the client, such as `EPICS_PVA_ADDR_LIST`; None: from the environment.

    Raises:
        InputError: p4p is missing.
    """

    def __init__(self, name: str, queue: int, conf: Mapping[str, str] | None) -> None:
        raw = library("p4p.client.raw", "p4p", "epics", f"pva://{name}")
        self.changed = threading.Event()
        self._context = raw.Context("pva", conf=None if conf is None else dict(conf), useenv=conf is None, nt=False)
        self._subscription = self._context.monitor(name, self.changed.set, request=f"field()record[queueSize={queue}]")

    def take(self) -> Any:
        """The next update: a Value of p4p, an exception for a change of the connection, None if nothing waits."""
        return None if self._subscription is None else self._subscription.pop()

    def close(self) -> None:
        """End the subscription; a second call has no effect."""
        if self._subscription is not None:
            self._subscription.close()
            self._context.close()
            self._subscription = None
        self.changed.set()


class EpicsSource:
    """Frames of a channel with an NTNDArray.

    Indexes follow from `uniqueId`, which areaDetector counts from acquisition to acquisition, or from 0 or 1, as it is
    set up. With an attribute `series`, as :mod:`ptychopinn.streaming.senders.epics` has it, the ids of each
    series count from 0, and another value begins another series. Without it, the index is the id less the first one
    that is received, an id that is lower than the last ones begins another series, and the value that the channel has
    when it is connected belongs to an earlier acquisition and is ignored.

    A position is in the attributes `y` and `x`, or `positionY` and `positionX`, in metres unless `position_unit` is
    "px". An attribute `end` ends the series.

    Args:
        channel: its name.
        first: id of the frame 0, without an attribute `series`; None: the first that is received.
        quiet: seconds without a frame after which the series has ended; None: it ends by the attribute only.
        queue: frames that may wait.
        conf: of the client; None: from the environment.

    Raises:
        InputError: p4p is missing.
    """

    def __init__(
        self,
        channel: str,
        *,
        first: int | None = None,
        quiet: float | None = None,
        queue: int = 64,
        conf: Mapping[str, str] | None = None,
    ) -> None:
        self.address = f"pva://{channel}"
        self._channel_name, self._stated_first = channel, first
        self._quiet = math.inf if quiet is None else quiet
        self._channel = Channel(channel, queue, conf)
        self._closed = False
        self._connected, self._reported = False, False
        self._stale = True  # the next value without a series is an earlier one
        self._since = time.monotonic()  # of the connection's state, or of the last frame
        self._key: Any = None
        self._series: Series | None = None
        self._first = 0
        self._recent: deque[int] = deque(maxlen=_REORDERED)
        self._ended = False

    def read(self, timeout: float) -> list[Item]:
        """What has come; waits for the first item, and not longer than this many seconds.

        Raises:
            InputError: the channel has no NTNDArray.
        """
        deadline = time.monotonic() + timeout
        while not self._closed:
            self._channel.changed.clear()
            items = self._taken()
            left = deadline - time.monotonic()
            if items or left <= 0:
                return items
            self._channel.changed.wait(min(left, _GRACE / 8))
        return []

    def close(self) -> None:
        """End the subscription."""
        self._closed = True
        self._channel.close()

    def _taken(self) -> list[Item]:
        items: list[Item] = []
        for _ in range(_MOST):
            update = self._channel.take()
            if update is None:
                break
            if isinstance(update, Exception):
                items += self._interrupted(type(update).__name__)
            else:
                self._connected, self._reported = True, False
                items += self._of_value(update)
        now = time.monotonic()
        if any(isinstance(item, Frame) for item in items):
            self._since = now
        elif not self._connected and not items and now - self._since > _GRACE:
            items = self._interrupted("no channel of this name")
        elif self._series is not None and not self._ended and now - self._since > self._quiet:
            self._ended = True
            items.append(End())
        return items

    def _interrupted(self, found: str) -> list[Item]:
        self._connected = False
        if self._reported:
            return []
        self._reported = True
        return [Fault("interrupted", f"{self.address}: expected a connection, found {found}; it is waited for")]

    def _of_value(self, value: Any) -> list[Item]:
        if not value.getID().startswith("epics:nt/NTNDArray"):
            raise InputError(
                f"{self.address}: expected an NTNDArray, found {value.getID()}; name the channel of the detector's "
                "plugin NDPva"
            )
        attributes = {str(one.name): one.value for one in value.attribute}
        items, key = list[Item](), attributes.get("series")
        if key is not None and key != self._key:
            items += self._begin(key, attributes)
        if attributes.get("end") and not self._ended and self._series is not None:
            self._ended = True
            items.append(End())
        if value.value is None or len(value.value) == 0:
            self._stale = False
            return items
        number = int(value.uniqueId)
        if key is None:
            stale, self._stale = self._stale, False
            if stale:
                self._recent.append(number)
                return items
            if self._series is None or self._is_reset(number):
                items += self._begin(None, attributes)
                self._first = number if self._stated_first is None else self._stated_first
        if number in self._recent:
            return items
        self._recent.append(number)
        try:
            counts = as_counts(_array(value, attributes))
        except InputError as error:
            return [*items, Fault("damaged", f"{self.address}: frame {number - self._first}: {error}; it is lost")]
        return [*items, Frame(number - self._first, counts, _position(attributes))]

    def _is_reset(self, number: int) -> bool:
        """Whether an id is not one of the series: it came before, or is far below the last ones."""
        last = self._recent[-1] if self._recent else number
        return number != last and (number in self._recent or number < last - _REORDERED)

    def _begin(self, key: Any, attributes: Mapping[str, Any]) -> list[Item]:
        frames, unit, name = attributes.get("frames"), attributes.get("position_unit"), attributes.get("name")
        self._series = Series(
            name=name if isinstance(name, str) and name else self._channel_name,
            frames=int(frames) if isinstance(frames, int) and frames > 0 else None,
            energy=_number(attributes, ENERGY),
            distance=_number(attributes, DISTANCE),
            detector_pixel_size=_number(attributes, PIXEL_SIZE),
            position_unit=unit if unit in POSITION_UNITS else "m",
        )
        self._key, self._first, self._ended = key, 0, False
        self._recent.clear()
        self._since = time.monotonic()
        return [self._series]


class EpicsPositions:
    """Positions of a channel: an NTTable with the columns index, y and x, or an NTScalarArray index, y, x, ...

    A table may have all positions so far, or the new ones; those that were handed over before are so again only if they
    differ. Where the queue of the channel is full, updates are dropped, so that all positions so far are the safer.

    Args:
        channel: its name.
        unit: of the positions, "m" or "px".
        queue: updates that may wait.
        conf: of the client; None: from the environment.

    Raises:
        InputError: p4p is missing, or the unit is none of these.
    """

    def __init__(
        self, channel: str, unit: str = "m", *, queue: int = 1024, conf: Mapping[str, str] | None = None
    ) -> None:
        self.address, self.unit = f"pva://{channel}", unit
        if unit not in POSITION_UNITS:
            raise InputError(
                f"{self.address}: expected the unit of positions, one of m, px, found {unit!r}; state --position-unit"
            )
        self._known: dict[int, tuple[float, float]] = {}
        self._channel = Channel(channel, queue, conf)

    def read(self) -> list[tuple[int, float, float]]:
        """What has come since the last call: frame index, y, x. Does not wait.

        Raises:
            InputError: the channel has other values.
        """
        found: dict[int, tuple[float, float]] = {}
        while (update := self._channel.take()) is not None:
            if not isinstance(update, Exception):
                rows = self._rows(update)
                good = np.isfinite(rows).all(axis=1) & (rows[:, 0] >= 0)
                found |= {int(index): (float(y), float(x)) for index, y, x in rows[good]}
        found = {index: position for index, position in found.items() if self._known.get(index) != position}
        self._known |= found
        return [(index, y, x) for index, (y, x) in found.items()]

    def close(self) -> None:
        """End the subscription."""
        self._channel.close()

    def _rows(self, update: Any) -> NDArray[np.float64]:
        """Rows (n, 3): index, y, x."""
        kind = update.getID()
        try:
            if kind.startswith("epics:nt/NTTable"):
                columns = [np.atleast_1d(np.asarray(update.value[name], np.float64)) for name in ("index", "y", "x")]
                n = min(len(column) for column in columns)
                return np.stack([column[:n] for column in columns], axis=1)
            if kind.startswith("epics:nt/NTScalarArray"):
                return np.asarray(update.value, np.float64).reshape(-1, 3)
        except (KeyError, ValueError, TypeError, AttributeError):
            pass
        raise InputError(
            f"{self.address}: expected an NTTable with columns index, y, x, or an NTScalarArray of as many values, "
            f"found {kind} without; name the channel of the positions"
        )


def _array(value: Any, attributes: Mapping[str, Any]) -> NDArray[Any]:
    """The array (h, w) of an NTNDArray.

    Raises:
        InputError: it has colours, another size than it states, or a codec that is not read.
    """
    sides = [int(one.size) for one in value.dimension]
    shape = tuple(reversed([*sides[:2], *(side for side in sides[2:] if side != 1)]))
    if len(shape) != 2 or attributes.get("ColorMode", 0) not in (0, 1):
        raise InputError(
            f"expected grey values (h, w), found {len(sides)} dimensions {sides} of a colour image; make it mono"
        )
    codec = str(value.codec.name)
    data: NDArray[Any] = value.value
    if codec:
        dtype = np.dtype(TYPES.get(value.codec.parameters, "V1"))
        needed = frame_bytes(shape, dtype)
        data = np.frombuffer(_decoded(codec, data, int(value.compressedSize), dtype, needed), dtype)
    frame_bytes(shape, data.dtype)
    if data.size != math.prod(shape):
        raise InputError(f"expected {math.prod(shape)} values of a frame {shape}, found {data.size}; check the plugin")
    return data.reshape(shape)


def _decoded(codec: str, data: NDArray[Any], size: int, dtype: np.dtype[Any], needed: int) -> bytes:
    """Decompress; areaDetector has the streams without the headers that HDF5's filters and the detector put before."""
    headers: dict[str, Callable[[int], bytes]] = {
        "lz4": lambda length: struct.pack(">QII", needed, needed, length),
        "bslz4": lambda length: struct.pack(">QI", needed, _BLOCK),
    }
    if codec not in headers:
        raise InputError(f"expected the codec lz4, bslz4 or none, found {codec!r}; set the plugin's compressor to one")
    compression = library("dectris.compression", "dectris-compression", "dectris", f"the codec {codec}")
    stream = data.view(np.uint8).tobytes()
    stream = stream[:size] if 0 < size <= len(stream) else stream
    if stream[:8] != struct.pack(">Q", needed):
        stream = headers[codec](len(stream)) + stream
    try:
        found: bytes = compression.decompress(stream, codec, elem_size=dtype.itemsize)
    except (RuntimeError, MemoryError, ValueError) as error:
        raise InputError(
            f"expected a stream of the codec {codec}, found a damaged one ({error}); check the plugin"
        ) from error
    if len(found) != needed:
        raise InputError(f"expected {needed} bytes of the codec {codec}, found {len(found)}; check the plugin")
    return found


def _number(attributes: Mapping[str, Any], name: str) -> float | None:
    """A positive number; None where the attribute is missing or another value."""
    value = attributes.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value <= 0:
        return None
    return float(value)


def _position(attributes: Mapping[str, Any]) -> tuple[float, float] | None:
    """The position in the attributes of a frame."""
    lower = {name.lower(): value for name, value in attributes.items()}
    for names in _POSITION_NAMES:
        y, x = (lower.get(name) for name in names)
        if isinstance(y, int | float) and isinstance(x, int | float) and math.isfinite(y) and math.isfinite(x):
            return float(y), float(x)
    return None
