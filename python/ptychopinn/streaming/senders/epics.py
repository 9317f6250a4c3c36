# SPDX-License-Identifier: BSD-3-Clause
"""A channel of EPICS with frames as areaDetector has them (NTNDArray by PV Access), for receivers on this machine."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptychopinn.streaming.frames import Series
from ptychopinn.streaming.libraries import library
from ptychopinn.streaming.sources.epics import DISTANCE, ENERGY, PIXEL_SIZE, TYPES

#: The server answers on the loopback interface only; clients find it with EPICS_PVA_ADDR_LIST=127.0.0.1.
LOOPBACK = {
    "EPICS_PVAS_INTF_ADDR_LIST": "127.0.0.1",
    "EPICS_PVAS_AUTO_BEACON_ADDR_LIST": "NO",
    "EPICS_PVAS_BEACON_ADDR_LIST": "127.0.0.1",
    "EPICS_PVA_ADDR_LIST": "127.0.0.1",
    "EPICS_PVA_AUTO_ADDR_LIST": "NO",
}
#: The same on ports that are free, which clients know by :attr:`EpicsSender.conf` only.
FREE_PORTS = {**LOOPBACK, "EPICS_PVAS_SERVER_PORT": "0", "EPICS_PVAS_BROADCAST_PORT": "0"}


class EpicsSender:
    """A server with one channel of frames.

    Each update has the attributes of the series, so that a late receiver has them, and ids count from 0 in each.

    Args:
        channel: its name.
        conf: of the server; None: :data:`LOOPBACK`.

    Attributes:
        conf: of clients that are to find the server.

    Raises:
        InputError: p4p is missing.
    """

    def __init__(self, channel: str, conf: Mapping[str, str] | None = None) -> None:
        self.address = f"pva://{channel}"
        self._nt = library("p4p.nt", "p4p", "epics", self.address).NTNDArray()
        self._channel = library("p4p.server.raw", "p4p", "epics", self.address).SharedPV()
        server = library("p4p.server", "p4p", "epics", self.address)
        self._server = server.Server(providers=[{channel: self._channel}], conf=dict(conf or LOOPBACK), useenv=False)
        self.conf: dict[str, str] = self._server.conf()
        self._series: dict[str, Any] = {}
        self._is_open = False
        self._dtype: np.dtype[Any] = np.dtype(np.uint16)
        self._shape = (0, 0)

    def begin(self, series: Series, shape: tuple[int, int], dtype: np.dtype[Any]) -> None:
        """Begin a series of frames of this shape (h, w) and type; a second call begins another one."""
        self._shape, self._dtype = shape, np.dtype(dtype)
        self._series = {
            "series": secrets.token_hex(8),
            "name": series.name,
            "frames": series.frames,
            "position_unit": series.position_unit,
            ENERGY: series.energy,
            DISTANCE: series.distance,
            PIXEL_SIZE: series.detector_pixel_size,
        }
        self._post(self._value(np.zeros((0, 0), np.uint8), 0))

    def send(self, index: int, counts: NDArray[Any], position: tuple[float, float] | None) -> None:
        """Send a frame (h, w), with its position (y, x) if it is known, in the unit of the series."""
        y, x = (None, None) if position is None else (float(position[0]), float(position[1]))
        self._post(self._value(counts, index, y=y, x=x))

    def send_damaged(self, index: int) -> None:
        """Send bytes that are no stream of their codec in place of a frame."""
        value = self._value(np.zeros(self._shape, self._dtype), index)
        value.codec.name = "bslz4"
        value.codec.parameters = next(number for number, name in TYPES.items() if np.dtype(name) == self._dtype)
        value.value = ("ubyteValue", np.full(64, 255, np.uint8))
        value.compressedSize = 64
        self._post(value)

    def end(self) -> None:
        """Send the attribute `end`."""
        if self._is_open:
            self._post(self._value(np.zeros((0, 0), np.uint8), 0, end=True))

    def close(self) -> None:
        """Stop the server; a second call has no effect."""
        if self._server is not None:
            self._server.stop()
            self._server = None

    def _value(self, counts: NDArray[Any], index: int, **attributes: Any) -> Any:
        stated = {"ColorMode": 0, **self._series, **attributes}
        known = {name: value for name, value in stated.items() if value is not None}
        value = self._nt.wrap(np.ascontiguousarray(counts), attrib=known)
        value.uniqueId, value.codec.name = index, ""  # what is not set is as in the update before
        return value

    def _post(self, value: Any) -> None:
        if self._is_open:
            self._channel.post(value)
        else:
            self._channel.open(value)
            self._is_open = True
