# SPDX-License-Identifier: BSD-3-Clause
"""Build a Scan from the contents of a file: the steps that all formats share.

The reader of a format passes patterns, positions, probe and geometry in the coordinates of the file and in SI units
(:class:`Contents`). :func:`assemble` determines counts, pixel size, origin, probe scale and truth by the same rules for
every format.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptychopinn.acquisition import Acquisition, energy_of_wavelength, finite_pair, positive, wavelength_of
from ptychopinn.decisions import Decision, Decisions
from ptychopinn.errors import InputError, not_found
from ptychopinn.io.calibration import calibrated
from ptychopinn.io.contents import Contents as Contents
from ptychopinn.io.counts import counts_of
from ptychopinn.io.experiments import merged, with_fly_path
from ptychopinn.io.fields import OpenFile
from ptychopinn.io.framing import binned_counts, fitted, size_of, squared
from ptychopinn.io.geometry import check_metres, own_pixel_size, resolved
from ptychopinn.io.hdf5 import Frames
from ptychopinn.io.options import MEASUREMENTS, ReadOptions
from ptychopinn.io.positions import with_positions
from ptychopinn.io.probe import PROBE_UNITS, near_transfer, probe_of
from ptychopinn.io.square_pixels import with_square_pixels
from ptychopinn.io.stored_experiments import with_probe
from ptychopinn.scan import Scan

#: Largest difference between the extent of a truth and of the same object at the scan's pixel size, in object pixels.
_LARGEST_MISMATCH = 0.1

_log = logging.getLogger(__name__)


def assemble(contents: Contents, options: ReadOptions) -> Scan:
    """Build a scan from the contents of a file, and record every decision with its reason.

    If the file has an object, its pixel (0, 0) is the scan's; otherwise positions are shifted so that the smallest is 0
    on each axis. `acquisition.world_origin` is the world coordinate of that pixel. The truth is omitted, and
    `decisions.truth` records it, if it is constant, or if the pixel size of the scan differs from that of the truth.

    Args:
        contents: from the reader of a format.
        options: from the caller; they override the file.

    Returns:
        The scan.

    Raises:
        InputError: one sentence with the file, the key, what was expected and what was found.
    """
    file = contents.file
    if contents.probe_layout is not None and options.probe is None:
        decisions = replace(contents.record.decisions, probe_layout=contents.probe_layout)
        contents.record = replace(contents.record, decisions=decisions)
    if file.growing:
        _read_so_far(contents)
    if contents.stated not in (None, *MEASUREMENTS[1:]):
        file.fail(f"{contents.key}@measurement", "'amplitude' or 'counts'", repr(contents.stated))
    contents = calibrated(with_positions(contents, options), options)
    contents.experiment = merged(contents, options)
    contents, options = with_square_pixels(contents, options)
    contents, options = squared(contents, options)
    shape = contents.patterns.shape
    size = size_of(file, contents.key, shape, options) // options.bin
    mask = None if options.bad_pixels is None else _stated_mask(options.bad_pixels, shape[1:], size)
    if mask is not None and mask.shape == shape[1:]:
        contents.bad_pixels = _combined(contents.bad_pixels, mask, options)
        mask = None
    contents, options = fitted(contents, options)
    n, decisions = shape[0], contents.record.decisions
    acquisition = contents.acquisition
    experiment, energy = contents.experiment, contents.energy
    if contents.photon_energy and experiment.radiation != "photon" and positive(energy) is not None:
        assert energy is not None
        energy = energy_of_wavelength(wavelength_of(energy), experiment.radiation)
    stated = {
        "energy": energy,
        "distance": acquisition.distance,
        "detector_pixel_size": acquisition.detector_pixel_size,
        "pixel_size": contents.pixel_size,
    }
    needed_for = "for positions in metres" if contents.world is not None else None
    source = acquisition.source_distance or contents.record.acquisition.source_distance
    found = resolved(stated, file, options, size, needed_for, experiment, source)
    experiment = replace(experiment, fresnel_number=found["fresnel_number"])
    pixel_size, origin = found["pixel_size"], acquisition.world_origin
    middle, truth = (size - 1) / 2, contents.truth
    if truth is not None and _is_constant(truth):
        truth, known = None, decisions.truth  # of a scan whose truth was omitted, a writer has put a placeholder
        decisions = replace(decisions, truth=known or Decision("omitted", "it is constant"))
    if contents.world is not None:
        assert pixel_size is not None
        if contents.positions_without_unit is not None:
            check_metres(file, contents.positions_without_unit, contents.world, pixel_size * size)
        if origin is None:
            origin = finite_pair(contents.world.min(axis=0) - pixel_size * middle)
        positions = (contents.world - np.asarray(origin)) / pixel_size - middle
        own = own_pixel_size(stated, size, experiment) or pixel_size
        if truth is not None and abs(own / pixel_size - 1) * max(truth.shape) > _LARGEST_MISMATCH:
            truth = None
            reason = f"its pixels are {own:.6g} m, those of the scan as stated {pixel_size:.6g} m"
            decisions = replace(decisions, truth=Decision("omitted", reason))
            _log.warning("%s: the known object is omitted: %s", file.path, reason)
    else:
        assert contents.pixels is not None
        positions = contents.pixels - middle
    if len(positions) != n:
        file.fail(contents.key, f"{len(positions)} patterns, one for each position", f"{n}; state positions=")
    counts, measurement = counts_of(
        file,
        contents.key,
        contents.patterns,
        contents.bad_pixels,
        options.measurement,
        contents.stated,
        contents.default,
        options.memory,
    )
    counts, bad = binned_counts(counts, contents.bad_pixels, options.bin)
    if mask is not None:
        bad = _combined(bad, mask, options)
    if options.changes_values:
        measurement = replace(measurement, reason="gain= and offset= make counts of the values")
    decisions = replace(decisions, measurement=measurement)
    transfer = near_transfer(size, experiment, pixel_size, found["energy"])
    probe, decisions = probe_of(
        file, contents.probe, contents.scale_known, counts, bad, options, decisions, transfer, pixel_size
    )
    experiment = with_probe(experiment, options, 1.0 if contents.scale_known is not None else _factor(decisions))
    indexes = contents.frame_indexes
    experiment = with_fly_path(experiment, positions, options)
    try:
        return Scan(
            counts=counts,
            positions=np.ascontiguousarray(positions, np.float64),
            probe=probe,
            truth=truth,
            bad_pixels=bad,
            pixel_size=pixel_size,
            energy=found["energy"],
            name=contents.name or file.path.stem,
            metadata=contents.record.metadata,
            acquisition=Acquisition(found["distance"], found["detector_pixel_size"], origin, found["source_distance"]),
            orientation=contents.record.orientation,
            frame_indexes=None if indexes is None or len(indexes) != n else indexes,
            decisions=decisions,
            experiment=experiment,
        )
    except InputError as error:
        raise InputError(f"{file.path}: {error}") from error


def _read_so_far(contents: Contents) -> None:
    """Omit patterns that have no position yet, and positions that have no pattern yet, in a file that grows."""
    positions = contents.world if contents.world is not None else contents.pixels
    if positions is None:
        return
    n, known = contents.patterns.shape[0], len(positions)
    if n == known or not isinstance(contents.patterns, Frames):
        return
    number = min(n, known)
    contents.patterns = contents.patterns.first(number)
    contents.experiment = contents.experiment.subset(np.arange(number))
    contents.world = None if contents.world is None else contents.world[:number]
    contents.pixels = None if contents.pixels is None else contents.pixels[:number]
    if contents.frame_indexes is not None:
        contents.frame_indexes = contents.frame_indexes[:number]
    _log.warning(
        "%s: the file is being written, with %d patterns and %d positions so far: the first %d are read",
        *(contents.file.path, n, known, number),
    )


def _factor(decisions: Decisions) -> float:
    return 1.0 if decisions.probe_scale is None else decisions.probe_scale.factor


def _stated_mask(stated: NDArray[Any] | str | Path, shape: tuple[int, ...], size: int) -> NDArray[np.bool_]:
    """The caller's mask, of the detector in the file or of the patterns as they are read."""
    where, mask = "bad_pixels", stated
    if isinstance(stated, (str, Path)):
        where = str(stated)
        try:
            mask = np.load(stated, allow_pickle=False)
        except FileNotFoundError:
            raise not_found(stated) from None
        except (OSError, ValueError, EOFError) as error:
            raise InputError(
                f"{where}: expected an .npy file of a mask, found another or a damaged file; "
                "inspect --write-mask writes one"
            ) from error
    if not isinstance(mask, np.ndarray) or mask.dtype.kind not in "biu" or mask.shape not in (shape, (size, size)):
        found = f"{mask.dtype} of shape {mask.shape}" if isinstance(mask, np.ndarray) else type(mask).__name__
        either = "" if shape == (size, size) else f" or {size, size}"
        raise InputError(
            f"{where}: expected a mask of shape {shape}{either}, found {found}; `ptychopinn inspect --mask` writes one"
        )
    return mask.astype(np.bool_)


