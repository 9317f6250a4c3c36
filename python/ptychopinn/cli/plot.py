# SPDX-License-Identifier: BSD-3-Clause
"""Draw a file."""

from __future__ import annotations

from pathlib import Path

from jsonargparse import Namespace

from ptychopinn.cli.options import add_scan_options, load_scan, print_written
from ptychopinn.cli.parser import Parser


def describe(parser: Parser) -> None:
    """Add the options of the command."""
    parser.add_argument("file", metavar="FILE", help="a reconstruction (.h5, .npz) or a scan of any format")
    parser.add_argument(
        "--out",
        type=str | None,
        metavar="FOLDER",
        help="folder; default: the file's name without suffix, or that of a folder and -pictures",
    )
    add_scan_options(parser)


def run(options: Namespace) -> int:
    """Draw a reconstruction, or the positions, probe and mean pattern of a scan, as PNG files."""
    from ptychopinn.io.reconstructions import is_reconstruction
    from ptychopinn.plotting.reconstructions import plot_reconstruction
    from ptychopinn.plotting.scans import plot_scan_overview
    from ptychopinn.reconstruction import Reconstruction

    path = Path(options.file)
    beside = path.with_name(f"{path.name}-pictures") if path.is_dir() else path.with_suffix("")
    folder = Path(options.out or beside)
    if options.format == "auto" and is_reconstruction(options.file):
        print_written(plot_reconstruction(Reconstruction.load(options.file), folder))
    else:
        print_written(plot_scan_overview(load_scan(options, options.file), folder / "scan.png"))
    return 0
