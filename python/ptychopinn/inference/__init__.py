# SPDX-License-Identifier: BSD-3-Clause
"""Applying a trained model: prediction in batches, stitching onto one canvas, and the bundle on disk."""
