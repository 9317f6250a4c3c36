# SPDX-License-Identifier: BSD-3-Clause
"""Train a network."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse import Namespace

from ptychopinn.cli.options import (
    SECTIONS,
    add_check,
    add_config_file,
    add_orientation,
    add_overwrite,
    add_recipe,
    add_scan_options,
    add_sections,
    checked,
    load_scan,
    new_file,
    quieten_lightning,
    settings_of,
)
from ptychopinn.cli.parser import Parser, is_main_process
from ptychopinn.cli.recorded import record_scans
from ptychopinn.config import Config
from ptychopinn.errors import InputError

if TYPE_CHECKING:
    from ptychopinn.models import PtychoModel


def describe(parser: Parser) -> None:
    """Add the options of the command."""
    parser.add_argument("scan_files", metavar="SCAN", nargs="+", help="the scan, or several with one probe")
    parser.add_argument(
        "--out", required=True, metavar="RUN", help="folder for the model, checkpoints, logs and pictures"
    )
    add_config_file(parser, "YAML file of options, such as a run's config.yaml")
    add_recipe(parser)
    parser.add_argument("--epochs", type=int | None, help="short for --training.epochs")
    parser.add_argument("--minutes", type=float | None, help="short for --training.minutes")
    parser.add_argument("--seed", type=int | None, help="short for --training.seed")
    parser.add_argument(
        "--from",
        dest="start",
        metavar="RUN",
        type=str | None,
        help="fine-tune: start with the network of this run (or bundle) and its data and model options",
    )
    parser.add_argument(
        "--resume",
        action="store_true",
        help="continue from the last complete epoch of the run in --out, with its options; begin if there is none",
    )
    add_orientation(parser)
    add_check(parser)
    add_overwrite(parser)
    add_scan_options(parser)
    add_sections(parser, *SECTIONS)


def run(options: Namespace) -> int:
    """Train a network on the diffraction patterns of a scan; no truth is used, unless training.supervised.

    First, the scan is checked as by `ptychopinn inspect`: a problem stops the command, unless --accept names it. The
    orientation of the positions is checked unless --orientation states it.

    Options that are not stated are the defaults; with --resume those of the run, and with --from the data and model
    options are those of the run that is started from.
    """
    from ptychopinn.inspection.orientation import oriented, require_orientation
    from ptychopinn.runtime.processes import processes, shared_errors

    with processes():
        with shared_errors():
            config, start = _settings(options)
            scans = [load_scan(options, path) for path in options.scan_files]
            scans = [oriented(scan, options.orientation or "given") for scan in scans]
            run = options.out if options.resume else options.start
            scans = [checked(scan, options, path, run) for path, scan in zip(options.scan_files, scans, strict=True)]
            if options.orientation is None:
                for path, scan in zip(options.scan_files, scans, strict=True):
                    require_orientation(scan, file=path, alone=len(scans) == 1)
        # After what can be wrong with the scan, since it takes a while to import.
        from ptychopinn.training.workflow import train

        quieten_lightning()
        trained = train(scans, options.out, config, overwrite=options.overwrite, start=start, resume=options.resume)
    if not is_main_process():
        return 0
    record_scans(trained.folder, options)
    losses = ", ".join(f"{name} {value:.4g}" for name, value in trained.losses.items())
    print(f"{trained.folder}: trained on {sum(scan.n for scan in scans)} patterns, {losses}")
    if trained.interrupted:
        print(f"ptychopinn train: interrupted; {trained.folder} holds what was learned until then", file=sys.stderr)
        return 130
    print(f"its image: ptychopinn reconstruct {trained.folder} {options.scan_files[0]} --out recon.h5 --refine 20")
    return 0


def _settings(options: Namespace) -> tuple[Config, PtychoModel | None]:
    """The configuration, and the model to begin with if there is one."""
    from ptychopinn.persistence.bundle import BUNDLE_NAME, load_bundle

    if options.resume and (options.start is not None or options.overwrite):
        raise InputError("--resume continues the run in --out: omit --from and --overwrite")
    settings = settings_of(options, *SECTIONS)
    start: PtychoModel | None = None
    earlier: dict[str, dict[str, Any]] = {}
    if options.start is not None:
        start, trained = load_bundle(options.start)
        earlier = {name: trained.to_dict()[name] for name in ("data", "model")}
    if options.resume and (Path(options.out) / "config.yaml").exists():  # otherwise it has not begun
        from ptychopinn.training.workflow import read_config

        earlier = read_config(Path(options.out)).to_dict()
    explicit = options.explicit.as_dict()
    for name, values in earlier.items():
        settings[name] = {**values, **explicit.get(name, {})}
        if "options" in values:
            settings[name]["options"] = {**values["options"], **explicit.get(name, {}).get("options", {})}
    for name in ("epochs", "minutes", "seed"):
        if options[name] is not None:
            settings["training"][name] = options[name]
    config = Config.from_dict(settings)
    new_file(Path(options.out) / BUNDLE_NAME, options.overwrite or options.resume)
    return config, start
