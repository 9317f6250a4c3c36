# SPDX-License-Identifier: BSD-3-Clause
"""h5py, imported when it is first used: the command line lists the formats, and answers ``--help``, without it."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import h5py
else:

    class _Module:
        def __getattr__(self, name: str) -> Any:
            return getattr(importlib.import_module("h5py"), name)

    h5py = _Module()

__all__ = ["h5py"]
