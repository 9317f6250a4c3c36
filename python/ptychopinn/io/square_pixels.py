# SPDX-License-Identifier: BSD-3-Clause
"""Detectors whose pixels are not square, read as square ones of the longer side, with mask, probe and sizes.

After it the contents are those of a square detector, which crop, padding and bins change as any other. The change of
the counts is :class:`ptychopinn.storage.square_pixels.SquarePixels`.
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
from ptychopinn.io.fields import OpenFile
from ptychopinn.io.framing import invalid_pixels
from ptychopinn.io.options import ReadOptions
from ptychopinn.io.probe_layout import WAY_OUT as PROBE_WAY
from ptychopinn.storage.arrays import pattern_blocks
from ptychopinn.storage.frames import invalid_values
from ptychopinn.storage.square_pixels import SquarePixels
from ptychopinn.storage.stored import StoredPatterns

#: Largest relative difference of the fields of view along y and x for which positions in pixels are those of both.
_SAME_FIELD = 0.01
_WAY = "state square_pixels=(Y, X) (--square-pixels Y,X), metres"

_log = logging.getLogger(__name__)


def with_square_pixels(contents: Contents, options: ReadOptions) -> tuple[Contents, ReadOptions]:
    """Contents of square pixels, if the caller asks for them.

    Args:
        contents: from the reader of a format; `pixel_sides` are the sides of pixels that are not square.
        options: from the caller; `square_pixels` has the sides (y, x), or "file".

    Returns:
        Contents of patterns (n, N, N), and options without what is done.

    Raises:
        InputError: the sides are not known, it is not known whether patterns are counts, values of good pixels are no
            counts, or probe or positions do not fit.
    """
    if options.square_pixels is None:
        return contents, options
    file, key, acquisition = contents.file, contents.key, contents.acquisition
    sides = contents.pixel_sides if isinstance(options.square_pixels, str) else options.square_pixels
    if sides is None:
        if acquisition.detector_pixel_size is None:
            file.fail("square_pixels", "the sides of the detector's pixels in the file", "none", _WAY)
        _log.info("%s: the detector's pixels are square: nothing to change", file.path)
        return contents, replace(options, square_pixels=None)
    options = replace(options, square_pixels=None)
    if sides[0] == sides[1]:
        return replace(contents, acquisition=replace(acquisition, detector_pixel_size=sides[0])), options
    shape = (int(contents.patterns.shape[1]), int(contents.patterns.shape[2]))
    power = _power(contents, options)
    near = options.near_field or contents.experiment.fresnel_number is not None
    contents, options = _with_mask(contents, options, shape)
    which = "invalid" if options.mask_invalid else "negative" if options.clip_negative else None
    if options.mask_invalid:
        bad = invalid_pixels(file, key, contents.patterns, contents.bad_pixels, options.clip_negative)
        contents = replace(contents, bad_pixels=bad)
    options = replace(options, mask_invalid=False, clip_negative=False, measurement="auto")
    change = SquarePixels(shape, sides, contents.bad_pixels, near, which, power)
    patterns: RawPatterns | StoredPatterns
    if isinstance(contents.patterns, StoredPatterns):
        patterns = StoredPatterns(_Source(contents.patterns, change))
    else:
        raw = _Squared(contents.patterns, change, contents.bad_pixels, which is not None, file, key)
        patterns = raw[:] if type(contents.patterns) is np.ndarray else raw
    reason = _reason(shape, sides, change)
    _log.info("%s: '%s': %s", file.path, key, reason)
    decisions = replace(contents.record.decisions, frames=Decision("square pixels", reason))
    fields = shape[0] * sides[0], shape[1] * sides[1]
    same = not near and abs(fields[0] / fields[1] - 1) <= _SAME_FIELD  # then object pixels in the file are square
    factor = fields[1] / (change.size * change.side) if same else 1.0  # of the object pixels, new to old
    truth, pixel_size = contents.truth, contents.pixel_size
    if truth is not None and (not same or abs(factor - 1) > 1e-6):
        truth, reason = None, "its pixels are others than those of the square detector"
        decisions = replace(decisions, truth=Decision("omitted", reason))
    if not same and not near:
        pixel_size = None  # of the file, which has two
    if contents.pixels is not None and not same:
        way = "state positions= (--positions TABLE) in metres"
        file.fail("positions", "metres, as object pixels are not square for this detector", "pixels", way)
    contents = replace(
        contents,
        patterns=patterns,
        bad_pixels=change.bad_pixels,
        probe=None if contents.probe is None else _probe(contents, contents.probe, change, near),
        pixels=None if contents.pixels is None else contents.pixels / factor,
        truth=truth,
        pixel_size=None if pixel_size is None else pixel_size * factor,
        acquisition=replace(acquisition, detector_pixel_size=change.side),
        stated="counts",
        record=replace(contents.record, decisions=decisions),
        experiment=_experiment(contents, change, near),
    )
    size = options.pixel_size
    return contents, replace(options, pixel_size=None if size is None else size * factor)


@dataclass
class _Squared:
    """Patterns (n, N, N) of square pixels, changed when they are read.

    Args:
        raw: (n, h, w).
        change: of blocks.
        bad: (h, w), pixels that may hold anything.
        repaired: whether the change replaces values that are no counts.
        file: for errors.
        key: of the patterns, for errors.
    """

    raw: RawPatterns
    change: SquarePixels
    bad: NDArray[np.bool_] | None
    repaired: bool
    file: OpenFile
    key: str

    @property
    def shape(self) -> tuple[int, ...]:
        return (int(self.raw.shape[0]), self.change.size, self.change.size)

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.change.dtype_of(self.raw.dtype)

    def __getitem__(self, part: slice) -> NDArray[Any]:
        made = np.empty((len(range(self.raw.shape[0])[part]), self.change.size, self.change.size), self.dtype)
        first = part.start or 0
        for block in pattern_blocks((len(made), *self.raw.shape[1:])):
            values = np.asarray(self.raw[block.start + first : block.stop + first])
            if not self.repaired:
                self._check(values)
            made[block] = self.change(values)
        return made

    def _check(self, values: NDArray[Any]) -> None:
        wrong = invalid_values(values)
        if self.bad is not None:
            wrong &= ~self.bad
        if wrong.any():
            way = "mask_invalid= (--mask-invalid) masks these pixels, clip_negative= (--clip-negative) makes floats 0"
            self.file.fail(self.key, "counts in good pixels", f"{int(wrong.sum())} values that are none", way)

    def on_disk(self) -> StoredPatterns:
        path = self.file.path
        stored = StoredPatterns.npy(path) if isinstance(self.raw, np.memmap) else frames_on_disk(self.raw, path)
        return StoredPatterns(_Source(stored, self.change))


class _Source:
    """A source of stored patterns: others with the change."""

    def __init__(self, patterns: StoredPatterns, change: SquarePixels) -> None:
        self.name = repr(patterns)
        self.shape: tuple[int, int, int] = (len(patterns), change.size, change.size)
        self.dtype = change.dtype_of(patterns.dtype)
        self._patterns, self._change = patterns, change

    def read(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        return self._change(self._patterns[rows])


def _power(contents: Contents, options: ReadOptions) -> int:
    """2 if the patterns are amplitudes, else 1; it must be known before values are summed."""
    measurement = options.measurement if options.measurement != "auto" else contents.stated
    if measurement is None and contents.patterns.dtype.kind not in "iu" and contents.default != "counts":
        way = "state measurement= (--measurement counts, or amplitude)"
        contents.file.fail(contents.key, "counts or amplitudes, as stated, to resample them", "neither", way)
    return 2 if measurement == "amplitude" else 1


def _with_mask(contents: Contents, options: ReadOptions, shape: tuple[int, int]) -> tuple[Contents, ReadOptions]:
    """Contents with the caller's mask, if it is one of the detector in the file."""
    mask, bad = options.bad_pixels, contents.bad_pixels
    if isinstance(mask, str | Path):
        try:
            mask = np.load(mask, allow_pickle=False)
        except (OSError, ValueError, EOFError):
            return contents, options  # its fault is reported where masks of the result are read
    if bad is not None and bad.shape != shape:
        contents.file.fail("bad_pixels", f"shape {shape}", f"{bad.shape}")
    if not isinstance(mask, np.ndarray) or mask.shape != shape or mask.dtype.kind not in "biu":
        return contents, options
    joined = mask.astype(np.bool_) if bad is None else bad | mask.astype(np.bool_)
    return replace(contents, bad_pixels=joined), replace(options, bad_pixels=None)


