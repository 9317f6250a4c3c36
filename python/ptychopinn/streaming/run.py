# SPDX-License-Identifier: BSD-3-Clause
"""A live run: frames become patches, patches the image, during the scan; and what remains of it at its end.

One thread receives (:mod:`ptychopinn.streaming.intake`), this one reconstructs. While frames wait it predicts; while
none do it refines; in between it publishes pictures and saves. Whatever ends it, the frames are in their folder and the
image in its file.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from numpy.typing import NDArray

from ptycho_ext import CanvasGeometry
from ptychopinn.config import Config, LiveConfig
from ptychopinn.errors import InputError
from ptychopinn.inspection.orientation import ORIENTATIONS
from ptychopinn.models import PtychoModel
from ptychopinn.reconstruction import Reconstruction
from ptychopinn.scan import Scan
from ptychopinn.stitching.stores import Box
from ptychopinn.storage.spool import Spool
from ptychopinn.streaming.first_checks import FRAMES, FirstChecks
from ptychopinn.streaming.improvement import Improvement
from ptychopinn.streaming.intake import Intake
from ptychopinn.streaming.latency import Latencies
from ptychopinn.streaming.mosaic import GrowingMosaic
from ptychopinn.streaming.page.board import Board
from ptychopinn.streaming.predictor import EvenPatches, Predictor, first_probe
from ptychopinn.streaming.setup import turned_path

_log = logging.getLogger(__name__)

#: Frames from which a probe is estimated, where none is known.
_FOR_PROBE = 64
#: Frames among which neighbours of new ones are searched, the latest.
_SEARCHED = 20_000
#: Side of a cell, relative to N, in which frames are at the same position: where a scan is repeated, those of earlier
#: passes would fill the groups of new ones.
_SPACING = 0.05
#: Pictures and results of large canvases are made less often: once in so many times the time that one takes.
_COST = 5.0
#: Seconds between two statements of the numbers.
_STATUS = 0.25
_WAIT = 0.05
#: Seconds for which waiting frames are added to the image after the run was asked to stop.
_GRACE = 5.0


class LiveRun:
    """Reconstruct what an intake receives.

    Args:
        intake: of the frames.
        out: the result's file.
        model: a trained model; None: the pretrained network, or nothing.
        config: of the model.
        live: of the run.
        device: of the computation.
        network: False: no network, refinement from nothing alone.
        board: what the page shows.
        stop: whether to end now; asked often.

    Attributes:
        latencies: seconds from the arrival of a frame, with its position, to the picture that has it.
        reconstructed: frames in the image.
    """

    def __init__(
        self,
        intake: Intake,
        out: Path,
        model: PtychoModel | None,
        config: Config | None,
        live: LiveConfig,
        device: torch.device,
        network: bool = True,
        board: Board | None = None,
        stop: Callable[[], bool] = lambda: False,
    ) -> None:
        self.intake, self.out, self.live, self.device, self.board, self.stop = intake, out, live, device, board, stop
        self.model, self.config, self.network = model, config, network
        self.name = "no network" if not network else "pretrained network" if model is None else "trained network"
        self.mosaic = GrowingMosaic()
        self.improvement = Improvement(device, live.improve_passes if live.improve else 0)
        self.latencies = Latencies()
        self.reconstructed = 0
        self._predictor: Predictor | EvenPatches | None = None
        self._probe: NDArray[np.complex64] | None = None
        self._indexes = np.empty(0, np.int64)  # of the frames in the image
        self._positions = np.empty((0, 2))  # of these, in scan coordinates
        self._far: list[int] = []  # frames that are too far away for an image with the others
        self._pending: list[tuple[int, float]] = []  # frames whose group is not complete
        self._shown: list[float] = []  # arrival of frames that are in the image and not yet in a picture
        self._changed = False
        self._begun = self._last_status = self._next_picture = time.monotonic()
        self._next_save = self._begun + live.save_seconds
        self._state, self._improving = "", False
        self._checks = FirstChecks(board) if live.checks and board is not None else None

    # The loop

    def follow(self) -> None:
        """Reconstruct until the source has ended and no frames wait, or until it is to stop."""
        while not self.stop():
            ended = self.intake.ended.is_set()
            waiting, age = self.intake.backlog()
            if waiting and (waiting >= self.live.batch_size or age >= self.live.batch_seconds or ended):
                self._add(self.intake.take(self.live.batch_size))
            elif ended:
                break
            elif not self._improve():
                self.intake.changed.wait(_WAIT)
                self.intake.changed.clear()
            self._publish()
        self.intake.stop()
        limit = time.monotonic() + _GRACE if self.stop() else math.inf
        while self.intake.backlog()[0] and time.monotonic() < limit:
            self._add(self.intake.take(self.live.batch_size))
        if self._pending:
            self._add([], last=True)
        self._publish(now=True)

    def _add(self, frames: list[tuple[int, float]], last: bool = False) -> None:
        """Predict frames, and add them to the image."""
        frames, self._pending, self._improving = self._pending + frames, [], False
        spool, size = self._spool, self.intake.setup.size
        assert size is not None
        indexes = np.array([index for index, _ in frames], np.int64)
        positions = self._positions_of(indexes)
        near_enough = self.mosaic.fits(np.floor(positions).astype(np.int64), (size, size))
        if not near_enough.all():
            far = indexes[~near_enough]
            self._far += far.tolist()
            self.intake.report(
                "unexpected",
                f"{self.intake.source.address}: frame {far[0]} is too far away from the others for one image; it "
                "is stored",
            )
            frames = [frame for frame, near in zip(frames, near_enough, strict=True) if near]
            indexes, positions = indexes[near_enough], positions[near_enough]
        if not frames:
            return
        if self._predictor is None:
            if self.intake.setup.probe is None and len(spool) < _FOR_PROBE and not last:
                self._pending = frames
                return
            self._begin(indexes, positions)
        predictor = self._predictor
        assert predictor is not None
        near = self._near(positions, size)
        every = np.concatenate([indexes, self._indexes[near]])
        where = np.concatenate([positions, self._positions[near]])
        groups = predictor.groups(len(indexes), where, size)
        done = np.zeros(len(indexes), np.bool_)
        for some in groups:
            used, members = np.unique(some, return_inverse=True)
            scan = self._scan(every[used], where[used])
            if scan is None:  # they are dark
                done[used[used < len(indexes)]] = True
                continue
            for canvases, origins, weights in predictor.patches(scan, members.reshape(some.shape)):
                self.mosaic.add(canvases, origins, weights)
            done[used[used < len(indexes)]] = True
        self._pending = [] if last else [frame for frame, known in zip(frames, done, strict=True) if not known]
        self._shown += [arrived for (_, arrived), known in zip(frames, done, strict=True) if known]
        self._indexes = np.concatenate([self._indexes, indexes[done]])
        self._positions = np.concatenate([self._positions, positions[done]])
        self.reconstructed += int(done.sum())
        self._changed = self._changed or bool(done.any())
        if self.board is not None and done.any():
            self.board.add_positions(positions[done] + (size - 1) / 2)
        self._check()

    def _begin(self, indexes: NDArray[np.int64], positions: NDArray[np.float64]) -> None:
        """Choose the probe, and load the network."""
        setup = self.intake.setup
        self._probe = first_probe(setup, self._spool.patterns(self._spool.indexes[:_FOR_PROBE]))
        scan = self._scan(indexes, positions)
        if scan is None:
            raise InputError(f"{self._spool.folder}: expected counts, found frames that are all zero; is the beam on?")
        if self.network:
            self._predictor = Predictor(self.model, self.config, scan, self.device)
        else:
            self._predictor = EvenPatches(scan)

    @property
    def _spool(self) -> Spool:
        assert self.intake.spool is not None
        return self.intake.spool

    def _positions_of(self, indexes: NDArray[np.int64]) -> NDArray[np.float64]:
        """Positions (k, 2) of frames in pixels, from an origin that stays the same."""
        setup = self.intake.setup
        with self.intake.lock:
            stored = self._spool.positions(indexes)
        positions: NDArray[np.float64] = stored @ ORIENTATIONS[setup.orientation].T
        if self._spool.facts["position_unit"] == "px":
            return positions
        assert setup.pixel_size is not None and setup.size is not None
        positions = positions / setup.pixel_size - (setup.size - 1) / 2
        return positions

    def _near(self, positions: NDArray[np.float64], size: int) -> NDArray[np.intp]:
        """Rows of the frames in the image that may be neighbours of new ones, but are not at the same positions.

        Of several at one position it is the latest.
        """
        low, high = positions.min(0) - size, positions.max(0) + size
        rows = np.flatnonzero(((self._positions >= low) & (self._positions <= high)).all(1))[-_SEARCHED:][::-1]
        cells = np.floor(np.concatenate([positions, self._positions[rows]]) / (_SPACING * size)).astype(np.int64)
        _, first = np.unique(cells, axis=0, return_index=True)
        return rows[first[first >= len(positions)] - len(positions)]

    def _scan(self, indexes: NDArray[np.int64], positions: NDArray[np.float64]) -> Scan | None:
        """Some frames as a scan; None if all of them are zero."""
        setup = self.intake.setup
        with self.intake.lock:
            patterns = self._spool.patterns(indexes)
        counts = patterns[:]
        if not counts.any():
            return None
        assert self._probe is not None
        return Scan(
            counts, positions, self._probe,
            bad_pixels=setup.bad_pixels, pixel_size=setup.pixel_size, energy=setup.energy,
            name=self._spool.facts.get("name") or "scan", frame_indexes=indexes,
            experiment=turned_path(setup.experiment, ORIENTATIONS[setup.orientation]),
        )  # fmt: skip

    # What happens in between

    def _improve(self) -> bool:
        """Refine the image for a moment; False if there is nothing to do."""
        total, size = len(self._indexes), self.intake.setup.size
        if self._predictor is None or size is None or not self.live.improve:
            return False
        assert self._spool.dtype is not None
        count = self.improvement.frames(total, size**2 * self._spool.dtype.itemsize, self.intake.receiving())
        if not self.improvement.wants(total, count):
            return False
        self._improving = True
        try:
            if not self.improvement.continues(total, count):
                scan = self._scan(self._indexes[-count:], self._positions[-count:])
                if scan is None:
                    return False
                self.improvement.begin(scan, self.picture(self._box(self._positions[-count:], size)), total)
            result = self.improvement.step(self.live.improve_seconds)
        except InputError as error:  # the image is there without it
            self.intake.report("refinement", f"the image is not refined further: {error}")
            self.improvement.end()
            return False
        height, width = result.object.shape
        geometry = CanvasGeometry((round(result.origin[0]), round(result.origin[1])), (height, width))
        self.mosaic.replace(torch.from_numpy(result.object), geometry)
        self._changed = True
        return True

    def _check(self) -> None:
        """Compare the latest frames with the setup, if it is time."""
        frames = len(self._indexes)
        if self._checks is None or not self._checks.due(frames):
            return
        scan = self._scan(self._indexes[-FRAMES:], self._positions[-FRAMES:])
        if scan is not None:
            self._checks.look(scan, frames)

    def frames(self) -> NDArray[np.int64]:
        """Indexes of all frames that have a position and can be in one image, ascending."""
        return np.setdiff1d(self._spool.complete(), np.array(self._far, np.int64))

    @property
    def has_image(self) -> bool:
        """Whether there is an image."""
        return self.mosaic.geometry is not None

    def state(self, name: str) -> None:
        """State what the run does now, for the page."""
        if self._checks is not None and name != "interrupted":
            self._checks.wait(_GRACE)
        self._state = name
        self._publish(now=True)

    def save(self) -> None:
        """Save the image as it is."""
        self.picture().save(self.out)

    def finish(self, result: Reconstruction) -> None:
        """Show the result of all frames."""
        if self.board is not None:
            self.board.set_picture(result.object, result.covered(), result.origin, result.pixel_size)
        self.state("finished")

    def _box(self, positions: NDArray[np.float64], size: int) -> Box:
        """The rows and columns of the canvas that frames at these positions cover."""
        geometry = self.mosaic.geometry
        assert geometry is not None
        low = np.clip(np.floor(positions.min(0)).astype(int) - geometry.origin, 0, None)
        high = np.minimum(np.ceil(positions.max(0)).astype(int) + size + 1 - geometry.origin, geometry.shape)
        return slice(int(low[0]), int(high[0])), slice(int(low[1]), int(high[1]))

    def picture(self, box: Box | None = None) -> Reconstruction:
        """The image as it is, or the part in a box of its canvas; there is one."""
        image = self.mosaic.mean(box)
        return Reconstruction(
            object=image.image.numpy(),
            weights=image.weights.numpy(),
            origin=(float(image.geometry.origin[0]), float(image.geometry.origin[1])),
            probe=self._probe,
            pixel_size=self.intake.setup.pixel_size,
            metadata={"scan": self._spool.facts.get("name") or "scan", "live": self.status()},
        )

    def _publish(self, now: bool = False) -> None:
        """Show picture and status, and save, each if it is time."""
        clock = time.monotonic()
        if self._changed and (now or clock >= self._next_picture):
            self._show()
            took = time.monotonic() - clock
            self._next_picture = clock + max(self.live.picture_seconds, _COST * took)
        if self.board is not None and (now or clock - self._last_status >= _STATUS):
            self.board.set_status(self.status())
            self._last_status = clock
        if self.has_image and clock >= self._next_save:
            begun = time.monotonic()
            self.save()
            self._next_save = begun + max(self.live.save_seconds, _COST * (time.monotonic() - begun))

    def _show(self) -> None:
        """Put the picture on the page; the frames in it are then seen."""
        if self.board is not None and self.has_image:
            image = self.mosaic.mean()
            origin = (float(image.geometry.origin[0]), float(image.geometry.origin[1]))
            covered = self.mosaic.covered().numpy()
            self.board.set_picture(image.image.numpy(), covered, origin, self.intake.setup.pixel_size)
        seen = time.monotonic()
        self.latencies.add(seen - arrived for arrived in self._shown)
        self._shown, self._changed = [], False

    def status(self) -> dict[str, Any]:
        """The run in numbers, as JSON values; see :meth:`ptychopinn.streaming.page.board.Board.set_status`."""
        return {
            "state": self._current_state(),
            "reconstructed": self.reconstructed,
            "parts": self.mosaic.parts,
            "latency": self._latency(),
            "elapsed": time.monotonic() - self._begun,
            "memory": psutil.Process().memory_info().rss,
            "loss": [[at - self._begun, value] for at, value in self.improvement.losses[-200:]],
            "passes": self.improvement.passes,
            "model": self.name,
            "result": str(self.out),
            **self.intake.status(),
            "spooled": self.intake.backlog()[0] + len(self._pending),
        }

    def _latency(self) -> dict[str, float] | None:
        """Seconds from the arrival of a frame to the picture that has it."""
        if not len(self.latencies):
            return None
        return {"median": self.latencies.quantile(0.5), "p99": self.latencies.quantile(0.99)}

    def _current_state(self) -> str:
        if self._state in ("finishing", "finished", "interrupted"):
            return self._state
        if not self.intake.counts["received"]:
            return "waiting"
        return "improving" if self._improving else "receiving"
