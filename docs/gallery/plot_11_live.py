# SPDX-License-Identifier: BSD-3-Clause
"""
The image while the scan runs
=============================

A recorded scan is played into a file, as a detector would write it, and reconstructed meanwhile. A board takes the
pictures that a page would show; here a few are kept.
"""

# %%
import tempfile
import threading
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import ptychopinn as pp
from ptychopinn.streaming.page.board import Board
from ptychopinn.streaming.replay import Faults, open_sender, replay
from ptychopinn.streaming.workflow import live

scan = pp.simulate("photos", "defocused", patterns=400, photons=1e6, seed=5)
folder = Path(tempfile.mkdtemp())


def measure() -> None:
    """A detector with faults: 60 frames a second, some late, some twice, some lost."""
    sender = open_sender(folder / "incoming.h5")
    replay(scan, sender, 60, Faults.parse("reorder,repeat,drop=0.02"), seed=1)
    sender.close()


# %%
# The board is given every new picture. Refinement continues while no frames wait.
class Keeping(Board):
    """Keeps every picture, on the canvas of all of the scan."""

    def __init__(self, shape: tuple[int, int]) -> None:
        super().__init__("scan")
        self.shape, self.kept = shape, list[np.ndarray]()

    def set_picture(
        self, image: np.ndarray, covered: np.ndarray, origin: tuple[float, float], pixel_size: float | None
    ) -> None:
        """Called with the image so far, the pixels that it covers, and the place of its first pixel."""
        canvas = np.full(self.shape, np.nan, np.complex64)
        rows, columns = np.nonzero(covered)
        canvas[rows + int(origin[0]), columns + int(origin[1])] = image[covered]
        self.kept.append(canvas)


assert scan.truth is not None
board = Keeping(scan.truth.shape)
detector = threading.Thread(target=measure)
detector.start()
result = live(folder / "incoming.h5", out=folder / "live.h5", like=scan, board=board)
detector.join()
status = result.metadata["live"]
print(f"{status['received']} frames, {status['lost_count']} lost, {status['repeated']} repeated")

# %%
# Pictures on the way, and last the result of all frames, which is that of ``reconstruct`` for the same frames.
chosen = np.linspace(0, len(board.kept) - 1, 5).round().astype(int)
figure, panels = plt.subplots(1, 5, figsize=(11, 2.4), layout="constrained")
for axes, place in zip(panels, chosen, strict=True):
    picture = board.kept[place]
    mean = np.nanmean(picture)
    axes.imshow(np.angle(picture * np.conj(mean)), cmap="viridis", vmin=-1, vmax=1)
    axes.set_title(f"{np.isfinite(picture).mean():.0%} of the canvas")
    axes.set_axis_off()
