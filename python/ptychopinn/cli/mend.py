# SPDX-License-Identifier: BSD-3-Clause
"""Repair a scan."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from jsonargparse import Namespace

from ptychopinn.cli.options import (
    add_frame_options,
    add_orientation,
    add_overwrite,
    add_scan_options,
    add_target_format,
    new_file,
    print_written,
    scan_options,
)
from ptychopinn.cli.parser import Parser
from ptychopinn.errors import InputError
from ptychopinn.io.options import option_words

#: Formats whose coordinates are pixels; those of all others are metres.
_IN_PIXELS = ("npz", "ptychodus-npz", "ptychodus-training")
#: What reading does to the frames, by its option.
_READ = {
    "crop": "the middle {0} x {0} px of the detector were read",
    "pad": "filled up to {0} x {0} px with bad pixels",
    "bin": "sums of {0} x {0} px",
}
_SWITCHES = ("invert_mask", "mask_faulty", "centre", "drop_outliers", "scale_probe", "centre_probe", "even_dose")
_PLAIN = ("subtract", "mask_above", "clip", "orientation", "position_unit", "scale_positions")


def describe(parser: Parser) -> None:
    """Add the options of the command."""
    parser.add_argument("scan_file", metavar="IN", help="the scan, which is not changed")
    parser.add_argument("out", metavar="OUT", help="file to write; for ptychodus a folder, or one of its two files")
    parser.add_argument("--all", action="store_true", help="apply every mend that a finding of `inspect` asks for")
    group = parser.add_argument_group("pixels")
    group.add_argument("--invert-mask", action="store_true", help="the mask of the file marks good pixels")
    group.add_argument("--subtract", type=float | None, help="subtract a constant background of X counts")
    group.add_argument(
        "--mask-faulty", action="store_true", help="dead, stuck, hot and saturated pixels and gaps become bad pixels"
    )
    group.add_argument(
        "--mask-above", type=float | None, help="pixels that reach X counts in any pattern become bad pixels"
    )
    group.add_argument(
        "--clip",
        type=float | None,
        help="counts above X, such as cosmic rays, become the median of their neighbours in the same pattern",
    )
    group = parser.add_argument_group("detector")
    group.add_argument("--centre", action="store_true", help="roll the zero frequency to pixel (N//2, N//2)")
    group.add_argument("--shift", type=str | None, metavar="Y,X", help="roll the patterns by so many pixels")
    group.add_argument(
        "--detector-tilt",
        type=str | None,
        metavar="PITCH,YAW",
        help="rad, of the detector about x and y: interpolate the patterns to those of an upright one; not integers",
    )
    group.add_argument(
        "--beam", type=str | None, metavar="Y,X", help="with it, the pixel where the beam meets the tilted detector"
    )
    add_frame_options(group)
    group = parser.add_argument_group("patterns")
    group.add_argument(
        "--drop-outliers",
        action="store_true",
        help="omit patterns without counts, with far too few or too many, and far from all others",
    )
    group.add_argument("--drop", type=str | None, metavar="INDICES", help="omit these, from 0 on, such as 3,7,20-25")
    group.add_argument(
        "--even-dose", action="store_true", help="divide patterns by their exposure, judged by neighbours; not integers"
    )
    group = parser.add_argument_group("positions and probe")
    group.add_argument(
        "--position-unit",
        type=str | None,
        metavar="UNIT",
        help="um, mm, nm, m or px: what the coordinates in the file are, whatever its format states",
    )
    group.add_argument("--scale-positions", type=float | None, metavar="F", help="multiply the positions")
    group.add_argument("--scale-probe", action="store_true", help="scale the probe to the mean counts of the patterns")
    group.add_argument("--centre-probe", action="store_true", help="roll the probe to the centre of its patch")
    add_target_format(parser)
    parser.add_argument("--no-orientation", action="store_true", help="do not check the orientation (a few seconds)")
    add_orientation(parser)
    add_overwrite(parser)
    add_scan_options(parser, omit=("position_unit", "crop"))


def run(options: Namespace) -> int:
    """Repair a scan that inspect or train complain about, and write a sound one; OUT records what was done.

    Without a mend, name those that the findings of the scan ask for (exit code 2).
    """
    from ptychopinn.inspection import inspect_scan
    from ptychopinn.io.scans import format_to_read, format_to_write
    from ptychopinn.mending import Mends, Note, apply_mends
    from ptychopinn.mending.notes import with_notes
    from ptychopinn.scan import Scan

    mends = Mends(
        **{name: options[name] for name in (*_SWITCHES, *_PLAIN)},
        shift=None if options.shift is None else _shift(options.shift),
        drop=() if options.drop is None else _indices(options.drop),
        detector_tilt=None if options.detector_tilt is None else _pair("--detector-tilt", options.detector_tilt),
        beam=None if options.beam is None else _pair("--beam", options.beam),
    )
    target = format_to_write(options.out, options.to)
    files = target.files_of(Path(options.out))
    for path in files:
        _not_read(path, [options.scan_file, options.partner])
        new_file(path, options.overwrite)
    found = format_to_read(options.scan_file, options.format)
    scan = Scan.load(options.scan_file, **_scan_options(options))
    read = [Note(name, _READ[name].format(options[name]), {"pixels": options[name]}) for name in _READ if options[name]]
    stated = bool(mends or read)
    done = apply_mends(
        with_notes(scan, read, str(options.scan_file)) if read else scan,
        mends,
        all=options.all or not stated,
        check_orientation=not options.no_orientation,
        coordinates="px" if found.name in _IN_PIXELS else "m",
        origin=str(options.scan_file),
    )
    notes = [*read, *done.notes]
    for note in notes if stated or options.all else ():
        print(note)
    left = inspect_scan(done.scan, orientation=False).findings
    if not stated and not options.all:
        raise InputError(_advice(options, done.mends.options(), [finding.sentence for finding in left]))
    if not notes:
        print("nothing to mend: no finding asks for it")
    done.scan.save(Path(options.out), format=target.name)
    for finding in left:
        print(f"still there: {finding}")
    if not left:
        print("no findings")
    print_written(files)
    return 0


def _advice(options: Namespace, words: list[str], left: list[str]) -> str:
    rest = f"; these remain: {'; '.join(left)}" if left else ""
    if not words:
        return (
            f"{options.scan_file}: expected the mends to apply, found none, and no finding asks for one{rest}; "
            "`ptychopinn mend --help` lists them"
        )
    command = ["ptychopinn", "mend", options.scan_file, options.out, *words, *_reading(options)]
    sentence = f"{options.scan_file}: expected the mends to apply, found none; its findings ask for them{rest}:"
    return f"{sentence}\n{shlex.join(command)}"


def _scan_options(options: Namespace) -> dict[str, Any]:
    """What the options state about the scan; the unit of its positions is a mend, whatever their source."""
    return {name: value for name, value in scan_options(options).items() if name != "position_unit"}


def _reading(options: Namespace) -> list[str]:
    """The options about the scan file and OUT as the user stated them."""
    words = ["--overwrite"] if options.overwrite else []
    stated: dict[str, Any] = {**_scan_options(options), "to": options.to}
    return words + option_words(stated)


def _not_read(path: Path, inputs: Iterable[str | None]) -> None:
    """Refuse to write to a file that is read."""
    for given in inputs:
        if given is None or not path.exists() or not Path(given).exists():
            continue
        read = [Path(given), *(Path(given).iterdir() if Path(given).is_dir() else ())]
        if any(path.samefile(file) for file in read):
            raise InputError(f"{path}: expected another name than the scan's own, which is not changed; name another")


def _shift(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"\(?\s*([+-]?\d+)\s*,\s*([+-]?\d+)\s*\)?", text)
    if found is None:
        raise InputError(f"--shift must be two integers Y,X (--shift=-3,2 where the first is negative), got {text!r}")
    return int(found[1]), int(found[2])


def _pair(option: str, text: str) -> tuple[float, float]:
    try:
        first, second = (float(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"{option} must be two numbers with a comma between them, got {text!r}") from None
    return first, second


def _indices(text: str) -> tuple[int, ...]:
    indices: set[int] = set()
    for word in text.split(","):
        found = re.fullmatch(r"\s*(\d+)(?:\s*-\s*(\d+))?\s*", word)
        if found is None:
            raise InputError(f"--drop must be indices and ranges such as 3,7,20-25, got {text!r}")
        first, last = int(found[1]), int(found[2] or found[1])
        if last < first or last - first > 1 << 26:
            raise InputError(f"--drop must have ranges from a smaller to a larger index, got {word.strip()!r}")
        indices |= set(range(first, last + 1))
    return tuple(sorted(indices))
