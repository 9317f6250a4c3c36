# SPDX-License-Identifier: BSD-3-Clause
"""The settings of our reconstructors in ptychodus' window: a box for every section, a line for every field."""

from __future__ import annotations

from collections.abc import Iterable

from ptychodus.api.parameters import BooleanParameter, IntegerParameter, RealParameter
from ptychodus.controller.parameters import ParameterViewBuilder
from ptychodus.controller.processing import ReconstructorViewControllerFactory
from PyQt5.QtWidgets import QWidget

from ptychopinn_ptychodus.library import PtychoPINNLibrary
from ptychopinn_ptychodus.settings import SectionSettings


class PaneFactory(ReconstructorViewControllerFactory):
    """Panes of our library; where the original PtychoPINN is installed its reconstructors have the same prefix.

    Args:
        library: ours.
        others: the factories of ptychodus; that of our name makes the panes of the original.
    """

    def __init__(self, library: PtychoPINNLibrary, others: Iterable[ReconstructorViewControllerFactory]) -> None:
        super().__init__()
        self._library = library
        self._original = [factory for factory in others if factory.name == library.name]

    @property
    def name(self) -> str:
        return self._library.name

    def create_view_controller(self, reconstructor_name: str) -> QWidget:
        settings = {name.casefold(): settings for name, settings in self._library.settings.items()}
        if reconstructor_name.casefold() not in settings:
            return self._original[0].create_view_controller(reconstructor_name)
        builder = ParameterViewBuilder()
        for name, section in settings[reconstructor_name.casefold()].sections.items():
            _add(builder, section, name.capitalize())
        return builder.build_widget()


def _add(builder: ParameterViewBuilder, section: SectionSettings, group: str) -> None:
    for name, parameter in section.parameters.items():
        label = name.replace("_", " ").capitalize()
        options = {"tool_tip": section.field_docs.get(name, ""), "group": group}
        if name in section.choices:
            builder.add_combo_box(parameter, section.choices[name], f"{label}:", **options)
        elif isinstance(parameter, BooleanParameter):
            builder.add_check_box(parameter, label, **options)
        elif isinstance(parameter, IntegerParameter):
            builder.add_integer_line_edit(parameter, f"{label}:", **options)
        elif isinstance(parameter, RealParameter):
            builder.add_decimal_line_edit(parameter, f"{label}:", **options)
        else:
            builder.add_line_edit(parameter, f"{label}:", **options)
