# SPDX-License-Identifier: BSD-3-Clause
"""Forward model and simulation: objects, probes, propagation, likelihoods, priors and simulated scans."""
