# SPDX-License-Identifier: BSD-3-Clause
"""Completion of commands and options in a shell."""

from __future__ import annotations

import re

from jsonargparse import Namespace

from ptychopinn.cli.commands import full_parser
from ptychopinn.cli.parser import Parser

_SHELLS = ("bash", "zsh", "tcsh")
#: Placeholders of files and folders.
_FILES = re.compile(r"FILE|SCAN|RUN|OUT|RECON|FOLDER|ARCHIVE|\bIN\b")


def describe(parser: Parser) -> None:
    """Add the options of the command."""
    parser.add_argument("shell", metavar="|".join(_SHELLS), choices=list(_SHELLS), help="the shell")


def run(options: Namespace) -> int:
    """Print a script that completes commands and options in a shell.

    For bash, in ~/.local/share/bash-completion/completions:

      ptychopinn completion bash > ptychopinn

    For zsh, in ~/.zfunc, with fpath+=~/.zfunc before compinit in ~/.zshrc:

      ptychopinn completion zsh > _ptychopinn
    """
    import shtab

    parser = full_parser()
    for command in parser.commands.values():
        for action in command._actions:
            if _FILES.search(str(action.metavar or "")):
                action.complete = shtab.FILE  # type: ignore[attr-defined]  # which shtab reads
    print(shtab.complete(parser, options.shell))
    return 0
