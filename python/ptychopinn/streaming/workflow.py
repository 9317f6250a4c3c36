# SPDX-License-Identifier: BSD-3-Clause
"""A live reconstruction from beginning to end: source, page, image, and the result of all frames."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch

from ptychopinn.config import Config, LiveConfig
from ptychopinn.errors import InputError
from ptychopinn.first_image import reconstruct
from ptychopinn.inference.large import is_large, reconstruct_to_file
from ptychopinn.inspection.orientation import oriented
from ptychopinn.io.formats.live import scan_of
from ptychopinn.io.reconstructions import reconstruction_suffix
from ptychopinn.models import PtychoModel
from ptychopinn.physics.plain_inputs import is_thin_and_far
from ptychopinn.reconstruction import Reconstruction
from ptychopinn.runtime.devices import resolve_device
from ptychopinn.runtime.process_settings import own_threads, process_settings
from ptychopinn.runtime.termination import ended_after_grace
from ptychopinn.scan import Scan
from ptychopinn.streaming.frames import Positions, Source
from ptychopinn.streaming.intake import Intake
from ptychopinn.streaming.page.board import Board
from ptychopinn.streaming.run import LiveRun
from ptychopinn.streaming.setup import Setup
from ptychopinn.streaming.sources.addresses import open_positions, open_source

_log = logging.getLogger(__name__)

#: Seconds after SIGTERM in which a run ends in order.
_GRACE = 60.0


def frames_folder(out: str | Path) -> Path:
    """The folder of a run's frames, ``NAME.frames`` beside its result ``NAME.h5``, which all commands read as a scan.

    Example:
        >>> frames_folder("run/live.h5").name
        'live.frames'
    """
    return Path(out).with_suffix(".frames")


def live(
    source: str | Path | Source,
    model: PtychoModel | None = None,
    config: Config | None = None,
    *,
    out: str | Path,
    like: Scan | Setup | None = None,
    positions: str | Path | Positions | None = None,
    position_unit: str = "m",
    settings: LiveConfig | None = None,
    network: bool = True,
    device: str | torch.device = "auto",
    board: Board | None = None,
    resume: bool = False,
    stop: threading.Event | None = None,
) -> Reconstruction:
    """Reconstruct a scan while it runs.

    Frames are stored as they come, in ``NAME.frames`` beside the result ``NAME.h5``, and the image grows with them.
    After the last one all frames are reconstructed once more; that result is bitwise the one of
    :func:`ptychopinn.reconstruct` for the same frames, in whatever order they came. Ctrl-C and SIGTERM end the run with
    the image as it is.

    Args:
        source: its address, see docs/live.md: ``zmq://HOST:PORT``, ``pva://CHANNEL``, a growing HDF5 file or a folder.
        model: a trained model; None: the pretrained network of the package.
        config: of the model; sections ``data``, ``inference`` and ``execution`` are used.
        out: the result, ``.h5`` or ``.npz``; it is saved during the run.
        like: an earlier scan of the same setup, whose probe, sizes, mask and orientation are used; or these themselves.
        positions: of the frames by their index, if they do not come with them: a growing table, ``FILE.h5:PATH``, or
            ``pva://CHANNEL``.
        position_unit: of `positions` that state none, "m" or "px".
        settings: of the run.
        network: False: no network; the image is refined from nothing.
        device: of the computation, "auto": a GPU if there is one.
        board: what a page shows, see :func:`ptychopinn.streaming.page.server.serve`.
        resume: continue an earlier run with its frames.
        stop: ends the run when it is set, as Ctrl-C does.

    Returns:
        The result.

    Raises:
        InputError: the source or the setup cannot be used, a model is named for a thick sample or the near field, or no
            frame came; what came before is stored.
    """
    out, settings = Path(out), settings or LiveConfig()
    reconstruction_suffix(out)
    folder = frames_folder(out)
    setup = like if isinstance(like, Setup) else Setup() if like is None else Setup.like(like)
    device = resolve_device(device)
    stop = stop or threading.Event()
    opened = open_source(source) if isinstance(source, (str, Path)) else source
    coordinates = open_positions(positions, position_unit) if isinstance(positions, (str, Path)) else positions
    config = config or Config()
    if not is_thin_and_far(setup.experiment):
        if model is not None:
            raise InputError(
                "model: expected none for a thick sample or a detector in the near field, found a trained one; omit "
                "it, and the image is refined from nothing"
            )
        _log.info("the image is refined without a network, which is for thin samples and the far field")
        network = False
    with process_settings(config.execution), _signals(stop), ended_after_grace(_GRACE):
        intake = Intake(opened, coordinates, folder, setup, resume and folder.exists())
        intake.start()
        run = LiveRun(intake, out, model, config, settings, device, network, board, stop.is_set)
        try:
            with own_threads(_threads(config, device)):
                run.follow()
        finally:
            intake.stop()
        return _finish(run, model if network else None, config, stop)


def _threads(config: Config, device: torch.device) -> int | None:
    """One core is left to what receives and shows: where all compute, each waits for the slowest of them."""
    if config.execution.threads is not None or device.type == "cuda":
        return None
    return max(1, torch.get_num_threads() - 1)


def _finish(run: LiveRun, model: PtychoModel | None, config: Config, stop: threading.Event) -> Reconstruction:
    """Save the result of a run that has ended, and raise the error that has ended it."""
    intake = run.intake
    if intake.error is not None and not isinstance(intake.error, InputError):
        raise intake.error
    if not run.has_image:
        if intake.error is not None:
            raise intake.error
        found = "no frame" if intake.spool is None else f"{len(intake.spool)} frames, none of which can be used"
        raise InputError(
            f"{intake.source.address}: expected frames with positions, found {found}; is the detector armed, and are "
            "--positions stated?"
        )
    if stop.is_set() or intake.error is not None or not run.live.final:
        run.state("interrupted" if stop.is_set() or intake.error is not None else "finished")
        run.save()
        if intake.error is not None:
            raise InputError(f"{intake.error}; {run.out} has the image so far, --resume continues")
        return run.picture()
    run.state("finishing")
    result = _of_all_frames(run, model, config)
    run.finish(result)
    return result


def _of_all_frames(run: LiveRun, model: PtychoModel | None, config: Config) -> Reconstruction:
    """Reconstruct all frames, as :func:`ptychopinn.reconstruct` does, and save it."""
    assert run.intake.spool is not None
    scan = oriented(scan_of(run.intake.spool, indexes=run.frames()), run.intake.setup.orientation)
    if run.network and is_large(scan):
        reconstruct_to_file(model, scan, run.out, config, run.device, accept="all")
        return Reconstruction.load(run.out)
    result = reconstruct(model, scan, config, run.device, accept="all") if run.network else run.picture()
    result = replace(result, metadata={**result.metadata, "live": run.status()})
    result.save(run.out, "auto", scan)
    return result


@contextmanager
def _signals(stop: threading.Event) -> Iterator[None]:
    """Context manager in which SIGINT and SIGTERM end the run in order; a second SIGINT interrupts it at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, frame: object) -> None:
        if stop.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        _log.warning("the run ends with the frames that it has; once more interrupts it at once")
        stop.set()

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
