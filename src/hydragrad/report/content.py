"""What the page says: run and scores turned into plain data, nothing drawn and nothing marked up yet."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from hydragrad.replay import Recording
from hydragrad.report.charts import curves, found, scatters
from hydragrad.report.explaining import Explanations
from hydragrad.report.facts import run_facts
from hydragrad.report.gallery import Gallery
from hydragrad.report.labels import LabelNames, label_names, plain
from hydragrad.report.listing import KNOWN, extremes, flipped
from hydragrad.report.over_time import over_time
from hydragrad.report.packing import Kind, Packed, packed
from hydragrad.report.predictions import Predictions, predictions
from hydragrad.report.verdict import Check, Verdict, read_checks, verdict
from hydragrad.report.wording import counted, number, percent
from hydragrad.scores import Scores
from hydragrad.training import epoch_logs

LOOKED_AT_FROM_BOTH_ENDS = 60_000
"""Up to so many training samples all are looked at from their end; of more, only those that are shown."""

HOW_OVER_TIME = (
    "These scores do not hold what every epoch added. Ask for it: hg.attribute(run, query, stretches=epochs), or "
    "hydragrad attribute RUN once more."
)


@dataclass(frozen=True, kw_only=True)
class Content:
    """Everything on the page.

    Attributes:
        title, lead, query, accuracies, verdict, facts, checks: What is read without a script.
        truth: How many of the suspects really carry a wrong label, where that is known.
        data: What the page's script shows: plain values, columns of numbers packed.
    """

    title: str
    lead: tuple[str, ...]
    query: str
    accuracies: Mapping[str, float]
    verdict: Verdict
    facts: tuple[tuple[str, str], ...]
    checks: tuple[Check, ...]
    truth: str | None
    data: dict[str, Any]


def read_content(
    run: Recording,
    scores: Scores,
    listed: pd.DataFrame,
    *,
    query: str | int,
    gallery: Gallery,
    classes: Sequence[str] | None,
    accuracies: Mapping[str, float],
    checks: Sequence[Mapping[str, Any]],
    explanations: Explanations | None,
    how_to_explain: str,
    title: str | None,
    thumbnails: int,
) -> Content:
    """Collect the page's content.

    Raises:
        QueryError: An unknown query.
        PresentationError: Labels without names, or checks without the entries that are needed.
    """
    position = query if isinstance(query, int) else scores.query_names.index(query)
    name = scores.query_names[position]
    read = read_checks(scores.evidence, checks)
    judged = verdict(scores.evidence, read)
    told = _told(run, listed)
    named = _label_names(listed, told, explanations, classes)
    explained = None if explanations is None else _explained(explanations, named)
    shown = list(dict.fromkeys([*listed["sample"].head(thumbnails).tolist(), *extremes(listed)]))
    if explanations is not None and explained is not None:
        shown = list(dict.fromkeys([*shown, *explanations.named()]))
        explained |= _from_the_other_end(explanations, shown)
    galleries = {"train": gallery.shown(run.train_set, shown)}
    if explanations is not None and explanations.dataset is not None:
        galleries["test"] = gallery.shown(explanations.dataset, explanations.samples.tolist())
    return Content(
        title=title or _title(listed),
        lead=(*_lead(run, name, float(scores.query_values[position])), *_gain(accuracies)),
        query=name,
        accuracies=accuracies,
        verdict=judged,
        facts=run_facts(run),
        checks=read,
        truth=_truth(listed),
        data={
            "version": 1,
            "run": {"name": run.path.name, "digest": run.digest, "samples": run.manifest.data["length"]},
            "query": name,
            "column": judged.column,
            "labels": {"names": named.names, "values": named.values},
            "samples": _columns(listed, named, told),
            "shown": galleries,
            **gallery.packed(),
            "explain": explained or {"how": how_to_explain},
            "time": over_time(run, scores, position, listed, shown),
            "how_over_time": HOW_OVER_TIME,
            "curves": curves(epoch_logs(run.path)),
            "accuracies": [{"name": key, "value": value} for key, value in accuracies.items()],
            "checks": scatters(read),
            "found": found(listed),
        },
    )


def _told(run: Recording, listed: pd.DataFrame) -> Predictions:
    other = None
    if "suggested_label" in listed and pd.api.types.is_integer_dtype(listed["suggested_label"]):
        other = listed["suggested_label"].tolist()
    return predictions(run, run.train_set, listed["sample"].tolist(), other)


def _label_names(
    listed: pd.DataFrame, told: Predictions, explanations: Explanations | None, classes: Sequence[str] | None
) -> LabelNames:
    columns: list[Any] = [listed[name] for name in ("given_label", *KNOWN[:2]) if name in listed]
    tests = None if explanations is None else explanations.predictions
    columns += [] if tests is None else [part for part in (tests.given, tests.predicted) if part is not None]
    known = any(plain(label) is not None for column in columns for label in column)
    return label_names(columns, classes, told.classes if known and classes is None else 0)


def _columns(listed: pd.DataFrame, named: LabelNames, told: Predictions) -> dict[str, Packed]:
    columns = {"id": packed(listed["sample"], "u4"), "contribution": packed(listed["contribution"], "f4")}
    for name in ("given_label", "suggested_label", "true_label"):
        if name in listed and any(plain(label) is not None for label in listed[name]):
            columns[name.removesuffix("_label")] = packed(named.codes(listed[name]), "u2")
    if "standard_error" in listed:
        columns["error"] = packed(listed["standard_error"], "f4")
    known = flipped(listed)
    if known is not None:
        columns["flipped"] = packed(known, "u1")
    if "confidence" in listed:
        columns["sure_unseen"] = packed(listed["confidence"], "f4")
    if told.of_given is not None and told.predicted is not None:
        columns["sure_given"] = packed(told.of_given, "f4")
    if told.of_other is not None:
        columns["sure_suggested"] = packed(told.of_other, "f4")
    return columns


def _explained(found: Explanations, named: LabelNames) -> dict[str, Any]:
    told = found.predictions
    tests: dict[str, Packed] = {"id": packed(found.samples, "u4")}
    if told is not None:
        tests["loss"] = packed(told.losses, "f4")
        if told.predicted is not None and told.given is not None:
            tests["given"] = packed(named.codes(told.given), "u2")
            tests["predicted"] = packed(named.codes(told.predicted), "u2")
            tests["sure"] = packed(_numbers(told.sure), "f4")
            tests["sure_given"] = packed(_numbers(told.of_given), "f4")
    return {
        "tests": tests,
        "misclassified": found.misclassified,
        "top": found.helpful.shape[1],
        "helpful": packed(found.helpful, "u4"),
        "helpful_values": packed(found.helpful_values, "f4"),
        "harmful": packed(found.harmful, "u4"),
        "harmful_values": packed(found.harmful_values, "f4"),
        **_errors(found, ("helpful_errors", "harmful_errors")),
        "measured": found.curvature != "none",
        "notes": found.notes,
    }


def _from_the_other_end(found: Explanations, shown: Sequence[int]) -> dict[str, Any]:
    rows: Any = slice(None)
    if len(found.trained) > LOOKED_AT_FROM_BOTH_ENDS:
        rows = np.flatnonzero(np.isin(found.trained, list(shown)))
    place: Kind = "u2" if len(found.samples) <= 0xFFFF else "u4"
    return {
        "trained": packed(found.trained[rows], "u4"),
        "back": found.helped.shape[1],
        "helped": packed(found.helped[rows], place),
        "helped_values": packed(found.helped_values[rows], "f4"),
        "harmed": packed(found.harmed[rows], place),
        "harmed_values": packed(found.harmed_values[rows], "f4"),
        **_errors(found, ("helped_errors", "harmed_errors"), rows),
    }


def _errors(found: Explanations, names: Sequence[str], rows: Any = slice(None)) -> dict[str, Packed]:
    return {} if found.errors is None else {name: packed(found.errors[name][rows], "f4") for name in names}


def _numbers(values: NDArray[Any] | None) -> ArrayLike:
    assert values is not None
    return values


def _title(listed: pd.DataFrame) -> str:
    if "suggested_label" not in listed:
        return "Which training samples helped this model, and which harmed it"
    return "Training samples that probably carry a wrong label"


def _lead(run: Recording, query: str, value: float) -> list[str]:
    model = run.manifest.model["class"].rsplit(".", 1)[-1]
    epochs, trained = run.manifest.about.get("epochs"), counted(len(run.steps), "step")
    if isinstance(epochs, int) and run.completed:
        trained = f"{counted(epochs, 'epoch')} ({trained})"
    return [
        f"A model ({model}) was trained on {counted(run.manifest.data['length'], 'sample')} for {trained}, "
        f"and the training was recorded.",
        f"From the recording, hydragrad estimated for each sample whether having trained on it raised or "
        f"lowered “{query}”, which is {number(value)} for the finished model.",
    ]


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
    return (
        f"The truth is known here: {count:,} of the {len(known):,} labels are wrong, and of the {count:,} most suspect "
        f"samples {among:,} ({percent(among / count)}) really carry a wrong one."
    )
