# SPDX-License-Identifier: BSD-3-Clause
"""Faults of a scan: statistics of its patterns, positions and probe, and the rules that judge them."""
