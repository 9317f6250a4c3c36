# SPDX-License-Identifier: BSD-3-Clause
"""From a scan and a start to a finished reconstruction: what ``ptychopinn refine`` and :func:`ptychopinn.refine` do."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from zlib import crc32

import numpy as np
import torch
from torch import Tensor

from ptycho_ext import CanvasGeometry
from ptychopinn.batches.dataset import good_pixels
from ptychopinn.config import RefineConfig
from ptychopinn.errors import InputError
from ptychopinn.metrics.split_half import compare_halves
from ptychopinn.physics.priors import roughness, total_variation
from ptychopinn.physics.propagation import squared_modulus
from ptychopinn.reconstruction import Reconstruction
from ptychopinn.refinement.ambiguities import (
    drift_of,
    fit_affine,
    mode_powers,
    orthogonalise_modes,
    spread_of,
    without_affine,
)
from ptychopinn.refinement.engines import ENGINES, LbfgsEngine, Penalty, PieEngine
from ptychopinn.refinement.objective import Objective, laid_out
from ptychopinn.refinement.search import badly_fitting, find_defocus, search_patterns
from ptychopinn.refinement.start import start_state
from ptychopinn.refinement.state import State
from ptychopinn.refinement_report import RefinementReport
from ptychopinn.runtime.processes import agree, broadcast, distributed
from ptychopinn.scan import Scan
from ptychopinn.storage.arrays import total_counts
from ptychopinn.storage.atomic import atomic_path
from ptychopinn.storage.stored import load_counts

_log = logging.getLogger(__name__)

#: Pixels around the scan that positions may move into.
_MARGIN = 8
#: Passes over which the improvement is judged, without and with positions.
_WINDOW = 10
_ROUND = 30
#: Passes after which, if positions are refined, outliers are sought. The engine begins again then, and forgets the
#: curvature that it has learned: ever more rarely.
_ROUNDS = tuple(_ROUND * 2**k for k in range(16))
#: Passes between two lines of the log.
_REPORT = 10


@dataclass(frozen=True)
class Progress:
    """Where a refinement is.

    Attributes:
        passes: over the scan so far.
        seconds: since the start, those before a resumed run included.
        deviance: per detector pixel; about 1 where all pixels are bright and the model is complete, less where dark
            pixels dominate.
        save: writes what can be resumed to a file.
        result: makes a reconstruction of the present state.
    """

    passes: int
    seconds: float
    deviance: float
    save: Callable[[Path], None]
    result: Callable[[], Reconstruction]


def refine(
    scan: Scan,
    start: Reconstruction | None = None,
    config: RefineConfig | None = None,
    device: str | torch.device = "cpu",
    *,
    progress: Callable[[Progress], None] | None = None,
    every: int = 10,
    resume: str | Path | None = None,
) -> Reconstruction:
    """Refine object, probe, positions and intensities of a scan against its counts.

    Args:
        scan: the scan; its truth is not looked at.
        start: what to begin with: its object where light fell, its probe and its positions, if it has them; none: an
            even object and the scan's probe.
        config: the configuration; defaults otherwise.
        device: where to compute.
        progress: called after every so many passes.
        every: so many.
        resume: a file that :attr:`Progress.save` wrote. On the CPU, the result is bit for bit that of a run that was
            never stopped.

    Returns:
        The reconstruction, with the probe's modes, the positions, the deviance per pixel of every pattern
        (``residuals``) and its map (``error_map``).

    Raises:
        InputError: the start does not fit the scan, or the file to resume another scan or configuration.
    """
    run = _Run(scan, start, config or RefineConfig(), torch.device(device), progress, every)
    if resume is not None:
        run.load(Path(resume))
    try:
        with torch.no_grad():
            run.go()
            run.tell_last()
    except KeyboardInterrupt:
        if run.passes == 0 or distributed():
            raise
        _log.warning("interrupted after %d passes: this is what was reached", run.passes)
        run.interrupted = True
        run.tell_last()
    result = run.result()
    if run.config.split_half and not run.interrupted:
        try:
            assert result.refinement is not None
            halves = split_half(scan, result, run.config, device)
            result = dataclasses.replace(result, refinement=dataclasses.replace(result.refinement, split_half=halves))
        except KeyboardInterrupt:
            if distributed():
                raise
            _log.warning("interrupted while the halves were refined: no resolution")
    return result


def split_half(
    scan: Scan, result: Reconstruction, config: RefineConfig, device: str | torch.device = "cpu"
) -> dict[str, Any] | None:
    """Refine two random halves of a scan apart from each other, and compare them.

    Both begin with an even object, and with the probe and the positions that were refined on all patterns, which are
    determined far better than any pixel of the object; the positions stay.

    Returns:
        See :func:`ptychopinn.metrics.split_half.compare_halves`; None where a half is too small to tell.
    """
    assert result.refinement is not None
    order = np.random.default_rng([config.seed, 1]).permutation(scan.n)
    half_config = dataclasses.replace(
        config, split_half=False, learn_positions=False, find_defocus=False, modes=None, minutes=None,
        iterations=max(1, result.refinement.passes),
    )  # fmt: skip
    assert result.positions is not None
    known = dataclasses.replace(scan, probe=result.probe, positions=result.positions)
    try:
        halves = []
        for part in np.array_split(order, 2):
            run = _Run(known.subset(np.sort(part)), None, half_config, torch.device(device), None, 1)
            with torch.no_grad():
                run.go()
            halves.append(run.result())
        found = compare_halves(*halves)
    except InputError as error:
        _log.warning("no resolution from split halves: %s", error)
        return None
    _log.info("split halves agree to %.2f of Nyquist (FRC 0.5), mean %.3f", found["crossing_0.5"], found["mean"])
    return found


class _Run:
    def __init__(
        self,
        scan: Scan,
        start: Reconstruction | None,
        config: RefineConfig,
        device: torch.device,
        progress: Callable[[Progress], None] | None,
        every: int,
    ) -> None:
        self.scan, self.config, self.device, self.progress, self.every = scan, config, device, progress, every
        self.began, self.earlier = time.perf_counter(), 0.0
        self.scratch = start is None
        reported = scan.positions
        if start is not None and start.positions is not None and len(start.positions) == scan.n:
            reported = start.positions
        self.geometry = CanvasGeometry.from_positions(reported, scan.patch_size, _MARGIN)
        counts = torch.from_numpy(load_counts(scan.counts, "refine")).to(device)
        good = good_pixels(scan)
        self.objective = Objective(counts, None if good is None else good.to(device), self.geometry.shape, config)
        self.reported = self.geometry.to_canvas(scan.positions).to(device)
        self.state = start_state(scan, start, self.geometry, reported, config.modes).to(device)
        broadcast(*self.state)
        self.begun = self.state.positions.clone()
        self.start_probe = self.state.probe.clone()
        self.engine: PieEngine | LbfgsEngine | None = None
        self.passes, self.values, self.explained = 0, list[float](), list[float]()
        self.spread = 1.0  # standard deviation of the reported positions along an axis, pixels
        self.interrupted = self.prepared = False

    def go(self) -> None:
        config = self.config
        if not self.prepared and self._searches_defocus():
            self.state.probe = find_defocus(self.objective, self.state, config)
            broadcast(self.state.probe)
            self.start_probe = self.state.probe.clone()
        self.prepared = True
        while self.passes < config.iterations and not agree(self._over()):
            engine = self._engine()
            if config.learn_positions and self.passes in _ROUNDS:
                self._next_round(engine)
            self.values.append(engine.advance())
            self.explained.append(engine.explained)
            self.state = engine.state
            self.passes += 1
            if self.passes % _REPORT == 0:
                _log.info("pass %4d: deviance %.4f per pixel, %.1f s", self.passes, self._deviance(), self._seconds())
            if self.passes % self.every == 0:
                self._tell()

    def _searches_defocus(self) -> bool:
        wish = self.config.find_defocus
        return (self.scratch and self.config.learn_positions and self.config.learn_probe) if wish == "auto" else wish

    def _engine(self) -> PieEngine | LbfgsEngine:
        """The engine of this pass: "pie" while it warms up, then the one that is asked for."""
        warm = self.scratch and self.passes < self.config.warmup
        kind = ENGINES["pie" if warm else self.config.engine]
        if not isinstance(self.engine, kind):
            self.engine = kind(self.objective, self.state, self.config, self._penalty(), self._project())
        return self.engine

    def _next_round(self, engine: PieEngine | LbfgsEngine) -> None:
        state, config = engine.state, self.config
        if config.search:
            moves = state.positions - self.reported
            centres = self.reported + moves - without_affine(self.reported, moves)
            lost = (state.positions - centres).abs().amax(1, keepdim=True) > config.search
            state.positions = torch.where(lost, centres, state.positions)  # they ran away
            sought = badly_fitting(engine.residuals)
            state.positions = search_patterns(self.objective, state, sought, centres, config.search)
        # From where it began: a start may have a common motion of its own, which its object and probe belong to.
        state.positions = self.begun + self._project()(state.positions - self.begun)
        broadcast(state.positions)
        self.spread = spread_of(without_affine(self.reported, state.positions - self.reported))
        if isinstance(engine, LbfgsEngine):
            engine.start_again()

    def _over(self) -> bool:
        if self.config.minutes is not None and self._seconds() > 60 * self.config.minutes:
            return True
        if isinstance(self.engine, LbfgsEngine) and self.engine.stuck:
            return True
        warm = self.config.warmup if self.scratch else 0
        values = self.values[warm:]
        # With positions, a round begins slowly.
        window, wait = (_ROUND, 2 * _ROUND) if self.config.learn_positions else (_WINDOW, _WINDOW)
        if len(values) <= wait:
            return False
        # A round's search can make the value rise for a while.
        return min(values[:-window]) - min(values[-window:]) < self.config.tolerance * values[-1]

    def _penalty(self) -> Penalty:
        weights = (self.config.total_variation, self.config.smoothness)
        # J is half the negative logarithm of the likelihood, in nats; the weights are nats per detector pixel.
        scale = 0.5 * self.objective.pixels

        def penalty(state: State, light: Tensor, gradient: State) -> float:
            total = 0.0
            if any(weights):
                with torch.enable_grad():
                    free = state.object.detach().requires_grad_()
                    value = free.real.new_zeros(())
                    for weight, prior in zip(weights, (total_variation, roughness), strict=True):
                        if weight:
                            value = value + scale * weight * prior(free[None], light[None])
                    (slope,) = torch.autograd.grad(value, free)
                gradient.object += slope / 2
                total = float(value.detach())
            if self.config.learn_positions:
                # Normal errors, as wide as they are found to be: what the patterns do not tell stays as reported.
                moves = without_affine(self.reported, state.positions - self.reported)
                total += float(moves.square().sum()) / (4 * self.spread**2)
                gradient.positions += moves / (4 * self.spread**2)
            return total

        return penalty

    def _project(self) -> Callable[[Tensor], Tensor]:
        reported = self.reported
        if self.config.affine == "remove":
            return lambda moves: without_affine(reported, moves)
        return lambda moves: moves - moves.mean(0)

    def _tell(self) -> None:
        if self.progress is not None:
            self.progress(Progress(self.passes, self._seconds(), self._deviance(), self.save, self.result))

    def tell_last(self) -> None:
        """Report the last state, if that was not done."""
        if self.passes % self.every:
            self._tell()

    def _seconds(self) -> float:
        return self.earlier + time.perf_counter() - self.began

    def _deviance(self) -> float:
        return 4 * self.explained[-1] / self.objective.pixels

    def save(self, path: Path) -> None:
        """Write what :func:`refine` can resume."""
        saved = {
            "scan": self._fingerprint(),
            "config": dataclasses.asdict(self.config),
            "passes": self.passes,
            "seconds": self._seconds(),
            "values": self.values,
            "explained": self.explained,
            "begun": self.begun,
            "start_probe": self.start_probe,
            "scratch": self.scratch,
            "spread": self.spread,
            "engine": type(self.engine).__name__,
            "engine_state": None if self.engine is None else self.engine.state_dict(),
        }
        with atomic_path(path) as temporary:
            torch.save(saved, temporary)

    def load(self, path: Path) -> None:
        try:
            saved: dict[str, Any] = torch.load(path, map_location=self.device, weights_only=True)
            same = saved["scan"] == self._fingerprint()
        except (OSError, RuntimeError, KeyError, EOFError, TypeError, UnpicklingError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise InputError(f"{path}: expected a refinement to resume, found none: {reason}") from None
        if not same:
            raise InputError(f"{path}: expected a refinement of {self.scan.name}, found one of another scan or start")
        free = {"iterations", "minutes", "tolerance", "split_half"}
        for name, value in dataclasses.asdict(self.config).items():
            if name not in free and saved["config"].get(name) != value:
                raise InputError(
                    f"{path}: expected a refinement with refine.{name} {value!r}, found {saved['config'].get(name)!r}"
                )
        self.passes, self.values, self.earlier = saved["passes"], saved["values"], saved["seconds"]
        self.start_probe, self.scratch, self.prepared = saved["start_probe"], saved["scratch"], True
        self.spread, self.begun, self.explained = saved["spread"], saved["begun"], saved["explained"]
        kind = next(kind for kind in ENGINES.values() if kind.__name__ == saved["engine"])
        self.state = State(**saved["engine_state"]["state"])
        self.engine = kind(self.objective, self.state, self.config, self._penalty(), self._project())
        self.engine.load_state_dict(saved["engine_state"])
        self.state = self.engine.state

    def _fingerprint(self) -> dict[str, Any]:
        return {
            "patterns": self.scan.n,
            "counts": total_counts(self.scan.counts),
            "positions": crc32(self.scan.positions.tobytes()),
            "probe": crc32(self.scan.probe.tobytes()),
            "origin": list(self.geometry.origin),
            "shape": list(self.geometry.shape),
        }

    def result(self) -> Reconstruction:
        """The present state as a reconstruction, in the frame and with the conventions of the start."""
        state, config = self.state if self.engine is None else self.engine.state, self.config
        probe = orthogonalise_modes(state.probe)
        image = state.object
        if config.keep_power:
            factor = torch.sqrt(squared_modulus(self.start_probe).sum() / squared_modulus(probe).sum())
            probe, image = probe * factor, image / factor
        drift = drift_of(probe, self.start_probe) if config.centre_probe else (0, 0)
        probe = probe.roll((-drift[0], -drift[1]), (1, 2))
        places = state.positions + state.positions.new_tensor(drift)
        origin = tuple(float(v - d) for v, d in zip(self.geometry.origin, drift, strict=True))
        weight = squared_modulus(probe).sum(0)
        residuals = torch.zeros_like(state.intensities) if self.engine is None else self.engine.residuals
        light, error = (
            laid_out(weight, places, part, self.geometry.shape) for part in (torch.ones_like(residuals), residuals)
        )
        positions = self.geometry.to_scan(state.positions.cpu()).numpy()
        ((a, b), (c, d)), (y, x) = (part.tolist() for part in fit_affine(self.scan.positions, positions))
        return Reconstruction(
            object=image.cpu().numpy(),
            weights=light.cpu().numpy(),
            origin=(origin[0], origin[1]),
            probe=probe.cpu().numpy(),
            positions=positions,
            residuals=residuals.cpu().numpy(),
            error_map=(error / light.clamp_min(1e-6 * float(light.max()))).cpu().numpy(),
            intensities=torch.exp(state.intensities).cpu().numpy() if config.learn_intensities else None,
            pixel_size=self.scan.pixel_size,
            metadata={"scan": self.scan.name, "patterns": self.scan.n},
            acquisition=self.scan.acquisition,
            orientation=self.scan.orientation,
            refinement=RefinementReport(
                passes=self.passes,
                seconds=self._seconds(),
                deviance=tuple(4 * value / self.objective.pixels for value in self.explained if np.isfinite(value)),
                interrupted=self.interrupted,
                mode_powers=tuple(mode_powers(probe).tolist()),
                affine_matrix=((a, b), (c, d)),
                affine_shift=(y, x),
                config=dataclasses.asdict(config),
            ),
        )
