"""Which estimator predicts removals from a fixed run, on runs that are not smooth?

The protocol, fixed before any of its numbers were seen:

- Data: MNIST and Fashion-MNIST, 5,000 training samples; networks of `studies/networks.py`; 5 epochs, batch 64, SGD 0.01
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
from typing import Annotated, Any, get_args

import numpy as np
import torch
import typer
from numpy.typing import NDArray
from torch import Tensor

from hydragrad.attribution import attribute
from hydragrad.attribution.influence import influence_functions
from hydragrad.cli.console import write_json
from hydragrad.cli.options import DataDir, ExecutorName, Json, Quiet, RayAddress, Workers, execution_from, named_among
from hydragrad.datasets import DATASETS, load
from hydragrad.execution import HERE, Execution
from hydragrad.figures import agreement
from hydragrad.progress import quiet
from hydragrad.scores import Curvature, Method, Query
from hydragrad.trust.lds import lds, lds_interval
from studies.baselines import tracin
from studies.estimates import INFLUENCE, OVER_TRAINING
from studies.estimator_rows import EstimatorRow, show, show_over_runs
from studies.networks import NETWORKS
from studies.number_lists import whole_numbers
from studies.removals import FEW, HALF, SHARES, SINGLE, WHOLE, Removals
from studies.rows import append_rows, saved_rows

Array = NDArray[np.float64]

ROWS_FILE = "estimators.jsonl"
DAMPINGS = (0.01, 0.1, 1.0)
REPLAYS = (2, 4, 8)
SHARES_BY_NAME = {f"{share:g}": share for share in SHARES}
ROUNDED, HALVES = "re-rounded retraining", "two halves, summed"
CEILINGS = {ROUNDED: (WHOLE, FEW), HALVES: (WHOLE,)}
KINDS = (
    *("ceilings", "none", "hessian", "ggn", "damped", "influence", "influence-over", "tracin"),
    *("hessian-replays", "ggn-replays"),
)
"""Kinds of estimator on the command line; the cheap ones first."""


@dataclass(frozen=True, kw_only=True)
class _Estimator:
    """What predicts: its name, and the method of `attribute` if it is one."""

    name: str
    method: Method | None = None
    tuned: bool = False


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
    execution: Execution = HERE,
    rows_file: Path | None = None,
) -> list[EstimatorRow]:
    """Measure what is missing; runs, retrainings and estimates in `out` are reused.

    Args:
        out: Folder for the runs.
        data: Name of the data set.
        data_dir: Folder with its files.
        networks: Some of `NETWORKS`.
        seeds: One run each.
        train_size: Training samples.
        epochs: Passes over them.
        groups: Groups of the largest size; two thirds as many of the others. A multiple of three.
        kinds: Some of `KINDS`.
        replays: Over how many replays to average, smallest first.
        shares: Some of `SHARES`.
        execution: Where retrainings run.
        rows_file: Where rows are saved, `ROWS_FILE` in `out` if None; rows that it holds are not measured again.

    Returns:
        The rows of these runs, estimators and shares.
    """
    out.mkdir(parents=True, exist_ok=True)
    file = rows_file or out / ROWS_FILE
    splits = load(data, data_dir=data_dir, train_size=train_size)
    estimators = _estimators(kinds, sorted(replays))
    wanted = [
        (estimator.name, share)
        for estimator in estimators
        for share in SHARES
        if share in shares and share in CEILINGS.get(estimator.name, SHARES)
    ]
    rows: list[EstimatorRow] = []
    for network in networks:
        for seed in seeds:
            sizes = {"train_size": len(splits.train), "epochs": epochs, "removals": groups}
            run = {"data": splits.name, "network": network, "seed": seed, **sizes}
            done = [row for row in saved_rows(EstimatorRow, file) if _is_of(row, run)]
            name = f"{splits.name}-{network}-{len(splits.train)}x{epochs}-{seed}"
            removals = Removals(
                out / name, splits, network=network, seed=seed, epochs=epochs, count=groups, execution=execution
            )
            have = {(row.estimator, row.share) for row in done}
            missing = [measurement for measurement in wanted if measurement not in have]
            if missing:
                _warn_of_another_run(done, removals)
            for row in _measured(run, removals, estimators, missing):
                append_rows(file, [row])
                done.append(row)
            rows += [row for row in done if (row.estimator, row.share) in wanted]
    return rows


def _is_of(row: EstimatorRow, run: dict[str, Any]) -> bool:
    return all(getattr(row, name) == value for name, value in run.items())


def _warn_of_another_run(done: Sequence[EstimatorRow], removals: Removals) -> None:
    accuracies = {row.test_accuracy for row in done}
    if accuracies and accuracies != {removals.facts["test_accuracy"]}:
        warnings.warn(
            f"Saved rows of {done[0].data}, {done[0].network}, seed {done[0].seed} are of a run with test accuracy "
            f"{', '.join(f'{accuracy:.4f}' for accuracy in sorted(accuracies))}; the same seed gives "
            f"{removals.facts['test_accuracy']:.4f} here, since another machine rounds differently. New rows are "
            f"compared with other removals than the saved ones.",
            stacklevel=3,
        )


def _estimators(kinds: Sequence[str], replays: Sequence[int]) -> list[_Estimator]:
    """The estimators of some kinds, in the order of `KINDS`."""
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
    run: dict[str, Any], removals: Removals, estimators: Sequence[_Estimator], missing: Sequence[tuple[str, float]]
) -> Iterator[EstimatorRow]:
    """The missing rows, one at a time."""
    for estimator in estimators:
        for share in [share for name, share in missing if name == estimator.name]:
            predicted, actual, seconds = _compared(removals, estimator, share)
            compared = _row(predicted, actual, tuned=estimator.tuned)
            cost = seconds / removals.training
            about = {"estimator": estimator.name, "share": share, "groups": actual.shape[1], "trainings": cost}
            yield EstimatorRow(**(run | removals.facts | about | compared))


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
    """A row's comparison of predicted and actual changes, both (queries, groups)."""
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


