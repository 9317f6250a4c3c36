# SPDX-License-Identifier: BSD-3-Clause
"""Train a network."""

from __future__ import annotations

import sys
from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from ptychopinn.commands.options import (
    MEASUREMENT,
    MEMORY,
    SECTIONS,
    add_overwrite,
    add_sections,
    new_file,
    quieten_lightning,
    settings_of,
)
from ptychopinn.config import Config
from ptychopinn.errors import InputError


def describe(parser: ArgumentParser) -> None:
    parser.add_argument("scan_files", metavar="SCAN.npz", nargs="+", help="the scan, or several with one probe")
    parser.add_argument("--out", required=True, help="folder for the model, checkpoints, logs and pictures")
    parser.add_argument("--config", action="config", help="YAML file of the options below, such as a run's config.yaml")
    parser.add_argument("--epochs", type=int | None, default=None, help="short for --training.epochs")
    parser.add_argument("--minutes", type=float | None, default=None, help="short for --training.minutes")
    parser.add_argument("--seed", type=int | None, default=None, help="short for --training.seed")
    parser.add_argument("--measurement", default="auto", choices=["auto", "amplitude", "counts"], help=MEASUREMENT)
    parser.add_argument("--memory", default="auto", choices=["auto", "load", "stored"], help=MEMORY)
    parser.add_argument(
        "--from",
        dest="start",
        metavar="RUN",
        default=None,
        type=str | None,
        help="fine-tune: start with the network of this run (or bundle) and its data and model options",
    )
    parser.add_argument(
        "--resume", action="store_true", help="go on from the last whole epoch of the run in --out, with its options"
    )
    add_overwrite(parser)
    add_sections(parser, *SECTIONS)


def run(options: Namespace) -> int:
    """Train a network on the diffraction patterns of a scan; no truth is used, unless asked for.

    Options that are not given are the defaults; with --resume those of the run, and with --from the data and model
    options are those of the run that is started from.
    """
    from ptychopinn.data.scan import Scan
    from ptychopinn.inference.bundle import BUNDLE_NAME, load_bundle
    from ptychopinn.training.workflow import read_config, train

    quieten_lightning()
    if options.resume and (options.start is not None or options.overwrite):
        raise InputError("--resume goes on with the run in --out: leave --from and --overwrite away")
    settings = settings_of(options, *SECTIONS)
    start, earlier = (None, {}) if options.start is None else load_bundle(options.start)
    if start is not None:
        earlier = {name: earlier.to_dict()[name] for name in ("data", "model")}
    if options.resume:
        earlier = read_config(Path(options.out)).to_dict()
    given = options.given.as_dict()
    for name, values in earlier.items():
        settings[name] = {**values, **given.get(name, {})}
        if "options" in values:
            settings[name]["options"] = {**values["options"], **given.get(name, {}).get("options", {})}
    for name in ("epochs", "minutes", "seed"):
        if options[name] is not None:
            settings["training"][name] = options[name]
    config = Config.from_dict(settings)
    new_file(Path(options.out) / BUNDLE_NAME, options.overwrite or options.resume)
    scans = [Scan.load(path, options.measurement, options.memory) for path in options.scan_files]
    run = train(scans, options.out, config, overwrite=options.overwrite, start=start, resume=options.resume)
    losses = ", ".join(f"{name} {value:.4g}" for name, value in run.losses.items())
    print(f"{run.folder}: trained on {sum(scan.n for scan in scans)} patterns, {losses}")
    if run.interrupted:
        print(f"ptychopinn train: interrupted; {run.folder} holds what was learned until then", file=sys.stderr)
        return 130
    return 0
