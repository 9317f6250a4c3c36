# SPDX-License-Identifier: BSD-3-Clause
"""Diagnosis of a result: why it is poor, and what to do."""

from typing import TYPE_CHECKING

from ptychopinn._submodules import submodules

if not TYPE_CHECKING:  # which would then find every name
    __getattr__ = submodules(__name__)
