# SPDX-License-Identifier: BSD-3-Clause
"""The ``repr`` of the library's records: one short line, in which arrays are their type and shape."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import Any

#: Characters of the line, of a text in it, and members of a collection that are shown, at most.
_LONGEST, _TEXT, _MEMBERS = 280, 60, 4


def one_line(self: Any) -> str:
    """Represent a dataclass by its fields that differ from their defaults, for ``__repr__ = one_line`` in its body.

    Example:
        >>> from dataclasses import dataclass
        >>> @dataclass
        ... class Record:
        ...     counts: tuple[int, ...]
        ...     name: str = "scan"
        ...     __repr__ = one_line
        >>> Record(tuple(range(1000)))
        Record(counts=<1000 values>)
    """
    shown = [
        f"{field.name}={_described(getattr(self, field.name, None))}"
        for field in fields(self)
        if field.repr and not _is_default(field, getattr(self, field.name, None))
    ]
    line = f"{type(self).__name__}({', '.join(shown)})"
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST - 4]}...)"


def _is_default(field: Field[Any], value: Any) -> bool:
    default = field.default if field.default_factory is MISSING else field.default_factory()
    if default is MISSING or hasattr(value, "shape") or isinstance(value, float) != isinstance(default, float):
        return False
    return default is value or (isinstance(value, type(default)) and bool(default == value))


def _described(value: Any) -> str:
    if value is None or isinstance(value, bool | int):
        return repr(value)
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, str):
        return repr(value if len(value) <= _TEXT else f"{value[: _TEXT - 3]}...")
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        shape = tuple(int(side) for side in value.shape)
        return f"<{str(value.dtype).removeprefix('torch.')} {shape}>" if shape else str(value)
    if isinstance(value, slice):
        return f"{value.start}:{value.stop}"
    if isinstance(value, Mapping):
        members = [f"{_described(key)}: {_described(member)}" for key, member in list(value.items())[:_MEMBERS]]
        return _collected("{", members, "}", len(value))
    if isinstance(value, list | tuple | set | frozenset):
        return _collected("(", [_described(member) for member in list(value)[:_MEMBERS]], ")", len(value))
    if is_dataclass(value) and not isinstance(value, type):
        line = repr(value)
        return line if len(line) <= 2 * _TEXT and "\n" not in line else f"{type(value).__name__}(...)"
    if type(value).__module__.startswith("pathlib"):
        return _described(str(value))
    return f"<{type(value).__name__}>"


def _collected(left: str, members: Collection[str], right: str, count: int) -> str:
    text = f"{left}{', '.join(members)}{right}"
    return text if count <= _MEMBERS and len(text) <= _TEXT else f"<{count} values>"
