# SPDX-License-Identifier: BSD-3-Clause
"""Variation of the probe over the scan: first estimate, and the basis in which it is reported.

Orthogonal probe relaxation (M. Odstrcil et al., Opt. Express 24, 8360 (2016)): the probes of all patterns lie near a
subspace of few dimensions. The first estimate is by Gauss-Newton steps of the probe of every pattern alone, in a
subspace of candidates: aberrations of low order, which leave the intensity of the aperture as it is, so that gradients
see little of them, and the leading components of the gradients themselves.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from ptychopinn.physics.propagation import squared_modulus
from ptychopinn.refinement.experiment_objective import ExperimentObjective
from ptychopinn.refinement.regions import BatchRegion
from ptychopinn.refinement.state import State
from ptychopinn.refinement.variation_prior import POWER_WEIGHT, VariationPrior
from ptychopinn.runtime.processes import reduce_sums

#: Candidates from the gradients, and vectors of their range finder.
_FROM_GRADIENTS, _SKETCH = 8, 16
#: A candidate is omitted if less than this fraction of it is outside of the span of those before.
_INDEPENDENT = 1e-2
#: Steps of the fit of coefficients, their damping relative to the curvature, and lengths that are tried.
_FIT_STEPS = 2
_DAMPING = 0.05
_LENGTHS = (1.0, 0.5, 0.2, 0.0)


def estimate_variations(
    objective: ExperimentObjective, state: State, prior: VariationPrior, count: int, seed: int
) -> tuple[Tensor, Tensor]:
    """Estimate variations of the probe from single patterns.

    Args:
        objective: of the scan; its batches and anchors are set.
        state: object and probe that explain the patterns in the mean; variations that it has are kept among others.
        prior: of the variations.
        count: V.
        seed: of the range finder.

    Returns:
        (V, N, N) complex variations in sqrt(counts), and (n, V) coefficients.
    """
    patterns = len(objective.counts)
    others = torch.cat([state.variations, _gradient_components(objective, state, seed)])
    basis = candidates(state.probe[0], others)
    # The variations that there are, along the basis, whose span has them.
    shapes, known = (torch.view_as_real(part).flatten(1).double() for part in (basis, state.variations))
    present = state.coefficients @ (known @ shapes.T)
    steps = torch.zeros(patterns, len(basis), dtype=torch.float64, device=objective.device)
    identity = torch.eye(len(basis), dtype=torch.float64, device=objective.device)
    for region, counts in _batches(objective):
        curvature, descent = objective.variation_terms(region, counts, state, basis)
        descent = descent - POWER_WEIGHT * present[region.members]
        steps[region.members] = torch.linalg.solve(curvature + POWER_WEIGHT * identity, descent)
    reduce_sums(steps)
    steps += present
    left, values, right = torch.linalg.svd(steps - steps.mean(0), full_matrices=False)
    count = min(count, len(values))
    factors = values[:count, None] / patterns**0.5 * right[:count]
    variations = torch.einsum("vc,cij->vij", factors.to(basis.dtype), basis)
    begun = replace(state, variations=variations, coefficients=torch.zeros_like(left[:, :count]))
    return variations, prior.without_smooth_motion(variations, fit_coefficients(objective, begun))


def fit_coefficients(objective: ExperimentObjective, state: State) -> Tensor:
    """Fit the coefficients of the variations, pattern by pattern, with everything else fixed; returns (n, V)."""
    coefficients = state.coefficients.clone()
    weight = POWER_WEIGHT * _products(state.variations)
    for _ in range(_FIT_STEPS):
        for region, counts in _batches(objective):
            members = region.members
            current = replace(state, coefficients=coefficients)
            curvature, descent = objective.variation_terms(region, counts, current, state.variations)
            descent = descent - coefficients[members] @ weight
            damped = curvature + weight + _DAMPING * torch.diag_embed(curvature.diagonal(dim1=1, dim2=2))
            step = torch.linalg.solve(damped, descent)
            trials = []
            for length in _LENGTHS:
                trial = coefficients.index_add(0, members, step, alpha=length)
                moved = trial[members]
                values = objective.region_objectives(region, counts, replace(state, coefficients=trial))
                trials.append(values + ((moved @ weight) * moved).sum(1))
            best = torch.tensor(_LENGTHS, dtype=step.dtype, device=step.device)[torch.stack(trials).argmin(0)]
            coefficients.index_add_(0, members, best[:, None] * step)
    moves = coefficients - state.coefficients
    reduce_sums(moves)
    return state.coefficients + moves


def _products(shapes: Tensor) -> Tensor:
    """Real inner products (V, V) of shapes (V, N, N), float64."""
    flat = torch.view_as_real(shapes).flatten(1).double()
    return flat @ flat.T


def candidates(probe: Tensor, others: Tensor) -> Tensor:
    """Orthonormal shapes (C, N, N) by which a probe (N, N) may vary, for real coefficients.

    Its polynomial aberrations up to the third order and the spherical one, as phase and as amplitude of its far field,
    and other shapes.

    Args:
        probe: complex, (N, N).
        others: complex, (K, N, N).
    """
    spectrum = torch.fft.fft2(probe)
    k = torch.fft.fftfreq(probe.shape[-1], dtype=torch.float32, device=probe.device)
    power = squared_modulus(spectrum)
    radius = torch.sqrt((power * (k[:, None] ** 2 + k**2)).sum() / power.sum())
    y, x = (k / radius)[:, None].expand_as(power), (k / radius).expand_as(power)
    square = y * y + x * x
    terms = [y, x, square, y * y - x * x, 2 * y * x, y * square, x * square]
    terms += [y * (y * y - 3 * x * x), x * (x * x - 3 * y * y), square * square]
    far = [1j * term for term in terms] + [torch.ones_like(y), *terms[:5]]
    found: list[Tensor] = []
    for shape in [torch.fft.ifft2(spectrum * factor) for factor in far] + list(others):
        flat = torch.view_as_real(shape).flatten().double()
        flat = flat / flat.norm().clamp_min(1e-300)
        rest = flat
        for _ in range(2):  # twice is enough
            for vector in found:
                rest = rest - vector * vector.dot(rest)
        if rest.norm() > _INDEPENDENT:
            found.append(rest / rest.norm())
    return torch.view_as_complex(torch.stack(found).float().view(-1, *probe.shape, 2))


def _batches(objective: ExperimentObjective) -> Iterator[tuple[BatchRegion, Tensor]]:
    """Regions of all batches that are not empty, and their counts."""
    regions = objective.regions
    for region, counts in zip(regions, objective.batch_counts(range(len(regions))), strict=True):
        if len(region.rows):
            yield region, counts


def _gradient_components(objective: ExperimentObjective, state: State, seed: int) -> Tensor:
    """Leading components (K, N, N) of the corrections that single patterns have for the probe.

    A randomised range finder (N. Halko et al., SIAM Rev. 53, 217 (2011)) with one power iteration: the corrections of
    all patterns are never in memory at once.
    """
    size, patterns = objective.size, len(objective.counts)
    rank = min(_SKETCH, patterns)
    generator = torch.Generator(device="cpu").manual_seed(seed)
    mixing = torch.randn(patterns, rank, generator=generator, dtype=torch.float32, device="cpu").to(objective.device)

    def corrections() -> Iterator[tuple[Tensor, Tensor]]:
        for region, counts in _batches(objective):
            steps = objective.pattern_gradients(region, counts, state)
            yield region.members, torch.view_as_real(steps).flatten(1)

    def sums(weights: Tensor) -> Tensor:
        """Sums (r, 2 N^2) of the corrections with weights (n, r), less their mean."""
        total, mean = weights.new_zeros(rank, 2 * size * size), weights.new_zeros(2 * size * size)
        for members, steps in corrections():
            total += weights[members].T @ steps
            mean += steps.sum(0)
        reduce_sums(total, mean)
        return total - weights.sum(0)[:, None] * (mean / patterns)

    basis = torch.linalg.qr(sums(mixing).T).Q
    components = mixing.new_zeros(patterns, rank)
    for members, steps in corrections():
        components[members] = steps @ basis
    reduce_sums(components)
    basis = torch.linalg.qr(sums(torch.linalg.qr(components - components.mean(0)).Q).T).Q.T
    return torch.view_as_complex(basis[:_FROM_GRADIENTS].reshape(-1, size, size, 2).contiguous())


def orthogonalise_variations(probe: Tensor, variations: Tensor, coefficients: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The same probes of all patterns, with orthogonal variations, the strongest first, whose coefficients have mean 0.

    Args:
        probe: complex, (M, N, N).
        variations: complex, (V, N, N), of the first mode.
        coefficients: float64, (n, V).

    Returns:
        probe, with the mean of the variation in its first mode; variations; coefficients, of mean square 1.
    """
    if not len(variations):
        return probe, variations, coefficients
    mean = coefficients.mean(0)
    first = probe[0] + torch.einsum("v,vij->ij", mean.to(probe.dtype), variations)
    shapes = torch.view_as_real(variations).flatten(1).double()
    # The matrix of all variations is centred times shapes, of which only small factors are needed.
    outer, triangle = torch.linalg.qr(coefficients - mean)
    left, values, right = torch.linalg.svd(triangle @ shapes, full_matrices=False)
    root = len(coefficients) ** 0.5
    signs = torch.where(left.sum(0) < 0, -1.0, 1.0).double()
    ordered = (outer @ left) * signs * root
    real = (signs[:, None] * values[:, None] * right / root).to(probe.real.dtype)
    orthogonal = torch.view_as_complex(real.view(*variations.shape, 2).contiguous())
    return torch.cat([first[None], probe[1:]]), orthogonal, ordered


def variation_power(probe: Tensor, variations: Tensor, coefficients: Tensor) -> float:
    """Mean power of the variation, relative to the power of a probe (M, N, N)."""
    if not len(variations):
        return 0.0
    powers = squared_modulus(variations).sum((1, 2)).double()
    return float((coefficients.square().mean(0) * powers).sum() / squared_modulus(probe).sum())
