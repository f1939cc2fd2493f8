"""Which estimator foretells removals from a fixed run, on runs that are not smooth?

The protocol, fixed before any of its numbers were seen:

- Data: MNIST and Fashion-MNIST, 5,000 training samples; networks of `studies/trust.py`; 5 epochs, batch 64, SGD 0.01
  with momentum 0.9; a run is one seed of initialisation and order, and of the groups that are left out.
- Removals, really retrained with weight 0 and all else equal: 30 random groups of 10 %, 20 of 5 % (both halves of the
  first ten groups of 10 %), 20 of 1 %.
- Queries: the mean loss of the first 2,000 test samples, and the losses of test samples 0 and 1.
- Estimators: none; hessian; ggn; ggn damped by 0.01, 0.1 or 1; hessian and ggn averaged over K = 2, 4, 8 replays
  without a tenth; influence functions at the final weights (Gauss-Newton matrix, damping 0.1, 15 steps of conjugate
  gradients) and, added later, averaged over ten checkpoints (2,000 samples, 5 steps); TracIn over ten checkpoints.
- Tuned: the damping alone, by the LDS of the mean loss of 2,000 *validation* samples over the removals of 10 %. All of
  the grid is shown; `chosen_damping` says what the validation loss chose.
- Ceilings: the first ten removals of 10 % and of 1 % retrained with the initial weights changed by one rounding (no
  estimator can know more), and actual changes of two halves, summed, against the whole (no additive score can do
  better).
- Reported: LDS with 90 % bootstrap intervals over groups, slope and scale of actual on predicted mean loss, and cost as
  processor time over that of one training; over several runs, mean and standard deviation.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hydragrad.attribution import attribute
from hydragrad.attribution.influence import influence_functions
from hydragrad.datasets import load
from hydragrad.figures import agreement
from hydragrad.scores import Curvature, Method, Query
from hydragrad.studies.baselines import tracin
from hydragrad.studies.estimates import INFLUENCE, OVER_TRAINING
from hydragrad.studies.removals import FEW, HALF, SHARES, SINGLE, WHOLE, Removals
from hydragrad.studies.rows import append_rows, kept_rows
from hydragrad.trust.lds import lds, lds_interval

Array = NDArray[np.float64]

ROWS_FILE = "estimators.jsonl"
DAMPINGS = (0.01, 0.1, 1.0)
REPLAYS = (2, 4, 8)
ROUNDED, HALVES = "re-rounded retraining", "two halves, summed"
CEILINGS = {ROUNDED: (WHOLE, FEW), HALVES: (WHOLE,)}
KINDS = (
    *("ceilings", "none", "hessian", "ggn", "damped", "influence", "influence-over", "tracin"),
    *("hessian-replays", "ggn-replays"),
)
"""Kinds of estimator, as they are asked for; the cheap ones first."""


@dataclass(frozen=True, kw_only=True)
class EstimatorRow:
    """One estimator on one run at one size of removals.

    Attributes:
        data, network, seed: The run.
        test_accuracy: Of the run.
        cosine, rounding_growth: What `smoothness` says of it, at removals of a tenth.
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
class _Estimator:
    """What predicts: its name, and the method of `attribute` if it is one."""

    name: str
    method: Method | None = None
    tuned: bool = False


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


