"""The error of dropping the curvature over training time, beside its bounds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hydragrad.errors import PresentationError
from hydragrad.figures.style import BLUE, GREEN, INK, QUIET, VERMILLION, drawing, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SIZES = (
    ("bound", "L M Σ|κ|", QUIET, ":"),
    ("measured_bound", "Σ|κ| |H∇|", GREEN, "-."),
    ("error", "measured error", VERMILLION, "-"),
    ("exact", "exact hypergradient", BLUE, "--"),
)


def error_over_time(points: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw norms of error, bounds and exact hypergradient, and below them how contributions agree, against steps.

    Args:
        points: Each with `step`, `error`, `exact`, `measured_bound`, `bound`, `spearman` and `sign_disagreements`.

    Raises:
        PresentationError: No points.
    """
    if not points:
        raise PresentationError("There are no measurements, so there is no error to draw.")
    steps, marker = [point["step"] for point in points], "o" if len(points) < 3 else ""
    with drawing():
        figure, (above, below) = new_figure(height=5.6, rows=2)
        for key, name, colour, dashes in _SIZES:
            values = [point[key] if point[key] > 0 else float("nan") for point in points]
            above.plot(steps, values, color=colour, linestyle=dashes, marker=marker, label=name)
        above.set(yscale="log", ylabel="L2 norm, mean of samples")
        above.legend(fontsize=9)
        for key, name, colour, dashes in (
            ("spearman", "Spearman with exact", BLUE, "-"),
            ("sign_disagreements", "share of wrong signs", VERMILLION, "--"),
        ):
            below.plot(steps, [p[key] for p in points], color=colour, linestyle=dashes, marker=marker, label=name)
        below.axhline(0, color=INK, linewidth=0.8)
        below.set(xlabel="step", ylabel="contributions")
        below.legend(fontsize=9)
    return figure
