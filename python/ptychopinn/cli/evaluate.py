# SPDX-License-Identifier: BSD-3-Clause
"""Measure a reconstruction against a truth."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jsonargparse import Namespace

from ptychopinn.cli.options import add_overwrite, add_scan_options, load_scan, new_file, print_written
from ptychopinn.cli.parser import Parser
from ptychopinn.cli.reports import STANDARD_OUTPUT, add_json, json_target, print_report

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
    add_json(parser)
    add_overwrite(parser)
    add_scan_options(parser)


def run(options: Namespace) -> int:
    """Measure a reconstruction against the truth of its scan."""
    from ptychopinn.metrics.evaluate import align_to_scan, evaluate, write_metrics
    from ptychopinn.plotting.reconstructions import plot_reconstruction
    from ptychopinn.plotting.style import drawn
    from ptychopinn.reconstruction import Reconstruction

    out = None if options.out is None else new_file(options.out, options.overwrite)
    json_target(options.json, options.overwrite)
    result, scan = Reconstruction.load(options.reconstruction), load_scan(options)
    aligned = align_to_scan(result, scan)
    metrics = evaluate(result, scan, aligned=aligned)
    written = [] if out is None else [write_metrics(metrics, out)]
    written += print_report(scores_text(metrics), metrics, options.json)
    folder = Path(options.reconstruction).with_suffix("")
    written += drawn(plot_reconstruction, result, folder, aligned=aligned)
    if options.json != STANDARD_OUTPUT:
        print_written(written)
    return 0


def scores_text(metrics: dict[str, Any]) -> str:
    """The scores as a table; "-" for what is undefined, with the reason below."""
    amplitude, phase, frc = metrics["amplitude"], metrics["phase"], metrics["frc"]
    lines = [
        f"{'':22}{'amplitude':>10}{'phase':>10}",
        *(f"{label:22}{_figure(amplitude[key])}{_figure(phase[key])}" for key, label in _SCORES.items()),
        f"{'mean FRC':22}{_figure(frc['mean'])}",
        f"{'FRC 0.5 at Nyquist x':22}{_figure(frc['crossing_0.5'])}",
    ]
    constant = [part for part in ("amplitude", "phase") if metrics["truth"][f"constant_{part}"]]
    if constant:
        lines.append(f"-: undefined (constant {' and '.join(constant)} of the truth)")
    return "\n".join(lines)


def _figure(value: float | None) -> str:
    return f"{'-':>10}" if value is None else f"{value:10.3f}"
