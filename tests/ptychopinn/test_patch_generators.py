# SPDX-License-Identifier: BSD-3-Clause
"""Generators over single patches with spectral filters: their start, outputs, filters and precision.

test_models.py tests the contract of all generators.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny_groups import batch_of, illuminated, relative, run, scan_of_groups
from torch import Tensor, nn

from ptychopinn.models import Generator, build_generator
from ptychopinn.models.spectral import SpectralConvolution
from ptychopinn.physics.initial_estimate import initial_patches, transmission_level
from ptychopinn.physics.overlap import illumination_weight, merge_patches
from ptychopinn.scan import Scan

SMALL: dict[str, dict[str, Any]] = {
    "ffno": {"width": 8, "layers": 2, "modes": 6},
    "sru_net": {"width": 4, "units": 2, "modes": 4},
}
EACH = pytest.mark.parametrize("name", sorted(SMALL))


@pytest.fixture(scope="module")
def scan() -> Scan:
    return scan_of_groups()


def with_weights(name: str, size: int = 32, **options: Any) -> Generator:
    """A generator whose last layer, initially zero, has weights."""
    torch.manual_seed(0)
    generator = build_generator(name, size, {**SMALL[name], **options})
    nn.init.normal_(generator.leave.weight, std=0.3)  # type: ignore[arg-type, union-attr]
    return generator


# Start and outputs.


@EACH
@pytest.mark.parametrize("output", ["complex", "polar"])
def test_untrained_network_returns_the_initial_estimate(scan: Scan, name: str, output: str) -> None:
    batch, probe = batch_of(scan, 4), torch.from_numpy(scan.probe)
    expected, _ = merge_patches(
        initial_patches(batch.counts, probe), batch.positions, batch.canvas_size, illumination_weight(probe)
    )
    with torch.no_grad():
        found = run(build_generator(name, 32, {**SMALL[name], "output": output}), batch, probe)
        other = run(with_weights(name, output=output), batch, probe)
    mask = illuminated(batch, probe, 0.02)
    assert relative(found[mask], expected[mask]) < (1e-5 if output == "complex" else 5e-3)
    assert relative(other[mask], expected[mask]) > 0.1


@EACH
def test_network_of_patterns_alone_begins_with_a_uniform_object(scan: Scan, name: str) -> None:
    batch, probe = batch_of(scan, 4), torch.from_numpy(scan.probe)
    with torch.no_grad():
        canvas = run(build_generator(name, 32, {**SMALL[name], "estimate": False}), batch, probe)
        learned = run(with_weights(name, estimate=False), batch, probe)
        other = run(with_weights(name, estimate=False), batch._replace(counts=batch.counts.flip(0)), probe)
    level = transmission_level(batch.counts, illumination_weight(probe))
    mask = illuminated(batch, probe, 0.02)
    expected = level.expand(canvas.shape)[mask].to(torch.complex64)
    torch.testing.assert_close(canvas[mask], expected, rtol=1e-4, atol=0)
    assert relative(other[mask], learned[mask]) > 1e-2  # it sees the patterns


@EACH
def test_polar_output_is_bounded(scan: Scan, name: str) -> None:
    batch, probe = batch_of(scan, 1), torch.from_numpy(scan.probe)
    level = transmission_level(batch.counts, illumination_weight(probe))
    modulus = {}
    for output in ("complex", "polar"):
        generator = with_weights(name, output=output)
        nn.init.normal_(generator.leave.weight, std=30.0)  # type: ignore[arg-type, union-attr]
        with torch.no_grad():
            modulus[output] = (run(generator, batch, probe).abs() / level).max().item()
    assert modulus["polar"] < 4.001 < modulus["complex"]


# Spectral convolution.


def by_fft(spectral: SpectralConvolution, features: Tensor) -> Tensor:
    """The same along both axes with torch's Fourier transform."""
    result = torch.zeros_like(features)
    for axis, matrices in zip((1, 2), spectral.axes, strict=True):
        weight = torch.complex(matrices.real, matrices.imaginary)
        moved = features.movedim(axis, 0)
        spectrum = torch.fft.rfft(moved, dim=0)
        mixed = torch.zeros_like(spectrum)
        mixed[: len(weight)] = torch.einsum("knyi,kio->knyo", spectrum[: len(weight)], weight)
        result += torch.fft.irfft(mixed, len(moved), dim=0).movedim(0, axis)
    return result


@pytest.mark.parametrize(("size", "modes"), [(8, 3), (12, 6), (15, 100), (16, 1)])
def test_spectral_convolution_is_that_of_the_fourier_transform(size: int, modes: int) -> None:
    torch.manual_seed(0)
    spectral = SpectralConvolution(5, size, modes).double()
    exact = 2 * torch.pi / size * torch.outer(torch.arange(len(spectral.forth)), torch.arange(size)).double()
    spectral.forth = torch.stack([exact.cos(), -exact.sin()], 1) / size**0.5
    spectral.back = spectral.forth * torch.where(torch.arange(len(exact)) > 0, 2.0, 1.0).double()[:, None, None]
    features = torch.randn(2, size, size, 5, dtype=torch.float64)
    expected = by_fft(spectral, features)
    torch.testing.assert_close(spectral(features), expected, rtol=1e-9, atol=1e-9)
    single = SpectralConvolution(5, size, modes)
    single.load_state_dict(spectral.state_dict())
    torch.testing.assert_close(single(features.float()), expected.float(), rtol=1e-4, atol=1e-4)


@EACH
@pytest.mark.parametrize("estimate", [True, False])
def test_every_pixel_of_a_patch_depends_on_all_of_its_pattern(name: str, estimate: bool) -> None:
    """Patterns of 64 px, of which convolutions alone see a part."""
    options = {"local": False} if name == "ffno" else {}
    generator = with_weights(name, 64, estimate=estimate, **options)
    features = torch.rand(1, 64, 64, generator.inputs, requires_grad=True)  # type: ignore[arg-type]
    (gradient,) = torch.autograd.grad(generator.network(features)[0, 3, 5].sum(), features)  # type: ignore[operator]
    assert (gradient[0].abs().sum(-1) > 0).double().mean() > 0.9


@EACH
def test_weights_serve_another_size(name: str) -> None:
    small, large = with_weights(name, 48), build_generator(name, 96, SMALL[name])
    large.load_state_dict(small.state_dict())
    positions, probe = torch.zeros(1, 1, 2, dtype=torch.float64), torch.ones(1, 96, 96, dtype=torch.complex64)
    with torch.no_grad():
        canvas = large(torch.rand(1, 1, 96, 96) * 50, positions, (96, 96), probe)
    assert torch.isfinite(canvas.abs()).all() and canvas.abs().max() > 0


def test_shared_units_have_the_weights_of_one() -> None:
    def weights(**options: Any) -> int:
        return sum(p.numel() for p in build_generator("sru_net", 32, options).parameters())

    assert weights(units=5) - weights(units=2) == 3  # gains
    assert weights(units=5, shared=False) - weights(units=2, shared=False) > 1000


# Precision.


@EACH
def test_bfloat16_is_close_to_float32(scan: Scan, name: str) -> None:
    batch, probe = batch_of(scan, 4), torch.from_numpy(scan.probe)
    generator = with_weights(name)
    canvas = run(generator, batch, probe)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = run(generator, batch, probe)
    assert rounded.dtype == torch.complex64 and 0 < relative(rounded, canvas) < 0.05
    rounded.abs().sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in generator.parameters() if p.grad is not None)
    assert sum(p.grad is not None for p in generator.parameters()) == len(list(generator.parameters()))
