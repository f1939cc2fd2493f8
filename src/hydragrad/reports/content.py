"""The content of the page: run and scores as plain data, before anything is drawn or marked up."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from torch.utils.data import Dataset

from hydragrad.replay import Recording
from hydragrad.reports.charts import curves, detection, scatters
from hydragrad.reports.comparisons import Comparison, read_comparisons
from hydragrad.reports.explaining import Explanations
from hydragrad.reports.gallery import Gallery
from hydragrad.reports.grouped import members_shown, packed_groups
from hydragrad.reports.labels import LabelNames, label_names, plain
from hydragrad.reports.listing import NAMES_OF_LABELS, extremes, flipped
from hydragrad.reports.over_time import over_time
from hydragrad.reports.packing import Kind, Packed, packed
from hydragrad.reports.pairs import labels_in, packed_pairs
from hydragrad.reports.predictions import Predictions, predictions
from hydragrad.reports.subject import Subject, subject_of
from hydragrad.reports.targets import target_columns, target_facts
from hydragrad.reports.tokens import Pieces, tokens
from hydragrad.reports.verdict import Verdict, verdict
from hydragrad.reports.wording import percent
from hydragrad.scores import Amounts, Check, Scores, amounts_of
from hydragrad.trained_elsewhere import Checkpoints

ALL_TRAINING_SAMPLES = 60_000
"""Up to so many training samples the page holds the test samples that each moved; beyond, only of those shown."""


@dataclass(frozen=True, kw_only=True)
class Content:
    """Everything on the page.

    Attributes:
        title, lead, query, accuracies, verdict, subject, comparisons: What is read without a script.
        truth: How many of the suspects really carry a wrong label, where that is known.
        wrong: What carries the fault of a wrong sample: its label, or all of it.
        data: What the page's script shows: plain values, columns of numbers packed.
    """

    title: str
    lead: tuple[str, ...]
    query: str
    accuracies: Mapping[str, float]
    verdict: Verdict
    subject: Subject
    comparisons: tuple[Comparison, ...]
    truth: str | None
    wrong: str
    data: dict[str, Any]


def read_content(
    run: Recording | Checkpoints,
    scores: Scores,
    listed: pd.DataFrame,
    *,
    query: str | int,
    gallery: Gallery,
    pieces: Pieces | None,
    lead: Callable[[Any], str] | None,
    classes: Sequence[str] | None,
    accuracies: Mapping[str, float],
    cleaned: str | None,
    checks: Sequence[Check | Mapping[str, Any]],
    explanations: Explanations | None,
    groups: pd.DataFrame | None,
    duplicates: pd.DataFrame | None,
    leaks: tuple[pd.DataFrame, Dataset[Any]] | None,
    how_to_explain: str,
    title: str | None,
    thumbnails: int,
    removals: Scores,
) -> Content:
    """Collect the page's content.

    Args:
        removals: Scores of the same query, by whose measured scale the page predicts what removing samples does.

    Raises:
        QueryError: An unknown query.
        PresentationError: Labels without names, or checks without the entries that are needed.
    """
    position = query if isinstance(query, int) else scores.query_names.index(query)
    name = scores.query_names[position]
    subject = subject_of(run)
    comparisons = read_comparisons(scores.evidence, checks)
    amounts = amounts_of(scores, position)
    judged = verdict(scores.evidence, comparisons, amounts)
    predicted = _predictions(run, listed)
    leaked = None if leaks is None else labels_in(run, leaks[1], leaks[0]["other"].tolist())
    labels = _label_names(listed, predicted, explanations, leaked or [], classes)
    explained = None if explanations is None else _explained(explanations, labels)
    listed = _shown(listed, amounts)
    shown = list(dict.fromkeys([*listed["sample"].head(thumbnails).tolist(), *extremes(listed)]))
    if explanations is not None and explained is not None:
        shown = list(dict.fromkeys([*shown, *explanations.named()]))
        explained |= _of_training_samples(explanations, shown)
    if groups is not None:
        shown = list(dict.fromkeys([*shown, *members_shown(groups, thumbnails)]))
    for pairs in (duplicates, None if leaks is None else leaks[0]):
        shown = shown if pairs is None else list(dict.fromkeys([*shown, *pairs["sample"].tolist()]))
    if duplicates is not None:
        shown = list(dict.fromkeys([*shown, *duplicates["other"].tolist()]))
    galleries = {"train": gallery.shown(run.train_set, shown)}
    targets = target_facts(run, listed, classes)
    if pieces is not None and (scores.part_contributions is not None or (targets or {}).get("kind") == "positions"):
        galleries["train"]["tokens"] = tokens(run.train_set, shown, pieces, scores, position, amounts.factor, lead)
    if explanations is not None and explanations.dataset is not None:
        galleries["test"] = gallery.shown(explanations.dataset, explanations.samples.tolist())
    if leaks is not None:
        galleries["held_out"] = gallery.shown(leaks[1], leaks[0]["other"].tolist())
    gain = _gain(accuracies) if cleaned is None else [cleaned]
    return Content(
        title=title or _title(listed),
        lead=(*subject.lead(name, float(scores.query_values[position])), *gain),
        query=name,
        accuracies=accuracies,
        verdict=judged,
        subject=subject,
        comparisons=comparisons,
        truth=_truth(listed),
        wrong="samples" if listed["given_label"].isna().all() else "labels",
        data={
            "version": 1,
            "run": {"name": subject.name, "digest": run.digest, "samples": subject.samples},
            "query": name,
            "column": amounts.meaning,
            "suffix": amounts.suffix,
            "removal": _removal(listed, removals, name),
            "labels": {"names": labels.names, "values": labels.values},
            "samples": _columns(listed, labels, predicted),
            "targets": targets,
            "groups": None if groups is None else packed_groups(_shown(groups, amounts), labels, classes),
            "duplicates": None if duplicates is None else packed_pairs(duplicates, labels, None),
            "leaks": None if leaks is None else packed_pairs(leaks[0], labels, leaked),
            "shown": galleries,
            **gallery.packed(),
            "explain": explained or {"how": how_to_explain},
            "time": over_time(run, scores, position, listed, shown, amounts.factor)
            if isinstance(run, Recording)
            else None,
            "how_over_time": subject.how_over_time,
            "curves": curves(subject.epochs),
            "accuracies": [{"name": key, "value": value} for key, value in accuracies.items()],
            "checks": scatters(comparisons),
            "detection": detection(listed),
        },
    )


def _shown(listed: pd.DataFrame, amounts: Amounts) -> pd.DataFrame:
    """The listing with contributions as a person is shown them."""
    columns = [name for name in ("contribution", "standard_error") if name in listed]
    return listed.assign(**{name: amounts.factor * listed[name] for name in columns})


def _removal(listed: pd.DataFrame, removals: Scores, query: str) -> dict[str, Any] | None:
    """What the page predicts removals by: a contribution a row, and its measured scale; None where there is none."""
    if query not in removals.query_names:
        return None
    calibration = amounts_of(removals, query).calibration
    if calibration is None:
        return None
    values = dict(zip(removals.sample_ids.tolist(), removals.row(query).tolist(), strict=True))
    contributions = [values.get(sample, math.nan) for sample in listed["sample"].tolist()]
    kind = removals.evidence.method.removal
    return {"contribution": packed(contributions, "f4"), "kind": kind, **asdict(calibration)}


def _predictions(run: Recording | Checkpoints, listed: pd.DataFrame) -> Predictions:
    other = None
    if "suggested_label" in listed and pd.api.types.is_integer_dtype(listed["suggested_label"]):
        other = listed["suggested_label"].tolist()
    return predictions(run, run.train_set, listed["sample"].tolist(), other)


def _label_names(
    listed: pd.DataFrame,
    predicted: Predictions,
    explanations: Explanations | None,
    leaked: Sequence[int | None],
    classes: Sequence[str] | None,
) -> LabelNames:
    columns: list[Any] = [listed[name] for name in ("given_label", *NAMES_OF_LABELS) if name in listed]
    columns.append(leaked)
    tests = None if explanations is None else explanations.predictions
    columns += [] if tests is None else [part for part in (tests.given, tests.predicted) if part is not None]
    known = any(plain(label) is not None for column in columns for label in column)
    return label_names(columns, classes, predicted.classes if known and classes is None else 0)


def _columns(listed: pd.DataFrame, labels: LabelNames, predicted: Predictions) -> dict[str, Packed]:
    columns = {"id": packed(listed["sample"], "u4"), "contribution": packed(listed["contribution"], "f4")}
    for kind in ("given", "suggested", "true"):
        name = f"{kind}_label"
        if name in listed and any(plain(label) is not None for label in listed[name]):
            columns[kind] = packed(labels.codes(listed[name]), "u2")
    columns |= target_columns(listed)
    if "standard_error" in listed:
        columns["error"] = packed(listed["standard_error"], "f4")
    known = flipped(listed)
    if known is not None:
        columns["flipped"] = packed(known, "u1")
    if "confidence" in listed:
        columns["sure_unseen"] = packed(listed["confidence"], "f4")
    if predicted.of_given is not None and predicted.predicted is not None:
        columns["sure_given"] = packed(predicted.of_given, "f4")
    if predicted.of_other is not None:
        columns["sure_suggested"] = packed(predicted.of_other, "f4")
    return columns


def _explained(explanations: Explanations, labels: LabelNames) -> dict[str, Any]:
    predicted = explanations.predictions
    tests: dict[str, Packed] = {"id": packed(explanations.samples, "u4")}
    if predicted is not None:
        tests["loss"] = packed(predicted.losses, "f4")
        if predicted.predicted is not None and predicted.given is not None:
            tests["given"] = packed(labels.codes(predicted.given), "u2")
            tests["predicted"] = packed(labels.codes(predicted.predicted), "u2")
            tests["sure"] = packed(_numbers(predicted.sure), "f4")
            tests["sure_given"] = packed(_numbers(predicted.of_given), "f4")
    return {
        "tests": tests,
        "misclassified": explanations.misclassified,
        "top": explanations.helpful.shape[1],
        "helpful": packed(explanations.helpful, "u4"),
        "helpful_values": packed(explanations.helpful_values, "f4"),
        "harmful": packed(explanations.harmful, "u4"),
        "harmful_values": packed(explanations.harmful_values, "f4"),
        **_errors(explanations, ("helpful_errors", "harmful_errors")),
        "suffix": explanations.suffix,
        "notes": [note.text for note in explanations.notes],
    }


def _of_training_samples(explanations: Explanations, shown: Sequence[int]) -> dict[str, Any]:
    rows: Any = slice(None)
    if len(explanations.trained) > ALL_TRAINING_SAMPLES:
        rows = np.flatnonzero(np.isin(explanations.trained, list(shown)))
    place: Kind = "u2" if len(explanations.samples) <= 0xFFFF else "u4"
    return {
        "trained": packed(explanations.trained[rows], "u4"),
        "back": explanations.helped.shape[1],
        "helped": packed(explanations.helped[rows], place),
        "helped_values": packed(explanations.helped_values[rows], "f4"),
        "harmed": packed(explanations.harmed[rows], place),
        "harmed_values": packed(explanations.harmed_values[rows], "f4"),
        **_errors(explanations, ("helped_errors", "harmed_errors"), rows),
    }


def _errors(explanations: Explanations, names: Sequence[str], rows: Any = slice(None)) -> dict[str, Packed]:
    return (
        {} if explanations.errors is None else {name: packed(explanations.errors[name][rows], "f4") for name in names}
    )


def _numbers(values: NDArray[Any] | None) -> ArrayLike:
    assert values is not None
    return values


def _title(listed: pd.DataFrame) -> str:
    if "given_target" in listed:
        return "Training samples whose target is probably wrong"
    if "suggested_label" not in listed:
        return "Which training samples helped this model, and which harmed it"
    return "Training samples that probably carry a wrong label"


def _gain(accuracies: Mapping[str, float]) -> list[str]:
    """The first accuracy against the second: before and after."""
    if len(accuracies) < 2:
        return []
    (_, before), (_, after) = list(accuracies.items())[:2]
    verb = "rose" if after > before else "fell" if after < before else "went"
    return [f"After cleaning and training again, accuracy {verb} from {percent(before)} to {percent(after)}."]


def _truth(listed: pd.DataFrame) -> str | None:
    known = flipped(listed)
    if known is None or not known.any():
        return None
    count = int(known.sum())
    among = int(known[:count].sum())
    if listed["given_label"].isna().all():
        return (
            f"The truth is known here: {count:,} of the {len(known):,} samples are wrong on purpose, and of the "
            f"{count:,} most harmful ones {among:,} ({percent(among / count)}) are among them; at random it would be "
            f"{percent(count / len(known))}."
        )
    return (
        f"The truth is known here: {count:,} of the {len(known):,} labels are wrong, and of the {count:,} most suspect "
        f"samples {among:,} ({percent(among / count)}) really carry a wrong one."
    )