def _reason(shape: tuple[int, int], sides: tuple[float, float], change: SquarePixels) -> str:
    variance, shared = change.noise()
    how = f"sums of {change.ratio:g}" if change.summed else "interpolated, with the sum conserved"
    noise = (
        "counts are independent"
        if change.summed
        else f"the variance of a count is about {variance:.2f} of its mean, and neighbours have a correlation of "
        f"about {shared:.2f}, so that the Poisson likelihood is approximate"
    )
    return (
        f"{shape[0]} x {shape[1]} pixels of {sides[0]:g} x {sides[1]:g} m (y, x) are {change.size} x {change.size} of "
        f"{change.side:g} m: {how}; {noise}"
    )


def _probe(contents: Contents, probe: NDArray[np.complex64], change: SquarePixels, near: bool) -> NDArray[np.complex64]:
    """The probe (M, N, N) of the new pixels, of one of the detector in the file or of N pixels."""
    if probe.shape[1:] == change.shape:
        return _resampled(probe, change, near)
    if probe.shape[-1] != change.size:
        found = f"{probe.shape[-1]} px for a detector of {change.shape[0]} x {change.shape[1]} px"
        contents.file.fail("probe", f"a probe of {change.size} px, the size of the square detector", found, PROBE_WAY)
    return probe


