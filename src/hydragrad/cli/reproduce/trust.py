"""`hydragrad reproduce trust`."""

from pathlib import Path
from typing import Annotated

import typer

from hydragrad.cli.console import columns, number, percent, write_json
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

    Example: hydragrad reproduce trust --networks mlp,lenet5 --workers 2
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
    runs = {row.network: row for row in rows}
    columns(
        "the runs",
        ("network", "test accuracy", "cosine of smoothness", "growth of rounding"),
        [(n, percent(row.test_accuracy), number(row.cosine), number(row.rounding_growth)) for n, row in runs.items()],
        left=["network"],
    )
    columns(
        f"{groups} random groups of {share:.0%} left out".replace("%", " %"),
        ("network", "estimator", "LDS mean loss", "90 %", "LDS single", "slope"),
        [
            (
                row.network,
                row.estimator,
                number(row.lds_mean_loss),
                f"{number(row.low)} to {number(row.high)}",
                number(row.lds_single),
                number(row.slope),
            )
            for row in rows
        ],
        left=["network", "estimator"],
    )
    write_json(json, {f"{row.network} {row.estimator} lds": row.lds_mean_loss for row in rows})
