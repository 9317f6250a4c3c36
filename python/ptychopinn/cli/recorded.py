# SPDX-License-Identifier: BSD-3-Clause
"""The scans of a training, with what was stated about them, in a file of its folder.

Commands that name the run alone read it.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from jsonargparse import Namespace

from ptychopinn.cli.options import scan_options
from ptychopinn.errors import InputError
from ptychopinn.io.array_files import split_path
from ptychopinn.storage.atomic import write_text

#: Name of the file in the folder of a run.
SCANS_NAME = "scans.json"
#: Statements about a scan that are paths.
_PATHS = ("probe", "bad_pixels", "positions", "partner")
_OTHERS = ("orientation", "drop_outliers", "mask_faulty")


def record_scans(folder: Path, options: Namespace) -> None:
    """Write the scan files of a training and the options about them."""
    stated = scan_options(options)
    stated |= {name: os.path.abspath(stated[name]) for name in _PATHS if stated[name] is not None}
    stated |= {name: _absolute(stated[name]) for name in ("gain", "offset")}
    experiment = stated["experiment"] or {}
    stated["experiment"] = {name: _absolute(value) for name, value in experiment.items()} or None
    files = [os.path.abspath(path) for path in options.scan_files]
    record = {"files": files, "read": stated, **{name: options[name] for name in _OTHERS}}
    write_text(folder / SCANS_NAME, json.dumps(record, indent=1) + "\n")


def _absolute(stated: Any) -> Any:
    """A file, or a path in one, with its folder; all else as it is."""
    file = split_path(stated)[0] if isinstance(stated, str) else None
    if file is None or not file.is_file():
        return stated
    return os.path.abspath(file) + stated.removeprefix(str(file))


def recorded_scan(folder: Path) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """The scan file of a training, the arguments of ``Scan.load`` for it, and the other options about it.

    Raises:
        InputError: the run does not record its scan, has several, or the file was moved.
    """
    path = folder / SCANS_NAME
    try:
        record = json.loads(path.read_text())
        files, stated = record["files"], record["read"]
        others = {name: record[name] for name in _OTHERS}
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(f"{folder}: does not record the scan that it was trained on: name it, RUN SCAN") from None
    if len(files) != 1:
        raise InputError(f"{folder}: was trained on {len(files)} scans: name one, RUN SCAN")
    if not Path(files[0]).exists():
        raise InputError(f"{files[0]}: the scan of {folder} is no longer there: name it, RUN SCAN")
    pairs = {name: tuple(value) if isinstance(value, list) else value for name, value in stated.items()}
    return files[0], pairs, others
