# SPDX-License-Identifier: BSD-3-Clause
"""Reconstruct with a trained network."""

from __future__ import annotations

from jsonargparse import ArgumentParser, Namespace

from ptychopinn.commands.options import DEVICE, MEASUREMENT, MEMORY, add_overwrite, add_sections, new_file, say_written
from ptychopinn.config import RefineConfig
from ptychopinn.errors import InputError


def describe(parser: ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", help="folder of a training, or the bundle in it")
    parser.add_argument("scan_file", metavar="SCAN.npz", help="the scan to reconstruct")
    parser.add_argument("--out", required=True, help="file to write, .h5 or .npz; pictures go to a folder of its name")
    parser.add_argument("--measurement", default="auto", choices=["auto", "amplitude", "counts"], help=MEASUREMENT)
    parser.add_argument("--memory", default="auto", choices=["auto", "load", "stored"], help=MEMORY)
    parser.add_argument(
        "--ensemble", nargs="+", default=[], metavar="RUN", help="average with the models of these runs"
    )
    parser.add_argument(
        "--refine", type=int, default=0, metavar="N", help="then refine it against the counts in N passes over the scan"
    )
    parser.add_argument("--device", default="auto", help=DEVICE)
    add_overwrite(parser)
    add_sections(parser, "inference")


def run(options: Namespace) -> int:
    """Reconstruct the object of a scan with a trained network and draw it.

    Inference options that are not given are those of the training.
    """
    import dataclasses

    from ptychopinn.data.reconstruction import reconstruction_suffix
    from ptychopinn.data.scan import Scan
    from ptychopinn.devices import resolve_device
    from ptychopinn.inference.bundle import load_bundle
    from ptychopinn.inference.large import is_large, reconstruct_to_file
    from ptychopinn.inference.predict import reconstruct
    from ptychopinn.metrics.plots import plot_reconstruction
    from ptychopinn.refinement.workflow import refine

    out = new_file(options.out, options.overwrite)
    reconstruction_suffix(out)
    device = resolve_device(options.device)
    model, config = load_bundle(options.run)
    inference = dataclasses.replace(config.inference, **options.given.as_dict().get("inference", {}))
    models = [model, *(load_bundle(run)[0] for run in options.ensemble)]
    config = dataclasses.replace(config, inference=inference)
    scan = Scan.load(options.scan_file, options.measurement, options.memory)
    if is_large(scan, len(models) * inference.augment):
        if options.refine:
            raise InputError(f"--refine: expected an object that fits in memory, found a larger one in {scan.name}")
        height, width = reconstruct_to_file(models, scan, out, config, device)
        print(f"{out}: object {height} x {width} px, too large to draw; h5py reads parts of it")
        return 0
    result = reconstruct(models, scan, config, device)
    if options.refine:
        result = refine(scan, result, RefineConfig(iterations=options.refine, split_half=False), device)
    result.save(out)
    height, width = result.object.shape
    print(f"{out}: object {height} x {width} px, origin {result.origin} (y, x) in the scan's coordinates")
    say_written(plot_reconstruction(result, out.with_suffix("")))
    return 0
