# SPDX-License-Identifier: BSD-3-Clause
"""Help by topic: short texts in the folder ``topics``, and the help of the commands."""

from __future__ import annotations

import difflib
import pydoc
import sys
from importlib.resources import files

from jsonargparse import Namespace

from ptychopinn.cli.commands import COMMANDS, parser_of
from ptychopinn.cli.parser import Parser
from ptychopinn.errors import InputError
from ptychopinn.runtime.progress import is_terminal


def describe(parser: Parser) -> None:
    """Add the options of the command."""
    parser.add_argument(
        "topic", metavar="TOPIC", nargs="?", type=str | None, help="a topic or a command; without one they are listed"
    )


def run(options: Namespace) -> int:
    """Explain a topic: units, orientation, positions, results, and others; or show the help of a command."""
    known = topics()
    if options.topic is None:
        print("Topics of ptychopinn help TOPIC:")
        for name, text in known.items():
            print(f"  {name:14} {text.splitlines()[0].removeprefix('# ')}")
        print(f"Commands: {', '.join(COMMANDS)}")
        return 0
    if options.topic in COMMANDS:
        parser_of((options.topic,))[0].commands[options.topic].print_help()
        return 0
    if options.topic not in known:
        near = difflib.get_close_matches(options.topic, [*known, *COMMANDS], 1)
        hint = f"did you mean {near[0]}?" if near else f"expected one of {', '.join([*known, *COMMANDS])}"
        raise InputError(f"no topic {options.topic!r}: {hint}")
    _page(known[options.topic])
    return 0


def topics() -> dict[str, str]:
    """The texts by their names, in Markdown; the first line is a title."""
    folder = files("ptychopinn.cli") / "topics"
    found = {entry.name.removesuffix(".md"): entry for entry in folder.iterdir() if entry.name.endswith(".md")}
    return {name: found[name].read_text(encoding="utf-8") for name in sorted(found)}


def _page(text: str) -> None:
    """Print Markdown; on a terminal as formatted text, a page at a time."""
    if not is_terminal(sys.stdout):
        print(text, end="")
        return
    from rich.console import Console
    from rich.markdown import Markdown

    console = Console()
    with console.capture() as shown:
        console.print(Markdown(text))
    lines = shown.get()
    if lines.count("\n") < console.height:
        print(lines, end="")
    else:
        pydoc.pager(lines)
