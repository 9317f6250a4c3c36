# SPDX-License-Identifier: BSD-3-Clause
"""Arrays on disk: patterns that stay in their file, blocks of patterns, and atomic writes."""

from typing import TYPE_CHECKING

from ptychopinn._submodules import submodules

if not TYPE_CHECKING:  # which would then find every name
    __getattr__ = submodules(__name__)
