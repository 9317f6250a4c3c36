# SPDX-License-Identifier: BSD-3-Clause
"""Sections of our configuration as groups of ptychodus' settings: its files and panes have every field of them."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import yaml
from ptychodus.api.parameters import Parameter, ParameterGroup
from ptychodus.api.settings import SettingsRegistry

from ptychopinn.config import DataConfig, ExecutionConfig, InferenceConfig, ModelConfig, RefineConfig, TrainingConfig
from ptychopinn.config.meaning import meanings

#: Types of fields that ptychodus has a parameter for; others are text as in YAML, "none" for None.
_KINDS = {"bool": "boolean", "int": "integer", "float": "real", "str": "string"}


class SectionSettings:
    """One section as one group.

    Args:
        registry: of ptychodus.
        group: its name, that of a section in settings files.
        section: the dataclass.
        without: fields that have no meaning in ptychodus.
        defaults: where they are others in ptychodus.

    Attributes:
        parameters: field -> its parameter.
        choices: field -> the words that it takes, where it takes some only.
        meanings: field -> what it means.
    """

    def __init__(
        self,
        registry: SettingsRegistry,
        group: str,
        section: Any,
        without: tuple[str, ...] = (),
        defaults: Mapping[str, Any] | None = None,
    ) -> None:
        made, start = registry.create_group(group), section(**defaults or {})
        self.choices: dict[str, tuple[str, ...]] = getattr(section, "CHOICES", {})
        self.meanings = meanings(section)
        self.parameters: dict[str, Parameter[Any]] = {}
        self._text = set[str]()
        for entry in dataclasses.fields(section):
            if entry.name in without:
                continue
            if entry.type not in _KINDS:
                self._text.add(entry.name)
            self.parameters[entry.name] = _parameter(made, entry, getattr(start, entry.name))

    def values(self) -> dict[str, Any]:
        """What the parameters say, for the dataclass to check."""
        said = {name: parameter.get_value() for name, parameter in self.parameters.items()}
        return {name: from_text(value) if name in self._text else value for name, value in said.items()}


class NetworkSettings:
    """All sections of a training and an inference."""

    def __init__(self, registry: SettingsRegistry) -> None:
        # What torchrun needs; where lines go; what ptychodus takes from the run's folder, and what it has no room for.
        execution = ("strategy", "progress", "checkpoints")
        inference = ("crop", "uncertainty")
        self.sections = {
            "data": SectionSettings(registry, "PtychoPINNNetworkData", DataConfig),
            "model": SectionSettings(registry, "PtychoPINNNetworkModel", ModelConfig),
            "training": SectionSettings(registry, "PtychoPINNNetworkTraining", TrainingConfig),
            "inference": SectionSettings(registry, "PtychoPINNNetworkInference", InferenceConfig, inference),
            "execution": SectionSettings(registry, "PtychoPINNNetworkExecution", ExecutionConfig, execution),
        }

    def values(self) -> dict[str, dict[str, Any]]:
        """Nested, as :meth:`ptychopinn.config.Config.from_dict` takes them."""
        return {name: section.values() for name, section in self.sections.items()}


class RefinementSettings:
    """The section of a refinement, and where it runs."""

    def __init__(self, registry: SettingsRegistry) -> None:
        # ptychodus has no place for a resolution, which takes as long again.
        group = "PtychoPINNRefinement"
        self.sections = {"refine": SectionSettings(registry, group, RefineConfig, defaults={"split_half": False})}
        self.device = registry[group].create_string_parameter("device", "auto")


def from_text(text: str) -> Any:
    """The value of a text: YAML's, with numbers such as 1e-3 besides.

    Example:
        >>> from_text("none"), from_text("1e-3"), from_text("[0.0, 0.5]"), from_text("auto")
        (None, 0.001, [0.0, 0.5], 'auto')
    """
    if text.strip().lower() in ("none", ""):
        return None
    if re.fullmatch(r"[-+]?[\d.]+e[-+]?\d+", text.strip(), re.IGNORECASE):
        return float(text)
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


def _parameter(group: ParameterGroup, entry: dataclasses.Field[Any], value: Any) -> Parameter[Any]:
    kind = _KINDS.get(str(entry.type))
    if kind is not None:
        made: Parameter[Any] = getattr(group, f"create_{kind}_parameter")(entry.name, value)
        return made
    plain = "none" if value is None else list(value) if isinstance(value, tuple) else value
    text = yaml.safe_dump(plain, default_flow_style=True).removesuffix("...\n").strip()
    return group.create_string_parameter(entry.name, text)
