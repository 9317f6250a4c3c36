# SPDX-License-Identifier: BSD-3-Clause
"""Refinement of several scans together, which have the probe, the sample or both in common.

They are one scan (:mod:`joint`), and the result is cut into one of each. Where scans of one sample have different
probes, the probe of the one scan has the modes of all, and patterns have those of theirs (:mod:`probe_of_each`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from ptycho_ext import translate_images
from ptychopinn.config import RefineConfig
from ptychopinn.errors import InputError
from ptychopinn.findings.gate import accepted_keys, check_metadata, require_sound
from ptychopinn.physics.overlap import accumulate_weight
from ptychopinn.reconstruction import SLICE_MAPS, Reconstruction
from ptychopinn.refinement.ambiguities import fit_affine, mode_powers, orthogonalise_modes, set_mode_count
from ptychopinn.refinement.coarse import coarse_start
from ptychopinn.refinement.joint import SIDE, Combined, Joint, combined, doses, mean_counts, overlap_of
from ptychopinn.refinement.run import Progress
from ptychopinn.refinement.uncertainty import with_replicas
from ptychopinn.refinement.workflow import all_passes, refine, run_passes, unless_interrupted, with_resolution
from ptychopinn.runtime.devices import resolve_device
from ptychopinn.runtime.process_settings import process_settings
from ptychopinn.scan import Scan

#: Standard deviations of a result: of the object and its amplitude, and of its phase.
_DEVIATIONS = ("uncertainty", "amplitude_uncertainty", "phase_uncertainty")
Common = Literal["probe", "object", "both"]
Starts = Reconstruction | Sequence[Reconstruction | None] | None


def refine_several(
    scans: Sequence[Scan],
    common: Common = "probe",
    start: Starts = None,
    config: RefineConfig | None = None,
    device: str | torch.device = "auto",
    *,
    progress: Callable[[Progress], None] | None = None,
    every: int = 10,
    resume: str | Path | None = None,
    accept: str | Collection[str] = (),
) -> list[Reconstruction]:
    """Refine several scans together, by the likelihood of all their patterns.

    Scans of one sample are in one coordinate system: that of their world coordinates where all have them
    (`acquisition.world_origin`), else that of their positions. The scans must agree in the size of patterns, pixel
    size, energy and experiment; pixels that are bad in one are ignored in all. Patterns on disk are loaded.

    Args:
        scans: the scans; their truths are not used. One scan alone is refined as by :func:`ptychopinn.refine`.
        common: what the scans have in common: "probe" (several samples, one beam), "object" (one sample, and beams that
            differ) or "both" (one sample, one beam; the number of photons may differ
            from scan to scan in each of the three).
        start: an earlier reconstruction of every scan or None for those without; one alone is that of the first scan.
        config: the configuration; None: defaults.
        device: where to compute; "auto": on a GPU if torch and the operators can.
        progress: called after every few passes, and at the end; its result has all scans on one canvas.
        every: number of passes between two calls of ``progress``.
        resume: a checkpoint that :attr:`Progress.save` wrote. On the CPU, the results are those of an uninterrupted
            run, bit for bit.
        accept: keys of problems of the scans to accept, or "all", see :func:`ptychopinn.check_scan`.

    Returns:
        A reconstruction of every scan, in its own coordinates. Where the object is common, every one has all of it,
        with the illumination by all scans.

    Raises:
        InputError: the scans do not have in common what they must, one has a problem that is not accepted, an option
            is not for several scans, or ``resume`` is of other scans, another configuration or version.
    """
    scans = list(scans)
    config = config or RefineConfig()
    starts = _starts(start, len(scans))
    if common not in ("probe", "object", "both"):
        raise InputError(f"refine_several: common must be probe, object or both, got {common!r}")
    if not scans:
        raise InputError("refine_several: scans must be one or more, got none")
    if len(scans) == 1:
        return [
            refine(scans[0], starts[0], config, device, progress=progress, every=every, resume=resume, accept=accept)
        ]
    device = resolve_device(device)
    with process_settings():
        _check_options(config, common)
        fitted = {"dose_spread"} if config.learn_intensities else set()
        for scan in scans:
            require_sound(scan, accepted_keys(accept) | fitted)
        return _Several(scans, common, starts, config, device).results(progress, every, resume)


def _starts(start: Starts, count: int) -> list[Reconstruction | None]:
    starts: list[Reconstruction | None] = [start] if start is None or isinstance(start, Reconstruction) else list(start)
    if len(starts) not in (1, count):
        raise InputError(f"refine_several: start must be one for each of the {count} scans, got {len(starts)}")
    return starts + [None] * (count - len(starts))


def _check_options(config: RefineConfig, common: Common) -> None:
    """Refuse options that scans with a probe each do not have."""
    if common != "object":
        return
    searches = config.find_defocus is True or config.find_slice_distances is True
    if config.probe_variations or searches or not config.learn_probe:
        raise InputError(
            "refine_several: expected no refine.probe_variations, refine.find_defocus or refine.find_slice_distances, "
            "and refine.learn_probe true where the object is common, as every scan has a probe of its own there; "
            "state common both instead"
        )


class _Several:
    """A refinement of several scans; arguments are those of :func:`refine_several`, checked."""

    def __init__(
        self,
        scans: list[Scan],
        common: Common,
        starts: list[Reconstruction | None],
        config: RefineConfig,
        device: torch.device,
    ) -> None:
        self.scans, self.common, self.starts, self.config, self.device = scans, common, starts, config, device
        self.all: Combined = combined(scans, side_by_side=common == "probe")
        for number in range(1, len(scans) if common == "object" else 0):
            if not overlap_of(self.all, number):
                raise InputError(
                    f"{scans[number].name}: expected patterns that overlap those of the scans before it, to have the "
                    "object in common, found none; check the origins of the positions"
                )
        probes = [self._initial_probe(number) for number in range(len(scans))]
        self.powers = _powers(probes)
        #: Power of a scan's probe relative to the one that is refined.
        self.doses = doses(self.all, scans) if common == "both" else np.ones(len(scans))
        if common == "probe":  # the objects have one level, to which the prior of the object refers
            means = np.array([mean_counts(scan) for scan in scans])
            self.doses = means / means.max()
        probe = (probes[0] / np.sqrt(self.doses[0])).astype(np.complex64)
        self.scan = replace(self.all.scan, probe=probe)
        self.start: Reconstruction | None = None
        labels, beams = self.all.labels, common == "object"
        self.joint = Joint(
            self.doses[labels],
            groups=labels if common == "probe" else None,
            labels=labels if beams else None,
            probes=len(scans) if beams else 1,
        )
        #: The configuration of the refinement of all, whose probe has the modes that it has.
        self.settings = replace(config, find_defocus=False, find_slice_distances=False, modes=None) if beams else config
        factors: dict[int, complex] = {}
        if any(self.starts):
            self.start, factors = self._start()
        if beams:
            stack = np.concatenate([probe / factors.get(number, 1.0) for number, probe in enumerate(probes)])
            self.scan = replace(self.scan, probe=stack.astype(np.complex64))
        if self.start is not None:
            self.start = replace(self.start, probe=self.scan.probe)
        elif config.coarse > 1:
            self.start = coarse_start(self.scan, self.settings, device, self.joint)

    def results(
        self, progress: Callable[[Progress], None] | None, every: int, resume: str | Path | None
    ) -> list[Reconstruction]:
        """Refine, and cut the result."""
        found, interrupted = run_passes(
            self.scan, self.start, self.settings, self.device, progress, every, resume, self.joint
        )
        agreements: list[dict[str, Any] | None] = [None] * len(self.scans)
        if self.config.split_half and not interrupted:
            agreements, interrupted = self._resolutions(found)
        if self.config.uncertainty != "none" and not interrupted:
            found = unless_interrupted(found, partial(self._with_uncertainty, found))
        return [self._cut(found, number, agreement) for number, agreement in enumerate(agreements)]

    def _resolutions(self, found: Reconstruction) -> tuple[list[dict[str, Any] | None], bool]:
        """Split-half agreement of every scan, and whether the user interrupted it."""
        if self.common != "probe":
            every_scan = replace(self.scan, experiment=found.experiment)
            measured, interrupted = with_resolution(every_scan, found, self.settings, self.device, self.joint)
            assert measured.refinement is not None
            return [measured.refinement.split_half] * len(self.scans), interrupted
        agreements: list[dict[str, Any] | None] = []
        for number, scan in enumerate(self.scans):
            measured, interrupted = with_resolution(scan, self._cut(found, number), self.config, self.device)
            assert measured.refinement is not None
            agreements.append(measured.refinement.split_half)
            if interrupted:
                return agreements + [None] * (len(self.scans) - len(agreements)), True
        return agreements, False

    def _with_uncertainty(self, found: Reconstruction) -> Reconstruction:
        """The result of all scans with the standard deviations of its object: replicas of everything."""

        def refined(
            counts: NDArray[Any], settings: RefineConfig, label: str, factors: NDArray[np.complex128] | None
        ) -> Reconstruction:
            scans = [replace(scan, counts=counts[self.all.rows(number)]) for number, scan in enumerate(self.scans)]
            other = _Several(scans, self.common, self.starts, settings, self.device)
            return all_passes(other.scan, other.start, other.settings, self.device, label, other.joint, factors)

        parts = [np.s_[:, :]]
        if self.common == "probe":
            ends = [self._canvas_part(found, number)[1] for number in range(len(self.scans))]
            between = [(one.stop + other.start) // 2 for one, other in pairwise(ends)]
            parts = [np.s_[:, a:b] for a, b in pairwise([0, *between, found.shape[1]])]
        every_scan = replace(self.scan, experiment=found.experiment)
        return with_replicas(
            every_scan, found, self.config, self.device, refined, self.joint, parts, not any(self.starts)
        )

    def _initial_probe(self, number: int) -> NDArray[np.complex64]:
        """Probe (M, N, N) that a scan begins with, with the number of modes of all."""
        start, scan = self.starts[number], self.scans[number]
        first = self.starts[0]
        probe = scan.probe if start is None or start.probe is None else start.probe
        if probe.shape[-1] != scan.patch_size:
            raise InputError(
                f"{scan.name}: expected a start whose probe is {scan.patch_size} pixels wide like the patterns, found "
                f"{probe.shape[-1]}; --from-scratch begins without it"
            )
        modes = self.config.modes or len(self.scans[0].probe if first is None or first.probe is None else first.probe)
        return set_mode_count(torch.from_numpy(probe), modes).numpy()

    def _start(self) -> tuple[Reconstruction, dict[int, complex]]:
        """The starts on one canvas, and the factors by which their objects were multiplied there."""
        known = [number for number, start in enumerate(self.starts) if start is not None]
        starts = {number: self._placed(number) for number in known}
        low = np.min([corner for _, _, corner in starts.values()], axis=0)
        high = np.max([corner + image.shape for image, _, corner in starts.values()], axis=0)
        canvas, weights = np.zeros(high - low, np.complex64), np.zeros(high - low, np.float32)
        factors: dict[int, complex] = {}
        for number, (image, weight, corner) in starts.items():
            part = tuple(slice(a, a + n) for a, n in zip(corner - low, image.shape, strict=True))
            both = np.sqrt(weight * weights[part])
            overlap, power = np.vdot(image, both * canvas[part]), np.vdot(image, both * image).real
            # One sample has one phase and level, and reconstructions of it differ in these.
            factors[number] = complex(overlap / power) if power > 0 and abs(overlap) > 0 else 1.0
            new = (weight > 0) & ~(weights[part] >= weight)
            canvas[part] = np.where(new, factors[number] * image, canvas[part])
            weights[part] = np.maximum(weights[part], weight)
        positions = []
        for number, scan in enumerate(self.scans):
            start = self.starts[number]
            own = scan.positions
            if start is not None and start.positions is not None and len(start.positions) == scan.n:
                own = start.positions
            positions.append(own + self.all.offsets[number])
        origin = float(low[0]), float(low[1])
        return Reconstruction(
            canvas, weights, origin, probe=self.scan.probe, positions=np.concatenate(positions)
        ), factors

    def _placed(self, number: int) -> tuple[NDArray[np.complex64], NDArray[np.float32], NDArray[np.int64]]:
        """Object and weights of a start on every_scan pixels of the combined scan, and the corner (2,) there."""
        start = self.starts[number]
        assert start is not None
        origin = np.asarray(start.origin) + self.all.offsets[number]
        corner = np.floor(origin + 0.5).astype(np.int64)
        covered = start.covered(1e-4)
        # Of a probe with the power of this scan's, which the refined one does not have.
        power = float(_powers([self.scan.probe])[0]) * self.doses[number]
        factor = 1.0 if self.common == "object" else np.sqrt(self.powers[number] / power)
        image = torch.from_numpy(np.where(covered, start.object * np.float32(factor), 0))
        if np.abs(origin - corner).max() > 1e-6:
            image = translate_images(image[None], torch.from_numpy(origin - corner)[None])[0]
        return image.numpy(), np.where(covered, start.weights, 0).astype(np.float32), corner

    def _probe_of(self, found: Reconstruction, number: int) -> NDArray[np.complex64]:
        """Probe (M, N, N) of a scan, with the object on the combined canvas."""
        assert found.probe is not None
        probe: NDArray[np.complex64] = found.probe * np.float32(np.sqrt(self.doses[number]))
        if self.common == "object":
            modes = torch.from_numpy(probe).chunk(len(self.scans))[number]
            probe = orthogonalise_modes(modes).numpy()
        return probe

    def _canvas_part(self, found: Reconstruction, number: int) -> tuple[slice, slice]:
        """The part of the combined canvas that the result of a scan has."""
        if self.common != "probe":
            return slice(0, found.shape[0]), slice(0, found.shape[1])
        assert found.positions is not None
        patches = found.positions[self.all.rows(number)] - found.origin
        corner = np.maximum(np.floor(patches.min(0)).astype(np.int64) - SIDE, 0)
        end = np.ceil(patches.max(0)).astype(np.int64) + self.scan.patch_size + SIDE
        (top, left), (bottom, right) = corner.tolist(), np.minimum(end, found.shape).tolist()
        return slice(top, bottom), slice(left, right)

    def _cut(self, found: Reconstruction, number: int, agreement: dict[str, Any] | None = None) -> Reconstruction:
        """The result of one scan, in its coordinates, with its split-half agreement."""
        scan, rows, offset = self.scans[number], self.all.rows(number), self.all.offsets[number]
        assert found.positions is not None and found.residuals is not None and found.refinement is not None
        part = self._canvas_part(found, number)
        origin = np.add(found.origin, (part[0].start, part[1].start))
        image, slices, probe = found.object[part], found.slices, self._probe_of(found, number)
        experiment = found.experiment.subset(rows)
        if slices is not None:
            slices = np.ascontiguousarray(slices[:, part[0], part[1]])
        maps = {
            name: None if (values := getattr(found, name)) is None else values[..., part[0], part[1]]
            for name in (*_DEVIATIONS, *SLICE_MAPS)
        }
        if self.common == "probe" and self.config.keep_power:
            factor = np.float32(np.sqrt(self.powers[number] / _powers([probe])[0]))
            probe, image = probe * factor, image / factor
            for name in _DEVIATIONS[:2]:
                maps[name] = None if maps[name] is None else maps[name] / factor
            if slices is not None:
                root = factor ** np.float32(-1 / len(slices))
                slices, name = slices * root, SLICE_MAPS[0]
                maps[name] = None if maps[name] is None else maps[name] * root
            if experiment.probe_variations is not None:
                experiment = replace(experiment, probe_variations=experiment.probe_variations * factor)
        lighting = [number] if self.common == "probe" else range(len(self.scans))
        weights, errors = self._illumination(found, lighting, origin, image.shape)
        positions = found.positions[rows] - offset
        ((a, b), (c, d)), (y, x) = (value.tolist() for value in fit_affine(scan.positions, positions))
        intensities = None
        if found.intensities is not None:
            intensities = (found.intensities[rows] / self.doses[number]).astype(np.float32)
        own_origin = origin - offset
        metadata: dict[str, Any] = {"scan": scan.name, "patterns": scan.n, **check_metadata([scan])}
        metadata["refined_with"] = {"common": self.common, "scans": [other.name for other in self.scans]}
        return Reconstruction(
            object=np.ascontiguousarray(image),
            weights=weights,
            origin=(float(own_origin[0]), float(own_origin[1])),
            probe=probe,
            positions=positions,
            residuals=found.residuals[rows],
            error_map=errors,
            intensities=intensities,
            pixel_size=scan.pixel_size,
            metadata=metadata,
            acquisition=scan.acquisition,
            orientation=scan.orientation,
            slices=slices,
            experiment=experiment,
            refinement=dataclasses.replace(
                found.refinement,
                mode_powers=tuple(mode_powers(torch.from_numpy(probe)).tolist()),
                affine_matrix=((a, b), (c, d)),
                affine_shift=(y, x),
                split_half=agreement,
            ),
            **maps,
        )

    def _illumination(
        self, found: Reconstruction, chosen: Sequence[int], origin: NDArray[np.float64], shape: tuple[int, int]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Illumination by some scans and mean residual of a canvas, (H, W) each."""
        assert found.positions is not None and found.residuals is not None
        total = np.zeros((2, *shape), np.float32)
        for number in chosen:
            rows = self.all.rows(number)
            weight = torch.from_numpy((np.abs(self._probe_of(found, number)) ** 2).sum(0))
            patches = torch.from_numpy(found.positions[rows] - origin)
            for index, values in enumerate((np.ones(len(rows), np.float32), found.residuals[rows])):
                total[index] += accumulate_weight(weight, patches, torch.from_numpy(values), shape).numpy()
        return total[0], total[1] / np.maximum(total[0], 1e-6 * total[0].max())


def _powers(probes: Sequence[NDArray[np.complex64]]) -> NDArray[np.float64]:
    """Powers (S,) of probes (M, N, N)."""
    return np.array([(np.abs(probe.astype(np.complex128)) ** 2).sum() for probe in probes])
