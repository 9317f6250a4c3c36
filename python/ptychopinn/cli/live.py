# SPDX-License-Identifier: BSD-3-Clause
"""Reconstruct a scan while it runs."""

from __future__ import annotations

import dataclasses
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse import Namespace

from ptychopinn.cli.options import (
    add_config_file,
    add_execution,
    add_orientation,
    add_overwrite,
    add_section,
    add_sections,
    execution_of,
    new_file,
    print_written,
)
from ptychopinn.cli.parser import Parser
from ptychopinn.config import Config, LiveConfig
from ptychopinn.errors import InputError

if TYPE_CHECKING:
    from ptychopinn.models import PtychoModel
    from ptychopinn.streaming.setup import Setup


def describe(parser: Parser) -> None:
    """Add the options of the command."""
    path = str | None
    parser.add_argument(
        "source",
        metavar="SOURCE",
        help="zmq://HOST:PORT (a DECTRIS stream), pva://CHANNEL (EPICS), a growing HDF5 file, or a folder of frames",
    )
    parser.add_argument("--out", required=True, metavar="OUT.h5", help="file to write; frames go to OUT.frames")
    parser.add_argument(
        "--model", type=path, metavar="RUN", help="folder of a training; default: the network in the package"
    )
    parser.add_argument("--no-network", action="store_true", help="no network: the image is refined from nothing")
    parser.add_argument("--resume", action="store_true", help="continue the live run that writes to --out")
    add_overwrite(parser)
    setup = parser.add_argument_group("setup")
    setup.add_argument(
        "--like", type=path, metavar="SCAN", help="an earlier scan of this setup: probe, sizes, mask and orientation"
    )
    setup.add_argument("--probe", type=path, metavar="FILE.npy", help="the probe; or FILE.h5, FILE.h5:PATH")
    setup.add_argument("--bad-pixels", type=path, metavar="FILE.npy", help="mask of the patterns: pixels to ignore")
    setup.add_argument("--pixel-size", type=float | None, help="metres per object pixel")
    setup.add_argument("--energy", type=float | None, help="of the photons, in eV")
    setup.add_argument("--distance", type=float | None, help="metres from the sample to the detector")
    setup.add_argument("--detector-pixel-size", type=float | None, help="metres")
    setup.add_argument("--size", type=int | None, help="N: the N x N pixels around the centre are used, after --bin")
    setup.add_argument("--bin", type=int | None, help="sum the counts of bins of so many pixels along one side")
    setup.add_argument("--centre", type=path, metavar="Y,X", help="detector pixel of the beam; default: the middle")
    add_orientation(parser)
    group = parser.add_argument_group("positions")
    group.add_argument(
        "--positions",
        type=path,
        metavar="TABLE",
        help="a table that grows, FILE.h5:PATH, or pva://CHANNEL; default: they come with the frames",
    )
    group.add_argument("--position-unit", default="m", choices=["m", "px"], help="of a table that states none")
    page = parser.add_argument_group("page")
    page.add_argument("--no-page", action="store_true", help="show nothing in a browser")
    page.add_argument("--host", default="127.0.0.1", help="address to serve the page on; others than this can see it")
    page.add_argument("--port", type=int, default=0, help="0: any that is free")
    page.add_argument("--token", type=path, help="part of the page's address; default: a new one")
    page.add_argument("--stay", action="store_true", help="show the page after the end, until Ctrl-C")
    add_config_file(parser)
    add_section(parser, "live", LiveConfig)
    add_sections(parser, "inference")
    add_execution(parser)


