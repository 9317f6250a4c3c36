# SPDX-License-Identifier: BSD-3-Clause
"""Devices, processes and memory of a run, and the self-test of the installation."""
