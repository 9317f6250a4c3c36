# SPDX-License-Identifier: BSD-3-Clause
"""The pictures of the page of a live run in the documentation: a replay is received, and Chromium looks at it."""

from __future__ import annotations

import os
import sys
import tempfile
import threading
import time
from pathlib import Path

import ptychopinn as pp
from ptychopinn.streaming.page.board import Board
from ptychopinn.streaming.page.server import serve
from ptychopinn.streaming.replay import Faults, open_sender, replay
from ptychopinn.streaming.workflow import live

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests" / "streaming"))

from browser import Browser  # noqa: E402

#: Picture -> width and height of the window.
SIZES = {"live": (1280, 800), "live-phone": (390, 844)}


def main() -> int:
    """Write the pictures to docs/images."""
    scan = pp.simulate("photos", "defocused", patterns=1089, seed=5)
    folder, board = Path(tempfile.mkdtemp()), Board("sample 12, scan 340")
    os.chdir(folder)
    server = serve(board)
    sender = open_sender("zmq://127.0.0.1:0")
    faults = Faults.parse("drop=0.004,reorder,repeat=0.005,damage=0.002")
    detector = threading.Thread(target=replay, args=(scan, sender, 35, faults, 3), daemon=True)
    stop = threading.Event()
    arguments = {"out": Path("live.h5"), "like": scan, "board": board, "stop": stop}
    receiver = threading.Thread(target=live, args=(sender.address,), kwargs=arguments, daemon=True)
    detector.start()
    receiver.start()
    time.sleep(18)
    with Browser() as browser:
        for name, (width, height) in SIZES.items():
            with browser.page(width, height) as page:
                page.open(server.url)
                time.sleep(2)
                if name == "live-phone":
                    page.evaluate("document.querySelector('input[type=checkbox]').click()")
                    time.sleep(1)
                page.screenshot(ROOT / "docs" / "images" / f"{name}.png")
    stop.set()
    receiver.join(60)
    server.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
