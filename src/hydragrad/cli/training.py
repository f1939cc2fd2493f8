"""One training, as the command line makes them all; that of a new run keeps the labels that were flipped beside it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import Dataset

from hydragrad.cleaning import Labels, load_labels, save_labels
from hydragrad.cleaning.label_noise import FILE as LABELS
from hydragrad.cli.experiment import Experiment, settings_entry
from hydragrad.errors import DataError, RunExists
from hydragrad.replay import Recording
from hydragrad.runs import holds_run
from hydragrad.runs.manifest import FILE as MANIFEST
from hydragrad.studies.recipes import Start
from hydragrad.training import train


def record(experiment: Experiment, out: Path, *, resume: bool) -> Recording:
    """Train and record what the settings ask for, its labels kept beside it.

    Raises:
        RunExists: `out` holds a run and `resume` is not set, or the labels of another run.
    """
    if not resume:
        require_free(out)
    with _labels_kept(experiment.labels, out, resume=resume):
        start = experiment.start(experiment.settings.seed)
        return train_into(experiment, start, experiment.train_set, out, experiment.settings.seed, resume=resume)


def require_free(out: Path) -> None:
    """Refuse to train where a run is.

    Raises:
        RunExists: There is one.
    """
    if holds_run(out):
        raise RunExists(f"{out} already holds a run. Choose another --out, delete it, or go on with --resume.")


@contextmanager
def _labels_kept(labels: Labels | None, out: Path, *, resume: bool) -> Iterator[None]:
    """Keep labels beside a new run, and take them away again where it never starts."""
    file, begun, made = out / LABELS, (out / MANIFEST).exists(), not out.exists()
    if begun and not resume:  # and killed before its first step was over: its labels go as it does
        file.unlink(missing_ok=True)
    there = load_labels(out)
    if there is not None and not begun and not _same(there, labels):
        raise RunExists(
            f"{file} holds the labels of another run, by which this one would be judged. Choose another --out, or "
            f"delete that file."
        )
    new = there is None and labels is not None
    if new:
        assert labels is not None
        save_labels(out, labels)
    try:
        yield
    except BaseException:
        if new and not (out / MANIFEST).exists():
            file.unlink(missing_ok=True)
            if made and not any(out.iterdir()):
                out.rmdir()
        raise


def _same(a: Labels, b: Labels | None) -> bool:
    return b is not None and torch.equal(a.given, b.given) and torch.equal(a.true, b.true)


def train_into(
    experiment: Experiment,
    start: Start,
    train_set: Dataset[Any],
    out: Path,
    seed: int,
    *,
    resume: bool,
    progress: str = "training",
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
        progress=progress,
        resume=resume,
    )
