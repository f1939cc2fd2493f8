"""The report of a run directory, with everything that is saved in it."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from hydragrad.errors import HydragradError
from hydragrad.experiments.experiment import Experiment
from hydragrad.replay import Recording
from hydragrad.report import report
from hydragrad.scores import Scores
from hydragrad.tracking import Store
from hydragrad.tracking.store import FILE

HELD_OUT = ("test", "validation")
"""Predictions are explained on the first of these data sets that exists."""


def write_report(
    experiment: Experiment,
    run: Recording,
    scores: Scores,
    page: Path,
    *,
    suspects: pd.DataFrame | None = None,
    accuracies: Mapping[str, float] | None = None,
    checks: Sequence[Mapping[str, Any]] = (),
    title: str | None = None,
) -> Path:
    """Write the page; predictions are explained by RUN/store, or by scores of single samples in RUN/scores."""
    name = next((name for name in HELD_OUT if name in experiment.held_out), None)
    explain = None if name is None else _store(run) or _sample_scores(run, name, scores)
    return report(
        run,
        scores,
        page,
        suspects=suspects,
        explain=explain,
        test_set=None if name is None else experiment.held_out[name],
        render=experiment.render,
        classes=experiment.classes,
        accuracies=accuracies,
        checks=checks,
        title=title,
        how_to_explain=_how_to_explain(run, name),
    )


def _how_to_explain(run: Recording, name: str | None) -> str:
    if name is None:
        return (
            "There are no held-out samples whose predictions could be explained. Let your function return them: "
            "(model, loss, train_set, optimizer, {'test': test_set})."
        )
    return (
        f"To see which training samples moved a prediction, compute their rows once and write the report again: "
        f"hydragrad explain {run.path} --{name} 0; hydragrad report {run.path}"
    )


def _store(run: Recording) -> Store | None:
    """The run's store, if there is one of the whole run."""
    folder = run.path / "store"
    if not (folder / FILE).exists():
        return None
    store = Store.open(folder, run.model, run.loss, collate=run.collate_fn)
    return store if store.facts.steps == len(run.steps) else None


def _sample_scores(run: Recording, name: str, like: Scores) -> Scores | None:
    """All saved scores of single samples (test:42) with the curvature of `like`, as one."""
    evidence = (like.evidence.curvature, len(run.steps))
    singles = []
    for file in sorted((run.path / "scores").glob(f"{name}:*.safetensors")):
        try:
            scores = Scores.load(file)
        except HydragradError:
            continue  # damaged; the command that needs it says so
        same_samples = torch.equal(scores.sample_ids, like.sample_ids)
        if same_samples and (scores.evidence.curvature, scores.evidence.steps) == evidence:
            singles.append(scores)
    if not singles:
        return None
    return replace(
        singles[0],
        values=torch.cat([scores.values for scores in singles]),
        query_names=tuple(name for scores in singles for name in scores.query_names),
        query_values=torch.cat([scores.query_values for scores in singles]),
        label_contributions=None,
    )
