# SPDX-License-Identifier: BSD-3-Clause
"""Generators, networks from patterns to object canvases, and their registry. Plain torch, no Lightning."""

from typing import TYPE_CHECKING

from ptychopinn._submodules import submodules
from ptychopinn.models.cnn import CNNGenerator
from ptychopinn.models.ffno import FFNOGenerator
from ptychopinn.models.pinn import PtychoModel
from ptychopinn.models.registry import GENERATORS, Generator, build_generator, register_generator
from ptychopinn.models.sru_net import SRUNetGenerator
from ptychopinn.models.unet import UNetGenerator
from ptychopinn.models.unrolled import UnrolledGenerator

__all__ = [
    "GENERATORS",
    "CNNGenerator",
    "FFNOGenerator",
    "Generator",
    "PtychoModel",
    "SRUNetGenerator",
    "UNetGenerator",
    "UnrolledGenerator",
    "build_generator",
    "register_generator",
]

if not TYPE_CHECKING:  # which would then find every name
    __getattr__ = submodules(__name__)
