# SPDX-License-Identifier: BSD-3-Clause
"""Reconstruction without a training: the network in the package, what it is for, and whether its image fits.

Where a scan is outside of what the network was trained on, one warning names what and the range. Where the image does
not explain the patterns, another one names the likely reasons; docs/pretrained.md has the measurements behind it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from torch import Tensor

from ptycho_ext import CanvasGeometry
from ptychopinn._one_line import one_line
from ptychopinn.config import Config
from ptychopinn.findings.finding import Finding
from ptychopinn.findings.gate import Checked, require_sound
from ptychopinn.inference.fit import Fit, fit_of
from ptychopinn.models import PtychoModel
from ptychopinn.persistence.pretrained import Pretrained, load_pretrained
from ptychopinn.physics.plain_inputs import require_thin_and_far
from ptychopinn.scan import Scan
from ptychopinn.stitching.stores import Box

_log = logging.getLogger(__name__)

#: Fraction of what an empty sample leaves unexplained that images of correct scans do not reach: of 40 scans at most
#: 0.127, and with a mirrored or swapped axis 186 of 189 are above this (benchmarks/pretrained_fit.py).
_UNEXPLAINED = 0.14
_TRAIN = "train on the scan: `ptychopinn train SCAN --out RUN`"


@dataclass(frozen=True)
class FirstNetwork:
    """The network in the package, for one scan.

    Attributes:
        pretrained: the network.
        model: with the probe of the scan.
        config: with a group size that the scan has patterns for.
        outside: what of the scan is outside of the ranges of its training, None if nothing is.
    """

    pretrained: Pretrained
    model: PtychoModel
    config: Config
    outside: Finding | None

    __repr__ = one_line

    def metadata(
        self, part: Callable[[Box], Tensor], geometry: CanvasGeometry, scan: Scan, probe: Tensor
    ) -> dict[str, Any]:
        """For the metadata of the result: the network, findings, and how well the image fits, which is logged.

        Args:
            part: the image in a box of its rows and columns.
            geometry: its shape and origin.
            scan: the scan.
            probe: complex, (M, N, N), on the CPU.
        """
        fit = fit_of(part, geometry, scan, probe)
        _log.info(
            "%s: the image explains all but %.1f %% of the structure of the patterns, within %.3g times shot noise",
            scan.name, 100 * fit.unexplained, fit.ratio,
        )  # fmt: skip
        poor = unexplained(fit)
        if poor is not None:
            _log.warning("%s: %s", scan.name, poor)
        return {
            "network": {
                "name": "pretrained",
                "trained": str(self.pretrained),
                "version": self.pretrained.facts.get("version"),
                "seed": self.pretrained.facts.get("seed"),
                "findings": [asdict(finding) for finding in (self.outside, poor) if finding is not None],
                "fit": asdict(fit),
            }
        }


def first_network(scan: Scan, config: Config, accept: str | Collection[str] = ()) -> FirstNetwork:
    """The network in the package for a scan; which one it is, and what is outside of its ranges, is logged.

    Args:
        scan: the scan.
        config: sections ``data`` and ``inference`` are used. Groups have as many patterns as stated by
            ``inference.group_size``, otherwise at most as many as the scan.
        accept: keys of problems of the scan to accept.

    Raises:
        InputError: the scan has a problem that is not accepted, patterns of a size that the network does not take, a
            thick sample, or a detector in the near field.
    """
    require_thin_and_far(scan)
    checked = require_sound(scan, accept)
    pretrained, model, config = network_for(scan, config)
    _log.info(
        "%s: reconstructed with the pretrained network of the package (%s); a training on the scan improves the image: "
        "ptychopinn train SCAN --out RUN",
        scan.name, pretrained,
    )  # fmt: skip
    outside = outside_of(pretrained.facts.get("ranges", {}), checked)
    if outside is not None:
        _log.warning("%s: %s", scan.name, outside)
    return FirstNetwork(pretrained, model, config, outside)


def network_for(scan: Scan, config: Config) -> tuple[Pretrained, PtychoModel, Config]:
    """The network in the package, with the probe of a scan, and the configuration that it has for that.

    Args:
        scan: the scan.
        config: see :func:`first_network`.
    """
    pretrained = load_pretrained()
    size = config.inference.group_size or min(config.data.group_size, scan.n)
    config = replace(config, data=replace(config.data, group_size=size), model=pretrained.config.model)
    return pretrained, pretrained.for_scan(scan), config


def outside_of(ranges: Mapping[str, Any], checked: Checked) -> Finding | None:
    """What of a scan is outside of the ranges that a network was trained on, in one sentence; None if nothing is.

    Args:
        ranges: smallest and largest "photons" per pattern behind an empty sample, "sizes" N, "diameter" of the probe as
            a fraction of N, "overlap" and "modes"; what is not stated is not judged.
        checked: what is known of the scan.
    """
    patterns, geometry = checked.patterns, checked.geometry
    rows: tuple[tuple[str, float, Callable[[float], str], str], ...] = (
        (
            "photons",
            patterns.mean_intact / max(geometry.transmission, 1e-30),
            lambda value: f"{value:.1e}",
            "{} photons per pattern behind an empty sample",
        ),
        ("sizes", patterns.size, lambda value: f"{value:.0f}", "patterns of {} px"),
        ("diameter", geometry.diameter / patterns.size, lambda value: f"{value:.0%}", "a probe over {} of a pattern"),
        ("overlap", geometry.overlap, lambda value: f"{value:.0%}", "a linear overlap of {}"),
        ("modes", geometry.modes, lambda value: f"{value:.0f}", "{} probe modes"),
    )
    found = []
    for name, value, text, words in rows:
        if name not in ranges or (name == "overlap" and patterns.number < 2):
            continue
        low, high = ranges[name]
        # A range that is missed by less than its last digit is not missed.
        if text(value) not in (text(low), text(high)) and not low <= value <= high:
            found.append(f"{words.format(text(value))} (trained on {text(low)} to {text(high)})")
    if not found:
        return None
    sentence = f"the scan is outside of what the pretrained network was trained on: {', '.join(found)}"
    return Finding("warning", "outside_of_training", sentence, f"the image may be poor; {_TRAIN}")


def unexplained(fit: Fit) -> Finding | None:
    """The finding that an image does not explain the patterns of its scan; None if it does."""
    if fit.unexplained < _UNEXPLAINED:
        return None
    return Finding(
        "warning", "unexplained",
        f"the image does not explain {fit.unexplained:.0%} of the structure of the patterns, as for positions with a "
        f"mirrored or swapped axis, or for a wrong probe; expected of this network: below {_UNEXPLAINED:.0%}",
        "`ptychopinn inspect SCAN` checks the orientation, and --orientation NAME turns the positions; of a wrong "
        f"probe, {_TRAIN}",
    )  # fmt: skip
