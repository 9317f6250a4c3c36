# SPDX-License-Identifier: BSD-3-Clause
"""Where a training left its best checkpoint."""

from ptychopinn.persistence.checkpoint import best_checkpoint as find_best_checkpoint

__all__ = ["find_best_checkpoint"]
