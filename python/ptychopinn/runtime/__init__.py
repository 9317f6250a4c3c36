# SPDX-License-Identifier: BSD-3-Clause
"""Devices, processes and memory of a run, and the self-test of the installation."""

from typing import TYPE_CHECKING

from ptychopinn._submodules import submodules

if not TYPE_CHECKING:  # which would then find every name
    __getattr__ = submodules(__name__)
