"""The scores of a run in RUN/scores: loaded where they are saved, else computed and saved."""

import warnings
from dataclasses import replace
from functools import partial
from pathlib import Path

from hydragrad.attribution import attribute
from hydragrad.errors import LossError, QueryError, RunDamaged
from hydragrad.execution import HERE, Keywords
from hydragrad.experiments.experiment import Experiment
from hydragrad.experiments.seeds import score_seeds
from hydragrad.replay import Recording
from hydragrad.scores import Method, Scores

MOST_STRETCHES = 40
"""Scores say what each epoch added, or, of a longer run, each of so many stretches."""

DATA_SET = "data_set"
"""Entry of `Scores.about`: name of the data set that the query is about."""

RUN = "run"
"""Entry of `Scores.about`: digest of the run that was attributed."""


def scores_path(run: Path, query: str, method: Method, seeds: int = 1) -> Path:
    """Return where the scores of a query are saved."""
    several = f"-seeds{seeds}" if seeds > 1 else ""
    return run / "scores" / f"{query}-{method.in_file_names}{several}.safetensors"


def compute_scores(
    experiment: Experiment,
    run: Recording,
    query: str,
    method: Method,
    *,
    labels: bool | None = None,
    parts: bool = False,
    seeds: int = 1,
    where: Keywords = HERE.keywords,
    queries_at_once: int | None = None,
) -> Scores:
    """Attribute and save the scores; `labels=None` takes label contributions where the loss allows them.

    Raises:
        QueryError: The parts of several seeds.
    """
    if seeds > 1 and parts:
        raise QueryError("Contributions of parts are those of one run; leave out --parts, or --seeds.")
    if seeds > 1:
        scores = score_seeds(experiment, run, query, method, seeds=seeds, labels=labels, where=where)
    else:
        scores = _attributed(
            experiment, run, query, method, labels=labels, parts=parts, where=where, queries_at_once=queries_at_once
        )
    scores = replace(scores, about={DATA_SET: experiment.named_query(query).data_set, RUN: run.digest})
    scores.save(scores_path(run.path, query, method, seeds))
    return scores


def saved_or_computed(
    experiment: Experiment,
    run: Recording,
    query: str,
    method: Method,
    *,
    labels: bool | None = None,
    parts: bool = False,
    seeds: int = 1,
    where: Keywords = HERE.keywords,
    queries_at_once: int | None = None,
) -> Scores:
    """Return the scores saved with the run; compute and save them where there are none of the whole run, or none with
    the `parts` that are wanted."""
    path = scores_path(run.path, query, method, seeds)
    if path.exists():
        with warnings.catch_warnings(record=True) as of_another_file:
            warnings.simplefilter("always")
            try:
                scores = Scores.load(path)
            except RunDamaged:
                scores = None
        scores = None if of_another_file else scores
        if scores is not None and parts and scores.part_contributions is None:
            scores = None
        # Scores of earlier versions do not name their run.
        if scores is not None and (len(run.steps), run.digest) == (
            scores.evidence.steps,
            scores.about.get(RUN, run.digest),
        ):
            return scores
    return compute_scores(
        experiment,
        run,
        query,
        method,
        labels=labels,
        parts=parts,
        seeds=seeds,
        where=where,
        queries_at_once=queries_at_once,
    )


def _attributed(
    experiment: Experiment,
    run: Recording,
    query: str,
    method: Method,
    *,
    labels: bool | None,
    parts: bool,
    where: Keywords,
    queries_at_once: int | None,
) -> Scores:
    attributed = partial(
        attribute,
        run,
        experiment.query(query),
        **method.options,
        stretches=min(experiment.settings.epochs, MOST_STRETCHES, len(run.steps)),
        queries_at_once=queries_at_once,
        **where,
    )
    if parts:
        return attributed(labels=bool(labels), parts=True)
    try:
        return attributed(labels=labels is not False)
    except LossError:
        if labels:
            raise
        return attributed()
