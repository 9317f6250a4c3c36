# SPDX-License-Identifier: BSD-3-Clause
"""The command line: a module for each subcommand, with ``describe(parser)`` and ``run(options)``, thin over Python."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ptychopinn._submodules import submodules


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    from ptychopinn.cli.app import run

    return run(arguments)


if not TYPE_CHECKING:  # which would then find every name
    __getattr__ = submodules(__name__)
