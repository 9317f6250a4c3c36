# SPDX-License-Identifier: BSD-3-Clause
"""Write a scan in another format."""

from __future__ import annotations

from pathlib import Path

from jsonargparse import Namespace

from ptychopinn.cli.options import (
    add_orientation,
    add_overwrite,
    add_scan_options,
    add_target_format,
    load_scan,
    new_file,
    print_written,
)
from ptychopinn.cli.parser import Parser


def describe(parser: Parser) -> None:
    """Add the options of the command."""
    parser.add_argument("scan_file", metavar="IN", help="the scan, a file or for some formats a folder")
    parser.add_argument("out", metavar="OUT", help="file to write; for ptychodus a folder, or one of its two files")
    add_target_format(parser)
    add_orientation(parser)
    add_overwrite(parser)
    add_scan_options(parser, common=True)


def run(options: Namespace) -> int:
    """Read a scan of any format and write it in another; counts are kept exactly, positions to a nanometre."""
    from ptychopinn.inspection.orientation import oriented
    from ptychopinn.io.scans import format_to_write

    target = format_to_write(options.out, options.to)
    files = target.files_of(Path(options.out))
    for path in files:
        new_file(path, options.overwrite)
    scan = oriented(load_scan(options), options.orientation or "given")
    scan.save(Path(options.out), format=target.name)
    pixel = "unknown" if scan.pixel_size is None else f"{scan.pixel_size * 1e9:.4g} nm"
    print(f"{scan.n} patterns of {scan.patch_size} px, {scan.modes} probe modes, object pixels {pixel}")
    print_written(files)
    return 0
