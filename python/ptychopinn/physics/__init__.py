# SPDX-License-Identifier: BSD-3-Clause
"""What light does between the sample and the detector: objects, probes, propagation, noise and simulated scans."""
