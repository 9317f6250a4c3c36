# SPDX-License-Identifier: BSD-3-Clause
"""The command line: a module of this package for each subcommand.

Options of the configuration have the same names as in Python and YAML (``--training.epochs``), read by jsonargparse
with the precedence command line > ``--config`` file > default. Exit codes: 0 done, 1 a problem was found (doctor,
inspect) or the program failed, 2 the user's input is not usable (one line explains why), 130 interrupted, 141 the
reader of the output has ended (``| head``). Of several processes that torchrun has started the first one prints and
fails for all.
"""

from __future__ import annotations

import locale
import logging
import os
import sys
from collections.abc import Sequence
from contextlib import suppress

from jsonargparse import Namespace

from ptychopinn.cli.commands import COMMANDS, parser_of
from ptychopinn.cli.config_files import check_config_files, with_recipes
from ptychopinn.cli.parser import is_main_process
from ptychopinn.cli.plain import plain_output
from ptychopinn.errors import InputError, RemoteError, not_found
from ptychopinn.runtime.progress import quiet
from ptychopinn.storage.atomic import storage_error

_log = logging.getLogger(__name__)


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    if arguments is None:
        arguments = sys.argv[1:]
        # Figures become files. A notebook's kernel names a backend that need not be installed here.
        os.environ["MPLBACKEND"] = "agg"
    with plain_output():
        return _run(arguments)


def _run(arguments: Sequence[str]) -> int:
    named = arguments[0] if arguments and arguments[0] in COMMANDS else None
    parser, commands = parser_of(COMMANDS, options=False) if named is None else parser_of((named,))
    if not arguments:
        parser.print_help(sys.stderr)
        return 2
    try:
        arguments = with_recipes(arguments)
        check_config_files(arguments)
    except InputError as error:
        return _complain(str(named), str(error)) if is_main_process() else 0
    try:
        options = parser.parse_args(arguments)
        command = options[options.subcommand]
        # What the user wrote, without defaults: it overrides a bundle's configuration, defaults do not.
        command.explicit = parser.parse_args(arguments, defaults=False)[options.subcommand]
    except UnicodeDecodeError:
        ascii_only = locale.getpreferredencoding(False).lower().replace("-", "") != "utf8"
        hint = "; text with other signs than ASCII is read with PYTHONUTF8=1 in the environment" if ascii_only else ""
        parser.error(f"expected a file of options in YAML text, found a binary file{hint}")
    _log_to_standard_error(command)
    try:
        with quiet(command.quiet):
            code = commands[options.subcommand](command)
        if sys.stdout is not None:  # None where it was closed
            sys.stdout.flush()
        return code
    except BrokenPipeError:
        return _reader_ended()
    except RemoteError as error:
        return 1 if error.lost else 0
    except InputError as error:
        _log.debug("where it was found:", exc_info=error)
        return _complain(options.subcommand, str(error))
    except OSError as error:
        if error.filename is None:
            return _complain(options.subcommand, _unprinted(error))
        if isinstance(error, FileNotFoundError):
            return _complain(options.subcommand, str(not_found(error.filename)))
        return _complain(options.subcommand, f"{error.filename}: {error.strerror}")
    except KeyboardInterrupt:
        print(f"ptychopinn {options.subcommand}: interrupted", file=sys.stderr)
        return 130


def _log_to_standard_error(options: Namespace) -> None:
    """Logs of all libraries from their level INFO on, or as ``--quiet`` and ``--verbose`` have it."""
    level = logging.ERROR if not is_main_process() else logging.WARNING if options.quiet else logging.INFO
    form = "%(asctime)s %(name)s: %(message)s" if options.verbose else "%(message)s"
    logging.basicConfig(level=level, format=form)
    if options.verbose and is_main_process():
        logging.getLogger("ptychopinn").setLevel(logging.DEBUG)


def _reader_ended() -> int:
    """What reads the output has ended: nothing more is written, and the shell's code for it is returned."""
    with suppress(OSError, ValueError):  # where the output is no file
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 141


def _unprinted(error: OSError) -> str:
    """The sentence for standard output on a disk that is full, or fails; another error is raised again."""
    if storage_error(error) is None:
        raise error
    with open(os.devnull, "w") as nowhere:  # what is left in the buffer
        os.dup2(nowhere.fileno(), sys.stdout.fileno())
    return f"standard output cannot be written: {error.strerror}; the files are complete"


def _complain(subcommand: str, sentence: str) -> int:
    print(f"ptychopinn {subcommand}: {sentence}", file=sys.stderr)
    return 2
