# SPDX-License-Identifier: BSD-3-Clause
"""What can be stated about the experiment of a scan, as options: radiation, near field, detector, exposure, sample.

They become arguments of `Scan.load` of JSON types, so that a run can record them; files are read there.
"""

from __future__ import annotations

from typing import Any

from jsonargparse import Namespace

from ptychopinn.cli.parser import Parser
from ptychopinn.errors import InputError
from ptychopinn.experiment import RADIATIONS

#: Arguments of `Scan.load` that are options themselves.
_ARGUMENTS = ("radiation", "near_field", "source_distance", "gain", "offset", "fly_scan", "square_pixels")
#: Options of the experiment: placeholder, help, and the field of `Experiment` that has the value.
_FIELDS: dict[str, tuple[str, str, str]] = {
    "background": ("FILE", "counts of every pattern that do not come from the sample; or FILE.h5:PATH", "background"),
    "saturation": ("COUNTS", "counts from which a pixel states only that there were so many", "saturation"),
    "point_spread": ("PX", "standard deviation of the detector's point spread, detector pixels", "point_spread"),
    "source_size": (
        "Y,X",
        "standard deviation of the source on the sample, object pixels, or one number",
        "source_size",
    ),
    "exposure": (
        "FILE|Y,X/K",
        "path of the probe during an exposure, (K, 2) or (n, K, 2), or K points over (y, x) object pixels",
        "exposure",
    ),
    "slices": ("D,D,...", "metres between the slices of a thick sample", "slice_distances"),
    "tilt": ("Y,X", "rad, of the beam against the normal of a thick sample", "tilt"),
}


def add_experiment_options(parser: Parser, *, common: bool = False) -> None:
    """Options of the experiment; :func:`experiment_options` reads them."""
    title = "experiment"
    group = parser.add_argument_group(title) if common else parser.add_group(title)
    path = str | None
    group.add_argument(
        "--radiation", type=path, metavar="|".join(RADIATIONS), help="which relates energy and wavelength"
    )
    group.add_argument(
        "--near-field", action="store_true", help="the detector is in the near field; needs energy, distance and pixel"
    )
    group.add_argument(
        "--source-distance",
        type=float | None,
        help="metres from the focus to the sample, in the near field; inf: a parallel beam; default: the file's",
    )
    group.add_argument("--gain", type=path, metavar="X|FILE", help="values in the file per count, also for each pixel")
    group.add_argument("--offset", type=path, metavar="X|FILE", help="value in the file without counts: a dark image")
    group.add_argument(
        "--fly-scan", type=int | None, metavar="K", help="the probe moves on during an exposure: compute K points"
    )
    group.add_argument(
        "--square-pixels",
        type=path,
        metavar="Y,X|file",
        help="metres of the detector's pixels, which are not square and are resampled; file: as the file states them",
    )
    for name, (metavar, text, _) in _FIELDS.items():
        group.add_argument(f"--{name.replace('_', '-')}", type=path, metavar=metavar, help=text)


def experiment_options(options: Namespace) -> dict[str, Any]:
    """What the options state about the experiment, as arguments of ``Scan.load``."""
    stated = {name: options[name] for name in _ARGUMENTS} | {"experiment": _experiment(options)}
    return stated | {"square_pixels": _sides(options.square_pixels)}


def _sides(text: str | None) -> tuple[float, float] | str | None:
    if text is None or text == "file":
        return text
    try:
        height, width = (float(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"--square-pixels must be Y,X in metres, or file, got {text!r}") from None
    return height, width


def _experiment(options: Namespace) -> dict[str, Any] | None:
    """Fields of the experiment as JSON types, which `Scan.load` converts; None if there are none."""
    stated: dict[str, Any] = {}
    for name, (metavar, _, field) in _FIELDS.items():
        text = options[name]
        if text is None:
            continue
        if name in ("background", "exposure"):
            stated[field] = text
            continue
        try:
            values = [float(part) for part in text.split(",")]
        except ValueError:
            values = []
        single = name in ("saturation", "point_spread")
        if not values or (single and len(values) > 1) or (metavar == "Y,X" and len(values) > 2):
            raise InputError(f"--{name.replace('_', '-')} must be {metavar}, got {text!r}")
        stated[field] = values[0] if single or (name == "source_size" and len(values) == 1) else values
    return stated or None
