# SPDX-License-Identifier: BSD-3-Clause
"""The parser of a command and its help: a short usage, titled groups, the common options first and all on request.

``--help`` shows the groups that most people need, ``--help-all`` every option. jsonargparse reads the options and
enforces their types; here its sentences become those of the library.
"""

from __future__ import annotations

import argparse
import difflib
import inspect
import os
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NoReturn

from jsonargparse import ArgumentParser, DefaultHelpFormatter

from ptychopinn.config.checks import described, kinds_of
from ptychopinn.errors import not_found

#: Placeholders of values, by type; a choice shows its words.
_METAVARS = {int: "N", float: "X", dict: "MAPPING", tuple: "LOW,HIGH"}
_ABSENT_FILE = re.compile(r"(?:File does not exist:|Unable to load config) ['\"](.+?)['\"]")
_UNKNOWN_KEY = re.compile(r"does not accept option '([\w.-]+)'")
_UNKNOWN_WORDS = re.compile(r"unrecognized arguments: (-.*)$")
_WRONG_CHOICE = re.compile(r"invalid choice: '([^']*)' \(choose from (.*)\)")
_REQUIRED = re.compile(r"the following arguments are required: (\S+)\.(\w+)$")
_WRONG_VALUE = re.compile(r"key \"([\w.]+)\": (?:Expected a|Does not validate).*(?:Got|Given) value: (.*)$")


def is_main_process() -> bool:
    """Whether this process prints: of those that torchrun has started, the first one."""
    return os.environ.get("RANK", "0") == "0"


class HelpFormatter(DefaultHelpFormatter):
    """Placeholders that show type and choices, and defaults where there are any."""

    def add_usage(
        self, usage: str | None, actions: Iterable[argparse.Action], groups: Any, prefix: str | None = None
    ) -> None:
        actions = list(actions)
        commands = any(isinstance(action, argparse._SubParsersAction) for action in actions)
        words = [self._prog, *(["COMMAND"] if commands else []), "[options]"]
        for action in () if commands else actions:
            if not action.option_strings:
                words.append(_placeholder(action))
            elif action.required:
                words += [action.option_strings[0], _placeholder(action)]
        super().add_usage(" ".join(words).replace("%", "%%"), [], groups, prefix)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        """Paragraphs apart, and lines of commands, which are indented, as they are."""
        paragraphs = inspect.cleandoc(text).split("\n\n")
        return "\n\n".join(
            part if part.startswith(" ") else str(super(HelpFormatter, self)._fill_text(part, width, indent))
            for part in paragraphs
        )

    def _get_help_string(self, action: argparse.Action) -> str:
        text, default = action.help or "", action.default
        section = "." in action.dest
        if action.required and action.option_strings:
            return f"{text} (required)"
        if (
            default == argparse.SUPPRESS
            or (default is False and not section)
            or (default in (None, []) and not section)
        ):
            return text
        if isinstance(default, bool):
            return f"{text.removesuffix('.')} (default: {str(default).lower()})"
        return f"{text.removesuffix('.')} (default: %(default)s)"

    def _format_action(self, action: argparse.Action) -> str:
        if isinstance(action, argparse._SubParsersAction):  # the commands themselves, without a line above them
            return "".join(str(super(HelpFormatter, self)._format_action(sub)) for sub in action._get_subactions())
        return str(super()._format_action(action))

    def _get_default_metavar_for_optional(self, action: argparse.Action) -> str:
        kinds = kinds_of(_hint_of(action))
        found = next((name for kind, name in _METAVARS.items() if kind in kinds), None)
        return found or action.dest.rpartition(".")[2].upper()