def _combined(known: NDArray[np.bool_] | None, mask: NDArray[np.bool_], options: ReadOptions) -> NDArray[np.bool_]:
    """The caller's mask combined with the file's."""
    mask = mask if known is None or known.shape != mask.shape else mask | known
    if mask.all():
        where = options.bad_pixels if isinstance(options.bad_pixels, (str, Path)) else "bad_pixels"
        raise InputError(f"{where}: expected at least one good pixel, found bad pixels only; True marks bad pixels")
    return mask


def bad_pixels_of(file: OpenFile, key: str, array: NDArray[Any] | None = None) -> NDArray[np.bool_] | None:
    """The mask (h, w) at `key`, or `array` as read from there; None if there is no mask or no bad pixel."""
    if array is None:
        if not file.has(key):
            return None
        array = file.array(key)
    mask = file.check(key, array, "biu")
    if mask.ndim != 2:  # its sides are compared with those of the patterns when the scan is built
        file.fail(key, "a mask with two axes", f"shape {mask.shape}")
    return mask.astype(np.bool_) if mask.any() else None


def truth_of(file: OpenFile, key: str, array: NDArray[Any]) -> NDArray[np.complex64] | None:
    """The object (H, W) at `key` as complex64, also from (1, H, W) or (H, W, 1); None if it is empty."""
    while array.ndim > 2 and 1 in (array.shape[0], array.shape[-1]):
        array = array[0] if array.shape[0] == 1 else array[..., 0]
    truth = file.check(key, array, "iufc", ndim=2)
    return truth.astype(np.complex64) if truth.size else None


