"""The linear datamodeling score: do summed contributions rank real removals?

Source: Park et al. 2023, TRAK, section 2 (LDS); here over removals from one fixed run.
"""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def rank_correlations(predicted: Array, actual: Array) -> Array:
    """Spearman's correlation a query; both (queries, groups). NaN where one side is constant."""
    from scipy.stats import rankdata  # slow to import

    ranks = [rankdata(values, axis=1) for values in (predicted, actual)]
    x, y = (rank - rank.mean(1, keepdims=True) for rank in ranks)
    with np.errstate(invalid="ignore", divide="ignore"):
        found: Array = (x * y).sum(1) / np.sqrt((x * x).sum(1) * (y * y).sum(1))
    return found


def lds(predicted: Array, actual: Array) -> float:
    """Mean over the queries of Spearman's correlation over groups, both (queries, groups)."""
    each = rank_correlations(predicted, actual)
    return float(np.nanmean(each)) if np.isfinite(each).any() else float("nan")


def lds_interval(predicted: Array, actual: Array, *, seed: int = 0, confidence: float = 0.9) -> tuple[float, float]:
    """Bootstrap interval of the LDS over groups (percentiles of 1,000 resamples)."""
    from scipy.stats import bootstrap  # slow to import

    if predicted.shape[1] < 3 or np.isnan(lds(predicted, actual)):
        return float("nan"), float("nan")

    def statistic(chosen: NDArray[np.int64]) -> float:
        value = lds(predicted[:, chosen], actual[:, chosen])
        return 0.0 if np.isnan(value) else value

    found = bootstrap(
        (np.arange(predicted.shape[1]),),
        statistic,
        vectorized=False,
        n_resamples=1_000,
        method="percentile",
        confidence_level=confidence,
        rng=np.random.default_rng(seed),
    )
    return float(found.confidence_interval.low), float(found.confidence_interval.high)
