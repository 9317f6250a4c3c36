# SPDX-License-Identifier: BSD-3-Clause
"""Send a recorded scan as a detector would."""

from __future__ import annotations

from jsonargparse import Namespace

from ptychopinn.cli.options import add_scan_options, load_scan
from ptychopinn.cli.parser import Parser


def describe(parser: Parser) -> None:
    """Add the options of the command."""
    parser.add_argument("scan_file", metavar="SCAN", help="the scan to send")
    parser.add_argument(
        "--to",
        required=True,
        metavar="ADDRESS",
        help="zmq://127.0.0.1:PORT (a DECTRIS stream), pva://CHANNEL, a new FILE.h5, or a new folder",
    )
    parser.add_argument("--rate", type=float, default=100.0, help="frames per second")
    parser.add_argument(
        "--faults",
        type=str,
        default="",
        metavar="NAME,NAME",
        help="what goes wrong: drop, reorder, repeat, damage, stall, restart, each with =NUMBER if it is not usual",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the faults")
    add_scan_options(parser)


def run(options: Namespace) -> int:
    """Send a recorded scan as a detector would, to practise a live run with it.

    Frames go out at a rate, with their positions, and with faults if some are asked for: `ptychopinn live` receives
    them.
    """
    from ptychopinn.streaming.replay import Faults, open_sender, replay

    faults = Faults.parse(options.faults)
    scan = load_scan(options)
    sender = open_sender(options.to)
    try:
        print(f"{sender.address}: {scan.n} frames of {scan.patch_size} px, {options.rate:g} per second", flush=True)
        sent = replay(scan, sender, options.rate, faults, options.seed)
    finally:
        sender.close()
    lost = ", ".join(map(str, sent.lost[:20])) + (" ..." if len(sent.lost) > 20 else "")
    print(f"sent {sent.sent} of {scan.n} frames in {sent.seconds:.1f} s{f'; lost on purpose: {lost}' if lost else ''}")
    return 0
