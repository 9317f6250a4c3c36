# SPDX-License-Identifier: BSD-3-Clause
"""The first frames compared with the setup, as `ptychopinn inspect` does it, with warnings on the page.

Dose, centre, overlap and pixels are looked at when there are 64, 512 and 4096 frames, in a moment. The orientation of
the positions takes seconds of one core, and is tried once, on a thread of its own.
"""

from __future__ import annotations

import logging
import threading

from ptychopinn.errors import InputError
from ptychopinn.findings.gate import require_sound
from ptychopinn.inspection.orientation import check_orientation
from ptychopinn.runtime.process_settings import own_threads
from ptychopinn.scan import Scan
from ptychopinn.streaming.page.board import Board

_log = logging.getLogger(__name__)

#: Numbers of frames at which they are compared with the setup, and from which on their orientation is tried.
_AT, _ORIENTATION = (64, 512, 4096), 256
#: Frames that are looked at, the latest.
FRAMES = 256


class FirstChecks:
    """Compares frames with their setup.

    Args:
        board: what the page shows.
    """

    def __init__(self, board: Board) -> None:
        self.board = board
        self._done = 0
        self._orientation: threading.Thread | None = None

    def due(self, frames: int) -> bool:
        """Whether there are frames enough for the next comparison."""
        later = self._orientation is None and frames >= _ORIENTATION
        return later or (self._done < len(_AT) and frames >= _AT[self._done])

    def look(self, scan: Scan, frames: int) -> None:
        """Compare some of the latest frames, of so many."""
        while self._done < len(_AT) and frames >= _AT[self._done]:
            self._done += 1
        for finding in require_sound(scan, "all").findings:
            if finding.severity != "note":
                self.board.warn(finding.key, f"{finding.sentence}: {finding.advice}")
        if self._orientation is None and frames >= _ORIENTATION:
            self._orientation = threading.Thread(target=self._try, args=(scan,), name="orientation", daemon=True)
            self._orientation.start()

    def wait(self, seconds: float) -> None:
        """Wait for the orientation, if it is being tried, and not longer than this."""
        if self._orientation is not None:
            self._orientation.join(seconds)

    def _try(self, scan: Scan) -> None:
        try:
            with own_threads(1):
                report = check_orientation(scan)
        except InputError as error:
            _log.info("the orientation of the positions could not be tried: %s", error)
            return
        if report.sure and not report.given_is_best:
            advice = f"begin again with --orientation {report.best}"
            self.board.warn("orientation", f"{report.sentence}: {advice}")
            _log.warning("%s: %s", report.sentence, advice)
