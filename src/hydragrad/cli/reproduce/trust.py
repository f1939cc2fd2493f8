"""`hydragrad reproduce trust`."""

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from hydragrad.cli.console import console, number, write_json
from hydragrad.cli.options import DataDir, Json, Quiet
from hydragrad.datasets import DATASETS
from hydragrad.errors import UnknownName
from hydragrad.progress import quiet
from hydragrad.studies import NETWORKS, reproduce_trust


def trust(
    out: Annotated[Path, typer.Option(help="Folder for runs and rows.")] = Path("runs/trust"),
    data: Annotated[str, typer.Option(help=f"Data set: {', '.join(DATASETS)}.")] = "digits",
    networks: Annotated[str, typer.Option(help="Which networks, with commas between.")] = ",".join(NETWORKS),
    train_size: Annotated[int, typer.Option(min=10, help="Training samples.")] = 1000,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over them.")] = 10,
    groups: Annotated[int, typer.Option(min=3, help="Random groups that are left out.")] = 30,
    share: Annotated[float, typer.Option(help="Share of the samples in a group.")] = 0.1,
    workers: Annotated[int, typer.Option(min=1, help="Processes that retrain at the same time.")] = 1,
    data_dir: DataDir = None,
    json: Json = None,
    silent: Quiet = False,
) -> None:
    """Predicted against actual removals on five kinds of network, and how smooth each run is.

    Interrupted, the same command goes on; retrainings are kept.
    """
    asked = [name.strip() for name in networks.split(",")]
    unknown = [name for name in asked if name not in NETWORKS]
    if unknown or data not in DATASETS:
        raise UnknownName(
            f"--networks takes some of {', '.join(NETWORKS)}, --data one of {', '.join(DATASETS)}; "
            f"{', '.join(unknown) or data} came."
        )
    with quiet(silent):
        rows = reproduce_trust(
            out,
            data=data,
            data_dir=data_dir,
            networks=asked,
            train_size=train_size,
            epochs=epochs,
            groups=groups,
            share=share,
            workers=workers,
        )
    grid = Table(
        title=f"{groups} random groups of {share:.0%} left out".replace("%", " %"), title_justify="left", box=None
    )
    for heading in (
        "network",
        "accuracy",
        "estimator",
        "LDS mean loss",
        "90 %",
        "LDS single",
        "slope",
        "cosine",
        "rounding",
    ):
        grid.add_column(
            heading, justify="left" if heading in ("network", "estimator") else "right", no_wrap=heading == "estimator"
        )
    for row in rows:
        grid.add_row(
            row.network,
            f"{row.test_accuracy:.3f}",
            row.estimator,
            number(row.lds_mean_loss),
            f"{number(row.low)} to {number(row.high)}",
            number(row.lds_single),
            number(row.slope),
            number(row.cosine),
            number(row.rounding_growth),
        )
    console.print(grid)
    write_json(json, {f"{row.network} {row.estimator} lds": row.lds_mean_loss for row in rows})
