# SPDX-License-Identifier: BSD-3-Clause
"""Modules that are imported when they are first named, as in ``ptychopinn.inspection.inspect_scan``.

Libraries that they import change settings of the process: SciPy, SymPy and Lightning add filters of warnings, Lightning
a format of its own for them, torch and Lightning variables of the environment. Those are put back.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import warnings
from collections.abc import Callable
from types import ModuleType
from typing import Any


def submodules(package: str) -> Callable[[str], Any]:
    """The ``__getattr__`` of a package that imports its modules by name.

    Args:
        package: its full name.
    """

    def get(name: str) -> Any:
        if name.startswith("_") or importlib.util.find_spec(f"{package}.{name}") is None:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return imported(f"{package}.{name}")

    return get


def imported(name: str) -> ModuleType:
    """Import a module; filters and format of warnings, and the environment, are afterwards as before."""
    if name in sys.modules:
        return importlib.import_module(name)
    filters, formatted, environment = list(warnings.filters), warnings.formatwarning, dict(os.environ)
    try:
        return importlib.import_module(name)
    finally:
        if list(warnings.filters) != filters:
            warnings.filters[:] = filters  # type: ignore[index]
        warnings.formatwarning = formatted
        for key in os.environ.keys() - environment.keys():
            del os.environ[key]
        os.environ.update(environment)
