# SPDX-License-Identifier: BSD-3-Clause
"""Documentation and choices of a section's fields, from its docstring and annotations, for pages and panes."""

from __future__ import annotations

import inspect
from typing import Any, Literal, get_args, get_origin

import docstring_parser

from ptychopinn.config.checks import hints_of


def field_docs(section: Any) -> dict[str, str]:
    """Field -> its sentence in ``Args:``, on one line; nothing where Python runs without docstrings."""
    parsed = docstring_parser.parse(inspect.getdoc(section) or "", docstring_parser.DocstringStyle.GOOGLE)
    return {entry.arg_name: " ".join((entry.description or "").split()) for entry in parsed.params}


def field_choices(section: Any) -> dict[str, tuple[Any, ...]]:
    """Field -> the values that it takes, where it takes some only.

    Example:
        >>> from ptychopinn.config import TrainingConfig
        >>> field_choices(TrainingConfig)["loss"]
        ('poisson', 'amplitude')
    """
    return {name: get_args(hint) for name, hint in hints_of(section).items() if get_origin(hint) is Literal}
