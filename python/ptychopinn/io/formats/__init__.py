# SPDX-License-Identifier: BSD-3-Clause
"""The file formats of scans, a module each."""
