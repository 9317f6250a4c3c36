# SPDX-License-Identifier: BSD-3-Clause
"""What is in a scan file, and what is wrong with it."""

from __future__ import annotations

from jsonargparse import Namespace

from ptychopinn.cli.options import (
    add_orientation,
    add_overwrite,
    add_scan_options,
    load_scan,
    new_file,
    print_written,
)
from ptychopinn.cli.parser import Parser
from ptychopinn.cli.reports import STANDARD_OUTPUT, add_json, json_target, print_report
from ptychopinn.errors import InputError


def describe(parser: Parser) -> None:
    """Add the options of the command."""
    parser.add_argument("scan_file", metavar="SCAN", help="the scan")
    add_json(parser)
    parser.add_argument("--picture", type=str | None, metavar="FILE.png", help="picture to draw")
    parser.add_argument(
        "--write-mask",
        "--mask",
        type=str | None,
        metavar="FILE.npy",
        help="file for the bad pixels, those found included",
    )
    parser.add_argument("--no-orientation", action="store_true", help="do not check the orientation (a few seconds)")
    add_orientation(parser, found_by="without it, the report names the best one")
    add_overwrite(parser)
    add_scan_options(parser, common=True)


def run(options: Namespace) -> int:
    """Report what is in a scan, and what is wrong with it: units, dose, overlap, pixels, centre, orientation.

    Exit code 1 if there is a problem.
    """
    import numpy as np

    from ptychopinn.inspection import inspect_scan, oriented
    from ptychopinn.storage.atomic import atomic_file

    targets = {"json": json_target(options.json, options.overwrite)}
    for name in ("picture", "write_mask"):
        targets[name] = None if options[name] is None else new_file(options[name], options.overwrite)
    picture = targets["picture"]
    if picture is not None and picture.suffix.lower() != ".png":
        raise InputError(f"--picture: expected a file ending in .png, found {picture}")
    named = [target for target in targets.values() if target is not None]
    if len(set(named)) < len(named):
        raise InputError("--json, --write-mask, --picture: expected files of different names")
    scan = oriented(load_scan(options), options.orientation or "given")
    found = inspect_scan(scan, orientation=not options.no_orientation)
    written = print_report(str(found), found.to_dict(), options.json)
    if targets["write_mask"] is not None:
        with atomic_file(targets["write_mask"]) as file:
            np.save(file, found.bad_pixels, allow_pickle=False)
        written.append(targets["write_mask"])
    if targets["picture"] is not None:
        from ptychopinn.inspection.picture import plot_inspection

        written += plot_inspection(scan, found, targets["picture"])
    if options.json != STANDARD_OUTPUT:
        print_written(written)
    return 1 if found.problems else 0
