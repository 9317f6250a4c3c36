# SPDX-License-Identifier: BSD-3-Clause
"""The source that an address names, and the positions that one names."""

from __future__ import annotations

from pathlib import Path

from ptychopinn.errors import InputError
from ptychopinn.streaming.frames import Positions, Source

#: Ways to name a source, for errors and help.
ADDRESSES = (
    "zmq://HOST:PORT of a DECTRIS stream (or HOST:PORT/CHANNEL), pva://CHANNEL of an NTNDArray, an HDF5 file, or a "
    "folder of frames"
)
_HDF5 = (".h5", ".hdf5", ".nxs", ".nx", ".cxi", ".ptyd")


def open_source(address: str | Path, quiet: float = 30.0) -> Source:
    """Open the source of this address; libraries that it needs are imported now.

    Args:
        address: one of :data:`ADDRESSES`.
        quiet: seconds without growth after which a file or folder has ended.

    Raises:
        InputError: it is no address of these, or a library is missing.
    """
    text = str(address)
    scheme, colon, rest = text.partition("://")
    if colon and scheme in ("zmq", "tcp"):
        from ptychopinn.streaming.sources.dectris import DectrisSource

        host, _, channel = rest.partition("/")
        return DectrisSource(f"{scheme}://{host}", channel or None)
    if colon and scheme == "pva":
        from ptychopinn.streaming.sources.epics import EpicsSource

        return EpicsSource(rest)
    path = Path(text)
    if not colon and path.suffix.lower() in _HDF5:
        from ptychopinn.streaming.sources.hdf5 import Hdf5Source

        return Hdf5Source(path, quiet=quiet)
    if not colon and path.is_dir():
        from ptychopinn.streaming.sources.folder import FolderSource

        return FolderSource(path, quiet=quiet)
    raise InputError(f"{text}: expected {ADDRESSES}; a folder must exist, a file may come later")


def open_positions(address: str | Path, unit: str = "m") -> Positions:
    """Open the positions of this address.

    Args:
        address: a growing text table, ``FILE.h5:PATH``, or ``pva://CHANNEL``.
        unit: of positions that state none, "m" or "px".

    Raises:
        InputError: it is no address of these, or a library is missing.
    """
    text = str(address)
    scheme, colon, rest = text.partition("://")
    if colon and scheme == "pva":
        from ptychopinn.streaming.sources.epics import EpicsPositions

        return EpicsPositions(rest, unit)
    if colon:
        raise InputError(f"{text}: expected a table of positions, FILE.h5:PATH, or pva://CHANNEL")
    from ptychopinn.streaming.sources.tables import TablePositions

    return TablePositions(text, unit=unit)
