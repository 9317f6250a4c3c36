# SPDX-License-Identifier: BSD-3-Clause
"""Draw ptychodus' window after it has trained and applied our network: docs/images/ptychodus.png.

    QT_QPA_PLATFORM=offscreen python scripts/ptychodus_window.py FILE

Run it with the Python of an environment that holds ptychodus with its window and both distributions: make
ptychodus makes one.
"""

from __future__ import annotations

import logging
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from matplotlib import font_manager
from ptychodus.controller import ControllerCore
from ptychodus.model import ModelCore
from ptychodus.view import ViewCore
from PyQt5.QtCore import QPoint
from PyQt5.QtGui import QFont, QFontDatabase, QPainter, QPixmap
from PyQt5.QtWidgets import QApplication, QComboBox

from ptychopinn import simulate
from ptychopinn.acquisition import Acquisition, object_pixel_size

ALGORITHM = "ptychopinn_network"
ENERGY, DETECTOR_PIXEL, SIZE = 1e4, 75e-6, 32


def draw(target: Path, scratch: Path) -> list[str]:
    """Write the picture; returns the names in the list of algorithms."""
    app = QApplication(sys.argv[:1])
    # The offscreen platform has no fonts of its own.
    number = QFontDatabase.addApplicationFont(font_manager.findfont("DejaVu Sans"))
    app.setFont(QFont(QFontDatabase.applicationFontFamilies(number)[0], 9))
    scan = replace(
        simulate("dead_leaves", patterns=144, size=SIZE, seed=1),
        name="scan",
        pixel_size=object_pixel_size(ENERGY, 1.0, DETECTOR_PIXEL, SIZE),
        energy=ENERGY,
        acquisition=Acquisition(distance=1.0, detector_pixel_size=DETECTOR_PIXEL),
    )
    scan.save(scratch / "scan", "ptychodus")
    with ModelCore(log_level=logging.INFO) as model:  # as the command ptychodus
        view = ViewCore(is_developer_mode_enabled=False)
        controller = ControllerCore(model, view)
        view.resize(1300, 860)
        controller.show_main_window("Ptychodus")
        model.processing_core.algorithm_parameter.set_value(ALGORITHM)
        training = model.settings_registry["PtychoPINNNetworkTraining"].parameters()
        training["epochs"].set_value(24)
        (tab,) = [action for action in view.navigation.action_group.actions() if action.text() == "Processing"]
        tab.trigger()

        api, monitor = model.workflow_api, model.processing_core.processing_api.task_monitor

        def wait(run: Callable[..., object], *arguments: object) -> None:
            count = monitor.get_completed_runs()
            run(*arguments)
            until(app, lambda: monitor.get_completed_runs() > count)
            if monitor.get_completed_runs() == count:
                raise TimeoutError("it did not end")
            monitor.raise_if_failed()

        data = api.load_assembled_diffraction_data(scratch / "scan" / "diffraction.h5")
        product = api.load_product(scratch / "scan" / "product.h5", diffraction=data)
        wait(product.train_reconstructor_local, scratch / "scan", scratch)
        wait(product.reconstruct_local)
        until(app, lambda: False, 3.0)  # for its window to hear of it

        (choice,) = [c for c in view.processing_view.findChildren(QComboBox) if c.findText(ALGORITHM) >= 0]
        products = [c for c in view.processing_view.findChildren(QComboBox) if c.findText("scan") >= 0]
        for combo in products:
            combo.setCurrentIndex(combo.count() - 1)
        until(app, lambda: False, 2.0)
        image = view.grab()
        choice.showPopup()
        until(app, lambda: False, 0.5)
        paste(image, choice.view().window().grab(), choice.mapTo(view, QPoint(0, choice.height())))
        if not image.save(str(target)):
            raise OSError(f"{target}: the picture cannot be written")
        return [choice.itemText(k) for k in range(choice.count())]


def until(app: QApplication, condition: Callable[[], bool], seconds: float = 300.0) -> None:
    """Let the window live until a condition holds, or for so long."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and not condition():
        app.processEvents()
        time.sleep(0.02)


def paste(image: QPixmap, part: QPixmap, place: QPoint) -> None:
    """The open list is a window of its own, which a picture of the first one does not show."""
    painter = QPainter(image)
    painter.drawPixmap(place, part)
    painter.end()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        print(draw(Path(sys.argv[1]), Path(folder)))
