# SPDX-License-Identifier: BSD-3-Clause
"""The command line: each subcommand is a thin function over the Python interface.

Options of the configuration have the same names as in Python and YAML (``--training.epochs``), read by jsonargparse
with the precedence command line > ``--config`` file > default. Exit codes: 0 done, 1 a problem was found (doctor) or
the program failed, 2 the user's input is not usable (one line says why), 130 interrupted.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from ptychopinn.cli_options import (
    DEVICE,
    MEASUREMENT,
    SECTIONS,
    Parser,
    add_overwrite,
    add_sections,
    new_file,
    quieten_lightning,
    say_written,
    settings_of,
)
from ptychopinn.config import Config, RefineConfig
from ptychopinn.errors import InputError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    parser, commands = _parser()
    if not arguments:
        parser.print_help(sys.stderr)
        return 2
    try:
        options = parser.parse_args(arguments)
        command = options[options.subcommand]
        # What the user wrote, without defaults: it goes over a bundle's configuration, defaults do not.
        command.given = parser.parse_args(arguments, defaults=False)[options.subcommand]
    except UnicodeDecodeError:
        parser.error("--config: expected YAML text, found a binary file")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        return commands[options.subcommand](command)
    except InputError as error:
        return _complain(options.subcommand, str(error))
    except OSError as error:
        if error.filename is None:
            raise
        return _complain(options.subcommand, f"{error.filename}: {error.strerror}")
    except KeyboardInterrupt:
        print(f"ptychopinn {options.subcommand}: interrupted", file=sys.stderr)
        return 130


def _complain(subcommand: str, sentence: str) -> int:
    print(f"ptychopinn {subcommand}: {sentence}", file=sys.stderr)
    return 2


def _parser() -> tuple[ArgumentParser, dict[str, Any]]:
    parser = Parser(
        prog="ptychopinn",
        description="Physics-informed ptychographic reconstruction.",
        allow_abbrev=False,
        version=metadata.version("ptychopinn"),
    )
    subcommands = parser.add_subcommands(required=True, dest="subcommand")
    commands = {}
    for name, (describe, run) in _COMMANDS.items():
        text = run.__doc__ or ""
        sub = Parser(description=text, allow_abbrev=False)
        describe(sub)
        subcommands.add_subcommand(name, sub, help=text.splitlines()[0])
        commands[name] = run
    return parser, commands


def _describe_simulate(parser: ArgumentParser) -> None:
    from ptychopinn.physics.objects import OBJECTS
    from ptychopinn.physics.probes import PROBES

    parser.add_argument("scan_file", metavar="SCAN.npz", help="file to write")
    parser.add_argument("--object", default="photos", choices=list(OBJECTS), help="the sample")
    parser.add_argument("--probe", default="defocused", choices=list(PROBES), help="the illumination")
    parser.add_argument("--modes", type=int, default=1, help="incoherent probe modes")
    parser.add_argument("--scan", default="raster", choices=["raster", "spiral"], help="the path of the scan")
    parser.add_argument("--patterns", type=int, default=1089, help="number of diffraction patterns")
    parser.add_argument("--size", type=int, default=64, help="detector side N in pixels")
    parser.add_argument("--step", type=float | None, default=None, help="pixels between positions; default 0.15 N")
    parser.add_argument("--photons", type=float, default=1e6, help="mean counts of a pattern behind an empty sample")
    parser.add_argument("--seed", type=int, default=0, help="of everything random")
    add_overwrite(parser)


def _simulate(options: Namespace) -> int:
    """Simulate a scan with known truth and write it as NPZ."""
    from ptychopinn.physics.simulate import simulate

    path = new_file(options.scan_file, options.overwrite)
    names = ("object", "probe", "modes", "scan", "patterns", "size", "step", "photons", "seed")
    scan = simulate(**{name: options[name] for name in names})
    scan.save(path)
    assert scan.truth is not None
    height, width = scan.truth.shape
    print(f"{path}: {scan.n} patterns of {scan.patch_size} px, object {height} x {width} px, seed {options.seed}")
    return 0


def _describe_train(parser: ArgumentParser) -> None:
    parser.add_argument("scan_files", metavar="SCAN.npz", nargs="+", help="the scan, or several with one probe")
    parser.add_argument("--out", required=True, help="folder for the model, checkpoints, logs and pictures")
    parser.add_argument("--config", action="config", help="YAML file of the options below, such as a run's config.yaml")
    parser.add_argument("--epochs", type=int | None, default=None, help="short for --training.epochs")
    parser.add_argument("--minutes", type=float | None, default=None, help="short for --training.minutes")
    parser.add_argument("--seed", type=int | None, default=None, help="short for --training.seed")
    parser.add_argument("--measurement", default="auto", choices=["auto", "amplitude", "counts"], help=MEASUREMENT)
    parser.add_argument(
        "--from",
        dest="start",
        metavar="RUN",
        default=None,
        type=str | None,
        help="fine-tune: start with the network of this run (or bundle) and its data and model options",
    )
    parser.add_argument(
        "--resume", action="store_true", help="go on from the last whole epoch of the run in --out, with its options"
    )
    add_overwrite(parser)
    add_sections(parser, *SECTIONS)


def _train(options: Namespace) -> int:
    """Train a network on the diffraction patterns of a scan; no truth is used, unless asked for.

    Options that are not given are the defaults; with --resume those of the run, and with --from the data and model
    options are those of the run that is started from.
    """
    from ptychopinn.data.scan import Scan
    from ptychopinn.inference.bundle import BUNDLE_NAME, load_bundle
    from ptychopinn.training.workflow import read_config, train

    quieten_lightning()
    if options.resume and (options.start is not None or options.overwrite):
        raise InputError("--resume goes on with the run in --out: leave --from and --overwrite away")
    settings = settings_of(options, *SECTIONS)
    start, earlier = (None, {}) if options.start is None else load_bundle(options.start)
    if start is not None:
        earlier = {name: earlier.to_dict()[name] for name in ("data", "model")}
    if options.resume:
        earlier = read_config(Path(options.out)).to_dict()
    given = options.given.as_dict()
    for name, values in earlier.items():
        settings[name] = {**values, **given.get(name, {})}
        if "options" in values:
            settings[name]["options"] = {**values["options"], **given.get(name, {}).get("options", {})}
    for name in ("epochs", "minutes", "seed"):
        if options[name] is not None:
            settings["training"][name] = options[name]
    config = Config.from_dict(settings)
    new_file(Path(options.out) / BUNDLE_NAME, options.overwrite or options.resume)
    scans = [Scan.load(path, measurement=options.measurement) for path in options.scan_files]
    run = train(scans, options.out, config, overwrite=options.overwrite, start=start, resume=options.resume)
    losses = ", ".join(f"{name} {value:.4g}" for name, value in run.losses.items())
    print(f"{run.folder}: trained on {sum(scan.n for scan in scans)} patterns, {losses}")
    if run.interrupted:
        print(f"ptychopinn train: interrupted; {run.folder} holds what was learned until then", file=sys.stderr)
        return 130
    return 0


def _describe_reconstruct(parser: ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", help="folder of a training, or the bundle in it")
    parser.add_argument("scan_file", metavar="SCAN.npz", help="the scan to reconstruct")
    parser.add_argument("--out", required=True, help="file to write, .h5 or .npz; pictures go to a folder of its name")
    parser.add_argument("--measurement", default="auto", choices=["auto", "amplitude", "counts"], help=MEASUREMENT)
    parser.add_argument(
        "--ensemble", nargs="+", default=[], metavar="RUN", help="average with the models of these runs"
    )
    parser.add_argument(
        "--refine", type=int, default=0, metavar="N", help="then refine it against the counts in N passes over the scan"
    )
    parser.add_argument("--device", default="auto", help=DEVICE)
    add_overwrite(parser)
    add_sections(parser, "inference")


def _reconstruct(options: Namespace) -> int:
    """Reconstruct the object of a scan with a trained network and draw it.

    Inference options that are not given are those of the training.
    """
    import dataclasses

    from ptychopinn.data.reconstruction import reconstruction_suffix
    from ptychopinn.data.scan import Scan
    from ptychopinn.devices import resolve_device
    from ptychopinn.inference.bundle import load_bundle
    from ptychopinn.inference.predict import reconstruct
    from ptychopinn.metrics.plots import plot_reconstruction
    from ptychopinn.refinement.workflow import refine

    out = new_file(options.out, options.overwrite)
    reconstruction_suffix(out)
    device = resolve_device(options.device)
    model, config = load_bundle(options.run)
    inference = dataclasses.replace(config.inference, **options.given.as_dict().get("inference", {}))
    models = [model, *(load_bundle(run)[0] for run in options.ensemble)]
    scan = Scan.load(options.scan_file, measurement=options.measurement)
    result = reconstruct(models, scan, dataclasses.replace(config, inference=inference), device)
    if options.refine:
        result = refine(scan, result, RefineConfig(iterations=options.refine, split_half=False), device)
    result.save(out)
    height, width = result.object.shape
    print(f"{out}: object {height} x {width} px, origin {result.origin} (y, x) in the scan's coordinates")
    say_written(plot_reconstruction(result, out.with_suffix("")))
    return 0


_INCOMPLETE = 1.5  # deviance per detector pixel; noise alone makes about 1


def _describe_refine(parser: ArgumentParser) -> None:
    parser.add_argument(
        "files", metavar="[START] SCAN.npz", nargs="+", help="what to begin with, a run or a reconstruction; the scan"
    )
    parser.add_argument("--from-scratch", action="store_true", help="begin with an even object and the scan's probe")
    parser.add_argument(
        "--out", required=True, help="file to write, .h5 or .npz; the rest goes to a folder of its name"
    )
    parser.add_argument("--config", action="config", help="YAML file of the options below")
    parser.add_argument("--iterations", type=int | None, default=None, help="short for --refine.iterations")
    parser.add_argument("--minutes", type=float | None, default=None, help="short for --refine.minutes")
    parser.add_argument("--measurement", default="auto", choices=["auto", "amplitude", "counts"], help=MEASUREMENT)
    parser.add_argument("--resume", action="store_true", help="go on with the refinement that writes to --out")
    parser.add_argument("--device", default="auto", help=DEVICE)
    add_overwrite(parser)
    parser.add_class_arguments(RefineConfig, "refine")


def _refine(options: Namespace) -> int:
    """Refine a reconstruction against the counts: object, probe modes, and if asked for positions and intensities.

    It begins with what a network makes of the scan, with a reconstruction, or from scratch.
    """
    from ptychopinn.data.reconstruction import reconstruction_suffix
    from ptychopinn.data.scan import Scan
    from ptychopinn.devices import resolve_device
    from ptychopinn.refinement.files import processes, refine_to_files

    out = new_file(options.out, options.overwrite or options.resume)
    reconstruction_suffix(out)
    if len(options.files) != 2 - options.from_scratch:
        raise InputError(
            "expected what to begin with (a run or a reconstruction) and the scan, or --from-scratch and the scan, "
            f"found {' '.join(options.files)}{' with --from-scratch' if options.from_scratch else ''}"
        )
    settings = options.refine.as_dict()
    for name in ("iterations", "minutes"):
        if options[name] is not None:
            settings[name] = options[name]
    config = RefineConfig(**settings)
    with processes(resolve_device(options.device)) as device:
        scan = Scan.load(options.files[-1], measurement=options.measurement)
        start = None if options.from_scratch else _start_of(Path(options.files[0]), scan, device)
        result, written = refine_to_files(scan, start, out, config, device, resume=options.resume)
    if not written:  # another process speaks for all
        return 0
    found = result.metadata["refinement"]
    print(
        f"{out}: {found['passes']} passes over {scan.n} patterns in {found['seconds']:.0f} s, deviance "
        f"{found['deviance'][-1]:.4g} per detector pixel"
    )
    if found["deviance"][-1] > _INCOMPLETE:
        print("the model does not explain the patterns yet: try --refine.modes 2, or --refine.learn_positions true")
    halves = found.get("split_half")
    if halves:
        print(f"split halves: FRC 0.5 at {halves['crossing_0.5']:.2f} of Nyquist, mean {halves['mean']:.3f}")
    say_written(written[1:])
    if found["interrupted"]:
        print(f"ptychopinn refine: interrupted; {out} holds what was reached, --resume goes on", file=sys.stderr)
        return 130
    return 0


def _start_of(path: Path, scan: Any, device: Any) -> Any:
    """The reconstruction to refine: a file's, or what a trained network makes of the scan."""
    from ptychopinn.data.reconstruction import Reconstruction, is_reconstruction
    from ptychopinn.inference.bundle import load_bundle
    from ptychopinn.inference.predict import reconstruct

    if path.is_file() and is_reconstruction(path):
        return Reconstruction.load(path)
    model, config = load_bundle(path)
    return reconstruct(model, scan, config, device)


