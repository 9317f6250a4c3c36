# SPDX-License-Identifier: BSD-3-Clause
"""
Wrong positions
===============

Motors report positions with errors. Where patterns overlap enough the data determine the positions, and a
refinement finds them together with object and probe.
"""

# %%
# Reported positions with random errors of 1.5 px per axis:
import dataclasses

import matplotlib.pyplot as plt
import numpy as np

import ptychopinn as pp

scan = pp.simulate("photos", "defocused", patterns=300, photons=1e6, seed=5)
rng = np.random.default_rng(1)
reported = dataclasses.replace(scan, positions=scan.positions + 1.5 * rng.normal(size=(scan.n, 2)))

# %%
# Refined with the positions as they are, and with learned positions:
kept = pp.refine(reported, None, pp.RefineConfig(iterations=60, split_half=False))
learned = pp.refine(reported, None, pp.RefineConfig(iterations=150, learn_positions=True, split_half=False))


def error(positions: np.ndarray) -> float:
    """Rms distance from the true positions, without a common shift."""
    difference = positions - scan.positions
    return float(np.sqrt(((difference - difference.mean(0)) ** 2).sum(1).mean()))


print(f"positions: {error(reported.positions):.2f} px reported, {error(learned.positions):.2f} px learned")
for name, result in (("kept", kept), ("learned", learned)):
    print(f"{name}: mean FRC {pp.evaluate(result, scan)['frc']['mean']:.3f}")

# %%
figure, panels = plt.subplots(1, 3, figsize=(9.5, 3.3), layout="constrained")
for axes, title, result in ((panels[0], "positions kept", kept), (panels[1], "positions learned", learned)):
    axes.imshow(result.cropped().amplitude, cmap="magma", vmin=0.5, vmax=1.1)
    axes.set_title(title)
    axes.set_axis_off()
for name, positions, colour in (("reported", reported.positions, "0.6"), ("learned", learned.positions, "C3")):
    difference = positions - scan.positions
    panels[2].plot(*(difference - difference.mean(0)).T[::-1], ".", color=colour, label=name)
panels[2].set(title="position errors (px)", aspect="equal", xlim=(-5, 5), ylim=(-5, 5))
panels[2].legend()

# %%
# On the command line: ``ptychopinn refine run scan.npz --out refined.h5 --refine.learn_positions true``.
