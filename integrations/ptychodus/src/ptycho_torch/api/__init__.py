# SPDX-License-Identifier: BSD-3-Clause
"""See :mod:`ptycho_torch.api.base_api`."""
