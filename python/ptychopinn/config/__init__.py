# SPDX-License-Identifier: BSD-3-Clause
"""The configuration: typed sections, validated where they are made; the same names in Python, YAML and on the shell.

Each section documents its fields and refuses what cannot work, naming the field as ``section.field``. The resolved
configuration is written beside every run and into every bundle; nothing reads a setting from anywhere else.
"""

from typing import TYPE_CHECKING

from ptychopinn._submodules import submodules
from ptychopinn.config.execution import ExecutionConfig
from ptychopinn.config.inference import InferenceConfig, RefineConfig
from ptychopinn.config.live import LiveConfig
from ptychopinn.config.root import Config
from ptychopinn.config.training import DataConfig, ModelConfig, TrainingConfig

__all__ = [
    "Config",
    "DataConfig",
    "ExecutionConfig",
    "InferenceConfig",
    "LiveConfig",
    "ModelConfig",
    "RefineConfig",
    "TrainingConfig",
]

if not TYPE_CHECKING:  # which would then find every name
    __getattr__ = submodules(__name__)
