# SPDX-License-Identifier: BSD-3-Clause
"""Rules that turn the statistics of a scan into findings, each with a sentence and advice.

A problem is a fault with which training, refinement or reconstruction give a useless result. The advice names the
option of these commands that mends it, or the command that writes a mended scan.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ptychopinn.decisions import Decision
from ptychopinn.experiment import Experiment
from ptychopinn.findings.centre import in_fft_order, off_centre
from ptychopinn.findings.effect_rules import findings_of_effects, looks_near
from ptychopinn.findings.finding import SEVERITIES, Finding
from ptychopinn.findings.geometry import ScanGeometry
from ptychopinn.findings.measure import BRIGHT, FAINT, PatternStatistics
from ptychopinn.findings.signs import Signs

#: Linear overlap below which there is a warning, and a problem.
_OVERLAP, _NO_OVERLAP = 0.5, 0.1
#: Distance of neighbours, pixels, below which positions are in another unit.
_MIN_STEP = 0.05
_OVERSAMPLING = 1.5
_EDGE_FRACTION = 0.02
_PROBE_OFFSET = 0.125  # of N
#: Offset of the zero frequency, of N, from which it is a problem.
_FAR_OFF_CENTRE = 0.07
_TRANSMISSION = (0.02, 1.1)
#: Fraction of saturated patterns from which saturation is a problem.
_SATURATED = 0.1
#: Fraction of the counts in faulty pixels, and of the patterns without counts, from which they are a problem.
_FAULTY_FRACTION, _EMPTY_FRACTION = 0.05, 0.02
#: Variation of the counts between neighbours from which there is a warning, and a problem.
_DOSE_SPREAD, _LARGE_DOSE_SPREAD = 0.22, 0.3
#: Similarity of mean pattern and probe below which there is a warning.
_SIMILARITY = 0.6
#: Fraction of the probe's far field on bad pixels from which there is a warning, and a problem.
_HIDDEN, _ALL_HIDDEN = 0.75, 0.9
#: Counts of a pattern below which there is a warning.
_FEW_PHOTONS = 100
_SHOWN = 8  # indices in a sentence

_MASK = "--mask-faulty ignores them; `ptychopinn inspect SCAN --write-mask MASK.npy` writes a mask for --bad-pixels"
_CLIP = "; `ptychopinn mend SCAN OUT --clip COUNTS` replaces larger counts in single patterns, as of cosmic rays"
_DROP = "--drop-outliers omits them, and so does `ptychopinn mend SCAN OUT --drop-outliers`"


def findings_of(
    patterns: PatternStatistics,
    geometry: ScanGeometry,
    measurement: Decision | None,
    signs: Signs | None = None,
    experiment: Experiment | None = None,
) -> tuple[Finding, ...]:
    """The findings of a scan, worst first.

    Args:
        patterns: statistics of its counts.
        geometry: statistics of its positions and probe.
        measurement: the decision of its reader on the unit of the patterns, None if there was none.
        signs: of effects of the experiment; None: they are not judged.
        experiment: what the scan states of it; None: nothing.
    """
    effects = [] if signs is None else findings_of_effects(patterns, geometry, signs, experiment or Experiment())
    images = signs is not None and looks_near(patterns, geometry, signs)  # and no patterns of the far field
    return by_severity(
        [
            *_of_units(measurement, patterns),
            *_of_positions(geometry, patterns),
            *([] if images else _of_centre(patterns)),
            *_of_pixels(patterns),
            *effects,
            *_of_frames(patterns),
            *_of_dose(geometry, patterns),
            *([] if images else _of_probe(geometry, patterns)),
        ]
    )


def by_severity(findings: list[Finding]) -> tuple[Finding, ...]:
    """Findings, worst first."""
    return tuple(sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity)))


def _of_units(decision: Decision | None, patterns: PatternStatistics) -> Iterator[Finding]:
    if decision is not None and decision.by_default:
        yield Finding(
            "warning", "measurement",
            f"the file does not record whether patterns are amplitudes or counts; they were read as "
            f"{decision.value}",
            "state it with --measurement",
        )  # fmt: skip
    elif not patterns.integer:
        yield Finding(
            "note", "fractional_counts", "counts are not integers",
            "doses are correct only if the unit of the file is one photon",
        )  # fmt: skip


def _of_positions(geometry: ScanGeometry, patterns: PatternStatistics) -> Iterator[Finding]:
    if geometry.duplicates and geometry.step >= _MIN_STEP:
        repeated = [second for _, second in geometry.duplicates]
        yield Finding(
            "warning", "duplicates",
            f"{_patterns(repeated)} at the position of an earlier one: {indices_in_words(repeated)}",
            "correct for repeated measurements; otherwise positions are missing or rounded",
        )  # fmt: skip
    rescale = ""
    if geometry.scaling is not None:
        rescale = (
            f"neighbours would fit the probe if {geometry.unit}: "
            f"`ptychopinn mend SCAN OUT --scale-positions {geometry.scaling:.6g}`"
        )
    if patterns.number > 1 and geometry.step == 0:
        yield Finding(
            "problem", "positions", f"all {patterns.number} patterns have the same position",
            "export the positions again, or read them from a table with --positions",
        )  # fmt: skip
    elif patterns.number > 1 and geometry.step < _MIN_STEP:
        yield Finding(
            "problem", "units_of_positions",
            f"all positions are within {max(geometry.extent):.3g} px, with neighbours {geometry.step:.3g} px apart",
            rescale or "convert the positions from metres to object pixels (--pixel-size states the pixels)",
        )  # fmt: skip
    elif geometry.overlap < _NO_OVERLAP:
        yield Finding(
            "problem", "overlap",
            f"neighbours are {geometry.step:.4g} px apart and the probe is {geometry.diameter:.1f} px wide: there is "
            "hardly any overlap",
            f"{rescale or 'check the unit of the positions'}; or the pixel size is wrong (--pixel-size, or --energy in "
            "eV, --distance in m)",
        )  # fmt: skip
    elif geometry.overlap < _OVERLAP:
        yield Finding(
            "warning", "overlap", f"the linear overlap is {geometry.overlap:.0%}",
            f"at least {_OVERLAP:.0%} is usual; scan in smaller steps",
        )  # fmt: skip
    if patterns.number > 2 and geometry.step >= _MIN_STEP and min(geometry.extent) < geometry.step / 4:
        yield Finding(
            "warning", "line", "all positions are on one line",
            "the object is determined only along it; check the columns of the positions",
        )  # fmt: skip
    if geometry.outliers:
        far = f"{'up to ' if len(geometry.outliers) > 1 else ''}{geometry.farthest:.0f} px from all others"
        yield Finding(
            "problem", "outlying_positions",
            f"{_patterns(geometry.outliers)} {far}: {indices_in_words(geometry.outliers)}",
            _DROP,
        )  # fmt: skip


def _of_centre(patterns: PatternStatistics) -> Iterator[Finding]:
    half = patterns.size // 2
    mend = "`ptychopinn mend SCAN OUT --centre` moves it there"
    if in_fft_order(patterns.offset, patterns.size):
        yield Finding(
            "problem", "fft_order",
            "the zero frequency is in the corner of the patterns (FFT order)",
            f"{mend} (roll the patterns by {half} px along both axes, numpy.fft.fftshift)",
        )  # fmt: skip
    elif off_centre(patterns.offset) and patterns.similarity >= _SIMILARITY:  # of another probe, it is not known
        y, x = patterns.offset
        yield Finding(
            "problem" if max(abs(y), abs(x)) > _FAR_OFF_CENTRE * patterns.size else "warning", "centre",
            f"the zero frequency is at pixel ({half + y:.1f}, {half + x:.1f}) (y, x), expected ({half}, {half})",
            f"{mend} (roll the patterns by ({-round(y)}, {-round(x)}) px), or expect a phase ramp over the object",
        )  # fmt: skip


def _of_pixels(patterns: PatternStatistics) -> Iterator[Finding]:
    if patterns.hidden_fraction > _HIDDEN and patterns.masked.mean() > 0.5:
        yield Finding(
            "problem" if patterns.hidden_fraction > _ALL_HIDDEN else "warning", "mask",
            f"the mask hides {patterns.hidden_fraction:.0%} of the probe's {_field(patterns)} "
            f"({int(patterns.masked.sum())} bad pixels of {patterns.size**2})",
            "`ptychopinn mend SCAN OUT --invert-mask` if it marks good pixels",
        )  # fmt: skip
    if patterns.background:
        yield Finding(
            "warning", "background",
            f"all pixels have {patterns.background:.6g} counts or more in all patterns: a constant background",
            f"`ptychopinn mend SCAN OUT --subtract {patterns.background:.6g}` removes it",
        )  # fmt: skip
    rules = (
        ("dead", patterns.dead, patterns.dead_fraction, "without counts in all patterns, in spite of illumination"),
        ("stuck", patterns.constant, patterns.constant_fraction, "constant in all patterns"),
        ("hot", patterns.hot, patterns.hot_fraction, "far above the neighbours in nearly all patterns"),
        ("intermittent", patterns.intermittent, 0.0, "far above the neighbours in some patterns"),
    )
    for key, number, fraction, description in rules:
        if number:
            many = fraction > _FAULTY_FRACTION
            part = f" ({fraction:.2g} times the counts of all other pixels)" if many else ""
            yield Finding(
                "problem" if many else "warning", f"{key}_pixels",
                f"{number} {'pixel is' if number == 1 else 'pixels are'} {description}{part}",
                _MASK + (_CLIP if key == "intermittent" else ""),
            )  # fmt: skip
    if patterns.beamstop:
        many = patterns.beamstop_fraction > _FAULTY_FRACTION
        yield Finding(
            "problem" if many else "warning", "beamstop",
            f"{patterns.beamstop} pixels in the middle are dark where the probe is bright: the shadow of a beamstop",
            _MASK,
        )  # fmt: skip
    if patterns.saturated_at is not None:
        many = len(patterns.saturated) >= _SATURATED * patterns.number
        yield Finding(
            "problem" if many else "warning", "saturated",
            f"{_patterns(patterns.saturated)} saturated at {patterns.saturated_at:.6g} counts: "
            f"{indices_in_words(patterns.saturated)}",
            f"--saturation {patterns.saturated_at:.6g} uses them as counts of at least so many; {_MASK}; or measure "
            "with a lower intensity",
        )  # fmt: skip


def _of_frames(patterns: PatternStatistics) -> Iterator[Finding]:
    if patterns.empty:
        many = len(patterns.empty) > _EMPTY_FRACTION * patterns.number
        yield Finding(
            "problem" if many else "warning", "empty_patterns",
            f"{_patterns(patterns.empty)} without counts: {indices_in_words(patterns.empty)}",
            "train, reconstruct and refine omit them, and so does `ptychopinn mend SCAN OUT --drop-outliers`",
        )  # fmt: skip
    rules = (
        ("faint", patterns.faint, f"with less than {FAINT:.0%} of the median counts"),
        ("glaring", patterns.bright, f"with more than {BRIGHT:g} times the median counts"),
    )
    for key, indices, description in rules:
        if indices:
            yield Finding(
                "warning", f"{key}_patterns", f"{_patterns(indices)} {description}: {indices_in_words(indices)}",
                f"{_DROP}; or find the cause",
            )  # fmt: skip
    if patterns.repeated:
        yield Finding(
            "warning", "repeated_patterns",
            f"{_patterns(patterns.repeated)} equal to the one before, count by count: "
            f"{indices_in_words(patterns.repeated)}",
            "photon noise excludes it: find out whether the detector or the export repeated frames",
        )  # fmt: skip


def _of_dose(geometry: ScanGeometry, patterns: PatternStatistics) -> Iterator[Finding]:
    if geometry.dose_spread > _DOSE_SPREAD:
        yield Finding(
            "problem" if geometry.dose_spread > _LARGE_DOSE_SPREAD else "warning", "dose_spread",
            f"the counts of neighbouring patterns differ by {geometry.dose_spread:.0%}: the exposure varies",
            "`ptychopinn mend SCAN OUT --even-dose` divides the patterns by their exposure; refine fits it with "
            "--refine.learn_intensities true",
        )  # fmt: skip
    if patterns.mean_total < _FEW_PHOTONS:
        yield Finding(
            "warning", "few_photons", f"a pattern has {patterns.mean_total:.3g} counts on average",
            "expect noise; check that the unit is one photon (--measurement)",
        )  # fmt: skip
    low, high = _TRANSMISSION
    if not low <= geometry.transmission <= high:
        yield Finding(
            "warning", "transmission",
            f"the patterns have {geometry.transmission:.3g} times the power of the probe",
            "`ptychopinn mend SCAN OUT --scale-probe` scales it: the sum of |P|^2 should be the counts of a pattern "
            "without a sample",
        )  # fmt: skip


def _of_probe(geometry: ScanGeometry, patterns: PatternStatistics) -> Iterator[Finding]:
    if max(abs(shift) for shift in geometry.probe_offset) > _PROBE_OFFSET * patterns.size:
        y, x = geometry.probe_offset
        yield Finding(
            "warning", "probe_centre",
            f"the probe is ({y:.1f}, {x:.1f}) px (y, x) from the centre of its patch",
            "`ptychopinn mend SCAN OUT --centre-probe` rolls it to the centre (numpy.fft.fftshift if it is in the "
            "corners)",
        )  # fmt: skip
    elif geometry.edge_fraction > _EDGE_FRACTION and patterns.far:
        yield Finding(
            "warning", "probe_edge",
            f"{geometry.edge_fraction:.1%} of the probe's intensity is at the border of its patch",
            "the detector samples the patterns too coarsely for this probe, or the probe is a poor estimate",
        )  # fmt: skip
    if geometry.oversampling < _OVERSAMPLING and patterns.far:
        yield Finding(
            "warning", "oversampling", f"the patch is only {geometry.oversampling:.2f} times as wide as the probe",
            "use a larger detector distance, smaller pixels or a smaller probe",
        )  # fmt: skip
    if patterns.similarity < _SIMILARITY:
        real = ", which is real," if geometry.real_probe else ""
        cause = "a real probe has no phase: give the complex one" if geometry.real_probe else "check the probe"
        yield Finding(
            "warning", "probe_patterns",
            f"the {_field(patterns)} of the probe{real} differs from the mean pattern (correlation "
            f"{patterns.similarity:.2f})",
            f"{cause}, with --probe FILE.npy, or refine it",
        )  # fmt: skip


def _field(patterns: PatternStatistics) -> str:
    return "far field" if patterns.far else "near field"


def _patterns(indices: list[int]) -> str:
    return f"{len(indices)} pattern{'' if len(indices) == 1 else 's'}"


def indices_in_words(indices: Sequence[int]) -> str:
    """Ascending indices in words, runs of three or more as their ends; of many runs the first.

    Example:
        >>> indices_in_words([0, 3, 4, 5, 9])
        '0, 3 to 5, 9'
    """
    runs: list[list[int]] = []
    for index in indices:
        if runs and index == runs[-1][-1] + 1:
            runs[-1].append(index)
        else:
            runs.append([index])
    words = [w for run in runs for w in ([f"{run[0]} to {run[-1]}"] if len(run) > 2 else map(str, run))]
    return ", ".join(words) if len(words) <= _SHOWN else f"{', '.join(words[:_SHOWN])}, ..."
