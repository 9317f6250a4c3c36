# SPDX-License-Identifier: BSD-3-Clause
"""
Dead and hot pixels
===================

Detectors have pixels that never count, pixels that always count, and gaps between modules. Stated or found,
they are ignored; as data they ruin the image.
"""

# %%
# Ten hot pixels and a dead column, which the file does not state:
import dataclasses

import matplotlib.pyplot as plt
import numpy as np

import ptychopinn as pp

scan = pp.simulate("photos", "defocused", patterns=400, photons=1e6, seed=5)
rng = np.random.default_rng(2)
counts = scan.counts.copy()
counts[:, :, 40] = 0
rows, columns = rng.integers(0, 64, (2, 10))
counts[:, rows, columns] += rng.poisson(800, (scan.n, 10)).astype(counts.dtype)
faulty = dataclasses.replace(scan, counts=counts)

# %%
# The inspection finds them:
found = pp.inspect(faulty, orientation=False)
for finding in found.findings:
    print(finding)

# %%
# ``check_scan`` masks them; on the command line that is ``--mask-faulty``.
masked = pp.check_scan(faulty, accept="all", mask_faulty=True)
config = pp.RefineConfig(iterations=60, split_half=False)
results = {
    "as data": pp.refine(faulty, None, config, accept="all"),
    "masked": pp.refine(masked, None, config, accept="all"),
}
for name, result in results.items():
    print(f"{name}: mean FRC {pp.evaluate(result, scan)['frc']['mean']:.3f}")

# %%
figure, panels = plt.subplots(1, 3, figsize=(9.5, 3.3), layout="constrained")
panels[0].imshow(np.log1p(counts.mean(0)), cmap="inferno")
panels[0].set_title("mean pattern (log)")
for axes, (name, result) in zip(panels[1:], results.items(), strict=True):
    axes.imshow(result.cropped().amplitude, cmap="magma", vmin=0.5, vmax=1.1)
    axes.set_title(f"faulty pixels {name}")
for axes in panels:
    axes.set_axis_off()
