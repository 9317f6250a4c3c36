# SPDX-License-Identifier: BSD-3-Clause
"""What a training begins with: a model that the caller names, the network in the package, or untrained weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import lightning as L

from ptychopinn.config import Config
from ptychopinn.errors import InputError
from ptychopinn.models import PtychoModel
from ptychopinn.persistence.pretrained import load_pretrained
from ptychopinn.scan import Scan

#: What is begun with, in words, for the log and the bundle.
GIVEN, PRETRAINED, NOTHING = "another model", "the pretrained network", "an untrained network"


def initial_network(scans: Sequence[Scan], config: Config, start: PtychoModel | None) -> tuple[PtychoModel | None, str]:
    """The model whose network a training begins with, None for an untrained one; and which that is, in words.

    Args:
        scans: that are trained on.
        config: of the training; ``training.start`` decides if no model is named.
        start: a model that the caller names.

    Raises:
        InputError: ``training.start`` is "pretrained", and the network in the package is another one than configured.
    """
    if start is not None:
        return start, GIVEN
    rule = config.training.start
    if rule == "auto":
        patterns = sum(scan.n for scan in scans)
        training = config.training
        better = pretrained_is_better(
            training.minutes, training.epochs, scans[0].patch_size, config.data.group_size, patterns
        )
        rule = "pretrained" if better and difference(config) is None else "nothing"
    if rule == "nothing":
        return None, NOTHING
    different = difference(config)
    if different is not None:
        raise InputError(
            f"training.start: the pretrained network has {different}; omit model.generator and model.options, or begin "
            "with training.start nothing"
        )
    return load_pretrained().model, PRETRAINED


def pretrained_is_better(minutes: float | None, epochs: int, patch_size: int, group_size: int, patterns: int) -> bool:
    """Whether a training ends with a better image if it begins with the pretrained network: what "auto" decides by.

    Args:
        minutes: time limit, None: none.
        epochs: of the training.
        patch_size: N.
        group_size: C.
        patterns: of all scans.

    Returns:
        False: measured so far, an untrained network is at least as good after a minute (docs/pretrained.md).
    """
    return False


def difference(config: Config) -> str | None:
    """How the network of a configuration differs from the pretrained one, in words; None if it does not."""
    own, other = load_pretrained().config.model, config.model
    if own.generator != other.generator:
        return f"model.generator {own.generator!r} instead of {other.generator!r}"
    if own.options != other.options:
        return f"model.options {own.options} instead of {other.options}"
    return None


class InitialNetwork(L.Callback):
    """Keeps in checkpoints what the training began with, for a run that is resumed.

    Args:
        name: of it, in words.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def state_dict(self) -> dict[str, Any]:
        return {"name": self.name}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.name = str(state_dict["name"])
