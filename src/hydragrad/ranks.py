"""Rank correlation: how alike two lists of numbers order the same things.

Source: Spearman 1904, American Journal of Psychology 15.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


def rank_correlation(x: ArrayLike, y: ArrayLike) -> Array:
    """Spearman's correlation of x and y, both (..., n), over the last axis, (...). NaN where one side is constant."""
    return correlation_of_ranks(centred_ranks(x), centred_ranks(y))


def centred_ranks(values: ArrayLike) -> Array:
    """Ranks over the last axis, ties shared, less their mean; the shape of the values, (..., n)."""
    from scipy.stats import rankdata  # slow to import

    ranks: Array = np.asarray(rankdata(np.asarray(values), axis=-1), np.float64)
    return np.asarray(ranks - ranks.mean(-1, keepdims=True))


def correlation_of_ranks(x: Array, y: Array) -> Array:
    """Correlation over the last axis of centred ranks that are at hand already, both (..., n)."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray((x * y).sum(-1) / np.sqrt((x * x).sum(-1) * (y * y).sum(-1)))
