# SPDX-License-Identifier: BSD-3-Clause
"""From canvases to one image: their free phases, and their mosaic in memory, on disk or over several processes."""

from typing import TYPE_CHECKING

from ptychopinn._submodules import submodules

if not TYPE_CHECKING:  # which would then find every name
    __getattr__ = submodules(__name__)