def run(options: Namespace) -> int:
    """Reconstruct a scan while it runs, and show it in a browser.

    Frames are stored as they come. Ctrl-C ends the run with the image as it is; --resume continues it.
    """
    from ptychopinn.streaming.page.board import Board
    from ptychopinn.streaming.page.server import serve
    from ptychopinn.streaming.workflow import frames_folder, live

    out = new_file(options.out, options.overwrite or options.resume)
    folder = frames_folder(out)
    if folder.exists() and not options.resume:
        raise InputError(f"{folder}: expected no frames of an earlier run, found some; --resume continues it, or name "
                         "another --out")  # fmt: skip
    execution, device = execution_of(options)
    model, config = _model(options)
    inference = dataclasses.replace(config.inference, **options.explicit.as_dict().get("inference", {}))
    config = dataclasses.replace(config, inference=inference, execution=execution)
    board = Board(Path(options.source).name or options.source)
    server = None if options.no_page else serve(board, options.host, options.port, options.token)
    stop = threading.Event()
    try:
        if server is not None:
            print(f"the page: {server.url}", flush=True)
        result = live(
            options.source, model, config, out=out, like=_setup(options, model), positions=options.positions,
            position_unit=options.position_unit, settings=LiveConfig(**options.live.as_dict()),
            network=not options.no_network, device=device, board=board, resume=options.resume, stop=stop,
        )  # fmt: skip
        status = board.snapshot().status
        height, width = result.object.shape
        print(f"{out}: object {height} x {width} px of {status.get('received', '?')} frames", flush=True)
        _print_losses(status)
        print_written([folder])
        if server is not None and options.stay and not stop.is_set():
            threading.Event().wait()
    finally:
        if server is not None:
            server.close()
    if stop.is_set():
        print(f"ptychopinn live: interrupted; {out} has the image so far, --resume continues", file=sys.stderr)
        return 130
    return 0


def _print_losses(status: Mapping[str, Any]) -> None:
    """What was lost or came in another order."""
    count, named = status.get("lost_count", 0), status.get("lost", [])
    if count and isinstance(named, list):
        more = " ..." if isinstance(count, int) and count > len(named) else ""
        print(f"lost {count} frames: {', '.join(map(str, named))}{more}")
    others = {name: status.get(name, 0) for name in ("repeated", "reordered", "damaged", "restarts")}
    stated = ", ".join(f"{value} {name}" for name, value in others.items() if value)
    if stated:
        print(f"and survived: {stated}")


def _model(options: Namespace) -> tuple[PtychoModel | None, Config]:
    """The model of a run and its configuration; none and the defaults without one."""
    from ptychopinn.persistence.bundle import load_bundle

    if options.model is None:
        return None, Config()
    if options.no_network:
        raise InputError("--no-network and --model exclude each other: leave one out")
    return load_bundle(options.model)


def _setup(options: Namespace, model: PtychoModel | None) -> Setup:
    """The setup: that of --like, or of the scan or the probe of the training; with what is stated."""
    import numpy as np

    from ptychopinn.cli.recorded import recorded_scan
    from ptychopinn.io.probe import given_probe
    from ptychopinn.io.probe_file import read_probe_file
    from ptychopinn.scan import Scan
    from ptychopinn.streaming.setup import Setup, parse_centre

    like = options.like
    setup = Setup()
    if like is not None:
        setup = Setup.like(Scan.load(like))
    elif model is not None:
        try:
            file, stated, _ = recorded_scan(Path(options.model))
            setup = Setup.like(Scan.load(file, **stated))
        except InputError:
            probe = model.illumination.probe.detach().cpu().numpy()
            setup = Setup(size=model.patch_size, probe=probe)
    names = ("pixel_size", "energy", "distance", "detector_pixel_size", "size", "bin", "orientation")
    changes = {name: options[name] for name in names if options[name] is not None}
    if options.centre is not None:
        changes["centre"] = parse_centre(options.centre)
    setup = dataclasses.replace(setup, **changes)
    if options.probe is not None:
        size = setup.size or read_probe_file(options.probe)[1].shape[-1]
        setup = dataclasses.replace(setup, size=size, probe=given_probe(options.probe, size)[0], mean_counts=None)
    if options.bad_pixels is not None:
        setup = dataclasses.replace(setup, bad_pixels=np.load(options.bad_pixels, allow_pickle=False).astype(bool))
    return setup
