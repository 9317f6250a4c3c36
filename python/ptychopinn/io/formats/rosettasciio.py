# SPDX-License-Identifier: BSD-3-Clause
"""Files of electron microscopes that RosettaSciIO reads: .mib, .dm3, .dm4, .hspy, .blo and .tvips.

RosettaSciIO is not required; where it is installed it gives the array of a file with its axes, steps and units.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptychopinn.acquisition import positive
from ptychopinn.errors import InputError
from ptychopinn.io.build import Contents, assemble
from ptychopinn.io.electrons import ELECTRONS, Step, electron_options, object_pixel, scan_step
from ptychopinn.io.fields import OpenFile
from ptychopinn.io.formats.arrays import flattened
from ptychopinn.io.options import ReadOptions
from ptychopinn.io.registry import Format, register
from ptychopinn.io.sniff import Content
from ptychopinn.scan import Scan

#: Suffix -> module of RosettaSciIO.
_MODULES = {
    ".mib": "quantumdetector",
    ".dm3": "digitalmicrograph",
    ".dm4": "digitalmicrograph",
    ".hspy": "hspy",
    ".blo": "blockfile",
    ".tvips": "tvips",
}
_KEY = "data"


def read_rosettasciio(path: Path, options: ReadOptions) -> Scan:
    """Read frames with RosettaSciIO.

    Args:
        path: a file with frames in a raster or in a row.
        options: from the caller; `energy` is that of the electrons.

    Raises:
        InputError: RosettaSciIO is not installed, or the file cannot be used.
    """
    file = _File(path)
    array, axes = file.signal()
    patterns, raster = flattened(file, _KEY, array)
    steps = {name: _step(pair) for name, pair in (("scan", axes[:-2]), ("detector", axes[-2:]))}
    stated, energy = electron_options(file, options), file.energy()
    contents = Contents(
        file=file,
        key=_KEY,
        patterns=patterns,
        raster=raster,
        step=scan_step(file, "axes of the scan", steps["scan"]) if raster is not None else None,
        pixel_size=object_pixel(file, "axes of the detector", steps["detector"], patterns.shape[-1], stated, energy),
        name=path.stem,
        energy=energy,
        experiment=ELECTRONS,
    )
    return assemble(contents, stated)


class _File(OpenFile):
    """A file that RosettaSciIO reads, as an open file with one key."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, "a file that RosettaSciIO reads")
        module = _MODULES.get(path.suffix.lower())
        if module is None:
            raise InputError(
                f"{path}: expected a file ending in {', '.join(_MODULES)}, found {path.suffix!r}; "
                "name its format with --format"
            )
        try:
            reader = importlib.import_module(f"rsciio.{module}")
        except ImportError as error:
            raise InputError(
                f"{path}: expected RosettaSciIO to read {path.suffix} files, found none ({error}); pip install "
                "rosettasciio"
            ) from None
        self.check_memory(_KEY, (path.stat().st_size,), np.dtype(np.uint8))
        try:
            self._signals = list(reader.file_reader(str(path), lazy=False))
        except Exception as error:  # of any type: each reader has its own
            reason = " ".join(str(error).split())
            raise InputError(
                f"{path}: expected an intact file, found one that RosettaSciIO cannot read ({reason}); copy or export "
                "the file again"
            ) from error

    def has(self, key: str) -> bool:
        return key == _KEY

    def array(self, key: str) -> NDArray[Any]:
        return self.signal()[0]

    def energy(self) -> float | None:
        """The energy of the electrons in eV; files state it in keV, None if they do not."""
        for signal in self._signals:
            for instrument in ("TEM", "SEM"):
                node: Any = signal.get("metadata")
                for name in ("Acquisition_instrument", instrument, "beam_energy"):
                    node = node.get(name) if isinstance(node, Mapping) else None
                energy = positive(node)
                if energy is not None:
                    return energy * 1e3
        return None

    def signal(self) -> tuple[NDArray[Any], list[Mapping[str, Any]]]:
        """The only array of three or four axes, detector axes last, and its axes."""
        found = [signal for signal in self._signals if np.ndim(signal["data"]) in (3, 4)]
        if len(found) != 1:
            shapes = ", ".join(str(np.shape(signal["data"])) for signal in self._signals[:6]) or "none"
            self.fail(_KEY, "one array of three or four axes", shapes, "save it alone")
        array = self.check(_KEY, np.asarray(found[0]["data"]), "iuf", finite=False)
        axes = sorted(found[0]["axes"], key=lambda axis: int(axis.get("index_in_array") or 0))
        if any(axis.get("index_in_array") is None for axis in axes):
            axes = list(found[0]["axes"])
        scan = [k for k, axis in enumerate(axes) if axis.get("navigate")]
        if len(scan) == array.ndim - 2:
            order = [*scan, *(k for k in range(array.ndim) if k not in scan)]
            array, axes = array.transpose(order), [axes[k] for k in order]
        return np.ascontiguousarray(array), axes


def _step(axes: list[Mapping[str, Any]]) -> Step | None:
    """The steps of two axes (y, x)."""
    if len(axes) != 2 or any("scale" not in axis for axis in axes):
        return None
    unit = axes[0].get("units")
    return Step((float(axes[0]["scale"]), float(axes[1]["scale"])), unit if isinstance(unit, str) else "")


def _is_rosettasciio(content: Content) -> bool:
    return content.kind in ("other", "hdf5") and content.path.suffix.lower() in _MODULES


register(
    Format(
        "rosettasciio",
        "files that RosettaSciIO reads (.mib, .dm4, .hspy, .blo, .tvips)",
        tuple(_MODULES),
        _is_rosettasciio,
        read_rosettasciio,
        takes=("positions",),
        order=78,
    )
)
