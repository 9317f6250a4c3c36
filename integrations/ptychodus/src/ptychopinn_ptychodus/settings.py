# SPDX-License-Identifier: BSD-3-Clause
"""Sections of our configuration as groups of ptychodus' settings: its files and panes have every field of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import yaml
from ptychodus.api.parameters import Parameter, ParameterGroup
from ptychodus.api.settings import SettingsRegistry

from ptychopinn.config import DataConfig, ExecutionConfig, InferenceConfig, ModelConfig, RefineConfig, TrainingConfig
from ptychopinn.config.field_docs import field_choices, field_docs

#: Types of fields that ptychodus has a parameter for; others are text as in YAML, "none" for None.
_KINDS = {"bool": "boolean", "int": "integer", "float": "real", "str": "string"}


class SectionSettings:
    """One section as one group.

    Args:
        registry: of ptychodus.
        group: its name, that of a section in settings files.
        section: the dataclass.
        without: fields that do not apply in ptychodus.
        defaults: where they are others in ptychodus.

    Attributes:
        parameters: field -> its parameter.
        choices: field -> the words that it takes, where it takes some only.
        field_docs: field -> what it means.
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
        choices = field_choices(section)
        self.choices = {name: values for name, values in choices.items() if isinstance(values[0], str)}
        self.field_docs = field_docs(section)
        self.parameters: dict[str, Parameter[Any]] = {}
        self._text = set[str]()
        for entry in dataclasses.fields(section):
            if entry.name in without:
                continue
            kind = type(choices[entry.name][0]).__name__ if entry.name in choices else str(entry.type)
            if kind not in _KINDS:
                self._text.add(entry.name)
            self.parameters[entry.name] = _parameter(made, entry.name, kind, getattr(start, entry.name))

    def values(self) -> dict[str, Any]:
        """The values of the parameters, for the dataclass to check."""
        values = {name: parameter.get_value() for name, parameter in self.parameters.items()}
        return {name: from_text(value) if name in self._text else value for name, value in values.items()}


class NetworkSettings:
    """All sections of a training and an inference."""

    def __init__(self, registry: SettingsRegistry) -> None:
        # What torchrun needs; where lines go; what ptychodus takes from the run's folder, and what it has no room for.
        execution = ("strategy", "progress", "checkpoints")
        inference = ("crop", "uncertainty", "replicas")
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
        others = tuple(
            entry.name
            for entry in dataclasses.fields(ExecutionConfig)
            if entry.name not in ("accelerator", "devices", "threads")
        )
        # ptychodus has no place for a resolution, which takes as long again, and for maps of uncertainty.
        alone = {"split_half": False}
        maps = ("uncertainty", "replicas")
        self.sections = {
            "refine": SectionSettings(registry, "PtychoPINNRefinement", RefineConfig, maps, defaults=alone),
            "execution": SectionSettings(registry, "PtychoPINNRefinementExecution", ExecutionConfig, others),
        }


def from_text(text: str) -> Any:
    """The value of a text: a number, a list or a mapping as in YAML, true, false, none, or the text itself.

    Example:
        >>> from_text("none"), from_text("1e-3"), from_text("[1e-1, 0.5]"), from_text("auto"), from_text("1:30")
        (None, 0.001, [0.1, 0.5], 'auto', '1:30')
    """
    words = {"none": None, "": None, "true": True, "false": False}
    if text.strip().lower() in words:
        return words[text.strip().lower()]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    if text.strip()[0] in "[{":
        try:
            return _parsed(yaml.safe_load(text))
        except yaml.YAMLError:
            return text
    return text


def _parsed(value: Any) -> Any:
    """A list or a mapping, with numbers where YAML 1.1 has texts, such as 1e-3."""
    if isinstance(value, list):
        return [_parsed(part) for part in value]
    if isinstance(value, dict):
        return {name: _parsed(part) for name, part in value.items()}
    return from_text(value) if isinstance(value, str) else value


def _parameter(group: ParameterGroup, name: str, kind: str, value: Any) -> Parameter[Any]:
    if kind in _KINDS:
        made: Parameter[Any] = getattr(group, f"create_{_KINDS[kind]}_parameter")(name, value)
        return made
    plain = "none" if value is None else list(value) if isinstance(value, tuple) else value
    text = yaml.safe_dump(plain, default_flow_style=True).removesuffix("...\n").strip()
    return group.create_string_parameter(name, text)