def _describe_evaluate(parser: ArgumentParser) -> None:
    parser.add_argument("reconstruction", metavar="RECON.h5", help="the reconstruction")
    parser.add_argument("scan_file", metavar="SCAN.npz", help="its scan, with a truth")
    parser.add_argument("--out", default=None, type=str | None, help="JSON file for all figures")
    add_overwrite(parser)


def _evaluate(options: Namespace) -> int:
    """Measure a reconstruction against the truth of its scan."""
    from ptychopinn.data.reconstruction import Reconstruction
    from ptychopinn.data.scan import Scan
    from ptychopinn.metrics.evaluate import align_to_scan, evaluate, write_metrics
    from ptychopinn.metrics.plots import plot_reconstruction

    out = None if options.out is None else new_file(options.out, options.overwrite)
    result, scan = Reconstruction.load(options.reconstruction), Scan.load(options.scan_file)
    aligned = align_to_scan(result, scan)
    metrics = evaluate(result, scan, aligned=aligned)
    written = [] if out is None else [write_metrics(metrics, out)]
    written += plot_reconstruction(result, Path(options.reconstruction).with_suffix(""), aligned=aligned)
    amplitude, phase, frc = metrics["amplitude"], metrics["phase"], metrics["frc"]
    print(f"{'':22}{'amplitude':>10}{'phase':>10}")
    for key, label in _SCORES.items():
        print(f"{label:22}{amplitude[key]:10.3f}{phase[key]:10.3f}")
    print(f"{'mean FRC':22}{frc['mean']:10.3f}")
    print(f"{'FRC 0.5 at Nyquist x':22}{frc['crossing_0.5']:10.3f}")
    say_written(written)
    return 0


