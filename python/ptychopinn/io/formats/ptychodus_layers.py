# SPDX-License-Identifier: BSD-3-Clause
"""The object of a product of ptychodus: its layers, in the order of the beam, and the distances between them."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ptychopinn._one_line import one_line
from ptychopinn.io.build import first_pixel, truth_of
from ptychopinn.io.geometry import one_size
from ptychopinn.io.hdf5 import Hdf5

#: Distances between layers: of release 1.7, and of those before, which have one for each layer.
_DISTANCES = ("object_layer_spacing_m", "object_layer_distance_m")

_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Layers:
    """An object in world coordinates; None where the file does not have it.

    Args:
        pixel_size: metres.
        image: (H, W) complex64, the product of the layers.
        origin: world coordinate (y, x) of its pixel (0, 0), metres.
        slices: (S, H, W) complex64, if there are several layers with distances.
        distances: (S - 1,) metres between them.
    """

    pixel_size: float | None = None
    image: NDArray[np.complex64] | None = None
    origin: tuple[float, float] | None = None
    slices: NDArray[np.complex64] | None = None
    distances: tuple[float, ...] = ()

    __repr__ = one_line


def layers_of(product: Hdf5) -> Layers:
    """Read the object of a product.

    Layers without distances are those of a sample of unknown thickness: their product alone is used, with a warning.

    Raises:
        InputError: the object has other axes than (L, H, W), or its pixels are not square.
    """
    if not product.has("object"):
        return Layers()
    layers = product.numeric("object", "iufc")
    layers = layers[np.newaxis] if layers.ndim == 2 else layers
    if layers.ndim != 3 or not layers.size:
        product.fail("object", "an object (L, H, W)", f"shape {layers.shape}")
    width, height = (product.attribute("object", f"pixel_{side}_m") for side in ("width", "height"))
    pixel_size = one_size(product, "object@pixel_width_m", width, height)
    centre = [product.attribute("object", f"center_{axis}_m") for axis in "yx"]
    if pixel_size is None or centre[0] is None or centre[1] is None:
        return Layers(pixel_size)
    origin = first_pixel((centre[0], centre[1]), pixel_size, layers.shape[1:])
    image = truth_of(product, "object", layers[0] if len(layers) == 1 else np.prod(layers, axis=0))
    distances = _distances(product, len(layers))
    slices = layers.astype(np.complex64) if distances else None
    return Layers(pixel_size, image, origin, slices, distances)


def _distances(product: Hdf5, number: int) -> tuple[float, ...]:
    """Metres between so many layers; none if the file does not have them."""
    if number == 1:
        return ()
    key = product.first(*_DISTANCES)
    values = np.zeros(0) if key is None else product.numeric(key, "iuf", finite=False).astype(np.float64).ravel()
    between = values[: number - 1]
    if len(values) in (number - 1, number) and np.isfinite(between).all() and (between > 0).all():
        return tuple(between.tolist())
    _log.warning(
        "%s: the object has %d layers without distances between them (%s has %s): their product is used, "
        "and the sample is thin; slice_distances (--slices) states them",
        *(product.path, number, key or _DISTANCES[0], values.tolist()),
    )
    return ()
