"""Test accuracy of the paper's settings: the networks as they are trained everywhere else, on clean labels.

Every single training is a row in a file, so that an interrupted study resumes.

Source: Chen et al. 2021, section 4.1: 99.09 % (MNIST), 89.99 % (Fashion-MNIST), 90.5 % (CIFAR-10, DenseNet-40).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from torch import nn

from hydragrad.cli.console import percent, table, write_json
from hydragrad.cli.options import DataDir, Json, Quiet, require_one_of
from hydragrad.datasets import DATASETS, load
from hydragrad.experiments.recipes import RECIPES, fresh, recipe_loss
from hydragrad.models import MODELS
from hydragrad.progress import quiet
from hydragrad.training import Plan, fit, mean_loss_and_accuracy
from studies.rows import append_rows, saved_rows

ROWS_FILE = "accuracy.jsonl"
MODEL = {"mnist": "lenet5", "fashion": "lenet5", "cifar10": "densenet40", "digits": "lenet5"}
"""The paper's network for every data set; digits are ours."""
PUBLISHED = {"mnist": 0.9909, "fashion": 0.8999, "cifar10": 0.905}


@dataclass(frozen=True, kw_only=True)
class AccuracyRow:
    """One training.

    Attributes:
        data, model: Names.
        samples: Training samples.
        epochs: Passes over them.
        seed: Of initialisation and order.
        accuracy: On the test set, a fraction.
    """

    data: str
    model: str
    samples: int
    epochs: int
    seed: int
    accuracy: float


def reproduce_accuracy(
    out: Path,
    *,
    data: str = "mnist",
    data_dir: Path | None = None,
    model: str | None = None,
    train_size: int | None = None,
    epochs: int | None = None,
    seeds: int = 5,
    device: str = "cpu",
) -> list[AccuracyRow]:
    """Train with seeds 0, 1, ... and evaluate the last epoch on the test set; rows in `out` are reused.

    Args:
        out: Folder for the rows.
        data: Name of the data set.
        data_dir: Folder with its files.
        model: Name of the model; the paper's for this data set if None.
        train_size: Training samples; all if None.
        epochs: Passes over them; the paper's if None.
        seeds: How many trainings.
        device: cpu or cuda.
    """
    splits = load(data, data_dir=data_dir, train_size=train_size)
    missing_accuracy = [
        AccuracyRow(
            data=data,
            model=model or MODEL[data],
            samples=len(splits.train),
            epochs=epochs or RECIPES[data].epochs,
            seed=seed,
            accuracy=float("nan"),
        )
        for seed in range(seeds)
    ]
    file, loss = out / ROWS_FILE, recipe_loss(data)
    out.mkdir(parents=True, exist_ok=True)
    known = {_training(row): row for row in saved_rows(AccuracyRow, file)}

    def monitor(network: nn.Module) -> dict[str, float]:
        if RECIPES[data].plateau_factor is None:
            return {}
        return {"validation_loss": mean_loss_and_accuracy(network, loss, splits.validation)[0]}

    for row in missing_accuracy:
        if _training(row) in known:
            continue
        start = fresh(splits, row.model, seed=row.seed, device=device)
        plan = Plan(
            epochs=row.epochs,
            batch_size=64,
            seed=row.seed,
            scheduler=start.scheduler,
            scheduler_metric=start.scheduler_metric,
            monitor=monitor,
        )
        fit(start.model, loss, splits.train, start.optimizer, plan)
        accuracy = mean_loss_and_accuracy(start.model, loss, splits.test)[1]
        assert accuracy is not None
        known[_training(row)] = replace(row, accuracy=accuracy)
        append_rows(file, [known[_training(row)]])
    return [known[_training(row)] for row in missing_accuracy]


def _training(row: AccuracyRow) -> Sequence[object]:
    return row.data, row.model, row.samples, row.epochs, row.seed


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
    """Test accuracy on clean labels in the paper's setting.

    If interrupted, the same command resumes after the last training.

    Example: python -m studies accuracy --data fashion
    """
    require_one_of(data, DATASETS, "--data")
    if model is not None:
        require_one_of(model, MODELS, "--model")
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
