# SPDX-License-Identifier: BSD-3-Clause
"""The documentation of a section's fields, from its docstring, for pages and panes that show it."""

from __future__ import annotations

import inspect
import re
from typing import Any


def field_docs(section: Any) -> dict[str, str]:
    """Field -> its sentence in ``Args:``, on one line; nothing where Python runs without docstrings."""
    _, _, arguments = (inspect.getdoc(section) or "").partition("Args:\n")
    found = re.findall(r"^    (\w+): (.*(?:\n {8}.*)*)", arguments, re.MULTILINE)
    return {name: " ".join(meaning.split()) for name, meaning in found}
