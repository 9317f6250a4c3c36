# SPDX-License-Identifier: BSD-3-Clause
"""What a running scan sends, whatever its protocol: series of frames, their positions, and what went wrong.

A source is read by one thread, which stores what it gets before it asks for more. So a source keeps nothing but what it
has not yet handed over, and what comes faster than it is stored waits in the sender, or in the system's buffers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ptychopinn._one_line import one_line

#: Units of positions: metres of the probe's centre, or object pixels of a patch's sample [0, 0], as ``Scan.positions``.
POSITION_UNITS = ("m", "px")


@dataclass(frozen=True, eq=False)
class Series:
    """What is known of a series of frames when it begins; None where it is not.

    A source sends one before the first frame, and another one when the detector begins again.

    Args:
        name: of the scan or file, for titles.
        frames: number of frames that are announced.
        energy: photon energy, eV.
        distance: from the sample to the detector, metres.
        detector_pixel_size: metres.
        beam_centre: (y, x) detector pixel.
        bad_pixels: bool, (h, w) of the detector, True at pixels to ignore.
        position_unit: of the positions that come with frames, one of :data:`POSITION_UNITS`.
    """

    name: str = "scan"
    frames: int | None = None
    energy: float | None = None
    distance: float | None = None
    detector_pixel_size: float | None = None
    beam_centre: tuple[float, float] | None = None
    bad_pixels: NDArray[np.bool_] | None = None
    position_unit: str = "m"

    __repr__ = one_line


@dataclass(frozen=True, eq=False)
class Frame:
    """A frame of the detector.

    Args:
        index: in its series, from 0.
        counts: (h, w), an unsigned integer type or float32, as from the detector.
        position: (y, x) in the unit of the series; None: it comes by another way.
    """

    index: int
    counts: NDArray[Any]
    position: tuple[float, float] | None = None

    __repr__ = one_line


@dataclass(frozen=True)
class Fault:
    """What went wrong in a source that is read further.

    Args:
        kind: one word, under which faults are counted: "damaged" (a frame or message that cannot be read, which is
            lost), "interrupted" (no connection, or no file, for a time), "unexpected" (a message that is
            ignored).
        sentence: for the user.
    """

    kind: str
    sentence: str

    __repr__ = one_line


@dataclass(frozen=True)
class End:
    """The series has ended, by what the source states; frames that follow belong to another series."""


#: What a source hands over.
Item = Series | Frame | Fault | End


class Source(Protocol):
    """A place that frames come from.

    Attributes:
        address: for messages.
    """

    address: str

    def read(self, timeout: float) -> list[Item]:
        """What has come, in its order; waits for the first item, and not longer than this many seconds.

        Raises:
            InputError: the source cannot be used, now or later; the error has the reason.
        """

    def close(self) -> None:
        """Release files and connections; a second call has no effect."""


class Positions(Protocol):
    """A place that positions come from, by the index of their frame."""

    address: str
    unit: str

    def read(self) -> list[tuple[int, float, float]]:
        """What has come since the last call: frame index, y, x. Does not wait."""

    def close(self) -> None:
        """Release files and connections; a second call has no effect."""