def estimators(
    data: Annotated[str, typer.Option(help=f"Data sets, with commas between: {', '.join(DATASETS)}.")] = "mnist",
    networks: Annotated[str, typer.Option(help=f"Networks: {', '.join(NETWORKS)}.")] = "mlp,lenet5,batch-norm",
    kinds: Annotated[
        str, typer.Option("--estimators", help=f"Which kinds of estimator: {', '.join(KINDS)}.")
    ] = ",".join(KINDS),
    replays: Annotated[str, typer.Option(help="Over how many replays to average.")] = ",".join(map(str, REPLAYS)),
    shares: Annotated[str, typer.Option(help="Shares of the samples that groups leave out.")] = ",".join(
        SHARES_BY_NAME
    ),
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each: seeds 0, 1, ...")] = 1,
    train_size: Annotated[int, typer.Option(min=100, help="Training samples.")] = 5000,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over them.")] = 5,
    groups: Annotated[
        int, typer.Option(min=9, help="Groups of a tenth that are left out; two thirds as many of 5 % and 1 %.")
    ] = 30,
    out: Annotated[Path, typer.Option(help="Folder for runs and rows.")] = Path("runs/estimators"),
    rows: Annotated[
        Path | None,
        typer.Option(help="File of rows, instead of OUT/estimators.jsonl; its rows are not measured again."),
    ] = None,
    executor: ExecutorName = None,
    ray_address: RayAddress = None,
    workers: Workers = None,
    data_dir: DataDir = None,
    json: Json = None,
    silent: Quiet = False,
) -> None:
    """Which estimator predicts removals, and what none can exceed.

    Groups of 10, 5 and 1 % are left out of a fixed run. A run of LeNet-5 takes some 350 trainings. If interrupted, the
    same command resumes; every row is saved once it is measured.

    Example: python -m studies estimators --data mnist --networks mlp --estimators ceilings,none,hessian
    """
    counts = whole_numbers(replays, "--replays")
    execution = execution_from(executor, ray_address, workers)
    measured: list[EstimatorRow] = []
    with quiet(silent):
        for name in named_among(data, DATASETS, "--data"):
            measured += reproduce_estimators(
                out,
                data=name,
                data_dir=data_dir,
                networks=named_among(networks, NETWORKS, "--networks"),
                seeds=range(seeds),
                train_size=train_size,
                epochs=epochs,
                groups=groups,
                kinds=named_among(kinds, KINDS, "--estimators"),
                replays=counts,
                shares=[SHARES_BY_NAME[share] for share in named_among(shares, SHARES_BY_NAME, "--shares")],
                execution=execution,
                rows_file=rows,
            )
    for run in dict.fromkeys((row.data, row.network, row.seed) for row in measured):
        show([row for row in measured if (row.data, row.network, row.seed) == run])
    if seeds > 1:
        show_over_runs(measured)
    write_json(json, {f"{r.data} {r.network} {r.seed} {r.estimator} {r.share:g}": r.lds for r in measured})
