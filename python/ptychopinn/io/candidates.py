# SPDX-License-Identifier: BSD-3-Clause
"""Where the patterns of an HDF5 file are: the path of the caller, that of the format, or a list to choose from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ptychopinn.errors import InputError
from ptychopinn.io.hdf5 import Hdf5
from ptychopinn.io.lazy import h5py
from ptychopinn.io.links import DAMAGED
from ptychopinn.io.options import ReadOptions

_DEEPEST, _MOST_NAMES, _LISTED = 8, 4000, 6


def candidates(file: Hdf5, axes: tuple[int, ...] = (3, 4)) -> dict[str, tuple[int, ...]]:
    """Paths and shapes of data sets of real numbers with so many axes, which can be patterns, breadth first."""
    return data_sets(file, lambda node: len(node.shape or ()) in axes and node.dtype.kind in "iuf")


def data_sets(file: Hdf5, wanted: Callable[[h5py.Dataset], bool]) -> dict[str, tuple[int, ...]]:
    """Paths and shapes of data sets, breadth first, with those that links name in the folder of the file.

    Args:
        file: the file.
        wanted: whether to list a data set.
    """
    found: dict[str, tuple[int, ...]] = {}
    level, seen = [""], 0
    for _ in range(_DEEPEST):
        below = []
        for group in level:
            for name in _members(file, group):
                if (seen := seen + 1) > _MOST_NAMES:
                    return found
                path = f"{group}/{name}" if group else name
                try:
                    node = file.node(path)
                    if isinstance(node, h5py.Group):
                        below.append(path)
                    elif node is not None and wanted(node):
                        found[path] = tuple(int(side) for side in node.shape or ())
                except (InputError, *DAMAGED):  # a link that leads nowhere is no candidate
                    continue
        level = below
    return found


def choices(file: Hdf5) -> str:
    """The way out of an error about patterns: the option, and the candidates with their shapes."""
    found = candidates(file)
    listed = ", ".join(f"{path} {shape}" for path, shape in list(found.items())[:_LISTED])
    more = f" and {len(found) - _LISTED} more" if len(found) > _LISTED else ""
    there = f"; data sets of three or four axes are {listed}{more}" if found else "; no data set has three or four axes"
    return f"state patterns= (--patterns PATH_IN_FILE){there}"


def choices_in(path: Path) -> str:
    """The same for a file that no format has opened; empty if it cannot be read."""
    try:
        with Hdf5(path) as file:
            return f"; {choices(file)}"
    except (InputError, *DAMAGED):
        return ""


def patterns_key(file: Hdf5, options: ReadOptions, *usual: str) -> str:
    """The path of the patterns: that of the caller, else the first of those of the format that exists.

    Raises:
        InputError: there is none; the error lists the candidates.
    """
    key = options.patterns if options.patterns is not None else file.first(*usual)
    if key is not None and (options.patterns is None or file.is_array(key)):
        return key
    wanted = usual if key is None else (key,)
    names = ", ".join(sorted(file.members("/"))[:12]) or "an empty file"
    others = f" (or {' or '.join(wanted[1:])})" if len(wanted) > 1 else ""
    file.fail(wanted[0], f"the key to be there{others}", f"only {names}; {choices(file)}")


def _members(file: Hdf5, group: str) -> list[str]:
    try:
        return file.members(group or "/")
    except InputError:
        return []
