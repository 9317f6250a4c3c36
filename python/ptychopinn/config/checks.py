# SPDX-License-Identifier: BSD-3-Clause
"""Checks of sections for types, ranges and unknown names, with uniform errors.

What a field takes is its annotation: plain types, and ``Literal`` for a choice, which jsonargparse reads as well.
"""

from __future__ import annotations

import types
from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from ptychopinn.errors import InputError

_NAMES = {
    int: "a whole number",
    float: "a number",
    str: "text",
    dict: "a mapping",
    tuple: "a list",
    type(None): "none",
}


def require(ok: bool, name: str, rule: str, value: object) -> None:
    """Raise an InputError that names the field unless the rule holds."""
    if not ok:
        raise InputError(f"{name} must {rule}, got {value!r}")


def require_known(where: str, values: Any, names: Iterable[str]) -> None:
    """Raise an InputError unless `values` is a mapping with no other names than these."""
    if not isinstance(values, Mapping):
        raise InputError(f"{where} must be a mapping of names to values, got {values!r}")
    unknown = sorted(set(values) - set(names))
    if unknown:
        raise InputError(f"{where} has no {', '.join(map(repr, unknown))}; known are {', '.join(sorted(names))}")


def check_fields(section: Any, name: str) -> None:
    """Raise an InputError for the first field of a section, a dataclass, whose value is not of the annotated type."""
    hints = hints_of(type(section))
    for entry in fields(section):
        value = getattr(section, entry.name)
        kinds = kinds_of(hints[entry.name])
        if not any(_is(value, kind) for kind in kinds):
            require(False, f"{name}.{entry.name}", f"be {described(kinds, quoted=value in map(_number, kinds))}", value)


def hints_of(section: type) -> dict[str, Any]:
    """Field -> its annotation, as a type."""
    return get_type_hints(section)


def kinds_of(hint: Any) -> list[Any]:
    """What an annotation allows: plain types, and the values of a ``Literal`` as they are."""
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        return [kind for part in get_args(hint) for kind in kinds_of(part)]
    return list(get_args(hint)) if origin is Literal else [origin or hint]


def described(kinds: list[Any], quoted: bool = False) -> str:
    """In words, what :func:`kinds_of` found; with quotation marks around texts, where it must be seen that they are.

    Example:
        >>> described(kinds_of(int | None)), described(kinds_of(Literal["near", "far", "auto"]))
        ('a whole number or none', 'near, far or auto')
    """
    words: list[str] = []
    for kind in kinds:
        if kind is bool:
            words += ["true", "false"]
        elif isinstance(kind, type):
            words.append(_NAMES.get(kind, kind.__name__))
        else:
            words.append(repr(kind) if quoted else str(kind))
    return " or ".join(filter(None, (", ".join(words[:-1]), words[-1])))


def _is(value: Any, kind: Any) -> bool:
    if not isinstance(kind, type):
        return type(value) is type(kind) and bool(value == kind)
    if kind is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if kind is tuple:
        return isinstance(value, (list, tuple))
    return isinstance(value, kind)


def _number(kind: Any) -> int | None:
    """The number that a text of a choice looks like, as YAML reads it without quotation marks."""
    return int(kind) if isinstance(kind, str) and kind.isdigit() else None
