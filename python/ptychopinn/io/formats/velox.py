# SPDX-License-Identifier: BSD-3-Clause
"""Series of diffraction patterns in EMD files of Velox (Thermo Fisher).

An image is a group `Data/Image/ID` with `Data` (h, w, n), and `Metadata`, whose columns are JSON texts of the frames.
Numbers there are texts. A series has no positions of a scan: they are a table, or follow from shape and step.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptychopinn.acquisition import positive
from ptychopinn.io.build import Contents, assemble
from ptychopinn.io.electrons import ELECTRONS, Step, electron_options, object_pixel
from ptychopinn.io.formats.arrays import table_beside
from ptychopinn.io.hdf5 import Hdf5
from ptychopinn.io.options import ReadOptions
from ptychopinn.io.registry import Format, register
from ptychopinn.io.sniff import Content, content_of
from ptychopinn.scan import Scan
from ptychopinn.storage.stored import StoredPatterns, left_on_disk

_IMAGES, _DATA = "Data/Image/", "/Data"


def read_velox(path: Path, options: ReadOptions) -> Scan:
    """Read a series of patterns.

    Args:
        path: the file, with one image of several frames.
        options: from the caller; `patterns` names one of several images.

    Raises:
        InputError: the file cannot be used; the error has the file, the key, what was expected and what was found.
    """
    with Hdf5(path, "an EMD file of Velox") as file:
        key = options.patterns or _series(file, content_of(path))
        stored = left_on_disk(lambda: StoredPatterns.hdf5(path, key, axis=2), path, options.memory)
        patterns: NDArray[Any] | StoredPatterns
        if stored is None:
            array = file.numeric(key, "iuf", ndim=3, finite=False)
            patterns = np.ascontiguousarray(np.moveaxis(array, -1, 0))
        else:
            patterns = stored
        metadata = _metadata(file, f"{key.removesuffix(_DATA)}/Metadata")
        energy = _number(metadata, "Optics", "AccelerationVoltage")
        sides = [_number(metadata, "BinaryResult", "PixelSize", name) for name in ("height", "width")]
        step = None
        if sides[0] is not None and sides[1] is not None:
            step = Step((sides[0], sides[1]), str(_entry(metadata, "BinaryResult", "PixelUnitX") or ""))
        stated = electron_options(file, options)
        where = f"{key}: PixelSize of its Metadata"
        contents = Contents(
            file=file,
            key=key,
            patterns=patterns,
            table=table_beside(path),
            energy=energy,
            pixel_size=object_pixel(file, where, step, patterns.shape[-1], stated, energy),
            name=path.stem,
            experiment=ELECTRONS,
        )
        return assemble(contents, stated)


def _images(content: Content) -> list[str]:
    return sorted(
        key for key in content.cubes if key.startswith(_IMAGES) and key.endswith(_DATA) and key.count("/") == 3
    )


def _series(file: Hdf5, content: Content) -> str:
    """The path of the only image of several frames."""
    images = [key for key in _images(content) if file.dataset(key).shape[2] > 1]
    if len(images) != 1:
        found = ", ".join(images[:4]) or "none"
        file.fail("Data/Image", "one image of several frames", found, "state patterns= (--patterns PATH_IN_FILE)")
    return images[0]


def _metadata(file: Hdf5, key: str) -> Mapping[str, Any]:
    """The JSON object of the first frame; empty if there is none."""
    if not file.has(key):
        return {}
    columns = file.numeric(key, "u", ndim=2)
    text = columns[:, 0].astype(np.uint8).tobytes().split(b"\0", 1)[0] if columns.size else b"{}"
    try:
        values = json.loads(text.decode("utf-8", errors="replace"))
    except ValueError:
        values = None
    if not isinstance(values, dict):
        file.fail(key, "a JSON object", "other text", "export the file again")
    return values


def _entry(metadata: Mapping[str, Any], *names: str) -> Any:
    node: Any = metadata
    for name in names:
        node = node.get(name) if isinstance(node, Mapping) else None
    return node


def _number(metadata: Mapping[str, Any], *names: str) -> float | None:
    """A positive number, as a number or as text; None for anything else."""
    try:
        return positive(float(_entry(metadata, *names)))
    except (TypeError, ValueError):
        return None


def _is_velox(content: Content) -> bool:
    return content.kind == "hdf5" and bool(_images(content))


register(
    Format(
        "velox",
        "series of Velox, EMD",
        (),
        _is_velox,
        read_velox,
        takes=("positions", "patterns"),
        order=73,
    )
)
