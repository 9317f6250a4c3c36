# SPDX-License-Identifier: BSD-3-Clause
"""How ptychodus 1.7 comes to list our library.

Its plug-ins register readers and writers, but no reconstructors: `ModelCore` names its libraries itself and hands them
to `ProcessingCore`. Plug-ins are loaded before that. So the name by which `ModelCore` finds `ProcessingCore` is given
to a subclass that adds one library; and so is, where there is a window, that of `ProcessingController`, which adds its
panes. No file, class or function of ptychodus is changed.
"""

from __future__ import annotations

import inspect
import logging
from typing import Any
from weakref import WeakKeyDictionary

import ptychodus.model.core

from ptychopinn_ptychodus.library import PtychoPINNLibrary

_log = logging.getLogger("ptychopinn")

#: The choice of an algorithm, which the window has, -> our library in it.
_LIBRARIES: WeakKeyDictionary[Any, PtychoPINNLibrary] = WeakKeyDictionary()


def add_library() -> None:
    """Have the next `ModelCore` list our library, and the next window show its panes.

    Raises:
        AttributeError: this ptychodus has no such list.
    """
    core = ptychodus.model.core.ProcessingCore
    if not hasattr(core, "lists_ptychopinn"):
        _need(core, "settings_registry", "algorithm_libraries")
        ptychodus.model.core.ProcessingCore = _listing(core)
    try:
        import ptychodus.controller.core as window
    except ImportError as error:  # no Qt: nothing will be shown
        _log.debug("no panes: %s", error)
        return
    controller = window.ProcessingController
    if not hasattr(controller, "lists_ptychopinn"):
        _need(controller, "algorithm_parameter", "view_controller_factories")
        window.ProcessingController = _showing(controller)


def _need(kind: type, *names: str) -> None:
    missing = set(names) - set(inspect.signature(kind).parameters)
    if missing:
        raise AttributeError(f"{kind.__name__} is made without {', '.join(sorted(missing))}")


def _listing(core: Any) -> Any:
    signature = inspect.signature(core)

    class ListingCore(core):
        lists_ptychopinn = True

        def __init__(self, *arguments: Any, **named: Any) -> None:
            bound = signature.bind(*arguments, **named)
            library = PtychoPINNLibrary(bound.arguments["settings_registry"])
            bound.arguments["algorithm_libraries"] = [*bound.arguments["algorithm_libraries"], library]
            super().__init__(*bound.args, **bound.kwargs)
            _LIBRARIES[self.algorithm_parameter] = library

    return ListingCore


def _showing(controller: Any) -> Any:
    from ptychopinn_ptychodus.panes import PaneFactory

    signature = inspect.signature(controller)

    class ShowingController(controller):
        lists_ptychopinn = True

        def __init__(self, *arguments: Any, **named: Any) -> None:
            bound = signature.bind(*arguments, **named)
            library = _LIBRARIES.get(bound.arguments["algorithm_parameter"])
            if library is not None:
                factories = list(bound.arguments["view_controller_factories"])
                bound.arguments["view_controller_factories"] = [*factories, PaneFactory(library, factories)]
            super().__init__(*bound.args, **bound.kwargs)

    return ShowingController
