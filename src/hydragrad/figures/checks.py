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

RASTERISED_FROM = 2_000
"""Points from which the scatter is an image within the vector graphic."""


def predicted_against_actual(predicted: ArrayLike, actual: ArrayLike, *, unit: str) -> Figure:
    """Draw actual changes against predicted ones, with the line on which they are equal.

    Args:
        predicted: Predicted changes, (n,), finite.
        actual: Changes after really training again, (n,), finite.
        unit: Of both.

    Raises:
        PresentationError: Different lengths, nothing, NaN or infinity.
    """
    agreed = agreement(predicted, actual)
    x, y = vector(predicted, "predicted changes"), vector(actual, "actual changes")
    with drawing():
        figure, (axes,) = new_figure(height=3.9)
        axes.axline((0, 0), slope=1, color=QUIET, linestyle="--", linewidth=1.4, label="predicted = actual")
        axes.scatter(x, y, s=22, color=BLUE, alpha=0.7, linewidths=0, rasterized=len(x) >= RASTERISED_FROM, label="_")
        axes.margins(0.08)
        axes.set_xlabel(f"predicted change ({plain(unit, 30)})")
        axes.set_ylabel(f"actual change ({plain(unit, 30)})")
        axes.set_title(
            f"slope {_number(agreed.slope)}, Spearman {_number(agreed.spearman)}, "
            f"Pearson {_number(agreed.pearson)}, n = {agreed.count:,}"
        )
        axes.legend()
    return figure


def _number(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.2g}".replace("-", "−")
