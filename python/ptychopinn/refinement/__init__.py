# SPDX-License-Identifier: BSD-3-Clause
"""Iterative refinement of object, probe, positions and intensities by maximum likelihood."""