def reproduce_estimators(
    out: Path,
    *,
    data: str,
    data_dir: Path | None = None,
    networks: Sequence[str] = ("mlp", "lenet5", "batch-norm"),
    seeds: Sequence[int] = (0,),
    train_size: int = 5_000,
    epochs: int = 5,
    groups: int = 30,
    kinds: Sequence[str] = KINDS,
    replays: Sequence[int] = REPLAYS,
    shares: Sequence[float] = SHARES,
    workers: int = 1,
    rows_file: Path | None = None,
) -> list[EstimatorRow]:
    """Measure what is asked for and not there yet; runs, retrainings and estimates in `out` are kept.

    Args:
        out: Folder for the runs.
        data: Name of the data set.
        data_dir: Where its files lie.
        networks: Some of `NETWORKS`.
        seeds: One run each.
        train_size: Training samples.
        epochs: Passes over them.
        groups: Groups of the largest size; two thirds as many of the others. A multiple of three.
        kinds: Some of `KINDS`.
        replays: Over how many replays to average, smallest first.
        shares: Some of `SHARES`.
        workers: Processes that retrain at the same time.
        rows_file: Where rows are kept, `ROWS_FILE` in `out` if None; rows that it holds are not measured again.

    Returns:
        The rows of these runs, estimators and shares.
    """
    out.mkdir(parents=True, exist_ok=True)
    file = rows_file or out / ROWS_FILE
    splits = load(data, data_dir=data_dir, train_size=train_size)
    asked = _estimators(kinds, sorted(replays))
    wanted = [(each.name, s) for each in asked for s in SHARES if s in shares and s in CEILINGS.get(each.name, SHARES)]
    rows: list[EstimatorRow] = []
    for network in networks:
        for seed in seeds:
            sizes = {"train_size": len(splits.train), "epochs": epochs, "removals": groups}
            run = {"data": splits.name, "network": network, "seed": seed, **sizes}
            done = [row for row in kept_rows(EstimatorRow, file) if _is_of(row, run)]
            name = f"{splits.name}-{network}-{len(splits.train)}x{epochs}-{seed}"
            removals = Removals(
                out / name, splits, network=network, seed=seed, epochs=epochs, count=groups, workers=workers
            )
            have = {(row.estimator, row.share) for row in done}
            missing = [each for each in wanted if each not in have]
            if missing:
                _warn_of_another_run(done, removals)
            for row in _measured(run, removals, asked, missing):
                append_rows(file, [row])
                done.append(row)
            rows += [row for row in done if (row.estimator, row.share) in wanted]
    return rows


def chosen_damping(rows: Sequence[EstimatorRow]) -> str | None:
    """The damped estimator of one run that the validation loss chose; None without any."""
    tuned = [row for row in rows if row.tuning_lds is not None and row.share == WHOLE]
    return max(tuned, key=lambda row: row.tuning_lds or 0.0).estimator if tuned else None


