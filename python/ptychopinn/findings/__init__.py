# SPDX-License-Identifier: BSD-3-Clause
"""Faults of a scan: statistics of its patterns, positions and probe, and the rules that judge them."""

from typing import TYPE_CHECKING

from ptychopinn._submodules import submodules

if not TYPE_CHECKING:  # which would then find every name
    __getattr__ = submodules(__name__)
