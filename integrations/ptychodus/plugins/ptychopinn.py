# SPDX-License-Identifier: BSD-3-Clause
"""ptychodus calls this plug-in of ptychopinn when it starts; see docs/ptychodus.md.

It is installed into the folder of ptychodus' plug-ins, where nothing else looks. What goes wrong here must not keep
ptychodus from starting.
"""

import logging
from typing import Any


def register_plugins(registry: Any) -> None:
    """Add the reconstructors of ptychopinn to those that ptychodus is about to list."""
    try:
        from ptychopinn_ptychodus.plugin import add_library

        add_library()
    except Exception as error:
        logging.getLogger("ptychopinn").warning("this ptychodus cannot list ptychopinn's reconstructors: %r", error)
