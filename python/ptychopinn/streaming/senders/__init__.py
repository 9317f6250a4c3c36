# SPDX-License-Identifier: BSD-3-Clause
"""Senders of frames: a recorded scan that is played to a live run, to practise with and to test."""

from typing import TYPE_CHECKING

from ptychopinn._submodules import submodules

if not TYPE_CHECKING:  # which would then find every name
    __getattr__ = submodules(__name__)
