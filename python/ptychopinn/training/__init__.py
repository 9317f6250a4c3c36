# SPDX-License-Identifier: BSD-3-Clause
"""Training: a thin LightningModule, its data, its callbacks, and the workflow that ties them to a folder."""

from typing import TYPE_CHECKING

from ptychopinn._submodules import submodules

if not TYPE_CHECKING:  # which would then find every name
    __getattr__ = submodules(__name__)
