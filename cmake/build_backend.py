# SPDX-License-Identifier: BSD-3-Clause
"""scikit-build-core's build backend behind one question: is there a torch to build against?

Asked before pip resolves anything, a missing torch costs one sentence. Left to CMake it would cost the download of a
torch first, since torch is a run-time dependency, and then fail all the same. Source archives need none.
"""

from functools import wraps
from importlib.util import find_spec

from scikit_build_core import build as _backend
from scikit_build_core.build import build_sdist, get_requires_for_build_sdist  # noqa: F401


def _with_torch(hook):
    @wraps(hook)
    def checked(*arguments, **options):
        if find_spec("torch") is None:
            raise SystemExit(
                "ptychopinn: the building interpreter has no torch: "
                "pip install torch, then pip install --no-build-isolation ."
            )
        return hook(*arguments, **options)

    return checked


get_requires_for_build_wheel = _with_torch(_backend.get_requires_for_build_wheel)
get_requires_for_build_editable = _with_torch(_backend.get_requires_for_build_editable)
prepare_metadata_for_build_wheel = _with_torch(_backend.prepare_metadata_for_build_wheel)
prepare_metadata_for_build_editable = _with_torch(_backend.prepare_metadata_for_build_editable)
build_wheel = _with_torch(_backend.build_wheel)
build_editable = _with_torch(_backend.build_editable)
