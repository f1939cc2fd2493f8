"""Size, type and colours of all figures; matplotlib's global settings stay as they are."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe & Ito, "Color Universal Design", 2008.
BLUE, VERMILLION, GREEN = "#0072b2", "#d55e00", "#009e73"
INK, QUIET, GRID, PAPER = "#1f2328", "#59636e", "#d8dde3", "#fefefe"

WIDTH = 5.2  # inches; with 11 pt type a figure is readable at half its width

_SETTINGS: dict[str, Any] = {
    "font.family": "DejaVu Sans",  # included in matplotlib, so that figures are the same everywhere
    "font.size": 11,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.titlecolor": QUIET,
    "axes.edgecolor": QUIET,
    "axes.labelcolor": INK,
    "axes.facecolor": PAPER,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.formatter.use_mathtext": True,
    "axes.formatter.limits": (-3, 4),
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "lines.linewidth": 2,
    "text.color": INK,
    "xtick.color": QUIET,
    "ytick.color": QUIET,
    "legend.frameon": False,
    "figure.facecolor": PAPER,
    "savefig.facecolor": PAPER,
    "svg.fonttype": "path",
    "svg.hashsalt": "hydragrad",
}


@contextmanager
def drawing() -> Iterator[None]:
    """Draw in our style inside the block; the global settings have no effect and do not change."""
    import matplotlib.style  # slow to import

    with matplotlib.style.context(["default", _SETTINGS]):
        yield


def new_figure(height: float, rows: int = 1, width: float = WIDTH) -> tuple[Figure, list[Axes]]:
    """Return a figure of `rows` axes with a common horizontal axis; sizes in inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # slow to import
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, 1, sharex=True, squeeze=False)
    return figure, [row[0] for row in axes]


def plain(text: str, length: int = 80) -> str:
    """Prepare text from data for matplotlib: one line, shortened, with dollar signs escaped."""
    return textwrap.shorten(text, length, placeholder=" …").replace("$", r"\$")


def wrapped(text: str, width: int = 52) -> str:
    """Break text into lines of at most `width` characters."""
    return textwrap.fill(text, width, break_long_words=True)
