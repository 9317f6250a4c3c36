# SPDX-License-Identifier: BSD-3-Clause
"""Take a small scan out of a large one."""

from __future__ import annotations

from jsonargparse import Namespace

from ptychopinn.cli.options import add_overwrite, add_scan_options, print_written, scan_options
from ptychopinn.cli.parser import Parser


def describe(parser: Parser) -> None:
    """Add the options of the command."""
    parser.add_argument("scan_file", metavar="SCAN", help="the scan")
    parser.add_argument("out", metavar="OUT", help="file to write; a record of its origin goes beside it, as .json")
    parser.add_argument("--n", type=int, default=64, help="patterns to choose, 4 or more")
    parser.add_argument(
        "--clusters",
        type=int | None,
        default=None,
        metavar="K",
        help="choose K clusters of overlapping patterns, for training and reconstruction; default: single patterns",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the choice")
    add_overwrite(parser)
    add_scan_options(parser)


def run(options: Namespace) -> int:
    """Take a small scan out of a large one, spread over the whole scanned area, with a record of its origin."""
    from ptychopinn.io.subset import write_subset

    choice = {name: options[name] for name in ("n", "clusters", "seed", "overwrite")}
    stated = {name: value for name, value in scan_options(options).items() if value not in (None, "auto")}
    print_written(write_subset(options.scan_file, options.out, **choice, **stated))
    return 0
