# SPDX-License-Identifier: BSD-3-Clause
"""Crop, padding, binning and repair of frames as a file is read, for all formats.

:func:`fitted` changes patterns, mask, probe and sizes of a file together, before counts are made;
:func:`binned_counts` is the last step. The arrays are changed by :mod:`ptychopinn.storage.frames`.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptychopinn.decisions import Decision
from ptychopinn.experiment import Experiment
from ptychopinn.io.contents import Contents
from ptychopinn.io.counts import RawPatterns, frames_on_disk
from ptychopinn.io.experiments import fitted_experiment
from ptychopinn.io.fields import OpenFile
from ptychopinn.io.options import ReadOptions
from ptychopinn.io.probe_layout import WAY_OUT as PROBE_WAY
from ptychopinn.storage.arrays import blocks_of, pattern_blocks
from ptychopinn.storage.frames import (
    bin_frames,
    bin_mask,
    bin_probe,
    fit_frames,
    fit_mask,
    fit_probe,
    invalid_values,
    near_probe,
    without_invalid,
)
from ptychopinn.storage.stored import StoredPatterns

#: Fraction of the detector up to which every pixel that is ever invalid becomes a bad pixel.
_FEW_PIXELS = 0.05
#: Otherwise bad pixels are those that are invalid in more than this fraction of the frames.
_FEW_FRAMES = 0.01
#: Fractions of invalid pixels and frames from which patterns are refused.
_MOST_PIXELS, _MOST_FRAMES = 0.5, 0.1
_SMALLEST = 8  # pixels along one side of a pattern
#: Largest ratio of the sides of a detector that is filled up to a square; beyond, the axes are likely others.
_LONGEST = 4

_log = logging.getLogger(__name__)


def squared(contents: Contents, options: ReadOptions) -> tuple[Contents, ReadOptions]:
    """Options with the padding of a detector that is not square, if the caller states neither crop nor padding.

    The detector is filled up with bad pixels to the longer side, which keeps the pixels of the object square; the
    decision is recorded. Where one side is more than four times the other, or mask or probe do not fit, nothing is
    decided.
    """
    height, width = (int(side) for side in contents.patterns.shape[-2:])
    short, long = sorted((height, width))
    if options.crop is not None or options.pad is not None or short == long or long > _LONGEST * short:
        return contents, options
    multiple = 2 * options.bin
    size = -(-long // multiple) * multiple
    bad, probe = contents.bad_pixels, contents.probe
    if bad is not None and bad.shape != (height, width):
        return contents, options
    if probe is not None and options.probe is None and probe.shape[-1] != size // options.bin:
        return contents, options
    reason = (
        f"the detector has {height} x {width} px: filled up to {size} px with bad pixels, crop= (--crop) reads less"
    )
    _log.info("%s: '%s': %s", contents.file.path, contents.key, reason)
    decisions = replace(contents.record.decisions, frames=Decision("padded", reason))
    return replace(contents, record=replace(contents.record, decisions=decisions)), replace(options, pad=size)


def size_of(file: OpenFile, key: str, shape: tuple[int, ...], options: ReadOptions) -> int:
    """Pixels along one side of a pattern after crop and padding, before binning.

    Args:
        file: named in errors.
        key: of the patterns.
        shape: (n, h, w), as in the file.
        options: from the caller.

    Raises:
        InputError: patterns are not square, of an odd size, or do not fit the options.
    """
    height, width = shape[-2:]
    short, long = sorted((height, width))
    crop, pad, found = options.crop, options.pad, f"shape {tuple(shape)}"
    if crop is not None and crop > short and pad is None:
        file.fail(key, f"patterns of {crop} px or more to crop", found, f"state pad={crop} (--pad {crop}) as well")
    if pad is not None and pad < long and crop is None:
        file.fail(key, f"patterns of {pad} px or less to pad", found, f"state crop={pad} (--crop {pad}) as well")
    sides = {length if crop is None else min(length, crop) for length in (height, width)}
    sides = {length if pad is None else max(length, pad) for length in sides}
    size = sides.pop()
    even, full = short - short % 2, long + long % 2
    ways = f"crop={even} (--crop {even}) reads the middle, pad={full} (--pad {full}) fills up with bad pixels"
    if sides:
        file.fail(key, "square patterns, (n, N, N)", found, ways)
    if size % 2:
        file.fail(key, "patterns of an even size", found, ways)
    if size < (smallest := _SMALLEST * options.bin):
        way = f"pad={smallest} (--pad {smallest}) fills up with bad pixels"
        file.fail(key, f"patterns of an even size of {smallest} or more pixels", found, way)
    if size % (2 * options.bin):
        multiple = size - size % (2 * options.bin)
        file.fail(
            key,
            f"patterns whose size is a multiple of {2 * options.bin} px, for bin={options.bin}",
            f"{size} px",
            f"state crop={multiple} (--crop {multiple}) as well",
        )
    return size


def fitted(contents: Contents, options: ReadOptions) -> tuple[Contents, ReadOptions]:
    """Crop, pad and repair the patterns of a file, with mask, probe, sizes and positions.

    Args:
        contents: from the reader of a format; patterns (n, h, w), mask (h, w). Its `pixel_size` is that of patterns of
            their width.
        options: from the caller; `pixel_size` and `detector_pixel_size` are those of the detector in the file.

    Returns:
        Contents and options of patterns (n, N, N) and the mask before binning, and all else after it.

    Raises:
        InputError: patterns, mask or probe do not fit the options; or `mask_invalid` would mask half of the detector.
    """
    file, shape = contents.file, contents.patterns.shape
    height, width = shape[-2:]
    size = size_of(file, contents.key, shape, options)
    bad = contents.bad_pixels
    if bad is not None and bad.shape != (height, width):
        file.fail("bad_pixels", f"shape {height, width}", f"{bad.shape}")
    if bad is not None and bad.all():
        file.fail("bad_pixels", "at least one good pixel", "bad pixels only")
    if not options.changes_frames and contents.probe is not None and contents.probe.shape[-1] != size:
        found = f"{contents.probe.shape[-1]} px"
        file.fail("probe", f"a probe of the size of the patterns, {size} px", found, f"{PROBE_WAY}, or crop= or pad=")
    if options.changes_frames:
        contents = replace(contents, bad_pixels=fit_mask(bad, (height, width), size))
        contents, options = _scaled(contents, options, size)
    which = "invalid" if options.mask_invalid else "negative" if options.clip_negative else None
    if which is None and (height, width) == (size, size):
        return contents, options
    patterns: RawPatterns | StoredPatterns = _Fitted(contents.patterns, size, which, file.path)
    if isinstance(contents.patterns, StoredPatterns):
        patterns = contents.patterns.converted(size=size, replace=which)
    elif type(contents.patterns) is np.ndarray:
        patterns = np.ascontiguousarray(fit_frames(contents.patterns, size))
    if options.mask_invalid:
        raw = _Fitted(contents.patterns, size, None, file.path)
        mask = invalid_pixels(file, contents.key, raw, contents.bad_pixels, options.clip_negative)
        contents = replace(contents, bad_pixels=mask)
    if isinstance(patterns, np.ndarray) and which is not None:
        patterns = _Fitted(patterns, size, which, file.path)[:]
    return replace(contents, patterns=patterns), options


def binned_counts(
    counts: NDArray[Any] | StoredPatterns, bad: NDArray[np.bool_] | None, factor: int
) -> tuple[NDArray[Any] | StoredPatterns, NDArray[np.bool_] | None]:
    """Counts (n, N, N) and bad pixels (N, N) summed over bins of factor x factor pixels; in memory or on disk."""
    if factor == 1:
        return counts, bad
    dtype = counts.dtype
    if dtype.kind == "u":
        largest = max(int(np.where(False if bad is None else bad, 0, block).max()) for _, block in blocks_of(counts))
        dtype = np.min_scalar_type(largest * factor**2)
    if isinstance(counts, StoredPatterns):
        return counts.binned(factor, dtype), bin_mask(bad, factor)
    side = counts.shape[-1] // factor
    binned = np.empty((len(counts), side, side), dtype)
    for part in pattern_blocks(counts.shape):
        binned[part] = bin_frames(counts[part], factor, dtype, bad)
    return binned, bin_mask(bad, factor)


@dataclass
class _Fitted:
    """Patterns (n, N, N), cropped, padded and repaired when they are read.

    Args:
        raw: (n, h, w).
        size: N.
        which: values to replace, see :func:`without_invalid`; None: none.
        path: of the file, for errors.
    """

    raw: RawPatterns
    size: int
    which: str | None
    path: Path

    @property
    def shape(self) -> tuple[int, ...]:
        return (int(self.raw.shape[0]), self.size, self.size)

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.raw.dtype

    def __getitem__(self, part: slice) -> NDArray[Any]:
        block = fit_frames(np.asarray(self.raw[part]), self.size)
        return block if self.which is None else without_invalid(block, self.which)

    def on_disk(self) -> StoredPatterns:
        if isinstance(self.raw, np.memmap):
            stored = StoredPatterns.npy(self.path)
        else:
            stored = frames_on_disk(self.raw, self.path)
        return stored.converted(size=self.size, replace=self.which)


def _scaled(contents: Contents, options: ReadOptions, size: int) -> tuple[Contents, ReadOptions]:
    """Sizes, positions, probe and object of patterns of `size` px in place of those of the file, then binned.

    In the far field crop and padding change the object pixel and bins the field of view; in the near field, where a
    pattern is an image on the grid of the object, it is the other way round.
    """
    height, width = contents.patterns.shape[-2:]
    factor, experiment = options.bin, contents.experiment
    near = options.near_field or experiment.fresnel_number is not None
    ratio = factor if near else width / size  # of the object pixels
    acquisition, decisions = contents.acquisition, contents.record.decisions
    what = "bins" if near else "crop or pad"

    def times(value: float | None, scale: float) -> float | None:
        return None if value is None else value * scale

    if contents.truth is not None and ratio != 1:
        reason = f"{what} make the object pixels {ratio:g} times as large"
        _log.warning("%s: the known object is omitted: %s", contents.file.path, reason)
        decisions = replace(decisions, truth=Decision("omitted", reason))
    if ratio != 1 and (contents.pixel_size or options.pixel_size):
        _log.info("%s: %s make the object pixels %g times as large", contents.file.path, what, ratio)
    probe = contents.probe
    if probe is not None and probe.shape[-1] == height == width:
        probe = _scaled_probe(probe, size, factor, near)
    elif probe is not None and probe.shape[-1] != size // factor:
        contents.file.fail(
            "probe",
            f"a probe of {size // factor} px, the size of the patterns that are read",
            f"{probe.shape[-1]} px for a detector of {height} x {width} px",
            PROBE_WAY,
        )
    contents = replace(
        contents,
        pixels=None if contents.pixels is None else contents.pixels / ratio,
        pixel_size=times(contents.pixel_size, ratio),
        acquisition=replace(acquisition, detector_pixel_size=times(acquisition.detector_pixel_size, factor)),
        probe=probe,
        truth=contents.truth if ratio == 1 else None,
        record=replace(contents.record, decisions=decisions),
        experiment=_scaled_experiment(experiment, (height, width), size, factor, ratio, near),
    )
    stated = _array(options.probe)
    if stated is not None and stated.ndim in (2, 3) and stated.shape[-2:] == (height, width) and height == width:
        modes = stated.reshape(-1, height, width).astype(np.complex64)
        options = replace(options, probe=_scaled_probe(modes, size, factor, near))
    return contents, replace(
        options,
        pixel_size=times(options.pixel_size, ratio),
        detector_pixel_size=times(options.detector_pixel_size, factor),
    )


def _scaled_probe(probe: NDArray[np.complex64], size: int, factor: int, near: bool) -> NDArray[np.complex64]:
    if near:
        return near_probe(probe, size, factor)
    probe = probe if probe.shape[-1] == size else fit_probe(probe, size)
    return probe if factor == 1 else bin_probe(probe, factor)


def _scaled_experiment(
    experiment: Experiment, shape: tuple[int, int], size: int, factor: int, ratio: float, near: bool
) -> Experiment:
    """The experiment of the new patterns; shapes of a probe's variations that are of their size stay as they are."""
    variations = experiment.probe_variations
    if variations is not None and np.ndim(variations) == 3 and variations.shape[1:] == shape and shape[0] == shape[1]:
        variations = _scaled_probe(variations, size, factor, near)
    return fitted_experiment(experiment, size, factor, ratio, variations)


