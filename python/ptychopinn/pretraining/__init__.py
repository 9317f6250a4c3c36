# SPDX-License-Identifier: BSD-3-Clause
"""Training of the network in the package: random scans with known objects, and the training on them."""

from typing import TYPE_CHECKING

from ptychopinn._submodules import submodules

if not TYPE_CHECKING:  # which would then find every name
    __getattr__ = submodules(__name__)