def _resampled(probe: NDArray[np.complex64], change: SquarePixels, near: bool) -> NDArray[np.complex64]:
    """The trigonometric polynomial through a probe (M, h, w) at the new pixels (M, N, N), with the same power.

    In the far field the new object pixel is the field of view of the detector in wavelengths, old sides to new ones; in
    the near field the ratio is that of the pixels themselves.
    """
    matrices = []
    for axis, length in enumerate(change.shape):
        ratio = change.ratio if axis == change.axis else 1.0
        pixel = ratio if near else length / (change.size * ratio)  # new to old
        index = np.arange(length) - length // 2
        frequencies = np.fft.fftfreq(length)
        samples = (np.arange(change.size) - change.size // 2) * pixel
        ramp = np.ones(length, np.complex128)
        if axis == change.axis and near:
            samples = samples + change.offset
        elif axis == change.axis:
            ramp = np.exp(-2j * np.pi * change.offset * index / length)
        inside = (samples >= index[0] - 0.5) & (samples < index[-1] + 0.5)
        kept = np.abs(frequencies) <= 0.5 / max(pixel, 1.0)
        back = np.exp(2j * np.pi * samples[:, np.newaxis] * frequencies) * (inside[:, np.newaxis] & kept)
        forth = np.exp(-2j * np.pi * frequencies[:, np.newaxis] * index) * ramp
        matrices.append(back @ forth * (np.sqrt(pixel) / length))
    return np.asarray(matrices[0] @ probe.astype(np.complex128) @ matrices[1].T, np.complex64)


def _experiment(contents: Contents, change: SquarePixels, near: bool) -> Experiment:
    """The experiment of the new pixels; a saturated pixel gives a part of its counts to each of two, if not summed."""
    experiment = contents.experiment
    values: dict[str, Any] = {}
    background, variations = experiment.background, experiment.probe_variations
    if background is not None and background.shape == change.shape:
        plain = SquarePixels(change.shape, _sides(change), None, near)
        values["background"] = plain(background[np.newaxis].astype(np.float32))[0].astype(np.float32)
    if variations is not None and variations.shape[1:] == change.shape:
        values["probe_variations"] = _resampled(variations, change, near)
    if experiment.saturation is not None and not change.summed:
        values["saturation"] = None
        _log.warning(
            "%s: the saturation is omitted, as pixels share their counts: mask saturated pixels (--bad-pixels)",
            contents.file.path,
        )
    return replace(experiment, **values)


def _sides(change: SquarePixels) -> tuple[float, float]:
    short = change.side / change.ratio
    return (change.side, short) if change.axis else (short, change.side)
