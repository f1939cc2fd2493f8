"""What to make of scores: their evidence and checks in plain sentences."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hydragrad.errors import PresentationError
from hydragrad.figures import Agreement, agreement
from hydragrad.report.wording import counted, number, signed
from hydragrad.scores import MEANING, Evidence

CURVATURES = {
    "none": "dropped (HYDRA)",
    "hessian": "exact Hessian",
    "ggn": "Gauss–Newton approximation",
}

SMOOTHNESS, APPROXIMATION = "Smoothness: ", "Without curvature, contributions of "
"""How the notes of hg.smoothness and hg.approximation_error begin."""


@dataclass(frozen=True, kw_only=True)
class Check:
    """Predicted (with which curvature, if told) against actual changes, both (n,), and what they say.

    Attributes:
        groups: What was left out, (n,), if told.
    """

    name: str
    unit: str
    curvature: str | None
    predicted: NDArray[np.float64]
    actual: NDArray[np.float64]
    agreement: Agreement
    sentence: str
    groups: tuple[str, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """How far to trust the numbers.

    Attributes:
        headline: In one sentence.
        column: Heading of contributions.
        meaning: What sign and unit mean.
        warnings: What must not be done or was not possible.
        measurements: What was measured about the numbers, and what was not.
        evidence: Names and values.
    """

    headline: str
    column: str
    meaning: tuple[str, ...]
    warnings: tuple[str, ...]
    measurements: tuple["Measurement", ...]
    evidence: tuple[tuple[str, str], ...]


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One piece of evidence.

    Attributes:
        question: What it answers.
        answer: In one sentence, or None where it was not measured.
        how: The command that measures it.
    """

    question: str
    answer: str | None
    how: str


def read_checks(evidence: Evidence, checks: Sequence[Mapping[str, Any]]) -> tuple[Check, ...]:
    """Return the checks of the evidence and the given ones, the same one only once.

    Raises:
        PresentationError: An entry is missing, or predicted and actual do not fit together.
    """
    read: list[Check] = []
    for check in [*(_read(each) for each in evidence.checks if _drawable(each)), *map(_read, checks)]:
        if not any(_same(check, other) for other in read):
            read.append(check)
    return tuple(read)


def _drawable(check: Mapping[str, Any]) -> bool:
    return "predicted" in check and "actual" in check


def _same(check: Check, other: Check) -> bool:
    return (
        check.name == other.name
        and np.array_equal(check.predicted, other.predicted)
        and np.array_equal(check.actual, other.actual)
    )


def _read(check: Mapping[str, Any]) -> Check:
    if not _drawable(check):
        raise PresentationError(
            f"A check needs the entries predicted and actual; one came with "
            f"{', '.join(map(str, check)) or 'no entries'}."
        )
    predicted, actual = (np.atleast_1d(np.asarray(check[key], float)) for key in ("predicted", "actual"))
    agreed = agreement(predicted, actual)
    unit = str(check.get("unit", "unit of the query"))
    return Check(
        name=str(check.get("name", "Check")),
        unit=unit,
        curvature=check.get("curvature"),
        predicted=predicted,
        actual=actual,
        agreement=agreed,
        sentence=str(check["sentence"])
        if check.get("random") and "sentence" in check
        else _sentence(predicted, actual, agreed, unit),
        groups=_groups(check, len(predicted)),
    )


def _groups(check: Mapping[str, Any], count: int) -> tuple[str, ...] | None:
    groups = check.get("groups")
    if not isinstance(groups, Sequence) or isinstance(groups, str) or len(groups) != count:
        return None
    return tuple(map(str, groups))


def verdict(evidence: Evidence, checks: Sequence[Check]) -> Verdict:
    """Judge scores by their evidence and by checks."""
    return Verdict(
        headline=_headline(evidence, checks),
        column=MEANING if evidence.scale_is_measured else f"{MEANING.removesuffix(')')}; scale not measured)",
        meaning=_meaning(evidence),
        warnings=_warnings(evidence),
        measurements=_measurements(evidence, checks),
        evidence=_facts(evidence),
    )


def _headline(evidence: Evidence, checks: Sequence[Check]) -> str:
    own = [check for check in checks if check.curvature in (None, evidence.curvature)]
    if not evidence.scale_is_measured:
        known = "the checks show how far their scale is off" if own else "their scale has not been measured"
        other = [CURVATURES[check.curvature] for check in checks if check not in own and check.curvature]
        further = f" The predictions of change below were made with another curvature ({other[0]})." if other else ""
        return f"Use these numbers as a ranking only: {known}.{further}"
    if evidence.curvature == "none":
        return (
            "Use these numbers as a ranking; for their scale, go by what the checks measured, not by the "
            "numbers themselves."
        )
    kind = (
        "These are the exact first derivatives of this training run."
        if evidence.curvature == "hessian" and not evidence.damping
        else "These approximate the first derivatives of this training run."
    )
    if own:
        return f"{kind} Checked by really training again: {_best(own).sentence}"
    return f"{kind} Whether they predict real changes has not been checked on this run (hg.verify)."


