# SPDX-License-Identifier: BSD-3-Clause
"""What the subcommands share: the parser, sections of the configuration as options, and files to write."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from jsonargparse import ArgumentParser, Namespace

from ptychopinn.config import DataConfig, ExecutionConfig, InferenceConfig, ModelConfig, TrainingConfig
from ptychopinn.errors import InputError
from ptychopinn.io.options import MEASUREMENTS, MEMORY
from ptychopinn.io.scans import formats

SECTIONS = {
    "data": DataConfig,
    "model": ModelConfig,
    "training": TrainingConfig,
    "inference": InferenceConfig,
    "execution": ExecutionConfig,
}
DEVICE = "cpu, cuda, cuda:1 ...; auto takes a GPU if there is one"
_GEOMETRY = {
    "pixel_size": "metres per object pixel",
    "energy": "of the photons, in eV",
    "distance": "metres from the sample to the detector",
    "detector_pixel_size": "metres",
}
_MEMORY = "load all patterns, leave them stored on disk, or auto: stored if they need over a quarter of the free memory"


class Parser(ArgumentParser):
    """Answers a wrong option with one line rather than a page of usage."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        if not self.exit_on_error:
            super().error(message, ex)
        if not speaks():
            sys.exit(0)
        name = (getattr(ex, "subcommand_parser", None) or self).prog.replace(" [options]", "")
        self.exit(2, f"{name}: {' '.join(message.split())}; see {name} --help\n")


def speaks() -> bool:
    """Whether this process says what goes on: of those that torchrun has started, the first one."""
    return os.environ.get("RANK", "0") == "0"


def add_sections(parser: ArgumentParser, *names: str) -> None:
    """Options of these sections, ``--section.field``."""
    for name in names:
        parser.add_class_arguments(SECTIONS[name], name)


def add_scan_options(parser: ArgumentParser) -> None:
    """What can be stated about a scan that is read; :func:`load_scan` reads it so."""
    names = list(formats())
    text = f"of the scan: {', '.join(names)}, or auto (by what is in the file)"
    parser.add_argument("--format", default="auto", choices=["auto", *names], help=text)
    parser.add_argument(
        "--measurement",
        default="auto",
        choices=list(MEASUREMENTS),
        help="what the patterns in the file are: amplitude, counts, or auto (decided from the file, and said)",
    )
    parser.add_argument("--memory", default="auto", choices=list(MEMORY), help=_MEMORY)
    parser.add_argument("--probe", default=None, type=str | None, help=".npy file of the probe, in place of the file's")
    parser.add_argument(
        "--bad-pixels",
        default=None,
        type=str | None,
        help=".npy file of a mask, as inspect --mask writes: pixels to ignore besides the file's",
    )
    for name, text in _GEOMETRY.items():
        option = f"--{name.replace('_', '-')}"
        parser.add_argument(option, default=None, type=float | None, help=f"{text}; in place of the file's")
    parser.add_argument("--positions", default=None, type=str | None, help="CSV file of positions, for plain arrays")
    parser.add_argument("--partner", default=None, type=str | None, help="the other file of a ptychodus pair")


def load_scan(options: Namespace, path: str | Path | None = None) -> Any:
    """The scan that the options name, or the one at ``path``, read as :func:`add_scan_options` has it."""
    from ptychopinn.scan import Scan

    return Scan.load(options.scan_file if path is None else path, **stated_of(options))


def stated_of(options: Namespace) -> dict[str, Any]:
    """What the options state about a scan, as the arguments of ``Scan.load``."""
    return {
        name: options[name]
        for name in ("format", "measurement", "memory", "probe", "bad_pixels", *_GEOMETRY, "positions", "partner")
    }


def turned(scan: Any, options: Namespace, run: str | Path | None = None) -> Any:
    """The scan in the orientation that the options name.

    Raises:
        InputError: they name none, and the model of ``run`` was trained on scans in another one than this.
    """
    from ptychopinn.inspection.orientation import oriented
    from ptychopinn.persistence.bundle import bundle_info

    if options.orientation is None and run is not None:
        trained = bundle_info(run).get("orientation", ["given"])
        if trained != ["given"] and scan.orientation not in trained:
            raise InputError(
                f"{run}: trained with --orientation {' and '.join(trained)}: expected --orientation for this scan as "
                f"well, found none; --orientation {trained[0]} if it is of the same kind, --orientation given if not"
            )
    return oriented(scan, options.orientation or "given")


def add_out_format(parser: ArgumentParser) -> None:
    """The option to write a reconstruction for another program."""
    parser.add_argument(
        "--out-format",
        default="auto",
        choices=["auto", "ptychodus", "nexus"],
        help="a product of ptychodus, NeXus for any viewer, or auto (this package's own, by the suffix of --out)",
    )


def add_overwrite(parser: ArgumentParser) -> None:
    """The option to replace an earlier result."""
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier result")


def add_orientation(parser: ArgumentParser) -> None:
    """The option to state or change the orientation of the positions; the names are checked where it is applied."""
    parser.add_argument(
        "--orientation",
        default=None,
        type=str | None,
        metavar="NAME",
        help="how to turn the positions: given, flip_y, flip_x, rotate_180, swap, swap_flip_y, swap_flip_x or "
        "swap_rotate_180 (axes are swapped first); `ptychopinn inspect` finds it",
    )


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
