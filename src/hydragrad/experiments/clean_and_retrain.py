"""Rank suspects, really train with them removed, relabelled or down-weighted, and say which is worth it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from torch.utils.data import Dataset

from hydragrad.cleaning import (
    AGAIN,
    AS_GIVEN,
    KINDS,
    Cleaning,
    Kind,
    Labels,
    Marks,
    Remedy,
    Reweighting,
    Signals,
    area_under_roc,
    estimated_share,
    found_in_first,
    suspects,
    training_signals,
)
from hydragrad.cleaning import clean as treated
from hydragrad.cleaning.signals import model_with
from hydragrad.cleaning.suspects import WRONG_SHARE
from hydragrad.disk import replace_file, save_file
from hydragrad.errors import QueryError
from hydragrad.execution import HERE, Keywords
from hydragrad.experiments.experiment import Experiment
from hydragrad.experiments.named_query import HALF
from hydragrad.replay import Recording
from hydragrad.replay.changed_run import Change
from hydragrad.replay.retraining import retrain
from hydragrad.scores import Scores
from hydragrad.training import mean_loss_and_accuracy

ENOUGH_TRAINING = 0.5
"""Share of the way from guessing to being right; on digits with 20 and 40 % flips, AUC was below .8 short of it."""

BY_HAND, TRUE_LABELS = "labels fixed by hand", "true labels"
ESTIMATED = "estimated from the suggested labels"


@dataclass(frozen=True, kw_only=True)
class Cleaned:
    """What cleaning found and changed.

    Attributes:
        suspects: Ranked, the most suspect first.
        cleaning: The treatments, really trained.
        training: Label and weight of every sample in the recommended training, and what they were.
        how: What decided how many samples were treated.
        figures: Flat values for JSON.
        accuracies: Test accuracy by name, for the report; as given first, then the recommended.
        warning: Why the suspects may mean little, if so.
    """

    suspects: pd.DataFrame
    cleaning: Cleaning
    training: pd.DataFrame
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
    treatments: Sequence[Kind] = KINDS,
    reference: bool,
    folds: int = 0,
    marks: Marks | None = None,
    where: Keywords = HERE.keywords,
) -> Cleaned:
    """Rank suspects, treat the worst, or those that were marked, in every way, train, and compare.

    Args:
        experiment: What was trained.
        run: Its run.
        scores: Contributions to the query.
        query: Name of the held-out data that rank: one half of a data set (`validation-half`), and the other chooses.
        remove: Share of the samples to treat; estimated if None.
        treatments: What is tried.
        reference: Where noise was planted, train on the true labels too.
        folds: Networks for out-of-fold probabilities; 0 for none.
        marks: Labels that a person fixed, in place of suspects.
        where: Where retrainings run.

    Raises:
        QueryError: A share that leaves nothing, no suggested labels for a treatment, or nothing left to choose on.
    """
    choose_on = _choose_on(experiment, query)
    ranked = ranked_suspects(experiment, run, scores, query, folds=folds)
    wanted = _treatments(ranked, treatments) if marks is None else [_by_hand(marks)]
    result = treated(
        run, ranked, choose_on, treatments=wanted, share=remove, executor=where["executor"], workers=where["workers"]
    )
    tested = test_accuracies(experiment, run, result, AGAIN)
    if reference and experiment.labels is not None:
        tested |= _with_true_labels(experiment, run, experiment.labels)
    figures = _figures(ranked, result, remove, marks) | _tested(result, tested)
    if experiment.labels is not None:
        figures |= _against_truth(ranked, experiment.labels, marks)
    return Cleaned(
        suspects=ranked,
        cleaning=result,
        training=_training(ranked, result.recommended.remedy),
        how=_how(ranked, remove, marks),
        figures=figures,
        accuracies=tested,
        warning=_warning_of_short_training(experiment, run),
    )


def _treatments(ranked: pd.DataFrame, wanted: Sequence[Kind]) -> list[Kind | Remedy]:
    """What can be tried: samples without labels of one class are only removed."""
    kind = ranked.attrs.get("kind", "classes")
    if tuple(wanted) == KINDS and (kind != "classes" or "suggested_label" not in ranked):
        return ["remove"]
    others = [one for one in wanted if one != "remove"]
    if others and kind != "classes":
        raise QueryError(
            f"To {others[0]} takes one class a sample; these targets are of the kind {kind}. Use --treatment remove, "
            f"or correct them in your data: the suspects name them."
        )
    return list(wanted)


def _how(ranked: pd.DataFrame, remove: float | None, marks: Marks | None) -> str:
    """What decided how many samples are treated."""
    if marks is not None:
        return "as marked"
    if remove is not None:
        return "as given by --remove"
    return ESTIMATED if ranked.attrs.get("kind", "classes") == "classes" else "estimated from the evidence in training"


def _choose_on(experiment: Experiment, query: str) -> Dataset[Any]:
    """Held-out data that rank nothing: the other half of those that do, or the test set."""
    named = experiment.named_query(query)
    if named.half:
        return experiment.halves(named.data_set)[1]
    if named.data_set != "test" and "test" in experiment.held_out:
        return experiment.data_set("test")
    raise QueryError(
        f"What cleaning does must be measured on data that rank no sample, and --query {query} leaves none. Use "
        f"--query {named.data_set}{HALF}: one half ranks, the other measures."
    )


def _by_hand(marks: Marks) -> Remedy:
    return Remedy(name=BY_HAND, labels=marks.fixed)


def _with_true_labels(experiment: Experiment, run: Recording, labels: Labels) -> dict[str, float]:
    """Test accuracy of the run repeated with the true labels, if there is a test set."""
    wrong = labels.flipped.nonzero().flatten().tolist()
    change = Change(labels={i: int(labels.true[i]) for i in wrong})
    ((_, state),) = retrain(run, [change], keep=True)
    accuracy = experiment.test_accuracy(model_with(run, state))
    return {} if accuracy is None else {TRUE_LABELS: accuracy}


def test_accuracies(
    experiment: Experiment, run: Recording, result: Cleaning | Reweighting, without: str
) -> dict[str, float]:
    """Test accuracy by name of what was trained, as given first, then the recommended; without one of the names."""
    given, *others = (one for one in result.outcomes if one.remedy.name != without)
    others.sort(key=lambda one: one is not result.recommended)
    accuracies = {one.remedy.name: experiment.test_accuracy(model_with(run, one.state)) for one in [given, *others]}
    return {name: accuracy for name, accuracy in accuracies.items() if accuracy is not None}


def save_model(result: Cleaning | Reweighting, to: Path) -> None:
    """Write parameters and buffers of the recommended model."""
    state = {name: value.contiguous() for name, value in result.recommended.state.items()}
    replace_file(to, lambda file: save_file(state, file, {}))


def _figures(ranked: pd.DataFrame, result: Cleaning, remove: float | None, marks: Marks | None) -> dict[str, Any]:
    figures: dict[str, Any] = {"samples": len(ranked)}
    if marks is not None:
        figures |= {"share": len(marks.fixed) / len(ranked), "marked_fine": len(marks.fine)}
    else:
        figures |= {"share": estimated_share(ranked) if remove is None else remove}
    if WRONG_SHARE in ranked.attrs:
        figures["wrong_share"] = ranked.attrs[WRONG_SHARE]
    figures["changed"] = result.recommended.remedy.changed if marks is None else len(marks.fixed)
    figures["recommended"] = result.recommended.remedy.name
    figures["sentence"] = result.sentence
    figures["treatments"] = result.to_frame().reset_index().to_dict("records")
    return figures


def _tested(result: Cleaning, tested: dict[str, float]) -> dict[str, float]:
    names = {"noisy": AS_GIVEN, "cleaned": result.recommended.remedy.name, "clean": TRUE_LABELS}
    return {f"test_accuracy_{key}": tested[name] for key, name in names.items() if name in tested}


def _training(ranked: pd.DataFrame, remedy: Remedy) -> pd.DataFrame:
    """What every scored sample is trained with: its label, where it has one, and its weight."""
    table = ranked[[name for name in ("sample", "given_label") if name in ranked]].sort_values("sample")
    if "given_label" in table:
        given = zip(table["sample"], table["given_label"], strict=True)
        table["label"] = [remedy.labels.get(sample, label) for sample, label in given]
    table["weight"] = [remedy.weights.get(i, 1.0) for i in table["sample"]]
    return table.reset_index(drop=True)


def ranked_suspects(experiment: Experiment, run: Recording, scores: Scores, query: str, *, folds: int) -> pd.DataFrame:
    """Return all suspects, ranked with the held-out data, and with networks for out-of-fold probabilities if any."""
    signals: Signals | Literal["auto"] = training_signals(run, folds=folds) if folds else "auto"
    return suspects(run, scores, held_out=experiment.query(query), signals=signals)


def with_names(ranked: pd.DataFrame, classes: Sequence[str] | None) -> pd.DataFrame:
    """Return suspects with the names of the labels next to their numbers, for a file that a person opens."""
    named = ranked.copy()
    if classes is not None and list(classes) != [str(i) for i in range(len(classes))]:
        for column in ("given_label", "suggested_label", "true_label"):
            if column in named:
                named[column.replace("_label", "_name")] = [classes[label] for label in named[column]]
    return named


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
