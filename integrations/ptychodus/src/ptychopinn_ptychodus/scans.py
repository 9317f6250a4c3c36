# SPDX-License-Identifier: BSD-3-Clause
"""ptychodus' input of a reconstruction as a scan, and a result as its product, in one geometry.

The object's array, its pixel and its centre are the input's: a world coordinate x is at `(x - cx)/dx + (W - 1)/2`.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from ptychodus.api.object import Object
from ptychodus.api.probe import ProbeSequence
from ptychodus.api.probe_positions import ProbePosition, ProbePositionSequence
from ptychodus.api.product import LossValue, Product
from ptychodus.api.reconstruct import ReconstructInput

from ptychopinn.acquisition import Acquisition
from ptychopinn.errors import InputError
from ptychopinn.io.in_memory import on_canvas, scan_from_arrays
from ptychopinn.reconstruction import Reconstruction
from ptychopinn.scan import Scan

_log = logging.getLogger(__name__)


def scan_of(parameters: ReconstructInput) -> Scan:
    """The scan of an input; its pixel (0, 0) is the object's, and a varied object its truth.

    Raises:
        InputError: the patterns cannot be used, or not in this geometry.
    """
    product = parameters.product
    metadata, image = product.metadata, product.object_
    name = metadata.name or "ptychodus"
    if not metadata.far_field:
        raise InputError(f"{name}: expected a far-field experiment, found a near-field one")
    array = image.get_array()
    if not array.size:
        raise InputError(f"{name}: expected an object, whose pixels and centre say where the result goes, found none")
    try:
        geometry = image.get_geometry()
    except ValueError as error:  # ptychodus knows it if it knows energy, distance and detector
        raise InputError(f"{name}: expected an object with a pixel size and a centre, found: {error}") from None
    height, width = geometry.pixel_height_m, geometry.pixel_width_m
    if not height > 0 or abs(width / height - 1) > 1e-6:
        raise InputError(f"{name}: expected square object pixels, found {width:g} m wide and {height:g} m high")
    probes = product.probes.get_array()
    if not probes.size:
        raise InputError(f"{name}: expected a product with a probe, found none")
    if len(array) > 1:
        _log.warning("%s: the object has %d layers: the result will have one", name, len(array))
    if len(probes) > 1:
        _log.warning("%s: the probe varies along the scan: its first of %d is taken", name, len(probes))
    indexes = product.probe_positions.get_indexes()
    scan = scan_from_arrays(
        parameters.diffraction_patterns,
        np.column_stack(
            [
                geometry.map_probe_positions_to_object_y_px(product.probe_positions),
                geometry.map_probe_positions_to_object_x_px(product.probe_positions),
            ]
        ),
        probes[0],
        bad_pixels=parameters.bad_pixels,
        image=array[0] if len(array) == 1 else None,
        energy=metadata.photon_energy_eV or None,
        pixel_size=height,
        acquisition=Acquisition(
            distance=metadata.detector_distance_m or None,
            world_origin=(geometry.minimum_y_m + height / 2, geometry.minimum_x_m + width / 2),
        ),
        frame_indexes=indexes,
        name=name,
    )
    ends = scan.positions + scan.patch_size
    outside = ((scan.positions < -0.5) | (ends > np.array(array.shape[1:]) + 0.5)).any(1).sum()
    if ((ends <= 0) | (scan.positions >= array.shape[1:])).any(1).all():
        raise InputError(f"{name}: expected positions on the object, found all patches outside of it")
    if outside:
        _log.warning("%s: %d of %d patches reach beyond the object, and are cut off there", name, outside, scan.n)
    return scan


def product_of(result: Reconstruction, parameters: ReconstructInput, losses: Sequence[LossValue] = ()) -> Product:
    """The product of a result: its object on the input's array, with the probe and the positions that belong to it."""
    given = parameters.product
    image = given.object_
    probes, positions = given.probes, given.probe_positions
    if result.probe is not None:
        probes = ProbeSequence(result.probe[np.newaxis], None, probes.get_pixel_geometry())
    if result.positions is not None:
        positions = _moved(positions, result.positions, parameters)
    array = on_canvas(result, (image.height_px, image.width_px))
    return Product(
        metadata=given.metadata,
        probe_positions=positions,
        probes=probes,
        object_=Object(array, image.get_pixel_geometry(), image.get_center()),
        losses=list(losses),
    )


def start_of(scan: Scan) -> Reconstruction | None:
    """The input's object to begin a refinement with, in the power of the scan's probe; None where it is constant."""
    if scan.truth is None:
        return None
    weights = np.ones(scan.truth.shape, np.float32)
    # Where the probe is made stronger, the object has to be weaker: their product explains the patterns.
    factor = 1.0 if scan.decisions.probe_scale is None else scan.decisions.probe_scale.factor
    image = scan.truth / np.float32(factor)
    return Reconstruction(image, weights, (0.0, 0.0), probe=scan.probe)


def _moved(
    given: ProbePositionSequence, begins: NDArray[np.float64], parameters: ReconstructInput
) -> ProbePositionSequence:
    """The positions whose patches begin at these (n, 2) object pixels; the given ones where none has moved."""
    geometry = parameters.product.object_.get_geometry()
    middle = (parameters.diffraction_patterns.shape[-1] - 1) / 2
    y_px = geometry.map_probe_positions_to_object_y_px(given) - middle
    x_px = geometry.map_probe_positions_to_object_x_px(given) - middle
    moves = begins - np.column_stack([y_px, x_px])
    if np.abs(moves).max() < 1e-6:
        return given
    points = [
        ProbePosition(
            point.index,
            point.x_m + move[1] * geometry.pixel_width_m,
            point.y_m + move[0] * geometry.pixel_height_m,
            point.probe_photon_count,
        )
        for point, move in zip(given, moves, strict=True)
    ]
    return ProbePositionSequence(points)
