# SPDX-License-Identifier: BSD-3-Clause
"""Gain and offset of a detector: counts of the values in a file, as patterns are read.

counts = (value - offset) / gain, for each pixel. Values below the offset become 0, and their number is recorded: noise
of the readout around an offset makes dark pixels brighter on average, which a `background` in counts does not.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptychopinn.decisions import Decision
from ptychopinn.io.array_files import read_array
from ptychopinn.io.contents import Contents
from ptychopinn.io.counts import RawPatterns, frames_on_disk
from ptychopinn.io.fields import OpenFile
from ptychopinn.io.options import ReadOptions
from ptychopinn.storage.arrays import pattern_blocks
from ptychopinn.storage.frames import calibrate_frames
from ptychopinn.storage.stored import StoredPatterns

_log = logging.getLogger(__name__)


def calibrated(contents: Contents, options: ReadOptions) -> Contents:
    """Contents whose patterns are counts by the gain and the offset that the caller states.

    Args:
        contents: from the reader of a format; patterns (n, h, w) of values as stored.
        options: from the caller.

    Returns:
        Contents with float32 patterns, and with `decisions.calibration`.

    Raises:
        InputError: an array has another shape than the detector, a gain is not positive, or patterns are amplitudes.
    """
    if not options.changes_values:
        return contents
    file, key, patterns = contents.file, contents.key, contents.patterns
    if options.measurement == "amplitude" or contents.stated == "amplitude":
        file.fail(key, "values of a detector for gain= or offset=", "amplitudes", "omit --gain and --offset")
    shape = tuple(int(side) for side in patterns.shape[1:])
    gain = _of_pixels(options.gain, 1.0, "gain", shape, file)
    offset = _of_pixels(options.offset, 0.0, "offset", shape, file)
    if not (gain > 0).all():
        file.fail("gain", "values per count above 0", f"{gain.min():g}", "state others with gain= (--gain)")
    good = np.ones(shape, np.bool_) if contents.bad_pixels is None else ~contents.bad_pixels
    below, total = 0, int(patterns.shape[0]) * int(good.sum())
    for part in pattern_blocks(patterns.shape):
        below += int(((np.asarray(patterns[part]) < offset) & good).sum())
    reason = f"as requested; {below} of {total} values of good pixels are below the offset and become 0"
    if below:
        _log.info("%s: '%s': gain and offset %s", file.path, key, reason)
    value = f"gain {_in_words(gain)}, offset {_in_words(offset)}"
    decisions = replace(contents.record.decisions, calibration=Decision(value, reason))
    made: RawPatterns | StoredPatterns = _Calibrated(patterns, gain, offset, file.path)
    if isinstance(patterns, StoredPatterns):
        made = patterns.calibrated(gain, offset)
    elif type(patterns) is np.ndarray:
        made = calibrate_frames(patterns, gain, offset)
    return replace(contents, patterns=made, stated="counts", record=replace(contents.record, decisions=decisions))


@dataclass
class _Calibrated:
    """Patterns (n, h, w) that become counts when they are read.

    Args:
        raw: (n, h, w).
        gain, offset: (h, w) or (1, 1).
        path: of the file, for errors.
    """

    raw: RawPatterns
    gain: NDArray[np.float64]
    offset: NDArray[np.float64]
    path: Path

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.raw.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(np.float32)

    def __getitem__(self, part: slice) -> NDArray[Any]:
        return calibrate_frames(np.asarray(self.raw[part]), self.gain, self.offset)

    def on_disk(self) -> StoredPatterns:
        memmap = isinstance(self.raw, np.memmap)
        stored = StoredPatterns.npy(self.path) if memmap else frames_on_disk(self.raw, self.path)
        return stored.calibrated(self.gain, self.offset)


def _of_pixels(stated: Any, default: float, name: str, shape: tuple[int, ...], file: OpenFile) -> NDArray[np.float64]:
    """(h, w), or (1, 1) for one number."""
    if stated is None:
        return np.full((1, 1), default)
    where, array = read_array(stated, name, f"--{name}")
    if array.size == 1:
        return array.reshape(1, 1)
    if array.ndim == 3 and array.shape[1:] == shape:
        array = np.asarray(array.mean(axis=0))  # dark frames
    if array.shape != shape:
        found = f"shape {array.shape}{'' if where == name else f' in {where}'}"
        file.fail(name, f"one number, or {shape[0]} x {shape[1]} pixels of the detector", found, f"state --{name}")
    return array


def _in_words(values: NDArray[np.float64]) -> str:
    low, high = float(values.min()), float(values.max())
    return f"{low:g}" if low == high else f"of {low:g} to {high:g}"
