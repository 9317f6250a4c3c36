# SPDX-License-Identifier: BSD-3-Clause
"""The directive ``command-help``: the full help of every command of ptychopinn, as the installed version prints it."""

from __future__ import annotations

from typing import Any

from docutils import nodes
from docutils.parsers.rst import Directive

from ptychopinn.cli.commands import COMMANDS, full_parser


class CommandHelp(Directive):
    """A section for each command, with its full help."""

    def run(self) -> list[nodes.Node]:
        """Make the sections."""
        parser = full_parser()
        sections: list[nodes.Node] = []
        for name in COMMANDS:
            command = parser.commands[name]
            command.use_full_help()
            section = nodes.section(ids=[f"command-{name}"])
            section += nodes.title(text=name)
            text = command.format_help()
            section += nodes.literal_block(text, text, language="text")
            sections.append(section)
        return sections


def setup(app: Any) -> dict[str, Any]:
    """Register with Sphinx."""
    app.add_directive("command-help", CommandHelp)
    return {"parallel_read_safe": True}
