# SPDX-License-Identifier: BSD-3-Clause
"""
A thick sample, slice by slice
==============================

Behind a few depths of field the beam has changed: one thin object does not explain the patterns, two slices do.
"""

# %%
# Two pictures, 25 depths of field of a pixel apart:
import dataclasses

import matplotlib.pyplot as plt

import ptychopinn as pp
from ptychopinn.experiment import Experiment
from ptychopinn.physics.simulate import make_slices

pixel_size, energy = 20e-9, 8e3
distance = 25 * pixel_size**2 / 1.55e-10
slices = make_slices(("photos", "dead_leaves"), (180, 180), seed=1)
scan = pp.simulate(
    slices, "defocused", size=32, patterns=289, step=5, photons=1e6, seed=5,
    experiment=Experiment(slice_distances=(distance,)), pixel_size=pixel_size, energy=energy,
)  # fmt: skip

# %%
# One slice, as if the sample were thin, and two:
config = pp.RefineConfig(iterations=60, split_half=False)
thin = pp.refine(dataclasses.replace(scan, experiment=Experiment()), None, config, accept="all")
thick = pp.refine(scan, None, config)
for name, result in (("one slice", thin), ("two slices", thick)):
    print(f"{name}: {result.refinement.deviance[-1]:.2f} of deviance per pixel")

# %%
images = thick.cropped().slices
figure, grid = plt.subplots(1, 3, figsize=(10, 3.6), layout="constrained")
grid[0].imshow(thin.cropped().phase, cmap="magma")
grid[0].set_title("phase, one slice")
for number, axes in enumerate(grid[1:]):
    axes.imshow(images[number].imag / abs(images[number]), cmap="magma")
    axes.set_title(f"slice {number + 1} of 2")
for axes in grid:
    axes.set_axis_off()
