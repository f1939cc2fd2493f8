"""The scores of a run in RUN/scores: loaded where they are saved, else computed and saved."""

from functools import partial
from pathlib import Path

from hydragrad.attribution import attribute
from hydragrad.errors import LossError, RunDamaged
from hydragrad.experiments.experiment import Experiment
from hydragrad.experiments.seeds import score_seeds
from hydragrad.replay import Recording
from hydragrad.scores import Curvature, Scores

MOST_STRETCHES = 40
"""Scores say what each epoch added, or, of a longer run, each of so many stretches."""


def scores_path(run: Path, query: str, curvature: str, damping: float = 0.0, replays: int = 0, seeds: int = 1) -> Path:
    """Return where the scores of a query are saved."""
    how = curvature + (f"-damping{damping:g}" if damping else "") + (f"-replays{replays}" if replays else "")
    how += f"-seeds{seeds}" if seeds > 1 else ""
    return run / "scores" / f"{query}-{how}.safetensors"


def compute_scores(
    experiment: Experiment,
    run: Recording,
    query: str,
    curvature: Curvature,
    *,
    damping: float = 0.0,
    labels: bool | None = None,
    replays: int = 0,
    seeds: int = 1,
    workers: int = 1,
) -> Scores:
    """Attribute and save the scores; `labels=None` takes label contributions where the loss allows them."""
    path = scores_path(run.path, query, curvature, damping, replays, seeds)
    if seeds > 1:
        scores = score_seeds(
            experiment,
            run,
            query,
            curvature,
            seeds=seeds,
            damping=damping,
            labels=labels,
            replays=replays,
            workers=workers,
        )
    else:
        scores = _attributed(
            experiment, run, query, curvature, damping=damping, labels=labels, replays=replays, workers=workers
        )
    scores.save(path)
    return scores


def saved_scores(
    experiment: Experiment,
    run: Recording,
    query: str,
    curvature: Curvature,
    *,
    damping: float = 0.0,
    replays: int = 0,
    seeds: int = 1,
    workers: int = 1,
) -> Scores:
    """Return the scores saved with the run; compute and save them where there are none of the whole run."""
    path = scores_path(run.path, query, curvature, damping, replays, seeds)
    if path.exists():
        try:
            scores = Scores.load(path)
        except RunDamaged:
            scores = None
        if scores is not None and scores.evidence.steps == len(run.steps):
            return scores
    return compute_scores(
        experiment, run, query, curvature, damping=damping, replays=replays, seeds=seeds, workers=workers
    )


def _attributed(
    experiment: Experiment,
    run: Recording,
    query: str,
    curvature: Curvature,
    *,
    damping: float,
    labels: bool | None,
    replays: int,
    workers: int,
) -> Scores:
    scored = partial(
        attribute,
        run,
        experiment.query(query),
        curvature=curvature,
        damping=damping,
        stretches=min(experiment.settings.epochs, MOST_STRETCHES, len(run.steps)),
        replays=replays,
        workers=workers,
    )
    try:
        return scored(labels=labels is not False)
    except LossError:
        if labels:
            raise
        return scored()
