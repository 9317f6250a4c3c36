# SPDX-License-Identifier: BSD-3-Clause
"""Reconstruction while a scan runs: sources of frames, their pairing with positions, the image as it grows."""

from typing import TYPE_CHECKING

from ptychopinn._submodules import submodules

if not TYPE_CHECKING:  # which would then find every name
    __getattr__ = submodules(__name__)
