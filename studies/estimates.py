"""Contributions of one run by several estimators, for protocols whose truth is networks trained on random halves."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hydragrad.attribution import attribute
from hydragrad.attribution.influence import influence_functions
from hydragrad.attribution.replays import leave_out
from hydragrad.replay import Recording
from hydragrad.replay.changed_run import ChangedRun
from hydragrad.scores import Method, Query
from studies.baselines import tracin

OVER_TRAINING = "influence functions over training"
"""Their mean over ten checkpoints, each with few conjugate gradients on a part of the samples."""
MEMORY = 1 << 30
METHODS: dict[str, Method] = {
    "none": Method.of("none"),
    "hessian": Method.of("hessian"),
    "ggn": Method.of("ggn"),
    "ggn damped 0.01": Method.of("ggn", damping=0.01),
}
OF_HALVES: dict[str, Method] = {f"{name} of own half": METHODS[name] for name in ("hessian", "ggn")}
"""The run that is differentiated is the same one on a random half of its samples, chosen by its seed."""
INFLUENCE: dict[str, dict[str, Any]] = {
    "influence functions": {"matrix_samples": None},
    OVER_TRAINING: {"matrix_samples": 2_000, "iterations": 5, "checkpoints": 10},
}
ESTIMATORS = (*METHODS, *OF_HALVES, *INFLUENCE, "TracIn")


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
    if estimator in INFLUENCE:
        options = {"damping": damping, "iterations": iterations} | INFLUENCE[estimator]
        return np.asarray(influence_functions(run, query, **options).numpy())
    if estimator == "TracIn":
        return np.asarray(tracin(run, query).numpy())
    if estimator in OF_HALVES:
        length: int = run.manifest.data["length"]
        run = ChangedRun(run, leave_out(length, 0.5, seed), memory=MEMORY)
    method = (METHODS | OF_HALVES)[estimator]
    return np.asarray(attribute(run, query, **method.options).values.numpy())
