# SPDX-License-Identifier: BSD-3-Clause
"""Reconstruct with a trained network."""

from __future__ import annotations

from jsonargparse import Namespace

from ptychopinn.cli.options import (
    add_check,
    add_execution,
    add_orientation,
    add_out_format,
    add_overwrite,
    add_scan_options,
    add_sections,
    checked,
    execution_of,
    load_scan,
    new_file,
    print_written,
    turned,
)
from ptychopinn.cli.parser import Parser, is_main_process
from ptychopinn.errors import InputError


def describe(parser: Parser) -> None:
    """Add the options of the command."""
    parser.add_argument(
        "files",
        metavar="[RUN] SCAN",
        nargs="+",
        help="folder of a training, or the bundle in it; without one the pretrained network is used; the scan",
    )
    parser.add_argument(
        "--out", required=True, metavar="OUT.h5", help="file to write, .h5 or .npz; pictures go to a folder of its name"
    )
    parser.add_argument(
        "--ensemble", nargs="+", default=[], metavar="RUN", help="average with the models of these runs"
    )
    parser.add_argument(
        "--refine",
        type=int,
        metavar="N",
        help="then refine it against the counts in N passes over the scan; default: 20 without a run, else 0",
    )
    add_out_format(parser)
    add_orientation(parser)
    add_check(parser)
    add_overwrite(parser)
    add_scan_options(parser)
    add_sections(parser, "inference")
    add_execution(parser)


def run(options: Namespace) -> int:
    """Reconstruct the object of a scan with a trained network and draw it.

    Without a run the pretrained network of the package gives a first image, which is then refined against the counts,
    in seconds. Inference options that are not stated are those of the training.
    """
    import dataclasses

    from ptychopinn.io.reconstructions import pictures_folder, reconstruction_suffix
    from ptychopinn.persistence.bundle import load_bundle
    from ptychopinn.persistence.pretrained import load_pretrained
    from ptychopinn.runtime.processes import distributed, processes, shared_errors

    with processes(), shared_errors():
        out = new_file(options.out, options.overwrite)
        reconstruction_suffix(out, options.out_format)
        if len(options.files) > 2:
            raise InputError(
                f"expected a run and the scan, or the scan alone, found {' '.join(options.files)}; --ensemble names "
                "further runs"
            )
        *runs, file = options.files
        run = runs[0] if runs else None
        if run is None and options.ensemble:
            raise InputError("--ensemble averages with the model of a run: name that run before the scan")
        execution, device = execution_of(options)
        models = [load_bundle(name) for name in ([] if run is None else [run, *options.ensemble])]
        config = models[0][1] if models else load_pretrained().config
        inference = dataclasses.replace(config.inference, **options.explicit.as_dict().get("inference", {}))
        config = dataclasses.replace(config, inference=inference, execution=execution)
        model = [model for model, _ in models] or None
        scan = turned(load_scan(options, file), options, run)
        scan = checked(scan, options, file, run)
        reconstruction_suffix(out, options.out_format, scan)
        # After what can be wrong with the files, since it takes a while to import.
        from ptychopinn.findings.gate import FILE, write_findings
        from ptychopinn.first_image import reconstruct
        from ptychopinn.inference.large import is_large, reconstruct_to_file

        large = is_large(scan, max(1, len(models)) * inference.augment)
        if large and (options.refine or distributed() or options.out_format != "auto"):
            raise InputError(
                f"{scan.name}: the object does not fit in memory and goes to {out} piece by piece: without --refine, "
                "--out-format and torchrun"
            )
    if large:
        height, width = reconstruct_to_file(model, scan, out, config, device)
        print(f"{out}: object {height} x {width} px, too large to draw; h5py reads parts of it")
        print_written([write_findings([scan], pictures_folder(out) / FILE)])
        return 0
    with processes(device) as device:
        result = reconstruct(model, scan, config, device, refine=options.refine)
    if not is_main_process():
        return 0
    result.save(out, options.out_format, scan)
    height, width = result.object.shape
    # Before the pictures: whoever waits for the result has it.
    print(f"{out}: object {height} x {width} px, origin {result.origin} (y, x) in the scan's coordinates", flush=True)
    from ptychopinn.plotting.reconstructions import plot_reconstruction
    from ptychopinn.plotting.style import drawn

    folder = pictures_folder(out)
    print_written([write_findings([scan], folder / FILE), *drawn(plot_reconstruction, result, folder)])
    return 0
