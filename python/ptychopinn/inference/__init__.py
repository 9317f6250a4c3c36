# SPDX-License-Identifier: BSD-3-Clause
"""Apply a trained network: predict in batches, reconstruct in memory or straight to a file."""

from typing import TYPE_CHECKING

from ptychopinn._submodules import submodules

if not TYPE_CHECKING:  # which would then find every name
    __getattr__ = submodules(__name__)
