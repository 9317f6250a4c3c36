# SPDX-License-Identifier: BSD-3-Clause
"""Where the processes that ptychodus starts come in: what ends them is settled before torch is loaded.

The jobs themselves are in :mod:`.jobs`.
"""

from __future__ import annotations

import importlib
from typing import Any

from ptychopinn.runtime.parent import serve_parent


def run_training(job: Any, queue: Any) -> None:
    """See :func:`.jobs.run_training`."""
    _run("run_training", job, queue)


def run_inference(job: Any, queue: Any) -> None:
    """See :func:`.jobs.run_inference`."""
    _run("run_inference", job, queue)


def run_refinement(job: Any, queue: Any) -> None:
    """See :func:`.jobs.run_refinement`."""
    _run("run_refinement", job, queue)


def _run(name: str, job: Any, queue: Any) -> None:
    serve_parent()
    getattr(importlib.import_module("ptychopinn_ptychodus.jobs"), name)(job, queue)
