# SPDX-License-Identifier: BSD-3-Clause
"""What a training begins with: a model that the caller names, the network in the package, or untrained weights."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import lightning as L

from ptychopinn.config import Config
from ptychopinn.errors import InputError
from ptychopinn.models import PtychoModel
from ptychopinn.persistence.pretrained import load_pretrained
from ptychopinn.runtime.devices import resolve_accelerator

#: What is begun with, in words, for the log and the bundle.
GIVEN, PRETRAINED, NOTHING = "another model", "the pretrained network", "an untrained network"
#: Peak learning rate from the pretrained network: of 5e-4 to 1.6e-2 the best of 20 s (docs/pretrained.md).
PRETRAINED_RATE = 8e-3
#: Longest training on a CPU, minutes, and smallest group, for which the pretrained network is the better start.
_MINUTES, _GROUP = 0.5, 9


def initial_network(config: Config, start: PtychoModel | None) -> tuple[PtychoModel | None, str]:
    """The model whose network a training begins with, None for an untrained one; and which that is, in words.

    Args:
        config: of the training; ``training.start`` decides if no model is named.
        start: a model that the caller names.

    Raises:
        InputError: ``training.start`` is "pretrained", and the network in the package is another one than configured.
    """
    if start is not None:
        return start, GIVEN
    rule = config.training.start
    if rule == "auto":
        training = config.training
        on_cpu = resolve_accelerator(config.execution.accelerator) == "cpu"
        better = pretrained_is_better(training.minutes, on_cpu, config.data.group_size) and not training.supervised
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


def pretrained_is_better(minutes: float | None, on_cpu: bool, group_size: int) -> bool:
    """Whether a training ends with a better image if it begins with the pretrained network: what "auto" decides by.

    Measured on a CPU with patterns of 64 px and groups of 16 (docs/pretrained.md): after 20 s it is better than after
    30 s without it. From a minute on its slow phase is behind; on a GPU half a minute is a long training. Single
    patterns are better off without it in any case.

    Args:
        minutes: time limit, None: none.
        on_cpu: whether the training runs on the CPU.
        group_size: C.
    """
    return minutes is not None and minutes <= _MINUTES and on_cpu and group_size >= _GROUP


def with_rate(config: Config, name: str) -> Config:
    """The configuration with the learning rate for what a training begins with, unless it states one.

    Args:
        config: of the training.
        name: of the beginning, see :func:`initial_network`.
    """
    if config.training.learning_rate is not None or name != PRETRAINED:
        return config
    return replace(config, training=replace(config.training, learning_rate=PRETRAINED_RATE))


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
