"""After how many independent runs does the ranking of training samples converge?

Runs of one training that differ in seed (initialisation and order) are attributed one by one. Their means over s runs
are compared with the means over s others, for every s up to half of the runs, and with what the agreement of single
runs predicts (`scores/spread.py`). Random groups of a tenth are really left out of some of the runs, and the
contributions of one run, and of all, are compared with the change of that run, and with the mean change over runs.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, get_args

import numpy as np
import torch
import typer
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import TensorDataset

from hydragrad.attribution.ensemble import score_members
from hydragrad.cli.console import columns, number, percent, say, write_json
from hydragrad.cli.options import (
    DataDir,
    ExecutorName,
    Json,
    Part,
    Quiet,
    RayAddress,
    Workers,
    execution_from,
    named_among,
    require_one_of,
    slice_done,
)
from hydragrad.datasets import DATASETS, Splits, load
from hydragrad.errors import Unfinished
from hydragrad.execution import HERE, Execution
from hydragrad.experiments.recipes import cross_entropy
from hydragrad.progress import quiet
from hydragrad.replay import Recording
from hydragrad.scores import Curvature, Method, mean_loss
from hydragrad.scores.spread import agreement_of_means, mean_and_standard_error, rank_agreement, runs_needed
from hydragrad.training import train
from hydragrad.trust import counterfactual
from hydragrad.trust.lds import lds, lds_interval
from studies.convergence_figure import convergence_curves
from studies.networks import NETWORKS
from studies.rows import append_rows, saved_rows

Array = NDArray[np.float64]

ROWS_FILE, PICTURE = "settling.jsonl", "settling.png"
HELD_OUT, SHARE, SPLITS = 2_000, 0.1, 40
CURVATURES: tuple[Curvature, ...] = ("none", "hessian")


@dataclass(frozen=True, kw_only=True)
class ConvergenceRow:
    """One kind of training and one curvature.

    Attributes:
        data, network, curvature: What was trained, and how it was attributed.
        runs: Independent runs.
        single: Spearman between two single runs, mean over all pairs.
        measured: The same between means over 1, 2, ... runs and over as many others, mean over random splits.
        foretold: What `single` predicts for them.
        needed: Runs at which means agree with 0.9, as predicted; None if that is unknown.
        certain: Share of the samples whose mean over all runs is more than two standard errors from 0.
        groups: Random groups of a tenth that were left out of each of `retrained` runs; 0 where none were.
        retrained: Runs that groups were left out of.
        one_to_own: LDS of one run's contributions and that run's changes, mean over the retrained runs.
        one_to_mean: LDS of one run's contributions and the mean change, mean over the retrained runs.
        all_to_mean: LDS of the mean contributions over all runs and the mean change.
        low, high: Its 90 % bootstrap interval over groups.
        own_to_mean: Spearman of one run's changes and the mean of the other retrained runs': what can be known at all.
        train_size, epochs: Training samples, and passes over them.
    """

    data: str
    network: str
    curvature: str
    runs: int
    single: float
    measured: list[float]
    foretold: list[float]
    needed: int | None
    certain: float
    groups: int = 0
    retrained: int = 0
    one_to_own: float | None = None
    one_to_mean: float | None = None
    all_to_mean: float | None = None
    low: float | None = None
    high: float | None = None
    own_to_mean: float | None = None
    train_size: int = 5_000
    epochs: int = 5


def reproduce_convergence(
    out: Path,
    *,
    data: Sequence[str] = ("mnist", "fashion"),
    data_dir: Path | None = None,
    network: str = "mlp",
    curvatures: Sequence[Curvature] = CURVATURES,
    runs: int = 10,
    retrained: int = 4,
    groups: int = 12,
    train_size: int = 5_000,
    epochs: int = 5,
    execution: Execution = HERE,
) -> list[ConvergenceRow]:
    """Measure, and draw OUT/settling.png; runs, scores and retrainings in `out` are reused.

    Args:
        out: Folder for runs, rows and picture.
        data: Names of data sets.
        data_dir: Where their files lie.
        network: One of `NETWORKS`.
        curvatures: How to attribute.
        runs: Independent runs of each.
        retrained: How many of them groups are left out of; 0 for none.
        groups: How many groups.
        train_size: Training samples.
        epochs: Passes over them.
        execution: Where runs are trained, attributed and retrained.

    Raises:
        Unfinished: A slice, after its share of every training.
    """
    out.mkdir(parents=True, exist_ok=True)
    file = out / ROWS_FILE
    rows = saved_rows(ConvergenceRow, file)
    known = {(row.data, row.network, row.curvature, row.runs, row.train_size, row.epochs) for row in rows}
    missing: Unfinished | None = None
    for name in data:
        splits = load(name, data_dir=data_dir, train_size=train_size)
        for curvature in curvatures:
            if (name, network, curvature, runs, train_size, epochs) in known:
                continue
            make, folder = partial(_make, splits, network, epochs), out / f"{name}-{network}-{train_size}x{epochs}"
            try:
                row = _measured(make, folder, splits, network, curvature, runs, retrained, groups, execution)
            except Unfinished as error:
                missing = error
                continue
            rows.append(replace(row, train_size=train_size, epochs=epochs))
            append_rows(file, rows[-1:])
    if missing is not None:
        raise missing
    longest = sorted(rows, key=lambda row: row.runs)  # the row with the most runs of a training replaces the others
    curves = {f"{row.data}, {row.network}, {row.curvature}": (row.measured, row.foretold) for row in longest}
    convergence_curves(curves).savefig(out / PICTURE, dpi=160)
    return rows


def _make(splits: Splits, network: str, epochs: int, seed: int, folder: Path) -> Recording:
    torch.manual_seed(seed)
    model = NETWORKS[network](splits.train.tensors[0].shape[1])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    return train(
        model, cross_entropy, splits.train, optimizer, epochs=epochs, batch_size=64, out=folder, seed=seed, resume=True
    )


def _measured(
    make: partial[Recording],
    folder: Path,
    splits: Splits,
    network: str,
    curvature: Curvature,
    runs: int,
    retrained: int,
    groups: int,
    execution: Execution,
) -> ConvergenceRow:
    query = mean_loss(TensorDataset(*(tensor[:HELD_OUT] for tensor in splits.test.tensors)), name="test loss")
    members = score_members(make, [query], range(runs), folder, method=Method.of(curvature), execution=execution)
    values = torch.stack([scores.values for scores in members])
    mean, error = mean_and_standard_error(values)
    single = float(rank_agreement(values)[0])
    measured = [_agreement(values[:, 0], count) for count in range(1, runs // 2 + 1)]
    row: dict[str, Any] = {
        "data": splits.name,
        "network": network,
        "curvature": curvature,
        "runs": runs,
        "single": single,
        "measured": measured,
        "foretold": [agreement_of_means(max(0.0, single), count) for count in range(1, runs // 2 + 1)],
        "needed": runs_needed(single, 0.9),
        "certain": float((mean.abs() > 2 * error).double().mean()),
    }
    if retrained:
        generator = torch.Generator().manual_seed(2_000)
        size = round(SHARE * len(splits.train))
        left_out = [torch.randperm(len(splits.train), generator=generator)[:size].tolist() for _ in range(groups)]
        some = [make(seed, folder / f"seed-{seed}") for seed in range(retrained)]
        actual = np.stack(
            [counterfactual(run, left_out, query, **execution.keywords).values[0].numpy() for run in some]
        )
        predicted = np.stack([values[:, 0][:, group].sum(1).numpy() for group in left_out], axis=1)
        row |= {"groups": groups, "retrained": retrained} | _against_truth(predicted, actual)
    return ConvergenceRow(**row)


def _agreement(values: Tensor, count: int) -> float:
    """Spearman between means over `count` runs and over as many others, mean over random splits; (runs, samples)."""
    generator, correlations = torch.Generator().manual_seed(count), []
    for _ in range(SPLITS):
        order = torch.randperm(len(values), generator=generator)
        halves = torch.stack([values[order[:count]].mean(0), values[order[count : 2 * count]].mean(0)])
        correlations.append(float(rank_agreement(halves[:, None])[0]))
    return float(np.mean(correlations))


def _against_truth(predicted: Array, actual: Array) -> dict[str, float]:
    """LDS of predictions (runs, groups) against changes (retrained, groups)."""
    together, count = actual.mean(0, keepdims=True), len(actual)
    everyone = predicted.mean(0, keepdims=True)
    low, high = lds_interval(everyone, together)
    others = (count * together - actual) / max(1, count - 1)
    return {
        "one_to_own": lds(predicted[:count], actual),
        "one_to_mean": lds(predicted[:count], np.repeat(together, count, 0)),
        "all_to_mean": lds(everyone, together),
        "low": low,
        "high": high,
        "own_to_mean": lds(actual, others),
    }


def convergence(
    data: Annotated[
        str, typer.Option(help=f"Data sets, with commas between: {', '.join(DATASETS)}.")
    ] = "mnist,fashion",
    network: Annotated[str, typer.Option(help=f"Network: {', '.join(NETWORKS)}.")] = "mlp",
    curvatures: Annotated[str, typer.Option(help="How to attribute, with commas between.")] = ",".join(CURVATURES),
    runs: Annotated[int, typer.Option(min=4, help="Independent runs of each.")] = 10,
    retrained: Annotated[int, typer.Option(min=0, help="Of them, runs that groups are really left out of.")] = 4,
    groups: Annotated[int, typer.Option(min=3, help="Groups of a tenth of the samples.")] = 12,
    train_size: Annotated[int, typer.Option(min=100, help="Training samples.")] = 5000,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over them.")] = 5,
    out: Annotated[Path, typer.Option(help="Folder for runs, rows and picture.")] = Path("runs/settling"),
    executor: ExecutorName = None,
    ray_address: RayAddress = None,
    workers: Workers = None,
    part: Part = None,
    data_dir: DataDir = None,
    json: Json = None,
    silent: Quiet = False,
) -> None:
    """After how many runs the ranking of training samples converges.

    Also measures what means over runs predict. If interrupted, the same command resumes; runs, scores and retrainings
    are saved. Slices (--part) are called again until one prints the table: retrainings come after all runs.

    Example: python -m studies convergence --data mnist --runs 10
    """
    require_one_of(network, NETWORKS, "--network")
    requested = named_among(curvatures, get_args(Curvature), "--curvatures")
    execution = execution_from(executor, ray_address, workers, part)
    with quiet(silent), slice_done():
        rows = reproduce_convergence(
            out,
            data=named_among(data, DATASETS, "--data"),
            data_dir=data_dir,
            network=network,
            curvatures=[choice for choice in get_args(Curvature) if choice in requested],
            runs=runs,
            retrained=retrained,
            groups=groups,
            train_size=train_size,
            epochs=epochs,
            execution=execution,
        )
    half = max(len(row.measured) for row in rows)
    columns(
        "Spearman between means over as many runs",
        ("trained", "curvature", *(f"{count + 1}" for count in range(half)), "0.9 at", "certain"),
        [
            (
                f"{row.data}, {row.network}",
                row.curvature,
                *(f"{value:.2f}" for value in row.measured),
                *[""] * (half - len(row.measured)),
                "-" if row.needed is None else f"{row.needed:,} runs",
                percent(row.certain),
            )
            for row in rows
        ],
        left=["trained", "curvature"],
    )
    say("certain: samples whose mean is more than two standard errors from 0.")
    columns(
        "LDS of contributions and what groups of a tenth really changed",
        ("trained", "curvature", "one run, its changes", "one run, mean change", "all runs, mean change", "90 %"),
        [
            (
                f"{row.data}, {row.network}",
                row.curvature,
                number(row.one_to_own),
                number(row.one_to_mean),
                number(row.all_to_mean),
                f"{number(row.low)} to {number(row.high)}",
            )
            for row in rows
            if row.groups
        ],
        left=["trained", "curvature"],
    )
    say(f"picture: {out / PICTURE}")
    write_json(json, {f"{row.data} {row.network} {row.curvature} needed": row.needed for row in rows})
