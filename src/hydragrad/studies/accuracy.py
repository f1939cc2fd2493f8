"""Test accuracy of the paper's settings: the networks as they are trained everywhere else, on clean labels.

Every single training is a row in a file, so that an interrupted study goes on.

Source: Chen et al. 2021, section 4.1: 99.09 % (MNIST), 89.99 % (Fashion-MNIST), 90.5 % (CIFAR-10, DenseNet-40).
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from torch import nn

from hydragrad.datasets import load
from hydragrad.studies.recipes import RECIPES, fresh, recipe_loss
from hydragrad.studies.rows import append_rows, kept_rows
from hydragrad.training import Plan, fit, mean_loss_and_accuracy

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
    """Train with seeds 0, 1, ... and evaluate the last epoch on the test set; rows in `out` are kept.

    Args:
        out: Folder for the rows.
        data: Name of the data set.
        data_dir: Where its files lie.
        model: Name of the model; the paper's for this data set if None.
        train_size: Training samples; all if None.
        epochs: Passes over them; the paper's if None.
        seeds: How many trainings.
        device: cpu or cuda.
    """
    splits = load(data, data_dir=data_dir, train_size=train_size)
    asked = [
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
    known = {_training(row): row for row in kept_rows(AccuracyRow, file)}

    def monitor(network: nn.Module) -> dict[str, float]:
        if RECIPES[data].plateau_factor is None:
            return {}
        return {"validation_loss": mean_loss_and_accuracy(network, loss, splits.validation)[0]}

    for row in asked:
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
        done = AccuracyRow(**{**asdict(row), "accuracy": accuracy})
        known[_training(row)] = done
        append_rows(file, [done])
    return [known[_training(row)] for row in asked]


def _training(row: AccuracyRow) -> Sequence[object]:
    return row.data, row.model, row.samples, row.epochs, row.seed
