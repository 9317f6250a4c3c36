# SPDX-License-Identifier: BSD-3-Clause
"""Sources of frames: where a running scan is received from."""

from typing import TYPE_CHECKING

from ptychopinn._submodules import submodules

if not TYPE_CHECKING:  # which would then find every name
    __getattr__ = submodules(__name__)
