# SPDX-License-Identifier: BSD-3-Clause
"""The names that ptychodus looks for, as adapters over ptychopinn: see docs/ptychodus.md.

ptychodus 1.7.0 offers its algorithms ``ptychopinn-torch_unsupervised`` and ``ptychopinn-torch_supervised`` where a
package of this name can be imported. Everything here is for that caller; other code imports ptychopinn.
"""
