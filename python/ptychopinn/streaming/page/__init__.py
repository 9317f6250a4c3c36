# SPDX-License-Identifier: BSD-3-Clause
"""The page that shows a live run in a browser, and its server."""

from typing import TYPE_CHECKING

from ptychopinn._submodules import submodules

if not TYPE_CHECKING:  # which would then find every name
    __getattr__ = submodules(__name__)
