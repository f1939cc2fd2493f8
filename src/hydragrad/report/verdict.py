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


@dataclass(frozen=True, kw_only=True)
class Check:
    """Predicted (with which curvature, if told) against actual changes, both (n,), and what they say."""

    name: str
    unit: str
    curvature: str | None
    predicted: NDArray[np.float64]
    actual: NDArray[np.float64]
    agreement: Agreement
    sentence: str


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """How far to trust the numbers.

    Attributes:
        headline: In one sentence.
        column: Heading of contributions.
        meaning: What sign and unit mean.
        warnings: What must not be done or was not possible.
        evidence: Names and values.
    """

    headline: str
    column: str
    meaning: tuple[str, ...]
    warnings: tuple[str, ...]
    evidence: tuple[tuple[str, str], ...]


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
        sentence=_sentence(predicted, actual, agreed, unit),
    )


def verdict(evidence: Evidence, checks: Sequence[Check]) -> Verdict:
    """Judge scores by their evidence and by checks."""
    return Verdict(
        headline=_headline(evidence, checks),
        column=MEANING if evidence.scale_is_measured else f"{MEANING.removesuffix(')')}; scale not measured)",
        meaning=_meaning(evidence),
        warnings=_warnings(evidence),
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
        return f"{kind} How well they predict real changes is in the checks above."
    return f"{kind} Whether they predict real changes has not been checked on this run (hg.verify)."


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
    exact = "every step repeated to the last bit"
    drift = f"repeated on another machine; weights drifted by at most {number(evidence.replay_drift)} (relative)"
    return (
        ("Curvature of the loss", CURVATURES[evidence.curvature] + damping),
        ("Route of the derivatives", evidence.route),
        ("Steps differentiated", f"{evidence.steps:,}"),
        ("Replay of the training", exact if evidence.replay_exact else drift),
        ("Scale measured", _scale(evidence)),
        *((str(check.get("name", "Check")), _entries(check)) for check in evidence.checks if not _drawable(check)),
        *(("Note", note) for note in evidence.notes),
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
