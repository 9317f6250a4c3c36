# SPDX-License-Identifier: BSD-3-Clause
"""Batches of a scan: groups of overlapping patterns, the data set of groups, and the Lightning data module."""
