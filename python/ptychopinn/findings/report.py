# SPDX-License-Identifier: BSD-3-Clause
"""What reports of a scan and of a result share: their lines of text, and their JSON."""

from __future__ import annotations

import math
import textwrap
from typing import Any

import numpy as np

_WIDTH = 110


def wrapped(line: str, indent: str = "  ") -> list[str]:
    """A line as lines of at most 110 characters, all but the first indented."""
    return textwrap.wrap(line, _WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def json_values(value: Any) -> Any:
    """Values as JSON has them: lists, numbers of Python, and null for what is not finite."""
    if isinstance(value, dict):
        return {key: json_values(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [json_values(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value
