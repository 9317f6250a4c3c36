# SPDX-License-Identifier: BSD-3-Clause
"""Masks of CXI and NeXus: which of their bits are those of bad pixels, and one mask from a mask per frame.

CXI: F. R. N. C. Maia, Nature Methods 9, 854 (2012) and the documentation of the format at cxidb.org; the bits are
listed at https://www.desy.de/~barty/cheetah/Cheetah/Pixel_masks.html. Pixels with other bits alone are good: 0x100 out
of resolution limits, 0x800 artifact corrected, 0x1000 has signal (in files of cheetah: failed artifact correction),
0x2000 peak, 0x4000 background corrected. NeXus: `pixel_mask` of NXdetector and NXmx
(https://manual.nexusformat.org/classes/applications/NXmx.html).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from ptychopinn.io.build import bad_pixels_of
from ptychopinn.io.hdf5 import Frames, Hdf5
from ptychopinn.storage.arrays import pattern_blocks

#: Bits of a CXI mask that mark a bad pixel -> their names.
CXI_BAD: Mapping[int, str] = {
    0x1: "invalid",
    0x2: "saturated",
    0x4: "hot",
    0x8: "dead",
    0x10: "shadowed",
    0x20: "in a peak mask",
    0x40: "to be ignored",
    0x80: "bad",
    0x200: "missing",
    0x400: "noisy",
}
_CXI_BITS = sum(CXI_BAD)
#: Bits 0 to 15 are reasons to reject a pixel (gap, dead, under- and over-responding, noisy, cluster, mask of the user);
#: those above describe it, as bit 31 does: a pixel between modules with an interpolated value.
_NEXUS_BITS = 0xFFFF
#: A pixel that is bad in more than this fraction of the frames is bad.
_OFTEN = 0.1
#: All pixels that are bad in any frame are bad in all, if they are no more than this fraction of the pixels.
_FEW = 0.03

_log = logging.getLogger(__name__)


def cxi_mask(file: Hdf5, key: str) -> NDArray[np.bool_] | None:
    """The bad pixels (h, w) of a mask of CXI; None if there is no mask or no bad pixel."""
    return _of_bits(file, key, _CXI_BITS) if file.has(key) else None


def nexus_mask(file: Hdf5, key: str) -> NDArray[np.bool_] | None:
    """The bad pixels (h, w) of a `pixel_mask` of NeXus; None if there is no mask or no bad pixel."""
    return _of_bits(file, key, _NEXUS_BITS) if file.has(key) else None


def _of_bits(file: Hdf5, key: str, bits: int) -> NDArray[np.bool_] | None:
    dataset = file.dataset(key)
    file.check_kind(key, dataset.dtype, "biu")
    if dataset.shape is not None and dataset.ndim in (3, 4):
        if np.prod(dataset.shape[:-2]) > 1:
            return bad_pixels_of(file, key, _of_frames(file, key, bits))
        values = file.numeric(key, "biu").reshape(dataset.shape[-2:])
    else:
        values = file.numeric(key, "biu")
    bad, harmless = _split(values, bits)
    if harmless.any():
        flags = int(np.bitwise_or.reduce(values[harmless].astype(np.int64), axis=None))
        _log.info(
            "%s: %d pixels of '%s' have flags of good pixels only (0x%x) and are used",
            *(file.path, int(harmless.sum()), key, flags),
        )
    return bad_pixels_of(file, key, bad)


def _split(values: NDArray[np.generic], bits: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Whether a pixel is bad, and whether it has other flags only."""
    if values.dtype == np.bool_:
        return values.astype(np.bool_), np.zeros(values.shape, np.bool_)
    flags = values.astype(np.int64, copy=False)
    bad = flags & bits != 0
    return bad, (flags != 0) & ~bad


def _of_frames(file: Hdf5, key: str, bits: int) -> NDArray[np.bool_]:
    """One mask of a mask for each frame.

    A Scan has one mask. A pixel that is bad in more than a tenth of the frames is bad. So is one that is bad in any
    frame, unless these are more than three percent of all pixels: then they are used, with a warning.
    """
    frames = Frames(file, [key], any_kind=True)
    times = np.zeros(frames.shape[1:], np.int64)
    for part in pattern_blocks(frames.shape):
        times += _split(frames[part], bits)[0].sum(axis=0)
    n = frames.shape[0]
    often, ever = times > _OFTEN * n, times > 0
    some = int(ever.sum() - often.sum())
    if not some:
        _log.info("%s: '%s' has a mask for each of %d frames: %d pixels are bad", file.path, key, n, often.sum())
        return often
    always = f"{int(often.sum())} pixels are bad in more than {_OFTEN:.0%} of the {n} frames"
    if ever.mean() - often.mean() <= _FEW:
        _log.warning("%s: '%s': %s, and %d in fewer: all of these are bad in all frames", file.path, key, always, some)
        return ever
    _log.warning(
        "%s: '%s': %s, and %d (%.1f %%) in fewer, which are too many to mask in all frames: they are used in all "
        "(bad_pixels=, --bad-pixels FILE.npy masks more)",
        *(file.path, key, always, some, 100 * some / times.size),
    )
    return often
