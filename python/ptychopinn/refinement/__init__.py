# SPDX-License-Identifier: BSD-3-Clause
"""Refinement of object, probe, positions and intensities against the counts."""
