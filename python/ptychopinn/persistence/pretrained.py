# SPDX-License-Identifier: BSD-3-Clause
"""The network in the package, which was trained on random scans with known objects; see docs/pretrained.md.

It is an ordinary bundle in models/pretrained/, with a JSON file of the same facts beside it for people. The weights of
its generator are for any size of patterns; the probe in the bundle is not used.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from ptychopinn import models
from ptychopinn._one_line import one_line
from ptychopinn.config import Config
from ptychopinn.errors import InputError
from ptychopinn.models import PtychoModel
from ptychopinn.persistence.bundle import build_model, bundle_info, load_bundle
from ptychopinn.scan import Scan

#: The bundle, as package data; scripts/pretrain.py writes it.
PRETRAINED = Path(models.__file__).parent / "pretrained" / "network.zip"


@dataclass(frozen=True)
class Pretrained:
    """The network in the package.

    Attributes:
        model: with a generator that takes groups of any size, on the CPU and in evaluation mode.
        config: its configuration.
        facts: how it was made, see :mod:`ptychopinn.pretraining.workflow`.
    """

    model: PtychoModel
    config: Config
    facts: dict[str, Any]

    __repr__ = one_line

    def for_scan(self, scan: Scan) -> PtychoModel:
        """A model with this network and the probe of a scan.

        Raises:
            InputError: the network does not take patterns of this size.
        """
        with torch.random.fork_rng([]):  # weights are drawn before those of the network replace them
            model = build_model(self.config, scan.patch_size, scan.modes)
        model.generator.load_state_dict(self.model.generator.state_dict())
        model.illumination.set_probe(torch.from_numpy(scan.probe))
        model.exposure_modes = True  # it was trained on plain scans
        return model.eval()

    def __str__(self) -> str:
        """What it was trained on, in words."""
        facts = self.facts
        ranges, minutes = facts.get("ranges", {}), facts.get("seconds", 0) / 60
        parts = [f"{self.config.model.generator}, trained for {minutes:.3g} minutes on random simulated scans"]
        if "sizes" in ranges:
            parts.append(f"patterns of {ranges['sizes'][0]} to {ranges['sizes'][1]} px")
        if "photons" in ranges:
            low, high = (math.log10(value) for value in ranges["photons"])
            parts.append(f"10^{low:.3g} to 10^{high:.3g} photons")
        return ", ".join(parts)


def load_pretrained(path: str | Path = PRETRAINED) -> Pretrained:
    """Read the network in the package; the file is read once.

    Args:
        path: of the bundle.

    Raises:
        InputError: it is not found or damaged, or a network that takes groups of one size only.
    """
    return _load(Path(path))


@lru_cache(1)
def _load(path: Path) -> Pretrained:
    if not path.exists():
        raise InputError(
            f"{path}: expected the pretrained network of this package, found none; install the package again, or "
            "train a network with `ptychopinn train`"
        )
    model, config = load_bundle(path)
    if model.generator.group_size is not None:
        raise InputError(
            f"{path}: expected a network for groups of any size, found one for {model.generator.group_size}; "
            "install the package again"
        )
    return Pretrained(model, config, bundle_info(path))
