"""Scores over several seeds of a run that the command line trained: the run itself, and others next to it."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from hydragrad.attribution import ensemble
from hydragrad.cleaning import save_labels
from hydragrad.cli.experiment import Experiment
from hydragrad.cli.training import train_into
from hydragrad.errors import LossError
from hydragrad.replay import Recording
from hydragrad.runs.manifest import FILE as MANIFEST
from hydragrad.scores import Method, Scores

FOLDER = "seeds"


def seeds_of(experiment: Experiment, count: int) -> list[int]:
    """The run's own seed and those that follow."""
    first = experiment.settings.seed
    return list(range(first, first + count))


def runs_of(experiment: Experiment, run: Recording, count: int) -> list[Recording]:
    """The runs of every seed, the run itself first; trained where they are not there yet."""
    make = _Make(experiment, run.path)
    return [make(seed, run.path / FOLDER / f"seed-{seed}") for seed in seeds_of(experiment, count)]


def score_seeds(
    experiment: Experiment,
    run: Recording,
    query: str,
    method: Method,
    *,
    seeds: int,
    labels: bool | None,
    workers: int,
) -> Scores:
    """Mean scores over `seeds` runs with their standard errors; runs in RUN/seeds that are finished are used again."""

    def attributed(*, labels: bool) -> Scores:
        return ensemble(
            _Make(experiment, run.path),
            experiment.query(query),
            seeds=seeds_of(experiment, seeds),
            out=run.path / FOLDER,
            **method.options,
            labels=labels,
            workers=workers,
        )

    try:
        return attributed(labels=labels is not False)
    except LossError:
        if labels:
            raise
        return attributed(labels=False)


def with_errors(scores: Scores, samples: Sequence[int]) -> str:
    """Samples as a person reads them: with mean and standard error where there is one."""
    if scores.standard_errors is None:
        return ", ".join(map(str, samples))
    place = {sample: at for at, sample in enumerate(scores.sample_ids.tolist())}
    values, errors = scores.values[0], scores.standard_errors[0]
    return ", ".join(f"{i} ({values[place[i]]:+.2g} ± {errors[place[i]]:.1g})" for i in samples)


class _Make:
    """Trains or opens the run of a seed: same data and labels, another initialisation and order."""

    def __init__(self, experiment: Experiment, run: Path) -> None:
        self._experiment, self._run = experiment, run

    def __call__(self, seed: int, folder: Path) -> Recording:
        given = self._experiment
        if seed == given.settings.seed:
            return Recording(self._run, given.start(seed).model, given.loss, given.train_set)
        own = replace(given, settings=replace(given.settings, seed=seed))
        if own.labels is not None and not (folder / MANIFEST).exists():
            save_labels(folder, own.labels)
        return train_into(own, own.start(seed), own.train_set, folder, seed, resume=True)
