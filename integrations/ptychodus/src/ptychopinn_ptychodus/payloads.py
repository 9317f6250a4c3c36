# SPDX-License-Identifier: BSD-3-Clause
"""What ptychodus' process hands to those that it starts: plain values and its own data, without torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ptychodus.api.product import LossValue
from ptychodus.api.reconstruct import ReconstructInput


@dataclass(frozen=True)
class Training:
    """Train on the scans of a folder.

    Args:
        settings: nested, of the configuration.
        source: the folder with the scans.
        target: the folder in which the run's is made.
    """

    settings: Mapping[str, Mapping[str, Any]]
    source: Path
    target: Path


@dataclass(frozen=True)
class Inference:
    """Reconstruct with a trained model.

    Args:
        settings: nested, of the configuration; how the network was built and its groups made is the model's.
        model: a checkpoint or a bundle.
        parameters: the scan and its object.
        losses: of the model's training, to be shown with the result.
    """

    settings: Mapping[str, Mapping[str, Any]]
    model: Path
    parameters: ReconstructInput
    losses: Sequence[LossValue] = ()


@dataclass(frozen=True)
class Refinement:
    """Reconstruct without a network, from the input's object.

    Args:
        settings: of :class:`~ptychopinn.config.RefineConfig`.
        execution: of :class:`~ptychopinn.config.ExecutionConfig`: where it runs.
        parameters: the scan, its object and its probe.
    """

    settings: Mapping[str, Any]
    execution: Mapping[str, Any]
    parameters: ReconstructInput
