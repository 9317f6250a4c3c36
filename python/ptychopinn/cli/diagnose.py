# SPDX-License-Identifier: BSD-3-Clause
"""Why a result is poor, and what to do."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse import Namespace

from ptychopinn.cli.options import (
    add_check,
    add_execution,
    add_orientation,
    add_overwrite,
    add_scan_options,
    execution_of,
    load_scan,
    new_file,
    print_written,
    turned,
)
from ptychopinn.cli.parser import Parser
from ptychopinn.cli.recorded import recorded_scan
from ptychopinn.cli.reports import STANDARD_OUTPUT, add_json, json_target, print_report
from ptychopinn.errors import InputError

if TYPE_CHECKING:
    from ptychopinn.scan import Scan


def describe(parser: Parser) -> None:
    """Add the options of the command."""
    parser.add_argument("result", metavar="RUN", help="folder of a training, the bundle in it, or a reconstruction")
    parser.add_argument(
        "scan_file",
        metavar="SCAN",
        nargs="?",
        type=str | None,
        help="the scan (default: the one that the run was trained on, with the options of that training)",
    )
    parser.add_argument(
        "--out",
        type=str | None,
        metavar="FILE.png",
        help="picture (default: diagnosis.png in the folder of the run)",
    )
    add_json(parser)
    add_orientation(parser)
    add_check(parser, problems=False)
    add_overwrite(parser)
    add_scan_options(parser)
    add_execution(parser)


def run(options: Namespace) -> int:
    """Find why a result is poor, and what to do: residuals against photon noise, and trials of possible causes.

    It ends with the most likely cause. Exit code 0 whatever the cause is.
    """
    from ptychopinn.io.reconstructions import is_reconstruction
    from ptychopinn.storage.atomic import make_folder

    result = Path(options.result)
    is_file = result.is_file() and is_reconstruction(result)
    folder = result.with_suffix("") if is_file else result if result.is_dir() else result.parent
    own = options.out is None
    picture = new_file(folder / "diagnosis.png" if own else options.out, options.overwrite or own)
    if picture.suffix.lower() != ".png":
        raise InputError(f"--out: expected a file ending in .png, found {picture}")
    json_target(options.json, options.overwrite)
    execution, device = execution_of(options)
    scan = _scan_of(options, folder, None if is_file else result)
    # After what can be wrong with the files, since it takes a while to import.
    from ptychopinn.diagnosis.picture import plot_diagnosis
    from ptychopinn.diagnosis.workflow import diagnose
    from ptychopinn.plotting.style import drawn

    found = diagnose(result, scan, device=device, execution=execution)
    written = print_report(str(found), found.to_dict(), options.json)
    make_folder(picture.parent)
    written += drawn(plot_diagnosis, found, picture)
    if options.json != STANDARD_OUTPUT:
        print_written(written)
    return 0


def _scan_of(options: Namespace, folder: Path, run: Path | None) -> Scan:
    """The scan that the options name, or the one that the run records, after its check."""
    from ptychopinn.findings.gate import ALL, check_scan
    from ptychopinn.inspection.orientation import oriented
    from ptychopinn.scan import Scan

    others: Any = options
    if options.scan_file is not None:
        path, scan = options.scan_file, turned(load_scan(options), options, run)
    else:
        path, stated, others = recorded_scan(folder)
        scan = oriented(Scan.load(path, **stated), others["orientation"] or "given")
    flags = {name: others[name] for name in ("drop_outliers", "mask_faulty")}
    return check_scan(scan, ALL, **flags, file=path)
