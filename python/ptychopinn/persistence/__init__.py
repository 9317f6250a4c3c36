# SPDX-License-Identifier: BSD-3-Clause
"""Trained networks as files: bundles, Lightning checkpoints, and archives of PtychoPINN."""
