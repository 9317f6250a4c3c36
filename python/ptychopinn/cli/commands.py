# SPDX-License-Identifier: BSD-3-Clause
"""The commands, and the parser of some or all of them; each is a module of this package."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module, metadata

from jsonargparse import Namespace

from ptychopinn.cli.parser import FullHelp, Parser

#: In the order of a scientist's day; a module of this package each.
COMMANDS = (
    "example",
    "simulate",
    "inspect",
    "convert",
    "mend",
    "subset",
    "train",
    "reconstruct",
    "live",
    "refine",
    "evaluate",
    "diagnose",
    "plot",
    "replay",
    "unpack",
    "doctor",
    "completion",
    "help",
)


def full_parser() -> Parser:
    """The parser of all commands with all their options."""
    return parser_of(COMMANDS)[0]


def parser_of(names: Sequence[str], options: bool = True) -> tuple[Parser, dict[str, Callable[[Namespace], int]]]:
    """The parser of these commands, and what runs each; without their options where only their names are shown."""
    parser = Parser(
        prog="ptychopinn",
        description="Physics-informed ptychographic reconstruction.",
        epilog="ptychopinn COMMAND --help shows the options of a command.",
        version=metadata.version("ptychopinn"),
    )
    (version,) = (action for action in parser._actions if "--version" in action.option_strings)
    version.help = "show the version and exit"
    subcommands = parser.add_subcommands(required=True, dest="subcommand", title="commands", description=None)
    commands: dict[str, Callable[[Namespace], int]] = {}
    for name in names:
        command = import_module(f"ptychopinn.cli.{name}")
        text = command.run.__doc__ or ""
        sub = Parser(description=text)
        sub.add_argument("--help-all", action=FullHelp)
        if options:
            command.describe(sub)
        group = sub.add_argument_group("messages")
        group.add_argument("-q", "--quiet", action="store_true", help="warnings and errors only; reports remain")
        group.add_argument(
            "-v", "--verbose", action="store_true", help="each step with its time, and where an error is"
        )
        subcommands.add_subcommand(name, sub, help=next(iter(text.splitlines()), None))
        sub.prog = f"ptychopinn {name}"
        commands[name] = command.run
    return parser, commands
