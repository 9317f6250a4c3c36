# SPDX-License-Identifier: BSD-3-Clause
"""Former module names of earlier documentation still work, with a warning that gives the new name."""

from __future__ import annotations

import importlib
import re

import pytest


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("start_patches", "initial_patches"),
        ("start_waves", "initial_waves"),
        ("transmission_level", "transmission_level"),
    ],
)
def test_former_names_of_the_initial_estimate(old: str, new: str) -> None:
    from ptychopinn.physics import initial_estimate, start

    with pytest.warns(DeprecationWarning, match=rf"start\.{old} is now ptychopinn\.physics\.initial_estimate\.{new}"):
        assert getattr(start, old) is getattr(initial_estimate, new)
    with pytest.raises(AttributeError, match=r"module 'ptychopinn\.physics\.start' has no attribute 'nothing'"):
        start.nothing  # noqa: B018


@pytest.mark.parametrize(
    ("old", "new", "name"),
    [
        ("ptychopinn.processes", "ptychopinn.runtime.processes", "processes"),
        ("ptychopinn.data.subset", "ptychopinn.io.subset", "write_subset"),
        ("ptychopinn.data", "ptychopinn.scan", "Scan"),
    ],
)
def test_former_modules_forward_their_names(old: str, new: str, name: str) -> None:
    former = importlib.import_module(old)
    with pytest.warns(DeprecationWarning, match=rf"{old}\.{name} is now {new}\.{name}"):
        assert getattr(former, name) is getattr(importlib.import_module(new), name)
    with pytest.raises(AttributeError, match=f"module '{old}' has no attribute 'nothing'"):
        former.nothing  # noqa: B018


@pytest.mark.parametrize("name", ["ptychopinn.compat.ptychodus", "ptychopinn.compat.ptychodus.plugin"])
def test_a_former_name_in_another_distribution_names_its_command(name: str) -> None:
    sentence = "ptychopinn.compat.ptychodus is now ptychopinn_ptychodus, in a distribution of its own: "
    with pytest.raises(ImportError, match=re.escape(f"{sentence}pip install ./integrations/ptychodus")):
        importlib.import_module(name)
