# SPDX-License-Identifier: BSD-3-Clause
"""How ptychodus 1.7 comes to list our library.

Its plug-ins register readers and writers, but no reconstructors: `ModelCore` names its libraries itself and hands them
to `ProcessingCore`. Plug-ins are loaded before that. So the name by which `ModelCore` finds `ProcessingCore` is given
to a subclass that adds one library; and so is, where there is a window, that of `ProcessingController`, which adds its
panes. No file, class or function of ptychodus is changed.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import ptychodus.model.core
from ptychodus.api.reconstruct import ReconstructorLibrary
from ptychodus.model.processing import ProcessingCore

from ptychopinn.compat.ptychodus.library import PtychoPINNLibrary

_log = logging.getLogger("ptychopinn")

#: The choice of an algorithm, which the window has, -> our library in it.
_LIBRARIES: WeakKeyDictionary[Any, PtychoPINNLibrary] = WeakKeyDictionary()


class _ProcessingCore(ProcessingCore):
    def __init__(
        self,
        task_manager: Any,
        settings_registry: Any,
        product_api: Any,
        algorithm_libraries: Sequence[ReconstructorLibrary],
    ) -> None:
        library = PtychoPINNLibrary(settings_registry)
        super().__init__(task_manager, settings_registry, product_api, [*algorithm_libraries, library])
        _LIBRARIES[self.algorithm_parameter] = library


def add_library() -> None:
    """Have the next `ModelCore` list our library, and the next window show its panes."""
    if ptychodus.model.core.ProcessingCore is not ProcessingCore:
        return  # done before, by us or by another plug-in
    ptychodus.model.core.ProcessingCore = _ProcessingCore
    try:
        import ptychodus.controller.core as window
        from ptychodus.controller.processing import ProcessingController
    except ImportError as error:  # no Qt: nothing will be shown
        _log.debug("no panes: %s", error)
        return

    class _ProcessingController(ProcessingController):
        def __init__(self, algorithm_parameter: Any, *arguments: Any) -> None:
            *others, factories = arguments
            super().__init__(algorithm_parameter, *others, _with_ours(algorithm_parameter, factories))

    window.ProcessingController = _ProcessingController


def _with_ours(algorithm_parameter: Any, factories: Iterable[Any]) -> list[Any]:
    from ptychopinn.compat.ptychodus.panes import PaneFactory

    return [*factories, PaneFactory(_LIBRARIES[algorithm_parameter], factories)]
