# SPDX-License-Identifier: BSD-3-Clause
"""Where and in how many processes the library runs: devices, processes, memory, and what the doctor finds."""
