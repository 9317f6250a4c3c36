# SPDX-License-Identifier: BSD-3-Clause
"""Iterative refinement of object, probe, positions and intensities by maximum likelihood."""

from typing import TYPE_CHECKING

from ptychopinn._submodules import submodules

if not TYPE_CHECKING:  # which would then find every name
    __getattr__ = submodules(__name__)
