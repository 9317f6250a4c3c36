# SPDX-License-Identifier: BSD-3-Clause
"""Centre, size and pixels of the detector, with what follows for probe, positions and pixel size.

Let N pixels become N'. The wave behind a patch of N samples has its far field at the N frequencies of the patch.

- Fewer or more pixels of the same size (crop, pad) are fewer or more frequencies of the same field of view: the object
  pixel becomes N / N' times as large. The far field of the probe is cropped or padded, so that its counts in every
  remaining pixel stay; sample [0, 0] of a patch stays where it is, so positions in pixels become N' / N times as large.
- Sums over K x K pixels (bin) are frequencies K times as far apart: the field of view shrinks to N' = N / K of the same
  object pixels. The probe is cropped about its centre, and so are the patches: sample [0, 0] moves by (N - N') / 2. The
  bin of pixel N//2 extends to higher frequencies only. Its middle, (K - 1) / 2 pixels further, is the zero frequency of
  the model; a phase ramp of the probe accounts for it.

The forward model of the new scan then predicts the new patterns: exactly for cropping and padding of band-limited
waves, and for bins as far as the intensity is even over a bin, that is, for a probe much smaller than N'.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptychopinn.acquisition import Acquisition
from ptychopinn.decisions import Decision
from ptychopinn.errors import InputError
from ptychopinn.findings.centre import in_fft_order
from ptychopinn.findings.measure import measure_patterns
from ptychopinn.mending.blocks import Counts, changed, largest_of
from ptychopinn.mending.experiments import require_far_field, resized, with_patterns
from ptychopinn.mending.notes import Note
from ptychopinn.mending.pixels import with_counts
from ptychopinn.scan import Scan
from ptychopinn.storage.frames import bin_frames, bin_mask, bin_probe, fit_frames, fit_mask, fit_probe

_SMALLEST = 8


@dataclass(frozen=True)
class _Roll:
    shift: tuple[int, int]

    def __call__(self, block: NDArray[Any]) -> NDArray[Any]:
        return np.roll(block, self.shift, (-2, -1))


@dataclass(frozen=True)
class _Fit:
    size: int

    def __call__(self, block: NDArray[Any]) -> NDArray[Any]:
        return fit_frames(block, self.size)


@dataclass(frozen=True)
class _Bin:
    factor: int
    dtype: np.dtype[Any]

    def __call__(self, block: NDArray[Any]) -> NDArray[Any]:
        return bin_frames(block, self.factor, self.dtype)


def centre(scan: Scan) -> tuple[Scan, Note]:
    """Roll the patterns by integer pixels so that the zero frequency is at pixel (N//2, N//2), see :func:`shift`.

    The zero frequency is found by correlation with the far field of the probe; faulty pixels do not matter.
    """
    y, x = measure_patterns(with_counts(scan)).offset
    return shift(scan, (-round(y), -round(x)), "centre")


def shift(scan: Scan, by: tuple[int, int], name: str = "shift") -> tuple[Scan, Note]:
    """Roll the patterns and the mask by integer pixels.

    Rows and columns that wrap around become bad pixels, as they hold frequencies of the opposite edge. A shift by N/2
    along both axes reorders patterns in FFT order; then only a remainder wraps around.

    Args:
        scan: the scan.
        by: (y, x), pixels towards higher indices.
        name: of the mend, for the note.

    Raises:
        InputError: the shift is larger than the patterns, or no good pixel is left.
    """
    size = scan.patch_size
    if any(int(step) != step for step in by):
        raise InputError(f"{name} must be integer pixels, got {by[0]},{by[1]}")
    if max(abs(step) for step in by) >= size:
        raise InputError(f"shift must be less than the {size} px of the patterns, got {by[0]},{by[1]}")
    reordered = in_fft_order(by, size)
    wrapped = np.zeros((size, size), np.bool_)
    rest = [(step + size // 2 if reordered else step) for step in by]
    rest = [(step + size // 2) % size - size // 2 for step in rest]
    for axis, step in enumerate(rest):
        lines = slice(0, step) if step > 0 else slice(size + step, size)
        wrapped[(lines, slice(None)) if axis == 0 else (slice(None), lines)] = True
    order = " from FFT order" if reordered else ""
    edge = f"; {int(wrapped.sum())} pixels masked that wrapped around" if wrapped.any() else ""
    note = Note(name, f"patterns rolled by ({by[0]}, {by[1]}) px{order}{edge}", {"pixels": [int(step) for step in by]})
    if not any(by):
        return scan, replace(note, text="the zero frequency stays where it is")
    require_far_field(scan, name)
    roll = _Roll((int(by[0]), int(by[1])))
    bad = wrapped if scan.bad_pixels is None else roll(scan.bad_pixels) | wrapped
    if bad.all():
        raise InputError(f"shift must leave good pixels, got {by[0]},{by[1]}")
    experiment = with_patterns(scan.experiment, roll)
    bad_pixels = bad if bad.any() else None
    return replace(scan, counts=changed(scan.counts, roll), bad_pixels=bad_pixels, experiment=experiment), note


def crop(scan: Scan, size: int) -> tuple[Scan, Note]:
    """Crop the patterns to the central `size` x `size` pixels: the object pixel becomes N / size times as large.

    Args:
        scan: the scan.
        size: even, from 8 to N.

    Raises:
        InputError: the size is out of range, or only bad pixels remain.
    """
    if size % 2 or not _SMALLEST <= size <= scan.patch_size:
        raise InputError(
            f"crop must be an even number of pixels from {_SMALLEST} to the {scan.patch_size} of the patterns, "
            f"got {size}"
        )
    return _resized(scan, size, "crop")


def pad(scan: Scan, size: int) -> tuple[Scan, Note]:
    """Surround the patterns by bad pixels to `size` x `size`: the object pixel becomes N / size times as large.

    Args:
        scan: the scan.
        size: even, at least N.

    Raises:
        InputError: the size is out of range.
    """
    if size % 2 or size < scan.patch_size:
        raise InputError(
            f"pad must be an even number of pixels from the {scan.patch_size} of the patterns on, got {size}"
        )
    return _resized(scan, size, "pad")


def _resized(scan: Scan, size: int, name: str) -> tuple[Scan, Note]:
    before = scan.patch_size
    if size == before:
        return scan, Note(name, f"the patterns have {size} px already", {"from": before, "to": size})
    require_far_field(scan, name, f"read the file with {name}= (--{name})")
    ratio = size / before
    bad = fit_mask(scan.bad_pixels, (before, before), size)
    if bad is not None and bad.all():
        raise InputError(f"{name} must leave good pixels, got {size}")
    probe = fit_probe(scan.probe, size)
    power = float(np.square(np.abs(probe)).sum() / np.square(np.abs(scan.probe)).sum())
    pixel_size = None if scan.pixel_size is None else scan.pixel_size / ratio
    counts, acquisition = changed(scan.counts, _Fit(size), size), scan.acquisition
    _refuse_empty(counts, name)
    origin = acquisition.world_origin
    if origin is not None and pixel_size is not None and scan.pixel_size is not None:
        # Coordinates in metres are those of sample (N - 1) / 2, which is half a pixel before the centre.
        half = (pixel_size - scan.pixel_size) / 2
        acquisition = replace(acquisition, world_origin=(origin[0] + half, origin[1] + half))
    decisions, lost = scan.decisions, ""
    if scan.truth is not None:
        reason = f"its pixels are {ratio:.6g} times those of the scan after {name}"
        decisions, lost = replace(decisions, truth=Decision("omitted", reason)), "; the known object is omitted"
    mended = replace(
        scan, counts=counts, bad_pixels=bad, probe=probe, positions=scan.positions * ratio,
        pixel_size=pixel_size, acquisition=acquisition, truth=None, decisions=decisions,
        experiment=resized(scan.experiment, size, 1, 1 / ratio, lambda probe: fit_probe(probe, size)),
    )  # fmt: skip
    text = (
        f"patterns of {before} px to {size} px, object pixels {1 / ratio:.6g} times as large{_metres(pixel_size)}, "
        f"{power:.2%} of the probe's power{lost}"
    )
    return mended, Note(name, text, {"from": before, "to": size, "probe_power": power})


def bin_pixels(scan: Scan, factor: int) -> tuple[Scan, Note]:
    """Sum `factor` x `factor` pixels: the field of view becomes `factor` times smaller, the object pixel stays.

    A bin with a bad pixel is bad. Counts stay integers, of a type that holds the sums.

    Args:
        scan: the scan.
        factor: 1 or more; N / factor must be even and at least 8.

    Raises:
        InputError: the factor does not fit the patterns, or only bad pixels remain.
    """
    before = scan.patch_size
    size = before // factor if factor >= 1 else 0
    if factor < 1 or before % factor or size % 2 or size < _SMALLEST:
        fitting = 0 if factor < 1 else before // (2 * factor) * 2 * factor
        first = f"; crop first (crop {fitting})" if fitting >= _SMALLEST * factor and fitting != before else ""
        raise InputError(
            f"bin must divide the {before} px of the patterns into an even number of {_SMALLEST} pixels or more, "
            f"got {factor}{first}"
        )
    if factor == 1:
        return scan, Note("bin", "patterns of 1 x 1 pixels stay as they are", {"factor": 1})
    require_far_field(scan, "bin", "read the file with bin= (--bin)")
    edge = (before - size) // 2
    bad = bin_mask(scan.bad_pixels, factor)
    if bad is not None and bad.all():
        raise InputError(f"bin must leave bins without bad pixels, got {factor}")
    probe = bin_probe(scan.probe, factor)
    power = float(np.square(np.abs(probe)).sum() / np.square(np.abs(scan.probe)).sum())
    side = scan.acquisition.detector_pixel_size
    acquisition: Acquisition = replace(scan.acquisition, detector_pixel_size=None if side is None else side * factor)
    dtype = _sum_type(scan.counts, factor)
    mended = replace(
        scan, counts=changed(scan.counts, _Bin(factor, dtype), size, dtype), bad_pixels=bad, probe=probe,
        positions=scan.positions + edge, acquisition=acquisition,
        experiment=resized(scan.experiment, before, factor, 1.0, lambda probe: bin_probe(probe, factor)),
    )  # fmt: skip
    text = (
        f"patterns of {before} px to {size} px, sums of {factor} x {factor}; the field of view is {factor} times "
        f"smaller, with {power:.2%} of the probe's power"
    )
    return mended, Note("bin", text, {"factor": factor, "from": before, "to": size, "probe_power": power})


def _sum_type(counts: Counts, factor: int) -> np.dtype[Any]:
    """The smallest type of sums of factor x factor counts."""
    if counts.dtype.kind != "u":
        return np.dtype(np.float32)
    largest = int(largest_of(counts).max()) if isinstance(counts, np.ndarray) else int(np.iinfo(counts.dtype).max)
    return np.min_scalar_type(min(largest * factor**2, np.iinfo(np.uint64).max))


def _refuse_empty(counts: Counts, name: str) -> None:
    if isinstance(counts, np.ndarray) and not counts.any():
        raise InputError(f"{name} must leave pixels with counts, found none there; is the zero frequency at N//2?")


def _metres(pixel_size: float | None) -> str:
    return "" if pixel_size is None else f" ({pixel_size * 1e9:.4g} nm)"


#: Mends of the detector by option.
RESIZERS: dict[str, Callable[[Scan, int], tuple[Scan, Note]]] = {"crop": crop, "pad": pad, "bin": bin_pixels}
