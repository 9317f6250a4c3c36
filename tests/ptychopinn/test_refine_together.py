# SPDX-License-Identifier: BSD-3-Clause
"""Several scans refined together, with one beam, one sample or both in common, and first passes at low resolution.

Samples, positions and probes are asymmetric, and scans of one sample have origins that differ by fractions of pixels.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ptycho_ext import translate_images
from ptychopinn.acquisition import Acquisition
from ptychopinn.cli.app import run as main
from ptychopinn.config import RefineConfig
from ptychopinn.errors import InputError
from ptychopinn.experiment import Experiment
from ptychopinn.io.scans import read_scan
from ptychopinn.metrics.evaluate import align_to_scan, evaluate
from ptychopinn.physics.simulate import simulate
from ptychopinn.reconstruction import Reconstruction
from ptychopinn.refinement import files
from ptychopinn.refinement.ambiguities import centre_of_mass, remove_affine
from ptychopinn.refinement.coarse import coarse_scan, finer, resampled
from ptychopinn.refinement.joint import Joint, combined, doses
from ptychopinn.refinement.run import Progress
from ptychopinn.refinement.several import Common, refine_several
from ptychopinn.refinement.workflow import refine
from ptychopinn.scan import Scan

SIZE = 32
PIXEL = 2e-8
QUICK = RefineConfig(split_half=False, iterations=25)


def simulated(sample: Any = "photos", seed: int = 0, **options: Any) -> Scan:
    chosen: dict[str, Any] = {
        "size": SIZE,
        "patterns": 81,
        "photons": 1e5,
        "step": 6,
        "jitter": 1.5,
        "pixel_size": PIXEL,
    }
    return simulate(sample, seed=seed, **(chosen | options))


def aberrated(probe: np.ndarray, defocus: float, astigmatism: float = 0.0, shift: float = 0.0) -> np.ndarray:
    """A probe with other aberrations, in rad at the corner of the far field, moved by pixels along y."""
    k = np.fft.fftfreq(SIZE)
    phase = defocus * (k[:, None] ** 2 + k**2) + astigmatism * k[:, None] * k - 2 * np.pi * shift * k[:, None]
    return np.asarray(np.fft.ifft2(np.fft.fft2(probe) * np.exp(1j * phase)), np.complex64)


def frc(result: Reconstruction, scan: Scan) -> float:
    """Mean correlation with the truth; coordinates must be those of the scan."""
    figures = evaluate(result, scan, border=2)
    assert np.abs(figures["alignment"]["shift_px"]).max() < 0.3
    return float(figures["frc"]["mean"])


def likeness(probe: np.ndarray, other: np.ndarray) -> float:
    return float(abs(np.vdot(probe, other)) / np.linalg.norm(probe) / np.linalg.norm(other))


def coherence_likeness(probe: np.ndarray, other: np.ndarray) -> float:
    """Of the mutual intensities of probes (M, N, N), whatever the basis of their modes."""
    a, b = (part.reshape(len(part), -1) for part in (probe, other))
    overlap, own, others = (np.square(np.abs(x @ y.conj().T)).sum() for x, y in ((a, b), (a, a), (b, b)))
    return float(overlap / np.sqrt(own * others))


def in_place(results: list[Reconstruction], first: Scan) -> list[np.ndarray]:
    """Probes of results without the common motion of a fraction of a pixel that they may have, with the object."""
    probes = [torch.from_numpy(result.probe) for result in results]
    shift = centre_of_mass(torch.from_numpy(first.probe)) - centre_of_mass(probes[0])
    return [translate_images(probe, shift.expand(len(probe), 2)).numpy() for probe in probes]


def moved(scan: Scan, offset: tuple[float, float]) -> Scan:
    """The scan with another origin of its pixels, which its world coordinates have, too."""
    origin = -np.array(offset) * PIXEL
    return replace(
        scan,
        positions=scan.positions + offset,
        acquisition=Acquisition(world_origin=(float(origin[0]), float(origin[1]))),
        truth=None,
    )


def two_scans_of_a_sample(probe: np.ndarray | None = None, photons: float = 1e5) -> tuple[Scan, Scan]:
    first = simulated(seed=1)
    second = simulated(first.truth, seed=2, patterns=64, photons=photons, **({} if probe is None else {"probe": probe}))
    return replace(first, acquisition=Acquisition(world_origin=(0.0, 0.0))), second


def test_a_scan_with_few_patterns_gains_from_the_probe_of_another() -> None:
    many, few = simulated(seed=1, patterns=100), simulated("dead_leaves", seed=2, patterns=36, photons=2e4)
    wrong = aberrated(many.probe, 40, 10)
    begun = replace(many, probe=wrong), replace(few, probe=wrong * np.float32(0.2**0.5))
    # The scans have origins of their own, and different areas.
    shifted = replace(begun[1], positions=begun[1].positions + np.array([30.0, -7.0]))
    config = replace(QUICK, iterations=60)
    alone = refine(shifted, None, config, "cpu")
    results = refine_several([begun[0], shifted], "probe", None, config, "cpu")
    back = [replace(part, origin=(part.origin[0] - 30, part.origin[1] + 7)) for part in (alone, results[1])]
    apart, with_many = (frc(part, few) for part in back)
    assert with_many > apart + 0.003 and frc(results[0], many) > 0.9
    assert results[1].positions is not None and results[0].probe is not None and results[1].probe is not None
    np.testing.assert_allclose(results[1].positions, shifted.positions, atol=1e-9)
    assert likeness(results[1].probe, few.probe) > likeness(alone.probe, few.probe)  # type: ignore[arg-type]
    # The probe has the power of each scan, and the objects have their own level.
    for result, scan in zip(results, (many, few), strict=True):
        assert np.linalg.norm(result.probe) == pytest.approx(np.linalg.norm(scan.probe), rel=1e-3)  # type: ignore[arg-type]
        level = np.abs(result.object[result.covered()]).mean()
        assert level == pytest.approx(np.abs(scan.truth).mean(), rel=0.1)  # type: ignore[arg-type]
    assert results[0].residuals is not None and len(results[0].residuals) == 100
    assert results[1].error_map is not None and results[1].error_map.shape == results[1].shape


def test_two_beams_on_one_sample_have_a_probe_each() -> None:
    first = simulated(seed=1)
    other = aberrated(first.probe, -25, 15, shift=0.7)
    first, second = two_scans_of_a_sample(other)
    assert likeness(first.probe, second.probe) < 0.9
    alone = refine(replace(second, probe=first.probe), None, QUICK, "cpu")
    assert likeness(alone.probe, second.probe) < 0.9  # type: ignore[arg-type]
    begun = replace(moved(second, (12.3, -5.6)), probe=first.probe)
    config = replace(QUICK, iterations=60)
    results = refine_several([first, begun], "object", None, config, "cpu")
    for probe, scan in zip(in_place(results, first), (first, second), strict=True):
        assert likeness(probe, scan.probe) > 0.99
    assert results[0].experiment.plain and results[1].experiment.plain
    assert frc(results[0], first) > 0.9
    origin = (results[1].origin[0] - 12.3, results[1].origin[1] + 5.6)
    assert np.allclose(origin, results[0].origin, atol=1e-9)
    np.testing.assert_allclose(results[1].positions, begun.positions, atol=1e-9)


def test_two_beams_have_modes_of_their_own() -> None:
    first = simulated(seed=1)
    k = np.arange(SIZE) - SIZE / 2
    tilts = [0.5 * k[:, None], 0.4 * k - 0.2 * k[:, None], 0.2 * k + 0.2 * k[:, None]]
    beams = [
        np.concatenate([first.probe, 0.6 * first.probe * np.exp(1j * tilt)]).astype(np.complex64) for tilt in tilts
    ]
    scans = [simulated(first.truth, seed=seed, probe=beam) for seed, beam in enumerate(beams[:2])]
    config = replace(QUICK, iterations=100)
    results = refine_several([replace(scan, probe=beams[2]) for scan in scans], "object", None, config, "cpu")
    for probe, scan, other in zip(in_place(results, scans[0]), scans, scans[::-1], strict=True):
        assert probe.shape == (2, SIZE, SIZE)
        assert coherence_likeness(probe, scan.probe) > 0.97 > 0.92 > coherence_likeness(probe, other.probe)
    assert frc(results[0], scans[0]) > 0.9


def test_two_scans_with_one_beam_and_different_doses() -> None:
    first, second = two_scans_of_a_sample(photons=3e4)
    begun = moved(second, (-20.4, 9.7))
    combination = combined([first, begun], side_by_side=False)
    np.testing.assert_allclose(combination.scan.positions[81:], second.positions, atol=1e-6)
    assert doses(combination, [first, begun]) == pytest.approx([1, 0.3], rel=0.03)
    results = refine_several([first, begun], "both", None, replace(QUICK, learn_intensities=True), "cpu")
    assert frc(results[0], first) > frc(refine(first, None, QUICK, "cpu"), first)
    powers = [np.linalg.norm(result.probe) ** 2 for result in results]  # type: ignore[arg-type]
    assert powers[1] / powers[0] == pytest.approx(0.3, rel=0.03)
    assert results[1].intensities is not None and results[1].intensities.mean() == pytest.approx(1, rel=0.05)
    assert results[0].object.shape == results[1].object.shape


def test_the_brightest_scan_is_not_the_first() -> None:
    bright, first = two_scans_of_a_sample(photons=3e4)
    second = replace(bright, acquisition=Acquisition())
    results = refine_several([first, second], "both", None, QUICK, "cpu")
    powers = [np.linalg.norm(result.probe) ** 2 for result in results]  # type: ignore[arg-type]
    assert powers[0] == pytest.approx(np.linalg.norm(first.probe) ** 2, rel=1e-3)
    assert powers[1] / powers[0] == pytest.approx(1 / 0.3, rel=0.03)
    assert frc(results[1], second) > 0.9


@pytest.mark.parametrize("common", ["probe", "object", "both"])
def test_one_scan_alone_is_refined_as_ever(common: Common) -> None:
    scan, config = simulated(patterns=36), replace(QUICK, iterations=8)
    alone, (result,) = refine(scan, None, config, "cpu"), refine_several([scan], common, None, config, "cpu")
    for name in ("object", "weights", "probe", "positions", "residuals"):
        assert np.array_equal(getattr(alone, name), getattr(result, name))
    assert alone.origin == result.origin


@pytest.mark.parametrize("common", ["probe", "object", "both"])
def test_earlier_reconstructions_are_continued(common: Common) -> None:
    """The first pass explains the patterns better than any from scratch."""
    first, second = two_scans_of_a_sample()
    begun = [first, moved(second, (3.4, 5.3))]
    earlier = [refine(scan, None, QUICK, "cpu") for scan in begun]
    # A reconstruction has any phase and level.
    earlier[1] = replace(earlier[1], object=earlier[1].object * (2j), probe=earlier[1].probe / np.float32(2))
    one = replace(QUICK, iterations=3)
    reports = [
        result.refinement
        for start in (earlier, None)
        for result in refine_several(begun, common, start, one, "cpu")[:1]
    ]
    continued, scratch = (report.deviance[-1] for report in reports if report is not None)
    assert continued < 0.8 * scratch


def test_positions_of_every_sample_have_an_affine_part_of_their_own() -> None:
    rng = np.random.default_rng(0)
    reported = torch.from_numpy(rng.uniform(0, 50, (40, 2)))
    groups = torch.arange(40) // 20
    moves = torch.where(groups[:, None] == 0, 0.02 * reported + 1.0, 0.3 * reported.flip(1) - 2.0)
    assert remove_affine(reported, moves, groups).abs().max() < 1e-9
    assert remove_affine(reported, moves).abs().max() > 0.1
    first, second = simulated(seed=1), simulated("dead_leaves", seed=2)
    scans = [
        replace(scan, positions=scan.positions + 0.5 * np.random.default_rng(seed).normal(size=(81, 2)))
        for seed, scan in enumerate((first, second))
    ]
    config = replace(QUICK, learn_positions=True, iterations=40, find_defocus=False)
    for scan, wrong, result in zip(
        (first, second), scans, refine_several(scans, "probe", None, config, "cpu"), strict=True
    ):
        errors = [
            remove_affine(torch.from_numpy(scan.positions), torch.from_numpy(found - scan.positions))
            for found in (wrong.positions, result.positions)
        ]
        before, after = (float(error.square().sum(1).median().sqrt()) for error in errors)
        assert after < 0.5 * before


def test_what_belongs_to_patterns_is_concatenated() -> None:
    first, second = simulated(seed=1, patterns=16), simulated(seed=2, patterns=9)
    paths = [np.random.default_rng(seed).normal(size=(scan.n, 2, 2)) for seed, scan in enumerate((first, second))]
    background = np.ones((SIZE, SIZE), np.float32)
    experiments = [Experiment(exposure=path, background=background) for path in paths]
    experiments[1] = replace(experiments[1], background_factors=np.full(9, 2.0))
    scans = [replace(scan, experiment=one) for scan, one in zip((first, second), experiments, strict=True)]
    found = combined(scans, side_by_side=True).scan
    assert found.experiment.exposure is not None and found.experiment.background_factors is not None
    np.testing.assert_array_equal(found.experiment.exposure, np.concatenate(paths))
    np.testing.assert_array_equal(found.experiment.background_factors, [1.0] * 16 + [2.0] * 9)
    extent = found.positions[16:].min(0)[1] - found.positions[:16].max(0)[1]
    assert extent > SIZE + 16 and np.array_equal(found.positions[:16], first.positions)
    part = Joint(np.arange(1.0, 26.0), np.arange(25)).subset(np.array([3, 1]))
    assert part.factors.tolist() == [4, 2] and part.groups is not None and part.groups.tolist() == [3, 1]


def test_pixels_that_are_bad_in_one_scan_are_ignored_in_all(caplog: pytest.LogCaptureFixture) -> None:
    first, second = simulated(seed=1, patterns=9), simulated(seed=2, patterns=9)
    mask = np.zeros((SIZE, SIZE), np.bool_)
    mask[3, 5] = True
    found = combined([first, replace(second, bad_pixels=mask)], side_by_side=True).scan
    assert found.bad_pixels is not None and found.bad_pixels.sum() == 1
    assert "are ignored in all" in caplog.text
    mask[:8] = True
    with pytest.raises(InputError, match=r"bad pixels that differ in at most 5% of the detector .* found 25.0%"):
        combined([first, replace(second, bad_pixels=mask)], side_by_side=True)


def test_scans_without_enough_in_common_are_refused() -> None:
    scan, other = simulated(seed=1, patterns=9), simulated(seed=2, patterns=9)
    far = replace(other, positions=other.positions + 500.0)
    cases: list[tuple[list[Scan], Common, RefineConfig, Any, str]] = [
        ([scan, simulated(size=48, patterns=9)], "probe", QUICK, None, "patterns of one size .* found 32 and 48 px"),
        ([scan, replace(other, pixel_size=3e-8)], "probe", QUICK, None, "one pixel_size .* found 2e-08 m and 3e-08 m"),
        ([replace(scan, energy=8e3), other], "probe", QUICK, None, "one energy .* found 8000 eV and none"),
        ([scan, replace(other, experiment=Experiment(saturation=9.0))], "both", QUICK, None, "different saturation"),
        ([scan, moved(other, (1, 1))], "both", QUICK, None, "all have world coordinates"),
        ([scan, far], "object", QUICK, None, "patterns that overlap those of the scans before it"),
        ([scan, other], "object", replace(QUICK, learn_probe=False), None, "state common both instead"),
        ([scan, other], "probe", QUICK, [None, None, None], "start must be one for each of the 2 scans, got 3"),
        ([], "probe", QUICK, None, "scans must be one or more, got none"),
    ]
    for scans, common, config, start, message in cases:
        with pytest.raises(InputError, match=message):
            refine_several(scans, common, start, config, "cpu", accept="all")


def test_the_command_writes_a_result_of_every_scan(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folders: list[Path] = []
    monkeypatch.setattr(files, "_write_pictures", lambda result, scan, folder: folders.append(folder) or [])
    names = [str(tmp_path / f"{name}.npz") for name in "ab"]
    for seed, name in enumerate(names):
        simulated(seed=seed, patterns=36).save(name)
    out = tmp_path / "out.h5"
    settings = ("--iterations", "2", "--refine.split_half", "false", "--device", "cpu", "--accept", "all")
    assert main(["refine", "--from-scratch", names[0], "--with", names[1], "--out", str(out), *settings]) == 0
    printed = capsys.readouterr().out
    assert f"{out}: 2 passes" in printed and f"{tmp_path / 'out-2.h5'}: 2 passes" in printed
    for path, name in ((out, names[0]), (tmp_path / "out-2.h5", names[1])):
        result = Reconstruction.load(path)
        np.testing.assert_allclose(result.positions, read_scan(name, "auto").positions, atol=1e-9)
    assert folders == [tmp_path / "out", tmp_path / "out-2"]
    again = ["refine", "--from-scratch", names[0], "--with", names[1], "--out", str(out), "--resume", *settings]
    assert main([*again, "--iterations", "4"]) == 0
    assert f"{tmp_path / 'out-2.h5'}: 4 passes" in capsys.readouterr().out
    assert main([*again, "--iterations", "6", "--common", "both"]) != 0
    assert "found one of another scan or start" in capsys.readouterr().err


def test_an_image_at_more_points_is_that_of_its_trigonometric_polynomial() -> None:
    y, x = np.mgrid[:12, :18]
    image = (np.cos(np.pi * (y + 0.5) / 12) + 1j * np.cos(np.pi * 2 * (x + 0.5) / 18)).astype(np.complex64)
    for factor in (2, 4):
        finer_image = resampled(image, factor)
        v, u = np.mgrid[: 12 * factor, : 18 * factor] / factor
        expected = np.cos(np.pi * (v + 0.5) / 12) + 1j * np.cos(np.pi * 2 * (u + 0.5) / 18)
        np.testing.assert_allclose(finer_image, expected, atol=1e-5)


def test_a_start_at_low_resolution_is_in_the_coordinates_of_the_scan() -> None:
    scan = simulated(seed=3, patterns=100, step=5)
    small = coarse_scan(scan, 2)
    assert small.patch_size == 16 and small.pixel_size == 2 * PIXEL
    rough = finer(refine(small, None, QUICK, "cpu", accept="all"), scan, 2)
    figures = evaluate(rough, scan, border=2)
    assert np.abs(figures["alignment"]["shift_px"]).max() < 0.5 and figures["phase"]["pearson"] > 0.8
    result = refine(scan, None, replace(QUICK, coarse=2), "cpu")
    assert frc(result, scan) > 0.9
    thick = replace(QUICK, coarse=2, slices=2, slice_distance=1e-6)
    with pytest.raises(InputError, match=r"expected one slice for refine.coarse, found refine.slices 2"):
        refine(scan, None, thick, "cpu")
    with pytest.raises(InputError, match=r"a plain experiment for refine.coarse, found a saturated detector"):
        coarse_scan(replace(scan, experiment=Experiment(saturation=1e4)), 2)
    with pytest.raises(InputError, match=r"an even number of 16 or more, found 32 / 4"):
        coarse_scan(scan, 4)


@pytest.mark.parametrize("common", ["probe", "object", "both"])
def test_a_resumed_refinement_of_several_scans_equals_an_uninterrupted_one(common: Common, tmp_path: Path) -> None:
    first, second = simulated(seed=1, patterns=36), simulated(seed=2, patterns=25)
    scans = [first, replace(second, positions=second.positions + np.array([5.3, 3.4]))]
    config = replace(QUICK, iterations=12, learn_positions=True, find_defocus=False, search=0)

    def note(progress: Progress) -> None:
        if progress.passes == 8:
            progress.save(tmp_path / "cut.ckpt")

    uninterrupted = refine_several(scans, common, None, config, "cpu", progress=note, every=4, accept="all")
    rest = refine_several(scans, common, None, config, "cpu", resume=tmp_path / "cut.ckpt", accept="all")
    for one, other in zip(uninterrupted, rest, strict=True):
        for name in ("object", "weights", "probe", "positions", "residuals", "error_map"):
            assert np.array_equal(getattr(one, name), getattr(other, name))
    with pytest.raises(InputError, match="found one of another scan or start"):
        refine_several([*scans, first], common, None, config, "cpu", resume=tmp_path / "cut.ckpt", accept="all")


def test_standard_deviations_of_several_scans_are_those_of_their_errors() -> None:
    many, few = simulated(seed=1, patterns=49), simulated("dead_leaves", seed=2, patterns=36, photons=2e4)
    begun = replace(few, positions=few.positions + np.array([3.0, -7.0]))
    config = replace(QUICK, uncertainty="bootstrap", replicas=1)
    plain = refine_several([many, begun], "probe", None, QUICK, "cpu")
    results = refine_several([many, begun], "probe", None, config, "cpu")
    results[1] = replace(results[1], origin=(results[1].origin[0] - 3, results[1].origin[1] + 7))
    typical = []
    for result, scan, before in zip(results, (many, few), plain, strict=True):
        assert np.array_equal(result.object, before.object)
        aligned = align_to_scan(result, scan, border=2)
        assert result.phase_uncertainty is not None and result.phase_uncertainty.shape == result.shape
        expected = result.phase_uncertainty[aligned.region]
        error = np.angle(aligned.image * aligned.truth.conj())
        assert 0.5 < np.abs(error).mean() / (expected.mean() * np.sqrt(2 / np.pi)) < 2
        typical.append(expected.mean())
    assert typical[1] > 1.3 * typical[0]  # a fifth of the photons


@pytest.mark.parametrize("common", ["object", "both"])
def test_replicas_of_scans_of_one_sample(common: Common) -> None:
    first, second = two_scans_of_a_sample()
    config = replace(QUICK, iterations=8, uncertainty="bootstrap", replicas=1)
    results = refine_several([first, moved(second, (2.3, 1.6))], common, None, config, "cpu", accept="all")
    maps = [result.uncertainty for result in results]
    assert maps[0] is not None and maps[1] is not None and np.array_equal(maps[0], maps[1])
    assert 0 < np.median(maps[0][results[0].covered()]) < 0.3


@pytest.mark.parametrize("common", ["probe", "object", "both"])
def test_several_scans_begin_at_low_resolution(common: Common) -> None:
    first, second = two_scans_of_a_sample()
    one = replace(QUICK, iterations=3, coarse=2)
    begun = [first, moved(second, (3.4, 5.3))]
    coarse = refine_several(begun, common, None, one, "cpu", accept="all")
    fine = refine_several(begun, common, None, replace(one, coarse=1), "cpu", accept="all")
    for result, other in zip(coarse, fine, strict=True):
        assert result.refinement is not None and other.refinement is not None
        assert result.refinement.deviance[-1] < other.refinement.deviance[-1]
