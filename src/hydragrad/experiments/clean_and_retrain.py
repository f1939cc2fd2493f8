"""Rank suspects, remove or relabel the worst, train again without them, and compare test accuracies."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from torch.utils.data import Dataset

from hydragrad.cleaning import (
    Labels,
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
from hydragrad.errors import QueryError
from hydragrad.experiments.experiment import Experiment
from hydragrad.experiments.training import train_into
from hydragrad.replay import Recording, label_of
from hydragrad.reports.wording import counted
from hydragrad.scores import Scores
from hydragrad.training import mean_loss_and_accuracy

ENOUGH_TRAINING = 0.5
"""Share of the way from guessing to being right; on digits with 20 and 40 % flips, AUC was below .8 short of it."""

Kind = Literal["removed", "relabelled", "by-hand"]
NAMES: dict[Kind, str] = {
    "removed": "suspects removed",
    "relabelled": "suspects relabelled",
    "by-hand": "labels fixed by hand",
}
"""What was done to the training set, as the report names it."""


@dataclass(frozen=True, kw_only=True)
class Cleaned:
    """What cleaning found and changed.

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


@dataclass(frozen=True, kw_only=True)
class _Change:
    """Which samples change: removed where there are no labels, else relabelled; and what decided it."""

    kind: Kind
    samples: list[int]
    labels: list[int]
    share: float
    how: str

    @property
    def folder(self) -> str:
        """Name of another folder for other samples, and for other labels of the same samples."""
        content = f"{sorted(self.samples)}{list(self.labels) or ''}"
        return f"{self.kind}-{len(self.samples)}-{hashlib.sha256(content.encode()).hexdigest()[:8]}"

    @property
    def progress(self) -> str:
        """Title of the training's progress bar."""
        return f"training {'without' if self.kind == 'removed' else 'with other labels of'} " + counted(
            len(self.samples), "sample"
        )

    def applied(self, run: Recording) -> Dataset[Any]:
        """Return the run's training set, changed."""
        if self.kind == "removed":
            return without(run.train_set, self.samples)
        return relabelled(run.train_set, self.samples, self.labels, label_of(run))


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

    Args:
        experiment: What was trained.
        run: Its run.
        scores: Contributions to the query.
        query: Name of the held-out data.
        remove: Share of the samples to remove; estimated if None.
        relabel: Relabel suspects instead of removing them.
        reference: Where noise was planted, train on the true labels too.
        folds: Networks for out-of-fold probabilities; 0 for none.
        marks: Labels that a person fixed, in place of suspects.

    Raises:
        QueryError: An estimated share of 1, or relabelling without suggested labels.
    """
    signals: Signals | Literal["auto"] = training_signals(run, folds=folds) if folds else "auto"
    ranked = suspects(run, scores, held_out=experiment.query(query), signals=signals)
    change = _suspects_changed(ranked, remove, relabel=relabel) if marks is None else _marks_applied(ranked, marks)
    folder = run.path / "clean"
    before = experiment.test_accuracy(run.trained_model())
    after = _accuracy_after(experiment, change.applied(run), folder / change.folder, progress=change.progress)
    figures: dict[str, Any] = {
        "samples": len(ranked),
        "changed": len(change.samples),
        "share": change.share,
        "relabelled": change.kind != "removed",
        "test_accuracy_noisy": before,
        "test_accuracy_cleaned": after,
    }
    accuracies = {"labels as given": before, NAMES[change.kind]: after}
    if marks is not None:
        figures["marked_fine"] = len(marks.fine)
    if experiment.labels is not None:
        figures |= _against_truth(ranked, experiment.labels, marks)
        if reference:
            accuracies["true labels"] = figures["test_accuracy_clean"] = _accuracy_after(
                experiment,
                _with_true_labels(run, experiment.labels),
                folder / "true-labels",
                progress="training on true labels",
            )
    return Cleaned(
        suspects=ranked,
        changed=len(change.samples),
        how=change.how,
        figures=figures,
        accuracies={name: accuracy for name, accuracy in accuracies.items() if accuracy is not None},
        warning=_warning_of_short_training(experiment, run),
    )


def with_names(ranked: pd.DataFrame, classes: Sequence[str] | None) -> pd.DataFrame:
    """Return suspects with the names of the labels next to their numbers, for a file that a person opens."""
    named = ranked.copy()
    if classes is not None and list(classes) != [str(i) for i in range(len(classes))]:
        for column in ("given_label", "suggested_label", "true_label"):
            if column in named:
                named[column.replace("_label", "_name")] = [classes[label] for label in named[column]]
    return named


def _suspects_changed(ranked: pd.DataFrame, remove: float | None, *, relabel: bool) -> _Change:
    share = estimated_share(ranked) if remove is None else remove
    if not 0 <= share < 1:
        raise QueryError(
            "Every sample is suspect, so that none would be left to train with. Say how many to take: --remove 0.1."
        )
    kind = ranked.attrs.get("kind", "classes")
    if relabel and kind != "classes":
        raise QueryError(
            f"--relabel puts one class a sample in place of another; these targets are of the kind {kind}. Use "
            f"--remove, or correct them in your data: the suspects name them."
        )
    if relabel and "suggested_label" not in ranked:
        raise QueryError(
            "--relabel needs suggested labels, which need plain cross-entropy of the model's one call. Use --remove."
        )
    worst = ranked.head(int(share * len(ranked)))
    if relabel and remove is None:
        worst = ranked[ranked["suggested_label"] != ranked["given_label"]]
    estimated = (
        "estimated from the suggested labels" if kind == "classes" else "estimated from the evidence in training"
    )
    return _Change(
        kind="relabelled" if relabel else "removed",
        samples=worst["sample"].tolist(),
        labels=worst["suggested_label"].tolist() if relabel else [],
        share=share,
        how=estimated if remove is None else "as given by --remove",
    )


def _marks_applied(ranked: pd.DataFrame, marks: Marks) -> _Change:
    return _Change(
        kind="by-hand",
        samples=list(marks.fixed),
        labels=list(marks.fixed.values()),
        share=len(marks.fixed) / len(ranked),
        how="as marked",
    )


def _against_truth(ranked: pd.DataFrame, labels: Labels, marks: Marks | None) -> dict[str, Any]:
    """How well suspects, suggestions and marks agree with the true labels."""
    figures: dict[str, Any] = {
        "auc": area_under_roc(ranked),
        "found_in_first_10_percent": found_in_first(ranked, 0.1),
        "found_in_first_20_percent": found_in_first(ranked, 0.2),
    }
    if marks is not None:
        right = sum(int(labels.true[i]) == label for i, label in marks.fixed.items())
        figures["marks_right"] = right / len(marks.fixed)
    if "suggested_label" in ranked:
        figures["suggested_labels_right"] = float((ranked["suggested_label"] == ranked["true_label"]).mean())
    return figures


def _with_true_labels(run: Recording, labels: Labels) -> Dataset[Any]:
    return relabelled(run.train_set, range(len(labels.true)), labels.true.tolist(), label_of(run))


def _accuracy_after(experiment: Experiment, train_set: Dataset[Any], out: Path, *, progress: str) -> float | None:
    """Test accuracy after a new training; it is recorded, so that it is resumed, and reused when it is complete."""
    seed = experiment.settings.seed + 1
    run = train_into(experiment, experiment.start(seed), train_set, out, seed, resume=True, progress=progress)
    return experiment.test_accuracy(run.trained_model())


def _warning_of_short_training(experiment: Experiment, run: Recording) -> str | None:
    """A warning where the network is closer to guessing than to being right; docs/results.md has what that costs."""
    if "validation" not in experiment.held_out or experiment.classes is None:
        return None
    _, accuracy = mean_loss_and_accuracy(run.trained_model(), experiment.loss, experiment.held_out["validation"])
    guessing = 1 / len(experiment.classes)
    if accuracy is None or accuracy - guessing >= ENOUGH_TRAINING * (1 - guessing):
        return None
    return (
        f"warning: this network is right on only {100 * accuracy:.1f} % of the validation samples, so that its "
        f"suspects mean little. Train longer, or with another rate, before you clean."
    )
