# SPDX-License-Identifier: BSD-3-Clause
"""Apply a trained network: predict in batches, reconstruct in memory or straight to a file."""
