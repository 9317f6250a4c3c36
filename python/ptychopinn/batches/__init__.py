# SPDX-License-Identifier: BSD-3-Clause
"""From a Scan to batches: which patterns form a group, the groups as a data set, and Lightning's batches of them."""
