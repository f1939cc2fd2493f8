"""`hydragrad reproduce accuracy`."""

from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from hydragrad.cli.console import percent, table, write_json
from hydragrad.cli.options import DataDir, Json, Quiet
from hydragrad.datasets import DATASETS
from hydragrad.errors import UnknownName
from hydragrad.models import MODELS
from hydragrad.progress import quiet
from hydragrad.studies import PUBLISHED, reproduce_accuracy


def accuracy(
    data: Annotated[str, typer.Option(help=f"Data set: {', '.join(DATASETS)}.")] = "mnist",
    model: Annotated[str | None, typer.Option(help="Model (default: the paper's for this data set).")] = None,
    train_size: Annotated[int | None, typer.Option(min=100, help="Training samples (default: all).")] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Passes over them (default: the paper's).")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="How many: 0, 1, ...")] = 5,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    out: Annotated[Path, typer.Option(help="Folder for the rows.")] = Path("runs/accuracy"),
    data_dir: DataDir = None,
    json: Json = None,
    silent: Quiet = False,
) -> None:
    """Test accuracy after training on clean labels in the paper's setting, over seeds.

    Interrupted, the same command goes on after the last training. Example: hydragrad reproduce accuracy --data fashion
    """
    if data not in DATASETS or (model is not None and model not in MODELS):
        raise UnknownName(
            f"--data takes one of {', '.join(DATASETS)}, --model one of {', '.join(MODELS)}; {data} and {model} came."
        )
    with quiet(silent):
        rows = reproduce_accuracy(
            out,
            data=data,
            data_dir=data_dir,
            model=model,
            train_size=train_size,
            epochs=epochs,
            seeds=seeds,
            device=device,
        )
    values = np.array([row.accuracy for row in rows])
    spread = f" ± {100 * values.std(ddof=1):.2f}" if len(values) > 1 else ""
    shown = {f"seed {row.seed}": percent(row.accuracy) for row in rows}
    shown["mean"] = f"{100 * values.mean():.2f}{spread} %"
    if data in PUBLISHED:
        shown["published"] = f"{100 * PUBLISHED[data]:.2f} % (all of the data, the paper's epochs)"
    first = rows[0]
    table(f"test accuracy: {first.model} on {first.samples:,} samples of {data}, {first.epochs} epochs", shown)
    write_json(json, {f"seed_{row.seed}": row.accuracy for row in rows} | {"mean": float(values.mean())})
