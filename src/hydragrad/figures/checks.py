"""Predicted against actual changes of a query."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from numpy.typing import ArrayLike

from hydragrad.figures.agreement import agreement
from hydragrad.figures.style import BLUE, QUIET, drawing, new_figure, plain
from hydragrad.figures.values import vector

if TYPE_CHECKING:
    from matplotlib.figure import Figure

POINTS_TO_RASTERISE = 2_000
"""From this number of points on, the scatter is an image within the vector graphic."""


def predicted_against_actual(predicted: ArrayLike, actual: ArrayLike, *, unit: str) -> Figure:
    """Draw actual changes against predicted ones, with the line on which they are equal.

    Args:
        predicted: Predicted changes, (n,), finite.
        actual: Changes measured by retraining, (n,), finite.
        unit: Unit of both.

    Raises:
        PresentationError: Different lengths, no values, NaN or infinity.
    """
    measures = agreement(predicted, actual)
    x, y = vector(predicted, "predicted changes"), vector(actual, "actual changes")
    with drawing():
        figure, (axes,) = new_figure(height=3.9)
        axes.axline((0, 0), slope=1, color=QUIET, linestyle="--", linewidth=1.4, label="predicted = actual")
        axes.scatter(
            x, y, s=22, color=BLUE, alpha=0.7, linewidths=0, rasterized=len(x) >= POINTS_TO_RASTERISE, label="_"
        )
        axes.margins(0.08)
        axes.set_xlabel(f"predicted change ({plain(unit, 30)})")
        axes.set_ylabel(f"actual change ({plain(unit, 30)})")
        axes.set_title(
            f"slope {_number(measures.slope)}, Spearman {_number(measures.spearman)}, "
            f"Pearson {_number(measures.pearson)}, n = {measures.count:,}"
        )
        axes.legend()
    return figure


def _number(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.2g}".replace("-", "−")
