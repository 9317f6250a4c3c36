# SPDX-License-Identifier: BSD-3-Clause
"""Training: a thin LightningModule, its data, its callbacks, and the workflow that ties them to a folder."""
