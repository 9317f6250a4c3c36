# SPDX-License-Identifier: BSD-3-Clause
"""Forward model and simulation: objects, probes, propagation, likelihoods, priors and simulated scans."""

from typing import TYPE_CHECKING

from ptychopinn._submodules import submodules

if not TYPE_CHECKING:  # which would then find every name
    __getattr__ = submodules(__name__)
