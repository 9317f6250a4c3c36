# SPDX-License-Identifier: BSD-3-Clause
"""Reports on standard output: text with colours on a terminal, or JSON for programs."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from ptychopinn.cli.options import new_file
from ptychopinn.cli.parser import Parser
from ptychopinn.runtime.progress import is_terminal

#: ``--json`` without a file.
STANDARD_OUTPUT = "-"
#: What has a colour in a report, as regular expression, and its style.
_STYLES = {
    r"(?m)^\s*PROBLEM\b": "bold red",
    r"(?m)^\s*WARNING\b": "bold yellow",
    r"(?m)^\s*NOTE\b": "bold cyan",
    r"(?m)^(nothing is wrong|no findings)$": "bold green",
}


def add_json(parser: Parser) -> None:
    """The option for a report as JSON; :func:`json_target` and :func:`print_report` use it."""
    parser.add_argument(
        "--json",
        nargs="?",
        const=STANDARD_OUTPUT,
        type=str | None,
        metavar="FILE.json",
        help="write all of it as JSON, for programs: to a file, or without one to standard output in place of the text",
    )


def json_target(json: str | None, overwrite: bool) -> Path | None:
    """The new file that ``--json`` names, or None."""
    return None if json in (None, STANDARD_OUTPUT) else new_file(str(json), overwrite)


def print_report(text: str, values: Any, json_option: str | None) -> list[Path]:
    """Print a report as text, or as JSON if ``--json`` asks for that.

    Args:
        text: the report.
        values: the same as JSON types.
        json_option: the value of ``--json``; the file that it names must be new.

    Returns:
        The file that was written, in a list, or an empty list.
    """
    from ptychopinn.findings.report import json_values
    from ptychopinn.storage.atomic import write_text

    written = json.dumps(json_values(values), indent=1, allow_nan=False) + "\n"
    if json_option == STANDARD_OUTPUT:
        sys.stdout.write(written)
        sys.stdout.flush()
        return []
    show(text)
    if json_option is None:
        return []
    write_text(Path(json_option), written)
    return [Path(json_option)]


def show(text: str) -> None:
    """Print a text; on a terminal severities have a colour, unless the environment has NO_COLOR."""
    if not is_terminal(sys.stdout) or os.environ.get("NO_COLOR"):
        print(text, flush=True)
        return
    from rich.console import Console
    from rich.text import Text

    styled = Text(text)
    for pattern, style in _STYLES.items():
        styled.highlight_regex(pattern, style)
    Console(soft_wrap=True).print(styled)
