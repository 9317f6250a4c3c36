# SPDX-License-Identifier: BSD-3-Clause
"""The command line: each subcommand is a thin function over the Python interface.

Options of the configuration have the same names as in Python and YAML (``--training.epochs``), read by jsonargparse with
the precedence command line > ``--config`` file > default. Exit codes: 0 done, 1 a problem was found (doctor) or the
program failed, 2 the user's input is not usable (one line says why), 130 interrupted.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from ptychopinn.config import Config, DataConfig, ExecutionConfig, InferenceConfig, ModelConfig, TrainingConfig
from ptychopinn.errors import InputError

_SECTIONS = {
    "data": DataConfig,
    "model": ModelConfig,
    "training": TrainingConfig,
    "inference": InferenceConfig,
    "execution": ExecutionConfig,
}
_MEASUREMENT = "what the patterns in the file are: amplitude, counts, or auto (decided from the file, and said)"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser, commands = _parser()
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for noisy in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    try:
        return commands[options.subcommand](options[options.subcommand])
    except InputError as error:
        print(f"ptychopinn {options.subcommand}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"ptychopinn {options.subcommand}: interrupted", file=sys.stderr)
        return 130


def _parser() -> tuple[ArgumentParser, dict[str, Any]]:
    parser = ArgumentParser(prog="ptychopinn", description="Physics-informed ptychographic reconstruction.")
    subcommands = parser.add_subcommands(required=True, dest="subcommand")
    commands = {}
    for name, (describe, run) in _COMMANDS.items():
        text = run.__doc__ or ""
        sub = ArgumentParser(description=text)
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
    _add_overwrite(parser)


def _simulate(options: Namespace) -> int:
    """Simulate a scan with known truth and write it as NPZ."""
    from ptychopinn.physics.simulate import simulate

    path = _new_file(options.scan_file, options.overwrite)
    names = ("object", "probe", "modes", "scan", "patterns", "size", "step", "photons", "seed")
    scan = simulate(**{name: options[name] for name in names})
    scan.save(path)
    assert scan.truth is not None
    height, width = scan.truth.shape
    print(f"{path}: {scan.n} patterns of {scan.patch_size} px, object {height} x {width} px, seed {options.seed}")
    return 0


def _describe_train(parser: ArgumentParser) -> None:
    parser.add_argument("scan_file", metavar="SCAN.npz", help="the scan")
    parser.add_argument("--out", required=True, help="folder for the model, checkpoints, logs and pictures")
    parser.add_argument("--config", action="config", help="YAML file of the options below, such as a run's config.yaml")
    parser.add_argument("--epochs", type=int | None, default=None, help="short for --training.epochs")
    parser.add_argument("--minutes", type=float | None, default=None, help="short for --training.minutes")
    parser.add_argument("--seed", type=int | None, default=None, help="short for --training.seed")
    parser.add_argument("--measurement", default="auto", choices=["auto", "amplitude", "counts"], help=_MEASUREMENT)
    _add_overwrite(parser)
    _add_sections(parser, *_SECTIONS)


def _train(options: Namespace) -> int:
    """Train a network on the diffraction patterns of a scan; no truth is used."""
    from ptychopinn.data.scan import Scan
    from ptychopinn.training.workflow import train

    settings = _settings(options, *_SECTIONS)
    for name in ("epochs", "minutes", "seed"):
        if options[name] is not None:
            settings["training"][name] = options[name]
    scan = Scan.load(options.scan_file, measurement=options.measurement)
    run = train(scan, options.out, Config.from_dict(settings), overwrite=options.overwrite)
    losses = ", ".join(f"{name} {value:.4g}" for name, value in run.losses.items())
    print(f"{run.folder}: trained on {scan.n} patterns, {losses}")
    return 0


def _describe_reconstruct(parser: ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", help="folder of a training, or the bundle in it")
    parser.add_argument("scan_file", metavar="SCAN.npz", help="the scan to reconstruct")
    parser.add_argument("--out", required=True, help="file to write, .h5 or .npz; pictures go to a folder of its name")
    parser.add_argument("--measurement", default="auto", choices=["auto", "amplitude", "counts"], help=_MEASUREMENT)
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1 ...; auto takes a GPU if there is one")
    _add_overwrite(parser)
    _add_sections(parser, "inference")


def _reconstruct(options: Namespace) -> int:
    """Reconstruct the object of a scan with a trained network and draw it."""
    import dataclasses

    import torch

    from ptychopinn.data.reconstruction import reconstruction_suffix
    from ptychopinn.data.scan import Scan
    from ptychopinn.inference.bundle import load_bundle
    from ptychopinn.inference.predict import reconstruct
    from ptychopinn.metrics.plots import plot_reconstruction

    out = _new_file(options.out, options.overwrite)
    reconstruction_suffix(out)
    model, config = load_bundle(options.run)
    config = dataclasses.replace(config, inference=InferenceConfig(**_settings(options, "inference")["inference"]))
    scan = Scan.load(options.scan_file, measurement=options.measurement)
    device = options.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    result = reconstruct(model, scan, config, device)
    result.save(out)
    height, width = result.object.shape
    print(f"{out}: object {height} x {width} px, origin {result.origin} (y, x) in the scan's coordinates")
    _say_written(plot_reconstruction(result, out.with_suffix("")))
    return 0


def _describe_evaluate(parser: ArgumentParser) -> None:
    parser.add_argument("reconstruction", metavar="RECON.h5", help="the reconstruction")
    parser.add_argument("scan_file", metavar="SCAN.npz", help="its scan, with a truth")
    parser.add_argument("--out", default=None, type=str | None, help="JSON file for all figures")
    _add_overwrite(parser)


def _evaluate(options: Namespace) -> int:
    """Measure a reconstruction against the truth of its scan."""
    from ptychopinn.data.reconstruction import Reconstruction
    from ptychopinn.data.scan import Scan
    from ptychopinn.metrics.evaluate import align_to_scan, evaluate, write_metrics
    from ptychopinn.metrics.plots import plot_reconstruction

    out = None if options.out is None else _new_file(options.out, options.overwrite)
    result, scan = Reconstruction.load(options.reconstruction), Scan.load(options.scan_file)
    aligned = align_to_scan(result, scan)
    metrics = evaluate(result, scan, aligned=aligned)
    amplitude, phase, frc = metrics["amplitude"], metrics["phase"], metrics["frc"]
    print(f"{'':22}{'amplitude':>10}{'phase':>10}")
    for key, label in _SCORES.items():
        print(f"{label:22}{amplitude[key]:10.3f}{phase[key]:10.3f}")
    print(f"{'mean FRC':22}{frc['mean']:10.3f}")
    print(f"{'FRC 0.5 at Nyquist x':22}{frc['crossing_0.5']:10.3f}")
    if out is not None:
        _say_written([write_metrics(metrics, out)])
    _say_written(plot_reconstruction(result, Path(options.reconstruction).with_suffix(""), aligned=aligned))
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
        _say_written(plot_reconstruction(Reconstruction.load(options.file), folder))
    else:
        _say_written(plot_scan_overview(Scan.load(options.file), folder / "scan.png"))
    return 0


def _describe_doctor(parser: ArgumentParser) -> None:
    pass


def _doctor(options: Namespace) -> int:
    """Print versions, build options, SIMD level, threads and CUDA state, and what is wrong, if anything."""
    from ptychopinn.doctor import diagnose

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
    "evaluate": (_describe_evaluate, _evaluate),
    "plot": (_describe_plot, _plot),
    "doctor": (_describe_doctor, _doctor),
}


def _add_sections(parser: ArgumentParser, *names: str) -> None:
    for name in names:
        parser.add_class_arguments(_SECTIONS[name], name)


def _add_overwrite(parser: ArgumentParser) -> None:
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier result")


def _settings(options: Namespace, *names: str) -> dict[str, dict[str, Any]]:
    """The chosen configuration sections as plain dictionaries."""
    return {name: options[name].as_dict() for name in names}


def _new_file(path: str, overwrite: bool) -> Path:
    if Path(path).exists() and not overwrite:
        raise InputError(f"{path}: expected a new file, found an earlier one; name another, or --overwrite")
    return Path(path)


def _say_written(paths: Sequence[Path]) -> None:
    for path in paths:
        print(f"wrote {path}")


if __name__ == "__main__":
    sys.exit(main())
