"""`hydragrad reproduce estimators`."""

from pathlib import Path
from typing import Annotated

import typer

from hydragrad.cli.console import columns, number, percent, write_json
from hydragrad.cli.options import DataDir, Json, Quiet, named_among
from hydragrad.datasets import DATASETS
from hydragrad.progress import quiet
from hydragrad.studies import NETWORKS, reproduce_estimators
from hydragrad.studies.estimators import EstimatorRow, chosen_damping


def estimators(
    data: Annotated[str, typer.Option(help=f"Data sets, with commas between: {', '.join(DATASETS)}.")] = "mnist",
    networks: Annotated[str, typer.Option(help=f"Networks: {', '.join(NETWORKS)}.")] = "mlp,lenet5,batch-norm",
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each: seeds 0, 1, ...")] = 1,
    train_size: Annotated[int, typer.Option(min=100, help="Training samples.")] = 5000,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over them.")] = 5,
    groups: Annotated[
        int, typer.Option(min=9, help="Groups of a tenth that are left out; two thirds as many of 5 % and 1 %.")
    ] = 30,
    replays: Annotated[bool, typer.Option("--replays/--no-replays", help="Also averages over replays.")] = True,
    out: Annotated[Path, typer.Option(help="Folder for runs and rows.")] = Path("runs/estimators"),
    workers: Annotated[int, typer.Option(min=1, help="Processes that retrain at the same time.")] = 1,
    data_dir: DataDir = None,
    json: Json = None,
    silent: Quiet = False,
) -> None:
    """Which estimator foretells removals of 10, 5 and 1 % from a fixed run, beside what no estimator can exceed.

    A run of LeNet-5 takes some 250 trainings. Interrupted, the same command goes on; rows are kept as they are made.

    Example: hydragrad reproduce estimators --data mnist --networks mlp
    """
    rows: list[EstimatorRow] = []
    with quiet(silent):
        for name in named_among(data, DATASETS, "--data"):
            rows += reproduce_estimators(
                out,
                data=name,
                data_dir=data_dir,
                networks=named_among(networks, NETWORKS, "--networks"),
                seeds=range(seeds),
                train_size=train_size,
                epochs=epochs,
                groups=groups,
                replays=replays,
                workers=workers,
            )
    for run in sorted({(row.data, row.network, row.seed) for row in rows}):
        mine = [row for row in rows if (row.data, row.network, row.seed) == run]
        _show(mine)
    write_json(json, {f"{r.data} {r.network} {r.seed} {r.estimator} {r.share:g}": r.lds for r in rows})


def _show(rows: list[EstimatorRow]) -> None:
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
