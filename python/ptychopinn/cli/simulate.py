# SPDX-License-Identifier: BSD-3-Clause
"""Simulate a scan."""

from __future__ import annotations

from jsonargparse import Namespace

from ptychopinn.cli.options import add_overwrite, new_file
from ptychopinn.cli.parser import Parser


def describe(parser: Parser) -> None:
    """Add the options of the command."""
    from ptychopinn.physics.objects import OBJECTS
    from ptychopinn.physics.probes import PROBES

    parser.add_argument("scan_file", metavar="SCAN.npz", help="file to write")
    parser.add_argument("--object", default="photos", choices=list(OBJECTS), help="the sample")
    parser.add_argument("--probe", default="defocused", choices=list(PROBES), help="the illumination")
    parser.add_argument("--modes", type=int, default=1, help="incoherent probe modes")
    parser.add_argument("--scan", default="raster", choices=["raster", "spiral"], help="the path of the scan")
    parser.add_argument("--patterns", type=int, default=1089, help="number of diffraction patterns")
    parser.add_argument("--size", type=int, default=64, help="detector side N in pixels")
    parser.add_argument("--step", type=float | None, help="pixels between positions; default 0.15 N")
    parser.add_argument("--photons", type=float, default=1e6, help="mean counts of a pattern behind an empty sample")
    parser.add_argument("--seed", type=int, default=0, help="of everything random")
    add_overwrite(parser)


def run(options: Namespace) -> int:
    """Simulate a scan with known truth and write it as NPZ."""
    from ptychopinn.physics.simulate import simulate

    path = new_file(options.scan_file, options.overwrite)
    names = ("object", "probe", "modes", "scan", "patterns", "size", "step", "photons", "seed")
    scan = simulate(**{name: options[name] for name in names})
    scan.save(path)
    assert scan.truth is not None
    height, width = scan.truth.shape
    print(f"{path}: {scan.n} patterns of {scan.patch_size} px, object {height} x {width} px, seed {options.seed}")
    return 0
