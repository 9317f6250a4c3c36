# SPDX-License-Identifier: BSD-3-Clause
"""Physics-informed ptychographic reconstruction in PyTorch.

Read or simulate a :class:`Scan`, :func:`train` a network on its patterns alone, :func:`reconstruct` the object,
:func:`evaluate` it where a truth is known. Names are imported when they are first used, so that the command line
answers at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ptychopinn._submodules import imported, submodules

if TYPE_CHECKING:  # for type checkers and editors; _WHERE is what runs
    from ptycho_ext import __version__
    from ptychopinn.config import Config, LiveConfig, RefineConfig
    from ptychopinn.diagnosis.workflow import diagnose
    from ptychopinn.errors import InputError
    from ptychopinn.findings.gate import check_scan
    from ptychopinn.first_image import reconstruct
    from ptychopinn.inference.large import reconstruct_to_file
    from ptychopinn.inspection.report import inspect_scan as inspect
    from ptychopinn.mending.apply import mend
    from ptychopinn.metrics.evaluate import evaluate
    from ptychopinn.persistence.bundle import load_bundle, save_bundle
    from ptychopinn.physics.simulate import simulate
    from ptychopinn.pipeline import run
    from ptychopinn.plotting.reconstructions import plot_reconstruction
    from ptychopinn.reconstruction import Reconstruction
    from ptychopinn.refinement.several import refine_several
    from ptychopinn.refinement.workflow import refine
    from ptychopinn.scan import Scan
    from ptychopinn.storage.stored import StoredPatterns
    from ptychopinn.streaming.workflow import live
    from ptychopinn.training.workflow import train

_WHERE = {
    "Config": "ptychopinn.config",
    "InputError": "ptychopinn.errors",
    "LiveConfig": "ptychopinn.config",
    "Reconstruction": "ptychopinn.reconstruction",
    "RefineConfig": "ptychopinn.config",
    "Scan": "ptychopinn.scan",
    "StoredPatterns": "ptychopinn.storage.stored",
    "__version__": "ptycho_ext",
    "check_scan": "ptychopinn.findings.gate",
    "diagnose": "ptychopinn.diagnosis.workflow",
    "evaluate": "ptychopinn.metrics.evaluate",
    "inspect": "ptychopinn.inspection.report",
    "live": "ptychopinn.streaming.workflow",
    "load_bundle": "ptychopinn.persistence.bundle",
    "mend": "ptychopinn.mending.apply",
    "plot_reconstruction": "ptychopinn.plotting.reconstructions",
    "reconstruct": "ptychopinn.first_image",
    "reconstruct_to_file": "ptychopinn.inference.large",
    "refine": "ptychopinn.refinement.workflow",
    "refine_several": "ptychopinn.refinement.several",
    "run": "ptychopinn.pipeline",
    "save_bundle": "ptychopinn.persistence.bundle",
    "simulate": "ptychopinn.physics.simulate",
    "train": "ptychopinn.training.workflow",
}
#: Names that differ from those of their modules.
_RENAMED = {"inspect": "inspect_scan"}

__all__ = [
    "Config",
    "InputError",
    "LiveConfig",
    "Reconstruction",
    "RefineConfig",
    "Scan",
    "StoredPatterns",
    "__version__",
    "check_scan",
    "diagnose",
    "evaluate",
    "inspect",
    "live",
    "load_bundle",
    "mend",
    "plot_reconstruction",
    "reconstruct",
    "reconstruct_to_file",
    "refine",
    "refine_several",
    "run",
    "save_bundle",
    "simulate",
    "train",
]


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(imported(_WHERE[name]), _RENAMED.get(name, name))
    return submodules(__name__)(name)


def __dir__() -> list[str]:
    return __all__
