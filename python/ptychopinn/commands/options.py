# SPDX-License-Identifier: BSD-3-Clause
"""What the subcommands share: the parser, sections of the configuration as options, and files to write."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from jsonargparse import ArgumentParser, Namespace

from ptychopinn.config import DataConfig, ExecutionConfig, InferenceConfig, ModelConfig, TrainingConfig
from ptychopinn.errors import InputError

SECTIONS = {
    "data": DataConfig,
    "model": ModelConfig,
    "training": TrainingConfig,
    "inference": InferenceConfig,
    "execution": ExecutionConfig,
}
DEVICE = "cpu, cuda, cuda:1 ...; auto takes a GPU if there is one"
MEASUREMENT = "what the patterns in the file are: amplitude, counts, or auto (decided from the file, and said)"
MEMORY = "load all patterns, leave them stored on disk, or auto: stored if they need over a quarter of the free memory"


class Parser(ArgumentParser):
    """Answers a wrong option with one line rather than a page of usage."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        if not self.exit_on_error:
            super().error(message, ex)
        name = (getattr(ex, "subcommand_parser", None) or self).prog.replace(" [options]", "")
        self.exit(2, f"{name}: {' '.join(message.split())}; see {name} --help\n")


def add_sections(parser: ArgumentParser, *names: str) -> None:
    """Options of these sections, ``--section.field``."""
    for name in names:
        parser.add_class_arguments(SECTIONS[name], name)


def add_overwrite(parser: ArgumentParser) -> None:
    """The option to replace an earlier result."""
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier result")


def settings_of(options: Namespace, *names: str) -> dict[str, dict[str, Any]]:
    """The chosen configuration sections as plain dictionaries."""
    return {name: options[name].as_dict() for name in names}


def new_file(path: str | Path, overwrite: bool) -> Path:
    """The path, which must be new unless it may be overwritten."""
    if Path(path).exists() and not overwrite:
        raise InputError(f"{path}: expected a new file, found an earlier one; name another, or --overwrite")
    return Path(path)


def say_written(paths: Sequence[Path]) -> None:
    """A line for each file."""
    for path in paths:
        print(f"wrote {path}")


def quieten_lightning() -> None:
    """Its tips go and its warnings stay, once. Call it after its import, which sets levels and handlers itself."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("lightning").handlers.clear()
