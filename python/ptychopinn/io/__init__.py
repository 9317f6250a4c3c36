# SPDX-License-Identifier: BSD-3-Clause
"""Files of scans and reconstructions: every convention of a file is converted here, and nowhere else."""

from typing import TYPE_CHECKING

from ptychopinn._submodules import submodules

if not TYPE_CHECKING:  # which would then find every name
    __getattr__ = submodules(__name__)
