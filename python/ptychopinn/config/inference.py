# SPDX-License-Identifier: BSD-3-Clause
"""How a trained model is applied, and how a result is refined: the sections ``inference`` and ``refine``."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from ptychopinn._one_line import one_line
from ptychopinn.config.checks import check_fields, require


@dataclass(frozen=True)
class InferenceConfig:
    """How a trained model is applied to a scan.

    Args:
        batch_size: groups in a batch; none: 16 on a CPU, on a GPU as many as its free memory holds and use it well.
        group_size: patterns of a group; none: as in training.
        coverage: take so few groups that every pattern leads one or appears this often; none: every pattern leads one.
        weighting: of the groups where they overlap: by the "probe" intensity that fell on a pixel, or by the number of
            patches whose "centre" (half a side wide) or whole area ("uniform") covers it.
        crop: write the rectangle around the well-illuminated pixels only, instead of every pixel that a patch touches.
        synchronise: remove the free phase of every group before averaging (see docs/maths.md).
        probe: "scan" uses the scan's probe, "model" the model's (in the scan's power), "auto" the model's if learned.
        positions: "auto" uses the refined positions of the scan that they were learned on, "scan" never.
        augment: predict in so many of the 8 orientations of the scan (1, 2, 4 or 8) and average.
        uncertainty: add a map of the standard deviation: over "overlaps" (all predictions of a pixel), over the
            "ensemble" (models and orientations), or "none"; or maps of amplitude and phase by "bootstrap", from
            predictions of simulated counts, refined as the image is.
        replicas: of the scan that "bootstrap" simulates; each takes two predictions, and refinements of these.
    """

    batch_size: int | None = None
    group_size: int | None = None
    coverage: int | None = 2
    weighting: Literal["probe", "centre", "uniform"] = "probe"
    crop: bool = False
    synchronise: bool = True
    probe: Literal["auto", "scan", "model"] = "auto"
    positions: Literal["auto", "scan"] = "auto"
    augment: Literal[1, 2, 4, 8] = 1
    uncertainty: Literal["none", "overlaps", "ensemble", "bootstrap"] = "none"
    replicas: int = 3

    __repr__ = one_line

    def __post_init__(self) -> None:
        check_fields(self, "inference")
        batch = self.batch_size
        require(batch is None or batch >= 1, "inference.batch_size", "be at least 1", batch)
        size = self.group_size
        require(size is None or size >= 1, "inference.group_size", "be at least 1", size)
        require(self.coverage is None or self.coverage >= 1, "inference.coverage", "be at least 1", self.coverage)
        require(self.replicas >= 1, "inference.replicas", "be at least 1", self.replicas)


@dataclass(frozen=True)
class RefineConfig:
    """How a reconstruction is refined against the counts; see docs/refinement.md.

    Args:
        engine: "lbfgs" (quasi-Newton on all patterns) or "pie" (a step after every batch).
        iterations: largest number of passes over the scan; the refinement ends earlier if the likelihood no longer
            improves.
        minutes: time limit in minutes; none: no limit.
        tolerance: relative improvement over ten passes (over thirty where positions are refined) below which it ends.
        warmup: passes of "pie" before "lbfgs" when it starts from scratch.
        loss: "poisson" (likelihood) or "amplitude".
        interpolation: between pixels: "fourier" (shifts the probe, exact) or "bilinear" (of the object, faster).
        modes: incoherent probe modes; none: as many as the initial probe has.
        learn_probe: refine the probe.
        probe_from: passes before the probe is refined.
        probe_support: diameter, pixels, of a disc about the centre of the array, sample (N // 2, N // 2), outside which
            the probe is 0; none: it may be anywhere.
        probe_threshold: after every 30 passes, pixels where the modulus of the probe is below this fraction of its
            largest leave its support; 0: none does.
        learn_positions: refine the scan positions.
        positions_from: passes before the positions are refined.
        learn_intensities: refine the intensity of every pattern.
        probe_variations: number of shapes by which the probe varies from pattern to pattern (orthogonal probe
            relaxation), with a coefficient for every pattern; of the strongest mode.
        learn_variation_coefficients: refine these coefficients; false: those of the scan's experiment are exact.
        learn_background: refine a background, counts that all patterns have in common and that are not of the sample.
        slices: of a thick sample whose scan states no distances between them, with `slice_distance`.
        slice_distance: metres between slices.
        learn_slice_distances: refine the distances between slices.
        find_slice_distances: search for a common factor of the distances between slices before the first pass, by trial
            refinements of a part of the scan, which give the initial probe, too; "auto": if these distances are refined
            from scratch.
        slice_smoothness: weight of the mean square difference between neighbouring slices, in nats per detector pixel.
        coarse: from scratch, begin with a refinement of the middle 1/coarse of the detector along y and x, whose object
            has pixels as many times as large; 1: without.
        find_defocus: search for the probe's defocus, with the aperture of the mean pattern, before anything else;
            "auto": if positions are refined and the probe is the scan's.
        affine: "remove" or "keep" a common shift, scale, rotation and shear of the position corrections, or "refine"
            these alone before the single positions; the probe must be known, see docs/refinement.md.
        drift: number of smooth functions of the time, along y and x, which the corrections of the positions are in the
            first passes; 0: they are free from the first pass on. Patterns are in the order of their time.
        search: pixels around their reported positions in which patterns with a poor fit are searched for, if positions
            are refined, later five standard deviations of the errors if that is more; 0: not at all.
        centre_probe: keep the centre of mass of the initial probe.
        keep_power: keep the power of the initial probe; the object is scaled instead.
        total_variation: weight of the object's total variation, in nats per detector pixel.
        smoothness: weight of the object's mean square gradient, in nats per detector pixel.
        amplitude_limit: largest amplitude of the object, of every slice, or none; 1 is a sample that transmits all of a
            beam with the power of the initial probe (`keep_power`).
        phase_limits: lowest and highest phase of the object, of every slice, rad, as a list of two, or none. The data
            determine differences of phases only; the limits choose the constant.
        limit_weight: weight of the mean square by which amplitude and phase, rad, exceed these limits, in nats per
            detector pixel.
        batch_size: patterns of a batch; none: by the device. Of "pie" a step follows every batch; for "lbfgs" it
            matters on a GPU only.
        history: number of previous steps that "lbfgs" uses.
        object_step: step size of the object in "pie", relative to a full step.
        probe_step: step size of the probe in "pie", relative to a full step.
        momentum: of the object in "pie".
        split_half: estimate the resolution from two independent halves of the scan; doubles the time.
        uncertainty: add maps of the standard deviation of amplitude and phase, by "bootstrap", from refinements of
            simulated counts; or "none".
        replicas: of the scan that "bootstrap" simulates; each takes two refinements.
        seed: of the batches and the halves.
    """

    engine: Literal["lbfgs", "pie"] = "lbfgs"
    iterations: int = 200
    minutes: float | None = None
    tolerance: float = 2e-3
    warmup: int = 5
    loss: Literal["poisson", "amplitude"] = "poisson"
    interpolation: Literal["fourier", "bilinear"] = "fourier"
    modes: int | None = None
    learn_probe: bool = True
    probe_from: int = 0
    probe_support: float | None = None
    probe_threshold: float = 0.0
    learn_positions: bool = False
    positions_from: int = 0
    learn_intensities: bool = False
    probe_variations: int = 0
    learn_variation_coefficients: bool = True
    learn_background: bool = False
    slices: int = 1
    slice_distance: float | None = None
    learn_slice_distances: bool = False
    find_slice_distances: bool | Literal["auto"] = "auto"
    slice_smoothness: float = 0.0
    coarse: Literal[1, 2, 4] = 1
    find_defocus: bool | Literal["auto"] = "auto"
    affine: Literal["remove", "keep", "refine"] = "remove"
    drift: int = 0
    search: int = 10
    centre_probe: bool = True
    keep_power: bool = True
    total_variation: float = 0.3
    smoothness: float = 0.0
    amplitude_limit: float | None = None
    phase_limits: tuple[float, float] | None = None
    limit_weight: float = 30.0
    batch_size: int | None = None
    history: int = 20
    object_step: float = 1.0
    probe_step: float = 0.3
    momentum: float = 0.5
    split_half: bool = True
    uncertainty: Literal["none", "bootstrap"] = "none"
    replicas: int = 3
    seed: int = 0

    __repr__ = one_line

    def __post_init__(self) -> None:
        check_fields(self, "refine")
        for name in ("iterations", "batch_size", "history"):
            value = getattr(self, name)
            require(value is None or value >= 1, f"refine.{name}", "be at least 1", value)
        require(self.minutes is None or self.minutes > 0, "refine.minutes", "be positive", self.minutes)
        require(self.modes is None or self.modes >= 1, "refine.modes", "be at least 1", self.modes)
        require(self.slices >= 1, "refine.slices", "be at least 1", self.slices)
        distance = self.slice_distance
        require(distance is None or distance > 0, "refine.slice_distance", "be positive", distance)
        for name in (
            "tolerance", "warmup", "search", "total_variation", "smoothness", "slice_smoothness", "probe_variations",
            "drift", "probe_from", "positions_from", "limit_weight",
        ):  # fmt: skip
            value = getattr(self, name)
            require(0 <= value < math.inf, f"refine.{name}", "be at least 0", value)
        for name in ("object_step", "probe_step"):
            value = getattr(self, name)
            require(0 < value <= 2, f"refine.{name}", "be above 0 and at most 2", value)
        for name in ("probe_support", "amplitude_limit"):
            value = getattr(self, name)
            require(value is None or 0 < value < math.inf, f"refine.{name}", "be positive", value)
        require(0 <= self.probe_threshold < 1, "refine.probe_threshold", "be in [0, 1)", self.probe_threshold)
        if self.phase_limits is not None:
            limits = tuple(self.phase_limits)  # a list, where it comes from a file
            object.__setattr__(self, "phase_limits", limits)
            real = all(isinstance(value, (int, float)) for value in limits)
            fits = real and len(limits) == 2 and 0 < limits[1] - limits[0] < 2 * math.pi
            require(fits, "refine.phase_limits", "be two phases, low < high < low + 2 pi", limits)
        require(self.replicas >= 1, "refine.replicas", "be at least 1", self.replicas)
        require(0 <= self.momentum < 1, "refine.momentum", "be in [0, 1)", self.momentum)
        require(0 <= self.seed < 2**32, "refine.seed", "be in [0, 2^32)", self.seed)
