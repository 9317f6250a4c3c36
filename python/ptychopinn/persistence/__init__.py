# SPDX-License-Identifier: BSD-3-Clause
"""Trained networks as files: the bundle, Lightning's checkpoints, and the archives of earlier programs."""
