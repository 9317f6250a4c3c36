# SPDX-License-Identifier: BSD-3-Clause
"""Cases of the quality benchmark that are lists of trainings: comparisons of samples, group sizes, losses and networks.

Options of the product that a case compares are in one table each, at its top. The order of a list is that of its
numbers in --rows: all of the first seed, then of the next.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from quality_bench import Bench, Row, Sections
from quality_trainings import MakeScan, Training
from scans import default_scan, lines_scan, scan_128

from ptychopinn.models import GENERATORS, PtychoModel
from ptychopinn.persistence.bundle import load_bundle
from ptychopinn.physics.probes import defocused
from ptychopinn.physics.simulate import simulate
from ptychopinn.scan import Scan

#: Name in the tables -> name in OBJECTS. "zero" is the object of the papers, without phase; "phi" has the same lines.
SAMPLES = {"phi": "lines_phase", "zero": "lines_amplitude", "siemens": "siemens"}


def merged(**options: Any) -> Sections:
    """Sections with these options of the loss; ``merge`` is the number of members, 1 for none."""
    return {"training": options}


#: Options of the merged loss: one change to the defaults in each row.
MERGES: dict[str, Sections] = {
    "default": {},
    "off": merged(merge=1),
    "members 4": merged(merge=4),
    "members 8": merged(merge=8),
    "members 24": merged(merge=24),
    "pool 30": merged(merge_pool=30),
    "pool 250": merged(merge_pool=250),
    "own 0.3": merged(merge_own=0.3),
    "own 1": merged(merge_own=1.0),
    "own 3": merged(merge_own=3.0),
    "synchronise off": merged(merge_synchronise=False),
}


def unrolled(**options: Any) -> Sections:
    """Sections with the default generator and these options."""
    return {"model": {"generator": "unrolled", "options": options}}


#: Generators and their options. Those that are not registered are omitted. The supervised rows bound a network.
ARCHITECTURES: dict[str, Sections] = {
    "unrolled": unrolled(),
    "width 24": unrolled(width=24),
    "width 32": unrolled(width=32),
    "steps 4": unrolled(steps=4),
    "steps 8": unrolled(steps=8),
    "steps 10": unrolled(steps=10),
    "every 1": unrolled(every=1),
    "width 24, every 1": unrolled(width=24, every=1),
    "width 32, every 1": unrolled(width=32, every=1),
    "width 32, every 1, steps 8": unrolled(width=32, every=1, steps=8),
    "ffno": {"model": {"generator": "ffno"}},
    "sru_net": {"model": {"generator": "sru_net"}},
    "unet": {"model": {"generator": "unet"}},
    "cnn": {"model": {"generator": "cnn"}},
    "unrolled, supervised": {**unrolled(), "training": {"supervised": True}},
    "width 32, every 1, supervised": {**unrolled(width=32, every=1), "training": {"supervised": True}},
}

#: What a training of the case "start" begins with, and options other than the defaults.
STARTS: dict[str, tuple[bool, Sections]] = {
    "nothing": (False, {}),
    "pretrained": (True, {}),
    "pretrained, a quarter of the rate": (True, {"training": {"learning_rate": 5e-4}}),
}
#: Seconds of these trainings.
SECONDS = (0, 20, 30, 60, 180)


@functools.lru_cache(maxsize=8)
def _scan_64(sample: str, probe: str, seed: int, patterns: int) -> Scan:
    return lines_scan(probe, seed, patterns, sample=SAMPLES[sample])


@functools.lru_cache(maxsize=8)
def _scan_128(sample: str, seed: int, step: int, patterns: int) -> Scan:
    return scan_128(SAMPLES[sample], seed, step, patterns)


def _joined(*parts: Sections) -> Sections:
    """Sections in succession; later ones prevail."""
    names = dict.fromkeys(name for part in parts for name in part)
    return {name: {key: value for part in parts for key, value in part.get(name, {}).items()} for name in names}


def _training_64(
    bench: Bench, facts: Row, sample: str, probe: str, size: int, seed: int, minutes: float, sections: Sections
) -> Training:
    """Train on two objects of 392 px, with patterns of 64 px in steps of 4 px, and test on two others."""
    patterns = bench.patterns or 1024
    scans: list[MakeScan] = [
        functools.partial(_scan_64, sample, probe, 10 * seed + index, patterns) for index in range(4)
    ]
    known = {"data": {"group_size": size}, "model": {"learn_probe": False}}
    return Training(
        facts={**facts, "sample": sample, "probe": probe, "C": size, "N": 64, "patterns": patterns},
        scans=scans[:2],
        tests=[({"object": index}, scans[1 + index]) for index in (1, 2)],
        minutes=minutes,
        seed=seed,
        sections=_joined(known, sections),
    )


def phi(bench: Bench) -> list[Training]:
    """Lines with phase ("phi") and without ("zero"), patterns of 64 px: single patterns, groups of 4 and 16."""
    minutes = bench.minutes(1, 5)
    kinds = (("phi", "defocused"), ("zero", "defocused"), ("zero", "disk"))
    return [
        _training_64(bench, {}, sample, probe, size, seed, minutes, {})
        for seed, (sample, probe), size in itertools.product(bench.seeds, kinds, (1, 4, 16))
    ]


def lines128(bench: Bench) -> list[Training]:
    """Lines128 and Siemens stars, patterns of 128 px, 1e9 photons: two scans for training, two others for tests.

    Tests are in the training's steps of 8 px, and in 20 px as those of the published table. Networks that were
    trained on "phi" reconstruct a Siemens star too.
    """
    minutes, patterns = bench.minutes(3, 30), bench.patterns or 1024
    trainings = []
    for seed, sample, size in itertools.product(bench.seeds, ("phi", "zero", "siemens"), (1, 4, 16)):

        def scan(index: int, step: int = 8, of: str = sample, seed: int = seed) -> MakeScan:
            return functools.partial(_scan_128, of, 10 * seed + index, step, min(patterns, 1024 if step == 8 else 169))

        tests = [
            ({"tested_on": of, "object": index, "test_step": step}, scan(1 + index, step, of))
            for of, index, step in (
                (sample, 1, 8),
                (sample, 2, 8),
                (sample, 1, 20),
                *([("siemens", 1, 8)] if sample == "phi" else []),
            )
        ]
        trainings.append(
            Training(
                facts={"sample": sample, "probe": "padded", "C": size, "N": 128, "patterns": patterns},
                scans=[scan(0), scan(1)],
                tests=tests,
                minutes=minutes,
                seed=seed,
                sections={"data": {"group_size": size}, "model": {"learn_probe": False}},
            )
        )
    return trainings


def merge(bench: Bench) -> list[Training]:
    """The merged loss: members, pool, weight of the own loss, synchronisation; on and off for other groups."""
    minutes = bench.minutes(1, 5)
    rows = [
        *itertools.product((("phi", "defocused"),), (1,), MERGES),
        *itertools.product((("zero", "defocused"), ("zero", "disk")), (1,), ("default", "off")),
        *itertools.product((("phi", "defocused"),), (4, 16), ("default", "members 4")),
    ]
    return [
        _training_64(bench, {"merge": name}, sample, probe, size, seed, minutes, MERGES[name])
        for seed, ((sample, probe), size, name) in itertools.product(bench.seeds, rows)
    ]


def architecture(bench: Bench) -> list[Training]:
    """Generators and their options at equal time, for single patterns, groups of 16 and a flat probe."""
    minutes = bench.minutes(1, 5)
    names = [name for name, sections in ARCHITECTURES.items() if sections["model"]["generator"] in GENERATORS]
    kinds = (("phi", "defocused", 1), ("phi", "defocused", 16), ("zero", "disk", 1))
    return [
        _training_64(bench, {"network": name}, sample, probe, size, seed, minutes, ARCHITECTURES[name])
        for seed, (sample, probe, size), name in itertools.product(bench.seeds, kinds, names)
    ]


def start(bench: Bench) -> list[Training]:
    """A pretrained network (--start BUNDLE) and an untrained one: the first image, and after some seconds.

    The times are those of the case; --minutes does not change them. Without --start there are the untrained rows only.
    """
    patterns = bench.patterns or 1089
    model = _pretrained(bench.start) if bench.start else None
    trainings = []
    for seed, (what, make), (name, (pretrained, sections)), seconds in itertools.product(
        bench.seeds, _STARTED.items(), STARTS.items(), SECONDS
    ):
        if (pretrained and model is None) or (not seconds and sections):
            continue
        network, options = model if pretrained and model is not None else (None, {})
        trainings.append(
            Training(
                facts={"scan": what, "start": name, "seconds": seconds, "patterns": patterns},
                scans=[functools.partial(make, 100 + seed, patterns)],
                tests=[({}, functools.partial(make, 100 + seed, patterns))],
                minutes=bench.scale * seconds / 60,
                seed=seed,
                sections=_joined(options, sections),
                start=None if network is None else functools.partial(_same, network),
            )
        )
    return trainings


def _same(model: PtychoModel) -> PtychoModel:
    return model


def _pretrained(bundle: Path) -> tuple[PtychoModel, Sections]:
    """The model of a bundle, and the sections that describe its network."""
    model, config = load_bundle(bundle)
    described = {"generator": config.model.generator, "options": dict(config.model.options)}
    return model, {"model": described, "data": {"group_size": config.data.group_size}}


def _default_of(photons: float, wrong: bool) -> Callable[[int, int], Scan]:
    """What makes the default scan of a seed and a number of patterns."""

    def make(seed: int, patterns: int) -> Scan:
        side = round(patterns**0.5)
        return default_scan(photons=photons, side=side, seed=20260101 + seed, true_probe=not wrong)

    return make


def _three_modes(seed: int, patterns: int) -> Scan:
    return simulate("photos", "defocused", patterns=patterns, modes=3, seed=seed)


#: What is uncertain -> what makes a scan of a seed and a number of patterns.
UNCERTAIN: dict[str, Callable[[int, int], Scan]] = {
    "1e3 photons": _default_of(1e3, wrong=False),
    "1e4 photons": _default_of(1e4, wrong=False),
    "1e5 photons": _default_of(1e5, wrong=False),
    "wrong probe": _default_of(1e6, wrong=True),
    "three modes": _three_modes,
}
#: Options of their trainings.
UNCERTAIN_OPTIONS: dict[str, Sections] = {
    "default": {},
    "amplitude": {"training": {"loss": "amplitude"}},
    "from the pretrained network": {"training": {"start": "pretrained"}},
}


def uncertain(bench: Bench) -> list[Training]:
    """Few photons, a wrong probe, three modes: the network's image, and 20 passes of refinement from it."""
    minutes, patterns = bench.minutes(1, 5), bench.patterns or 1089
    return [
        Training(
            facts={"uncertain": what, "options": name},
            scans=[functools.partial(make, seed, patterns)],
            tests=[({"passes": passes}, functools.partial(make, seed, patterns)) for passes in (0, 20)],
            minutes=minutes,
            seed=seed,
            sections=sections,
        )
        for seed, (what, make), (name, sections) in itertools.product(
            bench.seeds, UNCERTAIN.items(), UNCERTAIN_OPTIONS.items()
        )
    ]


@functools.lru_cache(maxsize=2)
def _photos(seed: int, patterns: int) -> Scan:
    return simulate("photos", "defocused", patterns=patterns, seed=seed)


@functools.lru_cache(maxsize=2)
def _star(seed: int, patterns: int) -> Scan:
    return simulate("siemens", defocused(64, diameter=0.42), patterns=patterns, seed=seed)


@functools.lru_cache(maxsize=2)
def _phi(seed: int, patterns: int) -> Scan:
    return lines_scan("defocused", seed, patterns, sample="lines_phase")


_STARTED: dict[str, Callable[[int, int], Scan]] = {
    "photos": _photos,
    "siemens, other probe": _star,
    "phi lines": _phi,
}

LISTS: dict[str, Callable[[Bench], Sequence[Training]]] = {
    "phi": phi,
    "lines128": lines128,
    "merge": merge,
    "architecture": architecture,
    "start": start,
    "uncertain": uncertain,
}
