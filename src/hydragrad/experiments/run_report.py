"""The report of a run directory, with everything that is saved in it."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

from hydragrad.cleaning import Cleaning, Reweighting, near_duplicates, suspect_groups
from hydragrad.errors import HydragradError
from hydragrad.experiments.experiment import Experiment
from hydragrad.experiments.saved_scores import DATA_SET
from hydragrad.replay import Recording
from hydragrad.replay.histories import has_closed_form, run_histories
from hydragrad.reports import report
from hydragrad.scores import Check, Scores, calibration_of, saved_scores
from hydragrad.tracking import Store
from hydragrad.tracking.facts import FILE

HELD_OUT = ("test", "validation")
"""Predictions are explained on the first of these data sets that exists."""

PICTURES, TEXTS = 2_000, 20_000
"""So many suspects are shown as pictures, or as texts, which take less room."""


def write_report(
    experiment: Experiment,
    run: Recording,
    scores: Scores,
    page: Path,
    *,
    suspects: pd.DataFrame | None = None,
    groups: bool = False,
    duplicates: bool = False,
    accuracies: Mapping[str, float] | None = None,
    cleaning: Cleaning | Reweighting | None = None,
    checks: Sequence[Check] = (),
    removals: Scores | None = None,
    title: str | None = None,
) -> Path:
    """Write the page; predictions are explained by RUN/store, or by scores of single samples in RUN/scores.

    Args:
        groups: Gather the suspects into groups.
        duplicates: Look for near duplicates inside the training set, and in the data whose predictions are explained.
    """
    if suspects is None and experiment.planted is not None:
        suspects = by_harm(scores, experiment.planted)
    name = next((name for name in HELD_OUT if name in experiment.held_out), None)
    explain = None if name is None else _store(run) or _sample_scores(run, name, scores)
    return report(
        run,
        scores,
        page,
        suspects=suspects,
        groups=suspect_groups(run, suspects) if groups and suspects is not None else None,
        duplicates=near_duplicates(run) if duplicates else None,
        leaks=near_duplicates(run, experiment.held_out[name]) if duplicates and name is not None else None,
        explain=explain,
        test_set=None if name is None else experiment.held_out[name],
        render=experiment.render,
        pieces=experiment.pieces,
        classes=experiment.classes,
        accuracies=accuracies,
        cleaning=cleaning,
        checks=checks,
        removals=removals or _with_measured_scale(run, scores),
        title=title,
        how_to_explain=_how_to_explain(run, name, scores.evidence.curvature),
        thumbnails=TEXTS if experiment.is_text else PICTURES,
    )


def _with_measured_scale(run: Recording, like: Scores) -> Scores | None:
    """The saved scores of the same query that predict removals best, of those whose scale was measured."""
    (query, *others) = like.query_names
    if others or like.evidence.trained_elsewhere:
        return None
    known = []
    for saved in saved_scores(run.path / "scores"):
        calibration = calibration_of(saved.evidence, query)
        own = saved.evidence.run in ("", run.digest) and saved.evidence.seeds == like.evidence.seeds
        if calibration is None or saved.query_names != like.query_names or not own:
            continue
        if saved.evidence.steps != len(run.steps):
            continue
        known.append((calibration.half / calibration.scale, saved.path))
    for _, path in sorted(known):
        try:
            return Scores.load(path)
        except HydragradError:
            continue  # damaged; the command that needs it says so
    return None


def can_be_grouped(suspects: pd.DataFrame) -> bool:
    """Whether suspects say what is given and what is suggested."""
    return "suggested_label" in suspects or "suggested_target" in suspects


def by_harm(scores: Scores, planted: Tensor) -> pd.DataFrame:
    """Rank samples without labels by their contribution, the most harmful first, with those that are known to be wrong.

    Args:
        scores: Contributions; the first query is taken.
        planted: Which samples are wrong, bool (N,).
    """
    ids, contributions = scores.sample_ids, scores.row(None)
    frame = pd.DataFrame({"sample": ids.numpy(), "given_label": None, "contribution": contributions.numpy()})
    frame["suspicion"], frame["flipped"] = -frame["contribution"], planted[ids].numpy()
    return frame.sort_values("contribution", kind="stable", ignore_index=True)


def _how_to_explain(run: Recording, name: str | None, curvature: str) -> str:
    if name is None:
        return (
            "There are no held-out samples whose predictions could be explained. Let your function return them: "
            "(model, loss, train_set, optimizer, {'test': test_set})."
        )
    if not has_closed_form(run, run_histories(run)):
        return (
            f"To see which training samples moved a prediction, attribute the run to it and write the report again: "
            f"hydragrad attribute {run.path} --query {name}:0 --query {name}:1 --curvature {curvature}; "
            f"hydragrad report {run.path} --curvature {curvature}"
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
    """All saved scores of single samples of a data set with the curvature of `like`, as one."""
    wanted = (name, like.evidence.curvature, len(run.steps))
    parts: list[Scores] = []
    for saved in saved_scores(run.path / "scores"):
        has = (saved.about.get(DATA_SET), saved.evidence.curvature, saved.evidence.steps)
        if saved.query_samples is None or has != wanted:
            continue
        try:
            scores = Scores.load(saved.path)
        except HydragradError:
            continue  # damaged; the command that needs it says so
        if torch.equal(scores.sample_ids, like.sample_ids):
            parts.append(scores)
    if not parts:
        return None
    return replace(
        parts[0],
        values=torch.cat([scores.values for scores in parts]),
        query_names=tuple(name for scores in parts for name in scores.query_names),
        query_values=torch.cat([scores.query_values for scores in parts]),
        query_samples=tuple(sample for scores in parts for sample in scores.query_samples or ()),
        standard_errors=None,
        label_contributions=None,
        over_time=None,
    )
