# SPDX-License-Identifier: BSD-3-Clause
"""The rules of a section, worded alike: a value of another type, one out of range, an unknown name."""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import fields
from functools import cache
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from ptychopinn.errors import InputError

_NAMES = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    dict: "a mapping",
    tuple: "a list",
    type(None): "none",
}


def require(ok: bool, name: str, rule: str, value: object) -> None:
    """Raise an InputError that names the field unless its value is right."""
    if not ok:
        raise InputError(f"{name} must {rule}, got {value!r}")


def known(where: str, values: Any, names: Any) -> None:
    """Raise an InputError unless `values` is a mapping with no other names than these."""
    if not isinstance(values, Mapping):
        raise InputError(f"{where} must be a mapping of names to values, got {values!r}")
    unknown = sorted(set(values) - set(names))
    if unknown:
        raise InputError(f"{where} has no {', '.join(map(repr, unknown))}; known are {', '.join(sorted(names))}")


def check_fields(section: Any, name: str) -> None:
    """Raise an InputError for the first field of a section, a dataclass, whose value cannot be.

    It must be of the annotated type, and one of those that the section's ``CHOICES`` allow, if they speak of it.
    """
    hints = _hints(type(section))
    for entry in fields(section):
        value = getattr(section, entry.name)
        kinds = _kinds(hints[entry.name])
        if not any(_is(value, kind) for kind in kinds):
            wanted = " or ".join(_NAMES[kind] if isinstance(kind, type) else repr(kind) for kind in kinds)
            raise InputError(f"{name}.{entry.name} must be {wanted}, got {value!r}")
    for field, choices in getattr(section, "CHOICES", {}).items():
        value = getattr(section, field)
        rule = f"be {', '.join(choices[:-1])} or {choices[-1]}"
        require(value in choices, f"{name}.{field}", rule, value)


@cache
def _hints(section: type) -> dict[str, Any]:
    return get_type_hints(section)


def _kinds(hint: Any) -> list[Any]:
    """Plain types, and literal values as they are."""
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        return [kind for part in get_args(hint) for kind in _kinds(part)]
    return list(get_args(hint)) if origin is Literal else [origin or hint]


def _is(value: Any, kind: Any) -> bool:
    if not isinstance(kind, type):
        return bool(value == kind)
    if kind is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if kind is tuple:
        return isinstance(value, (list, tuple))
    return isinstance(value, kind)