def _best(checks: Sequence[Check]) -> Check:
    """The check that says most: the one with the most comparisons."""
    return max(checks, key=lambda check: check.agreement.count)


def _measurements(evidence: Evidence, checks: Sequence[Check]) -> tuple[Measurement, ...]:
    notes = {start: [n for n in evidence.notes if n.startswith(start)] for start in (SMOOTHNESS, APPROXIMATION)}
    exact = "Yes: every step was repeated to the last bit."
    drift = (
        f"Nearly: on another machine than the recording's, weights drifted by at most {number(evidence.replay_drift)} "
        f"of their size."
    )
    return (
        Measurement(
            question="Do predictions come true?",
            answer=_best(checks).sentence if checks else None,
            how="hydragrad verify RUN, or hg.verify",
        ),
        Measurement(
            question="What did dropping the curvature cost?",
            answer=notes[APPROXIMATION][0]
            if notes[APPROXIMATION]
            else None
            if evidence.curvature == "none"
            else "Nothing was dropped: the curvature is in these numbers.",
            how="hydragrad bound RUN, or hg.approximation_error",
        ),
        Measurement(
            question="Is the run smooth enough for derivatives?",
            answer=notes[SMOOTHNESS][0].removeprefix(SMOOTHNESS) if notes[SMOOTHNESS] else None,
            how="hg.smoothness(run).noted(scores.evidence)",
        ),
        Measurement(
            question="Was the training repeated exactly?", answer=exact if evidence.replay_exact else drift, how=""
        ),
    )


def _meaning(evidence: Evidence) -> tuple[str, ...]:
    sign = (
        "Negative harms, by the same measure. This takes the query for a loss, where low is good; for one "
        "that should be high, such as a margin, helps and harms change places."
    )
    if evidence.scale_is_measured and evidence.curvature != "none":
        return (
            "Positive helps: had the sample not been trained on, the query would be higher by about this much.",
            sign,
            "The unit is that of the query. For a group of samples, add their contributions up. Both hold to "
            "first order: the larger the change, the rougher the estimate.",
        )
    return (
        "Positive helps: had the sample not been trained on, the query is expected to be higher.",
        sign,
        "The unit is that of the query, and contributions of a group add up; but without the curvature of "
        "the loss, the scale of these numbers can be wrong by orders of magnitude.",
    )


def _warnings(evidence: Evidence) -> tuple[str, ...]:
    warnings = []
    if not evidence.scale_is_measured:
        warnings.append(
            "Do not read the scale as predicted change: these scores leave out the curvature of the loss, "
            "and they carry no measurement of their scale. What can be used is the order."
        )
    if not evidence.completed:
        warnings.append("The run was interrupted; the scores are about its last complete step.")
    return tuple(warnings)


def _facts(evidence: Evidence) -> tuple[tuple[str, str], ...]:
    damping = f", damping {number(evidence.damping)}" if evidence.damping else ""
    return (
        ("Curvature of the loss", CURVATURES[evidence.curvature] + damping),
        ("Route of the derivatives", evidence.route),
        ("Steps differentiated", f"{evidence.steps:,}"),
        ("Scale measured", _scale(evidence)),
        *((str(check.get("name", "Check")), _entries(check)) for check in evidence.checks if not _drawable(check)),
        *(("Note", note) for note in evidence.notes if not note.startswith((SMOOTHNESS, APPROXIMATION))),
    )


def _entries(check: Mapping[str, Any]) -> str:
    return "; ".join(
        f"{key} {number(value) if isinstance(value, float) else value}" for key, value in check.items() if key != "name"
    )


def _scale(evidence: Evidence) -> str:
    if evidence.checks:
        return f"yes, by {counted(len(evidence.checks), 'check')}"
    return "follows from the derivative; no check yet" if evidence.scale_is_measured else "no"


def _sentence(predicted: NDArray[np.float64], actual: NDArray[np.float64], agreed: Agreement, unit: str) -> str:
    if agreed.count == 1:
        return f"Predicted {signed(float(predicted[0]))}, actual {signed(float(actual[0]))} ({unit})."
    if math.isnan(agreed.spearman):
        return f"With {agreed.count} pairs that do not differ enough, nothing can be said about agreement."
    chance = 2 / math.sqrt(agreed.count - 1)
    order = (
        "agree in order no better than chance could"
        if abs(agreed.spearman) < chance
        else "come in opposite order"
        if agreed.spearman < 0
        else "come in nearly the same order"
        if agreed.spearman > 0.8
        else "come in partly the same order"
    )
    return (
        f"Over {agreed.count:,} comparisons, predicted and actual changes {order} "
        f"(Spearman {number(round(agreed.spearman, 2))}); for each unit that the prediction rises, "
        f"the actual change rises by {number(agreed.slope)} (ideal: 1)."
    )
