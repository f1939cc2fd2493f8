"""`hydragrad reproduce damping`."""

from pathlib import Path
from typing import Annotated

import typer

from hydragrad.cli.console import columns, percent, write_json
from hydragrad.cli.options import DataDir, Json, Quiet
from hydragrad.datasets import DATASETS
from hydragrad.progress import quiet
from hydragrad.studies import Setting, reproduce_damping
from hydragrad.studies.recipes import RECIPES


def damping(
    data: Annotated[str, typer.Option(help=f"Data set: {', '.join(DATASETS)}.")] = "mnist",
    noise: Annotated[str, typer.Option(help="As table4 takes it.")] = "0.5",
    train_size: Annotated[int, typer.Option(min=100, help="Training samples.")] = 10_000,
    seed: Annotated[int, typer.Option(help="Of noise and run.")] = 0,
    out: Annotated[Path, typer.Option(help="Folder for run and rows; table4's saves a training.")] = Path(
        "runs/table4"
    ),
    data_dir: DataDir = None,
    json: Json = None,
    silent: Quiet = False,
) -> None:
    """The damping of influence functions in table4: searched on held-out data.

    Half of the validation set ranks; the other half says how good the network is when trained without what ranks first.

    Example: hydragrad reproduce damping --data mnist
    """
    setting = Setting(data=data, noise=noise, size=train_size, epochs=RECIPES[data].epochs, seed=seed)
    with quiet(silent):
        rows = reproduce_damping(out, setting, data_dir=data_dir)
    lines = [[f"{row.damping:g}", percent(row.accuracy), f"{row.auc:.3f}"] for row in rows]
    columns(f"Influence functions, {setting.name}", ["damping", "validation accuracy", "AUC (not used)"], lines)
    write_json(json, {f"{row.damping:g}": row.accuracy for row in rows})
