# SPDX-License-Identifier: BSD-3-Clause
"""What is refined in a pass: probe and positions may begin later than the object."""

from __future__ import annotations

import dataclasses

from ptychopinn.config import RefineConfig


def config_at(config: RefineConfig, passes: int) -> RefineConfig:
    """The configuration of the pass that follows so many others: what begins later is fixed.

    Example:
        >>> config = RefineConfig(learn_positions=True, positions_from=20)
        >>> config_at(config, 19).learn_positions, config_at(config, 20).learn_positions
        (False, True)
    """
    probe = config.learn_probe and passes >= config.probe_from
    positions = config.learn_positions and passes >= config.positions_from
    if (probe, positions) == (config.learn_probe, config.learn_positions):
        return config
    return dataclasses.replace(config, learn_probe=probe, learn_positions=positions)


def last_begin(config: RefineConfig) -> int:
    """Pass from which on everything is refined."""
    return max(config.probe_from if config.learn_probe else 0, config.positions_from if config.learn_positions else 0)
