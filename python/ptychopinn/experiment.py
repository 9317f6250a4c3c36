# SPDX-License-Identifier: BSD-3-Clause
"""What an experiment has beside a thin sample, one still probe, the far field and an ideal detector.

`Scan` and `Reconstruction` have an :class:`Experiment`; the one of a scan is what is known before a reconstruction, and
that of a result what was found. The simulator, refinement, training, evaluation and inspection take it from there.
Equations: docs/maths.md, "Experiments".
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from numbers import Real
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ptychopinn._one_line import one_line
from ptychopinn.errors import InputError

RADIATIONS = ("photon", "electron")


@dataclass(frozen=True, eq=False)
class Experiment:
    """Departures of an experiment from the plain forward model; every default is the plain one.

    Args:
        exposure: (K, 2) or (n, K, 2) float64, points (y, x) of the path that the probe follows during an exposure,
            relative to the position of the pattern, object pixels; each has the same part of the exposure.
        source_size: standard deviation (y, x) of the incoherent source as the sample sees it, object pixels.
        probe_variations: (V, N, N) complex64, shapes V_v by which the strongest mode varies over the scan:
            the probe of pattern k is P_0 + sum_v c_kv V_v, in sqrt(counts).
        variation_coefficients: (n, V) float64, the coefficients c.
        background: (N, N) float32 >= 0, counts of every pattern that do not come from the sample, with the zero
            frequency at pixel (N//2, N//2).
        background_factors: (n,) float64 >= 0, factor of the background of every pattern; None: 1.
        point_spread: standard deviation of the detector's point spread (charge sharing), detector pixels.
        saturation: counts from which a detector pixel only states that there were at least so many.
        fresnel_number: of an object pixel, ``pixel^2 / (wavelength distance)`` with the effective distance
            of a detector in the near field; negative before the plane of the image. None: the far field.
        slice_distances: (S - 1,) metres between the S slices of a thick sample, in the order of the beam.
        tilt: (y, x) rad, of the beam against the normal of a thick sample: from slice to slice the wave is displaced by
            ``distance tan(tilt)``.
        radiation: "photon" or "electron", which relates energy and wavelength.

    Example:
        >>> Experiment(saturation=60_000.0).plain, Experiment().plain
        (False, True)
    """

    exposure: NDArray[np.float64] | None = None
    source_size: tuple[float, float] | None = None
    probe_variations: NDArray[np.complex64] | None = None
    variation_coefficients: NDArray[np.float64] | None = None
    background: NDArray[np.float32] | None = None
    background_factors: NDArray[np.float64] | None = None
    point_spread: float | None = None
    saturation: float | None = None
    fresnel_number: float | None = None
    slice_distances: tuple[float, ...] = ()
    tilt: tuple[float, float] = (0.0, 0.0)
    radiation: Literal["photon", "electron"] = "photon"

    __repr__ = one_line

    @property
    def plain(self) -> bool:
        """Whether the forward model is the plain one; the radiation makes no difference to it."""
        return not self.effects()

    @property
    def slices(self) -> int:
        """Number S of slices of the sample."""
        return len(self.slice_distances) + 1

    def effects(self) -> list[str]:
        """What differs from the plain model, in words."""
        present = {
            "a path of every exposure": self.exposure is not None,
            "a source of finite size": self.source_size is not None,
            "a probe that varies": self.probe_variations is not None,
            "a background": self.background is not None,
            "a point spread of the detector": self.point_spread is not None,
            "a saturated detector": self.saturation is not None,
            "the near field": self.fresnel_number is not None,
            "a thick sample": bool(self.slice_distances),
        }
        return [name for name, there in present.items() if there]

    def subset(self, chosen: NDArray[Any]) -> Experiment:
        """The experiment of a part of the patterns: values that belong to patterns are selected."""
        per_pattern = {
            name: value[chosen]
            for name in ("variation_coefficients", "background_factors")
            if (value := getattr(self, name)) is not None
        }
        if self.exposure is not None and self.exposure.ndim == 3:
            per_pattern["exposure"] = self.exposure[chosen]
        return replace(self, **per_pattern) if per_pattern else self

    def checked(self, owner: str, n: int | None, size: int | None) -> Experiment:
        """A copy with checked values.

        Args:
            owner: the type that has this field, for errors.
            n: number of patterns; None: unknown.
            size: N, pixels along a pattern; None: unknown.

        Raises:
            InputError: a value has the wrong shape, type or sign; the message names it.
        """
        where = f"{owner}.experiment"
        count: int | str = "n" if n is None else n
        side: int | str = "N" if size is None else size
        array = _checker(where)
        if self.exposure is not None:
            shape: tuple[int | str, ...] = ("K", 2) if np.ndim(self.exposure) != 3 else (count, "K", 2)
            array("exposure", self.exposure, np.float64, shape)
        variations = 0
        if self.probe_variations is not None:
            array("probe_variations", self.probe_variations, np.complex64, ("V", side, side))
            variations = len(self.probe_variations)
        if self.variation_coefficients is not None:
            array("variation_coefficients", self.variation_coefficients, np.float64, (count, variations or "V"))
        if (self.variation_coefficients is None) != (self.probe_variations is None):
            raise InputError(f"{where} must have probe_variations and variation_coefficients together, got one of them")
        if self.background is not None:
            array("background", self.background, np.float32, (side, side), positive=True)
        if self.background_factors is not None:
            array("background_factors", self.background_factors, np.float64, (count,), positive=True)
        positive = {"point_spread": self.point_spread, "saturation": self.saturation}
        for name, value in positive.items():
            if value is not None and not (_finite(value) and value > 0):
                raise InputError(f"{where}.{name} must be a positive finite number or None, got {value!r}")
        if self.fresnel_number is not None and not (_finite(self.fresnel_number) and self.fresnel_number != 0):
            raise InputError(
                f"{where}.fresnel_number must be a finite number other than 0, or None, got {self.fresnel_number!r}"
            )
        source = None if self.source_size is None else _finite_tuple(where, "source_size", self.source_size, 2)
        if source is not None and min(source) < 0:
            raise InputError(f"{where}.source_size must be two numbers of 0 or more, got {source}")
        distances = _finite_tuple(where, "slice_distances", self.slice_distances, None)
        if distances and min(distances) <= 0:
            raise InputError(f"{where}.slice_distances must be positive metres, got {distances}")
        tilt = _finite_tuple(where, "tilt", self.tilt, 2)
        if max(abs(tilt[0]), abs(tilt[1])) > 0.5:
            raise InputError(f"{where}.tilt must be within 0.5 rad, got {tilt}")
        if self.radiation not in RADIATIONS:
            raise InputError(f"{where}.radiation must be one of {', '.join(RADIATIONS)}, got {self.radiation!r}")
        return replace(
            self,
            source_size=None if source is None or max(source) == 0 else (source[0], source[1]),
            slice_distances=distances,
            tilt=(tilt[0], tilt[1]),
        )

    def arrays(self) -> dict[str, NDArray[Any]]:
        """The fields that are arrays and set, by name."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if isinstance(value, np.ndarray)}

    def scalars(self) -> dict[str, Any]:
        """The other fields that differ from their defaults, by name, as JSON types."""
        values = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if not isinstance(value, np.ndarray) and value != field.default:
                values[field.name] = list(value) if isinstance(value, tuple) else value
        return values

    @classmethod
    def from_parts(cls, arrays: dict[str, NDArray[Any]], scalars: dict[str, Any]) -> Experiment:
        """The experiment of what :meth:`arrays` and :meth:`scalars` returned; other names are ignored."""
        known = {field.name for field in fields(cls)}
        pairs = {name: tuple(value) if isinstance(value, list) else value for name, value in scalars.items()}
        values: dict[str, Any] = {**arrays, **pairs}
        return cls(**{name: value for name, value in values.items() if name in known})


def _checker(where: str) -> Callable[..., None]:
    """A function that checks an array of ``where``: its type, shape (texts are free), and that it is finite."""

    def check(name: str, value: Any, dtype: Any, shape: tuple[int | str, ...], positive: bool = False) -> None:
        wanted = f"{np.dtype(dtype)} of shape ({', '.join(map(str, shape))})"
        if not isinstance(value, np.ndarray) or value.dtype != dtype or value.ndim != len(shape):
            found = f"{value.dtype} of shape {value.shape}" if isinstance(value, np.ndarray) else type(value).__name__
            raise InputError(f"{where}.{name} must be {wanted}, got {found}")
        if any(isinstance(side, int) and side != found for side, found in zip(shape, value.shape, strict=True)):
            raise InputError(f"{where}.{name} must be {wanted}, got shape {value.shape}")
        if not value.size or not np.isfinite(value).all():
            raise InputError(
                f"{where}.{name} must have values, all of them finite, got an array without or with others"
            )
        if positive and value.min() < 0:
            raise InputError(f"{where}.{name} must be 0 or more, got {value.min():g}")

    return check


def _finite(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(float(value))


def _finite_tuple(where: str, name: str, values: Any, count: int | None) -> tuple[float, ...]:
    """A sequence of finite numbers as a tuple of floats."""
    wanted = "finite numbers" if count is None else f"{count} finite numbers"
    if not isinstance(values, list | tuple | np.ndarray) or (count is not None and len(values) != count):
        raise InputError(f"{where}.{name} must be {wanted}, got {values!r}")
    if not all(_finite(value) for value in values):
        raise InputError(f"{where}.{name} must be {wanted}, got {values!r}")
    return tuple(float(value) for value in values)
