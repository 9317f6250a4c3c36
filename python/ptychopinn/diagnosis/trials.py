# SPDX-License-Identifier: BSD-3-Clause
"""Trial refinements of a few neighbouring patterns, each with one cause removed: what explains the patterns better?

All trials begin with a uniform object and have the same patterns and similar numbers of passes, so that their losses
are comparable. A loss is relative to the noise floor of the trial's own prediction; a model that fits is below 1, as it
adapts to the noise of the counts.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from ptychopinn._one_line import one_line
from ptychopinn.config import RefineConfig
from ptychopinn.inspection.trials import Sample
from ptychopinn.physics.noise_floor import expected_terms, poisson_terms
from ptychopinn.physics.propagation import far_field, squared_modulus
from ptychopinn.refinement.ambiguities import set_mode_count
from ptychopinn.refinement.engines import LbfgsEngine, PieEngine
from ptychopinn.refinement.experiment_objective import ExperimentObjective
from ptychopinn.refinement.regions import compact_batches
from ptychopinn.refinement.state import State
from ptychopinn.refinement.variation_prior import VariationPrior
from ptychopinn.refinement.variations import estimate_variations

#: Passes of "pie" at the beginning of a trial, and of "lbfgs" after it; further ones follow, in groups of so many, as
#: long as the loss falls by more than this fraction, up to a maximum.
_WARMUP, _PASSES, _GROUP, _STEEP, _MOST_PASSES = 5, 40, 10, 0.01, 160
#: Pixels of the canvas around the patches, for positions that move.
_MARGIN = 8
#: Rounds of the fit of a background, passes and multiplicative updates in each, and the exponent of these.
_ROUNDS, _ROUND_PASSES, _UPDATES, _OVERRELAXATION = 5, 6, 15, 1.6
#: Width, pixels, over which a background is smooth, and its first estimate relative to the mean pattern.
_SMOOTH, _FIRST_BACKGROUND = 1.5, 0.1
#: Fraction of the photons that judge a trial.
_HELD_OUT = 0.3


@dataclass(frozen=True)
class Trial:
    """A trial refinement.

    Attributes:
        state: refined object, probe, positions and intensities.
        predicted: float32, (k, N, N), FFT order, expected counts.
        terms: float64, (k,), Poisson loss of every pattern, nats; of held-out photons if there are any.
    """

    state: State
    predicted: Tensor
    terms: NDArray[np.float64]

    __repr__ = one_line


def losses(
    predicted: Tensor, counts: Tensor, good: Tensor | None, saturation: float | None = None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Loss and noise floor of every pattern, (k,), of predicted and measured counts (k, N, N)."""
    terms = poisson_terms(predicted, counts, saturation)
    floors = expected_terms(predicted, "poisson", saturation)
    if good is not None:
        terms, floors = terms * good, floors * good
    return terms.double().sum((1, 2)).numpy(), floors.double().sum((1, 2)).numpy()


@dataclass(frozen=True)
class SplitSample(Sample):
    """A sample whose photons are split at random: ``counts`` are refined, ``held_out`` judge what was refined.

    Both are Poisson counts that are independent of each other if the counts were. A model that adapts to the noise of
    the former is no better for the latter, so that one with more parameters gains only what is true.

    Attributes:
        held_out: float32, (k, K, K), FFT order.
        fraction: of the photons that are held out.
    """

    held_out: Tensor
    fraction: float

    __repr__ = one_line


def split(sample: Sample, fraction: float = _HELD_OUT) -> SplitSample:
    """Hold out a fraction of the photons of a sample, which has integer counts. The same sample splits the same."""
    usable = sample.counts if sample.good is None else torch.where(sample.good, sample.counts, 0)
    counts = usable.numpy().astype(np.int64)
    held_out = torch.from_numpy(np.random.default_rng(0).binomial(counts, fraction).astype(np.float32))
    values = {field.name: getattr(sample, field.name) for field in dataclasses.fields(sample)}
    if sample.experiment.background is not None:
        background = sample.experiment.background * np.float32(1 - fraction)
        values["experiment"] = dataclasses.replace(sample.experiment, background=background)
    return SplitSample(**values | {"counts": sample.counts - held_out}, held_out=held_out, fraction=fraction)


@dataclass(frozen=True)
class Floors:
    """Loss of the true intensities of a sample, estimated once for all of its trials.

    Attributes:
        judging: float64, (k,), nats, of the counts that judge a trial.
        complete: float64, (k,), nats, of all counts.
        fraction: of the photons that judge a trial, 1 if the sample is not split.
    """

    judging: NDArray[np.float64]
    complete: NDArray[np.float64]
    fraction: float

    __repr__ = one_line

    @classmethod
    def of(cls, sample: Sample, predicted: Tensor) -> Floors:
        """The floors of the intensities (k, N, N) that a trial predicts for ``sample.counts``."""
        if not isinstance(sample, SplitSample):
            _, floors = losses(predicted, sample.counts, sample.good)
            return cls(floors, floors, 1.0)
        judging, complete = (
            losses(factor * predicted, sample.counts, sample.good)[1]
            for factor in (sample.fraction / (1 - sample.fraction), 1 / (1 - sample.fraction))
        )
        return cls(judging, complete, sample.fraction)

    def ratio(self, trial: Trial) -> float:
        """Loss over noise floor of a trial, as all counts would have it.

        What a loss has above its floor is the divergence of the true from the predicted intensities, which is
        proportional to the photons.
        """
        total = max(float(self.complete.sum()), 1e-300)
        return 1 + float((trial.terms - self.judging).sum()) / self.fraction / total


