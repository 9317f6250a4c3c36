# SPDX-License-Identifier: BSD-3-Clause
"""Refinement of experiments that are not plain: the forward model beside the simulator's, gradients, closed loops.

The simulator is NumPy in float64 and shares no code with the forward model of the refinement but the points of
exposures. Every closed loop refines a scan with an effect, with and without it in the model.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ptychopinn.config import RefineConfig
from ptychopinn.errors import InputError
from ptychopinn.experiment import Experiment
from ptychopinn.metrics.evaluate import evaluate
from ptychopinn.physics.forward_model import ForwardModel
from ptychopinn.physics.simulate import simulate
from ptychopinn.physics.simulate_experiments import as_variations, line_exposure, make_slices
from ptychopinn.reconstruction import Reconstruction
from ptychopinn.refinement.experiment_objective import ExperimentObjective
from ptychopinn.refinement.regions import compact_batches
from ptychopinn.refinement.run import Refinement
from ptychopinn.refinement.state import State, largest
from ptychopinn.refinement.variation_prior import VariationPrior
from ptychopinn.refinement.variations import orthogonalise_variations
from ptychopinn.refinement.workflow import refine
from ptychopinn.scan import Scan

CPU = torch.device("cpu")
RNG = np.random.default_rng(3)
SIZE, PATTERNS = 32, 64
PLACE: dict[str, Any] = {"pixel_size": 2e-8, "energy": 8e3}
#: Depth of field of an object pixel, metres.
DEPTH = PLACE["pixel_size"] ** 2 / (1.23984198e-6 / PLACE["energy"])


def experiment(name: str, size: int = SIZE, patterns: int = PATTERNS) -> Experiment:
    y, x = np.mgrid[:size, :size] / size
    background = (0.5 + np.exp(-((y - 0.2) ** 2 + (x - 0.7) ** 2) / 0.1)).astype(np.float32)
    shapes = RNG.normal(size=(2, size, size)) + 1j * RNG.normal(size=(2, size, size))
    experiments = {
        "plain": Experiment(),
        "path": Experiment(exposure=line_exposure((2.2, 4.5), 4)),
        "path of every pattern": Experiment(exposure=np.random.default_rng(0).uniform(-3, 3, (patterns, 3, 2))),
        "source": Experiment(source_size=(0.6, 0.2)),
        "background": Experiment(background=background),
        "background factors": Experiment(
            background=background, background_factors=np.random.default_rng(1).uniform(0.5, 2, patterns)
        ),
        "point spread": Experiment(point_spread=0.9),
        "near field": Experiment(fresnel_number=0.02),
        "varying probe": Experiment(
            probe_variations=(0.02 * shapes).astype(np.complex64),
            variation_coefficients=np.random.default_rng(2).normal(size=(patterns, 2)),
        ),
        "slices": Experiment(slice_distances=(30 * DEPTH, 20 * DEPTH), tilt=(0.0, 1e-3)),
    }
    return experiments[name]


NAMES = (
    "plain", "path", "path of every pattern", "source", "background", "background factors", "point spread",
    "near field", "varying probe", "slices",
)  # fmt: skip


def simulated(name: str, **options: Any) -> tuple[Scan, np.ndarray | None]:
    """A scan with an effect, and its slices if it has any."""
    chosen: dict[str, Any] = {"size": SIZE, "patterns": PATTERNS, "photons": 1e5, "step": 4, "jitter": 1, "seed": 5}
    chosen |= options
    what = experiment(name, chosen["size"], chosen["patterns"])
    slices = (
        make_slices(("photos", "dead_leaves", "lines")[: what.slices], (110, 100), seed=1) if what.slices > 1 else None
    )
    scan = simulate("photos" if slices is None else slices, experiment=what, **PLACE, **chosen)
    return scan, slices


def at_truth(scan: Scan, slices: np.ndarray | None, **options: Any) -> tuple[ExperimentObjective, State, Refinement]:
    """The objective of a scan with the general forward model, and the state of the truth."""
    assert scan.truth is not None
    run = Refinement(scan, None, RefineConfig(find_defocus=False, **options), CPU, None, 1)
    truth = torch.from_numpy(scan.truth if slices is None else slices)
    state = run.state
    row, column = (-int(v) for v in run.geometry.origin)
    height, width = truth.shape[-2:]
    image = torch.ones(*truth.shape[:-2], *run.geometry.shape, dtype=torch.complex64)
    top, left = max(0, row), max(0, column)
    bottom, right = min(row + height, image.shape[-2]), min(column + width, image.shape[-1])
    image[..., top:bottom, left:right] = truth[..., top - row : bottom - row, left - column : right - column]
    state.object = image
    objective = run.objective
    if not isinstance(objective, ExperimentObjective):
        model = ForwardModel(scan.experiment, SIZE, None, None, CPU)
        objective = ExperimentObjective(objective.counts, None, run.geometry.shape, run.config, model)
    positions = state.positions.numpy()
    objective.set_batches(compact_batches(positions, 20, np.random.default_rng(0)), positions)
    return objective, state, run


@pytest.mark.parametrize("name", NAMES)
def test_expected_counts_are_those_of_the_simulator(name: str) -> None:
    scan, slices = simulated(name, noise=False)
    objective, state, _ = at_truth(scan, slices)
    with torch.no_grad():
        predicted = objective.predict(state, torch.arange(scan.n)).numpy()
    expected = np.fft.ifftshift(np.asarray(scan.counts), axes=(1, 2))
    # The two have other nodes for a source.
    tolerance = 3e-3 if name == "source" else 3e-6
    assert np.abs(predicted - expected).sum() < tolerance * expected.sum()


@pytest.mark.parametrize("loss", ["poisson", "amplitude"])
@pytest.mark.parametrize("name", [*NAMES, "saturation"])
def test_gradient_of_every_part_against_finite_differences(name: str, loss: str) -> None:
    scan, slices = simulated("plain" if name == "saturation" else name, patterns=16, photons=1e4)
    if name == "saturation":
        ceiling = float(np.quantile(scan.counts, 0.98))
        clipped = np.minimum(scan.counts, np.uint16(ceiling))
        scan = replace(scan, counts=clipped, experiment=Experiment(saturation=ceiling))
    objective, state, _ = at_truth(
        scan, slices, loss=loss, learn_positions=True, learn_intensities=True, learn_background=True,
        learn_slice_distances=True,
    )  # fmt: skip
    generator = torch.Generator().manual_seed(0)

    def noise(part: Tensor, size: float) -> Tensor:
        scale = size * (float(largest(part)) if part.is_complex() or part.numel() < 4 else 1.0)
        return scale * torch.randn(part.shape, dtype=part.dtype, generator=generator)

    with torch.no_grad():
        state = state.map(lambda part: part + noise(part, 0.03))
        value, gradient, residuals = objective.gradient(state)
        assert residuals.shape == (16,) and float(value) > 0
        for part in (
            "object",
            "probe",
            "positions",
            "intensities",
            "variations",
            "coefficients",
            "background",
            "distances",
        ):
            present = getattr(state, part)
            if not present.numel():
                continue
            step = noise(present, 2e-3)
            ends = []
            for sign in (1, -1):
                moved = state.copy()
                setattr(moved, part, present + sign * step)
                ends.append(float(objective.gradient(moved)[0]))
            measured = (ends[0] - ends[1]) / 2
            product = getattr(gradient, part).conj() * step
            expected = 2 * float(product.real.sum() if product.is_complex() else product.sum())
            assert measured == pytest.approx(expected, rel=0.03, abs=2e-4 * float(value)), part


def test_saturated_pixels_are_censored() -> None:
    """Counts at the ceiling say that there were at least so many: no penalty for more, one for fewer."""
    model = ForwardModel(Experiment(saturation=50.0), 8, None, None, CPU)
    counts, factors = torch.full((3, 8, 8), 50.0), torch.ones(3)
    levels = torch.tensor([30.0, 50.0, 200.0])
    fields = torch.sqrt(levels)[:, None, None, None].to(torch.complex64).expand(3, 1, 8, 8)
    values = model.objectives(fields, counts, None, "poisson", factors)
    assert values[0] > 5 * values[1] > 0 and values[2] < 1e-6 * values[0]
    plain = ForwardModel(Experiment(), 8, None, None, CPU).objectives(fields, counts, None, "poisson", factors)
    assert plain[2] > plain[1] and values[0] == pytest.approx(float(plain[0]), rel=0.5)


@pytest.mark.parametrize("name", ["path", "source", "point spread", "background", "near field"])
def test_a_scan_is_explained_with_its_effect_and_not_without(name: str) -> None:
    scan, _ = simulated(name, patterns=225, photons=1e6, step=5)
    config = RefineConfig(iterations=50, split_half=False)
    on = refine(scan, None, config, "cpu", accept="all")
    off = refine(replace(scan, experiment=Experiment()), None, config, "cpu", accept="all")
    assert on.refinement is not None and off.refinement is not None
    assert on.refinement.deviance[-1] < 0.9 * off.refinement.deviance[-1]
    assert evaluate(on, scan)["phase"]["rmse"] < 0.8 * evaluate(off, scan)["phase"]["rmse"]


def test_a_background_is_learned() -> None:
    scan, _ = simulated("background", patterns=225, photons=1e5, step=5)
    assert scan.experiment.background is not None
    unknown = replace(scan, experiment=Experiment())
    config = RefineConfig(iterations=80, split_half=False, learn_background=True)
    on = refine(unknown, None, config, "cpu", accept="all")
    off = refine(unknown, None, replace(config, learn_background=False), "cpu", accept="all")
    found, true = on.experiment.background, scan.experiment.background
    assert found is not None and off.experiment.plain
    dark = np.asarray(scan.counts).mean(0) < 2 * true
    assert dark.sum() > 100 and np.corrcoef(found[dark], true[dark])[0, 1] > 0.6
    assert found[dark].mean() == pytest.approx(true[dark].mean(), rel=0.5)
    assert evaluate(on, scan)["phase"]["rmse"] < 0.9 * evaluate(off, scan)["phase"]["rmse"]


def varying(patterns: int = 225) -> tuple[Scan, np.ndarray]:
    """A scan whose probe is defocused and astigmatic at random, and the probes of all patterns."""
    start = simulate("photos", size=SIZE, patterns=patterns, photons=1e6, step=5, jitter=1, seed=5)
    k = np.fft.fftfreq(SIZE)
    spectrum = np.fft.fft2(start.probe[0].astype(np.complex128))
    power, square = np.abs(spectrum) ** 2, k[:, None] ** 2 + k**2
    radius = np.sqrt((power * square).sum() / power.sum())
    random = np.random.default_rng(0).normal(size=(2, patterns, 1, 1)) * 0.5
    phases = random[0] * square / radius**2 + random[1] * (k[:, None] ** 2 - k**2) / radius**2
    probes = np.fft.ifft2(spectrum * np.exp(1j * phases)).astype(np.complex64)
    mean = probes.mean(0)
    variations, coefficients = as_variations(probes, mean)
    what = Experiment(probe_variations=variations, variation_coefficients=coefficients)
    scan = simulate("photos", probe=mean, patterns=patterns, photons=1e6, step=5, jitter=1, seed=5, experiment=what)
    return replace(scan, experiment=Experiment()), probes


def test_variations_of_the_probe_are_found() -> None:
    scan, probes = varying()
    config = RefineConfig(iterations=120, split_half=False, probe_variations=3)
    on = refine(scan, None, config, "cpu", accept="all")
    off = refine(scan, None, replace(config, probe_variations=0), "cpu", accept="all")
    assert on.refinement is not None and off.refinement is not None and off.experiment.plain
    assert on.refinement.deviance[-1] < 0.8 * off.refinement.deviance[-1]
    assert evaluate(on, scan)["phase"]["rmse_high_pass"] < 0.9 * evaluate(off, scan)["phase"]["rmse_high_pass"]
    found = on.experiment
    assert found.probe_variations is not None and found.variation_coefficients is not None and on.probe is not None
    np.testing.assert_allclose(found.variation_coefficients.mean(0), 0, atol=1e-6)
    np.testing.assert_allclose(np.square(found.variation_coefficients).mean(0), 1, rtol=1e-4)
    powers = np.square(np.abs(found.probe_variations)).sum((1, 2))
    assert (np.diff(powers) <= 1e-5 * powers[0]).all()
    # The spectra differ from their mean as the true ones do, up to a phase.
    each = on.probe[0] + np.einsum("kv,vij->kij", found.variation_coefficients, found.probe_variations)
    of_mean = _similarity(np.broadcast_to(on.probe[:1], probes.shape), probes)
    assert 1 - _similarity(each, probes) < 0.7 * (1 - of_mean)


def _similarity(found: np.ndarray, true: np.ndarray) -> float:
    """Mean normalised overlap of the probes of all patterns, of one common shift."""
    overlap = np.abs(np.fft.ifft2(np.fft.fft2(found) * np.fft.fft2(true).conj()))
    norm = np.linalg.norm(found, axis=(1, 2)) * np.linalg.norm(true, axis=(1, 2))
    common = (overlap / norm[:, None, None]).mean(0)
    return float(common.max())


def test_variations_continue_from_a_result_and_a_checkpoint(tmp_path: Any) -> None:
    scan, _ = varying(64)
    config = RefineConfig(iterations=24, split_half=False, probe_variations=2)
    saved = tmp_path / "refinement.ckpt"

    def save(progress: Any) -> None:
        if progress.passes == 16:
            progress.save(saved)

    complete = refine(scan, None, config, "cpu", progress=save, every=4, accept="all")
    resumed = refine(scan, None, config, "cpu", resume=saved, accept="all")
    assert np.array_equal(complete.object, resumed.object)
    assert complete.experiment.probe_variations is not None and resumed.experiment.probe_variations is not None
    assert np.array_equal(complete.experiment.probe_variations, resumed.experiment.probe_variations)
    later = refine(scan, complete, replace(config, iterations=3), "cpu", accept="all")
    assert later.refinement is not None and complete.refinement is not None
    assert later.refinement.deviance[-1] <= 1.02 * complete.refinement.deviance[-1]


def test_the_reported_basis_of_variations_gives_the_same_probes() -> None:
    generator = torch.Generator().manual_seed(0)
    probe, variations = (torch.randn(k, 8, 8, dtype=torch.complex64, generator=generator) for k in (2, 3))
    coefficients = torch.randn(20, 3, dtype=torch.float64, generator=generator)
    mean, shapes, weights = orthogonalise_variations(probe, variations, coefficients)

    def first(probe: Tensor, shapes: Tensor, weights: Tensor) -> Tensor:
        return probe[0] + torch.einsum("kv,vij->kij", weights.to(probe.dtype), shapes)

    torch.testing.assert_close(first(mean, shapes, weights), first(probe, variations, coefficients))
    assert torch.equal(mean[1], probe[1])
    flat = torch.view_as_real(shapes).flatten(1)
    products = flat @ flat.T
    assert float((products - products.diag().diag()).abs().max()) < 1e-4 * float(products.max())


def test_gradient_of_the_prior_of_variations() -> None:
    generator = torch.Generator().manual_seed(0)
    probe, variations = (torch.randn(k, 8, 8, dtype=torch.complex64, generator=generator) for k in (1, 2))
    positions = 30 * torch.rand(40, 2, dtype=torch.float64, generator=generator)
    coefficients = torch.randn(40, 2, dtype=torch.float64, generator=generator)
    prior = VariationPrior(positions, probe)
    state = State(
        torch.ones(4, 4).to(torch.complex64), probe, positions, torch.zeros(40).double(), variations, coefficients
    )
    gradient = state.map(torch.zeros_like)
    prior(state, gradient)
    for part in ("variations", "coefficients"):
        value = getattr(state, part)
        step = 1e-2 * torch.randn(value.shape, dtype=value.dtype, generator=generator)
        ends = []
        for sign in (1, -1):
            moved = state.copy()
            setattr(moved, part, value + sign * step)
            ends.append(float(prior(moved, state.map(torch.zeros_like))))
        product = getattr(gradient, part).conj() * step
        expected = 2 * float(product.real.sum() if product.is_complex() else product.sum())
        assert (ends[0] - ends[1]) / 2 == pytest.approx(expected, rel=1e-3), part
    calm = prior.without_smooth_motion(variations, coefficients)
    quiet = replace_coefficients(state, calm)
    assert float(prior(quiet, state.map(torch.zeros_like))) < float(prior(state, state.map(torch.zeros_like)))


def replace_coefficients(state: State, coefficients: Tensor) -> State:
    copy = state.copy()
    copy.coefficients = coefficients
    return copy


def thick() -> tuple[Scan, np.ndarray]:
    slices = make_slices(("photos", "dead_leaves"), (140, 130), seed=1)
    what = Experiment(slice_distances=(25 * DEPTH,))
    scan = simulate(
        slices,
        probe="defocused",
        experiment=what,
        size=SIZE,
        patterns=196,
        photons=1e6,
        step=4,
        jitter=1,
        seed=5,
        **PLACE,
    )
    return scan, slices


def test_a_thick_sample_is_explained_by_slices() -> None:
    scan, slices = thick()
    config = RefineConfig(iterations=80, split_half=False)
    on = refine(scan, None, config, "cpu", accept="all")
    off = refine(replace(scan, experiment=Experiment()), None, config, "cpu", accept="all")
    assert on.refinement is not None and off.refinement is not None
    assert on.refinement.deviance[-1] < 0.6 * off.refinement.deviance[-1]
    assert on.slices is not None and on.slices.shape[0] == 2 and off.slices is None
    np.testing.assert_allclose(on.slices.prod(0), on.object, rtol=1e-4, atol=1e-5)
    found = [
        [
            evaluate(slice_of(on, index), replace(scan, truth=true, experiment=Experiment()))["frc"]["mean"]
            for true in slices
        ]
        for index in range(2)
    ]
    assert found[0][0] > found[0][1] + 0.1 and found[1][1] > found[1][0] + 0.1, found


def slice_of(result: Reconstruction, index: int) -> Reconstruction:
    assert result.slices is not None
    return replace(result, object=result.slices[index], slices=None, experiment=Experiment())


def test_slices_by_option_need_a_distance_and_a_pixel_size() -> None:
    scan, _ = thick()
    plain = replace(scan, experiment=Experiment())
    with pytest.raises(InputError, match="expected metres between the 2 slices, found none"):
        refine(plain, None, RefineConfig(slices=2), "cpu", accept="all")
    options = RefineConfig(slices=2, slice_distance=25 * DEPTH, iterations=2, split_half=False)
    with pytest.raises(InputError, match="expected a pixel size and an energy, for the propagation between slices"):
        refine(replace(plain, energy=None), None, options, "cpu", accept="all")
    assert refine(plain, None, options, "cpu", accept="all").experiment.slice_distances == (25 * DEPTH,)


def test_the_distance_of_slices_is_learned() -> None:
    scan, _ = thick()
    wrong = replace(scan, experiment=Experiment(slice_distances=(15 * DEPTH,)))
    config = RefineConfig(iterations=120, tolerance=0.0, split_half=False, learn_slice_distances=True)
    found = refine(wrong, None, config, "cpu", accept="all").experiment.slice_distances[0] / DEPTH
    assert abs(found - 25) < 5, found


def test_smoothness_between_slices_makes_them_alike() -> None:
    scan, _ = thick()
    results: list[Reconstruction] = [
        refine(scan, None, RefineConfig(iterations=20, split_half=False, slice_smoothness=weight), "cpu", accept="all")
        for weight in (0.0, 100.0)
    ]
    differences = []
    for result in results:
        assert result.slices is not None
        differences.append(float(np.abs(result.slices[1] - result.slices[0])[result.covered()].mean()))
    assert differences[1] < 0.7 * differences[0]
