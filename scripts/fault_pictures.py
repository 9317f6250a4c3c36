# SPDX-License-Identifier: BSD-3-Clause
"""Draw what each fault does to an image, for docs/tutorials/poor-result.md; some minutes.

One simulated scan gets one fault at a time, is reconstructed by a refinement from a uniform object without its check,
and is drawn: amplitude and phase. The sound one comes first.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

import ptychopinn as pp
from ptychopinn.inspection.orientation import oriented
from ptychopinn.physics.probes import defocused
from ptychopinn.plotting.images import AMPLITUDE_MAP, PHASE_MAP, percentiles
from ptychopinn.plotting.inline import encoded
from ptychopinn.plotting.style import new_figure
from ptychopinn.scan import Scan
from ptychopinn.storage.atomic import write_bytes

PICTURES = Path(__file__).parents[1] / "docs" / "images" / "faults"


def _sound(scan: Scan) -> Scan:
    return scan


def _orientation(scan: Scan) -> Scan:
    return oriented(scan, "flip_x")


def _scale(scan: Scan) -> Scan:
    return replace(scan, positions=1.12 * scan.positions)


def _positions(scan: Scan) -> Scan:
    errors = np.random.default_rng(1).normal(size=scan.positions.shape)
    return replace(scan, positions=scan.positions + 2.5 * errors)


def _drift(scan: Scan) -> Scan:
    time = np.linspace(-1, 1, scan.n)
    return replace(scan, positions=scan.positions + np.stack([8 * time**2, 6 * np.sin(3 * time)], 1))


def _centre(scan: Scan) -> Scan:
    return replace(scan, counts=np.roll(scan.counts, (5, -4), (1, 2)))


def _probe(scan: Scan) -> Scan:
    wrong = defocused(scan.patch_size, diameter=0.3)
    power = np.linalg.norm(scan.probe) / np.linalg.norm(wrong)
    return replace(scan, probe=(power * wrong).astype(np.complex64))


def _photons(scan: Scan) -> Scan:
    kept = np.random.default_rng(1).binomial(scan.counts, 1e-3)
    return replace(scan, counts=kept.astype(np.uint16), probe=scan.probe * np.float32(np.sqrt(1e-3)))


def _background(scan: Scan) -> Scan:
    added = np.random.default_rng(1).poisson(60, scan.counts.shape)
    return replace(scan, counts=(scan.counts + added).astype(np.uint16))


def _pixels(scan: Scan) -> Scan:
    counts = scan.counts.copy()
    counts[:, :, 36:41] = 0
    rows, columns = np.random.default_rng(1).integers(0, scan.patch_size, (2, 12))
    counts[:, rows, columns] = 4000
    return replace(scan, counts=counts)


def _overlap(scan: Scan) -> Scan:
    side = round(np.sqrt(scan.n))
    chosen = np.arange(scan.n).reshape(side, side)[::4, ::4].ravel()
    return scan.subset(chosen)


#: Name of the picture -> what makes the fault, and whether its probe is kept.
FAULTS: dict[str, tuple[Callable[[Scan], Scan], bool]] = {
    "sound": (_sound, False),
    "orientation": (_orientation, False),
    "position_scale": (_scale, False),
    "position_errors": (_positions, False),
    "drift": (_drift, False),
    "centre": (_centre, True),
    "probe": (_probe, True),
    "photons": (_photons, False),
    "background": (_background, True),
    "pixels": (_pixels, True),
    "overlap": (_overlap, False),
}


def main() -> None:
    """Draw all pictures."""
    logging.getLogger("ptychopinn").setLevel(logging.ERROR)
    scan = pp.simulate("photos", "defocused", patterns=400, photons=1e6, step=7.0, seed=5)
    for name, (corrupt, kept) in FAULTS.items():
        config = pp.RefineConfig(iterations=60, learn_probe=not kept, find_defocus=False, split_half=False)
        result = pp.refine(corrupt(scan), None, config, accept="all").cropped(0.3)
        figure = new_figure(5.0, 2.6)
        amplitude, phase = figure.subplots(1, 2)
        levelled = np.angle(result.object * np.exp(-1j * np.angle(result.object.mean())))
        for axes, image, colours in ((amplitude, result.amplitude, AMPLITUDE_MAP), (phase, levelled, PHASE_MAP)):
            low, high = percentiles(image)
            axes.imshow(image, cmap=colours, vmin=low, vmax=high, interpolation="nearest")
            axes.set_axis_off()
        amplitude.set_title("amplitude")
        phase.set_title("phase")
        write_bytes(PICTURES / f"{name}.png", encoded(figure, "png", 80), durable=False)


if __name__ == "__main__":
    main()
