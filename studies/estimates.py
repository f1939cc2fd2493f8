"""Contributions of one run by several estimators, for protocols whose truth is networks trained on random halves."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hydragrad.attribution import attribute
from hydragrad.attribution.influence import influence_functions
from hydragrad.attribution.replays import kept_weights
from hydragrad.replay import Recording
from hydragrad.replay.reweighted import Reweighted
from hydragrad.scores import Query
from studies.baselines import tracin

OF_HALF = " of own half"
"""The run that is differentiated is the same one on a random half of its samples, sampled with its seed."""
OVER_TRAINING = "influence functions over training"
"""Their mean over ten checkpoints, each with few conjugate gradients on a part of the samples."""
MEMORY = 1 << 30
ESTIMATORS: dict[str, dict[str, Any]] = {
    "none": {"curvature": "none"},
    "hessian": {"curvature": "hessian"},
    f"hessian{OF_HALF}": {"curvature": "hessian"},
    "ggn": {"curvature": "ggn"},
    f"ggn{OF_HALF}": {"curvature": "ggn"},
    "ggn damped 0.01": {"curvature": "ggn", "damping": 0.01},
    "influence functions": {"matrix_samples": None},
    OVER_TRAINING: {"matrix_samples": 2_000, "iterations": 5, "checkpoints": 10},
    "TracIn": {},
}


def estimate(
    estimator: str, recorded: Callable[[], Recording], query: Query, *, seed: int, damping: float, iterations: int
) -> NDArray[np.float64]:
    """Return contributions of every training sample to every scalar of a query, (queries, samples).

    Args:
        estimator: One of `ESTIMATORS`.
        recorded: Returns the run.
        query: The query.
        seed: Of the run.
        damping: Of influence functions.
        iterations: Of their conjugate gradients.
    """
    run = recorded()
    if estimator in ("influence functions", OVER_TRAINING):
        options = {"damping": damping, "iterations": iterations} | ESTIMATORS[estimator]
        return np.asarray(influence_functions(run, query, **options).numpy())
    if estimator == "TracIn":
        return np.asarray(tracin(run, query).numpy())
    if estimator.endswith(OF_HALF):
        length: int = run.manifest.data["length"]
        run = Reweighted(run, kept_weights(length, 0.5, seed), memory=MEMORY)
    return np.asarray(attribute(run, query, **ESTIMATORS[estimator]).values.numpy())
