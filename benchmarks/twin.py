# SPDX-License-Identifier: BSD-3-Clause
"""What bounds single patterns with a flat probe: a patch and its twin have the same pattern.

The twin of a patch is its complex conjugate, turned by 180 degrees about the centre of the probe. Where the probe is
its own twin, as a disk with a flat wavefront is, no function of one pattern can tell both apart: the best it can do
without other knowledge, in the mean square, is their mean. Columns: how much the patterns of patches and twins differ,
and what the image of these means scores, the average of all patches with the illumination as the weight, as in a
reconstruction.
Rows are in results/quality/twin.csv (and .md).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from quality_scores import similarities
from rows import Rows, machine
from scans import lines_scan
from torch import Tensor

from ptycho_ext import extract_patches, reassemble_patches
from ptychopinn.metrics.align import Aligned

RESULTS = Path(__file__).parent / "results" / "quality"
COLUMNS = {
    "sample": "", "probe": "", "seed": "", "pattern_difference": ".1e", "amplitude_ssim": ".3f", "phase_ssim": ".3f",
}  # fmt: skip


def twin(patches: Tensor) -> Tensor:
    """Twins (n, N, N) of patches, about sample N//2."""
    return torch.roll(patches.flip(-1, -2), (1, 1), (-2, -1)).conj()


def row(sample: str, probe: str, seed: int, patterns: int) -> dict[str, str | int | float]:
    """The figures of a sample and a probe."""
    scan = lines_scan(probe, seed, patterns, sample=sample)
    assert scan.truth is not None
    field, truth = torch.from_numpy(scan.probe[0]), torch.from_numpy(scan.truth)
    positions = torch.from_numpy(scan.positions)[None]
    patches = extract_patches(truth[None], positions, scan.probe.shape[-2:])[0]
    twins = twin(patches)
    given, other = (torch.fft.fft2(field * image).abs() for image in (patches, twins))
    weights = (field.abs() ** 2).expand(1, *patches.shape).contiguous()
    image, illumination = reassemble_patches((0.5 * (patches + twins))[None], positions, truth.shape, weights=weights)
    bright = (illumination[0] > 0.1 * illumination.max()).nonzero()
    (top, left), (bottom, right) = bright.amin(0).tolist(), bright.amax(0).tolist()
    region = (slice(top, bottom + 1), slice(left, right + 1))
    aligned = Aligned(image[0][region].numpy(), truth[region].numpy(), (0.0, 0.0), (0.0, 0.0), 1 + 0j, region, True)
    scores = similarities(aligned)
    return {
        "sample": sample, "probe": probe, "seed": seed,
        "pattern_difference": (((given - other) ** 2).sum() / (given**2).sum()).item(),
        "amplitude_ssim": scores["amplitude_ssim"], "phase_ssim": scores["phase_ssim"],
    }  # fmt: skip


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", nargs="+", type=int, default=[2, 12, 22], help="of the objects (2 12 22)")
    parser.add_argument("--patterns", type=int, default=1024, help="of a scan (%(default)s)")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the table")
    given = parser.parse_args(arguments)
    rows = Rows(given.out, "twin", COLUMNS, f"{machine(torch.device('cpu'))}; the mean of every patch and its twin")
    for sample in ("lines_amplitude", "lines_phase"):
        for probe in ("disk", "defocused"):
            for seed in given.seeds:
                rows.add(row(sample, probe, seed, given.patterns))
    return 0


if __name__ == "__main__":
    sys.exit(main())