_SCORES = {
    "pearson": "Pearson",
    "pearson_high_pass": "Pearson, high-passed",
    "rmse": "rms error",
    "psnr_db": "PSNR (dB)",
    "ssim": "SSIM",
}


def _describe_plot(parser: ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="a reconstruction (.h5, .npz) or a scan (.npz)")
    parser.add_argument("--out", default=None, type=str | None, help="folder; default: the file's name without suffix")


def _plot(options: Namespace) -> int:
    """Draw a reconstruction, or the positions, probe and mean pattern of a scan, as PNG files."""
    from ptychopinn.data.reconstruction import Reconstruction, is_reconstruction
    from ptychopinn.data.scan import Scan
    from ptychopinn.metrics.plots import plot_reconstruction, plot_scan_overview

    folder = Path(options.out or Path(options.file).with_suffix(""))
    if is_reconstruction(options.file):
        say_written(plot_reconstruction(Reconstruction.load(options.file), folder))
    else:
        say_written(plot_scan_overview(Scan.load(options.file), folder / "scan.png"))
    return 0


def _describe_doctor(parser: ArgumentParser) -> None:
    pass


def _doctor(options: Namespace) -> int:
    """Print versions, build options, SIMD level, threads and CUDA state, and what is wrong, if anything."""
    try:
        from ptychopinn.doctor import diagnose
    except ImportError as error:
        print(f"PROBLEM: {error}")
        return 1
    facts, problems = diagnose()
    for name, value in facts:
        print(f"{name:22}{value}")
    for problem in problems:
        print(f"PROBLEM: {problem}")
    print("nothing is wrong" if not problems else f"{len(problems)} to mend")
    return 1 if problems else 0


_COMMANDS = {
    "simulate": (_describe_simulate, _simulate),
    "train": (_describe_train, _train),
    "reconstruct": (_describe_reconstruct, _reconstruct),
    "refine": (_describe_refine, _refine),
    "evaluate": (_describe_evaluate, _evaluate),
    "plot": (_describe_plot, _plot),
    "doctor": (_describe_doctor, _doctor),
}


if __name__ == "__main__":
    sys.exit(main())
