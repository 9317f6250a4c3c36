# SPDX-License-Identifier: BSD-3-Clause
"""Former names of modules that the documentation of 0.1 gave: they hand on what is asked of them, with a warning."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable
from typing import Any


def handed_on(old: str, new: str) -> Callable[[str], Any]:
    """The ``__getattr__`` of a module ``old`` whose names are now in ``new``."""

    def get(name: str) -> Any:
        module = importlib.import_module(new)
        if name.startswith("__") or not hasattr(module, name):
            raise AttributeError(f"module {old!r} has no attribute {name!r}")
        warnings.warn(f"{old}.{name} is now {new}.{name}; the old name will go", DeprecationWarning, stacklevel=2)
        return getattr(module, name)

    return get