def _is_constant(truth: NDArray[np.complex64]) -> bool:
    """Whether an object is the same everywhere, which marks a placeholder."""
    return bool(np.abs(truth - truth.flat[0]).max() <= 1e-6 * np.abs(truth.flat[0]))


def origin_of(file: OpenFile, group: str) -> tuple[float, float] | None:
    """World coordinate (y, x) of the scan's pixel (0, 0) in metres, as this package writes it to `group`, or None."""
    key = f"{group}/origin_m"
    if not file.has(key):
        return None
    origin = file.numeric(key, "f").astype(np.float64)
    if origin.shape != (2,):
        file.fail(key, "two numbers (y, x) in metres", f"shape {origin.shape}")
    return finite_pair(origin)


def first_pixel(centre: Sequence[float], pixel_size: float, shape: Sequence[int]) -> tuple[float, float] | None:
    """Centre of pixel (0, 0), (y, x) in metres, of an image of shape (H, W) with this centre."""
    return finite_pair(np.asarray(centre, np.float64) - pixel_size * (np.asarray(shape, np.float64) - 1) / 2)


def units_reason(units: str | None, key: str, file: OpenFile) -> str | None:
    """The reason why a probe with this `probe_units` is in sqrt(counts); None if the file states no units."""
    if units is None:
        return None
    if units != PROBE_UNITS:
        file.fail(key, f"'{PROBE_UNITS}' or no such key", repr(units))
    return "the key 'probe_units' is sqrt_counts"
