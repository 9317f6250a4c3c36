# SPDX-License-Identifier: BSD-3-Clause
"""ptychodus' window, drawn where nobody sees it: our algorithms in its list, their settings in panes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("ptychodus.api", reason="ptychodus is not installed: make ptychodus")
pytest.importorskip("ptychopinn_ptychodus", reason="not installed: pip install --no-deps ./integrations/ptychodus")
os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
pytest.importorskip("PyQt5.QtWidgets", reason="PyQt5 cannot be used here", exc_type=ImportError)

from ptychodus.api.settings import SettingsRegistry
from ptychodus.controller.processing import ReconstructorViewControllerFactory
from PyQt5.QtGui import QImage
from PyQt5.QtWidgets import QApplication, QComboBox, QGroupBox, QLabel, QLineEdit, QWidget

from ptychopinn.config import Config
from ptychopinn_ptychodus.library import PtychoPINNLibrary
from ptychopinn_ptychodus.panes import PaneFactory

#: A window that cannot be made ends its process: it is tried in another one.
_TRIED = subprocess.run([sys.executable, "-c", "from PyQt5.QtWidgets import QApplication; QApplication([])"])
if _TRIED.returncode:
    pytest.skip("Qt cannot draw here, not even offscreen", allow_module_level=True)

SCRIPT = Path(__file__).parents[2] / "scripts" / "ptychodus_window.py"


@pytest.fixture(scope="module")
def app() -> QApplication:
    return QApplication.instance() or QApplication(sys.argv[:1])


class Original(ReconstructorViewControllerFactory):
    """Of the original PtychoPINN, whose library has our name."""

    @property
    def name(self) -> str:
        return "PtychoPINN"

    def create_view_controller(self, reconstructor_name: str) -> QWidget:
        return QLabel(f"the original's {reconstructor_name}")


@pytest.mark.slow
def test_the_window_lists_trains_and_applies_our_algorithms(tmp_path: Path) -> None:
    picture = tmp_path / "window.png"
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(picture)],
        cwd=tmp_path,
        env=os.environ | {"HOME": str(tmp_path), "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    names = done.stdout.splitlines()[-1]
    for name in ("ptychopinn-torch_unsupervised", "ptychopinn-torch_supervised", "network", "refinement"):
        assert name in names
    assert "epoch 24/24" in done.stdout and "144 patterns: predicted" in done.stdout
    assert QImage(str(picture)).width() == 1300


def test_panes_hold_every_setting_and_its_description(app: QApplication) -> None:
    library = PtychoPINNLibrary(SettingsRegistry())
    factory = PaneFactory(library, [Original()])
    pane = factory.create_view_controller("network")
    boxes = {box.title(): box for box in pane.findChildren(QGroupBox)}
    assert list(boxes) == ["Data", "Model", "Training", "Inference", "Execution"]
    (schedule,) = [box for box in boxes["Training"].findChildren(QComboBox) if box.findText("plateau") >= 0]
    assert schedule.currentText() == "cosine" and "of all rates" in schedule.toolTip()
    tips = {edit.toolTip() for edit in pane.findChildren(QLineEdit)}
    assert any("largest distance of neighbours, pixels" in tip for tip in tips)
    assert len(factory.create_view_controller("refinement").findChildren(QGroupBox)) == 2
    original = factory.create_view_controller("supervised")
    assert isinstance(original, QLabel) and original.text() == "the original's supervised"


def test_what_is_typed_into_a_pane_is_in_the_configuration(app: QApplication) -> None:
    library = PtychoPINNLibrary(SettingsRegistry())
    pane = PaneFactory(library, []).create_view_controller("network")
    (box,) = [box for box in pane.findChildren(QGroupBox) if box.title() == "Training"]
    (choice,) = [combo for combo in box.findChildren(QComboBox) if combo.findText("plateau") >= 0]
    choice.setCurrentText("plateau")
    choice.textActivated.emit("plateau")
    (minutes,) = [edit for edit in box.findChildren(QLineEdit) if "time limit in minutes" in edit.toolTip()]
    minutes.setText("1e-1")
    minutes.editingFinished.emit()
    config = Config.from_dict(library.settings["Network"].values())
    assert (config.training.schedule, config.training.minutes) == ("plateau", 0.1)
