# SPDX-License-Identifier: BSD-3-Clause
"""Former name of ``ptychopinn_ptychodus``, which is installed by a distribution of its own: docs/ptychodus.md."""

raise ImportError(
    "ptychopinn.compat.ptychodus is now ptychopinn_ptychodus, in a distribution of its own: "
    "pip install ./integrations/ptychodus"
)
