"""One training, as the command line makes them all."""

from pathlib import Path
from typing import Any

from torch import nn
from torch.utils.data import Dataset

from hydragrad.cli.experiment import Experiment, settings_entry
from hydragrad.errors import DataError
from hydragrad.recording import Recording
from hydragrad.studies.recipes import Start
from hydragrad.training import train


def train_into(
    experiment: Experiment,
    start: Start,
    train_set: Dataset[Any],
    out: Path,
    seed: int,
    *,
    resume: bool,
) -> Recording:
    """Train and record a data set as an experiment trains.

    Raises:
        DataError: An empty data set.
    """
    if len(train_set) == 0:  # type: ignore[arg-type]
        raise DataError("Nothing is left to train on.")
    model: nn.Module = start.model
    return train(
        model,
        experiment.loss,
        train_set,
        start.optimizer,
        epochs=experiment.settings.epochs,
        batch_size=experiment.settings.batch_size,
        out=out,
        scheduler=start.scheduler,
        scheduler_metric=start.scheduler_metric,
        monitor=experiment.monitor,
        seed=seed,
        about=settings_entry(experiment.settings),
        resume=resume,
    )
