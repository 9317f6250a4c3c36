# SPDX-License-Identifier: BSD-3-Clause
"""Expected counts of patterns of any :class:`Experiment`, as a differentiable function in torch.

The plain model (thin sample, one still probe, far field, ideal detector) has operators of its own, which are several
times faster; this one is for all others, and gives the same values for the plain one. Patterns are in FFT order.
Equations: docs/maths.md, "Experiments".
"""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ptycho_ext import correct_fields, exit_waves, extract_patches
from ptychopinn.experiment import Experiment
from ptychopinn.physics.exposure import exposure_points
from ptychopinn.physics.likelihood import BACKGROUND
from ptychopinn.physics.propagation import far_field, mode_intensity


class ForwardModel:
    """The forward model of an experiment.

    Args:
        experiment: its arrays belong to all patterns of the scan.
        size: N, pixels along a pattern.
        pixel_size: metres per object pixel; needed for a thick sample.
        wavelength: metres; needed for a thick sample.
        device: of the computation.

    Attributes:
        points: float64, (1, K, 2) or (n, K, 2), points of the exposures relative to the positions, pixels.
        weights: float32, (K,), their parts of the exposure.
        ideal: whether the detector is: counts are those of the waves.
    """

    def __init__(
        self,
        experiment: Experiment,
        size: int,
        pixel_size: float | None,
        wavelength: float | None,
        device: torch.device,
    ) -> None:
        self.size, self.device = size, device
        points, weights = exposure_points(experiment)
        self.points = torch.from_numpy(points).to(device)
        self.weights = torch.from_numpy(weights).float().to(device)
        frequencies = torch.fft.fftfreq(size, dtype=torch.float64, device=device)
        self._angular = (2 * math.pi * frequencies).float()
        ratio = wavelength / pixel_size if wavelength is not None and pixel_size is not None else 0.0
        square = frequencies[:, None] ** 2 + frequencies**2
        # Propagation by d is the factor exp(i d phase), with d in units of pixel^2 / wavelength.
        self._phase = _propagation_phase(square, ratio)
        if experiment.slice_distances:
            assert pixel_size is not None and wavelength is not None
            steps = (
                -2 * math.pi * torch.tensor(np.tan(experiment.tilt), dtype=torch.float64, device=device) / pixel_size
            )
            lateral = (steps[0] * frequencies)[:, None] + steps[1] * frequencies
            self._slice_phase = self._phase * (wavelength / pixel_size**2) + lateral  # per metre
        self.far = experiment.fresnel_number is None
        if experiment.fresnel_number is not None:
            self._to_detector = _unit_phasor(self._phase / experiment.fresnel_number)
        self._blur: Tensor | None = None
        if experiment.point_spread is not None:
            half = torch.fft.rfftfreq(size, dtype=torch.float64, device=device)
            square = frequencies[:, None] ** 2 + half**2
            self._blur = torch.exp(-2 * (math.pi * experiment.point_spread) ** 2 * square).float()
        self.saturation = experiment.saturation
        factors = experiment.background_factors
        self.background_factors = None if factors is None else torch.from_numpy(factors).float().to(device)
        self.ideal = self._blur is None and self.saturation is None

    def of_patterns(self, members: Tensor) -> ForwardModel:
        """The model of patterns with indices ``members`` (k,) alone."""
        part = copy.copy(self)
        part.points = self.points_of(members)
        if self.background_factors is not None:
            part.background_factors = self.background_factors[members]
        return part

    def points_of(self, members: Tensor) -> Tensor:
        """Points (k or 1, K, 2) of the exposures of patterns with indices ``members`` (k,)."""
        return self.points if len(self.points) == 1 else self.points[members]

    def probes_of(self, probe: Tensor, variations: Tensor, coefficients: Tensor) -> Tensor:
        """Probes of patterns, (k, M, N, N), or (1, M, N, N) without variations.

        Args:
            probe: complex, (M, N, N).
            variations: complex, (V, N, N), of the first mode.
            coefficients: real, (k, V).
        """
        if not len(variations):
            return probe[None]
        first = probe[0] + torch.einsum("kv,vij->kij", coefficients.to(probe.dtype), variations)
        if len(probe) == 1:
            return first[:, None]
        return torch.cat([first[:, None], probe[None, 1:].expand(len(coefficients), -1, -1, -1)], 1)

    def fields(
        self, canvas: Tensor, probes: Tensor, anchors: Tensor, offsets: Tensor, distances: Tensor | None = None
    ) -> Tensor:
        """Waves at the detector.

        Args:
            canvas: complex, (H, W) or (S, H, W) for slices.
            probes: complex, (k or 1, M, N, N).
            anchors: float64, (k, K, 2), integer canvas positions where patches are cut.
            offsets: float64, (k, K, 2), the points' positions minus their anchors, pixels.
            distances: float64, (S - 1,), metres between slices.

        Returns:
            complex, (k, K M, N, N), in sqrt(counts), the modes of all points, with the points' weights.
        """
        count, points = anchors.shape[:2]
        modes = probes.shape[1]
        spectra = torch.fft.fft2(probes)[:, None]
        shifted = torch.fft.ifft2(spectra * (self.ramps(offsets) * torch.sqrt(self.weights)[:, None, None])[:, :, None])
        shifted = shifted.expand(count, points, modes, self.size, self.size).reshape(-1, modes, self.size, self.size)
        cuts = anchors.reshape(-1, 2)
        if canvas.dim() == 2 or len(canvas) == 1:
            waves = exit_waves(canvas if canvas.dim() == 2 else canvas[0], cuts, shifted)
        else:
            assert distances is not None
            waves = shifted
            for index, image in enumerate(canvas):
                if index:
                    factor = _unit_phasor(self._slice_phase * distances[index - 1])
                    waves = torch.fft.ifft2(torch.fft.fft2(waves) * factor)
                waves = waves * extract_patches(image, cuts, self.size)[:, None]
        if self.far:
            fields = far_field(waves)
        else:
            # The probe was moved instead of the object: the pattern is moved back with the propagation.
            back = (self._to_detector * self.ramps(-offsets).reshape(-1, self.size, self.size))[:, None]
            fields = torch.fft.ifft2(torch.fft.fft2(waves) * back)
            fields = torch.roll(fields, (-(self.size // 2),) * 2, (-2, -1))
        return fields.reshape(count, points * modes, self.size, self.size)

    def ramps(self, offsets: Tensor) -> Tensor:
        """Factors (..., N, N) of a spectrum that move an image by offsets (..., 2), pixels."""
        rows, columns = (_unit_phasor(-offsets[..., axis, None] * self._angular) for axis in (0, 1))
        return rows[..., :, None] * columns[..., None, :]

    def expected(
        self, fields: Tensor, factors: Tensor, background: Tensor | None = None, members: Tensor | None = None
    ) -> Tensor:
        """Expected counts (k, N, N) of fields (k, M, N, N).

        Args:
            fields: of :meth:`fields`.
            factors: (k,), of the intensity of every pattern.
            background: (N, N), counts, FFT order.
            members: (k,), indices of the patterns, for factors of the background.
        """
        intensity = mode_intensity(fields)
        if self._blur is not None:
            intensity = torch.fft.irfft2(torch.fft.rfft2(intensity) * self._blur, s=intensity.shape[-2:]).clamp_min(0.0)
        intensity = intensity * factors.to(intensity.dtype)[:, None, None]
        if background is None or not background.numel():
            return intensity
        if self.background_factors is not None:
            assert members is not None
            background = background * self.background_factors[members][:, None, None]
        return intensity + background.to(intensity.dtype)

    def objectives(
        self,
        fields: Tensor,
        counts: Tensor,
        good: Tensor | None,
        loss: str,
        factors: Tensor,
        background: Tensor | None = None,
        members: Tensor | None = None,
    ) -> Tensor:
        """J of every pattern, half its deviance in nats, float64, (k,).

        Args:
            fields: of :meth:`fields`.
            counts: (k, N, N), any real type.
            good: bool, (N, N), or None.
            loss: "poisson" or "amplitude".
            factors: as for :meth:`expected`.
            background: as for :meth:`expected`.
            members: as for :meth:`expected`.
        """
        if self.ideal and (background is None or not background.numel()):
            values: Tensor = correct_fields(
                fields, counts, mask=good, scale=factors.float(), loss=loss, background=BACKGROUND, correct=False
            )[1]
            return values
        expected = self.expected(fields, factors, background, members)
        result: Tensor = _Objective.apply(expected, counts, good, loss, self.saturation)  # type: ignore[no-untyped-call]
        return result


class _Objective(torch.autograd.Function):
    """J of expected counts; its derivative is computed with it, while the counts are at hand."""

    @staticmethod
    def forward(
        ctx: Any, expected: Tensor, counts: Tensor, good: Tensor | None, loss: str, saturation: float | None
    ) -> Tensor:
        predicted, measured = expected + BACKGROUND, counts.to(expected.dtype) + BACKGROUND
        difference = predicted - measured
        if loss == "poisson":
            excess = difference / measured
            near = excess.abs() < 0.5
            logarithm = torch.where(near, torch.log1p(excess), torch.log(predicted / measured))
            values, slopes = (measured * (excess - logarithm)) / 2, difference / (2 * predicted)
        else:
            roots = torch.sqrt(predicted)
            error = difference / (roots + torch.sqrt(measured))
            values, slopes = error * error, error / roots
        if saturation is not None:
            censored = counts.to(expected.dtype) >= saturation
            # The square root of a count is nearly normal, with a standard deviation of 1/2.
            roots = torch.sqrt(predicted)
            score = 2 * (roots - math.sqrt(saturation + BACKGROUND))
            log_tail = torch.special.log_ndtr(score)
            ratio = torch.exp(-0.5 * score.square() - 0.5 * math.log(2 * math.pi) - log_tail)
            values = torch.where(censored, -0.5 * log_tail, values)
            slopes = torch.where(censored, -0.5 * ratio / roots, slopes)
        if good is not None:
            values, slopes = values * good, slopes * good
        ctx.save_for_backward(slopes)
        return values.sum((-2, -1), dtype=torch.float64)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None, None]:
        (slopes,) = ctx.saved_tensors
        return slopes * grad.to(slopes.dtype)[:, None, None], None, None, None, None


def _propagation_phase(square: Tensor, ratio: float) -> Tensor:
    """Phase of free space per distance of pixel^2 / wavelength, at squared frequencies in cycles per pixel.

    With ``ratio``, wavelength over pixel size, above 0 it is that of the angular spectrum, else of its paraxial
    approximation, ``-pi f^2``. Evanescent waves do not propagate: their phase is that of the border.
    """
    if ratio == 0:
        return -math.pi * square
    inner = (ratio**2 * square).clamp_max(1.0)
    # sqrt(1 - x) - 1 = -x / (1 + sqrt(1 - x)), without cancellation
    return -2 * math.pi * square.clamp_max(1 / ratio**2) / (1 + torch.sqrt(1 - inner))


def _unit_phasor(angle: Tensor) -> Tensor:
    """``exp(i angle)``, complex64; differentiable by a float64 angle."""
    reduced = torch.remainder(angle, 2 * math.pi).float() if angle.dtype == torch.float64 else angle
    return torch.complex(torch.cos(reduced), torch.sin(reduced))
