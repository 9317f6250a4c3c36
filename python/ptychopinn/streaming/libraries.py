# SPDX-License-Identifier: BSD-3-Clause
"""Libraries that a source, a sender or the page needs, and that need not be installed."""

from __future__ import annotations

import importlib
from typing import Any

from ptychopinn.errors import InputError


def library(module: str, package: str, extra: str, where: str) -> Any:
    """Import an optional library.

    Args:
        module: to import.
        package: that has it, by its name on PyPI.
        extra: of this package that brings it.
        where: what needs it, for the error.

    Raises:
        InputError: it is missing.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise InputError(
            f"{where}: expected the library {package}, found none; pip install 'ptychopinn[{extra}]'"
        ) from error
