# SPDX-License-Identifier: BSD-3-Clause
"""Conversion of typed fields of scans and results to the JSON object in files, and back.

Version 0.1 had these keys in `metadata`, so its files are read by the same functions. Other keys of the object are
metadata, which no code reads. Invalid values of known keys are omitted with a warning.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptychopinn._one_line import one_line
from ptychopinn.acquisition import ORIENTATION_NAMES, Acquisition, finite_pair, nonzero, positive
from ptychopinn.decisions import Decision, Decisions, Pairing, ProbeScale
from ptychopinn.errors import InputError
from ptychopinn.experiment import Experiment
from ptychopinn.refinement_report import RefinementReport

_log = logging.getLogger(__name__)

#: Key of a scan's JSON object -> field of `Scan` that holds it.
SCAN_KEYS = {
    "geometry": "acquisition",
    "orientation": "orientation",
    "scan_indexes": "frame_indexes",
    "measurement": "decisions.measurement",
    "coordinates": "decisions.coordinates",
    "probe": "decisions.probe",
    "probe_scaling": "decisions.probe_scale",
    "truth": "decisions.truth",
    "pairing": "decisions.pairing",
}
#: The same for keys that 0.1 did not have.
LATER_SCAN_KEYS = {
    "probe_layout": "decisions.probe_layout",
    "detector_calibration": "decisions.calibration",
    "detector_frames": "decisions.frames",
    "experiment_scalars": "experiment",
}
#: Key of a result's JSON object -> field of `Reconstruction` that holds it.
RESULT_KEYS = {"geometry": "acquisition", "orientation": "orientation", "refinement": "refinement"}
#: The same for keys that 0.1 did not have.
LATER_RESULT_KEYS = {"experiment_scalars": "experiment"}


@dataclass(frozen=True, eq=False)
class ScanRecord:
    """Fields of a `Scan` that its files have as JSON; see there. Of the experiment they are its scalars."""

    acquisition: Acquisition = field(default_factory=Acquisition)
    orientation: str = "given"
    frame_indexes: NDArray[np.int64] | None = None
    decisions: Decisions = field(default_factory=Decisions)
    metadata: dict[str, Any] = field(default_factory=dict)
    experiment: Experiment = field(default_factory=Experiment)

    __repr__ = one_line

    def to_json(self) -> dict[str, Any]:
        """The JSON object: metadata, and a key for every field that is set."""
        decisions = self.decisions
        values = {
            **_place_to_json(self.acquisition, self.orientation),
            "scan_indexes": None if self.frame_indexes is None else self.frame_indexes.tolist(),
            "measurement": _decision_to_json(decisions.measurement),
            "coordinates": _decision_to_json(decisions.coordinates),
            "probe": _decision_to_json(decisions.probe),
            "probe_layout": _decision_to_json(decisions.probe_layout),
            "probe_scaling": decisions.probe_scale and _probe_scale_to_json(decisions.probe_scale),
            "truth": _decision_to_json(decisions.truth),
            "pairing": decisions.pairing and _pairing_to_json(decisions.pairing),
            "detector_calibration": _decision_to_json(decisions.calibration),
            "detector_frames": _decision_to_json(decisions.frames),
            "experiment_scalars": _experiment_to_json(self.experiment),
        }
        return dict(self.metadata) | {key: value for key, value in values.items() if value is not None}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> ScanRecord:
        """The record of a JSON object, of this version or of 0.1."""
        take = _taker(values)
        decisions = Decisions(
            measurement=take("measurement", _decision),
            coordinates=take("coordinates", _decision),
            probe=take("probe", _decision),
            probe_layout=take("probe_layout", _decision),
            probe_scale=take("probe_scaling", _probe_scale),
            truth=take("truth", _truth),
            pairing=take("pairing", _pairing),
            calibration=take("detector_calibration", _decision),
            frames=take("detector_frames", _decision),
        )
        return cls(
            acquisition=take("geometry", _acquisition) or Acquisition(),
            orientation=take("orientation", _orientation) or "given",
            frame_indexes=take("scan_indexes", _frame_indexes),
            decisions=decisions,
            metadata={key: value for key, value in values.items() if key not in SCAN_KEYS | LATER_SCAN_KEYS},
            experiment=take("experiment_scalars", _experiment) or Experiment(),
        )


@dataclass(frozen=True, eq=False)
class ResultRecord:
    """Fields of a `Reconstruction` that its files have as JSON; see there. Of the experiment they are its scalars."""

    acquisition: Acquisition = field(default_factory=Acquisition)
    orientation: str = "given"
    refinement: RefinementReport | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    experiment: Experiment = field(default_factory=Experiment)

    __repr__ = one_line

    def to_json(self) -> dict[str, Any]:
        """The JSON object: metadata, and a key for every field that is set."""
        values = _place_to_json(self.acquisition, self.orientation)
        if self.refinement is not None:
            values["refinement"] = _refinement_to_json(self.refinement)
        values["experiment_scalars"] = _experiment_to_json(self.experiment)
        return dict(self.metadata) | {key: value for key, value in values.items() if value is not None}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> ResultRecord:
        """The record of a JSON object, of this version or of 0.1."""
        take = _taker(values)
        return cls(
            acquisition=take("geometry", _acquisition) or Acquisition(),
            orientation=take("orientation", _orientation) or "given",
            refinement=take("refinement", _refinement),
            metadata={key: value for key, value in values.items() if key not in RESULT_KEYS | LATER_RESULT_KEYS},
            experiment=take("experiment_scalars", _experiment) or Experiment(),
        )


def refuse_keys(owner: str, metadata: Mapping[str, Any], keys: Mapping[str, str]) -> None:
    """Raise InputError if metadata has the key of a field, where no code would read it."""
    for key in metadata:
        if key in keys:
            raise InputError(f"{owner}.metadata must not have the key {key!r}: state it in {owner}.{keys[key]}")


def _taker(values: Mapping[str, Any]) -> Callable[[str, Callable[[Any], Any]], Any]:
    """A function that reads a key: None if it is missing, or with a warning if its value is invalid."""

    def take(key: str, read: Callable[[Any], Any]) -> Any:
        if key not in values:
            return None
        try:
            return read(values[key])
        except (TypeError, ValueError, KeyError, OverflowError, AttributeError):
            _log.warning("the metadata has %r with a value that is not known: it is dropped", key)
            return None

    return take


def _place_to_json(acquisition: Acquisition, orientation: str) -> dict[str, Any]:
    origin = acquisition.world_origin
    known = {
        "distance_m": acquisition.distance,
        "detector_pixel_size_m": acquisition.detector_pixel_size,
        "world_origin_m": None if origin is None else list(origin),
        "source_distance_m": acquisition.source_distance,
    }
    geometry = {key: value for key, value in known.items() if value is not None}
    return {"geometry": geometry or None, "orientation": None if orientation == "given" else orientation}


def _acquisition(value: Any) -> Acquisition:
    """The geometry; invalid values are None."""
    if not isinstance(value, dict):
        raise TypeError
    return Acquisition(
        positive(value.get("distance_m")),
        positive(value.get("detector_pixel_size_m")),
        finite_pair(value["world_origin_m"]) if "world_origin_m" in value else None,
        nonzero(value.get("source_distance_m")),
    )


def _orientation(value: Any) -> str:
    if value not in ORIENTATION_NAMES:
        raise ValueError
    return str(value)


def _frame_indexes(value: Any) -> NDArray[np.int64]:
    if not isinstance(value, list) or not all(type(index) is int for index in value):
        raise TypeError
    indexes = np.asarray(value, np.int64)
    if len(np.unique(indexes)) < len(indexes):
        raise ValueError
    return indexes


def _decision_to_json(decision: Decision | None) -> dict[str, Any] | None:
    if decision is None:
        return None
    return {"value": decision.value, "reason": decision.reason} | ({"by_default": True} if decision.by_default else {})


def _decision(value: Any) -> Decision:
    return Decision(_text(value["value"]), _text(value["reason"]), value.get("by_default") is True)


def _truth(value: Any) -> Decision:
    decision = _decision(value)
    return replace(decision, value="omitted") if decision.value == "left out" else decision  # as 0.1 wrote it


def _probe_scale_to_json(scale: ProbeScale) -> dict[str, Any]:
    values = asdict(scale)
    return values if scale.from_counts else {key: values[key] for key in ("factor", "reason")}


def _probe_scale(value: Any) -> ProbeScale:
    return ProbeScale(_number(value["factor"]), _text(value["reason"]), bool(value.get("from_counts", False)))


def _pairing_to_json(pairing: Pairing) -> dict[str, Any]:
    omitted = {"patterns": pairing.patterns, "positions": pairing.positions}
    return {"left_out": omitted, "reason": pairing.reason}


def _pairing(value: Any) -> Pairing:
    omitted = value["left_out"]
    return Pairing(int(omitted["patterns"]), int(omitted["positions"]), _text(value["reason"]))


def _refinement_to_json(report: RefinementReport) -> dict[str, Any]:
    values: dict[str, Any] = {key.name: getattr(report, key.name) for key in fields(report)}
    matrix, shift = values.pop("affine_matrix"), values.pop("affine_shift")
    values["deviance"], values["mode_powers"] = list(report.deviance), list(report.mode_powers)
    if matrix is not None and shift is not None:
        values["positions_affine"] = {"matrix": [list(row) for row in matrix], "shift": list(shift)}
    if report.split_half is None:
        del values["split_half"]
    return values


def _refinement(value: Any) -> RefinementReport:
    affine = value.get("positions_affine")
    matrix = None if affine is None else tuple(tuple(_number(v) for v in row) for row in affine["matrix"])
    if matrix is not None and [len(row) for row in matrix] != [2, 2]:
        raise ValueError
    return RefinementReport(
        passes=int(value["passes"]),
        seconds=_number(value["seconds"]),
        deviance=tuple(_number(v) for v in value["deviance"]),
        interrupted=bool(value.get("interrupted", False)),
        mode_powers=tuple(_number(v) for v in value.get("mode_powers", ())),
        affine_matrix=matrix,  # type: ignore[arg-type]
        affine_shift=None if affine is None else finite_pair(affine["shift"]),
        split_half=None if value.get("split_half") is None else dict(value["split_half"]),
        config=dict(value.get("config", {})),
    )


def _experiment_to_json(experiment: Experiment) -> dict[str, Any] | None:
    """Its scalars, as types that JSON has; None if all are the defaults."""
    scalars = experiment.scalars()
    return {key: float(value) if isinstance(value, Real) else value for key, value in scalars.items()} or None


def _experiment(value: Any) -> Experiment:
    """The scalars of an experiment; the scan or result that gets them checks their values."""
    if not isinstance(value, dict):
        raise TypeError
    return Experiment.from_parts({}, value)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _number(value: Any) -> float:
    if not isinstance(value, Real):
        raise TypeError
    return float(value)
