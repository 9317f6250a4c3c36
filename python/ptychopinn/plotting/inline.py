# SPDX-License-Identifier: BSD-3-Clause
"""A figure that notebooks show, without pyplot and its global state, and figures as bytes of image files."""

from __future__ import annotations

import base64
import io
import threading

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

#: Dots per inch in a notebook.
_DPI = 80
#: Of PNG files; higher levels take twice the time and save a tenth.
_COMPRESSION = 3

#: Held while a figure is laid out or drawn, because matplotlib's parser of formulae is not made for threads: ticks such
#: as 10^-2 are formulae.
one_at_a_time = threading.Lock()


class InlineFigure(Figure):
    """A figure on the Agg canvas; a notebook shows it when it is the value of a cell.

    Args:
        width: inches.
        height: inches.
    """

    def __init__(self, width: float, height: float) -> None:
        super().__init__(figsize=(width, height))
        FigureCanvasAgg(self)

    def _repr_png_(self) -> bytes:
        """The figure as a PNG file, for IPython."""
        return encoded(self, "png", _DPI)

    def _repr_html_(self) -> str:
        """The figure as an image in HTML, for documentation."""
        return f'<img alt="figure" src="data:image/png;base64,{base64.b64encode(self._repr_png_()).decode()}">'


def encoded(figure: Figure, kind: str, dpi: float) -> bytes:
    """A figure as the bytes of an image file.

    Args:
        figure: the figure.
        kind: suffix of the file, such as "png".
        dpi: dots per inch.
    """
    with one_at_a_time, io.BytesIO() as image:
        figure.savefig(image, format=kind, dpi=dpi, bbox_inches="tight", pil_kwargs={"compress_level": _COMPRESSION})
        return image.getvalue()
