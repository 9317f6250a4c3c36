# SPDX-License-Identifier: BSD-3-Clause
"""Ambiguities of ptychography, fixed by convention: the basis of probe modes, the probe's centre, affine motion.

Changing the basis of the modes, or moving probe and positions oppositely, leaves every predicted pattern as it is: both
are done once, to the result. Also the number of modes of an initial probe, and statistics of position errors.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from ptychopinn.physics.probes import add_modes
from ptychopinn.physics.propagation import squared_modulus

#: Total power of added modes, relative to the power of the probe they are added to.
_ADDED_POWER = 0.05
#: Lower bound of the standard deviation of position errors, pixels.
_MIN_DEVIATION = 0.02


def orthogonalise_modes(probe: Tensor) -> Tensor:
    """Orthogonalise modes by singular values, without changing their mutual intensity.

    Source: P. Thibault and A. Menzel, Nature 494, 68 (2013).

    Args:
        probe: complex, (M, N, N).

    Returns:
        (M, N, N), strongest first; each mode in phase with the strongest of the given ones.
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
    orthogonal: Tensor = (modes * phase).reshape(probe.shape)
    return orthogonal


def mode_powers(probe: Tensor) -> Tensor:
    """Fraction of the probe's power in every mode, (M,), of a probe (M, N, N)."""
    power = squared_modulus(probe).sum((-2, -1))
    return power / power.sum()


def centre_of_mass(probe: Tensor) -> Tensor:
    """Centre of mass (y, x), pixels, of the intensity of a probe (M, N, N), summed over modes."""
    intensity = squared_modulus(probe).sum(0).double()
    axis = torch.arange(intensity.shape[0], dtype=torch.float64, device=intensity.device)
    return torch.stack([intensity.sum(1) @ axis, intensity.sum(0) @ axis]) / intensity.sum()


def probe_drift(probe: Tensor, initial: Tensor) -> tuple[int, int]:
    """Shift (y, x) of the probe's centre of mass from that of the initial probe, rounded to integer pixels."""
    y, x = torch.round(centre_of_mass(probe) - centre_of_mass(initial)).tolist()
    return int(y), int(x)


def set_mode_count(probe: Tensor, modes: int) -> Tensor:
    """Keep the strongest modes, or add weak ones orthogonal to the first; the probe's power stays.

    Args:
        probe: complex, (M, N, N).
        modes: their number in the result.
    """
    if modes == len(probe):
        return probe
    power = squared_modulus(probe).sum()
    if modes < len(probe):
        kept = orthogonalise_modes(probe)[:modes]
        return kept.mul(torch.sqrt(power / squared_modulus(kept).sum()))
    extended = torch.from_numpy(add_modes(probe[0].cpu().numpy(), modes, decay=0.5)).to(probe)
    added = extended[len(probe) :]
    scale = _ADDED_POWER * power / squared_modulus(added).sum()
    combined: Tensor = torch.cat([probe, added * torch.sqrt(scale)]) / (1 + _ADDED_POWER) ** 0.5
    return combined


def fit_affine(reported: np.ndarray, refined: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Least-squares fit of ``refined = reported A^T + b`` to positions (n, 2): A, (2, 2), and b, (2,)."""
    terms = np.column_stack([reported, np.ones(len(reported))])
    solution = np.linalg.lstsq(terms, refined, rcond=None)[0]
    return solution[:2].T, solution[2]


def affine_residual(reported: Tensor, groups: Tensor | None = None) -> Callable[[Tensor], Tensor]:
    """Make the function that :func:`remove_affine` applies, for many moves of the same positions (n, 2)."""
    if groups is not None:
        return _residual_of_groups(reported, groups)
    centred = reported - reported.mean(0)
    terms = torch.cat([centred, torch.ones_like(centred[:, :1])], 1)
    fit = torch.linalg.pinv(terms)
    return lambda moves: moves - terms @ (fit @ moves)


def _residual_of_groups(reported: Tensor, groups: Tensor) -> Callable[[Tensor], Tensor]:
    """:func:`affine_residual` of every group of positions by itself; ``groups`` (n,) has its number for every one."""
    members = [(groups == group).nonzero()[:, 0] for group in groups.unique()]
    residuals = [affine_residual(reported[rows]) for rows in members]

    def residual(moves: Tensor) -> Tensor:
        result = torch.empty_like(moves)
        for rows, of_group in zip(members, residuals, strict=True):
            result[rows] = of_group(moves[rows])
        return result

    return residual


def remove_affine(reported: Tensor, moves: Tensor, groups: Tensor | None = None) -> Tensor:
    """Residual of moves (n, 2) after the least-squares fit of a common affine map of the reported positions (n, 2).

    With ``groups`` (n,) every group of positions has a map of its own.
    """
    return affine_residual(reported, groups)(moves)


def robust_deviation(moves: Tensor) -> float:
    """Standard deviation along an axis of normally distributed moves (n, 2), from the median of their lengths."""
    return max(_MIN_DEVIATION, float(torch.sqrt(moves.square().sum(1).median() / (2 * np.log(2)))))
