"""Flipped labels found by an inspection in ranked order."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from hydragrad.figures.style import BLUE, QUIET, drawing, new_figure
from hydragrad.figures.values import same_length, shares

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def found_curve(found_share: ArrayLike, inspected_share: ArrayLike, *, chance: ArrayLike | None = None) -> Figure:
    """Draw the share of flipped labels found against the share of samples inspected.

    Args:
        found_share: Fractions, (n,).
        inspected_share: Fractions, (n,).
        chance: Share found by an inspection in random order, fractions, (n,); None for the diagonal.

    Raises:
        PresentationError: Different lengths, no values, or values outside 0 to 1.
    """
    found_shares = shares(found_share, "found shares")
    inspected = shares(inspected_share, "inspected shares")
    same_length(found_shares, inspected, "found and inspected shares")
    random = inspected if chance is None else shares(chance, "found shares by chance")
    same_length(random, inspected, "found shares by chance and inspected shares")
    from matplotlib.ticker import PercentFormatter  # slow to import

    with drawing():
        figure, (axes,) = new_figure(height=3.5)
        order = np.argsort(inspected, kind="stable")
        axes.plot(inspected[order], found_shares[order], color=BLUE, label="in this order", clip_on=False)
        axes.plot(inspected[order], random[order], color=QUIET, linestyle="--", label="by chance")
        axes.set(xlim=(0, 1), ylim=(0, 1.02))
        axes.set_xlabel("share of samples inspected, most suspect first")
        axes.set_ylabel("flipped labels found")
        axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axes.legend(loc="lower right")
    return figure
