# SPDX-License-Identifier: BSD-3-Clause
"""Signatures of the Python interface as they are written: ``NDArray[float64]`` and not what numpy makes of it."""

from __future__ import annotations

import re
from typing import Any

from sphinx.application import Sphinx

_ARRAY = re.compile(r"~?numpy\.ndarray\[tuple\[~?typing\.Any, \.\.\.\], ~?numpy\.dtype\[(~?[\w.]+)\]\]")


def written(text: str) -> str:
    """A signature with short names of arrays, and without defaults that Python could not read."""
    return _ARRAY.sub(r"~numpy.typing.NDArray[\1]", text).replace("<factory>", "...")


def _process(
    app: Sphinx, what: str, name: str, thing: object, options: Any, signature: str | None, result: str | None
) -> tuple[str | None, str | None]:
    return signature and written(signature), result and written(result)


def setup(app: Sphinx) -> dict[str, Any]:
    """Connect the extension to autodoc."""
    app.connect("autodoc-process-signature", _process)
    return {"parallel_read_safe": True}
