# SPDX-License-Identifier: BSD-3-Clause
"""From what a file says to a Scan: the steps that every format shares.

A reader of a format finds patterns, places, probe and geometry and hands them over in the file's frame and SI units
(:class:`Contents`); counts, pixels, the origin, the probe's scale and the truth are then decided here, the same way for
all of them.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptychopinn.acquisition import Acquisition, pair_of_numbers
from ptychopinn.decisions import Decision
from ptychopinn.errors import InputError, not_found
from ptychopinn.io.counts import RawPatterns, counts_of
from ptychopinn.io.fields import Source
from ptychopinn.io.geometry import own_pixel_size, resolved
from ptychopinn.io.options import MEASUREMENTS, ReadOptions
from ptychopinn.io.probe import PROBE_UNITS, probe_of
from ptychopinn.records import ScanRecord
from ptychopinn.scan import Scan

#: Object pixels by which a truth may be stretched against the positions, over all of it.
_STRETCH = 0.1

_log = logging.getLogger(__name__)


@dataclass
class Contents:
    """What a file says about a scan.

    Args:
        source: the open file.
        key: where its patterns stand.
        patterns: (n, N, N) as stored.
        world: (n, 2) metres (y, x), where the middle of the beam was in the world; or None with `pixels`.
        pixels: (n, 2) the same in pixels of the object, whose pixel (0, 0) is the scan's; or None with `world`.
        energy: eV, as the file has it.
        pixel_size: metres per pixel of the file's object.
        acquisition: as the file has it; its origin is the world coordinate of the object's pixel (0, 0), None where the
            file has no object.
        probe: (M, N, N), if it has one.
        scale_known: why the probe is in sqrt(counts), if it is known to be.
        bad_pixels: (N, N), True where a pixel is to be ignored.
        truth: the known object, if any.
        stated: what the file itself says its patterns are.
        default: what its format holds where nothing else decides.
        name: of the scan.
        frame_indexes: of the patterns, see :class:`Scan`.
        record: what our own writer recorded in the file: decisions, orientation and metadata to keep.
    """

    source: Source
    key: str
    patterns: RawPatterns
    world: NDArray[np.float64] | None = None
    pixels: NDArray[np.float64] | None = None
    energy: float | None = None
    pixel_size: float | None = None
    acquisition: Acquisition = field(default_factory=Acquisition)
    probe: NDArray[np.complex64] | None = None
    scale_known: str | None = None
    bad_pixels: NDArray[np.bool_] | None = None
    truth: NDArray[np.complex64] | None = None
    stated: str | None = None
    default: str = "counts"
    name: str = ""
    frame_indexes: NDArray[np.int64] | None = None
    record: ScanRecord = field(default_factory=ScanRecord)


def assemble(contents: Contents, options: ReadOptions) -> Scan:
    """The scan that a file's contents make, with every decision and its reason.

    The scan's pixel (0, 0) is that of the file's object where it has one; else positions are shifted so that the
    smallest is 0 on either axis. `acquisition.world_origin` keeps where that is in the world. A truth is omitted where
    positions in metres are scaled by another pixel size than its own; `decisions.truth` records it.

    Raises:
        InputError: one sentence with the file, the key, what was expected and what was found.
    """
    source, decisions = contents.source, contents.record.decisions
    n, size = contents.patterns.shape[:2]
    if contents.stated not in (None, *MEASUREMENTS[1:]):
        source.fail(f"{contents.key}@measurement", "'amplitude' or 'counts'", repr(contents.stated))
    if options.bad_pixels is not None:
        contents.bad_pixels = _with_stated(contents.bad_pixels, options.bad_pixels, size)
    acquisition = contents.acquisition
    stated = {
        "energy": contents.energy,
        "distance": acquisition.distance,
        "detector_pixel_size": acquisition.detector_pixel_size,
        "pixel_size": contents.pixel_size,
    }
    found = resolved(stated, source, options, size, "for positions in metres" if contents.world is not None else None)
    pixel_size, origin = found["pixel_size"], acquisition.world_origin
    middle, truth = (size - 1) / 2, contents.truth
    if contents.world is not None:
        assert pixel_size is not None
        if origin is None:
            origin = pair_of_numbers(contents.world.min(axis=0) - pixel_size * middle)
        positions = (contents.world - np.asarray(origin)) / pixel_size - middle
        own = own_pixel_size(stated, size) or pixel_size
        if truth is not None and abs(own / pixel_size - 1) * max(truth.shape) > _STRETCH:
            truth = None
            reason = f"its pixels are {own:.6g} m, those of the scan as stated {pixel_size:.6g} m"
            decisions = replace(decisions, truth=Decision("omitted", reason))
            _log.warning("%s: the known object is omitted: %s", source.path, reason)
    else:
        assert contents.pixels is not None
        positions = contents.pixels - middle
    if len(positions) != n:
        source.fail(contents.key, f"{len(positions)} patterns, one for each position", f"{n}")
    counts, measurement = counts_of(
        source,
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
        source, contents.probe, contents.scale_known, counts, contents.bad_pixels, options, decisions
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
            name=contents.name or source.path.stem,
            metadata=contents.record.metadata,
            acquisition=Acquisition(found["distance"], found["detector_pixel_size"], origin),
            orientation=contents.record.orientation,
            frame_indexes=None if indexes is None or len(indexes) != n else indexes,
            decisions=decisions,
        )
    except InputError as error:
        raise InputError(f"{source.path}: {error}") from error


def _with_stated(known: NDArray[np.bool_] | None, stated: NDArray[Any] | str | Path, size: int) -> NDArray[np.bool_]:
    """The mask that the caller states, and the file's."""
    where, mask = "bad_pixels", stated
    if isinstance(stated, (str, Path)):
        where = str(stated)
        try:
            mask = np.load(stated, allow_pickle=False)
        except FileNotFoundError:
            raise not_found(stated) from None
        except (OSError, ValueError, EOFError) as error:
            raise InputError(f"{where}: expected an .npy file of a mask, found none that can be read") from error
    if not isinstance(mask, np.ndarray) or mask.dtype.kind not in "biu" or mask.shape != (size, size):
        found = f"{mask.dtype} of shape {mask.shape}" if isinstance(mask, np.ndarray) else type(mask).__name__
        raise InputError(f"{where}: expected a mask of shape {size, size}, found {found}")
    mask = mask.astype(np.bool_)
    if known is not None:
        mask = mask | known
    if mask.all():
        raise InputError(f"{where}: expected at least one good pixel, found bad pixels only")
    return mask


