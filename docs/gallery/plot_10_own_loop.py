# SPDX-License-Identifier: BSD-3-Clause
"""
Ptychography in forty lines
===========================

The operators in a loop of one's own: an object and a probe as tensors, Adam, and the likelihood of the
counts. Useful for a model that the library does not have.
"""

# %%
import matplotlib.pyplot as plt
import numpy as np
import torch

import ptychopinn as pp
from ptycho_ext import CanvasGeometry, ScanPlan, correct_fields, exit_waves

scan = pp.simulate("photos", "defocused", patterns=400, photons=1e6, seed=5)
geometry = CanvasGeometry.from_positions(torch.from_numpy(scan.positions), patch_size=scan.patch_size)
positions = geometry.to_canvas(torch.from_numpy(scan.positions))
plan = ScanPlan(positions, scan.patch_size, geometry.shape)
counts = torch.fft.ifftshift(torch.from_numpy(scan.counts.astype(np.int32)), dim=(-2, -1))

# %%
# Unknowns: the object, and the probe from its stated value. ``correct_fields`` returns the Poisson loss of every
# pattern.
canvas = torch.full(geometry.shape, 0.8, dtype=torch.complex64, requires_grad=True)
probe = torch.from_numpy(scan.probe.copy()).requires_grad_()
scale = float(probe.detach().abs().max())
optimiser = torch.optim.Adam([{"params": [canvas], "lr": 0.02}, {"params": [probe], "lr": 0.001 * scale}])
losses = []
for _ in range(120):
    optimiser.zero_grad()
    fields = torch.fft.fft2(exit_waves(canvas, positions, probe, plan=plan), norm="ortho")
    _, values, _ = correct_fields(fields, counts, background=0.1, correct=False)
    loss = values.sum() / counts.numel()
    loss.backward()
    optimiser.step()
    losses.append(float(loss.detach()))

# %%
figure, (curve, amplitude, phase) = plt.subplots(1, 3, figsize=(10, 3.2), layout="constrained")
curve.semilogy(losses)
curve.axhline(0.5, color="0.6", linestyle="--")
curve.set(xlabel="step", ylabel="loss per pixel (nats)")
inside = (slice(20, -20), slice(20, -20))
amplitude.imshow(canvas.detach().abs()[inside], cmap="magma", vmin=0.5, vmax=1.1)
phase.imshow(canvas.detach().angle()[inside], cmap="viridis")
for axes, title in ((amplitude, "amplitude"), (phase, "phase")):
    axes.set_title(title)
    axes.set_axis_off()
