# SPDX-License-Identifier: BSD-3-Clause
"""
A wrong initial probe
=====================

The probe of a beamline is known approximately: its defocus may be off, its aperture of another size. Kept
fixed it ruins the image; refined with the object it does not matter.
"""

# %%
# A scan whose stated probe has another defocus than the one that made the patterns.
import dataclasses

import matplotlib.pyplot as plt
import numpy as np

import ptychopinn as pp
from ptychopinn.physics.probes import defocused

scan = pp.simulate("photos", "defocused", patterns=400, photons=1e6, seed=5)
wrong = defocused(scan.patch_size, diameter=0.33)
wrong = (wrong * np.linalg.norm(scan.probe) / np.linalg.norm(wrong)).astype(np.complex64)
stated = dataclasses.replace(scan, probe=wrong)

# %%
# With the probe fixed, and refined:
results = {}
for name, learn in (("probe fixed", False), ("probe refined", True)):
    config = pp.RefineConfig(iterations=80, learn_probe=learn, find_defocus=learn, split_half=False)
    results[name] = pp.refine(stated, None, config)
    print(f"{name}: mean FRC {pp.evaluate(results[name], scan)['frc']['mean']:.3f}")

# %%
# The phase of the object, and the probe:
figure, grid = plt.subplots(2, 3, figsize=(9, 6), layout="constrained")
for axes, (name, result) in zip(grid[0], results.items(), strict=False):
    axes.imshow(result.amplitude, cmap="magma", vmin=0.5, vmax=1.1)
    axes.set_title(f"amplitude, {name}")
grid[0, 2].imshow(np.abs(scan.truth), cmap="magma", vmin=0.5, vmax=1.1)
grid[0, 2].set_title("amplitude, truth")
probes = {"stated": wrong[0], "refined": results["probe refined"].probe[0], "true": scan.probe[0]}
for axes, (name, probe) in zip(grid[1], probes.items(), strict=True):
    axes.imshow(np.abs(probe), cmap="magma")
    axes.set_title(f"probe, {name}")
for axes in grid.ravel():
    axes.set_axis_off()

# %%
# On the command line: ``ptychopinn train`` refines the probe by default, ``ptychopinn refine`` too, and
# ``ptychopinn diagnose`` names the probe as the cause where it was kept.
