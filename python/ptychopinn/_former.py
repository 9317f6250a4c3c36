# SPDX-License-Identifier: BSD-3-Clause
"""Former names that the documentation of 0.1 gave, of modules and of keys of metadata: they hand on with a warning."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any


def handed_on(old: str, new: str, *modules: str) -> Callable[[str], Any]:
    """The ``__getattr__`` of a module ``old`` whose names are now in ``new``, but for modules that it still has."""

    def get(name: str) -> Any:
        if name in modules:
            return importlib.import_module(f"{old}.{name}")
        module = importlib.import_module(new)
        if name.startswith("__") or not hasattr(module, name):
            raise AttributeError(f"module {old!r} has no attribute {name!r}")
        warnings.warn(f"{old}.{name} is now {new}.{name}; the old name will go", DeprecationWarning, stacklevel=2)
        return getattr(module, name)

    return get


class Metadata(dict[str, Any]):
    """Metadata of an object, of which keys that have become fields can still be read, with a warning.

    Args:
        metadata: what it holds.
        owner: the type that it belongs to.
        fields: former key -> field of the owner.
        former: the values under all former keys, made when one is asked for.
    """

    def __init__(
        self,
        metadata: Mapping[str, Any] | Iterable[tuple[str, Any]] = (),
        owner: str = "",
        fields: Mapping[str, str] | None = None,
        former: Callable[[], Mapping[str, Any]] = dict,
    ) -> None:
        super().__init__(metadata)
        self._owner, self._fields, self._former = owner, fields or {}, former

    def __missing__(self, key: str) -> Any:
        if key not in self._fields:
            raise KeyError(key)
        return self._handed_on(key)

    def get(self, key: str, default: Any = None) -> Any:
        """The value under a key, a former one too; the default if there is none."""
        if key in self or key not in self._fields or key not in self._former():
            return super().get(key, default)
        return self._handed_on(key)

    def _handed_on(self, key: str) -> Any:
        value = self._former()[key]
        sentence = f"{self._owner}.metadata[{key!r}] is now {self._owner}.{self._fields[key]}; the key will go"
        warnings.warn(sentence, DeprecationWarning, stacklevel=3)
        return value
