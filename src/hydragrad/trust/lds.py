"""The linear datamodeling score: do summed contributions rank real removals?

Source: Park et al. 2023, TRAK, section 2 (LDS); here over removals from one fixed run.
"""

import numpy as np
from numpy.typing import NDArray

from hydragrad.ranks import rank_correlation

Array = NDArray[np.float64]

NUMBERS = 1_000_000
"""Ranked at a time."""


def lds(predicted: Array, actual: Array) -> float:
    """Mean over the queries of Spearman's correlation over groups, both (queries, groups)."""
    per_query = rank_correlation(predicted, actual)
    return float(np.nanmean(per_query)) if np.isfinite(per_query).any() else float("nan")


def lds_interval(predicted: Array, actual: Array, *, seed: int = 0, confidence: float = 0.9) -> tuple[float, float]:
    """Bootstrap interval of the LDS over groups (percentiles of 1,000 resamples)."""
    from scipy.stats import bootstrap  # slow to import

    if predicted.shape[1] < 3 or np.isnan(lds(predicted, actual)):
        return float("nan"), float("nan")

    def statistic(groups: NDArray[np.int64], axis: int = -1) -> Array:
        rows = groups.reshape(-1, groups.shape[-1])
        at_once = max(1, NUMBERS // predicted[:, rows[0]].size)
        values = [_of_each(predicted, actual, rows[n : n + at_once]) for n in range(0, len(rows), at_once)]
        return np.concatenate(values).reshape(groups.shape[:-1])

    resampled = bootstrap(
        (np.arange(predicted.shape[1]),),
        statistic,
        vectorized=True,
        n_resamples=1_000,
        method="percentile",
        confidence_level=confidence,
        rng=np.random.default_rng(seed),
    )
    return float(resampled.confidence_interval.low), float(resampled.confidence_interval.high)


def _of_each(predicted: Array, actual: Array, rows: NDArray[np.int64]) -> Array:
    """The LDS over each row of groups, (rows,); 0 where it is not defined."""
    per_query = rank_correlation(predicted[:, rows], actual[:, rows])
    defined = np.isfinite(per_query)
    return np.asarray(np.where(defined, per_query, 0.0).sum(0) / np.maximum(1, defined.sum(0)))
