"""Runs of an experiment with other seeds, in RUN/seeds, and scores averaged over them."""

from dataclasses import replace
from pathlib import Path

from hydragrad.attribution import ensemble
from hydragrad.cleaning import save_labels
from hydragrad.errors import LossError
from hydragrad.execution import Keywords
from hydragrad.experiments.experiment import Experiment
from hydragrad.experiments.training import train_into
from hydragrad.replay import Recording
from hydragrad.runs.manifest import FILE as MANIFEST
from hydragrad.scores import Method, Scores

FOLDER = "seeds"


def seeds_of(experiment: Experiment, count: int) -> list[int]:
    """Return the run's own seed and those that follow."""
    first = experiment.settings.seed
    return list(range(first, first + count))


def runs_of(experiment: Experiment, run: Recording, count: int) -> list[Recording]:
    """Return the runs of every seed, the run itself first; missing ones are trained."""
    run_of_seed = _RunOfSeed(experiment, run.path)
    return [run_of_seed(seed, run.path / FOLDER / f"seed-{seed}") for seed in seeds_of(experiment, count)]


def score_seeds(
    experiment: Experiment,
    run: Recording,
    query: str,
    method: Method,
    *,
    seeds: int,
    labels: bool | None,
    where: Keywords,
) -> Scores:
    """Return mean scores over `seeds` runs with their standard errors; finished runs in RUN/seeds are reused."""

    def averaged(*, labels: bool) -> Scores:
        return ensemble(
            _RunOfSeed(experiment, run.path),
            experiment.query(query),
            seeds=seeds_of(experiment, seeds),
            out=run.path / FOLDER,
            **method.options,
            labels=labels,
            **where,
        )

    try:
        return averaged(labels=labels is not False)
    except LossError:
        if labels:
            raise
        return averaged(labels=False)


class _RunOfSeed:
    """Trains or opens the run of a seed: same data and labels, another initialisation and order."""

    def __init__(self, experiment: Experiment, run: Path) -> None:
        self._experiment, self._run = experiment, run

    def __call__(self, seed: int, folder: Path) -> Recording:
        experiment = self._experiment
        if seed == experiment.settings.seed:
            return Recording(self._run, experiment.start(seed).model, experiment.loss, experiment.train_set)
        reseeded = replace(experiment, settings=replace(experiment.settings, seed=seed))
        if reseeded.labels is not None and not (folder / MANIFEST).exists():
            save_labels(folder, reseeded.labels)
        return train_into(reseeded, reseeded.start(seed), reseeded.train_set, folder, seed, resume=True)
