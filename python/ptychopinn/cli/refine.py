# SPDX-License-Identifier: BSD-3-Clause
"""Refine a reconstruction against the counts."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse import Namespace

from ptychopinn.cli.options import (
    add_check,
    add_config_file,
    add_execution,
    add_orientation,
    add_out_format,
    add_overwrite,
    add_scan_options,
    add_section,
    checked,
    execution_of,
    load_scan,
    new_file,
    print_written,
    turned,
)
from ptychopinn.cli.parser import Parser
from ptychopinn.config import ExecutionConfig, RefineConfig
from ptychopinn.errors import InputError

if TYPE_CHECKING:
    import torch

    from ptychopinn.reconstruction import Reconstruction
    from ptychopinn.scan import Scan

_INCOMPLETE = 1.5  # loss over noise floor


def describe(parser: Parser) -> None:
    """Add the options of the command."""
    parser.add_argument(
        "files", metavar="[START] SCAN", nargs="+", help="what to begin with, a run or a reconstruction; the scan"
    )
    parser.add_argument("--from-scratch", action="store_true", help="begin with an even object and the scan's probe")
    parser.add_argument(
        "--with",
        dest="others",
        metavar="SCAN",
        nargs="+",
        default=[],
        help="other scans to refine together with it; their results are OUT-2.h5, OUT-3.h5, ...",
    )
    parser.add_argument(
        "--common",
        choices=("probe", "object", "both"),
        default="probe",
        help="what these have in common with it: one beam on several samples, one sample in several beams, or both",
    )
    parser.add_argument(
        "--out",
        required=True,
        metavar="OUT.h5",
        help="file to write, .h5 or .npz; the rest goes to a folder of its name",
    )
    add_config_file(parser)
    parser.add_argument("--iterations", type=int | None, help="short for --refine.iterations")
    parser.add_argument("--minutes", type=float | None, help="short for --refine.minutes")
    add_out_format(parser)
    parser.add_argument("--resume", action="store_true", help="continue the refinement that writes to --out")
    add_orientation(parser)
    add_check(parser)
    add_overwrite(parser)
    add_scan_options(parser)
    add_section(parser, "refine", RefineConfig)
    add_execution(parser)


def run(options: Namespace) -> int:
    """Refine a reconstruction against the counts: object, probe modes, and if asked for positions and intensities.

    It begins with what a network makes of the scan, with a reconstruction, or from scratch.
    """
    from ptychopinn.io.reconstructions import reconstruction_suffix
    from ptychopinn.refinement.files import numbered, refine_several_to_files
    from ptychopinn.runtime.processes import processes, shared_errors

    with processes(), shared_errors():
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
        execution, device = execution_of(options)
        run = _run_of(options)
        fitted = ("dose_spread",) if config.learn_intensities else ()
        paths = [options.files[-1], *options.others]
        outs = [new_file(path, options.overwrite or options.resume) for path in numbered(out, len(paths))]
        scans = [turned(load_scan(options, path), options, run) for path in paths]
        for scan in scans:
            reconstruction_suffix(out, options.out_format, scan)
        scans = [checked(scan, options, path, run, fitted) for scan, path in zip(scans, paths, strict=True)]
    with processes(device) as device:
        starts = [None] * len(scans) if options.from_scratch else _starts_of(options, scans, run, execution, device)
        results, written = refine_several_to_files(
            scans, options.common, starts, out, config, device, resume=options.resume, format=options.out_format
        )
    if not written:  # another process prints for all
        return 0
    for result, scan, path, file in zip(results, scans, outs, paths, strict=True):
        _print_result(result, scan, path, file)
    print_written([path for path in written if path not in outs])
    assert results[0].refinement is not None
    if results[0].refinement.interrupted:
        print(f"ptychopinn refine: interrupted; {out} has the state so far, --resume continues", file=sys.stderr)
        return 130
    return 0


def _print_result(result: Reconstruction, scan: Scan, out: Path, file: str) -> None:
    """The figures of a result, in its file ``out``."""
    from ptychopinn.diagnosis.residuals import measure_residuals

    found = result.refinement
    assert found is not None
    ratio = measure_residuals(scan, result).ratio
    print(
        f"{out}: {found.passes} passes over {scan.n} patterns in {found.seconds:.0f} s; the image explains them within "
        f"{ratio:.3g} times shot noise (deviance {found.deviance[-1]:.4g} per detector pixel)"
    )
    if ratio > _INCOMPLETE:
        print(
            "the model does not explain the patterns yet: try --refine.modes 2, or --refine.learn_positions true; "
            f"`ptychopinn diagnose {out} {file}` tries what else would"
        )
    split = found.split_half
    if split:
        print(f"split halves: FRC 0.5 at {split['crossing_0.5']:.2f} of Nyquist, mean {split['mean']:.3f}")


def _run_of(options: Namespace) -> str | None:
    """The run to begin with; none if it is a reconstruction or nothing."""
    from ptychopinn.io.reconstructions import is_start

    start = Path(options.files[0])
    return None if options.from_scratch or (start.is_file() and is_start(start)) else str(start)


def _starts_of(
    options: Namespace, scans: list[Scan], run: str | None, execution: ExecutionConfig, device: torch.device
) -> list[Reconstruction | None]:
    """What to begin with: of a run that of every scan, of a reconstruction that of the first."""
    path = Path(options.files[0])
    begun = scans if run is not None else scans[:1]
    starts: list[Reconstruction | None] = [_start_of(path, scan, execution, device) for scan in begun]
    return starts + [None] * (len(scans) - len(starts))


def _start_of(path: Path, scan: Scan, execution: ExecutionConfig, device: torch.device) -> Reconstruction:
    """The reconstruction to refine: a file's, or what a trained network makes of the scan."""
    from ptychopinn.inference.predict import reconstruct
    from ptychopinn.io.reconstructions import read_start
    from ptychopinn.persistence.bundle import load_bundle

    if (start := read_start(path, scan)) is not None:
        return start
    model, config = load_bundle(path)
    return reconstruct(model, scan, dataclasses.replace(config, execution=execution), device)
