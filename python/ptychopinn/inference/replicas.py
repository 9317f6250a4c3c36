# SPDX-License-Identifier: BSD-3-Clause
"""Standard deviations of a network's image: predictions of replicas of the scan, see ptychopinn.metrics.deviations.

The spread of predictions, over overlaps or orientations, does not contain what they have in common: it is up to a
hundred times smaller than the error. Replicas contain the error of the network for an object like the one it found.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from ptychopinn.inference.fit import Fit, fit_of_result
from ptychopinn.metrics.deviations import Image, Loss, make_replicas, with_deviations
from ptychopinn.physics.simulate import predict_counts
from ptychopinn.reconstruction import Reconstruction
from ptychopinn.scan import Scan
from ptychopinn.storage.arrays import compact_counts

#: Least loss of replicas above photon noise that counts, relative to it.
_LEAST = 0.02
_MARGIN = 2  # pixels around the canvas, for positions that are rounded


def with_uncertainty(
    result: Reconstruction, scan: Scan, replicas: int, reconstruct: Callable[[Scan], Reconstruction]
) -> Reconstruction:
    """A network's image with the standard deviations of the object, of its amplitude and of its phase.

    Args:
        result: of the scan.
        scan: with the positions that the network was given.
        replicas: their number; each takes two predictions.
        reconstruct: makes an image of another scan with the same positions, on the same canvas.

    Returns:
        The result with ``uncertainty``, ``amplitude_uncertainty`` and ``phase_uncertainty``; all else is unchanged.
    """
    rng = np.random.default_rng(0)
    assert result.probe is not None
    positions = scan.positions - np.array(result.origin) + _MARGIN
    known_scan = replace(scan, probe=result.probe, positions=positions, truth=None)

    def predicted(known: Image) -> tuple[Image, Loss]:
        expected = predict_counts(known_scan, np.pad(known, _MARGIN))
        counts = compact_counts(rng.poisson(expected))
        if scan.experiment.saturation is not None:
            counts = np.minimum(counts, np.ceil(scan.experiment.saturation)).astype(counts.dtype)
        replica = replace(scan, counts=counts, truth=None)
        image = reconstruct(replica)
        return image.object.astype(np.complex128), _excess(fit_of_result(image, replica))

    return with_deviations(result, make_replicas(result, replicas, predicted), _excess(fit_of_result(result, scan)))


def _excess(fit: Fit) -> float:
    """Loss above photon noise; below the least that counts, that."""
    return max(fit.loss - fit.floor, _LEAST * fit.floor)
