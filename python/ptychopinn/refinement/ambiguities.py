# SPDX-License-Identifier: BSD-3-Clause
"""What the patterns do not tell, set by convention: order and mixture of modes, the probe's power and its place.

None of these changes a predicted pattern: they are applied once, to the result. Also how modes are added to a start.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ptychopinn.physics.probes import add_modes
from ptychopinn.physics.propagation import squared_modulus

#: Power of the modes that are added to a probe, together, relative to that probe's.
_ADDED_POWER = 0.05
#: Least standard deviation, pixels, that positions are believed to have.
_LEAST_SPREAD = 0.02


def orthogonalise_modes(probe: Tensor) -> Tensor:
    """Orthogonal modes, strongest first, of the same mutual intensity: complex (M, N, N) to the same.

    The singular vectors of the modes as rows, by their singular values (P. Thibault and A. Menzel, Nature 494, 68
    (2013)); the first keeps the phase of the strongest given mode.
    """
    if len(probe) == 1:
        return probe
    rows = probe.reshape(len(probe), -1)
    _, values, vectors = torch.linalg.svd(rows, full_matrices=False)
    modes = values.to(vectors.dtype)[:, None] * vectors
    strongest = rows[squared_modulus(rows).sum(1).argmax()]
    overlap = (modes.conj() * strongest).sum(1, keepdim=True)
    modulus = overlap.abs()
    phase = torch.where(modulus > 0, overlap / modulus.clamp_min(torch.finfo(modulus.dtype).tiny), 1.0)
    return (modes * phase).reshape(probe.shape)


def mode_powers(probe: Tensor) -> Tensor:
    """Share of every mode in the probe's power, (M,)."""
    power = squared_modulus(probe).sum((-2, -1))
    return power / power.sum()


def centre_of_mass(probe: Tensor) -> Tensor:
    """(y, x) of the probe's intensity, summed over modes, pixels."""
    light = squared_modulus(probe).sum(0).double()
    axis = torch.arange(light.shape[0], dtype=torch.float64, device=light.device)
    return torch.stack([light.sum(1) @ axis, light.sum(0) @ axis]) / light.sum()


def drift_of(probe: Tensor, start: Tensor) -> tuple[int, int]:
    """Whole pixels (y, x) by which the probe's centre of mass has moved."""
    y, x = torch.round(centre_of_mass(probe) - centre_of_mass(start)).tolist()
    return int(y), int(x)


def with_modes(probe: Tensor, modes: int) -> Tensor:
    """The probe with so many modes and the same power: its strongest, or weak ones added orthogonal to the first."""
    if modes == len(probe):
        return probe
    power = squared_modulus(probe).sum()
    if modes < len(probe):
        kept = orthogonalise_modes(probe)[:modes]
        return kept * torch.sqrt(power / squared_modulus(kept).sum())
    grown = torch.from_numpy(add_modes(probe[0].cpu().numpy(), modes, decay=0.5)).to(probe)
    added = grown[len(probe) :]
    scale = _ADDED_POWER * power / squared_modulus(added).sum()
    return torch.cat([probe, added * torch.sqrt(scale)]) / (1 + _ADDED_POWER) ** 0.5


def fit_affine(reported: np.ndarray, refined: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The matrix A (2, 2) and shift b (2,) with ``refined = reported A^T + b`` in least squares, both (n, 2)."""
    terms = np.column_stack([reported, np.ones(len(reported))])
    solution = np.linalg.lstsq(terms, refined, rcond=None)[0]
    return solution[:2].T, solution[2]


def without_affine(reported: Tensor, moves: Tensor) -> Tensor:
    """Moves (n, 2) of positions without what a common shift, scale, rotation and shear of them explains."""
    centred = reported - reported.mean(0)
    terms = torch.cat([centred, torch.ones_like(centred[:, :1])], 1)
    return moves - terms @ (torch.linalg.pinv(terms) @ moves)


def spread_of(moves: Tensor) -> float:
    """Standard deviation along an axis of moves (n, 2), by the median of their lengths, which few outliers change."""
    return max(_LEAST_SPREAD, float(torch.sqrt(moves.square().sum(1).median() / (2 * np.log(2)))))
