# SPDX-License-Identifier: BSD-3-Clause
"""
Stitch microscopy tiles
=======================

The operators alone, for readers from outside of ptychography: overlapping tiles of a large sample, at
positions that are no whole numbers, are averaged to one mosaic with weights. The stage's positions have
errors; since the operators are differentiable with respect to positions, a few steps of gradient descent find
them.
"""

# %%
# Tiles of a sample
# -----------------
# A photograph is the sample. The stage moves in steps of 48 px, its reported positions are wrong by 1 px per
# axis, and every tile of 96 px is darker at its edges (vignetting).
import matplotlib.pyplot as plt
import torch
from scipy.ndimage import gaussian_filter
from skimage.data import coins

from ptycho_ext import extract_patches, reassemble_patches

generator = torch.Generator().manual_seed(3)
sample = torch.from_numpy(coins().astype("float32") / 255)[:300, :380]
axis = torch.arange(6, dtype=torch.float64) * 48 + 10
true = torch.cartesian_prod(axis[:5], axis)
true += 4 * torch.rand(30, 2, generator=generator, dtype=torch.float64)
reported = true + torch.randn(30, 2, generator=generator, dtype=torch.float64)

edge = torch.linspace(-1, 1, 96)
vignette = torch.exp(-0.25 * (edge[:, None] ** 2 + edge**2))
noise = 0.02 * torch.randn(30, 96, 96, generator=generator)
tiles = extract_patches(sample, true, 96) * vignette + noise

# %%
# The mosaic
# ----------
# Tiles are divided by the vignette and weighted by its square, which is the best average where noise is equal
# everywhere.
flat = tiles / vignette
mosaic, weight = reassemble_patches(flat, reported, sample.shape, vignette**2)

# %%
# Find the positions
# ------------------
# With the right positions tiles agree where they overlap. The disagreement of the tiles with the mosaic is
# differentiable with respect to the positions, through both operators.
smooth = torch.from_numpy(gaussian_filter(flat.numpy(), 1.0, axes=(1, 2)))  # noise has no say
positions = reported.clone().requires_grad_()
optimiser = torch.optim.Adam([positions], lr=0.1)
for _ in range(200):
    optimiser.zero_grad()
    estimate, _ = reassemble_patches(smooth, positions, sample.shape, vignette**2)
    loss = (vignette**2 * (extract_patches(estimate, positions, 96) - smooth) ** 2).mean()
    loss.backward()
    optimiser.step()
found = positions.detach()


def error(these: torch.Tensor) -> float:
    """Rms error without a common shift, which no overlap determines."""
    difference = these - true
    return float((difference - difference.mean(0)).square().sum(1).mean().sqrt())


print(f"position error: {error(reported):.2f} px reported, {error(found):.2f} px found")
better, _ = reassemble_patches(flat, found, sample.shape, vignette**2)

# %%
# Edges are sharp again:
part = (slice(90, 230), slice(110, 250))
figure, panels = plt.subplots(1, 3, figsize=(9, 3.3), layout="constrained")
for axes, title, picture in zip(
    panels, ("sample", "reported positions", "found positions"), (sample, mosaic, better), strict=True
):
    axes.imshow(picture[part], cmap="gray", vmin=0, vmax=1)
    axes.set_title(title)
    axes.set_axis_off()

# %%
# The same bits come out for any number of threads, and on a GPU with ``tiles.cuda()``.
