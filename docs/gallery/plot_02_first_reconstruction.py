# SPDX-License-Identifier: BSD-3-Clause
"""
From a scan to an image
=======================

Simulate a scan, look at it, make a first image without a training, train a network on the patterns alone, and
compare.
"""

# %%
# A scan
# ------
# :meth:`ptychopinn.Scan.load` reads one from a file; here it is simulated, so that the truth is known.
import tempfile

import ptychopinn as pp

scan = pp.simulate("photos", "defocused", patterns=400, photons=1e6, seed=5)
scan

# %%
# Is it sound?
# ------------
# The check takes some seconds; orientation and centre are tried on the data.
pp.inspect(scan)

# %%
# An image at once
# ----------------
# By the network in the package, then refined against the counts in 20 passes.
first = pp.reconstruct(None, scan)
print(f"mean FRC {pp.evaluate(first, scan)['frc']['mean']:.3f}")
first.compare(scan)

# %%
# Train on the patterns
# ---------------------
# No truth is used. Half a minute is enough to see it work; some minutes are usual on a CPU.
config = pp.Config.from_dict(
    {
        "training": {"minutes": 0.5, "start": "nothing"},
        "execution": {"progress": False, "picture_every": None, "checkpoints": False},
    }
)
with tempfile.TemporaryDirectory() as folder:
    run = pp.train(scan, folder, config)
result = pp.reconstruct(run.model, scan, run.config)
print(f"mean FRC {pp.evaluate(result, scan)['frc']['mean']:.3f}")
result.compare(scan)

# %%
# Refine
# ------
# A few passes of a quasi-Newton method on all patterns, from the network's image.
refined = pp.refine(scan, result, pp.RefineConfig(iterations=20, split_half=False))
print(f"mean FRC {pp.evaluate(refined, scan)['frc']['mean']:.3f}")
refined.compare(scan)

# %%
# Save
# ----
# ``result.save("recon.h5")`` writes object, weights, probe and origin; ``format="nexus"`` a file for silx and
# h5web.

# sphinx_gallery_thumbnail_path = "images/demo.png"
