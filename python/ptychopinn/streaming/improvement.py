# SPDX-License-Identifier: BSD-3-Clause
"""The image refined against the counts while no frames wait, in steps that are short enough for those that come.

A refinement begins with the image as it is, and continues from call to call. With new frames it begins again, with the
image that they were added to and with its own probe. While frames come it is one of the latest of them, which takes
little time; later of all, or of the latest that a part of the memory holds.
"""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from ptychopinn.config import RefineConfig
from ptychopinn.reconstruction import Reconstruction
from ptychopinn.refinement.run import Refinement
from ptychopinn.scan import Scan

#: Steps whose loss is kept.
_KEPT = 1000
#: Frames that are refined while others come, and bytes of counts that are refined at all.
_RECENT, _BYTES = 2048, 1 << 28
#: Frames from which the deviance tells something: a few are explained by any object and probe.
_FEW = 256
#: Fraction of the typical illumination from which the refined object is used.
_COVERED = 0.01


class Improvement:
    """A refinement that continues while there is time.

    Args:
        device: of the computation.
        most: passes after which an image is not refined further, until there are more frames.

    Attributes:
        losses: (seconds of the monotonic clock, deviance per detector pixel) after the latest steps.
        passes: in all.
    """

    def __init__(self, device: torch.device, most: int) -> None:
        self.device, self.most = device, most
        self.losses: list[tuple[float, float]] = []
        self.passes = 0
        self._run: Refinement | None = None
        self._frames = 0, 0  # in the image, and refined
        self._probe: NDArray[np.complex64] | None = None

    def frames(self, total: int, nbytes: int, receiving: bool) -> int:
        """How many of the latest frames to refine.

        Args:
            total: frames in the image.
            nbytes: of the counts of a frame.
            receiving: whether frames come.
        """
        return min(total, _RECENT if receiving else total, max(1, _BYTES // nbytes))

    def wants(self, total: int, count: int) -> bool:
        """Whether a step would change the image of so many frames, of which the latest are refined."""
        if self._run is None or (total, count) != self._frames:
            return self.most > 0 and count > 0
        return not self._run.over()

    def continues(self, total: int, count: int) -> bool:
        """Whether the refinement in progress is that of these frames."""
        return self._run is not None and (total, count) == self._frames

    def begin(self, scan: Scan, image: Reconstruction, total: int) -> None:
        """Begin with the image of all frames; the scan has the latest of them."""
        if self._probe is not None:
            image = replace(image, probe=self._probe)
        config = RefineConfig(iterations=self.most, split_half=False, find_defocus=False, tolerance=0.0)
        self._run = None  # its memory is used again
        self._run, self._frames = Refinement(scan, image, config, self.device, None, 1, "improve"), (total, scan.n)

    def end(self) -> None:
        """Refine nothing more."""
        self.most, self._run = 0, None

    def step(self, seconds: float) -> Reconstruction:
        """Do passes for a time, at least one; the result is zero where these frames do not cover it."""
        run = self._run
        assert run is not None
        end = time.perf_counter() + seconds
        with torch.no_grad():
            while not run.over():
                before = time.perf_counter()
                run.advance()
                self.passes += 1
                if 2 * time.perf_counter() - before > end:  # another one would take too long
                    break
        if self._frames[1] >= _FEW:
            self.losses = [*self.losses[-_KEPT:], (time.monotonic(), run.deviance())]
        result = run.result()
        self._probe = result.probe
        return replace(result, object=np.where(result.covered(_COVERED), result.object, 0))
