"""`hydragrad reproduce error`."""

from pathlib import Path
from typing import Annotated

import typer

from hydragrad.cli.console import columns, number, percent, say, write_json
from hydragrad.cli.options import DataDir, Json, Quiet, named_among
from hydragrad.datasets import DATASETS
from hydragrad.errors import UnknownName
from hydragrad.progress import quiet
from hydragrad.studies import NETWORKS, reproduce_error
from hydragrad.studies.error import picture


def error(
    out: Annotated[Path, typer.Option(help="Folder for runs, rows and pictures.")] = Path("runs/error"),
    data: Annotated[str, typer.Option(help=f"Data set: {', '.join(DATASETS)}.")] = "digits",
    networks: Annotated[str, typer.Option(help=f"Networks: {', '.join(NETWORKS)}.")] = "mlp,lenet5,lenet5-smooth",
    train_size: Annotated[int, typer.Option(min=10, help="Training samples.")] = 1000,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over them.")] = 10,
    samples: Annotated[int, typer.Option(min=3, help="Random training samples to compare.")] = 16,
    points: Annotated[int, typer.Option(min=1, help="Steps at which they are compared.")] = 8,
    seed: Annotated[int, typer.Option(help="Of the run and of the samples.")] = 0,
    rows: Annotated[
        Path | None, typer.Option(help="File of rows, instead of OUT/error.jsonl; its rows are not measured again.")
    ] = None,
    data_dir: DataDir = None,
    json: Json = None,
    silent: Quiet = False,
) -> None:
    """Hypergradients without curvature, and influence functions, against exact ones along a run, beside the bound.

    Interrupted, the same command goes on; runs and finished rows are kept.

    Example: hydragrad reproduce error --networks mlp --samples 8 --points 4
    """
    if data not in DATASETS:
        raise UnknownName(f"--data takes one of {', '.join(DATASETS)}; {data} came.")
    asked = named_among(networks, NETWORKS, "--networks")
    with quiet(silent):
        found = reproduce_error(
            out,
            data=data,
            data_dir=data_dir,
            networks=asked,
            seed=seed,
            train_size=train_size,
            epochs=epochs,
            samples=samples,
            points=points,
            rows_file=rows,
        )
    for network in asked:
        mine = [row for row in found if row.network == network]
        columns(
            f"{data}, {network}: {samples} samples against their exact hypergradients; contributions to the test loss",
            ("step", "estimator", "|exact|", "L2 error", "relative", "wrong signs", "Spearman", "Σ|κ||H∇|", "L M Σ|κ|"),
            [
                (
                    f"{row.step:,}",
                    row.estimator,
                    number(row.exact),
                    number(row.error),
                    number(row.relative_error),
                    percent(row.sign_disagreements),
                    f"{row.spearman:.2f}",
                    number(row.measured_bound),
                    number(row.bound),
                )
                for row in mine
            ],
            left=["estimator"],
        )
        say(f"picture: {picture(out, mine[0])}")
    write_json(json, {f"{row.network} {row.estimator} {row.step} relative error": row.relative_error for row in found})
