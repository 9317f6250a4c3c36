# SPDX-License-Identifier: BSD-3-Clause
"""Deferred import of h5py, so that ``--help`` and the list of formats do not wait for it."""

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
