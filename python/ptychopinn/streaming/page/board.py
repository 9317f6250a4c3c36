# SPDX-License-Identifier: BSD-3-Clause
"""What the page shows of a live run: written by the run, read by the server, each on its own thread.

A writer replaces values and never waits for a reader. A reader takes a snapshot, whose arrays do not change afterwards,
and compares its version numbers with those of what it has sent already. The lock is held for references only.
"""

from __future__ import annotations

import json
import math
import secrets
import struct
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ptychopinn._one_line import one_line

#: Pixels of the longer side of the picture, positions of the path, and latest positions, at most.
LARGEST, LONGEST, LATEST = 1024, 200_000, 32


class Versions(NamedTuple):
    """Numbers of changes: what has the same number is the same."""

    status: int = 0
    warnings: int = 0
    picture: int = 0
    path: int = 0


@dataclass(frozen=True, eq=False)
class Picture:
    """The object at the resolution of the page.

    Args:
        image: complex64, (H, W), mean over the covered pixels of a block of the object; zero where there are none.
        covered: bool, (H, W), whether there are any.
        origin: (y, x) of the first pixel of the object's canvas, in scan coordinates (pixels).
        step: pixels of the object in each side of a block.
        pixel_size: of the object, metres; None: not known.
    """

    image: NDArray[np.complex64]
    covered: NDArray[np.bool_]
    origin: tuple[float, float]
    step: int
    pixel_size: float | None

    __repr__ = one_line


@dataclass(frozen=True, eq=False)
class ScanPath:
    """Positions in the order in which they came.

    Args:
        generation: counts how often the positions before the last ones changed, by thinning or clearing.
        positions: float64, (n, 2), (y, x) in scan coordinates (pixels); every 2^k-th one of a long scan.
        latest: float64, (k, 2), the last of all.
    """

    generation: int
    positions: NDArray[np.float64]
    latest: NDArray[np.float64]

    __repr__ = one_line


@dataclass(frozen=True, eq=False)
class Snapshot:
    """All of the board at one time.

    Args:
        versions: of the other fields.
        status: JSON values.
        warnings: sentence of each key.
        picture: None before the first one.
        path: of the scan.
    """

    versions: Versions
    status: Mapping[str, Any]
    warnings: Mapping[str, str]
    picture: Picture | None
    path: ScanPath

    __repr__ = one_line


