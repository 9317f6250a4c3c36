# SPDX-License-Identifier: BSD-3-Clause
"""Rules that turn the experiments of a diagnosis into causes, ranked, each with its evidence and advice.

A cause has a weight between 0 and 1. What is certain by itself (a wrong orientation, a unit that is not the photon, a
shifted pattern, faulty pixels) is above what the trials compare; these are ranked by the loss that they reach. What a
scan cannot be mended for, overlap and photons, and what is wrong with the training alone come after these. The
thresholds were chosen on the development set of benchmarks/diagnose.py.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from ptychopinn._one_line import one_line
from ptychopinn.diagnosis.effects import SPREAD
from ptychopinn.diagnosis.experiments import MODES_GAIN, PHOTONS, SIGMAS, Comparison, Experiments
from ptychopinn.findings.centre import off_centre
from ptychopinn.findings.gate import Checked

#: Offset of the zero frequency, of N, from which it is the cause; smaller ones are listed.
_FAR_OFF = 0.04
#: Correlation of mean pattern and probe from which the offset is known.
_SIMILARITY = 0.6
#: Factor by which a change lowers the loss of held-out photons, from which it counts.
_GAIN = 1.03
#: Difference of a scale of the positions from 1, from which it counts.
_SCALED = 0.02
#: rms of moves, pixels, from which they count.
_MOVES = 0.2
#: Fraction of the moves that an affine map explains, from which they are a scale.
_AFFINE = 0.6
#: Roughness of moves below which they are a drift.
_SMOOTH = 0.4
#: Fraction of the counts from which a background counts.
_BACKGROUND = 0.08
#: Fraction of the excess over the noise, in logarithms, that a background or a refined probe must explain.
_EXPLAINED = 0.6
#: Loss with a probe, relative to that with a refined one, from which it is wrong.
_WRONG_PROBE = 1.15
#: Loss over noise floor from which a model does not explain the patterns.
_POOR = 1.3
#: Loss of a result relative to that of trials, from which its training is not complete if these explain the patterns to
#: within the second number.
_UNTRAINED, _CONVERGED = 3.0, 1.5
#: Loss with a path or a varying probe, relative to that of other trials, below which it is the cause; and that with a
#: path relative to more modes and to a point spread, which describe it too.
_LESS, _AS_MODES, _AS_BLUR = 0.9, 1.5, 0.97
#: Linear overlap below which it is too small, and loss over noise floor below which a result has adapted to noise.
_OVERLAP, _ADAPTED = 0.5, 0.9
#: Counts per illuminated object pixel below which there are too few photons.
_DOSE = 60.0

#: Cause -> its name in a sentence, and what to do.
CAUSES: dict[str, tuple[str, str]] = {
    "orientation": (
        "an axis of the positions is mirrored, or the axes are swapped",
        "--orientation NAME with train, reconstruct and refine, as named in the evidence",
    ),
    "gain": (
        "the counts are not photons",
        "state the unit with --measurement, or the values per photon with --gain; doses, noise "
        "and the Poisson loss are wrong until then (--training.loss amplitude depends on them less)",
    ),
    "centre": (
        "the zero frequency of the patterns is not in the middle of the frames",
        "`ptychopinn mend SCAN OUT --centre`, then train again",
    ),
    "pixels": (
        "dead, hot or saturated pixels are not masked",
        "--saturation COUNTS for saturated ones; "
        "--mask-faulty with train and reconstruct, or `ptychopinn inspect SCAN --write-mask MASK.npy` and --bad-pixels",
    ),
    "background": (
        "a background that is the same in all patterns (parasitic scatter, dark counts)",
        "refine with --refine.learn_background true, or state a measured one with --background FILE.npy; "
        "`ptychopinn mend SCAN OUT --subtract COUNTS` removes a constant one",
    ),
    "position_scale": (
        "the scale of the positions is wrong: pixel size, energy or distance",
        "`ptychopinn mend SCAN OUT --scale-positions FACTOR`, or the right --pixel-size, --energy or --distance",
    ),
    "drift": (
        "the positions drift with time",
        "--model.learn_positions true, or refine with --refine.learn_positions true and --refine.affine keep",
    ),
    "position_errors": (
        "random errors of the positions",
        "--model.learn_positions true, or refine with --refine.learn_positions true",
    ),
    "intensity": (
        "the intensity of the beam, or the exposure, varies from pattern to pattern",
        "`ptychopinn mend SCAN OUT --even-dose`, or refine with --refine.learn_intensities true",
    ),
    "coherence": (
        "the beam is partially coherent: one mode does not explain the patterns",
        "refine with --refine.modes 3, and train with that probe (--probe REFINED.h5); the known size of a source is "
        "stated with --source-size Y,X, the point spread of a detector with --point-spread PX",
    ),
    "probe": (
        "the probe is wrong (defocus, size, aberrations)",
        "--model.learn_probe true and a longer training, or refine from scratch with --refine.find_defocus true; then "
        "train with that probe (--probe REFINED.h5)",
    ),
    "fly_scan": (
        "the probe moves during an exposure (fly scan)",
        "--fly-scan 5 with train, reconstruct and refine, or the path itself with --exposure",
    ),
    "probe_varies": (
        "the probe varies from pattern to pattern",
        "refine with --refine.probe_variations 3",
    ),
    "photons": (
        "too few photons",
        "`ptychopinn reconstruct RUN SCAN --out OUT.h5 --refine 20`, whose image has less noise than that of a network "
        "alone; a longer exposure, or more overlap",
    ),
    "overlap": (
        "too little overlap of neighbouring positions",
        "scan in smaller steps (60 % linear overlap or more); neither training nor refinement replaces it",
    ),
    "training": (
        "the training is not complete: the scan can be explained, and the network does not do so yet",
        "more --training.epochs or --minutes, or `ptychopinn refine RUN SCAN --out refined.h5`",
    ),
    "none": (
        "no fault was found",
        "for a finer image, more photons or more overlap; `ptychopinn refine RUN SCAN --out refined.h5` fits the "
        "counts more closely than a network",
    ),
}


@dataclass(frozen=True)
class Cause:
    """A possible cause of a poor result.

    Attributes:
        key: a short name for programs, a key of :data:`CAUSES`.
        title: in words.
        evidence: what was measured.
        advice: what to do.
        weight: for the ranking, 0 to 1; likely from 0.3 on.
    """

    key: str
    title: str
    evidence: str
    advice: str
    weight: float

    __repr__ = one_line


def rank_causes(found: Experiments, checked: Checked, learned_probe: bool) -> tuple[Cause, ...]:
    """The causes for which there is evidence, the most likely first; "none" stands first where none is likely.

    Args:
        found: the experiments.
        checked: what the check knows of the scan.
        learned_probe: whether the result's probe was refined.
    """
    rules = (
        *_of_orientation(found), *_of_unit(found), *_of_centre(checked), *_of_pixels(found), *_of_trials(found),
        *_of_probe(found, learned_probe), *_of_scan(found, checked), *_of_training(found),
    )  # fmt: skip
    causes = [Cause(key, *_named(key, evidence), weight) for key, weight, evidence in rules]
    if any(cause.weight > _TRAINING for cause in causes):  # which explains what the training lacks
        causes = [cause for cause in causes if cause.key != "training"]
    if not any(cause.weight >= LIKELY for cause in causes):
        evidence = (
            f"the result explains the patterns to within {found.result:.2f} times shot noise, trials to within "
            f"{found.reference:.2f}; no change of the model lowers that by more than {_GAIN - 1:.0%}"
        )
        causes.append(Cause("none", *_named("none", evidence), LIKELY))
    return tuple(sorted(causes, key=lambda cause: -cause.weight))


#: Weight from which a cause is likely, and that of a training which is not complete.
LIKELY, _TRAINING = 0.3, 0.4

_Rule = Iterator[tuple[str, float, str]]


def _named(key: str, evidence: str) -> tuple[str, str, str]:
    title, advice = CAUSES[key]
    return title, evidence, advice


def _of_orientation(found: Experiments) -> _Rule:
    report = found.orientation
    if report is None or not report.sure or "given" in (report.best, report.twin):
        return
    before, after = (report.scores[name] for name in ("given", report.best))
    yield (
        "orientation", 1.0,
        f"with --orientation {report.best} the deviance of trials falls from {before:.2f} to {after:.2f} per pixel, by "
        f"{report.confidence:.0f} standard errors",
    )  # fmt: skip


def _of_unit(found: Experiments) -> _Rule:
    low, high = PHOTONS
    best = _best(found)
    # Where the unit is a multiple of a photon no model can be closer than that.
    if low <= found.noise <= high or (found.noise > high and best < found.noise / 2):
        return
    yield (
        "gain", 0.95,
        f"the variance of the counts is {found.noise:.3g} times that of photons, whatever the object is, as if one "
        f"count were {1 / found.noise:.3g} photons; the best model is at {best:.2g} times shot noise",
    )  # fmt: skip


def _of_centre(checked: Checked) -> _Rule:
    patterns = checked.patterns
    if not off_centre(patterns.offset) or patterns.similarity < _SIMILARITY:
        return
    y, x = patterns.offset
    far = max(abs(y), abs(x)) >= _FAR_OFF * patterns.size
    yield (
        "centre", 0.9 if far else 0.2,
        f"the mean pattern is shifted by ({y:.1f}, {x:.1f}) px (y, x) relative to the far field of the scan's probe",
    )  # fmt: skip


def _of_pixels(found: Experiments) -> _Rule:
    if found.pixels is None:
        return
    matter = found.pixels.exceeds(_GAIN)
    effect = f": with a mask the loss of the other pixels falls {_words(found.pixels)}" if matter else ""
    yield "pixels", 0.85 if matter else 0.35, f"{found.faulty} pixels are faulty and not masked{effect}"


def _of_trials(found: Experiments) -> _Rule:
    """Causes that trials compare, by the loss they reach: the lowest has the largest weight."""
    reached: list[tuple[str, float, str]] = []
    positions, moves = found.positions, found.moves
    moved = moves.affine > _AFFINE and (found.scale - 1) * (moves.scaling - 1) > 0 and positions.exceeds(_GAIN)
    scaled = abs(found.scale - 1) > _SCALED and (moved or found.scaling.exceeds(_GAIN))
    if scaled:
        also = f"; refined positions move by such a map for {moves.affine:.0%}, and it falls {_words(positions)}"
        reached.append(
            (
                "position_scale", min(found.scaling.after, positions.after if moved else math.inf),
                f"with positions times {found.scale:.3g} the loss falls {_words(found.scaling)}{also if moved else ''}",
            )
        )  # fmt: skip
    if positions.exceeds(_GAIN) and moves.rms > _MOVES and not (scaled and moved):
        drifts = moves.roughness < _SMOOTH
        kind = "drift" if drifts else "position_errors"
        form = "smoothly with time" if drifts else "independently of each other"
        reached.append(
            (
                kind, positions.after,
                f"refined positions move by {moves.rms:.2f} px rms, {form} (roughness {moves.roughness:.2f}), and the "
                f"loss falls {_words(positions)}",
            )
        )  # fmt: skip
    for key, change, least, text in (
        ("intensity", found.intensities, _GAIN, "with an intensity for every pattern"),
        ("coherence", found.modes, MODES_GAIN, "with two modes more"),
        ("probe", found.defocus, _GAIN, f"with the probe defocused by {found.defocus_phase:.2g} rad"),
    ):
        if change.exceeds(least):
            # Modes can take the place of another cause, and have more parameters.
            handicap = MODES_GAIN if key == "coherence" else 1.0
            blur = found.effects.get("blur")
            same = f", and {_words(blur)} with a point spread of {SPREAD} px" if key == "coherence" and blur else ""
            reached.append((key, handicap * change.after, f"{text} the loss falls {_words(change)}{same}"))
    reached += _of_effects(found)
    background = found.background
    explained = math.log(max(background.gain, 1)) / max(math.log(max(background.before, 1)), 1e-6)
    if (
        found.background_fraction > _BACKGROUND and explained > _EXPLAINED and background.before > _POOR
        and background.sigmas > SIGMAS and background.after < 1.4 * found.reference
    ):  # fmt: skip
        # With the probe fixed, which takes up a part of it otherwise.
        reached.append(
            (
                "background", 0.0,
                f"with the scan's probe, a constant background of {found.background_fraction:.0%} of the counts lowers "
                f"the loss {_words(background)}",
            )
        )  # fmt: skip
    reached.sort(key=lambda cause: cause[1])
    for place, (key, after, evidence) in enumerate(reached):
        # A change that explains a small part of what another one explains is no cause of its own.
        if after <= math.sqrt(found.reference * max(reached[0][1], 1.0)):
            yield key, 0.8 - 0.05 * place, evidence


def _of_effects(found: Experiments) -> Iterator[tuple[str, float, str]]:
    """Effects of the experiment that explain more than the trials which could take their place."""
    others = (found.positions, found.intensities, found.defocus, found.scaling)
    plain = min(change.after for change in others)
    path, blur, shapes = (found.effects.get(key) for key in ("fly_scan", "blur", "probe_varies"))
    as_modes = min(_AS_MODES * found.modes.after, math.inf if blur is None else _AS_BLUR * blur.after)
    if path is not None and path.exceeds(_GAIN) and path.after < min(_LESS * plain, as_modes):
        text = "with a path from every position to the next one of its row the loss falls"
        yield "fly_scan", min(path.after, found.modes.after), f"{text} {_words(path)}"
    if shapes is not None and shapes.exceeds(_GAIN) and shapes.after < _LESS * min(plain, found.modes.after):
        yield "probe_varies", shapes.after, f"with two shapes by which the probe varies the loss falls {_words(shapes)}"


def _of_probe(found: Experiments, learned: bool) -> _Rule:
    fixed, reference = min(found.probe.before, found.given_probe), max(found.reference, 1.0)
    if fixed < _WRONG_PROBE * reference or found.result < _WRONG_PROBE * reference:
        return
    if learned and found.result > _UNTRAINED * fixed:  # which a longer training would remove
        return
    explained = math.log(fixed / reference) / math.log(fixed)
    which = "that of the result, which was refined," if learned else "that of the result"
    yield (
        "probe", 0.82 if explained > _EXPLAINED else 0.55,
        f"with the probe of the scan, trials are at {found.given_probe:.2f} times shot noise, with {which} at "
        f"{found.probe.before:.2f}, and with a refined one at {found.reference:.2f}",
    )  # fmt: skip


def _of_scan(found: Experiments, checked: Checked) -> _Rule:
    geometry = checked.geometry
    if geometry.dose < _DOSE:
        yield (
            "photons", 0.5,
            f"{geometry.dose:.3g} counts per illuminated object pixel; the mean pattern explains all patterns to "
            f"within {found.uniform:.2f} times shot noise",
        )  # fmt: skip
    if geometry.overlap < _OVERLAP:
        # Where the patterns do not determine the object, trials differ by chance.
        yield (
            "overlap", 0.86 if found.result < _ADAPTED else 0.45,
            f"the linear overlap is {geometry.overlap:.0%}: neighbours are {geometry.step:.3g} px apart, and the probe "
            f"is {geometry.diameter:.3g} px wide",
        )  # fmt: skip


def _of_training(found: Experiments) -> _Rule:
    best = _best(found)
    level = max(best, 1.0)
    if found.result > 1.5 * level:
        incomplete = found.result > _UNTRAINED * level and best < _CONVERGED
        yield (
            "training", _TRAINING if incomplete else 0.2,
            f"the result is at {found.result:.2f} times shot noise, where a trial refinement of the same patterns "
            f"reaches {best:.2f}",
        )  # fmt: skip


def _best(found: Experiments) -> float:
    """Loss of the best trial, relative to the noise floor."""
    return min(found.reference, found.positions.after, found.modes.after, found.intensities.after)


def _words(change: Comparison) -> str:
    return f"from {change.before:.2f} to {change.after:.2f} times shot noise ({change.sigmas:.0f} standard errors)"
