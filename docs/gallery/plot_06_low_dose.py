# SPDX-License-Identifier: BSD-3-Clause
"""
Few photons
===========

With few photons per pattern the image is limited by their statistics. A weak prior, the total variation of
the object, keeps the noise of the counts out of the image; at high dose the data outweigh it.
"""

# %%
# The same sample with 1e6, 1e5 and 1e4 photons per pattern: the last has 2.4 counts per pixel on average.
import matplotlib.pyplot as plt

import ptychopinn as pp

scans = {
    photons: pp.simulate("photos", "defocused", patterns=400, photons=photons, seed=5) for photons in (1e6, 1e5, 1e4)
}

# %%
# Refined from the network in the package, without and with the prior:
results = {}
for photons, scan in scans.items():
    start = pp.reconstruct(None, scan, refine=0)
    for weight in (0.0, 0.3):
        config = pp.RefineConfig(iterations=40, total_variation=weight, split_half=False)
        result = pp.refine(scan, start, config)
        frc = pp.evaluate(result, scan)["frc"]["mean"]
        results[photons, weight] = result, frc
        print(f"{photons:.0e} photons, total variation {weight}: mean FRC {frc:.3f}")

# %%
figure, grid = plt.subplots(2, 3, figsize=(9, 6.3), layout="constrained")
for column, photons in enumerate(scans):
    for row, weight in enumerate((0.0, 0.3)):
        result, frc = results[photons, weight]
        grid[row, column].imshow(result.cropped().amplitude, cmap="magma", vmin=0.5, vmax=1.1)
        grid[row, column].set_title(f"{photons:.0e} photons, prior {weight}\nFRC {frc:.2f}")
        grid[row, column].set_axis_off()
