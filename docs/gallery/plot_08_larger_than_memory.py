# SPDX-License-Identifier: BSD-3-Clause
"""
Scans larger than memory
========================

Patterns can stay on disk: training, inspection and reconstruction read what they need. An object that does
not fit is written piece by piece.
"""

# %%
# A scan in a CXI file, opened without reading its patterns:
import tempfile
from dataclasses import replace
from pathlib import Path

import h5py
import matplotlib.pyplot as plt
import numpy as np

import ptychopinn as pp

folder = Path(tempfile.mkdtemp())
replace(pp.simulate("photos", "defocused", patterns=900, photons=1e6, seed=5), pixel_size=1e-8).save(
    folder / "scan.cxi"
)
scan = pp.Scan.load(folder / "scan.cxi", memory="stored")
print(type(scan.counts).__name__, scan.counts.shape)
scan

# %%
# The object goes to a file, block by block, by the network in the package:
height, width = pp.reconstruct_to_file(None, scan, folder / "recon.h5")
print(f"object {height} x {width} px, {(folder / 'recon.h5').stat().st_size / 1e6:.1f} MB")

# %%
# A part of it is read and shown:
with h5py.File(folder / "recon.h5") as file:
    part = file["object"][60:200, 60:200]
figure, (amplitude, phase) = plt.subplots(1, 2, figsize=(7, 3.4), layout="constrained")
amplitude.imshow(np.abs(part), cmap="magma")
amplitude.set_title("amplitude, 140 x 140 px of it")
phase.imshow(np.angle(part), cmap="viridis")
phase.set_title("phase")

# %%
# ``ptychopinn train scan.cxi --memory stored`` trains from disk, with memory for a batch only: :doc:`/memory`.