def _array(probe: NDArray[Any] | str | Path | None) -> NDArray[Any] | None:
    """The numbers that the caller states; None for any other, whose faults :mod:`ptychopinn.io.probe` reports."""
    if isinstance(probe, (str, Path)):
        try:
            probe = np.load(probe, allow_pickle=False)
        except (OSError, ValueError, EOFError):
            return None
    return probe if isinstance(probe, np.ndarray) and probe.dtype.kind in "iufc" else None


def invalid_pixels(
    file: OpenFile, key: str, patterns: RawPatterns, bad: NDArray[np.bool_] | None, clip: bool
) -> NDArray[np.bool_] | None:
    """Bad pixels, with those whose values are no counts; what remains of such values is read as 0, with a warning.

    Frames that are invalid in more than half of their pixels are not counted, since no mask mends them. With `clip`, a
    negative float makes a pixel bad only if the pixel is negative in every frame.
    """
    n, *sides = patterns.shape
    known = np.zeros(sides, np.bool_) if bad is None else bad
    times, negative, frames = np.zeros(sides, np.int64), np.zeros(sides, np.int64), 0
    for part in pattern_blocks(patterns.shape):
        block = patterns[part]
        wrong = invalid_values(block) & ~known
        if clip and block.dtype.kind == "f":
            below = wrong & (block < 0)
            negative += below.sum(axis=0)
            wrong &= ~below
        lost = wrong.mean(axis=(1, 2)) > 0.5
        frames += int(lost.sum())
        times += wrong[~lost].sum(axis=0)
    times[negative == n] = n
    found = times > 0
    few = found.mean() <= _FEW_PIXELS
    mask = found if few else times > _FEW_FRAMES * (n - frames)
    if mask.mean() > _MOST_PIXELS or frames > _MOST_FRAMES * n:
        file.fail(
            key,
            f"counts in at least {1 - _MOST_PIXELS:.0%} of the detector, and in {1 - _MOST_FRAMES:.0%} of the frames",
            f"{mask.mean():.0%} of the pixels invalid, and most pixels of {frames} of {n} frames",
            "clip_negative= (--clip-negative) makes negative floats 0, crop= (--crop) reads the middle only",
        )
    if found.any():
        _log.warning("%s: '%s': %d pixels with invalid values are masked", file.path, key, int(mask.sum()))
    if not few:
        _log.warning(
            "%s: '%s': values are invalid at times in %.0f %% of the pixels; pixels that are so in more than %g %% of "
            "the frames are masked, and %d other values are read as 0",
            *(file.path, key, 100 * found.mean(), 100 * _FEW_FRAMES, int(times[~mask].sum())),
        )
    if frames:
        _log.warning("%s: '%s': invalid values in most of %d frames are read as 0", file.path, key, frames)
    mask = mask | known
    return mask if mask.any() else None
