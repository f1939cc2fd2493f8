"""The error of dropping the curvature over training time, with its bounds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hydragrad.errors import PresentationError
from hydragrad.figures.style import BLUE, GREEN, INK, QUIET, VERMILLION, drawing, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_NORMS = (
    ("bound", "L M Σ|κ|", QUIET, ":"),
    ("measured_bound", "Σ|κ| |H∇|", GREEN, "-."),
    ("error", "measured error", VERMILLION, "-"),
    ("exact", "exact hypergradient", BLUE, "--"),
)


_LEGEND_ABOVE: dict[str, Any] = {"fontsize": 9, "ncols": 2, "loc": "lower left", "bbox_to_anchor": (0, 1)}


def error_over_time(
    points: Sequence[Mapping[str, Any]], *, others: Mapping[str, Sequence[Mapping[str, Any]]] | None = None
) -> Figure:
    """Draw norms of error, bounds and exact hypergradient against steps; below them, the agreement of contributions.

    Args:
        points: Rows with `step`, `error`, `exact`, `measured_bound`, `bound`, `spearman` and `sign_disagreements`.
        others: Name → points of another estimator on the same run, with `step`, `error`, `spearman` and
            `sign_disagreements`.

    Raises:
        PresentationError: No points.
    """
    if not points:
        raise PresentationError("At least one measurement is needed, got none.")
    steps, marker = [point["step"] for point in points], "o" if len(points) < 3 else ""
    with drawing():
        figure, (above, below) = new_figure(height=7.2 if others else 6.0, rows=2)
        for key, name, colour, dashes in _NORMS:
            values = [point[key] or float("nan") for point in points]
            if all(map(math.isnan, values)):  # no bound, where the run has no closed form
                continue
            above.plot(steps, values, color=colour, linestyle=dashes, marker=marker, label=name)
        for name, measured in (others or {}).items():
            at_steps: list[Any] = [point["step"] for point in measured]
            style: dict[str, Any] = {"color": INK, "marker": marker}
            above.plot(at_steps, [point["error"] for point in measured], label=f"error of {name}", **style)
            below.plot(at_steps, [p["spearman"] for p in measured], label=f"Spearman, {name}", **style)
            wrong_signs = [p["sign_disagreements"] for p in measured]
            below.plot(at_steps, wrong_signs, linestyle="--", label=f"wrong signs, {name}", **style)
        above.set(yscale="log", ylabel="L2 norm, mean of samples")
        above.legend(**_LEGEND_ABOVE)
        for key, name, colour, dashes in (
            ("spearman", "Spearman with exact", BLUE, "-"),
            ("sign_disagreements", "share of wrong signs", VERMILLION, "--"),
        ):
            below.plot(steps, [p[key] for p in points], color=colour, linestyle=dashes, marker=marker, label=name)
        below.axhline(0, color=INK, linewidth=0.8)
        below.set(xlabel="step", ylabel="contributions")
        below.legend(**_LEGEND_ABOVE)
    return figure