def fit(
    sample: Sample,
    *,
    probe: Tensor | None = None,
    scaling: float = 1.0,
    offset: Tensor | None = None,
    modes: int | None = None,
    passes: int | None = None,
    learn_probe: bool = True,
    learn_positions: bool = False,
    learn_intensities: bool = False,
    variations: int = 0,
    start: State | None = None,
) -> Trial:
    """Refine a sample from a uniform object.

    Args:
        sample: the patterns.
        probe: initial probe, (M, N, N); None: that of the sample.
        scaling: factor on the positions.
        offset: (N, N), FFT order, counts of a background, which is added to the prediction.
        modes: number of probe modes; None: as the probe has.
        passes: of "lbfgs"; None: until the loss settles.
        learn_probe: refine the probe.
        learn_positions: refine the positions, with their affine part.
        learn_intensities: refine the intensity of every pattern.
        variations: number of shapes by which the first mode varies from pattern to pattern, beside those of ``start``.
        start: state to begin with, of the same canvas.
    """
    config = RefineConfig(
        learn_probe=learn_probe, learn_positions=learn_positions, learn_intensities=learn_intensities,
        probe_variations=variations, total_variation=0.0,
    )  # fmt: skip
    counts = sample.counts if offset is None else (sample.counts - offset).clamp_min(0)
    positions, margin = sample.positions * scaling, _MARGIN + sample.reach()
    positions = positions - positions.amin(0).floor() + margin
    height, width = (int(v) for v in positions.amax(0).ceil() + counts.shape[-1] + margin)
    objective = sample.objective(counts, (height, width), config)
    with torch.no_grad():
        if start is None:
            initial = sample.probe if probe is None else probe
            initial = set_mode_count(initial, modes or len(initial))
            power = _total(squared_modulus(far_field(initial)).sum(0), sample.good)
            level = torch.sqrt(_total(counts.mean(0), sample.good) / power)
            image = level.to(torch.complex64).expand(height, width).clone()
            state = sample.state(image, initial, positions)
            first = PieEngine(objective, state, config, _no_penalty, _identity)
            for _ in range(_WARMUP):
                first.advance()
            start = first.state
        start = start.copy()
        if variations:
            assert isinstance(objective, ExperimentObjective)
            order = np.random.default_rng(0)
            objective.set_batches(
                compact_batches(start.positions.numpy(), objective.batch_size(), order), start.positions
            )
            prior = VariationPrior(start.positions, start.probe)
            more, coefficients = estimate_variations(objective, start, prior, variations, seed=0)
            start.variations = torch.cat([start.variations, more])
            start.coefficients = torch.cat([start.coefficients, coefficients], 1)
        engine = LbfgsEngine(objective, start, config, _no_penalty, _identity)
        _advance(engine, passes)
        predicted = objective.predict(engine.state, torch.arange(len(counts), device="cpu"))
        if offset is not None:
            predicted = predicted + offset
        if isinstance(sample, SplitSample):
            judged, counts = predicted * (sample.fraction / (1 - sample.fraction)), sample.held_out
        else:
            judged, counts = predicted, sample.counts
        terms, _ = losses(judged, counts, sample.good)
    return Trial(engine.state, predicted, terms)


def fit_background(sample: Sample) -> tuple[Trial, Tensor]:
    """Refine a sample with its probe fixed, and with a smooth background that is the same in all patterns.

    The probe is fixed because a refined one takes up a part of the background.

    Returns:
        The trial, and the background (N, N), FFT order, in counts.
    """
    mean = _smooth(sample.counts.mean(0))
    offset = torch.maximum(_FIRST_BACKGROUND * mean, torch.quantile(mean.flatten(), 0.05))
    start: State | None = None
    for _ in range(_ROUNDS):
        trial = fit(sample, offset=offset, start=start, passes=_ROUND_PASSES, learn_probe=False)
        start, coherent = trial.state, trial.predicted - offset
        for _ in range(_UPDATES):
            ratio = (sample.counts / (coherent + offset).clamp_min(1e-6)).mean(0)
            offset = offset * ratio**_OVERRELAXATION
        offset = _smooth(offset)
    return fit(sample, offset=offset, start=start, passes=_ROUND_PASSES, learn_probe=False), offset


def _advance(engine: LbfgsEngine, passes: int | None) -> None:
    """Advance a number of passes; None: until the loss has settled, so that trials are comparable."""
    value = 0.0
    for _ in range(passes or _PASSES):
        value = engine.advance()
    for _ in range(_PASSES, _MOST_PASSES if passes is None else 0, _GROUP):
        before = value
        for _ in range(_GROUP):
            value = engine.advance()
        if value > (1 - _STEEP) * before:
            return


def _total(image: Tensor, good: Tensor | None) -> Tensor:
    """Sum of an image (N, N) over the good pixels."""
    total: Tensor = (image if good is None else image * good).sum()
    return total


def _smooth(image: Tensor) -> Tensor:
    """Smooth an image (N, N) in FFT order, without wrapping around."""
    centred = ndimage.gaussian_filter(torch.fft.fftshift(image).numpy(), _SMOOTH, mode="nearest")
    smoothed: Tensor = torch.fft.ifftshift(torch.from_numpy(centred))
    return smoothed


def _no_penalty(state: State, illumination: Tensor, gradient: State) -> float:
    return 0.0


def _identity(moves: Tensor) -> Tensor:
    return moves
