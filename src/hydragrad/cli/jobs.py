"""The jobs behind the commands: train, attribute, clean; each returns what it found as plain values."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from torch.utils.data import Dataset

from hydragrad.attribution import attribute
from hydragrad.cleaning import (
    Marks,
    Signals,
    area_under_roc,
    estimated_share,
    found_in_first,
    relabelled,
    suspects,
    training_signals,
    without,
)
from hydragrad.cli.console import percent, say
from hydragrad.cli.ensembles import runs_of, score_seeds
from hydragrad.cli.experiment import Experiment
from hydragrad.cli.training import record as record
from hydragrad.cli.training import train_into
from hydragrad.errors import LossError, QueryError, RunDamaged
from hydragrad.figures import predicted_against_actual
from hydragrad.replay import Recording
from hydragrad.report.wording import counted
from hydragrad.scores import Check, Method, Scores
from hydragrad.training import Plan, checkpoint_distance, mean_loss_and_accuracy
from hydragrad.trust import verify

MOST_STRETCHES = 40
"""Scores tell what each epoch added, or each of so many stretches of longer runs."""

DATA_SET = "data_set"
"""Entry of `Scores.about`: name of the data set that the query is about."""

HARDLY = 0.5
"""Of the way from guessing to being right; on digits with 20 and 40 % flips, AUC was below .8 short of it."""


def plan_of(experiment: Experiment) -> Plan:
    """How long and in which order the settings train."""
    return Plan(
        epochs=experiment.settings.epochs,
        batch_size=experiment.settings.batch_size,
        seed=experiment.settings.seed,
    )


def checkpoints_every(experiment: Experiment) -> int:
    """Steps between checkpoints."""
    return checkpoint_distance(plan_of(experiment).steps(len(experiment.train_set)))  # type: ignore[arg-type]


def scores_path(run: Path, query: str, method: Method, seeds: int = 1) -> Path:
    """Where the scores of a query are saved."""
    several = f"-seeds{seeds}" if seeds > 1 else ""
    return run / "scores" / f"{query}-{method.in_file_names}{several}.safetensors"


def score(
    experiment: Experiment,
    run: Recording,
    query: str,
    method: Method,
    *,
    labels: bool | None = None,
    seeds: int = 1,
    workers: int = 1,
) -> Scores:
    """Attribute and save the scores; `labels=None` takes label contributions where the loss allows them."""
    if seeds > 1:
        scores = score_seeds(experiment, run, query, method, seeds=seeds, labels=labels, workers=workers)
    else:
        scores = _score_run(experiment, run, query, method, labels=labels, workers=workers)
    scores = replace(scores, about={DATA_SET: experiment.named_query(query).data_set})
    scores.save(scores_path(run.path, query, method, seeds))
    return scores


def _score_run(
    experiment: Experiment, run: Recording, query: str, method: Method, *, labels: bool | None, workers: int
) -> Scores:
    attributed = partial(
        attribute,
        run,
        experiment.query(query),
        **method.options,
        stretches=min(experiment.settings.epochs, MOST_STRETCHES, len(run.steps)),
        workers=workers,
    )
    try:
        return attributed(labels=labels is not False)
    except LossError:
        if labels:
            raise
        return attributed()


def saved_or_scored(
    experiment: Experiment, run: Recording, query: str, method: Method, *, seeds: int = 1, workers: int = 1
) -> Scores:
    """The scores saved with the run, or computed now."""
    path = scores_path(run.path, query, method, seeds)
    if path.exists():
        try:
            scores = Scores.load(path)
        except RunDamaged:
            scores = None
        if scores is not None and scores.evidence.steps == len(run.steps):
            say(f"scores: {path}")
            return scores
    return score(experiment, run, query, method, seeds=seeds, workers=workers)


@dataclass(frozen=True, kw_only=True)
class Verified:
    """What a verification measured.

    Attributes:
        checks: Those of this verification.
        path: The scores with their evidence.
        pictures: Predicted against actual changes, by size of the random groups.
        figures: Flat values for JSON.
    """

    checks: tuple[Check, ...]
    path: Path
    pictures: dict[int | None, Path]
    figures: dict[str, Any]


def parse_sizes(text: str) -> list[int | float]:
    """Group sizes as given on the command line: numbers of samples, or shares.

    Raises:
        QueryError: Something else.
    """
    sizes: list[int | float] = []
    for part in text.split(","):
        try:
            value = float(part)
        except ValueError:
            value = -1.0
        if not value > 0 or (value >= 1 and not value.is_integer()):
            raise QueryError(f"--size takes numbers of samples, or shares below 1, with commas between, got {part!r}.")
        sizes.append(value if value < 1 else int(value))
    return sizes


def verify_scores(
    experiment: Experiment,
    run: Recording,
    query: str,
    method: Method,
    *,
    groups: int,
    sizes: Sequence[int | float],
    seed: int,
    workers: int,
    seeds: int = 1,
    ceiling: bool = False,
) -> Verified:
    """Verify scores, computed if absent; save them with what was measured, and draw it."""
    scores = saved_or_scored(experiment, run, query, method, seeds=seeds, workers=workers)
    runs = [run] if seeds == 1 else runs_of(experiment, run, seeds)
    unchecked = scores.with_evidence(replace(scores.evidence, checks=()))
    checks = verify(
        runs,
        unchecked,
        groups=groups,
        size=sizes,
        seed=seed,
        queries=experiment.query(query),
        workers=workers,
        ceiling=ceiling,
    ).checks
    path = scores_path(run.path, query, method, seeds)
    scores.with_evidence(scores.evidence.with_checks(checks)).save(path)
    pictures: dict[int | None, Path] = {}
    figures: dict[str, Any] = {"run": str(run.path), "query": query, "curvature": method.curvature}
    folder = run.path / "verify"
    folder.mkdir(exist_ok=True)
    for check in checks:
        if check.kind == "random":
            size = check.size
            pictures[size] = folder / f"{path.stem}-{size}.png"
            drawn = predicted_against_actual(check.predicted, check.actual, unit=check.unit)
            drawn.savefig(pictures[size], dpi=160)
            for name in ("lds", "slope", "scale", "pearson", "sign_agreement", "groups"):
                figures[f"{name}_{size}"] = getattr(check, name)
            figures[f"lds_low_{size}"], figures[f"lds_high_{size}"] = check.lds_interval
            if ceiling:
                figures[f"ceiling_lds_{size}"] = check.ceiling_lds
    return Verified(checks=checks, path=path, pictures=pictures, figures=figures)


@dataclass(frozen=True, kw_only=True)
class Cleaned:
    """What cleaning found and did.

    Attributes:
        suspects: Ranked, the most suspect first.
        changed: How many samples were removed or relabelled.
        how: What decided which ones.
        figures: Flat values for JSON.
        accuracies: Test accuracy by name, for the report.
        warning: Why the suspects may mean little, if so.
    """

    suspects: pd.DataFrame
    changed: int
    how: str
    figures: dict[str, Any]
    accuracies: dict[str, float]
    warning: str | None = None


def clean(
    experiment: Experiment,
    run: Recording,
    scores: Scores,
    query: str,
    *,
    remove: float | None,
    relabel: bool,
    reference: bool,
    folds: int = 0,
    marks: Marks | None = None,
) -> Cleaned:
    """Rank suspects, remove or relabel the worst, or those that were marked, retrain from a fresh start, compare.

    Raises:
        QueryError: An estimated share of 1, or relabelling without suggested labels.
    """
    signals: Signals | Literal["auto"] = training_signals(run, folds=folds) if folds else "auto"
    ranked = suspects(run, scores, held_out=experiment.query(query), signals=signals)
    share = estimated_share(ranked) if remove is None else remove
    if not 0 <= share < 1:
        raise QueryError(
            "Every sample is suspect, so that none would be left to train with. Say how many to take: --remove 0.1."
        )
    if relabel and "suggested_label" not in ranked:
        raise QueryError(
            "--relabel needs suggested labels, which need plain cross-entropy of the model's one call. Use --remove."
        )
    worst = ranked.head(int(share * len(ranked)))
    if relabel and remove is None:
        worst = ranked[ranked["suggested_label"] != ranked["given_label"]]
    samples = worst["sample"].tolist() if marks is None else list(marks.fixed)
    labels = worst["suggested_label"].tolist() if relabel else [] if marks is None else list(marks.fixed.values())
    if relabel or marks is not None:
        cleaned = relabelled(experiment.train_set, samples, labels)
    else:
        cleaned = without(experiment.train_set, samples)
    folder = run.path / "clean"
    noisy = experiment.test_accuracy(run.trained_model())
    what = "relabelled" if relabel else "removed" if marks is None else "by-hand"
    doing = f"training {'without' if what == 'removed' else 'with other labels of'} {counted(len(samples), 'sample')}"
    after = _retrained_accuracy(experiment, cleaned, folder / _name(what, samples, labels), doing)
    figures: dict[str, Any] = {
        "samples": len(ranked),
        "changed": len(samples),
        "share": len(samples) / len(ranked) if marks is not None else share,
        "relabelled": relabel or marks is not None,
    }
    figures |= {"test_accuracy_noisy": noisy, "test_accuracy_cleaned": after}
    done = {"removed": "suspects removed", "relabelled": "suspects relabelled", "by-hand": "labels fixed by hand"}
    accuracies = {"labels as given": noisy, done[what]: after}
    if marks is not None:
        figures["marked_fine"] = len(marks.fine)
        if experiment.labels is not None:
            truth = experiment.labels.true
            figures["marks_right"] = sum(int(truth[i]) == label for i, label in marks.fixed.items()) / len(samples)
    if experiment.labels is not None:
        figures |= {
            "auc": area_under_roc(ranked),
            "found_in_first_10_percent": found_in_first(ranked, 0.1),
            "found_in_first_20_percent": found_in_first(ranked, 0.2),
        }
        if "suggested_label" in ranked:
            figures["suggested_labels_right"] = float((ranked["suggested_label"] == ranked["true_label"]).mean())
        if reference:
            everyone = range(len(experiment.labels.true))
            right = relabelled(experiment.train_set, everyone, experiment.labels.true.tolist())
            figures["test_accuracy_clean"] = _retrained_accuracy(
                experiment, right, folder / "true-labels", "training on true labels"
            )
            accuracies["true labels"] = figures["test_accuracy_clean"]
    return Cleaned(
        suspects=ranked,
        changed=len(samples),
        how="as marked"
        if marks is not None
        else "estimated from the suggested labels"
        if remove is None
        else "as asked",
        figures=figures,
        accuracies={name: value for name, value in accuracies.items() if value is not None},
        warning=_hardly_trained(experiment, run),
    )


def _hardly_trained(experiment: Experiment, run: Recording) -> str | None:
    """A warning where the network is closer to guessing than to being right; docs/results.md has what that costs."""
    if "validation" not in experiment.held_out or experiment.classes is None:
        return None
    _, accuracy = mean_loss_and_accuracy(run.trained_model(), experiment.loss, experiment.held_out["validation"])
    guessing = 1 / len(experiment.classes)
    if accuracy is None or accuracy - guessing >= HARDLY * (1 - guessing):
        return None
    return (
        f"warning: this network is right on {percent(accuracy)} of the validation samples only, so that its suspects "
        f"mean little. Train longer, or with another rate, before you clean."
    )


def with_names(ranked: pd.DataFrame, classes: Sequence[str] | None) -> pd.DataFrame:
    """Suspects with the names of the labels beside their numbers, for a file that a person opens."""
    named = ranked.copy()
    if classes is not None and list(classes) != [str(i) for i in range(len(classes))]:
        for column in ("given_label", "suggested_label", "true_label"):
            if column in named:
                named[column.replace("_label", "_name")] = [classes[label] for label in named[column]]
    return named


def _retrained_accuracy(experiment: Experiment, train_set: Dataset[Any], out: Path, progress: str) -> float | None:
    """Test accuracy after training anew; the retraining is recorded, so it resumes, and is not made twice."""
    seed = experiment.settings.seed + 1
    run = train_into(experiment, experiment.start(seed), train_set, out, seed, resume=True, progress=progress)
    return experiment.test_accuracy(run.trained_model())


def _name(what: str, samples: Sequence[int], labels: Sequence[int] = ()) -> str:
    """Another folder for other samples, and for other labels of the same samples."""
    told = f"{sorted(samples)}{list(labels) or ''}"
    return f"{what}-{len(samples)}-{hashlib.sha256(told.encode()).hexdigest()[:8]}"
