# SPDX-License-Identifier: BSD-3-Clause
"""Files of scans and reconstructions: every convention of a file is converted here, and nowhere else."""
