# SPDX-License-Identifier: BSD-3-Clause
"""A small scan to begin with."""

from __future__ import annotations

from pathlib import Path

from jsonargparse import Namespace

from ptychopinn.cli.options import add_overwrite, new_file
from ptychopinn.cli.parser import Parser


def describe(parser: Parser) -> None:
    """Add the options of the command."""
    parser.add_argument(
        "folder",
        metavar="FOLDER",
        nargs="?",
        type=str | None,
        help="folder for the scan, and for what the commands write (default: example)",
    )
    add_overwrite(parser)


def run(options: Namespace) -> int:
    """Write a small simulated scan, and print the commands that make an image of it."""
    import dataclasses

    from ptychopinn.physics.simulate import simulate

    folder = Path(options.folder or "example")
    path = new_file(folder / "scan.npz", options.overwrite)
    scan = dataclasses.replace(
        simulate("photos", "defocused", patterns=400, photons=1e6, seed=1),
        pixel_size=1e-8,
        energy=8000.0,
        name="example",
    )
    scan.save(path)
    run, result = folder / "run", folder / "recon.h5"
    print(
        f"{path}: {scan.n} patterns of {scan.patch_size} px, simulated\n\n"
        f"What is in it, and an image at once:\n"
        f"ptychopinn inspect {path}\n"
        f"ptychopinn reconstruct {path} --out {folder / 'first.h5'}\n\n"
        f"A network for this beam, its image with 20 passes of refinement, and how good it is:\n"
        f"ptychopinn train {path} --out {run} --minutes 1\n"
        f"ptychopinn reconstruct {run} {path} --out {result} --refine 20\n"
        f"ptychopinn evaluate {result} {path}"
    )
    return 0
