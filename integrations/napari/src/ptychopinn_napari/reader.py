# SPDX-License-Identifier: BSD-3-Clause
"""The reader of reconstructions for napari: amplitude, phase and what else a result has, as layers in micrometres."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numpy.typing import NDArray

from ptychopinn.io.reconstructions import is_reconstruction
from ptychopinn.plotting.reconstructions import shown_images
from ptychopinn.reconstruction import Reconstruction

#: Data, options and kind of a layer, as napari takes them.
Layer = tuple[NDArray[Any], dict[str, Any], str]


def reader_of(path: str | list[str]) -> Callable[[str | list[str]], list[Layer]] | None:
    """The reader of a file, or None if it is not a reconstruction.

    Args:
        path: the file, or a list of files, all of which must be reconstructions.
    """
    files = [path] if isinstance(path, str) else path
    return read if files and all(is_reconstruction(file) for file in files) else None


def read(path: str | list[str]) -> list[Layer]:
    """Read reconstructions as layers.

    Args:
        path: the file, or a list of files.

    Returns:
        Layers of amplitude and phase; hidden ones of illumination, uncertainty and error map; the patterns' centres.

    Raises:
        InputError: a file is damaged.
    """
    return [
        layer for file in ([path] if isinstance(path, str) else path) for layer in _layers(Reconstruction.load(file))
    ]


def _layers(result: Reconstruction) -> list[Layer]:
    unit = 1.0 if result.pixel_size is None else 1e6 * result.pixel_size
    images, _, _ = shown_images(result)
    place = {
        "scale": (unit, unit),
        "translate": (unit * result.origin[0], unit * result.origin[1]),
        "metadata": {"unit": "px" if result.pixel_size is None else "µm", "origin_px": result.origin},
    }
    layers: list[Layer] = []
    for image in images:
        options = {"name": image.label, "colormap": image.colour_map, "contrast_limits": image.limits}
        shown = image.name in ("amplitude", "phase")
        layers.append((image.values, {**place, **options, "visible": shown}, "image"))
    layers.append((result.weights, {**place, "name": "illumination", "visible": False}, "image"))
    if result.positions is not None:
        half = 0 if result.probe is None else result.probe.shape[-1] // 2
        centres = unit * (result.positions + half)
        points = {"name": "patterns", "size": 2 * unit, "visible": False, "metadata": place["metadata"]}
        layers.append((centres, points, "points"))
    return layers
