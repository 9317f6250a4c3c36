# SPDX-License-Identifier: BSD-3-Clause
"""Check of the files that ``--config`` names, before their options are read.

The parser of YAML takes the last of two equal keys without a word, and has its own sentences for files of another kind;
here such a file is an error with its name, the line and the correction.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import yaml

from ptychopinn.config.root import recipe_file
from ptychopinn.errors import InputError


def with_recipes(arguments: Sequence[str]) -> list[str]:
    """A command line in which every ``--recipe NAME`` is ``--config FILE``, in its place.

    Raises:
        InputError: there is no such recipe.
    """
    words = iter(arguments)
    written: list[str] = []
    for word in words:
        name = word.removeprefix("--recipe=") if word.startswith("--recipe=") else None
        if word == "--recipe":
            name = next(words, None)
            if name is None:
                return list(arguments)  # the parser has a sentence for it
        written += [word] if name is None else ["--config", str(recipe_file(name))]
    return written


def check_config_files(arguments: Sequence[str]) -> None:
    """Check the files of ``--config`` on a command line; text in place of a file, and a missing file, are left alone.

    Args:
        arguments: the words of the command line.

    Raises:
        InputError: a file is a folder, not UTF-8, not YAML, has a key twice, or does not map names to values.
    """
    for path in _named(arguments):
        if path.is_dir():
            inside = path / "config.yaml"
            found = f"found a folder; did you mean {inside}?" if inside.is_file() else "found a folder"
            raise InputError(f"{path}: expected a YAML file of options, {found}; --print_config prints one")
        if path.is_file():
            _check(path)


def _named(arguments: Sequence[str]) -> Iterator[Path]:
    for word, following in zip(arguments, [*arguments[1:], ""], strict=True):
        value = following if word == "--config" else word.removeprefix("--config=") if "=" in word else ""
        if value and value != word and len(value) < 4096 and "\n" not in value:
            yield Path(value)


def _check(path: Path) -> None:
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}: expected a YAML file of options in UTF-8, found other bytes ({error.reason} at byte "
            f"{error.start}); save it as UTF-8"
        ) from None
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise InputError(f"{path}: {_in_words(error, text)}") from None
    if node is None:
        raise InputError(
            f"{path}: expected options such as 'training:', found an empty file; --print_config prints such a file"
        )
    if not isinstance(node, yaml.MappingNode):
        kind = "a list" if isinstance(node, yaml.SequenceNode) else "text"
        raise InputError(
            f"{path}: expected options such as 'training:', found {kind}; --print_config prints such a file"
        )
    _check_keys(path, node)


def _check_keys(path: Path, node: yaml.Node) -> None:
    if not isinstance(node, yaml.MappingNode):
        return
    lines: dict[str, int] = {}
    for key, value in node.value:
        line = key.start_mark.line + 1
        if key.value in lines and isinstance(key, yaml.ScalarNode):
            raise InputError(
                f"{path}: line {line}: expected each key once, found {key.value!r} again (first in line "
                f"{lines[key.value]}); put the options of both under one"
            )
        if isinstance(key, yaml.ScalarNode):
            lines[key.value] = line
        _check_keys(path, value)


def _in_words(error: yaml.YAMLError, text: str) -> str:
    mark = getattr(error, "problem_mark", None)
    if mark is None:
        return f"expected a YAML file of options, found another ({' '.join(str(error).split())})"
    line = text.splitlines()[mark.line] if mark.line < len(text.splitlines()) else ""
    if "\t" in line[: mark.column + 1]:
        return f"line {mark.line + 1}: expected spaces before an option, found a tab, which YAML does not permit"
    problem = getattr(error, "problem", None) or "another"
    return f"line {mark.line + 1}: expected YAML, found {line.strip()[:60]!r} ({problem})"
