# SPDX-License-Identifier: BSD-3-Clause
"""PtychoPINN's names on this library's operators: thin adapters, one module for each module of the original.

For code that is being moved over. New code is better off with :mod:`ptycho_ext` and :mod:`ptychopinn`, whose names,
signs and differences are in docs/porting.md. Nothing else in the library imports this package.
"""

from typing import TYPE_CHECKING

from ptychopinn._submodules import submodules

if not TYPE_CHECKING:  # which would then find every name
    __getattr__ = submodules(__name__)
