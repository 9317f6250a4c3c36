# SPDX-License-Identifier: BSD-3-Clause
"""Turn an archive of PtychoPINN into plain files."""

from __future__ import annotations

from pathlib import Path

from jsonargparse import Namespace

from ptychopinn.cli.options import add_overwrite, new_file, print_written
from ptychopinn.cli.parser import Parser


def describe(parser: Parser) -> None:
    """Add the options of the command."""
    parser.add_argument("archive", metavar="ARCHIVE.zip", help="what PtychoPINN's PyTorch backend wrote")
    parser.add_argument("--out", required=True, metavar="FOLDER", help="folder to write to")
    parser.add_argument("--trust", action="store_true", help="the file is harmless: reading it runs the code in it")
    add_overwrite(parser)


def run(options: Namespace) -> int:
    """Write the weights and settings of a PtychoPINN archive as safetensors and JSON.

    Its settings are pickled, and reading them runs the code in the file: only with --trust.
    """
    from ptychopinn.persistence.predecessor import PLAIN, read_predecessor, write_plain

    folder = Path(options.out)
    for name in PLAIN:
        new_file(folder / name, options.overwrite)
    print_written(write_plain(read_predecessor(options.archive, options.trust), folder))
    return 0
