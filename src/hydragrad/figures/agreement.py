"""How well predicted changes agree with actual ones: slope and correlations."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from hydragrad.figures.values import same_length, vector
from hydragrad.ranks import rank_correlation


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """Predicted against actual.

    Attributes:
        count: Number of pairs.
        slope: Least-squares slope of actual on predicted; 1 where the scale is right. NaN if undefined.
        pearson: Linear correlation. NaN if undefined.
        spearman: Rank correlation. NaN if undefined.
    """

    count: int
    slope: float
    pearson: float
    spearman: float


def agreement(predicted: ArrayLike, actual: ArrayLike) -> Agreement:
    """Compare predicted with actual changes, both (n,); with fewer than 3 pairs, or constants, all is NaN.

    Raises:
        PresentationError: Different lengths, nothing, NaN or infinity.
    """
    x, y = vector(predicted, "predicted changes"), vector(actual, "actual changes")
    same_length(x, y, "predicted and actual changes")
    if len(x) < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return Agreement(count=len(x), slope=np.nan, pearson=np.nan, spearman=np.nan)
    # Divided by their largest size, since squares of small changes would underflow.
    x_size, y_size = float(np.abs(x).max()), float(np.abs(y).max())
    u, v = x / x_size, y / y_size
    u, v = u - u.mean(), v - v.mean()
    return Agreement(
        count=len(x),
        slope=float(u @ v / (u @ u)) * (y_size / x_size),
        pearson=float(np.corrcoef(u, v)[0, 1]),
        spearman=float(rank_correlation(x, y)),
    )
