# SPDX-License-Identifier: BSD-3-Clause
"""A DECTRIS detector to practise with, which sends frames by SIMPLON Stream V2.

It waits for its receiver, as detectors do: a frame is sent when there is one that takes it. The receiver is
:mod:`ptychopinn.streaming.sources.dectris`, or any other of this protocol.
"""

from __future__ import annotations

import struct
from typing import Any
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from ptychopinn.errors import InputError
from ptychopinn.streaming.dectris_stream import COMPRESSIONS, NEEDED, StreamArray, compressed, encode, endpoint
from ptychopinn.streaming.frames import Series
from ptychopinn.streaming.libraries import library

CHANNEL = "threshold_1"
#: Messages that wait in this process, at most.
QUEUE = 64
#: Seconds that close waits for the receiver to take the last messages.
_LINGER = 10.0
#: No compressed block begins with such a length, and no remainder of a frame that is not compressed is as long.
_DAMAGE = b"\xff" * 64


class DectrisSender:
    """A sender that receivers connect to.

    Args:
        address: zmq://HOST:PORT to listen on; port 0: the system chooses one. The attribute `address` has the port.
        compression: of the frames, "bslz4" or "lz4"; None: not compressed.
        queue: messages that wait in this process, at most.
        timeout: seconds to wait for a receiver that takes a message.

    Raises:
        InputError: the address cannot be used, the compression is unknown, or a library is missing.
    """

    def __init__(
        self, address: str, compression: str | None = "bslz4", *, queue: int = QUEUE, timeout: float = 60.0
    ) -> None:
        target = endpoint(address, lowest_port=0)
        if compression not in (None, *COMPRESSIONS):
            raise InputError(
                f"{address}: expected the compression {' or '.join(COMPRESSIONS)}, found {compression!r}; name one"
            )
        zmq = library("zmq", "pyzmq", *NEEDED)
        library("cbor2", "cbor2", *NEEDED)
        if compression is not None:
            library("hdf5plugin", "hdf5plugin", *NEEDED)
        self._compression, self._timeout = compression, timeout
        self._series_id, self._unique_id = 0, ""
        self._shape: tuple[int, int] = (0, 0)
        self._dtype: np.dtype[Any] = np.dtype(np.uint32)
        self._again = zmq.Again
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.PUSH)
        self._socket.setsockopt(zmq.SNDHWM, queue)
        self._socket.setsockopt(zmq.SNDTIMEO, round(1000 * timeout))
        self._socket.setsockopt(zmq.IPV6, "[" in target)
        try:
            self._socket.bind(target)
        except zmq.ZMQError as error:
            self.close()
            raise InputError(
                f"{address}: expected an address of this machine and a free port, found {error}; port 0 is any free one"
            ) from error
        self.address = self._socket.getsockopt_string(zmq.LAST_ENDPOINT).replace("tcp://", "zmq://")

    def begin(self, series: Series, shape: tuple[int, int], dtype: np.dtype[Any]) -> None:
        """Begin a series of frames of this shape (h, w) and type; a second call begins another one.

        Raises:
            InputError: no receiver takes it within the timeout.
        """
        self._series_id, self._unique_id = self._series_id + 1, uuid4().hex
        self._shape, self._dtype = shape, np.dtype(dtype)
        message: dict[str, Any] = {
            "channels": [CHANNEL],
            "image_size_x": shape[1],
            "image_size_y": shape[0],
            "user_data": {"name": series.name, "position_unit": series.position_unit},
        }
        if series.frames is not None:
            message["number_of_images"] = series.frames
        if series.energy is not None:
            message["incident_energy"] = float(series.energy)
        if series.distance is not None:
            message["detector_translation"] = [0.0, 0.0, -float(series.distance)]
        if series.detector_pixel_size is not None:
            message["pixel_size_x"] = message["pixel_size_y"] = float(series.detector_pixel_size)
        if series.beam_centre is not None:
            message["beam_center_y"], message["beam_center_x"] = (float(axis) for axis in series.beam_centre)
        if series.bad_pixels is not None:
            message["pixel_mask"] = {CHANNEL: self._packed(series.bad_pixels.astype(np.uint32))}
        self._send("start", message)

    def send(self, index: int, counts: NDArray[Any], position: tuple[float, float] | None) -> None:
        """Send a frame (h, w), with its position (y, x) if it is known, in the unit of the series.

        Raises:
            InputError: no receiver takes it within the timeout.
        """
        assert counts.shape == self._shape and counts.dtype == self._dtype
        message: dict[str, Any] = {"image_id": index, "data": {CHANNEL: self._packed(counts)}}
        if position is not None:
            message["user_data"] = {"position": [float(axis) for axis in position]}
        self._send("image", message)

    def send_damaged(self, index: int) -> None:
        """Send a frame whose compressed data are damaged.

        Raises:
            InputError: no receiver takes it within the timeout.
        """
        compression, size = self._compression or "bslz4", self._dtype.itemsize
        header = struct.pack(">QI", self._shape[0] * self._shape[1] * size, 8192)
        damaged = StreamArray(self._shape, self._dtype, header + _DAMAGE, compression, size)
        self._send("image", {"image_id": index, "data": {CHANNEL: damaged}})

    def end(self) -> None:
        """End the series.

        Raises:
            InputError: no receiver takes it within the timeout.
        """
        self._send("end", {})

    def close(self) -> None:
        """Close the connection, after the receiver has taken what was sent, or some seconds; again: no effect."""
        self._socket.close(linger=round(1000 * _LINGER))
        self._context.term()

    def _packed(self, array: NDArray[Any]) -> NDArray[Any] | StreamArray:
        return array if self._compression is None else compressed(array, self._compression)

    def _send(self, kind: str, fields: dict[str, Any]) -> None:
        message = {"type": kind, "series_id": self._series_id, "series_unique_id": self._unique_id, **fields}
        assert self._series_id, "begin comes first"
        try:
            self._socket.send(encode(message))
        except self._again:
            raise InputError(
                f"{self.address}: expected a receiver that takes frames, found none in {self._timeout:g} seconds; "
                "start one with this address"
            ) from None
