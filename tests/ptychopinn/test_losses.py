# SPDX-License-Identifier: BSD-3-Clause
"""Losses of predicted and measured counts: closed forms, precision, bad pixels, and finite values at the limits."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Poisson

from ptychopinn.physics.likelihood import BACKGROUND, LOSSES, amplitude_loss, loss_of_fields, poisson_loss
from ptychopinn.physics.propagation import mode_intensity

Loss = Callable[[Tensor, Tensor, Tensor | None], Tensor]
LOSS_CASES = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)


def test_poisson_loss_is_the_likelihood_above_its_minimum() -> None:
    generator = torch.Generator().manual_seed(0)
    intensity = 50 * torch.rand(3, 8, 8, generator=generator, dtype=torch.float64)
    counts = torch.poisson(intensity, generator=generator)
    rate, k = intensity + BACKGROUND, counts + BACKGROUND
    unchecked = {"validate_args": False}
    closed = (Poisson(k, **unchecked).log_prob(k) - Poisson(rate, **unchecked).log_prob(k)).sum() / counts.sum()
    assert poisson_loss(intensity, counts).item() == pytest.approx(closed.item(), rel=1e-10)


def test_amplitude_loss_has_its_closed_form() -> None:
    intensity, counts = torch.tensor([[8.9, 3.9]]), torch.tensor([[0.9, 15.9]])  # amplitudes 3 and 2 against 1 and 4
    assert amplitude_loss(intensity, counts).item() == pytest.approx((2**2 + 2**2) / 16.8, rel=1e-6)


@LOSS_CASES
@pytest.mark.parametrize("level", [0.0, 1e-3, 0.3, 7.0, 1e4, 1e9])
def test_loss_and_gradient_are_zero_where_prediction_and_counts_agree(loss: Loss, level: float) -> None:
    counts = level * torch.rand(4, 8, 8, generator=torch.Generator().manual_seed(0))
    intensity = counts.clone().requires_grad_()
    value = loss(intensity, counts, None)
    value.backward()
    assert value.item() == 0 and intensity.grad.abs().max().item() == 0


@LOSS_CASES
@pytest.mark.parametrize("counts", [0.0, 1e-3, 1.0, 1e9])
@pytest.mark.parametrize("intensity", [0.0, 1e-3, 1.0, 1e9])
def test_losses_and_gradients_are_finite_and_have_the_right_sign(loss: Loss, intensity: float, counts: float) -> None:
    predicted = torch.full((8, 8), intensity, requires_grad=True)
    value = loss(predicted, torch.full((8, 8), counts), None)
    value.backward()
    assert torch.isfinite(value) and value.item() >= 0 and torch.isfinite(predicted.grad).all()
    assert (torch.sign(predicted.grad) == float(np.sign(intensity - counts))).all()


@LOSS_CASES
@pytest.mark.parametrize("level", [1.0, 1e4, 1e9])
@pytest.mark.parametrize("error", [-0.9, -0.49, 1e-3, 0.3, 0.51, 40.0])
def test_float32_matches_float64(loss: Loss, level: float, error: float) -> None:
    counts = level * (0.5 + torch.rand(64, 64, generator=torch.Generator().manual_seed(1)))
    intensity = counts * (1 + error)
    single, double = loss(intensity, counts, None), loss(intensity.double(), counts.double(), None)
    assert single.item() == pytest.approx(double.item(), rel=2e-3)


@LOSS_CASES
def test_loss_at_the_same_relative_error_does_not_depend_on_the_dose(loss: Loss) -> None:
    counts = 1e4 * (0.5 + torch.rand(16, 16, generator=torch.Generator().manual_seed(1)))
    assert loss(11 * counts, 10 * counts, None).item() == pytest.approx(
        loss(1.1 * counts, counts, None).item(), rel=1e-3
    )


@LOSS_CASES
def test_bad_pixels_are_ignored(loss: Loss) -> None:
    counts, intensity = 100 * torch.rand(3, 8, 8), 100 * torch.rand(3, 8, 8)
    good = torch.rand(8, 8, generator=torch.Generator().manual_seed(2)) > 0.2
    corrupted_counts = torch.where(good, counts, 1e9)
    corrupted = torch.where(good, intensity, 1e12).requires_grad_()
    value = loss(corrupted, corrupted_counts, good)
    value.backward()
    alone = loss(intensity[:, good], counts[:, good], None)
    torch.testing.assert_close(value, alone)
    assert (corrupted.grad[:, ~good] == 0).all() and (corrupted.grad[:, good] != 0).all()


def _far_fields(photons: float, error: float) -> tuple[Tensor, Tensor]:
    """Far fields (5, 2, 16, 16) of patterns of so many photons, and counts (5, 16, 16) beside their intensity."""
    generator = torch.Generator().manual_seed(4)
    fields = torch.randn(5, 2, 16, 16, dtype=torch.complex64, generator=generator)
    fields = fields * (photons / fields.abs().square().sum((1, 2, 3), keepdim=True)).sqrt()
    factor = 1 + error * torch.rand(5, 16, 16, generator=generator)
    return fields, fields.abs().square().sum(1) * factor


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("photons", [1.0, 1e3, 1e6, 1e9])
@pytest.mark.parametrize("error", [-0.9, 0.3, 40.0])
@pytest.mark.parametrize("masked", [False, True])
def test_loss_of_fields_is_that_of_their_intensity(loss: str, photons: float, error: float, masked: bool) -> None:
    """In float32 to its rounding, beside the loss of the intensity in float64."""
    fields, counts = _far_fields(photons, error)
    good = torch.rand(16, 16, generator=torch.Generator().manual_seed(2)) > 0.2 if masked else None
    found, expected = fields.clone().requires_grad_(), fields.to(torch.complex128).requires_grad_()
    value = loss_of_fields(loss, found, counts, good)
    want = LOSSES[loss](mode_intensity(expected), counts.double(), good)
    value.backward()
    want.backward()
    assert value.dtype == torch.float32 and value.ndim == 0
    assert value.item() == pytest.approx(want.item(), rel=1e-6)
    assert (found.grad - expected.grad).norm() <= 1e-6 * expected.grad.norm()


@pytest.mark.parametrize("loss", LOSSES)
def test_loss_of_fields_ignores_bad_pixels_and_is_finite_without_counts(loss: str) -> None:
    fields, counts = _far_fields(1e4, 0.3)
    good = torch.rand(16, 16, generator=torch.Generator().manual_seed(2)) > 0.2
    corrupt = torch.where(good, counts, 1e9)
    assert loss_of_fields(loss, fields, corrupt, good) == loss_of_fields(loss, fields, counts, good)
    dark = torch.zeros_like(fields).requires_grad_()
    value = loss_of_fields(loss, dark, torch.zeros_like(counts))
    value.backward()
    assert value.item() == 0 and not dark.grad.any()
