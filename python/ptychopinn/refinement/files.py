# SPDX-License-Identifier: BSD-3-Clause
"""A refinement with its files: the result, pictures that show it improve, and what it takes to go on."""

from __future__ import annotations

import time
from pathlib import Path

import torch

from ptychopinn.config import RefineConfig
from ptychopinn.errors import not_found
from ptychopinn.plotting.reconstructions import plot_reconstruction
from ptychopinn.plotting.refinement import plot_refinement
from ptychopinn.reconstruction import Reconstruction
from ptychopinn.refinement.workflow import Progress, refine
from ptychopinn.runtime.processes import rank_and_size
from ptychopinn.scan import Scan

#: Name of the file in the folder of the pictures that a refinement can be resumed from.
CHECKPOINT = "refinement.ckpt"
_PICTURE_SECONDS = 20


def refine_to_files(
    scan: Scan,
    start: Reconstruction | None,
    out: Path,
    config: RefineConfig,
    device: torch.device,
    *,
    resume: bool = False,
    format: str = "auto",
) -> tuple[Reconstruction, list[Path]]:
    """Refine, and write the reconstruction to ``out`` and everything else to a folder of its name.

    While it runs, amplitude.png and phase.png in that folder show the present state, and refinement.ckpt is what
    ``resume`` goes on from. Of several processes, the first writes. ``format`` is that of :meth:`Reconstruction.save`.

    Returns:
        The reconstruction, and the files written.

    Raises:
        InputError: see :func:`ptychopinn.refine`; or there is nothing to resume.
    """
    folder = out.with_suffix("")
    checkpoint = folder / CHECKPOINT
    if resume and not checkpoint.is_file():
        raise not_found(checkpoint, f"a refinement to resume, whose result is {out}")
    if not resume:
        checkpoint.unlink(missing_ok=True)  # of an earlier refinement
    writes = rank_and_size()[0] == 0
    drawn = time.perf_counter()

    def show(progress: Progress) -> None:
        nonlocal drawn
        if not writes:
            return
        progress.save(checkpoint)
        if time.perf_counter() - drawn > _PICTURE_SECONDS:
            plot_reconstruction(progress.result(), folder)
            drawn = time.perf_counter()

    result = refine(scan, start, config, device, progress=show, resume=checkpoint if resume else None)
    if not writes:
        return result, []
    written = [result.save(out, format, scan)]
    written += plot_reconstruction(result, folder)
    written += plot_refinement(result, scan, folder)
    return result, written
