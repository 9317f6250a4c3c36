# SPDX-License-Identifier: BSD-3-Clause
"""The passes of a refinement: initial state, engines, rounds of the positions, the state as a reconstruction."""

from __future__ import annotations

import dataclasses
import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ptycho_ext import CanvasGeometry
from ptychopinn._one_line import one_line
from ptychopinn.batches.dataset import good_pixels
from ptychopinn.config import RefineConfig
from ptychopinn.physics.exposure import exposure_points
from ptychopinn.reconstruction import Reconstruction
from ptychopinn.refinement.ambiguities import remove_affine, robust_deviation
from ptychopinn.refinement.checkpoint import VERSION, Writer, fingerprint, read_checkpoint, write_checkpoint
from ptychopinn.refinement.counts import upload_counts
from ptychopinn.refinement.distance_search import find_distances, searches_distances
from ptychopinn.refinement.engines import ENGINES, LbfgsEngine, PieEngine
from ptychopinn.refinement.experiment_objective import ExperimentObjective, make_objective
from ptychopinn.refinement.initial import experiment_of, initial_state
from ptychopinn.refinement.interrupts import uninterrupted
from ptychopinn.refinement.joint import Joint
from ptychopinn.refinement.outcome import as_reconstruction
from ptychopinn.refinement.position_common import COMMON_PASSES, common_first
from ptychopinn.refinement.position_outliers import replace_outliers, search_radius
from ptychopinn.refinement.probe_of_each import objective_options
from ptychopinn.refinement.readback import read_back
from ptychopinn.refinement.regions import compact_batches
from ptychopinn.refinement.regularisation import Regularisers, make_projection
from ptychopinn.refinement.schedule import config_at, last_begin
from ptychopinn.refinement.search import find_defocus, find_outliers, search_positions, searches_defocus
from ptychopinn.refinement.state import State
from ptychopinn.refinement.support import confined, disc, shrunk
from ptychopinn.refinement.variation_prior import VariationPrior
from ptychopinn.refinement.variations import estimate_variations
from ptychopinn.refinement_report import RefinementReport
from ptychopinn.runtime.processes import agree, broadcast
from ptychopinn.runtime.progress import progress as progress_bar
from ptychopinn.scan import Scan

_log = logging.getLogger(__name__)

#: Margin of the canvas around the scan, pixels, for positions that move outwards.
_MARGIN = 8
#: Passes over which the stopping rule takes the improvement, without and with refined positions.
_STOP_PASSES = 10
_ROUND = 30
#: Passes that begin a round of refined positions: outliers are searched and "lbfgs" restarts, less and less often.
_ROUNDS = (*(_ROUND * k for k in (1, 2, 4, 5, 6, 7)), *(_ROUND * 2**k for k in range(3, 16)))
#: The first round in which positions of outliers are searched in an object that is refined without them.
_REPLACE = 4 * _ROUND
#: Variations of the probe begin when the refinement without them has ended, or after this fraction of the passes: as
#: long as slow phases of the object are wrong, variations explain these instead.
_VARIATIONS_LATEST = 0.5
#: Passes between two lines of the log.
_LOG_PASSES = 10


@dataclass(frozen=True)
class Progress:
    """Progress of a refinement, as given to the callback of :func:`refine`.

    Attributes:
        passes: number of passes over the scan.
        seconds: time of the refinement, with that before it was resumed.
        deviance: per detector pixel; about 1 for a complete model and bright pixels, lower where most pixels are dark.
        save: writes a checkpoint to a file, or hands its values to a writer.
        result: makes a reconstruction of the current state.
        last: whether this is the last call.
    """

    passes: int
    seconds: float
    deviance: float
    save: Callable[[Path | Writer], None]
    result: Callable[[], Reconstruction]
    last: bool = False

    __repr__ = one_line


