# SPDX-License-Identifier: BSD-3-Clause
"""Standard deviations of an object, of its amplitude and of its phase, by a parametric bootstrap of any method.

The counts that an image predicts get photon noise of their own and are reconstructed as the measured ones were; what
then differs from the known object is an error of the method: noise, what a prior or a network smooths away, and what
has not converged. An image that was smoothed no longer shows how much smoothing costs, so there are replicas of a
second kind, whose object is the image minus the error of one of the first. Shared by refinement and networks;
measurements: docs/uncertainty.md.

Sources: B. Efron and R. Tibshirani, An Introduction to the Bootstrap (1993), chapter 6; P. Hall and M. Martin,
Biometrika 75, 661 (1988), for the iteration.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ptychopinn._one_line import one_line
from ptychopinn.metrics.align import fit_ramp, phasor, shifted
from ptychopinn.reconstruction import Reconstruction

#: (H, W); of a thick sample, where it is stated, its slices (S, H, W).
Image = NDArray[np.complex128]
Loss = float | NDArray[np.floating]
_Map = NDArray[np.float64]

#: Standard deviation, rad, of a phase of which nothing is known: that of the uniform distribution over 2 pi.
LARGEST_PHASE = math.pi / math.sqrt(3)
#: Illumination, relative to the typical one, from which a pixel has an error of its own; as in figures.
_MEASURED = 0.02
#: Turns in which a shift is undone, and the shifts, pixels, below which linear terms do and above which they fail.
_TURNS, _LEAST_SHIFT, _LARGEST_SHIFT = 6, 2e-3, 2.0
#: Standard deviation, pixels, of the Gaussian that averages variances: with three replicas, 85 values for a pixel.
_SMOOTHING = 1.5


@dataclass(frozen=True)
class Replicas:
    """Errors (H, W) of replicas and their losses, one number or (H, W) each.

    Attributes:
        errors: of replicas whose object is the result, and of those whose object is the result minus such an error; the
            second list may be empty.
        losses: likewise.
        slices: errors (S, H, W) of the slices of a thick sample, likewise; of others the lists are empty.
    """

    errors: tuple[list[Image], list[Image]]
    losses: tuple[list[Loss], list[Loss]]
    slices: tuple[list[Image], list[Image]] = field(default_factory=lambda: ([], []))

    __repr__ = one_line


def make_replicas(
    result: Reconstruction,
    count: int,
    reconstruct: Callable[[Image], tuple[Image, Loss]],
    pairs: bool = True,
    parts: Sequence[tuple[slice, slice]] = (np.s_[:, :],),
) -> Replicas:
    """Replicas of a result.

    Args:
        result: of the measured counts.
        count: number of replicas of either kind.
        reconstruct: simulates counts of an object (H, W) on the canvas of the result, and returns what the method makes
            of them, likewise, and its loss, of one number or (H, W). Of a thick sample, it takes and returns the slices
            (S, H, W).
        pairs: whether to make the second kind.
        parts: of the canvas, which have ambiguities of their own, as samples side by side have.
    """
    measured = result.covered(_MEASURED)
    weight = np.where(measured, result.weights, 0.0)
    thick = result.slices is not None
    found = (result.object if result.slices is None else result.slices).astype(np.complex128)
    made = Replicas(([], []), ([], []))

    def error_of(image: Image, known: Image) -> Image:
        error = np.zeros_like(known)
        for part in parts:
            error[part] = ambiguities_removed(image[part], known[part], weight[part])
        return np.where(measured, error, 0)

    for _ in range(count):
        known = found
        for errors, losses, of_slices in list(zip(made.errors, made.losses, made.slices, strict=True))[: 1 + pairs]:
            image, loss = reconstruct(known)
            losses.append(loss)
            if thick:
                # Slices have ambiguities of their own: a ramp of one is undone by a ramp and a shift of the next.
                error = np.stack([error_of(*pair) for pair in zip(image, known, strict=True)])
                of_slices.append(error)
                errors.append(error_of(image.prod(0), known.prod(0)))
            else:
                error = error_of(image, known)
                errors.append(error)
            known = found - error
    return made


def ambiguities_removed(image: Image, known: Image, weight: NDArray[np.floating]) -> Image:
    """Error of an image without the ambiguities of ptychography: complex scale, phase ramp and a small shift.

    Scale and ramp are fitted, and what a shift explains of the error is undone with Fourier interpolation, in turns;
    what is left of all of these is removed by linear least squares, with the derivatives of the known object by them.

    Args:
        image: complex, (H, W).
        known: complex, (H, W).
        weight: real, (H, W), >= 0, of the squared error.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> known = np.exp(1j * ndimage.gaussian_filter(rng.normal(size=(40, 50)), 3))
        >>> image = 2j * known * np.exp(0.01j * np.arange(50))
        >>> bool(np.abs(ambiguities_removed(image, known, np.ones(known.shape))).max() < 1e-6)
        True
    """
    y, x = (np.linspace(-1, 1, side) for side in known.shape)
    terms = (known, 1j * known, 1j * y[:, np.newaxis] * known, 1j * x * known, *np.gradient(known))
    root = np.sqrt(weight)
    columns = np.stack([_reals(root * term) for term in terms], 1)
    for turn in range(_TURNS):
        ramped = image * phasor(image.shape, fit_ramp(image * weight, known))
        power = float((weight * np.abs(ramped) ** 2).sum())
        scale = (weight * known * ramped.conj()).sum() / power if power > 0 else 0.0
        error = scale * ramped - known
        amounts = np.linalg.lstsq(columns, _reals(root * error), rcond=None)[0]
        shift = amounts[-2:]
        if turn == _TURNS - 1 or not _LEAST_SHIFT < np.abs(shift).max() < _LARGEST_SHIFT:
            break
        image = shifted(image, shift)
    left: Image = error - sum(a * term for a, term in zip(amounts, terms, strict=True))
    return left


def with_deviations(result: Reconstruction, replicas: Replicas, loss: Loss) -> Reconstruction:
    """A result with the standard deviations of object, amplitude and phase that its replicas have.

    Of the two kinds of replicas, the first have too little detail in their object, and the second too much: the worse
    the result fits relative to them, the more the second count. Where it fits worse than the first, what it does not
    explain of the counts is taken as an error of the same kind, and the variance grows by that factor. Where nothing
    was measured, the amplitude is as uncertain as it is large, and the phase is of any value.

    Args:
        result: of the measured counts.
        replicas: of the result.
        loss: of the result, as those of the replicas.
    """
    measured = result.covered(_MEASURED)
    part = np.maximum(ndimage.gaussian_filter(measured.astype(np.float64), _SMOOTHING), 1e-12)
    second = weight_of_second(replicas, loss, measured)
    excess = np.maximum(1.0, loss / np.maximum(_mean(replicas.losses[0]), 1e-30))

    def deviations(image: NDArray[np.complexfloating], errors_of: Sequence[Sequence[Image]]) -> tuple[_Map, _Map, _Map]:
        """Standard deviations of amplitude, of the value across its direction, and of the phase, of an image (H, W)."""
        amplitude = np.abs(image).astype(np.float64)
        unit = np.where(amplitude > 0, image / np.where(amplitude > 0, amplitude, 1), 1)
        typical = float(np.sqrt(np.mean(np.square(amplitude[measured])))) if measured.any() else 1.0

        def deviation(of: Callable[[Image], _Map]) -> _Map:
            variances = [np.mean([np.square(of(e * unit.conj())) for e in errors], 0) for errors in errors_of if errors]
            variance = excess * np.average(variances, axis=0, weights=[1 - second, second][: len(variances)])
            smooth = ndimage.gaussian_filter(np.where(measured, variance, 0), _SMOOTHING) / part
            return np.where(measured, np.sqrt(smooth), typical)

        along, across = deviation(np.real), deviation(np.imag)
        return along, across, np.where(measured, _phase_deviation(across, amplitude), LARGEST_PHASE)

    along, across, phase = deviations(result.object, replicas.errors)
    maps: dict[str, Any] = {}
    if result.slices is not None and replicas.slices[0]:
        of_slices = [
            deviations(image, [[error[index] for error in errors] for errors in replicas.slices])
            for index, image in enumerate(result.slices)
        ]
        maps["slices_amplitude_uncertainty"] = np.stack([amplitude for amplitude, *_ in of_slices])
        maps["slices_phase_uncertainty"] = np.stack([phases for *_, phases in of_slices])
    return replace(
        result, uncertainty=np.hypot(along, across), amplitude_uncertainty=along, phase_uncertainty=phase, **maps
    )


def weight_of_second(replicas: Replicas, loss: Loss, measured: NDArray[np.bool_]) -> float:
    """Weight, 0 to 1, of the second kind of replicas: 1 where the result fits as the first kind or worse.

    It falls by the improvement of the fit relative to the first kind, in units of the difference of the two kinds.

    Args:
        replicas: of a result.
        loss: of the result.
        measured: (H, W), pixels whose losses count.
    """
    if not replicas.errors[1]:
        return 0.0
    own, first, second = (
        float(np.mean(np.broadcast_to(one, measured.shape)[measured]))
        for one in (np.asarray(loss), *map(_mean, replicas.losses))
    )
    if second <= first:
        return 1.0
    return float(np.clip(1 + (own - first) / (second - first), 0, 1))


def _mean(losses: list[Loss]) -> NDArray[np.float64]:
    return np.asarray(np.mean(np.stack([np.asarray(one, np.float64) for one in losses]), axis=0))


def _phase_deviation(across: NDArray[np.float64], amplitude: NDArray[np.float64]) -> NDArray[np.float64]:
    """Standard deviation of the phase, rad, of a value of this modulus and deviation across its direction."""
    smallest = np.maximum(across / LARGEST_PHASE, 1e-30)
    return np.asarray(across / np.maximum(amplitude, smallest))


def _reals(values: Image) -> NDArray[np.float64]:
    return np.concatenate([values.real.ravel(), values.imag.ravel()])
