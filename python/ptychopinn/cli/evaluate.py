# SPDX-License-Identifier: BSD-3-Clause
"""Measure a reconstruction against a truth."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jsonargparse import Namespace

from ptychopinn.cli.options import add_overwrite, add_scan_options, load_scan, new_file, print_written
from ptychopinn.cli.parser import Parser

_SCORES = {
    "pearson": "Pearson",
    "pearson_high_pass": "Pearson, high-passed",
    "rmse": "rms error",
    "psnr_db": "PSNR (dB)",
    "ssim": "SSIM",
}


def describe(parser: Parser) -> None:
    """Add the options of the command."""
    parser.add_argument("reconstruction", metavar="RECON.h5", help="the reconstruction")
    parser.add_argument("scan_file", metavar="SCAN", help="its scan, with a truth")
    parser.add_argument("--out", type=str | None, metavar="FILE.json", help="JSON file for all figures")
    add_overwrite(parser)
    add_scan_options(parser)


def run(options: Namespace) -> int:
    """Measure a reconstruction against the truth of its scan."""
    from ptychopinn.metrics.evaluate import align_to_scan, evaluate, write_metrics
    from ptychopinn.plotting.reconstructions import plot_reconstruction
    from ptychopinn.plotting.style import drawn
    from ptychopinn.reconstruction import Reconstruction

    out = None if options.out is None else new_file(options.out, options.overwrite)
    result, scan = Reconstruction.load(options.reconstruction), load_scan(options)
    aligned = align_to_scan(result, scan)
    metrics = evaluate(result, scan, aligned=aligned)
    written = [] if out is None else [write_metrics(metrics, out)]
    print_scores(metrics)
    print_written(written)
    folder = Path(options.reconstruction).with_suffix("")
    print_written(drawn(plot_reconstruction, result, folder, aligned=aligned))
    return 0


def print_scores(metrics: dict[str, Any]) -> None:
    """The scores as a table; "-" for what is undefined, with the reason below."""
    amplitude, phase, frc = metrics["amplitude"], metrics["phase"], metrics["frc"]
    print(f"{'':22}{'amplitude':>10}{'phase':>10}")
    for key, label in _SCORES.items():
        print(f"{label:22}{_figure(amplitude[key])}{_figure(phase[key])}")
    print(f"{'mean FRC':22}{_figure(frc['mean'])}")
    print(f"{'FRC 0.5 at Nyquist x':22}{_figure(frc['crossing_0.5'])}")
    constant = [part for part in ("amplitude", "phase") if metrics["truth"][f"constant_{part}"]]
    if constant:
        print(f"-: undefined (constant {' and '.join(constant)} of the truth)")


def _figure(value: float | None) -> str:
    return f"{'-':>10}" if value is None else f"{value:10.3f}"
