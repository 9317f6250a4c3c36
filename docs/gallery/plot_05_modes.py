# SPDX-License-Identifier: BSD-3-Clause
"""
Partial coherence: several probe modes
======================================

A source of finite size, or a vibrating stage, makes the intensities of several probes add. One mode explains
such patterns badly; three do.
"""

# %%
# A scan with three modes, of which only the first is stated:
import dataclasses

import matplotlib.pyplot as plt
import numpy as np

import ptychopinn as pp

scan = pp.simulate("photos", "defocused", modes=3, patterns=400, photons=1e6, seed=5)
power = np.square(np.abs(scan.probe)).sum((1, 2))
print("power of the modes:", (power / power.sum()).round(2))
single = scan.probe[:1] * np.float32(np.sqrt(power.sum() / power[0]))
stated = dataclasses.replace(scan, probe=single)

# %%
# One mode, and three:
results = {}
for modes in (1, 3):
    results[modes] = pp.refine(stated, None, pp.RefineConfig(iterations=80, modes=modes, split_half=False))
    print(f"{modes} mode(s): mean FRC {pp.evaluate(results[modes], scan)['frc']['mean']:.3f}")

# %%
figure, grid = plt.subplots(2, 3, figsize=(9, 6), layout="constrained")
for axes, (modes, result) in zip(grid[0], results.items(), strict=False):
    axes.imshow(result.cropped().amplitude, cmap="magma", vmin=0.5, vmax=1.1)
    axes.set_title(f"amplitude with {modes} mode{'s' if modes > 1 else ''}")
grid[0, 2].imshow(np.abs(scan.truth), cmap="magma", vmin=0.5, vmax=1.1)
grid[0, 2].set_title("truth")
for axes, probe in zip(grid[1], results[3].probe, strict=True):
    axes.imshow(np.abs(probe), cmap="magma")
    axes.set_title("a mode of the probe")
for axes in grid.ravel():
    axes.set_axis_off()