class Parser(ArgumentParser):
    """A parser with a short and a full help, which answers a wrong option with one line."""

    def __init__(self, **options: Any) -> None:
        super().__init__(formatter_class=HelpFormatter, allow_abbrev=False, **options)
        self._full = False
        self._rest: dict[int, str] = {}
        self._positionals.title = "arguments"
        self._actions[0].help = "show this help and exit"

    @property
    def commands(self) -> dict[str, Parser]:
        """The parsers of the commands, by name."""
        action: Any = self._subcommands_action
        found: dict[str, Parser] = action._name_parser_map
        return found

    def use_full_help(self) -> None:
        """Show all groups from now on."""
        self._full = True

    def add_group(self, title: str, description: str | None = None) -> Any:
        """A group of options that only the full help shows."""
        return self.hide(self.add_argument_group(title, description), title)

    def hide(self, group: Any, name: str) -> Any:
        """Leave a group to the full help; the short one ends with its name."""
        self._rest[id(group)] = name
        return group

    def format_help(self, formatter: argparse.HelpFormatter | None = None) -> str:
        groups = self._action_groups
        hidden = {} if self._full else self._rest
        self._action_groups = [group for group in groups if id(group) not in hidden]
        if hidden:
            self.epilog = f"More options with {self.prog} --help-all: {', '.join(hidden.values())}."
        try:
            return str(super().format_help(*([] if formatter is None else [formatter])))
        finally:
            self._action_groups, self.epilog = groups, None

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        parser = getattr(ex, "subcommand_parser", None) or self
        if not self.exit_on_error:
            super().error(message, ex)
        if not is_main_process():
            sys.exit(0)
        self.exit(2, f"{parser.prog}: {_sentence(parser, ' '.join(message.split()))}\n")


class FullHelp(argparse.Action):
    """``--help-all``: print the full help and exit."""

    def __init__(self, option_strings: Any, dest: str, **_: Any) -> None:
        super().__init__(
            option_strings, argparse.SUPPRESS, 0, default=argparse.SUPPRESS, help="show all options and exit"
        )

    def __call__(self, parser: Any, *_: Any) -> None:
        parser.use_full_help()
        parser.print_help()
        parser.exit()


def _sentence(parser: Any, message: str) -> str:
    """What is wrong with the options, in the words of the library where jsonargparse has others."""
    absent = _ABSENT_FILE.search(message)
    if absent is not None:
        path = Path(absent[1])
        if not path.exists():
            return str(not_found(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path))
    required = _REQUIRED.search(message)
    if required is not None:
        return f"expected {_name_of(parser, *required.groups())}; see {parser.prog} {required[1]} --help"
    wrong = _WRONG_VALUE.search(message)
    if wrong is not None:
        action = next((action for action in parser._actions if action.dest == wrong[1]), None)
        kinds = [] if action is None else kinds_of(_hint_of(action))
        if action is not None and kinds and not {tuple, dict} & {kind for kind in kinds if isinstance(kind, type)}:
            name = action.dest if "." in action.dest else action.option_strings[0]
            return f"{name} must be {described(kinds)}, got {wrong[2]!r}"
    return f"{message.replace('Parser key', 'option')}{_similar(parser, message)}; see {parser.prog} --help"


def _similar(parser: Parser, message: str) -> str:
    """The way out of an unknown option: the most similar one, or how to write a file's name that begins with a dash."""
    key, words, choice = (pattern.search(message) for pattern in (_UNKNOWN_KEY, _UNKNOWN_WORDS, _WRONG_CHOICE))
    if choice is not None:
        near = difflib.get_close_matches(choice[1], choice[2].replace("'", "").split(", "), 1)
        return f": did you mean {near[0]}?" if near else ""
    if key is not None:
        near = difflib.get_close_matches(key[1], [action.dest for action in parser._actions], 1, 0.8)
        newer = "files of a newer version of ptychopinn can have options that this one has not"
        return f": did you mean {near[0]}?" if near else f"; {newer}"
    if words is None:
        return ""
    first = words[1].split()[0]
    if Path(first).exists():
        return f"; write ./{first} for the file of this name"
    options = (word.partition("=")[0] for word in words[1].split() if word.startswith("-"))
    near = [m for word in options for m in difflib.get_close_matches(word, parser._option_string_actions, n=1)]
    return f": did you mean {' and '.join(near)}?" if near else ""


def _name_of(parser: Parser, command: str, argument: str) -> str:
    """How a command line has an argument of a command: the name of its option, or the placeholder."""
    commands = next((action.choices for action in parser._actions if command in (action.choices or ())), None)
    actions = getattr(commands[command], "_actions", ()) if isinstance(commands, Mapping) else ()
    found = next((action for action in actions if action.dest == argument), None)
    if found is None:
        return argument
    placeholder = str(found.metavar or argument.upper())
    return f"{found.option_strings[0]} {placeholder}" if found.option_strings else placeholder


def _hint_of(action: argparse.Action) -> Any:
    """The type of an option's value, a class or an annotation."""
    return getattr(action, "_typehint", None) or action.type or str


def _placeholder(action: argparse.Action) -> str:
    name = action.metavar if isinstance(action.metavar, str) else action.dest.upper()
    return f"{name}..." if action.nargs == "+" and " " not in name else name
