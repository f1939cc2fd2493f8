"""`hydragrad reproduce estimators`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray

from hydragrad.cli.console import columns, number, percent, write_json
from hydragrad.cli.options import DataDir, Json, Quiet, named_among
from hydragrad.datasets import DATASETS
from hydragrad.errors import UnknownName
from hydragrad.progress import quiet
from hydragrad.studies import NETWORKS, reproduce_estimators
from hydragrad.studies.estimators import KINDS, REPLAYS, EstimatorRow, chosen_damping, summary
from hydragrad.studies.removals import SHARES

KNOWN_SHARES = {f"{share:g}": share for share in SHARES}


def estimators(
    data: Annotated[str, typer.Option(help=f"Data sets, with commas between: {', '.join(DATASETS)}.")] = "mnist",
    networks: Annotated[str, typer.Option(help=f"Networks: {', '.join(NETWORKS)}.")] = "mlp,lenet5,batch-norm",
    kinds: Annotated[
        str, typer.Option("--estimators", help=f"Which kinds of estimator: {', '.join(KINDS)}.")
    ] = ",".join(KINDS),
    replays: Annotated[str, typer.Option(help="Over how many replays to average.")] = ",".join(map(str, REPLAYS)),
    shares: Annotated[str, typer.Option(help="Shares of the samples that groups leave out.")] = ",".join(KNOWN_SHARES),
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
    workers: Annotated[int, typer.Option(min=1, help="Processes that retrain at the same time.")] = 1,
    data_dir: DataDir = None,
    json: Json = None,
    silent: Quiet = False,
) -> None:
    """Which estimator foretells removals of 10, 5 and 1 % from a fixed run, beside what no estimator can exceed.

    A run of LeNet-5 takes some 350 trainings. Interrupted, the same command goes on; every row is kept as it is made.

    Example: hydragrad reproduce estimators --data mnist --networks mlp --estimators ceilings,none,hessian
    """
    counts = [each.strip() for each in replays.split(",")]
    if not all(each.isdigit() and int(each) > 0 for each in counts):
        raise UnknownName(f"--replays takes whole numbers above 0 with commas between; {replays} came.")
    found: list[EstimatorRow] = []
    with quiet(silent):
        for name in named_among(data, DATASETS, "--data"):
            found += reproduce_estimators(
                out,
                data=name,
                data_dir=data_dir,
                networks=named_among(networks, NETWORKS, "--networks"),
                seeds=range(seeds),
                train_size=train_size,
                epochs=epochs,
                groups=groups,
                kinds=named_among(kinds, KINDS, "--estimators"),
                replays=[int(each) for each in counts],
                shares=[KNOWN_SHARES[each] for each in named_among(shares, KNOWN_SHARES, "--shares")],
                workers=workers,
                rows_file=rows,
            )
    for run in dict.fromkeys((row.data, row.network, row.seed) for row in found):
        _show([row for row in found if (row.data, row.network, row.seed) == run])
    if seeds > 1:
        _show_over_runs(found)
    write_json(json, {f"{r.data} {r.network} {r.seed} {r.estimator} {r.share:g}": r.lds for r in found})


def _show(rows: Sequence[EstimatorRow]) -> None:
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


def _show_over_runs(rows: Sequence[EstimatorRow]) -> None:
    columns(
        "over runs: mean ± standard deviation",
        ("trained", "left out", "estimator", "runs", "LDS mean loss", "LDS single", "slope", "trainings"),
        [
            (
                f"{each.data}, {each.network}",
                f"{100 * each.share:g} %",
                each.estimator,
                str(each.runs),
                _spread(each.lds),
                _spread(each.single),
                _spread(each.slope),
                f"{each.trainings:.1f}",
            )
            for each in summary(rows)
        ],
        left=["trained", "estimator"],
    )


def _spread(values: NDArray[np.float64]) -> str:
    if not len(values):
        return "-"
    return f"{values.mean():.2f}" + (f" ± {values.std(ddof=1):.2f}" if len(values) > 1 else "")
