# SPDX-License-Identifier: BSD-3-Clause
"""Arrays on disk: patterns that stay in their file, blocks of patterns, and atomic writes."""
