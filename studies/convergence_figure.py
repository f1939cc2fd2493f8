"""Agreement of rankings against the number of runs that they average over."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from hydragrad.errors import PresentationError
from hydragrad.figures.style import BLUE, GREEN, INK, QUIET, VERMILLION, drawing, new_figure, plain

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLOURS, _MARKERS = (BLUE, VERMILLION, GREEN, INK), "osD^"


def convergence_curves(curves: Mapping[str, tuple[Sequence[float], Sequence[float]]]) -> Figure:
    """Draw measured (marks) and predicted (lines) agreement of means over 1, 2, ... runs with as many others.

    Args:
        curves: By name: measured and predicted rank correlations.

    Raises:
        PresentationError: No curves.
    """
    if not curves:
        raise PresentationError("At least one curve is needed, got none. Compare two runs or more.")
    from matplotlib.ticker import MaxNLocator  # slow to import

    with drawing():
        figure, (axes,) = new_figure(height=4.2)
        for number, (name, (measured, predicted)) in enumerate(curves.items()):
            colour = _COLOURS[number % len(_COLOURS)]
            axes.plot(range(1, len(predicted) + 1), predicted, color=colour, linewidth=1.2)
            marker = _MARKERS[number // len(_COLOURS) % len(_MARKERS)]
            counts = range(1, len(measured) + 1)
            axes.plot(counts, measured, color=colour, linestyle="", marker=marker, label=plain(name, 40))
        axes.axhline(0.9, color=QUIET, linewidth=0.8, linestyle=":")
        axes.set(xlabel="runs in each mean", ylabel="Spearman between two means", ylim=(0, 1.02))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend(fontsize=9)
    return figure