def summary(rows: Sequence[EstimatorRow]) -> list[EstimatorSummary]:
    """Over the runs of each network, the largest removals first; a run's chosen damping as an estimator of its own."""
    chosen = {run: chosen_damping([row for row in rows if _run(row) == run]) for run in map(_run, rows)}
    pooled: dict[tuple[Any, ...], list[EstimatorRow]] = {}
    for row in rows:
        of = (row.data, row.network, row.train_size, row.epochs, row.removals)
        pooled.setdefault((*of, row.estimator, row.share), []).append(row)
        if row.estimator == chosen[_run(row)]:
            pooled.setdefault((*of, "ggn, damping chosen", row.share), []).append(row)
    found = []
    for (data, network, _, _, _, estimator, share), some in pooled.items():
        found.append(
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
    return sorted(found, key=lambda each: -each.share)


def _run(row: EstimatorRow) -> tuple[Any, ...]:
    return row.data, row.network, row.seed, row.train_size, row.epochs, row.removals


def _is_of(row: EstimatorRow, run: dict[str, Any]) -> bool:
    return all(getattr(row, name) == value for name, value in run.items())


def _warn_of_another_run(done: Sequence[EstimatorRow], removals: Removals) -> None:
    there = {row.test_accuracy for row in done}
    if there and there != {removals.facts["test_accuracy"]}:
        warnings.warn(
            f"Kept rows of {done[0].data}, {done[0].network}, seed {done[0].seed} are of a run with test accuracy "
            f"{', '.join(f'{each:.4f}' for each in sorted(there))}; the same seed gives "
            f"{removals.facts['test_accuracy']:.4f} here, as another machine rounds otherwise. What is measured now is "
            f"held against other removals than they were.",
            stacklevel=3,
        )


def _estimators(kinds: Sequence[str], replays: Sequence[int]) -> list[_Estimator]:
    """What is asked for, in the order of `KINDS`."""
    damped = [_by(Method.of("ggn", damping=value), tuned=True) for value in DAMPINGS]
    of_kind = {
        "ceilings": [_Estimator(name=name) for name in CEILINGS],
        "damped": damped,
        "influence": [_Estimator(name="influence functions")],
        "influence-over": [_Estimator(name=OVER_TRAINING)],
        "tracin": [_Estimator(name="TracIn")],
    }
    for curvature in get_args(Curvature):
        of_kind[curvature] = [_by(Method.of(curvature))]
        if curvature != "none":
            of_kind[f"{curvature}-replays"] = [_by(Method.of(curvature, replays=count)) for count in replays]
    return [estimator for kind in KINDS if kind in kinds for estimator in of_kind[kind]]


def _by(method: Method, *, tuned: bool = False) -> _Estimator:
    return _Estimator(name=method.in_words, method=method, tuned=tuned)


def _measured(
    run: dict[str, Any], removals: Removals, asked: Sequence[_Estimator], missing: Sequence[tuple[str, float]]
) -> Iterator[EstimatorRow]:
    """The missing rows, one at a time."""
    for estimator in asked:
        for share in [share for name, share in missing if name == estimator.name]:
            predicted, actual, seconds = _compared(removals, estimator, share)
            compared = _row(predicted, actual, tuned=estimator.tuned)
            cost = seconds / removals.training
            kept = {"estimator": estimator.name, "share": share, "groups": actual.shape[1], "trainings": cost}
            yield EstimatorRow(**(run | removals.facts | kept | compared))


def _compared(removals: Removals, estimator: _Estimator, share: float) -> tuple[Array, Array, float]:
    """Predicted and actual changes, (queries, groups), and the processor seconds of the prediction."""
    actual, count = removals.actual(share), removals.halved
    if estimator.name == ROUNDED:
        return removals.rounded(share), actual[:, :count], count * removals.training
    if estimator.name == HALVES:
        halves = removals.actual(HALF)
        return halves[:, ::2] + halves[:, 1::2], actual[:, :count], 2 * count * removals.training
    values, seconds = _contributions(removals, estimator)
    predicted = np.stack([values[:, group].sum(1) for group in removals.groups[share]], axis=1)
    return predicted, actual, seconds


def _contributions(removals: Removals, estimator: _Estimator) -> tuple[Array, float]:
    queries = removals.queries if estimator.tuned else removals.queries[:-1]
    method = estimator.method
    if method is None:
        compute = _baseline(removals, estimator.name)
        return removals.estimate(estimator.name, lambda: torch.cat([compute(query) for query in queries]))

    def values(by: Method) -> Tensor:
        return attribute(removals.run, queries, **by.options).values

    if not method.replays:
        return removals.estimate(estimator.name, partial(values, method))
    replays = [
        removals.estimate(f"{method.curvature} replay {number}", partial(values, replace(method, replays=(number,))))
        for number in method.replays
    ]
    return np.mean([part for part, _ in replays], axis=0), sum(seconds for _, seconds in replays)


def _baseline(removals: Removals, name: str) -> Callable[[Query], Tensor]:
    if name == "TracIn":
        return partial(tracin, removals.run)
    options: dict[str, Any] = {"damping": 0.1, "iterations": 15} | INFLUENCE[name]
    return partial(influence_functions, removals.run, **options)


def _row(predicted: Array, actual: Array, *, tuned: bool) -> dict[str, Any]:
    """What a row says of predicted and actual changes, both (queries, groups)."""
    mean, single, tuning = slice(0, 1), slice(1, 1 + len(SINGLE)), slice(1 + len(SINGLE), None)
    low, high = lds_interval(predicted[mean], actual[mean])
    single_low, single_high = lds_interval(predicted[single], actual[single])
    (p,), (a,) = predicted[mean], actual[mean]
    slope = agreement(p, a).slope
    return {
        "lds": lds(predicted[mean], actual[mean]),
        "lds_low": low,
        "lds_high": high,
        "single": lds(predicted[single], actual[single]),
        "single_low": single_low,
        "single_high": single_high,
        "slope": None if np.isnan(slope) else slope,
        "scale": float(p @ a / (p @ p)) if p.any() else None,
        "tuning_lds": lds(predicted[tuning], actual[tuning]) if tuned else None,
    }