class Board:
    """What the page shows of a live run; all methods may be called on any thread.

    Args:
        title: of the run.

    Attributes:
        identity: differs from that of every other board, also of other processes.

    Example:
        >>> board = Board("scan 12")
        >>> board.set_status({"state": "receiving", "received": 7})
        >>> board.snapshot().status["received"]
        7
    """

    def __init__(self, title: str) -> None:
        self.title = title
        self.identity = secrets.token_hex(8)
        self._lock = threading.Lock()
        self._versions = Versions()
        self._status: dict[str, Any] = {}
        self._warnings: dict[str, str] = {}
        self._picture: Picture | None = None
        self._generation = 0
        self._begin_path()

    def _begin_path(self) -> None:
        # Rows before the size are never written again: snapshots have views of them.
        self._positions: NDArray[np.float64] = np.empty((LONGEST, 2))
        self._latest: NDArray[np.float64] = np.empty((0, 2))
        self._size = 0
        self._added = 0
        self._every = 1
        self._generation += 1

    def set_status(self, status: Mapping[str, Any]) -> None:
        """Replace the status.

        Args:
            status: JSON values, of which the page shows what it knows: "state" ("waiting", "receiving", "improving",
                "finishing", "finished" or "interrupted"), "received", "expected", "reconstructed",
                "waiting_for_position", "lost" (first missing frame indexes), "lost_count", "repeated", "reordered",
                "damaged", "restarts", "rate" (frames/s), "latency" (seconds, {"median", "p99"}), "spooled" (frames),
                "memory" (bytes), "elapsed" (s), "loss" ([seconds since the begin, value] pairs), "passes", "source",
                "model", "result", "faults" ({"time", "kind", "sentence"}, the latest last; the time is in seconds since
                the begin or since 1970). Values that are not finite become null.
        """
        copied = {str(key): _plain(value) for key, value in status.items()}
        with self._lock:
            self._status = copied
            self._versions = self._versions._replace(status=self._versions.status + 1)

    def set_picture(
        self,
        image: NDArray[np.complex64],
        covered: NDArray[np.bool_],
        origin: tuple[float, float],
        pixel_size: float | None,
    ) -> None:
        """Replace the picture by a reduced copy of the object.

        Args:
            image: (H, W).
            covered: (H, W), False at pixels without an estimate.
            origin: (y, x) of pixel [0, 0] in scan coordinates (pixels).
            pixel_size: metres; None: not known.
        """
        step = -(-max(image.shape) // LARGEST)
        mean, any_covered = _reduced(image, covered, step)
        picture = Picture(mean, any_covered, (float(origin[0]), float(origin[1])), step, pixel_size)
        with self._lock:
            self._picture = picture
            self._versions = self._versions._replace(picture=self._versions.picture + 1)

    def add_positions(self, positions: NDArray[np.float64]) -> None:
        """Append positions (k, 2), (y, x) of the probe's centre in scan coordinates (pixels), to the path."""
        positions = np.asarray(positions, np.float64).reshape(-1, 2)
        positions = positions[np.isfinite(positions).all(axis=1)]
        if not len(positions):
            return
        with self._lock:
            while self._size + len(kept := positions[-self._added % self._every :: self._every]) > LONGEST:
                self._thin()
            self._positions[self._size : self._size + len(kept)] = kept
            self._size += len(kept)
            self._added += len(positions)
            self._latest = np.concatenate([self._latest, positions])[-LATEST:]
            self._versions = self._versions._replace(path=self._versions.path + 1)

    def clear_positions(self) -> None:
        """Remove the path."""
        with self._lock:
            self._begin_path()
            self._versions = self._versions._replace(path=self._versions.path + 1)

    def warn(self, key: str, sentence: str) -> None:
        """Show a warning until it is removed; another one of the same key replaces it."""
        with self._lock:
            if self._warnings.get(key) != sentence:
                self._warnings = {**self._warnings, key: sentence}
                self._versions = self._versions._replace(warnings=self._versions.warnings + 1)

    def unwarn(self, key: str) -> None:
        """Remove the warning of this key, if there is one."""
        with self._lock:
            if key in self._warnings:
                self._warnings = {other: sentence for other, sentence in self._warnings.items() if other != key}
                self._versions = self._versions._replace(warnings=self._versions.warnings + 1)

    def snapshot(self) -> Snapshot:
        """What the board shows now."""
        with self._lock:
            path = ScanPath(self._generation, self._positions[: self._size], self._latest)
            return Snapshot(self._versions, self._status, self._warnings, self._picture, path)

    def _thin(self) -> None:
        """Keep every second position, now and of those to come."""
        kept = self._positions[: self._size : 2]
        self._positions = np.empty((LONGEST, 2))
        self._size = len(kept)
        self._positions[: self._size] = kept
        self._every *= 2
        self._generation += 1


def picture_message(picture: Picture, version: int) -> bytes:
    """Encode a picture: amplitude and phase as 16-bit integers, behind a JSON header.

    The message is a little-endian uint32, the length of the header; the header, with "version", "height", "width",
    "origin", "step", "pixel_size", and the ranges [low, high] of "amplitude" and "phase" (rad); then (height, width)
    little-endian uint16 of the amplitude, and as many of the phase. 0 is an uncovered pixel, 1 to 65535 are low to
    high. The header is padded to a multiple of four bytes.
    """
    covered = picture.covered
    ranges: dict[str, list[float]] = {}
    planes = []
    for name, values in (("amplitude", np.abs(picture.image)), ("phase", np.angle(picture.image))):
        low, high = (float(values[covered].min()), float(values[covered].max())) if covered.any() else (0.0, 0.0)
        scaled = (values.astype(np.float64) - low) * (65534 / (high - low) if high > low else 0)
        planes.append(np.where(covered, np.round(scaled) + 1, 0).astype("<u2"))
        ranges[name] = [low, high]
    header = {
        "version": version,
        "height": covered.shape[0],
        "width": covered.shape[1],
        "origin": list(picture.origin),
        "step": picture.step,
        "pixel_size": picture.pixel_size,
        **ranges,
    }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 4)
    return b"".join([struct.pack("<I", len(text)), text, *(plane.tobytes() for plane in planes)])


def _reduced(
    image: NDArray[np.complex64], covered: NDArray[np.bool_], step: int
) -> tuple[NDArray[np.complex64], NDArray[np.bool_]]:
    """Means over the covered pixels of blocks, and whether a block has any; rows of blocks one at a time."""
    columns = np.arange(0, image.shape[1], step)
    shape = (-(-image.shape[0] // step), len(columns))
    sums, counts = np.empty(shape, np.complex64), np.empty(shape, np.int64)
    for k in range(shape[0]):
        block = image[k * step : (k + 1) * step]
        used = covered[k * step : (k + 1) * step] & np.isfinite(block)
        sums[k] = np.add.reduceat(np.where(used, block, 0).sum(axis=0), columns)
        counts[k] = np.add.reduceat(used.sum(axis=0), columns)
    return (sums / np.maximum(counts, 1)).astype(np.complex64), counts > 0


def _plain(value: Any) -> Any:
    """A copy of JSON values, which may be NumPy's."""
    if isinstance(value, Mapping):
        return {str(key): _plain(member) for key, member in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [_plain(member) for member in value]
    if value is None or isinstance(value, bool | np.bool_):
        return None if value is None else bool(value)
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        return float(value) if math.isfinite(value) else None
    return str(value)
