# SPDX-License-Identifier: BSD-3-Clause
"""Which statistic of a first image tells scans with wrongly oriented positions from correct ones.

Twenty scans with known probes are reconstructed by the network in the package, in their own orientation and in five
wrong ones, which for a probe that equals its twin include one that is not wrong. Of every image: the loss relative to
photon noise, the fraction of what an empty sample leaves unexplained that is left too, and the disagreement of
overlapping groups relative to the contrast of the image. See docs/pretrained.md.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from pretrained import fit_of_result
from rows import Row, Rows, machine

from ptychopinn.inference.predict import predict
from ptychopinn.inspection.orientation import oriented
from ptychopinn.persistence.pretrained import PRETRAINED, Pretrained, load_pretrained
from ptychopinn.physics.simulate import simulate
from ptychopinn.pretraining.scans import random_scan
from ptychopinn.reconstruction import Reconstruction
from ptychopinn.scan import Scan
from ptychopinn.stitching.phases import stitch

RESULTS = Path(__file__).parent / "results" / "pretrained"
COLUMNS = {
    "scan": "", "photons": ".0e", "twin": ".2f", "orientation": "", "noise_ratio": ".2f", "unexplained": ".3f",
    "disagreement": ".3f",
}  # fmt: skip
STATISTICS = ("noise_ratio", "unexplained", "disagreement")
WRONG = ("flip_y", "flip_x", "rotate_180", "swap", "swap_flip_x")
#: Similarity of a probe and its twin from which positions turned by 180 degrees cannot be told from given ones.
_TWIN = 0.9


def scans_of(seed: int) -> Iterator[tuple[str, Scan]]:
    """Ten scans of `simulate`, at 1e5 and 1e8 photons, and ten of the families of the pretraining."""
    number = 0
    for sample in ("photos", "lines", "siemens", "dead_leaves", "lines_amplitude"):
        for photons in (1e5, 1e8):
            probe, kind = ("defocused" if number % 3 else "disk"), ("raster" if number % 2 else "spiral")
            yield f"{sample}-{probe}", simulate(sample, probe, kind, 225, 64, photons=photons, seed=seed + number)
            number += 1
    for number in range(10):
        yield f"random-{number}", random_scan(seed + 400 + number, 225, 64)


def twin_similarity(probe: NDArray[np.complex64]) -> float:
    """Correlation, 0 to 1, of the modes of a probe (M, N, N) with their conjugates turned by 180 degrees."""
    turned = np.roll(probe[:, ::-1, ::-1], 1, (1, 2)).conj()
    products = [abs(np.vdot(mode, other)) for mode, other in zip(probe, turned, strict=True)]
    return float(sum(products) / np.square(np.abs(probe)).sum())


def statistics(network: Pretrained, scan: Scan) -> Row:
    """The statistics of the first image of a scan."""
    predicted = predict(network.for_scan(scan), scan, network.config, "cpu")
    image = stitch(predicted.canvases, predicted.origins, predicted.weights)
    weights, mean = image.weights, image.image
    origin = (float(image.geometry.origin[0]), float(image.geometry.origin[1]))
    result = Reconstruction(object=mean.numpy(), weights=weights.numpy(), origin=origin, probe=scan.probe)
    fit = fit_of_result(result, scan)
    centre = (weights * mean).sum() / weights.sum()
    between = (weights * (image.square - mean.abs() ** 2).clamp_min(0)).sum()
    contrast = (weights * (mean - centre).abs() ** 2).sum()
    return {"noise_ratio": fit.ratio, "unexplained": fit.unexplained, "disagreement": float(between / contrast)}


def summary(rows: list[Row], name: str) -> str:
    """How well a threshold on a statistic would separate right and wrong."""
    known = np.array([row[name] for row in rows if row["orientation"] == "given"])
    others = [row for row in rows if row["orientation"] != "given"]
    wrong = [row[name] for row in others if row["orientation"] != "rotate_180" or row["twin"] < _TWIN]
    caught = float((np.array(wrong) > known.max()).mean())
    return (
        f"{name}: correct {np.median(known):.3g} (largest {known.max():.3g}), wrong {np.median(wrong):.3g} (smallest "
        f"{np.min(wrong):.3g}); {caught:.0%} of {len(wrong)} wrong ones are above all {len(known)} correct ones"
    )


def main(arguments: list[str] | None = None, source: Callable[[int], Iterator[tuple[str, Scan]]] = scans_of) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seed", type=int, default=100, help="of the scans (%(default)s)")
    parser.add_argument("--bundle", type=Path, default=PRETRAINED, help="the network (that of the package)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (%(default)s)")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the table")
    given = parser.parse_args(arguments)
    torch.set_num_threads(given.threads)
    logging.getLogger("ptychopinn").setLevel(logging.ERROR)
    network = load_pretrained(given.bundle)
    rows = Rows(given.out, f"fit-{given.seed}", COLUMNS, f"{machine(torch.device('cpu'))}; {network}")
    for name, scan in source(given.seed):
        photons = float((abs(scan.probe) ** 2).sum())
        label = f"{name}-{photons:.0e}"
        for orientation in ("given", *WRONG):
            turned = oriented(scan, orientation)
            facts = {"scan": label, "photons": photons, "twin": twin_similarity(scan.probe), "orientation": orientation}
            rows.add(facts | statistics(network, turned))
    for name in STATISTICS:
        print(summary(rows.rows, name))
    return 0


if __name__ == "__main__":
    sys.exit(main())
