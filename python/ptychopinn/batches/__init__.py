# SPDX-License-Identifier: BSD-3-Clause
"""Batches of a scan: groups of overlapping patterns, the data set of groups, and the Lightning data module."""

from typing import TYPE_CHECKING

from ptychopinn._submodules import submodules

if not TYPE_CHECKING:  # which would then find every name
    __getattr__ = submodules(__name__)
