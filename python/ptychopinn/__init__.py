# SPDX-License-Identifier: BSD-3-Clause
"""Physics-informed ptychographic reconstruction in PyTorch.

Read or simulate a :class:`Scan`, :func:`train` a network on its patterns alone, :func:`reconstruct` the object,
:func:`evaluate` it where a truth is known. Names are imported when they are first used, so that the command line
answers at once.
"""

from __future__ import annotations

import importlib
from typing import Any

_WHERE = {
    "Config": "ptychopinn.config",
    "InputError": "ptychopinn.errors",
    "RefineConfig": "ptychopinn.config",
    "Reconstruction": "ptychopinn.reconstruction",
    "Scan": "ptychopinn.scan",
    "StoredPatterns": "ptychopinn.storage.stored",
    "evaluate": "ptychopinn.metrics.evaluate",
    "load_bundle": "ptychopinn.persistence.bundle",
    "plot_reconstruction": "ptychopinn.plotting.reconstructions",
    "reconstruct": "ptychopinn.inference.predict",
    "reconstruct_to_file": "ptychopinn.inference.large",
    "refine": "ptychopinn.refinement.workflow",
    "run": "ptychopinn.pipeline",
    "save_bundle": "ptychopinn.persistence.bundle",
    "simulate": "ptychopinn.physics.simulate",
    "train": "ptychopinn.training.workflow",
}

__all__ = sorted([*_WHERE, "__version__"])


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return importlib.import_module("ptycho_ext").__version__
    if name in _WHERE:
        return getattr(importlib.import_module(_WHERE[name]), name)
    raise AttributeError(f"module 'ptychopinn' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
