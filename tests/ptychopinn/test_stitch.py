# SPDX-License-Identifier: BSD-3-Clause
"""Stitching: patches of a known object return to their positions, for any phase of each patch.

The object is smooth (periods of 30 px and more, so that two linear interpolations cost less than 1e-3), not square and
not symmetric; positions are sub-pixel with different steps on the two axes.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array
from torch import Tensor

from ptycho_ext import extract_patches
from ptychopinn.stitching.multigrid import best_phases
from ptychopinn.stitching.overlaps import (
    overlap_products,
    overlap_products_on_device,
    overlapping_pairs,
    scan_order,
    weighted_patches,
)
from ptychopinn.stitching.phases import _exactly, agreeing_phases, stitch, synchronise_phases

SIZE = 24


def known_object(height: int = 90, width: int = 120) -> Tensor:
    y, x = np.mgrid[:height, :width]
    amplitude = 0.8 + 0.2 * np.sin(2 * np.pi * (y / 37 + x / 51))
    phase = 0.9 * np.sin(2 * np.pi * (y / 45 - x / 32 + 0.1)) + 0.01 * y - 0.004 * x
    return torch.from_numpy(amplitude * np.exp(1j * phase)).to(torch.complex64)


def probe_weight(size: int = SIZE) -> Tensor:
    axis = torch.arange(size) - size / 2 + 0.5
    return 1e4 * torch.exp(-(axis[:, None] ** 2 + axis**2) / (2 * (size / 5) ** 2))


def grid(
    rows: int, columns: int, step: tuple[float, float] = (5.3, 6.7), origin: tuple[float, float] = (4.2, 9.6)
) -> Tensor:
    y, x = np.meshgrid(np.arange(rows) * step[0], np.arange(columns) * step[1], indexing="ij")
    askew = np.stack([y + 0.37 * np.arange(columns), x - 0.21 * np.arange(rows)[:, None]], -1)
    return torch.from_numpy(askew.reshape(-1, 2) + origin)


def random_phases(count: int, seed: int = 0) -> Tensor:
    angles = 2 * np.pi * np.random.default_rng(seed).random(count)
    return torch.from_numpy(np.exp(1j * angles)).to(torch.complex64)


def correlation(a: Tensor, b: Tensor) -> float:
    """Modulus of the normalised complex inner product."""
    return (torch.vdot(a.flatten(), b.flatten()).abs() / (a.norm() * b.norm())).item()


def global_phase(a: Tensor, b: Tensor) -> Tensor:
    """Return the phase factor of the best fit of a to b."""
    return torch.sgn(torch.vdot(a.flatten(), b.flatten()))


@pytest.mark.parametrize("shape", [(5, 6), (8, 9)], ids=["dense eigenvectors", "sparse eigenvectors"])
@pytest.mark.parametrize("synchronise", [True, False])
def test_object_is_stitched_at_its_position(shape: tuple[int, int], synchronise: bool) -> None:
    truth, positions = known_object(), grid(*shape)
    assert (len(positions) > 32) == (shape == (8, 9))
    patches = extract_patches(truth, positions, SIZE)
    image, weights, geometry, _ = stitch(patches, positions, probe_weight(), synchronise=synchronise)
    assert image.dtype == torch.complex64 and image.shape == weights.shape == geometry.shape
    (top, left), (height, width) = geometry.origin, geometry.shape
    window = truth[top : top + height, left : left + width]
    covered = weights > 0.1 * weights.max()
    assert covered.float().mean() > 0.4
    phase = global_phase(image[covered], window[covered])
    assert abs(torch.angle(phase).item()) < 1e-3
    got, true = (image * phase)[covered], window[covered]
    assert correlation(got, true) > 0.9995
    for part in (torch.real, torch.imag, torch.abs, torch.angle):
        assert np.corrcoef(part(got).numpy(), part(true).numpy())[0, 1] > 0.9995, part.__name__
    # A shift by one pixel, or swapped axes, must fit worse.
    for shift in ((1, 0), (-1, 0), (0, 1), (0, -1)):
        moved = torch.roll(truth, shift, (0, 1))[top : top + height, left : left + width]
        assert correlation(image[covered], moved[covered]) < correlation(got, true) - 1e-3


@pytest.mark.parametrize("shape", [(5, 6), (8, 9)], ids=["dense eigenvectors", "sparse eigenvectors"])
def test_free_phases_are_removed(shape: tuple[int, int]) -> None:
    positions, weight = grid(*shape), probe_weight()
    patches = extract_patches(known_object(), positions, SIZE)
    turned = patches * random_phases(len(positions))[:, None, None]
    plain, _, _, _ = stitch(patches, positions, weight)
    image, _, _, _ = stitch(turned, positions, weight)
    torch.testing.assert_close(image * global_phase(image, plain), plain, atol=2e-3, rtol=0)
    blurred, _, _, _ = stitch(turned, positions, weight, synchronise=False)
    assert correlation(blurred, plain) < 0.8
    factors = synchronise_phases(turned, positions, weight)
    torch.testing.assert_close(factors.abs(), torch.ones(len(positions)))


def test_noise_is_averaged_over_loops() -> None:
    """As they would if each patch were compared with its predecessor only."""
    positions, phases = grid(8, 9), random_phases(72, seed=4)
    clean = extract_patches(known_object(), positions, SIZE)
    noise = torch.randn(clean.shape, dtype=clean.dtype, generator=torch.Generator().manual_seed(0))
    factors = synchronise_phases((clean + 0.7 * noise) * phases[:, None, None], positions, probe_weight())
    left = torch.angle(factors * phases * global_phase(factors * phases, torch.ones(72, dtype=torch.complex64)))
    assert left.std().item() < 0.12


@pytest.mark.parametrize(
    ("rows", "columns", "step"),
    [(5, 40, (9.0, 1.0)), (40, 5, (1.0, 9.0)), (3, 30, (16.0, 0.5))],
    ids=["fast rows", "fast columns", "far rows"],
)
def test_rows_with_short_steps_are_synchronised_with_each_other(
    rows: int, columns: int, step: tuple[float, float]
) -> None:
    """The nearest neighbours of every patch are in its own row."""
    y, x = np.meshgrid(np.arange(rows) * step[0], np.arange(columns) * step[1], indexing="ij")
    positions = torch.from_numpy(np.stack([y.ravel(), x.ravel()], 1))
    check_phases(positions)


def test_repeats_of_a_position_are_synchronised_with_the_others() -> None:
    check_phases(grid(4, 4).repeat_interleave(15, 0))


def check_phases(positions: Tensor) -> None:
    phases = random_phases(len(positions), seed=2)
    patches = extract_patches(known_object(), positions, SIZE) * phases[:, None, None]
    left = synchronise_phases(patches, positions, probe_weight()) * phases
    torch.testing.assert_close(left * left[0].conj(), torch.ones_like(left), atol=0.05, rtol=0)


def test_errors_do_not_accumulate_along_a_long_chain() -> None:
    positions = torch.stack([torch.zeros(400), 7.0 * torch.arange(400)], 1).double()
    phases = random_phases(400)
    patches = torch.ones(400, SIZE, SIZE, dtype=torch.complex64) * phases[:, None, None]
    left = synchronise_phases(patches, positions, probe_weight()) * phases
    torch.testing.assert_close(left * left[0].conj(), torch.ones_like(left), atol=1e-3, rtol=0)


@pytest.mark.parametrize("rows", [2, 6], ids=["dense", "sparse"])
def test_separate_regions_are_synchronised_separately(rows: int) -> None:
    here = grid(rows, 7, origin=(2.0, 3.0)).round()
    there = here + torch.tensor([3.0, 70.0], dtype=torch.float64)
    positions, weight = torch.cat([here, there]), probe_weight()
    patches = extract_patches(known_object(90, 200), positions, SIZE)
    turned = patches * random_phases(len(positions))[:, None, None]
    image, weights, geometry, _ = stitch(turned, positions, weight)
    plain, _, _, _ = stitch(patches, positions, weight, synchronise=False)
    middle = int(there[:, 1].min()) - geometry.origin[1]
    for part in (np.s_[:, :middle], np.s_[:, middle:]):
        phase = global_phase(image[part], plain[part])
        torch.testing.assert_close(image[part] * phase, plain[part], atol=2e-3, rtol=0)
    gap = weights == 0
    assert gap.any() and (image[gap] == 0).all()


def test_mean_phase_does_not_change() -> None:
    positions = grid(5, 6).round()
    patches = extract_patches(known_object(), positions, SIZE) * np.exp(0.7j)
    factors = synchronise_phases(patches.to(torch.complex64), positions, probe_weight())
    torch.testing.assert_close(factors, torch.ones_like(factors), atol=1e-3, rtol=0)


@pytest.mark.parametrize("synchronise", [True, False])
def test_one_patch_is_returned_as_it_is(synchronise: bool) -> None:
    patch = torch.randn(1, 8, 10, dtype=torch.complex64)
    image, weights, geometry, _ = stitch(
        patch, torch.tensor([[-3, 40]]), torch.rand(8, 10) + 0.1, synchronise=synchronise
    )
    torch.testing.assert_close(image, patch[0])
    assert geometry.origin == (-3, 40) and geometry.shape == (8, 10) and weights.shape == (8, 10)


def test_patches_without_overlap_keep_their_phases() -> None:
    patches = torch.randn(3, 8, 8, dtype=torch.complex64)
    positions = torch.tensor([[0, 0], [0, 8], [30, -5]])  # two are adjacent without a common pixel
    factors = synchronise_phases(patches, positions, torch.ones(8, 8))
    assert torch.equal(factors, torch.ones(3, dtype=torch.complex64))
    image, weights, geometry, _ = stitch(patches, positions, torch.ones(8, 8))
    assert geometry.origin == (0, -5) and geometry.shape == (38, 21)
    for patch, (y, x) in zip(patches, [(0, 5), (0, 13), (30, 0)], strict=True):
        torch.testing.assert_close(image[y : y + 8, x : x + 8], patch)
    assert weights.sum().item() == pytest.approx(3 * 64)


@pytest.mark.parametrize("synchronise", [True, False])
def test_constant_is_preserved_and_uncovered_pixels_are_zero(synchronise: bool) -> None:
    positions = grid(5, 7)
    weight = probe_weight() * (torch.arange(SIZE) > 3)  # the first columns are not illuminated
    patches = torch.full((len(positions), SIZE, SIZE), 0.6 - 0.8j, dtype=torch.complex64)
    image, weights, _, _ = stitch(patches, positions, weight, synchronise=synchronise)
    covered = weights > 1e-5 * weights.max()
    torch.testing.assert_close(image[covered], torch.full_like(image[covered], 0.6 - 0.8j), atol=1e-5, rtol=0)
    assert (weights == 0).any() and (image[weights == 0] == 0).all()


def test_canvases_at_integer_positions_are_exact() -> None:
    """Canvases as predict() returns them: integer origins, a weight per pixel, not square."""
    truth = known_object(60, 80)
    origins = torch.tensor([[0, 0], [7, 12], [22, 31], [3, 40], [28, 9]])
    canvases = torch.stack([truth[y : y + 32, x : x + 40] for y, x in origins.tolist()])
    weights = torch.rand(5, 32, 40, generator=torch.Generator().manual_seed(0)) + 0.01
    image, total, geometry, _ = stitch(canvases, origins + 100, weights)
    assert geometry.origin == (100, 100) and geometry.shape == (60, 80)
    covered = total > 0
    torch.testing.assert_close(image[covered], truth[covered], atol=1e-6, rtol=1e-6)
    assert total.sum().item() == pytest.approx(weights.sum().item(), rel=1e-5)
    turned = canvases * random_phases(5)[:, None, None]
    image, _, _, _ = stitch(turned, origins + 100, weights)
    phase = global_phase(image[covered], truth[covered])
    torch.testing.assert_close((image * phase)[covered], truth[covered], atol=1e-5, rtol=0)


def test_dark_patches_are_ignored() -> None:
    positions, weight = grid(6, 7), probe_weight()
    patches = extract_patches(known_object(), positions, SIZE)
    patches[[3, 17]] = 0
    factors = synchronise_phases(patches * random_phases(42)[:, None, None], positions, weight)
    torch.testing.assert_close(factors.abs(), torch.ones(42))


# Many patches.


def noisy_links(rows: int, columns: int, noise: float, seed: int = 0) -> tuple[int, np.ndarray, np.ndarray, np.ndarray]:
    """Count, pairs and products of patches on a raster, and their phases."""
    positions = grid(rows, columns).numpy()
    positions = positions[scan_order(positions, (SIZE, SIZE))]
    pairs = overlapping_pairs(positions, (SIZE, SIZE))
    generator = np.random.default_rng(seed)
    phases = np.exp(2j * np.pi * generator.random(len(positions)))
    strength = np.clip(1 - np.abs(positions[pairs[:, 0]] - positions[pairs[:, 1]]) / SIZE, 0, None).prod(1) ** 2
    products = phases[pairs[:, 0]].conj() * phases[pairs[:, 1]]
    products += noise * (generator.standard_normal((len(pairs), 2)) @ [1, 1j])
    return len(positions), pairs, strength * products, phases


def links_of(count: int, pairs: np.ndarray, products: np.ndarray) -> csr_array:
    upper = csr_array((products, (pairs[:, 0], pairs[:, 1])), shape=(count, count))
    return (upper + upper.conj().T).tocsr()


@pytest.mark.parametrize("noise", [0.0, 0.05, 0.3])
@pytest.mark.parametrize("shape", [(9, 9), (3, 50), (12, 14)])
def test_phases_are_those_of_the_leading_eigenvector(shape: tuple[int, int], noise: float) -> None:
    count, pairs, products, _ = noisy_links(*shape, noise)
    links = links_of(count, pairs, products)
    found, exact = best_phases(links).numpy(), _exactly(links)
    phase = np.vdot(found, exact)
    np.testing.assert_allclose(found * phase / abs(phase), exact, atol=1e-6)


def test_phases_of_many_patches_with_inconsistent_links_are_found_everywhere() -> None:
    """Their leading eigenvector is large in a part of the scan, and takes long to find."""
    count, pairs, products, phases = noisy_links(90, 90, 0.5)
    found = agreeing_phases(count, pairs, products)
    np.testing.assert_allclose(np.abs(found), 1)
    left = found * phases
    assert abs(left.mean()) > 0.95


def test_patches_with_links_of_very_different_strength() -> None:
    """Clusters of repeats with weak links between them, some of which are zero."""
    count, pairs, products, phases = noisy_links(12, 12, 0.02)
    repeats = 6
    pairs = np.concatenate(
        [repeats * pairs, *(repeats * np.arange(count)[:, None] + [[0, k]] for k in range(1, repeats))]
    )
    phases = np.repeat(phases, repeats)
    strong = 1e3 * phases[pairs[len(products) :, 0]].conj() * phases[pairs[len(products) :, 1]]
    products = np.concatenate([products * (np.arange(len(products)) % 5 > 0), strong])
    left = agreeing_phases(count * repeats, pairs, products) * phases
    assert abs(left.mean()) > 0.999


def test_parts_and_lonely_patches_among_many() -> None:
    count, pairs, products, phases = noisy_links(15, 15, 0.05)
    both = np.concatenate([pairs, pairs + count, [[2 * count, 2 * count + 1]]])
    links = np.concatenate([products, products, [1j]])
    found = agreeing_phases(2 * count + 3, both, links)
    assert found[-1] == 1
    for part in (slice(0, count), slice(count, 2 * count)):
        assert abs((found[part] * phases).mean()) > 0.99
    np.testing.assert_allclose(found[2 * count] * np.conj(found[2 * count + 1]), 1j, atol=1e-12)
    np.testing.assert_allclose(np.angle(found[:count].sum()), 0, atol=1e-9)


@pytest.mark.parametrize("synchronise", [True, False])
def test_order_of_patches_makes_no_difference(synchronise: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """To the last bit, for distinct positions, also where patches are added in several parts."""
    monkeypatch.setattr("ptychopinn.stitching.phases._PART", 20 * SIZE * SIZE)
    positions = grid(9, 10)
    patches = extract_patches(known_object(), positions, SIZE) * random_phases(90)[:, None, None]
    weights = probe_weight() * torch.rand(90, 1, 1, generator=torch.Generator().manual_seed(0))
    expected = stitch(patches, positions, weights, synchronise=synchronise)
    for seed in range(3):
        order = torch.randperm(90, generator=torch.Generator().manual_seed(seed))
        got = stitch(patches[order], positions[order], weights[order], synchronise=synchronise)
        for one, other in ((got.image, expected.image), (got.weights, expected.weights), (got.square, expected.square)):
            assert torch.equal(one, other)


@pytest.mark.parametrize("size", [(24, 31), (17, 20)])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_products_of_many_pairs_at_a_time(size: tuple[int, int], stride: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ptychopinn.stitching.overlaps._AT_ONCE", 7 * size[0] * size[1])
    generator = np.random.default_rng(0)
    positions, order = generator.uniform(0, 80, (60, 2)), generator.permutation(60)
    patches = torch.randn(60, *size, dtype=torch.complex64, generator=torch.Generator().manual_seed(0))
    patches[order[7]] = torch.nan
    weights = torch.rand(60, *size, generator=torch.Generator().manual_seed(1))
    pairs = np.concatenate([overlapping_pairs(positions, size), [[3, 50]]])
    positions[50] += 500  # a pair without an overlap
    values, scales = patches.numpy(), weights.numpy()
    weighted = weighted_patches(lambda number: (values[order[number]], scales[order[number]]), size)
    expected = overlap_products(weighted, positions, size, pairs, stride)
    got = overlap_products_on_device(patches, weights, order, positions, pairs, stride).numpy()
    assert got[-1] == 0 and np.array_equal(np.isnan(got), np.isnan(expected)) and np.isnan(got).any()
    np.testing.assert_allclose(got, expected, atol=1e-6 * np.nanmax(np.abs(expected)))


@pytest.mark.parametrize(("shape", "fault"), [((5, 6), "error"), ((8, 9), "error"), ((8, 9), "not finite")])
def test_phases_without_an_eigenvector_are_those_of_a_power_iteration(
    shape: tuple[int, int], fault: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A library may fail on links of few photons and little overlap: one line, and phases that are nearly right."""

    def failing(*_: object) -> Tensor:
        if fault == "error":
            raise np.linalg.LinAlgError("Eigenvalues did not converge")
        return torch.full((len(patches),), torch.nan, dtype=torch.complex128)

    positions = grid(*shape)
    patches = extract_patches(known_object(), positions, SIZE)
    turned = patches * random_phases(len(patches))[:, None, None]
    monkeypatch.setattr("ptychopinn.stitching.phases." + ("_exactly" if len(patches) <= 64 else "best_phases"), failing)
    result = stitch(turned, positions, probe_weight())
    (record,) = caplog.records
    assert f"phases of {len(patches)} overlapping patches: no eigenvector" in record.getMessage()
    expected = stitch(patches, positions, probe_weight(), synchronise=False)
    assert correlation(result.image, expected.image) > 0.99


def test_products_that_are_not_finite_are_no_overlap() -> None:
    pairs = np.array([[0, 1], [1, 2], [0, 2]])
    turned = np.exp(1j * np.array([0.3, 1.1, -0.8]))
    products = np.conj(turned[pairs[:, 0]]) * turned[pairs[:, 1]]
    expected = agreeing_phases(3, pairs, products)
    products[2] = np.nan
    np.testing.assert_allclose(agreeing_phases(3, pairs, products), expected, atol=1e-9)
