# SPDX-License-Identifier: BSD-3-Clause
"""From canvases to one image: their free phases, and their mosaic in memory, on disk or over several processes."""
