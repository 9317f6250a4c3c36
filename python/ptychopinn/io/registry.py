# SPDX-License-Identifier: BSD-3-Clause
"""Every format of scans: what it is called, how its files are recognised, and which functions read and write it.

Files are recognised by what is in them; the suffix decides only what to write, and which reader words the complaint
about a file that cannot be looked into. Readers and writers are imported on use, since they import the Scan type.
To add a format, add a row to :data:`FORMATS`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ptychopinn.errors import InputError
from ptychopinn.io.options import Given
from ptychopinn.io.sniff import HDF5_SUFFIXES, Content, content_of

if TYPE_CHECKING:
    from ptychopinn.scan import Scan


@dataclass(frozen=True)
class Format:
    """A file format of scans.

    Args:
        name: what `format=` calls it.
        description: a line for people.
        suffixes: of its files; the first is the usual one.
        module: where its functions are.
        reader: function of (path, given) that returns a Scan.
        writer: function of (scan, path), or None if it can only be read.
        sniffer: whether what is in a file is of this format.
        targets: function of a path that gives all files that the writer writes; None if that is the path alone.
    """

    name: str
    description: str
    suffixes: tuple[str, ...]
    module: str
    reader: str
    writer: str | None
    sniffer: Callable[[Content], bool]
    targets: str | None = None

    def read(self, path: str | Path, given: Given) -> Scan:
        """The scan in a file of this format.

        Raises:
            InputError: what is stated belongs to another format, or the file cannot be used.
        """
        for statement, owner in (("positions", "arrays"), ("partner", "ptychodus")):
            if getattr(given, statement) is not None and self.name != owner:
                raise InputError(
                    f"{path}: {statement} can be stated for scans of the format {owner} only, found one of {self.name}"
                )
        scan: Scan = self._function(self.reader)(Path(path), given)
        return scan

    def write(self, scan: Scan, path: str | Path, overwrite: bool = True) -> None:
        """Write a scan, whole or not at all.

        Raises:
            InputError: the format is read-only, a file exists and `overwrite` is False, or the scan lacks something.
        """
        if self.writer is None:
            raise InputError(
                f"{path}: scans of the format {self.name} can be read but not written; {writable_sentence()}"
            )
        for target in self.files_of(path):
            if not overwrite and target.exists():
                raise InputError(f"{target}: the file exists and overwrite is False")
        self._function(self.writer)(scan, Path(path))

    def files_of(self, path: str | Path) -> tuple[Path, ...]:
        """The files that writing to `path` makes."""
        if self.targets is None:
            return (Path(path),)
        files: tuple[Path, ...] = self._function(self.targets)(Path(path))
        return files

    def _function(self, name: str) -> Any:
        return getattr(importlib.import_module(self.module), name)


def _is_npz(content: Content) -> bool:
    return content.kind == "npz" and not _is_ptychodus_npz(content)


def _is_ptychodus_npz(content: Content) -> bool:
    """ptychodus 1.7 alone writes these three without saying what the patterns or the axes are."""
    marks = {"axes", "measurement", "probe_units", "metadata_json"}
    return content.kind == "npz" and content.has("diff3d", "bad_pixels", "scan_index") and not marks & content.names


def _is_ptychodus(content: Content) -> bool:
    if content.kind == "folder":
        return content.has("diffraction.h5", "product.h5")
    patterns = content.has("patterns", "indexes")
    product = content.has("probe_position_x_m", "probe_position_y_m")
    return content.kind == "hdf5" and (patterns or product)


def _is_training(content: Content) -> bool:
    return content.kind == "hdf5" and content.has("patterns", "probe_position_x_px", "probe_position_y_px")


def _is_nexus(content: Content) -> bool:
    """Groups have classes, an NXdetector among them; names of CXI beside are those of NXcxi_ptycho."""
    return content.kind == "hdf5" and {"NXentry", "NXdetector"} <= set(content.classes.values())


def _is_cxi(content: Content) -> bool:
    named = content.has("cxi_version") or content.has("entry_1/instrument_1/detector_1/data")
    return content.kind == "hdf5" and named and not _is_nexus(content)


def _is_ptyd(content: Content) -> bool:
    return content.kind == "hdf5" and content.has("chunks/0/data", "chunks/0/positions")


def _is_arrays(content: Content) -> bool:
    """The last resort: an array that has positions beside it and says nothing else."""
    from ptychopinn.io.formats.arrays import beside

    if content.kind == "hdf5":
        others = (_is_ptychodus, _is_training, _is_nexus, _is_cxi, _is_ptyd)
        if len(content.cubes) != 1 or any(sniffer(content) for sniffer in others):
            return False
        return beside(content.path, "positions", ".csv") is not None
    return content.kind == "npy" and content.path.suffix.lower() == ".npy"


#: Name -> format, in the order in which people are told of them.
FORMATS: dict[str, Format] = {
    format.name: format
    for format in (
        Format(
            "npz",
            "the PtychoPINN contract",
            (".npz",),
            "ptychopinn.io.formats.npz",
            "read_contract",
            "write_npz",
            _is_npz,
        ),
        Format(
            "ptychodus-npz",
            "training NPZ of ptychodus",
            (),
            "ptychopinn.io.formats.npz",
            "read_ptychodus_npz",
            None,
            _is_ptychodus_npz,
        ),
        Format(
            "ptychodus",
            "diffraction.h5 and product.h5 of ptychodus",
            (),
            "ptychopinn.io.formats.ptychodus",
            "read_ptychodus",
            "write_ptychodus",
            _is_ptychodus,
            targets="pair_to_write",
        ),
        Format(
            "ptychodus-training",
            "training HDF5 of ptychodus",
            (),
            "ptychopinn.io.formats.ptychodus",
            "read_training",
            None,
            _is_training,
        ),
        Format("cxi", "CXI of cxidb.org", (".cxi",), "ptychopinn.io.formats.cxi", "read_cxi", "write_cxi", _is_cxi),
        Format(
            "ptyd",
            "prepared data of ptypy",
            (".ptyd",),
            "ptychopinn.io.formats.ptyd",
            "read_ptyd",
            "write_ptyd",
            _is_ptyd,
        ),
        Format(
            "nexus",
            "NeXus (NXptycho, NXcxi_ptycho)",
            (".nxs", ".nx"),
            "ptychopinn.io.formats.nexus",
            "read_nexus",
            "write_nexus",
            _is_nexus,
        ),
        Format(
            "arrays",
            "patterns in .npy or .h5 with positions.csv",
            (".npy",),
            "ptychopinn.io.formats.arrays",
            "read_arrays",
            None,
            _is_arrays,
        ),
    )
}


def format_named(name: str) -> Format:
    """The format called `name`; InputError lists the names if there is none."""
    if name not in FORMATS:
        raise InputError(f"format must be auto or one of {', '.join(FORMATS)}, got {name!r}")
    return FORMATS[name]


def format_to_read(path: str | Path, name: str = "auto") -> Format:
    """The format of a file: the one that is named, else the one that its content is of.

    Raises:
        InputError: no format or several recognise the file, or it cannot be looked into; the sentence lists the names.
    """
    if name != "auto":
        return format_named(name)
    content = content_of(path)
    found = [format for format in FORMATS.values() if format.sniffer(content)]
    if len(found) == 1:
        return found[0]
    listed = ", ".join(FORMATS)
    if found:
        several = " and ".join(format.name for format in found)
        raise InputError(
            f"{path}: expected a scan of one format, found what {several} read; name one with format= (--format)"
        )
    by_suffix = _with_suffix(path)
    if len(by_suffix) == 1:
        return by_suffix[0]  # its reader says what is wrong
    if content.kind in ("missing", "empty", "other") and Path(path).suffix.lower() in HDF5_SUFFIXES:
        raise InputError(f"{path}: expected an HDF5 file, found {_said(content)}")
    raise InputError(
        f"{path}: expected a scan in one of the formats {listed}, found {_said(content)}; "
        "name its format with format= (--format) if it is one"
    )


def format_to_write(path: str | Path, name: str = "auto") -> Format:
    """The format to write: the one that is named, else the one that the suffix means.

    Raises:
        InputError: the suffix means no format that can be written, or several.
    """
    if name != "auto":
        return format_named(name)
    found = [format for format in _with_suffix(path) if format.writer is not None]
    if len(found) != 1:
        suffix = Path(path).suffix
        raise InputError(
            f"{path}: expected a scan file ending in {' or '.join(_suffixes())}, found {suffix or 'no suffix'!r}; "
            f"or name a format with format= (--to): {writable_sentence()}"
        )
    return found[0]


def writable_sentence() -> str:
    """Which formats can be written."""
    return f"{', '.join(format.name for format in FORMATS.values() if format.writer)} can be written"


def _with_suffix(path: str | Path) -> list[Format]:
    return [format for format in FORMATS.values() if Path(path).suffix.lower() in format.suffixes]


def _suffixes() -> list[str]:
    return [format.suffixes[0] for format in FORMATS.values() if format.writer and format.suffixes]


def _said(content: Content) -> str:
    if content.kind in ("npz", "hdf5", "folder"):
        names = sorted(name for name in content.names if "/" not in name)[:8]
        holder = {"npz": "a zip archive", "hdf5": "HDF5", "folder": "a folder"}[content.kind]
        return f"{holder} with {', '.join(names) or 'nothing in it'}"
    if content.kind == "other":
        with content.path.open("rb") as file:
            if file.read(8) == b"\x89HDF\r\n\x1a\n":
                return "an HDF5 file that is truncated, damaged or still being written"
    said = {"missing": "no file", "empty": "an empty file (0 bytes)", "npy": "an array without positions"}
    return said.get(content.kind, "neither HDF5 nor an NPZ archive")
