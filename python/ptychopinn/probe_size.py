# SPDX-License-Identifier: BSD-3-Clause
"""The size of a probe, by which overlap, neighbours and filters are measured."""

from __future__ import annotations

import numpy as np


def probe_diameter(probe: np.ndarray) -> float:
    """Diameter, in pixels, of the disk of the probe's effective area ``(sum I)^2 / sum I^2``, ``I = sum_m |P_m|^2``.

    Exact for a uniform disk, 4 sigma for a Gaussian intensity. It needs no threshold and no centre, and faint tails
    contribute little.

    Args:
        probe: (M, N, N) complex modes.

    Source: the effective area of a mode in fibre optics, G. P. Agrawal, Nonlinear Fiber Optics (2019), section 2.3.

    Example:
        >>> y, x = np.indices((64, 64)) - 32
        >>> round(probe_diameter((np.hypot(y, x) < 10)[None].astype(complex)))
        20
    """
    intensity = (np.abs(np.asarray(probe, np.complex128)) ** 2).sum(axis=0)
    area = intensity.sum() ** 2 / (intensity**2).sum()
    return float(2 * np.sqrt(area / np.pi))
