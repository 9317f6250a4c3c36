# SPDX-License-Identifier: BSD-3-Clause
"""Reconstruction of images that exceed memory, in parts.

Steps and results are those of :func:`ptychopinn.inference.predict.reconstruct`, up to rounding. The image is written to
an HDF5 file, which :class:`~ptychopinn.reconstruction.Reconstruction` reads completely, or h5py in parts.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from ptycho_ext import CanvasGeometry
from ptychopinn.config import Config
from ptychopinn.errors import InputError
from ptychopinn.inference.batches import counts_on
from ptychopinn.inference.combine import average, phase_product, unit_phases
from ptychopinn.inference.predict import facts, groups_to_predict, predict_streamed, prepare
from ptychopinn.inference.pretrained import first_network
from ptychopinn.io.reconstructions import check_parts_path, save_in_parts
from ptychopinn.models import PtychoModel
from ptychopinn.runtime.devices import resolve_device
from ptychopinn.runtime.memory import fits_in_memory
from ptychopinn.runtime.process_settings import process_settings
from ptychopinn.scan import Scan
from ptychopinn.stitching.accumulator import Accumulator

_ROWS = 64 << 20  # bytes of the image handled at a time
_ROWS_MULTIPLE = 256  # chunks of the file are then written once
#: Bytes of averaging images in memory for a pixel, and of each one more image.
_AVERAGED, _EACH = 64, 16


def is_large(scan: Scan, views: int = 1) -> bool:
    """Whether the image of a scan, averaged over `views` predictions, needs :func:`reconstruct_to_file`."""
    shape = CanvasGeometry.from_positions(scan.positions, scan.patch_size).shape
    return not fits_in_memory(math.prod(shape) * (_AVERAGED + _EACH * views))


def reconstruct_to_file(
    model: PtychoModel | Sequence[PtychoModel] | None,
    scan: Scan,
    path: str | Path,
    config: Config | None = None,
    device: str | torch.device = "auto",
    scratch: str | Path | None = None,
    accept: str | Collection[str] = (),
) -> tuple[int, int]:
    """Reconstruct the object of a scan in bounded memory, for any number of patterns and any size of the object.

    Args:
        model: a trained model, or several whose results are averaged; None: the pretrained network of the package.
        scan: the scan; its patterns must have the model's size.
        config: sections ``data`` and ``inference`` are used; None: the defaults.
        device: for the prediction, "auto": a GPU if there is one.
        path: the reconstruction to write, ``.h5`` or ``.hdf5``.
        scratch: a folder for temporary files, about 8 bytes for a pixel of all group canvases and 16 bytes for a pixel
            of each image; none: that of `path`.
        accept: keys of problems of the scan to accept, or "all", see :func:`ptychopinn.check_scan`.

    Returns:
        (H, W) of the object.

    Raises:
        InputError: as for :func:`~ptychopinn.inference.predict.reconstruct`; another suffix; or too little space in
            `scratch`.
    """
    config, path = config or Config(), Path(path)
    check_parts_path(path)  # before hours of prediction
    with process_settings(config.execution):
        return _reconstruct_to_file(model, scan, path, config, resolve_device(device), scratch, accept)


def _reconstruct_to_file(
    model: PtychoModel | Sequence[PtychoModel] | None,
    scan: Scan,
    path: Path,
    config: Config,
    device: torch.device,
    scratch: str | Path | None,
    accept: str | Collection[str],
) -> tuple[int, int]:
    network = None if model is not None else first_network(scan, config, accept)
    if network is not None:
        model, config = network.model, network.config
    assert model is not None
    if config.inference.uncertainty == "bootstrap":
        raise InputError(
            f"{scan.name}: expected inference.uncertainty none, overlaps or ensemble for an image in parts, found "
            "bootstrap, whose replicas are aligned with the image in memory; state one of these, or reconstruct a "
            "region: `ptychopinn subset SCAN REGION --clusters 1 --n 10000`, in Python Scan.subset"
        )
    views, refined, probe = prepare(model, scan, config, device, accept)
    folder = path.parent if scratch is None else Path(scratch)
    folder.mkdir(parents=True, exist_ok=True)
    counts = counts_on(device, refined)
    streamed = []
    for member, turn in views:
        groups = groups_to_predict(member, refined, config)
        streamed.append(predict_streamed(member, groups, config, device, turn, probe, folder, counts))
    images = [one.average for one in streamed]
    height, width = (min(image.geometry.shape[axis] for image in images) for axis in (0, 1))
    shape = (height, width)
    geometry = images[0].geometry
    metadata = facts(scan, config, sum(i.predicting for i in streamed), sum(i.stitching for i in streamed))
    if network is not None:
        metadata |= network.metadata(lambda box: images[0].mean(box).image, geometry, scan, probe)
    save_in_parts(
        path,
        shape,
        _averaged(images, shape, config.inference.uncertainty),
        origin=(float(geometry.origin[0]), float(geometry.origin[1])),
        probe=probe.numpy(),
        positions=refined.positions,
        pixel_size=scan.pixel_size,
        metadata=metadata,
        acquisition=scan.acquisition,
        orientation=scan.orientation,
        experiment=scan.experiment,
    )
    return shape


def _averaged(
    images: Sequence[Accumulator], shape: tuple[int, int], uncertainty: str
) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
    """Blocks of rows of the average of images, after their phases were determined."""
    boxes = [(rows, slice(0, shape[1])) for rows in _blocks_of_rows(shape)]
    products = [torch.zeros((), dtype=torch.complex64, device="cpu") for _ in images]
    if len(images) > 1:
        for box in boxes:
            parts = [image.mean(box) for image in images]
            products = [p + phase_product(part, parts[0]) for p, part in zip(products, parts, strict=True)]
    phases = unit_phases(products)
    for box in boxes:
        mean, weights, spread = average([image.mean(box) for image in images], phases, uncertainty)
        rows = {"object": mean.numpy(), "weights": weights.numpy()}
        yield box[0].start, rows if spread is None else rows | {"uncertainty": spread.numpy()}


def _blocks_of_rows(shape: tuple[int, int]) -> Iterator[slice]:
    """Blocks of rows of an image (H, W) that are processed at a time."""
    rows = max(_ROWS_MULTIPLE, _ROWS // (16 * shape[1]) // _ROWS_MULTIPLE * _ROWS_MULTIPLE)
    return (slice(start, min(start + rows, shape[0])) for start in range(0, shape[0], rows))
