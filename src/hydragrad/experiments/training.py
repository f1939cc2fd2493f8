"""Train and record an experiment; a new run saves the labels that were flipped for it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset

from hydragrad.cleaning import Labels, load_labels, save_labels
from hydragrad.cleaning.label_noise import FILE as LABELS
from hydragrad.errors import DataError, RunExists
from hydragrad.experiments.experiment import Experiment
from hydragrad.experiments.recipes import Start
from hydragrad.experiments.settings import settings_entry
from hydragrad.replay import Recording
from hydragrad.runs import holds_run
from hydragrad.runs.manifest import FILE as MANIFEST
from hydragrad.training import Plan, checkpoint_distance, train


def plan_of(experiment: Experiment) -> Plan:
    """Return how long and in which order the settings train."""
    settings = experiment.settings
    return Plan(
        epochs=settings.epochs,
        batch_size=settings.batch_size,
        drop_last=settings.drop_last,
        accumulate=settings.accumulate,
        clip_norm=settings.clip_norm,
        autocast=torch.bfloat16 if settings.bf16 else None,
        seed=settings.seed,
    )


def checkpoints_every(experiment: Experiment) -> int:
    """Return the number of steps between checkpoints."""
    return checkpoint_distance(plan_of(experiment).steps(len(experiment.train_set)))  # type: ignore[arg-type]


def record(experiment: Experiment, out: Path, *, resume: bool) -> Recording:
    """Train and record an experiment, and save its labels in the run directory.

    Raises:
        RunExists: `out` holds a run and `resume` is not set, or the labels of another run.
    """
    if not resume:
        require_free(out)
    with _labels_saved(experiment.labels, out, resume=resume):
        start = experiment.start(experiment.settings.seed)
        return train_into(experiment, start, experiment.train_set, out, experiment.settings.seed, resume=resume)


def require_free(out: Path) -> None:
    """Refuse to train where a run is.

    Raises:
        RunExists: There is one.
    """
    if holds_run(out):
        raise RunExists(f"{out} already holds a run. Choose another --out, delete it, or resume it with --resume.")


@contextmanager
def _labels_saved(labels: Labels | None, out: Path, *, resume: bool) -> Iterator[None]:
    """Save the labels of a new run, and remove them if its training never starts."""
    file, begun, new_folder = out / LABELS, (out / MANIFEST).exists(), not out.exists()
    if begun and not resume:  # killed before its first step: its labels are replaced as it is
        file.unlink(missing_ok=True)
    existing = load_labels(out)
    if existing is not None and not begun and not _same(existing, labels):
        raise RunExists(
            f"{file} holds the labels of another run, against which this one would be measured. Choose another --out, "
            f"or delete that file."
        )
    new_labels = existing is None and labels is not None
    if new_labels:
        assert labels is not None
        save_labels(out, labels)
    try:
        yield
    except BaseException:
        if new_labels and not (out / MANIFEST).exists():
            file.unlink(missing_ok=True)
            if new_folder and not any(out.iterdir()):
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
) -> Recording:
    """Train and record on a data set, with the experiment's loss, epochs and batch size.

    Raises:
        DataError: An empty data set.
    """
    if len(train_set) == 0:  # type: ignore[arg-type]
        raise DataError("Nothing is left to train on.")
    plan = plan_of(experiment)
    return train(
        start.model,
        experiment.loss,
        train_set,
        start.optimizer,
        epochs=plan.epochs,
        batch_size=plan.batch_size,
        drop_last=plan.drop_last,
        accumulate=plan.accumulate,
        clip_norm=plan.clip_norm,
        autocast=plan.autocast,
        out=out,
        scheduler=start.scheduler,
        scheduler_metric=start.scheduler_metric,
        scheduler_every=start.scheduler_every,
        monitor=experiment.monitor,
        seed=seed,
        about=settings_entry(experiment.settings),
        resume=resume,
    )
