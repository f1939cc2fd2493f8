"""The linear datamodeling score: do summed contributions rank real removals?

Source: Park et al. 2023, TRAK, section 2 (LDS); here over removals from one fixed run.
"""

import numpy as np
from numpy.typing import NDArray

from hydragrad.ranks import rank_correlation

Array = NDArray[np.float64]


def lds(predicted: Array, actual: Array) -> float:
    """Mean over the queries of Spearman's correlation over groups, both (queries, groups)."""
    per_query = rank_correlation(predicted, actual)
    return float(np.nanmean(per_query)) if np.isfinite(per_query).any() else float("nan")


def lds_interval(predicted: Array, actual: Array, *, seed: int = 0, confidence: float = 0.9) -> tuple[float, float]:
    """Bootstrap interval of the LDS over groups (percentiles of 1,000 resamples)."""
    from scipy.stats import bootstrap  # slow to import

    if predicted.shape[1] < 3 or np.isnan(lds(predicted, actual)):
        return float("nan"), float("nan")

    def statistic(groups: NDArray[np.int64]) -> float:
        value = lds(predicted[:, groups], actual[:, groups])
        return 0.0 if np.isnan(value) else value

    resampled = bootstrap(
        (np.arange(predicted.shape[1]),),
        statistic,
        vectorized=False,
        n_resamples=1_000,
        method="percentile",
        confidence_level=confidence,
        rng=np.random.default_rng(seed),
    )
    return float(resampled.confidence_interval.low), float(resampled.confidence_interval.high)
