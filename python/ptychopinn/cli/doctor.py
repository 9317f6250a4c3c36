# SPDX-License-Identifier: BSD-3-Clause
"""What is installed, and what is wrong with it."""

from __future__ import annotations

from jsonargparse import Namespace

from ptychopinn.cli.parser import Parser


def describe(parser: Parser) -> None:
    """Add the options of the command."""


def run(options: Namespace) -> int:
    """Print versions, build options, SIMD level, threads and CUDA state, and what is wrong, if anything."""
    try:
        from ptychopinn.runtime.doctor import diagnose
    except ImportError as error:
        print(f"PROBLEM: {error}")
        return 1
    facts, problems = diagnose()
    for name, value in facts:
        print(f"{name:22}{value}")
    for problem in problems:
        print(f"PROBLEM: {problem}")
    print("nothing is wrong" if not problems else f"{len(problems)} to mend")
    return 1 if problems else 0
