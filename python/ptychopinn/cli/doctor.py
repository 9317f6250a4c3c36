# SPDX-License-Identifier: BSD-3-Clause
"""What is installed, and what is wrong with it."""

from __future__ import annotations

from jsonargparse import Namespace

from ptychopinn.cli.options import add_overwrite, print_written
from ptychopinn.cli.parser import Parser
from ptychopinn.cli.reports import add_json, json_target, print_report


def describe(parser: Parser) -> None:
    """Add the options of the command."""
    add_json(parser)
    add_overwrite(parser)


def run(options: Namespace) -> int:
    """Print versions, build options, SIMD level, threads and CUDA state, and what is wrong, if anything."""
    json_target(options.json, options.overwrite)
    facts: list[tuple[str, str]] = []
    try:
        from ptychopinn.runtime.doctor import diagnose
    except ImportError as error:
        problems = [str(error)]
    else:
        facts, problems = diagnose()
    width = max((len(name) for name, _ in facts), default=0) + 2
    lines = [f"{name:{width}}{value or 'none'}" for name, value in facts]
    lines += [f"PROBLEM: {problem}" for problem in problems]
    lines.append("nothing is wrong" if not problems else f"{len(problems)} to mend")
    print_written(print_report("\n".join(lines), {"facts": dict(facts), "problems": problems}, options.json))
    return 1 if problems else 0
