# SPDX-License-Identifier: BSD-3-Clause
"""Modules that are imported when they are first named, as in ``ptychopinn.inspection.inspect_scan``.

Libraries that they import change settings of the process: SciPy, SymPy and Lightning add filters of warnings, Lightning
a format of its own for them, torch and Lightning variables of the environment, and rich draws from Python's random
numbers. Those are put back. And they make tensors while they are imported, which must not be on the default device of
the caller.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import random
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
    """Import a module; filters and format of warnings, environment and random numbers are afterwards as before."""
    if name in sys.modules:
        return importlib.import_module(name)
    filters, formatted, environment = list(warnings.filters), warnings.formatwarning, dict(os.environ)
    drawn = random.getstate()
    try:
        with _defaults_of_torch():
            return importlib.import_module(name)
    finally:
        if list(warnings.filters) != filters:
            warnings.filters[:] = filters  # type: ignore[index]
        warnings.formatwarning = formatted
        for key in os.environ.keys() - environment.keys():
            del os.environ[key]
        os.environ.update(environment)
        random.setstate(drawn)


@contextmanager
def _defaults_of_torch() -> Iterator[None]:
    """Context manager with torch's own default device and type, if it is imported already."""
    torch = sys.modules.get("torch")
    if torch is None:
        yield
        return
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        with torch.device("cpu"):
            yield
    finally:
        torch.set_default_dtype(before)
