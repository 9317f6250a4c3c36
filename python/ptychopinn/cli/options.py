# SPDX-License-Identifier: BSD-3-Clause
"""What the commands share: sections of the configuration and statements about a scan as options, and files to write."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse import Namespace

from ptychopinn.cli.experiment_options import add_experiment_options, experiment_options
from ptychopinn.cli.parser import Parser
from ptychopinn.config import DataConfig, ExecutionConfig, InferenceConfig, ModelConfig, TrainingConfig
from ptychopinn.errors import InputError
from ptychopinn.io.options import LENGTHS, MEASUREMENTS, MEMORY
from ptychopinn.io.scans import formats

if TYPE_CHECKING:
    from ptychopinn.scan import Scan

SECTIONS = {
    "data": DataConfig,
    "model": ModelConfig,
    "training": TrainingConfig,
    "inference": InferenceConfig,
    "execution": ExecutionConfig,
}
_GEOMETRY = {
    "pixel_size": "metres per object pixel",
    "energy": "of the photons or electrons, in eV",
    "distance": "metres from the sample to the detector",
    "detector_pixel_size": "metres",
}
_FRAMES = {
    "crop": "pixels along one side: read the middle of the detector only",
    "pad": "pixels along one side: fill up a smaller detector with bad pixels",
    "bin": "sum the counts of bins of so many pixels along one side",
}
_PAIRS: dict[str, tuple[str, str, Callable[[str], Any]]] = {
    "scan_shape": ("ROWS,COLUMNS", "of a raster scan without positions", int),
    "scan_step": ("Y,X", "metres between the positions of a raster scan, or one number for both", float),
    "position_columns": ("Y,X", "names, or numbers from 0, of the columns in the table of positions", str.strip),
}
_MEMORY = "load all patterns, or leave them stored on disk; auto: stored if they need over a quarter of the free memory"


def add_sections(parser: Parser, *names: str) -> None:
    """Options of these sections, ``--section.field``, in the full help."""
    for name in names:
        add_section(parser, name, SECTIONS[name])


def add_section(parser: Parser, name: str, section: type) -> None:
    """Options of one section, ``--name.field``, in the full help."""
    parser.add_class_arguments(section, name)
    group = (parser.groups or {})[name]
    group.title = f"{name}: {str(group.title)[0].lower()}{str(group.title)[1:].removesuffix('.')}"
    file = next(action for action in parser._actions if action.dest == name)
    file.metavar, file.help = "FILE.yaml", "YAML file of these options"
    parser.hide(group, name)


def add_config_file(parser: Parser, text: str = "YAML file of options") -> None:
    """``--config``, and with it ``--print_config``."""
    parser.add_argument("--config", action="config", metavar="FILE.yaml", help=text)
    (printing,) = (action for action in parser._actions if "--print_config" in action.option_strings)
    printing.help, printing.metavar = "print the options as a YAML file and exit", "\b[=skip_default]"


def add_recipe(parser: Parser) -> None:
    """``--recipe``, which stands on the command line for ``--config`` of a file in the package (:mod:`cli.app`)."""
    parser.add_argument(
        "--recipe",
        metavar="NAME",
        type=str | None,
        help="file of options in the package; `ptychopinn help configuration`",
    )


def add_scan_options(parser: Parser, *, common: bool = False, omit: Sequence[str] = ()) -> None:
    """What can be stated about a scan that is read; :func:`load_scan` reads it so.

    Args:
        parser: of the command.
        common: show them in the short help too.
        omit: names of options that the command has for itself.
    """
    names = list(formats())
    title = "scan file"
    group = parser.add_argument_group(title) if common else parser.add_group(title)
    group.add_argument("--format", default="auto", choices=["auto", *names], help="auto: by what is in the file")
    group.add_argument(
        "--measurement",
        default="auto",
        choices=list(MEASUREMENTS),
        help="what the patterns in the file are; auto: decided from the file, and printed",
    )
    group.add_argument("--memory", default="auto", choices=list(MEMORY), help=_MEMORY)
    path = str | None
    group.add_argument(
        "--probe", type=path, metavar="FILE.npy", help="the probe, in place of the file's; or FILE.h5, FILE.h5:PATH"
    )
    group.add_argument(
        "--bad-pixels",
        type=path,
        metavar="FILE.npy",
        help="mask, as inspect --mask writes it: pixels to ignore besides the file's",
    )
    for name, text in _GEOMETRY.items():
        option = f"--{name.replace('_', '-')}"
        group.add_argument(option, type=float | None, help=f"{text}; in place of the file's")
    group.add_argument(
        "--positions", type=path, metavar="FILE.csv", help="table of positions, for formats without them"
    )
    if "position_unit" not in omit:
        unit = "of the table, if its header does not state it"
        group.add_argument("--position-unit", type=path, metavar="|".join(LENGTHS), help=unit)
    group.add_argument("--position-scan", type=int | None, help="number of the scan in a SPEC file of positions")
    for name, (metavar, text, _) in _PAIRS.items():
        group.add_argument(f"--{name.replace('_', '-')}", type=path, metavar=metavar, help=text)
    if "crop" not in omit:
        add_frame_options(group)
    group.add_argument(
        "--mask-invalid",
        action="store_true",
        help="NaN, infinite and negative values and dead-pixel markers become bad pixels",
    )
    group.add_argument("--clip-negative", action="store_true", help="negative floats become 0")
    add_experiment_options(parser, common=common)
    group.add_argument("--partner", type=path, metavar="FILE.h5", help="the other file of a ptychodus pair")
    group.add_argument("--patterns", type=path, metavar="PATH_IN_FILE", help="the patterns' path in HDF5, key in NPZ")


def add_frame_options(group: Any) -> None:
    """``--crop``, ``--pad`` and ``--bin`` of the frames as they are read."""
    for name, text in _FRAMES.items():
        group.add_argument(f"--{name}", type=int | None, help=text)


def load_scan(options: Namespace, path: str | Path | None = None) -> Any:
    """The scan that the options name, or the one at ``path``, read as :func:`add_scan_options` has it."""
    from ptychopinn.scan import Scan

    return Scan.load(options.scan_file if path is None else path, **scan_options(options))


def scan_options(options: Namespace) -> dict[str, Any]:
    """What the options state about a scan, as the arguments of ``Scan.load``."""
    names = ("format", "measurement", "memory", "probe", "bad_pixels", *_GEOMETRY, "positions", "partner", *_FRAMES)
    names += ("position_unit", "position_scan", "patterns", "mask_invalid", "clip_negative")
    stated = {name: options[name] for name in names}
    stated["bin"] = stated["bin"] or 1
    stated |= experiment_options(options)
    return stated | {name: _pair(name, options[name]) for name in _PAIRS}


def _pair(name: str, text: str | None) -> Any:
    """Two values with a comma between them, as a tuple; one value of a scan step is both."""
    if text is None:
        return None
    metavar, _, convert = _PAIRS[name]
    try:
        values = tuple(convert(part) for part in text.split(","))
    except ValueError:
        values = ()
    if len(values) == 1 and name == "scan_step":
        return values[0]
    if len(values) != 2:
        raise InputError(f"--{name.replace('_', '-')} must be {metavar}, got {text!r}")
    return values


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


def add_check(parser: Parser, *, problems: bool = True) -> None:
    """Options of the check of a scan before it is used; :func:`checked` reads them.

    Args:
        parser: of the command.
        problems: whether problems stop the command, unless they are accepted.
    """
    group = parser.add_argument_group("check of the scan")
    if problems:
        group.add_argument(
            "--accept",
            type=str,
            default="",
            metavar="KEY,KEY",
            help="problems to accept, by the keys that the message names, or all",
        )
    group.add_argument(
        "--drop-outliers",
        action="store_true",
        help="omit patterns far from all others, and those with far fewer or far more counts",
    )
    group.add_argument(
        "--mask-faulty", action="store_true", help="ignore dead, stuck, hot and saturated pixels that are found"
    )


def checked(
    scan: Scan, options: Namespace, path: str | Path, run: str | Path | None = None, fitted: Collection[str] = ()
) -> Scan:
    """The scan after its check, with what the options ask to omit and mask.

    Args:
        scan: the scan.
        options: of the command.
        path: of the scan, for messages.
        run: a trained model; what its training accepted is accepted again.
        fitted: keys of problems that the command fits.

    Raises:
        InputError: there is a problem that is neither mended nor accepted.
    """
    from ptychopinn.findings.gate import KEYS, accepted_keys, check_scan
    from ptychopinn.persistence.bundle import bundle_info

    check = {} if run is None else bundle_info(run).get("check", {})
    accept = (
        accepted_keys(options.accept)
        | frozenset(fitted)
        | accepted_keys([key for key in check.get("accepted", []) if key in KEYS])
    )
    return check_scan(scan, accept, drop_outliers=options.drop_outliers, mask_faulty=options.mask_faulty, file=path)


def add_out_format(parser: Parser) -> None:
    """The option to write a reconstruction for another program."""
    parser.add_argument(
        "--out-format",
        default="auto",
        choices=["auto", "ptychodus", "nexus"],
        help="a product of ptychodus, or NeXus for any viewer; auto: this package's own, by the suffix of --out",
    )


def add_target_format(parser: Parser) -> None:
    """The option for the format of a scan that is written."""
    parser.add_argument(
        "--to",
        default="auto",
        choices=["auto", *(name for name, format in formats().items() if format.write)],
        help="format to write; auto: by the suffix of OUT",
    )


def add_overwrite(parser: Parser) -> None:
    """The option to replace an earlier result."""
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier result")


def add_orientation(parser: Parser, *, found_by: str = "`ptychopinn inspect` finds it") -> None:
    """The option to state or change the orientation of the positions; the names are checked where it is applied."""
    parser.add_argument(
        "--orientation",
        type=str | None,
        metavar="NAME",
        help="how to turn the positions: given, flip_y, flip_x, rotate_180, swap, swap_flip_y, swap_flip_x or "
        f"swap_rotate_180 (axes are swapped first); {found_by}",
    )


def execution_of(options: Namespace) -> tuple[ExecutionConfig, Any]:
    """``--execution.*`` as a section, and the device that they or ``--device`` name; sets the number of threads."""
    from ptychopinn.runtime.devices import prepare_device, resolve_device

    execution = ExecutionConfig(**options.execution.as_dict())
    device = prepare_device(execution)
    return execution, device if options.device is None else resolve_device(options.device)


def add_execution(parser: Parser) -> None:
    """``--device`` and ``--execution.*``; of these, what belongs to a training alone changes nothing elsewhere."""
    parser.add_argument(
        "--device", type=str | None, help="cpu, cuda, cuda:1 ...: short for --execution.accelerator and .devices"
    )
    add_sections(parser, "execution")
    (parser.groups or {})[
        "execution"
    ].description = "Here accelerator, devices, threads and workers are used; the others belong to a training."


def settings_of(options: Namespace, *names: str) -> dict[str, dict[str, Any]]:
    """The chosen configuration sections as plain dictionaries."""
    return {name: options[name].as_dict() for name in names}


def new_file(path: str | Path, overwrite: bool) -> Path:
    """The path, which must be new unless it may be overwritten."""
    if Path(path).exists() and not overwrite:
        raise InputError(f"{path}: expected a new file, found an earlier one; name another, or --overwrite")
    return Path(path)


def print_written(paths: Sequence[Path]) -> None:
    """A line for each file."""
    for path in paths:
        print(f"wrote {path}")


def quieten_lightning() -> None:
    """Its tips go and its warnings stay, once. Call it after its import, which sets levels and handlers itself."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("lightning").handlers.clear()
