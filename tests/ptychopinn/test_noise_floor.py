# SPDX-License-Identifier: BSD-3-Clause
"""The noise floor against drawn counts, in its limits, and on simulated scans."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ptychopinn.physics.likelihood import LOSSES
from ptychopinn.physics.noise_floor import expected_terms, noise_floor
from ptychopinn.physics.simulate import predict_counts, simulate

BOTH = pytest.mark.parametrize("loss", LOSSES)


@BOTH
@pytest.mark.parametrize("level", [0.01, 0.1, 0.5, 1.0, 3.0, 10.0, 100.0, 1e3, 1e5])
def test_floor_is_the_mean_loss_of_drawn_counts(loss: str, level: float) -> None:
    number = 1_000_000
    counts, times = np.unique(np.random.default_rng(7).poisson(level, number), return_counts=True)
    k, frequency = torch.from_numpy(counts.astype(np.float64)), torch.from_numpy(times / number)
    intensity = torch.full((), level, dtype=torch.float64)
    terms = torch.stack([LOSSES[loss](intensity, count, None) * count.clamp_min(1.0) for count in k])
    mean = (terms * frequency).sum()
    error = ((terms - mean).square() * frequency).sum().sqrt() / number**0.5
    assert abs(expected_terms(intensity, loss) - mean) < 4 * error + 1e-5 * mean


@BOTH
def test_limits(loss: str) -> None:
    many = {"poisson": 0.5, "amplitude": 0.25}[loss]
    assert float(expected_terms(torch.tensor(1e9), loss)) == pytest.approx(many, rel=1e-3)
    few = expected_terms(torch.tensor([0.0, 1e-7, 1e-6], dtype=torch.float64), loss)
    assert few[0] == 0 and float(few[2] / few[1]) == pytest.approx(10, rel=1e-4)


@BOTH
def test_table_is_interpolated_to_rounding(loss: str) -> None:
    from ptychopinn.physics.noise_floor import _expected

    levels = torch.from_numpy(np.geomspace(2e-5, 9e3, 301))
    exact = np.array([_expected(float(level), loss) for level in levels])
    np.testing.assert_allclose(expected_terms(levels, loss), exact, rtol=2e-5)


@BOTH
def test_truth_of_a_scan_is_at_the_floor_and_scaled_counts_are_not(loss: str) -> None:
    scan = simulate("dead_leaves", patterns=64, size=32, photons=2e4, seed=3)
    truth = torch.from_numpy(predict_counts(scan))
    good = torch.ones(32, 32, dtype=torch.bool)
    good[5:9] = False
    counts = torch.from_numpy(scan.counts.astype(np.float64))
    ratio = LOSSES[loss](truth, counts, good) / noise_floor(truth, loss, good)
    assert float(ratio) == pytest.approx(1, abs=0.02)
    for gain in (0.2, 5.0):
        ratio = LOSSES[loss](gain * truth, gain * counts, good) / noise_floor(gain * truth, loss, good)
        assert not 0.7 < float(ratio) < 1.4, (gain, float(ratio))


def test_ignored_pixels_do_not_change_the_floor() -> None:
    intensity = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(0)) * 50
    good = torch.ones(8, 8, dtype=torch.bool)
    good[2, 3] = False
    changed = intensity.clone()
    changed[:, 2, 3] = 1e6
    assert noise_floor(changed, "poisson", good) == noise_floor(intensity, "poisson", good)


def test_unknown_loss_is_refused() -> None:
    with pytest.raises(ValueError, match="poisson or amplitude"):
        noise_floor(torch.ones(2, 2), "rmse")
