"""The rows of the study of estimators, their summary over runs, and their tables."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hydragrad.cli.console import columns, number, percent
from studies.removals import WHOLE

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class EstimatorRow:
    """One estimator on one run at one size of removals.

    Attributes:
        data, network, seed: The run.
        test_accuracy: Of the run.
        cosine, rounding_growth: What `smoothness` measures of it, at removals of a tenth.
        estimator: What predicts.
        share: Of the samples in a group.
        groups: How many groups.
        lds, lds_low, lds_high: Of the mean test loss, with its 90 % bootstrap interval over groups.
        single, single_low, single_high: Mean LDS of the single test samples.
        slope: Least-squares slope of actual on predicted change of the mean loss.
        scale: The same through the origin.
        tuning_lds: LDS of the mean validation loss, where something was tuned by it.
        trainings: Processor time in trainings of the run.
        train_size, epochs: Training samples and passes over them.
        removals: Groups of the largest size; two thirds as many of the others.
    """

    data: str
    network: str
    seed: int
    test_accuracy: float
    cosine: float
    rounding_growth: float
    estimator: str
    share: float
    groups: int
    lds: float
    lds_low: float
    lds_high: float
    single: float
    single_low: float
    single_high: float
    slope: float | None
    scale: float | None
    tuning_lds: float | None
    trainings: float
    train_size: int = 5_000
    epochs: int = 5
    removals: int = 30


@dataclass(frozen=True, kw_only=True)
class EstimatorSummary:
    """One estimator at one size of removals, over the runs of a network.

    Attributes:
        data, network, estimator, share: What and where.
        runs: How many runs.
        lds, single: Of the mean test loss and of single test samples, one a run.
        slope: One a run, where it is defined.
        trainings: Mean cost.
    """

    data: str
    network: str
    estimator: str
    share: float
    runs: int
    lds: Array
    single: Array
    slope: Array
    trainings: float


def chosen_damping(rows: Sequence[EstimatorRow]) -> str | None:
    """Return the damped estimator of one run that the validation loss chose; None without any."""
    tuned = [row for row in rows if row.tuning_lds is not None and row.share == WHOLE]
    return max(tuned, key=lambda row: row.tuning_lds or 0.0).estimator if tuned else None


def summary(rows: Sequence[EstimatorRow]) -> list[EstimatorSummary]:
    """Summarise the runs of each network, largest removals first; a run's chosen damping is an estimator of its own."""
    chosen = {run: chosen_damping([row for row in rows if _run(row) == run]) for run in map(_run, rows)}
    pooled: dict[tuple[Any, ...], list[EstimatorRow]] = {}
    for row in rows:
        training = (row.data, row.network, row.train_size, row.epochs, row.removals)
        pooled.setdefault((*training, row.estimator, row.share), []).append(row)
        if row.estimator == chosen[_run(row)]:
            pooled.setdefault((*training, "ggn, damping chosen", row.share), []).append(row)
    summaries = []
    for (data, network, _, _, _, estimator, share), some in pooled.items():
        summaries.append(
            EstimatorSummary(
                data=data,
                network=network,
                estimator=estimator,
                share=share,
                runs=len(some),
                lds=np.array([row.lds for row in some]),
                single=np.array([row.single for row in some]),
                slope=np.array([row.slope for row in some if row.slope is not None]),
                trainings=float(np.mean([row.trainings for row in some])),
            )
        )
    return sorted(summaries, key=lambda summary: -summary.share)


def _run(row: EstimatorRow) -> tuple[Any, ...]:
    return row.data, row.network, row.seed, row.train_size, row.epochs, row.removals


def show(rows: Sequence[EstimatorRow]) -> None:
    """Print the rows of one run."""
    first, chosen = rows[0], chosen_damping(rows)
    columns(
        f"{first.data}, {first.network}, seed {first.seed}: test accuracy {percent(first.test_accuracy)}, cosine "
        f"{number(first.cosine)}, one rounding grows {number(first.rounding_growth)}-fold",
        ("left out", "estimator", "LDS mean loss", "LDS single", "slope", "trainings"),
        [
            (
                f"{100 * row.share:g} %",
                row.estimator + (" (chosen)" if row.estimator == chosen else ""),
                f"{row.lds:.2f} [{row.lds_low:.2f}, {row.lds_high:.2f}]",
                f"{row.single:.2f} [{row.single_low:.2f}, {row.single_high:.2f}]",
                number(row.slope),
                f"{row.trainings:.1f}",
            )
            for row in sorted(rows, key=lambda row: -row.share)
        ],
        left=["estimator"],
    )


def show_over_runs(rows: Sequence[EstimatorRow]) -> None:
    """Print means over the runs of each network."""
    columns(
        "over runs: mean ± standard deviation",
        ("trained", "left out", "estimator", "runs", "LDS mean loss", "LDS single", "slope", "trainings"),
        [
            (
                f"{mean.data}, {mean.network}",
                f"{100 * mean.share:g} %",
                mean.estimator,
                str(mean.runs),
                _spread(mean.lds),
                _spread(mean.single),
                _spread(mean.slope),
                f"{mean.trainings:.1f}",
            )
            for mean in summary(rows)
        ],
        left=["trained", "estimator"],
    )


def _spread(values: NDArray[np.float64]) -> str:
    if not len(values):
        return "-"
    return f"{values.mean():.2f}" + (f" ± {values.std(ddof=1):.2f}" if len(values) > 1 else "")
