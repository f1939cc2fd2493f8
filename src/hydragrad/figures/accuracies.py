"""Accuracies side by side."""

from collections.abc import Mapping

from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from hydragrad.figures.given import shares
from hydragrad.figures.style import BLUE, INK, PAPER, drawing, new_figure, plain, wrapped


def accuracy_bars(accuracies: Mapping[str, float]) -> Figure:
    """Draw one horizontal bar a model, the first one on top.

    Args:
        accuracies: Name to accuracy as a fraction.

    Raises:
        PresentationError: None, or no fractions.
    """
    values = shares(list(accuracies.values()), "accuracies")
    with drawing():
        figure, (axes,) = new_figure(height=0.7 + 0.5 * len(values))
        rows = range(len(values))
        axes.barh(rows, values, color=BLUE, height=0.62)
        for row, value in zip(rows, values, strict=True):
            inside = value > 0.75
            axes.text(
                value + (-0.015 if inside else 0.015),
                row,
                f"{value:.1%}",
                va="center",
                ha="right" if inside else "left",
                color=PAPER if inside else INK,
                fontweight="bold",
            )
        axes.set_yticks(rows, [wrapped(plain(name, 40), 20) for name in accuracies])
        axes.tick_params(axis="y", length=0, labelcolor=INK)
        axes.invert_yaxis()
        axes.set_xlim(0, 1)
        axes.set_xlabel("accuracy")
        axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axes.grid(axis="y", visible=False)
    return figure
