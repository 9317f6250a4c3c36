# SPDX-License-Identifier: BSD-3-Clause
"""All sections together, from Python, a file or both."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from ptychopinn._one_line import one_line
from ptychopinn.config.checks import hints_of, require_known
from ptychopinn.config.execution import ExecutionConfig
from ptychopinn.config.inference import InferenceConfig
from ptychopinn.config.training import DataConfig, ModelConfig, TrainingConfig
from ptychopinn.errors import InputError, not_found

#: Folder of the recipes, files of options.
RECIPES = Path(__file__).parents[1] / "recipes"


def recipe_file(name: str) -> Path:
    """The YAML file of a recipe.

    Raises:
        InputError: there is no such recipe; the message lists all.
    """
    path = RECIPES / f"{name}.yaml"
    if path.parent != RECIPES or not path.is_file():
        known = ", ".join(sorted(file.stem for file in RECIPES.glob("*.yaml")))
        raise InputError(f"no recipe {name!r}: expected one of {known}")
    return path


@dataclass(frozen=True)
class Config:
    """All sections. ``Config()`` is the default configuration.

    Example:
        >>> config = Config.from_dict({"training": {"epochs": 10}})
        >>> config.training.epochs, config.data.group_size
        (10, 16)
        >>> Config.from_dict(config.to_dict()) == config
        True
    """

    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    inference: InferenceConfig = field(default_factory=InferenceConfig)
    execution: ExecutionConfig = field(default_factory=ExecutionConfig)

    __repr__ = one_line

    def to_dict(self) -> dict[str, Any]:
        """Nested plain types, as written to YAML and JSON."""
        return {
            section: {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
            for section, values in asdict(self).items()
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Config:
        """The inverse of :meth:`to_dict`; sections and fields may be missing.

        Raises:
            InputError: an unknown section or field, or a value that a section refuses.
        """
        sections = hints_of(cls)
        require_known("configuration", values, sections)
        made = {}
        for name, section in sections.items():
            options = values.get(name, {})
            require_known(name, options, {entry.name for entry in fields(section)})
            made[name] = section(**options)
        return cls(**made)

    @classmethod
    def recipe(cls, name: str) -> Config:
        """The configuration of a recipe in the package, such as "low_dose"; ``--recipe`` on the command line.

        Raises:
            InputError: there is no such recipe; the message lists all.

        Example:
            >>> Config.recipe("curved_probe").data.group_size
            1
        """
        return cls.load(recipe_file(name))

    @classmethod
    def load(cls, path: str | Path | None = None, overrides: Mapping[str, Any] | None = None) -> Config:
        """The configuration of a YAML file with some values set otherwise: overrides > file > defaults.

        Args:
            path: the file, such as a run's config.yaml; none: the defaults.
            overrides: nested as in :meth:`from_dict`, or by dotted names (``{"training.epochs": 3}``), or both.

        Raises:
            InputError: the file cannot be read or is not YAML, or as for :meth:`from_dict`; it names the file.

        Example:
            >>> config = Config.load(overrides={"training.epochs": 3, "data": {"group_size": 4}})
            >>> config.training.epochs, config.data.group_size
            (3, 4)
        """
        values: Any = {}
        if path is not None:
            try:
                values = yaml.safe_load(Path(path).read_text(encoding="utf-8")) or {}
            except (FileNotFoundError, NotADirectoryError):
                raise not_found(path) from None
            except OSError as error:
                raise InputError(
                    f"{path}: expected a YAML file, found: {error.strerror}; --print_config prints one"
                ) from None
            except (yaml.YAMLError, UnicodeDecodeError) as error:
                raise InputError(
                    f"{path}: expected YAML text: {' '.join(str(error).split())}; "
                    "--print_config prints a file of options"
                ) from None
        try:
            settings = cls.from_dict(values)
        except InputError as error:
            raise InputError(f"{path}: {error}") from None
        merged = settings.to_dict()
        for name, value in (overrides or {}).items():
            section, _, entry = name.partition(".")
            options = {entry: value} if entry else value
            require_known("overrides", {section: options}, merged)
            require_known(section, options, merged[section])
            merged[section].update(options)
        return cls.from_dict(merged)