def bad_pixels_of(source: Source, key: str, size: int, array: NDArray[Any] | None = None) -> NDArray[np.bool_] | None:
    """The mask under `key` (or `array`, which stood there), None if there is none or it is empty."""
    if array is None:
        if not source.has(key):
            return None
        array = source.array(key)
    mask = source.check(key, array, "biu")
    if mask.shape != (size, size):
        source.fail(key, f"shape {size, size}", f"{mask.shape}")
    if mask.all():
        source.fail(key, "at least one good pixel", "bad pixels only")
    return mask.astype(np.bool_) if mask.any() else None


def truth_of(source: Source, key: str, array: NDArray[Any]) -> NDArray[np.complex64] | None:
    """The object under `key` if it is a truth: a constant is a placeholder, and None."""
    truth = source.check(key, array, "iufc", ndim=2)
    constant = truth.size == 0 or np.abs(truth - truth.flat[0]).max() <= 1e-6 * np.abs(truth.flat[0])
    return None if constant else truth.astype(np.complex64)


def origin_of(source: Source, group: str) -> tuple[float, float] | None:
    """(y, x) the world coordinate of the scan's pixel (0, 0) that our own writer left in `group`, if any."""
    key = f"{group}/origin_m"
    if not source.has(key):
        return None
    origin = source.numbers(key, "f").astype(np.float64)
    if origin.shape != (2,):
        source.fail(key, "two metres (y, x)", f"shape {origin.shape}")
    return pair_of_numbers(origin)


def first_pixel(centre: Sequence[float], pixel_size: float, shape: Sequence[int]) -> tuple[float, float] | None:
    """(y, x) metres of the middle of the first pixel of an image of this shape (H, W) that lies around a centre."""
    return pair_of_numbers(np.asarray(centre, np.float64) - pixel_size * (np.asarray(shape, np.float64) - 1) / 2)


def said_units(words: str | None, key: str, source: Source) -> str | None:
    """The reason that a probe marked with these units is in sqrt(counts); None without a mark."""
    if words is None:
        return None
    if words != PROBE_UNITS:
        source.fail(key, f"'{PROBE_UNITS}' or no such key", repr(words))
    return "the key 'probe_units' says sqrt_counts"
