# SPDX-License-Identifier: BSD-3-Clause
"""Forward model: units, a closed loop with the simulator, illumination, initial estimate and overlap.

The simulator shares no code with the forward model (NumPy, float64, Fourier shift of the probe), so agreement verifies
axes, signs, FFT order and units. Its object is neither square nor symmetric, and the steps differ between the axes.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from ptycho_ext import extract_patches
from ptychopinn.batches.dataset import GroupDataset, good_pixels
from ptychopinn.batches.grouping import group_patterns
from ptychopinn.physics.illumination import Illumination
from ptychopinn.physics.initial_estimate import initial_patches, initial_waves
from ptychopinn.physics.likelihood import LOSSES, poisson_loss
from ptychopinn.physics.overlap import illumination_weight, merge_patches, overlap_project
from ptychopinn.physics.probes import defocused, disk
from ptychopinn.physics.propagation import (
    diffract,
    exit_waves,
    far_field,
    inverse_far_field,
    mode_intensity,
    squared_modulus,
)
from ptychopinn.physics.simulate import simulate
from ptychopinn.scan import Scan

Loss = Callable[[Tensor, Tensor, Tensor | None], Tensor]
LOSS_CASES = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)


def noise(*shape: int, seed: int = 0, dtype: torch.dtype = torch.complex64) -> Tensor:
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def scan() -> Scan:
    """Integer positions, 7 px between rows and 5 px within them, without noise."""
    return simulate(
        "dead_leaves", patterns=20, size=32, step=(7, 5), jitter=0, modes=2, photons=1e5, noise=False, seed=3,
        probe="defocused",
    )  # fmt: skip


def predicted(scan: Scan, truth: Tensor, positions: Tensor, scale: float = 1.0) -> Tensor:
    patches = extract_patches(truth, positions, scan.patch_size)
    return diffract(patches, torch.from_numpy(scan.probe) * scale)


def measured(scan: Scan) -> Tensor:
    return torch.from_numpy(np.fft.ifftshift(scan.counts, axes=(-2, -1)).astype(np.float32))


# Propagation.


def test_counts_without_an_object_are_the_photons_of_the_probe() -> None:
    probe = torch.from_numpy(defocused(32, modes=3)) * 100.0  # 1e4 photons in the sum of all modes
    pattern = diffract(torch.ones(32, 32, dtype=torch.complex64), probe)
    assert pattern.sum().item() == pytest.approx(1e4, rel=1e-5)
    waves = exit_waves(noise(4, 32, 32), probe)
    assert waves.shape == (4, 3, 32, 32)
    power = squared_modulus(waves).sum((-2, -1))
    torch.testing.assert_close(squared_modulus(far_field(waves)).sum((-2, -1)), power)
    back = inverse_far_field(far_field(waves))
    torch.testing.assert_close(back, waves, atol=1e-5 * waves.abs().max().item(), rtol=0)


def test_diffract_matches_numpy() -> None:
    patches, probe = noise(2, 3, 16, 16, seed=1), noise(2, 16, 16, seed=2)
    waves = patches.numpy().astype(np.complex128)[:, :, None] * probe.numpy().astype(np.complex128)
    formula = (np.abs(np.fft.fft2(waves)) ** 2).sum(2) / 16**2
    result = diffract(patches, probe)
    assert result.dtype == torch.float32 and result.shape == (2, 3, 16, 16)
    np.testing.assert_allclose(result.numpy(), formula, rtol=2e-5, atol=1e-5)


def test_zero_frequency_is_the_first_pixel_of_a_pattern() -> None:
    pattern = diffract(torch.ones(16, 16, dtype=torch.complex64), torch.ones(1, 16, 16, dtype=torch.complex64))
    assert pattern[0, 0].item() == pytest.approx(256) and pattern.sum().item() == pytest.approx(256)


def test_modes_add_incoherently() -> None:
    patch, mode = noise(16, 16), noise(16, 16, seed=1)
    one = diffract(patch, mode[None])
    torch.testing.assert_close(diffract(patch, torch.stack([mode, mode])), 2 * one)  # coherent: 4; opposite: 0
    torch.testing.assert_close(diffract(patch, torch.stack([mode, -mode])), 2 * one)


@pytest.mark.parametrize("shape", [(16, 16), (1, 2, 16, 16), (1, 8, 8), (1, 16, 8)])
def test_probe_of_another_shape_is_an_error(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"exit_waves: probe must be \(M, 16, 16\), got"):
        diffract(noise(5, 16, 16), noise(*shape))
    with pytest.raises(ValueError, match="Illumination: probe must be"):
        Illumination(noise(1, 16, 16)).set_probe(noise(*shape))


def test_probe_that_is_not_complex_or_not_three_axes_is_an_error() -> None:
    for probe in (noise(16, 16), torch.ones(1, 16, 16)):
        with pytest.raises(ValueError, match=r"Illumination: probe must be complex \(M, N, N\)"):
            Illumination(probe)


# The closed loop.


def test_true_object_and_probe_predict_the_simulated_counts(scan: Scan) -> None:
    assert (scan.positions % 1 == 0).all() and scan.truth is not None
    counts = measured(scan)
    prediction = predicted(scan, torch.from_numpy(scan.truth), torch.from_numpy(scan.positions))
    assert (prediction - counts).abs().max().item() < 1e-5 * counts.max().item()
    assert (prediction.sum() / counts.sum()).item() == pytest.approx(1, abs=1e-6)


def test_group_batches_predict_the_same_counts(scan: Scan) -> None:
    """All conventions from grouping through group canvases to the collate function."""
    dataset = GroupDataset(scan, group_patterns(scan.positions, 4), canvas_multiple=4)
    batch = dataset.collate(range(len(dataset)))
    truth = torch.from_numpy(scan.truth).expand(len(dataset), -1, -1).contiguous()
    canvases = extract_patches(truth, batch.origins[:, None].double(), batch.canvas_size).squeeze(1)
    illumination = Illumination(torch.from_numpy(scan.probe))
    prediction = illumination(extract_patches(canvases, batch.positions, scan.patch_size))
    assert (prediction - batch.counts).abs().max().item() < 1e-5 * batch.counts.max().item()


@LOSS_CASES
@pytest.mark.parametrize(
    "mistake", ["transposed", "flipped y", "flipped x", "rolled", "object transposed", "conjugate"]
)
def test_wrong_convention_raises_the_loss(scan: Scan, loss: Loss, mistake: str) -> None:
    truth, positions, counts = torch.from_numpy(scan.truth), torch.from_numpy(scan.positions), measured(scan)
    correct = loss(predicted(scan, truth, positions), counts, None).item()
    span = positions.amin(0) + positions.amax(0)
    if mistake == "transposed":
        positions = positions.flip(1)
    elif mistake.startswith("flipped"):
        axis = "yx".index(mistake[-1])
        positions = positions.clone()
        positions[:, axis] = span[axis] - positions[:, axis]
    elif mistake == "rolled":
        counts = torch.fft.fftshift(counts, dim=(-2, -1))
    elif mistake == "object transposed":
        truth = truth.T.contiguous()
    else:
        truth = truth.conj().resolve_conj()
    wrong = loss(predicted(scan, truth, positions), counts, None).item()
    assert correct < 1e-9 and wrong > 1e-2


@LOSS_CASES
@pytest.mark.parametrize("size", [0.002, 0.02, 0.2])
def test_true_object_is_the_minimum(scan: Scan, loss: Loss, size: float) -> None:
    positions, counts = torch.from_numpy(scan.positions), measured(scan)
    truth = torch.from_numpy(scan.truth).requires_grad_()
    best = loss(predicted(scan, truth, positions), counts, None)
    (gradient,) = torch.autograd.grad(best, truth)
    off = (truth + size * noise(*truth.shape)).detach().requires_grad_()
    worse = loss(predicted(scan, off, positions), counts, None)
    (gradient_off,) = torch.autograd.grad(worse, off)
    assert worse.item() > best.item() + 0.1 * size**2
    assert gradient.norm().item() < 1e-3 * gradient_off.norm().item()
    assert loss(predicted(scan, truth, positions, 1 + size), counts, None).item() > best.item() + 0.1 * size**2


@LOSS_CASES
@pytest.mark.parametrize("what", ["probe", "scale", "positions"])
def test_true_illumination_and_positions_are_the_minimum(scan: Scan, loss: Loss, what: str) -> None:
    """At non-integer positions, with patterns from the same bilinear interpolation."""
    truth = torch.from_numpy(scan.truth).to(torch.complex128)
    positions = torch.from_numpy(scan.positions) + 0.3
    true_probe = torch.from_numpy(scan.probe).to(torch.complex128)
    illumination = Illumination(true_probe, learn_probe=True, learn_scale=True).double()
    illumination.set_probe(true_probe)
    patches = extract_patches(truth, positions, scan.patch_size)
    counts = illumination(patches).detach()

    def value(size: float) -> tuple[float, float]:
        trial = Illumination(true_probe, learn_probe=True, learn_scale=True).double()
        trial.set_probe(true_probe)
        trial_positions = positions.clone()
        with torch.no_grad():
            if what == "probe":
                trial.lanes += size * torch.view_as_real(noise(*true_probe.shape, dtype=torch.complex128)) / 64
            elif what == "scale":
                trial.log_scale += size
            else:
                generator = torch.Generator().manual_seed(1)
                trial_positions += size * torch.randn(trial_positions.shape, generator=generator)
        trial_positions.requires_grad_()
        error = loss(trial(extract_patches(truth, trial_positions, scan.patch_size)), counts, None)
        error.backward()
        learned = {"probe": trial.lanes, "scale": trial.log_scale, "positions": trial_positions}[what]
        return error.item(), learned.grad.norm().item()

    (loss_at_truth, gradient_at_truth), (loss_off, gradient_off) = value(0.0), value(0.1)
    assert illumination.log_scale.item() == 0 and loss_at_truth < 1e-12 < loss_off
    assert gradient_at_truth < 1e-6 * gradient_off


def test_mask_of_a_scan_is_in_fft_order(scan: Scan) -> None:
    bad = np.zeros((32, 32), bool)
    bad[16, 16] = bad[3, 20] = True  # the zero frequency, and one above and to the right of it
    fields = {"counts": scan.counts, "positions": scan.positions, "probe": scan.probe}
    good = good_pixels(Scan(**fields, bad_pixels=bad))
    assert good is not None and np.argwhere(~good.numpy()).tolist() == [[0, 0], [19, 4]]
    assert good_pixels(scan) is None and good_pixels(Scan(**fields, bad_pixels=np.zeros_like(bad))) is None


# Illumination.


def test_illumination_stores_probes_of_any_scale() -> None:
    illumination = Illumination(noise(2, 16, 16))
    for scale in (1e-3, 1.0, 1e5):
        probe = scale * noise(2, 16, 16, seed=5)
        with torch.no_grad():
            illumination.log_scale.fill_(3.0)
        illumination.set_probe(probe)
        torch.testing.assert_close(illumination.probe, probe, rtol=1e-6, atol=1e-6 * scale)
        assert illumination.lanes.abs().max().item() <= 1 + 1e-6
        other = Illumination(noise(2, 16, 16))
        other.load_state_dict(illumination.state_dict())
        assert torch.equal(other.probe, illumination.probe)


def test_scale_multiplies_counts() -> None:
    illumination, patches = Illumination(noise(1, 16, 16), learn_scale=True), noise(3, 16, 16)
    before = illumination(patches)
    with torch.no_grad():
        illumination.log_scale.fill_(float(np.log(4.0)))
    torch.testing.assert_close(illumination(patches), 4 * before)
    torch.testing.assert_close(illumination_weight(illumination.probe), 4 * illumination_weight(noise(1, 16, 16)))


@pytest.mark.parametrize("learn_probe", [False, True])
@pytest.mark.parametrize("learn_scale", [False, True])
def test_learned_parameters_lower_the_loss(learn_probe: bool, learn_scale: bool) -> None:
    patches, truth = noise(6, 16, 16), 30 * noise(2, 16, 16, seed=3)
    counts = diffract(patches, truth)
    illumination = Illumination(0.8 * truth, learn_probe=learn_probe, learn_scale=learn_scale)
    learned = [p for p in illumination.parameters() if p.requires_grad]
    assert len(learned) == learn_probe + learn_scale
    if not learned:
        assert not illumination(patches).requires_grad
        return
    before = [p.detach().clone() for p in learned]
    optimiser = torch.optim.Adam(learned, lr=1e-2)
    losses = []
    for _ in range(10):
        optimiser.zero_grad()
        loss = poisson_loss(illumination(patches), counts)
        loss.backward()
        assert all(p.grad is not None and p.grad.abs().max() > 0 for p in learned)
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0] and not any(torch.equal(a, b) for a, b in zip(before, learned, strict=True))


# Initial estimate and overlap.


@pytest.mark.parametrize("modes", [1, 2])
def test_initial_estimate_of_a_weak_object_is_close_to_it(modes: int) -> None:
    weak = simulate(
        lambda shape, rng: (1 + 0.15 * (phase_object(shape) - 1)).astype(np.complex64),
        patterns=9, size=64, step=(7, 5), jitter=0, photons=1e6, modes=modes, noise=False,
    )  # fmt: skip
    probe = torch.from_numpy(weak.probe)
    patches = extract_patches(torch.from_numpy(weak.truth), torch.from_numpy(weak.positions), 64)
    initial = initial_patches(measured(weak), probe)
    weight = illumination_weight(probe)
    bright = weight > 0.2 * weight.max()
    phases = [np.angle(part[:, bright].numpy()).ravel() for part in (initial, patches)]
    correlation = np.corrcoef(*phases)[0, 1]
    assert correlation > 0.5, correlation
    if modes == 1:
        # The regularisation reduces the modulus where the probe is weak.
        assert 0.85 < (initial[:, bright].abs().mean() / patches[:, bright].abs().mean()).item() < 1.0


def phase_object(shape: tuple[int, int]) -> np.ndarray:
    y, x = np.mgrid[: shape[0], : shape[1]]
    return np.exp(1j * (np.sin(y / 3.0 + 0.4 * np.cos(x / 5.0)) + np.cos(x / 4.0 - y / 9.0)))


def test_initial_waves_have_the_measured_amplitude_and_the_phase_of_the_strongest_mode() -> None:
    probe = torch.stack([0.3 * noise(16, 16), noise(16, 16, seed=1)])
    counts = 10 * torch.rand(2, 16, 16)
    waves, strongest = initial_waves(counts, probe)
    assert torch.equal(strongest, probe[1])
    spectrum = far_field(strongest)
    bright = spectrum.abs() > 0.2 * spectrum.abs().max()
    expected = counts.sqrt() * torch.sgn(spectrum)
    torch.testing.assert_close(far_field(waves)[:, bright], expected[:, bright], atol=0, rtol=6e-3)
    exact = initial_patches(diffract(torch.ones(16, 16), probe[1:]), probe[1:], regularisation=0.0)
    assert (exact - 1).abs().mean() < 0.02


def test_initial_estimate_and_its_gradient_do_not_depend_on_rounding() -> None:
    """Half of the detector is dark for the default probe, and the phase of its far field is noise there."""
    probe = torch.from_numpy(defocused(32)) * 300
    counts = diffract(noise(3, 32, 32), probe)
    other, _ = initial_waves(counts, probe / 3 * 3)
    waves, _ = initial_waves(counts, probe)
    assert (other - waves).abs().max() < 1e-3 * waves.abs().max()
    probe.requires_grad_()
    initial_patches(counts, probe).abs().sum().backward()
    scale = initial_patches(counts, probe).abs().sum() / probe.abs().max()  # of a derivative without cancellation
    assert probe.grad.abs().max() < 10 * scale


@pytest.mark.parametrize("name", ["disk", "defocused"])
def test_merging_preserves_a_constant(name: str) -> None:
    """Up to the edge of the illumination: numerator and denominator have the same weight."""
    weight = illumination_weight(torch.from_numpy({"disk": disk, "defocused": defocused}[name](32, 2)) * 300.0)
    positions = torch.tensor([[[0.0, 0.0], [3.25, 7.5], [9.1, 2.6], [6.0, 11.9]]], dtype=torch.float64)
    patches = torch.full((1, 4, 32, 32), 0.8 - 0.3j, dtype=torch.complex64)
    canvas, total = merge_patches(patches, positions, (44, 48), weight)
    illuminated = total > 1e-6 * total.max()
    assert illuminated.float().mean() > 0.3
    values = canvas[illuminated]
    torch.testing.assert_close(values, torch.full_like(values, 0.8 - 0.3j), rtol=1e-5, atol=0)
    assert (canvas[~illuminated] == 0).all()
    inner = torch.zeros(32, 32, dtype=torch.bool)
    inner[11:21, 11:21] = True
    projected = overlap_project(patches, positions, (44, 48), weight)
    assert projected.shape == patches.shape
    torch.testing.assert_close(projected[..., inner], patches[..., inner], rtol=1e-5, atol=0)


def test_overlap_projection_is_a_weighted_mean() -> None:
    """Two patches at the same position become their mean; patches without overlap do not change."""
    patches = torch.stack([torch.full((8, 8), 1.0 + 0j), torch.full((8, 8), 3.0 + 1j)])[None]
    projected = overlap_project(patches, torch.zeros(1, 2, 2, dtype=torch.float64), (8, 8), torch.ones(8, 8))
    torch.testing.assert_close(projected, torch.full_like(patches, 2.0 + 0.5j))
    apart = torch.tensor([[[0.0, 0.0], [0.0, 8.0]]], dtype=torch.float64)
    torch.testing.assert_close(overlap_project(patches, apart, (8, 16), torch.rand(8, 8) + 0.1), patches)


def test_mode_intensity_has_a_finite_gradient_at_zero() -> None:
    fields = torch.zeros(2, 8, 8, dtype=torch.complex64, requires_grad=True)
    mode_intensity(fields).sum().backward()
    assert (fields.grad == 0).all()
