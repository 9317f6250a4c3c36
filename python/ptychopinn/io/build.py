# SPDX-License-Identifier: BSD-3-Clause
"""Build a Scan from the contents of a file: the steps that all formats share.

The reader of a format passes patterns, positions, probe and geometry in the coordinates of the file and in SI units
(:class:`Contents`). :func:`assemble` determines counts, pixel size, origin, probe scale and truth by the same rules for
every format.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptychopinn.acquisition import Acquisition, finite_pair
from ptychopinn.decisions import Decision
from ptychopinn.errors import InputError, not_found
from ptychopinn.io.counts import RawPatterns, counts_of
from ptychopinn.io.fields import OpenFile
from ptychopinn.io.geometry import check_metres, own_pixel_size, resolved
from ptychopinn.io.hdf5 import Frames
from ptychopinn.io.options import MEASUREMENTS, ReadOptions
from ptychopinn.io.probe import PROBE_UNITS, probe_of
from ptychopinn.records import ScanRecord
from ptychopinn.scan import Scan

#: Largest difference between the extent of a truth and of the same object at the scan's pixel size, in object pixels.
_LARGEST_MISMATCH = 0.1

_log = logging.getLogger(__name__)


@dataclass
class Contents:
    """The contents of a scan file.

    Args:
        file: the open file.
        key: of the patterns.
        patterns: (n, N, N) as stored.
        world: (n, 2) world coordinates (y, x) of the beam centre in metres; None if `pixels` is set.
        positions_without_unit: path of `world` in the file, if it is taken to be in metres for lack of a unit.
        pixels: (n, 2) beam centre (y, x) in object pixels, relative to the object's pixel (0, 0), which is also the
            scan's; None if `world` is set.
        energy: photon energy in the file, eV.
        pixel_size: of the object in the file, metres.
        acquisition: geometry in the file; `world_origin` is the world coordinate of the object's pixel (0, 0), None if
            the file has no object.
        probe: (M, N, N), None if the file has none.
        probe_layout: how the probe was arranged, if its axes or its type leave a choice.
        scale_known: the reason why the probe is known to be in sqrt(counts); None if it is not known.
        bad_pixels: (N, N), True at pixels to ignore.
        truth: (H, W), the known object; None if there is none.
        stated: "amplitude" or "counts" if the file states which it holds.
        default: "amplitude" or "counts", used if neither file nor values decide.
        name: of the scan.
        frame_indexes: (n,) indexes of the patterns, see :class:`Scan`.
        record: decisions, orientation and metadata that this package wrote to the file.
    """

    file: OpenFile
    key: str
    patterns: RawPatterns
    world: NDArray[np.float64] | None = None
    positions_without_unit: str | None = None
    pixels: NDArray[np.float64] | None = None
    energy: float | None = None
    pixel_size: float | None = None
    acquisition: Acquisition = field(default_factory=Acquisition)
    probe: NDArray[np.complex64] | None = None
    probe_layout: Decision | None = None
    scale_known: str | None = None
    bad_pixels: NDArray[np.bool_] | None = None
    truth: NDArray[np.complex64] | None = None
    stated: str | None = None
    default: str = "counts"
    name: str = ""
    frame_indexes: NDArray[np.int64] | None = None
    record: ScanRecord = field(default_factory=ScanRecord)


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
    file, decisions = contents.file, contents.record.decisions
    if contents.probe_layout is not None and options.probe is None:
        decisions = replace(decisions, probe_layout=contents.probe_layout)
    if file.growing:
        _read_so_far(contents)
    n, size = contents.patterns.shape[:2]
    if contents.stated not in (None, *MEASUREMENTS[1:]):
        file.fail(f"{contents.key}@measurement", "'amplitude' or 'counts'", repr(contents.stated))
    if options.bad_pixels is not None:
        contents.bad_pixels = _with_stated(contents.bad_pixels, options.bad_pixels, size)
    acquisition = contents.acquisition
    stated = {
        "energy": contents.energy,
        "distance": acquisition.distance,
        "detector_pixel_size": acquisition.detector_pixel_size,
        "pixel_size": contents.pixel_size,
    }
    found = resolved(stated, file, options, size, "for positions in metres" if contents.world is not None else None)
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
        own = own_pixel_size(stated, size) or pixel_size
        if truth is not None and abs(own / pixel_size - 1) * max(truth.shape) > _LARGEST_MISMATCH:
            truth = None
            reason = f"its pixels are {own:.6g} m, those of the scan as stated {pixel_size:.6g} m"
            decisions = replace(decisions, truth=Decision("omitted", reason))
            _log.warning("%s: the known object is omitted: %s", file.path, reason)
    else:
        assert contents.pixels is not None
        positions = contents.pixels - middle
    if len(positions) != n:
        file.fail(contents.key, f"{len(positions)} patterns, one for each position", f"{n}")
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
    decisions = replace(decisions, measurement=measurement)
    probe, decisions = probe_of(
        file, contents.probe, contents.scale_known, counts, contents.bad_pixels, options, decisions
    )
    indexes = contents.frame_indexes
    try:
        return Scan(
            counts=counts,
            positions=np.ascontiguousarray(positions, np.float64),
            probe=probe,
            truth=truth,
            bad_pixels=contents.bad_pixels,
            pixel_size=pixel_size,
            energy=found["energy"],
            name=contents.name or file.path.stem,
            metadata=contents.record.metadata,
            acquisition=Acquisition(found["distance"], found["detector_pixel_size"], origin),
            orientation=contents.record.orientation,
            frame_indexes=None if indexes is None or len(indexes) != n else indexes,
            decisions=decisions,
        )
    except InputError as error:
        raise InputError(f"{file.path}: {error}") from error


def _read_so_far(contents: Contents) -> None:
    """Omit patterns that have no position yet, and positions that have no pattern yet, in a file that grows."""
    positions = contents.world if contents.world is not None else contents.pixels
    assert positions is not None
    n, known = contents.patterns.shape[0], len(positions)
    if n == known or not isinstance(contents.patterns, Frames):
        return
    number = min(n, known)
    contents.patterns = contents.patterns.first(number)
    contents.world = None if contents.world is None else contents.world[:number]
    contents.pixels = None if contents.pixels is None else contents.pixels[:number]
    if contents.frame_indexes is not None:
        contents.frame_indexes = contents.frame_indexes[:number]
    _log.warning(
        "%s: the file is being written, with %d patterns and %d positions so far: the first %d are read",
        *(contents.file.path, n, known, number),
    )


def _with_stated(known: NDArray[np.bool_] | None, stated: NDArray[Any] | str | Path, size: int) -> NDArray[np.bool_]:
    """The caller's mask combined with the file's."""
    where, mask = "bad_pixels", stated
    if isinstance(stated, (str, Path)):
        where = str(stated)
        try:
            mask = np.load(stated, allow_pickle=False)
        except FileNotFoundError:
            raise not_found(stated) from None
        except (OSError, ValueError, EOFError) as error:
            raise InputError(f"{where}: expected an .npy file of a mask, found another or a damaged file") from error
    if not isinstance(mask, np.ndarray) or mask.dtype.kind not in "biu" or mask.shape != (size, size):
        found = f"{mask.dtype} of shape {mask.shape}" if isinstance(mask, np.ndarray) else type(mask).__name__
        raise InputError(f"{where}: expected a mask of shape {size, size}, found {found}")
    mask = mask.astype(np.bool_)
    if known is not None:
        mask = mask | known
    if mask.all():
        raise InputError(f"{where}: expected at least one good pixel, found bad pixels only")
    return mask


def bad_pixels_of(file: OpenFile, key: str, size: int, array: NDArray[Any] | None = None) -> NDArray[np.bool_] | None:
    """The mask at `key`, or `array` as read from there; None if there is no mask or no bad pixel."""
    if array is None:
        if not file.has(key):
            return None
        array = file.array(key)
    mask = file.check(key, array, "biu")
    if mask.shape != (size, size):
        file.fail(key, f"shape {size, size}", f"{mask.shape}")
    if mask.all():
        file.fail(key, "at least one good pixel", "bad pixels only")
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