class Refinement:
    """A refinement in progress; arguments are those of :func:`refine`, and ``joint`` of several scans."""

    def __init__(
        self,
        scan: Scan,
        start: Reconstruction | None,
        config: RefineConfig,
        device: torch.device,
        progress: Callable[[Progress], None] | None,
        every: int,
        label: str = "refine",
        joint: Joint | None = None,
    ) -> None:
        self.scan, self.config, self.device, self.progress, self.every = scan, config, device, progress, every
        self.label = label
        self.start_time, self.earlier_seconds = time.perf_counter(), 0.0
        self.scratch = start is None
        positions = scan.positions
        if start is not None and start.positions is not None and len(start.positions) == scan.n:
            positions = start.positions
        self.experiment = experiment_of(scan, start, config)
        reach = np.abs(exposure_points(self.experiment)[0]).max()
        self.geometry = CanvasGeometry.from_positions(positions, scan.patch_size, _MARGIN + math.ceil(reach))
        initial = initial_state(scan, start, self.geometry, positions, config)
        self.joint, self.groups, photons = joint, None, None
        if joint is not None:
            photons = joint.prepare(initial, self.scratch)
            photons = None if photons is None else photons.to(device)
            if joint.groups is not None:
                self.groups = torch.from_numpy(joint.groups).to(device)
        counts, good = upload_counts(scan.counts, device), good_pixels(scan)
        plain = self.experiment.plain and not initial.background.numel()
        good = None if good is None else good.to(device)
        self.objective = make_objective(
            scan, self.experiment, counts, good, self.geometry.shape, config, device, len(initial.probe), plain,
            **objective_options(joint),
        )  # fmt: skip
        self.objective.photons = photons
        if config.probe_support is not None:
            self.objective.support = disc(scan.patch_size, config.probe_support, device)
        self.reported = self.geometry.to_canvas(scan.positions).to(device)
        self.regularisers = Regularisers(config, self.objective.pixels, self.reported, self.groups)
        self.project, self.rounds = make_projection(config, self.reported, self.groups), _ROUNDS
        #: Passes in which positions move together only.
        self.common_passes = COMMON_PASSES if config.affine == "refine" or config.drift else 0
        if self.common_passes:
            common = self.common_passes
            self.project = common_first(config, self.reported, lambda: self._position_passes() + common, self.groups)
            self.rounds = (0, *_ROUNDS)
        self.state = initial.to(device)
        broadcast(*self.state)
        self.first_positions = self.state.positions.clone()
        self._set_initial_probe(self.state.probe.clone())
        #: Pass from which on the probe varies.
        self.varied_from: int | None = None
        if len(self.state.variations):
            self.varied_from = 0
            self._allow_variations(self.state.probe)
        self.engine: PieEngine | LbfgsEngine | None = None
        #: What is refined in this pass, and the pass from which on all of it is, by pixels of the support.
        self.stage, self.begun = config_at(config, 0), last_begin(config)
        # J after every pass, with and without regularisers.
        self.passes, self.values, self.explained = 0, list[float](), list[float]()
        self.interrupted = self.prepared = False
        self.last_moved = -_ROUND  # passes when the position of an outlier was last replaced

    def iterate(self) -> None:
        """Do all passes."""
        config = self.config
        if not self.prepared:
            if searches_defocus(config, self.experiment, self.scratch):
                self.state.probe = find_defocus(self.objective, self.state, config)
                broadcast(self.state.probe)
            if searches_distances(config, self.experiment, self.scratch):
                self.state.distances, self.state.probe = find_distances(self.objective, self.state, config)
                broadcast(self.state.distances, self.state.probe)
            self.state = confined(self.state, self.objective.support, self.scan.name)
            self._set_initial_probe(self.state.probe.clone())
        self.prepared = True
        with progress_bar(self.label, config.iterations, "passes") as advance:
            advance(self.passes)
            over = self.over()
            while not over:
                self.advance()
                advance(1)
                over = self.over()
                if over or self.passes % self.every == 0:
                    self.report(last=over)

    def over(self) -> bool:
        """Whether the last pass was the last one, by the configuration; all processes agree."""
        if self.passes >= self.config.iterations or agree(self._late()):
            return True
        if not agree(self._finished()):
            return False
        if self._lacks_variations():
            self._begin_variations()
            return False
        return True

    def advance(self) -> None:
        """Do a pass over the scan."""
        latest = self.config.iterations * _VARIATIONS_LATEST if self.scratch else 0
        if self.passes >= latest and self._lacks_variations():
            self._begin_variations()
        if self.config.learn_positions and self._position_passes() in self.rounds:
            self._next_round(self._current_engine())
        self._begin_stage()
        engine = self._current_engine()
        value = engine.advance()
        with uninterrupted():
            self.values.append(value)
            self.explained.append(engine.data_term)
            self.state = engine.state
            self.passes += 1
        if self.passes % _LOG_PASSES == 0:
            _log.info(
                "%s: pass %d of %d, deviance %.4f per pixel, %.1f s",
                self.label, self.passes, self.config.iterations, self.deviance(), self._seconds(),
            )  # fmt: skip

    def _current_engine(self) -> PieEngine | LbfgsEngine:
        """The engine of this pass: "pie" during the warm-up, then that of the configuration."""
        warm = self.scratch and self.passes < self.config.warmup
        kind = ENGINES["pie" if warm else self.config.engine]
        if not isinstance(self.engine, kind):
            self.objective.learn_positions = self.stage.learn_positions
            self.engine = kind(self.objective, self.state, self.stage, self.regularisers, self.project)
        return self.engine

    def _begin_stage(self) -> None:
        """Begin to refine what is refined from this pass on, and shrink the support of the probe if it is time."""
        stage, support = config_at(self.config, self.passes), self.objective.support
        state = self.state if self.engine is None else self.engine.state
        if stage.probe_threshold and stage.learn_probe and self.passes and self.passes % _ROUND == 0:
            support = shrunk(state, support, stage.probe_threshold)
            self.begun = self.begun if support is self.objective.support else self.passes
        if stage != self.stage or support is not self.objective.support:
            state = confined(state, support, self.scan.name)
            self.stage, self.objective.support, self.state, self.engine = stage, support, state, None

    def _set_initial_probe(self, probe: Tensor) -> None:
        """Set the probe whose power and centre are kept."""
        self.initial_probe = probe
        self.regularisers.limits.set_power(probe)

    def _lacks_variations(self) -> bool:
        return len(self.state.variations) < self.config.probe_variations

    def _begin_variations(self) -> None:
        """Add variations of the probe to the state; a pass with them takes longer."""
        state = self.state
        self._allow_variations(state.probe)
        objective, config = self.objective, self.config
        assert isinstance(objective, ExperimentObjective) and self.regularisers.variation is not None
        positions = read_back(state.positions)
        rng = np.random.default_rng([config.seed, 2])
        objective.set_batches(compact_batches(positions, objective.batch_size(), rng), positions)
        prior = self.regularisers.variation
        state.variations, state.coefficients = estimate_variations(
            objective, state, prior, config.probe_variations, config.seed
        )
        if objective.support is not None:
            state.variations = state.variations * objective.support
        broadcast(state.variations, state.coefficients)
        self.varied_from, self.engine = self.passes, None
        _log.info("%s: the probe varies from pass %d", self.label, self.passes)

    def _allow_variations(self, probe: Tensor) -> None:
        """Have the objective and the prior of a probe (M, N, N) that varies."""
        plain = self.objective
        if self.config.learn_variation_coefficients:
            self.regularisers.variation = VariationPrior(self.reported, probe)
        if not isinstance(plain, ExperimentObjective):
            self.objective = make_objective(
                self.scan, self.experiment, plain.counts, plain.good, plain.canvas_size, self.config, self.device,
                len(probe), plain=False,
            )  # fmt: skip
            self.objective.photons, self.objective.support = plain.photons, plain.support

    def _position_passes(self) -> int:
        """Passes until now in which single positions were refined."""
        return self.passes - self.config.positions_from - self.common_passes

    def _next_round(self, engine: PieEngine | LbfgsEngine) -> None:
        """Search outliers, remove common motion, and estimate the deviation of the positions."""
        state, config = engine.state, self.config
        if config.search:
            moves = state.positions - self.reported
            centres = self.reported + moves - remove_affine(self.reported, moves, self.groups)
            deviation = self.regularisers.deviation
            late = self._position_passes() >= _REPLACE and self.objective.patterns.resident
            radius = search_radius(config, deviation) if late else config.search
            outside = (state.positions - centres).abs().amax(1, keepdim=True) > radius
            state.positions = torch.where(outside, centres, state.positions)
            if late:
                better = replace_outliers(self.objective, state, engine.residuals, centres, config, deviation)
                if not torch.equal(better.positions, state.positions):
                    self.last_moved = self.passes
                state.object, state.positions = better.object, better.positions
                broadcast(state.object)
            else:
                outliers = find_outliers(engine.residuals)
                state.positions = search_positions(self.objective, state, outliers, centres, config.search)
        # Relative to the first positions, to whose common motion the object and probe of an earlier result belong.
        state.positions = self.first_positions + self.project(state.positions - self.first_positions)
        broadcast(state.positions)
        moves = remove_affine(self.reported, state.positions - self.reported, self.groups)
        self.regularisers.deviation = robust_deviation(moves)
        if isinstance(engine, LbfgsEngine):
            engine.restart()

    def _late(self) -> bool:
        return self.config.minutes is not None and self._seconds() > 60 * self.config.minutes

    def _finished(self) -> bool:
        if self.passes <= self.begun:
            return False
        if isinstance(self.engine, LbfgsEngine) and self.engine.stalled:
            return True
        warm = self.config.warmup if self.scratch else 0
        values = self.values[max(warm, self.varied_from or 0, self.begun) :]
        # With refined positions, the first passes of a round improve little, and a search can increase J for a while.
        window, wait = (_ROUND, 2 * _ROUND) if self.config.learn_positions else (_STOP_PASSES, _STOP_PASSES)
        if self.config.learn_positions:
            wait += self.common_passes
        # A replaced outlier is followed by another round, in which its neighbours may be replaced.
        if len(values) <= wait or self.passes <= self.last_moved + _ROUND:
            return False
        return min(values[:-window]) - min(values[-window:]) < self.config.tolerance * values[-1]

    def report(self, last: bool = False) -> None:
        """Call ``progress``, if there is one."""
        if self.progress is not None:
            self.progress(Progress(self.passes, self._seconds(), self.deviance(), self.save, self.result, last))

    def _seconds(self) -> float:
        return self.earlier_seconds + time.perf_counter() - self.start_time

    def deviance(self) -> float:
        """Of the last pass, per detector pixel."""
        return 4 * self.explained[-1] / self.objective.pixels

    def save(self, path: Path | Writer) -> None:
        """Write a checkpoint that :func:`refine` can resume."""
        values = {
            "version": VERSION,
            "scan": fingerprint(self.scan, self.geometry),
            "config": dataclasses.asdict(self.config),
            "passes": self.passes,
            "seconds": self._seconds(),
            "values": self.values,
            "explained": self.explained,
            "begun": self.first_positions,
            "start_probe": self.initial_probe,
            "scratch": self.scratch,
            "support": self.objective.support,
            "supported": self.begun,
            "spread": self.regularisers.deviation,
            "moved": self.last_moved,
            "varied": self.varied_from,
            "variation_probe": None if self.regularisers.variation is None else self.regularisers.variation.probe,
            "engine": type(self.engine).__name__,
            "engine_state": None if self.engine is None else self.engine.state_dict(),
        }
        (partial(write_checkpoint, path) if isinstance(path, Path) else path)(values)

    def load(self, path: Path) -> None:
        """Continue from a checkpoint; raises :class:`InputError` for one of another refinement."""
        saved = read_checkpoint(path, self.scan, self.geometry, self.config, self.device)
        self.passes, self.values, self.explained = saved["passes"], saved["values"], saved["explained"]
        self.earlier_seconds, self.scratch, self.prepared = saved["seconds"], saved["scratch"], True
        self._set_initial_probe(saved["start_probe"])
        self.first_positions = saved["begun"]
        self.regularisers.deviation, self.last_moved = saved["spread"], saved["moved"]
        self.varied_from = saved["varied"]
        if saved["variation_probe"] is not None:
            self._allow_variations(saved["variation_probe"].to(self.device))
        kind = next(kind for kind in ENGINES.values() if kind.__name__ == saved["engine"])
        self.state = State(**saved["engine_state"]["state"])
        self.objective.support, self.begun = saved["support"], saved["supported"]
        self.stage = config_at(self.config, max(self.passes - 1, 0))
        self.objective.learn_positions = self.stage.learn_positions
        self.engine = kind(self.objective, self.state, self.stage, self.regularisers, self.project)
        self.engine.load_state_dict(saved["engine_state"])
        self.state = self.engine.state

    def result(self) -> Reconstruction:
        """The current state as a reconstruction in the scan's coordinates, with its ambiguities removed."""
        state = self.state if self.engine is None else self.engine.state
        residuals = torch.zeros_like(state.intensities) if self.engine is None else self.engine.residuals
        report = RefinementReport(
            passes=self.passes,
            seconds=self._seconds(),
            deviance=tuple(4 * value / self.objective.pixels for value in self.explained if np.isfinite(value)),
            interrupted=self.interrupted,
            config=dataclasses.asdict(self.config),
        )
        return as_reconstruction(
            self.scan, self.experiment, self.geometry, state, residuals, self.initial_probe, self.config, report,
            self.joint,
        )  # fmt: skip
