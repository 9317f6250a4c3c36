# SPDX-License-Identifier: BSD-3-Clause
"""Reconstructors of ours in ptychodus' list: see docs/ptychodus.md.

ptychodus calls `ptychodus/plugins/ptychopinn.py`, which this distribution installs, and that calls :mod:`.plugin`. In
its process nothing here imports torch; the work is done in processes that it starts, by :mod:`.jobs`.
"""
