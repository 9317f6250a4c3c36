# SPDX-License-Identifier: BSD-3-Clause
"""The noise-free part of PtychoPINN's ``ptycho.diffsim``: the photon scale and the far-field amplitude of an object.

The Poisson draw of the original is not here: it is random, so nothing can be reproduced; :mod:`ptychopinn.physics`
simulates scans with noise.
"""

from __future__ import annotations

from torch import Tensor

from ptychopinn.compat.tf_helper import pad_and_diffract


def scale_nphotons(amplitude: Tensor, probe: Tensor, *, nphotons: float) -> Tensor:
    """The factor on the object that makes the mean pattern hold nphotons (section 8 of docs/porting.md).

    Args:
        amplitude: (B, N, N, 1) modulus of the objects.
        probe: (N, N, 1), or anything that broadcasts against amplitude; one mode.
        nphotons: mean photons per pattern.

    Returns:
        A scalar, sqrt(nphotons / mean_b sum(amplitude^2 |probe|^2)).
    """
    return (nphotons / ((amplitude * probe.abs()) ** 2).sum((1, 2, 3)).mean()).sqrt()


def diffract_obj(sample: Tensor) -> Tensor:
    """The amplitude (B, N, N, 1) of exit waves (B, N, N, 1), unpadded (section 8 of docs/porting.md)."""
    return pad_and_diffract(sample, sample.shape[1], sample.shape[2], pad=False)[1]
