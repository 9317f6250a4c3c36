# SPDX-License-Identifier: BSD-3-Clause
"""Refine a reconstruction against the counts."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from ptychopinn.cli.options import (
    DEVICE,
    add_orientation,
    add_out_format,
    add_overwrite,
    add_scan_options,
    load_scan,
    new_file,
    say_written,
    turned,
)
from ptychopinn.config import RefineConfig
from ptychopinn.errors import InputError

_INCOMPLETE = 1.5  # deviance per detector pixel; noise alone makes about 1


def describe(parser: ArgumentParser) -> None:
    parser.add_argument(
        "files", metavar="[START] SCAN", nargs="+", help="what to begin with, a run or a reconstruction; the scan"
    )
    parser.add_argument("--from-scratch", action="store_true", help="begin with an even object and the scan's probe")
    parser.add_argument(
        "--out", required=True, help="file to write, .h5 or .npz; the rest goes to a folder of its name"
    )
    parser.add_argument("--config", action="config", help="YAML file of the options below")
    parser.add_argument("--iterations", type=int | None, default=None, help="short for --refine.iterations")
    parser.add_argument("--minutes", type=float | None, default=None, help="short for --refine.minutes")
    add_scan_options(parser)
    add_out_format(parser)
    parser.add_argument("--resume", action="store_true", help="go on with the refinement that writes to --out")
    parser.add_argument("--device", default="auto", help=DEVICE)
    add_orientation(parser)
    add_overwrite(parser)
    parser.add_class_arguments(RefineConfig, "refine")


def run(options: Namespace) -> int:
    """Refine a reconstruction against the counts: object, probe modes, and if asked for positions and intensities.

    It begins with what a network makes of the scan, with a reconstruction, or from scratch.
    """
    from ptychopinn.io.reconstructions import reconstruction_suffix
    from ptychopinn.refinement.files import refine_to_files
    from ptychopinn.runtime.devices import resolve_device
    from ptychopinn.runtime.processes import processes, together

    with processes(), together():
        out = new_file(options.out, options.overwrite or options.resume)
        reconstruction_suffix(out, options.out_format)
        if len(options.files) != 2 - options.from_scratch:
            raise InputError(
                "expected what to begin with (a run or a reconstruction) and the scan, or --from-scratch and the scan, "
                f"found {' '.join(options.files)}{' with --from-scratch' if options.from_scratch else ''}"
            )
        settings = options.refine.as_dict()
        for name in ("iterations", "minutes"):
            if options[name] is not None:
                settings[name] = options[name]
        config = RefineConfig(**settings)
        device = resolve_device(options.device)
        scan = turned(load_scan(options, options.files[-1]), options, _run_of(options))
        reconstruction_suffix(out, options.out_format, scan)
    with processes(device) as device:
        start = None if options.from_scratch else _start_of(Path(options.files[0]), scan, device)
        result, written = refine_to_files(
            scan, start, out, config, device, resume=options.resume, format=options.out_format
        )
    if not written:  # another process speaks for all
        return 0
    found = result.refinement
    assert found is not None
    print(
        f"{out}: {found.passes} passes over {scan.n} patterns in {found.seconds:.0f} s, deviance "
        f"{found.deviance[-1]:.4g} per detector pixel"
    )
    if found.deviance[-1] > _INCOMPLETE:
        print("the model does not explain the patterns yet: try --refine.modes 2, or --refine.learn_positions true")
    halves = found.split_half
    if halves:
        print(f"split halves: FRC 0.5 at {halves['crossing_0.5']:.2f} of Nyquist, mean {halves['mean']:.3f}")
    say_written(written[1:])
    if found.interrupted:
        print(f"ptychopinn refine: interrupted; {out} holds what was reached, --resume goes on", file=sys.stderr)
        return 130
    return 0


def _run_of(options: Namespace) -> str | None:
    """The run to begin with; none if it is a reconstruction or nothing."""
    from ptychopinn.io.reconstructions import is_reconstruction

    start = Path(options.files[0])
    return None if options.from_scratch or (start.is_file() and is_reconstruction(start)) else str(start)


def _start_of(path: Path, scan: Any, device: Any) -> Any:
    """The reconstruction to refine: a file's, or what a trained network makes of the scan."""
    from ptychopinn.inference.predict import reconstruct
    from ptychopinn.io.reconstructions import is_reconstruction
    from ptychopinn.persistence.bundle import load_bundle
    from ptychopinn.reconstruction import Reconstruction

    if path.is_file() and is_reconstruction(path):
        return Reconstruction.load(path)
    model, config = load_bundle(path)
    return reconstruct(model, scan, config, device)
