"""The distribution of the contributions of training samples."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hydragrad.figures.style import BLUE, QUIET, VERMILLION, drawing, new_figure, plain, wrapped
from hydragrad.figures.values import same_length, vector

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BINS = 41
HEAVY_TAIL_RATIO = 12.0
"""Ratio of the largest to the median size above which a linear axis would show one spike."""


def contribution_histogram(
    values: ArrayLike, *, marked: ArrayLike | None = None, marked_name: str = "", query: str
) -> Figure:
    """Draw the distribution of contributions to one query; heavy tails get an axis that is logarithmic away from 0.

    Args:
        values: Contributions, (samples,), finite.
        marked: True for samples to show as a second histogram, (samples,).
        marked_name: Their name in the legend.
        query: Name of the query.

    Raises:
        PresentationError: No values, NaN or infinity, a mask of another length.
    """
    numbers = vector(values, "contributions")
    marks = np.zeros(len(numbers)) if marked is None else vector(marked, "marks")
    same_length(numbers, marks, "contributions and marks")
    mask = marks.astype(bool)
    with drawing():
        figure, (axes,) = new_figure(height=3.3)
        edges = _scale(axes, numbers)
        _fill(axes, numbers[~mask], edges, BLUE, "other samples" if mask.any() else "")
        if mask.any():
            _fill(axes, numbers[mask], edges, VERMILLION, plain(marked_name) or "marked samples", hatch="////")
            axes.legend()
        axes.axvline(0, color=QUIET, linewidth=1.2, linestyle="--")
        axes.set_title(f"lowest {numbers.min():+.2g}, highest {numbers.max():+.2g}".replace("-", "−"))
        axes.set_xlabel(_axis_text(query))
        axes.set_ylabel("training samples")
        axes.set_ylim(bottom=0)
    return figure


def _axis_text(query: str) -> str:
    text, sign = f"contribution to {plain(query)}", "(positive helps)"
    return f"{text} {sign}" if len(text) < 40 else f"{wrapped(text)}\n{sign}"


def _scale(axes: Axes, values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Set the axis scale; return edges of bins that look equally wide on it."""
    sizes = np.abs(values[values != 0])
    low, high = float(values.min()), float(values.max())
    if low == high:
        low, high = low - (abs(low) or 1.0), high + (abs(high) or 1.0)
    if not sizes.size or sizes.max() <= HEAVY_TAIL_RATIO * np.median(sizes):
        return np.linspace(low, high, BINS + 1)
    width = float(np.median(sizes))
    axes.set_xscale("asinh", linear_width=width)
    axes.set_xticks(_decades(low, high, width))
    axes.minorticks_off()
    axes.xaxis.set_major_formatter(lambda tick, _: _power(tick))
    edges: NDArray[np.float64] = width * np.sinh(
        np.linspace(np.arcsinh(low / width), np.arcsinh(high / width), BINS + 1)
    )
    edges[0], edges[-1] = low, high  # rounding must not exclude the extremes
    return edges


def _decades(low: float, high: float, width: float) -> list[float]:
    """Return 0 and powers of ten on both sides, few enough that their labels do not overlap."""
    first, last = int(np.ceil(np.log10(width))), int(np.floor(np.log10(max(-low, high))))
    step = max(1, -(-(last - first + 1) // 3))
    powers = [10.0**k for k in range(last, first - 1, -step)]
    return [-p for p in powers if -p >= low] + [0.0] + [p for p in reversed(powers) if p <= high]


def _power(tick: float) -> str:
    if tick == 0:
        return "0"
    return rf"${'-' if tick < 0 else ''}10^{{{round(np.log10(abs(tick)))}}}$"


def _fill(
    axes: Axes,
    values: NDArray[np.float64],
    edges: NDArray[np.float64],
    colour: str,
    name: str,
    hatch: str = "",
) -> None:
    counts, _ = np.histogram(values, edges)
    axes.stairs(counts, edges, fill=True, color=colour, alpha=0.35, label="_")
    axes.stairs(counts, edges, edgecolor=colour, linewidth=1.4, hatch=hatch or None, label=name or "_")
