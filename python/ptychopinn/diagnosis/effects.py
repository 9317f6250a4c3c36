# SPDX-License-Identifier: BSD-3-Clause
"""Trials with effects that a scan does not state: the path of a fly scan, a point spread, and a probe that varies.

A source of finite size multiplies the autocorrelation of an exit wave, as a point spread does: patterns of usual probes
do not tell them apart, and the trial of one is for both.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from torch import Tensor

from ptychopinn.diagnosis.trials import Trial, fit
from ptychopinn.errors import InputError
from ptychopinn.experiment import Experiment
from ptychopinn.inspection.trials import Sample
from ptychopinn.io.experiments import fly_path
from ptychopinn.scan import Scan

#: Effects, in the order of the trials.
EFFECTS = ("fly_scan", "blur", "probe_varies")
#: Points of the path of a fly scan, standard deviation of a point spread, pixels, and shapes of a varying probe.
POINTS, SPREAD, SHAPES = 5, 0.6, 2


def try_effects(
    scan: Scan, sample: Sample, probe: Tensor, reference: Trial, advance: Callable[[int], object]
) -> dict[str, Trial]:
    """Refine object and probe of a sample with each effect that its experiment does not have.

    Args:
        scan: the scan, for the order of its positions.
        sample: of the scan.
        probe: to begin with.
        reference: the trial with object and probe refined.
        advance: is told of each effect that is done.

    Returns:
        Trials by the names of `EFFECTS`, without those that the scan states or cannot have.
    """
    stated, found = sample.experiment, dict[str, Trial]()

    def with_experiment(experiment: Experiment) -> Trial:
        return fit(dataclasses.replace(sample, experiment=experiment), probe=probe)

    if stated.exposure is None:
        try:
            path = fly_path(scan.positions, POINTS)[sample.members] * sample.scale
            found["fly_scan"] = with_experiment(dataclasses.replace(stated, exposure=path))
        except InputError:  # there are no rows
            pass
    advance(1)
    if stated.point_spread is None and stated.source_size is None:
        found["blur"] = with_experiment(dataclasses.replace(stated, point_spread=SPREAD))
    advance(1)
    if stated.probe_variations is None:
        found["probe_varies"] = fit(sample, variations=SHAPES, start=reference.state)
    advance(1)
    return found


def without_saturated(sample: Sample) -> Sample:
    """The sample with pixels that are saturated in any of its patterns as bad ones.

    Raises:
        InputError: no pixel is left.
    """
    limit = sample.experiment.saturation
    if limit is None:
        return sample
    below = (sample.counts < limit).all(0)
    good = below if sample.good is None else sample.good & below
    if not good.any():
        raise InputError(
            "expected pixels that are not saturated in some neighbouring patterns, found none: trials say nothing; "
            "`ptychopinn refine` uses saturated pixels as counts of at least so many"
        )
    return dataclasses.replace(sample, good=good, experiment=dataclasses.replace(sample.experiment, saturation=None))
