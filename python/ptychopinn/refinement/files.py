# SPDX-License-Identifier: BSD-3-Clause
"""A refinement with its files: the reconstruction, figures of its progress, and the checkpoint to resume from."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import torch

from ptychopinn.config import RefineConfig
from ptychopinn.errors import InputError, not_found
from ptychopinn.findings.gate import FILE, write_findings
from ptychopinn.io.reconstructions import pictures_folder
from ptychopinn.plotting.reconstructions import plot_reconstruction
from ptychopinn.plotting.refinement import plot_refinement
from ptychopinn.plotting.style import drawn
from ptychopinn.reconstruction import Reconstruction
from ptychopinn.refinement.checkpoint import CheckpointWriter, passes_of
from ptychopinn.refinement.several import Common, refine_several
from ptychopinn.refinement.workflow import Progress
from ptychopinn.runtime.processes import rank_and_size
from ptychopinn.scan import Scan
from ptychopinn.storage.atomic import remove_leftovers

#: Name of the checkpoint in the folder of the figures.
CHECKPOINT = "refinement.ckpt"
_FIGURE_SECONDS = 20

_log = logging.getLogger(__name__)


def _plot_progress(progress: Progress, folder: Path) -> list[Path]:
    return plot_reconstruction(progress.result(), folder)


def refine_to_files(
    scan: Scan,
    start: Reconstruction | None,
    out: Path,
    config: RefineConfig,
    device: torch.device,
    *,
    resume: bool = False,
    format: str = "auto",
    accept: str | Collection[str] = (),
) -> tuple[Reconstruction, list[Path]]:
    """Refine, and write the reconstruction and, in a folder of its name, figures and a checkpoint.

    During the refinement, amplitude.png and phase.png show the current state, and refinement.ckpt is updated, so often
    that it takes at most a twentieth of the time. With several processes, the first one writes.

    Args:
        scan: the scan.
        start: see :func:`ptychopinn.refine`.
        out: file of the reconstruction.
        config: the configuration.
        device: where to compute.
        resume: continue from the checkpoint of an earlier run with the same ``out``, or begin if there is neither.
        format: see :meth:`Reconstruction.save`.
        accept: keys of problems of the scan to accept, or "all", see :func:`ptychopinn.check_scan`.

    Returns:
        The reconstruction, and the files written; an empty list in all processes but the first.

    Raises:
        InputError: see :func:`ptychopinn.refine`; or, to resume, there is a result without a checkpoint, or more
            passes than ``iterations``.
    """
    (result,), written = refine_several_to_files(
        [scan], "probe", [start], out, config, device, resume=resume, format=format, accept=accept
    )
    return result, written


def refine_several_to_files(
    scans: Sequence[Scan],
    common: Common,
    starts: Sequence[Reconstruction | None],
    out: Path,
    config: RefineConfig,
    device: torch.device,
    *,
    resume: bool = False,
    format: str = "auto",
    accept: str | Collection[str] = (),
) -> tuple[list[Reconstruction], list[Path]]:
    """:func:`refine_to_files` of several scans together: a reconstruction and a folder of figures for each.

    The checkpoint is in the folder of the first, where the figures show all scans on one canvas during the refinement.

    Args:
        scans: the scans.
        common: see :func:`ptychopinn.refine_several`.
        starts: one for each scan.
        out: file of the first reconstruction; those of the others are in :func:`numbered`.
        config: the configuration.
        device: where to compute.
        resume: see :func:`refine_to_files`.
        format: see :meth:`Reconstruction.save`.
        accept: see :func:`ptychopinn.check_scan`.

    Returns:
        The reconstructions, and the files written; an empty list in all processes but the first.

    Raises:
        InputError: see :func:`ptychopinn.refine_several` and :func:`refine_to_files`.
    """
    folder = pictures_folder(out)
    checkpoint = folder / CHECKPOINT
    if resume and not checkpoint.is_file():
        if out.exists():
            raise not_found(checkpoint, f"a refinement to resume, whose result is {out}; --overwrite begins again")
        _log.warning("%s: no refinement to resume: it begins at the first pass", out)
        resume = False
    if not resume:
        checkpoint.unlink(missing_ok=True)  # of an earlier refinement
    writes = rank_and_size()[0] == 0
    if writes and folder.is_dir():
        remove_leftovers(folder)
    last_figure = time.perf_counter()
    # On a GPU the values are copied to the CPU anyway; there a copy would take the memory of another history.
    writer = CheckpointWriter(checkpoint, background=device.type == "cuda")

    unsaved = False

    def saved(save: Callable[[], None]) -> None:
        nonlocal unsaved
        try:
            save()
        except InputError as error:  # the result matters more, and may fit
            if not unsaved:
                _log.warning("%s; the refinement continues without a checkpoint", error)
            unsaved = True

    def report(progress: Progress) -> None:
        nonlocal last_figure
        if not writes:
            return
        saved(lambda: writer.save(progress.save, progress.last))
        if time.perf_counter() - last_figure > _FIGURE_SECONDS:
            drawn(_plot_progress, progress, folder)
            last_figure = time.perf_counter()

    done = passes_of(checkpoint) if resume else 0
    if done > config.iterations:
        raise InputError(
            f"{out}: has {done} passes already, expected more than these to continue, got refine.iterations "
            f"{config.iterations}: --refine.iterations {2 * done} would do as many again; --overwrite begins again"
        )
    outs = numbered(out, len(scans))
    if resume and done == config.iterations and format == "auto" and all(path.exists() for path in outs):
        _log.info("%s: complete with %d passes, nothing is left to do", out, done)
        return [Reconstruction.load(path) for path in outs], []
    earlier = checkpoint if resume else None
    try:
        results = refine_several(scans, common, starts, config, device, progress=report, resume=earlier, accept=accept)
    finally:
        saved(writer.wait)
    written: list[Path] = []
    if not writes:
        return results, written
    for result, scan, path in zip(results, scans, outs, strict=True):
        try:
            written.append(result.save(path, format, scan))
        except InputError as error:
            if unsaved or not checkpoint.is_file():
                raise
            raise InputError(f"{error}; the refinement is in {checkpoint}, and --resume writes its result") from error
        written += _write_pictures(result, scan, pictures_folder(path))
    return results, written


def _write_pictures(result: Reconstruction, scan: Scan, folder: Path) -> list[Path]:
    """Write what is beside the file of a result."""
    written = [write_findings([scan], folder / FILE)]
    written += drawn(plot_reconstruction, result, folder)
    written += drawn(plot_refinement, result, scan, folder)
    return written


def numbered(out: Path, count: int) -> list[Path]:
    """Files of the results of several scans: OUT.h5, OUT-2.h5, OUT-3.h5, ..."""
    return [out, *(out.with_name(f"{out.stem}-{number}{out.suffix}") for number in range(2, count + 1))]
