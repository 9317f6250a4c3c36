# SPDX-License-Identifier: BSD-3-Clause
"""The experiments of a diagnosis: trial refinements with one cause removed each, on a sample of neighbouring patterns.

The reference of most is a trial that refines object and probe. Faulty pixels that the check of the scan has found are
masked in all trials but one, and patterns are centred in all.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from ptychopinn._one_line import one_line
from ptychopinn.diagnosis.effects import EFFECTS, try_effects, without_saturated
from ptychopinn.diagnosis.residuals import Residuals
from ptychopinn.diagnosis.trials import Floors, Trial, fit, fit_background, losses, split
from ptychopinn.findings.centre import centre_offset, fill_pixels
from ptychopinn.findings.gate import Checked
from ptychopinn.inference.fit import experiment_of_result
from ptychopinn.inspection.orientation import FEWEST, OrientationReport, check_orientation
from ptychopinn.inspection.trials import Sample, margin, select_sample
from ptychopinn.physics.propagation import far_field, inverse_far_field
from ptychopinn.reconstruction import Reconstruction
from ptychopinn.refinement.search import defocus_probe
from ptychopinn.runtime.progress import progress
from ptychopinn.scan import Scan

_log = logging.getLogger(__name__)

#: Factors on the positions that are tried.
SCALINGS = (0.8, 0.85, 0.9, 0.95, 1.0, 1.05, 1.1, 1.15, 1.2)
#: Phases, rad at the rms radius of the aperture, by which the probe is defocused in trials.
DEFOCUS = (-4.0, -3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0, 4.0)
#: Passes of trials that only choose among values.
_FEW_PASSES = 10
#: Number of trials besides those of the background, modes with a second sample, pixels and orientation.
_TRIALS = len(DEFOCUS) + len(SCALINGS) + 11 + len(EFFECTS)
#: Loss over noise floor of a result from which effects of the experiment are tried.
_UNEXPLAINED = 1.1
#: Margin of a comparison, standard errors over patterns, from which it counts.
SIGMAS = 5.0
#: Factor by which more modes lower the loss of held-out photons, from which they count, and number of patterns of a
#: second sample, which decides if the first one leaves it open: a refined probe has less noise there.
MODES_GAIN, _MORE_PATTERNS = 1.01, 250
#: Distance, in units of N, from which the autocorrelation of a pattern has noise only.
_NOISE_ONLY = 0.62
#: Indices of successive patterns of the sample that are at most so far apart are neighbours in time.
_GAP = 3


@dataclass(frozen=True)
class Moves:
    """What refined positions of a sample have in common.

    Attributes:
        rms: of the moves along an axis, pixels, without their mean.
        scaling: factor on the reported positions that fits the moves best.
        affine: fraction of the moves that a common affine map explains, 0 to 1.
        roughness: mean square difference of successive moves, 1 for independent and 0 for smooth ones.
    """

    rms: float
    scaling: float
    affine: float
    roughness: float

    __repr__ = one_line


@dataclass(frozen=True)
class Comparison:
    """A trial beside its reference.

    Attributes:
        before, after: loss over noise floor without and with the change.
        sigmas: margin between both, standard errors over patterns.
    """

    before: float
    after: float
    sigmas: float

    __repr__ = one_line

    @property
    def gain(self) -> float:
        """Factor by which the loss falls."""
        return self.before / max(self.after, 1e-9)

    def exceeds(self, gain: float) -> bool:
        """Whether the loss falls by more than this factor and by more than :data:`SIGMAS`."""
        return self.gain > gain and self.sigmas > SIGMAS


@dataclass(frozen=True)
class Experiments:
    """Results of all experiments; ratios are losses over noise floor of the sample.

    Attributes:
        patterns: of the sample.
        result: ratio of the result itself.
        probe: refining the probe, from that of the result.
        given_probe: ratio of the scan's probe, fixed.
        reference: ratio with object and probe refined, from the better of both probes.
        defocus: another defocus, with the probe fixed or refined. This and the following have as their reference the
            best of the result's probe fixed, the scan's probe fixed, and a refined one.
        defocus_phase: that was found, rad.
        positions, intensities, modes: refining these beside the probe.
        moves: of the refined positions.
        scaling: another scale of the positions, with the probe fixed or refined; ``scale`` is the best one.
        background: a constant background; ``background_fraction`` of the counts.
        pixels: masking faulty pixels; ``faulty`` of them. None if there are none.
        orientation: of the positions, None if it was not checked.
        noise: variance of the counts relative to photons, from the autocorrelation of the patterns.
        uniform: ratio of the mean pattern as the prediction for all.
        effects: trials of :func:`~ptychopinn.diagnosis.effects.try_effects`, none for a result that fits.
    """

    patterns: int
    result: float
    probe: Comparison
    given_probe: float
    reference: float
    defocus: Comparison
    defocus_phase: float
    positions: Comparison
    moves: Moves
    intensities: Comparison
    modes: Comparison
    scaling: Comparison
    scale: float
    background: Comparison
    background_fraction: float
    pixels: Comparison | None
    faulty: int
    orientation: OrientationReport | None
    noise: float
    uniform: float
    effects: dict[str, Comparison] = dataclasses.field(default_factory=dict)

    __repr__ = one_line


def run_experiments(scan: Scan, result: Reconstruction, residuals: Residuals, checked: Checked) -> Experiments:
    """Do all experiments on a sample of a scan.

    Args:
        scan: the scan.
        result: its probe and positions begin the trials.
        residuals: of the result.
        checked: what the check knows of the scan.
    """
    patterns = checked.patterns
    positions = scan.positions if result.positions is None or len(result.positions) != scan.n else result.positions
    faulty = faulty_pixels(checked)
    experiment = experiment_of_result(result, scan)
    masked = dataclasses.replace(scan, positions=positions, bad_pixels=patterns.masked | faulty, experiment=experiment)
    complete = without_saturated(select_sample(masked, shape_probe=False, all_points=True))
    own = _own_probe(complete, scan, result, checked)
    # A pattern of the near field has no limited autocorrelation, and a mask of many bright pixels looks like noise.
    known = patterns.far and experiment.saturation is None
    noise = noise_level(complete.counts, complete.good) if known else 1.0
    photons = are_photons(complete, noise)
    sample = split(complete) if photons else complete

    _log.info("%s: %d trials with %d patterns, each without one possible cause", scan.name, _TRIALS, len(sample.counts))
    with progress("diagnose", _TRIALS, "trials") as advance:
        trials = _Trials(sample, advance)
        fixed = trials.fit(probe=own, learn_probe=False)
        refined, from_scan = trials.fit(probe=own), trials.fit()
        given = trials.fit(learn_probe=False)
        reference, probe = (refined, own) if _loss(refined) <= _loss(from_scan) else (from_scan, sample.probe)
        phase = _best_value(DEFOCUS, lambda value: trials.few(probe=defocus_probe(probe, value)))
        defocus = trials.either(probe=defocus_probe(probe, phase))
        moved = trials.fit(probe=probe, learn_positions=True)
        scale = _best_value(SCALINGS, lambda value: trials.few(scaling=value))
        scaled = trials.either(scaling=scale)
        with_intensities = trials.fit(probe=probe, learn_intensities=True)
        with_modes = trials.fit(probe=probe, modes=len(probe) + 2)
        if experiment.background is None:
            with_background, background = fit_background(sample)
        else:  # which the model has already
            with_background, background = given, torch.zeros_like(sample.counts[0])

        effects = {}
        if max(residuals.ratio, _ratio_of(residuals, sample.members)) > _UNEXPLAINED:
            effects = try_effects(scan, sample, probe, reference, advance)
        else:
            advance(len(EFFECTS))

    best = min(
        (*effects.values(), fixed, refined, from_scan, given, defocus, moved, scaled, with_intensities, with_modes,
         with_background),
        key=_loss,
    )  # fmt: skip
    floors = Floors.of(sample, best.predicted)
    against = partial(compare, floors, min(fixed, given, reference, key=_loss))
    modes = against(with_modes)
    if (
        compare(floors, reference, with_modes).exceeds(MODES_GAIN)
        and not modes.exceeds(MODES_GAIN)
        and len(sample.counts) < scan.n
    ):
        larger = without_saturated(select_sample(masked, shape_probe=False, patterns=_MORE_PATTERNS, all_points=True))
        modes = _compare_modes(split(larger) if photons else larger, _own_probe(larger, scan, result, checked))
    return Experiments(
        patterns=len(sample.counts),
        result=_ratio_of(residuals, sample.members),
        probe=compare(floors, fixed, refined),
        given_probe=floors.ratio(given),
        reference=floors.ratio(reference),
        defocus=against(defocus),
        defocus_phase=phase,
        positions=against(moved),
        moves=_moves(sample, moved),
        intensities=against(with_intensities),
        modes=modes,
        scaling=against(scaled),
        scale=scale,
        background=compare(floors, given, with_background),
        background_fraction=float(background.sum() / sample.counts.mean(0).sum()),
        pixels=_without_mask(scan, complete) if faulty.any() else None,
        faulty=int(faulty.sum()),
        orientation=check_orientation(masked) if scan.n >= FEWEST else None,
        noise=noise,
        uniform=_uniform(complete),
        effects={key: against(trial) for key, trial in effects.items()},
    )


#: Variance of the counts relative to photons, outside of which the unit is another one.
PHOTONS = (0.6, 1.7)


def are_photons(sample: Sample, noise: float) -> bool:
    """Whether the counts are integers with the variance of photons, which can be split."""
    integers = (sample.counts >= 0) & (sample.counts == sample.counts.round())
    if sample.good is not None:
        integers = integers | ~sample.good
    return PHOTONS[0] <= noise <= PHOTONS[1] and bool(integers.all())


def compare(floors: Floors, before: Trial, after: Trial) -> Comparison:
    """Compare two trials of the same patterns."""
    return Comparison(floors.ratio(before), floors.ratio(after), margin(after.terms, before.terms))


class _Trials:
    """Trials of one sample; arguments are those of :func:`ptychopinn.diagnosis.trials.fit`.

    Args:
        sample: of the scan.
        advance: is told of each trial that is done.
    """

    def __init__(self, sample: Sample, advance: Callable[[int], object]) -> None:
        self._sample, self._advance = sample, advance

    def fit(self, **options: Any) -> Trial:
        trial = fit(self._sample, **options)
        self._advance(1)
        return trial

    def few(self, **options: Any) -> float:
        """Loss of a short trial with the probe fixed, to choose among values."""
        return _loss(self.fit(learn_probe=False, passes=_FEW_PASSES, **options))

    def either(self, **options: Any) -> Trial:
        """The better one of two trials, with the probe fixed and refined."""
        return min((self.fit(learn_probe=learn, **options) for learn in (False, True)), key=_loss)


def _best_value(values: Sequence[float], loss: Callable[[float], float]) -> float:
    """The value with the lowest loss; between equidistant ones, the minimum of the parabola through the logarithms."""
    losses = np.log([loss(value) for value in values])
    k = int(np.argmin(losses))
    if not 0 < k < len(values) - 1:
        return values[k]
    left, middle, right = losses[k - 1 : k + 2]
    curvature = left - 2 * middle + right
    steps = 0.5 * (left - right) / curvature if curvature > 0 else 0.0
    return float(values[k] + steps * (values[k + 1] - values[k]))


def _loss(trial: Trial) -> float:
    return float(trial.terms.sum())


def _compare_modes(sample: Sample, own: Tensor) -> Comparison:
    """Two modes more beside the probe of the result, fixed or refined, whichever explains the sample better."""
    one = min(fit(sample, probe=own, learn_probe=False), fit(sample, probe=own), key=_loss)
    more = fit(sample, probe=own, modes=len(own) + 2)
    return compare(Floors.of(sample, min(one, more, key=_loss).predicted), one, more)


def faulty_pixels(checked: Checked) -> NDArray[np.bool_]:
    """Mask (N, N) of the pixels that the check found faulty, with those beside them that never have counts."""
    patterns = checked.patterns
    if not patterns.faulty.any():
        return patterns.faulty
    silent = (patterns.mean == 0) & ~patterns.masked
    labels, _ = ndimage.label(silent | patterns.faulty)
    return np.isin(labels, np.unique(labels[patterns.faulty]))


def noise_level(counts: Tensor, good: Tensor | None) -> float:
    """Variance of the counts, relative to their mean, without a model of the object: 1 for photons.

    The pattern of an exit wave of limited size has an autocorrelation of limited size; beyond it there is noise only,
    with the variance of all pixels as its power. Patterns from which their mean was subtracted are used, so that
    constant pixels do not matter.

    Args:
        counts: (k, N, N), FFT order.
        good: bool, (N, N), FFT order, or None.
    """
    number, size = len(counts), counts.shape[-1]
    if good is not None:
        counts = counts * good
    power = torch.fft.fft2(counts - counts.mean(0)).abs().square().mean(0)
    frequency = torch.fft.fftfreq(size, dtype=torch.float32, device="cpu")
    far = torch.hypot(frequency[:, None], frequency) >= _NOISE_ONLY
    return float(power[far].mean() / counts.mean(0).sum()) * number / max(number - 1, 1)


def _own_probe(sample: Sample, scan: Scan, result: Reconstruction, checked: Checked) -> Tensor:
    """The probe of the result as that of the sample: its far field rolled with the centred patterns, and cropped."""
    if result.probe is None or result.probe.shape[-1] != scan.patch_size:
        return sample.probe
    patterns, size, side = checked.patterns, scan.patch_size, sample.counts.shape[-1]
    if not patterns.far:
        return torch.from_numpy(result.probe)
    mean = fill_pixels(patterns.mean, patterns.masked | patterns.suspects)
    own = centre_offset(mean, result.probe)
    # The sample is rolled by the offset of the scan's probe; a learned probe may have moved with the patterns.
    shifts = tuple(round(b) - round(a) for a, b in zip(sample.offset, own, strict=True))
    fields = torch.fft.fftshift(far_field(torch.from_numpy(result.probe)), (-2, -1)).roll(shifts, (-2, -1))
    centre = slice(size // 2 - side // 2, size // 2 + side // 2)
    return inverse_far_field(torch.fft.ifftshift(fields[:, centre, centre], (-2, -1)))


def _ratio_of(residuals: Residuals, members: NDArray[np.int64]) -> float:
    chosen = np.isin(residuals.members, members)
    return float(residuals.ratios[chosen].mean()) if chosen.any() else residuals.ratio


def _moves(sample: Sample, trial: Trial) -> Moves:
    reported = (sample.positions - sample.positions.mean(0)).numpy()
    moves = trial.state.positions.numpy() - sample.positions.numpy()
    moves = moves - moves.mean(0)
    terms = np.column_stack([reported, np.ones(len(reported))])
    solution = np.linalg.lstsq(terms, moves, rcond=None)[0]
    power = float(np.square(moves).sum())
    near = np.diff(sample.members) <= _GAP
    steps = np.square(np.diff(moves, axis=0)[near]).sum(1)
    mean_square = power / len(moves)
    return Moves(
        rms=float(np.sqrt(mean_square / 2) / sample.scale),
        scaling=1 + float(np.trace(solution[:2])) / 2,
        affine=1 - float(np.square(moves - terms @ solution).sum()) / max(power, 1e-30),
        roughness=float(steps.mean() / 2 / max(mean_square, 1e-30)) if near.any() else 1.0,
    )


def _without_mask(scan: Scan, masked: Sample) -> Comparison:
    """Trials without and with the mask of faulty pixels, with the scan's probe refined; compared on good pixels."""
    size, side = scan.patch_size, masked.counts.shape[-1]
    centre = slice(size // 2 - side // 2, size // 2 + side // 2)
    back = tuple(-round(shift) for shift in masked.offset)

    def as_in_sample(images: NDArray[Any]) -> Tensor:
        moved = np.roll(images, back, (-2, -1))[..., centre, centre]
        return torch.from_numpy(np.fft.ifftshift(moved, axes=(-2, -1)).copy())

    counts = as_in_sample(np.asarray(scan.counts[masked.members], np.float32))
    good = None if scan.bad_pixels is None else as_in_sample(~scan.bad_pixels)
    experiment = dataclasses.replace(masked.experiment, saturation=scan.experiment.saturation)
    unmasked = dataclasses.replace(masked, counts=counts, good=good, experiment=experiment)
    before = fit(without_saturated(unmasked))
    terms, _ = losses(before.predicted, counts, masked.good)
    after = fit(masked)
    return compare(Floors.of(masked, after.predicted), dataclasses.replace(before, terms=terms), after)


def _uniform(sample: Sample) -> float:
    mean = sample.counts.mean(0).expand_as(sample.counts)
    terms, floors = losses(mean, sample.counts, sample.good)
    return float(terms.sum() / max(floors.sum(), 1e-300))
