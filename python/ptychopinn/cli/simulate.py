# SPDX-License-Identifier: BSD-3-Clause
"""Simulate a scan."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from jsonargparse import Namespace

from ptychopinn.cli.options import add_overwrite, new_file
from ptychopinn.cli.parser import Parser
from ptychopinn.errors import InputError
from ptychopinn.experiment import RADIATIONS, Experiment

_EXPERIMENT = "what an experiment has beside a thin sample, one still probe, the far field and an ideal detector"


def describe(parser: Parser) -> None:
    """Add the options of the command."""
    from ptychopinn.physics.objects import OBJECTS
    from ptychopinn.physics.probes import PROBES

    parser.add_argument("scan_file", metavar="SCAN.npz", help="file to write")
    parser.add_argument("--object", default="photos", choices=list(OBJECTS), help="the sample")
    parser.add_argument("--probe", default="defocused", choices=list(PROBES), help="the illumination")
    parser.add_argument("--modes", type=int, default=1, help="incoherent probe modes")
    parser.add_argument("--scan", default="raster", choices=["raster", "spiral"], help="the path of the scan")
    parser.add_argument("--patterns", type=int, default=1089, help="number of diffraction patterns")
    parser.add_argument("--size", type=int, default=64, help="detector side N in pixels")
    parser.add_argument("--step", type=float | None, help="pixels between positions; default 0.15 N")
    parser.add_argument("--photons", type=float, default=1e6, help="mean counts of a pattern behind an empty sample")
    parser.add_argument("--seed", type=int, default=0, help="of everything random")
    group = parser.add_group("experiment", _EXPERIMENT)
    number, text = float | None, str | None
    group.add_argument(
        "--exposure", type=text, metavar="Y,X/K", help="path of every exposure, K points over (y, x) object pixels"
    )
    group.add_argument(
        "--source-size", type=text, metavar="Y,X", help="standard deviation at the sample, object pixels, or one number"
    )
    group.add_argument(
        "--probe-drift",
        type=number,
        metavar="X",
        help="of position, focus, astigmatism, direction and intensity; 1 changes a sixth of the probe's power",
    )
    group.add_argument("--background", type=number, metavar="COUNTS", help="mean of a smooth background, per pixel")
    group.add_argument("--point-spread", type=number, metavar="PX", help="standard deviation, detector pixels")
    group.add_argument("--saturation", type=number, metavar="COUNTS", help="largest count of a pixel")
    group.add_argument("--fresnel-number", type=number, help="of an object pixel; a detector in the near field")
    group.add_argument("--slices", type=text, metavar="D,D,...", help="metres between the slices of a thick sample")
    group.add_argument("--tilt", type=text, metavar="Y,X", help="of the beam against a thick sample, rad")
    group.add_argument("--pixel-size", type=number, metavar="M", help="metres per object pixel")
    group.add_argument("--energy", type=number, metavar="EV", help="of a photon or an electron, eV")
    group.add_argument("--radiation", default="photon", choices=list(RADIATIONS), help="which illuminates the sample")
    group.add_argument("--hide-effects", action="store_true", help="omit them from the file, as if they were not known")
    add_overwrite(parser)


def run(options: Namespace) -> int:
    """Simulate a scan with known truth and write it as NPZ."""
    from ptychopinn.physics.simulate import simulate

    path = new_file(options.scan_file, options.overwrite)
    names = ("object", "probe", "modes", "scan", "patterns", "size", "step", "photons", "seed", "pixel_size", "energy")
    scan = simulate(**{name: options[name] for name in names}, experiment=_experiment(options))
    effects = scan.experiment.effects()
    if options.hide_effects:
        scan = replace(scan, experiment=Experiment(radiation=options.radiation))
    scan.save(path)
    assert scan.truth is not None
    height, width = scan.truth.shape
    print(f"{path}: {scan.n} patterns of {scan.patch_size} px, object {height} x {width} px, seed {options.seed}")
    if effects:
        print(f"with {', '.join(effects)}{', which the file does not have' * options.hide_effects}")
    return 0


def _experiment(options: Namespace) -> Experiment:
    """The experiment that the options describe."""
    from ptychopinn.io.experiments import stated_experiment
    from ptychopinn.physics.probes import PROBES
    from ptychopinn.physics.simulate_experiments import as_variations, drifting_probe, smooth_background

    pairs = {name: _values(name, options[name], 2) for name in ("source_size", "tilt")}
    stated = stated_experiment(
        {
            **{name: options[name] for name in ("exposure", "point_spread", "saturation", "fresnel_number")},
            **{name: pair for name, pair in pairs.items() if pair is not None},
            "slice_distances": _values("slices", options.slices, None),
            "radiation": options.radiation,
        }
    )
    values: dict[str, Any] = {}
    if options.background:
        values["background"] = smooth_background(options.size, options.background, options.seed)
    if options.probe_drift:
        probe = PROBES[options.probe](options.size, options.modes)
        drifting = drifting_probe(probe, options.patterns, options.probe_drift, seed=options.seed)
        values["probe_variations"], values["variation_coefficients"] = as_variations(drifting, probe)
    return replace(stated, **values)


def _values(name: str, text: str | None, count: int | None) -> list[float] | None:
    """Numbers with commas between them; one number of a size is both."""
    if text is None:
        return None
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = []
    values = values * 2 if name == "source_size" and len(values) == 1 else values
    if not values or len(values) != (count or len(values)):
        wanted = "numbers D,D,..." if count is None else "two numbers Y,X"
        raise InputError(f"--{name.replace('_', '-')} must be {wanted}, got {text!r}")
    return values
