# SPDX-License-Identifier: BSD-3-Clause
"""Results of ptychopinn in napari, by the manifest ``napari.yaml``."""
