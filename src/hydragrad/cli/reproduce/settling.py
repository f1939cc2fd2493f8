"""`hydragrad reproduce settling`."""

from pathlib import Path
from typing import Annotated, get_args

import typer

from hydragrad.cli.console import columns, number, percent, say, write_json
from hydragrad.cli.options import DataDir, Json, Quiet, named_among
from hydragrad.datasets import DATASETS
from hydragrad.progress import quiet
from hydragrad.scores import Curvature
from hydragrad.studies import NETWORKS, reproduce_settling
from hydragrad.studies.convergence import CURVATURES, PICTURE


def settling(
    data: Annotated[
        str, typer.Option(help=f"Data sets, with commas between: {', '.join(DATASETS)}.")
    ] = "mnist,fashion",
    network: Annotated[str, typer.Option(help=f"Network: {', '.join(NETWORKS)}.")] = "mlp",
    curvatures: Annotated[str, typer.Option(help="How to attribute, with commas between.")] = ",".join(CURVATURES),
    runs: Annotated[int, typer.Option(min=4, help="Independent runs of each.")] = 10,
    retrained: Annotated[int, typer.Option(min=0, help="Of how many groups are really left out; 0 for none.")] = 4,
    groups: Annotated[int, typer.Option(min=3, help="Groups of a tenth of the samples.")] = 12,
    train_size: Annotated[int, typer.Option(min=100, help="Training samples.")] = 5000,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over them.")] = 5,
    out: Annotated[Path, typer.Option(help="Folder for runs, rows and picture.")] = Path("runs/settling"),
    workers: Annotated[int, typer.Option(min=1, help="Processes that train at the same time.")] = 1,
    data_dir: DataDir = None,
    json: Json = None,
    silent: Quiet = False,
) -> None:
    """At how many independent runs the ranking of training samples settles, and what means over runs foretell.

    Interrupted, the same command goes on; runs, scores and retrainings are kept.

    Example: hydragrad reproduce settling --data mnist --runs 10
    """
    named_among(network, NETWORKS, "--network")
    asked = named_among(curvatures, get_args(Curvature), "--curvatures")
    with quiet(silent):
        rows = reproduce_settling(
            out,
            data=named_among(data, DATASETS, "--data"),
            data_dir=data_dir,
            network=network,
            curvatures=[choice for choice in get_args(Curvature) if choice in asked],
            runs=runs,
            retrained=retrained,
            groups=groups,
            train_size=train_size,
            epochs=epochs,
            workers=workers,
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
